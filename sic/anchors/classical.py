"""The classical codecs, each with the set-up that its points are to be read with.

    image ── encode ── stream ── decode ── x̂          rate: the length of the stream

A codec comes from the first program here that proves on a dark picture that it can code and
decode; one that no program has is a MissingCodec, which says why.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import PIL
from PIL import Image, features

from sic.anchors import planes, programs
from sic.anchors.planes import Chroma
from sic.anchors.programs import CodecError, Ffmpeg, MissingCodec, Vtm
from sic.images import Pixels


@dataclass(frozen=True)
class Setup:
    """What a reader must know to repeat a curve; columns of the table of results."""

    codec: str  # VVC, HEVC, …
    version: str  # of the program that coded
    preset: str  # effort and tuning
    chroma: Chroma
    bit_depth: int  # bits per sample inside the codec
    colour: str  # the conversion between RGB and what is coded


def label(codec: str, version: str, preset: str, chroma: str, bit_depth: int) -> str:
    """A codec with its set-up, for a figure's legend."""
    program = re.sub(r" \(.*\)", "", version)
    return f"{codec} ({program}, {preset}, {chroma} {bit_depth} bit)"


class Anchor(Protocol):
    """A codec with one set-up."""

    @property
    def setup(self) -> Setup:
        """What its points are to be read with."""

    @property
    def knob(self) -> str:
        """Name of the number that steers its rate."""

    def encode(self, image: Pixels, setting: float) -> bytes:
        """The stream of uint8 (H, W, 3) RGB.  Raises CodecError if the codec cannot."""

    def decode(self, stream: bytes, height: int, width: int) -> Pixels:
        """The picture in a stream, uint8 (height, width, 3) RGB.  Raises CodecError if the codec
        cannot, ValueError if the stream has not as many samples."""


@dataclass(frozen=True)
class Video:
    """An intra picture of a video codec, by ffmpeg."""

    setup: Setup
    program: Ffmpeg
    stream: str  # ffmpeg's name of the bare stream's format
    options: Callable[[int], Sequence[str]]  # the encoder and its settings at a QP
    knob: str = "QP"

    @property
    def samples(self) -> str:
        """ffmpeg's name of the planes' format."""
        return f"yuv{self.setup.chroma.replace(':', '')}p{self.setup.bit_depth}le"

    def encode(self, image: Pixels, setting: float) -> bytes:
        """The stream of uint8 (H, W, 3) RGB at a QP."""
        raw = planes.pack(image, self.setup.chroma)
        size = planes.size(image.shape[0], image.shape[1], self.setup.chroma)
        options = self.options(int(setting))
        return self.program.encode(raw, self.samples, size, options, self.stream)[0]

    def decode(self, stream: bytes, height: int, width: int) -> Pixels:
        """The picture in a stream."""
        raw = self.program.decode(stream, ["-f", self.stream], self.samples)
        return planes.unpack(raw, height, width, self.setup.chroma)


def libvvenc(preset: str) -> Video:
    """VVC by Fraunhofer's encoder, which has 4:2:0 only; decoded by ffmpeg itself."""
    setup = Setup("VVC", "libvvenc", preset, "4:2:0", planes.DEPTH, planes.COLOUR)
    return _video(setup, r"libvvenc version: (\S+)", "vvc", partial(_libvvenc, preset))


def _libvvenc(preset: str, qp: int) -> list[str]:
    # Without IntraQPOffset=0 the picture is coded three steps finer than it says; without `-g 1`
    # its header speaks of pictures that never come; `qpa` is for the eye, not for PSNR.
    encoder = ["-c:v", "libvvenc", "-preset", preset, "-qp", f"{qp}", "-qpa", "0"]
    return [*encoder, "-g", "1", "-vvenc-params", "IntraQPOffset=0"]


def x265(preset: str) -> Video:
    """HEVC at 4:4:4, tuned for PSNR."""
    setup = Setup("HEVC", "x265", f"{preset}, tune psnr", "4:4:4", planes.DEPTH, planes.COLOUR)
    return _video(setup, r"HEVC encoder version (\S+)", "hevc", partial(_x265, preset))


def _x265(preset: str, qp: int) -> list[str]:
    # `info` would write 2 kB of settings into the stream; `ipratio` would code three QPs finer.
    encoder = ["-c:v", "libx265", "-preset", preset, "-tune", "psnr", "-x265-params"]
    return [*encoder, f"qp={qp}:ipratio=1:info=0:keyint=1:pools=none:frame-threads=1"]


def _video(
    setup: Setup, version: str, stream: str, options: Callable[[int], Sequence[str]]
) -> Video:
    """The codec by the first ffmpeg that has it; the encoder's own words tell its version."""

    def use(program: Ffmpeg) -> Video:
        anchor = Video(setup, program, stream, options)
        said = program.prove(anchor.samples, options(37), stream, ["-f", stream])
        number = re.search(version, said)
        name = f"{setup.version} {number[1] if number else 'of unknown version'}"
        return replace(anchor, setup=replace(setup, version=f"{name} (FFmpeg {program.version})"))

    return programs.first(use)


@dataclass(frozen=True)
class VtmIntra:
    """An intra picture of VVC by its reference software, 4:4:4."""

    setup: Setup
    program: Vtm
    knob: str = "QP"

    def encode(self, image: Pixels, setting: float) -> bytes:
        """The stream of uint8 (H, W, 3) RGB at a QP."""
        size = planes.size(image.shape[0], image.shape[1], "4:4:4")
        return self.program.encode(planes.pack(image, "4:4:4"), size, planes.DEPTH, int(setting))

    def decode(self, stream: bytes, height: int, width: int) -> Pixels:
        """The picture in a stream."""
        return planes.unpack(self.program.decode(stream, planes.DEPTH), height, width, "4:4:4")


def vtm_intra(folder: Path) -> VtmIntra:
    """VVC by the VTM that the user built.  Raises SicError if there is none in the folder."""
    program = Vtm.find(folder)
    version, preset = f"VTM {program.version}", programs.CONFIGURATION
    return VtmIntra(Setup("VVC", version, preset, "4:4:4", planes.DEPTH, planes.COLOUR), program)


_PICTURES = "image2pipe"  # ffmpeg's format of pictures' files
_LIBJXL_READER = ("-f", _PICTURES, "-c:v", "libjxl")


@dataclass(frozen=True)
class JpegXl:
    """JPEG XL by ffmpeg's libjxl."""

    setup: Setup
    program: Ffmpeg
    effort: int
    knob: str = "distance"

    def encode(self, image: Pixels, setting: float) -> bytes:
        """The file of uint8 (H, W, 3) RGB at a distance: 1 is visually lossless, more is less."""
        size, options = (image.shape[1], image.shape[0]), self.options(setting)
        return self.program.encode(image.tobytes(), "rgb24", size, options, _PICTURES)[0]

    def decode(self, stream: bytes, height: int, width: int) -> Pixels:
        """The picture in a file."""
        raw = self.program.decode(stream, _LIBJXL_READER, "rgb24")
        return np.frombuffer(raw, np.uint8).reshape(height, width, 3)

    def options(self, distance: float) -> list[str]:
        """What ffmpeg's libjxl gets."""
        return ["-c:v", "libjxl", "-distance", f"{distance}", "-effort", f"{self.effort}"]


def jpeg_xl(effort: int) -> JpegXl:
    """JPEG XL, lossy, at an effort of 1 to 9."""

    def use(program: Ffmpeg) -> JpegXl:
        version, colour = f"libjxl (FFmpeg {program.version})", "RGB in; XYB inside, by libjxl"
        setup = Setup("JPEG XL", version, f"effort {effort}", "4:4:4", 8, colour)
        anchor = JpegXl(setup, program, effort)
        program.prove("rgb24", anchor.options(1), _PICTURES, _LIBJXL_READER)
        return anchor

    return programs.first(use)


@dataclass(frozen=True)
class Still:
    """A codec of Pillow, which calls the format as we call the codec."""

    setup: Setup
    options: Mapping[str, object]  # what ``save`` gets besides the quality
    knob: str = "quality"

    def encode(self, image: Pixels, setting: float) -> bytes:
        """The file of uint8 (H, W, 3) RGB at one of Pillow's qualities, 0 to 100."""
        file = io.BytesIO()
        try:
            picture = Image.fromarray(image)
            picture.save(file, self.setup.codec, quality=int(setting), **self.options)
        except (OSError, ValueError, RuntimeError) as error:
            raise CodecError("Pillow cannot code the picture", str(error)) from None
        return file.getvalue()

    def decode(self, stream: bytes, height: int, width: int) -> Pixels:
        """The picture in a file."""
        try:
            picture = Image.open(io.BytesIO(stream), formats=[self.setup.codec])
            return np.asarray(picture.convert("RGB"))
        except (OSError, ValueError, RuntimeError):
            reason = "what Pillow wrote it does not read"
            raise CodecError("Pillow cannot decode the picture", reason) from None


def avif(speed: int) -> Still:
    """AVIF (AV1) at a speed of 0 to 10, tuned for PSNR, which saves 11 to 12 % of the bits."""
    version, preset = _in_pillow("libavif", "avif"), f"speed {speed}, tune psnr"
    setup = Setup("AVIF", version, preset, "4:4:4", 8, "YCbCr BT.601 full range, by libavif")
    options = {"speed": speed, "subsampling": "4:4:4", "advanced": {"tune": "psnr"}}
    return Still(setup, {**options, "max_threads": 1})


def webp() -> Still:
    """WebP, lossy, at its slowest method; it has 4:2:0 only."""
    version, colour = _in_pillow("libwebp", "webp"), "YCbCr BT.601 limited range, by libwebp"
    return Still(Setup("WebP", version, "method 6", "4:2:0", 8, colour), {"method": 6})


def jpeg() -> Still:
    """Baseline JPEG, 4:2:0, with optimised Huffman tables."""
    turbo = features.check("libjpeg_turbo")
    version = _in_pillow(*(("libjpeg-turbo", "libjpeg_turbo") if turbo else ("libjpeg", "jpg")))
    colour = "YCbCr BT.601 full range, by libjpeg"
    setup = Setup("JPEG", version, "optimised tables", "4:2:0", 8, colour)
    return Still(setup, {"optimize": True, "subsampling": "4:2:0"})


def _in_pillow(library: str, feature: str) -> str:
    if not features.check(feature):
        raise MissingCodec("Pillow is built without it")
    return f"{library} {features.version(feature)} (Pillow {PIL.__version__})"
