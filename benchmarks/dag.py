"""How long planning takes: a dry run of a new study, and a run of a finished one.

A study of 200 ensembles of 10 realisations is 2000 runs and about 9000 jobs. Every number is the
median of fresh processes, with the least and the most: processor seconds, elapsed seconds, peak
memory. "Finished" means that every output file exists and that Snakemake's records of
parameters and inputs are complete (files are empty, "snakemake --touch" writes the records).

Elapsed, for 2000 runs (8820 jobs) on 2 cores of a shared machine, snakemake 9.27.1, Python 3.11:

    nothing done: dry run, by rule         25 s   330 MB     (17 s when the machine was idle)
    nothing done: dry run, each job        33 s   331 MB
    finished: dry run                      19 s   394 MB
    finished: run                          26 s   390 MB

    python benchmarks/dag.py                     # 2000 runs
    python benchmarks/dag.py --ensembles 20      # 200 runs
    python benchmarks/dag.py --profile dag.prof  # where the time goes
"""

import argparse
import os
import pstats
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from measuring import conditions, whole_number, with_spread

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("Snakefile", "rules", "scripts", "config.yaml", "schemas", "profiles", "envs")
REALISATIONS = 10


def study(ensembles: int) -> dict:
    """Return a configuration whose study has that many ensembles, all of digits."""
    widths, sizes = 20, -(-ensembles // 20)
    return {
        "base": {"dataset": "digits"},
        "default_studies": ["grid"],
        "studies": {
            "grid": {
                "vary": {
                    "n": [20 * (k + 1) for k in range(sizes)],
                    "width": [8 * (k + 1) for k in range(widths)],
                },
                "realisations": REALISATIONS,
            }
        },
    }


def checkout(folder: Path, config: dict) -> None:
    """Copy what the workflow consists of into a folder, with the configuration."""
    for part in PARTS:
        source = ROOT / part
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / part)
    (folder / "grid.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def measured(folder: Path, *arguments: str, code: str = "", profile: str = "") -> tuple:
    """Run snakemake once.

    Args:
        folder: checkout to run in.
        arguments: of snakemake.
        code: Python code to run before snakemake starts.
        profile: file for what cProfile finds; empty for no profile.

    Returns:
        Processor seconds, elapsed seconds, peak memory in MB, what it printed.
    """
    options = ["-m", "cProfile", "-o", profile, "-m", "snakemake"] if profile else []
    start_code = f"{code}; from snakemake.cli import main; main()"
    options = options or (["-c", start_code] if code else ["-m", "snakemake"])
    command = [sys.executable, *options, "--cores", "2", *arguments]
    command += ["--configfile", "grid.yaml"]
    with open(folder / "output.txt", "w+", encoding="utf-8") as output:
        start = time.monotonic()
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{text[-3000:]}")
    return usage.ru_utime + usage.ru_stime, seconds, usage.ru_maxrss / 1000, text


def finish(folder: Path) -> None:
    """Create every output file and Snakemake's records of them."""
    *_, text = measured(folder, "-n", "--summary")
    for name in (line.split("\t")[0] for line in text.splitlines()):
        if name.startswith("results/"):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    # Without its pause of 0.1 s for each job, 15 minutes for 9000 jobs.
    no_pause = "from snakemake.executors.touch import Executor; Executor.SLEEPING_TIME = 0"
    measured(folder, "--touch", "--forceall", "--quiet", "all", code=no_pause)


def run(folder: Path, ensembles: int, repeats: int, profile: str) -> None:
    """Measure in one folder and print a row for each measurement."""
    checkout(folder, study(ensembles))

    def row(what: str, *arguments: str) -> str:
        runs = [measured(folder, *arguments, profile=profile) for _ in range(repeats)]
        processor, elapsed, megabytes, (text, *_) = zip(*runs, strict=True)
        print(
            f"{what:32s} {with_spread(processor, '.1f')} s of processor time, "
            f"{with_spread(elapsed, '.1f')} s elapsed, {with_spread(megabytes, '.0f')} MB",
            flush=True,
        )
        if profile:
            pstats.Stats(profile).sort_stats("cumulative").print_stats(60)
        return text

    text = row("nothing done: dry run, by rule", "-n", "--quiet", "rules")
    print(f"{'':32s} {re.search(r'^total +([0-9]+)', text, re.MULTILINE)[1]} jobs")
    row("nothing done: dry run, each job", "-n")
    finish(folder)
    for what, arguments in (("dry run", ["-n"]), ("run", [])):
        text = row(f"finished: {what}", *arguments)
        if "Nothing to be done" not in text:
            raise SystemExit(f"a finished study has jobs to do:\n{text[-3000:]}")


def main() -> None:
    """Measure in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--ensembles",
        type=whole_number,
        default=200,
        help="of 10 runs each; rounded up to 20, 40, ...",
    )
    parser.add_argument("--repeats", type=whole_number, default=3, help="of every measurement")
    parser.add_argument("--profile", default="", help="file for cProfile; prints where time goes")
    given = parser.parse_args()
    print(conditions(threads=None, packages=("snakemake",)))
    with tempfile.TemporaryDirectory() as folder:
        run(
            Path(folder),
            given.ensembles,
            given.repeats,
            given.profile and str(Path(given.profile).resolve()),
        )


if __name__ == "__main__":
    main()
