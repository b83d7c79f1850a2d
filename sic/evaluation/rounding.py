"""Why one second layer beats another: where the base's rounding error goes.

The base's latent y = g_a(x) reaches the decoder as ŷ = y + e.  What a second layer adds is decoded
with ŷ as it is, and with y in its place, which no decoder has: the difference is what e costs.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from sic import images, progress
from sic.codec.fusion import AdditionalCodec, DifferenceCodec, fuse
from sic.codec.tcm import TCM
from sic.images import Pixels

#: PSNR in dB of the picture for people: as it is decoded; with y in place of ŷ in the decoder
#: alone, while the additional stream was written for ŷ; and with y on both sides.
DECODED = ["psnr", "psnr_decoder_has_y", "psnr_both_have_y"]
_FEWEST = 1e-6  # mean square of e in a channel that the base sends


@torch.no_grad()
def measure(
    base: TCM,
    second: Mapping[str, AdditionalCodec | DifferenceCodec],
    pictures: Mapping[str, Pixels],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two tables: per picture and codec its bits per pixel and :data:`DECODED`; and, per additional
    codec and channel of its m slices, the ``power`` of e and the share of it that ŷa ``cancels``.

    The share is −b of the regression ŷa = a·y + b·e + c over all places: 1 if ŷa takes the error
    away, 0 if it does not know of it.  y stands beside e because both depend on the picture.
    """
    rows: list[dict[str, Any]] = []
    seen: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
    for name, picture in progress.bar(pictures.items(), desc="pictures", unit="picture"):
        x = images.pad(images.to_tensor(picture))
        y = base.g_a(x)
        y_hat, _ = base.code_latent(y)
        for codec_name, codec in second.items():
            if isinstance(codec, AdditionalCodec):
                bpp, decoded, ya_hat = _with_latent(codec, x, y, y_hat)
            else:
                bpp, decoded, ya_hat = _with_picture(base, codec, x, y, y_hat)
            height, width = picture.shape[:2]
            shown = (images.to_uint8(images.crop(x_hat, height, width)) for x_hat in decoded)
            psnr = dict(zip(DECODED, (images.psnr(picture, each) for each in shown), strict=True))
            rows.append({"codec": codec_name, "image": name, "bpp": bpp, **psnr})
            if ya_hat is not None:
                seen.setdefault(codec_name, []).append((y, y_hat - y, ya_hat))
    channels = [
        {"codec": codec_name, "channel": k, "power": power, "cancels": share}
        for codec_name, latents in seen.items()
        for k, (power, share) in enumerate(_cancelled(latents))
    ]
    return pd.DataFrame(rows), pd.DataFrame(
        channels, columns=["codec", "channel", "power", "cancels"]
    )


_Decoded = tuple[float, tuple[Tensor, Tensor, Tensor], Tensor | None]


def _with_latent(codec: AdditionalCodec, x: Tensor, y: Tensor, y_hat: Tensor) -> _Decoded:
    """Fusion and FR: the decoder adds ŷa to ŷ, or to y."""
    given, ideal = codec(x, y_hat), codec(x, y)
    ya_hat = given["ya_hat"]
    pictures = (given["x_hat"], codec.g_s(fuse(y, ya_hat)), ideal["x_hat"])
    return _bpp(given, x), pictures, ya_hat


def _with_picture(
    base: TCM, codec: DifferenceCodec, x: Tensor, y: Tensor, y_hat: Tensor
) -> _Decoded:
    """The DC model: the decoder adds d̂ to x̂_t of ŷ, or of y."""
    x_hat_t, of_y = (images.quantise(base.g_s(latent)) for latent in (y_hat, y))
    given, ideal = codec(x, x_hat_t), codec(x, of_y)
    d_hat = given["x_hat"] - x_hat_t
    return _bpp(given, x), (given["x_hat"], of_y + d_hat, ideal["x_hat"]), None


def _bpp(output: Any, x: Tensor) -> float:
    bits = sum(-torch.log2(p).sum() for p in output["likelihoods"].values())
    return float(bits) / x[0, 0].numel()


def _cancelled(
    latents: list[tuple[Tensor, Tensor, Tensor]],
) -> list[tuple[float, float]]:
    """Of each channel that ŷa has: the mean square of e, and the share of it that ŷa takes away;
    NaN where the base sends nothing that could be rounded."""
    y, e, ya_hat = (
        torch.cat([part.movedim(1, 0).flatten(1) for part in parts], dim=1).double().numpy()
        for parts in zip(*latents, strict=True)
    )
    return [_share(y[k], e[k], ya_hat[k]) for k in range(len(ya_hat))]


def _share(
    y: NDArray[np.float64], e: NDArray[np.float64], ya_hat: NDArray[np.float64]
) -> tuple[float, float]:
    power = float(np.square(e).mean())
    if power < _FEWEST:
        return power, float("nan")
    design = np.stack([y, e, np.ones_like(y)], axis=1)
    return power, -float(np.linalg.lstsq(design, ya_hat, rcond=None)[0][1])


def overall(channels: pd.DataFrame) -> "pd.Series[float]":
    """The share of e's power that each additional codec cancels, over all of its channels."""
    known = channels.dropna(subset=["cancels"])
    weighted = known.assign(part=known.cancels * known.power).groupby("codec", sort=False)
    return weighted.part.sum() / weighted.power.sum()
