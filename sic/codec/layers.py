"""Building blocks of TCM: the conv-transformer block and SWAtten.

Liu et al., *Learned Image Compression with Mixed Transformer-CNN Architectures*
(CVPR 2023), Sections 3.2 and 3.3.  Module and parameter names are those of the
published checkpoints, so that their state dicts load unchanged.

Feature maps are (B, C, H, W).  Inside the transformer blocks they are rows of tokens,
because LayerNorm and the linear maps act on the last axis.
"""

import torch
from torch import Tensor, nn

from sic.codec.attention import Kinds, WindowAttention, permuted
from sic.codec.convolutions import ResidualBlock, ResidualUnit, conv1x1, pointwise

#: Tokens that a transformer block works on at a time when no gradient is asked for.
TOKENS = 4096


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: attention, then a four times wider MLP, both residual."""

    def __init__(self, dim: int, head_dim: int, window: int, shifted: bool) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(dim)
        self.msa = WindowAttention(dim, head_dim, window, shifted)
        self.ln2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, batch: int, height: int, width: int) -> Tensor:
        """Tokens (B·H·W, C) in the order of the rasters → the same."""
        cut = self.msa.cut(batch, height, width, x.device)
        x = permuted(x, cut.order, cut.back).unflatten(0, (-1, self.msa.window**2))
        kinds = [(count, self.msa.attention_bias(allowed)) for count, allowed in cut.kinds]
        if torch.is_grad_enabled():
            out = self._windows(x, kinds)
        else:
            # Windows see nothing of each other: a few at a time take less memory.
            step = max(TOKENS // x.shape[1], 1)
            same = zip(x.split([count for count, _ in kinds]), kinds, strict=True)
            few = ((part, bias) for all_, (_, bias) in same for part in all_.split(step))
            out = torch.cat([self._windows(part, [(len(part), bias)]) for part, bias in few])
        return permuted(out.flatten(0, 1), cut.back, cut.order)

    def _windows(self, x: Tensor, kinds: Kinds) -> Tensor:
        """(windows, window², C) → the same."""
        x = x + self.msa(self.ln1(x), kinds)
        out: Tensor = x + self.mlp(self.ln2(x))
        return out


class ConvTransBlock(nn.Module):
    """TCM block: half of the channels through convolutions, half through attention.

        x ─ conv1_1 ─┬─ conv_block  (N) ─┬─ conv1_2 ─ + ─►
        │            └─ trans_block (N) ─┘            │
        └─────────────────────────────────────────────┘

    Args:
        dim: N, the channels of each half; the block maps 2N channels to 2N.
    """

    def __init__(self, dim: int, head_dim: int, window: int, shifted: bool) -> None:
        super().__init__()
        self.conv1_1 = conv1x1(2 * dim, 2 * dim)
        self.conv_block = ResidualBlock(dim)
        self.trans_block = TransformerBlock(dim, head_dim, window, shifted)
        self.conv1_2 = conv1x1(2 * dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 2N, H, W) → (B, 2N, H, W)."""
        batch, _, height, width = x.shape
        (to_conv, to_trans), (bias_conv, bias_trans) = halves(self.conv1_1, 0)
        conv_x = pointwise(x, to_conv, bias_conv)
        # The halves are never put together, nor tokens made into maps: matrix products read both.
        turned = to_trans.T.expand(batch, -1, -1)
        tokens = torch.baddbmm(bias_trans, x.flatten(2).mT, turned).flatten(0, 1)

        # CompressAI's ResidualBlock has a skip of its own; the published block adds a second.
        conv_x = self.conv_block(conv_x) + conv_x
        tokens = self.trans_block(tokens, batch, height, width).unflatten(0, (batch, -1))

        (from_conv, from_trans), (bias,) = halves(self.conv1_2, 1)
        out = torch.baddbmm(x.flatten(2), from_conv.expand(batch, -1, -1), conv_x.flatten(2))
        out = torch.baddbmm(out, from_trans.expand(batch, -1, -1), tokens.mT)
        return (out + bias[:, None]).unflatten(2, (height, width))


def halves(layer: nn.Conv2d, dim: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Weight (K, C) of a 1×1 convolution, cut in two along ``dim``, and the bias of each output."""
    assert layer.bias is not None
    bias = layer.bias.chunk(2) if dim == 0 else (layer.bias,)
    return layer.weight.flatten(1).chunk(2, dim), bias


def as_tokens(x: Tensor) -> tuple[Tensor, int, int, int]:
    """(B, C, H, W) → tokens (B·H·W, C), B, H, W."""
    batch, _, height, width = x.shape
    return x.permute(0, 2, 3, 1).flatten(0, 2), batch, height, width


def as_map(tokens: Tensor, like: Tensor) -> Tensor:
    """Tokens (B·H·W, C) → (B, C, H, W), with B, H, W of ``like``."""
    batch, _, height, width = like.shape
    return tokens.unflatten(0, (batch, height, width)).permute(0, 3, 1, 2)


class SwinPair(nn.Module):
    """A W block, then an SW block, on (B, C, H, W) feature maps."""

    def __init__(self, dim: int, head_dim: int, window: int) -> None:
        super().__init__()
        self.block_1 = TransformerBlock(dim, head_dim, window, shifted=False)
        self.block_2 = TransformerBlock(dim, head_dim, window, shifted=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        tokens, *size = as_tokens(x)
        return as_map(self.block_2(self.block_1(tokens, *size), *size), x)


class SWAtten(nn.Module):
    """Swin-transformer attention module of the slice networks (TCM, Section 3.3).

    CompressAI's attention block, whose gate σ(b) comes from a W and an SW block, computed at
    ``inner`` channels between two 1×1 convolutions.

    Args:
        dim: channels in and out.
        inner: channels inside.
    """

    def __init__(self, dim: int, inner: int, head_dim: int, window: int) -> None:
        super().__init__()
        self.conv_a = nn.Sequential(*(ResidualUnit(inner) for _ in range(3)))
        units = (ResidualUnit(inner) for _ in range(3))
        self.conv_b = nn.Sequential(*units, conv1x1(inner, inner))
        self.non_local_block = SwinPair(inner, head_dim, window)
        self.in_conv = conv1x1(dim, inner)
        self.out_conv = conv1x1(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        x = self.in_conv(x)
        gate = torch.sigmoid(self.conv_b(self.non_local_block(x)))
        out: Tensor = self.out_conv(x + self.conv_a(x) * gate)
        return out
