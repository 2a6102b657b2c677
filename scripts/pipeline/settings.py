"""What each rule depends on besides its input files: config keys, run settings and code.

One table, from which a rule's ``params.settings`` is made: a single dictionary with sorted keys,
because Snakemake compares parameter values without their names. A job becomes stale if and only if
something in its dictionary or in its inputs changes.
"""

from __future__ import annotations

import functools
import hashlib
import re
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.cifar10 import OFFICIAL_SHA256
from pipeline.code_digest import SCRIPTS, code_digest
from pipeline.files import content_digest, own_file
from pipeline.own_code import own_digest
from pipeline.planned import Planned
from pipeline.runs import Plan, is_own, plain
from pipeline.sources import source

FIGURES = {
    "training_curves": ("training_curves", "warm_starts"),
    "speed_limit_time": ("speed_limits",),
    "inefficiency_time": ("speed_limits", "exponents"),
    "inefficiency_size": ("speed_limits", "trends"),
    "path_length_ratio": ("speed_limits", "exponents"),
    "residue_projections": ("spectra", "exponents"),
    "inefficiency_factors": ("speed_limits",),
    "outcomes": ("outcomes",),
    "generalisation": ("outcomes", "correlations"),
    "first_transient": ("outcomes",),
    "speed_limit_temperature": ("speed_limits",),
    "infinite_width": ("infinite_width", "infinite_width_powers"),
}


class Uses(NamedTuple):
    """What a rule uses.

    Attributes:
        script: its script in scripts/.
        levels: run settings it reads: any of "dataset", "subset", "network", "dynamics".
        config: dotted config keys it reads.
        fixed: constants that tell rules of one script apart.
        plan: what it reads of the plan of all runs, names in ``PLAN_PARTS``.
        file: what the script loads by name at run time, with a wildcard; empty for nothing.
    """

    script: str
    levels: tuple[str, ...] = ()
    config: tuple[str, ...] = ()
    fixed: tuple[tuple[str, Any], ...] = ()
    plan: tuple[str, ...] = ()
    file: str = ""


# What a rule may read of the plan -> the settings that decide it, in docs/dependencies.md.
RUN = "`dataset`, subset, network, dynamics, `warm_start_accuracy`"
STUDY = f"{RUN}, `set`, `cases`, `vary`, `realisations`"
PLAN_PARTS = {
    "warm_start_accuracy": "`warm_start_accuracy`",
    "axes": "`cases`, `vary` of its study, where they make axes (a null among its thresholds: the "
    "common one)",
    "ensembles": f"{STUDY} of its study",
    "default_studies": f"`default_studies`, and of each {STUDY}",
    "studies": f"{STUDY} of every study",
    "study": f"{STUDY} of its study",
    "langevin": "`dataset`, subset, network, `final_time` of the networks that "
    "`theory.langevin.set` and `theory.langevin.networks` give",
}
NETWORK = ("dataset", "subset", "network")
# Without set and networks, which the plan tells however their numbers are written.
LANGEVIN = tuple(
    f"theory.langevin.{key}"
    for key in ("temperatures", "start_variance", "members", "realisations", "step")
)
KERNEL = ("seed", "kernel.full_rows_limit", "kernel.stored_rows_limit", "kernel.quadrature_steps")
STATISTICS = ("seed", "statistics.confidence", "statistics.resamples")
RULES = {
    "prepare": Uses("prepare.py", ("dataset",)),
    "subset": Uses("subset.py", ("dataset", "subset"), ("seed",)),
    "time_unit": Uses("time_unit.py", NETWORK, ("seed",)),
    "train": Uses("train.py", (*NETWORK, "dynamics"), ("seed",)),
    "warm_start": Uses(
        "warm_start.py", config=("warm_start.test_accuracy",), plan=("warm_start_accuracy",)
    ),
    "ntk_start": Uses("ntk.py", NETWORK, KERNEL, (("moment", "start"),)),
    "ntk_warm": Uses("ntk.py", NETWORK, KERNEL, (("moment", "warm"),)),
    "ntk_end": Uses("ntk.py", NETWORK, KERNEL, (("moment", "end"),)),
    "exponents": Uses(
        "exponents.py",
        config=(
            *STATISTICS,
            "fit.first_rank",
            "fit.last_rank_fraction",
            "fit.bins_per_decade",
        ),
    ),
    "speed_limit": Uses("speed_limit.py", config=STATISTICS),
    "collect": Uses("collect.py", config=STATISTICS, plan=("ensembles", "axes")),
    "infinite_width": Uses("infinite_width.py", config=STATISTICS, plan=("ensembles",)),
    "figure": Uses(
        "figure.py", config=("figures.dpi",), plan=("axes",), file="plots/{wildcards.figure}.py"
    ),
    "findings": Uses("findings.py", config=("statistics.confidence",), plan=("axes",)),
    "theory_linear_regression": Uses(
        "theory_linear_regression.py",
        config=("seed", "statistics.confidence", "theory.linear_regression"),
    ),
    "theory_power_law": Uses("theory_power_law.py", config=("theory.power_law",)),
    "theory_langevin": Uses(
        "theory_langevin.py", config=(*STATISTICS, *LANGEVIN), plan=("langevin",)
    ),
    "theory_measured": Uses("theory_measured.py"),
    "theory_figure": Uses("theory_figure.py", config=("figures.dpi",)),
    "reproduction": Uses(
        "reproduction.py",
        config=("statistics.confidence", "warm_start.test_accuracy"),
        plan=("default_studies",),
    ),
    "interactive": Uses("interactive.py", plan=("default_studies",), file="pages/interactive.html"),
    "all_runs": Uses(
        "all_runs.py",
        fixed=(("title", "All runs of the default studies"),),
        plan=("default_studies",),
    ),
    "all_studies": Uses(
        "all_runs.py", fixed=(("title", "All runs of all studies"),), plan=("studies",)
    ),
    "runs_of_study": Uses(
        "all_runs.py", fixed=(("title", "All runs of one study"),), plan=("study",)
    ),
}
# Figures of the theory: argument of the function plots.theory.NAME -> table in results/theory/.
THEORY_FIGURES = {
    "linear_regression": {"table": "regression_routes"},
    "linear_regression_checks": {"table": "regression_checks"},
    "linear_regression_limits": {
        "starts": "regression_starts",
        "noise": "regression_noise",
        "equation_6": "regression_equation_6",
    },
    "phase_diagram": {"grid": "phases", "measured": "measured_exponents"},
    "convergence": {"table": "convergence"},
    "spectra": {"spectrum": "spectra", "predictions": "spectra_predictions"},
    "spectra_measured": {"spectrum": "measured_spectra", "predictions": "measured_predictions"},
    "langevin_temperature": {"table": "langevin_temperature"},
}
EXPERIMENTS = ("langevin_temperature",)  # trainings, not part of the target theory
ON_REQUEST = ("all_studies", "runs_of_study", "theory_langevin")  # rules of other targets alone


def lookup(config: dict, key: str) -> Any:
    """Return the value of a dotted key."""
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value


def ordered(value: Any) -> Any:
    """Return a value with the keys of every mapping in it sorted, and 300 for 300.0."""
    if isinstance(value, dict):
        return {key: ordered(value[key]) for key in sorted(value)}
    return [ordered(part) for part in value] if isinstance(value, list) else plain(value)


def commit() -> str:
    """Return the git commit of this checkout, marked if files differ from it; empty without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=SCRIPTS, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


class RuleSettings:
    """The parameters of every rule under one configuration.

    Args:
        config: a validated configuration.
        plan: its runs.
        planned: in a cluster's job what it was planned with.
    """

    def __init__(self, config: dict, plan: Plan, planned: Planned | None = None):
        self.config = config
        self.plan = plan
        self._file_digests: dict[str, str] = {}
        self._model_digests = dict(planned.models) if planned else {}
        self._planned = planned
        # Name of a data set -> what it holds; a user's file is read for it, once.
        self.source = functools.cache(lambda name: source(name, config["datasets"][name]))

    @property
    def archive_sha256(self) -> str:
        """SHA-256 of the CIFAR-10 archive in use."""
        return self.config["datasets"].get("cifar10", {}).get("sha256") or OFFICIAL_SHA256

    def download(self) -> dict[str, Any]:
        """Return the settings of the rule ``download``.

        The digest says what the archive is. Where it comes from makes no result stale, therefore
        the script looks that up in the configuration.
        """
        return {"sha256": self.archive_sha256}

    def of(self, rule: str) -> Callable[[Any], dict[str, Any]]:
        """Return a function from a job's wildcards to the rule's settings.

        Args:
            rule: name in ``RULES``.

        Returns:
            Function for a rule's ``params``.
        """
        uses = RULES[rule]
        digest = code_digest(uses.script)

        def settings(wildcards: Any) -> dict[str, Any]:
            found: dict[str, Any] = {"code": digest, **dict(uses.fixed)}
            files = [uses.script]
            if uses.file:
                files.append(uses.file.format(wildcards=wildcards))
                found["code"] = code_digest(*files)
            if self._planned:
                self._planned.check_code(rule, *files)
            for key in uses.config:
                found[key.split(".")[-1]] = lookup(self.config, key)
            for level in uses.levels:
                found |= self._level(level, wildcards)
            if "quadrature_steps" in found:
                found = self._of_spectrum(found, wildcards)
            for part in uses.plan:
                found |= self._of_plan(part, wildcards)
            if rule == "figure":
                found["figure"] = wildcards.figure
            if rule == "theory_figure":
                found["figure"] = wildcards.theory_figure
            return ordered(found)

        return settings

    def benchmark_summary(self, rules: Iterable[Any]) -> dict[str, Any]:
        """Return the settings of the rule ``benchmark_summary``: rule -> its benchmark files.

        Digests of the files stand beside them, so that the summary is stale when a job has been
        measured anew. Left out are files of what the plain command does not make: of other studies
        they may be written beside the summary, which would then be stale at once.

        Args:
            rules: all rules of the workflow.
        """
        found: dict[str, list[str]] = {}
        digest = hashlib.sha256()
        for path in sorted(Path("results/benchmarks").rglob("*.tsv")):
            for rule in rules:
                match = rule.benchmark and re.fullmatch(rule.benchmark.regex(), str(path))
                if not match or rule.name in ON_REQUEST:
                    continue
                names = match.groupdict()
                asked = names.get("theory_figure") not in EXPERIMENTS
                if asked and self.plan.has(names, default=True):
                    found.setdefault(rule.name, []).append(str(path))
                    digest.update(path.read_bytes())
        code = code_digest("benchmark_summary.py")
        return {"benchmarks": found, "code": code, "measured": digest.hexdigest()[:16]}

    def provenance(self) -> dict[str, Any]:
        """Return the settings of the rule ``provenance``: configuration, digests, commit."""
        digests = {rule: code_digest(uses.script) for rule, uses in RULES.items()}
        return {
            "code": code_digest("provenance.py"),
            "commit": commit(),
            "config": self.config,
            "digests": digests,
        }

    def _of_plan(self, part: str, wildcards: Any) -> dict[str, Any]:
        """Return what a rule reads of the plan, a name in ``PLAN_PARTS``."""
        if part == "warm_start_accuracy":
            own = self.plan.ensemble(wildcards).warm_start_accuracy
            return {} if own is None else {"test_accuracy": own}
        if part == "axes":
            return {"axes": self.plan.axes[wildcards.study]}
        if part == "ensembles":
            return {"ensembles": self.plan.described(wildcards.study)}
        if part == "langevin":
            return {"networks": [n | self._own_code(n["model"]) for n in self.plan.langevin]}
        names: Iterable[str] = self.plan.default_studies
        names = sorted(self.plan.studies) if part == "studies" else names
        names = [wildcards.study] if part == "study" else names
        return {"studies": {name: self.plan.described(name) for name in names}}

    def _level(self, level: str, wildcards: Any) -> dict[str, Any]:
        """Return the run settings of one level of a job's path."""
        if level == "dataset":
            return self._dataset(wildcards.dataset)
        found = self.plan.settings(level, getattr(wildcards, level))
        return found | self._own_code(found["model"]) if level == "network" else found

    def _of_spectrum(self, settings: dict[str, Any], wildcards: Any) -> dict[str, Any]:
        """Return the settings of a kernel without limits that its size does not reach.

        Up to ``full_rows_limit`` it is computed whole, whatever that is, and nothing else of a
        quadrature matters.
        """
        data = self.source(wildcards.dataset)
        rows = settings["n"] * data.outputs
        if data.samples is None or rows > settings["full_rows_limit"]:
            return settings
        left_out = ("stored_rows_limit", "quadrature_steps")
        kept = {key: value for key, value in settings.items() if key not in left_out}
        return kept | {"full_rows_limit": rows}

    def files(self) -> set[str]:
        """Return the scripts of all rules and what they load by name, relative to scripts/."""
        named = {re.sub(r"{.*}", "*", uses.file) for uses in RULES.values() if uses.file}
        found = {str(path.relative_to(SCRIPTS)) for form in named for path in SCRIPTS.glob(form)}
        return found | {uses.script for uses in RULES.values()}

    def models(self) -> dict[str, str]:
        """Return the digests of the code of all the user's own networks of the plan."""
        for model in sorted(self.plan.models):
            self._own_code(model)
        return self._model_digests

    def _own_code(self, model: str) -> dict[str, str]:
        """Return the digest of the user's code of a network, nothing for a built-in one."""
        if not is_own(model):
            return {}
        if model not in self._model_digests:
            self._model_digests[model] = own_digest(model)
        return {"model_code": self._model_digests[model]}

    def _dataset(self, name: str) -> dict[str, Any]:
        """Return what the samples of a data set depend on: of a user's file its content."""
        entry = self.config["datasets"][name]
        if "teacher" in entry:
            return {"dataset": name, "seed": self.config["seed"], "teacher": entry["teacher"]}
        if "file" not in entry:
            return {"dataset": name, "test_count": entry["test_count"]}
        if name not in self._file_digests:
            self._file_digests[name] = content_digest(own_file(entry))
        normalise = entry.get("normalise", False)
        return {"dataset": name, "file_sha256": self._file_digests[name], "normalise": normalise}
