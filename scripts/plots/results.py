"""What figures take from the tables of a study: rows, and the intervals that they hold."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline import columns

WIDEST = 1e3  # own choice: a ratio that is known no better than to three decades is not known


def select(table: pd.DataFrame, start: str, ensemble: str) -> pd.DataFrame:
    """Return the rows of one start of an ensemble as a whole, in order of time.

    Args:
        table: the table ``speed_limits``.
        start: "cold" or "warm".
        ensemble: folder of the ensemble.

    Returns:
        The rows.
    """
    whole = table["realisation"].astype(str) == "ensemble"
    rows = table[whole & (table["start"] == start) & (table["ensemble"] == ensemble)]
    return rows.sort_values("time", kind="stable")


def last_rows(table: pd.DataFrame, start: str) -> pd.DataFrame:
    """Return the row of each run and each ensemble at its last time, in the order of the table."""
    of_start = table[table["start"] == start].sort_values("time", kind="stable")
    keys = [of_start["ensemble"], of_start["realisation"].astype(str)]
    return of_start.groupby(keys, sort=False).tail(1).sort_index()


def fitted(exponents: pd.DataFrame, ensemble: str, moment: str, kernel: str) -> pd.Series | None:
    """Return the row of fitted exponents, or None where the fit gave none."""
    keys = {"ensemble": ensemble, "moment": moment, "kernel": kernel}
    rows = exponents[np.logical_and.reduce([exponents[k] == v for k, v in keys.items()])]
    if len(rows) == 0 or not np.isfinite(rows.iloc[0][["alpha", "delta"]].astype(float)).all():
        return None
    return rows.iloc[0]


def cut_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose intervals end a factor ``WIDEST`` above and below their value.

    Two runs and a high confidence level make Student's quantile so large that the ends of a ratio
    are 0 and infinity, or hundreds of decades apart: on a logarithmic axis of that length every
    curve is a flat line. Intervals of what can be negative stay as they are.

    Args:
        table: with the columns NAME, ``NAME_low`` and ``NAME_high``; it is not changed.
    """
    table = table.copy()
    for name in [column.removesuffix("_low") for column in table if column.endswith("_low")]:
        value, low, high = (table[column] for column in (name, f"{name}_low", f"{name}_high"))
        ratio = (value > 0) & (low >= 0)
        table[f"{name}_low"] = low.where(~ratio, np.maximum(low, value / WIDEST))
        table[f"{name}_high"] = high.where(~ratio, np.minimum(high, value * WIDEST))
    return table


def run_count(table: pd.DataFrame) -> str:
    """Return how many runs an ensemble has, for a legend: "3 runs", or "3 to 8 runs"."""
    runs = table[table["realisation"].astype(str) != "ensemble"]
    sizes = runs.groupby("ensemble")["realisation"].nunique()
    count = " to ".join(dict.fromkeys(str(size) for size in (sizes.min(), sizes.max())))
    return f"{count} run" + ("s" if sizes.max() > 1 else "")


def reaches(means: pd.DataFrame, column: str) -> NDArray[np.float64] | None:
    """Return the lengths of error bars, shape (2, ensembles), or None without intervals."""
    if not has_interval(means, column):
        return None
    ends = means[[f"{column}_low", f"{column}_high"]].to_numpy(float)
    return np.abs(np.nan_to_num(ends - means[[column]].to_numpy(float))).T


def interval_name(table: pd.DataFrame) -> str:
    """Return what the intervals of a table are called in a legend, such as "95 % interval"."""
    return columns.interval_name(table["confidence"].iloc[0])


def band_name(table: pd.DataFrame, column: str) -> str | None:
    """Return what the shaded intervals of a column are called; None if there is none."""
    return interval_name(table) if has_interval(table, column) else None


def with_interval(label: str, table: pd.DataFrame, several: bool) -> str:
    """Return a label that names the intervals too, which several runs have."""
    return f"{label}, {interval_name(table)}" if several else label


def has_interval(table: pd.DataFrame, column: str) -> bool:
    """Return whether a table holds any interval of a column."""
    name = f"{column}_low"
    return name in table and bool(table[name].notna().any())


def has_any_interval(table: pd.DataFrame) -> bool:
    """Return whether a table holds any interval; runs that are all the same have none."""
    return any(
        has_interval(table, name.removesuffix("_low")) for name in table if name.endswith("_low")
    )
