"""Transforms of pictures too large for memory: a stripe of rows at a time, with no seam.

What g_a and g_s make of a place depends on a finite part of the picture: convolutions reach a
pixel or two, windows of attention up to their own border.  A stripe that is computed with that
many rows around it comes out as it would inside the whole picture, but for the order in which
floats are added up.
"""

from collections.abc import Callable

import torch
from torch import Tensor

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
