"""What is released: the library's sdist and wheel, the citation, the container recipe."""

import importlib.metadata
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import jsonschema
import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement

from pipeline.code_digest import SCRIPTS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CITATION = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
CFF_SCHEMA = ROOT / ".venv/citation/cffconvert/schemas/1.2.0/schema.json"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def run(*command, cwd, env=None):
    """Run a command and return what it printed."""
    options = {"cwd": cwd, "env": env, "capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run(command, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder in which ``python -m build`` has put the sdist and, from it, the wheel."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("scripts/speedlimits", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("pyproject.toml", "MANIFEST.in", PROJECT["readme"], *PROJECT["license-files"]):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source, cwd=folder)
    return folder


def pulled_in(requirements):
    """Return the installed distributions that pip would install for some requirements."""
    found, waiting = {}, [(Requirement(text), "") for text in requirements]
    while waiting:
        wanted, extra = waiting.pop()
        if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
            for asked in {"", *wanted.extras} - found.setdefault(wanted.name, set()):
                found[wanted.name].add(asked)
                needed = importlib.metadata.requires(wanted.name) or []
                waiting += [(Requirement(text), asked) for text in needed]
    return [importlib.metadata.distribution(name) for name in found]


def test_wheel_installs_and_imports_in_an_environment_of_its_own(built, tmp_path):
    """With links to what its dependencies pull in, and nothing else that is installed here.

    To download torch anew would take minutes and a registry.
    """
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    where = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd="/")
    library = Path(where.strip())
    for distribution in pulled_in(PROJECT["dependencies"]):
        for name in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (library / name).exists():
                (library / name).symlink_to(distribution.locate_file(name))
    wheel = next(built.glob("speedlimits-*.whl"))
    pip = (sys.executable, "-m", "pip", "--python", python)
    # What pip found lacking it would write through the links, into the environment of the tests.
    run(*pip, "install", "--no-index", "--no-deps", wheel, cwd=tmp_path)
    run(*pip, "check", cwd=tmp_path)
    modules = sorted(path.stem for path in (SCRIPTS / "speedlimits").glob("[!_]*.py"))
    program = f"""
import importlib, importlib.metadata, importlib.util
for missing in ("torchvision", "xarray", "pandas", "snakemake", "yaml"):
    assert importlib.util.find_spec(missing) is None, missing
import speedlimits
for name in {modules!r}:
    module = importlib.import_module("speedlimits." + name)
    assert module.__file__.startswith({str(tmp_path)!r}), module.__file__
assert callable(speedlimits.measure)
print(importlib.metadata.version("speedlimits"))
"""
    assert run(python, "-I", "-c", program, cwd=tmp_path).strip() == PROJECT["version"]


def test_sdist_holds_the_library_and_its_license(built):
    listed = run("tar", "-tf", next(built.glob("speedlimits-*.tar.gz")), cwd=built).splitlines()
    inside = {name.split("/", 1)[1] for name in listed}
    wanted = {str(p.relative_to(ROOT)) for p in (SCRIPTS / "speedlimits").glob("*.py")}
    assert wanted | {"LICENSE", "README.md", "pyproject.toml"} <= inside
    assert not [name for name in inside if name.startswith("tests/")]  # they need the checkout


def test_library_pulls_in_no_torchvision_unasked():
    """The newest torchvision wants its own torch: pip would replace the one that is there."""
    names = [re.match(r"[\w-]+", line)[0] for line in PROJECT["dependencies"]]
    assert "torch" in names and "torchvision" not in names


def test_version_is_the_same_everywhere():
    changes = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert yaml.safe_load(CITATION)["version"] == changes == PROJECT["version"]


def test_citation_is_valid_and_names_the_paper():
    if not CFF_SCHEMA.is_file():
        pytest.skip(f"no {CFF_SCHEMA.relative_to(ROOT)}: make test installs cffconvert there")
    cited = yaml.load(CITATION, yaml.BaseLoader)  # dates and versions as text
    schema = json.loads(CFF_SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft7Validator(schema).validate(cited)
    assert "arXiv:2307.14653" in str(cited["references"])


def instructions(path):
    """Return (instruction, arguments) of a container recipe."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def test_container_recipe_copies_what_there_is_and_runs_the_commands_of_the_readme():
    found = instructions(ROOT / "Dockerfile")
    assert {name for name, _ in found} <= {"FROM", "ARG", "RUN", "WORKDIR", "COPY", "ENV", "CMD"}
    assert found[0][0] == "FROM" and found[-1][0] == "CMD"
    assert "python:3.11" in found[0][1]
    for name, arguments in found:
        if name == "COPY":
            *sources, target = shlex.split(arguments)
            assert all((ROOT / source).exists() for source in sources), arguments
            assert target.startswith(".")
        if name == "RUN":
            subprocess.run(["bash", "-n", "-c", arguments], check=True)
            for goal in re.findall(r"make (\S+)", arguments):
                run("make", "--dry-run", goal, cwd=ROOT)
    assert f"\n{' '.join(json.loads(found[-1][1]))} " in README  # ends with a command of the README


def test_container_gives_a_user_without_an_account_the_name_that_snakemake_asks_for(tmp_path):
    (arguments,) = [text for name, text in instructions(ROOT / "Dockerfile") if name == "ENV"]
    given = dict(pair.split("=", 1) for pair in shlex.split(arguments))
    script = (
        "import getpass, pathlib, pwd\n"
        "pwd.getpwuid = lambda number: {}[number]\n"
        "print(getpass.getuser(), pathlib.Path.home())"
    )
    run(sys.executable, "-c", script, cwd=tmp_path, env=given)


def test_container_leaves_out_what_git_ignores():
    def names(file):
        lines = (ROOT / file).read_text().splitlines()
        return {line.removeprefix("**/").rstrip("/") for line in lines}

    assert names(".dockerignore") == names(".gitignore")


def test_workflow_catalogue_lists_this_repository():
    """Rules of the catalogue for repositories of any layout (documentation read in 2026)."""
    assert re.search("snakemake", README, re.I) and re.search("workflow", README, re.I)
    assert (ROOT / "Snakefile").is_file() and list((ROOT / "rules").glob("*.smk"))
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert set(usage) == {"mandatory-flags", "software-stack-deployment"}
    assert set(usage["mandatory-flags"]) == {"desc", "flags"}
    assert usage["software-stack-deployment"] == {"conda": True, "report": True}
