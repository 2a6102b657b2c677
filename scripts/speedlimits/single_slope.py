"""Does one slope fit, and of what is it an average?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speedlimits.statistics import (
    EQUAL_VALUES,
    FEWEST_IN_CELL,
    from_first,
    own_scatter,
    points_with_values,
    slopes,
    strata_of_units,
    student_test,
)

Array = NDArray[np.float64]
SAME_PLACE = 1e-9  # of the range; own choice: values that differ by rounding are one place


def bend(
    x: ArrayLike,
    y: ArrayLike,
    *,
    groups: ArrayLike,
    units: ArrayLike | None = None,
    by_unit: bool = False,
    log_x: bool = True,
    log_y: bool = True,
) -> dict[str, float]:
    """Return whether one slope of ln y against ln x fits, and what it is an average of.

    By parts, the slope of a group g whose means at its places x_k are y_k is an average of those
    between neighbours (derived here),

        s_g = sum_k w_k (y_{k+1} - y_k) / (x_{k+1} - x_k),
        w_k = (x_{k+1} - x_k) sum_{l>k} n_l (x_l - <x>) / sum_l n_l (x_l - <x>)^2 >= 0,

    n_l the group's runs at x_l. A local slope is the same average over all groups that reach across
    an interval of x, so that the average of local slopes is the slope. The test is Student's, of
    the coefficient q of a term q x^2 beside the intercept and slope that each group has of its own.
    Where each x of a group has two runs and one has ``FEWEST_IN_CELL``, each may scatter on its own
    (``own_scatter``), and the larger p-value counts; else all are taken to scatter alike.

    Args:
        x: values, shape (M,).
        y: values, shape (M,).
        groups: label of the runs that share an intercept, as a stratum or a start, shape (M,).
        units: label of each run's unit, shape (M,); None is a unit for each.
        by_unit: each unit counts once, with the mean of its groups, as in ``mean_slope``; else
            groups that share units are one, with their means, and count by how far they reach, as
            in ``trend``.
        log_x: take ln x (x > 0), else x itself.
        log_y: take ln y, leaving out y <= 0, else y itself.

    Returns:
        local_slope_least, local_slope_largest (NaN unless x has three values that groups reach
        across), p_single_slope (NaN where no scatter is known: less than two units, or as many
        runs as terms, or where a straight line leaves rounding only).

    Raises:
        ValueError: if an x has no logarithm to be taken.
    """
    x, y, labels, of_unit = points_with_values(x, y, log_x, log_y, groups, units)
    if by_unit:
        members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        members = [own for own in members if len(np.unique(x[own])) > 1]
    else:
        x, y, members, _ = strata_of_units(x, y, labels, None if units is None else of_unit)
        of_unit = None
    found = {"local_slope_least": math.nan, "local_slope_largest": math.nan}
    if not members:
        return found | {"p_single_slope": math.nan}
    places = np.unique(x[np.concatenate(members)])
    places = places[np.diff(places, prepend=-math.inf) > SAME_PLACE * np.ptp(places)]
    x = places[np.abs(x[:, None] - places).argmin(axis=1)]
    y = from_first(y, members, log_y)
    if len(places) > 2:
        local = _local_slopes(x, y, places, members, of_unit)
        found = {"local_slope_least": float(local.min()), "local_slope_largest": float(local.max())}
    curved = [own for own in members if len(np.unique(x[own])) > 2]
    return found | {"p_single_slope": _p_single_slope(x, y, curved, of_unit)}


def _local_slopes(
    x: Array, y: Array, places: Array, members: Sequence[NDArray], of_unit: NDArray | None
) -> Array:
    """Return the slope in each interval between places that a group reaches across (``bend``)."""
    weights, sums = np.zeros((2, len(places) - 1))
    for own in members:
        centred = x[own] - x[own].mean()
        share = float(centred @ centred)  # of the slope of all: by how far the group reaches
        if of_unit is not None:
            share = 1.0 / sum(of_unit[other[0]] == of_unit[own[0]] for other in members)
        at = np.searchsorted(places, x[own])
        here = np.unique(at)
        means = [y[own][at == k].mean() for k in here]
        moments = [centred[at == k].sum() for k in here]
        for k, (left, right) in enumerate(itertools.pairwise(here)):
            steps = np.diff(places[left : right + 1])
            slope = (means[k + 1] - means[k]) / steps.sum()
            weight = share * steps * sum(moments[k + 1 :]) / float(centred @ centred)
            weights[left:right] += weight
            sums[left:right] += weight * slope
    reached = weights > 0
    return sums[reached] / weights[reached]


def _quadratic(x: Array) -> Array:
    """Return x^2 without its intercept and slope on x, which has three values or more."""
    centred = x - x.mean()
    square = centred**2 - np.mean(centred**2)
    return square - slopes(centred, square) * centred


def _p_single_slope(
    x: Array, y: Array, members: Sequence[NDArray], of_unit: NDArray | None
) -> float:
    """Return the p-value of a quadratic term (``bend``)."""
    from scipy.special import stdtr  # scipy.stats takes a second to import

    terms, rests = [], []
    for own in members:
        centred, rest = x[own] - x[own].mean(), y[own] - y[own].mean()
        size = np.abs(rest).max()
        rest = rest - slopes(centred, rest) * centred
        rests.append(np.where(np.abs(rest).max() > EQUAL_VALUES * size, rest, 0.0))
        terms.append(_quadratic(x[own]))
    if of_unit is not None:
        of_units: dict[str, list[float]] = {}
        for own, term, rest in zip(members, terms, rests, strict=True):
            of_units.setdefault(str(of_unit[own[0]]), []).append(float(slopes(term, rest)))
        return student_test([float(np.mean(q)) for q in of_units.values()], 0.95)[3]
    degrees = sum(map(len, members)) - 2 * len(members) - 1
    if degrees < 1 or not any(map(np.any, rests)):
        return math.nan
    term, rest = np.concatenate(terms), np.concatenate(rests)
    quadratic = float(slopes(term, rest))
    left = rest - quadratic * term
    error = math.sqrt(float(left @ left) / degrees / float(term @ term))
    p_value = float(2 * stdtr(degrees, -abs(quadratic) / error)) if error else 0.0
    ends = np.cumsum([0, *map(len, members)])
    cells = [
        first + np.flatnonzero(x[own] == place)
        for first, own in zip(ends, members, strict=False)
        for place in np.unique(x[own])
    ]
    sizes = list(map(len, cells))
    if min(sizes) > 1 and max(sizes) >= FEWEST_IN_CELL:
        p_value = max(p_value, own_scatter(quadratic, term, rest, cells, 0.95)[2])
    return p_value
