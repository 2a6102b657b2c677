"""Linear regression under Langevin noise: exact lengths, times and entropy at every T.

The loss L = 1/2 |X theta - y|^2 + ridge/2 |theta|^2 (sum over samples, halved) has the Hessian
H = X^T X + ridge. In the eigenbasis of H each component of the weights is an Ornstein-Uhlenbeck
process, d theta_k = -h_k (theta_k - m*_k) dt + sqrt(2 temperature) dW, and a Gaussian start stays
Gaussian with diagonal covariance (paper, section 3; docs/theory.md, section 6):

    m_k(t) = m*_k + (m_0k - m*_k) e^{-h_k t}
    s_k(t) = s_0 e^{-2 h_k t} + temperature (1 - e^{-2 h_k t}) / h_k

and s_k(t) = s_0 + 2 temperature t where h_k = 0. The quantities depend on the means only through
a_k^2 = (m_0k - m*_k)^2. Temperature 0 is gradient flow (beta -> infinity). ``times`` is (M,) or
scalar, T >= 0, and may be infinite where a limit exists. Units: h in 1/time, h weights^2 and the
temperature in units of the loss.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speedlimits import ntk_dynamics

Array = NDArray[np.float64]

SERIES_BELOW = 1e-2  # r - ln(1 + r) by series: cancellation would cost eps / r relative accuracy
SERIES_TERMS = 9  # the first term left out is below 1e-2^9 = 1e-18 of the sum


@dataclass(frozen=True)
class OrnsteinUhlenbeckModes:
    """The modes of one regression problem: everything that its lengths and times depend on.

    Args:
        eigenvalues: h_k >= 0 of the Hessian, shape (K,); zero modes are allowed.
        start_displacements_squared: a_k^2 = (m_0k - m*_k)^2, or its mean over data sets, (K,).
            For h_k = 0 every m* is a minimiser and the value is not used.
        start_variance: s_0 of the start N(m_0, s_0 I), at least 0 (0 is a delta function).
        temperature: beta^-1, at least 0 (0 is gradient flow).
        multiplicities: weight of each mode in every sum, shape (K,); ones if left out. The
            Marchenko-Pastur limit uses quadrature weights here.

    Raises:
        ValueError: if shapes differ or a value is negative or not finite.
    """

    eigenvalues: Array
    start_displacements_squared: Array
    start_variance: float
    temperature: float
    multiplicities: Array = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Convert to float64 and check.

        Raises:
            ValueError: if shapes differ, or a value is negative or not finite.
        """
        if self.multiplicities is None:
            object.__setattr__(self, "multiplicities", np.ones(np.shape(self.eigenvalues)))
        for name in ("eigenvalues", "start_displacements_squared", "multiplicities"):
            value = np.asarray(getattr(self, name), dtype=np.float64)
            if value.ndim != 1 or value.shape != np.shape(self.eigenvalues):
                raise ValueError(
                    f"{name} has shape {value.shape}; all per-mode arrays must share one shape (K,)"
                )
            object.__setattr__(self, name, value)
        for name in self.__dataclass_fields__:
            value = np.asarray(getattr(self, name))
            if not np.all(np.isfinite(value)) or np.any(value < 0):
                raise ValueError(f"{name} holds a value that is negative or not finite")


def modes_of_data(
    inputs: ArrayLike,
    targets: ArrayLike,
    start_mean: ArrayLike,
    start_variance: float,
    temperature: float,
    ridge: float = 0.0,
) -> OrnsteinUhlenbeckModes:
    """Modes of the regression of ``targets`` on ``inputs``, by the singular values of X.

    Args:
        inputs: X, shape (n, d).
        targets: y, shape (n,).
        start_mean: m_0, shape (d,).
        start_variance: s_0.
        temperature: beta^-1.
        ridge: coefficient of |theta|^2 / 2; 0 is the paper's loss.

    Returns:
        d modes; those that no sample sees have eigenvalue ``ridge``.

    Raises:
        ValueError: if the shapes do not belong together.
    """
    inputs, targets = np.asarray(inputs, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    start_mean = np.asarray(start_mean, dtype=np.float64)
    n, d = inputs.shape
    for name, array, shape in (("targets", targets, (n,)), ("start_mean", start_mean, (d,))):
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}; inputs {(n, d)} need {shape}")
    # All d directions, of which fewer samples than directions see n only.
    left, singular, right = np.linalg.svd(inputs, full_matrices=n < d)
    # a singular value below eps * max(n, d) * largest is rounding of a zero
    singular = np.where(singular > singular.max() * max(n, d) * np.finfo(float).eps, singular, 0.0)
    h = np.zeros(d)
    h[: singular.size] = singular**2
    force = np.zeros(d)  # X^T y in the eigenbasis
    force[: singular.size] = singular * (left.T @ targets)[: singular.size]
    h = h + ridge
    start = right @ start_mean
    optimum = np.where(h > 0, force / np.where(h > 0, h, 1.0), start)
    return OrnsteinUhlenbeckModes(h, (start - optimum) ** 2, start_variance, temperature)


def variances(modes: OrnsteinUhlenbeckModes, times: ArrayLike) -> Array:
    """Variance s_k(t) of every mode.

    Args:
        modes: K modes.
        times: t, shape (M,) or scalar; may be infinite.

    Returns:
        s_k(t), shape (..., K); infinite for a zero mode at t = infinity and temperature > 0.
    """
    h, t = _grid(modes, times)
    return modes.start_variance * _decay(2.0 * h, t) + _diffused(modes, h, t)


def wasserstein_squared(modes: OrnsteinUhlenbeckModes, times: ArrayLike) -> Array:
    """Squared geodesic length l_geo^2 = W2(p_0, p_T)^2 between start and end distributions.

    W2^2 = sum_k a_k^2 (1 - e^{-h_k T})^2 + (sqrt s_k(T) - sqrt s_0)^2: the two covariances commute.

    Args:
        modes: K modes.
        times: T, shape (M,) or scalar; may be infinite.

    Returns:
        W2^2, shape of ``times`` (paper, section 3).
    """
    h, t = _grid(modes, times)
    change, end = _variance_change(modes, h, t), variances(modes, times)
    return _distance_squared(modes, np.expm1(-_product(h, t)), change, end)


def mean_loss_drop(modes: OrnsteinUhlenbeckModes, times: ArrayLike) -> Array:
    """Drop of the mean loss, <L(theta_0)> - <L(theta_T)>; negative if noise heats the weights.

    Args:
        modes: K modes.
        times: T, shape (M,) or scalar; may be infinite.

    Returns:
        sum_k h_k/2 [a_k^2 (1 - e^{-2 h_k T}) + s_0 - s_k(T)], shape of ``times``.
    """
    h, t = _grid(modes, times)
    learnt = -modes.start_displacements_squared * np.expm1(-_product(2.0 * h, t))
    with np.errstate(invalid="ignore"):
        heated = np.where(h > 0, h * _variance_change(modes, h, t), 0.0)
    return _total(modes, 0.5 * (h * learnt - heated))


def mean_excess_loss(modes: OrnsteinUhlenbeckModes, times: ArrayLike) -> Array:
    """Mean loss above the least loss, <L(theta_t)> - L(m*).

    Args:
        modes: K modes.
        times: t, shape (M,) or scalar; may be infinite.

    Returns:
        sum_k h_k/2 [a_k^2 e^{-2 h_k t} + s_k(t)], shape of ``times``.
    """
    h, t = _grid(modes, times)
    with np.errstate(invalid="ignore"):
        spread = np.where(h > 0, h * variances(modes, times), 0.0)
    remaining = h * modes.start_displacements_squared * _decay(2.0 * h, t)
    return _total(modes, 0.5 * (remaining + spread))


def free_energy_drop(modes: OrnsteinUhlenbeckModes, times: ArrayLike) -> Array:
    """Free-energy drop F[p_0] - F[p_T], which is temperature x entropy production, beta^-1 R.

    F = <L> - temperature S with S = 1/2 sum_k ln(2 pi e s_k). Exact at every T and temperature,
    since Langevin dynamics is the W2 gradient flow of F.

    Args:
        modes: K modes.
        times: T, shape (M,) or scalar; may be infinite.

    Returns:
        beta^-1 R >= 0, shape of ``times``; infinite for a delta-function start at temperature > 0
        (its entropy is minus infinity) and for zero modes at T = infinity and temperature > 0.
    """
    h, t = _grid(modes, times)
    learnt = -0.5 * h * modes.start_displacements_squared * np.expm1(-_product(2.0 * h, t))
    change, end = _variance_change(modes, h, t), variances(modes, times)
    return _total(modes, learnt + _spreading_drop(modes, change, end))


def infinite_time_free_energy_drop(modes: OrnsteinUhlenbeckModes) -> float:
    """Limit of beta^-1 R for T -> infinity: temperature (ln Z_inf - S_0) + <L(theta_0)>.

    Z_inf = integral of e^{-beta (L - L*)} and S_0 is the entropy of the start, closed forms both.
    This is the paper's equation 6, whose ln Z_0 is the entropy S_0 of the start. (Were Z_0 the norm
    (2 pi s_0)^{K/2} of the start's density, S_0 = ln Z_0 + K/2.)

    Args:
        modes: K modes with eigenvalues above 0, start variance and temperature above 0.

    Returns:
        The limit, in units of the loss.

    Raises:
        ValueError: if there is no equilibrium distribution or no entropy of the start.
    """
    h, temperature = modes.eigenvalues, modes.temperature
    if temperature <= 0 or modes.start_variance <= 0 or np.any(h <= 0):
        raise ValueError(
            "the infinite-time limit by partition functions needs every eigenvalue, the start "
            "variance and the temperature above 0"
        )
    log_partition = 0.5 * np.log(2.0 * np.pi * temperature / h)
    entropy = 0.5 * np.log(2.0 * np.pi * np.e * modes.start_variance)
    loss = 0.5 * h * (modes.start_displacements_squared + modes.start_variance)
    return float(_total(modes, temperature * (log_partition - entropy) + loss))


def mean_velocity_squared(modes: OrnsteinUhlenbeckModes, times: ArrayLike) -> Array:
    """Mean squared Fokker-Planck velocity <|v|^2>, v = -grad L - temperature grad ln p.

    <|v|^2> = sum_k (h_k - temperature/s_k)^2 s_k + h_k^2 a_k^2 e^{-2 h_k t} = -dF/dt.

    Args:
        modes: K modes.
        times: t, shape (M,) or scalar, finite.

    Returns:
        <|v|^2>, shape of ``times``; infinite at t = 0 for a delta function that starts to spread.
    """
    h, t = _grid(modes, times)
    temperature, start = modes.temperature, modes.start_variance
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        growth = np.where(h > 0, np.expm1(2.0 * h * t) / np.where(h > 0, h, 1.0), 2.0 * t)
        # s_k e^{2 h_k t}: with it no term underflows to 0/0 after the start is forgotten
        rescaled = start + (temperature * growth if temperature > 0 else 0.0)
        mismatch = (h * start - temperature) ** 2
        spreading = np.where(mismatch > 0, mismatch / rescaled, 0.0)
    moving = h**2 * modes.start_displacements_squared
    return _total(modes, _decay(2.0 * h, t) * (spreading + moving))


def path_length(
    modes: OrnsteinUhlenbeckModes,
    times: ArrayLike,
    relative_tolerance: float = ntk_dynamics.PATH_TOLERANCE,
) -> tuple[Array, Array]:
    """Path length l_gamma = int_0^T <|v|^2>^{1/2} dt of the curve p_t in the W2 geometry.

    v is a gradient, so its norm is the W2 metric speed of p_t and no shorter velocity moves p_t.

    Args:
        modes: K modes.
        times: T, shape (M,) or scalar, finite.
        relative_tolerance: of the quadrature, as in `ntk_dynamics.integrate_speed`.

    Returns:
        (l_gamma, stated error), each of the shape of ``times``.

    Raises:
        ValueError: for a delta-function start at temperature > 0, where T_SL is 0.
    """
    rate = modes.eigenvalues.max(initial=0.0)
    if modes.temperature > 0:
        if modes.start_variance == 0:
            raise ValueError(
                "start_variance is 0 at temperature above 0; the entropy production is infinite, "
                "give a start variance above 0"
            )
        rate = max(rate, modes.temperature / modes.start_variance)
    if rate == 0:
        zero = np.zeros(np.shape(times))
        return zero, zero.copy()

    def speed_at(t: Array) -> Array:
        return np.sqrt(mean_velocity_squared(modes, t))

    return ntk_dynamics.integrate_speed(speed_at, times, 0.1 / rate, relative_tolerance)


def speed_limit_time(modes: OrnsteinUhlenbeckModes, times: ArrayLike) -> Array:
    """Speed-limit time T_SL = W2(p_0, p_T)^2 / (F[p_0] - F[p_T]) (paper, section 2).

    Args:
        modes: K modes.
        times: T, shape (M,) or scalar; may be infinite.

    Returns:
        T_SL <= T, shape of ``times``; 0 at T = 0 and for a delta-function start at temperature > 0,
        infinite at T = infinity if zero modes spread, NaN if nothing ever moves.
    """
    drop = free_energy_drop(modes, times)
    distance_squared = wasserstein_squared(modes, times)
    with np.errstate(invalid="ignore", divide="ignore"):
        limit = distance_squared / drop
    # Of zero modes W2^2 grows as T and the drop as ln T, unless the start's entropy is infinite.
    without_end = np.isinf(distance_squared) & np.isinf(drop)
    limit = np.where(without_end, np.inf if modes.start_variance > 0 else 0.0, limit)
    return np.where(np.asarray(times) == 0, 0.0, limit)


def inefficiency(modes: OrnsteinUhlenbeckModes, times: ArrayLike) -> Array:
    """Inefficiency T/T_SL = T (F[p_0] - F[p_T]) / W2^2, at least 1.

    Args:
        modes: K modes.
        times: T, shape (M,) or scalar; may be infinite.

    Returns:
        T/T_SL, shape of ``times``; 1 at T = 0 (the limit), infinite at T = infinity, NaN if nothing
        ever moves.
    """
    times = np.asarray(times, dtype=np.float64)
    limit = speed_limit_time(modes, times)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(np.isinf(limit), np.inf, times / limit)
    return np.where(times == 0, 1.0, ratio)


def predict(
    modes: OrnsteinUhlenbeckModes,
    times: ArrayLike,
    relative_tolerance: float = ntk_dynamics.PATH_TOLERANCE,
) -> dict[str, Array]:
    """Every quantity of this module at every time, with one evaluation of the path length.

    Args:
        modes: K modes.
        times: T, shape (M,) or scalar, finite.
        relative_tolerance: of the path length.

    Returns:
        Arrays of the shape of ``times`` under the names "time", "wasserstein_squared",
        "free_energy_drop", "mean_loss_drop", "mean_excess_loss", "mean_velocity_squared",
        "path_length", "path_length_error", "speed_limit_time", "inefficiency",
        "speed_unevenness" and "path_excess"; inefficiency = speed_unevenness * path_excess.
    """
    length, error = path_length(modes, times, relative_tolerance)
    whole = inefficiency(modes, times)
    distance_squared = wasserstein_squared(modes, times)
    with np.errstate(invalid="ignore", divide="ignore"):
        excess = np.where(np.asarray(times) == 0, 1.0, length**2 / distance_squared)
    return {
        "time": np.asarray(times, dtype=np.float64),
        "wasserstein_squared": distance_squared,
        "free_energy_drop": free_energy_drop(modes, times),
        "mean_loss_drop": mean_loss_drop(modes, times),
        "mean_excess_loss": mean_excess_loss(modes, times),
        "mean_velocity_squared": mean_velocity_squared(modes, times),
        "path_length": length,
        "path_length_error": error,
        "speed_limit_time": speed_limit_time(modes, times),
        "inefficiency": whole,
        "speed_unevenness": whole / excess,
        "path_excess": excess,
    }


def discretised_variances(modes: OrnsteinUhlenbeckModes, step: float, steps: ArrayLike) -> Array:
    """Variance of every mode after N steps of Euler-Maruyama.

    s_k(N) = s_0 r_k^2N + 2 step temperature (1 - r_k^2N)/(1 - r_k^2) with r_k = 1 - step h_k, the
    solution of s <- r_k^2 s + 2 step temperature; s_0 + 2 temperature step N where h_k = 0.

    Args:
        modes: K modes.
        step: time step, below 2 / h_max.
        steps: N, shape (M,) or scalar.

    Returns:
        s_k(N), shape (..., K) (docs/theory.md, section 6.2).

    Raises:
        ValueError: if the step is unstable or a number of steps negative.
    """
    exponent, clock = _discretised_clock(modes, step, steps)
    return modes.start_variance * np.exp(2.0 * exponent) + modes.temperature * clock


def predict_discretised(
    modes: OrnsteinUhlenbeckModes, step: float, steps: ArrayLike
) -> dict[str, Array]:
    """W2^2, beta^-1 R, T_SL and the inefficiency of the chain that Euler-Maruyama simulates.

    Its p_N stays Gaussian with the means m*_k + (m_0k - m*_k) r_k^N, r_k = 1 - step h_k, and the
    variances of `discretised_variances`. The distance and the free-energy drop are those of these
    moments: with the heat by the midpoint rule, which is the energy difference, a simulation agrees
    with them at any step. Against the continuum of `predict` they show the bias of the scheme.

    Args:
        modes: K modes.
        step: time step, below 2 / h_max.
        steps: N, shape (M,) or scalar.

    Returns:
        Arrays of the shape of ``steps`` under the names "time" (step x N), "wasserstein_squared",
        "free_energy_drop", "speed_limit_time" and "inefficiency" of `predict`; the last may be
        below 1, as a chain need not obey the bound (docs/theory.md, section 6.2).

    Raises:
        ValueError: if the step is unstable or a number of steps negative.
    """
    time = step * np.asarray(steps, dtype=np.float64)
    exponent, clock = _discretised_clock(modes, step, steps)
    h, end = modes.eigenvalues, discretised_variances(modes, step, steps)
    # s_k(N) - s_0 as a multiple of the clock: no cancellation at early times
    excess = modes.temperature - h * (1.0 - 0.5 * step * h) * modes.start_variance
    change = excess * clock
    # r^N - 1; for odd N beyond step h = 1 the mean overshoots the minimum
    odd = np.asarray(steps, dtype=np.float64)[..., None] % 2 == 1
    overshot = odd & (step * h > 1)
    moved = np.where(overshot, -np.exp(exponent) - 1.0, np.expm1(exponent))
    squared = _distance_squared(modes, moved, change, end)
    learnt = -0.5 * h * modes.start_displacements_squared * np.expm1(2.0 * exponent)
    drop = _total(modes, learnt + _spreading_drop(modes, change, end))
    with np.errstate(invalid="ignore", divide="ignore"):
        limit = np.where(time == 0, 0.0, squared / drop)
        whole = np.where(time == 0, 1.0, time / limit)
    return {
        "time": time,
        "wasserstein_squared": squared,
        "free_energy_drop": drop,
        "speed_limit_time": limit,
        "inefficiency": whole,
    }


def expected_displacements_squared(
    sample_eigenvalues: ArrayLike,
    teacher_variance: float,
    noise_variance: float,
    ridge: float = 0.0,
    start_mean_square: float = 0.0,
) -> Array:
    """Mean over teachers and label noise of a_k^2, given the inputs.

    Targets y = X theta* + noise with theta* ~ N(0, teacher_variance I). With mu_k the eigenvalue of
    X^T X, m*_k has the variance (mu^2 teacher_variance + mu noise_variance)/(mu + ridge)^2; an
    independent m_0 of mean square start_mean_square per component adds to it.

    Args:
        sample_eigenvalues: mu_k >= 0 of X^T X, shape (K,), without the ridge.
        teacher_variance: variance of a component of theta*.
        noise_variance: variance of the label noise.
        ridge: coefficient of |theta|^2 / 2.
        start_mean_square: mean square of a component of m_0; 0 is the zero start.

    Returns:
        <a_k^2>, shape (K,); 0 where mu + ridge = 0, a mode without a force
        (docs/theory.md, section 6).
    """
    mu = np.asarray(sample_eigenvalues, dtype=np.float64)
    h = mu + ridge
    optimum = (mu**2 * teacher_variance + mu * noise_variance) / np.where(h > 0, h, 1.0) ** 2
    return np.where(h > 0, optimum + start_mean_square, 0.0)


def _grid(modes: OrnsteinUhlenbeckModes, times: ArrayLike) -> tuple[Array, Array]:
    """Return (h (K,), t (..., 1)) ready to broadcast to (..., K).

    Raises:
        ValueError: if a time is negative or NaN.
    """
    t = np.asarray(times, dtype=np.float64)
    if np.any(np.isnan(t)) or np.any(t < 0):
        raise ValueError("times holds a value that is negative or NaN; T >= 0 is needed")
    return modes.eigenvalues, t[..., None]


def _product(h: Array, t: Array) -> Array:
    """Return h t with 0 x infinity = 0: a zero mode never moves."""
    with np.errstate(invalid="ignore"):
        return np.where(h > 0, h * t, 0.0)


def _decay(h: Array, t: Array) -> Array:
    """Return e^{-h t}."""
    return np.exp(-_product(h, t))


def _clock(h: Array, t: Array) -> Array:
    """Return (1 - e^{-2 h t}) / h with its limit 2 t at h = 0."""
    positive = np.where(h > 0, h, 1.0)
    return np.where(h > 0, -np.expm1(-_product(2.0 * h, t)) / positive, 2.0 * t)


def _diffused(modes: OrnsteinUhlenbeckModes, h: Array, t: Array) -> Array:
    """Return the variance that noise has added, temperature x (1 - e^{-2 h t}) / h."""
    if modes.temperature == 0:
        return np.zeros(np.broadcast_shapes(h.shape, t.shape))
    return modes.temperature * _clock(h, t)


def _discretised_clock(
    modes: OrnsteinUhlenbeckModes, step: float, steps: ArrayLike
) -> tuple[Array, Array]:
    """Return N ln|r_k| and 2 step (1 - r_k^2N)/(1 - r_k^2) with r_k = 1 - step h_k, each (..., K).

    The second is the sum of 2 step r_k^2j over j < N, the discretised `_clock`; 2 step N at h = 0.

    Raises:
        ValueError: if the step is unstable or a number of steps negative.
    """
    h, number = modes.eigenvalues, np.asarray(steps, dtype=np.float64)[..., None]
    largest = 2.0 / h.max(initial=0.0) if np.any(h > 0) else np.inf
    if not 0 < step < largest:
        raise ValueError(f"step is {step}; stable steps are above 0 and below {largest:.3g}")
    if np.any(number < 0):
        raise ValueError("steps holds a negative number; N >= 0 is needed")
    product = step * h
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.log1p(np.where(product < 1.0, -product, product - 2.0))
        exponent = np.where(number > 0, number * rate, 0.0)
    growing = np.where(h > 0, h * (1.0 - 0.5 * product), 1.0)  # (1 - r^2) / (2 step)
    return exponent, np.where(h > 0, -np.expm1(2.0 * exponent) / growing, 2.0 * step * number)


def _variance_change(modes: OrnsteinUhlenbeckModes, h: Array, t: Array) -> Array:
    """Return s_k(t) - s_0 = (temperature - h s_0) (1 - e^{-2 h t}) / h without cancellation."""
    excess = modes.temperature - h * modes.start_variance
    with np.errstate(invalid="ignore"):
        return np.where(excess == 0, 0.0, excess * _clock(h, t))


def _distance_squared(
    modes: OrnsteinUhlenbeckModes, moved: Array, change: Array, end: Array
) -> Array:
    """Return W2^2 of commuting Gaussians from (m_k(T) - m_0k)/(m_0k - m*_k), s_k(T) - s_0, s_k(T).

    Each argument has the shape (..., K); (s_T - s_0)/(sqrt s_T + sqrt s_0) has no cancellation at
    early times.
    """
    root_sum = np.sqrt(end) + np.sqrt(modes.start_variance)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.where(root_sum > 0, change / root_sum, 0.0)
        spread = np.where(np.isinf(end), end, spread)
    return _total(modes, modes.start_displacements_squared * moved**2 + spread**2)


def _spreading_drop(modes: OrnsteinUhlenbeckModes, change: Array, end: Array) -> Array:
    """Return the part h/2 (s_0 - s) + temperature/2 ln(s/s_0) of the free-energy drop, (..., K).

    With r = s/s_0 - 1 it is r/2 (temperature - h s_0) - temperature/2 (r - ln(1 + r)).
    """
    h, start, temperature = modes.eigenvalues, modes.start_variance, modes.temperature
    with np.errstate(invalid="ignore", divide="ignore"):
        heat = np.where(h > 0, -0.5 * h * change, 0.0)
        if temperature == 0:
            return heat
        if start == 0:
            return np.where(change > 0, np.inf, 0.0)
        r = change / start
        direct = heat + 0.5 * temperature * np.log(end / start)
        series = 0.5 * r * (temperature - h * start) - 0.5 * temperature * _log_remainder(r)
    return np.where(np.abs(r) < SERIES_BELOW, series, direct)


def _log_remainder(r: Array) -> Array:
    """Return r - ln(1 + r) for |r| < SERIES_BELOW: sum_{j >= 2} (-1)^j r^j / j."""
    small = np.where(np.abs(r) < SERIES_BELOW, r, 0.0)
    powers = np.arange(2, 2 + SERIES_TERMS)
    coefficients = np.concatenate([[0.0, 0.0], (-1.0) ** powers / powers])
    return np.polynomial.polynomial.polyval(small, coefficients)


def _total(modes: OrnsteinUhlenbeckModes, per_mode: Array) -> Array:
    """Return the sum over modes with their multiplicities, (..., K) -> (...)."""
    with np.errstate(invalid="ignore"):
        terms = np.where(modes.multiplicities > 0, per_mode * modes.multiplicities, 0.0)
    return np.sum(terms, axis=-1)
