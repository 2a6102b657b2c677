"""Read and write results: Zarr stores with a manifest, NetCDF files and tables.

Every file appears when it is complete; its digest is recorded, and compared when it is read.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from pipeline.files import ADVICE, IntegrityError, check, recorded, remove, replaced
from pipeline.log import versions


def provenance(settings: dict, **more: Any) -> dict[str, str | int | float]:
    """Return the attributes that every result carries.

    Args:
        settings: the rule's parameters: configuration, seeds and code digest.
        more: further attributes, for example the device.

    Returns:
        Attribute -> number or text; also of an integer, as a seed, that NetCDF has no room for.
    """

    def kept(value: Any) -> str | int | float:
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            return str(value)
        number = np.asarray(value).item()
        return str(number) if isinstance(number, int) and abs(number) >= 2**31 else number

    return {
        "references": "Seroussi, Alemi, Helias, Ringel, Speed Limits for Deep Learning, "
        "arXiv 2307.14653",
        "loss_convention": "L = 1/2 sum over samples and outputs of (f - y)^2",
        "units_convention": "loss, weight and time are units of the run, with loss x time = "
        "weight^2, and unknown to UDUNITS; 1 is a pure number",
        "config": json.dumps(settings, sort_keys=True),
        "versions": json.dumps(versions(), sort_keys=True),
        **{key: kept(value) for key, value in more.items()},
    }


def variable(
    dims: str | tuple[str, ...], values: Any, units: str, long_name: str, **attributes: Any
) -> xr.Variable:
    """Return an xarray variable with units and long_name.

    Args:
        dims: names of its axes.
        values: its data.
        units: physical units; "1" if dimensionless.
        long_name: what it is, with its symbol.
        attributes: further attributes.

    Returns:
        The variable.
    """
    return xr.Variable(dims, values, {"units": units, "long_name": long_name, **attributes})


def array_digest(values: Any) -> str:
    """Return the SHA-256 of an array's type, shape and bytes.

    Args:
        values: NumPy array, or one of xarray's that lies in a file, which is read row by row.
    """
    digest = hashlib.sha256(f"{values.dtype.str}{values.shape}".encode())
    for row in [values] if isinstance(values, np.ndarray) else values:
        digest.update(np.ascontiguousarray(row).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def write_netcdf(dataset: xr.Dataset, path: str | Path) -> None:
    """Write a dataset as NetCDF 3, which opens everywhere; it appears when it is complete."""
    with recorded(path) as partial:
        dataset.to_netcdf(partial, engine="scipy")


def write_tree(tree: xr.DataTree, path: str | Path) -> None:
    """Write a tree of datasets as NetCDF 4; it appears when it is complete."""
    with recorded(path) as partial:
        # In memory first: HDF5 that cannot write a file crashes the process when it closes it.
        partial.write_bytes(tree.to_netcdf(engine="h5netcdf"))


def read_netcdf(path: str | Path) -> xr.Dataset:
    """Read a NetCDF result into memory.

    Args:
        path: file written by ``write_netcdf``.

    Returns:
        The dataset.

    Raises:
        IntegrityError: if the file is not what was written, or cannot be read.
    """
    check(path)
    try:
        with xr.open_dataset(path, engine="scipy") as dataset:
            return dataset.load()
    except Exception as error:
        raise IntegrityError(
            f"{path} cannot be read ({type(error).__name__}: {error}); {ADVICE}"
        ) from error


def write_json(content: dict, path: str | Path) -> None:
    """Write a small result as JSON with sorted keys; it appears when it is complete."""
    with recorded(path) as partial:
        partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> dict:
    """Read a JSON result.

    Args:
        path: file written by ``write_json``.

    Returns:
        Its content.

    Raises:
        IntegrityError: if the file is not what was written.
    """
    check(path)
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_table(table: pd.DataFrame, path: str | Path, confidence: float | None = None) -> None:
    """Write a table as CSV with 10 digits (float64 noise lies below); it appears when complete.

    Args:
        table: its columns are described in module ``columns``.
        path: file to write.
        confidence: level of the table's intervals, which becomes a column; None if it has none, or
            the column already.
    """
    if confidence is not None:
        table = table.assign(confidence=confidence)
    with recorded(path) as partial:
        table.to_csv(partial, index=False, float_format="%.10g")


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a table.

    Args:
        path: file written by ``write_table``.

    Returns:
        The table.

    Raises:
        IntegrityError: if the file is not what was written.
    """
    check(path)
    # A word such as None or NA, an argument of an own network, is no missing value; a label such
    # as 0.10 is no number.
    options: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}
    table = pd.read_csv(path, **options, dtype={"case": str})
    if {"against", "value"} <= set(table) and (table["against"] == "case").all():
        table = pd.read_csv(path, **options, dtype={"value": str, "reference": str})
    return table


def write_snapshots(dataset: xr.Dataset, store: str | Path, manifest: str | Path) -> None:
    """Write a run's Zarr store and, after it, the manifest that makes it valid.

    The store is built under another name and renamed, so that a killed job never leaves one that
    looks finished.

    Args:
        dataset: the run; its variable ``weights`` gets one chunk per snapshot.
        store: folder of the Zarr store (format 3).
        manifest: JSON file with type, shape and digest of every array.
    """
    write_zarr(dataset, store)
    arrays = {
        str(name): {
            "dtype": str(array.dtype),
            "shape": list(array.shape),
            "sha256": array_digest(array.values),
        }
        for name, array in dataset.variables.items()
    }
    attributes = attributes_digest(dataset)
    write_json({"store": Path(store).name, "arrays": arrays, "attributes": attributes}, manifest)


def attributes_digest(dataset: xr.Dataset) -> str:
    """Return the SHA-256 of the attributes of a dataset and of its variables."""
    attributes = {str(name): array.attrs for name, array in dataset.variables.items()}
    text = json.dumps([dataset.attrs, attributes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_zarr(dataset: xr.Dataset, store: str | Path) -> None:
    """Write a Zarr store of format 3, one chunk per snapshot of the weights."""
    encoding = {
        name: {"chunks": (1, array.shape[1]) if name == "weights" else array.shape}
        for name, array in dataset.variables.items()
        if array.ndim
    }
    with replaced(store) as partial, warnings.catch_warnings():
        remove(partial)
        # zarr calls consolidated metadata experimental in format 3; xarray.open_zarr looks for it
        # first and warns without it, and the plain members are readable either way.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        dataset.to_zarr(partial, mode="w", zarr_format=3, consolidated=True, encoding=encoding)
        remove(Path(store))


def check_descriptions(store: str | Path) -> None:
    """Compare the description of each array of a Zarr store with the store's summary of them.

    Readers of this project and xarray read the summary alone, zarr an array by its own.

    Args:
        store: the folder, whose summary is sound.

    Raises:
        IntegrityError: naming the first array whose description is missing or another one.
    """
    store = Path(store)
    summary = json.loads((store / "zarr.json").read_text(encoding="utf-8"))
    for name, known in summary["consolidated_metadata"]["metadata"].items():
        try:
            found = json.loads((store / name / "zarr.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            found = None
        if found != known:
            raise IntegrityError(
                f"the description of the array {name} of {store} is missing or has been altered; "
                f"{ADVICE}"
            )


def read_snapshots(manifest: str | Path, *, weights: bool = True) -> xr.Dataset:
    """Read a run's Zarr store and check every array against the manifest.

    Args:
        manifest: JSON file written by ``write_snapshots``, beside the store.
        weights: check the weights too, which are the bulk of a store.

    Returns:
        The run in memory, but for the weights: each snapshot is read when it is asked for.

    Raises:
        IntegrityError: naming the store and the array that is missing or altered.
        PermissionError: if it is not this user's to read.
    """
    described = read_json(manifest)
    store = Path(manifest).parent / described["store"]
    advice = f"delete {manifest} and run the same command again"
    if not (store / "zarr.json").is_file():
        raise IntegrityError(f"the Zarr store {store} is missing; {advice}")
    try:
        dataset = xr.open_zarr(store, consolidated=True, chunks=None)
    except PermissionError:
        raise
    except Exception as error:
        raise IntegrityError(
            f"the Zarr store {store} cannot be opened ({type(error).__name__}); {advice}"
        ) from error
    if attributes_digest(dataset) != described["attributes"]:
        raise IntegrityError(f"the attributes of {store} have been altered; {advice}")
    if not weights:
        dataset = dataset.drop_vars("weights")
    for name, known in described["arrays"].items():
        if name == "weights" and not weights:
            continue
        if name not in dataset.variables:
            raise IntegrityError(f"the array {name} of {store} is missing; {advice}")
        try:
            values = dataset[name].variable
            found = array_digest(values if name == "weights" else values.load().values)
        except PermissionError:
            raise
        except Exception as error:
            raise IntegrityError(
                f"the array {name} of {store} cannot be read ({type(error).__name__}); {advice}"
            ) from error
        if found != known["sha256"]:
            raise IntegrityError(f"the array {name} of {store} has been altered; {advice}")
    return dataset
