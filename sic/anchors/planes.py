"""RGB pictures as the Y′CbCr planes that video codecs take, and back, rounded at every step.

ITU-R BT.709, full range.  The conversion is done here and codecs get raw planes: ffmpeg's own
would truncate, and would turn 4:4:4 into 4:2:0 with no more than a warning.  Chroma of 4:2:0 is
the mean of 2×2 pixels, and comes back by bilinear interpolation between their centres; the last
row and column are repeated where a side is odd.
"""

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from sic.images import Pixels

Chroma = Literal["4:4:4", "4:2:0"]
DEPTH = 10  # bits a sample, with which 8-bit RGB comes back without any error from 4:4:4
COLOUR = "YCbCr BT.709 full range, rounded"

_KR, _KB = 0.2126, 0.0722
_KG = 1 - _KR - _KB
_TO_YCBCR = np.array(
    [
        [_KR, _KG, _KB],
        [-_KR / (2 - 2 * _KB), -_KG / (2 - 2 * _KB), 0.5],
        [0.5, -_KG / (2 - 2 * _KR), -_KB / (2 - 2 * _KR)],
    ]
)
_TO_RGB = np.linalg.inv(_TO_YCBCR)


def luma(image: Pixels) -> Pixels:
    """Y′ of uint8 (H, W, 3) RGB, rounded to uint8 (H, W)."""
    return np.rint(image @ _TO_YCBCR[0]).astype(np.uint8)


def pack(image: Pixels, chroma: Chroma) -> bytes:
    """The planes Y′, Cb and Cr of uint8 (H, W, 3) RGB, one after the other, in 16-bit little-endian
    samples; with 4:2:0 they are those of the picture with even sides."""
    planes = list(np.moveaxis(image / 255 @ _TO_YCBCR.T, 2, 0))
    if chroma == "4:2:0":
        odd = ((0, image.shape[0] % 2), (0, image.shape[1] % 2))
        planes = [np.pad(plane, odd, mode="edge") for plane in planes]
        rows, columns = (side // 2 for side in planes[0].shape)
        planes[1:] = [p.reshape(rows, 2, columns, 2).mean(axis=(1, 3)) for p in planes[1:]]
    top, centre = 2**DEPTH - 1, 2 ** (DEPTH - 1)
    levels = [planes[0] * top, *(plane * top + centre for plane in planes[1:])]
    return b"".join(np.rint(np.clip(level, 0, top)).astype("<u2").tobytes() for level in levels)


def unpack(raw: bytes, height: int, width: int, chroma: Chroma) -> Pixels:
    """The picture whose planes :func:`pack` gave, uint8 (height, width, 3) RGB.  Raises ValueError
    if there are not just as many samples as one picture has."""
    samples = np.frombuffer(raw, "<u2").astype(np.float64) / (2**DEPTH - 1)
    half = 2 ** (DEPTH - 1) / (2**DEPTH - 1)
    if chroma == "4:4:4":
        y, cb, cr = samples.reshape(3, height, width)
    else:
        rows, columns = (height + 1) // 2, (width + 1) // 2
        y, cb, cr = np.split(samples, np.array([4, 5]) * rows * columns)
        y = y.reshape(2 * rows, 2 * columns)[:height, :width]
        cb, cr = (_double(c.reshape(rows, columns))[:height, :width] for c in (cb, cr))
    rgb = np.stack([y, cb - half, cr - half], axis=2) @ _TO_RGB.T
    return np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8)


def size(height: int, width: int, chroma: Chroma) -> tuple[int, int]:
    """Width and height of the first plane that :func:`pack` gives."""
    return (width + width % 2, height + height % 2) if chroma == "4:2:0" else (width, height)


def _double(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    height, width = plane.shape
    return cv2.resize(plane, (2 * width, 2 * height)).astype(np.float64)  # bilinear
