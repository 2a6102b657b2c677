"""Products Theta v of the NTK with vectors, without forming Theta, and its largest eigenvalue."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speedlimits.jacobian import (
    check_inputs,
    count_outputs,
    jacobian_product,
    transposed_product,
    way_along_weights,
)

KRYLOV_LIMIT = 100  # Lanczos steps; NTK spectra decay fast and 1e-3 takes about 5 to 10
PRODUCT_BATCH = 64  # samples per micro-batch of a Jacobian product; activations stay in cache


def largest_eigenvalue(
    network: nn.Module,
    inputs: Tensor,
    *,
    relative_tolerance: float = 1e-3,
    generator: torch.Generator | None = None,
    batch: int = PRODUCT_BATCH,
) -> float:
    """Return lambda_1 of Theta by Lanczos iteration on Jacobian products, without forming Theta.

    Every step is one product Theta v = J (J^T v). The Ritz value theta with residual r is within r
    of an eigenvalue (Parlett 1998, The Symmetric Eigenvalue Problem, theorem 4.5.1); the iteration
    stops when that is below ``relative_tolerance * theta``. The sharper r^2 / g, g the distance to
    the next eigenvalue, is of no use here: the leading ones, about one for each output, may lie so
    close together that the first steps see them as one.

    Args:
        network: as for ``kernel.empirical_ntk``.
        inputs: as for ``kernel.empirical_ntk``.
        relative_tolerance: wanted relative error of lambda_1; 1e-3 is ample for a stability limit
            2 / lambda_1 on a learning rate.
        generator: CPU generator of the random start vector; None means seed 0.
        batch: samples per micro-batch.

    Returns:
        lambda_1 (0.0 if the Jacobian is zero).

    Raises:
        ValueError: as for ``kernel.empirical_ntk``.
    """
    check_inputs(network, inputs)
    outputs = count_outputs(network, inputs)
    way = way_along_weights(network, inputs)
    generator = generator or torch.Generator().manual_seed(0)
    vector = torch.randn(len(inputs) * outputs, generator=generator, dtype=torch.float64)
    basis = [(vector / vector.norm()).to(inputs.device)]
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    for _ in range(min(KRYLOV_LIMIT, len(vector))):
        product = kernel_product(network, inputs, basis[-1], batch=batch, way=way)
        diagonal.append(float(basis[-1] @ product))
        for _repeat in range(2):  # twice is enough (Parlett 1998, section 6.9)
            stack = torch.stack(basis)
            product = product - stack.T @ (stack @ product)
        norm = float(product.norm())
        value, residual = _leading_ritz_value(diagonal, off_diagonal, norm)
        if residual <= relative_tolerance * value or norm == 0.0:
            return max(value, 0.0)
        off_diagonal.append(norm)
        basis.append(product / norm)
    return max(value, 0.0)


def kernel_product(
    network: nn.Module,
    inputs: Tensor,
    vector: Tensor,
    *,
    way: str = "forward",
    batch: int = PRODUCT_BATCH,
) -> Tensor:
    """Return Theta v = J (J^T v), as a rule by a reverse and a forward derivative per micro-batch.

    Args:
        network: as for ``kernel.empirical_ntk``.
        inputs: (N, ...).
        vector: (N C,) float64, sample-major.
        way: of the second factor, by ``jacobian.way_along_weights``.
        batch: samples per micro-batch; memory is that of one training step on it.

    Returns:
        (N C,) float64, with the accuracy of the network's dtype.
    """
    # By a power of two, which changes no digit, into the range of the network's dtype.
    scale = torch.ldexp(torch.ones_like(vector[0]), torch.frexp(vector.abs().max()).exponent)
    cotangents = (vector / scale).view(len(inputs), -1).to(inputs.dtype)
    total = [torch.zeros_like(p) for p in network.parameters() if p.requires_grad]
    for x, cotangent in zip(inputs.split(batch), cotangents.split(batch), strict=True):
        pulled = transposed_product(network, x, cotangent)
        for of_weight, gradient in zip(total, pulled, strict=True):
            of_weight += gradient
    pieces = [jacobian_product(network, x, total, way=way) for x in inputs.split(batch)]
    return torch.cat(pieces).flatten().double() * scale


def _leading_ritz_value(
    diagonal: list[float], off_diagonal: list[float], norm: float
) -> tuple[float, float]:
    """Return the largest Ritz value and its residual r."""
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if off_diagonal:
        side = torch.tensor(off_diagonal, dtype=torch.float64)
        matrix += torch.diag(side, 1) + torch.diag(side, -1)
    values, vectors = torch.linalg.eigh(matrix)
    return float(values[-1]), norm * abs(float(vectors[-1, -1]))
