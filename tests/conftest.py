"""What all tests share: one thread each, since two of them run side by side, and no display."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as sic/__init__.py, before PyTorch is there
os.environ.setdefault("MPLBACKEND", "agg")

# A busy machine is slow, and not wrong.
settings.register_profile("sic", deadline=None)
settings.load_profile("sic")


@pytest.fixture(scope="session", autouse=True)
def _one_process() -> Iterator[None]:
    """Pieces of work are made in the test's own process, unless it asks for more: they start in
    seconds, and do not see what a test has patched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sic.cluster.cores", lambda: 1)
        yield


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine with two processors, where nobody said how many threads there should be."""
    import torch

    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole pipelines first: at the end one of two processes would wait for them."""
    items.sort(key=lambda item: not item.path.name.startswith("test_pipeline"))
