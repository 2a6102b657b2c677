"""Reuse of freed memory by the tensors of the next micro-batch."""

from __future__ import annotations

import contextlib
import ctypes
from functools import cache

# Numbers of mallopt(3) in glibc's malloc.h. 32 MiB is the most that it takes for the first, and
# holds the activations of one layer of a micro-batch (speedlimits.gradient); 1 GiB is own choice.
MALLOC_OPTIONS = {
    -3: 32 * 2**20,  # M_MMAP_THRESHOLD: what is larger is mapped afresh and given back
    -1: 2**30,  # M_TRIM_THRESHOLD: what is freed at the heap's end is given back above this
}


@cache
def keep_freed_memory() -> None:
    """Let the C library reuse what was freed instead of giving it back, where it is glibc.

    Once a process, and for all of it. Otherwise every tensor of every micro-batch is mapped, zeroed
    page by page and given back: a fifth to a third of the time of a gradient of Myrtle-5 with 16 to
    64 channels, up to a fifth of its kernel's (measured, x86-64, Debian 12; 3000 to 160 000 page
    faults a gradient). Results do not change.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        for option, value in MALLOC_OPTIONS.items():
            ctypes.CDLL(None).mallopt(option, value)
