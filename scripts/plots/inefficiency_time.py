"""Inefficiency against training time: measured, predicted from the NTK spectrum, power law."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from plots import results, style

CURVES = {
    "measured": ("inefficiency", "measured"),
    "predicted": ("inefficiency_predicted", "from the NTK spectrum"),
    "power law": ("inefficiency_power_law", "fitted power law"),
    "asymptote": ("inefficiency_power_law_asymptote", "its asymptote"),
}

# Beyond as many ensembles the power laws are left out: their lines would hide the measured ones.
MOST_LAWS = 4


def draw(speed_limits: pd.DataFrame, exponents: pd.DataFrame) -> Figure:
    """Draw the figure.

    Args:
        speed_limits: the table of that name.
        exponents: fitted exponents; where none could be fitted, no power law is drawn.

    Returns:
        A panel per start; colour tells ensembles apart, line style the curves. Power laws are drawn
        for up to MOST_LAWS ensembles.
    """
    shared = style.one_scale(speed_limits, ["inefficiency"])
    figure, axes = style.new_figure(1, 2, style.DOUBLE_COLUMN, 3.2, sharey=shared)
    shown = style.ensembles(speed_limits)
    curves = CURVES if len(shown) <= MOST_LAWS else dict(list(CURVES.items())[:2])
    lines = []
    for panel, letter, start in zip(axes[0], "ab", style.STARTS, strict=True):
        of_start = speed_limits[speed_limits["start"] == start]
        for ensemble in style.once(panel, of_start, shown):
            rows = results.select(of_start, start, ensemble.path)
            lines += [(panel, rows, column, ensemble, kind) for kind, (column, _) in curves.items()]
        style.panel_title(panel, letter, f"{start} start")
        panel.set_xlabel(f"Training time {style.TIME_LABELS[start]}")
        style.note_bounds(panel, of_start, "inefficiency")
        if len(of_start) == 0:
            style.say(panel)
    plot_curves(axes[0], lines)
    axes[0, 0].set_ylabel(r"Inefficiency $T/T_{\mathrm{SL}}$")
    style.finish_bounded(axes[0], {axes[0, 0]: style.forbidden(speed_limits)})
    drawn = [column for column, _ in curves.values()]
    style.colour_legend(figure, style.with_values(shown, speed_limits, drawn))
    found = {k: v for k, (c, v) in curves.items() if speed_limits[c].notna().any()}
    if "measured" in found:
        found["measured"] += f", {results.run_count(speed_limits)} each"
    band = results.band_name(speed_limits, "inefficiency")
    style.curve_legend(figure, found, band)
    return figure


def plot_curves(panels: Sequence[Axes], lines: list[tuple]) -> None:
    """Draw curves, asymptotes last: far above the rest at early times, they do not set the limits.

    Args:
        panels: the panels.
        lines: arguments of ``style.plot_curve``, the kind last.
    """
    for line in lines:
        if line[-1] != "asymptote":
            style.plot_curve(*line)
    for panel in panels:
        panel.set_yscale("log")
    if any(panel.lines for panel in panels):
        for panel in panels:
            panel.get_ylim()  # of what has been drawn
        for panel in panels:
            panel.autoscale(enable=False, axis="y")
    for line in lines:
        if line[-1] == "asymptote":
            style.plot_curve(*line)
