"""What makes the layers quick and leaves their equations alone: helpers, each with its reason.

Where gradients are asked for, all of them are plain PyTorch, which differentiates them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Tokens that a transformer block works on at a time when no gradient is asked for.
TOKENS = 4096
#: Pixels of a feature map that Winograd's algorithm works on at a time; it needs 3.6 times their
#: memory for the transformed input, and as much for the output.
WINOGRAD_PIXELS = 2**14
#: Channels and pixels from which on it pays: it begins by transforming the weights.
WINOGRAD_CHANNELS = 64
WINOGRAD_LEAST = 2**10

#: Number of windows that share an attention bias, and that bias; for windows in that order.
Kinds = Sequence[tuple[int, Tensor]]


@dataclass(frozen=True)
class Windows:
    """The windows of a batch of feature maps; those that need the same mask stand together.

    Only the last row and column of shifted windows need a mask; sorted so, attention runs once for
    each mask.  ``order`` (B·H·W,) is the place of each token in the rasters, window after window,
    and ``back`` undoes it.  ``kinds`` has the number of windows of each kind and the pairs of
    tokens that may attend to each other, (window², window²) bool, or None for all of them."""

    window: int
    order: Tensor
    back: Tensor
    kinds: tuple[tuple[int, Tensor | None], ...]

    def cut(self, x: Tensor) -> Tensor:
        """Tokens (B, H, W, C) → (windows, window², C)."""
        return x.flatten(0, 2).index_select(0, self.order).unflatten(0, (-1, self.window**2))

    def join(self, x: Tensor, like: Tensor) -> Tensor:
        """Tokens (windows, window², C) → (B, H, W, C), with B, H, W of ``like``."""
        return x.flatten(0, 1).index_select(0, self.back).unflatten(0, like.shape[:3])


def windows_of(x: Tensor, window: int, shift: int) -> Windows:
    """The windows of tokens x (B, H, W, C) after everything has moved up and left by ``shift``; a
    ValueError tells that H or W is no multiple of the window."""
    batch, height, width, _ = x.shape
    if height % window or width % window:
        raise ValueError(
            f"a feature map of {height}×{width} cannot be cut into {window}×{window} windows: "
            "pad the image to the codec's multiple first (sic.images.pad)"
        )
    return windows(batch, height, width, window, shift, x.device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept serves training, too
def windows(
    batch: int, height: int, width: int, window: int, shift: int, device: torch.device
) -> Windows:
    """:func:`windows_of` a size, kept.  A shift brings pixels from opposite borders into the last
    row and column of windows, where only pixels from the same side may see each other."""
    place = torch.arange(batch * height * width).reshape(batch, height, width)
    place = place.roll((-shift, -shift), dims=(1, 2))
    rows, cols = height // window, width // window
    place = place.reshape(batch, rows, window, cols, window).transpose(2, 3)
    place = place.reshape(batch, rows, cols, window**2)
    if shift:
        inside, last = slice(None, -1), slice(-1, None)
        # Interior, right column, bottom row, corner.
        parts = [place[:, a, b].reshape(-1) for a in (inside, last) for b in (inside, last)]
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
    return Windows(window, order.to(device), order.argsort().to(device), kinds)


def attend(q: Tensor, k: Tensor, v: Tensor, kinds: Kinds) -> Tensor:
    """softmax(q kᵀ / √c + bias) v in each window, kind after kind; q, k, v and what comes back are
    (windows, heads, window², c), the biases (1, heads, window², window²)."""
    counts = [count for count, _ in kinds]
    of_kind = zip(*(part.split(counts) for part in (q, k, v)), kinds, strict=True)
    parts = [_attend(q, k, v, bias.to(q.dtype)) for q, k, v, (_, bias) in of_kind]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    if q.device.type == "cpu" and bias.requires_grad:
        # PyTorch's fused kernel for CPUs gives no gradient of the bias.
        return torch.softmax((q * q.shape[-1] ** -0.5) @ k.mT + bias, dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def few_at_a_time(block: Callable[[Tensor, Kinds], Tensor], x: Tensor, kinds: Kinds) -> Tensor:
    """``block(x, kinds)``; without gradients for :data:`TOKENS` at a time, to save memory.  It maps
    windows (windows, window², C) to windows, none of which sees another."""
    if torch.is_grad_enabled():
        return block(x, kinds)
    step = max(TOKENS // x.shape[1], 1)
    ends = list(accumulate(count for count, _ in kinds))
    out = x
    for first, part in zip(range(0, len(x), step), x.split(step), strict=True):
        shares = (
            (min(end, first + step) - max(end - count, first), bias)
            for end, (count, bias) in zip(ends, kinds, strict=True)
        )
        done = block(part, [(count, bias) for count, bias in shares if count > 0])
        if first == 0:
            out = done.new_empty(x.shape)
        out[first : first + step] = done
    return out


def pointwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """1×1 convolution (B, C, H, W) → (B, K, H, W) as the matrix product that it is, of a weight
    (K, C) or (K, C, 1, 1) and a bias (K,)."""
    matrix = weight.flatten(1).expand(len(x), -1, -1)
    return torch.baddbmm(bias[:, None], matrix, x.flatten(2)).unflatten(2, x.shape[2:])


def map_and_tokens(layer: nn.Conv2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """Both halves of ``layer(x)``, a 1×1 convolution of (B, C, H, W): a feature map (B, N, H, W),
    and tokens (B, H, W, N), which are never laid out as a map."""
    assert layer.bias is not None
    to_map, to_tokens = layer.weight.flatten(1).chunk(2)
    bias_map, bias_tokens = layer.bias.chunk(2)
    features = pointwise(x, to_map, bias_map)
    turned = to_tokens.T.expand(len(x), -1, -1)
    tokens = torch.baddbmm(bias_tokens, x.flatten(2).mT, turned)
    return features, tokens.unflatten(1, x.shape[2:])


def merged(layer: nn.Conv2d, features: Tensor, tokens: Tensor, plus: Tensor) -> Tensor:
    """``plus`` (B, C, H, W) + ``layer``, a 1×1 convolution, of a feature map (B, N, H, W) and
    tokens (B, H, W, N), which are never put side by side."""
    assert layer.bias is not None
    from_map, from_tokens = (
        half.expand(len(plus), -1, -1) for half in layer.weight.flatten(1).chunk(2, dim=1)
    )
    out = torch.baddbmm(plus.flatten(2), from_map, features.flatten(2))
    if in_inference(plus):
        # Not baddbmm_, which sic.codec.complexity would not see.
        torch.baddbmm(out, from_tokens, tokens.flatten(1, 2).mT, out=out).add_(layer.bias[:, None])
        return out.unflatten(2, plus.shape[2:])
    out = torch.baddbmm(out, from_tokens, tokens.flatten(1, 2).mT)
    return (out + layer.bias[:, None]).unflatten(2, plus.shape[2:])


def in_inference(x: Tensor) -> bool:
    """Whether x is on the CPU, no gradient is asked for, and autocast decides no dtypes.  A layer
    may then overwrite the maps that it made itself, which saves memory and changes no bit."""
    free = not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    return x.device.type == "cpu" and free


def winograd_applies(x: Tensor, weight: Tensor) -> bool:
    """Whether a 3×3 convolution of stride 1 runs by Winograd's algorithm, in a third of the time:
    in float32 and without gradients, where PyTorch has NNPACK (x86-64 and ARM).  Its results differ
    by a few times what rounding to float32 does."""
    return (
        in_inference(x)
        and x.dtype == weight.dtype == torch.float32
        and min(weight.shape[:2]) >= WINOGRAD_CHANNELS
        and x.shape[2] * x.shape[3] >= WINOGRAD_LEAST
        and torch._nnpack_available()
    )


def winograd(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """3×3 convolution (B, C, H, W) → (B, K, H, W) with zeros around x, some rows at a time."""
    x, weight = x.contiguous(), weight.contiguous()  # NNPACK takes bare pointers
    batch, _, height, width = x.shape
    strips = -(-height * width // WINOGRAD_PIXELS)
    rows = -(-height // strips // 6) * 6  # its tiles are 6×6
    if batch == 1 and height <= rows:
        return torch._nnpack_spatial_convolution(x, weight, bias, [1, 1])
    out = x.new_empty(batch, len(weight), height, width)
    for image, target in zip(x.split(1), out.split(1), strict=True):
        for top in range(0, height, rows):
            first, last = max(top - 1, 0), min(top + rows + 1, height)
            strip = image[:, :, first:last].contiguous()
            done = torch._nnpack_spatial_convolution(strip, weight, bias, [1, 1])
            end = min(top + rows, height)
            target[:, :, top:end] = done[:, :, top - first : end - first]
    return out


# Pictures too large for memory are transformed a stripe of rows at a time, with no seam.  What g_a
# and g_s make of a place depends on a finite part of the picture: convolutions reach a pixel or
# two, windows of attention up to their own border.  A stripe computed with that many rows around it
# comes out as inside the whole picture, but for the order in which floats are added up.

#: Pixels up to which a picture is transformed as a whole, and of a stripe of a larger one: at
#: N = 128 either needs about 5 GB.
WHOLE = 2**22
STRIPE = 2**21

#: Rows of the latent, 16 pixels each, that one row depends on at either side, rounded up to whole
#: windows (8 rows of the third stage, which has two for each of the latent).  Going through the
#: stages, what a cut has spoilt grows by the reach of the convolutions, and in blocks of attention
#: to the border of the window that it lies in: g_a from 0 to 12 rows of stages 1, 2 and 3, and to
#: 7 of the latent; g_s to 12, 36 and 84 rows of its three stages, and to 170 of the picture.
ANALYSIS_REACH = 8
SYNTHESIS_REACH = 12
PIXELS_A_ROW = 16


def analyse(g_a: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """g_a(x) without gradients: (B, 3, H, W), H and W multiples of 128, → (B, M, H/16, W/16)."""
    return _striped(g_a, x, PIXELS_A_ROW, ANALYSIS_REACH)


def synthesise(g_s: Callable[[Tensor], Tensor], y_hat: Tensor) -> Tensor:
    """g_s(ŷ) without gradients: (B, M, H/16, W/16) → (B, 3, H, W), unclamped."""
    return _striped(g_s, y_hat, 1, SYNTHESIS_REACH)


@torch.no_grad()
def _striped(transform: Callable[[Tensor], Tensor], x: Tensor, per_row: int, reach: int) -> Tensor:
    """``transform(x)``, where x has ``per_row`` rows for each of the latent."""
    batch, _, height, width = x.shape
    rows = height // per_row
    pixels = batch * PIXELS_A_ROW**2 * (width // per_row)  # of a row of the latent
    if rows * pixels <= WHOLE:
        return transform(x)
    step = max(STRIPE // pixels // 4, 1) * 4  # whole windows
    parts = []
    for top in range(0, rows, step):
        bottom = min(top + step, rows)
        first, last = max(top - reach, 0), min(bottom + reach, rows)
        part = transform(x[:, :, first * per_row : last * per_row])
        made = part.shape[2] // (last - first)  # rows that it makes of one of the latent
        parts.append(part[:, :, (top - first) * made : (bottom - first) * made].clone())
    return torch.cat(parts, dim=2)
