"""One step of the second-order Runge-Kutta-Chebyshev method, with the leading modes implicit.

RKC2: Sommeijer, Shampine, Verwer, "RKC: an explicit solver for parabolic PDEs", J. Comput. Appl.
Math. 88 (1998) 315-326. With s stages and the damping chosen here the method is stable for
step * rho up to about 0.46 s^2, rho the spectral radius, where s plain Euler steps reach 2 s. The
spectra of networks fall steeply: with a few leading eigenpairs of the Hessian taken implicitly,
rho is that of the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

# Sommeijer et al. (1998) take epsilon = 2/13, the longest stable interval. On ReLU networks that
# learn features each crossed kink excites stiff modes, which that value hardly damps: with 4 (of
# 2/13, 1, 4 and 10) the action exceeds the loss drop by less than half as much, and a trajectory
# takes 23 to 32 % fewer gradients (Myrtle-5, 16 channels, 32 and 128 digits, lambda_1 T = 1000).
DAMPING = 4.0
# s^2 - 1 >= 2.18 step rho keeps the step inside the stable interval: the largest of (s^2 - 1) w_1 /
# (w_0 + 1) over s = 2..60 is 2.164.
STABILITY = 2.18
MINIMUM_STAGES = 2
# Modes of less than this in a step are stable with the least number of stages too, which is enough
# up to 3 / 2.18 of step rho, and to second order.
IMPLICIT_FROM = 1.0
# Largest residual of a pair, over its eigenvalue. Of 0.1, 0.05, 0.02, 0.005 it takes the fewest
# gradients on power-law spectra: poorer pairs shorten the steps, better ones are fewer.
KEPT_RESIDUAL = 0.02
BREAKDOWN = 1e-12  # relative size of a Lanczos residual that is nothing but rounding


@dataclass(frozen=True)
class StageCoefficients:
    """Coefficients of the recurrence for stages 1..s (index 0 belongs to stage 1).

    Y_1 = Y_0 + mu~_1 h F_0 and, for j >= 2, Y_j = (1 - mu_j - nu_j) Y_0 + mu_j Y_{j-1}
    + nu_j Y_{j-2} + mu~_j h F_{j-1} + gamma~_j h F_0.
    """

    mu: tuple[float, ...]
    nu: tuple[float, ...]
    mu_tilde: tuple[float, ...]
    gamma_tilde: tuple[float, ...]


def stages_needed(step: float, spectral_radius: float) -> int:
    """Return the least number of stages s that is stable for step * spectral_radius.

    Args:
        step: h, in units of time.
        spectral_radius: largest eigenvalue, 1 / time.
    """
    return max(MINIMUM_STAGES, 1 + math.floor(math.sqrt(STABILITY * step * spectral_radius + 1.0)))


def largest_step(stages: int, spectral_radius: float) -> float:
    """Return the largest step that ``stages`` stages integrate stably.

    Args:
        stages: s.
        spectral_radius: largest eigenvalue, 1 / time.

    Returns:
        In units of time; infinite for a spectral radius of 0.
    """
    if spectral_radius == 0.0:
        return math.inf
    return ((stages - 1) ** 2 - 1) / (STABILITY * spectral_radius)


@lru_cache(maxsize=1024)
def stage_coefficients(stages: int) -> StageCoefficients:
    """Return the coefficients of the s-stage method, equations 2.5 to 2.7 of the source.

    With Chebyshev polynomials T_j at w_0 = 1 + epsilon/s^2: w_1 = T_s'/T_s'',
    b_j = T_j''/T_j'^2, a_j = 1 - b_j T_j.

    Args:
        stages: s, at least 2.
    """
    w_0 = 1.0 + DAMPING / stages**2
    t, dt, ddt = [1.0, w_0], [0.0, 1.0], [0.0, 0.0]
    for _ in range(2, stages + 1):
        t.append(2.0 * w_0 * t[-1] - t[-2])
        dt.append(2.0 * t[-2] + 2.0 * w_0 * dt[-1] - dt[-2])
        ddt.append(4.0 * dt[-2] + 2.0 * w_0 * ddt[-1] - ddt[-2])
    w_1 = dt[stages] / ddt[stages]
    b = [0.0, 1.0 / w_0] + [ddt[j] / dt[j] ** 2 for j in range(2, stages + 1)]
    b[0] = b[2]
    a = [1.0 - b[j] * t[j] for j in range(stages + 1)]
    mu, nu, mu_tilde, gamma_tilde = [0.0], [0.0], [b[1] * w_1], [0.0]
    for j in range(2, stages + 1):
        mu.append(2.0 * b[j] * w_0 / b[j - 1])
        nu.append(-b[j] / b[j - 2])
        mu_tilde.append(2.0 * b[j] * w_1 / b[j - 1])
        gamma_tilde.append(-a[j - 1] * mu_tilde[-1])
    return StageCoefficients(tuple(mu), tuple(nu), tuple(mu_tilde), tuple(gamma_tilde))


@dataclass(frozen=True)
class StiffPart:
    """The leading eigenpairs of the Hessian, A = Q diag(eigenvalues) Q^T, known approximately.

    Attributes:
        vectors: Q, shape (P, k), orthonormal columns.
        eigenvalues: shape (k,), positive, ascending.
    """

    vectors: Tensor
    eigenvalues: Tensor

    @classmethod
    def none(cls, like: Tensor) -> StiffPart:
        """Return A = 0, k = 0, for vectors of the shape (P,), type and device of ``like``."""
        return cls(like.new_zeros(len(like), 0), like.new_zeros(0))

    def split(self, rate: float) -> tuple[float, StiffPart]:
        """Return the largest eigenvalue up to a rate, 0 without any, and the part above it.

        Args:
            rate: 1 / time.
        """
        slow = self.eigenvalues[self.eigenvalues <= rate].tolist()
        above = StiffPart(self.vectors[:, len(slow) :], self.eigenvalues[len(slow) :])
        return max(slow, default=0.0), above

    def product(self, vector: Tensor) -> Tensor:
        """Return A times a vector, shape (P,)."""
        return self.vectors @ (self.eigenvalues * (self.vectors.T @ vector))


def chebyshev_step(
    velocity: Callable[[Tensor], Tensor],
    start: Tensor,
    velocity_start: Tensor,
    step: float,
    stages: int,
    stiff: StiffPart,
) -> Tensor:
    """Integrate d u/dt = v(u) over one step; s - 1 velocities are taken.

    The part -A (u - u_0) of the velocity is taken implicitly, the rest explicitly: the method
    IMEX-RKC of Verwer and Sommeijer, SIAM J. Sci. Comput. 25 (2004) 1824-1835. Stability asks only
    for stages enough for the rest. With k = 0 it is RKC2, of second order; A adds a local error
    mu~_1 (h A)(h v) with mu~_1 of the order of 1/s^2, which ``error_estimate`` sees. It is small
    where it is used: the modes of A have long decayed. (Removing it by a correction of second
    order took up to twice the gradients, since the stiff modes are then damped less.) As A has
    rank k, the implicit equation costs two products with Q a stage, 4 k P operations. Modes slower
    than ``IMPLICIT_FROM`` / step, which may not have decayed, are better left to the rest.

    Args:
        velocity: v(u) for u of shape (P,).
        start: u_0 at the start of the step, shape (P,).
        velocity_start: v(u_0), shape (P,).
        step: h, in units of training time.
        stages: s, at least 2.
        stiff: A; k = 0 columns for none.

    Returns:
        u at the end of the step, shape (P,).
    """
    c, q = stage_coefficients(stages), stiff.vectors
    rates = step * stiff.eigenvalues  # h times the eigenvalues of A
    implicit = 1.0 + c.mu_tilde[0] * rates

    # d = u_j - u_0 of the last two stages, and their components Q^T d; both vanish for stage 0.
    before, components_before = torch.zeros_like(start), torch.zeros_like(rates)
    explicit = (c.mu_tilde[0] * step) * velocity_start
    projection = q.T @ explicit
    components = projection / implicit
    now = explicit + q @ (components - projection)
    for j in range(1, stages):
        explicit = c.mu[j] * now + c.nu[j] * before
        explicit.add_(velocity(start + now), alpha=c.mu_tilde[j] * step)
        explicit.add_(velocity_start, alpha=c.gamma_tilde[j] * step)
        projection = q.T @ explicit
        earlier = c.mu_tilde[j] * components + c.nu[j] * c.mu_tilde[0] * components_before
        components_after = (projection + rates * earlier) / implicit
        before, now = now, explicit + q @ (components_after - projection)
        components_before, components = components, components_after
    return start + now


def leading_eigenpairs(
    product: Callable[[Tensor], Tensor], start: Tensor, count: int
) -> tuple[StiffPart, float, Tensor]:
    """Return the converged leading eigenpairs of a symmetric matrix after ``count`` Lanczos steps.

    All basis vectors are orthogonalised against each other, twice. A pair is kept if its residual
    is small against its eigenvalue; the others belong to the rest.

    Args:
        product: the matrix times a vector of shape (P,); may carry rounding errors.
        start: first vector, shape (P,), not zero.
        count: products taken, at least 1.

    Returns:
        The pairs (k <= count), a lower estimate of the spectral radius of the rest, and a vector
        in which the rest is strong, shape (P,).
    """
    basis, images = [start / start.norm()], []
    for _ in range(count):
        image = product(basis[-1])
        images.append(image)
        known = torch.stack(basis, dim=1)
        residual = image - known @ (known.T @ image)
        residual = residual - known @ (known.T @ residual)
        norm = residual.norm()
        if norm <= BREAKDOWN * image.norm():
            break  # the space is invariant: every pair is exact
        basis.append(residual / norm)
    space = torch.stack(basis[: len(images)], dim=1)
    matrix = space.T @ torch.stack(images, dim=1)
    values, rotation = torch.linalg.eigh(0.5 * (matrix + matrix.T))
    residuals = norm * rotation[-1].abs()
    kept = (values > 0.0) & (residuals < KEPT_RESIDUAL * values)
    rest = torch.cat([values[~kept].abs(), residuals[kept], values.new_zeros(1)]).max().item()
    return StiffPart(space @ rotation[:, kept], values[kept]), rest, basis[-1]


def error_estimate(
    start: Tensor, end: Tensor, velocity_start: Tensor, velocity_end: Tensor, step: float
) -> Tensor:
    """Return the local error (12 (u_0 - u_1) + 6 h (v_0 + v_1)) / 15, equation 2.9 of the source.

    It vanishes as the cube of the step, as the error does, and is not below it: of y' = -y by 1.2
    times (two stages) to 2.2 times (many) at the shipped damping.

    Args:
        start: u_0, shape (P,).
        end: u_1, shape (P,).
        velocity_start: v_0, shape (P,).
        velocity_end: v_1, shape (P,).
        step: h.

    Returns:
        Shape (P,), in units of u.
    """
    return 0.8 * (start - end) + (0.4 * step) * (velocity_start + velocity_end)
