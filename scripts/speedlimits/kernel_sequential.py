"""Exact NTK of a chain of the layers of module ``networks``, by matrix products.

Theta = sum over weight layers of Theta_l. Every layer stores *factors* per sample, from which one
kind of matrix product gives Theta_l. With b the output channels o, s the positions, C outputs:

* ``linear``: d f_a / d W = g_a h^T (h the layer's input, g_a the cotangent of its output), so
  Theta_l[(i, a), (j, b)] = <h_i, h_j> <g_ia, g_jb>. No Jacobian is formed.
* ``pooled``, the last convolution under ReLU, global average pool and a linear layer V: there
  g_a(o, s) = V_ao mask(o, s) / S, so d f_a / d W_o = V_ao M_o with
  M_o = sum_s mask(o, s) patch(s) / S the same for all outputs, and
  Theta_l[(i, a), (j, b)] = sum_o V_ao V_bo <M_o(i), M_o(j)>.
* ``convolution``: the rows d f_a / d W = sum_s g_a(s) patch(s)^T of J_l, one matrix product per
  sample; then Theta_l = J_l J_l^T, lower triangle only.

The output-traced kernel takes the same factors with the outputs moved from rows to columns.

Operations (multiply and add = 2) for N samples, Myrtle-5 of width w on S positions:
  per-sample gradients  N * C * w^2 * 18 * (2 S + 2 S/4 + ...)   (cotangents and weight gradients)
  products              (N C)^2 * (27 w + 18 w^2)                (convolutions 1 to 3, half each)
                        + 18 (N w)^2 + (N C)^2 w                 (last convolution)
A route that multiplies whole Jacobians pays 2 (N C)^2 P = (N C)^2 (54 w + 54 w^2): three times
the products, for the same per-sample gradients. Contracting the S_l positions of layer l pairwise
instead of forming J_l would cost S_l^2 w (9 + C) per pair of samples against 9 w^2 C^2: more,
unless the image is small or w above S_l^2 / 47 at C = 10 (1400 on 16 x 16 positions).

Precision. Images share a mean, and so do their gradients: the entries of Theta are dominated by a
component of rank C, and float32 rounds all of Theta at that component's size, which drowns the
small eigenvalues. J = D + 1 m, with m a mean over samples, gives exactly
    J J^T = D D^T + (D m^T) 1^T + 1 (D m^T)^T + m m^T,
where only D D^T, whose entries are small, is multiplied in float32; the terms with m have rank C
and take float64. ``linear`` and ``pooled`` factors are cheap and multiplied in float64.

Memory. Columns of J_l (output channels of layer l) are processed in passes that fit the budget;
a pass holds all samples, and sweeps through the network once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from speedlimits.blocks import add_product_, consecutive_slices, mirror_lower_
from speedlimits.layers import (
    GlobalAveragePool,
    ScaledConv2d,
    ScaledLinear,
    pools_disjoint_squares,
)

WEIGHT_LAYERS = (ScaledLinear, ScaledConv2d)
KNOWN_LAYERS = (*WEIGHT_LAYERS, nn.ReLU, nn.AvgPool2d, GlobalAveragePool, nn.Flatten)
OF_IMAGES = (ScaledConv2d, nn.AvgPool2d, GlobalAveragePool)
# Where torch keeps hooks of a module, which may change what it computes (pruning, spectral norm)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
PANEL_ROWS = 1536  # rows of Theta per product: measured full speed from 1024 on
SPARE_PARTS = 8  # panel and micro-batch grow by at most an eighth of the spare memory each
# Cotangents of one micro-batch. On a CPU they should stay in the last-level cache: of 3 to 48 MiB,
# 12 to 16 were fastest (x86-64, 16 to 128 channels: 5 to 30 % less time than 3). A GPU needs enough
# of them to fill its multiprocessors.
SWEEP_BYTES = {"cpu": 12 * 2**20, "cuda": 512 * 2**20}
# A product per output beats copying the cotangents of all outputs of a sample into one matrix first
# below this fan-in and above this many multiplications (measured on x86-64, 16 to 128 channels: at
# a fan-in of 27, but not at 144 and more; calls of less work cost more than they do).
FEW_COLUMNS, LOOP_OPERATIONS = 64, 2**19
# Rows and columns converted to float64 at a time: on a CPU 1 MiB, an L2 cache; on a GPU 64 MiB,
# for starting an operation there takes as long as moving some 20 MB.
TILES = {"cpu": (128, 1024), "cuda": (4096, 2048)}
# Packing buffers of BLAS and oneDNN, measured; on a GPU the tile, and workspaces of its libraries.
LIBRARY_BYTES = {"cpu": 64 * 2**20, "cuda": 128 * 2**20}


class Piece(NamedTuple):
    """Output channels ``start`` to ``stop`` of weight layer ``index`` of the chain."""

    kind: str
    index: int
    start: int
    stop: int


class Plan(NamedTuple):
    """Passes over the network, samples per micro-batch and rows (samples) per panel."""

    passes: list[list[Piece]]
    batch: int
    panel: int


class PartialKernel(NamedTuple):
    """What a computation of the kernel that is stopped half-way continues from, to the same bits.

    Attributes:
        done: number of parts that are in the sum.
        kernel: the sum, float64, shape of the kernel, not yet symmetric; on any device.
    """

    done: int
    kernel: Tensor


def obstacle_to_structured_route(network: nn.Module, axes: int) -> str | None:
    """Return why the network has no structured route, or None if it has one.

    Args:
        network: any network.
        axes: of its inputs, the first one that of the samples.
    """
    if type(network) is not nn.Sequential:
        return f"{type(network).__name__} is not a plain chain (nn.Sequential) of layers"
    layers = list(network)
    for layer in layers:
        if type(layer) not in KNOWN_LAYERS:
            return f"layer {type(layer).__name__} has no hand-written per-sample gradient"
        if isinstance(layer, nn.AvgPool2d) and not pools_disjoint_squares(layer):
            return "an average pool has padding, overlap or a rule of its own"
        if isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) != (1, -1):
            return "a Flatten keeps some axes"
        if isinstance(layer, ScaledLinear) and axes != 2:
            return "a linear layer takes the last of several axes"
        if isinstance(layer, OF_IMAGES) and axes != 4:
            return f"{type(layer).__name__} takes no batch of images"
        axes = 2 if isinstance(layer, (nn.Flatten, GlobalAveragePool)) else axes
    for module in (network, *layers):
        if "forward" in vars(module) or any(getattr(module, name) for name in HOOKS):
            return f"{type(module).__name__} has a hook or a forward of its own"
        if isinstance(module, WEIGHT_LAYERS) and "weight" not in module._parameters:
            return f"the weight of {type(module).__name__} is made from others"
    weights = [layer.weight for layer in layers if isinstance(layer, WEIGHT_LAYERS)]
    if len({id(weight) for weight in weights}) != len(weights):
        return "layers share their weights"
    if not all(p.requires_grad for p in network.parameters()):
        return "some weights are frozen"
    return None


def structured_ntk(
    network: nn.Sequential,
    inputs: Tensor,
    other_inputs: Tensor | None,
    traced: bool,
    memory_bytes: int,
    accumulate_dtype: torch.dtype,
    on_progress: Callable[[float], None] | None = None,
    start_from: PartialKernel | None = None,
    on_part: Callable[[PartialKernel], None] | None = None,
) -> Tensor:
    """Return the NTK of a chain of known layers; a part is a panel of the product of a piece.

    With float32 data, ``accumulate_dtype`` float64 centres the factors over the samples and sums
    the layers in float64; float32 multiplies everything plainly (for comparison only).

    Args:
        network: chain of known layers, without an ``obstacle_to_structured_route``.
        inputs: as for ``kernel.empirical_ntk``, as all that follow.
        other_inputs: tensor (M, ...), or None for ``inputs``.
        traced: average over equal outputs.
        memory_bytes: bound on the memory of the call.
        accumulate_dtype: dtype of the sums.
        on_progress: as for ``kernel.empirical_ntk``.
        start_from: as for ``kernel.empirical_ntk``.
        on_part: as for ``kernel.empirical_ntk``.

    Returns:
        float64 tensor (N C, M C), or (N, M) if traced, in 1 / time.
    """
    layers = list(network)
    outputs = layers[-1](_forward(layers, inputs[:1])[-1]).shape[1]
    sets = [inputs] if other_inputs is None else [inputs, other_inputs]
    plan = _plan(layers, sets, outputs, traced, memory_bytes, accumulate_dtype)
    per_sample = 1 if traced else outputs
    shape = (len(sets[0]) * per_sample, len(sets[-1]) * per_sample)
    known, kernel = start_of_sum(start_from, inputs, shape)
    centred = accumulate_dtype.itemsize > inputs.element_size()
    add = {
        "linear": _add_linear,
        "pooled": _add_pooled,
        "convolution": partial(_add_convolution, centred=centred),
    }
    panels = _panels(len(sets[0]), len(sets[-1]), plan.panel, other_inputs is None)
    work = _Work(layers, sets, plan.passes, panels, outputs, traced, on_progress, known)
    if on_part is not None:
        work.on_part = lambda done: on_part(PartialKernel(done, kernel))
    for pieces in plan.passes:
        if work.skips(pieces, panels, sweeps=1):
            continue
        factors = [
            _factors(layers, x, pieces, outputs, plan.batch, accumulate_dtype, work) for x in sets
        ]
        for number, piece in enumerate(pieces):
            if work.skips([piece], panels, sweeps=0):
                continue
            left, right = factors[0][number], factors[-1][number]
            add[piece.kind](kernel, left, right, work.counted(panels, piece), traced)
        del factors, left, right  # before the next pass allocates its own
    if other_inputs is None:
        mirror_lower_(kernel, plan.panel * per_sample)
    return kernel.div_(outputs) if traced else kernel


def start_of_sum(
    start_from: PartialKernel | None, inputs: Tensor, shape: tuple[int, int]
) -> tuple[int, Tensor]:
    """Return the number of parts known, and the kernel of their sum on the inputs' device.

    Args:
        start_from: what was kept, or None to begin; its kernel is added to in place.
        inputs: (N, ...).
        shape: of the kernel.

    Returns:
        (0, zeros) without ``start_from``.

    Raises:
        ValueError: if what was kept has another shape.
    """
    if start_from is None:
        return 0, inputs.new_zeros(shape, dtype=torch.float64)
    kernel = start_from.kernel
    if kernel.shape != shape or kernel.dtype != torch.float64:
        raise ValueError(
            f"the partial kernel has shape {tuple(kernel.shape)} and dtype {kernel.dtype}; "
            f"this kernel has shape {tuple(shape)} and dtype torch.float64"
        )
    return start_from.done, kernel.to(inputs.device)


# ---------------------------------------------------------------- the plan: what fits the budget


def _plan(
    layers: list[nn.Module],
    sets: list[Tensor],
    outputs: int,
    traced: bool,
    memory_bytes: int,
    accumulate_dtype: torch.dtype,
) -> Plan:
    """Return passes, micro-batch and panel that keep the memory below the budget.

        8 rows columns                              the kernel
        + LIBRARY_BYTES of the device               buffers of the libraries
        + 4 * 8 * panel * C' * columns              products of one panel (C' = C, 1 if traced)
        + batch * (bytes of a micro-batch sample)   activations, cotangents, patches
        + columns of J_l and factors of one pass    (the rest)
        <= memory_bytes.

    The least is one sample per panel and micro-batch and one channel per pass; an eighth each of
    what is left enlarges panel and micro-batch.

    Raises:
        ValueError: if the budget is below that least.
    """
    sample = sets[0][:1]
    per_sample = 1 if traced else outputs
    columns = len(sets[-1]) * per_sample
    panel_bytes = 4 * 8 * per_sample * columns
    sample_bytes, cotangent_bytes = _sweep_bytes(layers, sample, outputs)
    samples = sum(len(x) for x in sets)
    costs = [
        (piece, bytes_per_channel * samples)
        for piece, bytes_per_channel in _channel_bytes(layers, sample, outputs, accumulate_dtype)
    ]
    fixed = 8 * len(sets[0]) * per_sample * columns + panel_bytes + sample_bytes
    fixed += _of_device(LIBRARY_BYTES, sample)
    least = fixed + max(cost for _, cost in costs)
    if memory_bytes < least:
        raise ValueError(f"memory_bytes is {memory_bytes}; this kernel needs at least {least}")
    spare = (memory_bytes - least) // SPARE_PARTS
    panel = max(1, min(1 + spare // panel_bytes, PANEL_ROWS // per_sample))
    panel = math.ceil(len(sets[0]) / math.ceil(len(sets[0]) / panel))  # panels of equal height
    target = _of_device(SWEEP_BYTES, sample) // cotangent_bytes
    batch = min(1 + spare // sample_bytes, max(1, target), max(len(x) for x in sets))
    fixed += (panel - 1) * panel_bytes + (batch - 1) * sample_bytes
    return Plan(_passes(costs, memory_bytes - fixed), batch, panel)


def _of_device(values: dict, tensor: Tensor):
    """Return the value for the tensor's device; one that is not a CPU is taken for a GPU."""
    return values.get(tensor.device.type, values["cuda"])


def _passes(costs: list[tuple[Piece, int]], available: int) -> list[list[Piece]]:
    """Return passes, filled greedily with channels; ``costs``: bytes per channel of a piece."""
    passes: list[list[Piece]] = [[]]
    free = available
    for piece, cost in costs:
        start = piece.start
        while start < piece.stop:
            if free < cost:
                passes.append([])
                free = available
            count = min(piece.stop - start, free // cost)
            passes[-1].append(piece._replace(start=start, stop=start + count))
            free -= count * cost
            start += count
    return passes


def _channel_bytes(
    layers: list[nn.Module], sample: Tensor, outputs: int, accumulate_dtype: torch.dtype
) -> list[tuple[Piece, int]]:
    """Return every weight layer, last first, with the bytes per sample of one channel's factors.

    The factors of a linear layer are indivisible: it counts as one channel.
    """
    wide = max(accumulate_dtype.itemsize, sample.element_size())
    result = []
    for index in reversed(range(len(layers))):
        layer = layers[index]
        if isinstance(layer, ScaledLinear):
            fan_out, fan_in = layer.weight.shape
            result.append((Piece("linear", index, 0, 1), wide * (fan_in + outputs * fan_out)))
        elif isinstance(layer, ScaledConv2d):
            channels, fan_in = len(layer.weight), layer.weight[0].numel()
            if _is_pooled(layers, index):
                result.append((Piece("pooled", index, 0, channels), wide * fan_in))
            else:
                size = sample.element_size() * outputs * fan_in
                result.append((Piece("convolution", index, 0, channels), size))
    return result


def _is_pooled(layers: list[nn.Module], index: int) -> bool:
    """Return whether layer ``index`` ends the chain as conv, ReLU, global average pool, linear."""
    tail = [type(layer) for layer in layers[index:]]
    return tail == [ScaledConv2d, nn.ReLU, GlobalAveragePool, ScaledLinear]


def _sweep_bytes(layers: list[nn.Module], sample: Tensor, outputs: int) -> tuple[int, int]:
    """Return bytes per sample of one sweep: (everything at its peak, the largest cotangent).

    The peak holds all activations, four tensors of cotangents (old, new, and one temporary of a
    convolution each way) and the patches of one layer, with a copy.
    """
    activations = _forward(layers, sample)
    sizes = [x.numel() for x in activations]
    patches = max(
        (
            9 * x.numel()
            for x, layer in zip(activations, layers, strict=True)
            if isinstance(layer, ScaledConv2d)
        ),
        default=0,
    )
    cotangent = outputs * max(sizes[1:], default=outputs)
    total = 2 * sum(sizes) + 4 * cotangent + 2 * patches
    return total * sample.element_size(), cotangent * sample.element_size()


# ------------------------------------------------------------- the sweep: factors of every sample


def _forward(layers: list[nn.Module], x: Tensor) -> list[Tensor]:
    """Return the input of every layer, images channels last in memory.

    Convolutions of 32 to 128 channels are 1.1 to 2 times faster in that layout on a CPU (measured,
    x86-64), and the transpose of a pool becomes a broadcast product.
    """
    activations = [x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x]
    for layer in layers[:-1]:
        activations.append(layer(activations[-1]))
    return activations


def forward_operations(layers: Iterable[nn.Module], sample: Tensor) -> int:
    """Return the operations of a chain's forward pass, 2 sum_l (outputs of l) (fan-in of l).

    Args:
        layers: chain without an ``obstacle_to_structured_route``.
        sample: one input, shape (1, ...).

    Returns:
        Operations, multiply and add = 2.
    """
    layers, operations = list(layers), 0
    activations = _forward(layers, sample)
    results = [*activations[1:], layers[-1](activations[-1])]
    for layer, result in zip(layers, results, strict=True):
        if isinstance(layer, WEIGHT_LAYERS):
            operations += 2 * result.numel() * layer.weight[0].numel()
    return operations


def _sweep(
    layers: list[nn.Module], x: Tensor, outputs: int, lowest: int
) -> Iterator[tuple[int, Tensor, Tensor | None, Tensor]]:
    """Yield every weight layer down to ``lowest``, last first.

    Yields:
        (layer index, its input (n, ...), its output (None for the last layer), cotangents
        (n, C, ...) of its output).
    """
    activations = _forward(layers, x)
    identity = torch.eye(outputs, dtype=x.dtype, device=x.device)
    cotangent = identity.expand(len(x), outputs, outputs)
    result = None
    for index in range(len(layers) - 1, lowest - 1, -1):
        if isinstance(layers[index], WEIGHT_LAYERS):
            yield index, activations[index], result, cotangent
        if index > lowest:
            cotangent = _pull_back(layers, index, activations, cotangent)
        result = activations.pop()


def _pull_back(
    layers: list[nn.Module], index: int, activations: list[Tensor], cotangent: Tensor
) -> Tensor:
    """Return the cotangents (n, C, ...) of the input of layer ``index`` from those of its output.

    A ReLU below an average pool is taken in the same go: the mask meets the cells' cotangents.
    """
    layer, x = layers[index], activations[index]
    n, outputs = cotangent.shape[:2]
    if isinstance(layer, nn.ReLU):
        if _is_below_pool(layers, index):
            return cotangent
        mask = (x > 0).to(x.dtype).unsqueeze(1)
        if index + 1 < len(layers) and isinstance(layers[index + 1], WEIGHT_LAYERS):
            # The cotangent is that layer's own result, which nobody else holds.
            return cotangent.mul_(mask)
        return torch.mul(cotangent, mask, out=_empty_cotangent(x, outputs))
    if isinstance(layer, ScaledLinear):
        return cotangent @ (layer.weight * layer.scale)
    if isinstance(layer, nn.Flatten):
        return cotangent.reshape(n, outputs, *x.shape[1:])
    if isinstance(layer, GlobalAveragePool):
        positions = x.shape[2] * x.shape[3]
        return (cotangent / positions)[..., None, None].expand(n, outputs, *x.shape[1:])
    if isinstance(layer, nn.AvgPool2d):
        mask = (x > 0).to(x.dtype) if _is_below_pool(layers, index - 1) else torch.ones_like(x)
        return _spread(cotangent, layer.kernel_size, mask)
    # The transpose of a same-padded 3x3 convolution is the convolution with the flipped kernel.
    flipped = (layer.weight * layer.scale).flip(2, 3).transpose(0, 1)
    images = functional.conv2d(cotangent.flatten(0, 1), flipped, padding=layer.padding)
    return images.unflatten(0, (n, outputs))


def _is_below_pool(layers: list[nn.Module], index: int) -> bool:
    """Return whether layer ``index`` is a ReLU and the next one an average pool."""
    return [type(layer) for layer in layers[index : index + 2]] == [nn.ReLU, nn.AvgPool2d]


def _empty_cotangent(x: Tensor, outputs: int) -> Tensor:
    """Return uninitialised cotangents (n, C, ...) of x (n, ...), channels last in memory."""
    if x.dim() != 4:
        return x.new_empty((len(x), outputs, *x.shape[1:]))
    n, channels, height, width = x.shape
    return x.new_empty((n, outputs, height, width, channels)).permute(0, 1, 4, 2, 3)


def _spread(cells: Tensor, size: int, mask: Tensor) -> Tensor:
    """Return mask x transpose of an average pool: (n, C, c, h, w) to (n, C, *mask.shape[1:]).

    Every cell's cotangent over size^2 goes to the size^2 positions that it averages; rows and
    columns that no cell covers have none.
    """
    images = functional.interpolate(cells.flatten(0, 1), scale_factor=size, mode="nearest")
    height, width = (a - b for a, b in zip(mask.shape[2:], images.shape[2:], strict=True))
    if height or width:
        images = functional.pad(images, (0, width, 0, height))
    return images.unflatten(0, cells.shape[:2]).mul_((mask / size**2).unsqueeze(1))


def _patches(x: Tensor, size: int, padding: int) -> Tensor:
    """Return the size x size patches around every position: (n, c, h, w) to (n, h w, size^2 c).

    A copy of a strided view, channels last as x lies in memory, ten times faster on a CPU than
    ``functional.unfold``.
    """
    padded = functional.pad(x, (padding,) * 4)
    windows = padded.unfold(2, size, 1).unfold(3, size, 1)  # (n, c, h, w, size, size)
    return windows.permute(0, 2, 3, 4, 5, 1).reshape(len(x), x.shape[2] * x.shape[3], -1)


def _factors(
    layers: list[nn.Module],
    inputs: Tensor,
    pieces: list[Piece],
    outputs: int,
    batch: int,
    accumulate_dtype: torch.dtype,
    work: _Work,
) -> list[list[Tensor]]:
    """Return the factors of every piece for all samples, computed in micro-batches."""
    dtypes = (inputs.dtype, torch.promote_types(inputs.dtype, accumulate_dtype))
    factors = [_empty_factors(layers, piece, inputs, outputs, dtypes) for piece in pieces]
    lowest = min(piece.index for piece in pieces)
    for start in range(0, len(inputs), batch):
        part = slice(start, start + batch)
        for index, *tensors in _sweep(layers, inputs[part], outputs, lowest):
            for piece, factor in zip(pieces, factors, strict=True):
                if piece.index == index:
                    _fill(piece, layers[index], *tensors, [f[part] for f in factor])
        work.swept(min(batch, len(inputs) - start))
    for piece, factor in zip(pieces, factors, strict=True):
        if piece.kind == "pooled":
            output_weights = layers[-1].weight * layers[-1].scale
            factor.append(output_weights[:, piece.start : piece.stop].to(factor[0].dtype))
    return factors


def _empty_factors(
    layers: list[nn.Module],
    piece: Piece,
    inputs: Tensor,
    outputs: int,
    dtypes: tuple[torch.dtype, torch.dtype],
) -> list[Tensor]:
    """Return uninitialised factors of a piece, first axis the samples."""
    weight, n = layers[piece.index].weight, len(inputs)
    if piece.kind == "linear":
        shapes = [(n, weight.shape[1]), (n, outputs, weight.shape[0])]
    elif piece.kind == "pooled":
        shapes = [(n, piece.stop - piece.start, weight[0].numel())]
    else:
        shapes = [(n, outputs, (piece.stop - piece.start) * weight[0].numel())]
    dtype = dtypes[0] if piece.kind == "convolution" else dtypes[1]
    return [inputs.new_empty(shape, dtype=dtype) for shape in shapes]


def _fill(
    piece: Piece,
    layer: nn.Module,
    x: Tensor,
    result: Tensor | None,
    cotangent: Tensor,
    factor: list[Tensor],
) -> None:
    """Write the factors of one micro-batch; arguments as yielded by ``_sweep``."""
    x = x * layer.scale  # f depends on scale * W, so d f / d W carries the scale
    if piece.kind == "linear":
        factor[0].copy_(x)
        factor[1].copy_(cotangent)
        return
    channels = slice(piece.start, piece.stop)
    patches = _patches(x, layer.kernel_size, layer.padding)
    if piece.kind == "pooled":
        mask = (result[:, channels] > 0).flatten(2).to(x.dtype)
        factor[0].copy_((mask / mask.shape[2]) @ patches)
        return
    rows = cotangent[:, :, channels].flatten(3)  # (n, C, o, s), o last in memory
    gradient = factor[0].view(*rows.shape[:3], patches.shape[2])
    few, operations = patches.shape[2] < FEW_COLUMNS, rows[0, 0].numel() * patches.shape[2]
    if x.device.type == "cpu" and few and operations > LOOP_OPERATIONS:
        for sample, patch in enumerate(patches):
            for output, row in enumerate(rows[sample]):
                torch.mm(row, patch, out=gradient[sample, output])
    else:
        by_position = rows.permute(0, 3, 1, 2).flatten(2)  # copies runs of o, transposes nothing
        torch.bmm(by_position.transpose(1, 2), patches, out=gradient.flatten(1, 2))


class _Work:
    """Operations done and to be done, which is what a remaining time follows from.

    A sweep pulls C cotangents through the layers, about 2 C f operations per sample with f those of
    its forward pass; a product takes 2 C^2 operations per pair of samples and column of J, 2 C of
    the output-traced kernel.
    """

    def __init__(
        self,
        layers: list[nn.Module],
        sets: list[Tensor],
        passes: list[list[Piece]],
        panels: list[tuple[slice, slice]],
        outputs: int,
        traced: bool,
        on_progress: Callable[[float], None] | None,
        known: int,
    ):
        self._sweep = 2 * outputs * forward_operations(layers, sets[0][:1])
        self._layers, self._square = layers, outputs if traced else outputs**2
        self._on_progress = on_progress or (lambda share: None)
        pairs = sum((r.stop - r.start) * (c.stop - c.start) for r, c in panels)
        of_pairs = sum(self._per_pair(piece) for pieces in passes for piece in pieces)
        samples = len(passes) * sum(len(x) for x in sets)
        self._samples, self._pairs, self._parts = sum(len(x) for x in sets), pairs, 0
        self._total, self._done = self._sweep * samples + pairs * of_pairs, 0
        self._known = known  # parts that were done before
        self.on_part: Callable[[int], None] = lambda done: None
        if not known:
            self._on_progress(0.0)

    def _per_pair(self, piece: Piece) -> int:
        """Return the operations of a piece per pair of samples."""
        weight = self._layers[piece.index].weight
        if piece.kind == "linear":
            return 2 * (weight.shape[1] + self._square * weight.shape[0])
        columns = (piece.stop - piece.start) * weight[0].numel()
        return 2 * columns * (1 if piece.kind == "pooled" else self._square)

    def _add(self, operations: int) -> None:
        self._done += operations
        self._on_progress(self._done / self._total)

    def skips(self, pieces: list[Piece], panels: list[tuple[slice, slice]], *, sweeps: int) -> bool:
        """Return whether all panels of the pieces were done before; count them if so."""
        count = len(pieces) * len(panels)
        if self._parts + count > self._known:
            return False
        self._parts += count
        of_pairs = sum(self._per_pair(piece) for piece in pieces)
        self._done += sweeps * self._sweep * self._samples + self._pairs * of_pairs
        return True

    def swept(self, samples: int) -> None:
        """Count a micro-batch of a sweep."""
        self._add(self._sweep * samples)

    def counted(
        self, panels: list[tuple[slice, slice]], piece: Piece
    ) -> Iterator[tuple[slice, slice]]:
        """Yield the panels not done before, and count each once the next one is asked for."""
        each = self._per_pair(piece)
        for rows, columns in panels:
            known = self._parts < self._known
            if not known:
                yield rows, columns
            self._parts += 1
            self._add(each * (rows.stop - rows.start) * (columns.stop - columns.start))
            if not known:
                self.on_part(self._parts)


# ----------------------------------------------------------------- the products: Theta += Theta_l


def _panels(rows: int, columns: int, panel: int, symmetric: bool) -> list[tuple[slice, slice]]:
    """Return (samples of the rows, samples of the columns); only the lower part if symmetric."""
    parts = consecutive_slices(rows, panel)
    return [(part, slice(0, part.stop if symmetric else columns)) for part in parts]


def _add_linear(
    kernel: Tensor,
    left: list[Tensor],
    right: list[Tensor],
    panels: Iterable[tuple[slice, slice]],
    traced: bool,
) -> None:
    """Add <h_i, h_j> <g_ia, g_jb>; factors h (N, fan_in) and g (N, C, fan_out)."""
    for rows, columns in panels:
        inputs = left[0][rows] @ right[0][columns].T
        g, h = left[1][rows], right[1][columns]
        if traced:
            target = kernel[rows, columns]
            target += inputs * (g.flatten(1) @ h.flatten(1).T)
            continue
        products = (g.flatten(0, 1) @ h.flatten(0, 1).T).view(*g.shape[:2], *h.shape[:2])
        products *= inputs[:, None, :, None]
        _block(kernel, rows, columns, g.shape[1]).add_(products)


def _add_pooled(
    kernel: Tensor,
    left: list[Tensor],
    right: list[Tensor],
    panels: Iterable[tuple[slice, slice]],
    traced: bool,
) -> None:
    """Add sum_o V_ao V_bo <M_o(i), M_o(j)>; factors M (N, o, K) and V (C, o)."""
    (m, v), n = left, right[0]
    outputs = len(v)
    step = 1 if traced else outputs**2  # keeps ``gram`` as small as its result
    for rows, columns in panels:
        for start in range(0, v.shape[1], step):
            part = slice(start, start + step)
            gram = m[rows, part].transpose(0, 1) @ n[columns, part].permute(1, 2, 0)
            if traced:
                kernel[rows, columns] += gram[0].mul_((v[:, start] ** 2).sum())
                continue
            pairs = v[:, None, part] * v[None, :, part]
            products = torch.tensordot(pairs, gram, dims=1)  # (C, C, rows, columns)
            _block(kernel, rows, columns, outputs).add_(products.permute(2, 0, 3, 1))


def _add_convolution(
    kernel: Tensor,
    left: list[Tensor],
    right: list[Tensor],
    panels: Iterable[tuple[slice, slice]],
    traced: bool,
    *,
    centred: bool,
) -> None:
    """Add J J'^T; factor J (N, C, K), which is centred in place if so wished."""
    symmetric = left is right
    a, b = (x[0].flatten(1).unsqueeze(1) if traced else x[0] for x in (left, right))
    if symmetric:
        b = a
    groups = a.shape[1]
    if centred:
        offset_a, offset_b = _centre_(a, b)
    for rows, columns in panels:
        add_product_(
            kernel[rows.start * groups : rows.stop * groups, : columns.stop * groups],
            a[rows].flatten(0, 1),
            b[columns].flatten(0, 1),
            symmetric,
        )
        if centred:
            target = _block(kernel, rows, columns, groups)
            target += offset_a[rows, :, None, :]
            target += offset_b[:, columns]


def _centre_(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Centre Jacobians J = D + 1 m of two sets (or one: ``a is b``) over samples, in place.

    The means are rounded to the data's dtype first, so that J = D + 1 m holds as well as D can be
    represented; the terms that contain them are then taken in float64.

    Args:
        a: J (N, C, K); becomes D.
        b: J' (M, C, K); becomes D'.

    Returns:
        D m'^T as (N, a, b), and m D'^T + m m'^T as (a, M, b): the terms to add to D D'^T.
    """
    means = []
    for jacobian in (a,) if a is b else (a, b):
        mean = jacobian.mean(dim=0)
        jacobian -= mean
        means.append(mean.double())
    offset_a = _inner_with_means(a, means[-1])
    offset_b = offset_a if a is b else _inner_with_means(b, means[0])
    constant = means[0] @ means[-1].T
    return offset_a, offset_b.permute(2, 0, 1) + constant[:, None, :]


def _block(kernel: Tensor, rows: slice, columns: slice, outputs: int) -> Tensor:
    """Return the view (row samples, C, column samples, C) of a panel of Theta."""
    view = kernel.view(len(kernel) // outputs, outputs, kernel.shape[1] // outputs, outputs)
    return view[rows, :, columns]


def _inner_with_means(centred: Tensor, mean: Tensor) -> Tensor:
    """Return D m^T in float64, (N, a, b), for D (N, C, K) and m (C, K), tile by tile."""
    rows = centred.flatten(0, 1)
    result = mean.new_zeros(len(mean), len(rows))
    height, width = _of_device(TILES, rows)
    for columns in range(0, rows.shape[1], width):
        part = slice(columns, columns + width)
        for source, target in zip(
            rows[:, part].split(height), result.split(height, dim=1), strict=True
        ):
            target += mean[:, part] @ source.double().T  # a quarter faster than its transpose
    return result.T.reshape(*centred.shape[:2], -1)
