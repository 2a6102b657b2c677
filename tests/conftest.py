"""Shared by the tests: where things are, a stand-in for Snakemake's object, the real archive."""

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import ntk
import pandas as pd
import prepare
import pytest
import subset
import time_unit
import torch
import train
import xarray as xr
import yaml
from checkouts import ROOT, checkout, snakemake
from emulated_gpu import REAL

from pipeline.columns import described
from pipeline.stores import read_netcdf, read_snapshots

# Settings of kernel jobs for the small problems of tests, which are all within these limits.
KERNEL = {"full_rows_limit": 1000, "stored_rows_limit": 1, "quadrature_steps": 150}
# Settings of a job on few samples and a small network; a test lays over them what matters to it.
RUN = {
    "dataset": "digits", "n": 12, "selection": "balanced", "subset": 0, "label_noise": 0,
    "test_count": 1700, "model": "fully_connected", "depth": 3, "width": 12,
    "parameterisation": "ntk", "initialisation": "he", "output_scale": 1, "subtract_start": False,
    "targets": "one_hot", "precision": "float64", "dynamics": "gradient_flow",
    "relative_tolerance": 1e-3, "learning_rate": 0.5, "learning_rate_unit": "stability_limit",
    "final_time": 100, "first_snapshot": 0.1, "time_unit": "inverse_lambda_1",
    "snapshots_per_decade": 4, "moment": "start", **KERNEL, "seed": 11, "code": "test",
}  # fmt: skip

# The same of trainings in a second.
TRAINING = RUN | {
    "depth": 1,
    "width": 4,
    "relative_tolerance": 1e-6,
    "learning_rate": 0.0005,
    "temperature": 0.01,
    "final_time": 300,
    "snapshots_per_decade": 5,
}


# Files whose tests look at one miniature of the whole workflow, the longest work of all.
OF_MINIATURE = ("interoperability", "notebook", "readme", "report", "workflow")


def of_miniature(file):
    return Path(file).stem.removeprefix("test_") in OF_MINIATURE


def pytest_collection_modifyitems(items):
    """Start with the miniature, so that no process is left alone with it at the end."""
    items.sort(key=lambda item: not of_miniature(item.path))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give a process whole files, and all that look at the miniature to the same one."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "miniature" if of_miniature(file) else file

    return Scheduling(config, log)


@pytest.fixture(autouse=True)
def one_thread_of_the_cpu(monkeypatch):
    if REAL:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    torch.set_num_threads(1)
    yield
    torch.set_deterministic_debug_mode("default")


@pytest.fixture
def shipped_config():
    return yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))


# Units of results: a pure number's, those of a run, those of what jobs cost; products of them.
UNIT = r"(1|loss|weight|time|s|MB)(\^2)?"
UNITS = rf"{UNIT}( [/*] {UNIT})*"
LABELS = ("subset", "realisation", "reference", "value")  # columns that hold numbers or words


def datasets(path):
    """Return name -> dataset of a NetCDF file, of every node of a tree, or of a Zarr store."""
    if path.suffix == ".zarr":
        return {str(path): xr.open_zarr(path)}
    if path.read_bytes()[:3] == b"CDF":
        return {str(path): xr.load_dataset(path, engine="scipy")}
    with xr.open_datatree(path, engine="h5netcdf") as opened:
        tree = opened.load()
    nodes = {f"{path}:{n.path}": n.to_dataset().assign_attrs(tree.attrs) for n in tree.subtree}
    return {str(path): tree.to_dataset(), **nodes}


def check_described(path):
    """Assert that a result file says what it holds: units, names, what it was made from."""
    path = Path(path)
    if path.suffix in (".nc", ".zarr"):
        for name, dataset in datasets(path).items():
            wanted = {"title", "config", "versions", "loss_convention", "units_convention"}
            assert wanted <= set(dataset.attrs) and "Conventions" not in dataset.attrs, name
            assert isinstance(json.loads(dataset.attrs["config"]), dict), name
            for key, variable in dataset.variables.items():
                assert variable.attrs.get("long_name"), (name, key)
                units = variable.attrs.get("units", "")
                assert re.fullmatch(UNITS, units), (name, key, units)
    elif path.suffix == ".csv":
        for name, column in pd.read_csv(path).items():
            attributes = described(name)  # or a KeyError that asks for them
            number = pd.api.types.is_numeric_dtype(column) and column.notna().any()
            number = number and not pd.api.types.is_bool_dtype(column)
            assert attributes["long_name"], (path, name)
            units = attributes["units"] or ("" if number and name not in LABELS else "1")
            assert re.fullmatch(UNITS, units), (path, name, units)
    elif path.suffix == ".json":
        content = json.loads(path.read_text(encoding="utf-8"))
        if "store" in content:  # the manifest of a store that has the attributes
            check_described(path.with_name(content["store"]))
        else:
            assert "provenance" in content, path


class Files(dict):
    """Named and numbered files, as snakemake.input and snakemake.output."""

    def __getattr__(self, name):
        return self[name]

    def __getitem__(self, key):
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Run a script's main as Snakemake would, inside a fresh folder."""
    monkeypatch.chdir(tmp_path)

    def run(
        main, *, inputs=None, outputs, settings, threads=1, wildcards=None, config=None, **params
    ):
        snakemake = SimpleNamespace(
            input=Files(inputs or {}),
            output=Files(outputs),
            params=SimpleNamespace(settings=settings, **params),
            wildcards=SimpleNamespace(**(wildcards or {})),
            config=config or {},
            resources=SimpleNamespace(device="auto", deterministic=1, kernel_memory_mb=200),
            threads=threads,
            log=[str(tmp_path / "job.log")],
        )
        main(snakemake)
        for path in outputs.values():
            check_described(path)

    return run


@pytest.fixture
def subset_with(job):
    """Make the subset n.nc through the scripts."""

    def run(settings):
        job(prepare.main, outputs={"o": "images.nc"}, settings=settings)
        job(subset.main, inputs={"i": "images.nc"}, outputs={"o": "n.nc"}, settings=settings)

    return run


@pytest.fixture
def train_with(job, subset_with):
    """Run the scripts up to training and return the trajectory, after what has been made before."""

    def run(settings, *, after="nothing", realisation=0):
        if after == "nothing":
            subset_with(settings)
        if after in ("nothing", "subset"):
            job(time_unit.main, inputs={"i": "n.nc"}, outputs={"o": "unit.json"}, settings=settings)
        job(
            train.main,
            inputs={"subset": "n.nc", "time_unit": "unit.json"},
            outputs={"manifest": "snapshots.json"},
            settings=settings,
            store="snapshots.zarr",
            wildcards={"realisation": str(realisation)},
        )
        return read_snapshots("snapshots.json").load()  # which the next training overwrites

    return run


@pytest.fixture
def trained(train_with):
    """Run the scripts up to training, with some settings changed, and return the trajectory."""

    def run(only_train=False, realisation=0, **changes):
        after = "time_unit" if only_train else "nothing"
        return train_with(TRAINING | changes, after=after, realisation=realisation)

    return run


@pytest.fixture
def spectrum_with(job, subset_with):
    """Run the rule ntk and return its file; of a training's end, after that training."""

    def run(settings, **inputs):
        if not inputs:
            subset_with(settings)
        job(
            ntk.main,
            inputs={"subset": "n.nc", **inputs},
            outputs={"o": "ntk.nc"},
            settings=settings,
            wildcards={"realisation": "0"},
        )
        return read_netcdf("ntk.nc")

    return run


@pytest.fixture(scope="session")
def cifar10_archive():
    """A CIFAR-10 python archive: named by a variable, or in a data folder beside the checkout."""
    named = os.environ.get("SPEEDLIMITS_CIFAR10_ARCHIVE")
    found = [Path(named)] if named else sorted(ROOT.parent.glob("*/data/cifar-10-python*.tar.gz"))
    if not found or not found[0].is_file():
        pytest.skip("no CIFAR-10 archive: set SPEEDLIMITS_CIFAR10_ARCHIVE to the path of one")
    return found[0]


def reordered(value):
    """Return the same configuration with the keys of every mapping in reverse."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return value


@pytest.fixture(scope="session")
def reported(tmp_path_factory):
    """A checkout in which the miniature has been run, with its report and the file of its study.

    With the keys in another order and with three jobs at once, which must change no result.
    """
    folder = checkout(tmp_path_factory.mktemp("report"))
    config = yaml.safe_load((ROOT / "tests/miniature.yaml").read_text(encoding="utf-8"))
    # Neither removes anything that is made here; captions must not meet them.
    config["studies"] |= {"temperature": None}
    config["studies"]["dataset_size"]["vary"] |= {"width": None}
    configfile = folder / "reordered.yaml"
    configfile.write_text(yaml.safe_dump(reordered(config), sort_keys=False), encoding="utf-8")
    for arguments in (["report", "study_dataset_size"], ["report", "--report", "report.html"]):
        process = snakemake(folder, "--cores", "3", *arguments, configfile=configfile)
        assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-5000:]
    return folder
