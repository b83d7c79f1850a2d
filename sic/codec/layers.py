"""Blocks with attention: the conv-transformer block of TCM, and SWAtten of its slice networks.

Liu et al., *Learned Image Compression with Mixed Transformer-CNN Architectures* (CVPR 2023),
Sections 3.2 and 3.3, with the published module and parameter names.  Feature maps are (B, C, H, W);
tokens are the same numbers as (B, H, W, C), as LayerNorm and linear maps act on the last axis.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sic.codec import fast
from sic.codec.convolutions import ResidualBlock, ResidualUnit, conv1x1


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows (W), or inside windows ``shifted`` by half (SW).

    In each head of c = ``head_dim`` channels, which must divide ``dim``, softmax(q kᵀ / √c + B) v;
    the trained bias B_ij depends on where token j lies as seen from token i.  A window has
    ``window``² latent pixels.
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
        place = torch.cartesian_prod(torch.arange(window), torch.arange(window))
        row, column = (place[:, None] - place[None, :] + window - 1).unbind(-1)
        # Not persistent: the published state dicts have no such key.
        index = row * (2 * window - 1) + column
        self.register_buffer("relative_index", index, persistent=False)

    def biases(self, allowed: Sequence[Tensor | None]) -> list[Tensor]:
        """B (1, heads, window², window²) for each mask, minus infinity for pairs of tokens that it
        does not allow."""
        bias = self.relative_position_params.flatten(1)[:, self.relative_index].unsqueeze(0)
        return [bias if mask is None else bias.masked_fill(~mask, -math.inf) for mask in allowed]

    def forward(self, x: Tensor, kinds: fast.Kinds) -> Tensor:
        """(windows, window², C) → (windows, window², C), windows of one kind after another:
        ``kinds`` are the number of windows of each, and its one of :meth:`biases`."""
        qkv = self.embedding_layer(x).unflatten(-1, (3, -1, self.head_dim))
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # (windows, heads, window², c)
        heads = fast.attend(q, k, v, kinds)
        return self.linear(heads.transpose(1, 2).flatten(-2))


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: z = x + MSA(LN(x)), then z + MLP(LN(z))."""

    def __init__(self, dim: int, head_dim: int, window: int, shifted: bool) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(dim)
        self.msa = WindowAttention(dim, head_dim, window, shifted)
        self.ln2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, H, W, C) → (B, H, W, C); H and W are multiples of the window."""
        windows = fast.windows_of(x, self.msa.window, self.msa.shift)
        counts, masks = zip(*windows.kinds, strict=True)
        kinds = list(zip(counts, self.msa.biases(masks), strict=True))
        out = fast.few_at_a_time(self.in_windows, windows.cut(x), kinds)
        return windows.join(out, like=x)

    def in_windows(self, x: Tensor, kinds: fast.Kinds) -> Tensor:
        """(windows, window², C) → (windows, window², C); ``kinds`` as in the attention."""
        z = x + self.msa(self.ln1(x), kinds)
        return z + self.mlp(self.ln2(z))


class ConvTransBlock(nn.Module):
    """TCM block: N = ``dim`` of 2N channels go through convolutions, N through attention.

    x ─ conv1_1 ─┬─ conv_block  (N) ─┬─ conv1_2 ─ + ─►
    │            └─ trans_block (N) ─┘            │
    └─────────────────────────────────────────────┘
    """

    def __init__(self, dim: int, head_dim: int, window: int, shifted: bool) -> None:
        super().__init__()
        self.conv1_1 = conv1x1(2 * dim, 2 * dim)
        self.conv_block = ResidualBlock(dim)
        self.trans_block = TransformerBlock(dim, head_dim, window, shifted)
        self.conv1_2 = conv1x1(2 * dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 2N, H, W) → (B, 2N, H, W)."""
        conv_x, trans_x = fast.map_and_tokens(self.conv1_1, x)
        # CompressAI's ResidualBlock has a skip of its own; the published block adds a second.
        conv_x = self.conv_block(conv_x) + conv_x
        trans_x = self.trans_block(trans_x)
        return fast.merged(self.conv1_2, conv_x, trans_x, plus=x)


class SwinPair(nn.Module):
    """A W block, then an SW block, on feature maps."""

    def __init__(self, dim: int, head_dim: int, window: int) -> None:
        super().__init__()
        self.block_1 = TransformerBlock(dim, head_dim, window, shifted=False)
        self.block_2 = TransformerBlock(dim, head_dim, window, shifted=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        tokens: Tensor = self.block_2(self.block_1(x.permute(0, 2, 3, 1)))
        return tokens.permute(0, 3, 1, 2)


class SWAtten(nn.Module):
    """SWAtten of the slice networks: x + a(x) ⊙ σ(b(SW(W(x)))), CompressAI's attention block with
    its gate from a W and an SW block, at ``inner`` channels between two 1×1 convolutions."""

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
        return self.out_conv(x + self.conv_a(x) * gate)
