"""How far a decoded picture is from its original, on 8-bit pixels as a viewer gets them."""

import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from sic import images
from sic.anchors import planes
from sic.errors import SicError
from sic.files import read_tensors
from sic.images import Pixels

#: The measures of :class:`Metrics` in the order of its answer, with unit: PSNR over the three
#: channels of RGB, PSNR of luma (BT.709), MS-SSIM as −10 log₁₀(1 − value), LPIPS (less is better).
MEASURES = {"psnr": "dB", "psnr_y": "dB", "ms_ssim": "dB", "lpips": ""}
#: Below this MS-SSIM's five scales, each half the last, leave less than its window of 11 pixels.
MS_SSIM_SIDE = 161
_SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # the weights of MS-SSIM's scales
_C1, _C2 = 0.01**2, 0.03**2  # what keeps its ratios finite, of samples in [0, 1]
# Its window, a Gaussian of 1.5 pixels, in the float32 of pytorch-msssim: where pictures are nearly
# equal, 3e-8 in its sum are seen.
_GAUSSIAN = torch.exp(-(torch.arange(-5.0, 6.0) ** 2) / (2 * 1.5**2))
_WINDOW = (_GAUSSIAN / _GAUSSIAN.sum()).double().numpy()
#: Below this AlexNet's second pooling has nothing left to pool.
LPIPS_SIDE = 31
_ALEXNET_LAYERS = (0, 3, 6, 8, 10)  # torchvision's numbers of the layer in each slice of LPIPS


class Metrics:
    """All measures of a decoded picture; LPIPS is one of them where there is a file with AlexNet's
    weights for ImageNet, as torchvision publishes them.  Raises SicError if it has no such
    weights."""

    def __init__(self, lpips: Path | None = None) -> None:
        self.lpips = load_lpips(lpips) if lpips else None

    def __call__(self, image: Pixels, decoded: Pixels) -> dict[str, float]:
        """The :data:`MEASURES` of two uint8 (H, W, 3) RGB pictures.  The first three are infinite
        where the pictures are equal to them; NaN is what is not defined (MS-SSIM and LPIPS of small
        pictures) or not at hand (LPIPS without weights).  Raises ValueError if they differ in shape
        or are not uint8."""
        return {
            "psnr": images.psnr(image, decoded),
            "psnr_y": psnr_y(image, decoded),
            "ms_ssim": ms_ssim_db(image, decoded),
            "lpips": self.lpips(image, decoded) if self.lpips else math.nan,
        }


def psnr_y(a: Pixels, b: Pixels) -> float:
    """PSNR in dB of the luma of two uint8 (H, W, 3) RGB pictures, 8 bits, inf if equal."""
    return images.psnr(planes.luma(a), planes.luma(b))


def ms_ssim_db(a: Pixels, b: Pixels) -> float:
    """MS-SSIM of two uint8 (H, W, 3) RGB pictures, mean over the channels, as −10 log₁₀(1 − v) dB;
    inf if they are equal, NaN if a side is shorter than :data:`MS_SSIM_SIDE`.  Source: Wang,
    Simoncelli and Bovik, Multi-scale structural similarity (2003)."""
    if min(a.shape[:2]) < MS_SSIM_SIDE:
        return math.nan
    if np.array_equal(a, b):
        return math.inf
    # A channel at a time, for memory; the mean over them is taken here.
    distance = np.mean([_ms_ssim_distance(a[..., c] / 255, b[..., c] / 255) for c in range(3)])
    return -10 * math.log10(max(distance, np.finfo(float).tiny))


def _ms_ssim_distance(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """1 − MS-SSIM of two planes with samples in [0, 1]."""
    # As pytorch-msssim has it, to which a test holds it; that takes seven times as long in float64.
    log = 0.0
    for scale, weight in enumerate(_SCALES, start=1):
        # From x − y, since 1 − v loses its digits where the planes are nearly equal: contrast is
        # 1 − var(x − y) / (var x + var y + C2), luminance 1 − (mean x − mean y)² / (… + C1).
        d = x - y
        mean_x, mean_d = _smooth(x), _smooth(d)
        squares = mean_x**2 + (mean_x - mean_d) ** 2
        lost = (_smooth(d * d) - mean_d**2) / (_smooth(x * x + y * y) - squares + _C2)
        if scale == len(_SCALES):
            lost += (1 - lost) * mean_d**2 / (squares + _C1)
        mean = float(lost.mean())
        if mean >= 1:  # turned into its opposite: such a scale counts as nothing in common
            return 1.0
        log += weight * math.log1p(-mean)
        x, y = _halve(x), _halve(y)
    return -math.expm1(log)


def _smooth(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """The plane under the window, where that lies inside."""
    smooth: NDArray[np.float64] = np.asarray(
        cv2.sepFilter2D(plane, cv2.CV_64F, _WINDOW, _WINDOW), np.float64
    )
    return smooth[5:-5, 5:-5]


def _halve(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of 2×2 samples, after a row and a column of zeros where a side is odd."""
    rows, columns = plane.shape
    plane = np.pad(plane, ((rows % 2, 0), (columns % 2, 0)))
    above, below = plane[::2], plane[1::2]
    return (above[:, ::2] + above[:, 1::2] + below[:, ::2] + below[:, 1::2]) / 4


def load_lpips(weights: Path) -> Callable[[Pixels, Pixels], float]:
    """LPIPS v0.1 on AlexNet: two uint8 (H, W, 3) pictures in, a distance out, 0 if equal, NaN if a
    side is shorter than :data:`LPIPS_SIDE`.  Raises SicError unless the file has AlexNet's state
    dict as torchvision publishes it (`alexnet-owt-*.pth`).

    Source: Zhang et al., The unreasonable effectiveness of deep features (arXiv 1801.03924); its
    calibration comes with the package `lpips`.
    """
    from lpips import LPIPS  # takes a second, and few need it

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls torchvision in an older way
        model = LPIPS(net="alex", pnet_rand=True, verbose=False)
    try:
        state = read_tensors(weights)
    except SicError as error:
        raise SicError(f"evaluate.lpips: {error}") from None
    for number, layer in enumerate(_ALEXNET_LAYERS, start=1):
        target = getattr(model.net, f"slice{number}").get_submodule(str(layer))
        for name in ("weight", "bias"):
            key, parameter = f"features.{layer}.{name}", getattr(target, name)
            if key not in state or state[key].shape != parameter.shape:
                problem = f"{weights} does not hold torchvision's AlexNet ({key})"
                raise SicError(f"evaluate.lpips: {problem}")
            parameter.data.copy_(state[key])
    return partial(_lpips, model.eval())


@torch.inference_mode()
def _lpips(model: torch.nn.Module, a: Pixels, b: Pixels) -> float:
    if min(a.shape[:2]) < LPIPS_SIDE:
        return math.nan
    x, x_hat = (2 * images.to_tensor(picture) - 1 for picture in (a, b))
    return float(model(x, x_hat))
