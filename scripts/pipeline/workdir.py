"""Continue after a killed Snakemake: remove the lock that it left, if nobody can hold it.

Snakemake locks its folder with plain files, which outlive a killed process, and then asks for
``--unlock``. Every Snakemake of this workflow also holds a lock of the operating system, which dies
with it. If no process holds that one, Snakemake's own lock belongs to a dead process. Locks of the
operating system may not reach other hosts, so a lock left by another host is never removed.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline import planned
from pipeline.config_files import STARTED
from pipeline.files import (
    DIGESTS,
    RECORDS,
    RESULTS,
    made_of_others,
    names_below,
    open_records,
    record_name,
    snakemake_records,
    unreadable_records,
)
from pipeline.interruption import announce_launcher, system_sentence
from pipeline.runs import Refusal, refuse

STATE = ".snakemake"
DRY_RUN = {"-n", "--dry-run", "--dryrun"}
ROOM = 100_000  # bytes, own choice: the files of some hundred jobs
FOLDERS_AND_FILES = 20  # own choice: the folders in .snakemake, a log, those of a result
TRIGGERS = {"mtime", "params", "input"}  # by which results are judged; profiles/default
# What every job or step writes to, and what may well be a link to a larger disk; results/README.md.
FOLDERS = (
    STATE,
    "results",
    *(
        f"results/{name}"
        for name in (
            "data", "runs", "studies", "theory", "report", "logs", "benchmarks",
            ".digests", ".metadata", ".partial", ".states",
        )
    ),
)  # fmt: skip
IGNORES_INCOMPLETE = (
    "--ignore-incomplete takes results that nobody has recorded, or that are half-written, for "
    "those of this configuration; leave it out"
)
OPENED = (STATE, f"{STATE}/iocache", f"{STATE}/locks")  # by Snakemake, with a traceback
_stopped = ["before any job was started"]  # when Ctrl-C came; the last one holds
_plans_left: list[Path] = []  # by Snakemakes that no longer live
_ended: list[bool] = []  # whether Snakemake has come to the end that it plans for
_held: list[int] = []  # descriptors that stay open as long as this process lives


def register(workflow: Any) -> None:
    """Do what a Snakemake has to do before it locks its folder.

    Args:
        workflow: Snakemake's own object.

    Raises:
        Refusal: if Snakemake would find a file where it needs a folder, may not write its state or
            has no room for it, or takes the workflow's own path for a pattern.
    """
    if "{" in workflow.basedir or "}" in workflow.basedir:
        raise Refusal(f"{workflow.basedir} holds braces, which Snakemake takes for wildcards; move")
    backend = getattr(workflow.workflow_settings, "persistence_backend", "file")
    if str(backend) != "file":
        raise Refusal(
            f"--persistence-backend {backend} keeps apart from the results what says of what they "
            "were made, without which they pass for those of any configuration; leave it out"
        )
    sys.excepthook = _tell_in_one_sentence
    if workflow.is_main_process:
        refuse(_problems_of(FOLDERS))
        refuse(_problems_of(OPENED, written=True))
        refuse(unreadable_record_problems())
    if workflow.remote_exec:  # a cluster's job: it outlives the Snakemake that submitted it
        announce_launcher()
    elif workflow.is_main_process:
        if {"--ignore-incomplete", "--ii"} & {*sys.argv}:
            raise Refusal(IGNORES_INCOMPLETE)
        # Snakemake's own note of it is that of --directory.
        refuse_stale_report(sys.argv, os.environ.get(STARTED, workflow.workdir_init))
        os.environ.pop(planned.PLANNED, None)  # that of a job which started this Snakemake
        looks_only = bool(DRY_RUN & {*sys.argv})
        others = others_at_work(stays=not looks_only)
        if not workflow.dryrun:
            take_over(alone=not others, looks_only=looks_only)
            refuse(room_problems(STATE))
            if not looks_only:  # its scheduler writes there
                refuse(room_problems(_temporary()))
        keep_records()
        atexit.register(tell_of_triggers, workflow)  # how it judges results is known later
        if others:
            sys.stderr.write(
                "note: another Snakemake works on these results, from another folder: of what both "
                "are to make one fails, until the other is through; the same command continues\n"
            )
        for note in copied_without_records():
            sys.stderr.write(f"note: {note}\n")


def refuse_stale_report(arguments: Sequence[str], started: str | Path) -> None:
    """End a Snakemake that would report on results of another configuration, data or code.

    Captions are written from the configuration, and Snakemake reports on whatever files there are.

    Args:
        arguments: its command line.
        started: the folder where it was started, which its paths are relative to.

    Raises:
        Refusal: if the same command without its report has anything to do, or fails.
    """
    options = {argument.partition("=")[0] for argument in arguments}
    if not options & {"--report", "--reporter"}:
        return
    refuse(_report_problems(arguments))
    if "--report-after-run" in options:
        return

    def of_report(before: str, argument: str) -> bool:
        value = before.startswith("--report") and "=" not in before
        return argument.startswith("--report") or (value and not argument.startswith("-"))

    pairs = itertools.pairwise(arguments)
    command = [argument for before, argument in pairs if not of_report(before, argument)]
    done = subprocess.run(
        # -P: modules of the working folder are not Python's, as in Snakemake's own command
        [sys.executable, "-P", "-m", "snakemake", *command, "--dry-run", "--quiet", "rules"],
        cwd=started,
        capture_output=True,
        text=True,
    )
    told = (done.stdout + done.stderr).strip()
    if done.returncode:
        raise Refusal(
            "whether the results are those of this configuration, which a report needs, cannot be "
            f"told ({(told.splitlines() or ['no word'])[-1].strip()}); run the same command with "
            "-n in place of --report"
        )
    if "Nothing to be done" not in told:
        raise Refusal(
            "the report would tell of results that are missing or were made with another "
            "configuration, data or code; run the same command without --report first (-n "
            "lists what it would make)"
        )


def _report_problems(arguments: Sequence[str]) -> list[str]:
    """Return why the file of a report cannot be written, before anything is run or read for it."""
    options = ("--report", "--report-html-path")
    pairs = [argument.split("=", 1) for argument in arguments if "=" in argument]
    pairs += [list(pair) for pair in itertools.pairwise(arguments) if not pair[1].startswith("-")]
    return [
        f"{option} {name}: {folder} is no folder that this user may write to, seen from "
        f"{os.getcwd()}, where results lie; make it, or name another file"
        for option, name in pairs
        for folder in [Path(name).parent]
        if option in options and not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK))
    ]


def keep_records() -> None:
    """Let Snakemake's records of what made each result lie beside the results.

    Without them Snakemake takes results for those of any configuration and code: whoever copied
    results alone, or removed Snakemake's own folder, kept stale ones without knowing. ``metadata``
    in the folder of Snakemake's state becomes a link.
    """
    folder, records = Path(STATE), Path(RESULTS, RECORDS)
    link = folder / "metadata"
    with contextlib.suppress(OSError):  # no links here: Snakemake keeps its folder
        (folder / "incomplete").mkdir(parents=True, exist_ok=True)  # else it takes them for old
        records.mkdir(parents=True, exist_ok=True)
        if link.is_symlink() and link.exists() and link.samefile(records):
            return
        new = folder / "metadata.new"
        new.unlink(missing_ok=True)
        new.symlink_to(os.path.relpath(records.resolve(), folder.resolve()))
        if link.is_dir() and not link.is_symlink():  # of a copy that followed the link, or older
            shutil.copytree(records, link, dirs_exist_ok=True)
            shutil.rmtree(records)
            shutil.move(link, records)
        os.replace(new, link)  # of a folder that has been moved too


def others_at_work(results: str | Path = RESULTS, *, stays: bool = True) -> bool:
    """Return whether a Snakemake of another folder, whose locks are there, has these results too.

    Args:
        results: their folder, which several working folders may link to.
        stays: register this one among those that have them, as long as it lives.
    """
    here = os.path.realpath(".").encode() + b"\n"
    with contextlib.suppress(OSError):  # no such folder yet, or no such locks
        file = os.open(Path(results, ".snakemakes"), os.O_RDWR | os.O_CREAT, 0o666)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(file, 0)  # of those that no longer live
        fcntl.flock(file, fcntl.LOCK_SH)
        known = os.pread(file, 1 << 20, 0)
        if stays:
            _held.append(file)
            os.lseek(file, 0, os.SEEK_END)
            os.write(file, here)
        else:
            os.close(file)
        return bool({*known.splitlines(keepends=True)} - {here})
    return False


def copied_without_records(results: str | Path = "results") -> list[str]:
    """Return a sentence if results lie here of which nothing says to Snakemake what made them.

    Args:
        results: their folder.
    """
    folder = Path(results)

    def holds(*names: str) -> bool:
        folders = (folder / name for name in names)
        return any(path.is_dir() and any(path.iterdir()) for path in folders)

    if holds(RECORDS) or not holds("data", "runs", "studies", "theory"):
        return []
    if any(Path(STATE, "incomplete").glob("*")):  # of a first run that was killed: made again
        return []
    return [
        f"{folder} holds files of which nothing is recorded, as a copy without its hidden folders: "
        "Snakemake takes them for results of this configuration, whatever they are; copy "
        f"{DIGESTS} and {RECORDS} too, or remove them"
    ]


def _tell_in_one_sentence(kind: type, error: BaseException, trace: Any) -> None:
    """Spare who presses Ctrl-C while jobs are planned, or twice, a traceback through Snakemake."""
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write(f"stopped by Ctrl-C {_stopped[-1]}\n")
    else:
        sys.__excepthook__(kind, error, trace)


def tell_of_triggers(workflow: Any) -> None:
    """Tell who has Snakemake judge results by their times alone what it then takes for current.

    As ``--rerun-triggers mtime``, or such a line in a profile of one's own.

    Args:
        workflow: Snakemake's own object, after it has judged; nothing is told of one that has not.
    """
    settings = getattr(workflow, "dag_settings", None)
    given = {trigger.name.lower() for trigger in settings.rerun_triggers} if settings else TRIGGERS
    lacking = TRIGGERS - given
    if lacking:
        sys.stderr.write(
            f"note: the rerun triggers lack {' and '.join(sorted(lacking))}: results of another "
            "configuration, code or data pass for current ones; leave --rerun-triggers out, or "
            "name them as profiles/default does\n"
        )


def _temporary() -> str:
    """Return the folder for temporary files, be it full, for which ``tempfile`` takes another."""
    given = os.environ.get("TMPDIR", "/tmp")
    if os.path.isdir(given) and os.access(given, os.W_OK | os.X_OK):
        return given
    with contextlib.suppress(OSError):
        return tempfile.gettempdir()
    return STATE


def room_problems(folder: str | Path) -> list[str]:
    """Return why a folder has no room for the files that Snakemake starts with."""
    try:
        with tempfile.TemporaryDirectory(dir=folder) as probe:
            Path(probe, "room").write_bytes(bytes(ROOM))
            for number in range(FOLDERS_AND_FILES):  # a disk may be full of files too
                Path(probe, str(number)).touch()
    except OSError as error:
        error.filename = error.filename or str(folder)  # not known of what is written
        return [sentence for sentence in [system_sentence(error)] if sentence]
    return []


def refuse_what_cannot_start(workflow: Any) -> None:
    """End a Snakemake that is about to start jobs, if it has no core or may not write results.

    Args:
        workflow: Snakemake's own object, which has its jobs.

    Raises:
        Refusal: one sentence a line.
    """
    cores = workflow.resource_settings.cores  # Snakemake itself waits for ever if there are none
    if cores is not None and cores < 1:
        raise Refusal(f"--cores is {cores}, with which no job can start; give at least 1")
    if not workflow.execution_settings.keep_metadata:
        raise Refusal(
            "--drop-metadata leaves no record of what results were made of, without which they "
            "pass for those of any configuration; leave it out"
        )
    if workflow.dag.ignore_incomplete:  # by a profile
        raise Refusal(IGNORES_INCOMPLETE)
    jobs = list(workflow.dag.needrun_jobs())
    problems = _problems_of([*FOLDERS, *_folders_written(jobs)], written=True)
    if problems and {job.rule.name for job in jobs} <= {"verify"}:
        script = os.path.join(workflow.basedir, "scripts", "verify.py")
        problems.append(f"python {script} {RESULTS} checks them without writing anything")
    refuse(problems)
    refuse(room_problems(RESULTS))


def _folders_written(jobs: Iterable[Any]) -> set[str]:
    """Return the folders that are there and that jobs write to or make others in."""
    written = {
        os.path.dirname(path)
        for job in jobs
        for path in (*job.output, *job.log, *([job.benchmark] if job.benchmark else []))
    }
    there = {
        next(path for path in (Path(name), *Path(name).parents) if os.path.isdir(path))
        for name in written
    }
    return {str(path) for path in there} - {*FOLDERS}


def tell_of_full_disk(results: str | Path = RESULTS) -> None:
    """Tell why Snakemake may have failed to record a result, for which it blames permissions.

    Args:
        results: their folder.
    """
    if not _ended:
        for sentence in room_problems(results):
            sys.stderr.write(f"{sentence}\n")
    end()


def end() -> None:
    """Note that Snakemake has come to an end that it plans for; a full disk can keep it from it."""
    _ended.append(True)


def unreadable_record_problems() -> list[str]:
    """Return a sentence if this user may not read what says of results what they were made of."""
    found = unreadable_records(RESULTS)
    if not found:
        return []
    folder = Path(RESULTS, RECORDS)
    return [
        f"{folder} holds {len(found)} records of results that this user may not read ({found[0]}), "
        "without which they pass for those of any configuration; let their owner run chmod -R a+rX "
        f"{folder}, or work in another folder (--directory)"
    ]


def _problems_of(names: Iterable[str], *, written: bool = False) -> list[str]:
    """Return the ``folder_problems`` of several paths."""
    return [problem for name in names for problem in folder_problems(name, written=written)]


def folder_problems(name: str, *, written: bool = False) -> list[str]:
    """Return why a path is or can become no folder, and if asked no folder to write to.

    Args:
        name: relative to the working folder.
        written: whether this user has to be able to write to it.
    """
    path = Path(name)
    if os.path.isdir(path):
        way_out = "change its owner or permissions, or work in another folder (--directory)"
        if not os.access(path, os.R_OK | os.X_OK):
            return [f"{name} is a folder that this user may not read; {way_out}"]
        if written and not os.access(path, os.W_OK):
            return [f"{name} is a folder that this user may not write to; {way_out}"]
        return []
    if path.parent.is_dir() and not os.access(path.parent, os.X_OK):
        return []  # which is told of the folder that it is in
    if path.is_symlink() and not path.exists():
        return [
            f"{name} is a link to {os.readlink(path)}, which is not there; correct it or move it "
            "away"
        ]
    if path.exists():
        return [f"{name} is no folder; move it away, the workflow makes a folder of that name"]
    if written and path.parent.is_dir() and not os.access(path.parent, os.W_OK | os.X_OK):
        return [
            f"{name} cannot be made, since this user may not write to its folder; change "
            "permissions, or work in another folder (--directory)"
        ]
    return []


def mark_without_record(state: Path, records: dict[str, dict], root: str | Path = RESULTS) -> int:
    """Mark results that nobody has recorded as incomplete, so that Snakemake makes them again.

    Snakemake writes the record, of configuration and code among others, when it learns that a job
    has ended, a cluster's long after. Killed or stopped before, it leaves a result that would be
    taken for one of whatever configuration comes next: here by the mark that it has left of jobs
    that had started, but not in a copy of the results, nor of what a cluster's jobs finished later.
    Stopped by a full disk, it leaves half a record.

    Args:
        state: folder of Snakemake's state.
        records: the ``snakemake_records`` of the results.
        root: folder of the results, as rules name it.

    Returns:
        The number of results that were marked; none if none at all has a record, as in results that
        somebody has copied alone.
    """
    if not records:
        return 0
    folder = Path(root, RECORDS)
    written = (name.removesuffix(".sha256") for name in names_below(Path(root, DIGESTS)))
    names = {path: record_name(path, folder) for path in (os.path.join(root, w) for w in written)}
    lacking = {path: n for path, n in names.items() if not records.get(n.as_posix())}
    found = [name for path, name in lacking.items() if os.path.isfile(path)]
    _mark(found, state)
    return len(found)


def mark_made_of_others(state: Path, records: dict[str, dict], root: str | Path = RESULTS) -> int:
    """Mark results that were made of other inputs than lie here now, as ``mark_without_record``.

    Args:
        state: folder of Snakemake's state.
        records: the ``snakemake_records`` of the results.
        root: folder of the results, as rules name it.

    Returns:
        The number of results that were marked.
    """
    found = made_of_others(root, records)
    _mark([record_name(path, Path(root, RECORDS)) for path in found], state)
    return len(found)


def _mark(names: Iterable[Path], state: Path) -> None:
    """Mark results as incomplete, given the names of their records."""
    for name in names:
        mark = state / "incomplete" / name
        mark.parent.mkdir(parents=True, exist_ok=True)
        if not mark.exists():
            mark.write_text('{"external_jobid": null}')


def note_start() -> None:
    """Note that jobs start: those of dead Snakemakes are refused from now on, Ctrl-C stops some."""
    for path in _plans_left:
        path.unlink(missing_ok=True)
    results = os.path.abspath(RESULTS)  # Snakemake goes back to where it was started
    atexit.register(tell_of_full_disk, results)
    atexit.register(open_records, results)
    _stopped.append(
        "while jobs were being stopped; some may still run, or wait on a cluster (squeue --me, "
        "scancel); the same command continues from what is stored"
    )


def _times(root: str | Path) -> dict[str, int]:
    """Return file -> time of modification (ns), of what Snakemake may look at below a folder.

    It never looks into stores, nor at what no rule declares.
    """
    times = {}
    for folder, inner, names in os.walk(root, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith(".") and name[-5:] != ".zarr"]
        for path in (os.path.join(folder, name) for name in names):
            with contextlib.suppress(OSError):
                times[path] = os.stat(path).st_mtime_ns
    return times


def settle_times(root: str | Path = "results") -> int:
    """Move results that a clock ahead of this one has written to before now, in their order.

    Snakemake takes a result for stale if an input is younger, and fails a job whose output is older
    than an input: beside results of the future new ones are passed over or never come to stand.

    Args:
        root: folder of the results.

    Returns:
        The number of files whose time of modification was changed.
    """
    now, times = time.time_ns(), _times(root)
    late = sorted({moment for moment in times.values() if moment > now})
    last = max((moment for moment in times.values() if moment <= now), default=0)
    moved = {moment: last + (now - last) * k // (len(late) + 1) for k, moment in enumerate(late, 1)}
    found = [path for path, moment in times.items() if moment in moved]
    for path in found:
        with contextlib.suppress(OSError):
            os.utime(path, ns=(moved[times[path]],) * 2)
    return len(found)


def take_over(
    folder: str | Path = STATE, *, alone: bool = True, looks_only: bool = False
) -> list[Path]:
    """Register this Snakemake, and remove the lock of a dead one.

    Args:
        folder: where Snakemake keeps its state.
        alone: whether no Snakemake of another folder works on the results (``others_at_work``),
            which may be about to record some.
        looks_only: whether it is a dry run, which leaves the times of results as they are.

    Returns:
        The lock files that were removed.
    """
    announce_launcher()
    folder = Path(folder)
    removed: list[Path] = []
    with contextlib.suppress(OSError):  # no such locks here: Snakemake asks for --unlock itself
        folder.mkdir(exist_ok=True)
        file = os.open(folder / "speedlimits_owners", os.O_RDWR | os.O_CREAT, 0o666)
        _held.append(file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(file, fcntl.LOCK_SH)  # others live: whether they are in the way is
            os.lseek(file, 0, os.SEEK_END)  # for Snakemake to say
            os.write(file, f"{socket.gethostname()}\n".encode())
            return removed
        removed = _remove_stale(file, folder, alone)
        number = 0 if looks_only else settle_times()
        if number:
            sys.stderr.write(
                f"{number} results are from a clock ahead of this one; their times were moved to "
                "before now, in their order.\n"
            )
        # Another Snakemake that gets the lock between these two calls finds no lock file of ours.
        fcntl.flock(file, fcntl.LOCK_SH)
    return removed


def _remove_stale(file: int, folder: Path, alone: bool) -> list[Path]:
    """Return the removed lock files: all, if only this host registered before; then register.

    Results that dead Snakemakes did not record, or that were made of others, are marked.
    """
    here = socket.gethostname()
    hosts = set(os.read(file, 1 << 20).decode().split())
    found = sorted((folder / "locks").glob("*.lock"))
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
    _plans_left[:] = planned.left(folder / planned.FOLDER.name)
    records = snakemake_records(RESULTS) if alone else {}
    number = mark_without_record(folder, records)
    if number:
        sys.stderr.write(
            f"{number} results have no record of what made them, as where a Snakemake ended before "
            "it had learned that their jobs had; they are made again.\n"
        )
    number = mark_made_of_others(folder, records)
    if number:
        sys.stderr.write(
            f"{number} results were made of others than lie here, as where results were copied "
            "over newer ones; they are made again.\n"
        )
    os.ftruncate(file, 0)
    os.lseek(file, 0, os.SEEK_SET)
    os.write(file, f"{here}\n".encode())
    return found
