"""Columns of speed_limits.csv and transport.json: each holds what its name says."""

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import RUN

from pipeline import speed_limits
from speedlimits import ntk_dynamics, power_law
from speedlimits.speed_limit import SpeedLimitError, heat_error

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
    fits = pd.DataFrame([{"moment": "start", "kernel": "full", "alpha": 1.2, "delta": 1.5,
                          "alpha_amplitude": 1.0, "above_noise_floor": 60}])  # fmt: skip
    table = speed_limits.start_table("cold", 0, runs, [KERNEL] * 4, fits, SETTINGS)
    assert table.filter(like="power_law").isna().all(axis=None)  # it is that of gradient flow
    one, whole = (table[table["realisation"] == name] for name in ("1", "ensemble"))
    for name in ("heat", "curvature_heat"):
        each = [run[name].values[1:] - run[name].values[0] for run in runs]
        np.testing.assert_allclose(one[name], each[1], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(whole[name], np.mean(each, axis=0), rtol=1e-9, atol=1e-12)
    assert (whole["note"] == "").all() and one["note"].str.contains("10 weights in one run").all()
    off = (whole["heat"] - whole["loss_drop"]).abs()
    np.testing.assert_allclose(whole["heat_error"], off / whole["free_energy_drop_least"])
    assert (off > 0).all() and one["heat_error"].isna().all()
    hot = [run.assign(curvature_heat=100 + run["curvature_heat"]) for run in runs]
    for run in hot:
        run["curvature_heat"][0] = 0.0
    table = speed_limits.start_table("cold", 0, hot, [KERNEL] * 4, fits, SETTINGS)
    whole = table[table["realisation"] == "ensemble"]
    assert whole["free_energy_drop_least"].isna().all()
    np.testing.assert_allclose(whole["heat_error"], off / whole["free_energy_drop_most"].abs())
    assert whole["inefficiency"].isna().all()
    assert (whole["note"] == speed_limits.NOT_POSITIVE).all()


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


def test_columns_of_an_ensemble_are_the_ratios_of_their_names():
    """Distinct numbers for all means: at a temperature and with momentum none stands for another.

    T_SL is the cost of transport over what descends, the loss or the free energy.
    """
    means = {
        "time": 2.0, "drop": 3.0, "geodesic2": 5.0, "path2": 7.0, "action": 11.0,
        "transport2": 13.0, "descent": 17.0, "metric2": 19.0, "energy_drop": 23.0,
    }  # fmt: skip
    expected = {
        "inefficiency": 2 * 17 / 13,
        "speed_unevenness": 2 * 3 / 7,
        "path_excess": 7 / 5,
        "speed_limit_time": 13 / 17,
        "kinematic_inefficiency": 2 * 11 / 5,
        "energetic_inefficiency": 2 * 23 / 19,
    }
    functions = speed_limits.ENSEMBLE | speed_limits.MEASURED
    assert {name: pytest.approx(f(means)) for name, f in functions.items()} == expected


def flow_run(loss=(3.0, 2.0, 1.0), noise=0.0, seed=0, **changes):
    """A made-up flow at the times 0, 1, 3 whose action is its loss drop, and what changes of it."""
    generator = np.random.default_rng(seed)
    loss = np.asarray(loss)
    points = np.array([0.0, 0.6, 0.9]) * generator.uniform(0.8, 1.0)
    values = {
        "train_loss": loss,
        "action": loss[0] - loss,
        "path_length": 1.01 * points,
        "velocity_noise": noise * (loss[0] - loss),
        "kinetic_energy": np.zeros(3),
        "gradient_norm": np.ones(3),
        "speed_rounding": np.zeros(3),
    } | changes
    squared = np.subtract.outer(points, points) ** 2
    return xr.Dataset(
        {name: ("snapshot", value) for name, value in values.items()}
        | {"distance_squared": (("snapshot", "other_snapshot"), squared)},
        coords={"time": ("snapshot", [0.0, 1.0, 3.0])},
        attrs={"config": '{"dynamics": "gradient_flow"}', "lambda_1": 1.0},
    )


def test_the_unit_of_time_is_that_of_the_kernel_to_a_hundredth():
    check = speed_limits.check_unit_of_time
    check(flow_run(), KERNEL.drop_vars("eigenvalues_full"))
    for unit, passes in ((1.0, True), (1.009, True), (0.992, True), (1.02, False), (0.98, False)):
        run = flow_run().assign_attrs(lambda_1=unit)
        if passes:
            check(run, KERNEL)
            continue
        with pytest.raises(
            ValueError, match="by Jacobian products, the unit of time, and 1 by the"
        ):
            check(run, KERNEL)


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_lengths_are_left_out_where_the_action_of_that_run_is_off_in_either_direction(factor):
    off = flow_run(action=np.array([0.0, 1.0, 2.0 * factor]))
    found = speed_limits.measured([flow_run(), off], 0)
    for name in ("path", "path2", "action"):
        assert np.isnan(found[name]).tolist() == [[False, False], [False, True]]
    assert np.isfinite(found["geodesic2"]).all() and np.isfinite(found["drop"]).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"path_length": np.array([0.0, 0.6, 0.5])}, "l_gamma >= l_geo"),
        ({"path_length": np.array([0.0, 1.4, 1.5])}, "T action >= l_gamma"),
    ],
)
def test_a_trajectory_whose_lengths_no_curve_has_is_refused(change, words):
    with pytest.raises(SpeedLimitError, match=words):
        speed_limits.measured([flow_run(**change)], 0)


def test_discretisation_counts_the_noise_of_velocities():
    """T/T_SL does not, and the action of the curve is the loss drop."""
    found = speed_limits.measured([flow_run(noise=0.3)], 0)
    row = speed_limits.run_table(found, found, 0)
    np.testing.assert_allclose(row["discretisation"], 0.3)
    np.testing.assert_allclose(row["action"], row["loss_drop"])


@pytest.mark.parametrize("start", [0, 1])
def test_lengths_in_the_metric_are_between_start_and_time(start):
    metric = np.array([[0.0, 2.0, 5.0], [2.0, 0.0, 7.0], [5.0, 7.0, 0.0]])
    run = flow_run().assign(preconditioned_length_squared=(("snapshot", "other_snapshot"), metric))
    found = speed_limits.measured([run], start)
    np.testing.assert_array_equal(found["metric2"], [metric[start, start + 1 :]])
    row = speed_limits.run_table(found, found, 0)
    squared = run["distance_squared"].values[start, start + 1 :]
    np.testing.assert_allclose(row["geodesic_length"], np.sqrt(squared))


def test_intervals_hold_their_values_and_grow_with_the_confidence():
    """Without kinetic energy and metric the energetic inefficiency is the other, interval too."""
    runs = [flow_run((3.0, 2.0 + 0.05 * seed, 1.0), seed=seed) for seed in range(6)]
    found = speed_limits.measured(runs, 0)
    tables = [
        speed_limits.ensemble_table(
            found, found, SETTINGS | {"confidence": confidence, "resamples": 200}, "cold"
        )
        for confidence in (0.5, 0.95)
    ]
    for name in ("inefficiency", "speed_limit_time", "inefficiency_predicted"):
        (narrow_low, narrow_high), (low, high) = (
            (table[f"{name}_low"], table[f"{name}_high"]) for table in tables
        )
        assert (low < narrow_low).all() and (narrow_high < high).all()
        assert (narrow_low < tables[0][name]).all() and (tables[0][name] < narrow_high).all()
    for end in ("", "_low", "_high"):
        np.testing.assert_allclose(
            tables[1][f"energetic_inefficiency{end}"], tables[1][f"inefficiency{end}"]
        )


def test_the_power_law_is_that_of_its_moment_and_runs_on_its_own_clock():
    """An amplitude is a rate: twice of it halves all times. No exponent above 0, no law."""
    times = np.geomspace(5.0, 100.0, 7)  # where the asymptote is above 1
    row = {"moment": "start", "kernel": "full", "alpha": 1.2, "delta": 1.5,
           "alpha_amplitude": 2.0, "above_noise_floor": 60}  # fmt: skip

    def law(times, moment="start", **changes):
        return speed_limits.power_law(pd.DataFrame([row | changes]), moment, "full", times)

    fast, slow = law(times), law(2.0 * times, alpha_amplitude=1.0)
    for name, values in fast.items():
        assert np.isfinite(values).all()
        np.testing.assert_allclose(values, slow[name], err_msg=name)
    for missing in (law(times, moment="warm"), law(times, alpha=-0.1), law(times, alpha=np.nan)):
        assert set(missing) == set(fast) and np.isnan(list(missing.values())).all()


def test_an_ensemble_that_diverged_is_compared_at_its_last_finite_snapshot():
    """In as many ratios as there are: one start has no other; one that never moved has none."""
    squared = np.array([[0.0, 4.0, np.nan], [4.0, 0.0, np.nan], [np.nan, np.nan, np.nan]])

    def run(squared):
        return xr.Dataset(
            {
                "train_loss": ("snapshot", [1.0, 0.5, np.nan]),
                "weights": (("snapshot", "p"), [[1.0], [3.0], [np.nan]]),
                "distance_squared": (("snapshot", "other"), squared),
            },
            coords={"time": ("snapshot", [0.0, 2.0, 5.0])},
        )

    found = speed_limits.transport([run(squared)], 0)
    assert found["time"] == 2 and found["wasserstein_squared_identity"] == 4
    assert found["identity_over_assignment"] == 1 and found["other_over_identity"] is None
    at_once = speed_limits.transport([run(squared)], 1)
    assert at_once["time"] == 0 and at_once["identity_over_assignment"] is None
    whole = run(squared).fillna({"train_loss": 0.4, "weights": 4.0})  # another run reaches the end
    for pair in ([run(squared), whole], [whole, run(squared)]):
        assert speed_limits.transport(pair, 0)["time"] == 2


def test_an_action_below_the_loss_drop_is_warned_of_as_one_above(capsys):
    for off, told in ((0.12, "12 % at worst"), (-0.12, "12 % at worst"), (0.08, "")):
        speed_limits.warn_of_discretisation(pd.DataFrame({"discretisation": [0.01, off, np.nan]}))
        shown = capsys.readouterr().out
        assert told in shown if told else shown == ""


def test_rows_in_any_order_and_rises_of_the_loss_tell_no_early_drop(capsys):
    rows = pd.DataFrame({"realisation": "ensemble", "start": "cold", "time": [10.0, 0.1, 1.0]})
    for drops, told in (([10.0, 6.0, 9.0], "60 % of"), ([10.0, 4.0, 9.0], ""),
                        ([np.nan, 6.0, 9.0], "67 % of"), ([-3.0, 2.0, 1.0], "")):  # fmt: skip
        speed_limits.warn_of_first_snapshot(rows.assign(loss_drop=drops))
        shown = capsys.readouterr().out
        assert told in shown if told else shown == ""


@pytest.mark.parametrize(
    ("changes", "near"),
    [
        ({"dynamics": "gradient_descent", "learning_rate": 0.5, "final_time": 3e4}, 0.5),
        ({"dynamics": "gradient_descent", "learning_rate": 0.9, "final_time": 3e4}, 0.5),
        ({"dynamics": "gradient_descent", "learning_rate": 0.99, "final_time": 1.5e4}, 0.5),
        ({"dynamics": "langevin", "learning_rate": 0.9, "final_time": 3e4, "temperature": 0}, 0.5),
        ({"dynamics": "heavy_ball", "learning_rate": 0.1, "momentum": 0.9, "final_time": 5e4}, 0.5),
        ({"dynamics": "heavy_ball", "learning_rate": 1.2, "momentum": 0.5, "final_time": 3e4}, 0.5),
        ({"dynamics": "nesterov", "learning_rate": 0.3, "momentum": 0.5, "final_time": 4e4}, 0.5),
        ({"dynamics": "sgd", "learning_rate": 0.5, "batch_size": 4, "final_time": 3e4}, 0.5),
        ({"dynamics": "adam", "learning_rate": 1e-6, "learning_rate_unit": "absolute",
          "momentum": 0.9, "time_unit": "steps", "final_time": 5e3}, 0.5),
        ({"dynamics": "gradient_flow", "relative_tolerance": 2e-3, "final_time": 1e5}, 1.0),
    ],
)  # fmt: skip
def test_path_lengths_that_rounding_of_weights_makes_are_left_out(
    train_with, capsys, changes, near
):
    """Where the loss has come to its floor, the path goes on by the rounding of the gradient."""
    settings = RUN | {"n": 16, "width": 32, "subtract_start": True, "output_scale": 1e3}
    settings |= {"first_snapshot": 1, "snapshots_per_decade": 10} | changes
    exact, coarse = (train_with(settings | {"precision": p}) for p in ("float64", "float32"))
    assert not exact["speed_rounding"].any()
    length, there = (run["path_length"].values[1:] for run in (exact, coarse))
    longer = (there - length) / there
    told = speed_limits.path_rounding(coarse)[1:] / there
    assert longer[-1] > 0.1 and told[-1] == pytest.approx(longer[-1], rel=near)
    kept = np.isfinite(speed_limits.measured([coarse], 0)["path"][0])
    assert np.all(np.abs(longer[kept]) < 0.06) and not kept[-1]
    assert kept[: len(kept) // 2].all()
    assert np.isfinite(speed_limits.measured([exact], 0)["path"]).all()
    table = speed_limits.start_table("cold", 0, [coarse], [KERNEL], NO_FIT, SETTINGS)
    speed_limits.warn_of_rounding(table)
    assert "set precision: float64" in capsys.readouterr().out
    name = "kinematic_inefficiency" if changes["dynamics"] == "adam" else "inefficiency"
    assert np.isfinite(table[name]).all() and table["path_excess"].isna().any()


def test_paths_of_steps_that_are_longer_than_the_digits_are_kept(train_with):
    """Near the limit, but with new roundings in each step, of which descent makes less."""
    settings = RUN | {"n": 16, "width": 6, "subtract_start": True, "output_scale": 3e3}
    settings |= {"dynamics": "gradient_descent", "learning_rate": 0.9, "final_time": 2e3}
    exact, coarse = (train_with(settings | {"precision": p}) for p in ("float64", "float32"))
    length, there = (run["path_length"].values[1:] for run in (exact, coarse))
    assert np.all(np.abs((there - length) / there) < 0.03)
    assert np.isfinite(speed_limits.measured([coarse], 0)["path"]).all()


def test_rounding_of_a_run_is_told_by_the_largest_eigenvalue_of_its_own_start(train_with):
    """Near the limit descent makes much more of roundings, and each start has its own limit."""
    settings = RUN | {"n": 16, "width": 6, "subtract_start": True, "output_scale": 1e3}
    settings |= {"dynamics": "gradient_descent", "first_snapshot": 1, "final_time": 1.5e4}
    own = [
        train_with(settings | {"learning_rate": 0.01, "final_time": 2}, realisation=r)
        for r in range(6)
    ]
    largest = [run.attrs["own_lambda_1"] for run in own]
    stiffest = int(np.argmax(largest))
    settings["learning_rate"] = 0.95 * largest[0] / largest[stiffest]
    assert settings["learning_rate"] < 0.8
    exact, coarse = (
        train_with(settings | {"precision": p}, realisation=stiffest)
        for p in ("float64", "float32")
    )
    length, there = (run["path_length"].values[1:] for run in (exact, coarse))
    longer = (there - length) / there
    told = speed_limits.path_rounding(coarse)[1:] / there
    assert longer[-1] > 0.1 and told[-1] == pytest.approx(longer[-1], rel=0.6)
    kept = np.isfinite(speed_limits.measured([coarse], 0)["path"][0])
    assert np.all(np.abs(longer[kept]) < 0.06) and not kept[-1]


def test_heat_off_the_loss_drop_in_either_direction_is_warned_of(capsys):
    for heat, told in ((1.0, False), (1.3, True), (0.7, True)):
        table = pd.DataFrame(
            {"note": [""], "start": ["cold"], "heat": [heat], "loss_drop": [1.0],
             "time": [1.0], "realisation": ["ensemble"]}
        )  # fmt: skip
        table["heat_error"] = heat_error(table["heat"], table["loss_drop"], np.array([-2.0]))
        speed_limits.warn_of_noise(table)
        shown = capsys.readouterr().out
        assert "heat is off the loss drop by 15 %" in shown if told else shown == ""
    table["heat_error"] = 0.0
    speed_limits.warn_of_noise(table.assign(note="of a reason"))
    assert (
        capsys.readouterr().out == "no T_SL at this temperature from the cold start: of a reason\n"
    )
    run = table.assign(note="of another", realisation="0")
    later = table.assign(time=2.0, note="")
    warm = table.assign(time=7.0, note="", start="warm")
    speed_limits.warn_of_noise(pd.concat([run, later, warm]))
    assert capsys.readouterr().out == (
        "no T_SL of single runs at this temperature from the cold start at 1 of 2 times: of "
        "another\n"
    )


def test_a_prediction_at_a_temperature_below_the_bound_is_none():
    """T_SL of one start with small residues may be above T, which no law of motion allows."""
    guess = {"descent": np.ones(3), "transport2": np.array([0.5, 1.0, 2.0]), "time": np.ones(3)}
    found = speed_limits.completed(guess | {"temperature": 0.1})
    np.testing.assert_array_equal(found["transport2"], [0.5, 1.0, np.nan])
    np.testing.assert_array_equal(speed_limits.completed(guess)["transport2"], [0.5, 1.0, 2.0])


def noisy_run(seed=0, **settings):
    """A made-up run at a temperature with two layers of 20 and 30 weights."""
    config = {"dynamics": "langevin", "temperature": 0.1, "initialisation": "he"}
    config |= {"subtract_start": False} | settings
    vectors = np.random.default_rng(seed).normal(size=(3, 2, 3, 30))
    heat = np.array([0.0, 1.0, 2.5])
    return (
        flow_run()
        .assign(
            heat=("snapshot", heat),
            curvature_heat=("snapshot", 0.1 * heat**2),
            layer_products=(
                ("snapshot", "layer", "vector", "other_vector"),
                vectors @ np.swapaxes(vectors, -1, -2),
            ),
            layer_product_integrals=(
                ("snapshot", "layer", "position", "other_position"),
                (np.cumsum(vectors, axis=0) @ np.swapaxes(vectors, -1, -2))[..., :2, :2],
            ),
        )
        .assign_attrs(
            config=json.dumps(config),
            start_variances='{"first": 1.0, "second": 1.0}',
            parameter_ranges='{"first": [0, 20], "second": [20, 50]}',
        )
    )


def test_heats_are_since_the_start_and_products_those_of_displacement_and_start():
    runs = [noisy_run(0), noisy_run(1)]
    warm = speed_limits.measured(runs, 1)
    np.testing.assert_allclose(warm["heat"], [[1.5]] * 2)
    np.testing.assert_allclose(warm["curvature_heat"], [[0.525]] * 2)
    cold = speed_limits.measured(runs, 0)
    np.testing.assert_array_equal(cold["action_with_noise"], cold["heat"])
    for run, products in zip(runs, cold["products"], strict=True):
        u_and_start = run["layer_products"].values[1:, :, :2, :2]
        np.testing.assert_array_equal(products, u_and_start)


def test_the_free_energy_drops_by_no_less_than_its_least_and_no_more_than_its_most():
    found = speed_limits.averaged(speed_limits.measured([noisy_run(k) for k in range(4)], 0))
    assert np.isfinite(found["descent_most"]).all()
    assert np.all(~(found["descent"] > found["descent_most"]))
    assert np.any(found["descent"] < found["descent_most"])


def test_a_squared_distance_below_zero_is_none():
    found = speed_limits.completed({"descent": np.ones(2), "transport2": np.array([-1.0, 2.0])})
    np.testing.assert_array_equal(found["transport2"], [np.nan, 2.0])


@pytest.mark.parametrize(("initialisation", "gaussian"), [("he", True), ("torch", False)])
def test_the_distribution_of_starts_is_that_of_the_initialisation(initialisation, gaussian):
    law = speed_limits.start_distribution(noisy_run(initialisation=initialisation))
    assert law.gaussian == gaussian and list(law.sizes) == [20, 30]
    fixed = noisy_run().assign_attrs(start_variances='{"first": 1.0, "second": NaN}')
    for run in (fixed, noisy_run(subtract_start=True), noisy_run(initialisation=None)):
        assert speed_limits.start_distribution(run) is None


@pytest.mark.parametrize(
    ("initialisation", "start", "kind", "known"),
    [("he", 0, "full", True), ("he", 1, "full", False), ("torch", 0, "full", False),
     ("he", 0, "quadrature", False)],
)  # fmt: skip
def test_a_temperature_has_a_prediction_from_gaussian_cold_starts_alone(
    initialisation, start, kind, known
):
    """Of one layer and by the full spectrum: what else holds is that of no known distribution."""
    run = noisy_run(initialisation=initialisation).isel(layer=[1])
    run = run.assign_attrs(start_variances='{"only": 1.0}', parameter_ranges='{"only": [0, 30]}')
    found = speed_limits.measured([run, run], start)
    assert (speed_limits.nothing_bounded(start, found["law"], 2) == "") == (start == 0)
    kernel = KERNEL.rename({name: name.replace("full", kind) for name in KERNEL})
    guess = speed_limits.predicted_at_temperature([kernel] * 2, kind, found, start)
    for name in ("transport2", "descent", "drop"):
        assert guess[name].shape == found["drop"].shape
        assert (np.isfinite(guess[name]) if known else np.isnan(guess[name])).all(), name
