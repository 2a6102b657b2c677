"""One step of the second-order Runge-Kutta-Chebyshev method RKC2.

Source: Sommeijer, Shampine, Verwer, "RKC: an explicit solver for parabolic PDEs", J. Comput.
Appl. Math. 88 (1998) 315-326. With s stages the method is stable for step * rho up to about
0.65 s^2, rho the spectral radius of the Hessian, where s plain Euler steps reach 2 s.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

DAMPING = 2.0 / 13.0  # epsilon of Sommeijer et al. (1998), section 2
STABILITY = 1.54  # s^2 - 1 >= 1.54 step rho keeps the step inside the stable interval; ibid.
MINIMUM_STAGES = 2


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
    """Return the least number of stages s that is stable for step * spectral_radius."""
    return max(MINIMUM_STAGES, 1 + math.floor(math.sqrt(STABILITY * step * spectral_radius + 1.0)))


def largest_step(stages: int, spectral_radius: float) -> float:
    """Return the largest step that ``stages`` stages integrate stably."""
    if spectral_radius == 0.0:
        return math.inf
    return ((stages - 1) ** 2 - 1) / (STABILITY * spectral_radius)


@lru_cache(maxsize=1024)
def stage_coefficients(stages: int) -> StageCoefficients:
    """Return the coefficients of the s-stage method, equations 2.5 to 2.7 of the source.

    With Chebyshev polynomials T_j at w_0 = 1 + epsilon/s^2: w_1 = T_s'/T_s'',
    b_j = T_j''/T_j'^2, a_j = 1 - b_j T_j.
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


def chebyshev_step(
    velocity: Callable[[Tensor], Tensor],
    start: Tensor,
    velocity_start: Tensor,
    step: float,
    stages: int,
) -> Tensor:
    """Integrate d u/dt = v(u) over one step; s - 1 velocities are taken.

    Args:
        velocity: v(u) for u of shape (P,).
        start: u at the start of the step, shape (P,).
        velocity_start: v there, shape (P,).
        step: h, in units of training time.
        stages: s, at least 2.

    Returns:
        u at the end of the step, shape (P,).
    """
    c = stage_coefficients(stages)
    before, now = start, start + (c.mu_tilde[0] * step) * velocity_start
    for j in range(1, stages):
        mu, nu = c.mu[j], c.nu[j]
        after = (1.0 - mu - nu) * start
        after.add_(now, alpha=mu).add_(before, alpha=nu)
        after.add_(velocity(now), alpha=c.mu_tilde[j] * step)
        after.add_(velocity_start, alpha=c.gamma_tilde[j] * step)
        before, now = now, after
    return now


def error_estimate(
    start: Tensor, end: Tensor, velocity_start: Tensor, velocity_end: Tensor, step: float
) -> Tensor:
    """Return the local error (12 (u_0 - u_1) + 6 h (v_0 + v_1)) / 15, equation 2.9 of the source.

    It is exact to leading order for every s and vanishes as the cube of the step.
    """
    return 0.8 * (start - end) + (0.4 * step) * (velocity_start + velocity_end)
