"""Evolutions against exact solutions, general solvers and each other."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch.nn.utils import parameters_to_vector

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from speedlimits.dynamics import (
    DivergenceError,
    GradientDescent,
    GradientFlow,
    LangevinDynamics,
    step_factor,
)
from speedlimits.gradient import TrainingLoss
from speedlimits.networks import fully_connected, initialise_
from speedlimits.optimisers import Adam, HeavyBall
from speedlimits.runge_kutta_chebyshev import (
    StiffPart,
    chebyshev_step,
    error_estimate,
    largest_step,
    leading_eigenpairs,
    stages_needed,
)

MODES, ALPHA, DELTA = 200, 2.2, 0.35  # a spectrum like that of Myrtle-5 on images


class LinearModel:
    """L = 1/2 sum lambda_k (theta_k - theta*_k)^2, lambda_k = k^-alpha, residue^2 = k^-delta."""

    def __init__(self, modes: int = MODES):
        rank = torch.arange(1, modes + 1, dtype=torch.float64)
        self.rates, self.squares = rank**-ALPHA, rank**-DELTA
        self.minimum = (self.squares / self.rates).sqrt()
        self.theta_0 = torch.zeros(modes, dtype=torch.float64)

    def loss_and_gradient(self, theta):
        offset = theta - self.minimum
        gradient = self.rates * offset
        return 0.5 * torch.dot(offset, gradient).item(), gradient

    def displacement(self, time):
        return -self.minimum * torch.expm1(-self.rates * time)

    def loss_drop(self, time):
        return -0.5 * (self.squares * torch.expm1(-2.0 * self.rates * time)).sum().item()

    def path_length(self, time):
        """Integral of |theta'| by Gauss-Legendre in pieces of log(t), to about 1e-10."""
        nodes, weights = np.polynomial.legendre.leggauss(8)
        edges = np.concatenate([[0.0], np.geomspace(1e-3, time, 200)])
        half = 0.5 * np.diff(edges)[:, None]
        t = torch.from_numpy(edges[:-1, None] + half * (1.0 + nodes)).reshape(-1, 1)
        speed = (self.rates * self.squares * torch.exp(-2.0 * self.rates * t)).sum(1).sqrt()
        return float(speed.numpy() @ (half * weights).reshape(-1))


def recorded_times(end_time: float, per_decade: int = 11) -> list[float]:
    count = 1 + math.ceil(per_decade * math.log10(end_time / 0.1))
    return np.geomspace(0.1, end_time, count).tolist()


def relative_error(flow: GradientFlow, exact: torch.Tensor) -> float:
    return ((flow.displacement - exact).norm() / exact.norm()).item()


def largest_error(model: LinearModel, tolerance: float, end_time: float):
    flow = GradientFlow(
        model.loss_and_gradient, model.theta_0, relative_tolerance=tolerance, end_time=end_time
    )
    errors = []
    for time in recorded_times(end_time):
        flow.advance(time)
        errors.append(relative_error(flow, model.displacement(time)))
    return max(errors), flow


# --- gradient flow on linear models ---------------------------------------------------------


@pytest.mark.parametrize("end_time", [2e3, 2e5])
def test_flow_is_within_one_percent_at_every_recorded_time(end_time):
    model = LinearModel()
    flow = GradientFlow(model.loss_and_gradient, model.theta_0, end_time=end_time)
    for time in recorded_times(end_time):
        flow.advance(time)
        drop = model.loss_drop(time)
        assert flow.time == time
        assert relative_error(flow, model.displacement(time)) < 5e-3
        assert flow.action == pytest.approx(drop, rel=5e-3)
        start_loss = 0.5 * model.squares.sum().item()
        assert start_loss - flow.loss == pytest.approx(drop, rel=5e-3)
        assert flow.path_length == pytest.approx(model.path_length(time), rel=5e-3)
        speed = (model.rates.sqrt() * model.squares.sqrt() * torch.exp(-model.rates * time)).norm()
        assert flow.gradient_norm == pytest.approx(speed.item(), rel=5e-2)
        assert time * flow.action >= flow.path_length**2 * (1 - 1e-12)
        assert flow.path_length >= flow.displacement.norm().item() * (1 - 1e-12)


def test_error_falls_with_the_tolerance_as_a_second_order_method():
    # The local error is held at the tolerance, so step ~ tolerance^(1/3), error ~ tolerance^(2/3).
    tolerances = np.array([1e-3, 1e-4, 1e-5, 1e-6])
    runs = [largest_error(LinearModel(), tolerance, 200.0) for tolerance in tolerances]
    errors, steps = np.array([run[0] for run in runs]), np.array([run[1].steps for run in runs])
    slope = np.polyfit(np.log(tolerances), np.log(errors), 1)[0]
    order = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(2 / 3, abs=0.12)
    assert order == pytest.approx(2.0, abs=0.25)


def test_gradients_grow_slower_than_the_square_root_of_time():
    end_times = np.array([2e3, 2e4, 2e5, 2e6])
    counts = [largest_error(LinearModel(), 2e-3, time)[1].gradients for time in end_times]
    slope = np.polyfit(np.log(end_times), np.log(counts), 1)[0]
    assert slope < 0.5  # the plain Chebyshev method has about 0.5, implicit leading modes less
    assert counts[2] < 2e5 / 300


@pytest.mark.parametrize("tolerance", [1e-2, 5e-4, 3e-4, 2e-4, 1e-4, 5e-5])
def test_no_tolerance_loses_a_stiff_mode_in_the_eigenbasis(tolerance):
    # Here rounding mixes no modes: a mode that has left the gradient is in no Krylov space of it.
    flow = largest_error(LinearModel(640), tolerance, 2e5)[1]
    # Steps grow as tolerance^(1/3), stages at most as their square root.
    usual = largest_error(LinearModel(640), 2e-3, 2e5)[1].gradients
    assert flow.gradients <= 2.0 * usual * max(1.0, (2e-3 / tolerance) ** (1 / 3))


def test_recorded_times_cost_no_gradients_and_change_nothing():
    model = LinearModel()
    once = GradientFlow(model.loss_and_gradient, model.theta_0, end_time=500.0)
    often = GradientFlow(model.loss_and_gradient, model.theta_0, end_time=500.0)
    once.advance(500.0)
    for time in recorded_times(500.0, per_decade=40):
        often.advance(time)
    assert once.gradients == often.gradients
    assert torch.equal(once.weights, often.weights)
    assert once.path_length == often.path_length


def test_flow_stays_at_a_stationary_point():
    model = LinearModel()
    flow = GradientFlow(model.loss_and_gradient, model.minimum)
    flow.advance(10.0)
    assert flow.time == 10.0
    assert flow.path_length == flow.action == 0.0


@pytest.mark.parametrize("end_time", [None, 100.0])
@pytest.mark.parametrize("loss_0", [0.0, 5.0, 1e-320])
def test_flow_down_a_constant_gradient_is_exact(end_time, loss_0):
    slope = torch.tensor([3.0, -4.0], dtype=torch.float64)

    def loss_and_gradient(theta):
        return loss_0 + (slope @ theta).item(), slope.clone()

    flow = GradientFlow(loss_and_gradient, torch.zeros(2, dtype=torch.float64), end_time=end_time)
    for time in (1e-3, 1.0, 100.0):
        flow.advance(time)
        assert flow.time == time
        assert flow.weights.tolist() == pytest.approx((-time * slope).tolist(), rel=1e-12)
        assert flow.path_length == pytest.approx(5.0 * time, rel=1e-12)
        assert flow.action == pytest.approx(25.0 * time, rel=1e-12)
        assert flow.loss == pytest.approx(loss_0 - 25.0 * time, rel=1e-12)


@pytest.mark.parametrize(
    ("rates", "squares"),
    [
        ([1.0, 1e-4], [1.0, 1e-2]),
        ([1.0, 1e-2], [1.0, 1.0]),
        ([1.0, 0.3, 3e-3], [1.0, 1.0, 1.0]),
        ([1.0, *(0.01 * k**-1.2 for k in range(1, 641))], [1.0] + [0.01] * 640),
        ([1.0, *(0.01 * k**-2.2 for k in range(1, 641))], [30.0] + [0.1] * 640),
    ],
)
def test_flow_across_a_gap_of_the_spectrum(rates, squares):
    """Slow modes that the search for the leading ones finds too have not decayed."""
    model = LinearModel(modes=len(rates))
    model.rates, model.squares = (
        torch.tensor(values, dtype=torch.float64) for values in (rates, squares)
    )
    model.minimum = (model.squares / model.rates).sqrt()
    end_time = min(10.0 / min(rates[:10]), 2e4)
    flow = GradientFlow(model.loss_and_gradient, model.theta_0, end_time=end_time)
    loss_0 = flow.loss
    for time in recorded_times(end_time):
        flow.advance(time)
        exact = model.displacement(time)
        assert relative_error(flow, exact) < 0.004
        found = (loss_0 - flow.loss) / flow.displacement.square().sum().item()
        exact_ratio = model.loss_drop(time) / exact.square().sum().item()
        assert found == pytest.approx(exact_ratio, rel=0.008)  # T/T_SL over T
    assert flow.gradients < 250


@pytest.mark.parametrize("minimum", [0.0, 0.3])
def test_the_loss_read_off_between_steps_falls_and_is_not_below_its_minimum(minimum):
    """The last digits of the loss, which log axes show: modes that end within a step."""
    model = LinearModel(30)

    def loss_and_gradient(theta):
        loss, gradient = model.loss_and_gradient(theta)
        return loss + minimum, gradient

    end = 20.0 / model.rates[-1].item()
    flow = GradientFlow(loss_and_gradient, model.theta_0, end_time=end)
    losses = []
    for time in np.geomspace(0.1, end, 2000):
        flow.advance(float(time))
        losses.append(flow.loss)
    start = 0.5 * model.squares.sum().item() + minimum
    assert min(losses) >= minimum
    assert max(np.diff(losses)) <= 1e-15 * start
    assert losses[-1] == pytest.approx(minimum, abs=1e-3 * start)


def test_flow_passes_a_growing_spectral_radius():
    # theta' = -theta^3 + theta, from a flat to a steep place: the Hessian grows from about -1 to 2.
    def loss_and_gradient(theta):
        return 0.25 * (theta**2 - 1.0).square().sum().item(), theta**3 - theta

    theta_0 = torch.tensor([1e-3], dtype=torch.float64)
    flow = GradientFlow(loss_and_gradient, theta_0, relative_tolerance=1e-4)
    flow.advance(8.0)
    square = 1.0 / (1.0 + (1e6 - 1.0) * math.exp(-16.0))
    assert flow.weights.item() == pytest.approx(math.sqrt(square), rel=5e-3)


def rotated_model():
    """The linear model in a random basis, so that eigenvectors are no unit vectors."""
    model = LinearModel(modes=60)
    noise = torch.randn(60, 60, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return model, torch.linalg.qr(noise).Q


@pytest.mark.parametrize(("pairs", "order"), [(0, 3.0), (3, 2.0)])
@pytest.mark.parametrize("stages", [2, 5, 12])
def test_local_error_of_a_chebyshev_step_falls_with_its_order(pairs, order, stages):
    # Wrong eigenvalues on purpose: the order must not depend on how good the stiff part is.
    model, rotation = rotated_model()
    stiff = StiffPart(rotation[:, :pairs], 1.3 * model.rates[:pairs])
    hessian = rotation @ torch.diag(model.rates) @ rotation.T
    start = rotation.sum(1)
    steps = np.array([0.1, 0.05, 0.025, 0.0125])
    errors = []
    for step in steps:
        end = chebyshev_step(lambda u: -hessian @ u, start, -hessian @ start, step, stages, stiff)
        exact = rotation @ (torch.exp(-model.rates * step) * (rotation.T @ start))
        errors.append((end - exact).norm().item())
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("stages", [3, 8, 20])
def test_chebyshev_step_is_stable_with_implicit_modes_of_any_size(stages):
    model, rotation = rotated_model()
    rates = model.rates.clone()
    rates[:3] = torch.tensor([1e6, 1e4, 1e2])
    stiff = StiffPart(rotation[:, :3], rates[:3])
    hessian = rotation @ torch.diag(rates) @ rotation.T
    step = largest_step(stages, rates[3].item())
    end = rotation.sum(1)
    for _ in range(30):
        before = end.norm()
        end = chebyshev_step(lambda u: -hessian @ u, end, -hessian @ end, step, stages, stiff)
        assert end.norm() <= before * (1 + 1e-9)


def test_leading_eigenpairs_are_those_of_the_matrix():
    model, rotation = rotated_model()
    hessian = rotation @ torch.diag(model.rates) @ rotation.T
    pairs, rest, _ = leading_eigenpairs(lambda v: hessian @ v, rotation.sum(1), 20)
    count = pairs.eigenvalues.numel()
    found = pairs.eigenvalues.flip(0)
    assert count >= 5
    torch.testing.assert_close(found[:3], model.rates[:3], rtol=1e-6, atol=0)
    torch.testing.assert_close(found, model.rates[:count], rtol=1e-2, atol=0)
    exact_rest = hessian - pairs.vectors * pairs.eigenvalues @ pairs.vectors.T
    radius = torch.linalg.eigvalsh(exact_rest).abs().max().item()
    assert 0.3 * radius < rest <= radius * (1 + 1e-9)


def test_a_time_already_passed_is_left_as_it_is():
    model = LinearModel()
    flow = GradientFlow(model.loss_and_gradient, model.theta_0)
    flow.advance(20.0)
    before = {name: getattr(flow, name) for name in ATTRIBUTES}
    weights = flow.weights
    flow.advance(3.0)
    assert {name: getattr(flow, name) for name in ATTRIBUTES} == before
    assert torch.equal(flow.weights, weights)


@pytest.mark.parametrize("end_time", np.geomspace(20.0, 40.0, 7))
def test_the_last_step_ends_at_the_end_time_and_is_no_remnant(end_time):
    """Loss and gradient there are those of the weights, by no interpolation."""
    model, ends = LinearModel(), [0.0]
    flow = GradientFlow(model.loss_and_gradient, model.theta_0, end_time=end_time)
    flow.advance(end_time, on_step=lambda flow: ends.append(flow.time))
    loss, gradient = model.loss_and_gradient(flow.weights)
    assert flow._end_time == flow.time == end_time
    assert flow.loss == loss and torch.equal(flow.gradient, gradient)
    steps = np.diff(ends)
    assert steps[-1] >= 0.5 * steps[-2] * (1 - 1e-9)


@pytest.mark.parametrize("size", [2.0, 1e5])
def test_the_first_radius_is_that_of_the_hessian_for_weights_of_any_size_in_float32(size):
    """Power iteration by differences of gradients; the first step h has (h lambda_1)^2 allowed."""
    model = LinearModel(modes=60)
    start = model.theta_0 + size

    def in_float32(theta):
        loss, gradient = model.loss_and_gradient(theta.float().double())
        return loss, gradient.float()

    flow = GradientFlow(in_float32, start, relative_tolerance=1e-4)
    flow.advance(1e-3)
    assert flow.lambda_1 == pytest.approx(1.0, rel=0.03)
    assert 1.1 < flow.spectral_radius < 1.25  # not below the true one, which it approaches
    assert flow.steps == 1 and flow._end_time == pytest.approx(1e-2, rel=0.05)


def test_the_radius_at_a_start_of_a_network_is_that_of_its_hessian():
    """The difference of gradients is short enough for the curvature of the loss."""
    loss_and_gradient, theta_0 = small_problem()
    size = 1e-5
    columns = [
        (loss_and_gradient(theta_0 + e)[1] - loss_and_gradient(theta_0 - e)[1]) / (2 * size)
        for e in size * torch.eye(len(theta_0), dtype=torch.float64)
    ]
    exact = torch.linalg.eigvalsh(torch.stack(columns)).abs().max().item()
    flow = GradientFlow(loss_and_gradient, theta_0)
    flow.advance(1e-9)
    assert flow.lambda_1 == pytest.approx(exact, rel=0.06)


def test_with_implicit_modes_the_radius_is_that_of_the_rest_and_lambda_1_that_of_all():
    model = LinearModel()
    flow = GradientFlow(model.loss_and_gradient, model.theta_0)
    flow.advance(5e3)
    stiff = flow._stiff
    assert stiff.eigenvalues.numel() > 0
    rest = torch.diag(model.rates) - stiff.vectors * stiff.eigenvalues @ stiff.vectors.T
    radius = torch.linalg.eigvalsh(rest).abs().max().item()
    assert 0.9 * radius < flow.spectral_radius < 1.3 * radius < 0.5
    vector = torch.ones(len(rest), dtype=torch.float64)
    torch.testing.assert_close(flow._rest_product(vector), rest @ vector, rtol=1e-6, atol=1e-8)
    assert flow.lambda_1 == pytest.approx(1.0, rel=0.02)


def test_lambda_1_follows_a_hessian_that_changes():
    """theta' = theta - theta^3: the curvature is -1 at the start and 2 at the end."""

    def loss_and_gradient(theta):
        return 0.25 * (theta**2 - 1.0).square().sum().item(), theta**3 - theta

    flow = GradientFlow(loss_and_gradient, torch.tensor([1e-3, 2e-3], dtype=torch.float64))
    flow.advance(30.0)
    assert flow.lambda_1 == pytest.approx(2.0, rel=0.02)


def test_flow_of_a_linear_loss_is_one_straight_line():
    """No curvature sets a step: the radius is 0, and the end time alone limits it."""
    slope = torch.tensor([3.0, -4.0], dtype=torch.float64)
    flow = GradientFlow(
        lambda theta: (torch.dot(slope, theta).item(), slope),
        torch.zeros(2, dtype=torch.float64),
        end_time=10.0,
    )
    flow.advance(10.0)
    torch.testing.assert_close(flow.displacement, -10.0 * slope)
    assert flow.path_length == pytest.approx(50.0) and flow.action == pytest.approx(250.0)
    assert flow.steps == 1


def test_each_step_after_the_first_has_the_action_of_its_loss_drop_or_chord():
    """Where noise is freed; inside the step that noise accumulates evenly in time."""
    loss_and_gradient, theta_0 = small_problem(smooth=False)
    whole, inside = (
        GradientFlow(loss_and_gradient, theta_0, relative_tolerance=2e-2) for _ in range(2)
    )
    ends = []

    def keep(flow):
        ends.append((flow.time, flow.loss, flow.action, flow.velocity_noise, flow.displacement))

    whole.advance(2.0, on_step=keep)
    ends.pop()  # at the time asked for, inside a step
    freed = 0
    for before, after in itertools.pairwise(ends):
        inside.advance(0.5 * (before[0] + after[0]))
        assert inside.velocity_noise == pytest.approx(0.5 * (before[3] + after[3]), rel=1e-9)
        step, noise = after[0] - before[0], after[3] - before[3]
        drop = before[1] - after[1]
        least = max(drop, (after[4] - before[4]).square().sum().item() / step)
        if noise > 1e-6 * least:
            assert after[2] - before[2] == pytest.approx(least, rel=1e-6)
            freed += 1
    assert freed > 3


@pytest.mark.parametrize("order", [2, 3])
def test_the_next_step_aims_below_the_tolerance_and_changes_by_no_more_than_its_limits(order):
    """An error that falls as step^order; limits of Sommeijer et al. (1998), growth at most 2."""
    for error in (0.3, 0.7, 1.0, 3.0, 50.0):
        after = error * step_factor(error, order) ** order
        assert after == pytest.approx(0.9**order)
    for error in (0.0, 1e-12):
        assert step_factor(error, order) == 2.0
    for error in (1e12, math.inf, math.nan):
        assert step_factor(error, order) == 0.1


# --- steps of the Runge-Kutta-Chebyshev method -----------------------------------------------


def chebyshev_reference(stages):
    """Return (w_0, w_1, T_s) of the stability polynomial at the damping 4, by NumPy."""
    polynomial = np.polynomial.chebyshev.Chebyshev.basis(stages)
    w_0 = 1.0 + 4.0 / stages**2
    return w_0, polynomial.deriv(1)(w_0) / polynomial.deriv(2)(w_0), polynomial


@pytest.mark.parametrize("stages", [2, 3, 7, 30])
def test_a_step_multiplies_modes_by_the_stability_polynomial_of_its_source(stages):
    w_0, w_1, polynomial = chebyshev_reference(stages)
    b = polynomial.deriv(2)(w_0) / polynomial.deriv(1)(w_0) ** 2
    z = np.linspace(-(w_0 + 1.0) / w_1, 0.0, 40)
    expected = 1.0 + b * (polynomial(w_0 + w_1 * z) - polynomial(w_0))
    rates, start = torch.from_numpy(z), torch.ones(len(z), dtype=torch.float64)
    none = StiffPart.none(start)
    end = chebyshev_step(lambda u: rates * u, start, rates * start, 1.0, stages, none)
    np.testing.assert_allclose(end.numpy(), expected, atol=1e-10)
    assert np.abs(expected).max() <= 1.0 + 1e-12


def test_stages_are_stable_and_no_more_than_needed():
    """The polynomial is bounded by one up to (w_0 + 1) / w_1."""
    intervals = {}
    for stages in range(1, 62):
        w_0, w_1, _ = chebyshev_reference(stages) if stages > 1 else (0.0, 1.0, None)
        intervals[stages] = (w_0 + 1.0) / w_1
    for product in np.geomspace(0.01, 1500.0, 800):
        stages = stages_needed(2.0 * product, 0.5)
        assert product <= intervals[stages]
        assert stages == 2 or product > 0.9 * intervals[stages - 1]


@pytest.mark.parametrize("stages", [3, 4, 9, 60, 500])
def test_the_largest_step_needs_just_its_stages(stages):
    step = largest_step(stages, 7.0)
    assert stages_needed(step * (1 - 1e-9), 7.0) <= stages
    assert stages_needed(step * (1 + 1e-9), 7.0) == stages
    assert largest_step(stages, 0.0) == math.inf


@pytest.mark.parametrize(("stages", "ratio"), [(2, 1.2), (60, 2.2)])
def test_the_error_estimate_is_above_the_error_by_as_much_as_it_says(stages, ratio):
    start, step = torch.ones(1, dtype=torch.float64), 1e-2
    end = chebyshev_step(lambda u: -u, start, -start, step, stages, StiffPart.none(start))
    estimate = error_estimate(start, end, -start, -end, step).norm().item()
    assert estimate / abs(end.item() - math.exp(-step)) == pytest.approx(ratio, rel=0.05)


def test_leading_eigenpairs_are_orthonormal_and_the_last_vector_belongs_to_the_rest():
    model, rotation = rotated_model()
    hessian = rotation @ torch.diag(model.rates) @ rotation.T
    pairs, _, rest = leading_eigenpairs(lambda v: hessian @ v, rotation.sum(1), 40)
    overlaps = pairs.vectors.T @ pairs.vectors
    torch.testing.assert_close(overlaps, torch.eye(len(overlaps), dtype=torch.float64))
    assert (pairs.vectors.T @ rest).abs().max() < 0.01


def test_modes_of_negative_curvature_are_no_stiff_part_but_count_in_the_rest():
    values = torch.tensor([5.0, 3.0, -4.0, 0.5], dtype=torch.float64)
    pairs, rest, _ = leading_eigenpairs(lambda v: values * v, torch.ones(4, dtype=torch.float64), 4)
    torch.testing.assert_close(pairs.eigenvalues, values[[3, 1, 0]])
    assert rest == pytest.approx(4.0)


def test_an_eigenvector_to_start_from_is_the_only_pair_found():
    values, start = torch.tensor([5.0, 3.0], dtype=torch.float64), torch.eye(2).double()[0]
    pairs, rest, _ = leading_eigenpairs(lambda v: values * v, start, 2)
    assert pairs.eigenvalues.tolist() == [5.0] and rest == 0.0


# --- gradient flow on networks --------------------------------------------------------------


def small_problem(smooth: bool = True):
    """A network with 6 samples and 2 outputs; smooth means tanh in place of ReLU.

    With so few ReLUs the flow slides along their kinks, where reference solvers crawl.
    """
    generator = torch.Generator().manual_seed(3)
    network = fully_connected(
        input_shape=(5,), outputs=2, width=12, parameterisation="ntk", depth=3
    )
    initialise_(network.double(), generator)
    if smooth:
        layers = [torch.nn.Tanh() if isinstance(m, torch.nn.ReLU) else m for m in network]
        network = torch.nn.Sequential(*layers)
    inputs = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    targets = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    theta_0 = parameters_to_vector(network.parameters()).detach()
    return TrainingLoss(network, inputs, targets).loss_and_gradient, theta_0


@pytest.mark.parametrize("start", [-1.0, 1.0])
def test_flow_of_a_single_weight_is_exponential_from_either_side(start):
    """The search for modes starts from the gradient and one random direction: they may cancel."""
    flow = GradientFlow(
        lambda t: (0.5 * t.square().sum().item(), t.clone()), torch.tensor([start]).double()
    )
    for time in (0.5, 3.0, 1e3):
        flow.advance(time)
        assert flow.weights.item() == pytest.approx(start * math.exp(-time), abs=0.01)
    assert flow.action == pytest.approx(0.5, rel=0.01)


def test_flow_equals_a_general_solver_on_a_network():
    loss_and_gradient, theta_0 = small_problem()
    end_time = 3.0
    times = np.geomspace(1e-3, end_time, 15)
    solution = solve_ivp(
        lambda _, theta: -loss_and_gradient(torch.from_numpy(theta))[1].numpy(),
        (0.0, end_time), theta_0.numpy(), t_eval=times, rtol=1e-7, atol=1e-9,
    )  # fmt: skip
    flow = GradientFlow(loss_and_gradient, theta_0, end_time=end_time)
    start_loss = flow.loss
    for time, expected in zip(times, solution.y.T, strict=True):
        flow.advance(time)
        assert relative_error(flow, torch.from_numpy(expected) - theta_0) < 0.01
        loss = loss_and_gradient(torch.from_numpy(expected))[0]
        assert flow.loss == pytest.approx(loss, abs=0.01 * (start_loss - loss))
        assert flow.action == pytest.approx(start_loss - loss, rel=0.01)


def test_flow_equals_small_gradient_steps_on_a_relu_network():
    loss_and_gradient, theta_0 = small_problem(smooth=False)
    end_time = 0.15
    descent = GradientDescent(loss_and_gradient, theta_0, 1e-4)
    flow = GradientFlow(loss_and_gradient, theta_0, end_time=end_time)
    for time in (0.01, 0.05, end_time):
        descent.advance(time)
        flow.advance(time)
        assert relative_error(flow, descent.displacement) < 0.01
        # Descent zigzags across a kink along which the flow slides: its path is longer.
        assert flow.path_length == pytest.approx(descent.path_length, rel=0.03)


def test_flow_is_the_limit_of_small_gradient_steps():
    loss_and_gradient, theta_0 = small_problem()
    flow = GradientFlow(loss_and_gradient, theta_0, relative_tolerance=1e-6, end_time=0.5)
    flow.advance(0.5)
    distances = []
    for steps in (400, 800):
        descent = GradientDescent(loss_and_gradient, theta_0, 0.5 / steps)
        descent.advance(0.5)
        distances.append((descent.displacement - flow.displacement).norm().item())
    assert distances[0] < 0.02 * flow.displacement.norm().item()
    assert distances[0] / distances[1] == pytest.approx(2.0, rel=0.1)  # first order in the step


# --- gradient descent -----------------------------------------------------------------------


def test_descent_follows_its_exact_solution_and_action():
    model, rate, steps = LinearModel(), 0.3, 50
    descent = GradientDescent(model.loss_and_gradient, model.theta_0, rate)
    descent.advance(rate * steps)
    factor = 1.0 - rate * model.rates
    torch.testing.assert_close(descent.weights, model.minimum * (1.0 - factor**steps))
    powers = factor[:, None] ** torch.arange(steps)
    speed_squares = (model.rates * model.squares) @ powers.square()
    assert descent.steps == steps
    assert descent.gradients == steps + 1
    assert descent.action == pytest.approx(rate * speed_squares.sum().item(), rel=1e-12)
    assert descent.path_length == pytest.approx(rate * speed_squares.sqrt().sum().item(), rel=1e-12)
    assert descent.time * descent.action >= descent.path_length**2


def test_descent_rounds_to_whole_steps():
    model = LinearModel()
    descent = GradientDescent(model.loss_and_gradient, model.theta_0, 0.1)
    descent.advance(0.26)
    assert (descent.steps, descent.time) == (3, pytest.approx(0.3))
    descent.advance(0.1)
    assert descent.steps == 3


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_rescaling_the_loss_rescales_time_alone(factor):
    loss_and_gradient, theta_0 = small_problem()

    def rescaled(theta):
        loss, gradient = loss_and_gradient(theta)
        return factor * loss, factor * gradient

    one = GradientFlow(loss_and_gradient, theta_0, end_time=1.0)
    other = GradientFlow(rescaled, theta_0, end_time=1.0 / factor)
    one.advance(1.0)
    other.advance(1.0 / factor)
    torch.testing.assert_close(one.weights, other.weights, rtol=0, atol=1e-6)
    assert other.path_length == pytest.approx(one.path_length, rel=1e-6)
    assert other.action == pytest.approx(one.action * factor, rel=1e-6)


# --- Langevin dynamics ----------------------------------------------------------------------


def test_langevin_has_the_moments_of_the_ornstein_uhlenbeck_process():
    rate, temperature, time, walkers = 1.0, 0.3, 1.5, 40_000
    start, variance_start = 2.0, 0.0

    def loss_and_gradient(theta):
        return 0.5 * rate * theta.square().sum().item(), rate * theta

    theta_0 = torch.full((walkers,), start, dtype=torch.float64)
    langevin = LangevinDynamics(loss_and_gradient, theta_0, 0.002, temperature, seed=5)
    langevin.advance(time)
    decay = math.exp(-rate * time)
    variance = temperature / rate + (variance_start - temperature / rate) * decay**2
    step_bias = 2 * rate * langevin.step  # Euler-Maruyama is of first order
    mean_error = 4.0 * math.sqrt(variance / walkers)
    assert langevin.weights.mean().item() == pytest.approx(start * decay, abs=mean_error + 0.004)
    spread = 4.0 * math.sqrt(2.0 / walkers) + step_bias
    assert langevin.weights.var().item() == pytest.approx(variance, rel=spread)


def test_langevin_without_noise_is_gradient_descent():
    loss_and_gradient, theta_0 = small_problem()
    descent = GradientDescent(loss_and_gradient, theta_0, 0.002)
    langevin = LangevinDynamics(loss_and_gradient, theta_0, 0.002, temperature=0.0, seed=1)
    descent.advance(0.1)
    langevin.advance(0.1)
    assert torch.equal(descent.weights, langevin.weights)
    assert descent.action == langevin.action


def test_noise_that_raises_the_loss_from_a_minimum_is_no_divergence():
    """A start without loss allows for that of equipartition, not for any multiple of nothing."""
    model = LinearModel()
    langevin = LangevinDynamics(model.loss_and_gradient, model.minimum, 0.1, 0.01, seed=1)
    langevin.advance(1.0)
    assert langevin.steps == 10 and langevin.loss > 0


def test_langevin_noise_belongs_to_seed_and_step():
    model = LinearModel()

    def run(seed):
        langevin = LangevinDynamics(model.loss_and_gradient, model.theta_0, 0.1, 1.0, seed)
        langevin.advance(1.0)
        return langevin.weights

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_heats_of_a_quadratic_loss_are_its_drop_and_the_work_of_the_noise_on_its_curvature():
    """By the midpoint heat is exact there; the curvature's is 1/2 dB . H . Delta theta a step."""
    model = LinearModel(modes=20)
    langevin = LangevinDynamics(model.loss_and_gradient, model.theta_0, 0.1, 0.3, seed=3)
    start_loss, work = langevin.loss, 0.0
    for count in range(1, 8):
        noise, place = langevin.noise, langevin.displacement
        langevin.advance(0.1 * count)
        kick, move = langevin.noise - noise, langevin.displacement - place
        work += 0.5 * torch.dot(kick, model.rates * move).item()
        assert langevin.heat == pytest.approx(start_loss - langevin.loss, rel=1e-9)
        assert langevin.curvature_heat == pytest.approx(work, rel=1e-9)


def test_langevin_resumes_with_its_heats_and_noise():
    model = LinearModel(modes=20)
    whole, first, second = (
        LangevinDynamics(model.loss_and_gradient, model.theta_0, 0.1, 0.3, seed=3) for _ in range(3)
    )
    first.advance(0.5)
    second.load_state(first.state())
    for langevin in (whole, second):
        langevin.advance(1.0)
    assert (whole.heat, whole.curvature_heat) == (second.heat, second.curvature_heat)
    assert torch.equal(whole.noise, second.noise)


# --- protocol -------------------------------------------------------------------------------

EVOLUTIONS = {
    "descent": lambda f, theta_0: GradientDescent(f, theta_0, 0.002),
    "flow": lambda f, theta_0: GradientFlow(f, theta_0, end_time=1.0),
    "langevin": lambda f, theta_0: LangevinDynamics(f, theta_0, 0.002, 0.01, seed=2),
}
ATTRIBUTES = (
    "time", "loss", "gradient_norm", "path_length", "action", "velocity_noise", "gradients",
    "steps",
)  # fmt: skip


class StopRequestedError(Exception):
    pass


@pytest.mark.parametrize("kind", EVOLUTIONS)
@pytest.mark.parametrize("stop_at_step", [1, 7])
def test_resumed_equals_uninterrupted_bit_for_bit(kind, stop_at_step, tmp_path):
    loss_and_gradient, theta_0 = small_problem()
    whole = EVOLUTIONS[kind](loss_and_gradient, theta_0)
    for time in (0.3, 0.5):
        whole.advance(time)

    def stop(evolution):
        if evolution.steps == stop_at_step:
            raise StopRequestedError

    first = EVOLUTIONS[kind](loss_and_gradient, theta_0)
    with pytest.raises(StopRequestedError):
        first.advance(0.3, on_step=stop)
    torch.save(first.state(), tmp_path / "state.pt")
    second = EVOLUTIONS[kind](loss_and_gradient, theta_0)
    second.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (second.time, second.lambda_1) == (first.time, first.lambda_1)
    assert second.speed(first.gradient) == first.speed(first.gradient)
    for time in (0.3, 0.5):
        second.advance(time)
    assert torch.equal(whole.weights, second.weights)
    for name in ATTRIBUTES:
        assert getattr(whole, name) == getattr(second, name), name


def test_flow_resumes_bit_for_bit_with_implicit_modes(tmp_path):
    model = LinearModel()
    whole, first, second = (
        GradientFlow(model.loss_and_gradient, model.theta_0, end_time=1e5) for _ in range(3)
    )
    first.advance(5e3)
    state = first.state()
    assert state["_stiff_eigenvalues"].numel() > 0
    torch.save(state, tmp_path / "state.pt")
    second.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert second.lambda_1 == first.lambda_1 == pytest.approx(float(model.rates.max()), rel=0.05)
    for flow in (whole, second):
        flow.advance(1e5)
    assert torch.equal(whole.weights, second.weights)
    for name in ATTRIBUTES:
        assert getattr(whole, name) == getattr(second, name), name


def test_flow_resumed_inside_a_step_reads_the_same_curve():
    loss_and_gradient, theta_0 = small_problem(smooth=False)
    whole, resumed = (
        GradientFlow(loss_and_gradient, theta_0, relative_tolerance=2e-2) for _ in range(2)
    )
    whole.advance(3.0)
    resumed.advance(0.1)  # its own curve, which the state must replace
    resumed.load_state(whole.state())
    steps, later = whole.steps, whole.time + 0.5 * (whole._end_time - whole.time)
    for time in (later, 6.0):  # inside this step, and after others
        for flow in (whole, resumed):
            flow.advance(time)
            assert flow.steps == steps if time == later else flow.steps > steps
        assert torch.equal(whole.weights, resumed.weights)
        for name in ATTRIBUTES:
            assert getattr(whole, name) == getattr(resumed, name), name
    assert whole.velocity_noise > 0


def test_products_of_a_step_are_taken_once(monkeypatch):
    loss_and_gradient, theta_0 = small_problem()
    flow = GradientFlow(loss_and_gradient, theta_0)
    flow.advance(3.0)
    steps, end = flow.steps, flow._end_time
    monkeypatch.setattr(torch, "dot", None)
    for time in torch.linspace(3.0, end, 5)[1:-1].tolist():
        flow.advance(time)
    assert flow.steps == steps and 3.0 < flow.time < end


@pytest.mark.parametrize("kind", EVOLUTIONS)
def test_state_does_not_change_as_the_evolution_goes_on(kind):
    evolution = EVOLUTIONS[kind](*small_problem())
    evolution.advance(0.1)
    state = evolution.state()
    copy = {k: v.clone() if torch.is_tensor(v) else v for k, v in state.items()}
    evolution.advance(0.3)
    for name, value in copy.items():
        same = torch.equal(value, state[name]) if torch.is_tensor(value) else value == state[name]
        assert same, name


def test_incomplete_or_foreign_states_are_refused():
    model = LinearModel()
    descent = GradientDescent(model.loss_and_gradient, model.theta_0, 0.1)
    state = descent.state()
    with pytest.raises(ValueError, match="lacks action"):
        descent.load_state({k: v for k, v in state.items() if k != "action"})
    other = LinearModel(modes=3)
    with pytest.raises(ValueError, match="shape"):
        GradientDescent(other.loss_and_gradient, other.theta_0, 0.1).load_state(state)


@pytest.mark.parametrize(
    "build",
    [
        lambda f, t: GradientDescent(f, t, 2.5, lambda_1=1.0),
        lambda f, t: HeavyBall(f, t, 2.5, 0.1, lambda_1=1.0),
        lambda f, t: LangevinDynamics(f, t, 2.5, 0.1, 0, lambda_1=1.0),
        lambda f, t: Adam(f, t, 2.5e6, 0.1, lambda_1=1.0),
    ],
)
def test_divergence_names_time_step_learning_rate_and_lambda_1(build):
    model = LinearModel()
    with pytest.raises(DivergenceError, match="time .*step .*learning rate 2.5.*lambda_1 1"):
        build(model.loss_and_gradient, model.theta_0).advance(1e7)


def test_divergence_is_a_million_times_the_loss_at_the_start():
    """Each step of descent multiplies the loss by 9; less than a million may be a catapult."""
    start = torch.ones(1, dtype=torch.float64)
    descent = GradientDescent(lambda theta: (0.5 * theta.item() ** 2, theta.clone()), start, 4.0)
    descent.advance(6 * 4.0)
    assert descent.loss == pytest.approx(0.5 * 9**6)
    with pytest.raises(DivergenceError, match="step 7"):
        descent.advance(7 * 4.0)


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_noise_may_cost_a_million_times_half_a_temperature_per_weight(share):
    weights, temperature, calls = 7, 0.2, []

    def loss_and_gradient(theta):
        calls.append(theta)
        loss = share * 1e6 * 0.5 * temperature * weights if len(calls) > 1 else 0.0
        return loss, torch.zeros_like(theta)

    start = torch.zeros(weights, dtype=torch.float64)
    langevin = LangevinDynamics(loss_and_gradient, start, 0.1, temperature, seed=1)
    if share < 1:
        langevin.advance(0.1)
        assert langevin.steps == 1
    else:
        with pytest.raises(DivergenceError):
            langevin.advance(0.1)


@pytest.mark.parametrize("kind", EVOLUTIONS)
def test_a_gradient_that_is_not_finite_is_a_divergence_whatever_the_loss(kind):
    def loss_and_gradient(theta):
        return 1.0, torch.full_like(theta, math.nan if theta.any() else -1.0)

    with pytest.raises(DivergenceError):
        EVOLUTIONS[kind](loss_and_gradient, torch.zeros(3, dtype=torch.float64)).advance(0.1)


@pytest.mark.parametrize("kind", EVOLUTIONS)
def test_weights_given_may_change_and_gradients_come_in_float32(kind):
    """The start is a copy: callers pass views of a network that goes on; states are float64."""
    loss_and_gradient, theta_0 = small_problem()

    def in_float32(theta):
        loss, gradient = loss_and_gradient(theta)
        return loss, gradient.float()

    given = theta_0.clone()
    one, other = (EVOLUTIONS[kind](in_float32, start) for start in (given, theta_0))
    given.fill_(7.0)
    for evolution in (one, other):
        evolution.advance(0.05)
    assert torch.equal(one.weights, other.weights) and one.loss == other.loss
    assert one.gradient.dtype == one.displacement.dtype == torch.float64


def test_flow_reports_a_loss_that_is_not_finite():
    def loss_and_gradient(theta):
        loss = math.nan if theta.item() > 0.5 else -theta.item()
        return loss, torch.full_like(theta, -1.0) * (1.0 + theta)

    flow = GradientFlow(loss_and_gradient, torch.zeros(1, dtype=torch.float64))
    with pytest.raises(DivergenceError, match="diverged"):
        flow.advance(2.0)


def test_flow_that_diverges_before_its_first_estimate_names_the_lambda_1_that_is_known():
    def loss_and_gradient(theta):
        return 1.0, torch.full_like(theta, math.nan if theta.any() else -1.0)

    start = torch.zeros(3, dtype=torch.float64)
    with pytest.raises(DivergenceError, match="at time 0, step 0, .*lambda_1 7.5 "):
        GradientFlow(loss_and_gradient, start, lambda_1=7.5).advance(1.0)


@pytest.mark.parametrize(
    "build",
    [
        lambda f, t: GradientDescent(f, t, 0.0),
        lambda f, t: GradientDescent(f, t, math.nan),
        lambda f, t: GradientDescent(f, t, math.inf),
        lambda f, t: GradientFlow(f, t, relative_tolerance=0.0),
        lambda f, t: LangevinDynamics(f, t, 0.1, -1.0, 0),
        lambda f, t: LangevinDynamics(f, t, 0.1, math.inf, 0),
    ],
)
def test_wrong_arguments_are_refused(build):
    model = LinearModel()
    with pytest.raises(ValueError, match="is"):
        build(model.loss_and_gradient, model.theta_0)


def test_action_is_freed_of_the_noise_of_velocities_at_relu_kinks():
    # So few ReLUs that the flow slides along their kinks: raw velocities there are noise.
    loss_and_gradient, theta_0 = small_problem(smooth=False)
    flow = GradientFlow(loss_and_gradient, theta_0, end_time=30.0)
    start_loss, last = flow.loss, 0.0
    for time in np.geomspace(1e-2, 30.0, 12):
        flow.advance(time)
        assert flow.velocity_noise >= last  # it accumulates
        assert time * flow.action >= flow.path_length**2 * (1 - 1e-12)
        last = flow.velocity_noise
    drop = start_loss - flow.loss
    raw = flow.action + flow.velocity_noise - drop
    assert raw > 0.05 * drop  # the case is one where it matters
    assert abs(flow.action - drop) < 0.5 * raw  # what remains is in the chords themselves


def test_the_first_step_starts_along_the_gradient_whatever_its_loss_is_off_by():
    # A few roundings of the loss in float32 are as much as the bend of the first step is worth.
    model, calls = LinearModel(), []

    def rounded(theta):
        loss, gradient = model.loss_and_gradient(theta)
        calls.append(loss)
        return loss * (1 + 1e-5 * (len(calls) > 1)), gradient

    flow = GradientFlow(rounded, model.theta_0)
    for time in (1e-5, 1e-3, 1e-2, 3e-2):
        flow.advance(time)
        assert flow.steps == 1
        assert relative_error(flow, model.displacement(time)) < 1e-3
        assert flow.action == pytest.approx(model.loss_drop(time), rel=2e-3)
        assert flow.path_length == pytest.approx(model.path_length(time), rel=1e-3)


def test_smooth_flow_has_no_velocity_noise_to_speak_of():
    loss_and_gradient, theta_0 = small_problem()
    flow = GradientFlow(loss_and_gradient, theta_0, end_time=3.0)
    start_loss = flow.loss
    flow.advance(3.0)
    assert flow.velocity_noise < 0.01 * (start_loss - flow.loss)


def test_lengths_between_any_two_times_are_those_of_one_curve():
    # Many times in each step, whose velocities are noisy: a warm start may lie at any of them.
    loss_and_gradient, theta_0 = small_problem(smooth=False)
    flow = GradientFlow(loss_and_gradient, theta_0, relative_tolerance=2e-2)
    times, lengths, actions, points = np.linspace(1.0, 10.0, 400), [], [], []
    for time in times:
        flow.advance(time)
        lengths.append(flow.path_length)
        actions.append(flow.action)
        points.append(flow.displacement)
    assert flow.steps < 200 and flow.velocity_noise > 0.02 * flow.action
    chords = torch.cdist(torch.stack(points), torch.stack(points)).numpy()
    later, earlier = np.tril_indices(len(times), -1)
    length = np.subtract.outer(lengths, lengths)[later, earlier]
    action = np.subtract.outer(actions, actions)[later, earlier]
    time = np.subtract.outer(times, times)[later, earlier]
    assert np.all(length >= chords[later, earlier] * (1 - 1e-7))
    assert np.all(time * action >= length**2 * (1 - 1e-7))


def test_gradients_may_be_written_into_one_tensor():
    """As where a loss returns p.grad, which the next backward pass overwrites."""
    model, kept = LinearModel(modes=5), torch.empty(5, dtype=torch.float64)

    def into_one(theta):
        loss, gradient = model.loss_and_gradient(theta)
        return loss, kept.copy_(gradient)

    for make in (
        lambda f: GradientFlow(f, model.theta_0),
        lambda f: LangevinDynamics(f, model.theta_0, 0.05, 0.1, 3),
        lambda f: HeavyBall(f, model.theta_0, 0.05, 0.9),
        lambda f: Adam(f, model.theta_0, 0.05, 0.9),
    ):
        own, shared = make(model.loss_and_gradient), make(into_one)
        for evolution in (own, shared):
            evolution.advance(2.0)
        assert shared.gradients == own.gradients
        for name, value in own.state().items():
            assert torch.equal(torch.as_tensor(shared.state()[name]), torch.as_tensor(value)), name
