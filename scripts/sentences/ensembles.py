"""Sentences about what every ensemble came to: outcomes, predictions, transients, regimes."""

from __future__ import annotations

import math
from typing import NamedTuple

import pandas as pd

from pipeline.outcomes import OF_HEAT, independent, joined
from pipeline.tables import (
    LARGEST_DISCRETISATION,
    LARGEST_PATH_ROUNDING,
    at_a_temperature,
    dynamics_of,
    fitted_kernel,
    has_own_energy,
    in_motion,
    lacking,
    left_out_for_rounding,
    of_kernel,
    predicted_from_rest,
    significance_level,
)
from pipeline.warm_starts import SET_BY, above_from_the_start, has_warm_start
from sentences.effects import tested
from sentences.phrases import counted, interval, name_of, percent
from speedlimits.power_law import regime
from speedlimits.speed_limit import BELOW_ONE
from speedlimits.statistics import geometric_mean, holm

# Of T/T_SL over its prediction: an exactly linear model is off 1 by 0.1 to 0.3 %, the error of the
# integration at tolerances of 0.001 to 0.005, which all runs share and no p-value knows of.
NUMERICAL_ERROR = 0.01
# Own choice: of the bound on gradient flow's squared path lengths; path lengths are off by half.
TOLD_DISCRETISATION = 0.05
SLOWER, FASTER = "slower than predicted", "faster than predicted"
LOWER_BOUND = "below the prediction, as a lower bound may be"
UNBOUNDED = "below the prediction, where T/T_SL is below 1 and T_SL bounds nothing"
APART = 1.05  # own choice: times that differ by less are told as one, as a few whole steps are


class Prediction(NamedTuple):
    """T/T_SL of an ensemble's runs from one start against what the NTK there predicts."""

    start: str  # cold or warm
    verdict: str  # in words; empty without a test
    line: str  # of the list


class FittedRegime(NamedTuple):
    """The regime of the power laws fitted to a kernel at the start."""

    kernel: str  # full or traced
    regime: str  # in words; empty without intervals
    line: str  # of the list


def noise_sentence(outcomes: pd.DataFrame) -> list[str]:
    """Return a sentence on what T/T_SL is at a temperature, where a study has Langevin dynamics."""
    if not at_a_temperature(outcomes).any():
        return []
    return [
        "At temperatures above 0 T/T_SL is a lower bound over the distribution of starts, which is "
        "looser at some temperatures than at others: where the bound falls, T/T_SL itself may "
        "rise. Neither trends nor differences of it are tested there."
    ]


def heat_sentence(outcomes: pd.DataFrame, axes: dict) -> list[str]:
    """Return a sentence where steps are too long for a temperature, by the heat they give off."""
    if OF_HEAT not in outcomes:
        return []
    whole = outcomes[(outcomes["realisation"] == "ensemble") & (outcomes["at"] == "end")]
    known = whole[at_a_temperature(whole) & whole[OF_HEAT].notna()]
    rough = known[known[OF_HEAT] > LARGEST_DISCRETISATION]
    if len(rough) == 0:
        return []
    worst = rough.loc[rough[OF_HEAT].idxmax()]
    return [
        f"Steps are too long for the temperature in {len(rough)} of {len(known)} cases (ensembles "
        "and starts) whose heat can be judged: it is off the loss drop by up to "
        f"{percent(worst[OF_HEAT])} of the free energy's drop ({name_of(worst, axes)}, "
        f"{worst['start']} start), and T/T_SL there means little. Lower learning_rate."
    ]


def optimiser_sentences(outcomes: pd.DataFrame) -> list[str]:
    """Return what T/T_SL is and is not for dynamics that are no gradient flow (theory, section 8).

    They are compared at the settings of the study, which are no tuned ones.
    """
    dynamics = dynamics_of(outcomes)
    sentences = []
    sizes = outcomes.reindex(columns=["n", "batch_size"]).astype(float)
    sgd = (dynamics == "sgd") & ~(sizes["batch_size"] >= sizes["n"])
    if sgd.any():
        sentences.append(
            "Minibatches: the loss drop of one trajectory bounds nothing, because their action "
            "exceeds it by the gradient noise; T/T_SL is shown for comparison and is no bound."
        )
    if (sizes["n"] % sizes["batch_size"])[sgd].gt(0).any():
        sentences.append(
            "Where the batch size does not divide n, the last batch of an epoch is smaller: its "
            "samples weigh more than the others of its epoch, and the noise does not cancel over "
            "an epoch. A remainder of few samples can make a large batch worse than a small one."
        )
    if in_motion(outcomes).any():
        sentences.append(
            "Momentum from a warm start has kinetic energy, which the loss drop leaves out: T/T_SL "
            "there is no bound, and not compared. With that energy the drop of energy is one, "
            "listed below (energetic inefficiency)."
        )
    if (dynamics == "adam").any():
        sentences.append(
            "Adam has no training time, and T/T_SL says nothing of it: what bounds it holds in its "
            "own mean metric and is listed below (energetic inefficiency). From the cold start it "
            "is loose where the energy of the first steps, made at full speed, is not small "
            "against the loss."
        )
    tuned = outcomes.reindex(columns=["learning_rate", "momentum", "batch_size"])
    single = (tuned.groupby(dynamics).nunique() <= 1).all(axis=None)
    if dynamics.nunique() > 1 and single:
        sentences.append(
            "Each dynamics has the one learning rate and momentum that the study gives it: an "
            "order of theirs is one of these settings."
        )
    return sentences


def energetic_lines(outcomes: pd.DataFrame, axes: dict, confidence: float) -> list[str]:
    """Return a line per ensemble and start: the inefficiency that its own dynamics bounds by 1.

    Only where some dynamics has momentum or is Adam: for the others it is T/T_SL. With the noise of
    minibatches or of a temperature there is no such bound.
    """
    whole = outcomes[
        (outcomes["realisation"] == "ensemble")
        & (outcomes["at"] == "end")
        & (dynamics_of(outcomes) != "sgd")
        & ~at_a_temperature(outcomes)
    ]
    if not has_own_energy(outcomes).any():
        return []
    name = "energetic_inefficiency"
    return [
        f"- {name_of(row, axes)}, {row['start']} start: {interval(row, name, confidence)}; "
        f"{counted(row['runs'])}."
        for _, row in whole[whole[name].notna()].iterrows()
    ]


def finite_step_sentence(outcomes: pd.DataFrame) -> list[str]:
    """Return a sentence where T/T_SL of steps without noise is below 1, and one where a flow's."""
    whole = outcomes[(outcomes["realisation"] == "ensemble") & (outcomes["at"] == "end")]
    exact = whole[~at_a_temperature(whole)]
    flow = dynamics_of(exact) == "gradient_flow"
    sentences = []
    below, wrong = ((of["inefficiency"] < BELOW_ONE).sum() for of in (exact[~flow], exact[flow]))
    if below:
        sentences.append(
            f"T/T_SL is below 1 in {below} of {len(exact)} cases (ensembles and starts): T_SL "
            "bounds gradient flow, not finite steps, whose loss falls by less than their action. A "
            "small T/T_SL there is no efficiency; compare by the kinematic inefficiency."
        )
    if wrong:
        sentences.append(
            f"T/T_SL of gradient flow is below 1 in {wrong} of {len(exact)} cases (ensembles and "
            "starts), which no flow allows: the loss drop there is within the rounding of its "
            "precision, or the integration too rough. Take later times, precision: float64 or a "
            "smaller relative_tolerance."
        )
    return sentences


def end_sentence(outcomes: pd.DataFrame, axes: dict) -> list[str]:
    """Return a sentence where runs of the cold start end at different times, unless these vary."""
    ends = outcomes[(outcomes["at"] == "end") & (outcomes["start"] == "cold")]
    if "time_lambda_1" not in ends or "final_time" in axes:
        return []
    compared = (ends["realisation"] == "ensemble") & ~(ends["diverged"] > 0)
    times = ends.loc[compared, "time_lambda_1"].dropna()
    if len(times) == 0 or times.max() <= APART * times.min():
        return []
    return [
        f"Ensembles end at different times, lambda_1 T from {times.min():.3g} to "
        f"{times.max():.3g}: values at the end are compared as they are."
    ]


def integration_sentence(outcomes: pd.DataFrame, axes: dict) -> list[str]:
    """Return a sentence where path lengths of integrated gradient flow are not well known.

    For gradient flow ``discretisation`` bounds the error of the squared path length.
    """
    if "discretisation" not in outcomes:
        return []
    flow = outcomes[(outcomes.get("dynamics") == "gradient_flow") & (outcomes["at"] == "end")]
    bound = flow["discretisation"].abs().fillna(0.0)
    told = flow.get("path_excess", bound).notna()  # else too little is known of the path
    lost = ~told & (bound > TOLD_DISCRETISATION) & (flow["realisation"] != "ensemble")
    left_out = ""
    if lost.any():
        cases = f"{lost.sum()} case{'s' if lost.sum() > 1 else ''} (runs and starts)"
        left_out = f"left out in {cases}, where they are off by up to {percent(bound[lost].max())}"
    if not (bound[told] > TOLD_DISCRETISATION).any():
        return [f"Squared path lengths of the integrated flow are {left_out}."] if left_out else []
    more = f"They are {left_out}. " if left_out else ""
    worst = flow[told].iloc[bound[told].to_numpy().argmax()]
    where = f"{name_of(worst, axes)}, {worst['start']} start"
    return [
        "Squared path lengths of the integrated flow, and with them the two factors of T/T_SL, are "
        f"off by at most {percent(bound[told].max())} ({where}), "
        "the error of the integrator's velocities (with ReLUs by their boundaries, crossed again "
        "and again); T/T_SL, in which no path length enters, is not. "
        f"{more}As a rule a smaller relative_tolerance lowers this bound."
    ]


def rounding_sentence(outcomes: pd.DataFrame) -> list[str]:
    """Return a sentence where path lengths are left out for the rounding of weights."""
    if not {"kinematic_inefficiency", "path_excess"} <= {*outcomes}:
        return []
    runs = outcomes[(outcomes["realisation"] != "ensemble") & (outcomes["at"] == "end")]
    lost = left_out_for_rounding(runs, "path_excess").sum()
    if not lost:
        return []
    cases = f"{lost} case{'s' if lost > 1 else ''} (runs and starts)"
    return [
        f"Path lengths are left out in {cases}, where rounding of the weights to the network's "
        f"precision may be more than {percent(LARGEST_PATH_ROUNDING)} of them (precision: float64 "
        "tells them); T/T_SL, in which none enters, is given."
    ]


def repetition_sentence(outcomes: pd.DataFrame, axes: dict) -> list[str]:
    """Return a sentence where all runs of ensembles are one and the same, and have no interval."""
    same = repeated(outcomes)
    if not same:
        return []
    every = len(same) == outcomes["ensemble"].nunique()
    which = "every ensemble" if every else "; ".join(name_of(row, axes) for row in same)
    return [
        f"All runs are one and the same, so that there is no interval, in {which}: what is "
        "measured does not depend on the seed there."
    ]


def repeated(outcomes: pd.DataFrame) -> list[pd.Series]:
    """Return a row of each ensemble of several runs that are all one and the same."""
    runs = outcomes[(outcomes["realisation"] != "ensemble") & (outcomes["at"] == "end")]
    runs = runs[(runs["start"] == "cold") & (runs["diverged"] == 0) & ~at_a_temperature(runs)]
    ensembles = [rows for _, rows in runs.groupby("ensemble", sort=False)]
    return [rows.iloc[0] for rows in ensembles if len(rows) > 1 and len(independent(rows)) == 1]


def dead_network_sentence(outcomes: pd.DataFrame, axes: dict) -> list[str]:
    """Return a sentence where networks have no NTK left at the end, as of ReLUs that are all off.

    Their kernel has drifted by exactly its own norm, and is aligned with nothing.
    """
    if "drift" not in outcomes:
        return []
    runs = outcomes[(outcomes["realisation"] != "ensemble") & (outcomes["at"] == "end")]
    runs = runs[(runs["start"] == "cold") & (runs["diverged"] == 0)]
    dead = runs[(runs["drift"] == 1.0) & runs["alignment"].isna()]
    if len(dead) == 0:
        return []
    names = "; ".join(
        f"{name_of(rows.iloc[0], axes)}, {len(rows)} of "
        f"{counted((runs['ensemble'] == ensemble).sum())}"
        for ensemble, rows in dead.groupby("ensemble", sort=False)
    )
    return [
        f"Networks have died ({names}): their NTK at the end is zero, so that no gradient moves "
        "them any more, and T/T_SL grows with the time that they wait."
    ]


def outcome_lines(outcomes: pd.DataFrame, axes: dict, confidence: float) -> list[str]:
    """Return a line per ensemble: inefficiency with its interval, or that it diverged."""
    whole = outcomes[(outcomes["realisation"] == "ensemble") & (outcomes["at"] == "end")]
    whole = predicted_from_rest(whole)
    lines = []
    marks = at_a_temperature(whole), in_motion(whole)
    for (_, row), bound, moving in zip(whole.iterrows(), *marks, strict=True):
        label = name_of(row, axes)
        runs = counted(row["runs"])
        if row["diverged"] > 0:
            share = round(row["diverged"] * row["runs"])
            lines.append(f"- {label}, {row['start']} start: {share} of {runs} diverged.")
            continue
        kinds = {"inefficiency": "T/T_SL", "kinematic_inefficiency": "kinematic inefficiency"}
        name = next((n for n in kinds if math.isfinite(row[n])), None)
        if name is None:
            why = "no bound (see the column note)" if bound else "the loss has not dropped"
            lines.append(f"- {label}, {row['start']} start: {why}.")
            continue
        kinds["inefficiency"] = "T/T_SL at least" if bound else "T/T_SL"
        text = f"{kinds[name]} {interval(row, name, confidence)}"
        if moving and name == "inefficiency":
            text += ", which is no bound: it leaves out the kinetic energy"
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
    return whole.assign(transient_factor=whole["transient_factor"].mask(at_a_temperature(whole)))


def transient_lines(outcomes: pd.DataFrame, axes: dict, confidence: float) -> list[str]:
    """Return a line per ensemble: what the first transient takes and does to the kernel."""
    lines = []
    rows = transients(outcomes)
    for (_, row), moving in zip(rows.iterrows(), in_motion(rows), strict=True):
        without = ", where kinetic energy is left out," if moving else ""
        time, loss = (row[f"transient_{name}_share"] for name in ("time", "loss"))
        parts = [f"{percent(time)} of the training time"]
        parts[0] += f", {percent(loss, 3)} of the loss drop" if math.isfinite(loss) else ""
        told = {
            "transient_factor": f"T/T_SL from the cold over that from the warm start{without} {{}}",
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
    rows = rows[rows["transient_factor"].notna() & ~in_motion(rows)] if len(rows) else rows
    if len(rows) == 0:
        return []
    ends = [rows.loc[rows["transient_factor"].agg(end)] for end in ("idxmin", "idxmax")]
    low, high = (f"{row['transient_factor']:.3g}" for row in ends)
    names = [name_of(row, axes) for row in ends]
    told = f"between {low} ({names[0]}) and {high} ({names[1]})"
    if low == high:
        told = f"{low} in each of {len(rows)} ensembles" if len(rows) > 1 else f"{low} ({names[0]})"
    return [f"T/T_SL from the cold start over that from the warm start is {told}."]


def discretisation_lines(outcomes: pd.DataFrame, axes: dict, confidence: float) -> list[str]:
    """Return a line per ensemble that takes steps: its action over its drop of energy.

    Gradient flow, for which it is 1 up to the error of integration, and Langevin dynamics at a
    temperature, whose noise drops no loss, have none.
    """
    if "dynamics" not in outcomes or "discretisation" not in outcomes:
        return []
    steps = (outcomes["dynamics"] != "gradient_flow") & ~at_a_temperature(outcomes)
    whole = outcomes[(outcomes["realisation"] == "ensemble") & (outcomes["at"] == "end") & steps]
    whole = whole[(whole["start"] == "cold") & whole["discretisation"].notna()]
    lines = []
    for _, row in whole.iterrows():
        names = ["discretisation", "discretisation_low", "discretisation_high"]
        shifted = pd.Series({name: 1 + row[name] for name in names})
        share = interval(shifted, "discretisation", confidence)
        lines.append(f"- {name_of(row, axes)}: {share}; {counted(row['runs'])}.")
    return lines


def predictions(outcomes: pd.DataFrame, axes: dict, confidence: float) -> list[Prediction]:
    """Return for each ensemble and start: is T/T_SL what the NTK there predicts?

    Student's t-test of the mean of ln(measured / predicted) over runs, at the end of training. What
    the integration may be off by is no difference, whatever the p-value. Nothing is predicted for
    momentum from a warm start, where it is in motion.
    """
    ends = outcomes[(outcomes["realisation"] != "ensemble") & (outcomes["at"] == "end")]
    ends = ends[~in_motion(ends)]
    if "prediction_ratio" not in ends:
        return []
    rows = []
    for (_, start), group in ends.groupby(["ensemble", "start"], sort=False):
        once = independent(group)
        found = geometric_mean(once["prediction_ratio"], confidence)
        if found["points"] > 1:
            label = f"{name_of(group.iloc[0], axes)}, {start} start"
            lost = len(once) - found["points"]
            selected = lacking(once, "prediction_ratio").any()  # the others are no sample of all
            found |= {"selected": selected} | ({"p_value": math.nan} if selected else {})
            bound = at_a_temperature(group).all()
            steps = (dynamics_of(group) != "gradient_flow").all()
            mean = geometric_mean(once["inefficiency"], confidence)["mean"] if steps else 1.0
            below = mean < BELOW_ONE
            found |= {"label": label, "bound": bound, "lost": lost, "below": below}
            rows.append(found | {"start": start})
    told_of = []
    for row, p in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        shown = pd.Series({**row, "p_adjusted": p, "confidence": confidence})
        ratio = interval(shown.rename({"low": "mean_low", "high": "mean_high"}), "mean", confidence)
        lost = f"{row['lost']} more {'has' if row['lost'] == 1 else 'have'} no such ratio"
        if not math.isfinite(p):
            runs = counted(row["points"])
            told = f"{ratio} in each of {runs}, which leaves no test"
            if row["selected"]:
                told = f"{row['mean']:.3g} in {runs}, which are no sample of all: {lost}"
            told_of.append(Prediction(row["start"], "", f"- {row['label']}: {told}."))
            continue
        verdict = "no evidence of a difference"
        if not shown["low"] <= 1 <= shown["high"]:
            verdict = "no difference is claimed, although its interval has no 1"
        if p <= significance_level(confidence):
            unbound = UNBOUNDED if row["below"] else FASTER
            lower = LOWER_BOUND if row["bound"] else unbound
            verdict = SLOWER if row["mean"] > 1 else lower
            verdict = within_integration(shown["low"], shown["high"]) or verdict
        lost = f"; {lost}" if row["lost"] else ""
        line = f"- {row['label']}: {ratio}, {verdict} ({tested(shown)}{lost})."
        told_of.append(Prediction(row["start"], verdict, line))
    return told_of


def within_integration(low: float, high: float) -> str:
    """Return what an interval that leaves out 1 says if the error of integration reaches it.

    Args:
        low: lower end of the interval of a ratio.
        high: upper end.

    Returns:
        Empty if the whole interval lies farther from 1.
    """
    percent = f"the {100 * NUMERICAL_ERROR:g} % of integration"
    if 1 - NUMERICAL_ERROR <= low and high <= 1 + NUMERICAL_ERROR:
        return f"equal within {percent}"
    if low <= 1 + NUMERICAL_ERROR and high >= 1 - NUMERICAL_ERROR:
        return f"{'above' if low > 1 else 'below'} 1, but not told from {percent}"
    return ""


def regimes(exponents: pd.DataFrame, axes: dict) -> list[FittedRegime]:
    """Return for each kernel at the start: alpha, delta and the regime they lie in.

    Ensembles that differ in their dynamics alone start with the same kernels, which count once.
    The full kernel's where it is known, else, as the line says, the output-traced one's, which has
    other exponents. A regime is named if the whole rectangle of both intervals lies in it.
    """
    if "alpha" not in exponents:
        return []
    at_start = exponents[exponents["moment"] == "start"]
    if "kernel" in at_start:
        kernel = at_start.groupby("ensemble")["kernel"].transform(fitted_kernel)
        at_start = at_start[at_start["kernel"] == kernel]
    at_start = at_start.drop_duplicates("ensemble")
    fits = [f"{name}{end}" for name in ("alpha", "delta") for end in ("", "_low", "_high")]
    fitted = at_start[fits].notna().all(axis=1)
    keys = joined(at_start, [*fits, "dataset", "n", "model", "width"])
    repeated = fitted & keys.duplicated()
    told_of = []
    for index, row in at_start[~repeated].iterrows():
        label = name_of(row, axes)
        of = row.get("kernel", "full")
        label += of_kernel(of)
        more = int((keys[repeated] == keys[index]).sum())
        label += f" and {more} more with the same kernels" if more else ""
        ends = [row[f"{name}_{end}"] for name in ("alpha", "delta") for end in ("low", "high")]
        if not all(map(math.isfinite, ends)) or ends[0] <= 0:
            line = f"- {label}: no exponents with intervals could be fitted."
            told_of.append(FittedRegime(of, "", line))
            continue
        text = "alpha {:.3g} ({:.3g} to {:.3g}), delta {:.3g} ({:.3g} to {:.3g})".format(
            row["alpha"], *ends[:2], row["delta"], *ends[2:]
        )
        corners = {regime(alpha, delta) for alpha in ends[:2] for delta in ends[2:]}
        named = corners.pop()
        if corners:
            best = regime(row["alpha"], row["delta"])
            named = f"{best} by the values, not decided by the intervals"
        line = f"- {label}: {text}; regime: {named}{_reservation(row)}."
        told_of.append(FittedRegime(of, named, line))
    return told_of


def _reservation(row: pd.Series) -> str:
    """Return what speaks against the fitted power laws, in brackets, or nothing."""
    said = []
    windows = [
        row.get(f"{name}_window_{end}", math.nan)
        for name in ("alpha", "delta")
        for end in ("low", "high")
    ]
    if all(map(math.isfinite, windows)) and windows[0] > 0:
        named = {regime(alpha, delta) for alpha in windows[:2] for delta in windows[2:]}
        if len(named) > 1:
            said.append(
                "over sub-windows of the fit alpha is {:.3g} to {:.3g} and delta {:.3g} to "
                "{:.3g}, not all of one regime".format(*windows)
            )
    curved = [
        name
        for name in ("alpha", "delta")
        if row.get(f"{name}_curvature_low", 0.0) > 0 or row.get(f"{name}_curvature_high", 0.0) < 0
    ]
    if curved:
        laws = f"law of {curved[0]} is" if len(curved) == 1 else "laws of alpha and delta are"
        said.append(f"the {laws} curved by an interval without 0: no pure power law")
    return f" ({'; '.join(said)})" if said else ""


def range_sentences(
    outcomes: pd.DataFrame, axes: dict, warm_starts: pd.DataFrame | None = None
) -> list[str]:
    """Return a sentence per start: the lowest and highest T/T_SL, or bound on it, at the end.

    Others say why ensembles have no warm start.

    Args:
        outcomes: the table of that name.
        axes: axis -> values of the study.
        warm_starts: the table of that name, with every ensemble.
    """
    whole = outcomes[(outcomes["realisation"] == "ensemble") & (outcomes["at"] == "end")]
    sentences = []
    for start, rows in whole.groupby("start", sort=False):
        # Cold starts that ensembles share stand once; a warm start that is not reached has no row.
        every = whole["ensemble"].nunique() if warm_starts is None else len(warm_starts)
        count = len(rows) if start == "cold" else every
        noisy = at_a_temperature(rows)
        bounds, others = noisy.sum(), count - noisy.sum()
        words = ("at least", "at least", "to")
        bounded = _ends(rows[noisy], axes, words, bounds, several=others > 0)
        words = ("at", "between", "and")
        known = _ends(rows[~noisy], axes, words, others, several=bounds > 0)
        if known:
            where = "without a temperature above 0 " if bounds else ""
            more = f"; at temperatures above 0 it is {bounded}" if bounded else ""
            sentences.append(f"From the {start} start T/T_SL ends {where}{known}{more}.")
        elif bounded:
            sentences.append(f"From the {start} start T/T_SL at the end is {bounded}.")
    if len(whole) and warm_starts is not None:
        sentences += _missing_warm_starts(whole, warm_starts, axes)
    return sentences


def _ends(
    rows: pd.DataFrame, axes: dict, words: tuple[str, str, str], count: int, *, several: bool
) -> str:
    """Return the lowest and highest T/T_SL of ensembles with their names; empty without any.

    Args:
        rows: of the table outcomes.
        axes: axis -> values of the study.
        words: before a single value, before the lower one of two, and between the two.
        count: number of ensembles that might have one.
        several: whether there are others, of which another value is told.
    """
    at, between, and_ = words
    rows = rows[rows["inefficiency"].notna()]
    if len(rows) == 0:
        return ""
    both = [rows.loc[index] for index in (rows["inefficiency"].idxmin(),
                                          rows["inefficiency"].idxmax())]  # fmt: skip
    low, high = (f"{row['inefficiency']:.3g}" for row in both)
    names = [name_of(row, axes) for row in both]
    part = f" in {len(rows)} of {count} ensembles" if len(rows) < count else ""
    if low != high:
        return f"{between} {low} ({names[0]}) {and_} {high} ({names[1]}){part}"
    if len(rows) == 1 and (part or several):
        only = f", the only {'one there' if several else 'ensemble'} that has it" if part else ""
        return f"{at} {low} ({names[0]}{only})"
    every = " in every one of them" if several else " in every ensemble"
    return f"{at} {low}{part or (every if count > 1 else '')}"


def _missing_warm_starts(whole: pd.DataFrame, warm_starts: pd.DataFrame, axes: dict) -> list[str]:
    """Return a sentence for each reason why ensembles have nothing from a warm start."""
    reached = has_warm_start(warm_starts)
    measured = warm_starts["largest_mean_test_accuracy"].notna()
    above = above_from_the_start(warm_starts)
    with_rows = set(whole.loc[whole["start"] == "warm", "ensemble"])
    at_the_end = reached & ~warm_starts["ensemble"].isin(with_rows)
    reasons = {
        "there is no test accuracy": ~reached & ~measured,
        "the mean test accuracy does not rise to its threshold before the last recorded time "
        f"(train longer or lower {SET_BY})": ~reached & measured & ~above,
        "the mean test accuracy starts at or above its threshold and does not rise to it later "
        f"(where it rises at all, raise {SET_BY})": above,
        "the mean test accuracy rises to its threshold at the last recorded time only, after which "
        f"nothing is left to measure (train longer or lower {SET_BY})": at_the_end,
    }  # fmt: skip
    sentences = []
    for why, rows in reasons.items():
        names = dict.fromkeys(name_of(row, axes) for _, row in warm_starts[rows].iterrows())
        if rows.all():
            sentences.append(f"There is no warm start: {why}.")
        elif rows.any():
            sentences.append(
                f"No warm start in {rows.sum()} of {len(warm_starts)} ensembles "
                f"({'; '.join(names)}): {why}."
            )
    return sentences


def prediction_summary(told_of: list[Prediction]) -> list[str]:
    """Return a sentence per start that counts the verdicts of ``predictions``."""
    sentences = []
    for start in ("cold", "warm"):
        here = [prediction.verdict for prediction in told_of if prediction.start == start]
        if here:
            told = (SLOWER, FASTER, LOWER_BOUND, UNBOUNDED)
            slower, faster, below, unbounded = map(here.count, told)
            rest = len(here) - slower - faster - below - unbounded
            bounded = f"{below} below it, as lower bounds may be, " if below else ""
            bounded += f"{unbounded} below it where T_SL bounds nothing, " if unbounded else ""
            sentences.append(
                f"Against the prediction from the NTK at the {start} start, {slower} of "
                f"{len(here)} ensembles are slower, {faster} faster, {bounded}{rest} "
                "not told apart."
            )
    return sentences


def regime_summary(told_of: list[FittedRegime]) -> list[str]:
    """Return a sentence per kernel that counts the regimes of ``regimes``.

    The output-traced kernel, of ensembles whose full one is too large, has other exponents.
    """
    sentences = []
    for kernel, name in (("full", "NTK"), ("traced", "output-traced NTK")):
        some = [fitted.regime for fitted in told_of if fitted.kernel == kernel]
        if not some:
            continue
        named = [regime for regime in some if regime]
        counts = {regime: named.count(regime) for regime in named}
        counts |= {"without intervals": len(some) - len(named)} if len(named) < len(some) else {}
        shown = "; ".join(f"{regime} {count}" for regime, count in counts.items())
        sentences.append(f"Regimes of the power laws fitted to the {name} at the start: {shown}.")
    return sentences


def transport_sentence(transport: pd.DataFrame) -> list[str]:
    """Return a sentence: is coupling each start with its own end the optimal transport?"""
    several = transport[transport["other_over_identity"].notna()]
    several = several[~at_a_temperature(several)]  # with noise this coupling is never optimal
    if len(several) == 0:
        return []
    better = several[~several["identity_is_optimal"].astype(bool)]
    counts = sorted({int(count) for count in several["realisations"]})
    size = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    cases = f"{len(several)} cases" if len(several) > 1 else "one case"
    about = f"{cases} (ensembles and starts; {size} runs each)"
    among = f"{len(better)} of {about}" if len(several) > 1 else about
    if len(better) == 0:
        dearer = several["other_over_identity"].min() - 1
        least = f"{1 + dearer:.3g} times as much" if dearer >= 0.01 else f"{percent(dearer)} more"
        every = "all " if len(several) > 1 else "the "
        return [
            f"W2 between starts and ends: in {every}{about} the optimal assignment "
            "couples each start with its own end, as it does in NTK dynamics; any other costs "
            f"at least {least}."
        ]
    gaps = better["identity_over_assignment"] - 1
    # the others' T_SL bounds nothing
    bounded = ~(dynamics_of(better).isin(["adam", "sgd"]) | in_motion(better))
    so = ""
    if bounded.any():
        least = gaps[bounded].max()
        where = f" ({percent(least)} where T_SL is a bound)" if least < gaps.max() else ""
        so = f"{where}: T_SL is overstated by as much, and T/T_SL understated"
    return [
        f"W2 between starts and ends: in {among} another assignment is cheaper than coupling each "
        f"start with its own end, by up to {percent(gaps.max())}{so}."
    ]
