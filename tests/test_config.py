"""Bad configurations are refused before anything runs, all problems at once, in plain sentences."""

import argparse
import copy
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from checkouts import checkout
from conftest import ROOT, RUN, reordered
from dry_runs import DryRuns
from snakemake.utils import update_config

from pipeline import inputs, workdir
from pipeline.config import TRANSFORMER_HEADS, ConfigError, validate, validated, without_removed
from pipeline.config_files import (
    FOLDER_OPTIONS,
    STARTED,
    configuration_files,
    entry_problems,
    file_problems,
    refuse,
    repetition_problems,
    words_of,
    working_configuration,
)
from pipeline.runs import Plan, Refusal, combinations, study_axes
from pipeline.training import wanted_times
from speedlimits.vision_transformer import HEADS


class Remove:
    """In the place of a value: the key is removed."""

    def __repr__(self):
        return "removed"


REMOVE = Remove()


def named(value):
    """Return the start of a parameter's text, the same in every process."""
    return str(sorted(value) if isinstance(value, set) else value)[:50]


def changed(config, path, value):
    config = copy.deepcopy(config)
    *parents, last = path.split(".")
    place = config
    for key in parents:
        place = place[key]
    if value is REMOVE:
        del place[last]
    else:
        place[last] = value
    return config


STUDY = "studies.dataset_size"
BAD = [
    # (key, value, words that the message must hold)
    ("seeed", 1, ["unknown key", "seeed", "did you mean seed?"]),
    ("base.widht", 32, ["unknown key in base", "did you mean width?"]),
    ("base.parametrisation", "ntk", ["did you mean parameterisation?"]),
    ("kernel.memory_gB", 2, ["did you mean memory_gb?"]),
    ("compute.treads", 2, ["unknown key in compute"]),
    ("studies.dataset_size.very", {"n": [1]}, ["did you mean vary?"]),
    ("datasets.cifar10.sha265", "0" * 64, ["did you mean sha256?"]),
    ("datasets.mnist", {}, ["either file", "or teacher", "built in are cifar10, digits"]),
    ("ünïcödé", 1, ["unknown key", "ünïcödé"]),
    ("theory.linear_regression.ratio", [1.0], ["unknown key", "did you mean ratios?"]),
    ("theory.linear_regression.temperatures", [-0.1], ["temperatures[0] is -0.1", "at least 0"]),
    ("theory.linear_regression.realisations", 64, ["realisations is 64", "at least 16^2 = 256"]),
    ("theory.linear_regression.ratios", [0.01], ["leaves no sample at d = 16"]),
    ("theory.linear_regression.first_time", 30.0, ["less than final_time 20.0"]),
    ("theory.power_law.exponents", [[2.0, -1.5]], ["delta > 1 - alpha"]),
    ("theory.power_law.exponents", [[2, 1], [2.0, 1.0]], ["names a value twice", "[2, 1]"]),
    ("seed", -1, ["seed is -1", "at least 0"]),
    ("seed", 1.5, ["whole number"]),
    ("seed", "7", ["seed is '7'", "whole number", "remove the quotes"]),
    ("seed", "\uff11\uff12", ["whole number", "(write 12 in digits 0 to 9)"]),
    ("seed", None, ["seed is null", "whole number"]),
    ("seed", 2**40, ["at most 4294967295"]),
    ("base", REMOVE, ["lacks the key base"]),
    ("base", [1, 2], ["base is [1, 2]", "a mapping of keys to values"]),
    ("base.n", REMOVE, ["base lacks the key n"]),
    ("base.n", 0, ["base.n is 0", "at least 1"]),
    ("base.n", -5, ["base.n is -5"]),
    ("base.n", 60_000, ["at most 50000"]),
    ("base.n", "64", ["whole number"]),
    ("base.n", True, ["whole number"]),
    (
        "base.dataset",
        "cifar",
        ["allowed: cifar10, digits", "did you mean cifar10?", "add datasets.cifar"],
    ),
    ("base.dataset", "../etc", ["allowed: cifar10, digits"]),
    ("base.dataset", 10, ["base.dataset is 10"]),
    ("base.selection", "balance", ["did you mean balanced?"]),
    ("base.model", "myrtle50", ["did you mean myrtle5?"]),
    ("base.model", "resnet", ["allowed: myrtle5, myrtle7, myrtle10, fully_connected"]),
    ("base.model", "no_such_module:f", ["base: model is", "there is no no_such_module.py in"]),
    ("base.model", "networks/mine.py:f", ["package.module:factory", "(write networks.mine:f)"]),
    ("base.model", "pipeline:f", ["pipeline is a module of this workflow"]),
    ("base.model", "x:", ["package.module:factory"]),
    ("base.model_arguments", {"a-b": 1}, ["base.model_arguments is 'a-b'", "Python argument"]),
    ("base.model_arguments", {"a": "1e-3"}, ["model_arguments.a is '1e-3'", "1.0e-3, not 1e-3"]),
    ("base.model_arguments", {"a": [1]}, ["model_arguments.a is [1]", "a number or text"]),
    ("base.model_arguments", {1: 2}, ["base.model_arguments has the key 1", "text"]),
    ("base.model_arguments", {"width": 8}, ["no network of your own reads", "remove it"]),
    (
        f"{STUDY}.set",
        {"model_arguments": {"width": 8}},
        ["studies.dataset_size has model_arguments"],
    ),
    (f"{STUDY}.vary.model_arguments", [{"a": 1}], ["a mapping of keys to values"]),
    (f"{STUDY}.vary.model_arguments", {"hidden": [1, 2]}, ["no network of your own reads"]),
    ("base.output_scale", 0, ["greater than 0"]),
    ("base.output_scale", "1e3", ["write 1.0e+3"]),
    ("base.subtract_start", 1, ["true or false"]),
    ("base.label_noise", 1.1, ["at most 1"]),
    ("base.label_noise", -0.1, ["at least 0"]),
    ("base.patch_size", 0, ["at least 1"]),
    ("base.parameterisation", "mup", ["allowed: ntk, standard, mean_field"]),
    ("base.width", 0, ["at least 1"]),
    ("base.width", 3.5, ["whole number"]),
    ("base.width", 4.0, ["base.width is 4.0", "a whole number (write 4)"]),
    ("seed", 7.0, ["seed is 7.0", "(write 7)"]),
    ("base", {1: 2}, ["base has the key 1"]),
    ("base.width", [32], ["base.width is [32]"]),
    ("base.depth", 0, ["at least 1"]),
    ("base.depth", 1000, ["at most 100"]),
    ("base.parameterisation", "NTK", ["did you mean ntk?"]),
    ("base.initialisation", "xavier", ["allowed: he, torch_default"]),
    ("base.targets", "onehot", ["did you mean one_hot?"]),
    ("base.precision", "float16", ["allowed: float32, float64"]),
    ("base.dynamics", "rmsprop", ["allowed: gradient_flow, gradient_descent, heavy_ball"]),
    ("base.n", "1e3", ["YAML reads 1e3 as text: write 1000)"]),
    ("base.n", True, ["base.n is true; it must be a whole number"]),
    ("base.relative_tolerance", "1e-3", ["YAML reads 1e-3 as text: write 1.0e-3"]),
    ("base.relative_tolerance", 0, ["at least 1e-08"]),
    ("base.relative_tolerance", 0.5, ["at most 0.1"]),
    ("base.relative_tolerance", math.nan, ["is nan", "finite"]),
    ("base.learning_rate", "1e-5", ["write 1.0e-5"]),
    ("base.learning_rate", "1E5", ["write 1.0e+5"]),
    ("base.learning_rate", -0.1, ["at least 1e-30"]),
    ("base.learning_rate", 0, ["at least 1e-30"]),
    ("base.learning_rate", math.inf, ["is inf"]),
    ("base.learning_rate", "fast", ["base.learning_rate is 'fast'", "a number"]),
    ("base.learning_rate_unit", "relative", ["allowed: absolute, stability_limit"]),
    ("base.temperature", -1e-4, ["base.temperature is -0.0001", "at least 0"]),
    ("base.temperature", math.nan, ["base.temperature is nan", "finite"]),
    ("base.temperature", math.inf, ["base.temperature is inf"]),
    ("base.temperature", "1e-4", ["YAML reads 1e-4 as text: write 1.0e-4"]),
    ("base.temperature", REMOVE, ["base lacks the key temperature"]),
    (f"{STUDY}.vary.temperature", [0, -1], ["vary.temperature[1] is -1", "at least 0"]),
    ("base.final_time", -1, ["greater than 0"]),
    ("base.final_time", math.inf, ["is inf"]),
    ("base.final_time", 0.05, ["first_snapshot is 0.1", "less than final_time 0.05"]),
    ("base.first_snapshot", 0, ["at least 1e-30"]),
    ("base.first_snapshot", 2000, ["less than final_time"]),
    ("base.first_snapshot", "0,1", ["a number"]),
    ("base.first_snapshot", 1e-308, ["at least 1e-30"]),
    ("base.snapshots_per_decade", 900, ["decades below final_time", "raise it"]),
    ("theory.linear_regression.first_time", 1e-200, ["at least 1e-30"]),
    ("theory.linear_regression.start_variance", 1e-308, ["at least 1e-30"]),
    ("datasets.digits", {"": 1, "test_count": 4}, ["unknown key in datasets.digits: ''; allowed"]),
    ("datasets.cifar10.archive", "", ["datasets.cifar10.archive is empty text"]),
    ("base.time_unit", "epochs", ["allowed: inverse_lambda_1, absolute"]),
    ("base.snapshots_per_decade", 0, ["at least 1"]),
    ("base.snapshots_per_decade", 10_000, ["at most 1000"]),
    ("base.subset", -1, ["at least 0"]),
    ("studies", {}, ["studies is empty"]),
    ("studies", REMOVE, ["lacks the key studies"]),
    ("studies.Bad Name", {"vary": {}, "realisations": 1}, ["name 'Bad Name'"]),
    ("studies", {"a" * 101: {"realisations": 1}}, ["at most 100, and starts with a letter"]),
    ("studies", {"a\n": {"realisations": 1}}, ["has the name 'a\\n'"]),
    ("datasets", {"d" * 300: {}}, ["datasets has the name", "at most 100"]),
    ("base.model_arguments", {"kind": "relu\n"}, ["model_arguments.kind is 'relu\\n'"]),
    ("base.model_arguments", {"kind\n": 1}, ["'kind\\n'", "Python argument"]),
    (f"{STUDY}.realisations", 0, ["studies.dataset_size.realisations is 0"]),
    (f"{STUDY}.realisations", "3", ["whole number"]),
    (f"{STUDY}.realisations", 2.0, ["realisations is 2.0", "(write 2)"]),
    ("studies", {True: {"realisations": 2}}, ["studies has the key true", "in quotes"]),
    ("studies", {2: {"realisations": 2}}, ["studies has the key 2"]),
    ("datasets", {None: {}}, ["datasets has the key null"]),
    (f"{STUDY}.vary.temperature", [0, 0.1], ["dataset_size.vary has temperature", "no run"]),
    (f"{STUDY}.vary.depth", [2, 3], ["vary has depth", "no run of the study reads"]),
    (f"{STUDY}.vary.momentum", [0.1, 0.9], ["gradient_flow", "set dynamics: heavy_ball or"]),
    (
        f"{STUDY}.cases",
        [{"label": "a", "width": 4}, {"label": "a", "width": 8, "precision": "float64"}],
        ["two cases with the label a"],
    ),
    (
        f"{STUDY}.cases",
        [{"label": "a</Script>", "width": 4}, {"label": "b", "width": 8}],
        ["case with the label a</Script>", "leave </script out of it"],
    ),
    (f"{STUDY}.cases", [{"label": " ", "width": 4}], ["cases[0].label is ' '", "can be seen"]),
    (f"{STUDY}.cases", [{"label": "a\nb", "width": 4}], ["cases[0].label is", "of one line"]),
    (f"{STUDY}.cases", [{"label": "a\n", "width": 4}], ["cases[0].label is", "of one line"]),
    (f"{STUDY}.cases", [{"label": "a" * 201, "width": 4}], ["cases[0].label", "200 characters"]),
    (
        f"{STUDY}.cases",
        [
            {"label": "a", "width": 4},
            {"label": "b", "width": 4, "momentum": 0.5},
            {"label": "c", "dynamics": "nesterov"},
        ],
        ["the cases a and b are the same runs"],
    ),
    (
        f"{STUDY}.vary.warm_start_accuracy",
        [None, 0.15, 0.3],
        ["dataset_size has warm_start_accuracy 0.15 and null", "warm_start.test_accuracy"],
    ),
    (f"{STUDY}.realisations", REMOVE, ["lacks the key realisations"]),
    (f"{STUDY}.cases", [], ["cases is an empty list"]),
    (f"{STUDY}.cases", [{"n": 8}], ["n in cases and in vary"]),
    (f"{STUDY}.cases", [{"widht": 8}], ["studies.dataset_size.cases[0]", "did you mean width?"]),
    (
        f"{STUDY}.set",
        {"model": "myrtle50"},
        ["studies.dataset_size: model", "did you mean myrtle5?"],
    ),
    ("default_studies", ["dataset_sise"], ["did you mean dataset_size?"]),
    ("default_studies", [], ["default_studies is an empty list"]),
    (
        "theory.power_law.exponents",
        [[1.5]],
        ["exponents[0] holds [1.5] alone; give at least 2 values"],
    ),
    ("base.model", f"{'a' * 300}.b:c", ["a network of your own is package.module:factory"]),
    (f"{STUDY}.vary.n", [], ["studies.dataset_size.vary.n is an empty list"]),
    (f"{STUDY}.vary.n", 64, ["studies.dataset_size.vary.n is 64", "a list"]),
    (f"{STUDY}.vary.n", [64, 64], ["names a value twice"]),
    (f"{STUDY}.vary.n", [64, "x"], ["studies.dataset_size.vary.n[1] is 'x'"]),
    (f"{STUDY}.vary.n", [64, 100_000], ["vary.n[1] is 100000", "at most 50000"]),
    (f"{STUDY}.vary.nn", [64], ["did you mean n?"]),
    (f"{STUDY}.vary.relative_tolerance", ["1e-2"], ["write 1.0e-2"]),
    (f"{STUDY}.vary.final_time", [0.01, 10], ["first_snapshot"]),
    ("warm_start.test_accuracy", 0, ["greater than 0"]),
    ("warm_start.test_accuracy", 12, ["at most 1"]),
    ("warm_start.test_accuracy", "12%", ["a number"]),
    ("warm_start", None, ["warm_start is null"]),
    ("kernel.memory_gb", 0, ["at least 0.05"]),
    ("kernel.memory_gb", math.nan, ["is nan"]),
    ("kernel.full_rows_limit", 0, ["at least 1"]),
    ("kernel.stored_rows_limit", 0, ["at least 1"]),
    ("kernel.quadrature_steps", 1, ["at least 2"]),
    ("fit.first_rank", 1, ["greater than 1"]),
    ("fit.last_rank_fraction", 0, ["greater than 0"]),
    ("fit.last_rank_fraction", 1.5, ["at most 1"]),
    ("fit.bins_per_decade", 1, ["at least 2"]),
    ("statistics.confidence", 95, ["at most 0.9999"]),
    ("statistics.confidence", 0.1, ["at least 0.5"]),
    ("statistics.resamples", 10, ["at least 100"]),
    ("figures.dpi", 10, ["at least 50"]),
    ("figures.dpi", "high", ["whole number"]),
    ("compute.device", "gpu", ["allowed: auto, cpu, cuda"]),
    ("compute.train_threads", 0, ["at least 1"]),
    ("compute.deterministic", "yes", ["true or false"]),
    ("datasets.cifar10.test_count", 0, ["at least 1"]),
    ("datasets.cifar10.test_count", 20_000, ["at most 10000"]),
    ("datasets.cifar10.archive", "x.tar.gz", ["datasets.cifar10.sha256 is not", "sha256sum"]),
    ("datasets.cifar10.archive", 3, ["text or null"]),
    ("datasets.cifar10.archive", ".", ["datasets.cifar10.archive is ., a folder"]),
    ("datasets.cifar10.sha256", "abc", ["64 lower-case hexadecimal digits"]),
    ("datasets.cifar10.sha256", "g" * 64, ["64 lower-case hexadecimal digits"]),
    ("datasets.digits.test_count", 1797, ["at most 1787"]),
    ("datasets.cifar10", REMOVE, ["add datasets.cifar10"]),
]


@pytest.fixture
def one_study(shipped_config):
    """The shipped configuration with its first study alone, so that each problem is told once."""
    studies = shipped_config["studies"]
    return shipped_config | {"studies": {"dataset_size": studies["dataset_size"]}}


@pytest.mark.parametrize(("key", "value", "words"), BAD, ids=named)
def test_bad_value_is_refused_in_one_sentence(one_study, key, value, words):
    with pytest.raises(ConfigError) as caught:
        validate(changed(one_study, key, value))
    message = str(caught.value)
    for word in words:
        assert word in message
    assert message.startswith("the configuration has 1 problem:")
    assert len(message.splitlines()) == 2


NO_NETWORK = [
    (
        {"dynamics": "sgd", "batch_size": 65, "learning_rate": 0.1},
        ["batch_size is 65, more than n = 64"],
    ),
    ({"model": "vision_transformer", "width": 6}, ["width is 6", "a multiple of its 4 heads"]),
    ({"model": "vision_transformer", "patch_size": 3}, ["a multiple of patch_size 3", "(1, 8, 8)"]),
    ({"model": "fully_connected", "depth": 1, "parameterisation": "mean_field"}, ["depth 1 has"]),
    (
        {"dataset": "taught", "model": "myrtle5"},
        ["needs images", "taught has inputs of shape (8,)"],
    ),
    (
        {"dataset": "taught", "model": "residual_network"},
        ["for example fully_connected; or leave the study out of default_studies"],
    ),
]


def test_a_study_that_nobody_asked_for_does_not_refuse_the_data_of_another(shipped_config):
    """Vectors for the fully connected network, beside a shipped study of convolutions."""
    teacher = {"alpha": 2, "delta": 0, "samples": 600, "dimension": 8, "features": "gaussian",
               "test_count": 0}  # fmt: skip
    shipped_config["datasets"]["taught"] = {"teacher": teacher}
    vectors = {"dataset": "taught", "model": "fully_connected", "targets": "real"}
    shipped_config["base"] |= vectors | {"selection": "uniform", "width": 10, "depth": 2}
    chosen = ("dataset_size", "architecture")
    shipped_config["studies"] = {name: shipped_config["studies"][name] for name in chosen}
    validate(shipped_config)
    files = inputs.study_files(Plan(shipped_config), shipped_config)
    assert files(SimpleNamespace(study="dataset_size"))
    with pytest.raises(Refusal, match="studies.architecture .* model is myrtle5, which needs"):
        files(SimpleNamespace(study="architecture"))
    shipped_config["theory"]["langevin"]["set"] |= {"dataset": "taught"}
    with pytest.raises(Refusal, match="theory.langevin: model is myrtle5, which needs images"):
        inputs.langevin_subsets(Plan(shipped_config), shipped_config)(None)


@pytest.mark.parametrize(("wrong", "words"), NO_NETWORK)
def test_networks_and_batches_that_do_not_fit_are_told_before_any_job(one_study, wrong, words):
    teacher = {"alpha": 2, "delta": 0, "samples": 64, "dimension": 8, "features": "gaussian",
               "test_count": 0}  # fmt: skip
    one_study["datasets"]["taught"] = {"teacher": teacher}
    real = {"targets": "real", "selection": "uniform"} if "dataset" in wrong else {}
    right = {"dataset": "digits"} | real
    study = {"vary": {"n": [64]}, "realisations": 2}
    one_study["studies"]["dataset_size"] = study | {"set": right | wrong}
    with pytest.raises(ConfigError, match="has 1 problem:") as caught:
        validate(one_study)
    assert all(word in str(caught.value) for word in words)
    fitting = {"batch_size": 64, "width": 8, "patch_size": 4, "depth": 2}
    other = {key: fitting[key] for key in wrong if key in fitting}
    other |= {"model": "fully_connected"} if "dataset" in wrong else {}
    one_study["studies"]["dataset_size"] = study | {"set": right | wrong | other}
    validate(one_study)


UNREAD = [
    ({"set": {"temperature": 0.1}}, "set has temperature", "set dynamics: langevin"),
    ({"vary": {"temperature": [0, 0.1]}}, "vary has temperature", "set dynamics: langevin"),
    ({"set": {"dynamics": "sgd", "momentum": 0.5}}, "set has momentum", "heavy_ball or nesterov"),
    (
        {"set": {"dynamics": "gradient_descent", "batch_size": 4}},
        "set has batch_size",
        "(dynamics: gradient_descent); remove it by set: {batch_size: null}, or set dynamics: sgd",
    ),
    ({"set": {"learning_rate": 0.1}}, "set has learning_rate", "gradient_descent or heavy_ball"),
    (
        {"cases": [{"dynamics": "adam", "learning_rate": 0.1, "relative_tolerance": 0.01}],
         "set": {"learning_rate_unit": "absolute", "time_unit": "steps", "first_snapshot": 1}},
        "cases has relative_tolerance",
        "(dynamics: adam); remove it, or set dynamics: gradient_flow",
    ),
    ({"set": {"depth": 3}}, "set has depth", "set model: fully_connected or residual_network"),
    ({"set": {"patch_size": 2}}, "set has patch_size", "set model: vision_transformer"),
    (
        {"set": {"model": "vision_transformer", "parameterisation": "ntk"}},
        "set has parameterisation",
        "(model: vision_transformer); remove it by set: {parameterisation: null}, or set model: ",
    ),
    (
        {"set": {"model": "fully_connected", "depth": 1}, "vary": {"width": [8, 16]}},
        "vary has width",
        "(model: fully_connected of depth 1); remove it by vary: {width: null}, or set model: ",
    ),
]  # fmt: skip


def test_a_step_longer_than_the_whole_time_is_refused(one_study):
    moved = {"dynamics": "heavy_ball", "learning_rate": 0.5, "momentum": 0.9, "final_time": 20}
    one_study["studies"]["dataset_size"] |= {"set": moved}
    validate(one_study)
    moved["momentum"] = 0.99
    with pytest.raises(ConfigError, match=r"one step of heavy_ball .* is 100 long"):
        validate(one_study)
    with pytest.raises(ValueError, match="one step is 3 long; raise final_time"):
        wanted_times({**RUN, "final_time": 2.0, "time_unit": "absolute"}, 1.0, 3.0)
    with pytest.raises(ValueError, match=r"takes 2e\+15 steps; allowed: up to 1e\+10; lower final"):
        wanted_times({**RUN, "final_time": 2.0, "time_unit": "inverse_lambda_1"}, 1.0, 1e-15)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"learning_rate": 1e-9}, "1e+12"),
        ({"dynamics": "nesterov", "momentum": 0.9, "learning_rate": 1e-9}, "1e+11"),
        ({"time_unit": "absolute", "learning_rate_unit": "absolute", "learning_rate": 1e-10},
         "2e+13"),
        ({"time_unit": "steps", "final_time": 2e10}, "2e+10"),
        ({"dynamics": "adam", "momentum": 0.9, "time_unit": "absolute", "learning_rate": 1e-9,
          "learning_rate_unit": "absolute"}, "2e+12"),
    ],
)  # fmt: skip
def test_more_steps_than_ever_end_are_refused(one_study, changes, steps):
    given = {"dynamics": "gradient_descent", "learning_rate": 0.1, "final_time": 2000.0}
    one_study["studies"]["dataset_size"] |= {"set": given | changes}
    with pytest.raises(ConfigError, match="has 1 problem:") as caught:
        validate(one_study)
    told = str(caught.value)
    if changes.get("time_unit") == "steps":
        assert "final_time is 2e+10 steps; allowed: up to 1e+10; lower it" in told
    else:
        assert f"takes {steps} steps of " in told and "raise learning_rate" in told
    fewer = {"final_time": 2e9} if changes.get("time_unit") == "steps" else {"learning_rate": 0.01}
    one_study["studies"]["dataset_size"]["set"] |= fewer
    validate(one_study)


def test_a_whole_number_of_300_digits_is_not_proposed(one_study):
    with pytest.raises(ConfigError, match=r"seed is 1e\+308; it must be a whole number\n"):
        validate(one_study | {"seed": 1e308})


def test_a_fraction_of_a_step_is_no_final_time(one_study):
    steps = {"dynamics": "sgd", "time_unit": "steps", "first_snapshot": 1, "batch_size": 8}
    one_study["studies"]["dataset_size"] |= {"set": steps | {"final_time": 30}}
    validate(one_study)
    one_study["studies"]["dataset_size"]["set"]["final_time"] = 30.5
    with pytest.raises(ConfigError, match=r"final_time is 30.5 steps; it must be a whole number"):
        validate(one_study)


@pytest.mark.parametrize(("study", "what", "remedy"), UNREAD, ids=named)
def test_what_a_study_names_and_none_of_its_runs_reads_is_refused(one_study, study, what, remedy):
    one_study["studies"]["dataset_size"] = {"realisations": 2, **study}
    with pytest.raises(ConfigError, match="has 1 problem:") as caught:
        validate(one_study)
    assert f"studies.dataset_size.{what}, which no run" in str(caught.value)
    assert remedy in str(caught.value)
    one_study["default_studies"] = ["other"]
    one_study["studies"]["other"] = {"set": {"n": 100}, "realisations": 2}
    validate(one_study)  # nobody asks for it
    files = inputs.study_files(Plan(one_study), one_study)
    assert files(SimpleNamespace(study="other"))
    with pytest.raises(Refusal, match=re.escape(remedy)):
        files(SimpleNamespace(study="dataset_size"))


def test_a_network_of_one_layer_is_planned_once_whatever_the_width(one_study):
    grid = {"vary": {"depth": [1, 2], "width": [4, 8]}, "set": {"model": "fully_connected"}}
    one_study["studies"]["dataset_size"] = {"realisations": 2, **grid}
    validate(one_study)
    found = [e["settings"] for e in Plan(one_study).described("dataset_size")]
    assert [(s["depth"], s.get("width")) for s in found] == [(1, None), (2, 4), (2, 8)]


def test_labels_name_cases_that_differ_in_one_setting_too():
    cases = [{"model": "myrtle5"}, {"model": "myrtle7"}]
    assert study_axes({"cases": cases}) == {"model": ["myrtle5", "myrtle7"]}
    labelled = [{"label": "shallow_one", **cases[0]}, {"label": "0.10", **cases[1]}]
    assert study_axes({"cases": labelled}) == {"case": ["shallow_one", "0.10"]}


def test_other_draws_of_a_subset_and_single_values_are_no_axis():
    study = {"vary": {"subset": [0, 1], "n": [8, 16], "width": [4]}}
    assert study_axes(study) == {"n": [8, 16]}


@pytest.mark.parametrize("n", [8, 16])
def test_cases_that_are_the_same_runs_with_other_thresholds_are_refused(shipped_config, n):
    """Told apart by their labels they would be compared with themselves."""
    cases = [
        {"label": "early", "warm_start_accuracy": 0.2, "n": 8},
        {"label": "late", "warm_start_accuracy": 0.3, "n": n},
    ]
    shipped_config["studies"] = {"own": {"cases": cases, "realisations": 2}}
    shipped_config["default_studies"] = ["own"]
    if n == 16:
        validated(shipped_config)
        return
    with pytest.raises(ConfigError, match="cases early and late are the same runs with other"):
        validated(shipped_config)


def test_numbers_of_samples_of_the_regression_are_whole(one_study):
    one_study["theory"]["linear_regression"]["ratios"] = [0.3]
    with pytest.raises(ConfigError, match="ratios holds 0.3, which is no whole number of samples"):
        validated(one_study)


def test_a_threshold_of_null_is_the_common_one_along_its_axis(shipped_config):
    """As the rows of the tables have it; with None there no row would be the reference."""
    studies = {
        "vary": {"vary": {"warm_start_accuracy": [None, 0.3]}},
        "cases": {"cases": [{"warm_start_accuracy": 0.3}, {"warm_start_accuracy": None}]},
        "same": {"vary": {"warm_start_accuracy": [None, 0.25, 0.3]}},
    }
    shipped_config["warm_start"]["test_accuracy"] = 0.25
    axes = [study_axes(study, 0.25)["warm_start_accuracy"] for study in studies.values()]
    assert axes == [[0.25, 0.3], [0.3, 0.25], [0.25, 0.3]]
    shipped_config["studies"] = {"own": studies["vary"] | {"realisations": 2}}
    shipped_config["default_studies"] = ["own"]
    assert Plan(validated(shipped_config)).axes["own"] == {"warm_start_accuracy": [0.25, 0.3]}


def test_points_of_a_grid_come_in_one_order_however_its_keys_are_written():
    """Of the settings that with the first name, by the alphabet, changes last."""
    vary = {"width": [4, 8], "model_arguments": {"b": [5, 6], "a": [1]}, "n": [32, 16]}
    found = list(combinations({}, {"vary": vary}))
    assert [(s["n"], s["width"], s["model_arguments"]["b"]) for s in found] == [
        (n, width, b) for n in (32, 16) for width in (4, 8) for b in (5, 6)
    ]
    assert list(combinations({}, {"vary": reordered(vary)})) == found


def test_what_some_run_of_a_study_reads_may_be_set(one_study):
    flow, noisy = {"dynamics": "gradient_flow"}, {"dynamics": "langevin"}
    more = {"dynamics": "heavy_ball", "momentum": 0.5}
    one_study["base"]["batch_size"] = 8  # of the base: no study names it
    for study in (
        {"cases": [flow, noisy, more], "set": {"temperature": 0.1, "learning_rate": 0.1}},
        {"set": {"temperature": 0.1}, "vary": {"dynamics": ["gradient_flow", "langevin"]}},
        {"cases": [{"model": "myrtle5"}, {"model": "fully_connected", "depth": 2}]},
        {"set": {"warm_start_accuracy": 0.3, "dataset": "digits", "selection": "uniform"}},
    ):
        one_study["studies"]["dataset_size"] = {"realisations": 2, **study}
        validate(one_study)


OVERLAYS = [
    # (a file laid over the shipped configuration, place under studies, what is left there)
    ({"width": None}, ("width",), None),
    ({"width": {"vary": {"width": None}}}, ("width", "vary"), {"parameterisation"}),
    ({"width": {"vary": None, "set": None}}, ("width",), {"realisations"}),
    ({"laziness": {"set": {"n": None}}}, ("laziness", "set"), {"final_time", "subtract_start"}),
    ({"temperature": {"cases": None, "figures": None}}, ("temperature",),
     {"set", "vary", "realisations"}),
    ({"warm_start": {"figures": None}}, ("warm_start",), {"set", "vary", "realisations"}),
    # null is the value of a setting that may be null, and no axis
    ({"width": {"set": {"warm_start_accuracy": None}}}, ("width", "set"),
     {"n", "final_time", "warm_start_accuracy"}),
    ({"warm_start": {"vary": {"warm_start_accuracy": None}}}, ("warm_start", "vary"), set()),
    ({"new": {"vary": {"model_arguments": {"a": None}}, "realisations": 1}},
     ("new", "vary"), set()),
]  # fmt: skip


@pytest.mark.parametrize(("studies", "place", "left"), OVERLAYS, ids=named)
def test_null_removes_what_a_file_below_gives(shipped_config, studies, place, left):
    update_config(shipped_config, {"studies": studies})
    before = copy.deepcopy(shipped_config)
    found = without_removed(shipped_config)
    assert shipped_config == before  # not changed itself
    *above, last = place
    parent = found["studies"]
    for key in above:
        parent = parent[key]
    assert last not in parent if left is None else set(parent[last]) == left
    assert "null" not in yaml.safe_dump(found["studies"]).replace("warm_start_accuracy: null", "")
    validate(without_removed(changed(shipped_config, "base.dataset", "digits")))


@pytest.mark.parametrize(
    ("studies", "words"),
    [
        ({"width": {"vary": {"widht": None}}}, "unknown key in studies.width.vary: widht (did you"),
        ({"width": {"realisations": None}}, "realisations is null; it must be a whole number"),
        ({"width": {"very": None}}, "unknown key in studies.width: very (did you mean vary?)"),
        ({"width": {"vary": {"width": [None]}}}, "studies.width.vary.width[0] is null"),
        ({"dataset_size": None}, "but default_studies still has it; give default_studies without"),
    ],
)
def test_null_elsewhere_is_refused(shipped_config, studies, words):
    update_config(shipped_config, {"studies": studies})
    with pytest.raises(ConfigError, match=re.escape(words)):
        validated(shipped_config)


def test_null_that_removes_nothing_is_refused(shipped_config, tmp_path):
    update_config(shipped_config, {"studies": {"temprature": None}})
    shipped, own = ROOT / "config.yaml", tmp_path / "my.yaml"
    own.write_text("studies: {temprature: null}")
    words = "studies.temprature is null, .* no .* such a study .did you mean temperature.."
    with pytest.raises(ConfigError, match=words):
        validated(shipped_config, [shipped, own])
    own.write_text('{\n\t"studies": {"temprature": null}\n}')  # JSON with tabs
    with pytest.raises(ConfigError, match=words):
        validated(shipped_config, [shipped, own])
    own.write_text("studies: {temprature: {realisations: 1}}")  # of another file below
    validated(changed(shipped_config, "base.dataset", "digits"), [shipped, own])


def test_null_removes_on_the_command_line_too(shipped_config):
    given = {"studies": {"width": {"vary": {"width": "null"}}, "temperature": "null"}}
    update_config(shipped_config, given)
    found = validated(shipped_config, given=given)["studies"]
    assert set(found["width"]["vary"]) == {"parameterisation"} and "temperature" not in found


@pytest.mark.parametrize("base", [{"model": "vision_transformer"}, {"dynamics": "sgd"}])
def test_studies_that_nobody_asked_for_stand_beside_any_base(shipped_config, base):
    """The shipped studies vary widths and parameterisations, which not every network has."""
    shipped_config["base"] |= base | {"dataset": "digits"}
    validate(shipped_config)


def test_heads_of_the_transformer_are_those_of_the_library():
    assert TRANSFORMER_HEADS == HEADS


@pytest.mark.parametrize("config", [None, [], "text", 3, {}])
def test_configuration_that_is_no_mapping_or_empty(config):
    with pytest.raises(ConfigError, match="the configuration"):
        validate(config)


def test_all_problems_are_told_at_once(shipped_config):
    config = changed(shipped_config, "seed", -1)
    config = changed(config, "base.widht", 3)
    config = changed(config, "fit.bins_per_decade", "8")
    with pytest.raises(ConfigError, match="has 3 problems") as caught:
        validate(config)
    for word in ("seed is -1", "widht", "fit.bins_per_decade"):
        assert word in str(caught.value)


def test_more_groups_than_realisations(one_study):
    config = changed(one_study, "theory.linear_regression.realisations", 300)
    config = changed(config, "theory.linear_regression.groups", 301)
    with pytest.raises(ConfigError, match=r"groups is 301; it must be at most realisations 300"):
        validate(config)


def test_more_digits_than_there_are(shipped_config):
    config = changed(shipped_config, "base.dataset", "digits")
    with pytest.raises(ConfigError, match="digits has 1000"):
        validate(changed(config, f"{STUDY}.vary.n", [64, 1001]))


NO_LIMIT = [
    ("vary", {"width": [8, 16], "n": [16, 32]}, ["nothing else but subset"]),
    ("vary", {"subset": [0, 1]}, ["vary width and nothing else"]),
    (
        "set.model",
        "residual_network",
        ["infinite_width: model is residual_network", "set model: fully_connected or myrtle5"],
    ),
    ("set.parameterisation", "standard", ["parameterisation is standard", "form for ntk only"]),
    ("set.dynamics", "gradient_descent", ["closed form for gradient_flow only"]),
    ("set.depth", 1, ["infinite_width: depth is 1, a network without a width"]),
]


@pytest.mark.parametrize(("key", "value", "words"), NO_LIMIT)
def test_networks_without_a_closed_form_at_infinite_width(shipped_config, key, value, words):
    study = shipped_config["studies"]["infinite_width"]
    config = shipped_config | {"studies": {"infinite_width": study}}
    config["default_studies"] = ["infinite_width"]
    validate(config)
    shallow = changed(config, "base.depth", 1)  # which Myrtle does not read
    validate(changed(shallow, "studies.infinite_width.set.model", "myrtle10"))
    with pytest.raises(ConfigError, match="has 1 problem:") as caught:
        validate(changed(config, f"studies.infinite_width.{key}", value))
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("dynamics", ["gradient_descent", "langevin"])
def test_learning_rate_at_the_stability_limit(shipped_config, dynamics):
    config = changed(shipped_config, "base.dynamics", dynamics)
    validate(config)
    with pytest.raises(ConfigError, match="stability limit 2/lambda_1"):
        validate(changed(config, "base.learning_rate", 1.0))
    config = changed(config, "base.learning_rate", 1.0)
    validate(changed(config, "base.learning_rate_unit", "absolute"))


def test_a_study_told_twice(shipped_config):
    study = copy.deepcopy(shipped_config["studies"]["dataset_size"])
    with pytest.raises(ConfigError, match="studies.again repeats studies.dataset_size"):
        validate(changed(shipped_config, "studies.again", study))


@pytest.mark.parametrize("preset", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_presets_are_valid(shipped_config, preset):
    update_config(shipped_config, yaml.safe_load(preset.read_text(encoding="utf-8")))
    validate(shipped_config)


def test_there_are_at_least_a_hundred_bad_configurations():
    assert len(BAD) >= 100


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
FILES = [
    # (content of a file, words that the message must hold)
    ("seed: 1\nbase: {n: 8}\nseed: 2\n", ["line 3: seed is given twice"]),
    ("base:\n  n: 8\n  width: 4\n  n: 9\n", ["line 4: base.n is given twice"]),
    ("studies:\n  a: {cases: [{n: 8, n: 9}]}\n", ["studies.a.cases.n is given twice"]),
    ('{"seed": 1,\n\t"seed": 2}', ["line 2: seed is given twice"]),
    ("# " + "x" * 1_100_000 + "\nseed: 1\n", ["bytes; a configuration has at most 1000000"]),
    ("", ["no keys at top level"]),
    ("just text\n", ["no keys at top level"]),
    ("- seed\n", ["no keys at top level"]),
    ("base: {n: [\n", ["line 2, column 1", "neither YAML nor JSON"]),
    ('{"seed": 1,', ["neither YAML nor JSON"]),
    ("base:\n\tn: 8\n", ["line 2, column 1", "neither YAML nor JSON"]),
    ("base:\n" + "".join("  " * k + f"  a{k}:\n" for k in range(40)), ["more than 30 levels"]),
    ("base: " + "[" * 5000 + "]" * 5000, ["more than 30 levels"]),
    (LAUGHS, ["more than 100000 values", "aliases"]),
    ("base: &b {n: *b}\n", ["more than 100000 values"]),
    ("base: {n: *missing}\n", ["line 1, column 11", "undefined alias"]),
    ("seed: 1\n---\nseed: 2\n", ["line 2: a second document begins"]),
    ("? [a, b]\n: 3\n", ["a key is a list or a mapping"]),
    ("seed: 1" + "0" * 5000 + "\n", ["seed is 1000", "a number of 5001 digits"]),
    ("base: {final_time: 1:30}\n", ["base.final_time is 1:30", "base 60"]),
    ("base: {n: 0100}\n", ["base.n is 0100", "base 8"]),
    ("seed: !!python/object/apply:os.system [id]\n", ["seed has the tag", "plain value"]),
    ("__use_yte__: true\nseed: 1\n", ["line 1", "__use_yte__", "run code"]),
    (b"seed: 1\n# \xe9\n", ["is not UTF-8 text (byte 10)"]),
    ("seed: 1\n".encode("utf-16"), ["is not UTF-8 text (byte 0)"]),
]


@pytest.mark.parametrize(("content", "words"), FILES, ids=named)
def test_what_merging_would_hide_is_refused(shipped_config, tmp_path, content, words):
    path = tmp_path / "my.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        validated(shipped_config, [path])
    told = str(caught.value)
    assert all(word in told for word in words) and "\n" not in told and str(path) in told


def test_folders_and_missing_files_are_named_and_pipes_left_alone(tmp_path):
    assert "is a folder" in file_problems(tmp_path)[0]
    assert "is not there" in file_problems(tmp_path / "no.yaml")[0]
    os.mkfifo(tmp_path / "pipe")
    assert file_problems(tmp_path / "pipe") == []


@pytest.mark.parametrize("path", ["config.yaml", *sorted((ROOT / "configs").glob("*.yaml"))])
def test_shipped_files_have_no_problems(path):
    assert file_problems(ROOT / path) == []


def test_too_many_runs_are_counted_not_made(shipped_config):
    config = changed(shipped_config, f"{STUDY}.vary.subset", list(range(100_000)))
    config = changed(config, f"{STUDY}.vary.width", list(range(1, 5000)))
    with pytest.raises(ConfigError, match="dataset_size asks for 5998800000 runs; .* 100000"):
        validate(config)


def test_a_base_that_a_study_nobody_asked_for_contradicts_can_do_without_it(shipped_config):
    config = changed(shipped_config, "base.depth", 1)
    remedy = "; or do without this study: studies: {infinite_width: null}"
    with pytest.raises(ConfigError, match="has 1 problem") as caught:
        validate(config)
    assert str(caught.value).endswith(remedy)
    asked = config | {"default_studies": ["infinite_width"]}
    with pytest.raises(ConfigError, match="infinite_width needs at least 2$"):
        validate(asked)
    removed = {"studies": {"infinite_width": None}}
    update_config(config, removed)
    validated(config, given=removed)


def test_a_bad_value_of_the_base_is_told_once(shipped_config):
    with pytest.raises(ConfigError, match="has 1 problem") as caught:
        validate(changed(shipped_config, "base.model", "myrtle50"))
    assert "base: model is 'myrtle50'" in str(caught.value)


def test_missing_archive_is_told_until_there_is_a_copy(shipped_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = changed(shipped_config, "datasets.cifar10.archive", "no/archive.tar.gz")
    config = changed(config, "datasets.cifar10.sha256", "0" * 64)
    with pytest.raises(ConfigError, match="no/archive.tar.gz, which is no file"):
        validated(config)
    copied = tmp_path / "results/data/cifar10/archive.tar.gz"
    copied.parent.mkdir(parents=True)
    copied.touch()
    assert validated(config) == config


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        ("-n --configfile a.yaml b.yaml --cores 2", ["a.yaml", "b.yaml"]),
        ("all --configfile=a.yaml -n", ["a.yaml"]),
        ("--configfile a.yaml -n --configfiles b.yaml", ["a.yaml", "b.yaml"]),
        ("all --cores 2", []),
    ],
)
def test_files_are_found_on_the_command_line(arguments, files):
    assert configuration_files(arguments.split()) == files


COMMAND_LINE = [
    # (content of a file, words of the one line that says it): as a user meets them
    ("seed: 1\nseed: 2\n", "seed is given twice"),
    ("", "no keys at top level"),
    ("base: {n: [\n", "neither YAML nor JSON"),
    ("base: {final_time: -1}\n", "base.final_time is -1"),
    ("studies: {../../etc: {realisations: 1}}\n", "name '../../etc'"),
    ("base: {dataset: ../x}\n", "dataset is '../x'"),
    (LAUGHS, "more than 100000 values"),
    ("base: " + "[" * 5000 + "]" * 5000, "more than 30 levels"),
    ("#" * 200_000_000, "200000000 bytes"),
    (b"\xff\xfe", "is not UTF-8"),
    ("__use_yte__: true\n__definitions__: [import os; os.mkdir('results')]\n", "run code"),
    (None, "my.yaml is not there"),
]


@pytest.mark.parametrize(("content", "words"), COMMAND_LINE, ids=named)
def test_bad_files_end_the_real_command_without_a_traceback(tmp_path, content, words):
    path = tmp_path / "my.yaml"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    command = [sys.executable, "-m", "snakemake", "-n", "--directory", str(tmp_path)]
    command += ["--configfile", str(ROOT / "config.yaml"), str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    told = done.stdout + done.stderr
    assert done.returncode != 0 and "Traceback" not in told
    assert len([line for line in told.splitlines() if words in line]) == 1, told
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("option", ["-d {}", "--directory {}", "--directory={}"])
def test_the_configuration_of_the_working_folder_is_looked_at(tmp_path, monkeypatch, option):
    """That of the folder where the command is typed is none, if it works in another."""
    here, other = tmp_path / "here", tmp_path / "other"
    for folder in (here, other):
        folder.mkdir()
        (folder / "config.yaml").write_text("base: {n: 64\n")
    monkeypatch.chdir(here)
    arguments = f"-n {option.format(other)} --configfile a.yaml".split()
    assert working_configuration(arguments) == other / "config.yaml"
    assert working_configuration(["-n"]) == Path("config.yaml")
    (other / "config.yaml").unlink()
    assert working_configuration(arguments) == ROOT / "config.yaml"
    refuse(arguments[:-2])  # whatever lies here


def test_a_bad_configuration_of_the_working_folder_ends_the_command(tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"seed: 3 # caf\xe9\n")
    command = [sys.executable, "-m", "snakemake", "-n", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and not done.stdout
    assert f"\n{tmp_path}/config.yaml is not UTF-8 text (byte 13); " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("option", ["-s {}", "--snakefile {}", "--snakefile={}"])
def test_bad_files_are_told_from_another_folder_too(tmp_path, option):
    given = [word.format(ROOT / "Snakefile") for word in option.split()]
    command = [sys.executable, "-m", "snakemake", "-n", *given]
    command += ["--configfile", "my.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    told = done.stdout + done.stderr
    assert done.returncode != 0 and "Traceback" not in told
    assert "my.yaml is not there" in told


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the cache has another folder")
def test_a_cache_that_cannot_be_written_is_told_before_snakemake_ends_in_a_traceback(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/proc/nobody")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(SystemExit):
        refuse(["snakemake", "-n"])
    told = capsys.readouterr().err
    assert told.startswith(
        "/proc/nobody/.cache/snakemake, where Snakemake keeps a cache, cannot be wr"
    )
    assert len(told.splitlines()) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new/cache"))
    refuse(["snakemake", "-n"])
    assert os.environ[STARTED] == str(tmp_path)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("-n --persistence-backend db", "--persistence-backend db keeps apart from the results"),
        (
            "--cores 1 --drop-metadata",
            "--drop-metadata leaves no record of what results were made of",
        ),
        (
            "-n --ignore-incomplete",
            "--ignore-incomplete takes results that nobody has recorded",
        ),
        ("--report a/b.html", "--report a/b.html: a is no folder that this user may write to"),
    ],
)
def test_results_without_records_beside_them_are_refused(tmp_path, options, sentence):
    command = [sys.executable, "-m", "snakemake", *options.split()]
    command += ["--directory", str(tmp_path), "results/data/digits/images.nc"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert sentence in done.stderr


def test_a_report_may_go_to_any_folder_that_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    problems = workdir._report_problems
    assert problems(["snakemake", "--report"]) == problems(["--report", "--cores", "1"]) == []
    assert problems(["--report", "r.html"]) == problems([f"--report={tmp_path}/r.zip"]) == []
    for arguments in (["--report=no/r.html"], ["--report", "no/r.html", "-n"]):
        (told,) = problems(arguments)
        assert told.startswith("--report no/r.html: no is no folder") and str(tmp_path) in told
        with pytest.raises(Refusal, match="no is no folder"):  # not after hours of jobs
            workdir.refuse_stale_report([*arguments, "--report-after-run"], tmp_path)
    (told,) = problems(["--reporter", "html", "--report-html-path", "no/r.html"])
    assert told.startswith("--report-html-path no/r.html: no is no folder")


@pytest.mark.parametrize(
    ("arguments", "folders", "files"),
    [
        ("-n --directory w study_x", ["w"], []),
        ("--directory=w study_x -n --configfile=a.yaml b", ["w"], ["a.yaml"]),
        ("-dw study_x --configfile a.yaml b.yaml", ["w"], ["a.yaml", "b.yaml"]),
        ("-d=w -np --configfile a.yaml --cores 2", ["w"], ["a.yaml"]),
        ("--configfiles a.yaml -- study_x", [], ["a.yaml"]),
        ("-dw -d v x", ["w", "v"], []),
    ],
)
def test_words_of_options_are_those_that_argparse_gives_them(arguments, folders, files):
    parser = argparse.ArgumentParser()
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--directory", "-d", action="append", default=[])
    parser.add_argument("--configfile", "--configfiles", nargs="+", default=[])
    parser.add_argument("-n", action="store_true")
    parser.add_argument("-p", action="store_true")
    parser.add_argument("--cores")
    meant = parser.parse_intermixed_args(arguments.split())
    assert words_of(FOLDER_OPTIONS, arguments.split(), single=True) == folders == meant.directory
    assert configuration_files(arguments.split()) == files == meant.configfile


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("-n --configfile a.yaml --cores 1 --configfile=b.yaml", ["--configfile", "2 times"]),
        ("-n -C seed=1 --config base={n:8} -C seed=2", ["--config ", "3 times", "all entries"]),
    ],
)
def test_options_given_twice_are_told_since_the_first_would_be_passed_over(arguments, words):
    (told,) = repetition_problems(arguments.split())
    assert all(word in told for word in words)
    assert repetition_problems("-n --configfile a.yaml b.yaml --config seed=1".split()) == []


def test_a_folder_without_a_configuration_takes_the_shipped_one(tmp_path):
    """What messages advise: work in another folder (--directory)."""
    folder = tmp_path / "another folder, ünïcödé"
    folder.mkdir()
    base = [sys.executable, "-m", "snakemake", "-n", "results/data/digits/images.nc"]
    base += ["--directory", str(folder)]
    for more in ([], ["--configfile", str(ROOT / "tests/miniature.yaml")]):
        done = subprocess.run(base + more, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "prepare" in done.stdout + done.stderr
    (folder / "config.yaml").write_text("base: {n: 0}\n")
    done = subprocess.run(base, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "base.n is 0" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("fit.first_rank=3", "write --config fit='{first_rank: 3}'"),
        ("studies.a.vary.n=[8, 16]", "write --config studies='{a: {vary: {n: [8, 16]}}}'"),
        ("n=8", "--config base='{n: 8}'"),
        ("=8", "has no key ''"),
        ("all", "targets stand before --config, or after --"),
        ("seed=2", "--config gives seed twice; keep one"),
        ("base={n: 9}", "--config gives base.n twice; keep one"),
        ("base={n: 16, n: 8}", "--config: base.n is given twice; keep one"),
        ("base={n: 0200}", "--config: base.n is 0200, which YAML reads in base 8"),
        ("base=final_time: 1:40", "--config: base.final_time is 1:40, which YAML reads in base 60"),
        ("studies={a: {vary: {n: [8, 016]}}}", "--config: studies.a.vary.n is 016, which YAML"),
        ('base={model_arguments: {mode: "on"}}', "base.model_arguments.mode is the text 'on'"),
        ("base={model_arguments: {size: ['8']}}", "base.model_arguments.size is the text '8'"),
        ('base={model: "a: b"}', "base.model is the text 'a: b', which Snakemake hands on without"),
        ("base=&a {n: *a}", "--config holds more than 100000 values once its aliases are written"),
        ("base=" + "[" * 40 + "]" * 40, "--config: more than 30 levels of nesting"),
        ("base={n: !!python/name:os.system }", "base.n has the tag"),
    ],
)
def test_entries_that_snakemake_cannot_take_are_told_in_one_sentence(entry, words):
    (told,) = entry_problems(
        ["snakemake", "--cores", "1", "-C", "seed=1", "base={n: 8, width: 2}", entry, "-n", "all"]
    )
    assert words in told
    assert entry_problems(["--config", "seed=1", "base={n: 8}", "--", entry]) == []


def test_entries_of_one_section_are_merged_and_quotes_that_change_nothing_are_taken():
    entries = ["base={n: 8}", 'base={model: "mynet:net"}', "base=width: 4", "seed=08"]
    entries += ["datasets={cifar10: {archive: '/a b/c.tar.gz'}}", "fit=[", "data=!x y"]
    assert entry_problems(["--config", *entries]) == []


def test_values_within_braces_of_the_command_line_are_read_as_in_a_file(shipped_config):
    """Snakemake leaves all that stands in --config 'base={n: 8}' text."""
    given = {"base": {"n": "8", "precision": "float64", "subtract_start": "true"}, "seed": 3}
    given["studies"] = {"a": {"vary": {"n": ["8", "16"]}, "realisations": "2"}}
    given["datasets"] = {"cifar10": {"archive": "null"}}
    config = copy.deepcopy(shipped_config)
    for key in ("base", "studies"):
        config[key] |= given[key]
    config["datasets"]["cifar10"] |= given["datasets"]["cifar10"]
    config["seed"] = 3
    config = validated(config, given=given)
    assert (config["base"]["n"], config["base"]["subtract_start"]) == (8, True)
    assert config["base"]["precision"] == "float64"
    assert config["base"]["width"] == shipped_config["base"]["width"]
    assert config["studies"]["a"] == {"vary": {"n": [8, 16]}, "realisations": 2}
    assert config["datasets"]["cifar10"]["archive"] is None
    with pytest.raises(ConfigError, match=re.escape("write 1.0e-3")):
        config = changed(shipped_config, "base.learning_rate", "1e-3")
        validated(config, given={"base": {"learning_rate": "1e-3"}})
    with pytest.raises(ConfigError, match=re.escape("(remove the quotes: 8)")):
        validated(changed(shipped_config, "base.n", "8"))


TARGETS = [
    (
        "results/studies/nope/findings.md",
        "the configuration has no study nope; it has architecture, ",
    ),
    ("study_widht", "the configuration has no study widht (did you mean width?); it has architec"),
    (
        "results/studies/widht/findings.md",
        "the configuration has no study widht (did you mean width?); it has architecture",
    ),
    ("results/studies/dataset_size/figures/nope.png", "there is no figure nope; there are"),
    ("results/data/nope/images.nc", "the configuration has no data set nope; it has cifar10, dig"),
    ("results/data/digits/n7-x.nc", "no study of the configuration has the subset n7-x"),
    ("results/runs/digits/n32-balanced-subset0/nope/time_unit.json", "has the network nope"),
    ("experiment_width", "add studies.infinite_width with infinite_width among its figures"),
    ("study_width", "studies.width.vary has parameterisation, which no run of the study reads"),
]


def test_targets_that_the_configuration_lacks_are_told_in_one_sentence(tmp_path):
    folder = checkout(tmp_path)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    del config["studies"]["infinite_width"]
    config["base"]["model"] = "vision_transformer"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with DryRuns(folder) as dry_runs:
        for target, words in TARGETS:
            with pytest.raises(RuntimeError) as caught:
                dry_runs.plan(target)
            told = str(caught.value)
            assert "Traceback" not in told and "Exception" not in told, told
            assert len([line for line in told.splitlines() if words in line]) == 1, told


def test_no_rule_has_the_name_that_a_study_may_get():
    rules = [path.read_text(encoding="utf-8") for path in (ROOT / "rules").glob("*.smk")]
    assert not re.findall(r"^(?:rule|use rule \w+ as) study_\w+", "\n".join(rules), re.MULTILINE)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("theory.langevin.set.dataset", "nope", "theory.langevin: dataset is 'nope'; allowed: "),
        ("theory.langevin.set.n", 5000, "theory.langevin asks for n = 5000 training samples"),
        ("kernel.full_rows_limit", 319, "kernel of 320 rows is above kernel.full_rows_limit = 319"),
        ("base.targets", "real", "theory.langevin has targets: real, but digits has classes"),
        (
            "theory.langevin.set.momentum",
            0.5,
            "theory.langevin has momentum, which none of its networks reads",
        ),
    ],
)
def test_data_of_the_langevin_experiment_are_checked_where_it_is_asked_for(
    shipped_config, key, value, words
):
    def files(config):
        return inputs.langevin_subsets(Plan(config), config)(None)

    assert files(shipped_config) == ["results/data/digits/n32-balanced-subset0.nc"] * 2
    with pytest.raises(Refusal, match=re.escape(words)):
        files(changed(shipped_config, key, value))
