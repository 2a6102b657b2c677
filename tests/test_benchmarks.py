"""The benchmarks: what they count and fit, against independent references; `make benchmarks`."""

import importlib.metadata
import re
import shlex
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT
from scipy.stats import linregress
from torch.utils.flop_counter import FlopCounterMode

FOLDER = ROOT / "benchmarks"
sys.path.append(str(FOLDER))

import gradient_flow  # noqa: E402
import kernel as kernel_benchmark  # noqa: E402
import kernel_stages  # noqa: E402
import measuring  # noqa: E402

from speedlimits import blocks, kernel, kernel_sequential  # noqa: E402

PROGRAMS = sorted(path for path in FOLDER.glob("*.py") if path.stem not in ("measuring", "rock4"))


def test_powers_are_those_of_least_squares_in_logarithms():
    x = np.array([32.0, 64, 128, 256])
    exact = measuring.fitted_power(x, 3 * x**1.5)
    assert exact.exponent == pytest.approx(1.5, abs=1e-12) and exact.error < 1e-12
    y = 3 * x**1.5 * np.array([1.1, 0.95, 1.0, 1.2])
    reference, found = linregress(np.log(x), np.log(y)), measuring.fitted_power(x, y)
    assert found.exponent == pytest.approx(reference.slope)
    assert found.error == pytest.approx(reference.stderr)


def test_processor_time_leaves_out_waiting_and_peaks_hold_what_is_freed():
    start = time.monotonic()
    found = measuring.measure(lambda: (np.ones(25_000_000, np.float32), time.sleep(0.5)))
    assert found.seconds < time.monotonic() - start - 0.4  # however busy the machine is
    assert 95e6 < found.added < 110e6 and found.peak > found.added


def test_rates_are_operations_and_bytes_over_the_shortest_time(monkeypatch):
    monkeypatch.setattr(measuring, "processor_seconds", lambda call, repeats: [3.0, 2.0])
    assert measuring.gemm_rate(size=10) == 2 * 10**3 / 2.0
    assert measuring.triad_rate(size=400) == 3 * 400 / 2.0


def test_conditions_name_processor_threads_and_versions_but_no_host():
    text = measuring.conditions(2)
    installed = importlib.metadata.version("torch")  # torch itself may add its build
    assert torch.__version__.startswith(installed)
    assert f"2 threads; Python {sys.version.split()[0]}, torch {installed}, numpy" in text
    model = re.search(r"model name\s*: (.+)", open("/proc/cpuinfo").read())
    assert text.startswith(model[1].strip() if model else "")


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_every_benchmark_says_where_it_ran(path):
    assert re.search(r"print\(f?\"?\{?conditions\(", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "choice", [(), ("FULL=1", "PEERS=1", "ARCHIVE=cifar.tar.gz"), ("GPU=1", "ARCHIVE=cifar.tar.gz")]
)
def test_one_command_runs_programs_with_options_that_they_have(choice):
    made = subprocess.run(
        ["make", "-n", "benchmarks", *choice], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = re.findall(r"python (benchmarks/\w+\.py)(.*)", made.stdout.replace("\\\n", " "))
    names, card = {name[11:-3] for name, _ in lines}, "GPU=1" in choice
    assert names == {"gpu"} if card else {"kernel", "kernel_stages", "gradient_flow"} <= names
    for name, options in lines:
        text = (ROOT / name).read_text(encoding="utf-8")
        for option in shlex.split(options):
            assert not option.startswith("--") or f'"{option}"' in text, (name, option)
    assert ("benchmarks/requirements-peers.txt" in made.stdout) <= ("PEERS=1" in choice)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("spectrum.py --n 0", "argument --n: '0' is no whole number from 1 on"),
        ("spectrum.py --n 5000", "--n is 5000; digits has 1797 images"),
        ("ensembles.py --realisations 1.5", "'1.5' is no whole number from 1 on"),
        ("kernel.py --case 8,0", "argument --case: '0' is no whole number from 1 on"),
        ("integrators.py --times nan", "argument --times: 'nan' is no number above 0"),
        ("gradient_flow.py --network-tolerances 1e-2 -3", "'-3' is no number above 0"),
        ("gradient_flow.py --images 5000", "5000 images were asked for; there are 1797"),
        ("gradient_flow.py --archive /dev/null", "--archive /dev/null: /dev/null is no readable"),
        ("overhead.py --configfile no.yaml", "--configfile no.yaml: there is no such file"),
    ],
)
def test_options_that_cannot_be_are_refused_in_a_sentence(arguments, sentence, tmp_path):
    name, *options = arguments.split()
    program = [sys.executable, str(FOLDER / name), *options]
    run = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode and run.stderr.splitlines()[-1].count(sentence) == 1, run.stderr


@pytest.fixture
def small(monkeypatch):
    """A network on 8 x 8 images, with SIDE and the counts that follow from it."""
    for module in (kernel_benchmark, kernel_stages):
        monkeypatch.setattr(module, "SIDE", 8)
    return kernel_benchmark.make_case(8, 6)


def test_peers_compute_the_same_kernel(small):
    network, inputs = small
    for traced in (False, True):
        calls = kernel_benchmark.methods(network.double(), inputs.double(), traced)
        reference = calls["torch.func"]()
        assert torch.allclose(calls["structured"](), reference, rtol=1e-10)


def test_rows_and_powers_of_the_kernel_benchmark(small):
    rows = []
    for samples in (16, 32, 64):
        rows += kernel_benchmark.run_case((8, samples, False), 2, None)
    for row in rows:
        assert float(row["least"]) <= float(row["seconds"]) <= float(row["most"])
        row["seconds"] = 0.5 * row["n"] ** 1.25
        row["added MB"] = row["n"] ** 2
    powers = kernel_benchmark.scaling(rows)
    assert len(powers) == 3 and all(power["at"] == "width 8" for power in powers)
    assert [power["seconds"].exponent for power in powers] == pytest.approx([1.25] * 3)
    assert [power["added MB"].exponent for power in powers] == pytest.approx([2.0] * 3)
    assert 1 < powers[0]["operations"].exponent < 2 and powers[2]["operations"] == ""
    assert not kernel_benchmark.scaling(rows[:6])


def test_operations_of_stages_are_those_that_torch_counts(small, monkeypatch):
    monkeypatch.setattr(blocks, "torch_multiplies_faster", lambda: False)
    network, inputs = small
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        kernel.empirical_ntk(network, inputs)
    found = {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}
    counted = kernel_stages.work(8, len(inputs))
    # The check of the inputs takes one pass of one sample and the plan three, whose last layer is
    # no convolution.
    once = kernel_sequential.forward_operations(network, inputs[:1]) - 2 * 8 * 10
    assert found["aten.convolution"] == counted["cotangents"].operations + 4 * once
    by_sample = counted["weight gradients"].operations + counted["last convolution"].operations
    assert by_sample <= found["aten.bmm"] < 1.01 * by_sample
    centring = counted["centring"].operations
    assert centring <= found["aten.mm"] < 1.3 * centring  # also the means among themselves
    whole = sum(work.operations for work in counted.values())  # NumPy's products with them
    assert whole == pytest.approx(kernel_benchmark.operations(8, len(inputs), False) + centring)


def test_stages_make_up_the_time_of_the_kernel(small, monkeypatch):
    network, inputs = small
    originals = dict(vars(kernel_sequential))
    read = []

    def clock() -> float:  # a second passes from one reading to the next, however busy the machine
        read.append(float(len(read)))
        return read[-1]

    monkeypatch.setattr(kernel_stages.time, "process_time", clock)
    found = kernel_stages.stage_seconds(network, inputs)
    assert sum(found.values()) == read[-1] - read[0] > 2 * len(found)
    assert all(found[stage] > 0 for stage in kernel_stages.work(8, 6))
    assert dict(vars(kernel_sequential)) == originals


def test_power_of_the_training_time_needs_three_times():
    rows = [
        gradient_flow.Row("p", time, method, round(10 * time**power), 0.0, 0.0)
        for method, power in (("flow", 0.25), ("descent", 1.0))
        for time in (1e4, 1e8, 1e12)
    ]
    lines = list(gradient_flow.scaling(rows))
    assert lines == ["| p | flow | 0.25 ± 0.00 | 3 |", "| p | descent | 1.00 ± 0.00 | 3 |"]
    assert not list(gradient_flow.scaling(rows[:2]))
