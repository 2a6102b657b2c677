"""Exact NTK of one realisation at one moment (start, warm start or end).

Writes eigenvalues and squared residue projections of the full and the output-traced kernel, the
kernel's drift since the start, its alignment with the targets and the overlap of its leading
eigenspace with that at the start. Where the full kernel is too large, its sums come from a Lanczos
quadrature on Jacobian products instead, which never forms it. Without a warm start the file says so
and holds nothing else.

A kernel or a spectrum that took long is kept until the file is written, so that a killed job does
not repeat it.
"""

import copy
import itertools

import numpy as np
import torch
import xarray as xr

from pipeline.device import choose_device, describe_device
from pipeline.files import file_digest, remove
from pipeline.log import Progress, logged
from pipeline.problem import Problem, build_problem, network_outputs
from pipeline.stores import (
    array_digest,
    provenance,
    read_json,
    read_snapshots,
    variable,
    write_netcdf,
)
from pipeline.trajectory import remembered, stage_folder
from speedlimits.kernel import (
    choose_route,
    empirical_ntk,
    kernel_product,
    spectrum_cost,
    trace_outputs,
)
from speedlimits.spectrum import (
    eigenspace_overlap,
    eigenvalues_and_projections,
    kernel_drift,
    kernel_target_alignment,
    leading_eigenvectors,
    noise_floor,
    spectral_measure_lanczos,
)

KINDS = {"full": "full NTK, (N C) x (N C)", "traced": "output-traced NTK, N x N"}


def kernels(problem: Problem, settings: dict, memory_bytes: int) -> dict[str, np.ndarray]:
    """Return the kernels of the network's current weights.

    Args:
        problem: network and inputs.
        settings: ``full_rows_limit``.
        memory_bytes: working memory beyond the kernel itself.

    Returns:
        "full" (N C, N C), unless it is too large, and "traced" (N, N), float64.
    """
    network, inputs = problem.network, problem.inputs
    route = choose_route(network)
    print(f"route {route}")
    count = problem.targets.shape[1]
    if too_large(problem, settings):
        memory_bytes += 8 * len(inputs) ** 2
        traced = empirical_ntk(network, inputs, traced=True, memory_bytes=memory_bytes)
        return {"traced": traced.cpu().numpy()}
    memory_bytes += 8 * (len(inputs) * count) ** 2
    full = empirical_ntk(network, inputs, memory_bytes=memory_bytes)
    return {"full": full.cpu().numpy(), "traced": trace_outputs(full, count).cpu().numpy()}


def too_large(problem: Problem, settings: dict) -> bool:
    """Return whether the full kernel has more rows N C than ``full_rows_limit``."""
    return problem.targets.numel() > settings["full_rows_limit"]


def report_cost(problem: Problem, settings: dict) -> None:
    """Print the estimated operations of both routes to the full kernel's sums, and the choice."""
    rows, steps = problem.targets.numel(), settings["quadrature_steps"]
    cost = spectrum_cost(problem.network, problem.inputs, problem.targets.shape[1], steps)
    large = too_large(problem, settings)
    print(
        f"full kernel of {rows} rows: {cost.explicit:.2g} operations explicitly, "
        f"{cost.quadrature:.2g} by {steps} matrix-free products; "
        + (
            f"above kernel.full_rows_limit = {settings['full_rows_limit']}: sums by quadrature, "
            "eigenvalues of the output-traced kernel only"
            if large
            else "explicitly, which alone gives every eigenvalue"
        )
    )


def quadrature(problem: Problem, settings: dict, delta: np.ndarray) -> dict[str, xr.Variable]:
    """Return the nodes and weights that stand for the full kernel's spectrum in every sum.

    Products are taken in float64: in float32 the sums stall at 1e-3 to 1e-2, for as much time
    (benchmarks/spectrum.py).
    """
    steps = min(settings["quadrature_steps"], delta.size)
    network, inputs = copy.deepcopy(problem.network).double(), problem.inputs.double()
    progress, done = Progress(steps), itertools.count(1)

    def product(vector: np.ndarray) -> np.ndarray:
        tensor = torch.from_numpy(vector).to(inputs.device)
        result = kernel_product(network, inputs, tensor).cpu().numpy()
        progress.update(next(done), lambda: "Jacobian products")
        return result

    found = spectral_measure_lanczos(product, delta, steps)
    floor = noise_floor(found.nodes)
    print(f"Lanczos quadrature with {steps} products, estimated error {found.error_estimate:.2g}")
    what = "Lanczos quadrature of the full NTK"
    dims = "rank_quadrature"
    return {
        "eigenvalues_quadrature": variable(dims, found.nodes, "1 / time", f"nodes of the {what}"),
        "residue_projections_quadrature": variable(
            dims, found.weights, "loss", f"weights of the {what}"
        ),
        "noise_floor_quadrature": variable(
            (), floor, "1 / time", f"nodes of the {what} below this are rounding noise"
        ),
        "error_quadrature": variable(
            (),
            found.error_estimate,
            "1",
            "largest relative difference of the Gauss and the Gauss-Radau rule over loss and "
            "length sums",
        ),
    }


def residue(problem: Problem) -> np.ndarray:
    """Return Delta = y - f on the training set, shape (N, C), float64."""
    delta = problem.targets - network_outputs(problem.network, problem.inputs)
    return delta.double().cpu().numpy()


def measure(
    kind: str, kernel: np.ndarray, start: np.ndarray | None, delta: np.ndarray, targets: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the spectrum of one kernel, and how it compares with the start and the targets.

    Args:
        kind: "full" or "traced".
        kernel: Theta_t, shape (K, K).
        start: Theta_0, or None at the start itself.
        delta: residue, shape (N, C).
        targets: y, shape (N, C).

    Returns:
        eigenvalues (K,), projections (K,), alignment (), drift (), overlap ().
    """
    shape = (-1, 1) if kind == "full" else delta.shape
    eigenvalues, projections = eigenvalues_and_projections(kernel, delta.reshape(shape))
    drift, overlap = 0.0, 1.0
    if start is not None:
        drift = kernel_drift(kernel, start)
        count = min(targets.shape[1], len(kernel))
        now, then = (leading_eigenvectors(k, count)[1] for k in (kernel, start))
        overlap = eigenspace_overlap(now, then)
    return {
        "eigenvalues": eigenvalues,
        "projections": projections,
        "alignment": np.asarray(kernel_target_alignment(kernel, targets.reshape(shape))),
        "drift": np.asarray(drift),
        "overlap": np.asarray(overlap),
    }


def described(kind: str, found: dict[str, np.ndarray], outputs: int) -> dict[str, xr.Variable]:
    """Return what ``measure`` found as variables.

    Args:
        kind: "full" or "traced".
        found: by ``measure``.
        outputs: number of outputs C.

    Returns:
        Name -> variable.
    """
    eigenvalues, projections = found["eigenvalues"], found["projections"]
    floor = noise_floor(eigenvalues)
    what = KINDS[kind]
    dims = f"rank_{kind}"
    return {
        f"eigenvalues_{kind}": variable(
            dims, eigenvalues, "1 / time", f"eigenvalues lambda_k of the {what}"
        ),
        f"residue_projections_{kind}": variable(
            dims, projections, "loss", f"squared residue projections Delta_k^2 on the {what}"
        ),
        f"noise_floor_{kind}": variable(
            (), floor, "1 / time", f"eigenvalues of the {what} below this are rounding noise"
        ),
        f"alignment_{kind}": variable(
            (),
            found["alignment"],
            "1",
            f"kernel-target alignment of the {what}",
        ),
        f"drift_{kind}": variable(
            (), found["drift"], "1", f"drift |Theta_t - Theta_0|_F / |Theta_0|_F of the {what}"
        ),
        f"overlap_{kind}": variable(
            (),
            found["overlap"],
            "1",
            f"overlap of the {outputs} leading eigenvectors with those at the start",
        ),
    }


def moment_snapshot(snakemake, moment: str) -> int | None:
    """Return the number of the moment's snapshot; None if there is no warm start."""
    if moment == "end":
        return -1
    return read_json(snakemake.input.warm_start)["snapshot"]


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
            realisation=realisation,
            start_seed=problem.start_seed,
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
            "inputs": array_digest(problem.inputs.cpu().numpy()),
            "device": describe_device(device),
            "threads": snakemake.threads,
            "memory": memory_bytes,  # it decides the order of sums
        }
        starts, time = {}, 0.0
        if moment != "start":
            parts["manifest"] = file_digest(snakemake.input.manifest)
            parts["snapshot"] = snapshot
            starts = remembered(
                stage_folder(parts),
                "kernels_start",
                lambda: kernels(problem, settings, memory_bytes),
            )
            run = read_snapshots(snakemake.input.manifest)
            time = float(run["time"][snapshot])
            if not np.isfinite(run["train_loss"][snapshot]):
                attributes["note"] = "the run diverged"
                write_netcdf(xr.Dataset(attrs=attributes), snakemake.output[0])
                return
            weights = torch.from_numpy(run["weights"].values[snapshot]).to(problem.inputs)
            torch.nn.utils.vector_to_parameters(weights, problem.network.parameters())
        delta, targets = residue(problem), problem.plain_targets.double().cpu().numpy()
        variables = {"time": variable((), time, "time", "training time t of the kernel")}
        report_cost(problem, settings)
        if too_large(problem, settings):
            variables |= quadrature(problem, settings, delta)
        stage = stage_folder(parts)
        now = remembered(stage, "kernels", lambda: kernels(problem, settings, memory_bytes))
        for kind, kernel in now.items():
            found = remembered(
                stage,
                f"spectrum_{kind}",
                lambda kind=kind, kernel=kernel: measure(
                    kind, kernel, starts.get(kind), delta, targets
                ),
            )
            variables |= described(kind, found, targets.shape[1])
        write_netcdf(xr.Dataset(variables, attrs=attributes), snakemake.output[0])
        remove(stage)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
