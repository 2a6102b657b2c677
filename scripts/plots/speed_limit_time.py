"""Training time T against the speed-limit time T_SL, with the bound T = T_SL."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from plots import results, style


def draw(speed_limits: pd.DataFrame) -> Figure:
    """Draw the figure.

    Args:
        speed_limits: the table of that name.

    Returns:
        A panel per start; what lies below the line T = T_SL is forbidden.
    """
    figure, axes = style.new_figure(1, 2, 5.6, 2.9)
    shown = style.ensembles(speed_limits)
    for panel, letter, start in zip(axes[0], "ab", style.STARTS, strict=True):
        some = [plot_ensemble(panel, speed_limits, start, ensemble) for ensemble in shown]
        style.panel_title(panel, letter, f"{start} start")
        symbol = style.TIME_LABELS[start]
        panel.set_xlabel(r"Speed-limit time $\lambda_1 T_{\mathrm{SL}}$")
        panel.set_ylabel(f"Training time {symbol}")
        if not any(some):
            style.leave_empty(panel, reached=(speed_limits["start"] == start).any())
            continue
        of_start = speed_limits[speed_limits["start"] == start]
        style.note_bounds(panel, of_start, "speed_limit_time", "upper")
        style.log_axes(panel, "xy")
        draw_bound(panel, style.forbidden(speed_limits))
        style.log_axes(panel, "xy")
    style.colour_legend(figure, style.with_values(shown, speed_limits, ["speed_limit_time"]))
    band = results.band_name(speed_limits, "speed_limit_time")
    measured = f"measured, {results.run_count(speed_limits)} each"
    kinds = {"measured": measured, "predicted": "predicted from the NTK spectrum"}
    style.curve_legend(figure, kinds, band)
    return figure


def plot_ensemble(axes: Axes, table: pd.DataFrame, start: str, ensemble: style.Ensemble) -> bool:
    """Return whether one ensemble has anything to draw; draw it, measured and predicted."""
    rows = results.select(table, start, ensemble.path)
    if not rows["speed_limit_time"].notna().any():
        return False
    time = rows["time_lambda_1"].to_numpy(float)
    rate = time / rows["time"].to_numpy(float)
    for suffix, kind in (("", "measured"), ("_predicted", "predicted")):
        limit = rows[f"speed_limit_time{suffix}"] * rate
        axes.plot(limit, time, color=ensemble.colour, **style.line(kind, limit))
    if results.has_interval(rows, "speed_limit_time"):
        low, high = (rows[f"speed_limit_time_{end}"] * rate for end in ("low", "high"))
        style.plot_band(axes, time, low, high, ensemble.colour, sideways=True)
    return True


def draw_bound(axes: Axes, said: str) -> None:
    """Draw T = T_SL, shade and name T < T_SL, and draw lines of inefficiency 10, 100, ..."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    left, bottom = [min(left, bottom)] * 2
    highest = axes.dataLim.y1  # a single time has next to no margin of its own
    top = max(top, highest * (highest / bottom) ** 0.04)
    ends = np.array([left, max(right, top)])
    axes.fill_between(ends, bottom / 10, ends, color=style.SHADE, linewidth=0, zorder=0)
    axes.plot(ends, ends, color="black", linewidth=0.8, zorder=1)
    text = {"fontsize": 6, "color": style.GREY}
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
    for power in range(1, int(np.log10(top / left))):
        factor = 10.0**power
        axes.plot(ends, factor * ends, color=style.GREY, linewidth=0.5, linestyle=":", zorder=1)
        label = r"$T/T_{\mathrm{SL}} = 10$" if power == 1 else style.tick_text(factor)
        x = left * (right / left) ** 0.04
        axes.text(x, factor * x, label, va="center", bbox=box, zorder=1.5, **text)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    place = {"transform": axes.transAxes, "ha": "right"}
    axes.text(0.96, 0.05, said, **place, **text)
