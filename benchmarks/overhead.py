"""Share of the demo's processor time that is start-up: interpreter, imports, Snakemake's preamble.

Runs the demo once, in a folder of its own. Every job's process notes the processor seconds (user
and system) that it had used when its work began and when it ended. Processor time depends little
on what else the machine does; elapsed time would.

    python benchmarks/overhead.py
    python benchmarks/overhead.py --configfile tests/miniature.yaml
    python benchmarks/overhead.py --imports      # what each script's imports take
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from measuring import conditions, with_spread

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("Snakefile", "config.yaml", "configs", "rules", "scripts", "schemas", "profiles", "envs")
# Python runs a module of this name at its start: it notes when the function pipeline.log.logged,
# in which all work happens, is entered, and the end of the process.
NOTES = """
import atexit, importlib.machinery, json, os, sys, time

began = []

class Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module):
        super().exec_module(module)
        original = module.logged
        def logged(*arguments, **named):
            began.append(time.process_time())
            return original(*arguments, **named)
        module.logged = logged

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "pipeline.log":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec

def note():
    script = os.path.basename(sys.argv[0]) if "/.snakemake/scripts/" in sys.argv[0] else ""
    if script and began:
        used = {"script": script.split(".")[1], "startup": began[0], "all": time.process_time()}
        with open(os.environ["OVERHEAD_NOTES"], "a") as file:
            file.write(json.dumps(used) + "\\n")

sys.meta_path.insert(0, Finder)
atexit.register(note)
"""


def run(folder: Path, configfile: Path) -> tuple[pd.DataFrame, float, float]:
    """Run the workflow once in a folder.

    Args:
        folder: empty.
        configfile: laid over the shipped configuration.

    Returns:
        One row for each job (script, processor seconds until its work began and in all); processor
        seconds and elapsed seconds of the whole command.
    """
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, folder / part)
    (folder / "notes").mkdir()
    (folder / "notes/sitecustomize.py").write_text(NOTES, encoding="utf-8")
    notes = folder / "notes.jsonl"
    environment = os.environ | {"PYTHONPATH": str(folder / "notes"), "OVERHEAD_NOTES": str(notes)}
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--quiet", "all"]
    command += ["--configfile", str(configfile.resolve())]
    before, start = os.times(), time.monotonic()
    subprocess.run(command, cwd=folder, env=environment, check=True)
    after, seconds = os.times(), time.monotonic() - start
    used = after.children_user - before.children_user
    used += after.children_system - before.children_system
    lines = notes.read_text(encoding="utf-8").splitlines()
    return pd.DataFrame([json.loads(line) for line in lines]), used, seconds


def report(configfile: Path) -> None:
    """Run the workflow, print a table by script and the share of all."""
    with tempfile.TemporaryDirectory() as folder:
        jobs, used, seconds = run(Path(folder), configfile)
    kinds = jobs.groupby("script").agg(
        jobs=("all", "size"),
        seconds=("all", "sum"),
        startup=("startup", "sum"),
        each=("startup", "median"),
        least=("startup", "min"),
        most=("startup", "max"),
    )
    kinds["share"] = kinds["startup"] / kinds["seconds"]
    print(kinds.sort_values("startup", ascending=False).round(2).to_string())
    total, startup = jobs["all"].sum(), jobs["startup"].sum()
    print(f"{len(jobs)} jobs, {total:.0f} s of processor time, start-up {startup / total:.1%}")
    rest = used - total
    print(f"with Snakemake itself ({rest:.0f} s): {used:.0f} s of processor time")
    print(f"{seconds:.0f} s elapsed, load {os.getloadavg()[0]:.1f}")


def imports() -> None:
    """Print the processor seconds that importing each rule's script takes: median (least-most)."""
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
        print(f"{script.stem:28s} {with_spread(seconds)} s")


def main() -> None:
    """Read the arguments, print one of both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configfile", type=Path, default=ROOT / "configs/demo.yaml")
    parser.add_argument("--imports", action="store_true")
    given = parser.parse_args()
    if not given.configfile.is_file():
        parser.error(f"--configfile {given.configfile}: there is no such file")
    print(conditions(threads=None, packages=("snakemake", "torch", "numpy", "scipy")))
    if given.imports:
        imports()
    else:
        report(given.configfile)


if __name__ == "__main__":
    main()
