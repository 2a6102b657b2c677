"""Check a whole results tree: name what is missing, altered or unfinished, one sentence each.

``snakemake verify``, ``make verify`` or ``python scripts/verify.py [results]``. The exit status is
1 if anything is wrong.
"""

import quick_start  # noqa: F401

import contextlib
import errno
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from pipeline.files import (
    ADVICE,
    DIGESTS,
    RESULTS,
    IntegrityError,
    check,
    digest_record,
    everything,
    exists,
    made_of_others,
    named_by_record,
    snakemake_record,
    snakemake_records,
    unreadable_records,
)
from pipeline.stores import check_descriptions, read_snapshots

UNWANTED = (
    " (or snakemake clean_states removes it, and the states of all other jobs and runs with it)"
)

UNRECORDED = ("logs", "benchmarks")  # what nothing reads again


def looked_through(results: Path) -> tuple[list[str], list[str]]:
    """Return one sentence for everything that is wrong, and the files of which nothing is recorded.

    Args:
        results: the folder of a results tree.

    Returns:
        The sentences, none if all is well; paths of tables, spectra, figures and pages.
    """
    found: list[str] = []

    def unreadable(error: OSError) -> None:
        found.append(
            f"{error.filename} cannot be read ({error.strerror}), so that nothing is known of it; "
            "change its owner or permissions"
        )

    def made_by(relative: Path) -> str:
        """Return the command that makes a result, and where: rules name it results/..."""
        name = Path(RESULTS, relative).as_posix()
        place, where = Path(os.path.abspath(results)), ""
        if place.name != RESULTS:
            where = f" in the folder whose {RESULTS} {results} is a copy of"
        elif place.parent != Path.cwd():
            where = f" in {place.parent}"
        return f"run snakemake {name}{where}"

    files = everything(results, unreadable)
    digests = [p for p in files if p.is_relative_to(results / DIGESTS) and p.suffix == ".sha256"]
    for record in digests:
        relative = record.relative_to(results / DIGESTS).with_suffix("")
        path = results / relative
        try:
            check(path)
            if path.name == "snapshots.json":
                read_snapshots(path)
                check_descriptions(path.with_suffix(".zarr"))
        except (IntegrityError, json.JSONDecodeError) as error:
            again = f"{made_by(relative)} with the options of the command that made it"
            found.append(str(error).replace("run the same command again", again))
        except OSError as error:
            error.filename = error.filename or str(path)
            unreadable(error)
    lacking = unrecorded(results, files, set(digests))
    found += [
        f"no digest of {path} is recorded, which Snakemake made: whether it is as it was written "
        f"cannot be told; copy {DIGESTS} whole, or delete it and "
        f"{made_by(Path(path).relative_to(results))}"
        for path in lacking
        if digests and exists(snakemake_record(path))
    ]
    for path in unreadable_records(results):
        unreadable(PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path)))
    records = snakemake_records(results)
    found += [
        f"what Snakemake recorded of {path} is cut short, as on a full disk, so that it would pass "
        f"for a result of any configuration; run the same command again, which makes {path} anew"
        for path in results_named(Path(name) for name, record in records.items() if not record)
    ]
    found += [
        f"{path} was made of another {other} than lies here, as where results were copied over "
        f"newer ones; {made_by(Path(path).relative_to(RESULTS))} with the options of "
        "the command that made it"
        for path, other in made_of_others(results, records).items()
    ]
    if not digests and lacking:
        found.append(
            f"nothing is recorded of what {results} holds, as in a copy without its hidden folder "
            f"{DIGESTS}: whether it is as it was written cannot be told; copy that too"
        )
    for path in files:
        if path.name == "diverged.zarr":
            found.append(f"{path} holds a training that diverged; change its settings")
        elif path.suffix == ".zarr" and not known(path.with_suffix(".json")):
            found.append(f"{path} has no manifest: its job did not finish; {ADVICE}")
        elif path.suffix == ".partial":
            found.append(f"{path} is half-written: its job was killed; {ADVICE}{UNWANTED}")
        elif path.parent == results / ".partial":
            found.append(
                f"{path} is the state of an unfinished job; the command that makes it continues"
                f"{UNWANTED}"
            )
    found += incomplete_outputs(results.absolute().parent / ".snakemake/incomplete")
    # Jobs say "the same command", which made it; here that would be this one.
    found = [text.replace("the same command again", "the command that makes it") for text in found]
    return found, lacking


def known(path: Path) -> bool:
    """Return whether a file is there or was: then it is told of as missing."""
    return exists(path) or exists(digest_record(path))


def incomplete_outputs(folder: Path) -> list[str]:
    """Return one sentence for every output that Snakemake knows to be unfinished."""
    marks = (mark.relative_to(folder) for mark in everything(folder) if mark.is_file())
    root = folder.parent.parent
    return [
        f"the job of {path} did not finish; run the same command again"
        f"{'' if exists(root / path) else UNWANTED}"
        for path in results_named(marks)
    ]


def results_named(names: Iterable[Path]) -> list[str]:
    """Return the results, as rules name them, whose records or marks have these names."""
    found = []
    for name in names:
        with contextlib.suppress(ValueError):  # of no result
            found.append(named_by_record(name))
    return sorted(found)


def unrecorded(results: Path, files: list[Path], digests: set[Path]) -> list[str]:
    """Return the tables, spectra, figures and pages about which nothing is recorded.

    Args:
        results: the folder of a results tree.
        files: all that it holds.
        digests: those of them that are records of digests.
    """
    return [
        str(path)
        for path in files
        if path.suffix in (".csv", ".nc", ".json", ".png", ".pdf", ".html", ".md")
        and path != results / "README.md"
        and path.relative_to(results).parts[0] not in (*UNRECORDED, DIGESTS)
        and not any(part.endswith((".zarr", ".partial")) for part in path.parts)
        and results / DIGESTS / f"{path.relative_to(results)}.sha256" not in digests
    ]


def main(results: Path, log: str | None = None) -> int:
    """Return the exit status, after printing all problems, into a log too if one is named."""
    found, own = [f"{results} is no folder; name another"], []
    if results.is_dir():
        found, own = looked_through(results)
    what = "everything that is recorded" if own else "everything"
    lines = found or [f"{results}: {what} is as it was written"]
    lines += [f"note: nothing is recorded about {path}" for path in own]
    if log:
        Path(log).write_text("\n".join(lines) + "\n", encoding="utf-8")
    with contextlib.suppress(OSError):  # nobody may be reading on
        print("\n".join(lines), flush=True)
    return int(bool(found))


if __name__ == "__main__":
    if "snakemake" in globals():
        raise SystemExit(main(Path("results"), snakemake.log[0]))  # noqa: F821
    raise SystemExit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "results")))
