"""Whether one slope fits, and what it is an average of."""

import numpy as np
import pytest
import scipy.stats

from speedlimits.single_slope import bend
from speedlimits.statistics import mean_slope, trend

OPTIONS = {"confidence": 0.95, "resamples": 20}


def spanned(count=4, runs=5, seed=1):
    """Values of several groups, of which some lack places and some have more runs at one."""
    generator = np.random.default_rng(seed)
    x, groups = [], []
    for group in range(count):
        own = generator.choice([1.0, 2.0, 3.0, 7.0, 20.0], size=3, replace=False)
        own = np.repeat(own, generator.integers(1, runs, size=3))
        x.append(own)
        groups += [f"g{group}"] * len(own)
    x = np.concatenate(x)
    return x, np.exp(generator.normal(size=len(x)) + np.log(x) ** 2), np.array(groups)


def reference(x, y, groups, shares):
    """Local slopes and their weights by integrals of each group's interpolated means.

    The slope of a group is that of m(x) weighted with sum over x_l > x of (x_l - <x>) / S; shares
    are those of the groups in the slope of all.
    """
    u, v = np.log(x), np.log(y)
    places = np.unique(u)
    middles, widths = (places[1:] + places[:-1]) / 2, np.diff(places)
    weights, sums = np.zeros((2, len(middles)))
    for group, share in shares.items():
        at, own = u[groups == group], v[groups == group]
        centred, here = at - at.mean(), np.unique(at)
        means = np.array([own[at == place].mean() for place in here])
        for i, middle in enumerate(middles):
            if here[0] < middle < here[-1]:
                k = np.searchsorted(here, middle)
                slope = (means[k] - means[k - 1]) / (here[k] - here[k - 1])
                weight = share * widths[i] * centred[at > middle].sum() / (centred @ centred)
                weights[i] += weight
                sums[i] += weight * slope
    return sums[weights > 0] / weights[weights > 0], weights[weights > 0]


@pytest.mark.parametrize("seed", range(6))
def test_the_slope_is_an_average_of_the_local_ones_however_unequal_the_groups(seed):
    x, y, groups = spanned(seed=seed)
    generator = np.random.default_rng(0)
    spreads = {g: np.log(x[groups == g]).var() * (groups == g).sum() for g in np.unique(groups)}
    total = sum(spreads.values())
    local, weights = reference(x, y, groups, {g: s / total for g, s in spreads.items()})
    slope = trend(x, y, strata=groups, generator=generator, **OPTIONS)["slope"]
    assert weights.sum() == pytest.approx(1) and weights @ local == pytest.approx(slope)
    found = bend(x, y, groups=groups)
    ends = [found["local_slope_least"], found["local_slope_largest"]]
    assert ends == pytest.approx([local.min(), local.max()], rel=1e-9)

    units = np.where(groups == "g3", "b", "a")  # three groups of one unit, one of the other
    shares = {"g0": 1 / 6, "g1": 1 / 6, "g2": 1 / 6, "g3": 1 / 2}
    local, weights = reference(x, y, groups, shares)
    slope = mean_slope(x, y, runs=groups, units=units, confidence=0.9)["slope"]
    assert weights @ local == pytest.approx(slope)
    found = bend(x, y, groups=groups, units=units, by_unit=True)
    ends = [found["local_slope_least"], found["local_slope_largest"]]
    assert ends == pytest.approx([local.min(), local.max()], rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_of_groups_with_the_same_places_local_slopes_are_those_of_their_means(seed):
    generator = np.random.default_rng(seed)
    places = np.array([1.0, 2.0, 8.0, 9.0])
    x, groups = np.tile(places, 6), np.repeat(np.arange(6), 4)
    y = np.exp(generator.normal(size=24))
    steps = np.diff(np.log(y).reshape(6, 4).mean(axis=0)) / np.diff(np.log(places))
    for units in (None, groups):
        found = bend(x, y, groups=groups, units=units, by_unit=units is not None)
        ends = [found["local_slope_least"], found["local_slope_largest"]]
        assert ends == pytest.approx([steps.min(), steps.max()], rel=1e-12)
    linear = bend(x, y, groups=groups, log_x=False, log_y=False)
    steps = np.diff(y.reshape(6, 4).mean(axis=0)) / np.diff(places)
    assert linear["local_slope_largest"] == pytest.approx(steps.max(), rel=1e-12)


def test_groups_of_other_places_count_where_they_reach():
    """One along 1, 4, 16 with slope 1, one along 2, 8, 32 with slope 3, of equal reach."""
    x = np.array([1.0, 4.0, 16.0, 2.0, 8.0, 32.0])
    y = np.concatenate([x[:3], x[3:] ** 3])
    found = bend(x, y, groups=[*"aaabbb"])
    assert found["local_slope_least"] == pytest.approx(1)  # from 1 to 2
    assert found["local_slope_largest"] == pytest.approx(3)  # from 16 to 32


def test_groups_that_share_units_are_one():
    generator = np.random.default_rng(4)
    x, units = np.tile([1.0, 2.0, 4.0, 9.0], 3), np.arange(12)
    y = np.exp(generator.normal(size=(2, 12)))
    twice = {"groups": np.repeat([0, 1], 12), "units": np.tile(units, 2)}
    found = bend(np.tile(x, 2), y.ravel(), **twice)
    assert found == pytest.approx(bend(x, np.sqrt(y[0] * y[1]), groups=np.zeros(12)))
    slope = trend(
        np.tile(x, 2), y.ravel(), strata=twice["groups"], units=twice["units"],
        generator=generator, **OPTIONS,
    )["slope"]  # fmt: skip
    assert found["local_slope_least"] < slope < found["local_slope_largest"]


def test_places_that_differ_by_rounding_are_one():
    x = np.array([0.1, 0.1 + 4e-17, 0.2, 0.4] * 3)
    assert len(np.unique(x)) == 4
    y = x * np.tile([1.0, 1.1, 1.0, 1.0], 3) * np.repeat([1.0, 1.3, 0.9], 4)
    found = bend(x, y, groups=np.zeros(12), log_x=False)
    merged = bend(np.tile([0.1, 0.1, 0.2, 0.4], 3), y, groups=np.zeros(12), log_x=False)
    assert found == pytest.approx(merged) and found["local_slope_largest"] < 10
    two = bend(np.tile(x[[0, 1, 2]], 3), y[[0, 1, 2] * 3], groups=np.zeros(9), log_x=False)
    assert np.isnan(two["p_single_slope"])


@pytest.mark.parametrize("by_unit", [False, True])
@pytest.mark.parametrize("power", [0, 1, -1, 0.5])
def test_what_rounding_leaves_of_a_law_is_no_bend(power, by_unit):
    x, groups = np.tile([10.0, 30.0, 100.0, 300.0], 4), np.repeat(np.arange(4), 4)
    y = 0.1 * x**power * (1.0 + 3e-16 * np.tile([0, 1, 0, 0], 4))
    found = bend(x, y, groups=groups, units=groups, by_unit=by_unit)
    assert not found["p_single_slope"] < 1  # nan, or 1
    if power == 0:
        assert found["local_slope_least"] == found["local_slope_largest"] == 0
        few = bend([1.0, 2.0, 4.0, 1.0, 2.0], [0.1, 0.1 + 2e-17, 0.3, 0.1, 0.1], groups=[0] * 5,
                   log_y=False)  # fmt: skip
        assert few["local_slope_least"] == 0


def test_places_of_unequal_scatter_are_not_taken_to_scatter_alike():
    """A rough place in the middle is no bend; three runs each, one law, 5 % level."""
    generator = np.random.default_rng(3)
    x, cases, told = np.repeat([1.0, 2.0, 32.0], 3), 400, 0
    for _ in range(cases):
        noise = generator.normal(size=9) * np.repeat([0.1, 1.0, 0.1], 3)
        told += bend(x, np.exp(noise) * x, groups=np.zeros(9))["p_single_slope"] <= 0.05
    assert told <= scipy.stats.binom(cases, 0.05).ppf(0.999)  # 20 % of equal scatter


def test_quadratic_terms_of_units_are_coefficients_where_they_have_other_places():
    x = np.array([1.0, 2.0, 3.0, 1.0, 4.0, 9.0, 2.0, 3.0, 16.0, 1.0, 2.0])
    units = np.array([*"aaabbbcccdd"])  # the last one has no quadratic term
    y = np.exp(np.random.default_rng(1).normal(size=11))
    terms = [np.polyfit(np.log(x[units == u]), np.log(y[units == u]), 2)[0] for u in "abc"]
    found = bend(x, y, groups=units, units=units, by_unit=True)
    expected = scipy.stats.ttest_1samp(terms, 0).pvalue
    assert found["p_single_slope"] == pytest.approx(expected, rel=1e-9)


def test_the_test_of_a_quadratic_term_is_that_of_least_squares():
    x, y, groups = spanned(seed=8, runs=2)  # no cell has a scatter of its own
    x, y = np.append(x, [1.0, 2.0, 3.0, 7.0] * 2), np.append(y, [1.0, 9.0, 2.0, 3.0] * 2) + 0.5
    y[-4:] *= [2.0, 1.0, 0.7, 3.0]
    groups = np.append(groups, ["h"] * 8)
    u, v = np.log(x), np.log(y)
    columns = [u**2]
    for group in np.unique(groups):
        columns += [(groups == group) * 1.0, (groups == group) * u]
    design = np.stack(columns, axis=1)
    solution, left, rank, _ = np.linalg.lstsq(design, v, rcond=None)
    degrees = len(v) - rank
    assert rank == design.shape[1]
    error = np.sqrt(left[0] / degrees * np.linalg.inv(design.T @ design)[0, 0])
    expected = 2 * scipy.stats.t.sf(abs(solution[0]) / error, degrees)
    assert bend(x, y, groups=groups)["p_single_slope"] == pytest.approx(expected, rel=1e-6)


def test_the_test_of_units_is_students_of_their_quadratic_terms():
    generator = np.random.default_rng(2)
    x = np.tile([1.0, 2.0, 3.0, 7.0], 6)
    runs, units = np.repeat(np.arange(6), 4), np.repeat([0, 1, 2], 8)
    y = np.exp(generator.normal(size=24) + np.log(x) ** 2)
    terms = [np.polyfit(np.log(x[:4]), np.log(y[runs == run]), 2)[0] for run in range(6)]
    expected = scipy.stats.ttest_1samp(np.reshape(terms, (3, 2)).mean(axis=1), 0).pvalue
    found = bend(x, y, groups=runs, units=units, by_unit=True)
    assert found["p_single_slope"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("by_unit", [False, True])
def test_one_slope_is_rejected_by_chance_as_often_as_the_level_says(by_unit):
    generator = np.random.default_rng(5)
    x, groups = np.tile([1.0, 2.0, 3.0, 7.0], 4), np.repeat(np.arange(4), 4)
    cases, rejected = 400, 0
    for _ in range(cases):
        slope = generator.normal(size=4)[groups]  # groups may have slopes of their own
        y = np.exp(slope * np.log(x) + generator.normal(size=16))
        found = bend(x, y, groups=groups, units=groups, by_unit=by_unit)
        rejected += found["p_single_slope"] <= 0.1
    assert scipy.stats.binomtest(rejected, cases, 0.1).pvalue > 1e-3


def test_what_cannot_be_told_is_nan():
    x, y = np.array([1.0, 2.0, 1.0, 2.0]), np.array([1.0, 3.0, 2.0, 4.0])
    assert all(map(np.isnan, bend(x, y, groups=[0, 0, 1, 1]).values()))  # two places
    assert all(map(np.isnan, bend(x[:0], y[:0], groups=[]).values()))
    three = bend([1.0, 2.0, 4.0], [1.0, 3.0, 2.0], groups=[0, 0, 0])
    assert np.isnan(three["p_single_slope"]) and three["local_slope_largest"] > 1
    gone = bend([1.0, 2.0, 4.0], [1.0, 0.0, np.nan], groups=[0, 0, 0])
    assert all(map(np.isnan, gone.values()))
    with pytest.raises(ValueError, match="no logarithm"):
        bend([0.0, 1.0], [1.0, 1.0], groups=[0, 0])
