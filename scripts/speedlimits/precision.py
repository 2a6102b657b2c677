"""What the precision of a network does to its inputs and targets."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# Own choice, of the differences between samples: what rounding the data to the precision of a run
# may change. Numbers near 0 lose 1e-7, those of which only the fifth digit differs 1e-2.
LARGEST_ROUNDING = 1e-3
LARGEST_SQUARED = 1e150  # sums of squares of larger numbers are beyond float64, 1.8e308
BLOCK = 256  # rows that are compared at a time


def largest_absolute(values: NDArray) -> float:
    """Return the largest absolute value, without a copy of the array; 0 of an empty one.

    Args:
        values: of any shape.
    """
    return max(-float(values.min(initial=0.0)), float(values.max(initial=0.0)))


def too_small(largest: float, precision: str) -> bool:
    """Return whether numbers of that size are so small that a precision has no products of them.

    They are within 1/eps of its smallest number, or below it and have lost digits.

    Args:
        largest: of absolute values.
        precision: name of a NumPy type.
    """
    numbers = np.finfo(precision)
    return 0 < largest < numbers.tiny / numbers.eps


def rounded_off(values: NDArray, precision: str) -> float:
    """Return how much a precision changes the differences between the rows of an array.

        |(r(x) - x) - (r(x_0) - x_0)| / |x - x_0|

    with the norm over all rows and components, r(x) the array in that precision and x_0 its first
    row. Derived here.

    Args:
        values: x, shape (M, ...).
        precision: name of a NumPy type.

    Returns:
        The ratio; 0 if nothing is rounded or all rows agree.
    """
    if np.dtype(precision) == values.dtype or values.dtype.kind != "f":
        return 0.0
    error = scatter = 0.0
    # Squares of the smallest numbers would be 0. Before the division, which the rounding precedes.
    size = largest_absolute(values) or 1.0
    with np.errstate(over="ignore", invalid="ignore"):  # what has no value there is told apart
        of_first = values[:1].astype(precision) - values[:1]
        for k in range(0, len(values), BLOCK):  # data may fill half of the memory
            rows = values[k : k + BLOCK]
            error += float(np.square((rows.astype(precision) - rows - of_first) / size).sum())
            scatter += float(np.square((rows - values[0]) / size).sum())
    return math.sqrt(error / scatter) if scatter > 0 and math.isfinite(error) else 0.0
