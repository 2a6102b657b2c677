"""Studies as grids of runs, and the readable path by which a run's full settings name it.

A run is one trajectory: (data set, subset) -> network -> dynamics -> realisation. Each level has a
slug that spells out all its settings, so that a run's results are found at the same place whatever
study or figure asks for it, and two studies share the runs that they have in common.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

SUBSET_KEYS = ("n", "selection", "subset")
NETWORK_KEYS = (
    "model",
    "width",
    "depth",
    "parameterisation",
    "initialisation",
    "targets",
    "precision",
)
FLOW_KEYS = ("dynamics", "relative_tolerance")
DESCENT_KEYS = ("dynamics", "learning_rate", "learning_rate_unit")
CLOCK_KEYS = ("final_time", "first_snapshot", "time_unit", "snapshots_per_decade")


def combinations(base: dict, vary: dict[str, list]) -> Iterator[dict]:
    """Yield the settings of every point of a study's grid, in the order of its lists.

    Args:
        base: settings that the study does not vary.
        vary: setting -> list of values.

    Yields:
        One complete dict of run settings per grid point.
    """
    for values in itertools.product(*vary.values()):
        yield {**base, **dict(zip(vary, values, strict=True))}


def number(value: float) -> str:
    """Return a number as it stands in a path: 2000, 0.005, 1e-05."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(value)


def subset_slug(settings: dict) -> str:
    """Return for example ``n64-balanced-subset0``."""
    return f"n{settings['n']}-{settings['selection']}-subset{settings['subset']}"


def network_slug(settings: dict) -> str:
    """Return for example ``myrtle5-width32-ntk-he-one_hot-float32``."""
    depth = f"-depth{settings['depth']}" if settings["model"] == "fully_connected" else ""
    return (
        f"{settings['model']}{depth}-width{settings['width']}-{settings['parameterisation']}"
        f"-{settings['initialisation']}-{settings['targets']}-{settings['precision']}"
    )


def dynamics_slug(settings: dict) -> str:
    """Return for example ``gradient_flow-tolerance0.002-lambda1_T0.1to2000-10per_decade``."""
    if settings["dynamics"] == "gradient_flow":
        rate = f"tolerance{number(settings['relative_tolerance'])}"
    else:
        unit = "of_limit" if settings["learning_rate_unit"] == "stability_limit" else ""
        rate = f"rate{number(settings['learning_rate'])}{unit}"
    clock = "lambda1" if settings["time_unit"] == "inverse_lambda_1" else "absolute"
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
    """

    dataset: str
    subset: str
    network: str
    dynamics: str
    realisations: int

    @classmethod
    def of(cls, settings: dict, realisations: int) -> Ensemble:
        """Return the ensemble of complete run settings."""
        return cls(
            settings["dataset"],
            subset_slug(settings),
            network_slug(settings),
            dynamics_slug(settings),
            realisations,
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
        return f"{self.network_path}/{self.dynamics}/ensemble{self.realisations}"

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
    """

    def __init__(self, config: dict):
        self.studies: dict[str, list[Ensemble]] = {}
        self._settings: dict[tuple[str, str], dict] = {}
        for name, study in config["studies"].items():
            ensembles = []
            for settings in combinations(config["base"], study["vary"]):
                ensembles.append(Ensemble.of(settings, study["realisations"]))
                self._remember(ensembles[-1], settings)
            self.studies[name] = list(dict.fromkeys(ensembles))

    def _remember(self, ensemble: Ensemble, settings: dict) -> None:
        """Store what each slug of an ensemble stands for."""
        rate = FLOW_KEYS if settings["dynamics"] == "gradient_flow" else DESCENT_KEYS
        network = [key for key in NETWORK_KEYS if key != "depth"]
        if settings["model"] == "fully_connected":
            network.append("depth")
        levels: Iterable[tuple[str, str, Iterable[str]]] = (
            ("subset", ensemble.subset, SUBSET_KEYS),
            ("network", ensemble.network, network),
            ("dynamics", ensemble.dynamics, (*rate, *CLOCK_KEYS)),
        )
        for level, slug, keys in levels:
            self._settings[level, slug] = {key: settings[key] for key in keys}

    def settings(self, level: str, slug: str) -> dict[str, Any]:
        """Return the settings that a slug stands for.

        Args:
            level: "subset", "network" or "dynamics".
            slug: the folder name.

        Returns:
            Setting -> value.

        Raises:
            KeyError: if no study of the configuration has such a run.
        """
        try:
            return dict(self._settings[level, slug])
        except KeyError:
            raise KeyError(
                f"no study of the configuration has the {level} {slug}; "
                "ask for results of a study that config.yaml describes"
            ) from None

    def ensemble(self, wildcards: Any) -> Ensemble:
        """Return the ensemble that a job's wildcards name."""
        names = (wildcards.dataset, wildcards.subset, wildcards.network, wildcards.dynamics)
        return Ensemble(*names, int(wildcards.realisations))

    def described(self, study: str) -> list[dict]:
        """Return, for every ensemble of a study, its folder, its files and its settings."""
        return [
            {
                "path": e.path,
                "manifests": e.manifests(),
                "kernels": e.kernels(),
                "settings": {
                    "dataset": e.dataset,
                    **self.settings("subset", e.subset),
                    **self.settings("network", e.network),
                    **self.settings("dynamics", e.dynamics),
                },
            }
            for e in self.studies[study]
        ]
