"""Kernels at infinite width against wide finite networks, Gaussian integrals and linear theory."""

import numpy as np
import pytest
import torch
from scipy.integrate import dblquad
from scipy.linalg import expm

from speedlimits import infinite_width, ntk_dynamics
from speedlimits.kernel import empirical_ntk
from speedlimits.networks import fully_connected, initialise_

GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((5, 7))
Y = GENERATOR.standard_normal((5, 3))


def wide_network(width, depth, seed):
    network = fully_connected(
        input_shape=(7,), outputs=3, width=width, depth=depth, parameterisation="ntk"
    ).double()
    return initialise_(network, torch.Generator().manual_seed(seed))


def finite_kernels(width, depth, networks):
    """NTK averaged over the outputs, of independent networks, shape (networks, 5, 5)."""
    return np.stack(
        [
            empirical_ntk(
                wide_network(width, depth, seed), torch.from_numpy(X), traced=True
            ).numpy()
            for seed in range(networks)
        ]
    )


def test_one_layer_is_its_limit_at_any_width():
    np.testing.assert_allclose(
        finite_kernels(4, 1, 2), [infinite_width.kernels(X, 1)[1]] * 2, rtol=1e-12
    )


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_the_mean_over_finite_networks_agrees_with_the_limit(depth):
    """|mean - limit| <= 4 standard errors + bias, with the bias read off a narrower width.

    The bias of the mean kernel is B / width. The narrow networks bound B by their own deviation
    plus 4 standard errors, of which a quarter remains at four times the width. An error E of the
    closed form enters both sides, E <= E / 4 + the allowance, and passes only below 4/3 of it.
    """
    limit = infinite_width.kernels(X, depth)[1]
    narrow, wide = finite_kernels(64, depth, 512), finite_kernels(256, depth, 512)

    def standard_error(kernels):
        return kernels.std(axis=0, ddof=1) / np.sqrt(len(kernels))

    bias = (np.abs(narrow.mean(axis=0) - limit) + 4 * standard_error(narrow)) * 64 / 256
    allowed = 4 * standard_error(wide) + bias
    assert np.all(np.abs(wide.mean(axis=0) - limit) <= allowed)
    # The test is sharp: an error of a tenth of the kernel's norm exceeds 4/3 of the allowance.
    assert np.linalg.norm(allowed) < 0.1 * np.linalg.norm(limit) * 3 / 4


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_single_networks_deviate_as_one_over_root_width(depth):
    """Fluctuations fall as width^(-1/2): a factor 4 over a factor 16, within sampling error."""
    limit = infinite_width.kernels(X, depth)[1]

    def deviation(width):
        squares = np.sum((finite_kernels(width, depth, 128) - limit) ** 2, axis=(1, 2))
        return np.mean(squares), np.std(squares, ddof=1) / np.sqrt(len(squares))

    (narrow, narrow_error), (wide, wide_error) = deviation(32), deviation(512)
    error = np.hypot(narrow_error / narrow, wide_error / wide)
    assert abs(np.log(narrow / wide) - np.log(16)) < 4 * error


def gaussian_mean(function, covariance):
    """<function(u) function(v)> over a Gaussian pair, by quadrature in its own coordinates."""
    root = np.linalg.cholesky(covariance)

    def integrand(b, a):
        u, v = root @ [a, b]
        return function(u) * function(v) * np.exp(-0.5 * (a * a + b * b)) / (2 * np.pi)

    return dblquad(integrand, -8, 8, -8, 8, epsabs=1e-4)[0]


def test_two_layers_are_the_gaussian_integrals():
    first = 2 * X[:2] @ X[:2].T / 7
    covariance, kernel = infinite_width.kernels(X[:2], 2)
    relu = gaussian_mean(lambda z: max(z, 0.0), first)
    step = gaussian_mean(lambda z: float(z > 0), first)
    assert covariance[0, 1] == pytest.approx(relu, rel=2e-3, abs=2e-4)
    assert kernel[0, 1] == pytest.approx(relu + step * first[0, 1], rel=5e-3, abs=1e-3)


def test_outputs_at_the_start_have_the_stated_covariance():
    covariance, _ = infinite_width.kernels(X, 3)
    with torch.no_grad():
        outputs = [wide_network(256, 3, s)(torch.from_numpy(X)).numpy() for s in range(400)]
    measured = np.mean([f @ f.T / 3 for f in outputs], axis=0)
    error = np.sqrt(2 / 1200) * np.trace(covariance) / 5
    np.testing.assert_allclose(measured, covariance, atol=5 * error)


def test_mean_projections_give_the_mean_over_random_residues():
    covariance, kernel = infinite_width.kernels(X, 3)
    times = np.array([0.1, 1.0, 30.0])
    found = infinite_width.predict(X, Y, 3, times)
    root = np.linalg.cholesky(covariance)
    values, vectors = np.linalg.eigh(kernel)
    draws = root @ np.random.default_rng(1).standard_normal((4000, 5, 3))
    drops = np.mean(
        [
            ntk_dynamics.loss_drop(values, np.sum((vectors.T @ (Y - f)) ** 2, axis=1), times)
            for f in draws
        ],
        axis=0,
    )
    np.testing.assert_allclose(drops, found["loss_drop"], rtol=0.04)


def test_symmetric_between_two_sets_and_refuses_depth_zero():
    whole = infinite_width.kernels(X, 3)[1]
    np.testing.assert_allclose(infinite_width.kernels(X[:2], 3, X[2:])[1], whole[:2, 2:])
    with pytest.raises(ValueError, match="depth is 0"):
        infinite_width.kernels(X, 0)


def test_a_given_residue_is_projected_and_followed_exactly():
    """Gradient flow of the limit from one residue, by matrix exponentials of the kernel."""
    kernel, scale, times = infinite_width.kernels(X, 3)[1], 1.7, np.array([0.05, 0.6, 4.0])
    found = infinite_width.spectrum(X, Y, 3, scale, random_start=False)
    ends = [expm(-(scale**2) * kernel * time) @ Y for time in times]
    drops = [0.5 * (np.sum(Y**2) - np.sum(end**2)) for end in ends]
    np.testing.assert_allclose(ntk_dynamics.loss_drop(*found, times), drops, rtol=1e-10)
    # theta_T - theta_0 = J^T Theta^-1 (Delta_0 - Delta_T), so that its square needs Theta^-1 only
    moved = [np.sum((Y - end) * np.linalg.solve(scale**2 * kernel, Y - end)) for end in ends]
    found = ntk_dynamics.geodesic_length_squared(*found, times)
    np.testing.assert_allclose(found, moved, rtol=1e-10)


def test_the_output_scale_multiplies_kernel_and_covariance():
    covariance, kernel = infinite_width.kernels(X, 3)
    plain = infinite_width.spectrum(X, Y, 3)
    wanted = infinite_width.expected_residue_projections(covariance, kernel, Y)
    np.testing.assert_allclose(plain, wanted)
    scaled = infinite_width.spectrum(X, Y, 3, 3.0)
    wanted = infinite_width.expected_residue_projections(9 * covariance, 9 * kernel, Y)
    np.testing.assert_allclose(scaled, wanted)


@pytest.mark.parametrize(
    ("activation", "slope", "least", "most"),
    [
        (lambda z: np.maximum(z, 0), lambda z: (z > 0) * 1.0, -0.95, -0.6),
        (lambda z: np.logaddexp(0, 4 * z) / 4, lambda z: 1 / (1 + np.exp(-4 * z)), -1.15, -0.85),
    ],
    ids=["relu", "softplus"],
)
def test_the_kernel_drifts_with_the_powers_of_section_10(activation, slope, least, most):
    """One hidden layer, by its own formulas: 1 / width for a smooth activation, kinks add -3/4."""
    generator = np.random.default_rng(3)
    inputs = generator.standard_normal((8, 6)) / 2
    targets = generator.standard_normal(8)

    def kernel(first, second):
        hidden, tangent = activation(inputs @ first), slope(inputs @ first) * second
        both = hidden @ hidden.T + tangent @ tangent.T * (inputs @ inputs.T)
        return both / len(second)

    def drift(width):
        first, second = generator.standard_normal((6, width)), generator.standard_normal(width)
        start = kernel(first, second)
        rate = 0.5 / np.linalg.eigvalsh(start)[-1] / np.sqrt(width)
        for _ in range(40):
            hidden = activation(inputs @ first)
            residue = targets - hidden @ second / np.sqrt(width)
            back = residue[:, None] * second * slope(inputs @ first)
            first, second = first + rate * inputs.T @ back, second + rate * hidden.T @ residue
        return np.linalg.norm(kernel(first, second) - start) / np.linalg.norm(start)

    # drifts of single runs scatter by 40 %: 0.05 in the power
    narrow, wide = (np.mean([drift(width) for _ in range(12)]) for width in (512, 8192))
    assert least < np.log(wide / narrow) / np.log(16) < most
