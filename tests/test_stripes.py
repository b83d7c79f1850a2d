"""Pictures in stripes come out as they would whole, and a shorter reach would leave seams."""

import pytest
import torch
from reference_weights import fill
from small import SIZES, astronaut

from sic.codec import fast
from sic.codec.tcm import TCM


@pytest.fixture(scope="module")
def codec() -> TCM:
    return fill(TCM(**SIZES).eval(), "icm").double().requires_grad_(False)


@pytest.fixture
def small_stripes(monkeypatch):
    """Stripes of eight rows of the latent of a picture 128 pixels wide."""
    monkeypatch.setattr(fast, "WHOLE", 0)
    monkeypatch.setattr(fast, "STRIPE", 128 * 128)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return (a - b).abs().max().item()


@pytest.mark.usefixtures("small_stripes")
def test_the_latent_in_stripes_is_that_of_the_whole_picture(codec, monkeypatch):
    x = astronaut(512, 128)
    y = codec.g_a(x)
    heights = []
    hook = codec.g_a.register_forward_pre_hook(lambda _, given: heights.append(given[0].shape[2]))
    assert difference(fast.analyse(codec.g_a, x), y) < 1e-11
    hook.remove()
    assert heights == [256, 384, 384, 256], "four stripes of 128 rows, with 128 around"
    monkeypatch.setattr(fast, "ANALYSIS_REACH", 4)
    assert difference(fast.analyse(codec.g_a, x), y) > 1e-6


@pytest.mark.usefixtures("small_stripes")
def test_the_picture_in_stripes_is_that_of_the_whole_latent(codec, monkeypatch):
    y_hat = codec.g_a(astronaut(512, 128)).round()
    x_hat = codec.g_s(y_hat)
    assert difference(fast.synthesise(codec.g_s, y_hat), x_hat) < 1e-11
    monkeypatch.setattr(fast, "SYNTHESIS_REACH", 8)
    assert difference(fast.synthesise(codec.g_s, y_hat), x_hat) > 1e-6


@pytest.mark.usefixtures("small_stripes")
def test_float32_differs_by_rounding_alone(codec):
    single = fill(TCM(**SIZES).eval(), "icm").requires_grad_(False)
    x = astronaut(384, 128).float()
    y = single.g_a(x)
    assert difference(fast.analyse(single.g_a, x), y) < 1e-5 * y.abs().max()
    x_hat = single.g_s(y)
    assert difference(fast.synthesise(single.g_s, y), x_hat) < 1e-5 * x_hat.abs().max()


def test_pictures_of_common_sizes_are_not_cut(codec):
    seen = []
    fast.analyse(lambda x: seen.append(x.shape) or x, torch.empty(1, 3, 2048, 2048))
    assert seen == [(1, 3, 2048, 2048)]
