"""Closed forms of linear regression against quadrature, ODEs, NTK sums and limits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp
from scipy.linalg import expm
from scipy.stats import norm

from speedlimits import linear_regression, ntk_dynamics, transport
from speedlimits.linear_regression import OrnsteinUhlenbeckModes

EXAMPLES = settings(deadline=None, max_examples=20)
TIMES = np.array([0.03, 0.4, 3.0, 20.0])


@st.composite
def problems(draw, cold=False, zero_modes=True):
    """Random modes; a third of them are zero modes, and temperature 0 is among the draws."""
    seed, count = draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, 8))
    generator = np.random.default_rng(seed)
    eigenvalues = 10.0 ** generator.uniform(-2, 1, count)
    if zero_modes:
        eigenvalues = np.where(generator.random(count) < 1 / 3, 0.0, eigenvalues)
    displacements = generator.exponential(size=count)
    start_variance = draw(st.floats(0.05, 5.0))
    temperature = 0.0 if cold else draw(st.sampled_from([0.0, 1e-3, 0.1, 1.0, 30.0]))
    return OrnsteinUhlenbeckModes(eigenvalues, displacements, start_variance, temperature)


def moments_by_ode(modes, times):
    """Means (from the optimum) and deviations by integrating their equations of motion."""
    h, count = modes.eigenvalues, modes.eigenvalues.size

    def rate(_, state):
        mean, deviation = np.split(state, 2)
        noise = modes.temperature / deviation if modes.temperature > 0 else 0.0
        return np.concatenate([-h * mean, noise - h * deviation])

    start = np.concatenate(
        [np.sqrt(modes.start_displacements_squared), np.full(count, np.sqrt(modes.start_variance))]
    )
    solution = solve_ivp(
        rate, (0, times[-1]), start, t_eval=times, rtol=1e-10, atol=1e-13, method="DOP853"
    )
    return np.split(solution.y.T, 2, axis=1)


def free_energy(modes, means, variances):
    """F = <L> - temperature S up to a constant, from the moments."""
    loss = 0.5 * np.sum(modes.eigenvalues * (means**2 + variances), axis=-1)
    if modes.temperature == 0:
        return loss
    return loss - 0.5 * modes.temperature * np.sum(np.log(variances), axis=-1)


@EXAMPLES
@given(problems())
def test_everything_follows_from_the_moment_equations(modes):
    means, deviations = moments_by_ode(modes, TIMES)
    variances = deviations**2
    np.testing.assert_allclose(
        linear_regression.variances(modes, TIMES), variances, rtol=1e-7, atol=1e-9
    )
    start = np.sqrt(modes.start_displacements_squared)
    distance = np.sum((means - start) ** 2, axis=1)
    distance += np.sum((deviations - np.sqrt(modes.start_variance)) ** 2, axis=1)
    np.testing.assert_allclose(
        linear_regression.wasserstein_squared(modes, TIMES), distance, rtol=1e-6, atol=1e-10
    )
    first = free_energy(modes, start, np.full(start.size, modes.start_variance))
    drop = first - free_energy(modes, means, variances)
    np.testing.assert_allclose(
        linear_regression.free_energy_drop(modes, TIMES), drop, rtol=1e-6, atol=1e-8
    )


@EXAMPLES
@given(problems())
def test_free_energy_drop_is_the_integral_of_the_squared_velocity(modes):
    end = 5.0
    edges = np.concatenate([[0.0], end * 2.0 ** np.arange(-14.0, 1.0)])

    def squared(t):
        return float(linear_regression.mean_velocity_squared(modes, t))

    integral = sum(quad(squared, a, b, epsrel=1e-10)[0] for a, b in itertools.pairwise(edges))
    np.testing.assert_allclose(
        linear_regression.free_energy_drop(modes, end), integral, rtol=1e-7, atol=1e-14
    )


@st.composite
def dense_problems(draw, full_rank=False):
    """Random data, ridge, temperature and Gaussian start in the coordinates of the weights."""
    d, seed = draw(st.integers(1, 5)), draw(st.integers(0, 2**32 - 1))
    n = draw(st.integers(d + 1, 9)) if full_rank else draw(st.integers(1, 7))
    generator = np.random.default_rng(seed)
    inputs, targets = generator.standard_normal((n, d)), generator.standard_normal(n)
    mean, variance = generator.standard_normal(d), draw(st.floats(0.05, 3.0))
    ridge = draw(st.sampled_from([0.0, 0.3]))
    temperature = draw(st.sampled_from([0.0, 0.1, 2.0]))
    return inputs, targets, mean, variance, temperature, ridge


def dense_moments(problem, time):
    """Mean and covariance matrix of p_t by matrix exponentials, without an eigenbasis.

    The covariance solves dC/dt = -HC - CH + 2 temperature, linear in the vector of its entries.
    """
    inputs, targets, mean, variance, temperature, ridge = problem
    d = mean.size
    hessian = inputs.T @ inputs + ridge * np.eye(d)
    moving = np.zeros((d + 1, d + 1))
    moving[:d, :d], moving[:d, d] = -hessian, inputs.T @ targets
    spreading = np.zeros((d * d + 1, d * d + 1))
    spreading[:-1, :-1] = -np.kron(hessian, np.eye(d)) - np.kron(np.eye(d), hessian)
    spreading[:-1, -1] = 2 * temperature * np.eye(d).ravel()
    start = np.append(variance * np.eye(d).ravel(), 1.0)
    covariance = (expm(time * spreading) @ start)[:-1].reshape(d, d)
    return hessian, (expm(time * moving) @ np.append(mean, 1.0))[:-1], covariance


@EXAMPLES
@given(dense_problems(), st.floats(0.02, 2.0))
def test_distance_loss_velocity_and_entropy_in_the_coordinates_of_the_weights(problem, time):
    """Every quantity as a matrix expression of its definition; W2 as held against POT's."""
    inputs, targets, mean, variance, temperature, ridge = problem
    hessian, end, covariance = dense_moments(problem, time)
    modes = linear_regression.modes_of_data(inputs, targets, mean, variance, temperature, ridge)
    first = variance * np.eye(mean.size)
    squared = transport.gaussian_wasserstein_squared(mean, first, end, covariance)
    np.testing.assert_allclose(
        linear_regression.wasserstein_squared(modes, time), squared, rtol=1e-5, atol=1e-7
    )

    def mean_loss(theta, spread):
        residue = inputs @ theta - targets
        loss = residue @ residue + ridge * theta @ theta + np.trace(hessian @ spread)
        return 0.5 * loss

    drop = mean_loss(mean, first) - mean_loss(end, covariance)
    found = linear_regression.mean_loss_drop(modes, time)
    np.testing.assert_allclose(found, drop, rtol=1e-7, atol=1e-9 * mean_loss(mean, first))
    optimum = np.linalg.lstsq(hessian, inputs.T @ targets, rcond=1e-9)[0]
    excess = mean_loss(end, covariance) - mean_loss(optimum, 0 * first)
    found = linear_regression.mean_excess_loss(modes, time)
    np.testing.assert_allclose(found, excess, rtol=1e-7, atol=1e-9 * (1 + targets @ targets))
    gained = 0.5 * (np.linalg.slogdet(covariance)[1] - np.linalg.slogdet(first)[1])
    found = linear_regression.free_energy_drop(modes, time)
    free = drop + temperature * gained if temperature > 0 else drop  # gained may be -inf at 0
    np.testing.assert_allclose(found, free, rtol=1e-6, atol=1e-8)
    # v = -(H theta - X^T y) + temperature C^-1 (theta - m), an affine function of theta ~ N(m, C)
    diffusion = temperature * np.linalg.inv(covariance) if temperature > 0 else 0.0
    slope = diffusion - hessian
    force = inputs.T @ targets - hessian @ end
    velocity_squared = force @ force + np.trace(slope @ covariance @ slope)
    found = linear_regression.mean_velocity_squared(modes, time)
    np.testing.assert_allclose(found, velocity_squared, rtol=1e-6, atol=1e-9)


@EXAMPLES
@given(problems())
def test_path_length_is_the_limit_of_chords(modes):
    """l_gamma is the least upper bound of sums of W2 between successive distributions."""
    end, lengths = 2.0, []
    for count in (100, 200, 400):
        times = end * np.linspace(0, 1, count + 1) ** 3  # finer where the speed falls first
        moved = np.sqrt(modes.start_displacements_squared) * np.exp(
            -np.multiply.outer(times, modes.eigenvalues)
        )
        deviations = np.sqrt(linear_regression.variances(modes, times))
        chords = np.diff(moved, axis=0) ** 2 + np.diff(deviations, axis=0) ** 2
        lengths.append(np.sqrt(chords.sum(axis=1)).sum())
    length = float(linear_regression.path_length(modes, end)[0])
    assert lengths[0] <= lengths[2] * (1 + 1e-9) <= length * (1 + 2e-9) + 1e-12
    # chords fall short by the square of their span: Richardson
    extrapolated = lengths[2] + (lengths[2] - lengths[1]) / 3
    np.testing.assert_allclose(extrapolated, length, rtol=1e-4, atol=1e-9)


@EXAMPLES
@given(problems())
def test_path_length_by_quadpack_and_bounds(modes):
    end = 2.0
    edges = np.concatenate([[0.0], end * 2.0 ** np.arange(-14.0, 1.0)])

    def speed(t):
        return np.sqrt(float(linear_regression.mean_velocity_squared(modes, t)))

    integral = sum(quad(speed, a, b, epsrel=1e-10)[0] for a, b in itertools.pairwise(edges))
    length, _ = linear_regression.path_length(modes, end)
    np.testing.assert_allclose(length, integral, rtol=1e-8, atol=1e-14)
    if integral > 0:
        result = linear_regression.predict(modes, TIMES)
        assert np.all(result["speed_unevenness"] >= 1 - 1e-8)
        assert np.all(result["path_excess"] >= 1 - 1e-8)
        product = result["speed_unevenness"] * result["path_excess"]
        np.testing.assert_allclose(product, result["inefficiency"], rtol=1e-10)


@EXAMPLES
@given(problems(cold=True))
def test_temperature_zero_is_the_ntk_dynamics_of_the_mean_squared_residue(modes):
    """At temperature 0, <Delta_k^2> = h_k (a_k^2 + s_0), and identity coupling is optimal."""
    projections = modes.eigenvalues * (modes.start_displacements_squared + modes.start_variance)
    expected = ntk_dynamics.predict(modes.eigenvalues, projections, TIMES)
    result = linear_regression.predict(modes, TIMES)
    for name, other in (
        ("wasserstein_squared", "geodesic_length_squared"),
        ("free_energy_drop", "loss_drop"),
        ("mean_loss_drop", "loss_drop"),
        ("path_length", "path_length"),
        ("inefficiency", "inefficiency"),
    ):
        np.testing.assert_allclose(result[name], expected[other], rtol=1e-9, atol=1e-300)


@EXAMPLES
@given(problems(zero_modes=False), st.sampled_from([0.02, 1.0, 50.0]))
def test_infinite_time_limit_by_partition_functions(modes, temperature):
    modes = OrnsteinUhlenbeckModes(
        modes.eigenvalues, modes.start_displacements_squared, modes.start_variance, temperature
    )
    limit = linear_regression.infinite_time_free_energy_drop(modes)
    for time in (np.inf, 60 / modes.eigenvalues.min()):
        drop = linear_regression.free_energy_drop(modes, time)
        np.testing.assert_allclose(drop, limit, rtol=1e-9, atol=1e-12)
    equilibrium = np.sqrt(temperature / modes.eigenvalues) - np.sqrt(modes.start_variance)
    np.testing.assert_allclose(
        linear_regression.wasserstein_squared(modes, np.inf),
        np.sum(modes.start_displacements_squared + equilibrium**2),
    )


def moments_by_recursion(modes, step, steps):
    """Means (from the optimum) and variances by the recursion of Euler-Maruyama, step by step."""
    mean = np.sqrt(modes.start_displacements_squared)
    variance = np.full(mean.size, modes.start_variance)
    factor = 1.0 - step * modes.eigenvalues
    for _ in range(steps):
        mean, variance = factor * mean, factor**2 * variance + 2 * step * modes.temperature
    return mean, variance


@EXAMPLES
@given(problems(), st.floats(1e-3, 1.9), st.sampled_from([1, 2, 7, 60]))
def test_discretised_chain_by_its_recursion(modes, relative_step, steps):
    """Steps up to nearly the stability limit, where the mean overshoots the minimum."""
    step = relative_step / max(modes.eigenvalues.max(), 0.1)
    mean, variance = moments_by_recursion(modes, step, steps)
    first = np.sqrt(modes.start_displacements_squared)
    start = np.full(first.size, modes.start_variance)
    found = linear_regression.predict_discretised(modes, step, steps)
    np.testing.assert_allclose(
        linear_regression.discretised_variances(modes, step, steps), variance, rtol=1e-9
    )
    distance = np.sum((mean - first) ** 2 + (np.sqrt(variance) - np.sqrt(start)) ** 2)
    drop = free_energy(modes, first, start) - free_energy(modes, mean, variance)
    np.testing.assert_allclose(found["wasserstein_squared"], distance, rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(found["free_energy_drop"], drop, rtol=1e-8, atol=1e-9)
    assert found["time"] == step * steps
    if distance > 1e-6:
        np.testing.assert_allclose(found["speed_limit_time"], distance / drop, rtol=1e-6)
        np.testing.assert_allclose(found["inefficiency"], step * steps * drop / distance, rtol=1e-6)


def first_order_bias(modes, time):
    """Bias of W2^2 and of the free-energy drop over the step, by expanding the moments in it.

    (1 - step h)^N = e^{-h t} (1 - step h^2 t / 2 + ...) and 1/(1 - step h / 2) = 1 + step h / 2.
    """
    h, start, temperature = modes.eigenvalues, modes.start_variance, modes.temperature
    distance, decay = np.sqrt(modes.start_displacements_squared), np.exp(-h * time)
    end = linear_regression.variances(modes, time)
    mean_bias = -0.5 * distance * decay * h**2 * time
    variance_bias = -start * h**2 * time * decay**2
    variance_bias += temperature * (0.5 * (1 - decay**2) + h * time * decay**2)
    squared = -2 * distance * (1 - decay) * mean_bias
    squared += (1 - np.sqrt(start / end)) * variance_bias
    drop = -h * distance * decay * mean_bias - 0.5 * (h - temperature / end) * variance_bias
    return np.sum(np.where(h > 0, squared, 0)), np.sum(np.where(h > 0, drop, 0))


@EXAMPLES
@given(problems(), st.floats(0.1, 3.0))
def test_bias_of_the_discretised_chain_is_of_first_order_in_the_step(modes, relative_time):
    """Step x the known coefficient; what is left falls as the square of the step."""
    rate = max(modes.eigenvalues.max(), 0.1)
    time = relative_time / rate
    exact = linear_regression.predict(modes, time)
    squared, drop = first_order_bias(modes, time)
    variances = modes.start_variance + linear_regression.variances(modes, time)
    weights = modes.start_displacements_squared + variances
    energy = modes.eigenvalues * weights + modes.temperature
    for name, bias, scale in (
        ("wasserstein_squared", squared, weights.sum()),
        ("free_energy_drop", drop, energy.sum()),
    ):
        for count in (50, 400, 3200):
            step = time / count
            chain = linear_regression.predict_discretised(modes, step, count)
            left = chain[name] - exact[name] - step * bias
            assert abs(left) <= (step * rate) ** 2 * scale + 1e-13 * scale


def test_slope_of_the_bias_in_the_step_is_one():
    """As a fit over a decade of steps, at the times of the shipped figure, hot and cold."""
    generator = np.random.default_rng(0)
    for temperature in (0.0, 0.1, 1.0):
        modes = OrnsteinUhlenbeckModes(
            generator.uniform(0.1, 3.0, 16), generator.exponential(size=16), 0.1, temperature
        )
        for time in (0.1, 1.0):
            exact, counts = linear_regression.predict(modes, time), 50 * 2 ** np.arange(5)
            for name in ("wasserstein_squared", "free_energy_drop", "speed_limit_time"):
                bias = [
                    linear_regression.predict_discretised(modes, time / n, n)[name] - exact[name]
                    for n in counts
                ]
                slope = np.polyfit(np.log(time / counts), np.log(np.abs(bias)), 1)[0]
                assert slope == pytest.approx(1.0, abs=0.03)


def test_discretised_chain_refuses_steps_that_diverge_and_starts_at_rest():
    modes = OrnsteinUhlenbeckModes([2.0, 0.0], [1.0, 1.0], 0.3, 0.5)
    with pytest.raises(ValueError, match="below 1"):
        linear_regression.predict_discretised(modes, 1.0, 3)
    with pytest.raises(ValueError, match="negative"):
        linear_regression.predict_discretised(modes, 0.1, -1)
    start = linear_regression.predict_discretised(modes, 0.5, 0)
    assert start["wasserstein_squared"] == start["free_energy_drop"] == 0
    assert start["speed_limit_time"] == 0 and start["inefficiency"] == 1


@EXAMPLES
@given(st.floats(0.2, 5.0), st.floats(0.1, 3.0), st.floats(0.05, 5.0), st.floats(-2.0, 2.0))
def test_equation_6_by_numerical_partition_function_and_entropy(h, variance, temperature, start):
    """Z_inf, S_0 and <L(theta_0)> of the paper's equation 6 by quadrature of their definitions."""
    deviation = np.sqrt(variance)
    reach = 12 * np.sqrt(temperature / h)
    partition = quad(lambda x: np.exp(-0.5 * h * x**2 / temperature), -reach, reach)[0]

    def over_start(function):
        density = norm(start, deviation).pdf
        ends = start - 12 * deviation, start + 12 * deviation
        return quad(lambda x: density(x) * function(x, density(x)), *ends)[0]

    entropy = over_start(lambda x, density: -np.log(density))
    loss = over_start(lambda x, density: 0.5 * h * x**2)
    expected = temperature * np.log(partition) + loss - temperature * entropy
    modes = OrnsteinUhlenbeckModes([h], [start**2], variance, temperature)
    found = linear_regression.infinite_time_free_energy_drop(modes)
    # it is temperature x the Kullback-Leibler divergence of the start from equilibrium: above 0
    assert found >= 0
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7 * (1 + loss + temperature))


@EXAMPLES
@given(dense_problems(full_rank=True), st.sampled_from([0.1, 2.0]))
def test_equation_6_is_the_divergence_of_the_start_from_equilibrium(problem, temperature):
    """beta^-1 R(infinity) = temperature x KL(p_0 | p_inf), with the matrices of both Gaussians."""
    inputs, targets, mean, variance, _, ridge = problem
    modes = linear_regression.modes_of_data(inputs, targets, mean, variance, temperature, ridge)
    d = mean.size
    precision = (inputs.T @ inputs + ridge * np.eye(d)) / temperature
    shift = mean - np.linalg.solve(precision * temperature, inputs.T @ targets)
    divergence = 0.5 * (
        variance * np.trace(precision) + shift @ precision @ shift - d
        - np.linalg.slogdet(precision)[1] - d * np.log(variance)
    )  # fmt: skip
    found = linear_regression.infinite_time_free_energy_drop(modes)
    np.testing.assert_allclose(found, temperature * divergence, rtol=1e-8, atol=1e-9)


@EXAMPLES
@given(problems())
def test_early_times_lose_no_digits(modes):
    """T -> 0: W2^2 -> T^2 <|v|^2> and beta^-1 R -> T <|v|^2>, so the inefficiency tends to 1."""
    velocity = linear_regression.mean_velocity_squared(modes, 0.0)
    time = 1e-9
    if velocity > 0:
        squared = linear_regression.wasserstein_squared(modes, time)
        np.testing.assert_allclose(squared, time**2 * velocity, rtol=1e-5)
        drop = linear_regression.free_energy_drop(modes, time)
        np.testing.assert_allclose(drop, time * velocity, rtol=1e-5)
        assert linear_regression.inefficiency(modes, time) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize(("temperature", "spreading"), [(0.5, 1), (0.5, 0), (0.0, 1)])
def test_limits_at_infinite_time(temperature, spreading):
    """Zero modes spread for ever: W2^2 ~ 2 temperature T, against a drop ~ temperature (ln T)/2."""
    modes = OrnsteinUhlenbeckModes(
        [2.0] + [0.0] * spreading, [1.0] + [0.0] * spreading, 0.1, temperature
    )
    late, never_ends = 1e14, spreading and temperature > 0
    for function, expected in (
        (linear_regression.speed_limit_time, np.inf if never_ends else None),
        (linear_regression.inefficiency, np.inf),
    ):
        near, limit = function(modes, [late, np.inf])
        assert limit == (expected or pytest.approx(near, rel=1e-9))
        assert near > 1e10 or limit < np.inf or function is linear_regression.inefficiency
        assert function(modes, np.inf) == limit
    growth = linear_regression.inefficiency(modes, [late, late**2])
    # as (ln T)/4 of both logarithms if something spreads for ever, else as T
    ratio = growth[1] / growth[0]
    assert ratio == pytest.approx(2.0, rel=0.2) if never_ends else ratio > 1e13


@EXAMPLES
@given(problems(), st.floats(0.05, 20.0))
def test_mean_loss_drop_is_a_difference_of_losses(modes, time):
    first, last = linear_regression.mean_excess_loss(modes, np.array([0.0, time]))
    drop = linear_regression.mean_loss_drop(modes, time)
    np.testing.assert_allclose(drop, first - last, rtol=1e-8, atol=1e-9 * (first + last))


def test_log_remainder_series_meets_the_logarithm():
    """The free-energy drop is smooth where the series gives way to the logarithm."""
    modes = OrnsteinUhlenbeckModes([0.7], [0.0], 1.0, 0.1)
    change = linear_regression.SERIES_BELOW
    time = -np.log1p(-change * 0.7 / (0.7 - 0.1)) / 1.4
    near = time * np.array([1 - 1e-9, 1 + 1e-9])
    drops = linear_regression.free_energy_drop(modes, near)
    np.testing.assert_allclose(drops[1] / drops[0], 1.0, rtol=1e-7)


def test_equilibrium_start_never_moves():
    modes = OrnsteinUhlenbeckModes([2.0, 2.0], [0.0, 0.0], 0.5, 1.0)
    assert linear_regression.wasserstein_squared(modes, 3.0) == 0
    assert linear_regression.free_energy_drop(modes, 3.0) == 0
    assert np.isnan(linear_regression.inefficiency(modes, 3.0))


def test_high_noise_shortens_the_speed_limit_time_and_learns_nothing():
    temperatures = 10.0 ** np.arange(0, 25, 6)
    times, losses = [], []
    for temperature in temperatures:
        modes = OrnsteinUhlenbeckModes([1.0, 0.3], [1.0, 1.0], 0.1, temperature)
        times.append(float(linear_regression.speed_limit_time(modes, 1.0)))
        losses.append(float(linear_regression.mean_loss_drop(modes, 1.0)))
        # leading order: W2^2 = temperature sum_k q_k against temperature ln(temperature)
        clock = -np.expm1(-2 * modes.eigenvalues) / modes.eigenvalues
        expected = clock.sum() / (
            0.5 * np.sum(np.log(temperature * clock / 0.1) - modes.eigenvalues * clock)
        )
    assert np.all(np.diff(times) < 0)
    assert losses[0] < 0 and losses[-1] < -1e20
    assert times[-1] == pytest.approx(expected, rel=1e-3)


def test_delta_function_start_at_a_temperature_has_no_speed_limit_time():
    modes = OrnsteinUhlenbeckModes([1.0, 0.0], [1.0, 0.0], 0.0, 0.5)
    assert linear_regression.free_energy_drop(modes, 1.0) == np.inf
    assert np.all(linear_regression.speed_limit_time(modes, [1.0, np.inf]) == 0)
    with pytest.raises(ValueError, match="start_variance"):
        linear_regression.path_length(modes, 1.0)


@EXAMPLES
@given(st.integers(1, 7), st.integers(1, 7), st.sampled_from([0.0, 0.3]), st.integers(0, 2**32 - 1))
def test_modes_of_data_give_the_loss_of_the_data(n, d, ridge, seed):
    generator = np.random.default_rng(seed)
    inputs, targets = generator.standard_normal((n, d)), generator.standard_normal(n)
    mean = generator.standard_normal(d)
    modes = linear_regression.modes_of_data(inputs, targets, mean, 0.0, 0.0, ridge)
    hessian = inputs.T @ inputs + ridge * np.eye(d)
    np.testing.assert_allclose(np.sort(modes.eigenvalues), np.linalg.eigvalsh(hessian), atol=1e-10)
    optimum = np.linalg.lstsq(hessian, inputs.T @ targets, rcond=1e-9)[0]

    def loss(theta):
        return 0.5 * np.sum((inputs @ theta - targets) ** 2) + 0.5 * ridge * theta @ theta

    np.testing.assert_allclose(
        linear_regression.mean_excess_loss(modes, 0.0), loss(mean) - loss(optimum), atol=1e-9
    )


def test_expected_displacements_average_over_teachers_and_noise():
    generator = np.random.default_rng(5)
    inputs = generator.standard_normal((6, 9)) / 3.0
    draws = 4000
    total = np.zeros(9)
    for _ in range(draws):
        targets = inputs @ (1.3 * generator.standard_normal(9))
        targets = targets + 0.5 * generator.standard_normal(6)
        modes = linear_regression.modes_of_data(inputs, targets, np.zeros(9), 0.1, 0.1, 0.2)
        total += modes.start_displacements_squared
    expected = linear_regression.expected_displacements_squared(
        modes.eigenvalues - 0.2, 1.3**2, 0.25, 0.2
    )
    # a squared Gaussian has the relative variance 2; 4.5 standard errors
    np.testing.assert_allclose(total / draws, expected, rtol=4.5 * np.sqrt(2 / draws), atol=1e-10)


@EXAMPLES
@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([0.0, 0.4]), st.integers(0, 2**32 - 1))
def test_expected_displacements_by_the_covariance_of_the_solution(n, d, ridge, seed):
    """m* = A y with y of covariance X X^T var(theta*) + var(noise): the diagonal of A C A^T."""
    generator = np.random.default_rng(seed)
    inputs, (teacher, noise, start) = generator.standard_normal((n, d)), generator.random(3)
    mu, basis = np.linalg.eigh(inputs.T @ inputs)
    mu = np.where(mu > 1e-9, mu, 0.0)
    solution = np.linalg.pinv(inputs.T @ inputs + ridge * np.eye(d), rcond=1e-9) @ inputs.T
    covariance = teacher * inputs @ inputs.T + noise * np.eye(n)
    covariance = solution @ covariance @ solution.T
    expected = np.diag(basis.T @ covariance @ basis) + start
    found = linear_regression.expected_displacements_squared(mu, teacher, noise, ridge, start)
    moving = mu + ridge > 0
    np.testing.assert_allclose(found[moving], expected[moving], rtol=1e-6, atol=1e-9)
    assert np.all(found[~moving] == 0)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (([1.0, 2.0], [1.0], 1.0, 1.0), "shape"),
        (([-1.0], [1.0], 1.0, 1.0), "negative"),
        (([1.0], [1.0], -1.0, 1.0), "start_variance"),
        (([1.0], [1.0], 1.0, np.inf), "temperature"),
    ],
)
def test_wrong_modes_are_refused_with_a_reason(arguments, word):
    with pytest.raises(ValueError, match=word):
        OrnsteinUhlenbeckModes(*arguments)
    with pytest.raises(ValueError, match="partition"):
        linear_regression.infinite_time_free_energy_drop(
            OrnsteinUhlenbeckModes([0.0], [1.0], 1.0, 1.0)
        )


@pytest.mark.parametrize(
    ("targets", "start", "message"),
    [
        (np.zeros((3, 1)), np.zeros(2), "targets has shape \\(3, 1\\)"),
        (np.zeros(3), np.zeros(3), "start_mean has shape \\(3,\\)"),
    ],
)
def test_data_whose_shapes_do_not_belong_together_are_refused(targets, start, message):
    with pytest.raises(ValueError, match=message):
        linear_regression.modes_of_data(np.ones((3, 2)), targets, start, 1.0, 0.1)
