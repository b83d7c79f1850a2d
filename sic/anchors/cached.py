"""The classical codecs that the study's curves are set beside, run for real on the same pictures.

One curve is coded by one program.  A codec that no program here has is left out, with a note, and
so is a picture that a codec cannot code; none takes the name of another.  Streams are kept by
picture and setting: to code again costs decoding.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sic import images, source, work
from sic.anchors import classical
from sic.anchors.classical import Anchor, Setup
from sic.anchors.programs import CodecError, MissingCodec
from sic.files import write_bytes
from sic.images import Pixels
from sic.measuring import Evaluate

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


@dataclass(frozen=True)
class Coded:
    """A picture that went through a codec, with wall times on one thread that include colour
    conversion and the start of the program."""

    stream: bytes  # the file, headers and all
    x_hat: Pixels  # the decoded picture, uint8 (H, W, 3) RGB
    encode_seconds: float
    decode_seconds: float

    @property
    def bpp(self) -> float:
        """Bits of the stream per pixel."""
        return images.bpp(len(self.stream), *self.x_hat.shape[:2])


def find(settings: Evaluate) -> tuple[list[tuple[Anchor, Sequence[float]]], dict[str, str]]:
    """The codecs that params.yaml asks for, VVC by VTM where it names a folder, else by libvvenc:
    those that this machine has, with their settings, and why it lacks the others, by name.  Raises
    SicError if VTM is not where params.yaml says."""
    wanted: dict[str, tuple[Sequence[float], Callable[[], Anchor]]] = {
        "VVC": (settings.vvc.qp, lambda: _vvc(settings)),
        "HEVC": (settings.hevc.qp, lambda: classical.x265(settings.hevc.preset)),
        "AVIF": (settings.avif.quality, lambda: classical.avif(settings.avif.speed)),
        "JPEG XL": (settings.jpeg_xl.distance, lambda: classical.jpeg_xl(settings.jpeg_xl.effort)),
        "WebP": (settings.webp, classical.webp),
        "JPEG": (settings.jpeg, classical.jpeg),
    }
    found: list[tuple[Anchor, Sequence[float]]] = []
    missing = {}
    for codec, (values, make) in wanted.items():
        try:
            found += [(make(), values)] if values else []
        except MissingCodec as error:
            missing[codec] = str(error)
    return found, missing


def _vvc(settings: Evaluate) -> Anchor:
    if settings.vvc.vtm:
        return classical.vtm_intra(Path(settings.vvc.vtm))
    try:
        return classical.libvvenc(settings.vvc.preset)
    except MissingCodec as error:
        raise MissingCodec(f"{error}; and evaluate.vvc.vtm names no VTM") from None


def left_out(codec: str, reason: str) -> str:
    """The sentence on a codec that :func:`find` did not find."""
    return f"{codec} is left out: the machine that evaluated does not have it ({reason})."


def published(names: Iterable[str]) -> tuple[tuple[float, float], ...]:
    """VTM's published series, (bpp, dB) a point, if the pictures are Kodak's 24; else nothing."""
    kodak = {f"kodim{number:02d}" for number in range(1, 25)}
    return PUBLISHED_VTM_KODAK if set(names) == kodak else ()


def code(anchor: Anchor, setting: float, image: Pixels, folder: Path = CACHE) -> Coded:
    """Code and decode uint8 (H, W, 3) RGB; a stream that lies in the folder is taken up.  Raises
    CodecError if the codec cannot code this picture, as those of extreme sizes."""
    path = folder / digest(image) / f"{recipe(anchor.setup)}-{anchor.knob}{setting}"
    stream, encode_seconds = kept(path, lambda: anchor.encode(image, setting))
    start = time.perf_counter()
    try:
        x_hat = anchor.decode(stream, *image.shape[:2])
    except ValueError:
        raise CodecError(anchor.setup.codec, "it decodes to another size") from None
    return Coded(stream, x_hat, encode_seconds, time.perf_counter() - start)


def recipe(setup: Setup) -> str:
    """Fingerprint of what a stream depends on besides picture and setting."""
    return source.fingerprint(asdict(setup), classical)


def digest(*pictures: Pixels) -> str:
    """SHA-256 of pictures, size and all."""
    whole = b"".join(repr(picture.shape).encode() + picture.tobytes() for picture in pictures)
    return hashlib.sha256(whole).hexdigest()


def kept(path: Path, encode: Callable[[], bytes]) -> tuple[bytes, float]:
    """A stream, and the seconds that coding it took; coded only where the file is missing."""
    if not path.exists():
        start = time.perf_counter()
        stream = encode()
        seconds = json.dumps({"encode_seconds": time.perf_counter() - start})
        write_bytes(path, seconds.encode() + b"\n" + stream)
    head, _, stream = path.read_bytes().partition(b"\n")
    return stream, float(json.loads(head)["encode_seconds"])
