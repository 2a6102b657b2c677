"""The rule ntk through its script: all routes to the full kernel's sums agree."""

import copy
import functools
import math
import re
from types import SimpleNamespace

import ntk
import numpy as np
import pytest
import torch
from conftest import RUN
from torch.autograd.function import once_differentiable

from pipeline import kernels
from pipeline.log import Progress
from pipeline.tables import above_noise
from speedlimits import kernel
from speedlimits.kernel import Cost, forward_operations, spectrum_cost
from speedlimits.networks import fully_connected, initialise_
from speedlimits.ntk_dynamics import predict

SETTINGS = RUN | {"n": 20}


@pytest.fixture
def spectrum(spectrum_with):
    """Run the rule ntk_start with some settings changed and return its file."""
    return lambda **changes: spectrum_with(SETTINGS | changes)


@pytest.mark.parametrize("stored", (False, True))
@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-9), ("float32", 1e-5)])
def test_quadrature_gives_the_sums_of_the_explicit_kernel(
    spectrum, monkeypatch, tmp_path, precision, tolerance, stored
):
    explicit = spectrum(precision=precision, full_rows_limit=200)  # as many as there are
    assert "eigenvalues_quadrature" not in explicit
    assert "explicitly" in (tmp_path / "job.log").read_text()
    limits = {"full_rows_limit": 199, "stored_rows_limit": 200 if stored else 199}
    monkeypatch.setattr(
        kernels, "spectrum_cost", lambda *_: Cost(0.0, gauss_newton=1.0, quadrature=1.0, stored=0.0)
    )
    free = spectrum(precision=precision, **limits)
    assert "eigenvalues_full" not in free
    told = "sums by quadrature on the kernel" if stored else "sums by quadrature, eigenvalues"
    assert told in (tmp_path / "job.log").read_text()
    eigenvalues = explicit["eigenvalues_full"].values
    times = np.logspace(-1, 4, 30) / eigenvalues[0]
    found, wanted = (
        predict(file[f"eigenvalues_{kind}"].values, file[f"residue_projections_{kind}"], times)
        for file, kind in ((free, "quadrature"), (explicit, "full"))
    )
    for name in ("loss_drop", "geodesic_length_squared", "path_length"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=tolerance, err_msg=name)


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-8), ("float32", 1e-4)])
def test_gauss_newton_route_gives_the_spectrum_of_the_explicit_kernel(
    spectrum, monkeypatch, tmp_path, precision, tolerance
):
    # 64 x 2 + 2 x 2 + 2 x 10 = 152 weights, 200 rows
    small = {"width": 2, "precision": precision}
    found = spectrum(**small)
    assert "taken: the Gauss-Newton matrix" in (tmp_path / "job.log").read_text()
    monkeypatch.setattr(
        kernels, "spectrum_cost", lambda *_: Cost(0.0, gauss_newton=1.0, quadrature=1.0, stored=1.0)
    )
    explicit = spectrum(**small)
    assert "taken: the kernel, explicitly" in (tmp_path / "job.log").read_text()
    assert set(found) == set(explicit)
    free = spectrum(**small, full_rows_limit=19)  # neither 200 rows nor 152 weights fit
    assert "taken: sums by quadrature" in (tmp_path / "job.log").read_text()
    values, wanted = (file["eigenvalues_full"].values for file in (found, explicit))
    np.testing.assert_allclose(values, wanted, rtol=0, atol=0.01 * tolerance * wanted[0])
    assert (values > 0).sum() <= 152
    for file, kind in ((found, "full"), (explicit, "full"), (free, "quadrature")):
        assert 0 < float(file[f"noise_floor_{kind}"]) < 1e-3 * wanted[0]
    times = np.logspace(-1, 2, 20) / wanted[0]
    expected = predict(wanted, explicit["residue_projections_full"], times)
    for file, kind in ((found, "full"), (free, "quadrature")):
        sums = predict(
            file[f"eigenvalues_{kind}"].values, file[f"residue_projections_{kind}"], times
        )
        for name in ("loss_drop", "geodesic_length_squared", "path_length"):
            np.testing.assert_allclose(sums[name], expected[name], rtol=tolerance, err_msg=name)
    assert float(found["alignment_full"]) == pytest.approx(
        float(explicit["alignment_full"]), rel=tolerance
    )
    np.testing.assert_allclose(
        found["eigenvalues_traced"],
        explicit["eigenvalues_traced"],
        rtol=0,
        atol=0.01 * tolerance * wanted[0],
    )


def test_quadrature_error_estimate_tells_the_size_of_the_error(spectrum, tmp_path):
    explicit = spectrum()
    times = np.logspace(-1, 6, 71) / explicit["eigenvalues_full"].values[0]
    wanted = predict(
        explicit["eigenvalues_full"].values, explicit["residue_projections_full"], times
    )
    estimates = []
    for steps in (12, 70, 140):
        few = spectrum(full_rows_limit=1, quadrature_steps=steps)
        found = predict(
            few["eigenvalues_quadrature"].values, few["residue_projections_quadrature"], times
        )
        error = max(
            np.abs(found[name] / wanted[name] - 1).max()
            for name in ("loss_drop", "geodesic_length_squared")
        )
        estimates.append(float(few["error_quadrature"]))
        # Between two rules: it may miss the error by a factor, not by an order of magnitude.
        assert estimates[-1] / 5 < error < 5 * estimates[-1]
        warned = "raise kernel.quadrature_steps" in (tmp_path / "job.log").read_text()
        assert warned == (estimates[-1] > 0.01)
    assert estimates[2] < estimates[0] / 3


def test_log_tells_how_far_kernel_and_quadrature_are(spectrum, tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "Progress", functools.partial(Progress, every=0.0))
    line = r"100\.0 % {}, elapsed 0:00:\d\d, left 0:00:00, ends \d\d:\d\d"
    spectrum()
    log = (tmp_path / "job.log").read_text()
    assert re.search(line.format("of the kernel of 200 rows"), log), log
    assert "eigenvalues of the full NTK, (N C) x (N C), of 200 rows" in log
    spectrum(full_rows_limit=199)
    log = (tmp_path / "job.log").read_text()
    assert re.search(line.format("of the kernel of 20 rows"), log), log
    assert re.search(line.format("Jacobian products"), log), log


@pytest.mark.parametrize("stored", (False, True))
def test_quadrature_has_the_sums_of_a_kernel_of_deficient_rank(
    spectrum, monkeypatch, tmp_path, stored
):
    """More rows than weights: float32 leaves negative eigenvalues of a stored kernel."""
    small = {"precision": "float32", "width": 2}
    cost = Cost(0.0, gauss_newton=1.0, quadrature=1.0, stored=0.0)
    monkeypatch.setattr(kernels, "spectrum_cost", lambda *_: cost)
    asked, compute = [], kernels.spectral_measure_lanczos

    def listening(*arguments, rounded, **more):
        asked.append(rounded)
        return compute(*arguments, rounded=rounded, **more)

    monkeypatch.setattr(kernels, "spectral_measure_lanczos", listening)
    explicit = spectrum(full_rows_limit=200, **small)
    assert explicit.attrs["spectrum_route"] == "kernel: the kernel, explicitly"
    limits = {"full_rows_limit": 1, "stored_rows_limit": 200 if stored else 1}
    free = spectrum(**limits, quadrature_steps=200, **small)
    route = "stored" if stored else "quadrature"
    assert free.attrs["spectrum_route"].startswith(f"{route}: sums by quadrature")
    (found, held), (wanted, projections) = (
        above_noise(file, kind) for file, kind in ((free, "quadrature"), (explicit, "full"))
    )
    times = np.logspace(-1, 6, 30) / wanted[0]
    found, wanted = predict(found, held, times), predict(wanted, projections, times)
    for name in ("loss_drop", "geodesic_length_squared"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-3, err_msg=name)
    assert asked == [stored]  # whether rounding of float32 is to be looked for
    made = free.sizes["rank_quadrature"]
    log = (tmp_path / "job.log").read_text()
    assert f"Lanczos quadrature with {made} products" in log
    assert ("the sums are exact" in log) == (made < 200)


def test_nothing_left_to_learn_has_sums_of_zero():
    """As of a network whose outputs are its targets."""
    found = kernels.quadrature(None, {"quadrature_steps": 5}, np.zeros((4, 2)), None)
    assert found["nodes"] == found["weights"] == found["error_estimate"] == 0
    found["noise_floor"] = 0.25  # of all eigenvalues, where nodes are some
    assert kernels.quadrature_described(found)["noise_floor_quadrature"].values == 0.25


def test_cost_model_counts_fused_layers_and_every_way_along_weights(monkeypatch):
    class Recurrent(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.LSTM(5, 8, batch_first=True)
            self.head = torch.nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.layer(x)[0][:, -1])

    inputs = torch.randn(4, 6, 5)
    forward = forward_operations(Recurrent(), inputs[:1])
    assert forward == 2 * (6 * 4 * 8 * (5 + 8) + 8 * 3)  # four gates at six times, and the head
    assert torch.backends.mkldnn.enabled == torch.backends.mkldnn.is_available()

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x.tanh()

        @staticmethod
        @once_differentiable
        def backward(context, g):
            return g

    class Identity(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(5, 3)

        def forward(self, x):
            return Once.apply(self.head(x))

    cost = spectrum_cost(Identity(), inputs[:, 0], 3, 7)
    once = forward_operations(Identity(), inputs[:1, 0])
    assert cost.quadrature == (3 + 3 * 3) * once * 4 * 7
    monkeypatch.setattr(kernel, "way_along_weights", lambda *_: "twice")
    assert spectrum_cost(Identity(), inputs[:, 0], 3, 7).quadrature == 12 * once * 4 * 7


def test_cost_model_counts_the_operations_of_dense_layers():
    network = fully_connected(input_shape=(7,), outputs=3, width=5, depth=2, parameterisation="ntk")
    initialise_(network, torch.Generator().manual_seed(0))
    samples, steps = 4, 9
    forward, weights, rows = 2 * (7 * 5 + 5 * 3), 7 * 5 + 5 * 3, 12
    cost = spectrum_cost(network, torch.zeros(samples, 7), 3, steps)
    assert cost.explicit == pytest.approx(3 * forward * rows + rows**2 * weights + 8 / 3 * rows**3)
    assert cost.gauss_newton == pytest.approx(
        3 * forward * rows + rows * weights**2 + 8 / 3 * weights**3
    )
    assert cost.quadrature == 6 * forward * samples * steps


@pytest.mark.parametrize("kind", ("full", "traced"))
def test_decomposing_at_once_measures_the_same(kind):
    generator = np.random.default_rng(5)
    delta, targets = generator.normal(size=(2, 7, 3))
    jacobians = generator.normal(size=(2, 21 if kind == "full" else 7, 40))
    kernel, start = (j @ j.T for j in jacobians)
    expected = kernels.measure(kind, kernel, start, delta, targets)
    found = kernels.measure(kind, kernel, start, delta, targets, torch.device("cpu"))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-8)


def test_overlap_is_that_of_as_many_leading_eigenvectors_as_outputs():
    """Where the last of them shares its eigenvalue, now or at the start, there is none."""
    generator = np.random.default_rng(5)
    delta, targets = generator.normal(size=(2, 7, 3))
    bases = [np.linalg.qr(generator.normal(size=(7, 7))).Q for _ in range(2)]
    clear, shared = [6.0, 5, 4, 3, 2, 1, 0.5], [6.0, 5, 4, 4, 2, 1, 0.5]
    for now, then in ((clear, clear), (shared, clear), (clear, shared)):
        kernel, start = (q * v @ q.T for q, v in zip(bases, (now, then), strict=True))
        for device in (None, torch.device("cpu")):
            found = kernels.measure("traced", kernel, start, delta, targets, device)
            if shared in (now, then):
                assert np.isnan(found["overlap"])
                continue
            leading = [q[:, :3] for q in bases]
            expected = np.sum((leading[0].T @ leading[1]) ** 2) / 3
            assert found["overlap"] == pytest.approx(expected, rel=1e-9)
            drift = np.linalg.norm(kernel - start) / np.linalg.norm(start)
            assert found["drift"] == pytest.approx(drift, rel=1e-12)
    few = [matrix[:3, :3] for matrix in (kernel, start)]  # as many samples as outputs
    found = kernels.measure("traced", *few, delta[:3], targets[:3])
    assert np.isnan(found["overlap"]) and np.isfinite(found["drift"])


def test_the_end_of_a_run_that_diverged_has_no_kernel_and_computes_none(
    train_with, spectrum_with, monkeypatch, tmp_path
):
    far = {"dynamics": "gradient_descent", "learning_rate": 3.0, "beyond_stability": True}
    settings = SETTINGS | far | {"depth": 1, "final_time": 2000}  # the loss grows as 5^(2 steps)
    run = train_with(settings)
    assert np.isfinite(run["train_loss"][0]) and not np.isfinite(run["train_loss"][-1])
    assert not any((tmp_path / "results/.partial").rglob("*"))  # its stage
    before = set(tmp_path.rglob("*"))

    def refused(*_):
        raise AssertionError("a kernel is computed")

    for name in ("everything", "quadrature", "cross_matrix", "measure", "measure_gauss_newton"):
        monkeypatch.setattr(ntk, name, refused)
    found = spectrum_with(settings | {"moment": "end"}, manifest="snapshots.json")
    assert len(found.variables) == 0 and found.attrs["note"] == "the run diverged"
    assert {path.name for path in set(tmp_path.rglob("*")) - before} == {"ntk.nc", "ntk.nc.sha256"}


def test_a_network_that_is_another_function_than_in_training_is_refused(
    train_with, spectrum_with, monkeypatch, tmp_path
):
    """At the weights of a snapshot its loss is not the one recorded there."""
    settings = SETTINGS | {"final_time": 10, "moment": "end"}
    train_with(settings)
    spectrum_with(settings, manifest="snapshots.json")
    build = ntk.build_problem

    def rotated(*arguments):
        problem = build(*arguments)
        return problem._replace(inputs=problem.inputs.roll(1, dims=-1))

    monkeypatch.setattr(ntk, "build_problem", rotated)
    with pytest.raises(SystemExit):
        spectrum_with(settings, manifest="snapshots.json")
    told = "loss is .* here and was .* in training, at the same weights"
    assert re.search(told, (tmp_path / "job.log").read_text())


ROUTES = {  # to the full kernel's spectrum: its settings, and what gives its numbers
    "kernel": ({}, "empirical_ntk"),
    "gauss_newton": ({"width": 2}, "gauss_newton"),
    "stored": ({"full_rows_limit": 1, "stored_rows_limit": 200}, "empirical_ntk"),
    "quadrature": ({"full_rows_limit": 1, "stored_rows_limit": 1}, "kernel_product"),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("factor", [1.0, 1.005, 1.03, math.nan])
def test_a_spectrum_that_is_not_the_gradients_is_refused(
    spectrum, monkeypatch, tmp_path, route, factor
):
    """Sum lambda_k Delta_k^2 is |grad L|^2, by another way to the same derivatives."""
    changes, name = ROUTES[route]
    cost = Cost(1.0, gauss_newton=0.0, quadrature=1.0, stored=0.0)
    monkeypatch.setattr(kernels, "spectrum_cost", lambda *_: cost)
    compute = getattr(kernels, name)

    def scaled(*arguments, **more):
        found = compute(*arguments, **more)
        if name == "gauss_newton":
            return found._replace(matrix=factor * found.matrix, pulled=factor**0.5 * found.pulled)
        return factor * found

    monkeypatch.setattr(kernels, name, scaled)
    if abs(factor - 1) < 0.01:
        assert spectrum(**changes).attrs["spectrum_route"].startswith(f"{route}: ")
        return
    with pytest.raises(SystemExit):
        spectrum(**changes)
    last = (tmp_path / "job.log").read_text().splitlines()[-1]
    if factor == 1.03:
        told = re.search(
            r"of the kernel is (\S+) \|Delta\|\^2, .* derivative (\S+) \|Delta\|", last
        )
        assert float(told[1]) / float(told[2]) == pytest.approx(1.03, rel=1e-5)
        assert "does it mix samples, or have derivatives of its own?" in last


class MixesMany(torch.nn.Module):
    """Mixes samples where there are more than eight: checks look at fewer."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(5, 3)

    def forward(self, x):
        f = self.layer(x)
        return f if len(x) <= 8 else f - f.mean(dim=0)


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_gradients_that_are_not_the_kernels_are_told(precision):
    torch.manual_seed(0)
    x, delta = torch.randn(20, 5, dtype=precision), np.random.default_rng(0).normal(size=(20, 3))
    mixes = MixesMany().to(precision)
    j = torch.kron(torch.cat([x, torch.ones(20, 1)], dim=1), torch.eye(3))
    theta = (j @ j.T).double().numpy()  # of the layer alone
    values, vectors = np.linalg.eigh(theta)
    spectrum_of = values[::-1], ((vectors.T @ delta.ravel()) ** 2)[::-1]
    plain = SimpleNamespace(network=mixes.layer, inputs=x)
    kernels.check_gradient(plain, delta, *spectrum_of)
    kernels.check_gradient(plain, 0 * delta, *spectrum_of)
    for scale in (1e-150, 1e150):
        kernels.check_gradient(plain, scale * delta, spectrum_of[0], scale**2 * spectrum_of[1])
    if precision == torch.float32:  # which rounds the squares of such derivatives to zero
        silent = SimpleNamespace(network=torch.nn.Linear(5, 3, bias=False), inputs=1e-25 * x)
        kernels.check_gradient(silent, delta, np.zeros(60), spectrum_of[1])
    frozen = copy.deepcopy(plain)
    frozen.network.bias.requires_grad_(False)
    for wrong in (SimpleNamespace(network=mixes, inputs=x), frozen):
        with pytest.raises(ValueError, match="which should be equal"):
            kernels.check_gradient(wrong, delta, *spectrum_of)


@pytest.mark.parametrize("limit", [1000, 100])
def test_a_dead_network_has_a_spectrum_of_zeros_and_no_alignment(spectrum, limit):
    """What a training with too large steps may end as, and a start of very few units be."""
    found = spectrum(depth=20, width=1, full_rows_limit=limit)
    kinds = [name.split("_")[-1] for name in found if name.startswith("eigenvalues_")]
    assert kinds
    for kind in kinds:
        np.testing.assert_array_equal(found[f"eigenvalues_{kind}"], 0)
        assert np.isnan(found.get(f"alignment_{kind}", np.nan))
        residue = float(found[f"residue_projections_{kind}"].sum())
        assert residue == pytest.approx(20)  # f = 0 and 20 one-hot targets
