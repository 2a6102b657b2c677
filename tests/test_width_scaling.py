"""Fitted powers of the width: exact laws, SciPy's fit, coverage, what gives no power."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from speedlimits.width_scaling import fitted_power, weighted_power, within_groups

WIDTHS = np.array([16.0, 32, 64, 128, 256])
OPTIONS = {"confidence": 0.95, "resamples": 300}


@settings(deadline=None, max_examples=40)
@given(
    st.floats(-2.5, 1), st.floats(0.01, 100), st.sampled_from([-1, 1]), st.integers(0, 2**32 - 1)
)
def test_an_exact_law_comes_back_whatever_the_errors(power, size, sign, seed):
    errors = np.random.default_rng(seed).uniform(0.1, 10, len(WIDTHS))
    values = sign * size * WIDTHS**power
    found, amplitude = weighted_power(WIDTHS, values, errors)
    assert found == pytest.approx(power, abs=1e-5)
    assert amplitude == pytest.approx(sign * size, rel=1e-3)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_the_fit_is_that_of_scipy(seed):
    generator = np.random.default_rng(seed)
    errors = WIDTHS**-0.5 * generator.uniform(0.02, 0.1, len(WIDTHS))
    values = 3 / WIDTHS**0.7 + errors * generator.standard_normal(len(WIDTHS))
    power, amplitude = weighted_power(WIDTHS, values, errors)

    def chi_squared(p, a):
        return np.sum(((values - a * WIDTHS**p) / errors) ** 2)

    (p, a), _ = curve_fit(lambda w, p, a: a * w**p, WIDTHS, values, (-0.7, 3), errors)
    # where the law is lost in the errors the sum has more minima than SciPy's start leads to
    assert chi_squared(power, amplitude) <= chi_squared(p, a) + 1e-4
    if chi_squared(p, a) <= chi_squared(power, amplitude) + 1e-4:
        assert power == pytest.approx(p, abs=1e-2)


def runs(generator, power=-1.0, size=3.0, count=12):
    """Runs whose mean falls as 3 w^power and whose scatter falls as w^-1/2."""
    return [size * w**power + 0.4 * w**-0.5 * generator.standard_normal(count) for w in WIDTHS]


def test_means_and_scatter_of_the_same_runs_have_their_own_powers():
    samples = runs(np.random.default_rng(0), count=400)
    generator = np.random.default_rng(1)
    mean = fitted_power(WIDTHS, samples, "mean", generator=generator, **OPTIONS)
    scatter = fitted_power(WIDTHS, samples, "standard_deviation", generator=generator, **OPTIONS)
    assert mean["power"] == pytest.approx(-1.0, abs=0.1)
    assert scatter["power"] == pytest.approx(-0.5, abs=0.05)  # 3 (2 R)^-1/2 / (1.4 x sqrt 5)
    assert scatter["amplitude"] == pytest.approx(0.4, rel=0.2)
    assert mean["points"] == 2000


def test_scatter_within_groups_is_that_of_an_analysis_of_variance():
    generator = np.random.default_rng(0)
    groups = np.repeat(["a", "b", "c"], [3, 5, 4])
    values = generator.standard_normal(12) + np.repeat([0.0, 10.0, -4.0], [3, 5, 4])
    found = within_groups(values, groups)
    inside = sum(((values[groups == g] - values[groups == g].mean()) ** 2).sum() for g in "abc")
    means = [values[groups == g].mean() for g in "abc"]
    assert found.mean() == pytest.approx(np.mean(means))  # of each group alike
    assert found.var(ddof=1) == pytest.approx(inside / (12 - 3))  # mean square within groups
    np.testing.assert_array_equal(within_groups(values, ["a"] * 12), values)
    with pytest.raises(ValueError, match="no scatter within groups"):
        within_groups([1.0, 2.0], ["a", "b"])


@pytest.mark.parametrize(("subsets", "each"), [(6, 2), (3, 3)])
def test_scatter_of_few_runs_of_each_subset_has_the_error_that_its_interval_says(subsets, each):
    """Of two runs the square of either is the same: half of them are independent."""
    covered, groups = 0, np.repeat(np.arange(subsets), each)
    for seed in range(200):
        generator = np.random.default_rng(seed)
        means = generator.normal(size=subsets)
        samples = [
            means[groups] / width + generator.normal(size=len(groups)) * width**-0.5
            for width in WIDTHS
        ]
        of = [groups] * len(WIDTHS)
        found = fitted_power(
            WIDTHS, samples, "standard_deviation", generator=generator, groups=of, **OPTIONS
        )
        covered += found["power_low"] <= -0.5 <= found["power_high"]
    assert covered >= 176  # 3 standard deviations of 200 draws at 0.93 are 11


def test_subsets_whose_means_differ_leave_the_power_of_the_scatter():
    """Each subset's mean falls as 1/w, far more than the scatter, which falls as w^-1/2."""
    powers, covered = [], 0
    for seed in range(40):
        generator = np.random.default_rng(seed)
        groups = np.repeat([0, 1], 8)
        of = [groups] * len(WIDTHS)
        samples = [
            values + np.array([3.0, 12.0])[groups] / width
            for width, values in zip(WIDTHS, runs(generator, size=0.0, count=16), strict=True)
        ]
        found = fitted_power(
            WIDTHS, samples, "standard_deviation", generator=generator, groups=of, **OPTIONS
        )
        powers.append(found["power"])
        covered += found["power_low"] <= -0.5 <= found["power_high"]
    assert np.mean(powers) == pytest.approx(-0.5, abs=0.03) and covered >= 34


@pytest.mark.parametrize("count", [2, 12])
@pytest.mark.parametrize(("statistic", "power"), [("mean", -1.0), ("standard_deviation", -0.5)])
def test_intervals_cover_the_power_about_as_often_as_they_say(statistic, power, count):
    covered = 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        samples = runs(generator, count=count)
        found = fitted_power(WIDTHS, samples, statistic, generator=generator, **OPTIONS)
        covered += found["power_low"] <= power <= found["power_high"]
    assert 86 <= covered  # 3 standard deviations of 100 draws at 0.93 are 8


@pytest.mark.parametrize(
    "samples", [[[1.0], [0.5]], [[1.0, 2.0], [0.5]], [[1.0, 1.0], [0.5, 0.5]], [[1.0, 2.0]]]
)
def test_without_scatter_or_with_one_width_there_is_no_power(samples):
    widths = WIDTHS[: len(samples)]
    generator = np.random.default_rng(0)
    found = fitted_power(widths, samples, "mean", generator=generator, **OPTIONS)
    assert np.isnan([found[name] for name in ("power", "power_low", "power_high")]).all()
    assert found["points"] == sum(map(len, samples))


def test_as_many_runs_as_groups_give_no_power():
    samples, generator = [[1.0, 2.0], [0.5, 0.7]], np.random.default_rng(0)
    groups = [["a", "b"]] * 2
    found = fitted_power(WIDTHS[:2], samples, "mean", generator=generator, groups=groups, **OPTIONS)
    assert np.isnan(found["power"])


def test_bad_errors_are_refused():
    with pytest.raises(ValueError, match="at least two widths"):
        weighted_power(WIDTHS, WIDTHS, 0 * WIDTHS)


@pytest.mark.parametrize(("power", "scale"), [(-4.5, 1.0), (5.0, 1.0), (-1.0, 1e200)])
def test_a_power_beyond_those_searched_is_none(power, scale):
    widths = [32, 64, 128]
    samples = [scale * (w / 32) ** power * np.array([0.9, 1.0, 1.1]) for w in widths]
    with np.errstate(over="ignore", invalid="ignore"):
        found = fitted_power(widths, samples, "mean", generator=np.random.default_rng(0), **OPTIONS)
    assert found["points"] == 9
    assert all(np.isnan(found[name]) for name in ("power", "power_low", "power_high", "amplitude"))
