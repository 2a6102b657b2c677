"""Exact NTK of one realisation at one moment (start, warm start or end).

Writes eigenvalues and squared residue projections of the full and the output-traced kernel, the
kernel's drift since the start, its alignment with the targets and the overlap of its leading
eigenspace with that at the start. Where the network has fewer weights than the full kernel rows,
the Gauss-Newton matrix J^T J gives all of this at less cost. Where both are too large, sums come
from a Lanczos quadrature on Jacobian products instead, which forms neither. Without a warm start
the file says so and holds nothing else.

A kernel, a Gauss-Newton matrix or a quadrature is kept half-way, and with the spectra, if they took
long, until the file is written, so that a killed job continues where it was.
"""

import quick_start  # noqa: F401

from functools import partial

import numpy as np
import torch
import xarray as xr
from torch.nn.utils import parameters_to_vector

from pipeline.device import choose_device, describe_device
from pipeline.files import file_digest, remove
from pipeline.kernels import (
    KINDS,
    SPECTRUM_ROUTES,
    check_gradient,
    choose_spectrum_route,
    cross_matrix,
    described,
    everything,
    measure,
    measure_gauss_newton,
    quadrature,
    quadrature_described,
    residue,
)
from pipeline.log import logged
from pipeline.problem import build_problem, digests
from pipeline.stores import (
    provenance,
    read_json,
    read_snapshots,
    variable,
    write_netcdf,
)
from pipeline.trajectory import Partway, remembered, stage_folder

# Own choice, of the loss there and at the start: devices and batches change a loss by less, and so
# does the rounding of outputs where it has dropped to nothing.
LOSS_TOLERANCE, LOSS_ROUNDING = 1e-2, 1e-5


def moment_snapshot(snakemake, moment: str) -> int | None:
    """Return the number of the moment's snapshot; None if there is no warm start."""
    if moment == "end":
        return -1
    return read_json(snakemake.input.warm_start)["snapshot"]


def check_loss(delta: np.ndarray, recorded: np.ndarray, snapshot: int) -> None:
    """Refuse a network that is another function than in training, at the same weights.

    Args:
        delta: the residue y - f, of any shape.
        recorded: loss of every snapshot.
        snapshot: its number.

    Raises:
        ValueError: if 1/2 sum delta^2 is not the recorded loss.
    """
    here, there = 0.5 * float((delta**2).sum()), float(recorded[snapshot])
    if abs(here - there) > LOSS_TOLERANCE * there + LOSS_ROUNDING * float(recorded[0]):
        raise ValueError(
            f"the loss is {here:.4g} here and was {there:.4g} in training, at the same weights: "
            "the network is another function in every job; does it draw anything by NumPy or "
            "random, read a file that has changed, or follow the order of a set?"
        )


def main(snakemake) -> None:
    """Run the rules ``ntk_start``, ``ntk_warm`` and ``ntk_end``."""
    settings, resources = snakemake.params.settings, snakemake.resources
    moment, realisation = settings["moment"], int(snakemake.wildcards.realisation)
    with logged(snakemake.log[0]):
        device = choose_device(
            resources.device,
            threads=snakemake.threads,
            deterministic=bool(resources.deterministic),
        )
        problem = build_problem(settings, snakemake.input.subset, realisation, device)
        memory_bytes = int(resources.kernel_memory_mb * 1e6)
        attributes = provenance(
            settings,
            title=f"NTK spectrum at the {moment}",
            device=describe_device(device),
            threads=snakemake.threads,
            realisation=realisation,
            start_seed=str(problem.start_seed),
            outputs=problem.targets.shape[1],
        )
        snapshot = 0 if moment == "start" else moment_snapshot(snakemake, moment)
        if snapshot is None:
            attributes["note"] = "the warm start is never reached"
            write_netcdf(xr.Dataset(attrs=attributes), snakemake.output[0])
            return
        parts = {
            "settings": settings,
            "realisation": realisation,
            "problem": digests(problem),
            "device": describe_device(device),
            "threads": snakemake.threads,
            "memory": memory_bytes,  # it decides the order of sums
        }
        route = choose_spectrum_route(problem, settings)
        attributes["spectrum_route"] = f"{route}: {SPECTRUM_ROUTES[route]}"
        targets = problem.plain_targets.double().cpu().numpy()
        start_weights = parameters_to_vector(problem.network.parameters()).detach().clone()
        starts, time = {}, 0.0
        if moment != "start":
            parts["manifest"] = file_digest(snakemake.input.manifest)
            parts["snapshot"] = snapshot
            run = read_snapshots(snakemake.input.manifest)
            time = float(run["time"][snapshot])
            if not np.isfinite(run["train_loss"][snapshot]):
                attributes["note"] = "the run diverged"
                write_netcdf(xr.Dataset(attrs=attributes), snakemake.output[0])
                return
            # Of the start's full kernel a quadrature needs nothing.
            start_route = "quadrature" if route == "stored" else route
            starts = everything(
                problem, start_route, targets, memory_bytes, stage_folder(parts), "_start"
            )
            weights = torch.from_numpy(run["weights"][snapshot].values).to(problem.inputs)
            torch.nn.utils.vector_to_parameters(weights, problem.network.parameters())
        variables = {"time": variable((), time, "time", "training time t of the kernel")}
        delta = residue(problem)
        if moment != "start":
            check_loss(delta, run["train_loss"].values, snapshot)
        stage = stage_folder(parts)
        now = everything(problem, route, targets, memory_bytes, stage, "")
        if route in ("stored", "quadrature"):
            arguments = (
                problem,
                settings,
                delta,
                Partway(stage, "quadrature"),
                now.pop("full", None),
            )
            found = remembered(stage, "quadrature", partial(quadrature, *arguments))
            del arguments
            variables |= quadrature_described(found)
        if route == "gauss_newton" and starts:
            arguments = problem, start_weights, memory_bytes, Partway(stage, "cross")
            now |= remembered(stage, "cross", partial(cross_matrix, *arguments))
        solver = device if device.type != "cpu" else None
        for kind in KINDS:
            if kind == "full" and route == "gauss_newton":
                compute = partial(measure_gauss_newton, now, starts, delta, targets)
            elif kind in now:
                compute = partial(
                    measure, kind, now[kind], starts.get(kind), delta, targets, solver
                )
            else:
                continue
            found = remembered(stage, f"spectrum_{kind}", compute)
            variables |= described(kind, found, targets.shape[1])
        kind = "full" if "eigenvalues_full" in variables else "quadrature"
        names = f"eigenvalues_{kind}", f"residue_projections_{kind}"
        check_gradient(problem, delta, *(variables[name].values for name in names))
        write_netcdf(xr.Dataset(variables, attrs=attributes), snakemake.output[0])
        remove(stage)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
