"""Colour planes: BT.709 as CompressAI has it, rounded at every step, and back without loss."""

import numpy as np
import pytest
import torch
from compressai.transforms.functional import (
    rgb2ycbcr,
    ycbcr2rgb,
    yuv_420_to_444,
    yuv_444_to_420,
)
from numpy.typing import NDArray
from skimage import data

from sic import images
from sic.anchors import planes

PHOTO: images.Pixels = np.ascontiguousarray(data.coffee()[100:164, 200:290])
ODD: images.Pixels = PHOTO[:37, :51]


def samples(raw: bytes) -> NDArray[np.float64]:
    return np.frombuffer(raw, "<u2").astype(np.float64)


def compressai_planes(image: images.Pixels) -> torch.Tensor:
    """(1, 3, H, W) in [0, 1], chroma around one half."""
    return rgb2ycbcr(torch.from_numpy(image / 255).permute(2, 0, 1).unsqueeze(0))


def levels(plane: torch.Tensor, offset: float = 0.0) -> NDArray[np.float64]:
    # Grey is level 512 of 10 bits; a half of the range would be 511.5.
    return np.rint((plane.numpy() - offset) * 1023 + (512 if offset else 0)).ravel()


def test_planes_are_those_of_bt709_rounded() -> None:
    y, cb, cr = compressai_planes(PHOTO)[0]
    expected = np.concatenate([levels(y), levels(cb, 0.5), levels(cr, 0.5)])
    np.testing.assert_allclose(samples(planes.pack(PHOTO, "4:4:4")), expected, atol=1)
    assert np.mean(samples(planes.pack(PHOTO, "4:4:4")) != expected) < 0.01, "ties apart"


def test_420_is_the_mean_of_four_pixels() -> None:
    y, cb, cr = (p[0, 0] for p in yuv_444_to_420(compressai_planes(PHOTO), mode="avg_pool"))
    expected = np.concatenate([levels(y), levels(cb, 0.5), levels(cr, 0.5)])
    np.testing.assert_allclose(samples(planes.pack(PHOTO, "4:2:0")), expected, atol=1)


@pytest.mark.parametrize("picture", [PHOTO, ODD], ids=["even", "odd"])
def test_444_comes_back_without_any_error(picture: images.Pixels) -> None:
    height, width = picture.shape[:2]
    back = planes.unpack(planes.pack(picture, "4:4:4"), height, width, "4:4:4")
    np.testing.assert_array_equal(back, picture)


def test_every_corner_of_the_colour_cube_comes_back() -> None:
    steps = np.linspace(0, 255, 18).round().astype(np.uint8)  # 0, 15, …, 255
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(18, -1, 3)
    back = planes.unpack(planes.pack(cube, "4:4:4"), *cube.shape[:2], "4:4:4")
    np.testing.assert_array_equal(back, cube)


def test_420_comes_back_as_compressai_brings_it_back() -> None:
    height, width = PHOTO.shape[:2]
    back = planes.unpack(planes.pack(PHOTO, "4:2:0"), height, width, "4:2:0")
    yuv = yuv_444_to_420(compressai_planes(PHOTO), mode="avg_pool")
    rgb = ycbcr2rgb(yuv_420_to_444(yuv, mode="bilinear"))[0].clamp(0, 1)
    expected = np.rint(rgb.permute(1, 2, 0).numpy() * 255)
    np.testing.assert_allclose(back.astype(float), expected, atol=2)


@pytest.mark.parametrize(("height", "width"), [(37, 51), (36, 51), (37, 50), (1, 1)])
def test_odd_sides_lose_nothing_but_chroma(height: int, width: int) -> None:
    picture = PHOTO[:height, :width]
    raw = planes.pack(picture, "4:2:0")
    columns, rows = planes.size(height, width, "4:2:0")
    assert (rows - height, columns - width) == (height % 2, width % 2)
    assert len(raw) == 2 * 3 * rows * columns // 2
    back = planes.unpack(raw, height, width, "4:2:0")
    assert back.shape == picture.shape
    assert images.psnr(planes.luma(back), planes.luma(picture)) > 45
    assert planes.size(height, width, "4:4:4") == (width, height)


def test_a_grey_picture_has_no_chroma() -> None:
    grey = np.full((4, 4, 3), 77, np.uint8)
    for chroma in ("4:4:4", "4:2:0"):
        raw = samples(planes.pack(grey, chroma))  # type: ignore[arg-type]
        assert set(raw[16:]) == {512}
        np.testing.assert_array_equal(
            planes.unpack(raw.astype("<u2").tobytes(), 4, 4, chroma),  # type: ignore[arg-type]
            grey,
        )


def test_luma_is_rounded_not_truncated() -> None:
    # 0.7152 · 255 = 182.4 and (0.2126 + 0.0722) · 255 = 72.6: truncation would give 182 and 72.
    colours = np.array([[[0, 255, 0], [255, 0, 255], [255, 255, 255]]], np.uint8)
    assert planes.luma(colours).tolist() == [[182, 73, 255]]


@pytest.mark.parametrize("chroma", ["4:4:4", "4:2:0"])
def test_too_few_samples_are_refused(chroma: planes.Chroma) -> None:
    raw = planes.pack(PHOTO, chroma)
    with pytest.raises(ValueError, match=r"reshape|split"):
        planes.unpack(raw[:-2], *PHOTO.shape[:2], chroma)
    with pytest.raises(ValueError, match=r"reshape|split"):
        planes.unpack(raw + b"\0\0", *PHOTO.shape[:2], chroma)
