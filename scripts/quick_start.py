"""Imported first by every job's script: a third less time to start and to end its process.

Nothing that imports create becomes garbage, and the system takes back a process's memory by itself.
So garbage is collected only from the start of the work (``pipeline.log.logged``) to its end.
NumPy's Fortran wrapper generator, which SciPy imports for its name alone, loads when it is used.

The workflow's modules are those beside its scripts. Snakemake looks for them last, behind a library
that pip has installed, and so would run other code than it records. PYTHONPATH says the same
(``pipeline.running_code``), ahead of what is installed as editable, but not in environments of
conda, where Snakemake takes it away.
"""

import atexit
import gc
import importlib.machinery
import importlib.util
import os
import signal
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))


class LoadWhenUsed:
    """Finds ``numpy.f2py`` as a module that runs at the first use of an attribute."""

    @staticmethod
    def find_spec(name: str, path=None, target=None) -> importlib.machinery.ModuleSpec | None:
        """Return the module's spec with a lazy loader; None for every other module."""
        if name != "numpy.f2py":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


if hasattr(sys.modules["__main__"], "snakemake"):
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback through imports by Ctrl-C
    gc.disable()
    atexit.register(gc.freeze)  # registered first, it is called last
    sys.meta_path.insert(0, LoadWhenUsed)
