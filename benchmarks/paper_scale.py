"""How long a configuration takes on a card: operations counted, rates measured here, quotient.

    python benchmarks/paper_scale.py [--configfile configs/paper.yaml] [--archive ARCHIVE]
        [--float32 TFLOPS] [--float64 TFLOPS] [--bandwidth TB_PER_S]

No more than an open extrapolation, for planning and for whoever has no card at hand:

1. Operations. f, those of one sample's forward pass of the configured network, are counted
   (``kernel.forward_operations``). A gradient takes 3 f n; kernels and quadratures take what
   ``kernel.spectrum_cost`` says, a kernel at the start once, and one at the warm start and at the
   end twice (its drift needs the start's again).
2. Gradients. Steps of the learning rate take final_time / (lambda_1 * learning_rate) of them, with
   lambda_1 measured at two small n and continued by its power of n. Gradient flow takes the number
   given by --flow-gradients: by default 420, the 372 that a Myrtle-5 in NTK parameterisation took
   on 500 images to lambda_1 T = 1e3 (``gpu.py --parts flow``), and one for each snapshot.
3. Rates. Each piece is run small on this machine, and its rate divided by that of a large matrix
   product here. The card is taken to reach the same share of its own rate, at most all of it (less
   may be done than is counted, or the machine have changed its speed meanwhile). That share is the
   weakest link: an H200 reached 59 % of it in gradients, a CPU core all, so that training takes
   almost twice what this says there, and in float64 16 % (docs/speed.md). A dense decomposition of
   K rows reads 8/3 K^3 bytes (half of its reduction to tridiagonal form is matrix times vector) and
   does as many operations in float64; products with a stored kernel read it once each.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from measuring import (
    SCRIPTS,
    conditions,
    gemm_rate,
    positive,
    processor_seconds,
    whole_number,
    with_spread,
)
from snakemake.utils import update_config

sys.path.insert(0, str(SCRIPTS))

from gradient_flow import load_images

from pipeline.config import validated
from pipeline.runs import Plan, is_own, model_keys
from speedlimits.gradient import TrainingLoss
from speedlimits.kernel import empirical_ntk, forward_operations, spectrum_cost
from speedlimits.kernel_products import kernel_product, largest_eigenvalue
from speedlimits.networks import MODELS, drawn_network

ROOT = Path(__file__).resolve().parents[1]
SIZES = (16, 32)  # samples of the small runs
MOMENTS = 3  # start, warm start and end
KERNELS = 1 + 2 + 2  # of them, the last two with the start's beside them
CARD = {"float32": 51.0, "float64": 55.0, "bandwidth": 4.4}  # NVIDIA H200, by ``gpu.py``


def obstacle(plan: Plan, base: dict) -> str | None:
    """Return why the default studies of a plan cannot be extrapolated, or None.

    Rates and lambda_1 are measured for the base's network alone.
    """
    if is_own(base["model"]):
        return f"base.model is {base['model']}; a built-in network can be extrapolated"
    for study in plan.default_studies:
        for ensemble in plan.studies[study]:
            network = plan.settings("network", ensemble.network)
            other = [key for key, value in network.items() if base.get(key, value) != value]
            if other:
                return (
                    f"studies.{study} has a run of {other[0]} {network[other[0]]} where base has "
                    f"{base[other[0]]}; only n, subset and realisations may differ"
                )
    return None


def network_of(settings: dict, inputs: torch.Tensor, dtype: torch.dtype) -> torch.nn.Module:
    """Return the network of run settings at a start."""
    build = MODELS[settings["model"]]
    given = {key: settings[key] for key in model_keys(settings)}
    return drawn_network(
        lambda: build(input_shape=tuple(inputs.shape[1:]), outputs=10, **given), 0, dtype
    )


def shares(settings: dict, images: torch.Tensor, targets: torch.Tensor) -> dict[str, list[float]]:
    """Return piece -> its rate over that of matrix products in the same arithmetic, repeatedly."""
    x, y = images[: SIZES[0]], targets[: SIZES[0]]
    single = network_of(settings, x, torch.float32)
    forward = forward_operations(single, x[:1])
    rate = {name: gemm_rate(name) for name in ("float32", "float64")}
    weights = torch.nn.utils.parameters_to_vector(single.parameters()).detach()
    loss = TrainingLoss(single, x, y)
    cost = spectrum_cost(single, x, 10, 1)
    rows = 10 * len(x)
    eigen = 8 / 3 * rows**3
    double = network_of(settings, x, torch.float64)
    vector = torch.randn(rows, dtype=torch.float64)
    print(f"matrix products here: {rate['float32'] / 1e9:.0f} GF/s float32, "
          f"{rate['float64'] / 1e9:.0f} GF/s float64; one thread")  # fmt: skip
    pieces = {  # operations, arithmetic, call
        "gradient": (
            3 * forward * len(x), "float32", lambda: loss.loss_and_gradient(weights)
        ),
        "kernel": (cost.explicit - eigen, "float32", lambda: empirical_ntk(single, x)),
        "quadrature": (
            6 * forward * len(x), "float64", lambda: kernel_product(double, x.double(), vector)
        ),
    }  # fmt: skip
    return {
        name: [operations / seconds / rate[dtype] for seconds in processor_seconds(call)]
        for name, (operations, dtype, call) in pieces.items()
    }


def lambda_1_law(settings: dict, images: torch.Tensor) -> Callable[[int], float]:
    """Return n -> lambda_1 at the start, continued from two small n by a power of n."""
    network = network_of(settings, images, torch.float32)
    found = [largest_eigenvalue(network, images[:n]) for n in SIZES]
    power = math.log(found[1] / found[0]) / math.log(SIZES[1] / SIZES[0])
    print(
        f"lambda_1 at n = {SIZES[0]}, {SIZES[1]}: {found[0]:.4g}, {found[1]:.4g}; power {power:.2f}"
    )
    return lambda n: found[1] * (n / SIZES[1]) ** power


def gradients_of(settings: dict, lambda_1: float, flow_gradients: int) -> float:
    """Return the gradients of one run."""
    if settings["dynamics"] == "gradient_flow":
        return flow_gradients
    if settings["time_unit"] == "steps":
        return settings["final_time"]
    rate = settings["learning_rate"]
    rate *= 2 / lambda_1 if settings["learning_rate_unit"] == "stability_limit" else 1.0
    unit = 1 / lambda_1 if settings["time_unit"] == "inverse_lambda_1" else 1.0
    return settings["final_time"] * unit / rate


def ensemble_seconds(
    settings: dict,
    kernel: dict,
    inputs: torch.Tensor,
    share: dict[str, float],
    card: dict[str, float],
    gradients: float,
) -> dict[str, float]:
    """Return piece -> seconds of one realisation on the card."""
    n, outputs = settings["n"], 10
    network = network_of(settings, inputs, torch.float32)
    cost = spectrum_cost(network, inputs[:1].expand(n, *inputs.shape[1:]), outputs,
                         kernel["quadrature_steps"])  # fmt: skip
    training = gradients * 3 * forward_operations(network, inputs[:1]) * n
    weights = sum(p.numel() for p in network.parameters())
    gradients_only = 3 * forward_operations(network, inputs[:1]) * n * outputs
    traced = gradients_only + n**2 * outputs * weights
    full = outputs * n <= kernel["full_rows_limit"]
    stored = outputs * n <= kernel["stored_rows_limit"] and cost.stored < cost.quadrature
    rows = outputs * n if full else n
    whole = gradients_only + (outputs * n) ** 2 * weights
    single = KERNELS * (whole if full else traced) + (MOMENTS * whole if stored and not full else 0)
    double = 0 if full or stored else MOMENTS * cost.quadrature
    passes = 8 * (outputs * n) ** 2 * kernel["quadrature_steps"] * MOMENTS * (stored and not full)
    return {
        "training": training / (share["gradient"] * card["float32"]),
        "kernels": single / (share["kernel"] * card["float32"]),
        "quadrature": double / (share["quadrature"] * card["float64"]) + passes / card["bandwidth"],
        "spectra": KERNELS * 8 / 3 * rows**3 * (1 / card["bandwidth"] + 1 / card["float64"]),
    }


def main() -> None:
    """Print the table of the configuration's default studies."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--configfile", type=Path, default=ROOT / "configs/paper.yaml")
    parser.add_argument("--archive", type=Path, help="CIFAR-10 python archive, for lambda_1")
    for name, value in CARD.items():
        unit = "TB/s" if name == "bandwidth" else "TFLOP/s"
        parser.add_argument(f"--{name}", type=positive, default=value, help=f"of the card, {unit}")
    parser.add_argument(
        "--flow-gradients", type=whole_number, default=420, help="of one gradient flow"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    try:
        update_config(config, yaml.safe_load(arguments.configfile.read_text(encoding="utf-8")))
        config = validated(config)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    images, targets = load_images(arguments.archive, SIZES[1])
    if arguments.archive is None:  # digits enlarged to the size of CIFAR-10's images
        images = torch.nn.functional.interpolate(images, size=(32, 32)).repeat(1, 3, 1, 1)
    card = {name: 1e12 * getattr(arguments, name) for name in CARD}
    plan, base = Plan(config), config["base"]
    if problem := obstacle(plan, base):
        parser.error(f"{arguments.configfile}: {problem}")
    print(conditions())
    measured = shares(base, images, targets)
    told = ", ".join(f"{name} {with_spread(values, '.0%')}" for name, values in measured.items())
    print(f"share of that reached by each piece, median (least-most), at most 100 % taken: {told}")
    share = {name: min(statistics.median(values), 1.0) for name, values in measured.items()}
    of = "the archive" if arguments.archive else "digits, enlarged: --archive takes CIFAR-10's"
    print(
        f"lambda_1 is that of {of}; training takes almost twice as long where a card's gradients "
        "reach 59 % of its rate, as an H200's did"
    )
    lambda_1 = lambda_1_law(base, images)
    heads = ("dynamics", "n", "gradients", "training", "kernels", "quadrature", "spectra")
    heads += ("seconds of one realisation", "hours of all")
    print("\n| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for dynamics in dict.fromkeys((base["dynamics"], "gradient_flow")):
        hours = 0.0
        for ensemble in [e for study in plan.default_studies for e in plan.studies[study]]:
            settings = copy.deepcopy(base) | plan.settings("subset", ensemble.subset)
            settings["dynamics"] = dynamics
            count = gradients_of(settings, lambda_1(settings["n"]), arguments.flow_gradients)
            pieces = ensemble_seconds(settings, config["kernel"], images, share, card, count)
            whole = sum(pieces.values())
            hours += ensemble.realisations * whole / 3600
            columns = " | ".join(f"{value:.0f}" for value in pieces.values())
            print(f"| {dynamics} | {settings['n']} | {count:.0f} | {columns} | {whole:.0f} | "
                  f"{ensemble.realisations * whole / 3600:.2f} |")  # fmt: skip
        print(f"| {dynamics} | all | | | | | | | {hours:.2f} |")


if __name__ == "__main__":
    main()
