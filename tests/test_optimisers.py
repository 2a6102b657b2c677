"""Optimisers against torch's, their energy balances and bounds, and resumption."""

import itertools

import numpy as np
import pytest
import torch

from pipeline.runs import stability_factor
from speedlimits.dynamics import DivergenceError, GradientDescent
from speedlimits.optimisers import (
    Adam,
    HeavyBall,
    MinibatchDescent,
    Nesterov,
    preconditioned_length_squared,
)

EIGENVALUES = torch.tensor([1.0, 0.3, 0.05], dtype=torch.float64)
START = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)


def quadratic(theta):
    return 0.5 * float(EIGENVALUES @ theta**2), EIGENVALUES * theta


INPUTS = torch.from_numpy(np.random.default_rng(0).normal(size=(7, 3)))
TARGETS = torch.from_numpy(np.random.default_rng(1).normal(size=7))


def least_squares(theta, rows=None):
    x, y = (INPUTS, TARGETS) if rows is None else (INPUTS[rows], TARGETS[rows])
    residual = x @ theta - y
    return 0.5 * float(residual @ residual), x.T @ residual


def minibatches(batch_size, rate=0.01, seed=5):
    return MinibatchDescent(
        least_squares, least_squares, START, rate, batch_size=batch_size, samples=7, seed=seed
    )


MAKERS = {
    "heavy_ball": lambda: HeavyBall(quadratic, START, 0.2, 0.9),
    "nesterov": lambda: Nesterov(quadratic, START, 0.2, 0.9),
    "adam": lambda: Adam(quadratic, START, 0.05, 0.9),
    "sgd": lambda: minibatches(3),
}
REFERENCES = {
    "heavy_ball": lambda p: torch.optim.SGD([p], lr=0.2, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD([p], lr=0.2, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam([p], lr=0.05),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_steps_are_those_of_torch(name):
    evolution = MAKERS[name]()
    evolution.advance(40 * evolution.step)
    parameter = torch.nn.Parameter(START.clone())
    optimiser = REFERENCES[name](parameter)
    for _ in range(40):
        parameter.grad = quadratic(parameter.detach())[1]
        optimiser.step()
    assert evolution.steps == 40
    torch.testing.assert_close(evolution.weights, parameter.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", MAKERS)
def test_continues_bit_for_bit(name):
    whole, first, second = MAKERS[name](), MAKERS[name](), MAKERS[name]()
    whole.advance(30 * whole.step)
    first.advance(13 * first.step)
    second.load_state(first.state())
    second.advance(30 * second.step)
    for key, value in whole.state().items():
        other = second.state()[key]
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_recorded_right_after_a_resumption_is_what_was_stored(name):
    """A job may be killed between the last step before a snapshot and the snapshot itself."""
    first, second = MAKERS[name](), MAKERS[name]()
    first.advance(13 * first.step)
    second.load_state(first.state())
    for key in ("time", "loss", "gradient_norm", "action", "kinetic_energy", "gradients"):
        assert getattr(second, key) == getattr(first, key), key
    metric = [getattr(each, "inverse_metric_integral", START) for each in (first, second)]
    assert torch.equal(*metric) and metric[0].all()


@pytest.mark.parametrize("name", MAKERS)
def test_action_bounds_the_length_of_any_curve(name):
    evolution = MAKERS[name]()
    for step in (1, 5, 25, 100):
        evolution.advance(step * evolution.step)
        product = evolution.time * evolution.action
        assert product >= evolution.path_length**2 * (1 - 1e-12)
        assert evolution.path_length >= evolution.displacement.norm() * (1 - 1e-12)


def balance(kind, step, mass=2.0, time=4.0):
    """Return (action + kinetic energy) / loss drop at one mass, and the kinetic share."""
    momentum = mass / (mass + step)  # m = h mu / (1 - mu)
    evolution = kind(quadratic, START, step * (1 - momentum), momentum)
    assert evolution.mass == pytest.approx(mass)
    evolution.advance(time)
    drop = quadratic(START)[0] - evolution.loss
    return (evolution.action + evolution.kinetic_energy) / drop, evolution.kinetic_energy / drop


def test_heavy_ball_dissipates_what_the_loss_loses_less_its_kinetic_energy():
    errors = []
    for step in (0.02, 0.01, 0.005):
        total, kinetic = balance(HeavyBall, step)
        assert kinetic > 0.05  # the loss drop alone is not the action
        errors.append(abs(total - 1))
    assert errors[-1] < 0.01
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.2)  # first order in the step


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_energy_of_the_steps_of_heavy_ball_balances_exactly(momentum):
    """On a quadratic: action, what changes of the step dissipate, and half Delta H Delta."""
    rate = 0.05
    evolution = HeavyBall(quadratic, START, rate, momentum)
    before, last, dissipated, curved = START, torch.zeros_like(START), 0.0, 0.0
    for count in range(1, 30):
        evolution.advance(count * evolution.step)
        step = evolution.weights - before
        rise = quadratic(evolution.weights)[1] - quadratic(before)[1]  # H Delta
        dissipated += momentum / (2 * rate) * (step - last).square().sum().item()
        curved += 0.5 * (step @ rise).item()
        before, last = evolution.weights, step
        drop = quadratic(START)[0] - evolution.loss - evolution.kinetic_energy
        assert drop == pytest.approx(evolution.action + dissipated - curved, rel=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_energy_of_the_steps_of_nesterov_balances_exactly_after_its_kick(momentum):
    rate = 0.02
    evolution = Nesterov(quadratic, START, rate, momentum)
    before, last, extra = START, None, 0.0
    energy = quadratic(START)[0] + evolution.kinetic_energy
    assert (evolution.kinetic_energy > 0) == (momentum > 0)
    for count in range(1, 30):
        evolution.advance(count * evolution.step)
        step = evolution.weights - before
        rise = quadratic(evolution.weights)[1] - quadratic(before)[1]  # H Delta
        extra -= 0.5 * (step @ rise).item()
        if last is not None:
            extra += momentum / (2 * rate) * (step - last).square().sum().item()
            extra += momentum * (last @ rise).item()
        before, last = evolution.weights, step
        drop = energy - evolution.loss - evolution.kinetic_energy
        assert drop == pytest.approx(evolution.action + extra, rel=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("name", ["gradient_descent", "heavy_ball", "nesterov"])
def test_learning_rates_are_stable_up_to_the_limit_of_their_dynamics(name, momentum):
    makers = {"heavy_ball": HeavyBall, "nesterov": Nesterov}
    for share in (0.98, 1.02):
        rate = share * stability_factor(name, momentum) * 2 / EIGENVALUES.max().item()
        if name in makers:
            evolution = makers[name](quadratic, START, rate, momentum)
        else:
            evolution = GradientDescent(quadratic, START, rate)
        if share > 1:
            with pytest.raises(DivergenceError):
                evolution.advance(1000 * evolution.step)
        else:
            evolution.advance(1000 * evolution.step)
            assert evolution.loss < 1e-6 * quadratic(START)[0]


@pytest.mark.parametrize("kind", [HeavyBall, Nesterov])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_energetic_inefficiency_of_small_steps_is_at_least_one_from_the_first(kind, momentum):
    largest = EIGENVALUES.max().item()
    rate = 0.01 * 2 / largest
    evolution = kind(quadratic, START, rate, momentum)
    energy = quadratic(START)[0] + evolution.kinetic_energy
    for count in (1, 2, 3, 5, 10, 50, 300):
        evolution.advance(count * evolution.step)
        drop = energy - evolution.loss - evolution.kinetic_energy
        squared = evolution.displacement.square().sum().item()
        assert evolution.time * drop / squared > 1 - rate / (1 - momentum) * largest / 2


@pytest.mark.parametrize("kind", [HeavyBall, Nesterov])
def test_heavy_ball_without_momentum_is_gradient_descent_in_its_energy_too(kind):
    evolution = kind(quadratic, START, 0.05, 0.0)
    evolution.advance(3 * evolution.step)
    assert evolution.kinetic_energy == 0


@pytest.mark.parametrize("kind", [HeavyBall, Nesterov])
def test_kinetic_energy_is_that_of_the_last_step(kind):
    evolution = kind(quadratic, START, 0.01, 0.9)
    assert (evolution.kinetic_energy == 0) == (kind is HeavyBall)  # else its kick
    for step in range(1, 6):
        before = evolution.displacement
        evolution.advance(step * evolution.step)
        speed = (evolution.displacement - before).norm().item() / evolution.step
        assert evolution.kinetic_energy == pytest.approx(evolution.mass * speed**2 / 2)


def test_nesterov_dissipates_more_than_its_action_in_a_convex_valley():
    # Relative to heavy ball the extra friction mu h H lowers action + kinetic energy.
    for step in (0.02, 0.01):
        assert balance(Nesterov, step)[0] < balance(HeavyBall, step)[0]


def length_in_metric(evolution, since=(0.0, 0.0, 0.0)):
    """Return the squared length of Adam in its mean metric since (time, displacement, integral)."""
    time, displacement, integral = since
    return preconditioned_length_squared(
        evolution.time - time,
        (evolution.displacement - displacement).numpy(),
        (evolution.inverse_metric_integral - integral).numpy(),
    )


def test_preconditioned_bound_holds_for_adam_without_inertia():
    evolution = Adam(quadratic, START, 1e-4, 0.0)
    for time in (0.01, 0.3, 1.0, 2.5):
        evolution.advance(time)
        drop = quadratic(START)[0] - evolution.loss
        assert evolution.kinetic_energy == 0
        assert evolution.time * drop >= length_in_metric(evolution) * (1 - 1e-3)


class AdamOfTorch:
    """torch's Adam at beta_1 = 0.9 on the quadratic, and sums over its steps since ``since``.

    By the moments in its state. ``slack``, ``falling``, ``jerks`` and ``curvature`` are what the
    balance of docs/theory.md, section 8, has besides energy drop and action.
    """

    def __init__(self, step, steps, since=0):
        parameter = torch.nn.Parameter(START.clone())
        optimiser = torch.optim.Adam([parameter], lr=step, betas=(0.9, 0.999))
        self.inverse, self.action = torch.zeros_like(START), 0.0
        self.slack = self.falling = self.jerks = self.curvature = 0.0
        start = weights = START
        energies, tau, mean, metric = [], step * 0.9 / 0.1, None, None
        for count in range(1, steps + 1):
            parameter.grad = quadratic(parameter.detach())[1]
            optimiser.step()
            state = optimiser.state[parameter]
            before = (mean, metric, weights)
            mean = state["exp_avg"] / (1 - 0.9**count)
            metric = (state["exp_avg_sq"] / (1 - 0.999**count)).sqrt() + 1e-8
            weights = parameter.detach().clone()
            kinetic = tau / 2 * (mean.square() / metric).sum().item()
            if count == 1:
                energies.append(quadratic(START)[0] + kinetic)
            energies.append(quadratic(weights)[0] + kinetic)
            if count == since:
                start = weights
            if count <= since:
                continue
            moved = weights - before[2]
            self.inverse += step / metric
            self.action += (metric * moved.square()).sum().item() / step
            slopes = quadratic(weights)[1] - quadratic(before[2])[1]
            self.curvature += 0.5 * (moved * slopes).sum().item()
            if count == 1:
                continue
            memory = step * sum(0.9**j for j in range(1, count))
            squares, jerk = before[0].square(), (mean - before[0]).square()
            self.slack += (tau - memory) / 2 * ((squares - mean.square()) / metric).sum().item()
            self.falling += tau / 2 * (squares * (1 / metric - 1 / before[1])).sum().item()
            self.jerks += memory / 2 * (jerk / metric).sum().item()
        self.drop, self.loss = energies[since] - energies[-1], quadratic(weights)[0]
        self.time = step * (steps - since)
        self.length = ((weights - start).square() * self.time / self.inverse).sum().item()


@pytest.mark.parametrize("since", [0, 1, 20])
@pytest.mark.parametrize("steps", [1, 3, 30, 300])
def test_action_in_adams_metric_bounds_its_length_at_any_step(since, steps):
    torchs = AdamOfTorch(0.01, since + steps, since)
    assert torchs.time * torchs.action >= torchs.length * (1 - 1e-12)
    evolution = Adam(quadratic, START, 0.01, 0.9)
    evolution.advance(0.01 * since)
    warm = evolution.time, evolution.displacement, evolution.inverse_metric_integral
    energy = evolution.loss + evolution.kinetic_energy
    evolution.advance(0.01 * (since + steps))
    assert length_in_metric(evolution, warm) == pytest.approx(torchs.length, rel=1e-9)
    drop = energy - evolution.loss - evolution.kinetic_energy
    assert drop == pytest.approx(torchs.drop, rel=1e-9)


def test_length_in_the_mean_metric_is_a_plain_length_where_the_metric_is_constant():
    displacement, metric, times = np.array([[0.0, 0.0], [3.0, 4.0]]), 2.0, np.array([0.0, 5.0])
    integral = np.outer(times, np.ones(2)) / metric
    found = preconditioned_length_squared(times, displacement, integral)
    np.testing.assert_allclose(found, [0.0, 2.0 * 25.0], rtol=1e-15)


@pytest.mark.parametrize("since", [0, 1, 7, 50])
@pytest.mark.parametrize("step", [0.05, 0.01])
def test_energy_of_adam_balances_step_by_step(step, since):
    one = AdamOfTorch(step, since + 60, since)
    lost = one.action + one.slack - one.falling + one.jerks - one.curvature
    assert one.drop == pytest.approx(lost, rel=1e-9)


@pytest.mark.parametrize("since", [0, 1, 5, 40, 300])
@pytest.mark.parametrize("steps", [1, 5, 20, 100, 400])
def test_energy_of_adam_bounds_its_length_in_the_mean_metric(since, steps):
    one = AdamOfTorch(0.002, since + steps, since)
    assert one.time * one.drop > one.length * (1 - 0.005)  # D falls, by little in ten steps
    if (since, steps) == (0, 100):  # the loss alone does not: Adam sets off at full speed
        assert one.time * (quadratic(START)[0] - one.loss) < 0.99 * one.length


def test_plain_loss_drop_bounds_nothing_for_adam():
    # Its time is a length: rescaling the loss changes T (L_0 - L_T) / l_geo^2 at equal weights.
    ratios = []
    for scale in (1.0, 1e-3):
        evolution = Adam(lambda t, s=scale: tuple(s * v for v in quadratic(t)), START, 0.01, 0.9)
        evolution.advance(1.0)
        drop = scale * quadratic(START)[0] - evolution.loss
        ratios.append(evolution.time * drop / evolution.displacement.square().sum().item())
    assert ratios[1] < 1 and ratios[0] / ratios[1] == pytest.approx(1000, rel=1e-3)


def test_minibatches_of_all_samples_are_gradient_descent():
    evolution = minibatches(7)
    evolution.advance(0.2)
    theta = START.clone()
    for _ in range(20):
        theta = theta - 0.01 * least_squares(theta)[1]
    torch.testing.assert_close(evolution.weights, theta)
    assert evolution.loss == pytest.approx(least_squares(evolution.weights)[0])


def test_an_epoch_takes_every_sample_once_and_counts_as_one_gradient():
    evolution = minibatches(3)
    seen = []
    for _ in range(3):
        seen += evolution._rows().tolist()
        evolution._take_step()
    assert sorted(seen) == list(range(7))
    assert evolution.gradients == pytest.approx(2.0)  # that of the start, and one epoch
    assert evolution._rows().tolist() != seen[:3]


def test_action_of_minibatches_exceeds_the_loss_drop_by_the_gradient_noise():
    """At steps too small to move far: all batches of two of six samples are equally likely."""
    inputs, targets = INPUTS[:6], TARGETS[:6]

    def least_squares(theta, rows=None):
        x, y = (inputs, targets) if rows is None else (inputs[rows], targets[rows])
        return 0.5 * float((x @ theta - y).square().sum()), x.T @ (x @ theta - y)

    full = least_squares(START)[1]
    noise = np.mean([
        (3 * least_squares(START, list(rows))[1] - full).square().sum().item()
        for rows in itertools.combinations(range(6), 2)
    ])  # fmt: skip
    evolution = MinibatchDescent(
        least_squares, least_squares, START, 1e-9, batch_size=2, samples=6, seed=5
    )
    evolution.advance(6000 * evolution.step)
    drop = least_squares(START)[0] - evolution.loss
    speed = full.square().sum().item()
    assert drop / evolution.time == pytest.approx(speed, rel=1e-3)
    assert evolution.action / evolution.time == pytest.approx(speed + noise, rel=0.03)
    assert noise > 0.5 * speed  # else this would say little
    # every epoch takes all samples once: its noise adds up to zero and the end lies straight ahead
    length = evolution.displacement.square().sum().item()
    assert evolution.time * drop == pytest.approx(length, rel=1e-3)
    assert evolution.time * drop < evolution.path_length**2  # the loss drop bounds no length


def test_minibatch_gradients_are_unbiased():
    evolution, mean = minibatches(2), torch.zeros(3, dtype=torch.float64)
    for step in range(4000):
        evolution.steps = 4 * step  # the first batch of each epoch
        rows = evolution._rows()
        mean += 7 / 2 * least_squares(START, rows)[1] / 4000
    expected = least_squares(START)[1]
    torch.testing.assert_close(mean, expected, rtol=0.1, atol=0.5)


@pytest.mark.parametrize("make", [HeavyBall, Nesterov, Adam])
def test_momentum_must_be_below_one(make):
    with pytest.raises(ValueError, match="momentum is 1"):
        make(quadratic, START, 0.1, 1.0)


def test_minibatches_that_diverge_are_told_with_their_size():
    evolution = minibatches(3, rate=10.0)
    told = r"learning rate 10, batches of 3 and .*minibatches at lower rates only\)"
    with pytest.raises(DivergenceError, match=told):
        evolution.advance(1000.0)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: HeavyBall(quadratic, START, 10.0, 0.9), "is stable below 1.9 x 2 / lambda_1)"),
        (lambda: Nesterov(quadratic, START, 10.0, 0.9), "is stable below 0.6786 x 2 / lambda_1)"),
        (lambda: GradientDescent(quadratic, START, 10.0), "step is stable below 2 / lambda_1)"),
        (lambda: minibatches(7, rate=10.0), "step is stable below 2 / lambda_1)"),
        (lambda: Adam(quadratic, START, 1e12, 0.9), " and lambda_1 unknown"),
    ],
)
def test_what_diverges_is_told_the_limit_of_its_own_dynamics(make, told):
    evolution = make()
    with pytest.raises(DivergenceError) as raised:
        evolution.advance(1e15 if isinstance(evolution, Adam) else 1e5)
    assert str(raised.value).endswith(told)


def test_a_loss_of_all_that_explodes_after_the_last_minibatch_is_divergence():
    """Steps test the loss of their own minibatch, before they are taken."""
    losses = iter([1.0, 2e6])
    descent = MinibatchDescent(
        lambda theta: (next(losses), torch.ones(3)),
        lambda theta, rows: (1.0, torch.ones(3)),
        torch.zeros(3),
        0.1,
        batch_size=2,
        samples=4,
        seed=1,
    )
    with pytest.raises(DivergenceError, match="the loss is 2e\\+06 at time 0.2"):
        descent.advance(0.2)


def test_the_last_and_smaller_batch_counts_by_its_samples():
    x = torch.eye(3, dtype=torch.float64)
    descent = MinibatchDescent(
        lambda theta: (1.0, x.sum(dim=0)),
        lambda theta, rows: (0.0, x[rows].sum(dim=0)),
        torch.zeros(3),
        0.1,
        batch_size=2,
        samples=3,
        seed=1,
    )
    descent.advance(0.2)  # one epoch of two batches: 3/2 of two samples, 3 of the third
    moved = np.sort(descent.displacement.numpy())
    np.testing.assert_allclose(moved, [-0.3, -0.15, -0.15])


@pytest.mark.parametrize("make", [HeavyBall, Nesterov, Adam])
def test_momentum_must_not_be_negative(make):
    with pytest.raises(ValueError, match="momentum is -0.1"):
        make(quadratic, START, 0.1, -0.1)


@pytest.mark.parametrize("batch_size", [0, 8])
def test_batches_have_one_to_all_samples(batch_size):
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}; .* n = 7"):
        minibatches(batch_size)


def test_loss_and_gradient_where_minibatches_end_are_those_of_all_samples():
    evolution = minibatches(3)
    evolution.advance(5 * evolution.step)
    loss, gradient = least_squares(evolution.weights)
    assert evolution.loss == loss and torch.equal(evolution.gradient, gradient)
    assert evolution.gradient_norm == pytest.approx(gradient.norm().item())


def test_losses_of_the_batches_of_an_epoch_average_to_that_of_all_samples():
    """Of steps too small to move; each batch tells its loss times N/B."""
    evolution, losses = minibatches(3, rate=1e-15), []
    evolution.advance(3 * evolution.step, on_step=lambda evolution: losses.append(evolution.loss))
    assert np.average(losses, weights=[3, 3, 1]) == pytest.approx(least_squares(START)[0])


def test_minibatches_are_those_of_their_seed():
    rows = [minibatches(7, seed=seed)._rows().tolist() for seed in (5, 5, 6)]
    assert rows[0] == rows[1] != rows[2]
