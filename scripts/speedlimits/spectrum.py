"""Spectrum of a kernel: eigenvalues lambda_k, residue projections Delta_k^2, and comparisons.

All routines take NumPy arrays and work in float64, because lambda_k spans more than the seven
digits of float32. Theta has eigenpairs (lambda_k, v_k), lambda descending;
Delta_k^2 = (v_k . Delta)^2 is the residue projection.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import lapack

# Rounding in a symmetric reduction of dimension K is a small multiple of K eps (Higham 2002,
# section 19.3); 1e-10 leaves room for K = 50 000 and still catches any wrong route.
PARSEVAL_TOLERANCE = 1e-10
# Share of lambda_1 within which eigenvalues count as equal (own choice): float32 rounds to 1e-7.
DEGENERATE = 1e-6
# Times eps lambda_1 by which a decomposition tells equal eigenvalues apart (own choice): 12 at most
# were found, of kernels with 80 to 1280 rows in which every eigenvalue occurs 3 to 50 times.
EQUAL_EIGENVALUES = 64
# lambda_1 t over which the quadrature error is estimated: from before the first mode moves to
# beyond the condition number, 1e5 to 1e6, of NTKs on images.
QUADRATURE_TIMES = np.logspace(-1, 6, 71)

Array = NDArray[np.float64]


class SpectralMeasure(NamedTuple):
    """Nodes (eigenvalue-like) and weights (projection-like) that reproduce spectral sums.

    Attributes:
        nodes: descending, shape (m,); those at or below the floor are 0.
        weights: shape (m,).
        error_estimate: of the loss and length sums, relative.
        noise_floor: below which nodes are rounding noise (function ``noise_floor``).
    """

    nodes: Array
    weights: Array
    error_estimate: float
    noise_floor: float


class LanczosState(NamedTuple):
    """What a Lanczos iteration that is stopped after m products continues from.

    Attributes:
        basis: orthonormal vectors, the next one to be multiplied last, shape (m + 1, K).
        diagonal: of T, shape (m,).
        off_diagonal: of T, shape (m,).
        scale: largest norm of a product so far.
    """

    basis: Array
    diagonal: Array
    off_diagonal: Array
    scale: float


def eigenvalues_and_projections(kernel: ArrayLike, residue: ArrayLike) -> tuple[Array, Array]:
    """Return all eigenvalues and residue projections without the eigenvectors of the kernel.

    Theta = Q T Q^T with T tridiagonal (LAPACK sytrd), T = S diag(lambda) S^T by multiple
    relatively robust representations (stemr; Dhillon, Parlett 2004), or implicit QR (stev) where
    those fail. Then V^T Delta = S^T (Q^T Delta), where Q^T acts as a product of reflectors: the K^3
    cost of multiplying Q into S is never paid.

    Args:
        kernel: (K, K), symmetric; the lower triangle is read.
        residue: (K,) or (K, outputs), summed over outputs; or (N, C) with N C = K, which is read
            sample-major.

    Returns:
        (eigenvalues descending (K,), residue projections (K,)), float64.

    Raises:
        ValueError: if the shapes do not match or an entry is not finite.
        ArithmeticError: if sum_k Delta_k^2 differs from |Delta|^2 (Parseval).
    """
    kernel = _square(kernel)
    residue = _columns(residue, len(kernel))
    diagonal, off_diagonal, rotated = _tridiagonalise(kernel, residue)
    if len(kernel) == 1:
        eigenvalues, coefficients = diagonal, rotated
    else:
        eigenvalues, vectors = _tridiagonal_eigenpairs(diagonal, off_diagonal)
        coefficients = vectors.T @ rotated
    projections = (coefficients**2).sum(axis=1)
    check_parseval(float(projections.sum()), float((residue**2).sum()))
    return eigenvalues[::-1].copy(), projections[::-1].copy()


def check_parseval(found: float, total: float) -> None:
    """Compare sum_k Delta_k^2 with |Delta|^2.

    Args:
        found: sum of the residue projections.
        total: |Delta|^2.

    Raises:
        ArithmeticError: if they differ by more than rounding.
    """
    if abs(found - total) > PARSEVAL_TOLERANCE * total:
        raise ArithmeticError(
            f"the residue projections sum to {found:.15g}, |Delta|^2 is {total:.15g}"
        )


def _tridiagonalise(kernel: Array, residue: Array) -> tuple[Array, Array, Array]:
    """Return diagonal and off-diagonal of T, and Q^T residue, where kernel = Q T Q^T.

    Raises:
        ValueError: if LAPACK refuses an argument.
    """
    size = len(kernel)
    if size == 1:
        return kernel[0], np.empty(0), residue
    # The transpose of a C-ordered symmetric matrix is the Fortran-ordered matrix itself; its
    # lower triangle is then the upper one of ours, which is the same for a symmetric kernel.
    work = np.array(kernel, order="F")
    lwork = int(lapack.dsytrd_lwork(size, lower=1)[0])
    reflectors, diagonal, off_diagonal, tau, info = lapack.dsytrd(
        work, lower=1, lwork=lwork, overwrite_a=1
    )
    if info:
        raise ValueError(f"LAPACK dsytrd refused its argument {-info}")
    rotated = np.array(residue, order="F")
    # With lower=1, reflector i lives below the first subdiagonal of column i: the layout of a QR
    # factorisation of rows 1.. of the matrix, so ormqr applies Q^T.
    tail = np.asfortranarray(rotated[1:])
    columns = np.asfortranarray(reflectors[1:, :-1])
    lwork = int(lapack.dormqr("L", "T", columns, tau, tail, -1)[1][0])
    tail, _, info = lapack.dormqr("L", "T", columns, tau, tail, lwork, overwrite_c=1)
    if info:
        raise ValueError(f"LAPACK dormqr refused its argument {-info}")
    rotated[1:] = tail
    return diagonal, off_diagonal, rotated


def _tridiagonal_eigenpairs(diagonal: Array, off_diagonal: Array) -> tuple[Array, Array]:
    """Return eigenvalues, ascending, and eigenvectors of a symmetric tridiagonal matrix."""
    solve = partial(scipy.linalg.eigh_tridiagonal, diagonal, off_diagonal, check_finite=False)
    try:
        return solve(lapack_driver="stemr")
    except np.linalg.LinAlgError:
        # Eigenvalues that agree in all digits, as the C copies of each one where Theta = K x 1_C
        # (outputs of one linear layer), leave stemr no representation that separates them (info
        # 22). Implicit QR needs none; it is slower, O(K^3) for the eigenvectors.
        return solve(lapack_driver="stev")


def leading_eigenvectors(kernel: ArrayLike, count: int) -> tuple[Array, Array]:
    """Return the ``count`` largest eigenvalues, descending, and their eigenvectors.

    Args:
        kernel: (K, K), symmetric.
        count: number of pairs, 1 to K.

    Returns:
        (eigenvalues (count,), eigenvectors (K, count)).

    Raises:
        ValueError: if count is outside 1 to K.
    """
    kernel = _square(kernel)
    size = len(kernel)
    if not 1 <= count <= size:
        raise ValueError(f"count is {count}; a kernel of size {size} has 1 to {size} eigenvectors")
    values, vectors = scipy.linalg.eigh(kernel, subset_by_index=(size - count, size - 1))
    return values[::-1].copy(), vectors[:, ::-1].copy()


def leading_eigenspace_exists(eigenvalues: ArrayLike, count: int) -> bool:
    """Return whether the ``count`` leading eigenvectors span a space that the matrix decides.

    They do not if lambda_count = lambda_(count + 1) but for rounding: then any vectors of the
    degenerate space serve.

    Args:
        eigenvalues: descending, all of them or at least ``count`` + 1, shape (K,).
        count: number of leading eigenvectors, 1 to K.
    """
    values = np.asarray(eigenvalues, float)
    gap = np.inf if count == len(values) else values[count - 1] - values[count]
    return bool(gap > DEGENERATE * values[0])


def eigenspace_overlap(first: ArrayLike, second: ArrayLike) -> float:
    """Return |U^T V|_F^2 / min(columns), the mean squared cosine of the principal angles.

    Args:
        first: (K, p) with orthonormal columns U.
        second: (K, q) with orthonormal columns V.

    Returns:
        1.0 if one space contains the other, 0.0 if they are orthogonal; about
        max(p, q) / K for random spaces.

    Raises:
        ValueError: if the rows differ in number or columns are not orthonormal.
    """
    u, v = np.asarray(first, float), np.asarray(second, float)
    if u.ndim != 2 or v.ndim != 2 or len(u) != len(v):
        raise ValueError(f"eigenspaces of shapes {u.shape} and {v.shape} cannot be compared")
    for basis in (u, v):
        if not np.allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-8):
            raise ValueError("the columns of an eigenspace must be orthonormal")
    return float(((u.T @ v) ** 2).sum() / min(u.shape[1], v.shape[1]))


def kernel_drift(theta_t: ArrayLike, theta_0: ArrayLike) -> float:
    """Return |Theta_t - Theta_0|_F / |Theta_0|_F, zero for a kernel that stays constant.

    Args:
        theta_t: (K, K) kernel at time t.
        theta_0: (K, K) kernel at the start.

    Returns:
        The relative drift; NaN if Theta_0 is zero, as of a network that is dead at the start.

    Raises:
        ValueError: if the shapes differ.
    """
    later, start = np.asarray(theta_t, float), np.asarray(theta_0, float)
    if later.shape != start.shape:
        raise ValueError(f"kernels of shapes {later.shape} and {start.shape} cannot be compared")
    norm = np.linalg.norm(start)
    return float(np.linalg.norm(later - start) / norm) if norm > 0.0 else math.nan


def kernel_target_alignment(kernel: ArrayLike, targets: ArrayLike) -> float:
    """Return <Theta, Y Y^T>_F / (|Theta|_F |Y Y^T|_F) (Cristianini et al. 2001, equation 3).

    Args:
        kernel: (K, K).
        targets: (K,) or (K, outputs), or (N, C) with N C = K, read sample-major.

    Returns:
        Between -1 and 1; between 0 and 1 for a positive semi-definite kernel; NaN if either matrix
        is zero, as the kernel of a network all of whose ReLUs are dead.

    Raises:
        ValueError: if the shapes do not match.
    """
    kernel = _square(kernel)
    y = _columns(targets, len(kernel))
    norms = np.linalg.norm(kernel) * np.linalg.norm(y.T @ y)
    return float(np.sum(y * (kernel @ y)) / norms) if norms > 0.0 else math.nan


def equal_eigenvalues(eigenvalues: ArrayLike) -> NDArray[np.int64]:
    """Return for each eigenvalue the number of its group of equal ones, but for rounding.

    Those of a group are equal to its first one, so that no steep spectrum is one group.

    Args:
        eigenvalues: lambda_k of one kernel, descending, shape (K,); or of several, shape (R, K):
            those are then equal which are so in each.

    Returns:
        Groups from 0, ascending, shape (K,).
    """
    values = np.atleast_2d(np.asarray(eigenvalues, float))
    limit = EQUAL_EIGENVALUES * np.finfo(float).eps * values.max(axis=1)
    ascending = -values
    groups = np.zeros(values.shape[1], np.int64)
    start = number = 0
    while start < len(groups):
        ends = map(partial(np.searchsorted, side="right"), ascending, ascending[:, start] + limit)
        end = max(min(ends), start + 1)
        groups[start:end] = number
        start, number = end, number + 1
    return groups


def shared_projections(eigenvalues: ArrayLike, projections: ArrayLike) -> Array:
    """Return projections of which those on eigenvectors of equal eigenvalues are their mean.

    Such eigenvectors are any basis of the space that they span, by rounding and by the order of
    the rows; the sum of the squared projections on them is that of the residue on this space.

    Args:
        eigenvalues: lambda_k, descending, shape (K,).
        projections: Delta_k^2, shape (K,).

    Returns:
        Shape (K,), of the same sum.
    """
    groups = equal_eigenvalues(eigenvalues)
    return (np.bincount(groups, projections) / np.bincount(groups))[groups]


def noise_floor(eigenvalues: ArrayLike, size: int | None = None) -> float:
    """Return max(K eps lambda_1, -2 lambda_K), below which computed eigenvalues are rounding noise.

    A symmetric eigenvalue moves by at most the norm of the perturbation (Weyl), and the rounding
    of a K x K matrix has norm up to K eps lambda_1; LAPACK and numpy.linalg.matrix_rank use it.
    Products in float32 round more. Theta has no negative eigenvalue, so that the most negative one
    found shows their rounding, which reaches about as far above 0 (twice as far: own choice).

    Args:
        eigenvalues: (K,), any order, or fewer Ritz values of the matrix, which lie between them.
        size: K, where there are fewer values.

    Returns:
        The floor, in the units of the eigenvalues.
    """
    values = np.asarray(eigenvalues, float)
    rounding = (size or len(values)) * np.finfo(float).eps * values.max()
    return float(max(rounding, -2.0 * values.min()))


def without_noise(eigenvalues: ArrayLike) -> Array:
    """Return eigenvalues with those at or below ``noise_floor`` set to 0.

    Args:
        eigenvalues: lambda_k, shape (K,), any order.
    """
    values = np.asarray(eigenvalues, float)
    return np.where(values > noise_floor(values), values, 0.0)


def spectral_measure_lanczos(
    matvec: Callable[[Array], ArrayLike],
    residue: ArrayLike,
    steps: int,
    *,
    scaled_times: ArrayLike = QUADRATURE_TIMES,
    rounded: bool = False,
    start_from: LanczosState | None = None,
    on_product: Callable[[LanczosState], None] | None = None,
) -> SpectralMeasure:
    """Return a short spectrum whose sums equal sum_k Delta_k^2 g(lambda_k), by Gauss quadrature.

    Lanczos from Delta gives the tridiagonal T; its eigenvalues are the nodes and
    |Delta|^2 (first components)^2 the weights: exact for polynomials g of degree
    2 steps - 1 (Golub, Meurant 2010, chapter 6). The basis is kept orthogonal in float64 (two
    passes of Gram-Schmidt): without that, the sums of ill-conditioned kernels stall.

    The error estimate compares the Gauss rule with the Gauss-Radau rule that has a node at 0, for
    the loss sum  sum w (1 - e^{-2 lambda t})  and the length sum  sum w (1 - e^{-lambda t})^2 /
    lambda. For the loss sum the derivatives alternate in sign, and the two rules bracket the
    exact value. Where rounding has left Theta a negative eigenvalue there is no such rule, and the
    Gauss rule of a tenth fewer products is compared, both without their noise. Before a negative
    one shows, one small positive node stands for all noise: of a Theta of float32 data a node below
    their precision that is no larger than its residual |Theta y - theta y|, and so may be one, is
    left out as well, and the difference told.

    Args:
        matvec: v (K,) -> Theta v (K,), symmetric, positive semi-definite up to rounding.
        residue: Delta, any shape with K entries, read in C order.
        steps: number of products, at most K; 130 to 200 give 1e-6 for image NTKs.
        scaled_times: values of lambda_1 t over which the error is estimated.
        rounded: whether Theta has the rounding of float32 data.
        start_from: what ``on_product`` was given by a call with the same arguments, to be
            continued to the bits of a call that was never stopped.
        on_product: called after every product but the last, with views of the state so far.

    Returns:
        Nodes descending, weights, the largest relative difference of the two rules, and the floor
        of the nodes.

    Raises:
        ValueError: if steps is below 1, the residue is zero, a time is not positive, or Theta has
            no positive eigenvalue.
    """
    start = np.asarray(residue, float).ravel()
    norm = float(np.linalg.norm(start))
    if steps < 1:
        raise ValueError(f"steps is {steps}; the quadrature needs at least 1")
    if norm == 0.0:
        raise ValueError("the residue is zero, so its spectral measure has no weight")
    times = np.asarray(scaled_times, float)
    if not (times > 0).all():
        raise ValueError(f"scaled_times hold {times.min():g}; the error is estimated at times > 0")
    diagonal, off_diagonal = _lanczos(
        matvec, start / norm, min(steps, len(start)), start_from, on_product
    )
    nodes, weights = _gauss_rule(diagonal, off_diagonal[:-1], norm**2)
    floor = noise_floor(nodes, len(start))
    signal = np.where(nodes > floor, nodes, 0.0)
    if off_diagonal[-1] == 0.0:  # an invariant subspace: the rule is exact
        return SpectralMeasure(signal, weights, 0.0, floor)
    extended = _radau_matrix(diagonal, off_diagonal)
    if extended is not None:
        others, of_others = _gauss_rule(*extended, norm**2)
    else:
        fewer = max(len(diagonal) - max(len(diagonal) // 10, 1), 1)
        others, of_others = _gauss_rule(diagonal[:fewer], off_diagonal[: fewer - 1], norm**2)
    rules = [(np.where(others > floor, others, 0.0), of_others)]
    if rounded:
        noise = signal <= np.finfo(np.float32).eps * nodes[0]
        noise &= signal <= _residual_norms(diagonal, off_diagonal)
        rules.append((np.where(noise, 0.0, signal), weights))
    if nodes[0] <= 0:
        raise ValueError("the matrix has no positive eigenvalue: it is no kernel")
    times = times / nodes[0]
    error = max(_largest_difference((signal, weights), rule, times) for rule in rules)
    return SpectralMeasure(signal, weights, error, floor)


def _lanczos(
    matvec: Callable[[Array], ArrayLike],
    start: Array,
    steps: int,
    start_from: LanczosState | None = None,
    on_product: Callable[[LanczosState], None] | None = None,
) -> tuple[Array, Array]:
    """Return the diagonal (m,) and off-diagonal (m,) of T; the last one is the residual norm."""
    basis = np.empty((steps, len(start)))
    diagonal, off_diagonal = np.empty(steps), np.empty(steps)
    basis[0], done, scale = start, 0, 0.0
    if start_from is not None:
        done = len(start_from.diagonal)
        basis[: done + 1] = start_from.basis
        diagonal[:done], off_diagonal[:done] = start_from.diagonal, start_from.off_diagonal
        scale = start_from.scale
    for step in range(done, steps):
        product = np.asarray(matvec(basis[step]), float).ravel()
        diagonal[step] = basis[step] @ product
        scale = max(scale, float(np.linalg.norm(product)))
        known = basis[: step + 1]
        for _repeat in range(2):  # twice is enough (Parlett 1998, section 6.9)
            product = product - known.T @ (known @ product)
        norm = float(np.linalg.norm(product))
        # Below rounding the next vector is noise: the Krylov space is invariant.
        exhausted = norm <= len(start) * np.finfo(float).eps * scale or step + 1 == len(start)
        off_diagonal[step] = 0.0 if exhausted else norm
        if exhausted:
            return diagonal[: step + 1], off_diagonal[: step + 1]
        if step + 1 < steps:
            basis[step + 1] = product / norm
            if on_product is not None:
                done = step + 1
                state = basis[: done + 1], diagonal[:done], off_diagonal[:done], scale
                on_product(LanczosState(*state))
    return diagonal, off_diagonal


def _gauss_rule(diagonal: Array, off_diagonal: Array, total: float) -> tuple[Array, Array]:
    """Return nodes, descending, and weights of the Gauss rule of T (Golub, Welsch 1969)."""
    if len(diagonal) == 1:
        return diagonal.copy(), np.array([total])
    nodes, vectors = scipy.linalg.eigh_tridiagonal(diagonal, off_diagonal, lapack_driver="stev")
    return nodes[::-1], total * vectors[0, ::-1] ** 2


def _residual_norms(diagonal: Array, off_diagonal: Array) -> Array:
    """Return |Theta y - theta y| of the Ritz vectors, nodes descending (Parlett 1998, 13.2)."""
    if len(diagonal) == 1:
        return off_diagonal[-1:]
    _, vectors = scipy.linalg.eigh_tridiagonal(diagonal, off_diagonal[:-1], lapack_driver="stev")
    return off_diagonal[-1] * np.abs(vectors[-1, ::-1])


def _radau_matrix(diagonal: Array, off_diagonal: Array) -> tuple[Array, Array] | None:
    """Return T extended so that 0 is its least eigenvalue (Golub 1973); None if T has none above.

    The last diagonal entry is off^2 times the last entry of T^-1 e_m, which the Cholesky pivots
    d_1 = a_1, d_k = a_k - b_{k-1}^2 / d_{k-1} give as off^2 / d_m.
    """
    least = np.finfo(float).eps * float(diagonal.max())  # a smaller pivot is rounding
    pivot = diagonal[0]
    for entry, side in zip(diagonal[1:], off_diagonal[:-1], strict=True):
        if pivot <= least:
            return None
        pivot = entry - side**2 / pivot
    if pivot <= least:
        return None
    return np.append(diagonal, off_diagonal[-1] ** 2 / pivot), off_diagonal


def _largest_difference(
    first: tuple[Array, Array], second: tuple[Array, Array], times: Array
) -> float:
    """Return the largest difference of loss and length sums over the times, over their mean.

    Over their geometric mean, for the truth may lie at either: over the larger one the difference
    would never exceed 1.
    """
    worst = 0.0
    for a, b in zip(_sums(*first, times), _sums(*second, times), strict=True):
        worst = max(worst, float(np.max(np.abs(a - b) / np.sqrt(np.abs(a * b)))))
    return worst


def _sums(nodes: Array, weights: Array, times: Array) -> tuple[Array, Array]:
    """Return the loss sum and the length sum at every time."""
    exponent = -np.expm1(-times[:, None] * nodes)
    limit = times[:, None] * np.sqrt(nodes)  # of (1 - e^{-lt}) / sqrt(l) for small l
    small = nodes * times[:, None] < 1e-8  # the next term of the series is below rounding
    root = np.where(small, limit, exponent / np.sqrt(np.where(nodes > 0, nodes, 1.0)))
    return -np.expm1(-2 * times[:, None] * nodes) @ weights, root**2 @ weights


def _square(kernel: ArrayLike) -> Array:
    """Return the kernel as a float64 square array of finite entries.

    Raises:
        ValueError: if it is not square or holds an entry that is not finite.
    """
    kernel = np.asarray(kernel, dtype=np.float64)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or len(kernel) == 0:
        raise ValueError(f"the kernel has shape {kernel.shape}; it must be square")
    if not np.isfinite(kernel).all():
        raise ValueError("the kernel holds entries that are not finite")
    return kernel


def _columns(residue: ArrayLike, size: int) -> Array:
    """Return the residue as (size, columns).

    Raises:
        ValueError: if it does not fit the kernel or holds an entry that is not finite.
    """
    residue = np.asarray(residue, dtype=np.float64)
    if not np.isfinite(residue).all():
        raise ValueError("the residue holds entries that are not finite")
    if residue.ndim in (1, 2) and len(residue) == size:
        return residue.reshape(size, -1)
    if residue.ndim == 2 and residue.size == size:
        return residue.reshape(size, 1)
    raise ValueError(f"a residue of shape {residue.shape} does not fit a kernel of size {size}")
