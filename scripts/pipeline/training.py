"""From the settings of a run to its evolution, its times, its measurements and its file."""

from __future__ import annotations

import json
import math
from decimal import ROUND_FLOOR, Context
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from pipeline.files import remove
from pipeline.problem import Problem
from pipeline.runs import MOST_STEPS, stability_factor
from pipeline.seeds import derived_seed
from pipeline.stores import (
    provenance,
    variable,
    write_snapshots,
    write_zarr,
)
from pipeline.trajectory import StagedTrajectory
from speedlimits.dynamics import (
    DivergenceError,
    Evolution,
    GradientDescent,
    GradientFlow,
    LangevinDynamics,
)
from speedlimits.gradient import TrainingLoss
from speedlimits.kernel_products import largest_eigenvalue
from speedlimits.layers import start_variances
from speedlimits.networks import parameter_ranges
from speedlimits.optimisers import (
    Adam,
    HeavyBall,
    MinibatchDescent,
    Nesterov,
    preconditioned_length_squared,
)
from speedlimits.rounding import moved_by_rounding, speed_rounding
from speedlimits.snapshots import snapshot_times

# name: (units, long_name)
RECORDED = {
    "train_loss": ("loss", "training loss L, 1/2 sum over samples and outputs"),
    "test_loss": ("loss", "test loss, 1/2 sum over test samples and outputs"),
    "test_accuracy": ("1", "test accuracy"),
    "gradient_norm": ("loss / weight", "gradient norm |grad L|"),
    "speed_rounding": (
        "weight / time",
        "what rounding of the weights to the network's precision adds to the speed, about; 0 where "
        "it is too little to lengthen the path",
    ),
    "path_length": ("weight", "path length l_gamma, integral of |d theta/dt| from the start"),
    "action": ("weight^2 / time", "action, integral of |d theta/dt|^2 from the start"),
    "velocity_noise": (
        "weight^2 / time",
        "action that errors of the integrated flow's velocity would add; 0 for other dynamics",
    ),
    "geodesic_length": ("weight", "geodesic length l_geo = |theta - theta_0|"),
    "gradients": ("1", "gradient evaluations since the start, samples over n for minibatches"),
    "kinetic_energy": (
        "loss",
        "kinetic energy m |d theta/dt|^2 / 2, for Adam in its metric; 0 without momentum",
    ),
}
# of Langevin dynamics alone
RECORDED_WITH_NOISE = {
    "heat": ("loss", "heat -int grad L o d theta (midpoint of each step) since the start"),
    "curvature_heat": ("loss", "temperature x integral of the loss's Laplacian, by Stein's lemma"),
}
# the same of every layer: (dimension, units, long_name)
LAYER_PRODUCTS = {
    "layer_products": (
        "vector",
        "weight^2",
        "inner products of theta - theta_0, theta_0 and the noise B per layer",
    ),
    "layer_product_integrals": (
        "position",
        "weight^2 * time",
        "integrals of the inner products of theta - theta_0 and theta_0 per layer since the start",
    ),
}


# Rounding of the weights over how far they have moved. Own choice: on lazy networks (output_scale
# 1e2 to 1e6, float32 against float64) T_SL at the first snapshot is off by 0.3 % then, by 2 % at
# 0.4, by 17 % at 1.1 and by a factor 2 at 3 (fully connected), by 24 % at 0.3 on a transformer,
# whose weights stay while its biases, which start at 0, move.
LARGEST_ROUNDING = 0.1
WITHOUT_LIMIT = ("gradient_flow", "adam")  # of the learning rate by lambda_1


def start_lambda_1(settings: dict, problem: Problem, lambda_1: float, realisation: int) -> float:
    """Return lambda_1 at the start of this realisation, where it limits the learning rate.

    Args:
        settings: ``dynamics``.
        problem: network at its start, and data.
        lambda_1: largest eigenvalue of the NTK at the start of realisation 0, which gradient flow
            takes as well, for it finds the largest curvature on its way, and Adam.
        realisation: number of the start.
    """
    if realisation == 0 or settings["dynamics"] in WITHOUT_LIMIT:
        return lambda_1
    return largest_eigenvalue(problem.network, problem.inputs)


def learning_rate(settings: dict, lambda_1: float, own_lambda_1: float) -> float:
    """Return the learning rate in units of training time, below the stability limit.

    Args:
        settings: ``dynamics``, ``learning_rate``, ``learning_rate_unit``, ``beyond_stability`` and,
            where the dynamics has one, ``momentum``.
        lambda_1: largest eigenvalue of the NTK at the start of realisation 0, for the unit.
        own_lambda_1: the same at this start, for the limit.

    Returns:
        The learning rate.

    Raises:
        ValueError: if it is at or above the limit of the dynamics, 2/lambda_1 for gradient descent,
            and ``beyond_stability`` is not set.
    """
    unit = 2 / lambda_1
    rate = settings["learning_rate"]
    if settings["learning_rate_unit"] == "stability_limit":
        rate *= unit
    dynamics = settings["dynamics"]
    factor = stability_factor(dynamics, settings.get("momentum", 0.0))
    limit = factor * 2 / own_lambda_1 if own_lambda_1 > 0 else math.inf
    if rate >= limit and not settings.get("beyond_stability", False):
        times = "" if factor == 1 else f"{factor:.4g} times "
        # down, so that all below what is told is below the limit
        allowed = Context(prec=4, rounding=ROUND_FLOOR).create_decimal(
            settings["learning_rate"] * limit / rate
        )
        lower = " (minibatches need a lower one)" if dynamics == "sgd" else ""
        other = ""
        if own_lambda_1 != lambda_1:
            other = f" at this start, {lambda_1:.6g} at that of realisation 0, the unit"
        raise ValueError(
            f"the learning rate {rate:.6g} is at or above the stability limit, {times}2/lambda_1 = "
            f"{limit:.6g} (lambda_1 = {own_lambda_1:.6g}{other}): {dynamics} diverges; lower "
            f"learning_rate, below {allowed:.4g}{lower}, use dynamics: gradient_flow, or set "
            "beyond_stability: true"
        )
    return rate


def build_evolution(
    settings: dict,
    loss: TrainingLoss,
    start: torch.Tensor,
    lambda_1: float,
    own_lambda_1: float,
    seed: int = 0,
):
    """Return the evolution that the settings name, at its start theta_0 of shape (P,).

    The seed is that of the start; minibatches and Langevin noise derive theirs from it. lambda_1 as
    for ``learning_rate``.
    """
    evaluate, dynamics = loss.loss_and_gradient, settings["dynamics"]
    if dynamics == "gradient_flow":
        tolerance = settings["relative_tolerance"]
        return GradientFlow(evaluate, start, relative_tolerance=tolerance, lambda_1=own_lambda_1)
    rate = learning_rate(settings, lambda_1, own_lambda_1)
    if dynamics == "adam":
        return Adam(evaluate, start, rate, settings["momentum"], lambda_1=own_lambda_1)
    if dynamics in ("heavy_ball", "nesterov"):
        kind = HeavyBall if dynamics == "heavy_ball" else Nesterov
        return kind(evaluate, start, rate, settings["momentum"], lambda_1=own_lambda_1)
    if dynamics == "sgd":
        batch, samples = settings["batch_size"], len(loss.targets)
        if samples % batch:
            print(
                f"batch_size {batch} does not divide n = {samples}: the last batch of every epoch "
                f"has {samples % batch} samples and makes as long a step"
            )
        return MinibatchDescent(
            evaluate,
            evaluate,
            start,
            rate,
            batch_size=batch,
            samples=samples,
            seed=derived_seed(seed, "minibatches"),
            lambda_1=own_lambda_1,
        )
    if dynamics == "langevin":
        noise = derived_seed(seed, "langevin noise")
        return LangevinDynamics(
            evaluate, start, rate, settings["temperature"], noise, lambda_1=own_lambda_1
        )
    return GradientDescent(evaluate, start, rate, lambda_1=own_lambda_1)


def wanted_times(settings: dict, lambda_1: float, step: float | None = None) -> np.ndarray:
    """Return the snapshot times after the start; whole steps, each once, where there are steps.

    Args:
        settings: the clock.
        lambda_1: largest eigenvalue of the NTK at the start.
        step: training time of one step; None for gradient flow.

    Raises:
        ValueError: if one step is longer than the final time, or that takes too many steps.
    """
    units = {"inverse_lambda_1": 1 / lambda_1, "absolute": 1.0, "steps": step}
    unit = units[settings["time_unit"]]
    first, last = settings["first_snapshot"] * unit, settings["final_time"] * unit
    times = snapshot_times(first, last, settings["snapshots_per_decade"])
    if step is not None:
        if step > last * (1 + 1e-9):
            raise ValueError(
                f"final_time is {last:.6g} in units of training time, but one step is {step:.6g} "
                "long; raise final_time, or lower the learning rate or the momentum"
            )
        if last > MOST_STEPS * step:
            raise ValueError(
                f"final_time is {last:.6g} in units of training time, which takes "
                f"{last / step:.2g} steps; allowed: up to {MOST_STEPS:g}; lower final_time or "
                "raise learning_rate, or set dynamics: gradient_flow"
            )
        times = np.unique(np.maximum(np.round(times / step), 1)) * step
    return times


def recorder_of(loss: TrainingLoss, problem: Problem):
    """Return a function that measures losses and test accuracy of an evolution's weights.

    The training loss and its gradient are measured too: between its steps gradient flow
    interpolates them. Without test samples, and the accuracy without labels or where outputs are
    not finite, which would count as class 0, they are NaN. Of Langevin dynamics the heats and the
    inner products per layer are recorded besides, of Adam the integral of its inverse metric.
    """
    layers = list(parameter_ranges(problem.network).values())

    def half_square(outputs: torch.Tensor, targets: torch.Tensor) -> float:
        return 0.5 * (targets - outputs).cpu().double().square().sum().item()

    def record(evolution: Evolution) -> dict[str, float | np.ndarray]:
        check_rounding(evolution, problem.inputs.dtype)
        train_loss, gradient = loss.loss_and_gradient(evolution.weights)
        found = {
            "train_loss": train_loss,
            "gradient_norm": gradient.norm().item(),
            "speed_rounding": speed_rounding(evolution, problem.inputs.dtype),
            "test_loss": math.nan,
            "test_accuracy": math.nan,
        }
        if len(problem.test_inputs):
            outputs = loss.outputs(evolution.weights, problem.test_inputs)
            found["test_loss"] = half_square(outputs, problem.test_targets)
            if not math.isfinite(found["test_loss"]):
                print("the test outputs are not finite: no test accuracy at this snapshot")
            elif problem.test_labels is not None:
                centred = outputs - problem.test_start_outputs
                correct = centred.argmax(dim=1) == problem.test_labels
                found["test_accuracy"] = correct.cpu().double().mean().item()
        if isinstance(evolution, LangevinDynamics):
            found |= {name: getattr(evolution, name) for name in RECORDED_WITH_NOISE}
            for name in LAYER_PRODUCTS:
                found[name] = getattr(evolution, name)(layers).cpu().numpy()
        if isinstance(evolution, Adam):
            found["inverse_metric_integral"] = evolution.inverse_metric_integral.cpu().numpy()
        return found

    return record


def check_rounding(evolution: Evolution, dtype: torch.dtype) -> None:
    """Refuse weights that rounding to the precision of the network moves about as far as training.

    Args:
        evolution: at a snapshot.
        dtype: of the network.

    Raises:
        ValueError: if that is more than LARGEST_ROUNDING of the displacement, unless that is 0.
    """
    moved, rounded = evolution.displacement.norm().item(), moved_by_rounding(evolution, dtype)
    if moved > 0 and rounded > LARGEST_ROUNDING * moved:
        finer = "set precision: float64, or " if dtype != torch.float64 else ""
        raise ValueError(
            f"by time {evolution.time:.3g} the weights have moved by {moved:.3g}, and rounding to "
            f"{str(dtype).removeprefix('torch.')} by {rounded:.3g} for the network, so that losses "
            f"and lengths are those of rounding; {finer}raise first_snapshot, lower output_scale, "
            "or scale up small targets"
        )


def as_dataset(recorded: dict[str, np.ndarray], attributes: dict, precision: str) -> xr.Dataset:
    """Return the run as a dataset with units and names.

    Args:
        recorded: weights (M, P) float64, scalars (M,) and what ``recorder_of`` adds, of
            ``StagedTrajectory.run``.
        attributes: attributes of the dataset.
        precision: of the network, and of the weights in the dataset: coarser ones are another
            function than was trained, by more than its residue where weights have hardly moved.

    Returns:
        The dataset, in float64 but for the weights.
    """
    weights = recorded["weights"]
    squared = np.empty((len(weights), len(weights)))
    for k, row in enumerate(weights):
        squared[k, : k + 1] = [((other - row) ** 2).sum() for other in weights[: k + 1]]
        squared[: k + 1, k] = squared[k, : k + 1]
    # From the displacement: weights that have hardly moved share most of their digits.
    squared[0] = squared[:, 0] = recorded["geodesic_length"] ** 2
    variables = {
        name: variable("snapshot", recorded[name].astype(float), *RECORDED[name])
        for name in RECORDED
    }
    for name, described in RECORDED_WITH_NOISE.items():
        if name in recorded:
            variables[name] = variable("snapshot", recorded[name].astype(float), *described)
    for name, (vectors, *described) in LAYER_PRODUCTS.items():
        if name in recorded:
            pairs = ("snapshot", "layer", vectors, f"other_{vectors}")
            variables[name] = variable(pairs, recorded[name], *described)
    variables["weights"] = variable(
        ("snapshot", "parameter"), weights.astype(precision), "weight", "weights theta"
    )
    variables["distance_squared"] = variable(
        ("snapshot", "other_snapshot"),
        squared,
        "weight^2",
        "|theta_t - theta_t'|^2 between snapshots, from weights in float64",
    )
    if "inverse_metric_integral" in recorded:
        variables["preconditioned_length_squared"] = variable(
            ("snapshot", "other_snapshot"),
            pairwise_preconditioned(recorded),
            "loss * time",
            "|theta_t - theta_t'|^2 between snapshots in Adam's mean metric between them",
        )
    time = variable("snapshot", recorded["time"], "time", "training time t")
    return xr.Dataset(variables, coords={"time": time}, attrs=attributes)


def pairwise_preconditioned(recorded: dict[str, np.ndarray]) -> np.ndarray:
    """Return the squared lengths between snapshots in Adam's mean metric, shape (M, M).

    Args:
        recorded: time (M,), weights and inverse_metric_integral (M, P).
    """
    weights, integrals, times = (
        recorded[name] for name in ("weights", "inverse_metric_integral", "time")
    )
    squared = np.zeros((len(times), len(times)))
    for k in range(1, len(times)):
        for other in range(k):  # one pair at a time: weights may be most of what the memory holds
            squared[k, other] = squared[other, k] = preconditioned_length_squared(
                times[k] - times[other],
                weights[k] - weights[other],
                integrals[k] - integrals[other],
            )
    return squared


def padded(recorded: dict[str, np.ndarray], times: np.ndarray) -> dict[str, np.ndarray]:
    """Return a run that diverged with NaN at the snapshot times, shape (M,), it did not reach."""
    missing = len(times) + 1 - len(recorded["time"])
    found = {
        name: np.concatenate([values, np.full((missing, *values.shape[1:]), np.nan)])
        for name, values in recorded.items()
    }
    return found | {"time": np.append(0.0, times)}


def run_attributes(
    settings: dict,
    problem: Problem,
    lambda_1: float,
    own_lambda_1: float,
    device: str,
    threads: int,
    realisation: int,
) -> dict[str, str | int | float]:
    """Return the attributes of a run.

    Args:
        settings: the rule's parameters.
        problem: network at its start, and data.
        lambda_1: largest eigenvalue of the NTK at the start of realisation 0.
        own_lambda_1: of ``start_lambda_1``.
        device: its name.
        threads: of torch.
        realisation: number of the start.
    """
    found = provenance(
        settings,
        title="Training trajectory",
        device=device,
        threads=threads,
        realisation=realisation,
        start_seed=str(problem.start_seed),  # text whatever its size
        lambda_1=lambda_1,
        samples=len(problem.inputs),
        test_samples=len(problem.test_inputs),
        outputs=problem.targets.shape[1],
        parameter_ranges=json.dumps(parameter_ranges(problem.network)),
    )
    if settings["dynamics"] not in WITHOUT_LIMIT:
        found["own_lambda_1"] = own_lambda_1
    if settings["dynamics"] == "langevin":
        found["start_variances"] = json.dumps(start_variances(problem.network))
    return found


def run_and_store(
    trajectory: StagedTrajectory, settings: dict, attributes: dict, store: str, manifest: str
) -> None:
    """Train to the end and write the run, one that diverged only with ``beyond_stability``.

    Args:
        trajectory: the run, from its start or its last checkpoint.
        settings: ``precision`` and, where the dynamics has it, ``beyond_stability``.
        attributes: of ``run_attributes``.
        store: folder of the Zarr store.
        manifest: its manifest, which makes it valid.

    Raises:
        DivergenceError: if the run diverged and ``beyond_stability`` is false; what there is of it
            lies beside the store then.
    """
    diverged, precision = Path(store).with_name("diverged.zarr"), settings["precision"]
    remove(diverged)
    try:
        run = as_dataset(trajectory.run(), attributes, precision)
    except DivergenceError as error:
        so_far = trajectory.recorded()
        if settings.get("beyond_stability", False):
            print(f"recorded as the outcome: {error}")
            whole = padded(so_far, trajectory.times)
            attributes = attributes | {"diverged": "1"}
            write_snapshots(as_dataset(whole, attributes, precision), store, manifest)
            remove(trajectory.stage)
            return
        write_zarr(as_dataset(so_far, attributes, precision), diverged)
        advice = (
            "lower learning_rate or use dynamics: gradient_flow; if that diverges as well, look "
            "into network and data"
        )
        if isinstance(trajectory.evolution, GradientFlow):  # which takes no step that is too long
            advice = "set precision: float64, or look into network and data"
        raise DivergenceError(
            f"{error}; the {len(so_far['time'])} snapshots before that are in {diverged} "
            f"(xarray.open_zarr); {advice}"
        ) from None
    write_snapshots(run, store, manifest)
    trajectory.finish()
