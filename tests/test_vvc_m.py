"""VVC+M, run for real: what is counted, that x̂_t is the reference, and what it refuses."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data

from sic import images
from sic.anchors import classical, planes, vvc_m
from sic.anchors.programs import CodecError, MissingCodec
from sic.anchors.vvc_m import VvcM

PHOTO: images.Pixels = np.ascontiguousarray(data.coffee()[100:191, 200:331])  # odd sides
BLURRED: images.Pixels = cv2.GaussianBlur(PHOTO, (0, 0), 2).astype(np.uint8)
GREY = np.full_like(PHOTO, 128)


@pytest.fixture(scope="module")
def codec() -> VvcM:
    try:
        return vvc_m.find("faster")
    except MissingCodec as error:
        pytest.skip(str(error))


def test_the_closer_the_reference_the_fewer_the_bits(codec: VvcM, tmp_path: Path) -> None:
    found = [vvc_m.code(codec, 27, PHOTO, x_hat_t, tmp_path) for x_hat_t in (PHOTO, BLURRED, GREY)]
    same, near, far = (len(coded.stream) for coded in found)
    assert 1.5 * same < near
    assert 1.2 * near < far
    assert all(images.psnr(PHOTO, coded.x_hat) > 28 for coded in found)
    assert {coded.x_hat.shape for coded in found} == {PHOTO.shape}


def test_what_is_counted_is_the_end_of_the_stream(codec: VvcM) -> None:
    stream = codec.encode(PHOTO, BLURRED, 32)
    second = vvc_m.second_picture(stream)
    assert stream.endswith(second)
    intra = classical.libvvenc("faster")
    assert len(second) < len(stream) / 2, "the reference was coded finely, and is not counted"
    with pytest.raises(CodecError, match="the stream has 1 access units, not 2"):
        vvc_m.second_picture(intra.encode(PHOTO, 32))
    with pytest.raises(CodecError, match="not two pictures'"):
        codec.decode(intra.encode(PHOTO, 32), *PHOTO.shape[:2])


def test_the_first_picture_is_x_hat_t_and_is_checked(codec: VvcM) -> None:
    first, _ = codec.decode(codec.encode(PHOTO, BLURRED, 27), *PHOTO.shape[:2])
    vvc_m.check_reference(planes.pack(BLURRED, vvc_m.CHROMA), first)
    with pytest.raises(CodecError, match="the reference came back with a mean squared error"):
        vvc_m.check_reference(planes.pack(PHOTO, vvc_m.CHROMA), first)


def test_a_finer_setting_takes_more_bits_for_a_better_picture(codec: VvcM, tmp_path: Path) -> None:
    fine, coarse = (vvc_m.code(codec, qp, PHOTO, BLURRED, tmp_path) for qp in (22, 37))
    assert len(fine.stream) > 2 * len(coarse.stream)
    assert images.psnr(PHOTO, fine.x_hat) > images.psnr(PHOTO, coarse.x_hat) + 3


def test_without_a_program_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sic.anchors.programs.ffmpegs", lambda: iter([]))
    with pytest.raises(MissingCodec):
        vvc_m.find("fast")


@pytest.mark.parametrize("size", [(15, 15), (128, 128)], ids=["small", "large"])
def test_noise_is_refused_in_words_that_hold_for_any_size(
    codec: VvcM, size: tuple[int, int]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    with pytest.raises(CodecError, match="close to noise, or small and not flat: Error submitting"):
        codec.encode(noise, noise, 32)
