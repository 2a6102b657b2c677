"""Speed limit of any trained network along given snapshots, for use outside the workflow."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from speedlimits import speed_limit as sl
from speedlimits.gradient import TrainingLoss
from speedlimits.kernel import DEFAULT_MEMORY_BYTES, empirical_ntk
from speedlimits.network_checks import check_network
from speedlimits.ntk_dynamics import predict
from speedlimits.spectrum import eigenvalues_and_projections, without_noise


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
        inefficiency: T / T_SL, at least 1 for gradient flow.
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


def measure(
    network: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    snapshots: Sequence[Mapping[str, Tensor]] | ArrayLike | Tensor,
    times: ArrayLike,
    *,
    kernel: bool = True,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
) -> Measurement:
    """Return loss drop, lengths and inefficiency T/T_SL along snapshots (paper, equation 8).

    The bound T >= T_SL holds for gradient flow of L = 1/2 sum (f - y)^2 over samples and outputs.
    Times are in its units: learning rate x steps x c for descent of c L. torch's MSELoss, a mean
    over N samples and C outputs, is c L with c = 2/(N C). The network is left unchanged.

    Args:
        network: maps (N, ...) to (N, C), sample by sample.
        inputs: training inputs, shape (N, ...).
        targets: y, shape (N, C).
        snapshots: state dicts of the network, or flat weights (M, P) in the order of
            ``torch.nn.utils.parameters_to_vector``; the first one is the start.
        times: their training times, increasing, shape (M,).
        kernel: predict the inefficiency from the NTK of the first snapshot.
        memory_bytes: working memory of that kernel.

    Returns:
        The measurement.

    Raises:
        ValueError: in one sentence, if the network mixes samples, is random, has frozen weights or
            does not fit the targets, or if snapshots and times do not fit.
    """
    network = copy.deepcopy(network)
    if targets.dim() != 2 or len(targets) != len(inputs):
        raise ValueError(
            f"targets have shape {tuple(targets.shape)}; they must be ({len(inputs)}, outputs), "
            "one row per input"
        )
    check_network(network, inputs, targets.shape[1])
    weights = _flat_weights(network, snapshots)
    times = np.asarray(times, float)
    if times.shape != (len(weights),) or len(times) < 2 or not np.all(np.diff(times) > 0):
        raise ValueError(
            f"times have shape {times.shape}; they must increase, one for each of the "
            f"{len(weights)} snapshots, of which there must be at least 2"
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
        theta_kernel = empirical_ntk(network, loss.inputs, memory_bytes=memory_bytes)
        values, projections = eigenvalues_and_projections(
            theta_kernel.cpu().numpy(), (y - outputs[0]).reshape(-1)
        )
        sums = predict(without_noise(values), projections, time)
        predicted = sl.inefficiency(time, sums["geodesic_length_squared"], sums["loss_drop"])
    return Measurement(
        time,
        losses[1:],
        drop,
        np.sqrt(squared),
        np.cumsum(np.linalg.norm(np.diff(theta, axis=0), axis=1)),
        sl.speed_limit_time(squared, drop),
        sl.inefficiency(time, squared, drop),
        predicted,
    )


def _flat_weights(network: nn.Module, snapshots: object) -> Tensor:
    """Return the snapshots as one float64 tensor (M, P).

    Raises:
        ValueError: if a snapshot lacks weights or has another number of them.
    """
    names = [name for name, _ in network.named_parameters()]
    size = sum(p.numel() for p in network.parameters())
    if not isinstance(snapshots, (Tensor, np.ndarray)) and isinstance(snapshots[0], Mapping):
        missing = [name for state in snapshots for name in names if name not in state]
        if missing:
            raise ValueError(f"a snapshot lacks the weights {missing[0]} of the network")
        rows = [
            torch.cat([s[name].detach().flatten().double() for name in names]) for s in snapshots
        ]
        weights = torch.stack([row.cpu() for row in rows])
    else:
        rows = [x.detach().cpu().numpy() if isinstance(x, Tensor) else x for x in snapshots]
        weights = torch.as_tensor(np.asarray(rows, float))
    if weights.dim() != 2 or weights.shape[1] != size:
        raise ValueError(
            f"the snapshots have shape {tuple(weights.shape)}; they must be (snapshots, {size})"
        )
    return weights
