"""Blocks of the codec against their plain formulation and CompressAI's, in value and gradient."""

import compressai.layers as published
import plain
import pytest
import torch
from torch import nn

from sic.codec import fast
from sic.codec.convolutions import (
    GDN,
    Conv3x3,
    PixelShuffle,
    ResidualBlock,
    ResidualBlockUpsample,
    ResidualBlockWithStride,
)
from sic.codec.fast import windows
from sic.codec.layers import ConvTransBlock, SWAtten, TransformerBlock

CPU = torch.device("cpu")


def double(module: nn.Module) -> nn.Module:
    """With weights far from their initial zeros and ones."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    return module.double()


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(8, 12), (4, 8), (4, 4)])
def test_window_attention_is_the_plain_formula(shifted, size, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(fast, "TOKENS", 32)  # two windows at a time
    block = double(TransformerBlock(dim=12, head_dim=4, window=4, shifted=shifted))
    x = torch.randn(2, *size, 12, dtype=torch.float64)
    wanted = plain.transformer(block, x)
    for mode in (torch.no_grad, torch.enable_grad):
        with mode():
            torch.testing.assert_close(block(x), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (1, 3), (3, 4)])
def test_only_the_last_row_and_column_of_windows_are_masked(rows, cols):
    cut = windows(2, 8 * rows, 8 * cols, 8, 4, CPU)
    number = {None: 2 * (rows - 1) * (cols - 1)}
    seen = {1.0: 0.0, 0.5: 0.0, 0.25: 0.0}
    for count, allowed in cut.kinds:
        seen[1.0 if allowed is None else allowed.float().mean().item()] += count
    # In the corner window four quarters are kept apart: each sees a quarter of the pixels.
    assert seen == {1.0: number[None], 0.5: 2 * (rows + cols - 2), 0.25: 2}


def test_the_order_of_windows_has_a_way_back():
    cut = windows(2, 16, 24, 8, 4, CPU)
    raster = torch.arange(2 * 16 * 24)
    assert torch.equal(raster[cut.order][cut.back], raster)
    assert len(cut.order) == len(raster)


def test_windows_first_met_in_inference_serve_training():
    windows.cache_clear()
    block = TransformerBlock(dim=8, head_dim=4, window=4, shifted=True)
    x = torch.randn(1, 8, 8, 8)
    with torch.inference_mode():
        block(x)
    block(x).sum().backward()


# ---- the same gradients ----------------------------------------------------------------------

BLOCKS = {
    "W": (lambda: ConvTransBlock(16, 8, 8, shifted=False), 32),
    "SW": (lambda: ConvTransBlock(16, 8, 8, shifted=True), 32),
    "SWAtten": (lambda: SWAtten(24, 16, 8, 8), 24),
    "down": (lambda: ResidualBlockWithStride(6, 8), 6),
    "up": (lambda: ResidualBlockUpsample(6, 8), 6),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_values_and_gradients_are_those_of_the_plain_path(name):
    torch.manual_seed(1)
    build, channels = BLOCKS[name]
    block = double(build())
    results = []
    for path in (block, lambda x: plain.through([block], x)):
        torch.manual_seed(2)
        x = torch.randn(2, channels, 16, 24, dtype=torch.float64, requires_grad=True)
        block.zero_grad()
        y = path(x)
        (y * torch.randn_like(y)).sum().backward()
        results.append([y.detach(), x.grad, *(p.grad.clone() for p in block.parameters())])
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", BLOCKS)
def test_in_inference_layers_overwrite_their_own_maps_alone_and_change_no_bit(name, monkeypatch):
    torch.manual_seed(1)
    build, channels = BLOCKS[name]
    block = double(build())
    x = torch.randn(2, channels, 16, 24, dtype=torch.float64)
    given = x.clone()
    with torch.inference_mode():
        found = block(x)
        assert torch.equal(x, given)
        monkeypatch.setattr(fast, "in_inference", lambda x: False)
        assert torch.equal(found, block(x))


@pytest.mark.parametrize("factor", [2, 3])
def test_pixels_are_shuffled_as_pytorch_does(factor):
    x = torch.arange(2 * 5 * factor**2 * 4 * 7.0).reshape(2, -1, 4, 7)
    assert torch.equal(PixelShuffle(factor)(x), torch.pixel_shuffle(x, factor))


# ---- Winograd --------------------------------------------------------------------------------


@pytest.mark.skipif(not torch._nnpack_available(), reason="PyTorch has no NNPACK here")
@pytest.mark.parametrize("pixels", [2**14, 500])  # whole, and in strips
@pytest.mark.parametrize("batch", [1, 2])
def test_winograd_is_the_convolution_whatever_the_layout(batch, pixels, monkeypatch):
    """NNPACK takes bare pointers: rows that are not plain would give other pixels."""
    monkeypatch.setattr(fast, "WINOGRAD_PIXELS", pixels)
    torch.manual_seed(0)
    layer = Conv3x3(64, 96).to(memory_format=torch.channels_last)
    every_other = torch.randn(batch, 128, 45, 37)[:, ::2]
    for x in (every_other, every_other.contiguous(memory_format=torch.channels_last)):
        with torch.no_grad():
            assert fast.winograd_applies(x, layer.weight)
            got, wanted = layer(x), plain.conv(layer, x)
        assert (got - wanted).abs().max() < 2e-5 * wanted.abs().max()


def test_gradients_do_not_depend_on_the_layout_of_the_picture():
    """Without a copy oneDNN writes past its memory: wrong gradients, a crash, or it never ends."""
    block, x = ResidualBlockWithStride(3, 32), torch.rand(2, 3, 64, 64)
    gradients = []
    for picture in (x, x.contiguous(memory_format=torch.channels_last)):
        block.zero_grad()
        block(picture).square().mean().backward()
        gradients.append([p.grad.clone() for p in block.parameters() if p.grad is not None])
    for alone, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, alone)


def test_winograd_is_for_inference_in_float32_on_the_cpu_and_large_maps():
    wide, weight = torch.zeros(1, 64, 32, 32), torch.zeros(64, 64, 3, 3)
    assert not fast.winograd_applies(wide, weight), "gradients may be asked for"
    with torch.no_grad():
        assert fast.winograd_applies(wide, weight) == torch._nnpack_available()
        assert not fast.winograd_applies(wide.double(), weight.double())
        assert not fast.winograd_applies(wide.to("meta"), weight)
        assert not fast.winograd_applies(wide[..., :31], weight)
        with torch.autocast("cpu", torch.bfloat16):
            assert not fast.winograd_applies(wide, weight)


# ---- CompressAI's layers ---------------------------------------------------------------------

PUBLISHED = {
    "block": (lambda: ResidualBlock(6), lambda: published.ResidualBlock(6, 6)),
    "down": (
        lambda: ResidualBlockWithStride(6, 8),
        lambda: published.ResidualBlockWithStride(6, 8),
    ),
    "up": (lambda: ResidualBlockUpsample(6, 8), lambda: published.ResidualBlockUpsample(6, 8)),
    "gdn": (lambda: GDN(6), lambda: published.GDN(6)),
    "inverse": (lambda: GDN(6, inverse=True), lambda: published.GDN(6, inverse=True)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_layer_is_compressais_from_the_same_seed(name):
    modules = []
    for build in PUBLISHED[name]:
        torch.manual_seed(0)
        modules.append(build())
    ours, theirs = modules
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    x = torch.randn(2, 6, 8, 8)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-6)
