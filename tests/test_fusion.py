"""Feature fusion, (4)–(8)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference_weights import fill
from small import SIZES, astronaut

from sic.codec.fusion import AdditionalCodec, fuse


@given(m=st.integers(1, 5), seed=st.integers(0, 100))
def test_fusion_adds_to_the_first_m_slices_and_keeps_the_others(m: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    y_hat = torch.randn(2, 5 * 4, 3, 3, generator=generator)
    ya_hat = torch.randn(2, m * 4, 3, 3, generator=generator)
    before = y_hat.clone()
    fused = fuse(y_hat, ya_hat)
    for k in range(5):
        part = slice(4 * k, 4 * k + 4)
        expected = before[:, part] + ya_hat[:, part] if k < m else before[:, part]  # (6), (7)
        assert torch.equal(fused[:, part], expected)
    assert torch.equal(y_hat, before), "the base's latent was changed"


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
def test_additional_codec_decodes_the_fused_latent(m: int) -> None:
    codec = fill(AdditionalCodec(m, **SIZES).eval(), f"ica{m}").double()
    x, y_hat_base = astronaut(128, 128), torch.randn(1, 40, 8, 8, dtype=torch.float64)
    with torch.inference_mode():
        output = codec(x, y_hat_base)
        assert output["ya_hat"].shape == (1, 8 * m, 8, 8)
        assert torch.equal(output["y_hat"], fuse(y_hat_base, output["ya_hat"]))
        assert torch.equal(output["x_hat"], codec.g_s(output["y_hat"]))  # (8)
        again = codec(x, y_hat_base)
    assert torch.equal(output["x_hat"], again["x_hat"]), "a second call gave another picture"


@pytest.mark.parametrize("m", [0, 6])
def test_m_out_of_range_is_refused(m: int) -> None:
    with pytest.raises(ValueError, match=f"m={m} must lie between 1 and num_slices=5"):
        AdditionalCodec(m)
