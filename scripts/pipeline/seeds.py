"""One independent random stream per purpose, derived from the master seed alone."""

from __future__ import annotations

import hashlib
import json

# Settings of which each value has starts of its own, beside the realisation (problem.start_seed)
START_KEYS = ("dataset", "n", "selection", "subset", "model", "width", "depth")

# quantity -> whose bootstrap resamples it takes: without momentum and preconditioning they are one
# number, which should not have two intervals
SAME_DRAWS = {"energetic_inefficiency": "inefficiency"}


def derived_seed(seed: int, *purpose: str | int) -> int:
    """Return the seed of one stream.

    It depends on the master seed and on what the stream is for, not on the order of calls nor on
    the number of jobs: SHA-256 of both, cut to 63 bits.

    Args:
        seed: master seed of the configuration.
        purpose: what the stream is for, for example ("start", "myrtle5", 32, 0).

    Returns:
        Integer in [0, 2^63), accepted by NumPy and torch generators.
    """
    text = json.dumps([seed, *purpose])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
