"""The losses (1)–(3): rate in bits per pixel plus λ·255²·mse.

(1) and (3) are the same function of different codecs; (2) sees only the pixels of the edge mask.
λ multiplies 255²·mse because the paper's λ belong to 8-bit values and images here are in [0, 1].
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sic.tcm import CodecOutput, Likelihoods


@dataclass(frozen=True)
class Loss:
    """L and its parts, scalars: ``total`` = ``bpp_y`` + ``bpp_z`` + λ·255²·``mse``."""

    total: Tensor
    bpp_y: Tensor
    bpp_z: Tensor
    mse: Tensor


def bits_per_pixel(likelihoods: Likelihoods, pixels: int) -> tuple[Tensor, Tensor]:
    """R(y) and R(z): the information of the symbols over the number of image pixels.

    Args:
        likelihoods: probabilities of the symbols of y and z, any shapes.
        pixels: B·H·W of the images they code.
    """
    return (
        -torch.log2(likelihoods["y"]).sum() / pixels,
        -torch.log2(likelihoods["z"]).sum() / pixels,
    )


def rate_distortion(
    output: CodecOutput, x: Tensor, lmbda: float, m_x: Tensor | None = None
) -> Loss:
    """(1) and (3); with an edge mask, (2).

    Args:
        output: what the codec returned for x.
        x: images (B, 3, H, W) in [0, 1].
        lmbda: λ.
        m_x: edge mask (B, 1, H, W) of 0 and 1; the mean stays one over all pixels, so that
            pixels off the edges cost nothing.
    """
    batch, _, height, width = x.shape
    bpp_y, bpp_z = bits_per_pixel(output["likelihoods"], batch * height * width)
    error = x - output["x_hat"]
    mse = (error if m_x is None else error * m_x).square().mean()
    return Loss(bpp_y + bpp_z + lmbda * 255**2 * mse, bpp_y, bpp_z, mse)
