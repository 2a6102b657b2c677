"""Structured NTK of chains of the layers of module ``networks``."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def obstacle_to_structured_route(network: nn.Module) -> str | None:
    """Return why the network has no structured route, or None if it has one."""
    return f"{type(network).__name__} has no structured route"


def structured_ntk(
    network: nn.Module,
    inputs: Tensor,
    other_inputs: Tensor | None,
    traced: bool,
    memory_bytes: int,
    accumulate_dtype: torch.dtype,
) -> Tensor:
    """Return the NTK of a chain of known layers."""
    raise ValueError("the structured route does not know this network")
