"""Speed limits of neural-network training: the formulas, one equation per function.

Arrays in, arrays out: no file access, no configuration, no choice of device happens in here.
``speedlimits.measure`` measures any trained network along its snapshots.
"""

from __future__ import annotations

import importlib

__all__ = ["Measurement", "measure"]  # noqa: F822 (given by __getattr__)


def __getattr__(name: str) -> object:
    """Return a name of ``measurement``, so that torch is loaded only for those.

    Raises:
        AttributeError: if the package has no such name.
    """
    if name in __all__:
        return getattr(importlib.import_module("speedlimits.measurement"), name)
    raise AttributeError(f"module 'speedlimits' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the names of the package, those that are not loaded yet too."""
    return sorted({*globals(), *__all__})
