"""Sentences about networks of finite width against the limit of infinite width."""

from __future__ import annotations

import math

import pandas as pd

from sentences.ensembles import within_integration
from sentences.phrases import counted, interval, listed, name_of, words
from speedlimits.width_scaling import POWERS

# Columns of infinite_width.csv in words: I = T/T_SL, I_NTK and I_infinity are its predictions.
WIDTH_QUANTITIES = {
    "drift": "the kernel's drift",
    "deviation": "ln(I / I_infinity)",
    "deviation_of_start": "ln(I_NTK / I_infinity), the share of the kernel at the start",
    "deviation_in_training": "ln(I / I_NTK), the share of the kernel's change in training",
}


def expected(row: pd.Series) -> str:
    """Return the powers that are expected, and whether the interval holds them.

    Args:
        row: of infinite_width_powers.csv, with a finite power and interval.
    """
    low, high = row["power_low"], row["power_high"]
    smooth, relu = row["power_expected"], row["power_expected_relu"]
    places = ["inside" if low <= power <= high else "outside" for power in (smooth, relu)]
    text = f"expected {smooth:g}, {places[0]} the interval"
    if smooth != relu:
        text = f"expected {smooth:g} with smooth activations, {places[0]} the interval, "
        text += f"to {relu:g} with ReLUs, {places[1]}"
        text += " (it lies between them)" if smooth < low and high < relu else ""
    return text + (" (0 is inside too: no evidence of a power)" if low <= 0 <= high else "")


def infinite_width_part(tables: dict[str, pd.DataFrame], axes: dict, confidence: float) -> str:
    """Return how far networks are from infinite width, and by which powers of the width.

    Args:
        tables: with infinite_width and infinite_width_powers, if the study has that figure.
        axes: of the study.
        confidence: of the intervals.

    Returns:
        A line per ensemble of the widest networks and one per statistic that is fitted, over the
        wider half of the widths and over all; empty without these tables.
    """
    if "infinite_width" not in tables:
        return ""
    table, powers = tables["infinite_width"], tables["infinite_width_powers"]
    names = table["realisation"].astype(str)
    ends = table.sort_values("time", kind="stable").groupby([table["ensemble"], names]).tail(1)
    whole = ends[ends["realisation"].astype(str) == "ensemble"]
    lines = []
    for _, row in whole[whole["width"] == whole["width"].max()].iterrows():
        runs = int((ends["ensemble"] == row["ensemble"]).sum()) - 1
        about = f"- The widest networks ({name_of(row, axes)}, {counted(runs)}): "
        fields = {"": "deviation", "_low": "deviation_low", "_high": "deviation_high"}
        ratio = pd.Series({f"ratio{end}": math.exp(row[name]) for end, name in fields.items()})
        if not math.isfinite(ratio["ratio"]):
            lines.append(f"{about}no I / I_infinity, since a run has none.")
            continue
        verdict = within_integration(ratio["ratio_low"], ratio["ratio_high"])
        verdict = verdict or (
            f"{'slower' if ratio['ratio'] > 1 else 'faster'} than infinitely wide ones"
        )
        if not math.isfinite(ratio["ratio_low"]):
            verdict = "too few runs for an interval"
        elif ratio["ratio_low"] <= 1 <= ratio["ratio_high"]:
            verdict = "no evidence of a difference"
        shown = interval(ratio, "ratio", confidence)
        lines.append(f"{about}I / I_infinity = {shown}, {verdict}.")
    widths = sorted(ends["width"].unique())
    for (quantity, statistic), fits in powers.groupby(["quantity", "statistic"], sort=False):
        told = []
        for _, row in fits.iloc[::-1].drop_duplicates("least_width").iterrows():
            least, largest = row["least_width"], row["largest_width"]
            count = sum(least <= width <= largest for width in widths)
            over = f"over {count} widths from {least:g} to {largest:g} ({row['points']:.0f} runs)"
            fit = "no power could be fitted"
            if math.isfinite(row["power"]):
                fit = f"s = {interval(row, 'power', confidence)}, {expected(row)}"
            if row["power_high"] - row["power_low"] > POWERS[-1] - POWERS[0]:
                fit = "too few runs to tell any power"
            told.append(f"{over} {fit}")
        of = f"{words(statistic).capitalize()} over runs of {WIDTH_QUANTITIES[quantity]}"
        lines.append(f"- {of}: {'; '.join(told)}.")
    return listed(
        "Against infinite width, from the cold start at the end of training: I = T/T_SL, I_NTK "
        "predicted from the NTK at the start, I_infinity from that of infinite width at the same "
        "outputs of the start (geometric means over runs). Fits of width^s over the wider half of "
        "the widths and over all, against the powers that docs/theory.md, section 10, derives; "
        "their intervals are not corrected for their number:",
        lines,
    )
