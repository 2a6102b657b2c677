"""Per-sample Jacobians J = d f / d theta of any network, by ``torch.func``, and what they take."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from speedlimits.attention import plain_attention
from speedlimits.blocks import consecutive_slices
from speedlimits.functional import outputs_at, trainable_and_fixed


def check_inputs(network: nn.Module, inputs: Tensor, other_inputs: Tensor | None = None) -> None:
    """Raise ValueError, in one sentence, for whatever has no per-sample Jacobian.

    Args:
        network: maps inputs (N, ...) to outputs (N, C).
        inputs: (N, ...).
        other_inputs: (M, ...) of a kernel between two sets, or None.

    Raises:
        ValueError: says in one sentence what is wrong with network or inputs.
    """
    for name, layer in network.named_modules():
        label = f"layer {name or '(the network)'} ({type(layer).__name__})"
        if layer.training and isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"{label} is in training mode and mixes samples, so a per-sample Jacobian does "
                f"not exist; call network.eval() first"
            )
        if layer.training and isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0:
            raise ValueError(f"{label} is in training mode and random; call network.eval() first")
    parameters = [p for p in network.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("the network has no trainable weights, so its kernel is undefined")
    for word, x in (("inputs", inputs), ("other_inputs", other_inputs)):
        if x is None:
            continue
        if len(x) == 0:
            raise ValueError(f"{word} hold no samples")
        if not x.is_floating_point() or x.dtype != parameters[0].dtype:
            raise ValueError(f"{word} are {x.dtype}, the network's weights {parameters[0].dtype}")
        if x.device != parameters[0].device:
            raise ValueError(f"{word} are on {x.device}, the weights on {parameters[0].device}")


def count_outputs(network: nn.Module, inputs: Tensor) -> int:
    """Return the number of outputs C of the network.

    Args:
        network: maps inputs (N, ...) to outputs (N, C).
        inputs: (N, ...), of which the first sample is taken.

    Raises:
        ValueError: if one sample is not mapped to shape (1, C).
    """
    with torch.no_grad():
        f = network(inputs[:1])
    if f.ndim != 2 or len(f) != 1:
        raise ValueError(
            f"the network maps one sample to shape {tuple(f.shape)}; the kernel needs (1, outputs)"
        )
    return f.shape[1]


def per_sample_jacobian(
    network: nn.Module, inputs: Tensor, *, traced: bool = False, batch: int = 0
) -> list[Tensor]:
    """Return J of every parameter: (n C, p), or (n, C p) if traced.

    Args:
        network: maps inputs (n, ...) to outputs (n, C), each sample by itself.
        inputs: (n, ...).
        traced: which shape.
        batch: samples whose derivatives are taken together; 0 for all.
    """
    parameters, fixed = trainable_and_fixed(network)

    def sample_output(p: dict[str, Tensor], x: Tensor) -> Tensor:
        return outputs_at(network, fixed, x.unsqueeze(0), p).squeeze(0)

    # The chunks of vmap would all be there beside the Jacobian that they are joined to.
    derivative, whole = vmap(jacrev(sample_output), (None, 0)), []
    with plain_attention():
        for part in consecutive_slices(len(inputs), batch or len(inputs)):
            jacobian = [
                j.reshape(*j.shape[:2], -1) for j in derivative(parameters, inputs[part]).values()
            ]
            if part.stop - part.start == len(inputs):
                whole = jacobian
                break
            whole = whole or [j.new_empty(len(inputs), *j.shape[1:]) for j in jacobian]
            for target, source in zip(whole, jacobian, strict=True):
                target[part] = source
    return [j.flatten(1) if traced else j.flatten(0, 1) for j in whole]


def derivative_bytes(network: nn.Module, inputs: Tensor, outputs: int) -> int:
    """Return what C reverse derivatives of one sample take beside its Jacobian, in bytes.

    4 (1 + C) A, with A bytes that the forward pass keeps for them, weights left out: derivatives
    after these are there for all outputs at once, and convolutions copy what they read. Measured
    1.3 to 3.6 times (1 + C) A for Myrtle-5 with 16 and 4 channels.

    Args:
        network: maps inputs (N, ...) to outputs (N, C).
        inputs: (N, ...), of which the first sample is taken.
        outputs: C.
    """
    weights = {p.data_ptr() for p in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept):
        output = network(inputs[:1])
    del output
    return 4 * (1 + outputs) * sum(kept.values())


def samples_that_fit(memory_bytes: int, fixed_bytes: int, bytes_each: int) -> int:
    """Return how many samples fit beside ``fixed_bytes`` into the budget, at least one.

    Args:
        memory_bytes: the budget.
        fixed_bytes: what is there whatever their number.
        bytes_each: of one sample.

    Raises:
        ValueError: if the budget does not hold one sample.
    """
    block = (memory_bytes - fixed_bytes) // bytes_each
    if block < 1:
        raise ValueError(
            f"memory_bytes is {memory_bytes}; this kernel needs at least {fixed_bytes + bytes_each}"
        )
    return int(block)
