"""A stabilised explicit Runge-Kutta method of fourth order whose coefficients are computed.

It is built as ROCK4 is (Abdulle, "Fourth order Chebyshev methods with recurrence relation", SIAM J.
Sci. Comput. 23 (2002) 2041-2054), which comes with tables. Its stability polynomial is
R_s(z) = w(z) P_m(z), m = s - 4: w has two pairs of complex roots, and P_j are the polynomials
orthogonal on the stable interval under the weight w^2 / sqrt(1 - x^2), whose recurrence makes the
first m stages. Four more stages with the stability function w complete the fourth order.

* Roots and interval: R_s = 1 + z + z^2/2 + z^3/6 + z^4/24 + ... at z = 0, and between
  -length and log(damping) |R_s| is at most the damping (``stability_polynomial``).
* Four last stages: the four coefficients of w, and the conditions of the trees of up to four
  vertices that w does not imply (``last_stages``).
* Error estimate: the one combination of their velocities and of that at the end that vanishes up to
  the third order (``StabilisedMethod.error``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.polynomial import Polynomial
from scipy.optimize import root
from torch import Tensor

DAMPING = 0.95  # of Abdulle (2002)
LAST_STAGES = 4
LEAST_STAGES = LAST_STAGES + 1
EVERY_DEGREE_TO, DEGREE_GROWTH = 20, 1.1  # as in the tables of ROCK4, not every degree is made
ROOTS_OF_EXPONENTIAL = (-0.27, 2.5, -1.73, 0.89)  # of 1 + z + ... + z^4/24: real, imaginary parts
POINTS_A_STAGE = 40  # of the grid on which |R_s| is bounded
NEWTON_STEPS, NEWTON_TOLERANCE = 50, 1e-13

# Weights of the trees with up to four vertices, in this order: t1 = o, [t1], [t1 t1], [[t1]],
# [t1 t1 t1], [t1 [t1]], [[t1 t1]], [[[t1]]]; of the exact solution 1/density (Hairer, Norsett,
# Wanner, Solving Ordinary Differential Equations I, II.2).
EXACT_WEIGHTS = np.array([1, 1 / 2, 1 / 3, 1 / 6, 1 / 4, 1 / 8, 1 / 12, 1 / 24])
TALL = [0, 1, 3, 7]  # the trees that occur for a linear velocity: w has their weights
OTHERS = [2, 4, 5, 6]
THIRD_ORDER = [0, 1, 2, 3]

Velocity = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class StabilityPolynomial:
    """R_s(z) = w(z) P_m(z), P_0 = 1, P_j = (mu_j z + nu_j) P_j-1 + (1 - nu_j) P_j-2.

    Attributes:
        length: |R_s| is at most 1 on [-length, 0].
        recurrence: (mu_j, nu_j) for j = 1..m, shape (m, 2).
        last: coefficients of z, z^2, z^3, z^4 in w, whose constant is 1.
        roots: real and imaginary part of w's root of either pair, shape (4,).
    """

    length: float
    recurrence: np.ndarray
    last: np.ndarray
    roots: np.ndarray

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """Return R_s(z)."""
        before, now = np.zeros_like(z), np.ones_like(z)
        for mu, nu in self.recurrence:
            before, now = now, (mu * z + nu) * now + (1.0 - nu) * before
        return now * Polynomial([1.0, *self.last])(z)

    def series(self) -> np.ndarray:
        """Return the coefficients of z^0 to z^4 in R_s."""
        before, now = np.zeros(5), np.eye(5)[0]
        for mu, nu in self.recurrence:
            shifted = np.append(0.0, now[:4])
            before, now = now, mu * shifted + nu * now + (1.0 - nu) * before
        return np.convolve(now, [1.0, *self.last])[:5]


def orthogonal(stages: int, roots: np.ndarray, length: float) -> StabilityPolynomial:
    """Return w P_m with these roots and P_m orthogonal on [-length, log(damping)].

    The recurrence follows from sums over Chebyshev nodes, exact for all polynomials that occur
    (the Stieltjes procedure; Gautschi, Orthogonal Polynomials, 2004, section 2.2).
    """
    end = math.log(DAMPING)
    half = 0.5 * (length + end)
    nodes = 2 * stages + 8
    z = end - half + half * np.cos(np.pi * (np.arange(nodes) + 0.5) / nodes)
    w = Polynomial([1.0])
    for real, imaginary in zip(roots[::2], roots[1::2], strict=True):
        square = real**2 + imaginary**2
        w *= Polynomial([1.0, -2.0 * real / square, 1.0 / square])
    weight = w(z) ** 2
    before, now, recurrence = np.zeros(nodes), np.ones(nodes), []
    for _ in range(stages - LAST_STAGES):
        # The next is (z - a) P_j-1 - b P_j-2, orthogonal to both, over its value at z = 0.
        a = weight @ (z * now**2) / (weight @ now**2)
        b = weight @ (z * now * before) / (weight @ before**2) if before.any() else 0.0
        scale = -a - b
        before, now = now, ((z - a) * now - b * before) / scale
        recurrence.append((1.0 / scale, -a / scale))
    return StabilityPolynomial(length, np.array(recurrence), w.coef[1:], roots)


def degrees() -> list[int]:
    """Return the numbers of stages for which there is a method."""
    known = list(range(LEAST_STAGES, EVERY_DEGREE_TO + 1))
    while known[-1] < 600:  # as far as RKC2 with 500 stages, the flow's limit
        known.append(math.ceil(DEGREE_GROWTH * known[-1]))
    return known


@lru_cache
def stability_polynomial(stages: int) -> StabilityPolynomial:
    """Return R_s for one of ``degrees()``, by continuation from the one before.

    Five unknowns, the roots and the length, by five equations: the coefficients of z to z^4, and
    the largest of the maxima of |R_s| inside the stable interval, which is the damping.

    Raises:
        ArithmeticError: if the equations are not solved.
    """
    end, known = math.log(DAMPING), degrees()
    if stages == LEAST_STAGES:
        guess = np.array([*ROOTS_OF_EXPONENTIAL, 6.0])
    else:
        former_stages = known[known.index(stages) - 1]
        former = stability_polynomial(former_stages)
        guess = np.append(former.roots, former.length * (stages / former_stages) ** 2)
    angles = np.linspace(0.0, np.pi, POINTS_A_STAGE * stages)

    def residual(unknowns: np.ndarray) -> np.ndarray:
        polynomial = orthogonal(stages, unknowns[:4], unknowns[4])
        half = 0.5 * (unknowns[4] + end)
        values = np.abs(polynomial(end - half + half * np.cos(angles)))
        inside = values[1:-1]
        maxima = inside[(inside >= values[:-2]) & (inside >= values[2:])]
        wrong = polynomial.series()[1:] / EXACT_WEIGHTS[TALL] - 1.0
        return np.append(wrong, maxima.max(initial=0.0) - DAMPING)

    solution = root(residual, guess, options={"xtol": 1e-13})
    if np.abs(solution.fun).max() > 1e-9:
        raise ArithmeticError(f"no stability polynomial of {stages} stages was found")
    return orthogonal(stages, solution.x[:4], solution.x[4])


def velocity_weights(weights: np.ndarray) -> np.ndarray:
    """Return the weights of the trees in h v(y), for those of y, shape (8,)."""
    t1, chain, bush, tall = weights[:4]
    return np.array([1.0, t1, t1**2, chain, t1**3, t1 * chain, bush, tall])


def weights_before(polynomial: StabilityPolynomial) -> np.ndarray:
    """Return the weights of the trees after the m stages of the recurrence, shape (8,)."""
    before, now = np.zeros(8), np.zeros(8)
    for mu, nu in polynomial.recurrence:
        before, now = now, mu * velocity_weights(now) + nu * now + (1.0 - nu) * before
    return now


def stage_weights(matrix: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return the weights of h v at stages that start from ``start``, shape (k, 8).

    Args:
        matrix: stage i is the start plus sum_j matrix[i, j] h v(stage j), shape (k, >= k).
        start: weights of the start, shape (8,).
    """
    velocities = np.zeros((len(matrix), 8))
    for i, row in enumerate(matrix):
        velocities[i] = velocity_weights(start + row[: len(matrix)] @ velocities)
    return velocities


def last_stages(polynomial: StabilityPolynomial) -> np.ndarray:
    """Return the coefficients of the last four stages and, as the fifth row, of the end.

    Ten unknowns, eight conditions: of the solutions the one that Newton's method with least steps
    reaches from the classical method.

    Returns:
        Shape (5, 4): row i times the velocities of the four stages is added for stage i.

    Raises:
        ArithmeticError: if the conditions are not met.
    """
    start, rows = weights_before(polynomial), np.tril_indices(5, -1, 4)

    def residual(unknowns: np.ndarray) -> np.ndarray:
        matrix = np.zeros((5, 4))
        matrix[rows] = unknowns
        from_start = matrix[4] @ stage_weights(matrix[:4], np.zeros(8))
        from_zero = start + matrix[4] @ stage_weights(matrix[:4], start)
        linear = from_start[TALL] / polynomial.last - 1.0
        return np.append(linear, from_zero[OTHERS] / EXACT_WEIGHTS[OTHERS] - 1.0)

    unknowns = np.array([1 / 2, 0, 1 / 2, 0, 0, 1, 1 / 6, 1 / 3, 1 / 3, 1 / 6])
    unknowns *= polynomial.last[0]  # they cover this part of the step
    for _ in range(NEWTON_STEPS):
        wrong = residual(unknowns)
        if np.abs(wrong).max() < NEWTON_TOLERANCE:
            matrix = np.zeros((5, 4))
            matrix[rows] = unknowns
            return matrix
        size = 1e-7
        jacobian = np.array(
            [(residual(unknowns + size * e) - residual(unknowns - size * e)) for e in np.eye(10)]
        ).T / (2.0 * size)
        unknowns = unknowns - np.linalg.lstsq(jacobian, wrong)[0]
    raise ArithmeticError(f"the last stages of {len(polynomial.recurrence) + 4} were not found")


@dataclass(frozen=True)
class StabilisedMethod:
    """The method of s stages.

    Attributes:
        polynomial: R_s.
        last: coefficients of the last four stages and of the end, shape (5, 4).
        error: coefficients of the velocities of the last four stages and of that at the end in the
            error estimate, shape (5,). For v = -y it is h^4/24, the term that a method of third
            order may lack.
    """

    polynomial: StabilityPolynomial
    last: np.ndarray
    error: np.ndarray

    def step(
        self, velocity: Velocity, start: Tensor, velocity_start: Tensor, step: float
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the end of a step and the velocities of its last stages; s - 1 are taken."""
        before, now, v = start, start, velocity_start
        for j, (mu, nu) in enumerate(self.polynomial.recurrence.tolist()):
            v = velocity(now) if j else v
            before, now = now, (mu * step) * v + nu * now + (1.0 - nu) * before
        velocities: list[Tensor] = []
        for row in self.last[:LAST_STAGES].tolist():
            stage = sum((step * a * v for a, v in zip(row, velocities, strict=False)), now)
            velocities.append(velocity(stage))
        end = sum((step * b * v for b, v in zip(self.last[-1], velocities, strict=True)), now)
        return end, velocities

    def local_error(self, velocities: list[Tensor], velocity_end: Tensor, step: float) -> Tensor:
        """Return the estimated error of a step with these velocities of its last stages."""
        known = [*velocities, velocity_end]
        return sum(step * e * v for e, v in zip(self.error.tolist(), known, strict=True))


@lru_cache
def stabilised_method(stages: int) -> StabilisedMethod:
    """Return the method for one of ``degrees()``."""
    polynomial = stability_polynomial(stages)
    last = last_stages(polynomial)
    matrix = np.zeros((5, 5))
    matrix[:, :4] = last
    weights = stage_weights(matrix, weights_before(polynomial))  # the fifth stage is the end
    error = np.linalg.svd(weights[:, THIRD_ORDER].T)[2][-1]  # the one vector that these vanish on
    return StabilisedMethod(polynomial, last, error * EXACT_WEIGHTS[7] / (error @ weights[:, 7]))


def method_for(step: float, spectral_radius: float) -> StabilisedMethod:
    """Return the method with the fewest stages that is stable for a step.

    Raises:
        ValueError: if none is.
    """
    for stages in degrees():
        if stability_polynomial(stages).length >= step * spectral_radius:
            return stabilised_method(stages)
    raise ValueError(f"no method is stable for a step of {step} and the radius {spectral_radius}")
