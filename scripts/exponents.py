"""Fit alpha and delta of an ensemble's kernels at the start, the warm start and the end.

One row per moment and kernel. Realisations share the fit; where the window is too short the row
holds no exponents and says why.
"""

import quick_start  # noqa: F401

import math

import numpy as np
import pandas as pd
import xarray as xr

from pipeline.log import logged
from pipeline.seeds import derived_seed
from pipeline.stores import read_netcdf, write_table
from speedlimits.exponents import ExponentFit, fit_exponent, fit_window
from speedlimits.spectrum import equal_eigenvalues

KINDS = ("full", "traced")
DECAYED = 10.0  # own choice: e^{-2 lambda_k t} is 2e-9 there, below what training is integrated to


def fit_moment(
    files: list[xr.Dataset],
    kind: str,
    moment: str,
    settings: dict,
    *,
    realisations: int,
    timeless: bool = False,
) -> dict:
    """Return one row of the table.

    Args:
        files: NTK files of the realisations that have a kernel there.
        kind: "full" or "traced".
        moment: "start", "warm" or "end".
        settings: fit window, confidence, resamples, seed.
        realisations: how many there are; no fit if some have diverged, since the others are no
            sample of all.
        timeless: whether modes do not decay as e^{-lambda_k t}, as in Adam.

    Returns:
        Column -> value.
    """
    outputs = int(files[0].attrs["outputs"])
    multiplicity = outputs if kind == "full" else 1
    eigenvalues = np.stack([f[f"eigenvalues_{kind}"].values for f in files])
    projections = np.stack([f[f"residue_projections_{kind}"].values for f in files])
    floor = max(float(f[f"noise_floor_{kind}"]) for f in files)
    count = int((eigenvalues.min(axis=0) > floor).sum())
    row: dict = {"moment": moment, "kernel": kind, "time": float(files[0]["time"])}
    row |= {"eigenvalues": eigenvalues.shape[1], "above_noise_floor": count}
    fits = {"alpha": (eigenvalues, False), "delta": (projections, True)}
    groups = equal_eigenvalues(eigenvalues)
    try:
        require_all(realisations, len(files))
        wanted = (settings["first_rank"], settings["last_rank_fraction"])
        first, last = fit_window(count, *wanted, multiplicity=multiplicity)
        row |= {"first_rank": first, "last_rank": last}
        for name, (values, scattered) in fits.items():
            stream = derived_seed(settings["seed"], "bootstrap", name, kind, moment)
            fit = fit_exponent(
                values,
                first,
                last,
                bins_per_decade=settings["bins_per_decade"],
                confidence=settings["confidence"],
                resamples=settings["resamples"],
                generator=np.random.default_rng(stream),
                scattered=scattered,
                groups=groups,
            )
            row |= columns(name, fit)
        fitted = eigenvalues.mean(axis=0)[first - 1 : last]
        row["note"] = "" if timeless else decayed_note(fitted, row["time"])
    except ValueError as error:
        print(f"{kind} kernel at the {moment}: {error}")
        missing = ExponentFit(*[math.nan] * len(ExponentFit._fields))
        for name in fits:
            row |= columns(name, missing)
        row["note"] = str(error)
    return row


def decayed_note(eigenvalues: np.ndarray, time: float) -> str:
    """Return what delta is where the residue has decayed; empty where it has not.

    Args:
        eigenvalues: mean lambda_k of the ranks of the fit.
        time: training time t of the kernel.
    """
    decayed = int((eigenvalues * time > DECAYED).sum())
    if not decayed:
        return ""
    return (
        f"{decayed} of the {len(eigenvalues)} ranks of the fit have lambda_k t > {DECAYED:g}: what "
        "is left of their residue is made by slower modes and by the errors of integration and "
        "rounding, and delta is no law of theirs"
    )


def require_all(realisations: int, found: int) -> None:
    """Refuse to fit the survivors of an ensemble.

    Raises:
        ValueError: if fewer are found than there are realisations.
    """
    if found < realisations:
        raise ValueError(f"{realisations - found} of {realisations} runs diverged: no fit")


def columns(name: str, fit: ExponentFit) -> dict:
    """Return a fit as columns alpha, alpha_low, ..."""
    return {
        name if field == "exponent" else f"{name}_{field}": value
        for field, value in fit._asdict().items()
    }


def main(snakemake) -> None:
    """Run the rule ``exponents``."""
    settings = snakemake.params.settings
    with logged(snakemake.log[0]):
        rows = []
        for moment in ("start", "warm", "end"):
            paths = snakemake.input[moment]
            files = [file for file in map(read_netcdf, paths) if file.data_vars]
            for kind in KINDS if files else ():
                if f"eigenvalues_{kind}" in files[0]:
                    row = fit_moment(
                        files,
                        kind,
                        moment,
                        settings,
                        realisations=len(paths),
                        timeless=snakemake.wildcards.dynamics.startswith("adam"),
                    )
                    rows.append(row)
        table = pd.DataFrame(rows)
        print(table.T.to_string())
        write_table(table, snakemake.output[0], settings["confidence"])


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
