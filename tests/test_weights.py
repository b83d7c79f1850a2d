"""Checkpoints of the study, and the import of published ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference_weights import fill
from safetensors.torch import save_file
from small import SIZES, WIDTHS, astronaut
from torch import Tensor

from sic.codec import weights
from sic.codec.fusion import AdditionalCodec, DifferenceCodec
from sic.codec.tcm import TCM
from sic.errors import SicError

CODECS: dict[str, Callable[[], TCM]] = {
    "tcm": lambda: TCM(**SIZES),
    "additional": lambda: AdditionalCodec(2, **SIZES),
    "additional, FR": lambda: AdditionalCodec(2, **SIZES, residual="feature"),
    "additional, conditional FR": lambda: AdditionalCodec(
        2, **SIZES, residual="feature", condition=True
    ),
    "difference": lambda: DifferenceCodec(**SIZES),
}


@pytest.mark.parametrize("kind", CODECS)
def test_a_checkpoint_gives_back_the_codec(kind: str, tmp_path: Path) -> None:
    codec, path = fill(CODECS[kind](), "icm"), tmp_path / "codec.safetensors"
    weights.save(path, codec, {"lmbda": 0.05, "steps": 7})
    loaded = weights.load(path)
    assert type(loaded) is type(codec)
    assert not loaded.training
    assert weights.settings(loaded) == weights.settings(codec)
    assert weights.fingerprint(loaded) == weights.fingerprint(codec)
    found = loaded.state_dict()  # once: it takes milliseconds, and has 1,293 entries
    for key, tensor in codec.state_dict().items():
        assert torch.equal(found[key], tensor), key
    about = weights.metadata(path)
    assert about["origin"] == {"lmbda": 0.05, "steps": 7}
    assert about["settings"]["kind"] == kind.partition(",")[0]


def test_equal_codecs_give_equal_bytes(tmp_path: Path) -> None:
    codec = fill(TCM(**SIZES), "icm")
    for name in ("a", "b", "c", "d"):
        weights.save(tmp_path / name, codec, {"lmbda": 0.05, "steps": 7, "seed": 0})
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_the_fingerprint_follows_weights_and_settings_not_the_file(tmp_path: Path) -> None:
    codec = fill(TCM(**SIZES), "icm")
    same = weights.fingerprint(codec)
    weights.save(tmp_path / "a.safetensors", codec, {"name": "a"})
    assert weights.metadata(tmp_path / "a.safetensors")["fingerprint"] == same
    assert weights.fingerprint(codec.double()) == same
    assert weights.fingerprint(fill(DifferenceCodec(**SIZES), "icm")) != same
    fusion, residual = (fill(CODECS[kind](), "ica") for kind in ("additional", "additional, FR"))
    assert weights.fingerprint(fusion) != weights.fingerprint(residual)
    with torch.no_grad():
        codec.g_a[0].conv1.weight.view(-1)[0] += 1e-3
    assert weights.fingerprint(codec) != same


def test_weights_that_fit_float16_take_half_the_space_and_come_back_exactly(
    tmp_path: Path,
) -> None:
    codec = fill(TCM(**SIZES), "icm")
    weights.save(tmp_path / "whole.safetensors", codec, {})
    with torch.no_grad():
        for parameter in codec.parameters():
            parameter.copy_(parameter.half().float())
    weights.save(tmp_path / "half.safetensors", codec, {})
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.7 * sizes[1]
    loaded = weights.load(tmp_path / "half.safetensors").state_dict()
    for key, tensor in codec.state_dict().items():
        assert torch.equal(loaded[key], tensor), key
        assert loaded[key].dtype == tensor.dtype, key


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "codec.safetensors"
    weights.save(path, fill(TCM(**SIZES), "icm"), {})
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(SicError, match=r"codec.safetensors is damaged"):
        weights.load(path)
    path.write_bytes(content[:1000])
    with pytest.raises(SicError, match=r"not a whole safetensors file"):
        weights.load(path)


def test_files_that_are_no_checkpoint_of_ours_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SicError, match=r"no checkpoint .*absent.safetensors"):
        weights.load(tmp_path / "absent.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(SicError, match=r"other.safetensors is not a checkpoint of this study"):
        weights.load(tmp_path / "other.safetensors")


def old_bottleneck_key(key: str) -> str:
    """CompressAI's names before version 1.2."""
    for new, old in (("matrices", "matrix"), ("biases", "bias"), ("factors", "factor")):
        head = f"entropy_bottleneck.{new}."
        if key.startswith(head):
            return f"entropy_bottleneck._{old}{key.removeprefix(head)}"
    return key


@pytest.mark.parametrize(
    "published",
    [
        lambda state: state,
        lambda state: {"state_dict": state},
        lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 49},
        lambda state: {f"module.{old_bottleneck_key(k)}": v for k, v in state.items()},
    ],
    ids=["bare", "state_dict", "module and epoch", "module and old keys"],
)
def test_published_checkpoints_give_the_same_numbers(
    published: Callable[[dict[str, Tensor]], dict[str, Any]], tmp_path: Path
) -> None:
    codec = fill(AdditionalCodec(3, **SIZES).eval(), "ica3")
    torch.save(published(codec.state_dict()), tmp_path / "ica.pth.tar")
    imported = AdditionalCodec(3, **SIZES).eval()
    weights.import_published(tmp_path / "ica.pth.tar", imported)
    x, y_hat_base = astronaut(128, 128).float(), torch.randn(1, 40, 8, 8)
    with torch.inference_mode():
        assert torch.equal(imported(x, y_hat_base)["x_hat"], codec(x, y_hat_base)["x_hat"])


def test_a_published_checkpoint_with_coding_tables_fits(tmp_path: Path) -> None:
    state = fill(TCM(**SIZES), "icm").state_dict()
    state["entropy_bottleneck._quantized_cdf"] = torch.zeros(16, 9, dtype=torch.int32)
    state["gaussian_conditional.scale_table"] = torch.ones(64)
    torch.save(state, tmp_path / "icm.pth.tar")
    weights.import_published(tmp_path / "icm.pth.tar", TCM(**SIZES))


@pytest.mark.parametrize("value", [np.float64(3), np.zeros(3)])
def test_numpy_values_beside_weights_are_not_said_to_be_code(value: Any, tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "loss": value}, tmp_path / "x.pth.tar")
    with pytest.raises(SicError, match=r"x\.pth\.tar holds NumPy values, .* save its state dict"):
        weights.import_published(tmp_path / "x.pth.tar", TCM(**SIZES))


def saved(codec: TCM, tmp_path: Path, **changes: Tensor | None) -> Path:
    state = {**codec.state_dict(), **{k.replace("__", "."): v for k, v in changes.items()}}
    torch.save({k: v for k, v in state.items() if v is not None}, tmp_path / "x.pth.tar")
    return tmp_path / "x.pth.tar"


def test_what_does_not_fit_names_the_key_the_shapes_and_the_cause(tmp_path: Path) -> None:
    other_n = saved(TCM(**{**SIZES, "N": 16}), tmp_path)
    with pytest.raises(
        SicError,
        match=r"key g_a.0.conv1.weight has shape \(32, 3, 3, 3\), expected \(16, 3, 3, 3\)",
    ) as error:
        weights.import_published(other_n, TCM(**SIZES))
    assert "seems to be of N=16" in str(error.value)

    other_m = saved(AdditionalCodec(4, **SIZES), tmp_path)
    with pytest.raises(SicError, match=r"seems to be of an additional codec with m=4"):
        weights.import_published(other_m, AdditionalCodec(2, **SIZES))
    with pytest.raises(SicError, match=r"seems to be of an additional codec with m=4"):
        weights.import_published(other_m, TCM(**SIZES))

    missing = saved(TCM(**SIZES), tmp_path, g_s__9__0__bias=None)
    with pytest.raises(SicError, match=r"key g_s.9.0.bias \(12,\) is missing"):
        weights.import_published(missing, TCM(**SIZES))

    extra = saved(TCM(**SIZES), tmp_path, g_x__weight=torch.zeros(1))
    with pytest.raises(SicError, match=r"unexpected key g_x.weight"):
        weights.import_published(extra, TCM(**SIZES))


def test_settings_survive_json() -> None:
    codec = AdditionalCodec(2, **SIZES)
    again = weights.build(json.loads(json.dumps(weights.settings(codec))))
    assert again.widths == WIDTHS
    assert weights.settings(again) == weights.settings(codec)
