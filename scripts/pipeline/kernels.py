"""Kernels, Gauss-Newton matrices and quadratures of a network, kept half-way, and their spectra."""

from __future__ import annotations

import copy
import itertools
from functools import partial
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from pipeline.device import describe_device
from pipeline.log import Progress, announce
from pipeline.problem import Problem, network_outputs
from pipeline.stores import (
    variable,
)
from pipeline.trajectory import Partway, remembered
from speedlimits.gauss_newton import (
    GaussNewton,
    PartialSums,
    alignment,
    cross_gauss_newton,
    drift,
    gauss_newton,
    overlap,
    spectrum,
)
from speedlimits.jacobian import way_along_weights
from speedlimits.kernel import (
    PartialKernel,
    choose_route,
    empirical_ntk,
    spectrum_cost,
    trace_outputs,
)
from speedlimits.kernel_products import check_spectrum, kernel_product
from speedlimits.networks import in_precision
from speedlimits.spectrum import (
    LanczosState,
    SpectralMeasure,
    eigenspace_overlap,
    eigenvalues_and_projections,
    kernel_drift,
    kernel_target_alignment,
    leading_eigenspace_exists,
    leading_eigenvectors,
    noise_floor,
    shared_projections,
    spectral_measure_lanczos,
)
from speedlimits.spectrum_torch import decomposed

LARGEST_ERROR = 0.01  # own choice: of a quadrature without a warning, far below the scatter of runs
# What gives the full kernel's spectrum, or sums over it
SPECTRUM_ROUTES = {
    "kernel": "the kernel, explicitly",
    "gauss_newton": "the Gauss-Newton matrix J^T J, which has all non-zero eigenvalues",
    "stored": "sums by quadrature on the kernel, eigenvalues of the output-traced one only",
    "quadrature": "sums by quadrature, eigenvalues of the output-traced kernel only",
}
KINDS = {"full": "full NTK, (N C) x (N C)", "traced": "output-traced NTK, N x N"}


def kernels(
    problem: Problem, route: str, memory_bytes: int, partway: Partway
) -> dict[str, np.ndarray]:
    """Return the kernels of the network's current weights.

    Args:
        problem: network and inputs.
        route: by ``choose_spectrum_route``.
        memory_bytes: working memory beyond the kernel itself.
        partway: where the sum is kept.

    Returns:
        "traced" (N, N), and with the routes "kernel" and "stored" the "full" one (N C, N C),
        float64.
    """
    network, inputs = problem.network, problem.inputs
    count = problem.targets.shape[1]
    whole = route in ("kernel", "stored")
    chosen = choose_route(network, inputs)
    print(f"{'full' if whole else 'output-traced'} NTK by the route {chosen}")
    if route == "gauss_newton":  # which takes the same Jacobians
        by = "autograd" if chosen.name == "autograd" else "torch.func"
        print(f"Gauss-Newton matrix J^T J from Jacobians by {by}")
    rows = len(inputs) * (count if whole else 1)
    progress = Progress(1.0)
    kept = partway.load()

    def on_part(part: PartialKernel) -> None:
        partway.offer(
            part.kernel.nbytes, lambda: {"done": part.done, "kernel": part.kernel.cpu().numpy()}
        )

    theta = empirical_ntk(
        network,
        inputs,
        traced=not whole,
        memory_bytes=memory_bytes + 8 * rows**2,
        on_progress=lambda share: progress.update(share, lambda: f"of the kernel of {rows} rows"),
        start_from=kept and PartialKernel(int(kept["done"]), torch.from_numpy(kept["kernel"])),
        on_part=on_part,
    )
    if not whole:
        return {"traced": theta.cpu().numpy()}
    return {"full": theta.cpu().numpy(), "traced": trace_outputs(theta, count).cpu().numpy()}


def choose_spectrum_route(problem: Problem, settings: dict) -> str:
    """Return which way leads to the full kernel's spectrum, and print the costs of all.

    Args:
        problem: network, inputs and targets.
        settings: ``full_rows_limit``, and for more rows ``stored_rows_limit`` and
            ``quadrature_steps``.

    Returns:
        "kernel" or "gauss_newton", the cheaper of those that fit the memory, which both give every
        eigenvalue. If neither fits, "stored" or "quadrature", which give sums only: by products
        with the kernel where it may be formed and that is cheaper, or without it.
    """
    samples, outputs = problem.targets.shape
    rows, limit = samples * outputs, settings["full_rows_limit"]
    weights = sum(p.numel() for p in problem.network.parameters() if p.requires_grad)
    steps = settings["quadrature_steps"] if rows > limit else 0
    cost = spectrum_cost(problem.network, problem.inputs, outputs, steps)
    room = rows if rows <= limit else samples  # rows of the kernels that the job's memory is for
    allowed = {"kernel": rows <= limit}
    # Five P x P matrices where the job's memory holds four kernels (``kernel_megabytes``).
    allowed["gauss_newton"] = weights < rows and 5 * weights**2 <= 4 * room**2
    costs = {"kernel": cost.explicit, "gauss_newton": cost.gauss_newton}
    usable = [name for name, fits in allowed.items() if fits]
    stored = steps > 0 and rows <= settings["stored_rows_limit"] and cost.stored < cost.quadrature
    route = min(usable, key=costs.get, default="stored" if stored else "quadrature")
    above = sums = ""
    if steps:
        above = f" (above kernel.full_rows_limit = {limit})"
        sums = (
            f"; by {steps} products {cost.quadrature:.2g} matrix-free, {cost.stored:.2g} with the "
            "kernel formed"
        )
    print(
        f"full kernel of {rows} rows{above}, {weights} weights: {cost.explicit:.2g} operations "
        f"explicitly, {cost.gauss_newton:.2g} by the Gauss-Newton matrix{sums}; taken: "
        f"{SPECTRUM_ROUTES[route]}"
    )
    return route


def sums_kept(partway: Partway) -> dict:
    """Return the arguments with which sums of Jacobians are kept half-way."""
    kept = partway.load()

    def on_block(sums: PartialSums) -> None:
        partway.offer(
            sums.matrix.nbytes + sums.pulled.nbytes,
            lambda: {
                "done": sums.done,
                "matrix": sums.matrix.cpu().numpy(),
                "pulled": sums.pulled.cpu().numpy(),
            },
        )

    if kept is None:
        return {"on_block": on_block}
    matrices = (torch.from_numpy(kept[name]) for name in ("matrix", "pulled"))
    return {"on_block": on_block, "start_from": PartialSums(int(kept["done"]), *matrices)}


def gauss_newton_matrices(
    problem: Problem, delta: np.ndarray, targets: np.ndarray, memory_bytes: int, partway: Partway
) -> dict[str, np.ndarray]:
    """Return what stands for the full kernel of the current weights in the space of weights.

    Args:
        problem: network and inputs.
        delta: residue, shape (N, C).
        targets: y, shape (N, C).
        memory_bytes: working memory beyond the matrices.
        partway: where the sums are kept.

    Returns:
        "matrix" J^T J (P, P), "pulled" J^T (Delta, y), shape (P, 2), float64.
    """
    network, inputs = problem.network, problem.inputs
    vectors = torch.from_numpy(np.stack([delta.ravel(), targets.ravel()], axis=1)).to(inputs.device)
    memory_bytes += _matrix_bytes(network)
    found = gauss_newton(network, inputs, vectors, memory_bytes=memory_bytes, **sums_kept(partway))
    return {"matrix": found.matrix, "pulled": found.pulled}


def everything(
    problem: Problem, route: str, targets: np.ndarray, memory_bytes: int, stage: Path, suffix: str
) -> dict[str, np.ndarray]:
    """Return ``kernels``, and ``gauss_newton_matrices`` with that route.

    Args:
        problem: network and inputs.
        route: by ``choose_spectrum_route``.
        targets: y, shape (N, C).
        memory_bytes: working memory beyond the results.
        stage: folder of ``stage_folder``.
        suffix: of the names under which they are remembered there.
    """
    name = f"kernels{suffix}"
    compute = partial(kernels, problem, route, memory_bytes, Partway(stage, name))
    found = remembered(stage, name, compute)
    if route == "gauss_newton":
        name = f"gauss_newton{suffix}"
        arguments = problem, residue(problem), targets, memory_bytes, Partway(stage, name)
        found |= remembered(stage, name, partial(gauss_newton_matrices, *arguments))
    return found


def cross_matrix(
    problem: Problem, start_weights: torch.Tensor, memory_bytes: int, partway: Partway
) -> dict[str, np.ndarray]:
    """Return J_0^T J_t as "cross", shape (P, P); arguments as ``gauss_newton_matrices``."""
    memory_bytes += _matrix_bytes(problem.network)
    network, inputs = problem.network, problem.inputs
    cross = cross_gauss_newton(
        network, inputs, start_weights, memory_bytes=memory_bytes, **sums_kept(partway)
    )
    return {"cross": cross}


def _matrix_bytes(network: torch.nn.Module) -> int:
    """Return the bytes of a sum of P x P matrices, its addend, and two vectors."""
    size = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return 16 * size * (size + 1)


def measure_gauss_newton(
    now: dict[str, np.ndarray],
    start: dict[str, np.ndarray],
    delta: np.ndarray,
    targets: np.ndarray,
) -> dict[str, np.ndarray]:
    """Return what ``measure`` returns of the full kernel, from matrices in the space of weights.

    Args:
        now: by ``gauss_newton_matrices``, and ``cross_matrix`` unless at the start.
        start: by ``gauss_newton_matrices`` at theta_0; empty at the start itself.
        delta: residue, shape (N, C).
        targets: y, shape (N, C).

    Returns:
        eigenvalues (N C,), projections (N C,), alignment (), drift (), overlap ().
    """
    matrix, pulled = now["matrix"], now["pulled"]
    eigenvalues, projections = spectrum(GaussNewton(matrix, pulled[:, :1]), delta)
    compared = (0.0, 1.0)
    if start:
        matrices = matrix, start["matrix"], now["cross"]
        compared = drift(*matrices), overlap(*matrices, min(targets.shape[1], len(matrix)))
    return {
        "eigenvalues": eigenvalues,
        "projections": projections,
        "alignment": np.asarray(alignment(matrix, pulled[:, 1], targets)),
        "drift": np.asarray(compared[0]),
        "overlap": np.asarray(compared[1]),
    }


def quadrature(
    problem: Problem,
    settings: dict,
    delta: np.ndarray,
    partway: Partway,
    kernel: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Return the nodes and weights that stand for the full kernel's spectrum in every sum.

    Products are those of the kernel, or of Jacobians without one, which are taken in float64: in
    float32 the sums stall at 1e-3 to 1e-2, for as much time (benchmarks/spectrum.py).

    Args:
        problem: network and inputs.
        settings: ``quadrature_steps``.
        delta: residue, shape (N, C).
        partway: where the basis is kept.
        kernel: the full kernel (N C, N C), float64, if it is formed.

    Returns:
        The fields of ``SpectralMeasure``.
    """
    if not delta.any():  # nothing left to learn: every sum is 0
        nothing = SpectralMeasure(np.zeros(1), np.zeros(1), 0.0, 0.0)
        return {name: np.asarray(value) for name, value in nothing._asdict().items()}
    kept = partway.load()
    start_from = kept and LanczosState(
        *(kept[name] for name in LanczosState._fields[:-1]), float(kept["scale"])
    )
    steps = min(settings["quadrature_steps"], delta.size)
    device = problem.inputs.device
    if kernel is None:
        network = in_precision(copy.deepcopy(problem.network), torch.float64)
        inputs = problem.inputs.double()
        way = way_along_weights(network, inputs)
        multiply = partial(kernel_product, network, inputs, way=way)
    else:
        multiply = partial(torch.mv, torch.from_numpy(kernel).to(device))
    what = "Jacobian products" if kernel is None else "products with the kernel"
    progress = Progress(steps)
    done = itertools.count(1 + (len(start_from.diagonal) if start_from else 0))

    def product(vector: np.ndarray) -> np.ndarray:
        result = multiply(torch.from_numpy(vector).to(device)).cpu().numpy()
        progress.update(next(done), lambda: what)
        return result

    found = spectral_measure_lanczos(
        product,
        delta,
        steps,
        rounded=kernel is not None and problem.inputs.dtype != torch.float64,
        start_from=start_from,
        on_product=lambda state: partway.offer(state.basis.nbytes, state._asdict),
    )
    made = len(found.nodes)
    exact = ": they span all that the residue reaches, and the sums are exact"
    print(
        f"Lanczos quadrature with {made} products, estimated error {found.error_estimate:.2g}"
        f"{exact if made < steps else ''}"
    )
    if found.error_estimate > LARGEST_ERROR and steps < delta.size:
        print(
            f"warning: sums over this spectrum may be off by {100 * found.error_estimate:.0f} %, "
            "mostly at late times; raise kernel.quadrature_steps"
        )
    return {name: np.asarray(value) for name, value in found._asdict().items()}


def quadrature_described(found: dict[str, np.ndarray]) -> dict[str, xr.Variable]:
    """Return what ``quadrature`` found as variables."""
    floor = found["noise_floor"]
    what = "Lanczos quadrature of the full NTK"
    dims = "rank_quadrature"
    return {
        "eigenvalues_quadrature": variable(
            dims, found["nodes"], "1 / time", f"nodes of the {what}"
        ),
        "residue_projections_quadrature": variable(
            dims, found["weights"], "loss", f"weights of the {what}"
        ),
        "noise_floor_quadrature": variable(
            (), floor, "1 / time", f"nodes of the {what} below this are rounding noise"
        ),
        "error_quadrature": variable(
            (),
            found["error_estimate"],
            "1",
            "largest relative difference of the Gauss and the Gauss-Radau rule (of a kernel with "
            "rounding also of rules of fewer products or without its noise) over loss and length "
            "sums, over their geometric mean",
        ),
    }


def residue(problem: Problem) -> np.ndarray:
    """Return Delta = y - f on the training set, shape (N, C), float64."""
    delta = problem.targets - network_outputs(problem.network, problem.inputs)
    return delta.double().cpu().numpy()


def check_gradient(
    problem: Problem, delta: np.ndarray, eigenvalues: np.ndarray, projections: np.ndarray
) -> None:
    """Compare a spectrum with the gradient, and print both sides.

    Args:
        problem: network and inputs.
        delta: residue, shape (N, C).
        eigenvalues: lambda_k of the full kernel, or nodes of a quadrature, shape (K,).
        projections: Delta_k^2, or the weights, shape (K,).

    Raises:
        ValueError: as ``kernel_products.check_spectrum``.
    """
    sums = check_spectrum(problem.network, problem.inputs, delta, eigenvalues, projections)
    print(
        f"sum lambda_k Delta_k^2 of the kernel is {sums[0]:.6g} |Delta|^2, |grad L|^2 by a reverse "
        f"derivative {sums[1]:.6g} |Delta|^2"
    )


def solved(
    kernel: np.ndarray, delta: np.ndarray, count: int, device: torch.device | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return eigenvalues, residue projections and leading eigenvectors, shape (K, count).

    Args:
        kernel: Theta, shape (K, K).
        delta: residue, shape (K, columns).
        count: number of leading eigenvectors, from 0.
        device: a GPU, which decomposes the kernel at once if it has the memory; None is the CPU.
    """
    if device is not None:
        tensors = (torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in (kernel, delta))
        try:
            return tuple(x.cpu().numpy() for x in decomposed(*tensors, count))
        except torch.OutOfMemoryError:
            print(f"{describe_device(device)} is too small for {len(kernel)} rows: on the CPU")
    vectors = leading_eigenvectors(kernel, count)[1] if count else np.empty((len(kernel), 0))
    return *eigenvalues_and_projections(kernel, delta), vectors


def measure(
    kind: str,
    kernel: np.ndarray,
    start: np.ndarray | None,
    delta: np.ndarray,
    targets: np.ndarray,
    device: torch.device | None = None,
) -> dict[str, np.ndarray]:
    """Return the spectrum of one kernel, and how it compares with the start and the targets.

    Args:
        kind: "full" or "traced".
        kernel: Theta_t, shape (K, K).
        start: Theta_0, or None at the start itself.
        delta: residue, shape (N, C).
        targets: y, shape (N, C).
        device: as for ``solved``.

    Returns:
        eigenvalues (K,), projections (K,), alignment (), drift (), overlap (), which is NaN where
        degenerate eigenvalues leave the leading eigenvectors open, and where they are all.
    """
    shape = (-1, 1) if kind == "full" else delta.shape
    delta = delta.reshape(shape)
    announce(f"eigenvalues of the {KINDS[kind]}, of {len(kernel)} rows")
    count = 0 if start is None else min(targets.shape[1], len(kernel))
    eigenvalues, projections, now = solved(kernel, delta, count, device)
    drift, overlap = 0.0, 1.0
    if start is not None:
        drift = kernel_drift(kernel, start)
        if device is None:
            values, then = leading_eigenvectors(start, min(count + 1, len(start)))
        else:
            values, _, then = solved(start, delta, count, device)
        exists = all(leading_eigenspace_exists(v, count) for v in (eigenvalues, values))
        exists &= count < len(kernel)  # all of them span the same space whatever they are
        overlap = eigenspace_overlap(now, then[:, :count]) if exists else np.nan
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
    eigenvalues = found["eigenvalues"]
    projections = shared_projections(eigenvalues, found["projections"])
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
