"""Checkouts of the workflow in folders of their own, and Snakemake run in them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = (
    "Snakefile",
    "rules",
    "report",
    "scripts",
    "config.yaml",
    "configs",
    "schemas",
    "profiles",
    "envs",
)


def snakemake(folder, *arguments, configfile=ROOT / "tests/miniature.yaml"):
    """Run snakemake in a folder and return the finished process."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    if configfile:
        command += ["--configfile", str(configfile)]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )


def checkout(folder):
    """Copy what the workflow consists of, without results."""
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / part, ignore=ignore)
        else:
            shutil.copy(source, folder / part)
    return folder


def planned(process):
    """Return rule -> number of jobs of a dry run."""
    assert process.returncode == 0, process.stdout + process.stderr
    text = process.stdout + process.stderr
    if "Nothing to be done" in text:
        return {}
    table = text.split("Job stats:")[1].split("total")[0]
    return {m[1]: int(m[2]) for m in re.finditer(r"^(\w+) +(\d+)$", table, re.MULTILINE)}
