"""Linear regression on Gaussian data with n, d -> infinity at a fixed ratio n/d.

Inputs x ~ N(0, I/d), so that a prediction x . theta has the variance of a component of theta. The
eigenvalues of X^T X (d of them, X of shape (n, d)) then follow the Marchenko-Pastur law with the
ratio c = n/d (paper, equations 9 to 12; docs/theory.md, section 6):

    density(h) = sqrt((h_+ - h)(h - h_-)) / (2 pi h)   on   h_-+ = (1 -+ sqrt c)^2,

of total mass min(1, c), and a point mass 1 - c at h = 0 if c < 1. Its mean is c.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speedlimits.linear_regression import OrnsteinUhlenbeckModes, expected_displacements_squared

Array = NDArray[np.float64]

INTEGRAL_TOLERANCE = 1e-10  # far below the 1/d corrections of any finite data set
# Panels halve towards the lower edge, the first one to some 1e-12 of the angle: whatever happens at
# one scale of h - h_- above 1e-23, as e^{-h T} or the peak of the density if c is near 1, is smooth
# on the panels there.
PANELS = 40
NODES = 16  # in a panel: 48 change T_SL, W2^2 and drops by less than 1e-13, up to T = 1e9
FIRST_NODES, MAXIMUM_NODES = 4, 256  # in a panel, of an integral


def support(ratio: float) -> tuple[float, float]:
    """Ends (h_-, h_+) = (1 -+ sqrt c)^2 of the continuous part.

    Args:
        ratio: c = n/d, above 0.

    Returns:
        The least and the greatest eigenvalue of the bulk.

    Raises:
        ValueError: if the ratio is not above 0.
    """
    if not ratio > 0:
        raise ValueError(f"ratio n/d is {ratio}; it must be above 0")
    root = np.sqrt(ratio)
    return float((1.0 - root) ** 2), float((1.0 + root) ** 2)


def density(eigenvalues: ArrayLike, ratio: float) -> Array:
    """Density of the continuous part, per dimension; 0 outside the support.

    Args:
        eigenvalues: h, any shape.
        ratio: c = n/d, above 0.

    Returns:
        The density, shape of ``eigenvalues``; its integral is min(1, c).
    """
    lower, upper = support(ratio)
    h = np.asarray(eigenvalues, dtype=np.float64)
    inside = (h > lower) & (h < upper)
    safe = np.where(inside, h, 0.5 * (lower + upper))
    return np.where(inside, np.sqrt((upper - safe) * (safe - lower)) / (2.0 * np.pi * safe), 0.0)


def point_mass(ratio: float) -> float:
    """Share of eigenvalues that are zero, max(0, 1 - c): directions that no sample sees.

    Args:
        ratio: c = n/d, above 0.

    Returns:
        The mass at h = 0.
    """
    support(ratio)
    return max(0.0, 1.0 - ratio)


def quadrature(ratio: float, nodes: int = NODES) -> tuple[Array, Array]:
    """Nodes and weights of the continuous part: sum_j w_j f(h_j) = integral of density x f.

    With h = h_- + 4 sqrt(c) sin^2(phi), 0 < phi < pi/2, the density has no roots left, and
    Gauss-Legendre's rule on panels that halve towards phi = 0 converges exponentially for every f
    that is smooth in ln(h - h_-).

    Args:
        ratio: c = n/d, above 0.
        nodes: their number in each of the panels.

    Returns:
        (h_j, w_j), each of shape (PANELS x nodes,), h_j ascending.
    """
    lower, _ = support(ratio)
    edges = 0.5 * np.pi * np.append(0.0, 0.5 ** np.arange(PANELS - 1.0, -1.0, -1.0))
    points, weights = np.polynomial.legendre.leggauss(nodes)
    half = 0.5 * np.diff(edges)[:, None]
    phi = (edges[:-1, None] + half * (1.0 + points)).ravel()
    width = 4.0 * np.sqrt(ratio)
    h = lower + width * np.sin(phi) ** 2
    # density dh, whose two factors sin(phi) cos(phi) are multiplied
    measure = (width * np.sin(phi) * np.cos(phi)) ** 2 / (np.pi * h)
    return h, measure * (half * weights).ravel()


def integral(
    function: Callable[[Array], Array],
    ratio: float,
    relative_tolerance: float = INTEGRAL_TOLERANCE,
) -> float:
    """Mean of f(h) over all eigenvalues, the point mass at h = 0 included.

    Args:
        function: f, (n,) -> (n,), finite at 0 if c < 1.
        ratio: c = n/d, above 0.
        relative_tolerance: nodes are doubled until the value changes by less than this part.

    Returns:
        integral of density x f + max(0, 1 - c) f(0), the limit of 1/d sum_k f(h_k).

    Raises:
        ValueError: if the integral does not converge with the largest number of nodes.
    """
    of_zeros = point_mass(ratio)
    if of_zeros > 0:  # else f may diverge there
        of_zeros *= float(function(np.zeros(1))[0])
    nodes, value = FIRST_NODES, np.nan
    while nodes <= MAXIMUM_NODES:
        h, weights = quadrature(ratio, nodes)
        previous, value = value, of_zeros + float(np.sum(weights * function(h)))
        if abs(value - previous) <= relative_tolerance * abs(value):
            return value
        nodes *= 2
    raise ValueError(
        f"the integral changes by {abs(value - previous):.1e} between {MAXIMUM_NODES // 2} and "
        f"{MAXIMUM_NODES} nodes in a panel; the function is not smooth on the support"
    )


def limiting_modes(
    ratio: float,
    *,
    start_variance: float,
    temperature: float,
    teacher_variance: float = 1.0,
    noise_variance: float = 0.0,
    ridge: float = 0.0,
    start_mean_square: float = 0.0,
) -> OrnsteinUhlenbeckModes:
    """Modes whose sums are the limits per dimension of those of a data set with n = c d samples.

    Every function of `linear_regression` applied to them gives its Marchenko-Pastur limit: sums
    such as W2^2 and the free energy per dimension (path lengths over sqrt d), times and
    inefficiencies as they are.

    Args:
        ratio: c = n/d, above 0.
        start_variance: s_0.
        temperature: beta^-1.
        teacher_variance: variance of a component of the teacher theta*; 1 sets the unit of weights.
        noise_variance: variance of the label noise.
        ridge: coefficient of |theta|^2 / 2.
        start_mean_square: mean square of a component of m_0; 0 is the zero start.

    Returns:
        Quadrature nodes as modes, with their weights as multiplicities, and the zero modes.
    """
    sample_eigenvalues, weights = quadrature(ratio)
    sample_eigenvalues = np.append(sample_eigenvalues, 0.0)
    displacements = expected_displacements_squared(
        sample_eigenvalues, teacher_variance, noise_variance, ridge, start_mean_square
    )
    return OrnsteinUhlenbeckModes(
        sample_eigenvalues + ridge,
        displacements,
        start_variance,
        temperature,
        np.append(weights, point_mass(ratio)),
    )
