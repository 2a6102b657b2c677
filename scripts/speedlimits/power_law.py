"""Power-law spectra: lambda_k = lambda_1 k^-alpha and Delta_k^2 = c k^-delta, k = 1, 2, ...

The sums of `ntk_dynamics` on such spectra, their limits for infinitely many modes and long times,
and the regimes in between (paper, section 4; docs/theory.md, section 5). Everything
dimensionless depends on time through tau = lambda_1 T alone, and not on c. The exponent that
decides is s = (delta - 1)/alpha.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gamma, zeta

from speedlimits import ntk_dynamics

Array = NDArray[np.float64]

REGIMES = ("last modes", "optimal", "logarithmic", "growing")
ORDERS = ("leading", "full")
EULER_GAMMA = float(np.euler_gamma)
# Nearer to a pole than this its two divergent terms are replaced by their limit: cancellation
# costs eps / 1e-7 and the limit about 1e-7 (ln tau)^2, both below 1e-4 up to tau = 1e12.
POLE_DISTANCE = 1e-7


def spectrum(
    alpha: float, delta: float, count: int, lambda_1: float = 1.0, amplitude: float = 1.0
) -> tuple[Array, Array]:
    """Eigenvalues lambda_1 k^-alpha and residue projections c k^-delta for k = 1..K.

    Args:
        alpha: exponent of the eigenvalues, above 0.
        delta: exponent of the residue projections.
        count: number of modes K, at least 1.
        lambda_1: largest eigenvalue; 1 sets the unit of time.
        amplitude: c = Delta_1^2; 1 sets the unit of the loss.

    Returns:
        (eigenvalues, residue_projections), each of shape (K,), float64.

    Raises:
        ValueError: if alpha is not above 0 or count below 1.
    """
    _check_alpha(alpha)
    if count < 1:
        raise ValueError(f"count is {count}; a spectrum needs at least 1 mode")
    k = np.arange(1, count + 1, dtype=np.float64)
    return lambda_1 * k**-alpha, amplitude * k**-delta


def s_parameter(alpha: ArrayLike, delta: ArrayLike) -> Array:
    """Exponent s = (delta - 1)/alpha that sets the regime (docs/theory.md, section 5).

    The regimes meet at s = -1, 0 and 1, which decimals such as alpha = 0.1, delta = 0.9 miss by
    their rounding: within that s is the integer.

    Args:
        alpha: exponent of the eigenvalues, above 0.
        delta: exponent of the residue projections; broadcast against alpha.

    Returns:
        s, float64.

    Raises:
        ValueError: if an alpha is not above 0.
    """
    _check_alpha(alpha)
    alpha, delta = np.asarray(alpha, dtype=np.float64), np.asarray(delta, dtype=np.float64)
    s = (delta - 1.0) / alpha
    # The rounding of delta, of delta - 1, of alpha and of the quotient, half an eps each
    rounding = np.finfo(np.float64).eps * (1.0 + np.abs(delta) + alpha) / alpha
    nearest = np.clip(np.rint(s), -1.0, 1.0)
    return np.where(np.abs(s - nearest) <= rounding, nearest, s)


def regime(alpha: float, delta: float) -> str:
    """Name the long-time behaviour of the inefficiency for infinitely many modes.

    * "last modes" (s <= -1, that is alpha^-1 (1 - delta) >= 1): the sums diverge at large k, so
      with K modes they are ruled by the slowest, which still move at constant speed while
      lambda_K T << 1. T/T_SL -> 1 there (at s = -1 with corrections 1/log K), and nothing but the
      cut-off K ends it.
    * "optimal" (-1 < s < 0): T/T_SL tends to a constant, T_SL is proportional to T.
    * "logarithmic" (s = 0, delta = 1): T/T_SL grows as log T.
    * "growing" (s > 0): T/T_SL grows as T^min(s, 1) (at s = 1 as T / log T).

    Args:
        alpha: exponent of the eigenvalues, above 0.
        delta: exponent of the residue projections.

    Returns:
        One of `REGIMES` (paper, section 4; the first regime: docs/theory.md, section 5).
    """
    s = float(s_parameter(alpha, delta))
    if s <= -1:
        return "last modes"
    if s < 0:
        return "optimal"
    return "logarithmic" if s == 0 else "growing"


def asymptotic_inefficiency(alpha: ArrayLike, delta: ArrayLike) -> Array:
    """Limit of T/T_SL for K -> infinity, then T -> infinity: (1 - s) / (4 (1 - 2^s)).

    Args:
        alpha: exponent of the eigenvalues, above 0.
        delta: exponent of the residue projections; broadcast against alpha.

    Returns:
        The constant for -1 < s < 0, 1 for s <= -1, infinity for s >= 0 (docs/theory.md,
        section 5).

    >>> asymptotic_inefficiency([1.5, 2.0, 2.0], [0.5, 0.0, 0.5]).round(4).tolist()
    [1.6158, 1.2803, 1.9641]
    """
    s = s_parameter(alpha, delta)
    inside = np.where((s > -1) & (s < 0), s, -0.5)
    constant = (1.0 - inside) / (-4.0 * np.expm1(inside * np.log(2.0)))
    return np.where(s <= -1, 1.0, np.where(s < 0, constant, np.inf))


def asymptotic_length_ratio_squared(alpha: ArrayLike, delta: ArrayLike) -> Array:
    """Limit of (l_NTK/l_geo)^2 for K -> infinity, then T -> infinity: -s / ((1 - s)(1 - 2^s)).

    It rises from 1 at s = -1 through 1/ln 2 at s = 0 and diverges as 1/(1 - s) at s = 1. Beyond
    s = 1 both lengths converge and the ratio is finite again but depends on alpha and delta
    separately: NaN here.

    Args:
        alpha: exponent of the eigenvalues, above 0.
        delta: exponent of the residue projections; broadcast against alpha.

    Returns:
        The constant for -1 < s < 1, 1 for s <= -1, infinity at s = 1, NaN for s > 1
        (docs/theory.md, section 5).
    """
    s = s_parameter(alpha, delta)
    inside = np.where((s > -1) & (s < 1) & (s != 0), s, -0.5)
    constant = inside / ((1.0 - inside) * np.expm1(inside * np.log(2.0)))
    constant = np.where(s == 0, 1.0 / np.log(2.0), constant)
    beyond = np.where(s == 1, np.inf, np.nan)
    return np.where(s <= -1, 1.0, np.where(s < 1, constant, beyond))


def growth_exponent(alpha: ArrayLike, delta: ArrayLike) -> Array:
    """Exponent of T in the growth of T/T_SL: min(s, 1) for s > 0, else 0.

    The paper's T^{(delta-1)/alpha} holds up to s = 1; beyond, the distance converges, T_SL is
    bounded and T/T_SL grows as T.

    Args:
        alpha: exponent of the eigenvalues, above 0.
        delta: exponent of the residue projections; broadcast against alpha.

    Returns:
        The exponent, between 0 and 1 (docs/theory.md, section 5).
    """
    return np.clip(s_parameter(alpha, delta), 0.0, 1.0)


def growth_constant(alpha: float, delta: float) -> float:
    """Constant C of T/T_SL -> C (lambda_1 T)^min(s, 1) in the growing regime.

    C = alpha zeta(delta) / (4 Gamma(s - 1) (2^-s - 1)) for 0 < s < 1 and
    C = zeta(delta) / (2 zeta(delta - alpha)) for s > 1.

    Args:
        alpha: exponent of the eigenvalues, above 0.
        delta: exponent of the residue projections, above 1.

    Returns:
        C, dimensionless (docs/theory.md, section 5).

    Raises:
        ValueError: if s is not above 0, or is 1, where a logarithm replaces the constant.
    """
    s = float(s_parameter(alpha, delta))
    if s <= 0 or abs(s - 1.0) < POLE_DISTANCE:
        raise ValueError(
            f"s = (delta - 1)/alpha is {s}; a growth constant exists for s above 0 other than 1"
        )
    if s > 1:
        return float(zeta(delta) / (2.0 * zeta(delta - alpha)))
    return float(alpha * zeta(delta) / (4.0 * gamma(s - 1.0) * np.expm1(-s * np.log(2.0))))


def infinite_loss_drop(alpha: float, delta: float, times: ArrayLike) -> Array:
    """Loss drop over c of infinitely many modes, but for terms exponential in tau^(1/(1+alpha)).

    With tau = lambda_1 T, (L_0 - L_T)/c = 1/2 [zeta(delta) - Gamma(s) (2 tau)^-s / alpha], which at
    s = 0 becomes 1/2 [gamma_E + (ln 2 tau + gamma_E)/alpha]. zeta is continued below 1, where it
    stands for the sum's correction to its integral.

    Args:
        alpha: exponent of the eigenvalues, above 0.
        delta: exponent of the residue projections, with s > -1.
        times: tau with tau^(1/(1 + alpha)) large against 1, any shape.

    Returns:
        The loss drop in units of c = Delta_1^2, shape of ``times`` (docs/theory.md, section 5).

    Raises:
        ValueError: if s <= -1, where the sum over infinitely many modes diverges.
    """
    s = _check_convergence(alpha, delta)
    tau = np.asarray(times, dtype=np.float64)
    if abs(s) < POLE_DISTANCE:
        return 0.5 * (EULER_GAMMA + (np.log(2.0 * tau) + EULER_GAMMA) / alpha)
    return 0.5 * (zeta(delta) - gamma(s) * (2.0 * tau) ** -s / alpha)


def infinite_geodesic_length_squared(alpha: float, delta: float, times: ArrayLike) -> Array:
    """l_geo^2 lambda_1/c of infinitely many modes, with the same terms left out.

    l_geo^2 lambda_1/c = zeta(delta - alpha) + Gamma(s - 1) (2^{1-s} - 2) tau^{1-s} / alpha, and at
    s = 1 gamma_E + (ln(tau/2) + gamma_E)/alpha.

    Args:
        alpha: exponent of the eigenvalues, above 0.
        delta: exponent of the residue projections, with s > -1.
        times: tau = lambda_1 T as for the loss drop, any shape.

    Returns:
        The squared length in units of c/lambda_1, shape of ``times`` (docs/theory.md, section 5).

    Raises:
        ValueError: if s <= -1, where the sum over infinitely many modes diverges.
    """
    s = _check_convergence(alpha, delta)
    tau = np.asarray(times, dtype=np.float64)
    if abs(s - 1.0) < POLE_DISTANCE:
        return EULER_GAMMA + (np.log(0.5 * tau) + EULER_GAMMA) / alpha
    if abs(s) < POLE_DISTANCE:
        coefficient = 2.0 * np.log(2.0)  # Gamma(s - 1) has a pole that 2^-s - 1 cancels
    else:
        # The difference that zeta takes: a rounding of its own would be left where poles cancel.
        coefficient = 2.0 * gamma((delta - alpha - 1.0) / alpha) * np.expm1(-s * np.log(2.0))
    return zeta(delta - alpha) + coefficient * tau ** (1.0 - s) / alpha


def inefficiency_asymptote(
    alpha: float, delta: float, times: ArrayLike, lambda_1: float = 1.0, order: str = "full"
) -> Array:
    """Long-time inefficiency T/T_SL of a power-law spectrum with infinitely many modes.

    The amplitude c of the residue drops out and lambda_1 sets the unit of time, so fitted exponents
    and the measured lambda_1 are all that is needed to draw the curve beside measured data. A
    spectrum of K modes follows it while (lambda_1 T)^(1/(1 + alpha)) >> 1 and lambda_1 T <<
    K^alpha.

    Args:
        alpha: exponent of the eigenvalues, above 0.
        delta: exponent of the residue projections.
        times: T, any shape, in units of 1/lambda_1 if ``lambda_1`` is left at 1.
        lambda_1: largest eigenvalue, in 1/time.
        order: "leading" keeps the growing term alone: the constant, (ln tau)/(4 ln 2), or
            C tau^min(s, 1); "full" (default: at lambda_1 T of measured runs, 1e1 to 1e5, the
            leading term alone is wrong by factors near s = 0) keeps every algebraic term.

    Returns:
        T/T_SL, shape of ``times``; NaN outside the expansion: for lambda_1 T < 1, and where the
        full one is below 1, which T/T_SL never is. 1 for s <= -1.

    Raises:
        ValueError: if the order is unknown.
    """
    if order not in ORDERS:
        raise ValueError(f"order is {order!r}; it must be one of {ORDERS}")
    s = float(s_parameter(alpha, delta))
    tau = lambda_1 * np.asarray(times, dtype=np.float64)
    tau = np.where(tau >= 1.0, tau, np.nan)
    if s <= -1:
        return np.where(np.isnan(tau), np.nan, 1.0)
    if order == "leading":
        return _leading_inefficiency(alpha, delta, s, tau)
    drop = infinite_loss_drop(alpha, delta, tau)
    found = tau * drop / infinite_geodesic_length_squared(alpha, delta, tau)
    return np.where(found >= 1.0, found, np.nan)


def finite_power_law_inefficiency(
    alpha: float, delta: float, count: int, times: ArrayLike, lambda_1: float = 1.0
) -> Array:
    """Inefficiency T/T_SL of a power-law spectrum with K modes, by the finite sums.

    Args:
        alpha: exponent of the eigenvalues, above 0.
        delta: exponent of the residue projections.
        count: number of modes K, at least 1.
        times: T, shape (M,) or scalar.
        lambda_1: largest eigenvalue, in 1/time; 1 sets the unit of time.

    Returns:
        T/T_SL, shape of ``times``.
    """
    return ntk_dynamics.inefficiency(*spectrum(alpha, delta, count, lambda_1), times)


def _leading_inefficiency(alpha: float, delta: float, s: float, tau: Array) -> Array:
    """Return the leading long-time term of T/T_SL for s > -1."""
    if s < 0:
        return np.where(np.isnan(tau), np.nan, asymptotic_inefficiency(alpha, delta))
    if s == 0:
        return np.log(tau) / (4.0 * np.log(2.0))
    if abs(s - 1.0) < POLE_DISTANCE:  # (delta - 1)/alpha of floats is rarely 1 exactly
        with np.errstate(divide="ignore"):
            return 0.5 * zeta(delta) * alpha * tau / np.log(tau)
    return growth_constant(alpha, delta) * tau ** min(s, 1.0)


def _check_alpha(alpha: ArrayLike) -> None:
    """Refuse exponents alpha that are not above 0.

    Raises:
        ValueError: if one is not above 0.
    """
    if not np.all(np.asarray(alpha) > 0):
        raise ValueError(f"alpha is {alpha}; the eigenvalues must fall, alpha > 0")


def _check_convergence(alpha: float, delta: float) -> float:
    """Return s, refusing s <= -1.

    Raises:
        ValueError: if s <= -1, where the infinite sum diverges.
    """
    s = float(s_parameter(alpha, delta))
    if s <= -1:
        raise ValueError(
            f"s = (delta - 1)/alpha is {s}; the sum over infinitely many modes needs s > -1"
        )
    return s
