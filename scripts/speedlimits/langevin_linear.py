"""Langevin ensembles of linear regression: simulated, to check the closed forms against.

d theta = -(X^T (X theta - y) + ridge theta) dt + sqrt(2 temperature) dW. Two schemes:

* `exact_ensemble` draws the Ornstein-Uhlenbeck transition itself: no bias at any step.
* `euler_maruyama` takes theta += -step grad L + sqrt(2 step temperature) xi, as one would for a
  network. Its mean decays by (1 - step h) instead of e^{-step h} per step, and its stationary
  variance is temperature / (h (1 - step h / 2)): a relative bias of about step h / 2 in the
  variances and step h^2 t / 2 in the means. Stable for step < 2 / h_max. The closed form of this
  chain at any step is `linear_regression.predict_discretised`.

The entropy production is estimated on trajectories: the heat (minus the work of the force along
each path, at the midpoint of each step) plus temperature x change of entropy of the ensemble.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma
from scipy.stats import t as student_t

from speedlimits.transport import fitted_gaussian_wasserstein_squared

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RegressionData:
    """A data set of linear regression and its teacher.

    Args:
        inputs: X, shape (n, d).
        targets: y, shape (n,).
        teacher: theta*, shape (d,).
    """

    inputs: Array
    targets: Array
    teacher: Array


@dataclass(frozen=True)
class LangevinEnsemble:
    """Weights of R realisations at M times, and the heat that each has given off.

    Args:
        times: (M,), the first is the start if it is 0.
        weights: shape (M, R, d).
        heat: -int grad L . d theta up to each time (Stratonovich), shape (M, R): minus the change
            of the energy, in units of the loss.
    """

    times: Array
    weights: Array
    heat: Array


def gaussian_data(
    n: int,
    d: int,
    *,
    teacher_variance: float,
    noise_variance: float,
    generator: np.random.Generator,
) -> RegressionData:
    """Draw inputs x ~ N(0, I/d), a teacher theta* ~ N(0, teacher_variance I), y = X theta* + noise.

    Args:
        n: number of samples.
        d: number of input dimensions.
        teacher_variance: variance of a component of theta*.
        noise_variance: variance of the label noise.
        generator: random stream of the data.

    Returns:
        The data set; X^T X has the Marchenko-Pastur spectrum of `marchenko_pastur` for large d.
    """
    inputs = generator.standard_normal((n, d)) / np.sqrt(d)
    teacher = np.sqrt(teacher_variance) * generator.standard_normal(d)
    noise = np.sqrt(noise_variance) * generator.standard_normal(n)
    return RegressionData(inputs, inputs @ teacher + noise, teacher)


def starts(
    start_mean: ArrayLike, start_variance: float, realisations: int, generator: np.random.Generator
) -> Array:
    """Draw theta_0 ~ N(m_0, s_0 I) for every realisation.

    Args:
        start_mean: m_0, shape (d,).
        start_variance: s_0.
        realisations: R.
        generator: random stream of the starts.

    Returns:
        theta_0, shape (R, d).
    """
    mean = np.asarray(start_mean, dtype=np.float64)
    draw = generator.standard_normal((realisations, mean.size))
    return mean + np.sqrt(start_variance) * draw


def energy(weights: ArrayLike, data: RegressionData, ridge: float = 0.0) -> Array:
    """Loss L = 1/2 |X theta - y|^2 + ridge/2 |theta|^2 of every realisation.

    Args:
        weights: theta, shape (..., d).
        data: the data set.
        ridge: coefficient of |theta|^2 / 2.

    Returns:
        L, shape (...).
    """
    weights = np.asarray(weights, dtype=np.float64)
    residue = weights @ data.inputs.T - data.targets
    return 0.5 * np.sum(residue**2, axis=-1) + 0.5 * ridge * np.sum(weights**2, axis=-1)


def exact_ensemble(
    weights: ArrayLike,
    data: RegressionData,
    times: ArrayLike,
    *,
    temperature: float,
    generator: np.random.Generator,
    ridge: float = 0.0,
) -> LangevinEnsemble:
    """Sample the ensemble at the given times by its exact transition probabilities.

    Args:
        weights: theta_0, shape (R, d).
        data: the data set.
        times: increasing, at least 0, shape (M,).
        temperature: beta^-1.
        generator: random stream of the noise.
        ridge: coefficient of |theta|^2 / 2.

    Returns:
        The ensemble; the heat is exact too, being the drop of the energy of a conservative force.
    """
    times = np.asarray(times, dtype=np.float64)
    h, basis = np.linalg.eigh(data.inputs.T @ data.inputs)
    # the kernel of X^T X is exactly force-free; rounding would let it drift or grow
    h = np.where(h > h.max() * h.size * np.finfo(float).eps, h, 0.0) + ridge
    force = (data.inputs.T @ data.targets) @ basis
    optimum = np.where(h > 0, force / np.where(h > 0, h, 1.0), 0.0)
    modes = np.asarray(weights, dtype=np.float64) @ basis
    first = energy(weights, data, ridge)
    states, before = [], 0.0
    for time in times:
        span = time - before
        clock = np.where(h > 0, -np.expm1(-2 * h * span) / np.where(h > 0, h, 1.0), 2 * span)
        noise = generator.standard_normal(modes.shape) * np.sqrt(temperature * clock)
        modes = optimum + (modes - optimum) * np.exp(-h * span) + noise
        states.append(modes @ basis.T)
        before = time
    states = np.stack(states)
    return LangevinEnsemble(times, states, first - energy(states, data, ridge))


def euler_maruyama(
    weights: ArrayLike,
    data: RegressionData,
    *,
    step: float,
    snapshot_steps: ArrayLike,
    temperature: float,
    generator: np.random.Generator,
    ridge: float = 0.0,
    on_step: Callable[[int], None] | None = None,
) -> LangevinEnsemble:
    """Simulate the ensemble by Euler-Maruyama and accumulate the heat along each trajectory.

    heat -= 1/2 (grad L(theta_n) + grad L(theta_{n+1})) . (theta_{n+1} - theta_n), the midpoint
    (Stratonovich) rule, which for a quadratic loss is the energy difference to rounding.

    Args:
        weights: theta_0, shape (R, d).
        data: the data set.
        step: time step, below 2 / h_max.
        snapshot_steps: increasing numbers of steps at which to keep the weights, shape (M,).
        temperature: beta^-1.
        generator: random stream of the noise.
        ridge: coefficient of |theta|^2 / 2.
        on_step: called with the number of steps so far.

    Returns:
        The ensemble at times step x snapshot_steps; for the bias see the module's first lines.

    Raises:
        ValueError: if the step is unstable.
    """
    hessian = data.inputs.T @ data.inputs + ridge * np.eye(data.inputs.shape[1])
    largest = float(np.linalg.eigvalsh(hessian)[-1])
    if not 0 < step < 2.0 / largest:
        raise ValueError(f"step is {step}; stable steps are above 0 and below {2.0 / largest:.3g}")
    theta = np.array(weights, dtype=np.float64)
    force = data.inputs.T @ data.targets
    heat = np.zeros(len(theta))
    wanted = np.asarray(snapshot_steps, dtype=int)
    states, heats = [], []
    gradient = theta @ hessian - force
    for number in range(int(wanted[-1]) + 1):
        if on_step is not None:
            on_step(number)
        if number in wanted:
            states.append(theta.copy())
            heats.append(heat.copy())
        noise = np.sqrt(2.0 * step * temperature) * generator.standard_normal(theta.shape)
        change = noise - step * gradient
        theta = theta + change
        after = theta @ hessian - force
        heat = heat - 0.5 * np.sum((gradient + after) * change, axis=1)
        gradient = after
    return LangevinEnsemble(step * wanted, np.stack(states), np.stack(heats))


def gaussian_entropy(weights: ArrayLike) -> float:
    """Entropy of the Gaussian behind a sample, S = 1/2 ln det(2 pi e C), free of sampling bias.

    E ln det of a sample covariance of R points falls short of ln det C by a known amount (Wishart):
    d ln(2/(R - 1)) + sum_{j=1}^d digamma((R - j)/2). Assumes that the weights are Gaussian.

    Args:
        weights: theta of each realisation, shape (R, d), R > d.

    Returns:
        S in nats.

    Raises:
        ValueError: if there are not more realisations than dimensions.
    """
    weights = np.asarray(weights, dtype=np.float64)
    count, d = weights.shape
    if count <= d:
        raise ValueError(
            f"there are {count} realisations of {d} weights; the entropy needs more than {d}"
        )
    log_determinant = np.linalg.slogdet(np.atleast_2d(np.cov(weights, rowvar=False)))[1]
    shortfall = d * np.log(2.0 / (count - 1)) + digamma((count - np.arange(1, d + 1)) / 2).sum()
    return float(0.5 * (log_determinant - shortfall + d * np.log(2.0 * np.pi * np.e)))


def entropy_production(ensemble: LangevinEnsemble, temperature: float) -> Array:
    """Trajectory estimate of beta^-1 R between the first snapshot and each snapshot.

    beta^-1 R = <heat> + temperature (S_T - S_0), the total entropy production of stochastic
    thermodynamics (Seifert 2012): entropy given to the bath plus entropy gained by the ensemble.
    The entropies assume Gaussian p_t, exact for linear regression.

    Args:
        ensemble: the simulated ensemble, its first snapshot the start.
        temperature: beta^-1.

    Returns:
        beta^-1 R at each time, shape (M,), in units of the loss.
    """
    heat = ensemble.heat.mean(axis=1) - ensemble.heat[0].mean()
    if temperature == 0:
        return heat
    entropies = np.array([gaussian_entropy(weights) for weights in ensemble.weights])
    return heat + temperature * (entropies - entropies[0])


def measured_quantities(ensemble: LangevinEnsemble, temperature: float) -> dict[str, Array]:
    """Measure W2^2, beta^-1 R, T_SL and the inefficiency of a simulated ensemble.

    Args:
        ensemble: its first snapshot is the start at time 0.
        temperature: beta^-1.

    Returns:
        Arrays (M - 1,) for the later snapshots, under the names of `linear_regression.predict`.
    """
    first = ensemble.weights[0]
    squared = np.array(
        [fitted_gaussian_wasserstein_squared(first, last) for last in ensemble.weights[1:]]
    )
    drop = entropy_production(ensemble, temperature)[1:]
    return {
        "wasserstein_squared": squared,
        "free_energy_drop": drop,
        "speed_limit_time": squared / drop,
        "inefficiency": ensemble.times[1:] * drop / squared,
    }


def interval_over_groups(
    ensemble: LangevinEnsemble,
    measure: Callable[[LangevinEnsemble], dict[str, Array]],
    groups: int,
) -> dict[str, tuple[Array, Array]]:
    """Value and standard error of measured quantities, leaving out one group at a time.

    The jackknife over G disjoint groups of realisations: with f of all and f_(g) of all but group
    g, the pseudo-values G f - (G - 1) f_(g) have the mean f less its bias of order 1/R, and their
    spread over sqrt(G) is the standard error (Tukey 1958). Every f sees nearly all realisations,
    where a ratio or a root is as good as linear; in a single group of R/G it is not. A bootstrap
    would repeat realisations and so shrink the fitted covariances.

    Args:
        ensemble: the simulated ensemble.
        measure: function of an ensemble, such as `measured_quantities`.
        groups: number of groups G, at least 2 and at most the number of realisations. An interval
            is value -+ `interval_factor` (G, confidence) x error.

    Returns:
        Name -> (value, standard error), arrays as ``measure`` gives them.

    Raises:
        ValueError: if there are fewer than 2 groups or more than realisations.
    """
    realisations = ensemble.weights.shape[1]
    if not 2 <= groups <= realisations:
        raise ValueError(
            f"groups is {groups}; a standard error needs at least 2 and at most as many as the "
            f"{realisations} realisations"
        )
    group = np.arange(realisations) * groups // realisations

    def of(rows: Array | slice) -> dict[str, Array]:
        return measure(
            LangevinEnsemble(ensemble.times, ensemble.weights[:, rows], ensemble.heat[:, rows])
        )

    whole = of(slice(None))
    parts = [of(group != g) for g in range(groups)]
    result = {}
    for name, value in whole.items():
        pseudo = groups * value - (groups - 1) * np.array([part[name] for part in parts])
        result[name] = (pseudo.mean(axis=0), pseudo.std(axis=0, ddof=1) / np.sqrt(groups))
    return result


def interval_factor(groups: int, confidence: float) -> float:
    """Standard errors from the value to an end of its interval: Student's t with G - 1 degrees.

    The error is itself estimated, from G groups; the 1.96 of a known error would be too short.

    Args:
        groups: number of groups G behind the standard error, at least 2.
        confidence: probability of the interval.

    Returns:
        The factor, 2.36 for 8 groups, 2.02 for 40.
    """
    return float(student_t.ppf(0.5 * (1.0 + confidence), groups - 1))
