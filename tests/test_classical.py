"""The classical codecs, run for real: each does what its row says, by its own stream's word."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from sic import images
from sic.anchors import classical, planes, programs
from sic.anchors.classical import Anchor, Video
from sic.anchors.programs import MissingCodec

PHOTO: images.Pixels = np.ascontiguousarray(data.coffee()[100:191, 200:331])  # odd sides

#: Each codec at little effort, and two settings, the finer one first.
CODECS: dict[str, tuple[Callable[[], Anchor], float, float]] = {
    "VVC": (lambda: classical.libvvenc("faster"), 27, 42),
    "HEVC": (lambda: classical.x265("ultrafast"), 27, 42),
    "AVIF": (lambda: classical.avif(10), 70, 20),
    "JPEG XL": (lambda: classical.jpeg_xl(1), 1.0, 6.0),
    "WebP": (classical.webp, 80, 10),
    "JPEG": (classical.jpeg, 80, 10),
}


def make(name: str) -> Anchor:
    try:
        return CODECS[name][0]()
    except MissingCodec as error:
        pytest.skip(str(error))


@pytest.fixture(params=CODECS)
def codec(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_finer_settings_take_more_bits_for_a_better_picture(codec: str) -> None:
    anchor, (_, fine, coarse) = make(codec), CODECS[codec]
    sizes, qualities = [], []
    for setting in (fine, coarse):
        stream = anchor.encode(PHOTO, setting)
        x_hat = anchor.decode(stream, *PHOTO.shape[:2])
        assert (x_hat.shape, x_hat.dtype) == (PHOTO.shape, np.uint8)
        sizes.append(len(stream))
        qualities.append(images.psnr(PHOTO, x_hat))
    assert sizes[0] > 1.5 * sizes[1]
    assert qualities[0] > qualities[1] + 3
    assert qualities[1] > 20


def test_equal_settings_give_equal_bytes(codec: str) -> None:
    anchor, (_, _, coarse) = make(codec), CODECS[codec]
    assert anchor.encode(PHOTO, coarse) == anchor.encode(PHOTO, coarse)
    assert anchor.setup.codec == codec


# ---- what the streams say of themselves ------------------------------------------------------


def headers(anchor: Anchor, qp: int) -> str:
    """The headers of a video codec's stream, as ffmpeg's bitstream filter writes them out."""
    assert isinstance(anchor, Video)
    words = ["-f", anchor.stream, "-i", "-", "-c", "copy", "-bsf:v", "trace_headers"]
    done = subprocess.run(
        [anchor.program.path, *words, "-f", "null", "-"],
        input=anchor.encode(PHOTO, qp),
        capture_output=True,
    )
    return done.stderr.decode()


def field(text: str, name: str) -> int:
    found = re.search(rf"\b{name} +[01]+ = (-?\d+)", text)
    assert found, f"no {name} in the stream"
    return int(found[1])


@pytest.mark.parametrize("qp", [22, 37])
def test_vvc_codes_the_picture_at_the_qp_that_it_says(qp: int) -> None:
    text = headers(make("VVC"), qp)
    assert 26 + field(text, "pps_init_qp_minus26") + field(text, "sh_qp_delta") == qp
    assert field(text, "sps_chroma_format_idc") == 1, "4:2:0"
    assert field(text, "sps_bitdepth_minus8") == 2, "10 bits"


@pytest.mark.parametrize("qp", [22, 37])
def test_hevc_codes_the_picture_at_the_qp_that_it_says(qp: int) -> None:
    text = headers(make("HEVC"), qp)
    assert 26 + field(text, "init_qp_minus26") + field(text, "slice_qp_delta") == qp
    assert field(text, "chroma_format_idc") == 3, "4:4:4"
    assert field(text, "bit_depth_luma_minus8") == 2, "10 bits"


@pytest.mark.parametrize("codec", ["JPEG", "AVIF", "WebP"])
def test_a_still_picture_is_a_whole_file(codec: str, tmp_path: Path) -> None:
    anchor = make(codec)
    path = tmp_path / "picture"
    path.write_bytes(anchor.encode(PHOTO, 50))
    with Image.open(path) as picture:
        assert picture.format == codec.upper()
        assert picture.size == (131, 91)
        if codec == "JPEG":
            factors = [layer[1:3] for layer in picture.layer]  # type: ignore[attr-defined]
            assert factors == [(2, 2), (1, 1), (1, 1)], "4:2:0"


def test_avif_keeps_full_chroma_and_is_tuned_for_psnr() -> None:
    anchor = make("AVIF")
    assert isinstance(anchor, classical.Still)
    assert anchor.options["subsampling"] == anchor.setup.chroma == "4:4:4"
    untuned = classical.Still(anchor.setup, {**anchor.options, "advanced": {}})
    assert anchor.encode(PHOTO, 30) != untuned.encode(PHOTO, 30)
    # Red and blue stripes of one pixel: halved chroma would leave nothing of them.
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2, 0] = stripes[:, 1::2, 2] = 255
    assert images.psnr(stripes, anchor.decode(anchor.encode(stripes, 90), 64, 64)) > 30


# ---- by capability ---------------------------------------------------------------------------


def test_a_program_that_lacks_the_codec_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    anchor, real = make("VVC"), list(programs.ffmpegs())
    monkeypatch.setattr(programs, "ffmpegs", lambda: iter([sys.executable, *real]))
    found = classical.libvvenc("faster")
    assert found.setup == anchor.setup
    assert re.fullmatch(r"libvvenc \d\S* \(FFmpeg \S+\)", found.setup.version)
    assert found.program.version in found.setup.version


def test_no_program_no_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "ffmpegs", lambda: iter([]))
    monkeypatch.setattr("PIL.features.check", lambda name: False)
    for find in (classical.libvvenc, classical.x265):
        with pytest.raises(MissingCodec, match="neither on the PATH nor in a wheel"):
            find("fast")
    with pytest.raises(MissingCodec, match="neither on the PATH"):
        classical.jpeg_xl(7)
    for find in (lambda: classical.avif(6), classical.webp, classical.jpeg):
        with pytest.raises(MissingCodec, match="Pillow is built without it"):
            find()


def test_a_label_names_codec_program_effort_and_chroma() -> None:
    found = classical.label("VVC", "libvvenc 1.15 (FFmpeg 9.0)", "fast", "4:2:0", 10)
    assert found == "VVC (libvvenc 1.15, fast, 4:2:0 10 bit)"


def test_planes_are_converted_here_not_by_ffmpeg() -> None:
    anchor = make("HEVC")
    assert isinstance(anchor, Video)
    raw = anchor.program.decode(anchor.encode(PHOTO, 1), ["-f", "hevc"], anchor.samples)
    wanted = np.frombuffer(planes.pack(PHOTO, "4:4:4"), "<u2").astype(float)
    assert np.abs(np.frombuffer(raw, "<u2") - wanted).mean() < 1, "of 1023 levels"
