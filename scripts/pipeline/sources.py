"""What a data set of the configuration holds, as far as it is known before any job runs."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.files import own_file

TRAINING_POOL = {"cifar10": 50_000, "digits": 1797}  # images before test images are set aside
INPUT_SHAPES = {"cifar10": (3, 32, 32), "digits": (1, 8, 8)}
BUILT_IN_CLASSES = 10  # of both


class Source(NamedTuple):
    """A data set before it is read.

    Attributes:
        samples: training samples; None if they cannot be counted here.
        outputs: number of outputs C, classes or components of a target.
        real: whether the targets are real numbers; None if that is not known here.
        tested: whether there is a test part.
        input_shape: shape of one input; None if it is not known here.
    """

    samples: int | None
    outputs: int
    real: bool | None
    tested: bool
    input_shape: tuple[int, ...] | None


def source(name: str, entry: dict) -> Source:
    """Return what a data set holds.

    A user's file is opened; where the environment that plans the jobs lacks zarr, a .zarr group is
    checked by the jobs alone, and the memory of kernel jobs is asked for as for 10 outputs.

    Args:
        name: of the data set.
        entry: its mapping under ``datasets``.

    Returns:
        The description.

    Raises:
        ValueError: if a user's file is not as it must be.
    """
    if "teacher" in entry:
        teacher = entry["teacher"]
        shape = (teacher["dimension"],)
        return Source(teacher["samples"], 1, True, teacher["test_count"] > 0, shape)
    if "file" in entry:
        try:
            from pipeline.own_data import layout

            found = layout(own_file(entry))
        except ImportError:
            return Source(None, BUILT_IN_CLASSES, None, True, None)
        tested = found.test_samples > 0
        return Source(found.samples, found.outputs, found.real, tested, found.input_shape)
    pool = TRAINING_POOL[name] - (entry["test_count"] if name == "digits" else 0)
    return Source(pool, BUILT_IN_CLASSES, False, True, INPUT_SHAPES[name])
