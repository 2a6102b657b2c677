"""A script's log: versions, machine, progress with a remaining time, memory, any traceback.

On a terminal the progress is also shown there, one line per job now and then, under the job's
name; nothing is shown where the standard error is a file or the variable CI is set.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import os
import platform
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from pipeline.interruption import Interrupted, sole_process, stoppable, system_sentence
from pipeline.running_code import check_loaded

PACKAGES = ("torch", "numpy", "scipy", "xarray", "zarr", "snakemake")
TERMINAL_SECONDS = 15.0  # own choice: eight jobs at once add a line every two seconds
A_DAY = 86400.0  # seconds; an end beyond is told by its date
LONGEST = 1e9  # seconds that are told as left, 30 years
PEAK_GPU = "peak GPU memory"  # how a log names it; the benchmark summary looks for it

_terminal: TextIO | None = None  # where progress is shown beside the log
_job = ""  # the job's name there
_start = 0.0  # when it started


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def machine() -> str:
    """Return host, processor, its cores and the memory of the machine, in a few words."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        named = next(line for line in lines if line.startswith("model name"))
        processor = named.split(":", 1)[1].strip()
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{platform.node()}, {processor}, {os.cpu_count()} cores, {gigabytes:.0f} GB"


def peak_memory() -> str:
    """Return the peak memory of this process, and of the GPU where one was used, in MB."""
    told = f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        told += f", {PEAK_GPU} {torch.cuda.max_memory_allocated() / 1e6:.0f} MB"
    return told


def job_name(path: str | Path) -> str:
    """Return what a job is called on the terminal, from its log: ``train0 digits n64 myrtle5``."""
    parts = Path(path).with_suffix("").parts
    folders = parts[parts.index("logs") + 1 : -1] if "logs" in parts else ()
    return " ".join([parts[-1], *(folder.split("-")[0] for folder in folders[1:4])])


@contextlib.contextmanager
def logged(path: str) -> Iterator[None]:
    """Send prints to a log file; on an error leave the traceback there and one sentence on stderr.

    The job holds its lock meanwhile, and stops in an orderly way on SIGTERM, SIGINT, or when its
    Snakemake is killed (``pipeline.interruption``).

    Args:
        path: log file of the rule.

    Yields:
        None; the body of the script runs inside.

    Raises:
        SystemExit: if the body raised or was stopped, so that the rule fails without a second
            traceback on the terminal.
    """
    terminal = sys.stderr
    gc.freeze()  # nothing that imports created becomes garbage
    gc.enable()

    def tell(text: str) -> None:
        with contextlib.suppress(OSError):  # who started this job may be gone
            print(text, file=terminal, flush=True)

    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with stoppable(), sole_process(path, tell), _log_file(path, tell):
            yield
    except Interrupted as stopped:
        tell(f"\n{stopped}")
        raise SystemExit(stopped.status) from None
    except OSError as error:
        if not isinstance(error.__context__, SystemExit):  # else the log alone could not be closed
            tell(f"\n{system_sentence(error) or error}")
        raise SystemExit(1) from None


@contextlib.contextmanager
def _log_file(path: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Send prints to a log file, and errors as one sentence to ``tell``.

    Raises:
        Interrupted: as the body raised it.
        SystemExit: if the body raised any other error.
    """
    global _terminal, _job, _start
    terminal = sys.stderr
    shown = terminal is not None and terminal.isatty() and not os.environ.get("CI")
    _terminal, _job = (terminal if shown else None), job_name(path)
    with open(path, "w", buffering=1, encoding="utf-8") as log:
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            told = ", ".join(f"{name} {version}" for name, version in versions().items())
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} start: {told}")
            print(f"machine: {machine()}")
            start = _start = time.monotonic()
            try:
                checked = check_loaded()
                yield
                check_loaded(besides=checked)  # what was loaded meanwhile
            except Interrupted as stopped:
                print(stopped)
                raise
            except Exception as error:
                sentence = system_sentence(error) or f"{type(error).__name__}: {error}"
                with contextlib.suppress(OSError):  # the disk may be full
                    traceback.print_exc(file=log)
                    print(sentence)
                tell(f"\n{sentence}\n(traceback in {path})")
                raise SystemExit(1) from None
            finally:
                _terminal = None
            seconds = time.monotonic() - start
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            print(f"{now} done after {seconds:.1f} s, {peak_memory()}")


def announce(text: str) -> None:
    """Print what is computed next, where no share of it can be told; also on the terminal.

    Args:
        text: what it is, with its size.
    """
    print(text)
    if _terminal is not None and time.monotonic() - _start >= TERMINAL_SECONDS:
        print(f"{_job}: {text}", file=_terminal, flush=True)


class Progress:
    """Print how far a long computation is and when it will end, at most every few seconds.

    Args:
        total: amount of work, in any unit in which it takes equal times.
        every: least seconds between two lines of the log (own choice: readable under ``tail -f``).
    """

    def __init__(self, total: float, every: float = 10.0):
        self.total = total
        self.every = every
        self.start = self.last = self.last_shown = time.monotonic()
        self.first_done: float | None = None

    def update(self, done: float, text: Callable[[], str]) -> None:
        """Print a line if the last one is old enough.

        Args:
            done: amount of work done, in the unit of ``total``.
            text: returns what to show behind the share; called only when a line is printed.
        """
        now = time.monotonic()
        if self.first_done is None:
            self.first_done = done
        if now - self.last < self.every or done <= self.first_done:
            return
        self.last = now
        remaining = (now - self.start) * (self.total - done) / (done - self.first_done)
        remaining = min(remaining, LONGEST)  # hardly begun; a calendar ends somewhere
        form = "%H:%M" if remaining < A_DAY else "%Y-%m-%d"
        end = time.strftime(form, time.localtime(time.time() + remaining))
        line = (
            f"{100 * done / self.total:5.1f} % {text()}, elapsed {_clock(now - self.start)}, "
            f"left {_clock(remaining)}, ends {end}"
        )
        print(line)
        if _terminal is not None and now - self.last_shown >= TERMINAL_SECONDS:
            self.last_shown = now
            print(f"{_job}: {line}", file=_terminal, flush=True)


def _clock(seconds: float) -> str:
    """Return seconds as h:mm:ss."""
    minutes, seconds = divmod(round(max(seconds, 0.0)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
