"""Bootstrap of ratios of averages, and the trend test, against independent references."""

import itertools

import numpy as np
import pytest
import scipy.stats

from speedlimits import statistics


def interval(samples, statistic, confidence=0.95, resamples=2000, seed=1):
    return statistics.bootstrap_interval(
        samples,
        statistic,
        confidence=confidence,
        resamples=resamples,
        generator=np.random.default_rng(seed),
    )


def test_bootstrap_in_parts_is_the_bootstrap(monkeypatch):
    """As where the means over all resamples at once would fill the memory."""
    sample = np.random.default_rng(1).normal(5, 1, size=(4, 30))

    def ends():
        return statistics.bootstrap_interval(
            {"x": sample, "y": sample[::-1] ** 2}, lambda x, y: x / y, confidence=0.9,
            resamples=100, generator=np.random.default_rng(2),
        )  # fmt: skip

    whole = ends()
    monkeypatch.setattr(statistics, "MEANS_BYTES", 7 * 480)
    np.testing.assert_allclose(ends(), whole, rtol=1e-12)


@pytest.mark.parametrize("count", [2, 3, 40])
def test_interval_of_a_mean_is_students(count):
    values = np.random.default_rng(0).normal(size=(count, 5))
    values[0] -= 3 * np.sign(values[1:].mean(axis=0)) * np.abs(values).sum()  # both signs
    low, high = interval({"x": values}, lambda x: x, 0.9, resamples=100_000)
    expected = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.9)
    np.testing.assert_allclose(high - low, expected.high - expected.low, rtol=0.01)
    np.testing.assert_allclose(0.5 * (high + low), values.mean(axis=0))


def test_interval_of_a_ratio_of_averages_is_that_of_its_linearised_logarithm():
    generator = np.random.default_rng(0)
    a, b = 5 + 0.1 * generator.normal(size=(2, 4, 6))
    low, high = interval({"a": a, "b": b}, lambda a, b: a / b, resamples=100_000)
    part = a / a.mean(axis=0) - b / b.mean(axis=0)
    half = scipy.stats.t.ppf(0.975, 3) * part.std(axis=0, ddof=1) / 2
    np.testing.assert_allclose(np.log(high / low) / 2, half, rtol=0.01)
    np.testing.assert_allclose(np.sqrt(low * high), a.mean(axis=0) / b.mean(axis=0))


@pytest.mark.parametrize("count", [2, 3, 6])
def test_interval_of_a_ratio_holds_it_as_often_as_it_says(count):
    """Percentiles of the resamples would in 50, 75 and 86 % of cases."""
    spread, generator = 0.3, np.random.default_rng(0)
    a, b = np.exp(spread * generator.normal(size=(2, count, 4000)))
    low, high = interval({"a": a, "b": b}, lambda a, b: a / b)
    assert 0.93 < np.mean((low <= 1) & (high >= 1)) < 0.975


def test_interval_of_what_cannot_be_negative_ends_at_zero():
    low, high = interval({"error": np.array([[0.0], [0.0], [0.02]])}, lambda error: error)
    assert low[0] == 0 and high[0] > 0.02


@pytest.mark.parametrize("count", [2, 3, 8])
def test_interval_of_what_has_either_sign_leaves_zero_out_as_seldom_as_it_says(count):
    """Of few runs all are often of one sign; that of a logarithm could never hold 0 then."""
    values = np.random.default_rng(0).normal(size=(count, 4000))
    draws = values[statistics.resampled_rows(count, 2000, np.random.default_rng(1))].mean(axis=1)
    given = {"confidence": 0.95, "runs": count}
    low, high = statistics.interval_of_draws(values.mean(axis=0), draws, **given, either_sign=True)
    assert 0.93 < np.mean((low <= 0) & (high >= 0)) < 0.97
    low, high = statistics.interval_of_draws(values.mean(axis=0), draws, **given)
    assert np.mean((low > 0) & (values > 0).all(axis=0)) == np.mean((values > 0).all(axis=0))


def test_ratio_of_averages_is_resampled_jointly():
    # numerator = 3 x denominator in every realisation: the ratio has no uncertainty at all
    denominator = np.random.default_rng(0).uniform(1, 5, size=(5, 7))
    samples = {"a": 3 * denominator, "b": denominator}
    low, high = interval(samples, lambda a, b: a / b, resamples=200, seed=2)
    np.testing.assert_allclose(low, 3)
    np.testing.assert_allclose(high, 3)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_interval_of_a_standard_deviation_holds_it_as_often_as_it_says(count):
    samples = 3.0 * np.random.default_rng(0).standard_normal((4000, count))
    low, high = statistics.standard_deviation_interval(
        samples.std(axis=1, ddof=1), confidence=0.9, runs=count
    )
    held = np.mean((low <= 3.0) & (high >= 3.0))
    assert held == pytest.approx(0.9, abs=4 * np.sqrt(0.09 / 4000))
    assert np.mean(low > 3.0) == pytest.approx(0.05, abs=4 * np.sqrt(0.0475 / 4000))
    assert np.isnan(
        statistics.standard_deviation_interval([1.0, 2.0], confidence=0.9, runs=1)
    ).all()


def test_one_realisation_has_no_interval():
    low, high = interval({"a": np.ones((1, 4))}, lambda a: a, resamples=100, seed=0)
    assert low.shape == (4,) and np.all(np.isnan(low)) and np.all(np.isnan(high))


def test_resamples_without_a_value_leave_no_interval():
    """T/T_SL has none where the loss of a resample's mean has not dropped."""
    low, high = interval(
        {"drop": np.array([[3.0, 3.0], [-2.0, 2.0], [1.0, 1.0]])},
        lambda drop: np.where(drop > 0, drop, np.nan),
        resamples=1000,
        seed=0,
    )
    assert np.isnan([low[0], high[0]]).all()
    assert 0 < low[1] < 2 < high[1]


def test_samples_must_agree():
    with pytest.raises(ValueError, match="realisations"):
        interval({"a": np.ones((2, 1)), "b": np.ones((3, 1))}, lambda a, b: a, resamples=100)


def test_slope_is_the_exponent_of_a_power_law():
    n = np.array([1.0, 2, 4, 8, 16])
    assert run_trend(n, 5 * n**-0.7)["slope"] == pytest.approx(-0.7)


def log_log_slope(x, y):
    return np.polyfit(np.log(x), np.log(y), 1)[0]


def run_trend(x, y, seed=0, resamples=2000, **more):
    generator = np.random.default_rng(seed)
    return statistics.trend(x, y, confidence=0.95, resamples=resamples, generator=generator, **more)


@pytest.mark.parametrize("count", [2, 5])
def test_interval_of_a_difference_of_groups_is_students(count):
    generator = np.random.default_rng(0)
    first, second = np.exp(generator.normal(size=(2, count)))
    x = np.repeat([0.0, 1.0], count)
    found = statistics.trend(
        x,
        np.concatenate([first, second]),
        confidence=0.95,
        resamples=50_000,
        generator=generator,
        log_x=False,
    )
    # of two runs each is taken to scatter like the other; of five by its own scatter (Welch)
    test = scipy.stats.ttest_ind(np.log(second), np.log(first), equal_var=count == 2)
    test = test.confidence_interval(0.95)
    half = 0.5 * (test.high - test.low)
    assert found["slope"] == pytest.approx(0.5 * (test.high + test.low))
    assert found["slope_high"] - found["slope"] == pytest.approx(half, rel=0.02)
    assert found["slope"] - found["slope_low"] == pytest.approx(half, rel=0.02)


@pytest.mark.parametrize(("first", "second"), [(3, 3), (8, 3), (4, 9)])
def test_two_groups_of_three_and_more_have_welchs_interval_and_at_least_its_p_value(first, second):
    generator = np.random.default_rng(first)
    a, b = generator.normal(size=first), 2.0 + 5.0 * generator.normal(size=second)
    x, y = np.repeat([0.0, 1.0], [first, second]), np.concatenate([a, b])
    found = run_trend(x, y, log_x=False, log_y=False)
    test = scipy.stats.ttest_ind(b, a, equal_var=False)
    ends = [found["slope_low"], found["slope_high"]]
    assert ends == pytest.approx(list(test.confidence_interval(0.95)), rel=1e-9)
    exact = scipy.stats.permutation_test(
        (a, b), lambda a, b, axis: np.abs(a.mean(axis) - b.mean(axis)), n_resamples=np.inf,
        alternative="greater", vectorized=True,
    )  # fmt: skip
    assert found["p_value"] == pytest.approx(max(test.pvalue, exact.pvalue), rel=1e-9)


@pytest.mark.parametrize(
    ("runs", "scatter"),
    [
        ((3, 3, 3), (1.0, 0.1, 0.1)),
        ((3, 3, 3), (1.0, 1.0, 1.0)),
        ((6, 6, 6, 6), (1.0, 0.5, 0.25, 0.125)),
        ((8, 8), (1.0, 10.0)),
        ((8, 3), (1.0, 5.0)),
        ((2, 3, 3), (1.0, 0.1, 0.1)),  # one run lost
    ],
)
def test_scatter_that_differs_between_values_is_no_evidence(monkeypatch, runs, scatter):
    """As often as the level says, at most; permutations alone find a trend in up to 35 %."""
    for limit in ("EXACT_PERMUTATION_LIMIT", "RANDOM_PERMUTATIONS"):
        monkeypatch.setattr(statistics, limit, 1000)
    x, spread = np.repeat(np.arange(len(runs)), runs), np.repeat(scatter, runs)
    generator = np.random.default_rng(7)
    held = claimed = 0
    for seed in range(1000):
        y = spread * generator.standard_normal(len(x))
        found = run_trend(x, y, seed, 50, log_x=False, log_y=False)
        held += found["slope_low"] <= 0 <= found["slope_high"]
        claimed += found["p_value"] <= 0.05
    most, least = (80, 920) if min(runs) > 2 else (95, 900)
    assert claimed <= most and held >= least


def test_a_cell_of_two_runs_beside_others_of_three_takes_the_wider_interval(monkeypatch):
    generator = np.random.default_rng(10)
    x, wider = np.repeat([0.0, 1, 2], [2, 3, 3]), set()
    for seed in range(20):
        scatter = [1.0, 9.0, 1.0] if seed % 2 else [1.0, 1.0, 3.0]  # the middle counts for little
        y = generator.standard_normal(8) * np.repeat(scatter, [2, 3, 3])
        found = run_trend(x, y, seed, log_x=False, log_y=False)
        with monkeypatch.context() as patch:
            patch.setattr(statistics, "FEWEST_IN_CELL", 100)
            alike = run_trend(x, y, seed, log_x=False, log_y=False)
        with monkeypatch.context() as patch:
            patch.setattr(statistics, "FEWEST_IN_CELL", 2)
            own = run_trend(x, y, seed, log_x=False, log_y=False)
        ends = [
            min(alike["slope_low"], own["slope_low"]),
            max(alike["slope_high"], own["slope_high"]),
        ]
        assert [found["slope_low"], found["slope_high"]] == ends
        assert found["p_value"] == own["p_value"] >= alike["p_value"]
        wider.add(own["slope_low"] < alike["slope_low"])
    assert wider == {True, False}


def test_values_without_scatter_at_each_place_leave_no_interval():
    x = np.repeat([0.0, 1, 2], 3)
    found = run_trend(x, np.repeat([0.9, 0.88, 0.86], 3), log_x=False, log_y=False)
    assert found["slope"] == pytest.approx(-0.02) and found["p_value"] < 0.01
    assert np.isnan([found["slope_low"], found["slope_high"]]).all()
    flat = run_trend(x, np.repeat([0.9, 0.9, 0.9], 3), log_x=False, log_y=False)
    assert (flat["slope"], flat["slope_low"], flat["slope_high"], flat["p_value"]) == (0, 0, 0, 1)


def test_an_interval_that_holds_no_slope_and_the_test_agree_where_cells_have_three_runs():
    generator = np.random.default_rng(8)
    for seed in range(200):
        x, y = np.repeat([0.0, 1, 2], 3), generator.standard_normal(9) * np.repeat([3.0, 1, 1], 3)
        found = run_trend(x, y, seed, 50, log_x=False, log_y=False)
        assert found["p_value"] > 0.05 or not found["slope_low"] <= 0 <= found["slope_high"]


def test_strata_of_the_same_starts_say_no_more_than_one_of_them():
    """Equal scatter around another intercept, and a steeper slope of each: their mean is tested."""
    generator = np.random.default_rng(1)
    x, starts = np.repeat([1.0, 2, 4], 4), np.tile(list("abcd"), 3)
    y = x**0.2 * np.exp(0.1 * generator.normal(size=12))
    options = {"confidence": 0.95, "resamples": 999}
    alone = statistics.trend(x, y * x**0.15, generator=np.random.default_rng(0), **options)
    both = statistics.trend(
        np.tile(x, 2),
        np.concatenate([y, 5 * y * x**0.3]),
        strata=np.repeat(["first", "second"], 12),
        units=np.tile(starts, 2),
        generator=np.random.default_rng(0),
        **options,
    )
    assert both.pop("points") == 2 * alone.pop("points")
    assert both == pytest.approx(alone)


def test_strata_of_any_x_share_the_slope_of_least_squares():
    """With an intercept of each; those whose x does not vary, and x or y without a value, add
    nothing."""
    x = np.array([1.0, 2, 4, 2, 8, 16, 32, 4, 4, np.nan, 2])
    y = np.random.default_rng(4).lognormal(size=11)
    strata, y[10] = np.array(list("aaabbbbccbb")), np.nan
    indicators = (strata[:7, None] == np.array(["a", "b"])).astype(float)
    design = np.column_stack([np.log(x[:7]), indicators])
    expected = np.linalg.lstsq(design, np.log(y[:7]), rcond=None)[0][0]
    found, alone = (run_trend(x[:k], y[:k], strata=strata[:k], resamples=99) for k in (11, 7))
    assert found["slope"] == pytest.approx(expected)
    assert found == pytest.approx(alone, nan_ok=True) and found["points"] == 7


def test_strata_that_share_units_at_one_x_alone_add_nothing():
    x, strata = np.array([1.0, 1, 2, 2, 4, 4, 1, 2, 1, 2]), np.array(list("aaaaaabbcc"))
    units, y = np.array(list("stuvwxpqpr")), np.random.default_rng(4).lognormal(size=10)
    found, alone = (
        run_trend(x[:k], y[:k], strata=strata[:k], units=units[:k], resamples=99) for k in (10, 6)
    )
    assert found == pytest.approx(alone)


def test_strata_of_other_starts_are_independent():
    generator = np.random.default_rng(1)
    x, y = np.repeat([1.0, 2, 4], 6), generator.lognormal(size=18)
    options = {"confidence": 0.95, "resamples": 999, "strata": np.tile(["a", "b"], 9)}
    found = [
        statistics.trend(x, y, units=units, generator=np.random.default_rng(0), **options)
        for units in (None, np.tile(np.arange(6), 3))
    ]
    assert found[0] == pytest.approx(found[1])


def test_mean_slope_is_students_test_of_one_slope_a_run():
    generator = np.random.default_rng(3)
    x = np.tile([0.1, 0.2, 0.4], 5)
    runs = np.repeat(np.arange(5), 3)
    y = np.exp(np.repeat(generator.normal(size=5), 3) + 0.1 * generator.normal(size=15)) * x**-0.3
    slopes = [log_log_slope(x[runs == r], y[runs == r]) for r in range(5)]
    test = scipy.stats.ttest_1samp(slopes, 0)
    ends = test.confidence_interval(0.9)
    found = statistics.mean_slope(x, y, runs=runs, units=runs, confidence=0.9)
    assert found["slope"] == pytest.approx(np.mean(slopes))
    assert [found["slope_low"], found["slope_high"]] == pytest.approx(list(ends))
    assert found["p_value"] == pytest.approx(test.pvalue) and found["points"] == 5
    twice = statistics.mean_slope(
        np.tile(x, 2), np.tile(y, 2), runs=np.append(runs, runs + 5), units=np.tile(runs, 2),
        confidence=0.9,
    )  # fmt: skip
    assert twice == pytest.approx(found)
    one = statistics.mean_slope(x[:3], y[:3], runs=runs[:3], units=runs[:3], confidence=0.9)
    assert np.isnan(one["p_value"]) and one["p_smallest"] == 1 and np.isfinite(one["slope"])
    none = statistics.mean_slope(x[:3], y[:3], runs=x[:3], units=x[:3], confidence=0.9)
    assert none["points"] == 3 and np.isnan(none["slope"])  # values there are, but no run has two


def test_mean_slope_of_two_values_is_students_test_of_pairs():
    generator = np.random.default_rng(6)
    first = generator.normal(size=6)
    second = first + 0.3 + 0.2 * generator.normal(size=6)
    test = scipy.stats.ttest_rel(second, first)
    x, units = np.repeat([0.0, 1], 6), np.tile(np.arange(6), 2)
    found = statistics.mean_slope(
        x, np.append(first, second), runs=units, units=units, confidence=0.95, log_x=False,
        log_y=False,
    )  # fmt: skip
    assert found["p_value"] == pytest.approx(test.pvalue)
    low, high = test.confidence_interval(0.95)
    assert [found["slope_low"], found["slope_high"]] == pytest.approx([low, high])


def test_mean_slope_leaves_out_what_has_no_logarithm_unless_it_takes_none():
    x, runs = np.tile([0.1, 0.2, 0.4], 4), np.repeat(np.arange(4), 3)
    y = np.random.default_rng(3).normal(size=12)
    y[:9] = np.abs(y[:9])
    x[9:] = 0.1, 0.1, 0.4  # the last run has no slope in the logarithm: its y are below 0 at 0.4
    y[9:] = 1.0, 2.0, -1.0
    for log_y, count in ((True, 3), (False, 4)):
        slopes = [
            np.polyfit(np.log(x[runs == r]), np.log(y[runs == r]) if log_y else y[runs == r], 1)[0]
            for r in range(count)
        ]
        found = statistics.mean_slope(x, y, runs=runs, units=runs, confidence=0.9, log_y=log_y)
        assert found["slope"] == pytest.approx(np.mean(slopes)) and found["points"] == count
        assert found["p_value"] == pytest.approx(scipy.stats.ttest_1samp(slopes, 0).pvalue)


@pytest.mark.parametrize("least", (0.0, -1.0))
def test_an_x_without_logarithm_is_refused_where_its_logarithm_is_taken(least):
    x, y, runs = np.tile([least, 1.0, 2.0], 2), np.arange(1.0, 7.0), np.repeat([0, 1], 3)
    of_trend = {"confidence": 0.9, "resamples": 10, "generator": np.random.default_rng(0)}
    of_mean = {"confidence": 0.9, "runs": runs, "units": runs}
    for function, options in ((statistics.trend, of_trend), (statistics.mean_slope, of_mean)):
        with pytest.raises(ValueError, match=f"x holds {least:g}, .* log_x=False"):
            function(x, y, **options)
        expected = np.polyfit(x[:3], y[:3], 1)[0]
        assert function(x, y, log_x=False, log_y=False, **options)["slope"] == pytest.approx(
            expected
        )


def test_equal_values_at_all_thresholds_are_no_evidence_of_a_slope():
    """Thresholds between which no time is recorded have the same warm start."""
    runs = np.repeat(np.arange(4), 3)
    y = np.repeat([0.1, 0.3, 0.7, 0.9], 3)
    y[[1, 4, 7, 10]] *= 1 + 1e-12  # computed another way
    x = np.tile([0.1, 0.2, 0.4], 4)
    found = statistics.mean_slope(x, y, runs=runs, units=runs, confidence=0.95)
    assert found["slope"] == found["slope_low"] == found["slope_high"] == 0
    assert found["p_value"] == 1


@pytest.fixture
def alike(monkeypatch):
    """Permutations alone, of runs that scatter alike."""
    monkeypatch.setattr(statistics, "FEWEST_IN_CELL", 100)


@pytest.mark.usefixtures("alike")
def test_three_values_of_four_runs_have_an_exact_p_value():
    """34 650 arrangements: random ones would decide near the level by the seed."""
    x, y = (
        np.repeat([0.0, 1, 2], 4),
        np.random.default_rng(2).normal(size=12) + np.repeat([0.0, 0.6, 1.5], 4),
    )
    reached, count, slope = 0, 0, abs(y @ (x - 1))
    for first in itertools.combinations(range(12), 4):
        rest = [k for k in range(12) if k not in first]
        for last in itertools.combinations(rest, 4):
            reached += abs(y[list(last)].sum() - y[list(first)].sum()) >= slope * (1 - 1e-12)
            count += 1
    assert count == 34650
    given = {"resamples": 199, "log_x": False, "log_y": False}
    found = [run_trend(x, y, seed=seed, **given)["p_value"] for seed in range(3)]
    assert found == pytest.approx([reached / count] * 3) and reached < count / 20


def test_exact_permutation_test_agrees_with_enumeration():
    x = np.array([1.0, 2, 3, 5, 8])
    y = np.array([2.0, 1.5, 3.0, 2.8, 4.0])
    slope = log_log_slope(x, y)
    all_slopes = [log_log_slope(x, y[list(p)]) for p in itertools.permutations(range(5))]
    expected = np.mean(np.abs(all_slopes) >= abs(slope) - 1e-12)
    assert run_trend(x, y)["p_value"] == pytest.approx(expected)


@pytest.mark.usefixtures("alike")
@pytest.mark.parametrize(("first", "second"), [(8, 8), (3, 9), (2, 5)])
def test_two_groups_have_the_exact_p_value_of_scipy(first, second):
    """All ways to choose the runs of a group: 12 870 of 8 against 8, of whose 16! orders most
    only change places inside the groups."""
    x, generator = np.repeat([0.0, 1], [first, second]), np.random.default_rng(first)
    y = generator.normal(size=first + second) + x
    expected = scipy.stats.permutation_test(
        (y[x == 0], y[x == 1]),
        lambda a, b, axis: np.abs(a.mean(axis) - b.mean(axis)),
        n_resamples=np.inf,
        alternative="greater",
        vectorized=True,
    )
    order = generator.permutation(len(x))  # runs of a group need not stand together
    found = run_trend(x[order], y[order], resamples=100, log_x=False, log_y=False)
    assert found["p_value"] == pytest.approx(expected.pvalue, rel=1e-12)
    assert 0.5 > found["p_value"] >= found["p_smallest"]


def test_exact_p_value_inside_strata_counts_orders_that_differ_in_nothing_once():
    x = np.array([2.0, 1, 4, 1, 1, 2, 2])
    y = np.array([1.5, 1.0, 3.0, 1.1, 7.0, 6.0, 6.5])
    strata, names = [[0, 1, 2, 3], [4, 5, 6]], np.repeat(["a", "b"], [4, 3])
    centred = np.concatenate([np.log(x[group]) - np.log(x[group]).mean() for group in strata])
    slopes = np.abs([
        centred @ np.log(y[[*first, *second]])
        for first in itertools.permutations(strata[0])
        for second in itertools.permutations(strata[1])
    ])  # fmt: skip
    expected = np.mean(slopes >= slopes[0] * (1 - 1e-12))
    assert run_trend(x, y, strata=names, resamples=10)["p_value"] == pytest.approx(expected)


@pytest.mark.parametrize(
    "x",
    [
        pytest.param([500.0, 1000, 2000, 5000], id="uneven"),
        pytest.param([32.0, 64, 128, 256], id="even"),
        pytest.param([8.0, 8, 16, 32, 32], id="even, repeated"),
        pytest.param([8.0, 8, 16, 32], id="uneven in numbers"),
    ],
)
def test_no_p_value_lies_below_the_least_and_one_reaches_it(x):
    generator = np.random.default_rng(0)
    found = [run_trend(x, generator.lognormal(size=len(x)), resamples=10) for _ in range(50)]
    found.append(run_trend(x, x))
    (least,) = {row["p_smallest"] for row in found}
    assert least == pytest.approx(min(row["p_value"] for row in found))


@pytest.mark.parametrize("runs", [2, 7], ids=["exact", "random"])
@pytest.mark.parametrize("value", [0.1, 1 / 3, 1234.5])
def test_equal_values_are_no_evidence_of_a_trend(runs, value):
    """As equal numbers of gradients, or a test error that is the same in every run."""
    x, strata = np.tile([1.0, 2, 4], 2 * runs), np.repeat(["a", "b"], 3 * runs)
    y = np.where(strata == "a", value, 7 * value)
    for log_y in (False, True):
        found = run_trend(x, y, strata=strata, log_y=log_y)
        assert found["slope"] == found["slope_low"] == found["slope_high"] == 0
        assert found["p_value"] == 1


@pytest.mark.parametrize("log_y", [False, True])
def test_values_that_are_equal_but_for_rounding_are_equal(log_y):
    """As numbers of gradients that are interpolated to where they are equal: 251 (1 +- 1e-15)."""
    generator = np.random.default_rng(1)
    x, y = np.repeat([0.0, 1], 4), np.repeat([-1e-14, 1e-14], 4) + 1e-16 * generator.normal(size=8)
    found = run_trend(x, 251 * (1 + y), log_x=False, log_y=log_y)
    assert found["slope"] == 0 and found["p_value"] == 1
    found = run_trend(x, 251 * (1 + 1e6 * y), log_x=False, log_y=log_y)  # a real difference
    assert found["p_value"] == pytest.approx(2 / 70)


def test_a_slope_that_is_zero_but_for_rounding_is_no_evidence():
    """Two errors that each of two settings has equally often, as of few test samples."""
    x, y = np.repeat([0.0, 1], 4), np.tile([0.1, 0.3, 0.7, 0.9], 2)
    assert run_trend(x, y, log_x=False, log_y=False)["p_value"] == 1


def test_random_permutations_give_no_p_value_that_exact_ones_could_not():
    """Two groups of ten: the two extreme ways of 184 756 are drawn too seldom by some streams."""
    x, y = np.repeat([0.0, 1], 10), np.arange(20.0)
    found = [run_trend(x, y, seed, log_x=False, log_y=False) for seed in range(5)]
    assert min(one["p_value"] for one in found) == pytest.approx(2 / 184_756)
    found += [run_correlation(y[:9], y[:9], seed) for seed in range(5)]
    assert found[-1]["p_smallest"] == pytest.approx(1 / 100_001)
    assert all(one["p_value"] >= one["p_smallest"] for one in found)


@pytest.mark.parametrize("shift", [0.0, 0.8, 1.7])
def test_random_permutations_estimate_the_exact_p_value(shift):
    """All 184 756 ways to choose ten of twenty, against random ones: a sampling error of 3 %."""
    x = np.repeat([0.0, 1], 10)
    y = np.random.default_rng(4).normal(size=20) + shift * x
    sums = np.array([sum(chosen) for chosen in itertools.combinations(y, 10)])
    exact = np.mean(abs(2 * sums - y.sum()) >= abs(2 * y[:10].sum() - y.sum()) * (1 - 1e-12))
    found = np.array([
        run_trend(x, y, seed, log_x=False, log_y=False)["p_value"] for seed in range(8)
    ])  # fmt: skip
    reached = min(1000, 100_000 * exact)
    np.testing.assert_allclose(found, exact, rtol=4 / reached**0.5)
    assert len(set(found)) > 1
    assert abs(found.mean() / exact - 1) < 4 / (8 * reached) ** 0.5


def run_correlation(x, y, seed=0, resamples=100, **more):
    generator = np.random.default_rng(seed)
    options = {"confidence": 0.95, "resamples": resamples, "generator": generator}
    return statistics.rank_correlation(x, y, **options, **more)


def of_all_orders(absolute):
    """Return the p-value of the first of all orders, and the least of any."""
    absolute = np.array(absolute)
    return [np.mean(absolute >= limit - 1e-12) for limit in (absolute[0], absolute.max())]


@pytest.mark.parametrize(
    ("x", "y"),
    [
        pytest.param([0, 0, 1], [1, 2, 3], id="three points"),
        pytest.param([3, 1, 2, 5, 4, 6], [1, 3, 2, 4, 6, 5], id="no ties"),
        pytest.param([1, 1, 2, 3, 3, 3], [1, 2, 5, 2, 6, 2], id="on both sides"),
        pytest.param([1, 1, 1, 2, 2, 2, 2], [7, 4, 5, 1, 3, 2, 6], id="two values"),
    ],
)
def test_rank_correlation_with_ties_has_the_p_values_of_all_orders(x, y):
    """Of three points, two of them equal, two orders of three are the extreme ones, not 2 / 3!"""
    orders = itertools.permutations(y)
    expected = of_all_orders([abs(scipy.stats.spearmanr(x, order).statistic) for order in orders])
    for pair in ((x, y), (y, x)):
        found = run_correlation(*pair)
        assert [found["p_value"], found["p_smallest"]] == pytest.approx(expected)


def test_ties_of_many_points_leave_few_ways_to_permute_them():
    """10! orders are too many, C(10, 5) = 252 ways to choose the five of one value are not."""
    x, y = np.repeat([0.0, 1], 5), np.array([1.0, 2, 4, 6, 3, 5, 7, 8, 10, 9])
    expected = scipy.stats.mannwhitneyu(y[:5], y[5:], method="exact").pvalue
    for pair in ((x, y), (y, x)):
        found = run_correlation(*pair)
        assert found["p_value"] == pytest.approx(expected)
        assert found["p_smallest"] == pytest.approx(2 / 252)


def test_strata_of_their_own_units_have_the_p_values_of_all_their_orders():
    x, y = np.random.default_rng(2).integers(0, 3, (2, 7)).astype(float)
    parts = np.arange(3), np.arange(3, 7)
    ranks = [
        np.concatenate([scipy.stats.rankdata(v[p]) - (len(p) + 1) / 2 for p in parts])
        for v in (x, y)
    ]
    orders = itertools.product(*map(itertools.permutations, parts))
    expected = of_all_orders([abs(ranks[0] @ ranks[1][[*a, *b]]) for a, b in orders])
    found = run_correlation(x, y, strata=np.repeat([0, 1], [3, 4]))
    assert [found["p_value"], found["p_smallest"]] == pytest.approx(expected)


def test_a_stratum_that_repeats_another_changes_no_rank_correlation():
    """Nor do units without a value in one of them, nor a stratum of one point, which has no
    rank."""
    x, y = np.random.default_rng(3).normal(size=(2, 6))
    units, alone = np.arange(6), run_correlation(x, y)
    found = run_correlation(
        np.concatenate([[np.nan, 1.0], x, [1.0, 0.0], x, [5.0]]),
        np.concatenate([[0.0, 1.0], y, [1.0, np.nan], y, [5.0]]),
        strata=np.repeat([0, 1, 2], [8, 8, 1]),
        units=np.concatenate([[7, 6], units, [7, 6], units, [5]]),
    )
    assert found == pytest.approx(alone | {"points": 12})


def test_resamples_without_variation_are_left_out_of_the_interval_of_a_correlation():
    found = run_correlation([1.0, 2, 3], [1.0, 4, 9])
    assert found["correlation_low"] == found["correlation_high"] == pytest.approx(1)
    assert np.isnan(run_correlation([1.0, 2], [1.0, 4])["correlation"])


@pytest.mark.parametrize(
    ("x", "least"), [([1.0, 2, 3, 4], 2 / 24), ([1.0, 1, 2, 3], 1 / 12), ([1.0, 2, 8, 16], 2 / 24)]
)
def test_random_permutations_keep_to_the_least_p_value_of_all(monkeypatch, x, least):
    """Of a trend too; of 1000 random ones too few reach it in every other stream."""
    monkeypatch.setattr(statistics, "EXACT_PERMUTATION_LIMIT", 5)
    monkeypatch.setattr(statistics, "RANDOM_PERMUTATIONS", 1000)
    y = np.arange(4.0)
    for seed in range(8):
        found = run_correlation(x, y, seed)
        assert found["p_smallest"] == pytest.approx(least) and found["p_value"] >= least
        found = run_trend(y, y, seed, log_x=False, log_y=False)
        assert found["p_value"] >= found["p_smallest"] == pytest.approx(2 / 24)


def test_as_many_arrangements_as_the_limit_are_all_enumerated(monkeypatch):
    monkeypatch.setattr(statistics, "EXACT_PERMUTATION_LIMIT", 70)
    x, y = np.repeat([0.0, 1], 4), np.arange(8.0)
    for seed in range(5):
        found = run_trend(x, y, seed, resamples=9, log_x=False, log_y=False)
        assert found["p_value"] == found["p_smallest"] == pytest.approx(2 / 70)


def test_random_permutations_stay_inside_their_strata_and_count_the_order_found(monkeypatch):
    """And stop at the thousandth that reaches the value."""
    monkeypatch.setattr(statistics, "RANDOM_PERMUTATIONS", 2000)
    strata, seen = [[np.arange(k, k + 9), np.arange(k + 9, k + 18)] for k in (0, 18)], []

    def p_value(every):
        def statistic(rows):
            seen.append(rows)
            return np.arange(len(rows)) % every == every - 1

        return statistics._p_value(statistic, 1.0, strata, np.random.default_rng(0))[0]

    assert [p_value(every) for every in (1, 2, 4, 5000)] == [1, 1 / 2, 501 / 2001, 1 / 2001]
    rows = np.concatenate(seen)
    assert len(np.unique(rows[-2000:], axis=0)) == 2000
    for part in (slice(18), slice(18, 36)):
        assert (np.sort(rows[:, part]) == np.arange(36)[part]).all()
    x = np.repeat([0.0, 1], 18)
    assert run_trend(x, x, log_x=False, log_y=False)["p_smallest"] == 1 / 2001


@pytest.mark.parametrize(("second", "least"), [([1.0, 2, 8], 1 / 36), ([8.0, 2, 4], 2 / 36)])
def test_all_strata_must_be_mirror_images_for_an_opposite_slope(second, least):
    """In whichever order their runs stand."""
    x = np.array([4.0, 1, 2, *second])
    found = run_trend(x, x, strata=np.repeat(["a", "b"], 3))
    assert found["p_value"] == found["p_smallest"] == pytest.approx(least)


def test_strata_of_the_same_units_have_the_p_values_of_all_orders_of_these():
    x, y = np.random.default_rng(2).integers(0, 4, (2, 3, 5)).astype(float)
    ranks = [scipy.stats.rankdata(values, axis=1) - 3 for values in (x, y)]
    orders = itertools.permutations(range(5))
    expected = of_all_orders([abs(np.sum(ranks[0] * ranks[1][:, list(o)])) for o in orders])
    found = run_correlation(
        x.ravel(), y.ravel(), strata=np.repeat([0, 1, 2], 5), units=np.tile(np.arange(5), 3)
    )
    assert [found["p_value"], found["p_smallest"]] == pytest.approx(expected)


def test_trend_is_found_where_there_is_one_and_rarely_where_there_is_none():
    generator = np.random.default_rng(5)
    x = np.repeat([64.0, 128, 256, 512], 4)
    strong = run_trend(x, x**-0.3 * np.exp(0.05 * generator.normal(size=16)))
    assert strong["p_value"] < 0.01 and strong["slope_low"] < -0.3 < strong["slope_high"]
    p_values = [
        run_trend(x, np.exp(generator.normal(size=16)), seed, 199)["p_value"] for seed in range(100)
    ]
    assert np.mean(np.array(p_values) <= 0.05) <= 0.15


def test_no_trend_without_variation():
    found = run_trend([64, 64, 64], [1.0, 2.0, 3.0])
    assert np.isnan(found["slope"]) and found["points"] == 3


def test_geometric_mean_has_the_coverage_and_size_it_states():
    draws = np.random.default_rng(5).lognormal(0.0, 0.3, size=(2000, 4))
    found = [statistics.geometric_mean(row, 0.9) for row in draws]
    covered = np.mean([row["low"] <= 1 <= row["high"] for row in found])
    assert covered == pytest.approx(0.9, abs=0.02)  # 3 standard errors of a share of 2000
    rejected = np.mean([row["p_value"] <= 0.1 for row in found])
    assert rejected == pytest.approx(1 - covered)
    np.testing.assert_allclose([r["mean"] for r in found], scipy.stats.gmean(draws, axis=1))


def test_geometric_mean_of_one_run_has_no_interval():
    found = statistics.geometric_mean([2.0, np.nan, -1.0, np.inf], 0.95)
    assert found["mean"] == pytest.approx(2) and found["points"] == 1
    assert np.isnan([found["low"], found["high"], found["p_value"]]).all()


def test_geometric_mean_of_ones_but_for_rounding_is_one():
    found = statistics.geometric_mean([1 + 2e-16, 1.0, 1 - 1e-16], 0.95)
    assert found == {"mean": 1.0, "low": 1.0, "high": 1.0, "p_value": 1.0, "points": 3}


def test_percentiles_are_those_of_the_draws_that_have_a_value():
    draws = np.random.default_rng(0).normal(size=(100, 3))
    draws[::3, 1], draws[:, 2] = np.nan, np.nan
    ends = np.array(statistics.percentile_interval(draws, 0.9))
    for k, rows in enumerate((draws[:, 0], draws[:, 1][np.isfinite(draws[:, 1])])):
        np.testing.assert_allclose(ends[:, k], np.quantile(rows, [0.05, 0.95]))
    assert np.isnan(ends[:, 2]).all()


@pytest.mark.parametrize("own_scatter", [False, True])
def test_interval_of_a_slope_resamples_inside_each_x_of_each_stratum(monkeypatch, own_scatter):
    """Runs of one x and stratum are replaced by one another only: the spread is theirs alone."""
    if not own_scatter:
        monkeypatch.setattr(statistics, "FEWEST_IN_CELL", 100)
    generator = np.random.default_rng(6)
    x = np.tile(np.repeat([1.0, 2.0, 4.0], 5), 2)
    strata = np.repeat([0, 1], 15)
    cell = np.repeat(np.arange(6), 5)
    # means off the line and other spreads in each: resampling across x or strata would add to it
    y = (3.0 * np.arange(6) + generator.normal(size=6))[cell] + (1 + cell) * generator.normal(
        size=30
    )
    found = run_trend(x, y, strata=strata, resamples=50_000, log_x=False, log_y=False)
    weight = x - 7 / 3  # centred in both strata
    variance = sum(
        weight[cell == c][0] ** 2 * 5 * np.var(y[cell == c]) for c in range(6)
    ) / np.square(weight @ weight)
    half = scipy.stats.t.ppf(0.975, 30 - 6) * np.sqrt(30 / (30 - 6) * variance)
    if own_scatter:  # Welch, Satterthwaite
        each = [
            weight[cell == c][0] ** 2 * 5 * np.var(y[cell == c], ddof=1) / (weight @ weight) ** 2
            for c in range(6)
        ]
        freedom = sum(each) ** 2 / sum(part**2 / (5 - 1) for part in each)
        half = scipy.stats.t.ppf(0.975, freedom) * np.sqrt(sum(each))
    assert found["slope"] == pytest.approx(weight @ y / (weight @ weight))
    assert found["slope_high"] - found["slope_low"] == pytest.approx(2 * half, rel=0.02)


def test_interval_of_a_rank_correlation_is_scipys_bootstrap():
    x, y = np.random.default_rng(7).normal(size=(2, 9))
    y = y + x
    found = statistics.rank_correlation(
        x, y, confidence=0.9, resamples=20_000, generator=np.random.default_rng(0)
    )
    expected = scipy.stats.bootstrap(
        (x, y),
        lambda a, b: np.corrcoef(scipy.stats.rankdata([a, b], axis=1))[0, 1],
        paired=True, vectorized=False, method="percentile", confidence_level=0.9,
        n_resamples=5_000, rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    ends = [found["correlation_low"], found["correlation_high"]]
    assert ends == pytest.approx(list(expected), abs=0.03)


@pytest.mark.parametrize("sizes", [(6, 1), (8, 2), (6, 6, 6, 1), (4, 4)])
def test_slopes_of_unequally_many_runs_lie_in_their_interval_as_often_as_it_says(sizes):
    """Runs that diverged are left out; a single one has the largest leverage and no scatter."""
    x = np.repeat(np.arange(len(sizes)), sizes)
    generator = np.random.default_rng(5)
    held = 0
    for _ in range(1000):
        found = statistics.trend(
            x, generator.standard_normal(len(x)), confidence=0.95, resamples=200,
            generator=generator, log_x=False, log_y=False,
        )  # fmt: skip
        held += found["slope_low"] <= 0 <= found["slope_high"]
    assert 0.92 < held / 1000 < 0.98


def test_a_rank_correlation_says_how_many_points_are_independent():
    """Four ensembles of the same three starts are three independent ones, not twelve."""
    generator = np.random.default_rng(0)
    starts, ensembles = np.tile(np.arange(3), 4), np.repeat(np.arange(4), 3)
    found = statistics.rank_correlation(
        *generator.standard_normal((2, 12)), strata=ensembles, units=starts, confidence=0.95,
        resamples=100, generator=generator,
    )  # fmt: skip
    assert (found["points"], found["units"]) == (12, 3)
    assert (found["sets"], found["least"]) == (1, 3)


def test_values_that_do_not_scatter_say_nothing_of_their_error():
    """Realisations of one and the same run, as of a linear model with its start subtracted."""
    same = np.full(3, 0.3) * (1 + 1e-15 * np.arange(3))
    mean, low, high, p_value = statistics.student_test(same, 0.95)
    assert mean == pytest.approx(0.3) and np.isnan([low, high, p_value]).all()
    assert statistics.student_test([0.0, 0.0], 0.95) == (0.0, 0.0, 0.0, 1.0)
    found = statistics.student_test([0.3, 0.3, 0.4], 0.95)
    test = scipy.stats.ttest_1samp([0.3, 0.3, 0.4], 0.0)
    assert found[3] == pytest.approx(test.pvalue)
    np.testing.assert_allclose(found[1:3], test.confidence_interval(0.95))


def test_realisations_of_one_and_the_same_run_have_no_interval():
    """Each sample alone may be constant, as a number of steps: it is all of them that say so."""
    curve = np.linspace(1.0, 2.0, 5)
    same = np.tile(curve, (3, 1)) * (1 + 1e-15 * np.arange(3)[:, None])
    given = {"confidence": 0.95, "resamples": 99, "generator": np.random.default_rng(0)}
    low, high = statistics.bootstrap_interval(
        {"x": same, "y": 2 * same}, lambda x, y: x / y, **given
    )
    assert low.shape == (5,) and np.isnan(low).all() and np.isnan(high).all()
    apart = same * (1 + 1e-3 * np.arange(3)[:, None])
    low, high = statistics.bootstrap_interval({"x": same, "y": apart}, lambda x, y: x / y, **given)
    assert (low < high).all()


def test_values_agree_relative_to_their_size_and_where_there_are_none():
    assert statistics.one_and_the_same([[1e-12, np.nan], [1e-12 * (1 + 1e-15), np.nan]])
    assert not statistics.one_and_the_same([[1e-12, np.nan], [2e-12, np.nan]])
    assert not statistics.one_and_the_same([[1e-12, np.nan], [1e-12, 1.0]])


def test_strata_that_share_units_with_two_others_make_one_set_of_all():
    """Else the start that the first and the third have in common would count as two."""
    units = np.array([1, 2, 3, 1, 2, 3, 4, 5, 3, 4, 5, 1])
    groups = [np.arange(3), np.arange(4, 8), np.arange(8, 11)]
    blocks = statistics._aligned([groups[0], groups[2], np.array([3, 8])], units)
    assert [block.tolist() for block in blocks] == [[[2], [8], [8]]]
    apart = statistics._aligned([np.array([0, 1]), np.array([9, 10])], units)
    assert [block.shape for block in apart] == [(1, 2), (1, 2)]
    joined = statistics._aligned([np.array([0, 1]), np.array([9, 10]), np.array([3, 9])], units)
    assert [block.shape for block in joined] == [(3, 0)]


def test_a_trend_does_not_depend_on_the_unit_of_its_quantity():
    x, y = np.repeat([0.0, 1.0], 4), np.arange(8.0)
    given = {"confidence": 0.95, "resamples": 99, "log_x": False, "log_y": False}
    found = [
        statistics.trend(x, unit * y, generator=np.random.default_rng(0), **given)
        for unit in (1, 1e-12)
    ]
    assert found[1]["slope"] == pytest.approx(1e-12 * found[0]["slope"])
    assert found[1]["p_value"] == found[0]["p_value"] < 0.05


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_mean_that_is_not_finite_has_no_test(value):
    _, *rest = statistics.student_test([1.0, value, 2.0], 0.95)
    assert np.isnan(rest).all()
