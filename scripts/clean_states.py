"""Remove the states that unfinished jobs and longer runs would continue from.

``snakemake clean_states``. While a job of these results runs nothing is removed: its state is what
it would continue from. Jobs are seen as far as the locks of the file system reach, which on some is
one host. A link in place of a folder, to a larger disk, stays and is emptied.
"""

import quick_start  # noqa: F401

import contextlib
from pathlib import Path

from pipeline.files import FINISHED, RESULTS, UNFINISHED, remove
from pipeline.interruption import working


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
        for stage in stages:
            remove(stage)
        for folder in folders:
            with contextlib.suppress(OSError):  # none, or a link
                folder.rmdir()
        told = f"states removed: {len(stages)}"
    Path(log).write_text(told + "\n", encoding="utf-8")
    with contextlib.suppress(OSError):  # nobody may be reading
        print(told, flush=True)
    return int(bool(jobs))


if __name__ == "__main__":
    states = [Path(UNFINISHED), Path(FINISHED)]
    raise SystemExit(main(states, Path(RESULTS), snakemake.log[0]))  # noqa: F821
