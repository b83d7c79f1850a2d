"""The platform note: 8 bytes that name a machine."""

import platform

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sic.stream.container import Platform


def test_it_names_this_machine():
    text = str(Platform.here())
    assert platform.system() in text
    assert f"torch {torch.__version__.split('+')[0]}" in text
    assert torch.backends.cpu.get_cpu_capability() in text
    assert f"{torch.get_num_threads()} thread" in text


@given(st.binary(min_size=8, max_size=8))
def test_any_eight_bytes_are_a_platform_with_a_name(content):
    note = Platform(*content)
    assert bytes(note) == content
    assert "\n" not in str(note)


@pytest.mark.parametrize(
    ("version", "parts"),
    [("2.6.0", (2, 6, 0)), ("2.15.0a0+gitabc", (2, 15, 0)), ("2.7.1rc2", (2, 7, 1))],
)
def test_development_versions_of_torch_are_read(monkeypatch, version, parts):
    monkeypatch.setattr(torch, "__version__", version)
    here = Platform.here()
    assert (here.torch_major, here.torch_minor, here.torch_micro) == parts


def test_an_unknown_machine_is_other(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert Platform.here().machine == 0
    assert " other " in str(Platform.here())
