"""Output scale, start subtracted, label noise: from the settings through training to the kernel."""

import numpy as np
import prepare
import pytest
import subset
import torch
from conftest import RUN

from pipeline import kernels
from pipeline.problem import build_problem
from pipeline.stores import read_json, read_netcdf
from speedlimits.kernel import Cost

SETTINGS = RUN | {"width": 30, "quadrature_steps": 10}


@pytest.fixture
def trained(train_with, spectrum_with):
    """Run the scripts up to the kernel at the end; return settings, trajectory and that kernel."""

    def run(**changes):
        settings = SETTINGS | changes
        run = train_with(settings)
        return settings, run, spectrum_with(settings | {"moment": "end"}, manifest="snapshots.json")

    return run


def test_networks_of_few_weights_move_away_from_the_start_alike_by_both_routes(
    trained, monkeypatch, tmp_path
):
    small = {"n": 20, "width": 2}  # 200 rows, 152 weights
    _, _, found = trained(**small)
    assert "taken: the Gauss-Newton matrix" in (tmp_path / "job.log").read_text()
    monkeypatch.setattr(
        kernels, "spectrum_cost", lambda *_: Cost(0.0, gauss_newton=1.0, quadrature=1.0, stored=1.0)
    )
    _, _, explicit = trained(**small)
    assert "taken: the kernel, explicitly" in (tmp_path / "job.log").read_text()
    assert float(found["drift_full"]) > 0.1
    # The overlap is not defined here: with fewer hidden units than outputs, eigenvalues repeat.
    for name in ("drift", "alignment"):
        for kind in ("full", "traced"):
            assert float(found[f"{name}_{kind}"]) == pytest.approx(
                float(explicit[f"{name}_{kind}"]), rel=1e-8
            )
    np.testing.assert_allclose(
        found["eigenvalues_full"], explicit["eigenvalues_full"], rtol=0,
        atol=1e-10 * float(explicit["eigenvalues_full"][0]),
    )  # fmt: skip


def outputs_along(settings, run, inputs_name="inputs"):
    """Return a h(theta_t) - a h(theta_0), or a h(theta_t), at the first and last snapshot."""
    problem = build_problem(settings, "n.nc", 0, torch.device("cpu"))
    found = []
    for weights in (run["weights"].values[0], run["weights"].values[-1]):
        tensor = torch.from_numpy(weights).double()
        torch.nn.utils.vector_to_parameters(tensor, problem.network.parameters())
        with torch.no_grad():
            found.append(problem.network(getattr(problem, inputs_name)).numpy())
    start, end = found
    return (end - start if settings["subtract_start"] else end), problem


@pytest.mark.parametrize("subtract", [True, False])
def test_losses_accuracy_and_residue_are_those_of_the_centred_scaled_network(trained, subtract):
    settings, run, kernel = trained(output_scale=3.0, subtract_start=subtract)
    data = read_netcdf("n.nc")
    y, test_y = (np.eye(10)[data[f"{part}_labels"].values] for part in ("train", "test"))
    f, problem = outputs_along(settings, run)
    test_f, _ = outputs_along(settings, run, "test_inputs")
    # Weights are stored in float32, which the outputs follow to about 1e-6.
    assert run["train_loss"].values[-1] == pytest.approx(0.5 * ((y - f) ** 2).sum(), rel=1e-4)
    assert run["test_loss"].values[-1] == pytest.approx(
        0.5 * ((test_y - test_f) ** 2).sum(), rel=1e-4
    )
    right = test_f.argmax(axis=1) == data["test_labels"].values
    assert run["test_accuracy"].values[-1] == pytest.approx(right.mean(), abs=2e-3)
    total = kernel["residue_projections_full"].values.sum()
    assert total == pytest.approx(((y - f) ** 2).sum(), rel=1e-4)
    np.testing.assert_allclose(problem.plain_targets, y)
    if subtract:
        assert run["train_loss"].values[0] == pytest.approx(0.5 * (y**2).sum(), rel=1e-12)
        assert run["test_loss"].values[0] == pytest.approx(0.5 * (test_y**2).sum(), rel=1e-12)


def test_alignment_is_with_the_plain_targets(trained):
    aligned = {}
    for subtract in (False, True):
        trained(subtract_start=subtract, final_time=0.2)
        aligned[subtract] = float(read_netcdf("ntk.nc")["alignment_full"])
    # The kernels at lambda_1 T = 0.2 are nearly that of the start, and the targets the same.
    assert aligned[True] == pytest.approx(aligned[False], rel=0.02)


def test_time_unit_takes_in_the_square_of_the_output_scale(trained):
    trained(final_time=1)
    plain = read_json("unit.json")["lambda_1"]
    trained(final_time=1, output_scale=5.0)
    assert read_json("unit.json")["lambda_1"] == pytest.approx(25 * plain, rel=1e-3)


def test_drift_vanishes_and_training_becomes_linear_as_the_output_scale_grows(trained):
    drifts, gaps = [], []
    for scale in (1.0, 10.0, 100.0):
        settings, run, kernel = trained(output_scale=scale, subtract_start=True)
        f, _ = outputs_along(settings, run)
        drifts.append(float(kernel["drift_full"]))
        problem = build_problem(SETTINGS | {"output_scale": scale}, "n.nc", 0, torch.device("cpu"))
        rows = [
            torch.cat([g.flatten() for g in torch.autograd.grad(f, problem.network.parameters(),
                                                                retain_graph=True)])
            for f in problem.network(problem.inputs).flatten()
        ]  # fmt: skip
        jacobian = torch.stack(rows).numpy()
        values, vectors = np.linalg.eigh(jacobian @ jacobian.T)
        delta = vectors.T @ problem.plain_targets.numpy().flatten()
        t = run["time"].values[-1]
        linear = vectors @ ((1 - np.exp(-values * t)) * delta)
        gaps.append(np.linalg.norm(f.flatten() - linear) / np.linalg.norm(linear))
    # Chizat, Oyallon, Bach 2019: the distance to the linear model falls as 1/a (here faster once
    # no ReLU of these few units changes sign any more).
    assert drifts[0] > 5 * drifts[1] > 25 * drifts[2]
    assert gaps[0] > 5 * gaps[1] and gaps[2] < 3e-3


def noisy(job, probability, n=400, seed=5):
    settings = SETTINGS | {"n": n, "label_noise": probability, "seed": seed, "test_count": 297}
    job(prepare.main, outputs={"o": "images.nc"}, settings=settings)
    job(subset.main, inputs={"i": "images.nc"}, outputs={"o": "n.nc"}, settings=settings)
    return read_netcdf("n.nc")


def test_label_noise_is_nested_and_leaves_inputs_and_test_labels_alone(job):
    clean = noisy(job, 0)
    labels = {p: noisy(job, p)["train_labels"].values for p in (0.2, 0.5, 1.0)}
    small = noisy(job, 0.5, n=100)
    for name in ("train_inputs", "test_labels", "indices"):
        assert np.array_equal(noisy(job, 0.5)[name], clean[name])
    assert np.array_equal(small["train_labels"], labels[0.5][:100])
    wrong = {p: labels[p] != clean["train_labels"].values for p in labels}
    assert not (wrong[0.2] & ~wrong[0.5]).any() and not (wrong[0.5] & ~wrong[1.0]).any()
    assert int(noisy(job, 0.5).attrs["wrong_labels"]) == wrong[0.5].sum()
    for p in labels:  # binomial with chance 0.9 p: within four deviations
        assert abs(wrong[p].mean() - 0.9 * p) < 4 * np.sqrt(0.9 * p * (1 - 0.9 * p) / 400)
    assert not np.array_equal(noisy(job, 0.5, seed=6)["train_labels"], labels[0.5])


LAZY = RUN | {"n": 8, "depth": 2, "width": 32, "subtract_start": True, "output_scale": 1e6,
              "dynamics": "gradient_descent", "learning_rate": 0.2, "final_time": 30}  # fmt: skip


def test_the_residue_at_the_end_of_a_lazy_run_is_that_of_its_training(train_with, spectrum_with):
    """Weights that have moved by 1e-6 and would be stored with fewer digits than they had."""
    run = train_with(LAZY)
    assert run["geodesic_length"].values[-1] < 1e-5
    found = spectrum_with(LAZY | {"moment": "end"}, manifest="snapshots.json")
    residue = found["residue_projections_full"].values.sum()
    losses = run["train_loss"].values
    assert losses[-1] < 0.1 * losses[0]
    np.testing.assert_allclose(residue / 2, losses[-1], rtol=1e-6)


def test_lazy_weights_that_rounding_moves_as_far_as_training_are_refused(
    train_with, tmp_path, monkeypatch
):
    """What is let through is right to a few per cent, what is refused would be wrong by more."""
    lengths = {}
    for scale, precision in ((1e3, "float64"), (1e3, "float32"), (1e6, "float64")):
        run = train_with(LAZY | {"output_scale": scale, "precision": precision})
        drop = run["train_loss"].values[0] - run["train_loss"].values[1:]
        bound = run["geodesic_length"].values[1:] ** 2 / drop
        lengths[scale, precision] = scale * run["path_length"].values[1:], scale**2 * bound
    for wanted, found in zip(lengths[1e3, "float64"], lengths[1e3, "float32"], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0.01)
    with pytest.raises(SystemExit):
        train_with(LAZY | {"precision": "float32"})
    told = (tmp_path / "job.log").read_text()
    assert "rounding to float32 by" in told and "set precision: float64" in told
    monkeypatch.setattr("pipeline.training.LARGEST_ROUNDING", np.inf)
    run = train_with(LAZY | {"precision": "float32"})
    path = 1e6 * run["path_length"].values[-1]
    assert abs(path / lengths[1e6, "float64"][0][-1] - 1) > 0.3
