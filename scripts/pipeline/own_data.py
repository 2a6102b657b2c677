"""Data sets in a user's file, NumPy's .npz or a Zarr group: named arrays, checked before use.

``train_inputs`` holds images (n, channels, height, width) or vectors (n, d) of floats. Beside them
stand either ``train_labels``, classes 0, 1, ... C-1 of shape (n,), or ``train_targets``, real
numbers of shape (n,) or (n, C). ``test_inputs`` with ``test_labels`` or ``test_targets`` may be
left out: test loss and accuracy are then missing. Nothing in a file is ever unpickled.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.suggestions import did_you_mean

ENDINGS = (".npz", ".zarr")
PARTS = ("train", "test")
NAMES = tuple(f"{part}_{what}" for part in PARTS for what in ("inputs", "labels", "targets"))
# What others call these arrays, in lower case.
ALIASES = {
    f"{a}_{b}": f"{part}_{what}"
    for part in PARTS
    for short, what in (("x", "inputs"), ("images", "inputs"), ("y", "labels"))
    for a, b in ((short, part), (part, short))
}
# Own choice: images with channels last are told by a last axis this short; those that are not
# square, which may be signals of many channels, if it has colours.
FEWEST_COLOURS, MOST_COLOURS = 3, 4
INPUT_AXES = {2: ("component",), 4: ("channel", "height", "width")}
FLOATS = (np.float32, np.float64)
PACKED = ("scale_factor", "add_offset")  # attributes under which values are not what is stored
CODECS = ("codecs", "filters", "compressor")  # of an array's metadata, Zarr 3 and 2
# Of one array in the NetCDF file of the prepared data: 32-bit sizes, format 2.
LARGEST_BYTES = 2**32 - 4


class DataError(ValueError):
    """What is wrong with a data file, in one sentence."""


class Lazy(NamedTuple):
    """An array of a file that has not been read.

    Attributes:
        shape: its shape.
        dtype: its type.
        read: returns its values.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], NDArray]


def arrays(path: str | Path) -> dict[str, Lazy]:
    """Return the arrays of a data file, without reading their values.

    Args:
        path: .npz file or .zarr group.

    Returns:
        Name -> array; names that are not among ``NAMES`` too.

    Raises:
        DataError: if there is no such file, or it cannot be opened.
        ImportError: if a Zarr group is to be opened without zarr.
    """
    path = Path(path)
    if path.suffix not in ENDINGS:
        raise DataError(f"{path} must end in {' or '.join(ENDINGS)}")
    if not path.exists():
        raise DataError(f"{path} does not exist (a relative path starts at {Path.cwd()})")
    try:
        return _npz_arrays(path) if path.suffix == ".npz" else _zarr_arrays(path)
    except (DataError, ImportError):
        raise
    except Exception as error:  # whatever zipfile, numpy or zarr say of damaged files
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {error})") from error


def _npz_arrays(path: Path) -> dict[str, Lazy]:
    """Return the arrays of an .npz file from the headers of its members.

    Raises:
        DataError: if an array is not of plain numbers.
    """
    readers = {(1, 0): np.lib.format.read_array_header_1_0,
               (2, 0): np.lib.format.read_array_header_2_0}  # fmt: skip
    found = {}
    with zipfile.ZipFile(path) as members:
        for member in members.namelist():
            name = member.removesuffix(".npy")
            with members.open(member) as content:
                version = np.lib.format.read_magic(content)
                if version not in readers:
                    raise DataError(f"{path}: the array {name} has fields; give plain numbers")
                shape, _, dtype = readers[version](content)

            def read(name: str = name) -> NDArray:
                with np.load(path, allow_pickle=False) as file:
                    return file[name]

            found[name] = Lazy(shape, dtype, read)
    return found


def _zarr_arrays(path: Path) -> dict[str, Lazy]:
    """Return the arrays of a Zarr group; codecs that unpickle are refused by name.

    Raises:
        DataError: if there is one, if an array is packed, or if chunks of one are missing.
    """
    import zarr

    for pattern in ("**/zarr.json", "**/.zarray"):
        for file in path.glob(pattern):
            told = json.loads(file.read_text(encoding="utf-8"))
            if "pickle" in json.dumps([told.get(name) for name in CODECS]):
                raise DataError(f"{path} holds pickled values ({file.parent.name}), which are "
                                "never read; store plain numbers")  # fmt: skip
    found = {}
    # The arrays as they are: a consolidated summary may be older.
    for name, array in zarr.open_group(path, mode="r", use_consolidated=False).arrays():
        packed = [key for key in PACKED if key in array.attrs]
        if packed:
            raise DataError(
                f"{path}: {name} has the attribute {packed[0]}, by which xarray packs numbers; "
                "store the numbers themselves"
            )
        missing = array.nchunks - array.nchunks_initialized
        if missing:
            raise DataError(
                f"{path}: {missing} of {array.nchunks} chunks of {name} are missing, for which "
                f"zarr would put {array.fill_value}; copy it again, or if they hold just that, "
                "write it with write_empty_chunks"
            )
        found[name] = Lazy(array.shape, array.dtype, lambda array=array: np.asarray(array[...]))
    return found


class Layout(NamedTuple):
    """What a data file holds, from shapes, types and labels.

    Attributes:
        samples: training inputs.
        input_shape: shape of one input.
        outputs: number of classes, or of target components.
        real: whether the targets are real numbers.
        test_samples: test inputs; 0 without a test part.
    """

    samples: int
    input_shape: tuple[int, ...]
    outputs: int
    real: bool
    test_samples: int


def layout(path: str | Path) -> Layout:
    """Return what a data file holds after checking names, shapes, types and labels.

    Args:
        path: .npz file or .zarr group.

    Returns:
        The layout.

    Raises:
        DataError: in one sentence, for what is wrong.
    """
    found = arrays(path)
    unknown = [name for name in found if name not in NAMES]
    if unknown:
        meant = did_you_mean(ALIASES.get(unknown[0].lower(), unknown[0]), NAMES)
        raise DataError(
            f"{path} holds an array {unknown[0]}{meant}; the names are {', '.join(NAMES)}"
        )
    if "train_inputs" not in found:
        raise DataError(f"{path} lacks the array train_inputs; it holds {_listed(found)}")
    targets = _targets_name(path, found, "train")
    real = targets == "train_targets"
    samples, *shape = _check_inputs(path, found, "train")
    outputs = _check_targets(path, found, targets, samples)
    if not any(name.startswith("test") for name in found):
        return Layout(samples, tuple(shape), outputs, real, 0)
    if "test_inputs" not in found:
        raise DataError(f"{path} lacks the array test_inputs; it holds {_listed(found)}")
    test_targets = _targets_name(path, found, "test")
    if test_targets != targets.replace("train", "test"):
        raise DataError(f"{path} has {targets} but {test_targets}; give both parts the same kind")
    test_samples, *test_shape = _check_inputs(path, found, "test")
    if test_shape != shape:
        raise DataError(
            f"{path}: a test input has the shape {tuple(test_shape)}, a training input "
            f"{tuple(shape)}; they must agree"
        )
    wanted = _check_targets(path, found, test_targets, test_samples, outputs)
    if wanted != outputs:
        raise DataError(f"{path}: test_targets have {wanted} components, train_targets {outputs}")
    return Layout(samples, tuple(shape), outputs, real, test_samples)


def _listed(found: dict[str, Lazy]) -> str:
    """Return the names of the arrays of a file in words."""
    return ", ".join(found) or "no array"


def _targets_name(path: str | Path, found: dict[str, Lazy], part: str) -> str:
    """Return which of labels and targets one part has.

    Raises:
        DataError: unless it is one of the two.
    """
    names = [name for name in (f"{part}_labels", f"{part}_targets") if name in found]
    if len(names) != 1:
        state = "both" if names else "neither"
        raise DataError(
            f"{path} holds {state} {part}_labels {'and' if names else 'nor'} {part}_targets; give "
            "labels (classes, integers) or targets (real numbers)"
        )
    return names[0]


def _check_inputs(path: str | Path, found: dict[str, Lazy], part: str) -> tuple[int, ...]:
    """Return the shape of one part's inputs.

    Raises:
        DataError: if they are no images or vectors of floats.
    """
    name = f"{part}_inputs"
    shape, dtype = found[name].shape, found[name].dtype
    if len(shape) not in INPUT_AXES or 0 in shape:
        raise DataError(
            f"{path}: {name} has the shape {tuple(shape)}; it must be (n, channels, height, width) "
            "for images or (n, d) for vectors, without empty axes"
        )
    square = len(shape) == 4 and shape[1] == shape[2]
    fewest = 1 if square else FEWEST_COLOURS
    if len(shape) == 4 and min(shape[1:3]) > MOST_COLOURS >= shape[3] >= fewest:
        raise DataError(
            f"{path}: {name} has the shape {tuple(shape)}, which looks like (n, height, width, "
            "channels); write it as (n, channels, height, width), by .transpose(0, 3, 1, 2)"
        )
    if dtype.newbyteorder("=") not in FLOATS:
        hint = "write it by .astype(numpy.float32)" if dtype.kind in "bf" else "real numbers"
        hint = "grey values 0 to 255: divide by 255" if dtype.kind in "iu" else hint
        raise DataError(
            f"{path}: {name} has the type {dtype}; it must be float32 or float64 ({hint})"
        )
    if np.prod(shape) * dtype.itemsize > LARGEST_BYTES:
        raise DataError(f"{path}: {name} has more than 4 GiB; give fewer samples or float32")
    return tuple(map(int, shape))


def _check_targets(
    path: str | Path, found: dict[str, Lazy], name: str, samples: int, classes: int | None = None
) -> int:
    """Return the number of outputs that labels or targets ask for.

    Args:
        path: the file, for messages.
        found: its arrays.
        name: of the labels or targets.
        samples: number of inputs of the same part.
        classes: of the training part; None for the training part itself.

    Returns:
        Classes, or components of a target.

    Raises:
        DataError: if number, shape, type or range do not fit.
    """
    shape, dtype = found[name].shape, found[name].dtype
    labels = name.endswith("labels")
    if len(shape) == 0 or shape[0] != samples or len(shape) > (1 if labels else 2) or 0 in shape:
        wanted = f"({samples},)" + ("" if labels else f" or ({samples}, outputs)")
        hint = "of one-hot rows give numpy.argmax(..., axis=1)"
        hint = "of one column give .ravel()" if shape[1:] == (1,) else hint
        matrix = labels and len(shape) == 2 and shape[0] == samples
        raise DataError(
            f"{path}: {name} has the shape {tuple(shape)}; with {samples} inputs it must be "
            f"{wanted}" + (f"; {hint}" if matrix else "")
        )
    if not labels:
        if dtype.newbyteorder("=") not in FLOATS:
            hints = {
                "f": "write it by .astype(numpy.float32)",
                "c": "give real and imaginary part as two targets",
                "i": f"integer classes are called {name.replace('targets', 'labels')}",
            }
            kind = "i" if dtype.kind in "iub" else dtype.kind
            hint = hints.get(kind, "numbers are needed")
            raise DataError(
                f"{path}: {name} has the type {dtype}; it must be float32 or float64 ({hint})"
            )
        return 1 if len(shape) == 1 else int(shape[1])
    if dtype.kind not in "iu":
        remedies = {
            "b": "give .astype(int)",
            "f": f"real numbers are called {name.replace('labels', 'targets')}",
        }
        words = "of names give numpy.unique(names, return_inverse=True)[1]"
        raise DataError(
            f"{path}: {name} has the type {dtype}; classes must be integers "
            f"({remedies.get(dtype.kind, words)})"
        )
    present = np.unique(_read(path, name, found[name]))
    if classes is None:
        if present[0] != 0 or present[-1] != len(present) - 1:
            raise DataError(
                f"{path}: {name} holds {len(present)} different classes from {present[0]} to "
                f"{present[-1]}; number them 0, 1, ... without gaps"
            )
        if len(present) < 2:
            raise DataError(f"{path}: {name} holds a single class; there must be two at least")
        return len(present)
    if present[0] < 0 or present[-1] >= classes:
        raise DataError(
            f"{path}: {name} goes from {present[0]} to {present[-1]}; the training labels allow 0 "
            f"to {classes - 1}"
        )
    return classes


def _read(path: str | Path, name: str, lazy: Lazy) -> np.ndarray:
    """Return one array of a data file.

    Args:
        path: the file, for messages.
        name: of the array.
        lazy: the array.

    Raises:
        DataError: if it is damaged.
    """
    try:
        return np.asarray(lazy.read())
    except Exception as error:
        raise DataError(
            f"{path}: {name} cannot be read ({type(error).__name__}: {error})"
        ) from error


def read(path: str | Path) -> dict[str, Any]:
    """Return the arrays of a data file after all checks.

    Args:
        path: .npz file or .zarr group.

    Returns:
        Name -> array: inputs in their own type, labels (n,) int32, targets (n, C) float64.

    Raises:
        DataError: in one sentence, for what is wrong.
    """
    layout(path)
    values = {}
    for name, lazy in arrays(path).items():
        array = _read(path, name, lazy)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(
                f"{path}: {name} holds {int((~np.isfinite(array)).sum())} values that are NaN or "
                "infinite; remove those samples"
            )
        if name.endswith("labels"):
            array = array.astype(np.int32)
        elif name.endswith("targets"):
            array = array.reshape(len(array), -1).astype(np.float64)
        else:
            array = array.astype(array.dtype.newbyteorder("="))
        values[name] = array
    return values
