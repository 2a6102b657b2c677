"""The nearest known name of one that is misspelt, for error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

LEAST_LIKENESS = 0.5  # own choice, of at most 1: difflib's 0.6 misses short names with two slips


def did_you_mean(value: Any, names: Iterable[Any]) -> str:
    """Return `` (did you mean NAME?)`` for the nearest name, or nothing where none is near."""
    known = [str(name) for name in names]
    for spelling in (str(value), str(value).lower()):
        nearest = difflib.get_close_matches(spelling, known, n=1, cutoff=LEAST_LIKENESS)
        if nearest:
            return f" (did you mean {nearest[0]}?)"
    return ""
