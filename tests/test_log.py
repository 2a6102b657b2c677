"""What a person sees while jobs run: on a terminal, in the logs, and in CI."""

import os
import pty
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from pipeline.log import Progress, job_name, machine

SNAKEFILE = """
rule train:
    output: "out.txt"
    log: "results/logs/runs/digits/n8-balanced-subset0/myrtle5-width4/flow/train3.log"
    script: "job.py"
"""
JOB = f"""
import sys, time
sys.path.insert(0, {str(ROOT / "scripts")!r})
from pathlib import Path
from pipeline import log

log.TERMINAL_SECONDS = 0.0
with log.logged(snakemake.log[0]):
    log.announce("eigenvalues of 8 rows")
    progress = log.Progress(4, every=0.0)
    for done in range(1, 5):
        time.sleep(0.01)
        progress.update(done, lambda: f"time {{done}} of 4, loss 0.5, inefficiency 2")
    Path(snakemake.output[0]).write_text("done")
"""


def run_on_terminal(folder, **environment):
    """Run snakemake with a pseudo-terminal as its standard error; return what was shown."""
    (folder / "Snakefile").write_text(SNAKEFILE)
    (folder / "job.py").write_text(JOB)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "snakemake", "--cores", "1"],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k != "CI"} | environment,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait(60) == 0, shown.decode()
    return shown.decode()


LINE = r"train3 digits n8 myrtle5: +75.0 % time 3 of 4, loss 0.5, inefficiency 2, elapsed 0:00:00"


def test_progress_of_jobs_is_shown_on_a_terminal_and_logged(tmp_path):
    shown = run_on_terminal(tmp_path)
    assert re.search(LINE, shown), shown
    assert re.search(r"left 0:00:00, ends \d\d:\d\d", shown)
    assert "train3 digits n8 myrtle5: eigenvalues of 8 rows" in shown
    log = next((tmp_path / "results/logs").rglob("train3.log")).read_text()
    assert "eigenvalues of 8 rows" in log
    assert " 75.0 % time 3 of 4" in log and "peak memory" in log and machine() in log


def test_progress_is_only_logged_in_ci(tmp_path):
    shown = run_on_terminal(tmp_path, CI="true")
    assert "inefficiency" not in shown and "eigenvalues" not in shown
    assert (
        " 75.0 % time 3 of 4" in next((tmp_path / "results/logs").rglob("train3.log")).read_text()
    )


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("results/logs/studies/width/collect.log", "collect width"),
        ("results/logs/runs/digits/n8-b-s0/net-w4/flow-x/train1.log", "train1 digits n8 net"),
        ("/elsewhere/job.log", "job"),
    ],
)
def test_jobs_have_short_names(path, name):
    assert job_name(path) == name


def test_a_computation_that_has_hardly_begun_has_an_end(capsys):
    progress = Progress(1e30, every=0.0)
    for done in (0.0, 1e-30):
        progress.update(done, lambda: "text")
    shown = capsys.readouterr().out
    assert re.search(r"left 277777:46:40, ends \d{4}-\d\d-\d\d$", shown, re.MULTILINE)
