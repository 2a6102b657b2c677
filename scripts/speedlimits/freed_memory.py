"""Reuse of freed memory by the tensors of the next micro-batch."""

from __future__ import annotations

from functools import cache

import torch

# glibc takes blocks above a threshold from the kernel and returns them when freed. The threshold
# follows the largest block freed so far, up to 32 MiB on 64 bits (mallopt(3), M_MMAP_THRESHOLD);
# twice that is what it keeps free. A little less than the most, for what malloc adds of its own.
LARGEST_THRESHOLD = 31 * 2**20


@cache
def keep_freed_memory() -> None:
    """Let malloc keep up to 62 MiB of freed memory, once a process, instead of returning it.

    Tensors of a micro-batch take a few MiB each and live for milliseconds. Taken from the kernel
    anew, every page of theirs is cleared and mapped again, which was a fifth to a third of the time
    of a gradient or kernel of Myrtle-5 (Linux, 16 to 64 channels, 3000 to 160 000 page faults a
    call). The block freed here is never written and costs nothing; results do not change, and other
    allocators than glibc's take no notice.
    """
    torch.empty(LARGEST_THRESHOLD, dtype=torch.uint8)
