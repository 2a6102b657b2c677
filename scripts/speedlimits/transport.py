"""Wasserstein distance W2 between ensembles of weights: Gaussian closed form and assignment.

W2(p, q)^2 = min over couplings of <|theta - theta'|^2>. Between Gaussians it is the Bures distance;
between two samples of R points each the best coupling is a permutation, an assignment problem.
Along NTK dynamics the coupling of each start with its own end is the best one (docs/theory.md,
section 7); whether that holds for a trained network is for `compare_couplings` to say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

Array = NDArray[np.float64]

# Two assignments whose costs differ by less than this part are the same to rounding of the costs.
ROUNDING = 1e-10
# Of symmetry and sign, over the largest entry: what sums of float32 data may be off by.
COVARIANCE_ROUNDING = 1e-6


@dataclass(frozen=True)
class CouplingComparison:
    """Identity coupling against the optimal one for one ensemble of starts and ends.

    Args:
        identity_cost: mean of |theta_T - theta_0|^2 over realisations.
        optimal_cost: its least value over all assignments of ends to starts, W2^2 of the samples.
        assignment: index of the end assigned to each start, shape (R,).
        identity_is_optimal: whether no other assignment is cheaper beyond rounding.
    """

    identity_cost: float
    optimal_cost: float
    assignment: NDArray[np.intp]
    identity_is_optimal: bool

    @property
    def relative_gap(self) -> float:
        """(identity - optimal) / optimal cost: how much the identity overstates W2^2.

        0 where both are 0, as of starts that have not moved; infinite where only the optimum is.
        """
        excess = self.identity_cost - self.optimal_cost
        if self.optimal_cost == 0:
            return math.inf if excess > 0 else 0.0
        return excess / self.optimal_cost


def gaussian_wasserstein_squared(
    mean_0: ArrayLike, covariance_0: ArrayLike, mean_1: ArrayLike, covariance_1: ArrayLike
) -> float:
    """W2^2 between two Gaussians, |m_0 - m_1|^2 + tr(C_0 + C_1 - 2 (C_0^1/2 C_1 C_0^1/2)^1/2).

    (Peyre and Cuturi 2019, remark 2.31.) The traces of close Gaussians cancel to nothing, as at
    early times; the covariances' part is taken as what it equals without that,
    min_Q |C_0^1/2 - Q^T C_1^1/2|_F^2 over orthogonal Q, which is U V^T of the singular value
    decomposition U S V^T of C_1^1/2 C_0^1/2 (orthogonal Procrustes problem).

    Args:
        mean_0: mean of the first Gaussian, shape (d,).
        covariance_0: its covariance, symmetric, shape (d, d).
        mean_1: mean of the second Gaussian, shape (d,).
        covariance_1: its covariance, symmetric, shape (d, d).

    Returns:
        W2^2 >= 0.

    Raises:
        ValueError: if the shapes do not belong together, or a covariance is not symmetric or has an
            eigenvalue below 0 by more than rounding.
    """
    mean_0, mean_1 = np.asarray(mean_0, float), np.asarray(mean_1, float)
    covariances = [np.asarray(c, float) for c in (covariance_0, covariance_1)]
    shapes = [mean_0.shape, mean_1.shape, *(c.shape for c in covariances)]
    d = len(mean_0) if mean_0.ndim else 0
    if shapes != [(d,), (d,), (d, d), (d, d)] or d == 0:
        raise ValueError(f"means and covariances have shapes {shapes}; they must be (d,), (d, d)")
    first, second = (_root(c) for c in covariances)
    left, _, right = np.linalg.svd(second @ first)
    apart = first - (left @ right).T @ second
    return float(np.sum((mean_0 - mean_1) ** 2) + np.sum(apart**2))


def fitted_gaussian_wasserstein_squared(starts: ArrayLike, ends: ArrayLike) -> float:
    """W2^2 between the Gaussians fitted to two samples (their means and covariances).

    Exact for Gaussian ensembles up to sampling: two samples of R points of one and the same
    N(m, s I) in d dimensions are s (d (d + 1) / 2 + 2 d) / R apart on average, to leading order in
    1/R. The first part is of the covariances, whose W2^2 is tr (C_0 - C_1)^2 / (4 s) to second
    order, the second of the means (derived here). So give R >> d^2.

    Args:
        starts: theta_0 of each realisation, shape (R, d).
        ends: theta_T of each realisation, shape (R, d).

    Returns:
        W2^2 of the fitted Gaussians.

    Raises:
        ValueError: if the samples differ in shape, are not (R, d), or hold fewer than two points.
    """
    starts, ends = _samples(starts, ends)
    if len(starts) < 2:
        raise ValueError(f"{len(starts)} realisations have no covariance; give at least 2")
    return gaussian_wasserstein_squared(
        starts.mean(axis=0),
        np.atleast_2d(np.cov(starts, rowvar=False)),
        ends.mean(axis=0),
        np.atleast_2d(np.cov(ends, rowvar=False)),
    )


def compare_couplings(
    starts: ArrayLike,
    ends: ArrayLike,
    own_costs: ArrayLike | None = None,
    rounding: float = ROUNDING,
) -> CouplingComparison:
    """Cost of coupling each start with its own end, and of the optimal assignment.

    The assignment is exact (SciPy, Hungarian method, O(R^3)). As an estimate of W2^2 between the
    distributions behind the samples it carries a bias of order R^(-2/d).

    Args:
        starts: theta_0 of each realisation, shape (R, P).
        ends: theta_T of each realisation in the same order, shape (R, P).
        own_costs: |theta_T - theta_0|^2 of each realisation, shape (R,), where it is known better
            than from weights that have been rounded; None takes it from starts and ends.
        rounding: part of the cost by which assignments differ that are equal but for the rounding
            of weights.

    Returns:
        Both costs per realisation, the assignment, and whether the identity is optimal.

    Raises:
        ValueError: if the samples differ in shape or are not (R, P), or the costs are not R.
    """
    costs = _costs(starts, ends, own_costs)
    rows, assignment = linear_sum_assignment(costs)
    optimal = float(costs[rows, assignment].mean())
    identity = float(np.trace(costs) / len(costs))
    return CouplingComparison(
        identity_cost=identity,
        optimal_cost=min(optimal, identity),
        assignment=assignment,
        identity_is_optimal=identity - optimal <= rounding * identity,
    )


def cheapest_other_cost(
    starts: ArrayLike, ends: ArrayLike, own_costs: ArrayLike | None = None
) -> float:
    """Least cost of an assignment of ends to starts that is not the identity.

    Such an assignment lacks at least one pair (i, i): the least over i of the optimal assignment
    without that pair (R assignment problems, O(R^4)). Above the identity's cost, it says by how
    much the identity is the optimum; below, that it is not.

    Args:
        starts: theta_0 of each realisation, shape (R, P).
        ends: theta_T of each realisation in the same order, shape (R, P).
        own_costs: as in ``compare_couplings``.

    Returns:
        Mean of |theta_T - theta_0|^2 over the pairs of that assignment, in units of the weights
        squared; NaN for a single realisation, which has no other (derived here).

    Raises:
        ValueError: if the samples differ in shape or are not (R, P), or the costs are not R.
    """
    costs = _costs(starts, ends, own_costs)
    if len(costs) < 2:
        return np.nan
    found = []
    for i in range(len(costs)):
        without = costs.copy()
        without[i, i] = np.inf
        found.append(without[linear_sum_assignment(without)].mean())
    return float(min(found))


def componentwise_wasserstein_squared(starts: ArrayLike, ends: ArrayLike) -> float:
    """W2^2 between two product distributions: the optimal assignments of each component, summed.

    In one dimension sorting solves the assignment. W2^2 adds over independent components, as the
    modes of linear regression are, and the sampling bias falls to order 1/R per component.

    Args:
        starts: first sample, shape (R, K), in coordinates in which components are independent.
        ends: second sample, shape (R, K).

    Returns:
        Sum over components of the one-dimensional W2^2 of the samples.
    """
    starts, ends = _samples(starts, ends)
    return float(np.sum(np.mean((np.sort(starts, axis=0) - np.sort(ends, axis=0)) ** 2, axis=0)))


def _costs(starts: ArrayLike, ends: ArrayLike, own_costs: ArrayLike | None) -> Array:
    """Return |theta_T' - theta_0|^2 of each start (row) and end, with the known ones of own ends.

    Raises:
        ValueError: if the samples differ in shape or are not (R, P), or own costs are not (R,).
    """
    # Of differences, not of norms and products: exact for close points.
    costs = cdist(*_samples(starts, ends), metric="sqeuclidean")
    if own_costs is not None:
        if np.shape(own_costs) != (len(costs),):
            raise ValueError(
                f"own_costs have shape {np.shape(own_costs)}; give one for each realisation, "
                f"({len(costs)},)"
            )
        costs[np.diag_indices(len(costs))] = own_costs
    return costs


def _samples(starts: ArrayLike, ends: ArrayLike) -> tuple[Array, Array]:
    """Return both samples as float64 (R, P) arrays of one shape.

    Raises:
        ValueError: if their shapes differ or are not (R, P).
    """
    starts, ends = np.asarray(starts, dtype=np.float64), np.asarray(ends, dtype=np.float64)
    if starts.ndim != 2 or starts.shape != ends.shape:
        raise ValueError(
            f"starts and ends have shapes {starts.shape} and {ends.shape}; both must be (R, P) "
            "with the same R and P"
        )
    return starts, ends


def _root(matrix: Array) -> Array:
    """Return the positive semidefinite root of a symmetric matrix, rounding below zero clipped.

    Raises:
        ValueError: if it is no covariance by more than rounding.
    """
    values, vectors = np.linalg.eigh(matrix)
    rounding = COVARIANCE_ROUNDING * np.abs(matrix).max()
    if np.abs(matrix - matrix.T).max() > rounding or values[0] < -len(values) * rounding:
        raise ValueError("a covariance is not symmetric, or has an eigenvalue below 0")
    return (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
