"""Bounds for Langevin clouds against the linear case, where everything is known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import theory_langevin
import torch
from conftest import RUN
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.problem import build_problem
from speedlimits import langevin_networks, linear_regression
from speedlimits.dynamics import GradientFlow

S_0 = 0.01


def exact_bounds(modes, time, loss_drop):
    """The bounds that a cloud of infinitely many members would give, all modes in one layer."""
    h, a2 = modes.eigenvalues, modes.start_displacements_squared
    weights = modes.multiplicities
    moved = np.sum(weights * a2 * np.expm1(-h * time) ** 2)
    variance = np.sum(weights * linear_regression.variances(modes, time)) / weights.sum()
    return langevin_networks.bounds(
        time,
        moved,
        [variance],
        [weights.sum()],
        loss_drop,
        temperature=modes.temperature,
        start_variance=modes.start_variance,
    )


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(0, 40),
    st.floats(0.0, 3.0, allow_subnormal=False),
    st.floats(1e-4, 1.0),
    st.floats(1e-2, 1e2),
    st.integers(0, 2**31),
)
@example(1, 0, 0.0, 1.0, 50.0, 25124)  # without noise the variance underflows to 0
def test_bounds_hold_for_random_spectra(count, free, temperature, start_variance, time, seed):
    generator = np.random.default_rng(seed)
    eigenvalues = 10.0 ** generator.uniform(-3, 1, count)
    projections = generator.standard_normal(count) ** 2 + 1e-3
    modes = langevin_networks.linearised_modes(
        eigenvalues,
        projections,
        count + free,
        temperature=temperature,
        start_variance=start_variance,
    )
    found = linear_regression.predict(modes, time)
    bound = exact_bounds(modes, time, found["mean_loss_drop"])
    slack = 1 + 1e-9
    assert bound["wasserstein_squared"] <= found["wasserstein_squared"] * slack
    assert bound["free_energy_drop"] * slack >= found["free_energy_drop"]
    if bound["free_energy_drop"] > 0:
        assert bound["speed_limit_time"] <= found["speed_limit_time"] * slack


def test_bounds_are_attained_by_an_isotropic_cloud():
    modes = langevin_networks.linearised_modes(
        np.full(5, 0.7), np.arange(1.0, 6.0), 5, temperature=0.4, start_variance=0.2
    )
    found = linear_regression.predict(modes, 1.3)
    bound = exact_bounds(modes, 1.3, found["mean_loss_drop"])
    for name in ("wasserstein_squared", "free_energy_drop", "speed_limit_time", "inefficiency"):
        assert bound[name] == pytest.approx(found[name], rel=1e-9)


def linear_problem():
    h = torch.logspace(0, -2, 30, dtype=torch.float64)
    minimum = torch.linspace(1.0, 3.0, 30, dtype=torch.float64)

    def loss_and_gradient(theta):
        gradient = torch.zeros_like(theta)
        gradient[:30] = h * (theta[:30] - minimum)
        return 0.5 * torch.dot(gradient[:30], theta[:30] - minimum).item(), gradient

    return h.numpy(), minimum.numpy(), loss_and_gradient


@pytest.mark.parametrize("temperature", [0.0, 0.3])
def test_simulated_cloud_agrees_with_the_closed_forms(temperature):
    h, minimum, loss_and_gradient = linear_problem()
    centre, count = torch.zeros(200, dtype=torch.float64), 60
    cloud = langevin_networks.simulate_cloud(
        loss_and_gradient,
        centre,
        [2.0, 8.0],
        step=0.02,
        temperature=temperature,
        start_variance=S_0,
        seeds=range(count),
    )
    modes = langevin_networks.linearised_modes(
        h, h * minimum**2, 200, temperature=temperature, start_variance=S_0
    )
    for index, time in enumerate(cloud.times):
        exact = linear_regression.predict(modes, time)
        drops = cloud.loss_drops[index]
        error = drops.std(ddof=1) / np.sqrt(count)
        bias = 0.02 * exact["mean_excess_loss"] + 0.02 * abs(exact["mean_loss_drop"])
        assert abs(drops.mean() - exact["mean_loss_drop"]) < 4.5 * error + bias
        np.testing.assert_allclose(cloud.heat[index], drops, atol=1e-9)
        moved = np.sum(minimum**2 * np.expm1(-h * time) ** 2)
        of_layers = [(0, 30), (30, 200)]
        squared, found = langevin_networks.moments(cloud, of_layers, S_0)
        measured = squared[index]
        variance = linear_regression.variances(modes, time)
        # |mean of members|^2 scatters by 2 |m| sigma / sqrt R and by sigma^2 sqrt(2 P) / R
        scatter = 2 * np.sqrt(moved * variance.max() / count)
        scatter += variance.max() * np.sqrt(2 * 200) / count
        assert abs(measured - moved) < 4.5 * scatter + 0.02 * moved
        expected = [variance[:-1].mean(), variance[-1]]
        np.testing.assert_allclose(
            found[index], expected, rtol=0.02 + 4.5 * np.sqrt(2 / (30 * count))
        )


def test_cold_cloud_of_small_variance_is_gradient_flow():
    """Temperature 0 and s_0 -> 0 give the geodesic length, loss drop and T_SL of gradient flow."""
    h, minimum, loss_and_gradient = linear_problem()
    centre = torch.zeros(200, dtype=torch.float64)
    cloud = langevin_networks.simulate_cloud(
        loss_and_gradient,
        centre,
        [5.0],
        step=0.001,
        temperature=0.0,
        start_variance=1e-12,
        seeds=[1, 2],
    )
    flow = GradientFlow(loss_and_gradient, centre, relative_tolerance=1e-5)
    start = flow.loss
    flow.advance(5.0)
    found = langevin_networks.bounds(
        cloud.times,
        *langevin_networks.moments(cloud, [(0, 200)], 1e-12),
        [200],
        cloud.loss_drops.mean(axis=1),
        temperature=0.0,
        start_variance=1e-12,
    )
    squared = flow.displacement.norm().item() ** 2
    assert found["wasserstein_squared"][0] == pytest.approx(squared, rel=2e-3)
    assert found["speed_limit_time"][0] == pytest.approx(squared / (start - flow.loss), rel=2e-3)


def test_members_have_noise_of_their_own_and_repeat_bit_for_bit():
    _, _, loss_and_gradient = linear_problem()
    centre = torch.zeros(200, dtype=torch.float64)
    known = dict(step=0.02, temperature=0.3, start_variance=S_0)
    counted = []
    one = langevin_networks.simulate_cloud(
        loss_and_gradient, centre, [0.1, 0.2], seeds=[3, 4], on_step=counted.append, **known
    )
    assert counted == list(range(1, 2 * 10 + 1))
    two = langevin_networks.simulate_cloud(loss_and_gradient, centre, [0.2], seeds=[3, 5], **known)
    assert np.array_equal(one.displacements[-1, 0], two.displacements[-1, 0])
    assert not np.array_equal(one.displacements[-1, 1], two.displacements[-1, 1])
    with pytest.raises(ValueError, match="pairs need at least 2"):
        langevin_networks.mean_displacement_squared(one.displacements[:, :1])


@pytest.mark.parametrize("time, variance", [(0.1, 1.0), (3.0, 0.3)])
def test_starts_of_the_members_add_no_noise_to_the_moments(time, variance):
    """A cloud wider than the way has its starts' noise in u, of which pairs alone are left."""
    h, minimum, loss_and_gradient = linear_problem()
    exact = np.sum(minimum**2 * np.expm1(-h * time) ** 2)
    found, plain = [], []
    for seed in range(0, 80, 4):
        cloud = langevin_networks.simulate_cloud(
            loss_and_gradient, torch.zeros(200, dtype=torch.float64), [time],
            step=0.02, temperature=0.0, start_variance=variance, seeds=range(seed, seed + 4),
        )  # fmt: skip
        squared, variances = langevin_networks.moments(cloud, [(0, 30), (30, 200)], variance)
        found.append(squared[0])
        plain.append(langevin_networks.mean_displacement_squared(cloud.displacements[0]))
        # free weights keep their start's: no noise at all
        assert variances[0, 1] == pytest.approx(variance, rel=1e-12)
        decayed = variance * np.mean(np.exp(-2 * h * time))
        assert variances[0, 0] == pytest.approx(decayed, rel=0.02 + 4.5 * np.sqrt(2 / 90))
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - exact) < 4.5 * error + 0.02 * exact  # and that of the scheme
    assert np.std(found) < 0.5 * np.std(plain)


@pytest.mark.parametrize(("size", "members"), [(1, 4), (3, 2), (10, 2), (40, 2), (120, 2), (60, 4)])
def test_moments_of_layers_of_any_size_are_unbiased(size, members):
    """One mode at a temperature, by its closed form; slopes of few weights would scatter."""
    h, time, temperature, s_0, draws = 0.3, 2.0, 0.5, 1.0, 4000
    generator = np.random.default_rng(size)
    kept = np.exp(-h * time)
    spread = np.sqrt(temperature * (1 - kept**2) / h)
    moved, variance = 0.9, s_0 * kept**2 + spread**2
    squared, variances = np.empty(draws), np.empty(draws)
    for k in range(draws):
        starts = np.sqrt(s_0) * generator.standard_normal((members, size))
        away = moved + kept * starts + spread * generator.standard_normal((members, size))
        cloud = langevin_networks.Cloud(np.ones(1), starts, away[None], None, None)
        found = langevin_networks.moments(cloud, [(0, size)], s_0)
        squared[k], variances[k] = found[0].item(), found[1].item()
    for found, exact, off in ((squared, size * moved**2, variance), (variances, variance, 0.02)):
        error = found.std() / np.sqrt(draws)
        assert abs(found.mean() - exact) < 4.5 * error + off * (size * (members - 1) >= 30)


def test_bounds_that_the_noise_leaves_nothing_of_are_missing():
    known = dict(temperature=0.0, start_variance=0.5)
    for squared, drop in ((-1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (1.0, -1.0)):
        found = langevin_networks.bounds(2.0, squared, [0.5], [3], drop, **known)
        assert found["wasserstein_squared"] == squared and found["free_energy_drop"] == drop
        assert np.isnan(found["inefficiency"]) and np.isnan(found["speed_limit_time"])


EXPERIMENT = {
    "temperatures": [0.0], "start_variance": 1e-6, "members": 2, "realisations": 4, "step": 0.3,
    "networks": [RUN | {"width": 2, "depth": 2, "final_time": 10}],
    "seed": 11, "confidence": 0.9, "resamples": 20, "code": "test",
}  # fmt: skip


@pytest.fixture
def experiment(job, subset_with):
    """Return a function that runs the experiment and returns its table and its log."""
    subset_with(RUN)

    def run(**changes):
        settings, made = EXPERIMENT | changes, {"o": "table.csv"}
        job(theory_langevin.main, inputs={"n.nc": "n.nc"}, outputs=made, settings=settings)
        return pd.read_csv("table.csv"), Path("job.log").read_text()

    return run


def test_no_start_is_stepped_beyond_its_own_stability_limit(experiment):
    """Narrow networks differ: a step by lambda_1 of the first makes heat of no loss in others."""
    table, log = experiment()
    starts = table[table["realisation"] != "ensemble"]
    assert len(starts) == 4 and "warning" not in log
    np.testing.assert_allclose(starts["heat"], starts["loss_drop"], rtol=0.05)
    exact = experiment(step=0.003)[0]
    for name in ("loss_drop", "wasserstein_squared", "inefficiency"):
        np.testing.assert_allclose(table[name], exact[name], rtol=0.1)


def test_steps_whose_heat_is_not_the_loss_drop_are_told(experiment):
    table, log = experiment(temperatures=[0.0, 3.0], step=0.5)
    starts = table[table["realisation"] != "ensemble"].set_index(["temperature", "realisation"])
    off = (starts["heat"] - starts["loss_drop"]).abs() / starts["free_energy_drop"].abs()
    np.testing.assert_allclose(starts["heat_error"], off, rtol=1e-6)
    worst = table[table["realisation"] == "ensemble"].set_index("temperature")["heat_error"]
    assert worst.to_dict() == pytest.approx(off.groupby("temperature").max().to_dict(), rel=1e-6)
    found = off[0.0][off[0.0] > 0.1]
    assert 0 < len(found) < 4 and off[3.0].max() < 0.1
    named = f"temperature 0, start{'s' * (len(found) > 1)} {', '.join(found.index)}: the heat is"
    assert f"{named} off the loss drop by up to {100 * found.max():.3g} %" in log
    assert "lower theory.langevin.step" in log and log.count("the heat is off") == 1


def test_a_start_that_diverges_leaves_the_others_their_rows(experiment):
    table, log = experiment(temperatures=[0.0, 1e6], step=0.5)
    rows = table.set_index(["temperature", "realisation"])
    lost = rows.loc[1e6, "inefficiency"].isna()
    assert lost["ensemble"] and lost.any() and "no values of this start at temperature 1e+06" in log
    others = ["free_energy_drop", "loss_drop", "heat", "speed_limit_time", "inefficiency_low"]
    assert rows.loc[(1e6, "ensemble"), others].isna().all()
    assert rows.loc[0.0, "inefficiency"].notna().all()
    kept = [r for r in lost.index if not lost[r]]
    assert kept and f"temperature 1e+06, start{'s' * (len(kept) > 1)} {', '.join(kept)}: the" in log
    assert rows["inefficiency_linearised"].notna().all()


def test_starts_of_many_small_layers_add_no_noise_either():
    """Six weights each: too few for a slope of their own, enough together."""
    generator, layers = np.random.default_rng(5), [(k, k + 6) for k in range(0, 120, 6)]
    found = []
    for _ in range(400):
        starts = generator.standard_normal((4, 120))
        away = 0.1 + starts + 0.01 * generator.standard_normal((4, 120))
        cloud = langevin_networks.Cloud(np.ones(1), starts, away[None], None, None)
        squared, variances = langevin_networks.moments(cloud, layers, 1.0)
        found.append((squared[0], variances[0].mean()))
    found = np.array(found)
    error = found.std(axis=0) / 20
    assert (np.abs(found.mean(axis=0) - [120 * 0.01, 1.0001]) < 4.5 * error).all()
    assert found[:, 0].std() < 0.05  # of the starts alone it would be 4.5


SHORT = EXPERIMENT["networks"][0] | {"final_time": 0.7}
NARROW = EXPERIMENT["networks"][0] | {"width": 1, "depth": 3}


def test_a_bound_below_the_speed_limit_is_told(experiment):
    table, log = experiment(networks=[SHORT])
    value = table.loc[table["realisation"] == "ensemble", "inefficiency"].item()
    assert (
        value < 0.9 and f"T/T_SL is at most {value:.3g} by its bound, below 1 by the noise" in log
    )
    table, log = experiment(networks=[SHORT], step=0.01)
    assert (table["inefficiency"] > 0.99).all() and "warning" not in log


def test_noise_that_leaves_no_bound_is_told(capsys):
    def told(value, high, drop=1.0):
        row = {"inefficiency": value, "inefficiency_high": high, "loss_drop": drop}
        theory_langevin.warn_of_members(pd.DataFrame([row]), "here")
        return capsys.readouterr().out

    assert "here: no bound on T_SL, below the noise of the members; raise" in told(np.nan, np.nan)
    assert not told(np.nan, np.nan, drop=np.nan)  # a start has diverged, which is told
    assert "T/T_SL is at most 0.9 by its bound" in told(0.9, 0.95)
    assert told(0.9, np.nan) and not told(0.9, 1.1) and not told(0.99, 0.995)


def test_a_dead_start_has_no_unit_of_time(experiment):
    with pytest.raises(SystemExit):
        experiment(networks=[NARROW], seed=3)
    log = Path("job.log").read_text()
    assert "lambda_1 is 0 at the start of realisation 0, whose outputs depend on no weight" in log
    assert "a larger width" in log and "temperature" not in log


def test_a_dead_start_that_is_not_the_first_has_no_inefficiency(experiment):
    table, _ = experiment(networks=[NARROW], seed=5)
    starts = table[table["realisation"] != "ensemble"]
    dead = starts["loss_drop"] == 0
    assert 0 < dead.sum() < len(dead)
    # two members tell little of layers of one or two weights, each of variance 1e-6
    assert (starts.loc[dead, "wasserstein_squared"].abs() < 1e-5).all()
    for name in ("inefficiency", "speed_limit_time", "inefficiency_linearised"):
        assert (starts[name].isna() == dead).all()


def test_what_a_killed_job_kept_of_other_starts_is_not_gone_on_with(experiment, monkeypatch):
    """Your own network may read weights from files, of which neither code nor settings tell."""
    for name in ("CHECKPOINT_SECONDS", "WRITE_SHARE"):
        monkeypatch.setattr(f"pipeline.trajectory.{name}", -1.0)
    plain = experiment()[0]

    def killed(*_):
        raise RuntimeError("killed")

    def changed(*arguments):
        problem = build_problem(*arguments)
        with torch.no_grad():
            next(problem.network.parameters()).mul_(1.5)
        return problem

    with monkeypatch.context() as patched:
        patched.setattr(theory_langevin, "warn_of_steps", killed)
        patched.setattr(theory_langevin, "build_problem", changed)
        with pytest.raises(SystemExit):
            experiment()
        with pytest.raises(SystemExit):
            experiment()
        assert "continuing half-way" in Path("job.log").read_text()
    table, log = experiment()
    assert "continuing half-way" not in log
    pd.testing.assert_frame_equal(table, plain)
