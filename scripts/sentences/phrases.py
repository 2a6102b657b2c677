"""Words, numbers with intervals and names of ensembles, of which sentences are made."""

from __future__ import annotations

import math
import re

import pandas as pd

from pipeline.columns import interval_name
from pipeline.runs import over_stability_limit

NAMES = {
    "inefficiency": "the inefficiency T/T_SL",
    "prediction_ratio": "the inefficiency over its prediction from the NTK",
    "energetic_inefficiency": "the energetic inefficiency",
    "kinematic_inefficiency": "the kinematic inefficiency T int |theta'|^2 dt / l_geo^2",
    "drift": "the kernel's drift",
    "alignment_gain": "the gain in kernel-target alignment",
    "test_error": "the test error",
    "test_loss": "the test loss per sample",
    "inefficiency_predicted": "its prediction from the NTK",
}


# Of a difference or a slope, in its own unit: rounding of equal runs, which would be told as an
# effect of 1e-17.
ROUNDING = 1e-14
# What Markdown would read as its own: in a word an underscore stands for itself.
MARKDOWN = re.compile(r"[\\`*\[\]<>|~&$]|(?<!\w)_+|_+(?!\w)|^[#+-]")


def words(name: object, axis: str = "") -> str:
    """Return a setting's name or value in words; the label of a case as Markdown shows it."""
    if axis == "case":
        return _as_markdown(str(name).strip())
    text = f"{name:g}" if isinstance(name, float) else str(name)
    return text if ":" in text else text.replace("_", " ")


def _as_markdown(label: str) -> str:
    """Return a label that Markdown shows as it is, with mathematics between $ untouched."""
    parts = re.split(r"(\$[^$]+\$)", label)
    for k in range(0, len(parts), 2):
        parts[k] = MARKDOWN.sub(lambda found: re.sub("(.)", r"\\\1", found[0]), parts[k])
    return re.sub(r"^(\d{1,9})([.)])", r"\1\\\2", "".join(parts))  # else an item of a list


def beyond_rounding(x: float) -> float:
    """Return a difference or a slope, or 0 where it is rounding."""
    return 0.0 if abs(x) < ROUNDING else x


def digits_apart(*sets: set[float], fewest: int = 3) -> int:
    """Return with how many digits the numbers of each set differ, at most 6.

    Args:
        sets: of numbers.
        fewest: digits that are shown anyway.
    """
    digits = fewest
    while digits < 6 and any(len({f"{x:.{digits}g}" for x in of}) < len(of) for of in sets):
        digits += 1
    return digits


def interval(row: pd.Series, name: str, confidence: float) -> str:
    """Return a value with its interval, if it has one, in 3 digits, or as many as tell them apart.

    And from 1, at most 6: "1 (95 % interval 1 to 1)" would hide on which side of 1 it lies. One of
    no length in as many, of runs that are the same but for rounding, is not told.
    """
    ends = (row[name], row[f"{name}_low"], row[f"{name}_high"])
    value, low, high = map(beyond_rounding, ends)
    if not math.isfinite(low):
        return f"{value:.3g}"
    digits = digits_apart({value, low, high}, {low, high, 1.0})
    shown = [f"{x:.{digits}g}" for x in (value, low, high)]
    if low < high and shown[1] == shown[2]:
        return shown[0]
    return f"{shown[0]} ({interval_name(confidence)} {shown[1]} to {shown[2]})"


def percent(share: float, digits: int = 2) -> str:
    """Return a share in percent, with that many significant digits: "0.12 %", "84 %", "143 %"."""
    value = 100 * share
    return f"{value:.{digits}g} %" if value < 10**digits - 0.5 else f"{value:.0f} %"


def counted(runs: float) -> str:
    """Return a number of runs in words: "1 run", "3 runs"."""
    return f"{runs:.0f} run{'s' if runs > 1 else ''}"


def named_axes(axes: dict, outcomes: pd.DataFrame) -> dict:
    """Return the axes that name an ensemble: those of the study, and the subset where it varies."""
    several = "subset" in outcomes and outcomes["subset"].nunique() > 1
    return {**axes, "subset": sorted(outcomes["subset"].unique())} if several else axes


def name_of(row: pd.Series, axes: dict) -> str:
    """Return what tells an ensemble from the others of its study."""
    read = [axis for axis in axes if pd.notna(row[axis])]  # myrtle5 does not read the depth
    relative = over_stability_limit(row.get("ensemble", ""))
    units = {"learning_rate": " x 2/lambda_1"} if relative else {}
    names = {axis: "" if axis == "case" else f"{words(axis)} " for axis in read}
    told = [f"{names[axis]}{words(row[axis], axis)}{units.get(axis, '')}" for axis in read]
    return ", ".join(told) or "one ensemble"


def listed(heading: str, lines: list[str]) -> str:
    """Return a heading with its list, empty without lines."""
    return "\n".join([heading, "", *lines]) if lines else ""
