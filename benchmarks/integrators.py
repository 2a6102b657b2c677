"""Families of integrators of gradient flow side by side: gradients taken and error made.

    python benchmarks/integrators.py [--archive cifar-10-python.tar.gz] [--csv FILE]

* flow: this library's, RKC2 with the leading Hessian modes implicit;
* RKC2: the same with every mode explicit;
* RKC2 extrapolated to order 3 and 4: one, two (and three) steps over the same time, combined so
  that the errors of second (and third) order cancel;
* ROCK4: a stabilised method of fourth order, its coefficients computed (``rock4.py``);
* EXPRB32: exponential Rosenbrock method of order 3 (Hochbruck, Ostermann, Schweitzer, SIAM J.
  Numer. Anal. 47 (2009) 786-803) with Krylov spaces; its correction in a space of its own, or in
  that of the step, which costs no products. A product with the Hessian is a difference of two
  gradients, one of them known, as in the flow, and counts as one gradient.

All bound the local error of a step relative to the displacement, estimated as in the flow or by the
difference to the embedded method of an order less, and try at most twice the last step. Stabilised
methods share the flow's estimate of the spectral radius, which is counted, and its Hermite cubic
between steps; between those of EXPRB32 its own formula is read off. Problems, recorded times and
errors are those of ``gradient_flow.py``.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from measuring import conditions, positive, whole_number
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from gradient_flow import (
    REFERENCE_TOLERANCE,
    ExplicitFlow,
    LinearProblem,
    Problem,
    Row,
    largest_distance,
    load_images,
    network_problem,
    power_law_problem,
    run_flow,
    run_rkc2,
    timed,
    write_rows,
)
from rock4 import method_for

from speedlimits.dynamics import (
    DIFFERENCE_SIZE,
    STEP_GROWTH_LIMIT,
    step_factor,
)
from speedlimits.runge_kutta_chebyshev import BREAKDOWN, StiffPart, chebyshev_step, stages_needed

# Weights of the ends after 1, 2, 3 substeps, w_n: sum w_n = 1 and sum w_n / n^k = 0 for k = 2 (and
# 3), the errors of RKC2 over a fixed time; and those of the embedded method of an order less.
EXTRAPOLATIONS = {
    3: ((-1 / 3, 4 / 3), (0.0, 1.0)),
    4: ((1 / 12, -4 / 3, 9 / 4), (0.0, -4 / 5, 9 / 5)),
}
KRYLOV_SHARE = 0.1  # of the allowed error that a Krylov space may add
KRYLOV_LIMIT = 100  # vectors of a Krylov space; a step that needs more is shortened

Velocity = Callable[[Tensor], Tensor]


def extrapolated_step(
    velocity: Velocity,
    start: Tensor,
    velocity_start: Tensor,
    step: float,
    stages: int,
    order: int,
) -> tuple[Tensor, Tensor]:
    """Return the end of one extrapolated RKC2 step, and that of the embedded order.

    All substeps have the same number of stages s: the error's expansion in powers of the step
    holds for one method only. It takes s - 1 velocities of the step and n s - 1 of n substeps.
    """
    none = StiffPart.none(start)
    ends = []
    for number in range(1, order):
        u, v = start, velocity_start
        for k in range(number):
            v = velocity(u) if k else v
            u = chebyshev_step(velocity, u, v, step / number, stages, none)
        ends.append(u)
    weights = torch.tensor(EXTRAPOLATIONS[order], dtype=start.dtype)
    end, embedded = weights @ torch.stack(ends)
    return end, embedded


class ExtrapolatedFlow(ExplicitFlow):
    """Gradient flow by extrapolated RKC2, all else (spectral radius, cubic) as in the flow.

    Args:
        order: 3 or 4.
    """

    def __init__(self, loss_and_gradient, theta_0, *, order: int, **options):
        super().__init__(loss_and_gradient, theta_0, **options)
        self._error_order = order  # that of the embedded method's local error

    def _attempt(self, step: float) -> tuple[Tensor, float, Tensor, Tensor]:
        end, embedded = extrapolated_step(
            self._velocity,
            self._end,
            -self._end_gradient,
            step,
            stages_needed(step, self.spectral_radius),
            self._error_order,
        )
        return end, *self._evaluate(end), end - embedded


class Rock4Flow(ExplicitFlow):
    """Gradient flow by ROCK4, all else (spectral radius, cubic) as in the flow."""

    _error_order = 4

    def _attempt(self, step: float) -> tuple[Tensor, float, Tensor, Tensor]:
        method = method_for(step, self.spectral_radius)
        end, velocities = method.step(self._velocity, self._end, -self._end_gradient, step)
        loss, gradient = self._evaluate(end)
        return end, loss, gradient, method.local_error(velocities, -gradient, step)


def phi(index: int, z: Tensor) -> Tensor:
    """Return phi_k(z) = sum_j z^j / (j + k)!, so that phi_0 = exp, phi_1 = (exp(z) - 1) / z."""
    small = z.abs() < 0.5  # where the recurrence would cancel
    near, far = torch.where(small, z, 0.0), torch.where(small, 1.0, z)
    series = sum(near**j / math.factorial(j + index) for j in range(16))
    value = far.exp()
    for k in range(index):
        value = (value - 1.0 / math.factorial(k)) / far
    return torch.where(small, series, value)


class KrylovSpace:
    """Lanczos space of a symmetric J and a vector b, which gives phi_k(h J) b for every h.

    Attributes:
        images: J times each basis vector.
        vectors: V, shape (P, m), orthonormal.
    """

    def __init__(self, product: Callable[[Tensor], Tensor], start: Tensor):
        self._product, self._length = product, start.norm().item()
        self._next, self.images = start / self._length, []
        self.vectors = start.new_zeros(len(start), 0)
        self.extend()

    def extend(self) -> None:
        """Add a vector by one product; all are orthogonalised against each other, twice."""
        self.vectors = torch.column_stack([self.vectors, self._next])
        self.images.append(self._product(self._next))
        v, residual = self.vectors, self.images[-1]
        for _ in range(2):
            residual = residual - v @ (v.T @ residual)
        norm = residual.norm().item()
        complete = norm <= BREAKDOWN * self.images[-1].norm().item()
        self._coupling, self._next = (0.0, residual) if complete else (norm, residual / norm)
        matrix = v.T @ torch.stack(self.images, dim=1)
        self._values, self._rotation = torch.linalg.eigh(0.5 * (matrix + matrix.T))

    def coefficients(self, index: int, step: float) -> Tensor:
        """Return the components in V of phi_k(h J) b, shape (m,)."""
        first = self._rotation[0] * phi(index, step * self._values)
        return self._length * (self._rotation @ first)

    def apply(self, index: int, step: float, vector: Tensor) -> Tensor:
        """Return phi_k(h J) times any vector, J taken to be 0 outside the space."""
        inside = self._rotation.T @ (self.vectors.T @ vector)
        change = phi(index, step * self._values) - 1.0 / math.factorial(index)
        return vector / math.factorial(index) + self.vectors @ (self._rotation @ (change * inside))

    def error(self, index: int, step: float) -> float:
        """Return the first term of the error of phi_k(h J) b, its norm."""
        last = self.coefficients(index + 1, step)[-1].item()
        return step * self._coupling * abs(last)

    def resolve(self, index: int, step: float, allowed: float) -> float:
        """Extend the space until phi_k(h J) b is right to ``allowed``; return h.

        Where the limit of vectors is reached h is halved until it is.
        """
        while self.error(index, step) > allowed:
            if len(self.images) < KRYLOV_LIMIT:
                self.extend()
            else:
                step *= 0.5
        return step


class ExponentialPoint:
    """EXPRB32 steps of d u/dt = v(u) = v_0 + J (u - u_0) + ... from one point, of any length.

    Args:
        velocity: v.
        start: u_0, shape (P,).
        velocity_start: v_0, shape (P,).
        size: distance of the points whose velocities are subtracted in a product with J.
        own_space: whether the correction has a Krylov space of its own.
    """

    def __init__(
        self,
        velocity: Velocity,
        start: Tensor,
        velocity_start: Tensor,
        size: float,
        *,
        own_space: bool,
    ):
        self._velocity, self._start, self._velocity_start = velocity, start, velocity_start
        self._size, self._own_space = size, own_space
        self.space = KrylovSpace(self._product, velocity_start)

    def _product(self, vector: Tensor) -> Tensor:
        scale = self._size / vector.norm().item()
        return (self._velocity(self._start + scale * vector) - self._velocity_start) / scale

    def move(self, step: float) -> Tensor:
        """Return h phi_1(h J) v_0, the step of second order."""
        return step * (self.space.vectors @ self.space.coefficients(1, step))

    def correction(self, step: float, allowed: float) -> Tensor:
        """Return 2 h phi_3(h J) D, D = v(u) - v_0 - J (u - u_0) after the step of second order.

        It makes the step one of third order and is the error estimate.

        Args:
            step: h.
            allowed: error that the Krylov space may add.
        """
        components = step * self.space.coefficients(1, step)
        linear = torch.stack(self.space.images, dim=1) @ components
        end = self._start + self.move(step)
        defect = self._velocity(end) - self._velocity_start - linear
        if not self._own_space or not defect.any() or not torch.isfinite(defect).all():
            return 2.0 * step * self.space.apply(3, step, defect)
        space = KrylovSpace(self._product, defect)
        space.resolve(3, step, allowed / (2.0 * step))
        return 2.0 * step * (space.vectors @ space.coefficients(3, step))


def run_exponential(
    problem: Problem, end: float, tolerance: float, *, own_space: bool
) -> tuple[list[Tensor], int]:
    """Return displacements at the recorded times and the number of gradients of EXPRB32.

    The Krylov space of a point serves every step from it: a rejected step costs one gradient, and
    one so accurate that the next could be twice as long is tried at twice its length.
    """
    count = 0

    def velocity(u: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return -problem.loss_and_gradient(problem.theta_0 + u)[1].to(torch.float64)

    times = problem.recorded_times(end)
    u, t, step, trajectory = torch.zeros_like(problem.theta_0), 0.0, 0.0, []
    v = velocity(u)
    while t < times[-1] * (1.0 - 1e-12):
        size = DIFFERENCE_SIZE * ((problem.theta_0 + u).norm().item() or 1.0)
        point = ExponentialPoint(velocity, u, v, size, own_space=own_space)
        # The first step as in the flow, from |J v| / |v|, a lower bound of lambda_1.
        first = math.sqrt(tolerance) / point.space.images[0].norm().item()
        step = min(step or first, times[-1] - t)
        taken, correction, factor = 0.0, torch.zeros_like(u), 1.0
        while True:
            allowed = tolerance * (u + point.move(step)).norm().item()
            resolved = point.space.resolve(1, step, KRYLOV_SHARE * allowed / step)
            if resolved < step and taken:
                break
            step = resolved
            change = point.correction(step, KRYLOV_SHARE * allowed)
            error = (change.norm() / (u + point.move(step)).norm()).item() / tolerance
            if error <= 1.0:
                taken, correction, factor = step, change, step_factor(error, 3)
                if factor < STEP_GROWTH_LIMIT or t + step >= times[-1]:
                    break
                step = min(factor * step, times[-1] - t)
            elif taken:
                break
            else:
                step *= step_factor(error, 3)
                if t + step == t:
                    raise RuntimeError(f"no step is accurate enough at time {t:g}")
        while len(trajectory) < len(times) and times[len(trajectory)] <= (t + taken) * (1 + 1e-12):
            elapsed = times[len(trajectory)] - t
            trajectory.append(u + point.move(elapsed) + (elapsed / taken) ** 3 * correction)
        u, t, step = u + point.move(taken) + correction, t + taken, factor * taken
        v = velocity(u)
    return trajectory, count


METHODS: dict[str, Callable[[Problem, float, float], tuple[list[Tensor], int]]] = {
    "flow": run_flow,
    "RKC2": run_rkc2,
    "RKC2 extrapolated, order 3": partial(run_flow, kind=partial(ExtrapolatedFlow, order=3)),
    "RKC2 extrapolated, order 4": partial(run_flow, kind=partial(ExtrapolatedFlow, order=4)),
    "ROCK4": partial(run_flow, kind=Rock4Flow),
    "EXPRB32": partial(run_exponential, own_space=True),
    "EXPRB32, correction in the step's space": partial(run_exponential, own_space=False),
}


def rows(
    problem: Problem, end: float, tolerances: Sequence[float], reference: list[Tensor]
) -> Iterator[Row]:
    """Yield the rows of all methods at all tolerances to lambda_1 T = end."""
    for name, method in METHODS.items():
        for tolerance in tolerances:
            trajectory, gradients, seconds = timed(partial(method, problem, end, tolerance))
            error = largest_distance(trajectory, reference)
            method_name = f"{name}, tolerance {tolerance:g}"
            yield Row(problem.name, end, method_name, gradients, error, seconds)


def main() -> None:
    """Run the chosen parts, print the table and write the CSV file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--archive", type=Path, help="CIFAR-10 python archive (default: digits)")
    parser.add_argument("--csv", type=Path, default=Path("integrators.csv"))
    parser.add_argument(
        "--parts", nargs="+", choices=("power-law", "network"), default=("power-law", "network")
    )
    parser.add_argument("--times", nargs="+", type=positive, default=(2e3, 2e4, 2e5))
    parser.add_argument(
        "--tolerances", nargs="+", type=positive, default=(1e-1, 3e-2, 1e-2, 2e-3, 3e-4)
    )
    parser.add_argument("--network-times", nargs="+", type=positive, default=(1e2, 2e3))
    parser.add_argument(
        "--network-tolerances", nargs="+", type=positive, default=(1e-2, 2e-3, 5e-4)
    )
    parser.add_argument("--images", type=whole_number, default=32)
    parser.add_argument("--threads", type=whole_number, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    def all_rows() -> Iterator[Row]:
        if "power-law" in arguments.parts:
            linear: LinearProblem = power_law_problem()
            for end in arguments.times:
                exact = [linear.exact(t) for t in linear.recorded_times(end)]
                yield from rows(linear, end, arguments.tolerances, exact)
        if "network" in arguments.parts:
            network = network_problem(*load_images(arguments.archive, arguments.images), 16)
            for end in arguments.network_times:
                reference, count, seconds = timed(
                    partial(run_flow, network, end, REFERENCE_TOLERANCE)
                )
                name = f"flow, tolerance {REFERENCE_TOLERANCE:g} (reference)"
                yield Row(network.name, end, name, count, 0.0, seconds)
                yield from rows(network, end, arguments.network_tolerances, reference)

    print(conditions(arguments.threads), "\n")
    write_rows(all_rows(), arguments.csv)


if __name__ == "__main__":
    main()
