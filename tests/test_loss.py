"""The losses (1)–(3) against hand-made outputs."""

import math

import pytest
import torch

from sic.codec.loss import rate_distortion
from sic.codec.tcm import CodecOutput, Likelihoods


def output(x_hat: torch.Tensor) -> CodecOutput:
    # 6 symbols of 1 bit and 2 of 3 bits.
    likelihoods = Likelihoods(y=torch.full((1, 6, 1, 1), 0.5), z=torch.full((1, 2, 1, 1), 0.125))
    return CodecOutput(x_hat=x_hat, y_hat=torch.zeros(1), likelihoods=likelihoods)


def test_loss_1_is_bits_per_pixel_plus_lambda_times_squared_8_bit_error() -> None:
    x = torch.zeros(1, 3, 2, 4)
    loss = rate_distortion(output(x + 10 / 255), x, lmbda=0.01)
    assert loss.bpp_y.item() == pytest.approx(6 / 8)
    assert loss.bpp_z.item() == pytest.approx(6 / 8)
    assert loss.total.item() == pytest.approx(1.5 + 0.01 * 100)
    assert -10 * math.log10(loss.mse.item()) == pytest.approx(20 * math.log10(25.5))


def test_loss_2_sees_only_the_edges_but_averages_over_all_pixels() -> None:
    x = torch.zeros(1, 3, 2, 4)
    m_x = torch.zeros(1, 1, 2, 4)
    m_x[..., 0, 0] = 1
    loss = rate_distortion(output(x + 10 / 255), x, lmbda=0.01, m_x=m_x)
    assert loss.total.item() == pytest.approx(1.5 + 0.01 * 100 / 8)
    whole = rate_distortion(output(x + 10 / 255), x, lmbda=0.01, m_x=torch.ones_like(m_x))
    assert whole.total.item() == pytest.approx(1.5 + 0.01 * 100)
