"""When snapshots are taken, and which of them is the warm start."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

ROUNDING = 1e-12  # of a mean, relative; far below one test image in any number of them


def snapshot_times(first: float, last: float, per_decade: int) -> NDArray[np.float64]:
    """Return log-spaced times t_k = first 10^(k / per_decade) below ``last``, and ``last``.

    The grid does not depend on ``last``, so that a longer run passes through the same times.

    Args:
        first: first time, > 0.
        last: final time T > first.
        per_decade: times per factor 10.

    Returns:
        Increasing times, shape (M,).
    """
    count = int(np.floor(per_decade * np.log10(last / first) * (1 - 1e-12))) + 1
    times = first * 10 ** (np.arange(count) / per_decade)
    return np.append(times[times < last * (1 - 1e-9)], last)


def reaches(accuracy: ArrayLike, threshold: float) -> NDArray[np.bool_]:
    """Return where a mean accuracy is at least the threshold, whatever rounding does to the mean.

    Args:
        accuracy: mean over realisations, any shape.
        threshold: wanted mean.
    """
    return np.asarray(accuracy, float) >= threshold * (1 - ROUNDING)


def warm_start_index(test_accuracy: ArrayLike, threshold: float) -> int | None:
    """Return the first recorded time at which the mean test accuracy reaches a threshold.

    It must come from below: an untrained network that guesses above the threshold by chance has
    reached nothing yet.

    Args:
        test_accuracy: per realisation and time, shape (R, M).
        threshold: wanted mean over realisations.

    Returns:
        Index of the time, or None if the threshold is never reached from below.
    """
    above = reaches(np.asarray(test_accuracy, float).mean(axis=0), threshold)
    reached = above[1:] & ~above[:-1]
    return int(np.argmax(reached)) + 1 if reached.any() else None
