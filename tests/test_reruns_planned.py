"""Reruns as Snakemake itself plans them, on a tree with finished outputs, for every change.

test_reruns.py says which parameters a change alters; here Snakemake's own graph, with the triggers
of the shipped profile, says which jobs would run. Three facts decide what must run: an output is
not there, a parameter differs, or the list of inputs does; and whatever reads what such a job
makes. Every other job must be left alone.
"""

import copy
import hashlib
import os
import shutil
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
import yaml
from checkouts import checkout
from dry_runs import DryRuns
from test_reruns import (
    EXPECTED,
    FOLDER,
    MODULES,
    SCHEMA,
    WILDCARDS,
    config,
    own_module,
    with_study,
)

from pipeline import code_digest as cd
from pipeline.runs import Plan
from pipeline.settings import RULES, RuleSettings

pytestmark = pytest.mark.workflow
TARGETS = (
    "all",
    "studies",
    "experiment_dataset_size",
    "experiment_langevin_temperature",
    "experiment_perceptron",
    "experiment_width",
    *(f"study_{name}" for name in config()["studies"]),
)
NO_PAUSE = """
from snakemake.executors.touch import Executor
from snakemake.cli import main
Executor.SLEEPING_TIME = 0
main()
"""
EMPTY = hashlib.sha256(b"").hexdigest()  # of the archive in a tree of empty files


class Tree:
    """A checkout whose outputs are all there, with Snakemake's records of how they were made.

    Args:
        folder: where to make it.
    """

    def __init__(self, folder):
        self.folder = checkout(folder)
        self.config = config()
        self.config["datasets"]["cifar10"]["sha256"] = EMPTY
        self.write(self.config)
        shutil.copy(f"{FOLDER.name}/{own_module()}.py", folder)
        self.runs = DryRuns(folder)
        for job in self.planned():
            for name in job["output"]:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).touch()
        command = [sys.executable, "-c", NO_PAUSE, "--cores", "1", "--touch", "--forceall"]
        subprocess.run([*command, *TARGETS], cwd=folder, check=True, capture_output=True)
        self.finished = self.planned()

    def write(self, changed):
        """Write the configuration of the checkout."""
        (self.folder / "config.yaml").write_text(yaml.safe_dump(changed, sort_keys=False))

    def planned(self, *options):
        """Return every job of the graph of all targets."""
        return self.runs.plan(*TARGETS, *options)

    def after(self, changed, *options):
        """Return the jobs of the graph under another configuration."""
        self.write(changed)
        try:
            return self.planned(*options)
        finally:
            self.write(self.config)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A finished tree; nothing is to be done in it."""
    made = Tree(tmp_path_factory.mktemp("tree"))
    with made.runs:
        assert to_run(made.finished) == set()
        yield made


def key(job):
    """Return (rule, wildcards), as the table of test_reruns.py has them."""
    names = WILDCARDS.get(job["rule"], sorted(job["wildcards"]))
    return (job["rule"], *(job["wildcards"][name] for name in names))


def to_run(found):
    """Return the jobs that Snakemake would run, targets without files left out."""
    return {key(job) for job in found if job["reason"] and job["output"]}


def needed(finished, found, stale):
    """Return the jobs that must run: stale, new or with other inputs, and what reads from them.

    Args:
        finished: graph of the finished tree.
        found: graph after the change.
        stale: jobs with other parameters.
    """
    jobs = [job for job in found if job["output"]]
    inputs = {key(job): job["input"] for job in finished}
    chosen = stale | {key(job) for job in jobs if inputs.get(key(job)) != job["input"]}
    while True:
        made = {name for job in jobs if key(job) in chosen for name in job["output"]}
        more = {key(job) for job in jobs if made & set(job["input"])}
        if more <= chosen:
            return chosen
        chosen |= more


def test_every_job_has_a_log_and_a_benchmark_of_its_own_which_tell_its_rule(tree):
    """What jobs cost is summed by rules, which are found by the names of the benchmark files."""
    jobs = [job for job in tree.finished if job["log"]]
    assert len({job["rule"] for job in jobs}) > 20
    for kind in ("log", "benchmark"):
        path, jobs_of_it = Counter(str(job[kind]) for job in jobs if job[kind]).most_common(1)[0]
        assert jobs_of_it == 1, path
    for job in jobs:
        if job["benchmark"]:
            assert job["benchmark_of"] == [job["rule"]], job["benchmark"]


def mutated(tree, dotted, value):
    """Return the configuration with another value of one key."""
    other = copy.deepcopy(tree.config)
    *parents, last = with_study(dotted).split(".")
    place = other
    for name in parents:
        place = place[name]
    place[last] = copy.deepcopy(value)
    return other


def parameters(config, found):
    """Return job -> what Snakemake compares of it, for the jobs of a graph."""
    settings = RuleSettings(config, Plan(config))
    of = {rule: settings.of(rule) for rule in RULES}
    of["download"] = lambda wildcards: settings.download()
    wanted = [job for job in found if job["rule"] in of]
    return {key(job): repr(of[job["rule"]](SimpleNamespace(**job["wildcards"]))) for job in wanted}


# In every run of the suite; all keys and modules with SPEEDLIMITS_RERUNS=all, about 4 minutes.
SOME_KEYS = {
    "seed",
    "datasets.cifar10.archive",
    "datasets.NAME.file",
    "base.width",
    "base.final_time",
    "default_studies",
    "studies.NAME.vary",
    "studies.NAME.realisations",
    "warm_start.test_accuracy",
    "kernel.memory_gb",
    "fit.bins_per_decade",
    "figures.dpi",
    "theory.langevin.members",
    "compute.train_threads",
}
SOME_MODULES = {
    "speedlimits/kernel.py",
    "speedlimits/statistics.py",
    "pipeline/config.py",
    "pipeline/stores.py",
    "plots/outcomes.py",
}
EVERYTHING = os.environ.get("SPEEDLIMITS_RERUNS") == "all"


# Their jobs for the images of one experiment stand in no row of the table.
DATA = {"download", "prepare", "subset"}


@pytest.mark.parametrize("name", EXPECTED if EVERYTHING else sorted(SOME_KEYS))
def test_a_key_reruns_exactly_what_uses_it(tree, name):
    value, stale_rules, new_rules = EXPECTED[name]
    other = mutated(tree, name, value)
    found = tree.after(other)
    before, after = parameters(tree.config, tree.finished), parameters(other, found)
    stale = {k for k in before.keys() & after.keys() if before[k] != after[k]}
    assert to_run(found) == needed(tree.finished, found, stale)
    assert {rule for rule, *_ in stale} - DATA == stale_rules - DATA
    new = {rule for rule, *_ in after.keys() - before.keys()} - DATA
    assert new - {"figure"} == new_rules - DATA


@pytest.mark.parametrize("module", MODULES if EVERYTHING else sorted(SOME_MODULES))
def test_an_edited_module_reruns_exactly_what_imports_it(tree, module):
    path = tree.folder / "scripts" / module
    text = path.read_text(encoding="utf-8")
    path.write_text(text + "\nEDITED = 1\n", encoding="utf-8")
    try:
        found = tree.planned()
    finally:
        path.write_text(text, encoding="utf-8")
    stale = set()
    for job in tree.finished:
        if job["rule"] in RULES:
            figure = job["wildcards"].get("figure")
            more = [f"plots/{figure}.py"] if figure else []
            if module in cd.reachable(RULES[job["rule"]].script, *more):
                stale.add(key(job))
    assert to_run(found) == needed(tree.finished, found, stale)


def test_comments_docstrings_layout_and_times_of_all_modules_rerun_nothing(tree):
    files = sorted((tree.folder / "scripts").rglob("*.py"))
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    for path, text in texts.items():
        text = text.replace('"""', '"""Edited. ', 1).replace("\n\n\n", "\n\n\n# a comment\n\n\n\n")
        path.write_text("# edited\n" + text + "\n\n", encoding="utf-8")
    rules = tree.folder / "rules/train.smk"
    smk = rules.read_text()
    rules.write_text("# a comment\n" + smk.replace("mem_mb=4000", "mem_mb=4100"))
    try:
        assert to_run(tree.planned()) == set()
    finally:
        rules.write_text(smk)
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
    for path in [*files, tree.folder / "Snakefile", *(tree.folder / "rules").glob("*.smk")]:
        path.touch()
    assert to_run(tree.planned()) == set()


def backwards(value):
    """Return a value with the keys of every mapping in it in the opposite order."""
    if isinstance(value, dict):
        return {name: backwards(value[name]) for name in reversed(value)}
    return [backwards(part) for part in value] if isinstance(value, list) else value


def test_order_of_the_config_and_of_resources_reruns_nothing(tree):
    other = backwards(tree.config)
    options = ("--set-threads", "train=2", "--set-resources", "train:mem_mb=1", "collect:runtime=1")
    assert to_run(tree.after(other, *options)) == set()


def test_another_place_of_the_same_data_file_reruns_nothing(tree, tmp_path):
    other = copy.deepcopy(tree.config)
    entry = other["datasets"]["mine"]
    entry["file"] = str(shutil.copy(entry["file"], tmp_path / "its {copy}.npz"))
    assert to_run(tree.after(other)) == set()


def test_another_study_adds_its_own_jobs_only(tree):
    other = copy.deepcopy(tree.config)
    other["studies"]["more"] = {"set": {"n": 64}, "vary": {}, "realisations": 1}
    found = tree.after(other)
    there = {name for job in tree.finished for name in job["output"]}
    new = {key(job) for job in found if job["output"] and not set(job["output"]) <= there}
    assert to_run(found) == new | {("all_studies",)}  # one file of all studies
    assert {rule for rule, *_ in to_run(found)} >= {"subset", "train", "collect", "figure"}


def test_null_reruns_what_leaving_out_what_it_removes_does(tree):
    given, without = copy.deepcopy(tree.config), copy.deepcopy(tree.config)
    one_size = {"set": {"n": 48}, "figures": ["inefficiency_size"]}  # which has been trained
    given["studies"]["dataset_size"] |= {"vary": {"n": None}, **one_size}
    without["studies"]["dataset_size"] |= {"vary": {}, **one_size}
    found = to_run(tree.after(given))
    assert found == to_run(tree.after(without))
    assert {job[1] for job in found if job[0] in ("collect", "findings")} == {"dataset_size"}
    assert "train" not in {rule for rule, *_ in found}
    given = copy.deepcopy(tree.config)
    given["studies"]["dataset_size"]["vary"]["width"] = None
    assert to_run(tree.after(given)) == set()  # nothing to be removed


def test_what_runs_every_time_is_known():
    assert set(EXPECTED) >= SOME_KEYS and set(MODULES) >= SOME_MODULES
    assert SCHEMA["properties"].keys() == {name.split(".")[0] for name in EXPECTED}
