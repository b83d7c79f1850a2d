"""Self-attention inside windows, and the order of pixels that it works in.

Liu et al., *Learned Image Compression with Mixed Transformer-CNN Architectures* (CVPR 2023),
Section 3.2.  Which pixel stands in which window, and which windows need a mask, depends on the
size of the feature map alone: it is worked out once and kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

#: Entries of attention matrices that are kept for the backward pass, or held in it at a time.
MATRIX_ENTRIES = 2**22

#: Number of windows that share an attention bias, and the bias; for windows in that order.
Kinds = Sequence[tuple[int, Tensor]]


@dataclass(frozen=True)
class Windows:
    """Pixels of a batch of feature maps, ordered by window.

    Windows that need the same mask stand together, so that attention runs once for each kind.

    Args:
        order: (B·H·W,) place of each token in the rasters, window after window.
        back: the inverse of ``order``.
        kinds: number of windows of each kind, and the pairs of tokens that may attend to each
            other, (window², window²) bool; None: all of them.
    """

    order: Tensor
    back: Tensor
    kinds: tuple[tuple[int, Tensor | None], ...]


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept serves training, too
def windows(
    batch: int, height: int, width: int, window: int, shift: int, device: torch.device
) -> Windows:
    """Cut (B, H, W) into windows after a cyclic shift of rows and columns.

    The shift brings pixels from opposite borders of the image into the last row and the last
    column of windows; there, only pixels from the same side may see each other.

    Args:
        batch, height, width: of the feature maps; H and W are multiples of the window.
        window: side of a window, in latent pixels.
        shift: rows and columns by which everything moves up and left; 0 or half a window.
        device: where the tensors go.
    """
    place = torch.arange(batch * height * width).reshape(batch, height, width)
    place = place.roll((-shift, -shift), dims=(1, 2))
    rows, cols = height // window, width // window
    place = place.reshape(batch, rows, window, cols, window).transpose(2, 3)
    place = place.reshape(batch, rows, cols, window**2)
    if shift:
        # Interior, bottom row, right column, corner.
        parts = [place[:, a, b].reshape(-1) for a in (_ALL, _LAST) for b in (_ALL, _LAST)]
    else:
        parts = [place.reshape(-1)]
    side = torch.arange(window) >= window - shift
    upper = side[:, None].expand(window, window).reshape(-1)
    left = side[None, :].expand(window, window).reshape(-1)
    same_rows, same_cols = upper[:, None] == upper, left[:, None] == left
    masks = (None, same_cols.to(device), same_rows.to(device), (same_rows & same_cols).to(device))
    kinds = tuple(
        (len(part) // window**2, mask)
        for part, mask in zip(parts, masks, strict=False)
        if len(part)
    )
    order = torch.cat(parts)
    return Windows(order.to(device), order.argsort().to(device), kinds)


_ALL, _LAST = slice(None, -1), slice(-1, None)


class _Permuted(torch.autograd.Function):
    """Rows of x in another order; the gradient takes the way back instead of adding up."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return x.index_select(0, order)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (back,) = ctx.saved_tensors
        return grad.index_select(0, back), None, None


def permuted(x: Tensor, order: Tensor, back: Tensor) -> Tensor:
    """Rows of x (rows, C) in the order ``order``, whose inverse is ``back``."""
    out: Tensor = _Permuted.apply(x, order, back)
    return out


class _Attention(torch.autograd.Function):
    """Scaled dot-product attention with a bias that is trained, on the CPU.

    PyTorch's fused kernel for CPUs gives no gradient of the bias, and its other one keeps all
    matrices.  Here the backward pass computes them again, a few windows at a time.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        ctx.save_for_backward(q, k, v, bias, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        q, k, v, bias, out = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        grad_bias = torch.zeros_like(bias)
        step = max(MATRIX_ENTRIES // bias[0].numel(), 1)
        for first in range(0, len(q), step):
            part = slice(first, first + step)
            q_, k_, v_, g = (t[part].contiguous() for t in (q, k, v, grad))
            p = torch.softmax((q_ * scale) @ k_.mT + bias, dim=-1)
            grads[2][part] = p.mT @ g
            row = (g * out[part]).sum(-1, keepdim=True)
            grad_s = (g @ v_.mT).sub_(row).mul_(p)
            grads[0][part] = (grad_s @ k_).mul_(scale)
            grads[1][part] = (grad_s.mT @ q_).mul_(scale)
            grad_bias += grad_s.sum(0, keepdim=True)
        return *grads, grad_bias


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q kᵀ / √c + bias) v.

    Args:
        q, k, v: (windows, heads, window², c).
        bias: (1, heads, window², window²); minus infinity forbids.

    Returns:
        (windows, heads, window², c).
    """
    bias = bias.to(q.dtype)
    if q.device.type == "cpu" and bias.requires_grad:
        if len(q) * bias[0].numel() > MATRIX_ENTRIES:
            out: Tensor = _Attention.apply(q, k, v, bias)
            return out
        # Small matrices are kept: to compute them again takes a sixth of a small codec's step.
        return torch.softmax((q * q.shape[-1] ** -0.5) @ k.mT + bias, dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


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

    def cut(self, batch: int, height: int, width: int, device: torch.device) -> Windows:
        """The windows of (B, H, W) feature maps.

        Raises:
            ValueError: if H or W is no multiple of the window.
        """
        p = self.window
        if height % p or width % p:
            raise ValueError(
                f"a feature map of {height}×{width} cannot be cut into {p}×{p} windows: "
                "pad the image to the codec's multiple first (sic.images.pad)"
            )
        return windows(batch, height, width, p, self.shift, device)

    def attention_bias(self, allowed: Tensor | None) -> Tensor:
        """Relative position bias (1, heads, window², window²), minus infinity where forbidden."""
        bias = self.relative_position_params.flatten(1)[:, self.relative_index].unsqueeze(0)
        return bias if allowed is None else bias.masked_fill(~allowed, float("-inf"))

    def forward(self, tokens: Tensor, kinds: Kinds) -> Tensor:
        """Attention inside windows.

        Args:
            tokens: (windows, window², C), windows of one kind after those of another.
            kinds: number of windows of each kind, and their :meth:`attention_bias`.

        Returns:
            (windows, window², C).
        """
        qkv = self.embedding_layer(tokens).unflatten(-1, (3, -1, self.head_dim))
        counts = [count for count, _ in kinds]
        of_kind = (part.transpose(1, 2).split(counts) for part in qkv.unbind(2))
        parts = [attend(q, k, v, bias) for q, k, v, (_, bias) in zip(*of_kind, kinds, strict=True)]
        x = torch.cat(parts) if len(parts) > 1 else parts[0]
        out: Tensor = self.linear(x.transpose(1, 2).flatten(-2))
        return out
