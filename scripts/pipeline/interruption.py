"""Jobs that are told to stop, lose their Snakemake or meet one another.

* SIGTERM (a cluster's time limit or cancellation) and SIGINT (Ctrl-C) become an exception that says
  in one sentence what happened; a training job first stores its state, at the end of its step.
* A job whose Snakemake was killed stops itself in the same way, so that it cannot write while the
  next Snakemake works on the same results.
* Two processes never work on the same job: the second waits for the first.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.files import results_root

PLANNER = "SPEEDLIMITS_PLANNER_PYTHON"  # version that it ran: digests of code depend on it
LAUNCHER = "SPEEDLIMITS_LAUNCHER"  # "host pid start" of the Snakemake that started this job
RUNNING = ".running"  # in a results folder: a file a job, which holds its lock
WATCH_SECONDS = 0.5  # own choice: far less than a new Snakemake needs to start its first job
AGAIN = "the same command continues from what is stored"
FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
FULL[errno.EFBIG] = "the file is larger than this system allows"
BLOCKED = {
    errno.EISDIR: "a folder stands where a file belongs: move it away",
    errno.ENOTDIR: "a file stands where a folder belongs: move it away",
    errno.EACCES: "you may not read or write this: change its permissions",
    errno.EROFS: "this can only be read: choose another folder, snakemake --directory FOLDER",
}
# What torch on a CPU, CUDA and oneDNN say when an allocation fails; NumPy raises MemoryError.
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "could not create a primitive")


class Interrupted(BaseException):
    """The job was told to stop; no ``except Exception`` may swallow it.

    Args:
        sentence: what happened and what to do.
        status: exit status of the process.
    """

    def __init__(self, sentence: str, status: int = 128 + signal.SIGTERM):
        super().__init__(sentence)
        self.status = status


class _Stop:
    """What the signal handler knows: whether to wait for the end of a step, and who asked."""

    deferred = 0
    reason: str | None = None
    status = 0


def _handle(number: int, _frame: object) -> None:
    """Remember the signal; raise at once unless a step is to be finished first.

    Raises:
        Interrupted: unless a step is to be finished first.
    """
    name = signal.Signals(number).name
    orphaned = number == signal.SIGTERM and not launcher_is_alive()
    why = " because the Snakemake that had started it was killed" if orphaned else ""
    _Stop.reason, _Stop.status = f"the job was stopped by {name}{why}", 128 + number
    if not _Stop.deferred:
        raise Interrupted(f"{_Stop.reason}; {AGAIN}", _Stop.status)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Turn SIGTERM and SIGINT into ``Interrupted``, and stop this job when its Snakemake dies."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return
    _Stop.reason = None
    before = {number: signal.signal(number, _handle) for number in (signal.SIGTERM, signal.SIGINT)}
    over = threading.Event()
    threading.Thread(target=_watch_launcher, args=(over,), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def at_step_ends() -> Iterator[Callable[[], str | None]]:
    """Let a step finish before the job stops.

    Yields:
        Function that returns why the job has to stop, or None; to be asked after every step, and
        followed by ``Interrupted`` once the state is stored.
    """
    _Stop.deferred += 1
    try:
        yield lambda: _Stop.reason
    finally:
        _Stop.deferred -= 1


def stop(sentence: str) -> Interrupted:
    """Return the exception for a job that was told to stop and has stored its state."""
    return Interrupted(f"{_Stop.reason} {sentence}; {AGAIN}", _Stop.status)


def system_sentence(error: BaseException) -> str | None:
    """Return one sentence for what the system refuses (room, a place, memory), None for the rest.

    What fails because a library closes a file that it could not write is a full disk too.
    """
    origin: BaseException | None = error
    while origin is not None:
        if isinstance(origin, OSError) and origin.errno in FULL:
            where = f" ({origin.filename})" if origin.filename else ""
            return f"{FULL[origin.errno]}{where}: make room; what is finished is kept, and {AGAIN}"
        origin = origin.__cause__ or (None if origin.__suppress_context__ else origin.__context__)
    if isinstance(error, OSError) and error.errno in BLOCKED and error.filename:
        path = error.filename2 or error.filename  # of a renaming its goal
        return f"{path}: {BLOCKED[error.errno]}; {AGAIN}"
    if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
        return (
            f"the memory does not suffice ({' '.join(str(error).split())[:200]}): give the job "
            f"more, or lower kernel.memory_gb or n; {AGAIN}"
        )
    return None


# ---------------------------------------------------------------- the Snakemake behind a job


def process_start(pid: int) -> str | None:
    """Return a mark of when a process started, "" where the system does not say, None if dead."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return ""
    fields = stat.rpartition(")")[2].split()  # the name before it may hold blanks
    return None if fields[0] in "ZX" else fields[19]


def announce_launcher() -> None:
    """Tell the jobs that this process will start who it is."""
    os.environ[PLANNER] = python_version()
    os.environ[LAUNCHER] = f"{socket.gethostname()} {os.getpid()} {process_start(os.getpid())}"


def python_version() -> str:
    """Return for example ``3.11``."""
    return ".".join(map(str, sys.version_info[:2]))


def launcher_is_alive() -> bool:
    """Return whether the Snakemake that started this job lives, as far as this host can tell."""
    host, _, process = os.environ.get(LAUNCHER, "").partition(" ")
    pid, _, start = process.partition(" ")
    if not pid or host != socket.gethostname():
        return True
    return process_start(int(pid)) == start


def _watch_launcher(over: threading.Event) -> None:
    """Send this process SIGTERM once the Snakemake that started it is gone."""
    while not over.is_set():
        if not launcher_is_alive():
            os.kill(os.getpid(), signal.SIGTERM)
            return
        over.wait(WATCH_SECONDS)


# ---------------------------------------------------------------- one process per job


@contextlib.contextmanager
def sole_process(log: str | Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a job, after waiting for another process that works on it.

    The kernel releases the lock when its holder dies, however it dies. Where the file system knows
    no locks the job runs without one.

    Args:
        log: log file of the job, which no other job has.
        tell: called with one sentence if another process holds the lock.

    Yields:
        None, while the lock is held.
    """
    # Of two checkouts that share a results folder each has its own path to it.
    root = results_root(log)
    own = Path(log).relative_to(root)
    path = root / RUNNING / hashlib.sha256(os.fsencode(own)).hexdigest()[:32]
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _locked(path, lambda: tell(f"another process still works on the job of {log}; waiting"))
    try:
        yield
    finally:
        if file is not None:
            with contextlib.suppress(OSError):  # another user's stays
                path.unlink()  # while it is held: see _locked
            os.close(file)
            with contextlib.suppress(OSError):
                path.parent.rmdir()


def working(results: str | Path) -> int:
    """Return how many jobs of a results folder run, as far as its file system's locks tell.

    Args:
        results: its folder.
    """
    number = 0
    for path in (Path(results) / RUNNING).glob("*"):
        with contextlib.suppress(FileNotFoundError), path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # freed as the file is closed
            except BlockingIOError:
                number += 1
            except OSError:
                continue  # no locks here
    return number


def _locked(path: Path, tell: Callable[[], None]) -> int | None:
    """Return a descriptor that holds the lock of a file, or None where there are no locks.

    Raises:
        PermissionError: if the file is not there and cannot be made.
    """
    told = False
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # its folder was removed in between
        except PermissionError as refused:
            try:
                file = os.open(path, os.O_RDONLY)  # another user's, who was killed
            except FileNotFoundError:
                if os.access(path.parent, os.W_OK):
                    continue  # who held it has removed it in between
                raise refused from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            if not told:
                tell()
                told = True
            time.sleep(WATCH_SECONDS)
            continue
        except OSError:
            os.close(file)
            return None
        # The last holder may have removed the file between our opening and locking it.
        try:
            if os.fstat(file).st_ino == os.stat(path).st_ino:
                return file
        except FileNotFoundError:
            pass
        os.close(file)
