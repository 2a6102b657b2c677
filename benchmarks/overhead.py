"""Share of a finished run's job time that is start-up: interpreter, imports, Snakemake's preamble.

For every job, Snakemake's benchmark file holds the seconds of its process, and its log the seconds
of work between "start" and "done"; the difference is start-up. Snakemake's own time between jobs
is in neither.

Measured on a demo (53 jobs, figures not counted, 2 cores of a shared machine): 18 % of 968 s, nine
tenths of it in the 39 jobs that import torch. Another, on a machine loaded with much other work,
gave 45 % of 1831 s (60 jobs). The import of speed_limit.py took 3.5 s and takes 1.8 s since POT no
longer imports torch there; both shares are from before.

    make demo && python benchmarks/overhead.py           # reads results/
    python benchmarks/overhead.py --results FOLDER
    python benchmarks/overhead.py --imports              # what each script's imports take
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]


def jobs(results: Path) -> pd.DataFrame:
    """Return one row for each job: kind, seconds of its process, seconds of work."""
    rows = []
    for path in sorted((results / "benchmarks").rglob("*.tsv")):
        name = path.relative_to(results / "benchmarks").with_suffix(".log")
        log = results / "logs" / name
        done = re.findall(r"done after ([\d.]+) s", log.read_text()) if log.exists() else []
        if done:
            kind = re.sub(r"\d+(_of\d+)?$", "", path.stem)
            kind = "figure" if path.parent.parent.name == "studies" and kind != "collect" else kind
            kind = "subset" if re.match(r"n\d+-", path.stem) else kind
            total = float(pd.read_csv(path, sep="\t")["s"].iloc[0])
            rows.append({"kind": kind, "process": total, "work": float(done[-1])})
    return pd.DataFrame(rows)


def report(results: Path) -> None:
    """Print a table by kind of job and the share of all."""
    table = jobs(results)
    if table.empty:
        raise SystemExit(f"{results} holds no finished jobs; run make demo first")
    table["startup"] = (table["process"] - table["work"]).clip(lower=0)
    kinds = table.groupby("kind").agg(
        jobs=("process", "size"),
        process=("process", "sum"),
        startup=("startup", "sum"),
        each=("startup", "median"),
    )
    kinds["share"] = kinds["startup"] / kinds["process"]
    print(kinds.sort_values("startup", ascending=False).round(2).to_string())
    share = table["startup"].sum() / table["process"].sum()
    print(f"{len(table)} jobs, {table['process'].sum():.0f} s, start-up {share:.1%}")


def imports() -> None:
    """Print the CPU seconds that importing each rule's script takes, the least of three."""
    for script in sorted((ROOT / "scripts").glob("*.py")):
        seconds = []
        for _ in range(3):
            before = os.times()
            subprocess.run(
                [sys.executable, "-c", f"import {script.stem}"],
                check=True,
                env=os.environ | {"PYTHONPATH": str(ROOT / "scripts")},
            )
            after = os.times()
            user = after.children_user - before.children_user
            seconds.append(user + after.children_system - before.children_system)
        print(f"{script.stem:28s} {min(seconds):6.2f} s")


def main() -> None:
    """Read the arguments, print one of both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--imports", action="store_true")
    given = parser.parse_args()
    if given.imports:
        imports()
    else:
        report(given.results)


if __name__ == "__main__":
    main()
