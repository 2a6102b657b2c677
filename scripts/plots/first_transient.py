"""What the first transient, from the start to the warm start, takes and does to the kernel."""

import pandas as pd
from matplotlib.figure import Figure

from plots.outcomes import draw_panels

# panel: (start, column, title, label)
PANELS = (
    ("warm", "inefficiency", "warm start", r"Inefficiency $T/T_{\mathrm{SL}}$"),
    ("warm", "transient_factor", "cold over warm start", r"Ratio of $T/T_{\mathrm{SL}}$"),
    ("warm", "transient_time_share", "time of the transient", r"$t_{\mathrm{w}} / T$"),
    ("warm", "transient_loss_share", "its loss drop", r"$(L_0 - L_{\mathrm{w}}) / (L_0 - L_T)$"),
    ("warm", "transient_alignment_gain", "kernel-target alignment",
     r"Alignment, $t_{\mathrm{w}}$ / start"),
    ("warm", "transient_drift", "kernel drift",
     r"$|\Theta_{\mathrm{w}} - \Theta_0|_F / |\Theta_0|_F$"),
)  # fmt: skip


def draw(outcomes: pd.DataFrame) -> Figure:
    """Draw the figure.

    Args:
        outcomes: the table of that name.

    Returns:
        Its figure, as ``plots.outcomes.draw_panels`` says.
    """
    return draw_panels(outcomes, PANELS)
