"""Build the user's own network in a job, and refuse what has no speed limit in this sense."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.interruption import PLANNER, python_version
from pipeline.own_code import own_digest
from speedlimits.functional import in_one_line
from speedlimits.network_checks import (
    check_derivatives,
    check_network,
    check_parameters,
    make_contiguous,
    outputs_apart,
)
from speedlimits.networks import drawn_network


def check_code(model: str, planned: str) -> None:
    """Refuse code that is not what the job was planned with, and would be recorded as.

    Args:
        model: ``package.module:factory``.
        planned: its digest while planning (``own_digest``). That of another version of Python is
            no measure and is passed.

    Raises:
        ValueError: if the code has changed since.
    """
    if os.environ.get(PLANNER) == python_version() and own_digest(model) != planned:
        raise ValueError(
            f"model: the code of {model} was changed after this snakemake had planned its jobs; "
            "run the same command again"
        )


def own_factory(model: str) -> Callable[..., nn.Module]:
    """Import the factory of ``package.module:factory``.

    The working folder is searched first, as by ``python -m``, also by what the module imports.

    Args:
        model: as the configuration gives it.

    Returns:
        The factory.

    Raises:
        ValueError: if it cannot be imported.
    """
    module, factory = model.split(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), factory)
    except (Exception, SystemExit) as error:
        what = in_one_line(error)
        raise ValueError(f"model: {model} cannot be imported ({what})") from error
    if not callable(found):
        raise ValueError(
            f"model: {model} is {type(found).__name__}; it must be a function or class"
        )
    return found


def _accessors(owner: Any, flag: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    """Return functions that get and set an attribute."""
    return partial(getattr, owner, flag), partial(setattr, owner, flag)


@contextlib.contextmanager
def process_settings_kept(model: str) -> Iterator[None]:
    """Set back what the user's code changes for the whole process, and print what that was."""
    settings = {
        "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
        "torch's recording of gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
        "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
        "the working folder": (os.getcwd, os.chdir),
        "torch's determinism": (
            torch.get_deterministic_debug_mode,
            torch.set_deterministic_debug_mode,
        ),
        "the precision of torch's matrix products": (
            torch.get_float32_matmul_precision,
            torch.set_float32_matmul_precision,
        ),
    }
    # From torch 2.9 on; from the general to the special, which follows it while it is "none".
    places = ("", "cuda.matmul", "cudnn", "cudnn.conv", "cudnn.rnn")
    places += ("mkldnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")
    for place in places:
        name = f"torch.backends{place and '.'}{place}"
        with contextlib.suppress(AttributeError):
            owner = attrgetter(name.removeprefix("torch."))(torch)
            owner.fp32_precision  # noqa: B018
            settings[f"{name}.fp32_precision"] = _accessors(owner, "fp32_precision")
    backends = {
        "TF32 of CUDA's matrix products": (torch.backends.cuda.matmul, "allow_tf32"),
        "TF32 of cuDNN": (torch.backends.cudnn, "allow_tf32"),
        "cuDNN's choice by measurement": (torch.backends.cudnn, "benchmark"),
        "cuDNN's determinism": (torch.backends.cudnn, "deterministic"),
    }
    for name, (owner, flag) in backends.items():
        settings[name] = _accessors(owner, flag)

    def value(get: Callable[[], Any]) -> Any:
        try:
            return get()
        except RuntimeError:  # of torch, where its older and newer names of a flag disagree
            return None

    before = {name: value(get) for name, (get, _) in settings.items()}
    try:
        yield
    finally:
        for name, (get, put) in settings.items():
            if value(get) != before[name] and before[name] is not None:
                print(f"model: {model} changed {name}; set back to {before[name]}")
                put(before[name])


def drawn_own_network(
    model: str,
    arguments: dict[str, Any],
    inputs: Tensor,
    outputs: int,
    seed: int,
    dtype: torch.dtype,
) -> nn.Module:
    """Return a network of the user's own at its start theta_0, after checking it.

    The factory draws theta_0 by torch's global generator, which is seeded.

    Args:
        model: ``package.module:factory``.
        arguments: given to the factory besides ``input_shape`` and ``outputs``.
        inputs: training inputs, shape (N, ...).
        outputs: number of outputs C.
        seed: seed of the start.
        dtype: dtype of weights and outputs.

    Returns:
        The network.

    Raises:
        ValueError: in one sentence, whatever is wrong with it.
    """
    # what importing the module draws, and changes
    with torch.random.fork_rng(devices=[]), process_settings_kept(model):
        factory = own_factory(model)
    shape = tuple(int(size) for size in inputs.shape[1:])

    def build() -> nn.Module:
        try:
            with process_settings_kept(model):
                made = factory(input_shape=shape, outputs=outputs, **arguments)
        except (Exception, SystemExit) as error:
            given = ", ".join(f"{k}={v!r}" for k, v in arguments.items())
            call = f"input_shape={shape}, outputs={outputs}{', ' * bool(given)}{given}"
            what = in_one_line(error)
            raise ValueError(f"model: {model}({call}) failed ({what})") from error
        if not isinstance(made, nn.Module):
            raise ValueError(
                f"model: {model} gave {type(made).__name__}; it must give a torch.nn.Module"
            )
        check_parameters(made)  # before a conversion to dtype hides what they were
        return made

    try:
        network, again, other = (drawn_network(build, s, dtype) for s in (seed, seed, seed + 1))
        if network is again:
            raise ValueError("the factory gives the same network again; it must build a new one")
        check_network(network, inputs, outputs)
        if not _same_state(network, again):
            raise ValueError(
                "two calls of the factory with one seed give different weights: draw them by "
                "torch's global generator, as torch's own layers do"
            )
        if outputs_apart(network, again, inputs):
            raise ValueError(
                "two calls of the factory with one seed give the same weights but other outputs: "
                "draw what else is random (a permutation, a projection) by torch's global "
                "generator too, or by a generator that is seeded"
            )
        check_derivatives(network, inputs)
    except ValueError as error:
        told = str(error).replace("call network.eval()", "call network.eval() in the factory")
        raise ValueError(
            told if told.startswith("model: ") else f"model: {model}: {told}"
        ) from error
    if _same_state(network, other) and not outputs_apart(network, other, inputs):
        print("the start does not depend on the seed: all realisations are the same run")
    make_contiguous(network)
    return network


def _same_state(network: nn.Module, other: nn.Module) -> bool:
    """Return whether two networks have the same weights and buffers, bit by bit."""
    mine, theirs = network.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(
        torch.equal(mine[name], theirs[name]) for name in mine if torch.is_tensor(mine[name])
    )
