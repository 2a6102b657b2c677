"""Exact NTK, side by side with its peers in one run, on one core.

    OMP_NUM_THREADS=1 python benchmarks/kernel.py --output kernel.csv [--full]
        [--neural-tangents PEERS/bin/python]

Methods, all on Myrtle-5 in NTK parameterisation, 32 x 32 x 3 inputs, 10 outputs, float32:

* structured: ``speedlimits.kernel.empirical_ntk``, centred products summed in float64;
* structured, plain: the same without centring;
* torch.func: vmap(jacrev) in chunks of 8 samples and one product per weight array (the way of the
  PyTorch tutorial on NTKs);
* neural-tangents: ``empirical_ntk_fn`` with Jacobian contraction, in the environment of
  requirements-peers.txt, compilation excluded.

Times are processor seconds, peaks are resident memory of the whole process, with what a call added
to it (``measuring``). The methods alternate within every repetition, because machines drift; ratios
are medians over repetitions of adjacent runs. The last table fits powers of n at one width and of
the width at one n, of time, of added memory and, to compare with, of operations.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

from measuring import (
    SCRIPTS,
    Measured,
    conditions,
    fitted_power,
    markdown,
    measure,
    measured_limits,
    processor_seconds,
    whole_number,
    write_csv,
)

OUTPUTS, SIDE, CHANNELS = 10, 32, 3
# (width, samples, traced); a minute or two on one core.
CASES = [(width, 64, False) for width in (16, 64)]
CASES += [(32, samples, False) for samples in (32, 64, 128, 256)]
LARGE_CASES = [(128, 64, False), (64, 128, False), (64, 128, True), (64, 256, False)]
LARGE_CASES += [(32, 1000, False)]  # with --full: quarter of an hour more
ACCURACY_CASE = (32, 64)  # width, samples


def make_case(width: int, samples: int):
    """Return a network at its start and images with a 1/f spectrum and a common mean."""
    import torch

    from speedlimits import networks

    generator = torch.Generator().manual_seed(width)
    network = networks.myrtle5(
        input_shape=(CHANNELS, SIDE, SIDE), outputs=OUTPUTS, width=width, parameterisation="ntk"
    )
    networks.initialise_(network, generator)
    noise = torch.fft.rfft2(torch.randn(samples, CHANNELS, SIDE, SIDE, generator=generator))
    rows, columns = torch.fft.fftfreq(SIDE), torch.fft.rfftfreq(SIDE)
    frequency = (rows[:, None] ** 2 + columns**2).sqrt().clamp(min=1 / SIDE)
    images = torch.fft.irfft2(noise / frequency, s=(SIDE, SIDE))
    return network, images / images.std()


def torch_func_ntk(network, inputs, traced: bool):
    """Return the NTK as the PyTorch tutorial computes it, Jacobians in chunks of 8 samples."""
    import torch
    from torch.func import functional_call, jacrev, vmap

    weights = {name: p.detach() for name, p in network.named_parameters()}

    def output(w, x):
        return functional_call(network, w, (x[None],))[0]

    with torch.no_grad():
        jacobian = vmap(jacrev(output), (None, 0), chunk_size=8)(weights, inputs)
        pattern = "iap,jap->ij" if traced else "iap,jbp->iajb"
        parts = [j.flatten(2) for j in jacobian.values()]
        theta = sum(torch.einsum(pattern, j, j) for j in parts)
    return theta / OUTPUTS if traced else theta.flatten(2).flatten(0, 1)


def methods(network, inputs, traced: bool) -> dict[str, Callable[[], object]]:
    """Return name -> call of the methods of this environment."""
    import torch

    from speedlimits import kernel

    def structured(dtype):
        return lambda: kernel.empirical_ntk(
            network, inputs, traced=traced, accumulate_dtype=dtype, memory_bytes=16 * 2**30
        )

    return {
        "structured": structured(torch.float64),
        "structured, plain": structured(torch.float32),
        "torch.func": lambda: torch_func_ntk(network, inputs, traced),
    }


def operations(width: int, samples: int, traced: bool) -> float:
    """Return the floating-point operations of the structured route (multiply and add = 2)."""
    s, c, n, w = SIDE**2, OUTPUTS, samples, width
    # C cotangents and C weight gradients through convolutions 2 and 3; convolution 4 passes
    # cotangents down and takes one weight gradient, convolution 1 takes only weight gradients.
    jacobian = 18 * w**2 * (c * (2 * s + 2 * s / 4 + s / 16) + s / 16) + 54 * w * c * s
    forward = 18 * w**2 * (s + s / 4 + s / 16) + 54 * w * s
    columns = 27 * w + 18 * w**2
    product = n**2 * c * columns * (1 if traced else c)
    return n * (jacobian + forward) + product + 18 * (n * w) ** 2


def product_rate(rows: int, columns: int = 9216, repeats: int = 5) -> float:
    """Return the rate of the symmetric product alone, lower-half operations per second."""
    import torch

    from speedlimits import kernel_sequential

    jacobian = torch.randn(rows // OUTPUTS, OUTPUTS, columns)
    theta = torch.zeros(rows, rows, dtype=torch.float64)
    panel = kernel_sequential.PANEL_ROWS // OUTPUTS
    panels = kernel_sequential._panels(len(jacobian), len(jacobian), panel, True)
    factor = [jacobian]

    def product():
        kernel_sequential._add_convolution(theta, factor, factor, panels, False, centred=False)

    return rows**2 * columns / min(processor_seconds(product, repeats))


def eigenvalue_errors() -> list[dict[str, object]]:
    """Return relative errors of float32 kernels' eigenvalues against float64 throughout.

    Samples with a ReLU whose sign float32 flips are left out: they belong to another kernel.
    """
    import torch

    width, samples = ACCURACY_CASE
    network, inputs = make_case(width, samples)
    masks = [relu_masks(network, inputs), relu_masks(network.double(), inputs.double())]
    inputs = inputs[(masks[0] == masks[1]).all(dim=1)]
    reference = torch.linalg.eigvalsh(methods(network, inputs.double(), False)["structured"]())
    rows = []
    for name, call in methods(network.float(), inputs, False).items():
        values = torch.linalg.eigvalsh(call().double())
        errors = ((values - reference) / reference).abs()
        rows.append(
            {
                "method": name,
                "samples": len(inputs),
                "condition": f"{float(reference[-1] / reference[0]):.1e}",
                "max error": f"{float(errors.max()):.1e}",
                "median error": f"{float(errors.median()):.1e}",
            }
        )
    return rows


def relu_masks(network, x):
    """Return the signs of all pre-activations, (N, units)."""
    import torch
    from torch import nn

    masks = []
    with torch.no_grad():
        for layer in network:
            if isinstance(layer, nn.ReLU):
                masks.append((x > 0).flatten(1))
            x = layer(x)
    return torch.cat(masks, dim=1)


def neural_tangents_server() -> None:
    """Answer every line "width samples traced" on standard input by what was measured.

    The first line written names the versions.
    """
    import jax
    import neural_tangents as nt
    from neural_tangents import stax

    names = ("jax", "jaxlib", "neural-tangents")
    print(json.dumps(", ".join(f"{name} {version(name)}" for name in names)), flush=True)
    compiled: dict[tuple[int, int, bool], Callable[[], object]] = {}
    for line in sys.stdin:
        width, samples, traced = json.loads(line)
        key = (width, samples, traced)
        if key not in compiled:
            compiled.clear()
            conv = [stax.Conv(width, (3, 3), padding="SAME"), stax.Relu()]
            pool = [stax.AvgPool((2, 2), (2, 2))]
            layers = [*conv, *conv, *pool, *conv, *pool, *conv, stax.GlobalAvgPool()]
            init, apply, _ = stax.serial(*layers, stax.Dense(OUTPUTS))
            x = jax.random.normal(jax.random.PRNGKey(0), (samples, SIDE, SIDE, CHANNELS))
            _, weights = init(jax.random.PRNGKey(1), x.shape)
            ntk = nt.empirical_ntk_fn(
                apply,
                trace_axes=(-1,) if traced else (),
                vmap_axes=0,
                implementation=nt.NtkImplementation.JACOBIAN_CONTRACTION,
            )
            # Inputs and weights are arguments: as constants, XLA would fold them at compilation.
            call = jax.jit(lambda x, weights, ntk=ntk: ntk(x, None, weights))
            compiled[key] = partial(lambda f, *a: f(*a).block_until_ready(), call, x, weights)
            compiled[key]()  # compilation
        print(json.dumps(measure(compiled[key])), flush=True)


def ask(server: subprocess.Popen, case: tuple[int, int, bool]) -> Measured:
    """Return what one neural-tangents run took."""
    server.stdin.write(json.dumps(case) + "\n")
    server.stdin.flush()
    return Measured(*json.loads(server.stdout.readline()))


def run_case(
    case: tuple[int, int, bool], repeats: int, server: subprocess.Popen | None
) -> list[dict[str, object]]:
    """Return one row per method, from interleaved repetitions after a warm-up on 32 samples."""
    width, samples, traced = case
    network, inputs = make_case(width, samples)
    calls = methods(network, inputs, traced)
    runs = {name: (lambda call=call: measure(call)) for name, call in calls.items()}
    if server is not None:
        runs["neural-tangents"] = lambda: ask(server, case)
    for call in methods(network, inputs[:32], traced).values():
        call()
    results: dict[str, list[Measured]] = {name: [] for name in runs}
    for _repetition in range(repeats):
        for name, run in runs.items():
            results[name].append(run())
    base = [value.seconds for value in results["structured"]]
    rows = []
    for name, values in results.items():
        seconds = [value.seconds for value in values]
        ratios = [value / own for value, own in zip(seconds, base, strict=True)]
        rows.append(
            {
                "width": width,
                "n": samples,
                "kernel": "traced" if traced else "full",
                "method": name,
                "seconds": f"{statistics.median(seconds):.3f}",
                "least": f"{min(seconds):.3f}",
                "most": f"{max(seconds):.3f}",
                "ratio": f"{statistics.median(ratios):.2f}",
                "peak MB": f"{statistics.median(value.peak for value in values) / 1e6:.0f}",
                "added MB": f"{statistics.median(value.added for value in values) / 1e6:.0f}",
            }
        )
    return rows


def add_share(rows: list[dict[str, object]], rate: float) -> None:
    """Add the share of the matrix-product rate that the structured route reaches overall."""
    for row in rows:
        own = str(row["method"]).startswith("structured")
        work = operations(int(row["width"]), int(row["n"]), row["kernel"] == "traced")
        row["GEMM share"] = f"{work / float(row['seconds']) / rate:.0%}" if own else ""


def scaling(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return what powers of n at one width, and of the width at one n, full kernels follow.

    Three cases or more make a line for every method; operations are those of the structured route.
    """
    full = [row for row in rows if row["kernel"] == "full"]
    found = []
    for axis, fixed in (("n", "width"), ("width", "n")):
        for at, method in dict.fromkeys((row[fixed], row["method"]) for row in full):
            chosen = [row for row in full if (row[fixed], row["method"]) == (at, method)]
            if len(chosen) < 3:
                continue
            x = [float(row[axis]) for row in chosen]
            columns = {
                name: [float(row[name]) for row in chosen] for name in ("seconds", "added MB")
            }
            if str(method).startswith("structured"):
                columns["operations"] = [
                    operations(int(row["width"]), int(row["n"]), False) for row in chosen
                ]
            powers = {name: fitted_power(x, values) for name, values in columns.items()}
            found.append(
                {
                    "power of": f"{axis} = {', '.join(f'{value:g}' for value in sorted(x))}",
                    "at": f"{fixed} {at}",
                    "method": method,
                    "seconds": powers["seconds"],
                    "added MB": powers["added MB"],
                    "operations": powers.get("operations", ""),
                }
            )
    return found


def case(text: str) -> tuple[int, int, bool]:
    """Return width, n and whether outputs are traced, of an option WIDTH,N[,traced]."""
    width, samples, *kind = text.split(",")
    if kind not in ([], ["traced"]):
        raise ValueError
    return whole_number(width), whole_number(samples), bool(kind)


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("kernel.csv"), help="CSV to write")
    parser.add_argument(
        "--repeats", type=whole_number, default=3, help="repetitions after a warm-up"
    )
    parser.add_argument("--full", action="store_true", help="large cases too")
    parser.add_argument("--neural-tangents", metavar="PYTHON", help="its environment's python")
    parser.add_argument(
        "--case",
        action="append",
        type=case,
        metavar="WIDTH,N[,traced]",
        help="a case instead of the default ones; may be repeated",
    )
    parser.add_argument("--serve-neural-tangents", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run all cases, print the tables and write the CSV file."""
    arguments = parse_arguments()
    if arguments.serve_neural_tangents:
        neural_tangents_server()
        return
    sys.path.insert(0, str(SCRIPTS))
    import torch

    torch.set_num_threads(1)
    cases = CASES + LARGE_CASES * arguments.full
    if arguments.case:
        cases = arguments.case
    server = None
    if arguments.neural_tangents:
        command = [arguments.neural_tangents, __file__, "--serve-neural-tangents"]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    reached = measured_limits()
    share = product_rate(2560) / reached.float32
    print(conditions())
    if server is not None:
        print(f"beside it {json.loads(server.stdout.readline())}")
    print(f"{reached}; symmetric product alone {share:.0%} of the first\n")
    print(markdown(eigenvalue_errors()), "\n")
    rows = []
    for case in cases:
        rows += run_case(case, arguments.repeats, server)
        print(case, {row["method"]: row["seconds"] for row in rows[-4:]}, file=sys.stderr)
    if server is not None:
        server.stdin.close()
        server.wait()
    add_share(rows, reached.float32)
    print(markdown(rows))
    if powers := scaling(rows):
        print("\nExponents, fitted in logarithms, with standard errors:\n")
        print(markdown(powers))
    write_csv(arguments.output, rows)


if __name__ == "__main__":
    main()
