"""The two factors of the inefficiency, uneven speed and bent path, and their product."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.tables import in_motion
from plots import results, style

COLUMNS = {
    "speed_unevenness": ("uneven speed", r"$T \Delta L / \ell_\gamma^2$"),
    "path_excess": ("bent path", r"$\ell_\gamma^2 / \ell_{\mathrm{geo}}^2$"),
    "inefficiency": ("product", r"Inefficiency $T/T_{\mathrm{SL}}$"),
}


def draw(speed_limits: pd.DataFrame) -> Figure:
    """Draw the figure.

    Args:
        speed_limits: the table of that name.

    Returns:
        A row of panels per start on logarithmic y axes, common to a row at least, on which the
        distances of the first two columns from 1 add up to that of the third.
    """
    shared = style.one_scale(speed_limits, list(COLUMNS)) or "row"
    figure, axes = style.new_figure(2, 3, style.DOUBLE_COLUMN, 4.4, sharey=shared)
    shown = style.ensembles(speed_limits)
    letters, notes = iter("abcdef"), {axes[0, 2]: style.forbidden(speed_limits)}
    for row, start in zip(axes, style.STARTS, strict=True):
        of_start = speed_limits[speed_limits["start"] == start]
        note = discretisation_note(of_start)
        for panel, (column, (word, symbol)) in zip(row, COLUMNS.items(), strict=True):
            above = len(note.splitlines()) if panel is row[0] else 0
            for ensemble in style.once(panel, of_start, shown, lines_above=above):
                rows = results.select(of_start, start, ensemble.path)
                style.plot_curve(panel, rows, column, ensemble)
                style.plot_curve(panel, rows, f"{column}_predicted", ensemble, "predicted")
            style.panel_title(panel, next(letters), f"{start} start: {word}")
            panel.set_xlabel(f"Training time {style.TIME_LABELS[start]}")
            panel.set_ylabel(symbol)
            if column == "inefficiency":
                style.note_bounds(panel, of_start, column)
            if len(of_start) == 0:
                style.say(panel)
        kind = {"va": "top", "fontsize": 6, "color": style.GREY, "transform": row[0].transAxes}
        row[0].text(0.03, 0.96, note, **kind)
    style.finish_bounded(axes.ravel(), notes)
    drawn = [name for column in COLUMNS for name in (column, f"{column}_predicted")]
    style.colour_legend(figure, style.with_values(shown, speed_limits, drawn))
    band = results.band_name(speed_limits, "inefficiency")
    measured = f"measured, {results.run_count(speed_limits)} each"
    kinds = {"measured": measured, "predicted": "predicted from the NTK spectrum"}
    style.curve_legend(figure, kinds, band)
    return figure


def discretisation_note(rows: pd.DataFrame) -> str:
    """Return what to say where the uneven speed of an ensemble lies below 1, else nothing.

    The factor is at least 1 along gradient flow; finite steps lower it, at most by as much as their
    action exceeds the loss drop, and what integrated velocities are off by as much as that.
    Momentum in motion at the start goes on by its kinetic energy, without any loss drop.
    """
    ensembles = rows[rows["realisation"].astype(str) == "ensemble"]
    below = ensembles[ensembles["speed_unevenness"] < 0.99]
    moving = in_motion(below)
    if moving.any():
        kinetic = "below 1 by kinetic energy,\nwhich the loss drop leaves out"
        return "\n".join([kinetic, discretisation_note(below[~moving])]).strip()
    if len(below) == 0:
        return ""
    worst = float(np.abs(below["discretisation"]).max())
    flow = "dynamics" in below and (below["dynamics"] == "gradient_flow").all()
    cause = "errors of velocities" if flow else "finite steps"
    if worst >= 1:
        return f"below 1 by {cause},\nup to {float(f'{1 + worst:.2g}'):g}-fold"
    return f"below 1 by {cause},\nwhich make up to {100 * worst:.2g} %"
