"""Blocks of the codec against their plain formulation and CompressAI's, in value and gradient."""

import compressai.layers as published
import plain
import pytest
import torch
from torch import Tensor, nn

from sic.codec import attention, convolutions, layers
from sic.codec.attention import windows
from sic.codec.convolutions import (
    GDN,
    Conv3x3,
    ResidualBlock,
    ResidualBlockUpsample,
    ResidualBlockWithStride,
)
from sic.codec.layers import ConvTransBlock, SWAtten, TransformerBlock, as_tokens

CPU = torch.device("cpu")


def plain_attention(block: TransformerBlock, x: Tensor) -> Tensor:
    """Attention as written in the paper: explicit matrices, one window after the other."""
    layer = block.msa
    p, shift = layer.window, layer.shift
    batch, height, width, dim = x.shape
    heads = dim // layer.head_dim
    x = x.roll((-shift, -shift), dims=(1, 2))
    out = torch.empty_like(x)
    places = [(i, j) for i in range(p) for j in range(p)]
    for top in range(0, height, p):
        for left in range(0, width, p):
            tokens = x[:, top : top + p, left : left + p].reshape(batch, p * p, dim)
            q, k, v = layer.embedding_layer(tokens).chunk(3, dim=-1)
            rows = []
            for h in range(heads):
                part = slice(h * layer.head_dim, (h + 1) * layer.head_dim)
                sim = q[..., part] @ k[..., part].transpose(1, 2) * layer.head_dim**-0.5
                for a, (i, j) in enumerate(places):
                    for b, (r, s) in enumerate(places):
                        bias = layer.relative_position_params[h, i - r + p - 1, j - s + p - 1]
                        sim[:, a, b] += bias
                        # After the shift, the last windows hold pixels of two opposite borders.
                        torn_rows = top + p == height and (i >= p - shift) != (r >= p - shift)
                        torn_cols = left + p == width and (j >= p - shift) != (s >= p - shift)
                        if shift and (torn_rows or torn_cols):
                            sim[:, a, b] = float("-inf")
                rows.append(sim.softmax(-1) @ v[..., part])
            window = layer.linear(torch.cat(rows, dim=-1)).reshape(batch, p, p, dim)
            out[:, top : top + p, left : left + p] = window
    return out.roll((shift, shift), dims=(1, 2))


def double(module: nn.Module) -> nn.Module:
    """With weights far from their initial zeros and ones."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    return module.double()


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(8, 12), (4, 8), (4, 4)])
def test_window_attention_is_the_plain_formula(shifted, size, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(layers, "TOKENS", 32)  # two windows at a time
    block = double(TransformerBlock(dim=12, head_dim=4, window=4, shifted=shifted))
    x = torch.randn(2, *size, 12, dtype=torch.float64)
    tokens, *shape = as_tokens(x.permute(0, 3, 1, 2))
    with torch.no_grad():
        wanted = x + plain_attention(block, block.ln1(x))
        wanted = wanted + block.mlp(block.ln2(wanted))
        got = block(tokens, *shape).reshape(x.shape)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


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
    x = torch.randn(64, 8)
    with torch.inference_mode():
        block(x, 1, 8, 8)
    block(x, 1, 8, 8).sum().backward()


# ---- the same gradients ----------------------------------------------------------------------

BLOCKS = {
    "W": (lambda: ConvTransBlock(16, 8, 8, shifted=False), 32),
    "SW": (lambda: ConvTransBlock(16, 8, 8, shifted=True), 32),
    "SWAtten": (lambda: SWAtten(24, 16, 8, 8), 24),
    "down": (lambda: ResidualBlockWithStride(6, 8), 6),
    "up": (lambda: ResidualBlockUpsample(6, 8), 6),
}


@pytest.mark.parametrize("entries", [2**15, 2**22], ids=["computed again in pieces", "kept"])
@pytest.mark.parametrize("name", BLOCKS)
def test_values_and_gradients_are_those_of_the_plain_path(name, entries, monkeypatch):
    torch.manual_seed(1)
    monkeypatch.setattr(attention, "MATRIX_ENTRIES", entries)
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


# ---- Winograd --------------------------------------------------------------------------------


@pytest.mark.skipif(not torch._nnpack_available(), reason="PyTorch has no NNPACK here")
@pytest.mark.parametrize("pixels", [2**14, 500])  # whole, and in strips
def test_winograd_is_the_convolution_and_its_gradients(pixels, monkeypatch):
    monkeypatch.setattr(convolutions, "WINOGRAD_PIXELS", pixels)
    torch.manual_seed(0)
    layer = Conv3x3(64, 96)
    x = torch.randn(2, 64, 45, 37, requires_grad=True)
    assert convolutions.winograd_applies(x, layer.weight)
    results = []
    for path in (layer, lambda x: plain.conv(layer, x)):
        x.grad = None
        layer.zero_grad()
        y = path(x)
        y.square().sum().backward()
        results.append([y.detach(), x.grad, layer.weight.grad, layer.bias.grad])
    for got, wanted in zip(*results, strict=True):
        assert (got - wanted).abs().max() < 2e-5 * wanted.abs().max()


@pytest.mark.skipif(not torch._nnpack_available(), reason="PyTorch has no NNPACK here")
@pytest.mark.parametrize("batch", [1, 2])
def test_nnpack_is_given_plain_rows_whatever_the_layout(batch, monkeypatch):
    seen = []
    real = torch._nnpack_spatial_convolution

    def watched(x, weight, bias, padding):
        seen.append(x.is_contiguous() and weight.is_contiguous())
        return real(x, weight, bias, padding)

    monkeypatch.setattr(torch, "_nnpack_spatial_convolution", watched)
    torch.manual_seed(0)
    layer = Conv3x3(64, 64).to(memory_format=torch.channels_last)
    every_other = torch.randn(batch, 128, 36, 32)[:, ::2]
    for x in (every_other, every_other.contiguous(memory_format=torch.channels_last)):
        x = x.detach().requires_grad_()
        y = layer(x)
        y.square().sum().backward()
        wanted = plain.conv(layer, x)
        assert (y - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert len(seen) >= 4, "forward and backward of both"
    assert all(seen)


def test_winograd_is_for_float32_on_the_cpu_and_large_maps():
    wide, weight = torch.zeros(1, 64, 32, 32), torch.zeros(64, 64, 3, 3)
    assert not convolutions.winograd_applies(wide.double(), weight.double())
    assert not convolutions.winograd_applies(wide.to("meta"), weight)
    assert not convolutions.winograd_applies(wide[..., :31], weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert not convolutions.winograd_applies(wide, weight)


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
