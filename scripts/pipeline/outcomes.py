"""What every run of a study came to, and tests of it along the study's axes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.seeds import SAME_DRAWS, START_KEYS, derived_seed
from pipeline.tables import (
    THRESHOLD,
    comparable,
    dynamics_of,
    has_own_energy,
    of_one_kernel,
    significance_level,
)
from speedlimits.single_slope import bend
from speedlimits.statistics import (
    SAME_RUNS,
    bootstrap_interval,
    geometric_mean,
    holm,
    mean_slope,
    one_and_the_same,
    rank_correlation,
    trend,
)

Array = NDArray[np.float64]

# Of speed_limits, at the time in question
CURVES = (
    "time_lambda_1",
    "inefficiency",
    "inefficiency_predicted",
    "kinematic_inefficiency",
    "energetic_inefficiency",
    "speed_unevenness",
    "path_excess",
    "speed_limit_time",
    "discretisation",
)
OF_HEAT = "heat_error"  # of studies at a temperature alone
# quantity -> tested as a factor (of its logarithm), else as a difference: of either sign, or zero
# in some runs, which have no logarithm and must not be left out
QUANTITIES = {
    "inefficiency": True,
    "prediction_ratio": True,
    "energetic_inefficiency": True,
    "kinematic_inefficiency": True,
    "path_excess": True,
    "speed_unevenness": True,
    "speed_limit_time": True,
    "discretisation": False,
    "drift": True,
    "alignment_gain": True,
    "test_error": False,
    "test_loss": True,  # per sample; where there is no accuracy
    "gradients": True,
}
# What the findings speak of, and therefore the family whose p-values are adjusted together
PRIMARY = ("inefficiency", "prediction_ratio", "energetic_inefficiency", "kinematic_inefficiency",
           "drift", "alignment_gain", "test_error", "test_loss")  # fmt: skip
# Columns of the tables of tests, which one without tests has too
TESTED = ("at", "start", "quantity", "against")
P_VALUES = ("p_value", "p_smallest", "points")
TREND_COLUMNS = [
    *TESTED, "scale", "kind", "slope", "slope_low", "slope_high", "local_slope_least",
    "local_slope_largest", "p_single_slope", *P_VALUES, "test",
]  # fmt: skip
COMPARISON_COLUMNS = [
    *TESTED, "reference", "value", "kind", "effect", "effect_low", "effect_high", *P_VALUES, "test",
]  # fmt: skip
DRAW_KEYS = START_KEYS[: START_KEYS.index("model")]  # what decides a set of samples
# What decides a draw that is independent of others: the sizes of one subset are nested.
INDEPENDENT_DRAW_KEYS = tuple(key for key in DRAW_KEYS if key != "n")
CORRELATION_COLUMNS = [
    "quantity", "with", "level", "correlation", "correlation_low", "correlation_high", *P_VALUES,
]  # fmt: skip
MOMENTS_AT = ("end", "equal_loss", "equal_gradients")
# Independent ones behind a percentile interval of a rank correlation: with 5 it covers 84 to 88 %
# instead of 95 %, with 3 starts 69 %, in however many ensembles. Of several sets of them each with
# ranks of its own: at a correlation of 0.8 it covers 81 to 87 % with 3 times 3, 92 % with 4 times
# 3, 77 to 84 % with 6 and 8 times 2, 96 % with 3 times 4 and 6 times 3.
FEWEST_POINTS = 7
FEWEST_FREE, FEWEST_OF_SET = 9, 3  # beyond one for each set, and in every set
OF_THE_END = ("test_error", "test_loss")  # whatever the start: told from the cold one
# What tells two runs of equal settings apart; kernels of equal runs differ in their rounding.
TOLD_APART = ("inefficiency", "kinematic_inefficiency", "prediction_ratio", "train_loss_share")


def each_run_once(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table without the repetitions of ensembles that differ in their warm start alone.

    They share everything but what follows the warm start. The threshold is empty in the rows of the
    rest, as any setting that a run does not read, and the first of these ensembles stands for all.

    Args:
        table: the columns that identify an ensemble, then ``start`` or ``moment``, and values.
    """
    if THRESHOLD not in table:
        return table
    columns = list(table.columns)
    moment = next(name for name in ("start", "moment") if name in columns)
    shared = table[moment] != "warm"
    table = table.assign(**{THRESHOLD: table[THRESHOLD].where(~shared)})
    of_row = [*columns[1 : columns.index(moment) + 1], "realisation", "at", "kernel"]
    return table[~(shared & table.duplicated([name for name in of_row if name in columns]))]


def joined(table: pd.DataFrame, columns: list[str]) -> pd.Series:
    """Return a label for each row from those columns that the table has.

    They are empty where a run does not read a setting, as myrtle5 the depth.
    """
    words = table[[name for name in columns if name in table]].astype(object).map(str)
    return words.agg("|".join, axis=1) if words.shape[1] else pd.Series("", table.index)


def independent(runs: pd.DataFrame, axis: str = THRESHOLD) -> pd.DataFrame:
    """Return the rows of runs that are no repetitions of others: those that tests may count.

    Realisations of one setting that are the same but for rounding are one run, of a start that does
    not depend on the seed, or of a problem that does not depend on the start. From the warm start
    one run has a row for each threshold: unless thresholds are what is compared, it counts once, at
    the threshold that most runs have reached (the first of several).

    Args:
        runs: rows of ``outcomes`` of one moment.
        axis: what is compared.
    """
    runs = runs[~_repeats(runs)]
    if THRESHOLD not in runs or axis == THRESHOLD:
        return runs
    words = runs[THRESHOLD].map(str)
    return runs[words == words.value_counts(sort=False).idxmax()]


def repetitions(runs: pd.DataFrame) -> pd.Series:
    """Return for each row whether its run repeats another one by the end, from the cold start.

    At other moments rounding may hide it: where a loss nears its floor, it decides when that is.

    Args:
        runs: rows of ``outcomes``.
    """
    ends = ((runs["at"] == "end") & (runs["start"] == "cold")).to_numpy()
    named = joined(runs, ["ensemble", "realisation"])
    return named.isin(named[ends][_repeats(runs[ends])])


def _repeats(runs: pd.DataFrame) -> Array:
    """Return for each row whether another one of the same settings has its values before it."""
    columns = list(runs.columns)
    settings = columns[: columns.index("start")]  # numbers or words; behind them words alone
    values = {*runs.select_dtypes("floating"), "realisation", "start_seed"} - {*settings}
    identity = [name for name in columns if name not in values]
    told = runs.reindex(columns=list(TOLD_APART)).to_numpy(float)
    setting = runs.groupby(identity, sort=False, dropna=False).ngroup().to_numpy()
    order = np.lexsort((*told.T[::-1], setting))
    a, b = told[order[:-1]], told[order[1:]]
    same = np.isclose(a, b, rtol=SAME_RUNS, atol=0, equal_nan=True).all(axis=1)
    found = np.zeros(len(runs), bool)
    found[order[1:]] = same & (setting[order[:-1]] == setting[order[1:]])
    return found


def outcomes(
    speed_limits: pd.DataFrame, curves: pd.DataFrame, kernels: pd.DataFrame
) -> pd.DataFrame:
    """Return one row per run, start and moment.

    Runs that ensembles share stand once (``each_run_once``). The moments are the end;
    ``equal_loss``, where the training loss over that of the start has fallen to the least share
    that every run of the study reaches whose loss ends below its start's; and ``equal_gradients``,
    the gradient evaluations that every run makes. At the last two, values are interpolated between
    recorded times, by monotone cubics of their logarithms against that of time, and only from the
    cold start. A run that diverged has ``diverged`` = 1 and no values at the end.

    Args:
        speed_limits: the table of that name.
        curves: the table training_curves.
        kernels: the table kernels, of which all runs are compared by the same kernel
            (``tables.of_one_kernel``).

    Returns:
        The columns that identify the ensemble, start, at, realisation, diverged, and values.
    """
    runs = speed_limits[speed_limits["realisation"].astype(str) != "ensemble"]
    keys = ["ensemble", "realisation"]
    trained = {
        (e, str(r)): rows.sort_values("time") for (e, r), rows in curves.groupby(keys, sort=False)
    }
    share = {k: t["train_loss_per_sample"] / t["train_loss_per_sample"].iloc[0] for k, t in
             trained.items()}  # fmt: skip
    whole = {k for k, v in share.items() if np.isfinite(v).all()}
    # The passing least of a loss that rises again above its start would be the level of all.
    least = [share[k].iloc[1:].min() for k in whole if share[k].iloc[-1] < 1]
    loss_level = max(least, default=np.nan)
    gradient_level = min((trained[k]["gradients"].iloc[-1] for k in whole), default=np.nan)
    front = list(runs.columns[: list(runs.columns).index("start")])
    kernels = of_one_kernel(kernels)
    compared = next(iter(kernels.get("kernel", [])), "")  # whose drift and alignment these are
    seeds = {k: str(t["start_seed"].iloc[0]) for k, t in trained.items() if "start_seed" in t}
    rows = []
    for (ensemble, realisation, start), of_run in runs.groupby([*keys, "start"], sort=False):
        of_run = of_run.sort_values("time")
        key = (ensemble, str(realisation))
        values = _along_run(start, of_run, trained[key], share[key])
        label = of_run.iloc[0][front].to_dict() | {"start": start, "realisation": str(realisation)}
        label |= {"start_seed": seeds[key]} if seeds else {}
        # by the loss itself: shares of a loss that is 0 at the start are none
        diverged = int(not np.isfinite(trained[key]["train_loss_per_sample"]).all())
        found = {"end": values.iloc[-1].to_dict()}
        if start == "cold" and key in whole:
            found |= _at_levels(of_run["time"], values, loss_level, gradient_level)
        for at, there in found.items():
            ratio = there["inefficiency"] / there["inefficiency_predicted"]
            row = label | {"at": at, "kernel": compared, "diverged": diverged}
            row |= there | {"prediction_ratio": ratio}
            if at == "end" and start == "cold":
                row |= kernel_columns(kernels, ensemble, str(realisation), "end")
            if at == "end" and start == "warm":
                of_cold = (runs["ensemble"] == ensemble) & (runs["start"] == "cold")
                of_cold &= runs["realisation"].astype(str) == str(realisation)
                row |= transient_columns(runs[of_cold], of_run, trained[key], share[key])
                there = kernel_columns(kernels, ensemble, str(realisation), "warm")
                there.pop("alignment", None)
                row |= {f"transient_{name}": value for name, value in there.items()}
            rows.append(row)
    return each_run_once(pd.DataFrame(rows))


def _along_run(
    start: str, of_run: pd.DataFrame, curve: pd.DataFrame, share: pd.Series
) -> pd.DataFrame:
    """Return the values of a run at every recorded time after one of its starts.

    Args:
        start: "cold" or "warm".
        of_run: its rows of ``speed_limits`` from that start, in order of time.
        curve: its rows of training_curves from the cold start on, in order of time.
        share: training loss over that of the cold start, of these rows.
    """
    later = curve.iloc[-len(of_run) :]
    columns = [*CURVES, OF_HEAT] if OF_HEAT in of_run else [*CURVES]
    values = of_run[columns].reset_index(drop=True).astype(float)
    before = 0 if start == "cold" else curve["gradients"].iloc[-len(of_run) - 1]
    values["gradients"] = later["gradients"].to_numpy(float) - before
    values["train_loss_share"] = share.iloc[-len(of_run) :].to_numpy(float)
    if curve["test_accuracy"].isna().all():
        values["test_loss"] = later["test_loss_per_sample"].to_numpy(float)
    else:
        values["test_error"] = (1 - later["test_accuracy"]).to_numpy(float)
    return values


def _at_levels(
    times: pd.Series, values: pd.DataFrame, loss_level: float, gradient_level: float
) -> dict[str, dict[str, float]]:
    """Return moment -> interpolated values of a run, without moments before its first time.

    Args:
        times: of the rows, positive and increasing.
        values: of ``_along_run``.
        loss_level: share of the start's training loss that is to be reached.
        gradient_level: number of gradients that are to be made.
    """
    x = np.log(np.asarray(times, float))
    columns = {name: values[name].to_numpy(float) for name in values}
    places = {
        "equal_loss": _crossing(x, columns["train_loss_share"], loss_level, falling=True),
        "equal_gradients": _crossing(x, columns["gradients"], gradient_level),
    }
    return {
        at: {name: _interpolated(x, column, place) for name, column in columns.items()}
        for at, place in places.items()
        if np.isfinite(place)
    }


def _crossing(x: Array, y: Array, level: float, *, falling: bool = False) -> float:
    """Return where the curve through (x, y) first rises, or falls, to a level; else NaN.

    Args:
        x: increasing, shape (M,).
        y: finite, shape (M,).
        level: to be reached after the first point.
        falling: whether y comes from above.
    """
    from scipy.optimize import brentq

    sign = -1.0 if falling else 1.0
    reached = np.flatnonzero(sign * (y - level) >= -1e-12 * abs(level))
    if len(reached) == 0 or reached[0] == 0:
        return np.nan
    k = int(reached[0])
    if sign * (y[k] - level) <= 0:  # but for rounding just there
        return float(x[k])
    curve = _curve(x, y)
    return float(brentq(lambda at: curve(at) - level, x[k - 1], x[k], xtol=1e-13))


def _interpolated(x: Array, y: Array, at: float) -> float:
    """Return y at a point on its ``_curve``; NaN unless both neighbours have a value.

    Args:
        x: increasing, shape (M,).
        y: shape (M,); NaN has no value.
        at: from x[0] to x[-1].
    """
    k = int(np.searchsorted(x, at))
    if x[k] == at:
        return float(y[k])
    return _curve(x, y)(at) if np.isfinite(y[k - 1 : k + 1]).all() else math.nan


def _curve(x: Array, y: Array) -> Callable[[float], float]:
    """Return the monotone cubic through the points that have a value, of ln y if all are positive.

    Args:
        x: increasing, shape (M,).
        y: shape (M,), with two values at least.
    """
    from scipy.interpolate import PchipInterpolator

    known = np.isfinite(y)
    if np.all(y[known] > 0):
        logarithm = PchipInterpolator(x[known], np.log(y[known]))
        return lambda at: float(np.exp(logarithm(at)))
    curve = PchipInterpolator(x[known], y[known])
    return lambda at: float(curve(at))


def transient_columns(
    cold: pd.DataFrame, warm: pd.DataFrame, curve: pd.DataFrame, share: pd.Series
) -> dict[str, float]:
    """Return what the first transient of one run, from its start to its warm start, comes to.

    Args:
        cold: rows of ``speed_limits`` of the run from its start.
        warm: the same from its warm start, in order of time.
        curve: rows of training_curves of the run, in order of time.
        share: training loss over that of the start, of these rows.

    Returns:
        Its shares of training time, (t_w - 0) / T, and of the loss drop, (L_0 - L_w) / (L_0 - L_T),
        NaN where the loss has not dropped, as noise can bring about, and T/T_SL from the cold over
        that from the warm start: by how much leaving it out lowers the inefficiency.
    """
    at = len(curve) - len(warm) - 1
    drop, before = (float(1 - share.iloc[index]) for index in (-1, at))
    end = cold.loc[cold["time"].idxmax()]
    return {
        "transient_time_share": float(curve["time"].iloc[at] / curve["time"].iloc[-1]),
        "transient_loss_share": before / drop if drop > 0 else np.nan,
        "transient_factor": float(end["inefficiency"] / warm["inefficiency"].iloc[-1]),
    }


def kernel_columns(
    kernels: pd.DataFrame, ensemble: str, realisation: str, moment: str
) -> dict[str, float]:
    """Return drift, alignment, and alignment over that at the start, of one run at a moment.

    Args:
        kernels: rows of the table of that name, of one kernel.
        ensemble: folder of the ensemble.
        realisation: number of the run.
        moment: "warm" or "end".

    Returns:
        drift, alignment and alignment_gain (1); nothing where the run has no kernel then.
    """
    if "moment" not in kernels:
        return {}
    own = (kernels["ensemble"] == ensemble) & (kernels["realisation"].astype(str) == realisation)
    rows = kernels[own].set_index("moment")
    if moment not in rows.index:
        return {}
    drift, alignment = (float(rows.loc[moment, name]) for name in ("drift", "alignment"))
    gain = alignment / float(rows.loc["start", "alignment"])
    return {"drift": drift, "alignment": alignment, "alignment_gain": gain}


def ensemble_outcomes(
    runs: pd.DataFrame, speed_limits: pd.DataFrame, settings: dict
) -> pd.DataFrame:
    """Return the rows of the ensembles: means over runs with bootstrap intervals.

    That of the prediction ratio is geometric, which does not depend on which of the two is below.
    At the end, what ``speed_limits`` has for an ensemble (ratios of averages) takes their place.
    An ensemble with a diverged run has no means at any moment, for the others are no sample of all;
    ``diverged`` is the share of such runs.
    """
    front = list(runs.columns[: list(runs.columns).index("start")])
    values = list(runs.columns[list(runs.columns).index("diverged") + 1 :])
    whole = speed_limits[speed_limits["realisation"].astype(str) == "ensemble"]
    ends = whole.sort_values("time").groupby(["ensemble", "start"], sort=False).tail(1)
    diverged = runs[runs["at"] == "end"].groupby(["ensemble", "start"])["diverged"].mean()
    rows = []
    for (ensemble, start, at), group in runs.groupby(["ensemble", "start", "at"], sort=False):
        row = group.iloc[0][front].to_dict() | {"start": start, "realisation": "ensemble"}
        row |= {"at": at, "diverged": diverged[ensemble, start], "runs": len(group)}
        for name in values:
            sample = group[name].to_numpy(float)
            exists = row["diverged"] == 0 and np.isfinite(sample).all()
            found = _mean_over_runs(name, sample, (start, at), settings) if exists else [np.nan] * 3
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))
        if at == "end":
            end = ends[(ends["ensemble"] == ensemble) & (ends["start"] == start)].iloc[0]
            for name in values:
                if name == "discretisation":  # there without an interval
                    continue
                row |= {c: end[c] for c in (name, f"{name}_low", f"{name}_high") if c in end}
        rows.append(row)
    return pd.DataFrame(rows)


def _mean_over_runs(name: str, sample: Array, moment: tuple[str, str], settings: dict) -> list:
    """Return the mean of a quantity over runs and its interval; a ratio's mean is geometric.

    The interval of ``discretisation`` d is that of the action over the drop of energy, 1 + d, and
    that of the test error p of its odds p / (1 - p), so that both keep their bounds; where a run
    errs in all or nothing, which has no odds with an interval, it is cut at them.
    """
    if name == "prediction_ratio":
        found = geometric_mean(sample, settings["confidence"])
        same = one_and_the_same(sample)
        return [found["mean"], *(np.nan if same else found[end] for end in ("low", "high"))]
    stream = derived_seed(
        settings["seed"], "bootstrap", "outcome", *moment, SAME_DRAWS.get(name, name)
    )
    shift = 1.0 if name == "discretisation" else 0.0
    odds = name == "test_error" and 0 < sample.min() and sample.max() < 1
    ends = bootstrap_interval(
        {"x": sample[:, None]},
        lambda x: x / (1 - x) if odds else shift + x,
        confidence=settings["confidence"],
        resamples=settings["resamples"],
        generator=np.random.default_rng(stream),
    )
    low, high = (float(end[0]) for end in ends)
    if odds:
        low, high = low / (1 + low), high / (1 + high)
    elif name == "test_error":
        high = np.minimum(high, 1.0)
    return [sample.mean(), low - shift, high - shift]


def _strata(runs: pd.DataFrame, axes: dict[str, list], axis: str) -> pd.Series:
    """Return the label of each run's stratum: all other axes and the subset."""
    return joined(runs, [name for name in (*axes, "subset") if name != axis])


def _is_numeric(values: list) -> bool:
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)


def along_axes(runs: pd.DataFrame, axes: dict[str, list], settings: dict) -> tuple:
    """Return the tables trends (numeric axes) and comparisons (other axes, each with the first).

    Args:
        runs: rows of ``outcomes``; what is not ``comparable`` is not tested.
        axes: axis -> values (``runs.study_axes``).
        settings: seed, confidence, resamples.

    Returns:
        Two tables. A factor in comparisons is the ratio of geometric means of ``value`` to
        ``reference``; for the other quantities it is a difference of means.
    """
    trends: list[dict[str, Any]] = []
    comparisons: list[dict[str, Any]] = []
    runs = runs[~repetitions(runs)]
    for (at, start), all_values in runs.groupby(["at", "start"], sort=False):
        together = comparable(all_values)
        present = [q for q in QUANTITIES if q in together and together[q].notna().any()]
        same = {  # as T/T_SL, whose test would be made twice
            "energetic_inefficiency": not has_own_energy(together).any(),
            "kinematic_inefficiency": (dynamics_of(together) == "gradient_flow").all(),
        }
        present = [q for q in present if not same.get(q, False)]
        # Repetitions by all values: what is left at equal loss may be the same by definition.
        counted = {axis: comparable(independent(all_values, axis)) for axis in axes}
        for axis, quantity in itertools.product(axes, present):
            group = counted[axis]
            if group[axis].isna().all():  # nothing here reads it
                continue
            if start == "warm" and quantity in OF_THE_END:  # the same runs with the same end
                continue
            if (at, quantity) == ("equal_gradients", "gradients"):  # by definition
                continue
            stream = derived_seed(settings["seed"], "bootstrap", "trend", at, start, axis, quantity)
            options = {
                "confidence": settings["confidence"],
                "resamples": settings["resamples"],
                "generator": np.random.default_rng(stream),
                "log_y": QUANTITIES[quantity],
            }
            label = {"at": at, "start": start, "quantity": quantity, "against": axis}
            if _is_numeric(axes[axis]):
                trends.append(label | _along_numbers(group, axes, axis, quantity, options))
            else:
                found = _against_first(group, axes, axis, quantity, options)
                comparisons += [label | row for row in found]
    # those of a slope are not of a comparison, and a table without rows has them all the same
    tables = [pd.DataFrame(rows, columns=columns) for rows, columns in
              ((trends, TREND_COLUMNS), (comparisons, COMPARISON_COLUMNS))]  # fmt: skip
    _adjust(tables)
    return tuple(tables)


def _one_start(runs: pd.DataFrame) -> pd.Series:
    """Return the label of each run's start: tests count the runs of one start as one.

    Its seed and how it is drawn say which it is, for a table need not have every setting that
    decides the seed; without seeds those that it has.
    """
    seed = ["start_seed"] if "start_seed" in runs else [*START_KEYS, "realisation"]
    return joined(runs, [*seed, "initialisation"])


def _kind(quantity: str) -> str:
    return "factor" if QUANTITIES[quantity] else "difference"


def _tested(
    x: Array, runs: pd.DataFrame, axes: dict[str, list], axis: str, quantity: str, options: dict
) -> dict[str, Any]:
    """Return the slope of a quantity along an axis with the test that its runs allow.

    Runs of several values from one start have one slope: Student's test over starts. Those of
    several subsets have one slope a draw of samples, of which starts, and the sizes of a subset,
    whose samples are the first of each other, say no more than one: Student's test over draws.
    Where values of the axis have draws of samples of their own, as sizes and data sets, means over
    the runs of each draw are tested by ``trend``, if there are enough draws to decide anything;
    else runs are. (That the sizes of a subset are nested makes their slope vary less than
    permutations do, and the test conservative.)

    Args:
        x: where each run is on the axis, shape (runs,).
        runs: rows of ``outcomes`` of one moment and start.
        axes: axis -> values.
        axis: what is compared.
        quantity: name in ``QUANTITIES``.
        options: keyword arguments of ``statistics.trend``.

    Returns:
        As ``statistics.trend`` and ``single_slope.bend``, and ``test``: student, student of draws,
        draws, runs, or few draws, which is of runs too, that share too few draws.
    """
    log = {name: options[name] for name in ("log_x", "log_y")}
    y = runs[quantity].astype(float)
    usable = (y.notna() & ((y > 0) | (not options["log_y"]))).to_numpy()
    x, y, runs = x[usable], y[usable], runs[usable]
    if len(runs) == 0:
        return trend(x, y, **options) | bend(x, y, groups=y, **log) | {"test": "runs"}
    starts, draws = _one_start(runs), joined(runs, list(DRAW_KEYS))
    strata = _strata(runs, axes, axis)
    of_starts, of_draws = (
        pd.Series(x, runs.index).groupby(unit).transform("nunique") > 1 for unit in (starts, draws)
    )
    several = "subset" in runs and runs.loc[of_draws, "subset"].nunique() > 1
    if several or of_starts.any():
        lines = strata + "|" + (starts if of_starts.any() else draws)
        units = joined(runs, list(INDEPENDENT_DRAW_KEYS)) if several else starts
        found = mean_slope(x, y, runs=lines, units=units, confidence=options["confidence"], **log)
        found |= bend(x, y, groups=lines, units=units, by_unit=True, **log)
        return found | {"test": "student of draws" if several else "student"}
    of_runs = "runs"
    if not of_draws.any():
        of_runs = "few draws"
        others = joined(runs, [name for name in axes if name != axis])
        table = pd.DataFrame({"x": x, "y": np.log(y) if options["log_y"] else y})
        means = table.groupby([draws.to_numpy(), others.to_numpy()], sort=False).mean()
        units, settings = (means.index.get_level_values(level) for level in (0, 1))
        values = np.exp(means["y"]) if options["log_y"] else means["y"]
        found = trend(means["x"], values, strata=settings, units=units, **options)
        if found["p_smallest"] <= significance_level(options["confidence"]):
            found |= bend(means["x"], values, groups=settings, units=units, **log)
            return found | {"test": "draws", "points": units.nunique()}
    found = trend(x, y, strata=strata, units=starts, **options)
    return found | bend(x, y, groups=strata, units=starts, **log) | {"test": of_runs}


def _along_numbers(
    runs: pd.DataFrame, axes: dict[str, list], axis: str, quantity: str, options: dict
) -> dict[str, Any]:
    """Return the trend along a numeric axis, a power law where its values are positive."""
    x = runs[axis].to_numpy(float)
    logarithmic = bool(np.nanmin(x) > 0)
    found = _tested(x, runs, axes, axis, quantity, options | {"log_x": logarithmic})
    return {"scale": "log" if logarithmic else "linear", "kind": _kind(quantity)} | found


def _against_first(
    runs: pd.DataFrame, axes: dict[str, list], axis: str, quantity: str, options: dict
) -> Iterator[dict[str, Any]]:
    """Yield the comparison of each value of an axis with its first."""
    reference, *values = axes[axis]
    words = runs[axis].astype(str)
    for value in values:
        pair = runs[words.isin([str(reference), str(value)])]
        x = (pair[axis].astype(str) == str(value)).to_numpy(float)
        found = _tested(x, pair, axes, axis, quantity, options | {"log_x": False})
        shown = np.exp if QUANTITIES[quantity] else float
        ends = ("", "_low", "_high")
        effect = {f"effect{end}": shown(found.pop(f"slope{end}")) for end in ends}
        compared = {"reference": reference, "value": value, "kind": _kind(quantity)}
        yield compared | effect | found


def _adjust(tables: list[pd.DataFrame]) -> None:
    """Add Holm's p-values over the primary quantities of all tables together, at each moment."""
    for table in tables:
        table["p_adjusted"] = np.nan
    for at in MOMENTS_AT:
        family = [
            (t, i) for t in tables if "p_value" in t
            for i in t.index[t["quantity"].isin(PRIMARY) & (t["at"] == at)]
        ]  # fmt: skip
        for (table, index), p in zip(
            family, holm([t.loc[i, "p_value"] for t, i in family]), strict=True
        ):
            table.loc[index, "p_adjusted"] = p


def _described(x: pd.Series, y: pd.Series) -> dict[str, float]:
    """Return Spearman's rank correlation in the columns of ``correlations``, without a test."""
    ranks = np.array([x.rank(), y.rank()])
    varies = len(x) > 2 and np.ptp(ranks, axis=1).all()
    columns = CORRELATION_COLUMNS[CORRELATION_COLUMNS.index("correlation") :]
    found = dict.fromkeys(columns, np.nan) | {"points": len(x)}
    return found | {"correlation": float(np.corrcoef(ranks)[0, 1]) if varies else np.nan}


def _too_few(units: int, sets: int, least: int) -> bool:
    """Return whether percentiles of resamples of so many points are no interval.

    Args:
        units: independent points.
        sets: of them, each with ranks of its own.
        least: points of the smallest set.
    """
    if sets == 1:
        return units < FEWEST_POINTS
    return units - sets < FEWEST_FREE or least < FEWEST_OF_SET


def correlations(runs: pd.DataFrame, settings: dict) -> pd.DataFrame:
    """Return rank correlations at the end of the inefficiency with what it may go with.

    ``between`` correlates means of ensembles, those of the same starts (label noise and other
    settings that the start does not depend on) averaged, unless all ensembles have the same, and
    without those that lost a run. Means that share a width or a subset are no independent points,
    and too few values of these vary to permute them: it describes, without a test and an interval.
    ``within`` correlates runs of the same ensemble, whose settings agree, so that no setting can be
    the common cause. Realisations of equal number share their start in ensembles of one network and
    one subset, as learning rates do (``problem.start_seed``): they are permuted as one. What too
    few independent ones say has no interval (``_too_few``).
    """
    rows = []
    ends = runs[(runs["at"] == "end") & (runs["start"] == "cold")]
    lost = ends.loc[ends["diverged"] > 0, "ensemble"] if "diverged" in ends else []
    ends = comparable(independent(ends))
    one_start = _one_start(ends)
    starts = one_start.groupby(ends["ensemble"], sort=False).transform("first")
    alone = starts if starts.nunique() > 1 else ends["ensemble"]
    for quantity in ("test_error", "test_loss", "inefficiency_predicted", "drift"):
        if quantity not in ends or ends[quantity].isna().all():
            continue
        columns = ["ensemble", "inefficiency", quantity]
        pair = ends[columns].assign(one_start=one_start, alone=alone).dropna()
        means = pair[~pair["ensemble"].isin(lost)].drop(columns="one_start")
        means = means.groupby(["ensemble", "alone"], sort=False).mean()
        means = means.groupby("alone", sort=False).mean()
        label = {"quantity": "inefficiency", "with": quantity}
        stream = derived_seed(settings["seed"], "bootstrap", "correlation", "within", quantity)
        found = rank_correlation(
            pair["inefficiency"],
            pair[quantity],
            strata=pair["ensemble"],
            units=pair["one_start"],
            confidence=settings["confidence"],
            resamples=settings["resamples"],
            generator=np.random.default_rng(stream),
        )
        if _too_few(*(found.pop(name) for name in ("units", "sets", "least"))):
            found |= {"correlation_low": np.nan, "correlation_high": np.nan}
        rows += [
            label | {"level": "between", **_described(means["inefficiency"], means[quantity])},
            label | {"level": "within", **found},
        ]
    table = pd.DataFrame(rows, columns=None if rows else CORRELATION_COLUMNS)
    table["p_adjusted"] = holm(table["p_value"])
    return table
