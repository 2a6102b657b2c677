"""NTK dynamics: loss drop, lengths and speed-limit time of a linearised network, mode by mode.

With a constant kernel Theta = J J^T and the loss L = 1/2 |Delta|^2 (sum over samples and outputs,
halved), gradient flow decouples in the eigenbasis of Theta: Delta_k(t) = Delta_k e^{-lambda_k t}.
Everything below follows from the eigenvalues lambda_k and the squared projections Delta_k^2 of
the residue at t = 0, whatever the shape of the spectrum (paper, section 4; docs/theory.md).

Conventions shared by all functions:

* ``eigenvalues`` (K,) lambda_k in 1/time and ``residue_projections`` (K,) Delta_k^2 in units of
  the loss, in any order; ``times`` (M,) or a scalar, finite, not negative, in any order.
* Negative eigenvalues, which rounding leaves in a computed spectrum, are treated as zero. A mode
  with lambda = 0 never moves and adds exactly nothing to any quantity. Small positive eigenvalues
  enter through expm1, so that lambda T -> 0 gives the limit T^2 lambda Delta^2 of the squared
  length without cancellation or division by zero.
* The output is float64 of the shape of ``times``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

CHUNK_ELEMENTS = 1 << 20  # 8 MiB of float64 per temporary: fits a last-level cache
DEAD_EXPONENT = 750.0  # exp(-750) is 0 in float64 (the smallest subnormal is exp(-744.4))
PATH_TOLERANCE = 1e-9  # far below any sampling error; costs about 30 speeds per e-fold of time
SMALLEST_TOLERANCE = 1e-13  # some hundred units of float64 rounding, reached by sums over panels
PANEL_POINTS = 8  # Gauss-Legendre points: exact to degree 15 on a panel
PANEL_WIDTH = 1.0  # first panels in ln t: the integrand varies on the scale of one e-fold
MAXIMUM_BISECTIONS = 40  # 2^-40 of an e-fold: reached only by an integrand that is not finite


def loss_drop(eigenvalues: ArrayLike, residue_projections: ArrayLike, times: ArrayLike) -> Array:
    """Loss drop L_0 - L_T = 1/2 sum_k Delta_k^2 (1 - e^{-2 lambda_k T}).

    Args:
        eigenvalues: lambda_k, shape (K,).
        residue_projections: Delta_k^2, shape (K,).
        times: T, shape (M,) or scalar.

    Returns:
        L_0 - L_T, shape of ``times`` (paper, section 4).

    Raises:
        ValueError: if shapes differ, or a value is not finite or negative where it may not be.
    """
    lam, delta_squared = _moving_modes(eigenvalues, residue_projections)
    return _mode_sum(
        lambda t: -np.expm1(-2.0 * np.multiply.outer(t, lam)) @ (0.5 * delta_squared), lam, times
    )


def action(eigenvalues: ArrayLike, residue_projections: ArrayLike, times: ArrayLike) -> Array:
    """Action int_0^T |theta'|^2 dt, which gradient flow makes equal to the loss drop.

    |theta'|^2 = -dL/dt along the flow, so the integral is L_0 - L_T without any quadrature.

    Args:
        eigenvalues: lambda_k, shape (K,).
        residue_projections: Delta_k^2, shape (K,).
        times: T, shape (M,) or scalar.

    Returns:
        The action, shape of ``times`` (docs/theory.md, section 2).
    """
    return loss_drop(eigenvalues, residue_projections, times)


def geodesic_length_squared(
    eigenvalues: ArrayLike, residue_projections: ArrayLike, times: ArrayLike
) -> Array:
    """Squared geodesic length l_geo^2 = sum_k Delta_k^2 (1 - e^{-lambda_k T})^2 / lambda_k.

    This is |theta_T - theta_0|^2; a mode with lambda_k T -> 0 gives T^2 lambda_k Delta_k^2.

    Args:
        eigenvalues: lambda_k, shape (K,).
        residue_projections: Delta_k^2, shape (K,).
        times: T, shape (M,) or scalar.

    Returns:
        l_geo^2, shape of ``times`` (paper, section 4).

    Raises:
        ValueError: if shapes differ, or a value is not finite or negative where it may not be.
    """
    lam, delta_squared = _moving_modes(eigenvalues, residue_projections)

    def displacement_squared(t: Array) -> Array:
        decay = np.expm1(-np.multiply.outer(t, lam))
        # decay / lam tends to -t and stays of that order: no overflow for lam down to 1e-300
        return (decay * (decay / lam)) @ delta_squared

    return _mode_sum(displacement_squared, lam, times)


def speed(eigenvalues: ArrayLike, residue_projections: ArrayLike, times: ArrayLike) -> Array:
    """Speed |theta'| = (sum_k lambda_k Delta_k^2 e^{-2 lambda_k t})^{1/2} at each time.

    Args:
        eigenvalues: lambda_k, shape (K,).
        residue_projections: Delta_k^2, shape (K,).
        times: t, shape (M,) or scalar.

    Returns:
        |theta'|, shape of ``times`` (docs/theory.md, section 4).

    Raises:
        ValueError: if shapes differ, or a value is not finite or negative where it may not be.
    """
    lam, delta_squared = _moving_modes(eigenvalues, residue_projections)
    return _speed(lam, delta_squared, _checked_times(times))


def path_length(
    eigenvalues: ArrayLike,
    residue_projections: ArrayLike,
    times: ArrayLike,
    relative_tolerance: float = PATH_TOLERANCE,
) -> Array:
    """Path length l_NTK = int_0^T |theta'| dt at each time; see `path_length_with_error`.

    Args:
        eigenvalues: lambda_k, shape (K,).
        residue_projections: Delta_k^2, shape (K,).
        times: T, shape (M,) or scalar.
        relative_tolerance: bound on the stated error over l_NTK(T), at every T.

    Returns:
        l_NTK, shape of ``times``.
    """
    return path_length_with_error(
        eigenvalues, residue_projections, times, relative_tolerance=relative_tolerance
    )[0]


def path_length_with_error(
    eigenvalues: ArrayLike,
    residue_projections: ArrayLike,
    times: ArrayLike,
    relative_tolerance: float = PATH_TOLERANCE,
) -> tuple[Array, Array]:
    """Path length l_NTK = int_0^T |theta'| dt and its stated quadrature error.

    The quadrature is that of `integrate_speed`.

    Args:
        eigenvalues: lambda_k, shape (K,).
        residue_projections: Delta_k^2, shape (K,).
        times: T, shape (M,) or scalar.
        relative_tolerance: bound on the stated error over l_NTK(T), at every T.

    Returns:
        (l_NTK, stated absolute error), each of the shape of ``times`` (docs/theory.md, section 4).

    Raises:
        ValueError: if the tolerance is below rounding, shapes differ, or a value is not finite or
            negative where it may not be.
    """
    if not relative_tolerance >= SMALLEST_TOLERANCE:
        raise ValueError(
            f"relative_tolerance is {relative_tolerance}; float64 allows {SMALLEST_TOLERANCE} "
            "or more"
        )
    lam, delta_squared = _moving_modes(eigenvalues, residue_projections)
    times = _checked_times(times)
    if lam.size == 0:
        return np.zeros_like(times), np.zeros_like(times)
    # up to 0.1/lambda_1 the speed is a polynomial in t to rounding: one linear panel
    return integrate_speed(
        lambda t: _speed(lam, delta_squared, t), times, 0.1 / lam.max(), relative_tolerance
    )


def integrate_speed(
    speed_at: Callable[[Array], Array],
    times: ArrayLike,
    smooth_until: float,
    relative_tolerance: float = PATH_TOLERANCE,
) -> tuple[Array, Array]:
    """Integral of any positive speed from 0 to each time, with its stated error.

    Gauss-Legendre panels in ln t, one linear panel from t = 0 to the first time at which anything
    happens, every requested time an edge. A panel is halved until its value and the sum over its
    halves agree; the stated error adds up these differences, and the true error of the kept
    halves is smaller by orders of magnitude (degree 15).

    Args:
        speed_at: function (n,) -> (n,) of the time.
        times: T, shape (M,) or scalar.
        smooth_until: a time below which the speed is a polynomial in t to rounding.
        relative_tolerance: bound on the stated error over the integral, at every T.

    Returns:
        (int_0^T speed dt, stated absolute error), each of the shape of ``times``.

    Raises:
        ValueError: if a time is negative or not finite, or the integral does not converge.
    """
    times = _checked_times(times)
    if not np.any(times > 0):
        return np.zeros_like(times), np.zeros_like(times)
    edges = _panel_edges(times, smooth_until)
    lengths, errors = _adaptive_panels(
        lambda left, right: _panel_integrals(speed_at, left, right), edges, relative_tolerance
    )
    where = np.searchsorted(edges, times)
    return (
        np.concatenate([[0.0], np.cumsum(lengths)])[where],
        np.concatenate([[0.0], np.cumsum(errors)])[where],
    )


def speed_limit_time(
    eigenvalues: ArrayLike, residue_projections: ArrayLike, times: ArrayLike
) -> Array:
    """Speed-limit time T_SL = l_geo^2 / (L_0 - L_T) of gradient flow (paper, equation 8).

    Args:
        eigenvalues: lambda_k, shape (K,).
        residue_projections: Delta_k^2, shape (K,).
        times: T, shape (M,) or scalar.

    Returns:
        T_SL <= T, shape of ``times``: 0 at T = 0, NaN if nothing ever moves.
    """
    return np.asarray(times, dtype=np.float64) / inefficiency(
        eigenvalues, residue_projections, times
    )


def inefficiency(eigenvalues: ArrayLike, residue_projections: ArrayLike, times: ArrayLike) -> Array:
    """Inefficiency T/T_SL = T (L_0 - L_T) / l_geo^2, at least 1.

    Args:
        eigenvalues: lambda_k, shape (K,).
        residue_projections: Delta_k^2, shape (K,).
        times: T, shape (M,) or scalar.

    Returns:
        T/T_SL, shape of ``times``: 1 at T = 0 (the limit), NaN if nothing ever moves.
    """
    drop = loss_drop(eigenvalues, residue_projections, times)
    return _ratio(times, drop, geodesic_length_squared(eigenvalues, residue_projections, times))


def speed_unevenness(
    eigenvalues: ArrayLike,
    residue_projections: ArrayLike,
    times: ArrayLike,
    relative_tolerance: float = PATH_TOLERANCE,
) -> Array:
    """First factor of the inefficiency, T (L_0 - L_T) / l_NTK^2: uneven speed, at least 1.

    Args:
        eigenvalues: lambda_k, shape (K,).
        residue_projections: Delta_k^2, shape (K,).
        times: T, shape (M,) or scalar.
        relative_tolerance: of the path length.

    Returns:
        The factor, shape of ``times``: 1 at T = 0, NaN if nothing ever moves
        (docs/theory.md, section 3).
    """
    return predict(eigenvalues, residue_projections, times, relative_tolerance)["speed_unevenness"]


def path_excess(
    eigenvalues: ArrayLike,
    residue_projections: ArrayLike,
    times: ArrayLike,
    relative_tolerance: float = PATH_TOLERANCE,
) -> Array:
    """Second factor of the inefficiency, (l_NTK / l_geo)^2: bent path, at least 1.

    Args:
        eigenvalues: lambda_k, shape (K,).
        residue_projections: Delta_k^2, shape (K,).
        times: T, shape (M,) or scalar.
        relative_tolerance: of the path length.

    Returns:
        The factor, shape of ``times``: 1 at T = 0, NaN if nothing ever moves
        (docs/theory.md, section 3).
    """
    return predict(eigenvalues, residue_projections, times, relative_tolerance)["path_excess"]


def predict(
    eigenvalues: ArrayLike,
    residue_projections: ArrayLike,
    times: ArrayLike,
    relative_tolerance: float = PATH_TOLERANCE,
) -> dict[str, Array]:
    """Every quantity of this module at every time, with one evaluation of the path length.

    Args:
        eigenvalues: lambda_k, shape (K,).
        residue_projections: Delta_k^2, shape (K,).
        times: T, shape (M,) or scalar.
        relative_tolerance: of the path length.

    Returns:
        Arrays of the shape of ``times`` under the names "time", "loss_drop", "action",
        "geodesic_length", "geodesic_length_squared", "speed", "path_length",
        "path_length_error", "speed_limit_time", "inefficiency", "speed_unevenness" and
        "path_excess"; inefficiency = speed_unevenness * path_excess.

    Raises:
        ValueError: if shapes differ, or a value is not finite or negative where it may not be.
    """
    modes = (eigenvalues, residue_projections)
    times = _checked_times(times)
    drop = loss_drop(*modes, times)
    geodesic_squared = geodesic_length_squared(*modes, times)
    length, error = path_length_with_error(*modes, times, relative_tolerance=relative_tolerance)
    whole = _ratio(times, drop, geodesic_squared)
    return {
        "time": times,
        "loss_drop": drop,
        "action": drop.copy(),
        "geodesic_length": np.sqrt(geodesic_squared),
        "geodesic_length_squared": geodesic_squared,
        "speed": speed(*modes, times),
        "path_length": length,
        "path_length_error": error,
        "speed_limit_time": times / whole,
        "inefficiency": whole,
        "speed_unevenness": _ratio(times, drop, length**2),
        # written through the other two so that T = 0 takes the limit 1
        "path_excess": whole / _ratio(times, drop, length**2),
    }


def _moving_modes(eigenvalues: ArrayLike, residue_projections: ArrayLike) -> tuple[Array, Array]:
    """Return the checked (lambda_k, Delta_k^2) of the modes that move: both above zero.

    Raises:
        ValueError: if shapes differ, a value is not finite, or a squared projection is negative.
    """
    lam = np.asarray(eigenvalues, dtype=np.float64)
    delta_squared = np.asarray(residue_projections, dtype=np.float64)
    if lam.ndim != 1 or lam.shape != delta_squared.shape:
        raise ValueError(
            f"eigenvalues and residue_projections have shapes {lam.shape} and "
            f"{delta_squared.shape}; both must be (K,)"
        )
    if not (np.all(np.isfinite(lam)) and np.all(np.isfinite(delta_squared))):
        raise ValueError("eigenvalues or residue_projections hold a value that is not finite")
    if np.any(delta_squared < 0):
        raise ValueError(
            f"residue_projections holds {delta_squared.min()}; squared projections are never "
            "negative"
        )
    moving = (lam > 0) & (delta_squared > 0)
    return lam[moving], delta_squared[moving]


def _checked_times(times: ArrayLike) -> Array:
    """Return times as float64, all finite and at least 0.

    Raises:
        ValueError: if a time is negative or not finite.
    """
    times = np.asarray(times, dtype=np.float64)
    if not (np.all(np.isfinite(times)) and np.all(times >= 0)):
        raise ValueError("times holds a value that is negative or not finite; T >= 0 is needed")
    return times


def _mode_sum(summand: Callable[[Array], Array], lam: Array, times: ArrayLike) -> Array:
    """Return the sum of ``summand`` over modes, on chunks of times that keep temporaries small."""
    times = _checked_times(times)
    flat = times.reshape(-1)
    step = max(1, CHUNK_ELEMENTS // max(1, lam.size))
    result = np.empty_like(flat)
    for start in range(0, flat.size, step):
        result[start : start + step] = summand(flat[start : start + step])
    return result.reshape(times.shape)


def _speed(lam: Array, delta_squared: Array, times: Array) -> Array:
    """Return |theta'| for checked modes and times; times need not be sorted."""
    weights = lam * delta_squared

    def speed_of_chunk(t: Array) -> Array:
        # modes that have decayed below the smallest float64 at the chunk's first time add nothing
        alive = 2.0 * lam * t.min() < DEAD_EXPONENT
        return np.sqrt(np.exp(-2.0 * np.multiply.outer(t, lam[alive])) @ weights[alive])

    return _mode_sum(speed_of_chunk, lam, times)


def _ratio(times: ArrayLike, drop: Array, length_squared: Array) -> Array:
    """Return T (L_0 - L_T) / length^2 with its limit 1 at T = 0."""
    times = np.asarray(times, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(times == 0, 1.0, times * (drop / length_squared))


def _panel_edges(times: Array, smooth_until: float) -> Array:
    """Return 0, all positive times, and a grid in ln t between the first and the last edge."""
    positive = np.unique(times[times > 0])
    first = min(positive[0], smooth_until)
    count = int(np.ceil(np.log(positive[-1] / first) / PANEL_WIDTH))
    grid = first * np.exp(PANEL_WIDTH * np.arange(count))
    return np.unique(np.concatenate([[0.0, first], grid[grid < positive[-1]], positive]))


def _panel_integrals(function: Callable[[Array], Array], left: Array, right: Array) -> Array:
    """Return integrals over panels (n,): in ln t, or in t for a panel that starts at 0."""
    nodes, weights = np.polynomial.legendre.leggauss(PANEL_POINTS)
    nodes, weights = 0.5 * (nodes + 1.0), 0.5 * weights
    left, right = left[:, None], right[:, None]
    linear = left == 0
    with np.errstate(divide="ignore", invalid="ignore"):
        log_ratio = np.log(right / left)
        t = np.where(linear, right * nodes, left * np.exp(log_ratio * nodes))
        jacobian = np.where(linear, right, log_ratio * t)
    values = function(t.reshape(-1)).reshape(t.shape)
    return (values * jacobian) @ weights


def _adaptive_panels(
    integrate: Callable[[Array, Array], Array], edges: Array, relative_tolerance: float
) -> tuple[Array, Array]:
    """Return (integrals, stated errors) over the panels between ``edges``, each of shape (n,).

    Raises:
        ValueError: if panels halved to the limit still disagree with their halves.
    """
    count = edges.size - 1
    totals, errors = np.zeros(count), np.zeros(count)
    owner, left, right = np.arange(count), edges[:-1], edges[1:]
    value = integrate(left, right)
    reached = np.cumsum(value)  # the length at the end of each panel sets the allowed error
    for bisection in range(MAXIMUM_BISECTIONS):
        middle = np.where(left == 0, 0.5 * right, np.sqrt(left * right))
        halves = integrate(np.concatenate([left, middle]), np.concatenate([middle, right]))
        first, second = np.split(halves, 2)
        error = np.abs(first + second - value)
        # each level may spend half of what the level above left over, so the sum stays bounded
        allowed = relative_tolerance * reached[owner] / (2.0 * count) * 0.5**bisection
        rounding = 8 * np.finfo(float).eps * (first + second)
        done = error <= np.maximum(allowed, rounding)
        np.add.at(totals, owner[done], (first + second)[done])
        np.add.at(errors, owner[done], error[done])
        if np.all(done):
            return totals, errors
        owner = np.concatenate([owner[~done]] * 2)
        left, right, value = (
            np.concatenate([left[~done], middle[~done]]),
            np.concatenate([middle[~done], right[~done]]),
            np.concatenate([first[~done], second[~done]]),
        )
    raise ValueError("the path length did not converge; the spectrum spans too many orders")
