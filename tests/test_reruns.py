"""What one change of a config key or of a module makes stale, for every key and every module."""

import copy
import functools
import itertools
import re
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from conftest import ROOT

from pipeline import code_digest as cd
from pipeline.documentation import rows, rules_with_files
from pipeline.runs import Plan
from pipeline.settings import FIGURES, RULES, THEORY_FIGURES, RuleSettings

SCHEMA = yaml.safe_load((ROOT / "schemas/config.schema.yaml").read_text(encoding="utf-8"))
# rule -> the wildcards of its output; an ensemble has many realisations.
WILDCARDS = {
    "prepare": ("dataset",),
    "subset": ("dataset", "subset"),
    "time_unit": ("dataset", "subset", "network"),
    "ntk_start": ("dataset", "subset", "network", "realisation"),
    "train": ("dataset", "subset", "network", "dynamics", "realisation"),
    "ntk_end": ("dataset", "subset", "network", "dynamics", "realisation"),
    "warm_start": ("dataset", "subset", "network", "dynamics", "realisations"),
    "exponents": ("dataset", "subset", "network", "dynamics", "realisations"),
    "speed_limit": ("dataset", "subset", "network", "dynamics", "realisations"),
    "ntk_warm": ("dataset", "subset", "network", "dynamics", "realisations", "realisation"),
    "collect": ("study",),
    "figure": ("study", "figure"),
    "findings": ("study",),
    "infinite_width": ("study",),
    "theory_langevin": (),
    "theory_linear_regression": (),
    "theory_power_law": (),
    "theory_measured": (),
    "theory_figure": ("theory_figure",),
    "reproduction": (),
    "interactive": (),
    "all_runs": (),
    "all_studies": (),
    "runs_of_study": ("study",),
}


TEACHER = {
    "alpha": 2.0, "delta": 0.5, "samples": 64, "dimension": 32, "features": "gaussian",
    "test_count": 0,
}  # fmt: skip

FOLDER = tempfile.TemporaryDirectory()


@functools.cache
def own_file(seed):
    """Return the path of a user's data file."""
    generator = np.random.default_rng(seed)
    inputs, targets = generator.normal(size=(20, 3)), generator.normal(size=20)
    np.savez(f"{FOLDER.name}/{seed}.npz", train_inputs=inputs, train_targets=targets)
    return f"{FOLDER.name}/{seed}.npz"


@functools.cache
def own_module():
    """Return the name of a module with a network of the user's own."""
    text = "def network(*, input_shape, outputs, one=1): ..."
    Path(FOLDER.name, "reruns_own_module.py").write_text(text, encoding="utf-8")
    sys.path.append(FOLDER.name)
    return "reruns_own_module"


def with_study(key):
    """Return a dotted key with the name of a study or data set that has it."""
    data = {"f": "mine", "n": "mine", "t": "taught"}
    is_data = key.startswith("datasets.NAME.")
    return key.replace("NAME", data[key.split(".")[2][0]] if is_data else "one")


def config():
    """Return a configuration in which every run setting is used by some run."""
    found = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    other = {"model": "fully_connected", "dynamics": "gradient_descent"}
    found["studies"] = {
        "one": {"vary": {}, "realisations": 2},
        "two": {"set": other, "vary": {}, "realisations": 2},
        "three": {"set": {"model": "vision_transformer"}, "vary": {}, "realisations": 2},
    }
    found["datasets"]["mine"] = {"file": own_file(1), "normalise": False}
    found["datasets"]["taught"] = {"teacher": dict(TEACHER)}
    for name in ("mine", "taught"):
        real = {"dataset": name, "n": 8, "targets": "real", "selection": "uniform"}
        real |= {"label_noise": 0, "warm_start_accuracy": None}  # what real targets have not
        vectors = {"model": "fully_connected", **real}
        found["studies"][name] = {"set": vectors, "realisations": 2}
    arguments = {"model": f"{own_module()}:network", "dataset": "mine", **real}
    found["studies"]["own_model"] = {"set": arguments, "realisations": 2}
    for dynamics in ("heavy_ball", "sgd", "langevin"):
        found["studies"][dynamics] = {"set": {"dynamics": dynamics}, "realisations": 2}
    found["studies"]["dataset_size"] = {"vary": {"n": [32, 48]}, "realisations": 2}
    closed_form = {"parameterisation": "ntk", "initialisation": "he", "dynamics": "gradient_flow"}
    found["studies"]["infinite_width"] = {
        "set": {"model": "fully_connected", "depth": 3, **closed_form},
        "vary": {"width": [8, 16]},
        "realisations": 2,
        "figures": ["infinite_width"],
    }
    found["default_studies"] = ["one"]
    found["theory"]["langevin"]["set"]["n"] = 8  # 80 rows, below all limits that are tried
    found["kernel"]["full_rows_limit"] = 400  # between the sizes of dataset_size, of 10 outputs
    return found


def jobs(config):
    """Return (rule, wildcards) -> what Snakemake compares, for every job of a configuration."""
    plan = Plan(config)
    settings = RuleSettings(config, plan)
    found = {}
    for study, ensembles in plan.studies.items():
        for e in ensembles:
            for realisation in range(e.realisations):
                for figure, theory_figure in itertools.zip_longest(
                    FIGURES, THEORY_FIGURES, fillvalue="convergence"
                ):
                    names = SimpleNamespace(
                        dataset=e.dataset, subset=e.subset, network=e.network, dynamics=e.dynamics,
                        realisations=e.path.rpartition("ensemble")[2], realisation=realisation,
                        study=study,
                        figure=figure, theory_figure=theory_figure,
                    )  # fmt: skip
                    for rule in RULES:
                        key = (rule, *(getattr(names, name) for name in WILDCARDS[rule]))
                        wanted = rule != "infinite_width" or rule in plan.figures[study]
                        if key not in found and wanted:
                            found[key] = repr(settings.of(rule)(names))
    return found


def changes(before, after):
    """Return the rules with stale jobs (other parameters) and those with new jobs."""
    stale = {key[0] for key in before.keys() & after.keys() if before[key] != after[key]}
    return stale, {key[0] for key in after.keys() - before.keys()}


OF_ENSEMBLE = {"warm_start", "ntk_warm", "exponents", "speed_limit"}
OF_DYNAMICS = {"train", "ntk_end", *OF_ENSEMBLE}
OF_NETWORK = {"time_unit", "ntk_start", *OF_DYNAMICS}
OF_SUBSET = {"subset", *OF_NETWORK}
KERNELS = {"ntk_start", "ntk_warm", "ntk_end"}
STATISTICS = {"exponents", "speed_limit", "collect", "infinite_width"}
REGRESSION = {"theory_linear_regression"}
POWER_LAW = {"theory_power_law"}
LANGEVIN = {"theory_langevin"}
SUMMARIES = {"reproduction", "interactive", "all_runs"}
COLLECT_OTHER = {"collect", "runs_of_study", "all_studies"}  # of a study that is no default study
COLLECT = {*COLLECT_OTHER, *SUMMARIES}
COLLECT_LANGEVIN = {*COLLECT, *LANGEVIN}  # the Langevin experiment is laid over the base too
WIDE = {"infinite_width"}  # of a study that pins what the closed form needs
NOTHING = set()
OF_DATA = {"prepare", "subset", "time_unit", "train", *KERNELS}
# key -> (another value, rules with stale jobs, rules with new jobs)
EXPECTED = {
    "seed": (
        1, {*OF_DATA, *STATISTICS, *REGRESSION, *LANGEVIN},
        NOTHING,
    ),
    "datasets.NAME.file": (own_file(2), OF_DATA, NOTHING),
    "datasets.NAME.normalise": (True, OF_DATA, NOTHING),
    "datasets.NAME.teacher.alpha": (1.5, OF_DATA, NOTHING),
    "datasets.NAME.teacher.delta": (0.6, OF_DATA, NOTHING),
    "datasets.NAME.teacher.samples": (128, OF_DATA, NOTHING),
    "datasets.NAME.teacher.dimension": (16, OF_DATA, NOTHING),
    "datasets.NAME.teacher.features": ("orthonormal", OF_DATA, NOTHING),
    "datasets.NAME.teacher.test_count": (10, OF_DATA, NOTHING),
    "datasets.cifar10.archive": ("other.tar.gz", NOTHING, NOTHING),
    "datasets.cifar10.sha256": ("0" * 64, NOTHING, NOTHING),
    "datasets.cifar10.test_count": (
        7, {"prepare", "subset", "time_unit", "train", *KERNELS}, NOTHING,
    ),
    "datasets.digits.test_count": (7, NOTHING, NOTHING),
    "base.dataset": ("digits", {*COLLECT, *WIDE}, {"prepare", *OF_SUBSET}),
    "base.n": (99, {*COLLECT, *WIDE}, OF_SUBSET),
    "base.selection": ("uniform", {*COLLECT_LANGEVIN, *WIDE}, OF_SUBSET),
    "base.subset": (3, {*COLLECT_LANGEVIN, *WIDE}, OF_SUBSET),
    "base.label_noise": (0.2, {*COLLECT_LANGEVIN, *WIDE}, OF_SUBSET),
    "base.patch_size": (8, COLLECT_OTHER, OF_NETWORK),
    "base.output_scale": (10, {*COLLECT_LANGEVIN, *WIDE}, OF_NETWORK),
    "base.subtract_start": (True, {*COLLECT_LANGEVIN, *WIDE}, OF_NETWORK),
    "base.model": ("fully_connected", COLLECT, OF_NETWORK),
    "base.model_arguments.NAME": (3, COLLECT_OTHER, OF_NETWORK),
    "base.width": (16, COLLECT, OF_NETWORK),
    "base.depth": (5, COLLECT_OTHER, OF_NETWORK),
    "base.parameterisation": ("standard", COLLECT_LANGEVIN, OF_NETWORK),
    "base.initialisation": ("torch_default", COLLECT_LANGEVIN, OF_NETWORK),
    "base.targets": ("centred_one_hot", {*COLLECT_LANGEVIN, *WIDE}, OF_NETWORK),
    "base.precision": ("float64", {*COLLECT_LANGEVIN, *WIDE}, OF_NETWORK),
    "base.dynamics": ("gradient_descent", COLLECT, OF_DYNAMICS),
    "base.relative_tolerance": (0.003, {*COLLECT, *WIDE}, OF_DYNAMICS),
    "base.learning_rate": (0.25, COLLECT_OTHER, OF_DYNAMICS),
    "base.learning_rate_unit": ("absolute", COLLECT_OTHER, OF_DYNAMICS),
    "base.final_time": (3000, {*COLLECT, *WIDE}, OF_DYNAMICS),
    "base.first_snapshot": (0.2, {*COLLECT, *WIDE}, OF_DYNAMICS),
    "base.time_unit": ("absolute", {*COLLECT, *WIDE}, OF_DYNAMICS),
    "base.snapshots_per_decade": (5, {*COLLECT, *WIDE}, OF_DYNAMICS),
    "default_studies": (["two"], SUMMARIES, NOTHING),
    "base.momentum": (0.5, COLLECT_OTHER, OF_DYNAMICS),
    "base.batch_size": (7, COLLECT_OTHER, OF_DYNAMICS),
    "base.temperature": (0.01, COLLECT_OTHER, OF_DYNAMICS),
    "base.beyond_stability": (True, COLLECT_OTHER, OF_DYNAMICS),
    "base.warm_start_accuracy": (0.5, {*COLLECT, *WIDE}, OF_ENSEMBLE),
    "studies.NAME.figures": (["training_curves"], NOTHING, NOTHING),
    "studies.NAME.set": ({"n": 99}, COLLECT, OF_SUBSET),
    "studies.NAME.cases": (
        [{"width": 17}, {"width": 18}], {*COLLECT, "figure", "findings"}, OF_NETWORK,
    ),
    "studies.NAME.vary": (
        {"final_time": [2000, 3000]}, {*COLLECT, "figure", "findings"}, OF_DYNAMICS,
    ),
    "studies.NAME.realisations": (3, COLLECT, {"train", "ntk_start", "ntk_end", *OF_ENSEMBLE}),
    "warm_start.test_accuracy": (0.2, {"warm_start", "reproduction"}, NOTHING),
    "kernel.memory_gb": (1.5, NOTHING, NOTHING),
    "kernel.full_rows_limit": (100, KERNELS, NOTHING),
    "kernel.stored_rows_limit": (100, KERNELS, NOTHING),
    "kernel.quadrature_steps": (50, KERNELS, NOTHING),
    "fit.first_rank": (3, {"exponents"}, NOTHING),
    "fit.last_rank_fraction": (0.4, {"exponents"}, NOTHING),
    "fit.bins_per_decade": (5, {"exponents"}, NOTHING),
    "statistics.confidence": (
        0.9, {*STATISTICS, *LANGEVIN, *REGRESSION, "findings", "reproduction"}, NOTHING,
    ),
    "statistics.resamples": (500, {*STATISTICS, *LANGEVIN}, NOTHING),
    "figures.dpi": (99, {"figure", "theory_figure"}, NOTHING),
    "theory.linear_regression.ratios": ([0.5, 2.0], REGRESSION, NOTHING),
    "theory.linear_regression.dimensions": ([8, 400], REGRESSION, NOTHING),
    "theory.linear_regression.teacher_variance": (2.0, REGRESSION, NOTHING),
    "theory.linear_regression.noise_variance": (0.2, REGRESSION, NOTHING),
    "theory.linear_regression.start_variance": (0.2, REGRESSION, NOTHING),
    "theory.linear_regression.temperatures": ([0.0, 0.5], REGRESSION, NOTHING),
    "theory.linear_regression.first_time": (0.02, REGRESSION, NOTHING),
    "theory.linear_regression.final_time": (10.0, REGRESSION, NOTHING),
    "theory.linear_regression.first_simulated_time": (0.2, REGRESSION, NOTHING),
    "theory.linear_regression.simulated_times": (5, REGRESSION, NOTHING),
    "theory.linear_regression.step": (0.01, REGRESSION, NOTHING),
    "theory.linear_regression.realisations": (2000, REGRESSION, NOTHING),
    "theory.linear_regression.groups": (4, REGRESSION, NOTHING),
    "theory.langevin.set": ({"dataset": "digits", "n": 16, "final_time": 50}, LANGEVIN, NOTHING),
    "theory.langevin.networks": ([{"model": "myrtle5", "width": 4}], LANGEVIN, NOTHING),
    "theory.langevin.temperatures": ([0.0, 0.1], LANGEVIN, NOTHING),
    "theory.langevin.start_variance": (0.001, LANGEVIN, NOTHING),
    "theory.langevin.members": (3, LANGEVIN, NOTHING),
    "theory.langevin.realisations": (2, LANGEVIN, NOTHING),
    "theory.langevin.step": (0.01, LANGEVIN, NOTHING),
    "theory.power_law.exponents": ([[1.5, 0.5]], POWER_LAW, NOTHING),
    "theory.power_law.count": (500, POWER_LAW, NOTHING),
    "theory.power_law.final_time": (1000.0, POWER_LAW, NOTHING),
    "compute.device": ("cpu", NOTHING, NOTHING),
    "compute.train_threads": (2, NOTHING, NOTHING),
    "compute.kernel_threads": (2, NOTHING, NOTHING),
    "compute.deterministic": (False, NOTHING, NOTHING),
}  # fmt: skip


def test_every_key_of_the_schema_has_a_row():
    shipped = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    assert {row[0] for row in rows(SCHEMA, SCHEMA, shipped, "")} == set(EXPECTED)
    assert set(WILDCARDS) == set(RULES)


@pytest.mark.parametrize("key", EXPECTED)
def test_a_key_reruns_what_uses_it_and_nothing_else(key):
    value, stale, new = EXPECTED[key]
    other = config()
    *parents, last = with_study(key).split(".")
    place = other
    for name in parents:
        place = place[name]
    assert place.get(last) != value
    place[last] = copy.deepcopy(value)
    found_stale, found_new = changes(jobs(config()), jobs(other))
    assert (found_stale, found_new) == (stale, new)


@pytest.mark.parametrize(
    ("study", "vary"),
    [
        ("one", {"n": [48, 32], "final_time": [2000, 3000], "label_noise": [0, 0.5]}),
        ("own_model", {"n": [8, 16], "model_arguments": {"two": [1, 2], "one": [4, 3]}}),
    ],
)
def test_order_of_the_keys_of_vary_reruns_nothing(study, vary):
    def planned(vary):
        changed = config()
        changed["studies"][study]["vary"] = vary
        changed["default_studies"] = [study]
        return jobs(changed)

    forwards = planned(vary)
    turned = {k: dict(reversed(v.items())) if isinstance(v, dict) else v for k, v in vary.items()}
    assert planned(dict(reversed(turned.items()))) == forwards
    other = vary | {"n": vary["n"][::-1]}  # others are compared with the first of a list
    stale, new = changes(forwards, planned(other))
    assert {"collect", "figure"} <= stale and not new


def without_point(value):
    """The value with every whole number written without a decimal point."""
    if isinstance(value, dict):
        return {key: without_point(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_point(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@pytest.mark.parametrize(
    ("key", "value", "stale"),
    [
        ("quadrature_steps", 50, {48}),
        ("stored_rows_limit", 50, {48}),
        ("full_rows_limit", 450, {48}),
        ("full_rows_limit", 500, {48}),
        ("full_rows_limit", 330, {48}),
        ("full_rows_limit", 320, {48}),
        ("full_rows_limit", 319, {32, 48}),
    ],
)
def test_limits_that_a_kernel_does_not_reach_rerun_nothing(key, value, stale):
    """Sizes 32 and 48 of ten outputs have 320 and 480 rows, below and above the limit of 400."""
    given = config()
    given["studies"] = {"dataset_size": given["studies"]["dataset_size"]}
    given["default_studies"] = ["dataset_size"]
    changed = copy.deepcopy(given)
    changed["kernel"][key] = value
    before, after = jobs(given), jobs(changed)
    found = {job for job in before if before[job] != after[job]}
    assert {job[0] for job in found} == KERNELS
    assert {int(re.match(r"n(\d+)-", job[2]).group(1)) for job in found} == stale


def test_a_whole_number_written_without_its_decimal_point_reruns_nothing():
    written = repr(config())
    for number in ("'alpha': 2.0", "'temperatures': [0.0, ", "'teacher_variance': 1.0"):
        assert number in written
    assert changes(jobs(config()), jobs(without_point(config()))) == (NOTHING, NOTHING)


PAGE = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")


def keys_named(text):
    """The keys that a line of the page names in backticks, under base, a study or a data set."""
    places = ("", "base.", "studies.NAME.", "datasets.NAME.", "datasets.cifar10.")
    starts = [f"{place}{name}." for name in re.findall(r"`(.+?)`", text) for place in places]
    return {key for key in EXPECTED for start in starts if f"{key}.".startswith(start)}


def section(rule):
    """The lines of a rule on the page: what they tell -> text."""
    text = PAGE.split(f"\n## {rule}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^- (.+?): (.*)$", text, re.MULTILINE))


@pytest.mark.parametrize("rule", RULES)
def test_page_of_dependencies_names_the_keys_that_rerun_a_rule_and_no_others(rule):
    levels = dict(re.findall(r"^- (dataset|subset|network|dynamics): (.*)$", PAGE, re.MULTILINE))
    told = section(rule)
    read = re.findall(r"\b\w+\b", re.sub("`.+?`", "", told["run settings"]))
    named = keys_named(told["config keys"] + told["run settings"])
    named = named.union(*(keys_named(text) for level, text in levels.items() if level in read))
    # What its jobs' paths spell out gives new jobs.
    paths = {**levels, "dataset": "`dataset`", "realisation": "`realisations`"}
    paths |= {"realisations": "`realisations`, `warm_start_accuracy`"}
    path = told.get("one job for each", "").split(", ")
    named = named.union(*(keys_named(text) for part, text in paths.items() if part in path))
    examples = {f"studies.NAME.{part}" for part in ("set", "cases", "vary")}  # of run settings
    reruns = {
        key
        for key, (_, stale, new) in EXPECTED.items()
        if rule in stale or (rule in new and key not in examples)
    }
    assert reruns <= named
    if rule in {*WIDE, *LANGEVIN, *SUMMARIES}:  # their runs pin some settings or do not read them
        named = {key for key in named if not key.startswith(("base.", "studies.")) or key in reruns}
    assert named - reruns <= {"datasets.digits.test_count"}  # no run takes digits


def test_page_of_dependencies_names_files_loaded_by_name_and_rules_of_other_settings():
    assert "`plots/NAME.py`" in section("figure")["modules in `scripts/`"]
    assert "`pages/interactive.html`" in section("interactive")["modules in `scripts/`"]
    assert set(re.findall(r"^## (\w+)$", PAGE, re.MULTILINE)) == rules_with_files()
    archive = RuleSettings(config(), Plan(config()))
    assert set(archive.download()) == {"sha256"}
    assert section("download")["config keys"] == "`datasets.cifar10.sha256`"


MODULES = sorted(
    str(path.relative_to(cd.SCRIPTS))
    for folder in ("speedlimits", "pipeline", "plots", "sentences")
    for path in (cd.SCRIPTS / folder).glob("*.py")
)


@pytest.mark.parametrize("module", MODULES)
def test_one_edit_of_a_module_reruns_what_reaches_it(monkeypatch, tmp_path, module):
    more = [f"plots/{name}.py" for name in FIGURES]
    files = {rule: (uses.script, *(more * (rule == "figure"))) for rule, uses in RULES.items()}
    before = {rule: cd.code_digest(*names) for rule, names in files.items()}
    original, text = cd._tree, (cd.SCRIPTS / module).read_text(encoding="utf-8")

    def tree_of(edited):
        """Return the tree of the module's text after an edit, as ``code_digest`` sees it."""
        path = tmp_path / "scripts" / module
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(edited, encoding="utf-8")
        with monkeypatch.context() as patch:
            patch.setattr(cd, "SCRIPTS", tmp_path / "scripts")
            patch.setattr(cd, "_content", cd._content.__wrapped__)
            return cd.dumped(cd._parsed.__wrapped__(module))

    assert tree_of("# a comment\n\n" + text) == original(module)
    edited = tree_of(text + "\nEDITED = 1\n")
    monkeypatch.setattr(cd, "_tree", lambda path: edited if path == module else original(path))
    changed = {rule for rule, names in files.items() if cd.code_digest(*names) != before[rule]}
    assert changed == {rule for rule, names in files.items() if module in cd.reachable(*names)}


def test_trees_are_told_apart_as_pythons_own_text_does_and_empty_fields_tell_nothing(monkeypatch):
    """A later Python gives functions and classes a field of type parameters, empty as a rule."""
    statements = [
        node
        for module in MODULES
        for node in cd.ast.walk(cd._parsed(module))
        if isinstance(node, cd.ast.stmt | cd.ast.expr)
    ]
    statements += cd.ast.parse("return\nreturn None\nf(*a)\n{**a}\n{None: a}\nNone\n...").body
    own, pythons = ({}, {})
    for node in statements:
        own.setdefault(cd.dumped(node), set()).add(cd.ast.dump(node))
        pythons.setdefault(cd.ast.dump(node), set()).add(cd.dumped(node))
    assert len(own) > 10_000 and len(own) == len(pythons)
    assert all(len(texts) == 1 for texts in (*own.values(), *pythons.values()))
    before = {module: cd.dumped(cd._parsed(module)) for module in MODULES}
    for kind in (cd.ast.FunctionDef, cd.ast.ClassDef):
        monkeypatch.setattr(kind, "_fields", (*kind._fields, "added"))
        monkeypatch.setattr(kind, "added", [], raising=False)
    assert before == {module: cd.dumped(cd._parsed(module)) for module in MODULES}


def test_imports_at_run_time_are_among_those_that_the_digest_follows():
    """What really gets imported, by an interpreter, is what the syntax trees say."""
    import subprocess
    import sys

    for rule in ("train", "ntk_end", "speed_limit"):
        script = RULES[rule].script
        code = (
            f"import sys; sys.path.insert(0, {str(cd.SCRIPTS)!r}); import {script[:-3]}\n"
            "for m in list(sys.modules.values()):\n"
            f"    f = getattr(m, '__file__', None) or ''\n"
            f"    if f.startswith({str(cd.SCRIPTS)!r}): print(f[{len(str(cd.SCRIPTS)) + 1}:])\n"
        )
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert told.returncode == 0, told.stderr
        assert set(told.stdout.split()) <= cd.reachable(script)
