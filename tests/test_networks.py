"""Networks: architecture, parameterisations, start."""

import math
import sys

import pytest
import torch

from speedlimits.kernel import choose_route, empirical_ntk
from speedlimits.networks import (
    MODELS,
    ScaledConv2d,
    drawn_network,
    fully_connected,
    initialise_,
    myrtle5,
    parameter_ranges,
    scale_output,
)
from speedlimits.vision_transformer import import_torchvision

SCALED = tuple(name for name in MODELS if name != "vision_transformer")


def build(model, parameterisation, width=8):
    options = {"depth": 2} if model in ("fully_connected", "residual_network") else {}
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


@pytest.mark.parametrize("model", SCALED)
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
@pytest.mark.parametrize("model", ["myrtle5", "myrtle10", "residual_network"])
def test_images_that_cannot_be_pooled_are_refused(shape, model):
    options = {"depth": 1} if model == "residual_network" else {}
    with pytest.raises(ValueError, match="multiples of 4"):
        MODELS[model](
            input_shape=shape, outputs=10, width=4, parameterisation="ntk", **options
        )  # fmt: skip


@pytest.mark.parametrize(("model", "groups"), [("myrtle7", (2, 2, 2)), ("myrtle10", (3, 3, 3))])
def test_deeper_myrtle_networks_written_out(model, groups):
    network = build(model, "standard")
    x = torch.randn(4, 2, 8, 8, dtype=torch.float64)
    w = list(network.parameters())
    assert len(w) == int(model.removeprefix("myrtle"))
    h, index = x, 0
    for group, count in enumerate(groups):
        for _ in range(count):
            h = torch.relu(torch.nn.functional.conv2d(h, w[index], padding=1))
            index += 1
        h = torch.nn.functional.avg_pool2d(h, 2) if group < 2 else h.mean((2, 3))
    torch.testing.assert_close(network(x), h @ w[index].T)


def test_residual_network_written_out():
    network = build("residual_network", "standard")  # 2 blocks per stage
    x = torch.randn(4, 2, 8, 8, dtype=torch.float64)
    w = dict(network.named_parameters())
    assert len(w) == 6 * 2 + 2
    conv, relu, pool = torch.nn.functional.conv2d, torch.relu, torch.nn.functional.avg_pool2d
    h = conv(x, w["stem.weight"], padding=1)
    for block in range(6):
        first, second = (w[f"blocks.{block}.{name}.weight"] for name in ("first", "second"))
        if block in (2, 4):
            h = pool(h, 2)
        branch = conv(relu(conv(relu(h), first, padding=1)), second, padding=1)
        shortcut = torch.cat([h, torch.zeros_like(h)], dim=1) if block in (2, 4) else h
        h = shortcut + branch / math.sqrt(6)
    assert h.shape == (4, 32, 2, 2)
    torch.testing.assert_close(network(x), relu(h).mean((2, 3)) @ w["head.weight"].T)


def test_outputs_of_the_residual_network_stay_finite_with_depth():
    def mean_square(depth):
        network = MODELS["residual_network"](
            input_shape=(3, 8, 8), outputs=200, width=32, depth=depth, parameterisation="ntk"
        )
        initialise_(network, torch.Generator().manual_seed(0))
        x = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        return network(x).square().mean().item()

    # 24 branches of weight 1/24 multiply the variance by less than e, unscaled ones by up to 2^24.
    assert 1 / math.e < mean_square(8) / mean_square(1) < math.e


def test_vision_transformer_is_torchvisions_for_any_channels():
    def network(channels=2):
        return MODELS["vision_transformer"](
            input_shape=(channels, 8, 8), outputs=3, width=16, depth=2, patch_size=4
        )

    drawn = drawn_network(network, 5)
    again = drawn_network(network, 5)
    other = drawn_network(network, 6)
    theta, same, different = (
        torch.nn.utils.parameters_to_vector(n.parameters()) for n in (drawn, again, other)
    )
    assert torch.equal(theta, same) and not torch.equal(theta, different)
    assert type(drawn).__module__ == "torchvision.models.vision_transformer"
    assert drawn(torch.randn(5, 2, 8, 8)).shape == (5, 3)
    assert drawn.seq_length == 4 + 1
    # The last layer is not torchvision's zero: its gradient reaches the other weights.
    loss = drawn(torch.randn(5, 2, 8, 8)).square().sum()
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(loss, drawn.parameters()))


def test_drawing_leaves_torchs_global_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    drawn_network(lambda: torch.nn.Linear(3, 3), 9)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("shape", "width", "words"),
    [((3, 8, 10), 8, "square"), ((64,), 8, "square"), ((3, 9, 9), 8, "multiple"),
     ((3, 8, 8), 10, "4 heads")],
)  # fmt: skip
def test_vision_transformer_refuses_what_it_cannot_tile(shape, width, words):
    with pytest.raises(ValueError, match=words):
        MODELS["vision_transformer"](
            input_shape=shape, outputs=2, width=width, depth=1, patch_size=4
        )


def test_vision_transformer_refuses_patches_of_no_size():
    with pytest.raises(ValueError, match="multiple of patch_size 0"):
        MODELS["vision_transformer"](
            input_shape=(3, 8, 8), outputs=2, width=8, depth=1, patch_size=0
        )


def test_torchvision_is_imported_beside_a_torch_that_lacks_its_operators(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    assert import_torchvision().models.VisionTransformer.__name__ == "VisionTransformer"


@pytest.mark.parametrize("model", SCALED)
def test_mean_field_is_the_ntk_parameterisation_with_output_scale_one_over_root_fan_in(model):
    x = torch.randn(5, 2, 8, 8, dtype=torch.float64)
    mean_field = build(model, "mean_field")
    ntk = scale_output(build(model, "ntk"), 1 / math.sqrt(32 if model == "residual_network" else 8))
    torch.testing.assert_close(mean_field(x), ntk(x), rtol=1e-12, atol=0)


def test_mean_field_has_one_over_width_in_front_of_the_sum_over_units():
    network = fully_connected(
        input_shape=(4,), outputs=2, width=50, parameterisation="mean_field", depth=2
    ).double()
    initialise_(network, torch.Generator().manual_seed(0))
    x = torch.randn(3, 4, dtype=torch.float64)
    first, second = network.parameters()
    units = torch.relu(x @ first.T * math.sqrt(2 / 4))
    torch.testing.assert_close(network(x), units @ second.T / 50)


def test_mean_field_needs_hidden_units():
    with pytest.raises(ValueError, match="depth 1 has none"):
        fully_connected(
            input_shape=(3,), outputs=2, width=2, parameterisation="mean_field", depth=1
        )


@pytest.mark.parametrize("model", SCALED)
def test_output_scale_multiplies_outputs_and_keeps_the_start_and_the_route(model):
    x = torch.randn(5, 2, 8, 8, dtype=torch.float64)
    plain, scaled = build(model, "ntk"), scale_output(build(model, "ntk"), 3.5)
    torch.testing.assert_close(scaled(x), 3.5 * plain(x))
    for a, b in zip(plain.parameters(), scaled.parameters(), strict=True):
        assert torch.equal(a, b)
    assert choose_route(scaled, x).name == choose_route(plain, x).name
    ratio = empirical_ntk(scaled, x) / empirical_ntk(plain, x)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 3.5**2), rtol=1e-9, atol=0)


@pytest.mark.parametrize("scale", [0, -1, math.nan, math.inf])
def test_output_scale_must_be_positive(scale):
    with pytest.raises(ValueError, match="greater than 0"):
        scale_output(torch.nn.Linear(2, 2), scale)


def test_unknown_parameterisation_and_depth_are_refused():
    with pytest.raises(ValueError, match="'ntk', 'standard', 'mean_field'"):
        myrtle5(input_shape=(1, 8, 8), outputs=2, width=2, parameterisation="mup")
    with pytest.raises(ValueError, match="depth is 0"):
        fully_connected(input_shape=(3,), outputs=2, width=2, parameterisation="ntk", depth=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_complex_buffers_keep_their_imaginary_part(dtype):
    phases = torch.tensor([1 + 2j, -3j], dtype=torch.complex64)

    def build():
        network = torch.nn.Sequential(torch.nn.Linear(2, 2))
        network.register_buffer("outer", torch.tensor(1.5))
        network[0].register_buffer("phases", phases.clone())
        return network

    network = drawn_network(build, 0, dtype)
    assert network[0].phases.dtype == dtype.to_complex() and network.outer.dtype == dtype
    assert torch.equal(network[0].phases, phases.to(dtype.to_complex()))
    assert set(dict(network.named_buffers())) == {"outer", "0.phases"}
