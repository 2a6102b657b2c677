"""Jobs ended half-way, in every way a job ends: the same command gives the uninterrupted bits.

A job runs in a process of its own, through its script's ``main``. It stores its state at every
opportunity, and comes to grief at a chosen store. Processes are forked from one that has imported
this module and done nothing else: this one may have threads.
"""

import functools
import multiprocessing
import multiprocessing.forkserver
import os
import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace

import ntk
import numpy as np
import prepare
import pytest
import subset
import theory_langevin
import time_unit
import torch
import torch._dynamo  # noqa: F401  or every process imports it anew
import train
from conftest import ROOT, RUN, Files, check_described

from pipeline import trajectory

SETTINGS = RUN | {
    "n": 20,
    "model": "myrtle5",
    "width": 4,
    "precision": "float32",
    "learning_rate": 0.1,
    "final_time": 2,
    "snapshots_per_decade": 3,
    "quadrature_steps": 12,
}
PERCEPTRON = {"model": "fully_connected", "depth": 2, "width": 2}
FEW_WEIGHTS = {"n": 40, "model": "residual_network", "depth": 1, "width": 1}  # 337, below 400 rows
LANGEVIN = {
    "temperatures": [0.0, 0.1], "start_variance": 1e-4, "members": 2, "realisations": 2,
    "step": 0.25,
    "networks": [
        {**SETTINGS, **PERCEPTRON, "n": 8, "final_time": 5},
        {**SETTINGS, "n": 8, "width": 2, "final_time": 5},
    ],
    "seed": 11, "confidence": 0.95, "resamples": 20, "code": "test",
}  # fmt: skip
# The settings changed, and the words with which a job's log says that it goes on half-way.
HALF_WAY = "continuing half-way what a killed job computed: "
KERNELS = {
    "kernel": ({}, HALF_WAY + "kernels"),
    "kernel of a network that is no chain": (
        {"model": "residual_network", "depth": 1},
        HALF_WAY + "kernels",
    ),
    "Gauss-Newton matrix": (FEW_WEIGHTS, HALF_WAY + "gauss_newton"),
    "quadrature": ({"full_rows_limit": 1}, HALF_WAY + "quadrature"),
    "Gauss-Newton matrix at the end": ({"moment": "end", **FEW_WEIGHTS}, HALF_WAY + "cross"),
}


@functools.cache
def processes():
    """Return what starts processes, forked from one that has imported this module."""
    context = multiprocessing.get_context("forkserver")
    paths = [str(ROOT / "scripts"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        patch.setenv("OMP_NUM_THREADS", "1")
        context.set_forkserver_preload(["test_resume"])
        multiprocessing.forkserver.ensure_running()
    return context


class Job:
    """A job of a script in a folder, with its inputs made, or taken from another job's folder."""

    def __init__(self, folder, kind, inputs_of=None, **changes):
        self.folder, self.kind = folder, kind
        self.settings = SETTINGS | (KERNELS[kind][0] if kind in KERNELS else {}) | changes
        # MB of the budget, little beyond what the kernel needs at least: so it has many parts
        weights = 12 * 30 * (337 if self.settings["width"] == 1 else 4900) / 1e6  # of one sample
        self.memory = 6 * weights if self.settings["model"] == "residual_network" else 70
        if inputs_of is not None:
            shutil.copytree(inputs_of, folder, dirs_exist_ok=True)
            return
        folder.mkdir()
        self.run("prepare", prepare, {}, {"o": "images.nc"})
        self.run("subset", subset, {"i": "images.nc"}, {"o": "n.nc"})
        self.run("time_unit", time_unit, {"i": "n.nc"}, {"o": "unit.json"})
        if self.settings["moment"] == "end":
            self.train()

    def run(self, name, script, inputs, outputs, settings=None, trouble=None):
        """Return the exit status and what was told on standard error."""
        text = self.folder.with_suffix(".terminal")
        arguments = name, inputs, outputs, settings or self.settings
        child = processes().Process(
            target=self.inside, args=(text, script.__name__, arguments, trouble)
        )
        child.start()
        child.join(120)
        if child.is_alive():
            child.kill()
            pytest.fail(f"{name} does not end: {text.read_text()}")
        return child.exitcode, text.read_text()

    def inside(self, text, script, arguments, trouble):
        """Run the script in this process, and end it."""
        status = 99
        try:
            os.chdir(self.folder)
            descriptor = os.open(text, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 2)
            sys.stderr = open(2, "w", buffering=1, closefd=False)
            torch.set_num_threads(1)
            trajectory.CHECKPOINT_SECONDS = trajectory.WRITE_SHARE = -1.0
            if trouble is not None:
                trajectory._save = trouble
            sys.modules[script].main(self.stand_in(*arguments))
            status = 0
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def stand_in(self, name, inputs, outputs, settings):
        return SimpleNamespace(
            input=Files(inputs) if isinstance(inputs, dict) else inputs,
            output=Files(outputs),
            params=SimpleNamespace(settings=settings, store="snapshots.zarr"),
            wildcards=SimpleNamespace(realisation="0"),
            resources=SimpleNamespace(device="cpu", deterministic=1, kernel_memory_mb=self.memory),
            threads=1,
            log=[str(self.folder / f"results/logs/{name}.log")],
        )

    def train(self, trouble=None):
        inputs, outputs = {"subset": "n.nc", "time_unit": "unit.json"}, {"manifest": "train.json"}
        return self.run("train", train, inputs, outputs, trouble=trouble)

    def __call__(self, trouble=None):
        """Run the job."""
        if self.kind == "training":
            return self.train(trouble)
        if self.kind == "Langevin dynamics":
            outputs = {"o": "result.csv"}
            return self.run("job", theory_langevin, ["n.nc"] * 2, outputs, LANGEVIN, trouble)
        inputs = {"subset": "n.nc", "manifest": "train.json"}
        return self.run("job", ntk, inputs, {"o": "result.nc"}, trouble=trouble)

    def result(self):
        """Return file -> content of what was written."""
        names = ("result.csv", "result.nc", "train.json", "snapshots.zarr")
        paths = (self.folder / name for name in names)
        files = (file for path in paths for file in (path, *path.rglob("*")) if file.is_file())
        return {str(file.relative_to(self.folder)): file.read_bytes() for file in files}

    def log(self):
        return (self.folder / f"results/logs/{self.log_name}.log").read_text()

    @property
    def log_name(self):
        return "train" if self.kind == "training" else "job"

    @property
    def words(self):
        """What the log says when the job goes on half-way."""
        others = {
            "training": "continuing an interrupted run at time",
            "Langevin dynamics": HALF_WAY + "network",
        }
        return others.get(self.kind) or KERNELS[self.kind][1]


class Trouble:
    """Stores states as the workflow does, and calls a function at the n-th one."""

    store = staticmethod(trajectory._save)

    def __init__(self, number, function, before=False):
        self.number, self.function, self.before, self.count = number, function, before, 0

    def __call__(self, *state):
        self.count += 1
        if self.before and self.count == self.number:
            self.function()
        self.store(*state)
        if not self.before and self.count == self.number:
            self.function()


class Count:
    """Stores states as the workflow does, and counts them in a file."""

    def __init__(self, path):
        self.path = path

    def __call__(self, *state):
        Trouble.store(*state)
        with open(self.path, "a") as file:
            file.write(".")


@pytest.fixture
def uninterrupted(tmp_path):
    """Return a folder with a job's inputs, and result and number of stores of the whole job."""

    def run(kind, **changes):
        job = Job(tmp_path / "inputs", kind, **changes)
        job = Job(tmp_path / "whole", kind, job.folder, **changes)
        counted = tmp_path / "counted"
        status, told = job(Count(counted))
        assert status == 0, told
        for name in ("result.csv", "result.nc", "train.json"):
            if (job.folder / name).is_file():
                check_described(job.folder / name)
        return tmp_path / "inputs", job.result(), len(counted.read_text())

    return run


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def fill(path):
    """Leave no room on the disk of a file."""
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


ALL = ("training", *KERNELS, "Langevin dynamics")


@pytest.mark.parametrize("kind", ALL)
def test_a_job_killed_at_any_store_continues_to_the_same_bits(tmp_path, uninterrupted, kind):
    inputs, whole, stores = uninterrupted(kind)
    assert stores > 5
    continued = 0
    for number in (stores // 3, stores - 5):
        folder = tmp_path / str(number)
        job = Job(folder, kind, inputs)
        assert job(Trouble(number, kill)) == (-signal.SIGKILL, "")
        status, told = job()
        assert status == 0, told
        assert job.result() == whole
        assert not (folder / "results/.partial").exists() or not any(
            path.is_file() for path in (folder / "results/.partial").rglob("*")
        )
        continued += job.words in job.log()
    assert continued >= 1


@pytest.mark.parametrize("kind", ["training", "kernel"])
def test_a_job_told_to_stop_says_so_and_continues_to_the_same_bits(tmp_path, uninterrupted, kind):
    """SIGTERM with a grace period, as at a cluster's time limit."""
    inputs, whole, stores = uninterrupted(kind)
    job = Job(tmp_path / "stopped", kind, inputs)
    status, told = job(Trouble(stores // 2, terminate))
    assert status == 128 + signal.SIGTERM
    assert "stopped by SIGTERM" in told and "same command continues" in told
    assert len(told.strip().splitlines()) == 1
    assert job()[0] == 0 and job.result() == whole
    assert job.words in job.log()


@pytest.mark.parametrize("allocate", [np.empty, torch.empty])
@pytest.mark.parametrize("kind", ["training", "kernel"])
def test_a_job_without_memory_says_so_and_continues_to_the_same_bits(
    tmp_path, uninterrupted, kind, allocate
):
    """The system refuses an allocation; that it kills the job is tested below.

    Memory is refused from one moment on, not kept scarce before: there oneDNN and BLAS try other
    algorithms first, whose results round differently.
    """
    inputs, whole, stores = uninterrupted(kind)
    job = Job(tmp_path / "small", kind, inputs)
    status, told = job(Trouble(stores // 2, functools.partial(allocate, 2**50)))
    assert status == 1, told
    assert "the memory does not suffice" in told and "kernel.memory_gb" in told
    assert "same command continues" in told and "Traceback" not in told
    assert job()[0] == 0 and job.result() == whole
    assert job.words in job.log()


GROUPS = Path("/sys/fs/cgroup")


@pytest.fixture
def small_memory():
    """Return the folder of a control group whose processes together get 50 MB."""
    second = (GROUPS / "cgroup.controllers").exists()  # else version 1, with a tree for memory
    group = (GROUPS if second else GROUPS / "memory") / f"speedlimits{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("groups with little memory can be made by root on Linux only")
    try:
        (group / ("memory.max" if second else "memory.limit_in_bytes")).write_text("50000000")
        yield group
    except OSError:
        pytest.skip("this system gives such groups no limit of memory")
    finally:
        group.rmdir()


def use_memory(group):
    """Touch memory, within a group, until its limit: there the system chooses whom to kill."""
    (group / "cgroup.procs").write_text(str(os.getpid()))
    parts = []
    while len(parts) < 1000:
        parts.append(np.ones(10**6))


@pytest.mark.parametrize("kind", ["training", "kernel"])
def test_a_job_that_the_system_kills_for_its_memory_continues_to_the_same_bits(
    tmp_path, uninterrupted, small_memory, kind
):
    inputs, whole, stores = uninterrupted(kind)
    job = Job(tmp_path / "starved", kind, inputs)
    status, _ = job(Trouble(stores // 2, functools.partial(use_memory, small_memory)))
    assert status == -signal.SIGKILL
    counted = [small_memory / "memory.events", small_memory / "memory.oom_control"]
    told = "".join(path.read_text() for path in counted if path.exists())
    assert "oom_kill 1" in told.splitlines(), told
    assert job()[0] == 0 and job.result() == whole
    assert job.words in job.log()


@pytest.fixture
def small_disk(tmp_path):
    """Return a folder that is a file system of its own, of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    mounted = sys.platform == "linux" and subprocess.run(command, capture_output=True)
    if not mounted or mounted.returncode:
        pytest.skip("a small file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("kind", ["training", "kernel", "Langevin dynamics"])
def test_a_job_on_a_full_disk_says_so_and_continues_to_the_same_bits(
    small_disk, uninterrupted, kind
):
    inputs, whole, stores = uninterrupted(kind)
    job = Job(small_disk, kind, inputs)
    filler = small_disk / "filler"
    status, told = job(Trouble(stores // 2, functools.partial(fill, filler), before=True))
    assert status == 1
    assert "the disk is full" in told and "make room" in told, told
    assert "same command continues" in told and "Traceback" not in told
    assert job()[0] == 1  # still no room: nothing is lost by trying
    filler.unlink()
    status, told = job()
    assert status == 0, told
    assert job.words in job.log()
    assert job.result() == whole


def test_states_that_take_long_to_write_are_written_seldom(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(trajectory.time, "monotonic", lambda: clock.now)
    written = []

    def store(*_):
        written.append(clock.now)
        clock.now += 30.0

    monkeypatch.setattr(trajectory, "_save", store)
    partway = trajectory.Partway(tmp_path, "kernels")
    size = 10**10  # bytes, written in 30 s
    while clock.now < 4000:
        clock.now += 1.0
        partway.offer(size, dict)
    first = size / trajectory.SLOW_DISK / trajectory.WRITE_SHARE
    assert written[0] == pytest.approx(first, abs=1)
    assert written[1] - written[0] == pytest.approx(30 + 30 / trajectory.WRITE_SHARE, abs=1)
    written.clear()
    partway, begin = trajectory.Partway(tmp_path, "kernels"), clock.now
    clock.now += trajectory.CHECKPOINT_SECONDS
    partway.offer(1000, dict)
    assert written == [begin + trajectory.CHECKPOINT_SECONDS]


def test_an_unreadable_state_is_not_used(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trajectory, "CHECKPOINT_SECONDS", -1.0)
    partway = trajectory.Partway(tmp_path / "one", "kernels")
    assert partway.load() is None
    partway.offer(-1, lambda: {"done": 3})
    assert partway.load() == {"done": 3}
    partway.path.write_bytes(partway.path.read_bytes()[:-10])
    assert partway.load() is None and "cannot be used" in capsys.readouterr().out
    other = trajectory.Partway(tmp_path / "other", "kernels")
    other.offer(-1, lambda: {"done": 4})
    shutil.copy(other.path, partway.path)
    assert partway.load() is None and "of another job" in capsys.readouterr().out
    partway.path.unlink()
    partway.path.mkdir()  # where a state belongs
    assert partway.load() is None
    partway.offer(-1, lambda: {"done": 5})
    assert partway.load() == {"done": 5}


def test_a_state_with_any_byte_altered_is_whole_or_unreadable(tmp_path, monkeypatch):
    monkeypatch.setattr(trajectory, "CHECKPOINT_SECONDS", -1.0)
    partway = trajectory.Partway(tmp_path, "kernels")
    partway.offer(-1, lambda: {"done": 3, "sums": np.linspace(0, 1, 9)})
    sound, known = partway.path.read_bytes(), partway.load()
    for place, byte in enumerate(sound):
        for other in {byte ^ 1, byte ^ 0x80}:
            partway.path.write_bytes(sound[:place] + bytes([other]) + sound[place + 1 :])
            found = partway.load()
            assert found is None or str(found) == str(known), place
