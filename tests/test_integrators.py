"""Integrators that the benchmarks compare against closed forms and a general solver."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import expm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import gradient_flow
import integrators
import rock4

STEPS = np.array([0.02, 0.01, 0.005])
START = torch.tensor([1.0, -0.5, 0.8], dtype=torch.float64)
MATRIX = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 1.0]], dtype=torch.float64)


def velocity(u):
    """Minus the gradient of 1/2 u.A.u + sum of u^4/4 - cos u."""
    return -(MATRIX @ u + u**3 + torch.sin(u))


def slope(errors) -> float:
    return np.polyfit(np.log(STEPS), np.log(errors), 1)[0]


def exact_end(step: float) -> torch.Tensor:
    solution = solve_ivp(
        lambda _, u: velocity(torch.from_numpy(u)).numpy(), (0.0, step), START.numpy(),
        method="DOP853", rtol=1e-13, atol=1e-15,
    )  # fmt: skip
    return torch.from_numpy(solution.y[:, -1])


@pytest.mark.parametrize("order", [3, 4])
@pytest.mark.parametrize("stages", [2, 7])
def test_local_error_of_an_extrapolated_step_falls_with_its_order(order, stages):
    errors = []
    for step in STEPS:
        ends = integrators.extrapolated_step(velocity, START, velocity(START), step, stages, order)
        errors.append([(end - exact_end(step)).norm().item() for end in ends])
    of_end, of_embedded = np.array(errors).T
    assert slope(of_end) == pytest.approx(order + 1, abs=0.3)
    assert slope(of_embedded) == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize("stages", [5, 6, 20, 65])
def test_local_error_of_a_rock4_step_is_of_fifth_order_and_its_estimate_of_fourth(stages):
    method, errors = rock4.stabilised_method(stages), []
    for step in 4 * STEPS:
        end, velocities = method.step(velocity, START, velocity(START), step)
        estimate = method.local_error(velocities, velocity(end), step)
        errors.append([(end - exact_end(step)).norm().item(), estimate.norm().item()])
    of_end, of_estimate = np.array(errors).T
    assert slope(of_end) == pytest.approx(5, abs=0.3)
    assert slope(of_estimate) == pytest.approx(4, abs=0.3)
    assert of_estimate[-1] > of_end[-1]


@pytest.mark.parametrize("stages", [5, 11, 59, 107])
def test_rock4_is_stable_and_damps_on_an_interval_as_long_as_its_source_says(stages):
    polynomial = rock4.stability_polynomial(stages)
    values = polynomial(np.linspace(-polynomial.length, 0.0, 50 * stages**2))
    assert np.abs(values).max() <= 1.0
    assert np.abs(values[: values.size * 2 // 3]).max() <= rock4.DAMPING + 1e-6
    # Abdulle (2002): 0.35 s^2 for many stages, and less for few.
    assert polynomial.length / stages**2 == pytest.approx(0.351 - 2.8 / stages**2, abs=0.005)


def test_a_rock4_step_of_a_linear_model_multiplies_by_its_stability_polynomial():
    z = torch.tensor([-30.0, -20.0, -5.0, -1.0, 0.0], dtype=torch.float64)
    method = rock4.method_for(1.0, 30.0)
    start = torch.ones_like(z)
    end, _ = method.step(lambda u: z * u, start, z * start, 1.0)
    torch.testing.assert_close(end, torch.from_numpy(method.polynomial(z.numpy())))
    assert method.polynomial(np.array([-0.1]))[0] == pytest.approx(np.exp(-0.1), rel=1e-7)


def test_rock4_refuses_a_step_that_no_method_takes():
    with pytest.raises(ValueError, match="no method is stable for a step of 1"):
        rock4.method_for(1e9, 1e3)


@pytest.mark.parametrize("own_space", [True, False])
def test_local_error_of_an_exponential_step_falls_with_its_order(own_space):
    point = integrators.ExponentialPoint(
        velocity, START, velocity(START), 1e-6, own_space=own_space
    )
    errors = []
    for step in STEPS:
        point.space.resolve(1, step, 0.0)  # as many vectors as there are weights
        embedded = START + point.move(step)
        ends = embedded + point.correction(step, 0.0), embedded
        errors.append([(end - exact_end(step)).norm().item() for end in ends])
    of_end, of_embedded = np.array(errors).T
    assert slope(of_end) == pytest.approx(4, abs=0.3)
    assert slope(of_embedded) == pytest.approx(3, abs=0.3)


@pytest.mark.parametrize("index", range(5))
def test_phi_functions_are_those_of_their_matrix_exponential(index):
    # exp of [[z, 1, 0, ...], [0, 0, 1, ...], ...] has phi_k(z) in its first row.
    z = torch.tensor([-300.0, -3.0, -0.51, -0.49, -1e-4, 0.0, 0.3, 2.0], dtype=torch.float64)
    expected = []
    for value in z.tolist():
        matrix = np.eye(index + 1, k=1)
        matrix[0, 0] = value
        expected.append(expm(matrix)[0, index])
    torch.testing.assert_close(
        integrators.phi(index, z),
        torch.tensor(expected, dtype=torch.float64),
        rtol=1e-12,
        atol=1e-16,
    )


def test_krylov_space_gives_phi_of_a_matrix_within_its_error_estimate():
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(50, 50, generator=generator, dtype=torch.float64)).Q
    values = -torch.logspace(2, -2, 50, dtype=torch.float64)
    start = torch.randn(50, generator=generator, dtype=torch.float64)
    exact = basis @ (integrators.phi(1, values) * (basis.T @ start))
    space = integrators.KrylovSpace(lambda v: basis @ (values * (basis.T @ v)), start)
    for allowed in (1e-1, 1e-3, 1e-6):
        space.resolve(1, 1.0, allowed)
        approximate = space.vectors @ space.coefficients(1, 1.0)
        assert (approximate - exact).norm().item() < 2 * allowed
    assert len(space.images) < 50
    inside = space.apply(1, 1.0, space.vectors[:, 0] * start.norm())
    torch.testing.assert_close(inside, approximate)


@pytest.mark.parametrize("name", integrators.METHODS)
def test_integrators_follow_a_linear_model_at_every_recorded_time(name):
    problem = gradient_flow.power_law_problem()
    reference = [problem.exact(t) for t in problem.recorded_times(200.0)]
    errors = []
    for tolerance in (1e-2, 1e-4):
        trajectory, gradients = integrators.METHODS[name](problem, 200.0, tolerance)
        errors.append(gradient_flow.largest_distance(trajectory, reference))
        assert 0 < gradients < 1000
    assert errors[0] < 1e-2
    assert errors[1] < errors[0] / 10
