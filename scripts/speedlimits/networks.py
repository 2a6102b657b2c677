"""Networks f(x; theta): Myrtle-5 and fully connected, in standard or NTK parameterisation.

A layer multiplies its input by ``scale * weight``:

* NTK parameterisation: weight of unit variance and scale = gain / sqrt(fan_in), so that the kernel
  Theta has a finite limit as the width grows (Jacot, Gabriel, Hongler 2018).
* standard parameterisation: weight of variance gain^2 / fan_in and scale = 1.

Initialisation "he" draws Gaussian weights with gain = sqrt(2) before a ReLU (He et al. 2015) and 1
for the output layer; "torch_default" draws uniform weights with gain = 1/sqrt(3) everywhere, as
torch's layers do: outputs and kernel are then far smaller. Both parameterisations give the same
function at the start; they differ in the geometry of weight space and therefore in every length
and time. Layers carry no bias: the paper speaks of "five weight layers".
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

PARAMETERISATIONS = ("ntk", "standard")
INITIALISATIONS = ("he", "torch_default")
HE_GAIN = math.sqrt(2.0)  # before a ReLU; He et al. 2015, equation 10
HE_GAIN_OUTPUT = 1.0  # a linear output layer keeps the variance with gain 1
TORCH_GAIN = 1 / math.sqrt(3.0)  # torch's layers: uniform in +-1/sqrt(fan_in)


class ScaledLinear(nn.Module):
    """Linear layer x -> scale * W x, W of shape (out_features, in_features), no bias."""

    uniform_start = False

    def __init__(self, in_features: int, out_features: int, gain: float, parameterisation: str):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.scale, self.start_deviation = _scale_and_deviation(gain, in_features, parameterisation)

    def forward(self, x: Tensor) -> Tensor:
        """Return scale * x W^T, shape (N, out_features), for x of shape (N, in_features)."""
        return nn.functional.linear(x, self.weight * self.scale)


class ScaledConv2d(nn.Module):
    """3x3 convolution x -> scale * (W * x), stride 1, zero padding 1, no bias.

    W has shape (out_channels, in_channels, 3, 3); fan_in = 9 in_channels.
    """

    kernel_size = 3
    padding = 1
    uniform_start = False

    def __init__(self, in_channels: int, out_channels: int, gain: float, parameterisation: str):
        super().__init__()
        self.weight = nn.Parameter(
            torch.empty(out_channels, in_channels, self.kernel_size, self.kernel_size)
        )
        self.scale, self.start_deviation = _scale_and_deviation(
            gain, in_channels * self.kernel_size**2, parameterisation
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution, shape (N, out_channels, H, W), of x (N, in_channels, H, W)."""
        return nn.functional.conv2d(x, self.weight * self.scale, padding=self.padding)


class GlobalAveragePool(nn.Module):
    """Mean over the two spatial axes: (N, C, H, W) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the spatial mean of x."""
        return x.mean(dim=(2, 3))


def _scale_and_deviation(gain: float, fan_in: int, parameterisation: str) -> tuple[float, float]:
    """Return (scale, standard deviation of a weight at the start) of one layer."""
    if parameterisation not in PARAMETERISATIONS:
        raise ValueError(
            f"parameterisation is {parameterisation!r}; it must be one of {PARAMETERISATIONS}"
        )
    size = gain / math.sqrt(fan_in)
    return (size, 1.0) if parameterisation == "ntk" else (1.0, size)


def _gains(initialisation: str) -> tuple[float, float]:
    """Return the gains of hidden layers and of the output layer."""
    if initialisation not in INITIALISATIONS:
        raise ValueError(
            f"initialisation is {initialisation!r}; it must be one of {INITIALISATIONS}"
        )
    return (HE_GAIN, HE_GAIN_OUTPUT) if initialisation == "he" else (TORCH_GAIN, TORCH_GAIN)


def _with_draw(network: nn.Sequential, initialisation: str) -> nn.Sequential:
    """Return the network after noting in its layers how their weights are drawn."""
    for layer in network:
        if isinstance(layer, (ScaledLinear, ScaledConv2d)):
            layer.uniform_start = initialisation == "torch_default"
    return network


def myrtle5(
    *,
    input_shape: tuple[int, ...],
    outputs: int,
    width: int,
    parameterisation: str,
    initialisation: str = "he",
) -> nn.Sequential:
    """Myrtle-5: four 3x3 convolutions and a linear layer (Shankar et al. 2020; paper, section 5).

    conv ReLU, conv ReLU, average pool 2, conv ReLU, average pool 2, conv ReLU, global average
    pool, linear. The height and width of the images must be multiples of 4.

    Args:
        input_shape: (channels, height, width) of one image.
        outputs: number of outputs C.
        width: number of channels w of every convolution.
        parameterisation: "ntk" or "standard".
        initialisation: "he" or "torch_default".

    Returns:
        The network with uninitialised weights, P = 9 w channels + 27 w^2 + w C of them.

    Raises:
        ValueError: if the images are no three-axis arrays or not a multiple of 4 in size.
    """
    if len(input_shape) != 3 or input_shape[1] % 4 or input_shape[2] % 4:
        raise ValueError(
            f"Myrtle-5 needs images (channels, height, width) with height and width multiples "
            f"of 4; the data has shape {tuple(input_shape)}"
        )
    channels = input_shape[0]

    hidden_gain, output_gain = _gains(initialisation)

    def convolution(in_channels: int) -> ScaledConv2d:
        return ScaledConv2d(in_channels, width, hidden_gain, parameterisation)

    network = nn.Sequential(
        convolution(channels),
        nn.ReLU(),
        convolution(width),
        nn.ReLU(),
        nn.AvgPool2d(2),
        convolution(width),
        nn.ReLU(),
        nn.AvgPool2d(2),
        convolution(width),
        nn.ReLU(),
        GlobalAveragePool(),
        ScaledLinear(width, outputs, output_gain, parameterisation),
    )
    return _with_draw(network, initialisation)


def fully_connected(
    *,
    input_shape: tuple[int, ...],
    outputs: int,
    width: int,
    parameterisation: str,
    depth: int,
    initialisation: str = "he",
) -> nn.Sequential:
    """Fully connected ReLU network with ``depth`` weight layers (depth 1 is linear regression).

    Args:
        input_shape: shape of one input; it is flattened.
        outputs: number of outputs C.
        width: units w of every hidden layer.
        parameterisation: "ntk" or "standard".
        depth: number of weight layers, at least 1.
        initialisation: "he" or "torch_default".

    Returns:
        The network with uninitialised weights.

    Raises:
        ValueError: if depth is below 1.
    """
    if depth < 1:
        raise ValueError(f"depth is {depth}; a network needs at least 1 weight layer")
    sizes = [math.prod(input_shape)] + [width] * (depth - 1)
    hidden_gain, output_gain = _gains(initialisation)
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in in sizes[:-1]:
        layers += [ScaledLinear(fan_in, width, hidden_gain, parameterisation), nn.ReLU()]
    layers.append(ScaledLinear(sizes[-1], outputs, output_gain, parameterisation))
    return _with_draw(nn.Sequential(*layers), initialisation)


MODELS = {"myrtle5": myrtle5, "fully_connected": fully_connected}


def initialise_(network: nn.Module, generator: torch.Generator) -> nn.Module:
    """Draw the weights theta_0 in place, independently, with each layer's start deviation.

    Args:
        network: made of the layers of this module.
        generator: CPU generator, so that the start is the same on every device.

    Returns:
        The same network.
    """
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, (ScaledLinear, ScaledConv2d)):
                weight = layer.weight
                if layer.uniform_start:
                    draw = torch.rand(weight.shape, generator=generator, dtype=torch.float64)
                    draw = math.sqrt(12.0) * (draw - 0.5)
                else:
                    draw = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
                weight.copy_(layer.start_deviation * draw)
    return network


def parameter_ranges(network: nn.Module) -> dict[str, tuple[int, int]]:
    """Return name -> (start, stop) of every parameter inside the flat weight vector theta.

    The order is that of ``torch.nn.utils.parameters_to_vector``.
    """
    ranges, start = {}, 0
    for name, parameter in network.named_parameters():
        ranges[name] = (start, start + parameter.numel())
        start += parameter.numel()
    return ranges
