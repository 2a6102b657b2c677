"""What analyses, figures and sentences ask of the rows of a study's tables alike."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import xarray as xr

# At a temperature only bounded, more loosely the higher it is: a difference may be the bound's.
BOUNDED = ("inefficiency", "prediction_ratio", "speed_limit_time")
THRESHOLD = "warm_start_accuracy"  # the axis that trains nothing anew


def at_a_temperature(table: pd.DataFrame) -> pd.Series:
    """Return for every row whether T/T_SL is a lower bound: Langevin dynamics above temperature 0.

    Args:
        table: with the columns dynamics and temperature, where its runs read them.

    Returns:
        bool, shape (rows,).
    """
    nothing = pd.Series(np.nan, table.index)
    langevin = table.get("dynamics", nothing) == "langevin"
    return langevin & (table.get("temperature", nothing) != 0)


def in_motion(table: pd.DataFrame) -> pd.Series:
    """Return for every row whether its dynamics has a velocity at its start: momentum, from t_w on.

    T/T_SL leaves the kinetic energy of that out (docs/theory.md, section 8).

    Args:
        table: with the columns dynamics, where its runs read it, and start.

    Returns:
        bool, shape (rows,).
    """
    dynamics = table.get("dynamics", pd.Series(np.nan, table.index))
    return dynamics.isin(["heavy_ball", "nesterov"]) & (table["start"] == "warm")


def without_bounds(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the rows without what is no value there but a bound, of which tests claim nothing."""
    names = [name for name in BOUNDED if name in runs]
    return runs.assign(**{name: runs[name].mask(at_a_temperature(runs)) for name in names})


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
        row: of the table correlations: points, p_value, p_smallest.
        level: 1 - confidence.

    Returns:
        "few": so many points have no ranks to test, or cannot give a p-value of the level;
        "constant": one of both sides has one value; else "tested".
    """
    if row["points"] < 3 or row["p_smallest"] > level:
        return "few"
    return "tested" if np.isfinite(row["p_value"]) else "constant"
