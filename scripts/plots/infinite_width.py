"""Networks of several widths against the limit of infinite width, at the last time."""

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

from plots import results, style

# quantity -> (the ratio whose logarithm it is, colour, marker)
KINDS = {
    "deviation": (r"$I/I_\infty$", style.OKABE_ITO[0], "o"),
    "deviation_of_start": (r"$I_{\mathrm{NTK}}/I_\infty$", style.OKABE_ITO[2], "s"),
    "deviation_in_training": (r"$I/I_{\mathrm{NTK}}$", style.OKABE_ITO[1], "^"),
}
# power -> (line style, words)
GUIDES = {
    -1.0: ("-", r"$\propto 1/$width"),
    -0.75: (":", r"$\propto$ width$^{-3/4}$"),
    -0.5: ("--", r"$\propto$ width$^{-1/2}$"),
}
POINT = {"linestyle": "none", "capsize": 2, "elinewidth": 0.9, "zorder": 3}
RUN = {"color": "0.3", "marker": ".", "linestyle": "none", "alpha": 0.4}
SIDE = 1.07  # marks of one width stand side by side at this ratio
LEAST = 0.6  # own choice: the lower end of an axis, over the least value or end of a bar
BELOW = 0.36  # inches from a panel to the legend below the label of its axis


def draw(infinite_width: pd.DataFrame, infinite_width_powers: pd.DataFrame) -> Figure:
    """Draw the figure.

    Args:
        infinite_width: the table of that name; its last time of every run and ensemble is shown.
        infinite_width_powers: fitted powers of the width, with their intervals.

    Returns:
        Four panels against the width: inefficiency, kernel drift, scatter and mean of deviations.
    """
    figure, axes = style.new_figure(2, 2, style.DOUBLE_COLUMN, 6.2)
    (first, second), (third, fourth) = axes
    names = infinite_width["realisation"].astype(str)
    keys = [infinite_width["ensemble"], names]
    ends = infinite_width.sort_values("time", kind="stable").groupby(keys, sort=False).tail(1)
    whole = ends["realisation"].astype(str) == "ensemble"
    runs, means = ends[~whole], ends[whole].sort_values("width", kind="stable")
    fits = wide_fits(infinite_width_powers)
    plot_inefficiency(first, runs, means)
    plot_drift(second, runs, means, fits)
    scatters = {name: f"{name}_standard_deviation" for name in KINDS}
    plot_deviations(third, means, scatters, fits, "standard_deviation", (-0.5, -0.75, -1.0))
    plot_deviations(fourth, means, {name: name for name in KINDS}, fits, "mean", (-1.0,))
    third.set_ylabel("Standard deviation of ln(ratio)")
    fourth.set_ylabel("|mean of ln(ratio)|")
    titles = ("inefficiency", "kernel drift", "scatter over runs", "mean over runs")
    widths = np.unique(means["width"].to_numpy(float))
    for axis, letter, title in zip(axes.ravel(), "abcd", titles, strict=True):
        style.panel_title(axis, letter, title)
        axis.set_xscale("log")
        axis.set_xlim(widths[0] / 1.4, widths[-1] * 1.4)
        axis.set_xticks(widths, [f"{width:g}" for width in widths])
        axis.xaxis.set_minor_locator(ticker.NullLocator())
        axis.set_xlabel("Width (units or channels of a layer)")
    legend(figure, runs)
    return figure


def wide_fits(powers: pd.DataFrame) -> pd.DataFrame:
    """Return the fits over the wider half of the widths, indexed by quantity and statistic."""
    kept = powers.sort_values("least_width", kind="stable")
    kept = kept.drop_duplicates(["quantity", "statistic"], keep="last")
    return kept.set_index(["quantity", "statistic"])


def plot_inefficiency(axis: Axes, runs: pd.DataFrame, means: pd.DataFrame) -> None:
    """Draw T/T_SL of runs and ensembles, and that of infinitely many runs of infinite width."""
    axis.plot(runs["width"], runs["inefficiency"], **RUN)
    errors(axis, means, "inefficiency", means["width"], style.OKABE_ITO[0], "o", "measured, $I$")
    hollow = {"marker": "D", "markersize": 3.5, "mfc": "white", "linestyle": "none"}
    x, y = means["width"] * SIDE, means["inefficiency_predicted"]
    label = r"from the NTK at the start, $I_{\mathrm{NTK}}$"
    axis.plot(x, y, color=style.OKABE_ITO[2], label=label, **hollow)
    words = r"infinite width, exact mean $I_\infty$"
    for _, rows in means.groupby("subset", sort=True):
        limit = rows["inefficiency_infinite_width"]
        axis.plot(rows["width"], limit, color="black", label=words)
        words = "_"  # one entry of the legend for all subsets
    axis.set_ylabel(r"Inefficiency $T/T_{\mathrm{SL}}$")
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.5 * (high - low))
    axis.legend(loc="upper right")


def plot_drift(axis: Axes, runs: pd.DataFrame, means: pd.DataFrame, fits: pd.DataFrame) -> None:
    """Draw the kernel's drift with guides of both powers."""
    axis.plot(runs["width"], runs["drift"], **RUN)
    label, title = fit_text(fits, "drift", "mean")
    errors(axis, means, "drift", means["width"], style.OKABE_ITO[0], "o", f"mean of runs{label}")
    for power in (-0.75, -1.0):
        guide(axis, means, "drift", power)
    axis.set_ylabel(r"Drift $|\Theta_T - \Theta_0|_F / |\Theta_0|_F$")
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.set_ylim(low * (low / high) ** 0.3, high)
    axis.legend(loc="lower left", title=title, title_fontsize=7, alignment="left")
    style.log_axes(axis, "y")


def plot_deviations(
    axis: Axes,
    means: pd.DataFrame,
    columns: dict[str, str],
    fits: pd.DataFrame,
    statistic: str,
    powers: tuple[float, ...],
) -> None:
    """Draw one statistic of each deviation on a logarithmic axis, hollow where it is negative.

    Args:
        axis: panel.
        means: rows of the ensembles.
        columns: quantity -> column.
        fits: of ``wide_fits``.
        statistic: of the fits.
        powers: of the guides, drawn through the widest network: for the whole or for training.
    """
    axis.set_yscale("log")
    ends = limits(means, list(columns.values()))
    if ends is None:
        style.say(axis, "nothing to show: single runs")
        return
    axis.set_ylim(*ends)
    titles = []
    for k, (name, (words, colour, marker)) in enumerate(KINDS.items()):
        label, title = fit_text(fits, name, statistic)
        x = means["width"] * SIDE ** (k - 1)
        errors(axis, means, columns[name], x, colour, marker, words + label, least=ends[0])
        titles.append(title)
    for power in powers:
        guide(axis, means, columns["deviation" if power > -0.6 or len(powers) == 1 else
                                   "deviation_in_training"], power)  # fmt: skip
    below = axis.transAxes + ScaledTranslation(0, -BELOW, axis.figure.dpi_scale_trans)
    place = {"loc": "upper left", "bbox_to_anchor": (0, 0), "bbox_transform": below}
    axis.legend(title=titles[0], title_fontsize=7, alignment="left", **place)  # off the bars
    style.log_axes(axis, "y")


def limits(means: pd.DataFrame, columns: list[str]) -> tuple[float, float] | None:
    """Return the limits of a logarithmic axis for the sizes of columns, or None without values.

    Below lies no bar that ends above zero, unless by a factor ``results.WIDEST`` under all values.
    """
    found = [size_intervals(means, column) for column in columns]
    sizes = np.concatenate([values for values, *_ in found])
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    if len(sizes) == 0:
        return None
    lows = np.concatenate([low for _, low, *_ in found])
    lows = lows[lows > sizes.min() / results.WIDEST]
    return LEAST * min([sizes.min(), *lows]), 2 * sizes.max()


def size_intervals(means: pd.DataFrame, column: str) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Return the sizes of a column, lower and upper ends of their intervals, and whether negative.

    Of a negative value the interval is turned over with its sign; one that holds 0 begins below it.
    """
    values, low, high = (means[f"{column}{end}"].to_numpy(float) for end in ("", "_low", "_high"))
    negative = values < 0
    return np.abs(values), np.where(negative, -high, low), np.where(negative, -low, high), negative


def errors(
    axis: Axes,
    means: pd.DataFrame,
    column: str,
    x: pd.Series,
    colour: str,
    marker: str,
    label: str,
    *,
    least: float | None = None,
) -> None:
    """Draw a column with its interval where there is one.

    Args:
        axis: panel.
        means: rows of the ensembles.
        column: what is drawn.
        x: positions.
        colour: of marks and bars.
        marker: of the marks.
        label: for the legend.
        least: lower limit of an axis of the column's size, which is hollow where it is negative;
            bars that end below it leave the panel.
    """
    y, *ends = (means[f"{column}{end}"].to_numpy(float) for end in ("", "_low", "_high"))
    negative = np.zeros(len(y), bool)
    if least is not None:
        y, *ends, negative = size_intervals(means, column)
        ends[0] = np.maximum(ends[0], least / 10)
    reach = np.abs(np.nan_to_num(np.subtract(ends, y))) if np.isfinite(ends).any() else None
    kind = {"color": colour, "marker": marker, "markersize": 3.5}
    x = np.asarray(x, float)
    axis.errorbar(x, y, yerr=reach, label=label, **kind, **POINT)
    axis.plot(x[negative], y[negative], mfc="white", linestyle="none", zorder=4, **kind)


def fit_text(fits: pd.DataFrame, quantity: str, statistic: str) -> tuple[str, str]:
    """Return power and interval for a legend, and the widths it is fitted over as its title."""
    if (quantity, statistic) not in fits.index:
        return "", ""
    row = fits.loc[quantity, statistic]
    if not np.isfinite(row["power"]):
        return "", ""
    ends = f"[{row['power_low']:.2f}, {row['power_high']:.2f}]"
    text = f": {row['power']:.2f} {ends}".replace("-", "\N{MINUS SIGN}")
    span = f"{row['least_width']:g} to {row['largest_width']:g}"
    return text, f"Power of the width, fitted from {span}"


def guide(axis: Axes, means: pd.DataFrame, column: str, power: float) -> None:
    """Draw a power of the width through the size of the value at the widest network."""
    x = np.unique(means["width"].to_numpy(float))
    widest = means.loc[means["width"] == x[-1], column].abs().mean()  # over subsets
    line = widest * (x / x[-1]) ** power
    axis.plot(x, line, color=style.GREY, linestyle=GUIDES[power][0], linewidth=0.9, zorder=1)


def legend(figure: Figure, runs: pd.DataFrame) -> None:
    """Say what points, bars and lines are, and how many runs an ensemble has."""
    several = runs["realisation"].nunique() > 1
    label = results.with_interval(results.run_count(runs), runs, several)
    plain = {"color": "0.3", "linestyle": "none"}
    handles = [
        Line2D([], [], label="single runs", **RUN),
        Line2D([], [], marker="o", label=label, **plain),
        Line2D([], [], marker="o", mfc="white", label="negative mean", **plain),
    ]
    handles += [
        Line2D([], [], color=style.GREY, linestyle=line, label=words)
        for line, words in GUIDES.values()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
