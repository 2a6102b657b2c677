"""Jobs that are stopped, killed, starved of disk, met by another, extended; results that change."""

import base64
import ctypes
import errno
import functools
import itertools
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import clean_states
import numpy as np
import pandas as pd
import pytest
import torch
import verify
from conftest import ROOT

from pipeline import files, interruption, workdir
from pipeline.log import logged
from pipeline.runs import Refusal
from pipeline.stores import read_json, read_netcdf, read_table, write_json, write_table
from pipeline.trajectory import Partway, StagedTrajectory, remembered, stage_folder
from speedlimits.dynamics import GradientDescent, GradientFlow, LangevinDynamics
from speedlimits.snapshots import snapshot_times


def loss(theta):
    """A quadratic and a quartic term: the speed varies over decades and no step is exact."""
    curvature = torch.logspace(0, -3, len(theta), dtype=torch.float64)
    gradient = curvature * theta + 0.1 * theta**3
    return float(0.5 * (curvature * theta) @ theta + 0.025 * (theta**4).sum()), gradient


def evolution(dynamics):
    start = torch.linspace(0.5, 2.0, 40, dtype=torch.float64)
    if dynamics == "gradient_descent":
        return GradientDescent(loss, start, 0.037)
    if dynamics == "langevin":
        return LangevinDynamics(loss, start, 0.037, 0.01, seed=5)
    return GradientFlow(loss, start, relative_tolerance=1e-3)


@pytest.mark.parametrize("dynamics", ["gradient_flow", "gradient_descent", "langevin"])
@pytest.mark.parametrize("first", [7.3, 10.0])
def test_a_longer_run_extends_a_shorter_one_to_the_same_bits(tmp_path, dynamics, first, capsys):
    def run(final, folder):
        times = snapshot_times(0.1, final, 5)
        stage = tmp_path / folder / "stage"
        staged = StagedTrajectory(
            evolution(dynamics), times, lambda e: {}, stage, tmp_path / folder / "finished"
        )
        recorded = staged.run()
        staged.finish()
        assert not stage.exists()
        return recorded

    fresh = run(93.0, "fresh")
    run(first, "extended")
    capsys.readouterr()
    extended = run(93.0, "extended")
    told = capsys.readouterr().out
    assert "extending a finished run" in told and "snapshot 2 of" not in told
    assert fresh.keys() == extended.keys()
    for name in fresh:
        np.testing.assert_array_equal(extended[name], fresh[name], err_msg=name)


@pytest.mark.parametrize("dynamics", ["gradient_flow", "gradient_descent", "langevin"])
def test_a_run_lost_after_its_end_takes_no_gradient_again(tmp_path, dynamics, capsys):
    times = snapshot_times(0.1, 9.0, 5)

    def run(evolution):
        stage, finished = tmp_path / "stage", tmp_path / "finished"
        staged = StagedTrajectory(evolution, times, lambda e: {}, stage, finished)
        recorded = staged.run()
        staged.finish()
        assert not stage.exists() and finished.exists()
        return recorded

    whole = run(evolution(dynamics))
    spent = evolution(dynamics)
    spent._evaluate = None  # whoever asks for a gradient fails
    again = run(spent)
    assert "taken from a finished run to time 9" in capsys.readouterr().out
    assert again.keys() == whole.keys()
    for name in whole:
        np.testing.assert_array_equal(again[name], whole[name], err_msg=name)


def test_a_shorter_run_leaves_the_state_of_a_longer_one(tmp_path):
    def run(evolution, final):
        times = snapshot_times(0.1, final, 5)
        stage, finished = tmp_path / "stage", tmp_path / "finished"
        staged = StagedTrajectory(evolution, times, lambda e: {}, stage, finished)
        recorded = staged.run()
        staged.finish()
        assert not stage.exists()
        return recorded

    longer = run(evolution("gradient_descent"), 20.0)
    shorter = run(evolution("gradient_descent"), 3.0)
    for name in shorter:
        np.testing.assert_array_equal(shorter[name][:-1], longer[name][: len(shorter[name]) - 1])
    spent = evolution("gradient_descent")
    spent._evaluate = None  # whoever asks for a gradient fails
    again = run(spent, 20.0)
    np.testing.assert_array_equal(again["weights"], longer["weights"])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def folder_in_place(path):
    path.unlink()
    path.mkdir()


# of a stage: what somebody does to one of its files, given that of another run beside it
DAMAGE = {
    "truncated": lambda path, other: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path, other: os.truncate(path, 0),
    "altered": lambda path, other: flip(path),
    "deleted": lambda path, other: path.unlink(),
    "a folder": lambda path, other: folder_in_place(path),
    "of another run": lambda path, other: shutil.copy(other, path),
    "of another moment": lambda path, other: shutil.copy(
        path.with_name("snapshot_00002.npz"), path
    ),
    "read-only": lambda path, other: path.chmod(0o444),
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", ["checkpoint.npz", "snapshot_00001.npz"])
@pytest.mark.parametrize("kept", ["unfinished", "finished"])
def test_stages_that_somebody_damages_cost_time_but_no_bits(tmp_path, how, name, kept):
    times = snapshot_times(0.1, 30.0, 5)

    def run(folder, until=np.inf, final=None, dynamics="gradient_flow"):
        def recorder(evolution):
            if evolution.time > until:
                raise InterruptedError
            return {}

        stage, finished = tmp_path / folder / "stage", tmp_path / folder / f"of {folder}"
        wanted = times if final is None else snapshot_times(0.1, final, 5)
        staged = StagedTrajectory(evolution(dynamics), wanted, recorder, stage, finished)
        try:
            found = staged.run()
        except InterruptedError:
            return stage
        staged.finish()
        return found if final is None else finished

    whole = run("whole")
    stop = {"until": times[4]} if kept == "unfinished" else {"final": 10.0}
    stage, other = run("one", **stop), run("two", **stop, dynamics="gradient_descent")
    DAMAGE[how](stage / name, other / name)
    found = run("one")
    assert found.keys() == whole.keys()
    for key in whole:
        np.testing.assert_array_equal(found[key], whole[key], err_msg=key)


@pytest.mark.parametrize(("seconds", "kept"), [(-1.0, 20), (1e6, 0)])
def test_a_state_is_stored_between_snapshots_where_they_are_far_apart(
    tmp_path, monkeypatch, seconds, kept
):
    monkeypatch.setattr("pipeline.trajectory.CHECKPOINT_SECONDS", seconds)
    original = StagedTrajectory._on_step

    def killed(self, evolution):
        original(self, evolution)
        if evolution.steps == 20:
            raise InterruptedError

    monkeypatch.setattr(StagedTrajectory, "_on_step", killed)
    options = np.array([100 * 0.037]), lambda e: {}, tmp_path / "stage"
    with pytest.raises(InterruptedError):
        StagedTrajectory(evolution("gradient_descent"), *options).run()
    monkeypatch.setattr(StagedTrajectory, "_on_step", original)
    resumed = StagedTrajectory(evolution("gradient_descent"), *options)
    assert resumed._resume() and resumed.evolution.steps == kept
    assert resumed.run()["gradients"].tolist() == [1, 101]


def test_another_grid_is_not_extended(tmp_path, capsys):
    for per_decade, final in ((5, 10.0), (4, 30.0)):
        staged = StagedTrajectory(
            evolution("gradient_flow"),
            snapshot_times(0.1, final, per_decade),
            lambda e: {},
            tmp_path / "stage",
            tmp_path / "finished",
        )
        staged.run()
        staged.finish()
    assert "extending" not in capsys.readouterr().out


@pytest.mark.parametrize("kept", ["unfinished", "finished"])
@pytest.mark.parametrize("dynamics", ["gradient_flow", "gradient_descent"])
def test_a_time_that_was_passed_without_a_snapshot_is_not_left_out(tmp_path, dynamics, kept):
    """Other times than those of the state: all of them are recorded, as by a run of their own."""
    earlier, later = np.array([0.37, 1.11, 11.1, 33.3]), np.array([0.37, 1.11, 5.55, 44.4])

    def run(times, folder, until=np.inf):
        def recorder(evolution):
            if evolution.time > until:
                raise InterruptedError
            return {}

        staged = StagedTrajectory(
            evolution(dynamics), times, recorder, folder / "stage", folder / "finished"
        )
        recorded = staged.run()
        staged.finish()
        return recorded

    fresh = run(later, tmp_path / "fresh")
    if kept == "unfinished":
        with pytest.raises(InterruptedError):
            run(earlier, tmp_path / "other", until=20.0)
    else:
        run(earlier[:-1], tmp_path / "other")
    found = run(later, tmp_path / "other")
    np.testing.assert_allclose(found["time"], np.append(0.0, later), rtol=1e-12)
    for name in fresh:
        np.testing.assert_array_equal(found[name], fresh[name], err_msg=name)


def test_a_state_is_stored_once_in_its_time_and_not_at_every_step_after(tmp_path, monkeypatch):
    """A clock on which every step takes a second, and 60 of them the time between two states."""
    clock, stored = types.SimpleNamespace(now=0.0), []
    original, checkpoint = StagedTrajectory._on_step, StagedTrajectory._checkpoint

    def step(self, evolution):
        clock.now += 1.0
        original(self, evolution)

    def store(self):
        stored.append(self.evolution.steps)
        checkpoint(self)

    monkeypatch.setattr("pipeline.trajectory.time.monotonic", lambda: clock.now)
    monkeypatch.setattr("pipeline.trajectory.CHECKPOINT_SECONDS", 59.5)
    monkeypatch.setattr(StagedTrajectory, "_on_step", step)
    monkeypatch.setattr(StagedTrajectory, "_checkpoint", store)
    options = np.array([200 * 0.037]), lambda e: {}, tmp_path / "stage"
    StagedTrajectory(evolution("gradient_descent"), *options).run()
    assert stored == [0, 60, 120, 180, 200]


def test_a_run_at_a_temperature_tells_its_displacement(tmp_path, capsys):
    """Its loss drop over its length bounds nothing; that of gradient descent does."""
    for dynamics, told in (("langevin", "displacement"), ("gradient_descent", "inefficiency")):
        staged = StagedTrajectory(
            evolution(dynamics), np.array([0.37]), lambda e: {}, tmp_path / dynamics
        )
        length = staged.run()["geodesic_length"][-1]
        shown = capsys.readouterr().out
        assert told in shown and (f"displacement {length:.4g}," in shown) == (
            dynamics == "langevin"
        )
        assert ("inefficiency" in shown) == (dynamics == "gradient_descent")


def test_settings_in_another_order_name_the_same_state():
    parts = {"n": 1, "settings": {"width": 2, "depth": 3}}
    again = {"settings": {"depth": 3, "width": 2}, "n": 1}
    other = {"n": 1, "settings": {"width": 3, "depth": 2}}
    assert stage_folder(parts) == stage_folder(again) != stage_folder(other)


JOB = """
import sys, time
sys.path[:0] = [{scripts!r}, {tests!r}]
from pipeline.log import logged
with logged("results/logs/job.log"):
    open("started", "w").close()
    {body}
"""


def start_job(folder, body, **environment):
    text = JOB.format(scripts=str(ROOT / "scripts"), tests=str(ROOT / "tests"), body=body)
    process = subprocess.Popen(
        [sys.executable, "-c", text],
        cwd=folder,
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (folder / "started").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


LONG_TRAINING = """
    from pathlib import Path
    from test_interruption import evolution
    from pipeline.trajectory import StagedTrajectory
    staged = StagedTrajectory(
        evolution("gradient_descent"), [1e7], lambda e: {}, Path("stage"))
    staged.run()
"""


def test_sigterm_stores_the_state_and_tells_one_sentence(tmp_path):
    process = start_job(tmp_path, LONG_TRAINING)
    while not (tmp_path / "stage/checkpoint.npz").exists():  # written at the start
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM" in told and "state stored" in told and "Traceback" not in told
    with np.load(tmp_path / "stage/checkpoint.npz") as content:
        assert content["state_steps"] > 0
    assert not (tmp_path / "results/.running").exists()


def test_a_job_stops_when_its_snakemake_is_killed(tmp_path):
    launcher = subprocess.Popen(["sleep", "100"])
    mark = interruption.process_start(launcher.pid)
    named = f"{interruption.socket.gethostname()} {launcher.pid} {mark}"
    process = start_job(tmp_path, "time.sleep(100)", **{interruption.LAUNCHER: named})
    assert process.poll() is None
    launcher.kill()
    launcher.wait()
    _, told = process.communicate(timeout=30)
    assert process.returncode != 0 and "the Snakemake that had started it was killed" in told


def test_a_process_that_nobody_has_waited_for_is_dead(tmp_path):
    """Whatever its name, which the system gives in brackets before its state and its start."""
    program = tmp_path / "S) 1 (x"
    shutil.copy(shutil.which("sleep"), program)
    process = subprocess.Popen([program, "100"])
    mark = interruption.process_start(process.pid)
    assert mark.isdigit() and int(mark) >= int(interruption.process_start(os.getpid()))
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    assert interruption.process_start(process.pid) is None
    process.wait()
    assert interruption.process_start(process.pid) is None


def test_a_snakemake_on_another_host_is_taken_to_live(monkeypatch):
    host, mark = interruption.socket.gethostname(), interruption.process_start(os.getpid())
    for name, alive in ((f"{host} {os.getpid()} {mark}", True), (f"{host} {os.getpid()} 0", False),
                        (f"not{host} {os.getpid()} 0", True)):  # fmt: skip
        monkeypatch.setenv(interruption.LAUNCHER, name)
        assert interruption.launcher_is_alive() == alive


def test_states_are_removed_only_when_no_job_runs(tmp_path, capsys):
    results, larger_disk = tmp_path / "results", tmp_path / "larger_disk"
    folders = [results / ".partial", results / ".states"]
    for stage in (larger_disk / "stage", folders[1] / "stage"):
        stage.mkdir(parents=True)
        (stage / "checkpoint.npz").write_text("")
    folders[0].symlink_to(larger_disk)
    process = start_job(tmp_path, "time.sleep(100)")
    log = tmp_path / "log"
    assert clean_states.main(folders, results, log) == 1
    assert "are running (1)" in capsys.readouterr().out and "are running (1)" in log.read_text()
    assert all((folder / "stage/checkpoint.npz").exists() for folder in folders)
    process.kill()  # its file of a lock stays
    process.communicate(timeout=30)
    assert list((results / ".running").iterdir())
    assert clean_states.main(folders, results, log) == 0
    assert folders[0].is_symlink() and not list(larger_disk.iterdir()) and not folders[1].exists()
    assert "states removed: 2" in capsys.readouterr().out
    assert clean_states.main(folders, results, log) == 0


def test_remains_of_killed_jobs_are_removed_with_the_states(tmp_path, monkeypatch, capsys):
    """Else nothing that verify says would content it once the configuration is another one."""
    monkeypatch.chdir(tmp_path)
    results, marks = Path("results"), Path(".snakemake/incomplete")
    (results / "runs/snapshots.zarr.partial").mkdir(parents=True)
    (results / "runs/ntk.nc.partial").touch()
    (results / "runs/there.json").touch()
    (results / ".partial/stage").mkdir(parents=True)
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/images.nc.partial").touch()
    (results / "data").symlink_to(tmp_path / "disk")
    for name in ("runs/snapshots.json", "runs/there.json", "long" * 80 + "/ntk_end.nc"):
        mark = marks / files.record_name(f"results/{name}", marks)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    (marks / "no mark").touch()
    told = verify.incomplete_outputs(marks)
    assert len(told) == 3
    assert sum("snakemake clean_states removes" in text for text in told) == 2
    assert clean_states.main([results / ".partial"], results, tmp_path / "log") == 0
    assert "states removed: 1; half-written results and marks of unfinished jobs: 5" in (
        capsys.readouterr().out
    )
    assert [path.name for path in (results / "runs").iterdir()] == ["there.json"]
    (kept,) = verify.incomplete_outputs(marks)  # Snakemake makes it anew
    assert kept.startswith("the job of results/runs/there.json did not finish")
    assert (marks / "no mark").exists()


def test_two_processes_never_work_on_one_job(tmp_path):
    first = start_job(tmp_path, "time.sleep(4)")
    (tmp_path / "started").unlink()
    began = time.monotonic()
    second = start_job(tmp_path, "pass")
    _, told = second.communicate(timeout=60)
    assert time.monotonic() - began > 1 and "another process still works" in told
    assert first.wait(30) == 0 and second.returncode == 0


def test_a_full_disk_is_told_in_one_sentence_and_leaves_no_partial_file(tmp_path):
    """Whatever kind of file does not fit."""
    kinds = {
        "a.csv": "write_table(pd.DataFrame(numbers), path)",
        "a.nc": "write_netcdf(xr.Dataset(numbers), path)",
        "tree.nc": "write_tree(xr.DataTree.from_dict({'b': xr.Dataset(numbers)}), path)",
        "a.zarr": "write_zarr(xr.Dataset(numbers), path)",
        "a.json": "write_json({'x': list(range(20000))}, path)",
        "a.png": "save(figure, [path], dpi=300)",
        "a.pdf": "save(figure, [path], dpi=300)",
    }
    for name in kinds:
        (tmp_path / name).write_text("old\n")
    code = f"""
import contextlib, resource, sys
sys.path.insert(0, sys.argv[1])
import numpy as np, pandas as pd, xarray as xr
from pipeline.log import logged
from pipeline.stores import *
from plots.style import new_figure, save
numbers = {{"x": ("i", np.random.default_rng(0).normal(size=10000))}}
figure, panels = new_figure(1, 1, 5, 5)
panels[0, 0].plot(numbers["x"][1])
numbers["x"] = xr.Variable(*numbers["x"])
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
for path, write in {kinds!r}.items():
    with contextlib.suppress(SystemExit), logged(f"{{path}}.log"):
        exec(write)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "scripts")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    told = [line for line in done.stderr.splitlines() if line]
    assert len(told) == 2 * len(kinds), done.stderr
    for name, sentence, where in zip(kinds, told[::2], told[1::2], strict=True):
        assert "larger than this system allows" in sentence and "make room" in sentence
        assert where == f"(traceback in {name}.log)"
        assert (tmp_path / name).read_text() == "old\n"
    assert list(tmp_path.glob("*.partial")) == []


@pytest.mark.parametrize("place", ["a folder", "below a file"])
def test_a_place_that_is_taken_is_named(tmp_path, place):
    """A folder where a result belongs, and a file where its folder does."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("something")
    path = tmp_path / ("folder" if place == "a folder" else "file/result")
    with pytest.raises(OSError) as found, files.recorded(path) as partial:
        partial.write_text("result")
    told = interruption.system_sentence(found.value)
    assert told.startswith(str(path)) and "move it away" in told and "\n" not in told


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_every_kind_of_full_disk_is_known(tmp_path, monkeypatch, capsys, code):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit), logged("job.log"):
        try:
            raise OSError(code, os.strerror(code), "table.csv")
        finally:
            None.close()  # what a library does that closes a file it could not write
    told = capsys.readouterr().err
    assert "table.csv" in told and "make room" in told


def test_a_full_disk_that_a_library_hides_on_purpose_is_not_told():
    try:
        try:
            raise OSError(errno.ENOSPC, "full")
        except OSError:
            raise ValueError("no number") from None
    except ValueError as error:
        assert interruption.system_sentence(error) is None


def test_a_place_that_can_only_be_read_is_named():
    told = interruption.system_sentence(OSError(errno.EROFS, "read-only", "place"))
    assert told.startswith("place: this can only be read: choose another folder")


def test_a_renaming_that_is_refused_names_its_goal():
    error = OSError(errno.EACCES, "refused", "from", None, "to")
    assert interruption.system_sentence(error).startswith("to: you may not read or write this")
    assert interruption.system_sentence(OSError(errno.EACCES, "refused")) is None


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (MemoryError("Unable to allocate 8 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA out of memory.\nTried to allocate 2 GiB"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("shapes do not match"), False),
    ],
)
def test_every_way_to_say_that_memory_does_not_suffice_is_known(error, known):
    told = interruption.system_sentence(error)
    assert (told is not None) == known
    assert not known or told.startswith("the memory does not suffice") and "\n" not in told


def test_a_lock_that_is_waited_for_is_told_once_and_that_of_a_removed_file_is_none(
    tmp_path, monkeypatch
):
    """Its holder ends at the third look, and removes the file once it is open elsewhere."""
    path, told, looks = tmp_path / ".running/job", [], []
    holder, flock = interruption._locked(path, None), interruption.fcntl.flock

    def look(_):
        looks.append(1)
        if len(looks) == 3:
            os.close(holder)

    def removed_first(file, operation):
        if len(looks) == 3 and path.exists() and not told[1:]:
            told.append("removed")
            path.unlink()
        flock(file, operation)

    monkeypatch.setattr(interruption, "time", types.SimpleNamespace(sleep=look))
    monkeypatch.setattr(interruption.fcntl, "flock", removed_first)
    file = interruption._locked(path, lambda: told.append("waiting"))
    assert told == ["waiting", "removed"] and len(looks) == 3
    assert os.path.samestat(os.fstat(file), path.stat())
    os.close(file)


def test_jobs_are_counted_by_their_locks_but_not_by_who_counts_too(tmp_path, monkeypatch):
    running, fcntl = tmp_path / ".running", interruption.fcntl
    file = interruption._locked(running / "job", None)
    with (running / "other").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)  # as whoever counts takes it
        assert interruption.working(tmp_path) == 1
    os.close(file)
    assert interruption.working(tmp_path) == 0

    def no_locks(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert interruption.working(tmp_path) == 0
    assert interruption._locked(running / "job", None) is None


def test_a_long_part_of_a_killed_job_is_not_repeated(tmp_path, monkeypatch):
    calls = []

    def compute():
        calls.append(1)
        return {"kernel": np.eye(3) / 3}

    for _ in range(2):
        remembered(tmp_path / "stage", "kernel", compute)
    assert len(calls) == 2 and not (tmp_path / "stage").exists()  # short parts cost nothing
    monkeypatch.setattr("pipeline.trajectory.CHECKPOINT_SECONDS", -1.0)
    partway = Partway(tmp_path / "stage", "kernel")
    partway.offer(-1, lambda: {"done": 1})
    assert partway.path.exists()
    found = [remembered(tmp_path / "stage", "kernel", compute) for _ in range(2)]
    assert len(calls) == 3 and not partway.path.exists()  # the whole takes its place
    np.testing.assert_array_equal(found[0]["kernel"], found[1]["kernel"])


def test_a_part_that_takes_longer_to_write_than_to_compute_is_not_kept(tmp_path, monkeypatch):
    ticks = itertools.count(0, 30)  # every part takes 30 s
    clock = types.SimpleNamespace(monotonic=functools.partial(next, ticks))
    monkeypatch.setattr("pipeline.trajectory.time", clock)
    monkeypatch.setattr("pipeline.trajectory.SLOW_DISK", 2.2)  # bytes per second: 66 in that time
    for size, kept in ((8, True), (9, False)):
        stage = tmp_path / f"stage{size}"
        remembered(stage, "kernel", functools.partial(dict, kernel=np.ones(size)))
        assert stage.exists() == kept


def test_the_lock_of_a_dead_snakemake_is_removed_and_that_of_a_living_one_is_not(tmp_path):
    code = (
        f"import sys, time; sys.path.insert(0, {str(ROOT / 'scripts')!r})\n"
        "from pipeline import workdir\n"
        "print(len(workdir.take_over('.snakemake')), flush=True)\n"
        "time.sleep(100)\n"
    )

    def snakemake():
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True
        )
        return process, int(process.stdout.readline())

    first, removed = snakemake()
    lock = tmp_path / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir()
    lock.write_text("results/x\n")
    second, while_first_lives = snakemake()
    second.kill(), second.wait()
    third, after_second_died = snakemake()
    first.kill(), first.wait(), third.kill(), third.wait()
    assert (removed, while_first_lives, after_second_died) == (0, 0, 0) and lock.exists()
    fourth, after_all_died = snakemake()
    fourth.kill(), fourth.wait()
    assert after_all_died == 1 and not lock.exists()


def test_a_snakemake_of_another_folder_with_the_same_results_is_told(tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results").symlink_to(tmp_path)
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "scripts")!r})
from pipeline.workdir import others_at_work
print(others_at_work(), flush=True)
sys.stdin.read()
"""

    def started(name):
        command = [sys.executable, "-c", code]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, cwd=tmp_path / name, **pipes)
        return process, process.stdout.readline().strip()

    first, alone = started("one")
    same, of_same = started("one")  # which has Snakemake's own locks
    second, beside = started("two")
    for process in (first, same, second):
        process.kill(), process.wait()
    third, after = started("two")
    third.kill(), third.wait()
    assert (alone, of_same, beside, after) == ("False", "False", "True", "False")
    monkeypatch.chdir(tmp_path / "one")
    assert not workdir.others_at_work("no/results")


def test_the_lock_of_another_host_or_of_another_workflow_stays(tmp_path, monkeypatch, capfd):
    lock = tmp_path / "locks/0.output.lock"
    lock.parent.mkdir()
    lock.write_text("results/x\n")
    assert workdir.take_over(tmp_path) == [] and lock.exists()
    os.close(workdir._held.pop())
    (tmp_path / "speedlimits_owners").write_text("elsewhere\n")
    assert workdir.take_over(tmp_path) == [] and lock.exists()
    os.close(workdir._held.pop())
    assert "elsewhere" in capfd.readouterr().err


def test_times_of_a_clock_that_was_ahead_move_to_before_now_in_their_order(tmp_path):
    now = time.time()
    years = {"old": -1, "newer": -0.5, "input": 80, "beside": 80, "output": 81, "deep/last": 81.5}
    for name, after in years.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
        os.utime(path, (now + after * 3.2e7,) * 2)
    assert workdir.settle_times(tmp_path) == 4
    times = {name: (tmp_path / name).stat().st_mtime for name in years}
    assert times["old"] == pytest.approx(now - 3.2e7) and max(times.values()) < time.time()
    assert times["newer"] < times["input"] == times["beside"] < times["output"] < times["deep/last"]
    assert workdir.settle_times(tmp_path) == 0


def test_a_dry_run_leaves_the_times_of_results_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("results").mkdir()
    late = Path("results/t.csv")
    late.touch()
    os.utime(late, (time.time() + 1e6,) * 2)
    for looks_only in (True, False):
        before = late.stat().st_mtime_ns
        workdir.take_over(tmp_path / "state", looks_only=looks_only)
        os.close(workdir._held.pop())
        assert (late.stat().st_mtime_ns == before) == looks_only


def test_records_of_what_made_the_results_lie_beside_them_wherever_both_go(tmp_path, monkeypatch):
    def records_reached():
        workdir.keep_records()
        path = workdir.Path(workdir.STATE, "metadata")
        assert path.is_symlink() and path.samefile("results/.metadata")
        return [record.read_text() for record in path.iterdir()]

    home, disk = tmp_path / "home", tmp_path / "disk"
    (home / ".snakemake/metadata").mkdir(parents=True)  # of a Snakemake before there was a link
    (home / ".snakemake/metadata/abc").write_text("what made it")
    monkeypatch.chdir(home)
    for _ in range(2):
        assert records_reached() == ["what made it"]
    shutil.rmtree(".snakemake")
    assert records_reached() == ["what made it"]
    os.unlink(".snakemake/metadata")
    os.mkdir(".snakemake/metadata")
    assert records_reached() == ["what made it"]
    shutil.copytree(home, tmp_path / "copy")  # which follows the link
    monkeypatch.chdir(tmp_path / "copy")
    assert records_reached() == ["what made it"]
    home.rename(tmp_path / "moved")  # and its results to a larger disk
    monkeypatch.chdir(tmp_path / "moved")
    disk.mkdir()
    shutil.move("results", disk / "results")
    workdir.Path("results").symlink_to(disk / "results")
    assert records_reached() == ["what made it"]
    shutil.rmtree(disk / "results")
    (disk / "results").mkdir()
    assert records_reached() == []


FOLDERS = [
    ("file", "results", "results is no folder; move it away"),
    ("link", "results", "results is a link to nowhere, which is not there; correct it or move it"),
    ("link", "results/runs", "results/runs is a link to nowhere, which is not there"),
    ("locked", "results", "results is a folder that this user may not write to"),
    ("locked", "results/runs", "results/runs is a folder that this user may not write to"),
    ("file", ".snakemake", ".snakemake is no folder; move it away"),
    ("link", ".snakemake", ".snakemake is a link to nowhere, which is not there"),
    ("locked", "results/data/digits", "results/data/digits is a folder that this user may not"),
    (
        "locked",
        "results/logs/data/digits",
        "results/logs/data/digits is a folder that this user may not",
    ),
    ("closed", "results", "results is a folder that this user may not read"),
    ("closed", "results/data", "results/data is a folder that this user may not read"),
    ("closed", "results/studies", "results/studies is a folder that this user may not read"),
    ("closed", "results/logs/data", "results/logs/data is a folder that this user may not"),
    ("locked", ".snakemake", ".snakemake is a folder that this user may not write to"),
    ("locked", ".snakemake/locks", ".snakemake/locks is a folder that this user may not write"),
    ("locked", ".snakemake/iocache", ".snakemake/iocache is a folder that this user may not"),
    ("locked", ".", ".snakemake cannot be made, since this user may not write to its folder"),
]


def without_privileges():
    """Let the process that follows be held by permissions, of root too."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; no right: no need


@pytest.mark.parametrize(("kind", "name", "words"), FOLDERS)
def test_a_folder_that_cannot_be_written_is_told_before_any_job(tmp_path, kind, name, words):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "file":
        path.write_text("")
    elif kind == "link":
        path.symlink_to("nowhere")
    else:
        path.mkdir(exist_ok=True)
        path.chmod(0o555 if kind == "locked" else 0o000)
    target = "results/data/digits/n8-balanced-subset0.nc"
    command = [sys.executable, "-m", "snakemake", "--cores", "1", target, "--directory", tmp_path]
    command += ["--configfile", ROOT / "config.yaml", ROOT / "tests/miniature.yaml"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, preexec_fn=without_privileges, timeout=90
    )
    path.chmod(0o755) if kind in ("locked", "closed") else None
    told = done.stdout + done.stderr
    assert done.returncode != 0 and "Traceback" not in told, told
    assert len([line for line in told.splitlines() if words in line]) == 1, told
    assert "Reading the data set" not in told and not list(tmp_path.rglob("*.nc"))


def started_in(folder, *arguments, cores="1", **options):
    """Run snakemake on the miniature in an empty folder, with the workflow where it is."""
    command = [sys.executable, "-m", "snakemake", *arguments, "--cores", cores]
    command += ["--directory", str(folder)]
    command += ["--configfile", str(ROOT / "config.yaml"), str(ROOT / "tests/miniature.yaml")]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90, **options)


def test_a_job_that_fails_says_one_sentence_and_where_its_traceback_is(tmp_path):
    images = tmp_path / "results/data/digits/images.nc"
    images.parent.mkdir(parents=True)
    images.write_text("somebody else's")
    done = started_in(tmp_path, "results/data/digits/n8-balanced-subset0.nc")
    told = done.stdout + done.stderr
    assert done.returncode != 0 and "Traceback" not in told, told
    assert told.count("no digest of results/data/digits/images.nc is recorded") == 1, told
    log = re.search(r"\(traceback in (.*)\)", told)[1]
    assert "Traceback" in (tmp_path / log).read_text()


def test_a_copy_of_the_results_reruns_what_the_original_would(tmp_path):
    """Without the files' times, as cp -r and rsync -r make it."""
    target = "results/data/digits/n8-balanced-subset0.nc"
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    assert started_in(here, target).returncode == 0
    shutil.copytree(here / "results", there / "results", copy_function=shutil.copyfile)
    (there / "results/data/digits/images.nc").touch()  # copied last
    done = started_in(there, target, "-n")
    assert "Nothing to be done" in done.stdout + done.stderr
    done = started_in(there, target, "-n", "--config", "seed=9")
    assert "params have changed since last execution:\n        subset" in done.stdout + done.stderr


def test_no_room_for_snakemake_itself_is_told_in_one_sentence(tmp_path):
    no_room = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (60_000, 60_000))
    done = started_in(tmp_path, "results/data/digits/images.nc", preexec_fn=no_room)
    told = done.stdout + done.stderr
    assert done.returncode != 0 and "Traceback" not in told, told
    assert told.count("larger than this system allows (.snakemake): make room") == 1, told


def test_no_room_for_temporary_files_is_told_before_the_scheduler_needs_it(tmp_path, monkeypatch):
    full = tmp_path / "full"
    full.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(full)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        (full / "x").write_bytes(bytes(60_000))
        monkeypatch.setenv("TMPDIR", str(full))
        done = started_in(tmp_path, "results/data/digits/images.nc")
        told = done.stdout + done.stderr
        assert done.returncode == 1 and "Traceback" not in told, told
        assert f"the disk is full ({full}): make room" in told
        assert started_in(tmp_path, "results/data/digits/images.nc", "-n").returncode == 0
    finally:
        subprocess.run(["umount", str(full)], check=True)


def test_no_room_for_more_files_is_told_before_snakemake_makes_any(tmp_path):
    """A disk that is full of files, with space left."""
    assert workdir.room_problems(tmp_path) == [] and list(tmp_path.iterdir()) == []
    command = ["mount", "-t", "tmpfs", "-o", "size=8m,nr_inodes=10", "tmpfs", str(tmp_path)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small file system can be mounted by root only")
    try:
        (told,) = workdir.room_problems(tmp_path)
        assert "the disk is full" in told and list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_is_told_once_whatever_end_snakemake_comes_to(monkeypatch, capsys):
    """Its own handlers are not reached where it fails to record a result twice."""
    monkeypatch.setattr(workdir, "room_problems", lambda folder: [f"no room in {folder}"])
    monkeypatch.setattr(workdir, "_ended", [])
    workdir.tell_of_full_disk()
    workdir.tell_of_full_disk()  # by atexit, after its handler
    assert capsys.readouterr().err == "no room in results\n"
    monkeypatch.setattr(workdir, "_ended", [])
    workdir.end()  # all is well
    workdir.tell_of_full_disk()
    assert capsys.readouterr().err == ""


def test_what_is_done_at_the_end_knows_the_results_from_any_folder(tmp_path, monkeypatch):
    """Snakemake goes back to where it was started before Python ends."""
    monkeypatch.chdir(tmp_path)
    made = []
    monkeypatch.setattr(workdir.atexit, "register", lambda *call: made.append(call))
    monkeypatch.setattr(workdir, "_stopped", [""])
    workdir.note_start()
    assert {call[1] for call in made} == {str(tmp_path / "results")} and len(made) == 2


def test_ctrl_c_while_a_job_imports_has_no_traceback():
    code = f"""
import os, signal, sys, __main__
__main__.snakemake = None
sys.path.insert(0, {str(ROOT / "scripts")!r})
import quick_start
os.kill(os.getpid(), signal.SIGINT)
"""
    for inherited, status in ((signal.SIG_DFL, -signal.SIGINT), (signal.SIG_IGN, 0)):
        inherit = functools.partial(signal.signal, signal.SIGINT, inherited)
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, preexec_fn=inherit)
        assert done.returncode == status and done.stderr == ""  # nohup's jobs go on


def test_ctrl_c_while_jobs_are_planned_is_told_in_one_sentence(tmp_path):
    code = f"""
import sys, types
sys.path.insert(0, {str(ROOT / "scripts")!r})
from pipeline import workdir
planning = {{"is_main_process": True, "remote_exec": False, "dryrun": True}}
planning |= {{"workflow_settings": None, "workdir_init": "."}}
workdir.register(types.SimpleNamespace(basedir="/a", **planning))
raise KeyboardInterrupt
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == -signal.SIGINT
    assert done.stderr == "stopped by Ctrl-C before any job was started\n"


def test_a_workflow_in_a_folder_with_braces_is_refused():
    with pytest.raises(Refusal, match="/a/{b}/c holds braces"):
        workdir.register(types.SimpleNamespace(basedir="/a/{b}/c"))


def test_no_cores_are_refused_where_snakemake_would_wait_for_ever(tmp_path):
    done = started_in(tmp_path, "results/data/digits/images.nc", cores="0")
    told = done.stdout + done.stderr
    assert done.returncode != 0 and "Traceback" not in told
    assert "--cores is 0, with which no job can start; give at least 1" in told


@pytest.fixture
def tree(tmp_path):
    results = tmp_path / "results"
    for name in ("a", "b"):
        (results / name).mkdir(parents=True)
        write_table(pd.DataFrame({"x": [1.0, 2.0], "y": [len(name), 3]}), results / name / "t.csv")
        write_json({"name": name}, results / name / "t.json")
    return results


def test_sound_results_verify_and_open_with_pandas(tree, capsys):
    assert verify.main(tree) == 0
    assert pd.read_csv(tree / "a/t.csv")["x"].tolist() == [1.0, 2.0]
    done = subprocess.run(
        ["sha256sum", "-c", "results/.digests/a/t.csv.sha256"], cwd=tree.parent, timeout=20
    )
    assert done.returncode == 0


def test_the_target_verify_needs_no_activated_environment_and_any_folder(tree):
    command = [sys.executable, "-m", "snakemake", "verify", "--cores", "1"]
    command += ["--directory", str(tree.parent), "--configfile", str(ROOT / "config.yaml")]
    for status, words in ((0, "everything is as it was written"), (1, "has been altered")):
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=90,
        )
        told = done.stdout + done.stderr
        assert done.returncode == status and words in told and "Traceback" not in told, told
        assert words in (tree / "logs/verify.log").read_text()
        with (tree / "a/t.csv").open("a") as table:
            table.write("5,6\n")


@pytest.mark.parametrize("place", ["kept/results_2026", "kept/2026/results", "results/kept/old"])
def test_a_copy_of_results_verifies_and_opens_under_any_name(tree, place, monkeypatch, capsys):
    copy = tree.parent / place
    shutil.copytree(tree, copy)
    assert verify.main(copy) == 0
    assert read_table(copy / "a/t.csv")["x"].tolist() == [1.0, 2.0]
    monkeypatch.chdir(copy)
    assert verify.main(Path(".")) == 0
    (copy / "a/t.json").write_text("{}")
    assert verify.main(Path(".")) == 1
    assert verify.main(tree) == 0


def test_a_folder_on_another_disk_is_verified_too(tree, tmp_path, capsys):
    (tree / "a").rename(tmp_path / "disk")
    (tree / "a").symlink_to(tmp_path / "disk")
    assert verify.main(tree) == 0
    (tree / "a/x.nc.partial").touch()
    (tree / "a/x.zarr").mkdir()
    (tree / "a/own.csv").touch()
    assert verify.main(tree) == 1
    told = capsys.readouterr().out
    for words in ("x.nc.partial is half-written", "x.zarr has no manifest", "recorded about"):
        assert words in told


def test_results_without_their_records_are_told(tmp_path, tree, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert workdir.copied_without_records(tree) == []
    (tree / "a").rename(tree / "runs")
    assert len(workdir.copied_without_records(tree)) == 1  # Snakemake's are what it needs
    shutil.rmtree(tree / ".digests")
    (told,) = workdir.copied_without_records(tree)
    assert "copy .digests and .metadata too" in told
    (tree / ".metadata").mkdir()
    assert len(workdir.copied_without_records(tree)) == 1
    (tmp_path / ".snakemake/incomplete").mkdir(parents=True)
    (tmp_path / ".snakemake/incomplete/x").touch()  # a first run was killed
    assert workdir.copied_without_records(tree) == []
    (tmp_path / ".snakemake/incomplete/x").unlink()
    (tree / ".metadata/x").touch()
    assert workdir.copied_without_records(tree) == []
    (tmp_path / "new").mkdir()
    assert workdir.copied_without_records(tmp_path / "new") == []


def test_a_data_set_called_results_has_its_records_with_the_others(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table = Path("results/data/results/t.csv")
    table.parent.mkdir(parents=True)
    write_table(pd.DataFrame({"x": [1.0], "y": [2.0]}), table)
    assert files.digest_record(table) == Path("results/.digests/data/results/t.csv.sha256")
    assert verify.main(Path("results")) == 0
    table.write_text("x,y\n")
    assert verify.main(Path("results")) == 1
    with pytest.raises(files.IntegrityError, match="has been altered"):
        read_table(table.absolute())


def test_checkouts_that_share_their_results_share_the_locks_of_jobs(tmp_path, monkeypatch):
    (tmp_path / "shared").mkdir()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results").symlink_to(tmp_path / "shared")
    held = []
    for name in ("one", "two"):
        monkeypatch.chdir(tmp_path / name)
        with interruption.sole_process("results/logs/data/train0.log", held.append):
            held += [path.name for path in Path("results/.running").iterdir()]
        with interruption.sole_process("results/logs/data/train1.log", held.append):
            held += [path.name for path in Path("results/.running").iterdir()]
    assert held[:2] == held[2:] and held[0] != held[1]


def test_records_that_this_user_may_not_read_are_named_and_not_taken_for_cut_short(
    tree, capsys, monkeypatch
):
    """As of a colleague's results: a dry run would mark all for being made again."""
    monkeypatch.chdir(tree.parent)
    path = tree / files.RECORDS / base64.b64encode(b"results/a/t.csv", altchars=b"-_").decode()
    path.parent.mkdir()
    path.write_text("{}")
    assert files.unreadable_records(tree) == workdir.unreadable_record_problems() == []
    with monkeypatch.context() as patch:  # written again at this moment
        patch.setattr(files, "names_below", lambda folder: {"gone"})
        assert files.unreadable_records(tree) == []
    reading = Path.read_bytes

    def refused(at, *arguments):
        if Path(at).name == path.name:
            raise PermissionError
        return reading(at, *arguments)

    access = os.access
    theirs = lambda at, mode: access(at, mode) and Path(at).name != path.name  # noqa: E731
    monkeypatch.setattr(os, "access", theirs)
    monkeypatch.setattr(Path, "read_bytes", refused)
    assert files.snakemake_records(tree) == {}
    assert verify.main(tree) == 1
    told = capsys.readouterr().out
    assert f"{path} cannot be read (Permission denied)" in told and "cut short" not in told
    (told,) = workdir.unreadable_record_problems()
    assert "holds 1 records of results that this user may not read" in told
    assert "chmod -R a+rX results/.metadata" in told


def test_whoever_may_read_results_may_read_what_they_were_made_of(tree):
    folder = tree / files.RECORDS
    folder.mkdir()
    for name, mode in (("a", 0o660), ("b", 0o600), ("c", 0o444)):
        (folder / name).write_text("{}")
        (folder / name).chmod(mode)
    before = os.umask(0o027)
    try:
        files.open_records(tree)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {"a": 0o660, "b": 0o640, "c": 0o444}


def test_verify_names_targets_and_the_folder_that_they_are_made_in(tree, capsys, monkeypatch):
    (tree / "a/t.csv").write_text("")
    monkeypatch.chdir(tree.parent)
    assert verify.main(Path("results")) == 1
    assert "run snakemake results/a/t.csv with the options" in capsys.readouterr().out
    for folder, named in ((tree.parent.parent, f"{tree.parent.name}/results"), (tree, ".")):
        monkeypatch.chdir(folder)
        assert verify.main(Path(named)) == 1
        told = capsys.readouterr().out
        assert f"run snakemake results/a/t.csv in {tree.parent} with the options" in told


def test_truncated_altered_swapped_and_missing_files_are_named(tree, capsys):
    table, other = tree / "a/t.csv", tree / "b/t.json"
    table.write_text(table.read_text()[:-3])
    with pytest.raises(files.IntegrityError, match="a/t.csv has been altered or cut short"):
        read_table(table)
    other.write_bytes((tree / "a/t.json").read_bytes())
    with pytest.raises(
        files.IntegrityError, match="b/t.json holds the content of results/a/t.json"
    ):
        read_json(other)
    (tree / "a/t.json").unlink()
    (tree / "b/x.nc.partial").write_text("")
    marker = base64.b64encode(b"results/z.csv", altchars=b"-_").decode()
    (tree.parent / ".snakemake/incomplete").mkdir(parents=True)
    (tree.parent / ".snakemake/incomplete" / marker).write_text("{}")
    assert verify.main(tree) == 1
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 5 and not any("same command" in line for line in told)
    for words in ("cut short", "holds the content", "is missing", "half-written", "results/z.csv"):
        assert sum(words in line for line in told) == 1


def test_another_result_copied_here_with_its_digest_is_named(tree, tmp_path, capsys):
    """As a subset or a run copied to the name of another; a tree of another name is the same."""
    (tree / "a/t2.csv").write_bytes((tree / "a/t.csv").read_bytes())
    shutil.copy(files.digest_record(tree / "a/t.csv"), files.digest_record(tree / "a/t2.csv"))
    with pytest.raises(files.IntegrityError, match=r"a/t2.csv was written as results/a/t.csv, as"):
        read_table(tree / "a/t2.csv")
    assert verify.main(tree) == 1
    told = capsys.readouterr().out
    assert told.count("was written as") == 1
    again = f"run snakemake results/a/t2.csv in {tree.parent} with the options of the command"
    assert again in told
    files.digest_record(tree / "a/t2.csv").unlink()
    (tree / "a/t2.csv").unlink()
    shutil.copytree(tree, tmp_path / "backup")
    assert verify.main(tmp_path / "backup") == 0
    (tmp_path / "backup/a/t.csv").write_text("")
    capsys.readouterr()
    assert verify.main(tmp_path / "backup") == 1
    copy = f"in the folder whose results {tmp_path / 'backup'} is a copy of with the options"
    assert f"run snakemake results/a/t.csv {copy}" in capsys.readouterr().out


def test_what_verify_says_to_run_makes_an_intermediate_result_again(tree, capsys):
    """Snakemake passes over a missing file that only finished results were made from."""
    (tree / "a/t.csv").write_text("x,y\n")
    (tree / "b/t.json").unlink()
    assert verify.main(tree) == 1
    told = capsys.readouterr().out
    for name in ("a/t.csv", "b/t.json"):
        again = f"run snakemake results/{name} in {tree.parent} with the options of the command"
        assert f"{again} that made it" in told


def test_what_verify_cannot_read_is_not_said_to_be_as_written(tree, monkeypatch, capsys):
    read, listed = files.file_digest, os.scandir
    refused = OSError(errno.EACCES, "Permission denied", str(tree / "a/t.csv"))

    def digest(path):
        if Path(path) == tree / "a/t.csv":
            raise refused
        return read(path)

    monkeypatch.setattr(files, "file_digest", digest)
    assert verify.main(tree) == 1
    assert "a/t.csv cannot be read (Permission denied)" in capsys.readouterr().out
    monkeypatch.setattr(files, "file_digest", read)

    for folder in (tree / ".digests/a", tree / "b", tree):

        def scan(path, folder=folder):
            if Path(path) == folder:
                raise OSError(errno.EACCES, "Permission denied", str(path))
            return listed(path)

        monkeypatch.setattr(os, "scandir", scan)
        assert verify.main(tree) == 1
        assert f"{folder} cannot be read (Permission denied)" in capsys.readouterr().out


def test_unfinished_outputs_of_long_names_are_told(tmp_path):
    name = "results/runs/" + "long" * 80 + "/ntk_end.nc"
    mark = tmp_path / files.record_name(name, tmp_path)
    assert len(mark.relative_to(tmp_path).parts) > 1
    mark.parent.mkdir(parents=True)
    mark.touch()
    (told,) = verify.incomplete_outputs(tmp_path)
    assert told.startswith(f"the job of {name} did not finish")


def test_results_that_snakemake_made_need_their_digests(tree, monkeypatch, capsys):
    """As in a copy that was interrupted; what nobody made here is the user's own."""
    monkeypatch.chdir(tree.parent)
    results = Path("results")
    (results / "b/own.csv").touch()
    record = files.snakemake_record(results / "a/t.csv")
    record.parent.mkdir()
    record.write_text('{"rule": "table"}', encoding="utf-8")
    assert verify.main(results) == 0
    assert "everything that is recorded is as it was written" in capsys.readouterr().out
    files.digest_record(results / "a/t.csv").unlink()
    assert verify.main(results) == 1
    told = capsys.readouterr().out
    assert "no digest of results/a/t.csv is recorded, which Snakemake made" in told
    assert "note: nothing is recorded about results/b/own.csv" in told


def test_an_altered_result_is_told_beside_a_record_that_cannot_be_read(tree, monkeypatch, capsys):
    (tree / "a/t.csv").write_text("x,y\n")
    read = Path.read_text

    def refused(path, *arguments, **options):
        if path == files.digest_record(tree / "b/t.csv"):
            raise OSError(errno.EACCES, "Permission denied", str(path))
        return read(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", refused)
    assert verify.main(tree) == 1
    told = capsys.readouterr().out
    assert "a/t.csv has been altered" in told and "cannot be read (Permission denied)" in told


def test_results_without_any_digest_do_not_verify(tree, capsys):
    (tree / "page.html").touch()
    assert verify.main(tree) == 0
    assert "nothing is recorded about" in capsys.readouterr().out
    shutil.rmtree(tree / ".digests")
    assert verify.main(tree) == 1
    assert "copy without its hidden folder .digests" in capsys.readouterr().out
    for name in ("a", "b", "page.html"):
        files.remove(tree / name)
    (tree / "README.md").touch()  # of the repository: nothing was made yet
    assert verify.main(tree) == 0


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0", b"\n"])
def test_a_damaged_record_of_a_digest_is_no_record(tree, content):
    for name in ("a/t.csv", "b/t.csv"):
        files.digest_record(tree / name).write_bytes(content)
    with pytest.raises(files.IntegrityError, match="a/t.csv has been altered or cut short"):
        read_table(tree / "a/t.csv")


def test_a_result_without_a_recorded_digest_is_refused(tmp_path):
    (tmp_path / "x.nc").write_text("no record")
    with pytest.raises(files.IntegrityError, match="no digest of .* is recorded"):
        read_netcdf(tmp_path / "x.nc")


def test_limits_of_this_test_process_are_untouched():
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
