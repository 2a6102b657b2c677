"""Build the learning problem of a run: network, start, inputs and targets, on a device."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from pipeline.own_network import check_code, drawn_own_network
from pipeline.runs import is_own, model_keys, own_words
from pipeline.seeds import START_KEYS, derived_seed
from pipeline.stores import array_digest, read_netcdf
from speedlimits.network_checks import CHECKED_SAMPLES
from speedlimits.networks import MODELS, drawn_network, scale_output
from speedlimits.precision import (
    LARGEST_ROUNDING,
    LARGEST_SQUARED,
    largest_absolute,
    rounded_off,
    too_small,
)
from speedlimits.subsets import one_hot

OUTPUT_BATCH = 256  # samples per forward pass: activations of a few hundred MB at paper scale
DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Problem(NamedTuple):
    """What is trained on what.

    Attributes:
        network: f(theta) = a h(theta), with the weights theta_0 of the start.
        inputs: training inputs, shape (N, ...).
        targets: what f(theta) is fitted to, shape (N, C): y, or y + f(theta_0) if the output of
            the start is subtracted, so that targets - f(theta) is the residue either way.
        test_inputs: shape (M, ...); M is 0 without a test part.
        plain_test_targets: y of the test inputs, shape (M, C).
        test_labels: shape (M,); None for real targets.
        start_seed: seed of theta_0.
        plain_targets: y itself, shape (N, C).
        test_start_outputs: what is subtracted from f(theta) on the test inputs, shape (M, C):
            f(theta_0) or zero.
    """

    network: nn.Module
    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    plain_test_targets: Tensor
    test_labels: Tensor | None
    start_seed: int
    plain_targets: Tensor
    test_start_outputs: Tensor

    @property
    def test_targets(self) -> Tensor:
        """What f(theta) is compared with on the test inputs, shape (M, C), as ``targets``."""
        return self.plain_test_targets + self.test_start_outputs


def build_network(settings: dict, data: xr.Dataset, seed: int) -> nn.Module:
    """Return f = a h of the settings at its start theta_0, for the data's shape."""
    model, dtype = settings["model"], DTYPES[settings["precision"]]
    if is_own(model):
        if "model_code" in settings:
            check_code(model, settings["model_code"])
        inputs = torch.as_tensor(data["train_inputs"].values[:CHECKED_SAMPLES])
        arguments, outputs = settings["model_arguments"], int(data.attrs["outputs"])
        network = drawn_own_network(model, arguments, inputs, outputs, seed, dtype)
        if "model_code" in settings:
            check_code(model, settings["model_code"])  # as it was while it was imported
        return scale_output(network, settings["output_scale"])
    build = functools.partial(
        MODELS[model],
        input_shape=data["train_inputs"].shape[1:],
        outputs=int(data.attrs["outputs"]),
        **{key: settings[key] for key in model_keys(settings)},
    )
    return scale_output(drawn_network(build, seed, dtype), settings["output_scale"])


def start_seed(settings: dict, realisation: int) -> int:
    """Return the seed of the start theta_0.

    Parameterisations share their draws, so that they start from the same function; different n,
    subsets, widths, arguments of an own network and realisations have independent starts.
    """
    purpose = [settings.get(key, 0) for key in START_KEYS]
    purpose += own_words(settings) if is_own(settings["model"]) else []
    return derived_seed(settings["seed"], "start", *purpose, realisation)


def build_problem(
    settings: dict, subset_path: str, realisation: int, device: torch.device
) -> Problem:
    """Return the problem of one realisation.

    Args:
        settings: run settings of the levels subset and network, and ``seed``.
        subset_path: file of the rule ``subset``.
        realisation: number of the start.
        device: where to compute.

    Returns:
        The problem, in the precision of the settings.

    Raises:
        ValueError: if that precision cannot hold the data, or the sum of targets and outputs of the
            start with ``subtract_start``.
    """
    data = read_netcdf(subset_path)
    dtype = DTYPES[settings["precision"]]
    seed = start_seed(settings, realisation)
    network = build_network(settings, data, seed).to(device)

    def tensor(values: np.ndarray) -> Tensor:
        largest = largest_absolute(values)
        if too_small(largest, settings["precision"]):
            raise ValueError(
                f"inputs or targets of {settings['dataset']} are at most {largest:.3g}, too small "
                f"for {settings['precision']}; multiply them (normalise: true does for inputs of "
                "your own)"
            )
        lost = rounded_off(values, settings["precision"])
        if lost > LARGEST_ROUNDING:
            raise ValueError(
                f"{settings['precision']} changes the differences between inputs or targets of "
                f"{settings['dataset']} by {lost:.1%}, since they are small against the numbers "
                "themselves; subtract a constant (normalise: true does for inputs of your own), or "
                "set precision: float64"
            )
        found = torch.as_tensor(np.ascontiguousarray(values)).to(device, dtype)
        if not torch.isfinite(found).all():
            raise ValueError(
                f"inputs or targets of {settings['dataset']} reach {largest:.3g}, "
                f"beyond {settings['precision']}; divide them, or set precision: float64"
            )
        if largest > LARGEST_SQUARED:
            raise ValueError(
                f"inputs or targets of {settings['dataset']} reach {largest:.3g}, whose squares "
                "are beyond float64; divide them"
            )
        return found

    inputs, plain_targets = tensor(data["train_inputs"].values), tensor(targets(data, settings))
    test_inputs, test_targets = inputs[:0], plain_targets[:0]
    if "test_inputs" in data:
        test_inputs = tensor(data["test_inputs"].values)
        test_targets = tensor(targets(data, settings, "test"))
    start, test_start = torch.zeros_like(plain_targets), torch.zeros_like(test_targets)
    if settings["subtract_start"]:
        start = network_outputs(network, inputs)
        _check_sum(plain_targets, start, settings)
        test_start = network_outputs(network, test_inputs) if len(test_inputs) else test_start
    test_labels = None
    if "train_labels" in data:
        labels = data["test_labels"].values if "test_labels" in data else np.empty(0)
        test_labels = torch.as_tensor(labels.astype(np.int64)).to(device)
    return Problem(
        network,
        inputs,
        plain_targets + start,
        test_inputs,
        test_targets,
        test_labels,
        seed,
        plain_targets,
        test_start,
    )


def _check_sum(plain_targets: Tensor, start: Tensor, settings: dict) -> None:
    """Check that y + f(theta_0), against which a network trains, still holds y.

    Raises:
        ValueError: if rounding changes y in it by more than LARGEST_ROUNDING.
    """
    lost = ((plain_targets + start - start) - plain_targets).double().norm().item()
    size = plain_targets.double().norm().item()
    if lost > LARGEST_ROUNDING * size:
        finer = "set precision: float64, " if settings["precision"] != "float64" else ""
        raise ValueError(
            f"with subtract_start: true a network trains against y + f(theta_0), and "
            f"{settings['precision']} changes y in it by {lost / size:.1%}: the targets of "
            f"{settings['dataset']} are small against the outputs of the start, up to "
            f"{start.abs().max().item():.3g}; {finer}scale up the targets, or lower output_scale"
        )


def digests(problem: Problem) -> dict[str, str]:
    """Return the digests of all that a state of a job of this problem depends on, by name.

    The data, and the weights and buffers of the start: a user's network may read them from a file,
    of which its code does not tell.

    Args:
        problem: at its start.
    """
    found = {
        "inputs": problem.inputs,
        "targets": problem.plain_targets,
        "test_inputs": problem.test_inputs,
        "test_targets": problem.plain_test_targets,
    }
    network = problem.network
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        found[f"network.{name}"] = tensor
    return {name: _tensor_digest(tensor) for name, tensor in found.items()}


def _tensor_digest(tensor: Tensor) -> str:
    """Return the digest of a tensor's shape and bytes; NumPy lacks some of torch's types."""
    values = tensor.detach().cpu().contiguous()
    return array_digest(values.reshape(*values.shape, 1).view(torch.uint8).numpy())


def targets(data: xr.Dataset, settings: dict, part: str = "train") -> np.ndarray:
    """Return the targets y of one part of a subset.

    Args:
        data: file of the rule ``subset``.
        settings: ``targets``.
        part: "train" or "test".

    Returns:
        Targets, shape (N, C), float64.

    Raises:
        ValueError: if one-hot targets are asked for without labels, or real ones with labels.
    """
    kind, real = settings["targets"], f"{part}_targets" in data
    if real != (kind == "real"):
        has, needs = ("real targets", "real") if real else ("labels", "one_hot or centred_one_hot")
        raise ValueError(f"the data have {has}, but targets is {kind}; set targets: {needs}")
    if real:
        return data[f"{part}_targets"].values
    classes = int(data.attrs["outputs"])
    return one_hot(data[f"{part}_labels"].values, classes, centred=kind == "centred_one_hot")


def check_start(problem: Problem, model: str) -> None:
    """Raise ValueError, in one sentence, if the start has outputs that are not finite, or no loss.

    Args:
        problem: at its start.
        model: name of the network.

    Raises:
        ValueError: says of how many inputs.
    """
    for part, inputs in (("training", problem.inputs), ("test", problem.test_inputs)):
        if len(inputs) == 0:
            continue
        outputs = network_outputs(problem.network, inputs)
        wrong = int((~torch.isfinite(outputs)).any(dim=1).sum())
        if wrong:
            raise ValueError(
                f"model: {model}: the outputs at the start are not finite for {wrong} of "
                f"{len(inputs)} {part} inputs; look into network and data"
            )
        if part == "training" and torch.equal(outputs, problem.targets):
            raise ValueError(
                f"model: {model}: the start fits every target, so that the loss is 0 and nothing "
                "trains (targets of 0 with subtract_start: true?); look into network and data"
            )


@torch.no_grad()
def network_outputs(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return f(inputs) at the network's weights, shape (N, C), in micro-batches."""
    return torch.cat([network(part) for part in inputs.split(OUTPUT_BATCH)])
