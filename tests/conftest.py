"""What all tests share: one thread each, since two of them run side by side, and no display."""

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")

# A busy machine is slow, and not wrong.
settings.register_profile("sic", deadline=None)
settings.load_profile("sic")
