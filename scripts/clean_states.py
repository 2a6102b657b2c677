"""Remove the states that unfinished jobs and longer runs would continue from, and their remains.

These are half-written results of killed jobs, and Snakemake's marks of jobs whose output is not
there: of a configuration that nobody asks for again they would stay for ever.

``snakemake clean_states``. While a job of these results runs nothing is removed: its state is what
it would continue from. Jobs are seen as far as the locks of the file system reach, which on some is
one host. A link in place of a folder, to a larger disk, stays and is emptied.
"""

import quick_start  # noqa: F401

import contextlib
from pathlib import Path

from pipeline.files import (
    FINISHED,
    RESULTS,
    UNFINISHED,
    everything,
    exists,
    named_by_record,
    remove,
)
from pipeline.interruption import working


def left_of_killed_jobs(results: Path) -> list[Path]:
    """Return half-written results, and the marks of unfinished jobs that have left no output.

    Args:
        results: folder of the results.
    """
    found = [path for path in everything(results) if path.suffix == ".partial"]
    root = results.absolute().parent
    folder = root / ".snakemake/incomplete"
    for mark in everything(folder):
        with contextlib.suppress(ValueError):  # of no result
            output = root / named_by_record(mark.relative_to(folder))
            if mark.is_file() and not exists(output):
                found.append(mark)
    return found


def main(folders: list[Path], results: Path, log: str | Path) -> int:
    """Return the exit status, after one sentence, printed and written into a log.

    Args:
        folders: of states.
        results: folder of the results.
        log: file for the sentence.
    """
    jobs = working(results)
    stages = [stage for folder in folders if folder.is_dir() for stage in folder.iterdir()]
    if jobs:
        told = f"jobs of {results} are running ({jobs}); wait for them or stop them first"
    else:
        left = left_of_killed_jobs(results)
        for path in (*stages, *left):
            with contextlib.suppress(OSError):  # another user's
                remove(path)
        stages, left = ([path for path in of if not path.exists()] for of in (stages, left))
        for folder in folders:
            with contextlib.suppress(OSError):  # none, or a link
                folder.rmdir()
        told = f"states removed: {len(stages)}"
        told += f"; half-written results and marks of unfinished jobs: {len(left)}" if left else ""
    Path(log).write_text(told + "\n", encoding="utf-8")
    with contextlib.suppress(OSError):  # nobody may be reading
        print(told, flush=True)
    return int(bool(jobs))


if __name__ == "__main__":
    states = [Path(UNFINISHED), Path(FINISHED)]
    raise SystemExit(main(states, Path(RESULTS), snakemake.log[0]))  # noqa: F821
