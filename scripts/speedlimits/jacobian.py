"""Per-sample Jacobians J = d f / d theta of any network, products with J, and what they take.

By ``torch.func``, for many samples and all outputs at once, where it can differentiate the network;
else *by autograd*, by which it is trained: a reverse pass for each output of each sample, and J u
as the derivative of u . (J^T w) with respect to w, or from those passes. Recurrent layers, PReLU,
checkpointing, decisions by values and assignments through masks need one or the other.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import jacrev, jvp, vmap

from speedlimits.attention import plain_attention
from speedlimits.blocks import consecutive_slices
from speedlimits.functional import in_one_line, outputs_at, trainable_and_fixed

# Derivatives that torch takes in two ways differ by rounding; 1e-3 of their size is more than that
# in float32, ten times the spacing of numbers in a lower precision.
DERIVATIVE_TOLERANCE, SPACINGS = 1e-3, 10


def check_inputs(network: nn.Module, inputs: Tensor, other_inputs: Tensor | None = None) -> None:
    """Raise ValueError, in one sentence, for whatever has no per-sample Jacobian.

    Args:
        network: maps inputs (N, ...) to outputs (N, C).
        inputs: (N, ...).
        other_inputs: (M, ...) of a kernel between two sets, or None.

    Raises:
        ValueError: says in one sentence what is wrong with network or inputs.
    """
    for name, layer in network.named_modules():
        label = f"layer {name or '(the network)'} ({type(layer).__name__})"
        if why := mixing_normalisation(layer):
            raise ValueError(f"{label} has no per-sample Jacobian {why}")
        if layer.training and isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0:
            raise ValueError(f"{label} is in training mode and random; call network.eval() first")
    parameters = [p for p in network.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("the network has no trainable weights, so its kernel is undefined")
    if any(p.is_inference() for p in parameters):
        raise ValueError("the network was made under torch.inference_mode; make it outside")
    for word, x in (("inputs", inputs), ("other_inputs", other_inputs)):
        if x is None:
            continue
        if x.is_inference():
            raise ValueError(f"{word} were made under torch.inference_mode; clone them outside")
        if len(x) == 0:
            raise ValueError(f"{word} hold no samples")
        if not x.is_floating_point() or x.dtype != parameters[0].dtype:
            raise ValueError(f"{word} are {x.dtype}, the network's weights {parameters[0].dtype}")
        if x.device != parameters[0].device:
            raise ValueError(f"{word} are on {x.device}, the weights on {parameters[0].device}")
        if not x.isfinite().all():
            sample = int((~x.isfinite()).nonzero()[0, 0])
            raise ValueError(f"{word} hold a value that is not finite, in sample {sample}")
        _check_runs(network, x, word)


def mixing_normalisation(layer: nn.Module) -> str:
    """Return when a layer that is batch normalisation mixes samples, and what to do about it.

    Args:
        layer: any layer.

    Returns:
        To be read after the layer's name; empty if it mixes none.
    """
    if not isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return ""
    if layer.running_mean is None:
        return (
            "without running statistics, where it mixes samples also after eval(); set "
            "track_running_stats=True"
        )
    mixes = "in training mode, which mixes samples; call network.eval()"
    return mixes if layer.training else ""


def _check_runs(network: nn.Module, inputs: Tensor, name: str) -> None:
    """Assert that the network takes one sample of the inputs.

    Raises:
        ValueError: saying what the network says.
        OutOfMemoryError: of the device, which is no fault of the inputs.
    """
    try:
        with torch.no_grad():
            network(inputs[:1])
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of any kind, by the network's own code too
        raise ValueError(
            f"{name} of shape {tuple(inputs.shape)} do not fit the network, which fails on the "
            f"first sample ({in_one_line(error)})"
        ) from error


def count_outputs(network: nn.Module, inputs: Tensor) -> int:
    """Return the number of outputs C of the network.

    Args:
        network: maps inputs (N, ...) to outputs (N, C).
        inputs: (N, ...), of which the first sample is taken.

    Raises:
        ValueError: if one sample is not mapped to a tensor of shape (1, C).
    """
    with torch.no_grad():
        f = network(inputs[:1])
    if not isinstance(f, Tensor):
        raise ValueError(f"the network returns a {type(f).__name__}; the kernel needs a tensor")
    if f.ndim != 2 or len(f) != 1:
        raise ValueError(
            f"the network maps one sample to shape {tuple(f.shape)}; the kernel needs (1, outputs)"
        )
    if f.shape[1] == 0:
        raise ValueError("the network has no outputs; the kernel needs one at least")
    return f.shape[1]


class CombinedOutputs(nn.Module):
    """A network whose q outputs are linear combinations of the C outputs of another.

    Args:
        network: maps inputs (N, ...) to outputs (N, C).
        factors: shape (C, q).
    """

    def __init__(self, network: nn.Module, factors: Tensor):
        super().__init__()
        self.network, self.factors = network, factors

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the combinations, shape (N, q)."""
        return self.network(inputs) @ self.factors.to(inputs)


def obstacle_to_torch_func(network: nn.Module, inputs: Tensor) -> str | None:
    """Return why torch.func has no per-sample Jacobian of the network, or None if it has one.

    Tried with numbers of samples and outputs that cannot be mistaken for each other and memory of
    few copies of the weights, and compared with single reverse passes: of some operations it has
    derivatives that are wrong (those of torch.cdist in torch 2.13, two vmaps deep).

    Args:
        network: maps inputs (N, ...) to outputs (N, C), each sample by itself.
        inputs: (N, ...).
    """
    two_outputs, three = _small_problem(network, inputs)
    try:
        found = _by_torch_func(two_outputs, three)
    except Exception as error:  # of any kind, by the network's own code too
        return in_one_line(error)
    expected = _by_autograd(two_outputs, three)
    if differ(found, expected):
        return "its derivatives of single samples are not those of autograd"
    return None


def differ(found: Iterable[Tensor], expected: list[Tensor]) -> bool:
    """Return whether two lists of tensors differ by more than rounding, or are not finite.

    Args:
        found: of the shapes of ``expected``.
        expected: in the precision of the network.
    """
    spacing = torch.finfo(expected[0].dtype).eps
    apart = size_of(a - b for a, b in zip(found, expected, strict=True))
    return not apart <= max(DERIVATIVE_TOLERANCE, SPACINGS * spacing) * size_of(expected)


def size_of(tensors: Iterable[Tensor]) -> float:
    """Return the root of the sum of all squares.

    Args:
        tensors: of any shapes.
    """
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))


def way_along_weights(network: nn.Module, inputs: Tensor) -> str:
    """Return the fastest way to products J u that gives what single reverse passes give.

    Compared along a random direction in which every tensor changes by its own size: a second
    derivative can leave out what has none without a word, and along the weights themselves nothing
    changes below a normalisation, nor where they start at zero.

    Args:
        network: as for ``obstacle_to_torch_func``.
        inputs: (N, ...).

    Returns:
        ``forward``: by torch.func's forward derivative; ``twice``: as the derivative of
        u . (J^T w); ``rows``: from a reverse pass for each output of each sample.

    Raises:
        ValueError: if the network is random.
    """
    two_outputs, three = _small_problem(network, inputs)
    direction = _random_direction(trainable_and_fixed(network)[0].values())
    expected = jacobian_product(two_outputs, three, direction, way="rows")
    for way in ("forward", "twice"):
        with contextlib.suppress(Exception):  # of any kind, by the network's own code too
            found = jacobian_product(two_outputs, three, direction, way=way)
            if not differ([found], [expected]):
                return way
    return "rows"


def _random_direction(weights: Iterable[Tensor]) -> list[Tensor]:
    """Return a fixed random direction, each tensor of the size of its weights.

    Of entries, as a root mean square: that of all weights for a tensor of zeros, 1 if all are zero.
    """
    generator = torch.Generator().manual_seed(0)
    weights = [weight.detach() for weight in weights]
    whole = size_of(weights) / math.sqrt(sum(weight.numel() for weight in weights)) or 1.0
    direction = []
    for weight in weights:
        entry = size_of([weight]) / math.sqrt(max(weight.numel(), 1)) or whole
        drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        direction.append((entry * drawn).to(weight))
    return direction


def _small_problem(network: nn.Module, inputs: Tensor) -> tuple[nn.Module, Tensor]:
    """Return two combinations of the outputs, and three samples.

    Raises:
        ValueError: if the network is random.
    """
    rising = torch.arange(1.0, 1.0 + count_outputs(network, inputs))
    two_outputs = CombinedOutputs(network, torch.stack([rising, rising.flip(0)], dim=1))
    three = torch.cat([inputs[:1]] * 2 + [inputs[-1:]])
    with torch.no_grad():
        calls = [two_outputs(three) for _ in range(2)]
    if calls[0].isfinite().all() and differ(calls[:1], calls[1:]):
        raise ValueError(
            "the network is random: the same inputs have other outputs in another call; call "
            "network.eval() first"
        )
    return two_outputs, three


def per_sample_jacobian(
    network: nn.Module,
    inputs: Tensor,
    *,
    by_autograd: bool,
    traced: bool = False,
    batch: int = 0,
) -> list[Tensor]:
    """Return J of every trainable parameter: (n C, p), or (n, C p) if traced.

    Args:
        network: maps inputs (n, ...) to outputs (n, C), each sample by itself.
        inputs: (n, ...).
        by_autograd: without torch.func.
        traced: which shape.
        batch: samples whose derivatives are taken together; 0 for all.
    """
    derivative = _by_autograd if by_autograd else _by_torch_func
    batch, whole = batch or len(inputs), []
    # The chunks of vmap would all be there beside the Jacobian that they are joined to.
    for part in consecutive_slices(len(inputs), batch):
        jacobian = derivative(network, inputs[part])
        if part.stop - part.start == len(inputs):
            whole = jacobian
            break
        whole = whole or [j.new_empty(len(inputs), *j.shape[1:]) for j in jacobian]
        for target, source in zip(whole, jacobian, strict=True):
            target[part] = source
    return [j.flatten(1) if traced else j.flatten(0, 1) for j in whole]


def _by_torch_func(network: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Return J of every parameter, (n, C, p)."""
    parameters, fixed = trainable_and_fixed(network)

    def sample_output(p: dict[str, Tensor], x: Tensor) -> Tensor:
        return outputs_at(network, fixed, x.unsqueeze(0), p).squeeze(0)

    # Without gradients torch.linalg.solve would keep nothing to differentiate by, and be wrong.
    with plain_attention(), _without_advice(), torch.enable_grad():
        jacobian = vmap(jacrev(sample_output), (None, 0))(parameters, inputs)
    return [j.reshape(*j.shape[:2], -1) for j in jacobian.values()]


@torch.enable_grad()
def _by_autograd(network: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Return J of every parameter, (n, C, p)."""
    whole: list[Tensor] = []
    with plain_attention():
        for sample in range(len(inputs)):
            (outputs,) = network(inputs[sample : sample + 1])
            for a, one in enumerate(torch.eye(len(outputs)).to(outputs)):
                rows = _pulled_back(network, outputs, one, retain_graph=a + 1 < len(outputs))
                whole = whole or [
                    row.new_empty(len(inputs), len(outputs), row.numel()) for row in rows
                ]
                for target, row in zip(whole, rows, strict=True):
                    target[sample, a] = row.flatten()
    return whole


def transposed_product(network: nn.Module, inputs: Tensor, cotangents: Tensor) -> list[Tensor]:
    """Return J^T w of every trainable parameter, in its shape, by one reverse derivative.

    Args:
        network: as for ``per_sample_jacobian``.
        inputs: (n, ...).
        cotangents: w, shape (n, C).
    """
    with plain_attention(), torch.enable_grad():
        return _pulled_back(network, network(inputs), cotangents)


def jacobian_product(
    network: nn.Module, inputs: Tensor, tangents: list[Tensor], *, way: str
) -> Tensor:
    """Return J u, shape (n, C).

    Args:
        network: as for ``per_sample_jacobian``.
        inputs: (n, ...).
        tangents: u, of every trainable parameter, in its shape.
        way: one of ``way_along_weights``.
    """
    if way == "twice":
        return _derived_twice(network, inputs, tangents)
    if way == "rows":
        rows = zip(_by_autograd(network, inputs), tangents, strict=True)
        return sum(jacobian @ tangent.flatten() for jacobian, tangent in rows)
    parameters, fixed = trainable_and_fixed(network)
    named = dict(zip(parameters, tangents, strict=True))
    with plain_attention():
        return jvp(partial(outputs_at, network, fixed, inputs), (parameters,), (named,))[1]


@torch.enable_grad()
def _derived_twice(network: nn.Module, inputs: Tensor, tangents: list[Tensor]) -> Tensor:
    """Return J u, shape (n, C), as the derivative of u . (J^T w) with respect to w."""
    with plain_attention(), _twice_differentiable(network):
        outputs = network(inputs)
        cotangents = torch.zeros_like(outputs, requires_grad=True)  # of any value: J^T w is linear
        pulled = _pulled_back(network, outputs, cotangents, create_graph=True)
        along = sum((g * u).sum() for g, u in zip(pulled, tangents, strict=True))
        return torch.autograd.grad(along, cotangents)[0]


def _pulled_back(
    network: nn.Module, outputs: Tensor, cotangents: Tensor, **options: bool
) -> list[Tensor]:
    """Return the product of cotangents with the Jacobian of outputs, for each parameter."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    return list(
        torch.autograd.grad(
            outputs, parameters, cotangents, allow_unused=True, materialize_grads=True, **options
        )
    )


@contextlib.contextmanager
def _twice_differentiable(network: nn.Module) -> Iterator[None]:
    """Take torch's own recurrent layers on a GPU: those of cuDNN have no second derivative."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in network.modules())
    with torch.backends.cudnn.flags(enabled=False) if recurrent else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Pass over what torch says of operations that it takes sample by sample, all the same."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        yield


def derivative_bytes(network: nn.Module, inputs: Tensor, outputs: int) -> int:
    """Return what C reverse derivatives of one sample take beside its Jacobian, in bytes.

    4 (1 + C) A, with A bytes that the forward pass keeps for them, weights left out: derivatives
    after these are there for all outputs at once, and convolutions copy what they read. Measured
    1.3 to 3.6 times (1 + C) A for Myrtle-5 with 16 and 4 channels.

    Args:
        network: maps inputs (N, ...) to outputs (N, C).
        inputs: (N, ...), of which the first sample is taken.
        outputs: C.
    """
    weights = {p.data_ptr() for p in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept):
        output = network(inputs[:1])
    del output
    return 4 * (1 + outputs) * sum(kept.values())


def samples_that_fit(memory_bytes: int, fixed_bytes: int, bytes_each: int) -> int:
    """Return how many samples fit beside ``fixed_bytes`` into the budget, at least one.

    Args:
        memory_bytes: the budget.
        fixed_bytes: what is there whatever their number.
        bytes_each: of one sample.

    Raises:
        ValueError: if the budget does not hold one sample.
    """
    block = (memory_bytes - fixed_bytes) // bytes_each
    if block < 1:
        raise ValueError(
            f"memory_bytes is {memory_bytes}; this kernel needs at least {fixed_bytes + bytes_each}"
        )
    return int(block)
