"""Kill Snakemake or one of its jobs at random moments over the DAG, and compare the results.

``python tests/kill_fifty.py [--kills 50] [--seed 1]``, a part of ``make test-long``, runs the
miniature once undisturbed, then again and again in other folders: every run is killed at a random
moment, either its Snakemake (SIGKILL) or one of its jobs (SIGKILL or SIGTERM), and the very same
command follows until it ends by itself. All digests must be those of the undisturbed run.
No flag, no unlock, no cleaning in between.

The miniature's jobs last seconds, where a job stores its state every 20 s. So all of these copies
of the workflow, the undisturbed one too, store it at every opportunity instead.
"""

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import yaml

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("tests", "scripts")]
from checkouts import ROOT, checkout  # noqa: E402
from test_workflow import digests  # noqa: E402

SMALL = {"studies": {"dataset_size": {"vary": {"n": [8, 16]}, "realisations": 1}}}
LANGEVIN = {
    "set": {"n": 8, "final_time": 5},
    "networks": [{"model": "fully_connected", "width": 8, "depth": 2}],
    "temperatures": [0.0, 0.01, 0.1],
    "realisations": 2,
}
TARGETS = ("all", "experiment_langevin_temperature")
LONGEST = 3600  # seconds of one attempt, on a machine that other work keeps busy too
RARELY = "CHECKPOINT_SECONDS = 20.0"  # in scripts/pipeline/trajectory.py


def start(folder: Path) -> subprocess.Popen:
    """Start the same command as always."""
    command = [sys.executable, "-m", "snakemake", *TARGETS]
    command += ["--cores", "2", "--configfile", "small.yaml"]
    log = open(folder / "terminal.log", "a")
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


def jobs(folder: Path) -> dict[int, str]:
    """Return process -> script of the workflow that it runs in a folder."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes()
            script = re.search(rb"\.snakemake/scripts/\w+\.(\w+)\.py", words)
            if script and os.readlink(process / "cwd") == str(folder):
                if b"bash" not in words.split(b"\0")[0]:
                    found[int(process.name)] = script[1].decode()
    return found


def prepared(folder: Path) -> Path:
    """Return a checkout with the small configuration."""
    folder.mkdir()
    checkout(folder)
    config = yaml.safe_load((ROOT / "tests/miniature.yaml").read_text()) | SMALL
    config["theory"]["langevin"] = LANGEVIN
    module = folder / "scripts/pipeline/trajectory.py"
    text = module.read_text()
    assert RARELY in text
    module.write_text(text.replace(RARELY, "CHECKPOINT_SECONDS = 0.0"))
    (folder / "small.yaml").write_text(yaml.safe_dump(config))
    return folder


def files_of(folder: Path) -> int:
    """Return the number of result files, while jobs of a killed Snakemake may still write some."""
    return sum(len(names) for _, _, names in os.walk(folder / "results"))


def kill_at(
    folder: Path, process: subprocess.Popen, delay: float, dice: random.Random
) -> str | None:
    """Kill Snakemake or one of its jobs after a delay; return what was killed, None if too late."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(delay)
        return None
    number = dice.choice([signal.SIGKILL, signal.SIGTERM])
    target, found = "", jobs(folder)
    if dice.random() < 0.25 or not found:
        target, number = "snakemake", signal.SIGKILL
        process.kill()
    else:
        chosen = dice.choice(sorted(found))
        target = found[chosen]
        with contextlib.suppress(ProcessLookupError):
            os.kill(chosen, number)
    process.wait(LONGEST)
    return f"{target} {signal.Signals(number).name}"


def main(kills: int, seed: int) -> int:
    """Return 0 if every disturbed run ended with the digests of the undisturbed one."""
    dice, done, wrong, folders, compared = random.Random(seed), 0, 0, 0, 0
    killed: Counter[str] = Counter()
    root = Path(tempfile.mkdtemp(prefix="kill_fifty_"))
    try:
        workflow = prepared(root / "workflow")  # of now, whatever is edited meanwhile
        reference = shutil.copytree(workflow, root / "reference")
        began = time.monotonic()
        if start(reference).wait(LONGEST) != 0:
            print((reference / "terminal.log").read_text()[-3000:])
            return 1
        duration = time.monotonic() - began
        expected = digests(reference)
        print(f"undisturbed: {duration:.0f} s, {len(expected)} files", flush=True)
        while done < kills:
            folders += 1
            folder = shutil.copytree(workflow, root / f"run{folders}")
            while True:
                process = start(folder)
                told = None
                if done < kills:
                    told = kill_at(folder, process, dice.uniform(2, 0.7 * duration), dice)
                if told is None:
                    break
                done += 1
                killed[told] += 1
                print(f"{done}: {told}, {files_of(folder)} files", flush=True)
            status = process.wait(LONGEST)
            found = digests(folder)
            differing = [k for k in expected | found if expected.get(k) != found.get(k)]
            wrong += bool(status or differing)
            compared += len(expected | found)
            print(f"folder {folders}: status {status}, differing {differing}", flush=True)
            if status:
                print((folder / "terminal.log").read_text()[-3000:])
            shutil.rmtree(folder)
        for told, count in killed.most_common():
            print(f"{count:4} {told}")
        print(
            f"{done} kills in {folders} folders, {compared} digests compared, "
            f"{wrong} folders with other results"
        )
        return int(wrong > 0)
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    raise SystemExit(main(arguments.kills, arguments.seed))
