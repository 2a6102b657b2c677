"""Networks f(x; theta) by name: chains of the layers of module ``layers``, residual, transformer.

Each function takes ``input_shape`` and ``outputs`` and the settings it reads, and returns a network
whose weights ``layers.initialise_`` draws (the transformer draws its own under torch's generator).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from speedlimits.layers import (
    INITIALISATIONS,
    PARAMETERISATIONS,
    GlobalAveragePool,
    ScaledConv2d,
    ScaledLinear,
    gains,
    initialise_,
    output_layer,
    parameter_ranges,
    start_variances,
    with_draw,
)
from speedlimits.residual_network import residual_network
from speedlimits.vision_transformer import vision_transformer

__all__ = [
    "INITIALISATIONS",
    "PARAMETERISATIONS",
    "MODELS",
    "GlobalAveragePool",
    "OutputScale",
    "ScaledConv2d",
    "ScaledLinear",
    "fully_connected",
    "initialise_",
    "myrtle5",
    "myrtle7",
    "myrtle10",
    "parameter_ranges",
    "residual_network",
    "scale_output",
    "start_variances",
    "vision_transformer",
]

# Convolutions before the first, between and after the second pool (Shankar et al. 2020, section 3).
MYRTLE_CONVOLUTIONS = {5: (2, 1, 1), 7: (2, 2, 2), 10: (3, 3, 3)}


class OutputScale(nn.Module):
    """Network x -> a h(x), for networks whose last layer has no scale of its own."""

    def __init__(self, network: nn.Module, scale: float):
        super().__init__()
        self.network = network
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Return a h(x), shape (N, C)."""
        return self.scale * self.network(x)


def scale_output(network: nn.Module, scale: float) -> nn.Module:
    """Return f = a h(theta), the output scale of lazy training (Chizat, Oyallon, Bach 2019).

    The kernel is a^2 times that of h. A chain that ends in a ``ScaledLinear`` takes a into that
    layer's scale and stays a chain; the start of the weights does not change.

    Args:
        network: h; it is changed in place if its last layer takes the scale.
        scale: a > 0.

    Returns:
        The network with outputs multiplied by a.

    Raises:
        ValueError: if a is not positive and finite.
    """
    if not 0 < scale < math.inf:
        raise ValueError(f"output_scale is {scale}; it must be greater than 0 and finite")
    if scale == 1:
        return network
    last = network[-1] if isinstance(network, nn.Sequential) else None
    if isinstance(last, ScaledLinear):
        last.scale *= scale
        return network
    return OutputScale(network, scale)


def myrtle(
    *,
    input_shape: tuple[int, ...],
    outputs: int,
    width: int,
    parameterisation: str,
    initialisation: str = "he",
    depth: int,
) -> nn.Sequential:
    """Myrtle-5, -7 or -10: 3x3 convolutions and a linear layer (Shankar et al. 2020, section 3).

    Three groups of (conv, ReLU), an average pool of 2 after the first and the second, a global
    average pool after the third, linear. The groups hold 2, 1, 1 convolutions in Myrtle-5 (paper,
    section 5), 2, 2, 2 in Myrtle-7 and 3, 3, 3 in Myrtle-10. The height and width of the images
    must be multiples of 4: 8 x 8 digits and 32 x 32 CIFAR-10 images both fit.

    Args:
        input_shape: (channels, height, width) of one image.
        outputs: number of outputs C.
        width: number of channels w of every convolution.
        parameterisation: "ntk", "standard" or "mean_field".
        initialisation: "he" or "torch_default".
        depth: 5, 7 or 10 weight layers.

    Returns:
        The network with uninitialised weights, P = 9 w channels + 9 (depth - 2) w^2 + w C.

    Raises:
        ValueError: if the images are no three-axis arrays or not a multiple of 4 in size.
    """
    if len(input_shape) != 3 or input_shape[1] % 4 or input_shape[2] % 4:
        raise ValueError(
            f"Myrtle-{depth} needs images (channels, height, width) with height and width "
            f"multiples of 4; the data has shape {tuple(input_shape)}"
        )
    hidden_gain, output_gain = gains(initialisation)
    layers: list[nn.Module] = []
    fan_in = input_shape[0]
    for group, count in enumerate(MYRTLE_CONVOLUTIONS[depth]):
        for _ in range(count):
            layers += [ScaledConv2d(fan_in, width, hidden_gain, parameterisation), nn.ReLU()]
            fan_in = width
        layers.append(nn.AvgPool2d(2) if group < 2 else GlobalAveragePool())
    layers.append(output_layer(width, outputs, output_gain, parameterisation))
    return with_draw(nn.Sequential(*layers), initialisation)


myrtle5 = functools.partial(myrtle, depth=5)
myrtle7 = functools.partial(myrtle, depth=7)
myrtle10 = functools.partial(myrtle, depth=10)


def fully_connected(
    *,
    input_shape: tuple[int, ...],
    outputs: int,
    parameterisation: str,
    depth: int,
    width: int | None = None,
    initialisation: str = "he",
) -> nn.Sequential:
    """Fully connected ReLU network with ``depth`` weight layers (depth 1 is linear regression).

    Args:
        input_shape: shape of one input; it is flattened.
        outputs: number of outputs C.
        parameterisation: "ntk", "standard" or "mean_field".
        depth: number of weight layers, at least 1.
        width: units w of every hidden layer; not read at depth 1, which has none.
        initialisation: "he" or "torch_default".

    Returns:
        The network with uninitialised weights.

    Raises:
        ValueError: if depth is below 1, or 1 in mean-field parameterisation, or without a width
            that depth needs.
    """
    if depth < 1:
        raise ValueError(f"depth is {depth}; a network needs at least 1 weight layer")
    if depth == 1 and parameterisation == "mean_field":
        raise ValueError(
            "parameterisation is mean_field, a mean over hidden units; depth 1 has none"
        )
    if depth > 1 and width is None:
        raise ValueError(f"width is missing; a network of depth {depth} has hidden layers")
    hidden = [] if width is None else [width] * (depth - 1)
    sizes = [math.prod(input_shape), *hidden]
    hidden_gain, output_gain = gains(initialisation)
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, units in itertools.pairwise(sizes):
        layers += [ScaledLinear(fan_in, units, hidden_gain, parameterisation), nn.ReLU()]
    layers.append(output_layer(sizes[-1], outputs, output_gain, parameterisation))
    return with_draw(nn.Sequential(*layers), initialisation)


MODELS = {
    "myrtle5": myrtle5,
    "myrtle7": myrtle7,
    "myrtle10": myrtle10,
    "fully_connected": fully_connected,
    "residual_network": residual_network,
    "vision_transformer": vision_transformer,
}


def drawn_network(
    build: Callable[[], nn.Module], seed: int, dtype: torch.dtype = torch.float32
) -> nn.Module:
    """Return a network with its start theta_0, drawn on the CPU from one seed.

    Args:
        build: returns the network; what it draws from torch's global generator is seeded.
        seed: seed of the start.
        dtype: dtype of the weights; complex buffers get that of the same precision.

    Returns:
        The network; torch's global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build()
    return initialise_(in_precision(network, dtype), torch.Generator().manual_seed(seed))


def in_precision(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Convert a network in place, complex buffers to the complex type of the same precision.

    ``network.to(dtype)`` keeps the real part of these alone, ``network.double()`` their precision.

    Args:
        network: to be converted.
        dtype: of its weights.

    Returns:
        The network.
    """
    found = [
        (module, name, buffer.to(dtype.to_complex()))
        for module in network.modules()
        if not isinstance(module, torch.jit.ScriptModule)  # whose buffers must not be missing
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
        if buffer.is_complex()
    ]
    for module, name, _ in found:
        setattr(module, name, None)
    network.to(dtype)
    for module, name, buffer in found:
        setattr(module, name, buffer)
    return network
