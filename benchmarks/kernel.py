"""Exact NTK, side by side with its peers in one run, on one core.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/kernel.py --output kernel.csv
        [--neural-tangents PEERS/bin/python]

Methods, all on Myrtle-5 in NTK parameterisation, 32 x 32 x 3 inputs, 10 outputs, float32:

* structured: ``speedlimits.kernel.empirical_ntk``, centred products summed in float64;
* structured, plain: the same without centring;
* torch.func: vmap(jacrev) in chunks of 8 samples and one product per weight array (the way of the
  PyTorch tutorial on NTKs);
* neural-tangents: ``empirical_ntk_fn`` with Jacobian contraction, in the environment of
  requirements-peers.txt, compilation excluded.

Times are CPU seconds of the process, which equal wall seconds on an idle core and are not
lengthened by other jobs on a shared one. Peaks are resident memory of the whole process. The
methods alternate within every repetition, because machines drift; ratios are medians over
repetitions of adjacent runs.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

OUTPUTS, SIDE, CHANNELS = 10, 32, 3
# (width, samples, traced), some 10 minutes on one core; --case 32,1000 shows the large-n limit.
CASES = [
    (32, 32, False),
    (64, 32, False),
    (32, 128, False),
    (64, 128, False),
    (64, 128, True),
    (32, 256, False),
    (64, 256, False),
]
ACCURACY_CASE = (32, 64)  # width, samples


def resident_bytes(field: str) -> int:
    """Return VmRSS or VmHWM of this process (Linux)."""
    return 1024 * int(re.search(field + r":\s+(\d+)", Path("/proc/self/status").read_text())[1])


def measure(function: Callable[[], object]) -> tuple[float, int]:
    """Return CPU seconds and the peak resident bytes of the process during one call."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    start = time.process_time()
    function()
    return time.process_time() - start, resident_bytes("VmHWM")


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
    # C cotangents and C weight gradients through convolutions 2 and 3; convolution 4 only passes
    # cotangents down and convolution 1 takes only weight gradients.
    jacobian = 18 * w**2 * c * (2 * s + 2 * s / 4 + s / 16) + 54 * w * c * s
    forward = 18 * w**2 * (s + s / 4 + s / 16) + 54 * w * s
    columns = 27 * w + 18 * w**2
    product = n**2 * c * columns * (1 if traced else c)
    return n * (jacobian + forward) + product + 18 * (n * w) ** 2


def gemm_rate(size: int = 2048, repeats: int = 7) -> float:
    """Return the best measured rate of float32 matrix products, operations per CPU second."""
    import torch

    a, b = torch.randn(size, size), torch.randn(size, size)
    out = torch.empty(size, size)
    return 2 * size**3 / min(measure(lambda: torch.mm(a, b, out=out))[0] for _ in range(repeats))


def product_rate(rows: int, columns: int = 9216, repeats: int = 5) -> float:
    """Return the rate of the symmetric product alone, lower-half operations per CPU second."""
    import torch

    from speedlimits import kernel_sequential

    jacobian = torch.randn(rows // OUTPUTS, OUTPUTS, columns)
    theta = torch.zeros(rows, rows, dtype=torch.float64)
    panel = kernel_sequential.PANEL_ROWS // OUTPUTS
    panels = kernel_sequential._panels(len(jacobian), len(jacobian), panel, True)
    factor = [jacobian]

    def product():
        kernel_sequential._add_convolution(theta, factor, factor, panels, False, centred=False)

    return rows**2 * columns / min(measure(product)[0] for _ in range(repeats))


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
    """Answer every line "width samples traced" on standard input by [seconds, peak bytes]."""
    import jax
    import neural_tangents as nt
    from neural_tangents import stax

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


def ask(server: subprocess.Popen, case: tuple[int, int, bool]) -> tuple[float, int]:
    """Return seconds and peak bytes of one neural-tangents run."""
    server.stdin.write(json.dumps(case) + "\n")
    server.stdin.flush()
    return tuple(json.loads(server.stdout.readline()))


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
    results: dict[str, list[tuple[float, int]]] = {name: [] for name in runs}
    for _repetition in range(repeats):
        for name, run in runs.items():
            results[name].append(run())
    base = [seconds for seconds, _ in results["structured"]]
    rows = []
    for name, values in results.items():
        seconds = [value for value, _ in values]
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
                "peak MB": f"{statistics.median(peak for _, peak in values) / 1e6:.0f}",
            }
        )
    return rows


def add_share(rows: list[dict[str, object]], rate: float) -> None:
    """Add the share of the matrix-product rate that the structured route reaches overall."""
    for row in rows:
        own = str(row["method"]).startswith("structured")
        work = operations(int(row["width"]), int(row["n"]), row["kernel"] == "traced")
        row["GEMM share"] = f"{work / float(row['seconds']) / rate:.0%}" if own else ""


def markdown(rows: list[dict[str, object]]) -> str:
    """Return rows as a markdown table."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(str(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    """Write rows to a CSV file."""
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("kernel.csv"), help="CSV to write")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions after a warm-up")
    parser.add_argument("--neural-tangents", metavar="PYTHON", help="its environment's python")
    parser.add_argument(
        "--case",
        action="append",
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
    sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
    import torch

    torch.set_num_threads(1)
    cases = CASES
    if arguments.case:
        parts = [case.split(",") for case in arguments.case]
        cases = [(int(p[0]), int(p[1]), p[2:] == ["traced"]) for p in parts]
    server = None
    if arguments.neural_tangents:
        command = [arguments.neural_tangents, __file__, "--serve-neural-tangents"]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    rate = gemm_rate()
    share = product_rate(2560) / rate
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread")
    print(f"matrix products {rate / 1e9:.0f} GF/s; symmetric product alone {share:.0%} of it\n")
    print(markdown(eigenvalue_errors()), "\n")
    rows = []
    for case in cases:
        rows += run_case(case, arguments.repeats, server)
        print(case, {row["method"]: row["seconds"] for row in rows[-4:]}, file=sys.stderr)
    if server is not None:
        server.stdin.close()
        server.wait()
    add_share(rows, rate)
    print(markdown(rows))
    write_csv(arguments.output, rows)


if __name__ == "__main__":
    main()
