"""Everything measured on the full NTK, from P x P matrices, against the dense kernel."""

import numpy as np
import pytest
import torch

from speedlimits import gauss_newton as gn
from speedlimits import networks
from speedlimits.kernel import empirical_ntk
from speedlimits.ntk_dynamics import predict
from speedlimits.spectrum import (
    eigenspace_overlap,
    eigenvalues_and_projections,
    kernel_drift,
    kernel_target_alignment,
    leading_eigenvectors,
)

SAMPLES, OUTPUTS = 40, 3


@pytest.fixture(params=["myrtle5", "fully_connected"])
def case(request):
    """A network with fewer weights than N C, its start, later weights, inputs and targets."""
    generator = torch.Generator().manual_seed(3)
    options = dict(outputs=OUTPUTS, width=1, parameterisation="ntk")
    if request.param == "myrtle5":
        network, shape = (
            networks.myrtle5(input_shape=(1, 4, 4), **options | {"width": 1}),
            (1, 4, 4),
        )
    else:
        network = networks.fully_connected(input_shape=(6,), depth=2, **options | {"width": 8})
        shape = (6,)
    networks.initialise_(network.double(), generator)
    if request.param == "myrtle5":
        with torch.no_grad():  # one channel: keep every ReLU alive
            for parameter in network.parameters():
                parameter.abs_()
    start = torch.nn.utils.parameters_to_vector(network.parameters()).detach().clone()
    moved = start + 0.1 * torch.randn(len(start), generator=generator, dtype=torch.float64)
    inputs = torch.randn(SAMPLES, *shape, generator=generator, dtype=torch.float64)
    targets = torch.randn(SAMPLES, OUTPUTS, generator=generator, dtype=torch.float64)
    return network, start, moved, inputs, targets


def at(network, weights):
    torch.nn.utils.vector_to_parameters(weights, network.parameters())
    return network


@pytest.mark.parametrize("blocks", [1, 7])
def test_matrices_equal_those_of_the_dense_jacobian(case, blocks):
    network, start, moved, inputs, targets = case
    size = len(start)

    def jacobian(weights):
        j = torch.autograd.functional.jacobian(
            lambda w: torch.func.functional_call(
                network,
                dict(zip(dict(network.named_parameters()), split(network, w), strict=True)),
                (inputs,),
            ),
            weights,
        )
        return j.reshape(-1, size).numpy()

    vectors = targets.reshape(-1, 1)
    memory = 8 * size * (2 * size + 1) + -(-SAMPLES // blocks) * 2 * OUTPUTS * size * 32
    j_0, j_t = jacobian(start), jacobian(moved)
    found = gn.gauss_newton(at(network, moved), inputs, vectors, memory_bytes=memory)
    np.testing.assert_allclose(found.matrix, j_t.T @ j_t, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(found.pulled, j_t.T @ vectors.numpy(), rtol=1e-11, atol=1e-12)
    cross = gn.cross_gauss_newton(network, inputs, start, memory_bytes=memory)
    np.testing.assert_allclose(cross, j_0.T @ j_t, rtol=1e-11, atol=1e-12)
    now = torch.nn.utils.parameters_to_vector(network.parameters())
    assert torch.equal(now, moved)  # the network is left as it was


def split(network, weights):
    parts = weights.split([p.numel() for p in network.parameters()])
    return [w.view(p.shape) for w, p in zip(parts, network.parameters(), strict=True)]


def test_spectral_sums_drift_alignment_and_overlap_equal_the_kernels(case):
    network, start, moved, inputs, targets = case
    y = targets.numpy()
    theta_0 = empirical_ntk(at(network, start), inputs).numpy()
    g_0 = gn.gauss_newton(network, inputs, targets.reshape(-1, 1))
    theta_t = empirical_ntk(at(network, moved), inputs).numpy()
    g_t = gn.gauss_newton(network, inputs, targets.reshape(-1, 1))
    cross = gn.cross_gauss_newton(network, inputs, start)
    values, projections = eigenvalues_and_projections(theta_t, y.reshape(-1))
    found, squared = gn.spectrum(g_t, y)
    np.testing.assert_allclose(found, values, atol=1e-12 * values[0])
    assert squared.sum() == pytest.approx(projections.sum(), rel=1e-12)
    times = np.logspace(-1, 3, 20) / values[0]
    sums = [predict(v, p, times) for v, p in ((found, squared), (values, projections))]
    for name in ("loss_drop", "geodesic_length_squared", "path_length"):
        np.testing.assert_allclose(sums[0][name], sums[1][name], rtol=1e-6, err_msg=name)
    matrices = (g_t.matrix, g_0.matrix, cross)
    assert gn.drift(*matrices) == pytest.approx(kernel_drift(theta_t, theta_0), rel=1e-9)
    expected = kernel_target_alignment(theta_t, y.reshape(-1))
    assert gn.alignment(g_t.matrix, g_t.pulled, y) == pytest.approx(expected, rel=1e-10)
    now, then = (leading_eigenvectors(k, OUTPUTS)[1] for k in (theta_t, theta_0))
    expected = eigenspace_overlap(now, then)
    assert gn.overlap(*matrices, OUTPUTS) == pytest.approx(expected, rel=1e-8)
    for count in (0, len(matrices[0]) + 1):
        with pytest.raises(ValueError, match=f"count is {count}; Theta has 1 to"):
            gn.overlap(*matrices, count)


def test_sums_stopped_after_any_block_continue_to_the_same_bits(case):
    network, start, moved, inputs, targets = case
    at(network, moved)
    vectors = targets.reshape(-1, 1)
    size = len(start)
    memory = 8 * size * (2 * size + 1) + 6 * 2 * OUTPUTS * size * 32  # blocks of 12, or of 6

    def run(function, *arguments, **options):
        return function(network, inputs, *arguments, memory_bytes=memory, **options)

    for function, argument in ((gn.gauss_newton, vectors), (gn.cross_gauss_newton, start)):
        states = []
        whole = run(
            function,
            argument,
            on_block=lambda sums, states=states: states.append(
                sums._replace(matrix=sums.matrix.clone(), pulled=sums.pulled.clone())
            ),
        )
        assert len(states) > 2 and states[-1].done == SAMPLES
        for number, state in enumerate(states):
            rest = []
            found = run(function, argument, start_from=state, on_block=rest.append)
            assert len(rest) == len(states) - number - 1
            for a, b in zip(found, whole, strict=True):  # of matrices: their rows
                np.testing.assert_array_equal(a, b)


def test_more_weights_than_rows_are_refused(case):
    network, _, _, inputs, targets = case
    found = gn.gauss_newton(network, inputs[:2], targets[:2].reshape(-1, 1))
    with pytest.raises(ValueError, match="the kernel has 6 rows"):
        gn.spectrum(found, targets[:2].numpy())
