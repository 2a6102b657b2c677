"""Training through the scripts: closed form of a linear model, resumption, warm start."""

import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import warm_start
import xarray as xr
from conftest import TRAINING
from scipy.integrate import quad

from pipeline import speed_limits
from pipeline.files import FINISHED, remove
from pipeline.problem import build_problem, check_start, digests
from pipeline.stores import read_json, read_netcdf, write_netcdf
from pipeline.training import (
    RECORDED,
    as_dataset,
    build_evolution,
    learning_rate,
    pairwise_preconditioned,
    wanted_times,
)
from pipeline.trajectory import StagedTrajectory
from speedlimits import langevin_ensembles, linear_regression
from speedlimits import speed_limit as sl
from speedlimits.dynamics import Evolution, GradientDescent, GradientFlow
from speedlimits.gradient import TrainingLoss
from speedlimits.kernel import empirical_ntk
from speedlimits.optimisers import Adam, HeavyBall, Nesterov
from speedlimits.snapshots import snapshot_times


def closed_form(run, data):
    """Return loss drop, l_gamma, l_geo and action of the linear model, by dense eigenvectors."""
    x = data["train_inputs"].values.reshape(len(data["train_labels"]), -1).astype(float)
    y = np.eye(10)[data["train_labels"].values]
    scale = 1 / np.sqrt(x.shape[1])  # NTK parameterisation of a linear output layer
    start = run["weights"].values[0].astype(float).reshape(10, -1)
    values, vectors = np.linalg.eigh(scale**2 * x @ x.T)
    squared = ((vectors.T @ (y - scale * x @ start.T)) ** 2).sum(axis=1)
    t = run["time"].values[1:]
    decay = np.exp(-np.outer(t, values))
    drop = 0.5 * (1 - decay**2) @ squared
    geodesic = np.sqrt(((1 - decay) ** 2 / values) @ squared)

    def speed(time):
        return np.sqrt(values * squared @ np.exp(-2 * values * time))

    pieces = [quad(speed, a, b, epsrel=1e-10)[0] for a, b in zip([0, *t[:-1]], t, strict=True)]
    return drop, np.cumsum(pieces), geodesic


@pytest.mark.parametrize("dynamics", ["gradient_flow", "gradient_descent"])
def test_linear_model_agrees_with_its_closed_form(trained, dynamics):
    final_time = 300 if dynamics == "gradient_flow" else 10
    run = trained(dynamics=dynamics, final_time=final_time)
    drop, path, geodesic = closed_form(run, read_netcdf("n.nc"))
    loss = run["train_loss"].values
    t = run["time"].values[1:]
    # At the first snapshot gradient descent's step of 0.001/lambda_1 is seen: 5e-4 relative.
    np.testing.assert_allclose(loss[0] - loss[1:], drop, rtol=1e-3)
    np.testing.assert_allclose(run["path_length"].values[1:], path, rtol=1e-3)
    np.testing.assert_allclose(run["geodesic_length"].values[1:], geodesic, rtol=1e-3)
    np.testing.assert_allclose(run["action"].values[1:], drop, rtol=2e-3)
    found = speed_limits.measured([run], 0)
    measured = sl.speed_limit_time(found["geodesic2"][0], found["drop"][0])
    np.testing.assert_allclose(measured, geodesic**2 / drop, rtol=1e-3)
    inefficiency = sl.inefficiency(t, found["geodesic2"][0], found["drop"][0])
    np.testing.assert_allclose(inefficiency, t * drop / geodesic**2, rtol=1e-3)


def test_lambda_1_is_the_largest_eigenvalue(trained):
    trained(final_time=1)
    data = read_netcdf("n.nc")
    x = data["train_inputs"].values.reshape(12, -1).astype(float)
    expected = np.linalg.norm(x, 2) ** 2 / x.shape[1]
    assert read_json("unit.json")["lambda_1"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_store_describes_itself(trained, precision):
    run = trained(final_time=1, precision=precision)
    for name, variable in run.variables.items():
        assert {"units", "long_name"} <= set(variable.attrs), name
    assert {"config", "versions", "device", "start_seed", "lambda_1", "parameter_ranges"} <= set(
        run.attrs
    )
    data = read_netcdf("n.nc")
    counts = {"samples": "train_inputs", "test_samples": "test_inputs"}
    assert all(int(run.attrs[key]) == len(data[name]) for key, name in counts.items())
    assert int(run.attrs["outputs"]) == 10
    assert run["weights"].dtype == np.dtype(precision) and run["action"].dtype == np.float64
    difference = run["weights"].values[-1].astype(float) - run["weights"].values[0]
    assert np.linalg.norm(difference) == pytest.approx(float(run["geodesic_length"][-1]), rel=1e-4)
    squared = run["distance_squared"].values
    np.testing.assert_array_equal(squared, squared.T)
    apart = run["weights"].values[-1].astype(float) - run["weights"].values[2]
    assert squared[2, -1] == pytest.approx(np.square(apart).sum(), rel=1e-4)
    np.testing.assert_allclose(np.sqrt(squared[0]), run["geodesic_length"], rtol=1e-10)


def test_bounds_hold_where_weights_have_moved_by_a_trillionth_of_their_length(trained):
    run = trained(first_snapshot=1e-12, final_time=1e-8)
    moved = run["geodesic_length"].values[1:]
    assert moved[0] < 1e-11 * np.linalg.norm(run["weights"].values[0])
    found = speed_limits.measured([run], 0)
    speed = run["gradient_norm"].values[0]
    np.testing.assert_allclose(np.sqrt(found["geodesic2"][0]), speed * found["time"], rtol=1e-6)


@pytest.mark.parametrize("start", [0, 2])
def test_w2_is_l_geo_where_weights_have_moved_by_less_than_float32_resolves(trained, start):
    options = {"first_snapshot": 1e-10, "final_time": 1e-7}
    runs = [trained(**options), trained(only_train=True, realisation=1, **options)]
    found = speed_limits.transport(runs, start)
    geodesic2 = speed_limits.measured(runs, start)["geodesic2"][:, -1].mean()
    for name in ("wasserstein_squared_identity", "wasserstein_squared_assignment"):
        assert found[name] == pytest.approx(geodesic2, rel=1e-12, abs=0)
    assert found["identity_is_optimal"] and found["identity_over_assignment"] == 1
    assert found["other_over_identity"] > 1e6


def test_couplings_of_one_start_stored_in_float32_cost_the_same(trained):
    """Three runs from one start: what rounding of stored weights says is no cheaper assignment."""
    lazy = {"subtract_start": True, "output_scale": 300, "precision": "float32", "final_time": 5}
    run = trained(dynamics="sgd", batch_size=5, **lazy)
    others = [trained(only_train=True, dynamics="sgd", batch_size=b, **lazy) for b in (3, 4)]
    found = speed_limits.transport([run, *others], 0)
    assert found["other_over_identity"] == pytest.approx(1, abs=1e-3)
    assert found["identity_is_optimal"]


def test_starts_that_have_not_moved_have_no_ratios_of_costs(trained):
    run = trained(final_time=1)
    still = run.isel(snapshot=[0, 0], other_snapshot=[0, 0])
    found = speed_limits.transport([still, still], 0)
    assert found["wasserstein_squared_identity"] == 0 and found["identity_is_optimal"]
    assert found["identity_over_assignment"] is found["other_over_identity"] is None


def test_two_trainings_have_equal_bits(trained):
    first = trained(final_time=5)
    remove(Path(FINISHED))  # or it is taken from there
    Path("diverged.zarr").mkdir()  # of a training before that diverged
    second = trained(final_time=5)
    assert not Path("diverged.zarr").exists()
    xr.testing.assert_identical(first, second)


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


@pytest.mark.parametrize("dynamics", ["gradient_flow", "gradient_descent", "langevin"])
@pytest.mark.parametrize("when", [1, 7, 23])
def test_killed_training_continues_to_the_same_bits(trained, monkeypatch, dynamics, when):
    changes = dict(dynamics=dynamics, learning_rate=0.3, depth=2, relative_tolerance=1e-3)
    whole = trained(final_time=30, **changes)
    steps = 0
    original = StagedTrajectory._on_step

    def killed(self, evolution):
        nonlocal steps
        steps += 1
        self.last_save = -1e9  # a checkpoint at every step
        original(self, evolution)
        if steps == when:
            raise Killed

    monkeypatch.setattr(StagedTrajectory, "_on_step", killed)
    remove(Path(FINISHED))  # or the run is taken from there
    with pytest.raises(Killed):
        trained(only_train=True, final_time=30, **changes)
    monkeypatch.setattr(StagedTrajectory, "_on_step", original)
    continued = trained(only_train=True, final_time=30, **changes)
    xr.testing.assert_identical(continued, whole)


LANGEVIN = dict(dynamics="langevin", learning_rate=0.05)


def test_langevin_at_temperature_zero_is_gradient_descent(trained):
    cold = trained(**LANGEVIN | {"temperature": 0.0}, depth=2, final_time=20)
    descent = trained(only_train=True, dynamics="gradient_descent", learning_rate=0.05, depth=2,
                      final_time=20)  # fmt: skip
    for name in descent.variables:
        np.testing.assert_array_equal(cold[name], descent[name], err_msg=name)
    found, expected = (speed_limits.measured([run], 0) for run in (cold, descent))
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_langevin_noise_is_its_own_stream_of_the_realisation(trained):
    runs = [trained(**LANGEVIN, final_time=5)]
    torch.manual_seed(99)  # the noise must not come from torch's global generator
    np.random.seed(99)
    remove(Path(FINISHED))  # or it is taken from there
    again = trained(only_train=True, **LANGEVIN, final_time=5)
    xr.testing.assert_identical(runs[0], again)
    runs += [trained(only_train=True, realisation=1, **LANGEVIN, final_time=5)]
    noise = [run["layer_products"].values[-1, 0, 2, 2] for run in runs]
    diffused = 2 * 0.01 * float(runs[0]["time"][-1])
    for squared in noise:  # 640 weights: chi squared
        assert squared / 640 == pytest.approx(diffused, rel=4.5 * np.sqrt(2 / 640))
    assert noise[0] != noise[1]


@pytest.mark.parametrize(
    ("dynamics", "kind"),
    [("gradient_flow", GradientFlow), ("gradient_descent", GradientDescent), ("adam", Adam),
     ("heavy_ball", HeavyBall), ("nesterov", Nesterov)],
)  # fmt: skip
def test_settings_name_the_evolution_and_reach_it(dynamics, kind):
    loss = SimpleNamespace(loss_and_gradient=lambda theta: (1.0, theta))
    settings = {"dynamics": dynamics, "relative_tolerance": 0.0123, "momentum": 0.4}
    settings |= {"learning_rate": 0.1, "learning_rate_unit": "absolute"}
    evolution = build_evolution(settings, loss, torch.ones(4), 1.5, 2.5)
    assert type(evolution) is kind and evolution.lambda_1 == 2.5
    if dynamics == "gradient_flow":
        assert evolution.relative_tolerance == 0.0123
    else:
        rate = 0.1 / 0.6 if issubclass(kind, HeavyBall) else 0.1
        assert evolution.step == pytest.approx(rate)
        assert getattr(evolution, "momentum", 0.4) == 0.4


@pytest.mark.parametrize(
    ("unit", "length"), [("inverse_lambda_1", 0.25), ("absolute", 1.0), ("steps", 0.5)]
)
def test_first_and_last_time_are_in_the_unit_of_the_clock(unit, length):
    clock = {"time_unit": unit, "first_snapshot": 2, "final_time": 40, "snapshots_per_decade": 3}
    times = wanted_times(clock, 4.0, 0.5 if unit == "steps" else None)
    np.testing.assert_allclose(times[[0, -1]], [2 * length, 40 * length])


def test_one_step_is_the_shortest_training():
    clock = {"time_unit": "absolute", "first_snapshot": 0.1, "snapshots_per_decade": 3}
    assert wanted_times(clock | {"final_time": 0.5}, 4.0, 0.5).tolist() == [0.5]
    with pytest.raises(ValueError, match="one step is 0.5 long"):
        wanted_times(clock | {"final_time": 0.49}, 4.0, 0.5)


def test_distances_between_snapshots_have_the_digits_of_the_weights():
    """In float32, in which weights are stored, they would have three of late ones."""
    weights = 1000 + np.random.default_rng(0).normal(size=(4, 50))
    recorded = dict.fromkeys(RECORDED, np.zeros(4)) | {"weights": weights, "time": np.arange(4.0)}
    apart = ((weights[:, None] - weights) ** 2).sum(axis=2)
    recorded["geodesic_length"] = np.sqrt(apart[0])
    found = as_dataset(recorded, {}, "float32")
    np.testing.assert_allclose(found["distance_squared"], apart, rtol=1e-12)


def test_every_realisation_has_its_own_minibatches_and_noise():
    """Streams of their own, beside that of the start; an epoch takes every sample."""
    loss = SimpleNamespace(loss_and_gradient=lambda theta: (1.0, theta), targets=torch.zeros(50, 3))
    settings = {"learning_rate": 0.1, "learning_rate_unit": "absolute", "batch_size": 7}
    settings |= {"temperature": 0.1, "momentum": 0.5}
    seeds = {1, 2}
    for dynamics in ("sgd", "langevin"):
        first, again, other = (
            build_evolution(settings | {"dynamics": dynamics}, loss, torch.ones(4), 1.0, 1.0, seed)
            for seed in (1, 1, 2)
        )
        assert first.seed == again.seed
        seeds |= {first.seed, other.seed}
        if dynamics == "sgd":
            assert first.samples == 50 and len(first._rows()) == 7
            assert first._rows().tolist() == again._rows().tolist() != other._rows().tolist()
    assert len(seeds) == 6


def test_a_longer_langevin_run_extends_a_shorter_one_to_the_same_bits(trained):
    whole = trained(**LANGEVIN, depth=2, final_time=30)
    remove(Path(FINISHED))
    trained(only_train=True, **LANGEVIN, depth=2, final_time=10)
    longer = trained(only_train=True, **LANGEVIN, depth=2, final_time=30)
    assert "extending a finished run" in Path("job.log").read_text(encoding="utf-8")
    xr.testing.assert_identical(longer, whole)


@pytest.mark.parametrize("temperature", [0.001, 0.03])
def test_langevin_tables_bound_the_closed_form(trained, temperature):
    changes = LANGEVIN | {"temperature": temperature, "final_time": 20}
    runs = [trained(only_train=r > 0, realisation=r, **changes) for r in range(6)]
    data = read_netcdf("n.nc")
    x = data["train_inputs"].values.reshape(12, -1).astype(float)
    y = np.eye(10)[data["train_labels"].values]
    parts = [
        linear_regression.modes_of_data(x / 8, column, np.zeros(64), 1.0, temperature)
        for column in y.T
    ]
    modes = linear_regression.OrnsteinUhlenbeckModes(
        np.concatenate([p.eigenvalues for p in parts]),
        np.concatenate([p.start_displacements_squared for p in parts]),
        1.0,
        temperature,
    )
    found = speed_limits.measured(runs, 0)
    exact = linear_regression.predict(modes, found["time"])
    settings = {"seed": 1, "confidence": 0.95, "resamples": 100}

    def no_guess(found):
        return {name: np.nan * found["drop"] for name in speed_limits.SAMPLED} | {
            "time": found["time"]
        }

    guess = no_guess(found)
    table = speed_limits.ensemble_table(found, guess, settings, "cold")
    # start and loss of six realisations scatter: judge by four and a half standard errors
    error = 4.5 * found["drop"].std(axis=0, ddof=1) / np.sqrt(6) / np.abs(exact["mean_loss_drop"])
    slack = 1 + error + 0.05
    drop, squared = exact["free_energy_drop"], exact["wasserstein_squared"]
    assert np.all(table["free_energy_drop_least"] < drop * slack)
    assert np.all(table["free_energy_drop_most"] > drop / slack)
    assert np.all(table["transport_cost"] > squared / slack)
    assert np.all(table["inefficiency"] < exact["inefficiency"] * slack**2)
    assert np.all(table["speed_limit_time"] > exact["speed_limit_time"] / slack**2)
    np.testing.assert_allclose(
        table["inefficiency"], table["time"] / table["speed_limit_time"], rtol=1e-12
    )
    assert table["inefficiency"].iloc[-1] > 0.3 * exact["inefficiency"][-1]  # no empty bound
    assert np.all(table["inefficiency_low"] <= table["inefficiency"] * (1 + 1e-9))
    for name in ("path_length", "action", "path_excess", "speed_unevenness",
                 "kinematic_inefficiency", "energetic_inefficiency"):  # fmt: skip
        assert table[name].isna().all(), name
    np.testing.assert_allclose(table["heat"], table["loss_drop"], rtol=1e-6, atol=1e-9)
    row = speed_limits.run_table(found, guess, 2)
    assert np.isfinite(row["inefficiency"]).all()
    warm = speed_limits.measured(runs, 3)
    table = speed_limits.ensemble_table(warm, no_guess(warm), settings, "warm")
    assert table["inefficiency"].isna().all() and table["speed_limit_time"].isna().all()


def test_what_cannot_be_bounded_says_why():
    law = langevin_ensembles.StartDistribution([12, 40], [1.0, 1.0], True)
    assert speed_limits.nothing_bounded(0, law, 3) == ""
    assert "12 weights in one run" in speed_limits.nothing_bounded(0, law, 1)
    assert "24 weights over all realisations" in speed_limits.nothing_bounded(0, law, 2)
    assert "warm start" in speed_limits.nothing_bounded(2, law, 3)
    assert "minus infinity" in speed_limits.nothing_bounded(0, None, 3)


def test_runs_with_a_loss_each_have_no_bound_at_a_temperature(trained):
    """With the start's outputs subtracted every start has a loss, hence a free energy, of its own.

    The spectrum at the start then holds nothing of the starts' spread, which the linearised network
    takes off.
    """
    changes = LANGEVIN | {"subtract_start": True, "final_time": 5}
    runs = [trained(only_train=r > 0, realisation=r, **changes) for r in range(2)]
    found = speed_limits.measured(runs, 0)
    assert found["law"] is None
    assert "subtract_start" in speed_limits.nothing_bounded(0, found["law"], 2)
    for name in ("transport2", "descent"):
        assert np.isnan(found[name]).all(), name
    kernel = xr.Dataset(
        {
            "eigenvalues_full": ("k", [1.0, 0.1]),
            "residue_projections_full": ("k", [1.0, 1.0]),
            "noise_floor_full": 1e-12,
        }
    )
    guess = speed_limits.predicted_at_temperature([kernel] * 2, "full", found, 0)
    assert np.isnan(guess["transport2"]).all() and np.isnan(guess["descent"]).all()
    cold = [trained(only_train=True, **changes | {"temperature": 0.0})]
    assert np.isfinite(speed_limits.measured(cold, 0)["transport2"]).all()


@pytest.mark.parametrize(("depth", "residues"), [(1, [0.6, 0.2]), (2, [9.0, 2.0])])
def test_the_linearised_network_is_known_at_a_temperature_for_one_layer(trained, depth, residues):
    """Its outputs are linear in the weights; single runs scatter, and lose nothing by that."""
    changes = LANGEVIN | {"depth": depth, "parameterisation": "ntk", "final_time": 5}
    runs = [trained(only_train=r > 0, realisation=r, **changes) for r in range(2)]
    found = speed_limits.measured(runs, 0)
    assert len(found["law"].sizes) == depth and np.ptp(found["law"].variances) == 0
    kernel = xr.Dataset(
        {
            "eigenvalues_full": ("k", [1.0, 0.1]),
            "residue_projections_full": ("k", residues),  # s_0 times the eigenvalues sums to 1.1
            "noise_floor_full": 1e-12,
        }
    )
    guess = speed_limits.predicted_at_temperature([kernel] * 2, "full", found, 0)
    for name in ("transport2", "descent", "drop"):
        assert (np.isfinite(guess[name]) if depth == 1 else np.isnan(guess[name])).all(), name


def test_one_start_of_few_residues_leaves_the_ensemble_its_prediction(trained):
    """W2^2 is linear in the residue projections: only their mean over starts has to be possible."""
    changes = LANGEVIN | {"depth": 1, "parameterisation": "ntk", "final_time": 5}
    changes["temperature"] = 1e-4  # nothing but the residues matters
    runs = [trained(only_train=r > 0, realisation=r, **changes) for r in range(2)]
    found = speed_limits.measured(runs, 0)
    kernels = [
        xr.Dataset(
            {
                "eigenvalues_full": ("k", [1.0, 0.1]),
                "residue_projections_full": ("k", residues),
                "noise_floor_full": 1e-12,
            }
        )
        for residues in ([0.0, 0.0], [3.0, 0.3])
    ]
    guess = speed_limits.predicted_at_temperature(kernels, "full", found, 0)
    assert np.all(guess["transport2"][0, -1] < 0)
    single = speed_limits.run_table(found, guess, 0)
    assert single["speed_limit_time_predicted"].isna().iloc[-1]
    settings = {"seed": 1, "confidence": 0.95, "resamples": 10}
    whole = speed_limits.ensemble_table(found, guess, settings, "cold")
    assert (whole["speed_limit_time_predicted"] > 0).all()
    assert np.isfinite(whole["inefficiency_predicted"]).all()


def test_moments_of_few_weights_bound_nothing_from_either_side(trained):
    changes = LANGEVIN | {"final_time": 5, "depth": 2, "width": 1}
    runs = [trained(only_train=r > 0, realisation=r, **changes) for r in range(4)]
    found = speed_limits.measured(runs, 0)
    guess = {name: np.nan * found["drop"] for name in speed_limits.SAMPLED} | {
        "time": found["time"]
    }
    row = speed_limits.run_table(found, guess, 1)  # its output layer has 10 weights, four runs 40
    for name in ("free_energy_drop_least", "free_energy_drop_most", "speed_limit_time"):
        assert row[name].isna().all(), name
    settings = {"seed": 1, "confidence": 0.95, "resamples": 100}
    whole = speed_limits.ensemble_table(found, guess, settings, "cold")
    assert np.isfinite(whole["free_energy_drop_most"]).all()


def test_bounds_of_a_single_run_do_not_depend_on_the_others(trained):
    changes = LANGEVIN | {"final_time": 5}
    runs = [trained(only_train=r > 0, realisation=r, **changes) for r in range(3)]
    rows = []
    for chosen in (runs, runs[:1]):
        found = speed_limits.measured(chosen, 0)
        guess = dict.fromkeys(speed_limits.SAMPLED, np.nan * found["drop"])
        rows.append(speed_limits.run_table(found, guess | {"time": found["time"]}, 0))
    assert np.isfinite(rows[0]["speed_limit_time"]).all()
    pd.testing.assert_frame_equal(*rows)


def test_langevin_step_at_the_limit_is_refused(trained, capsys):
    with pytest.raises(SystemExit):
        trained(**LANGEVIN | {"learning_rate": 1.0})
    assert "stability limit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("dynamics", "advice"),
    [("gradient_flow", "set precision: float64"), ("gradient_descent", "lower learning_rate")],
)
def test_a_divergence_names_lambda_1_and_keeps_the_snapshots(
    trained, monkeypatch, capsys, dynamics, advice
):
    """The loss is finite at the start alone, before gradient flow has estimated any lambda_1."""
    original, start = TrainingLoss.loss_and_gradient, []

    def broken(self, theta):
        start.append(theta)
        loss, gradient = original(self, theta)
        return loss, gradient if torch.equal(theta, start[0]) else np.nan * gradient

    monkeypatch.setattr(TrainingLoss, "loss_and_gradient", broken)
    with pytest.raises(SystemExit):
        trained(depth=2, final_time=30, dynamics=dynamics)
    told, lambda_1 = capsys.readouterr().err, read_json("unit.json")["lambda_1"]
    assert f"and lambda_1 {lambda_1:.6g} " in told and advice in told, told
    kept = xr.open_zarr("diverged.zarr", consolidated=False)
    assert kept["time"].values.tolist() == [0.0] and np.isfinite(kept["train_loss"]).all()


def test_a_divergence_that_was_asked_for_is_recorded_at_the_times_that_it_did_not_reach(
    trained, tmp_path
):
    """Of three times the stability limit: NaN from there on, and no state is left to continue."""
    changes = {"dynamics": "gradient_descent", "learning_rate": 3.0, "beyond_stability": True}
    run = trained(**changes, time_unit="steps", first_snapshot=1, final_time=2000)
    step = 3.0 * 2 / run.attrs["lambda_1"]
    times = np.append(0.0, np.unique(np.round(snapshot_times(1, 2000, 5))) * step)
    np.testing.assert_allclose(run["time"], times, rtol=1e-12)
    reached = np.isfinite(run["train_loss"].values)
    assert reached[0] and not reached[-1] and np.all(np.diff(reached.astype(int)) <= 0)
    assert run.attrs["diverged"] == "1"
    assert not list(tmp_path.rglob("checkpoint.npz"))
    assert "diverged" not in trained(only_train=True, final_time=1).attrs


def test_stage_of_other_settings_is_not_continued(trained, monkeypatch):
    changes = dict(depth=2, final_time=30)
    reference = trained(**changes, relative_tolerance=2e-3)
    original = StagedTrajectory._take_snapshot

    def killed(self):
        original(self)
        if self.next_snapshot == 6:
            raise Killed

    monkeypatch.setattr(StagedTrajectory, "_take_snapshot", killed)
    remove(Path(FINISHED))  # or the run is taken from there
    with pytest.raises(Killed):
        trained(only_train=True, **changes, relative_tolerance=1e-2)
    monkeypatch.setattr(StagedTrajectory, "_take_snapshot", original)
    continued = trained(only_train=True, **changes, relative_tolerance=2e-3)
    np.testing.assert_array_equal(continued["weights"], reference["weights"])


@pytest.mark.parametrize("part", ["train_labels", "test_labels"])
def test_a_kept_run_of_other_labels_is_not_taken(trained, part):
    before = trained(final_time=3)
    data = read_netcdf("n.nc")
    data[part] = data[part].copy(data=np.roll(data[part].values, 1))
    write_netcdf(data, "n.nc")
    after = trained(only_train=True, final_time=3)
    name = {"train_labels": "train_loss", "test_labels": "test_loss"}[part]
    assert not np.array_equal(before[name], after[name])


def test_states_are_told_apart_by_data_start_and_buffers(subset_with):
    subset_with(TRAINING)
    problem = build_problem(TRAINING, "n.nc", 0, torch.device("cpu"))
    problem.network.register_buffer("mask", torch.ones(3, dtype=torch.bfloat16))
    known = digests(problem)
    assert {"inputs", "targets", "test_inputs", "test_targets"} < set(known)
    weight, _ = next(iter(problem.network.named_parameters()))
    with torch.no_grad():
        for name in (weight, "mask"):
            tensor = problem.network.state_dict()[name]  # shares its memory
            tensor.view(-1)[0] += 0.5
            found = digests(problem)
            assert {key for key in known if known[key] != found[key]} == {f"network.{name}"}
            tensor.view(-1)[0] -= 0.5
    assert digests(problem) == known


def test_learning_rate_above_the_limit_is_refused_with_both_numbers(trained, capsys):
    with pytest.raises(SystemExit):
        trained(dynamics="gradient_descent", learning_rate=100.0, learning_rate_unit="absolute")
    message = capsys.readouterr().err
    assert "learning rate 100" in message and "2/lambda_1 = " in message
    assert "lambda_1 = " in message


def test_the_stability_limit_is_that_of_the_realisations_own_start(trained, subset_with, capsys):
    """The unit of the learning rate is that of realisation 0, which narrow networks differ from."""
    narrow = {"depth": 3, "width": 6, "dynamics": "gradient_descent", "final_time": 20}
    subset_with(TRAINING | narrow)
    largest = []
    for realisation in range(6):
        problem = build_problem(TRAINING | narrow, "n.nc", realisation, torch.device("cpu"))
        kernel = empirical_ntk(problem.network, problem.inputs)
        largest.append(torch.linalg.eigvalsh(kernel)[-1].item())
    stiffest = int(np.argmax(largest))
    limit = largest[0] / largest[stiffest]
    assert limit < 0.9
    settings = narrow | {"learning_rate_unit": "stability_limit", "realisation": stiffest}
    run = trained(**settings, learning_rate=0.99 * limit)
    assert run.attrs["own_lambda_1"] == pytest.approx(largest[stiffest], rel=2e-3)
    assert run.attrs["lambda_1"] == pytest.approx(largest[0], rel=2e-3)
    assert run.attrs["own_lambda_1"] * run["time"].values[1] < 2  # it is at the first step still
    with pytest.raises(SystemExit):
        trained(**settings, learning_rate=1.01 * limit, only_train=True)
    message = capsys.readouterr().err
    assert f"lambda_1 = {run.attrs['own_lambda_1']:.6g} at this start" in message
    assert f"{run.attrs['lambda_1']:.6g} at that of realisation 0" in message
    told = float(re.search(r"learning_rate, below ([\d.]+),", message)[1])
    assert 0.999 * limit < told <= run.attrs["lambda_1"] / run.attrs["own_lambda_1"]
    beyond = settings | {"beyond_stability": True, "learning_rate": 1.01 * limit}
    assert trained(**beyond, only_train=True).attrs["own_lambda_1"] == run.attrs["own_lambda_1"]


def test_rates_below_the_one_that_is_told_are_taken():
    units, values = ("absolute", "stability_limit"), (2.0, 2526.04, 3.7e-5, 6.86092e8)
    for lambda_1, unit in itertools.product(values, units):
        rate = 7.0 if unit == "stability_limit" else 7 / lambda_1
        settings = {"dynamics": "gradient_descent", "learning_rate": rate}
        settings["learning_rate_unit"] = unit
        with pytest.raises(ValueError, match="learning_rate, below") as refused:
            learning_rate(settings, lambda_1, 1.7 * lambda_1)
        told = float(re.search(r"below ([\d.e+-]+),", str(refused.value))[1])
        below = settings | {"learning_rate": told * (1 - 1e-9)}
        assert learning_rate(below, lambda_1, 1.7 * lambda_1) > 0.999 * 2 / (1.7 * lambda_1)


@pytest.mark.parametrize(
    ("dynamics", "largest"),
    [("gradient_descent", 1.0), ("heavy_ball", 1.9), ("nesterov", 1.9 / 2.8), ("adam", np.inf)],
)
def test_learning_rates_below_the_limit_of_their_dynamics_are_taken(dynamics, largest):
    settings = {"dynamics": dynamics, "learning_rate_unit": "stability_limit", "momentum": 0.9}
    below = min(0.999 * largest, 1e6)
    assert learning_rate(settings | {"learning_rate": below}, 4.0, 4.0) == pytest.approx(below / 2)
    absolute = settings | {"learning_rate": below / 2, "learning_rate_unit": "absolute"}
    assert learning_rate(absolute, 4.0, 4.0) == below / 2
    if dynamics != "adam":
        settings["learning_rate"] = largest
        with pytest.raises(ValueError, match=f"{dynamics} diverges"):
            learning_rate(settings, 4.0, 4.0)
        with pytest.raises(ValueError, match=r"below 1 \(minibatches need a lower one\)"):
            learning_rate(settings | {"dynamics": "sgd", "learning_rate": 3.0}, 4.0, 4.0)
        beyond = settings | {"beyond_stability": True}
        assert learning_rate(beyond, 4.0, 4.0) == pytest.approx(largest / 2)


def test_gradient_descent_records_whole_steps_once(trained):
    run = trained(dynamics="gradient_descent", learning_rate=0.4, final_time=20)
    rate = 0.4 * 2 / read_json("unit.json")["lambda_1"]
    steps = run["time"].values / rate
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-9)
    assert np.all(np.diff(steps) > 0.5)
    assert run["gradients"].values[-1] == pytest.approx(steps[-1] + 1)


def test_momentum_of_an_evolution_is_not_needed_to_stage_it(tmp_path):
    evolution = GradientDescent(
        lambda theta: (0.5 * float(theta @ theta), theta), torch.ones(3), 0.1
    )
    staged = StagedTrajectory(evolution, np.array([0.5, 1.0]), lambda e: {}, tmp_path)
    recorded = staged.run()
    np.testing.assert_allclose(recorded["weights"][:, 0], [1, 0.9**5, 0.9**10])
    assert isinstance(evolution, Evolution)


def test_snapshots_record_and_tell_what_the_evolution_says_of_itself(tmp_path, capsys):
    evolution = HeavyBall(
        lambda theta: (0.5 * float(theta @ theta), theta), torch.ones(3), 0.1, 0.5
    )
    evolution.velocity_noise = 0.25  # as of gradient flow
    recorded = StagedTrajectory(evolution, np.array([1.0]), lambda e: {}, tmp_path).run()
    of_the_recorder = {"test_loss", "test_accuracy", "speed_rounding"}
    for name in RECORDED.keys() - {"train_loss", "geodesic_length"} - of_the_recorder:
        assert recorded[name][-1] == getattr(evolution, name) != 0, name
    assert recorded["train_loss"][-1] == evolution.loss
    assert recorded["geodesic_length"][-1] == evolution.displacement.norm()
    ratio = evolution.time * (1.5 - evolution.loss) / evolution.displacement.square().sum().item()
    assert f"inefficiency {ratio:.4g}," in capsys.readouterr().out.splitlines()[-1]


def write_run(path, accuracy):
    from pipeline.stores import variable, write_snapshots

    count = len(accuracy)
    write_snapshots(
        xr.Dataset(
            {
                "test_accuracy": variable("snapshot", np.array(accuracy), "1", "test accuracy"),
                "weights": variable(("snapshot", "parameter"), np.ones((count, 2)), "1", "w"),
            },
            coords={"time": variable("snapshot", np.arange(count) ** 2.0, "time", "t")},
        ),
        f"{path}.zarr",
        f"{path}.json",
    )
    return f"{path}.json"


def test_warm_start_takes_the_mean_over_realisations(job, tmp_path):
    manifests = [
        write_run(tmp_path / "a", [0.1, 0.2, 0.1, 0.4]),
        write_run(tmp_path / "b", [0.1, 0.0, 0.3, 0.4]),
    ]
    for threshold, expected in ((0.2, (True, 2, 4.0, 3.0)), (0.9, (False, None, None, None))):
        job(
            warm_start.main,
            inputs={"manifests": manifests},
            outputs={"o": "warm.json"},
            settings={"test_accuracy": threshold, "code": "x"},
        )
        found = read_json("warm.json")
        keys = ("reached", "snapshot", "time", "time_resolution")
        assert tuple(found[key] for key in keys) == expected
        assert found["threshold"] == threshold


def test_ensemble_is_a_ratio_of_averages(trained):
    runs = [trained(final_time=30), trained(only_train=True, realisation=1, final_time=30)]
    found = speed_limits.measured(runs, 0)
    table = speed_limits.ensemble_table(
        found, found, {"seed": 1, "confidence": 0.95, "resamples": 100}, "cold"
    )
    expected = found["time"] * found["drop"].mean(axis=0) / found["geodesic2"].mean(axis=0)
    np.testing.assert_allclose(table["inefficiency"], expected)
    of_ratios = (found["time"] * found["drop"] / found["geodesic2"]).mean(axis=0)
    assert not np.allclose(expected, of_ratios, rtol=1e-6)
    rows = [speed_limits.run_table(found, found, r) for r in range(2)]
    each = np.stack([row["inefficiency"] for row in rows])
    assert np.all(table["inefficiency"] <= each.max(axis=0) + 1e-12)
    assert isinstance(table, pd.DataFrame)


@pytest.mark.parametrize("dynamics", ["gradient_descent", "heavy_ball", "adam"])
def test_energetic_inefficiency_is_what_the_dynamics_bounds(trained, dynamics):
    steps = {"time_unit": "steps", "first_snapshot": 1, "momentum": 0.9}
    rate = {"learning_rate": 0.02, "learning_rate_unit": "absolute"} if dynamics == "adam" else {}
    run = trained(dynamics=dynamics, final_time=300, **steps, **rate)
    settings = {"seed": 1, "confidence": 0.95, "resamples": 20}
    for start in (0, 4):
        found = speed_limits.measured([run, run], start)
        guess = {name: np.nan * found["drop"] for name in speed_limits.SAMPLED}
        guess |= {"time": found["time"]}
        row = speed_limits.run_table(found, guess, 0)
        whole = speed_limits.ensemble_table(found, guess, settings, "cold")
        loss, kinetic, time = (
            run[name].values for name in ("train_loss", "kinetic_energy", "time")
        )
        energy = loss + kinetic
        own = "preconditioned_length_squared" if dynamics == "adam" else "distance_squared"
        length = run[own].values[start, start + 1 :]
        expected = (
            (time[start + 1 :] - time[start]) * (energy[start] - energy[start + 1 :]) / length
        )
        for table in (row, whole):
            np.testing.assert_allclose(table["energetic_inefficiency"], expected, rtol=1e-12)
        assert expected[-1] > 1
        same = np.allclose(row["energetic_inefficiency"], row["inefficiency"], rtol=1e-12)
        assert same == (dynamics == "gradient_descent")


def test_a_loss_drop_before_the_first_snapshot_is_told(capsys):
    rows = pd.DataFrame({"realisation": "ensemble", "start": "cold", "time": [0.1, 1.0, 10.0]})
    for drops, told in (([9.0, 9.5, 10.0], "90 % of"), ([4.0, 9.0, 10.0], ""), ([np.nan] * 3, "")):
        speed_limits.warn_of_first_snapshot(rows.assign(loss_drop=drops))
        shown = capsys.readouterr().out
        assert (told in shown) if told else shown == ""
    speed_limits.warn_of_first_snapshot(rows.assign(loss_drop=[9.0, 9.5, 10.0], start="warm"))
    assert capsys.readouterr().out == ""


def test_lengths_in_adams_metric_between_all_snapshots():
    generator = np.random.default_rng(5)
    recorded = {
        "time": np.array([0.0, 0.1, 0.5, np.nan]),
        "weights": generator.normal(size=(4, 3)),
        "inverse_metric_integral": np.cumsum(generator.uniform(0.1, 2.0, (4, 3)), axis=0),
    }
    found = pairwise_preconditioned(recorded)
    for early, late in ((0, 1), (0, 2), (1, 2)):
        expected = sum(
            (recorded["weights"][late, i] - recorded["weights"][early, i]) ** 2
            * (recorded["time"][late] - recorded["time"][early])
            / (integral[late] - integral[early])
            for i, integral in enumerate(recorded["inverse_metric_integral"].T)
        )
        assert found[early, late] == found[late, early] == pytest.approx(expected, rel=1e-13)
    np.testing.assert_array_equal(np.diag(found), 0.0)


@pytest.mark.parametrize("factor", [1.5, 0.8])
def test_lengths_of_a_flow_whose_action_is_off_are_left_out(trained, factor):
    run = trained(final_time=30)
    good = speed_limits.measured([run], 0)
    assert np.isfinite(good["path"]).all()
    rough = run.copy(deep=True)
    rough["action"][-1] *= factor  # the loss drop explains another
    found = speed_limits.measured([rough], 0)
    for name in ("path", "path2", "action"):
        assert np.isnan(found[name][0, -1])
        np.testing.assert_array_equal(found[name][0, :-1], good[name][0, :-1])
    settings = {"seed": 1, "confidence": 0.95, "resamples": 20}
    row = speed_limits.ensemble_table(found, good, settings, "cold").iloc[-1]
    assert np.isfinite(row["inefficiency"]) and abs(row["discretisation"]) > 0.15
    assert np.isnan(row["path_excess"]) and np.isnan(row["kinematic_inefficiency"])


def test_the_power_law_has_the_modes_that_move():
    rank, times = np.arange(1, 61.0), np.geomspace(0.1, 1e4, 20)
    row = {"moment": "start", "kernel": "full", "alpha": 1.2, "delta": 0.5, "alpha_amplitude": 2.0,
           "eigenvalues": 300, "above_noise_floor": 60}  # fmt: skip
    found = speed_limits.power_law(pd.DataFrame([row]), "start", "full", times)
    rates, squares = 2.0 * rank**-1.2, rank**-0.5
    drop = 0.5 * squares @ -np.expm1(-2 * np.outer(rates, times))
    geodesic = (squares / rates) @ np.expm1(-np.outer(rates, times)) ** 2
    np.testing.assert_allclose(found["inefficiency_power_law"], times * drop / geodesic)


@pytest.mark.parametrize("subtract_start", [False, True])
def test_losses_and_accuracy_are_those_of_the_recorded_weights(trained, subtract_start):
    """Of the linear model, by NumPy; the accuracy is that of what is learnt, f - f_0 with it."""
    run = trained(subtract_start=subtract_start, final_time=100)
    data = read_netcdf("n.nc")
    weights = run["weights"].values.astype(float).reshape(len(run["time"]), 10, -1)
    for part in ("train", "test"):
        labels = data[f"{part}_labels"].values
        x = data[f"{part}_inputs"].values.reshape(len(labels), -1).astype(float)
        outputs = np.einsum("kcp,np->knc", weights, x / np.sqrt(x.shape[1]))
        if subtract_start:
            outputs -= outputs[0].copy()
        losses = 0.5 * ((np.eye(10)[labels] - outputs) ** 2).sum(axis=(1, 2))
        np.testing.assert_allclose(run[f"{part}_loss"], losses, rtol=1e-5)
    accuracy = (outputs.argmax(axis=2) == labels).mean(axis=1)
    assert np.ptp(accuracy[1:]) > 0
    np.testing.assert_allclose(run["test_accuracy"][1:], accuracy[1:])


def test_outputs_that_are_not_finite_have_no_accuracy(trained, monkeypatch):
    """They would count as class 0, which some of the labels are."""
    original = TrainingLoss.outputs

    def undefined(self, theta, inputs):
        outputs = original(self, theta, inputs)
        outputs[1] = np.nan
        return outputs

    monkeypatch.setattr(TrainingLoss, "outputs", undefined)
    run = trained()
    assert np.isnan(run["test_accuracy"]).all() and np.isfinite(run["train_loss"]).all()
    assert "no test accuracy at this snapshot" in Path("job.log").read_text()


@pytest.mark.parametrize("part", ["training", "test"])
def test_a_start_that_is_not_finite_on_any_input_is_refused(part):
    """Also on those that the checks of own networks do not look at."""
    inputs = {"training": torch.ones(40, 3), "test": torch.ones(20, 3)}
    inputs[part][17] = -1.0
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Softplus())
    torch.nn.init.constant_(network[0].weight, 1.0)
    network.register_forward_pre_hook(lambda _, given: (given[0].log(),))
    problem = SimpleNamespace(
        network=network,
        inputs=inputs["training"],
        targets=torch.ones(40, 2),
        test_inputs=inputs["test"],
    )
    with pytest.raises(ValueError, match=f"not finite for 1 of .0 {part} inputs"):
        check_start(problem, "mine:net")
    problem.inputs, problem.test_inputs = torch.ones(4, 3), torch.ones(0, 3)
    problem.targets = torch.ones(4, 2)
    check_start(problem, "mine:net")
    problem.targets = network(problem.inputs)
    with pytest.raises(ValueError, match="mine:net: the start fits every target, so that the loss"):
        check_start(problem, "mine:net")


def test_recorded_loss_and_gradient_are_those_of_the_recorded_weights(trained):
    # Between its steps the flow interpolates loss and velocity, which jumps where a ReLU changes
    # sides.
    settings = {"depth": 2, "width": 3, "relative_tolerance": 0.002, "precision": "float64"}
    run = trained(**settings, dynamics="gradient_flow", final_time=100)
    data = read_netcdf("n.nc")
    x = torch.from_numpy(data["train_inputs"].values).double().flatten(1)
    y = torch.eye(10, dtype=torch.float64)[torch.from_numpy(data["train_labels"].values).long()]
    recorded = (run[name].values for name in ("weights", "train_loss", "gradient_norm"))
    for weights, loss, norm in zip(*recorded, strict=True):
        theta = torch.from_numpy(weights).double().requires_grad_()
        first, second = theta[:192].reshape(3, 64) / 8, theta[192:].reshape(10, 3) / 3**0.5
        outputs = torch.relu(2**0.5 * x @ first.T) @ second.T
        half_square = 0.5 * (outputs - y).square().sum()
        assert loss == pytest.approx(half_square.item(), rel=1e-6)
        (gradient,) = torch.autograd.grad(half_square, theta)
        assert norm == pytest.approx(gradient.norm().item(), rel=1e-4)  # weights in float32


def test_a_network_that_is_dead_at_the_start_gives_no_unit_of_time(trained, tmp_path):
    """Twenty single ReLUs one after the other: none but one start in a million lets a signal by."""
    with pytest.raises(SystemExit):
        trained(depth=20, width=1)
    told = (tmp_path / "job.log").read_text().splitlines()[-1]
    assert "lambda_1 is 0 at the start of realisation 0" in told and "a larger width" in told
