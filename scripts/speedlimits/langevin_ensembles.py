"""Langevin dynamics from the distribution of starts: bounds on W2, free energy, T_SL, inefficiency.

Here p_0 is the distribution from which the starts theta_0 of the realisations are drawn:
independent weights of mean 0 and known variance s_l in layer l. Its entropy is finite and known,
that of one start is minus infinity. Per layer every realisation gives the inner products of its
displacement u = theta_T - theta_0, of theta_0, and of the noise B_T that has driven it. From these
(derived here; docs/theory.md, section 6.4), whatever the shape of p_T:

    W2^2      <= <|theta_T - c_l (theta_0 + B_T)|^2>,  c_l^2 = s_l / (s_l + 2 T / beta)
    S_T - S_0 <= sum_l P_l / 2 ln(q_l / s_l)           q_l: second moment of a weight in layer l
                 (0.18 more per weight of a uniform start)
    beta^-1 (S_T - S_0) >= int (-beta^-1 <laplacian L> + beta^-2 sum_l P_l / q_l) dt
    T_SL      <= W2^2's bound / (F_0 - F_T)'s lower bound,    T/T_SL >= its inverse times T

At temperature 0 entropy drops out: F_0 - F_T is the loss drop, the coupling that of each start with
its own end, and T_SL that of gradient flow.
Units are those of the loss, the weights and training time; arrays are float64, "..." any shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speedlimits import linear_regression, ntk_dynamics

Array = NDArray[np.float64]

# Entropy per weight of a Gaussian over that of a uniform distribution of the same variance.
UNIFORM_NEGENTROPY = 0.5 * np.log(2.0 * np.pi * np.e / 12.0)
# Standard errors of the moments that the lower bound of the entropy is lowered by. Own choice:
# then errors of moments of 40 to 200 weights put it over 5 % too high in under one of 100 cases.
SURE = 2.0


@dataclass(frozen=True)
class StartDistribution:
    """The distribution p_0 of the starts: independent weights of mean 0.

    Args:
        sizes: numbers of weights P_l, shape (layers,).
        variances: s_l of a weight, shape (layers,).
        gaussian: whether the weights are Gaussian; else uniform.
    """

    sizes: Array
    variances: Array
    gaussian: bool

    def __post_init__(self) -> None:
        """Convert to float64 and check.

        Raises:
            ValueError: if the shapes differ or a value is not positive and finite.
        """
        for name in ("sizes", "variances"):
            value = np.asarray(getattr(self, name), dtype=np.float64)
            if value.ndim != 1 or value.shape != np.shape(self.sizes):
                raise ValueError(f"{name} has shape {value.shape}; give one number per layer")
            if not np.all(np.isfinite(value) & (value > 0)):
                raise ValueError(f"{name} holds {value.min()}; its numbers must be positive")
            object.__setattr__(self, name, value)

    @property
    def negentropy(self) -> float:
        """Entropy of the Gaussian with the same variances less that of p_0, in nats."""
        return 0.0 if self.gaussian else float(UNIFORM_NEGENTROPY * self.sizes.sum())


def transport_cost(
    products: ArrayLike, times: ArrayLike, start: StartDistribution, temperature: float
) -> Array:
    """Cost |theta_T - c_l (theta_0 + B_T)|^2 of a coupling, whose mean bounds W2^2 from above.

    For a Gaussian start c_l (theta_0 + B_T), c_l^2 = s_l / (s_l + 2 T / beta), has the law of
    theta_0 and goes along with the diffusion: for free diffusion and for temperature 0 on linear
    models it is the optimal coupling. A uniform start is coupled with its own end, which counts
    the diffusion, 2 T / beta per weight, in full.

    Args:
        products: inner products of u, theta_0 and B_T, shape (..., M, layers, 3, 3).
        times: T since the start, shape (M,).
        start: the distribution of theta_0.
        temperature: beta^-1.

    Returns:
        The cost of every realisation, shape (..., M).
    """
    products = np.asarray(products, dtype=np.float64)
    diffused = 2.0 * temperature * np.asarray(times, dtype=np.float64)[:, None]
    log_scale = -0.5 * np.log1p(diffused / start.variances) * float(start.gaussian)
    # coefficients of u, theta_0 and B: 1, 1 - c and -c
    along_noise = -np.exp(log_scale) * float(start.gaussian)
    mix = np.stack([np.ones_like(log_scale), -np.expm1(log_scale), along_noise], axis=-1)
    return np.einsum("mli,...mlij,mlj->...m", mix, products, mix)


def second_moments(mean_products: ArrayLike, start: StartDistribution) -> Array:
    """Second moment q_l of a weight in each layer, from a sample of starts and ends.

    With a_l = <u.theta_0> / <|theta_0|^2>,

        q_l = s_l (1 + a_l)^2 + (<|u|^2> - a_l <u.theta_0>) / P_l.

    It is <|theta_T|^2> / P_l less what the known s_l tells of its sampling error, by regression on
    the start. Never negative, and exact for layers that only stretch (derived here).

    Args:
        mean_products: mean over realisations of the products of `transport_cost`, of which those of
            u and theta_0 are used, shape (..., layers, >= 2, >= 2).
        start: the distribution of theta_0.

    Returns:
        q_l, shape (..., layers).
    """
    products = np.asarray(mean_products, dtype=np.float64)
    across = products[..., 0, 0] - products[..., 0, 1] ** 2 / products[..., 1, 1]
    return _stretched_variance(products, start) + np.maximum(across, 0.0) / start.sizes


def _stretched_variance(products: Array, start: StartDistribution) -> Array:
    """Return s_l (1 + a_l)^2, the part of q_l that the start decides."""
    return start.variances * (1.0 + products[..., 0, 1] / products[..., 1, 1]) ** 2


def moment_errors(
    mean_products: ArrayLike, moments: ArrayLike, start: StartDistribution, realisations: int
) -> Array:
    """Relative standard error of `second_moments`, sqrt(2 (1 - rho_l^4) / (P_l R)).

    rho_l^2 = s_l (1 + a_l)^2 / q_l is the squared correlation of a weight with its start; the error
    is that of Gaussian weights that are all alike (derived here).

    Args:
        mean_products: as in `second_moments`.
        moments: q_l, as it gives them.
        start: the distribution of theta_0.
        realisations: number of realisations R that the means are over.

    Returns:
        Shape (..., layers), at most sqrt(2 / (P_l R)); 0 where only the start matters.
    """
    products = np.asarray(mean_products, dtype=np.float64)
    fourth = (_stretched_variance(products, start) / np.asarray(moments, float)) ** 2
    return np.sqrt(2.0 * np.maximum(1.0 - fourth, 0.0) / (start.sizes * realisations))


def largest_entropy_gain(
    moments: ArrayLike, start: StartDistribution, errors: ArrayLike = 0.0
) -> Array:
    """Bound from above S_T - S_0 <= sum_l P_l / 2 ln(q_l / s_l), equal for a Gaussian of q_l.

    Independent Gaussians have the largest entropy at given second moments. A uniform start adds
    ln(2 pi e / 12) / 2 per weight, what its entropy is below that of the Gaussian.

    Args:
        moments: q_l, shape (..., layers).
        start: the distribution of theta_0.
        errors: relative standard errors of q_l, shape (..., layers) or a number; every q_l is
            raised by SURE of them.

    Returns:
        The bound in nats, shape (...). Moments of R realisations lower it by about 1 / (2 R) nats
        per layer (Jensen).
    """
    surely = 1.0 + SURE * np.asarray(errors, dtype=np.float64)
    ratio = surely * np.asarray(moments, dtype=np.float64) / start.variances
    return np.sum(0.5 * start.sizes * np.log(ratio), axis=-1) + start.negentropy


def information_integral(
    times: ArrayLike, moments: ArrayLike, start: StartDistribution, errors: ArrayLike = 0.0
) -> Array:
    """Bound from below on int_0^t sum_l P_l / q_l dt, itself one on that of the Fisher information.

    By Cramer and Rao int |grad p|^2 / p >= tr C^-1 >= sum_i 1 / C_ii >= sum_l P_l / q_l, and the
    mean of 1/q_l over a time is at least one over that of q_l (Jensen), however q_l goes.

    Args:
        times: t after the start, increasing, shape (M,).
        moments: means of q_l over the time up to each of these since the one before, or the start,
            shape (..., M, layers).
        start: the distribution of theta_0, at t = 0.
        errors: relative standard errors of ``moments``, shape (..., M, layers) or a number; SURE of
            them are taken off every layer's part.

    Returns:
        The bound up to each time, in time / weight^2, shape (..., M).
    """
    spans = np.diff(np.asarray(times, dtype=np.float64), prepend=0.0)[:, None]
    certain = np.maximum(1.0 - SURE * np.asarray(errors, dtype=np.float64), 0.0)
    parts = spans * start.sizes * certain / np.asarray(moments, dtype=np.float64)
    return np.cumsum(np.sum(parts, axis=-1), axis=-1)


def free_energy_drops(
    loss_drop: ArrayLike,
    curvature_heat: ArrayLike,
    information: ArrayLike,
    entropy_gain: ArrayLike,
    temperature: float,
) -> tuple[Array, Array]:
    """Bounds on F_0 - F_t = <L_0 - L_t> + (S_t - S_0) / beta from below and from above.

    From below the entropy is integrated, dS/dt = -<laplacian L> + beta^-1 int |grad p|^2 / p; F
    never grows, so that the largest value so far is taken.

    Args:
        loss_drop: <L_0 - L_t> at increasing times t, shape (..., M).
        curvature_heat: beta^-1 int <laplacian L> dt, shape (..., M).
        information: of `information_integral`, shape (..., M); with the errors of its moments,
            else the largest value so far would be that of the luckiest time.
        entropy_gain: of `largest_entropy_gain`, shape (..., M).
        temperature: beta^-1; at 0 both are the loss drop.

    Returns:
        (lower bound, upper bound), each (..., M), in units of the loss. NaN where the lower bound
        is not positive and so says nothing, or where a moment is not finite.
    """
    drop = np.asarray(loss_drop, dtype=np.float64)
    if temperature == 0:
        return drop, drop
    upper = drop + temperature * np.asarray(entropy_gain, float)
    lower = drop - np.asarray(curvature_heat, float)
    lower = lower + temperature**2 * np.asarray(information, float)
    lower = np.fmax.accumulate(lower, axis=-1)
    return np.where(np.isfinite(upper) & (lower > 0), lower, np.nan), upper


def linearised(
    eigenvalues: ArrayLike,
    residue_projections: ArrayLike,
    times: ArrayLike,
    *,
    weights: int,
    start_variance: float,
    temperature: float,
) -> dict[str, Array]:
    """Exact W2^2 and F_0 - F_T of the linearised network from an isotropic Gaussian start.

    The modes of `linear_regression` with h_k = lambda_k and, on average over starts,
    Delta_k^2 = lambda_k (a_k^2 + s_0); the other weights diffuse freely. At temperature 0 these
    are the sums of `ntk_dynamics`, whatever the network. Above it the premise is that outputs are
    linear in the weights, f(theta_0) = J theta_0, as of one layer: those of deeper networks
    scatter less than J theta_0 does, so that no a_k^2 >= 0 gives their Delta_k^2.

    Args:
        eigenvalues: lambda_k of the full kernel, those below rounding 0, shape (K,).
        residue_projections: Delta_k^2 at the start, shape (K,).
        times: T, shape (M,).
        weights: number of weights P.
        start_variance: s_0 of every weight.
        temperature: beta^-1.

    Returns:
        "wasserstein_squared", "free_energy_drop" and "loss_drop", each (M,). They are linear in
        Delta_k^2, so that their mean over starts is that of the mean Delta_k^2; of one start alone
        they may be negative, and so they are wherever the premise does not hold.
    """
    h, projections = np.asarray(eigenvalues, float), np.asarray(residue_projections, float)
    moving = np.flatnonzero(h > 0)
    # a kernel has the rank P at most; what is above is rounding
    moving = moving[np.argsort(-h[moving], kind="stable")[:weights]]
    h, projections = h[moving], projections[moving]
    times = np.asarray(times, dtype=np.float64)
    cloud = linear_regression.OrnsteinUhlenbeckModes(
        np.append(h, 0.0),
        np.zeros(h.size + 1),
        start_variance,
        temperature,
        np.append(np.ones(h.size), float(weights - h.size)),
    )
    # what the starts' own spread does to the modes is in Delta_k^2 already
    spread = (h, start_variance * h)
    moved = ntk_dynamics.geodesic_length_squared(h, projections, times)
    moved = moved - ntk_dynamics.geodesic_length_squared(*spread, times)
    learnt = ntk_dynamics.loss_drop(h, projections, times) - ntk_dynamics.loss_drop(*spread, times)
    return {
        "wasserstein_squared": linear_regression.wasserstein_squared(cloud, times) + moved,
        "free_energy_drop": linear_regression.free_energy_drop(cloud, times) + learnt,
        "loss_drop": linear_regression.mean_loss_drop(cloud, times) + learnt,
    }
