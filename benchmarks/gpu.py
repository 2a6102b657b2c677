"""What a GPU does with every piece of a study: gradients, kernels, spectra, and what options cost.

    python benchmarks/gpu.py [--parts limits gradient kernel ...]
        [--archive ARCHIVE] [--width 128] [--sizes 500 1000 2000 5000] [--csv FOLDER]

Myrtle-5 with random images, or CIFAR-10's with --archive, 10 outputs. Elapsed seconds between
synchronisations of the card, after calls that are not counted: median (least-most). Operations
count multiply and add as 2: a gradient takes 3 f n with f those of a forward pass, kernels and
spectra what ``kernel.spectrum_cost`` says. Parts:

* limits: matrix products in float32, TF32 and float64, and a triad;
* gradient: the full gradient as shipped, and with another memory format, micro-batch, algorithm or
  arithmetic, and by how much TF32 changes it;
* small: gradients of few samples, one operation at a time, as a CUDA graph, and of six realisations
  one after another or stacked;
* precision: the NTK of 128 images and its exponents in float32 and TF32 against float64;
* descent_in_tf32: T/T_SL along gradient descent whose gradients are taken in TF32;
* flow: gradients and seconds that gradient flow takes;
* kernel: the full and the output-traced NTK, with peak memory against the budget;
* spectrum: dense decompositions, leading eigenvectors, products with a stored kernel.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measuring import SCRIPTS, conditions, markdown, whole_number, with_spread, write_csv

sys.path.insert(0, str(SCRIPTS))

from gradient_flow import load_images

from pipeline.device import choose_device
from speedlimits.dynamics import GradientDescent, GradientFlow
from speedlimits.ensembles import EnsembleLoss
from speedlimits.exponents import fit_exponent, fit_window
from speedlimits.gradient import TrainingLoss
from speedlimits.kernel import empirical_ntk, forward_operations, spectrum_cost
from speedlimits.kernel_products import kernel_product, largest_eigenvalue
from speedlimits.networks import MODELS, drawn_network
from speedlimits.ntk_dynamics import predict
from speedlimits.spectrum import leading_eigenvectors, noise_floor
from speedlimits.spectrum_torch import decomposed

OUTPUTS = 10
REPEATS = 5
REALISATIONS = 6  # the paper's
LEAST_SECONDS = 0.1  # one timing repeats a call until it lasts this long


def elapsed(call: Callable[[], object], repeats: int = REPEATS, warm_up: int = 2) -> list[float]:
    """Return the elapsed seconds of some calls, each until the card has finished."""
    for _ in range(warm_up):
        call()
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    count = max(1, int(LEAST_SECONDS / (time.perf_counter() - start)))
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(count):
            call()
        torch.cuda.synchronize()
        found.append((time.perf_counter() - start) / count)
    return found


@contextlib.contextmanager
def tf32() -> Iterator[None]:
    """Within this, products and convolutions of float32 data are taken in TF32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


@contextlib.contextmanager
def any_algorithm() -> Iterator[None]:
    """Within this, algorithms whose result varies between calls are allowed."""
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


@contextlib.contextmanager
def searched() -> Iterator[None]:
    """Within this, cuDNN times its algorithms and takes the fastest, deterministic or not."""
    torch.backends.cudnn.benchmark = True
    try:
        with any_algorithm():
            yield
    finally:
        torch.backends.cudnn.benchmark = False


def images(archive: Path | None, count: int, device: torch.device) -> tuple:
    """Return standardised images (N, 3, 32, 32) and one-hot targets (N, 10) on the card."""
    if archive is not None:
        return tuple(x.to(device) for x in load_images(archive, count))
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 3, 32, 32, generator=generator)
    labels = torch.randint(OUTPUTS, (count,), generator=generator)
    return inputs.to(device), torch.nn.functional.one_hot(labels, OUTPUTS).float().to(device)


def network_at_start(
    width: int, inputs: torch.Tensor, seed: int = 0, model: str = "myrtle5", **settings
) -> torch.nn.Module:
    """Return a network at its start, in NTK parameterisation if not told else, on the card."""
    settings = {"parameterisation": "ntk", "width": width} | settings
    build = partial(MODELS[model], input_shape=tuple(inputs.shape[1:]), outputs=OUTPUTS, **settings)
    return drawn_network(build, seed).to(inputs.device)


def weights_of(network: torch.nn.Module) -> torch.Tensor:
    """Return theta in float64."""
    return torch.nn.utils.parameters_to_vector(network.parameters()).detach().double()


def forget() -> None:
    """Give the card's memory back that no tensor holds."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def limits(arguments, device) -> list[dict]:
    """Return the rates of large products and of a triad."""
    rows = []
    for name, dtype, context in (
        ("float32", torch.float32, contextlib.nullcontext),
        ("TF32", torch.float32, tf32),
        ("float64", torch.float64, contextlib.nullcontext),
    ):
        size = 8192
        a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
        with context():
            rates = [2e-12 * size**3 / t for t in elapsed(partial(torch.mm, a, b))]
        rows.append({"limit": f"products, {name}", "rate": with_spread(rates, ".1f"),
                     "unit": "TFLOP/s"})  # fmt: skip
    b, c = torch.rand(2**30, device=device), torch.rand(2**30, device=device)
    a = torch.empty_like(b)
    rates = [12 * 2**30 / t / 1e12 for t in elapsed(partial(torch.add, b, c, alpha=3.0, out=a))]
    rows.append({"limit": "triad", "rate": with_spread(rates, ".2f"), "unit": "TB/s"})
    return rows


def gradient(arguments, device) -> list[dict]:
    """Return time, rate and difference of the full gradient in several ways."""
    rows = []
    every, labels = images(arguments.archive, max(arguments.sizes), device)
    network = network_at_start(arguments.width, every)
    theta = weights_of(network)
    operations = 3 * forward_operations(network, every[:1])
    ways = {
        "as shipped": ({}, contextlib.nullcontext, torch.float32),
        "any algorithm": ({}, any_algorithm, torch.float32),
        "timed algorithms": ({}, searched, torch.float32),
        "channels last": ({"channels_last": True}, contextlib.nullcontext, torch.float32),
        "micro-batch 256": ({"micro_batch": 256}, contextlib.nullcontext, torch.float32),
        "micro-batch 1024": ({"micro_batch": 1024}, contextlib.nullcontext, torch.float32),
        "micro-batch 5000": ({"micro_batch": 5000}, contextlib.nullcontext, torch.float32),
        "TF32": ({}, tf32, torch.float32),
        "float64": ({}, contextlib.nullcontext, torch.float64),
    }
    for n in arguments.sizes:
        reference = None
        for name, (options, context, dtype) in ways.items():
            if arguments.ways and name not in arguments.ways:
                continue
            if n not in (arguments.sizes[0], arguments.sizes[-1]) and name != "as shipped":
                continue
            forget()
            with context():
                model = copy.deepcopy(network).to(dtype)
                loss = TrainingLoss(model, every[:n], labels[:n], **options)
                seconds = elapsed(partial(loss.loss_and_gradient, theta), repeats=3)
                found = loss.loss_and_gradient(theta)[1]
                same = bool(torch.equal(found, loss.loss_and_gradient(theta)[1]))
            reference = found if reference is None else reference
            rows.append({
                "n": n,
                "way": name,
                "ms": with_spread([1e3 * s for s in seconds], ".2f"),
                "TFLOP/s": f"{operations * n / statistics.median(seconds) / 1e12:.1f}",
                "difference": f"{float((found - reference).norm() / reference.norm()):.1e}",
                "same bits": same,
                "GPU GB": f"{torch.cuda.max_memory_allocated() / 1e9:.1f}",
            })  # fmt: skip
            print(rows[-1], flush=True)
            del loss
    return rows


def small(arguments, device) -> list[dict]:
    """Return times of gradients of few samples, for six realisations, and of whole steps."""
    rows = []
    every, labels = images(arguments.archive, 512, device)
    cases = [("myrtle5", w, n) for w, n in ((16, 32), (32, 64), (32, 256), (32, 512), (128, 256))]
    cases += [("fully_connected", 256, 64)]
    for model, width, n in cases:
        forget()
        x, options = every[:n], {"depth": 3} if model == "fully_connected" else {}
        networks = [
            network_at_start(width, x, seed, model, **options) for seed in range(REALISATIONS)
        ]
        thetas = torch.stack([weights_of(network) for network in networks])

        def one_by_one(losses, thetas=thetas):
            return lambda: [
                loss.loss_and_gradient(theta) for loss, theta in zip(losses, thetas, strict=True)
            ]

        single = [TrainingLoss(net, x, labels[:n], cuda_graph=False) for net in networks]
        graphs = [TrainingLoss(net, x, labels[:n], cuda_graph=True) for net in networks]
        stacked = EnsembleLoss(networks, x, labels[:n])
        calls = {
            "single": one_by_one(single),
            "graph": one_by_one(graphs),
            "stacked": partial(stacked.losses_and_gradients, thetas),
        }
        times = {name: elapsed(call) for name, call in calls.items()}
        same = torch.equal(single[0].loss_and_gradient(thetas[0])[1],
                           graphs[0].loss_and_gradient(thetas[0])[1])  # fmt: skip
        steps = {}
        for name, loss in (("single", single[0]), ("graph", graphs[0])):
            descent = GradientDescent(loss.loss_and_gradient, thetas[0], 1e-6)
            torch.cuda.synchronize()
            start = time.perf_counter()
            descent.advance(200 * 1e-6)
            torch.cuda.synchronize()
            steps[name] = (time.perf_counter() - start) / 200
        rows.append({
            "network": model, "width": width, "n": n,
            **{f"{k}, ms a gradient": with_spread([1e3 * t / REALISATIONS for t in v], ".3f")
               for k, v in times.items()},
            "step of descent, single / graph, ms":
                f"{1e3 * steps['single']:.3f} / {1e3 * steps['graph']:.3f}",
            "same bits": same,
        })  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def fitted(kernel: torch.Tensor, residue: torch.Tensor) -> dict:
    """Return a spectrum, its exponents over the shipped window, and sums."""
    eigenvalues, projections, _ = (x.cpu().numpy() for x in decomposed(kernel, residue, 0))
    above = int((eigenvalues > noise_floor(eigenvalues)).sum())
    first, last = fit_window(above, OUTPUTS + 1, 0.5)
    found = {}
    for name, values, scattered in (
        ("alpha", eigenvalues, False), ("delta", projections, True),
    ):  # fmt: skip
        found[name] = fit_exponent(
            values, first, last, bins_per_decade=8, confidence=0.95, resamples=20,
            generator=np.random.default_rng(0), scattered=scattered,
        ).exponent  # fmt: skip
    times = np.array([10.0, 1e3, 1e5]) / eigenvalues[0]
    return found | {
        "eigenvalues": eigenvalues,
        "T/T_SL": predict(eigenvalues, projections, times)["inefficiency"],
        "above the floor": above,
    }


def precision(arguments, device) -> list[dict]:
    """Return what float32 and TF32 change in kernels."""
    rows = []
    n = min(128, arguments.sizes[0])
    x, y = images(arguments.archive, max(n, arguments.sizes[0]), device)
    network = network_at_start(32, x)
    double = copy.deepcopy(network).double()
    residue = (y[:n] - network(x[:n])).detach().double().reshape(-1, 1)
    reference = fitted(empirical_ntk(double, x[:n].double()), residue)
    ways = {
        "float32, centred (as shipped)": (torch.float64, contextlib.nullcontext),
        "float32, plain": (torch.float32, contextlib.nullcontext),
        "TF32, centred": (torch.float64, tf32),
        "TF32, plain": (torch.float32, tf32),
    }
    for name, (accumulate, context) in ways.items():
        with context():
            kernel = empirical_ntk(network, x[:n], accumulate_dtype=accumulate)
        found = fitted(kernel, residue)
        error = np.abs(found["eigenvalues"] / reference["eigenvalues"] - 1)
        off = np.abs(found["T/T_SL"] / reference["T/T_SL"] - 1)
        rows.append({
            "kernel": name,
            "eigenvalues off, median / most": f"{np.median(error):.1e} / {error.max():.1e}",
            "above the floor": found["above the floor"],
            "alpha off by": f"{found['alpha'] - reference['alpha']:+.1e}",
            "delta off by": f"{found['delta'] - reference['delta']:+.1e}",
            "T/T_SL off, most": f"{off.max():.1e}",
        })  # fmt: skip
        print(rows[-1], flush=True)
    print(f"float64: alpha {reference['alpha']:.4f}, delta {reference['delta']:.4f}")
    return rows


def descent_in_tf32(arguments, device) -> list[dict]:
    """Return what TF32 changes in T/T_SL along gradient descent of the same steps."""
    n, rows, reference = arguments.sizes[0], [], None
    x, y = images(arguments.archive, n, device)
    network = network_at_start(arguments.width, x)
    theta, lambda_1 = weights_of(network), largest_eigenvalue(network, x)
    for name, context in (("float32", contextlib.nullcontext), ("TF32", tf32)):
        with context():
            loss = TrainingLoss(network, x, y)
            descent = GradientDescent(loss.loss_and_gradient, theta, 0.2 / lambda_1)
            start, found = descent.loss, []
            for scaled in (0.2, 1, 3, 10, 30, 100):
                descent.advance(scaled / lambda_1)
                length = float(descent.displacement.norm())
                ratio = descent.time * (start - descent.loss) / length**2
                found.append((scaled, ratio, length, descent.displacement.clone()))
        reference = reference or found
        for (scaled, ratio, length, moved), (_, wanted, far, there) in zip(
            found, reference, strict=True
        ):
            rows.append({
                "n": n, "arithmetic": name, "lambda_1 t": scaled, "T/T_SL": f"{ratio:.5f}",
                "off by": f"{ratio / wanted - 1:+.1e}", "length off by": f"{length / far - 1:+.1e}",
                "distance / displacement": f"{float((moved - there).norm()) / far:.1e}",
            })  # fmt: skip
    return rows


def flow(arguments, device) -> list[dict]:
    """Return gradients and time of gradient flow at the default tolerance."""
    rows = []
    n = arguments.sizes[0]
    x, y = images(arguments.archive, n, device)
    for (parameterisation, initialisation), limit in (
        (("ntk", "he"), 60), (("standard", "torch_default"), 5),
    ):  # fmt: skip
        start = {"parameterisation": parameterisation, "initialisation": initialisation}
        network = network_at_start(arguments.width, x, **start)
        lambda_1 = largest_eigenvalue(network, x)
        loss = TrainingLoss(network, x, y)
        evolution = GradientFlow(loss.loss_and_gradient, weights_of(network), lambda_1=lambda_1)
        first, begin = evolution.loss, time.perf_counter()
        for scaled in (10, 30, 100, 300, 1000):
            evolution.advance(scaled / lambda_1)
            drop = first - evolution.loss
            rows.append({
                "n": n, **start, "lambda_1": f"{lambda_1:.4g}",
                "lambda_1 t": scaled, "gradients": evolution.gradients,
                "s": f"{time.perf_counter() - begin:.1f}", "loss": f"{evolution.loss:.4g}",
                "T/T_SL": f"{evolution.time * drop / float(evolution.displacement.norm())**2:.3f}",
                "radius / lambda_1": f"{evolution.spectral_radius / lambda_1:.3g}",
            })  # fmt: skip
            print(rows[-1], flush=True)
            if time.perf_counter() - begin > limit:
                break
    return rows


def kernel(arguments, device) -> list[dict]:
    """Return time, rate and memory of kernels."""
    rows = []
    x, _ = images(arguments.archive, max(arguments.sizes), device)
    network = network_at_start(arguments.width, x)
    few, many = sorted(arguments.sizes)[1], max(arguments.sizes)
    for n, traced, gigabytes in (
        (few, False, 4), (few, False, 40), (many, True, 40), (many, False, 40),
    ):  # fmt: skip
        forget()
        budget = int(gigabytes * 1e9 + 8 * (n if traced else n * OUTPUTS) ** 2)
        before = torch.cuda.memory_allocated()
        call = partial(empirical_ntk, network, x[:n], traced=traced, memory_bytes=budget)
        seconds = elapsed(call, repeats=3 if n == few else 1, warm_up=int(n == few))
        peak = torch.cuda.max_memory_allocated() - before
        cost = spectrum_cost(network, x[:n], OUTPUTS, 1)
        eigen = 8 / 3 * (n * OUTPUTS) ** 3
        weights = sum(p.numel() for p in network.parameters())
        work = cost.explicit - eigen
        if traced:
            work -= (n * OUTPUTS) ** 2 * weights * (1 - 1 / OUTPUTS)
        rows.append({
            "n": n, "kernel": "traced" if traced else "full",
            "budget GB": f"{budget / 1e9:.1f}",
            "peak GB": f"{peak / 1e9:.1f}", "s": with_spread(seconds),
            "TFLOP/s": f"{work / statistics.median(seconds) / 1e12:.1f}",
        })  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def spectrum(arguments, device) -> list[dict]:
    """Return times of decompositions and products."""
    rows = []
    generator = torch.Generator(device).manual_seed(0)
    for size in arguments.rows:
        forget()
        factor = torch.randn(size, size, dtype=torch.float64, device=device, generator=generator)
        factor *= torch.arange(1, size + 1, device=device, dtype=torch.float64) ** -0.75
        matrix = factor @ factor.T
        del factor
        residue = torch.randn(size, 1, dtype=torch.float64, device=device, generator=generator)
        vector = residue[:, 0]
        calls = {
            "all eigenpairs": partial(decomposed, matrix, residue, 0),
            "eigenvalues": partial(torch.linalg.eigvalsh, matrix),
            "product": partial(torch.mv, matrix, vector),
            "block product, 32 columns": partial(torch.mm, matrix, matrix[:, :32]),
            "to the host": matrix.cpu,
        }
        for name, call in calls.items():
            seconds = elapsed(call, repeats=1, warm_up=int("product" in name))
            rows.append({"rows": size, "what": name, "s": with_spread(seconds, ".4f")})
            print(rows[-1], flush=True)
        if size == arguments.rows[0]:
            host = matrix.cpu().numpy()
            start = time.perf_counter()
            leading_eigenvectors(host, OUTPUTS + 1)
            rows.append({"rows": size, "what": "11 leading pairs, on the host",
                         "s": f"{time.perf_counter() - start:.2f}"})  # fmt: skip
        del matrix, calls
    n = sorted(arguments.sizes)[1]
    x, _ = images(arguments.archive, n, device)
    network = network_at_start(arguments.width, x).double()
    vector = torch.randn(n * OUTPUTS, dtype=torch.float64, device=device)
    for batch in (64, 500):
        call = partial(kernel_product, network, x.double(), vector, batch=batch)
        seconds = elapsed(call, repeats=1, warm_up=1)
        rows.append({"rows": len(vector), "what": f"matrix-free product, batch {batch}",
                     "s": with_spread(seconds, ".4f")})  # fmt: skip
    return rows


PARTS = {
    "limits": limits, "gradient": gradient, "small": small, "precision": precision,
    "descent_in_tf32": descent_in_tf32, "flow": flow, "kernel": kernel, "spectrum": spectrum,
}  # fmt: skip


def main() -> None:
    """Run the parts asked for, print their tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--archive", type=Path, help="CIFAR-10 python archive")
    parser.add_argument("--width", type=whole_number, default=128)
    parser.add_argument("--sizes", type=whole_number, nargs="+", default=[500, 1000, 2000, 5000])
    parser.add_argument("--ways", nargs="+", help="of the part gradient; all if not given")
    parser.add_argument("--rows", type=whole_number, nargs="+", default=[5000, 10000, 20000])
    parser.add_argument("--csv", type=Path, default=Path("build/benchmarks/gpu"))
    arguments = parser.parse_args()
    try:
        device = choose_device("cuda", threads=4, deterministic=True)
    except RuntimeError as error:
        sys.exit(str(error))
    print(conditions(threads=4))
    card = torch.cuda.get_device_name(device)
    print(f"{card}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}", flush=True)
    for name in arguments.parts:
        start = time.perf_counter()
        rows = PARTS[name](arguments, device)
        write_csv(arguments.csv / f"{name}.csv", rows)
        print(f"\n{name} ({time.perf_counter() - start:.0f} s)\n\n{markdown(rows)}\n", flush=True)


if __name__ == "__main__":
    main()
