"""Building blocks of TCM: window attention, the conv-transformer block and SWAtten.

Liu et al., *Learned Image Compression with Mixed Transformer-CNN Architectures*
(CVPR 2023), Sections 3.2 and 3.3.  Module and parameter names are those of the
published checkpoints, so that their state dicts load unchanged.

Feature maps are (B, C, H, W) outside this file.  Inside the transformer blocks they
are (B, H, W, C), because LayerNorm and the linear maps act on the last axis.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from compressai.layers import AttentionBlock, ResidualBlock, conv1x1
from torch import Tensor, nn


@lru_cache(maxsize=64)
def shift_mask(rows: int, cols: int, window: int, device: torch.device) -> Tensor:
    """Which pairs of pixels may attend to each other after a cyclic shift by half a window.

    The shift brings pixels from opposite borders of the image into the last row and the
    last column of windows; there, only pixels from the same side may see each other.

    Args:
        rows, cols: number of windows down and across.
        window: side of a window, in latent pixels.

    Returns:
        (rows·cols, 1, window², window²) bool, True where attention is allowed.
    """
    side = torch.zeros(rows, cols, window, window, dtype=torch.long, device=device)
    side[-1, :, window // 2 :, :] += 1
    side[:, -1, :, window // 2 :] += 2
    side = side.reshape(rows * cols, 1, window * window)
    return (side.unsqueeze(-1) == side.unsqueeze(-2)).contiguous()


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows (W), or inside windows shifted by half (SW).

    Args:
        dim: channels in and out.
        head_dim: channels a head; must divide ``dim``.
        window: side of a window, in latent pixels.
        shifted: SW if True, W if False.
    """

    relative_index: Tensor

    def __init__(self, dim: int, head_dim: int, window: int, shifted: bool) -> None:
        super().__init__()
        if dim % head_dim:
            raise ValueError(f"head dim {head_dim} does not divide the {dim} attention channels")
        self.head_dim = head_dim
        self.window = window
        self.shift = window // 2 if shifted else 0
        self.embedding_layer = nn.Linear(dim, 3 * dim)
        self.relative_position_params = nn.Parameter(
            torch.empty(dim // head_dim, 2 * window - 1, 2 * window - 1)
        )
        nn.init.trunc_normal_(self.relative_position_params, std=0.02)
        self.linear = nn.Linear(dim, dim)

        place = torch.stack(
            torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij"), dim=-1
        ).reshape(-1, 2)
        relation = place[:, None] - place[None, :] + window - 1
        index = relation[..., 0] * (2 * window - 1) + relation[..., 1]
        # Not persistent: the published state dicts have no such key.
        self.register_buffer("relative_index", index, persistent=False)

    def attention_bias(self, rows: int, cols: int) -> Tensor:
        """Relative position bias, minus infinity where the shift forbids attention.

        Returns:
            (1, heads, window², window²), or (rows·cols, heads, window², window²) if shifted.
        """
        bias = self.relative_position_params.flatten(1)[:, self.relative_index].unsqueeze(0)
        if self.shift:
            allowed = shift_mask(rows, cols, self.window, bias.device)
            bias = bias.masked_fill(~allowed, float("-inf"))
        return bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) → (B, H, W, C); H and W must be multiples of the window."""
        batch, height, width, dim = x.shape
        p = self.window
        if height % p or width % p:
            raise ValueError(
                f"a feature map of {height}×{width} cannot be cut into {p}×{p} windows: "
                "pad the image to the codec's multiple first (sic.images.pad)"
            )
        rows, cols = height // p, width // p
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        x = x.reshape(batch, rows, p, cols, p, dim).transpose(2, 3)
        x = x.reshape(batch, rows * cols, p * p, dim)

        qkv = self.embedding_layer(x).unflatten(-1, (3, -1, self.head_dim))
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)  # each (B, windows, heads, window², head_dim)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=self.attention_bias(rows, cols))
        x = self.linear(x.transpose(2, 3).flatten(-2))

        x = x.reshape(batch, rows, cols, p, p, dim).transpose(2, 3)
        x = x.reshape(batch, height, width, dim)
        if self.shift:
            x = x.roll((self.shift, self.shift), dims=(1, 2))
        return x


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: attention, then a four times wider MLP, both residual."""

    def __init__(self, dim: int, head_dim: int, window: int, shifted: bool) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(dim)
        self.msa = WindowAttention(dim, head_dim, window, shifted)
        self.ln2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) → (B, H, W, C)."""
        x = x + self.msa(self.ln1(x))
        return x + self.mlp(self.ln2(x))


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
        self.conv_block = ResidualBlock(dim, dim)
        self.trans_block = TransformerBlock(dim, head_dim, window, shifted)
        self.conv1_2 = conv1x1(2 * dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 2N, H, W) → (B, 2N, H, W)."""
        conv_x, trans_x = self.conv1_1(x).chunk(2, dim=1)
        # CompressAI's ResidualBlock has a skip of its own; the published block adds a second.
        conv_x = self.conv_block(conv_x) + conv_x
        trans_x = self.trans_block(trans_x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + self.conv1_2(torch.cat((conv_x, trans_x), dim=1))


class SwinPair(nn.Module):
    """A W block, then an SW block, on (B, C, H, W) feature maps."""

    def __init__(self, dim: int, head_dim: int, window: int) -> None:
        super().__init__()
        self.block_1 = TransformerBlock(dim, head_dim, window, shifted=False)
        self.block_2 = TransformerBlock(dim, head_dim, window, shifted=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        return self.block_2(self.block_1(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class SWAtten(AttentionBlock):
    """Swin-transformer attention module of the slice networks (TCM, Section 3.3).

    A gate σ(b) on CompressAI's attention block, whose non-local part is a W and an SW block,
    computed at ``inner`` channels between two 1×1 convolutions.

    Args:
        dim: channels in and out.
        inner: channels inside.
    """

    def __init__(self, dim: int, inner: int, head_dim: int, window: int) -> None:
        super().__init__(inner)
        self.non_local_block = SwinPair(inner, head_dim, window)
        self.in_conv = conv1x1(dim, inner)
        self.out_conv = conv1x1(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        x = self.in_conv(x)
        gate = torch.sigmoid(self.conv_b(self.non_local_block(x)))
        return self.out_conv(x + self.conv_a(x) * gate)
