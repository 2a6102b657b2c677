"""What a network must be to have a speed limit and a kernel: float, fixed, sample by sample."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from speedlimits.functional import in_one_line
from speedlimits.jacobian import (
    DERIVATIVE_TOLERANCE,
    SPACINGS,
    CombinedOutputs,
    count_outputs,
    differ,
    jacobian_product,
    mixing_normalisation,
    obstacle_to_torch_func,
    per_sample_jacobian,
    size_of,
)
from speedlimits.networks import in_precision

# Outputs of a sample alone and within a batch differ by rounding; 1e-3 of their size is more than
# that, even in float32 with cancellation.
MIXING_TOLERANCE = 1e-3
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
DROPOUTS = (
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
)  # fmt: skip
MORE_CALLS = 20  # own choice, where a dropout's rate may be read by the network itself
WITH_DROPOUT = (nn.MultiheadAttention, nn.RNN, nn.LSTM, nn.GRU)
MOVED = 0.01  # own choice: far above rounding, too little to wake a ReLU
SLOPE_STEPS = (1e-6, -1e-6, 1e-7, -1e-7)  # of the weights: rounding is 1e-9 of such changes
LONGER_STEP = 1e-3  # float32 inside a network sees that much
EPS = torch.finfo(torch.float64).eps
SLOPE_TOLERANCE = 0.01  # own choice, of |grad g|: implicit gradients are solved to less
RANDOM_DIRECTIONS, RANDOM_TOLERANCE = 4, 0.03  # an error of 10 % is missed once in 300 networks
CHECKED_SAMPLES = 8  # own choice: more than groups of two or four in which samples could be mixed


@torch.no_grad()
def check_network(network: nn.Module, inputs: Tensor, outputs: int) -> None:
    """Raise ValueError, in one sentence, if speed limit or kernel of the network have no meaning.

    One parameter registered at several places is fine: it is one weight, and its derivative the
    sum over these places.

    Args:
        network: to be checked.
        inputs: some of its inputs, shape (N, ...).
        outputs: wanted number of outputs C.

    Raises:
        ValueError: says in one sentence what is wrong with the network.
    """
    parameters = dict(network.named_parameters())
    check_parameters(network)
    if isinstance(network, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        kind = type(network).__name__
        raise ValueError(f"the network is {kind}; give the network inside, network.module")
    if any(isinstance(module, torch.jit.ScriptModule) for module in network.modules()):
        raise ValueError(
            "the network is compiled by torch.jit, which hides its weights from torch.func; give "
            "the plain module"
        )
    dtypes = list(dict.fromkeys(parameter.dtype for parameter in parameters.values()))
    if len(dtypes) > 1:
        raise ValueError(
            f"the weights have several precisions ({', '.join(map(str, dtypes))}); give them one"
        )
    for name, tensor in (*parameters.items(), *network.named_buffers()):
        if tensor.layout != torch.strided:
            raise ValueError(f"{name} is sparse; make it dense (to_dense)")
    for name, layer in network.named_modules():
        if why := mixing_normalisation(layer):
            raise ValueError(
                f"the layer {name or type(layer).__name__} is batch normalisation {why}, or "
                "normalise over layers or groups"
            )
        if getattr(layer, "max_norm", None) is not None and isinstance(layer, EMBEDDINGS):
            raise ValueError(
                f"the layer {name or type(layer).__name__} has a max_norm, by which it changes its "
                "weights when it is called; leave max_norm out"
            )
    if not inputs.is_floating_point():
        raise ValueError(
            f"the inputs are {inputs.dtype}; they must be float (an embedding of numbered words "
            "can take them by x.long() in the network)"
        )
    for name, weights in parameters.items():
        if not torch.isfinite(weights).all():
            raise ValueError(f"the weights {name} hold values that are not finite at the start")
    part = inputs[:CHECKED_SAMPLES].to(next(iter(parameters.values())), copy=True)
    _check_outputs(network, part, outputs)
    _check_leaves(network, part)
    _check_behind_zeros(network, part, outputs)


def _check_behind_zeros(network: nn.Module, part: Tensor, outputs: int) -> None:
    """Raise ValueError for what layers of zeros hide at the start, by a copy without them.

    Raises:
        ValueError: as ``_check_outputs``.
    """
    try:
        moved = copied(network)
        zeros = [p for p in moved.parameters() if p.numel() and not p.any()]
        if {p.data_ptr() for p in zeros} & {p.data_ptr() for p in network.parameters()}:
            return
        _move(zeros)
        if not zeros or not torch.isfinite(_outputs(moved, part)).all():
            return
    except ValueError:  # who needs a copy says why there is none; zeros may have to be zero
        return
    try:
        _check_outputs(moved, part, outputs)
    except ValueError as error:
        raise ValueError(f"{error} (as soon as weights that start at zero have moved)") from None


def _check_outputs(network: nn.Module, part: Tensor, outputs: int) -> None:
    """Raise ValueError unless a network is a function of weights and sample with C outputs.

    Args:
        network: to be checked.
        part: some of its inputs, shape (N, ...).
        outputs: wanted number of outputs C.

    Raises:
        ValueError: says in one sentence what is wrong with the network.
    """
    dtype = next(network.parameters()).dtype
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    parameters = {name: weights.clone() for name, weights in network.named_parameters()}
    given = part.clone()
    first = _outputs(network, part)
    if not torch.equal(part, given):
        raise ValueError(
            "the network changes its inputs in place (inplace=True in its first layer, x *= ...?); "
            "let it begin with x = x.clone()"
        )
    again = _outputs(network, part)
    # At a small rate two calls of few units agree.
    dropping = {name: layer for name, layer in network.named_modules() if _drops(layer)}
    called = _called(network, part) if dropping else set()
    for name, layer in dropping.items():
        if layer in called or any(_outputs_differ(network, part, first) for _ in range(MORE_CALLS)):
            raise ValueError(
                f"the layer {name or 'of the network'} ({type(layer).__name__}) is random: it "
                "drops units anew in every call (training mode), so that the loss is no function "
                "of the weights; call network.eval() or remove it"
            )
    if not isinstance(first, Tensor) or first.shape != (len(part), outputs):
        shape = tuple(first.shape) if isinstance(first, Tensor) else type(first).__name__
        raise ValueError(
            f"the network maps {len(part)} inputs to {shape}; it must give ({len(part)}, {outputs})"
        )
    if first.dtype != dtype:
        raise ValueError(
            f"the outputs are {first.dtype}, the weights {dtype}; compute in the precision of "
            "the weights"
        )
    if not torch.isfinite(first).all():
        raise ValueError("the outputs at the start are not finite")
    for name, weights in network.named_parameters():
        if not torch.equal(weights, parameters[name]):
            raise ValueError(
                f"the weights {name} change when the network is called (clamped or normalised "
                "inside?), so that training is no gradient flow; compute with a changed copy of "
                "them"
            )
    if not torch.equal(first, again):
        raise ValueError(
            "two calls of the network differ: it is random (dropout?) or keeps a state; call "
            "network.eval() or remove that layer"
        )
    for name, buffer in network.named_buffers():
        if not torch.equal(buffer, buffers[name]):
            raise ValueError(
                f"the buffer {name} changes when the network is called; a network with a state has "
                "no loss of its weights alone: call network.eval() or remove it"
            )
    each = [_outputs(network, part[k : k + 1]) for k in range(len(part))]
    for alone in each:
        if alone.shape != (1, outputs):
            raise ValueError(
                f"the network maps a single input to {tuple(alone.shape)}; it must give "
                f"(1, {outputs}), as in a batch (squeeze inside?)"
            )
    if (torch.cat(each) - first).abs().max() > MIXING_TOLERANCE * first.abs().max():
        raise ValueError(
            "the output of a sample depends on the others of its batch (or on rounding, which a "
            "higher precision would lower); a network without per-sample outputs has no kernel"
        )


@torch.no_grad()
def _move(parameters: list[Tensor]) -> None:
    """Move weights in place by a hundredth of their size, those that are zero by a hundredth."""
    for number, weights in enumerate(parameters):
        random = torch.Generator().manual_seed(number)
        size = weights.square().mean().sqrt() if weights.numel() else 0.0
        step = torch.randn(weights.shape, generator=random, dtype=weights.dtype)
        weights += MOVED * (size if size > 0 else 1.0) * step.to(weights.device)


@torch.enable_grad()
def _check_leaves(network: nn.Module, inputs: Tensor) -> None:
    """Raise ValueError if the outputs depend on weights that the network does not know of.

    They would stay as they are: in a plain list torch does not find them. What a call makes anew is
    no weight, as a copy of the inputs by which a force is the derivative of an energy.

    Raises:
        ValueError: names the shape of one.
    """
    known = {id(parameter) for parameter in network.parameters()} | {id(inputs)}
    # Both there at once: their nodes, and what the first call has made, must not be others later.
    first, again = _outputs(network, inputs), _outputs(network, inputs)
    lasting = _leaves(again).keys() - known
    unknown = [leaf for key, leaf in _leaves(first).items() if key in lasting]
    if unknown:
        shape = tuple(unknown[0].shape)
        raise ValueError(
            f"weights of shape {shape} decide the outputs but are no parameters of the network (in "
            "a plain list?), so that nothing trains them; register them by nn.Parameter, "
            "nn.ParameterList or nn.ModuleList, or give them no gradient"
        )


def _leaves(outputs: Tensor) -> dict[int, Tensor]:
    """Return the tensors that outputs have a gradient with respect to, by their identity."""
    seen, ahead, found = set(), [outputs.grad_fn], {}
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            found[id(leaf)] = leaf
        ahead += [following for following, _ in node.next_functions]
    return found


@torch.no_grad()
def outputs_apart(network: nn.Module, other: nn.Module, inputs: Tensor) -> bool:
    """Return whether two networks differ by more than rounding on some inputs.

    Args:
        network: one that ``check_network`` lets pass.
        other: a network of the same shape and precision.
        inputs: some of their inputs, shape (N, ...).
    """
    part = inputs[:CHECKED_SAMPLES].to(next(network.parameters()))
    ours, theirs = _outputs(network, part), _outputs(other, part)
    return bool((ours - theirs).abs().max() > MIXING_TOLERANCE * ours.abs().max())


def check_parameters(network: nn.Module) -> None:
    """Raise ValueError, in one sentence, if a network's weights cannot be trained one by one.

    Args:
        network: to be checked.

    Raises:
        ValueError: says in one sentence what is wrong with the weights.
    """
    parameters = dict(network.named_parameters())
    if not parameters:
        raise ValueError("the network has no weights to train")
    places = []
    for name, parameter in parameters.items():
        if isinstance(parameter, nn.UninitializedParameter) or parameter.is_meta:
            raise ValueError(f"the weights {name} have no values yet (lazy layer, meta device?)")
        if not parameter.is_floating_point():
            raise ValueError(f"the weights {name} are {parameter.dtype}; they must be float")
        if not parameter.requires_grad:
            raise ValueError(
                f"the weights {name} are frozen (requires_grad is False); make them a buffer"
            )
        if parameter.numel():
            steps = [(n - 1) * s for n, s in zip(parameter.shape, parameter.stride(), strict=True)]
            start = parameter.data_ptr()
            places.append((start, start + (1 + sum(steps)) * parameter.element_size(), name))
    for (_, end, name), (start, _, other) in itertools.pairwise(sorted(places)):
        if start < end:
            raise ValueError(
                f"the weights {name} and {other} share memory but are two parameters; register one "
                "nn.Parameter at both places, or clone it"
            )


def _outputs_differ(network: nn.Module, inputs: Tensor, outputs: Tensor) -> bool:
    """Return whether another call of the network gives other outputs."""
    return not torch.equal(_outputs(network, inputs), outputs)


def _called(network: nn.Module, inputs: Tensor) -> set[nn.Module]:
    """Return the modules that a call of the network calls."""
    found: set[nn.Module] = set()
    handles = [
        module.register_forward_pre_hook(lambda called, _: found.add(called))
        for module in network.modules()
    ]
    try:
        _outputs(network, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _drops(layer: nn.Module) -> bool:
    """Return whether a layer is one of torch's that draws what it drops anew in every call."""
    rate = 0.0
    if isinstance(layer, DROPOUTS):
        rate = layer.p
    elif isinstance(layer, WITH_DROPOUT) and getattr(layer, "num_layers", 2) > 1:
        rate = layer.dropout
    return layer.training and rate > 0


def _outputs(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return f(inputs).

    Raises:
        ValueError: with what the network said, if it fails.
    """
    try:
        return network(inputs)
    except Exception as error:
        raise ValueError(
            f"the network fails on inputs of shape {tuple(inputs.shape)}, {inputs.dtype} "
            f"({in_one_line(error)})"
        ) from error


def make_contiguous(network: nn.Module) -> None:
    """Lay the weights out in memory so that flat vectors can be made of views.

    Args:
        network: whose weights are changed in place; lazy ones, which have no shape yet, are left.
    """
    for parameter in network.parameters():
        if not isinstance(parameter, nn.UninitializedParameter):
            parameter.data = parameter.data.contiguous()


def copied(network: nn.Module) -> nn.Module:
    """Return a copy of a network.

    Args:
        network: to be copied.

    Returns:
        The copy, of which nothing is shared.

    Raises:
        ValueError: if torch cannot copy it, or would make other tensors of its weights.
    """
    known = (p for p in network.parameters() if not isinstance(p, UninitializedParameter))
    if any(parameter.is_inference() for parameter in known):
        raise ValueError(
            "the network was made under torch.inference_mode, so that its weights have no "
            "gradient; make it outside"
        )
    try:
        return copy.deepcopy(network)
    except Exception as error:
        raise ValueError(
            f"the network cannot be copied ({in_one_line(error)}); make weights that are "
            "computed from others plain parameters, as by prune.remove, or compute them by "
            "torch.nn.utils.parametrize"
        ) from error


def check_copy(network: nn.Module, inputs: Tensor) -> None:
    """Raise ValueError, in one sentence, if a copy computes with the weights of the original.

    Losses are those of a copy, whose weights change. Where a closure or a bound method uses the
    original's, the copy has no gradient.

    Args:
        network: one that ``check_network`` lets pass.
        inputs: some of its inputs, shape (N, ...).

    Raises:
        ValueError: if the gradients of both differ, or there is none.
    """
    part = inputs[:2].to(next(network.parameters()))
    _compare_with_copy(network, part, _reverse_gradient(network, part))


def _compare_with_copy(network: nn.Module, part: Tensor, ours: tuple[Tensor, ...]) -> None:
    """Compare the gradient of a network with that of a copy; see ``check_copy``.

    Raises:
        ValueError: if they differ.
    """
    theirs = _reverse_gradient(copied(network), part)  # copied once it has run, as by training
    if differ(theirs, list(ours)):
        raise ValueError(
            "a copy of the network has another gradient, since it computes with the weights of the "
            "original or loses a hook on them; take weights from self, not from a closure or a "
            "method bound to another"
        )


def _reverse_gradient(network: nn.Module, inputs: Tensor) -> tuple[Tensor, ...]:
    """Return the gradient of sum_i sum_a a f_a(x_i) with respect to each weight.

    Raises:
        ValueError: if no weight decides the outputs, or torch has no finite gradient of them.
    """
    total = _weighted(network, inputs)(inputs).sum()
    if not total.requires_grad:
        raise ValueError("the outputs do not depend on the weights (no_grad or detach inside?)")
    weights = list(network.parameters())
    try:
        found = torch.autograd.grad(total, weights, materialize_grads=True, allow_unused=True)
    except Exception as error:
        raise ValueError(
            f"torch takes no gradient of the network ({in_one_line(error)})"
        ) from error
    for (name, _), gradient in zip(network.named_parameters(), found, strict=True):
        if gradient.layout != torch.strided:
            raise ValueError(f"the gradient of {name} is sparse; build its layer with sparse=False")
    if not all(torch.isfinite(gradient).all() for gradient in found):
        raise ValueError("the gradient of the outputs at the start is not finite")
    return found


def _weighted(network: nn.Module, inputs: Tensor) -> nn.Module:
    """Return the network whose single output is sum_a a f_a."""
    return CombinedOutputs(network, _rising(count_outputs(network, inputs))[:, None])


def _rising(outputs: int) -> Tensor:
    """Return the weights a = 1, 2, ... of sums of outputs, which tell these apart."""
    return torch.arange(1.0, 1.0 + outputs)


def check_sample_gradients(network: nn.Module, inputs: Tensor) -> None:
    """Raise ValueError, in one sentence, if gradients of single samples do not add up.

    Training takes reverse derivatives of a batch, the kernel those of single samples. For
    g = sum_i sum_a a f_a(x_i) grad g of the batch must be the sum of the samples' gradients. (Plain
    sums of outputs are constant for a softmax.)

    Args:
        network: one that ``check_network`` lets pass.
        inputs: some of its inputs, shape (N, ...).

    Raises:
        ValueError: if it is not, or torch takes no gradient of a single sample.
    """
    part = inputs[:CHECKED_SAMPLES].to(next(network.parameters()))
    batch = _reverse_gradient(network, part)
    try:
        by_autograd = obstacle_to_torch_func(network, part) is not None
        each = per_sample_jacobian(_weighted(network, part), part, by_autograd=by_autograd)
    except Exception as error:
        raise ValueError(
            "torch takes no derivatives of single samples of the network, which its kernel needs "
            f"({in_one_line(error)})"
        ) from error
    if differ((of_samples.sum(0) for of_samples in each), [g.flatten() for g in batch]):
        raise ValueError(
            "gradients of single samples do not add up to that of the batch; a custom backward "
            "pass, a hook, a detached part or lower precision inside (autocast) makes one of them "
            "wrong"
        )


@torch.no_grad()
def _check_untrained(network: nn.Module, inputs: Tensor) -> None:
    """Raise ValueError if weights whose gradient is zero on all inputs decide the outputs.

    They are moved by a hundredth. Where none matters, as behind a layer of zeros or of dead ReLUs,
    the outputs stay as they are; half of the digits are left for rounding.

    Raises:
        ValueError: names them.
    """
    with torch.enable_grad():
        gradients = _reverse_gradient(network, inputs)
    before = network(inputs)
    rounding = torch.finfo(before.dtype).eps ** 0.5 * before.abs().max()
    found = []
    for (name, weights), gradient in zip(network.named_parameters(), gradients, strict=True):
        if gradient.any() or not weights.numel():
            continue
        kept = weights.clone()
        _move([weights])
        if (network(inputs) - before).abs().max() > rounding:
            found.append(name)
        weights.copy_(kept)
    if found:
        raise ValueError(
            f"the weights {', '.join(found)} decide the outputs but get no gradient, so that "
            "nothing trains them (detach, .data, a checkpoint with use_reentrant=True, or units "
            "that are dead or saturated at the start?); make "
            "them buffers if they are to stay as they are"
        )


@torch.no_grad()
def check_slope(network: nn.Module, inputs: Tensor) -> None:
    """Raise ValueError, in one sentence, if the network's gradient is not the slope of its outputs.

    For g = sum_i sum_a a f_a(x_i) of a copy in float64 small differences, along grad g, the weights
    and random directions, must be those that the copy's own grad g says: a part that is detached
    has no gradient, and a straight-through estimator a foreign one. An error of the gradient that
    is orthogonal to it and to the weights shows along random directions alone, of which each sees
    1/sqrt(P) of both. All weights of a tensor move by the same share of its size.

    Four differences, forwards and backwards of two lengths, must agree to count, be above rounding,
    and not grow as the steps shrink: they do not agree beside a kink or a jump, and where the
    network computes in lower precision.

    Args:
        network: one that ``check_network`` lets pass.
        inputs: some of its inputs, shape (N, ...).

    Raises:
        ValueError: says what the slope is and what the gradient says.
    """
    part = inputs[:CHECKED_SAMPLES].to(next(network.parameters())).double()
    try:
        exact = in_precision(copied(network), torch.float64)
        with torch.enable_grad():
            gradient = _reverse_gradient(exact, part)
        weights = [parameter.clone() for parameter in exact.parameters()]
        total = _weighted(exact, part)
        at_start, rounding = _sum_at(total, part, weights), 8 * EPS * _sum_of_sizes(exact, part)
    except Exception:  # a network of its own precision alone; torch's gradient must do
        return
    noise = rounding / min(map(abs, SLOPE_STEPS))
    for name, direction, allowed in _slope_directions(weights, gradient):
        said = sum(float((g * d).sum()) for g, d in zip(gradient, direction, strict=True))

        def slope(step: float, direction: list[Tensor] = direction) -> float:
            moved = (w + step * d for w, d in zip(weights, direction, strict=True))
            try:
                return (_sum_at(total, part, moved) - at_start) / step
            except Exception:  # weights that must not move that way; NaN decides nothing
                return math.nan

        slopes = [slope(step) for step in SLOPE_STEPS]
        far, near = max(map(abs, slopes[:2])), max(map(abs, slopes[2:]))
        uncertain = max(noise, max(slopes) - min(slopes)) > 0.1 * allowed or near > 2 * far + noise
        # All zero may be lower precision inside, of which a longer step sees more.
        uncertain |= far == near == 0 and abs(slope(LONGER_STEP) - said) < 0.5 * abs(said)
        if not uncertain and abs(slopes[0] - said) > allowed:
            raise ValueError(
                f"along {name} the outputs change by {slopes[0]:.3g} where their gradient says "
                f"{said:.3g}; a detached part, a straight-through estimator or a custom backward "
                "pass makes it another, and training by it is no gradient flow"
            )


def _slope_directions(
    weights: list[Tensor], gradient: tuple[Tensor, ...]
) -> Iterator[tuple[str, list[Tensor], float]]:
    """Yield the directions of ``check_slope``: name, change of each weight, allowed error.

    Every tensor changes by its own size, one of zeros by a hundredth. Nothing if the gradient is
    zero or infinite.
    """
    sizes = [size_of([w]) or MOVED * math.sqrt(w.numel()) for w in weights]
    steep = [size_of([g]) * size for g, size in zip(gradient, sizes, strict=True)]
    if not 0 < sum(steep) < math.inf:
        return
    random = torch.Generator().manual_seed(0)

    def resized(shape: Iterable[Tensor]) -> list[Tensor]:
        return [size * d / (size_of([d]) or 1.0) for size, d in zip(sizes, shape, strict=True)]

    yield "their gradient", resized(gradient), SLOPE_TOLERANCE * math.hypot(*steep)
    yield "the weights", resized(weights), SLOPE_TOLERANCE * math.hypot(*steep)
    each = [s / math.sqrt(max(w.numel(), 1)) for s, w in zip(steep, weights, strict=True)]
    for _ in range(RANDOM_DIRECTIONS):
        drawn = (torch.randn(w.shape, generator=random, dtype=w.dtype).to(w) for w in weights)
        yield "a random direction", resized(drawn), RANDOM_TOLERANCE * math.hypot(*each)


@torch.no_grad()
def _sum_of_sizes(network: nn.Module, part: Tensor) -> float:
    """Return sum_i sum_a a |f_a(x_i)|, of which sums of outputs have their rounding."""
    outputs = network(part).abs().double()
    return float((outputs @ _rising(outputs.shape[1]).to(outputs)).sum())


def _sum_at(total: nn.Module, part: Tensor, weights: Iterable[Tensor]) -> float:
    """Return the sum over samples of ``_weighted`` outputs at weights, to which it is set."""
    for parameter, value in zip(total.parameters(), weights, strict=True):
        parameter.copy_(value)
    return float(total(part).double().sum())


def check_derivatives(network: nn.Module, inputs: Tensor) -> None:
    """Raise ValueError, in one sentence, if torch's derivatives of the network disagree.

    Besides what ``check_sample_gradients`` and ``check_slope`` ask, grad g of two samples times
    tangents must be the forward derivative along them, if there is one. A copy must have the same
    gradient, and weights without one must not decide the outputs.

    Args:
        network: one that ``check_network`` lets pass.
        inputs: some of its inputs, shape (N, ...).

    Raises:
        ValueError: says in one sentence which derivative is missing or wrong.
    """
    weights = [parameter.detach() for parameter in network.parameters()]
    part = inputs[:2].to(weights[0])
    batch = _reverse_gradient(network, part)
    _compare_with_copy(network, part, batch)
    check_sample_gradients(network, inputs)
    if not all(gradient.any() for gradient in batch):  # of two samples; those of all may have one
        _check_untrained(network, inputs[:CHECKED_SAMPLES].to(weights[0]))
    _check_forward(network, part, batch)
    check_slope(network, inputs)


def _check_forward(network: nn.Module, part: Tensor, batch: tuple[Tensor, ...]) -> None:
    """Compare forward derivatives, if there are any, with the gradient, along several directions.

    Raises:
        ValueError: if they differ.
    """
    weights = [parameter.detach() for parameter in network.parameters()]
    # Of outputs that are saturated forward derivatives are differences of numbers of their size.
    eps = torch.finfo(part.dtype).eps
    rounding = eps**0.5 * _sum_of_sizes(network, part)
    coarser = max(1.0, SPACINGS * eps / DERIVATIVE_TOLERANCE)  # half precision, as in ``differ``
    directions = [(weights, DERIVATIVE_TOLERANCE * size_of(batch) * size_of(weights))]
    # Along the weights nothing changes below a normalisation, nor where they start at zero.
    directions += [found[1:] for found in _slope_directions(weights, batch)]
    for tangents, allowed in directions:
        try:
            forward = jacobian_product(_weighted(network, part), part, tangents, way="forward")
        except Exception:  # there is none: the kernel takes reverse ones
            return
        pairs = zip(batch, tangents, strict=True)
        along = sum(float((g.double() * u.double()).sum()) for g, u in pairs)
        if abs(float(forward.double().sum()) - along) > max(coarser * allowed, rounding):
            raise ValueError(
                "the forward derivative of the network does not agree with the reverse one; a "
                "custom derivative, a hook or a part under no_grad makes one of them wrong"
            )
