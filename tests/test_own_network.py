"""The user's own network: found without being imported, checked, digested, trained."""

import copy
import importlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from operator import attrgetter
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import time_unit
import torch
import train
import xarray as xr
import yaml
from checkouts import checkout, planned, snakemake
from conftest import ROOT
from reference_jacobians import finite_difference_jacobian
from snakemake.utils import update_config

from pipeline import speed_limits
from pipeline.columns import is_taken
from pipeline.config import ConfigError, problems_where_asked, validate, validated
from pipeline.device import choose_device
from pipeline.inputs import study_files
from pipeline.own_code import locate, own_digest, own_problem
from pipeline.own_network import drawn_own_network, own_factory
from pipeline.problem import build_network, build_problem
from pipeline.runs import Plan, level_keys, model_of_slug, network_slug
from pipeline.stores import read_snapshots, write_netcdf
from speedlimits.gradient import TrainingLoss
from speedlimits.jacobian import way_along_weights
from speedlimits.kernel import choose_route, empirical_ntk
from speedlimits.kernel_products import kernel_product
from speedlimits.layers import ScaledLinear
from speedlimits.network_checks import check_network, check_parameters, check_slope, outputs_apart
from speedlimits.networks import drawn_network, in_precision

COUNTER = itertools.count()
SHIPPED = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return a function that writes a module into the working folder and returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    written = []

    def write(text, name=None, folder=tmp_path):
        name = name or f"mine{next(COUNTER)}"
        path = folder / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        importlib.invalidate_caches()
        written.append(name)
        return name

    yield write
    for name in [n for n in sys.modules if n.split(".")[0] in {w.split(".")[0] for w in written}]:
        del sys.modules[name]


# ------------------------------------------------------------------ before any job, from the text

FACTORIES = """
from functools import partial
import helper_that_is_missing
RATE = 0.1
def good(*, input_shape, outputs, width=8): ...
def needy(input_shape, outputs, hidden): ...
def stranger(shape, outputs): ...
def open_(**given): ...
async def slow(*, input_shape, outputs): ...
class Net:
    def __init__(self, input_shape, outputs, width=3): ...
class Inherited(Net): ...
made = partial(good, width=9)
if RATE:
    def nested(input_shape, outputs): ...
short = lambda input_shape, outputs, width=3: None
narrow = lambda input_shape: None
(walrus := good)
for looped in (good, open_): ...
match RATE:
    case 0.1:
        def matched(input_shape, outputs): ...
class Meta(type):
    def __call__(cls, input_shape, outputs): ...
class Made(metaclass=Meta):
    def __init__(self, other): ...
"""


@pytest.mark.parametrize(
    ("factory", "arguments", "words"),
    [
        ("god", {}, "has no god (did you mean good?)"),
        ("RATE", {}, "is a value; it must be a function or class"),
        ("slow", {}, "is asynchronous"),
        ("needy", {}, "needs the argument hidden; give it in model_arguments"),
        ("stranger", {}, "must take the keywords input_shape and outputs; it lacks input_shape"),
        ("good", {"widht": 3}, "no argument widht (did you mean width?)"),
        ("good", {"xyz": 3}, "has no argument xyz; besides input_shape and outputs it takes"),
        ("Net", {"self": 3}, "has no argument self"),
        ("narrow", {}, "narrow in "),
        ("narrow", {}, "it lacks outputs"),
        ("short", {"widht": 3}, "no argument widht (did you mean width?)"),
        ("short", {"width": 3}, ""),
        ("walrus", {}, ""),
        ("looped", {}, ""),
        ("matched", {}, ""),
        ("Made", {}, ""),
        ("good", {"width": 3}, ""),
        ("needy", {"hidden": 3}, ""),
        ("open_", {"anything": 3}, ""),
        ("Net", {"width": 3}, ""),
        ("Inherited", {"width": 3}, ""),
        ("made", {"width": 3}, ""),
        ("nested", {}, ""),
    ],
)
def test_a_factory_is_checked_by_its_text(module, factory, arguments, words):
    found = own_problem(f"{module(FACTORIES)}:{factory}", arguments)
    assert (words in found) if words else found == ""
    assert "\n" not in found


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("no_such_module:f", "there is no no_such_module.py in "),
        ("no.such:f", "there is no no/such.py in "),
        ("mine:", "package.module:factory"),
        (":f", "package.module:factory"),
        ("a b:f", "package.module:factory"),
        ("a:b:c", "package.module:factory"),
        ("a:class", "package.module:factory"),
        ("../up:f", "package.module:factory"),
        ("networks/mine.py:f", "(write networks.mine:f)"),
        ("mine.py:f", "(write mine:f)"),
        ("train:f", "train is a module of this workflow; give yours another name"),
        ("speedlimits.networks:f", "speedlimits is a module of this workflow"),
        ("random:f", "random is a module of Python; give yours another name"),
        ("yaml.nothing:f", "has no module yaml.nothing"),
        ("torchvision.models.resnet:resnet19", "did you mean resnet18?"),
    ],
)
def test_modules_that_are_not_there_are_told(tmp_path, monkeypatch, model, words):
    monkeypatch.chdir(tmp_path)
    assert words in own_problem(model, {})


def test_a_module_here_and_installed_is_refused(module):
    module("def f(**given): ...", "yaml")
    assert re.search("is here .* and in .*site-packages; .*, or remove", own_problem("yaml:f", {}))


def test_text_that_is_no_python_is_told_with_its_line(module):
    module("def f(:\n", "broken_helper")
    name = module("import broken_helper\ndef f(**given): ...")
    assert "broken_helper.py, line 1" in own_problem(f"{name}:f", {})
    (module("x = 1", "binary"), open("binary.py", "wb").write(b"\xff\xfe\x00"))
    assert "binary.py cannot be read as Python" in own_problem("binary:f", {})


def test_installed_packages_are_found_without_import_and_digested_by_their_version():
    code = (
        "import sys; sys.path.insert(0, 'scripts')\n"
        "from pipeline.own_code import own_digest, own_problem\n"
        "assert own_problem('torchvision.models:resnet18', {}) == ''\n"
        "print(own_digest('torchvision.models:resnet18'))\n"
        "assert not {'torch', 'torchvision'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    version = importlib.import_module("importlib.metadata").version("torchvision")
    assert told.stdout.strip() == f"torchvision {version}", told.stderr


def test_the_digest_follows_code_of_the_same_folder_and_not_comments(tmp_path, monkeypatch):
    texts = {
        "networks/mine.py": "from networks import parts\nfrom .deep import far\nimport torch\n"
        "def f(**given):\n    import late\n",
        "networks/parts.py": "A = 1\n",
        "networks/deep/__init__.py": "",
        "networks/deep/far.py": "from ..parts import A\nfrom ... import nowhere\n",
        "late.py": "B = 2\n",
        "other.py": "C = 3\n",
    }

    def digest(changes):
        folder = tmp_path / str(next(COUNTER))
        for path, text in (texts | changes).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        monkeypatch.chdir(folder)
        assert own_problem("networks.mine:f", {}) == ""
        return own_digest("networks.mine:f")

    first = digest({})
    assert digest({"networks/mine.py": "# c\n" + texts["networks/mine.py"] + '"""Doc."""\n'}) != (
        digest({"networks/mine.py": texts["networks/mine.py"] + "D = 4\n"})
    )
    assert digest({"networks/mine.py": '"""Doc."""\n\n# c\n' + texts["networks/mine.py"]}) == first
    assert digest({"other.py": "C = 4\n"}) == first
    for path in set(texts) - {"other.py", "networks/deep/__init__.py"}:
        assert digest({path: texts[path] + "NEW = 1\n"}) != first, path


def test_editable_packages_are_digested_by_their_files(module, tmp_path, monkeypatch):
    elsewhere = tmp_path / "source"
    module("def f(**given): ...", "editable_package.networks", elsewhere)
    monkeypatch.setattr(sys, "path", [*sys.path, str(elsewhere)])
    code = locate("editable_package.networks")
    assert code == (elsewhere, "editable_package/networks.py", "")
    before = own_digest("editable_package.networks:f")
    assert len(before) == 16


# ------------------------------------------------------------------ paths, settings, tables

NET = (
    "def f(*, input_shape, outputs, width=8, kind='tanh', rate=0.1, flat=True, n=1, "
    "temperature=1): ...\n"
)


def with_own(config, **study):
    config = copy.deepcopy(config)
    config["studies"] = {"own": {"realisations": 2, **study}}
    config["default_studies"] = ["own"]
    return config


# What the shipped studies vary that only built-in networks have.
BUILT_IN_AXES = {
    "laziness": {"parameterisation"},
    "width": {"width", "parameterisation"},
    "generalisation": {"width"},
}


@pytest.mark.parametrize("study", SHIPPED["studies"])
def test_every_study_takes_an_own_network_as_its_refusals_say(module, shipped_config, study):
    own = {"dataset": "digits", "n": 32, "model": f"{module(NET)}:f"}
    shipped_config["base"] |= own
    config, removed = validated(shipped_config), set()
    while told := "\n".join(problems_where_asked(config, study)):
        remedies = re.findall(rf"studies\.{study}\.vary .*remove it by vary: {{(\w+): null}}", told)
        assert len(remedies) == len(told.splitlines()), told
        assert told.count("vary: {model_arguments: ...}") == len(remedies)
        update_config(shipped_config, {"studies": {study: {"vary": dict.fromkeys(remedies)}}})
        config = validated(shipped_config)
        removed |= set(remedies)
    assert removed == BUILT_IN_AXES.get(study, set())
    assert study_files(Plan(config), config)(SimpleNamespace(study=study))
    if study in ("architecture", "temperature", "infinite_width", "infinite_width_myrtle"):
        return  # they name the networks that they compare
    if study == "data":
        built_in = {"set": {"model": None, "depth": None, "width": None}}
        update_config(shipped_config, {"studies": {study: built_in}})
        config = validated(shipped_config)
        assert problems_where_asked(config, study) == []
    assert {e["settings"]["model"] for e in Plan(config).described(study)} == {own["model"]}


def test_folder_names_are_readable_and_tell_all_settings_apart(module, shipped_config):
    base = shipped_config["base"] | {"model": f"{module(NET)}:f"}
    values = [8, 16, 8.0, 0.5, -0.5, 1e-5, True, False, "tanh", "yes.no"]
    slugs = [network_slug(base | {"model_arguments": {"x": value}}) for value in values]
    slugs += [
        network_slug(base | {"model_arguments": m}) for m in ({}, {"x1": 6}, {"x": 1, "y": 2})
    ]
    assert len(set(slugs)) == len(slugs)
    name = base["model"].replace(":", ".")
    assert slugs[0] == f"{name}-x=8-one_hot-float32"
    assert all("/" not in slug and ":" not in slug for slug in slugs)
    assert {model_of_slug(slug) for slug in slugs} == {base["model"]}
    one = network_slug(base | {"model_arguments": {"a": 1, "b": 2}})
    assert one == network_slug(base | {"model_arguments": {"b": 2, "a": 1}})


def test_settings_of_built_in_networks_do_not_touch_an_own_one(module, shipped_config):
    base = shipped_config["base"] | {"model": f"{module(NET)}:f"}
    other = {"width": 99, "depth": 9, "patch_size": 9, "parameterisation": "standard",
             "initialisation": "torch_default"}  # fmt: skip
    assert network_slug(base | other) == network_slug(base)
    assert not set(other) & set(level_keys(base)["network"])


def test_arguments_are_axes_and_columns_of_their_own_name(module, shipped_config):
    name = f"{module(NET)}:f"
    config = with_own(
        shipped_config,
        set={"model": name, "model_arguments": {"kind": "relu"}},
        vary={"n": [8, 16], "model_arguments": {"width": [4, 8], "flat": [True, False]}},
    )
    validate(config)
    plan = Plan(config)
    assert plan.axes["own"] == {"n": [8, 16], "width": [4, 8], "flat": [True, False]}
    settings = [e["settings"] for e in plan.described("own")]
    assert len(settings) == 8 and all("model_arguments" not in s for s in settings)
    assert {(s["n"], s["width"], s["flat"]) for s in settings} == set(
        itertools.product([8, 16], [4, 8], [True, False])
    )
    assert {s["kind"] for s in settings} == {"relu"}
    cases = [{"model": name, "model_arguments": {"width": w}} for w in (4, 8)]
    plan = Plan(with_own(shipped_config, cases=[*cases, {"model": "myrtle5"}]))
    labels = [e["settings"]["case"] for e in plan.described("own")]
    assert labels == [f"{name}, width 4", f"{name}, width 8", "myrtle5"]
    kinds = [{"model": name, "model_arguments": {"kind": k}} for k in ("relu", "tanh")]
    varied = with_own(shipped_config, cases=kinds, vary={"model_arguments": {"width": [4, 8]}})
    validate(varied)  # a case gives one argument, vary another
    assert {
        (s["kind"], s["width"]) for s in (e["settings"] for e in Plan(varied).described("own"))
    } == {("relu", 4), ("relu", 8), ("tanh", 4), ("tanh", 8)}
    arguments = [{"model_arguments": {"width": w}} for w in (1, 1.0)]
    plan = Plan(with_own(shipped_config, set={"model": name}, cases=arguments))
    assert plan.axes["own"] == {"case": ["width 1", "width 1.0"]}
    arguments = [{"model_arguments": {"width": 4}}, {"model_arguments": {"width": 8}}]
    plan = Plan(with_own(shipped_config, set={"model": name}, cases=arguments))
    assert plan.axes["own"] == {"case": ["width 4", "width 8"]}


@pytest.mark.parametrize(
    ("study", "words"),
    [
        ({"set": {"model": "NAME:g"}}, "studies.own: model is 'NAME:g'; "),
        ({"set": {"model_arguments": {"widht": 1}}}, "did you mean width?"),
        ({"set": {"model_arguments": {"kind": "a/b"}}}, "it must be a number (1.0e-3, not 1e-3)"),
        ({"set": {"model_arguments": {"rate": "1e-3"}}}, "it must be a number (1.0e-3, not 1e-3)"),
        ({"set": {"model_arguments": {"kind": [1]}}}, "a number or text or true or false"),
        ({"set": {"model_arguments": {"a b": 1}}}, "it must be the name of a Python argument"),
        ({"set": {"model_arguments": 3}}, "a mapping of keys to values"),
        ({"set": {"model_arguments": {"kind": "a" * 210}}}, "at most 200 are allowed"),
        ({"vary": {"model_arguments": [{"width": 1}]}}, "a mapping of keys to values"),
        (
            {
                "cases": [{"model_arguments": {"width": 4, "kind": "relu"}}],
                "vary": {"model_arguments": {"width": [4, 8]}},
            },
            "studies.own has model_arguments.width in cases and in vary; keep one of the two",
        ),
        ({"vary": {"model_arguments": {}}}, "model_arguments is empty"),
        ({"vary": {"model_arguments": {"width": 4}}}, "a list"),
        ({"vary": {"model_arguments": {"width": []}}}, "is an empty list"),
        ({"vary": {"model_arguments": {"width": [4, 4]}}}, "names a value twice"),
        ({"vary": {"model_arguments": {"time": [1, 2]}}}, "the name of another column"),
        ({"vary": {"model_arguments": {"n": [1, 2]}}}, "the name of another column"),
        ({"set": {"model_arguments": {"n": 9}}}, "studies.own: model_arguments has n, which is"),
        ({"cases": [{"model_arguments": {"temperature": 9}}]}, "of another setting of a run"),
        ({"set": {"model_arguments": {"outputs": 9}}}, "outputs is given by the workflow"),
        ({"vary": {"width": [1], "model_arguments": {"width": [1, 2]}}}, "another column"),
    ],
)
def test_bad_arguments_are_refused_before_any_job(module, shipped_config, study, words):
    name = module(NET)
    settings = {"model": f"{name}:f"} | study.get("set", {})
    settings["model"] = settings["model"].replace("NAME", name)
    config = with_own(shipped_config, **(study | {"set": settings}))
    with pytest.raises(ConfigError) as caught:
        validate(config)
    assert words.replace("NAME", name) in str(caught.value)


def test_networks_of_the_langevin_experiment_are_checked_too(module, shipped_config):
    langevin = shipped_config["theory"]["langevin"]
    langevin["networks"] = [{"model": f"{module(NET)}:f"}]
    validate(shipped_config)
    langevin["networks"] = [{"model": "nowhere:f"}, {"model": "myrtle50"}]
    with pytest.raises(ConfigError) as caught:
        validate(shipped_config)
    assert "theory.langevin.networks[0]: model is 'nowhere:f'; there is no" in str(caught.value)
    assert "networks[1]: model is 'myrtle50'" in str(caught.value)


# ------------------------------------------------------------------ in the job, by running it

NETWORKS = """
import importlib
import math, random
import numpy
import torch
from torch import nn

class Wrapped(nn.Module):
    def __init__(self, last, function=lambda h: h):
        super().__init__()
        self.last, self.function = last, function
        self.first = lambda x: x
    def before(self, function):
        self.first = function
        return self
    def forward(self, x):
        return self.function(self.last(self.first(x.flatten(1))))

def linear(input_shape, outputs, **more):
    return nn.Linear(math.prod(input_shape), outputs, **more)

def fine(*, input_shape, outputs):
    return Wrapped(linear(input_shape, outputs))

def failing(*, input_shape, outputs):
    raise RuntimeError("no luck\\nmore")

def number(*, input_shape, outputs):
    return 3

def no_weights(*, input_shape, outputs):
    return nn.Flatten()

def too_many(*, input_shape, outputs):
    return Wrapped(linear(input_shape, outputs + 1))

def squeezed(*, input_shape, outputs):
    return Wrapped(linear(input_shape, outputs), lambda h: h.sum(1))

def without_axes_of_length_one(*, input_shape, outputs):
    return Wrapped(linear(input_shape, outputs), torch.squeeze)

def clipping(*, input_shape, outputs):
    network = fine(input_shape=input_shape, outputs=outputs)
    for weight in network.parameters():
        weight.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3))
    return network

def permuted(*, input_shape, outputs):
    order = numpy.random.default_rng().permutation(math.prod(input_shape))
    return Wrapped(linear(input_shape, outputs), lambda h: h).before(lambda x: x[:, order])

def projected(*, input_shape, outputs):
    size = math.prod(input_shape)
    network = Wrapped(linear(input_shape, outputs))
    values = torch.from_numpy(numpy.random.default_rng().normal(size=(size, size)))
    network.register_buffer("mixing", values, persistent=False)
    return network.before(lambda x: x @ network.mixing)

class Listed(nn.Module):
    def __init__(self, size, outputs):
        super().__init__()
        self.weights = [torch.randn(outputs, size, dtype=torch.float64, requires_grad=True)]
        self.bias = nn.Parameter(torch.zeros(outputs))
    def forward(self, x):
        return x.flatten(1) @ self.weights[0].T + self.bias

def in_a_list(*, input_shape, outputs):
    return Listed(math.prod(input_shape), outputs)

def several(*, input_shape, outputs):
    return Wrapped(linear(input_shape, outputs), lambda h: (h, h))

def batch_norm(*, input_shape, outputs):
    return nn.Sequential(fine(input_shape=input_shape, outputs=outputs), nn.BatchNorm1d(outputs))

def batch_norm_of_evaluation(*, input_shape, outputs):
    return batch_norm(input_shape=input_shape, outputs=outputs).eval()

def mixing(*, input_shape, outputs):
    return Wrapped(linear(input_shape, outputs), lambda h: h - h.mean(0))

def little_mixing(*, input_shape, outputs):
    return Wrapped(linear(input_shape, outputs), lambda h: 1e-6 * (h - h.mean(0)))

def dropout(*, input_shape, outputs):
    return nn.Sequential(fine(input_shape=input_shape, outputs=outputs), nn.Dropout(0.5))

def little_dropout(*, input_shape, outputs):
    return nn.Sequential(fine(input_shape=input_shape, outputs=outputs), nn.Dropout(1e-9))

def functional_dropout(*, input_shape, outputs):
    return Wrapped(linear(input_shape, outputs), lambda h: nn.functional.dropout(h, 0.5))

class ByHand(nn.Module):
    def __init__(self, size, outputs):
        super().__init__()
        self.first, self.last = nn.Linear(size, 4), nn.Linear(4, outputs)
        self.drop = nn.Dropout(0.02)

    def forward(self, x):
        h = torch.tanh(self.first(x.flatten(1)))
        return self.last(nn.functional.dropout(h, self.drop.p, self.drop.training))

def dropout_by_hand(*, input_shape, outputs):
    return ByHand(math.prod(input_shape), outputs)

def unused_dropout(*, input_shape, outputs):
    network = fine(input_shape=input_shape, outputs=outputs)
    network.never_called = nn.Dropout(0.5)
    return network

class Attending(nn.Module):
    def __init__(self, size, outputs, dropout):
        super().__init__()
        self.first, self.last = nn.Linear(size, 4), nn.Linear(4, outputs)
        self.attention = nn.MultiheadAttention(4, 2, dropout=dropout, batch_first=True)

    def forward(self, x):
        x = self.first(x.flatten(1))[:, None]
        return self.last(self.attention(x, x, x, need_weights=False)[0][:, 0])

def attention_with_dropout(*, input_shape, outputs):
    return Attending(math.prod(input_shape), outputs, 1e-9)

def attention_of_evaluation(*, input_shape, outputs):
    return Attending(math.prod(input_shape), outputs, 0.5).eval()

class Spectral(nn.Module):
    def __init__(self, size, outputs):
        super().__init__()
        self.first, self.last = nn.Linear(size, 4), nn.Linear(4, outputs)
        phases = torch.exp(1j * torch.arange(16.0).reshape(4, 4))
        self.register_buffer("filter", phases)
        self.register_buffer("same", phases)

    def forward(self, x):
        h = torch.tanh(self.first(x.flatten(1)))
        filtered = torch.complex(h, h) @ self.filter + torch.complex(h, -h) @ self.same
        return self.last(filtered.imag)

def spectral(*, input_shape, outputs):
    return Spectral(math.prod(input_shape), outputs)

def dropout_of_rate_0(*, input_shape, outputs):
    return nn.Sequential(fine(input_shape=input_shape, outputs=outputs), nn.Dropout(0.0))

def dropout_of_evaluation(*, input_shape, outputs):
    return dropout(input_shape=input_shape, outputs=outputs).eval()

def frozen(*, input_shape, outputs):
    network = fine(input_shape=input_shape, outputs=outputs)
    network.last.bias.requires_grad_(False)
    return network

def integers(*, input_shape, outputs):
    network = fine(input_shape=input_shape, outputs=outputs)
    network.count = nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False)
    return network

def complex_(*, input_shape, outputs):
    network = fine(input_shape=input_shape, outputs=outputs)
    network.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    return network

def lazy(*, input_shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(outputs))

def overlapping(*, input_shape, outputs):
    network = fine(input_shape=input_shape, outputs=outputs)
    network.other = nn.Parameter(network.last.weight.data[:1])
    return network

class Counting(Wrapped):
    def __init__(self, last):
        super().__init__(last)
        self.register_buffer("calls", torch.zeros(()))
    def forward(self, x):
        self.calls += 1
        return super().forward(x)

def counting(*, input_shape, outputs):
    return Counting(linear(input_shape, outputs))

class Sparse(Wrapped):
    def __init__(self, last):
        super().__init__(last)
        self.register_buffer("graph", torch.eye(2).to_sparse())

def sparse(*, input_shape, outputs):
    return Sparse(linear(input_shape, outputs))

def single_precision(*, input_shape, outputs):
    return Wrapped(linear(input_shape, outputs), lambda h: h.float())

def crashing(*, input_shape, outputs):
    return Wrapped(nn.Linear(7, outputs))

def infinite(*, input_shape, outputs):
    return Wrapped(linear(input_shape, outputs), lambda h: h / 0.0)

def cached(*, input_shape, outputs):
    return NETWORK

NETWORK = Wrapped(nn.Linear(12, 2))

def unseeded(*, input_shape, outputs):
    network = fine(input_shape=input_shape, outputs=outputs)
    nn.init.constant_(network.last.weight, random.random())
    return network

def constant(*, input_shape, outputs):
    network = fine(input_shape=input_shape, outputs=outputs)
    return network.requires_grad_(True) if nn.init.zeros_(network.last.weight) is None else (
        nn.init.zeros_(network.last.bias), network)[1]

def detached(*, input_shape, outputs):
    return Wrapped(linear(input_shape, outputs), lambda h: h.detach())

class Wrong(torch.autograd.Function):
    generate_vmap_rule = True
    @staticmethod
    def forward(x):
        return 1.0 * x
    @staticmethod
    def setup_context(context, given, output):
        pass
    @staticmethod
    def backward(context, gradient):
        return 2 * gradient
    @staticmethod
    def jvp(context, tangent):
        return 1.0 * tangent

def wrong_derivative(*, input_shape, outputs):
    return Wrapped(linear(input_shape, outputs), Wrong.apply)

def little_wrong_derivative(*, input_shape, outputs):
    return Wrapped(linear(input_shape, outputs), lambda h: 1e-6 * Wrong.apply(h))

class OfTheBatch(Wrong):
    generate_vmap_rule = True
    @staticmethod
    def backward(context, gradient):
        return len(gradient) * gradient
    @staticmethod
    def jvp(context, tangent):
        return len(tangent) * tangent

def derivative_of_the_batch(*, input_shape, outputs):
    return Wrapped(linear(input_shape, outputs), OfTheBatch.apply)

def branching(*, input_shape, outputs):
    return Wrapped(linear(input_shape, outputs), lambda h: h if float(h.sum()) else 2 * h)

def steep(*, input_shape, outputs):
    return Wrapped(linear(input_shape, outputs), lambda h: h + (h - h.detach()).sqrt())

def reentrant(*, input_shape, outputs):
    again = importlib.import_module("torch.utils.checkpoint").checkpoint
    return Wrapped(linear(input_shape, outputs), lambda h: again(torch.tanh, h, use_reentrant=True))

class First(nn.Module):  # its first layer is applied in a way of its own
    def __init__(self, input_shape, outputs, apply):
        super().__init__()
        self.first, self.apply_first = fine(input_shape=input_shape, outputs=3), apply
        self.last = nn.Linear(3, outputs)

    def forward(self, x):
        return self.last(self.apply_first(self.first, x))

def reentrant_at_first(*, input_shape, outputs):
    again = importlib.import_module("torch.utils.checkpoint").checkpoint
    return First(input_shape, outputs, lambda first, x: again(first, x, use_reentrant=True))

def with_data(*, input_shape, outputs):
    def apply(first, x):
        return nn.functional.linear(x.flatten(1), first.last.weight.data, first.last.bias)
    return First(input_shape, outputs, apply)

def zeros_last(*, input_shape, outputs):
    network = First(input_shape, outputs, lambda first, x: first(x))
    nn.init.zeros_(network.last.weight)
    return network

def transposed(*, input_shape, outputs):
    network = fine(input_shape=input_shape, outputs=outputs)
    network.last.weight = nn.Parameter(torch.randn(math.prod(input_shape), outputs).T)
    return network

def bound(*, input_shape, outputs):
    network = fine(input_shape=input_shape, outputs=outputs)
    last = network.last
    last.forward = lambda h: nn.functional.linear(h, last.weight, last.bias)
    return network

def pruned(*, input_shape, outputs):
    network = fine(input_shape=input_shape, outputs=outputs)
    importlib.import_module("torch.nn.utils.prune").l1_unstructured(network.last, "weight", 0.3)
    return network

def behind_zeros(layer, input_shape, outputs):
    head = nn.Linear(5, outputs, dtype=torch.float64)
    nn.init.zeros_(head.weight)
    return nn.Sequential(fine(input_shape=input_shape, outputs=5), layer, head)

class Covariance(nn.Linear):
    # Weights that must not move by a hundredth of the largest.
    def __init__(self, size, outputs):
        super().__init__(size, outputs, dtype=torch.float64)
        self.sizes = nn.Parameter(torch.logspace(0, -6, size, dtype=torch.float64))
    def forward(self, x):
        factor = torch.linalg.cholesky(torch.diag(self.sizes))
        return super().forward(x.flatten(1) @ factor)

def of_a_covariance(*, input_shape, outputs):
    return Covariance(math.prod(input_shape), outputs)

def mixing_behind_zeros(*, input_shape, outputs):
    mixing = Wrapped(nn.Identity(), lambda h: h - h.mean(0))
    return behind_zeros(mixing, input_shape, outputs)

def dropout_behind_zeros(*, input_shape, outputs):
    return behind_zeros(nn.Dropout(0.5), input_shape, outputs)

def batch_norm_of_the_batch(*, input_shape, outputs):
    layer = nn.BatchNorm1d(5, track_running_stats=False, dtype=torch.float64)
    return behind_zeros(layer, input_shape, outputs).eval()

def words(*, input_shape, outputs, **options):
    table = Wrapped(nn.Embedding(5, outputs, **options), lambda found: found.mean(1))
    return table.before(lambda x: (2 * x.abs()).long().clamp(0, 4))

def max_norm(*, input_shape, outputs):
    return words(input_shape=input_shape, outputs=outputs, max_norm=100.0)

def sparse_gradient(*, input_shape, outputs):
    return words(input_shape=input_shape, outputs=outputs, sparse=True)

def clamping(*, input_shape, outputs):
    def apply(first, x):
        with torch.no_grad():
            first.last.weight.clamp_(-0.1, 0.1)
        return first(x)
    return First(input_shape, outputs, apply)

def halving_in_place(*, input_shape, outputs):
    return fine(input_shape=input_shape, outputs=outputs).before(lambda x: x.mul_(0.5))

def relu_in_place(*, input_shape, outputs):
    return nn.Sequential(nn.ReLU(inplace=True), fine(input_shape=input_shape, outputs=outputs))

def part_detached(*, input_shape, outputs):
    return Wrapped(linear(input_shape, outputs), lambda h: h + h.detach() ** 2)

def straight_through(*, input_shape, outputs):
    return Wrapped(linear(input_shape, outputs), lambda h: h + (torch.round(h) - h).detach())

def norm_detached(*, input_shape, outputs):
    def apply(first, x):
        return first(x) / first.last.weight.detach().norm()
    return First(input_shape, outputs, apply)

def gate_detached(*, input_shape, outputs):
    return First(input_shape, outputs, lambda first, x: gated(first(x)))

def gated(z):
    return z * torch.sigmoid(z).detach()

def normalised_detached(*, input_shape, outputs):
    def apply(first, x):
        z = torch.tanh(first(x))
        return (z - z.mean(1, keepdim=True).detach()) / z.std(1, keepdim=True).detach()
    return First(input_shape, outputs, apply)

def features_of_its_precision(*, input_shape, outputs):
    def features(x):
        drawn = torch.Generator().manual_seed(0)
        return torch.tanh(x @ torch.randn(x.shape[1], 12, generator=drawn, dtype=x.dtype))
    return fine(input_shape=(12,), outputs=outputs).before(features)

def floor_of_its_precision(*, input_shape, outputs):
    return Wrapped(linear(input_shape, outputs),
                   lambda h: torch.log(torch.relu(h) + torch.finfo(h.dtype).eps))

def tokens(*, input_shape, outputs):
    table = Wrapped(nn.Embedding(101, outputs), lambda found: found.mean(1))
    return table.before(lambda x: ((x.abs() * 20).round().clamp(0, 100) / 100 * 100).long())

def saturated(*, input_shape, outputs):
    return Wrapped(linear(input_shape, outputs), lambda h: torch.sigmoid(1000 * h))

def saturated_softmax(*, input_shape, outputs):
    return Wrapped(linear(input_shape, outputs), lambda h: torch.softmax(100 * h, 1))

def of_large_outputs(*, input_shape, outputs):
    return Wrapped(linear(input_shape, outputs), lambda h: 1e9 + torch.tanh(h))

def single_inside(*, input_shape, outputs):
    return Wrapped(linear(input_shape, outputs), lambda h: (300 + torch.tanh(h)).float().to(h))

def of_many_scales(*, input_shape, outputs):
    size = math.prod(input_shape)
    layers = [nn.Linear(size, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, outputs)]
    with torch.no_grad():
        for layer, scale in ((layers[0], 1e-6), (layers[2], 1e6)):
            for weights in layer.parameters():
                weights *= scale
    return Wrapped(nn.Sequential(*layers))

def never_used(*, input_shape, outputs):
    network = fine(input_shape=input_shape, outputs=outputs)
    network.unused = nn.Parameter(torch.full((3,), float("nan")))
    return network

class Force(nn.Module):  # the derivative of an energy with respect to the inputs
    def __init__(self, size, outputs):
        super().__init__()
        self.hidden, self.energy, self.outputs = nn.Linear(size, 7), nn.Linear(7, 1), outputs

    @torch.enable_grad()
    def forward(self, x):
        x = x.flatten(1).detach().requires_grad_()
        energy = self.energy(torch.tanh(self.hidden(x))).sum()
        return torch.autograd.grad(energy, x, create_graph=True)[0][:, : self.outputs]

def force(*, input_shape, outputs):
    return Force(math.prod(input_shape), outputs)

def at_its_kinks(*, input_shape, outputs):  # samples of zeros, at units whose bias is zero
    first = linear(input_shape, 4)
    nn.init.zeros_(first.bias)
    network = Wrapped(nn.Sequential(first, nn.ReLU(), nn.Linear(4, outputs)))
    return network.before(lambda x: torch.where(x.mean(1, keepdim=True) > 0, x, 0.0))

def softmax(*, input_shape, outputs):
    return nn.Sequential(fine(input_shape=input_shape, outputs=outputs), nn.Softmax(dim=1))
"""

REFUSED = {
    "failing": "failed (RuntimeError: no luck)",
    "number": "gave int; it must give a torch.nn.Module",
    "no_weights": "no weights to train",
    "too_many": "maps 6 inputs to (6, 3); it must give (6, 2)",
    "squeezed": "maps 6 inputs to (6,); it must give (6, 2)",
    "without_axes_of_length_one": "maps a single input to (2,); it must give (1, 2)",
    "clipping": "loses a hook",
    "several": "maps 6 inputs to tuple; it must give (6, 2)",
    "batch_norm": "1 is batch normalisation in training mode, which mixes samples",
    "mixing": "depends on the others of its batch",
    "little_mixing": "depends on the others of its batch",
    "dropout": "the layer 1 (Dropout) is random: it drops units anew in every call",
    "little_dropout": "the layer 1 (Dropout) is random",
    "attention_with_dropout": "the layer attention (MultiheadAttention) is random",
    "dropout_by_hand": "the layer drop (Dropout) is random",
    "functional_dropout": "it is random (dropout?)",
    "mixing_behind_zeros": "has no kernel (as soon as weights that start at zero have moved)",
    "dropout_behind_zeros": "(Dropout) is random",
    "batch_norm_of_the_batch": "1 is batch normalisation without running statistics",
    "frozen": "last.bias are frozen",
    "integers": "count are torch.int64; they must be float",
    "complex_": "phase are torch.complex",
    "lazy": "have no values yet",
    "overlapping": "share memory but are two parameters",
    "counting": "the buffer calls changes when the network is called",
    "sparse": "graph is sparse; make it dense",
    "single_precision": "the outputs are torch.float32, the weights torch.float64",
    "crashing": "fails on inputs of shape (6, 3, 2, 2)",
    "infinite": "outputs at the start are not finite",
    "cached": "gives the same network again",
    "unseeded": "two calls of the factory with one seed give different weights",
    "permuted": "the same weights but other outputs",
    "projected": "the same weights but other outputs",
    "in_a_list": "weights of shape (2, 12) decide the outputs but are no parameters",
    "detached": "outputs do not depend on the weights",
    "wrong_derivative": "forward derivative of the network does not agree with the reverse one",
    "derivative_of_the_batch": "gradients of single samples do not add up to that of the batch",
    "little_wrong_derivative": "forward derivative of the network does not agree",
    "bound": "a copy of the network has another gradient",
    "pruned": "the network cannot be copied",
    "reentrant": "torch takes no gradient of the network (RuntimeError: When use_reentrant=True",
    "reentrant_at_first": "the weights first.last.weight, first.last.bias decide the outputs but",
    "with_data": "the weights first.last.weight decide the outputs but get no gradient",
    "steep": "the gradient of the outputs at the start is not finite",
    "max_norm": "has a max_norm, by which it changes its weights when it is called",
    "sparse_gradient": "is sparse; build its layer with sparse=False",
    "clamping": "the weights first.last.weight change when the network is called",
    "halving_in_place": "the network changes its inputs in place",
    "relu_in_place": "the network changes its inputs in place (inplace=True in its first layer",
    "part_detached": "along their gradient the outputs change by",
    "straight_through": "along their gradient the outputs change by 0 where their gradient says",
    "norm_detached": "along the weights the outputs change by",
    "gate_detached": "the outputs change by",
    "normalised_detached": "the outputs change by",
    "never_used": "the weights unused hold values that are not finite at the start",
}
INPUTS = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def drawn(module, factory, seed=3, dtype=torch.float64, **arguments):
    inputs = INPUTS.to(dtype)
    return drawn_own_network(f"{module}:{factory}", arguments, inputs, 2, seed, dtype)


def test_outputs_that_sum_to_one_have_derivatives_all_the_same(module):
    network = drawn(module(NETWORKS), "softmax")
    torch.testing.assert_close(
        empirical_ntk(network, INPUTS),
        finite_difference_kernel(network, INPUTS),
        rtol=1e-6,
        atol=1e-9,
    )


@pytest.mark.parametrize("factory", REFUSED)
def test_what_has_no_speed_limit_is_refused_in_one_sentence(module, factory):
    name = module(NETWORKS)
    with pytest.raises(ValueError) as caught:
        drawn(name, factory)
    told = str(caught.value)
    assert REFUSED[factory] in told and told.startswith(f"model: {name}:{factory}")
    assert "\n" not in told and told.count("model: ") == 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("factory", ["gate_detached", "normalised_detached"])
def test_a_detached_part_is_found_whatever_the_start(module, factory, seed):
    with pytest.raises(ValueError, match="the outputs change by"):
        drawn(module(NETWORKS), factory, seed=seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "factory",
    [
        "features_of_its_precision",
        "floor_of_its_precision",
        "tokens",
        "force",
        "saturated",
        "saturated_softmax",
        "of_large_outputs",
        "single_inside",
        "of_many_scales",
    ],
)
def test_rounding_and_precision_are_no_wrong_gradient(module, factory, dtype):
    build = own_factory(f"{module(NETWORKS)}:{factory}")
    for seed in range(5):
        network = drawn_network(lambda: build(input_shape=(3, 2, 2), outputs=2), seed, dtype)
        check_slope(network, INPUTS.to(dtype))


@pytest.mark.parametrize(
    "factory",
    [
        "fine",
        "batch_norm_of_evaluation",
        "dropout_of_evaluation",
        "dropout_of_rate_0",
        "unused_dropout",
        "attention_of_evaluation",
        "transposed",
        "zeros_last",
        "of_a_covariance",
        "force",
        "at_its_kinks",
    ],
)
def test_what_has_one_is_drawn_by_the_seed_and_leaves_torch_alone(module, factory):
    name = module(NETWORKS)
    state = torch.random.get_rng_state()
    one, same, other = (drawn(name, factory, seed) for seed in (3, 3, 4))
    flat = [torch.nn.utils.parameters_to_vector(n.parameters()) for n in (one, same, other)]
    assert torch.equal(flat[0], flat[1]) and not torch.equal(flat[0], flat[2])
    assert flat[0].dtype == torch.float64
    assert torch.equal(torch.random.get_rng_state(), state)


def test_weights_that_overlap_in_memory_are_told_from_those_beside_one_another():
    """As those of a recurrent layer lie, in whichever order they are registered."""
    memory = torch.zeros(24, dtype=torch.float64)

    def views(*starts):
        return torch.nn.ParameterList([memory[k : k + 12].view(2, 6) for k in starts])

    for starts in ((0, 12), (12, 0)):
        check_parameters(views(*starts))
    with pytest.raises(ValueError, match="the weights 1 and 0 share memory"):
        check_parameters(views(11, 0))


@pytest.mark.parametrize("size", [1e-6, 1e6])
@pytest.mark.parametrize("factor", [0.99, 1.01])
def test_networks_are_told_apart_by_a_share_of_their_outputs(size, factor):
    networks = [torch.nn.Linear(3, 2, bias=False).double() for _ in range(3)]
    for network, value in zip(networks, (1.0, factor, 1 + 1e-4), strict=True):
        torch.nn.init.constant_(network.weight, size * value)
    assert outputs_apart(*networks[:2], torch.ones(4, 3))
    assert not outputs_apart(*networks[::2], torch.ones(4, 3))


def test_a_start_without_a_seed_is_said(module, capsys):
    drawn(module(NETWORKS), "constant")
    assert "all realisations are the same run" in capsys.readouterr().out
    drawn(module(NETWORKS), "fine")
    assert "the same run" not in capsys.readouterr().out


PERMUTED = """
import torch
class Permuted(torch.nn.Linear):
    def __init__(self):
        super().__init__(12, 2)
        torch.nn.init.ones_(self.weight), torch.nn.init.zeros_(self.bias)
        self.signs = 1.0 - 2.0 * torch.rand(2).double()
    def forward(self, x):
        return super().forward(x.flatten(1)) * self.signs
def net(input_shape, outputs):
    return Permuted()
"""


def test_a_seed_that_decides_no_weight_but_the_outputs_is_one(module, capsys):
    drawn(module(PERMUTED), "net")
    assert "the same run" not in capsys.readouterr().out


def test_a_value_is_no_factory(module):
    with pytest.raises(ValueError, match="is float; it must be a function or class"):
        own_factory(f"{module('RATE = 0.1')}:RATE")


def test_a_module_that_cannot_be_imported_is_told(module):
    name = module("import no_such_package_at_all\n")
    with pytest.raises(ValueError, match="imported .ModuleNotFoundError: No module"):
        drawn(name, "f")


def test_what_a_module_imports_is_looked_for_here_first(module, tmp_path, monkeypatch):
    """As by ``python -m``, even where another folder has a module of that name."""
    (tmp_path / "elsewhere").mkdir()
    helper = module("PLACE = 'here'\n")
    module("PLACE = 'elsewhere'\n", helper, tmp_path / "elsewhere")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    name = module(f"from {helper} import PLACE\ndef f(**given):\n    pass\n")
    assert own_factory(f"{name}:f").__globals__["PLACE"] == "here"


def test_code_that_changed_after_planning_is_refused(module, monkeypatch):
    """Or it would be recorded under the digest of what was there before."""
    name = module(NETWORKS)
    settings = {"model": f"{name}:fine", "model_arguments": {}, "precision": "float64"}
    settings |= {"output_scale": 1, "model_code": own_digest(f"{name}:fine")}
    data = xr.Dataset({"train_inputs": (list("abcd"), INPUTS.numpy())}, attrs={"outputs": 2})
    monkeypatch.setenv("SPEEDLIMITS_PLANNER_PYTHON", ".".join(map(str, sys.version_info[:2])))
    build_network(settings, data, 3)
    settings["model_code"] = "0" * 16
    with pytest.raises(ValueError, match="was changed after this snakemake had planned its jobs"):
        build_network(settings, data, 3)
    monkeypatch.setenv("SPEEDLIMITS_PLANNER_PYTHON", "3.0")
    build_network(settings, data, 3)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1"])
def test_encodings_that_python_reads_are_read(module, encoding):
    name = module(NET)
    with open(f"{name}.py", "w", encoding=encoding) as file:
        file.write(f"# -*- coding: {encoding.replace('-sig', '')} -*-\n# é\n{NET}")
    assert own_problem(f"{name}:f", {}) == ""
    assert len(own_digest(f"{name}:f")) == 16
    assert callable(own_factory(f"{name}:f"))


def test_a_module_that_exits_is_told(module):
    name = module("import sys\nsys.exit(0)\n")
    with pytest.raises(ValueError, match="cannot be imported .SystemExit"):
        drawn(name, "f")
    name = module("def f(**given):\n    raise SystemExit('usage')\n")
    with pytest.raises(ValueError, match="failed .SystemExit: usage"):
        drawn(name, "f")


def test_what_a_module_changes_for_the_whole_process_is_set_back(module, tmp_path, capsys):
    changes = ("torch.set_default_dtype(torch.float64)", "torch.set_grad_enabled(False)",
               "torch.set_num_threads(torch.get_num_threads() + 1)", "os.chdir('/')",
               "torch.set_float32_matmul_precision('high')",
               "torch.backends.cuda.matmul.allow_tf32 = True",
               "torch.backends.cudnn.allow_tf32 = True", "torch.backends.cudnn.benchmark = True",
               "torch.set_deterministic_debug_mode(0)")  # fmt: skip
    places = ("", ".cuda.matmul", ".cudnn", ".cudnn.conv", ".cudnn.rnn", ".mkldnn.matmul")
    newer = [f"torch.backends{place}.fp32_precision" for place in places]
    newer *= hasattr(torch.backends, "fp32_precision")
    changes += tuple(f"{name} = 'tf32'" for name in newer)
    before = torch.get_num_threads()
    choose_device("cpu", threads=before, deterministic=True)

    def precision():
        flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        modes = torch.backends.cudnn.benchmark, torch.get_deterministic_debug_mode()
        named = tuple(attrgetter(name.removeprefix("torch."))(torch) for name in newer)
        return *flags, *modes, torch.get_float32_matmul_precision(), *named

    expected = precision()
    try:
        for change in changes:
            drawn(module(f"import os, torch\n{change}\n{NETWORKS}"), "fine")
            assert "set back" in capsys.readouterr().out, change
            f = f"import os\ndef f(**given):\n    {change}\n    return fine(**given)\n"
            drawn(module(NETWORKS + f), "f")
            assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()
            assert torch.get_num_threads() == before and os.getcwd() == str(tmp_path)
            assert precision() == expected, change
            assert expected[:5] == (False, False, False, 2, "highest")
    finally:
        torch.set_deterministic_debug_mode("default")
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
        torch.set_num_threads(before)
    capsys.readouterr()
    drawn(module(NETWORKS), "fine")
    assert "set back" not in capsys.readouterr().out


def finite_difference_kernel(network, inputs):
    """Return J J^T by central differences of the outputs, float64."""
    jacobian = finite_difference_jacobian(network, inputs)
    return jacobian @ jacobian.T


TIED = """
import math
import torch
from torch import nn
from speedlimits.layers import ScaledLinear

class Tied(nn.Module):
    def __init__(self, size, outputs):
        super().__init__()
        self.first, self.second = nn.Linear(size, size), nn.Linear(size, size)
        self.second.weight = self.first.weight
        self.last = nn.Linear(size, outputs)
    def forward(self, x):
        return self.last(torch.tanh(self.second(torch.tanh(self.first(x.flatten(1))))))

class Again(nn.Module):
    # one module under two names, with a buffer, and a weight without an axis
    def __init__(self, size, outputs):
        super().__init__()
        self.first = nn.Linear(size, size)
        self.first.register_buffer("factor", torch.tensor(1.5))
        self.body = nn.Sequential(self.first, nn.Tanh(), self.first)
        self.gate, self.last = nn.Parameter(torch.tensor(0.3)), nn.Linear(size, outputs)
    def forward(self, x):
        return self.last(self.gate * torch.tanh(self.first.factor * self.body(x.flatten(1))))

def again(*, input_shape, outputs):
    return Again(math.prod(input_shape), outputs)

def tied(*, input_shape, outputs):
    return Tied(math.prod(input_shape), outputs)

def chain(*, input_shape, outputs):
    size = math.prod(input_shape)
    a, b = ScaledLinear(size, size, 1.0, "ntk"), ScaledLinear(size, size, 1.0, "ntk")
    b.weight = a.weight
    return nn.Sequential(
        nn.Flatten(), a, nn.ReLU(), b, nn.ReLU(), ScaledLinear(size, outputs, 1.0, "ntk")
    )
"""


@pytest.mark.parametrize("factory", ["tied", "chain", "again"])
def test_one_parameter_at_two_places_has_the_kernel_of_one_weight(module, factory):
    network = drawn(module(TIED), factory)
    assert choose_route(network, INPUTS).name == "torch_func"
    kernel = empirical_ntk(network, INPUTS)
    torch.testing.assert_close(
        kernel, finite_difference_kernel(network, INPUTS), rtol=1e-6, atol=1e-7
    )
    # Derivatives leave the network as it was.
    assert all(isinstance(p, torch.nn.Parameter) for p in network.parameters())
    again = empirical_ntk(network, INPUTS, route="torch_func")
    # To rounding, which depends on where the memory of a call lies.
    torch.testing.assert_close(again, kernel, rtol=1e-12, atol=1e-12)
    # Training moves both places together.
    targets = torch.zeros(len(INPUTS), 2, dtype=torch.float64)
    loss = TrainingLoss(network, INPUTS, targets)
    theta = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
    _, gradient = loss.loss_and_gradient(theta)
    expected = torch.autograd.grad(0.5 * network(INPUTS).square().sum(), list(network.parameters()))
    torch.testing.assert_close(gradient, torch.cat([g.flatten() for g in expected]))


@pytest.mark.parametrize(
    ("neighbour", "words"),
    [
        ("train", "is a module of this workflow"),
        ("random", "is a module of Python"),
        ("yaml", "is installed ("),
        ("own_layers", ""),
    ],
)
def test_a_neighbour_must_not_have_a_name_by_which_another_module_is_found(
    module, tmp_path, neighbour, words
):
    name = module(f"import {neighbour}\n" + NETWORKS)
    (tmp_path / f"{neighbour}.py").write_text("size = 2\n")
    problem = own_problem(f"{name}:fine", {})
    assert (words in problem) if words else problem == ""
    if words:
        assert problem.startswith(f"{name} imports {neighbour}, which is here (")


def test_layers_that_share_a_weight_have_no_structured_route():
    first, second = (ScaledLinear(4, 4, 1.0, "ntk") for _ in range(2))
    torch.nn.init.eye_(first.weight)
    second.weight = first.weight
    route = choose_route(torch.nn.Sequential(first, second), torch.zeros(3, 4))
    assert route == ("torch_func", "layers share their weights")


def test_networks_that_view_their_images_train():
    class Viewing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = torch.nn.Conv2d(3, 4, 3, padding=1)
            self.last = torch.nn.Linear(16, 2)

        def forward(self, x):
            return self.last(self.convolution(x).view(len(x), -1))

    network = Viewing().double()
    loss = TrainingLoss(network, INPUTS, torch.ones(6, 2))
    assert not loss.channels_last
    theta = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
    expected = 0.5 * (network(INPUTS) - 1).square().sum().item()
    assert loss.loss_and_gradient(theta)[0] == pytest.approx(expected, rel=1e-12)


REBUILT = """
import math
import torch
from torch import nn

class Rebuilt(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        # The draws of the built-in network: Gaussians in float64 from one seed.
        generator = torch.Generator().manual_seed(torch.initial_seed())
        shapes = list(zip(sizes[1:], sizes[:-1]))
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64)) for s in shapes
        )
    def forward(self, x):
        x = x.flatten(1)
        for k, weight in enumerate(self.weights):
            gain = 1.0 if k == len(self.weights) - 1 else math.sqrt(2)
            x = gain / math.sqrt(weight.shape[1]) * torch.einsum("ni,oi->no", x, weight)
            x = x if k == len(self.weights) - 1 else x.clamp(min=0)
        return x

def network(*, input_shape, outputs, units, layers):
    return Rebuilt([math.prod(input_shape)] + [units] * (layers - 1) + [outputs])
"""


@pytest.mark.parametrize("scale", [1, 3.0])
def test_a_rebuilt_network_is_the_built_in_one(module, job, monkeypatch, scale):
    monkeypatch.setattr("pipeline.problem.start_seed", lambda settings, realisation: 11)
    generator = np.random.default_rng(0)
    labels = np.arange(10) % 2
    data = xr.Dataset(
        {"train_inputs": (("i", "c", "h", "w"), generator.normal(size=(10, 2, 3, 3))),
         "train_labels": ("i", labels)},
        attrs={"outputs": 2},
    )  # fmt: skip
    write_netcdf(data, "n.nc")
    common = {
        "dataset": "d", "n": 10, "selection": "uniform", "subset": 0, "targets": "one_hot",
        "precision": "float64", "output_scale": scale, "subtract_start": scale != 1, "seed": 1,
        "dynamics": "gradient_flow", "relative_tolerance": 1e-4, "final_time": 30,
        "first_snapshot": 1, "time_unit": "inverse_lambda_1", "snapshots_per_decade": 3,
        "code": "x",
    }  # fmt: skip
    built_in = {"model": "fully_connected", "width": 7, "depth": 3, "parameterisation": "ntk",
                "initialisation": "he"}  # fmt: skip
    own = {"model": f"{module(REBUILT)}:network", "model_arguments": {"units": 7, "layers": 3}}
    problems, runs = [], []
    for number, settings in enumerate((built_in, own)):
        settings = common | settings
        problems.append(build_problem(settings, "n.nc", 0, torch.device("cpu")))
        folder = f"run{number}"
        job(
            time_unit.main, inputs={"s": "n.nc"}, outputs={"o": f"{folder}.json"}, settings=settings
        )
        job(
            train.main,
            inputs={"subset": "n.nc", "time_unit": f"{folder}.json"},
            outputs={"manifest": f"{folder}/snapshots.json"},
            settings=settings,
            wildcards={"realisation": 0},
            store=f"{folder}/snapshots.zarr",
        )
        runs.append(read_snapshots(f"{folder}/snapshots.json"))
    routes = [choose_route(problem.network, problem.inputs).name for problem in problems]
    assert routes == ["structured", "torch_func"]
    kernels = [empirical_ntk(problem.network, problem.inputs) for problem in problems]
    torch.testing.assert_close(*kernels, rtol=1e-11, atol=1e-12 * kernels[0].max().item())
    for name in ("time", "train_loss", "geodesic_length", "path_length", "action", "weights"):
        np.testing.assert_allclose(runs[1][name], runs[0][name], rtol=1e-6, atol=1e-9, err_msg=name)


def test_starts_of_own_networks_have_no_known_distribution():
    """Made of our layers they might be drawn otherwise: no entropy, no T_SL at a temperature."""
    variances, ranges = json.dumps({"0.weight": 1.0}), json.dumps({"0.weight": [0, 9]})
    attributes = {"start_variances": variances, "parameter_ranges": ranges}
    own = {"model": "mine:f", "model_arguments": {}}
    built_in = {"model": "myrtle5", "initialisation": "he", "subtract_start": False}
    for config, known in ((own, False), (built_in, True)):
        run = xr.Dataset(attrs=attributes | {"config": json.dumps(config)})
        assert (speed_limits.start_distribution(run) is not None) == known


# ------------------------------------------------------------------ the workflow


@pytest.mark.workflow
def test_own_network_and_own_data_go_through_the_whole_workflow(tmp_path):
    folder = checkout(tmp_path)
    networks = folder / "networks"
    networks.mkdir()
    shutil.copy(ROOT / "examples/own_network.py", networks / "own_network.py")
    text = "from own_sizes import HIDDEN\nfrom networks import own_network\n\n\n"
    text += "def small(*, input_shape, outputs):\n    return own_network.perceptron(\n"
    text += "        input_shape=input_shape, outputs=outputs, width=HIDDEN, activation='gelu')\n"
    (networks / "mine.py").write_text(text)
    (folder / "own_sizes.py").write_text("HIDDEN = 3\n")
    generator = np.random.default_rng(0)
    images = generator.normal(size=(24, 2, 4, 4)).astype(np.float32)
    labels = np.arange(24) % 3
    np.savez(folder / "mine.npz", train_inputs=images, train_labels=labels,
             test_inputs=images[:6], test_labels=labels[:6])  # fmt: skip
    config = yaml.safe_load((ROOT / "tests/miniature.yaml").read_text())
    config["datasets"]["mine"] = {"file": "mine.npz", "normalise": True}
    config["default_studies"] = ["own"]
    config["studies"] = {
        "own": {
            "set": {"dataset": "mine", "n": 9, "final_time": 10},
            "cases": [
                {"model": "networks.mine:small"},
                {"model": "networks.own_network:convolutional", "model_arguments": {"channels": 2}},
                {"model": "fully_connected", "width": 3},
            ],
            "figures": ["outcomes", "inefficiency_time"],
            "realisations": 1,
        }
    }
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(config))
    targets = [f"results/studies/own/figures/{f}.png" for f in ("outcomes", "inefficiency_time")]
    targets += ["results/studies/own/findings.md", "results/report/interactive.html"]
    done = snakemake(folder, *targets, configfile=path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    tables = {p.stem: pd.read_csv(p) for p in (folder / "results/studies/own").glob("*.csv")}
    models = {"networks.mine:small", "networks.own_network:convolutional", "fully_connected"}
    limits = tables["speed_limits"]
    assert set(limits["model"]) == models and (limits["inefficiency"].dropna() > 0.99).all()
    identifying = {"dataset", "n", "subset", "model", "width", "parameterisation", "dynamics"}
    for name in ("speed_limits", "exponents", "warm_starts", "training_curves", "kernels",
                 "outcomes"):  # fmt: skip
        columns = set(tables[name].columns) - identifying
        assert {c for c in columns if not is_taken(c)} == set(), "pipeline/columns.py"
    for model in models:
        assert model.replace("fully_", "fully ") in (
            (folder / "results/studies/own/findings.md").read_text()
        )
    assert '"networks.mine:small"' in (folder / "results/report/interactive.html").read_text()
    log = next(folder.glob("results/logs/runs/mine/*/networks.mine.small-*/ntk_start0.log"))
    assert "route torch_func: layer Linear has no hand-written" in log.read_text()

    def stale():
        return planned(snakemake(folder, "-n", *targets, configfile=path))

    assert stale() == {}
    (networks / "mine.py").write_text('"""Words."""\n\n# more words\n' + text)
    (folder / "own_sizes.py").touch()
    assert stale() == {}
    (folder / "own_sizes.py").write_text("HIDDEN = 4\n")
    found = stale()
    once = ("time_unit", "train", "ntk_start", "ntk_warm", "ntk_end", "exponents", "speed_limit")
    assert {rule: found.get(rule) for rule in once} == dict.fromkeys(once, 1)
    assert "subset" not in found and "prepare" not in found
    (folder / "own_sizes.py").write_text("HIDDEN = 3\n")
    (networks / "own_network.py").write_text(
        (networks / "own_network.py").read_text() + "\nA = 1\n"
    )
    assert stale()["train"] == 2
    (networks / "mine.py").write_text(text.replace("def small", "def tiny"))
    refused = snakemake(folder, "-n", *targets, configfile=path)
    told = refused.stdout + refused.stderr
    assert refused.returncode != 0 and "has no small" in told and "Traceback" not in told


def test_complex_buffers_are_those_of_the_precision_under_every_name(module):
    """Above ``full_rows_limit`` kernels of float32 networks are multiplied in float64."""
    network = drawn(module(NETWORKS), "spectral", dtype=torch.float32)
    exact = in_precision(copy.deepcopy(network), torch.float64)
    for of, dtype in ((network, torch.complex64), (exact, torch.complex128)):
        assert of.filter.dtype == of.same.dtype == dtype
        assert torch.equal(of.filter, of.same) and of.filter.imag.any()
    torch.testing.assert_close(
        exact(INPUTS), network(INPUTS.float()).double(), rtol=1e-4, atol=1e-5
    )
    vector = torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    product = kernel_product(exact, INPUTS, vector, way=way_along_weights(exact, INPUTS))
    torch.testing.assert_close(product, empirical_ntk(exact, INPUTS) @ vector)


def test_a_compiled_part_with_a_complex_buffer_is_told_as_one(module):
    """Its buffers cannot be missing while the network is converted."""
    inner = torch.nn.Linear(2, 2)
    inner.register_buffer("phase", torch.tensor(1j))
    network = torch.nn.Sequential(torch.jit.script(inner))
    with pytest.warns(UserWarning, match="discards the imaginary part"):
        in_precision(network, torch.float64)
    with pytest.raises(ValueError, match="compiled by torch.jit"):
        check_network(network, torch.ones(3, 2, dtype=torch.float64), 2)
