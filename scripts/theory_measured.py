"""Place the networks of the studies in the theory: exponents and spectra at the start."""

import quick_start  # noqa: F401

import numpy as np
import pandas as pd
import xarray as xr

from pipeline.log import logged
from pipeline.runs import model_of_slug
from pipeline.stores import read_netcdf, read_table, write_table
from pipeline.tables import of_kernel
from plots.naming import describe, distinct
from speedlimits import ntk_dynamics

COLUMNS = ("alpha", "alpha_low", "alpha_high", "delta", "delta_low", "delta_high", "confidence")


def measured_exponents(paths: list[str]) -> pd.DataFrame:
    """Return the fitted exponents at the start of every ensemble, labelled by network and data.

    Args:
        paths: tables ``exponents.csv`` of studies.

    Returns:
        Columns label, n, kernel, ensemble and ``COLUMNS``; the full kernel where it was computed,
        else the output-traced one, which the label names.
    """
    table = pd.concat([read_table(path) for path in paths], ignore_index=True)
    table = table[table["moment"] == "start"].sort_values("kernel", kind="stable")
    table = table.dropna(subset=["alpha", "delta"]).drop_duplicates("ensemble")
    table["label"] = [
        f"{describe('model', model)}, {describe('dataset', dataset)}{of_kernel(kernel)}"
        for model, dataset, kernel in table[["model", "dataset", "kernel"]].to_numpy()
    ]
    return table.sort_values(["label", "n"], kind="stable")[
        ["label", "n", "kernel", "ensemble", *COLUMNS]
    ]


def start_spectra(paths: list[str]) -> dict[str, tuple[str, np.ndarray, np.ndarray]]:
    """Return ensemble -> (label, eigenvalues, residue projections) of the kernel at the start.

    Means over realisations, the full kernel where it was computed, else the output-traced one,
    which the label names.
    """
    found: dict[str, tuple[str, np.ndarray, np.ndarray]] = {}
    told: set[str] = set()
    starts: set[tuple[str, bytes, bytes]] = set()
    for path in paths:
        spectra: xr.Dataset = read_netcdf(path)
        kinds = spectra["kernel"].values.astype(str)
        for index in np.argsort(kinds, kind="stable"):
            ensemble = str(spectra["ensemble"].values[index])
            if str(spectra["moment"].values[index]) != "start" or ensemble in told:
                continue
            told.add(ensemble)
            eigenvalues = spectra["eigenvalues"].values[index]
            kept = np.isfinite(eigenvalues)
            _, _, dataset, _, network, *_ = ensemble.split("/")
            names = (describe("model", model_of_slug(network)), describe("dataset", dataset))
            label = f"{', '.join(names)}, $n = {int(spectra['n'].values[index])}$"
            label += of_kernel(kinds[index])
            projections = spectra["residue_projections"].values[index]
            one = (label, eigenvalues[kept].tobytes(), projections[kept].tobytes())
            if one not in starts:  # dynamics that start from the same kernels are one curve
                found[ensemble] = (label, eigenvalues[kept], projections[kept])
            starts.add(one)
    labels = distinct([label for label, *_ in found.values()], list(found))
    return {
        ensemble: (label, *values)
        for (ensemble, (_, *values)), label in zip(found.items(), labels, strict=True)
    }


def spectra_tables(paths: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the spectra over lambda_1, and the inefficiencies they give, against lambda_1 T."""
    times = np.geomspace(1e-2, 1e6, 71)
    shapes, predictions = [], []
    for ensemble, (label, eigenvalues, projections) in start_spectra(paths).items():
        head = {"name": label, "ensemble": ensemble}
        scaled = eigenvalues / eigenvalues[0]
        columns = {"rank": np.arange(1, len(scaled) + 1), "eigenvalue": scaled}
        shapes.append(pd.DataFrame(head | columns))
        sums = ntk_dynamics.predict(scaled, projections, times)
        wanted = ("time", "inefficiency", "speed_unevenness", "path_excess")
        predictions.append(pd.DataFrame(head | {name: sums[name] for name in wanted}))
    return pd.concat(shapes, ignore_index=True), pd.concat(predictions, ignore_index=True)


def main(snakemake) -> None:
    """Run the rule ``theory_measured``."""
    given, made = snakemake.input, snakemake.output
    with logged(snakemake.log[0]):
        exponents = measured_exponents(list(given.exponents))
        print(exponents.to_string())
        write_table(exponents, made.exponents)
        shapes, predictions = spectra_tables(list(given.spectra))
        write_table(shapes, made.spectra)
        write_table(predictions, made.predictions)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
