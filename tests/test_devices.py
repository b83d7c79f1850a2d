"""Which device a setting names, and where a trained codec lies."""

from pathlib import Path

import pytest
import torch

from sic import work
from sic.errors import SicError


def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert work.device("auto") == torch.device("cpu")
    with pytest.raises(SicError, match=r"^machine\.device: PyTorch finds no GPU here; set it to"):
        work.device("cuda")
    with pytest.raises(SicError, match=r"^--device: PyTorch finds no GPU here"):
        work.device("cuda", "--device")


def test_a_codec_lies_in_the_folder_of_its_name() -> None:
    assert work.checkpoint("fusion/m5-q2") == Path("artifacts/fusion/m5-q2/codec.safetensors")
    assert work.checkpoint("lic/q1", Path("a")) == Path("a/lic/q1/codec.safetensors")
