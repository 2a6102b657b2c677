"""Power-law constants against finite sums, integrals by quadrature, and each other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import gamma

from speedlimits import ntk_dynamics, power_law

EXAMPLES = settings(deadline=None, max_examples=15)
COUNT = 60_000


def continuum_integrals(s):
    """The integrals over x = k^-alpha T that the sums tend to, by QUADPACK, for -1 < s < 0."""

    def whole_line(function):
        # x = e^u; the integrands fall as e^{(1+s)u} and e^{su}: 700 e-folds are below rounding
        wide = 40.0 / min(1 + s, -s)
        edges = [-wide, -10.0, -2.0, 2.0, 10.0, wide]
        return sum(quad(function, a, b, epsrel=1e-11)[0] for a, b in itertools.pairwise(edges))

    def phi(x):
        return -np.expm1(-x) / x

    drop = whole_line(lambda u: np.exp((s + 1) * u) * phi(2 * np.exp(u)))
    squared = whole_line(lambda u: np.exp((s + 1) * u) * phi(np.exp(u)) ** 2)
    speed_squared = whole_line(lambda u: np.exp((s + 1) * u - 2 * np.exp(u)))
    return drop, squared, speed_squared


@EXAMPLES
@given(st.floats(0.8, 4.0), st.floats(-0.9, -0.1))
def test_constants_equal_the_continuum_integrals(alpha, s):
    delta = 1 + alpha * s
    drop, squared, speed_squared = continuum_integrals(s)
    np.testing.assert_allclose(
        power_law.asymptotic_inefficiency(alpha, delta), drop / squared, rtol=1e-7
    )
    # |theta'|^2 = t^{-(1+s)} speed_squared, so l_NTK = 2/(1-s) T^{(1-s)/2} sqrt(speed_squared)
    ratio = speed_squared * (2 / (1 - s)) ** 2 / squared
    np.testing.assert_allclose(
        power_law.asymptotic_length_ratio_squared(alpha, delta), ratio, rtol=1e-7
    )


@EXAMPLES
@given(st.floats(1.5, 3.0), st.floats(-0.8, 1.8))
def test_full_expansion_equals_sums_with_many_modes(alpha, s):
    """Sums over K modes, the modes beyond K added by their early-time limit (Euler-Maclaurin)."""
    delta, times = 1 + alpha * s, np.array([1e3, 3e3, 1e4])
    eigenvalues, projections = power_law.spectrum(alpha, delta, COUNT)
    tail = (COUNT + 0.5) ** (1 - alpha - delta) / (alpha + delta - 1)
    drop = ntk_dynamics.loss_drop(eigenvalues, projections, times) + times * tail
    squared = ntk_dynamics.geodesic_length_squared(eigenvalues, projections, times)
    squared = squared + times**2 * tail
    np.testing.assert_allclose(power_law.infinite_loss_drop(alpha, delta, times), drop, rtol=1e-4)
    np.testing.assert_allclose(
        power_law.infinite_geodesic_length_squared(alpha, delta, times), squared, rtol=1e-4
    )
    np.testing.assert_allclose(
        power_law.inefficiency_asymptote(alpha, delta, times), times * drop / squared, rtol=2e-4
    )


def test_regimes_meet_where_decimals_say_so():
    """(delta - 1)/alpha of decimals is off -1 and 1 by its rounding, which poles there blow up."""
    for alpha in np.arange(1, 400) / 100:
        low, high = round(1 - alpha, 2), round(1 + alpha, 2)
        assert power_law.regime(alpha, low) == "last modes"
        assert np.all(power_law.inefficiency_asymptote(alpha, low, [10.0, 1e4]) == 1)
        assert power_law.asymptotic_length_ratio_squared(alpha, high) == np.inf
    # and nowhere else
    assert power_law.regime(0.1, 0.9 + 1e-12) == "optimal"
    assert np.isfinite(power_law.asymptotic_length_ratio_squared(0.3, 1.3 - 1e-12))


@pytest.mark.parametrize(("alpha", "delta"), [(1.5, 0.5), (2.0, 0.5), (2.0, 0.0)])
def test_finite_sums_extrapolate_to_the_constants(alpha, delta):
    """Richardson in T: the corrections to the constant fall as T^s and T^{s-1}."""
    s = float(power_law.s_parameter(alpha, delta))
    times = np.array([1e3, 4e3])
    result = ntk_dynamics.predict(*power_law.spectrum(alpha, delta, 400_000), times)
    factor = 4.0**s
    for name, constant, accuracy in (
        ("inefficiency", power_law.asymptotic_inefficiency(alpha, delta), 0.005),
        ("path_excess", power_law.asymptotic_length_ratio_squared(alpha, delta), 0.02),
    ):
        early, late = result[name]
        extrapolated = (late - factor * early) / (1 - factor)
        assert extrapolated == pytest.approx(float(constant), rel=accuracy)


@EXAMPLES
@given(st.floats(1.2, 4.0), st.floats(0.1, 0.85))
def test_growth_exponent_and_constant(alpha, s):
    delta = 1 + alpha * s
    times = np.array([1e14, 1e15])
    value = power_law.inefficiency_asymptote(alpha, delta, times)
    slope = np.log(value[1] / value[0]) / np.log(10.0)
    # corrections fall as T^-s and T^{s-1}
    allowed = 2 * alpha * (1e14**-s + 1e14 ** (s - 1))
    assert abs(slope - power_law.growth_exponent(alpha, delta)) < allowed
    leading = power_law.inefficiency_asymptote(alpha, delta, times, order="leading")
    assert np.all(np.abs(value / leading - 1) < 10 * allowed)


@EXAMPLES
@given(st.floats(0.8, 4.0), st.floats(0.1, 0.9))
def test_growth_constant_by_quadrature(alpha, s):
    """Loss drop zeta(delta)/2 over the integral of x^{s-2} (1 - e^-x)^2 / alpha, by QUADPACK."""
    delta = 1 + alpha * s
    wide = 40.0 / min(1 + s, 1 - s)
    edges = [-wide, -10.0, -2.0, 2.0, 10.0, wide]
    squared = sum(
        quad(lambda u: np.exp((s - 1) * u) * np.expm1(-np.exp(u)) ** 2, a, b, epsrel=1e-11)[0]
        for a, b in itertools.pairwise(edges)
    )
    k = np.arange(1, 2000.5)
    rest = 2000.5 ** (1 - delta) / (delta - 1)  # midpoint of Euler-Maclaurin beyond the sum
    zeta_of_delta = np.sum(k**-delta) + rest
    expected = 0.5 * zeta_of_delta * alpha / squared
    assert power_law.growth_constant(alpha, delta) == pytest.approx(expected, rel=1e-6)


@EXAMPLES
@given(st.floats(0.8, 3.0), st.floats(1.4, 3.0))
def test_growth_constant_beyond_s_of_one_by_direct_sums(alpha, s):
    """Everything converges: half the total loss over the total squared displacement."""
    delta, k = 1 + alpha * s, np.arange(1, 200_001.0)
    total, squared = np.sum(k**-delta), np.sum(k ** (alpha - delta))
    squared += 200_000.5 ** (1 - delta + alpha) / (delta - alpha - 1)
    found = power_law.growth_constant(alpha, delta)
    assert found == pytest.approx(0.5 * total / squared, rel=1e-5)


@EXAMPLES
@given(st.floats(0.8, 4.0))
def test_leading_term_at_s_of_one_is_a_linear_growth_over_a_logarithm(alpha):
    """Against the full expansion, which approaches it as 1/ln tau."""
    delta, tau = 1 + alpha, 10.0 ** np.array([50.0, 250.0])
    with pytest.raises(ValueError, match="growth constant"):
        power_law.growth_constant(alpha, delta)
    full = power_law.inefficiency_asymptote(alpha, delta, tau)
    leading = power_law.inefficiency_asymptote(alpha, delta, tau, order="leading")
    correction = (1 + alpha) * np.euler_gamma - np.log(2)
    np.testing.assert_allclose(leading / full, 1 + correction / np.log(tau), rtol=1e-9)


@EXAMPLES
@given(st.floats(1.5, 3.0), st.floats(-0.8, 0.8))
def test_length_ratio_of_sums_tends_to_its_constant(alpha, s):
    """(l_NTK/l_geo)^2 of infinitely many modes: speed and length by their asymptotic integrals."""
    delta, tau = 1 + alpha * s, 1e12
    eigenvalues, projections = power_law.spectrum(alpha, delta, 60_000)
    times = np.array([1e2, 1e3])
    speeds = ntk_dynamics.speed(eigenvalues, projections, times) ** 2
    tail = (60_000.5) ** (1 - alpha - delta) / (alpha + delta - 1)
    speeds += tail  # modes beyond K still move as at the start
    # |theta'|^2 -> Gamma(s + 1) (2 tau)^-(s + 1) / alpha: section 5.1
    expected = gamma(s + 1) * (2 * times) ** -(s + 1) / alpha
    np.testing.assert_allclose(speeds, expected, rtol=2e-2)
    path = 2 / (1 - s) * tau * np.sqrt(gamma(s + 1) * (2 * tau) ** -(s + 1) / alpha)
    squared = power_law.infinite_geodesic_length_squared(alpha, delta, tau)
    if abs(s) < 0.6:  # zeta(delta - alpha) still matters at tau^{1-s} of 1e12^0.4
        ratio = power_law.asymptotic_length_ratio_squared(alpha, delta)
        assert path**2 / squared == pytest.approx(float(ratio), rel=1e-3)


def test_growth_is_linear_beyond_s_of_one():
    alpha, delta, count = 1.5, 4.0, 2000
    times = np.array([1e3, 1e4])
    value = power_law.finite_power_law_inefficiency(alpha, delta, count, times)
    assert np.log10(value[1] / value[0]) == pytest.approx(1.0, abs=1e-2)
    assert value[1] / times[1] == pytest.approx(power_law.growth_constant(alpha, delta), rel=1e-3)


@EXAMPLES
@given(st.floats(0.8, 4.0))
def test_logarithm_at_delta_of_one(alpha):
    times = np.array([1e3, 1e5])
    result = power_law.inefficiency_asymptote(alpha, 1.0, times)
    limit = (alpha * np.euler_gamma + np.euler_gamma + np.log(2 * times)) / (4 * np.log(2))
    np.testing.assert_allclose(result, limit, rtol=2e-3)
    if alpha > 1.8:  # K^-alpha T is small enough for the sums to be those of all modes
        sums = power_law.finite_power_law_inefficiency(alpha, 1.0, COUNT, times)
        np.testing.assert_allclose(result, sums, rtol=2e-3)
    leading = power_law.inefficiency_asymptote(alpha, 1.0, times, order="leading")
    assert leading[1] - leading[0] == pytest.approx(np.log(100) / (4 * np.log(2)))


@pytest.mark.parametrize("alpha", [0.9, 2.0, 3.3])
@pytest.mark.parametrize("s", [0.0, 1.0])
def test_expansion_is_continuous_through_its_poles(alpha, s):
    times = np.geomspace(1e1, 1e6, 6)
    at = power_law.inefficiency_asymptote(alpha, 1 + alpha * s, times)
    for shift in (-1e-5, 1e-5, -3e-8, 3e-8):
        near = power_law.inefficiency_asymptote(alpha, 1 + alpha * (s + shift), times)
        np.testing.assert_allclose(near, at, rtol=200 * abs(shift) + 1e-6)


@pytest.mark.parametrize("alpha", [0.9, 1.5, 3.3])
@pytest.mark.parametrize("distance", [1.1e-7, 3e-7, 1e-6])
def test_two_terms_that_cancel_leave_no_rounding_beside_their_pole(alpha, distance):
    """On both sides of s = 1 the mean of a smooth function is its value there, to distance^2."""
    times = np.array([1e1, 1e3])
    values = [
        power_law.infinite_geodesic_length_squared(alpha, 1 + alpha * (1 + shift), times)
        for shift in (-distance, 0.0, distance)
    ]
    np.testing.assert_allclose((values[0] + values[2]) / 2, values[1], rtol=2e-8)


def test_constants_meet_at_the_regime_boundaries():
    s = np.array([-1.0, -1.0 + 1e-9, -1e-9])
    alpha, delta = 2.0, 1.0 + 2.0 * s
    inefficiency = power_law.asymptotic_inefficiency(alpha, delta)
    np.testing.assert_allclose(inefficiency[:2], 1.0, rtol=1e-8)
    assert inefficiency[2] == pytest.approx(1 / (4e-9 * np.log(2)), rel=1e-6)
    ratio = power_law.asymptotic_length_ratio_squared(alpha, delta)
    np.testing.assert_allclose(ratio, [1.0, 1.0, 1 / np.log(2)], rtol=1e-8)
    assert power_law.asymptotic_length_ratio_squared(2.0, 3.0) == np.inf
    assert np.isnan(power_law.asymptotic_length_ratio_squared(2.0, 4.0))


@EXAMPLES
@given(st.floats(-0.99, -0.01))
def test_inefficiency_constant_is_the_product_of_its_two_factors(s):
    unevenness = (1 - s) ** 2 / (-4 * s)  # of a speed that falls as t^{-(1+s)/2}
    product = unevenness * power_law.asymptotic_length_ratio_squared(1.0, 1.0 + s)
    np.testing.assert_allclose(product, power_law.asymptotic_inefficiency(1.0, 1.0 + s), rtol=1e-9)


@pytest.mark.parametrize(
    ("alpha", "delta", "expected"),
    [
        (2.0, -1.5, "last modes"),
        (2.0, -1.0, "last modes"),
        (2.0, 0.5, "optimal"),
        (2.0, 1.0, "logarithmic"),
        (2.0, 1.5, "growing"),
    ],
)
def test_regimes(alpha, delta, expected):
    assert power_law.regime(alpha, delta) == expected


def test_last_modes_rule_below_s_of_minus_one():
    """More modes bring T/T_SL nearer to 1 at one time, and the cut-off ends it: T/T_SL ~ T."""
    values = [
        float(power_law.finite_power_law_inefficiency(2.0, -2.0, count, 100.0))
        for count in (50, 500, 5000)
    ]
    assert values[0] > values[1] > values[2] > 1
    assert values[2] < 1.001
    late = power_law.finite_power_law_inefficiency(2.0, -2.0, 50, np.array([1e7, 1e8]))
    assert late[1] / late[0] == pytest.approx(10.0, rel=1e-3)


def test_units_of_time_enter_through_lambda_1():
    times = np.geomspace(10, 1e4, 4)
    plain = power_law.inefficiency_asymptote(2.0, 0.5, times)
    scaled = power_law.inefficiency_asymptote(2.0, 0.5, times / 7.0, lambda_1=7.0)
    np.testing.assert_allclose(scaled, plain)
    sums = power_law.finite_power_law_inefficiency(2.0, 0.5, 100, times)
    np.testing.assert_allclose(
        power_law.finite_power_law_inefficiency(2.0, 0.5, 100, times / 7.0, lambda_1=7.0), sums
    )
    assert np.isnan(power_law.inefficiency_asymptote(2.0, 0.5, 0.5))


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: power_law.spectrum(0.0, 1.0, 3), "alpha"),
        (lambda: power_law.spectrum(1.0, 1.0, 0), "count"),
        (lambda: power_law.growth_constant(2.0, 0.5), "growth constant"),
        (lambda: power_law.infinite_loss_drop(2.0, -2.0, 10.0), "s > -1"),
        (lambda: power_law.inefficiency_asymptote(2.0, 0.5, 10.0, order="third"), "order"),
    ],
)
def test_wrong_arguments_are_refused_with_a_reason(call, word):
    with pytest.raises(ValueError, match=word):
        call()
