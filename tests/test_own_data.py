"""A user's data file, and a teacher with a dialled spectrum: checks, subsets, training."""

import copy
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import prepare
import pytest
import subset
import time_unit
import torch
import warm_start
import xarray as xr
import zarr
from conftest import ROOT, RUN

from pipeline import own_data
from pipeline.config import ConfigError, validate
from pipeline.files import content_digest, own_file
from pipeline.inputs import study_files
from pipeline.own_data import DataError, layout, read
from pipeline.problem import build_problem, network_outputs
from pipeline.runs import Plan, Refusal
from pipeline.sources import source
from pipeline.stores import read_json, read_netcdf
from speedlimits.kernel import empirical_ntk
from speedlimits.precision import rounded_off
from speedlimits.teacher import residue_law_holds, teacher_data

GENERATOR = np.random.default_rng(3)
IMAGES = {
    "train_inputs": GENERATOR.normal(size=(30, 2, 4, 8)).astype(np.float32),
    "train_labels": np.arange(30) % 3,
    "test_inputs": GENERATOR.normal(size=(5, 2, 4, 8)).astype(np.float32),
    "test_labels": np.array([0, 1, 2, 1, 1], np.uint8),
}
VECTORS = {
    "train_inputs": GENERATOR.normal(size=(20, 6)),
    "train_targets": GENERATOR.normal(size=(20, 2)),
}


def write(path, content):
    """Write arrays as .npz or as a Zarr group."""
    if path.suffix == ".npz":
        np.savez(path, **content)
        return path
    group = zarr.open_group(path, mode="w")
    for name, values in content.items():
        group.create_array(name, data=values, config={"write_empty_chunks": True})
    return path


@pytest.mark.parametrize("ending", [".npz", ".zarr"])
def test_a_file_is_read_as_it_was_written(tmp_path, ending):
    path = write(tmp_path / f"mine{ending}", IMAGES)
    assert layout(path) == (30, (2, 4, 8), 3, False, 5)
    found = read(path)
    for name, values in IMAGES.items():
        assert np.array_equal(found[name], values)
    path = write(tmp_path / f"other{ending}", VECTORS)
    assert layout(path) == (20, (6,), 2, True, 0)
    assert np.array_equal(read(path)["train_targets"], VECTORS["train_targets"])
    flat = write(tmp_path / f"flat{ending}", VECTORS | {"train_targets": np.ones(20)})
    assert layout(flat).outputs == 1 and read(flat)["train_targets"].shape == (20, 1)
    many = {"train_inputs": np.ones((300, 2)), "train_labels": np.arange(300)}
    found = read(write(tmp_path / f"many{ending}", many))
    np.testing.assert_array_equal(found["train_labels"], np.arange(300))


def without(content, *names):
    return {name: values for name, values in content.items() if name not in names}


BAD = [
    (IMAGES | {"train_input": np.ones(3)}, ["train_input", "did you mean train_inputs?"]),
    (IMAGES | {"X_train": np.ones(3)}, ["X_train", "did you mean train_inputs?"]),
    (IMAGES | {"y_test": np.ones(3)}, ["y_test", "did you mean test_labels?"]),
    (IMAGES | {"train_labels": np.eye(30, dtype=int)[:, :3]}, ["(30, 3)", "numpy.argmax"]),
    (IMAGES | {"train_labels": np.arange(30)[:, None] % 3}, ["(30, 1)", "give .ravel()"]),
    (IMAGES | {"train_labels": np.arange(30) % 2 > 0}, ["bool", ".astype(int)"]),
    (IMAGES | {"train_labels": np.array(["cat", "dog"] * 15)}, ["<U3", "return_inverse=True"]),
    (without(IMAGES, "train_inputs"), ["lacks the array train_inputs"]),
    (without(IMAGES, "train_labels"), ["neither train_labels nor train_targets"]),
    (IMAGES | {"train_targets": np.ones(30)}, ["both train_labels and train_targets"]),
    (without(IMAGES, "test_inputs"), ["lacks the array test_inputs"]),
    (without(IMAGES, "test_labels") | {"test_targets": np.ones(5)}, ["the same kind"]),
    (IMAGES | {"train_inputs": np.ones((30, 4, 8))}, ["(30, 4, 8)", "(n, channels, height"]),
    (IMAGES | {"train_inputs": np.ones((30, 2, 4, 8), np.uint8)}, ["uint8", "divide by 255"]),
    (IMAGES | {"train_inputs": np.ones((30, 2, 4, 8), bool)}, ["bool", "astype(numpy.float32)"]),
    (IMAGES | {"train_inputs": np.ones((30, 8, 8, 3))},
     ["looks like (n, height, width, channels)", ".transpose(0, 3, 1, 2)"]),
    (IMAGES | {"train_inputs": np.ones((30, 8, 8, 1))}, ["looks like (n, height, width, "]),
    (IMAGES | {"train_inputs": np.ones((30, 8, 8, 4))}, ["looks like (n, height, width, "]),
    (IMAGES | {"train_inputs": np.ones((30, 8, 10, 3))}, ["looks like (n, height, width, "]),
    (IMAGES | {"train_inputs": np.ones((30, 2, 4, 8), np.float16)}, ["float16", "must be float32"]),
    (IMAGES | {"test_inputs": np.ones((5, 2, 8, 4))}, ["(2, 8, 4)", "must agree"]),
    (IMAGES | {"train_labels": np.arange(29) % 3}, ["(29,)", "must be (30,)"]),
    (IMAGES | {"train_labels": np.arange(30) % 3 + 1}, ["from 1 to 3", "without gaps"]),
    (IMAGES | {"train_labels": np.arange(30) % 3 * 2}, ["from 0 to 4", "without gaps"]),
    (IMAGES | {"train_labels": np.array([0, 1, 3] * 10)}, ["from 0 to 3", "without gaps"]),
    (IMAGES | {"train_labels": np.array([-1, 0, 2] * 10)}, ["from -1 to 2", "without gaps"]),
    (IMAGES | {"train_labels": np.zeros(30, int)}, ["single class"]),
    (IMAGES | {"train_labels": np.arange(30) % 3 - 1}, ["from -1 to 1"]),
    (IMAGES | {"train_labels": (np.arange(30) % 3) * 1.0}, ["float64", "must be integers"]),
    (IMAGES | {"test_labels": np.array([0, 1, 2, 3, 1])}, ["from 0 to 3", "allow 0 to 2"]),
    (IMAGES | {"test_labels": np.array([0, -1, 2, 1, 1])}, ["from -1 to 2", "allow 0 to 2"]),
    (VECTORS | {"train_inputs": np.ones((20, 0))}, ["(20, 0)", "without empty axes"]),
    (VECTORS | {"train_targets": np.ones((19, 2))}, ["(19, 2)", "(20,) or (20, outputs)"]),
    (VECTORS | {"train_targets": np.ones((20, 0))}, ["(20, 0)", "(20,) or (20, outputs)"]),
    (VECTORS | {"train_targets": np.array(1.0)}, ["()", "(20,) or (20, outputs)"]),
    (VECTORS | {"train_targets": np.ones((20, 2), int)}, ["int64", "called train_labels"]),
    (VECTORS | {"train_targets": np.ones((20, 2, 1))}, ["(20, 2, 1)"]),
    (VECTORS | {"train_targets": np.ones((20, 2), np.float16)},
     ["float16", "must be float32", "astype(numpy.float32)"]),
    (VECTORS | {"test_inputs": np.ones((3, 6)), "test_targets": np.ones((3, 1))},
     ["1 components, train_targets 2"]),
    (VECTORS | {"test_inputs": np.ones((3, 6)), "test_targets": np.ones((3, 4))},
     ["4 components, train_targets 2"]),
    (VECTORS | {"train_inputs": np.full((20, 6), np.nan)}, ["120 values that are NaN"]),
    (VECTORS | {"train_targets": np.full((20, 2), np.inf)}, ["train_targets holds 40 values"]),
]  # fmt: skip


@pytest.mark.parametrize("ending", [".npz", ".zarr"])
@pytest.mark.parametrize(("content", "words"), BAD)
def test_bad_files_are_refused_in_one_sentence(tmp_path, ending, content, words):
    path = write(tmp_path / f"mine{ending}", content)
    with pytest.raises(DataError) as caught:
        read(path)
    assert "\n" not in str(caught.value) and "mine" in str(caught.value)
    for word in words:
        assert word in str(caught.value)


class Malicious:
    def __reduce__(self):
        return (open, ("owned.txt", "w"))


def test_pickles_are_never_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    objects = np.array([Malicious()] * 20, object)
    np.savez(tmp_path / "mine.npz", **(VECTORS | {"train_inputs": objects}))
    with pytest.raises(DataError, match="shape"):
        read("mine.npz")
    np.savez(tmp_path / "mine.npz", **VECTORS, **{"test_targets": objects})
    with pytest.raises(DataError, match="lacks the array test_inputs"):
        read("mine.npz")
    store = zarr.create_array(
        tmp_path / "mine.zarr" / "train_inputs", shape=(20, 6), dtype="f8", zarr_format=2,
        compressors=None,
    )  # fmt: skip
    metadata = tmp_path / "mine.zarr" / "train_inputs" / ".zarray"
    metadata.write_text(
        metadata.read_text().replace('"filters": null', '"filters": [{"id": "pickle"}]')
    )
    assert "pickle" in metadata.read_text() and store.shape == (20, 6)
    with pytest.raises(DataError, match="pickled"):
        read("mine.zarr")
    assert not (tmp_path / "owned.txt").exists()


@pytest.mark.parametrize(
    ("zarr_format", "place", "codec"),
    [
        (2, "compressor", {"id": "pickle"}),
        (3, "codecs", [{"name": "numcodecs.pickle"}]),
    ],
)
def test_pickles_are_refused_wherever_an_array_names_them(tmp_path, zarr_format, place, codec):
    array = zarr.create_array(
        tmp_path / "mine.zarr/train_inputs", shape=(2, 3), dtype="f8", zarr_format=zarr_format
    )
    path = tmp_path / "mine.zarr/train_inputs" / (".zarray" if zarr_format == 2 else "zarr.json")
    metadata = json.loads(path.read_text())
    assert array.shape == (2, 3) and place in metadata
    path.write_text(json.dumps(metadata | {place: codec}))
    with pytest.raises(DataError, match="holds pickled values .train_inputs., which are never"):
        layout(tmp_path / "mine.zarr")


def test_arrays_with_fields_are_refused(tmp_path):
    fields = np.zeros((20, 6), dtype=[("\N{GREEK SMALL LETTER LAMDA}", float)])
    with pytest.raises(DataError, match="the array train_inputs has fields; give plain numbers"):
        layout(write(tmp_path / "mine.npz", VECTORS | {"train_inputs": fields}))


@pytest.mark.parametrize("ending", [".npz", ".zarr"])
def test_the_order_of_bytes_and_axes_in_memory_changes_nothing(tmp_path, ending):
    foreign = {
        "train_inputs": np.asfortranarray(VECTORS["train_inputs"].astype(">f8")),
        "train_targets": VECTORS["train_targets"].astype(">f8"),
    }
    found = read(write(tmp_path / f"mine{ending}", foreign))
    for name, values in VECTORS.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype == np.float64 and found[name].dtype.isnative


def test_zarr_arrays_that_would_be_read_as_other_numbers_are_refused(tmp_path):
    path, values = tmp_path / "mine.zarr", VECTORS["train_inputs"]
    content = {"train_inputs": ("n", "d"), "train_targets": ("n", "c")}
    data = xr.Dataset({name: (dims, VECTORS[name]) for name, dims in content.items()})
    for attribute in ("scale_factor", "add_offset"):
        packing = {"dtype": "f8", attribute: 3.0}
        data.to_zarr(path, encoding={"train_inputs": packing}, mode="w")
        with pytest.raises(DataError, match=f"train_inputs has the attribute {attribute}"):
            layout(path)
    data.to_zarr(path, encoding={"train_inputs": {"chunks": (5, 6)}}, mode="w")
    np.testing.assert_array_equal(read(path)["train_inputs"], values)
    next(p for p in (path / "train_inputs" / "c").rglob("*") if p.is_file()).unlink()
    with pytest.raises(DataError, match="1 of 4 chunks of train_inputs are missing"):
        layout(path)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_zarr_group_is_read_as_it_is_whatever_describes_it(tmp_path, zarr_format):
    """A consolidated summary may be older than the arrays, and attributes may hold any word."""
    path = tmp_path / "mine.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    group.attrs["history"] = "converted from a pickle"
    for name, values in VECTORS.items():
        group.create_array(name, data=values[:10])
        group[name].attrs["source"] = "a pickle"
    zarr.consolidate_metadata(path)
    for name, values in VECTORS.items():
        array = zarr.open_group(path, mode="r+", use_consolidated=False)[name]
        array.append(values[10:])
    later = zarr.open_group(path, mode="r+", use_consolidated=False)
    for name, values in VECTORS.items():
        later.create_array(name.replace("train", "test"), data=values[:4])
    assert layout(path) == (20, (6,), 2, True, 4)
    np.testing.assert_array_equal(read(path)["train_inputs"], VECTORS["train_inputs"])


@pytest.mark.parametrize("shape", [(30, 64, 100, 1), (30, 4, 8, 3)])
def test_signals_of_many_channels_and_narrow_images_have_no_channels_last(shape):
    found = {"train_inputs": own_data.Lazy(shape, np.dtype("f4"), None)}
    assert own_data._check_inputs("mine.npz", found, "train") == shape


def test_arrays_that_the_prepared_file_cannot_hold_are_refused():
    """By their shape alone: 2^30 numbers in float32, or 2^29 in float64, are 4 GiB."""
    for samples, dtype, fits in (
        (2**20 - 1, "f4", True),
        (2**20, "f4", False),
        (2**19, "f8", False),
    ):
        found = {"train_inputs": own_data.Lazy((samples, 1024), np.dtype(dtype), None)}
        if fits:
            assert own_data._check_inputs("mine.npz", found, "train") == (samples, 1024)
            continue
        with pytest.raises(DataError, match="more than 4 GiB"):
            own_data._check_inputs("mine.npz", found, "train")


@pytest.mark.parametrize("name", ["train_inputs", "train_labels"])
def test_damaged_chunks_are_told_in_a_sentence(tmp_path, name):
    store = write(tmp_path / "mine.zarr", IMAGES)
    for chunk in (store / name / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"xx")
    with pytest.raises(DataError, match=f"{name} cannot be read"):
        read(store)


def test_damaged_and_missing_files_are_refused(tmp_path):
    path = write(tmp_path / "mine.npz", VECTORS)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match="cannot be read"):
        read(path)
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "nowhere.npz")
    with pytest.raises(DataError, match=r"end in .npz or .zarr"):
        read(tmp_path / "mine.csv")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "text.npz")


def test_content_digest_follows_every_byte_and_name(tmp_path):
    a, b = (write(tmp_path / name, VECTORS) for name in ("a.zarr", "b.zarr"))
    assert content_digest(a) == content_digest(b)
    chunk = next(f for f in b.rglob("*") if f.is_file() and f.name != "zarr.json")
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
    assert content_digest(a) != content_digest(b)
    one = write(tmp_path / "a.npz", VECTORS)
    os.utime(one, (1, 1))
    assert content_digest(one) == content_digest(write(tmp_path / "c.npz", VECTORS))


SETTINGS = RUN | {
    "dataset": "mine",
    "file_sha256": "x",
    "normalise": True,
    "depth": 2,
    "width": 8,
    "relative_tolerance": 0.01,
    "final_time": 20,
    "first_snapshot": 1,
    "snapshots_per_decade": 3,
}


def subset_of(job, content, settings):
    """Return the subset file of a data file, made by the two jobs."""
    if content is not None:
        np.savez("mine.npz", **content)
        settings = settings | {"file_sha256": content_digest("mine.npz")}
    given = {"datasets": {"mine": {"file": "mine.npz"}}}
    job(prepare.main, outputs={"o": "images.nc"}, settings=settings, config=given)
    job(subset.main, inputs={"i": "images.nc"}, outputs={"o": "n.nc"}, settings=settings)
    return read_netcdf("n.nc")


def test_subsets_of_own_images_are_normalised_and_have_their_classes(job):
    data = subset_of(job, IMAGES, SETTINGS)
    pool = IMAGES["train_inputs"].astype(float)
    mean, deviation = pool.mean(axis=(0, 2, 3)), pool.std(axis=(0, 2, 3))
    chosen = pool[data["indices"].values]
    expected = (chosen - mean[:, None, None]) / deviation[:, None, None]
    np.testing.assert_allclose(data["train_inputs"], expected, atol=1e-6)
    assert np.array_equal(np.bincount(data["train_labels"]), [4, 4, 4])
    problem = build_problem(SETTINGS, "n.nc", 0, torch.device("cpu"))
    assert problem.targets.shape == (12, 3) and problem.test_targets.shape == (5, 3)
    as_given = subset_of(job, IMAGES, SETTINGS | {"normalise": False})
    assert np.array_equal(as_given["train_inputs"], IMAGES["train_inputs"][as_given["indices"]])


def test_classes_that_run_out_are_told(job):
    labels = np.repeat([0, 1, 2], [20, 8, 2])
    subset_of(job, IMAGES | {"train_labels": labels}, SETTINGS | {"n": 6})
    assert "to be balanced" not in Path("job.log").read_text()
    data = subset_of(job, IMAGES | {"train_labels": labels}, SETTINGS | {"n": 20})
    assert np.array_equal(np.bincount(data["train_labels"]), [10, 8, 2])
    assert "to be balanced: there are 10, 8, 2\n" in Path("job.log").read_text()


def test_a_constant_component_is_not_normalised_silently(job, capsys):
    content = VECTORS | {"train_inputs": np.hstack([VECTORS["train_inputs"], np.ones((20, 1))])}
    with pytest.raises(SystemExit):
        subset_of(job, content, SETTINGS | {"selection": "uniform"})
    assert "component 6" in capsys.readouterr().err


REAL = {"selection": "uniform", "targets": "real"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (REAL | {"selection": "balanced"}, "set selection: uniform"),
        (REAL | {"label_noise": 0.1}, "set label_noise: 0"),
        (REAL | {"n": 21}, "n is 21, but mine holds 20"),
    ],
)
def test_subsets_of_real_targets_refuse_what_needs_classes(job, capsys, settings, words):
    with pytest.raises(SystemExit):
        subset_of(job, VECTORS, SETTINGS | settings)
    assert words in capsys.readouterr().err


def test_one_hot_and_real_targets_are_not_mixed_up(job):
    subset_of(job, VECTORS, SETTINGS | REAL)
    with pytest.raises(ValueError, match="set targets: real"):
        build_problem(SETTINGS, "n.nc", 0, torch.device("cpu"))
    subset_of(job, IMAGES, SETTINGS)
    with pytest.raises(ValueError, match="set targets: one_hot"):
        build_problem(SETTINGS | REAL, "n.nc", 0, torch.device("cpu"))


def test_numbers_beyond_the_precision_of_the_network_are_refused(job):
    large = IMAGES | {"train_inputs": IMAGES["train_inputs"].astype(float) * 1e100}
    subset_of(job, large, SETTINGS | {"normalise": False})
    precise = {"precision": "float64", "normalise": False}
    build_problem(SETTINGS | precise, "n.nc", 0, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"reach .*e\+100, beyond float32; divide them"):
        build_problem(SETTINGS | precise | {"precision": "float32"}, "n.nc", 0, torch.device("cpu"))
    subset_of(job, VECTORS | {"train_targets": 1e200 * VECTORS["train_targets"]}, SETTINGS | REAL)
    with pytest.raises(ValueError, match=r"reach .*e\+200, whose squares are beyond float64"):
        build_problem(SETTINGS | REAL | precise, "n.nc", 0, torch.device("cpu"))


@pytest.mark.parametrize("scale", [1e200, 1e-200, 1e-310])
def test_inputs_whose_squares_have_no_numbers_are_normalised_all_the_same(job, scale):
    plain = VECTORS["train_inputs"].astype(float)
    mixed = plain * np.array([scale, *np.ones(plain.shape[1] - 1)])  # one component alone
    found = subset_of(job, VECTORS | {"train_inputs": mixed}, SETTINGS | REAL)["train_inputs"]
    wanted = subset_of(job, VECTORS | {"train_inputs": plain}, SETTINGS | REAL)["train_inputs"]
    np.testing.assert_allclose(found, wanted, rtol=1e-9 if scale > 1e-300 else 1e-2, atol=1e-12)


@pytest.mark.parametrize(("precision", "lost", "kept"), [("float32", 1e-9, 1e-3),
                                                          ("float64", 1e-20, 1e-12)])  # fmt: skip
def test_targets_that_the_start_rounds_away_are_refused(job, precision, lost, kept):
    """With subtract_start the sum y + f(theta_0) is trained against."""
    settings = SETTINGS | REAL | {"normalise": False, "n": 20, "precision": precision}
    for scale, fits in ((lost, False), (kept, True)):
        targets = VECTORS["train_targets"].astype(float) * scale
        subset_of(job, VECTORS | {"train_targets": targets}, settings)
        build_problem(settings, "n.nc", 0, torch.device("cpu"))  # without the start's outputs
        given = settings | {"subtract_start": True}
        if fits:
            problem = build_problem(given, "n.nc", 0, torch.device("cpu"))
            residue = problem.targets - network_outputs(problem.network, problem.inputs)
            wanted = problem.plain_targets.numpy()
            np.testing.assert_allclose(residue.numpy(), wanted, rtol=0, atol=1e-3 * scale)
            assert np.abs(wanted).max() > 0.1 * scale
            continue
        with pytest.raises(
            ValueError, match=f"y \\+ f.theta_0., and {precision} changes y in it by"
        ):
            build_problem(given, "n.nc", 0, torch.device("cpu"))


@pytest.mark.parametrize("part", ["train_inputs", "train_targets"])
def test_differences_that_the_precision_of_the_network_loses_are_refused(job, part):
    """Numbers near 1e5 that differ by 1e-3 are one number in float32."""
    settings = SETTINGS | REAL | {"normalise": False, "n": 20}
    plain = VECTORS[part].astype(float)
    for offset, scale, fits in ((0.0, 1.0, True), (1e2, 1.0, True), (1.7e5, 1e-3, False)):
        subset_of(job, VECTORS | {part: offset + scale * plain}, settings)
        given = settings | {"precision": "float32"}
        if fits:
            build_problem(given, "n.nc", 0, torch.device("cpu"))
            continue
        with pytest.raises(ValueError, match="float32 changes the differences .*normalise: true"):
            build_problem(given, "n.nc", 0, torch.device("cpu"))
        build_problem(settings | {"precision": "float64"}, "n.nc", 0, torch.device("cpu"))


def test_rounding_is_measured_against_the_differences_between_rows():
    values = np.array([[1.0, 0.5], [1.0, 0.5 + 2.0**-30], [2.0, 0.5]])
    assert rounded_off(values, "float32") == pytest.approx(2.0**-30 / np.sqrt(1 + 2.0**-60))
    assert rounded_off(values, "float64") == rounded_off(values[:1] / 3, "float32") == 0.0


def test_rounding_that_all_rows_share_changes_no_difference():
    values = np.random.default_rng(0).normal(size=(600, 3))
    alone = rounded_off(values, "float32")
    values[:, 2] = 101325.15
    assert rounded_off(values, "float32") < 2 * alone


@pytest.mark.parametrize("scale", [1e-200, 1e150])
def test_rounding_does_not_depend_on_the_unit(scale):
    values = np.random.default_rng(0).normal(size=(4, 3))
    found, expected = (rounded_off(x.astype("float64"), "float16") for x in (values, 4 * values))
    assert found == pytest.approx(expected)
    expected = 1.0 if scale < 1 else 0.0  # beyond the largest number is told elsewhere
    assert rounded_off(scale * values, "float32") == pytest.approx(expected)


@pytest.mark.parametrize("scale", [1e-36, 1e-50, 1e-310])
def test_numbers_too_small_for_the_precision_are_told(job, scale):
    tiny = IMAGES | {"train_inputs": IMAGES["train_inputs"].astype(float) * scale}
    subset_of(job, tiny, SETTINGS | {"normalise": False})
    given = SETTINGS | {"precision": "float32", "normalise": False}
    with pytest.raises(ValueError, match=r"are at most .*e-\d+, too small for float32; multiply"):
        build_problem(given, "n.nc", 0, torch.device("cpu"))


@pytest.mark.parametrize(
    ("scale", "precision"), [(1e-30, "float32"), (1e-17, "float32"), (1e-80, "float64")]
)
def test_derivatives_whose_squares_vanish_are_no_dead_network(job, tmp_path, scale, precision):
    settings = SETTINGS | REAL | {"normalise": False, "depth": 1, "n": 20, "precision": precision}
    small = VECTORS | {"train_inputs": VECTORS["train_inputs"].astype(float) * scale}
    x = subset_of(job, small, settings)["train_inputs"].values.astype(float)
    with pytest.raises(SystemExit):
        job(time_unit.main, inputs={"i": "n.nc"}, outputs={"o": "unit.json"}, settings=settings)
    told = (tmp_path / "job.log").read_text().splitlines()[-1]
    given = float(re.search(r"lambda_1 is (\S+) at the start", told)[1])
    x = x / scale
    assert given / scale / scale == pytest.approx(np.linalg.eigvalsh(x @ x.T / 6)[-1], rel=1e-3)
    assert f"derivatives are so small that {precision} has no" in told
    assert "normalise: true" in told and "dead" not in told


def test_real_targets_without_test_part_train_and_leave_test_values_missing(job, train_with):
    settings = SETTINGS | REAL | {"normalise": False, "depth": 1, "n": 20}
    data = subset_of(job, VECTORS, settings)
    run = train_with(settings, after="subset")
    assert run["test_loss"].isnull().all() and run["test_accuracy"].isnull().all()
    # Linear regression: the flow's residue e^{-Theta t} (y - f_0) in closed form.
    x, y = data["train_inputs"].values, data["train_targets"].values
    w = run["weights"].values[0].astype(float).reshape(2, 6) / np.sqrt(6)
    values, vectors = np.linalg.eigh(x @ x.T / 6)
    for k, time in enumerate(run["time"].values):
        rest = np.exp(-values * time)[:, None] * (vectors.T @ (y - x @ w.T))
        assert run["train_loss"].values[k] == pytest.approx(0.5 * (rest**2).sum(), rel=2e-2)
    job(
        warm_start.main,
        inputs={"manifests": ["snapshots.json"]},
        outputs={"o": "warm.json"},
        settings={"test_accuracy": 0.1, "code": "x"},
    )
    found = read_json("warm.json")
    assert not found["reached"] and found["largest_mean_test_accuracy"] is None


@pytest.mark.parametrize(
    ("accuracy", "todo"),
    [([0.1, 0.2], "(train longer or lower warm_start.test_accuracy, "),
     ([0.5, 0.9], "(raise warm_start.test_accuracy, ")],
)  # fmt: skip
def test_a_threshold_that_is_never_passed_is_told_with_what_to_do(job, monkeypatch, accuracy, todo):
    run = xr.Dataset({"time": ("snapshot", [0.0, 1.0]), "test_accuracy": ("snapshot", accuracy)})
    monkeypatch.setattr(warm_start, "read_snapshots", lambda *_, **__: run)
    job(
        warm_start.main,
        inputs={"manifests": ["a.json", "b.json"]},
        outputs={"o": "warm.json"},
        settings={"test_accuracy": 0.3, "code": "x"},
    )
    assert todo in Path("job.log").read_text()


def test_test_loss_of_real_targets_is_that_of_the_network(job, train_with):
    content = VECTORS | {"test_inputs": VECTORS["train_inputs"][:4] + 1.0,
                         "test_targets": VECTORS["train_targets"][:4]}  # fmt: skip
    settings = SETTINGS | REAL | {"normalise": False, "depth": 1}
    subset_of(job, content, settings)
    run = train_with(settings, after="subset")
    w = run["weights"].values[-1].astype(float).reshape(2, 6) / np.sqrt(6)
    rest = content["test_targets"] - content["test_inputs"] @ w.T
    assert run["test_loss"].values[-1] == pytest.approx(0.5 * (rest**2).sum(), rel=1e-5)
    assert run["test_accuracy"].isnull().all()


def test_outputs_follow_the_data(tmp_path):
    path = str(write(tmp_path / "mine.npz", IMAGES))
    assert source("mine", {"file": path}) == (30, 3, False, True, (2, 4, 8))
    assert source("cifar10", {"test_count": 3}).outputs == 10
    assert source("digits", {"test_count": 797}).samples == 1000


@pytest.mark.parametrize(
    ("content", "settings", "words"),
    [
        (VECTORS, {"targets": "one_hot"}, ["set targets: real"]),
        (VECTORS, {"selection": "balanced"}, ["set selection: uniform"]),
        (VECTORS, {"label_noise": 0.2}, ["label_noise"]),
        (VECTORS, {"n": 21}, ["n = 21", "mine has 20"]),
        (VECTORS, {"warm_start_accuracy": 0.2}, ["real targets and so no accuracy"]),
        (without(IMAGES, "test_inputs", "test_labels"),
         {"targets": "one_hot", "warm_start_accuracy": 0.2}, ["no test part"]),
        (IMAGES, {}, ["mine has classes"]),
        (without(VECTORS, "train_targets"), {}, ["datasets.mine.file", "neither"]),
    ],
)  # fmt: skip
def test_a_study_that_does_not_fit_its_data_is_refused_before_any_job(
    tmp_path, shipped_config, content, settings, words
):
    config = copy.deepcopy(shipped_config)
    config["datasets"]["mine"] = {"file": str(write(tmp_path / "mine.npz", content))}
    fitting = {"dataset": "mine", "n": 10, "targets": "real", "selection": "uniform"}
    fitting["model"] = "fully_connected"
    config["studies"]["own"] = {"set": fitting | settings, "realisations": 2}
    if "neither" not in words:  # what is wrong with the file itself is told in any case
        validate(config)  # nobody asks for the study
        with pytest.raises(Refusal) as caught:
            study_files(Plan(config), config)(SimpleNamespace(study="own"))
        assert all(word in str(caught.value) for word in words)
        config["default_studies"] = ["own"]
    with pytest.raises(ConfigError) as caught:
        validate(config)
    for word in words:
        assert word in str(caught.value)
    config["datasets"]["mine"] = {"file": str(write(tmp_path / "fits.npz", VECTORS))}
    config["studies"]["own"]["set"] = fitting
    validate(config)


def test_a_file_that_changes_after_the_jobs_were_planned_is_told(job, capsys):
    np.savez("mine.npz", **IMAGES)
    settings = SETTINGS | {"file_sha256": content_digest("mine.npz")}
    np.savez("mine.npz", **VECTORS)
    given = {"datasets": {"mine": {"file": "mine.npz"}}}
    with pytest.raises(SystemExit):
        job(prepare.main, outputs={"o": "images.nc"}, settings=settings, config=given)
    assert "mine.npz has changed since this command was started" in capsys.readouterr().err


def test_a_path_in_the_home_folder_may_begin_with_a_tilde(tmp_path, monkeypatch, shipped_config):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "mine.npz", VECTORS)
    entry = {"file": "~/mine.npz"}
    assert source("mine", entry).samples == 20
    assert own_file(entry) == tmp_path / "mine.npz"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({}, "either file (your own data) or teacher"),
        ({"file": "a.npz", "teacher": {}}, "lacks the keys alpha, delta"),
        ({"path": "a.npz"}, "unknown key in datasets.mine: path"),
    ],
)
def test_data_sets_have_one_origin(shipped_config, entry, words):
    config = copy.deepcopy(shipped_config)
    config["datasets"]["mine"] = entry
    with pytest.raises(ConfigError, match=words.replace("(", r"\(").replace(")", r"\)")):
        validate(config)


def test_planning_works_without_zarr(tmp_path):
    """The environment that plans the jobs may lack zarr (conda)."""
    path = str(write(tmp_path / "mine.zarr", IMAGES))
    code = (
        "import sys; sys.modules['zarr'] = None\n"
        f"sys.path.insert(0, {str(ROOT / 'scripts')!r})\n"
        "from pipeline import inputs, config, sources\n"
        f"print(sources.source('mine', {{'file': {path!r}}}))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.returncode == 0 and "samples=None" in told.stdout, told.stderr


TEACHER = {"alpha": 1.7, "delta": 0.6, "samples": 60, "dimension": 60, "test_count": 0}


def test_orthonormal_teacher_has_exactly_the_dialled_spectrum():
    data = teacher_data(np.random.default_rng(1), features="orthonormal", **TEACHER)
    values, vectors = np.linalg.eigh(data["train_inputs"] @ data["train_inputs"].T)
    rank = np.arange(1, 61.0)
    np.testing.assert_allclose(values[::-1], rank**-1.7, rtol=1e-9)
    projections = (vectors.T @ data["train_targets"])[::-1, 0] ** 2
    np.testing.assert_allclose(projections, rank**-0.6, rtol=1e-9)


def test_gaussian_teacher_has_the_dialled_covariance_and_test_samples_the_same_law():
    options = TEACHER | {"samples": 200_000, "dimension": 8, "test_count": 200_000}
    data = teacher_data(np.random.default_rng(1), features="gaussian", **options)
    rank, draws = np.arange(1, 9.0), []
    for part in ("train", "test"):
        x, y = data[f"{part}_inputs"], data[f"{part}_targets"][:, 0]
        np.testing.assert_allclose(np.diag(x.T @ x), rank**-1.7, rtol=2e-2)
        # regression onto the features phi = x k^{alpha/2} gives the coefficients a
        a = np.linalg.lstsq(x * rank**0.85, y, rcond=None)[0]
        draws.append(a * rank**0.3)
    np.testing.assert_allclose(*draws, rtol=1e-8)  # one teacher for both parts
    many = TEACHER | {"samples": 400, "dimension": 390, "test_count": 0}
    data = teacher_data(np.random.default_rng(2), features="gaussian", **many)
    rank = np.arange(1, 391.0)
    phi = data["train_inputs"] * rank**0.85
    drawn = np.linalg.lstsq(phi, data["train_targets"][:, 0], rcond=None)[0] * rank**0.3
    # standard normal: sample moments within four standard errors
    assert abs(drawn.mean()) < 4 / 390**0.5 and abs((drawn**2).mean() - 1) < 4 * (2 / 390) ** 0.5
    assert abs((drawn**4).mean() - 3) < 4 * (96 / 390) ** 0.5


def test_gaussian_features_give_the_law_of_the_residue_back_where_it_is_said_to_hold():
    """Mean squares at the start and the end of a range of ranks, of 60 draws of 200 modes."""
    ends = slice(1, 4), slice(60, 90)
    rank = np.arange(1.0, 201.0)
    for alpha, delta in ((1.5, 0.5), (1.0, 2.5), (2.0, 4.5), (1.5, -1.0), (1.0, 3.5), (2.0, 6.0)):
        options = {"alpha": alpha, "delta": delta, "samples": 200, "dimension": 200}
        squares = np.zeros(200)
        for seed in range(60):
            generator = np.random.default_rng(seed)
            data = teacher_data(generator, features="gaussian", test_count=0, **options)
            vectors = np.linalg.svd(data["train_inputs"])[0]
            squares += (vectors.T @ data["train_targets"])[:, 0] ** 2 / 60
        first, last = (np.log(squares[k].mean() / (rank**-delta)[k].mean()) for k in ends)
        came_back = bool(abs(last - first) / np.log(25) < 0.25)  # exponent between them
        assert came_back == residue_law_holds(alpha, delta, "gaussian"), (alpha, delta)
        assert residue_law_holds(alpha, delta, "orthonormal")
    assert residue_law_holds(0.3, 1.1, "gaussian") and not residue_law_holds(0.29, 0.6, "gaussian")


def test_a_teacher_whose_samples_have_another_law_says_so(capsys):
    teacher = TEACHER | {"features": "gaussian"}
    for delta, told in ((0.6, False), (3.9, False), (-1.0, True), (3.91, True)):
        settings = {"seed": 1, "dataset": "taught", "teacher": teacher | {"delta": delta}}
        prepare.draw_teacher(settings)
        expected = (
            f"delta is {delta:g} and alpha 1.7; in about as many samples" in capsys.readouterr().out
        )
        assert expected == told


@pytest.mark.parametrize(
    ("change", "words"),
    [({"features": "fourier"}, "features is 'fourier'"), ({"dimension": 61}, "lower dimension")],
)
def test_impossible_teachers_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        teacher_data(np.random.default_rng(1), **({"features": "orthonormal"} | TEACHER | change))


def test_kernel_of_the_linear_model_on_a_teacher_is_the_dialled_one(job):
    settings = SETTINGS | REAL | {"depth": 1, "n": 60, "dataset": "taught"}
    settings |= {"teacher": TEACHER | {"features": "orthonormal"}, "subtract_start": True}
    del settings["file_sha256"], settings["normalise"]
    subset_of(job, None, settings)
    problem = build_problem(settings, "n.nc", 0, torch.device("cpu"))
    kernel = empirical_ntk(problem.network, problem.inputs).numpy()
    values = np.linalg.eigvalsh(kernel)[::-1]
    np.testing.assert_allclose(values / values[0], np.arange(1, 61.0) ** -1.7, rtol=1e-9)
    assert problem.test_inputs.shape == (0, 60)


def test_members_with_fields_are_refused(tmp_path):
    path = write(tmp_path / "mine.npz", VECTORS | {"train_inputs": np.zeros(3, [("a", float)])})
    assert zipfile.is_zipfile(path)
    with pytest.raises(DataError):
        read(path)
