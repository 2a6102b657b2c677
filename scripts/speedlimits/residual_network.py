"""Residual network without batch statistics, from the layers of module ``layers``.

torchvision's residual networks fix 64 to 512 channels and a 7x7 stem made for 224 x 224 images, and
without normalisation their outputs grow as 2^blocks. This one has any width, either
parameterisation, and residual branches scaled so that no normalisation is needed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from speedlimits.layers import GlobalAveragePool, ScaledConv2d, gains, output_layer, with_draw

# With w, 2 w and 4 w channels, as the networks for CIFAR-10 of He et al. 2016a, section 4.2.
STAGES = 3


class ResidualBlock(nn.Module):
    """Pre-activation block x -> x + s conv(ReLU(conv(ReLU(x)))) (He et al. 2016b, figure 1b).

    Where the channels grow, x is pooled by 2 first and the shortcut is padded with zeros: it has no
    weights (He et al. 2016a, shortcut A).
    """

    def __init__(
        self, in_channels: int, channels: int, branch: float, gain: float, parameterisation: str
    ):
        super().__init__()
        self.pool = channels > in_channels
        self.padding = channels - in_channels
        self.branch = branch
        self.first = ScaledConv2d(in_channels, channels, gain, parameterisation)
        self.second = ScaledConv2d(channels, channels, gain, parameterisation)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, shape (N, channels, H, W) or, pooled, (..., H/2, W/2)."""
        x = nn.functional.avg_pool2d(x, 2) if self.pool else x
        residual = self.second(torch.relu(self.first(torch.relu(x))))
        return nn.functional.pad(x, (0, 0, 0, 0, 0, self.padding)) + self.branch * residual


class ResidualNetwork(nn.Module):
    """conv, three stages of residual blocks, ReLU, global average pool, linear."""

    def __init__(self, stem: nn.Module, blocks: list[nn.Module], head: nn.Module):
        super().__init__()
        self.stem = stem
        self.blocks = nn.ModuleList(blocks)
        self.pool = GlobalAveragePool()
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, shape (N, C), of images (N, channels, H, W)."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.pool(torch.relu(x)))


def residual_network(
    *,
    input_shape: tuple[int, ...],
    outputs: int,
    width: int,
    depth: int,
    parameterisation: str,
    initialisation: str = "he",
) -> ResidualNetwork:
    """Residual network of 3 stages with ``depth`` blocks each, 6 depth + 2 weight layers.

    Branches are scaled by s = 1/sqrt(3 depth), which keeps outputs and kernel finite at any depth
    without normalisation (Hayou et al. 2021, Stable ResNet, section 3.1).

    Args:
        input_shape: (channels, height, width) of one image.
        outputs: number of outputs C.
        width: channels w of the first stage; the others have 2 w and 4 w.
        depth: blocks per stage, at least 1.
        parameterisation: "ntk", "standard" or "mean_field".
        initialisation: "he" or "torch_default".

    Returns:
        The network with uninitialised weights.

    Raises:
        ValueError: if depth is below 1, or the images are not a multiple of 4 in size.
    """
    if len(input_shape) != 3 or input_shape[1] % 4 or input_shape[2] % 4:
        raise ValueError(
            "the residual network needs images (channels, height, width) with height and width "
            f"multiples of 4; the data has shape {tuple(input_shape)}"
        )
    if depth < 1:
        raise ValueError(f"depth is {depth}; the residual network needs at least 1 block per stage")
    hidden_gain, output_gain = gains(initialisation)
    branch = 1 / math.sqrt(STAGES * depth)
    blocks: list[nn.Module] = []
    channels = width
    for stage in range(STAGES):
        for _ in range(depth):
            wanted = width * 2**stage
            blocks.append(ResidualBlock(channels, wanted, branch, hidden_gain, parameterisation))
            channels = wanted
    stem = ScaledConv2d(input_shape[0], width, hidden_gain, parameterisation)
    head = output_layer(channels, outputs, output_gain, parameterisation)
    return with_draw(ResidualNetwork(stem, blocks, head), initialisation)
