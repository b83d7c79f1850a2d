"""Feature fusion, (4)–(8)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference_weights import fill
from small import SIZES, astronaut

from sic.codec.fusion import AdditionalCodec, fuse
from sic.codec.loss import additional_loss
from sic.codec.tcm import TCM


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


# ---- feature residual ----


@pytest.mark.parametrize("m", [1, 3, 5])
@pytest.mark.parametrize("condition", [False, True])
def test_feature_residual_by_hand(m: int, condition: bool) -> None:
    """ya_k = y_k − ŷ_k is coded, what is decoded of it added to ŷ_k, and with the condition the
    entropy model's first guesses are h_mean_s(ẑ) + c_mean(ŷ) and h_scale_s(ẑ) + c_scale(ŷ)."""
    empty = AdditionalCodec(m, **SIZES, residual="feature", condition=condition)
    codec = fill(empty.eval(), f"fr{m}").double()
    x, y_hat = astronaut(128, 128), torch.randn(1, 40, 8, 8, dtype=torch.float64)
    added = 8 * m
    with torch.inference_mode():
        output = codec(x, y_hat)
        ya = codec.g_a(x) - y_hat[:, :added]
        medians = codec.entropy_bottleneck.medians.reshape(1, -1, 1, 1)
        z_hat = torch.round(codec.h_a(ya) - medians) + medians
        means, scales = codec.h_mean_s(z_hat), codec.h_scale_s(z_hat)
        if condition:
            means = means + codec.condition_mean(y_hat)
            scales = scales + codec.condition_scale(y_hat)
        decoded: list[torch.Tensor] = []
        for k in range(m):
            mu, _, support = codec.slice_parameters(k, means, scales, decoded)
            q = torch.round(ya[:, 8 * k : 8 * k + 8] - mu)
            decoded.append(q + mu + codec.latent_residual(k, support, q + mu))
        fused = torch.cat((y_hat[:, :added] + torch.cat(decoded, dim=1), y_hat[:, added:]), dim=1)
        assert torch.equal(output["y_hat"], fused)
        assert torch.equal(output["x_hat"], codec.g_s(fused))


def test_an_untrained_condition_changes_nothing() -> None:
    torch.manual_seed(1)
    plain = AdditionalCodec(3, **SIZES, residual="feature").eval()
    conditional = AdditionalCodec(3, **SIZES, residual="feature", condition=True).eval()
    conditional.start_from(plain)
    x, y_hat = astronaut(128, 128).float(), torch.randn(1, 40, 8, 8)
    with torch.inference_mode():
        one, other = plain(x, y_hat), conditional(x, y_hat)
    assert torch.equal(one["x_hat"], other["x_hat"])
    for part in ("y", "z"):
        assert torch.equal(one["likelihoods"][part], other["likelihoods"][part])


def test_the_condition_learns() -> None:
    codec = AdditionalCodec(2, **SIZES, residual="feature", condition=True)
    optimiser = torch.optim.SGD(codec.parameters(), lr=1e-3)
    loss = additional_loss(TCM(**SIZES), 0.01)
    x = astronaut(128, 128).float()
    for _ in range(2):  # at first the last layers, which are 0, hide the others from the gradient
        optimiser.zero_grad()
        loss(codec, x, torch.ones(1, 1, 128, 128)).total.backward()
        optimiser.step()
    for network in (codec.condition_mean, codec.condition_scale):
        assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_a_condition_without_feature_residual_is_refused() -> None:
    with pytest.raises(ValueError, match="condition: true needs residual: feature"):
        AdditionalCodec(1, condition=True)
