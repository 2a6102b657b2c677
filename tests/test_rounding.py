"""Rounding of weights: what it adds to the speed, against averages over where the weights are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from speedlimits.dynamics import GradientDescent, GradientFlow, LangevinDynamics
from speedlimits.optimisers import Adam, HeavyBall, MinibatchDescent, Nesterov
from speedlimits.rounding import (
    gain_of_steps,
    largest_curvature,
    moved_by_rounding,
    speed_rounding,
)

SAMPLES, WEIGHTS = 30, 400
RNG = np.random.default_rng(5)
# One stiff mode, so that the largest curvature is most of what counts
FEATURES = torch.from_numpy(RNG.normal(size=(SAMPLES, WEIGHTS)) + 1.0) * 1e5
START = torch.from_numpy(RNG.normal(size=WEIGHTS).astype(np.float32)).double()
LAMBDA_1 = torch.linalg.eigvalsh(FEATURES @ FEATURES.T)[-1].item()


def loss_and_gradient(theta, rows=slice(None)):
    """L = 1/2 |X (round(theta) - theta_0)|^2, whose least is the start itself."""
    features = FEATURES[rows]
    outputs = features @ (theta.float().double() - START)
    return 0.5 * outputs.square().sum().item(), features.T @ outputs


EVOLUTIONS = {
    "flow": lambda: GradientFlow(loss_and_gradient, START),
    "descent": lambda: GradientDescent(loss_and_gradient, START, 1.5 / LAMBDA_1),
    "langevin": lambda: LangevinDynamics(loss_and_gradient, START, 0.5 / LAMBDA_1, 0.0, 1),
    "heavy ball": lambda: HeavyBall(loss_and_gradient, START, 0.5 / LAMBDA_1, 0.5),
    "nesterov": lambda: Nesterov(loss_and_gradient, START, 0.5 / LAMBDA_1, 0.5),
    "minibatches": lambda: MinibatchDescent(
        loss_and_gradient, loss_and_gradient, START, 0.5 / LAMBDA_1, batch_size=10,
        samples=SAMPLES, seed=2,
    ),
    "adam": lambda: Adam(loss_and_gradient, START, 1e-6, 0.9),
}  # fmt: skip


def placed(kind, speed, seed):
    """An evolution whose weights lie anywhere within their digits, with a speed far above them."""
    evolution = EVOLUTIONS[kind]()
    noise = torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, WEIGHTS)) * 1e-6
    # nothing is left of the loss, so that the gradient is that of roundings
    noise = noise - torch.linalg.pinv(FEATURES) @ (FEATURES @ noise)
    evolution.displacement = noise
    evolution.time, evolution.path_length, evolution.steps = 1.0, 1e-9, 3
    evolution._last_length = speed * getattr(evolution, "step", 1.0)
    if kind == "adam":
        evolution._second_moment = torch.linspace(1e16, 2e16, WEIGHTS, dtype=torch.float64)
        evolution._first_moment = 4.0 * evolution._second_moment.sqrt()  # s = 0.8
    return evolution


@pytest.mark.parametrize("kind", EVOLUTIONS)
def test_part_of_the_speed_is_that_of_gradients_of_roundings(kind):
    """Mean square over places of the weights, times what long steps make of them."""
    parts, told = [], []
    for seed in range(40):
        evolution = placed(kind, 0.1 if kind == "adam" else 1e12, seed)
        weights = evolution.weights
        batch = kind == "minibatches"
        squares = []
        for ahead in range(3 if batch else 1):
            features = FEATURES[evolution._rows(ahead) if batch else slice(None)]
            features = features * (SAMPLES / len(features)) ** 0.5
            part = features.T @ (features @ (weights.float().double() - weights))
            largest = torch.linalg.eigvalsh(features @ features.T)[-1].item()
            factor = 1.0
            if kind in ("descent", "langevin", "minibatches"):
                factor = 2 / (2 - evolution.step * largest)
            if kind == "adam":
                second = evolution._second_moment / (1 - 0.999**3)
                first = evolution._first_moment / (1 - 0.9**3)  # below the second's root
                # the speed with the rounding less the one without, from both moments
                noise = part.square().mean()  # the same for all weights here
                slower = (first.square() - noise) / (second - noise)
                part = (first.square() / second - slower).clamp(min=0).sqrt()
            squares.append(factor * part.square().sum().item())
        parts.append(np.sqrt(np.mean(squares)))
        if kind in ("minibatches", "flow"):  # whose speed is that of their gradients
            evolution.speed = lambda gradient: 1e12
        speed = evolution.speed(loss_and_gradient(weights)[1])
        added = speed_rounding(evolution, torch.float32)
        assert added < 0.1 * speed
        told.append(np.sqrt(speed**2 - (speed - added) ** 2))
    rms = [np.sqrt(np.mean(np.square(values))) for values in (parts, told)]
    assert rms[1] == pytest.approx(rms[0], rel=0.25)


@pytest.mark.parametrize("moved", [4.0, 20.0])
@pytest.mark.parametrize(("momentum", "share"), [(0.0, 0.5), (0.0, 0.9), (0.5, 0.9), (0.9, 0.97)])
def test_descent_follows_roundings_that_are_new_in_each_step_as_noise(momentum, share, moved):
    """Along one stiff mode, of weights that drift across digits beside it."""
    weights, generator = 2000, np.random.default_rng(0)
    mode = generator.normal(size=weights)
    mode /= np.linalg.norm(mode)
    drift = generator.normal(size=weights)
    drift -= mode * (mode @ drift)
    drift *= moved * np.sqrt(weights / 12) / np.linalg.norm(drift)
    rate = share * 2 * (1 + momentum)  # of an eigenvalue of 1
    theta, speed, speeds = generator.uniform(-50, 50, weights), 0.0, []
    least = mode @ theta
    for _ in range(4000):
        speed = momentum * speed + (1 - momentum) * (least - mode @ np.round(theta))
        theta = theta + rate / (1 - momentum) * speed * mode + drift
        speeds.append(speed)
    told = np.sqrt(gain_of_steps(rate, momentum, 1 + momentum) / 12)
    assert np.std(speeds[500:]) == pytest.approx(told, rel=0.15)


def test_gains_at_and_beyond_the_limit():
    assert gain_of_steps(1.9, 0.0, 1.0) == pytest.approx(20)
    assert gain_of_steps(2.5, 0.0, 1.0) == pytest.approx(10)  # survives by another lambda
    assert gain_of_steps(2 - 1e-9, 0.0, 1.0) == pytest.approx(100)
    assert gain_of_steps(0.1, 0.9, 1.9) == pytest.approx(0.1 / 1.9 / (1 - 0.05 / 1.9))


def test_all_of_the_speed_is_rounding_where_the_part_is_larger():
    assert speed_rounding(placed("descent", 1e-3, 0), torch.float32) == pytest.approx(1e-3)


def test_weights_without_digits_to_lose_and_short_paths_cost_no_gradient():
    def counted(theta):
        counted.calls += 1
        return loss_and_gradient(theta)

    counted.calls = 0
    descent = GradientDescent(counted, START, 0.5 / LAMBDA_1, lambda_1=LAMBDA_1)
    assert moved_by_rounding(descent, torch.float32) == 0  # float32 weights
    assert speed_rounding(descent, torch.float32) == 0 and counted.calls == 1
    descent.displacement = 1e-9 * torch.ones(WEIGHTS, dtype=torch.float64)
    moved = moved_by_rounding(descent, torch.float32)
    assert moved == pytest.approx(1e-9 * WEIGHTS**0.5, rel=0.05)  # below most weights' digits
    descent.time = 3.0
    for share, calls in ((4e-4, 1), (6e-4, 7)):  # of the path, with the factor of steps
        descent.path_length = LAMBDA_1 * moved * 3 * (2 / 1.5) / share
        speed_rounding(descent, torch.float32)
        assert counted.calls == calls
    descent.lambda_1 = None  # then nothing tells that it cannot matter, but weights without digits
    descent.path_length = 1e30
    for displacement, calls in ((0.0, 7), (1e-9, 13)):
        descent.displacement = displacement * torch.ones(WEIGHTS, dtype=torch.float64)
        speed_rounding(descent, torch.float32)
        assert counted.calls == calls


def test_a_few_samples_may_have_all_of_lambda_1():
    evolution = placed("minibatches", 1e-3, 0)
    evolution.lambda_1 = LAMBDA_1
    moved = moved_by_rounding(evolution, torch.float32)
    told = []
    for share in (1.2e-4, 1.3e-4):  # of the path; times three batches and 4/3, 5e-4 lies between
        evolution.path_length = LAMBDA_1 * moved / share
        told.append(speed_rounding(evolution, torch.float32) > 0)
    assert told == [False, True]


def test_adams_rounding_matters_by_its_share_of_the_gradient():
    evolution = placed("adam", 0.1, 0)
    evolution.lambda_1, evolution.path_length = LAMBDA_1, 1e30
    moved = moved_by_rounding(evolution, torch.float32)
    told = []
    for share in (0.9e-3, 1.1e-3):
        evolution._gradient = torch.zeros(WEIGHTS, dtype=torch.float64)
        evolution._gradient[0] = LAMBDA_1 * moved / share
        told.append(speed_rounding(evolution, torch.float32) > 0)
    assert told == [False, True]


def test_gradients_that_do_not_change_are_not_rounded():
    ones = torch.ones(WEIGHTS, dtype=torch.float64)
    descent = GradientDescent(lambda theta: (theta.sum().item(), ones), START, 0.1)
    descent.advance(1e-3)
    descent.displacement = 1e-9 * ones
    assert speed_rounding(descent, torch.float32) == 0


def test_largest_curvature_of_a_quadratic_loss():
    def gradient(theta):
        distances.append((theta - 2 * START).norm() / (2 * START).norm())
        return FEATURES.T @ (FEATURES @ (theta - START))

    distances = []
    direction = torch.from_numpy(RNG.normal(size=WEIGHTS))
    found = largest_curvature(gradient, 2 * START, gradient(2 * START), direction)
    assert found == pytest.approx(LAMBDA_1, rel=0.02) and found <= LAMBDA_1 * (1 + 1e-9)
    np.testing.assert_allclose(distances[1:], 3e-4, rtol=1e-6)
    flat = largest_curvature(lambda theta: torch.ones(WEIGHTS), START, torch.ones(WEIGHTS), START)
    assert flat == 0
