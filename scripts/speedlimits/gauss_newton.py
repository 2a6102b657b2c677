"""Gauss-Newton matrix G = J^T J: the full NTK's spectrum where a network has few weights.

Theta = J J^T of N samples and C outputs has N C rows, G has P. Both share their non-zero
eigenvalues, and with G w_k = lambda_k w_k the eigenvectors of Theta are
v_k = J w_k / sqrt(lambda_k), so that everything measured on Theta follows from P x P matrices when
P < N C:

    Delta_k^2                  = (w_k . J^T Delta)^2 / lambda_k,
    |Theta|_F                  = |G|_F,
    <Theta_0, Theta_t>_F       = |J_0^T J_t|_F^2,
    <Theta, y y^T>_F           = |J^T y|^2,
    v_0k . v_tl                = w_0k . (J_0^T J_t) w_tl / sqrt(lambda_0k lambda_tl).

Derived here; the first line is the singular value decomposition of J.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from speedlimits.blocks import product
from speedlimits.jacobian import (
    check_inputs,
    count_outputs,
    derivative_bytes,
    per_sample_jacobian,
    samples_that_fit,
)
from speedlimits.kernel import DEFAULT_MEMORY_BYTES, choose_route
from speedlimits.spectrum import (
    eigenvalues_and_projections,
    leading_eigenspace_exists,
    leading_eigenvectors,
    noise_floor,
)

Array = NDArray[np.float64]


class GaussNewton(NamedTuple):
    """Sums over samples in the space of weights, float64.

    Attributes:
        matrix: G = J^T J, shape (P, P).
        pulled: J^T v of the given vectors, shape (P, q).
    """

    matrix: Array
    pulled: Array


class PartialSums(NamedTuple):
    """What sums that are stopped half-way continue from, to the same bits.

    Attributes:
        done: number of samples in the sums.
        matrix: of these samples, float64, shape (P, P).
        pulled: of these samples, float64, shape (P, q).
    """

    done: int
    matrix: Tensor
    pulled: Tensor


OnBlock = Callable[[PartialSums], None]


@torch.inference_mode(False)
def gauss_newton(
    network: nn.Module,
    inputs: Tensor,
    vectors: Tensor,
    *,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    start_from: PartialSums | None = None,
    on_block: OnBlock | None = None,
) -> GaussNewton:
    """Return G = J^T J and J^T v at the current weights, summed over samples in float64.

    Blocks of b samples bound the memory:

        bytes = 8 P (2 P + q) + b (C P (3 itemsize + 8) + 4 (1 + C) A),

    two matrices (the sum and a block's product), three copies of the Jacobian for the reverse
    derivatives, one in float64, and A bytes of activations per sample. The product costs N C P^2
    operations (half of G; multiply and add = 2), against (N C)^2 P for the kernel.

    Args:
        network: maps inputs (N, ...) to outputs (N, C), each sample by itself.
        inputs: (N, ...).
        vectors: v, shape (N C, q), sample-major.
        memory_bytes: bound on the memory, results included.
        start_from: what ``on_block`` was given by a call with the same arguments, to be continued;
            it is added to in place.
        on_block: called after every block with the sums so far, to be copied or written at once.

    Returns:
        The sums.

    Raises:
        ValueError: as ``kernel.empirical_ntk``, and if the vectors are not of shape (N C, q).
    """
    return _sums(network, inputs, vectors, None, memory_bytes, start_from, on_block)


@torch.inference_mode(False)
def cross_gauss_newton(
    network: nn.Module,
    inputs: Tensor,
    other_weights: Tensor,
    *,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    start_from: PartialSums | None = None,
    on_block: OnBlock | None = None,
) -> Array:
    """Return J_0^T J_t, with J_0 at ``other_weights`` and J_t at the network's, shape (P, P).

    Args:
        network: as for ``gauss_newton``.
        inputs: (N, ...).
        other_weights: theta_0 as one vector, frozen weights included (P is without them).
        memory_bytes: as for ``gauss_newton``.
        start_from: as for ``gauss_newton``.
        on_block: as for ``gauss_newton``.

    Returns:
        The matrix, float64, row index of J_0.

    Raises:
        ValueError: as ``gauss_newton``, and if ``other_weights`` are not as many as the network's.
    """
    empty = inputs.new_empty(len(inputs) * count_outputs(network, inputs), 0)
    return _sums(network, inputs, empty, other_weights, memory_bytes, start_from, on_block).matrix


def _sums(
    network: nn.Module,
    inputs: Tensor,
    vectors: Tensor,
    other_weights: Tensor | None,
    memory_bytes: int,
    start_from: PartialSums | None,
    on_block: OnBlock | None,
) -> GaussNewton:
    """Return J_0^T J_t (J_0 = J_t without other weights) and J_t^T v, summed over blocks.

    Raises:
        ValueError: if vectors or weights are of other shapes.
    """
    check_inputs(network, inputs)
    inputs = inputs.detach()
    outputs, parameters = count_outputs(network, inputs), list(network.parameters())
    size = sum(p.numel() for p in parameters if p.requires_grad)
    weights = torch.nn.utils.parameters_to_vector(parameters).detach().clone()
    if vectors.ndim != 2 or len(vectors) != len(inputs) * outputs:
        raise ValueError(
            f"vectors have shape {tuple(vectors.shape)}; give (N C, q) = "
            f"({len(inputs) * outputs}, q)"
        )
    if other_weights is not None and other_weights.shape != weights.shape:
        raise ValueError(
            f"other_weights have shape {tuple(other_weights.shape)}; give all weights of the "
            f"network, frozen ones too, as one vector of {len(weights)}"
        )
    copies = 1 if other_weights is None else 2
    bytes_each = copies * outputs * size * (3 * inputs.element_size() + 8)
    bytes_each += derivative_bytes(network, inputs, outputs)
    block = samples_that_fit(memory_bytes, 8 * size * (2 * size + vectors.shape[1]), bytes_each)
    if start_from is None:
        matrix = inputs.new_zeros(size, size, dtype=torch.float64)
        pulled = inputs.new_zeros(size, vectors.shape[1], dtype=torch.float64)
    else:
        matrix, pulled = (x.to(inputs.device) for x in start_from[1:])
    by_autograd = choose_route(network, inputs).name == "autograd"
    for start in range(0 if start_from is None else start_from.done, len(inputs), block):
        part = inputs[start : start + block]
        rows = vectors[start * outputs : (start + block) * outputs].double()
        jacobian = other = _jacobian(network, part, by_autograd)
        if other_weights is not None:
            try:
                torch.nn.utils.vector_to_parameters(other_weights.to(weights), parameters)
                other = _jacobian(network, part, by_autograd)
            finally:
                torch.nn.utils.vector_to_parameters(weights, parameters)
        matrix += product(other.T, jacobian.T)
        pulled += jacobian.T @ rows
        jacobian = other = None  # before the next ones are there
        if on_block is not None:
            on_block(PartialSums(start + len(part), matrix, pulled))
    return GaussNewton(matrix.cpu().numpy(), pulled.cpu().numpy())


def _jacobian(network: nn.Module, inputs: Tensor, by_autograd: bool) -> Tensor:
    """Return J of all trainable weights, (n C, P), float64."""
    of_weights = per_sample_jacobian(network, inputs, by_autograd=by_autograd)
    return torch.cat(of_weights, dim=1).double()


def spectrum(sums: GaussNewton, residue: Array) -> tuple[Array, Array]:
    """Return the eigenvalues and residue projections of the full NTK Theta from G.

    Args:
        sums: with ``pulled`` = J^T Delta, shape (P, 1).
        residue: Delta, shape (N, C) or (N C,), with N C >= P.

    Returns:
        (lambda_k descending, Delta_k^2), each (N C,). Below the noise floor of G eigenvalues are 0
        and the residue that no moving mode holds stands at the first of them.

    Raises:
        ValueError: if N C < P.
    """
    rows, size = residue.size, len(sums.matrix)
    if rows < size:
        raise ValueError(
            f"the kernel has {rows} rows and the network {size} weights; use the kernel itself"
        )
    values, squared = eigenvalues_and_projections(sums.matrix, sums.pulled)
    moving = int((values > noise_floor(values)).sum())
    eigenvalues, projections = np.zeros(rows), np.zeros(rows)
    eigenvalues[:moving] = values[:moving]
    projections[:moving] = squared[:moving] / values[:moving]
    if moving < rows:
        projections[moving] = max(float((residue**2).sum()) - projections[:moving].sum(), 0.0)
    return eigenvalues, projections


def drift(matrix: Array, start: Array, cross: Array) -> float:
    """Return |Theta_t - Theta_0|_F / |Theta_0|_F from G_t, G_0 and J_0^T J_t, each (P, P).

    The difference of squares loses what is below 1e-8.

    Args:
        matrix: G_t = J_t^T J_t, shape (P, P).
        start: G_0, shape (P, P).
        cross: J_0^T J_t, shape (P, P).

    Returns:
        The drift, dimensionless, at least 0; NaN if G_0 is zero.
    """
    size = (start**2).sum()
    squares = (matrix**2).sum() + size - 2 * (cross**2).sum()
    return float(np.sqrt(max(squares, 0.0) / size)) if size > 0.0 else math.nan


def alignment(matrix: Array, pulled_targets: Array, targets: Array) -> float:
    """Return |J^T y|^2 / (|G|_F |y|^2), the kernel-target alignment of Theta.

    Args:
        matrix: G, shape (P, P).
        pulled_targets: J^T y, shape (P,) or (P, 1).
        targets: y, any shape.

    Returns:
        Between 0 and 1 (Cristianini et al. 2001, equation 3); NaN if G or y is zero.
    """
    norms = np.linalg.norm(matrix) * (targets**2).sum()
    return float((pulled_targets**2).sum() / norms) if norms > 0.0 else math.nan


def overlap(matrix: Array, start: Array, cross: Array, count: int) -> float:
    """Return the overlap of the ``count`` leading eigenvectors of Theta_t with those of Theta_0.

    Args:
        matrix: G_t, shape (P, P).
        start: G_0, shape (P, P).
        cross: J_0^T J_t, shape (P, P).
        count: number of eigenvectors.

    Returns:
        Mean squared cosine of the principal angles, as ``spectrum.eigenspace_overlap``; NaN if one
        of the leading eigenvalues vanishes or the last equals the next, so that Theta does not
        define their eigenvectors.

    Raises:
        ValueError: if count is not between 1 and P.
    """
    if not 1 <= count <= len(matrix):
        raise ValueError(f"count is {count}; Theta has 1 to {len(matrix)} leading eigenvectors")
    more = min(count + 1, len(matrix))
    found = [leading_eigenvectors(g, more) for g in (matrix, start)]
    if not all(leading_eigenspace_exists(values, count) for values, _ in found):
        return math.nan
    (now, w_now), (then, w_then) = ((values[:count], w[:, :count]) for values, w in found)
    if min(now[-1] / now[0], then[-1] / then[0]) < len(matrix) * np.finfo(float).eps:
        return math.nan
    cosines = w_then.T @ cross @ w_now / np.sqrt(np.outer(then, now))
    return float((cosines**2).sum() / count)
