"""Check the whole configuration, most of all against itself, before any job starts."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from pipeline.columns import is_taken
from pipeline.config_files import file_content, file_problems
from pipeline.config_schema import load_schema, schema_problems, shown
from pipeline.own_code import FORM, own_problem
from pipeline.runs import (
    DYNAMICS_KEYS,
    MODEL_KEYS,
    MOST_STEPS,
    Ensemble,
    combinations,
    is_linear_regression,
    is_own,
    labelled_combinations,
    level_keys,
    network_slug,
    stability_factor,
    study_axes,
    varied_arguments,
)
from pipeline.settings import FIGURES
from pipeline.sources import TRAINING_POOL, Source, source
from pipeline.suggestions import did_you_mean

LARGEST_EXPONENT = 20  # of power laws; of 1e6 modes a square of their ratio is a float64 still
DEFAULTS = "default_studies"  # the key
LONGEST_FOLDER_NAME = 200  # of a network; file systems take 255 bytes, and tools append to names
TRANSFORMER_HEADS = 4  # as speedlimits.vision_transformer has them, which needs torch to be read
MOST_SNAPSHOTS = 2_000  # of a run; own choice: 20 decades at 100 each
MOST_RUNS = 100_000  # of a study; own choice: planning them takes half an hour
# What `speedlimits.infinite_width` is derived for.
CLOSED_FORM = {
    "model": ("fully_connected", "myrtle5", "myrtle7", "myrtle10"),
    "parameterisation": ("ntk",),
    "initialisation": ("he",),
    "dynamics": ("gradient_flow",),
}
ARCHIVE = Path("results/data/cifar10/archive.tar.gz")  # as rules/data.smk names it
REMOVABLE = ("set", "cases", "vary", "figures")  # parts of a study that it may do without


class ConfigError(ValueError):
    """All that is wrong with a configuration, one sentence a line."""


def without_removed(config: Any) -> Any:
    """Return the configuration without what null removes under ``studies``.

    A file laid over another can replace what that gives, and only by null take it away: a study,
    its set, cases, vary or figures, a setting of set, an axis of vary, an argument of the user's
    own network. Null stays where it is a value, and under unknown names, which are refused.

    Args:
        config: the configuration as read from YAML, which is not changed.
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("studies"), Mapping):
        return config
    known = load_schema()["$defs"]["run"]["properties"]
    plain = {key for key, rule in known.items() if "null" not in rule.get("type", ())}
    studies = {}
    for name, given in config["studies"].items():
        if given is None:
            continue
        study = _without_null(given, REMOVABLE)
        for part, names in (("set", plain), ("vary", known)):
            if not isinstance(study, dict) or not isinstance(study.get(part), Mapping):
                continue
            settings = _without_null(study[part], names)
            arguments = settings.get("model_arguments")
            if isinstance(arguments, Mapping):
                settings["model_arguments"] = _without_null(arguments, arguments)
                if arguments and not settings["model_arguments"]:  # null removed the last one
                    del settings["model_arguments"]
            study[part] = settings
        studies[name] = study
    return {**config, "studies": studies}


def _removal_problems(config: Any, paths: Iterable[str | Path]) -> list[str]:
    """Return a sentence per study that null removes in vain: never given, or asked for still.

    Args:
        config: the configuration as Snakemake merged it, where null has replaced the study.
        paths: the files that it comes from.
    """
    studies, files = config.get("studies"), [Path(path) for path in paths]
    if not isinstance(studies, Mapping) or None not in studies.values():
        return []
    whole = all(path.is_file() for path in files)  # a pipe can be read only once
    parts = [file_content(path).get("studies") for path in files if whole]
    given = {
        name
        for part in parts
        if isinstance(part, Mapping)
        for name, study in part.items()
        if study is not None
    }
    asked = config.get("default_studies")
    problems = []
    for name in (name for name, study in studies.items() if study is None):
        if parts and name not in given:
            problems.append(
                f"studies.{name} is null, which removes a study, but no configuration file has "
                f"such a study{did_you_mean(str(name), given)}"
            )
        elif isinstance(asked, list) and name in asked:
            problems.append(
                f"studies.{name} is null, which removes the study, but default_studies still has "
                "it; give default_studies without it too"
            )
    return problems


def _without_null(value: Any, names: Iterable[str]) -> Any:
    """Return a mapping without those of its keys in ``names`` that are null, else the value."""
    if not isinstance(value, Mapping):
        return value
    return {key: part for key, part in value.items() if part is not None or key not in names}


def validate(config: Any) -> None:
    """Raise one error that names every problem of the configuration.

    Args:
        config: the configuration as read from YAML.

    Raises:
        ConfigError: one line per problem: key, value, what is allowed, what to do.
    """
    problems = schema_problems(config) or _inconsistencies(config)
    if problems:
        unique = list(dict.fromkeys(problems))
        raise ConfigError(
            f"the configuration has {len(unique)} problem{'s' if len(unique) > 1 else ''}:\n"
            + "\n".join(f"  - {problem}" for problem in unique)
        )


def _inconsistencies(config: dict) -> list[str]:
    """Return what the schema cannot see, settings that contradict each other, in sentences."""
    problems: list[str] = []
    cifar10 = config["datasets"].get("cifar10", {})
    if cifar10.get("archive") and os.path.isdir(os.path.expanduser(cifar10["archive"])):
        problems.append(
            f"datasets.cifar10.archive is {cifar10['archive']}, a folder; name the archive itself, "
            "cifar-10-python.tar.gz or one of the same layout"
        )
    elif cifar10.get("archive") and not cifar10.get("sha256"):
        problems.append(
            "datasets.cifar10.archive is set but datasets.cifar10.sha256 is not; give the "
            f"archive's SHA-256 (sha256sum {cifar10['archive']})"
        )
    for name in config["default_studies"]:
        problems += _unknown_name("default_studies", name, config["studies"], "add studies.")
    counted = [p for name, study in config["studies"].items() for p in _too_many(name, study)]
    if counted:
        return problems + counted
    studies = config["studies"].values()
    used = {run["dataset"] for study in studies for run in combinations(config["base"], study)}
    sources: dict[str, Source] = {}
    for name, entry in config["datasets"].items():
        wrong = _dataset_problems(name, entry)
        if name in used and not wrong:
            try:
                sources[name] = source(name, entry)
            except ValueError as error:
                wrong = [f"datasets.{name}.file: {error}"]
        problems += wrong
    for name, study in config["studies"].items():
        found = _study_problems(config, name, study, sources)
        if name not in config["default_studies"]:
            without = f"; or do without this study: studies: {{{name}: null}}"
            found = [text + without if f"studies.{name}" in text else text for text in found]
        problems += found
    problems += _duplicate_studies(config)
    problems += _theory_problems(config["theory"])
    problems += _idle_arguments(config)
    for number, settings in enumerate(combinations(config["base"], _langevin(config))):
        where = f"theory.langevin.networks[{number}]"
        problems += _model_problems(where, settings["model"], settings["model_arguments"])
    return problems


def _langevin(config: dict) -> dict:
    """Return the networks of the Langevin experiment as a study."""
    langevin = config["theory"]["langevin"]
    return {"set": langevin["set"], "cases": langevin["networks"]}


def langevin_problems(config: dict) -> list[str]:
    """Return what the Langevin experiment wrongly asks of its data or names in vain, in sentences.

    They are told where it is asked for: most of its settings are those of the base, and a base of
    real targets, say, is no mistake of who does not want this experiment.

    Args:
        config: a validated configuration.
    """
    where, problems, study = "theory.langevin", [], _langevin(config)
    read = {"dataset", "final_time", "model_arguments"}
    for settings in combinations(config["base"], study):
        read.update(_read(settings, ("subset", "network")))
        name = settings["dataset"]
        unknown = _unknown_name(f"{where}: dataset", name, config["datasets"], "add datasets.")
        if not unknown:
            data = source(name, config["datasets"][name])
            found = _data_problems(settings | {"warm_start_accuracy": None}, data)
            unknown = [f"{where} {problem}" for problem in found]
            unknown += [f"{where}: {problem}" for problem in _fit_problems(settings, data)]
            rows, limit = settings["n"] * data.outputs, config["kernel"]["full_rows_limit"]
            if not found and rows > limit:
                unknown.append(
                    f"{where} asks for n = {settings['n']} with {data.outputs} outputs, whose full "
                    f"kernel of {rows} rows is above kernel.full_rows_limit = {limit}; lower n, or "
                    "raise the limit"
                )
        problems += unknown
    problems += [
        f"{where} has {key}, which none of its networks reads (a step and temperatures stand under "
        f"{where} itself); remove it"
        for part in (study["set"], *study["cases"])
        for key in part
        if key not in read
    ]
    return list(dict.fromkeys(problems))


def _idle_arguments(config: dict) -> list[str]:
    """Return a sentence per place whose ``model_arguments`` no network of the user's own reads."""
    studies = {
        "theory.langevin": _langevin(config),
        **{f"studies.{name}": study for name, study in config["studies"].items()},
    }
    built_in = [
        where
        for where, study in studies.items()
        if not any(is_own(run["model"]) for run in combinations(config["base"], study))
    ]
    wrong = [where for where in built_in if _gives_arguments(studies[where])]
    idle = not is_own(config["base"]["model"]) and len(built_in) == len(studies)
    if config["base"]["model_arguments"] and idle:
        wrong.append("base")
    return [
        f"{where} has model_arguments, which no network of your own reads here; remove it, or set "
        f"model: {FORM}"
        for where in wrong
    ]


def _gives_arguments(study: dict) -> bool:
    """Return whether a study itself gives arguments to a network of the user's own."""
    parts = [study.get("set", {}), study.get("vary", {}), *study.get("cases", [])]
    return any(part.get("model_arguments") for part in parts)


def _dataset_problems(name: str, entry: dict) -> list[str]:
    """Return what is wrong with one entry of ``datasets``."""
    if name in TRAINING_POOL:
        return []
    if ("file" in entry) == ("teacher" in entry):
        return [
            f"datasets.{name} must have either file (your own data) or teacher (synthetic data); "
            f"built in are {', '.join(TRAINING_POOL)}{did_you_mean(name, TRAINING_POOL)}"
        ]
    if "teacher" in entry and "normalise" in entry:
        return [f"datasets.{name}.normalise is for files; a teacher's inputs are as designed"]
    teacher = entry.get("teacher", {})
    if teacher.get("features") == "orthonormal" and teacher["dimension"] > teacher["samples"]:
        return [
            f"datasets.{name}.teacher.dimension is {teacher['dimension']}; orthonormal features "
            f"number at most samples = {teacher['samples']}"
        ]
    return []


def _theory_problems(theory: dict) -> list[str]:
    """Return the settings of the theory that contradict each other, in sentences."""
    problems = []
    where, regression = "theory.linear_regression", theory["linear_regression"]
    for first in ("first_time", "first_simulated_time"):
        if regression[first] >= regression["final_time"]:
            problems.append(
                f"{where}.{first} is {regression[first]}; it must be less than final_time "
                f"{regression['final_time']}"
            )
    d, realisations = regression["dimensions"][0], regression["realisations"]
    if realisations < d**2:
        problems.append(
            f"{where}.realisations is {realisations}; covariances of the {d} dimensions that are "
            f"simulated (the first of dimensions) need at least {d}^2 = {d**2}"
        )
    if regression["groups"] > realisations:
        problems.append(
            f"{where}.groups is {regression['groups']}; it must be at most realisations "
            f"{realisations}"
        )
    for d in regression["dimensions"]:
        problems += [
            f"{where}.ratios holds {ratio}, which leaves no sample at d = {d}; raise one of both"
            for ratio in regression["ratios"]
            if round(ratio * d) < 1
        ]
        problems += [
            f"{where}.ratios holds {ratio}, which is no whole number of samples at d = {d} "
            f"({ratio * d:g}); take another of both"
            for ratio in regression["ratios"]
            if round(ratio * d) >= 1 and abs(ratio * d - round(ratio * d)) > 1e-9 * d
        ]
    for k, (alpha, delta) in enumerate(theory["power_law"]["exponents"]):
        if alpha <= 0 or delta <= 1 - alpha:
            problems.append(
                f"theory.power_law.exponents[{k}] is [{alpha}, {delta}]; the asymptote needs "
                "alpha > 0 and delta > 1 - alpha"
            )
        elif max(alpha, abs(delta)) > LARGEST_EXPONENT:
            problems.append(
                f"theory.power_law.exponents[{k}] is [{alpha}, {delta}]; allowed: up to "
                f"{LARGEST_EXPONENT}, beyond which powers of the rank have no numbers"
            )
    return problems


def _unknown_name(key: str, value: str, known: Any, remedy: str = "") -> list[str]:
    """Return a sentence if a name is not among the known ones."""
    if value in known:
        return []
    add = f"; or {remedy}{value}" if remedy else ""
    return [
        f"{key} is {shown(value)}; allowed: {', '.join(known)}{add}{did_you_mean(value, known)}"
    ]


def _too_many(name: str, study: dict) -> list[str]:
    """Return a sentence if a study asks for more runs than can be planned."""
    vary = {**study.get("vary", {}), **varied_arguments(study)}
    lengths = [len(values) for key, values in vary.items() if key != "model_arguments"]
    runs = math.prod(lengths) * len(study.get("cases", [{}])) * study["realisations"]
    if runs <= MOST_RUNS:
        return []
    return [f"studies.{name} asks for {runs} runs; a study has at most {MOST_RUNS}"]


def _origin(name: str, study: dict, *keys: str) -> str:
    """Return whose settings these are: ``studies.NAME`` if it gives any of them, else ``base``."""
    given = [study.get("set", {}), study.get("vary", {}), *study.get("cases", [])]
    return f"studies.{name}" if any(key in part for part in given for key in keys) else "base"


def _replaced_by_vary(case: dict, study: dict) -> list[str]:
    """Return the settings of a case, and arguments of its network, that ``vary`` would replace."""
    varied, arguments = study.get("vary", {}), case.get("model_arguments", {})
    own = [f"model_arguments.{key}" for key in arguments if key in varied_arguments(study)]
    return [key for key in case if key in varied and key != "model_arguments"] + own


def _threshold_problems(config: dict, name: str, study: dict) -> list[str]:
    """Return a sentence if cases are the same runs with thresholds of their own.

    Told apart by their labels they would be compared with themselves.
    """
    if "case" not in study_axes(study):
        return []
    found: dict[Ensemble, dict[str, float | None]] = {}
    for label, settings in labelled_combinations(config["base"], study):
        run = Ensemble.of(settings, study["realisations"])
        of_run = found.setdefault(replace(run, warm_start_accuracy=None), {})
        of_run[label] = run.warm_start_accuracy
    same = dict.fromkeys(tuple(of) for of in found.values() if len(set(of.values())) > 1)
    return [
        f"studies.{name}.cases {' and '.join(labels)} are the same runs with other thresholds; "
        "vary warm_start_accuracy instead, which leaves such runs one"
        for labels in same
    ]


def _study_problems(config: dict, name: str, study: dict, sources: dict[str, Source]) -> list[str]:
    """Return every problem of all combinations of one study's settings, each once."""
    problems = []
    for figure in study.get("figures", []):
        problems += _unknown_name(f"studies.{name}.figures", figure, FIGURES)
    if _has_limit(study) and list(study_axes(study)) != ["width"]:
        problems.append(
            f"studies.{name}.figures names infinite_width, which compares widths of one network; "
            "vary width and nothing else but subset"
        )
    for case in study.get("cases", []):
        problems += [
            f"studies.{name} has {key} in cases and in vary; keep one of the two"
            for key in _replaced_by_vary(case, study)
        ]
    problems += _label_problems(name, study)
    models: dict[str, list[str]] = {}
    for settings in combinations(config["base"], study):
        unknown = _unknown_name(
            f"{_origin(name, study, 'dataset')}: dataset",
            settings["dataset"],
            config["datasets"],
            "add datasets.",
        )
        model, arguments = settings["model"], settings["model_arguments"]
        known = repr((model, sorted(arguments.items()) if is_own(model) else ()))
        if known not in models:
            whose = _origin(name, study, "model", *(("model_arguments",) if is_own(model) else ()))
            models[known] = _model_problems(whose, model, arguments)
        unknown += models[known]
        problems += unknown or _run_problems(config, name, study, settings, sources)
    problems += _argument_name_problems(config, name, study)
    problems = problems or _threshold_problems(config, name, study)  # else a name may be unknown
    if not problems and name in config["default_studies"]:
        problems += _idle_problems(config, name)
    return problems


def _has_limit(study: dict) -> bool:
    """Return whether a study is compared with infinite width."""
    return "infinite_width" in study.get("figures", [])


def _run_problems(
    config: dict, name: str, study: dict, settings: dict, sources: dict[str, Source]
) -> list[str]:
    """Return the problems of one combination of a study's settings, whose names are all known."""
    problems = []
    if is_own(settings["model"]) and len(network_slug(settings)) > LONGEST_FOLDER_NAME:
        problems.append(
            f"studies.{name}: model and model_arguments make a folder's name of "
            f"{len(network_slug(settings))} characters; at most {LONGEST_FOLDER_NAME} are allowed"
        )
    if settings["dataset"] in sources and name in config["default_studies"]:
        problems += [
            problem if DEFAULTS in problem else f"{problem}; or leave the study out of {DEFAULTS}"
            for problem in _misfits(_where(name, settings), settings, sources[settings["dataset"]])
        ]
    if settings["first_snapshot"] >= settings["final_time"]:
        whose = _origin(name, study, "first_snapshot", "final_time")
        problems.append(
            f"{whose}: first_snapshot is {settings['first_snapshot']}; it must be less than "
            f"final_time {settings['final_time']}"
        )
    decades = math.log10(settings["final_time"]) - math.log10(settings["first_snapshot"])
    if decades * settings["snapshots_per_decade"] > MOST_SNAPSHOTS:
        whose = _origin(name, study, "first_snapshot", "final_time")
        problems.append(
            f"{whose}: first_snapshot is {settings['first_snapshot']}, {decades:.3g} decades below "
            f"final_time, which at snapshots_per_decade {settings['snapshots_per_decade']} takes "
            f"more than {MOST_SNAPSHOTS} snapshots of every run; raise it, or lower that"
        )
    problems += [f"studies.{name}: {problem}" for problem in _step_problems(settings)]
    return problems + (_limit_problems(name, study, settings) if _has_limit(study) else [])


def _idle_problems(config: dict, name: str) -> list[str]:
    """Return what a study names in vain, in sentences."""
    study = config["studies"][name]
    repeated = _repeated_cases(config, name, study) or _repeated_threshold(config, name, study)
    return _idle_settings(config, name, study) or repeated


def _label_problems(name: str, study: dict) -> list[str]:
    """Return a sentence per label that two cases of a study have, or that ends a page's script."""
    cases = study.get("cases", [])
    labels = [label for label, _ in labelled_combinations({}, {"cases": cases})]
    twice = [
        f"studies.{name} has two cases with the label {label}; give each a label of its own"
        for label in dict.fromkeys(labels)
        if labels.count(label) > 1
    ]
    return twice + [
        f"studies.{name} has a case with the label {label}, which Snakemake's report cannot show; "
        f"leave {part} out of it"
        for label in dict.fromkeys(labels)
        for part in ("</script", "<!--")
        if part in label.lower()
    ]


def _idle_settings(config: dict, name: str, study: dict) -> list[str]:
    """Return a sentence per setting that a study names and none of its runs reads."""
    runs = list(combinations(config["base"], study))
    read = {"label", "dataset", "warm_start_accuracy", "model_arguments"}
    read.update(key for settings in runs for key in _read(settings))
    cases = {key: None for case in study.get("cases", []) for key in case}
    named = {"set": study.get("set", {}), "cases": cases, "vary": study.get("vary", {})}
    problems = []
    for part, keys in named.items():
        for key in (key for key in keys if key not in read):
            kind = "dynamics" if any(key in keys for keys in DYNAMICS_KEYS.values()) else "model"
            readers = {"dynamics": DYNAMICS_KEYS, "model": MODEL_KEYS}[kind].items()
            has = dict.fromkeys(_in_words(settings, kind) for settings in runs)
            how = "remove it" if part == "cases" else f"remove it by {part}: {{{key}: null}}"
            if part == "vary" and kind == "model" and any(is_own(run["model"]) for run in runs):
                how += ", vary what your own network takes in vary: {model_arguments: ...}"
            problems.append(
                f"studies.{name}.{part} has {key}, which no run of the study reads ({kind}: "
                f"{', '.join(has)}); {how}, or set {kind}: "
                f"{' or '.join(reader for reader, keys in readers if key in keys)}"
            )
    return problems


def _read(settings: dict, levels: Iterable[str] = ("subset", "network", "dynamics")) -> set[str]:
    """Return the run settings that a run reads at some levels, besides its data set."""
    return {key for level, keys in level_keys(settings).items() if level in levels for key in keys}


def _in_words(settings: dict, kind: str) -> str:
    """Return the dynamics or the model of a run in words."""
    layer = " of depth 1" if kind == "model" and is_linear_regression(settings) else ""
    return settings[kind] + layer


def _repeated_cases(config: dict, name: str, study: dict) -> list[str]:
    """Return a sentence per pair of labelled cases of a study that are the same runs."""
    runs: dict[str, list[Ensemble]] = {}
    if len(study.get("cases", [])) < 2:
        return []
    for label, settings in labelled_combinations(config["base"], study):
        runs.setdefault(label, []).append(Ensemble.of(settings, study["realisations"]))
    labels = list(runs)
    return [
        f"studies.{name}: the cases {first} and {second} are the same runs, since they differ in "
        "nothing that these read; remove one of the two"
        for number, second in enumerate(labels)
        for first in labels[:number]
        if set(runs[first]) == set(runs[second])
    ]


def _repeated_threshold(config: dict, name: str, study: dict) -> list[str]:
    """Return a sentence if a study has a warm start twice: by null and by the number it means."""
    common = config["warm_start"]["test_accuracy"]
    settings = list(combinations(config["base"], study))
    if not {None, common} <= {run.get("warm_start_accuracy") for run in settings}:
        return []
    runs = {Ensemble.of(run, study["realisations"]) for run in settings}
    same = {run for run in runs if run.warm_start_accuracy == common}
    if not any(replace(run, warm_start_accuracy=None) in runs for run in same):
        return []
    return [
        f"studies.{name} has warm_start_accuracy {common} and null, which is "
        "warm_start.test_accuracy and so the same; remove one of the two"
    ]


def _limit_problems(name: str, study: dict, settings: dict) -> list[str]:
    """Return which settings of a run have no closed form at infinite width, in sentences."""
    wrong = [(key, known) for key, known in CLOSED_FORM.items() if settings[key] not in known]
    problems = [
        f"{_origin(name, study, key)}: {key} is {settings[key]}, but the figure infinite_width of "
        f"studies.{name} has its closed form for {' or '.join(known)} only; set {key}: "
        f"{' or '.join(known)} in the study"
        for key, known in wrong
    ]
    if settings["model"] == "fully_connected" and settings["depth"] < 2 and not wrong:
        problems.append(
            f"{_origin(name, study, 'depth')}: depth is {settings['depth']}, a network without a "
            f"width; the figure infinite_width of studies.{name} needs at least 2"
        )
    return problems


def _model_problems(whose: str, model: str, arguments: dict) -> list[str]:
    """Return what is wrong with the name of a network, or with the user's own network."""
    if is_own(model):
        problem = own_problem(model, arguments)
        return [f"{whose}: model is {shown(model)}; {problem}"] if problem else []
    return [
        f"{problem}; or a network of your own, {FORM}"
        for problem in _unknown_name(f"{whose}: model", model, MODEL_KEYS)
    ]


def _argument_name_problems(config: dict, name: str, study: dict) -> list[str]:
    """Return a sentence per argument of an own network that tables could not name so.

    A varied argument is a column of its name, as the settings that only built-in networks read are;
    any argument stands among the settings of its run.
    """
    of_networks = {key for keys in MODEL_KEYS.values() for key in keys}
    settings = {*config["base"], "warm_start_accuracy", "case"} - of_networks
    taken = settings | set(study.get("vary", {}))
    own = [run for run in combinations(config["base"], study) if is_own(run["model"])]
    varied = varied_arguments(study) if own else {}
    problems = [
        f"studies.{name}.vary.model_arguments has {argument}, which is the name of another column "
        "of the tables; call the argument otherwise"
        for argument in varied
        if argument in taken or (is_taken(argument) and argument not in of_networks)
    ]
    given = {
        argument: None
        for run in own
        for argument in run["model_arguments"]
        if argument not in varied
    }
    return problems + [
        f"{_origin(name, study, 'model_arguments')}: model_arguments has {argument}, which is the "
        "name of another setting of a run; call the argument otherwise"
        for argument in given
        if argument in settings
    ]


def _data_problems(settings: dict, data: Source) -> list[str]:
    """Return what a run wrongly asks of its data set."""
    name, found = settings["dataset"], []
    if data.samples is not None and settings["n"] > data.samples:
        found.append(
            f"asks for n = {settings['n']} training samples; {name} has {data.samples}: lower n, "
            f"or leave the study out of {DEFAULTS} and of what you ask for"
        )
    if data.real is False and settings["targets"] == "real":
        found.append(f"has targets: real, but {name} has classes; set one_hot or centred_one_hot")
    if data.real and settings["targets"] != "real":
        found.append(
            f"has targets: {settings['targets']}, but {name} has real targets and no classes; set "
            "targets: real"
        )
    if data.real and settings["selection"] != "uniform":
        found.append(
            f"has selection: {settings['selection']}, but {name} has real targets and no classes; "
            "set selection: uniform"
        )
    if data.real and settings["label_noise"]:
        found.append(
            f"has label_noise, but {name} has real targets; put noise into the targets, and remove "
            "it by label_noise: null"
        )
    if settings.get("warm_start_accuracy") is not None and (data.real or not data.tested):
        why = "real targets" if data.real else "no test part"
        found.append(
            f"asks for a warm start by test accuracy, but {name} has {why} and so no accuracy; "
            "remove it by warm_start_accuracy: null"
        )
    return found


def _fit_problems(settings: dict, data: Source) -> list[str]:
    """Return why the network or the minibatches of a run do not fit its data, in sentences."""
    problems = _network_problems(settings)
    if data.input_shape is not None:
        problems += _shape_problems(settings, data.input_shape)
    batch, n = settings["batch_size"], settings["n"]
    if settings["dynamics"] == "sgd" and batch > n:
        problems.append(
            f"batch_size is {batch}, more than n = {n}; sgd draws it from the training samples"
        )
    return problems


def _misfits(where: str, settings: dict, data: Source) -> list[str]:
    """Return in sentences that begin with ``where`` what of a run does not fit its data."""
    asked = [f"{where} {problem}" for problem in _data_problems(settings, data)]
    return asked + [f"{where}: {problem}" for problem in _fit_problems(settings, data)]


def problems_where_asked(config: dict, name: str) -> list[str]:
    """Return what of a study does not fit its data, and what it names in vain, in sentences.

    Of default studies ``validate`` tells it; of any other study it is told where it is asked for:
    the shipped ones lie over the base, and a base of vectors or real targets, say, or a network
    without a width is no mistake of who does not want a study of convolutional networks, of test
    accuracies, or of widths.

    Args:
        config: a validated configuration.
        name: of the study.
    """
    sources = functools.cache(lambda data: source(data, config["datasets"][data]))
    problems = []
    for settings in combinations(config["base"], config["studies"][name]):
        where = _where(name, settings)
        problems += _misfits(where, settings, sources(settings["dataset"]))
    return list(dict.fromkeys(problems)) or _idle_problems(config, name)


def _where(name: str, settings: dict) -> str:
    """Return the place of a run in words: its study, n and data set."""
    return f"studies.{name} (n = {settings['n']}, {settings['dataset']})"


def _network_problems(settings: dict) -> list[str]:
    """Return what is wrong with the size of a built-in network, whatever its data."""
    model, width = settings["model"], settings["width"]
    if model == "vision_transformer" and width % TRANSFORMER_HEADS:
        return [f"width is {width}; {model} needs a multiple of its {TRANSFORMER_HEADS} heads"]
    if is_linear_regression(settings) and settings["parameterisation"] == "mean_field":
        return ["parameterisation is mean_field, a mean over hidden units; depth 1 has none"]
    return []


def _shape_problems(settings: dict, shape: tuple[int, ...]) -> list[str]:
    """Return why a built-in network takes no inputs of this shape, or nothing."""
    model, patch = settings["model"], settings["patch_size"]
    images = len(shape) == 3
    has = f"but {settings['dataset']} has inputs of shape {shape}"
    if model == "vision_transformer":
        if not images or shape[1] != shape[2] or shape[1] % patch:
            return [
                f"model is {model}, which needs square images whose side is a multiple of "
                f"patch_size {patch}, {has}"
            ]
    elif model in MODEL_KEYS and model != "fully_connected":
        if not images or shape[1] % 4 or shape[2] % 4:
            return [
                f"model is {model}, which needs images (channels, height, width) with height and "
                f"width multiples of 4, {has}; set another model, for example fully_connected"
            ]
    return []


def _slowed(settings: dict) -> float:
    """Return 1 - momentum, by which a step takes longer than its learning rate, else 1."""
    return 1 - settings["momentum"] if settings["dynamics"] in ("heavy_ball", "nesterov") else 1.0


def _steps(settings: dict) -> float:
    """Return the number of steps of a run, NaN where only lambda_1 tells."""
    length = settings["learning_rate"] / _slowed(settings)
    of = settings["time_unit"], settings["learning_rate_unit"]
    if of[0] == "steps":
        return settings["final_time"]
    if of == ("absolute", "absolute"):
        return settings["final_time"] / length
    if of == ("inverse_lambda_1", "stability_limit") and settings["dynamics"] != "adam":
        return settings["final_time"] / (2 * length)
    return math.nan


def _step_problems(settings: dict) -> list[str]:
    """Return what is wrong with the step of dynamics that take steps of the learning rate."""
    dynamics, rate = settings["dynamics"], settings["learning_rate"]
    if "learning_rate" not in DYNAMICS_KEYS[dynamics]:
        steps = settings["time_unit"] == "steps"
        return [f"time_unit is steps, but {dynamics} has none of its own"] if steps else []
    fraction = settings["learning_rate_unit"] == "stability_limit"
    if fraction and settings["time_unit"] == "inverse_lambda_1" and _steps(settings) < 1:
        return [
            f"final_time is {settings['final_time']}, but one step of {dynamics} at this learning "
            f"rate is {2 * rate / _slowed(settings):.4g} long (in 1/lambda_1); raise final_time"
        ]
    if settings["time_unit"] == "steps" and settings["final_time"] % 1:
        return [f"final_time is {settings['final_time']} steps; it must be a whole number of them"]
    if (steps := _steps(settings)) > MOST_STEPS and settings["time_unit"] == "steps":
        return [f"final_time is {steps:g} steps; allowed: up to {MOST_STEPS:g}; lower it"]
    if steps > MOST_STEPS:
        return [
            f"final_time is {settings['final_time']}, which takes {steps:.2g} steps of {dynamics} "
            f"at this learning rate; allowed: up to {MOST_STEPS:g}; lower final_time or raise "
            "learning_rate, or set dynamics: gradient_flow"
        ]
    if dynamics == "adam":
        problems = []
        if fraction:
            problems.append("adam needs learning_rate_unit: absolute (its steps are lengths)")
        if settings["time_unit"] == "inverse_lambda_1":
            problems.append("adam needs time_unit: steps or absolute (its time is a length)")
        return problems
    limit = stability_factor(dynamics, settings["momentum"])
    if fraction and rate >= limit and not settings["beyond_stability"]:
        return [
            f"learning_rate is {rate} times the stability limit 2/lambda_1; {dynamics} diverges at "
            f"{limit:.4g} times this limit and above; it must be less, or set beyond_stability: "
            "true to run it all the same and record divergence"
        ]
    return []


def _duplicate_studies(config: dict) -> list[str]:
    """Return a sentence per pair of studies that describe exactly the same runs."""
    seen: dict[str, str] = {}
    problems = []
    for name, study in config["studies"].items():
        points = [sorted(settings.items()) for settings in combinations(config["base"], study)]
        described = repr(sorted(map(str, points))) + str(study["realisations"])
        if described in seen:
            problems.append(
                f"studies.{name} repeats studies.{seen[described]}; remove one of the two, by "
                f"studies: {{{name}: null}} for example"
            )
        seen[described] = name
    return problems


def _typed(value: Any, given: Any) -> Any:
    """Return a value with the texts in it that the command line gave read as YAML."""
    if isinstance(value, dict) and isinstance(given, Mapping):
        return {key: _typed(part, given.get(key)) for key, part in value.items()}
    if isinstance(value, list) and value == given:
        return [_typed(part, part) for part in value]
    if isinstance(value, str) and value == given:
        with contextlib.suppress(yaml.YAMLError):
            return yaml.safe_load(value)
    return value


def validated(
    config: dict, paths: Iterable[str | Path] = (), given: Mapping[str, Any] | None = None
) -> dict:
    """Return a deep copy of the configuration after checking it.

    Args:
        config: the configuration as Snakemake merged it.
        paths: the files that it comes from.
        given: what ``--config`` gave of it; Snakemake reads all numbers within ``base={n: 8}`` as
            text, and here they become numbers.

    Returns:
        A plain copy that nothing else mutates, without what null removes (``without_removed``).

    Raises:
        ConfigError: if anything is wrong with it.
    """
    problems = [problem for path in dict.fromkeys(paths) for problem in file_problems(path)]
    if problems:
        raise ConfigError("\n".join(problems))
    for key, value in (given or {}).items():
        if not isinstance(value, str):  # Snakemake has read it
            config = {**config, key: _typed(config[key], value)}
    problems = _removal_problems(config, paths)
    if problems:
        raise ConfigError("\n".join(problems))
    config = without_removed(config)
    validate(config)
    archive = config["datasets"].get("cifar10", {}).get("archive")
    if archive and "://" not in archive and not ARCHIVE.is_file():
        if not Path(archive).expanduser().is_file():
            raise ConfigError(
                f"datasets.cifar10.archive is {archive}, which is no file; correct the path, or "
                "remove the key to download the official archive"
            )
    return copy.deepcopy(dict(config))
