"""Intervals by bootstrap over realisations, and the significance of a trend."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
EXACT_PERMUTATION_LIMIT = 20_000  # own choice: enumerated in well under a second


def resampled_rows(count: int, resamples: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return bootstrap resamples of ``count`` realisations, shape (resamples, count)."""
    return generator.integers(0, count, size=(resamples, count))


def bootstrap_interval(
    samples: dict[str, Array],
    statistic: Callable[..., Array],
    *,
    confidence: float,
    resamples: int,
    generator: np.random.Generator,
) -> tuple[Array, Array]:
    """Return the percentile bootstrap interval of a function of means over realisations.

    The statistic is applied to the means of each sample over a resample's realisations, so that a
    ratio of averages is resampled as such (not as an average of ratios). With few realisations the
    interval is too short; with one there is none.

    Args:
        samples: name -> values, shape (R, ...), one row per realisation.
        statistic: called with the named means, each of shape (resamples, ...).
        confidence: confidence level, for example 0.95.
        resamples: number of bootstrap resamples.
        generator: random stream.

    Returns:
        Lower and upper end, shape (...); NaN for a single realisation.

    Raises:
        ValueError: if the samples disagree about the number of realisations.
    """
    counts = {len(values) for values in samples.values()}
    if len(counts) != 1:
        raise ValueError(f"samples have {sorted(counts)} realisations; give each the same number")
    count = counts.pop()
    if count < 2:
        shape = np.shape(statistic(**{k: np.asarray(v)[:1] for k, v in samples.items()}))[1:]
        return np.full(shape, np.nan), np.full(shape, np.nan)
    rows = resampled_rows(count, resamples, generator)
    # Weights instead of copies: a mean over a resample is a product with its row counts.
    weights = np.stack([(rows == r).mean(axis=1) for r in range(count)], axis=1)
    means = {
        name: np.tensordot(weights, np.asarray(values, float), axes=1)
        for name, values in samples.items()
    }
    return percentile_interval(statistic(**means), confidence)


def percentile_interval(draws: ArrayLike, confidence: float) -> tuple[Array, Array]:
    """Return the central interval of draws along their first axis, ignoring NaN.

    Args:
        draws: shape (resamples, ...).
        confidence: confidence level.

    Returns:
        Lower and upper end, shape (...), NaN where every draw is NaN.
    """
    tail = 50 * (1 - confidence)
    draws = np.asarray(draws, float)
    ends = np.full((2, *draws.shape[1:]), np.nan)
    defined = ~np.all(np.isnan(draws), axis=0)
    if np.any(defined):
        ends[:, defined] = np.nanpercentile(draws[:, defined], [tail, 100 - tail], axis=0)
    return ends[0], ends[1]


def log_log_slope(x: ArrayLike, y: ArrayLike) -> float:
    """Return the least-squares slope of ln y against ln x; NaN if x does not vary."""
    log_x, log_y = np.log(np.asarray(x, float)), np.log(np.asarray(y, float))
    centred = log_x - log_x.mean()
    spread = float(centred @ centred)
    return float(centred @ log_y) / spread if spread > 0 else math.nan


def trend(
    x: ArrayLike,
    y: ArrayLike,
    *,
    confidence: float,
    resamples: int,
    generator: np.random.Generator,
) -> dict[str, float]:
    """Return the slope of ln y against ln x with its interval and a permutation test.

    The interval resamples the realisations inside each x. The p-value is the share of permutations
    of y over x whose slope is at least as large in absolute value: exact by enumeration where there
    are few distinct ones, else by random permutations with the add-one rule (Phipson, Smyth 2010).

    Args:
        x: positive values, for example n, one per run, shape (M,).
        y: positive values, for example T/T_SL, shape (M,).
        confidence: confidence level of the interval.
        resamples: bootstrap resamples and random permutations.
        generator: random stream.

    Returns:
        slope, slope_low, slope_high, p_value, points; NaN where x does not vary.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    usable = np.isfinite(y) & (y > 0)
    x, y = x[usable], y[usable]
    missing = {"slope_low": math.nan, "slope_high": math.nan, "p_value": math.nan}
    if len(np.unique(x)) < 2:
        return {"slope": math.nan, **missing, "points": len(x)}
    slope = log_log_slope(x, y)
    groups = [y[x == value] for value in np.unique(x)]
    repeated = np.repeat(np.unique(x), [len(group) for group in groups])
    draws = [
        log_log_slope(
            repeated, np.concatenate([generator.choice(group, len(group)) for group in groups])
        )
        for _ in range(resamples)
    ]
    low, high = percentile_interval(np.array(draws)[:, None], confidence)
    if max(len(group) for group in groups) < 2:
        low, high = [math.nan], [math.nan]
    return {
        "slope": slope,
        "slope_low": float(low[0]),
        "slope_high": float(high[0]),
        "p_value": _permutation_p_value(x, y, slope, resamples, generator),
        "points": len(x),
    }


def _permutation_p_value(
    x: Array, y: Array, slope: float, resamples: int, generator: np.random.Generator
) -> float:
    """Return the two-sided permutation p-value of a slope."""
    threshold = abs(slope) * (1 - 1e-12)
    if math.factorial(len(x)) <= EXACT_PERMUTATION_LIMIT:
        slopes = [log_log_slope(x, y[list(p)]) for p in itertools.permutations(range(len(x)))]
        return float(np.mean(np.abs(slopes) >= threshold))
    slopes = [log_log_slope(x, generator.permutation(y)) for _ in range(resamples)]
    return float((1 + np.sum(np.abs(slopes) >= threshold)) / (1 + resamples))
