"""Eigenvalues, residue projections and kernel comparisons against SciPy and closed forms."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from speedlimits import spectrum  # noqa: E402
from speedlimits.spectrum_torch import decomposed  # noqa: E402


def power_law_kernel(size: int, exponent: float, seed: int = 0):
    """Return a kernel with eigenvalues k^-exponent, those eigenvalues, and its eigenvectors."""
    vectors = ortho_group.rvs(size, random_state=seed)
    values = np.arange(1, size + 1.0) ** -exponent
    kernel = (vectors * values) @ vectors.T
    return (kernel + kernel.T) / 2, values, vectors


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 40), outputs=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_eigenvalues_and_projections_equal_a_full_decomposition(size, outputs, seed):
    random = np.random.default_rng(seed)
    factor = random.normal(size=(size, size))
    kernel, residue = factor @ factor.T, random.normal(size=(size, outputs))
    before = kernel.copy()
    eigenvalues, projections = spectrum.eigenvalues_and_projections(kernel, residue)
    values, vectors = scipy.linalg.eigh(kernel)
    assert np.array_equal(kernel, before)
    assert np.all(np.diff(eigenvalues) <= 0)
    np.testing.assert_allclose(eigenvalues, values[::-1], rtol=0, atol=1e-12 * values[-1])
    # Projections are unique up to rotations inside nearly equal eigenvalues; spectral sums are
    # not affected by them.
    expected = (vectors.T @ residue) ** 2
    for power in (0.5, 1.0, 2.0):
        value = projections @ np.maximum(eigenvalues, 0.0) ** power
        reference = expected.sum(axis=1) @ np.maximum(values, 0.0) ** power
        assert value == pytest.approx(reference, rel=1e-8)
    assert projections.sum() == pytest.approx((residue**2).sum(), rel=1e-12)


def test_projections_of_separated_eigenvalues_are_exact():
    kernel, values, vectors = power_law_kernel(120, 1.5)
    residue = np.random.default_rng(1).normal(size=120)
    eigenvalues, projections = spectrum.eigenvalues_and_projections(kernel, residue)
    np.testing.assert_allclose(eigenvalues, values, rtol=1e-11)
    np.testing.assert_allclose(projections, (vectors.T @ residue) ** 2, atol=1e-10)


def test_degenerate_and_rank_deficient_kernels():
    residue = np.arange(1.0, 7.0)
    eigenvalues, projections = spectrum.eigenvalues_and_projections(np.eye(6), residue)
    np.testing.assert_allclose(eigenvalues, 1.0)
    assert projections.sum() == pytest.approx(residue @ residue)
    kernel = np.outer(residue, residue)
    eigenvalues, projections = spectrum.eigenvalues_and_projections(kernel, residue)
    assert eigenvalues[0] == pytest.approx(residue @ residue)
    assert projections[0] == pytest.approx(residue @ residue)
    np.testing.assert_allclose(eigenvalues[1:], 0.0, atol=1e-12)
    zeros, projections = spectrum.eigenvalues_and_projections(np.zeros((6, 6)), residue)
    assert not zeros.any() and projections.sum() == pytest.approx(residue @ residue)


@pytest.mark.parametrize("seed", range(8))
def test_every_eigenvalue_may_come_once_per_output(seed):
    """Theta = K x 1_C, as of one linear layer: stemr fails for most of these seeds."""
    random = np.random.default_rng(seed)
    factor, residue = random.normal(size=(64, 64)), random.normal(size=640)
    block = factor @ factor.T
    kernel = np.kron(block, np.eye(10))
    eigenvalues, projections = spectrum.eigenvalues_and_projections(kernel, residue)
    values, vectors = np.linalg.eigh(block)
    np.testing.assert_allclose(
        eigenvalues, np.repeat(values[::-1], 10), rtol=0, atol=1e-13 * values[-1]
    )
    expected = ((vectors.T @ residue.reshape(64, 10)) ** 2).sum(axis=1)[::-1]
    np.testing.assert_allclose(projections.reshape(64, 10).sum(axis=1), expected, rtol=1e-6)
    dense = np.linalg.eigh(kernel)[0][::-1]
    np.testing.assert_allclose(eigenvalues, dense, rtol=0, atol=1e-13 * values[-1])


def test_residue_layouts_of_full_and_traced_kernels():
    kernel, _, _ = power_law_kernel(12, 1.0)
    residue = np.random.default_rng(2).normal(size=(4, 3))
    full = spectrum.eigenvalues_and_projections(kernel, residue)
    flat = spectrum.eigenvalues_and_projections(kernel, residue.ravel())
    np.testing.assert_array_equal(full[1], flat[1])
    traced, _, _ = power_law_kernel(4, 1.0)
    _, projections = spectrum.eigenvalues_and_projections(traced, residue)
    columns = [spectrum.eigenvalues_and_projections(traced, column)[1] for column in residue.T]
    np.testing.assert_allclose(projections, np.sum(columns, axis=0), rtol=1e-10)


@pytest.mark.parametrize(
    ("kernel", "residue", "message"),
    [
        (np.ones((2, 3)), np.ones(2), "must be square"),
        (np.eye(3), np.ones(2), "does not fit"),
        (np.diag([1.0, np.nan]), np.ones(2), "not finite"),
        (np.eye(2), np.array([1.0, np.inf]), "not finite"),
    ],
)
def test_bad_kernels_and_residues_are_refused(kernel, residue, message):
    with pytest.raises(ValueError, match=message):
        spectrum.eigenvalues_and_projections(kernel, residue)


def test_parseval_is_checked(monkeypatch):
    exact = spectrum._tridiagonalise

    def wrong(kernel, residue):
        diagonal, off_diagonal, rotated = exact(kernel, residue)
        return diagonal, off_diagonal, 1.001 * rotated

    monkeypatch.setattr(spectrum, "_tridiagonalise", wrong)
    with pytest.raises(ArithmeticError, match="residue projections sum to"):
        spectrum.eigenvalues_and_projections(np.diag([3.0, 2.0, 1.0]), np.ones(3))


@pytest.mark.parametrize(
    ("values", "count", "exists"),
    [
        ((3, 2, 1), 2, True),
        ((3, 2, 2 - 1e-7), 2, False),
        ((3, 2, 2), 3, True),
        ((2, 2, 1), 2, True),
    ],
)
def test_equal_eigenvalues_leave_the_leading_space_open(values, count, exists):
    assert spectrum.leading_eigenspace_exists(values, count) == exists


def test_leading_eigenvectors_and_their_overlap():
    kernel, values, vectors = power_law_kernel(30, 1.0)
    eigenvalues, leading = spectrum.leading_eigenvectors(kernel, 4)
    np.testing.assert_allclose(eigenvalues, values[:4], rtol=1e-12)
    assert spectrum.eigenspace_overlap(leading, vectors[:, :4]) == pytest.approx(1.0)
    assert spectrum.eigenspace_overlap(leading, vectors[:, :9]) == pytest.approx(1.0)
    assert spectrum.eigenspace_overlap(leading, vectors[:, 4:8]) == pytest.approx(0.0, abs=1e-12)
    half = spectrum.eigenspace_overlap(leading, vectors[:, 2:6])
    assert half == pytest.approx(0.5)
    angles = scipy.linalg.subspace_angles(leading, np.eye(30)[:, :5])
    overlap = spectrum.eigenspace_overlap(leading, np.eye(30)[:, :5])
    assert overlap == pytest.approx(np.mean(np.cos(angles) ** 2))
    for count in (0, 31):
        with pytest.raises(ValueError, match="1 to 30"):
            spectrum.leading_eigenvectors(kernel, count)
    with pytest.raises(ValueError, match="orthonormal"):
        spectrum.eigenspace_overlap(2 * leading, leading)
    with pytest.raises(ValueError, match="cannot be compared"):
        spectrum.eigenspace_overlap(leading, leading[:-1])


def test_kernel_drift():
    kernel, _, _ = power_law_kernel(5, 1.0)
    assert spectrum.kernel_drift(kernel, kernel) == 0.0
    assert spectrum.kernel_drift(3.0 * kernel, kernel) == pytest.approx(2.0)
    assert spectrum.kernel_drift(np.zeros((5, 5)), kernel) == 1  # all ReLUs died in training
    assert np.isnan(spectrum.kernel_drift(kernel, np.zeros((5, 5))))
    with pytest.raises(ValueError, match="cannot be compared"):
        spectrum.kernel_drift(kernel, np.eye(4))


def test_kernel_target_alignment():
    targets = np.random.default_rng(3).normal(size=(8, 3))
    gram = targets @ targets.T
    assert spectrum.kernel_target_alignment(gram, targets) == pytest.approx(1.0)
    kernel, _, _ = power_law_kernel(8, 1.0)
    expected = np.sum(kernel * gram) / np.linalg.norm(kernel) / np.linalg.norm(gram)
    assert spectrum.kernel_target_alignment(7.0 * kernel, targets) == pytest.approx(expected)
    assert np.isnan(spectrum.kernel_target_alignment(kernel, np.zeros(8)))
    assert np.isnan(spectrum.kernel_target_alignment(np.zeros((8, 8)), targets))


def test_noise_floor_separates_rounding_from_eigenvalues():
    factor = np.random.default_rng(4).normal(size=(60, 20))
    eigenvalues, _ = spectrum.eigenvalues_and_projections(factor @ factor.T, np.ones(60))
    assert np.sum(eigenvalues > spectrum.noise_floor(eigenvalues)) == 20
    assert spectrum.noise_floor([2.0, 1.0]) == 4 * np.finfo(float).eps
    assert spectrum.noise_floor([2.0, 1.0], 50) == 100 * np.finfo(float).eps  # two of fifty


def exact_sums(eigenvalues, projections, times):
    """Return loss and length sums over a whole spectrum."""
    decay = -np.expm1(-np.outer(times, eigenvalues))
    loss = -np.expm1(-2 * np.outer(times, eigenvalues)) @ projections
    return loss, decay**2 @ (projections / eigenvalues)


@pytest.mark.parametrize(("steps", "tolerance"), [(40, 1e-1), (80, 1e-4), (160, 1e-9)])
def test_lanczos_quadrature_reproduces_spectral_sums(steps, tolerance):
    eigenvalues = np.arange(1, 801.0) ** -2
    projections = np.arange(1, 801.0) ** -0.5
    measure = spectrum.spectral_measure_lanczos(
        lambda v: eigenvalues * v, np.sqrt(projections), steps
    )
    assert len(measure.nodes) == len(measure.weights) == steps
    assert measure.weights.sum() == pytest.approx(projections.sum())
    assert measure.nodes[0] == pytest.approx(1.0) and np.all(np.diff(measure.nodes) < 0)
    sums = spectrum._sums(measure.nodes, measure.weights, spectrum.QUADRATURE_TIMES)
    exact = exact_sums(eigenvalues, projections, spectrum.QUADRATURE_TIMES)
    errors = [np.max(np.abs(a - b) / b) for a, b in zip(sums, exact, strict=True)]
    assert max(errors) < tolerance
    assert max(errors) < measure.error_estimate + 1e-12


def test_gauss_and_radau_rules_bracket_the_loss_sum():
    eigenvalues = np.arange(1, 201.0) ** -1.5
    start = np.full(200, 200**-0.5)
    diagonal, off_diagonal = spectrum._lanczos(lambda v: eigenvalues * v, start, 12)
    gauss = spectrum._gauss_rule(diagonal, off_diagonal[:-1], 1.0)
    radau = spectrum._gauss_rule(*spectrum._radau_matrix(diagonal, off_diagonal), 1.0)
    assert radau[0][-1] == pytest.approx(0.0, abs=1e-12)
    times = np.logspace(0, 4, 9)
    exact = exact_sums(eigenvalues, np.full(200, 1 / 200), times)[0]
    above, below = (spectrum._sums(*rule, times)[0] for rule in (gauss, radau))
    assert np.all(below <= exact + 1e-12) and np.all(exact <= above + 1e-12)


def test_lanczos_quadrature_stops_at_an_invariant_subspace():
    eigenvalues = np.array([3.0, 2.0, 1.0, 0.5])
    residue = np.array([1.0, 0.0, 2.0, 0.0])
    measure = spectrum.spectral_measure_lanczos(lambda v: eigenvalues * v, residue, 50)
    np.testing.assert_allclose(measure.nodes, [3.0, 1.0])
    np.testing.assert_allclose(measure.weights, [1.0, 4.0])
    assert measure.error_estimate == 0.0
    single = spectrum.spectral_measure_lanczos(lambda v: 2.0 * v, np.array([3.0]), 1)
    assert single.nodes == [2.0] and single.weights == [9.0]


def test_a_lanczos_quadrature_stopped_after_any_product_continues_to_the_same_bits():
    random = np.random.default_rng(8)
    factor = random.normal(size=(60, 20)) * np.arange(1, 21.0) ** -1
    kernel, residue = factor @ factor.T, random.normal(size=60)
    states, products = [], []

    def keep(state):
        states.append(spectrum.LanczosState(*(np.copy(x) for x in state[:3]), state.scale))

    def product(v):
        products.append(1)
        return kernel @ v

    whole = spectrum.spectral_measure_lanczos(product, residue, 30, on_product=keep)
    assert len(whole.nodes) < 30  # it ends where the Krylov space is invariant
    assert len(states) == len(products) - 1
    for state in states:
        products.clear()
        found = spectrum.spectral_measure_lanczos(product, residue, 30, start_from=state)
        assert len(products) == len(states) + 1 - len(state.diagonal)
        for a, b in zip(found, whole, strict=True):
            np.testing.assert_array_equal(a, b)


def test_lanczos_quadrature_refuses_bad_arguments():
    with pytest.raises(ValueError, match="at least 1"):
        spectrum.spectral_measure_lanczos(lambda v: v, np.ones(3), 0)
    with pytest.raises(ValueError, match="no weight"):
        spectrum.spectral_measure_lanczos(lambda v: v, np.zeros(3), 2)


def test_lanczos_quadrature_of_a_rank_deficient_kernel():
    random = np.random.default_rng(6)
    factor = random.normal(size=(60, 20)) * np.arange(1, 21.0) ** -1
    kernel, residue = factor @ factor.T, random.normal(size=60)
    measure = spectrum.spectral_measure_lanczos(lambda v: kernel @ v, residue, 30)
    eigenvalues, projections = spectrum.eigenvalues_and_projections(kernel, residue)
    times = np.logspace(-1, 4, 20) / eigenvalues[0]
    value = spectrum._sums(measure.nodes, measure.weights, times)
    exact = spectrum._sums(np.maximum(eigenvalues, 0.0), projections, times)
    np.testing.assert_allclose(value, exact, rtol=1e-6)
    assert np.isfinite(measure.error_estimate)


@pytest.mark.parametrize("steps", (60, 100, 160))
def test_lanczos_quadrature_of_a_kernel_with_rounding_leaves_its_noise_out(steps):
    """Rounding leaves negative eigenvalues, where no rule has its least node at 0.

    Nodes of noise, at 1e-9 of the largest, would enter sums over 1/lambda.
    """
    random = np.random.default_rng(0)
    eigenvalues = np.arange(1, 501.0) ** -3
    basis = np.linalg.qr(random.normal(size=(500, 500)))[0]
    noise = random.normal(size=(500, 500))
    noise = 1e-6 * (noise + noise.T) / np.linalg.norm(noise + noise.T, 2)
    kernel, residue = (basis * eigenvalues) @ basis.T + noise, random.normal(size=500)
    measure = spectrum.spectral_measure_lanczos(lambda v: kernel @ v, residue, steps)
    exact, projections = spectrum.eigenvalues_and_projections(kernel, residue)
    assert measure.noise_floor == pytest.approx(spectrum.noise_floor(exact), rel=0.5)
    rules = (measure.nodes, measure.weights), (spectrum.without_noise(exact), projections)
    found, wanted = (spectrum._sums(*rule, spectrum.QUADRATURE_TIMES) for rule in rules)
    error = max(np.max(np.abs(a / b - 1)) for a, b in zip(found, wanted, strict=True))
    assert error / 5 < measure.error_estimate and error < {60: 0.3, 100: 0.1, 160: 1e-6}[steps]


@pytest.mark.parametrize("steps", (38, 41, 44))
def test_noise_that_has_not_shown_as_a_negative_node_is_told_as_error(steps):
    """One small positive node stands for all of it, which a rule with a node at 0 follows."""
    random = np.random.default_rng(1)
    eigenvalues = np.arange(1, 151.0) ** -1.3
    basis = np.linalg.qr(random.normal(size=(300, 300)))[0][:, :150]
    factor = (basis * np.sqrt(eigenvalues)).astype(np.float32)
    rounded = (factor @ factor.T).astype(float)
    factor, residue = factor.astype(float), random.normal(size=300)
    exact, projections = spectrum.eigenvalues_and_projections(factor @ factor.T, residue)
    times = spectrum.QUADRATURE_TIMES / exact[0]
    wanted = spectrum._sums(spectrum.without_noise(exact), projections, times)
    for kernel, told in ((factor @ factor.T, False), ((rounded + rounded.T) / 2, True)):
        measure = spectrum.spectral_measure_lanczos(
            lambda v, kernel=kernel: kernel @ v, residue, steps, rounded=told
        )
        found = spectrum._sums(measure.nodes, measure.weights, times)
        error = max(np.max(np.abs(a / b - 1)) for a, b in zip(found, wanted, strict=True))
        assert (error > 1) == told and error < 5 * measure.error_estimate + 1e-12


def test_no_rule_has_its_least_node_at_zero_above_a_negative_one():
    """Whichever leading part of T has it."""
    for entries in ([-1.0, 2.0, 3.0], [1.0, 0.1, 3.0], [1.0, 2.0, 0.1]):
        diagonal, side = np.array(entries), np.full(3, 0.8)
        nodes = np.linalg.eigvalsh(np.diag(diagonal) + np.diag(side[:2], 1) + np.diag(side[:2], -1))
        assert nodes[0] < 0 and spectrum._radau_matrix(diagonal, side) is None


@given(size=st.integers(2, 40), columns=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_decomposition_on_a_device_agrees_with_the_route_of_the_cpu(size, columns, seed):
    generator = np.random.default_rng(seed)
    basis = np.linalg.qr(generator.normal(size=(size, size)))[0]
    kernel = basis * np.arange(1, size + 1) ** -2.0 @ basis.T
    residue, count = generator.normal(size=(size, columns)), min(size, 2)
    expected = spectrum.eigenvalues_and_projections(kernel, residue)
    found = decomposed(torch.from_numpy(kernel), torch.from_numpy(residue), count)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-9)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-6, atol=1e-9)
    leading = spectrum.leading_eigenvectors(kernel, count)[1]
    assert spectrum.eigenspace_overlap(found[2].numpy(), leading) == pytest.approx(1.0)


def test_quadrature_errors_are_estimated_of_positive_times_and_kernels_alone():
    """At time 0 both sums are zero, and 0/0 hid the errors of all other times."""
    eigenvalues, residue = np.geomspace(1, 1e-6, 60), np.ones(60)
    with pytest.raises(ValueError, match="at times > 0"):
        spectrum.spectral_measure_lanczos(
            lambda v: eigenvalues * v, residue, 5, scaled_times=[0.0, 1.0, 10.0]
        )
    with pytest.raises(ValueError, match="no positive eigenvalue"):
        spectrum.spectral_measure_lanczos(lambda v: -eigenvalues * v, residue, 5)
