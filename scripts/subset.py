"""Draw a nested training subset and write it, with the test set, as normalised float arrays.

The subset draw depends on the data set, the selection and the number of the draw, not on n: the
subset of size 64 is the beginning of that of size 128.
"""

import numpy as np
import xarray as xr

from pipeline.log import logged
from pipeline.seeds import derived_seed
from pipeline.stores import array_digest, provenance, read_netcdf, variable, write_netcdf
from speedlimits.subsets import noisy_labels, subset_order


def draw(labels: np.ndarray, settings: dict) -> np.ndarray:
    """Return the indices of the subset.

    Args:
        labels: class of every image of the training pool, shape (M,).
        settings: ``dataset``, ``n``, ``selection``, ``subset``, ``seed``.

    Returns:
        Indices, shape (n,).

    Raises:
        ValueError: if n exceeds the pool.
    """
    if settings["n"] > len(labels):
        raise ValueError(
            f"n is {settings['n']}, but {settings['dataset']} holds {len(labels)} training images "
            "here; lower n in the study, or use a larger archive"
        )
    purpose = ("subset", settings["dataset"], settings["selection"], settings["subset"])
    generator = np.random.default_rng(derived_seed(settings["seed"], *purpose))
    return subset_order(labels, settings["selection"], generator)[: settings["n"]]


def with_label_noise(labels: np.ndarray, settings: dict) -> np.ndarray:
    """Return the labels of the training pool after label noise, the same for every n.

    Args:
        labels: class of every image of the training pool, shape (M,).
        settings: ``dataset``, ``subset``, ``label_noise``, ``seed``.

    Returns:
        Labels, shape (M,).
    """
    purpose = ("label_noise", settings["dataset"], settings["subset"])
    generator = np.random.default_rng(derived_seed(settings["seed"], *purpose))
    return noisy_labels(labels, int(labels.max()) + 1, settings["label_noise"], generator)


def normalised(images: xr.DataArray, prepared: xr.Dataset) -> np.ndarray:
    """Return (images - mean) / standard deviation per channel of the training pool, float32."""
    shape = (1, -1, 1, 1)
    mean = prepared["channel_mean"].values.reshape(shape)
    deviation = prepared["channel_deviation"].values.reshape(shape)
    return ((images.values - mean) / deviation).astype(np.float32)


def main(snakemake) -> None:
    """Run the rule ``subset``."""
    settings = snakemake.params.settings
    with logged(snakemake.log[0]):
        prepared = read_netcdf(snakemake.input[0])
        indices = draw(prepared["train_labels"].values, settings)
        chosen = prepared["train_images"].isel(train=indices)
        axes = ("channel", "height", "width")
        clean = prepared["train_labels"].values
        labels = with_label_noise(clean, settings).astype(np.int32)[indices]
        wrong = int((labels != clean[indices]).sum())
        print(f"{wrong} of {len(labels)} training labels are wrong by label noise")
        dataset = xr.Dataset(
            {
                "train_inputs": variable(
                    ("sample", *axes), normalised(chosen, prepared), "1", "training inputs x"
                ),
                "train_labels": variable("sample", labels, "1", "class of each training input"),
                "indices": variable(
                    "sample", indices.astype(np.int32), "1", "index within the training pool"
                ),
                "test_inputs": variable(
                    ("test", *axes),
                    normalised(prepared["test_images"], prepared),
                    "1",
                    "test inputs x",
                ),
                "test_labels": variable(
                    "test", prepared["test_labels"].values, "1", "class of each test input"
                ),
            },
            attrs=provenance(
                settings,
                title=f"Training subset of {settings['dataset']}",
                classes=int(prepared["train_labels"].max()) + 1,
                wrong_labels=wrong,
                indices_sha256=array_digest(indices.astype(np.int64)),
                pool_sha256=prepared.attrs["train_sha256"],
            ),
        )
        print(dataset)
        write_netcdf(dataset, snakemake.output[0])


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
