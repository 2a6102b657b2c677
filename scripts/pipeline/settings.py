"""What each rule depends on besides its input files: config keys, run settings and code.

One table, from which a rule's ``params.settings`` is made: a single dictionary with sorted keys,
because Snakemake compares parameter values without their names. A job becomes stale if and only if
something in its dictionary or in its inputs changes.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.cifar10 import OFFICIAL_SHA256
from pipeline.code_digest import SCRIPTS, code_digest
from pipeline.files import content_digest
from pipeline.own_code import own_digest
from pipeline.runs import Plan, Refusal, is_own

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
    """

    script: str
    levels: tuple[str, ...] = ()
    config: tuple[str, ...] = ()
    fixed: tuple[tuple[str, Any], ...] = ()


NETWORK = ("dataset", "subset", "network")
KERNEL = ("seed", "kernel.full_rows_limit", "kernel.stored_rows_limit", "kernel.quadrature_steps")
STATISTICS = ("seed", "statistics.confidence", "statistics.resamples")
RULES = {
    "prepare": Uses("prepare.py", ("dataset",)),
    "subset": Uses("subset.py", ("dataset", "subset"), ("seed",)),
    "time_unit": Uses("time_unit.py", NETWORK, ("seed",)),
    "train": Uses("train.py", (*NETWORK, "dynamics"), ("seed",)),
    "warm_start": Uses("warm_start.py", config=("warm_start.test_accuracy",)),
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
    "collect": Uses("collect.py", config=STATISTICS),
    "infinite_width": Uses("infinite_width.py", config=STATISTICS),
    "figure": Uses("figure.py", config=("figures.dpi",)),
    "findings": Uses("findings.py", config=("statistics.confidence",)),
    "theory_linear_regression": Uses(
        "theory_linear_regression.py", config=("seed", "theory.linear_regression")
    ),
    "theory_power_law": Uses("theory_power_law.py", config=("theory.power_law",)),
    "theory_langevin": Uses("theory_langevin.py", config=(*STATISTICS, "theory.langevin")),
    "theory_measured": Uses("theory_measured.py"),
    "theory_figure": Uses("theory_figure.py", config=("figures.dpi",)),
    "reproduction": Uses(
        "reproduction.py", config=("statistics.confidence", "warm_start.test_accuracy")
    ),
    "interactive": Uses("interactive.py"),
    "all_runs": Uses("all_runs.py", fixed=(("title", "All runs of the default studies"),)),
    "all_studies": Uses("all_runs.py", fixed=(("title", "All runs of all studies"),)),
    "runs_of_study": Uses("all_runs.py", fixed=(("title", "All runs of one study"),)),
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
OF_DEFAULT_STUDIES = ("reproduction", "interactive", "all_runs")


def lookup(config: dict, key: str) -> Any:
    """Return the value of a dotted key."""
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value


def ordered(value: Any) -> Any:
    """Return a value with the keys of every mapping in it sorted."""
    if isinstance(value, dict):
        return {key: ordered(value[key]) for key in sorted(value)}
    return [ordered(part) for part in value] if isinstance(value, list) else value


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
    """

    def __init__(self, config: dict, plan: Plan):
        self.config = config
        self.plan = plan
        self._file_digests: dict[str, str] = {}
        self._model_digests: dict[str, str] = {}

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
            for key in uses.config:
                found[key.split(".")[-1]] = lookup(self.config, key)
            for level in uses.levels:
                found |= self._level(level, wildcards)
            if rule == "warm_start":
                own = self.plan.ensemble(wildcards).warm_start_accuracy
                found["test_accuracy"] = found["test_accuracy"] if own is None else own
            if rule in ("collect", "infinite_width"):
                found["ensembles"] = self.plan.described(wildcards.study)
            if rule in ("collect", "figure", "findings"):
                found["axes"] = self.plan.axes[wildcards.study]
            if rule == "figure":
                found["figure"] = wildcards.figure
                found["code"] = code_digest(uses.script, f"plots/{wildcards.figure}.py")
            if rule == "theory_langevin":
                found["networks"] = [n | self._own_code(n["model"]) for n in self.plan.langevin]
            if rule == "interactive":
                found["code"] = code_digest(uses.script, "pages/interactive.html")
            names: Iterable[str] = self.plan.default_studies if rule in OF_DEFAULT_STUDIES else ()
            names = sorted(self.plan.studies) if rule == "all_studies" else names
            names = [wildcards.study] if rule == "runs_of_study" else names
            if names:
                found["studies"] = {name: self.plan.described(name) for name in names}
            if rule == "theory_figure":
                found["figure"] = wildcards.theory_figure
            return ordered(found)

        return settings

    def benchmark_summary(self, rules: Iterable[Any]) -> dict[str, Any]:
        """Return the settings of the rule ``benchmark_summary``: rule -> its benchmark files.

        Digests of the files stand beside them, so that the summary is stale when a job has been
        measured anew. Files of runs that the configuration does not ask for are left out.

        Args:
            rules: all rules of the workflow.
        """
        found: dict[str, list[str]] = {}
        digest = hashlib.sha256()
        for path in sorted(Path("results/benchmarks").rglob("*.tsv")):
            for rule in rules:
                match = rule.benchmark and re.fullmatch(rule.benchmark.regex(), str(path))
                if match and self._planned(match.groupdict()):
                    found.setdefault(rule.name, []).append(str(path))
                    digest.update(path.read_bytes())
        code = code_digest("benchmark_summary.py")
        return {"benchmarks": found, "code": code, "measured": digest.hexdigest()[:16]}

    def _planned(self, wildcards: dict[str, str]) -> bool:
        """Return whether the configuration has the run or study that wildcards name."""
        if wildcards.get("study", next(iter(self.plan.studies))) not in self.plan.studies:
            return False
        try:
            for level in ("subset", "network", "dynamics"):
                if level in wildcards:
                    self.plan.settings(level, wildcards[level])
        except Refusal:
            return False
        return True

    def provenance(self) -> dict[str, Any]:
        """Return the settings of the rule ``provenance``: configuration, digests, commit."""
        digests = {rule: code_digest(uses.script) for rule, uses in RULES.items()}
        return {
            "code": code_digest("provenance.py"),
            "commit": commit(),
            "config": self.config,
            "digests": digests,
        }

    def _level(self, level: str, wildcards: Any) -> dict[str, Any]:
        """Return the run settings of one level of a job's path."""
        if level == "dataset":
            return self._dataset(wildcards.dataset)
        found = self.plan.settings(level, getattr(wildcards, level))
        return found | self._own_code(found["model"]) if level == "network" else found

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
            self._file_digests[name] = content_digest(entry["file"])
        normalise = entry.get("normalise", False)
        return {"dataset": name, "file_sha256": self._file_digests[name], "normalise": normalise}
