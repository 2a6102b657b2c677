"""Put the measured curves of all runs of studies into one file: an xarray DataTree in NetCDF 4.

One node per ensemble, at the path of its folder below results/runs; below it ``training``, ``cold``
and, where it is reached, ``warm``, each on its own recorded times.
"""

import quick_start  # noqa: F401

from typing import Any

import pandas as pd
import xarray as xr

from pipeline.columns import described
from pipeline.log import logged
from pipeline.stores import provenance, read_table, variable, write_tree

TIMES = ("time", "time_lambda_1")
CURVES = (
    "loss_drop",
    "geodesic_length",
    "path_length",
    "action",
    "discretisation",
    "speed_limit_time",
    "inefficiency",
    "speed_unevenness",
    "path_excess",
    "speed_limit_time_predicted",
    "inefficiency_predicted",
    "speed_unevenness_predicted",
    "path_excess_predicted",
)
ENSEMBLE = ("inefficiency", "inefficiency_low", "inefficiency_high", "inefficiency_predicted")
# At a temperature, where T_SL is bounded over the distribution of starts
BOUNDS = ("transport_cost", "free_energy_drop_least", "free_energy_drop_most")
LAWS = ("inefficiency_power_law", "inefficiency_power_law_asymptote")
TRAINING = (
    "train_loss_per_sample",
    "test_loss_per_sample",
    "test_accuracy",
    "gradient_norm",
    "gradients",
)


def curves(table: pd.DataFrame, columns: tuple[str, ...]) -> dict[str, xr.Variable]:
    """Return each column as a variable (realisation, snapshot), with units and long_name.

    Args:
        table: rows of the runs of one ensemble; every run has the same times.
        columns: columns to take.

    Returns:
        Name -> variable.
    """
    found = {}
    number = table["realisation"].astype(int)  # as words 10 would come before 2
    for column in columns:
        rows = [of.sort_values("time")[column] for _, of in table.groupby(number)]
        found[column] = xr.Variable(("realisation", "snapshot"), rows, described(column))
    return found


def coordinates(table: pd.DataFrame) -> dict[str, xr.Variable]:
    """Return the realisations and the times that the runs of a table share."""
    numbers = sorted(table["realisation"].astype(int).unique())
    first = table[table["realisation"].astype(int) == numbers[0]].sort_values("time")
    found = {"realisation": variable("realisation", numbers, "1", "number of the realisation")}
    for name in TIMES:
        found[name] = xr.Variable("snapshot", first[name].to_numpy(), described(name))
    return found


def start_node(table: pd.DataFrame, start: str) -> xr.Dataset:
    """Return the curves of one ensemble from one start: of its runs, and of the ensemble.

    Args:
        table: rows of ``speed_limits.csv`` of one ensemble and start.
        start: "cold" or "warm".

    Returns:
        Variables (realisation, snapshot), ``ensemble_*`` (snapshot), and ``confidence`` ().
    """
    runs = table[table["realisation"] != "ensemble"]
    whole = table[table["realisation"] == "ensemble"].sort_values("time")
    bounds = tuple(name for name in BOUNDS if name in runs and runs[name].notna().any())
    variables = curves(runs, (*CURVES, *bounds))
    for column in (*ENSEMBLE, *LAWS):
        name = column if column in LAWS else f"ensemble_{column}"
        variables[name] = xr.Variable("snapshot", whole[column].to_numpy(), described(column))
        if column in ENSEMBLE:
            variables[name].attrs["long_name"] += ", ratio of averages over the realisations"
    level = whole["confidence"].iloc[0]
    variables["confidence"] = xr.Variable((), level, described("confidence"))
    attrs = {"start": start, "prediction_kernel": str(table["prediction_kernel"].iloc[0])}
    for name, rows in (("note", runs), ("ensemble_note", whole)):
        if "note" in rows and isinstance(rows["note"].iloc[0], str):
            attrs[name] = rows["note"].iloc[0]
    return xr.Dataset(variables, coordinates(runs), attrs)


def tree(ensembles: list[dict], limits: pd.DataFrame, training: pd.DataFrame) -> xr.DataTree:
    """Return the tree of all ensembles.

    Args:
        ensembles: folder and settings of each, as ``Plan.described`` gives them.
        limits: rows of ``speed_limits.csv`` of all studies.
        training: rows of ``training_curves.csv`` of all studies.

    Returns:
        The tree, without attributes at its root.
    """
    nodes = {}
    for ensemble in ensembles:
        path = ensemble["path"].removeprefix("results/runs/")
        known = {key: value for key, value in ensemble["settings"].items() if value is not None}
        nodes[path] = xr.Dataset(attrs={key: attribute(value) for key, value in known.items()})
        of_run = training[training["ensemble"] == ensemble["path"]]
        nodes[f"{path}/training"] = xr.Dataset(curves(of_run, TRAINING), coordinates(of_run))
        for start, of_start in limits[limits["ensemble"] == ensemble["path"]].groupby("start"):
            nodes[f"{path}/{start}"] = start_node(of_start, start)
    return xr.DataTree.from_dict(nodes)


def attribute(value: Any) -> str | int | float:
    """Return a setting as NetCDF holds it: true and false as 1 and 0, lists and dicts as text."""
    if isinstance(value, bool):
        return int(value)
    return str(value) if isinstance(value, dict | list) else value


def stacked(paths: list[str], keys: list[str]) -> pd.DataFrame:
    """Return the rows of all studies; a run that several share stands there once."""
    table = pd.concat([read_table(path) for path in paths])
    return table.drop_duplicates(keys).reset_index(drop=True)


def main(snakemake) -> None:
    """Run the rule ``all_runs``."""
    settings, given = snakemake.params.settings, snakemake.input
    with logged(snakemake.log[0]):
        limits = stacked(given.speed_limits, ["ensemble", "start", "realisation", "time"])
        training = stacked(given.training_curves, ["ensemble", "realisation", "time"])
        of_studies = [e for study in settings["studies"].values() for e in study]
        ensembles = list({e["path"]: e for e in of_studies}.values())
        found = tree(ensembles, limits, training)
        found.attrs = provenance(settings, title=settings["title"])
        write_tree(found, snakemake.output[0])
        print(f"{len(ensembles)} ensembles")


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
