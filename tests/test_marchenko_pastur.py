"""Marchenko-Pastur integrals against QUADPACK, moments, and finite random matrices."""

from __future__ import annotations

import itertools

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
    """mean of 1/(h + ridge) = [c - 1 - ridge + sqrt((c - 1 - ridge)^2 + 4 c ridge)] / (2 ridge)...

    solved from ridge m^2 + (c - 1 + ridge) m - 1 = 0, the Marchenko-Pastur equation.
    """
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


@pytest.mark.parametrize("ratio", [0.0, -1.0, np.nan])
def test_wrong_ratio_is_refused(ratio):
    with pytest.raises(ValueError, match="ratio"):
        marchenko_pastur.support(ratio)


def test_rough_function_is_refused():
    with pytest.raises(ValueError, match="smooth"):
        marchenko_pastur.integral(lambda h: np.sign(h - 1.2345), 0.7, 1e-13)
