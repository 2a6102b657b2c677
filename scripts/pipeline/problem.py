"""Build the learning problem of a run: network, start, inputs and targets, on a device."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from pipeline.runs import MODEL_KEYS
from pipeline.seeds import derived_seed
from pipeline.stores import read_netcdf
from speedlimits.networks import MODELS, drawn_network, scale_output
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
        test_inputs: shape (M, ...).
        test_targets: the same for the test inputs, shape (M, C).
        test_labels: shape (M,).
        start_seed: seed of theta_0.
        plain_targets: y itself, shape (N, C).
        test_start_outputs: what is subtracted from f(theta) on the test inputs, shape (M, C):
            f(theta_0) or zero.
    """

    network: nn.Module
    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    test_labels: Tensor
    start_seed: int
    plain_targets: Tensor
    test_start_outputs: Tensor


def build_network(settings: dict, data: xr.Dataset, seed: int) -> nn.Module:
    """Return f = a h of the settings at its start theta_0, for the data's shape."""
    model = settings["model"]
    build = functools.partial(
        MODELS[model],
        input_shape=data["train_inputs"].shape[1:],
        outputs=int(data.attrs["classes"]),
        **{key: settings[key] for key in MODEL_KEYS[model]},
    )
    dtype = DTYPES[settings["precision"]]
    return scale_output(drawn_network(build, seed, dtype), settings["output_scale"])


def start_seed(settings: dict, realisation: int) -> int:
    """Return the seed of the start theta_0.

    Parameterisations share their draws, so that they start from the same function; different n,
    subsets, widths and realisations have independent starts.
    """
    keys = ("dataset", "n", "selection", "subset", "model", "width", "depth")
    purpose = [settings.get(key, 0) for key in keys]
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
    """
    data = read_netcdf(subset_path)
    dtype = DTYPES[settings["precision"]]
    seed = start_seed(settings, realisation)
    network = build_network(settings, data, seed).to(device)
    classes, centred = int(data.attrs["classes"]), settings["targets"] == "centred_one_hot"

    def tensor(values: np.ndarray) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(values)).to(device, dtype)

    test_labels = data["test_labels"].values
    inputs, test_inputs = (tensor(data[f"{part}_inputs"].values) for part in ("train", "test"))
    plain_targets = tensor(one_hot(data["train_labels"].values, classes, centred=centred))
    test_targets = tensor(one_hot(test_labels, classes, centred=centred))
    start, test_start = torch.zeros_like(plain_targets), torch.zeros_like(test_targets)
    if settings["subtract_start"]:
        start, test_start = (network_outputs(network, x) for x in (inputs, test_inputs))
    return Problem(
        network,
        inputs,
        plain_targets + start,
        test_inputs,
        test_targets + test_start,
        torch.as_tensor(test_labels.astype(np.int64)).to(device),
        seed,
        plain_targets,
        test_start,
    )


@torch.no_grad()
def network_outputs(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return f(inputs) at the network's weights, shape (N, C), in micro-batches."""
    return torch.cat([network(part) for part in inputs.split(OUTPUT_BATCH)])
