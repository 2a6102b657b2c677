"""Small vision transformer for small images, made of torchvision's (Dosovitskiy et al. 2021)."""

from __future__ import annotations

import importlib
import math
import sys
from types import ModuleType

import torch
from torch import nn

HEADS = 4  # own choice for widths of 16 to 256; ViT-B has 12 at width 768
MLP_RATIO = 4  # hidden units of the perceptrons per channel (Dosovitskiy et al. 2021, table 1)
# What torchvision registers shapes for when it is imported, before its compiled library is looked
# for; a build for CUDA beside a CPU torch cannot load that library.
COMPILED_OPERATORS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def import_torchvision() -> ModuleType:
    """Return torchvision, also where its compiled operators do not fit this torch.

    None of them is used here. Where importing fails for their lack, empty ones are declared.

    Raises:
        ModuleNotFoundError: if torchvision is not installed.
        RuntimeError: if importing fails for another reason than missing operators.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    for name, signature in COMPILED_OPERATORS.items():
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", signature)
    return importlib.import_module("torchvision")


def vision_transformer(
    *, input_shape: tuple[int, ...], outputs: int, width: int, depth: int, patch_size: int
) -> nn.Module:
    """Vision transformer: patches, class token, ``depth`` encoder layers, linear; no dropout.

    It has layer normalisation, biases and torchvision's own start, in standard parameterisation
    only, except that the last layer is drawn with variance 1/width: torchvision starts it at zero,
    where the kernel of all other weights vanishes. It draws from torch's global generator.

    Args:
        input_shape: (channels, height, width) of one square image.
        outputs: number of outputs C.
        width: channels of every token, a multiple of 4 (the number of heads).
        depth: encoder layers.
        patch_size: height and width of a patch, which must divide those of the image.

    Returns:
        The network with its start.

    Raises:
        ValueError: if the images are not square, the patches do not tile them or the heads do not
            share the width.
        ModuleNotFoundError: if torchvision is not installed.
    """
    square = len(input_shape) == 3 and input_shape[1] == input_shape[2]
    if not square or patch_size < 1 or input_shape[1] % patch_size:
        raise ValueError(
            "the vision transformer needs square images (channels, side, side) whose side is a "
            f"multiple of patch_size {patch_size}; the data has shape {tuple(input_shape)}"
        )
    if width % HEADS:
        raise ValueError(
            f"width is {width}; the vision transformer needs a multiple of its {HEADS} heads"
        )
    network = import_torchvision().models.VisionTransformer(
        image_size=input_shape[1],
        patch_size=patch_size,
        num_layers=depth,
        num_heads=HEADS,
        hidden_dim=width,
        mlp_dim=MLP_RATIO * width,
        num_classes=outputs,
    )
    channels = input_shape[0]
    # torchvision takes 3 channels; any number is drawn as there, with variance 1/fan_in.
    network.conv_proj = nn.Conv2d(channels, width, kernel_size=patch_size, stride=patch_size)
    nn.init.trunc_normal_(network.conv_proj.weight, std=1 / math.sqrt(channels * patch_size**2))
    nn.init.zeros_(network.conv_proj.bias)
    nn.init.normal_(network.heads.head.weight, std=1 / math.sqrt(width))
    return network
