"""Read a data set into one file of inputs with labels or real targets, and state its normalisation.

Output: NetCDF with inputs, images (M, channels, height, width) or vectors (M, d), exact as in their
source; labels (M,) or targets (M, C); and mean and standard deviation per channel or component over
the training pool. Of CIFAR-10 and digits ``test_count`` says how many images are for testing; a
user's file or a teacher without test samples has no test part.
"""

import quick_start  # noqa: F401

from pathlib import Path

import numpy as np
import xarray as xr

from pipeline.cifar10 import read_archive
from pipeline.files import check, content_digest, digest_record, own_file
from pipeline.log import logged
from pipeline.own_data import INPUT_AXES
from pipeline.own_data import read as read_file
from pipeline.seeds import derived_seed
from pipeline.stores import array_digest, provenance, variable, write_netcdf
from speedlimits.precision import LARGEST_SQUARED
from speedlimits.teacher import LEAST_ALPHA, LEAST_DELTA, residue_law_holds, teacher_data


def check_content(path: Path, settings: dict) -> None:
    """Raise unless a user's file still holds what it did when the jobs were planned.

    Raises:
        ValueError: if its content has changed since.
    """
    if content_digest(path) != settings["file_sha256"]:
        raise ValueError(
            f"{path} has changed since this command was started; run the same command again"
        )


def read_digits(test_count: int) -> dict[str, np.ndarray]:
    """Return scikit-learn's digits (8x8, grey values 0..16), the last ones for testing.

    Args:
        test_count: number of test images.

    Returns:
        train_inputs (M, 1, 8, 8) int16, train_labels, test_inputs, test_labels.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images.astype(np.int16)[:, None]
    split = len(images) - test_count
    return {
        "train_inputs": images[:split],
        "train_labels": digits.target[:split],
        "test_inputs": images[split:],
        "test_labels": digits.target[split:],
    }


def read_cifar10(archive: str, test_count: int) -> dict[str, np.ndarray]:
    """Return the images of a CIFAR-10 archive.

    Args:
        archive: the archive.
        test_count: number of test images.

    Returns:
        train_inputs (M, 3, 32, 32) int16, train_labels, test_inputs, test_labels.

    Raises:
        ValueError: if there are fewer test images than asked for.
    """
    data = read_archive(archive)
    if len(data["test_labels"]) < test_count:
        raise ValueError(
            f"datasets.cifar10.test_count is {test_count}; the archive holds "
            f"{len(data['test_labels'])} test images: lower the key"
        )
    return {
        # NetCDF 3 has no unsigned bytes; int16 holds 0..255 exactly.
        "train_inputs": data["train_images"].astype(np.int16),
        "train_labels": data["train_labels"],
        "test_inputs": data["test_images"][:test_count].astype(np.int16),
        "test_labels": data["test_labels"][:test_count],
    }


def draw_teacher(settings: dict) -> dict[str, np.ndarray]:
    """Return the inputs and targets of a linear teacher.

    Args:
        settings: ``dataset``, ``seed``, and ``alpha``, ``delta``, ``samples``, ``dimension``,
            ``features``, ``test_count`` under ``teacher``.

    Returns:
        train_inputs (M, d) and train_targets (M, 1), float64, and those for testing, if any.
    """
    teacher = settings["teacher"]
    law = {name: teacher[name] for name in ("alpha", "delta", "features")}
    if not residue_law_holds(**law):
        print(
            f"delta is {law['delta']:g} and alpha {law['alpha']:g}; in about as many samples as "
            "dimensions with Gaussian features squared residue projections fall as k^-delta for "
            f"alpha from {LEAST_ALPHA:g} and delta from {LEAST_DELTA:g} to 2 alpha + 0.5 only, for "
            "other modes leak in: expect another exponent, or take features: orthonormal"
        )
    found = teacher_data(
        np.random.default_rng(derived_seed(settings["seed"], "teacher", settings["dataset"])),
        **teacher,
    )
    return {name: values for name, values in found.items() if len(values)}


def read(settings: dict, source: str | Path | None) -> dict[str, np.ndarray]:
    """Return the data set that the settings name.

    Args:
        settings: ``dataset``, and what its kind of data set has.
        source: CIFAR-10 archive or the user's file; None for digits and teachers.

    Returns:
        train_inputs, train_labels or train_targets, and the same for testing, if there is any.
    """
    if "teacher" in settings:
        return draw_teacher(settings)
    if "file_sha256" in settings:
        return read_file(source)
    if settings["dataset"] == "digits":
        return read_digits(settings["test_count"])
    return read_cifar10(source, settings["test_count"])


def normalisation(inputs: np.ndarray, normalise: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation per channel or component, 0 and 1 if not to normalise.

    Args:
        inputs: of the training pool, shape (M, K, ...).
        normalise: whether inputs are normalised.

    Returns:
        Two arrays (K,), float64.

    Raises:
        ValueError: if a channel or component is constant.
    """
    if not normalise:
        return np.zeros(inputs.shape[1]), np.ones(inputs.shape[1])
    axes = (0, *range(2, inputs.ndim))
    least, most = inputs.min(axis=axes), inputs.max(axis=axes)
    # The deviation of equal numbers need not be zero in floating point.
    constant = np.flatnonzero(least == most)
    if len(constant):
        raise ValueError(
            f"component {constant[0]} of the training inputs is constant and cannot be normalised; "
            "leave it out, or set normalise: false for the data set"
        )
    size = np.maximum(np.abs(least, dtype=np.float64), np.abs(most, dtype=np.float64))
    if size.max() > LARGEST_SQUARED or size.min() < 1 / LARGEST_SQUARED:  # squares are inf or 0
        inputs = inputs / size.reshape(-1, *[1] * (inputs.ndim - 2))
    else:
        size = np.ones_like(size)
    mean = inputs.mean(axis=axes, dtype=np.float64)
    return size * mean, size * inputs.std(axis=axes, dtype=np.float64)


def as_dataset(data: dict[str, np.ndarray], settings: dict) -> xr.Dataset:
    """Return inputs, labels or targets, and normalisation as one dataset.

    Args:
        data: what ``read`` returns.
        settings: the rule's parameters.

    Returns:
        The dataset.
    """
    inputs = data["train_inputs"]
    axes = INPUT_AXES[inputs.ndim]
    normalise = settings.get("normalise", inputs.dtype == np.int16)
    mean, deviation = normalisation(inputs, normalise)
    real = "train_targets" in data
    outputs = data["train_targets"].shape[1] if real else int(data["train_labels"].max()) + 1
    dataset = xr.Dataset(
        {
            "input_mean": variable(axes[0], mean, "1", "what is subtracted from the inputs"),
            "input_deviation": variable(axes[0], deviation, "1", "what they are divided by"),
        },
        attrs=provenance(settings, title=f"Data of {settings['dataset']}", outputs=outputs),
    )
    for part in ("train", "test"):
        if f"{part}_inputs" not in data:
            continue
        values = data[f"{part}_inputs"]
        dataset[f"{part}_inputs"] = variable((part, *axes), values, "1", f"{part} inputs as given")
        dataset.attrs[f"{part}_sha256"] = array_digest(values)
        if real:
            dataset[f"{part}_targets"] = variable(
                (part, "output"), data[f"{part}_targets"], "1", f"targets y of the {part} inputs"
            )
        else:
            dataset[f"{part}_labels"] = variable(
                part, data[f"{part}_labels"].astype(np.int32), "1", f"class of each {part} input"
            )
    return dataset


def main(snakemake) -> None:
    """Run the rule ``prepare``."""
    settings = snakemake.params.settings
    with logged(snakemake.log[0]):
        source = snakemake.input[0] if len(snakemake.input) else None
        if "file_sha256" in settings:
            source = own_file(snakemake.config["datasets"][settings["dataset"]])
            check_content(source, settings)
        elif source and digest_record(source).is_file():
            check(source)
        dataset = as_dataset(read(settings, source), settings)
        if "file_sha256" in settings:
            check_content(source, settings)  # which may have been written to while it was read
        print(dataset)
        write_netcdf(dataset, snakemake.output[0])


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
