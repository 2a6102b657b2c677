"""The code that a job runs must be what it was planned with, and will be recorded as.

A job's script imports the workflow's modules when it starts, or later, as they are by then. What
Snakemake records as having made its results is the digest that it read when it was started itself.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Set
from pathlib import Path

from pipeline.code_digest import SCRIPTS, bytes_digest, file_digests, reachable
from pipeline.interruption import PLANNER, python_version

CODE = "SPEEDLIMITS_CODE"  # file -> digests of its bytes and of its syntax tree, for the jobs
PACKAGES = {path.parent.name for path in SCRIPTS.glob("*/__init__.py")}
_read: set[str] = set()  # by this process, files of scripts/ that are no modules


def precede_other_installations() -> None:
    """Let jobs find the workflow's modules first, by the environment that they inherit.

    Snakemake adds a script's folder to the end of its path, behind what pip has installed and what
    PYTHONPATH names.
    """
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    folders = dict.fromkeys([str(SCRIPTS), *filter(None, given)])
    os.environ["PYTHONPATH"] = os.pathsep.join(folders)


def tell_jobs(files: Iterable[str]) -> None:
    """Leave in the environment what the code of all jobs was when they were planned.

    Args:
        files: scripts of all rules and what they load by name, relative to scripts/.
    """
    trees = file_digests(reachable(*files))
    os.environ[CODE] = json.dumps({file: [bytes_digest(file), trees[file]] for file in trees})


def note_read(file: str) -> None:
    """Count a file among what this process has loaded.

    Args:
        file: relative to scripts/.
    """
    _read.add(file)


def check_loaded(*, besides: Set[str] = frozenset()) -> set[str]:
    """Refuse a job that has loaded other code than it was planned with.

    A file of other bytes and the same syntax tree is the same code. Of a file that the plan does
    not know nothing is said; without a plan nothing is checked.

    Args:
        besides: what was checked before: it runs as it was loaded, whatever became of its file.

    Returns:
        What has been checked, of old and now.

    Raises:
        ValueError: if a file of the job's script or of a module that it has loaded has changed, or
            is none of the workflow's.
    """
    refuse_foreign()
    planned = json.loads(os.environ.get(CODE, "{}"))
    loaded = _loaded()
    for file in sorted((loaded - besides) & planned.keys()):
        content, tree = planned[file]
        if bytes_digest(file) == content:
            continue
        # Trees of another version of Python are no measure.
        alike = os.environ.get(PLANNER) == python_version() and file_digests([file])[file] == tree
        if not alike:
            raise ValueError(
                f"scripts/{file} was changed after this snakemake had planned its jobs, which "
                "would be recorded as made by the code of before; run the same command again"
            )
    return loaded


def refuse_foreign() -> None:
    """Refuse packages of the workflow's names that lie elsewhere, as where pip has installed one.

    Raises:
        ValueError: names the package and where it lies.
    """
    for name in PACKAGES & sys.modules.keys():
        file = getattr(sys.modules[name], "__file__", None) or ""
        if not os.path.realpath(file).startswith(f"{SCRIPTS}/"):
            raise ValueError(
                f"the package {name} was loaded from {file}, not from {SCRIPTS}, whose code the "
                "results would be recorded as made by; take it off Python's path (PYTHONPATH, pip "
                "uninstall)"
            )


def _loaded() -> set[str]:
    """Return the files of scripts/ that this process runs, relative to it.

    Of a script Snakemake runs a copy, named ``tmp1234.train.py``.
    """
    copy = Path(getattr(sys.modules["__main__"], "__file__", None) or "")
    files = (getattr(module, "__file__", None) or "" for module in list(sys.modules.values()))
    folder = f"{SCRIPTS}/"
    own = {file.removeprefix(folder) for file in files if file.startswith(folder)}
    return {copy.name.partition(".")[2], *own, *_read}
