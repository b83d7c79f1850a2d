"""Pictures as the study sees them: uint8 RGB on disk, float RGB in [0, 1] in the codecs."""

import math
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from sic.errors import SicError
from sic.files import replacing
from sic.sizes import bpp as bpp
from sic.sizes import size_problem as size_problem

if TYPE_CHECKING:  # torch takes seconds to import and reading files does not need it
    from torch import Tensor

Pixels = NDArray[np.uint8]
MULTIPLE = 128  # of height and width: g_a halves 4 times, h_a twice, h_a's windows are 4, g_a's 8
# Tags of TIFF and EXIF.
_BITS, _PHOTOMETRIC, _ORIENTATION, _PLANES, _FORMAT = 0x0102, 0x0106, 0x0112, 0x011C, 0x0153
#: Endings of the files that are taken for pictures in a folder.
SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".ppm", ".avif"}
#: Pillow's raw modes of colour with 16 bits per channel, of which it keeps the upper 8.  BGR;16
#: has 16 bits in all; what is multiplied by alpha (RGBa;16) stays as Pillow divides it.
_WIDE = re.compile(r"(RGB|RGBX|RGBA|LA);16[BLN]")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read(path: Path | str) -> Pixels:
    """Read any picture as uint8 (H, W, 3) RGB, upright.

    Grayscale, palette and CMYK pictures become RGB; 12 and 16 bits per channel are scaled to 8 and
    rounded (v / 257 of 16); the orientation of EXIF or TIFF is applied where it can be read;
    transparency (alpha, or a transparent colour) is flattened on white, as a browser shows it.  Of
    several frames the first is taken; colour profiles are not applied.  Raises SicError if it is
    missing, no picture, cut off, of unknown range (signed numbers, or 32 bits per channel), or a
    16-bit TIFF with one plane per channel.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # of large pictures, and bad EXIF
            # By its name Pillow would map the file, and misread gray TIFFs that lie on their side.
            with path.open("rb") as file, Image.open(file) as image:
                return _upright_rgb(image, path)
    except UnidentifiedImageError:
        raise SicError(f"{path} is not an image that can be read; convert or remove it") from None
    except Image.DecompressionBombError:
        raise SicError(f"{path} has too many pixels; scale it down or cut it") from None
    except OSError as error:
        problem = error.strerror or "damaged or cut off"
        raise SicError(f"cannot read {path}: {problem}; replace or remove it") from None
    except SicError:
        raise
    except Exception as error:  # on damaged files Pillow's decoders raise anything
        raise SicError(f"cannot read {path}: {error}; replace or remove it") from None


def _upright_rgb(file: ImageFile.ImageFile, path: Path) -> Pixels:
    _check_range(file, path)
    raw_modes = _raw_modes(file)
    file.load()  # which turns a TIFF upright, and takes its orientation away
    turn = _orientation(file)
    image: Image.Image = file
    key = file.info.get("transparency")  # of a PNG: its transparent colour, in its own depth
    deep: NDArray[Any] | None = None
    if "16" in file.mode or file.mode == "I":
        deep = np.asarray(file)
        if getattr(file, "tag_v2", {}).get(_PHOTOMETRIC) == 0:  # white is 0
            deep = 65535 - deep
    elif any(map(_WIDE.fullmatch, raw_modes)):
        deep = _read_16_bit_colour(path, len(file.mode))
    elif isinstance(key, int) and raw_modes & {"L;2", "L;4"}:  # the samples are scaled, it is not
        image.info["transparency"] = key % 4 * 85 if "L;2" in raw_modes else key % 16 * 17
    if deep is not None:
        image = Image.fromarray(_eight_bits(deep, 4095 if "I;12" in raw_modes else 65535))
        if key is not None:
            shown = (np.atleast_3d(deep) != key).any(axis=2)
            image.putalpha(Image.fromarray(shown.astype(np.uint8) * 255))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    image = image.convert("RGB")
    if turn is not None:
        image = image.transpose(turn)
    return np.array(image)


def _check_range(file: ImageFile.ImageFile, path: Path) -> None:
    """Refuse what has no known white, and what is misread."""
    tags = getattr(file, "tag_v2", {})
    if 2 in tags.get(_FORMAT, ()):
        raise SicError(f"{path} has signed numbers, of unknown range; save it with 8 or 16 bits")
    # Gray PNM files of more than 8 bits come as 32, scaled to 16.
    if file.mode == "F" or (file.mode == "I" and file.format != "PPM"):
        raise SicError(f"{path} has 32 bits a channel, of unknown range; save it with 8 or 16")
    # Of one plane for each channel of 16 bits Pillow and OpenCV make noise.
    several = len(file.getbands()) > 1
    if several and tags.get(_PLANES) == 2 and max(tags.get(_BITS, (1,))) > 8:
        raise SicError(f"{path} has a plane for each 16-bit channel; save it with them interleaved")


def _raw_modes(file: ImageFile.ImageFile) -> set[str]:
    """How the samples of a picture, not loaded yet, are stored, by Pillow's names."""
    # A tile's arguments are its raw mode, or begin with it: lengths and offsets follow.
    return {a if isinstance(a, str) else str(a[0]) for a in (t.args for t in file.tile) if a}


def _orientation(file: ImageFile.ImageFile) -> Image.Transpose | None:
    """The turn that a picture needs by its EXIF; None also where that is damaged."""
    try:
        return _UPRIGHT.get(file.getexif().get(_ORIENTATION, 1))
    except Exception:  # as of decoders; in a JPEG Pillow itself passes over it
        return None


def _read_16_bit_colour(path: Path, channels: int) -> NDArray[Any]:
    """(H, W, 3 or 4) RGB or RGBA, uint16; as Pillow has it, a TIFF is upright."""
    import cv2

    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise SicError(f"cannot read {path} with 16 bits a channel; save it with 8")
    order = cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB
    # A fourth channel that the file does not call transparency is none.
    return cv2.cvtColor(pixels, order)[..., :channels]


def _eight_bits(pixels: NDArray[Any], top: int) -> Pixels:
    """0 … ``top`` to 0 … 255, rounded."""
    return ((pixels.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8)


def write_png(path: Path | str, pixels: Pixels) -> None:
    """Write uint8 (H, W, 3) RGB as PNG, wholly or not at all.  Raises SicError if it cannot be."""
    with replacing(Path(path)) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def to_tensor(pixels: Pixels) -> "Tensor":
    """Uint8 (H, W, 3) to float32 (1, 3, H, W) in [0, 1]."""
    import torch

    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].contiguous().float() / 255


def to_uint8(x_hat: "Tensor") -> Pixels:
    """A codec's x_hat (1, 3, H, W), unclamped, to uint8 (H, W, 3): clamped, and rounded.  Raises
    SicError if it holds NaN or infinity, which no picture can show."""
    x_hat = x_hat.detach()
    if not x_hat.isfinite().all():
        raise SicError("the decoded picture holds values that are not finite; the weights are bad")
    pixels = (x_hat[0].double().clamp(0, 1) * 255).round().byte()
    return np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())


def quantise(x_hat: "Tensor") -> "Tensor":
    """x_hat (B, C, H, W) as an 8-bit picture has it: clamped, in steps of 1/255."""
    return (x_hat.clamp(0, 1) * 255).round() / 255


def padded(height: int, width: int, multiple: int = MULTIPLE) -> tuple[int, int]:
    """Height and width after :func:`pad`."""
    return height + -height % multiple, width + -width % multiple


def pad(x: "Tensor", multiple: int = MULTIPLE) -> "Tensor":
    """Repeat the last row and column of x (B, C, H, W) until H and W are multiples."""
    from torch.nn import functional as F

    height, width = x.shape[-2:]
    rows, cols = padded(height, width, multiple)
    return F.pad(x, (0, cols - width, 0, rows - height), mode="replicate")


def crop(x: "Tensor", height: int, width: int) -> "Tensor":
    """Undo :func:`pad`: the upper left (B, C, height, width) of x."""
    return x[..., :height, :width]


def psnr(a: Pixels, b: Pixels) -> float:
    """PSNR in dB of two uint8 (H, W, 3) pictures over all pixels and channels; inf if equal.
    Raises ValueError if they differ in shape or are not uint8."""
    if a.shape != b.shape or a.dtype != np.uint8 or b.dtype != np.uint8:
        found = f"{a.dtype}{a.shape}, {b.dtype}{b.shape}"
        raise ValueError(f"PSNR needs two uint8 pictures of one shape: {found}")
    mse = np.mean(np.square(a.astype(np.float64) - b.astype(np.float64)))
    return math.inf if mse == 0 else float(10 * np.log10(255**2 / mse))
