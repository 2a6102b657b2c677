"""Write what a study found, in sentences made from its tables alone.

A sentence claims an effect if its adjusted p-value (Holm, over all that the study tests) is below
1 - confidence; else it says that there is no evidence, or that the runs are too few to give any.
"""

import quick_start  # noqa: F401

import math

import pandas as pd

from pipeline.files import recorded
from pipeline.log import logged
from pipeline.outcomes import MOMENTS_AT, PRIMARY, each_run_once, independent, joined
from pipeline.pages import from_markdown
from pipeline.runs import over_stability_limit
from pipeline.stores import read_table
from speedlimits.power_law import regime
from speedlimits.speed_limit import BELOW_ONE
from speedlimits.statistics import geometric_mean, holm

NAMES = {
    "inefficiency": "the inefficiency T/T_SL",
    "prediction_ratio": "the inefficiency over its prediction from the NTK",
    "kinematic_inefficiency": "the kinematic inefficiency T int |theta'|^2 dt / l_geo^2",
    "drift": "the kernel's drift",
    "alignment_gain": "the gain in kernel-target alignment",
    "test_error": "the test error",
    "test_loss": "the test loss per sample",
    "inefficiency_predicted": "its prediction from the NTK",
}
# Of T/T_SL over its prediction: an exactly linear model is off 1 by 0.1 to 0.3 %, the error of the
# integration at tolerances of 0.001 to 0.005, which all runs share and no p-value knows of.
NUMERICAL_ERROR = 0.01
MOMENTS = {
    "end": "at the end of training",
    "equal_loss": "at equal training loss",
    "equal_gradients": "at equal numbers of gradients",
}


def words(name: object) -> str:
    """Return a setting's name or value in words."""
    text = f"{name:g}" if isinstance(name, float) else str(name)
    return text if ":" in text else text.replace("_", " ")


def evidence(row: pd.Series, level: float) -> str:
    """Return "effect", "none" or "few" for one test.

    Args:
        row: p_value, p_adjusted, p_smallest.
        level: 1 - confidence.
    """
    if not math.isfinite(row["p_value"]) or row["p_smallest"] > level:
        return "few"
    return "effect" if row["p_adjusted"] <= level else "none"


def tested(row: pd.Series) -> str:
    """Return the p-values of a row in words."""

    def shown(p: float) -> str:
        return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"

    return f"{shown(row['p_value'])}, adjusted {shown(row['p_adjusted'])}, {row['points']} runs"


def interval(row: pd.Series, name: str, confidence: float) -> str:
    """Return a value with its interval, if it has one."""
    text = f"{row[name]:.3g}"
    if math.isfinite(row[f"{name}_low"]):
        ends = f"{row[f'{name}_low']:.3g} to {row[f'{name}_high']:.3g}"
        text += f" ({100 * confidence:g} % interval {ends})"
    return text


def counted(runs: float) -> str:
    """Return a number of runs in words: "1 run", "3 runs"."""
    return f"{runs:.0f} run{'s' if runs > 1 else ''}"


def too_few(rows: pd.DataFrame) -> list[str]:
    """Return sentences on each axis or value whose tests the runs cannot decide, or not make."""
    keys = ["against"] + (["value"] if "value" in rows else [])
    sentences = []
    possible = rows["p_smallest"].notna().rename("possible")
    for (*key, _), group in rows.groupby([*keys, possible], sort=False):
        about = " ".join(words(part) for part in key if part != "case")
        least = group["p_smallest"].min()
        names = ", ".join(NAMES[q] for q in group["quantity"])
        if not math.isfinite(least):  # Adam, or all but one value have diverged
            sentences.append(f"No values of {names} to compare for {about}.")
            continue
        limit = f", which cannot give a p-value below {least:.2g}"
        count = int(group["points"].max())
        sentences.append(f"Too few runs ({count}{limit}) to say anything of {about} on {names}.")
    return sentences


def trend_sentence(row: pd.Series, confidence: float) -> str:
    """Return the sentence of one row of the table trends."""
    name, axis = NAMES[row["quantity"]], words(row["against"])
    if evidence(row, 1 - confidence) == "none":
        slope = interval(row, "slope", confidence)
        return f"No evidence that {name} depends on {axis} (slope {slope}; {tested(row)})."
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
    )


def comparison_sentence(row: pd.Series, confidence: float) -> str:
    """Return the sentence of one row of the table comparisons."""
    name, value, reference = NAMES[row["quantity"]], words(row["value"]), words(row["reference"])
    where = "" if row["against"] == "case" else f"{words(row['against'])} "
    effect = interval(row, "effect", confidence)
    if evidence(row, 1 - confidence) == "none":
        return (
            f"No evidence that {name} of {where}{value} differs from that of {reference} "
            f"({row['kind']} {effect}; {tested(row)})."
        )
    told = f"{effect} times that of {reference}"
    if row["kind"] == "difference":
        told = f"{change(row)} than that of {reference}, the difference being {effect}"
    return f"{name[0].upper()}{name[1:]} of {where}{value} is {told} ({tested(row)})."


def change(row: pd.Series) -> str:
    """Return whether a quantity is higher or lower than that of the reference."""
    return "higher" if row["effect"] > (1 if row["kind"] == "factor" else 0) else "lower"


def correlation_sentence(row: pd.Series, confidence: float) -> str:
    """Return the sentence of one row of the table correlations."""
    pair = f"the inefficiency and {NAMES[row['with']]}"
    level = "between ensembles" if row["level"] == "between" else "among runs of equal settings"
    found = evidence(row, 1 - confidence)
    if found == "few":
        lacking = f"points ({row['points']})"
        lacking = lacking if row["level"] == "between" else f"realisations ({row['points']} points)"
        return f"Too few {lacking} to correlate {pair} {level}."
    shown = tested(row).replace("runs", "points")
    value = interval(row, "correlation", confidence)
    if row["level"] == "between":
        level += " (which differ in their settings)"
    start = "No evidence of a rank correlation of" if found == "none" else "Rank correlation of"
    return f"{start} {pair} {level}: {value} ({shown})."


def named_axes(axes: dict, outcomes: pd.DataFrame) -> dict:
    """Return the axes that name an ensemble: those of the study, and the subset where it varies."""
    several = "subset" in outcomes and outcomes["subset"].nunique() > 1
    return {**axes, "subset": sorted(outcomes["subset"].unique())} if several else axes


def name_of(row: pd.Series, axes: dict) -> str:
    """Return what tells an ensemble from the others of its study."""
    read = [axis for axis in axes if pd.notna(row[axis])]  # myrtle5 does not read the depth
    relative = over_stability_limit(row.get("ensemble", ""))
    units = {"learning_rate": " x 2/lambda_1"} if relative else {}
    told = [f"{words(axis)} {words(row[axis])}{units.get(axis, '')}" for axis in read]
    label = ", ".join(told) or "one ensemble"
    return label.replace("case ", "")


def noise_sentence(outcomes: pd.DataFrame) -> list[str]:
    """Return a sentence on what T/T_SL is at a temperature, where a study has Langevin dynamics."""
    if "langevin" not in set(outcomes.get("dynamics", ())):
        return []
    return [
        "At temperatures above 0 T/T_SL is a lower bound over the distribution of starts, and a "
        "looser one at higher temperatures: a fall with temperature may be the bound's doing."
    ]


def optimiser_sentences(outcomes: pd.DataFrame) -> list[str]:
    """Return what T/T_SL is and is not for dynamics that are no gradient flow (theory, section 8).

    They are compared at the settings of the study, which are no tuned ones.
    """
    dynamics, started = outcomes.get("dynamics", pd.Series(dtype=str)), outcomes["start"]
    inertial = dynamics.isin(["heavy_ball", "nesterov"])
    sentences = []
    if (dynamics == "sgd").any():
        sentences.append(
            "Minibatches: the loss drop of one trajectory bounds nothing, because their action "
            "exceeds it by the gradient noise; T/T_SL is shown for comparison and is no bound."
        )
    if (inertial & (started == "warm")).any():
        sentences.append(
            "Momentum from a warm start has kinetic energy, which the loss drop leaves out: T/T_SL "
            "there is no bound; with it the drop of energy is one, listed below."
        )
    if (dynamics == "adam").any():
        sentences.append(
            "Adam has no training time, and T/T_SL says nothing of it: what bounds it holds in its "
            "own mean metric, which is known from the cold start, and is listed below."
        )
    if dynamics.nunique() > 1:
        sentences.append(
            "Each dynamics has the one learning rate and momentum that the study gives it: an "
            "order of theirs is one of these settings."
        )
    return sentences


def energetic_lines(outcomes: pd.DataFrame, axes: dict, confidence: float) -> list[str]:
    """Return a line per ensemble and start: the inefficiency that its own dynamics bounds by 1.

    Only where some dynamics has momentum or is Adam: for the others it is T/T_SL. Minibatches and
    Langevin dynamics have no such bound.
    """
    dynamics = outcomes.get("dynamics", pd.Series("", outcomes.index))
    whole = outcomes[
        (outcomes["realisation"] == "ensemble")
        & (outcomes["at"] == "end")
        & ~dynamics.isin(["sgd", "langevin"])
    ]
    if not dynamics.isin(["heavy_ball", "nesterov", "adam"]).any():
        return []
    name = "energetic_inefficiency"
    return [
        f"- {name_of(row, axes)}, {row['start']} start: {interval(row, name, confidence)}; "
        f"{counted(row['runs'])}."
        for _, row in whole[whole[name].notna()].iterrows()
    ]


def finite_step_sentence(outcomes: pd.DataFrame) -> list[str]:
    """Return a sentence where T/T_SL of a dynamics without noise lies below 1: by finite steps."""
    whole = outcomes[(outcomes["realisation"] == "ensemble") & (outcomes["at"] == "end")]
    exact = whole[[not noisy(row) for _, row in whole.iterrows()]]
    below = exact[exact["inefficiency"] < BELOW_ONE]
    if len(below) == 0:
        return []
    return [
        f"T/T_SL is below 1 in {len(below)} of {len(exact)} cases (ensembles and starts): T_SL "
        "bounds gradient flow, not finite steps, whose loss falls by less than their action. A "
        "small T/T_SL there is no efficiency; compare by the kinematic inefficiency."
    ]


def noisy(row: pd.Series) -> bool:
    """Return whether T/T_SL of a row is a lower bound: Langevin dynamics at a temperature."""
    return row.get("dynamics") == "langevin" and row.get("temperature", 1) != 0


def outcome_lines(outcomes: pd.DataFrame, axes: dict, confidence: float) -> list[str]:
    """Return a line per ensemble: inefficiency with its interval, or that it diverged."""
    whole = outcomes[(outcomes["realisation"] == "ensemble") & (outcomes["at"] == "end")]
    lines = []
    for _, row in whole.iterrows():
        label = name_of(row, axes)
        runs = counted(row["runs"])
        if row["diverged"] > 0:
            share = round(row["diverged"] * row["runs"])
            lines.append(f"- {label}, {row['start']} start: {share} of {runs} diverged.")
            continue
        kinds = {"inefficiency": "T/T_SL", "kinematic_inefficiency": "kinematic inefficiency"}
        name = next((n for n in kinds if math.isfinite(row[n])), None)
        if name is None:
            why = "no bound (see the column note)" if noisy(row) else "the loss has not dropped"
            lines.append(f"- {label}, {row['start']} start: {why}.")
            continue
        kinds["inefficiency"] = "T/T_SL at least" if noisy(row) else "T/T_SL"
        text = f"{kinds[name]} {interval(row, name, confidence)}"
        predicted = row["inefficiency_predicted"]
        if name == "inefficiency" and math.isfinite(predicted):
            text += f", predicted from the NTK there {predicted:.3g}"
        lines.append(f"- {label}, {row['start']} start: {text}; {runs}.")
    return lines


def transients(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Return the ensembles' rows that tell of the first transient, without bounds for T/T_SL."""
    whole = outcomes[(outcomes["realisation"] == "ensemble") & (outcomes["start"] == "warm")]
    if "transient_factor" not in whole or len(whole) == 0:
        return whole[:0]
    whole = whole[whole["transient_time_share"].notna()]
    return whole.assign(transient_factor=whole["transient_factor"].mask(whole.apply(noisy, axis=1)))


def transient_lines(outcomes: pd.DataFrame, axes: dict, confidence: float) -> list[str]:
    """Return a line per ensemble: what the first transient takes and does to the kernel."""
    lines = []
    for _, row in transients(outcomes).iterrows():
        time, loss = (100 * row[f"transient_{name}_share"] for name in ("time", "loss"))
        parts = [f"{time:.2g} % of the training time, {loss:.3g} % of the loss drop"]
        told = {
            "transient_factor": "T/T_SL from the cold over that from the warm start {}",
            "transient_alignment_gain": "kernel-target alignment {} times that at the start",
            "transient_drift": "kernel drift {}",
        }
        parts += [
            text.format(interval(row, name, confidence))
            for name, text in told.items()
            if name in row and math.isfinite(row[name])
        ]
        lines.append(f"- {name_of(row, axes)}: {'; '.join([*parts, counted(row['runs'])])}.")
    return lines


def transient_summary(outcomes: pd.DataFrame, axes: dict) -> list[str]:
    """Return a sentence: by which factor leaving the first transient out lowers T/T_SL."""
    rows = transients(outcomes)
    rows = rows[rows["transient_factor"].notna()] if len(rows) else rows
    if len(rows) == 0:
        return []
    ends = [rows.loc[rows["transient_factor"].agg(end)] for end in ("idxmin", "idxmax")]
    texts = [f"{row['transient_factor']:.3g} ({name_of(row, axes)})" for row in ends]
    between = texts[0] if len(rows) == 1 else f"between {texts[0]} and {texts[1]}"
    return [f"T/T_SL from the cold start over that from the warm start is {between}."]


def discretisation_lines(outcomes: pd.DataFrame, axes: dict, confidence: float) -> list[str]:
    """Return a line per ensemble that takes steps: its action over its drop of energy.

    Gradient flow, for which it is 1 up to the error of integration, and Langevin dynamics, whose
    noise drops no loss, have none.
    """
    if "dynamics" not in outcomes or "discretisation" not in outcomes:
        return []
    steps = ~outcomes["dynamics"].isin(["gradient_flow", "langevin"])
    whole = outcomes[(outcomes["realisation"] == "ensemble") & (outcomes["at"] == "end") & steps]
    whole = whole[(whole["start"] == "cold") & whole["discretisation"].notna()]
    lines = []
    for _, row in whole.iterrows():
        names = ["discretisation", "discretisation_low", "discretisation_high"]
        shifted = pd.Series({name: 1 + row[name] for name in names})
        share = interval(shifted, "discretisation", confidence)
        lines.append(f"- {name_of(row, axes)}: {share}; {counted(row['runs'])}.")
    return lines


def prediction_lines(outcomes: pd.DataFrame, axes: dict, confidence: float) -> list[str]:
    """Return a line per ensemble and start: is T/T_SL what the NTK there predicts?

    Student's t-test of the mean of ln(measured / predicted) over runs, at the end of training. What
    the integration may be off by is no difference, whatever the p-value.
    """
    ends = outcomes[(outcomes["realisation"] != "ensemble") & (outcomes["at"] == "end")]
    if "prediction_ratio" not in ends:
        return []
    rows = []
    for (_, start), group in ends.groupby(["ensemble", "start"], sort=False):
        once = independent(group)
        found = geometric_mean(once["prediction_ratio"], confidence)
        if found["points"] > 1:
            label = f"{name_of(group.iloc[0], axes)}, {start} start"
            lost = len(once) - found["points"]
            rows.append(found | {"label": label, "noisy": noisy(group.iloc[0]), "lost": lost})
    lines = []
    for row, p in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        shown = pd.Series({**row, "p_adjusted": p})
        ratio = interval(shown.rename({"low": "mean_low", "high": "mean_high"}), "mean", confidence)
        verdict = "no evidence of a difference"
        if p <= 1 - confidence:
            faster = "below the prediction, as a lower bound may be"
            faster = faster if row["noisy"] else "faster than predicted"
            verdict = "slower than predicted" if row["mean"] > 1 else faster
            if abs(row["mean"] - 1) <= NUMERICAL_ERROR:
                verdict = f"equal within the {100 * NUMERICAL_ERROR:g} % of integration"
        lost = f"; {row['lost']} more have no T/T_SL" if row["lost"] else ""
        lines.append(f"- {row['label']}: {ratio}, {verdict} ({tested(shown)}{lost}).")
    return lines


def regime_lines(exponents: pd.DataFrame, axes: dict) -> list[str]:
    """Return a line per kernel at the start: alpha, delta and the regime they lie in.

    Ensembles that differ in their dynamics alone start with the same kernels, which count once.
    The full kernel's where it is known, else that of the traced one. A regime is named if the whole
    rectangle of both intervals lies in it.
    """
    if "alpha" not in exponents:
        return []
    at_start = exponents[exponents["moment"] == "start"].drop_duplicates("ensemble")
    fits = [f"{name}{end}" for name in ("alpha", "delta") for end in ("", "_low", "_high")]
    fitted = at_start[fits].notna().all(axis=1)
    keys = joined(at_start, [*fits, "dataset", "n", "model", "width"])
    repeated = fitted & keys.duplicated()
    lines = []
    for index, row in at_start[~repeated].iterrows():
        label = name_of(row, axes)
        more = int((keys[repeated] == keys[index]).sum())
        label += f" and {more} more with the same kernels" if more else ""
        ends = [row[f"{name}_{end}"] for name in ("alpha", "delta") for end in ("low", "high")]
        if not all(map(math.isfinite, ends)) or ends[0] <= 0:
            lines.append(f"- {label}: no exponents with intervals could be fitted.")
            continue
        text = "alpha {:.3g} ({:.3g} to {:.3g}), delta {:.3g} ({:.3g} to {:.3g})".format(
            row["alpha"], *ends[:2], row["delta"], *ends[2:]
        )
        corners = {regime(alpha, delta) for alpha in ends[:2] for delta in ends[2:]}
        if len(corners) == 1:
            verdict = f"regime: {corners.pop()}"
        else:
            best = regime(row["alpha"], row["delta"])
            verdict = f"regime: {best} by the values, not decided by the intervals"
        lines.append(f"- {label}: {text}; {verdict}.")
    return lines


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
        f"{beyond['p_smallest'].min():.2g}): unless others are claimed first, they can "
        "claim nothing, whatever the effect. Judge those by their intervals, or take more "
        "realisations or fewer values."
    )


def range_sentences(outcomes: pd.DataFrame, axes: dict) -> list[str]:
    """Return a sentence per start: the lowest and highest T/T_SL of an ensemble at the end."""
    whole = outcomes[(outcomes["realisation"] == "ensemble") & (outcomes["at"] == "end")]
    sentences = []
    for start, rows in whole.groupby("start", sort=False):
        rows = rows[rows["inefficiency"].notna()]
        if len(rows) == 0:
            continue
        low = rows.loc[rows["inefficiency"].idxmin()]
        high = rows.loc[rows["inefficiency"].idxmax()]
        ends = [f"{row['inefficiency']:.3g}" for row in (low, high)]
        several = whole["ensemble"].nunique() > 1
        only = f" ({name_of(low, axes)}, the only ensemble that has it)" if several else ""
        text = f"at {ends[0]}" + (" in every ensemble" if len(rows) > 1 else only)
        if ends[0] != ends[1]:
            text = f"between {ends[0]} ({name_of(low, axes)}) and {ends[1]} ({name_of(high, axes)})"
        sentences.append(f"From the {start} start T/T_SL ends {text}.")
    return sentences


def prediction_summary(lines: list[str]) -> list[str]:
    """Return a sentence per start that counts the verdicts of ``prediction_lines``."""
    sentences = []
    for start in ("cold", "warm"):
        here = [line for line in lines if f"{start} start: " in line]
        if here:
            slower = sum("slower than predicted" in line for line in here)
            faster = sum("faster than predicted" in line for line in here)
            below = sum("as a lower bound may be" in line for line in here)
            rest = len(here) - slower - faster - below
            bounded = f"{below} below it, as lower bounds may be, " if below else ""
            sentences.append(
                f"Against the prediction from the NTK at the {start} start, {slower} of "
                f"{len(here)} ensembles are slower, {faster} faster, {bounded}{rest} "
                "not told apart."
            )
    return sentences


def effect_summary(tables: dict[str, pd.DataFrame], confidence: float) -> list[str]:
    """Return a sentence per start with all effects claimed at the end, or that there are none."""
    sentences = []
    for start in ("cold", "warm"):
        claimed, made = [], 0
        for name in ("trends", "comparisons"):
            rows = tables[name]
            if "quantity" not in rows or len(rows) == 0:
                continue
            wanted = rows["quantity"].isin(PRIMARY) & (rows["at"] == "end")
            for _, row in rows[wanted & (rows["start"] == start)].iterrows():
                made += math.isfinite(row["p_value"])
                if evidence(row, 1 - confidence) != "effect":
                    continue
                axis = words(row["against"])
                if name == "trends":
                    verb = "grows" if row["slope"] > 0 else "falls"
                    claimed.append(f"{NAMES[row['quantity']]} {verb} with {axis}")
                else:
                    where = "" if row["against"] == "case" else f"{axis} "
                    claimed.append(
                        f"{NAMES[row['quantity']]} is {change(row)} for {where}"
                        f"{words(row['value'])} than for {words(row['reference'])}"
                    )
        if made:
            found = "; ".join(claimed) if claimed else "none"
            sentences.append(
                f"Claimed at the end, from the {start} start ({len(claimed)} of {made} tests): "
                f"{found}."
            )
    return sentences


def generalisation_summary(correlations: pd.DataFrame, confidence: float) -> list[str]:
    """Return whether the test error goes with the inefficiency, where it was possible to tell."""
    if "with" not in correlations:
        return []
    rows = correlations[correlations["with"].isin(["test_error", "test_loss"])]
    decided = [row for _, row in rows.iterrows() if evidence(row, 1 - confidence) != "few"]
    return [correlation_sentence(row, confidence) for row in decided]


def moment_in_words(at: str, start: str, outcomes: pd.DataFrame) -> str:
    """Return the moment of a comparison with its level and the runs that it leaves out."""
    words_of = MOMENTS[at]
    if at == "end":
        return words_of
    runs = outcomes[(outcomes["realisation"] != "ensemble") & (outcomes["start"] == start)]
    there, all_runs = ((runs["at"] == moment).sum() for moment in (at, "end"))
    if at == "equal_loss" and "train_loss_share" in runs and there:
        share = runs.loc[runs["at"] == at, "train_loss_share"].iloc[0]
        words_of += f", {share:.3g} of that of the start"
    left_out = f" ({there} of {all_runs} runs: the others pass it before the first recorded time"
    return words_of + (f"{left_out} or have diverged)" if there < all_runs else "")


def regime_summary(lines: list[str]) -> list[str]:
    """Return a sentence that counts the verdicts of ``regime_lines``."""
    if not lines:
        return []
    named = [line.rpartition("regime: ")[2].rstrip(".") for line in lines if "regime: " in line]
    counts = {name: named.count(name) for name in named}
    counts |= {"without intervals": len(lines) - len(named)} if len(named) < len(lines) else {}
    shown = "; ".join(f"{name} {count}" for name, count in counts.items())
    return [f"Regimes of the power laws fitted to the NTK at the start: {shown}."]


def transport_sentence(transport: pd.DataFrame) -> list[str]:
    """Return a sentence: is coupling each start with its own end the optimal transport?"""
    several = transport[transport["other_over_identity"].notna()]
    if "dynamics" in several:  # with noise this coupling is never optimal
        several = several[several["dynamics"] != "langevin"]
    if len(several) == 0:
        return []
    better = several[~several["identity_is_optimal"].astype(bool)]
    counts = sorted({int(count) for count in several["realisations"]})
    size = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    cases = f"{len(several)} case{'s' if len(several) > 1 else ''}"
    about = f"{cases} (ensembles and starts; {size} runs each)"
    if len(better) == 0:
        least = several["other_over_identity"].min()
        return [
            f"W2 between starts and ends: in all {about} the optimal assignment "
            "couples each start with its own end, as it does in NTK dynamics; any other costs "
            f"at least {least:.3g} times as much."
        ]
    gap = better["identity_over_assignment"].max() - 1
    return [
        f"W2 between starts and ends: in {len(better)} of {about} another "
        f"assignment is cheaper than coupling each start with its own end, by up to "
        f"{100 * gap:.2g} %: T_SL is overstated by as much, and T/T_SL understated."
    ]


def listed(heading: str, lines: list[str]) -> str:
    """Return a heading with its list, empty without lines."""
    return "\n".join([heading, "", *lines]) if lines else ""


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
        verdict = f"{'slower' if ratio['ratio'] > 1 else 'faster'} than infinitely wide ones"
        if not math.isfinite(ratio["ratio_low"]):
            verdict = "too few runs for an interval"
        elif ratio["ratio_low"] <= 1 <= ratio["ratio_high"]:
            verdict = "no evidence of a difference"
        elif abs(ratio["ratio"] - 1) <= NUMERICAL_ERROR:
            verdict = f"equal within the {100 * NUMERICAL_ERROR:g} % of integration"
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
            parts.append(out_of_reach(pd.concat(there.values()), 1 - confidence))
        for start in ("cold", "warm"):
            sentences = []
            for name, rows in there.items():
                rows = rows[rows["start"] == start]
                undecided = [evidence(row, 1 - confidence) == "few" for _, row in rows.iterrows()]
                undecided = pd.Series(undecided, rows.index, bool)
                decided = rows[~undecided]
                sentences += [kinds[name](row, confidence) for _, row in decided.iterrows()]
                sentences += too_few(rows[undecided])
            if sentences:
                moment = moment_in_words(at, start, tables["outcomes"])
                heading = f"From the {start} start, {moment}:"
                parts.append(listed(heading, [f"- {sentence}" for sentence in sentences]))
    return parts


def findings(tables: dict[str, pd.DataFrame], study: str, settings: dict) -> str:
    """Return the findings as Markdown.

    Args:
        tables: outcomes, trends, comparisons, correlations, exponents, transport, and of a study
            with that figure infinite_width and infinite_width_powers.
        study: its name.
        settings: axes and confidence.
    """
    confidence, axes = settings["confidence"], named_axes(settings["axes"], tables["outcomes"])
    level = f"{1 - confidence:.2g}"
    predictions = prediction_lines(tables["outcomes"], axes, confidence)
    regimes = regime_lines(each_run_once(tables["exponents"]), axes)
    short = [
        *range_sentences(tables["outcomes"], axes),
        *transient_summary(tables["outcomes"], axes),
        *finite_step_sentence(tables["outcomes"]),
        *noise_sentence(tables["outcomes"]),
        *optimiser_sentences(tables["outcomes"]),
        *prediction_summary(predictions),
        *regime_summary(regimes),
        *transport_sentence(each_run_once(tables["transport"])),
        *effect_summary(tables, confidence),
        *generalisation_summary(tables["correlations"], confidence),
    ]
    parts = [
        f"# What the study {words(study)} found",
        listed("In short:", [f"- {sentence}" for sentence in short]),
        f"Permutation tests; an effect is claimed below {level} after Holm's correction over all "
        "tests of the same moment in this study. Intervals are bootstrapped over runs of the same "
        "settings: they say how well the slope over just these settings is known. The test asks "
        "whether values line up along the axis more than by chance, and may see no trend where the "
        "interval leaves out zero.",
        listed("At the end of training:", outcome_lines(tables["outcomes"], axes, confidence)),
        listed(
            "Action over drop of energy, from the cold start to the end; finite steps and gradient "
            "noise raise it above 1:",
            discretisation_lines(tables["outcomes"], axes, confidence),
        ),
        listed(
            "T times the drop of energy over the squared displacement, at the end; the energy "
            "holds the kinetic energy of momentum, and Adam's displacement is measured in its mean "
            "metric. At least 1 up to the error of finite steps; T/T_SL for the others:",
            energetic_lines(tables["outcomes"], axes, confidence),
        ),
        listed(
            "The first transient, from the start to the warm start:",
            transient_lines(tables["outcomes"], axes, confidence),
        ),
        listed(
            "Measured over predicted inefficiency at the end of training (geometric mean over runs "
            "with Student's interval; Holm's correction over this list):",
            predictions,
        ),
        infinite_width_part(tables, axes, confidence),
        listed(
            "Exponents of the NTK spectrum at the start, lambda_k ~ k^-alpha and Delta_k^2 ~ "
            "k^-delta, with 95 % intervals of the fit, and the regime of the power law "
            "(optimal: 1 - alpha < delta < 1):".replace("95", f"{100 * confidence:g}"),
            regimes,
        ),
    ]
    parts += effect_parts(tables, confidence)
    related = [correlation_sentence(r, confidence) for _, r in tables["correlations"].iterrows()]
    heading = "Correlations at the end (Holm's correction over this list):"
    parts.append(listed(heading, [f"- {sentence}" for sentence in related]))
    return "\n\n".join(part for part in parts if part) + "\n"


def main(snakemake) -> None:
    """Run the rule ``findings``."""
    with logged(snakemake.log[0]):
        tables = {name: read_table(path) for name, path in snakemake.input.items()}
        text = findings(tables, snakemake.wildcards.study, snakemake.params.settings)
        print(text)
        for path, content in {
            snakemake.output.text: text,
            snakemake.output.page: from_markdown(text),
        }.items():
            with recorded(path) as partial:
                partial.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
