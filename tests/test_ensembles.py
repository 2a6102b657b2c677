"""Losses of stacked networks against those of each network by itself."""

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from speedlimits.ensembles import EnsembleLoss
from speedlimits.gradient import TrainingLoss
from speedlimits.networks import fully_connected, initialise_, myrtle5

SAMPLES, OUTPUTS, SHAPE = 11, 3, (2, 8, 8)


def realisation(model, seed, dtype=torch.float64):
    """Return one network at its own start."""
    options = {} if model is myrtle5 else {"depth": 3}
    network = model(input_shape=SHAPE, outputs=OUTPUTS, width=5, parameterisation="ntk", **options)
    return initialise_(network, torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("micro_batch", (None, 1, 4))
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6)], ids=str
)
@pytest.mark.parametrize("model", (myrtle5, fully_connected))
def test_every_realisation_has_its_own_loss_and_gradient(model, dtype, tolerance, micro_batch):
    generator = torch.Generator().manual_seed(9)
    inputs = torch.randn(SAMPLES, *SHAPE, generator=generator, dtype=dtype)
    targets = torch.randn(4, SAMPLES, OUTPUTS, generator=generator, dtype=dtype)
    networks = [realisation(model, seed, dtype) for seed in range(4)]
    together = EnsembleLoss(networks, inputs, targets, micro_batch=micro_batch)
    weights = torch.stack([parameters_to_vector(n.parameters()).detach() for n in networks])
    torch.testing.assert_close(together.weights, weights, rtol=0, atol=0)
    moved = weights + 0.01 * torch.randn(weights.shape, generator=generator, dtype=dtype)
    for theta in (weights, moved.double()):
        losses, gradients = together.losses_and_gradients(theta)
        assert losses.dtype == torch.float64 and gradients.dtype == theta.dtype
        for r, network in enumerate(networks):
            loss, gradient = TrainingLoss(network, inputs, targets[r]).loss_and_gradient(theta[r])
            assert float(losses[r]) == pytest.approx(loss, rel=tolerance)
            assert float((gradients[r] - gradient).norm() / gradient.norm()) < tolerance


def test_trajectories_of_descent_equal_separate_runs():
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(SAMPLES, *SHAPE, generator=generator, dtype=torch.float64)
    targets = torch.randn(SAMPLES, OUTPUTS, generator=generator, dtype=torch.float64)
    networks = [realisation(myrtle5, seed) for seed in range(3)]
    together = EnsembleLoss(networks, inputs, targets)
    stacked = together.weights
    for _ in range(50):
        stacked = stacked - 1e-3 * together.losses_and_gradients(stacked)[1]
    for r, network in enumerate(networks):
        alone, loss = together.weights[r], TrainingLoss(network, inputs, targets)
        for _ in range(50):
            alone = alone - 1e-3 * loss.loss_and_gradient(alone)[1]
        moved = (alone - together.weights[r]).norm()
        assert float((stacked[r] - alone).norm() / moved) < 1e-11


def test_what_does_not_fit_is_refused():
    inputs, targets = torch.zeros(SAMPLES, *SHAPE), torch.zeros(SAMPLES, OUTPUTS)
    networks = [realisation(myrtle5, 0, torch.float32)]
    with pytest.raises(ValueError, match="needs at least 1"):
        EnsembleLoss([], inputs, targets)
    with pytest.raises(ValueError, match="differ in shape"):
        EnsembleLoss([*networks, realisation(fully_connected, 0, torch.float32)], inputs, targets)
    with pytest.raises(ValueError, match="11 inputs but targets of shape"):
        EnsembleLoss(networks, inputs, targets[:3])
    with pytest.raises(ValueError, match="at least 1"):
        EnsembleLoss(networks, inputs, targets, micro_batch=0)
