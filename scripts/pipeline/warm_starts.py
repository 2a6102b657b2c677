"""What figures and sentences ask of the rows of the table warm_starts alike."""

from __future__ import annotations

import pandas as pd

from speedlimits.snapshots import reaches

# What sets the threshold, in sentences
SET_BY = "warm_start.test_accuracy, or the study's own warm_start_accuracy where it has one"


def has_warm_start(warm_starts: pd.DataFrame) -> pd.Series:
    """Return for each row whether the mean accuracy rises to its threshold.

    Args:
        warm_starts: the table of that name.
    """
    return warm_starts["reached"].astype(str) == "True"


def above_from_the_start(warm_starts: pd.DataFrame) -> pd.Series:
    """Return for each row whether the accuracy starts above its threshold, and never rises to it.

    Args:
        warm_starts: the table of that name.
    """
    largest = warm_starts["largest_mean_test_accuracy"].astype(float)
    return ~has_warm_start(warm_starts) & reaches(largest, warm_starts["threshold"])
