"""The library's measure of any network: closed form, equal input forms, refusals, the example."""

import copy
import itertools
import math
import os
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import speedlimits

N, D, C = 12, 5, 2


@pytest.fixture
def linear():
    """Exact gradient flow of f = W x: network, inputs, targets, flat weights, times, modes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, D, generator=generator, dtype=torch.float64)
    y = torch.randn(N, C, generator=generator, dtype=torch.float64)
    network = nn.Linear(D, C, bias=False).double()
    start = network.weight.detach().numpy().copy()
    values, vectors = np.linalg.eigh(x.numpy().T @ x.numpy())
    best = np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)[0].T
    times = np.array([0.0, 0.01, 0.1, 1.0])
    weights = np.stack(
        [(best + (start - best) @ vectors * np.exp(-values * t) @ vectors.T).ravel() for t in times]
    )
    return network, x, y, weights, times


def test_linear_gradient_flow_has_the_closed_form_and_is_predicted_exactly(linear):
    network, x, y, weights, times = linear
    found = speedlimits.measure(network, x, y, weights, times)
    losses = [0.5 * np.sum((x.numpy() @ w.reshape(C, D).T - y.numpy()) ** 2) for w in weights]
    drop = losses[0] - np.array(losses[1:])
    squared = np.sum((weights[1:] - weights[0]) ** 2, axis=1)
    np.testing.assert_allclose(found.loss_drop, drop)
    np.testing.assert_allclose(found.speed_limit_time, squared / drop)
    np.testing.assert_allclose(found.inefficiency, times[1:] * drop / squared)
    # The kernel of a linear network is constant: its prediction is the truth.
    np.testing.assert_allclose(found.inefficiency_predicted, found.inefficiency, rtol=1e-7)
    assert np.all(found.inefficiency >= 1) and np.all(found.time >= found.speed_limit_time)
    assert np.all(found.chord_length >= found.geodesic_length * (1 - 1e-12))
    np.testing.assert_allclose(found.loss, losses[1:])
    chords = [np.sqrt(np.sum((b - a) ** 2)) for a, b in itertools.pairwise(weights)]
    np.testing.assert_allclose(found.chord_length, [sum(chords[:k]) for k in (1, 2, 3)])
    assert found.chord_length[-1] > 1.001 * found.geodesic_length[-1]  # the path is bent


def test_the_clock_may_start_at_any_time(linear):
    network, x, y, weights, times = linear
    found = speedlimits.measure(network, x, y, weights, times)
    later = speedlimits.measure(network, x, y, weights, times + 5.0)
    for a, b in zip(found, later, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_the_prediction_is_from_the_first_snapshot_whatever_follows():
    network = nn.Sequential(nn.Linear(D, 5), nn.ReLU(), nn.Linear(5, C))
    flat = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
    weights = torch.stack([flat, 0.9 * flat, 0.2 * flat])
    whole = speedlimits.measure(network, X, Y, weights, [0, 1, 2])
    part = speedlimits.measure(network, X, Y, weights[:2], [0, 1])
    np.testing.assert_allclose(
        whole.inefficiency_predicted[0], part.inefficiency_predicted[0], rtol=1e-6
    )


def test_state_dicts_of_several_arrays_are_in_the_order_of_the_parameters():
    """Not in that of their names, by which a bias would come before its weight."""
    network = nn.Linear(D, C)
    states = [copy.deepcopy(network.state_dict()) for _ in range(2)]
    for value in states[1].values():
        value *= 0.9
    flat = [torch.cat([state["weight"].flatten(), state["bias"]]) for state in states]
    named, given = (speedlimits.measure(network, X, Y, s, [0, 1]) for s in (states, flat))
    for a, b in zip(named, given, strict=True):
        np.testing.assert_array_equal(a, b)
    outputs = X @ states[1]["weight"].T + states[1]["bias"]
    np.testing.assert_allclose(named.loss, 0.5 * (outputs - Y).square().sum(), rtol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_one_linear_layer_of_many_outputs_is_predicted(seed):
    """Its kernel has every eigenvalue once per output, which one of LAPACK's solvers refuses."""
    torch.manual_seed(seed)
    x, y = torch.randn(64, 64), torch.eye(10)[torch.randint(10, (64,))]
    network = nn.Linear(64, 10, bias=False)
    start, time = network.weight.detach().clone(), 1e-5
    step = time * (y - x @ start.T).T @ x
    found = speedlimits.measure(
        network, x, y, torch.stack([start, start + step]).flatten(1), [0.0, time]
    )
    np.testing.assert_allclose(found.inefficiency_predicted, found.inefficiency, rtol=0.01)


def test_state_dicts_and_flat_weights_say_the_same_and_the_network_is_left_alone(linear):
    network, x, y, weights, times = linear
    before = network.weight.detach().clone()
    states = [{"weight": torch.from_numpy(w.reshape(C, D))} for w in weights]
    flat = speedlimits.measure(network, x, y, weights, times, kernel=False)
    named = speedlimits.measure(network, x, y, states, times, kernel=False)
    for a, b in zip(flat, named, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.isnan(flat.inefficiency_predicted).all()
    assert torch.equal(network.weight, before)


def test_whatever_holds_the_same_numbers_measures_the_same(linear):
    """NumPy arrays, one-pass iterators, targets of a graph, weights laid out in another order."""
    network, x, y, weights, times = linear
    flat = speedlimits.measure(network, x, y, weights, times)
    strided = nn.Linear(D, C, bias=False).double()
    strided.weight = nn.Parameter(network.weight.detach().T.contiguous().T)
    assert not strided.weight.is_contiguous()
    graph = y.clone().requires_grad_()
    states = ({"weight": w.reshape(C, D)} for w in weights)
    for others in [
        (network, x.numpy(), y.numpy(), iter(weights), torch.from_numpy(times)),
        (network, x, graph, states, times),
        (strided, x, y, torch.from_numpy(weights).requires_grad_(), times),
    ]:
        for a, b in zip(flat, speedlimits.measure(*others), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)
    half = torch.from_numpy(weights).bfloat16()
    a, b = (speedlimits.measure(network, x, y, w, times) for w in (half, half.double()))
    np.testing.assert_array_equal(a.inefficiency, b.inefficiency)


class Random(nn.Linear):
    def forward(self, x):
        return super().forward(x) + torch.randn(len(x), self.out_features)


class Mean(nn.Linear):
    def forward(self, x):
        return super().forward(x - x.mean(dim=0))


class Recurrent(nn.LSTM):
    def forward(self, x):
        return super().forward(x[:, :, None])[0][:, -1]


def frozen():
    network = nn.Linear(D, C)
    network.bias.requires_grad_(False)
    return network


class Counting(nn.Module):
    """Its gradient is divided by how often a word comes in a batch: it is not that of any loss."""

    def __init__(self):
        super().__init__()
        self.words, self.last = nn.Embedding(7, 4, scale_grad_by_freq=True), nn.Linear(4, C)

    def forward(self, x):
        return self.last(self.words(x.long()).sum(1))


class Alone(nn.Linear):
    def forward(self, x):
        if torch.is_grad_enabled() and len(x) == 1:
            raise RuntimeError("no single sample, please")
        return super().forward(x)


X, Y = torch.randn(N, D, generator=torch.Generator().manual_seed(1)), torch.zeros(N, C)
BAD = [
    (
        nn.Sequential(nn.Linear(D, C), nn.BatchNorm1d(C)),
        X,
        Y,
        "1 is batch normalisation",
    ),
    (nn.Sequential(nn.Linear(D, C), nn.Dropout(0.5)), X, Y, "is random"),
    (Random(D, C), X, Y, "is random"),
    (Mean(D, C), X, Y, "depends on the others of its batch"),
    (nn.Linear(D, C), np.ma.masked_greater(X.numpy(), 1.0), Y, "inputs are masked at [1-9]"),
    (frozen(), X, Y, "bias are frozen"),
    (nn.Flatten(), X, Y, "no weights"),
    (nn.Linear(D, C + 1), X, Y, r"must give \(8, 2\)"),
    (nn.LSTM(D, C), X, Y, "tuple"),
    (nn.Linear(D, C), DataLoader(TensorDataset(X, Y)), Y, "inputs are of type DataLoader"),
    (nn.Linear(D, C), X, None, "targets are of type NoneType"),
    (torch.inference_mode()(nn.Linear)(D, C), X, Y, "made under torch.inference_mode"),
    (nn.LazyLinear(C), X, Y, "the weights weight have no values yet"),
    (nn.Linear(D, C), X.long(), Y, "inputs are torch.int64"),
    (Counting(), torch.arange(N * D).view(N, D) % 7.0, Y, "do not add up .* kernel=False measures"),
    (nn.Linear(D, C), X[0, 0], Y, "inputs are of type Tensor; give a tensor or array of numbers"),
    (nn.Linear(D, C), X.to_sparse(), Y, "inputs are sparse"),
    (nn.Linear(D, C), pd.DataFrame(X.numpy()), Y, "inputs are of type DataFrame"),
    (nn.Linear(D, C).bfloat16(), 300 + torch.arange(N * D).view(N, D).float(), Y, "bfloat16, the"),
    (nn.Linear(D, C).half(), 2049.0 * torch.ones(N, D), Y, "hold; measure in torch.float32"),
    (nn.Linear(D, C).half(), 2.0**24 + torch.ones(N, D).double(), Y, "beyond .* torch.float64"),
    (nn.Linear(D, C), 1e200 * X.double(), Y, "reach .*e[+]200, beyond torch.float32, .*float64"),
    (nn.Linear(D, C), 1e-60 * X.double(), Y, "are at most .*e-60, too small for torch.float32"),
    (nn.Linear(D, C), 1e9 + X.double(), Y, "changes .* by .*%; subtract a constant, or measure"),
    (nn.Linear(D, C), X, Y[:-1], "one row per input"),
    (nn.Linear(D, C), X, Y[:, 0], "one row per input"),
    (nn.Linear(D, C), X[:0], Y[:0], "there are no inputs"),
    (nn.Linear(D, C), X, Y * math.nan, "targets hold 24 values that are not finite"),
    (nn.Linear(D, C), X, Y + 1j, "targets are torch.complex64"),
    (nn.Linear(D, C), torch.cat([X[:-1], X[-1:] / 0]), Y, "inputs hold 5 values that are not"),
    (torch.jit.trace(nn.Linear(D, C), X), X, Y, "compiled by torch.jit"),
    (nn.DataParallel(nn.Linear(D, C)), X, Y, "give the network inside, network.module"),
    (nn.utils.weight_norm(nn.Linear(D, C)), X, Y, "network cannot be copied"),
    (nn.Sequential(nn.Linear(D, 3), nn.Linear(3, C).double()), X, Y, "have several precisions"),
    (nn.Linear(D, C, device="meta"), X, Y, "the weights weight have no values yet"),
    (nn.BatchNorm1d(D), X, torch.zeros(N, D), "the layer BatchNorm1d is batch normalisation"),
    (
        nn.Sequential(Alone(D, C), nn.PReLU()),
        X,
        Y,
        "torch takes no derivatives of single samples .*no single sample.* kernel=False",
    ),
]


def test_recurrent_layers_are_predicted_by_the_sums_over_their_spectrum():
    """Of descent in small steps; all derivatives of the reference are those of the batch."""
    torch.manual_seed(2)
    network, target = Recurrent(1, C, batch_first=True), 0.1 * torch.randn(N, C)
    weights, rate, steps = list(network.parameters()), 1e-4, 30
    rows = [torch.autograd.grad(f, weights, retain_graph=True) for f in network(X).flatten()]
    jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows]).double()
    values, vectors = torch.linalg.eigh(jacobian @ jacobian.T)
    residue = vectors.T @ (target - network(X)).detach().double().flatten()
    snapshots = [copy.deepcopy(network.state_dict())]
    for _ in range(steps):
        loss = 0.5 * (network(X) - target).square().sum()
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.data -= rate * gradient
    snapshots.append(network.state_dict())
    found = speedlimits.measure(network, X, target, snapshots, [0, rate * steps])
    left = torch.exp(-values * rate * steps)
    drop = 0.5 * (residue**2 * (1 - left**2)).sum()
    moved = values > 1e-9 * values[-1]
    squared = (residue[moved] ** 2 * (1 - left[moved]) ** 2 / values[moved]).sum()
    expected = float(rate * steps * drop / squared)
    np.testing.assert_allclose(found.inefficiency_predicted, expected, rtol=1e-3)
    np.testing.assert_allclose(found.inefficiency, expected, rtol=0.05)


@pytest.mark.parametrize(("network", "x", "y", "words"), BAD)
def test_what_has_no_speed_limit_is_refused_in_one_sentence(network, x, y, words):
    states = [copy.deepcopy(network.state_dict()) for _ in range(2)]
    with pytest.raises(ValueError, match=words) as caught:
        speedlimits.measure(network, x, y, states, [0, 1])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [1e18 * X.double(), torch.round(1e9 * X.double())])
def test_large_inputs_are_rounded_to_the_precision_of_the_weights(values):
    network, scale = nn.Linear(D, C), float(values.abs().max())
    last = copy.deepcopy(network.state_dict())
    last["weight"] = last["weight"] + 1e-3 * torch.randn(C, D) / scale
    states = [copy.deepcopy(network.state_dict()), last]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, rounded = (
            speedlimits.measure(network, x, scale * Y, states, [0, 1 / scale**2])
            for x in (values, values.float())
        )
    np.testing.assert_array_equal(found.loss, rounded.loss)


def test_the_callers_network_and_inputs_are_left_as_they_are():
    """Even those of networks that would change them, which are refused."""

    class Clamping(nn.Linear):
        def forward(self, x):
            with torch.no_grad():
                self.weight.clamp_(-0.1, 0.1)
            return super().forward(x)

    for network, words in (
        (Clamping(D, C), "the weights weight change when the network is called"),
        (nn.Sequential(nn.ReLU(inplace=True), nn.Linear(D, C)), "changes its inputs in place"),
    ):
        before, x = copy.deepcopy(network.state_dict()), X.clone()
        states = [copy.deepcopy(before) for _ in range(2)]
        with pytest.raises(ValueError, match=words):
            speedlimits.measure(network, x, Y, states, [0, 1])
        assert torch.equal(x, X)
        assert all(torch.equal(v, before[name]) for name, v in network.state_dict().items())


@pytest.mark.parametrize("snapshots", [None, 3, nn.Linear(D, C), nn.Linear(D, C).state_dict()])
def test_snapshots_are_a_list(snapshots):
    with pytest.raises(ValueError, match="the snapshots are a .*; give a list, one entry for each"):
        speedlimits.measure(nn.Linear(D, C), X, Y, snapshots, [0, 1])


def test_arrays_and_times_of_any_layout_are_numbers():
    network = nn.Linear(D, C)
    flat = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
    weights = torch.stack([flat, 0.9 * flat])
    plain = speedlimits.measure(network, X, Y, weights, [0, 1])
    backwards = X.numpy()[::-1].copy()[::-1]
    foreign = Y.numpy().astype(">f4")
    times = torch.tensor([0.0, 1.0], requires_grad=True)
    found = speedlimits.measure(network, backwards, foreign, weights, times)
    for a, b in zip(found, plain, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_mode_of_the_caller_makes_no_difference(mode):
    network, times = nn.Sequential(nn.Linear(D, 5), nn.ReLU(), nn.Linear(5, C)), [0, 1]
    flat = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
    weights = torch.stack([flat, 0.9 * flat])
    plain = speedlimits.measure(network, X, Y, weights, times)
    with mode():
        states = weights.clone()
        for snapshots in (states, states.double()):
            found = speedlimits.measure(network, X.clone(), Y.clone(), snapshots, times)
            np.testing.assert_array_equal(found.inefficiency, plain.inefficiency)
            np.testing.assert_array_equal(
                found.inefficiency_predicted, plain.inefficiency_predicted
            )
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"network": nn.Linear}, "the network is Linear; give an instance"),
        ({"network": None}, "the network is NoneType"),
        ({"times": ["a", "b"]}, "the times are no numbers"),
        ({"memory_bytes": "2GB"}, "memory_bytes is '2GB'; give a positive whole number"),
        ({"memory_bytes": 0}, "memory_bytes is 0"),
        ({"snapshots": [list(nn.Linear(D, C).parameters())] * 2}, "list of several arrays"),
        (
            {"network": nn.DataParallel(nn.Linear(D, C))},
            "holds weight: measure the network without",
        ),
    ],
)
def test_arguments_of_a_wrong_kind_are_told_in_a_sentence(changed, words):
    network = nn.Linear(D, C)
    states = [{k: v + s for k, v in network.state_dict().items()} for s in (0.0, 0.1)]
    given = {"network": network, "inputs": torch.randn(4, D), "targets": torch.randn(4, C)}
    given |= {"snapshots": states, "times": [0, 1]} | changed
    with pytest.raises(ValueError, match=words):
        speedlimits.measure(**given)


@pytest.mark.parametrize(
    ("snapshots", "times", "words"),
    [
        (np.zeros((3, 7)), [0, 1, 2], r"must be \(snapshots, 12\)"),
        (np.zeros((2, 12)), [0, 1, 2], "one for each of the 2 snapshots"),
        (np.zeros((3, 12)), [1, 2, 0], "time 2 is 0, not above 2 before it; times must increase"),
        (np.zeros((2, 12)), [1, 1], "must increase"),
        (np.zeros((1, 12)), [1], "there is 1 snapshot; there must be at least 2"),
        ([{"weight": torch.zeros(C, D)}] * 2, [0, 1], "lacks the weights bias"),
        ([], [], "there must be at least 2"),
        (np.zeros((2, 12)), [0, math.inf], "times hold values that are not finite"),
        (np.array([[0.0] * 12, [math.nan] * 12]), [0, 1], "snapshot 1 holds 12 values that are"),
        (np.zeros((2, 12)) + 1j, [0, 1], "snapshots are complex"),
        (np.array([["0"] * 12] * 2), [0, 1], "snapshots are no numbers"),
        ([[torch.zeros(C, D), torch.zeros(C)]] * 2, [0, 1], "list of several arrays"),
        (
            [{f"module.{k}": v for k, v in nn.Linear(D, C).state_dict().items()}] * 2,
            [0, 1],
            r"lacks the weights weight of the network \(it holds module.weight: remove the prefix",
        ),
        ({0: np.zeros(12), 1: np.zeros(12)}, [0, 1], "snapshots are a dict"),
        ([nn.Linear(D, C)] * 2, [0, 1], "snapshots are Linear"),
        (
            # as many numbers as there are weights, in another order
            [{"weight": torch.zeros(D, C), "bias": torch.zeros(C)} for _ in range(2)],
            [0, 1],
            r"snapshot 0 gives weight the shape \(5, 2\), the network \(2, 5\)",
        ),
        (
            [nn.Linear(D, C).state_dict() | {"scale": torch.ones(1)} for _ in range(2)],
            [0, 1],
            "snapshot 0 holds scale, which the network does not have",
        ),
    ],
)
def test_snapshots_that_do_not_fit_are_refused(snapshots, times, words):
    with pytest.raises(ValueError, match=words):
        speedlimits.measure(nn.Linear(D, C), X, Y, snapshots, times)


def test_the_weights_of_now_may_have_diverged_after_the_snapshots(linear):
    network, x, y, snapshots, times = linear
    before = speedlimits.measure(network, x, y, snapshots, times)
    nn.init.constant_(network.weight, math.nan)
    after = speedlimits.measure(network, x, y, snapshots, times)
    np.testing.assert_array_equal(before.inefficiency, after.inefficiency)
    assert network.weight.isnan().all()


def test_networks_that_compute_with_the_weights_of_another_are_refused(linear):
    network, x, y, weights, times = linear
    original = nn.Linear(D, C, bias=False).double()
    network.forward = lambda h: h @ original.weight.T  # as its own, until it is copied
    network.weight = original.weight
    with pytest.raises(ValueError, match=r"weights of shape \(2, 5\) decide the outputs but"):
        speedlimits.measure(network, x, y, weights, times)


def test_what_no_gradient_flow_does_is_warned_of(linear):
    network, x, y, weights, times = linear
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        speedlimits.measure(network, x, y, weights, times)
    with pytest.warns(UserWarning, match="are snapshots and times in order") as caught:
        speedlimits.measure(network, x, y, np.flip(weights, 0).copy(), times)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match=r"T/T_SL is 0\.\d+ at time .* units of the times"):
        speedlimits.measure(network, x, y, weights, 0.1 * np.asarray(times))
    swapped = np.asarray(weights)[[*range(len(weights) - 2), -1, -2]]
    with pytest.warns(UserWarning, match="the loss rises from .* which gradient flow never does"):
        speedlimits.measure(network, x, y, swapped, times)
    stopped = np.asarray(weights)[[0, 1, 1, *range(3, len(weights))]]
    with pytest.warns(UserWarning, match="the snapshots 1 and 2 are the same weights"):
        speedlimits.measure(network, x, y, stopped, times)
    mean = y.numel() / 2  # what MSELoss leaves out of the times
    with pytest.warns(UserWarning, match=r"by the NTK of the first .* c = 2 / \(N C\)"):
        speedlimits.measure(network, x, y, weights, mean * np.asarray(times))


@pytest.mark.parametrize(("lowest", "warns"), [(0.92, False), (0.88, True)])
def test_a_gain_of_more_than_a_tenth_at_any_time_is_warned_of(linear, lowest, warns):
    """Descent at a tenth of its stability limit has T/T_SL = 0.9 in its first step."""
    network, x, y, weights, times = linear
    ratios = speedlimits.measure(network, x, y, weights, times).inefficiency
    scaled = lowest / ratios.min() * times
    assert ratios[-1] * lowest / ratios.min() > 1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        speedlimits.measure(network, x, y, weights, scaled)
    assert any("T/T_SL is 0.88" in str(each.message) for each in caught) == warns
    assert warns or not caught


def test_snapshots_that_are_all_the_weights_of_now_are_refused():
    """What ``snapshots.append(network.state_dict())`` collects, which would give NaN throughout."""
    network, snapshots = nn.Linear(D, C), []
    for _ in range(2):
        snapshots.append(network.state_dict())
        with torch.no_grad():
            network.weight += 1
    with pytest.raises(ValueError, match=r"copy.deepcopy\(network.state_dict\(\)\)"):
        speedlimits.measure(network, X, Y, snapshots, [0, 1])


class Tied(nn.Module):
    """Two layers that are one weight, or two weights in one memory."""

    def __init__(self, tie):
        super().__init__()
        self.a, self.b = nn.Linear(D, D, bias=False), nn.Linear(D, D, bias=False)
        if tie == "one":
            self.b.weight = self.a.weight
        elif tie == "data":
            self.b.weight.data = self.a.weight.data
        else:
            self.b.weight = nn.Parameter(self.a.weight.detach().T)

    def forward(self, x):
        return self.b(self.a(x).tanh())


@pytest.mark.parametrize("tie", ["data", "transposed"])
def test_weights_that_share_memory_are_refused_though_a_copy_gives_each_its_own(tie):
    network = Tied(tie)
    states = [copy.deepcopy(network.state_dict()) for _ in range(2)]
    with pytest.raises(ValueError, match="a.weight and b.weight share memory"):
        speedlimits.measure(network, X, torch.zeros(N, D), states, [0, 1])


def test_one_weight_at_two_places_has_one_value_in_each_snapshot():
    network, y = Tied("one"), torch.zeros(N, D)
    states = [copy.deepcopy(network.state_dict())]
    loss = 0.5 * (network(X) - y).square().sum()
    (gradient,) = torch.autograd.grad(loss, network.parameters())
    states.append({name: value - 1e-5 * gradient for name, value in states[0].items()})
    found = speedlimits.measure(network, X, y, states, [0, 1e-5])
    assert found.geodesic_length[0] == pytest.approx(1e-5 * float(gradient.norm()), rel=1e-3)
    states[1]["b.weight"] = states[0]["b.weight"]
    with pytest.raises(ValueError, match="snapshot 1 gives a.weight and b.weight different values"):
        speedlimits.measure(network, X, y, states, [0, 1])


def test_a_snapshot_from_before_a_lazy_layer_has_weights_is_told():
    network = nn.Sequential(nn.LazyLinear(C))
    states = [copy.deepcopy(network.state_dict())]
    network(X)
    states.append(copy.deepcopy(network.state_dict()))
    with pytest.raises(ValueError, match="snapshot 0 has no values yet for 0.weight .*call the"):
        speedlimits.measure(network, X, Y, states, [0, 1])


def test_a_state_beside_the_weights_must_not_change_along_the_snapshots():
    """A normalisation trained with batches and measured in eval mode is another loss each time."""
    network = nn.Sequential(nn.Linear(D, C), nn.BatchNorm1d(C)).eval()
    snapshots = [copy.deepcopy(network.state_dict())]
    network.train()(X)
    snapshots.append(copy.deepcopy(network.eval().state_dict()))
    with pytest.raises(ValueError, match="buffer 1.running_mean of snapshot 0 differs"):
        speedlimits.measure(network, X, Y, snapshots, [0, 1])


def test_import_is_light_and_the_example_runs():
    environment = os.environ | {"PYTHONPATH": str(ROOT / "scripts"), "OMP_NUM_THREADS": "1"}
    light = (
        "import sys, speedlimits; assert 'measure' in dir(speedlimits)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", light], env=environment, check=True)
    script = ROOT / "examples/measure_your_network.py"
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 15
    ratios = [float(line.split("T/T_SL")[1].split()[0]) for line in lines]
    assert all(ratio >= 1 for ratio in ratios)


def test_a_network_that_mixes_samples_of_larger_batches_only_has_no_prediction():
    class Mixes(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(D, C)

        def forward(self, x):
            f = self.layer(x)
            return f if len(x) <= 8 else f - f.mean(dim=0)

    torch.manual_seed(0)
    network, x, y = Mixes(), torch.randn(20, D), torch.randn(20, C)
    start = nn.utils.parameters_to_vector(network.parameters()).detach()
    snapshots = torch.stack([start, 0.9 * start])
    with pytest.raises(ValueError, match="mix samples.*kernel=False measures without"):
        speedlimits.measure(network, x, y, snapshots, [0, 1])
    assert np.isfinite(speedlimits.measure(network.layer, x, y, snapshots, [0, 1]).inefficiency)
