"""Marchenko-Pastur integrals against QUADPACK, moments, and finite random matrices."""

from __future__ import annotations

import itertools
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from speedlimits import linear_regression, marchenko_pastur
from speedlimits.langevin_linear import gaussian_data

EXAMPLES = settings(deadline=None, max_examples=20)
RATIOS = st.floats(0.05, 8.0)


@EXAMPLES
@given(RATIOS)
def test_moments(ratio):
    """Mass 1, mean c, second moment c + c^2, by the rule and (mass) by QUADPACK on the density."""
    for power, moment in ((0, 1.0), (1, ratio), (2, ratio + ratio**2)):
        value = marchenko_pastur.integral(lambda h, power=power: h**power, ratio)
        assert value == pytest.approx(moment, rel=1e-9)
    lower, upper = marchenko_pastur.support(ratio)
    if lower > 1e-3:
        mass = quad(lambda h: float(marchenko_pastur.density(h, ratio)), lower, upper)[0]
        assert mass == pytest.approx(min(1.0, ratio), rel=1e-5)
        assert mass + marchenko_pastur.point_mass(ratio) == pytest.approx(1.0, rel=1e-5)


@EXAMPLES
@given(st.floats(0.2, 6.0), st.floats(0.05, 20.0))
def test_integral_equals_quadpack_with_the_density(ratio, time):
    def function(h):
        return np.exp(-h * time) + np.sqrt(1.0 + h)

    lower, upper = marchenko_pastur.support(ratio)
    middle, half = 0.5 * (lower + upper), 0.5 * (upper - lower)

    def integrand(angle):
        h = middle + half * np.sin(angle)
        return float(marchenko_pastur.density(h, ratio) * function(h)) * half * np.cos(angle)

    # panels that shrink towards the lower edge, where the density peaks for a ratio near 1
    edges = np.append(-np.pi / 2, np.pi * 2.0 ** np.arange(-40.0, 1.0) - np.pi / 2)
    value = sum(quad(integrand, a, b, epsrel=1e-10)[0] for a, b in itertools.pairwise(edges))
    value += marchenko_pastur.point_mass(ratio) * float(function(0.0))
    assert marchenko_pastur.integral(function, ratio) == pytest.approx(value, rel=1e-6)


@EXAMPLES
@given(st.sampled_from([0.3, 1.0, 3.0]), st.floats(0.01, 3.0))
def test_stieltjes_transform_in_closed_form(ratio, ridge):
    """Mean of 1/(h + ridge), the positive root of ridge m^2 + (c - 1 + ridge) m - 1 = 0."""
    value = marchenko_pastur.integral(lambda h: 1.0 / (h + ridge), ratio)
    middle = ratio - 1.0 + ridge
    root = (-middle + np.sqrt(middle**2 + 4.0 * ridge)) / (2.0 * ridge)
    assert value == pytest.approx(root, rel=1e-8)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("temperature", [0.0, 0.3])
def test_finite_data_sets_converge_to_the_limit(ratio, temperature):
    """Self-averaging: the deviation of one data set falls as 1/d (here within 10/d)."""
    generator = np.random.default_rng(11)
    times, d = np.array([0.3, 2.0, 15.0]), 300
    limit = linear_regression.predict(
        marchenko_pastur.limiting_modes(
            ratio, start_variance=0.2, temperature=temperature, noise_variance=0.1
        ),
        times,
    )
    data = gaussian_data(
        int(ratio * d), d, teacher_variance=1.0, noise_variance=0.1, generator=generator
    )
    eigenvalues = np.clip(np.linalg.eigvalsh(data.inputs.T @ data.inputs), 0, None)
    eigenvalues[eigenvalues < 1e-10] = 0.0
    averaged = linear_regression.OrnsteinUhlenbeckModes(
        eigenvalues,
        linear_regression.expected_displacements_squared(eigenvalues, 1.0, 0.1),
        0.2,
        temperature,
    )
    finite = linear_regression.predict(averaged, times)
    for name, power in (
        ("inefficiency", 0.0),
        ("speed_limit_time", 0.0),
        ("wasserstein_squared", 1.0),
        ("free_energy_drop", 1.0),
        ("path_length", 0.5),
    ):
        np.testing.assert_allclose(finite[name] / d**power, limit[name], rtol=10.0 / d)


@EXAMPLES
@given(RATIOS, st.integers(1, 7))
def test_moments_are_sums_of_narayana_numbers(ratio, power):
    """Mean of h^p = sum_k c^k binom(p, k) binom(p, k - 1) / p, by combinatorics of the matrices."""
    counts = [comb(power, k) * comb(power, k - 1) / power for k in range(1, power + 1)]
    expected = sum(n * ratio**k for k, n in enumerate(counts, start=1))
    value = marchenko_pastur.integral(lambda h: h**power, ratio)
    assert value == pytest.approx(expected, rel=1e-9)


@EXAMPLES
@given(RATIOS | st.floats(0.99, 1.01), st.floats(0.1, 5.0))
def test_stieltjes_transform_at_any_ratio_from_its_equation(ratio, ridge):
    """Mean of 1/(h + ridge), whose equation is ridge m^2 + (c - 1 + ridge) m - 1 = 0."""
    value = marchenko_pastur.integral(lambda h: 1.0 / (h + ridge), ratio)
    residue = ridge * value**2 + (ratio - 1.0 + ridge) * value - 1.0
    assert abs(residue) <= 1e-8 * (1.0 + ridge * value**2)
    # and by the modes of the limit, whose sums are the integrals
    modes = marchenko_pastur.limiting_modes(ratio, start_variance=1.0, temperature=0.0)
    total = np.sum(modes.multiplicities / (modes.eigenvalues + ridge))
    assert total == pytest.approx(value, rel=1e-9)
    assert modes.multiplicities.sum() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("ratio", [0.999, 1.0, 1.0001, 1.001, 1.2])
@pytest.mark.parametrize("time", [1e3, 1e5, 1e6])
def test_limit_at_late_times_by_adaptive_quadrature(ratio, time):
    """Temperature 0, unit teacher and s_0: W2^2 = (1 + s_0) <(1 - e^{-hT})^2>, and so the drop.

    Panels grow by halves of decades from the lower edge, where the density peaks if c is near 1.
    """
    lower, upper = marchenko_pastur.support(ratio)
    edges = lower + np.append(0.0, np.geomspace(max(1e-14, 1e-8 * lower), upper - lower, 40))

    def mean(function):
        panels = zip(edges[:-1], edges[1:], strict=True)
        integrand = lambda h: float(marchenko_pastur.density(h, ratio)) * function(h)  # noqa: E731
        return sum(quad(integrand, *panel, epsabs=0, epsrel=1e-9, limit=200)[0] for panel in panels)

    squared = mean(lambda h: np.expm1(-h * time) ** 2)
    drop = mean(lambda h: -0.5 * h * np.expm1(-2 * h * time))
    modes = marchenko_pastur.limiting_modes(ratio, start_variance=0.1, temperature=0.0)
    found = linear_regression.inefficiency(modes, time)
    assert found == pytest.approx(time * drop / squared, rel=1e-7)


STATISTICAL = settings(deadline=None, max_examples=8, derandomize=True)


@STATISTICAL
@given(st.floats(0.2, 4.0), st.integers(0, 2**32 - 1))
def test_eigenvalues_of_a_random_matrix_follow_the_density(ratio, seed):
    """Largest distance of the counting function from the integral of the density, of order 1/d."""
    d = 200
    n = round(ratio * d)
    data = gaussian_data(
        n, d, teacher_variance=1.0, noise_variance=0.0, generator=np.random.default_rng(seed)
    )
    h = np.sort(np.linalg.eigvalsh(data.inputs.T @ data.inputs))
    lower, upper = marchenko_pastur.support(n / d)
    assert h[-1] < upper * (1 + 8 / d ** (2 / 3))  # Tracy-Widom: edges fluctuate as d^(-2/3)
    levels = lower + (upper - lower) * np.linspace(0.05, 0.95, 10)
    share = np.array([
        marchenko_pastur.point_mass(n / d)
        + quad(lambda x: float(marchenko_pastur.density(x, n / d)), lower, level, limit=200)[0]
        for level in levels
    ])  # fmt: skip
    assert np.max(np.abs(np.searchsorted(h, levels) / d - share)) < 5 / d


@STATISTICAL
@given(
    st.floats(0.3, 4.0), st.sampled_from([0.0, 0.1, 2.0]), st.sampled_from([0.0, 0.2]),
    st.floats(0.0, 2.0), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_any_large_data_set_has_the_sums_of_the_limit(ratio, temperature, ridge, noise, seed):
    """Random ratio, noise, ridge and temperature: a drawn teacher and drawn noise at d = 400.

    A drawn teacher fluctuates as 1/sqrt(d), its average over teachers as 1/d.
    """
    d, times = 400, np.array([0.1, 1.0, 10.0])
    n = round(ratio * d)
    common = {"start_variance": 0.2, "temperature": temperature, "ridge": ridge}
    limit = linear_regression.predict(
        marchenko_pastur.limiting_modes(n / d, noise_variance=noise, **common), times
    )
    data = gaussian_data(
        n, d, teacher_variance=1.0, noise_variance=noise, generator=np.random.default_rng(seed)
    )
    drawn = linear_regression.modes_of_data(
        data.inputs, data.targets, np.zeros(d), 0.2, temperature, ridge
    )
    averaged = linear_regression.OrnsteinUhlenbeckModes(
        drawn.eigenvalues,
        linear_regression.expected_displacements_squared(
            drawn.eigenvalues - ridge, 1.0, noise, ridge
        ),
        0.2,
        temperature,
    )
    for modes, allowed in ((averaged, 12 / d), (drawn, 6 / np.sqrt(d))):
        finite = linear_regression.predict(modes, times)
        for name, power in (
            ("inefficiency", 0.0),
            ("speed_limit_time", 0.0),
            ("wasserstein_squared", 1.0),
            ("free_energy_drop", 1.0),
            ("mean_excess_loss", 1.0),
            ("path_length", 0.5),
        ):
            # at temperature 0 what is left of the loss hangs on the lowest eigenvalue alone
            atol = allowed * limit[name][0] if name == "mean_excess_loss" else 0.0
            np.testing.assert_allclose(finite[name] / d**power, limit[name], allowed, atol)


@EXAMPLES
@given(st.floats(1.1, 6.0), st.floats(0.0, 2.0), st.floats(0.05, 3.0), st.floats(0.05, 3.0))
def test_equation_6_of_the_limit_in_closed_form(ratio, noise, variance, temperature):
    """Mean of ln h = ln c - 1 - (c - 1) ln(1 - 1/c) for c > 1, and mean of h a^2 = c + noise."""
    modes = marchenko_pastur.limiting_modes(
        ratio, start_variance=variance, temperature=temperature, noise_variance=noise
    )
    kept = modes.multiplicities > 0
    moving = linear_regression.OrnsteinUhlenbeckModes(
        modes.eigenvalues[kept],
        modes.start_displacements_squared[kept],
        variance,
        temperature,
        modes.multiplicities[kept],
    )
    log_mean = np.log(ratio) - 1.0 - (ratio - 1.0) * np.log1p(-1.0 / ratio)
    free = 0.5 * (np.log(temperature / variance) - log_mean - 1.0)
    expected = temperature * free + 0.5 * (ratio * (1.0 + variance) + noise)
    assert np.all(moving.multiplicities >= 0)
    found = linear_regression.infinite_time_free_energy_drop(moving)
    assert found == pytest.approx(expected, rel=1e-7)
    assert linear_regression.free_energy_drop(moving, np.inf) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("ratio", [0.0, -1.0, np.nan])
def test_wrong_ratio_is_refused(ratio):
    with pytest.raises(ValueError, match="ratio"):
        marchenko_pastur.support(ratio)


def test_rough_function_is_refused():
    with pytest.raises(ValueError, match="smooth"):
        marchenko_pastur.integral(lambda h: np.sign(h - 1.2345), 0.7, 1e-13)
