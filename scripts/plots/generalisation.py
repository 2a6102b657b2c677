"""Whether the test error goes with the inefficiency, between ensembles and inside them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.tables import comparable, correlation_status, shown_p_value, significance_level
from plots import naming, results, style
from plots.outcomes import series_label

# quantity -> label; the loss stands where there is no accuracy
QUANTITIES = {"test_error": "Test error", "test_loss": "Test loss per sample"}
MARK = {"linestyle": "none", "marker": "o", "capsize": 1.5, "elinewidth": 0.7, "zorder": 3}
DOT = {"linestyle": "none", "marker": ".", "markersize": 4, "alpha": 0.6}


def draw(outcomes: pd.DataFrame, correlations: pd.DataFrame) -> Figure:
    """Draw the figure.

    Args:
        outcomes: the table of that name, of which the cold start's ends are shown.
        correlations: the table of that name.

    Returns:
        Two panels: ensembles with intervals and their runs, and runs relative to the mean of their
        ensemble.
    """
    figure, axes = style.new_figure(1, 2, style.DOUBLE_COLUMN, 3.2)
    between, within = axes[0]
    ends = comparable(outcomes[(outcomes["at"] == "end") & (outcomes["start"] == "cold")])
    name = next((q for q in QUANTITIES if q in ends and ends[q].notna().any()), "test_error")
    # A run that diverged and Adam have no T/T_SL, at a temperature it is only bounded; a data set
    # without a test part has no test error.
    shown = ends.dropna(subset=["inefficiency", name]) if name in ends else ends[:0]
    labels = ("Inefficiency $T/T_{\\mathrm{SL}}$", QUANTITIES[name])
    between.set(xlabel=labels[0], ylabel=labels[1])
    within.set(xlabel=f"{labels[0]} / ensemble mean", ylabel=f"{labels[1]} \u2212 ensemble mean")
    for panel, letter, level, title in (
        (between, "a", "between", "ensembles"),
        (within, "b", "within", "runs of equal settings"),
    ):
        style.panel_title(panel, letter, f"{title}\n{rank_correlation(correlations, name, level)}")
    varied = [column for column in naming.varied_settings(ends) if column != "subset"]
    grouped = shown.groupby(series_label(shown, varied), sort=False) if len(shown) else []
    series = naming.in_order(grouped, ends)
    shades = colours(series, varied)
    for colour, (_, rows) in zip(shades, series, strict=True):
        plot_series(between, within, rows, name, colour)
    for panel in (between, within):
        if not panel.has_data():
            style.leave_empty(panel)
            continue
        style.log_axes(panel, "x")
    if within.has_data():
        within.axhline(0, color=style.GREY, linewidth=0.6, zorder=1)
        within.axvline(1, color=style.GREY, linewidth=0.6, zorder=1)
    if len(series) > 1:
        pairs = zip([label for label, _ in series], shades, strict=True)
        style.colour_legend(figure, [style.Ensemble("", *pair) for pair in pairs])
    size = f"ensemble of {results.run_count(ends)}"
    size = results.with_interval(size, ends, results.has_any_interval(ends))
    handles = [
        Line2D([], [], color="black", linestyle="none", marker="o", label=size),
        Line2D([], [], color="black", label="single runs", **DOT),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def colours(series: list, varied: list[str]) -> list[str]:
    """Return a colour for each series: hues and shades by its settings where several vary."""
    settings = pd.DataFrame([rows[varied].iloc[0] for _, rows in series], columns=varied)
    grouped = style.grouped_palette(settings) if len(varied) > 1 and len(series) > 2 else []
    return grouped or style.palette(len(series), sequential=False)


def plot_series(between: Axes, within: Axes, rows: pd.DataFrame, name: str, colour: str) -> None:
    """Draw the ensembles of one series, which differ in their subset alone, and their runs."""
    whole = rows["realisation"].astype(str) == "ensemble"
    runs, means = rows[~whole], rows[whole]
    between.plot(runs["inefficiency"], runs[name], color=colour, **DOT)
    reach = [results.reaches(means, column) for column in ("inefficiency", name)]
    between.errorbar(
        means["inefficiency"], means[name], xerr=reach[0], yerr=reach[1], color=colour, **MARK
    )
    for _, of_ensemble in runs.groupby("ensemble", sort=False):
        if len(of_ensemble) > 1:
            x = np.log(of_ensemble["inefficiency"].astype(float))
            y = of_ensemble[name].astype(float)
            within.plot(np.exp(x - x.mean()), y - y.mean(), color=colour, **DOT)


def rank_correlation(correlations: pd.DataFrame, name: str, level: str) -> str:
    """Return the rank correlation of one level with its interval, p-value and points, for a title.

    Args:
        correlations: the table of that name.
        name: what the inefficiency is correlated with.
        level: "between" ensembles, where those of the same starts are one point, or "within" them.

    Returns:
        Where so many points cannot give a p-value below 1 - confidence, or one side of them has one
        value, this instead.
    """
    if "with" not in correlations:
        return "nothing to correlate"
    rows = correlations[(correlations["with"] == name) & (correlations["level"] == level)]
    if len(rows) == 0:
        return "nothing to correlate"
    row = rows.iloc[0]
    points = f"{row['points']:.0f} points"
    lacking = {"few": "too few to correlate", "constant": "one side does not vary"}
    status = correlation_status(row, significance_level(row["confidence"]))
    if status in lacking:
        return f"{points}: {lacking[status]}"
    ends = f" [{row['correlation_low']:.2f}, {row['correlation_high']:.2f}]"
    ends = ends if np.isfinite(row["correlation_low"]) else ""
    text = f"rank correlation {row['correlation']:.2f}{ends}".replace("-", "\u2212")
    if status == "described":
        return f"{text},\n{points} that share settings, no test"
    p = shown_p_value(row["p_adjusted"], significance_level(row["confidence"]))
    return f"{text},\nadjusted ${p}$, {points}"
