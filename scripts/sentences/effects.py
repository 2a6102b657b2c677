"""Sentences about tests along the axes of a study.

A sentence claims an effect if its adjusted p-value (Holm, over all that the study tests) is at most
1 - confidence and its interval, if it has one, leaves out no effect; else it says that there is no
evidence, or that the runs are too few to give any. The interval may leave out no effect without a
claim: it is not adjusted, and that of a slope takes the scatter at equal settings only, the test
that about the trend too.
"""

from __future__ import annotations

import math

import pandas as pd

from pipeline.outcomes import MOMENTS_AT, PRIMARY, independent, repetitions
from pipeline.tables import (
    THRESHOLD,
    correlation_status,
    risen,
    shown_p_value,
    significance_level,
)
from sentences.phrases import NAMES, beyond_rounding, digits_apart, interval, listed, words
from speedlimits.statistics import SAME_RUNS

MOMENTS = {
    "end": "at the end of training",
    "equal_loss": "at equal training loss",
    "equal_gradients": "at equal numbers of gradients",
}

# What a test counts, by its column ``test``
COUNTED = {
    "runs": "runs", "few draws": "runs", "draws": "draws of samples", "student": "starts",
    "student of draws": "draws of samples",
}  # fmt: skip
LEVELS = {"between": "between ensembles", "within": "among runs of equal settings"}
# Why runs that have not diverged may have nothing to compare
WITHOUT = {
    "drift": "a drift of 0 has no logarithm",
    "energetic_inefficiency": (
        "there is none with the noise of minibatches or of a temperature, nor where a run lacks it"
    ),
}


def evidence(row: pd.Series, level: float) -> str:
    """Return "effect", "none" or "few" for one test.

    Args:
        row: p_value, p_adjusted, p_smallest, and slope, effect or correlation with its interval.
        level: that of ``significance_level``.
    """
    if not math.isfinite(row["p_value"]) or row["p_smallest"] > level:
        return "few"
    return "effect" if row["p_adjusted"] <= level and not holds_no_effect(row) else "none"


def holds_no_effect(row: pd.Series) -> bool:
    """Return whether the interval of a slope, effect or correlation holds that of no effect."""
    low, high, same = _interval_beside_no_effect(row)
    return bool(low <= same <= high)


def without_claim(row: pd.Series, level: float) -> str:
    """Return why nothing is claimed where the interval speaks against the test; else nothing."""
    low, high, same = _interval_beside_no_effect(row)
    if low > same or high < same:
        return f"although its interval has no {same:g}"
    return f"for its interval has {same:g}" if row["p_adjusted"] <= level else ""


def _interval_beside_no_effect(row: pd.Series) -> tuple[float, float, float]:
    """Return the ends of the interval of what a row tests, and its value without an effect."""
    column = next((name for name in ("effect", "slope", "correlation") if name in row), "")
    low, high = (row.get(f"{column}_{end}", math.nan) for end in ("low", "high"))
    return low, high, no_effect(row) if column == "effect" else 0.0


def tested(row: pd.Series) -> str:
    """Return the p-values of a row in words, with as many digits as tell them from the level."""
    level = significance_level(row.get("confidence", 0.95))
    single, adjusted = (shown_p_value(row[name], level) for name in ("p_value", "p_adjusted"))
    return f"{single}, adjusted {adjusted}, {row['points']} {COUNTED[row.get('test', 'runs')]}"


def too_few(rows: pd.DataFrame) -> list[str]:
    """Return sentences on each axis or value whose tests the runs cannot decide, or not make."""
    keys = ["against"] + (["value"] if "value" in rows else [])
    sentences = []
    possible = rows["p_smallest"].notna()
    # what is too few, told once for all quantities of which it is the same
    few = rows.reindex(columns=["points", "p_smallest", "test"]).where(possible).astype(object)
    few = few.apply(lambda row: "|".join(map(str, row)), axis=1) if len(rows) else possible
    for (*key, _), group in rows.groupby([*keys, few.rename("few")], sort=False):
        shown = key[1:] if key[0] == "case" else key
        about = " ".join(words(part, key[0]) for part in shown)
        least = group["p_smallest"].min()
        names = ", ".join(NAMES[q] for q in group["quantity"])
        count = int(group["points"].max())
        if not math.isfinite(least):  # Adam, or all but one value have diverged
            why = "; ".join(WITHOUT[q] for q in group["quantity"] if q in WITHOUT)
            why = f" ({why})" if why else ""
            without = f"Fewer than two values of {names} to compare for {about}{why}."
            if count:
                of = "both" if "value" in rows else "two of its values"
                without = (
                    f"Nothing to compare for {about} on {names}: not {of} have them{why}, none of "
                    "these agree in all other settings (one may not read what the other varies), "
                    "or runs do not scatter."
                )
            sentences.append(without)
            continue
        limit = f", whose least p-value is {least:.2g}"
        of = COUNTED[group["test"].iloc[0]]
        sentences.append(f"Too few {of} ({count}{limit}) to say anything of {about} on {names}.")
    return sentences


def trend_sentence(row: pd.Series, confidence: float) -> str:
    """Return the sentence of one row of the table trends."""
    name, axis = NAMES[row["quantity"]], words(row["against"])
    if evidence(row, significance_level(confidence)) == "none":
        told = f"slope {interval(row, 'slope', confidence)}; {tested(row)}"
        why = without_claim(row, significance_level(confidence))
        if why:
            return f"No trend of {name} with {axis} is claimed, {why} ({told})."
        return f"No evidence of a trend of {name} with {axis} ({told})."
    verb = "grows" if row["slope"] > 0 else "falls"
    laws = {
        ("factor", "log"): f"as {axis}^s",
        ("factor", "linear"): f"as e^(s x {axis})",
        ("difference", "log"): f"by s ln({axis})",
        ("difference", "linear"): f"by s x {axis}",
    }
    law = laws[row["kind"], row["scale"]]
    value = interval(row, "slope", confidence)
    return (
        f"{name[0].upper()}{name[1:]} {verb} with {axis}, {law} with s = {value} ({tested(row)})."
        f"{of_no_single_slope(row, confidence)}"
    )


def of_no_single_slope(row: pd.Series, confidence: float) -> str:
    """Return a sentence on what a slope is an average of, where a test says that no one fits.

    Args:
        row: of the table trends.
        confidence: of the study.
    """
    level = significance_level(confidence)
    least, slope, largest = (
        row.get(name, math.nan) for name in ("local_slope_least", "slope", "local_slope_largest")
    )
    # of runs that are the same but for rounding
    alike = not least < slope < largest or largest - least < SAME_RUNS * abs(slope)
    if alike or not row.get("p_single_slope", math.nan) <= level:
        return ""
    digits = digits_apart({least, slope, largest}, fewest=2)
    ends = [f"{beyond_rounding(x):.{digits}g}" for x in (least, largest)]
    return (
        f" No single slope fits ({shown_p_value(row['p_single_slope'], level)}): this s is an "
        f"average of those between neighbouring values, which lie between {' and '.join(ends)}."
    )


def comparison_sentence(row: pd.Series, confidence: float) -> str:
    """Return the sentence of one row of the table comparisons."""
    name, axis = NAMES[row["quantity"]], row["against"]
    value, reference = words(row["value"], axis), words(row["reference"], axis)
    where = "" if row["against"] == "case" else f"{words(row['against'])} "
    effect = interval(row, "effect", confidence)
    if evidence(row, significance_level(confidence)) == "none":
        told = f"{row['kind']} {effect}; {tested(row)}"
        why = without_claim(row, significance_level(confidence))
        if why:
            return (
                f"No difference of {name} of {where}{value} from that of {reference} is claimed, "
                f"{why} ({told})."
            )
        return (
            f"No evidence that {name} of {where}{value} differs from that of {reference} ({told})."
        )
    told = f"{effect} times that of {reference}"
    if row["kind"] == "difference":
        told = f"{change(row)} than that of {reference}, the difference being {effect}"
    return f"{name[0].upper()}{name[1:]} of {where}{value} is {told} ({tested(row)})."


def change(row: pd.Series) -> str:
    """Return whether a quantity is higher or lower than that of the reference."""
    return "higher" if row["effect"] > no_effect(row) else "lower"


def no_effect(row: pd.Series) -> float:
    """Return the effect of a comparison whose two values are equal."""
    return 1.0 if row["kind"] == "factor" else 0.0


def correlation_sentence(row: pd.Series, confidence: float) -> str:
    """Return the sentence of one row of the table correlations that the runs can decide."""
    pair = f"the inefficiency and {NAMES[row['with']]}"
    level = LEVELS[row["level"]]
    found = evidence(row, significance_level(confidence))
    shown = tested(row).replace("runs", "points")
    value = interval(row, "correlation", confidence)
    why = without_claim(row, significance_level(confidence))
    if found == "none" and why:
        return f"No rank correlation of {pair} {level} is claimed, {why}: {value} ({shown})."
    start = "No evidence of a rank correlation of" if found == "none" else "Rank correlation of"
    return f"{start} {pair} {level}: {value} ({shown})."


def correlation_lines(table: pd.DataFrame, confidence: float) -> list[str]:
    """Return a sentence per correlation, and one per level on those that the runs cannot decide."""
    sentences, few = [], []
    for _, row in table.iterrows():
        status = correlation_status(row, significance_level(confidence))
        if status == "constant":
            pair = f"the inefficiency and {NAMES[row['with']]} {LEVELS[row['level']]}"
            sentences.append(f"No correlation of {pair}: one of the two does not vary.")
        elif status == "described":
            pair = f"the inefficiency and {NAMES[row['with']]} {LEVELS[row['level']]}"
            sentences.append(
                f"Rank correlation of {pair}: {row['correlation']:.3g} ({row['points']} points, "
                "which differ in their settings and share some: not tested)."
            )
        elif status == "few":
            few.append(row)
        else:
            sentences.append(correlation_sentence(row, confidence))
    known = {row["with"] for _, row in table.iterrows() if row["points"]}
    for level, where in LEVELS.items():
        of_level = [row for row in few if row["level"] == level]
        without = [NAMES[row["with"]] for row in of_level if row["with"] not in known]
        undecided = [row for row in of_level if row["with"] in known]
        if without:
            sentences.append(
                f"Nothing to correlate with {', '.join(without)} {where}: no run has it and "
                "T/T_SL, which Adam has not, is a bound at a temperature, and wants a loss that "
                "drops."
            )
        if undecided:
            names = ", ".join(NAMES[row["with"]] for row in undecided)
            points = max(row["points"] for row in undecided)
            lacking = (
                f"points ({points}; ensembles of the same starts count as one, unless all do)"
                if level == "between"
                else f"realisations ({points} points)"
            )
            sentences.append(
                f"Too few {lacking} {where} to correlate the inefficiency with {names}."
            )
    return sentences


def out_of_reach(rows: pd.DataFrame, level: float) -> str:
    """Return a sentence on tests that Holm's first threshold put out of reach, empty without any.

    Args:
        rows: all primary tests of one moment, with p_value and p_smallest.
        level: 1 - confidence.
    """
    made = rows[rows["p_value"].notna()]
    if len(made) == 0:
        return ""
    least = made["p_smallest"]
    beyond = made[(least <= level) & (least > level / len(made))]
    if len(beyond) == 0:
        return ""
    return (
        f"Of the {len(made)} tests at this moment {len(beyond)} have too few arrangements of their "
        f"runs for Holm's first threshold, {level / len(made):.2g} (least p-values from "
        f"{beyond['p_smallest'].min():.2g}): unless others are claimed first, they can claim "
        "nothing, whatever the effect. Judge those by their intervals, or take more realisations "
        "or fewer values."
    )


def draw_sentence(tables: dict[str, pd.DataFrame]) -> list[str]:
    """Return a sentence where values of an axis have a draw of samples each, that runs share.

    Args:
        tables: trends and comparisons.
    """
    made = [tables[name] for name in ("trends", "comparisons") if len(tables[name])]
    told = [rows[(rows["test"] == "few draws") & rows["p_value"].notna()] for rows in made]
    axes = dict.fromkeys(axis for rows in told for axis in rows["against"])
    return [
        f"The runs of one {words(axis)} share too few draws of samples to permute these: what is "
        f"told of {words(axis)} is of the draws taken here, whose own differences would be told as "
        "well. More subsets (vary: subset) tell the two apart."
        for axis in axes
    ]


def effect_summary(tables: dict[str, pd.DataFrame], confidence: float) -> list[str]:
    """Return a sentence per start with all effects claimed at the end, or that there are none."""
    sentences = []
    for start in ("cold", "warm"):
        claimed, made, few = [], 0, 0
        for name in ("trends", "comparisons"):
            rows = tables[name]
            if "quantity" not in rows or len(rows) == 0:
                continue
            wanted = rows["quantity"].isin(PRIMARY) & (rows["at"] == "end")
            for _, row in rows[wanted & (rows["start"] == start)].iterrows():
                found = evidence(row, significance_level(confidence))
                made += found != "few"
                few += found == "few" and math.isfinite(row["p_value"])
                if found != "effect":
                    continue
                axis = words(row["against"])
                if name == "trends":
                    verb = "grows" if row["slope"] > 0 else "falls"
                    claimed.append(f"{NAMES[row['quantity']]} {verb} with {axis}")
                else:
                    where = "" if row["against"] == "case" else f"{axis} "
                    claimed.append(
                        f"{NAMES[row['quantity']]} is {change(row)} for {where}"
                        f"{words(row['value'], row['against'])} than for "
                        f"{words(row['reference'], row['against'])}"
                    )
        if made:
            more = f"; {few} more {'has' if few == 1 else 'have'} too few runs" if few else ""
            sentences.append(
                f"Claimed at the end, from the {start} start ({len(claimed)} of {made} tests{more}"
                f"): {'; '.join(claimed) or 'none'}."
            )
        elif few:
            sentences.append(
                f"Nothing can be claimed at the end, from the {start} start: too few runs for any "
                f"of {few} test{'s' if few > 1 else ''}."
            )
    return sentences


def generalisation_summary(correlations: pd.DataFrame, confidence: float) -> list[str]:
    """Return whether the test error goes with the inefficiency, where it was possible to tell."""
    if "with" not in correlations:
        return []
    rows = correlations[correlations["with"].isin(["test_error", "test_loss"])]
    rows = [row for _, row in rows.iterrows()]
    level = significance_level(confidence)
    decided = [row for row in rows if correlation_status(row, level) == "tested"]
    return [correlation_sentence(row, confidence) for row in decided]


def moment_in_words(at: str, start: str, outcomes: pd.DataFrame) -> str:
    """Return the moment of a comparison with its level and the runs that it leaves out."""
    words_of = MOMENTS[at]
    runs = outcomes[(outcomes["realisation"] != "ensemble") & (outcomes["start"] == start)]
    if at == "end":
        diverged = runs.loc[runs["at"] == at, "diverged"]
        lost = f" ({diverged.sum():.0f} of {len(diverged)} runs have diverged and are left out)"
        words_of += lost if diverged.any() else ""
        ends = runs[runs["at"] == at]
        up = risen(ends)
        untold = f" (the loss of {up.sum()} of {len(up)} runs has not dropped: T/T_SL is not "
        return words_of + (f"{untold}compared for their ensembles)" if up.any() else "")
    there, all_runs = ((runs["at"] == moment).sum() for moment in (at, "end"))
    if at == "equal_loss" and "train_loss_share" in runs and there:
        share = runs.loc[runs["at"] == at, "train_loss_share"].iloc[0]
        words_of += f", {share:.3g} of that of the start"
    if at == "equal_gradients" and "gradients" in runs and there:
        words_of += f", {runs.loc[runs['at'] == at, 'gradients'].iloc[0]:.0f} each"
    if (up := risen(runs[runs["at"] == at])).any():
        words_of += (
            f" (T/T_SL of {up.sum()} of {len(up)} runs is not known there or just before: it "
            "is not compared for their ensembles)"
        )
    left_out = f" ({there} of {all_runs} runs: the others pass it before the first recorded time"
    never = ", never fall below it" if at == "equal_loss" else ""
    return words_of + (f"{left_out}{never} or have diverged)" if there < all_runs else "")


def threshold_in_words(at: str, outcomes: pd.DataFrame) -> str:
    """Return at which threshold runs count from the warm start, where a study has several.

    Args:
        at: moment.
        outcomes: table of that name.
    """
    runs = outcomes[outcomes["realisation"] != "ensemble"]
    runs = runs[~repetitions(runs)]
    here = runs[(runs["at"] == at) & (runs["start"] == "warm")]
    if THRESHOLD not in here or here[THRESHOLD].nunique() < 2:
        return ""
    chosen = words(independent(here, axis="")[THRESHOLD].iloc[0])
    return f", along other axes at the threshold {chosen} alone, which most runs reach"


def effect_parts(tables: dict[str, pd.DataFrame], confidence: float) -> list[str]:
    """Return the parts that tell the tests along the axes, at each moment and from each start.

    Args:
        tables: outcomes, trends and comparisons.
        confidence: of the study.
    """
    kinds = {"trends": trend_sentence, "comparisons": comparison_sentence}
    made = {name: tables[name] for name in kinds if len(tables[name])}
    primary = {name: rows[rows["quantity"].isin(PRIMARY)] for name, rows in made.items()}
    parts = []
    for at in MOMENTS_AT:
        there = {name: rows[rows["at"] == at] for name, rows in primary.items()}
        if there:
            parts.append(out_of_reach(pd.concat(there.values()), significance_level(confidence)))
        for start in ("cold", "warm"):
            sentences = []
            of_start = {name: rows[rows["start"] == start] for name, rows in there.items()}
            for name, rows in of_start.items():
                level = significance_level(confidence)
                undecided = [evidence(row, level) == "few" for _, row in rows.iterrows()]
                undecided = pd.Series(undecided, rows.index, bool)
                decided = rows[~undecided]
                sentences += [kinds[name](row, confidence) for _, row in decided.iterrows()]
                sentences += too_few(rows[undecided])
            if sentences:
                moment = moment_in_words(at, start, tables["outcomes"])
                others = start == "warm" and any(
                    (rows["against"] != THRESHOLD).any() for rows in of_start.values()
                )
                moment += threshold_in_words(at, tables["outcomes"]) if others else ""
                heading = f"From the {start} start, {moment}:"
                parts.append(listed(heading, [f"- {sentence}" for sentence in sentences]))
    return parts
