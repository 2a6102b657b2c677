"""Simulated Langevin ensembles against the closed forms, within sampling error, and their bias."""

from __future__ import annotations

import numpy as np
import pytest

from speedlimits import langevin_linear, linear_regression, transport

D = 6
START_VARIANCE = 0.3
TIMES = np.array([0.0, 0.2, 1.5, 12.0])
STANDARD_ERRORS = 4.5  # some 40 comparisons, errors estimated from 16 groups
GROUPS = 16


def problem(n, seed=0):
    generator = np.random.default_rng(seed)
    data = langevin_linear.gaussian_data(
        n, D, teacher_variance=1.0, noise_variance=0.1, generator=generator
    )
    starts = langevin_linear.starts(np.full(D, 0.2), START_VARIANCE, 16_000, generator)
    return data, starts, generator


def closed_form(data, temperature, ridge=0.0):
    return linear_regression.modes_of_data(
        data.inputs, data.targets, np.full(D, 0.2), START_VARIANCE, temperature, ridge
    )


def assert_agreement(ensemble, modes, bias):
    """Each measured quantity is within its interval (and the stated bias) of the closed form."""
    measured = langevin_linear.interval_over_groups(
        ensemble,
        lambda part: langevin_linear.measured_quantities(part, modes.temperature),
        GROUPS,
    )
    expected = linear_regression.predict(modes, ensemble.times[1:])
    for name, (value, error) in measured.items():
        allowed = STANDARD_ERRORS * error + bias * np.abs(expected[name])
        assert np.all(np.abs(value - expected[name]) <= allowed), name


@pytest.mark.parametrize("n", [3, 12])
@pytest.mark.parametrize("temperature", [0.0, 0.05, 2.0])
def test_exact_sampler_agrees_with_the_closed_forms(n, temperature):
    data, starts, generator = problem(n)
    ensemble = langevin_linear.exact_ensemble(
        starts, data, TIMES, temperature=temperature, generator=generator
    )
    # the bias of the fitted covariances in W2^2, d (d + 1) / (4 R) of a variance: below 0.2 %
    assert_agreement(ensemble, closed_form(data, temperature), bias=2e-3)


@pytest.mark.parametrize(("temperature", "ridge"), [(0.4, 0.0), (0.4, 0.5)])
def test_euler_maruyama_agrees_within_its_bias(temperature, ridge):
    data, starts, generator = problem(12, seed=1)
    modes = closed_form(data, temperature, ridge)
    step = 0.02 / modes.eigenvalues.max()
    steps = np.array([0, 20, 300])
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
    assert_agreement(ensemble, modes, bias=0.03)  # step h_max / 2 = 0.01 in means and variances


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


def test_entropy_has_no_sampling_bias():
    """Mean over many samples of 12 points in 5 dimensions, where the plug-in is too low."""
    generator = np.random.default_rng(7)
    root = np.tril(generator.standard_normal((5, 5))) + 2 * np.eye(5)
    exact = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * root @ root.T)[1]
    values = [
        langevin_linear.gaussian_entropy(generator.standard_normal((12, 5)) @ root.T)
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
