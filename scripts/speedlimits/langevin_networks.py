"""Langevin dynamics of a network: bounds on W2, entropy production and T_SL from few trajectories.

The start is a Gaussian cloud N(theta_0, s_0 I) around one draw of the weights. Its entropy and
covariance are known, and for s_0 -> 0 at temperature 0 everything below is that of the one
trajectory of gradient flow from theta_0. p_T is not known in closed form, but its mean and the mean
variances of its layers are measured well by a few members, each layer having many weights. They
bound what is wanted (derived here; docs/theory.md, section 6.3), whatever the shape of p_T:

    W2^2           >= |m_T - theta_0|^2 + sum_l P_l (sigma_l - sqrt s_0)^2     (Gelbrich 1990)
    S_T - S_0      <= sum_l P_l / 2 ln(sigma_l^2 / s_0)                        (largest entropy)
    F_0 - F_T      <= <L_0 - L_T> + temperature x that bound
    T >= T_SL      >= the quotient of the first and the last

The first three are equalities if p_T is Gaussian, isotropic in every layer and uncorrelated between
layers. Quantities are in units of the loss, weights and training time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from speedlimits.dynamics import LangevinDynamics, LossAndGradient
from speedlimits.linear_regression import OrnsteinUhlenbeckModes
from speedlimits.speed_limit import inefficiency

Array = NDArray[np.float64]

# Weights of a layer times members less one, below which its slope on the start is too uncertain,
# as 1 / chi^2 of so many degrees of freedom: own choice, for moments off by 2 % at most.
FEWEST_FREE = 30


@dataclass(frozen=True)
class Cloud:
    """Members of a Gaussian cloud at M times after the start.

    Args:
        times: (M,).
        starts: of every member less theta_0, Gaussian of mean 0, shape (members, P).
        displacements: theta - theta_0 of every member, shape (M, members, P).
        loss_drops: L_0 - L_T of every member, shape (M, members).
        heat: -int grad L o d theta (midpoint of each step), shape (M, members); for a smooth loss
            it differs from the loss drop by the error of the scheme only.
    """

    times: Array
    starts: Array
    displacements: Array
    loss_drops: Array
    heat: Array


def simulate_cloud(
    loss_and_gradient: LossAndGradient,
    theta_0: torch.Tensor,
    times: ArrayLike,
    *,
    step: float,
    temperature: float,
    start_variance: float,
    seeds: Sequence[int],
    lambda_1: float | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Cloud:
    """Evolve a cloud by Euler-Maruyama (weak order 1: averages are off by O(step)).

    On a mode of eigenvalue h the variance has the relative bias step h / 2 in equilibrium.

    Args:
        loss_and_gradient: theta (P,) float64 -> (L, grad L).
        theta_0: centre of the cloud, shape (P,).
        times: snapshot times, increasing, rounded to whole steps, shape (M,).
        step: of training time, below 2 / lambda_1.
        temperature: beta^-1, in units of the loss.
        start_variance: s_0 > 0.
        seeds: one per member, of its start and noise.
        lambda_1: largest eigenvalue if known; only named in errors.
        on_step: called after every step with the number of steps of all members so far.

    Returns:
        The cloud.
    """
    centre = theta_0.detach().to(torch.float64)
    steps = np.maximum(np.round(np.asarray(times, float) / step), 1).astype(int)
    starts, displacements, drops, heats = [], [], [], []
    for number, seed in enumerate(seeds):
        # the noise of the steps takes the same key with counters of its own, from 0 upwards
        draw = np.random.Generator(np.random.Philox(key=seed, counter=(1 << 255)))
        away = np.sqrt(start_variance) * draw.standard_normal(centre.numel())
        start = centre + torch.from_numpy(away).to(centre.device)
        starts.append(away)
        member = LangevinDynamics(
            loss_and_gradient, start, step, temperature, seed, lambda_1=lambda_1
        )
        first, of_member = member.loss, []

        def after_step(evolution: LangevinDynamics, before: int = number * steps[-1]) -> None:
            if on_step is not None:
                on_step(before + evolution.steps)

        for count in steps:
            member.advance(step * count, after_step)
            position = (member.weights - centre).cpu().numpy()
            of_member.append((position, first - member.loss, member.heat))
        for kept, values in zip(
            (displacements, drops, heats), zip(*of_member, strict=True), strict=True
        ):
            kept.append(np.array(values))
    stacked = [np.stack(kept, axis=1) for kept in (displacements, drops, heats)]
    return Cloud(step * steps, np.array(starts), *stacked)


def moments(
    cloud: Cloud, layers: Sequence[tuple[int, int]], start_variance: float
) -> tuple[Array, Array]:
    """Estimate |m_T - theta_0|^2 and sigma_l^2, without the noise that the starts are known to add.

    In each layer the displacements u_a are regressed on the members' starts z_a,

        c_l = sum_a z'_a . u'_a / sum_a |z'_a|^2,   z', u' less their means over members,

    and only r_a = u_a - c_l z_a is sampled: z_a has mean 0 and variance s_0, so that u_a and r_a
    have one mean and sigma_l^2 = s_0 c_l^2 + the mean variance of r_a (derived here; control
    variates). At short times, where c_l is near 1, this leaves the members' own noise alone. Of
    layers of few weights c_l is that of all together, if they are enough, and sigma_l^2 the plain
    variance. The error of c_l adds to |m_T - theta_0|^2 2 / (M (M - 1)) of a weight's variance.

    Args:
        cloud: the members, 2 or more.
        layers: (start, stop) of each layer inside theta.
        start_variance: s_0.

    Returns:
        |m_T - theta_0|^2, shape (M,), which sampling may make negative, and sigma_l^2, shape
        (M, layers).
    """
    rest, variances = cloud.displacements.copy(), []
    whole = _slope(cloud, slice(None))
    for start, stop in layers:
        part = slice(start, stop)
        own = _slope(cloud, part)
        slope = whole if own is None else own
        if slope is not None:
            rest[..., part] -= slope[..., None, None] * cloud.starts[:, part]
        if own is None:
            variance = layer_variances(cloud.displacements, [(start, stop)])
        else:
            variance = layer_variances(rest, [(start, stop)]) + start_variance * own[..., None] ** 2
        variances.append(variance)
    return mean_displacement_squared(rest), np.concatenate(variances, axis=-1)


def _slope(cloud: Cloud, part: slice) -> Array | None:
    """Return the slope of displacements on starts over some weights, (M,); None of too few."""
    starts = cloud.starts[:, part]
    if (len(starts) - 1) * starts.shape[1] < FEWEST_FREE:
        return None
    centred = starts - starts.mean(axis=0)
    products = np.einsum("ap,...ap->...", centred, cloud.displacements[..., part])
    return products / np.sum(centred**2)


def mean_displacement_squared(displacements: ArrayLike) -> Array:
    """Squared mean displacement |m_T - theta_0|^2 without bias, from pairs of members.

    (|sum_a u_a|^2 - sum_a |u_a|^2) / (M (M - 1)): products of different members only, whose noise
    is independent. Sampling may make it negative.

    Args:
        displacements: u_a, shape (..., members, P).

    Returns:
        The estimate, shape (...).

    Raises:
        ValueError: if there are fewer than 2 members.
    """
    u = np.asarray(displacements, dtype=np.float64)
    count = u.shape[-2]
    if count < 2:
        raise ValueError(f"the cloud has {count} member; pairs need at least 2")
    of_sum, of_each = np.sum(u.sum(axis=-2) ** 2, axis=-1), np.sum(u**2, axis=(-2, -1))
    return (of_sum - of_each) / (count * (count - 1))


def layer_variances(displacements: ArrayLike, layers: Sequence[tuple[int, int]]) -> Array:
    """Return the mean variance sigma_l^2 over the weights of each layer, shape (..., layers).

    Args:
        displacements: shape (..., members, P).
        layers: (start, stop) of each layer inside theta.
    """
    each = np.var(np.asarray(displacements, dtype=np.float64), axis=-2, ddof=1)
    return np.stack([each[..., start:stop].mean(axis=-1) for start, stop in layers], axis=-1)


def bounds(
    times: ArrayLike,
    mean_squared: ArrayLike,
    variances: ArrayLike,
    sizes: ArrayLike,
    loss_drop: ArrayLike,
    *,
    temperature: float,
    start_variance: float,
) -> dict[str, Array]:
    """Bounds of this module's first lines.

    Args:
        times: T, shape (...).
        mean_squared: |m_T - theta_0|^2, shape (...).
        variances: sigma_l^2, shape (..., layers).
        sizes: numbers of weights P_l, shape (layers,).
        loss_drop: <L_0 - L_T>, shape (...).
        temperature: beta^-1.
        start_variance: s_0.

    Returns:
        "wasserstein_squared" and "speed_limit_time" (lower bounds), "free_energy_drop",
        "entropy_gain" and "inefficiency" (upper bounds), each (...); quotients are NaN where the
        moments' sampling error leaves one of their two not positive.
    """
    sizes = np.asarray(sizes, dtype=np.float64)
    spread = np.asarray(variances, dtype=np.float64)
    widened = np.sum(sizes * (np.sqrt(spread) - np.sqrt(start_variance)) ** 2, axis=-1)
    squared = np.asarray(mean_squared, dtype=np.float64) + widened
    with np.errstate(divide="ignore"):  # without noise a variance decays to 0 and S to -inf
        gain = np.sum(0.5 * sizes * np.log(spread / start_variance), axis=-1)
    heat = temperature * gain if temperature > 0 else 0.0
    drop = np.asarray(loss_drop, dtype=np.float64) + heat
    ratio = inefficiency(times, squared, drop)
    return {
        "wasserstein_squared": squared,
        "entropy_gain": gain,
        "free_energy_drop": drop,
        "speed_limit_time": np.asarray(times, dtype=np.float64) / ratio,
        "inefficiency": ratio,
    }


def linearised_modes(
    eigenvalues: ArrayLike,
    residue_projections: ArrayLike,
    weights: int,
    *,
    temperature: float,
    start_variance: float,
) -> OrnsteinUhlenbeckModes:
    """Modes of the linearised network around theta_0, for which all quantities are exact.

    The weights move in the K directions that the kernel sees, with h_k = lambda_k and
    a_k^2 = Delta_k^2 / lambda_k, and diffuse freely in the other P - K.

    Args:
        eigenvalues: lambda_k of the full kernel, those below rounding 0, shape (K',).
        residue_projections: Delta_k^2, shape (K',).
        weights: P.
        temperature: beta^-1.
        start_variance: s_0.

    Returns:
        The modes, P of them counted with multiplicity.
    """
    h = np.asarray(eigenvalues, dtype=np.float64)
    moving = h > 0
    away = np.asarray(residue_projections, dtype=np.float64)[moving] / h[moving]
    return OrnsteinUhlenbeckModes(
        np.append(h[moving], 0.0),
        np.append(away, 0.0),
        start_variance,
        temperature,
        np.append(np.ones(moving.sum()), float(weights - moving.sum())),
    )
