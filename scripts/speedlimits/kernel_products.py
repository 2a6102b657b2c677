"""Products Theta v of the NTK with vectors, without forming Theta, and its largest eigenvalue."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from speedlimits.jacobian import (
    SPACINGS,
    check_inputs,
    count_outputs,
    jacobian_product,
    size_of,
    transposed_product,
    way_along_weights,
)

KRYLOV_LIMIT = 100  # Lanczos steps; NTK spectra decay fast and 1e-3 takes about 5 to 10
STARTS = 2  # own choice: one start vector has next to nothing of the first in some of 100 networks
# Own choices: far above what batches, devices and, as a share of lambda_1 |Delta|^2, float32 change
# (1e-4 where a ReLU's sign is rounded), below what would be seen in T_SL.
GRADIENT_TOLERANCE, GRADIENT_ROUNDING = 1e-2, 1e-5
PRODUCT_BATCH = 64  # samples per micro-batch of a Jacobian product; activations stay in cache


@torch.inference_mode(False)
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
    close together that the first steps see them as one. For the same reason theta may be that of a
    lower one, if the start vector has next to nothing of the first: a second iteration, from
    another start and orthogonal to what was found, goes on until no eigenvalue there is larger.

    Args:
        network: as for ``kernel.empirical_ntk``.
        inputs: as for ``kernel.empirical_ntk``.
        relative_tolerance: wanted relative error of lambda_1; 1e-3 is ample for a stability limit
            2 / lambda_1 on a learning rate.
        generator: CPU generator of the random start vectors; None means seed 0.
        batch: samples per micro-batch.

    Returns:
        lambda_1 (0.0 if the Jacobian is zero).

    Raises:
        ValueError: as for ``kernel.empirical_ntk``, and if products of the kernel are not finite.
    """
    check_inputs(network, inputs)
    outputs = count_outputs(network, inputs)
    way = way_along_weights(network, inputs)
    generator = generator or torch.Generator().manual_seed(0)

    scale: list[Tensor] = []  # of the first product: squares of tiny ones would be 0

    def multiply(vector: Tensor) -> Tensor:
        product = kernel_product(network, inputs, vector, batch=batch, way=way)
        if not product.isfinite().all():
            raise ValueError(
                f"products of the NTK with vectors are not finite in {inputs.dtype}: derivatives "
                "of the outputs are too large or not finite; take smaller inputs or weights, or "
                "torch.float64"
            )
        if not scale:
            scale.append(_power_of_two(product))
        return product / scale[0]

    largest, found = 0.0, torch.zeros(0, len(inputs) * outputs, device=inputs.device).double()
    for _ in range(min(STARTS, found.shape[1])):
        start = torch.randn(found.shape[1], generator=generator, dtype=torch.float64)
        value, vector = _leading_ritz_pair(
            multiply, start.to(inputs.device), found, relative_tolerance
        )
        largest, found = max(largest, value), torch.cat([found, vector[None]])
    return largest * float(scale[0])


def _leading_ritz_pair(
    multiply: Callable[[Tensor], Tensor], start: Tensor, found: Tensor, relative_tolerance: float
) -> tuple[float, Tensor]:
    """Return the largest Ritz value orthogonal to vectors, and its vector.

    Args:
        multiply: returns the product of a vector with a symmetric matrix.
        start: not zero, shape (M,).
        found: orthonormal vectors (K, M), about eigenvectors.
        relative_tolerance: wanted residual over the value.

    Returns:
        theta and its vector of norm 1, shape (M,).
    """
    product = _orthogonal(start, found)
    norm = float(product.norm())
    basis, diagonal, off_diagonal = found, [], [norm]
    for _ in range(min(KRYLOV_LIMIT, len(start) - len(found))):
        basis = torch.cat([basis, product[None] / norm])
        product = multiply(basis[-1])
        diagonal.append(float(basis[-1] @ product))
        product = _orthogonal(product, basis)
        value, inside = _leading_of_tridiagonal(diagonal, off_diagonal[1:])
        norm = float(product.norm())
        if norm * abs(float(inside[-1])) <= relative_tolerance * value or norm == 0.0:
            break
        off_diagonal.append(norm)
    return value, inside.to(start.device) @ basis[len(found) :]


def _orthogonal(vector: Tensor, basis: Tensor) -> Tensor:
    """Return what of a vector is orthogonal to the rows of an orthonormal basis."""
    for _repeat in range(2):  # twice is enough (Parlett 1998, section 6.9)
        vector = vector - basis.T @ (basis @ vector)
    return vector


@torch.inference_mode(False)
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
    scale = _power_of_two(vector)
    cotangents = (vector / scale).view(len(inputs), -1).to(inputs.dtype)
    total = _transposed_products(network, inputs, cotangents, batch)
    # Small derivatives would underflow; large ones are told, as the kernel itself overflows.
    sizes = [torch.linalg.vector_norm(part, ord=math.inf) for part in total if part.numel()]
    again = _power_of_two(torch.stack(sizes)).clamp(max=1)
    if (missing := 1 - int(torch.frexp(again).exponent)) > 0:
        for of_weight in total:  # in two steps, each within the range of the dtype
            of_weight.mul_(2.0 ** (missing // 2)).mul_(2.0 ** (missing - missing // 2))
    pieces = [_finite_product(network, x, total, way) for x in inputs.split(batch)]
    return torch.cat(pieces).flatten().double() * again * scale


def check_spectrum(
    network: nn.Module,
    inputs: Tensor,
    residue: NDArray[np.float64],
    eigenvalues: NDArray[np.float64],
    projections: NDArray[np.float64],
) -> tuple[float, float]:
    """Raise ValueError, in one sentence, if a spectrum is not that of the network that is trained.

        sum_k lambda_k Delta_k^2 = Delta^T Theta Delta = |grad L|^2

    (docs/theory.md, section 4). The left side went through the kernel's route and its
    decomposition, the right one is a reverse derivative of all samples, as in training.

    Args:
        network: maps inputs (N, ...) to outputs (N, C).
        inputs: (N, ...).
        residue: Delta, shape (N, C).
        eigenvalues: lambda_k of the full kernel, or nodes of a quadrature, falling, shape (K,).
        projections: Delta_k^2, or the weights, shape (K,).

    Returns:
        The two sides over |Delta|^2; zeros without a residue.

    Raises:
        ValueError: if they differ.
    """
    size = float(np.linalg.norm(residue))
    if size == 0.0:
        return 0.0, 0.0
    direction = torch.from_numpy(residue / size).to(inputs)
    gradient = _transposed_products(network, inputs, direction, PRODUCT_BATCH)
    of_gradient = size_of(gradient) ** 2
    of_spectrum = float(eigenvalues @ (projections / size / size))
    numbers = torch.finfo(inputs.dtype)
    allowed = (GRADIENT_TOLERANCE + SPACINGS * numbers.eps) * of_gradient
    allowed += (GRADIENT_ROUNDING + numbers.eps) * float(eigenvalues[0])
    # Of smaller derivatives the kernel's products underflow, as where units have died.
    weights = sum(of_weight.numel() for of_weight in gradient)
    allowed += numbers.tiny / numbers.eps * weights * residue.size
    if not abs(of_spectrum - of_gradient) <= allowed:
        raise ValueError(
            f"sum lambda_k Delta_k^2 of the kernel is {of_spectrum:.6g} |Delta|^2, |grad L|^2 by a "
            f"reverse derivative {of_gradient:.6g} |Delta|^2, which should be equal: the network "
            "has other derivatives in batches of other sizes, or by other ways; does it mix "
            "samples, or have derivatives of its own?"
        )
    return of_spectrum, of_gradient


def _transposed_products(
    network: nn.Module, inputs: Tensor, cotangents: Tensor, batch: int
) -> list[Tensor]:
    """Return J^T w of every trainable parameter, in its shape, summed over micro-batches."""
    total = [torch.zeros_like(p) for p in network.parameters() if p.requires_grad]
    for x, cotangent in zip(inputs.split(batch), cotangents.split(batch), strict=True):
        for part, of_weight in enumerate(transposed_product(network, x, cotangent)):
            total[part] += of_weight
    return total


def _power_of_two(values: Tensor) -> Tensor:
    """Return the power of two next above the largest size of values, float64; 1 if there is none.

    Divided by it they lie in the range of any dtype, without a change of a digit.
    """
    largest = values.abs().max().double()
    usable = largest.isfinite() & (largest > 0)
    exponent = torch.frexp(torch.where(usable, largest, 0.5)).exponent
    return torch.ldexp(torch.ones_like(largest), exponent)


def _finite_product(network: nn.Module, x: Tensor, tangents: list[Tensor], way: str) -> Tensor:
    """Return J u, of samples where that way has no value from their rows of J.

    Forward derivatives are 0/0 where reverse ones have a value: sqrt(relu(z)) at z < 0.
    """
    product = jacobian_product(network, x, tangents, way=way)
    lost = ~product.isfinite().all(dim=1)
    if way != "rows" and lost.any():
        product = product.detach().clone()
        product[lost] = jacobian_product(network, x[lost], tangents, way="rows")
    return product


def _leading_of_tridiagonal(
    diagonal: list[float], off_diagonal: list[float]
) -> tuple[float, Tensor]:
    """Return the largest eigenvalue of a symmetric tridiagonal matrix and its eigenvector."""
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if off_diagonal:
        side = torch.tensor(off_diagonal, dtype=torch.float64)
        matrix += torch.diag(side, 1) + torch.diag(side, -1)
    values, vectors = torch.linalg.eigh(matrix)
    return float(values[-1]), vectors[:, -1]
