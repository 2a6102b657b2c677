"""T_SL and inefficiency of networks under Langevin noise against temperature.

Each start theta_0 carries a Gaussian cloud; its members are trained by Euler-Maruyama. W2, entropy
production and T_SL are bounds from the members (see speedlimits.langevin_networks); beside them
stand the exact values of the linearised network, from its measured NTK at the start. The rows of
finished starts are kept, so that a killed job goes on with the next one.
"""

import quick_start  # noqa: F401

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from pipeline.device import choose_device, describe_device
from pipeline.files import remove
from pipeline.log import Progress, logged
from pipeline.problem import Problem, build_problem, digests
from pipeline.runs import is_own, own_words
from pipeline.seeds import derived_seed
from pipeline.stores import write_table
from pipeline.tables import LARGEST_DISCRETISATION
from pipeline.trajectory import Partway, remembered, stage_folder
from pipeline.unit_of_time import check_lambda_1
from speedlimits import langevin_networks, linear_regression
from speedlimits.dynamics import DivergenceError
from speedlimits.gradient import TrainingLoss
from speedlimits.kernel import empirical_ntk
from speedlimits.networks import parameter_ranges
from speedlimits.spectrum import eigenvalues_and_projections, without_noise
from speedlimits.speed_limit import BELOW_ONE, heat_error, inefficiency
from speedlimits.statistics import bootstrap_interval

KEYS = ("dataset", "n", "model", "width", "parameterisation")  # what every row says of its network
AVERAGED = ("time", "wasserstein_squared", "free_energy_drop")
RATIOS = {  # of averages over starts
    "inefficiency": lambda m: inefficiency(*(m[name] for name in AVERAGED)),
    "speed_limit_time": lambda m: m["time"] / inefficiency(*(m[name] for name in AVERAGED)),
}


class Compute(NamedTuple):
    """Where to compute, and the working memory of a kernel there."""

    device: torch.device
    memory_bytes: int


def start_spectrum(problem: Problem, memory_bytes: int) -> dict[str, np.ndarray]:
    """Return eigenvalues, rounding noise set to 0, and residue projections of the full NTK."""
    kernel = empirical_ntk(problem.network, problem.inputs, memory_bytes=memory_bytes)
    with torch.no_grad():
        delta = (problem.targets - problem.network(problem.inputs)).double().cpu().numpy()
    eigenvalues, projections = eigenvalues_and_projections(
        kernel.cpu().numpy(), delta.reshape(-1, 1)
    )
    return {"eigenvalues": without_noise(eigenvalues), "projections": projections}


def one_start(
    problem: Problem,
    spectrum: tuple[np.ndarray, np.ndarray],
    lambda_1: float,
    step: float,
    steps: int,
    settings: dict,
    temperature: float,
    seeds: list[int],
    on_step: Callable[[int], None],
) -> dict:
    """Return bounds and linearised values of one start at one temperature.

    Without bounds, which is printed, where a member has diverged.

    Args:
        problem: network at its start theta_0 and training data.
        spectrum: of ``start_spectrum``.
        lambda_1: of realisation 0, which sets the unit of time for all of them.
        step: of the members, the same for all starts.
        steps: number of them until the last time.
        settings: of the configuration's theory.langevin.
        temperature: beta^-1.
        seeds: one per member.
        on_step: called with the number of steps of this start's members so far.
    """
    eigenvalues, projections = spectrum
    theta_0 = torch.nn.utils.parameters_to_vector(problem.network.parameters()).detach().double()
    variance = settings["start_variance"]
    time = step * steps
    layers = list(parameter_ranges(problem.network).values())
    known = {"temperature": temperature, "start_variance": variance}
    measured = dict.fromkeys((*AVERAGED[1:], "loss_drop", "heat"), np.nan)
    try:
        cloud = langevin_networks.simulate_cloud(
            TrainingLoss(problem.network, problem.inputs, problem.targets).loss_and_gradient,
            theta_0,
            [time],
            step=step,
            temperature=temperature,
            start_variance=variance,
            seeds=seeds,
            lambda_1=float(eigenvalues.max()),
            on_step=on_step,
        )
    except DivergenceError as error:
        print(f"no values of this start at temperature {temperature:g}: {error}")
    else:
        drop = cloud.loss_drops[0].mean()
        measured = {"loss_drop": drop, "heat": cloud.heat[0].mean()}
        squared, variances = langevin_networks.moments(cloud, layers, variance)
        sizes = [stop - start for start, stop in layers]
        measured |= langevin_networks.bounds(time, squared[0], variances[0], sizes, drop, **known)
    modes = langevin_networks.linearised_modes(eigenvalues, projections, len(theta_0), **known)
    exact = {
        "wasserstein_squared": linear_regression.wasserstein_squared(modes, time),
        "free_energy_drop": linear_regression.free_energy_drop(modes, time),
        "loss_drop": linear_regression.mean_loss_drop(modes, time),
    }
    return {
        "time": time,
        "time_lambda_1": time * lambda_1,
        "weights": len(theta_0),
        "loss_drop": measured["loss_drop"],
        "start_loss": 0.5 * projections.sum(),
        "heat": measured["heat"],
        **{name: float(measured[name]) for name in ("wasserstein_squared", "free_energy_drop")},
        **{f"{name}_linearised": float(value) for name, value in exact.items()},
    }


def with_times(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with T_SL, the inefficiency and how far the heat is off the loss drop."""
    for suffix in ("", "_linearised"):
        of = {name: rows[name if name == "time" else f"{name}{suffix}"] for name in AVERAGED}
        for name, function in RATIOS.items():
            rows[f"{name}{suffix}"] = function(of)
    rows["heat_error"] = heat_error(rows["heat"], rows["loss_drop"], rows["free_energy_drop"])
    return rows


def ensemble_row(rows: pd.DataFrame, settings: dict, stream: int) -> pd.DataFrame:
    """Return the row of the ensemble: ratios of averages over starts, with intervals.

    Averages that lack a start are none: the others are no sample of all.
    """
    numbers = rows.select_dtypes("number").mean(skipna=False).to_frame().T
    samples = {name: rows[name].to_numpy(float)[:, None] for name in AVERAGED}
    table = with_times(numbers)
    table["heat_error"] = rows["heat_error"].max()  # that of the worst start
    for name in ("inefficiency", "speed_limit_time"):
        low = high = [np.nan]
        if table[name].notna().all():
            low, high = bootstrap_interval(
                samples,
                lambda name=name, **m: RATIOS[name](m),
                confidence=settings["confidence"],
                resamples=settings["resamples"],
                generator=np.random.default_rng(stream),
            )
        table[f"{name}_low"], table[f"{name}_high"] = float(low[0]), float(high[0])
    return table


def warn_of_steps(rows: pd.DataFrame, where: str) -> None:
    """Print a warning where the heat of starts is not their loss drop.

    Args:
        rows: of single starts, in order.
        where: network and temperature.
    """
    found = rows["heat_error"][rows["heat_error"] > LARGEST_DISCRETISATION]
    if len(found):
        starts = f"start{'s' if len(found) > 1 else ''} {', '.join(map(str, found.index))}"
        print(
            f"warning: {where}, {starts}: the heat is off the loss drop by up to "
            f"{100 * found.max():.3g} % of the free energy's drop: the steps are too long there, "
            "and T_SL of them means little; lower theory.langevin.step"
        )


def warn_of_members(whole: pd.DataFrame, where: str) -> None:
    """Print a warning where the ensemble has no bound from above on T/T_SL, or one that is none.

    Args:
        whole: row of the ensemble.
        where: network and temperature.
    """
    value, most = whole["inefficiency"].item(), whole["inefficiency_high"].item()
    remedy = "raise theory.langevin.members, or lower theory.langevin.step"
    if np.isnan(value) and np.isfinite(whole["loss_drop"].item()):
        print(f"warning: {where}: no bound on T_SL, below the noise of the members; {remedy}")
    if value < BELOW_ONE and not most >= 1:
        print(
            f"warning: {where}: T/T_SL is at most {value:.3g} by its bound, below 1 by the noise "
            f"of the members or by long steps; {remedy}"
        )


def kept_rows(partway: Partway) -> list[dict]:
    """Return the rows of ``one_start`` that a killed job had finished, in order."""
    columns = partway.load() or {}
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in values]


def keep_rows(partway: Partway, rows: list[dict]) -> None:
    """Keep finished rows, if it is time to."""
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    partway.offer(sum(column.nbytes for column in columns.values()), lambda: columns)


def network_table(
    network: dict, problems: list[Problem], settings: dict, compute: Compute, stage: Path
) -> pd.DataFrame:
    """Return the rows of one network: every temperature and start, and the ensembles."""
    seed, parts = settings["seed"], []
    partway, spectra = Partway(stage, "network"), []
    for r, problem in enumerate(problems):
        print(f"{network['model']}: NTK of start {r}, {r + 1} of {len(problems)}", flush=True)
        found = remembered(
            stage,
            f"spectrum{r}",
            lambda problem=problem: start_spectrum(problem, compute.memory_bytes),
        )
        spectra.append((found["eigenvalues"], found["projections"]))
    each = [float(eigenvalues.max()) for eigenvalues, _ in spectra]
    check_lambda_1(problems[0], each[0], network["precision"])
    # The unit of time is that of realisation 0, and the step that of the largest lambda_1: by the
    # first one's, narrow networks would be stepped beyond the stability limit of others.
    lambda_1, largest = each[0], max(each)
    step = settings["step"] * 2 / largest
    steps = max(round(network["final_time"] / (2 * settings["step"]) * (largest / lambda_1)), 1)
    temperatures = list(map(float, settings["temperatures"]))  # streams of 0 are those of 0.0
    starts = settings["realisations"]
    of_start = settings["members"] * steps
    progress = Progress(of_start * starts * len(temperatures))
    finished = kept_rows(partway)
    for number, temperature in enumerate(temperatures):
        for r, (problem, spectrum) in enumerate(zip(problems, spectra, strict=True)):
            own = is_own(network["model"])
            size = " ".join(own_words(network)) if own else network.get("width", 0)
            purpose = ("langevin", network["model"], size, temperature, r)
            seeds = [derived_seed(seed, *purpose, m) for m in range(settings["members"])]
            text = f"{network['model']}, temperature {temperature}, start {r}"
            before = of_start * (number * starts + r)

            def on_step(done: int, before: int = before, text: str = text) -> None:
                progress.update(before + done, lambda: text)

            if len(finished) == number * starts + r:
                known = (lambda_1, step, steps, settings, temperature, seeds, on_step)
                finished.append(one_start(problem, spectrum, *known))
                keep_rows(partway, finished)
        single = with_times(pd.DataFrame(finished[number * starts : (number + 1) * starts]))
        stream = derived_seed(seed, "bootstrap", "langevin", network["model"])
        whole = ensemble_row(single, settings, stream)
        warn_of_steps(single, f"{network['model']}, temperature {temperature:g}")
        warn_of_members(whole, f"{network['model']}, temperature {temperature:g}")
        single["realisation"], whole["realisation"] = [str(r) for r in single.index], "ensemble"
        both = pd.concat([single, whole], ignore_index=True)
        parts.append(both.assign(temperature=temperature))
        print(f"{network['model']}, temperature {temperature}: {whole.T.to_string()}")
    keys = (*KEYS, *differing(settings["networks"]))
    head = {key: network.get(key, network.get("model_arguments", {}).get(key)) for key in keys}
    known = {key: settings[key] for key in ("start_variance", "members", "step", "realisations")}
    return pd.concat(parts, ignore_index=True).assign(**head, **known)


def differing(networks: list[dict]) -> list[str]:
    """Return further settings in which networks differ, which tell their rows apart.

    Args:
        networks: settings of each.
    """
    found = [network | network.get("model_arguments", {}) for network in networks]
    names = dict.fromkeys(name for network in found for name in network)
    told = (*KEYS, "model_code", "model_arguments")
    others = [name for name in names if name not in told]
    return [name for name in others if len({str(network.get(name)) for network in found}) > 1]


def main(snakemake) -> None:
    """Run the rule ``theory_langevin``."""
    settings = snakemake.params.settings
    with logged(snakemake.log[0]):
        device = choose_device("cpu", threads=snakemake.threads, deterministic=True)
        compute = Compute(device, int(snakemake.resources.kernel_memory_mb * 1e6))
        parts = {
            "settings": settings,
            "device": describe_device(device),
            "threads": snakemake.threads,
            "memory": compute.memory_bytes,  # it decides the order of sums
        }
        tables, stages = [], []
        networks = zip(settings["networks"], snakemake.input, strict=True)
        for number, (network, path) in enumerate(networks):
            problems = [
                build_problem({**network, "seed": settings["seed"]}, path, r, device)
                for r in range(settings["realisations"])
            ]
            starts = [digests(problem) for problem in problems]
            stages.append(stage_folder(parts | {"network": number, "starts": starts}))
            tables.append(network_table(network, problems, settings, compute, stages[-1]))
        table = pd.concat(tables, ignore_index=True)
        write_table(table, snakemake.output[0], settings["confidence"])
        for stage in stages:
            remove(stage)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
