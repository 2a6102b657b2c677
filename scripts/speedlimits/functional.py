"""A network as a function of its weights, for torch.func."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.func import functional_call


def call(network: nn.Module, tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Return f(inputs) with other weights and buffers; the network is left as it was.

    ``functional_call`` puts a shared weight at all its places by itself, but a module registered
    at two places it changes twice and so restores wrongly: its weights stay those of the call, and
    count as frozen from then on. Here every module is changed once.

    Args:
        network: maps inputs (N, ...) to outputs (N, C).
        tensors: under the names of ``named_parameters`` and ``named_buffers``, which name a shared
            one once; what is left out stays as it is.
        inputs: (N, ...).

    Returns:
        The outputs, (N, C).
    """
    named = [*network.named_parameters(), *network.named_buffers()]
    names = {id(tensor): name for name, tensor in named}
    places = {}
    for prefix, module in network.named_modules():  # each module once
        for held in (module._parameters, module._buffers):
            for key, tensor in held.items():
                name = names.get(id(tensor))
                if name in tensors:
                    places[f"{prefix}.{key}" if prefix else key] = tensors[name]
    return functional_call(network, places, (inputs,), tie_weights=False)


def trainable_and_fixed(network: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return detached trainable parameters, and buffers with every frozen parameter, by name.

    Args:
        network: any network.
    """
    parameters, others = {}, {name: b.detach() for name, b in network.named_buffers()}
    for name, parameter in network.named_parameters():
        (parameters if parameter.requires_grad else others)[name] = parameter.detach()
    return parameters, others


def outputs_at(
    network: nn.Module, fixed: Mapping[str, Tensor], inputs: Tensor, weights: Mapping[str, Tensor]
) -> Tensor:
    """Return f(inputs) at the given weights, which come last: to be differentiated by them.

    Args:
        network: maps inputs (N, ...) to outputs (N, C).
        fixed: of ``trainable_and_fixed``.
        inputs: (N, ...).
        weights: under the names of ``trainable_and_fixed``.

    Returns:
        The outputs, (N, C).
    """
    return call(network, {**weights, **fixed}, inputs)


def in_one_line(error: BaseException) -> str:
    """Return the kind of an error and the first line of its message.

    Args:
        error: of a network or of torch.
    """
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
