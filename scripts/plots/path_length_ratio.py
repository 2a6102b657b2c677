"""Path length over geodesic length, against time and at the end, with its bounds."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.tables import at_a_temperature, fitted_kernel
from plots import results, style
from plots.style import Abscissa, Ensemble
from speedlimits.power_law import asymptotic_length_ratio_squared

PATHS = ("path_excess", "path_excess_predicted")
RATIO = r"$\ell_\gamma / \ell_{\mathrm{geo}}$"


def draw(speed_limits: pd.DataFrame, exponents: pd.DataFrame) -> Figure:
    """Draw the figure.

    Args:
        speed_limits: the table of that name.
        exponents: fitted exponents; they give the long-time limits of the ratio.

    Returns:
        Ratio against time from both starts, and at the last time against n (or what varies).
    """
    figure, axes = style.new_figure(1, 3, style.DOUBLE_COLUMN, 2.9, sharey=True)
    # Paths at a temperature and those of runs that diverged have no length.
    shown = style.with_values(style.ensembles(speed_limits), speed_limits, PATHS)
    speed_limits = speed_limits[speed_limits["ensemble"].isin(e.path for e in shown)]
    limits = 0
    for panel, letter, start in zip(axes[0], "ab", style.STARTS, strict=False):
        of_start = speed_limits[speed_limits["start"] == start]
        for ensemble in shown:
            rows = results.select(of_start, start, ensemble.path)
            style.plot_curve(panel, rows, "path_excess", ensemble, root=True)
            style.plot_curve(panel, rows, "path_excess_predicted", ensemble, "predicted", root=True)
            limits += plot_limit(panel, rows, exponents, ensemble)
        style.panel_title(panel, letter, f"{start} start")
        panel.set_xlabel(f"Training time {style.TIME_LABELS[start]}")
        if len(of_start) == 0:
            style.say(panel)
    points = plot_ends(axes[0, 2], speed_limits, shown)
    axes[0, 0].set_ylabel(f"Path / geodesic length {RATIO}")
    note = r"forbidden: $\ell_\gamma < \ell_{\mathrm{geo}}$"
    style.finish_bounded(axes[0, :2], {axes[0, 0]: note})
    style.forbid_below(axes[0, 2])
    style.log_axes(axes[0, 2], "y")
    style.colour_legend(figure, shown)
    measured = f"measured, {results.run_count(speed_limits)} each"
    kinds = {"measured": measured, "predicted": "from the NTK spectrum"}
    if limits:
        kinds["power law"] = r"limit of the fitted power law, $T \to \infty$"
    band = results.band_name(speed_limits, "path_excess")
    style.curve_legend(figure, kinds, band, points=points)
    return figure


def plot_limit(axes: Axes, rows: pd.DataFrame, exponents: pd.DataFrame, ensemble: Ensemble) -> bool:
    """Return whether the exponents give a long-time limit; draw it at the right end.

    The limit of the length ratio is finite for s = (delta - 1)/alpha < 1.
    """
    if len(rows) == 0 or at_a_temperature(rows).any():  # whose paths have no length
        return False
    moment = "start" if rows["start"].iloc[0] == "cold" else "warm"
    kernel = fitted_kernel(rows["prediction_kernel"])
    row = results.fitted(exponents, ensemble.path, moment, kernel)
    if row is None or row["alpha"] <= 0:
        return False
    limit = float(np.sqrt(asymptotic_length_ratio_squared(row["alpha"], row["delta"])))
    first, last = rows["time_lambda_1"].iloc[[0, -1]].astype(float)
    if not np.isfinite([limit, last]).all():
        return False
    axes.plot(
        [max(first, last / 30), last],
        [limit] * 2,
        color=ensemble.colour,
        **style.CURVES["power law"],
    )
    return True


def plot_ends(axes: Axes, speed_limits: pd.DataFrame, shown: list[Ensemble]) -> list[Line2D]:
    """Draw the ratio at the last time of every ensemble, filled if measured, open if predicted.

    Returns:
        Handles that say which point is which.
    """
    against = style.abscissa(speed_limits)
    colours = {e.path: e.colour for e in shown}
    gaps = []
    for start in style.STARTS:
        ends = results.last_rows(speed_limits, start)
        for _, row in ends[ends["realisation"].astype(str) == "ensemble"].iterrows():
            gaps += plot_end(axes, row, against, colours[row["ensemble"]], start)
    style.mark_without_value(axes, gaps)
    style.panel_title(axes, "c", "at the end")
    style.abscissa_ticks(axes, against, shown)
    if not against.column:  # names of any length, which stand above with their colours
        axes.set_xticks(axes.get_xticks(), [])
        axes.set_xlabel("Ensembles, in the order above")
    handles = [
        Line2D([], [], color="black", linestyle="none", marker=style.MARKERS[s], label=f"{s} start")
        for s in style.STARTS
        if (speed_limits["start"] == s).any()
    ]
    hollow = {"mfc": "white", "mec": "black", "linestyle": "none", "marker": "o"}
    handles.append(Line2D([], [], label="open: from the NTK spectrum", **hollow))
    if gaps:
        handles.append(Line2D([], [], label="no value there", **style.WITHOUT_VALUE))
    return handles


def plot_end(axes: Axes, row: pd.Series, against: Abscissa, colour: str, start: str) -> list[float]:
    """Draw one ensemble's ratio at the last time with its interval, and the prediction.

    Returns:
        The place of a ratio that is missing.
    """
    steps = (-2, -1) if start == "cold" else (1, 2)
    x, aside = (style.beside(against, [row["ensemble"]], step) for step in steps)
    centre = np.sqrt(float(row["path_excess"]))
    reach = None
    if np.isfinite(row.get("path_excess_low", np.nan)):
        ends = np.sqrt(row[["path_excess_low", "path_excess_high"]].to_numpy(float))
        reach = np.abs(ends - centre)[:, None]
    kind = {"fmt": style.MARKERS[start], "capsize": 2, "elinewidth": 0.9, "zorder": 3}
    axes.errorbar(x, [centre], yerr=reach, color=colour, **kind)
    hollow = {"mfc": "white", "mec": colour, "marker": style.MARKERS[start], "zorder": 2}
    axes.plot(aside, [np.sqrt(row["path_excess_predicted"])], **hollow)
    return [] if np.isfinite(centre) else list(x)
