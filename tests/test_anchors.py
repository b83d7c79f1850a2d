"""Anchors: which codecs a study has, streams kept once, and points that others measured too."""

import ast
import contextlib
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from skimage import data

from sic import images, params
from sic.anchors import cached, classical, programs, vvc_m
from sic.anchors.classical import Anchor, Still
from sic.anchors.programs import CodecError, MissingCodec
from sic.errors import SicError

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
SETTINGS = params.load(ROOT / "params.yaml").evaluate
PHOTO: images.Pixels = np.ascontiguousarray(data.coffee()[100:164, 200:264])
NOTHING = {
    **{codec: {"qp": []} for codec in ("vvc", "vvc_m", "hevc")},
    **{"avif": {"quality": []}, "jpeg_xl": {"distance": []}, "webp": [], "jpeg": []},
}


def settings(**asked: Any) -> params.Evaluate:
    """Of the committed study, with no classical codec but these."""
    content = SETTINGS.model_dump()
    for codec, values in {**NOTHING, **asked}.items():
        content[codec] = {**content[codec], **values} if isinstance(values, dict) else values
    return params.Evaluate.model_validate(content)


class Counted:
    """JPEG that counts how often it is asked to code."""

    knob = "quality"

    def __init__(self) -> None:
        self.jpeg, self.coded = classical.jpeg(), 0
        self.setup = self.jpeg.setup

    def encode(self, image: images.Pixels, setting: float) -> bytes:
        self.coded += 1
        return self.jpeg.encode(image, setting)

    def decode(self, stream: bytes, height: int, width: int) -> images.Pixels:
        return self.jpeg.decode(stream, height, width)


# ---- which codecs ----------------------------------------------------------------------------


def test_only_what_is_asked_for_is_looked_for() -> None:
    assert cached.find(settings()) == ([], {})
    ((anchor, values),), missing = cached.find(settings(jpeg=[5, 50]))
    assert (anchor.setup.codec, values, missing) == ("JPEG", [5, 50], {})


def test_a_codec_that_no_program_has_is_left_out_and_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(programs, "ffmpegs", lambda: iter(["/nowhere/ffmpeg", sys.executable]))
    asked = settings(vvc={"qp": [37]}, hevc={"qp": [37]}, jpeg=[5])
    found, missing = cached.find(asked)
    assert [a.setup.codec for a, _ in found] == ["JPEG"], "none takes the name of another"
    why = f"/nowhere/ffmpeg: No such file or directory; {sys.executable}: it does not say that it"
    assert list(missing) == ["VVC", "HEVC"]
    assert missing["HEVC"] == f"{why} is ffmpeg"
    assert missing["VVC"].endswith("is ffmpeg; and evaluate.vvc.vtm names no VTM")
    assert cached.left_out("HEVC", missing["HEVC"]).startswith("HEVC is left out: ")


def test_the_published_series_is_of_kodak_alone() -> None:
    kodak = [f"kodim{n:02d}" for n in range(1, 25)]
    assert cached.published(kodak) == cached.PUBLISHED_VTM_KODAK
    assert cached.published(kodak[1:]) == cached.published([*kodak, "coffee"]) == ()


# ---- coded once ------------------------------------------------------------------------------


def test_a_stream_is_coded_once_for_each_picture_and_setting(tmp_path: Path) -> None:
    codec = Counted()
    first = cached.code(codec, 20, PHOTO, tmp_path)
    again = cached.code(codec, 20, PHOTO, tmp_path)
    assert codec.coded == 1
    assert (again.stream, again.encode_seconds) == (first.stream, first.encode_seconds)
    np.testing.assert_array_equal(again.x_hat, first.x_hat)
    assert first.bpp == 8 * len(first.stream) / 64**2
    changes: list[Callable[[], object]] = [
        lambda: cached.code(codec, 21, PHOTO, tmp_path),
        lambda: cached.code(codec, 20, PHOTO[::-1], tmp_path),
        lambda: cached.code(codec, 20, PHOTO.reshape(32, 128, 3), tmp_path),
    ]
    for count, change in enumerate(changes, start=2):
        change()
        assert codec.coded == count
    codec.setup = replace(codec.setup, version="another libjpeg")
    cached.code(codec, 20, PHOTO, tmp_path)
    assert codec.coded == 5, "another program's streams are not its own"


def test_a_stream_that_failed_leaves_nothing_behind(tmp_path: Path) -> None:
    class Broken(Counted):
        def encode(self, image: images.Pixels, setting: float) -> bytes:
            raise SicError("cannot")

    with pytest.raises(SicError, match="cannot"):
        cached.code(Broken(), 20, PHOTO, tmp_path)
    assert not list(tmp_path.rglob("*"))


def test_threads_never_parse_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPython 3.11's parser fails at random in two threads at once."""

    def parse(*_: object) -> None:
        raise AssertionError("a picture that is coded on a thread parses Python")

    codec, second = Counted(), None
    with contextlib.suppress(MissingCodec):
        second = vvc_m.find("faster")
    monkeypatch.setattr(ast, "parse", parse)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda q: cached.code(codec, q, PHOTO, tmp_path), [5, 50]))
        if second is not None:
            pool.submit(vvc_m.code, second, 37, PHOTO, PHOTO, tmp_path).result()


def slope(height: int, width: int) -> images.Pixels:
    """A picture of any size that is not flat."""
    rows, columns = np.linspace(0, 255, height)[:, None, None], np.linspace(0, 255, width)[:, None]
    return np.broadcast_to((rows + columns) / 2, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "refused"),
    [
        (1, 1, {"VVC", "HEVC"}),
        (1, 300, {"HEVC"}),
        (15, 15, {"HEVC"}),
        (32, 16383, set()),
        (32, 16384, {"WebP"}),
        (32, 40000, {"WebP", "AVIF", "VVC"}),
        (65536, 8, {"WebP", "AVIF", "VVC", "HEVC", "JPEG"}),
    ],
)
def test_a_size_that_a_codec_has_not_is_one_line(
    height: int, width: int, refused: set[str], tmp_path: Path
) -> None:
    picture, at_all = slope(height, width), settings(
        vvc={"preset": "faster", "qp": [42]}, hevc={"preset": "ultrafast", "qp": [37]},
        avif={"speed": 10, "quality": [30]}, jpeg_xl={"effort": 1, "distance": [4.0]},
        webp=[40], jpeg=[40],
    )  # fmt: skip
    found, _ = cached.find(at_all)
    for anchor, (setting,) in found:
        if anchor.setup.codec in refused:
            with pytest.raises(CodecError) as error:
                cached.code(anchor, setting, picture, tmp_path)
            assert "\n" not in str(error.value)
            assert " 0x" not in error.value.reason, "the same in each run"
        else:
            assert cached.code(anchor, setting, picture, tmp_path).x_hat.shape == picture.shape


# ---- points that others measured -------------------------------------------------------------


def untuned(speed: int) -> Anchor:
    """AVIF as the reference's points were coded: not tuned for PSNR."""
    found = classical.avif(speed)
    return Still(found.setup, {**found.options, "advanced": {}})


#: The reference's name and setting; our codec and its setting.  libvvenc's own default codes an
#: intra picture three QPs finer than it is told to, and the reference's points were coded so.
EQUAL_SETTINGS: list[tuple[str, int, Callable[[], Anchor], int]] = [
    ("vvenc-fast-420-10b", 42, lambda: classical.libvvenc("fast"), 39),
    ("x265-veryslow-444-10b", 32, lambda: classical.x265("veryslow"), 32),
    ("x265-veryslow-444-10b", 42, lambda: classical.x265("veryslow"), 42),
    ("avif-444-speed4", 25, lambda: untuned(4), 25),
]


@pytest.mark.skipif(not SHARED.is_dir(), reason="Kodak and its reference points lie in ../shared")
@pytest.mark.parametrize("name", ["kodim03", "kodim23"])
@pytest.mark.parametrize(("codec", "theirs", "make", "ours"), EQUAL_SETTINGS)
def test_points_agree_with_those_of_others_at_equal_settings(
    codec: str, theirs: int, make: Callable[[], Anchor], ours: int, name: str
) -> None:
    try:
        anchor = make()
    except MissingCodec as error:
        pytest.skip(str(error))
    points = pd.read_csv(SHARED / "reference/classical_kodak.csv")
    chosen = points.codec.eq(codec) & points.image.eq(name) & points.qp.eq(theirs)
    reference = points[chosen].iloc[0]
    image = images.read(SHARED / f"data/kodak/{name}.png")
    stream = anchor.encode(image, ours)
    x_hat = anchor.decode(stream, *image.shape[:2])
    assert images.psnr(image, x_hat) == pytest.approx(reference.psnr_rgb, abs=0.1)
    assert 8 * len(stream) / x_hat[..., 0].size == pytest.approx(reference.bpp, rel=0.02)
