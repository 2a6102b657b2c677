"""Products of long matrices by blocks, one half only where the result is symmetric.

``product`` and what is built on it take the faster of two libraries on a CPU; on a GPU there is
only torch's.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

TRIANGLE_ROWS = 256  # at most 6 % slower than the fastest of 128 to 512 (long rows, Intel, AVX-512)


def consecutive_slices(count: int, size: int) -> list[slice]:
    """Return slices of ``size`` that cover 0 to ``count``, the last one perhaps shorter.

    Args:
        count: number of rows, columns or samples, dimensionless.
        size: their number in a slice, at least 1, dimensionless.
    """
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def add_product_(target: Tensor, left: Tensor, right: Tensor, symmetric: bool) -> None:
    """Add left right^T; if symmetric, where the last columns are left's own, their lower half only.

    Where torch multiplies, the half is cut into rows that each end at the diagonal.

    Args:
        target: added to in place, shape (n, m).
        left: shape (n, K).
        right: shape (m, K).
        symmetric: whether the last n rows of ``right`` are ``left``; what is above the diagonal of
            the last n columns of ``target`` is then left undefined.
    """
    before = len(right) - len(left) if symmetric else len(right)
    if before:
        target[:, :before] += product(left, right[:before])
    if not symmetric:
        return
    cut = left.device.type == "cpu" and torch_multiplies_faster()
    height = TRIANGLE_ROWS if cut else len(left)
    for rows in consecutive_slices(len(left), height):
        target[rows, before : before + rows.stop] += product(left[rows], left[: rows.stop])


def product(left: Tensor, right: Tensor) -> Tensor:
    """Return left right^T, on a CPU by the faster of torch's and NumPy's libraries.

    Where both factors are one array, NumPy calls syrk, which computes one half and copies it to the
    other.

    Args:
        left: shape (n, K).
        right: shape (m, K), of the same dtype and device.

    Returns:
        The product, (n, m).
    """
    if left.device.type != "cpu" or torch_multiplies_faster():
        return left @ right.T
    if left.dtype in (torch.float16, torch.bfloat16):  # of a narrow range, and slow on a CPU
        left, right = left.float(), right.float()
    return torch.from_numpy(left.numpy() @ right.numpy().T)


@cache
def torch_multiplies_faster() -> bool:
    """Return whether torch's MKL multiplies matrices faster than the OpenBLAS of NumPy's wheels.

    By the maker of the processor, not by a measurement, so that all runs on one machine round
    alike. Long and narrow products, 640 to 5100 rows and 2304 to 36864 columns: on an AMD core MKL
    reached 72 to 85 GF/s and OpenBLAS 102 to 106, on an Intel one with AVX-512 96 to 139 and 54 to
    78 (and syrk, counted as half a product, 45 to 59, rows that end at the diagonal 75 to 123).
    """
    if not torch.backends.mkl.is_available():
        return False
    processors = Path("/proc/cpuinfo")
    maker = processors.read_text() if processors.exists() else platform.processor()
    return "GenuineIntel" in maker


def mirror_lower_(matrix: Tensor, panel: int) -> None:
    """Copy the lower triangle onto the upper one, in place and panel by panel.

    Args:
        matrix: square.
        panel: columns that are copied at a time.
    """
    for part in consecutive_slices(len(matrix), panel):
        matrix[: part.start, part] = matrix[part, : part.start].T
        square = matrix[part, part]
        square.copy_(square.tril() + square.tril(-1).T)
