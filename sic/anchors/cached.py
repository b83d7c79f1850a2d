"""The classical codecs that the study's curves are set beside, run for real on the same pictures.

One curve is coded by one program.  A codec that no program here has is left out, with a note; none
takes the name of another.  Streams are kept by picture and setting: to code again costs decoding.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from sic import source, work
from sic.anchors import classical
from sic.anchors.classical import Anchor, Setup
from sic.files import write_bytes
from sic.images import Pixels
from sic.params import Evaluate

#: Streams that were coded before; DVC does not know of them, so that a rerun finds them.
CACHE = work.WORK / "anchors"

#: VTM's mean over the 24 Kodak pictures at QP 47, 42, … 22: bits per pixel, PSNR on RGB in dB.
#: As CompressAI published them; not rerun.
PUBLISHED_VTM_KODAK = (
    (0.0482, 26.14),
    (0.1125, 28.49),
    (0.2458, 31.20),
    (0.4905, 34.26),
    (0.8748, 37.42),
    (1.431, 40.42),
)
_KODAK = {f"kodim{number:02d}" for number in range(1, 25)}


@dataclass(frozen=True)
class Coded:
    """A picture that went through a codec.

    Args:
        stream: the file, headers and all.
        x_hat: the decoded picture, uint8 (H, W, 3) RGB.
        encode_seconds, decode_seconds: wall time on one thread, with colour conversion and the
            start of the program.
    """

    stream: bytes
    x_hat: Pixels
    encode_seconds: float
    decode_seconds: float

    @property
    def bpp(self) -> float:
        """Bits of the stream per pixel."""
        return 8 * len(self.stream) / (self.x_hat.shape[0] * self.x_hat.shape[1])


def find(settings: Evaluate) -> list[tuple[Anchor, Sequence[float]]]:
    """The codecs that params.yaml asks for and this machine has, with their settings.

    VVC is VTM's where params.yaml names its folder, else libvvenc's.

    Raises:
        SicError: if VTM is asked for and is not where params.yaml says.
    """
    s = settings
    folder = s.vvc.vtm
    wanted: list[tuple[Sequence[float], Callable[[], Anchor | None]]] = [
        (s.vvc.qp, lambda: classical.vtm_intra(Path(folder)) if folder else _libvvenc(s)),
        (s.hevc.qp, lambda: classical.x265(s.hevc.preset)),
        (s.avif.quality, lambda: classical.avif(s.avif.speed)),
        (s.jpeg_xl.distance, lambda: classical.jpeg_xl(s.jpeg_xl.effort)),
        (s.webp, classical.webp),
        (s.jpeg, classical.jpeg),
    ]
    found = [(make(), values) for values, make in wanted if values]
    return [(anchor, values) for anchor, values in found if anchor is not None]


def _libvvenc(settings: Evaluate) -> Anchor | None:
    return classical.libvvenc(settings.vvc.preset)


def left_out(settings: Evaluate, codecs: Iterable[str]) -> list[str]:
    """A sentence on each codec that params.yaml asks for and the results do not have.

    Args:
        settings: of params.yaml.
        codecs: the names in the table of results.
    """
    no_ffmpeg = "neither the ffmpeg on the PATH nor that of the imageio-ffmpeg wheel has"
    asked: dict[str, tuple[Sequence[float], str]] = {
        "VVC": (settings.vvc.qp, f"{no_ffmpeg} libvvenc, and evaluate.vvc.vtm names no VTM"),
        "VVC+M": (settings.vvc_m.qp, f"{no_ffmpeg} libvvenc"),
        "HEVC": (settings.hevc.qp, f"{no_ffmpeg} libx265"),
        "AVIF": (settings.avif.quality, "Pillow is built without it"),
        "JPEG XL": (settings.jpeg_xl.distance, f"{no_ffmpeg} libjxl"),
        "WebP": (settings.webp, "Pillow is built without it"),
        "JPEG": (settings.jpeg, "Pillow is built without it"),
    }
    there = set(codecs)
    return [
        f"{codec} is left out: on the machine that evaluated, {reason}."
        for codec, (values, reason) in asked.items()
        if values and codec not in there
    ]


def published(names: Iterable[str]) -> tuple[tuple[float, float], ...]:
    """VTM's published series, (bpp, dB) a point, if the pictures are Kodak's 24; else nothing."""
    return PUBLISHED_VTM_KODAK if set(names) == _KODAK else ()


# ---- coding, once ----------------------------------------------------------------------------


def code(anchor: Anchor, setting: float, image: Pixels, folder: Path = CACHE) -> Coded:
    """Code and decode one picture; a stream that was coded before is taken up.

    Args:
        anchor, setting: of :func:`find`.
        image: uint8 (H, W, 3) RGB.
        folder: of streams that were coded earlier.

    Raises:
        SicError: if the codec fails on this picture.
    """
    name = f"{recipe(anchor.setup)}-{anchor.knob}{setting}"
    stream, encode_seconds = kept(
        folder / digest(image) / name, lambda: anchor.encode(image, setting)
    )
    start = time.perf_counter()
    x_hat = anchor.decode(stream, *image.shape[:2])
    return Coded(stream, x_hat, encode_seconds, time.perf_counter() - start)


def recipe(setup: Setup) -> str:
    """Fingerprint of what a stream depends on besides picture and setting."""
    return source.fingerprint(asdict(setup), classical)


def digest(*pictures: Pixels) -> str:
    """SHA-256 of pictures, size and all."""
    whole = hashlib.sha256()
    for picture in pictures:
        whole.update(repr(picture.shape).encode())
        whole.update(np.ascontiguousarray(picture).data)
    return whole.hexdigest()


def kept(path: Path, encode: Callable[[], bytes]) -> tuple[bytes, float]:
    """A stream, and the seconds that coding it took; coded only where the file is missing."""
    if not path.exists():
        start = time.perf_counter()
        stream = encode()
        seconds = json.dumps({"encode_seconds": time.perf_counter() - start})
        write_bytes(path, seconds.encode() + b"\n" + stream)
    head, _, stream = path.read_bytes().partition(b"\n")
    return stream, float(json.loads(head)["encode_seconds"])
