"""The GPU's code paths, on a real card or else on one that computes on the CPU (``emulated_gpu``).

Asked is whether all data meet on one device, and whether the routes that only a GPU takes give what
the CPU gives.
"""

import itertools
import os
from functools import partial

import emulated_gpu
import numpy as np
import pytest
import torch
from conftest import RUN
from emulated_gpu import REAL, card

import speedlimits
from pipeline import kernels, trajectory
from pipeline.files import FINISHED, remove
from speedlimits.ensembles import EnsembleLoss
from speedlimits.gradient import TrainingLoss
from speedlimits.kernel import Cost
from speedlimits.networks import fully_connected, initialise_, myrtle5
from speedlimits.ntk_dynamics import predict

VISIBLE = "CUDA_VISIBLE_DEVICES"
SETTINGS = RUN | {"n": 8, "depth": 2, "width": 4, "final_time": 20}
MODELS = {
    "fully_connected": {},
    "myrtle5": {"width": 2},
    "residual_network": {"width": 2},
    "vision_transformer": {"depth": 1, "patch_size": 4},
}
DYNAMICS = {
    "gradient_flow": {},
    "gradient_descent": {},
    "heavy_ball": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9},
    "adam": {"momentum": 0.9, "learning_rate": 0.01, "learning_rate_unit": "absolute"},
    "sgd": {"batch_size": 4},
    "langevin": {"temperature": 0.01},
}


@pytest.mark.skipif(REAL, reason="a real card is there, and nothing is emulated")
def test_the_card_refuses_what_a_card_refuses():
    with card():
        there, here = torch.ones(3, device="cuda"), torch.ones(3)
        assert there.device.type == "cuda" and (2 * there).device == there.device
        for mixed in (lambda: there + here, lambda: here @ there, lambda: there.add_(here)):
            with pytest.raises(RuntimeError, match="on the CPU"):
                mixed()
        with pytest.raises(RuntimeError, match="generator is on the CPU"):
            torch.randn(3, device="cuda", generator=torch.Generator())
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
        torch.set_deterministic_debug_mode("error")
        image = torch.ones(1, 1, 6, 6, device="cuda", requires_grad=True)
        with pytest.raises(RuntimeError, match="deterministic implementation"):
            torch.nn.functional.adaptive_avg_pool2d(image, 4).sum().backward()
        assert (there.cpu() + here).tolist() == [2, 2, 2]
        there.mul_(3)[0] = 5
        assert there.tolist() == [5, 3, 3]


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_training_on_a_card_is_that_on_the_cpu(train_with, dynamics):
    settings = SETTINGS | {"dynamics": dynamics} | DYNAMICS[dynamics]
    wanted = train_with(settings)
    with card():
        found = train_with(settings)
    assert found.attrs["device"].startswith("cuda: ")
    assert REAL or found.attrs["device"] == "cuda: emulated"
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-7, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("dynamics", ("gradient_flow", "sgd"))
def test_training_that_stops_on_a_card_continues_there_to_the_same_bits(
    train_with, monkeypatch, tmp_path, dynamics
):
    settings = SETTINGS | {"dynamics": dynamics, "final_time": 3} | DYNAMICS[dynamics]
    save, saved = trajectory._save, itertools.count()

    def stopping(*state):
        save(*state)
        if next(saved) == 4:
            raise RuntimeError("stopped")

    with card():
        with monkeypatch.context() as patch:
            patch.setattr(trajectory, "CHECKPOINT_SECONDS", -1.0)
            patch.setattr(trajectory, "WRITE_SHARE", -1.0)
            patch.setattr(trajectory, "_save", stopping)
            with pytest.raises(SystemExit):
                train_with(settings)
        continued = train_with(settings)
        assert "continu" in (tmp_path / "job.log").read_text()
        remove(tmp_path / "snapshots.json")
        remove(tmp_path / "snapshots.zarr")
        remove(tmp_path / FINISHED)
        whole = train_with(settings)
        assert "continu" not in (tmp_path / "job.log").read_text()
    for name in whole:
        np.testing.assert_array_equal(continued[name], whole[name], err_msg=name)


def test_a_pass_of_convolutions_takes_a_quarter_of_the_card():
    """Twelve times the largest activation a sample, of which eleven were measured."""
    build = partial(myrtle5, input_shape=(3, 32, 32), outputs=2, parameterisation="ntk")
    networks = [build(width=width) for width in (8, 512)]
    inputs, targets = torch.zeros(2, 3, 32, 32), torch.zeros(2, 2)
    with card():
        memory = torch.cuda.get_device_properties(torch.device("cuda")).total_memory
        there = [x.to("cuda") for x in (inputs, targets)]
        for width, network in zip((8, 512), networks, strict=True):
            loss = TrainingLoss(network.to("cuda"), *there)
            sample = 12 * 4 * width * 32 * 32
            assert loss.micro_batch == min(2500, memory // (4 * sample))
            assert not loss.channels_last


@pytest.mark.parametrize("model", ("myrtle5", "residual_network", "vision_transformer"))
def test_two_jobs_on_a_card_give_the_same_bits_in_float32(train_with, spectrum_with, model):
    settings = SETTINGS | MODELS[model] | {"model": model, "precision": "float32"}
    with card():
        for run in (train_with, spectrum_with):
            found = [run(settings) for _ in range(2)]
            for name in found[0]:
                first, second = (file[name].values for file in found)
                np.testing.assert_array_equal(first, second, err_msg=name)


def test_few_samples_of_a_plain_chain_are_one_graph_and_others_are_not(monkeypatch):
    model = {"input_shape": (1, 4, 4), "outputs": 2, "width": 2, "parameterisation": "ntk"}
    chain, other = fully_connected(**model, depth=2), torch.nn.Linear(16, 2)
    inputs, targets = torch.zeros(600, 1, 4, 4), torch.zeros(600, 2)
    assert not TrainingLoss(chain, inputs[:3], targets[:3]).as_one_graph  # on the CPU
    with card():
        monkeypatch.setattr("speedlimits.gradient.GRAPH_SAMPLES", 512)
        x, y, chain, other = (part.to("cuda") for part in (inputs, targets, chain, other))
        assert TrainingLoss(chain, x[:512], y[:512]).as_one_graph
        assert not TrainingLoss(chain, x[:513], y[:513]).as_one_graph
        assert not TrainingLoss(other, x[:3].flatten(1), y[:3]).as_one_graph


@pytest.mark.skipif(not REAL, reason="CUDA graphs need a real card")
def test_gradients_as_one_graph_are_those_of_single_operations():
    network, inputs = torch.nn.Linear(3, 2, bias=False), torch.ones(5, 3)
    targets, weights = torch.zeros(5, 2), torch.arange(6.0)
    wanted = TrainingLoss(network, inputs, targets).loss_and_gradient(weights)
    with card():
        there = [x.to("cuda") for x in (inputs, targets)]
        loss = TrainingLoss(network.to("cuda"), *there, cuda_graph=True)
        for scale in (1, 2, 1):  # the first call captures, the others replay
            value, gradient = loss.loss_and_gradient(scale * weights.to("cuda"))
        some = loss.loss_and_gradient(weights.to("cuda"), torch.tensor([0, 2]).to("cuda"))
    assert value == pytest.approx(wanted[0]) and some[0] == pytest.approx(0.4 * wanted[0])
    torch.testing.assert_close(gradient.cpu(), wanted[1])
    torch.testing.assert_close(some[1].cpu(), 0.4 * wanted[1])


@pytest.mark.parametrize(("before", "kept"), [(None, "0,1"), ("1", "1")])
def test_workers_of_xdist_see_the_card_that_their_parent_hid(monkeypatch, before, kept):
    for name in ("CUDA_VISIBLE_DEVICES", emulated_gpu.HIDDEN):
        monkeypatch.delenv(name, raising=False)
    if before:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    seen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "init", lambda: seen.append(os.environ.get(VISIBLE)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: os.environ.get(VISIBLE) != "")
    for _process in ("parent", "worker"):
        assert emulated_gpu.hide_real_card()
        assert os.environ[VISIBLE] == "" and os.environ[emulated_gpu.HIDDEN] == kept
    assert seen == [before, kept]


@pytest.mark.parametrize(
    ("model", "route"),
    [(m, "explicit") for m in MODELS] + [("fully_connected", r) for r in Cost._fields[1:]],
)
def test_spectra_on_a_card_are_those_on_the_cpu(spectrum_with, monkeypatch, model, route):
    costs = dict.fromkeys(Cost._fields, 1.0) | {route: 0.0}
    monkeypatch.setattr(kernels, "spectrum_cost", lambda *_: Cost(**costs))
    limits = {"quadrature": (1, 1), "stored": (1, 1000)}.get(route, (1000, 1000))
    limits = dict(zip(("full_rows_limit", "stored_rows_limit"), limits, strict=True))
    settings = SETTINGS | {"model": model} | MODELS[model] | limits
    wanted = spectrum_with(settings)
    with card():
        found = spectrum_with(settings)
    same_spectra(found, wanted)


def same_spectra(found, wanted, tolerance=1e-6):
    """Hold sums over spectra, which do not depend on the basis of degenerate modes, and scalars."""
    assert set(found) == set(wanted)
    for name in wanted:
        if name.startswith("eigenvalues_"):
            kind = name.removeprefix("eigenvalues_")
            times = np.logspace(-1, 2, 20) / wanted[name].values[0]
            sums, expected = (
                predict(file[name].values, file[f"residue_projections_{kind}"].values, times)
                for file in (found, wanted)
            )
            for word in ("loss_drop", "geodesic_length_squared", "path_length"):
                np.testing.assert_allclose(sums[word], expected[word], rtol=tolerance)
        elif wanted[name].ndim == 0 and not name.startswith(("noise_floor", "error_")):
            np.testing.assert_allclose(found[name], wanted[name], rtol=tolerance, err_msg=name)


@pytest.mark.parametrize("weights", ("few", "many"))
def test_kernel_at_the_end_and_its_drift_on_a_card(train_with, spectrum_with, weights):
    width = {"few": 2, "many": 40}[weights]
    settings = SETTINGS | {"width": width, "precision": "float64"}
    wanted_run = train_with(settings)
    end = settings | {"moment": "end"}
    wanted = spectrum_with(end, manifest="snapshots.json")
    # With 2 channels for 10 outputs the kernel has equal eigenvalues across the tenth.
    assert np.isnan(wanted["overlap_full"]) == (weights == "few")
    assert float(wanted["drift_full"]) > 0.01 and len(wanted_run["time"]) > 5
    with card():
        found = spectrum_with(end, manifest="snapshots.json")
    same_spectra(found, wanted, tolerance=1e-6)


def test_stacked_networks_and_measurements_on_a_card():
    generator = torch.Generator().manual_seed(3)
    shape, outputs = (1, 4, 4), 2
    inputs = torch.randn(6, *shape, generator=generator, dtype=torch.float64)
    targets = torch.randn(6, outputs, generator=generator, dtype=torch.float64)

    def networks():
        made = [fully_connected(input_shape=shape, outputs=outputs, width=5, depth=2,
                                parameterisation="ntk") for _ in range(3)]  # fmt: skip
        for seed, network in enumerate(made):
            initialise_(network, torch.Generator().manual_seed(seed)).double()
        return made

    together = EnsembleLoss(networks(), inputs, targets)
    losses, gradients = together.losses_and_gradients(together.weights)
    snapshots = torch.stack([together.weights[0] - t * gradients[0] for t in (0, 0.01, 0.02)])
    wanted = speedlimits.measure(networks()[0], inputs, targets, snapshots, [0, 0.01, 0.02])
    with card():
        x, y = inputs.to("cuda"), targets.to("cuda")
        there = EnsembleLoss([n.to("cuda") for n in networks()], x, y)
        found = there.losses_and_gradients(there.weights)
        assert found[1].device.type == "cuda"
        torch.testing.assert_close(found[0].cpu(), losses)
        torch.testing.assert_close(found[1].cpu(), gradients)
        network = networks()[0].to("cuda")
        measured = speedlimits.measure(network, x, y, snapshots.to("cuda"), [0, 0.01, 0.02])
    for a, b in zip(measured, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8)
