"""Speed limit of any trained network along given snapshots, for use outside the workflow."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from speedlimits import speed_limit as sl
from speedlimits.functional import in_one_line
from speedlimits.gradient import TrainingLoss
from speedlimits.kernel import DEFAULT_MEMORY_BYTES, empirical_ntk
from speedlimits.kernel_products import check_spectrum
from speedlimits.network_checks import (
    check_copy,
    check_network,
    check_parameters,
    check_sample_gradients,
    check_slope,
    copied,
    make_contiguous,
)
from speedlimits.ntk_dynamics import predict
from speedlimits.precision import LARGEST_ROUNDING, largest_absolute, rounded_off, too_small
from speedlimits.spectrum import eigenvalues_and_projections, without_noise

# Own choice: a first step eta at a tenth of 2/lambda_1 has T/T_SL = 1 - eta lambda_1/2 = 0.9.
LARGEST_GAIN = 0.1
# Own choice, of T/T_SL over its prediction at the first time: times without the factor c differ by
# more, and only a kernel that has changed much by then by as much.
LARGEST_RATIO = 2.0
LARGEST_RISE = 0.01  # own choice, of the loss between two snapshots: of descent it is rounding
ROUNDING = 1e-6  # own choice, of the first loss: below that float32 may rise and stand still


class Measurement(NamedTuple):
    """What snapshots of a training say, at every time after the first; arrays of shape (M - 1,).

    Attributes:
        time: training time since the first snapshot.
        loss: L = 1/2 sum over samples and outputs of (f - y)^2.
        loss_drop: L_0 - L_T.
        geodesic_length: l_geo = |theta_T - theta_0|.
        chord_length: sum of the distances between successive snapshots, at most l_gamma: the path
            between two snapshots is not known.
        speed_limit_time: T_SL = l_geo^2 / (L_0 - L_T).
        inefficiency: T / T_SL, at least 1 for gradient flow; NaN where the loss has not dropped.
        inefficiency_predicted: the same from the NTK of the first snapshot; NaN if not asked for.
    """

    time: NDArray[np.float64]
    loss: NDArray[np.float64]
    loss_drop: NDArray[np.float64]
    geodesic_length: NDArray[np.float64]
    chord_length: NDArray[np.float64]
    speed_limit_time: NDArray[np.float64]
    inefficiency: NDArray[np.float64]
    inefficiency_predicted: NDArray[np.float64]


@torch.inference_mode(False)
@torch.enable_grad()
def measure(
    network: nn.Module,
    inputs: Tensor | NDArray,
    targets: Tensor | NDArray,
    snapshots: Iterable[Mapping[str, Tensor]] | ArrayLike | Tensor,
    times: ArrayLike,
    *,
    kernel: bool = True,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
) -> Measurement:
    """Return loss drop, lengths and inefficiency T/T_SL along snapshots (paper, equation 8).

    The bound T >= T_SL holds for gradient flow of L = 1/2 sum (f - y)^2 over samples and outputs.
    Times are in its units: learning rate x steps x c for descent of c L. torch's MSELoss, a mean
    over N samples and C outputs, is c L with c = 2/(N C), also in minibatches of any size, whose
    gradient is that of all samples on average. The network is left unchanged. Gradients are taken
    whatever the caller's mode (``torch.no_grad``, ``torch.inference_mode``). A warning tells of
    snapshots that no gradient flow makes: a loss that never drops, or rises between two of them,
    weights that do not move, T/T_SL below 0.9, or far above its prediction at the first time.

    Args:
        network: maps (N, ...) to (N, C), sample by sample.
        inputs: training inputs, tensor or array of shape (N, ...).
        targets: y, tensor or array of shape (N, C).
        snapshots: state dicts of the network, or flat weights (M, P) in the order of
            ``torch.nn.utils.parameters_to_vector``; the first one is the start.
        times: their training times, increasing, shape (M,).
        kernel: predict the inefficiency from the NTK of the first snapshot.
        memory_bytes: working memory of that kernel.

    Returns:
        The measurement.

    Raises:
        ValueError: in one sentence, if inputs, targets or times are no arrays of numbers, the
            network no network or the memory no number of bytes, if the network mixes
            samples, is random, has frozen weights, no kernel or does not fit the targets, if
            numbers are not finite, or if snapshots and times do not fit: of another network, or
            references to one and the same weights.
    """
    if not isinstance(network, nn.Module):
        given = network.__name__ if isinstance(network, type) else type(network).__name__
        raise ValueError(f"the network is {given}; give an instance of a torch.nn.Module")
    if isinstance(memory_bytes, bool) or not isinstance(memory_bytes, int) or memory_bytes <= 0:
        raise ValueError(f"memory_bytes is {memory_bytes!r}; give a positive whole number (int)")
    inputs, targets = _tensor("inputs", inputs), _tensor("targets", targets)
    if targets.dim() != 2 or len(targets) != len(inputs):
        raise ValueError(
            f"targets have shape {tuple(targets.shape)}; they must be ({len(inputs)}, outputs), "
            "one row per input"
        )
    _check_numbers("inputs", inputs)
    _check_numbers("targets", targets)
    check_parameters(network)  # a copy gives weights that share memory each their own
    given, network = network, copied(network)
    make_contiguous(network)
    precision = next(network.parameters()).dtype
    _check_precision(inputs, precision)
    weights = _flat_weights(network, snapshots)
    if len(weights):  # those of now may be the end of a training that diverged
        _set_weights(network, weights[0])
    check_network(network, inputs, targets.shape[1])
    check_copy(given, inputs)  # one that keeps no state, as was checked: the call changes nothing
    if kernel:
        try:
            check_sample_gradients(network, inputs)
        except ValueError as error:
            raise ValueError(f"{error}; kernel=False measures without the prediction") from error
    check_slope(network, inputs)
    try:
        times = np.asarray(times.detach().cpu() if isinstance(times, Tensor) else times, float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the times are no numbers ({in_one_line(error)})") from error
    if len(weights) < 2:
        raise ValueError(f"there is {len(weights)} snapshot; there must be at least 2")
    if times.shape != (len(weights),):
        raise ValueError(
            f"times have shape {times.shape}; there must be one for each of the {len(weights)} "
            "snapshots"
        )
    if not np.isfinite(times).all():
        raise ValueError("the times hold values that are not finite")
    if not np.all(np.diff(times) > 0):
        k = int(np.flatnonzero(np.diff(times) <= 0)[0])
        raise ValueError(
            f"time {k + 1} is {times[k + 1]:g}, not above {times[k]:g} before it; times must "
            "increase"
        )
    loss = TrainingLoss(network, inputs, targets)
    outputs = [loss.outputs(theta, inputs).double().cpu().numpy() for theta in weights]
    y = targets.double().cpu().numpy()
    losses = np.array([0.5 * ((f - y) ** 2).sum() for f in outputs])
    drop, time = losses[0] - losses[1:], times[1:] - times[0]
    theta = weights.cpu().numpy()
    squared = ((theta[1:] - theta[0]) ** 2).sum(axis=1)
    predicted = np.full(len(time), np.nan)
    if kernel:
        nn.utils.vector_to_parameters(weights[0].to(loss.inputs), network.parameters())
        try:
            theta_kernel = empirical_ntk(network, loss.inputs, memory_bytes=memory_bytes)
        except RuntimeError as error:  # also of operations that torch.func does not know
            raise ValueError(
                f"the NTK of the network cannot be computed ({in_one_line(error)}); kernel=False "
                "measures without the prediction"
            ) from error
        residue = y - outputs[0]
        values, projections = eigenvalues_and_projections(
            theta_kernel.cpu().numpy(), residue.reshape(-1)
        )
        try:
            check_spectrum(network, loss.inputs, residue, values, projections)
        except ValueError as error:
            raise ValueError(f"{error} kernel=False measures without the prediction") from error
        sums = predict(without_noise(values), projections, time)
        predicted = sl.inefficiency(time, sums["geodesic_length_squared"], sums["loss_drop"])
    inefficiency = sl.inefficiency(time, squared, drop)
    moved = np.linalg.norm(np.diff(theta, axis=0), axis=1)
    _warn_of_no_flow(time, losses, moved, inefficiency, predicted)
    return Measurement(
        time,
        losses[1:],
        drop,
        np.sqrt(squared),
        np.cumsum(moved),
        sl.speed_limit_time(squared, drop),
        inefficiency,
        predicted,
    )


def _warn_of_no_flow(
    time: NDArray[np.float64],
    losses: NDArray[np.float64],
    moved: NDArray[np.float64],
    inefficiency: NDArray[np.float64],
    predicted: NDArray[np.float64],
) -> None:
    """Warn of what no gradient flow does, the surest sign first.

    Args:
        time: after the first snapshot, shape (M - 1,).
        losses: of all snapshots, shape (M,).
        moved: distances between successive snapshots, shape (M - 1,).
        inefficiency: T/T_SL, shape (M - 1,).
        predicted: the same from the NTK of the first snapshot; NaN if not asked for.
    """
    told = ""
    before = losses[:-1]
    least = ROUNDING * losses[0]
    risen = np.flatnonzero(losses[1:] - before > LARGEST_RISE * before + least)
    still = np.flatnonzero((moved == 0) & (before > least))
    if not np.any(losses[1:] < losses[0]):
        told = (
            "the loss is at no snapshot below that of the first, so that T/T_SL is not defined; "
            "are snapshots and times in order?"
        )
    elif len(risen):
        k = int(risen[0])
        told = (
            f"the loss rises from {losses[k]:.4g} to {losses[k + 1]:.4g} between the snapshots {k} "
            f"and {k + 1}, which gradient flow never does: are they in order, the steps small "
            "enough, and the training loss this one?"
        )
    elif np.nanmin(inefficiency) < 1 - LARGEST_GAIN:
        worst = int(np.nanargmin(inefficiency))
        told = (
            f"T/T_SL is {inefficiency[worst]:.3g} at time {time[worst]:.6g}, below the limit of "
            "gradient flow: look at the units of the times (learning rate x steps x c), for large "
            "steps or momentum, and for another loss or random layers during training"
        )
    elif len(still):
        k = int(still[0])
        told = (
            f"the snapshots {k} and {k + 1} are the same weights, which gradient flow leaves at "
            "once; is each a copy of its own time?"
        )
    elif inefficiency[0] > LARGEST_RATIO * predicted[0]:
        told = (
            f"T/T_SL is {inefficiency[0]:.3g} at the first time and {predicted[0]:.3g} by the NTK "
            "of the first snapshot, which agree for gradient flow unless the kernel has changed "
            "much by then: look at the units of the times (learning rate x steps x c, for MSELoss "
            "c = 2 / (N C))"
        )
    if told:
        warnings.warn(told, stacklevel=5)  # measure's caller, behind its two decorators


def _tensor(name: str, values: object) -> Tensor:
    """Return a tensor or array as a tensor without gradient, usable in a gradient.

    Raises:
        ValueError: in one sentence, if it is neither.
    """
    kind = type(values).__name__
    if np.ma.is_masked(values):
        raise ValueError(
            f"{name} are masked at {np.ma.count_masked(values)} places; leave these samples out"
        )
    if isinstance(values, np.ndarray) and values.dtype.kind in "biufc":
        # Views backwards and foreign byte orders, which torch does not take, are numbers too.
        values = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    try:
        tensor = torch.as_tensor(values).detach()
        len(tensor)  # a single number has no rows
    except Exception as error:  # of whatever kind a foreign object's own code raises
        raise ValueError(
            f"{name} are of type {kind}; give a tensor or array of numbers with one row per sample"
        ) from error
    if tensor.layout != torch.strided:
        raise ValueError(f"{name} are sparse; make them dense (to_dense)")
    return tensor.clone() if tensor.is_inference() else tensor


def _check_numbers(name: str, values: Tensor) -> None:
    """Raise unless a tensor (N, ...) holds finite real numbers.

    Raises:
        ValueError: in one sentence, if there are none, or some are complex, NaN or infinite.
    """
    if not values.numel():
        raise ValueError(f"there are no {name}")
    if values.is_complex():
        raise ValueError(f"the {name} are {values.dtype}; they must be real")
    wrong = int((~torch.isfinite(values)).sum())
    if wrong:
        raise ValueError(f"the {name} hold {wrong} values that are not finite")


def _check_precision(inputs: Tensor, precision: torch.dtype) -> None:
    """Raise unless the precision of a network holds its inputs.

    Raises:
        ValueError: in one sentence, if they are beyond it, float32 loses the differences between
            samples or all of them, or half precision changes whole numbers, which may be those of
            words.
    """
    if not inputs.is_floating_point():
        return  # told by ``check_network``
    rounded = inputs.to(precision)
    if not torch.isfinite(rounded).all():
        raise ValueError(
            f"the inputs reach {float(inputs.abs().max()):.3g}, beyond {precision}, the precision "
            f"of the weights; divide them, or measure in {_holding(inputs, precision)}"
        )
    if (inputs.dtype, precision) == (torch.float64, torch.float32):
        values = inputs.cpu().numpy()
        largest, lost = largest_absolute(values), rounded_off(values, "float32")
        if too_small(largest, "float32"):
            raise ValueError(
                f"the inputs are at most {largest:.3g}, too small for torch.float32, the precision "
                "of the weights; multiply them, or measure in torch.float64"
            )
        if lost > LARGEST_ROUNDING:
            raise ValueError(
                f"the inputs reach {largest:.3g}, and torch.float32, the precision of the weights, "
                f"changes the differences between them by {lost:.1%}; subtract a constant, "
                "or measure in torch.float64"
            )
    whole = torch.equal(inputs, inputs.round()) and precision in (torch.float16, torch.bfloat16)
    if whole and not torch.equal(rounded.to(inputs), inputs):
        raise ValueError(
            f"the inputs are whole numbers that {precision}, the precision of the weights, does "
            f"not hold; measure in {_holding(inputs, precision)}"
        )


def _holding(inputs: Tensor, precision: torch.dtype) -> torch.dtype:
    """Return the smallest precision above another that holds the inputs."""
    larger = [torch.float32, torch.float64][precision == torch.float32 :]
    return next((p for p in larger if torch.equal(inputs.to(p).to(inputs), inputs)), larger[-1])


def _flat_weights(network: nn.Module, snapshots: object) -> Tensor:
    """Return the snapshots as one float64 tensor (M, P).

    Raises:
        ValueError: if they are not the finite weights of this network, each of its own time.
    """
    if isinstance(snapshots, (Mapping, nn.Module)) or not isinstance(
        snapshots, (Iterable, Tensor, np.ndarray)
    ):
        kind = type(snapshots).__name__
        raise ValueError(f"the snapshots are a {kind}; give a list, one entry for each time")
    rows = list(snapshots)
    if rows and all(isinstance(row, Mapping) for row in rows):
        _check_states(network, rows)
        names = [name for name, _ in network.named_parameters()]
        rows = [np.concatenate([_array(state[name]).ravel() for name in names]) for state in rows]
    rows = [_array(row) for row in rows]
    size = sum(p.numel() for p in network.parameters())
    wrong = [row.shape for row in rows if row.shape != (size,)]
    if wrong:
        shape = (len(rows), *wrong[0])
        raise ValueError(f"the snapshots have shape {shape}; they must be (snapshots, {size})")
    for k, row in enumerate(rows):
        count = int((~np.isfinite(row)).sum())
        if count:
            raise ValueError(f"snapshot {k} holds {count} values that are not finite; leave it out")
    return torch.from_numpy(np.reshape(rows, (len(rows), size)))


@torch.no_grad()
def _set_weights(network: nn.Module, weights: Tensor) -> None:
    """Copy flat weights (P,) into a network, each in its own precision."""
    parameters = list(network.parameters())
    for parameter, part in zip(
        parameters, weights.split([p.numel() for p in parameters]), strict=True
    ):
        parameter.copy_(part.view_as(parameter))


def _array(values: object) -> NDArray[np.float64]:
    """Return weights as a float64 array of their shape.

    Raises:
        ValueError: if they are no real numbers.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values if values.is_complex() else values.double()
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # also of tensors with a gradient
        raise ValueError(
            "a snapshot is a list of several arrays or tensors; give state dicts, or flat weights"
        ) from error
    if array.dtype.kind not in "iuf":
        kinds = {"c": "complex", "O": type(values).__name__}
        what = kinds.get(array.dtype.kind, "no numbers")
        raise ValueError(f"the snapshots are {what}; give state dicts, or flat weights of floats")
    return array.astype(np.float64)


def _check_states(network: nn.Module, states: list[Mapping[str, Tensor]]) -> None:
    """Raise unless state dicts are states of this network, each of its own time.

    Raises:
        ValueError: if weights are missing, unknown, of another shape or not yet made, if one has
            different values, if a buffer changes along the snapshots, or if all are references to
            the weights of now.
    """
    known, weights = network.state_dict(), dict(network.named_parameters())
    buffers = dict(network.named_buffers())
    names = {id(weight): name for name, weight in weights.items()}
    tied = {
        name: names[id(weight)]
        for name, weight in network.named_parameters(remove_duplicate=False)
        if name not in weights
    }
    for k, state in enumerate(states):
        for name, weight in weights.items():
            if name not in state:
                longer = next((key for key in state if key.endswith(f".{name}")), None)
                shorter = next((key for key in state if name.endswith(f".{key}")), None)
                hint = f" (it holds {longer}: remove the prefix)" if longer else ""
                if shorter:  # of torch.compile or DataParallel
                    hint = f" (it holds {shorter}: measure the network without its wrapper)"
                raise ValueError(f"a snapshot lacks the weights {name} of the network{hint}")
            if isinstance(state[name], nn.parameter.UninitializedTensorMixin):
                raise ValueError(
                    f"snapshot {k} has no values yet for {name} (lazy layer); call the network "
                    "once before the first snapshot"
                )
            shape = tuple(np.shape(state[name]))
            if shape != tuple(weight.shape):  # a transposed layer has as many weights
                raise ValueError(
                    f"snapshot {k} gives {name} the shape {shape}, the network "
                    f"{tuple(weight.shape)}"
                )
        for name in state:
            if name not in known:
                raise ValueError(f"snapshot {k} holds {name}, which the network does not have")
            held = buffers.get(name)
            if held is None:
                continue
            if not torch.equal(torch.as_tensor(state[name]).to(held), held):
                raise ValueError(
                    f"the buffer {name} of snapshot {k} differs from the network's; a loss of the "
                    "weights alone needs the same in all: train and measure in eval mode"
                )
        for name, one in tied.items():
            other = state.get(name, state[one])
            if not torch.equal(torch.as_tensor(other), torch.as_tensor(state[one])):
                raise ValueError(
                    f"snapshot {k} gives {one} and {name} different values, which are one weight "
                    "of the network"
                )
    first = [value for value in states[0].values() if torch.is_tensor(value) and value.numel()]
    later = [state[name] for state in states[1:] for name in weights]
    places = {value.data_ptr() for value in first}
    if any(torch.is_tensor(value) and value.data_ptr() in places for value in later):
        raise ValueError(
            "the snapshots share their memory, so that all are the weights of now; keep "
            "copy.deepcopy(network.state_dict())"
        )
