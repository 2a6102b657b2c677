"""Where the time of the exact NTK goes, by stage, and which limit of the machine binds each.

    OMP_NUM_THREADS=1 python benchmarks/kernel_stages.py [--case 32,128 --case 32,1000]

Myrtle-5 in NTK parameterisation as in benchmarks/kernel.py, full kernel, one pass. A stage takes at
least its operations over the rate of matrix products (of float64 where it multiplies in float64),
and at least the bytes that it must move over the memory bandwidth, both measured here; the larger
one binds. Bytes count arrays that are too large for a cache: Jacobians, kernel and what is as large
as they are. Cotangents of a micro-batch are small enough to stay in it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import NamedTuple

import torch
from kernel import OUTPUTS, SIDE, case, make_case
from measuring import (
    SCRIPTS,
    Limits,
    conditions,
    markdown,
    measured_limits,
    whole_number,
    with_spread,
)

sys.path.insert(0, str(SCRIPTS))

from speedlimits import kernel, kernel_sequential

# Functions of kernel_sequential and the stage that their own time, without that of others in this
# list which they call, is counted to.
STAGES = {
    "structured_ntk": "the rest",
    "_factors": "cotangents",
    "_fill": "weight gradients",
    "_centre_": "centring",
    "_add_convolution": "products",
    "_add_pooled": "last convolution",
    "_add_linear": "the rest",
    "mirror_lower_": "the rest",
}


class Work(NamedTuple):
    """Operations (multiply and add = 2) and bytes moved, at least, of a stage."""

    operations: float
    moved: float
    dtype: str = "float32"


def work(width: int, samples: int) -> dict[str, Work]:
    """Return stage -> its work for Myrtle-5; what is left, "the rest", has none."""
    s, c, n, w = SIDE**2, OUTPUTS, samples, width
    forward = 18 * w**2 * (s + s / 4 + s / 16) + 54 * w * s
    down = 18 * w**2 * c * (s + s / 4 + s / 16)  # cotangents through convolutions 2 to 4
    own = 18 * w**2 * (c * (s + s / 4) + s / 16) + 54 * w * c * s  # of convolutions 1 to 3, M of 4
    columns, rows = 27 * w + 18 * w**2, n * c  # of J, whose entries take 4 bytes
    jacobian, last, theta = 4 * rows * columns, 8 * n * 9 * w**2, 8 * rows**2
    panels = -(-rows // kernel_sequential.PANEL_ROWS)
    # A panel of rows reads the rows before it; every convolution's product is written in float32,
    # read and added to the lower half of Theta, the terms of the means are added twice.
    products = jacobian * (panels + 1) / 2 + 3 * (theta / 2 + 3 * theta)
    return {
        "cotangents": Work(n * (forward + down), 4 * n * 3 * s),
        "weight gradients": Work(n * own, jacobian + last),
        "centring": Work(2 * n * c**2 * columns, 4 * jacobian, "float64"),
        "products": Work(rows**2 * columns, products),
        "last convolution": Work(18 * (n * w) ** 2, last + 2 * theta, "float64"),
    }


class Stopwatch:
    """Processor seconds by stage: at any moment the innermost of ``STAGES`` is charged."""

    def __init__(self):
        self.seconds = dict.fromkeys(STAGES.values(), 0.0)
        self._stack: list[str] = []
        self._since = 0.0

    def _switch(self) -> None:
        now = time.process_time()
        if self._stack:
            self.seconds[self._stack[-1]] += now - self._since
        self._since = now

    def watched(self, name: str):
        """Return a function of kernel_sequential that is charged to its stage."""
        function = getattr(kernel_sequential, name)

        def charged(*arguments, **named):
            self._switch()
            self._stack.append(STAGES[name])
            try:
                return function(*arguments, **named)
            finally:
                self._switch()
                self._stack.pop()

        return charged


def stage_seconds(network, inputs) -> dict[str, float]:
    """Return stage -> processor seconds of one full kernel."""
    watch, originals = Stopwatch(), {name: getattr(kernel_sequential, name) for name in STAGES}
    try:
        for name, function in {name: watch.watched(name) for name in STAGES}.items():
            setattr(kernel_sequential, name, function)
        kernel.empirical_ntk(network, inputs, memory_bytes=16 * 2**30)
    finally:
        for name, function in originals.items():
            setattr(kernel_sequential, name, function)
    return watch.seconds


def table(width: int, samples: int, repeats: int, reached: Limits) -> list[dict[str, object]]:
    """Return one row for every stage."""
    network, inputs = make_case(width, samples)
    kernel.empirical_ntk(network, inputs[:32])
    runs = [stage_seconds(network, inputs) for _ in range(repeats)]
    whole = statistics.median(sum(run.values()) for run in runs)
    rows, counted = [], work(width, samples)
    for stage in dict.fromkeys([*counted, *STAGES.values()]):
        seconds = [run[stage] for run in runs]
        row = {"width": width, "n": samples, "stage": stage, "seconds": with_spread(seconds, ".3f")}
        row["share"] = f"{statistics.median(seconds) / whole:.0%}"
        if stage in counted:
            operations, moved, dtype = counted[stage]
            least = {
                f"products in {dtype}": operations / getattr(reached, dtype),
                "memory": moved / reached.bandwidth,
            }
            bound = max(least, key=least.get)
            row |= {
                "GF": f"{operations / 1e9:.1f}",
                "GB": f"{moved / 1e9:.2f}",
                "bound by": bound,
                "of that limit": f"{least[bound] / statistics.median(seconds):.0%}",
            }
        rows.append(dict.fromkeys(("GF", "GB", "bound by", "of that limit"), "") | row)
    order = ("width", "n", "stage", "seconds", "share", "GF", "GB", "bound by", "of that limit")
    return [{name: row[name] for name in order} for row in rows]


def main() -> None:
    """Print the table of every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--repeats", type=whole_number, default=3, help="repetitions after a warm-up"
    )
    parser.add_argument(
        "--case", action="append", type=case, metavar="WIDTH,N", help="default 32,128"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    reached = measured_limits()
    print(f"{conditions()}\n{reached}\n")
    rows = []
    for width, samples, _ in arguments.case or [(32, 128, False)]:
        rows += table(width, samples, arguments.repeats, reached)
    print(markdown(rows))


if __name__ == "__main__":
    main()
