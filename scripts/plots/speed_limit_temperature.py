"""T_SL, inefficiency and what was gained at the end of training against the temperature."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from plots import results, style
from plots.outcomes import MARK, choose_axis, series_label, without_value

# title -> label
PANELS = {
    "speed-limit time": r"$\lambda_1 T_{\mathrm{SL}}$ at most",
    "inefficiency": r"$T/T_{\mathrm{SL}}$ at least",
    "loss and free energy": "Drop / loss drop\nat the lowest temperature",
}
DROP = {"linestyle": "none", "marker": "o", "markersize": 3.5}
EXACT = {"marker": "D", "markersize": 3, "mfc": "white", "mew": 0.8}  # at these temperatures only


def draw(speed_limits: pd.DataFrame) -> Figure:
    """Draw the figure.

    Args:
        speed_limits: the table of that name; its ensembles from the cold start are shown at their
            last time, against the column ``temperature``.

    Returns:
        Three panels; temperature 0 stands in a strip at the left end.
    """
    figure, axes = style.new_figure(1, 3, style.DOUBLE_COLUMN, 2.9)
    for panel, letter, (title, label) in zip(axes[0], "abc", PANELS.items(), strict=True):
        style.panel_title(panel, letter, title)
        panel.set(ylabel=label, xlabel=r"Temperature $\beta^{-1}$ (loss)")
    if "temperature" not in speed_limits:
        for panel in axes[0]:
            style.say(panel, "no temperature\nin this study")
            panel.set_yticks([])
        return figure
    runs = results.last_rows(speed_limits, "cold")
    runs = runs[runs["temperature"].notna()]
    ends = runs[runs["realisation"].astype(str) == "ensemble"]
    first, others = choose_axis(ends.assign(temperature=0.0))
    labels = series_label(ends, [name for name in (first, *others) if name])
    temperatures = np.array(sorted(ends["temperature"].unique()), float)
    positive = temperatures[temperatures > 0]
    zero = positive.min() / 10 if len(positive) else 1.0
    series = list(ends.groupby(labels, sort=False))
    colours = style.palette(len(series), sequential=False)
    for k, (colour, (_, rows)) in enumerate(zip(colours, series, strict=True)):
        shift = 1.12 ** (k - (len(series) - 1) / 2)
        rows = rows.sort_values("temperature")
        x = shift * rows["temperature"].where(rows["temperature"] > 0, zero)
        plot_series(axes[0], x.to_numpy(float), rows, colour)
    finish(axes[0], np.append(zero, positive), bool(len(positive) < len(temperatures)))
    places = {value: value or zero for value in temperatures}
    empty = without_value(ends, "inefficiency", "temperature", places)
    if len(empty) == len(temperatures):  # the panels say so
        empty = []
    for panel in axes[0, :2]:
        style.mark_without_value(panel, empty)
    if len(series) > 1:
        pairs = zip([name for name, _ in series], colours, strict=True)
        style.colour_legend(figure, [style.Ensemble("", str(name), c) for name, c in pairs])
    several = results.has_interval(ends, "inefficiency")
    bounds = f"a: from above, b: from below; {results.run_count(runs)} each"
    bounds = results.with_interval(bounds, ends, several)
    kinds = {bounds: {"marker": "o", "linestyle": "none"}}
    if ends["inefficiency_predicted"].notna().any():  # not of several layers at a temperature
        lines = map(exact_line, (rows for _, rows in series))
        kinds["linearised network, exact"] = max(lines, key=len)
    kinds |= {
        "c: loss drop": DROP | {"mfc": "white"},
        "c: free-energy drop, from below to above": {"linewidth": 3, "alpha": 0.35},
    }
    if empty:
        kinds["no value there"] = style.WITHOUT_VALUE
    handles = [
        Line2D([], [], label=text, **({"color": "black"} | kind)) for text, kind in kinds.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def exact_line(rows: pd.DataFrame) -> dict:
    """Return the line style of one series' linearised network, known at temperature 0 at least."""
    return EXACT | style.line("predicted", rows["inefficiency_predicted"])


def plot_series(axes: np.ndarray, x: np.ndarray, rows: pd.DataFrame, colour: str) -> None:
    """Draw one series over its temperatures into the three panels."""
    rate = rows["time_lambda_1"] / rows["time"]
    for panel, name, unit in (
        (axes[0], "speed_limit_time", rate),
        (axes[1], "inefficiency", 1.0),
    ):
        y = (rows[name] * unit).to_numpy(float)
        reach = None
        if results.has_interval(rows, name):
            low, high = ((rows[f"{name}_{end}"] * unit).to_numpy(float) for end in ("low", "high"))
            reach = np.nan_to_num(np.abs([y - low, high - y]))
        panel.errorbar(x, y, yerr=reach, color=colour, **MARK)
        exact = rows[f"{name}_predicted"] * unit
        panel.plot(x, exact, color=colour, zorder=2, **(EXACT | style.line("predicted", exact)))
    unit = rows["loss_drop"].iloc[0]  # at the lowest temperature, else series hide each other
    axes[2].plot(x, rows["loss_drop"] / unit, color=colour, mfc="white", **DROP, zorder=3)
    if "free_energy_drop_least" in rows:
        low, high = (rows[f"free_energy_drop_{end}"].to_numpy(float) for end in ("least", "most"))
        axes[2].vlines(x, low / unit, high / unit, color=colour, linewidth=3, alpha=0.35)


def finish(axes: np.ndarray, ticks: np.ndarray, with_zero: bool) -> None:
    """Set scales, limits and ticks of the three panels.

    Args:
        axes: the panels.
        ticks: the place of temperature 0, and the other temperatures.
        with_zero: whether temperature 0 is there.
    """
    shown = ticks if with_zero else ticks[1:]
    for panel in axes:
        panel.set_xscale("log")
        panel.set_xlim(shown[0] / 2, shown[-1] * 2)
        if with_zero:
            panel.axvspan(ticks[0] / 2, ticks[0] * 2, color=style.SHADE, linewidth=0, zorder=0)
        texts = ["0" if with_zero and k == 0 else f"{value:g}" for k, value in enumerate(shown)]
        panel.set_xticks(shown, texts, rotation=35, ha="right", rotation_mode="anchor")
        panel.minorticks_off()
    for panel in axes[:2]:
        positive_axis(panel)
        if not np.isfinite(panel.dataLim.y0):  # of own networks, or every run diverged
            style.leave_empty(panel)
    low, high = axes[1].get_ylim()
    if low < 1 < high:
        axes[1].axhline(1.0, color="black", linewidth=0.8, zorder=1)
    low, high = axes[2].get_ylim()
    if low < 0 < high:
        axes[2].axhline(0.0, color=style.GREY, linewidth=0.6, zorder=1)


def positive_axis(axes: Axes) -> None:
    """Make the ordinate logarithmic where it holds positive values only."""
    if axes.dataLim.y0 > 0 and np.isfinite(axes.dataLim.y1):
        style.log_axes(axes, "y")
