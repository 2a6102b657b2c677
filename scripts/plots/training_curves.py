"""Losses per sample and test accuracy against training time, with the warm start marked."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.warm_starts import above_from_the_start, has_warm_start
from plots import results, style

PANELS = {
    "train_loss_per_sample": "Training loss per sample",
    "test_loss_per_sample": "Test loss per sample",
    "test_accuracy": "Test accuracy (%)",
}
# Its steps have the length of the learning rate, whatever the gradient.
LINE = 30  # characters of this size across two thirds of a panel
LINE_HEIGHT = 0.065  # of a panel
ADAM = r"Adam: $\lambda_1 \times$ learning rate $\times$ steps," + "\nwhich is no training time"


def draw(training_curves: pd.DataFrame, warm_starts: pd.DataFrame) -> Figure:
    """Draw the figure.

    Args:
        training_curves: losses and accuracy of every run at every recorded time.
        warm_starts: one row per ensemble.

    Returns:
        Three panels: mean over realisations, their range, and the warm start on the mean.
    """
    figure, axes = style.new_figure(1, 3, style.DOUBLE_COLUMN, 2.6)
    shown = style.ensembles(training_curves)
    of = {e.path: training_curves[training_curves["ensemble"] == e.path] for e in shown}
    warm = {
        path: warm_time(rows, warm_starts[warm_starts["ensemble"] == path])
        for path, rows in of.items()
    }
    # Said in the lower left corner, which falling losses leave free.
    drawn = style.once(axes[0, 0], training_curves, shown, list(PANELS), "bottom")
    for panel, letter, (column, label) in zip(axes[0], "abc", PANELS.items(), strict=True):
        factor = 100.0 if column == "test_accuracy" else 1.0
        means = {path: spread(rows, column) * factor for path, rows in of.items()}
        for ensemble in drawn:
            plot_mean(panel, means[ensemble.path], ensemble.colour)
        style.thin_bands(panel)
        for ensemble in shown:
            reached = warm[ensemble.path]
            if reached is not None:
                plot_warm_start(panel, means[ensemble.path]["mean"], ensemble.colour, reached)
        panel.set_xlabel(r"Training time $\lambda_1 t$")
        panel.set_ylabel(label)
        style.panel_title(panel, letter, "")
        at = training_curves.loc[training_curves[column].notna(), "time"]
        measured = (at > 0).any()
        if not measured and len(at):
            style.say(panel, "diverged before\nthe first snapshot")
        elif not measured:  # no test part, or real targets, which have no accuracy
            style.say(panel, "not measured\n(no test part,\nor no classes)")
        if not measured:
            panel.set_yticks([])
        style.log_axes(panel, "x" if column == "test_accuracy" or not measured else "xy")
    if "adam" in set(training_curves["dynamics"]):
        # In the upper right corner, which falling losses leave free.
        place = {"transform": axes[0, 0].transAxes, "va": "top", "ha": "right"}
        axes[0, 0].text(0.97, 0.97, ADAM, fontsize=6, color=style.GREY, **place)
    if training_curves["test_accuracy"].notna().any():
        accuracy_panel(axes[0, 2], warm_starts)
    style.colour_legend(figure, shown)
    several = training_curves["realisation"].nunique() > 1
    count = results.run_count(training_curves)
    kinds = {"measured": f"mean of {count}" if several else f"{count} each"}
    marker = "warm start $t_{\\mathrm{w}}$" if set(warm.values()) != {None} else None
    band = "smallest to largest run" if several else None
    style.curve_legend(figure, kinds, band, marker)
    return figure


def spread(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return mean, min and max over realisations after the start, by lambda_1 t.

    Times of realisations that differ by rounding alone count as one. Nothing is left where a run
    has diverged: the others are no sample of all.
    """
    order = rows.sort_values("time", kind="stable").groupby("realisation").cumcount()
    groups = rows.assign(snapshot=order).groupby("snapshot")
    found = (
        groups[column].agg(["mean", "min", "max"]).where(groups[column].count() == groups.size())
    )
    found.index = groups["time_lambda_1"].mean()
    return found[found.index > 0]


def warm_time(rows: pd.DataFrame, warm: pd.DataFrame) -> float | None:
    """Return lambda_1 t_w of an ensemble, or None if it has no warm start."""
    if len(warm) == 0 or not has_warm_start(warm).iloc[0]:
        return None
    last = rows.loc[rows["time"].idxmax()]
    return float(warm["time"].iloc[0]) * float(last["time_lambda_1"] / last["time"])


def plot_mean(axes: Axes, values: pd.DataFrame, colour: str) -> None:
    """Draw mean and range of one ensemble."""
    time = values.index.to_numpy(float)
    axes.plot(time, values["mean"], color=colour, **style.CURVES["measured"])
    if (values["max"] > values["min"]).any():
        style.plot_band(axes, time, values["min"], values["max"], colour)


def plot_warm_start(axes: Axes, mean: pd.Series, colour: str, warm: float) -> None:
    """Draw a star on a mean by lambda_1 t; one at t = 0 at the left end of the curve."""
    time = mean.index.to_numpy(float)
    at = max(warm, time[0])
    height = np.interp(np.log(at), np.log(time), mean)
    axes.plot([at], [height], color=colour, **style.WARM_MARKER)


def accuracy_panel(axes: Axes, warm_starts: pd.DataFrame) -> None:
    """Draw the thresholds of the warm start; say which of them no ensemble rises to, and why."""
    axes.set_ylim(bottom=0)
    drawn = [line.get_xydata() for line in axes.lines]
    drawn += [path.vertices for band in axes.collections for path in band.get_paths()]
    threshold = warm_starts["threshold"]
    reached = has_warm_start(warm_starts).groupby(threshold).any()
    from_start = above_from_the_start(warm_starts).groupby(threshold)
    above = from_start.all() & ~reached
    partly = from_start.any() & ~reached & ~above
    for level in reached.index:
        axes.axhline(100 * level, color=style.GREY, linewidth=0.7, linestyle=":")
    lines = []
    kinds = ((reached, ""), (above, ":\nabove it from the start"),
             (partly, ":\nnot reached, or above\nit from the start"),
             (~reached & ~above & ~partly, ": not reached"))  # fmt: skip
    for some, end in kinds:
        shown = ", ".join(f"{100 * level:g}" for level in reached.index[some])
        text = textwrap.fill(f"warm start at {shown} %{end.partition(':')[0]}", LINE)
        lines += [f"{text}{''.join(end.partition(':')[1:])}"] if shown else []
    # In the upper left corner, which accuracies leave free that rise late, or in the lower one.
    count = sum(text.count("\n") + 1 for text in lines)
    x, y = axes.transAxes.inverted().transform(axes.transData.transform(np.vstack(drawn))).T
    left, reach = x < 2 / 3, 0.03 + LINE_HEIGHT * count
    high = np.sum(left & (y > 1 - reach)) > np.sum(left & (y < reach))
    place = {"transform": axes.transAxes, "va": "bottom" if high else "top", "ha": "left"}
    height = 0.03 if high else 0.97
    box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1}
    axes.text(0.03, height, "\n".join(lines), fontsize=6, color=style.GREY, bbox=box, **place)
