"""Networks: architecture, parameterisations, start."""

import math

import pytest
import torch

from speedlimits.networks import (
    MODELS,
    ScaledConv2d,
    fully_connected,
    initialise_,
    myrtle5,
    parameter_ranges,
)


def build(model, parameterisation, width=8):
    options = {"depth": 3} if model == "fully_connected" else {}
    network = MODELS[model](
        input_shape=(2, 8, 8), outputs=3, width=width, parameterisation=parameterisation, **options
    ).double()
    return initialise_(network, torch.Generator().manual_seed(1))


def test_myrtle5_is_the_papers_network_written_out():
    network = build("myrtle5", "standard")
    x = torch.randn(4, 2, 8, 8, dtype=torch.float64)
    w = list(network.parameters())
    conv, relu, pool = torch.nn.functional.conv2d, torch.relu, torch.nn.functional.avg_pool2d
    h = relu(conv(x, w[0], padding=1))
    h = pool(relu(conv(h, w[1], padding=1)), 2)
    h = pool(relu(conv(h, w[2], padding=1)), 2)
    h = relu(conv(h, w[3], padding=1)).mean((2, 3))
    torch.testing.assert_close(network(x), h @ w[4].T)


def test_myrtle5_has_five_weight_layers_of_the_stated_size():
    width, channels, outputs = 16, 3, 10
    network = myrtle5(
        input_shape=(channels, 32, 32), outputs=outputs, width=width, parameterisation="ntk"
    )
    sizes = [p.numel() for p in network.parameters()]
    assert len(sizes) == 5
    assert sum(sizes) == 9 * width * channels + 27 * width**2 + width * outputs


@pytest.mark.parametrize("model", MODELS)
def test_both_parameterisations_start_from_the_same_function(model):
    x = torch.randn(5, 2, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(build(model, "ntk")(x), build(model, "standard")(x))


def test_start_keeps_the_variance_of_a_wide_relu_layer():
    layer = ScaledConv2d(256, 256, math.sqrt(2), "ntk").double()
    initialise_(layer, torch.Generator().manual_seed(0))
    x = torch.relu(torch.randn(2, 256, 16, 16, dtype=torch.float64))
    inside = layer(x)[:, :, 1:-1, 1:-1]  # away from the zero padding
    assert inside.square().mean().item() == pytest.approx(2 * x.square().mean().item(), rel=0.05)


def test_torch_default_has_the_variance_of_torchs_own_layers():
    network = initialise_(
        fully_connected(
            input_shape=(300,),
            outputs=4,
            width=500,
            parameterisation="standard",
            depth=2,
            initialisation="torch_default",
        ),  # fmt: skip
        torch.Generator().manual_seed(0),
    )
    ours, theirs = network[1].weight, torch.nn.Linear(300, 500).weight
    assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.02)
    assert ours.abs().max().item() == pytest.approx(theirs.abs().max().item(), rel=0.01)


def test_unknown_initialisation_is_refused():
    with pytest.raises(ValueError, match="'he', 'torch_default'"):
        myrtle5(
            input_shape=(1, 8, 8), outputs=2, width=2, parameterisation="ntk", initialisation="x"
        )


def test_depth_one_is_linear():
    network = fully_connected(
        input_shape=(4,), outputs=2, width=8, parameterisation="ntk", depth=1
    ).double()
    initialise_(network, torch.Generator().manual_seed(0))
    x, y = torch.randn(2, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(network(x + 2 * y), network(x) + 2 * network(y))


def test_parameter_ranges_cut_the_flat_vector():
    network = build("fully_connected", "ntk")
    theta = torch.nn.utils.parameters_to_vector(network.parameters())
    for (start, stop), parameter in zip(
        parameter_ranges(network).values(), network.parameters(), strict=True
    ):
        assert torch.equal(theta[start:stop], parameter.flatten())


@pytest.mark.parametrize("shape", [(3, 30, 32), (64,), (8, 8)])
def test_myrtle5_refuses_images_it_cannot_pool(shape):
    with pytest.raises(ValueError, match="multiples of 4"):
        myrtle5(input_shape=shape, outputs=10, width=4, parameterisation="ntk")


def test_unknown_parameterisation_and_depth_are_refused():
    with pytest.raises(ValueError, match="'ntk', 'standard'"):
        myrtle5(input_shape=(1, 8, 8), outputs=2, width=2, parameterisation="mup")
    with pytest.raises(ValueError, match="depth is 0"):
        fully_connected(input_shape=(3,), outputs=2, width=2, parameterisation="ntk", depth=0)
