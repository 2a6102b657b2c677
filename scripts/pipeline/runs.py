"""Studies as grids of runs, and the readable path by which a run's full settings name it.

A run is one trajectory: (data set, subset) -> network -> dynamics -> realisation. Each level has a
slug that spells out all its settings, so that a run's results are found at the same place whatever
study or figure asks for it, and two studies share the runs that they have in common.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from speedlimits.stability import heavy_ball_factor, nesterov_factor

PLACE = ("dataset", "subset", "network", "dynamics")  # the folders above a run
SUBSET_KEYS = ("n", "selection", "subset", "label_noise")
# What a network of each name reads besides COMMON_NETWORK_KEYS.
MODEL_KEYS = {
    "myrtle5": ("width", "parameterisation", "initialisation"),
    "myrtle7": ("width", "parameterisation", "initialisation"),
    "myrtle10": ("width", "parameterisation", "initialisation"),
    "fully_connected": ("width", "depth", "parameterisation", "initialisation"),
    "residual_network": ("width", "depth", "parameterisation", "initialisation"),
    "vision_transformer": ("width", "depth", "patch_size"),
}
OWN_MODEL_KEYS = ("model_arguments",)  # of a network of the user's own, package.module:factory
COMMON_NETWORK_KEYS = ("targets", "precision", "output_scale", "subtract_start")
# What each dynamics reads besides CLOCK_KEYS.
STEP_KEYS = ("learning_rate", "learning_rate_unit", "beyond_stability")
DYNAMICS_KEYS = {
    "gradient_flow": ("relative_tolerance",),
    "gradient_descent": STEP_KEYS,
    "heavy_ball": (*STEP_KEYS, "momentum"),
    "nesterov": (*STEP_KEYS, "momentum"),
    "adam": (*STEP_KEYS, "momentum"),
    "sgd": (*STEP_KEYS, "batch_size"),
    "langevin": (*STEP_KEYS, "temperature"),
}


class Refusal(SystemExit):
    """What the command line asks for cannot be made: one sentence, which ends the process with 1.

    Functions of a rule raise it: of any other exception Snakemake prints a traceback.
    """


def refuse(problems: Iterable[str]) -> None:
    """Refuse for all problems at once, if there are any.

    Raises:
        Refusal: one sentence a line.
    """
    if problems := list(problems):
        raise Refusal("\n".join(problems))


def is_own(model: str) -> bool:
    """Return whether a model is the user's own, ``package.module:factory``."""
    return ":" in model


def model_keys(settings: dict) -> tuple[str, ...]:
    """Return what a network of these settings reads besides COMMON_NETWORK_KEYS."""
    model = settings["model"]
    if is_own(model):
        return OWN_MODEL_KEYS
    unread = ("width",) if is_linear_regression(settings) else ()
    return tuple(key for key in MODEL_KEYS[model] if key not in unread)


def is_linear_regression(settings: dict) -> bool:
    """Return whether the network is one layer, which has no width."""
    return settings["model"] == "fully_connected" and settings["depth"] == 1


def stability_factor(dynamics: str, momentum: float) -> float:
    """Return the largest stable learning rate over 2/lambda_1 (docs/theory.md, section 8).

    1 for gradient descent and Langevin dynamics (and for minibatches, whose noise lowers it),
    1 + mu for heavy ball, (1 + mu) / (1 + 2 mu) for Nesterov's momentum mu, infinite for Adam.
    """
    factors = {"heavy_ball": heavy_ball_factor(momentum), "nesterov": nesterov_factor(momentum)}
    return factors.get(dynamics, math.inf if dynamics == "adam" else 1.0)


CLOCK_WORDS = {"inverse_lambda_1": "lambda1", "absolute": "absolute", "steps": "steps"}
CLOCK_KEYS = ("final_time", "first_snapshot", "time_unit", "snapshots_per_decade")
# Figures of a study that names none: with and without several training-set sizes.
STUDY_FIGURES = ("outcomes", "training_curves", "inefficiency_time", "inefficiency_factors")
SIZE_FIGURES = (
    "training_curves",
    "speed_limit_time",
    "inefficiency_time",
    "inefficiency_size",
    "path_length_ratio",
    "residue_projections",
    "inefficiency_factors",
    "outcomes",
)


def combinations(base: dict, study: dict) -> Iterator[dict]:
    """Yield the settings of every point of a study: its cases, each with its whole grid.

    Args:
        base: settings that the study does not touch.
        study: ``set`` (settings laid over the base), ``cases`` (list of settings laid over that,
            one after the other) and ``vary`` (setting -> list of values), each optional. Set and
            cases replace ``model_arguments`` as a whole; vary lays single arguments over them.

    Yields:
        One complete dict of run settings per point, in the order of the lists; of the settings in
        ``vary`` that with the first name, by the alphabet, changes last.
    """
    for _, settings in labelled_combinations(base, study):
        yield settings


def labelled_combinations(base: dict, study: dict) -> Iterator[tuple[str, dict]]:
    """Yield the label of its case and the settings of every point of a study."""
    # Sorted, since the order of a mapping's keys says nothing: rows, colours and draws follow it.
    vary = dict(sorted(study.get("vary", {}).items()))
    vary.pop("model_arguments", None)
    arguments = dict(sorted(varied_arguments(study).items()))
    for case in study.get("cases", [{}]):
        changed = {key: value for key, value in case.items() if key != "label"}
        label = case.get("label") or ", ".join(_case_word(*item) for item in changed.items())
        for values in itertools.product(*vary.values(), *arguments.values()):
            varied = dict(zip(vary, values, strict=False))
            settings = {**base, **study.get("set", {}), **changed, **varied}
            if arguments:
                own = dict(zip(arguments, values[len(vary) :], strict=True))
                settings["model_arguments"] = settings.get("model_arguments", {}) | own
            yield label, settings


def varied_arguments(study: dict) -> dict[str, list]:
    """Return argument of the user's own network -> its values in a study's ``vary``."""
    return study.get("vary", {}).get("model_arguments", {})


def _case_word(key: str, value: Any) -> str:
    """Return a setting of a case in words: ``myrtle5``, ``momentum 0.9``."""
    name = key.replace("_", " ")
    if isinstance(value, bool):
        return name if value else f"no {name}"
    if isinstance(value, dict):  # 1 and 1.0 are different arguments
        words = (f"{k} {v}" if isinstance(v, float) else _case_word(k, v) for k, v in value.items())
        return ", ".join(words) or f"no {name}"
    if key == "model" and is_own(value):
        return value
    return value.replace("_", " ") if isinstance(value, str) else f"{name} {number(value)}"


def study_axes(study: dict, threshold: float | None = None) -> dict[str, list]:
    """Return axis -> its values in order: what the results of a study are compared along.

    An axis is a setting of ``vary``; cases without labels that differ in one setting alone are an
    axis of that name, other cases the axis ``case``. The number of a subset's draw is no axis:
    other draws repeat a measurement. A varied argument of the user's own network is an axis of its
    name. A threshold of null is the common one, as in the tables.

    Args:
        study: its block of the configuration.
        threshold: ``warm_start.test_accuracy``.
    """
    vary = {**study.get("vary", {}), **varied_arguments(study)}
    unused = ("subset", "model_arguments")
    axes = {key: list(values) for key, values in vary.items() if key not in unused}
    cases = study.get("cases", [])
    keys = {key for case in cases for key in case if key != "label"}
    labelled = any("label" in case for case in cases)
    single = len(keys) == 1 and "model_arguments" not in keys and not labelled
    if len(cases) > 1 and single and all(keys <= set(case) for case in cases):
        key = keys.pop()
        axes[key] = [case[key] for case in cases]
    elif len(cases) > 1:
        axes["case"] = [label for label, _ in labelled_combinations({}, {"cases": cases})]
    own = "warm_start_accuracy"
    if own in axes:
        told = (threshold if value is None else value for value in axes[own])
        axes[own] = list(dict.fromkeys(told))
    return {key: values for key, values in axes.items() if len(values) > 1}


def level_keys(settings: dict) -> dict[str, tuple[str, ...]]:
    """Return level -> the run settings that a run with these settings reads there.

    Args:
        settings: complete run settings.

    Returns:
        "subset", "network" and "dynamics", each with its keys.
    """
    return {
        "subset": SUBSET_KEYS,
        "network": ("model", *model_keys(settings), *COMMON_NETWORK_KEYS),
        "dynamics": ("dynamics", *DYNAMICS_KEYS[settings["dynamics"]], *CLOCK_KEYS),
    }


def number(value: float) -> str:
    """Return a number as it stands in a path: 2000, 0.005, 1e-05."""
    return str(plain(value))


def plain(value: Any) -> Any:
    """Return a setting as its path says it: 300 for 300.0, one value however it is written."""
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
    return int(value) if whole else value


def subset_slug(settings: dict) -> str:
    """Return for example ``n64-balanced-subset0``, with label noise ``...-label_noise0.1``."""
    noise = settings["label_noise"]
    slug = f"n{settings['n']}-{settings['selection']}-subset{settings['subset']}"
    return f"{slug}-label_noise{number(noise)}" if noise else slug


def argument_word(value: bool | int | float | str) -> str:
    """Return the value of an own network's argument as it stands in a path: true, 8, 0.1, relu.

    Values of different types have different words, as long as texts begin with a letter and are
    neither true nor false (the schema asks for both).
    """
    return str(value).lower() if isinstance(value, bool) else str(value)


def own_words(settings: dict) -> list[str]:
    """Return ``layers=2``, ``width=8``: the arguments of the user's own network, sorted by name."""
    arguments = settings["model_arguments"].items()
    return [f"{name}={argument_word(value)}" for name, value in sorted(arguments)]


def subset_file(dataset: str, subset: str) -> str:
    """Return the file of the training subset with a slug."""
    return f"results/data/{dataset}/{subset}.nc"


def model_of_slug(slug: str) -> str:
    """Return the model that a network's folder name begins with: myrtle5, my.module:factory."""
    name = slug.split("-", 1)[0]
    return ":".join(name.rsplit(".", 1))


def network_slug(settings: dict) -> str:
    """Return for example ``myrtle5-width32-ntk-he-one_hot-float32``, lazy ``...-scale10``.

    The user's own network my.module:factory is ``my.module.factory-width=8-one_hot-float32``: a
    colon means a host to tools that copy files, and factories have no dot.
    """
    words = {
        "depth": f"depth{settings['depth']}",
        "width": f"width{settings['width']}",
        "parameterisation": settings["parameterisation"],
        "initialisation": settings["initialisation"],
        "patch_size": f"patch{settings['patch_size']}",
    }
    model, own = settings["model"], is_own(settings["model"])
    read = model_keys(settings)
    used = [word for key, word in words.items() if key in read]
    used += own_words(settings) if own else []
    lazy = [f"scale{number(settings['output_scale'])}"] if settings["output_scale"] != 1 else []
    lazy += ["start_subtracted"] if settings["subtract_start"] else []
    name = model.replace(":", ".")
    return "-".join([name, *used, settings["targets"], settings["precision"], *lazy])


MOST_STEPS = 1e10  # of a run; own choice: four months at a millisecond each
OF_LIMIT = "of_limit"  # after a learning rate in units of 2/lambda_1


def over_stability_limit(path: str) -> bool:
    """Return whether the learning rate of a run or ensemble is in units of 2/lambda_1."""
    return OF_LIMIT in path


def dynamics_slug(settings: dict) -> str:
    """Return for example ``gradient_flow-tolerance0.002-lambda1_T0.1to2000-10per_decade``."""
    unit = OF_LIMIT if settings["learning_rate_unit"] == "stability_limit" else ""
    words = {
        "relative_tolerance": f"tolerance{number(settings['relative_tolerance'])}",
        "learning_rate": f"rate{number(settings['learning_rate'])}{unit}",
        "momentum": f"momentum{number(settings['momentum'])}",
        "batch_size": f"batch{settings['batch_size']}",
        "temperature": f"temperature{number(settings['temperature'])}",
        "beyond_stability": "beyond_stability" if settings["beyond_stability"] else "",
    }
    used = DYNAMICS_KEYS[settings["dynamics"]]
    rate = "-".join(word for key, word in words.items() if key in used and word)
    clock = CLOCK_WORDS[settings["time_unit"]]
    return (
        f"{settings['dynamics']}-{rate}-{clock}_T{number(settings['first_snapshot'])}"
        f"to{number(settings['final_time'])}-{settings['snapshots_per_decade']}per_decade"
    )


@dataclass(frozen=True)
class Ensemble:
    """Realisations that share everything but the start theta_0.

    Attributes:
        dataset: name of the data set.
        subset: slug of the training subset.
        network: slug of the network.
        dynamics: slug of the dynamics.
        realisations: number of realisations R.
        warm_start_accuracy: its own threshold of the warm start; None is that of all.
    """

    dataset: str
    subset: str
    network: str
    dynamics: str
    realisations: int
    warm_start_accuracy: float | None = None

    @classmethod
    def of(cls, settings: dict, realisations: int) -> Ensemble:
        """Return the ensemble of complete run settings."""
        return cls(
            settings["dataset"],
            subset_slug(settings),
            network_slug(settings),
            dynamics_slug(settings),
            realisations,
            settings.get("warm_start_accuracy"),
        )

    @property
    def data_path(self) -> str:
        """Folder of the subset's networks."""
        return f"results/runs/{self.dataset}/{self.subset}"

    @property
    def network_path(self) -> str:
        """Folder of what depends on the network but not on the dynamics."""
        return f"{self.data_path}/{self.network}"

    @property
    def path(self) -> str:
        """Folder of what depends on the whole ensemble."""
        return f"{self.network_path}/{self.dynamics}/ensemble{self.name}"

    @property
    def name(self) -> str:
        """What tells ensembles of the same runs apart: ``3``, ``3-warm0.3``."""
        own = self.warm_start_accuracy
        return f"{self.realisations}" + ("" if own is None else f"-warm{number(own)}")

    def run_paths(self) -> list[str]:
        """Return the folders of the ensemble's runs, realisation 0 first."""
        start = f"{self.network_path}/{self.dynamics}"
        return [f"{start}/realisation{r}" for r in range(self.realisations)]

    def manifests(self) -> list[str]:
        """Return the manifests of the runs' snapshots."""
        return [f"{path}/snapshots.json" for path in self.run_paths()]

    def kernels(self) -> dict[str, list[str]]:
        """Return moment -> NTK files of the realisations."""
        numbers = range(self.realisations)
        return {
            "start": [f"{self.network_path}/start{r}/ntk.nc" for r in numbers],
            "warm": [f"{self.path}/ntk_warm{r}.nc" for r in numbers],
            "end": [f"{path}/ntk_end.nc" for path in self.run_paths()],
        }


class Plan:
    """The runs that a configuration asks for, and what their slugs stand for.

    Attributes:
        studies: study name -> its ensembles, in grid order and without repetition.
        default_studies: the studies of the plain command.
        langevin: settings of the networks of the Langevin experiment.
        axes: study name -> axis -> its values (``study_axes``).
        figures: study name -> names of its figures.
    """

    def __init__(self, config: dict):
        self.studies: dict[str, list[Ensemble]] = {}
        self.default_studies: list[str] = list(config["default_studies"])
        self.axes: dict[str, dict[str, list]] = {}
        self.figures: dict[str, list[str]] = {}
        self._cases: dict[str, dict[Ensemble, str]] = {}
        self._settings: dict[tuple[str, str], dict] = {}
        # Place of jobs -> names of the ensembles there -> realisations; of the default studies.
        self._ensembles: dict[tuple[str, ...], dict[str, int]] = {}
        self._ensembles_of_default: dict[tuple[str, ...], dict[str, int]] = {}
        for name, study in config["studies"].items():
            cases: dict[Ensemble, str] = {}
            for label, settings in labelled_combinations(config["base"], study):
                ensemble = Ensemble.of(settings, study["realisations"])
                cases.setdefault(ensemble, label)
                self._remember(ensemble, settings, name in self.default_studies)
            self.studies[name], self._cases[name] = list(cases), cases
            self.axes[name] = study_axes(study, config["warm_start"]["test_accuracy"])
            several_sizes = len(self.axes[name].get("n", [])) > 1
            default = SIZE_FIGURES if several_sizes else STUDY_FIGURES
            self.figures[name] = list(study.get("figures", default))
        self.langevin: list[dict] = []
        langevin = config["theory"]["langevin"]
        for settings in combinations(
            config["base"], {"set": langevin["set"], "cases": langevin["networks"]}
        ):
            levels, slug = level_keys(settings), subset_slug(settings)
            for place in ((settings["dataset"],), (settings["dataset"], slug)):
                self._ensembles.setdefault(place, {})
            self._settings["subset", slug] = {key: plain(settings[key]) for key in levels["subset"]}
            keys = ("dataset", *levels["subset"], *levels["network"], "final_time")
            self.langevin.append({key: plain(settings[key]) for key in keys})

    def _remember(self, ensemble: Ensemble, settings: dict, default: bool) -> None:
        """Store where an ensemble has jobs, and what each of its slugs stands for."""
        place = tuple(getattr(ensemble, level) for level in PLACE)
        for depth in range(1, len(place) + 1):
            for known in (self._ensembles, *([self._ensembles_of_default] if default else [])):
                known.setdefault(place[:depth], {})[ensemble.name] = ensemble.realisations
        for level, keys in level_keys(settings).items():
            slug = getattr(ensemble, level)
            self._settings[level, slug] = {key: plain(settings[key]) for key in keys}

    @property
    def models(self) -> set[str]:
        """Names of all networks, with those of the Langevin experiment."""
        of_runs = {of["model"] for (level, _), of in self._settings.items() if level == "network"}
        return of_runs | {network["model"] for network in self.langevin}

    def settings(self, level: str, slug: str) -> dict[str, Any]:
        """Return the settings that a slug stands for.

        Args:
            level: "subset", "network" or "dynamics".
            slug: the folder name.

        Returns:
            Setting -> value.

        Raises:
            Refusal: if no study of the configuration has such a run.
        """
        if (level, slug) not in self._settings:
            raise Refusal(
                f"no study of the configuration has the {level} {slug}; "
                "ask for results of a study that config.yaml describes"
            )
        return dict(self._settings[level, slug])

    def ensemble(self, wildcards: Any) -> Ensemble:
        """Return the ensemble that a job's wildcards name."""
        names = (wildcards.dataset, wildcards.subset, wildcards.network, wildcards.dynamics)
        count, _, own = wildcards.realisations.partition("-warm")
        return Ensemble(*names, int(count), float(own) if own else None)

    def has(self, wildcards: dict[str, str], *, default: bool = False) -> bool:
        """Return whether the configuration asks for the job that wildcards name.

        Args:
            wildcards: of a job of any rule.
            default: whether for the default studies.
        """
        studies = self.default_studies if default else self.studies
        if wildcards.get("study", self.default_studies[0]) not in studies:
            return False
        place = tuple(wildcards[level] for level in PLACE if level in wildcards)
        ensembles = (self._ensembles_of_default if default else self._ensembles).get(place)
        if ensembles is None:
            return not place
        if "realisations" in wildcards:
            most = ensembles.get(wildcards["realisations"], 0)
        else:
            most = max(ensembles.values(), default=1)
        return int(wildcards.get("realisation", 0)) < most

    def described(self, study: str) -> list[dict]:
        """Return folder, files and settings of every ensemble of a study."""
        return [
            {
                "path": e.path,
                "manifests": e.manifests(),
                "kernels": e.kernels(),
                "settings": {
                    "case": self._cases[study][e],
                    "warm_start_accuracy": e.warm_start_accuracy,
                    "dataset": e.dataset,
                    **self.settings("subset", e.subset),
                    **_flattened(self.settings("network", e.network)),
                    **self.settings("dynamics", e.dynamics),
                },
            }
            for e in self.studies[study]
        ]


def _flattened(network: dict) -> dict:
    """Return settings with the arguments of the user's own network among them, by their names."""
    arguments = network.pop("model_arguments", {})
    return {**network, **arguments}
