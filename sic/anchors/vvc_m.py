"""VVC+M: the picture for machines as the reference of an inter-coded second picture.

    x̂_t ── first picture ──┐ reference
                            ▼
    x ───── second picture (inter) ──▶ its bits are the additional bits ──▶ x̂

This is the alternative that plugs any codec into the second layer: the receiver has x̂_t from the
base's stream and puts it into VVC's buffer of decoded pictures.  libvvenc takes no reference from
outside and has no lossless mode, so the first picture is coded in front at QP 4, whose step is one
level of 8 bits: 59 to 62 dB in 10 bits, and checked for every picture.  A finer one changes the
second picture's bytes by 1 %, its PSNR by 0.02 dB, and is refused where x̂_t has much texture.

What is counted: every byte from the second picture's access unit delimiter to the end of the
stream, so the delimiter, its adaptation parameter set and its slice.  What is not: the first
picture, which stands for the base and is counted as the base's own stream; and the parameter sets,
about 140 bytes that are the same for all pictures of one size.

Source: Harell et al., VVC+M: Plug and play scalable image coding for humans and machines (2023).
"""

import re
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from sic import source
from sic.anchors import classical, planes, programs
from sic.anchors.cached import CACHE, Coded, digest, kept
from sic.anchors.classical import Setup, Video
from sic.anchors.programs import CodecError, MissingCodec
from sic.images import Pixels

REFERENCE_QP = 4
REFERENCE_DB = 55.0  # PSNR over the samples of 10 bits, at least
CHROMA: planes.Chroma = "4:2:0"


@dataclass(frozen=True)
class VvcM:
    """libvvenc with two pictures, the second coded from the first."""

    setup: Setup
    video: Video  # libvvenc for single pictures, as it was found
    preset: str  # libvvenc's effort

    def encode(self, image: Pixels, x_hat_t: Pixels, qp: int) -> bytes:
        """The stream of x̂_t and x, both uint8 (H, W, 3) RGB; to the nominal QP libvvenc adds its
        own offset of low-delay pictures.  Raises CodecError if it fails, as it does where x̂_t is
        noise, or small and not flat."""
        video = self.video
        raw = planes.pack(x_hat_t, CHROMA) + planes.pack(image, CHROMA)
        size = planes.size(image.shape[0], image.shape[1], CHROMA)
        try:
            return video.program.encode(raw, video.samples, size, self.options(qp), video.stream)[0]
        except CodecError as error:
            why = "libvvenc codes no x̂_t so finely that is close to noise, or small and not flat"
            raise CodecError("VVC+M", f"{why}: {error.reason}") from None

    def options(self, qp: int) -> list[str]:
        """What ffmpeg's libvvenc gets."""
        # The temporal filter (MCTF, and BIM which needs it) would blend the picture into x̂_t.
        low_delay = "PicReordering=0:DecodingRefreshType=none:GOPSize=8:MCTF=0:BIM=0"
        return [
            *("-c:v", "libvvenc", "-preset", self.preset, "-qp", f"{qp}", "-qpa", "0"),
            *("-period", "100"),  # seconds to the next intra picture
            *("-vvenc-params", f"{low_delay}:IntraQPOffset={REFERENCE_QP - qp}"),
        ]

    def decode(self, stream: bytes, height: int, width: int) -> tuple[bytes, bytes]:
        """The planes of the two pictures; CodecError if there are not two of this size."""
        raw = self.video.program.decode(stream, ["-f", self.video.stream], self.video.samples)
        columns, rows = planes.size(height, width, CHROMA)
        length = 3 * columns * rows  # bytes: 1.5 samples per pixel, 2 bytes each
        if len(raw) != 2 * length:
            reason = f"{len(raw)} bytes were decoded, not two pictures' {2 * length}"
            raise CodecError("VVC+M", reason)
        return raw[:length], raw[length:]


def find(preset: str) -> VvcM:
    """VVC+M by the ffmpeg with libvvenc; MissingCodec if there is none or it lacks low delay."""
    video = classical.libvvenc(preset)
    how = f"{preset}, low delay, reference at QP {REFERENCE_QP}"
    codec = VvcM(replace(video.setup, codec="VVC+M", preset=how), video, preset)
    dark = np.zeros((128, 128, 3), np.uint8)
    try:
        codec.decode(codec.encode(dark, dark, 37), *dark.shape[:2])
    except CodecError as error:
        raise MissingCodec(f"{video.program.path}: {error.reason}") from None
    return codec


def code(codec: VvcM, qp: int, image: Pixels, x_hat_t: Pixels, folder: Path = CACHE) -> Coded:
    """Code and decode x and x̂_t, uint8 (H, W, 3) RGB; a stream in the folder is taken up.

    Of what comes back, ``stream`` holds the second picture alone, which counts as additional; the
    times are of both pictures.  Raises CodecError if the codec fails, or had not x̂_t as reference.
    """
    recipe = source.fingerprint([asdict(codec.setup), codec.options(qp)], programs, planes)
    path = folder / digest(image, x_hat_t) / recipe
    stream, encode_seconds = kept(path, lambda: codec.encode(image, x_hat_t, qp))
    start = time.perf_counter()
    height, width = image.shape[:2]
    reference, second = codec.decode(stream, height, width)
    x_hat = planes.unpack(second, height, width, CHROMA)
    decode_seconds = time.perf_counter() - start
    check_reference(planes.pack(x_hat_t, CHROMA), reference)
    return Coded(second_picture(stream), x_hat, encode_seconds, decode_seconds)


def check_reference(given: bytes, decoded: bytes) -> None:
    """Refuse planes in 16-bit samples that are less alike than :data:`REFERENCE_DB`."""
    a, b = (np.frombuffer(raw, "<u2").astype(np.float64) for raw in (given, decoded))
    limit = (2**planes.DEPTH - 1) ** 2 / 10 ** (REFERENCE_DB / 10)
    error = float(np.mean((a - b) ** 2))
    if error > limit:
        reason = f"the reference came back with a mean squared error of {error:.1f}"
        raise CodecError("VVC+M", f"{reason}, above {limit:.1f}")


def second_picture(stream: bytes) -> bytes:
    """The end of a stream of two pictures, from the second's access unit delimiter."""
    # A delimiter, unit type 20, begins an access unit, and so has a start code of four bytes
    # (ITU-T H.266, table 5 and annex B).
    starts = [
        found.start()
        for found in re.finditer(b"\x00\x00\x00\x01", stream)
        if stream[found.end() + 1] >> 3 == 20
    ]
    if len(starts) != 2:
        raise CodecError("VVC+M", f"the stream has {len(starts)} access units, not 2")
    return stream[starts[1] :]
