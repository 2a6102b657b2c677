"""The library as a package: it builds, and its wheel imports alone."""

import subprocess
import sys
import zipfile

from conftest import ROOT

from pipeline.code_digest import SCRIPTS


def run(*command, cwd):
    """Run a command and return what it printed."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_wheel_builds_and_imports_alone(tmp_path):
    python = sys.executable
    build = (python, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path))
    run(*build, "-C--build-option=build", f"-C--build-option=--build-base={tmp_path}/b", cwd=ROOT)
    wheel = next(tmp_path.glob("speedlimits-*.whl"))
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    modules = sorted(path.stem for path in (SCRIPTS / "speedlimits").glob("[!_]*.py"))
    program = f"""
import importlib, sys
sys.path.insert(0, {str(installed)!r})
for name in {modules!r}:
    module = importlib.import_module("speedlimits." + name)
    assert module.__file__.startswith({str(installed)!r}), module.__file__
import importlib.metadata
print(importlib.metadata.version("speedlimits"))
"""
    assert run(python, "-I", "-c", program, cwd=tmp_path).strip() == "0.1.0"
