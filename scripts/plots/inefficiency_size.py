"""Inefficiency at the last time against the training-set size, with a test of the trend."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.tables import comparable, shown_p_value, significance_level
from plots import results, style
from plots.outcomes import without_value
from plots.style import Abscissa

MARKS = {
    "mean": {"marker": "o"},
    "runs": {"marker": ".", "markersize": 4},
    "predicted": {"marker": "D", "markersize": 3.5},
    "power law": {"marker": "^"},
    "asymptote": {"marker": "_", "markersize": 6},
    "none": style.WITHOUT_VALUE,
}
PREDICTIONS = {
    "inefficiency_predicted": "predicted",
    "inefficiency_power_law": "power law",
    "inefficiency_power_law_asymptote": "asymptote",
}


def draw(speed_limits: pd.DataFrame, trends: pd.DataFrame) -> Figure:
    """Draw the figure.

    Args:
        speed_limits: the table of that name.
        trends: slopes of ln y against ln x with intervals and p-values.

    Returns:
        A panel per start, against n, or against the numeric setting that varies instead; a cross
        where no run of an ensemble has a value.
    """
    figure, axes = style.new_figure(1, 2, 5.6, 3.1)
    shown = style.ensembles(speed_limits)
    against = style.abscissa(speed_limits)
    colours = style.palette(len(against.series), sequential=False)
    places = dict(zip(against.positions, style.beside(against, against.positions, 0), strict=True))
    gaps = False
    for panel, letter, start in zip(axes[0], "ab", style.STARTS, strict=True):
        ends = results.last_rows(speed_limits, start)
        for colour, paths in zip(colours, against.series.values(), strict=True):
            plot_series(panel, ends[ends["ensemble"].isin(paths)], against, colour)
        style.panel_title(panel, letter, f"{start} start")
        panel.set_ylabel(r"Inefficiency at the end, $T/T_{\mathrm{SL}}$")
        numbered = style.abscissa_ticks(panel, against, shown)
        if not ends["inefficiency"].notna().any():
            style.leave_empty(panel, reached=len(ends) > 0)
            continue
        style.note_bounds(panel, ends, "inefficiency", place="bottom")  # the slope is on top
        headroom(panel)
        plot_trend(panel, ends, against, trends[trends["start"] == start])
        style.log_axes(panel, "y")
        empty = without_value(ends, "inefficiency", "ensemble", places)
        style.mark_without_value(panel, empty)
        gaps |= len(empty) > 0
    several = results.has_interval(speed_limits, "inefficiency")
    size = results.with_interval(results.run_count(speed_limits), speed_limits, several)
    last = pd.concat([results.last_rows(speed_limits, start) for start in style.STARTS])
    missing = {mark for column, mark in PREDICTIONS.items() if last[column].isna().all()}
    if not gaps:
        missing.add("none")
    legend(figure, against, colours, size, missing)
    if numbered:
        style.number_legend(figure, shown)
    return figure


def plot_series(axes: Axes, ends: pd.DataFrame, against: Abscissa, colour: str) -> None:
    """Draw runs, the ensembles with their intervals, and what theory predicts beside them."""
    whole = ends["realisation"].astype(str) == "ensemble"
    runs, mean = ends[~whole], ends[whole]
    dots = {"linestyle": "none", "alpha": 0.55, **MARKS["runs"]}
    axes.plot(
        style.beside(against, runs["ensemble"], -1), runs["inefficiency"], color=colour, **dots
    )
    kind = {"linestyle": "none", "capsize": 2, "elinewidth": 0.9, "zorder": 3, **MARKS["mean"]}
    x, y = style.beside(against, mean["ensemble"], 0), mean["inefficiency"].to_numpy(float)
    axes.errorbar(x, y, yerr=results.reaches(mean, "inefficiency"), color=colour, **kind)
    for aside, (column, mark) in enumerate(PREDICTIONS.items(), start=1):
        values = mean[column].to_numpy(float)
        if np.isfinite(values).any():
            hollow = {"linestyle": "none", "mfc": "white", "zorder": 2, **MARKS[mark]}
            x = style.beside(against, mean["ensemble"], min(aside, 2))
            axes.plot(x, values, color=colour, **hollow)


def headroom(axes: Axes) -> None:
    """Make the y axis logarithmic and leave its upper quarter to the text, and an edge below."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    ratio = max(high / low, 1.3)
    axes.set_ylim(low * ratio**-0.08, high * ratio**0.35)


def plot_trend(axes: Axes, ends: pd.DataFrame, against: Abscissa, trends: pd.DataFrame) -> None:
    """Draw the least-squares line through the runs and write its slope, interval and p-value."""
    wanted = {"at": "end", "quantity": "inefficiency", "against": against.column}
    rows = trends[(trends[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    if len(rows) == 0 or not np.isfinite(rows["slope"].iloc[0]):
        return
    row = rows.iloc[0]
    runs = comparable(ends[ends["realisation"].astype(str) != "ensemble"])
    runs = runs[runs["inefficiency"].notna()]
    x = runs["ensemble"].map(against.positions).to_numpy(float)
    centre = np.log(x).mean(), np.log(runs["inefficiency"].astype(float)).mean()
    line = np.array([x.min(), x.max()])
    height = np.exp(centre[1] + row["slope"] * (np.log(line) - centre[0]))
    axes.plot(line, height, color=style.GREY, linewidth=0.8, linestyle="--", zorder=1)
    place = {"transform": axes.transAxes, "ha": "right", "va": "top", "fontsize": 7}
    axes.text(0.97, 0.96, trend_text(row), **place)


def trend_text(row: pd.Series) -> str:
    """Return slope, interval with its level, and the test's p-values in two lines."""

    def shown(value: float) -> str:
        return f"{value:.2f}" if abs(value) >= 0.005 or value == 0 else f"{value:.1g}"  # its sign

    text = f"slope {shown(row['slope'])}"
    if np.isfinite(row["slope_low"]):
        text += f" [{shown(row['slope_low'])}, {shown(row['slope_high'])}]"
        text += f" ({100 * row['confidence']:g} %)"
    if np.isfinite(row["p_value"]):
        level = significance_level(row["confidence"])
        p, adjusted = (shown_p_value(row[name], level) for name in ("p_value", "p_adjusted"))
        text += f"\n${p}$, adjusted ${adjusted}$"
    return text.replace("-", "\N{MINUS SIGN}")


def legend(
    figure: Figure, against: Abscissa, colours: list[str], size: str, missing: set[str]
) -> None:
    """Say which marker is which, and which colour is which series where there are several."""
    texts = {
        "mean": f"ensemble of {size}",
        "runs": "single runs",
        "predicted": "from the NTK spectrum",
        "power law": "fitted power law",
        "asymptote": "its asymptote",
        "none": "no value there",
    }
    handles = []
    for name, text in texts.items():
        if name in missing:
            continue
        face = "black" if name in ("mean", "runs") else "white"
        plain = {"color": "black", "linestyle": "none", "mfc": face}
        handles.append(Line2D([], [], label=text, **(plain | MARKS[name])))
    kind = {"ncols": 3, "handlelength": 1.0, "columnspacing": 2.0}
    figure.legend(handles=handles, loc="outside lower center", **kind)
    if len(against.series) > 1:
        series = zip(against.series, colours, strict=True)
        style.colour_legend(figure, [style.Ensemble("", *item) for item in series])
