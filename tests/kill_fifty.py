"""Kill Snakemake or one of its jobs at random moments over the DAG, and compare the results.

``python tests/kill_fifty.py [--kills 50] [--seed 1]`` runs the miniature once undisturbed, then
again and again in other folders: every run is killed at a random moment, either its Snakemake
(SIGKILL) or one of its jobs (SIGKILL or SIGTERM), and the very same command follows until it ends
by itself. All digests must be those of the undisturbed run.
No flag, no unlock, no cleaning in between.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))
from test_workflow import ROOT, checkout, digests

SMALL = {"studies": {"dataset_size": {"vary": {"n": [8, 16]}, "realisations": 1}}}
LONGEST = 600  # seconds of one attempt


def start(folder: Path) -> subprocess.Popen:
    """Start the same command as always."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", "small.yaml"]
    log = open(folder / "terminal.log", "a")
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


def jobs(folder: Path) -> list[int]:
    """Return the processes that run a script of the workflow in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes()
            if b".snakemake/scripts" in words and os.readlink(process / "cwd") == str(folder):
                if b"bash" not in words.split(b"\0")[0]:
                    found.append(int(process.name))
    return found


def prepared(folder: Path) -> Path:
    """Return a fresh checkout with the small configuration."""
    folder.mkdir()
    checkout(folder)
    config = yaml.safe_load((ROOT / "tests/miniature.yaml").read_text()) | SMALL
    (folder / "small.yaml").write_text(yaml.safe_dump(config))
    return folder


def kill_at(
    folder: Path, process: subprocess.Popen, delay: float, dice: random.Random
) -> str | None:
    """Kill Snakemake or one of its jobs after a delay; return what was killed, None if too late."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(delay)
        return None
    number = dice.choice([signal.SIGKILL, signal.SIGTERM])
    target, found = "job", jobs(folder)
    if dice.random() < 0.5 or not found:
        target, number = "snakemake", signal.SIGKILL
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.kill(dice.choice(found), number)
    process.wait(LONGEST)
    return f"{target} {signal.Signals(number).name}"


def main(kills: int, seed: int) -> int:
    """Return 0 if every disturbed run ended with the digests of the undisturbed one."""
    dice, done, wrong, folders = random.Random(seed), 0, 0, 0
    root = Path(tempfile.mkdtemp(prefix="kill_fifty_"))
    try:
        reference = prepared(root / "reference")
        began = time.monotonic()
        if start(reference).wait(LONGEST) != 0:
            print((reference / "terminal.log").read_text()[-3000:])
            return 1
        duration = time.monotonic() - began
        expected = digests(reference)
        print(f"undisturbed: {duration:.0f} s, {len(expected)} files", flush=True)
        while done < kills:
            folders += 1
            folder = prepared(root / f"run{folders}")
            while True:
                process = start(folder)
                told = None
                if done < kills:
                    told = kill_at(folder, process, dice.uniform(2, 0.7 * duration), dice)
                if told is None:
                    break
                done += 1
                print(f"{done}: {told}, {len(digests(folder))} files", flush=True)
            status = process.wait(LONGEST)
            found = digests(folder)
            differing = [k for k in expected | found if expected.get(k) != found.get(k)]
            wrong += bool(status or differing)
            print(f"folder {folders}: status {status}, differing {differing}", flush=True)
            if status:
                print((folder / "terminal.log").read_text()[-3000:])
            shutil.rmtree(folder)
        print(f"{done} kills in {folders} folders, {wrong} with other results")
        return int(wrong > 0)
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    raise SystemExit(main(arguments.kills, arguments.seed))
