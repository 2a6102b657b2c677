"""What docs/determinism.md claims and no other test shows; that its tests and streams exist."""

import ast
import os
import re
import subprocess
import sys

import ntk
import numpy as np
import prepare
import pytest
import subset
import time_unit
import torch
import train
from conftest import ROOT, TRAINING

from pipeline.files import FINISHED, remove
from pipeline.stores import read_netcdf, read_snapshots

PAGE = (ROOT / "docs/determinism.md").read_text(encoding="utf-8")
CONVOLUTIONS = {"model": "myrtle5", "width": 4, "precision": "float32", "final_time": 3}
ALL = (
    TRAINING
    | CONVOLUTIONS
    | {
        "relative_tolerance": 1e-3,
        "snapshots_per_decade": 2,
        "quadrature_steps": 12,
    }
)


BESIDE = f"""
import os, sys
sys.path[:0] = [{str(ROOT / "scripts")!r}, {str(ROOT / "tests")!r}]
from types import SimpleNamespace
import train
from conftest import Files
from test_determinism import ALL
folder, realisation = sys.argv[1:]
os.chdir(folder)
train.main(SimpleNamespace(
    input=Files(subset="n.nc", time_unit="unit.json"),
    output=Files(manifest=f"beside/{{realisation}}.json"),
    params=SimpleNamespace(settings=ALL, store=f"beside/{{realisation}}.zarr"),
    wildcards=SimpleNamespace(realisation=realisation),
    resources=SimpleNamespace(device="cpu", deterministic=1),
    threads=1,
    log=[f"beside{{realisation}}.log"],
))
"""


@pytest.fixture
def made(job, tmp_path):
    """Make the inputs of trainings and kernels; return a function that runs one of them."""
    settings = ALL
    job(prepare.main, outputs={"o": "images.nc"}, settings=settings)
    job(subset.main, inputs={"i": "images.nc"}, outputs={"o": "n.nc"}, settings=settings)
    job(time_unit.main, inputs={"i": "n.nc"}, outputs={"o": "unit.json"}, settings=settings)

    def run(script, realisation, name, threads=1):
        remove(tmp_path / FINISHED)  # or a training is taken from there
        of_training = {"manifest": f"{name}.json"}
        job(
            script.main,
            inputs={"subset": "n.nc", "time_unit": "unit.json"},
            outputs=of_training if script is train else {"o": f"{name}.nc"},
            settings=settings,
            threads=threads,
            store=f"{name}.zarr",
            wildcards={"realisation": str(realisation)},
        )

    return run


def weights(name):
    return read_snapshots(f"{name}.json")["weights"].values


def test_a_realisation_does_not_depend_on_the_others(made, tmp_path):
    made(train, 1, "alone/1")
    for realisation in (0, 1):
        made(train, realisation, f"after/{realisation}")
    remove(tmp_path / FINISHED)
    beside = [
        subprocess.Popen([sys.executable, "-c", BESIDE, str(tmp_path), str(realisation)])
        for realisation in (0, 1)
    ]
    assert [process.wait(120) for process in beside] == [0, 0]
    for folder in ("after", "beside"):
        np.testing.assert_array_equal(weights("alone/1"), weights(f"{folder}/1"))
    np.testing.assert_array_equal(weights("after/0"), weights("beside/0"))
    assert not np.array_equal(weights("after/0"), weights("after/1"))


def test_two_kernel_jobs_have_equal_bits(made, tmp_path):
    made(ntk, 0, "first")
    made(ntk, 1, "between")
    made(ntk, 0, "second")
    first, second = ((tmp_path / f"{name}.nc").read_bytes() for name in ("first", "second"))
    assert first == second != (tmp_path / "between.nc").read_bytes()


def test_results_record_the_number_of_threads(made):
    made(train, 0, "of_one", 1)
    made(ntk, 0, "of_two", 2)
    torch.set_num_threads(1)
    assert read_snapshots("of_one.json").attrs["threads"] == 1
    assert read_netcdf("of_two.nc").attrs["threads"] == 2


def test_the_deterministic_option_is_set_and_imports_no_compiler():
    code = """
import os, sys, torch
from pipeline.device import choose_device
choose_device("cpu", threads=1, deterministic=True)
assert torch.are_deterministic_algorithms_enabled()
assert not torch.is_deterministic_algorithms_warn_only_enabled()
assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
slow = {"torch._inductor", "torch._dynamo", "sympy"} & set(sys.modules)
assert not slow, slow
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "scripts")}
    environment.pop("CUBLAS_WORKSPACE_CONFIG", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def streams():
    """Return the first word of the purpose of every call of ``derived_seed`` in the scripts."""
    found = set()
    for path in [*(ROOT / "scripts").glob("*.py"), *(ROOT / "scripts/pipeline").glob("*.py")]:
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            nodes = list(ast.walk(function))
            tuples = {
                node.targets[0].id: node.value.elts[0]
                for node in nodes
                if isinstance(node, ast.Assign)
                and isinstance(node.targets[0], ast.Name)
                and isinstance(node.value, ast.Tuple)
            }
            for node in nodes:
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "derived_seed":
                    word = node.args[1]
                    word = tuples[word.value.id] if isinstance(word, ast.Starred) else word
                    found.add(word.value)
    return found


def test_the_page_lists_every_stream_of_random_numbers():
    listed = re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)
    assert set(listed) == streams() and len(listed) == len(set(listed))


def test_the_tests_that_the_page_names_exist():
    named = set(re.findall(r"(test_\w+\.py)::(test_\w+)", PAGE))
    assert len(named) > 15
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), test
