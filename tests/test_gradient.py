"""The training loss and its gradient against autograd, whole and split, in both precisions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from speedlimits.gradient import TrainingLoss
from speedlimits.networks import fully_connected, initialise_, myrtle5

SAMPLES, OUTPUTS = 11, 3


def make_problem(kind: str, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    shape = (3, 8, 8)
    options = dict(input_shape=shape, outputs=OUTPUTS, width=5, parameterisation="ntk")
    network = myrtle5(**options) if kind == "myrtle5" else fully_connected(**options, depth=3)
    initialise_(network.to(dtype), generator)
    inputs = torch.randn(SAMPLES, *shape, generator=generator, dtype=dtype)
    targets = torch.randn(SAMPLES, OUTPUTS, generator=generator, dtype=dtype)
    return network, inputs, targets


@pytest.mark.parametrize("kind", ["myrtle5", "fully_connected"])
@pytest.mark.parametrize("micro_batch", [None, 1, 4, SAMPLES])
def test_equals_autograd_on_the_whole_batch(kind, micro_batch):
    network, inputs, targets = make_problem(kind, torch.float64)
    theta = parameters_to_vector(network.parameters()).detach()
    loss = 0.5 * (network(inputs) - targets).square().sum()
    expected = parameters_to_vector(torch.autograd.grad(loss, list(network.parameters())))
    training_loss = TrainingLoss(network, inputs, targets, micro_batch=micro_batch)
    value, gradient = training_loss.loss_and_gradient(theta)
    assert value == pytest.approx(loss.item(), rel=1e-14)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12 * expected.norm().item())


def test_splitting_changes_float32_only_by_rounding():
    network, inputs, targets = make_problem("myrtle5", torch.float32)
    theta = parameters_to_vector(network.parameters()).detach().double()
    whole = TrainingLoss(network, inputs, targets, micro_batch=SAMPLES).loss_and_gradient(theta)
    split = TrainingLoss(network, inputs, targets, micro_batch=2).loss_and_gradient(theta)
    assert whole[1].dtype == torch.float64
    assert split[0] == pytest.approx(whole[0], rel=1e-6)
    assert (split[1] - whole[1]).norm() < 1e-5 * whole[1].norm()


def test_repeated_calls_give_the_same_bits_and_leave_the_network_alone():
    network, inputs, targets = make_problem("myrtle5", torch.float32)
    before = parameters_to_vector(network.parameters()).detach().clone()
    training_loss = TrainingLoss(network, inputs, targets, micro_batch=3)
    first = training_loss.loss_and_gradient(before + 0.1)
    training_loss.loss_and_gradient(before - 0.3)
    second = training_loss.loss_and_gradient(before + 0.1)
    assert first[0] == second[0]
    assert torch.equal(first[1], second[1])
    assert torch.equal(parameters_to_vector(network.parameters()), before)
    assert all(p.grad is None for p in network.parameters())


def test_outputs_are_those_of_the_network_at_the_given_weights():
    network, inputs, targets = make_problem("myrtle5", torch.float64)
    theta = parameters_to_vector(network.parameters()).detach() * 1.1
    outputs = TrainingLoss(network, inputs, targets, micro_batch=4).outputs(theta, inputs[:7])
    vector_to_parameters(theta, network.parameters())
    torch.testing.assert_close(outputs, network(inputs[:7]).detach(), rtol=1e-13, atol=1e-13)


def test_gradient_is_the_slope_of_the_loss():
    network, inputs, targets = make_problem("fully_connected", torch.float64)
    theta = parameters_to_vector(network.parameters()).detach()
    training_loss = TrainingLoss(network, inputs, targets)
    direction = torch.randn(theta.shape, generator=torch.Generator().manual_seed(1)).double()
    size = 1e-6 / direction.norm()
    forward = training_loss.loss_and_gradient(theta + size * direction)[0]
    backward = training_loss.loss_and_gradient(theta - size * direction)[0]
    slope = torch.dot(training_loss.loss_and_gradient(theta)[1], direction)
    assert (forward - backward) / (2 * size) == pytest.approx(slope.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("samples", "micro_batch", "message"),
    [(SAMPLES - 1, None, "inputs but"), (SAMPLES, 0, "micro_batch is 0")],
)
def test_wrong_arguments_are_named(samples, micro_batch, message):
    network, inputs, targets = make_problem("fully_connected", torch.float64)
    with pytest.raises(ValueError, match=message):
        TrainingLoss(network, inputs[:samples], targets, micro_batch=micro_batch)


def test_targets_of_another_shape_than_the_outputs_are_refused():
    """They would be broadcast, to the loss of every output against every target."""
    network, inputs, targets = make_problem("fully_connected", torch.float64)
    weights = parameters_to_vector(network.parameters()).detach()
    for wrong in (targets[:, 0], targets[:, :1], targets[..., None]):
        with pytest.raises(ValueError, match=r"the outputs have shape \(11, 3\), the targets"):
            TrainingLoss(network, inputs, wrong).loss_and_gradient(weights)


def test_frozen_weights_are_refused():
    network, inputs, targets = make_problem("fully_connected", torch.float64)
    next(network.parameters()).requires_grad_(False)
    with pytest.raises(ValueError, match="frozen"):
        TrainingLoss(network, inputs, targets)
