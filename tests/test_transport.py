"""W2 between ensembles: identities of Gaussians, assignments by a second solver, optimality."""

from __future__ import annotations

import itertools

import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speedlimits import linear_regression, transport

EXAMPLES = settings(deadline=None, max_examples=20)
SEEDS = st.integers(0, 2**32 - 1)


def random_covariance(generator, d):
    root = generator.standard_normal((d, d + 2))
    return root @ root.T / d


@EXAMPLES
@given(SEEDS, st.integers(1, 6))
def test_gaussian_distance_is_the_cost_of_the_optimal_map(seed, d):
    """W2^2 = tr((I - A) C_0 (I - A)) with the optimal map A = C_0^-1/2 (...)^1/2 C_0^-1/2."""
    generator = np.random.default_rng(seed)
    first, second = random_covariance(generator, d), random_covariance(generator, d)
    shift = generator.standard_normal(d)
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values)) @ vectors.T
    inverse = (vectors / np.sqrt(values)) @ vectors.T
    values, vectors = np.linalg.eigh(root @ second @ root)
    optimal_map = inverse @ (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T @ inverse
    np.testing.assert_allclose(optimal_map @ first @ optimal_map, second, atol=1e-7)
    moved = np.eye(d) - optimal_map
    expected = np.trace(moved @ first @ moved) + shift @ shift
    value = transport.gaussian_wasserstein_squared(np.zeros(d), first, shift, second)
    np.testing.assert_allclose(value, expected, rtol=1e-7, atol=1e-8)
    distance = ot.gaussian.bures_wasserstein_distance(np.zeros(d), shift, first, second)
    np.testing.assert_allclose(value, distance**2, rtol=1e-7, atol=1e-8)


@EXAMPLES
@given(SEEDS)
def test_gaussian_distance_equals_the_closed_form_of_linear_regression(seed):
    generator = np.random.default_rng(seed)
    inputs, targets = generator.standard_normal((4, 6)), generator.standard_normal(4)
    mean, variance, temperature, time = generator.standard_normal(6), 0.4, 0.7, 1.3
    modes = linear_regression.modes_of_data(inputs, targets, mean, variance, temperature)
    h, basis = np.linalg.eigh(inputs.T @ inputs)
    h = np.clip(h, 1e-15, None)
    decay = np.exp(-h * time)
    optimum = np.linalg.pinv(inputs) @ targets
    end_mean = optimum + basis @ (decay * (basis.T @ (mean - optimum)))
    end = variance * decay**2 + temperature * -np.expm1(-2 * h * time) / h
    value = transport.gaussian_wasserstein_squared(
        mean, variance * np.eye(6), end_mean, (basis * end) @ basis.T
    )
    np.testing.assert_allclose(value, linear_regression.wasserstein_squared(modes, time), rtol=1e-6)


@EXAMPLES
@given(SEEDS, st.integers(1, 5))
def test_singular_covariances(seed, d):
    """Points on a line and delta functions, where rounding spoils the matrix root."""
    generator = np.random.default_rng(seed)
    direction = generator.standard_normal(d)
    line = np.outer(direction, direction)
    zero = np.zeros(d)
    scaled = transport.gaussian_wasserstein_squared(zero, line, zero, 4.0 * line)
    np.testing.assert_allclose(scaled, direction @ direction, rtol=1e-6)
    point = transport.gaussian_wasserstein_squared(zero, 0 * line, direction, line)
    np.testing.assert_allclose(point, 2 * direction @ direction, rtol=1e-6)


@EXAMPLES
@given(SEEDS, st.integers(2, 12), st.integers(1, 5))
def test_assignment_agrees_with_the_transport_solver_of_pot(seed, count, d):
    generator = np.random.default_rng(seed)
    starts, ends = generator.standard_normal((2, count, d))
    comparison = transport.compare_couplings(starts, ends)
    uniform = np.full(count, 1.0 / count)
    expected = ot.emd2(uniform, uniform, ot.dist(starts, ends))
    np.testing.assert_allclose(comparison.optimal_cost, expected, rtol=1e-9)
    assert comparison.identity_cost >= comparison.optimal_cost
    assert comparison.relative_gap >= 0
    if d == 1:
        componentwise = transport.componentwise_wasserstein_squared(starts, ends)
        np.testing.assert_allclose(componentwise, expected)


@EXAMPLES
@given(SEEDS, st.integers(2, 6), st.integers(1, 4))
def test_assignment_is_the_cheapest_of_all_permutations(seed, count, d):
    starts, ends = np.random.default_rng(seed).standard_normal((2, count, d))
    comparison = transport.compare_couplings(starts, ends)
    costs = {
        order: np.mean(np.sum((ends[list(order)] - starts) ** 2, axis=1))
        for order in itertools.permutations(range(count))
    }
    best = min(costs, key=costs.get)
    assert tuple(comparison.assignment) == best
    np.testing.assert_allclose(comparison.optimal_cost, costs[best], rtol=1e-12)
    np.testing.assert_allclose(comparison.identity_cost, costs[tuple(range(count))], rtol=1e-12)
    assert comparison.identity_is_optimal == (best == tuple(range(count)))
    expected = costs[tuple(range(count))] / costs[best] - 1
    np.testing.assert_allclose(comparison.relative_gap, expected, rtol=1e-9, atol=1e-12)


@EXAMPLES
@given(SEEDS, st.integers(2, 40), st.integers(1, 5))
def test_componentwise_distance_by_quantiles_and_as_a_lower_bound(seed, count, d):
    """Per component POT's distance on the line; no coupling of all at once can cost less."""
    generator = np.random.default_rng(seed)
    starts = generator.standard_normal((count, d))
    ends = generator.standard_normal(d) + 2.0 * generator.standard_normal((count, d))
    found = transport.componentwise_wasserstein_squared(starts, ends)
    lines = [ot.wasserstein_1d(starts[:, k], ends[:, k], p=2) for k in range(d)]
    np.testing.assert_allclose(found, np.sum(lines), rtol=1e-9)
    assert found <= transport.compare_couplings(starts, ends).optimal_cost * (1 + 1e-12)


@EXAMPLES
@given(SEEDS, st.integers(1, 4), st.integers(12, 40))
def test_fitted_distance_of_affine_images_is_that_of_the_map(seed, d, count):
    """A positive affine map carries fitted Gaussian into fitted Gaussian, optimally (Brenier)."""
    generator = np.random.default_rng(seed)
    linear, shift = random_covariance(generator, d), generator.standard_normal(d)
    starts = generator.standard_normal((count, d))
    ends = starts @ linear + shift
    moved = ends - starts
    mean = moved.mean(axis=0)
    expected = mean @ mean + np.sum((moved - mean) ** 2) / (count - 1)
    found = transport.fitted_gaussian_wasserstein_squared(starts, ends)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(("d", "count", "variance"), [(1, 100, 1.0), (4, 400, 3.0)])
def test_fitted_distance_of_equal_laws_is_its_bias_by_sampling(d, count, variance):
    trials = 600
    samples = np.random.default_rng(d).normal(0, np.sqrt(variance), (trials, 2, count, d))
    found = [transport.fitted_gaussian_wasserstein_squared(*pair) for pair in samples]
    expected = variance * (d * (d + 1) / 2 + 2 * d) / count
    error = np.std(found) / np.sqrt(trials)
    assert error < 0.05 * expected
    # (R - 1) in place of R and the next order: some 1/R of it
    assert np.mean(found) == pytest.approx(expected, abs=3 * error + 2 * expected / count)


@EXAMPLES
@given(SEEDS, st.integers(2, 30), st.integers(1, 8), st.floats(-2, 2))
def test_identity_coupling_is_optimal_for_linearised_dynamics(seed, count, d, exponent):
    """Gradient flow of a convex quadratic is the gradient of a convex function of the start."""
    generator = np.random.default_rng(seed)
    jacobian = generator.standard_normal((max(1, d - 2), d))
    h, basis = np.linalg.eigh(jacobian.T @ jacobian)
    decay = np.exp(-np.clip(h, 0, None) * 10.0**exponent)
    optimum = generator.standard_normal(d)
    starts = generator.standard_normal((count, d))
    ends = optimum + ((starts - optimum) @ basis * decay) @ basis.T
    comparison = transport.compare_couplings(starts, ends)
    assert comparison.identity_is_optimal
    np.testing.assert_allclose(comparison.identity_cost, comparison.optimal_cost, rtol=1e-9)


@EXAMPLES
@given(SEEDS, st.integers(2, 8), st.integers(1, 30), st.floats(-2, 4), st.floats(-8, 2))
def test_identity_is_the_optimum_of_pot_for_linearised_networks(seed, count, n, time, least):
    """Random spectra over many decades: the plan of POT costs what the identity does.

    Ends by the solution in the space of outputs, theta_T = theta_0 + J^T (1 - e^{-Theta T})/Theta
    Delta, which knows nothing of the map of weights that is the gradient of a convex function.
    """
    generator = np.random.default_rng(seed)
    left, right = (np.linalg.qr(generator.standard_normal((m, n)))[0] for m in (n, n + 5))
    eigenvalues = 10.0 ** generator.uniform(least, 2, n)
    jacobian = (left * np.sqrt(eigenvalues)) @ right.T
    starts = generator.standard_normal((count, n + 5))
    residues = generator.standard_normal(n) - starts @ jacobian.T
    gain = -np.expm1(-eigenvalues * 10.0**time) / eigenvalues
    ends = starts + ((residues @ left) * gain) @ left.T @ jacobian
    uniform = np.full(count, 1.0 / count)
    plan, log = ot.emd(uniform, uniform, ot.dist(starts, ends), log=True)
    comparison = transport.compare_couplings(starts, ends)
    assert comparison.identity_is_optimal
    # ot.dist expands the square and so loses eps |theta|^2 of a short distance
    rounding = 1e-14 * np.mean(np.sum(starts**2, axis=1))
    np.testing.assert_allclose(comparison.identity_cost, log["cost"], rtol=1e-8, atol=rounding)
    other = transport.cheapest_other_cost(starts, ends)
    assert other >= comparison.identity_cost * (1 - 1e-9)
    if other > comparison.identity_cost * (1 + 1e-6):
        np.testing.assert_allclose(np.diag(plan), uniform, rtol=1e-6)


@EXAMPLES
@given(SEEDS, st.integers(2, 5), st.integers(1, 4))
def test_cheapest_other_assignment_by_trying_all(seed, count, d):
    starts, ends = np.random.default_rng(seed).standard_normal((2, count, d))
    identity = tuple(range(count))
    costs = [
        np.mean(np.sum((starts - ends[list(order)]) ** 2, axis=1))
        for order in itertools.permutations(identity)
        if order != identity
    ]
    np.testing.assert_allclose(transport.cheapest_other_cost(starts, ends), min(costs))


def test_a_single_realisation_has_no_other_assignment():
    assert np.isnan(transport.cheapest_other_cost(np.zeros((1, 2)), np.ones((1, 2))))


def test_a_swap_is_found():
    starts, ends = np.array([[0.0], [1.0]]), np.array([[1.1], [0.1]])
    comparison = transport.compare_couplings(starts, ends)
    assert list(comparison.assignment) == [1, 0]
    assert not comparison.identity_is_optimal
    assert comparison.optimal_cost == pytest.approx(0.01)
    assert comparison.identity_cost == pytest.approx((1.1**2 + 0.9**2) / 2)


def test_own_costs_take_the_place_of_rounded_ones():
    """Of weights of size 1 that have moved by 1e-9, float32 keeps the rounding alone."""
    generator = np.random.default_rng(0)
    starts, moved = generator.standard_normal((2, 4, 50))
    own = np.sum((1e-9 * moved) ** 2, axis=1)
    rounded = [x.astype(np.float32) for x in (starts, starts + 1e-9 * moved)]
    assert transport.compare_couplings(*rounded).identity_cost > 10 * own.mean()
    comparison = transport.compare_couplings(*rounded, own)
    assert comparison.identity_cost == comparison.optimal_cost
    assert comparison.identity_cost == pytest.approx(own.mean(), rel=1e-12, abs=0)
    assert comparison.identity_is_optimal and comparison.relative_gap == 0
    other = transport.cheapest_other_cost(*rounded, own)
    assert other == pytest.approx(transport.cheapest_other_cost(starts, starts), rel=1e-6)
    with pytest.raises(ValueError, match="shape"):
        transport.compare_couplings(*rounded, own[:3])


def test_the_gap_of_couplings_that_cost_nothing():
    points = np.array([[0.0], [1.0]])
    still = transport.compare_couplings(points, points)
    assert still.identity_is_optimal and still.relative_gap == 0
    assert transport.compare_couplings(points, points[::-1]).relative_gap == np.inf


def test_sampled_distances_tend_to_that_of_the_distributions():
    generator = np.random.default_rng(2)
    deviations = np.array([0.5, 2.0, 1.0])
    count = 20_000
    starts = generator.standard_normal((count, 3))
    ends = 0.3 + deviations * generator.standard_normal((count, 3))
    exact = 3 * 0.3**2 + np.sum((deviations - 1) ** 2)
    fitted = transport.fitted_gaussian_wasserstein_squared(starts, ends)
    sorted_components = transport.componentwise_wasserstein_squared(starts, ends)
    # standard error about 2 sqrt(exact / count) = 0.017
    assert fitted == pytest.approx(exact, abs=0.07)
    assert sorted_components == pytest.approx(exact, abs=0.07)


def test_unequal_samples_are_refused():
    with pytest.raises(ValueError, match="shapes"):
        transport.compare_couplings(np.zeros((3, 2)), np.zeros((4, 2)))


@pytest.mark.parametrize("step", [1e-3, 1e-6, 1e-9])
def test_close_gaussians_are_as_far_apart_as_their_roots(step):
    """Of commuting covariances; their traces, 6 here, cancel to less than rounding."""
    rotation = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    values = np.array([1.0, 2.0, 3.0])
    first, second = ((rotation * v) @ rotation.T for v in (values, values + step))
    found = transport.gaussian_wasserstein_squared(np.zeros(3), first, np.zeros(3), second)
    exact = np.sum((step / (np.sqrt(values + step) + np.sqrt(values))) ** 2)
    assert found == pytest.approx(exact, rel=1e-14 / step)
    same = transport.gaussian_wasserstein_squared(np.zeros(3), first, np.zeros(3), first)
    assert same < 1e-29


def test_what_is_no_covariance_is_refused():
    one, zero = np.eye(2), np.zeros(2)
    for mean, matrix in (
        (zero, [[1.0, 0.5], [0.0, 1.0]]), (zero, -one), (zero, np.eye(3)), (np.zeros(1), one),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="covariance"):
            transport.gaussian_wasserstein_squared(zero, one, mean, matrix)
    rounded = one + 1e-9 * np.array([[0.0, 1.0], [-1.0, -1.0]])
    assert transport.gaussian_wasserstein_squared(zero, one, zero, rounded) < 1e-8
    with pytest.raises(ValueError, match="at least 2"):
        transport.fitted_gaussian_wasserstein_squared(np.ones((1, 3)), np.ones((1, 3)))
    with pytest.raises(ValueError, match="own_costs"):
        transport.compare_couplings(one, one, own_costs=5.0)
