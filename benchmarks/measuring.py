"""Shared by the benchmarks: machine and versions, processor time and peak memory, limits, fits.

Times are processor seconds (user and system, all threads), which other jobs on the machine lengthen
little; elapsed time they would double. Peaks are of resident memory, from Linux's /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import ctypes
import importlib.metadata
import math
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
TRIAD_BYTES = 256 * 2**20  # of each of three arrays: far above a last-level cache


def whole_number(text: str) -> int:
    """Return the whole number, at least 1, of an option."""
    if not re.fullmatch(r"0*[1-9][0-9]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def positive(text: str) -> float:
    """Return the number above 0 of an option."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")


class Measured(NamedTuple):
    """Processor seconds, peak resident bytes of the process, and what a call added to them."""

    seconds: float
    peak: int
    added: int


class Limits(NamedTuple):
    """What one core reaches: operations per second of matrix products, bytes per second."""

    float32: float
    float64: float
    bandwidth: float

    def __str__(self) -> str:
        return (
            f"matrix products {self.float32 / 1e9:.0f} GF/s in float32, "
            f"{self.float64 / 1e9:.0f} in float64; memory {self.bandwidth / 1e9:.1f} GB/s"
        )


class Power(NamedTuple):
    """y ~ x^exponent: least squares of ln y against ln x, with the slope's standard error."""

    exponent: float
    error: float
    points: int

    def __str__(self) -> str:
        return f"{self.exponent:.2f} ± {self.error:.2f}"


def conditions(
    threads: int | None = 1, packages: Sequence[str] = ("torch", "numpy", "scipy")
) -> str:
    """Return processor, its cores, memory, threads and versions, one line for above a table.

    ``threads`` is None where processes of their own are measured, which choose for themselves.
    """
    if str(SCRIPTS) not in sys.path:
        sys.path.insert(0, str(SCRIPTS))
    from pipeline.log import machine

    place = machine().split(", ", 1)[1]  # without the host's name
    names = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    python = ".".join(map(str, sys.version_info[:3]))
    used = f"; {threads} thread{'s'[: threads > 1]}" if threads else ""
    return f"{place}{used}; Python {python}, {', '.join(names)}"


def resident_bytes(field: str) -> int:
    """Return VmRSS or VmHWM of this process (Linux)."""
    return 1024 * int(re.search(field + r":\s+(\d+)", Path("/proc/self/status").read_text())[1])


def measure(function: Callable[[], object]) -> Measured:
    """Return processor seconds and peak memory of one call.

    What the C library holds back of freed memory is given back first, where it is glibc: a call
    would take it and add less.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    before = resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    start = time.process_time()
    function()
    seconds = time.process_time() - start
    peak = resident_bytes("VmHWM")
    return Measured(seconds, peak, peak - before)


def processor_seconds(call: Callable[[], object], repeats: int = 3) -> list[float]:
    """Return the processor seconds of some calls, after one that is not counted."""
    call()
    found = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return found


def with_spread(values: Iterable[float], form: str = ".2f") -> str:
    """Return "median (least-most)"."""
    values = list(values)
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def gemm_rate(dtype: str = "float32", size: int = 2048, repeats: int = 7) -> float:
    """Return the best measured rate of square matrix products, operations per processor second."""
    import torch

    a, b = (torch.randn(size, size, dtype=getattr(torch, dtype)) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * size**3 / min(processor_seconds(lambda: torch.mm(a, b, out=out), repeats))


def triad_rate(size: int = TRIAD_BYTES, repeats: int = 5) -> float:
    """Return the best measured rate of a = b + s c, bytes per processor second.

    STREAM's triad and its way of counting (McCalpin 1995): b and c read and a written once; that
    most processors read a before they write it is left out. Three arrays of ``size`` bytes each.
    """
    import torch

    b, c = torch.rand(size // 4), torch.rand(size // 4)
    a = torch.zeros_like(b)
    return 3 * size / min(processor_seconds(lambda: torch.add(b, c, alpha=3.0, out=a), repeats))


def measured_limits() -> Limits:
    """Return the limits of this machine, which a fraction of is what a program reaches."""
    return Limits(gemm_rate("float32"), gemm_rate("float64"), triad_rate())


def fitted_power(x: Sequence[float], y: Sequence[float]) -> Power:
    """Return the power of x that y follows; three points or more, x not all equal."""
    log_x, log_y = np.log(np.asarray(x, float)), np.log(np.asarray(y, float))
    across = log_x - log_x.mean()
    slope = float(across @ log_y / (across @ across))
    left = log_y - log_y.mean() - slope * across
    return Power(slope, float(np.sqrt(left @ left / (len(x) - 2) / (across @ across))), len(x))


def markdown(rows: Sequence[dict[str, object]]) -> str:
    """Return rows as a Markdown table."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(str(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def write_csv(path: Path, rows: Sequence[dict[str, object]]) -> None:
    """Write rows to a CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
