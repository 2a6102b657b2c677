"""Build the learning problem of a run: network, start, inputs and targets, on a device."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from pipeline.runs import MODEL_KEYS
from pipeline.seeds import derived_seed
from pipeline.stores import read_netcdf
from speedlimits.networks import MODELS, initialise_
from speedlimits.subsets import one_hot

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Problem(NamedTuple):
    """What is trained on what.

    Attributes:
        network: with the weights theta_0 of the start.
        inputs: training inputs, shape (N, ...).
        targets: y, shape (N, C).
        test_inputs: shape (M, ...).
        test_targets: shape (M, C).
        test_labels: shape (M,).
        start_seed: seed of theta_0.
    """

    network: nn.Module
    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    test_labels: Tensor
    start_seed: int


def build_network(settings: dict, data: xr.Dataset) -> nn.Sequential:
    """Return the network of the settings with uninitialised weights, for the data's shape."""
    model = settings["model"]
    return MODELS[model](
        input_shape=data["train_inputs"].shape[1:],
        outputs=int(data.attrs["classes"]),
        **{key: settings[key] for key in MODEL_KEYS[model]},
    )


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
    network = build_network(settings, data).to(dtype)
    initialise_(network, torch.Generator().manual_seed(seed))
    classes, centred = int(data.attrs["classes"]), settings["targets"] == "centred_one_hot"

    def tensor(values: np.ndarray) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(values)).to(device, dtype)

    test_labels = data["test_labels"].values
    return Problem(
        network.to(device),
        tensor(data["train_inputs"].values),
        tensor(one_hot(data["train_labels"].values, classes, centred=centred)),
        tensor(data["test_inputs"].values),
        tensor(one_hot(test_labels, classes, centred=centred)),
        torch.as_tensor(test_labels.astype(np.int64)).to(device),
        seed,
    )
