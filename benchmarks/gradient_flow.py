"""Gradients that each method needs to follow gradient flow to a training time T.

    python benchmarks/gradient_flow.py [--archive cifar-10-python.tar.gz] [--csv FILE]

``--parts sensitivity`` says what limits the third problem: arithmetic, the flow itself, the method.

Three problems, images from the CIFAR-10 python archive or else scikit-learn's digits:

* power law: lambda_k = k^-2.2, Delta_k^2 = k^-0.35, 640 modes (the fit of a Myrtle-5 on images);
* linearised: Myrtle-5 linearised at its start, with its measured spectrum. Every method here
  commutes with rotations of weight space (the flow up to rounding: in the eigenbasis nothing mixes
  a mode that has decayed back in, and its search for stiff modes may miss the first; at a few
  tolerances it then takes many more gradients), so the model is run in the kernel's eigenbasis;
* feature learning: Myrtle-5 with 16 channels in full, 32 images.

The error is |theta - reference| / |theta_t - theta_0|, the largest over recorded times from
lambda_1 t = 0.1 to lambda_1 T, eleven a decade. The reference is exact for the first two and the
flow at a tight tolerance for the third. Peers: SciPy's explicit RK23 and RK45 and implicit BDF and
Radau (linear problems only: their dense Jacobians, by differences, count with one gradient a
weight), torchdiffeq's dopri5 (``pip install -r benchmarks/requirements-flow.txt``), the first-order
Runge-Kutta-Chebyshev method RKC1 and the flow without its implicit modes (RKC2).

"Descent at 1 %" takes the largest constant step whose error stays below 1 % at every recorded time:
by bisection on the exact solution for the first two; for the third from a run up to lambda_1 t = 20
only, so that its count is a lower bound.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from measuring import conditions, fitted_power, positive, whole_number
from scipy.integrate import solve_ivp
from torch import Tensor
from torch.nn.utils import parameters_to_vector

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from pipeline.cifar10 import read_archive
from speedlimits.dynamics import RELATIVE_TOLERANCE, GradientDescent, GradientFlow
from speedlimits.gradient import TrainingLoss
from speedlimits.kernel import empirical_ntk
from speedlimits.networks import initialise_, myrtle5
from speedlimits.spectrum import eigenvalues_and_projections

ACCURACY = 0.01
FIRST_TIME = 0.1  # in units of 1/lambda_1
TIMES_PER_DECADE = 11
REFERENCE_TOLERANCE = 1e-5
RKC1_DAMPING = 0.05  # of Verwer, Hundsdorfer, Sommeijer, Numer. Math. 57 (1990) 157-178
RKC1_STABILITY = 1.9  # step * lambda_1 over stages^2 at that damping (2 - 4/3 of it is 1.93)
EARLY_TIME = 20.0  # where the constant step of the third problem is tested, in 1/lambda_1
MOVES = (1e-9, 1e-7)  # of |theta_0|; float32 rounds every weight by up to 6e-8 of its size
PROBE_STEP = 0.02  # the step tested there, in 1/lambda_1: its error is about 1 %
SEED = 0

LossAndGradient = Callable[[Tensor], tuple[float, Tensor]]


@dataclass(frozen=True)
class Row:
    """One line of the table; times are lambda_1 T."""

    problem: str
    time: float
    method: str
    gradients: int
    error: float
    seconds: float


class Problem:
    """A loss with its start, its largest eigenvalue and the exact displacement if there is one."""

    def __init__(
        self, name: str, loss_and_gradient: LossAndGradient, theta_0: Tensor, lambda_1: float
    ):
        self.name, self.loss_and_gradient = name, loss_and_gradient
        self.theta_0, self.lambda_1 = theta_0, lambda_1

    def recorded_times(self, end: float) -> list[float]:
        """Return the recorded times up to lambda_1 T = end, in units of training time."""
        count = 1 + math.ceil(TIMES_PER_DECADE * math.log10(end / FIRST_TIME))
        return (np.geomspace(FIRST_TIME, end, count) / self.lambda_1).tolist()


class LinearProblem(Problem):
    """L = 1/2 sum (Delta_k - sqrt(lambda_k) u_k)^2 in the eigenbasis of the kernel, u_0 = 0."""

    def __init__(self, name: str, eigenvalues: Tensor, squares: Tensor):
        self.rates, self.minimum = eigenvalues, (squares / eigenvalues).sqrt()
        super().__init__(
            name, self._loss_and_gradient, torch.zeros_like(eigenvalues), eigenvalues.max().item()
        )

    def _loss_and_gradient(self, theta: Tensor) -> tuple[float, Tensor]:
        offset = theta - self.minimum
        gradient = self.rates * offset
        return 0.5 * torch.dot(offset, gradient).item(), gradient

    def exact(self, t: float) -> Tensor:
        """Return the displacement of gradient flow at time t."""
        return -self.minimum * torch.expm1(-self.rates * t)

    def descent_error(self, step: float, times: list[float]) -> float:
        """Return the largest error of gradient descent, from its exact solution.

        Between steps the polygon through the steps is read off.
        """
        factor, errors = 1.0 - self.rates * step, []
        for t in times:
            whole, part = int(t / step), t / step - int(t / step)
            decay = factor**whole * (1.0 - part * self.rates * step)
            errors.append(distance(self.minimum * (1.0 - decay), self.exact(t)))
        return max(errors)

    def descent_step(self, times: list[float]) -> float:
        """Return the largest step with an error of at most 1 % at all times."""
        low, high = 1e-5 / self.lambda_1, 1.0 / self.lambda_1
        for _ in range(30):
            middle = math.sqrt(low * high)
            accurate = self.descent_error(middle, times) <= ACCURACY
            low, high = (middle, high) if accurate else (low, middle)
        return low


def distance(displacement: Tensor, reference: Tensor) -> float:
    """Return |u - u_reference| / |u_reference|."""
    return ((displacement - reference).norm() / reference.norm()).item()


def largest_distance(trajectory: list[Tensor], reference: list[Tensor]) -> float:
    """Return the largest relative distance over the recorded times."""
    return max(distance(u, v) for u, v in zip(trajectory, reference, strict=True))


class ExplicitFlow(GradientFlow):
    """Gradient flow by plain RKC2, in which every mode is explicit."""

    def _deflate_if_worthwhile(self) -> None:
        pass


def run_flow(
    problem: Problem, end: float, tolerance: float, kind: Callable[..., GradientFlow] = GradientFlow
) -> tuple[list[Tensor], int]:
    """Return displacements at the recorded times and the number of gradients."""
    times = problem.recorded_times(end)
    flow = kind(
        problem.loss_and_gradient,
        problem.theta_0,
        relative_tolerance=tolerance,
        end_time=times[-1],
    )
    trajectory = []
    for t in times:
        flow.advance(t)
        trajectory.append(flow.displacement)
    return trajectory, flow.gradients


def run_descent(problem: Problem, end: float, step: float) -> tuple[list[Tensor], int]:
    """Return displacements at the recorded times and the number of gradients.

    Between steps the polygon is read off linearly, so that rounding to whole steps is no error.
    """
    descent = GradientDescent(problem.loss_and_gradient, problem.theta_0, step)
    trajectory = []
    for t in problem.recorded_times(end):
        descent.advance(math.floor(t / step) * step)
        slope = problem.loss_and_gradient(descent.weights)[1]  # not counted: only reads off
        trajectory.append(descent.displacement - (t - descent.time) * slope)
    return trajectory, descent.gradients


def run_scipy(
    problem: Problem, end: float, method: str, tolerance: float
) -> tuple[list[Tensor], int]:
    """Return displacements at the recorded times and the number of gradients of ``solve_ivp``.

    The absolute tolerance is the relative one times the typical displacement of a weight at the
    first recorded time, so that early times are resolved.
    """
    times = problem.recorded_times(end)
    start_speed = problem.loss_and_gradient(problem.theta_0)[1].norm().item()
    absolute = tolerance * times[0] * start_speed / math.sqrt(problem.theta_0.numel())

    count = 0

    def velocity(_: float, u: np.ndarray) -> np.ndarray:
        nonlocal count
        count += 1  # nfev leaves out the gradients of numerical Jacobians
        return -problem.loss_and_gradient(problem.theta_0 + torch.from_numpy(u))[1].numpy()

    solution = solve_ivp(
        velocity,
        (0.0, times[-1]),
        np.zeros(problem.theta_0.numel()),
        method=method,
        t_eval=times,
        rtol=tolerance,
        atol=absolute,
    )
    if not solution.success:
        raise RuntimeError(f"solve_ivp failed: {solution.message}")
    return list(torch.from_numpy(solution.y.T.copy())), count


def run_rkc2(problem: Problem, end: float, tolerance: float) -> tuple[list[Tensor], int]:
    """Return what ``run_flow`` returns, with every mode explicit."""
    return run_flow(problem, end, tolerance, kind=ExplicitFlow)


def run_rkc1(problem: Problem, end: float, tolerance: float) -> tuple[list[Tensor], int]:
    """Return displacements at the recorded times and the number of gradients of RKC1.

    The step is limited by the local error h |v_1 - v_0| / 2 <= tolerance |u_1|, by growth to the
    double and by the next recorded time; the spectral radius is taken as known, lambda_1.
    """

    def velocity(displacement: Tensor) -> Tensor:
        return -problem.loss_and_gradient(problem.theta_0 + displacement)[1]

    u = torch.zeros_like(problem.theta_0)
    v, count, t, step, trajectory = velocity(u), 1, 0.0, 1e-3 / problem.lambda_1, []
    for until in problem.recorded_times(end):
        while t < until * (1.0 - 1e-12):
            h = min(step, until - t)
            stages = 1 + math.floor(math.sqrt(h * problem.lambda_1 / RKC1_STABILITY))
            ahead = rkc1_step(velocity, u, v, h, stages)
            v_ahead, count = velocity(ahead), count + stages
            error = 0.5 * h * (v_ahead - v).norm().item() / (tolerance * ahead.norm().item())
            if error <= 1.0:
                u, v, t = ahead, v_ahead, t + h
            step = h * min(2.0, 0.9 / math.sqrt(max(error, 0.1)))
        trajectory.append(u)
    return trajectory, count


def rkc1_step(
    velocity: Callable[[Tensor], Tensor], start: Tensor, slope: Tensor, step: float, stages: int
) -> Tensor:
    """Return the end of one damped RKC1 step with s stages, s - 1 velocities being taken.

    Y_j = 2 w_0 (T_j-1 / T_j) Y_j-1 - (T_j-2 / T_j) Y_j-2 + 2 w_1 (T_j-1 / T_j) h v(Y_j-1), T_j
    Chebyshev polynomials at w_0 = 1 + damping / s^2, w_1 = T_s / T_s' (Verwer et al. 1990).
    """
    w_0 = 1.0 + RKC1_DAMPING / stages**2
    t, dt = [1.0, w_0], [0.0, 1.0]
    for _ in range(2, stages + 1):
        dt.append(2.0 * t[-1] + 2.0 * w_0 * dt[-1] - dt[-2])
        t.append(2.0 * w_0 * t[-1] - t[-2])
    w_1 = t[stages] / dt[stages]
    before, now = start, start + (w_1 / w_0 * step) * slope
    for j in range(2, stages + 1):
        ratio = t[j - 1] / t[j]
        ahead = 2.0 * w_0 * ratio * now - (t[j - 2] / t[j]) * before
        before, now = now, ahead + (2.0 * w_1 * ratio * step) * velocity(now)
    return now


def run_torchdiffeq(problem: Problem, end: float, tolerance: float) -> tuple[list[Tensor], int]:
    """Return displacements at the recorded times and gradients of torchdiffeq's dopri5."""
    from torchdiffeq import odeint  # optional: only where it is installed

    times = problem.recorded_times(end)
    count = 0

    def velocity(_: Tensor, u: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return -problem.loss_and_gradient(problem.theta_0 + u)[1]

    start_speed = problem.loss_and_gradient(problem.theta_0)[1].norm().item()
    absolute = tolerance * times[0] * start_speed / math.sqrt(problem.theta_0.numel())
    grid = torch.tensor([0.0, *times], dtype=torch.float64)
    start = torch.zeros_like(problem.theta_0)
    solution = odeint(velocity, start, grid, rtol=tolerance, atol=absolute, method="dopri5")
    return list(solution[1:]), count


def timed(run: Callable[[], tuple[list[Tensor], int]]) -> tuple[list[Tensor], int, float]:
    """Return the result of ``run`` and its processor seconds."""
    start = time.process_time()
    trajectory, gradients = run()
    return trajectory, gradients, time.process_time() - start


def general_solvers(problem: Problem, end: float) -> Iterator[tuple[str, Callable]]:
    """Yield (name, run) of the peers: SciPy and, where it is installed, torchdiffeq."""
    implicit = ("BDF", "Radau") if isinstance(problem, LinearProblem) else ()
    for method in ("RK23", "RK45", *implicit):
        yield f"SciPy {method}, rtol 1e-3", lambda m=method: run_scipy(problem, end, m, 1e-3)
    if importlib.util.find_spec("torchdiffeq") is not None:
        yield "torchdiffeq dopri5, rtol 1e-3", lambda: run_torchdiffeq(problem, end, 1e-3)


def linear_rows(problem: LinearProblem, end: float, peers_up_to: float) -> Iterator[Row]:
    """Yield the rows of a linear problem to lambda_1 T = end."""
    times = problem.recorded_times(end)
    reference = [problem.exact(t) for t in times]

    def row(method: str, run: Callable) -> Row:
        trajectory, gradients, seconds = timed(run)
        error = largest_distance(trajectory, reference)
        return Row(problem.name, end, method, gradients, error, seconds)

    for tolerance in (RELATIVE_TOLERANCE, 1e-2):
        name = f"flow, tolerance {tolerance:g}"
        yield row(name, lambda tol=tolerance: run_flow(problem, end, tol))
    yield row(
        f"RKC2, tolerance {RELATIVE_TOLERANCE:g}",
        lambda: run_rkc2(problem, end, RELATIVE_TOLERANCE),
    )
    for tolerance in (1e-3, 1e-4):
        yield row(
            f"RKC1, tolerance {tolerance:g}", lambda tol=tolerance: run_rkc1(problem, end, tol)
        )
    for name, step in (
        ("descent at 1 %", problem.descent_step(times)),
        ("descent, step 1/lambda_1", 1.0 / problem.lambda_1),
    ):
        error = problem.descent_error(step, times)
        yield Row(problem.name, end, name, math.ceil(times[-1] / step), error, math.nan)
    if end <= peers_up_to:
        for name, run in general_solvers(problem, end):
            yield row(name, run)


def accurate_descent_step(problem: Problem, tight: float) -> float:
    """Return the step that is within 1 % up to lambda_1 t = 20; the error is linear in the step."""
    reference, _ = run_flow(problem, EARLY_TIME, tight)
    step = PROBE_STEP / problem.lambda_1
    trajectory, _ = run_descent(problem, EARLY_TIME, step)
    return step * ACCURACY / largest_distance(trajectory, reference)


def network_rows(
    problem: Problem, end: float, tight: float, tolerances: Sequence[float], peers_up_to: float
) -> Iterator[Row]:
    """Yield the rows of a network trained in full to lambda_1 T = end.

    Args:
        problem: of the network.
        end: lambda_1 T.
        tight: tolerance of the reference.
        tolerances: of the other runs.
        peers_up_to: largest end to which constant steps and general solvers are run.
    """
    reference, gradients, seconds = timed(lambda: run_flow(problem, end, tight))
    name = f"flow, tolerance {tight:g} (reference)"
    yield Row(problem.name, end, name, gradients, 0.0, seconds)
    runs = [
        (f"flow, tolerance {tolerance:g}", lambda tol=tolerance: run_flow(problem, end, tol))
        for tolerance in tolerances
    ]
    if end <= peers_up_to:
        step = 0.5 / problem.lambda_1  # lambda_1 grows severalfold: 1/lambda_1 diverges
        runs.append(("descent, step 0.5/lambda_1", lambda: run_descent(problem, end, step)))
        runs += general_solvers(problem, end)
    for name, run in runs:
        trajectory, gradients, seconds = timed(run)
        error = largest_distance(trajectory, reference)
        yield Row(problem.name, end, name, gradients, error, seconds)
    least = math.ceil(end / (problem.lambda_1 * accurate_descent_step(problem, tight)))
    yield Row(problem.name, end, "descent at 1 % (lower bound)", least, ACCURACY, math.nan)


def sensitivity_rows(
    inputs: Tensor, targets: Tensor, width: int, end: float, tolerance: float
) -> Iterator[Row]:
    """Yield how far changes of one thing each carry the flow of a network trained in full.

    All against one run in float64: another arithmetic, a start moved by a part of |theta_0| in a
    random direction, and a third of the tolerance. The error is the largest up to each decade of
    time. Distances in proportion to the move are the flow's own sensitivity; the distance at a
    third of the tolerance is the method's error.
    """
    problem = network_problem(inputs, targets, width, torch.float64)
    start = problem.theta_0
    direction = torch.randn(len(start), generator=torch.Generator().manual_seed(SEED)).double()
    move = direction / direction.norm() * start.norm()
    changes: list[tuple[str, torch.dtype, float, float]] = [
        ("reference", torch.float64, 0.0, 1.0),
        ("float32", torch.float32, 0.0, 1.0),
        *((f"start moved by {size:g}", torch.float64, size, 1.0) for size in MOVES),
        ("a third of the tolerance", torch.float64, 0.0, 1 / 3),
    ]
    reference: list[Tensor] = []
    for name, dtype, size, factor in changes:
        problem = network_problem(inputs, targets, width, dtype)
        problem.theta_0 = start + size * move
        trajectory, gradients, seconds = timed(
            lambda problem=problem, factor=factor: run_flow(problem, end, factor * tolerance)
        )
        reference = reference or trajectory
        times = np.array(problem.recorded_times(end)) * problem.lambda_1
        for decade in [t for t in 10.0 ** np.arange(1, 9) if t < end] + [end]:
            kept = int((times <= decade * (1 + 1e-9)).sum())
            error = largest_distance(trajectory[:kept], reference[:kept])
            method = f"{name}, tolerance {factor * tolerance:.2g}"
            yield Row(problem.name, decade, method, gradients, error, seconds)


def load_images(archive: Path | None, count: int) -> tuple[Tensor, Tensor]:
    """Return standardised images (N, channels, H, W), float32, and one-hot targets (N, 10)."""
    if archive is None:
        from sklearn.datasets import load_digits  # only where no archive is given

        images, labels = load_digits(return_X_y=True)
        images = images.reshape(-1, 1, 8, 8)
    else:
        try:
            content = read_archive(archive)
        except (OSError, ValueError) as error:
            sys.exit(f"--archive {archive}: {error}")
        images, labels = content["train_images"], content["train_labels"]
    if count > len(images):
        sys.exit(f"{count} images were asked for; there are {len(images)}")
    chosen = np.random.default_rng(SEED).choice(len(images), count, replace=False)
    inputs = torch.from_numpy(images[chosen]).to(torch.float32)
    inputs = inputs - inputs.mean(dim=(0, 2, 3), keepdim=True)
    inputs = inputs / inputs.std(dim=(0, 2, 3), keepdim=True)
    targets = torch.nn.functional.one_hot(torch.from_numpy(labels[chosen]).long(), 10)
    return inputs, targets.to(torch.float32)


def make_network(inputs: Tensor, width: int) -> torch.nn.Module:
    """Return a Myrtle-5 in NTK parameterisation with its start drawn."""
    network = myrtle5(
        input_shape=tuple(inputs.shape[1:]), outputs=10, width=width, parameterisation="ntk"
    )
    return initialise_(network, torch.Generator().manual_seed(SEED))


def linearised_problem(inputs: Tensor, targets: Tensor, width: int) -> LinearProblem:
    """Return the linearised Myrtle-5 in the eigenbasis of its kernel at the start."""
    network = make_network(inputs, width).double()
    kernel = empirical_ntk(network, inputs.double())
    with torch.no_grad():
        residue = (targets.double() - network(inputs.double())).reshape(-1)
    eigenvalues, squares = eigenvalues_and_projections(kernel.numpy(), residue.numpy())
    kept = eigenvalues > 1e-12 * eigenvalues.max()  # below lies rounding error
    name = f"linearised Myrtle-5, {width} channels, {len(inputs)} images"
    return LinearProblem(
        name, torch.from_numpy(eigenvalues[kept].copy()), torch.from_numpy(squares[kept].copy())
    )


def power_law_problem() -> LinearProblem:
    """Return the power-law model with 640 modes."""
    rank = torch.arange(1, 641, dtype=torch.float64)
    return LinearProblem("power law 2.2, 0.35, 640 modes", rank**-2.2, rank**-0.35)


def network_problem(
    inputs: Tensor, targets: Tensor, width: int, dtype: torch.dtype = torch.float32
) -> Problem:
    """Return the training of a Myrtle-5 in the given arithmetic, from the same start."""
    network = make_network(inputs, width).to(dtype)
    loss = TrainingLoss(network, inputs.to(dtype), targets.to(dtype))
    theta_0 = parameters_to_vector(network.parameters()).detach().double()
    kernel = empirical_ntk(make_network(inputs, width).double(), inputs.double())
    lambda_1 = float(torch.linalg.eigvalsh(kernel)[-1])
    name = f"Myrtle-5, {width} channels, {len(inputs)} images"
    name += ", float64" if dtype == torch.float64 else ""
    return Problem(name, loss.loss_and_gradient, theta_0, lambda_1)


def write_rows(rows: Iterable[Row], path: Path) -> list[Row]:
    """Print rows as a Markdown table and write them to a CSV file, each as it comes; return all."""
    found = []
    print("| problem | lambda_1 T | method | gradients | largest error | seconds |")
    print("|---|---|---|---|---|---|")
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(Row.__dataclass_fields__))
        writer.writeheader()
        for row in rows:
            seconds = "" if math.isnan(row.seconds) else f"{row.seconds:.1f}"
            print(
                f"| {row.problem} | {row.time:g} | {row.method} | {row.gradients} "
                f"| {row.error:.1e} | {seconds} |",
                flush=True,
            )
            writer.writerow(asdict(row))
            file.flush()
            found.append(row)
    return found


def scaling(rows: Sequence[Row]) -> Iterator[str]:
    """Yield, for methods with three times or more of a problem, the power of T of gradients."""
    for problem, method in dict.fromkeys((row.problem, row.method) for row in rows):
        chosen = [row for row in rows if (row.problem, row.method) == (problem, method)]
        if len({row.time for row in chosen}) >= 3:
            power = fitted_power([row.time for row in chosen], [row.gradients for row in chosen])
            yield f"| {problem} | {method} | {power} | {power.points} |"


def main() -> None:
    """Run the chosen parts, print the tables and write the CSV file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--archive", type=Path, help="CIFAR-10 python archive (default: digits)")
    parser.add_argument("--csv", type=Path, default=Path("gradient_flow.csv"))
    parser.add_argument(
        "--parts", nargs="+", choices=("power-law", "linearised", "network", "sensitivity"),
        default=("power-law", "linearised", "network"),
    )  # fmt: skip
    parser.add_argument("--images", type=whole_number, default=32)
    parser.add_argument(
        "--width", type=whole_number, default=64, help="channels of the linearised network"
    )
    parser.add_argument("--times", nargs="+", type=positive, default=(2e3, 2e4, 2e5))
    parser.add_argument(
        "--peers-up-to", type=positive, default=2e4, help="largest time of the peers"
    )
    parser.add_argument("--network-times", nargs="+", type=positive, default=(2e3,))
    parser.add_argument(
        "--reference-tolerance", type=positive, default=REFERENCE_TOLERANCE,
        help="of the reference of the network trained in full",
    )  # fmt: skip
    parser.add_argument(
        "--network-tolerances", nargs="+", type=positive, default=(1e-2, RELATIVE_TOLERANCE, 3e-4),
        help="of the flow of the network trained in full",
    )  # fmt: skip
    parser.add_argument(
        "--network-precision", choices=("float32", "float64"), default="float32",
        help="arithmetic of the network trained in full, of its reference too",
    )  # fmt: skip
    parser.add_argument(
        "--network-peers-up-to", type=positive, default=2e3,
        help="largest time to which descent and general solvers train the network",
    )  # fmt: skip
    parser.add_argument(
        "--sensitivity-tolerance", type=positive, default=3e-4, help="of the part sensitivity"
    )
    parser.add_argument("--threads", type=whole_number, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    precision = getattr(torch, arguments.network_precision)

    def rows() -> Iterator[Row]:
        linear = []
        if "power-law" in arguments.parts:
            linear.append(power_law_problem())
        if {"linearised", "network", "sensitivity"} & set(arguments.parts):
            inputs, targets = load_images(arguments.archive, arguments.images)
        if "linearised" in arguments.parts:
            linear.append(linearised_problem(inputs, targets, arguments.width))
        for problem in linear:
            for end in arguments.times:
                yield from linear_rows(problem, end, arguments.peers_up_to)
        if "network" in arguments.parts:
            for end in arguments.network_times:
                yield from network_rows(
                    network_problem(inputs, targets, 16, precision),
                    end,
                    arguments.reference_tolerance,
                    arguments.network_tolerances,
                    arguments.network_peers_up_to,
                )
        if "sensitivity" in arguments.parts:
            for end in arguments.network_times:
                yield from sensitivity_rows(
                    inputs, targets, 16, end, arguments.sensitivity_tolerance
                )

    packages = ["torch", "numpy", "scipy"]
    packages += ["torchdiffeq"] * (importlib.util.find_spec("torchdiffeq") is not None)
    print(conditions(arguments.threads, packages), "\n")
    found = write_rows(rows(), arguments.csv)
    if powers := list(scaling([row for row in found if row.time in arguments.times])):
        print("\n| problem | method | power of T of the gradients | times |\n|---|---|---|---|")
        print("\n".join(powers))


if __name__ == "__main__":
    main()
