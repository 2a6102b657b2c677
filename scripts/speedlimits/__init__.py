"""Speed limits of neural-network training: the formulas, one equation per function.

Arrays in, arrays out: no file access, no configuration, no choice of device happens in here.
``speedlimits.measure`` measures any trained network along its snapshots.
"""

from __future__ import annotations

import importlib

__all__ = ["Measurement", "measure"]


def __getattr__(name: str) -> object:
    """Load torch only for the names that need it."""
    if name in __all__:
        return getattr(importlib.import_module("speedlimits.measurement"), name)
    raise AttributeError(f"module 'speedlimits' has no attribute {name!r}")
