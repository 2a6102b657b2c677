"""Columns of speed_limits.csv and transport.json: each holds what its name says."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from pipeline import speed_limits
from speedlimits import ntk_dynamics, power_law

SETTINGS = {"seed": 1, "confidence": 0.95, "resamples": 20}
# its third mode is rounding noise, below the floor
KERNEL = xr.Dataset(
    {
        "eigenvalues_full": ("k", [1.0, 0.1, 0.01]),
        "residue_projections_full": ("k", [1.0, 1.0, 50.0]),
        "noise_floor_full": 0.05,
    }
)
NO_FIT = pd.DataFrame(columns=["moment", "kernel"])


def test_columns_are_those_of_the_trajectory_since_the_warm_start(trained):
    runs = [trained(final_time=30), trained(only_train=True, realisation=1, final_time=30)]
    fits = pd.DataFrame([{"moment": "warm", "kernel": "full", "alpha": 1.2, "delta": 1.5,
                          "alpha_amplitude": 1.0, "above_noise_floor": 60}])  # fmt: skip
    other = fits.assign(kernel="traced", alpha=3.0)
    fits = pd.concat([other, fits, fits.assign(moment="start", alpha=2.0)])
    table = speed_limits.start_table("warm", 3, runs, [KERNEL] * 2, fits, SETTINGS)
    of_runs = []
    for r, run in enumerate(runs):
        since = {
            name: run[name].values[4:] - run[name].values[3]
            for name in ("time", "train_loss", "path_length", "action")
        }
        expected = {
            "time": since["time"],
            "time_lambda_1": since["time"] * float(run.attrs["lambda_1"]),
            "loss_drop": -since["train_loss"],
            "geodesic_length": run["distance_squared"].values[3, 4:] ** 0.5,
            "path_length": since["path_length"],
            "action": since["action"],
        }
        rows = table[table["realisation"] == str(r)]
        for name, values in expected.items():
            np.testing.assert_allclose(rows[name], values, rtol=1e-9, err_msg=name)
        of_runs.append(expected)
    whole = table[table["realisation"] == "ensemble"]
    for name in ("geodesic_length", "path_length"):
        mean = np.mean([run[name] ** 2 for run in of_runs], axis=0)
        np.testing.assert_allclose(whole[name], mean**0.5, err_msg=name)
    time = of_runs[0]["time"]
    np.testing.assert_allclose(whole["time_lambda_1"], time * float(runs[0].attrs["lambda_1"]))
    sums = ntk_dynamics.predict([1.0, 0.1], [1.0, 1.0], time)
    for name, value in (
        ("inefficiency", "inefficiency"),
        ("kinematic_inefficiency", "inefficiency"),
        ("path_excess", "path_excess"),
        ("speed_limit_time", "speed_limit_time"),
    ):
        np.testing.assert_allclose(whole[f"{name}_predicted"], sums[value], rtol=1e-6, err_msg=name)
    leading = power_law.inefficiency_asymptote(1.2, 1.5, time, 1.0, order="leading")
    np.testing.assert_allclose(whole["inefficiency_power_law_asymptote"], leading)
    assert speed_limits.transport(runs, 3)["time"] == pytest.approx(time[-1])


@pytest.mark.parametrize("dynamics", ["heavy_ball", "adam"])
def test_energy_holds_the_kinetic_energy(trained, dynamics):
    steps = {"time_unit": "steps", "first_snapshot": 1, "momentum": 0.9}
    rate = {"learning_rate": 0.02, "learning_rate_unit": "absolute"} if dynamics == "adam" else {}
    run = trained(dynamics=dynamics, final_time=30, **steps, **rate)
    found = speed_limits.measured([run, run], 0)
    guess = dict.fromkeys(speed_limits.SAMPLED, np.nan * found["drop"]) | {"time": found["time"]}
    row = speed_limits.run_table(found, guess, 0)
    loss, kinetic = run["train_loss"].values, run["kinetic_energy"].values
    energy = loss + kinetic
    np.testing.assert_allclose(row["loss_drop"], loss[0] - loss[1:])
    np.testing.assert_allclose(row["energy_drop"], energy[0] - energy[1:])
    np.testing.assert_allclose(row["action"], run["action"].values[1:])
    off = row["action"] / row["energy_drop"] - 1
    np.testing.assert_allclose(row["discretisation"], off, rtol=1e-9)
    own = "preconditioned_length_squared" if dynamics == "adam" else "distance_squared"
    np.testing.assert_allclose(row["preconditioned_length_squared"], run[own].values[0, 1:])
    whole = speed_limits.start_table("cold", 0, [run, run], [KERNEL] * 2, NO_FIT, SETTINGS)
    given = {name for name in whole if whole[name].notna().any()}
    without_clock = {"kinematic_inefficiency", "path_excess", "energetic_inefficiency"}
    with_clock = {"inefficiency", "speed_limit_time", "discretisation", "time_lambda_1"}
    assert without_clock <= given and (with_clock <= given) == (dynamics == "heavy_ball")
    assert not (with_clock & given and dynamics == "adam")


def test_columns_of_an_ensemble_at_a_temperature(trained):
    changes = {"dynamics": "langevin", "learning_rate": 0.05, "depth": 2, "width": 1}
    runs = [trained(only_train=r > 0, realisation=r, final_time=5, **changes) for r in range(4)]
    table = speed_limits.start_table("cold", 0, runs, [KERNEL] * 4, NO_FIT, SETTINGS)
    one, whole = (table[table["realisation"] == name] for name in ("1", "ensemble"))
    for name in ("heat", "curvature_heat"):
        each = [run[name].values[1:] - run[name].values[0] for run in runs]
        np.testing.assert_allclose(one[name], each[1], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(whole[name], np.mean(each, axis=0), rtol=1e-9, atol=1e-12)
    assert (whole["note"] == "").all() and one["note"].str.contains("10 weights over all").all()


def test_the_two_factors_of_a_run_are_those_of_its_lengths(trained):
    found = speed_limits.measured([trained(final_time=30)], 0)
    row = speed_limits.run_table(found, found, 0)
    product = row["speed_unevenness"] * row["path_excess"]
    np.testing.assert_allclose(product, row["inefficiency"], rtol=1e-9)
    uneven = found["time"] * found["drop"][0] / found["path"][0] ** 2
    np.testing.assert_allclose(row["speed_unevenness"], uneven)


def test_costs_of_couplings_are_over_that_of_the_identity():
    runs = []
    for start, end in ((0.0, 10.0), (9.0, 1.0)):
        squared = (end - start) ** 2
        runs.append(
            xr.Dataset(
                {
                    "train_loss": ("snapshot", [1.0, 0.5]),
                    "weights": (("snapshot", "p"), [[start], [end]]),
                    "distance_squared": (("snapshot", "other"), [[0.0, squared], [squared, 0.0]]),
                },
                coords={"time": ("snapshot", [0.0, 2.0])},
            )
        )
    found = speed_limits.transport(runs, 0)
    assert found["wasserstein_squared_identity"] == 82
    assert found["wasserstein_squared_assignment"] == 1
    assert found["identity_over_assignment"] == 82 and not found["identity_is_optimal"]
    assert found["other_over_identity"] == pytest.approx(1 / 82)
