"""Freed memory is kept for the next tensors: no gradient asks the kernel for its pages again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
FAULTS = """
import resource
import torch
from speedlimits.gradient import TrainingLoss
from speedlimits.networks import initialise_, myrtle5
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
network = myrtle5(input_shape=(3, 32, 32), outputs=10, width=32, parameterisation="ntk")
initialise_(network, generator)
inputs = torch.randn(64, 3, 32, 32, generator=generator)
loss = TrainingLoss(network, inputs, torch.zeros(64, 10))
weights = torch.cat([p.detach().flatten() for p in network.parameters()])
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    before = faults()
    loss.loss_and_gradient(weights)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")
@pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="another allocator may be loaded")
def test_a_gradient_takes_the_pages_of_the_gradient_before():
    """Left to malloc's first thresholds, each takes and returns 10 000 to 14 000 pages."""
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    for name in ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
        environment.pop(name, None)
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000
