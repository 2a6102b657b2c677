"""Run an evolution through its snapshot times, so that it can be killed, continued and extended.

Everything unfinished lies in a stage folder outside the declared outputs, whose name is a digest of
all that decides the result: Snakemake deletes declared outputs, and a stage of other settings must
never be continued. A finished stage is kept under a digest of all but the final time, so that a
longer run starts where it ended.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.files import UNFINISHED, remove, replaced
from pipeline.interruption import at_step_ends, stop
from pipeline.log import Progress
from speedlimits.dynamics import Evolution, GradientFlow

CHECKPOINT_SECONDS = 20.0  # own choice: little to lose, and writing takes milliseconds
WRITE_SHARE = 0.05  # own choice: of a job's time, for states that take long to write
SLOW_DISK = 2e8  # bytes per second, own choice: what is assumed until a write has been measured
Recorder = Callable[[Evolution], dict[str, float | NDArray]]
CHECKPOINT = "checkpoint.npz"
# what reading an altered npz file raises
UNREADABLE = (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile)


def stage_folder(parts: dict[str, Any], root: str | Path = UNFINISHED) -> Path:
    """Return the stage folder of a job, keyed by all that decides its result.

    Args:
        parts: settings, seeds, code digest, digests of the inputs.
        root: where stages lie.

    Returns:
        The folder; whoever writes into it makes it.
    """
    text = json.dumps(parts, sort_keys=True)
    return Path(root) / hashlib.sha256(text.encode()).hexdigest()[:32]


def _save(path: Path, content: dict[str, Any], owner: str) -> None:
    """Write arrays to an npz file of a job, which appears when it is complete.

    The job and the file's name are the last array: where they are, none is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        remove(path)  # somebody else's: the job would fail on it every time
    with replaced(path) as partial, open(partial, "wb") as file:
        np.savez(file, **content, belongs_to=f"{owner}/{path.name}")
        file.flush()
        os.fsync(file.fileno())


def _load(path: Path, owner: str) -> dict[str, NDArray]:
    """Return the arrays of an npz file, read into memory.

    Raises:
        ValueError: if they are not all there, or are those of another job or another file.
    """
    with np.load(path, allow_pickle=False) as content:
        found = {name: content[name] for name in content.files}
    if str(found.pop("belongs_to", "")) != f"{owner}/{path.name}":
        raise ValueError(f"{path.name} is incomplete or of another job")
    return found


def remembered(
    stage: Path, name: str, compute: Callable[[], dict[str, NDArray]]
) -> dict[str, NDArray]:
    """Return the arrays of one part of a job, computed now or by a job that was killed later.

    Args:
        stage: folder of ``stage_folder``.
        name: of the part.
        compute: returns the arrays; they are stored only if that took long enough to be missed,
            and no longer to be written: a GPU computes a kernel of 20 GB faster than a disk holds.

    Returns:
        Name -> array.
    """
    path = stage / f"{name}.npz"
    if path.is_file():
        with contextlib.suppress(*UNREADABLE):
            found = _load(path, stage.name)
            print(f"{name}: taken from a job that was killed")
            return found
    start = time.monotonic()
    found = compute()
    seconds = time.monotonic() - start
    size = sum(np.asarray(array).nbytes for array in found.values())
    if seconds > CHECKPOINT_SECONDS and size < SLOW_DISK * seconds:
        _save(path, found, stage.name)
        remove(Partway(stage, name).path)
    return found


class Partway:
    """State of one part of a job, kept now and then so that a killed job continues half-way.

    A state is written when the one before is ``CHECKPOINT_SECONDS`` old, and if writing takes long
    so seldom that it takes ``WRITE_SHARE`` of the time: the state of a kernel of 10 GB, written in
    20 s, every 400 s. That is what a kill loses at most, besides the sweep of one pass.

    Args:
        stage: folder of ``stage_folder``.
        name: of the part, as for ``remembered``, which removes the state with the part's end.
    """

    def __init__(self, stage: Path, name: str):
        self.path = stage / f"{name}_partway.npz"
        self._last_save = time.monotonic()
        self._seconds_per_byte = 1 / SLOW_DISK

    def load(self) -> dict[str, NDArray] | None:
        """Return the arrays of the last state, None without one that can be read."""
        if not self.path.is_file():
            return None
        try:
            found = _load(self.path, self.path.parent.name)
        except UNREADABLE as error:
            print(f"the state {self.path} cannot be used ({error}); starting anew")
            return None
        print(f"continuing half-way what a killed job computed: {self.path.stem}")
        return found

    def offer(self, size: int, state: Callable[[], dict[str, Any]]) -> None:
        """Write a state if it is time to.

        Args:
            size: bytes of the state.
            state: returns its arrays; called only if they are written.
        """
        start = time.monotonic()
        wait = max(CHECKPOINT_SECONDS, size * self._seconds_per_byte / WRITE_SHARE)
        if start - self._last_save < wait:
            return
        _save(self.path, state(), self.path.parent.name)
        self._last_save = time.monotonic()
        self._seconds_per_byte = (self._last_save - start) / max(size, 1)


class StagedTrajectory:
    """Snapshots of an evolution, kept in a stage folder until all are there.

    Args:
        evolution: at its start.
        times: snapshot times after the start, increasing, shape (M,).
        recorder: called at every snapshot; returns numbers or arrays to keep beside the weights.
        stage: folder of ``stage_folder``, keyed by all that decides the result.
        finished: where the stage goes once it is complete, keyed by all but the final time; a
            stage of a run no longer than this one that lies there is continued. None keeps nothing.
    """

    def __init__(
        self,
        evolution: Evolution,
        times: NDArray,
        recorder: Recorder,
        stage: Path,
        finished: Path | None = None,
    ):
        self.evolution = evolution
        self.times = np.asarray(times, float)
        self.recorder = recorder
        self.stage = stage
        self.finished = finished
        self.owner = (finished or stage).name  # the same for all final times
        self.next_snapshot = 0
        self.last_save = time.monotonic()

    def run(self) -> dict[str, NDArray]:
        """Evolve through all times, continuing from the stage if it holds a checkpoint.

        Returns:
            weights (M + 1, P) float64 with the start first, and each recorded number (M + 1,) or
            array (M + 1, ...).

        Raises:
            Interrupted: after storing the state, if the job is told to stop.
            DivergenceError: of the evolution; ``recorded`` has the snapshots before it.
        """
        if not (self._resume() or self._continue_finished_run()):
            remove(self.stage)  # what no checkpoint vouches for
            self._take_snapshot()
        self._progress = Progress(self._work(self.times[-1]))
        with at_step_ends() as told_to_stop:
            self._told_to_stop = told_to_stop
            while self.next_snapshot <= len(self.times):
                self.evolution.advance(self.times[self.next_snapshot - 1], self._on_step)
                self._take_snapshot()
        return self.recorded()

    def recorded(self) -> dict[str, NDArray]:
        """Return the snapshots so far, as ``run`` does in the end."""
        found: dict[str, NDArray] = {}
        for number in range(self.next_snapshot):
            for name, value in _load(self._snapshot_path(number), self.owner).items():
                if number == 0:  # one array each: weights may be most of what the memory holds
                    found[name] = np.empty((self.next_snapshot, *value.shape), value.dtype)
                found[name][number] = value
        return found

    def finish(self) -> None:
        """Keep the stage for longer runs, or remove it; to be called once its result is stored."""
        if self.finished is None or self._reach(self.finished) >= self.times[-1]:
            remove(self.stage)
            return
        remove(self.finished)
        self.finished.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(self.stage, self.finished)
        except OSError:  # a run to another final time was quicker
            remove(self.stage)
        with contextlib.suppress(OSError):
            self.stage.parent.rmdir()  # if this was the last one

    def _reach(self, folder: Path) -> float:
        """Return the final time of a kept stage, 0 if there is none."""
        try:
            return float(_load(folder / CHECKPOINT, self.owner)["times"][-1])
        except UNREADABLE:
            return 0.0

    def _snapshot_path(self, number: int) -> Path:
        return self.stage / f"snapshot_{number:05d}.npz"

    def _take_snapshot(self) -> None:
        evolution = self.evolution
        record = {
            "time": evolution.time,
            "train_loss": evolution.loss,
            "gradient_norm": evolution.gradient_norm,
            "path_length": evolution.path_length,
            "action": evolution.action,
            "velocity_noise": evolution.velocity_noise,
            "geodesic_length": evolution.displacement.norm().item(),
            "gradients": evolution.gradients,
            "kinetic_energy": evolution.kinetic_energy,
            **self.recorder(evolution),
        }
        weights = evolution.weights.cpu().numpy()
        path = self._snapshot_path(self.next_snapshot)
        _save(path, {"weights": weights, **record}, self.owner)
        self.next_snapshot += 1
        print(
            f"snapshot {self.next_snapshot} of {len(self.times) + 1}: time {record['time']:.4g}, "
            f"loss {record['train_loss']:.5g}, {self._inefficiency_text(record)}, "
            f"{record['gradients']} gradients"
        )
        self._checkpoint()

    @functools.cached_property
    def _start_loss(self) -> float:
        return float(_load(self._snapshot_path(0), self.owner)["train_loss"])

    def _on_step(self, evolution: Evolution) -> None:
        self._progress.update(self._work(evolution.time), self._state_text)
        if self._told_to_stop() is not None:
            self._checkpoint()
            raise stop(
                f"at time {evolution.time:.6g}, step {evolution.steps}, and its state stored"
            )
        if time.monotonic() - self.last_save > CHECKPOINT_SECONDS:
            self._checkpoint()

    def _work(self, reached: float) -> float:
        """Return the gradients to a time, up to a factor: its root for flow, whose steps grow."""
        return math.sqrt(reached) if isinstance(self.evolution, GradientFlow) else reached

    def _state_text(self) -> str:
        """Return training time, loss and current inefficiency in words."""
        evolution = self.evolution
        length = evolution.displacement.norm().item()
        record = {
            "time": evolution.time,
            "train_loss": evolution.loss,
            "geodesic_length": length,
        }
        return (
            f"time {evolution.time:.4g} of {self.times[-1]:.4g}, loss {evolution.loss:.5g}, "
            f"{self._inefficiency_text(record)}"
        )

    def _inefficiency_text(self, record: dict[str, float]) -> str:
        """Return the current inefficiency in words; nothing at the start.

        At a temperature the loss drop of one trajectory bounds nothing: its displacement is told.
        """
        length = record["geodesic_length"]
        if length == 0:
            return "start"
        if getattr(self.evolution, "temperature", 0.0) > 0:
            return f"displacement {length:.4g}"
        drop = self._start_loss - record["train_loss"]
        return f"inefficiency {record['time'] * drop / length**2:.4g}"

    def _checkpoint(self) -> None:
        state = {
            f"state_{name}": value.cpu().numpy() if isinstance(value, torch.Tensor) else value
            for name, value in self.evolution.state().items()
        }
        content = {"next_snapshot": self.next_snapshot, "times": self.times, **state}
        _save(self.stage / CHECKPOINT, content, self.owner)
        self.last_save = time.monotonic()

    def _resume(self) -> bool:
        path = self.stage / CHECKPOINT
        if not path.is_file():
            return False
        try:
            content = _load(path, self.owner)
            if not np.array_equal(content["times"], self.times):
                raise ValueError("it is of a run to another time")
            for number in range(int(content["next_snapshot"])):
                _load(self._snapshot_path(number), self.owner)
        except UNREADABLE as error:
            print(f"the checkpoint {path} cannot be used ({error}); starting anew")
            return False
        self._restore(content)
        print(f"continuing an interrupted run at time {self.evolution.time:.6g}")
        return True

    def _continue_finished_run(self) -> bool:
        """Continue from the end of a run to this or a shorter time with the same snapshot times.

        A run to this time is one whose result was lost after its end. The last time of a shorter
        one may lie beside the grid; that snapshot is left out. The evolution itself does not depend
        on where it is read off, so that this gives the bits of a run from the start.

        Returns:
            Whether one was found.
        """
        if self.finished is None or not 0.0 < self._reach(self.finished) <= self.times[-1]:
            return False
        try:
            content = _load(self.finished / CHECKPOINT, self.owner)
            theirs = content["times"]
            count = int((theirs[: len(self.times)] == self.times[: len(theirs)]).cumprod().sum())
            lost = np.array_equal(theirs, self.times)
            if not lost and (count < len(theirs) - 1 or self.times[count] <= theirs[-1]):
                return False  # another grid
            remove(self.stage)
            self.stage.mkdir(parents=True)
            for number in range(count + 1):
                path = self._snapshot_path(number)
                _load(self.finished / path.name, self.owner)
                shutil.copyfile(self.finished / path.name, path)
        except UNREADABLE as error:
            print(f"the state in {self.finished} cannot be used ({error}); starting anew")
            return False
        self._restore(content)
        self.next_snapshot = count + 1
        self._checkpoint()
        if lost:
            print(f"taken from a finished run to time {theirs[-1]:.6g}, kept in {self.finished}")
        else:
            print(f"extending a finished run that ended at time {theirs[-1]:.6g}")
        return True

    def _restore(self, content: dict[str, NDArray]) -> None:
        """Set the evolution to a checkpoint."""
        state = {
            name.removeprefix("state_"): torch.from_numpy(value) if value.ndim else value.item()
            for name, value in content.items()
            if name.startswith("state_")
        }
        self.evolution.load_state(state)
        self.next_snapshot = int(content["next_snapshot"])
