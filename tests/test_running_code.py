"""A job runs the code that it was planned with, and will be recorded as, or none."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from checkouts import checkout
from conftest import ROOT

from pipeline import pages, running_code
from pipeline.code_digest import bytes_digest, code_digest
from pipeline.interruption import PLANNER, python_version
from pipeline.log import logged

SUBSET = "results/data/digits/n8-balanced-subset0.nc"
# Python imports it at every start: the job that makes the images edits a file of the next job.
EDITOR = """
import pathlib
import sys

if sys.argv[0].endswith(".prepare.py"):
    with open({file!r}, "a") as file:
        file.write({text!r})
"""


@pytest.fixture
def planned(monkeypatch):
    """What the jobs were planned with, to be changed."""
    monkeypatch.setenv(running_code.CODE, "")
    monkeypatch.setenv(PLANNER, python_version())
    running_code.tell_jobs(["train.py", "subset.py"])
    return json.loads(os.environ[running_code.CODE])


@pytest.mark.parametrize(
    ("file", "change", "python", "refused"),
    [
        pytest.param(None, {}, None, False, id="nothing"),
        pytest.param("pipeline/log.py", {0: "other"}, None, False, id="a comment"),
        pytest.param("pipeline/log.py", {0: "other", 1: "other"}, None, True, id="code"),
        pytest.param("pipeline/log.py", {0: "other"}, "3.0", True, id="trees of another Python"),
        pytest.param("pipeline/log.py", {1: "other"}, "3.0", False, id="same bytes there"),
        pytest.param("absent.py", {0: "other", 1: "other"}, None, False, id="not loaded"),
    ],
)
def test_only_changed_code_that_is_loaded_is_refused(
    planned, monkeypatch, file, change, python, refused
):
    if file:
        planned.setdefault(file, ["", ""])
        for place, digest in change.items():
            planned[file][place] = digest
    monkeypatch.setenv(running_code.CODE, json.dumps(planned))
    monkeypatch.setenv(PLANNER, python or python_version())
    if not refused:
        running_code.check_loaded()
        return
    with pytest.raises(ValueError, match=f"scripts/{file} was changed after this snakemake had"):
        running_code.check_loaded()


def test_what_is_loaded_later_is_checked_and_what_was_loaded_is_not_again(planned, monkeypatch):
    monkeypatch.setattr(running_code, "_read", set())  # by tests before, in this process
    checked = running_code.check_loaded()
    assert "pipeline/log.py" in checked
    late = "pages/interactive.html"
    for file in ("pipeline/log.py", late):  # edited while the job runs
        planned[file] = ["other", "other"]
    monkeypatch.setenv(running_code.CODE, json.dumps(planned))
    assert running_code.check_loaded(besides=checked) == checked
    pages.page("interactive")
    with pytest.raises(ValueError, match=f"scripts/{late} was changed after this snakemake had"):
        running_code.check_loaded(besides=checked)


def test_a_job_is_refused_for_what_it_loads_last(planned, monkeypatch, tmp_path, capsys):
    planned["pages/interactive.html"] = ["other", "other"]
    monkeypatch.setenv(running_code.CODE, json.dumps(planned))
    monkeypatch.setattr(running_code, "_read", set())
    with logged(str(tmp_path / "job.log")):
        pass
    with pytest.raises(SystemExit), logged(str(tmp_path / "job.log")):
        pages.page("interactive")
    assert "interactive.html was changed after" in (tmp_path / "job.log").read_text()


def test_what_is_told_to_jobs_covers_what_they_are_recorded_as(planned, tmp_path):
    assert {"train.py", "subset.py", "pipeline/log.py", "speedlimits/subsets.py"} <= planned.keys()
    assert planned["subset.py"] == [bytes_digest("subset.py"), planned["subset.py"][1]]
    assert len(planned["subset.py"][1]) == len(code_digest("subset.py"))


def test_a_job_script_is_the_copy_that_snakemake_makes(monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/x/tmp_a1.train.py", raising=False)
    assert "train.py" in running_code._loaded()


@pytest.mark.parametrize(
    ("file", "text", "refused"),
    [
        pytest.param("speedlimits/subsets.py", "own = 1\n", True, id="a module"),
        pytest.param("subset.py", "own = 1\n", True, id="the script"),
        pytest.param("speedlimits/subsets.py", "# own\n", False, id="a comment"),
        pytest.param("speedlimits/kernel.py", "own = 1\n", False, id="of other jobs"),
    ],
)
def test_code_that_is_edited_while_jobs_run_makes_no_result(tmp_path, file, text, refused):
    """It would be recorded as made by the code of before: then no later run makes it anew."""
    (tmp_path / "checkout").mkdir()
    folder = checkout(tmp_path / "checkout")
    (tmp_path / "sitecustomize.py").write_text(
        EDITOR.format(file=str(folder / "scripts" / file), text=text)
    )
    command = [sys.executable, "-m", "snakemake", "--cores", "1", SUBSET]
    command += ["--configfile", str(ROOT / "tests/miniature.yaml")]
    options = {"cwd": folder, "capture_output": True, "text": True, "timeout": 90}
    edited = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=edited, **options)
    assert (done.returncode != 0) == refused, done.stderr[-3000:]
    assert (folder / SUBSET).exists() is not refused
    if refused:
        told = f"scripts/{file} was changed after this snakemake had planned its jobs"
        assert told in done.stderr and "Traceback" not in done.stderr
        done = subprocess.run(command, **options)
        assert done.returncode == 0 and (folder / SUBSET).exists(), done.stderr[-3000:]


def test_packages_elsewhere_are_not_what_jobs_run(tmp_path):
    """As where pip has installed the library: jobs would run that, and be recorded as made by ours.

    Snakemake looks for the modules of a script last.
    """
    (tmp_path / "checkout").mkdir()
    folder = checkout(tmp_path / "checkout")
    for name in running_code.PACKAGES:
        package = tmp_path / "site" / name / "__init__.py"
        package.parent.mkdir(parents=True)
        package.write_text("raise SystemExit('of another installation')")
    # What every script imports first, as where pip has installed another checkout as editable
    (tmp_path / "site/quick_start.py").write_text("raise SystemExit('of another installation')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    for target in (SUBSET, "verify"):
        command = [sys.executable, "-m", "snakemake", "--cores", "1", target]
        command += ["--configfile", str(ROOT / "tests/miniature.yaml")]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=90
        )
        assert done.returncode == 0, done.stderr[-3000:]


def test_a_package_of_another_place_is_refused(monkeypatch, planned):
    running_code.check_loaded()
    assert {"pipeline", "speedlimits", "plots", "sentences"} == running_code.PACKAGES
    other = SimpleNamespace(__file__="/site-packages/speedlimits/__init__.py")
    monkeypatch.setitem(sys.modules, "speedlimits", other)
    with pytest.raises(ValueError, match="speedlimits was loaded from /site-packages/speedl"):
        running_code.check_loaded()
