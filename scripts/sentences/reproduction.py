"""What the paper reports beside ours: value, interval, verdict, configuration.

Only studies in which nothing but n and the draw of the subset varies are compared, as in the
paper's figure 1. The paper gives no table: its values are what its text and figure 1 say, and a
verdict follows from the criterion that stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import pandas as pd

from pipeline.pages import html_table, study_label, varied_settings
from pipeline.tables import fitted_kernel, in_motion, of_kernel, shown_p_value
from speedlimits.speed_limit import BELOW_ONE, FLOW_DISCRETISATION

FIGURE_1 = "figure 1, read off"
# The paper's band of the warm inefficiency, 2 to 5, over its decade of n allows no steeper trend.
FLAT_SLOPE = math.log10(5 / 2)
# setting: the paper's value
PAPER_SETTINGS = {
    "dataset": "cifar10",
    "model": "myrtle5",
    "width": 128,
    "dynamics": "gradient_descent",
    "learning_rate": 1e-5,
    "learning_rate_unit": "absolute",
}
# The same, told where it differs: the paper's targets are one-hot, of its labels and outputs.
PAPER_DEFAULTS = {
    "targets": "one_hot",
    "label_noise": 0,
    "output_scale": 1,
    "subtract_start": False,
}
UNKNOWN_OF_PAPER = ("parameterisation", "initialisation", "final_time")
PAPER_SIZES = (500, 5000)
PAPER_REALISATIONS = 6
PAPER_WARM_ACCURACY = 0.12
PAPER_WARM_EPOCHS = (1500, 2500)
NEVER_WARM = "warm start not reached"
IN_RANGE = (
    "the value lies in the range; not decided where it does not and its interval meets the range, "
    "or it has none"
)
MOVING_AT_WARM = "no bound: momentum has kinetic energy at the warm start"


class Measured(NamedTuple):
    """One number of ours.

    Attributes:
        label: ensemble or what else the number belongs to.
        value: the number; NaN if it was not measured.
        low: lower end of its interval, NaN if there is none.
        high: upper end.
        agrees: whether it meets the row's criterion; None if that is not decided.
        digits: that tell the numbers from what they are held against.
    """

    label: str
    value: float
    low: float
    high: float
    agrees: bool | None
    digits: int = 3


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        quantity: what is compared.
        paper: the paper's value or range in words.
        source: where the paper says it.
        criterion: when ours agrees.
        measured: our numbers.
        note: why there are none, if so.
    """

    quantity: str
    paper: str
    source: str
    criterion: str
    measured: list[Measured]
    note: str = ""

    @property
    def verdict(self) -> str:
        """Reproduced, partly, differs, not decided, or the note if nothing was measured."""
        if not self.measured:
            return self.note or "not measured"
        decided = [m.agrees for m in self.measured if m.agrees is not None]
        agreeing, count = sum(decided), len(self.measured)
        if not decided:
            return "not decided"
        if agreeing == count:
            return "reproduced"
        undecided = count - len(decided)
        more = f", {undecided} not decided" if undecided else ""
        if agreeing:
            return f"partly ({agreeing} of {count}{more})"
        return f"differs ({len(decided)} of {count}{more})" if more else "differs"


def in_range(value: float, low: float, high: float, least: float, most: float) -> bool | None:
    """Return whether a value lies in [least, most].

    Returns:
        None for a value outside whose interval meets the range, or that has no interval.
    """
    if least <= value <= most:
        return True
    return False if low > most or high < least else None


def digits_apart(numbers: Iterable[float], from_values: Iterable[float]) -> int:
    """Return how many digits, 3 to 6, leave numbers on their side of the values held against."""
    pairs = [(x, end) for x in numbers if math.isfinite(x) for end in from_values]
    for digits in (3, 4, 5):
        rounded = [(float(f"{x:.{digits}g}"), x, end) for x, end in pairs]
        if all((r > end, r < end) == (x > end, x < end) for r, x, end in rounded):
            return digits
    return 6


def ends(limits: pd.DataFrame, start: str) -> pd.DataFrame:
    """Return the last row of every ensemble from one start, by folder."""
    rows = limits[(limits["start"] == start) & (limits["realisation"] == "ensemble")]
    rows = rows.sort_values("time", kind="stable")
    # not .last(), which takes an earlier time where the end is missing: after a divergence
    return rows.groupby("ensemble", sort=False).tail(1).set_index("ensemble")


def at_end(
    limits: pd.DataFrame,
    labels: dict[str, str],
    start: str,
    column: str,
    within: tuple[float, float],
    transform: Callable[[float], float] = float,
) -> list[Measured]:
    """Return a column at the last time of every ensemble, held against a range.

    Args:
        limits: ``speed_limits.csv`` of a study.
        labels: folder of each ensemble -> its label.
        start: "cold" or "warm".
        column: column with ``_low`` and ``_high`` beside it.
        within: the paper's range.
        transform: monotonic function of the three numbers.

    Returns:
        One number per ensemble, NaN for those without; none if no ensemble has it.
    """
    found = []
    for path, row in ends(limits, start).reindex(list(labels)).iterrows():
        numbers = [transform(row[name]) for name in (column, f"{column}_low", f"{column}_high")]
        agrees = in_range(*numbers, *within) if math.isfinite(numbers[0]) else None
        found.append(Measured(labels[path], *numbers, agrees, digits_apart(numbers, within)))
    return found if any(math.isfinite(m.value) for m in found) else []


def slope(trends: pd.DataFrame, start: str, agrees: Callable, level: float) -> list[Measured]:
    """Return the slope of ln T/T_SL against ln n from one start.

    Args:
        trends: ``trends.csv`` of a study.
        start: "cold" or "warm".
        agrees: (slope, low, high, p) -> whether the criterion is met; None if not decided.
        level: level of significance.

    Returns:
        One number, or none without a trend.
    """
    wanted = {"at": "end", "start": start, "quantity": "inefficiency"}
    rows = trends[(trends[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    rows = rows[rows["slope"].notna()]
    found = []
    for _, row in rows.iterrows():
        numbers = [row[name] for name in ("slope", "slope_low", "slope_high")]
        p = row["p_value"]
        told = "slope on ln n" + (f", {shown_p_value(p, level)}" if math.isfinite(p) else "")
        digits = digits_apart(numbers, (-FLAT_SLOPE, 0.0, FLAT_SLOPE))
        found.append(Measured(told, *numbers, agrees(*numbers, p), digits))
    return found


def falling(level: float) -> Callable:
    """Return the criterion of a significant fall at a level of significance."""

    def agrees(value: float, low: float, high: float, p_value: float) -> bool | None:
        significant = p_value <= level and (high < 0 or low > 0)
        return value < 0 if significant else None

    return agrees


def flat(value: float, low: float, high: float, p_value: float) -> bool | None:
    """Return whether a slope's interval lies in the flat range; None if it reaches out of it."""
    if -FLAT_SLOPE < low and high < FLAT_SLOPE:
        return True
    return False if low > FLAT_SLOPE or high < -FLAT_SLOPE else None


def residue_spread(exponents: pd.DataFrame, labels: dict[str, str]) -> list[Measured]:
    """Return by how much delta approaches 0, uniform residue projections, at the warm start.

    Args:
        exponents: ``exponents.csv`` of a study.
        labels: folder of each ensemble -> its label.

    Returns:
        |delta| at the warm start minus |delta| at the start, decided where the two intervals of
        |delta| are disjoint: a delta of the other sign may be as far from 0. Of the full kernel
        where an ensemble has it, else of the output-traced one.
    """
    found = []
    for path, label in labels.items():
        rows = exponents[exponents["ensemble"] == path]
        kernel = fitted_kernel(rows["kernel"])
        rows = rows[(rows["kernel"] == kernel) & rows["delta"].notna()].set_index("moment")
        if not {"start", "warm"} <= set(rows.index):
            continue
        start, warm = rows.loc["start"], rows.loc["warm"]
        (start_low, start_high), (warm_low, warm_high) = map(size_interval, (start, warm))
        disjoint = warm_high < start_low or warm_low > start_high
        change = abs(warm["delta"]) - abs(start["delta"])
        deltas = f"delta {start['delta']:.2f} to {warm['delta']:.2f}, change of |delta|"
        told = f"{label}{of_kernel(kernel)}: {deltas}"
        found.append(Measured(told, change, math.nan, math.nan, change < 0 if disjoint else None))
    return found


def size_interval(fit: pd.Series) -> tuple[float, float]:
    """Return the ends of the interval of |delta|, which begins at 0 where that of delta holds 0."""
    low, high = fit["delta_low"], fit["delta_high"]
    return max(low, -high, 0.0), max(-low, high)


def warm_epochs(
    warm: pd.DataFrame, study: list[dict], labels: dict[str, str]
) -> tuple[list[Measured], str]:
    """Return the warm start in epochs, where the descent is the paper's, and why there is none."""
    found, note = [], "not comparable (other dynamics or threshold)"
    for ensemble in study:
        settings = ensemble["settings"]
        row = warm[warm["ensemble"] == ensemble["path"]].iloc[0]
        comparable = (
            settings["dynamics"] == "gradient_descent"
            and settings["learning_rate"] == PAPER_SETTINGS["learning_rate"]
            and settings["learning_rate_unit"] == "absolute"
            and row["threshold"] == PAPER_WARM_ACCURACY
        )
        if not comparable:
            continue
        note = NEVER_WARM
        if row["reached"]:
            rate = settings["learning_rate"]
            epochs, before = row["time"] / rate, (row["time"] - row["time_resolution"]) / rate
            numbers = (epochs, before, epochs)
            agrees = in_range(*numbers, *PAPER_WARM_EPOCHS)
            digits = digits_apart(numbers, PAPER_WARM_EPOCHS)
            found.append(Measured(labels[ensemble["path"]], *numbers, agrees, digits))
    return found, note


def without_warm_start(limits: pd.DataFrame, warm: pd.DataFrame) -> str:
    """Return why a study has no rows from the warm start; empty if it has some.

    Args:
        limits: ``speed_limits.csv`` of the study.
        warm: ``warm_starts.csv`` of the study.
    """
    if "warm" in set(limits["start"]):
        return ""
    return "warm start at the last recorded time" if warm["reached"].any() else NEVER_WARM


def rows_of_study(tables: dict[str, pd.DataFrame], study: list[dict], level: float) -> list[Row]:
    """Return the comparison of one study with the paper.

    Args:
        tables: ``speed_limits``, ``trends``, ``exponents`` and ``warm_starts`` of the study.
        study: its ensembles, as ``Plan.described`` gives them.
        level: level of significance of a trend.

    Returns:
        The rows, in the order of the paper.
    """
    varied = varied_settings(study)
    labels = {ensemble["path"]: study_label(ensemble["settings"], varied) for ensemble in study}
    limits, trends = tables["speed_limits"], tables["trends"]
    never_warm = without_warm_start(limits, tables["warm_starts"])
    epochs, no_epochs = warm_epochs(tables["warm_starts"], study, labels)
    moving = in_motion(limits)
    limits = limits.assign(inefficiency=limits["inefficiency"].mask(moving))
    not_in_motion = MOVING_AT_WARM if moving.any() else never_warm
    of_order_one = (0.0, math.sqrt(10))
    return [
        bound_row(limits, {ensemble["settings"]["dynamics"] for ensemble in study}),
        Row(
            "T/T_SL from a cold start, end of training",
            "about 10 to 30",
            FIGURE_1,
            IN_RANGE,
            at_end(limits, labels, "cold", "inefficiency", (10, 30)),
        ),
        Row(
            "trend with n, cold start",
            "falls with n",
            FIGURE_1,
            f"slope < 0 with an interval below 0 and p <= {level:.3g} of this test alone",
            slope(trends, "cold", falling(level), level),
        ),
        Row(
            "T/T_SL from the warm start, end of training",
            "about 2 to 5",
            FIGURE_1,
            IN_RANGE,
            at_end(limits, labels, "warm", "inefficiency", (2, 5)),
            not_in_motion,
        ),
        Row(
            "trend with n, warm start",
            "roughly flat",
            FIGURE_1,
            f"interval of the slope within ±{FLAT_SLOPE:.2f}, what the band 2 to 5 leaves",
            slope(trends, "warm", flat, level),
            not_in_motion,
        ),
        *(
            Row(
                f"l_gamma / l_geo, {start} start, end of training",
                "of order 1",
                FIGURE_1,
                "below the square root of 10",
                at_end(limits, labels, start, "path_excess", of_order_one, math.sqrt),
                never_warm if start == "warm" else "",
            )
            for start in ("cold", "warm")
        ),
        Row(
            "residue projections on the NTK eigenvectors",
            "more uniform at the warm start",
            FIGURE_1,
            "|delta| falls from the start to the warm start, intervals of |delta| disjoint",
            residue_spread(tables["exponents"], labels),
            "no fit at both moments",
        ),
        Row(
            "warm start, 12 % test accuracy",
            "about epoch 2000",
            FIGURE_1,
            "within 1500 to 2500 epochs of descent at learning rate 1e-5",
            epochs,
            no_epochs,
        ),
    ]


def bound_row(limits: pd.DataFrame, dynamics: set[str]) -> Row:
    """Return the comparison of T/T_SL with its bound, at every time of every run.

    Finite steps have a loss drop below their action, and T/T_SL below 1 then breaks nothing; their
    kinematic inefficiency, with the action itself, is at least 1 for any dynamics.

    Args:
        limits: ``speed_limits.csv`` of a study, without T/T_SL where it leaves kinetic energy out.
        dynamics: those of the study.
    """
    smallest = limits["inefficiency"].min()
    told, criterion = "smallest of all runs and times", f"at least 1 - {FLOW_DISCRETISATION}"
    agrees = bool(smallest >= BELOW_ONE)
    if dynamics == {"gradient_flow"}:
        criterion += " (error of the integration)"
    else:
        criterion += (
            "; where finite steps or gradient noise bring it lower, the kinematic inefficiency, "
            "which has the action in place of the loss drop, is"
        )
        if smallest < BELOW_ONE:
            kinematic = limits["kinematic_inefficiency"].min()
            agrees = bool(kinematic >= BELOW_ONE)
            digits = digits_apart([kinematic], [BELOW_ONE])
            told += f" (kinematic inefficiency at least {kinematic:.{digits}g})"
    digits = digits_apart([smallest], [BELOW_ONE])
    bound = Measured(told, smallest, math.nan, math.nan, agrees, digits)
    measured = [bound] if math.isfinite(smallest) else []  # Adam's T_SL has no meaning
    return Row("T/T_SL, every run and time", "at least 1", "its bound, eq. 8", criterion, measured)


def configuration(study: list[dict], realisations: int, accuracy: float) -> str:
    """Return in words what was run, and in what it differs from the paper's experiment."""
    settings = study[0]["settings"]
    sizes = sorted({ensemble["settings"]["n"] for ensemble in study})
    told = [
        f"{name.replace('_', ' ')} {settings.get(name, 'none')}"
        + ("" if settings.get(name) == value else f" (paper: {value})")
        for name, value in PAPER_SETTINGS.items()
        if not name.startswith("learning_rate") or settings["dynamics"] == "gradient_descent"
    ]
    told += [
        f"{name.replace('_', ' ')} {settings[name]} (paper: {value})"
        for name, value in PAPER_DEFAULTS.items()
        if settings.get(name, value) != value
    ]
    told += [
        f"{name.replace('_', ' ')} {settings[name]}"
        + (f" (unit {settings['time_unit'].replace('_', ' ')})" if name == "final_time" else "")
        for name in UNKNOWN_OF_PAPER
        if name in settings
    ]
    paper_sizes = "" if (sizes[0], sizes[-1]) == PAPER_SIZES else " (paper: 500 to 5000)"
    told.append(f"n {', '.join(map(str, sizes))}{paper_sizes}")
    six = "" if realisations == PAPER_REALISATIONS else f" (paper: {PAPER_REALISATIONS})"
    told.append(f"{realisations} realisations{six}")
    paper_accuracy = "" if accuracy == PAPER_WARM_ACCURACY else " (paper: 12 %)"
    told.append(f"warm start at {100 * accuracy:g} % test accuracy{paper_accuracy}")
    return "; ".join(told)


def only_size_varies(study: list[dict]) -> bool:
    """Return whether a study varies n, and nothing else but the draw of the subset."""
    varied = varied_settings(study)
    return len(varied["n"] if "n" in varied else []) > 1 and set(varied) <= {"n", "subset"}


def at_a_temperature(study: list[dict]) -> bool:
    """Return whether T/T_SL of a study is only a lower bound, which no range of values decides."""
    return any(
        ensemble["settings"]["dynamics"] == "langevin" and ensemble["settings"]["temperature"] > 0
        for ensemble in study
    )


def tidy(name: str, rows: list[Row], described: str) -> Iterable[dict]:
    """Yield the table's lines as they are stored: one per number of ours."""
    for row in rows:
        missing = Measured("", math.nan, math.nan, math.nan, None)
        for m in row.measured or [missing]:
            agrees = "" if m.agrees is None else str(m.agrees).lower()
            yield {
                "study": name,
                "quantity": row.quantity,
                "paper": row.paper,
                "source": row.source,
                "of": m.label,
                "value": m.value,
                "low": m.low,
                "high": m.high,
                "agrees": agrees,
                "verdict": row.verdict,
                "criterion": row.criterion,
                "configuration": described,
            }


def in_words(m: Measured) -> str:
    """Return one number with its interval, as the page shows it."""
    if not math.isfinite(m.value):
        return f"{m.label}: not measured"
    value, low, high = (f"{x:.{m.digits}g}" for x in (m.value, m.low, m.high))
    return f"{m.label}: {value}" + (f" [{low}, {high}]" if math.isfinite(m.low) else "")


def fragment(compared: dict[str, tuple[list[Row], str]]) -> str:
    """Return the table in HTML, one per study; or a sentence if no study can be compared."""
    if not compared:
        return "<p>No study without noise varies n alone: nothing is held against the paper.</p>\n"
    header = ("quantity", "paper", "ours, with interval", "verdict", "configuration")
    tables = []
    for name, (rows, described) in compared.items():
        lines = [
            (
                row.quantity,
                f"{row.paper}\n({row.source})",
                "\n".join(map(in_words, row.measured)) or "\N{EN DASH}",
                f"{row.verdict}\ncriterion: {row.criterion}",
                described if index == 0 else "the same",
            )
            for index, row in enumerate(rows)
        ]
        caption = f"Reproduction of the paper's figure 1 by the study {name}"
        tables.append(html_table(header, lines, caption, "reproduction"))
    return "\n".join(tables)
