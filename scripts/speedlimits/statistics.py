"""Intervals of few realisations, and tests of trends, differences and correlations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
EQUAL_VALUES = 1e-10  # relative; own choice, between rounding and what float32 training can tell
# Relative; own choice: what float32 leaves of runs that are one and the same; those of different
# starts are a thousand times as far apart.
SAME_RUNS = 1e-6
# Runs in a cell whose own scatter is known. Own choice: of two it has one degree of freedom, which
# leaves three such cells no power at 0.05, and the slope of unequally many an interval that holds
# it in 91 % instead of 95 %.
FEWEST_IN_CELL = 3
MEANS_BYTES = 2e8  # own choice: of the means over resamples that are held at once
EXACT_PERMUTATION_LIMIT = 100_000  # own choice, above 9 against 9: enumerated within a second
# Of more, so many random ones at most, and no more once so many reach the value: own choice, a
# sampling error of 3 % of the p-value, of 10 % at 0.001.
RANDOM_PERMUTATIONS = EXACT_PERMUTATION_LIMIT
ENOUGH_REACHED = 1000


def resampled_rows(
    count: int, resamples: int, generator: np.random.Generator, size: int | None = None
) -> NDArray[np.int64]:
    """Return bootstrap resamples of ``count`` realisations, shape (resamples, size).

    Args:
        count: number of realisations R.
        resamples: number of bootstrap resamples.
        generator: random stream.
        size: of a resample; None means R.
    """
    return generator.integers(0, count, size=(resamples, count if size is None else size))


def shares(rows: NDArray[np.int64], count: int) -> Array:
    """Return the share of each realisation in each resample, shape (resamples, R).

    A mean over a resample is a product with its shares, which copies no values.

    Args:
        rows: of ``resampled_rows``, shape (resamples, draws).
        count: number of realisations R.
    """
    return np.stack([np.bincount(row, minlength=count) for row in rows]) / rows.shape[1]


def bootstrap_interval(
    samples: dict[str, Array],
    statistic: Callable[..., Array],
    *,
    confidence: float,
    resamples: int,
    generator: np.random.Generator,
) -> tuple[Array, Array]:
    """Return the bootstrap interval of a function of means over realisations.

    The statistic is applied to the means of each sample over a resample's realisations, so that a
    ratio of averages is resampled as such (not as an average of ratios). The spread over resamples
    is its standard error, from which ``interval_of_draws`` makes the interval. Of 2 to 20
    realisations a nominal 95 % holds the ratio of two log-normal means in 92 to 96 % of simulated
    cases, where percentiles of resamples would in 50 to 92 % (docs/theory.md, section 11).

    Args:
        samples: name -> values, shape (R, ...), one row per realisation.
        statistic: called with the named means of some or all resamples, each of shape (B, ...).
        confidence: confidence level, for example 0.95.
        resamples: number of bootstrap resamples.
        generator: random stream.

    Returns:
        Lower and upper end, shape (...); NaN for a single realisation, for several that are one and
        the same but for rounding, and where the statistic of a resample has no value: an interval
        of the others would leave out one side.

    Raises:
        ValueError: if the samples disagree about the number of realisations.
    """
    counts = {len(values) for values in samples.values()}
    if len(counts) != 1:
        raise ValueError(f"samples have {sorted(counts)} realisations; give each the same number")
    count = counts.pop()
    resampled = resampled_rows(count, resamples if count > 1 else 0, generator)
    rows = np.concatenate([np.arange(count)[None], resampled])
    weights = shares(rows, count)
    given = {name: np.asarray(values, float) for name, values in samples.items()}
    size = sum(values[0].nbytes for values in given.values())
    draws = np.concatenate(
        [
            statistic(**{name: np.tensordot(part, v, axes=1) for name, v in given.items()})
            for part in np.array_split(weights, 1 + int(len(weights) * size / MEANS_BYTES))
        ]
    )
    same = all(map(one_and_the_same, samples.values()))
    return interval_of_draws(
        draws[0],
        draws[1:],
        confidence=confidence,
        runs=1 if same else count,  # one and the same tell no scatter
    )


def one_and_the_same(values: ArrayLike) -> bool:
    """Return whether all realisations agree but for rounding.

    Args:
        values: shape (R, ...), one row per realisation; NaN agrees with NaN.
    """
    values = np.asarray(values, float)
    return np.allclose(values, values[:1], rtol=SAME_RUNS, atol=0.0, equal_nan=True)


def interval_of_draws(
    value: ArrayLike,
    draws: ArrayLike,
    *,
    confidence: float,
    runs: int,
    either_sign: bool = False,
) -> tuple[Array, Array]:
    """Return the interval of a function of runs from its bootstrap draws.

    ``student_interval`` of the logarithm where every draw is positive, so that the ends are too;
    else of the value itself, cut at 0 where no draw lies below. Of a function that can have either
    sign it is that of the value itself: of few runs all are often positive, and no interval of a
    logarithm could then hold 0.

    Args:
        value: f of the runs, shape (...).
        draws: f of each resample, shape (resamples, ...).
        confidence: confidence level.
        runs: number of runs.
        either_sign: whether the function can have either sign.

    Returns:
        Lower and upper end, shape (...); NaN where a draw is NaN or there is one run.
    """
    value, draws = np.asarray(value, float), np.asarray(draws, float)
    low, high = student_interval(value, draws, confidence=confidence, runs=runs, groups=1)
    if either_sign:
        return low, high
    low = np.where((draws >= 0).all(axis=0), np.maximum(low, 0.0), low)
    positive = (draws > 0).all(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        logarithms = student_interval(
            np.log(value), np.log(draws), confidence=confidence, runs=runs, groups=1
        )
    return tuple(
        np.where(positive, np.exp(logarithm), end)
        for logarithm, end in zip(logarithms, (low, high), strict=True)
    )


def standard_deviation_interval(
    value: ArrayLike, *, confidence: float, runs: int
) -> tuple[Array, Array]:
    """Return the interval of the standard deviation of normal runs, s sqrt((R - 1) / chi^2).

    Of few runs no bootstrap knows it: resamples of one run alone have none. Of runs from Student's
    distribution with 5 degrees of freedom a nominal 95 % holds it in 94 to 88 % of simulated cases
    with 2 to 8 runs, and in 84 % with 20.

    Args:
        value: unbiased standard deviation s of the runs, shape (...).
        confidence: confidence level.
        runs: number of runs R.

    Returns:
        Lower and upper end, shape (...), in the unit of s; NaN where there is one run.
    """
    from scipy.special import gammaincinv  # as in ``student_interval``

    value = np.asarray(value, float)
    if runs < 2:
        return np.full_like(value, np.nan), np.full_like(value, np.nan)
    tail = 0.5 * (1 - confidence)
    low, high = (
        value * np.sqrt((runs - 1) / (2 * gammaincinv(0.5 * (runs - 1), share)))
        for share in (1 - tail, tail)
    )
    return low, high


def student_interval(
    value: ArrayLike, draws: ArrayLike, *, confidence: float, runs: int, groups: int
) -> tuple[Array, Array]:
    """Return Student's interval about a value whose standard error its bootstrap draws give.

        f -+ t s,    s = (M / (M - G))^{1/2} sd(f*)

    with t the quantile of Student's distribution with M - G degrees of freedom. Resamples of R runs
    scatter by (R - 1) / R of the runs' own variance: M / (M - G) makes up for it. t allows for an
    error that is itself estimated (Hesterberg, Am. Stat. 69 (2015) 371). For a mean (G = 1) or the
    difference of two means of equally many runs (G = 2) it is the textbook's interval.

    Args:
        value: f, shape (...).
        draws: f* of bootstrap resamples, shape (resamples, ...).
        confidence: confidence level.
        runs: number of runs M behind the value.
        groups: number of groups G inside which they are resampled.

    Returns:
        Lower and upper end, shape (...); NaN where a draw is NaN or M = G.
    """
    from scipy.special import stdtrit  # a quarter of a second, which few jobs need

    value, draws = np.asarray(value, float), np.asarray(draws, float)
    degrees = runs - groups
    if degrees < 1:
        return np.full(value.shape, np.nan), np.full(value.shape, np.nan)
    with np.errstate(invalid="ignore"):  # the spread of infinite draws is NaN
        error = math.sqrt(runs / degrees) * draws.std(axis=0)
    half = stdtrit(degrees, 0.5 + 0.5 * confidence) * error
    return value - half, value + half


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


def geometric_mean(values: ArrayLike, confidence: float) -> dict[str, float]:
    """Return the geometric mean with Student's interval of its logarithm, and a test against 1.

    Args:
        values: shape (R,); what is not finite or not above 0 is left out.
        confidence: confidence level of the interval.

    Returns:
        mean, low, high, p_value (two-sided, Student's t of ln values) and points; NaN where fewer
        than two values are left.
    """
    logarithms = np.asarray(values, float)
    logarithms = np.log(logarithms[np.isfinite(logarithms) & (logarithms > 0)])
    logarithms[np.abs(logarithms) < 1e-12] = 0.0  # 1 but for rounding
    mean, low, high, p_value = student_test(logarithms, confidence)
    ends = {name: float(np.exp(x)) for name, x in (("mean", mean), ("low", low), ("high", high))}
    return ends | {"p_value": p_value, "points": len(logarithms)}


def student_test(values: ArrayLike, confidence: float) -> tuple[float, float, float, float]:
    """Return the mean of independent values with Student's interval and t-test against 0.

        m -+ t s / sqrt(R),    p = P(|t_{R-1}| >= sqrt(R) |m| / s)

    Args:
        values: shape (R,).
        confidence: confidence level of the interval.

    Returns:
        Mean m, lower and upper end, and two-sided p-value: NaN but for the mean of one value, and
        of values that are one and the same but for rounding, unless that is 0: then their scatter
        is not what they are uncertain by.
    """
    from scipy.special import stdtr, stdtrit  # as in ``student_interval``

    values = np.asarray(values, float)
    mean, degrees = float(values.mean()) if len(values) else math.nan, len(values) - 1
    if degrees < 1:
        return mean, math.nan, math.nan, math.nan
    error = values.std(ddof=1) / math.sqrt(len(values))
    if not math.isfinite(error) or (mean and error <= 1e-12 * abs(mean)):
        return mean, math.nan, math.nan, math.nan
    half = float(stdtrit(degrees, 0.5 + 0.5 * confidence) * error)
    t = abs(mean) / error if error > 0 else 0.0
    return mean, mean - half, mean + half, float(2 * stdtr(degrees, -t))


def trend(
    x: ArrayLike,
    y: ArrayLike,
    *,
    confidence: float,
    resamples: int,
    generator: np.random.Generator,
    strata: ArrayLike | None = None,
    units: ArrayLike | None = None,
    log_x: bool = True,
    log_y: bool = True,
) -> dict[str, float]:
    """Return the slope of ln y against ln x with its interval and a permutation test.

    With strata (other settings that vary too) all of them share the slope and each has its own
    intercept. Strata that share units, as runs of one start, say the same several times: their
    mean, over the units of each x that all of them have, stands for them. Its slope is theirs, and
    units are what is resampled and permuted.

    Cells are the runs of an x of a stratum. Where each has ``FEWEST_IN_CELL`` runs, interval and
    test allow each a scatter of its own (``own_scatter``). Where one or all have fewer, all are
    taken to scatter alike: the interval is ``student_interval`` of slopes of deviations from the
    cells' means, resampled inside the cells, or from all of them where cells have unequally many
    runs, as where some diverged. Where some have that many and the others two, the wider of both
    intervals is taken. The p-value is the share of permutations of y over x inside the strata whose
    slope is at least as large in absolute value (``_p_value``; runs of one x may change places),
    which speaks of runs that scatter alike; at least the one of ``own_scatter``, where its
    interval is taken or may be, and at least the least p-value that so many runs can give.

    Args:
        x: values, for example n, one per run, shape (M,); an indicator 0 or 1 compares two groups.
        y: values, for example T/T_SL, shape (M,).
        confidence: confidence level of the interval.
        resamples: number of bootstrap resamples.
        generator: random stream.
        strata: label of each run's stratum, shape (M,); None is one stratum.
        units: label of each run's unit, shape (M,), once at an x of a stratum; None is a unit for
            each.
        log_x: take ln x (x > 0), else x itself.
        log_y: take ln y, leaving out y <= 0, else y itself.

    Returns:
        slope, slope_low, slope_high, p_value, p_smallest (the least p-value that so many runs can
        give), points; NaN where x does not vary.

    Raises:
        ValueError: if an x has no logarithm to be taken.
    """
    x, y, labels, of_units = points_with_values(x, y, log_x, log_y, strata, units)
    x, y, groups, points = strata_of_units(x, y, labels, None if units is None else of_units)
    names = ("slope", "slope_low", "slope_high", "p_value", "p_smallest")
    if not groups:
        return {**dict.fromkeys(names, math.nan), "points": points}
    y = from_first(y, groups, log_y)
    centred = np.concatenate([x[group] - x[group].mean() for group in groups])
    slope = float(slopes(centred, y))
    shared = [[group[x[group] == value] for value in np.unique(x[group])] for group in groups]
    cells = [cell for of_stratum in shared for cell in of_stratum]
    low = high = math.nan
    p_welch = 0.0
    sizes = list(map(len, cells))
    fewest, most = min(sizes), max(sizes)
    if fewest > 1 and most >= FEWEST_IN_CELL:
        low, high, p_welch = own_scatter(slope, centred, y, cells, confidence)
    if most > 1 and fewest < FEWEST_IN_CELL:
        deviations = np.zeros(len(y))
        for cell in cells:
            deviations[cell] = y[cell] - y[cell].mean()
        order, equal = np.concatenate(cells), fewest == most
        rows = np.concatenate(
            [generator.choice(cell if equal else order, (resamples, len(cell))) for cell in cells],
            axis=1,
        )
        draws = slopes(centred[order], deviations[rows])
        ends = student_interval(slope, draws, confidence=confidence, runs=len(y), groups=len(cells))
        low, high = float(np.fmin(low, ends[0])), float(np.fmax(high, ends[1]))
    rounding = 1e-12 * float(slopes(np.abs(centred), np.abs(y)))
    p_value, _ = _p_value(
        lambda rows: np.abs(slopes(centred, y[rows])), abs(slope) - rounding, shared, generator
    )
    p_smallest = _smallest_p_value([x[group] for group in groups])
    return {
        "slope": slope,
        "slope_low": low,
        "slope_high": high,
        # Random permutations may meet the most extreme ones more seldom than all of them do.
        "p_value": max(p_value, p_smallest, p_welch),
        "p_smallest": p_smallest,
        "points": points,
    }


def mean_slope(
    x: ArrayLike,
    y: ArrayLike,
    *,
    runs: ArrayLike,
    units: ArrayLike,
    confidence: float,
    log_x: bool = True,
    log_y: bool = True,
) -> dict[str, float]:
    """Return the mean of the slopes of ln y against ln x of single runs, with Student's t-test.

    For an x that every run has several values of, as thresholds of the warm start, or learning
    rates from one start: the values of one run are no independent points, its slope is one. Runs
    of one unit count once, by their mean.

    Args:
        x: values, shape (M,); an indicator 0 or 1 compares two groups.
        y: values, shape (M,).
        runs: label of each value's run, shape (M,).
        units: label of each run's unit, shape (M,), as its start.
        confidence: confidence level of the interval.
        log_x: take ln x (x > 0), else x itself.
        log_y: take ln y, leaving out y <= 0, else y itself.

    Returns:
        slope, slope_low, slope_high, p_value, p_smallest (0: of so many units any p-value can come;
        1 for a single one), points (the number of units; that of values where no run has two); NaN
        where no run has two values, and where all slopes are one and the same (``student_test``).

    Raises:
        ValueError: if an x has no logarithm to be taken.
    """
    x, y, runs, units = points_with_values(x, y, log_x, log_y, runs, units)
    least = EQUAL_VALUES * (1.0 if log_y else float(np.abs(y).max(initial=0.0)))
    of_units: dict[str, list[float]] = {}
    for run in np.unique(runs):
        own = np.flatnonzero(runs == run)
        if len(np.unique(x[own])) > 1:
            # Equal values have no slope, whose rounding would be the same in every run.
            varies = np.ptp(y[own]) > least
            slope = float(slopes(x[own] - x[own].mean(), y[own])) if varies else 0.0
            of_units.setdefault(str(units[own[0]]), []).append(slope)
    slope, low, high, p_value = student_test(
        [np.mean(of_unit) for of_unit in of_units.values()], confidence
    )
    return {
        "slope": slope,
        "slope_low": low,
        "slope_high": high,
        "p_value": p_value,
        "p_smallest": 1.0 if len(of_units) == 1 else 0.0 * p_value,
        "points": len(of_units) or len(x),
    }


def points_with_values(
    x: ArrayLike, y: ArrayLike, log_x: bool, log_y: bool, *labels: ArrayLike | None
) -> tuple[NDArray, ...]:
    """Return x, y and labels of the points that have both, in logarithms as asked for.

    Args:
        x: values, shape (M,).
        y: values, shape (M,).
        log_x: take ln x (x > 0), else x itself.
        log_y: take ln y, leaving out y <= 0, else y itself.
        labels: of the points, shape (M,) each; None is one for all of them.

    Returns:
        Arrays of one shape, x and y in float64.

    Raises:
        ValueError: if ln x is wanted and there is none.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if log_x and np.any(x <= 0):
        raise ValueError(f"x holds {x.min():g}, which has no logarithm: give log_x=False")
    usable = np.isfinite(y) & np.isfinite(x) & ((y > 0) | (not log_y))
    kept = [np.zeros(len(x)) if of is None else np.asarray(of) for of in labels]
    x, y = x[usable], y[usable]
    return (
        np.log(x) if log_x else x,
        np.log(y) if log_y else y,
        *(label[usable] for label in kept),
    )


def from_first(y: Array, groups: Sequence[NDArray[np.int64]], log_y: bool) -> Array:
    """Return values less the first one of their group, each of which has its own intercept.

    So equal values are zeros, whose slope is no rounding.

    Args:
        y: shape (M,).
        groups: indices of the points of each group; others stay as they are.
        log_y: whether these are logarithms, whose rounding is relative to 1.

    Returns:
        Shape (M,), a new array.
    """
    least = EQUAL_VALUES * (1.0 if log_y else float(np.abs(y).max()))
    y = y.copy()
    for group in groups:
        y[group] -= y[group[0]]
    y[np.abs(y) <= least] = 0.0
    return y


def slopes(centred: Array, y: Array) -> Array:
    """Return the least-squares slope of y against a centred x, NaN where that does not vary.

    Args:
        centred: x - <x>, shape (M,).
        y: shape (..., M).

    Returns:
        Shape (...).
    """
    spread = float(centred @ centred)
    return y @ centred / spread if spread > 0 else np.full(np.shape(y)[:-1], math.nan)


def own_scatter(
    slope: float, centred: Array, y: Array, cells: list[NDArray[np.int64]], confidence: float
) -> tuple[float, float, float]:
    """Return interval and two-sided p-value of a slope whose cells scatter each on its own.

        slope = sum_k c_k sum_{i in k} y_i / S,    S = sum_k n_k c_k^2
        v_k = n_k c_k^2 s_k^2 / S^2,    (slope - true) / sqrt(sum_k v_k) ~ t_f,
        f = (sum_k v_k)^2 / sum_k v_k^2 / (n_k - 1)

    with c_k the centred x of cell k, n_k its runs and s_k^2 their unbiased variance (Welch,
    Biometrika 34 (1947) 28; Satterthwaite, Biometrics Bull. 2 (1946) 110). For two cells it is
    Welch's t-test. A cell at c_k = 0 counts for nothing, however well its scatter is known.

    Args:
        slope: by least squares.
        centred: centred x, shape (M,).
        y: shape (M,).
        cells: indices of the runs of each cell, two at least.
        confidence: confidence level.

    Returns:
        Lower and upper end, and the p-value: NaN and 0 where none of the cells that count scatters,
        but for rounding, unless the slope is 0: then it is not their scatter that it is uncertain
        by.
    """
    from scipy.special import stdtr, stdtrit  # as in ``student_interval``

    spread = float(centred @ centred)
    parts = np.array([len(k) * (centred[k[0]] / spread) ** 2 * y[k].var(ddof=1) for k in cells])
    error = math.sqrt(parts.sum())
    if error <= 1e-12 * abs(slope):
        return (math.nan, math.nan, 0.0) if slope else (slope, slope, 1.0)
    share = parts / parts.sum()
    freedom = 1 / float((share**2 / [len(k) - 1 for k in cells]).sum())
    half = float(stdtrit(freedom, 0.5 + 0.5 * confidence)) * error
    return slope - half, slope + half, float(2 * stdtr(freedom, -abs(slope) / error))


def _sizes(strata: list[list[NDArray[np.int64]]]) -> list[list[int]]:
    """Return the numbers of points in the cells of each stratum."""
    return [list(map(len, cells)) for cells in strata]


def _arrangements(sizes: list[list[int]]) -> int:
    """Return in how many ways runs can be shared out among the cells of their strata."""
    return math.prod(
        math.factorial(sum(cells)) // math.prod(map(math.factorial, cells)) for cells in sizes
    )


def _smallest_p_value(strata: list[Array]) -> float:
    """Return the least p-value that a permutation test over the x of these strata can give.

    Where the x of every stratum are their own mirror image, in values and in numbers of runs, the
    reversed arrangement has the opposite slope, which counts too. Else y = x has no equal.
    """
    ordered = [np.sort(x) for x in strata]
    symmetric = all(np.ptp(x + x[::-1]) <= 1e-9 * np.ptp(x) for x in ordered)
    sizes = [np.unique(x, return_counts=True)[1].tolist() for x in ordered]
    return _resolved(2 if symmetric else 1, _arrangements(sizes))


def _resolved(extremes: int, arrangements: int) -> float:
    """Return the least p-value of so many arrangements, of which so many are the most extreme."""
    least = 0.0 if arrangements <= EXACT_PERMUTATION_LIMIT else 1 / (1 + RANDOM_PERMUTATIONS)
    return max(extremes / arrangements, least)


def _p_value(
    statistic: Callable[[NDArray[np.int64]], Array],
    value: float,
    strata: list[list[NDArray[np.int64]]],
    generator: np.random.Generator,
) -> tuple[float, Array | None]:
    """Return the share of permutations whose statistic reaches a value, and the statistics of all.

    All are all ways to share out the points of each stratum among its cells: what changes places
    inside a cell alone counts once. Of more than EXACT_PERMUTATION_LIMIT random ones are drawn: by
    the add-one rule (Phipson, Smyth 2010), or until ENOUGH_REACHED reach the value, as that number
    over the number drawn (Besag, Clifford 1991). Either is as valid as the exact one.

    Args:
        statistic: of permutations, one a row, shape (rows, M) -> (rows,).
        value: observed value.
        strata: indices of the points in each cell of each stratum; all strata together hold
            0 to M - 1.
        generator: random stream.

    Returns:
        The p-value, and the statistics of all permutations, None where random ones were drawn.
    """
    if _arrangements(_sizes(strata)) <= EXACT_PERMUTATION_LIMIT:
        statistics = statistic(_every_order(strata))
        return float(np.mean(statistics >= value)), statistics
    places = [np.sort(np.concatenate(cells)) for cells in strata]
    in_order = np.tile(np.arange(sum(map(len, places))), (1000, 1))
    reached = drawn = 0
    while drawn < RANDOM_PERMUTATIONS:
        rows = in_order.copy()
        for group in places:
            rows[:, group] = generator.permuted(rows[:, group], axis=1)
        reaching = np.flatnonzero(statistic(rows) >= value)
        if reached + len(reaching) >= ENOUGH_REACHED:
            last = int(reaching[ENOUGH_REACHED - reached - 1])
            return ENOUGH_REACHED / (drawn + last + 1), None
        reached, drawn = reached + len(reaching), drawn + len(rows)
    return (1 + reached) / (1 + drawn), None


def _every_order(strata: list[list[NDArray[np.int64]]]) -> NDArray[np.int64]:
    """Return all permutations that share out the points of strata differently, one a row."""
    places = [np.concatenate(cells) for cells in strata]
    sizes = _sizes(strata)
    each = (_shared_out(tuple(p.tolist()), s) for p, s in zip(places, sizes, strict=True))
    orders = [sum(parts, ()) for parts in itertools.product(*each)]
    rows = np.empty((len(orders), sum(map(len, places))), int)
    rows[:, np.concatenate(places)] = orders
    return rows


def _shared_out(points: tuple[int, ...], sizes: list[int]) -> Iterator[tuple[int, ...]]:
    """Yield the points in all orders that share them out differently among cells of these sizes."""
    if len(sizes) == 1:
        yield points
        return
    for chosen in itertools.combinations(points, sizes[0]):
        others = tuple(point for point in points if point not in chosen)
        yield from (chosen + rest for rest in _shared_out(others, sizes[1:]))


def rank_correlation(
    x: ArrayLike,
    y: ArrayLike,
    *,
    confidence: float,
    resamples: int,
    generator: np.random.Generator,
    strata: ArrayLike | None = None,
    units: ArrayLike | None = None,
) -> dict[str, float]:
    """Return Spearman's rank correlation with a bootstrap interval and a permutation test.

    With strata the ranks are taken, centred, resampled and permuted inside each of them. Points of
    one unit, as runs from one start, are no independent points: strata that share units are
    resampled and permuted alike, with the units that all of them have (``_p_value``; units of equal
    ranks may change places). The least p-value of an exact test is the share of permutations that
    reach the largest absolute correlation of all: 2/M! of M points without ties, 2/3 of three
    points of which two are equal.

    Args:
        x: values, shape (M,).
        y: values, shape (M,).
        confidence: confidence level of the interval.
        resamples: number of bootstrap resamples.
        generator: random stream.
        strata: label of each point's stratum, shape (M,); None is one stratum.
        units: label of each point's unit, shape (M,), once in a stratum; None is a unit for each.

    Returns:
        correlation, correlation_low, correlation_high, p_value, p_smallest, points, units (how many
        are resampled independently), sets (of strata that share units) and least (units of the
        smallest set); NaN where fewer than three points are finite or one side does not vary.
        Resamples of a few points know too little: of three in order the interval has no length
        (``pipeline.outcomes`` leaves it out where there are few).
    """
    from scipy.stats import rankdata  # a second or two, which few jobs need

    x, y = np.asarray(x, float), np.asarray(y, float)
    labels = np.zeros(len(x)) if strata is None else np.asarray(strata)
    usable = np.isfinite(x) & np.isfinite(y)
    x, y, labels = x[usable], y[usable], labels[usable]
    names = ("correlation", "correlation_low", "correlation_high", "p_value", "p_smallest")
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    blocks = [group[None] for group in groups]
    if units is not None:
        several = [group for group in groups if len(group) > 1]
        blocks = [b for b in _aligned(several, np.asarray(units)[usable]) if b.size]
        kept = np.concatenate([block.ravel() for block in blocks] or [np.empty(0, int)])
        x, y = x[kept], y[kept]
        places = np.empty(len(usable), int)
        places[kept] = np.arange(len(kept))
        blocks = [places[block] for block in blocks]
        groups = [group for block in blocks for group in block]

    sizes = [block.shape[1] for block in blocks]
    counts = {"points": len(x), "units": sum(sizes), "sets": len(sizes)}
    counts |= {"least": min(sizes, default=0)}

    def ranks(values: Array) -> Array:
        """Return centred ranks of values of shape (..., M) inside the groups."""
        found = np.empty(values.shape)
        for group in groups:
            of_group = rankdata(values[..., group], axis=-1)
            found[..., group] = of_group - of_group.mean(axis=-1, keepdims=True)
        return found

    def correlation(a: Array, b: Array) -> Array:
        norm = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
        products = (a * b).sum(axis=-1)
        return np.divide(products, norm, out=np.full(norm.shape, np.nan), where=norm > 0)

    rank_x, rank_y = ranks(x), ranks(y)
    value = float(correlation(rank_x, rank_y)) if len(x) > 2 else math.nan
    if not math.isfinite(value):
        return dict.fromkeys(names, math.nan) | counts
    rows = np.empty((resamples, len(x)), int)
    for block in blocks:
        drawn = generator.integers(0, block.shape[1], (resamples, block.shape[1]))
        rows[:, block] = block[:, drawn].swapaxes(0, 1)
    draws = correlation(ranks(x[rows]), ranks(y[rows]))
    low, high = percentile_interval(draws[:, None], confidence)
    # Either side may be permuted: the one whose ties leave the fewer ways to do so.
    sides = ((_tied_units(a, blocks), a, b) for a, b in ((rank_x, rank_y), (rank_y, rank_x)))
    cells, fixed, moved = min(sides, key=lambda side: _arrangements(_sizes(side[0])))

    def permuted(orders: NDArray[np.int64]) -> Array:
        """Return absolute correlations with the moved side in these orders of its units."""
        rows, first = np.empty((len(orders), len(x)), int), 0
        for block in blocks:
            own = orders[:, first : first + block.shape[1]] - first
            rows[:, block] = block[:, own].swapaxes(0, 1)
            first += block.shape[1]
        return np.abs(correlation(fixed, moved[rows]))

    p_value, every = _p_value(permuted, abs(value) * (1 - 1e-12), cells, generator)
    if every is not None:
        p_smallest = float(np.mean(every >= every.max() * (1 - 1e-12)))
    else:
        # Without ties and shared units the reversed order is as extreme.
        extremes = 2 if sum(map(len, cells)) == len(x) else 1
        p_smallest = _resolved(extremes, _arrangements(_sizes(cells)))
    return {
        "correlation": value,
        "correlation_low": float(low[0]),
        "correlation_high": float(high[0]),
        "p_value": max(p_value, p_smallest),
        "p_smallest": p_smallest,
        **counts,
    }


def _tied_units(ranks: Array, blocks: list[NDArray[np.int64]]) -> list[list[NDArray[np.int64]]]:
    """Return the units of each block, numbered through, in cells of equal ranks in all its strata.

    Args:
        ranks: of the points, shape (M,).
        blocks: points of the strata that share units, each (strata, units).
    """
    found, first = [], 0
    for block in blocks:
        label = np.unique(ranks[block], axis=1, return_inverse=True)[1].ravel()
        found.append([first + np.flatnonzero(label == cell) for cell in np.unique(label)])
        first += block.shape[1]
    return found


def strata_of_units(
    x: Array, y: Array, labels: NDArray, units: NDArray | None
) -> tuple[Array, Array, list[NDArray[np.int64]], int]:
    """Return the points of strata in which x varies; of those that share units, their means.

    Args:
        x: values, shape (M,).
        y: values, shape (M,).
        labels: of each point's stratum, shape (M,).
        units: label of each point's unit, shape (M,); None: no strata share any.

    Returns:
        x, y, the indices of the points of each stratum or set of strata that share units, and the
        number of points that they stand for (of all where there are none).
    """
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    groups = [group for group in groups if len(np.unique(x[group])) > 1]
    blocks = [group[None] for group in groups]
    if units is not None:
        at = [f"{value!r}|{unit}" for value, unit in zip(x, units, strict=True)]
        blocks = _aligned(groups, np.array(at))
    kept = [block for block in blocks if len(np.unique(x[block[0]])) > 1]
    points = sum(block.size for block in kept or blocks) if blocks else len(x)
    ends = np.cumsum([block.shape[1] for block in kept], dtype=int)
    return (
        np.concatenate([np.empty(0), *(x[block[0]] for block in kept)]),
        np.concatenate([np.empty(0), *(y[block].mean(axis=0) for block in kept)]),
        [np.arange(end - block.shape[1], end) for end, block in zip(ends, kept, strict=True)],
        points,
    )


def _aligned(groups: list[NDArray[np.int64]], units: NDArray) -> list[NDArray[np.int64]]:
    """Return the points of the strata that share units, shape (strata, units), for each such set.

    A stratum that shares units with two others makes one set of all three; only units that all of
    its strata have are taken.

    Args:
        groups: indices of each stratum's points.
        units: label of each point's unit.
    """
    families: list[list[NDArray[np.int64]]] = []
    for group in groups:
        own = set(units[group])
        sharing = [f for f in families if any(own & set(units[other]) for other in f)]
        families = [f for f in families if not any(f is other for other in sharing)]
        families.append([*itertools.chain.from_iterable(sharing), group])
    blocks = []
    for family in families:
        common = sorted(set.intersection(*(set(units[group]) for group in family)))
        ordered = [[group[units[group] == unit][0] for unit in common] for group in family]
        blocks.append(np.array(ordered, int).reshape(len(family), len(common)))
    return blocks


def holm(p_values: ArrayLike) -> Array:
    """Return Holm's (1979) adjusted p-values: any one up to 0.05 by chance in at most 5 % of cases.

    As far as each test keeps its own level at the smallest p-values too.

    Args:
        p_values: of a family of tests, shape (M,); NaN is no test.

    Returns:
        max over j <= k of min(1, (m - j + 1) p_(j)) in the order of the input; NaN stays NaN.
    """
    p_values = np.asarray(p_values, float)
    adjusted = np.full(p_values.shape, np.nan)
    tested = np.flatnonzero(np.isfinite(p_values))
    order = tested[np.argsort(p_values[tested], kind="stable")]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1.0)
    return adjusted
