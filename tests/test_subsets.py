"""Subsets, targets and snapshot times."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speedlimits.snapshots import snapshot_times, warm_start_index
from speedlimits.subsets import noisy_labels, one_hot, subset_order


@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.integers(0, 2**32))
@settings(deadline=None, max_examples=60)
def test_balanced_subsets_are_nested_and_as_balanced_as_the_pool_allows(labels, seed):
    labels = np.array(labels)
    order = subset_order(labels, "balanced", np.random.default_rng(seed))
    assert sorted(order) == list(range(len(labels)))
    available = np.bincount(labels, minlength=5)
    for n in range(1, len(labels) + 1):
        counts = np.bincount(labels[order[:n]], minlength=5)
        not_exhausted = counts < available
        if not_exhausted.any():
            assert counts.max() - counts[not_exhausted].min() <= 1


def test_uniform_subset_is_a_permutation_and_follows_the_seed():
    labels = np.arange(50) % 10
    first = subset_order(labels, "uniform", np.random.default_rng(3))
    again = subset_order(labels, "uniform", np.random.default_rng(3))
    other = subset_order(labels, "uniform", np.random.default_rng(4))
    assert sorted(first) == list(range(50))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_unknown_selection_is_refused():
    with pytest.raises(ValueError, match="'balanced' or 'uniform'"):
        subset_order([0, 1], "first", np.random.default_rng(0))


def test_targets():
    assert np.array_equal(one_hot([1, 0], 3), [[0, 1, 0], [1, 0, 0]])
    assert np.allclose(one_hot([1, 0], 3, centred=True).sum(axis=1), 0)
    for label in (-1, 3):  # -1 is no last class
        with pytest.raises(ValueError, match=f"labels hold {label}; classes are 0 to 2"):
            one_hot([0, label], 3)


@given(st.floats(1e-6, 1e3), st.floats(1.01, 1e8), st.integers(1, 40))
@settings(deadline=None, max_examples=100)
def test_snapshot_times_are_log_spaced_and_extend(first, ratio, per_decade):
    last = first * ratio
    times = snapshot_times(first, last, per_decade)
    assert times[0] == pytest.approx(first) and times[-1] == last
    assert np.all(np.diff(times) > 0)
    assert np.allclose(np.diff(np.log10(times[:-1])), 1 / per_decade)
    assert times[-1] / times[-2] <= 10 ** (1 / per_decade) * (1 + 1e-6)
    longer = snapshot_times(first, 7 * last, per_decade)
    assert np.array_equal(longer[: len(times) - 1], times[:-1])


def test_warm_start_is_where_the_mean_reaches_the_threshold():
    accuracy = np.array([[0.1, 0.2, 0.1, 0.5], [0.1, 0.0, 0.3, 0.5]])
    assert warm_start_index(accuracy, 0.2) == 2
    assert warm_start_index(accuracy, 0.1) is None  # met from the start: nothing is reached
    assert warm_start_index(accuracy, 0.6) is None
    lucky = np.array([[0.13, 0.11, 0.1, 0.14, 0.3]])
    assert warm_start_index(lucky, 0.12) == 3
    exactly = np.array([[0, 0.19], [0, 0.20], [0, 0.21]])  # of mean 0.19999999999999998 in float64
    assert exactly.mean(axis=0)[1] < 0.2 and warm_start_index(exactly, 0.2) == 1
    assert warm_start_index(exactly, 0.2001) is None


def test_labels_that_are_no_whole_numbers_are_refused():
    rng = np.random.default_rng(0)
    for call in (lambda x: one_hot(x, 2), lambda x: noisy_labels(x, 2, 0.0, rng)):
        with pytest.raises(ValueError, match="hold 0.9; they must be whole"):
            call([0.0, 0.9])
    assert one_hot(np.array([False, True]), 2).tolist() == [[1, 0], [0, 1]]
    assert one_hot([1.0, 0.0], 2).tolist() == [[0, 1], [1, 0]]
    assert one_hot([], 2).shape == (0, 2)
