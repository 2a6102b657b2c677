"""Gradients of several realisations in one pass over stacked weights, against one after another.

    OMP_NUM_THREADS=1 python benchmarks/ensembles.py [--realisations 6] [--csv FILE]

Networks in NTK parameterisation on random images, float32, one core. "separate" is
``gradient.TrainingLoss`` for each realisation (channels-last, micro-batches that stay in the
cache), "stacked" ``ensembles.EnsembleLoss`` with the fastest of several micro-batches. Times are
processor time of all realisations' gradients, the two alternating within every repetition; the
ratio is the median over repetitions of adjacent runs (least-most), and above 1 where stacking is
faster.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from measuring import SCRIPTS, conditions, whole_number, with_spread, write_csv

sys.path.insert(0, str(SCRIPTS))

from speedlimits.ensembles import EnsembleLoss
from speedlimits.gradient import TrainingLoss
from speedlimits.networks import fully_connected, initialise_, myrtle5

OUTPUTS = 10
# (name, builder, image shape, width, samples)
CASES = [
    ("fully connected, depth 3", fully_connected, (1, 8, 8), 16, 64),
    ("fully connected, depth 3", fully_connected, (1, 8, 8), 64, 64),
    ("fully connected, depth 3", fully_connected, (1, 8, 8), 256, 256),
    ("Myrtle-5, 8 x 8", myrtle5, (1, 8, 8), 4, 32),
    ("Myrtle-5, 8 x 8", myrtle5, (1, 8, 8), 16, 128),
    ("Myrtle-5, 32 x 32", myrtle5, (3, 32, 32), 8, 32),
    ("Myrtle-5, 32 x 32", myrtle5, (3, 32, 32), 16, 32),
]
MICRO_BATCHES = (8, 32, 128)
REPETITIONS = 7
LEAST_SECONDS = 0.05  # one timing repeats a call until it lasts this long


def seconds(call, count: int) -> float:
    """Return processor seconds of one of ``count`` calls."""
    start = time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - start) / count


def run_case(name, build, shape, width, samples, realisations) -> dict[str, object]:
    """Return one row: medians of both ways, their ratio and the largest difference."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(samples, *shape, generator=generator)
    targets = torch.randn(samples, OUTPUTS, generator=generator)
    options = {"depth": 3} if build is fully_connected else {}
    networks = [
        initialise_(
            build(
                input_shape=shape, outputs=OUTPUTS, width=width, parameterisation="ntk", **options
            ),
            generator,
        )
        for _ in range(realisations)
    ]
    alone = [TrainingLoss(network, inputs, targets) for network in networks]
    sizes = sorted({min(size, samples) for size in MICRO_BATCHES})
    stacked = {s: EnsembleLoss(networks, inputs, targets, micro_batch=s) for s in sizes}
    weights = stacked[sizes[0]].weights.double()

    def separate():
        return [
            loss.loss_and_gradient(theta)[1] for loss, theta in zip(alone, weights, strict=True)
        ]

    reference = torch.stack(separate())
    calls = {size: (lambda s=size: stacked[s].losses_and_gradients(weights)) for size in sizes}
    found = {size: call()[1] for size, call in calls.items()}
    difference = max(float((g - reference).norm() / reference.norm()) for g in found.values())
    fastest = min(sizes, key=lambda size: min(seconds(calls[size], 1) for _ in range(3)))
    count = max(1, int(LEAST_SECONDS / seconds(separate, 1)))
    times = [(seconds(separate, count), seconds(calls[fastest], count)) for _ in range(REPETITIONS)]
    return {
        "network": name,
        "width": width,
        "n": samples,
        "realisations": realisations,
        "separate ms": with_spread(1e3 * a for a, _ in times),
        "stacked ms": with_spread(1e3 * b for _, b in times),
        "ratio": with_spread(a / b for a, b in times),
        "micro-batch": fastest,
        "difference": f"{difference:.1e}",
    }


def main() -> None:
    """Run all cases, print the table and write the CSV file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--realisations", type=whole_number, default=6)
    parser.add_argument("--csv", type=Path, default=Path("ensembles.csv"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(conditions(), "\n")
    rows = []
    for case in CASES:
        rows.append(run_case(*case, arguments.realisations))
        if len(rows) == 1:
            print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
        print("| " + " | ".join(str(value) for value in rows[-1].values()) + " |", flush=True)
    write_csv(arguments.csv, rows)


if __name__ == "__main__":
    main()
