"""Numbers and counts in sentences, verdicts and outcome tables, each against a value by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from test_findings import EXPONENTS, SETTINGS, regime_lines, runs, transport

from pipeline.outcomes import (
    COMPARISON_COLUMNS,
    CURVES,
    along_axes,
    ensemble_outcomes,
    outcomes,
)
from pipeline.runs import labelled_combinations
from pipeline.tables import shown_p_value, significance_level
from sentences import effects
from sentences.effects import correlation_lines, moment_in_words, too_few, trend_sentence
from sentences.ensembles import (
    FASTER,
    LOWER_BOUND,
    Prediction,
    dead_network_sentence,
    discretisation_lines,
    energetic_lines,
    finite_step_sentence,
    integration_sentence,
    prediction_summary,
    predictions,
    range_sentences,
    repeated,
    transient_summary,
    transport_sentence,
)
from sentences.phrases import percent
from sentences.reproduction import bound_row, flat, rows_of_study, warm_epochs
from sentences.study import _how_it_was_tested
from speedlimits.speed_limit import BELOW_ONE


def test_rows_of_the_comparison_hold_the_numbers_of_their_start():
    study = [
        {
            "path": path,
            "settings": {"dynamics": "gradient_flow", "n": n, "warm_start_accuracy": None},
        }
        for path, n in (("a", 8), ("b", 16))
    ]
    rows = [
        {"ensemble": path, "start": start, "realisation": "ensemble", "time": 1.0}
        | {
            f"{name}{end}": factor * value
            for name, value in (("inefficiency", inefficiency), ("path_excess", excess))
            for end, factor in (("", 1), ("_low", 0.9), ("_high", 1.1))
        }
        for path in "ab"
        for start, inefficiency, excess in (("cold", 5.0, 16.0), ("warm", 3.0, 2.25))
    ]
    slopes = (
        ("inefficiency", "cold", -0.3),
        ("inefficiency", "warm", 0.1),
        ("drift", "cold", 0.7),
        ("drift", "warm", 0.7),
    )
    trends = [
        {"at": "end", "quantity": quantity, "start": start, "slope": slope, "p_value": 0.01}
        | {"slope_low": slope - 0.05, "slope_high": slope + 0.05}
        for quantity, start, slope in slopes
    ]
    warm = {"ensemble": ["a", "b"], "threshold": 0.12, "reached": True}
    tables = {
        "speed_limits": pd.DataFrame(rows),
        "trends": pd.DataFrame(trends),
        "exponents": pd.DataFrame(columns=["ensemble", "kernel", "moment", "delta"]),
        "warm_starts": pd.DataFrame(warm),
    }
    found = [
        [(round(measured.value, 9), measured.agrees) for measured in row.measured]
        for row in rows_of_study(tables, study, 0.05)
    ]
    moving = tables | {"speed_limits": tables["speed_limits"].assign(dynamics="nesterov")}
    in_motion = [row for row in rows_of_study(moving, study, 0.05) if "no bound" in row.verdict]
    assert [row.quantity for row in in_motion] == ["T/T_SL from the warm start, end of training"]
    assert found[:7] == [
        [(3.0, True)],  # the smallest T/T_SL of all
        [(5.0, False)] * 2,  # from the cold start, against 10 to 30
        [(-0.3, True)],
        [(3.0, True)] * 2,  # from the warm one
        [(0.1, True)],
        [(4.0, False)] * 2,  # path over geodesic length, the root of the excess
        [(1.5, True)] * 2,
    ]


@pytest.mark.parametrize(
    ("dynamics", "kinematic", "verdict"),
    [
        ("gradient_flow", 1.3, "differs"),
        ("gradient_descent", 1.3, "reproduced"),
        ("gradient_descent", 0.9, "differs"),
        ("sgd", 1.3, "reproduced"),
    ],
)
def test_finite_steps_keep_to_the_bound_by_their_action(dynamics, kinematic, verdict):
    limits = pd.DataFrame({"inefficiency": [2.0, 0.8], "kinematic_inefficiency": kinematic})
    row = bound_row(limits, {dynamics})
    assert row.verdict == verdict and row.measured[0].value == 0.8
    told = "kinematic inefficiency at least" in row.measured[0].label
    assert told is (dynamics != "gradient_flow")
    assert bound_row(limits + 1, {dynamics}).verdict == "reproduced"
    assert bound_row(limits * math.nan, {dynamics}).verdict == "not measured"


def test_a_clear_rise_with_n_is_not_flat():
    assert flat(0.8, 0.5, 0.9, 0.01) is False


DESCENT = {"dynamics": "gradient_descent", "learning_rate": 1e-5, "learning_rate_unit": "absolute"}


def epochs_of(threshold=0.12, **changed):
    warm = {"ensemble": ["8"], "threshold": threshold, "reached": True, "time": 0.026}
    table = pd.DataFrame(warm | {"time_resolution": 0.004})
    return warm_epochs(table, [{"path": "8", "settings": DESCENT | changed}], {"8": "n"})


def test_epochs_to_the_warm_start_have_the_interval_of_their_resolution():
    (measured,), _ = epochs_of()
    assert measured[1:4] == pytest.approx((2600, 2200, 2600)) and measured.agrees is None


@pytest.mark.parametrize(
    "changed",
    [
        {"learning_rate": 2e-5},
        {"learning_rate_unit": "stability_limit"},
        {"threshold": 0.15},
        {"dynamics": "gradient_flow"},
    ],
)
def test_epochs_of_another_descent_are_not_held_against_the_paper(changed):
    assert epochs_of(**changed) == ([], "not comparable (other dynamics or threshold)")


def test_cases_of_switches_are_named_the_right_way_round():
    cases = [{"subtract_start": True}, {"subtract_start": False}]
    labels = [label for label, _ in labelled_combinations({}, {"cases": cases})]
    assert labels == ["subtract start", "no subtract start"]


def run(realisation, **values):
    return {
        "ensemble": "e", "n": 8, "start": "cold", "at": "end", "realisation": realisation,
        "diverged": 0, **values,
    }  # fmt: skip


def test_discretisation_of_an_ensemble_is_the_mean_of_its_runs_and_of_either_sign():
    rows = [run(r, discretisation=d) for r, d in zip("012", (0.01, 0.02, 0.09), strict=True)]
    limits = {"ensemble": "e", "start": "cold", "realisation": "ensemble", "time": 1.0}
    row = ensemble_outcomes(
        pd.DataFrame(rows), pd.DataFrame([limits | {"discretisation": 0.5}]), SETTINGS
    ).iloc[0]
    assert row["discretisation"] == pytest.approx(0.04)
    assert row["discretisation_low"] < 0 < row["discretisation_high"]


def test_the_interval_of_the_action_over_the_drop_of_energy_is_positive_as_they_are():
    """Of four runs beyond the stability limit: Student's interval of the mean reaches -13."""
    shares = np.array([8.65, 55.87, 16.96, 8.40])
    rows = [run(str(r), discretisation=d) for r, d in enumerate(shares)]
    limits = {"ensemble": "e", "start": "cold", "realisation": "ensemble", "time": 1.0}
    row = ensemble_outcomes(pd.DataFrame(rows), pd.DataFrame([limits]), SETTINGS).iloc[0]
    low, ratio, high = 1 + row[[f"discretisation{end}" for end in ("_low", "", "_high")]]
    assert 1 < low < ratio == pytest.approx(1 + shares.mean())
    assert low * high == pytest.approx(ratio**2)
    stderr = shares.std(ddof=1) / 2 / ratio  # of the logarithm, to first order
    assert np.log(high / ratio) == pytest.approx(3.18 * stderr, rel=0.25)


@pytest.mark.parametrize(
    ("errors", "ends"),
    [
        ((0.70, 0.95, 0.99), None),
        ((0.02, 0.03, 0.14), None),
        ((0.5, 1.0, 1.0), (0.0, 1.0)),
        ((0.0, 0.1, 0.9), (0.0, 1.0)),
    ],
)
def test_the_interval_of_a_test_error_lies_between_nothing_and_all(errors, ends):
    """Of its odds, in which Student's interval has the same factor on either side."""
    rows = [run(str(r), test_error=error) for r, error in enumerate(errors)]
    limits = {"ensemble": "e", "start": "cold", "realisation": "ensemble", "time": 1.0}
    row = ensemble_outcomes(pd.DataFrame(rows), pd.DataFrame([limits]), SETTINGS).iloc[0]
    low, mean, high = row[["test_error_low", "test_error", "test_error_high"]]
    assert 0 <= low < mean < high <= 1 and mean == pytest.approx(np.mean(errors))
    if ends is None:
        assert low > 0 and high < 1
        odds = low / (1 - low), mean / (1 - mean), high / (1 - high)
        assert odds[0] * odds[2] == pytest.approx(odds[1] ** 2)
    else:
        assert (high == ends[1]) or (low == ends[0])


def test_an_ensemble_has_its_last_time_the_mean_and_the_number_of_its_runs():
    rows = [run(r, drift=d, inefficiency=1.0) for r, d in zip("012", (1.0, 2.0, 6.0), strict=True)]
    limits = pd.DataFrame({"time": [1.0, 5.0, 3.0], "inefficiency": [2.0, 10.0, 6.0]})
    limits = limits.assign(ensemble="e", start="cold", realisation="ensemble")
    row = ensemble_outcomes(pd.DataFrame(rows), limits, SETTINGS).iloc[0]
    assert (row["inefficiency"], row["drift"], row["runs"]) == (10.0, 3.0, 3)


def test_equal_loss_is_what_every_run_reaches_and_the_error_what_the_accuracy_lacks():
    limits, curves = [], []
    for realisation, last in (("0", 0.1), ("1", 0.3)):
        front = {"ensemble": "e", "realisation": realisation}
        curve = {"time": [0.0, 1, 2], "gradients": [0, 1, 2], "test_accuracy": [0.1, 0.2, 0.7]}
        curves.append(pd.DataFrame(front | curve | {"train_loss_per_sample": [1, 0.5, last]}))
        front = {"ensemble": "e", "n": 8, "start": "cold", "realisation": realisation}
        limits.append(
            pd.DataFrame(front | {"time": [1.0, 2.0]}).assign(**dict.fromkeys(CURVES, 2.0))
        )
    found = outcomes(pd.concat(limits), pd.concat(curves), pd.DataFrame()).set_index("at")
    np.testing.assert_allclose(found.loc["equal_loss", "train_loss_share"], [0.3, 0.3])
    np.testing.assert_allclose(found.loc["end", "test_error"], 0.3)


def test_axes_that_hold_a_zero_are_linear():
    table = runs().query("model == 'a'")
    table = table.assign(momentum=table["width"] - 8.0)
    trends, _ = along_axes(table, {"momentum": [0, 8, 24, 56]}, SETTINGS)
    row = trends.query("quantity == 'inefficiency'").iloc[0]
    assert row["scale"] == "linear" and np.isfinite(row["slope"]) and row["points"] == len(table)


@pytest.mark.parametrize(
    ("kind", "law"), [("factor", "as e^(s x momentum)"), ("difference", "by s x momentum")]
)
def test_laws_along_linear_axes(kind, law):
    row = {
        "quantity": "inefficiency", "against": "momentum", "kind": kind, "scale": "linear",
        "points": 9, "p_value": 0.001, "p_adjusted": 0.01, "p_smallest": 1e-4,
        "slope": 2.0, "slope_low": 1.0, "slope_high": 3.0,
    }  # fmt: skip
    told = trend_sentence(pd.Series(row), 0.95)
    assert f"grows with momentum, {law} with s = 2 " in told


def test_moments_count_the_runs_of_their_start_alone():
    table = pd.DataFrame({"at": ["end"] * 4 + ["equal_loss"] * 3})
    table = table.assign(start="cold", realisation="0")
    ends = table[:4]
    more = [table, ends.assign(realisation="ensemble"), ends.assign(start="warm")]
    for shown in (table, pd.concat(more)):
        assert "(3 of 4 runs: " in moment_in_words("equal_loss", "cold", shown)


def test_too_few_runs_tell_the_least_p_and_the_number_of_each_quantity():
    row = {"against": "model", "value": "b", "test": "runs"}
    rows = [
        row | {"quantity": "inefficiency", "p_smallest": 0.1, "points": 6},
        row | {"quantity": "test_error", "p_smallest": 0.2, "points": 5},
    ]
    first, second = too_few(pd.DataFrame(rows))
    assert first.startswith("Too few runs (6, whose least p-value is 0.1)") and "T/T_SL" in first
    assert second.startswith("Too few runs (5, whose least p-value is 0.2)")
    assert second.endswith("on the test error.")
    rows[1] |= {"p_smallest": 0.1, "points": 6}
    (both,) = too_few(pd.DataFrame(rows))
    assert both.endswith("on the inefficiency T/T_SL, the test error.")


def test_undecided_correlations_tell_the_most_points():
    row = {"level": "within", "correlation": 0.5, "p_value": 0.9, "p_adjusted": 0.9}
    row |= {"p_smallest": 0.3}
    rows = [row | {"with": "test_error", "points": 4}, row | {"with": "drift", "points": 3}]
    assert "(4 points)" in " ".join(correlation_lines(pd.DataFrame(rows), 0.95))


def test_what_no_run_has_is_not_told_as_too_few_runs():
    row = {"level": "within", "correlation": np.nan, "p_value": np.nan, "p_adjusted": np.nan}
    row |= {"p_smallest": np.nan, "correlation_low": np.nan, "correlation_high": np.nan}
    rows = [row | {"with": "test_error", "points": 0}, row | {"with": "drift", "points": 2}]
    none, few = correlation_lines(pd.DataFrame(rows), 0.95)
    assert none.startswith("Nothing to correlate with the test error among runs")
    assert few.startswith("Too few realisations (2 points)") and "test error" not in few
    between = rows[0] | {"level": "between", "points": 2, "with": "drift"}
    rows = [rows[0] | {"with": "drift"}, between]  # one run of each setting
    _, single = correlation_lines(pd.DataFrame(rows), 0.95)
    assert single.startswith("Too few realisations (0 points)") and "kernel's drift" in single


def test_nothing_is_claimed_whose_interval_holds_no_effect():
    row = {"quantity": "inefficiency", "against": "n", "p_value": 0.045, "p_adjusted": 0.045}
    row |= {"p_smallest": 0.01, "points": 6, "test": "runs", "confidence": 0.95}
    slope = {"slope": -0.42, "slope_low": -0.91, "slope_high": 0.07, "kind": "factor"}
    slope = pd.Series({**row, **slope, "scale": "log"})
    assert effects.evidence(slope, 0.05) == "none"
    assert "No trend" in effects.trend_sentence(slope, 0.95)
    assert "is claimed, for its interval has 0 (slope" in effects.trend_sentence(slope, 0.95)
    slope["slope_high"] = -0.01
    assert effects.evidence(slope, 0.05) == "effect"
    effect = {"effect": 1.4, "effect_low": 0.99, "effect_high": 2.0, "kind": "factor"}
    effect = pd.Series({**row, **effect, "reference": 8, "value": 16})
    assert "for its interval has 1 (factor" in effects.comparison_sentence(effect, 0.95)
    effect["effect_low"] = np.nan  # single runs have no interval
    assert effects.evidence(effect, 0.05) == "effect"
    found = {"correlation": 0.786, "correlation_low": -0.06, "correlation_high": 1.0}
    found = pd.Series({**row, **found, "with": "drift", "level": "within"})
    told = effects.correlation_sentence(found, 0.95)
    assert told.startswith("No rank correlation of the inefficiency and the kernel's drift")
    assert "is claimed, for its interval has 0: 0.786" in told
    found["correlation_low"] = 0.1
    told = effects.correlation_sentence(found.replace({found["p_adjusted"]: 0.12}), 0.95)
    assert "is claimed, although its interval has no 0: 0.786" in told
    assert effects.correlation_sentence(found, 0.95).startswith("Rank correlation of")


def test_p_values_below_a_thousandth_are_told_as_such():
    row = pd.Series({"p_value": 0.004, "p_adjusted": 0.0004, "points": 9}, dtype=object)
    assert effects.tested(row) == "p = 0.004, adjusted p < 0.001, 9 runs"


@pytest.mark.parametrize(
    ("p", "level", "shown", "claimed"),
    [
        (0.0496, 0.05, "0.05", True),
        (0.0504, 0.05, "0.0504", False),
        (0.05, 0.05, "0.05", True),
        (0.1, 0.1, "0.1", True),
        (0.2, 0.2, "0.2", True),
        (0.0449, 0.05, "0.045", True),
    ],
)
def test_p_values_are_shown_on_their_side_of_the_level(p, level, shown, claimed):
    row = pd.Series({"p_value": p, "p_adjusted": p, "p_smallest": 0.0, "points": 9}, dtype=object)
    row["confidence"] = 1 - level
    assert effects.tested(row) == f"p = {shown}, adjusted p = {shown}, 9 runs"
    assert effects.evidence(row, significance_level(row["confidence"])) == (
        "effect" if claimed else "none"
    )


@pytest.mark.parametrize(
    ("p_value", "adjusted", "smallest", "found"),
    [
        (0.001, 0.05, 0.05, "effect"),
        (0.001, 0.051, 0.01, "none"),
        (0.06, 0.06, 0.051, "few"),
        (np.nan, np.nan, 0.01, "few"),
    ],
)
def test_evidence_is_decided_by_the_adjusted_value_up_to_the_level(
    p_value, adjusted, smallest, found
):
    row = pd.Series({"p_value": p_value, "p_adjusted": adjusted, "p_smallest": smallest})
    assert effects.evidence(row, 0.05) == found


def test_tests_beyond_the_first_threshold_of_holm_are_counted():
    """Of four tests made, 0.05 / 4 is within reach of the second; the fourth cannot decide."""
    rows = pd.DataFrame({"p_smallest": [0.05, 0.05 / 4, 0.02, 0.06, 0.02]})
    told = effects.out_of_reach(rows.assign(p_value=[0.1, 0.1, 0.1, 0.1, np.nan]), 0.05)
    assert told.startswith("Of the 4 tests at this moment 2 have too few arrangements")
    assert "(least p-values from 0.02)" in told
    assert effects.out_of_reach(rows.assign(p_value=np.nan), 0.05) == ""


def a_test(quantity, p_smallest=1e-4, **more):
    """Return a row of the table trends, an effect unless so few runs can give none."""
    row = {"quantity": quantity, "against": "width", "at": "end", "start": "cold", "points": 9}
    row |= {
        "test": "runs",
        "slope": 2.0,
        "slope_low": 1.0,
        "slope_high": 3.0,
        "kind": "factor",
        "scale": "log",
    }
    return row | {"p_value": 0.01, "p_adjusted": 0.01, "p_smallest": p_smallest} | more


def test_in_short_claims_the_primary_effects_of_the_end_alone():
    trends = [
        a_test("inefficiency"),
        a_test("gradients"),
        a_test("drift", at="equal_loss"),
        a_test("drift", p_smallest=0.2),
        a_test("test_error", p_value=np.nan, p_smallest=np.nan),
    ]
    case = {"against": "case", "value": "mup_small", "reference": "ntk_wide", "effect": 3.0}
    tables = {
        "trends": pd.DataFrame(trends),
        "comparisons": pd.DataFrame([a_test("drift", **case)]),
    }
    (told,) = effects.effect_summary(tables, 0.95)
    assert told == (
        "Claimed at the end, from the cold start (2 of 2 tests; 1 more has too few runs): the "
        "inefficiency T/T_SL grows with width; the kernel's drift is higher for mup_small than for "
        "ntk_wide."
    )


def test_every_moment_tells_its_own_tests_those_that_runs_cannot_decide_apart():
    trends = [a_test("inefficiency"), a_test("drift", at="equal_loss", p_smallest=0.2)]
    outcomes = pd.DataFrame({"at": ["end", "equal_loss"], "start": "cold", "realisation": "0"})
    tables = {"trends": pd.DataFrame(trends), "comparisons": pd.DataFrame()}
    parts = effects.effect_parts(tables | {"outcomes": outcomes.assign(diverged=0)}, 0.95)
    end, equal = filter(None, parts)
    assert end.startswith("From the cold start, at the end of training:\n\n- The inefficiency")
    assert equal.startswith("From the cold start, at equal training loss:\n\n- Too few runs (9")
    assert end.count("\n- ") == equal.count("\n- ") == 1


def test_a_test_loss_that_goes_with_the_inefficiency_is_told_in_short():
    row = {"with": "test_loss", "level": "between", "correlation": 0.9, "points": 9}
    row |= {"correlation_low": 0.5, "correlation_high": 1.0, "p_smallest": 1e-4}
    table = pd.DataFrame([row | {"p_value": 0.01, "p_adjusted": 0.01}])
    (told,) = effects.generalisation_summary(table, 0.95)
    assert "the inefficiency and the test loss per sample between ensembles: 0.9" in told


def test_what_is_within_the_error_of_integration_or_a_bound_is_not_below_one():
    table = pd.DataFrame({"inefficiency": [(1 + BELOW_ONE) / 2, 0.5], "start": "cold", "at": "end"})
    table = table.assign(realisation="ensemble", dynamics="langevin", temperature=[0.0, 0.1])
    assert finite_step_sentence(table) == []
    below = finite_step_sentence(table.assign(temperature=0.0))
    assert len(below) == 1 and "below 1 in 1 of 2 cases" in below[0]


@pytest.mark.parametrize(
    ("changed", "count"),
    [
        ({}, 1),
        ({"diverged": 1}, 0),
        ({"dynamics": "langevin", "temperature": 0.1}, 0),
        ({"start": "warm"}, 0),
        ({"inefficiency": [1.0, 2.0, 3.0]}, 0),
    ],
)
def test_runs_are_repeated_where_several_of_the_cold_start_are_one_and_the_same(changed, count):
    table = pd.DataFrame([run(r, inefficiency=2.0, kinematic_inefficiency=3.0) for r in "012"])
    warm = table.assign(start="warm", inefficiency=[1.0, 2.0, 3.0])
    changed = pd.concat([table.assign(**changed), warm])
    assert len(repeated(changed)) == count
    assert repeated(table[:1]) == []


def test_noise_drops_no_loss_by_finite_steps():
    rows = [run("ensemble", discretisation=0.1, discretisation_low=0, discretisation_high=0.2)]
    table = pd.DataFrame(rows * 3).assign(runs=3, dynamics=["langevin", "sgd", "gradient_flow"])
    (line,) = discretisation_lines(table, {"dynamics": list(table["dynamics"])}, 0.95)
    assert line.startswith("- dynamics sgd: 1.1 ")
    without = discretisation_lines(table.assign(temperature=0.0), {"dynamics": ["sgd"]}, 0.95)
    assert [line.split(":")[0] for line in without] == ["- dynamics langevin", "- dynamics sgd"]


def test_regimes_are_of_the_start_whichever_row_stands_first():
    table = pd.DataFrame([{"ensemble": "e", "width": 8, **EXPONENTS}] * 2)
    table = table.assign(moment=["warm", "start"], alpha=[9.0, EXPONENTS["alpha"]])
    (line,) = regime_lines(table, {"width": [8]})
    assert line == regime_lines(table[1:], {"width": [8]})[0] and "alpha 9" not in line


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([3.0001, 3.0, 3.0], "at 3 in every one of them"),
        ([1.0, 2.0, 3.0], "between 1 (n 8) and 3 (n 32)"),
        ([1.0, 3.0, 2.0], "between 1 (n 8) and 2 (n 32)"),
        ([1.0, 0.3, np.nan], "at 1 (n 8, the only one there that has it)"),
    ],
)
def test_ranges_say_which_of_their_ends_are_bounds(values, told):
    """Of three ensembles the second is at a temperature."""
    table = pd.DataFrame({"ensemble": list("abc"), "n": [8, 16, 32], "inefficiency": values})
    table = table.assign(realisation="ensemble", at="end", start="cold")
    table = table.assign(dynamics=["sgd", "langevin", "sgd"], temperature=[np.nan, 0.1, np.nan])
    (sentence,) = range_sentences(table, {"n": [8, 16, 32]})
    bound = f"at temperatures above 0 it is at least {values[1]:g} (n 16)."
    known = f"From the cold start T/T_SL ends without a temperature above 0 {told}"
    assert sentence == f"{known}; {bound}"


def test_noise_has_no_energy_that_bounds_it():
    table = pd.DataFrame({"dynamics": ["heavy_ball", "langevin", "sgd"], "runs": [1, 3, 3]})
    names = ("energetic_inefficiency", "energetic_inefficiency_low", "energetic_inefficiency_high")
    table = table.assign(
        at="end", start="cold", realisation="ensemble", **dict.fromkeys(names, 2.0)
    )
    (line,) = energetic_lines(table, {"dynamics": list(table["dynamics"])}, 0.95)
    assert line.startswith("- dynamics heavy ball, cold start: 2") and line.endswith("; 1 run.")
    table = table.assign(temperature=0.0)  # where Langevin dynamics is gradient descent
    lines = energetic_lines(table, {"dynamics": list(table["dynamics"])}, 0.95)
    assert len(lines) == 2 and lines[1].startswith("- dynamics langevin, cold start: 2")


@pytest.mark.parametrize(
    ("kind", "effect", "word"),
    [("factor", 0.5, "lower"), ("factor", 2.0, "higher"), ("difference", -0.1, "lower")],
)
def test_changes_are_told_from_no_effect(kind, effect, word):
    assert effects.change(pd.Series({"kind": kind, "effect": effect})) == word


def test_the_level_of_equal_loss_is_that_of_its_moment():
    table = pd.DataFrame({"at": ["end", "equal_loss"], "train_loss_share": [0.01, 0.3]})
    table = table.assign(start="cold", realisation="0")
    told = moment_in_words("equal_loss", "cold", table)
    assert told == "at equal training loss, 0.3 of that of the start"


def test_cases_are_named_by_their_label_alone():
    row = {"against": "case", "value": "mup_small", "quantity": "drift", "points": 4}
    (told,) = too_few(pd.DataFrame([row | {"p_smallest": 0.1, "test": "runs"}]))
    assert " to say anything of mup_small on the kernel's drift." in told


def test_verdicts_on_predictions_are_counted():
    undecided = Prediction("cold", "no evidence of a difference", "- b")
    (told,) = prediction_summary([Prediction("cold", LOWER_BOUND, "- a"), undecided])
    counts = "0 of 2 ensembles are slower, 0 faster, 1 below it, as lower bounds may be, 1 not told"
    assert told.endswith(f"{counts} apart.")
    (told,) = prediction_summary([Prediction("cold", FASTER, "- a"), undecided])
    assert told.endswith("0 of 2 ensembles are slower, 1 faster, 1 not told apart.")


@pytest.mark.parametrize(
    ("dynamics", "inefficiency", "verdict"),
    [
        (
            "heavy_ball",
            0.4,
            "below the prediction, where T/T_SL is below 1 and T_SL bounds nothing",
        ),
        ("heavy_ball", 1.4, "faster than predicted"),
        ("gradient_flow", 0.4, "faster than predicted"),
    ],
)
def test_steps_without_a_bound_are_not_called_faster(dynamics, inefficiency, verdict):
    rows = [
        {"ensemble": "a", "realisation": str(r), "start": "cold", "at": "end", "model": "a"}
        | {"prediction_ratio": ratio, "start_seed": str(r), "dynamics": dynamics}
        for r, ratio in enumerate([0.101, 0.1, 0.102])
    ]
    table = pd.DataFrame(rows).assign(inefficiency=inefficiency)
    (prediction,) = predictions(table, {"model": ["a"]}, 0.95)
    assert f", {verdict} (" in prediction.line
    (told,) = prediction_summary([prediction])
    unbounded = ", 1 below it where T_SL bounds nothing, 0 not told apart."
    assert told.endswith(unbounded) == ("bounds" in verdict)
    assert ("1 faster" in told) == ("faster" in verdict)


def test_networks_without_a_kernel_at_the_end_have_died():
    """Of ReLUs that are all off: counted by runs, once however many starts are measured from."""
    drift, alignment = [1.0, 1.0, 0.7, 1.0], [math.nan, math.nan, 0.2, 0.3]
    table = pd.DataFrame({"ensemble": [*"aabb"], "model": [*"aabb"], "realisation": [*"0101"]})
    table = table.assign(start="cold", at="end", diverged=0.0, drift=drift, alignment=alignment)
    table = pd.concat([table, table.assign(start="warm"), table.assign(realisation="ensemble")])
    axes = {"model": ["a", "b"]}
    (told,) = dead_network_sentence(table, axes)
    assert told.startswith("Networks have died (model a, 2 of 2 runs): their NTK")
    assert dead_network_sentence(table[table["model"] == "b"], axes) == []
    assert dead_network_sentence(table.assign(diverged=1.0), axes) == []
    assert dead_network_sentence(table.drop(columns="drift"), axes) == []


def test_a_prediction_outside_the_interval_may_still_not_be_claimed():
    """Where Holm's correction leaves it undecided; it counts as not told apart."""
    ratios = ([1.1, 1.2, 1.15], [1.3, 0.8, 1.0], [0.9, 1.1, 1.05])
    rows = [
        {"ensemble": path, "realisation": str(r), "start": "cold", "at": "end", "model": path}
        | {"prediction_ratio": ratio, "inefficiency": 2.0, "start_seed": f"{path}{r}"}
        for path, values in zip("abc", ratios, strict=True)
        for r, ratio in enumerate(values)
    ]
    told_of = predictions(pd.DataFrame(rows), {"model": ["a", "b", "c"]}, 0.95)
    lines = [prediction.line for prediction in told_of]
    assert "no difference is claimed, although its interval has no 1 (p = 0.031," in lines[0]
    assert all("no evidence of a difference" in line for line in lines[1:])
    assert prediction_summary(told_of)[0].endswith("0 faster, 3 not told apart.")


@pytest.mark.parametrize(
    ("smallest", "said"),
    [
        ([0.1, 0.1], "Nothing can be claimed at the end, from the cold start: too few runs for any "
                     "of 2 tests."),
        ([0.1, 0.001], "(0 of 1 tests; 1 more has too few runs): none."),
        ([0.001, 0.001], "(0 of 2 tests): none."),
        ([0.1], "too few runs for any of 1 test."),
    ],
)  # fmt: skip
def test_tests_that_cannot_claim_anything_are_not_counted_as_made(smallest, said):
    row = {"at": "end", "start": "cold", "against": "n", "quantity": "inefficiency"}
    row |= {"p_value": 0.3, "p_adjusted": 0.3, "slope": 1.0}
    trends = pd.DataFrame([row | {"p_smallest": p} for p in smallest])
    tables = {"trends": trends, "comparisons": pd.DataFrame(columns=COMPARISON_COLUMNS)}
    (told,) = effects.effect_summary(tables, 0.95)
    assert told.endswith(said)


def test_tables_without_tests_have_the_columns_of_those_with_some():
    options = {"seed": 1, "confidence": 0.95, "resamples": 10}
    some = along_axes(runs(), {"width": [8, 16, 32, 64], "model": ["a", "b"]}, options)
    none = along_axes(runs(), {}, options)
    for table, empty in zip(some, none, strict=True):
        assert len(table) > 0 and len(empty) == 0 and list(empty) == list(table)


def test_an_alpha_that_may_be_negative_has_no_regime():
    row = {"ensemble": "e", "moment": "start", "width": 8} | EXPONENTS | {"alpha_low": -0.1}
    (line,) = regime_lines(pd.DataFrame([row]), {"width": [8]})
    assert line.endswith("no exponents with intervals could be fitted.")


def test_the_largest_gap_of_couplings_is_told():
    (told,) = transport_sentence(transport(gap=(0.1, 0.25), other=(0.9, 0.8)))
    assert "by up to 25 %" in told


def test_transients_lie_between_the_least_and_the_largest():
    row = {"realisation": "ensemble", "start": "warm", "transient_time_share": 0.1}
    factors = ((8, 4.0), (16, 2.0), (32, 3.0))
    table = pd.DataFrame([row | {"n": n, "transient_factor": factor} for n, factor in factors])
    (told,) = transient_summary(table, {"n": [8, 16, 32]})
    assert told.endswith("is between 2 (n 16) and 4 (n 8).")
    (told,) = transient_summary(table.assign(transient_factor=[3.061, 3.058, 3.06]), {"n": [8]})
    assert told.endswith("is 3.06 in each of 3 ensembles.")


def test_the_flow_with_the_worst_path_length_is_named():
    table = pd.DataFrame({"n": [8, 16, 32], "discretisation": [0.2, -0.3, 0.01]})
    table = table.assign(realisation="0", at="end", start="cold", dynamics="gradient_flow")
    (told,) = integration_sentence(table, {"n": [8, 16, 32]})
    assert "at most 30 % (n 16, cold start)" in told
    before = table.assign(at="equal_loss", discretisation=0.9)
    assert integration_sentence(pd.concat([before, table]), {"n": [8, 16, 32]}) == [told]
    assert "left out" not in told
    table["path_excess"] = [1.2, np.nan, 1.1]  # that of n = 16 is told nowhere
    (told,) = integration_sentence(table, {"n": [8, 16, 32]})
    assert "at most 20 % (n 8, cold start)" in told
    assert (
        "They are left out in 1 case (runs and starts), where they are off by up to 30 %." in told
    )
    (told,) = integration_sentence(table.assign(path_excess=np.nan), {"n": [8, 16, 32]})
    assert told.endswith(
        "are left out in 2 cases (runs and starts), where they are off by up to 30 %."
    )


def test_labels_that_read_as_verdicts_count_as_none():
    label = "warm start: slower than predicted"
    ratios = {"0": 0.9, "1": 1.2, "2": 1.1}
    row = {"ensemble": "a", "start": "cold", "at": "end", "inefficiency": 2.0, "case": label}
    rows = [
        row | {"realisation": r, "start_seed": r, "prediction_ratio": ratio}
        for r, ratio in ratios.items()
    ]
    told_of = predictions(pd.DataFrame(rows), {"case": [label]}, 0.95)
    assert label in told_of[0].line
    (told,) = prediction_summary(told_of)
    assert "0 of 1 ensembles are slower, 0 faster, 1 not told apart" in told and "cold" in told


@pytest.mark.parametrize(
    ("dynamics", "start", "said"),
    [
        (
            ["sgd", "gradient_flow"],
            "cold",
            "by up to 50 % (1 % where T_SL is a bound): T_SL is over",
        ),
        (["gradient_flow", "sgd"], "cold", "by up to 50 %: T_SL is overstated by as much"),
        (["sgd", "adam"], "cold", "by up to 50 %."),
        (["heavy_ball", "heavy_ball"], "warm", "by up to 50 %."),
        (["heavy_ball"], "cold", "in one case (ensembles and starts; 3 runs each) another"),
    ],
)
def test_the_gap_of_the_optimal_coupling_is_that_of_the_runs_it_bounds(dynamics, start, said):
    table = pd.DataFrame({"dynamics": dynamics, "start": start, "realisations": 3})
    ratios = [1.5, 1.01][: len(dynamics)]
    table = table.assign(identity_over_assignment=ratios, other_over_identity=0.9)
    (told,) = transport_sentence(table.assign(identity_is_optimal=False))
    assert said in told


@pytest.mark.parametrize(
    ("share", "digits", "said"),
    [(0.997, 3, "99.7 %"), (0.9997, 3, "100 %"), (0.997, 2, "100 %"), (1.43, 2, "143 %"),
     (12.0, 2, "1200 %")],
)  # fmt: skip
def test_a_share_keeps_the_digits_asked_for(share, digits, said):
    assert percent(share, digits) == said


@pytest.mark.parametrize(
    ("p", "level", "said"),
    [
        (0.0500001, 0.05, "p = 0.0500001"),
        (0.0, 0.001, "p < 0.001"),
        (0.0, 1e-4, "p < 0.0001"),
        (0.05, 0.05, "p = 0.05"),
    ],
)
def test_a_p_value_tells_on_which_side_of_the_level_it_lies(p, level, said):
    assert shown_p_value(p, level) == said


def test_a_test_against_the_prediction_alone_has_its_level_told():
    tables = {name: pd.DataFrame() for name in ("trends", "comparisons", "correlations")}
    told = _how_it_was_tested(tables, 0.9, True)
    assert "no test along an axis" in told and "Student's test at the level 0.1 after Holm" in told
    assert "These runs leave no test, which" in _how_it_was_tested(tables, 0.9, False)


@pytest.mark.parametrize("at", ["equal_loss", "equal_gradients"])
def test_ensembles_that_are_not_compared_at_equal_loss_are_told(at):
    """A loss that rises in its first step has no T/T_SL from which to interpolate."""
    table = pd.DataFrame(
        {"realisation": ["0", "1"] * 2, "start": "cold", "at": ["end", "end", at, at],
         "ensemble": "a", "inefficiency": [2.0, 2.0, np.nan, 2.0], "diverged": 0,
         "train_loss_share": 0.1, "gradients": 391.0, "dynamics": "gradient_descent"}
    )  # fmt: skip
    told = moment_in_words(at, "cold", table)
    assert "(T/T_SL of 1 of 2 runs is not known there or just before: it is not" in told
    level = {"equal_loss": ", 0.1 of that of the start (T", "equal_gradients": ", 391 each (T"}
    assert level[at] in told
    assert "not known" not in moment_in_words(at, "cold", table.assign(inefficiency=2.0))
