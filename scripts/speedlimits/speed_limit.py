"""The thermodynamic speed limit of gradient-flow training and its inefficiency.

L is the sum over samples and outputs, halved. Times are training times, learning rate x steps for
gradient descent. All arrays are float64; "..." stands for any common shape.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

# Slack of T/T_SL >= 1 for an integrated gradient flow, the error of its squared lengths: on linear
# models lengths are within 0.5 % of the exact ones at the default tolerance (test_dynamics.py).
FLOW_DISCRETISATION = 0.02
# T/T_SL below this is no error of an integration: it is that of finite steps, or a lower bound at a
# temperature.
BELOW_ONE = 1 - FLOW_DISCRETISATION


class SpeedLimitError(ArithmeticError):
    """A measured trajectory breaks T action >= l_gamma^2 >= l_geo^2, which every curve obeys."""


def speed_limit_time(geodesic_length_squared: ArrayLike, loss_drop: ArrayLike) -> Array:
    """Return the speed-limit time T_SL = l_geo^2 / (L_0 - L_T) (paper, equation 8).

    Args:
        geodesic_length_squared: |theta_T - theta_0|^2, or its mean over realisations, shape (...).
        loss_drop: L_0 - L_T, or its mean over realisations, shape (...).

    Returns:
        T_SL in units of training time, shape (...); NaN where the loss has not dropped.

    >>> float(speed_limit_time(2.0, 0.5))
    4.0
    """
    return _ratio(geodesic_length_squared, loss_drop)


def inefficiency(
    time: ArrayLike, geodesic_length_squared: ArrayLike, loss_drop: ArrayLike
) -> Array:
    """Return the inefficiency T/T_SL = T (L_0 - L_T) / l_geo^2, at least 1, dimensionless.

    Args:
        time: training time T since the start, shape (...).
        geodesic_length_squared: l_geo^2 (or its mean over realisations), shape (...).
        loss_drop: L_0 - L_T (or its mean over realisations), shape (...).

    Returns:
        T/T_SL, shape (...); NaN where nothing has moved or the loss has not dropped: no bound.

    >>> float(inefficiency(6.0, 2.0, 0.5))
    1.5
    """
    return _ratio(np.asarray(time, float) * _dropped(loss_drop), geodesic_length_squared)


def speed_unevenness(
    time: ArrayLike, path_length_squared: ArrayLike, loss_drop: ArrayLike
) -> Array:
    """Return T (L_0 - L_T) / l_gamma^2, the factor by which uneven speed costs time.

    It is 1 for a trajectory of constant speed. With means over realisations, <l_gamma^2> takes the
    place of l_gamma^2; the factor stays at least 1 because each realisation's is.

    Args:
        time: training time T since the start, shape (...).
        path_length_squared: l_gamma^2 (or its mean over realisations), shape (...).
        loss_drop: L_0 - L_T (or its mean over realisations), shape (...).

    Returns:
        The factor, shape (...); NaN where nothing has moved or the loss has not dropped.
    """
    return _ratio(np.asarray(time, float) * _dropped(loss_drop), path_length_squared)


def path_excess(path_length_squared: ArrayLike, geodesic_length_squared: ArrayLike) -> Array:
    """Return (l_gamma / l_geo)^2, the factor by which a bent path costs time; 1 if straight.

    Args:
        path_length_squared: l_gamma^2 (or its mean over realisations), shape (...).
        geodesic_length_squared: l_geo^2 (or its mean over realisations), shape (...).

    Returns:
        The factor, shape (...); NaN where nothing has moved.
    """
    return _ratio(path_length_squared, geodesic_length_squared)


def kinematic_inefficiency(
    time: ArrayLike, geodesic_length_squared: ArrayLike, action: ArrayLike
) -> Array:
    """Return T int |theta'|^2 dt / l_geo^2, at least 1 for any curve, whatever moves the weights.

    It is T/T_SL for gradient flow, whose action is its loss drop, and does not change if every
    step is said to take another time: optimisers can be compared by it.

    Args:
        time: training time T since the start, shape (...).
        geodesic_length_squared: l_geo^2 (or its mean over realisations), shape (...).
        action: int |theta'|^2 dt (or its mean over realisations), shape (...).

    Returns:
        The inefficiency, shape (...); NaN where nothing has moved.
    """
    return inefficiency(time, geodesic_length_squared, action)


def energetic_inefficiency(
    time: ArrayLike, preconditioned_length_squared: ArrayLike, energy_drop: ArrayLike
) -> Array:
    """Return T (E_0 - E_T) / |theta_T - theta_0|_D^2, at least 1 where E is what the action drops.

    The energy E is the loss, with momentum plus the kinetic energy; the squared length is that in
    Adam's mean metric D, else l_geo^2 (docs/theory.md, section 8). It is T/T_SL for gradient flow.

    Args:
        time: training time T since the start, shape (...).
        preconditioned_length_squared: |theta_T - theta_0|_D^2 (or its mean over realisations), in
            units of loss x time, shape (...).
        energy_drop: E_0 - E_T (or its mean over realisations), shape (...).

    Returns:
        The inefficiency, shape (...); NaN where nothing has moved or the energy has not dropped.
    """
    return inefficiency(time, preconditioned_length_squared, energy_drop)


def discretisation(action: ArrayLike, loss_drop: ArrayLike) -> Array:
    """Return (int |theta'|^2 dt - (L_0 - L_T)) / (L_0 - L_T), zero for gradient flow.

    Args:
        action: int |theta'|^2 dt, shape (...).
        loss_drop: L_0 - L_T, shape (...).

    Returns:
        Relative difference, shape (...); NaN where the loss has not dropped.
    """
    return _ratio(np.asarray(action, float) - np.asarray(loss_drop, float), loss_drop)


def heat_error(heat: ArrayLike, loss_drop: ArrayLike, free_energy_drop: ArrayLike) -> Array:
    """Return |heat - (L_0 - L_T)| / |F_0 - F_T|, the share by which T_SL may be off.

    0 for a smooth loss and steps that are short for the temperature (docs/theory.md, section 6.3).

    Args:
        heat: -int grad L o d theta (loss), shape (...).
        loss_drop: L_0 - L_T (loss), shape (...).
        free_energy_drop: F_0 - F_T (loss), shape (...); NaN where it is unknown, as the result.

    Returns:
        The share, shape (...).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.abs(np.asarray(heat, float) - loss_drop) / np.abs(free_energy_drop)


def check_speed_limit(
    time: ArrayLike,
    action: ArrayLike,
    path_length: ArrayLike,
    geodesic_length: ArrayLike,
    *,
    relative_rounding: float = 1e-6,
) -> None:
    """Assert T action >= l_gamma^2 >= l_geo^2.

    Both hold for any curve (Cauchy-Schwarz, triangle inequality), so that breaking one means a
    wrong number. T (L_0 - L_T) >= l_gamma^2 follows as far as the action is the loss drop, which
    ``discretisation`` measures: exactly for gradient flow, not for finite steps.

    Args:
        time: training times since the start, shape (M,).
        action: int |theta'|^2 dt, shape (M,).
        path_length: l_gamma, shape (M,).
        geodesic_length: l_geo, shape (M,).
        relative_rounding: slack for rounding, relative. Lengths are accumulated in float64 from
            gradients in float32 (relative precision 6e-8); 1e-6 leaves room for their sums.

    Raises:
        SpeedLimitError: naming the inequality, the time and both sides.
    """
    time, action = np.asarray(time, float), np.asarray(action, float)
    path, geodesic = np.asarray(path_length, float), np.asarray(geodesic_length, float)
    _assert_at_least("l_gamma >= l_geo", path, geodesic, relative_rounding, time)
    _assert_at_least("T action >= l_gamma^2", time * action, path**2, relative_rounding, time)


def _assert_at_least(name: str, left: Array, right: Array, slack: float, time: Array) -> None:
    """Raise if left < right anywhere beyond the relative slack.

    Raises:
        SpeedLimitError: names inequality, time and both sides.
    """
    time, left, right = np.broadcast_arrays(*np.atleast_1d(time, left, right))
    broken = left < right * (1 - slack)
    if np.any(broken):
        k = int(np.argmax(broken))
        raise SpeedLimitError(
            f"the inequality {name} is broken at time {time[k]:.6g}: {left[k]:.9g} < "
            f"{right[k]:.9g}; the trajectory's lengths are wrong, do not use this run"
        )


def _dropped(loss_drop: ArrayLike) -> Array:
    """Return the loss drop, NaN where it is not positive."""
    drop = np.asarray(loss_drop, float)
    return np.where(drop > 0, drop, np.nan)


def _ratio(numerator: ArrayLike, denominator: ArrayLike) -> Array:
    """Return numerator / denominator, NaN where the denominator is not positive."""
    top, bottom = np.broadcast_arrays(np.asarray(numerator, float), np.asarray(denominator, float))
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
