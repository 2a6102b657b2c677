"""Figures of the theory, from tables to matplotlib figures: no files, no configuration in here.

Every series has its own marker or line style besides its colour.
"""

from __future__ import annotations

from itertools import cycle
from string import ascii_lowercase

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.tables import LARGEST_DISCRETISATION
from plots.naming import describe, plain
from plots.results import interval_name
from plots.style import (
    DOUBLE_COLUMN,
    GREY,
    SHADE,
    WITHOUT_VALUE,
    log_axes,
    mark_without_value,
    new_figure,
    palette,
    panel_title,
)
from plots.style import OKABE_ITO as COLOURS

INEFFICIENCY = r"Inefficiency $T/T_{\mathrm{SL}}$"
TIME = "Training time $T$"
TIME_OF_LAMBDA_1 = r"Training time $\lambda_1 T$"
TEMPERATURE = r"Temperature $\beta^{-1}$"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LIMIT = "Marchenko-Pastur"
SIMULATION = "simulation"
FINITE_LINES = ("--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (9, 2)), (0, (1, 4)))


def linear_regression(table: pd.DataFrame) -> Figure:
    """Inefficiency and speed-limit time of linear regression against T, three routes.

    Columns of panels: ratios n/d. Solid: Marchenko-Pastur limit; broken: the sums of one data set
    of finite n and d; points with intervals: a simulated Langevin ensemble on such a data set.

    Args:
        table: columns ratio, temperature, route ("Marchenko-Pastur", "simulation", or any other
            name for a finite sum), time, inefficiency, speed_limit_time, the ends of their
            intervals, inefficiency_low and so on (NaN for the closed forms), and confidence.

    Returns:
        The figure.
    """
    ratios = sorted(table["ratio"].unique())
    figure, axes = new_figure(2, len(ratios), DOUBLE_COLUMN, 4.2, sharex=True, sharey="row")
    rows = (
        ("inefficiency", INEFFICIENCY),
        ("speed_limit_time", r"Speed-limit time $T_{\mathrm{SL}}$"),
    )
    for (quantity, label), row in zip(rows, axes, strict=True):
        row[0].set_ylabel(label)
        for axis, ratio in zip(row, ratios, strict=True):
            _regression_panel(axis, table[table["ratio"] == ratio], quantity)
    for letter, axis, ratio in zip(ascii_lowercase, axes[0], ratios, strict=False):
        panel_title(axis, letter, f"$n/d$ = {ratio:g}")
        axis.axhline(1.0, color=GREY, linewidth=0.8)
    for axis in axes[1]:
        times = np.sort(table["time"].unique())
        axis.plot(times, times, color=GREY, linewidth=0.8)
        axis.set_xlabel(TIME)
    for axis in axes.ravel():
        log_axes(axis, "xy")
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=_temperature(value))
        for value, colour, marker in _styles(table["temperature"])
    ]
    handles += [
        Line2D([], [], color="0.3", label=name, linestyle=line)
        for name, line in _route_lines(table).items()
    ]
    handles.append(_simulation_handle(table))
    handles.append(Line2D([], [], color=GREY, linewidth=0.8, label=r"bound $T_{\mathrm{SL}} = T$"))
    _legend_below(figure, handles, columns=4)
    return figure


CHECKS = {
    "wasserstein_squared": r"$W_2^2$, fitted Gaussians",
    "wasserstein_squared_assignment": r"$W_2^2$, assignment",
    "free_energy_drop": r"Entropy production $\beta^{-1}R$",
    "speed_limit_time": r"$T_{\mathrm{SL}}$",
}


def linear_regression_checks(table: pd.DataFrame) -> Figure:
    """Simulated over exact value of four quantities against T, with intervals.

    Points divided by the closed form of the continuum; lines: the closed form of the simulated
    chain over the same, that is the bias of Euler-Maruyama. Points agree with lines within their
    sampling error.

    Args:
        table: columns ratio, temperature, time, step and, for each key of ``CHECKS``, the value,
            its interval (_low, _high) and its closed forms (_discretised, _closed_form);
            confidence.

    Returns:
        The figure: a row per quantity, a column per ratio n/d.
    """
    ratios = sorted(table["ratio"].unique())
    shape = {"sharex": True, "sharey": "row"}
    figure, axes = new_figure(len(CHECKS), len(ratios), DOUBLE_COLUMN, 6.6, **shape)
    for (name, label), row in zip(CHECKS.items(), axes, strict=True):
        row[0].set_ylabel(label + "\nsimulated / exact")
        for axis, ratio in zip(row, ratios, strict=True):
            _check_panel(axis, table[table["ratio"] == ratio], name)
    for letter, axis, ratio in zip(ascii_lowercase, axes[0], ratios, strict=False):
        panel_title(axis, letter, f"$n/d$ = {ratio:g}")
    for axis in axes[-1]:
        axis.set_xlabel(TIME)
    for axis in axes.ravel():
        log_axes(axis, "x")
    handles = [
        Line2D([], [], color=colour, marker=marker, fillstyle="none", label=_temperature(value))
        for value, colour, marker in _styles(table["temperature"])
    ]
    handles.append(_simulation_handle(table))
    handles.append(Line2D([], [], color="0.3", label="exact for the simulated steps"))
    handles.append(Line2D([], [], color=GREY, linewidth=0.8, label="exact for continuous time"))
    _legend_below(figure, handles, columns=3)
    return figure


def _check_panel(axis: Axes, table: pd.DataFrame, name: str) -> None:
    """Draw one quantity of one ratio n/d, simulated over exact, and the bias of the scheme."""
    axis.set_xscale("log")
    axis.axhline(1.0, color=GREY, linewidth=0.8)
    styles = _styles(table["temperature"])
    for place, (value, colour, marker) in enumerate(styles):
        rows = table[table["temperature"] == value]
        exact = rows[f"{name}_closed_form"]
        axis.plot(rows["time"], rows[f"{name}_discretised"] / exact, color=colour, linewidth=1.0)
        _points_with_intervals(
            axis,
            rows["time"] * 1.06 ** (place - (len(styles) - 1) / 2),
            *(rows[f"{name}{end}"] / exact for end in ("", "_low", "_high")),
            color=colour,
            marker=marker,
            markersize=3.5,
        )


def _points_with_intervals(
    axis: Axes, x: pd.Series, value: pd.Series, low: pd.Series, high: pd.Series, **style: object
) -> None:
    """Draw open markers with their intervals."""
    reach = [value - low, high - value]
    axis.errorbar(x, value, yerr=reach, fillstyle="none", linestyle="", capsize=2, **style)


def linear_regression_limits(
    starts: pd.DataFrame, noise: pd.DataFrame, equation_6: pd.DataFrame
) -> Figure:
    """Zero against displaced start, high noise with the loss beside it, and T -> infinity.

    Args:
        starts: columns start (name), temperature, time, inefficiency.
        noise: columns time, temperature, speed_limit_time, loss_ratio (mean excess loss at T over
            that at the start; above 1 the noise has unlearnt more than was learnt).
        equation_6: columns temperature, time, free_energy_drop, equation_6 (its limit).

    Returns:
        The figure: inefficiency against T; T_SL/T and the loss ratio against the temperature; the
        free-energy drop over its limit against T.
    """
    figure, axes = new_figure(2, 2, DOUBLE_COLUMN, 4.6)
    (first, second), (fourth, third) = axes
    names = list(dict.fromkeys(starts["start"]))
    for name, line in zip(names, ("-", "--", ":"), strict=False):
        for value, colour, _ in _styles(starts["temperature"]):
            rows = starts[(starts["start"] == name) & (starts["temperature"] == value)]
            label = rf"{name}, $\beta^{{-1}}$ = {value:g}"
            first.loglog(rows["time"], rows["inefficiency"], line, color=colour, label=label)
    first.set_ylim(top=max(100.0, 2 * starts["inefficiency"].max()))  # room for the legend
    first.set(xlabel=TIME, ylabel=INEFFICIENCY)
    for value, colour, marker in _styles(noise["time"]):
        rows = noise[noise["time"] == value]
        style = {"color": colour, "marker": marker, "markevery": 0.15, "label": f"T = {value:g}"}
        second.loglog(rows["temperature"], rows["speed_limit_time"] / value, **style)
        third.loglog(rows["temperature"], rows["loss_ratio"], **style)
    second.set(xlabel=TEMPERATURE, ylabel=r"$T_{\mathrm{SL}}/T$")
    third.set(xlabel=TEMPERATURE, ylabel="Excess loss, end / start")
    third.axhline(1.0, color=GREY, linewidth=0.8)
    place = {"xycoords": ("axes fraction", "data"), "xytext": (0, 2), "textcoords": "offset points"}
    third.annotate("nothing learnt", (0.03, 1.0), ha="left", va="bottom", **place)
    for value, colour, marker in _styles(equation_6["temperature"]):
        rows = equation_6[equation_6["temperature"] == value]
        label = rf"$\beta^{{-1}}$ = {value:g}"
        style = {"color": colour, "marker": marker, "markevery": 0.15, "label": label}
        fourth.semilogx(rows["time"], rows["free_energy_drop"] / rows["equation_6"], **style)
    fourth.axhline(1.0, color=GREY, linewidth=0.8)
    fourth.set(xlabel=TIME, ylabel=r"$\beta^{-1}R(T)$ / the paper's equation 6")
    titles = ("start at zero and displaced", "high temperature", "free energy", "learning undone")
    for letter, axis, title in zip("abcd", axes.ravel(), titles, strict=True):
        axis.legend(frameon=False)
        panel_title(axis, letter, title)
    for axis in (first, second, third):
        log_axes(axis, "xy")
    log_axes(fourth, "x")
    return figure


def langevin_temperature(table: pd.DataFrame) -> Figure:
    """T_SL over T, inefficiency and loss drop of networks against temperature.

    Args:
        table: columns realisation ("ensemble" for the means), temperature, time, loss_drop,
            start_loss, heat_error, speed_limit_time, inefficiency with their intervals (_low,
            _high) and the linearised network's values (_linearised); from dataset on those that say
            which network it is, n, model and width among them.

    Returns:
        The figure; temperature 0 stands at the left end. Points are open where the heat of a start
        is far off its loss drop.
    """
    figure, axes = new_figure(1, 3, DOUBLE_COLUMN, 2.9)
    whole = table[table["realisation"].astype(str) == "ensemble"]
    above = whole.loc[whole["temperature"] > 0, "temperature"]
    least = above.min() / 10 if len(above) else 1.0
    settings = list(whole.columns[whole.columns.get_loc("dataset") :])
    networks = whole.groupby(settings, sort=False, dropna=False)
    shown = ("model", "width", "n")
    others = [c for c in settings if c not in shown and whole[c].nunique(dropna=False) > 1]
    styles = zip(networks, COLOURS, MARKERS, strict=False)
    for place, ((_, rows), colour, marker) in enumerate(styles):
        first = rows.iloc[0]
        label = describe("model", first["model"])
        label += f", width {first['width']:g}" if pd.notna(first["width"]) else ""
        label += f", $n = {first['n']}$"
        read = [name for name in others if pd.notna(first[name])]
        label += "".join(f", {name.replace('_', ' ')} {plain(first[name])}" for name in read)
        x = rows["temperature"].where(rows["temperature"] > 0, least)
        aside = x * 1.25 ** (place - (len(networks) - 1) / 2)  # beside each other, as in the checks
        style = {"color": colour, "linestyle": ""}
        rough = rows["heat_error"] > LARGEST_DISCRETISATION
        points = style | {"marker": marker, "markersize": 4}
        faces = ((~rough, {"label": label}), (rough, {"markerfacecolor": "white"}))
        bounded = (("speed_limit_time", rows["time"]), ("inefficiency", 1.0))
        for axis, (name, unit) in zip(axes[0], bounded, strict=False):
            value, low, high, exact = (
                rows[f"{name}{end}"] / unit for end in ("", "_low", "_high", "_linearised")
            )
            reach = np.abs([value - low, high - value])
            axis.errorbar(aside, value, yerr=reach, capsize=2, **style)
            for some, face in faces:
                axis.plot(aside[some], value[some], **points, **face)
            axis.plot(x, exact, color=colour)
        drop = rows["loss_drop"] / rows["start_loss"]
        for some, face in faces:
            axes[0][2].plot(aside[some], drop[some], **points, **face)
        lost = aside[rows["inefficiency"].isna()]
        for axis in axes[0]:
            mark_without_value(axis, lost)
        axes[0][2].plot(x, rows["loss_drop_linearised"] / rows["start_loss"], color=colour)
    labels = (
        r"$T_{\mathrm{SL}}/T$ (points: lower bound)",
        r"$T/T_{\mathrm{SL}}$ (points: upper bound)",
        r"Loss drop $\langle L_0 - L_T\rangle / L(\theta_0)$",
    )
    ticks = [least, *sorted(whole["temperature"][whole["temperature"] > 0].unique())]
    for axis, label in zip(axes[0], labels, strict=True):
        axis.set(xscale="log", xlabel=f"{TEMPERATURE} (loss)", ylabel=label)
        axis.axvspan(least / 2, least * 2, color=SHADE, linewidth=0, zorder=0)
        axis.set_xlim(left=least / 2)
        axis.set_xticks(ticks, ["0", *(f"{value:g}" for value in ticks[1:])], rotation=45)
        axis.minorticks_off()
    titles = ("speed limit", "inefficiency", "loss")
    for letter, axis, title in zip("abc", axes[0], titles, strict=True):
        panel_title(axis, letter, title)
    log_axes(axes[0][0], "y")
    log_axes(axes[0][1], "y")
    axes[0][2].axhline(0.0, color=GREY, linewidth=0.8)
    handles, _ = axes[0][0].get_legend_handles_labels()
    bars = {"color": "0.3", "linestyle": "", "marker": "|", "markersize": 9}
    handles.append(Line2D([], [], label=interval_name(table), **bars))
    handles.append(Line2D([], [], color="0.3", label="linearised network, exact"))
    if (whole["inefficiency"].notna() & (whole["heat_error"] > LARGEST_DISCRETISATION)).any():
        open_points = {"color": "0.3", "linestyle": "", "marker": "o", "markersize": 4}
        told = f"heat off the loss drop by over {100 * LARGEST_DISCRETISATION:g} %"
        handles.append(Line2D([], [], label=told, markerfacecolor="white", **open_points))
    if whole["inefficiency"].isna().any():
        handles.append(Line2D([], [], label="no value there", **WITHOUT_VALUE))
    _legend_below(figure, handles, columns=2 if others else 4)
    return figure


def phase_diagram(grid: pd.DataFrame, measured: pd.DataFrame | None = None) -> Figure:
    """Regimes over (alpha, delta); the colour is the asymptotic inefficiency where it is finite.

    Args:
        grid: columns alpha, delta, inefficiency (the constant; infinite where it grows) and
            growth_exponent, one row per point of a rectangular grid.
        measured: optional columns label, alpha, delta and their intervals alpha_low, alpha_high,
            delta_low, delta_high of trained networks.

    Returns:
        The figure.
    """
    figure, axes = new_figure(1, 1, 4.4, 3.5)
    axis = axes[0][0]
    table = grid.pivot(index="delta", columns="alpha", values="inefficiency")
    growth = grid.pivot(index="delta", columns="alpha", values="growth_exponent").to_numpy()
    alpha, delta = table.columns.to_numpy(), table.index.to_numpy()
    finite = np.ma.masked_invalid(table.to_numpy())
    mesh = axis.pcolormesh(
        alpha, delta, finite, norm=LogNorm(1.0, 20.0), cmap="viridis", shading="nearest",
        rasterized=True,
    )  # fmt: skip
    label = rf"{INEFFICIENCY} as $T \to \infty$"
    bar = figure.colorbar(mesh, ax=axis, label=label, extend="max")
    bar.set_ticks([1, 2, 5, 10, 20], labels=["1", "2", "5", "10", "20"])
    axis.axhline(1.0, color="black", linewidth=1.5)
    axis.plot(alpha, 1.0 - alpha, color="black", linewidth=1.5, linestyle="--")
    levels = axis.contour(
        alpha, delta, growth, levels=[0.25, 0.5, 0.75, 1.0 - 1e-9], colors=GREY, linewidths=0.8
    )
    axis.clabel(levels, fmt=lambda value: rf"$T^{{{value:.3g}}}$")
    axis.set(xlim=(alpha[0], alpha[-1]), ylim=(delta[0], delta[-1]))
    axis.set(xlabel=r"$\alpha$  ($\lambda_k \sim k^{-\alpha}$)")
    axis.set_ylabel(r"$\delta$  ($\Delta_k^2 \sim k^{-\delta}$)")
    _regime_names(axis, alpha, delta)
    if measured is not None and len(measured):  # few samples may have no exponents
        _measured_points(axis, measured)
    return figure


def convergence(table: pd.DataFrame) -> Figure:
    """Approach of the finite sums to the power-law asymptotes, in T.

    Args:
        table: columns alpha, delta, route ("finite sum", "full asymptote" or "leading asymptote"),
            time (lambda_1 T) and inefficiency.

    Returns:
        The figure.
    """
    figure, axes = new_figure(1, 1, 4.4, 3.4)
    axis = axes[0][0]
    pairs = list(dict.fromkeys(zip(table["alpha"], table["delta"], strict=True)))
    kinds = {
        "finite sum": {"linestyle": "", "markersize": 4.5, "fillstyle": "none"},
        "full asymptote": {"linestyle": "-", "marker": ""},
        "leading asymptote": {"linestyle": ":", "marker": ""},
    }
    handles = []
    for (alpha, delta), colour, marker in zip(pairs, COLOURS, MARKERS, strict=False):
        rows = table[(table["alpha"] == alpha) & (table["delta"] == delta)]
        for route, kind in kinds.items():
            part = rows[rows["route"] == route]
            style = {"color": colour, "marker": marker} | kind
            axis.loglog(part["time"], part["inefficiency"], **style)
        label = rf"$\alpha$ = {alpha:g}, $\delta$ = {delta:g}"
        handles.append(Line2D([], [], color=colour, marker=marker, fillstyle="none", label=label))
    handles += [
        Line2D([], [], color="0.3", linestyle="", marker="o", fillstyle="none", label="finite sum"),
        Line2D([], [], color="0.3", label="asymptote, all powers of $T$"),
        Line2D([], [], color="0.3", linestyle=":", label="asymptote, leading power"),
    ]
    axis.set(xlabel=TIME_OF_LAMBDA_1, ylabel=INEFFICIENCY)
    axis.set_ylim(0.95, 2.0 * table.loc[table["route"] == "finite sum", "inefficiency"].max())
    log_axes(axis, "xy")
    axis.legend(handles=handles, frameon=False, loc="upper left")
    return figure


def spectra(spectrum: pd.DataFrame, predictions: pd.DataFrame) -> Figure:
    """Spectra that are not power laws: eigenvalues, inefficiency and its two factors.

    Args:
        spectrum: columns name, rank, eigenvalue (in units of lambda_1).
        predictions: columns name, time (lambda_1 T), inefficiency, path_excess.

    Returns:
        The figure.
    """
    figure, axes = new_figure(1, 3, DOUBLE_COLUMN, 2.6)
    names = list(dict.fromkeys(spectrum["name"]))
    quantities = (
        (spectrum, "rank", "eigenvalue", "Rank $k$", r"Eigenvalue $\lambda_k/\lambda_1$"),
        (predictions, "time", "inefficiency", TIME_OF_LAMBDA_1, INEFFICIENCY),
        (
            predictions,
            "time",
            "path_excess",
            TIME_OF_LAMBDA_1,
            r"Bent path $\ell_\gamma^2/\ell_{\mathrm{geo}}^2$",
        ),
    )
    for axis, (table, x, y, x_label, y_label) in zip(axes[0], quantities, strict=True):
        colours = palette(len(names), sequential=False)
        for name, colour, marker in zip(names, colours, cycle(MARKERS), strict=False):
            rows = table[table["name"] == name]
            style = {"color": colour, "marker": marker, "markevery": 0.12, "markersize": 4}
            axis.loglog(rows[x], rows[y], label=name, **style)
        axis.set(xlabel=x_label, ylabel=y_label)
    axes[0][0].set_ylim(1e-8, 3.0)
    axes[0][2].set_yscale("linear")
    titles = ("spectrum", "inefficiency", "its bent path")
    for letter, axis, title in zip("abc", axes[0], titles, strict=True):
        panel_title(axis, letter, title)
        log_axes(axis, "x" if axis is axes[0][2] else "xy")
    longest = max(map(len, names))
    columns = min(len(names), 5 if longest < 20 else 2 if longest < 50 else 1)
    _legend_below(figure, axes[0][0].get_legend_handles_labels()[0], columns=columns)
    return figure


def spectra_measured(spectrum: pd.DataFrame, predictions: pd.DataFrame) -> Figure:
    """The measured spectra at the start and what NTK dynamics makes of them; see ``spectra``.

    Args:
        spectrum: columns name, rank, eigenvalue (in units of lambda_1).
        predictions: columns name, time (lambda_1 T), inefficiency, path_excess.

    Returns:
        The figure.
    """
    return spectra(spectrum, predictions)


def _styles(values: pd.Series) -> list[tuple[float, str, str]]:
    """Return (value, colour, marker) for each distinct value in increasing order."""
    found = sorted(values.unique())
    return list(zip(found, palette(len(found), sequential=False), cycle(MARKERS), strict=False))


def _temperature(value: float) -> str:
    """Return the label of a temperature."""
    return rf"$\beta^{{-1}}$ = {value:g}" + (" (gradient flow)" if value == 0 else "")


def _regression_panel(axis: Axes, table: pd.DataFrame, quantity: str) -> None:
    """Draw one quantity of one ratio n/d by its three routes."""
    axis.set(xscale="log", yscale="log")
    for value, colour, marker in _styles(table["temperature"]):
        rows = table[table["temperature"] == value]
        for route, line in _route_lines(table).items():
            part = rows[rows["route"] == route]
            axis.plot(part["time"], part[quantity], linestyle=line, color=colour, linewidth=1.0)
        part = rows[rows["route"] == SIMULATION]
        values = (part[f"{quantity}{end}"] for end in ("", "_low", "_high"))
        _points_with_intervals(
            axis, part["time"], *values, color=colour, marker=marker, markersize=4
        )


def _route_lines(table: pd.DataFrame) -> dict[str, str | tuple]:
    """Return the line style of each closed-form route: solid for the limit."""
    finite = [name for name in dict.fromkeys(table["route"]) if name not in (LIMIT, SIMULATION)]
    return {LIMIT: "-"} | dict(zip(finite, cycle(FINITE_LINES), strict=False))


def _simulation_handle(table: pd.DataFrame) -> Line2D:
    """Return the legend entry of simulated ensembles."""
    label = f"simulation, {interval_name(table)}"
    return Line2D([], [], color=GREY, marker="o", fillstyle="none", linestyle="", label=label)


def _legend_below(figure: Figure, handles: list, columns: int) -> None:
    """Put one legend for all panels under them."""
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def _regime_names(axis: Axes, alpha: np.ndarray, delta: np.ndarray) -> None:
    """Write the regimes into the diagram."""
    width, height = alpha[-1] - alpha[0], delta[-1] - delta[0]
    box = {"boxstyle": "round", "facecolor": "white", "alpha": 0.8, "edgecolor": "none"}
    places = (
        (0.80, 0.90, r"$T/T_{\mathrm{SL}}$ grows" "\n" r"as $T^{\min((\delta-1)/\alpha,\,1)}$"),
        (0.80, 0.45, "optimal:\n" r"$T_{\mathrm{SL}} \propto T$"),
        (0.21, 0.14, "last modes rule:\n" r"$T/T_{\mathrm{SL}} \to 1$"),
    )
    for x, y, text in places:
        place = (alpha[0] + x * width, delta[0] + y * height)
        axis.text(*place, text, ha="center", va="center", bbox=box)


def _measured_points(axis: Axes, measured: pd.DataFrame) -> None:
    """Place trained networks with their intervals; at the edge, hollow, those that lie beyond."""
    limits, hollow = {"alpha": axis.get_xlim(), "delta": axis.get_ylim()}, ""
    count = measured["label"].nunique()
    colours = palette(count + 1, sequential=False)[1:]
    for (label, rows), colour, marker in zip(
        measured.groupby("label", sort=False), colours, cycle(MARKERS[1:]), strict=False
    ):
        sides = [
            np.clip([rows[name] - rows[f"{name}_low"], rows[f"{name}_high"] - rows[name]], 0, None)
            for name in ("alpha", "delta")
        ]
        style = {"marker": marker, "color": colour, "markeredgecolor": "white", "linestyle": ""}
        sizes = rows["n"] if "n" in rows else pd.Series()
        several = f", n = {sizes.min():g} to {sizes.max():g}" if sizes.nunique() > 1 else ""
        options = {"capsize": 2, "label": f"{label}{several}", **style}
        axis.errorbar(rows["alpha"], rows["delta"], sides[1], sides[0], **options)
        edge = [rows[name].clip(*ends) for name, ends in limits.items()]
        beyond = (edge[0] != rows["alpha"]) | (edge[1] != rows["delta"])
        if beyond.any():
            options = style | {"markeredgecolor": colour, "markerfacecolor": "none"}
            axis.plot(edge[0][beyond], edge[1][beyond], clip_on=False, zorder=3, **options)
            hollow = "; hollow: beyond the edge"
    title = f"networks, {interval_name(measured)}" if "confidence" in measured else "networks"
    options = {"frameon": False, "ncols": 2, "title": title + hollow, "title_fontsize": 7}
    axis.figure.legend(loc="outside lower center", **options)
