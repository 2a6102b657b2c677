"""What all figures share: sizes, colours, labels of ensembles, axes and deterministic files."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import font_manager, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray
from pandas.api.types import is_numeric_dtype

from pipeline.files import recorded
from pipeline.tables import at_a_temperature, in_motion
from plots.naming import (
    crowded,
    distinct,
    ensemble_label,
    ensemble_table,
    folded,
    setting,
    varied_columns,
    varied_settings,
)
from speedlimits.speed_limit import BELOW_ONE

SINGLE_COLUMN, DOUBLE_COLUMN = 3.4, 7.0  # inches
LEGEND_ROW = 0.15  # inches
LEGEND_CHARACTERS = 130  # own choice: of a row across two columns, 9 of each entry for its mark
LONGEST_TICK = 26  # characters, own choice: a line of an inclined label that leaves the panel room
FLAT = 1 / 30  # of the height of an axis, own choice: curves within it cannot be told apart
LABEL_CHARACTER = 0.047  # inches, of the font in which regions are labelled
LINE_POINTS = 11  # of text in the forbidden region, which shrinks as legends are laid out
GREY, SHADE = "0.45", "0.92"
FONT = "DejaVu Sans"  # comes with matplotlib: same files everywhere
# For the characters that it lacks, of labels in Chinese, Japanese or Korean: what Linux
# distributions, macOS and Windows come with
OTHER_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "IPAGothic",
    "Hiragino Sans",
    "PingFang SC",
    "Apple SD Gothic Neo",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "Nanum Gothic",
)
# Okabe and Ito (2008): told apart under every form of colour blindness; yellow left out (faint)
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
# Petroff (2021), arXiv:2107.02270: ten that are told apart likewise, some of them paler
PETROFF = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
HUES = ("Blues", "Oranges", "Greys")  # apart for every kind of colour vision
STARTS = ("cold", "warm")
MARKERS = {"cold": "o", "warm": "s"}
TIME_LABELS = {"cold": r"$\lambda_1 T$", "warm": r"$\lambda_1 (T - t_{\mathrm{w}})$"}
BAND = {"alpha": 0.22, "linewidth": 0}
CURVES = {
    "measured": {"linestyle": "-", "linewidth": 1.3},
    "predicted": {"linestyle": (0, (4, 1.6)), "linewidth": 1.0},
    "power law": {"linestyle": (0, (1, 1.3)), "linewidth": 1.2},
    "asymptote": {"linestyle": (0, (6, 2, 1, 2)), "linewidth": 0.7, "alpha": 0.8},
}
NUMERIC = ("n", "width")  # axes that a study can be plotted against, in order of preference
WARM_MARKER = {"marker": "*", "markersize": 8, "markeredgecolor": "black", "markeredgewidth": 0.5}
NEVER_WARM = (
    "warm start not reached\n"
    "(no test accuracy, or\n"
    "none that rises to its\n"
    "threshold before the end)"
)
WITHOUT_VALUE = {"linestyle": "none", "marker": "x", "markersize": 4, "color": GREY}
NOTHING = "nothing to show"


class Ensemble(NamedTuple):
    """One ensemble as a figure shows it.

    Attributes:
        path: its folder, the key in the tables.
        label: what tells it from the others of the table.
        colour: its colour.
    """

    path: str
    label: str
    colour: str


def fonts() -> list[str]:
    """Return the font of all figures, and those of this machine for characters that it lacks."""
    installed = set(font_manager.get_font_names())
    return [FONT, *(name for name in OTHER_FONTS if name in installed)]


def use_style() -> None:
    """Set matplotlib's parameters, whatever the user's own settings are."""
    mpl.rcdefaults()
    mpl.rcParams.update(
        {
            "font.family": fonts(),
            "mathtext.fontset": "dejavusans",
            "font.size": 8,
            "axes.labelsize": 8,
            "axes.titlesize": 8,
            "xtick.labelsize": 7,
            "ytick.labelsize": 7,
            "legend.fontsize": 7,
            "axes.linewidth": 0.6,
            "lines.linewidth": 1.2,
            "lines.markersize": 4,
            "legend.frameon": False,
            "legend.handlelength": 2.4,
            "legend.borderaxespad": 0.4,
            "pdf.fonttype": 42,
            "figure.constrained_layout.w_pad": 0.05,
            "figure.constrained_layout.h_pad": 0.04,
            **{f"{axis}tick.direction": "in" for axis in "xy"},
            **{f"{axis}tick.{size}.width": 0.6 for axis in "xy" for size in ("major", "minor")},
            "xtick.top": True,
            "ytick.right": True,
        }
    )


def save(figure: Figure, paths: Iterable[str | Path], dpi: int) -> None:
    """Write a figure; the same figure gives the same bytes, and a file appears when complete.

    Args:
        figure: the figure.
        paths: files; the ending says the format.
        dpi: resolution of PNG files.
    """
    for path in map(Path, paths):
        kind = path.suffix.removeprefix(".")
        metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
        with recorded(path) as partial:
            figure.savefig(partial, format=kind, dpi=dpi, metadata=metadata)


def new_figure(rows: int, columns: int, width: float, height: float, **shared) -> tuple:
    """Return a figure and its panels, shape (rows, columns).

    Args:
        rows: rows of panels.
        columns: columns of panels.
        width: width in inches.
        height: height in inches.
        shared: ``sharex`` and ``sharey`` of ``Figure.subplots``.

    Returns:
        (figure, axes).
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def one_scale(speed_limits: pd.DataFrame, columns: Sequence[str]) -> bool:
    """Return whether curves from both starts can be read on one logarithmic axis.

    Not where those from one of them would lie flat on it: finite steps that T_SL does not bound
    stretch the axis of the cold start over decades.

    Args:
        speed_limits: the table of that name.
        columns: what is drawn, in the same unit.
    """
    whole = speed_limits["realisation"].astype(str) == "ensemble"
    drawn = speed_limits[whole] if whole.any() else speed_limits
    found = drawn.melt("start", list(columns))
    found = found[found["value"] > 0]
    ends = np.log(found["value"]).groupby(found["start"]).agg(["min", "max"])
    heights = ends["max"].clip(lower=0) - ends["min"].clip(upper=0)  # the bound 1 is in sight
    return len(heights) < 2 or heights.min() > FLAT * heights.max()


def ensembles(table: pd.DataFrame) -> list[Ensemble]:
    """Return the ensembles of a table with labels and colours.

    Colours are sequential where one numeric setting varies, else categorical while they last, then
    one hue for each value of a setting.
    """
    found = ensemble_table(table)
    varied, columns = varied_settings(table), varied_columns(table)
    others = [name for name in varied if name not in columns]
    labels = [ensemble_label(row, columns) for _, row in found.iterrows()]
    reads = found[columns].notna().any(axis=1)  # else the label says n, which need not vary
    for index in np.flatnonzero(pd.Series(labels).duplicated(keep=False) | ~reads):
        row = found.iloc[index]
        further = [setting(row, name) for name in others if pd.notna(row[name])]
        kept = [labels[index]] if reads.iloc[index] or not further else []
        labels[index] = ", ".join([*kept, *further])
    labels = distinct(labels, list(found["ensemble"]))
    sequential = len(varied) == 1 and varied[0] != "subset" and is_numeric_dtype(found[varied[0]])
    colours = palette(len(found), sequential=sequential)
    if not sequential and len(found) > len(OKABE_ITO):
        colours = grouped_palette(found[varied]) or colours
    return [Ensemble(*item) for item in zip(found["ensemble"], labels, colours, strict=True)]


def palette(count: int, *, sequential: bool) -> list[str]:
    """Return colours: viridis without its faint end, or of categories those that are made for them.

    Those of Okabe and Ito, then Petroff's, while they last.
    """
    if count == 1 or (not sequential and count <= len(OKABE_ITO)):
        return list(OKABE_ITO[:count])
    if not sequential and count <= len(PETROFF):
        return list(PETROFF[:count])
    return [mpl.colors.to_hex(c) for c in mpl.colormaps["viridis"](np.linspace(0.0, 0.78, count))]


def grouped_palette(settings: pd.DataFrame) -> list[str]:
    """Return one hue for each value of the setting that has fewest, darker along its rows.

    Args:
        settings: the settings that vary, one row per ensemble.

    Returns:
        Colours, one per row; empty where every setting has more values than there are hues.
    """
    counts = settings.nunique(dropna=False)
    counts = counts[counts > 1]
    if counts.min() > len(HUES) or not len(counts):
        return []
    column = settings[counts.idxmin()].map(str)
    colours = pd.Series("", index=settings.index)
    for hue, (_, rows) in zip(HUES, column.groupby(column, sort=False), strict=False):
        shades = mpl.colormaps[hue](np.linspace(0.4, 1.0, len(rows)))
        colours[rows.index] = [mpl.colors.to_hex(shade) for shade in shades]
    return list(colours)


def once(
    axes: Axes,
    rows: pd.DataFrame,
    shown: Sequence[Ensemble],
    columns: Sequence[str] = ("inefficiency",),
    place: str = "top",
    lines_above: int = 0,
) -> list[Ensemble]:
    """Return the ensembles to draw in a panel: one for those whose curves are the same.

    It is black, or, where these are not the only ones, has the colour of the first. Thresholds of
    the warm start share their cold start; the last colour would hide the others.

    Args:
        axes: the panel in which it is said.
        rows: rows of one start, of ensembles or else of their runs.
        shown: all ensembles.
        columns: what is drawn against lambda_1 t.
        place: "top", in the right corner, or "bottom", in the left one, of the panel.
        lines_above: of another note at the top of the panel.
    """
    whole = rows["realisation"].astype(str) == "ensemble"
    rows = rows[whole] if whole.any() else rows
    same: dict[bytes, list[Ensemble]] = {}
    for ensemble in shown:
        of = rows[rows["ensemble"] == ensemble.path].sort_values(["realisation", "time"])
        of = of[["time_lambda_1", *columns]].dropna(how="all", subset=list(columns))
        curve = np.nan_to_num(of.to_numpy(float), nan=-1.0)  # no column is negative
        same.setdefault(curve.tobytes() or ensemble.path.encode(), []).append(ensemble)
    shared = [alike for alike in same.values() if len(alike) > 1]
    if shared:
        at, side = {"top": (0.97, "right"), "bottom": (0.03, "left")}[place]
        told = (
            "black: the same runs" if len(shared) == 1 else "the same runs: in the first's colour"
        )
        below = {"xytext": (0, -8.5 * lines_above), "textcoords": "offset points"}
        frame = {"xycoords": "axes fraction", "ha": side, "va": place, "annotation_clip": False}
        axes.annotate(told, (at, at), fontsize=6, color=GREY, **below, **frame)
    if len(shared) == 1:
        shared[0][0] = shared[0][0]._replace(colour="black")
    return [of[0] for of in same.values()]


def plot_band(
    axes: Axes,
    at: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    colour: str,
    *,
    sideways: bool = False,
) -> None:
    """Shade an interval; nothing where it is undefined, as for a single realisation.

    Args:
        axes: panel.
        at: abscissae, or ordinates of intervals that lie ``sideways``.
        low: lower ends.
        high: upper ends.
        colour: of the ensemble.
        sideways: whether the intervals are of the abscissa.
    """
    at, low, high = (np.asarray(values, float) for values in (at, low, high))
    count = np.sum(np.isfinite(low) & np.isfinite(high))
    if count == 1:  # a band of no width
        bars = axes.hlines if sideways else axes.vlines
        bars(at, low, high, color=colour, linewidth=3, alpha=BAND["alpha"])
    elif count:
        fill = axes.fill_betweenx if sideways else axes.fill_between
        fill(at, low, high, color=colour, **BAND)


def thin_bands(axes: Axes) -> None:
    """Make the bands of a panel fainter that would, one over the other, hide its curves."""
    for band in axes.collections:
        band.set_alpha(min(BAND["alpha"], 1 / len(axes.collections)))


def line(kind: str, values: ArrayLike) -> dict:
    """Return the line style of a curve of ``CURVES``; a single point, no line, is marked.

    Hollow where it is not measured.
    """
    if np.sum(np.isfinite(np.asarray(values, float))) != 1:
        return CURVES[kind]
    around = {"mfc": "none", "markersize": 8}  # what is measured may lie inside
    return CURVES[kind] | {"marker": "o"} | ({} if kind == "measured" else around)


def plot_curve(
    axes: Axes,
    rows: pd.DataFrame,
    column: str,
    ensemble: Ensemble,
    kind: str = "measured",
    *,
    root: bool = False,
) -> None:
    """Draw a column against lambda_1 T, with its interval if it is measured.

    Args:
        axes: panel.
        rows: rows of one ensemble in order of time.
        column: column to draw.
        ensemble: gives the colour.
        kind: key of ``CURVES``.
        root: draw the square root.
    """
    shown = np.sqrt if root else np.asarray
    x, y = rows["time_lambda_1"].to_numpy(float), rows[column].to_numpy(float)
    if not np.any(np.isfinite(x) & np.isfinite(y)):  # Adam has ratios, but no lambda_1 T
        return
    axes.plot(x, shown(y), color=ensemble.colour, **line(kind, y))
    if kind == "measured" and f"{column}_low" in rows:
        low, high = (shown(rows[f"{column}_{end}"].to_numpy(float)) for end in ("low", "high"))
        plot_band(axes, x, low, high, ensemble.colour)


def forbidden(speed_limits: pd.DataFrame) -> str:
    """Return what stands in the region T < T_SL, which no flow enters.

    Finite steps may, momentum that is in motion at the start, whose kinetic energy T_SL leaves out,
    and at a temperature the bound on T/T_SL, which may be a loose one.
    """
    below = speed_limits[speed_limits["inefficiency"] < BELOW_ONE]
    bounds = at_a_temperature(below)
    moving = in_motion(below)
    words = {
        "not to finite steps": ~bounds & ~moving,
        "not to momentum in motion": moving,
        "not to a lower bound, at a temperature": bounds,
    }
    told = [text for text, rows in words.items() if rows.any()]
    if told:
        named = [r"$T < T_{\mathrm{SL}}$: forbidden", ",\n".join(["to gradient flow", *told])]
        return "\n".join(named)
    return r"forbidden: $T < T_{\mathrm{SL}}$"


def forbid_below(axes: Axes, label: str | None = None) -> None:
    """Draw the lower bound 1 on a logarithmic axis and shade what it forbids.

    Args:
        axes: a panel, when everything else is drawn; its lower limit is set just below the bound.
        label: text in the forbidden region.
    """
    low, high = axes.get_ylim()
    lines = label.count("\n") + 1 if label else 0
    points = axes.bbox.height * 72 / axes.figure.dpi
    share = max(0.11, (LINE_POINTS * lines + 3) / points)  # of the panel: room for the label
    low = min(low, high ** (-share / (1 - share)))
    # Panels that share the axis may yet need more room below.
    axes.axhspan(1e-30 * low, 1.0, color=SHADE, zorder=0, linewidth=0)
    axes.axhline(1.0, color="black", linewidth=0.8, zorder=1)
    axes.set_ylim(low, high)
    if label:
        side = _freer_side(axes, label, share)
        region = math.log(low) / math.log(low / high)  # of the panel's height
        height = min(region / 2, share / 2 + 3 / points)  # near the bottom, above ticks
        style = {"ha": side, "va": "center", "fontsize": 6, "color": GREY}
        place = {"left": 0.03, "right": 0.97}[side], height
        axes.text(*place, label, transform=axes.transAxes, **style)


def _freer_side(axes: Axes, label: str, height: float) -> str:
    """Return the side of a panel's foot, "left" or "right", where curves cross a label less.

    Args:
        axes: a panel with its limits.
        label: the text.
        height: of the panel, that the text takes.
    """
    longest = max(len(re.sub(r"\\mathrm|[\\${}_]", "", line)) for line in label.split("\n"))
    width = longest * LABEL_CHARACTER / _panel_width(axes)
    left = right = 0
    for line in axes.lines:
        if line.get_transform() != axes.transData or not len(line.get_xydata()):
            continue
        across, up = (axes.transData - axes.transAxes).transform(line.get_xydata()).T
        steps = np.linspace(0, len(up) - 1, 10 * len(up))  # along the lines between points
        across, up = (np.interp(steps, np.arange(len(up)), values) for values in (across, up))
        low = up < 1.2 * height
        left += np.count_nonzero(low & (across < 0.03 + width))
        right += np.count_nonzero(low & (across > 0.97 - width))
    return "left" if left < right else "right"


def log_axes(axes: Axes, which: str = "x") -> None:
    """Make axes logarithmic, with as many labelled ticks as their range wants.

    Args:
        axes: a panel, when everything is drawn and limits are set.
        which: "x", "y" or "xy".
    """
    for name in which:
        getattr(axes, f"set_{name}scale")("log")
        low, high = getattr(axes, f"get_{name}lim")()
        axis = getattr(axes, f"{name}axis")
        decades = math.log10(high / low)
        room = _panel_width(axes) if name == "x" else None
        axis.set_major_locator(_labelled_ticks(low, high, decades, room))
        subs = [1.0] if decades > 7 else np.arange(2, 10)
        axis.set_minor_locator(ticker.LogLocator(10, subs=subs, numticks=60))
        axis.set_major_formatter(ticker.FuncFormatter(tick_text))
        axis.set_minor_formatter(ticker.NullFormatter())


def _panel_width(axes: Axes) -> float:
    """Return about how wide a panel will be, in inches, beside its labels."""
    grid = axes.get_subplotspec()
    columns = grid.get_gridspec().ncols if grid else 1
    return axes.get_figure().get_figwidth() / columns - 0.55


def _labelled_ticks(
    low: float, high: float, decades: float, room: float | None = None
) -> ticker.Locator:
    """Return the labelled ticks: powers of ten, their multiples, or even steps in a short range.

    Labels beside each other on an axis that is ``room`` inches wide do not touch.
    """
    if decades > 2.2:
        step = max(1, math.ceil(decades / 6))
        return ticker.FixedLocator(_powers_of_ten(low, high, step))
    if decades < 0.35:
        return ticker.MaxNLocator(5, steps=[1, 2, 5, 10])
    choices = [(1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)][decades > 1.2 :]
    fitting = (c for c in choices if room is None or _fit(low, high, c, room / decades))
    return ticker.LogLocator(10, subs=next(fitting, (1,)), numticks=30)


def _fit(low: float, high: float, multiples: Sequence[float], decade: float) -> bool:
    """Return whether the labels of ticks leave gaps on an axis with a decade of so many inches."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [m * 10.0**k for k in powers for m in multiples if low <= m * 10.0**k <= high]
    texts = [re.sub(r"[\\${}^]|times", "", tick_text(value)) for value in values]
    reach = [0.034 * len(text) for text in texts]  # half of a label, in inches
    gaps = decade * np.diff(np.log10(values))
    return all(gap > a + b + 0.06 for gap, (a, b) in zip(gaps, pairwise(reach), strict=True))


def _powers_of_ten(low: float, high: float, step: int) -> list[float]:
    """Return every step-th power of ten between two values."""
    first = math.ceil(round(math.log10(low) / step, 9)) * step
    return [10.0**k for k in range(first, math.floor(round(math.log10(high), 9)) + 1, step)]


def tick_text(value: float, _position: int | None = None) -> str:
    """Return a tick's label: plain from 0.01 to below 10000, beyond as a power of ten."""
    if 0.0099 < value < 9999:
        return f"{value:g}"
    exponent = math.floor(math.log10(value) + 1e-9)
    factor = value / 10.0**exponent
    head = "" if abs(factor - 1) < 1e-6 else rf"{factor:g}\times"
    return rf"${head}10^{{{exponent}}}$"


def panel_title(axes: Axes, letter: str, text: str) -> None:
    """Write a panel's letter and title above its left end."""
    axes.set_title(rf"$\bf{{{letter}}}$  {text}", loc="left")


def say(axes: Axes, text: str = NEVER_WARM) -> None:
    """Write a message in the middle of a panel that has nothing to show, and blank its ticks."""
    plain = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}  # lines of the panel pass below
    where = {"transform": axes.transAxes, "ha": "center", "va": "center", "zorder": 10}
    axes.text(0.5, 0.5, text, color=GREY, bbox=plain, **where)
    axes.tick_params(bottom=False, top=False, labelbottom=False, which="both")


def mark_without_value(axes: Axes, places: Iterable[float]) -> None:
    """Put a mark above every tick whose runs have no value in a panel that shows others.

    Args:
        axes: the panel.
        places: of these ticks, in the unit of the abscissa.
    """
    for place in places:  # a curve without points would confuse the layout
        axes.plot(place, 0.04, transform=axes.get_xaxis_transform(), zorder=4, **WITHOUT_VALUE)


def leave_empty(axes: Axes, reached: bool = True) -> None:
    """Say why a panel has no values: nothing to show, or a warm start that is not reached."""
    say(axes, NOTHING if reached else NEVER_WARM)
    axes.set_yticks([])


def note_bounds(
    axes: Axes, rows: pd.DataFrame, column: str, which: str = "lower", place: str = "top"
) -> None:
    """Say in a panel that what it draws of runs at a temperature are bounds.

    Args:
        axes: the panel.
        rows: what it draws.
        column: of T/T_SL or T_SL.
        which: "lower" or "upper" bounds.
        place: "top" or "bottom" of the panel, at its left side.
    """
    if (at_a_temperature(rows) & rows[column].notna()).any():
        given = {"transform": axes.transAxes, "va": place, "fontsize": 6, "color": GREY}
        height = {"top": 0.97, "bottom": 0.03}[place]
        axes.text(0.03, height, f"at a temperature: {which} bounds", **given)
        axes.margins(y=0.15)  # room for it


def with_values(
    shown: list[Ensemble], table: pd.DataFrame, columns: Sequence[str]
) -> list[Ensemble]:
    """Return the ensembles that have a value of a column, all if none has: Adam has no T/T_SL.

    Args:
        shown: all ensembles.
        table: with ``ensemble``, ``time_lambda_1`` and the columns.
        columns: what a figure draws.
    """
    table = table[table["time_lambda_1"].notna()]
    there = set(table.loc[table[list(columns)].notna().any(axis=1), "ensemble"])
    return [ensemble for ensemble in shown if ensemble.path in there] or shown


def colour_legend(figure: Figure, shown: Sequence[Ensemble]) -> None:
    """Say above the panels which colour is which ensemble; many rows make the figure higher."""
    legend_above(figure, colour_handles(shown))


def colour_handles(shown: Sequence[Ensemble]) -> list[Line2D]:
    """Return the entries of a legend that says which colour is which ensemble."""
    return [Line2D([], [], color=e.colour, lw=2.0, label=e.label) for e in shown]


def number_handles(labels: Sequence[str]) -> list[Line2D]:
    """Return the entries of a legend that says which label has which number, from 1 on."""
    digits = {"color": "black", "linestyle": "none", "markeredgewidth": 0.3}
    return [
        # Two digits are 1.5 times as wide as they are high, which the size is the larger of.
        Line2D([], [], marker=f"${k}$", markersize=(5, 7.5)[k > 9], label=label, **digits)
        for k, label in enumerate(labels, start=1)
    ]


def number_legend(figure: Figure, shown: Sequence[Ensemble]) -> None:
    """Say above the panels which ensemble has which number; see ``abscissa_ticks``."""
    legend_above(figure, number_handles([e.label for e in shown]))


def legend_above(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Put a legend above the panels; long entries are folded, many lines make the figure higher."""
    room = int(LEGEND_CHARACTERS * figure.get_figwidth() / DOUBLE_COLUMN) - 9
    for handle in handles:
        text = str(handle.get_label())
        handle.set_label(text if "$" in text else textwrap.fill(text, room))
    lines = [str(handle.get_label()).replace("$", "").split("\n") for handle in handles]
    longest = max(len(line) for of in lines for line in of)
    columns = max(1, min(len(handles), (room + 9) // (longest + 9)))
    per_column = math.ceil(len(handles) / columns)
    rows = max(sum(map(len, lines[k : k + per_column])) for k in range(0, len(lines), per_column))
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * max(0, rows - 2))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns)


def curve_legend(
    figure: Figure,
    kinds: dict[str, str],
    band: str | None = None,
    star: str | None = None,
    points: Sequence[Line2D] = (),
) -> None:
    """Say below the panels which line style is which curve; more rows make the figure higher.

    Args:
        figure: the figure.
        kinds: key of ``CURVES`` -> text.
        band: what the shaded intervals are, if any is drawn.
        star: what the warm start's star is called, if any is drawn.
        points: further handles, of points.
    """
    handles = [Line2D([], [], color="black", label=text, **CURVES[k]) for k, text in kinds.items()]
    if band:
        handles.append(Patch(facecolor="0.3", label=band, **BAND))
    if star:
        marker = {**WARM_MARKER, "color": "white", "linestyle": "none"}
        handles.append(Line2D([], [], label=star, **marker))
    handles += points
    if not handles:
        return
    columns = min(3, len(handles))  # own choice: more would not fit the width
    rows = math.ceil(len(handles) / columns)
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * (rows - 1))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def finish_bounded(panels: Sequence[Axes], notes: dict[Axes, str]) -> None:
    """Set the logarithmic axes of panels that are bounded by 1 from below.

    Args:
        panels: the panels, when all curves are drawn.
        notes: panel -> text in its forbidden region.
    """
    for panel in panels:
        panel.set_yscale("log")
        thin_bands(panel)
        if panel.has_data():
            log_axes(panel, "x")
        elif not any(text.get_text() for text in panel.texts):
            say(panel, NOTHING)
    for panel in panels:
        forbid_below(panel, notes.get(panel))
        log_axes(panel, "y")


class Abscissa(NamedTuple):
    """The setting that results at the end are drawn against, and what else varies.

    Attributes:
        column: "n" or "width"; None if no numeric setting varies.
        label: of the axis.
        positions: folder of an ensemble -> position.
        series: label -> folders of its ensembles; one label, "", if nothing else varies.
    """

    column: str | None
    label: str
    positions: dict[str, float]
    series: dict[str, list[str]]


def abscissa(table: pd.DataFrame) -> Abscissa:
    """Return the axis for results at the end: n if it varies, else width, else one tick each.

    The width is no axis where an ensemble, as one of an own network, has none.
    """
    found = ensemble_table(table)
    varied = varied_settings(table)
    numeric = [name for name in NUMERIC if name in varied and found[name].notna().all()]
    column = next(iter(numeric), None)
    if column is None and len(found) == 1:
        column = "n"
    if column is None:
        positions = {e.path: float(k) for k, e in enumerate(ensembles(table))}
        return Abscissa(None, "", positions, {"": list(positions)})
    others = [name for name in varied if name != column]

    def key(row: pd.Series) -> str:
        return ", ".join(setting(row, name) for name in others if pd.notna(row[name]))

    keys = found.apply(key, axis=1)
    series = {key: list(found["ensemble"][keys == key]) for key in keys.unique()}
    label = "Training-set size $n$" if column == "n" else "Width"
    positions = dict(zip(found["ensemble"], found[column].astype(float), strict=True))
    return Abscissa(column, label, positions, series)


def beside(against: Abscissa, paths: Iterable[str], step: int) -> NDArray[np.float64]:
    """Return positions moved aside, so that marks of one ensemble and of series do not overlap.

    Args:
        against: the axis.
        paths: folders of the ensembles.
        step: place of the mark beside the position, from -2 to 2.

    Returns:
        Positions, shape (number of paths,).
    """
    values = np.array(sorted(set(against.positions.values())))
    gaps = np.diff(np.log(values) if against.column else values)
    count = len(against.series)
    slot = min(0.06, 0.8 * float(gaps.min()) / (5 * count)) if len(gaps) else 0.06 / count
    order = {path: k for k, members in enumerate(against.series.values()) for path in members}
    shift = np.array([slot * (step + 5 * (order[p] - (count - 1) / 2)) for p in paths])
    x = np.array([against.positions[p] for p in paths])
    return x * np.exp(shift) if against.column else x + shift


def abscissa_ticks(axes: Axes, against: Abscissa, shown: Sequence[Ensemble]) -> bool:
    """Put ticks on the values of a study: logarithmic if numeric, else one label per ensemble.

    Returns:
        Whether numbers stand for labels that would leave the panel no room (``number_legend``).
    """
    if against.column:
        values = sorted(set(against.positions.values()))
        axes.set_xscale("log")
        axes.set_xlim(values[0] / 1.4, values[-1] * 1.4)
        axes.xaxis.set_major_locator(ticker.FixedLocator(values))
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.set_xlabel(against.label)
        if len(values) > 6:  # own choice: more labels than that touch
            axes.tick_params(axis="x", labelrotation=45)
        return False
    places = [against.positions[e.path] for e in shown]
    axes.set_xlim(-0.6, len(shown) - 0.4)
    labels = [folded(e.label, LONGEST_TICK) for e in shown]
    if crowded(labels):
        axes.set_xticks(places, [str(k) for k in range(1, len(shown) + 1)])
        axes.set_xlabel("Ensembles, by the numbers above")
        return True
    axes.set_xticks(places, labels, rotation=30, ha="right")
    return False
