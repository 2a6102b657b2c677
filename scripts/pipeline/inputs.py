"""Input files and resources of jobs that depend on a study's design."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pipeline.config import langevin_problems, problems_where_asked
from pipeline.runs import Ensemble, Plan, Refusal, refuse, subset_file, subset_slug
from pipeline.settings import FIGURES, RuleSettings
from pipeline.suggestions import did_you_mean

TABLES = (
    "speed_limits",
    "exponents",
    "warm_starts",
    "training_curves",
    "kernels",
    "outcomes",
    "trends",
    "comparisons",
    "correlations",
    "transport",
)


def data_source(config: dict) -> Callable[[Any], list[str]]:
    """Return a function from wildcards to what the rule ``prepare`` reads.

    The archive. Digits come with scikit-learn, a teacher is drawn; of the user's own file the
    content counts (``settings``), wherever it lies, so that it is no input of the rule.

    Raises:
        Refusal: by that function, if the configuration has no such data set.
    """

    def files(wildcards: Any) -> list[str]:
        _known("data set", wildcards.dataset, config["datasets"])
        archived = wildcards.dataset == "cifar10"
        return ["results/data/cifar10/archive.tar.gz"] if archived else []

    return files


def ensemble_manifests(plan: Plan) -> Callable[[Any], list[str]]:
    """Return a function from wildcards to the manifests of an ensemble's runs."""
    return lambda wildcards: plan.ensemble(wildcards).manifests()


def ensemble_kernels(plan: Plan, moment: str) -> Callable[[Any], list[str]]:
    """Return a function from wildcards to an ensemble's NTK files at one moment."""
    return lambda wildcards: plan.ensemble(wildcards).kernels()[moment]


def study_files(plan: Plan, config: dict) -> Callable[[Any], list[str]]:
    """Return a function from wildcards to all files that the rule ``collect`` reads.

    Raises:
        Refusal: by that function, if there is no such study, or if it asks for what cannot be made.
    """

    def files(wildcards: Any) -> list[str]:
        _known("study", wildcards.study, plan.studies)
        if wildcards.study not in plan.default_studies:  # of those it is known
            refuse(problems_where_asked(config, wildcards.study))
        found = []
        for ensemble in plan.studies[wildcards.study]:
            tables = ("speed_limits.csv", "transport.json", "exponents.csv", "warm_start.json")
            found += [f"{ensemble.path}/{name}" for name in tables]
            found += ensemble.manifests()
            for kernels in ensemble.kernels().values():
                found += kernels
        return found

    return files


def _known(kind: str, name: str, known: Iterable[str]) -> None:
    """Refuse a name that the configuration does not have.

    Raises:
        Refusal: with the names that it has.
    """
    if name not in known:
        meant = did_you_mean(name, known)
        raise Refusal(f"the configuration has no {kind} {name}{meant}; it has {', '.join(known)}")


def refusal_of_study(plan: Plan) -> Callable[[Any], list[str]]:
    """Return a function that refuses a target ``study_NAME`` of a name that no study has.

    Raises:
        Refusal: from the function, with the studies that there are.
    """

    def files(wildcards: Any) -> list[str]:
        _known("study", wildcards.unknown, plan.studies)
        return []

    return files


def width_subsets(plan: Plan) -> Callable[[Any], list[str]]:
    """Return a function from wildcards to the training subsets of a study of widths, each once.

    Raises:
        Refusal: from the function, if the study does not name the figure infinite_width: it was not
            checked that its networks have that limit and that it compares widths alone.
    """

    def files(wildcards: Any) -> list[str]:
        if "infinite_width" not in plan.figures.get(wildcards.study, ()):
            raise Refusal(
                f"the study {wildcards.study} has no infinite_width among its figures; add it to "
                f"studies.{wildcards.study}.figures, where it is checked"
            )
        return _subsets(plan.studies[wildcards.study])

    return files


def _subsets(ensembles: Iterable[Ensemble]) -> list[str]:
    """Return the files of the training subsets of ensembles, each once."""
    return list(dict.fromkeys(subset_file(e.dataset, e.subset) for e in ensembles))


def langevin_subsets(plan: Plan, config: dict) -> Callable[[Any], list[str]]:
    """Return a function to the training subsets of the Langevin experiment, one per network.

    Raises:
        Refusal: by that function, if its settings do not fit their data sets or it reads them not.
    """

    def files(_wildcards: Any) -> list[str]:
        refuse(langevin_problems(config))
        return [subset_file(n["dataset"], subset_slug(n)) for n in plan.langevin]

    return files


def experiment(plan: Plan, study: str, figure: str) -> Callable[[Any], list[str]]:
    """Return a function to what an experiment makes: one figure of a study, and its tables.

    Raises:
        Refusal: by that function, if the configuration has no such study or figure.
    """

    def files(_wildcards: Any) -> list[str]:
        if figure not in plan.figures.get(study, ()):
            raise Refusal(
                f"this experiment is the figure {figure} of the study {study}, which the "
                f"configuration does not have; add studies.{study} with {figure} among its figures"
            )
        folder = f"results/studies/{study}"
        tables = [f"{folder}/{name}.csv" for name in FIGURES[figure]]
        return [f"{folder}/figures/{figure}.png", *tables]

    return files


def figure_tables(wildcards: Any) -> dict[str, str]:
    """Return name -> file of the tables that a figure is drawn from.

    Raises:
        Refusal: if there is no such figure.
    """
    if wildcards.figure not in FIGURES:
        raise Refusal(f"there is no figure {wildcards.figure}; there are {', '.join(FIGURES)}")
    folder = f"results/studies/{wildcards.study}"
    return {
        name: f"{folder}/{name}.{'nc' if name == 'spectra' else 'csv'}"
        for name in FIGURES[wildcards.figure]
    }


TABLES_OF_FINDINGS = (
    "outcomes", "trends", "comparisons", "correlations", "exponents", "transport", "warm_starts",
)  # fmt: skip


def findings_tables(plan: Plan) -> Callable[[Any], dict[str, str]]:
    """Return a function from wildcards to name -> file of the tables that findings speak of."""

    def tables(wildcards: Any) -> dict[str, str]:
        wide = "infinite_width" in plan.figures.get(wildcards.study, ())
        names = (*TABLES_OF_FINDINGS, *(FIGURES["infinite_width"] if wide else ()))
        return {name: f"results/studies/{wildcards.study}/{name}.csv" for name in names}

    return tables


SUMMARIES = [
    "results/report/reproduction.csv",
    "results/report/interactive.html",
    "results/all_runs.nc",
]


def study_targets(plan: Plan, study: str) -> list[str]:
    """Return the tables, figures and findings of a study."""
    folder = f"results/studies/{study}"
    tables = [f"{folder}/{table}.csv" for table in TABLES]
    figures = [f"{folder}/figures/{figure}.png" for figure in plan.figures[study]]
    return [*tables, *figures, f"{folder}/findings.md", f"{folder}/findings.html"]


def all_targets(plan: Plan) -> list[str]:
    """Return what the plain command makes: the default studies, and what is made from them all."""
    targets = [target for study in plan.default_studies for target in study_targets(plan, study)]
    return targets + SUMMARIES


def of_studies(plan: Plan, table: str, studies: Iterable[str] | None = None) -> list[str]:
    """Return one table of every default study, or of the studies named."""
    names = plan.default_studies if studies is None else studies
    return [f"results/studies/{study}/{table}.csv" for study in names]


def subset_files(plan: Plan) -> list[str]:
    """Return the training subsets of the default studies, each once."""
    return _subsets(e for study in plan.default_studies for e in plan.studies[study])


def report_labels(plan: Plan, kind: str, name: str = "") -> Callable[[Any], dict[str, str]]:
    """Return a function from wildcards to the labels of a study's result in the report.

    Args:
        plan: the runs.
        kind: title of the first column, "figure", "table" or "page".
        name: what stands there; empty for the wildcard of that name.

    Returns:
        Function: wildcards -> the result's name, and n, model and width of the study.
    """

    def labels(wildcards: Any) -> dict[str, str]:
        shown = name or getattr(wildcards, kind)
        settings = [ensemble["settings"] for ensemble in plan.described(wildcards.study)]
        found = {kind: shown.replace("_", " ")}
        for key in ("n", "model", "width"):
            values = dict.fromkeys(str(s[key]) for s in settings if key in s)
            found[key] = ", ".join(values)
        return found

    return labels


def gpu_count(device: str) -> int:
    """Return how many GPUs a training or kernel job takes: 1 where one will be used, else 0.

    With ``auto`` the machine that plans the jobs is asked; a cluster whose login node has no GPU
    sets compute.device to cuda.
    """
    return int(device == "cuda" or (device == "auto" and gpu_seen()))


def gpu_seen(devices: Path = Path("/dev")) -> bool:
    """Return whether torch may find a GPU on this machine, without importing it (seconds).

    In a container there may be a card and no nvidia-smi. /dev/kfd comes with AMD's driver on any
    desktop; only a torch built for ROCm computes on such a card, and its version.py names HIP's.

    Args:
        devices: folder of the device files.
    """
    if shutil.which("nvidia-smi") or any(devices.glob("nvidia[0-9]*")):
        return True
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None or not (devices / "kfd").exists():
        return False
    version = Path(torch.origin).with_name("version.py").read_text(encoding="utf-8")
    return re.search(r"^hip\b.*= *['\"]", version, re.MULTILINE) is not None


def warn_of_cpu_jobs(device: str) -> None:
    """Say on standard error that jobs sent to a cluster will ask for no GPU, if nobody said so."""
    if device == "auto" and not gpu_seen():
        sys.stderr.write(
            "compute.device is auto and no GPU is seen here, so that no job asks the cluster for "
            "one; set compute.device to cuda, or to cpu if that is meant.\n"
        )


def torch_environment(device: str) -> str:
    """Return the conda environment of rules that compute with torch, relative to rules/.

    Where the configuration insists on CUDA, so does the environment: a CPU build of torch is then
    refused when the environment is created, not by the first job.
    """
    return "../envs/torch-cuda.yaml" if device == "cuda" else "../envs/torch.yaml"


def langevin_megabytes(settings: RuleSettings) -> Callable[[Any, int], int]:
    """Return a function from wildcards and attempt to the memory of the Langevin experiment.

    That of ``kernel_megabytes`` for its largest full kernel.
    """
    memory_gb = settings.config["kernel"]["memory_gb"]

    def megabytes(_wildcards: Any, attempt: int) -> int:
        rows = max(n["n"] * settings.source(n["dataset"]).outputs for n in settings.plan.langevin)
        return _with_kernels(1000 + 1000 * memory_gb, rows, 0, attempt)

    return megabytes


def _with_kernels(working: float, rows: int, stored: int, attempt: int) -> int:
    """Return the memory in MB of a job that takes four copies of a kernel beside other memory.

    Args:
        working: MB of all else.
        rows: of the kernel.
        stored: rows of a kernel that is stored once, beside these.
        attempt: from 1; a retry gets half as much more.
    """
    return int((working + 8e-6 * (4 * rows**2 + stored**2)) * (1 + attempt) / 2)


def kernel_megabytes(settings: RuleSettings) -> Callable[[Any, int], int]:
    """Return a function from wildcards and attempt to the memory of an NTK job.

    Two kernels of (n C)^2 float64 are alive (start and now), and the eigenvalue solver works on
    copies of one; above ``full_rows_limit`` they are output-traced, and beside them one full kernel
    may be stored. 1000 MB hold Python, torch and the data, with CUDA's libraries 4000 (own choice);
    ``memory_gb`` is then the card's. A retry (profiles/slurm) gets half as much more: what is known
    before seldom lacks.
    """
    kernel = settings.config["kernel"]
    on_card = gpu_count(settings.config["compute"]["device"])
    working = 4000 if on_card else 1000 + 1000 * kernel["memory_gb"]

    def megabytes(wildcards: Any, attempt: int) -> int:
        count, stored = settings.source(wildcards.dataset).outputs, 0
        rows = settings.plan.settings("subset", wildcards.subset)["n"] * count
        if rows > kernel["full_rows_limit"]:
            stored = rows * (rows <= kernel["stored_rows_limit"])
            rows //= count
        return _with_kernels(working, rows, stored, attempt)

    return megabytes
