"""Linear regression under Langevin noise: closed forms, Marchenko-Pastur limit, simulation."""

import quick_start  # noqa: F401

from collections.abc import Callable

import numpy as np
import pandas as pd

from pipeline.log import Progress, logged
from pipeline.seeds import derived_seed
from pipeline.stores import write_table
from speedlimits import langevin_linear, linear_regression, marchenko_pastur, transport

QUANTITIES = ("inefficiency", "speed_limit_time")


def closed_forms(modes: linear_regression.OrnsteinUhlenbeckModes, times: np.ndarray) -> dict:
    """Return the closed forms of one set of modes as columns."""
    result = linear_regression.predict(modes, times)
    return {name: result[name] for name in ("time", *QUANTITIES)}


def simulated(
    data: langevin_linear.RegressionData,
    temperature: float,
    settings: dict,
    stream: int,
    on_share: Callable[[float], None],
) -> pd.DataFrame:
    """Return values, intervals and closed forms of an ensemble simulated by Euler-Maruyama.

    Two closed forms stand beside each value: that of the discretised chain, with which it agrees
    within its sampling error, and that of the continuum; they differ by the bias of the scheme.
    The assignment is solved in each eigendirection of X^T X, in which the components are
    independent: there its bias is of order 1/R, and not R^(-2/d) as in all directions at once.
    ``on_share`` is called with the share of its steps that are done.
    """
    generator = np.random.default_rng(stream)
    d = data.inputs.shape[1]
    eigenvalues, basis = np.linalg.eigh(data.inputs.T @ data.inputs)
    share = min(settings["step"], settings["final_time"] * eigenvalues[-1])
    step = share / eigenvalues[-1]
    first = max(settings["first_simulated_time"], step)
    wanted = np.geomspace(first, settings["final_time"], settings["simulated_times"])
    steps = np.unique(np.append(0, np.round(wanted / step).astype(int)))
    ensemble = langevin_linear.euler_maruyama(
        langevin_linear.starts(
            np.zeros(d), settings["start_variance"], settings["realisations"], generator
        ),
        data,
        step=step,
        snapshot_steps=steps,
        temperature=temperature,
        generator=generator,
        on_step=lambda step: on_share(step / steps[-1]),
    )

    def measure(part: langevin_linear.LangevinEnsemble) -> dict[str, np.ndarray]:
        found = langevin_linear.measured_quantities(part, temperature)
        modes = part.weights @ basis
        assigned = [transport.componentwise_wasserstein_squared(modes[0], m) for m in modes[1:]]
        return found | {"wasserstein_squared_assignment": np.array(assigned)}

    found = langevin_linear.interval_over_groups(ensemble, measure, settings["groups"])
    modes = linear_regression.modes_of_data(
        data.inputs, data.targets, np.zeros(d), settings["start_variance"], temperature
    )
    exact = linear_regression.predict(modes, ensemble.times[1:])
    chain = linear_regression.predict_discretised(modes, step, steps[1:])
    for closed_form in (exact, chain):
        closed_form["wasserstein_squared_assignment"] = closed_form["wasserstein_squared"]
    reach = langevin_linear.interval_factor(settings["groups"], settings["confidence"])
    columns = {"time": ensemble.times[1:], "step": share}
    for name, (value, error) in found.items():
        columns |= {name: value, f"{name}_error": error}
        columns |= {f"{name}_low": value - reach * error, f"{name}_high": value + reach * error}
        columns |= {f"{name}_discretised": chain[name], f"{name}_closed_form": exact[name]}
    return pd.DataFrame(columns)


def agreement(checks: pd.DataFrame, confidence: float) -> list[str]:
    """Return sentences: how many intervals miss either closed form, points and ensembles.

    Points of one ensemble share its realisations, so that one unlucky ensemble misses several
    times in a row: the number of ensembles is what chance should be held against.
    """
    ends = {"_discretised": "chain that is simulated", "_closed_form": "continuum"}
    outside = 1 - confidence
    names = [name.removesuffix("_low") for name in checks if name.endswith("_low")]
    sentences = []
    for name in names:
        for suffix, of in ends.items():
            exact = checks[f"{name}{suffix}"]
            missed = ~exact.between(checks[f"{name}_low"], checks[f"{name}_high"])
            grouped = missed.groupby([checks["ratio"], checks["temperature"]])
            sentences.append(
                f"{name}: {missed.sum()} of {missed.size} intervals, in {grouped.any().sum()} of "
                f"{grouped.ngroups} ensembles, miss the closed form of the {of}; "
                f"{outside:.2g} of the intervals would be {outside * missed.size:.1f}"
            )
    return sentences


def data_set(ratio: float, d: int, settings: dict) -> langevin_linear.RegressionData:
    """Return the data set of one ratio n/d and one d, drawn from its own random stream."""
    stream = derived_seed(settings["seed"], "regression data", ratio, d)
    return langevin_linear.gaussian_data(
        round(ratio * d),
        d,
        teacher_variance=settings["teacher_variance"],
        noise_variance=settings["noise_variance"],
        generator=np.random.default_rng(stream),
    )


def limiting_modes(
    ratio: float, temperature: float, settings: dict, start_mean_square: float = 0.0
) -> linear_regression.OrnsteinUhlenbeckModes:
    """Return the modes of the Marchenko-Pastur limit with the configured variances."""
    return marchenko_pastur.limiting_modes(
        ratio,
        start_variance=settings["start_variance"],
        temperature=temperature,
        teacher_variance=settings["teacher_variance"],
        noise_variance=settings["noise_variance"],
        start_mean_square=start_mean_square,
    )


def three_routes(settings: dict) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the table of the main figure (every ratio, temperature, route and time), and that of
    the simulated quantities beside their closed forms.
    """
    times = np.geomspace(settings["first_time"], settings["final_time"], 80)
    parts, checks = [], []
    progress = Progress(len(settings["ratios"]) * len(settings["temperatures"]))
    for ratio in settings["ratios"]:
        for temperature in settings["temperatures"]:
            told = f"simulating n/d = {ratio}, temperature {temperature}"
            routes = {"Marchenko-Pastur": limiting_modes(ratio, temperature, settings)}
            for d in settings["dimensions"]:
                data = data_set(ratio, d, settings)
                routes[f"sum, d = {d}"] = linear_regression.modes_of_data(
                    data.inputs, data.targets, np.zeros(d), settings["start_variance"], temperature
                )
            columns = {route: closed_forms(modes, times) for route, modes in routes.items()}
            small = data_set(ratio, settings["dimensions"][0], settings)
            stream = derived_seed(settings["seed"], "regression noise", ratio, temperature)

            def on_share(share: float, told: str = told) -> None:
                progress.update(len(checks) + share, lambda: told)

            found = simulated(small, temperature, settings, stream, on_share)
            shown = [
                "time",
                *QUANTITIES,
                *(f"{name}_{end}" for name in QUANTITIES for end in ("low", "high")),
            ]
            columns["simulation"] = found[shown].to_dict("list")
            head = {"ratio": ratio, "temperature": temperature}
            for route, values in columns.items():
                parts.append(pd.DataFrame(head | {"route": route} | values))
            sizes = {"dimensions": settings["dimensions"][0]}
            sizes |= {name: settings[name] for name in ("realisations", "groups")}
            sizes["step"] = found.pop("step")
            checks.append(found.assign(**head, **sizes))
            print(f"n/d = {ratio}, temperature {temperature}: done")
    return pd.concat(parts, ignore_index=True), pd.concat(checks, ignore_index=True)


def start_table(settings: dict) -> pd.DataFrame:
    """Return the inefficiency from a zero start and from a displaced one, n/d = 1."""
    times = np.geomspace(settings["first_time"], settings["final_time"], 80)
    parts = []
    for name, mean_square in (("zero start", 0.0), (r"$|m_0|^2 = 4 d$", 4.0)):
        for temperature in settings["temperatures"]:
            modes = limiting_modes(1.0, temperature, settings, mean_square)
            head = {"start": name, "temperature": temperature}
            parts.append(pd.DataFrame(head | closed_forms(modes, times)))
    return pd.concat(parts, ignore_index=True)


def noise_table(settings: dict) -> pd.DataFrame:
    """Return T_SL and the mean loss against the temperature at fixed T, n/d = 2, zero start."""
    rows = []
    for temperature in np.geomspace(1e-3, 1e6, 60):
        modes = limiting_modes(2.0, temperature, settings)
        start = float(linear_regression.mean_excess_loss(modes, 0.0))
        for time in (0.3, 3.0, 30.0):
            end = float(linear_regression.mean_excess_loss(modes, time))
            limit = float(linear_regression.speed_limit_time(modes, time))
            row = {"time": time, "temperature": temperature, "speed_limit_time": limit}
            rows.append(row | {"loss_ratio": end / start})
    return pd.DataFrame(rows)


def equation_6_table(settings: dict) -> pd.DataFrame:
    """Return the free-energy drop against T and its limit, the paper's equation 6, n/d = 2."""
    times = np.geomspace(settings["first_time"], 100.0 * settings["final_time"], 120)
    parts = []
    for temperature in (0.01, 0.1, 1.0, 10.0):
        modes = limiting_modes(2.0, temperature, settings)
        columns = {
            "time": times,
            "free_energy_drop": linear_regression.free_energy_drop(modes, times),
            "mean_loss_drop": linear_regression.mean_loss_drop(modes, times),
            "equation_6": linear_regression.infinite_time_free_energy_drop(modes_that_move(modes)),
        }
        parts.append(pd.DataFrame({"temperature": temperature} | columns))
    return pd.concat(parts, ignore_index=True)


def modes_that_move(
    modes: linear_regression.OrnsteinUhlenbeckModes,
) -> linear_regression.OrnsteinUhlenbeckModes:
    """Return the modes without those of no weight, which the limit pads with an eigenvalue 0."""
    kept = modes.multiplicities > 0
    return linear_regression.OrnsteinUhlenbeckModes(
        modes.eigenvalues[kept],
        modes.start_displacements_squared[kept],
        modes.start_variance,
        modes.temperature,
        modes.multiplicities[kept],
    )


def main(snakemake) -> None:
    """Run the rule ``theory_linear_regression``."""
    parameters, made = snakemake.params.settings, snakemake.output
    level = parameters["confidence"]
    settings = {"seed": parameters["seed"], "confidence": level, **parameters["linear_regression"]}
    with logged(snakemake.log[0]):
        routes, checks = three_routes(settings)
        print("\n".join(agreement(checks, level)))
        write_table(routes, made.routes, level)
        write_table(checks, made.checks, level)
        write_table(start_table(settings), made.starts)
        write_table(noise_table(settings), made.noise)
        write_table(equation_6_table(settings), made.equation_6)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
