"""Window attention against its plain formulation, and the shift mask against its meaning."""

import torch
from torch import Tensor

from sic.layers import WindowAttention, shift_mask


def plain_attention(layer: WindowAttention, x: Tensor) -> Tensor:
    """Attention as written in the paper: explicit matrices, one window after the other."""
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


def check(shifted: bool) -> None:
    torch.manual_seed(0)
    layer = WindowAttention(dim=12, head_dim=4, window=4, shifted=shifted).double()
    x = torch.randn(2, 12, 8, 12, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain_attention(layer, x), rtol=0, atol=1e-12)


def test_window_attention_is_the_plain_formula() -> None:
    check(shifted=False)


def test_shifted_window_attention_is_the_plain_formula() -> None:
    check(shifted=True)


def test_only_the_last_row_and_column_of_windows_are_masked() -> None:
    mask = shift_mask(3, 4, 8, torch.device("cpu")).reshape(3, 4, 64, 64)
    assert mask[:2, :3].all()
    assert not mask[2, 0].all()
    assert not mask[0, 3].all()
    # In the corner window four quarters are kept apart: each sees a quarter of the pixels.
    assert mask[2, 3].float().mean() == 0.25
