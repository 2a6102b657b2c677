"""Continue after a killed Snakemake: remove the lock that it left, if nobody can hold it.

Snakemake locks its folder with plain files, which outlive a killed process, and then asks for
``--unlock``. Every Snakemake of this workflow also holds a lock of the operating system, which dies
with it. If no process holds that one, Snakemake's own lock belongs to a dead process. Locks of the
operating system may not reach other hosts, so a lock left by another host is never removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
from pathlib import Path
from typing import Any

from pipeline.interruption import announce_launcher

_held: list[int] = []  # descriptors that stay open as long as this process lives


def register(workflow: Any) -> None:
    """Do what a Snakemake has to do before it locks its folder.

    Args:
        workflow: Snakemake's own object.
    """
    if workflow.remote_exec:  # a cluster's job: it outlives the Snakemake that submitted it
        announce_launcher()
    elif workflow.is_main_process and not workflow.dryrun:
        take_over()


def take_over(folder: str | Path = ".snakemake") -> list[Path]:
    """Register this Snakemake, and remove the lock of a dead one.

    Args:
        folder: where Snakemake keeps its state.

    Returns:
        The lock files that were removed.
    """
    announce_launcher()
    folder = Path(folder)
    removed: list[Path] = []
    with contextlib.suppress(OSError):  # no such locks here: Snakemake asks for --unlock itself
        folder.mkdir(exist_ok=True)
        file = os.open(folder / "speedlimits_owners", os.O_RDWR | os.O_CREAT, 0o644)
        _held.append(file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(file, fcntl.LOCK_SH)  # others live: whether they are in the way is
            os.lseek(file, 0, os.SEEK_END)  # for Snakemake to say
            os.write(file, f"{socket.gethostname()}\n".encode())
            return removed
        removed = _remove_stale(file, folder / "locks")
        # Another Snakemake that gets the lock between these two calls finds no lock file of ours.
        fcntl.flock(file, fcntl.LOCK_SH)
    return removed


def _remove_stale(file: int, locks: Path) -> list[Path]:
    """Return the removed lock files: all, if only this host registered before; then register."""
    here = socket.gethostname()
    hosts = set(os.read(file, 1 << 20).decode().split())
    found = sorted(locks.glob("*.lock"))
    if found and hosts and hosts != {here}:
        elsewhere = ", ".join(sorted(hosts - {here}))
        sys.stderr.write(
            f"This folder is locked by a Snakemake on {elsewhere}; make sure that it has ended, "
            "then run snakemake --unlock.\n"
        )
        return []
    if not hosts:
        found = []  # not a lock of this workflow
    for path in found:
        path.unlink(missing_ok=True)
    if found:
        sys.stderr.write("The lock of a killed Snakemake was removed; continuing.\n")
    os.ftruncate(file, 0)
    os.lseek(file, 0, os.SEEK_SET)
    os.write(file, f"{here}\n".encode())
    return found
