"""Gather the ensembles of a study into tidy tables, spectra and tests along its axes."""

import quick_start  # noqa: F401

import numpy as np
import pandas as pd
import xarray as xr

from pipeline.log import logged
from pipeline.outcomes import along_axes, correlations, ensemble_outcomes, outcomes
from pipeline.stores import (
    provenance,
    read_json,
    read_netcdf,
    read_snapshots,
    read_table,
    variable,
    write_netcdf,
    write_table,
)
from pipeline.tables import above_noise, with_threshold

MOMENTS = ("start", "warm", "end")
# By which findings tell which runs share samples, and what settings a dynamics has
TOLD_OF_CASES = ("selection", "learning_rate", "momentum")


def describing(ensembles: list[dict], axes: dict[str, list]) -> tuple[str, ...]:
    """Return the run settings that a study's tables have as columns.

    Whether T/T_SL is a bound follows from the temperature, be it an axis or not, what the noise of
    minibatches does from their size; what runs of different cases share, from settings in which
    these differ.
    """
    keys = ("dataset", "n", "subset", "model", "width", "parameterisation", "dynamics")
    langevin = any(e["settings"]["dynamics"] == "langevin" for e in ensembles)
    found = [e["settings"] for e in ensembles]
    told = [key for key in TOLD_OF_CASES if len({repr(of.get(key)) for of in found}) > 1]
    told = told if "case" in axes else []
    sgd = any(of["dynamics"] == "sgd" for of in found)
    known = ["temperature"] * langevin + ["batch_size"] * sgd
    return tuple(dict.fromkeys((*keys, *axes, *known, *told)))


def describe(ensemble: dict) -> dict:
    """Return the columns that say which ensemble a row belongs to."""
    return {
        "ensemble": ensemble["path"],
        **{key: ensemble["settings"].get(key) for key in ensemble["columns"]},
    }


def labelled(table: pd.DataFrame, ensemble: dict) -> pd.DataFrame:
    """Return a table with the ensemble's columns in front."""
    front = pd.DataFrame([describe(ensemble)] * len(table), index=table.index)
    return pd.concat([front, table], axis=1)


def training_curves(ensemble: dict, manifests: list[str]) -> pd.DataFrame:
    """Return losses per sample and accuracy of every run at every recorded time."""
    tables = []
    for r, path in enumerate(manifests):
        run = read_snapshots(path, weights=False)
        tables.append(
            pd.DataFrame(
                {
                    "realisation": r,
                    "start_seed": int(run.attrs["start_seed"]),
                    "time": run["time"].values,
                    "time_lambda_1": run["time"].values * float(run.attrs["lambda_1"]),
                    "train_loss_per_sample": run["train_loss"].values / int(run.attrs["samples"]),
                    "test_loss_per_sample": run["test_loss"].values
                    / int(run.attrs["test_samples"]),
                    "test_accuracy": run["test_accuracy"].values,
                    "gradient_norm": run["gradient_norm"].values,
                    "gradients": run["gradients"].values,
                }
            )
        )
    return labelled(pd.concat(tables, ignore_index=True), ensemble)


def kernel_rows(ensemble: dict, kernels: dict[str, list[str]]) -> pd.DataFrame:
    """Return lambda_1, drift, alignment and overlap of every run's kernels."""
    rows = []
    for moment in MOMENTS:
        for r, path in enumerate(kernels[moment]):
            file = read_netcdf(path)
            for kind in ("full", "traced"):
                if f"eigenvalues_{kind}" in file:
                    row = {"moment": moment, "kernel": kind, "realisation": r}
                    row["time"] = float(file["time"])
                    row["lambda_1"] = float(file[f"eigenvalues_{kind}"][0])
                    for name in ("drift", "alignment", "overlap"):
                        row[name] = float(file[f"{name}_{kind}"])
                    rows.append(row)
    return labelled(pd.DataFrame(rows), ensemble)


def mean_spectra(ensembles: list[dict], settings: dict) -> xr.Dataset:
    """Return eigenvalues and projections, averaged over realisations, padded with NaN.

    A realisation adds nothing at ranks where its eigenvalues are rounding noise; where those of all
    are, there is no mean. Moments that a diverged run has not reached are left out: the others are
    no sample of all.
    """
    parts = {}
    for ensemble in ensembles:
        for moment in MOMENTS:
            files = [read_netcdf(path) for path in ensemble["kernels"][moment]]
            reached = bool(files) and all(file.data_vars for file in files)
            for kind in ("full", "traced") if reached else ():
                if f"eigenvalues_{kind}" in files[0]:
                    key = (ensemble["path"], moment, kind)
                    means = np.mean([above_noise(file, kind) for file in files], axis=0)
                    parts[key] = np.where(means[0] > 0, means, np.nan)
    length = max(len(values[0]) for values in parts.values())
    padded = np.full((2, len(parts), length), np.nan)
    for index, values in enumerate(parts.values()):
        padded[:, index, : len(values[0])] = values
    keys = list(zip(*parts, strict=True))
    sizes = {e["path"]: e["settings"]["n"] for e in ensembles}
    dims = ("spectrum", "rank")
    return xr.Dataset(
        {
            "eigenvalues": variable(
                dims,
                padded[0],
                "1 / time",
                "eigenvalues lambda_k, mean over realisations, rounding noise counted as 0",
            ),
            "residue_projections": variable(
                dims,
                padded[1],
                "loss",
                "squared residue projections Delta_k^2, mean, counted as 0 at rounding noise",
            ),
            "ensemble": variable("spectrum", list(keys[0]), "1", "folder of the ensemble"),
            "moment": variable("spectrum", list(keys[1]), "1", "start, warm or end"),
            "kernel": variable("spectrum", list(keys[2]), "1", "full or traced"),
            "n": variable(
                "spectrum", [sizes[path] for path in keys[0]], "1", "training-set size n"
            ),
        },
        coords={"rank": variable("rank", np.arange(1, length + 1), "1", "rank k")},
        attrs=provenance(settings, title="NTK spectra of a study"),
    )


def main(snakemake) -> None:
    """Run the rule ``collect``."""
    settings, given, made = snakemake.params.settings, snakemake.input, snakemake.output
    level = settings["confidence"]
    with logged(snakemake.log[0]):
        planned = settings["ensembles"]
        columns = {"columns": describing(planned, settings["axes"])}
        warm_starts = [warm_columns(f"{e['path']}/warm_start.json") for e in planned]
        ensembles = [
            with_threshold(ensemble, warm["threshold"]) | columns
            for ensemble, warm in zip(planned, warm_starts, strict=True)
        ]
        print(f"{len(ensembles)} ensembles, {len(given)} files")
        speed_limits = pd.concat(
            [labelled(read_table(f"{e['path']}/speed_limits.csv"), e) for e in ensembles],
            ignore_index=True,
        )
        exponents = [labelled(read_table(f"{e['path']}/exponents.csv"), e) for e in ensembles]
        warm = [
            pd.DataFrame([describe(ensemble) | found])
            for ensemble, found in zip(ensembles, warm_starts, strict=True)
        ]
        curves = [training_curves(e, e["manifests"]) for e in ensembles]
        kernels = [kernel_rows(e, e["kernels"]) for e in ensembles]
        write_table(speed_limits, made.speed_limits)
        write_table(pd.concat(exponents, ignore_index=True), made.exponents)
        write_table(pd.concat(warm, ignore_index=True), made.warm_starts)
        write_table(pd.concat(curves, ignore_index=True), made.training_curves)
        couplings = pd.concat(map(transport_rows, ensembles), ignore_index=True)
        write_table(couplings, made.transport)
        write_table(pd.concat(kernels, ignore_index=True), made.kernels)
        curves, kernels = (pd.concat(parts, ignore_index=True) for parts in (curves, kernels))
        runs = outcomes(speed_limits, curves, kernels)
        whole = ensemble_outcomes(runs, speed_limits, settings)
        write_table(pd.concat([runs, whole], ignore_index=True), made.outcomes, level)
        trends, comparisons = along_axes(runs, settings["axes"], settings)
        write_table(trends, made.trends, level)
        write_table(comparisons, made.comparisons, level)
        write_table(correlations(runs, settings), made.correlations, level)
        write_netcdf(mean_spectra(ensembles, settings), made.spectra)


def transport_rows(ensemble: dict) -> pd.DataFrame:
    """Return a row per start: W2^2 between starts and ends, by identity and by assignment."""
    found = read_json(f"{ensemble['path']}/transport.json")["starts"]
    return labelled(pd.DataFrame([{"start": s} | row for s, row in found.items()]), ensemble)


def warm_columns(path: str) -> dict:
    """Return the columns of one warm start."""
    found = read_json(path)
    found.pop("provenance")
    return found


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
