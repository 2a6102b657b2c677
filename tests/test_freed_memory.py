"""Freed memory is kept for the next tensors: no gradient asks the kernel for its pages again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
from conftest import ROOT

FAULTS = """
import resource, sys
import torch
from speedlimits import gradient
from speedlimits.networks import initialise_, myrtle5

if sys.argv[1] == "plain":
    gradient.keep_freed_memory = lambda: None
torch.set_num_threads(1)
network = myrtle5(input_shape=(3, 32, 32), outputs=10, width=32, parameterisation="ntk")
initialise_(network, torch.Generator().manual_seed(0))
loss = gradient.TrainingLoss(network, torch.ones(96, 3, 32, 32), torch.zeros(96, 10))
theta = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    loss.loss_and_gradient(theta)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_reused():
    environment = os.environ | {"PYTHONPATH": str(ROOT / "scripts")}
    command = [sys.executable, "-c", FAULTS]
    faults = {}
    for word in ("keep", "plain"):
        told = subprocess.run([*command, word], env=environment, capture_output=True, check=True)
        faults[word] = int(told.stdout)
    one = 32 * 32 * 32 * 32 * 4 // os.sysconf("SC_PAGESIZE")  # activations of a micro-batch
    assert faults["keep"] < 4 * one < faults["plain"]
