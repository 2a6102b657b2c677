"""The NTK against the explicit float64 Jacobian, for every route, layout and memory budget."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import torch.utils.checkpoint
from reference_jacobians import finite_difference_jacobian, reverse_jacobian
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

SCRIPTS = Path(__file__).parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from speedlimits import (  # noqa: E402
    blocks,
    gauss_newton,
    kernel,
    kernel_products,
    kernel_sequential,
    layers,
    networks,
)
from speedlimits.ensembles import EnsembleLoss  # noqa: E402
from speedlimits.jacobian import derivative_bytes, way_along_weights  # noqa: E402
from speedlimits.network_checks import check_derivatives  # noqa: E402
from speedlimits.spectrum import noise_floor  # noqa: E402

SAMPLES, OUTPUTS, SHAPE = 7, 3, (3, 8, 8)
OPTIONS = {"fully_connected": {"depth": 3}, "residual_network": {"depth": 2}}
ROUTES = ("structured", "torch_func")
CHAINS = ("fully_connected", "myrtle5", "myrtle7", "myrtle10")


def make_network(model: str, parameterisation: str = "ntk", width: int = 6) -> nn.Sequential:
    """Return a small float64 network at its random start."""
    network = networks.MODELS[model](
        input_shape=SHAPE,
        outputs=OUTPUTS,
        width=width,
        parameterisation=parameterisation,
        **OPTIONS.get(model, {}),
    )
    return networks.initialise_(network, torch.Generator().manual_seed(1)).double()


def make_inputs(samples: int = SAMPLES, seed: int = 2) -> Tensor:
    """Return inputs with a common mean, as images have."""
    generator = torch.Generator().manual_seed(seed)
    return 0.5 + torch.randn(samples, *SHAPE, generator=generator, dtype=torch.float64)


def jacobian(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return the dense Jacobian (N C, P) of the whole batch at once."""
    weights = {name: p.detach() for name, p in network.named_parameters()}
    parts = jacrev(lambda w: functional_call(network, w, (inputs,)))(weights)
    return torch.cat([part.flatten(2) for part in parts.values()], dim=2).flatten(0, 1)


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Return |value - reference|_F / |reference|_F."""
    return float((value - reference).norm() / reference.norm())


@pytest.fixture(params=CHAINS)
def network(request) -> nn.Sequential:
    """Return every chain of the library in turn."""
    return make_network(request.param)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("parameterisation", networks.PARAMETERISATIONS)
@pytest.mark.parametrize("model", CHAINS)
def test_full_traced_and_rectangular_equal_the_dense_reference(model, parameterisation, route):
    network, x, z = make_network(model, parameterisation), make_inputs(), make_inputs(4, seed=3)
    j, k = jacobian(network, x), jacobian(network, z)
    full, between = j @ j.T, j @ k.T
    assert relative_error(kernel.empirical_ntk(network, x, route=route), full) < 1e-12
    traced = kernel.empirical_ntk(network, x, traced=True, route=route)
    assert relative_error(traced, kernel.trace_outputs(full, OUTPUTS)) < 1e-12
    rectangular = kernel.empirical_ntk(network, x, other_inputs=z, route=route)
    assert rectangular.shape == (SAMPLES * OUTPUTS, 4 * OUTPUTS)
    assert relative_error(rectangular, between) < 1e-12
    rectangular = kernel.empirical_ntk(network, x, other_inputs=z, traced=True, route=route)
    assert relative_error(rectangular, kernel.trace_outputs(between, OUTPUTS)) < 1e-12


@pytest.mark.parametrize("other_samples", (None, 5))
def test_every_accepted_budget_gives_the_same_kernel(network, other_samples):
    x = make_inputs()
    z = None if other_samples is None else make_inputs(other_samples, seed=3)
    reference = kernel.empirical_ntk(network, x, other_inputs=z)
    least = int(_refusal(network, x, 1, z).split()[-1])
    assert str(least) in _refusal(network, x, least - 1, z)
    passes = set()
    for extra in (0, 2_000, 100_000, 10**9):
        sets = [x] if z is None else [x, z]
        plan = kernel_sequential._plan(
            list(network), sets, OUTPUTS, False, least + extra, torch.float64
        )
        passes.add(len(plan.passes))
        value = kernel.empirical_ntk(network, x, other_inputs=z, memory_bytes=least + extra)
        assert relative_error(value, reference) < 1e-13
    assert min(passes) == 1 < max(passes)


@pytest.mark.parametrize("traced", (False, True))
def test_a_plan_keeps_to_its_budget_with_the_factors_that_are_allocated(network, traced):
    """By the sum of its docstring, which the least budget exhausts."""
    layers, sets = list(network.float()), [make_inputs().float(), make_inputs(5, seed=3).float()]
    rows, columns = (len(x) * (1 if traced else OUTPUTS) for x in sets)
    each, _ = kernel_sequential._sweep_bytes(layers, sets[0][:1], OUTPUTS)

    def planned(budget):
        return kernel_sequential._plan(layers, sets, OUTPUTS, traced, budget, torch.float64)

    with pytest.raises(ValueError, match="needs at least") as refused:
        planned(1)
    least = int(str(refused.value).split()[-1])
    for extra in (0, 2_000, 100_000, 10**7):
        plan = planned(least + extra)
        fixed = 8 * rows * columns + kernel_sequential.LIBRARY_BYTES["cpu"] + plan.batch * each
        fixed += 4 * 8 * plan.panel * rows // SAMPLES * columns
        factors = [
            sum(
                factor.nbytes
                for piece, x in itertools.product(pieces, sets)
                for factor in kernel_sequential._empty_factors(
                    layers, piece, x, OUTPUTS, (torch.float32, torch.float64)
                )
            )
            for pieces in plan.passes
        ]
        assert fixed + max(factors) <= least + extra
        assert extra or fixed + max(factors) == least and plan.batch == plan.panel == 1


def _refusal(network: nn.Module, x: Tensor, budget: int, z: Tensor | None) -> str:
    """Return the message with which a budget is refused."""
    with pytest.raises(ValueError, match="needs at least") as caught:
        kernel.empirical_ntk(network, x, other_inputs=z, memory_bytes=budget)
    return str(caught.value)


@pytest.mark.parametrize("by_torch", (False, True))
@pytest.mark.parametrize(("panel", "batch"), [(1, 3), (2, 1), (3, 7), (7, 3)])
def test_panels_and_micro_batches_need_not_divide_the_samples(monkeypatch, panel, batch, by_torch):
    """Whichever library multiplies, by outputs or all at once, with rows cut at the diagonal."""
    monkeypatch.setattr(blocks, "torch_multiplies_faster", lambda: by_torch)
    monkeypatch.setattr(kernel_sequential, "LOOP_OPERATIONS", 0 if by_torch else 2**60)
    monkeypatch.setattr(blocks, "TRIANGLE_ROWS", 4)
    network, x = make_network("myrtle5"), make_inputs()
    reference = jacobian(network, x)
    make_plan = kernel_sequential._plan
    monkeypatch.setattr(
        kernel_sequential,
        "_plan",
        lambda *arguments: make_plan(*arguments)._replace(panel=panel, batch=batch),
    )
    full = kernel.empirical_ntk(network, x)
    assert relative_error(full, reference @ reference.T) < 1e-12
    traced = kernel.empirical_ntk(network, x.float().double(), traced=True)
    assert relative_error(traced, kernel.trace_outputs(full, OUTPUTS)) < 1e-6
    single = kernel.empirical_ntk(network.float(), x.float())
    assert relative_error(single, full) < 1e-5


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("traced", (False, True))
@pytest.mark.parametrize("others", (0, 5))
def test_progress_rises_from_nothing_to_all(route, traced, others):
    network, x = make_network("myrtle5"), make_inputs()
    z = make_inputs(others, seed=3) if others else None
    least = int(_refusal(network, x, 1, z).split()[-1])
    for budget in (least, 2**30) if route == "structured" else (2**30,):
        shares = []
        kernel.empirical_ntk(
            network,
            x,
            other_inputs=z,
            traced=traced,
            memory_bytes=budget,
            route=route,
            on_progress=shares.append,
        )
        assert shares[0] == 0.0 and shares[-1] == pytest.approx(1.0, abs=1e-12)
        assert shares == sorted(shares) and len(shares) >= 2
        assert route == "torch_func" or len(shares) > 5


@pytest.mark.parametrize("traced", [False, True])
def test_progress_counts_the_operations_of_products_as_torch_does(monkeypatch, traced):
    monkeypatch.setattr(blocks, "torch_multiplies_faster", lambda: True)  # which torch counts
    network, x, z = make_network("myrtle5"), make_inputs(), make_inputs(5, seed=3)
    told = []
    with FlopCounterMode(display=False) as counter:
        kernel.empirical_ntk(
            network,
            x,
            other_inputs=z,
            traced=traced,
            on_progress=lambda share: told.append((share, counter.get_total_flops())),
        )
    products = torch.tensor(told[-6:], dtype=torch.float64)  # of five layers, the last one first
    shares, counts = products.diff(dim=0).T
    if not traced:  # of the last convolution but for its sum over V_ao V_bo
        counts[1] -= 2 * OUTPUTS**2 * network[-1].weight.shape[1] * len(x) * len(z)
    total = counts / shares
    torch.testing.assert_close(total, total[:1].expand(5))
    sweeps = 2 * OUTPUTS * kernel.forward_operations(network, x[:1]) * (len(x) + len(z))
    assert float(products[0, 0] * total[0]) == pytest.approx(sweeps)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("traced", (False, True))
@pytest.mark.parametrize("others", (0, 5))
def test_a_kernel_stopped_after_any_part_continues_to_the_same_bits(route, traced, others):
    network, x = make_network("myrtle5").float(), make_inputs().float()
    z = make_inputs(others, seed=3).float() if others else None
    arguments = {"other_inputs": z, "traced": traced, "route": route}
    with pytest.raises(ValueError, match="needs at least") as refused:
        kernel.empirical_ntk(network, x, memory_bytes=1, **arguments)
    arguments["memory_bytes"] = int(str(refused.value).split()[-1]) + 2_000  # parts and passes
    states = []
    whole = kernel.empirical_ntk(
        network,
        x,
        **arguments,
        on_part=lambda part: states.append(part._replace(kernel=part.kernel.clone())),
    )
    assert [state.done for state in states] == list(range(1, len(states) + 1))
    assert len(states) > 5
    for state in states[:: max(len(states) // 8, 1)]:
        rest, shares = [], []
        found = kernel.empirical_ntk(
            network,
            x,
            **arguments,
            start_from=state._replace(kernel=state.kernel.clone()),
            on_part=lambda part, rest=rest: rest.append(part.done),
            on_progress=shares.append,
        )
        assert torch.equal(found, whole)
        assert rest == list(range(state.done + 1, len(states) + 1))  # nothing is repeated
        assert 0.0 not in shares
        assert not rest or shares[-1] == pytest.approx(1.0)
    other = states[0]._replace(kernel=torch.zeros(2, 2))
    with pytest.raises(ValueError, match="shape"):
        kernel.empirical_ntk(network, x, **arguments, start_from=other)
    rounded = states[0]._replace(kernel=states[0].kernel.float())  # sums go on in its dtype
    with pytest.raises(ValueError, match="dtype torch.float32"):
        kernel.empirical_ntk(network, x, **arguments, start_from=rounded)


def branched(model: str) -> nn.Module:
    """Return a network that is no chain, in float64 at its random start."""
    if model == "residual_network":
        return make_network(model)
    return networks.drawn_network(
        lambda: networks.vision_transformer(
            input_shape=SHAPE, outputs=OUTPUTS, width=8, depth=2, patch_size=4
        ),
        seed=3,
        dtype=torch.float64,
    )


def explicit_budget(network, jacobian, samples):
    """The bound that the docstring of the general route states, for blocks of so many samples."""
    weights = jacobian.shape[1]
    each = OUTPUTS * 8 * (weights + min(weights, kernel.CONVERTED_COLUMNS))
    batch = each + OUTPUTS * 8 * weights
    batch += derivative_bytes(network, make_inputs(), OUTPUTS)
    return (
        8 * len(jacobian) ** 2
        + samples * (3 * each // 2)
        + batch
        + 3 * (samples * OUTPUTS) ** 2 * 8
    )


def assert_kernels_equal(network, x, z, dense, tolerance):
    """Compare all kinds of kernels with those of a dense Jacobian of x and z together; J of x."""
    j, k = dense[: SAMPLES * OUTPUTS], dense[SAMPLES * OUTPUTS :]
    full = j @ j.T
    assert relative_error(kernel.empirical_ntk(network, x), full) < tolerance
    cross = kernel.empirical_ntk(network, x, other_inputs=z)
    assert relative_error(cross, j @ k.T) < tolerance
    traced = kernel.empirical_ntk(network, x, traced=True)
    assert relative_error(traced, kernel.trace_outputs(full, OUTPUTS)) < tolerance
    # Two samples per block: the bound that the docstring of the route states.
    budget = explicit_budget(network, j, 2)
    blocks = kernel.empirical_ntk(network, x, memory_bytes=budget)
    assert relative_error(blocks, full) < tolerance
    return j


@pytest.mark.parametrize("training", (True, False))
@pytest.mark.parametrize("model", ("residual_network", "vision_transformer"))
def test_networks_that_are_no_chains_equal_the_dense_reference(model, training):
    network, x, z = branched(model).train(training), make_inputs(), make_inputs(4, seed=3)
    assert kernel.choose_route(network, x).name == "torch_func"
    dense = reverse_jacobian(network, torch.cat([x, z]))
    j = assert_kernels_equal(network, x, z, dense, 1e-12)
    value = kernel_products.largest_eigenvalue(network, x, relative_tolerance=1e-8)
    assert value == pytest.approx(float(torch.linalg.eigvalsh(j @ j.T)[-1]), rel=1e-7)


def test_chains_that_end_in_a_relu_or_begin_with_a_pool_equal_the_dense_reference():
    layers = [
        nn.AvgPool2d(2), networks.ScaledConv2d(SHAPE[0], 4, 1.0, "ntk"), nn.AvgPool2d(2),
        nn.Flatten(), networks.ScaledLinear(16, OUTPUTS, 1.0, "ntk"), nn.ReLU(),
    ]  # fmt: skip
    network = networks.initialise_(nn.Sequential(*layers).double(), torch.Generator())
    x = make_inputs()
    j = jacobian(network, x)
    assert kernel.choose_route(network, x).name == "structured"
    assert relative_error(kernel.empirical_ntk(network, x), j @ j.T) < 1e-12


@pytest.mark.parametrize("blocks", (1, 3, 4, 7))
def test_general_route_in_blocks_of_samples(network, blocks):
    x = make_inputs()
    j = jacobian(network, x)
    budget = explicit_budget(network, j, -(-SAMPLES // blocks))
    value = kernel.empirical_ntk(network, x, route="torch_func", memory_bytes=budget)
    assert relative_error(value, j @ j.T) < 1e-12
    assert torch.equal(value, value.T)


@pytest.mark.parametrize("traced", (False, True))
def test_kernel_is_symmetric_positive_and_has_the_trace_of_squared_gradients(network, traced):
    x = make_inputs()
    theta = kernel.empirical_ntk(network, x, traced=traced)
    assert torch.equal(theta, theta.T)
    values = torch.linalg.eigvalsh(theta)
    assert values[0] > -1e-12 * values[-1]
    squares = 0.0
    for sample in x:
        for output in network(sample[None])[0]:
            gradients = torch.autograd.grad(output, tuple(network.parameters()), retain_graph=True)
            squares += sum(float((g**2).sum()) for g in gradients)
    assert float(theta.trace()) == pytest.approx(squares / (OUTPUTS if traced else 1), rel=1e-12)


def test_traced_kernel_is_that_of_the_full_one(network):
    x = make_inputs()
    traced = kernel.trace_outputs(kernel.empirical_ntk(network, x), OUTPUTS)
    assert relative_error(traced, kernel.empirical_ntk(network, x, traced=True)) < 1e-13


@pytest.mark.parametrize("traced", (False, True))
def test_float32_agrees_to_2e_6_where_the_relu_masks_agree(network, traced):
    # A pre-activation within rounding of zero may change sign in float32 and move its sample's
    # entries by 1e-4. Such samples are found by their masks and left out, instead of being hidden
    # behind a loose tolerance.
    x = make_inputs(12).float()
    reference = kernel.empirical_ntk(network, x.double(), traced=traced)
    exact = _relu_masks(network, x.double())
    network.float()
    same = [
        i
        for i, (a, b) in enumerate(zip(exact, _relu_masks(network, x), strict=True))
        if torch.equal(a, b)
    ]
    assert len(same) >= 10
    x = x[same]
    rows = torch.tensor(same)
    if not traced:
        rows = (rows[:, None] * OUTPUTS + torch.arange(OUTPUTS)).flatten()
    reference = reference[rows][:, rows]
    value = kernel.empirical_ntk(network, x, traced=traced)
    scale = reference.diagonal().sqrt()
    # A few units of float32 rounding, 1.2e-7, whose number depends on the processor's products.
    assert relative_error(value, reference) < 1e-6
    assert float(((value - reference) / torch.outer(scale, scale)).abs().max()) < 2e-6
    assert value.dtype == torch.float64


def _relu_masks(network: nn.Sequential, x: Tensor) -> list[Tensor]:
    """Return for every sample the signs of all pre-activations."""
    masks = []
    with torch.no_grad():
        for layer in network:
            if isinstance(layer, nn.ReLU):
                masks.append((x > 0).flatten(1))
            x = layer(x)
    return list(torch.cat(masks, dim=1))


def test_centring_keeps_small_eigenvalues_of_float32_kernels():
    # Only the rounding of the products is compared: the reference multiplies, in float64, the
    # Jacobian that float32 arithmetic gives.
    network = make_network("myrtle5", width=16).float()
    x = (3.0 + 0.3 * make_inputs(40)).float()
    factors = [
        kernel.empirical_ntk(network, x, accumulate_dtype=dtype)
        for dtype in (torch.float64, torch.float32)
    ]
    reference = torch.linalg.eigvalsh(kernel.empirical_ntk(network.double(), x.double()))
    kept = reference > 1e-7 * reference[-1]
    centred, plain = (
        ((torch.linalg.eigvalsh(theta) - reference) / reference).abs()[kept].median()
        for theta in factors
    )
    assert 5 * centred < plain


@pytest.mark.parametrize("traced", (False, True))
def test_kernels_between_sets_are_centred_about_the_mean_of_each(traced):
    network = make_network("myrtle5")
    x, z = make_inputs().float(), 2 * make_inputs(5, seed=3).float() - 3
    j, k = jacobian(network, x.double()), jacobian(network, z.double())
    reference = kernel.trace_outputs(j @ k.T, OUTPUTS) if traced else j @ k.T
    value = kernel.empirical_ntk(network.float(), x, other_inputs=z, traced=traced)
    assert relative_error(value, reference) < 1e-6


@pytest.mark.parametrize("seed", [1, 2])
def test_float32_noise_is_below_the_noise_floor(seed):
    # The kernels of narrow networks lack full rank, and rounding fills it up.
    images = torch.from_numpy(load_digits().images[:16, None] / 8 - 1)
    ranks = []
    for dtype in (torch.float32, torch.float64):
        network = networks.myrtle5(
            input_shape=(1, 8, 8), outputs=10, width=4, parameterisation="ntk"
        )
        networks.initialise_(network, torch.Generator().manual_seed(seed)).to(dtype)
        values = torch.linalg.eigvalsh(kernel.empirical_ntk(network, images.to(dtype)))
        ranks.append(int((values > noise_floor(values)).sum()))
    assert ranks[0] == ranks[1] < len(values)


def test_one_sample_one_output_and_depth_one():
    network = networks.fully_connected(
        input_shape=(4,), outputs=1, width=2, parameterisation="standard", depth=1
    ).double()
    networks.initialise_(network, torch.Generator().manual_seed(0))
    x = torch.randn(3, 4, dtype=torch.float64)
    assert relative_error(kernel.empirical_ntk(network, x), x @ x.T) < 1e-14
    assert kernel.empirical_ntk(network, x[:1], traced=True).shape == (1, 1)


def test_pools_that_do_not_divide_and_convolutions_before_flatten_are_exact():
    network = nn.Sequential(
        networks.ScaledConv2d(3, 4, 1.4, "ntk"),
        nn.ReLU(),
        nn.AvgPool2d(3),
        networks.ScaledConv2d(4, 2, 1.4, "standard"),
        nn.Flatten(),
        networks.ScaledLinear(8, 5, 1.4, "ntk"),
        nn.ReLU(),
        networks.ScaledLinear(5, OUTPUTS, 1.0, "ntk"),
    ).double()
    networks.initialise_(network, torch.Generator().manual_seed(0))
    j = jacobian(network, make_inputs())
    assert kernel.choose_route(network, make_inputs()).name == "structured"
    assert relative_error(kernel.empirical_ntk(network, make_inputs()), j @ j.T) < 1e-12


def test_weights_of_zero_leave_a_relu_at_rest(network):
    """At a pre-activation of exactly 0 the derivative is 0, as torch has it."""
    with torch.no_grad():
        for weight in list(network.parameters())[:-1]:
            weight[0] = 0.0
    j = jacobian(network, make_inputs())
    assert relative_error(kernel.empirical_ntk(network, make_inputs()), j @ j.T) < 1e-12


class Residual(nn.Module):
    """A foreign architecture: x + ReLU(W x), then a read-out, with biases and a frozen weight."""

    def __init__(self):
        super().__init__()
        self.hidden, self.readout = nn.Linear(12, 12), nn.Linear(12, 2)
        self.norm = nn.BatchNorm1d(12)
        self.hidden.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, shape (N, 2)."""
        return self.readout(x + torch.relu(self.norm(self.hidden(x))))


def test_foreign_networks_take_the_general_route_and_say_why():
    torch.manual_seed(0)
    network = Residual().double().eval()
    x = torch.randn(5, 12, dtype=torch.float64)
    route = kernel.choose_route(network, x)
    assert route.name == "torch_func" and "Residual" in str(route)
    j = reverse_jacobian(network, x)
    assert relative_error(kernel.empirical_ntk(network, x), j @ j.T) < 1e-12


class Gated(nn.Module):
    """A weight without an axis (a learnt gate), and one registered at two places."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(12, 12, bias=False)
        self.second, self.readout = self.first, nn.Linear(12, 2)
        self.gate = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, shape (N, 2)."""
        return self.readout(self.gate * torch.tanh(self.second(torch.tanh(self.first(x)))))


def test_weights_without_an_axis_and_shared_ones_enter_the_kernel():
    torch.manual_seed(0)
    network, x = Gated().double(), torch.randn(5, 12, dtype=torch.float64)
    j = reverse_jacobian(network, x)
    full, traced = j @ j.T, kernel.trace_outputs(j @ j.T, 2)
    assert relative_error(kernel.empirical_ntk(network, x), full) < 1e-12
    assert relative_error(kernel.empirical_ntk(network, x, traced=True), traced) < 1e-12
    wide = EnsembleLoss([network, network], x, torch.zeros(5, 2)).weights
    assert torch.equal(wide[1], torch.nn.utils.parameters_to_vector(network.parameters()))


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ([nn.Flatten(), nn.Linear(192, 3)], "Linear"),
        (
            [nn.AvgPool2d(3, stride=1), nn.Flatten(), networks.ScaledLinear(108, 3, 1, "ntk")],
            "pool",
        ),
        (
            [nn.Flatten(2), networks.ScaledLinear(64, 1, 1, "ntk"), nn.Flatten()],
            "Flatten keeps some axes",
        ),
        ([nn.Flatten(), *[networks.ScaledLinear(192, 192, 1, "ntk")] * 2], "share"),
    ],
)
def test_chains_without_structure_say_why(layers, reason):
    network = nn.Sequential(*layers).double()
    for weights in network.parameters():  # layers of the library have none before initialise_
        nn.init.normal_(weights, generator=torch.Generator().manual_seed(0))
    route = kernel.choose_route(network, make_inputs())
    assert route.name == "torch_func" and reason in route.reason


def test_frozen_weights_take_the_general_route(network):
    next(network.parameters()).requires_grad_(False)
    assert "frozen" in kernel.choose_route(network, make_inputs()).reason


class Recurrent(nn.Module):
    """The last state of a recurrent layer over the rows of an image, and a linear layer."""

    def __init__(self, layer: nn.RNNBase):
        super().__init__()
        self.layer, self.readout = layer, nn.Linear(layer.hidden_size, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, shape (N, C)."""
        return self.readout(self.layer(x.flatten(2).transpose(1, 2))[0][:, -1])


class Hidden(nn.Module):
    """Two linear layers with any function of the first one's outputs between them."""

    def __init__(self, function):
        super().__init__()
        self.first, self.last = nn.Linear(192, 5), nn.Linear(5, OUTPUTS)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, shape (N, C)."""
        return self.last(self.function(self.first(x.flatten(1))))


class OnceFunction(torch.autograd.Function):
    """A softplus with a single derivative."""

    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return nn.functional.softplus(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, gradient):
        return gradient * torch.sigmoid(context.saved_tensors[0])


class OldFunction(torch.autograd.Function):
    """A softplus written as before torch.func, which cannot differentiate it."""

    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return nn.functional.softplus(x)

    @staticmethod
    def backward(context, gradient):
        return gradient * torch.sigmoid(context.saved_tensors[0])


def masked(h: Tensor) -> Tensor:
    h = 2 * h
    h[h < 0] *= 0.1
    return h


def decided(h: Tensor) -> Tensor:
    return torch.stack([torch.tanh(row) if float(row[0]) > 0 else row.sin() for row in h])


def checkpointed(h: Tensor) -> Tensor:
    return torch.utils.checkpoint.checkpoint(torch.tanh, h, use_reentrant=False)


# What torch.func has no per-sample Jacobian of, and the way that J u is taken.
FOREIGN = {
    "LSTM": (lambda: Recurrent(nn.LSTM(3, 4, batch_first=True)), "forward"),
    "GRU": (lambda: Recurrent(nn.GRU(3, 4, num_layers=2, batch_first=True)), "forward"),
    "PReLU": (lambda: nn.Sequential(Hidden(torch.tanh), nn.PReLU(OUTPUTS)), "forward"),
    "old function": (lambda: Hidden(OldFunction.apply), "twice"),
    "one derivative": (lambda: Hidden(OnceFunction.apply), "rows"),
    "mask": (lambda: Hidden(masked), "forward"),
    "decision": (lambda: Hidden(decided), "forward"),
    "checkpoint": (lambda: Hidden(checkpointed), "forward"),
}


class GraphlessRelu(torch.autograd.Function):
    """A right gradient whose backward pass records nothing, as that of a kernel in C."""

    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(context, gradient):
        with torch.no_grad():
            return (gradient.detach() * (context.saved_tensors[0] > 0)).detach()


class WithoutTangent(torch.autograd.Function):
    """A right gradient and a forward derivative that is zero."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.clamp(min=0)

    @staticmethod
    def setup_context(context, inputs, output):
        context.save_for_backward(inputs[0])
        context.save_for_forward(inputs[0])

    @staticmethod
    def backward(context, gradient):
        return gradient * (context.saved_tensors[0] > 0)

    @staticmethod
    def jvp(context, tangent):
        return torch.zeros_like(tangent)


class Applied(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def under_a_normalisation(function) -> nn.Sequential:
    """Return a network whose outputs do not change along its first weights."""
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(192, 12), Applied(function), nn.LayerNorm(12, eps=1e-6)]
    return nn.Sequential(*layers, nn.Linear(12, OUTPUTS)).double()


@pytest.mark.parametrize("start", ["drawn", "zero"])
@pytest.mark.parametrize("function", [GraphlessRelu, WithoutTangent])
def test_derivatives_along_weights_are_whole_below_a_normalisation(function, start):
    """Along the weights themselves nothing changes there, whatever is left out."""
    network = under_a_normalisation(function.apply)
    if start == "zero":  # of the weights whose derivative is left out, those of a residual branch
        network = nn.Sequential(network[0], nn.Linear(192, 8).double(), network[2], network[4])
        network[3] = nn.Linear(8, OUTPUTS).double()
        nn.init.zeros_(network[1].bias)
        nn.init.zeros_(network[1].weight)
        nn.init.constant_(network[1].bias, 1e-12)  # on the slope of the ReLU
    x = make_inputs()
    way = "rows" if function is GraphlessRelu else "twice"
    assert way_along_weights(network, x) == way
    j = reverse_jacobian(network, x)
    value = kernel_products.largest_eigenvalue(network, x, relative_tolerance=1e-9)
    assert value == pytest.approx(float(torch.linalg.eigvalsh(j @ j.T)[-1]), rel=1e-8)


def test_a_wrong_forward_derivative_is_told_below_a_normalisation():
    network = under_a_normalisation(WithoutTangent.apply)
    with pytest.raises(ValueError, match="forward derivative of the network does not agree"):
        check_derivatives(network, make_inputs())
    check_derivatives(under_a_normalisation(torch.relu), make_inputs())


class WithoutItsTangent(torch.autograd.Function):
    """A product of which the forward derivative has forgotten the weights."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, weight):
        return x @ weight.T

    @staticmethod
    def setup_context(context, inputs, output):
        context.save_for_backward(*inputs)
        context.save_for_forward(*inputs)

    @staticmethod
    def backward(context, gradient):
        x, weight = context.saved_tensors
        return gradient @ weight, gradient.T @ x

    @staticmethod
    def jvp(context, tangent, _):
        return 0 * context.saved_tensors[0] @ context.saved_tensors[1].T


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-6])
def test_what_a_forward_derivative_forgets_is_seen_beside_biases_of_zero(size):
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(size * torch.randn(3, 6))
            self.bias = nn.Parameter(torch.zeros(3))

        def forward(self, x):
            return WithoutItsTangent.apply(x, self.weight) + self.bias

    torch.manual_seed(0)
    network, x = Product().double(), torch.randn(5, 6).double()
    assert way_along_weights(network, x) == "twice"
    expected = torch.linalg.matrix_norm(x @ x.T + 1, ord=2)  # in each output
    found = kernel_products.largest_eigenvalue(network, x, relative_tolerance=1e-9)
    assert found == pytest.approx(float(expected), rel=1e-8)


def test_weights_without_elements_change_no_product():
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(5, 3)
    expected = kernel_products.largest_eigenvalue(network, x)
    network.register_parameter("nothing", nn.Parameter(torch.zeros(0)))
    assert kernel_products.largest_eigenvalue(network, x) == expected


@pytest.mark.parametrize("seed", range(3))
def test_half_precision_has_right_forward_derivatives(seed):
    """Along random directions they differ from the gradient by roundings of many layers."""
    torch.manual_seed(seed)
    layers = [(nn.Linear(16, 16), nn.LayerNorm(16), nn.ReLU()) for _ in range(8)]
    network = nn.Sequential(*itertools.chain(*layers), nn.Linear(16, 3)).bfloat16()
    check_derivatives(network, torch.randn(4, 16, dtype=torch.bfloat16))


@pytest.mark.parametrize(
    "layer",
    [
        lambda: Recurrent(nn.LSTM(3, 4, num_layers=2, dropout=0.5, batch_first=True)),
        lambda: Hidden(lambda h: nn.functional.dropout(h, 0.5)),
    ],
    ids=["LSTM", "function"],
)
def test_random_networks_have_no_kernel(layer):
    network, x = layer().double(), make_inputs()
    for compute in (kernel.empirical_ntk, kernel_products.largest_eigenvalue):
        with pytest.raises(ValueError, match=r"random.*eval\(\)"):
            compute(network, x)


@pytest.mark.parametrize("wanted", ["dict", "assertion"])
def test_what_is_no_tensor_and_fails_in_any_way_is_told(wanted):
    class Broken(nn.Linear):
        def forward(self, x):
            assert wanted == "dict", "of another size"
            return {"logits": super().forward(x)}

    told = {"dict": "returns a dict; the kernel needs a tensor", "assertion": "of another size"}
    with pytest.raises(ValueError, match=told[wanted]):
        kernel.empirical_ntk(Broken(4, 2), torch.ones(3, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_multiplied_in_single(dtype, monkeypatch):
    """Whichever library multiplies: NumPy has no bfloat16, and its float16 overflows at 65504."""
    monkeypatch.setattr(blocks, "torch_multiplies_faster", lambda: False)
    left = torch.full((3, 5), 200.0, dtype=dtype)
    assert torch.equal(blocks.product(left, left), torch.full((3, 3), 2e5))
    network = make_network("myrtle5").to(dtype)
    x = make_inputs().to(dtype)
    exact = kernel.empirical_ntk(network.double(), x.double())
    assert relative_error(kernel.empirical_ntk(network.to(dtype), x), exact) < 0.1


@pytest.mark.parametrize(
    ("scale", "precision"),
    [(1e-19, torch.float32), (1e-23, torch.float32), (1e-90, torch.float64)],
)
def test_the_largest_eigenvalue_of_small_outputs_does_not_underflow(scale, precision):
    """lambda_1 is 1e-38 to 1e-46 in float32, and squares of 1e-180 are 0 in float64."""
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Flatten(), nn.Linear(192, OUTPUTS)), make_inputs().to(precision)
    network.to(precision)
    with torch.no_grad():
        x *= scale / x.abs().max()
        network[1].bias.requires_grad_(False)
    value = kernel_products.largest_eigenvalue(network, x, relative_tolerance=1e-6)
    rows = x.flatten(1).double() / scale
    expected = torch.linalg.eigvalsh(rows @ rows.T)[-1]
    assert value / scale / scale == pytest.approx(float(expected), rel=1e-5)


def test_cross_gauss_newton_leaves_the_network_as_it_was(monkeypatch):
    network, x = make_network("fully_connected"), make_inputs()
    before = torch.nn.utils.parameters_to_vector(network.parameters()).detach().clone()
    with pytest.raises(ValueError, match="give all weights of the network"):
        gauss_newton.cross_gauss_newton(network, x, torch.cat([before, before[:1]]))
    with pytest.raises(ValueError, match="vectors have shape"):
        gauss_newton.gauss_newton(network, x, torch.ones(3, 1))
    calls = iter([None])
    real = gauss_newton._jacobian

    def stopped(*arguments):
        next(calls)  # the second one is interrupted
        return real(*arguments)

    monkeypatch.setattr(gauss_newton, "_jacobian", stopped)
    with pytest.raises(StopIteration):
        gauss_newton.cross_gauss_newton(network, x, 2 * before)
    assert torch.equal(torch.nn.utils.parameters_to_vector(network.parameters()), before)


@pytest.mark.parametrize("name", FOREIGN)
def test_what_torch_func_cannot_differentiate_equals_the_dense_reference(name):
    """The reference takes central differences of the outputs in each weight."""
    torch.manual_seed(0)
    make, way = FOREIGN[name]
    network, x, z = make().double(), make_inputs(), make_inputs(4, seed=3)
    route = kernel.choose_route(network, x)
    assert route.name == "autograd" and "torch.func fails (" in route.reason
    assert way_along_weights(network, x) == way
    dense = finite_difference_jacobian(network, torch.cat([x, z]))
    j = assert_kernels_equal(network, x, z, dense, 1e-8)
    full = j @ j.T
    value = kernel_products.largest_eigenvalue(network, x, relative_tolerance=1e-9)
    assert value == pytest.approx(float(torch.linalg.eigvalsh(full)[-1]), rel=1e-8)
    vector = torch.randn(SAMPLES * OUTPUTS, dtype=torch.float64)
    for other in ("rows",) if way == "rows" else (way, "twice", "rows"):
        for size in (1.0, 1e-200, 1e200):
            product = kernel_products.kernel_product(network, x, size * vector, way=other, batch=3)
            assert relative_error(product / size, full @ vector) < 1e-8
        assert not kernel_products.kernel_product(network, x, 0 * vector, way=other).any()
    sums = gauss_newton.gauss_newton(network, x, vector[:, None])
    assert relative_error(torch.from_numpy(sums.matrix), j.T @ j) < 1e-8
    assert relative_error(torch.from_numpy(sums.pulled), j.T @ vector[:, None]) < 1e-8
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


class Distances(nn.Module):
    """Distances of the inputs to weights, of which torch.func has wrong derivatives."""

    def __init__(self, outputs: int):
        super().__init__()
        self.weights = nn.Parameter(torch.randn(outputs, 192))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, shape (N, C)."""
        return torch.cdist(x.flatten(1), self.weights)


class Solution(nn.Module):
    """Solutions of linear equations, whose derivatives torch.func had wrong without gradients."""

    def __init__(self, outputs: int):
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(192) + 0.01 * torch.randn(192, 192))
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, shape (N, C)."""
        return torch.linalg.solve(self.matrix, x.flatten(1).T)[: self.outputs].T


@pytest.mark.parametrize(
    "make",
    [
        Distances,
        Solution,
        lambda outputs: nn.Sequential(nn.Flatten(), nn.Linear(192, outputs), nn.PReLU()),
    ],
    ids=["cdist", "solve", "PReLU"],
)
@pytest.mark.parametrize(("samples", "outputs"), [(2, 2), (4, 4), (7, 4), (1, 1), (5, 3)])
def test_operations_that_torch_func_may_have_wrong_equal_the_dense_reference(
    make, samples, outputs
):
    """A PReLU mistakes as many samples as outputs for each other."""
    torch.manual_seed(0)
    network, x = make(outputs).double(), make_inputs(samples)
    dense = reverse_jacobian(network, x)
    with torch.no_grad():
        full = kernel.empirical_ntk(network, x)
    assert relative_error(full, dense @ dense.T) < 1e-9
    value = kernel_products.largest_eigenvalue(network, x, relative_tolerance=1e-9)
    assert value == pytest.approx(float(torch.linalg.eigvalsh(dense @ dense.T)[-1]), rel=1e-8)


def test_all_routes_of_the_general_kernel_agree(network):
    x = make_inputs()
    by_torch_func = kernel.empirical_ntk(network, x, route="torch_func")
    by_autograd = kernel.empirical_ntk(network, x, route="autograd")
    assert relative_error(by_autograd, by_torch_func) < 1e-12


def test_largest_eigenvalue_is_within_its_tolerance(network):
    x = make_inputs()
    exact = float(torch.linalg.eigvalsh(kernel.empirical_ntk(network, x))[-1])
    for tolerance in (1e-3, 1e-8):
        value = kernel_products.largest_eigenvalue(
            network, x, relative_tolerance=tolerance, batch=3
        )
        assert value == pytest.approx(exact, rel=tolerance)
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    first, second = (
        kernel_products.largest_eigenvalue(network, x, generator=g) for g in generators
    )
    assert first == second


def test_leading_eigenvalues_close_together_are_told_apart():
    """One for each output, 3 to 12 % apart, far above the others: the mean mode of a network."""
    x = make_inputs(16)
    for seed in range(4):
        torch.manual_seed(seed)
        layers = [nn.Conv2d(x.shape[1], 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten()]
        size = nn.Sequential(*layers)(x.float()).shape[1]
        network = nn.Sequential(*layers, nn.Linear(size, 3)).double()
        exact = float(torch.linalg.eigvalsh(kernel.empirical_ntk(network, x))[-1])
        assert kernel_products.largest_eigenvalue(network, x) == pytest.approx(exact, rel=1e-3)


def test_an_eigenvalue_that_the_start_vector_has_nothing_of_is_found():
    """Of f = w.x, whose kernel X X^T has a first vector orthogonal to the first random start."""
    start = torch.randn(8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    random = torch.randn(8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    random[:, 0] -= (random[:, 0] @ start) / (start @ start) * start
    vectors, _ = torch.linalg.qr(random)
    assert abs(float(vectors[:, 0] @ start)) < 1e-12
    values = torch.tensor([1.0, 0.95, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01]).double()
    x = vectors * values.sqrt()
    found = kernel_products.largest_eigenvalue(
        nn.Linear(8, 1, bias=False).double(), x, generator=torch.Generator().manual_seed(5)
    )
    assert found == pytest.approx(1.0, rel=1e-3)


def test_samples_whose_forward_derivative_has_no_value_are_taken_by_rows():
    """sqrt(relu(z)) has the gradient 0 at z < 0 and a forward derivative 0/0."""

    class Root(nn.Module):
        def forward(self, h):
            return torch.sqrt(torch.relu(h + 1))

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(12, 6), Root(), nn.Linear(6, 2)).double()
    x = torch.randn(16, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    dead = (network[0](x) < -1).any(1)
    x = torch.cat([x[~dead][:4], x[dead], x[~dead][4:]])  # none of the first and the last
    assert dead.any() and way_along_weights(network, x) == "forward"
    full = kernel.empirical_ntk(network, x)
    vector = torch.randn(2 * len(x), dtype=torch.float64)
    product = kernel_products.kernel_product(network, x, vector, batch=7)
    assert relative_error(product, full @ vector) < 1e-12
    value = kernel_products.largest_eigenvalue(network, x, relative_tolerance=1e-9)
    assert value == pytest.approx(float(torch.linalg.eigvalsh(full)[-1]), rel=1e-8)


def test_products_beyond_the_precision_are_told():
    network = make_network("fully_connected").float()
    with pytest.raises(ValueError, match=r"not finite in torch\.float32: .* too large"):
        kernel_products.largest_eigenvalue(network, 1e25 * make_inputs().float())


def test_largest_eigenvalue_of_one_sample_and_of_a_zero_jacobian():
    network, x = make_network("fully_connected"), make_inputs(1)
    exact = float(torch.linalg.eigvalsh(kernel.empirical_ntk(network, x))[-1])
    assert kernel_products.largest_eigenvalue(network, x) == pytest.approx(exact, rel=1e-3)
    assert kernel_products.largest_eigenvalue(network, torch.zeros_like(x)) == 0.0


def test_kernel_product_equals_the_kernel_times_the_vector(network):
    x = make_inputs()
    vector = torch.randn(SAMPLES * OUTPUTS, dtype=torch.float64)
    product = kernel_products.kernel_product(network, x, vector, batch=2)
    assert relative_error(product, kernel.empirical_ntk(network, x) @ vector) < 1e-12


@pytest.mark.parametrize("model", (*CHAINS, "residual_network"))
def test_operations_of_a_forward_pass_are_those_that_torch_counts(model):
    network, sample = make_network(model), make_inputs(1)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(sample)
    assert kernel.forward_operations(network, sample) == counter.get_total_flops() > 0


def test_operations_of_attention_are_counted():
    """Two products per head of as many rows and columns as there are tokens."""
    layer, tokens, width = nn.MultiheadAttention(8, 2, batch_first=True), 5, 8

    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x, x, x, need_weights=False)[0].flatten(1)

    projections = 4 * 2 * tokens * width**2
    attention = 2 * 2 * tokens**2 * width
    found = kernel.forward_operations(Attending(), torch.randn(1, tokens, width))
    assert found == projections + attention


def test_kernel_of_a_chain_starts_without_the_compiler_of_torch():
    code = """
        import sys, torch
        from speedlimits import kernel, networks
        sizes = {"input_shape": (1, 8, 8), "outputs": 3, "width": 4}
        network = networks.myrtle5(**sizes, parameterisation="ntk")
        networks.initialise_(network, torch.Generator().manual_seed(0))
        x = torch.ones(2, 1, 8, 8)
        kernel.spectrum_cost(network, x, 3, 5)
        kernel.empirical_ntk(network, x)
        sys.exit("torch._dynamo" in sys.modules)  # a second and more of every job
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=SCRIPTS, check=True)


@pytest.mark.parametrize(
    ("network", "inputs", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), torch.zeros(2, 2), r"layer 1 \(Batch"),
        (nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), torch.zeros(2, 2), r"layer 1 \(Dropout"),
        (
            nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)).eval(),
            torch.zeros(2, 2),
            "without running statistics",
        ),
        (nn.Linear(2, 2), torch.zeros(2, 2, dtype=torch.long), "torch.int64"),
        (nn.Linear(2, 2), torch.zeros(2, 2, dtype=torch.float64), "torch.float64"),
        (nn.Linear(2, 2), torch.zeros(0, 2), "no samples"),
        (nn.ReLU(), torch.zeros(2, 2), "no trainable weights"),
        (nn.Linear(2, 0), torch.zeros(2, 2), "no outputs"),
        (torch.inference_mode()(nn.Linear)(2, 2), torch.zeros(2, 2), "made under torch.inference"),
        (nn.Linear(2, 2), torch.inference_mode()(torch.zeros)(2, 2), "inputs were made under"),
        (nn.Linear(2, 2), torch.zeros(2, 3, 2), "needs \\(1, outputs\\)"),
        (nn.Linear(2, 2), torch.tensor([[1.0, 2], [3, math.inf]]), "not finite, in sample 1"),
        (
            nn.Linear(2, 2),
            torch.zeros(2, 3),
            "\\(2, 3\\) do not fit the network.*cannot be multiplied",
        ),
    ],
)
def test_refusals_name_the_cause(network, inputs, message):
    for function in (kernel.empirical_ntk, kernel_products.largest_eigenvalue):
        with pytest.raises(ValueError, match=message):
            function(network, inputs)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("layer", [nn.ReLU, nn.PReLU, nn.GELU, lambda: nn.LayerNorm(7)])
def test_the_mode_of_the_caller_changes_no_kernel(mode, layer):
    torch.manual_seed(3)
    network, x = nn.Sequential(nn.Linear(5, 7), layer(), nn.Linear(7, 2)), torch.randn(4, 5)
    differentiated = x.clone().requires_grad_()

    def found():
        sums = gauss_newton.gauss_newton(network, differentiated, torch.ones(8, 1))
        wholes = kernel.empirical_ntk(network, x), kernel_products.largest_eigenvalue(network, x)
        return [torch.as_tensor(value) for value in (*wholes, sums.matrix, sums.pulled)]

    expected = found()
    with mode():
        for value, wanted in zip(found(), expected, strict=True):
            assert torch.equal(value, wanted) and not value.requires_grad


def test_refusals_name_which_of_two_sets_is_wrong():
    network, inputs = nn.Linear(2, 2), torch.zeros(3, 2)
    for others, message in ((inputs * math.nan, "not finite"), (torch.zeros(3, 3), "do not fit")):
        with pytest.raises(ValueError, match=f"other_inputs.* {message}"):
            kernel.empirical_ntk(network, inputs, other_inputs=others)


def test_unknown_route_is_refused(network):
    with pytest.raises(ValueError, match="fastest"):
        kernel.empirical_ntk(network, make_inputs(), route="fastest")


def memory_of(call, budgets, *, side, width, samples):
    """(peak of resident memory that a call takes beyond what was there, budget) for each budget.

    The peak is a property of a whole process, so a fresh one measures it.
    """
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux")
    program = textwrap.dedent(
        rf"""
        import re, sys
        sys.path.insert(0, {str(SCRIPTS)!r})
        import torch
        from speedlimits import gauss_newton, kernel, networks
        def memory(field):
            status = open("/proc/self/status").read()
            return 1024 * int(re.search(field + r":\s+(\d+)", status)[1])
        torch.set_num_threads(1)
        network = networks.myrtle5(
            input_shape=(3, {side}, {side}), outputs=10, width={width}, parameterisation="ntk")
        networks.initialise_(network, torch.Generator().manual_seed(0))
        def run(x, budget):
            {call}
        x = torch.randn({samples}, 3, {side}, {side})
        run(x[:2], 2**30)  # loads libraries
        for budget in {budgets}:
            before = memory("VmRSS")
            open("/proc/self/clear_refs", "w").write("5")  # resets the peak
            run(x, budget)
            print(memory("VmHWM") - before, budget)
        """
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return [tuple(map(int, line.split())) for line in result.stdout.splitlines()]


@pytest.mark.parametrize(
    "call",
    [
        "kernel.empirical_ntk(network, x, route='torch_func', memory_bytes=budget)",
        "gauss_newton.gauss_newton(network, x, x[:, 0, :1, :10].reshape(-1, 1), "
        "memory_bytes=budget)",
    ],
    ids=["torch_func", "gauss_newton"],
)
def test_peak_memory_of_explicit_jacobians_stays_below_the_budget(call):
    """Of a narrow network, whose activations outweigh its Jacobians."""
    ((used, budget),) = memory_of(call, [100 * 2**20], side=32, width=4, samples=150)
    assert 5e6 < used < budget


@pytest.mark.parametrize("traced", (False, True))
def test_peak_memory_stays_below_the_budget(traced):
    call = f"kernel.empirical_ntk(network, x, traced={traced}, memory_bytes=budget)"
    budgets = [100 * 2**20, 130 * 2**20, 250 * 2**20]
    found = memory_of(call, budgets, side=16, width=32, samples=120)
    assert len(found) == len(budgets)
    for used, budget in found:
        assert 5e6 < used < budget


def test_peak_memory_of_a_traced_kernel_of_many_samples_stays_below_the_budget():
    """Its last convolution adds products of all pairs of samples, channel by channel."""
    call = "kernel.empirical_ntk(network, x, traced=True, memory_bytes=budget)"
    ((used, budget),) = memory_of(call, [300 * 2**20], side=4, width=32, samples=1500)
    assert 5e6 < used < budget


@pytest.mark.parametrize("where", ["network", "layer", "before", "forward", "pruned"])
def test_hooks_are_not_overlooked_by_gradients_written_by_hand(where):
    network = nn.Sequential(
        layers.ScaledLinear(5, 4, 2**0.5, "ntk"),
        nn.ReLU(),
        layers.ScaledLinear(4, 2, 1.0, "ntk"),
    ).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    if where == "before":
        network[1].register_forward_pre_hook(lambda _, given: (2 * given[0],))
    elif where == "forward":
        network[1].forward = torch.tanh
    elif where == "pruned":
        prune.random_unstructured(network[0], "weight", 0.5)
    else:
        of = network if where == "network" else network[0]
        of.register_forward_hook(lambda _, given, outputs: 3 * outputs)
    inputs = torch.randn(6, 5, dtype=torch.float64)
    expected = kernel.empirical_ntk(network, inputs, route="autograd")
    torch.testing.assert_close(kernel.empirical_ntk(network, inputs), expected)
    with pytest.raises(ValueError, match="no structured route: .*leave route out"):
        kernel.empirical_ntk(network, inputs, route="structured")


@pytest.mark.parametrize("traced", (False, True))
def test_layers_that_take_other_axes_than_their_own_have_no_structured_route(traced):
    """A linear layer of a sequence is the same weights at every place."""
    network = torch.nn.Sequential(
        layers.ScaledLinear(3, 4, 1.0, "ntk"),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        layers.ScaledLinear(20, 2, 1.0, "ntk"),
    ).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    inputs = torch.randn(6, 5, 3, dtype=torch.float64)
    expected = kernel.empirical_ntk(network, inputs, route="autograd", traced=traced)
    torch.testing.assert_close(kernel.empirical_ntk(network, inputs, traced=traced), expected)
    assert "the last of several axes" in kernel.choose_route(network, inputs).reason
    with pytest.raises(ValueError, match="the last of several axes; leave route out"):
        kernel.empirical_ntk(network, inputs, route="structured")
    images = torch.nn.Sequential(
        layers.ScaledConv2d(3, 4, 1.0, "ntk"), torch.nn.Flatten(), torch.nn.ReLU()
    )
    assert kernel.choose_route(images, torch.randn(2, 3, 4, 4)).name == "structured"
    obstacle = kernel.kernel_sequential.obstacle_to_structured_route(images, 3)
    assert obstacle == "ScaledConv2d takes no batch of images"
