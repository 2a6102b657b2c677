"""Read a data set into one file of images and labels, and state how it is normalised.

Output: NetCDF with uint8-exact images (M, channels, height, width), labels, and mean and standard
deviation per channel over the training pool; the test images are the first ``test_count``.
"""

import numpy as np
import xarray as xr

from pipeline.cifar10 import read_archive
from pipeline.files import check, digest_record
from pipeline.log import logged
from pipeline.stores import array_digest, provenance, variable, write_netcdf


def read_digits(test_count: int) -> dict[str, np.ndarray]:
    """Return scikit-learn's digits (8x8, grey values 0..16), the last ones for testing.

    Args:
        test_count: number of test images.

    Returns:
        train_images (M, 1, 8, 8) uint8, train_labels, test_images, test_labels.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images.astype(np.uint8)[:, None]
    split = len(images) - test_count
    return {
        "train_images": images[:split],
        "train_labels": digits.target[:split],
        "test_images": images[split:],
        "test_labels": digits.target[split:],
    }


def read(settings: dict, archive: str | None) -> dict[str, np.ndarray]:
    """Return the data set that the settings name.

    Args:
        settings: ``dataset`` and ``test_count``.
        archive: CIFAR-10 archive, or None for digits.

    Returns:
        train_images, train_labels, test_images, test_labels.

    Raises:
        ValueError: if there are fewer test images than asked for.
    """
    name, wanted = settings["dataset"], settings["test_count"]
    data = read_digits(wanted) if name == "digits" else read_archive(archive)
    if len(data["test_labels"]) < wanted:
        raise ValueError(
            f"datasets.{name}.test_count is {wanted}; the archive holds "
            f"{len(data['test_labels'])} test images: lower the key"
        )
    data["test_images"] = data["test_images"][:wanted]
    data["test_labels"] = data["test_labels"][:wanted]
    return data


def as_dataset(data: dict[str, np.ndarray], settings: dict) -> xr.Dataset:
    """Return images, labels and normalisation as one dataset.

    Args:
        data: what ``read`` returns.
        settings: the rule's parameters.

    Returns:
        The dataset.
    """
    images = data["train_images"]
    mean = images.mean(axis=(0, 2, 3), dtype=np.float64)
    deviation = images.std(axis=(0, 2, 3), dtype=np.float64)
    axes = ("channel", "height", "width")
    dataset = xr.Dataset(
        {
            "channel_mean": variable("channel", mean, "1", "mean grey value of the training pool"),
            "channel_deviation": variable(
                "channel", deviation, "1", "standard deviation of grey values of the training pool"
            ),
        },
        attrs=provenance(settings, title=f"Images of {settings['dataset']}"),
    )
    for part in ("train", "test"):
        # NetCDF 3 has no unsigned bytes; int16 holds 0..255 exactly.
        pixels = data[f"{part}_images"].astype(np.int16)
        dataset[f"{part}_images"] = variable(
            (part, *axes), pixels, "1", f"grey values of the {part} images"
        )
        dataset[f"{part}_labels"] = variable(
            part, data[f"{part}_labels"].astype(np.int32), "1", f"class of each {part} image"
        )
        dataset.attrs[f"{part}_sha256"] = array_digest(pixels)
    return dataset


def main(snakemake) -> None:
    """Run the rule ``prepare``."""
    settings = snakemake.params.settings
    archive = snakemake.input[0] if len(snakemake.input) else None
    with logged(snakemake.log[0]):
        if archive and digest_record(archive).is_file():
            check(archive)
        dataset = as_dataset(read(settings, archive), settings)
        print(dataset)
        write_netcdf(dataset, snakemake.output[0])


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
