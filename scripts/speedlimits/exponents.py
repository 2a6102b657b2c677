"""Spectral exponents alpha (lambda_k ~ k^-alpha) and delta (Delta_k^2 ~ k^-delta) with intervals.

Both are slopes of log-binned averages over a stated window of ranks. A single residue projection is
a squared Gaussian, whose logarithm scatters by more than a factor e: only averages over ranks and
realisations can be fitted, and their scatter sets the weights and the bias of the logarithm. How
much averaging over realisations and outputs helps is measured: they share the data, and the wider
the network the more nearly also kernel and residue.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma, polygamma

from speedlimits.statistics import percentile_interval, resampled_rows, shares

Array = NDArray[np.float64]
LEAST_BINS = 5  # own choice: two parameters, a curvature and two degrees of freedom
EXACT_SQUARES = 1e4  # relative scatter below 1.5 %, whose bias of ln is 1e-4: taken as none
LEAST_WINDOW_RATIO = 4.0  # own choice: over less than two octaves any smooth curve is a power law


class ExponentFit(NamedTuple):
    """A fitted exponent and all that is needed to judge it.

    Attributes:
        exponent: minus the slope of ln y against ln k.
        low: lower end of its interval.
        high: upper end of its interval.
        amplitude: value of the fitted law at rank 1.
        r_squared: share of the variance of ln y that the law explains; NaN where it has none.
        residual_deviation: weighted root mean square of the residuals of ln y.
        curvature: coefficient of (ln k)^2 when it is added to the law.
        curvature_low: lower end of the curvature's interval.
        curvature_high: upper end; an interval without 0 speaks against a pure power law.
        bic_exponential: BIC of y ~ e^{-c k} minus that of the power law; > 0 prefers the latter.
        bic_curved: BIC of the law with curvature minus that without; > 0 prefers the latter.
        window_low: smallest exponent over the sub-windows (halves, and octaves cut off).
        window_high: largest exponent over the sub-windows.
        bins: number of bins used.
    """

    exponent: float
    low: float
    high: float
    amplitude: float
    r_squared: float
    residual_deviation: float
    curvature: float
    curvature_low: float
    curvature_high: float
    bic_exponential: float
    bic_curved: float
    window_low: float
    window_high: float
    bins: int


class Bins(NamedTuple):
    """Log-binned data: ln k and, per realisation, bin averages.

    Attributes:
        log_rank: mean of ln k per bin, shape (B,).
        averages: average of y per realisation and bin, shape (R, B).
        counts: ranks per bin, shape (B,).
    """

    log_rank: Array
    averages: Array
    counts: NDArray[np.int64]


def fit_window(
    count: int, first_rank: float, last_rank_fraction: float, *, multiplicity: int = 1
) -> tuple[int, int]:
    """Return the ranks [first, last] (1-based, inclusive) of the fit window.

    They are those from (first_rank - 1) m + 1 to last_rank_fraction * count.

    Args:
        count: number of eigenvalues above the numerical floor.
        first_rank: first rank, above that of the mean mode, in a kernel without multiplicity.
        last_rank_fraction: last rank as a fraction of ``count``; a finite spectrum's end bends.
        multiplicity: m, as many eigenvalues of this kernel there are for each of those.

    Returns:
        (first, last).

    Raises:
        ValueError: if the window spans less than two octaves of ranks.
    """
    # Decimal numbers lie beside what they stand for: 0.29 * 100 is below 29.
    first = math.ceil(round((first_rank - 1) * multiplicity, 9)) + 1
    last = math.floor(round(last_rank_fraction * count, 9))
    if last < first:
        raise ValueError(
            f"there are {count} eigenvalues above rounding noise, and the fit window begins at "
            f"rank {first} of them and ends at {last}: take more samples or a network with more "
            "weights that act, or lower fit.first_rank"
        )
    if last < LEAST_WINDOW_RATIO * first:
        raise ValueError(
            f"the fit window holds the ranks {first} to {last} of {count}; it must span a "
            f"factor {LEAST_WINDOW_RATIO:g} at least: lower fit.first_rank, raise "
            "fit.last_rank_fraction or take more samples"
        )
    return first, last


def log_bins(
    values: ArrayLike,
    first: int,
    last: int,
    bins_per_decade: int,
    groups: ArrayLike | None = None,
) -> Bins:
    """Average values over bins of ranks that are even in ln k.

    Args:
        values: y_k per realisation, shape (R, K), rank 1 first.
        first: first rank of the window, 1-based.
        last: last rank of the window.
        bins_per_decade: number of bins per factor 10 of rank.
        groups: ranks with the same number share one value and lie in one bin, shape (K,).

    Returns:
        The non-empty bins.
    """
    values = np.atleast_2d(np.asarray(values, float))[:, first - 1 : last]
    ranks = np.arange(first, last + 1)
    number = max(1, round(bins_per_decade * math.log10((last + 1) / first)))
    edges = np.geomspace(first, last + 1, number + 1) * (1 - 1e-12)
    index = np.searchsorted(edges, ranks, side="right") - 1
    if groups is not None:  # that of the first rank of each
        _, starts, group = np.unique(
            np.asarray(groups)[first - 1 : last], return_index=True, return_inverse=True
        )
        index = index[starts][group]
    used, index, counts = np.unique(index, return_inverse=True, return_counts=True)
    membership = (index == np.arange(len(used))[:, None]) / counts[:, None]
    return Bins(membership @ np.log(ranks), values @ membership.T, counts)


def fit_exponent(
    values: ArrayLike,
    first: int,
    last: int,
    *,
    bins_per_decade: int,
    confidence: float,
    resamples: int,
    generator: np.random.Generator,
    scattered: bool = False,
    groups: ArrayLike | None = None,
) -> ExponentFit:
    """Fit y_k ~ k^-exponent over the ranks [first, last].

    ln of the bin averages (for eigenvalues: the bin averages of ln) is regressed on ln k with
    weights 1 / (v_b + tau^2): v_b is the scatter of a mean of squared Gaussians (zero for
    eigenvalues), whose number ``squares_per_rank`` measures, and tau^2 the misfit of the law
    itself, by the method of moments (DerSimonian, Laird 1986; of a regression Thompson, Sharp
    1999). The interval is the percentile bootstrap over realisations and, inside each resample,
    over bins (pairs bootstrap: it holds whatever the misfit looks like), each freed of the bias of
    its own number of squares (``squares_of_resample``). Scatter that is independent in ranks and
    realisations enters by both and by their product, and the interval is then too wide, by about
    sqrt(3 - 2/R) for R realisations; where they are alike it enters once.

    Args:
        values: lambda_k or Delta_k^2 per realisation, shape (R, K), rank 1 first, positive in the
            window.
        first: first rank of the window, 1-based.
        last: last rank of the window, inclusive.
        bins_per_decade: bins per factor 10 of rank.
        confidence: confidence level of the intervals.
        resamples: bootstrap resamples.
        generator: random stream.
        scattered: whether the values scatter as squared Gaussians do: Delta_k^2, not lambda_k.
        groups: ranks with the same number share one value, the mean of theirs, shape (K,)
            (``spectrum.equal_eigenvalues``); None is a group for each.

    Returns:
        The fit.

    Raises:
        ValueError: if the window is not one of these ranks, holds too few bins, a value that is not
            finite or is negative, or a bin average that is not positive.
    """
    values = np.atleast_2d(np.asarray(values, float))
    if not 1 <= first <= last <= values.shape[1]:
        raise ValueError(
            f"the fit window holds the ranks {first} to {last}; there are 1 to {values.shape[1]}"
        )
    if not np.all(np.isfinite(values[:, first - 1 : last])):
        raise ValueError("a value in the fit window is not finite; look into the kernel's log")
    if scattered and np.any(values[:, first - 1 : last] < 0):
        raise ValueError("a value in the fit window is negative, which no square is")
    size = _common_size(groups, last)
    if size > 1:  # as of K x 1, one layer with several outputs: K itself has the exponent
        values = values[:, : last // size * size].reshape(len(values), -1, size).mean(axis=2)
        found = fit_exponent(
            values,
            -(-(first - 1) // size) + 1,
            last // size,
            bins_per_decade=bins_per_decade,
            confidence=confidence,
            resamples=resamples,
            generator=generator,
            scattered=scattered,
        )
        return found._replace(amplitude=found.amplitude * size**found.exponent)
    # ln lambda_k is averaged itself, so that a pure power law is recovered exactly.
    geometric = not scattered
    if geometric and np.any(values[:, first - 1 : last] <= 0):
        raise ValueError("an eigenvalue in the fit window is not positive; shorten the window")
    with np.errstate(divide="ignore", invalid="ignore"):
        bins = log_bins(
            np.log(values) if geometric else values, first, last, bins_per_decade, groups
        )
    if len(bins.log_rank) < LEAST_BINS:
        raise ValueError(
            f"the fit window holds {len(bins.log_rank)} bins; it needs {LEAST_BINS}: raise "
            "fit.bins_per_decade or widen the window"
        )
    if not geometric and np.any(bins.averages.mean(axis=0) <= 0):
        raise ValueError("an average in the fit window is not positive; shorten the window")
    shared = _shared_ranks(groups, first, bins)
    squares = math.inf if geometric else squares_per_rank(values, first, bins, shared)
    exact = not geometric and squares > EXACT_SQUARES
    if exact and np.all(values[:, first - 1 : last] > 0):
        geometric = True  # a law without scatter, of a dialled spectrum
        with np.errstate(divide="ignore", invalid="ignore"):
            bins = log_bins(np.log(values), first, last, bins_per_decade, groups)
    x = bins.log_rank
    shift, scatter = _log_mean_moments(bins.counts / shared, squares)
    y = _log_values(bins.averages.mean(axis=0), geometric) - shift
    weight = 1 / (scatter + _misfit_variance(x, y, scatter))
    line = _regression(x, y, weight, degree=1)
    curve = _regression(x, y, weight, degree=2)

    def bias(drawn: Array) -> Array:  # fewer runs are fewer squares
        if geometric or exact:
            return shift
        return _log_mean_moments(
            bins.counts / shared, _squares_drawn(values, first, bins, squares, drawn)[:, None]
        )[0]

    slopes, curvatures = _bootstrap(bins, bias, weight, geometric, resamples, generator)
    low, high = percentile_interval(-slopes[:, None], confidence)
    curvature_low, curvature_high = percentile_interval(curvatures[:, None], confidence)
    residual = y - np.polyval(line, x)
    spread = y - np.average(y, weights=weight)
    flat = np.ptp(y) <= _rounding(y)  # a slope of 0 but for rounding
    windows = _sub_window_exponents(x, y, weight)
    return ExponentFit(
        exponent=-float(line[0]),
        low=float(low[0]),
        high=float(high[0]),
        amplitude=float(np.exp(line[1])),
        r_squared=math.nan if flat else float(1 - (weight @ residual**2) / (weight @ spread**2)),
        residual_deviation=float(np.sqrt(weight @ residual**2 / weight.sum())),
        curvature=float(curve[0]),
        curvature_low=float(curvature_low[0]),
        curvature_high=float(curvature_high[0]),
        bic_exponential=_bic(np.exp(x), y, weight, 1) - _bic(x, y, weight, 1),
        bic_curved=_bic(x, y, weight, 2) - _bic(x, y, weight, 1),
        window_low=min(windows),
        window_high=max(windows),
        bins=len(x),
    )


def _common_size(groups: ArrayLike | None, last: int) -> int:
    """Return how many ranks up to the last one every group has, 1 if not all have as many."""
    if groups is None:
        return 1
    counts = np.bincount(np.asarray(groups)[:last])
    alike = len(counts) > 1 and np.all(counts[:-1] == counts[0]) and counts[-1] <= counts[0]
    return int(counts[0]) if alike else 1


def _shared_ranks(groups: ArrayLike | None, first: int, bins: Bins) -> Array:
    """Return g_b = sum c^2 / n_b over the groups in each bin, with c of its n_b ranks in one group.

    A mean over n_b ranks scatters as one over n_b / g_b independent values; no group lies in two
    bins (``log_bins``).
    """
    if groups is None:
        return np.ones(len(bins.counts))
    ends = first - 1 + np.cumsum(bins.counts)
    parts = np.split(np.asarray(groups)[first - 1 : ends[-1]], ends[:-1] - first + 1)
    return np.array([
        (np.unique(part, return_counts=True)[1] ** 2).sum() / len(part) for part in parts
    ])  # fmt: skip


def squares_per_rank(
    values: ArrayLike, first: int, bins: Bins, shared: ArrayLike | float = 1.0
) -> float:
    """Return m, to how many independent squared Gaussians the mean over realisations amounts.

    A mean of m squared Gaussians, chi^2_m / m, has the relative variance V = 2/m. V is that of the
    ranks inside each bin about its mean, after division by the fitted law, pooled over bins:

        V = sum_b S_b / sum_b (n_b - g_b) mu_b^2,    mu_b^2 = mean_b^2 / (1 + V g_b / n_b),

    with S_b the sum of squares about the mean of n_b ranks and mu_b^2 freed of the mean's own
    scatter (derived here); g_b is 1, and larger where ranks share a value. R independent
    realisations give m = R, equal ones m = 1, projections that follow the law exactly an infinite
    m.

    Args:
        values: y_k per realisation, shape (R, K), rank 1 first.
        first: first rank of the window, 1-based.
        bins: of ``log_bins`` on that window.
        shared: g_b = sum c^2 / n_b over the groups of c ranks in a bin that share one value, shape
            (bins,), or of all bins.

    Returns:
        m, at least 1, of each value that ranks share.
    """
    mean = np.atleast_2d(np.asarray(values, float)).mean(axis=0)
    parts = _in_bins(_without_law(mean, first, bins)[0], bins)
    squares = _sum_of_squares(parts)
    n, means = bins.counts / shared, np.array([part.mean() for part in parts])
    if squares == 0 or n.max() <= 1:
        return math.inf if squares == 0 and n.max() > 1 else 1.0
    variance = 0.0
    for _ in range(50):  # a contraction: 1e-10 after a dozen
        variance = squares / float((shared * (n - 1) * means**2 / (1 + variance / n)).sum())
        variance = min(variance, 2.0)
    return max(1.0, 2 / variance)


def correlation_of_runs(values: ArrayLike, first: int, bins: Bins) -> float:
    """Return rho, how far realisations scatter alike about the law: 1 if they are equal.

    With S of ``squares_per_rank``, of the mean over R realisations and of single ones, each divided
    by its own mean,

        S(mean) / mean_r S(r) = rho + (1 - rho) / R

    (derived here): rho is 0 on average where realisations are independent.

    Args:
        values: y_k per realisation, shape (R, K), rank 1 first.
        first: first rank of the window, 1-based.
        bins: of ``log_bins`` on that window.

    Returns:
        rho, from 0 to 1; 1 for a single realisation, or without any scatter.
    """
    runs = _without_law(values, first, bins)
    runs = runs[runs.any(axis=1)]  # one that has nothing left to learn says nothing of scatter
    runs = runs / runs.mean(axis=1, keepdims=True)
    single = np.mean([_sum_of_squares(_in_bins(run, bins)) for run in runs])
    if len(runs) == 1 or single == 0:
        return 1.0
    share = _sum_of_squares(_in_bins(runs.mean(axis=0), bins)) / single
    return float(np.clip((len(runs) * share - 1) / (len(runs) - 1), 0, 1))


def squares_of_resample(
    squares: float, drawn: ArrayLike, correlation: float, sizes: ArrayLike
) -> Array:
    """Return m of the means over resamples of realisations, of which some stand there repeatedly.

    A mean with the shares s_r of runs of sizes mu_r scatters, over itself, as

        rho + (1 - rho) sum_r (s_r mu_r)^2 / (sum_r s_r mu_r)^2,

    that over all R runs the same with s_r = 1/R (derived here).

    Args:
        squares: m of the mean over all realisations (``squares_per_rank``).
        drawn: share s_r of each realisation in each resample, shape (resamples, R).
        correlation: rho of ``correlation_of_runs``.
        sizes: mu_r, mean of each realisation over the law, shape (R,).

    Returns:
        m of each resample, at least 1, shape (resamples,).
    """

    def scatter(parts: Array) -> Array:
        whole = parts.sum(axis=-1) ** 2
        # A resample of runs without projections has no logarithm, whatever its bias.
        effective = (parts**2).sum(axis=-1) / np.where(whole > 0, whole, 1.0)
        return np.where(whole > 0, correlation + (1 - correlation) * effective, 1.0)

    sizes = np.asarray(sizes, float)
    return np.maximum(squares * scatter(sizes) / scatter(np.asarray(drawn, float) * sizes), 1.0)


def _squares_drawn(values: Array, first: int, bins: Bins, squares: float, drawn: Array) -> Array:
    """Return ``squares_of_resample`` of values, from what they show of their runs."""
    sizes = _without_law(values, first, bins).mean(axis=1)
    return squares_of_resample(squares, drawn, correlation_of_runs(values, first, bins), sizes)


def _without_law(values: ArrayLike, first: int, bins: Bins) -> Array:
    """Return the values in the window over the law of their mean, shape (R, ranks); 1 on average.

    So that their squares neither over- nor underflow.
    """
    total = int(bins.counts.sum())
    window = np.atleast_2d(np.asarray(values, float))[:, first - 1 : first - 1 + total]
    averages = np.log(bins.averages.mean(axis=0))
    slope = np.polyfit(bins.log_rank, averages, 1, w=np.sqrt(bins.counts))[0]
    scaled = window * np.arange(first, first + total) ** -slope
    return scaled / scaled.mean()


def _in_bins(row: Array, bins: Bins) -> list[Array]:
    """Return the values of the ranks in the window, bin by bin."""
    return np.split(row, np.cumsum(bins.counts)[:-1])


def _sum_of_squares(parts: list[Array]) -> float:
    """Return the sum of squares about the mean of each bin."""
    return sum(float(((part - part.mean()) ** 2).sum()) for part in parts)


def _log_mean_moments(counts: ArrayLike, squares: ArrayLike) -> tuple[Array, Array]:
    """Return bias and variance of ln of each bin's average over ranks and realisations.

    A mean of m squared Gaussians is chi^2_m / m: E ln = psi(m/2) - ln(m/2), Var ln = psi'(m/2).
    """
    if np.min(squares) > EXACT_SQUARES:
        return np.zeros(len(counts)), np.zeros(len(counts))
    half = 0.5 * squares * counts
    return digamma(half) - np.log(half), polygamma(1, half)


def _misfit_variance(x: Array, y: Array, scatter: Array) -> float:
    """Return tau^2, the variance of ln y around the law beyond its known scatter.

    With weights W = 1/v of the scatter v alone, the weighted squares Q of the residuals about the
    line X of B bins have the mean

        E Q = B - 2 + tau^2 (tr W - tr((X'WX)^-1 X'W^2 X)),

    which is solved for tau^2.
    """
    if not np.any(scatter):
        return 1.0  # no known scatter: equal weights, whose size drops out
    weight = 1 / scatter
    residual = y - np.polyval(_regression(x, y, weight, degree=1), x)
    line = np.stack([np.ones(len(x)), x - x.mean()])
    fitted = np.trace(np.linalg.solve(line * weight @ line.T, line * weight**2 @ line.T))
    excess = weight @ residual**2 - (len(x) - 2)
    return max(0.0, float(excess / (weight.sum() - fitted)))


def _regression(x: Array, y: Array, weight: Array, degree: int) -> Array:
    """Return the weighted least-squares polynomial, highest power first."""
    return np.polyfit(x, y, degree, w=np.sqrt(weight))


def _bic(x: Array, y: Array, weight: Array, degree: int) -> float:
    """Return the Bayesian information criterion of a polynomial in x, up to a constant."""
    residual = y - np.polyval(_regression(x, y, weight, degree), x)
    variance = max(float(weight @ residual**2) / float(weight.sum()), _rounding(y) ** 2)
    return len(x) * math.log(variance) + (degree + 1) * math.log(len(x))


def _rounding(y: Array) -> float:
    """Return what logarithms differ by through rounding: no law is better than another there."""
    return 1e-12 * (1 + float(np.abs(y).max()))


def _sub_window_exponents(x: Array, y: Array, weight: Array) -> list[float]:
    """Return the exponents of the window, of its two halves and with an octave cut off each end."""
    middle = 0.5 * (x[0] + x[-1])
    octave = math.log(2.0)
    windows = [(-np.inf, np.inf), (-np.inf, middle), (middle, np.inf)]
    windows += [(x[0] + octave, np.inf), (-np.inf, x[-1] - octave)]
    exponents = []
    for lower, upper in windows:
        inside = (x >= lower) & (x <= upper)
        if inside.sum() >= 3:
            exponents.append(-float(_regression(x[inside], y[inside], weight[inside], 1)[0]))
    return exponents


def _log_values(averages: Array, geometric: bool) -> Array:
    """Return ln of bin averages, which geometric ones are already."""
    return averages if geometric else np.log(averages)


def _bootstrap(
    bins: Bins,
    bias: Callable[[Array], Array],
    weight: Array,
    geometric: bool,
    resamples: int,
    generator: np.random.Generator,
) -> tuple[Array, Array]:
    """Return slopes and curvatures of resamples over realisations and bins, each (resamples,)."""
    realisations, number = bins.averages.shape
    drawn = shares(resampled_rows(realisations, resamples, generator), realisations)
    with np.errstate(divide="ignore"):
        y = _log_values(drawn @ bins.averages, geometric) - bias(drawn)
    picked = resampled_rows(number, resamples, generator)
    multiplicity = np.stack([(picked == b).sum(axis=1) for b in range(number)], axis=1)
    w = multiplicity * weight
    x = bins.log_rank - bins.log_rank.mean()
    slopes = _batched_regression(x, y, w, degree=1)[:, 1]
    curvatures = _batched_regression(x, y, w, degree=2)[:, 2]
    return slopes, curvatures


def _batched_regression(x: Array, y: Array, weight: Array, degree: int) -> Array:
    """Return polynomial coefficients (lowest power first) for each row; NaN if undetermined."""
    powers = x[:, None] ** np.arange(degree + 1)
    normal = np.einsum("sb,bi,bj->sij", weight, powers, powers)
    right = np.einsum("sb,sb,bi->si", weight, y, powers)
    distinct = (weight > 0).sum(axis=1)
    solvable = (distinct > degree) & np.all(np.isfinite(right), axis=1)
    coefficients = np.full((len(weight), degree + 1), np.nan)
    solution = np.linalg.solve(normal[solvable], right[solvable][..., None])
    coefficients[solvable] = solution[..., 0]
    return coefficients
