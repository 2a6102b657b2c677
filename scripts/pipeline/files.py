"""Files that appear when they are complete, and a recorded SHA-256 of every result.

The digest of ``results/PATH`` stands in ``results/.digests/PATH.sha256``, in the format of
sha256sum (``sha256sum -c`` in the folder above results checks it). It is found by the path, so that
a file of another run in the same place is noticed too.

What Snakemake has recorded of a result before, of what it was made, is not of its new content: it
is removed first. A Snakemake that is killed before it has recorded the new one leaves none.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import itertools
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

RESULTS = "results"
UNFINISHED = f"{RESULTS}/.partial"  # stages of unfinished jobs
FINISHED = f"{RESULTS}/.states"  # stages of finished runs, for longer ones
DIGESTS, RECORDS = ".digests", ".metadata"
ADVICE = "delete it and run the same command again"


class IntegrityError(ValueError):
    """A stored result is not what was recorded when it was written."""


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def own_file(entry: dict) -> Path:
    """Return the path of a user's data file, "~" being the home folder.

    Args:
        entry: its mapping under ``datasets``, with ``file``.
    """
    return Path(entry["file"]).expanduser()


def content_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of all files of a folder."""
    path = Path(path)
    digest = hashlib.sha256()
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            digest.update(file.relative_to(path).as_posix().encode() + b"\0")
        with open(file, "rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def results_root(path: str | Path) -> Path:
    """Return the folder of a results tree above a file, else the file's own folder.

    Jobs name their files from the working folder on, where it is called results. A copy under any
    name is the innermost folder that holds records of digests.
    """
    path = Path(path)
    if path.parts[0] == RESULTS and len(path.parts) > 1:
        return Path(RESULTS)
    recorded_in = (folder for folder in path.parents if (folder / DIGESTS).is_dir())
    named = (folder for folder in path.parents if folder.name == RESULTS)
    return next(itertools.chain(recorded_in, named), path.parent)


def digest_record(path: str | Path) -> Path:
    """Return where the digest of a file is recorded."""
    path, root = Path(path), results_root(path)
    return root / DIGESTS / f"{path.relative_to(root)}.sha256"


@contextlib.contextmanager
def replaced(path: str | Path) -> Iterator[Path]:
    """Give a name to write a file under; the file gets its own name when it is complete.

    Args:
        path: the file.

    Yields:
        The name to write under; whatever lies there is removed if writing fails.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        remove(partial)
        raise


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def recorded(path: str | Path) -> Iterator[Path]:
    """As ``replaced``, and record the file's digest.

    Args:
        path: file to write.

    Yields:
        Path of a temporary file beside it.
    """
    with replaced(path) as partial:
        yield partial
        digest = file_digest(partial)
        snakemake_record(path).unlink(missing_ok=True)
        record_digest(path, digest)


def record_digest(path: str | Path, digest: str) -> None:
    """Record the digest of a file."""
    record = digest_record(path)
    record.parent.mkdir(parents=True, exist_ok=True)
    root = results_root(path)
    name = Path(root.name) / Path(path).relative_to(root) if root.name == RESULTS else path
    with replaced(record) as partial:
        partial.write_text(f"{digest}  {name}\n", encoding="utf-8")


def snakemake_record(path: str | Path) -> Path:
    """Return where Snakemake records of what a result was made, beside the results.

    Args:
        path: as rules name it.
    """
    folder = results_root(path) / RECORDS
    return folder / record_name(str(path), folder)


def record_name(path: str, folder: Path) -> Path:
    """Return the name that Snakemake gives the record of a file, in parts that a folder can hold.

    As ``snakemake.persistence`` has it, which cannot be asked before jobs are planned.

    Args:
        path: as rules name it.
        folder: of the records, if there is one.
    """
    try:
        most = os.pathconf(folder, "PC_NAME_MAX") - 1
    except OSError:  # there is none yet
        most = os.pathconf(".", "PC_NAME_MAX") - 1
    name = base64.urlsafe_b64encode(path.encode()).decode()
    parts = [name[start : start + most] for start in range(0, len(name), most)]
    return Path(*(f"@{part}" for part in parts[:-1]), parts[-1])


def named_by_record(name: Path) -> str:
    """Return the path of the file whose record has a name, which ``record_name`` gave it.

    Args:
        name: relative to the folder of the records.

    Raises:
        ValueError: if it is no such name.
    """
    # A long name stands in parts: all but the last one are folders, @part.
    text = "".join([*(part.removeprefix("@") for part in name.parts[:-1]), name.parts[-1]])
    return base64.b64decode(text, altchars=b"-_", validate=True).decode()


def snakemake_records(root: str | Path) -> dict[str, dict]:
    """Return the name of each record of a result -> what Snakemake finds in it.

    Nothing where it was cut short, as on a full disk: Snakemake takes such a result for one of any
    configuration and code. Without those that this user may not read (``unreadable_records``).

    Args:
        root: folder of the results.
    """
    folder, records = Path(root, RECORDS), {}
    for name in names_below(folder):
        try:
            record = json.loads(Path(folder, name).read_bytes())
        except PermissionError:
            continue
        except (OSError, ValueError):
            record = None
        records[name] = record if isinstance(record, dict) else {}
    return records


def unreadable_records(root: str | Path) -> list[Path]:
    """Return the records of Snakemake that this user may not read, in order.

    Args:
        root: folder of the results.
    """
    folder = Path(root, RECORDS)
    paths = (Path(folder, name) for name in sorted(names_below(folder)))
    # One that is being written again is not there for a moment, and is not to be read then either.
    return [path for path in paths if not os.access(path, os.R_OK) and os.path.lexists(path)]


def open_records(root: str | Path) -> None:
    """Let whoever may read a new file of this user read the records that Snakemake made for it.

    It gives others no right to them, whatever the umask, who could then read results but not what
    these were made of.

    Args:
        root: folder of the results.
    """
    umask = os.umask(0)
    os.umask(umask)
    wanted = 0o444 & ~umask
    for name in names_below(Path(root, RECORDS)):
        with contextlib.suppress(OSError):  # another user's
            path = Path(root, RECORDS, name)
            mode = path.stat().st_mode & 0o777
            if wanted & ~mode:
                path.chmod(mode | wanted)


def made_of_others(root: str | Path, records: dict[str, dict]) -> dict[str, str]:
    """Return result -> an input of it that is another file now than the one it was made of.

    Only of those that Snakemake takes for made of them, since they are no older: as where results
    were copied over newer ones with their times.

    Args:
        root: folder of the results.
        records: its ``snakemake_records``.

    Returns:
        Both paths as rules name them.
    """
    root, found = Path(root), {}

    @functools.cache
    def digest_and_time(path: str) -> tuple[str, float]:
        """Return what is recorded of an input, nothing and no time of what is no result."""
        relative = path.removeprefix(f"{RESULTS}/")
        with contextlib.suppress(OSError, ValueError):
            recorded_digest, *_ = Path(root, DIGESTS, f"{relative}.sha256").read_text().split()
            return recorded_digest, Path(root, relative).stat().st_mtime_ns
        return "", math.inf

    for name, record in records.items():
        with contextlib.suppress(OSError, ValueError):
            result = named_by_record(Path(name))
            time = Path(root, result.removeprefix(f"{RESULTS}/")).stat().st_mtime_ns
            for path, checksum in (record.get("input_checksums") or {}).items():
                digest, moment = digest_and_time(path)
                then = checksum.rpartition(":")[2]  # behind the algorithm, of newer Snakemakes
                if moment <= time and then != digest:
                    found[result] = path
    return found


def names_below(folder: Path) -> set[str]:
    """Return the paths of all files below a folder, relative to it."""
    walked = os.walk(folder, followlinks=True)
    return {os.path.relpath(os.path.join(at, name), folder) for at, _, names in walked
            for name in names}  # fmt: skip


def everything(
    folder: Path, on_error: Callable[[OSError], None] = lambda error: None
) -> list[Path]:
    """Return all files and folders below a folder, also behind links, as to a larger disk.

    Args:
        folder: which may not be there.
        on_error: called with what keeps a folder below it from being read.
    """

    def told(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            on_error(error)

    walked = os.walk(folder, onerror=told, followlinks=True)
    return sorted(Path(here, name) for here, inner, names in walked for name in (*inner, *names))


def exists(path: Path) -> bool:
    """Return whether something is there, as far as this user may know."""
    try:
        return path.exists()
    except OSError:
        return False


def check(path: str | Path) -> None:
    """Compare a file with its recorded digest.

    Args:
        path: file written under ``recorded``.

    Raises:
        IntegrityError: in one sentence, if it is missing, altered, another result's file, or if
            nothing is recorded about it.
    """
    path, record = Path(path), digest_record(path)
    if not path.is_file():
        raise IntegrityError(f"{path} is missing; run the same command again")
    if not record.is_file():
        raise IntegrityError(
            f"no digest of {path} is recorded in {record}, so nothing says that it is what the "
            f"workflow wrote; {ADVICE}"
        )
    found = file_digest(path)
    text = record.read_text(encoding="utf-8", errors="replace")
    digest, _, name = text.strip().partition("  ")
    root = results_root(path)
    own = path.relative_to(root).parts
    if name and Path(name).parts[-len(own) :] != own:
        raise IntegrityError(
            f"{path} was written as {name}, as where another result was copied here with its "
            f"digest; {ADVICE}"
        )
    if found != digest:
        other = _owner_of(found, record, root / DIGESTS)
        what = f"holds the content of {other}" if other else "has been altered or cut short"
        raise IntegrityError(f"{path} {what} since it was written; {ADVICE}")


def _owner_of(digest: str, record: Path, folder: Path) -> str | None:
    """Return the file that a digest was recorded for, other than that of one record."""
    for other in sorted(folder.rglob("*.sha256")):
        if other == record:
            continue
        with contextlib.suppress(OSError):  # not this user's to read
            known, _, name = other.read_text(encoding="utf-8", errors="replace").partition("  ")
            if known == digest:
                return name.strip()
    return None
