"""Bounds from the distribution of starts against the linear case, where everything is known."""

import functools
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from speedlimits import langevin_ensembles as le
from speedlimits import langevin_linear, linear_regression
from speedlimits.dynamics import GradientDescent, LangevinDynamics
from speedlimits.gradient import TrainingLoss
from speedlimits.layers import start_variances
from speedlimits.networks import fully_connected, initialise_, parameter_ranges

DEPTH_1 = {"input_shape": (12,), "outputs": 2, "width": 1, "parameterisation": "ntk", "depth": 1}


@functools.cache
def regression():
    """Inputs (8, 12), targets (8, 2), scale of the layer; 2 x 12 weights see 2 x 8 modes."""
    generator = np.random.default_rng(3)
    inputs = generator.normal(size=(8, 12)) * np.logspace(0, -1, 12)
    return inputs, generator.normal(size=(8, 2)), 1 / np.sqrt(12)


def modes_of(temperature, start_variance=1.0):
    """All 24 modes: those of the two outputs, which do not interact."""
    inputs, targets, scale = regression()
    parts = [
        linear_regression.modes_of_data(
            scale * inputs, targets[:, c], np.zeros(12), start_variance, temperature
        )
        for c in range(2)
    ]
    names = ("eigenvalues", "start_displacements_squared")
    joined = [np.concatenate([getattr(p, name) for p in parts]) for name in names]
    return linear_regression.OrnsteinUhlenbeckModes(*joined, start_variance, temperature)


TIMES = np.geomspace(0.1, 3.0, 8)
BIAS = 0.05  # of the scheme: steps are this over lambda_1


@functools.cache
def ensemble(temperature, count=60):
    """Realisations of the depth-1 network through the evolution of a run: recorded numbers."""
    inputs, targets, scale = regression()
    step = BIAS / np.linalg.norm(scale * inputs, 2) ** 2
    found = []
    for r in range(count):
        network = fully_connected(**DEPTH_1).double()
        initialise_(network, torch.Generator().manual_seed(r))
        loss = TrainingLoss(network, torch.from_numpy(inputs), torch.from_numpy(targets))
        theta = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
        run = LangevinDynamics(loss.loss_and_gradient, theta, step, temperature, 1000 + r)
        layers, first, rows = list(parameter_ranges(network).values()), run.loss, []
        for time in TIMES:
            run.advance(time)
            products = run.layer_products(layers).numpy()
            row = {"drop": first - run.loss, "heat": run.heat, "time": run.time}
            row |= {"curvature": run.curvature_heat, "products": products}
            row |= {"integrals": run.layer_product_integrals(layers).numpy()}
            rows.append(row | {"weights": run.weights.numpy()})
        found.append({k: np.array([row[k] for row in rows]) for k in rows[0]})
    stacked = {k: np.stack([f[k] for f in found]) for k in found[0]}
    start = le.StartDistribution([24], list(start_variances(network).values()), True)
    times = stacked["time"][0]
    spans = np.diff(times, prepend=0.0)[:, None, None, None]
    means = np.diff(stacked["integrals"], axis=1, prepend=0.0) / spans
    return stacked | {"times": times, "means": means, "start": start, "step": step}


def trapezoids(values, first, axis=0):
    """Means over the time between neighbours of values that go along straight lines."""
    values = np.moveaxis(np.asarray(values), axis, 0)
    before = np.concatenate([np.broadcast_to(first, values[:1].shape), values[:-1]])
    return np.moveaxis(0.5 * (before + values), 0, axis)


def free_energy_drops(times, loss_drop, heat, moments, start, temperature, means=None, errors=0.0):
    """Both bounds; without means of the moments those of straight lines between the times."""
    means = trapezoids(moments, start.variances) if means is None else means
    information = le.information_integral(times, means, start, errors)
    gain = le.largest_entropy_gain(moments, start)
    return le.free_energy_drops(loss_drop, heat, information, gain, temperature)


def standard_error(values):
    return values.std(axis=0, ddof=1) / np.sqrt(len(values))


@pytest.mark.parametrize("temperature", [0.003, 0.03, 0.3])
def test_ensemble_of_a_linear_network_agrees_with_the_closed_forms(temperature):
    found = ensemble(temperature)
    modes, t = modes_of(temperature), found["times"]
    exact = linear_regression.predict(modes, t)
    h = modes.eigenvalues
    # weak order 1 of the step: relative share step * h / 2 per mode, largest for the stiffest
    bias = BIAS * np.abs(exact["mean_loss_drop"]) + BIAS * exact["mean_excess_loss"]
    error = 4.5 * standard_error(found["drop"]) + bias
    assert np.all(np.abs(found["drop"].mean(axis=0) - exact["mean_loss_drop"]) < error)
    np.testing.assert_allclose(found["heat"], found["drop"], atol=1e-9)  # midpoint: exact here
    curvature = temperature * h.sum() * t
    error = 4.5 * standard_error(found["curvature"])
    assert np.all(np.abs(found["curvature"].mean(axis=0) - curvature) < error)
    moment = le.second_moments(found["products"].mean(axis=0), found["start"])[:, 0]
    moved = modes.start_displacements_squared * np.expm1(-np.outer(t, h)) ** 2
    expected = (moved + linear_regression.variances(modes, t)).mean(axis=1)
    norms = np.sum(found["products"][..., 0, :2, :2], axis=(-1, -2)) / 24  # |theta_T|^2 / P
    error = 4.5 * standard_error(norms) + BIAS * (1 / 24 + np.abs(expected - 1))
    assert np.all(np.abs(moment - expected) < error)


@pytest.mark.parametrize("temperature", [0.003, 0.03, 0.3])
def test_bounds_enclose_the_closed_forms(temperature):
    found = ensemble(temperature)
    exact = linear_regression.predict(modes_of(temperature), found["times"])
    costs = le.transport_cost(found["products"], found["times"], found["start"], temperature)
    slack = 4.5 * standard_error(costs) + BIAS * costs.mean(axis=0)
    assert np.all(costs.mean(axis=0) > exact["wasserstein_squared"] - slack)
    least, most = free_energy_drops(
        found["times"],
        found["drop"].mean(axis=0),
        found["curvature"].mean(axis=0),
        le.second_moments(found["products"].mean(axis=0), found["start"]),
        found["start"],
        temperature,
        le.second_moments(found["means"].mean(axis=0), found["start"]),
    )
    noise = 4.5 * (standard_error(found["drop"]) + standard_error(found["curvature"]))
    noise += BIAS * np.abs(exact["mean_loss_drop"])
    drop = exact["free_energy_drop"]
    assert np.all(least < drop + noise) and np.all(most > drop - noise)
    early = found["times"] < 0.5  # before the stiff modes are in equilibrium
    assert np.all(np.abs(least - drop)[early] < (noise + 0.2 * drop)[early])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 10), st.integers(0, 30), st.floats(1e-4, 2.0), st.floats(0.05, 3.0),
    st.integers(0, 2**31),
)  # fmt: skip
def test_bounds_hold_for_random_spectra(count, free, temperature, start_variance, seed):
    """Bounds of the exact moments enclose the exact values, all modes in one layer."""
    generator = np.random.default_rng(seed)
    h = np.append(10.0 ** generator.uniform(-2, 0.5, count), np.zeros(free))
    a2 = generator.standard_normal(h.size) ** 2
    modes = linear_regression.OrnsteinUhlenbeckModes(h, a2, start_variance, temperature)
    times = np.linspace(0, 5, 3000)[1:]
    exact = linear_regression.predict(modes, times[-1:])
    s = linear_regression.variances(modes, times)
    # second moment about the start's mean, the origin
    moments = (a2 * np.expm1(-np.outer(times, h)) ** 2 + s).mean(axis=1)
    start = le.StartDistribution([h.size], [start_variance], True)
    least, most = free_energy_drops(
        times,
        linear_regression.mean_loss_drop(modes, times),
        temperature * h.sum() * times,
        moments[:, None],
        start,
        temperature,
    )
    drop = exact["free_energy_drop"][0]
    assert np.isnan(least[-1]) or least[-1] <= drop * (1 + 1e-4) + 1e-9
    assert most[-1] >= drop * (1 - 1e-9)
    # cost of the coupling, from the covariances of the Ornstein-Uhlenbeck process
    decay, time = np.exp(-h * times[-1]), times[-1]
    noise = 2 * temperature * np.where(h > 0, (1 - decay) / np.where(h > 0, h, 1), time)
    c = np.sqrt(start_variance / (start_variance + 2 * temperature * time))
    cost = np.sum(
        a2 * (1 - decay) ** 2 + s[-1] + start_variance - 2 * c * (decay * start_variance + noise)
    )
    assert cost >= exact["wasserstein_squared"][0] * (1 - 1e-9)


def test_free_diffusion_attains_all_bounds():
    """Without a loss the coupling is the optimal one and both entropy bounds are equalities."""
    generator, temperature, count = np.random.default_rng(0), 0.2, 4000
    start = le.StartDistribution([5, 7], [0.5, 2.0], True)
    theta = generator.normal(size=(count, 12)) * np.repeat(np.sqrt(start.variances), [5, 7])
    times = np.array([0.5, 1.5])
    kicks = (
        generator.normal(size=(count, 2, 12))
        * np.sqrt(2 * temperature * np.array([0.5, 1.0]))[:, None]
    )
    noise = kicks.cumsum(axis=1)
    vectors = np.stack([noise, np.broadcast_to(theta[:, None], noise.shape), noise], axis=2)
    parts = [vectors[..., :5], vectors[..., 5:]]
    products = np.stack([np.einsum("rmid,rmjd->rmij", p, p) for p in parts], axis=2)
    cost = le.transport_cost(products, times, start, temperature)
    end = start.variances + 2 * temperature * times[:, None]
    exact = np.sum(start.sizes * (np.sqrt(end) - np.sqrt(start.variances)) ** 2, axis=1)
    assert np.all(np.abs(cost.mean(axis=0) - exact) < 4.5 * standard_error(cost))
    gain = 0.5 * np.sum(start.sizes * np.log(end / start.variances), axis=1)
    zero = np.zeros(2)
    least, most = free_energy_drops(times, zero, zero, end, start, temperature)
    assert np.all((least > 0.97 * temperature * gain) & (least < temperature * gain))
    np.testing.assert_allclose(most, temperature * gain, rtol=1e-12)
    moments = le.second_moments(products.mean(axis=0), start)
    measured = free_energy_drops(times, zero, zero, moments, start, temperature)
    np.testing.assert_allclose(measured[0], temperature * gain, rtol=0.05)
    often = np.linspace(0, 1.5, 1001)[1:]
    end = start.variances + 2 * temperature * often[:, None]
    zero = np.zeros(1000)
    least, most = free_energy_drops(often, zero, zero, end, start, temperature)
    np.testing.assert_allclose(least, most, rtol=1e-6)


def test_rescaled_noisy_start_has_the_law_of_the_start():
    """What makes the cost an upper bound of W2^2: c (theta_0 + B) ~ N(0, s)."""
    generator, s, diffused = np.random.default_rng(1), 0.7, 1.9
    theta, noise = (generator.normal(size=200_000) * np.sqrt(v) for v in (s, diffused))
    other = np.sqrt(s / (s + diffused)) * (theta + noise)
    assert other.var() == pytest.approx(s, rel=0.015)
    # the cost is |theta_T - other|^2, here with theta_T = theta + noise
    vectors = np.stack([noise, theta, noise])
    products = (vectors @ vectors.T)[None, None]
    start = le.StartDistribution([theta.size], [s], True)
    cost = le.transport_cost(products, [1.0], start, diffused / 2)[0]
    assert cost == pytest.approx(np.sum((theta + noise - other) ** 2), rel=1e-9)


def test_uniform_start_is_coupled_with_its_own_end_and_has_less_entropy():
    start = le.StartDistribution([6], [1 / 3], False)
    products = np.random.default_rng(2).normal(size=(4, 3, 1, 3, 3))
    cost = le.transport_cost(products, [1.0, 2.0, 3.0], start, 0.5)
    np.testing.assert_array_equal(cost, products[..., 0, 0, 0])
    # uniform on [-1, 1]: entropy ln 2 per weight
    gaussian = 0.5 * np.log(2 * np.pi * np.e / 3)
    gain = le.largest_entropy_gain(start.variances, start)
    assert gain == pytest.approx(6 * (gaussian - np.log(2)))
    raised = le.largest_entropy_gain(start.variances, start, [0.1])
    assert raised - gain == pytest.approx(3 * np.log(1.2))


@given(st.lists(st.floats(0.05, 3.0), min_size=5, max_size=5), st.floats(0.1, 5.0))
def test_information_integral_is_a_bound_however_moments_go_between_the_times(powers, rate):
    """One that rises and saturates, whose chord is below it, among them."""
    start = le.StartDistribution([3.0, 4.0], [1.0, 2.0], True)
    times = np.cumsum(powers)
    parts = [lambda t: 2.0 - np.exp(-rate * t), lambda t: 2.0 + 10 * np.sin(rate * t) ** 2]
    edges = np.append(0.0, times)
    means, exact = np.empty((5, 2)), 0.0
    for k, (a, b) in enumerate(itertools.pairwise(edges)):
        means[k] = [quad(part, a, b, limit=200)[0] / (b - a) for part in parts]
    found = le.information_integral(times, means, start)
    for k, (a, b) in enumerate(itertools.pairwise(edges)):
        inverse = [quad(lambda t, f=part: 1 / f(t), a, b, limit=200)[0] for part in parts]
        exact += start.sizes @ inverse
        assert found[k] <= exact * (1 + 1e-7)
    flat = le.information_integral(times, np.broadcast_to(start.variances, (5, 2)), start)
    np.testing.assert_allclose(flat, 5.0 * times)


@pytest.mark.parametrize("first", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("warmth", [1e-3, 0.5, 30.0, 1e3])
def test_the_least_drop_of_the_free_energy_is_that_with_records_at_any_times(first, warmth):
    """A mode from N(0, 1) whose steps are far finer than its records: q saturates between them."""
    count, step = 4000, 0.01
    theta = np.random.default_rng(8).normal(size=count)
    run = LangevinDynamics(
        lambda t: (0.5 * t.square().sum().item(), t), torch.from_numpy(theta), step, warmth, 9
    )
    start, times, integrals = le.StartDistribution([count], [1.0], True), [0.0], []
    for time in first * np.geomspace(1, 8, 4):
        run.advance(time)
        times.append(run.time)
        integrals.append(run.layer_product_integrals([(0, count)]).numpy())
    spans, times = np.diff(times), np.array(times[1:])
    products = np.diff(np.stack(integrals), axis=0, prepend=0.0) / spans[:, None, None, None]
    means = le.second_moments(products, start)
    modes = linear_regression.OrnsteinUhlenbeckModes([1.0], [0.0], 1.0, warmth)
    least, most = free_energy_drops(
        times,
        count * linear_regression.mean_loss_drop(modes, times),
        warmth * count * times,
        linear_regression.variances(modes, times),
        start,
        warmth,
        means,
        le.moment_errors(products, means, start, 1),
    )
    exact = count * linear_regression.free_energy_drop(modes, times)
    assert not np.any(least > 1.01 * exact), (least, exact)  # the step's bias of q is 0.5 %
    np.testing.assert_allclose(most, exact, rtol=1e-9)


def test_integrals_of_products_are_those_of_the_steps():
    run = LangevinDynamics(
        lambda t: (0.5 * t.square().sum().item(), t), torch.ones(5).double(), 0.1, 0.3, 4
    )
    layers, products = [(0, 2), (2, 5)], []
    for k in range(8):
        run.advance(0.1 * k)
        products.append(run.layer_products(layers)[:, :2, :2].numpy())
        sums = np.trapezoid(products, dx=0.1, axis=0)
        np.testing.assert_allclose(run.layer_product_integrals(layers).numpy(), sums, atol=1e-14)


def test_moments_known_worse_than_by_half_inform_of_nothing():
    """Twice an error of more than a half takes a layer's part off, and nothing of the others'."""
    start, times = le.StartDistribution([3.0, 4.0], [1.0, 2.0], True), np.array([0.5, 2.0])
    moments = np.broadcast_to(start.variances, (2, 2))
    found = le.information_integral(times, moments, start, np.array([0.7, 0.0]))
    np.testing.assert_allclose(found, 4.0 / 2.0 * times)


def test_a_time_without_moments_leaves_the_bounds_of_others():
    """The free energy never grows: what it had dropped by before holds later too."""
    start, times = le.StartDistribution([4.0], [1.0], True), np.array([1.0, 2.0, 3.0])
    moments = np.array([2.0, np.nan, 4.0])[:, None]
    least, most = free_energy_drops(times, np.ones(3), np.zeros(3), moments, start, 0.1)
    assert np.isnan(least).tolist() == np.isnan(most).tolist() == [False, True, False]
    assert least[2] == least[0]
    assert most[2] == pytest.approx(1 + 0.1 * 2 * np.log(4))


def test_a_lower_bound_below_zero_says_nothing():
    """The heat of the curvature may be more than what the loss and the entropy drop by."""
    start = le.StartDistribution([4.0], [1.0], True)
    arguments = [1.0, 2.0], np.array([1.0, 9.0]), np.full(2, 5.0), np.ones((2, 1)), start, 0.1
    least, most = free_energy_drops(*arguments)
    assert np.isnan(least).tolist() == [True, False]
    np.testing.assert_allclose(least[1], 9 - 5 + 0.01 * 4 * 2)
    np.testing.assert_allclose(most, [1.0, 9.0])


@pytest.mark.parametrize(
    ("sizes", "variances", "words"),
    [
        ([3, 4], [1.0], "variances has shape"),
        ([3], [0.0], "variances holds 0.0"),
        ([3], [np.inf], "must be positive"),
        ([0], [1.0], "sizes holds 0.0"),
        ([[3]], [[1.0]], "sizes has shape"),
    ],
)
def test_layers_without_weights_or_variance_have_no_distribution(sizes, variances, words):
    with pytest.raises(ValueError, match=words):
        le.StartDistribution(sizes, variances, True)


def test_temperature_zero_is_gradient_flow():
    found = ensemble(0.0, 2)
    cost = le.transport_cost(found["products"], found["times"], found["start"], 0.0)
    np.testing.assert_array_equal(cost, found["products"][:, :, 0, 0, 0])
    drop = found["drop"].mean(axis=0)
    moments = le.second_moments(found["products"].mean(axis=0), found["start"])
    least, most = free_energy_drops(found["times"], drop, np.zeros(8), moments, found["start"], 0.0)
    np.testing.assert_array_equal(least, drop)
    np.testing.assert_array_equal(most, drop)
    assert np.all(found["curvature"] == 0)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.floats(0.0, 1.0), st.floats(0.1, 2.0), st.integers(0, 2**31))
def test_linearised_network_is_linear_regression(count, temperature, start_variance, seed):
    generator = np.random.default_rng(seed)
    h = 10.0 ** generator.uniform(-3, 1, count)
    a2 = generator.standard_normal(count) ** 2
    times = np.geomspace(1e-2, 1e2, 7)
    modes = linear_regression.OrnsteinUhlenbeckModes(
        np.append(h, 0.0),
        np.append(a2, 0.0),
        start_variance,
        temperature,
        np.append(np.ones(count), 5.0),
    )
    found = le.linearised(
        h,
        h * (a2 + start_variance),  # <Delta_k^2> over starts
        times,
        weights=count + 5,
        start_variance=start_variance,
        temperature=temperature,
    )
    for name, exact in (
        ("wasserstein_squared", linear_regression.wasserstein_squared(modes, times)),
        ("free_energy_drop", linear_regression.free_energy_drop(modes, times)),
        ("loss_drop", linear_regression.mean_loss_drop(modes, times)),
    ):
        np.testing.assert_allclose(found[name], exact, rtol=1e-7, atol=1e-9)


def test_bias_of_the_step_is_of_first_order_and_that_of_the_recursion():
    """Mean and variance of a mode at a fixed time against the exact ones: slope 1 in the step."""
    h, temperature, time, s_0 = 1.0, 0.4, 2.0, 0.1
    modes = linear_regression.OrnsteinUhlenbeckModes([h], [0.0], s_0, temperature)
    exact = linear_regression.variances(modes, time)[0]
    start = torch.full((200_000,), 0.0, dtype=torch.float64)
    start += np.sqrt(s_0) * torch.randn(start.shape, generator=torch.Generator().manual_seed(1),
                                        dtype=torch.float64)  # fmt: skip
    steps, errors = np.array([0.5, 0.25, 0.125, 0.0625]), []
    for step in steps:
        run = LangevinDynamics(
            lambda theta: (0.5 * h * theta.square().sum().item(), h * theta),
            start, step, temperature, seed=7,
        )  # fmt: skip
        run.advance(time)
        variance, expected = run.weights.var().item(), s_0
        for _ in range(run.steps):
            expected = (1 - step * h) ** 2 * expected + 2 * step * temperature
        assert variance == pytest.approx(expected, rel=4.5 * np.sqrt(2 / start.numel()))
        errors.append(variance - exact)
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(1.0, abs=0.25)


def test_gradient_descent_at_temperature_zero_on_a_network():
    inputs, targets, _ = regression()
    network = fully_connected(**{**DEPTH_1, "width": 7, "depth": 3})
    initialise_(network, torch.Generator().manual_seed(5))
    loss = TrainingLoss(network, torch.from_numpy(inputs).float(),
                        torch.from_numpy(targets).float())  # fmt: skip
    theta = torch.nn.utils.parameters_to_vector(network.parameters()).detach().double()
    descent = GradientDescent(loss.loss_and_gradient, theta, 0.01)
    langevin = LangevinDynamics(loss.loss_and_gradient, theta, 0.01, 0.0, 3)
    for run in (descent, langevin):
        run.advance(1.0)
    assert torch.equal(descent.weights, langevin.weights)
    for name in ("loss", "path_length", "action", "time", "gradients"):
        assert getattr(descent, name) == getattr(langevin, name), name


def test_entropy_of_the_trajectories_agrees_with_the_wishart_estimator():
    """In few dimensions: heat + entropy of fitted Gaussians lies between both bounds."""
    generator, temperature, count, d = np.random.default_rng(4), 0.05, 1500, 3
    data = langevin_linear.gaussian_data(
        6, d, teacher_variance=1.0, noise_variance=0.1, generator=generator
    )
    theta = langevin_linear.starts(np.zeros(d), 1.0, count, generator)
    ends = langevin_linear.exact_ensemble(
        theta, data, [0.0, 0.2], temperature=temperature, generator=generator
    )
    produced = langevin_linear.entropy_production(ends, temperature)[-1]
    modes = linear_regression.modes_of_data(
        data.inputs, data.targets, np.zeros(d), 1.0, temperature
    )
    times = np.linspace(0, 0.2, 400)[1:]
    h = modes.eigenvalues
    s = linear_regression.variances(modes, times)
    moved = modes.start_displacements_squared * np.expm1(-np.outer(times, h)) ** 2
    least, most = free_energy_drops(
        times,
        linear_regression.mean_loss_drop(modes, times),
        temperature * h.sum() * times,
        (moved + s).mean(axis=1)[:, None],
        le.StartDistribution([d], [1.0], True),
        temperature,
    )
    error = 4.5 * ends.heat[-1].std(ddof=1) / np.sqrt(count) + temperature * 0.1
    assert least[-1] - error < produced < most[-1] + error
    exact = linear_regression.free_energy_drop(modes, 0.2)
    assert least[-1] <= exact <= most[-1]
    assert least[-1] == pytest.approx(exact, rel=0.02)


def shrinking_layer(weights, runs, warmth, trials, times):
    """Inner products of many small ensembles of one layer, modes h = 1 from N(0, 1) at warmth."""
    generator = np.random.default_rng(weights + runs)
    theta_0 = generator.normal(size=(trials, runs, weights))
    theta, before, found = theta_0, 0.0, []
    for time in times:
        kept = np.exp(before - time)
        kick = np.sqrt(warmth * (1 - kept**2)) * generator.normal(size=theta.shape)
        theta, before = kept * theta + kick, time
        vectors = np.stack([theta - theta_0, theta_0], axis=2)
        found.append(np.einsum("nrip,nrjp->nij", vectors, vectors) / runs)
    return np.stack(found, axis=1)[:, :, None]


@pytest.mark.parametrize(("weights", "runs"), [(40, 1), (10, 4), (40, 5)])
@pytest.mark.parametrize("warmth", [0.01, 0.1])
def test_few_weights_that_have_forgotten_their_start_do_not_break_the_bounds(weights, runs, warmth):
    """s + <|theta_T|^2 - |theta_0|^2> / P would: its error stays that of the start.

    Then it is negative in many ensembles, and its inverse puts the lower bound far too high.
    """
    times, trials = np.geomspace(0.05, 20.0, 60), 400
    products = shrinking_layer(weights, runs, warmth, trials, times)
    start = le.StartDistribution([weights], [1.0], True)
    moments = le.second_moments(products, start)
    errors = le.moment_errors(products, moments, start, runs)
    exact = warmth + (1 - warmth) * np.exp(-2 * times)
    scatter = moments[..., 0].std(axis=0) / exact
    tolerance = 4.5 / np.sqrt(trials)
    np.testing.assert_array_less(
        np.abs(moments[..., 0].mean(axis=0) / exact - 1), tolerance * scatter
    )
    late = times > 0.5
    np.testing.assert_allclose(scatter[late], errors[:, late, 0].mean(axis=0), rtol=0.25)
    drop = weights * (1 - exact) / 2
    begun = np.einsum("nij,ij->nij", products[:, 0, 0], np.diag([0.0, 1.0]))  # u = 0
    mean_products = trapezoids(products, begun[:, None], axis=1)
    means = le.second_moments(mean_products, start)
    errors = le.moment_errors(mean_products, means, start, runs)
    known = times, drop, warmth * weights * times, moments, start, warmth, means
    least, most = free_energy_drops(*known, errors)
    true = drop[-1] + warmth * weights / 2 * np.log(exact[-1])
    assert np.mean(least[:, -1] > 1.05 * true) < 0.02
    assert np.median(least[:, -1]) > 0.9 * true
    assert abs(np.mean(most[:, -1]) - true) < 0.05 * true
    without = free_energy_drops(*known)[0]
    assert np.all(least <= without * (1 + 1e-12))


@pytest.mark.parametrize(("weights", "runs"), [(40, 1), (40, 3), (600, 1)])
@pytest.mark.parametrize("warmth", [0.1, 1.0, 10.0])
def test_the_most_that_the_entropy_has_grown_is_above_the_truth(weights, runs, warmth):
    """Without the errors of the moments it is below, early, in up to half of all ensembles."""
    times = np.geomspace(0.02, 2.0, 12)
    products = shrinking_layer(weights, runs, warmth, 400, times)
    start = le.StartDistribution([weights], [1.0], True)
    moments = le.second_moments(products, start)
    errors = le.moment_errors(products, moments, start, runs)
    exact = weights / 2 * np.log(warmth + (1 - warmth) * np.exp(-2 * times))
    below = np.mean(le.largest_entropy_gain(moments, start, errors) < exact, axis=0)
    assert np.all(below < 0.1), below  # 0.023 of a Gaussian sample; few weights are skewed
    assert np.max(np.mean(le.largest_entropy_gain(moments, start) < exact, axis=0)) > 0.4


def test_moments_of_a_stretched_layer_are_exact():
    """theta_T = g theta_0: q = g^2 s whatever the sample, with no error."""
    start = le.StartDistribution([5], [0.7], True)
    theta_0 = np.random.default_rng(0).normal(size=5)
    for factor in (1e-3, 1.0 + 1e-9, 2.0):
        vectors = np.stack([(factor - 1) * theta_0, theta_0])
        products = (vectors @ vectors.T)[None]
        moments = le.second_moments(products, start)
        assert moments[0] == pytest.approx(0.7 * factor**2, rel=1e-9)
        assert le.moment_errors(products, moments, start, 1)[0] < 1e-6


def test_rounding_beyond_the_rank_of_a_kernel_is_no_mode():
    known = {"weights": 2, "start_variance": 1.0, "temperature": 0.1}
    exact = le.linearised([2.0, 0.5], [1.0, 1.0], [1.0], **known)
    found = le.linearised([1e-7, 2.0, 0.5], [1e-3, 1.0, 1.0], [1.0], **known)
    for name, value in exact.items():
        assert found[name] == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.0, 0.3])
def test_the_mean_over_starts_of_the_linearised_network_is_exact(temperature):
    """W2^2 and free energy are linear in Delta_k^2, of which one start alone may have too few."""
    generator, h, count = np.random.default_rng(5), np.array([1.0, 0.2]), 20_000
    times, a = np.array([0.5, 3.0, 30.0]), np.array([0.3, 0.1])
    projections = h * (a + generator.normal(size=(count, 2))) ** 2
    known = {"weights": 3, "start_variance": 1.0, "temperature": temperature}
    found = [le.linearised(h, p, times, **known) for p in projections]
    modes = linear_regression.OrnsteinUhlenbeckModes(
        np.append(h, 0.0), np.append(a**2, 0.0), 1.0, temperature
    )
    exact = linear_regression.wasserstein_squared(modes, times)
    each = np.stack([f["wasserstein_squared"] for f in found])
    assert np.isfinite(each).all()
    assert np.any(each < 0) == (temperature > 0)
    if temperature == 0:  # the sum of gradient flow, start by start
        cold = le.linearised([1, 1], [0.1, 0.1], [1, 3, 10], **known | {"weights": 2})
        flow = 0.2 * (1 - np.exp(-np.array([1, 3, 10]))) ** 2
        np.testing.assert_allclose(cold["wasserstein_squared"], flow, rtol=1e-12)
    assert np.all(np.abs(each.mean(axis=0) - exact) < 4.5 * standard_error(each))
