"""What all tests share: one thread each, since two of them run side by side, and no display."""

import os

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")

# A busy machine is slow, and not wrong.
settings.register_profile("sic", deadline=None)
settings.load_profile("sic")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole pipelines first: at the end one of two processes would wait for them."""
    items.sort(key=lambda item: not item.path.name.startswith("test_pipeline"))
