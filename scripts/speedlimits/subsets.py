"""Nested training subsets: n = 64 lies inside n = 128, so that curves over n share samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def subset_order(
    labels: ArrayLike, selection: str, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return an order of the samples whose first n are the subset of size n.

    Args:
        labels: class of each sample, shape (M,).
        selection: "uniform" (a random permutation) or "balanced" (a random permutation of the
            classes taken in turn, samples of a class in random order; a class that runs out is
            left out of later turns).
        generator: random stream of the subset draw.

    Returns:
        Indices, a permutation of 0..M-1, shape (M,).

    Raises:
        ValueError: if the selection is unknown.
    """
    labels = np.asarray(labels)
    permutation = generator.permutation(len(labels))
    if selection == "uniform":
        return permutation
    if selection != "balanced":
        raise ValueError(f"selection is {selection!r}; it must be 'balanced' or 'uniform'")
    classes = generator.permutation(np.unique(labels))
    turn = np.empty(len(labels), dtype=np.int64)
    place = np.empty(len(labels), dtype=np.int64)
    for position, name in enumerate(classes):
        members = permutation[labels[permutation] == name]
        turn[members] = np.arange(len(members))
        place[members] = position
    return np.lexsort((place, turn))


def noisy_labels(
    labels: ArrayLike, classes: int, probability: float, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return labels of which each is replaced, with a probability, by a uniformly drawn class.

    The drawn class may be the right one: with C classes a fraction probability (C - 1)/C becomes
    wrong on average (Zhang et al. 2017, Understanding deep learning, section 2.1). The stream draws
    for every sample whatever the probability, so that larger ones replace the same labels and more.

    Args:
        labels: class of each sample of the whole pool, shape (M,).
        classes: number of classes C.
        probability: chance of a replacement, in [0, 1].
        generator: random stream of the label noise.

    Returns:
        Labels, shape (M,).

    Raises:
        ValueError: if a label is no whole number.
    """
    labels = _whole(labels)
    replaced = generator.uniform(size=len(labels)) < probability
    return np.where(replaced, generator.integers(classes, size=len(labels)), labels)


def one_hot(labels: ArrayLike, classes: int, *, centred: bool = False) -> NDArray[np.float64]:
    """Return the targets y, one-hot or (centred) one-hot minus 1/C.

    Args:
        labels: classes in 0..C-1, shape (N,).
        classes: number of classes C.
        centred: subtract the mean 1/C of every row.

    Returns:
        Targets, shape (N, C), float64.

    Raises:
        ValueError: if a label is no whole number, or not one of the classes.
    """
    labels = _whole(labels)
    outside = labels[(labels < 0) | (labels >= classes)]
    if outside.size:
        raise ValueError(f"labels hold {outside.flat[0]}; classes are 0 to {classes - 1}")
    targets = np.eye(classes)[labels]
    return targets - 1 / classes if centred else targets


def _whole(labels: ArrayLike) -> NDArray[np.int64]:
    """Return labels as integers.

    Raises:
        ValueError: if one is no whole number.
    """
    given = np.asarray(labels)
    whole = given.astype(np.int64)
    if not np.array_equal(whole, given):
        raise ValueError(f"labels hold {given[whole != given].flat[0]}; they must be whole numbers")
    return whole
