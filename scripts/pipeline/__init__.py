"""From the configuration to jobs and stored results.

Every script imports something of this package before the library, so that this comes first:
POT imports each array library that it finds, torch included, and only NumPy arrays go into it.
"""

import os

os.environ.setdefault("POT_BACKEND_DISABLE_PYTORCH", "1")
