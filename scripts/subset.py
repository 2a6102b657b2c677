"""Draw a nested training subset and write it, with any test set, as normalised float arrays.

The subset draw depends on the data set, the selection and the number of the draw, not on n: the
subset of size 64 is the beginning of that of size 128.
"""

import quick_start  # noqa: F401

import numpy as np
import xarray as xr

from pipeline.log import logged
from pipeline.seeds import derived_seed
from pipeline.stores import array_digest, provenance, read_netcdf, variable, write_netcdf
from speedlimits.subsets import noisy_labels, subset_order


def draw(labels: np.ndarray | None, count: int, settings: dict) -> np.ndarray:
    """Return the indices of the subset.

    Args:
        labels: class of every sample of the training pool, shape (M,); None for real targets.
        count: size M of the training pool.
        settings: ``dataset``, ``n``, ``selection``, ``subset``, ``seed``.

    Returns:
        Indices, shape (n,).

    Raises:
        ValueError: if n exceeds the pool, or classes are to be balanced where there are none.
    """
    if settings["n"] > count:
        raise ValueError(
            f"n is {settings['n']}, but {settings['dataset']} holds {count} training samples "
            "here; lower n in the study, or use a larger archive or file"
        )
    if labels is None and settings["selection"] == "balanced":
        raise ValueError(
            f"selection is balanced, but {settings['dataset']} has real targets and no classes; "
            "set selection: uniform"
        )
    purpose = ("subset", settings["dataset"], settings["selection"], settings["subset"])
    generator = np.random.default_rng(derived_seed(settings["seed"], *purpose))
    labels = np.zeros(count, int) if labels is None else labels
    return subset_order(labels, settings["selection"], generator)[: settings["n"]]


def with_label_noise(labels: np.ndarray, classes: int, settings: dict) -> np.ndarray:
    """Return the labels of the training pool after label noise, the same for every n.

    Args:
        labels: class of every sample of the training pool, shape (M,).
        classes: number of classes C.
        settings: ``dataset``, ``subset``, ``label_noise``, ``seed``.

    Returns:
        Labels, shape (M,).
    """
    purpose = ("label_noise", settings["dataset"], settings["subset"])
    generator = np.random.default_rng(derived_seed(settings["seed"], *purpose))
    return noisy_labels(labels, classes, settings["label_noise"], generator)


def normalised(inputs: xr.DataArray, prepared: xr.Dataset) -> np.ndarray:
    """Return (inputs - mean) / standard deviation of the training pool, float32 unless float64."""
    shape = (1, -1) + (1,) * (inputs.ndim - 2)
    mean = prepared["input_mean"].values.reshape(shape)
    deviation = prepared["input_deviation"].values.reshape(shape)
    dtype = np.float64 if inputs.dtype.kind == "f" and inputs.dtype.itemsize == 8 else np.float32
    return ((inputs.values - mean) / deviation).astype(dtype)


def subset_variables(
    prepared: xr.Dataset, indices: np.ndarray, settings: dict
) -> tuple[dict[str, xr.Variable], dict[str, int]]:
    """Return the variables of a subset, and what its attributes say of classes.

    Args:
        prepared: file of the rule ``prepare``.
        indices: of the training samples, shape (n,).
        settings: the rule's parameters.

    Returns:
        Name -> variable, and attribute -> number.

    Raises:
        ValueError: if label noise is asked for where there are no labels.
    """
    dims = {"train": "sample", "test": "test"}
    found = {
        "indices": variable(
            "sample", indices.astype(np.int32), "1", "index within the training pool"
        )
    }
    for part in [part for part in dims if f"{part}_inputs" in prepared]:
        inputs = prepared[f"{part}_inputs"]
        inputs = inputs.isel(train=indices) if part == "train" else inputs
        found[f"{part}_inputs"] = variable(
            (dims[part], *inputs.dims[1:]),
            normalised(inputs, prepared),
            "1",
            f"{part}{'ing' * (part == 'train')} inputs x",
        )
    if "train_targets" in prepared:
        if settings["label_noise"]:
            raise ValueError(
                f"label_noise is {settings['label_noise']}, but {settings['dataset']} has real "
                "targets; set label_noise: 0 and put noise into the targets"
            )
        for part in [part for part in dims if f"{part}_targets" in prepared]:
            targets = prepared[f"{part}_targets"].values
            targets = targets[indices] if part == "train" else targets
            found[f"{part}_targets"] = variable(
                (dims[part], "output"), targets, "1", f"target y of each {part} input"
            )
        return found, {}
    clean, classes = prepared["train_labels"].values, int(prepared.attrs["outputs"])
    labels = with_label_noise(clean, classes, settings).astype(np.int32)[indices]
    wrong = int((labels != clean[indices]).sum())
    print(f"{wrong} of {len(labels)} training labels are wrong by label noise")
    found["train_labels"] = variable("sample", labels, "1", "class of each training input")
    if "test_labels" in prepared:
        found["test_labels"] = variable(
            "test", prepared["test_labels"].values, "1", "class of each test input"
        )
    return found, {"classes": classes, "wrong_labels": wrong}


def main(snakemake) -> None:
    """Run the rule ``subset``."""
    settings = snakemake.params.settings
    with logged(snakemake.log[0]):
        prepared = read_netcdf(snakemake.input[0])
        labels = prepared["train_labels"].values if "train_labels" in prepared else None
        indices = draw(labels, prepared.sizes["train"], settings)
        if labels is not None and settings["selection"] == "balanced":
            of_class = np.bincount(labels[indices], minlength=int(prepared.attrs["outputs"]))
            if np.ptp(of_class) > 1:
                found = ", ".join(map(str, of_class))
                print(f"not all classes have enough samples to be balanced: there are {found}")
        variables, counts = subset_variables(prepared, indices, settings)
        dataset = xr.Dataset(
            variables,
            attrs=provenance(
                settings,
                title=f"Training subset of {settings['dataset']}",
                outputs=prepared.attrs["outputs"],
                **counts,
                indices_sha256=array_digest(indices.astype(np.int64)),
                pool_sha256=prepared.attrs["train_sha256"],
            ),
        )
        print(dataset)
        write_netcdf(dataset, snakemake.output[0])


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
