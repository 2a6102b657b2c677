"""Layers with weights in NTK, standard or mean-field parameterisation, and how they are drawn.

A layer multiplies its input by ``scale * weight``:

* NTK parameterisation: weight of unit variance and scale = gain / sqrt(fan_in), so that the kernel
  Theta has a finite limit as the width grows (Jacot, Gabriel, Hongler 2018).
* standard parameterisation: weight of variance gain^2 / fan_in and scale = 1.
* mean-field parameterisation: as NTK, but the output layer has scale = gain / fan_in, a mean over
  its w inputs: f is 1/sqrt(w) times that of the NTK parameterisation and its kernel 1/w times, so
  that in the time t/w, which the unit 1/lambda_1 takes care of, features move by O(1) at any width.
  With one hidden layer this is the mean-field scaling (Mei, Montanari, Nguyen 2018; Chizat, Bach
  2018); with more it is the maximal-update parameterisation (Yang, Hu 2021).

Initialisation "he" draws Gaussian weights with gain = sqrt(2) before a ReLU (He et al. 2015) and 1
for the output layer; "torch_default" draws uniform weights with gain = 1/sqrt(3) everywhere, as
torch's layers do: outputs and kernel are then far smaller. NTK and standard parameterisation give
the same function at the start; they differ in the geometry of weight space and therefore in every
length and time. Layers carry no bias: the paper speaks of "five weight layers".
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

PARAMETERISATIONS = ("ntk", "standard", "mean_field")
INITIALISATIONS = ("he", "torch_default")
HE_GAIN = math.sqrt(2.0)  # before a ReLU; He et al. 2015, equation 10
HE_GAIN_OUTPUT = 1.0  # a linear output layer keeps the variance with gain 1
TORCH_GAIN = 1 / math.sqrt(3.0)  # torch's layers: uniform in +-1/sqrt(fan_in)


class ScaledLinear(nn.Module):
    """Linear layer x -> scale * W x, W of shape (out_features, in_features), no bias."""

    uniform_start = False
    is_mean = False  # an output layer in mean-field parameterisation

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
    """Return (scale, standard deviation of a weight at the start) of one layer.

    Raises:
        ValueError: if there is no such parameterisation.
    """
    if parameterisation not in PARAMETERISATIONS:
        raise ValueError(
            f"parameterisation is {parameterisation!r}; it must be one of {PARAMETERISATIONS}"
        )
    size = gain / math.sqrt(fan_in)
    return (1.0, size) if parameterisation == "standard" else (size, 1.0)


def gains(initialisation: str) -> tuple[float, float]:
    """Return the gains of hidden layers and of the output layer.

    Args:
        initialisation: one of ``INITIALISATIONS``.

    Raises:
        ValueError: if there is no such initialisation.
    """
    if initialisation not in INITIALISATIONS:
        raise ValueError(
            f"initialisation is {initialisation!r}; it must be one of {INITIALISATIONS}"
        )
    return (HE_GAIN, HE_GAIN_OUTPUT) if initialisation == "he" else (TORCH_GAIN, TORCH_GAIN)


def output_layer(
    in_features: int, outputs: int, gain: float, parameterisation: str
) -> ScaledLinear:
    """Return the last layer; in mean-field parameterisation a mean over its inputs.

    Args:
        in_features: inputs of the layer.
        outputs: C.
        gain: deviation of a weight times sqrt(in_features).
        parameterisation: one of ``PARAMETERISATIONS``.
    """
    layer = ScaledLinear(in_features, outputs, gain, parameterisation)
    if parameterisation == "mean_field":
        layer.scale /= math.sqrt(in_features)
        layer.is_mean = True
    return layer


def with_draw(network: nn.Module, initialisation: str) -> nn.Module:
    """Return the network after noting in its layers how their weights are drawn.

    Args:
        network: made of the layers of this module.
        initialisation: one of ``INITIALISATIONS``.
    """
    for layer in network.modules():
        if isinstance(layer, (ScaledLinear, ScaledConv2d)):
            layer.uniform_start = initialisation == "torch_default"
    return network


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

    Args:
        network: any network.
    """
    ranges, start = {}, 0
    for name, parameter in network.named_parameters():
        ranges[name] = (start, start + parameter.numel())
        start += parameter.numel()
    return ranges


def start_variances(network: nn.Module) -> dict[str, float]:
    """Return name -> variance of a weight at the start, for every parameter.

    Args:
        network: any network.

    Returns:
        The variance of ``initialise_`` for the layers of this module; NaN for other parameters.
    """
    known = {
        f"{name}.weight": layer.start_deviation**2
        for name, layer in network.named_modules()
        if isinstance(layer, (ScaledLinear, ScaledConv2d))
    }
    return {name: known.get(name, math.nan) for name, _ in network.named_parameters()}


def pools_disjoint_squares(layer: nn.AvgPool2d) -> bool:
    """Return whether a pool averages disjoint square cells, and nothing but whole ones.

    Args:
        layer: the pool.
    """
    return (
        isinstance(layer.kernel_size, int)
        and layer.stride == layer.kernel_size
        and layer.padding == 0
        and not layer.ceil_mode
        and layer.divisor_override is None
    )
