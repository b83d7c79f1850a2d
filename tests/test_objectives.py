"""What the four codecs minimise: which pixels count, and that the base stays frozen."""

from typing import Any

import pytest
import torch
from skimage import data as photos_of_skimage
from small import SIZES

from sic.codec import fast, weights
from sic.codec import loss as losses
from sic.codec.fusion import AdditionalCodec, DifferenceCodec
from sic.codec.tcm import TCM


def a_codec(seed: int = 0) -> TCM:
    torch.manual_seed(seed)
    return TCM(**SIZES)


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.from_numpy(photos_of_skimage.astronaut()[:128, :128]).permute(2, 0, 1)[None] / 255
    m_x = torch.zeros(1, 1, 128, 128)
    m_x[..., :8] = 1
    return x, m_x


def test_only_the_machines_loss_looks_at_the_mask(batch: tuple[torch.Tensor, ...]) -> None:
    codec = a_codec().eval()
    human, machine = losses.human_loss(0.01), losses.machine_loss(0.01)
    x, m_x = batch
    whole = torch.ones_like(m_x)
    with torch.no_grad():
        assert torch.equal(human(codec, x, m_x).total, human(codec, x, whole).total)
        assert torch.equal(machine(codec, x, whole).total, human(codec, x, whole).total)
        assert machine(codec, x, m_x).mse < machine(codec, x, whole).mse


@pytest.mark.parametrize(
    ("make", "loss"),
    [
        (lambda: AdditionalCodec(2, **SIZES), losses.additional_loss),
        (lambda: AdditionalCodec(2, **SIZES, residual="feature"), losses.additional_loss),
        (lambda: DifferenceCodec(**SIZES), losses.difference_loss),
    ],
    ids=["fusion", "FR", "difference"],
)
def test_the_base_stays_frozen(make: Any, loss: Any, batch: tuple[torch.Tensor, ...]) -> None:
    base, codec = a_codec(), make()
    before = weights.fingerprint(base)
    x, m_x = batch
    loss(base, 0.01)(codec, x, m_x).total.backward()
    assert all(p.grad is None and not p.requires_grad for p in base.parameters())
    assert all(p.grad is not None for p in codec.g_a.parameters())
    assert weights.fingerprint(base) == before


def test_the_base_sees_no_autograd_and_does_not_decode_for_fusion(
    batch: tuple[torch.Tensor, ...],
) -> None:
    base, codec = a_codec(), AdditionalCodec(1, **SIZES)
    modes = []
    base.g_a.register_forward_hook(lambda *_: modes.append(torch.is_inference_mode_enabled()))
    base.g_s.register_forward_hook(lambda *_: pytest.fail("the base's decoder ran"))
    losses.additional_loss(base, 0.01)(codec, *batch)
    assert modes == [True]


def test_training_takes_up_what_the_base_left_in_caches(batch: tuple[torch.Tensor, ...]) -> None:
    base, codec = a_codec(), AdditionalCodec(5, **SIZES)
    loss = losses.additional_loss(base, 0.01)
    fast.windows.cache_clear()
    with torch.no_grad():
        loss(codec, *batch)  # as validation does; the base runs in inference mode
    loss(codec, *batch).total.backward()
