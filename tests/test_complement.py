"""The start of an additional codec: a LIC's latent less what the base sends."""

import hashlib
from pathlib import Path

import pytest
import torch
from skimage import data, io
from small import SIZES, astronaut

from sic import complement, weights
from sic.crops import Photo
from sic.errors import SicError
from sic.scalable import AdditionalCodec
from sic.tcm import TCM

WEIGHTS = Path(__file__).parents[1] / "data/weights"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Photo]:
    folder = tmp_path_factory.mktemp("photos")
    found = []
    for name in ("chelsea", "coffee"):
        io.imsave(folder / f"{name}.png", getattr(data, name)())
        content = (folder / f"{name}.png").read_bytes()
        found.append(Photo(folder / f"{name}.png", hashlib.sha256(content).hexdigest()))
    return found


@pytest.fixture(scope="module")
def lic() -> TCM:
    return weights.load(WEIGHTS / "lic/q1.safetensors").eval()


@pytest.fixture(scope="module")
def base() -> TCM:
    return weights.load(WEIGHTS / "sa_icm.safetensors").eval()


@torch.inference_mode()
def test_base_and_complement_add_up_to_the_latent_of_the_lic(lic, base, photos, monkeypatch):
    monkeypatch.setattr(complement, "ROWS", 4)
    codec = complement.complement(lic, base, photos, 128, 0).eval()
    x = astronaut(256, 256, 64, 128).float()  # a photo that the fit has not seen
    y, (y_hat, _) = lic.g_a(x), base.code_latent(base.g_a(x))
    half = AdditionalCodec(5, lic.N, lic.M, 5, lic.widths)
    half.start_from(lic)

    def missing(ya: torch.Tensor) -> float:
        return (y - y_hat - ya).square().mean().item()

    assert missing(codec.g_a(x)) < missing(half.g_a(x)) < missing(torch.zeros_like(y))
    assert codec.g_a(x).square().mean() < y.square().mean(), "less is left to send than the LIC's y"


def test_all_but_the_last_layer_of_the_encoder_is_the_lics(lic, base, photos, monkeypatch):
    monkeypatch.setattr(complement, "ROWS", 1)
    before = {key: value.clone() for key, value in lic.state_dict().items()}
    codec = complement.complement(lic, base, photos, 128, 0)
    changed = {k for k, v in codec.state_dict().items() if not torch.equal(v, before[k])}
    last = len(lic.g_a) - 1
    assert changed == {f"g_a.{last}.weight", f"g_a.{last}.bias"}
    assert all(torch.equal(value, before[key]) for key, value in lic.state_dict().items())


def test_codecs_of_two_sizes_are_refused(lic, photos):
    with pytest.raises(SicError, match=r"the LIC has the sizes .* but the base"):
        complement.complement(lic, TCM(**SIZES), photos, 128, 0)
