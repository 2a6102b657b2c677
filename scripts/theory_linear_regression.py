"""Linear regression under Langevin noise: closed forms, Marchenko-Pastur limit, simulation."""

import numpy as np
import pandas as pd

from pipeline.log import logged
from pipeline.seeds import derived_seed
from pipeline.stores import write_table
from speedlimits import langevin_linear, linear_regression, marchenko_pastur

QUANTITIES = ("inefficiency", "speed_limit_time")


def closed_forms(modes: linear_regression.OrnsteinUhlenbeckModes, times: np.ndarray) -> dict:
    """Return the closed forms of one set of modes as columns."""
    result = linear_regression.predict(modes, times)
    return {name: result[name] for name in ("time", *QUANTITIES)}


def simulated(
    data: langevin_linear.RegressionData, temperature: float, settings: dict, stream: int
) -> dict:
    """Simulate an ensemble by Euler-Maruyama and return values and standard errors as columns."""
    generator = np.random.default_rng(stream)
    d = data.inputs.shape[1]
    largest = np.linalg.eigvalsh(data.inputs.T @ data.inputs)[-1]
    step = settings["step_lambda_1"] / largest
    # at earlier times the distance is lost in the sampling error of the fitted covariances
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
    )
    found = langevin_linear.interval_over_groups(
        ensemble,
        lambda part: langevin_linear.measured_quantities(part, temperature),
        settings["groups"],
    )
    columns = {"time": ensemble.times[1:]}
    for name in QUANTITIES:
        columns[name], columns[f"{name}_error"] = found[name]
    return columns


def data_set(ratio: float, d: int, settings: dict) -> langevin_linear.RegressionData:
    """Draw the data set of one ratio n/d and one d, from its own random stream."""
    stream = derived_seed(settings["seed"], "regression data", ratio, d)
    return langevin_linear.gaussian_data(
        round(ratio * d),
        d,
        teacher_variance=1.0,
        noise_variance=settings["noise_variance"],
        generator=np.random.default_rng(stream),
    )


def three_routes(settings: dict) -> pd.DataFrame:
    """Return the table of the main figure: every ratio, temperature, route and time."""
    times = np.geomspace(settings["first_time"], settings["final_time"], 80)
    variance, noise = settings["start_variance"], settings["noise_variance"]
    parts = []
    for ratio in settings["ratios"]:
        for temperature in settings["temperatures"]:
            limit = marchenko_pastur.limiting_modes(
                ratio, start_variance=variance, temperature=temperature, noise_variance=noise
            )
            routes = {"Marchenko-Pastur": closed_forms(limit, times)}
            for d in settings["dimensions"]:
                data = data_set(ratio, d, settings)
                modes = linear_regression.modes_of_data(
                    data.inputs, data.targets, np.zeros(d), variance, temperature
                )
                routes[f"sum, d = {d}"] = closed_forms(modes, times)
            small = data_set(ratio, settings["dimensions"][0], settings)
            stream = derived_seed(settings["seed"], "regression noise", ratio, temperature)
            routes["simulation"] = simulated(small, temperature, settings, stream)
            for route, columns in routes.items():
                head = {"ratio": ratio, "temperature": temperature, "route": route}
                parts.append(pd.DataFrame(head | columns))
            print(f"n/d = {ratio}, temperature {temperature}: done")
    return pd.concat(parts, ignore_index=True)


def start_table(settings: dict) -> pd.DataFrame:
    """Return the inefficiency from a zero start and from a displaced one, n/d = 1."""
    times = np.geomspace(settings["first_time"], settings["final_time"], 80)
    parts = []
    for name, mean_square in (("zero start", 0.0), (r"$|m_0|^2 = 4 d$", 4.0)):
        for temperature in settings["temperatures"]:
            modes = marchenko_pastur.limiting_modes(
                1.0,
                start_variance=settings["start_variance"],
                temperature=temperature,
                noise_variance=settings["noise_variance"],
                start_mean_square=mean_square,
            )
            head = {"start": name, "temperature": temperature}
            parts.append(pd.DataFrame(head | closed_forms(modes, times)))
    return pd.concat(parts, ignore_index=True)


def noise_table(settings: dict) -> pd.DataFrame:
    """Return T_SL and the mean loss against the temperature at fixed T, n/d = 2, zero start."""
    rows = []
    for temperature in np.geomspace(1e-3, 1e6, 60):
        modes = marchenko_pastur.limiting_modes(
            2.0,
            start_variance=settings["start_variance"],
            temperature=temperature,
            noise_variance=settings["noise_variance"],
        )
        start = float(linear_regression.mean_excess_loss(modes, 0.0))
        for time in (0.3, 3.0, 30.0):
            end = float(linear_regression.mean_excess_loss(modes, time))
            limit = float(linear_regression.speed_limit_time(modes, time))
            row = {"time": time, "temperature": temperature, "speed_limit_time": limit}
            rows.append(row | {"loss_ratio": end / start})
    return pd.DataFrame(rows)


def main(snakemake) -> None:
    """Run the rule ``theory_linear_regression``."""
    settings, made = snakemake.params.settings, snakemake.output
    with logged(snakemake.log[0]):
        write_table(three_routes(settings), made.routes)
        write_table(start_table(settings), made.starts)
        write_table(noise_table(settings), made.noise)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
