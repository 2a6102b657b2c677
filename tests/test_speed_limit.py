"""The bound, its equality case, its factors and its assertion."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speedlimits import speed_limit as sl


def linear_flow(seed, modes=6, times=40):
    """Exact gradient flow of L = 1/2 sum h (theta - theta*)^2 with a finely summed path."""
    generator = np.random.default_rng(seed)
    h = np.exp(generator.normal(size=modes))
    distance = generator.normal(size=modes)
    t = np.concatenate([[0], np.geomspace(1e-4, 5, times)])
    fine = np.unique(np.concatenate([np.linspace(0, 5, 20001), t]))
    speed2 = ((h * distance) ** 2 * np.exp(-2 * h * fine[:, None])).sum(axis=1)
    middle = 0.5 * np.diff(fine)
    path = np.concatenate([[0], np.cumsum(middle * (np.sqrt(speed2)[1:] + np.sqrt(speed2)[:-1]))])
    drop = (h * distance**2 * -np.expm1(-2 * h * t[:, None])).sum(axis=1) / 2
    geodesic = np.sqrt(((distance * np.expm1(-h * t[:, None])) ** 2).sum(axis=1))
    return t[1:], drop[1:], np.interp(t, fine, path)[1:], geodesic[1:]


@given(st.integers(0, 2**32))
@settings(deadline=None, max_examples=20)
def test_gradient_flow_obeys_the_bound_and_its_factors_multiply(seed):
    t, drop, path, geodesic = linear_flow(seed)
    whole = sl.inefficiency(t, geodesic**2, drop)
    factors = sl.speed_unevenness(t, path**2, drop), sl.path_excess(path**2, geodesic**2)
    np.testing.assert_allclose(factors[0] * factors[1], whole, rtol=1e-12)
    assert np.all(whole >= 1 - 1e-9)
    assert all(np.all(factor >= 1 - 1e-4) for factor in factors)
    np.testing.assert_allclose(t / sl.speed_limit_time(geodesic**2, drop), whole, rtol=1e-12)


def test_constant_velocity_attains_the_limit():
    # L = -g . theta: constant speed on a straight line
    g = np.array([3.0, 4.0])
    t = np.linspace(0.1, 2, 5)
    length = t * 5
    drop = t * (g @ g)
    np.testing.assert_allclose(sl.inefficiency(t, length**2, drop), 1)
    np.testing.assert_allclose(sl.speed_limit_time(length**2, drop), t)
    sl.check_speed_limit(t, drop, length, length)


def test_inefficiency_ignores_the_scale_of_the_loss():
    t, drop, _, geodesic = linear_flow(3)
    scaled = sl.inefficiency(t / 7, geodesic**2, 7 * drop)  # L -> 7 L runs 7 times as fast
    np.testing.assert_allclose(scaled, sl.inefficiency(t, geodesic**2, drop))


def test_nothing_has_moved_at_time_zero():
    assert np.isnan(sl.inefficiency(0.0, 0.0, 0.0))
    assert np.isnan(sl.speed_limit_time([0.0], [0.0])[0])


def test_a_loss_that_has_risen_sets_no_limit():
    """T_SL and T/T_SL are missing together: steps beyond stability, noise of minibatches."""
    drop, squared, time = np.array([2.0, 0.0, -2.0]), np.ones(3), np.full(3, 5.0)
    exists = [True, False, False]
    limit, whole = sl.speed_limit_time(squared, drop), sl.inefficiency(time, squared, drop)
    for found in (limit, whole, sl.speed_unevenness(time, squared, drop)):
        assert np.isfinite(found).tolist() == exists
    np.testing.assert_allclose(whole, time / limit)
    assert np.array_equal(sl.speed_limit_time(squared, 2.0), squared / 2)  # shapes of both


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (dict(path_length=[1.0, 0.9]), "l_gamma >= l_geo is broken at time 2: 0.9 <"),
        (dict(action=[1.0, 0.4]), "T action >= l_gamma\\^2 is broken at time 2: 0.8 <"),
    ],
)
def test_a_broken_inequality_is_named(change, named):
    good = dict(time=[1.0, 2.0], action=[1.0, 0.5], path_length=[1.0, 1.0])
    good["geodesic_length"] = [1.0, 1.0]
    sl.check_speed_limit(**good)  # both are equalities here
    with pytest.raises(sl.SpeedLimitError, match=named):
        sl.check_speed_limit(**good | change)


def test_discretisation_is_the_relative_difference_of_action_and_loss_drop():
    np.testing.assert_allclose(sl.discretisation([1.1], [1.0]), 0.1)


def test_kinematic_and_energetic_inefficiency_take_their_own_squares_and_drops():
    """T times action or energy drop over the squared length; uniform motion on a line has 1."""
    for function in (sl.kinematic_inefficiency, sl.energetic_inefficiency):
        assert function(6.0, 2.0, 0.5) == pytest.approx(1.5)
        assert function(2.0, 3.0**2, 3.0**2 / 2.0) == pytest.approx(1.0)


def test_the_action_bounds_the_path_and_not_only_its_chord():
    with pytest.raises(sl.SpeedLimitError, match="T action >= l_gamma"):
        sl.check_speed_limit([2.0], [0.4], [1.0], [0.8])  # 0.8 >= 0.64 but < 1


def test_a_broken_inequality_is_told_from_rounding():
    """The slack is a millionth, relative."""
    for slack, broken in ((5e-7, False), (2e-6, True)):
        for action, path in ((1.0, 1.0 - slack), (1.0 - slack, 1.0)):
            geodesic = [1.0] if path < 1 else [0.5]
            if broken:
                with pytest.raises(sl.SpeedLimitError):
                    sl.check_speed_limit([1.0], [action], [path], geodesic)
            else:
                sl.check_speed_limit([1.0], [action], [path], geodesic)


def test_times_that_a_run_did_not_reach_break_nothing():
    """What diverged is NaN from there on; what is wrong before that is told."""
    nan = np.nan
    sl.check_speed_limit([1.0, 2.0], [1.0, nan], [1.0, nan], [1.0, nan])
    with pytest.raises(sl.SpeedLimitError, match="at time 1"):
        sl.check_speed_limit([1.0, 2.0], [1.0, nan], [0.9, nan], [1.0, nan])
