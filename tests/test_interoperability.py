"""Results open with plain xarray, pandas and zarr, and every one says what it holds."""

import re
import subprocess
import sys

import all_runs
import interactive
import numpy as np
import pandas as pd
import pytest
import subset
import theory_langevin
import xarray as xr
import yaml
from conftest import ROOT, RUN, check_described

from pipeline.columns import COLUMNS, described
from pipeline.config import validated
from pipeline.runs import Plan
from pipeline.settings import RULES

READER = """
import glob, sys
import pandas, xarray, zarr

assert not any("scripts" in path for path in sys.path), sys.path
tree = xarray.open_datatree("results/all_runs.nc", engine="h5netcdf")
leaves = [node for node in tree.leaves if "inefficiency" in node]
table = pandas.read_csv("results/studies/dataset_size/speed_limits.csv")
of_run = table[(table.realisation == "0") & (table.start == "cold") & (table.n == 8)]
node = next(n for n in leaves if n.path.endswith("/cold") and "/n8-" in n.path)
difference = abs(node["inefficiency"].sel(realisation=0).values - of_run["inefficiency"].values)
assert difference.max() == 0, difference
store = glob.glob("results/runs/digits/n8-*/*/*/realisation0/snapshots.zarr")[0]
run = xarray.open_zarr(store)
assert run["train_loss"].attrs["units"] == "loss"
assert zarr.open(store, mode="r")["weights"].shape == run["weights"].shape
print(len(leaves))
"""


@pytest.mark.workflow
def test_results_open_without_our_code(reported):
    process = subprocess.run(
        [sys.executable, "-I", "-c", READER], cwd=reported, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) >= 2


@pytest.mark.workflow
def test_every_file_of_the_miniature_says_what_it_holds(reported):
    """Figures, pages and sentences show their units."""
    results, checked = reported / "results", []
    for path in sorted(results.rglob("*")):
        parts = path.relative_to(results).parts
        inside = parts[0].startswith(".") or any(part.endswith(".zarr") for part in parts[:-1])
        if not inside and path.name != "provenance.json":  # the provenance itself
            check_described(path)
            checked.append(path)
    assert len([path for path in checked if path.suffix == ".csv"]) > 25
    names = {path.name for path in checked}
    assert {"all_runs.nc", "runs.nc", "spectra.nc", "images.nc", "snapshots.zarr"} <= names
    assert {"ntk.nc", "ntk_warm0.nc", "ntk_end.nc", "n8-balanced-subset0.nc"} <= names


@pytest.mark.workflow
def test_every_rule_is_run_by_a_test_that_looks_at_its_files(reported):
    """In the miniature above, but for these; the fixture ``job`` checks what a script writes."""
    ran = set(pd.read_csv(reported / "results/report/benchmarks.csv")["rule"])
    alone = {uses.script for rule, uses in RULES.items() if rule not in ran}
    alone -= {uses.script for rule, uses in RULES.items() if rule in ran}
    assert alone == {"infinite_width.py", "theory_langevin.py"}  # test_width_experiment, _resume


def documented():
    """The words in code type of results/README.md."""
    text = (ROOT / "results/README.md").read_text()
    return set(re.findall(r"`([^`]+)`", text))


@pytest.mark.workflow
def test_every_column_of_every_table_is_documented(reported):
    words = documented()
    endings = ("_low", "_high", "_predicted", "_amplitude", "_r_squared", "_residual_deviation")
    endings += ("_curvature", "_bic_exponential", "_bic_curved", "_window", "_bins")
    endings += ("_error", "_closed_form", "_discretised")

    def known(column):
        if column in words:
            return True
        return any(column.endswith(e) and known(column.removesuffix(e)) for e in endings)

    missing = {}
    for path in (reported / "results").rglob("*.csv"):
        for column in pd.read_csv(path, nrows=0).columns:
            if not known(column):
                missing.setdefault(column, path.name)
    assert missing == {}


def test_the_table_of_networks_at_a_temperature_is_documented(job, subset_with):
    """It is no part of the plain command's results. Its bounds and steps are told as its own."""
    subset_with(RUN)
    known = {"temperatures": [0.0, 0.1], "start_variance": 1e-4, "members": 2, "realisations": 2}
    one_layer = {key: value for key, value in RUN.items() if key != "width"} | {"depth": 1}
    networks = [{**network, "final_time": 2} for network in (RUN, one_layer)]
    settings = {**known, "step": 0.25, "networks": networks}
    settings |= {"seed": 11, "confidence": 0.9, "resamples": 20, "code": "test"}
    made = "langevin_temperature.csv"
    job(subset.main, inputs={"i": "images.nc"}, outputs={"o": "m.nc"}, settings=RUN)
    given = {"n.nc": "n.nc", "m.nc": "m.nc"}
    job(theory_langevin.main, inputs=given, outputs={"o": made}, settings=settings)
    text = (ROOT / "results/README.md").read_text()
    (row,) = (line for line in text.splitlines() if f"theory/{made}" in line)
    columns = set(pd.read_csv(made, nrows=0)) - {"time", "time_lambda_1", "confidence", "step"}
    plain = {re.sub("_(low|high|linearised)$", "", column) for column in columns}
    identify = {"realisation", "dataset", "n", "model", "width", "parameterisation"}
    table = pd.read_csv(made)
    assert table.groupby(["depth", "temperature", "realisation"]).ngroups == len(table)
    identify.add("depth")  # in which they differ
    missing = {column for column in plain - identify if f"`{column}`" not in row}
    assert missing == {"realisations"} and "`step` in units of 2/lambda_1" in row
    assert "2/lambda_1" in described("step")["long_name"]


@pytest.mark.workflow
def test_every_table_with_intervals_says_their_confidence_level(reported):
    level = yaml.safe_load((ROOT / "tests/miniature.yaml").read_text())["statistics"]["confidence"]
    found = set()
    for path in (reported / "results").rglob("*.csv"):
        table = pd.read_csv(path)
        if any(column.endswith("low") for column in table):
            assert "confidence" in table, path.name
            assert (table["confidence"] == level).all(), path.name
            found.add(path.name)
    assert {"speed_limits.csv", "exponents.csv", "outcomes.csv", "trends.csv"} <= found
    assert {"regression_routes.csv", "regression_checks.csv", "reproduction.csv"} <= found
    runs = xr.open_datatree(reported / "results/all_runs.nc", engine="h5netcdf")
    assert {float(leaf["confidence"]) for leaf in runs.leaves if "confidence" in leaf} == {level}


@pytest.mark.workflow
def test_every_file_of_the_results_is_of_a_kind_that_is_checked(reported):
    """NetCDF, Zarr and tables above, JSON below; figures, pages and sentences show their units."""
    kinds = {".nc", ".csv", ".json", ".png", ".pdf", ".html", ".md", ".log", ".tsv"}
    results = reported / "results"
    paths = [path.relative_to(results) for path in results.rglob("*") if path.is_file()]
    open_paths = [path for path in paths if not str(path).startswith(".")]  # states, digests
    assert {path.suffix for path in open_paths if ".zarr/" not in str(path)} == kinds


def test_columns_are_described_with_their_suffixes():
    assert described("inefficiency_predicted_low")["units"] == "1"
    assert described("speed_limit_time_predicted")["units"] == COLUMNS["speed_limit_time"][0]
    with pytest.raises(KeyError, match="is not described"):
        described("nonsense_low")


def test_what_is_exact_is_not_called_a_bound():
    """At a temperature T/T_SL of a network is a bound, that of the linearised one is not."""
    bounded = {"inefficiency", "speed_limit_time", "wasserstein_squared", "free_energy_drop"}
    for name in bounded:
        assert "of networks" in described(name)["long_name"]
        for ending in ("predicted", "linearised_error", "closed_form", "discretised"):
            assert "of networks" not in described(f"{name}_{ending}")["long_name"]
        assert "of networks" in described(f"{name}_low")["long_name"]


def test_a_tree_of_any_study_can_be_written(shipped_config, tmp_path):
    plan = Plan(validated(shipped_config))
    for study in plan.studies:
        ensembles = plan.described(study)[:2]
        base = pd.DataFrame({"time": [1.0, 2.0], "time_lambda_1": [1.0, 2.0]})
        limits, training = [], []
        for ensemble in ensembles:
            for realisation in ("0", "1", "ensemble"):
                of = {"ensemble": ensemble["path"], "start": "cold", "prediction_kernel": "full"}
                row = base.assign(realisation=realisation, confidence=0.95, **of)
                names = {*all_runs.CURVES, *all_runs.ENSEMBLE, *all_runs.LAWS}
                limits.append(row.assign(**dict.fromkeys(names, 2.0)))
                if realisation != "ensemble":
                    training.append(row.assign(**dict.fromkeys(all_runs.TRAINING, 1.0)))
        tree = all_runs.tree(ensembles, pd.concat(limits), pd.concat(training))
        tree.to_netcdf(tmp_path / f"{study}.nc", engine="h5netcdf")
        read = xr.open_datatree(tmp_path / f"{study}.nc", engine="h5netcdf")
        assert len(list(read.leaves)) == 2 * len({e["path"] for e in ensembles})
        first = read[f"{ensembles[0]['path'].removeprefix('results/runs/')}"]
        assert first.attrs["n"] == ensembles[0]["settings"]["n"]
        # NetCDF has no truth values; a text, "False", would be true
        assert bool(first.attrs["subtract_start"]) is ensembles[0]["settings"]["subtract_start"]
        assert np.all(first["cold"]["inefficiency"].shape == (2, 2))


def test_bounds_at_a_temperature_come_with_what_they_are_made_of():
    row = {"start": "cold", "prediction_kernel": "full", "time": 1.0, "time_lambda_1": 1.0}
    row |= dict.fromkeys([*all_runs.CURVES, *all_runs.ENSEMBLE, *all_runs.LAWS, "confidence"], 2.0)
    flow = pd.DataFrame([row | {"realisation": r} for r in ("0", "ensemble")])
    without = all_runs.start_node(flow.assign(note=np.nan), "cold")
    noisy = all_runs.start_node(
        flow.assign(note=["one start", ""], **dict.fromkeys(all_runs.BOUNDS, 3.0)), "cold"
    )
    assert set(noisy) - set(without) == set(all_runs.BOUNDS) and "note" not in without.attrs
    assert noisy.attrs["note"] == "one start"
    assert "upper bound" in noisy["speed_limit_time"].attrs["long_name"]
    assert "lower bound" in noisy["inefficiency"].attrs["long_name"]


def test_more_than_ten_realisations_keep_their_numbers():
    numbers = np.arange(12)
    names = {*all_runs.CURVES, *all_runs.ENSEMBLE, *all_runs.LAWS, *interactive.LAWS.values()}
    names.add("confidence")
    names |= {f"{name}{end}" for name in interactive.FACTORS
              for end in ("", "_low", "_high", "_predicted")}  # fmt: skip
    row = {"start": "cold", "prediction_kernel": "full", "time": 1.0, "time_lambda_1": 1.0}
    table = pd.DataFrame(
        [row | {"realisation": str(r)} | dict.fromkeys(names, float(r)) for r in numbers]
        + [row | {"realisation": "ensemble"} | dict.fromkeys(names, 0.0)]
    )
    node = all_runs.start_node(table, "cold")
    for r in numbers:
        assert float(node["inefficiency"].sel(realisation=r)[0]) == r
    drawn = interactive.curves(table)["runs"]
    assert [run["inefficiency"] for run in drawn] == [[r] for r in numbers]
