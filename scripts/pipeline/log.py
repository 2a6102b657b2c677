"""A script's log: versions, device, progress with a remaining time, and any traceback."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("torch", "numpy", "scipy", "xarray", "zarr", "snakemake")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


@contextlib.contextmanager
def logged(path: str) -> Iterator[None]:
    """Send prints to a log file; on an error leave the traceback there and one sentence on stderr.

    Args:
        path: log file of the rule.

    Yields:
        None; the body of the script runs inside.

    Raises:
        SystemExit: with status 1 if the body raised, so that the rule fails without a second
            traceback on the terminal.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    terminal = sys.stderr
    with open(path, "w", buffering=1, encoding="utf-8") as log:
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            told = ", ".join(f"{name} {version}" for name, version in versions().items())
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} start: {told}")
            start = time.monotonic()
            try:
                yield
            except Exception as error:
                traceback.print_exc(file=log)
                sentence = f"{type(error).__name__}: {error}"
                print(f"\n{sentence}\n(traceback in {path})", file=terminal, flush=True)
                raise SystemExit(1) from None
            seconds = time.monotonic() - start
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} done after {seconds:.1f} s")


class Progress:
    """Print how far a long computation is and when it will end, at most every few seconds.

    Args:
        total: amount of work, in any unit.
        every: least seconds between two lines (own choice: readable under ``tail -f``).
    """

    def __init__(self, total: float, every: float = 10.0):
        self.total = total
        self.every = every
        self.start = self.last = time.monotonic()
        self.first_done: float | None = None

    def update(self, done: float, text: str) -> None:
        """Print a line if the last one is old enough.

        Args:
            done: amount of work done, in the unit of ``total``.
            text: what to show behind the share.
        """
        now = time.monotonic()
        if self.first_done is None:
            self.first_done = done
        if now - self.last < self.every or done <= self.first_done:
            return
        self.last = now
        remaining = (now - self.start) * (self.total - done) / (done - self.first_done)
        share = 100 * done / self.total
        print(f"{share:5.1f} % {text} elapsed {_clock(now - self.start)}, left {_clock(remaining)}")


def _clock(seconds: float) -> str:
    """Return seconds as h:mm:ss."""
    minutes, seconds = divmod(round(max(seconds, 0.0)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
