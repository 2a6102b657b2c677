"""What every ensemble of a study came to at the end, along the study's axis."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.runs import over_stability_limit
from pipeline.tables import THRESHOLD, at_a_temperature, predicted_from_rest
from plots import naming, results, style

# panel: (start, column, title, label)
PANELS = (
    ("cold", "inefficiency", "cold start", r"Inefficiency $T/T_{\mathrm{SL}}$"),
    ("warm", "inefficiency", "warm start", r"Inefficiency $T/T_{\mathrm{SL}}$"),
    ("cold", "kinematic_inefficiency", "any dynamics",
     r"$T \int |\dot\theta|^2 dt\, /\, \ell_{\mathrm{geo}}^2$"),
    ("cold", "drift", "kernel drift", r"$|\Theta_T - \Theta_0|_F / |\Theta_0|_F$"),
    ("cold", "alignment_gain", "kernel-target alignment", "Alignment, end / start"),
    ("cold", "discretisation", "discretisation", r"|raw action / drop $-$ 1|"),
)  # fmt: skip
HEAT = r"|heat / loss drop $-$ 1|"  # at a temperature, where a path has no action
MARK = {"linestyle": "none", "marker": "o", "capsize": 2, "elinewidth": 0.9, "zorder": 3}
HOLLOW = {"linestyle": "none", "marker": "D", "markersize": 3.5, "mfc": "white", "zorder": 2}
MARGIN = 1.4  # the ends of a logarithmic axis, over its least and largest value
WIDE = 3  # ratio of largest to least value beyond which a linear axis hides the lesser ones
SPREAD = 0.06  # share of the axis between marks of several series: just apart, at this size
CROWDED = 0.25  # share of the axis below which labels of neighbours touch, at this panel's width
STEEP = 0.1  # share below which these touch even when they are inclined
MOST_NUMBERS = 12  # of cases side by side at this width: 15 run into each other
AXIS_LABELS = {"n": "Training-set size $n$", "warm_start_accuracy": "Warm-start test accuracy"}


def draw(outcomes: pd.DataFrame) -> Figure:
    """Draw the figure.

    Args:
        outcomes: the table of that name.

    Returns:
        Its figure, as ``draw_panels`` says.
    """
    return draw_panels(outcomes, PANELS)


def draw_panels(outcomes: pd.DataFrame, panels: tuple) -> Figure:
    """Draw columns of the table outcomes at the end of training along the axis of the study.

    Args:
        outcomes: the table; its columns between dataset settings and ``start`` that vary are the
            axes.
        panels: six times start, column, title and label.

    Returns:
        Six panels: ensembles with intervals, those of several subsets side by side, single runs as
        dots left of them, prediction hollow right of them, a cross where no run has a value.
    """
    figure, axes = style.new_figure(2, 3, style.DOUBLE_COLUMN, 5.0)
    ends = predicted_from_rest(outcomes[outcomes["at"] == "end"])
    axis, others = choose_axis(ends)
    numeric = axis not in (None, "subset") and pd.api.types.is_numeric_dtype(ends[axis])
    series = dict(naming.in_order(ends.groupby(series_label(ends, others), sort=False), ends))
    colours = style.palette(len(series), sequential=False)
    subsets = list(ends["subset"].unique())
    together = axis == "subset" or len(subsets) == 1
    draws = [subsets] if together else [[subset] for subset in subsets]
    places, gaps, shown = ticks(ends, axis, numeric), False, set()
    words = [] if axis is None or numeric else [naming.describe(axis, value) for value in places]
    numbered = naming.crowded([naming.folded(text) for text in words])
    instead = [str(k) for k in range(1, len(words) + 1)] if numbered else []
    if axis is None:
        instead = [f"$n = {ends['n'].iloc[0]:g}$"]
    for panel, letter, (start, column, title, label) in zip(
        axes.ravel(), "abcdef", panels, strict=True
    ):
        drawn = False
        slots = len(series) * len(draws)
        step = aside(places, numeric, slots)
        marks = itertools.product(zip(colours, series.items(), strict=True), draws)
        for k, ((colour, (name, rows)), draw_of_samples) in enumerate(marks):
            shift = (k - (slots - 1) / 2) * step
            one = (rows["start"] == start) & (rows["subset"].isin(draw_of_samples))
            if plot(panel, rows[one], column, colour, places, (axis, numeric, shift, step / 3)):
                drawn = True
                shown.add(name)
        style.panel_title(panel, letter, title)
        panel.set_ylabel(discretisation_label(ends) if column == "discretisation" else label)
        set_ticks(panel, places, axis, numeric, unit(ends, axis), instead)
        if not drawn:
            style.leave_empty(panel, reached=(ends["start"] == start).any())
            continue
        if column == "inefficiency":
            style.note_bounds(panel, ends[ends["start"] == start], column)
        low = panel.dataLim.y0
        if column == "discretisation" and not (ends[column] == 0).any():
            low = panel.dataLim.minposy  # of what is not 0, where intervals may begin
        if low > 0 and panel.dataLim.y1 > WIDE * low:
            style.log_axes(panel, "y")
        empty = without_value(ends[ends["start"] == start], column, axis, places)
        style.mark_without_value(panel, empty)
        gaps |= len(empty) > 0
    pairs = [pair for pair in zip(series, colours, strict=True) if pair[0] in shown]
    handles = style.number_handles(words) if numbered else []
    if len(series) > 1 and pairs:
        handles += style.colour_handles([style.Ensemble("", *pair) for pair in pairs])
    if handles:
        style.legend_above(figure, handles)
    legend(figure, ends, gaps, "" if together else ", subsets side by side")
    return figure


def discretisation_label(ends: pd.DataFrame) -> str:
    """Return what ``discretisation`` is for the runs of a table: another quantity with noise."""
    noisy = at_a_temperature(ends)
    if not noisy.any():
        return PANELS[-1][-1]
    return HEAT if noisy.all() else f"{PANELS[-1][-1]},\nat $\\beta^{{-1}} > 0$:\n{HEAT}"


def choose_axis(ends: pd.DataFrame) -> tuple[str | None, list[str]]:
    """Return the axis with the most values, numeric ones first, and the other axes.

    Subsets are an axis where nothing else varies.
    """
    settings = naming.varied_settings(ends)
    varied = [name for name in settings if name != "subset"] or settings  # draws of one setting

    def order(name: str) -> tuple:
        return (not pd.api.types.is_numeric_dtype(ends[name]), -ends[name].nunique())

    varied = sorted(varied, key=order)
    return (varied[0], varied[1:]) if varied else (None, [])


def series_label(ends: pd.DataFrame, others: list[str]) -> pd.Series:
    """Return for every row the label of its series, without settings that its run does not read.

    What reads none of several is called by what it does without.
    """
    nothing = f"without {' and '.join(others)}".replace("_", " ") if others else ""
    nothing = "cold start" if THRESHOLD in others else nothing

    def label(row: pd.Series) -> str:
        return ", ".join(naming.setting(row, c) for c in others if pd.notna(row[c])) or nothing

    return ends.apply(label, axis=1).astype(str)


def ticks(ends: pd.DataFrame, axis: str | None, numeric: bool) -> dict:
    """Return value -> position on the x axis."""
    values = list(ends[axis].dropna().unique()) if axis else [""]
    if numeric and min(values) > 0:
        return {value: float(value) for value in sorted(values)}
    return {value: float(k) for k, value in enumerate(sorted(values) if numeric else values)}


def without_value(rows: pd.DataFrame, column: str, axis: str | None, places: dict) -> list[float]:
    """Return the places of the axis where no row of a panel has a value."""
    finite = rows[np.isfinite(rows[column].astype(float))]
    if axis is None or finite[axis].isna().any():  # runs that the axis does not touch
        return []
    return [place for value, place in places.items() if value not in set(finite[axis])]


def aside(places: dict, numeric: bool, series: int) -> float:
    """Return the step between marks of several series at one value of the axis.

    Marks of a value stay apart from those of the next, and inside the panel.
    """
    values = np.array(sorted(places.values()))
    logarithmic = numeric and values[0] > 0
    positions = np.log(values) if logarithmic else values
    ends = 2 * math.log(MARGIN) if logarithmic else 1.2
    widest = SPREAD * (positions[-1] - positions[0] + ends)
    return min(widest, 0.8 * np.diff(positions).min(initial=ends) / series)


def plot(axes: Axes, rows: pd.DataFrame, column: str, colour: str, places: dict, place) -> bool:
    """Return whether one series has anything; draw its runs, ensembles and predictions."""
    axis, numeric, shift, slot = place
    if column not in rows or not np.isfinite(rows[column].astype(float)).any():
        return False
    shown = rows[np.isfinite(rows[column].astype(float))]
    shown = sizes(shown) if column == "discretisation" else shown
    if axis and shown[axis].isna().all():
        return plot_unread(axes, shown, column, colour)
    position = shown[axis].map(places) if axis else pd.Series(0.0, shown.index)
    logarithmic = numeric and min(places) > 0
    left, x, right = (
        position * np.exp(move) if logarithmic else position + move
        for move in (shift - slot, shift, shift + slot)
    )
    whole = shown["realisation"].astype(str) == "ensemble"
    runs = shown.loc[~whole, column].astype(float)
    axes.plot(left[~whole], runs, ".", color=colour, alpha=0.5, markersize=4)
    mean = shown[whole]
    y = mean[column].to_numpy(float)
    axes.errorbar(x[whole], y, yerr=results.reaches(mean, column), color=colour, **MARK)
    predicted = f"{column}_predicted"
    if predicted in mean and len(mean):
        axes.plot(right[whole], mean[predicted].astype(float), color=colour, **HOLLOW)
    return True


def sizes(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with |discretisation|, its interval from 0 where the signed one holds it."""
    names = [f"discretisation{end}" for end in ("", "_low", "_high")]
    value, *ends = rows.reindex(columns=names).to_numpy(float).T
    low, high = np.sort(np.abs(ends), axis=0)
    low = np.where(ends[0] * ends[1] <= 0, 0.0, low)
    return rows.assign(**dict(zip(names, (np.abs(value), low, high), strict=True)))


def plot_unread(axes: Axes, rows: pd.DataFrame, column: str, colour: str) -> bool:
    """Return True; draw what the axis does not touch: a line, its interval as a band, and runs."""
    values = rows[column].astype(float)
    whole = rows["realisation"].astype(str) == "ensemble"
    middle = axes.get_yaxis_transform()
    axes.plot([0.5] * sum(~whole), values[~whole], ".", color=colour, alpha=0.5, markersize=4,
              transform=middle)  # fmt: skip
    for mean in values[whole]:
        axes.plot([0, 1], [mean, mean], color=colour, linewidth=1, transform=middle)
    if results.has_interval(rows[whole], column):
        for low, high in rows.loc[whole, [f"{column}_low", f"{column}_high"]].to_numpy(float):
            axes.fill_between([0, 1], low, high, color=colour, alpha=0.2, lw=0, transform=middle)
    for predicted in rows.loc[whole].get(f"{column}_predicted", pd.Series(dtype=float)):
        axes.plot([0.5], [predicted], color=colour, transform=middle, **HOLLOW)
    axes.margins(y=0.15)
    said = "the same runs throughout"
    if said not in [text.get_text() for text in axes.texts]:
        axes.text(0.5, 0.03, said, transform=axes.transAxes, ha="center", fontsize=6,
                  color=style.GREY)  # fmt: skip
    return True


def unit(ends: pd.DataFrame, axis: str | None) -> str:
    """Return the unit of the axis of learning rates, which the folders of the ensembles name."""
    if axis != "learning_rate":
        return ""
    relative = ends.loc[ends[axis].notna(), "ensemble"].map(over_stability_limit)
    return r" / $(2/\lambda_1)$" if relative.all() else "" if relative.any() else " (time)"


def set_ticks(
    axes: Axes,
    places: dict,
    axis: str | None,
    numeric: bool,
    unit: str,
    instead: Sequence[str] = (),
) -> None:
    """Put a tick at every value of the axis.

    Args:
        axes: a panel.
        places: of ``ticks``.
        axis: what varies; None of a single ensemble.
        numeric: whether its values are numbers.
        unit: of ``unit``.
        instead: short labels in place of the values: numbers of a legend, or the size of a single
            ensemble.
    """
    if axis is not None:
        name = "" if axis == "case" else axis.replace("_", " ").capitalize()
        name = f"{name or 'Cases'}, by the numbers above" if instead else name
        axes.set_xlabel(AXIS_LABELS.get(axis, name) + unit)
    if numeric and min(places) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.set_xlim(min(places) / MARGIN, max(places) * MARGIN)
        labels = [f"{value:g}" for value in places]
    else:
        axes.set_xlim(-0.6, len(places) - 0.4)
        labels = instead or [naming.folded(naming.describe(axis, value)) for value in places]
    every = math.ceil(len(places) / MOST_NUMBERS) if instead else 1
    labels = [text if k % every == 0 else "" for k, text in enumerate(labels)]
    long = not instead and max(len(line) for label in labels for line in str(label).split("\n")) > 4
    angle = 35
    if axes.get_xscale() == "log" and len(places) > 1:
        gaps = np.diff(np.log(sorted(places)))
        long |= gaps.min() < CROWDED * gaps.sum()
        angle = 60 if gaps.min() < STEEP * gaps.sum() else angle
    kind = {"rotation": angle, "ha": "right", "rotation_mode": "anchor"} if long else {}
    axes.set_xticks(list(places.values()), labels, **kind)


def legend(figure: Figure, ends: pd.DataFrame, gaps: bool, more: str) -> None:
    """Say what the marks are, crosses if there are ``gaps``, and how many runs an ensemble has.

    Args:
        figure: the figure.
        ends: rows of the table outcomes.
        gaps: whether there are crosses.
        more: what to say of ensembles beside.
    """
    size = f"ensemble of {results.run_count(ends)}"
    size = results.with_interval(size, ends, results.has_any_interval(ends))
    diverged = int((ends["diverged"] > 0)[ends["realisation"].astype(str) != "ensemble"].sum())
    more += f"; {diverged} rows of diverged runs not shown" if diverged else ""
    kinds = {
        f"{size}{more}": MARK | {"color": "black"},
        "single runs": {"linestyle": "none", "marker": ".", "color": "black"},
        "predicted from the NTK there": HOLLOW | {"color": "black"},
    }
    if gaps:
        kinds["no value there"] = style.WITHOUT_VALUE
    drop = ("capsize", "elinewidth")
    handles = [
        Line2D([], [], label=text, **{k: v for k, v in kind.items() if k not in drop})
        for text, kind in kinds.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2 if more or gaps else 3)
