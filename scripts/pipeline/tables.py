"""What analyses, figures and sentences ask of the rows of a study's tables alike."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import xarray as xr

OF_LOSS_DROP = ("inefficiency", "prediction_ratio", "speed_limit_time")
OF_PATH = ("energetic_inefficiency", "kinematic_inefficiency", "path_excess", "speed_unevenness")
MOMENTUM = ("heavy_ball", "nesterov")
LARGEST_DISCRETISATION = 0.1  # own choice: then l_gamma may be off by some 5 %
LARGEST_PATH_ROUNDING = 0.05  # own choice, of l_gamma: as much
THRESHOLD = "warm_start_accuracy"  # the axis that trains nothing anew


def significance_level(confidence: float) -> float:
    """Return 1 - confidence as it is meant: 0.1 of 0.9, whose least p-values may be just that."""
    return round(1 - confidence, 12)


def shown_p_value(p: float, level: float) -> str:
    """Return "p = 0.012", with as many digits as tell it from a level, or "p < 0.001"."""
    if p < 0.001 < level or p == 0:
        return f"p < {min(0.001, level):g}"
    told = (d for d in range(2, 16) if (float(f"{p:.{d}g}") <= level) == (p <= level))
    digits = next(told, 16)
    return f"p = {p:.{digits}g}"


def dynamics_of(table: pd.DataFrame) -> pd.Series:
    """Return the dynamics of every row, NaN in a table of runs that do not read it."""
    return table.get("dynamics", pd.Series(np.nan, table.index, object))


def at_a_temperature(table: pd.DataFrame) -> pd.Series:
    """Return for every row whether T/T_SL is a lower bound: Langevin dynamics above temperature 0.

    Args:
        table: with the columns dynamics and temperature, where its runs read them.

    Returns:
        bool, shape (rows,).
    """
    temperature = table.get("temperature", pd.Series(np.nan, table.index))
    return (dynamics_of(table) == "langevin") & (temperature != 0)


def in_motion(table: pd.DataFrame) -> pd.Series:
    """Return for every row whether its dynamics has a velocity at its start: momentum, from t_w on.

    T/T_SL leaves the kinetic energy of that out (docs/theory.md, section 8).

    Args:
        table: with the columns dynamics, where its runs read it, and start.

    Returns:
        bool, shape (rows,).
    """
    return dynamics_of(table).isin(MOMENTUM) & (table["start"] == "warm")


def predicted_from_rest(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with predictions of NTK dynamics where it sets off as the runs do: at rest.

    Args:
        table: with the columns dynamics, where its runs read it, and start.
    """
    moving = in_motion(table)
    laws = [name for name in table if name.endswith("_predicted") or "_power_law" in name]
    return table.assign(**{name: table[name].mask(moving) for name in laws})


def has_own_energy(table: pd.DataFrame) -> pd.Series:
    """Return for every row whether another energy or metric than the flow's bounds its dynamics.

    There ``energetic_inefficiency`` is no T/T_SL (docs/theory.md, section 8).

    Args:
        table: with the column dynamics, where its runs read it.

    Returns:
        bool, shape (rows,).
    """
    return dynamics_of(table).isin([*MOMENTUM, "adam"])


def comparable(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows without inefficiencies that tests must not compare with others.

    T/T_SL at a temperature is only bounded, more loosely the higher it is: a difference may be the
    bound's. In motion it leaves the kinetic energy out. ``energetic_inefficiency`` is no bound with
    the noise of minibatches or of a temperature. Where a run that has not diverged lacks a value,
    for its loss or energy has not dropped, or too little is known of its path, the others of its
    ensemble are no sample of all.
    ``discretisation`` is that of heat at a temperature, of action elsewhere: not compared where the
    table has both.

    Args:
        table: rows of ``outcomes``, or of ``speed_limits`` at one time each, with dynamics and
            temperature where their runs read them.
    """
    bounded = at_a_temperature(table)
    without = bounded | in_motion(table) | lacking(table, "inefficiency")
    left_out = dict.fromkeys(OF_LOSS_DROP, without)
    left_out |= {name: lacking(table, name) for name in OF_PATH}
    left_out["energetic_inefficiency"] |= (dynamics_of(table) == "sgd") | bounded
    left_out["discretisation"] = bounded & ~bounded.all()
    return table.assign(**{q: table[q].mask(where) for q, where in left_out.items() if q in table})


def risen(table: pd.DataFrame) -> pd.Series:
    """Return for every row whether its loss has not dropped, so that it has no T/T_SL.

    Not at a temperature, where T/T_SL is no quantity of the loss drop alone, nor of Adam.

    Args:
        table: with what tells which runs have diverged (``_missing``).
    """
    without = _missing(table, "inefficiency")
    return without & ~at_a_temperature(table) & (dynamics_of(table) != "adam")


def lacking(table: pd.DataFrame, name: str) -> pd.Series:
    """Return for every row whether a run of its ensemble that has not diverged has no ``name``.

    Args:
        table: as ``risen``, at one time of each run and start.
        name: column.
    """
    ensembles = [table[key] for key in ("ensemble", "start", "at") if key in table]
    return _missing(table, name).groupby(ensembles).transform("any")


def _missing(table: pd.DataFrame, name: str) -> pd.Series:
    """Return for every row whether its run has no ``name`` though it has not diverged.

    Diverged runs are those that the table calls so, else those without values along the path.
    Nothing is missing where the table has no such column.
    """
    if name not in table:
        return pd.Series(False, table.index)
    if "diverged" in table:
        return table[name].isna() & (table["diverged"] == 0)
    known = [column for column in (*OF_PATH, *OF_LOSS_DROP, "loss_drop") if column in table]
    return table[name].isna() & table[known].notna().any(axis=1)


def left_out_for_rounding(table: pd.DataFrame, path: str) -> pd.Series:
    """Return for every row whether its path is left out for the rounding of weights.

    Its action is known then: where that is off the loss drop of gradient flow, or at a temperature,
    there is none.

    Args:
        table: rows of runs.
        path: column that holds the path's length, or a ratio of it.
    """
    return table["kinematic_inefficiency"].notna() & table[path].isna()


def fitted_kernel(kinds: Iterable[str]) -> str:
    """Return whose exponents are fitted: "full", or "traced" where the full kernel is too large.

    Args:
        kinds: kernels that an ensemble has in a table; "quadrature" is the full one without its
            eigenvalues.
    """
    return "full" if "full" in set(kinds) else "traced"


def of_one_kernel(kernels: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the kernel that runs are compared by: the same one for all.

    Drift and alignment of the full and of the output-traced kernel are different quantities. The
    full one's are compared if every run has them at every moment; else, as at sizes of which the
    largest is above the limit of the full kernel, the output-traced one's, which all have.

    Args:
        kernels: the table of that name, of all runs that are compared.
    """
    if "kernel" not in kernels:
        return kernels
    at = [kernels[name] for name in ("ensemble", "realisation", "moment")]
    full = (kernels["kernel"] == "full").groupby(at, sort=False).any()
    return kernels[kernels["kernel"] == ("full" if full.all() else "traced")]


def above_noise(kernel: xr.Dataset, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return eigenvalues and residue projections of a kernel, both 0 where these are noise.

    The null space of a kernel has no basis of its own: which share of the residue in it meets
    which eigenvalue of rounding noise is up to the processor. None of it is ever learnt.

    Args:
        kernel: a file of kernels.
        kind: "full", "traced" or "quadrature".
    """
    values = kernel[f"eigenvalues_{kind}"].values
    above = values > kernel[f"noise_floor_{kind}"].values
    projections = kernel[f"residue_projections_{kind}"].values
    return np.where(above, values, 0.0), np.where(above, projections, 0.0)


def with_threshold(ensemble: dict, threshold: float) -> dict:
    """Return an ensemble with the threshold of its warm start among its settings.

    Null there means that of all studies: a number like the others of an axis of thresholds.

    Args:
        ensemble: path and settings, as ``Plan.described`` gives them.
        threshold: test accuracy that it stands for.
    """
    return ensemble | {"settings": ensemble["settings"] | {THRESHOLD: threshold}}


def of_kernel(kernel: str) -> str:
    """Return what a label adds for a kernel: the output-traced one has exponents of its own."""
    return ", output-traced kernel" if kernel == "traced" else ""


def correlation_status(row: pd.Series, level: float) -> str:
    """Return what can be said of a rank correlation: "tested", or why it says nothing.

    Args:
        row: of the table correlations: correlation, points, p_value, p_smallest.
        level: 1 - confidence.

    Returns:
        "few": so many points have no ranks to test, or cannot give a p-value of the level;
        "constant": one of both sides has one value; "described": a correlation without a test;
        else "tested".
    """
    if row["points"] < 3 or row["p_smallest"] > level:
        return "few"
    if not np.isfinite(row["correlation"]):
        return "constant"
    return "tested" if np.isfinite(row["p_value"]) else "described"
