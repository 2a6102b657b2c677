"""What a cluster's jobs were planned with: they compute with that, whatever was edited since.

A job that waited on a cluster plans itself anew when it starts, from configuration and code as they
are by then; but what is recorded as having made its results is what the Snakemake that submitted it
read. Hence that Snakemake stores its configuration, and digests of the code, in a file of its own,
and its jobs find the file's name in their environment. They take the configuration from there. Code
that has changed is refused, and so is a job whose Snakemake was killed and followed by another one:
that one has submitted the job again, and two would write the same results.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.code_digest import file_digests, reachable
from pipeline.interruption import LAUNCHER, python_version
from pipeline.runs import Refusal

PLANNED = "SPEEDLIMITS_PLANNED"  # name of the file, in the environment of the jobs
FOLDER = Path(".snakemake/speedlimits_planned")
_stored: list[str] = []  # by this process


class Planned(NamedTuple):
    """What jobs were planned with.

    Attributes:
        config: the configuration, checked and with its defaults.
        models: the user's own networks -> digests of their code.
        code: files that the rules' scripts consist of, relative to scripts/ -> their digests.
        python: version of Python, on which digests depend.
    """

    config: dict[str, Any]
    models: dict[str, str]
    code: dict[str, str]
    python: str

    def check_code(self, rule: str, *files: str) -> None:
        """Refuse a job whose code is not what it was planned with, and would be recorded as.

        Args:
            rule: of the job.
            files: its script and what that loads by name, relative to scripts/. Digests of another
                version of Python are no measure and are passed.

        Raises:
            Refusal: if one, or what it imports, has changed since.
        """
        if self.python != python_version():
            return
        now = file_digests(reachable(*files))
        changed = [file for file in now if self.code.get(file) != now[file]]
        if changed:
            raise Refusal(
                f"scripts/{changed[0]} has changed since this job of the rule {rule} was "
                "submitted; once its other jobs have ended, run the same command again"
            )


def store(config: dict[str, Any], models: dict[str, str], files: Iterable[str]) -> None:
    """Store what this Snakemake has planned its jobs with, and tell them where.

    Args:
        config: the configuration, checked.
        models: the user's own networks -> digests of their code.
        files: scripts of all rules and what they load by name, relative to scripts/.
    """
    found = Planned(config, models, file_digests(reachable(*files)), python_version())
    name = os.environ[LAUNCHER].replace(" ", "-") + ".json"
    with contextlib.suppress(OSError):  # jobs plan themselves, as those of other workflows do
        FOLDER.mkdir(parents=True, exist_ok=True)
        partial = FOLDER / f"{name}.partial"
        partial.write_text(json.dumps(found._asdict()), encoding="utf-8")
        os.replace(partial, FOLDER / name)
        os.environ[PLANNED] = name
        _stored.append(name)


def stored() -> Planned | None:
    """Return what this job was planned with; None if that is not known here.

    Raises:
        Refusal: if another Snakemake has taken over from the one that submitted this job.
    """
    name = os.environ.get(PLANNED)
    if name is None or not FOLDER.is_dir():  # jobs that do not share a file system
        return None
    try:
        return Planned(**json.loads((FOLDER / name).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise Refusal(
            "the Snakemake that submitted this job was killed, and another one has taken over, "
            "which submits the job again; nothing was done"
        ) from None


def left(folder: Path = FOLDER) -> list[Path]:
    """Return what Snakemakes have stored that were killed, stopped, or still live.

    Args:
        folder: where they have stored it.
    """
    return sorted(folder.glob("*.json*"))


def finished() -> None:
    """Remove what this Snakemake has stored: all its jobs have ended, and are recorded."""
    for name in _stored:
        (FOLDER / name).unlink(missing_ok=True)
