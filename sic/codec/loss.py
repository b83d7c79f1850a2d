"""The losses (1)–(3): rate in bits per pixel plus λ·255²·mse, as the paper's λ are for 8 bits.

(1) and (3) are the same function of different codecs; (2) sees only the pixels of the edge mask.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sic import images
from sic.codec.fusion import AdditionalCodec, DifferenceCodec
from sic.codec.tcm import TCM, CodecOutput, Likelihoods


@dataclass(frozen=True)
class Loss:
    """L and its parts, scalars: ``total`` = ``bpp_y`` + ``bpp_z`` + λ·255²·``mse``."""

    total: Tensor
    bpp_y: Tensor
    bpp_z: Tensor
    mse: Tensor


def bits_per_pixel(likelihoods: Likelihoods, pixels: int) -> tuple[Tensor, Tensor]:
    """R(y) and R(z): the information of the symbols over B·H·W, the pixels of their images."""
    y, z = likelihoods["y"], likelihoods["z"]
    return -torch.log2(y).sum() / pixels, -torch.log2(z).sum() / pixels


def rate_distortion(
    output: CodecOutput, x: Tensor, lmbda: float, m_x: Tensor | None = None
) -> Loss:
    """(1) and (3), of what a codec returned for x (B, 3, H, W) in [0, 1]; with an edge mask m_x
    (B, 1, H, W) of 0 and 1, (2), whose mean is still over all pixels: those off the edges cost
    nothing."""
    batch, _, height, width = x.shape
    bpp_y, bpp_z = bits_per_pixel(output["likelihoods"], batch * height * width)
    error = x - output["x_hat"]
    mse = (error if m_x is None else error * m_x).square().mean()
    return Loss(bpp_y + bpp_z + lmbda * 255**2 * mse, bpp_y, bpp_z, mse)


#: A codec and a batch x (B, 3, h, w), m_x (B, 1, h, w) → the loss of that batch.
StepLoss = Callable[[Any, Tensor, Tensor], Loss]


def human_loss(lmbda: float) -> StepLoss:
    """(1): TCM for people alone."""
    return lambda codec, x, m_x: rate_distortion(codec(x), x, lmbda)


def machine_loss(lmbda: float) -> StepLoss:
    """(2): SA-ICM, which sees the edges only."""
    return lambda codec, x, m_x: rate_distortion(codec(x), x, lmbda, m_x)


def additional_loss(base: TCM, lmbda: float) -> StepLoss:
    """(3): the additional codec, FR or not, on ŷ of the frozen base, whose decoder does not run."""
    return _above(base, lmbda, lambda base, x: base.code_latent(base.g_a(x))[0])


def difference_loss(base: TCM, lmbda: float) -> StepLoss:
    """The DC model on the 8-bit picture of the frozen base, as its decoder has it."""
    return _above(base, lmbda, lambda base, x: images.quantise(base(x)["x_hat"]))


def _above(base: TCM, lmbda: float, given: Callable[[TCM, Tensor], Tensor]) -> StepLoss:
    """(3) of a codec that codes x given what the frozen base makes of it."""
    base = base.eval().requires_grad_(False)

    def step_loss(codec: AdditionalCodec | DifferenceCodec, x: Tensor, m_x: Tensor) -> Loss:
        with torch.inference_mode():
            known = given(base.to(x.device), x)
        # A copy, since autograd keeps nothing that was made in inference mode.
        return rate_distortion(codec(x, known.clone()), x, lmbda)

    return step_loss
