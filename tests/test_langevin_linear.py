"""Simulated Langevin ensembles against the closed forms, within sampling error, and their bias."""

from __future__ import annotations

import numpy as np
import pytest
import theory_linear_regression
from scipy.stats import binom, multivariate_normal

from speedlimits import langevin_linear, linear_regression, transport

D = 6
START_VARIANCE = 0.3
TIMES = np.array([0.0, 0.2, 1.5, 12.0])
STANDARD_ERRORS = 5.5  # Student with 15 degrees of freedom, some 300 comparisons: 6e-5 each
GROUPS = 16


def problem(n, seed=0):
    generator = np.random.default_rng(seed)
    data = langevin_linear.gaussian_data(
        n, D, teacher_variance=1.0, noise_variance=0.1, generator=generator
    )
    starts = langevin_linear.starts(np.full(D, 0.2), START_VARIANCE, 8000, generator)
    return data, starts, generator


def closed_form(data, temperature, ridge=0.0):
    return linear_regression.modes_of_data(
        data.inputs, data.targets, np.full(D, 0.2), START_VARIANCE, temperature, ridge
    )


def assert_agreement(ensemble, expected, temperature):
    """Each measured quantity is within its sampling error of the closed form."""
    measured = langevin_linear.interval_over_groups(
        ensemble,
        lambda part: langevin_linear.measured_quantities(part, temperature),
        GROUPS,
    )
    for name, (value, error) in measured.items():
        assert np.all(np.abs(value - expected[name]) <= STANDARD_ERRORS * error), name


@pytest.mark.parametrize("n", [3, 12])
@pytest.mark.parametrize("temperature", [0.0, 0.05, 2.0])
def test_exact_sampler_agrees_with_the_closed_forms(n, temperature):
    data, starts, generator = problem(n)
    ensemble = langevin_linear.exact_ensemble(
        starts, data, TIMES, temperature=temperature, generator=generator
    )
    expected = linear_regression.predict(closed_form(data, temperature), TIMES[1:])
    assert_agreement(ensemble, expected, temperature)


@pytest.mark.parametrize("n", [3, 12])
@pytest.mark.parametrize(("temperature", "ridge"), [(0.0, 0.0), (0.4, 0.0), (0.4, 0.5)])
def test_euler_maruyama_agrees_with_its_chain_at_a_coarse_step(n, temperature, ridge):
    """At step h_max = 0.5 the continuum is tens of percent away: only the chain's form agrees."""
    data, starts, generator = problem(n, seed=1)
    modes = closed_form(data, temperature, ridge)
    step = 0.5 / modes.eigenvalues.max()
    steps = np.array([0, 1, 2, 5, 60])
    ensemble = langevin_linear.euler_maruyama(
        starts,
        data,
        step=step,
        snapshot_steps=steps,
        temperature=temperature,
        generator=generator,
        ridge=ridge,
    )
    np.testing.assert_allclose(ensemble.times, step * steps)
    chain = linear_regression.predict_discretised(modes, step, steps[1:])
    assert_agreement(ensemble, chain, temperature)
    continuum = linear_regression.predict(modes, ensemble.times[1:])
    with pytest.raises(AssertionError):
        assert_agreement(ensemble, continuum, temperature)


REPLICATIONS = 200


@pytest.mark.parametrize(("n", "temperature"), [(2, 0.2), (4, 0.0), (4, 1.5)])
def test_intervals_cover_the_chain_as_often_as_they_say(n, temperature):
    """Coverage of nominal 95 % intervals over many seeds, and no bias of the mean over them.

    Early (where the distance is small against the spread) and late, below and above interpolation;
    many intervals miss the continuum at the coarse step of this test.
    """
    d, variance, groups, steps = 3, 0.3, 12, np.array([0, 2, 20])
    generator = np.random.default_rng(n)
    data = langevin_linear.gaussian_data(
        n, d, teacher_variance=1.0, noise_variance=0.1, generator=generator
    )
    mean = np.full(d, 0.2)
    modes = linear_regression.modes_of_data(data.inputs, data.targets, mean, variance, temperature)
    step = 0.4 / modes.eigenvalues.max()
    _, basis = np.linalg.eigh(data.inputs.T @ data.inputs)

    def measure(part):
        modes = part.weights @ basis
        assigned = transport.componentwise_wasserstein_squared
        squared = np.array([assigned(modes[0], last) for last in modes[1:]])
        found = langevin_linear.measured_quantities(part, temperature)
        return found | {"wasserstein_squared_assignment": squared}

    chain = linear_regression.predict_discretised(modes, step, steps[1:])
    continuum = linear_regression.predict(modes, step * steps[1:])
    for closed_form in (chain, continuum):
        closed_form["wasserstein_squared_assignment"] = closed_form["wasserstein_squared"]
    results = {name: [] for name in chain if name != "time"}
    for seed in range(REPLICATIONS):
        generator = np.random.default_rng([seed, n])
        ensemble = langevin_linear.euler_maruyama(
            langevin_linear.starts(mean, variance, 360, generator),
            data,
            step=step,
            snapshot_steps=steps,
            temperature=temperature,
            generator=generator,
        )
        for name, found in langevin_linear.interval_over_groups(ensemble, measure, groups).items():
            results[name].append(found)
    assert all(results.values())
    # 99.9 % of what REPLICATIONS intervals of 95 % cover; a bias of a tenth of an error is allowed
    least, most = binom.ppf([5e-4, 1 - 5e-4], REPLICATIONS, 0.95)
    factor, missed = langevin_linear.interval_factor(groups, 0.95), []
    for name, found in results.items():
        value, error = np.moveaxis(np.array(found), 1, 0)
        covered = np.sum(np.abs(value - chain[name]) <= factor * error, axis=0)
        assert np.all((covered >= least) & (covered <= most)), (name, covered)
        deviation = value.std(axis=0)
        allowed = (4.0 / np.sqrt(REPLICATIONS) + 0.1) * deviation
        assert np.all(np.abs(value.mean(axis=0) - chain[name]) < allowed), name
        np.testing.assert_allclose(np.sqrt(np.mean(error**2, axis=0)), deviation, rtol=0.25)
        missed.append(np.abs(value - continuum[name]) > factor * error)
    assert np.mean(np.array(missed)[:, :, 0]) > 0.15  # the early times


def test_interval_factor_is_the_quantile_of_students_t():
    """Means of 8 Gaussians over their estimated error: 95 % within 2.36, not within 1.96."""
    assert langevin_linear.interval_factor(8, 0.95) == pytest.approx(2.3646, abs=1e-4)
    assert langevin_linear.interval_factor(10**6, 0.95) == pytest.approx(1.96, abs=1e-3)
    draws = np.random.default_rng(3).standard_normal((100_000, 8))
    ratio = np.abs(draws.mean(axis=1)) / (draws.std(axis=1, ddof=1) / np.sqrt(8))
    covered = np.mean(ratio <= langevin_linear.interval_factor(8, 0.95))
    assert covered == pytest.approx(0.95, abs=4 * np.sqrt(0.05 * 0.95 / 100_000))
    assert np.mean(ratio <= 1.96) < 0.92


def test_heat_along_trajectories_is_the_energy_difference():
    data, starts, generator = problem(12, seed=2)
    ensemble = langevin_linear.euler_maruyama(
        starts[:50],
        data,
        step=0.05,
        snapshot_steps=[0, 7, 40],
        temperature=0.7,
        generator=generator,
        ridge=0.2,
    )
    energies = langevin_linear.energy(ensemble.weights, data, 0.2)
    np.testing.assert_allclose(ensemble.heat, energies[0] - energies, atol=1e-9)


def test_bias_of_euler_maruyama_in_the_stationary_variance():
    """temperature / (h (1 - step h / 2)) with step h up to 1, where the bias is a factor 2."""
    generator = np.random.default_rng(4)
    data = langevin_linear.RegressionData(np.diag([1.0, 0.5]), np.zeros(2), np.zeros(2))
    step, temperature, count = 1.0, 0.5, 40_000
    ensemble = langevin_linear.euler_maruyama(
        np.zeros((count, 2)),
        data,
        step=step,
        snapshot_steps=[120],
        temperature=temperature,
        generator=generator,
    )
    h = np.array([1.0, 0.25])
    expected = temperature / (h * (1 - step * h / 2))
    np.testing.assert_allclose(
        ensemble.weights[0].var(axis=0), expected, rtol=4.5 * np.sqrt(2 / count)
    )


def test_exact_sampler_keeps_equilibrium_and_composes():
    """Two half steps have the moments of one, and the equilibrium variance is temperature / h."""
    data = langevin_linear.RegressionData(np.diag([2.0, 1.0]), np.array([1.0, -1.0]), np.zeros(2))
    for times in ([8.0], [0.5, 1.0, 8.0]):
        ensemble = langevin_linear.exact_ensemble(
            np.zeros((30_000, 2)),
            data,
            times,
            temperature=0.3,
            generator=np.random.default_rng(6),
        )
        last = ensemble.weights[-1]
        np.testing.assert_allclose(last.var(axis=0), [0.3 / 4, 0.3], rtol=0.04)
        np.testing.assert_allclose(last.mean(axis=0), [0.5, -1.0], atol=0.015)


@pytest.mark.parametrize(("count", "d"), [(12, 5), (4, 1), (30, 12)])
def test_entropy_has_no_sampling_bias(count, d):
    """Mean over many samples of few points, where the plug-in is too low; SciPy's exact entropy."""
    generator = np.random.default_rng(7)
    root = np.tril(generator.standard_normal((d, d))) + 2 * np.eye(d)
    exact = multivariate_normal(cov=root @ root.T).entropy()
    values = [
        langevin_linear.gaussian_entropy(generator.standard_normal((count, d)) @ root.T)
        for _ in range(4000)
    ]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values) - exact) < 4 * error


def test_data_have_the_stated_moments():
    generator = np.random.default_rng(8)
    data = langevin_linear.gaussian_data(
        4000, 25, teacher_variance=2.0, noise_variance=0.5, generator=generator
    )
    assert np.sum(data.inputs**2) / 4000 == pytest.approx(1.0, rel=0.03)
    residue = data.targets - data.inputs @ data.teacher
    assert residue.var() == pytest.approx(0.5, rel=0.1)


def test_wrong_arguments_are_refused_with_a_reason():
    data, starts, generator = problem(4)
    with pytest.raises(ValueError, match="stable steps"):
        langevin_linear.euler_maruyama(
            starts, data, step=1e3, snapshot_steps=[1], temperature=0.1, generator=generator
        )
    with pytest.raises(ValueError, match="realisations"):
        langevin_linear.gaussian_entropy(np.zeros((3, 3)))
    ensemble = langevin_linear.exact_ensemble(
        starts, data, TIMES, temperature=0.1, generator=generator
    )
    with pytest.raises(ValueError, match="groups"):
        langevin_linear.interval_over_groups(ensemble, lambda part: {}, 1)


def test_jackknife_over_groups_removes_the_bias_of_order_one_over_r():
    """The plug-in variance with denominator R has the bias -1/R; its interval is right in size."""
    values = []
    for seed in range(300):
        generator = np.random.default_rng(seed)
        ensemble = langevin_linear.LangevinEnsemble(
            np.zeros(1), generator.standard_normal((1, 24, 1)), np.zeros((1, 24))
        )
        found = langevin_linear.interval_over_groups(
            ensemble, lambda part: {"variance": part.weights.var(axis=1)[0]}, 4
        )
        values.append(np.concatenate(found["variance"]))
    value, error = np.transpose(values)
    deviation = value.std()
    assert abs(value.mean() - 1.0) < 4 * deviation / np.sqrt(300)
    assert np.sqrt(np.mean(error**2)) == pytest.approx(deviation, rel=0.2)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_assignment_per_mode_gives_the_distance_of_the_closed_form(temperature):
    """No Gaussian fit: the modes are independent, so their one-dimensional assignments add up."""
    data, starts, generator = problem(12, seed=9)
    ensemble = langevin_linear.exact_ensemble(
        starts, data, [0.0, 1.5], temperature=temperature, generator=generator
    )
    _, basis = np.linalg.eigh(data.inputs.T @ data.inputs)
    first, last = ensemble.weights @ basis
    expected = float(linear_regression.wasserstein_squared(closed_form(data, temperature), 1.5))
    measured = transport.componentwise_wasserstein_squared(first, last)
    assert measured == pytest.approx(expected, rel=0.04)


def test_simulated_times_end_with_the_closed_forms():
    """Also where a step by the largest eigenvalue would be longer than all of them: one is it."""
    data = langevin_linear.gaussian_data(
        8, 4, teacher_variance=1.0, noise_variance=0.1, generator=np.random.default_rng(0)
    )
    settings = {"step": 0.02, "first_simulated_time": 1e-6, "final_time": 1e-5, "groups": 4}
    settings |= {"simulated_times": 3, "start_variance": 0.1, "realisations": 40, "confidence": 0.9}
    shares = []
    found = theory_linear_regression.simulated(data, 0.1, settings, 1, shares.append)
    np.testing.assert_allclose(found["time"], [1e-5])
    largest = np.linalg.eigvalsh(data.inputs.T @ data.inputs)[-1]
    np.testing.assert_allclose(found["step"], 1e-5 * largest)
    longer = theory_linear_regression.simulated(
        data, 0.1, settings | {"final_time": 1.0}, 1, shares.append
    )
    np.testing.assert_allclose(longer["step"], 0.02)
    assert longer["time"].iloc[-1] == pytest.approx(1.0, abs=0.02 / largest)
    assert shares[0] == 0.0 and shares[-1] == 1.0
