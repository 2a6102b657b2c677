"""Dense Jacobians d f / d theta of a whole batch, (N C, P), that owe nothing to the library."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def reverse_jacobian(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return J by reverse derivatives of one output at a time, without torch.func or vmap."""
    weights = [p for p in network.parameters() if p.requires_grad]
    rows = [
        torch.autograd.grad(output, weights, retain_graph=True)
        for output in network(inputs).flatten()
    ]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


def finite_difference_jacobian(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return J by central differences of the outputs, float64."""
    parameters = list(network.parameters())
    theta = torch.nn.utils.parameters_to_vector(parameters).detach()
    columns = []
    for k in range(len(theta)):
        ends = []
        for sign in (1, -1):
            moved = theta.clone()
            moved[k] += sign * 1e-6
            torch.nn.utils.vector_to_parameters(moved, parameters)
            ends.append(network(inputs).detach().flatten())
        columns.append((ends[0] - ends[1]) / 2e-6)
    torch.nn.utils.vector_to_parameters(theta, parameters)
    return torch.stack(columns, dim=1)
