"""Bootstrap of ratios of averages, and the trend test, against independent references."""

import itertools

import numpy as np
import pytest
import scipy.stats

from speedlimits import statistics


def test_interval_of_a_mean_agrees_with_scipy():
    values = np.random.default_rng(0).normal(2, 1, size=(40, 1))
    low, high = statistics.bootstrap_interval(
        {"x": values},
        lambda x: x,
        confidence=0.9,
        resamples=20000,
        generator=np.random.default_rng(1),
    )
    reference = scipy.stats.bootstrap(
        (values[:, 0],), np.mean, confidence_level=0.9, method="percentile", n_resamples=20000
    ).confidence_interval
    np.testing.assert_allclose([low[0], high[0]], reference, atol=0.02)


def test_ratio_of_averages_is_resampled_jointly():
    # numerator = 3 x denominator in every realisation: the ratio has no uncertainty at all
    denominator = np.random.default_rng(0).uniform(1, 5, size=(5, 7))
    low, high = statistics.bootstrap_interval(
        {"a": 3 * denominator, "b": denominator},
        lambda a, b: a / b,
        confidence=0.95,
        resamples=200,
        generator=np.random.default_rng(2),
    )
    np.testing.assert_allclose(low, 3)
    np.testing.assert_allclose(high, 3)


def test_one_realisation_has_no_interval():
    low, high = statistics.bootstrap_interval(
        {"a": np.ones((1, 4))},
        lambda a: a,
        confidence=0.95,
        resamples=100,
        generator=np.random.default_rng(0),
    )
    assert low.shape == (4,) and np.all(np.isnan(low)) and np.all(np.isnan(high))


def test_resamples_without_a_value_leave_no_interval():
    """T/T_SL has none where the loss of a resample's mean has not dropped."""
    low, high = statistics.bootstrap_interval(
        {"drop": np.array([[3.0, 3.0], [-2.0, 2.0], [1.0, 1.0]])},
        lambda drop: np.where(drop > 0, drop, np.nan),
        confidence=0.95,
        resamples=1000,
        generator=np.random.default_rng(0),
    )
    assert np.isnan([low[0], high[0]]).all()
    assert low[1] == 1 and high[1] == 3


def test_samples_must_agree():
    with pytest.raises(ValueError, match="realisations"):
        statistics.bootstrap_interval(
            {"a": np.ones((2, 1)), "b": np.ones((3, 1))},
            lambda a, b: a,
            confidence=0.95,
            resamples=100,
            generator=np.random.default_rng(0),
        )


def test_slope_is_the_exponent_of_a_power_law():
    n = np.array([1.0, 2, 4, 8, 16])
    assert statistics.log_log_slope(n, 5 * n**-0.7) == pytest.approx(-0.7)


def run_trend(x, y, seed=0, resamples=2000):
    return statistics.trend(
        x, y, confidence=0.95, resamples=resamples, generator=np.random.default_rng(seed)
    )


def test_exact_permutation_test_agrees_with_enumeration():
    x = np.array([1.0, 2, 3, 5, 8])
    y = np.array([2.0, 1.5, 3.0, 2.8, 4.0])
    slope = statistics.log_log_slope(x, y)
    all_slopes = [statistics.log_log_slope(x, y[list(p)]) for p in itertools.permutations(range(5))]
    expected = np.mean(np.abs(all_slopes) >= abs(slope) - 1e-12)
    assert run_trend(x, y)["p_value"] == pytest.approx(expected)


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
    found = statistics.geometric_mean([2.0, np.nan, -1.0], 0.95)
    assert found["mean"] == pytest.approx(2) and found["points"] == 1
    assert np.isnan([found["low"], found["high"], found["p_value"]]).all()
