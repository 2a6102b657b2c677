"""The workflow itself: a miniature run, reruns, refusals, presets, environments."""

import ast
import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import yaml
from checkouts import checkout, planned, snakemake
from conftest import ROOT

from pipeline.code_digest import SCRIPTS, reachable
from pipeline.runs import SIZE_FIGURES
from pipeline.settings import FIGURES, RULES

pytestmark = pytest.mark.workflow
FIGURE_FOLDER = "results/studies/dataset_size/figures"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A checkout in which the miniature has been run once."""
    folder = checkout(tmp_path_factory.mktemp("miniature"))
    process = snakemake(folder)
    assert process.returncode == 0, process.stdout[-5000:] + process.stderr[-5000:]
    return folder


def test_all_tables_and_figures_are_there(finished):
    folder = finished / "results/studies/dataset_size"
    for figure in SIZE_FIGURES:
        png, pdf = (folder / f"figures/{figure}.{kind}" for kind in ("png", "pdf"))
        assert png.read_bytes()[:4] == b"\x89PNG" and pdf.read_bytes()[:4] == b"%PDF"
    table = pd.read_csv(folder / "speed_limits.csv")
    wanted = """n width model realisation start time loss_drop geodesic_length path_length action
    speed_limit_time inefficiency inefficiency_low inefficiency_high speed_unevenness path_excess
    inefficiency_predicted inefficiency_power_law""".split()
    assert set(wanted) <= set(table.columns)
    assert set(table["realisation"]) == {"0", "1", "ensemble"}
    # At tolerance 0.01 the integrator is off by as much; the bound itself is asserted in the job.
    assert (table["inefficiency"].dropna() >= 1 - 0.01).all()
    exponents = pd.read_csv(folder / "exponents.csv")
    assert {"n", "moment", "kernel", "alpha", "alpha_low", "alpha_high", "delta", "first_rank"} <= (
        set(exponents.columns)
    )


def test_second_run_has_nothing_to_do(finished):
    process = snakemake(finished)
    assert "Nothing to be done" in process.stdout + process.stderr


def test_nothing_unfinished_is_left(finished):
    assert list((finished / "results").rglob("?*.partial")) == []
    stages = finished / "results/.partial"
    assert not stages.exists() or list(stages.iterdir()) == []


def digests(folder):
    """Return file -> digest of every table, figure and spectrum."""
    root = folder / "results"
    kinds = {".csv", ".png", ".pdf", ".nc", ".json"}
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.suffix in kinds and "logs" not in path.parts
    }


def test_same_config_and_seed_give_the_same_bits(finished, reported):
    once, again = digests(finished), digests(reported)
    assert once == {name: again[name] for name in once}


# What one change of the configuration makes stale.
# What is made from the tables of the studies: theory figures with the networks in them, the report.
PLACED = {"theory_measured", "theory_figure", "reproduction", "interactive", "all_runs"}
ANALYSIS = {"exponents", "speed_limit", "collect", "figure", "findings", *PLACED}
CHANGES = [
    ("figures=dict(dpi=70)", {"figures": {"dpi": 70}}, {"figure", "theory_figure"}),
    ("resamples", {"statistics": {"resamples": 120}}, ANALYSIS),
    ("fit window", {"fit": {"last_rank_fraction": 0.6}}, {"exponents"}),
    ("warm start", {"warm_start": {"test_accuracy": 0.25}}, {"warm_start"}),
    ("memory", {"kernel": {"memory_gb": 1.5}}, set()),
    ("threads", {"compute": {"kernel_threads": 2}}, set()),
    ("unused key", {"base": {"learning_rate": 0.3}}, set()),
    (
        "smaller study",
        {"studies": {"dataset_size": {"vary": {"n": [8]}}}},
        {"collect", "figure", "findings", *PLACED},
    ),
    ("theory", {"theory": {"power_law": {"count": 500}}}, {"theory_power_law", "theory_figure"}),
]


@pytest.mark.parametrize(("name", "change", "rules"), CHANGES, ids=[c[0] for c in CHANGES])
def test_a_change_reruns_what_uses_it_and_nothing_else(finished, tmp_path, name, change, rules):
    from snakemake.utils import update_config

    config = yaml.safe_load((ROOT / "tests/miniature.yaml").read_text())
    update_config(config, change)
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(config))
    found = set(planned(snakemake(finished, "-n", configfile=path))) - {"all"}
    downstream = {
        "exponents": {"speed_limit", "collect", "figure", "findings", *PLACED},
        "warm_start": {
            "ntk_warm",
            "exponents",
            "speed_limit",
            "collect",
            "figure",
            "findings",
            *PLACED,
        },
    }
    assert rules <= found
    allowed = rules.union(*(downstream.get(rule, set()) for rule in rules))
    assert found <= allowed


def test_one_more_size_runs_the_new_runs_only(finished, tmp_path):
    config = yaml.safe_load((ROOT / "tests/miniature.yaml").read_text())
    config["studies"]["dataset_size"]["vary"]["n"] = [8, 12, 16]
    path = tmp_path / "more.yaml"
    path.write_text(yaml.safe_dump(config))
    found = planned(snakemake(finished, "-n", configfile=path))
    assert found["train"] == 2 and found["subset"] == 1 and found["ntk_start"] == 2
    assert "prepare" not in found and found["collect"] == 1


def test_touch_and_comments_rerun_nothing_but_code_does(finished):
    library = finished / "scripts/speedlimits/speed_limit.py"
    text = library.read_text()
    for path in (finished / "scripts").rglob("*.py"):
        path.touch()
    library.write_text("# a comment\n" + text)
    assert planned(snakemake(finished, "-n")) == {}
    library.write_text(text.replace("50 * (1", "50.0 * (1") + "\nNEW = 1\n")
    stale = set(planned(snakemake(finished, "-n"))) - {"all"}
    assert "speed_limit" in stale and stale <= {
        "speed_limit",
        "collect",
        "figure",
        "findings",
        *PLACED,
    }
    library.write_text(text)
    assert planned(snakemake(finished, "-n")) == {}


def test_bad_config_is_told_before_any_job_and_without_traceback(tmp_path):
    folder = checkout(tmp_path)
    bad = tmp_path / "bad.yaml"
    bad.write_text("base: {widht: 3, relative_tolerance: 1e-3}\n")
    process = snakemake(folder, "-n", configfile=bad)
    text = process.stdout + process.stderr
    assert process.returncode != 0
    assert "did you mean width?" in text and "write 1.0e-3" in text
    assert "Traceback" not in text
    assert not (folder / "results").exists()


def test_use_as_a_module_of_another_workflow_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "Snakefile").write_text(
        f'module limits:\n    snakefile: "{ROOT}/Snakefile"\nuse rule * from limits as limits_*\n'
    )
    process = snakemake(tmp_path, "-n", configfile=None)
    text = process.stdout + process.stderr
    assert process.returncode != 0 and "Traceback" not in text
    assert "this workflow cannot be a module of another one; run it by itself" in text


@pytest.mark.parametrize("preset", ["demo", "paper", None])
def test_presets_plan_on_any_machine(tmp_path, preset):
    folder = checkout(tmp_path)
    configfile = folder / f"configs/{preset}.yaml" if preset else None
    found = planned(snakemake(folder, "-n", configfile=configfile))
    sizes = {"demo": (3, 3), "paper": (4, 6), None: (4, 3)}[preset]
    assert found["train"] == sizes[0] * sizes[1]
    assert found["figure"] == len(SIZE_FIGURES)
    assert ("download" in found) == (preset != "demo")


def test_flow_lies_over_another_preset(tmp_path):
    folder = checkout(tmp_path)
    process = snakemake(folder, "-n", configfile=folder / "configs/paper.yaml")
    presets = ["--configfile", "configs/paper.yaml", "configs/flow.yaml"]
    laid = snakemake(folder, "-n", *presets, configfile=None)
    assert planned(laid) == planned(process)
    assert "gradient_flow-" in laid.stdout + laid.stderr
    assert "gradient_descent-" not in laid.stdout + laid.stderr
    networks = set(re.findall(r"/(myrtle5-[^/]+)/", laid.stdout + laid.stderr))
    assert networks == {"myrtle5-width128-ntk-he-one_hot-float32"}


def test_every_study_on_images_has_its_size_at_the_papers_width(tmp_path):
    folder = checkout(tmp_path)
    process = snakemake(folder, "-n", "studies", configfile=folder / "configs/paper_studies.yaml")
    plan = process.stdout + process.stderr
    sizes = set(re.findall(r"results/data/cifar10/n(\d+)-", plan))
    assert sizes == {"500", "1000", "2000"}
    assert "-width128-" in plan


# import name -> conda package, where they differ
CONDA_NAMES = {
    "torch": "pytorch",
    "sklearn": "scikit-learn",
    "ot": "pot",
    "requests": "pooch",
    "yaml": "pyyaml",
}


def conda_packages(path):
    return {line.split()[0] for line in yaml.safe_load(path.read_text())["dependencies"]}


def env_of_rules():
    """Return rule -> conda environment file, read from the rule files."""
    found = {}
    for path in (ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")):
        text = path.read_text().replace(
            'inputs.torch_environment(COMPUTE["device"])', '"../envs/torch.yaml"'
        )
        for block in re.split(r"^(?=rule |use rule )", text, flags=re.MULTILINE):
            env = re.search(r'conda:\s+"(?:\.\./)?(envs/\w+\.yaml)"', block)
            name = re.match(r"rule (\w+):", block)
            heir = re.match(r"use rule (\w+) as (\w+) with:", block)
            if env and name:
                found[name[1]] = ROOT / env[1]
            elif heir:
                found[heir[2]] = found[heir[1]]
    return found


def imported_names(source):
    """Return the top-level names that ``source`` imports anywhere, read from its syntax tree."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


@pytest.mark.parametrize(
    "rule", [*RULES, "download", "benchmark_summary", "provenance", "verify", "clean_states"]
)
def test_environment_provides_what_the_rule_imports(rule):
    script = RULES[rule].script if rule in RULES else f"{rule}.py"
    more = [f"plots/{name}.py" for name in FIGURES] if rule == "figure" else []
    local = {path.stem for path in SCRIPTS.glob("*.py")}
    local |= {"speedlimits", "pipeline", "plots", "sentences"}
    needed = set()
    for path in reachable(script, *more):
        for name in imported_names((SCRIPTS / path).read_text()):
            if name not in sys.stdlib_module_names | local:
                needed.add(CONDA_NAMES.get(name, name))
    assert needed <= conda_packages(env_of_rules()[rule]), rule


def test_bounds_agree_between_requirements_project_and_environments():
    def bounds(lines):
        return {m[1].lower(): m[2] for m in (re.match(r"([\w-]+) ?(.*)", x) for x in lines)}

    text = (ROOT / "requirements.txt").read_text().splitlines()
    pip = bounds(line for line in text if line and not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    given = [*project["dependencies"], *project["optional-dependencies"]["vision-transformer"]]
    library = bounds(given)
    for name in library.keys() - {"torch", "torchvision"}:  # which requirements.txt pins
        assert pip[name] == library[name], name
    assert pip["torch"].startswith("==") and pip["torchvision"].startswith("==")
    for path in (ROOT / "envs").glob("*.yaml"):
        for name, bound in bounds(yaml.safe_load(path.read_text())["dependencies"]).items():
            if name != "python":
                name = "torch" if name.startswith("pytorch") else name
                assert {**pip, **library}[name] == bound, (path.name, name)


def test_no_result_or_archive_is_tracked():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True
    ).stdout.splitlines()
    assert not [f for f in tracked if f.startswith("results/") and f != "results/README.md"]
    assert not [f for f in tracked if Path(f).suffix in (".gz", ".nc", ".zarr", ".npz")]
