"""What a study found, in sentences made from its tables alone."""

from __future__ import annotations

import pandas as pd

from pipeline.columns import interval_name
from pipeline.outcomes import each_run_once
from pipeline.tables import significance_level
from sentences.effects import (
    correlation_lines,
    draw_sentence,
    effect_parts,
    effect_summary,
    generalisation_summary,
)
from sentences.ensembles import (
    dead_network_sentence,
    discretisation_lines,
    end_sentence,
    energetic_lines,
    finite_step_sentence,
    heat_sentence,
    integration_sentence,
    noise_sentence,
    optimiser_sentences,
    outcome_lines,
    prediction_summary,
    predictions,
    range_sentences,
    regime_summary,
    regimes,
    repeated,
    repetition_sentence,
    rounding_sentence,
    transient_lines,
    transient_summary,
    transport_sentence,
)
from sentences.infinite_width import infinite_width_part
from sentences.phrases import listed, named_axes, words


def findings(tables: dict[str, pd.DataFrame], study: str, settings: dict) -> str:
    """Return the findings as Markdown.

    Args:
        tables: outcomes, trends, comparisons, correlations, exponents, transport, warm_starts, and
            of a study with that figure infinite_width and infinite_width_powers.
        study: its name.
        settings: axes and confidence.
    """
    confidence, axes = settings["confidence"], named_axes(settings["axes"], tables["outcomes"])
    against_predictions = predictions(tables["outcomes"], axes, confidence)
    fitted = regimes(each_run_once(tables["exponents"]), axes)
    short = [
        *range_sentences(tables["outcomes"], axes, tables.get("warm_starts")),
        *end_sentence(tables["outcomes"], axes),
        *repetition_sentence(tables["outcomes"], axes),
        *dead_network_sentence(tables["outcomes"], axes),
        *transient_summary(tables["outcomes"], axes),
        *finite_step_sentence(tables["outcomes"]),
        *integration_sentence(tables["outcomes"], axes),
        *rounding_sentence(tables["outcomes"]),
        *noise_sentence(tables["outcomes"]),
        *heat_sentence(tables["outcomes"], axes),
        *optimiser_sentences(tables["outcomes"]),
        *prediction_summary(against_predictions),
        *regime_summary(fitted),
        *transport_sentence(coupled(tables)),
        *effect_summary(tables, confidence),
        *generalisation_summary(tables["correlations"], confidence),
    ]
    parts = [
        f"# What the study {words(study)} found",
        listed("In short:", [f"- {sentence}" for sentence in short]),
        _how_it_was_tested(
            tables, confidence, any(prediction.verdict for prediction in against_predictions)
        ),
        *draw_sentence(tables),
        listed("At the end of training:", outcome_lines(tables["outcomes"], axes, confidence)),
        listed(
            "Action over drop of energy, from the cold start to the end; finite steps and gradient "
            "noise raise it above 1, Nesterov's friction lowers it:",
            discretisation_lines(tables["outcomes"], axes, confidence),
        ),
        listed(
            "Energetic inefficiency, T times the drop of energy over the squared displacement, at "
            "the end; the energy holds the kinetic energy of momentum, and Adam's displacement is "
            "measured in its mean metric. At least 1 up to the error of finite steps; T/T_SL for "
            "the others:",
            energetic_lines(tables["outcomes"], axes, confidence),
        ),
        listed(
            "The first transient, from the start to the warm start (means over runs; T/T_SL of an "
            "ensemble is a ratio of means):",
            transient_lines(tables["outcomes"], axes, confidence),
        ),
        listed(
            "Measured over predicted inefficiency at the end of training (geometric mean over runs "
            "with Student's interval; Holm's correction over this list):",
            [prediction.line for prediction in against_predictions],
        ),
        infinite_width_part(tables, axes, confidence),
        listed(
            "Exponents of the NTK spectrum at the start, lambda_k ~ k^-alpha and Delta_k^2 ~ "
            f"k^-delta, with {interval_name(confidence)}s of the fit, and the regime of the power "
            "law (optimal: 1 - alpha < delta < 1):",
            [regime.line for regime in fitted],
        ),
    ]
    parts += effect_parts(tables, confidence)
    related = correlation_lines(tables["correlations"], confidence)
    heading = "Correlations at the end (Holm's correction over this list):"
    parts.append(listed(heading, [f"- {sentence}" for sentence in related]))
    return "\n\n".join(part for part in parts if part) + "\n"


def coupled(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the table transport, each coupling once, where runs end apart from each other.

    Not where one diverged, nor where all are one and the same.

    Args:
        tables: outcomes and transport.
    """
    outcomes = tables["outcomes"]
    lost = outcomes.loc[outcomes["diverged"] > 0, "ensemble"] if "diverged" in outcomes else []
    lost = [*lost, *(row["ensemble"] for row in repeated(outcomes))]
    transport = each_run_once(tables["transport"])
    return transport[~transport["ensemble"].isin(lost)] if len(transport) else transport


def _how_it_was_tested(
    tables: dict[str, pd.DataFrame], confidence: float, predictions: bool
) -> str:
    """Return what tests and intervals are, of a study that has any.

    Args:
        tables: trends, comparisons and correlations.
        confidence: of the study.
        predictions: whether T/T_SL is tested against its prediction.
    """
    level = significance_level(confidence)
    names = ("trends", "comparisons", "correlations")
    if not any(
        tables[name]["p_value"].notna().any() for name in names if "p_value" in tables[name]
    ):
        rest = "intervals, where there are any, are bootstrapped over runs of the same settings."
        if predictions:
            return (
                "These runs leave no test along an axis, which takes values to compare and "
                "realisations to permute; T/T_SL is tested against its prediction, by Student's "
                f"test at the level {level:.2g} after Holm's correction; other {rest}"
            )
        return (
            "These runs leave no test, which takes values to compare and realisations to permute; "
            f"{rest}"
        )
    return (
        "Permutation tests of runs, and Welch's where settings have three or more each (one that "
        "lost a run two), of which the larger p-value counts, or Student's tests of starts where "
        "settings share them, which speak of the samples drawn here; where subsets vary, Student's "
        "tests of draws of samples, "
        f"which speak of any. An effect is claimed up to {level:.2g} after Holm's "
        "correction over all tests of the same moment in this study, and if its interval leaves "
        "out no effect. Intervals are those of Student's or Welch's test, or of fewer runs "
        "bootstrapped over those of the same settings: they say how well the slope over just these "
        "settings is known, and a permutation test, which asks whether values line up along the "
        "axis more than by chance, may see no trend where they leave out zero."
    )
