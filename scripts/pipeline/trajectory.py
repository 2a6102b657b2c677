"""Run an evolution through its snapshot times, so that it can be killed and continued.

Everything unfinished lies in a stage folder outside the declared outputs, whose name is a digest of
all that decides the result: Snakemake deletes declared outputs, and a stage of other settings must
never be continued.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.log import Progress
from speedlimits.dynamics import Evolution, GradientFlow

CHECKPOINT_SECONDS = 20.0  # own choice: little to lose, and writing takes milliseconds
Recorder = Callable[[Evolution], dict[str, float]]


def stage_folder(parts: dict[str, Any], root: str | Path = "results/.partial") -> Path:
    """Return the stage folder of a run, keyed by all that decides its result.

    Args:
        parts: settings, seeds, code digest, digests of the inputs.
        root: where stages lie.

    Returns:
        The folder, which exists.
    """
    text = json.dumps(parts, sort_keys=True)
    folder = Path(root) / hashlib.sha256(text.encode()).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _save(path: Path, content: dict[str, Any]) -> None:
    """Write arrays to an npz file that appears when it is complete."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        np.savez(file, **content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _load(path: Path) -> dict[str, NDArray]:
    """Read an npz file into memory."""
    with np.load(path, allow_pickle=False) as content:
        return {name: content[name] for name in content.files}


class StagedTrajectory:
    """Snapshots of an evolution, kept in a stage folder until all are there.

    Args:
        evolution: at its start.
        times: snapshot times after the start, increasing, shape (M,).
        recorder: called at every snapshot; returns scalars to keep beside the weights.
        stage: folder of ``stage_folder``.
    """

    def __init__(self, evolution: Evolution, times: NDArray, recorder: Recorder, stage: Path):
        self.evolution = evolution
        self.times = np.asarray(times, float)
        self.recorder = recorder
        self.stage = stage
        self.next_snapshot = 0
        self.last_save = time.monotonic()

    def run(self) -> dict[str, NDArray]:
        """Evolve through all times, continuing from the stage if it holds a checkpoint.

        Returns:
            weights (M + 1, P) float64 with the start first, and each recorded scalar (M + 1,).
        """
        if not self._resume():
            self._take_snapshot()
        self._progress = Progress(self._work(self.times[-1]))
        while self.next_snapshot <= len(self.times):
            self.evolution.advance(self.times[self.next_snapshot - 1], self._on_step)
            self._take_snapshot()
        snapshots = [_load(self._snapshot_path(k)) for k in range(len(self.times) + 1)]
        return {name: np.stack([s[name] for s in snapshots]) for name in snapshots[0]}

    def discard(self) -> None:
        """Remove the stage, once its result is stored."""
        shutil.rmtree(self.stage, ignore_errors=True)

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
            "geodesic_length": evolution.displacement.norm().item(),
            "gradients": evolution.gradients,
            **self.recorder(evolution),
        }
        weights = evolution.weights.cpu().numpy()
        _save(self._snapshot_path(self.next_snapshot), {"weights": weights, **record})
        self.next_snapshot += 1
        print(
            f"snapshot {self.next_snapshot} of {len(self.times) + 1}: time {record['time']:.4g}, "
            f"loss {record['train_loss']:.5g}, {_inefficiency_text(record, self._start_loss)}, "
            f"{record['gradients']} gradients"
        )
        self._checkpoint()

    @functools.cached_property
    def _start_loss(self) -> float:
        return float(_load(self._snapshot_path(0))["train_loss"])

    def _on_step(self, evolution: Evolution) -> None:
        self._progress.update(self._work(evolution.time), self._state_text)
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
            f"{_inefficiency_text(record, self._start_loss)}"
        )

    def _checkpoint(self) -> None:
        state = {
            f"state_{name}": value.cpu().numpy() if isinstance(value, torch.Tensor) else value
            for name, value in self.evolution.state().items()
        }
        _save(self.stage / "checkpoint.npz", {"next_snapshot": self.next_snapshot, **state})
        self.last_save = time.monotonic()

    def _resume(self) -> bool:
        path = self.stage / "checkpoint.npz"
        if not path.is_file():
            return False
        content = _load(path)
        self.next_snapshot = int(content.pop("next_snapshot"))
        state = {
            name.removeprefix("state_"): torch.from_numpy(value) if value.ndim else value.item()
            for name, value in content.items()
        }
        self.evolution.load_state(state)
        print(f"continuing an interrupted run at time {self.evolution.time:.6g}")
        return True


def _inefficiency_text(record: dict[str, float], loss_0: float) -> str:
    """Return the current inefficiency in words; nothing at the start."""
    squared = record["geodesic_length"] ** 2
    if squared == 0:
        return "start"
    return f"inefficiency {record['time'] * (loss_0 - record['train_loss']) / squared:.4g}"
