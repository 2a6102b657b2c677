"""Tests along axes and the sentences made from them, on tables with and without an effect."""

import itertools
import math
import re

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from collect import describing, labelled, warm_columns
from interactive import FACTORS, LAWS, curves, study_data
from warm_start import warm_start

from pipeline.columns import described
from pipeline.outcomes import (
    CURVES,
    PRIMARY,
    _at_levels,
    _crossing,
    _interpolated,
    _one_start,
    along_axes,
    correlations,
    each_run_once,
    ensemble_outcomes,
    independent,
    joined,
    outcomes,
    repetitions,
    transient_columns,
)
from pipeline.runs import Plan
from pipeline.stores import write_json
from pipeline.tables import THRESHOLD, at_a_temperature, with_threshold
from plots import style
from plots.generalisation import rank_correlation as title_of
from plots.outcomes import series_label
from sentences.effects import (
    MOMENTS,
    comparison_sentence,
    correlation_lines,
    generalisation_summary,
    moment_in_words,
    too_few,
    trend_sentence,
)
from sentences.ensembles import (
    discretisation_lines,
    end_sentence,
    energetic_lines,
    heat_sentence,
    integration_sentence,
    noise_sentence,
    optimiser_sentences,
    outcome_lines,
    predictions,
    range_sentences,
    regime_summary,
    regimes,
    rounding_sentence,
    transient_lines,
    transient_summary,
    transport_sentence,
)
from sentences.infinite_width import infinite_width_part
from sentences.phrases import interval, name_of, named_axes, percent
from sentences.study import coupled, findings
from speedlimits import ntk_dynamics
from speedlimits.dynamics import GradientFlow
from speedlimits.statistics import geometric_mean, holm, rank_correlation, trend

SETTINGS = {"seed": 3, "confidence": 0.95, "resamples": 999}


def prediction_lines(*arguments):
    """Return the lines of the findings' list of predictions."""
    return [prediction.line for prediction in predictions(*arguments)]


def regime_lines(*arguments):
    """Return the lines of the findings' list of regimes."""
    return [fitted.line for fitted in regimes(*arguments)]


def runs(slope=0.0, ratio=1.0, realisations=5, sizes=(8, 16, 32, 64)):
    """Runs at the end: widths on an axis, two models as the other."""
    generator = np.random.default_rng(0)
    rows = []
    for width in sizes:
        for model, factor in (("a", 1.0), ("b", ratio)):
            for r in range(realisations):
                noise = np.exp(0.1 * generator.normal(size=2))
                rows.append(
                    {
                        "ensemble": f"{width}{model}", "subset": 0, "width": width, "model": model,
                        "start": "cold", "at": "end", "realisation": str(r), "diverged": 0,
                        "inefficiency": 3 * factor * (width / 8) ** slope * noise[0],
                        "kinematic_inefficiency": 3 * noise[0], "inefficiency_predicted": 3.0,
                        "prediction_ratio": factor * (width / 8) ** slope * noise[0],
                        "test_error": 0.1 * noise[1],
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def written(table, axes):
    trends, comparisons = along_axes(table, axes, SETTINGS)
    whole = table.groupby("ensemble").first().reset_index()
    whole = whole.assign(realisation="ensemble", runs=5, inefficiency_low=2, inefficiency_high=4)
    tables = {
        "outcomes": pd.concat([table, whole]),
        "trends": trends,
        "comparisons": comparisons,
        "correlations": correlations(table, SETTINGS),
        "exponents": whole.assign(moment="start", **EXPONENTS),
        "transport": transport(),
    }
    return findings(tables, "some_study", SETTINGS | {"axes": axes}), tables


def transport(other=(3.0, 2.5), gap=(0.0, 0.0), counts=(4, 5)):
    """Two ensembles: cost of the cheapest other assignment, and how far the identity is off."""
    return pd.DataFrame(
        {
            "ensemble": ["a", "b"], "start": "cold", "realisations": counts,
            "identity_over_assignment": 1 + np.array(gap), "other_over_identity": other,
            "identity_is_optimal": np.array(gap) == 0,
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({}, "in all 2 cases (ensembles and starts; 4 to 5 runs each) the optimal assignment "
             "couples each start with its own end"),
        ({}, "any other costs at least 2.5 times as much."),
        ({"other": (1.00012, 2.0)}, "any other costs at least 0.012 % more."),
        ({"gap": (0.0, 0.25), "other": (3.0, 0.8)}, "in 1 of 2 cases"),
        ({"gap": (0.0, 0.25), "other": (3.0, 0.8)}, "by up to 25 %"),
        ({"counts": (1, 3), "other": (np.nan, 2.0)}, "in the one case ("),
    ],
)  # fmt: skip
def test_optimal_coupling_is_told(made, said):
    (sentence,) = transport_sentence(transport(**made))
    assert said in sentence


def test_couplings_of_ensembles_without_a_speed_limit_are_not_told():
    """Nor of those whose runs are all one and the same: every assignment costs as much."""
    table = transport(gap=(0.0, 0.25), other=(3.0, 0.8))
    kept, lost = runs(sizes=(8,)), runs(sizes=(16,)).query("model == 'a'")
    kept = kept.query("model == 'a'").assign(ensemble="a")
    same = dict.fromkeys(("inefficiency", "kinematic_inefficiency", "prediction_ratio"), 2.0)
    for change in ({"diverged": 1.0}, same):
        outcomes_ = pd.concat([kept, lost.assign(ensemble="b", **change)])
        found = coupled({"outcomes": outcomes_, "transport": table})
        assert list(found["ensemble"]) == ["a"]
    kept = found
    (sentence,) = transport_sentence(kept)
    assert sentence.startswith("W2 between starts and ends: in the one case (")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((4.62, 1.996, 10.69), "4.62 (95 % interval 2 to 10.7)"),
        ((1.00021, 1.00012, 1.0003), "1.0002 (95 % interval 1.0001 to 1.0003)"),
        ((1.0164, 1.0041, 1.032), "1.016 (95 % interval 1.004 to 1.032)"),
        ((1.0, 1.0, 1.0), "1 (95 % interval 1 to 1)"),
        ((-0.0755, -0.519, 0.368), "-0.0755 (95 % interval -0.519 to 0.368)"),
        ((2.5, np.nan, np.nan), "2.5"),
        ((5.1902905, 5.1902903, 5.1902907), "5.19029"),
    ],
)
def test_intervals_have_digits_enough_to_tell_their_ends_from_one(values, said):
    row = pd.Series(dict(zip(("x", "x_low", "x_high"), values, strict=True)))
    assert interval(row, "x", 0.95) == said


def test_starts_of_two_initialisations_are_two():
    """Their seeds are equal, their weights are not."""
    table = runs().query("model == 'a'").assign(start_seed="1")
    both = pd.concat([table.assign(initialisation=kind) for kind in ("he", "torch_default")])
    assert _one_start(both).nunique() == 2 and _one_start(table).nunique() == 1


def test_one_run_has_no_coupling_to_tell():
    assert transport_sentence(transport(counts=(1, 1), other=(np.nan, np.nan))) == []


EXPONENTS = {
    "alpha": 2.0, "alpha_low": 1.8, "alpha_high": 2.2,
    "delta": 0.5, "delta_low": 0.2, "delta_high": 0.8,
}  # fmt: skip
AXES = {"width": [8, 16, 32, 64], "model": ["a", "b"]}


def test_measured_against_predicted_is_decided_by_its_own_test():
    text, _ = written(runs(ratio=2.0, sizes=(8,)), {"model": ["a", "b"]})
    assert "- model a, cold start: 1.0" in text and "no evidence of a difference" in text
    lines = [line for line in text.splitlines() if "slower than predicted" in line]
    assert len(lines) == 1 and "adjusted p" in lines[0]
    ratio = float(lines[0].removeprefix("- model b, cold start: ").split()[0])
    assert ratio == pytest.approx(2, rel=0.15)  # 3 standard errors: 0.1 / sqrt(5)


def test_runs_without_a_test_error_count_in_its_trend():
    """A test error of 0 has no logarithm; left out, the trend would be that of the other runs."""
    table = runs(realisations=8)
    chance = np.random.default_rng(1).normal(0, 0.01, len(table))
    straight = 0.1 - 0.05 * np.log2(table["width"] / 8) + chance
    table["test_error"] = np.where(straight > 0.03, straight, 0.0)
    text, tables = written(table, AXES)
    (row,) = tables["trends"].query("quantity == 'test_error'").itertuples()
    fit = np.polynomial.Polynomial.fit(np.log(table["width"]), table["test_error"], 1)
    assert row.points == len(table) and row.kind == "difference"
    assert row.slope == pytest.approx(fit.convert().coef[1], rel=1e-9)
    assert "The test error falls with width, by s ln(width) with s = -0.0" in text
    (row,) = tables["comparisons"].query("quantity == 'test_error'").itertuples()
    means = table.groupby("model")["test_error"].mean()
    assert row.effect == pytest.approx(means["b"] - means["a"], rel=1e-9)
    assert "test error of model b differs from that of a (difference " in text


def test_a_lower_test_error_is_told_as_a_difference():
    table = runs(realisations=8)
    table.loc[table["model"] == "b", "test_error"] += 0.2
    text, _ = written(table, AXES)
    assert "The test error of model b is higher than that of a, the difference being 0.2" in text
    assert "the test error is higher for model b than for a" in text


def test_the_error_of_the_integration_is_no_difference():
    """Gradient flow of an exactly linear model: all runs are off by the same small factor."""
    k, ratios = np.arange(1.0, 101), []
    for seed in range(4):
        residue = np.random.default_rng(seed).normal(size=100) * k**-0.25
        pull, target = torch.from_numpy(1 / k), torch.from_numpy(residue)

        def loss(theta, pull=pull, target=target):
            left = target - pull * theta
            return 0.5 * float(left @ left), -pull * left

        flow = GradientFlow(loss, torch.zeros(100, dtype=torch.float64))
        flow.advance(100.0)
        drop = 0.5 * float(target @ target) - flow.loss
        moved = float(flow.displacement @ flow.displacement)
        predicted = ntk_dynamics.inefficiency(k**-2, residue**2, 100.0)
        ratios.append(100.0 * drop / moved / float(predicted))
    table = runs(sizes=(8,), realisations=4)[:4].assign(prediction_ratio=ratios)
    assert geometric_mean(ratios, 0.95)["p_value"] < 0.05  # it is seen, and says nothing
    (line,) = prediction_lines(table, AXES, 0.95)
    assert "equal within the 1 %" in line and "than predicted" not in line
    (line,) = prediction_lines(table.assign(prediction_ratio=1.05 * table["prediction_ratio"]),
                               AXES, 0.95)  # fmt: skip
    assert "slower than predicted" in line
    for ratios, said in (
        ([1.002, 1.0095, 1.017, 1.011], "above 1, but not told from the 1 % of integration"),
        ([1 / 1.002, 1 / 1.0095, 1 / 1.017, 1 / 1.011], "below 1, but not told from the 1 % of"),
        ([1.012, 1.013, 1.014, 1.015], "slower than predicted"),
        ([0.985, 0.986, 0.987, 0.988], "faster than predicted"),
        ([0.994, 0.995, 0.995, 0.996], "equal within the 1 % of integration"),
    ):
        (line,) = prediction_lines(table.assign(prediction_ratio=ratios), AXES, 0.95)
        assert said in line, line
    equal = table.assign(prediction_ratio=1.3 * (1 + 1e-15 * np.arange(4)))
    (line,) = prediction_lines(equal, AXES, 0.95)
    assert line.endswith(": 1.3 in each of 4 runs, which leaves no test.")


@pytest.mark.parametrize(
    ("delta", "said"),
    [
        ((0.5, 0.2, 0.8), "regime: optimal."),
        ((0.5, 0.2, 1.2), "regime: optimal by the values, not decided by the intervals."),
        ((1.5, 1.2, 1.8), "regime: growing."),
        ((-1.5, -1.6, -1.4), "regime: last modes."),
        ((np.nan, np.nan, np.nan), "no exponents with intervals could be fitted."),
    ],
)
def test_regime_is_named_where_the_intervals_decide_it(delta, said):
    table = pd.DataFrame([{"ensemble": "e", "moment": "start", "width": 8} | EXPONENTS])
    table[["delta", "delta_low", "delta_high"]] = [delta]
    (line,) = regime_lines(table, {"width": [8, 16]})
    assert line.startswith("- width 8: ") and line.endswith(said)


@pytest.mark.parametrize("low", [0.0, -0.2])
def test_a_law_whose_alpha_may_be_zero_has_no_regime(low):
    row = {"ensemble": "e", "moment": "start", "width": 8} | EXPONENTS | {"alpha_low": low}
    (line,) = regime_lines(pd.DataFrame([row]), {"width": [8, 16]})
    assert line.endswith("no exponents with intervals could be fitted.")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"alpha_curvature_low": -0.2, "alpha_curvature_high": 0.1}, "regime: optimal."),
        (
            {"alpha_curvature_low": -0.2, "alpha_curvature_high": -0.1},
            "optimal (the law of alpha is curved by an interval without 0: no pure power law).",
        ),
        (
            {
                f"{name}_curvature_{end}": 0.1
                for name in ("alpha", "delta")
                for end in ("low", "high")
            },
            "optimal (the laws of alpha and delta are curved by an interval without 0: no pure "
            "power law).",
        ),
        ({"delta_window_low": 0.4, "delta_window_high": 0.9}, "regime: optimal."),
        (
            {"delta_window_low": 0.4, "delta_window_high": 1.25},
            "optimal (over sub-windows of the fit alpha is 1.2 to 1.4 and delta 0.4 to 1.25, not "
            "all of one regime).",
        ),
    ],
)
def test_what_speaks_against_the_power_laws_is_said_beside_their_regime(values, said):
    windows = {"alpha_window_low": 1.2, "alpha_window_high": 1.4}
    row = {"ensemble": "e", "moment": "start", "width": 8} | EXPONENTS | windows | values
    (fitted,) = regimes(pd.DataFrame([row]), {"width": [8, 16]})
    assert fitted.line.endswith(said)
    (summary,) = regime_summary([fitted])
    assert summary.endswith(": optimal 1.")


def test_regimes_of_the_output_traced_kernel_say_so():
    """It has other exponents than the full one, of which the largest n may lack the eigenvalues."""
    table = pd.DataFrame({"ensemble": ["a", "a", "b"], "n": [8, 8, 99]})
    table = table.assign(kernel=["full", "traced", "traced"], moment="start", **EXPONENTS)
    first, second = regime_lines(table, {"n": [8, 99]})
    assert first.startswith("- n 8: alpha ") and "traced" not in first
    assert second.startswith("- n 99, output-traced kernel: alpha ")
    assert regime_lines(table[::-1], {"n": [8, 99]}) == [second, first]  # whatever the rows' order


def test_regimes_are_counted_once_for_each_ensemble_and_for_each_kernel_alone():
    table = pd.DataFrame({"ensemble": list("aabbcc") + ["d"], "n": [8, 8, 16, 16, 32, 32, 99]})
    table = table.assign(kernel=["full", "traced"] * 3 + ["traced"], moment="start", **EXPONENTS)
    table[["alpha", "alpha_low", "alpha_high"]] += table[["n"]].to_numpy() / 1e4
    table.loc[4, ["delta", "delta_low", "delta_high"]] = 1.5, 1.2, 1.8
    fitted = regimes(table, {"n": [8, 16, 32, 99]})
    told = "Regimes of the power laws fitted to the {} at the start: {}."
    assert regime_summary(fitted) == [
        told.format("NTK", "optimal 2; growing 1"),
        told.format("output-traced NTK", "optimal 1"),
    ]
    assert regime_summary(fitted[:3]) == [told.format("NTK", "optimal 2; growing 1")]
    assert regime_summary([]) == []


def test_kernels_that_ensembles_share_count_once():
    """Learning rates start alike."""
    table = pd.DataFrame({"ensemble": list("abcd"), "learning_rate": [0.1, 0.2, 0.3, 0.4]})
    table = table.assign(moment="start", **EXPONENTS)
    table.loc[3, "alpha"] += 0.01
    lines = regime_lines(table, {"learning_rate": [0.1, 0.2, 0.3, 0.4]})
    assert len(lines) == 2 and lines[1].startswith("- learning rate 0.4: ")
    assert lines[0].startswith("- learning rate 0.1 and 2 more with the same kernels: ")
    lost = table.assign(alpha_low=np.nan)  # without a fit nothing is the same
    assert len(regime_lines(lost, {"learning_rate": [0.1]})) == 4


def test_effects_are_claimed_with_their_numbers():
    text, tables = written(runs(slope=-0.5, ratio=2.0), AXES)
    row = tables["trends"].query("quantity == 'inefficiency'").iloc[0]
    assert row["slope"] == pytest.approx(-0.5, abs=0.06)  # 3 standard errors: 0.1 / sqrt(40) / 0.78
    assert row["points"] == 40
    assert "The inefficiency T/T_SL falls with width, as width^s with s = -0." in text
    factor = tables["comparisons"].query("quantity == 'inefficiency'").iloc[0]
    assert factor["effect"] == pytest.approx(2, rel=0.1)
    assert "The inefficiency T/T_SL of model b is" in text and "times that of a" in text


def test_gradients_are_not_compared_where_they_are_equal():
    table = pd.concat([runs().assign(at=at, gradients=60.0 * 8) for at in MOMENTS])
    for rows in along_axes(table, AXES, SETTINGS):
        of = rows[rows["quantity"] == "gradients"]
        assert set(of["at"]) == {"end", "equal_loss"} and (of["p_value"] == 1).all()


def test_one_number_of_two_quantities_has_one_interval():
    """T/T_SL and what takes its place elsewhere are the same without momentum."""
    table = pd.concat([runs().assign(at=at) for at in ("end", "equal_loss")])
    table = table.assign(ensemble="e", diverged=0)
    table = table.assign(energetic_inefficiency=table["inefficiency"])
    columns = ["ensemble", *AXES, "start", "realisation", "at", "diverged"]
    values = ["inefficiency", "energetic_inefficiency", "prediction_ratio"]
    limits = pd.DataFrame(
        [{"ensemble": "e", "start": "cold", "realisation": "ensemble", "time": 1}]
    )
    for row in ensemble_outcomes(table[columns + values], limits, SETTINGS).to_dict("records"):
        for end in ("", "_low", "_high"):
            assert row[f"energetic_inefficiency{end}"] == row[f"inefficiency{end}"]
        assert row["inefficiency_low"] < row["inefficiency"] < row["inefficiency_high"]


def test_every_column_of_comparisons_and_trends_is_described():
    _, tables = written(runs(), AXES)
    assert len(tables["comparisons"]) and len(tables["trends"])
    for name in ("trends", "comparisons", "correlations", "transport"):
        for column in tables[name]:
            assert described(column)["long_name"]


@pytest.mark.parametrize("shared", [False, True])
def test_a_trend_that_is_no_power_is_told_as_an_average(shared):
    """As the kernel's drift with the output scale: steeper where features are learnt."""
    table = runs(sizes=(8, 16, 32, 64))
    if shared:  # as of output scales
        table["start_seed"] = table["realisation"].astype(int) + 7
        table["initialisation"] = "he"
    straight = along("width", AXES["width"], table)
    assert straight["p_single_slope"] > 0.05
    table["inefficiency"] *= np.where(table["width"] < 64, 1.0, 50.0)
    row = along("width", AXES["width"], table)
    assert row["test"] == ("student" if shared else "runs")
    means = np.log(table["inefficiency"]).groupby(table["width"]).mean().to_numpy()
    between = np.diff(means) / np.log(2)
    ends = [row["local_slope_least"], row["local_slope_largest"]]
    assert ends == pytest.approx([between.min(), between.max()]) and ends[0] < row["slope"]
    assert trend_sentence(row, 0.95).endswith(
        ". No single slope fits (p < 0.001): this s is an average of those between neighbouring "
        f"values, which lie between {ends[0]:.2g} and {ends[1]:.2g}."
    )
    for kept in ({"p_single_slope": 0.06}, {"p_single_slope": np.nan}, {"slope": 9.0}):
        assert "average" not in trend_sentence(row | kept, 0.95)


def test_local_slopes_are_told_in_digits_that_tell_them_from_the_slope():
    table = runs(sizes=(8, 16, 32))
    row = along("width", [8, 16, 32], table)
    ends = {"slope": 1.082, "local_slope_least": 1.051, "local_slope_largest": 1.155}
    ends |= {"p_single_slope": 0.01, "p_adjusted": 0.01, "slope_low": 1.07, "slope_high": 1.09}
    assert "lie between 1.05 and 1.16." in trend_sentence(row | ends, 0.95)


def test_a_case_may_be_called_case():
    rows = {"against": "case", "value": "case", "quantity": "inefficiency", "points": 3}
    rows |= {"p_smallest": 0.2, "test": "runs"}
    (told,) = too_few(pd.DataFrame([rows]))
    assert "to say anything of case on the inefficiency" in told


@pytest.mark.parametrize(
    "label",
    ["lazy regime: rich", "x, output-traced kernel y", "a: alpha 3", "b, output-traced kernel"],
)
def test_regimes_are_counted_behind_labels(label):
    row = {"ensemble": "e", "moment": "start", "case": label, "kernel": "full"} | EXPONENTS
    fitted = regimes(pd.DataFrame([row]), {"case": [label]})
    assert fitted[0].line.endswith("; regime: optimal.")
    assert regime_summary(fitted) == [
        "Regimes of the power laws fitted to the NTK at the start: optimal 1."
    ]
    none = regimes(pd.DataFrame([row | {"alpha_low": np.nan}]), {"case": [label]})
    assert regime_summary(none)[0].endswith("at the start: without intervals 1.")


def test_two_values_have_one_slope():
    trends, _ = along_axes(runs(sizes=(8, 16)), {"width": [8, 16]}, SETTINGS)
    two = trends[trends["slope"].notna()]
    assert len(two) and two[["local_slope_least", "local_slope_largest"]].isna().all(axis=None)


def test_no_effect_says_no_evidence():
    text, _ = written(runs(), AXES)
    assert " of the inefficiency T/T_SL with width" in text  # no trend, or no evidence of one
    assert "No evidence that the inefficiency T/T_SL of model b differs from that of a" in text
    assert " falls with" not in text and " grows with" not in text


def test_what_is_not_claimed_although_its_interval_has_no_zero_is_not_called_no_evidence():
    row = pd.Series(
        {"quantity": "inefficiency", "against": "n", "kind": "factor", "scale": "log",
         "value": "b", "reference": "a", "points": 9, "confidence": 0.95,
         "p_value": 0.15, "p_adjusted": 1.0, "p_smallest": 0.001}
    )  # fmt: skip
    for low, high, of_trend, difference in (
        (
            0.1,
            0.2,
            "No trend of the inefficiency T/T_SL with n is claimed, although its",
            "has no 1",
        ),
        (
            -0.1,
            1.2,
            "No evidence of a trend of the inefficiency T/T_SL with n (slope",
            "No evidence",
        ),
    ):
        ends = {f"{name}{end}": value for name in ("slope", "effect")
                for end, value in (("", 0.15), ("_low", low), ("_high", high))}  # fmt: skip
        told = pd.concat([row, pd.Series(ends)])
        assert of_trend in trend_sentence(told, 0.95)
        assert difference in comparison_sentence(told, 0.95)


def test_values_that_are_not_there_are_not_too_few():
    """Adam has no T/T_SL."""
    table = runs(realisations=5)
    lost = table["model"] == "b"
    names = ["inefficiency", "prediction_ratio"]
    _, comparisons = along_axes(table.assign(**table[names].mask(lost)), AXES, SETTINGS)
    shown = "the inefficiency T/T_SL, the inefficiency over its prediction from the NTK"
    undecided = comparisons[comparisons["quantity"].isin(names)]
    (told,) = too_few(undecided)
    assert told.startswith(f"Nothing to compare for model b on {shown}: not both have them")


def test_runs_at_a_temperature_stay_apart_where_the_loss_is_equal():
    """What is left of them there, the share of the loss, is the same by definition."""
    noisy = {"dynamics": "langevin", "at": "equal_loss", "kinematic_inefficiency": np.nan}
    table = runs(realisations=8).assign(**noisy, train_loss_share=0.25)
    table = table.rename(columns={"width": "temperature"})
    axes = {"temperature": [8, 16, 32, 64], "model": ["a", "b"]}
    trends, comparisons = along_axes(table, axes, SETTINGS)
    assert trends.set_index("quantity")["points"]["test_error"] == 16  # starts of two models
    assert comparisons.set_index("quantity")["points"]["test_error"] == 64


def test_the_discretisation_of_heat_is_not_compared_with_that_of_action():
    table = runs(realisations=8).assign(dynamics="langevin")
    table["discretisation"] = np.where(table["width"] == 8, 2.0, 0.1) * table["test_error"]
    table = table.rename(columns={"width": "temperature"})
    tested = []
    for values in ([0.0, 16, 32, 64], [8, 16, 32, 64]):
        at = table.assign(temperature=table["temperature"].replace(8, values[0]))
        trends, _ = along_axes(at, {"temperature": values}, SETTINGS)
        tested.append(np.isfinite(trends.set_index("quantity")["p_value"]["discretisation"]))
    assert tested == [False, True]  # at temperature 0 alone there is no trend; of heat at all is


@pytest.mark.parametrize("temperature", [0.0, 0.1])
def test_a_temperature_stands_in_every_table_of_langevin_dynamics(temperature):
    """Whether T/T_SL is a bound follows from it, be it an axis of the study or not."""
    settings = {"dataset": "digits", "n": 8, "dynamics": "langevin", "temperature": temperature}
    flow = {"path": "flow", "settings": settings | {"dynamics": "gradient_flow"}}
    flow["settings"].pop("temperature")
    noisy = {"path": "langevin", "settings": settings}
    columns = describing([flow, noisy], {"n": [8, 16], "dynamics": ["gradient_flow", "langevin"]})
    assert columns.count("n") == columns.count("dynamics") == 1
    tables = [labelled(pd.DataFrame({"x": [1.0]}), e | {"columns": columns}) for e in (flow, noisy)]
    table = pd.concat(tables)
    assert list(table.columns) == ["ensemble", *columns, "x"]
    assert list(at_a_temperature(table)) == [False, temperature > 0]
    assert "temperature" not in describing([flow], {"n": [8, 16]})


def test_tables_tell_what_cases_differ_in():
    """By that it is known which runs share samples, and which settings a dynamics has."""
    settings = {"dataset": "digits", "n": 8, "selection": "balanced", "momentum": 0.5}
    settings |= {"dynamics": "heavy_ball", "case": "a", THRESHOLD: 0.1, "channels": 1}
    others = {"selection": "uniform", "momentum": 0.9, "case": "b", THRESHOLD: 0.2, "channels": 2}
    ensembles = [{"settings": settings}, {"settings": settings | others}]
    columns = describing(ensembles, {"case": ["a", "b"]})
    assert {"selection", "momentum", "case"} <= {*columns}
    assert not {THRESHOLD, "channels"} & {*columns}
    assert "momentum" not in describing(ensembles, {"n": [8, 16]})


def test_a_loss_that_has_not_dropped_has_no_share_of_a_transient():
    rows = pd.DataFrame({"time": [1.0, 2.0, 3.0], "inefficiency": [2.0, 3.0, 4.0]})
    curve = pd.DataFrame({"time": [0.0, 1.0, 2.0, 3.0]})
    found = [
        transient_columns(rows, rows[1:], curve, pd.Series(share))["transient_loss_share"]
        for share in ([1.0, 0.8, 0.6, 0.5], [1.0, 1.2, 1.1, 1.05], [1.0, 0.9, 1.0, 1.0])
    ]
    assert found[0] == pytest.approx(0.4) and np.isnan(found[1:]).all()


def test_findings_say_what_bounds_other_dynamics():
    text, _ = written(runs().assign(dynamics="sgd"), AXES)
    assert "Minibatches: the loss drop of one trajectory bounds nothing" in text


def test_bounds_at_a_temperature_are_in_no_test():
    """A bound is looser at some temperatures: that it falls says nothing of T/T_SL."""
    table = runs(slope=-1.0, realisations=8).assign(dynamics="langevin")
    table = table.rename(columns={"width": "temperature"})
    exact = table.assign(temperature=table["temperature"].replace(8, 0.0))
    axes = {"temperature": [0.0, 16, 32, 64], "model": ["a", "b"]}
    trends, comparisons = along_axes(exact, axes, SETTINGS)
    of_bounds = trends["quantity"].isin(["inefficiency", "prediction_ratio"])
    assert of_bounds.sum() == 2 and trends.loc[of_bounds, "p_value"].isna().all()
    assert trends.loc[~of_bounds, "p_value"].notna().all()  # the test error is one
    models = comparisons.set_index("quantity")["points"]
    assert models["inefficiency"] == 16 and models["test_error"] == 64  # at temperature 0 alone
    found = correlations(exact, SETTINGS).set_index(["with", "level"])["points"]
    assert found["test_error", "within"] == 16
    text, _ = written(exact, axes)
    assert "T/T_SL falls" not in text and "where the bound falls, T/T_SL itself may rise" in text
    end = r"[\d.]+ \(temperature 0, model \w\)"
    known = f"ends without a temperature above 0 between {end} and {end}"
    assert re.search(known + r"; at temperatures above 0 it is at least [\d.]+ \(temp", text)
    flow, _ = along_axes(exact.assign(dynamics="gradient_flow"), axes, SETTINGS)
    assert (flow["p_adjusted"] < 0.05).any()


def test_learning_rates_are_named_with_their_unit():
    row = pd.Series({"ensemble": "runs/rate0.1of_limit-a/ensemble2", "learning_rate": 0.1, "n": 64})
    axes = {"learning_rate": [0.1, 0.3], "n": [64, 128]}
    assert name_of(row, axes) == "learning rate 0.1 x 2/lambda_1, n 64"
    row["ensemble"] = "runs/rate0.1-a/ensemble2"  # in units of time
    assert name_of(row, axes) == "learning rate 0.1, n 64"


def test_too_few_runs_say_so():
    axes = {"model": ["a", "b"]}
    text, tables = written(runs(ratio=9.0, realisations=3, sizes=(8,)), axes)
    row = tables["comparisons"].query("quantity == 'inefficiency'").iloc[0]
    assert row["p_smallest"] == pytest.approx(0.1)  # 2 of 20 ways to choose 3 of 6
    assert "Too few runs" in text and "whose least p-value is 0.1)" in text
    assert "times that of" not in text


def test_tests_that_the_correction_puts_out_of_reach_are_named():
    axes = {"model": ["a", "b"]}
    text, tables = written(runs(ratio=9.0, realisations=4, sizes=(8,)), axes)
    row = tables["comparisons"].query("quantity == 'inefficiency'").iloc[0]
    assert row["p_smallest"] == pytest.approx(2 / 70)  # 4 of 8, and the mirror image
    assert row["p_value"] < 0.05  # the effect is as clear as so few runs can show
    assert row["p_adjusted"] > 0.05
    assert "too few arrangements of their runs for Holm's first threshold" in text
    text, _ = written(runs(ratio=9.0, realisations=8, sizes=(8,)), axes)
    assert "too few arrangements" not in text


def test_a_trend_inside_strata_is_not_mistaken_for_one_between_them():
    # Inside each model y falls with x; between them it rises: the pooled slope has the wrong sign.
    x = np.array([1.0, 2, 4, 8] * 3 + [10.0, 20, 40, 80] * 3)
    y = x**-0.5 * np.repeat([1.0, 100.0], 12)
    strata = np.repeat(["a", "b"], 12)
    options = {"confidence": 0.95, "resamples": 200}
    pooled = trend(x, y, **options, generator=np.random.default_rng(0))
    inside = trend(x, y, strata=strata, **options, generator=np.random.default_rng(0))
    assert pooled["slope"] > 0 and inside["slope"] == pytest.approx(-0.5)


def test_an_axis_that_begins_at_zero_is_taken_as_it_is():
    """It has no logarithm; left out, the trend would be that of the other runs."""
    table = runs(sizes=(8, 16, 32)).rename(columns={"width": "label_noise"})
    table["label_noise"] = table["label_noise"].map({8: 0.0, 16: 0.1, 32: 0.4})
    trends, _ = along_axes(table, {"label_noise": [0.0, 0.1, 0.4]}, SETTINGS)
    (row,) = trends.query("quantity == 'test_error'").to_dict("records")
    fit = np.polynomial.Polynomial.fit(table["label_noise"], table["test_error"], 1)
    assert row["scale"] == "linear" and row["test"] == "student"
    assert row["points"] == len(table) / 3  # starts, which the levels share
    assert row["slope"] == pytest.approx(fit.convert().coef[1], rel=1e-9)


def test_settings_trained_from_the_same_starts_do_not_multiply_the_evidence_of_comparisons():
    one = runs(ratio=1.2, sizes=(8,)).assign(parameterisation="ntk")
    other = one.assign(parameterisation="standard", ensemble=one["ensemble"] + "s")
    both, axes = pd.concat([one, other], ignore_index=True), {"model": ["a", "b"]}
    of_axes = [axes | {"parameterisation": ["ntk", "standard"]}, axes]
    found, alone = (
        along_axes(t, a, SETTINGS)[1] for t, a in zip((both, one), of_axes, strict=True)
    )
    found = found[found["against"] == "model"].reset_index(drop=True)
    assert list(found["points"]) == list(2 * alone["points"])
    ignored = ["points", "p_adjusted"]
    pd.testing.assert_frame_equal(found.drop(columns=ignored), alone.drop(columns=ignored))


def test_tests_are_adjusted_for_those_of_their_own_moment():
    table = runs(slope=-0.2, ratio=1.2)
    both = pd.concat([table, table.assign(at="equal_loss")], ignore_index=True)
    for one, found in zip(along_axes(table, AXES, SETTINGS), along_axes(both, AXES, SETTINGS),
                          strict=True):  # fmt: skip
        pd.testing.assert_frame_equal(found[found["at"] == "end"].reset_index(drop=True), one)


def test_only_what_the_findings_speak_of_is_adjusted_together():
    table = runs().assign(gradients=np.arange(40.0) + 1)
    trends, comparisons = along_axes(table, AXES, SETTINGS)
    found = pd.concat([trends, comparisons])
    primary = found["quantity"].isin(PRIMARY)
    assert set(found.loc[~primary, "quantity"]) == {"gradients"}
    assert found.loc[~primary, "p_adjusted"].isna().all() and not primary.all()
    adjusted = found.loc[primary, "p_adjusted"]
    np.testing.assert_allclose(adjusted, holm(found.loc[primary, "p_value"]))


def test_correlations_are_adjusted_together_and_seven_starts_have_an_interval():
    """Of runs of equal settings; ensembles share settings, and are told without a test."""
    for count in (6, 7):
        table = runs(sizes=(8, 16), realisations=count).query("model == 'a'")
        table = table.assign(width=8)  # starts of one number are one
        table["inefficiency_predicted"] = np.arange(len(table)) % 4
        found = correlations(table, SETTINGS).set_index("level")
        np.testing.assert_allclose(found["p_adjusted"], holm(found["p_value"]))
        assert (found.loc["within", "p_adjusted"] > found.loc["within", "p_value"]).any()
        assert (found.loc["within", "correlation_low"].notna() == (count == 7)).all()
    names = ["p_value", "p_smallest", "p_adjusted", "correlation_low", "correlation_high"]
    assert found.loc["between", names].isna().all(axis=None)


def test_ensembles_that_lost_a_run_are_no_points_between_ensembles():
    table = runs(sizes=(8, 16, 32, 64)).query("model == 'a'")
    one = (table["width"] == 16) & (table["realisation"] == "0")
    lost = table.assign(diverged=one.astype(int), inefficiency=table["inefficiency"].mask(one))
    for rows, points in ((table, 4), (lost, 3)):
        found = correlations(rows, SETTINGS).set_index(["with", "level"])
        assert found.loc[("test_error", "between"), "points"] == points
    means = lost[lost["width"] != 16].groupby("width")[["inefficiency", "test_error"]].mean()
    expected = means.corr(method="spearman").iloc[0, 1]
    assert found.loc[("test_error", "between"), "correlation"] == pytest.approx(expected)
    text, _ = written(table, {"width": [8, 16, 32, 64]})
    assert "(4 points, which differ in their settings and share some: not tested)." in text


def test_draws_of_subsets_are_strata_of_a_trend():
    """A draw that is slower throughout, and has other widths, is no trend along the width."""
    slow = runs(slope=-0.5, sizes=(16, 32)).assign(subset=1)
    slow["inefficiency"] *= 100
    table = pd.concat([runs(slope=-0.5, sizes=(8, 16)), slow], ignore_index=True)
    trends, _ = along_axes(table, {"width": [8, 16, 32]}, SETTINGS)
    (row,) = trends.query("quantity == 'inefficiency'").to_dict("records")
    assert row["slope"] == pytest.approx(-0.5, abs=0.15)


def along(axis, values, table, quantity="inefficiency"):
    """Return the trend of a quantity along an axis with numbers."""
    trends, _ = along_axes(table, {axis: values}, SETTINGS)
    (row,) = trends[trends["quantity"] == quantity].to_dict("records")
    return row


def test_settings_that_share_their_starts_are_tested_over_starts():
    """Each start has its slope, none on average: as seven points each they would be told often."""
    rates, generator = [0.01, 0.03, 0.1, 0.3, 0.9, 1.5, 3.0], np.random.default_rng(8)
    frame = pd.DataFrame(list(itertools.product(rates, "0123")), columns=["learning_rate", "r"])
    frame = frame.assign(
        ensemble=frame["learning_rate"].map(str), start="cold", at="end", diverged=0,
        realisation=frame["r"], model="a",
    ).drop(columns="r")  # fmt: skip
    found = []
    for _ in range(100):
        slopes = dict(zip("0123", generator.normal(size=4), strict=True))
        lines = frame["realisation"].map(slopes) * np.log(frame["learning_rate"])
        found.append(along("learning_rate", rates, frame.assign(inefficiency=np.exp(lines))))
    assert all(row["test"] == "student" and row["points"] == 4 for row in found)
    assert (
        np.mean([row["p_value"] <= 0.05 for row in found]) < 0.05 + 4 * (0.05 * 0.95 / 100) ** 0.5
    )
    assert np.mean([row["slope_low"] < 0 < row["slope_high"] for row in found]) > 0.86
    alone = frame[frame["realisation"] == "0"].assign(inefficiency=frame["learning_rate"])
    assert along("learning_rate", rates, alone)["p_smallest"] == 1  # of one start, none of others


def drawn_runs(subsets, scatter, generator):
    """Runs of three sizes; each draw of samples has an offset, which its runs share."""
    rows = [
        {
            "ensemble": f"{n}-{subset}", "n": n, "subset": subset, "model": "a", "start": "cold",
            "at": "end", "diverged": 0, "realisation": str(r),
            "inefficiency": np.exp(offset + 0.1 * generator.normal()),
        }
        for n in (16, 32, 64)
        for subset in range(subsets)
        for offset in [scatter * generator.normal()]
        for r in range(4)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_draws_of_samples_are_permuted_where_there_are_enough():
    generator = np.random.default_rng(5)
    found = [along("n", [16, 32, 64], drawn_runs(3, 1.0, generator)) for _ in range(60)]
    assert all(row["test"] == "draws" and row["points"] == 9 for row in found)
    assert np.mean([row["p_value"] <= 0.05 for row in found]) < 0.05 + 4 * (0.05 * 0.95 / 60) ** 0.5
    table = drawn_runs(3, 1.0, generator)
    means = np.log(table["inefficiency"]).groupby([table["n"], table["subset"]]).mean()
    sizes = means.index.get_level_values("n").to_numpy(float)
    options = {"confidence": 0.95, "resamples": 99, "generator": np.random.default_rng(0)}
    expected = trend(sizes, np.exp(means), **options)
    row = along("n", [16, 32, 64], table)
    for name in ("slope", "p_value", "p_smallest"):
        assert row[name] == pytest.approx(expected[name])


@pytest.mark.parametrize(("axis", "shares_starts"), [("label_noise", True), ("width", False)])
def test_subsets_count_once_each_where_all_have_all_values(axis, shares_starts):
    """Each subset has its slope, none on average: its many starts know that one alone."""
    values, generator = [1.0, 2.0, 4.0], np.random.default_rng(9)
    frame = pd.DataFrame(
        list(itertools.product(values, range(3), "012345")), columns=[axis, "subset", "realisation"]
    )
    frame = frame.assign(
        ensemble=frame[axis].map(str) + frame["subset"].map(str), start="cold", at="end",
        diverged=0, model="a", n=16,
    )  # fmt: skip
    found = []
    for _ in range(100):
        slopes = dict(enumerate(generator.normal(size=3)))
        noise = 0.1 * generator.normal(size=len(frame))
        lines = frame["subset"].map(slopes) * np.log(frame[axis]) + noise
        table = frame.assign(inefficiency=np.exp(lines))
        found.append(along_axes(table, {axis: values, "subset": [0, 1, 2]}, SETTINGS)[0])
    rows = [t[(t["quantity"] == "inefficiency") & (t["against"] == axis)].iloc[0] for t in found]
    assert all(row["test"] == "student of draws" and row["points"] == 3 for row in rows)
    assert np.mean([row["p_value"] <= 0.05 for row in rows]) < 0.05 + 4 * (0.05 * 0.95 / 100) ** 0.5
    assert np.mean([row["slope_low"] < 0 < row["slope_high"] for row in rows]) > 0.86
    # By hand: the mean over subsets of their slopes, of starts or of all runs of a subset.
    of = table.assign(x=np.log(table[axis]), y=np.log(table["inefficiency"]))
    means = of.groupby(["subset", "x"])["y"].mean().unstack()
    centred = means.columns.to_numpy() - means.columns.to_numpy().mean()
    expected = scipy.stats.ttest_1samp(means.to_numpy() @ centred / (centred @ centred), 0)
    assert rows[-1]["p_value"] == pytest.approx(expected.pvalue)
    one = table[table["subset"] == 1]
    row = along_axes(one, {axis: values}, SETTINGS)[0].query("quantity == 'inefficiency'").iloc[0]
    assert row["test"] == ("student" if shares_starts else "runs")


def test_draws_are_counted_once_whatever_is_done_with_them():
    table = drawn_runs(3, 0.0, np.random.default_rng(6))
    both = [table.assign(label_noise=noise) for noise in (0.0, 0.5)]
    both[1]["ensemble"] += "noisy"
    axes = {"n": [16, 32, 64], "label_noise": [0.0, 0.5]}
    trends, _ = along_axes(pd.concat(both, ignore_index=True), axes, SETTINGS)
    row = trends[trends["against"] == "n"].iloc[0]
    assert row["test"] == "draws" and row["points"] == 9


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_a_least_p_value_that_is_just_the_level_decides(confidence):
    """1 - 0.9 is 0.09999999999999998, and the least of 3 + 3 draws 2/20."""
    table = drawn_runs(3, 0.0, np.random.default_rng(6))
    table = table[table["n"] < 64]
    trends, _ = along_axes(table, {"n": [16, 32]}, SETTINGS | {"confidence": confidence})
    assert trends.iloc[0]["test"] == ("draws" if confidence == 0.9 else "few draws")


def test_sizes_of_one_subset_are_one_draw_of_samples():
    """The 16 samples of a subset are the first of its 32, and their effects have much in common."""
    axes = {"n": [16, 32, 64], "label_noise": [0.0, 0.5], "subset": [0, 1, 2]}
    generator = np.random.default_rng(8)
    frame = pd.DataFrame(itertools.product(*axes.values(), "01"), columns=[*axes, "realisation"])
    labels = frame[[*axes][:2]].astype(str).agg("-".join, axis=1) + frame["subset"].map(str)
    frame = frame.assign(ensemble=labels, start="cold", at="end", diverged=0, model="a")
    seeds = frame[["n", "subset", "realisation"]].astype(str).agg("-".join, axis=1)
    rows = []
    for _ in range(150):
        effects = frame["subset"].map(dict(enumerate(generator.normal(size=3))))
        noise = 0.1 * generator.normal(size=len(frame))
        table = frame.assign(
            start_seed=seeds, inefficiency=np.exp(effects * frame["label_noise"] + noise)
        )
        trends, _ = along_axes(table, {name: axes[name] for name in ("n", "label_noise")}, SETTINGS)
        rows.append(trends[trends["against"] == "label_noise"].iloc[0])
    assert all(row["test"] == "student of draws" and row["points"] == 3 for row in rows)
    assert np.mean([row["p_value"] <= 0.05 for row in rows]) < 0.05 + 4 * (0.05 * 0.95 / 150) ** 0.5
    y = np.log(table["inefficiency"]).groupby([table["subset"], table["label_noise"]]).mean()
    slopes = y.unstack().diff(axis=1).iloc[:, 1] / 0.5  # by hand: one of each subset
    expected = scipy.stats.ttest_1samp(slopes, 0).pvalue
    assert rows[-1]["p_value"] == pytest.approx(expected)


@pytest.mark.parametrize("subsets", [1, 3])
def test_findings_say_where_an_effect_may_be_that_of_the_draws(subsets):
    table = drawn_runs(subsets, 0.0, np.random.default_rng(6))
    table = table.assign(inefficiency_predicted=3.0, prediction_ratio=table["inefficiency"] / 3)
    table = table.assign(kinematic_inefficiency=2.0)
    text, tables = written(table, {"n": [16, 32, 64]})
    assert set(tables["trends"]["test"]) == {"few draws" if subsets == 1 else "draws"}
    assert ("is of the draws taken here" in text) == (subsets == 1)
    assert ("9 draws of samples)" in text) == (subsets == 3)


def test_curves_of_the_interactive_page_are_those_of_the_table_in_the_order_of_time_and_runs():
    rows = [
        {"time": time, "time_lambda_1": 3 * time, "realisation": realisation}
        | {name: time * factor for name in FACTORS}
        | {f"{name}{end}": math.nan for name in FACTORS for end in ("_low", "_high", "_predicted")}
        | {"inefficiency_power_law": 1.23456789 / (time - 1) if time > 1 else math.inf,
           "inefficiency_power_law_asymptote": math.nan}
        for time in (4.0, 1.0, 2.0)
        for realisation, factor in (("10", 10), ("2", 2), ("ensemble", 1))
    ]  # fmt: skip
    found = curves(pd.DataFrame(rows))
    assert set(found) == {"time_lambda_1", *FACTORS, "power_law", "runs"}
    assert found["time_lambda_1"] == [3, 6, 12] and found["inefficiency"] == [1, 2, 4]
    assert found["power_law"] == [None, 1.2346, 0.41152]
    assert [run["path_excess"] for run in found["runs"]] == [[2, 4, 8], [10, 20, 40]]


def test_holm_agrees_with_its_definition():
    found = holm([0.01, 0.04, np.nan, 0.03])
    np.testing.assert_allclose(found, [0.03, 0.06, np.nan, 0.06])


def test_rank_correlation_agrees_with_scipy():
    import scipy.stats

    x, y = np.random.default_rng(2).normal(size=(2, 30))
    y = y + x
    found = rank_correlation(
        x, y, confidence=0.95, resamples=4000, generator=np.random.default_rng(0)
    )
    reference = scipy.stats.spearmanr(x, y)
    assert found["correlation"] == pytest.approx(reference.statistic)
    assert found["p_value"] == pytest.approx(reference.pvalue, abs=0.01)
    assert found["correlation_low"] < reference.statistic < found["correlation_high"]


def test_runs_from_one_start_are_no_independent_points():
    """Eight starts, whose values seven learning rates repeat: p is that of eight points."""
    generator, settings = np.random.default_rng(4), {"confidence": 0.95, "resamples": 999}
    units, strata = np.tile(np.arange(8), 7), np.repeat(np.arange(7), 8)
    found = []
    for _ in range(60):
        x, y = np.tile(generator.normal(size=(2, 8)), 7)
        found.append(
            rank_correlation(x, y, strata=strata, units=units, generator=generator, **settings)
        )
    assert np.mean([row["p_value"] <= 0.05 for row in found]) < 0.17  # 4 standard errors
    alone = rank_correlation(x[:8], y[:8], generator=generator, **settings)
    for name in ("correlation", "p_value", "correlation_low", "correlation_high"):
        assert found[-1][name] == pytest.approx(alone[name], abs=0.2), name
    few = np.isin(units, range(4))
    row = rank_correlation(
        x[few], y[few], strata=strata[few], units=units[few], generator=generator, **settings
    )
    assert row["p_smallest"] == pytest.approx(2 / 24) and row["points"] == 28
    families = units + 8 * (strata > 3)  # two networks, each with starts of its own
    row = rank_correlation(
        x[few], y[few], strata=strata[few], units=families[few], generator=generator, **settings
    )
    assert row["p_smallest"] == pytest.approx(2 / 24**2) and row["points"] == 28
    lacking = (strata == 0) & (units == 0)  # this run diverged
    row = rank_correlation(
        np.where(lacking, np.nan, x), y, strata=strata, units=units, generator=generator, **settings
    )
    assert row["points"] == 49


def test_settings_trained_from_the_same_starts_do_not_multiply_the_evidence():
    """As two parameterisations: along the width their runs count once, by their mean."""
    one = runs(slope=0.05, realisations=4).query("model == 'a'").assign(parameterisation="ntk")
    other = one.assign(parameterisation="standard", ensemble=one["ensemble"] + "s")
    axes = {"width": [8, 16, 32, 64], "parameterisation": ["ntk", "standard"]}
    trends, _ = along_axes(pd.concat([one, other], ignore_index=True), axes, SETTINGS)
    alone, _ = along_axes(one, {"width": axes["width"]}, SETTINGS)
    assert list(trends["points"]) == list(2 * alone["points"])
    ignored = ["points", "p_adjusted"]
    pd.testing.assert_frame_equal(trends.drop(columns=ignored), alone.drop(columns=ignored))


def test_ensembles_of_the_same_starts_are_one_point_of_the_correlation_between_them():
    """As two levels of label noise: six ensembles of three widths are three points."""
    one = runs(sizes=(8, 16, 32), realisations=4).query("model == 'a'")
    noisy_labels = one.assign(ensemble=one["ensemble"] + "s", test_error=one["test_error"] + 0.3)
    both = pd.concat([one, noisy_labels], ignore_index=True)
    found = correlations(both, SETTINGS)
    alone = correlations(one, SETTINGS)
    between = [t[t["level"] == "between"].iloc[0] for t in (found, alone)]
    assert between[0]["points"] == 3 and between[0]["correlation"] == between[1]["correlation"]
    assert np.isnan(between[0]["correlation_low"])  # of three points there is no interval
    same_start = both.assign(width=8)  # all share it: each ensemble is a point
    assert correlations(same_start, SETTINGS)["points"].iloc[0] == 6


def test_ensembles_of_the_same_starts_enter_by_their_mean():
    values = np.random.default_rng(4).normal(size=(2, 2, 9))  # (quantity, learning rate, start)
    table = pd.DataFrame(
        {"ensemble": f"{rate}-{start}", "start_seed": start, "learning_rate": rate,
         "start": "cold", "at": "end", "realisation": "0",
         "inefficiency": values[0, rate, start], "drift": values[1, rate, start]}
        for rate in range(2)
        for start in range(9)
    )  # fmt: skip
    found = correlations(table, SETTINGS).set_index("level").loc["between"]
    expected = scipy.stats.spearmanr(*values.mean(axis=1)).statistic
    assert found["correlation"] == pytest.approx(expected) and found["points"] == 9


def test_moments_tell_their_level_and_whom_they_leave_out():
    table = pd.DataFrame({"at": ["end"] * 4 + ["equal_loss"] * 3 + ["equal_gradients"] * 4})
    table = table.assign(realisation="0", start="cold", train_loss_share=0.25)
    assert moment_in_words("equal_loss", "cold", table).startswith(
        "at equal training loss, 0.25 of that of the start (3 of 4 runs: "
    )
    assert moment_in_words("equal_gradients", "cold", table) == "at equal numbers of gradients"
    table["diverged"] = [0, 1, 0, 0, *[0] * 7]
    assert moment_in_words("end", "cold", table) == (
        "at the end of training (1 of 4 runs have diverged and are left out)"
    )
    assert moment_in_words("end", "cold", table[table["diverged"] == 0]) == MOMENTS["end"]


def test_subsets_name_ensembles_where_several_are_drawn():
    row = pd.DataFrame({"subset": [0, 3], "width": [8, 8], "ensemble": ["a", "b"]})
    assert name_of(row.iloc[1], named_axes({"width": [8]}, row)) == "width 8, subset 3"
    assert named_axes({"width": [8]}, row.iloc[:1]) == {"width": [8]}


@pytest.mark.parametrize(
    ("rows", "told"), [([0], "1 more has no such ratio"), ([0, 1], "2 more have no such ratio")]
)
def test_runs_without_a_value_are_counted(rows, told):
    """They leave no sample of all, unless they diverged, and then no test."""
    table = runs()
    table.loc[rows, "prediction_ratio"] = np.nan
    (line,) = [li for li in prediction_lines(table, AXES, 0.95) if told in li]
    assert line.endswith(f"in {5 - len(rows)} runs, which are no sample of all: {told}.")
    assert "p = " not in line and "than predicted" not in line
    table.loc[rows, ["inefficiency", "diverged"]] = np.nan, 1
    (line,) = [li for li in prediction_lines(table, AXES, 0.95) if told in li]
    assert f"{5 - len(rows)} runs; {told})." in line and "p " in line


def test_starts_are_shared_by_what_decides_their_seed():
    """Learning rates share their starts, subsets do not: 2 / 4! against 2 / (4!)^2."""
    table = runs(sizes=(8,), realisations=4).assign(inefficiency_predicted=lambda t: t.index % 5)
    for subsets, least in (((0, 0), 2 / 24), ((0, 1), 2 / 24**2)):
        table = table.assign(subset=np.repeat(subsets, 4), model="a", dataset="digits", n=32)
        found = correlations(table, SETTINGS | {"resamples": 5000}).set_index(["with", "level"])
        assert found.loc[("test_error", "within"), "p_smallest"] == pytest.approx(least)


def test_finite_steps_below_the_speed_limit_are_called_no_efficiency():
    text, _ = written(runs(), AXES)
    assert "T_SL bounds gradient flow" not in text
    text, _ = written(runs().assign(inefficiency=0.5), AXES)
    assert "T/T_SL is below 1 in 8 of 8 cases (ensembles and starts): T_SL bounds gradient" in text
    flow = runs().assign(inefficiency=0.5, dynamics="gradient_flow")
    text, _ = written(flow, AXES)
    assert "T/T_SL of gradient flow is below 1 in 8 of 8 cases" in text
    assert "T_SL bounds gradient flow, not" not in text


def test_a_flow_whose_path_lengths_are_not_well_known_is_told():
    table = runs().assign(dynamics="gradient_flow", discretisation=0.01)
    assert integration_sentence(table, AXES) == []
    table.loc[3, "discretisation"] = -0.123
    (told,) = integration_sentence(table, AXES)
    assert "off by at most 12 %" in told and name_of(table.loc[3], AXES) in told
    assert integration_sentence(table.assign(dynamics="gradient_descent"), AXES) == []
    text, _ = written(table, AXES)
    assert told in text


def test_correlations_that_runs_cannot_decide_share_a_sentence():
    table = runs(sizes=(8,), realisations=2)
    table["inefficiency_predicted"] = np.arange(len(table))
    few = correlations(table, SETTINGS)
    assert len(few) == 4
    told = correlation_lines(few, 0.95)
    assert sorted(line.split(" (")[0] for line in told) == [
        "Too few points",
        "Too few realisations",
    ]
    assert all(line.count("the test error") == 1 for line in told)
    many = correlations(runs(), SETTINGS)
    assert len(correlation_lines(many, 0.95)) == len(many)


def test_what_does_not_vary_is_not_called_too_few():
    table = correlations(runs().assign(test_error=0.9), SETTINGS)
    told = [line for line in correlation_lines(table, 0.95) if "the test error" in line]
    where = ("between ensembles", "among runs of equal settings")
    pair = "No correlation of the inefficiency and the test error"
    assert told == [f"{pair} {place}: one of the two does not vary." for place in where]


@pytest.mark.parametrize(
    ("x", "y", "title", "sentence"),
    [
        ([1, 2], [1, 2], "2 points: too few to correlate", "Too few points"),
        ([1, 2], [1, 1], "2 points: too few to correlate", "Too few points"),
        ([1, 2, 3], [1, 2, 3], "3 points: too few to correlate", "Too few points"),
        ([1, 2, 3], [1, 1, 1], "3 points: one side does not vary", "No correlation of"),
        (range(7), range(7), "rank correlation 1.00", "Rank correlation of"),
        (range(8), [1, 2] * 4, "rank correlation 0.22", "No evidence of a rank correlation of"),
    ],
)
def test_title_and_sentences_agree_whether_points_can_correlate(x, y, title, sentence):
    options = {"confidence": 0.95, "resamples": 999, "generator": np.random.default_rng(2)}
    row = {"quantity": "inefficiency", "with": "test_error", "level": "between"}
    row |= rank_correlation(x, y, **options) | {"confidence": 0.95}
    table = pd.DataFrame([row]).assign(p_adjusted=row["p_value"])
    assert title_of(table, "test_error", "between").startswith(title)
    (told,) = correlation_lines(table, 0.95)
    assert told.startswith(sentence)
    summary = generalisation_summary(table, 0.95)
    assert summary == ([told] if "ank correlation" in told else [])


def test_names_of_ensembles_keep_the_words_of_their_values():
    row = pd.Series({"case": "worst_case scenario", "upper_case": 3, "ensemble": "e"})
    assert name_of(row, {"case": [], "upper_case": []}) == "worst_case scenario, upper case 3"


@pytest.mark.parametrize(
    ("share", "said"), [(0.00123, "0.12 %"), (0.84, "84 %"), (0.997, "100 %"), (1.43, "143 %")]
)
def test_shares_are_told_without_powers_of_ten(share, said):
    assert percent(share) == said


@pytest.mark.parametrize(
    ("varied", "said"), [({}, True), ({"learning_rate": [0.1, 0.3] * 20}, False)]
)
def test_optimisers_are_said_to_have_one_learning_rate_where_they_do(varied, said):
    table = runs().assign(**{"learning_rate": 0.1, "momentum": 0.9} | varied)
    table["dynamics"] = np.repeat(["heavy_ball", "nesterov"], len(table) // 2)
    told = " ".join(optimiser_sentences(table))
    assert ("Each dynamics has the one learning rate" in told) is said


def test_in_short_counts_what_the_lists_say():
    text, _ = written(runs(slope=-0.5, ratio=2.0), AXES)
    short, rest = text.split("Permutation tests of runs")
    claimed = [line for line in short.splitlines() if line.startswith("- Claimed at the end")]
    assert len(claimed) == 1
    for effect in (
        "the inefficiency T/T_SL falls with width",
        "the inefficiency T/T_SL is higher for model b than for a",
    ):
        assert effect in claimed[0]
    count = int(claimed[0].split("(")[1].split(" of")[0])
    at_end = rest.split("start, at the end of training:")[1].split("\n\n")[1]
    effects = (" falls with ", " grows with ", " times that of ")
    assert count == sum(at_end.count(effect) for effect in effects)
    slower = int(short.split("cold start, ")[1].split(" of")[0])
    assert slower == rest.count("slower than predicted")
    assert "at the start: optimal 8." in short
    assert "- W2 between starts and ends: in all 2 cases" in short


def test_the_only_ensemble_with_a_warm_start_is_named():
    """Real targets have no accuracy and so no warm start."""
    row = {"realisation": "ensemble", "at": "end", "start": "cold"}
    rows = [row | {"ensemble": case, "case": case, "inefficiency": 2.0} for case in ("a", "b")]
    rows.append(rows[1] | {"start": "warm", "inefficiency": 1.5})
    cold, warm = range_sentences(pd.DataFrame(rows), {"case": ["a", "b"]})
    assert cold == "From the cold start T/T_SL ends at 2 in every ensemble."
    assert warm == "From the warm start T/T_SL ends at 1.5 (b, the only ensemble that has it)."
    three = [*rows[:2], rows[0] | {"ensemble": "c", "case": "c", "inefficiency": np.nan}]
    (cold,) = range_sentences(pd.DataFrame(three), {"case": ["a", "b", "c"]})[:1]
    assert cold == "From the cold start T/T_SL ends at 2 in 2 of 3 ensembles."
    noisy = pd.DataFrame(three).assign(dynamics="langevin", temperature=0.1)
    (cold,) = range_sentences(noisy, {"case": ["a", "b", "c"]})[:1]
    assert cold == "From the cold start T/T_SL at the end is at least 2 in 2 of 3 ensembles."
    shared = [rows[0] | {"case": np.nan}, *(r | {"start": "warm"} for r in rows[:2])]
    cold, warm = range_sentences(pd.DataFrame(shared), {"case": ["a", "b"]})
    assert cold == "From the cold start T/T_SL ends at 2."  # one run, of two thresholds
    assert warm == "From the warm start T/T_SL ends at 2 in every ensemble."
    four = [*rows[:2], *(row | {"ensemble": "d", "case": "d"} for row in rows[1:])]
    four.append(rows[2] | {"inefficiency": 1.2})
    reached = pd.DataFrame({"case": ["a", "b", "d"], "reached": [False, True, True]})
    reached = reached.assign(ensemble=reached["case"], threshold=0.3)
    reached = reached.assign(largest_mean_test_accuracy=[0.2, 0.4, 0.4])
    told = range_sentences(pd.DataFrame(four), {"case": ["a", "b", "d"]}, reached)
    assert told[1].endswith("between 1.2 (b) and 1.5 (d) in 2 of 3 ensembles.")
    assert told[2].startswith("No warm start in 1 of 3 ensembles (a): ")
    assert "does not rise to its threshold" in told[2] and len(told) == 3


@pytest.mark.parametrize(
    ("reached", "largest", "why"),
    [
        (False, 0.2, "does not rise to its threshold before the last recorded time (train longer"),
        (
            False,
            0.4,
            "starts at or above its threshold and does not rise to it later (where it rises",
        ),
        (False, np.nan, "there is no test accuracy."),
        (
            True,
            0.4,
            "at the last recorded time only, after which nothing is left to measure (train",
        ),
    ],
)
def test_what_keeps_ensembles_from_a_warm_start_is_told(reached, largest, why):
    row = {"realisation": "ensemble", "at": "end", "start": "cold", "inefficiency": 2.0}
    table = pd.DataFrame([row | {"ensemble": case, "case": case} for case in ("a", "b", "c")])
    warm = table[["ensemble", "case"]].assign(threshold=0.3, reached=reached)
    warm["largest_mean_test_accuracy"] = largest
    _, told = range_sentences(table, {"case": ["a", "b", "c"]}, warm)
    adam = table.assign(inefficiency=np.nan)  # which has other inefficiencies from there
    assert range_sentences(adam, {"case": ["a", "b", "c"]}, warm) == [told]
    assert told.startswith("There is no warm start: ") and why in told
    some = pd.concat([table, table[1:].assign(start="warm", inefficiency=1.5)])
    warm = warm.assign(reached=[reached, True, True])
    _, end, told = range_sentences(some, {"case": ["a", "b", "c"]}, warm)
    assert end == "From the warm start T/T_SL ends at 1.5 in 2 of 3 ensembles."
    assert told.startswith("No warm start in 1 of 3 ensembles (a): ") and why in told


def test_in_short_claims_nothing_without_an_effect():
    text, _ = written(runs(), AXES)
    short = text.split("Permutation tests of runs")[0]
    assert "tests): none." in short and "(0 of " in short


def test_what_bounds_other_dynamics_than_gradient_flow_is_told():
    kinds = [("gradient_descent", "cold"), ("heavy_ball", "cold"), ("sgd", "warm")]
    table = pd.DataFrame(kinds, columns=["dynamics", "start"])
    told = optimiser_sentences(table)
    assert len(told) == 2 and told[0].startswith("Minibatches") and "Each dynamics" in told[1]
    assert "Momentum from a warm" in optimiser_sentences(table.assign(start="warm"))[1]
    assert optimiser_sentences(table.iloc[:1]) == []
    told = optimiser_sentences(table.assign(dynamics="adam"))
    assert len(told) == 1 and told[0].startswith("Adam has no training time")


def test_the_inefficiency_that_momentum_and_adam_bound_is_told_with_its_interval():
    row = {"realisation": "ensemble", "at": "end", "runs": 3, "inefficiency": 1.9}
    row |= {"energetic_inefficiency": 1.25, "energetic_inefficiency_low": 1.1}
    row |= {"energetic_inefficiency_high": 1.5}
    names = [
        ("gradient_descent", "cold"), ("heavy_ball", "warm"), ("sgd", "cold"), ("adam", "cold"),
    ]  # fmt: skip
    rows = [
        row | {"case": name.replace("_", " "), "dynamics": name, "start": start}
        for name, start in names
    ]
    rows.append(rows[-1] | {"start": "warm", "energetic_inefficiency": np.nan})
    table, axes = pd.DataFrame(rows), {"case": [name for name, _ in names]}
    value = "1.25 (95 % interval 1.1 to 1.5); 3 runs."
    assert energetic_lines(table, axes, 0.95) == [
        f"- gradient descent, cold start: {value}",
        f"- heavy ball, warm start: {value}",
        f"- adam, cold start: {value}",
    ]
    assert energetic_lines(table[table["dynamics"] != "adam"].iloc[:1], axes, 0.95) == []


def test_lower_bounds_at_a_temperature_are_called_so():
    row = {"realisation": "ensemble", "at": "end", "start": "cold", "runs": 2, "diverged": 0.0}
    row |= {"inefficiency": 3.0, "inefficiency_low": 2.0, "inefficiency_high": 4.0}
    row |= {"kinematic_inefficiency": np.nan, "inefficiency_predicted": 5.0}
    rows = [
        row | {"dynamics": "langevin", "temperature": 0.0},
        row | {"dynamics": "langevin", "temperature": 0.1},
        row | {"dynamics": "langevin", "temperature": 0.2, "inefficiency": np.nan},
        row | {"dynamics": "gradient_flow"},
    ]
    table = pd.DataFrame(rows)
    lines = outcome_lines(table, {"temperature": [0.0, 0.1, 0.2]}, 0.95)
    assert [("T/T_SL at least" in line) for line in lines] == [False, True, False, False]
    assert "no bound" in lines[2] and "T/T_SL 3" in lines[3]
    runs = [
        row | {"realisation": str(r), "ensemble": f"t{t}", "prediction_ratio": 0.5 + 0.01 * r}
        | {"dynamics": "langevin", "temperature": t} for t in (0.0, 0.1) for r in range(5)
    ]  # fmt: skip
    cold, warm = prediction_lines(pd.DataFrame(runs), {"temperature": [0.0, 0.1]}, 0.95)
    assert "faster than predicted" in cold and "as a lower bound may be" in warm
    assert "lower bound" in noise_sentence(table)[0]
    assert noise_sentence(table.iloc[3:]) == []


def test_heat_far_off_the_loss_drop_is_told_with_the_worst_case():
    row = {"ensemble": "e", "start": "cold", "realisation": "ensemble", "at": "end"}
    row |= {"dynamics": "langevin"}
    cases = ((0.0, 0.9), (0.1, 0.09), (0.2, 0.31), (0.3, 0.2), (0.4, np.nan))
    table = pd.DataFrame([row | {"temperature": t, "heat_error": error} for t, error in cases])
    axes = {"temperature": [t for t, _ in cases]}
    (told,) = heat_sentence(table, axes)  # at temperature 0 no heat is given off
    assert told.startswith("Steps are too long for the temperature in 2 of 3 cases ")
    assert "by up to 31 % of the free energy's drop (temperature 0.2, cold start)" in told
    assert heat_sentence(table.iloc[:2], axes) == []
    assert heat_sentence(table.drop(columns="heat_error"), axes) == []


def test_the_error_of_heat_comes_from_the_speed_limits_into_the_findings():
    limits, curves = one_run("hot", [1, 0.6, 0.3, 0.1])
    settings = {"dynamics": "langevin", "temperature": 0.1}
    limits = limits.assign(heat_error=np.arange(1.0, len(limits) + 1) / 10)
    limits = limits[["ensemble", "n", "start", "realisation", "time", *CURVES, "heat_error"]]
    whole = limits.assign(realisation="ensemble", heat_error=2.5)
    both = pd.concat([limits, whole]).assign(**settings)
    both = both[["ensemble", "n", *settings, *[c for c in limits if c not in ("ensemble", "n")]]]
    found = outcomes(both[both["realisation"] == "0"], curves, pd.DataFrame())
    ends = found[(found["at"] == "end") & (found["start"] == "cold")]
    cold = limits[limits["start"] == "cold"]
    assert ends["heat_error"].item() == cold["heat_error"].iloc[-1]
    table = ensemble_outcomes(found, both, SETTINGS)
    assert set(table.loc[table["at"] == "end", "heat_error"]) == {2.5}
    tables = dict.fromkeys(("trends", "comparisons", "correlations", "exponents"), pd.DataFrame())
    tables |= {"outcomes": pd.concat([found, table]), "transport": transport()[:0]}
    text = findings(tables, "some_study", SETTINGS | {"axes": {"n": [8]}})
    assert "off the loss drop by up to 250 % of the free energy's drop" in text


@pytest.mark.parametrize(
    ("inefficiency", "predicted", "told"),
    [
        (3.0, 5.0, "T/T_SL 3, predicted from the NTK there 5; 2 runs."),
        (3.0, np.nan, "T/T_SL 3; 2 runs."),
        (np.nan, 5.0, "kinematic inefficiency 4; 2 runs."),
    ],
)
def test_a_prediction_is_told_beside_what_it_predicts(inefficiency, predicted, told):
    row = {"realisation": "ensemble", "at": "end", "start": "cold", "runs": 2, "diverged": 0.0}
    row |= {"inefficiency": inefficiency, "kinematic_inefficiency": 4.0, "n": 8}
    row |= {f"{name}_{end}": np.nan for name in [*row] for end in ("low", "high")}
    table = pd.DataFrame([row | {"inefficiency_predicted": predicted}])
    assert outcome_lines(table, {"n": [8]}, 0.95) == [f"- n 8, cold start: {told}"]
    moving = table.assign(dynamics="nesterov", start="warm")  # sets off with a velocity
    (line,) = outcome_lines(moving, {"n": [8]}, 0.95)
    assert "predicted" not in line
    assert ("no bound: it leaves out the kinetic energy" in line) is ("T/T_SL" in line)
    (line,) = outcome_lines(moving.assign(start="cold"), {"n": [8]}, 0.95)
    assert line == f"- n 8, cold start: {told}"


def test_momentum_from_a_warm_start_is_in_motion_and_not_predicted():
    """T/T_SL leaves its kinetic energy out: no ratio of it is told as if it did not."""
    table = runs(sizes=(8, 16)).assign(dynamics="gradient_descent")
    table.loc[table["width"] == 16, "dynamics"] = "heavy_ball"
    both = pd.concat([table, table.assign(start="warm")])
    lines = prediction_lines(both, AXES, 0.95)
    assert sum("width 8" in line and "warm start" in line for line in lines) == 2
    assert sum("width 16" in line and "cold start" in line for line in lines) == 2
    assert not any("width 16" in line and "warm start" in line for line in lines)
    names = ("time_share", "loss_share", "factor")
    whole = both[both["start"] == "warm"].groupby("ensemble").first().reset_index()
    whole = whole.assign(realisation="ensemble", runs=5, **{f"transient_{n}": 0.5 for n in names})
    whole = whole.assign(transient_factor_low=np.nan, transient_factor_high=np.nan)
    whole["transient_factor"] = whole["width"] / 4
    (sentence,) = transient_summary(whole, AXES)
    assert sentence.endswith("is 2 in each of 2 ensembles.")  # not those of width 16, by 4
    told = transient_lines(whole, AXES, 0.95)
    assert [("kinetic energy is left out, 4;" in line) for line in told] == [
        "width 16" in line for line in told
    ]


def optimiser_runs():
    """Two models from both starts, of which b has momentum, and its own energy."""
    table = runs(sizes=(8,), realisations=6).assign(dynamics="gradient_descent")
    table.loc[table["model"] == "b", "dynamics"] = "heavy_ball"
    noise = table["kinematic_inefficiency"]
    table["energetic_inefficiency"] = noise * np.where(table["model"] == "b", 9, 1)
    table = table.assign(energetic_inefficiency_low=1.0, energetic_inefficiency_high=40.0)
    return pd.concat([table, table.assign(start="warm")])


def test_dynamics_are_compared_by_what_bounds_them():
    """T/T_SL of momentum in motion is no bound, but its energy; without momentum both are one."""
    models = {"model": ["a", "b"]}
    text, tables = written(optimiser_runs(), models)
    found = tables["comparisons"].set_index(["start", "quantity"])
    energetic = found.xs("energetic_inefficiency", level="quantity")
    assert list(energetic.index) == ["cold", "warm"]
    noise = np.log(optimiser_runs().set_index("model")["kinematic_inefficiency"])
    ratio = 9 * np.exp(noise["b"].mean() - noise["a"].mean())
    np.testing.assert_allclose(energetic["effect"], ratio)
    np.testing.assert_allclose(energetic["p_value"], 2 / math.comb(12, 6))
    told = "the energetic inefficiency is higher for model b than for a."
    assert text.count(told) == 2
    assert found.loc[("cold", "inefficiency"), "p_value"] > 0
    for name in ("inefficiency", "prediction_ratio"):
        assert math.isnan(found.loc[("warm", name), "p_value"])
    still = optimiser_runs().assign(dynamics="gradient_descent")
    quantities = set(along_axes(still, models, SETTINGS)[1]["quantity"])
    assert "inefficiency" in quantities and "energetic_inefficiency" not in quantities


@pytest.mark.parametrize("dynamics", ["sgd", "langevin"])
def test_energetic_inefficiency_with_noise_is_not_compared(dynamics):
    table = optimiser_runs()
    table = pd.concat([table, table[table["model"] == "b"].assign(model="c", dynamics=dynamics)])
    found = along_axes(table, {"model": ["a", "b", "c"]}, SETTINGS)[1]
    found = found[found["quantity"] == "energetic_inefficiency"].set_index(["start", "value"])
    assert found["p_value"].notna().to_dict() == {
        (start, value): value == "b" for start in ("cold", "warm") for value in ("b", "c")
    }


@pytest.mark.parametrize("dynamics", ["sgd", "langevin"])
def test_what_has_no_energetic_inefficiency_is_told_with_the_reason(dynamics):
    table = optimiser_runs().query("start == 'cold'")
    table = pd.concat([table, table[table["model"] == "b"].assign(model="c", dynamics=dynamics)])
    found = along_axes(table, {"model": ["a", "b", "c"]}, SETTINGS)[1]
    wanted = found[(found["quantity"] == "energetic_inefficiency") & found["p_value"].isna()]
    told = " ".join(too_few(wanted))
    assert told.startswith("Nothing to compare for model c on the energetic inefficiency: ")
    assert "not both have them (there is none with the noise of minibatches or of a temp" in told


def test_runs_whose_energy_has_dropped_are_no_sample_of_an_ensemble_with_others():
    table = optimiser_runs().reset_index(drop=True)
    risen = (table["model"] == "b") & (table["start"] == "warm") & (table["realisation"] == "2")
    table.loc[risen, "energetic_inefficiency"] = np.nan
    found = along_axes(table, {"model": ["a", "b"]}, SETTINGS)[1]
    found = found[found["quantity"] == "energetic_inefficiency"].set_index("start")
    assert math.isfinite(found.loc["cold", "p_value"]) and math.isnan(found.loc["warm", "p_value"])
    table.loc[risen, "diverged"] = 1  # which is told
    found = along_axes(table, {"model": ["a", "b"]}, SETTINGS)[1]
    found = found[found["quantity"] == "energetic_inefficiency"].set_index("start")
    assert found.loc["warm", "points"] == 11


@pytest.mark.parametrize("name", ["kinematic_inefficiency", "path_excess", "speed_unevenness"])
def test_runs_whose_path_is_known_are_no_sample_of_an_ensemble_with_others(name):
    """The action of a run of gradient flow that is off its loss drop says nothing of its path."""
    table = runs(sizes=(8,), realisations=6).reset_index(drop=True)
    table["dynamics"] = np.where(table["model"] == "a", "gradient_descent", "gradient_flow")
    table[name] = table["kinematic_inefficiency"]
    rough = (table["model"] == "b") & (table["realisation"] == "2")
    axes = {"model": ["a", "b"]}

    def compared(table):
        return along_axes(table, axes, SETTINGS)[1].set_index("quantity").loc[name]

    assert compared(table)["points"] == 12
    table.loc[rough, list({name, "kinematic_inefficiency"})] = np.nan
    assert math.isnan(compared(table)["p_value"]) and compared(table)["points"] == 6
    table.loc[rough, "diverged"] = 1  # which is told
    assert compared(table)["points"] == 11


def test_path_lengths_left_out_for_the_rounding_of_weights_are_told():
    table = runs(sizes=(8,), realisations=3).assign(discretisation=0.01, path_excess=1.5)
    assert rounding_sentence(table) == []
    table.loc[1, "path_excess"] = np.nan
    (told,) = rounding_sentence(table)
    assert "left out in 1 case (runs and starts)" in told and "more than 5 % of them" in told
    assert "in 1 case" in rounding_sentence(table.assign(dynamics="adam", discretisation=np.nan))[0]
    table.loc[1, "kinematic_inefficiency"] = np.nan  # as of a rough flow, or at a temperature
    assert rounding_sentence(table) == []


def test_rounding_is_no_effect():
    row = pd.Series({"slope": -2.8e-17, "slope_low": -1e-16, "slope_high": 3e-3})
    assert interval(row, "slope", 0.95) == "0 (95 % interval 0 to 0.003)"


@pytest.mark.parametrize("missing", [None, np.nan])
def test_runs_that_do_not_read_an_axis_say_nothing_about_it(missing):
    """As myrtle5 about depth, or a built-in network about an argument of the user's own."""
    table = runs(ratio=2.0, realisations=4)
    own = table["model"] == "b"
    odd = table["realisation"].isin(["1", "3"])
    table["kind"] = np.where(odd, "relu", "tanh").astype(object)
    table["depth"] = np.where(odd, 3.0, 2.0)
    table.loc[~own, "kind"], table.loc[~own, "depth"] = missing, np.nan
    for name, values in (("kind", ["tanh", "relu"]), ("depth", [2, 3])):
        axes = {"model": ["a", "b"], "width": [8, 16, 32, 64], name: values}
        whole, of_own = (along_axes(t, axes, SETTINGS) for t in (table, table[own]))
        number = 0 if name == "depth" else 1
        both = [t[number][t[number]["against"] == name] for t in (whole, of_own)]
        both = [t.drop(columns="p_adjusted").reset_index(drop=True) for t in both]
        assert len(both[0]) > 1
        pd.testing.assert_frame_equal(*both)
    text, tables = written(table, axes | {"kind": ["tanh", "relu"]})
    assert "nan" not in text and "None" not in text and "kind relu" in text
    labels = series_label(tables["outcomes"], ["model", "kind", "depth"])
    assert set(labels) >= {"a", "b, tanh, depth 2"} and not labels.str.contains("nan").any()


def test_outcomes_are_interpolated_and_count_gradients_from_their_start():
    """Losses 4^-k and gradients 10 k or 25 k at times 2^k: 60 gradients lie between 2 and 3."""
    k = np.arange(1, 7)
    limits, curves = [], []
    for name, cost in (("cheap", 10), ("dear", 25)):
        curves.append(pd.DataFrame({
            "ensemble": name, "realisation": 0, "time": np.append(0, 2.0**k), "test_accuracy": 0.5,
            "train_loss_per_sample": 4.0 ** -np.append(0, k) * (1 if name == "cheap" else 7),
            "gradients": cost * np.append(0, k),
        }))  # fmt: skip
        for start, first in (("cold", 0), ("warm", 2)):
            rows = pd.DataFrame({"ensemble": name, "n": 8, "start": start, "realisation": "0",
                                 "time": 2.0 ** k[first:] - 2.0**first * (first > 0)})  # fmt: skip
            limits.append(rows.assign(**dict.fromkeys(CURVES, 2.0 ** k[first:] / (1 + first))))
    kernels = {"moment": ["start", "warm", "warm"], "alignment": [0.2, 0.3, 9.0]}
    kernels |= {"drift": [0.0, 0.1, 9.0], "kernel": ["full", "full", "traced"]}
    kernels = pd.DataFrame(kernels | {"ensemble": "dear", "realisation": 0})
    found = outcomes(pd.concat(limits), pd.concat(curves), kernels)
    found = found.set_index(["ensemble", "start", "at"])
    assert found.loc[("dear", "cold", "end"), "gradients"] == 150
    assert found.loc[("dear", "warm", "end"), "gradients"] == 100  # from the second record on
    # 60 gradients of 25 k are made at k = 2.4
    equal = found.loc[("dear", "cold", "equal_gradients")]
    assert equal["gradients"] == pytest.approx(60)
    assert equal["inefficiency"] == pytest.approx(2**2.4, rel=0.01)
    assert found.loc[("dear", "cold", "equal_loss"), "train_loss_share"] == pytest.approx(4.0**-6)
    transient = found.loc[("dear", "warm", "end")].filter(like="transient")
    expected = {"time_share": 4 / 64, "loss_share": (1 - 4.0**-2) / (1 - 4.0**-6), "factor": 3}
    expected |= {"drift": 0.1, "alignment_gain": 1.5}
    for name, value in expected.items():
        assert transient.pop(f"transient_{name}") == pytest.approx(value)
    assert len(transient) == 0
    cheap = found.loc[("cheap", "warm", "end")]
    assert cheap["transient_factor"] == 3 and np.isnan(cheap["transient_drift"])
    assert found.xs("cold", level="start").filter(like="transient").isna().all(axis=None)


@pytest.mark.parametrize(("largest", "power"), [(["full", "traced"], 0.5), (["traced"], -1.0)])
def test_drift_and_alignment_are_of_one_kernel_along_an_axis(largest, power):
    """Of the largest n only the output-traced kernel may be known, which drifts otherwise."""
    sizes, times, limits, curves, kernels = (8, 16, 32, 64), [1.0, 2.0, 4.0], [], [], []
    for n, r in itertools.product(sizes, (0, 1)):
        run = {"ensemble": f"n{n}", "realisation": r}
        lost = {"test_accuracy": 0.5, "train_loss_per_sample": [1.0, 0.5, 0.2, 0.1]}
        curves.append(pd.DataFrame(run | {"time": [0, *times], "gradients": range(4)} | lost))
        for start, first in (("cold", 0), ("warm", 1)):
            rows = pd.DataFrame({**run, "time": times[first:]})
            rows.insert(1, "n", n)
            rows.insert(2, "start", start)
            limits.append(rows.assign(**dict.fromkeys(CURVES, 2.0)))
        for moment, kernel in itertools.product(("start", "warm", "end"), ("full", "traced")):
            if kernel in (("full", "traced") if n < 64 else largest):
                drift = n**0.5 if kernel == "full" else 1 / n
                row = {"moment": moment, "kernel": kernel, "drift": drift * (1 + 1e-6 * r)}
                row["alignment"] = 0.1 if moment == "start" else 0.1 * drift
                kernels.append(run | row)
    found = outcomes(*map(pd.concat, (limits, curves)), pd.DataFrame(kernels))
    ends = found[(found["at"] == "end")].set_index(["start", "n"])
    assert set(ends["kernel"]) == {largest[0]}
    for n in sizes:
        for start, prefix in (("cold", ""), ("warm", "transient_")):
            there = ends.loc[(start, n), [f"{prefix}drift", f"{prefix}alignment_gain"]]
            np.testing.assert_allclose(there.astype(float), n**power, rtol=1e-5)
    trends, _ = along_axes(found, {"n": list(sizes)}, SETTINGS)
    slopes = trends[trends["quantity"].isin(["drift", "alignment_gain"])]["slope"]
    np.testing.assert_allclose(slopes, power, rtol=1e-5)
    assert len(slopes) == 2


def one_run(name, share, **values):
    """Rows of speed_limits and training_curves of a run, by its losses over that of the start."""
    time = np.arange(float(len(share)))
    curve = {"ensemble": name, "realisation": 0, "time": time, "test_accuracy": 0.75}
    curve |= {"train_loss_per_sample": 3 * np.array(share), "gradients": 10 * time} | values
    limits = [
        pd.DataFrame({"ensemble": name, "n": 8, "start": start, "realisation": "0", "time": later})
        for start, later in (("cold", time[1:]), ("warm", time[2:] - time[1]))
    ]
    return pd.concat(limits).assign(**dict.fromkeys(CURVES, 2.0)), pd.DataFrame(curve)


def test_equal_loss_is_the_least_that_every_run_reaches_on_its_way():
    """Be it not at the end; runs that diverged do not count, and lack their test error there."""
    lost = {"test_accuracy": [0.1, 0.2, np.nan, np.nan], "test_loss_per_sample": 1.0}
    tables = [
        one_run("rises", [1, 0.5, 0.1, 0.2]),
        one_run("falls", [1, 0.6, 0.3, 0.05]),
        one_run("lost", [1, 2, np.nan, np.nan], **lost),
    ]
    found = outcomes(*map(pd.concat, zip(*tables, strict=True)), pd.DataFrame())
    equal = found[found["at"] == "equal_loss"].set_index("ensemble")
    assert equal.index.tolist() == ["rises", "falls"] and set(equal["start"]) == {"cold"}
    np.testing.assert_allclose(equal["train_loss_share"], 0.1)
    ends = found[(found["at"] == "end") & (found["start"] == "cold")].set_index("ensemble")
    assert ends["diverged"].to_dict() == {"rises": 0, "falls": 0, "lost": 1}
    assert "test_loss" not in found and np.isnan(ends.loc["lost", "test_error"])
    assert ends.loc["falls", "test_error"] == 0.25
    assert set(found.loc[found["start"] == "warm", "at"]) == {"end"}


def test_a_loss_that_never_falls_does_not_set_the_level_of_equal_loss():
    """It would be that of the start, which others have passed before the first recorded time."""
    tables = [
        one_run("down", [1, 0.6, 0.3, 0.1]),
        one_run("back", [1, 1.5, 0.9, 0.2]),
        one_run("up", [1, 2, 4, 8]),
        one_run("dips", [1, 0.7, 1.1, 8]),
    ]
    found = outcomes(*map(pd.concat, zip(*tables, strict=True)), pd.DataFrame())
    equal = found[found["at"] == "equal_loss"].set_index("ensemble")
    np.testing.assert_allclose(equal["train_loss_share"], 0.2)
    assert equal.index.tolist() == ["down", "back"]
    told = moment_in_words("equal_loss", "cold", found)
    assert "0.2 of that of the start (2 of 4 runs: " in told and "never fall below" in told


def test_runs_whose_loss_has_dropped_are_no_sample_of_an_ensemble_with_others():
    table = runs(slope=-1.0, realisations=4).reset_index(drop=True)
    risen = (table["width"] == 64) & (table["realisation"] == "2")
    table.loc[risen, ["inefficiency", "prediction_ratio"]] = np.nan
    axes = {"width": [8, 16, 32, 64], "model": ["a", "b"]}
    text, tables = written(table, axes)
    points = tables["trends"].set_index("quantity")["points"]
    assert points["inefficiency"] == 24 and points["kinematic_inefficiency"] == 32
    assert "the loss of 2 of 32 runs has not dropped" in text
    between = tables["correlations"].set_index(["with", "level"])["points"]
    assert between["test_error", "between"] == 6
    adam = table.assign(dynamics="adam", inefficiency=np.nan)
    assert "not dropped" not in moment_in_words("end", "cold", adam)


def test_repetitions_are_those_of_the_end_whatever_rounding_makes_of_them_elsewhere():
    """Three that differ in what float32 rounds, and in more where a loss nears its floor."""
    table = runs(slope=-1.0, realisations=3).query("model == 'a'")
    first = table[table["realisation"] == "0"].set_index("width")
    values = ["inefficiency", "kinematic_inefficiency", "prediction_ratio"]
    r = table["realisation"].astype(float).to_numpy()[:, None]
    ends = table.assign(**{n: first.loc[table["width"], n].to_numpy() for n in values})
    equal = ends.assign(at="equal_loss")
    ends[values], equal[values] = ends[values] * (1 + 1e-7 * r), equal[values] * (1 + 1e-3 * r)
    both = pd.concat([ends, equal], ignore_index=True)
    trends, _ = along_axes(both, {"width": [8, 16, 32, 64]}, SETTINGS)
    found = trends.set_index(["at", "quantity"])["points"]
    for at in ("end", "equal_loss"):
        assert found[at, "inefficiency"] == 4
    assert repetitions(both).sum() == 16
    apart = both.assign(inefficiency=both["inefficiency"] * (1 + 1e-4 * np.append(r, r)))
    assert not repetitions(apart).any()


@pytest.mark.parametrize(
    ("batch", "told"), [(4, ["exceeds it by"]), (5, ["exceeds it by", "does not divide"]), (8, [])]
)
def test_what_minibatches_do_depends_on_their_size(batch, told):
    table = runs().assign(dynamics="sgd", n=8, batch_size=batch)
    sentences = optimiser_sentences(table)
    assert len(sentences) == len(told)
    assert all(words in text for words, text in zip(told, sentences, strict=True))


@pytest.mark.parametrize("dynamics", ["adam", "sgd", "gradient_descent"])
def test_couplings_bear_on_the_speed_limit_of_dynamics_that_have_one(dynamics):
    table = transport(gap=(0.0, 0.25), other=(3.0, 0.8)).assign(dynamics=dynamics)
    (sentence,) = transport_sentence(table)
    assert ("T_SL is overstated" in sentence) is (dynamics == "gradient_descent")


def test_rows_of_shared_runs_are_told_apart_by_moment_and_kernel():
    """Two thresholds repeat them: they stand once each."""
    rows = [
        {"ensemble": f"e-{threshold}", THRESHOLD: threshold, "start": "cold", "realisation": "0",
         "at": at, "kernel": kernel}
        for threshold in (0.1, 0.2)
        for at in ("end", "equal_loss")
        for kernel in ("full", "traced")
    ]  # fmt: skip
    found = each_run_once(pd.DataFrame(rows))
    assert len(found) == 4 == len(found.drop_duplicates(["at", "kernel"]))
    assert set(found["ensemble"]) == {"e-0.1"}


def test_kernels_of_shared_runs_stand_once_but_for_the_warm_start():
    """Each moment of a run once, and that of the warm start for each threshold."""
    table = pd.DataFrame(
        [
            {"ensemble": f"e-{threshold}", THRESHOLD: threshold, "moment": moment,
             "realisation": realisation}
            for threshold in (0.1, 0.2)
            for moment in ("start", "warm", "end")
            for realisation in "01"
        ]
    )  # fmt: skip
    found = each_run_once(table).groupby(["moment", "realisation"])["ensemble"].agg(list)
    for (moment, _), ensembles in found.items():
        assert ensembles == ["e-0.1", "e-0.2"][: 1 + (moment == "warm")]
    assert len(found) == 6


def outcomes_of(losses):
    """Return the tables of runs with these training losses, whose prediction moves in time."""
    time, limits, curves = np.append(0, 2.0 ** np.arange(1, 7)), [], []
    for realisation, loss in enumerate(losses):
        front = {"ensemble": "e", "n": 8, "realisation": str(realisation)}
        curves.append(
            pd.DataFrame(
                front | {"time": time, "gradients": np.arange(7), "train_loss_per_sample": loss}
            ).assign(test_accuracy=0.5)
        )
        for start, first in (("cold", 1), ("warm", 3)):
            rows = pd.DataFrame({"time": time[first:] - (start == "warm") * time[2]})
            rows = rows.assign(**dict.fromkeys(CURVES, 1 + time[first:] / first), start=start)
            rows = rows.assign(**front, inefficiency_predicted=time[first:] ** -0.5)
            limits.append(rows[["ensemble", "n", "start", "realisation", "time", *CURVES]])
    return pd.concat(limits), pd.concat(curves)


def test_ratios_to_the_prediction_are_taken_at_their_moment_whatever_the_order_of_the_rows():
    losses = [4.0 ** -np.arange(7.0), 3.0 ** -np.arange(7.0)]
    tables = outcomes_of(losses)
    found = outcomes(*tables, pd.DataFrame())
    assert set(found["at"]) == {"end", "equal_loss", "equal_gradients"}
    ratios = found["inefficiency"] / found["inefficiency_predicted"]
    np.testing.assert_allclose(found["prediction_ratio"], ratios)
    shuffled = (table.sample(frac=1, random_state=0) for table in tables)
    again, keys = outcomes(*shuffled, pd.DataFrame()), ["realisation", "start", "at"]
    found, again = (table.sort_values(keys, ignore_index=True) for table in (found, again))
    pd.testing.assert_frame_equal(again[found.columns], found)


def test_a_run_whose_loss_has_no_bound_has_diverged_and_only_an_end():
    losses = [4.0 ** -np.arange(7.0), [1, 0.5, 2, 8, 1e200, np.inf, np.inf]]
    found = outcomes(*outcomes_of(losses), pd.DataFrame()).set_index("realisation")
    assert found.loc["0", "diverged"].eq(0).all() and found.loc["1", "diverged"].eq(1).all()
    assert found.loc["1", "at"].eq("end").all()
    cold = found.loc["0"][found.loc["0", "start"] == "cold"].set_index("at")
    assert cold.loc["equal_loss", "train_loss_share"] == pytest.approx(4.0**-6)  # its own


def test_a_run_that_starts_without_a_loss_has_not_diverged():
    found = outcomes(*outcomes_of([4.0 ** -np.arange(7.0), np.zeros(7)]), pd.DataFrame())
    found = found.set_index("realisation")
    assert found["diverged"].eq(0).all()
    assert found.loc["1", "at"].eq("end").all()  # its loss reaches no share of the start's


def test_a_level_is_reached_but_for_rounding_and_after_the_first_time():
    x, y = np.arange(4.0), np.array([1.0, 0.5, 0.3, 0.1])
    assert _crossing(x[:3], y[:3], 0.3 * (1 - 1e-14), falling=True) == 2
    assert np.isnan(_crossing(x, y, 1.0, falling=True))
    assert _crossing(x, -y, -0.3, falling=False) == 2
    assert np.isnan(_crossing(x, y, 0.05, falling=True))


def test_a_power_law_is_interpolated_exactly_and_nothing_beside_what_has_no_value():
    x = np.log([1.0, 2, 4, 8])
    assert _interpolated(x, np.exp(-2 * x), math.log(3)) == pytest.approx(1 / 9, rel=1e-12)
    assert _interpolated(x, -x, math.log(3)) == pytest.approx(-math.log(3), rel=1e-12)
    for at in (1.5, 3.0):
        assert np.isnan(_interpolated(x, np.array([1.0, np.nan, 2, 3]), math.log(at)))


def test_rows_without_any_of_the_columns_share_one_label():
    table = pd.DataFrame({"n": [8, 16], "depth": [np.nan, 2]})
    assert joined(table, ["width"]).tolist() == ["", ""]
    assert joined(table, ["n", "width", "depth"]).tolist() == ["8|nan", "16|2.0"]


def test_values_at_equal_loss_are_those_at_that_loss():
    """Of a loss that rises on its way the level lies between the neighbours of its crossing."""
    share = pd.Series([0.9, 0.3, 0.4, 0.05])
    times = pd.Series([1.0, 2.0, 4.0, 8.0])
    values = pd.DataFrame({"train_loss_share": share, "inefficiency": [1.0, 2.0, 3.0, 5.0]})
    values = values.assign(gradients=range(4), time_lambda_1=3 * times, discretisation=math.nan)
    found = _at_levels(times, values, 0.1, np.nan)["equal_loss"]
    assert found["train_loss_share"] == pytest.approx(0.1)
    assert 4 < found["time_lambda_1"] / 3 < 8 and 3 < found["inefficiency"] < 5
    assert math.isnan(found["discretisation"])
    values.loc[2, "inefficiency"] = math.nan
    assert math.isnan(_at_levels(times, values, 0.1, np.nan)["equal_loss"]["inefficiency"])
    there = _at_levels(times, values, 0.05, 2)
    assert there["equal_loss"]["inefficiency"] == 5 and there["equal_gradients"]["gradients"] == 2


def test_values_at_equal_loss_follow_smooth_curves_between_ten_records_a_decade():
    """Linear interpolation would give times up to 3 % too large here."""
    times = pd.Series(np.geomspace(0.1, 1000, 41))
    share = 0.3 * (1 + times) ** -1.5 + 0.7 * np.exp(-times / 3)
    known = {"speed_limit_time": times**0.4, "path_excess": 1 + 0.2 * np.log1p(times)}
    values = pd.DataFrame({"train_loss_share": share, "gradients": times / 0.05, **known})
    for exact in np.geomspace(0.2, 900, 40):
        level = 0.3 * (1 + exact) ** -1.5 + 0.7 * math.exp(-exact / 3)
        found = _at_levels(times, values.assign(time_lambda_1=times), level, exact / 0.05)
        for at in ("equal_loss", "equal_gradients"):
            assert found[at]["time_lambda_1"] == pytest.approx(exact, rel=4e-3)
            assert found[at]["speed_limit_time"] == pytest.approx(exact**0.4, rel=4e-3)
            assert found[at]["path_excess"] == pytest.approx(1 + 0.2 * math.log1p(exact), rel=4e-3)


def test_ensembles_with_a_diverged_run_have_no_means_at_any_moment():
    row = {"ensemble": "e", "n": 8, "start": "cold"}
    rows = [
        row | {"at": at, "realisation": r, "diverged": 0, "inefficiency": 2.0}
        for at in ("end", "equal_loss")
        for r in "012"
    ]
    rows[1] |= {"diverged": 1, "inefficiency": np.nan}
    del rows[4]
    limits = pd.DataFrame([row | {"realisation": "ensemble", "time": 1.0, "inefficiency": np.nan}])
    found = ensemble_outcomes(pd.DataFrame(rows), limits, SETTINGS).set_index("at")
    assert found["diverged"].tolist() == pytest.approx([1 / 3] * 2)
    assert found["runs"].tolist() == [3, 2]
    assert found[["inefficiency", "inefficiency_low"]].isna().all(axis=None)
    whole = ensemble_outcomes(pd.DataFrame(rows).assign(diverged=0), limits, SETTINGS)
    assert whole.set_index("at").loc["equal_loss", "inefficiency"] == 2


def test_ends_of_ensembles_are_ratios_of_averages_but_for_the_discretisation():
    """Its ratio of averages has no interval in ``speed_limits``; it can have either sign."""
    row = {"ensemble": "e", "n": 8, "start": "cold", "at": "end", "diverged": 0}
    of_runs = [(2.0, 0.01), (3.0, 0.02), (40.0, 0.9)]
    names = ("inefficiency", "discretisation")
    rows = [row | {"realisation": str(k)} | dict(zip(names, v, strict=True))
            for k, v in enumerate(of_runs)]  # fmt: skip
    ends = {"inefficiency": 9.0, "inefficiency_low": 8.0, "inefficiency_high": 10.0}
    limits = pd.DataFrame([row | {"realisation": "ensemble", "discretisation": 7.0}] * 2)
    limits = pd.concat([limits.assign(time=[2.0, 1.0], **ends), pd.DataFrame(rows).assign(time=2)])
    limits.iloc[1, limits.columns.get_loc("inefficiency")] = 5.0
    (found,) = ensemble_outcomes(pd.DataFrame(rows), limits, SETTINGS).to_dict("records")
    assert {name: found[name] for name in ends} == ends
    assert found["discretisation"] == pytest.approx(0.31)
    assert found["discretisation_low"] < 0 < 0.31 < found["discretisation_high"]


@pytest.mark.parametrize("at", ["end", "equal_loss"])
def test_the_prediction_ratio_of_an_ensemble_is_geometric_as_in_the_findings(at):
    """Upside down, it is the inverse: of 1/2 and 2 it is 1."""
    row = {"ensemble": "e", "n": 8, "start": "cold"}
    limits = pd.DataFrame([row | {"realisation": "ensemble", "time": 1.0, "inefficiency": 9.0}])

    def found(*ratios):
        rows = [
            row | {"at": moment, "diverged": 0, "realisation": str(k), "prediction_ratio": value}
            for moment in ("end", "equal_loss")
            for k, value in enumerate(ratios)
        ]
        ensemble = ensemble_outcomes(pd.DataFrame(rows), limits, SETTINGS).set_index("at").loc[at]
        return [ensemble[f"prediction_ratio{end}"] for end in ("", "_low", "_high")]

    ratios = np.array([0.7, 1.9, 1.1, 2.5])
    mean, low, high = found(*ratios)
    logarithms = scipy.stats.ttest_1samp(np.log(ratios), 0).confidence_interval(
        SETTINGS["confidence"]
    )
    assert [mean, low, high] == pytest.approx(
        [math.exp(np.log(ratios).mean()), *map(math.exp, logarithms)]
    )
    assert found(*1 / ratios) == pytest.approx([1 / mean, 1 / high, 1 / low])
    assert np.isnan(found(0.5, np.nan, 2.0)).all()  # the others are no sample of all
    same = found(1.3, 1.3 * (1 + 1e-8), 1.3)
    assert same[0] == pytest.approx(1.3) and np.isnan(same[1:]).all()


def test_the_first_transient_is_told_of_every_ensemble_that_reaches_its_warm_start():
    row = {"ensemble": "e", "start": "warm", "realisation": "ensemble", "at": "end", "runs": 4}
    row |= {"transient_time_share": 0.0125, "transient_loss_share": 0.75}
    for name, value in (("factor", 8.0), ("alignment_gain", 1.5), ("drift", 0.1)):
        row |= {f"transient_{name}": value, f"transient_{name}_low": value / 2}
        row |= {f"transient_{name}_high": value * 2}
    noise = {"dynamics": "langevin", "temperature": 0.1, "n": 16}  # of bounds no ratio is told
    cold = {"start": "cold", "n": 32} | {name: np.nan for name in row if "transient" in name}
    table = pd.DataFrame([row | {"n": 8}, row | noise, row | cold])
    first, second = transient_lines(table, {"n": [8, 16, 32]}, 0.95)
    assert "n 8: 1.2 % of the training time, 75 % of the loss drop; " in first
    assert "from the warm start 8 (95 % interval 4 to 16); " in first
    assert "alignment 1.5 (95 % interval 0.75 to 3) times that at the start; " in first
    assert "kernel drift 0.1 (95 % interval 0.05 to 0.2); 4 runs." in first
    assert "warm start" not in second and "drift" in second
    assert transient_summary(table, {"n": [8]})[0].endswith("is 8 (n 8).")
    assert transient_lines(table.iloc[2:], {"n": [8]}, 0.95) == []
    assert transient_summary(runs(), AXES) == []


def test_ends_at_different_times_are_told():
    row = {"at": "end", "start": "cold", "realisation": "ensemble"}
    table = pd.DataFrame([row | {"time_lambda_1": time} for time in (20.0, 16.0, 400.0, np.nan)])
    table["diverged"] = 0.0
    (told,) = end_sentence(table, {"momentum": [0, 0.5, 0.99]})
    assert "from 16 to 400" in told
    (told,) = end_sentence(table.assign(diverged=[0, 0, 1.0, 0]), {"momentum": [0, 0.5, 0.99]})
    assert "from 16 to 20" in told  # what diverged is compared with nothing
    assert end_sentence(table, {"final_time": [16, 400]}) == []
    assert end_sentence(table.iloc[:1], {}) == [] and end_sentence(table.iloc[3:], {}) == []
    same = table.assign(time_lambda_1=[20.0, 20.5, 20.2, 20.0])
    assert end_sentence(same, {}) == []


def test_what_finite_steps_cost_is_told_as_action_over_drop():
    row = {"ensemble": "e", "start": "cold", "realisation": "ensemble", "at": "end", "runs": 4}
    row |= {"dynamics": "gradient_descent", "discretisation": 0.5}
    row |= {"discretisation_low": 0.25, "discretisation_high": 0.75, "learning_rate": 0.3}
    flow = row | {"dynamics": "gradient_flow"}
    table = pd.DataFrame([row, flow, row | {"start": "warm"}])
    assert discretisation_lines(table, {"learning_rate": [0.3]}, 0.95) == [
        "- learning rate 0.3: 1.5 (95 % interval 1.25 to 1.75); 4 runs."
    ]
    assert discretisation_lines(runs(), AXES, 0.95) == []


def test_a_study_in_which_nothing_can_be_tested_is_told():
    """All runs diverged, and the NTK predicts nothing."""
    table = runs()
    table[["inefficiency", "kinematic_inefficiency", "inefficiency_predicted", "prediction_ratio",
           "test_error"]] = np.nan  # fmt: skip
    text, tables = written(table.assign(diverged=1.0), AXES)
    assert len(tables["correlations"]) == len(tables["trends"]) == 0
    assert text.count("5 of 5 runs diverged") == 8 and "nan" not in text
    assert "Permutation tests" not in text and "These runs leave no test" in text


def test_realisations_of_one_start_count_once():
    """A network whose start does not depend on the seed gives the same run R times."""
    one = runs(realisations=1)
    same = pd.concat([one.assign(realisation=str(r)) for r in range(3)], ignore_index=True)
    for repeated, alone in zip(along_axes(same, AXES, SETTINGS), along_axes(one, AXES, SETTINGS),
                               strict=True):  # fmt: skip
        pd.testing.assert_frame_equal(repeated, alone)
    pd.testing.assert_frame_equal(correlations(same, SETTINGS), correlations(one, SETTINGS))
    rounded = same.assign(inefficiency=same["inefficiency"] * (1 + 1e-14 * (same.index % 7)))
    rounded = rounded.sample(frac=1, random_state=1)
    assert len(independent(rounded)) == len(one)
    seeded = same.assign(start_seed=same["realisation"])  # which changes nothing
    assert len(independent(seeded)) == len(one)
    assert prediction_lines(same, AXES, 0.95) == []  # one run has no scatter to judge by


def test_ensembles_whose_runs_are_all_the_same_are_named():
    table = runs()
    assert "one and the same" not in written(table, AXES)[0]
    told = ["inefficiency", "kinematic_inefficiency", "prediction_ratio"]
    first = table.groupby("ensemble")[told].transform("first")
    rounded = first.mul(1 + 1e-15 * table["realisation"].astype(float), axis=0)
    one = table["ensemble"] == "8a"
    text = written(table.assign(**rounded.where(one, table[rounded.columns])), AXES)[0]
    assert "there is no interval, in width 8, model a: what is measured does not depend" in text
    text = written(table.assign(**rounded), AXES)[0]
    assert "there is no interval, in every ensemble:" in text


def test_thresholds_of_one_run_are_no_runs_of_their_own():
    """Along other axes each run counts once, at the threshold that most runs have reached."""
    warm = runs(sizes=(8, 16), realisations=4).assign(start="warm")
    at = {0.1: warm[:5], 0.2: warm, 0.3: warm.assign(inefficiency=2 * warm["inefficiency"])}
    table = pd.concat([t.assign(**{THRESHOLD: k}) for k, t in at.items()], ignore_index=True)
    axes = {"width": [8, 16], THRESHOLD: list(at)}
    trends, _ = along_axes(table, axes, SETTINGS)
    alone, _ = along_axes(warm, {"width": [8, 16]}, SETTINGS)
    of_width = trends[trends["against"] == "width"].reset_index(drop=True)
    pd.testing.assert_frame_equal(of_width.drop(columns="p_adjusted"),
                                  alone.drop(columns="p_adjusted"))  # fmt: skip
    assert trends[trends["against"] == THRESHOLD]["points"].max() == len(warm)
    assert len(independent(table, "width")) == len(warm)


def test_thresholds_of_the_warm_start_count_their_shared_runs_once():
    """They train nothing anew: the cold start's rows of all thresholds are the same runs."""
    one = runs(sizes=(8, 16), realisations=4).drop(columns="at")
    warm = one.assign(start="warm")
    many, factors = [], {0.15: 3.0, 0.2: 2.0, 0.3: 1.0}
    power = 1 + 0.01 * np.arange(len(warm))  # or every run would have one and the same slope
    for threshold, factor in factors.items():
        for table in (one, warm.assign(inefficiency=factor**power * warm["inefficiency"])):
            table = table.assign(ensemble=table["ensemble"] + f"-{threshold}")
            table.insert(4, THRESHOLD, threshold)
            many.append(table)
    found = each_run_once(pd.concat(many, ignore_index=True))
    cold = found[found["start"] == "cold"]
    assert cold[THRESHOLD].isna().all()
    pd.testing.assert_frame_equal(
        cold.drop(columns=["ensemble", THRESHOLD]).reset_index(drop=True),
        one.drop(columns="ensemble"),
    )
    assert len(found) == len(one) + len(factors) * len(warm)
    table = found.assign(at="end")
    axes = {"width": [8, 16], THRESHOLD: list(factors)}
    text, tables = written(table, axes)
    alone = correlations(one.assign(at="end"), SETTINGS)
    pd.testing.assert_frame_equal(tables["correlations"], alone)
    against = tables["trends"][tables["trends"]["against"] == THRESHOLD]
    assert set(against["start"]) == {"warm"}
    assert "test_error" not in set(against["quantity"])  # the end is the same
    assert "nan" not in text and f"falls with {THRESHOLD.replace('_', ' ')}" in text
    heading = "From the warm start, at the end of training"
    alone = "along other axes at the threshold {} alone, which most runs reach:"
    assert f"{heading}, {alone.format(0.15)}" in text
    assert text.count("alone, which most runs reach") == 1  # not of the cold start
    few = (table["start"] == "warm") & (table[THRESHOLD] == 0.15) & (table["realisation"] == "0")
    fewer, tests = written(table[~few], axes)
    assert f"{heading}, {alone.format(0.2)}" in fewer
    counted = tests["trends"].set_index(["start", "against", "quantity"])["points"]
    assert counted.loc[("warm", "width", "inefficiency")] == len(one)
    only, _ = written(table[table["width"] == 8], {THRESHOLD: list(factors)})
    assert f"{heading}:" in only and "alone" not in only
    assert set(against["points"]) == {len(one)}  # each run is one, whatever its thresholds
    table = pd.DataFrame({"ensemble": ["a"], "moment": ["start"]})
    pd.testing.assert_frame_equal(each_run_once(table), table)  # no such axis


def test_a_threshold_that_is_null_is_a_number_in_tables_and_on_the_interactive_page(
    tmp_path, shipped_config
):
    shipped_config["studies"] = {
        "thresholds": {"vary": {THRESHOLD: [None, 0.3]}, "realisations": 1}
    }
    ensembles = Plan(shipped_config).described("thresholds")
    assert [ensemble["settings"][THRESHOLD] for ensemble in ensembles] == [None, 0.3]
    tables = []
    for ensemble, threshold in zip(ensembles, (0.15, 0.3), strict=True):
        (tmp_path / str(threshold)).mkdir()
        ensemble["path"] = str(tmp_path / str(threshold))
        accuracy = np.linspace(0, 1, 20)[None]
        found = warm_start(np.arange(20.0), accuracy, threshold)
        write_json({**found, "provenance": {}}, f"{ensemble['path']}/warm_start.json")
        warm = warm_columns(f"{ensemble['path']}/warm_start.json")
        told = with_threshold(ensemble, warm["threshold"])
        told["columns"] = describing(ensembles, {THRESHOLD: [None, 0.3]})
        ends = [f"{name}{end}" for name in FACTORS for end in ("", "_low", "_high", "_predicted")]
        values = dict.fromkeys([*ends, *LAWS.values()], 2.0)
        row = {"start": "warm", "time": 1.0, "time_lambda_1": 1.0, **values}
        table = pd.DataFrame([row | {"realisation": r} for r in ("0", "ensemble")])
        tables.append(labelled(table, told))
        assert list(tables[-1][THRESHOLD]) == [threshold] * 2
    page = study_data(pd.concat(tables), ensembles)
    assert page["varied"] == {THRESHOLD: ["0.15", "0.3"]}
    colours = style.palette(2, sequential=True)
    assert [ensemble["colour"] for ensemble in page["ensembles"]] == colours
    labels = [ensemble["label"] for ensemble in page["ensembles"]]
    assert labels == ["warm start accuracy = 0.15", "warm start accuracy = 0.3"]


WIDTHS = [16, 32, 64, 128]


def wide(deviation=0.2, low=0.1, high=0.3):
    """Widths against infinite width: a time before the end, runs, and their ensembles."""
    rows = [
        {"ensemble": f"e{width}", "width": width, "realisation": name, "time": time}
        | {"deviation": 9.0, "deviation_low": 8.0, "deviation_high": 10.0}
        for time in (1.0, 2.0)
        for width in WIDTHS
        for name in ("0", "1", "2", "ensemble")
    ]
    table = pd.DataFrame(rows)
    last = (table["width"] == 128) & (table["realisation"] == "ensemble") & (table["time"] == 2)
    table.loc[last, ["deviation", "deviation_low", "deviation_high"]] = deviation, low, high
    return table


def fits(of=("drift", "mean", -1.0, -0.75), whole=(np.nan,) * 3, wider=(-0.8, -0.9, -0.7)):
    """Fitted powers of one statistic over all widths, and over the two widest."""
    names = ["quantity", "statistic", "power_expected", "power_expected_relu", "least_width"]
    names += ["largest_width", "points", "power", "power_low", "power_high"]
    rows = [(*of, 16, 128, 12, *whole), (*of, 64, 128, 6, *wider)]
    return pd.DataFrame(rows, columns=names)


def told(table, powers, axes=None):
    tables = {"infinite_width": table, "infinite_width_powers": powers}
    return infinite_width_part(tables, axes or {"width": WIDTHS}, 0.95)


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ((0.2, 0.1, 0.3), "1.22 (95 % interval 1.11 to 1.35), slower than infinitely wide ones."),
        ((-0.2, -0.3, -0.1), "0.819 (95 % interval 0.741 to 0.905), faster than"),
        ((0.2, -0.1, 0.5), "1.22 (95 % interval 0.905 to 1.65), no evidence of a difference."),
        (
            (0.004, 0.002, 0.006),
            "1.004 (95 % interval 1.002 to 1.006), equal within the 1 % of integration.",
        ),
        ((0.009, 0.004, 0.014), "1.014), above 1, but not told from the 1 % of integration."),
        ((-0.009, -0.014, -0.004), "0.996), below 1, but not told from the 1 % of integration."),
        ((0.2, np.nan, np.nan), "I / I_infinity = 1.22, too few runs for an interval."),
        ((np.nan,) * 3, "no I / I_infinity, since a run has none."),
    ],
)
def test_the_widest_networks_are_held_against_infinite_width(ends, said):
    lines = [line for line in told(wide(*ends), fits()).splitlines() if "widest" in line]
    assert len(lines) == 1 and lines[0].startswith("- The widest networks (width 128, 3 runs): ")
    assert said in lines[0]


SMOOTH = "expected -1 with smooth activations, {} the interval, to -0.75 with ReLUs, {}"


@pytest.mark.parametrize(
    ("of", "power", "said"),
    [
        (("drift", "mean", -1.0, -0.75), (-0.8, -0.9, -0.7), SMOOTH.format("outside", "inside")),
        (("drift", "mean", -1.0, -0.75), (-0.9, -1.1, -0.7), SMOOTH.format("inside", "inside")),
        (("drift", "mean", -1.0, -0.75), (-0.5, -0.6, -0.4), SMOOTH.format("outside", "outside;")),
        (("drift", "mean", -1.0, -0.75), (-0.87, -0.92, -0.8), "outside (it lies between them);"),
        (
            ("deviation", "mean", -1.0, -1.0),
            (-0.9, -1.2, -0.6),
            "expected -1, inside the interval;",
        ),
        (("deviation", "mean", -1.0, -1.0), (-0.9, -0.95, -0.85), "expected -1, outside the"),
        (("deviation", "mean", -1.0, -1.0), (-0.5, -1.2, 0.2), "0 is inside too: no evidence of a"),
    ],
)
def test_powers_of_the_width_are_told_with_those_expected(of, power, said):
    (line,) = [line for line in told(wide(), fits(of, wider=power)).splitlines() if "Mean" in line]
    value, low, high = power
    shown = f"over 2 widths from 64 to 128 (6 runs) s = {value} (95 % interval {low} to {high})"
    assert shown in line and said in line
    assert "; over 4 widths from 16 to 128 (12 runs) no power could be fitted." in line


def test_an_interval_wider_than_all_powers_that_are_tried_tells_none():
    powers = fits(("deviation", "mean", -1.0, -1.0), wider=(-1.4, -58.8, 56.0))
    assert "from 64 to 128 (6 runs) too few runs to tell any power;" in told(wide(), powers)
    assert "s = -1.4 (" in told(wide(), powers.assign(power_low=-4.0, power_high=3.9))
    assert "any power;" in told(wide(), powers.assign(power_low=-4.1, power_high=4.1))


def test_two_widths_are_told_once_and_other_studies_say_nothing_of_infinite_width():
    powers = fits().assign(least_width=64)
    assert told(wide(), powers).count(" runs) s = ") == 1
    text, tables = written(runs(), AXES)
    assert "infinite width" not in text
    table = wide().assign(model="a")
    tables |= {"infinite_width": table, "infinite_width_powers": fits()}
    more = findings(tables, "some_study", SETTINGS | {"axes": AXES})
    part = told(table, fits(), AXES)
    assert more == text.replace("Exponents of", f"{part}\n\nExponents of", 1)


def test_starts_are_told_apart_by_their_seeds():
    """Networks may differ in what is no column, as the depth of those that a case names."""
    rows = []
    for k, (case, width) in enumerate({"two layers": 4, "five layers": 4, "wide": 8}.items()):
        for r in range(3):
            row = {"ensemble": case, "n": 8, "model": "fully_connected", "width": width}
            row |= {"case": case, "start": "cold", "realisation": str(r), "at": "end"}
            row |= {"start_seed": str(10 * k + r), "diverged": 0}
            rows.append(row | {"inefficiency": 2 + k + 0.1 * r, "test_error": 0.1 * r})
    table = pd.DataFrame(rows)
    found = correlations(table, SETTINGS).set_index("level")
    assert found.loc["between", "points"] == 3 and found.loc["within", "points"] == 9
    by_settings = correlations(table.drop(columns="start_seed"), SETTINGS).set_index("level")
    assert by_settings.loc["between", "points"] == 2  # what the columns alone would say


def test_trends_without_two_comparable_values_say_why():
    row = {"against": "depth", "quantity": "inefficiency", "p_smallest": np.nan}
    (told,) = too_few(pd.DataFrame([row | {"points": 6}]))
    assert told.startswith("Nothing to compare for depth on the inefficiency T/T_SL: not two of")
    (told,) = too_few(pd.DataFrame([row | {"points": 0}]))
    assert told == "Fewer than two values of the inefficiency T/T_SL to compare for depth."
