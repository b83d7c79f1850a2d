import math
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage import data as photos

from sic import images
from sic.errors import SicError

ASTRONAUT = photos.astronaut()


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_png_round_trip_is_exact(tmp_path: Path) -> None:
    images.write_png(tmp_path / "a" / "x.png", ASTRONAUT)
    assert np.array_equal(images.read(tmp_path / "a" / "x.png"), ASTRONAUT)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["x.png"]


def test_grayscale_becomes_three_equal_channels(tmp_path: Path) -> None:
    gray = photos.camera()
    pixels = images.read(saved(tmp_path / "g.png", Image.fromarray(gray)))
    assert pixels.shape == (512, 512, 3)
    assert all(np.array_equal(pixels[..., c], gray) for c in range(3))


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("colour", [False, True])
def test_16_bits_are_scaled_and_rounded(tmp_path: Path, suffix: str, colour: bool) -> None:
    wide = np.random.default_rng(0).integers(0, 65536, (40, 50, 3), dtype=np.uint16)
    wide[0, 0] = 65535
    wide = wide if colour else wide[..., 0]
    path = tmp_path / f"w.{suffix}"
    assert cv2.imwrite(str(path), wide[..., ::-1] if colour else wide)
    expected = np.round(wide / 257).astype(np.uint8)
    pixels = images.read(path)
    assert np.array_equal(pixels if colour else pixels[..., 1], expected)


def lying(upright: np.ndarray, orientation: int) -> np.ndarray:
    """A picture as a camera stores it under a value of the tag Orientation."""
    return {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: np.rot90(upright.swapaxes(0, 1), 2),
        8: np.rot90(upright, -1),
    }[orientation].copy()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, tmp_path: Path) -> None:
    upright = ASTRONAUT[:60, :100]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(lying(upright, orientation))
    path = saved(tmp_path / "x.png", image, exif=exif)
    assert np.array_equal(images.read(path), upright)
    wide = tmp_path / "wide.png"
    assert cv2.imwrite(str(wide), lying(upright[..., ::-1].astype(np.uint16) * 257, orientation))
    wide.write_bytes(with_chunk(wide.read_bytes(), b"eXIf", exif.tobytes()[6:]))
    assert np.array_equal(images.read(wide), upright)
    for suffix in ("jpg", "webp", "avif"):
        path = saved(tmp_path / f"x.{suffix}", image, exif=exif, quality=95)
        assert images.psnr(images.read(path), upright) > 30, suffix


def with_chunk(png: bytes, name: bytes, content: bytes) -> bytes:
    """A PNG with another chunk after its header."""
    check = struct.pack(">I", zlib.crc32(name + content))
    return png[:33] + struct.pack(">I", len(content)) + name + content + check + png[33:]


def tiff(path: Path, pixels: np.ndarray, orientation: int = 1, **options: Any) -> Path:
    """A TIFF with the tag Orientation."""
    tags = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(path, pixels, metadata=None, extratags=tags, **options)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_is_turned_upright_once(
    bits: int, compression: str | None, orientation: int, tmp_path: Path
) -> None:
    upright = ASTRONAUT[:60, :100]
    path, options = tmp_path / "x.tif", {"compression": compression}
    stored = lying(upright if bits == 8 else upright.astype(np.uint16) * 257, orientation)
    for order in ("<", ">"):
        tiff(path, stored, orientation, photometric="rgb", byteorder=order, **options)
        assert np.array_equal(images.read(path), upright)
        tiff(path, stored[..., 0].copy(), orientation, byteorder=order, **options)
        assert np.array_equal(images.read(path)[..., 0], upright[..., 0])


def test_a_fourth_channel_of_16_bits_is_what_its_tiff_says(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 65536, (40, 50, 3), dtype=np.uint16)
    alpha = np.zeros((40, 50, 1), np.uint16)
    alpha[:10], alpha[10:20] = 65535, 30000
    straight, times_alpha = colour, np.round(colour * (alpha / 65535)).astype(np.uint16)
    on_white = np.round((colour * (alpha / 65535) + 65535 - alpha) / 257)
    for kind, stored, expected, within in (
        ("unspecified", straight, np.round(colour / 257), 0),
        ("unassalpha", straight, on_white, 1),
        ("assocalpha", times_alpha, on_white, 2),
    ):
        for orientation in (1, 6):
            four = lying(np.concatenate([stored, alpha], axis=2), orientation)
            options = {"photometric": "rgb", "extrasamples": [kind]}
            pixels = images.read(tiff(tmp_path / "x.tif", four, orientation, **options))
            assert np.abs(pixels - expected).max() <= within, (kind, orientation)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_planes_of_16_bits_are_refused_and_of_8_bits_read(
    compression: str | None, tmp_path: Path
) -> None:
    planes = np.moveaxis(ASTRONAUT, 2, 0).copy()
    options = {"photometric": "rgb", "planarconfig": "separate", "compression": compression}
    assert np.array_equal(images.read(tiff(tmp_path / "8.tif", planes, **options)), ASTRONAUT)
    path = tiff(tmp_path / "16.tif", planes.astype(np.uint16) * 257, **options)
    with pytest.raises(SicError, match=r"16\.tif has a plane for each 16-bit channel"):
        images.read(path)


def test_a_16_that_is_no_depth_of_a_channel_is_none(tmp_path: Path) -> None:
    pixels = ASTRONAUT[100:172, :72]
    rows_of_216_bytes = saved(tmp_path / "rows.bmp", Image.fromarray(pixels))
    assert np.array_equal(images.read(rows_of_216_bytes), pixels)
    white_is_1600 = tmp_path / "white.ppm"
    stored = np.round(pixels / 255 * 1600).astype(">u2")
    white_is_1600.write_bytes(b"P6 72 72 1600\n" + stored.tobytes())
    assert np.array_equal(images.read(white_is_1600), pixels)
    bits_of_a_pixel = tmp_path / "5-6-5.bmp"
    red, green, blue = np.moveaxis(pixels.astype("<u2"), 2, 0)
    stored = (red >> 3 << 11 | green >> 2 << 5 | blue >> 3)[::-1]
    header = struct.pack("<IiiHHIIiiII", 40, 72, 72, 1, 16, 3, stored.nbytes, 0, 0, 0, 0)
    masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    start = struct.pack("<2sIHHI", b"BM", 66 + stored.nbytes, 0, 0, 66)
    bits_of_a_pixel.write_bytes(start + header + masks + stored.tobytes())
    assert np.abs(images.read(bits_of_a_pixel).astype(int) - pixels).max() < 8


def test_cmyk_jpeg_shows_the_same_colours(tmp_path: Path) -> None:
    image = Image.fromarray(ASTRONAUT).convert("CMYK")
    pixels = images.read(saved(tmp_path / "c.jpg", image, quality=95))
    assert images.psnr(pixels, ASTRONAUT) > 30


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    flat = Image.fromarray(ASTRONAUT).quantize(16)
    path = saved(tmp_path / "p.png", flat)
    assert np.array_equal(images.read(path), np.array(flat.convert("RGB")))
    hidden = flat.getpixel((0, 0))
    path = saved(tmp_path / "t.png", flat, transparency=hidden)
    gone = np.array(flat) == hidden
    assert (images.read(path)[gone] == 255).all()
    assert np.array_equal(images.read(path)[~gone], np.array(flat.convert("RGB"))[~gone])


def test_alpha_is_flattened_on_white(tmp_path: Path) -> None:
    alpha = np.tile(np.linspace(0, 255, 512).astype(np.uint8), (512, 1))
    rgba = np.dstack([ASTRONAUT, alpha])
    pixels = images.read(saved(tmp_path / "a.png", Image.fromarray(rgba)))
    share = alpha[..., None] / 255
    assert np.abs(pixels - (ASTRONAUT * share + 255 * (1 - share))).max() <= 1
    opaque = np.dstack([ASTRONAUT, np.full_like(alpha, 255)])
    assert np.array_equal(
        images.read(saved(tmp_path / "o.png", Image.fromarray(opaque))), ASTRONAUT
    )


def test_16_bit_alpha_is_flattened_on_white(tmp_path: Path) -> None:
    wide = np.dstack([ASTRONAUT.astype(np.uint16) * 257, np.zeros((512, 512), np.uint16)])
    wide[:100, :, 3] = 65535
    assert cv2.imwrite(str(tmp_path / "a.png"), wide[..., [2, 1, 0, 3]])
    pixels = images.read(tmp_path / "a.png")
    assert np.array_equal(pixels[:100], ASTRONAUT[:100])
    assert (pixels[100:] == 255).all()


def test_one_bit_and_single_pixels(tmp_path: Path) -> None:
    bits = Image.fromarray(ASTRONAUT[..., 0] > 100)
    assert set(np.unique(images.read(saved(tmp_path / "b.png", bits)))) == {0, 255}
    one = images.read(saved(tmp_path / "1.png", Image.fromarray(ASTRONAUT[:1, :1])))
    assert one.shape == (1, 1, 3)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp", "avif"])
def test_a_file_that_is_cut_off_is_named(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"cut.{suffix}", Image.fromarray(ASTRONAUT))
    whole = path.read_bytes()
    for kept in (0, 10, len(whole) // 2, len(whole) * 9 // 10):
        path.write_bytes(whole[:kept])
        with pytest.raises(SicError, match=r"cut\.") as error:
            images.read(path)
        assert "\n" not in str(error.value)


def test_an_avif_with_damage_inside_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "damaged.avif", Image.fromarray(ASTRONAUT))
    content = bytearray(path.read_bytes())
    content[-2000:] = bytes(2000)
    path.write_bytes(content)
    with pytest.raises(SicError, match=r"cannot read .*damaged\.avif: .*; replace or remove it$"):
        images.read(path)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no picture")
    with pytest.raises(SicError, match=r"notes\.png is not an image"):
        images.read(tmp_path / "notes.png")
    with pytest.raises(SicError, match=r"missing\.png: No such file"):
        images.read(tmp_path / "missing.png")
    with pytest.raises(SicError, match="directory"):
        images.read(tmp_path)


def test_32_bits_a_channel_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "f.tif", Image.fromarray(np.ones((4, 4), np.float32)))
    with pytest.raises(SicError, match="32 bits"):
        images.read(path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SicError, match=r"cannot write .*x\.png"):
        images.write_png(tmp_path / "file" / "x.png", ASTRONAUT)


def test_tensor_and_back_is_exact() -> None:
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    x = images.to_tensor(every)
    assert x.shape == (1, 3, 16, 16)
    assert x.dtype == torch.float32
    assert float(x.max()) == 1
    assert np.array_equal(images.to_uint8(x), every)


def test_output_is_rounded_and_clamped() -> None:
    x_hat = torch.tensor([-0.2, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.2]).expand(1, 3, 1, 5)
    assert images.to_uint8(x_hat)[0, :, 0].tolist() == [0, 0, 1, 255, 255]


def test_nan_is_no_picture() -> None:
    with pytest.raises(SicError, match="not finite"):
        images.to_uint8(torch.full((1, 3, 2, 2), math.nan))


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([1, 64, 128]))
def test_padding_reaches_the_multiple_and_crops_back(
    height: int, width: int, multiple: int
) -> None:
    x = torch.rand(1, 3, height, width)
    padded = images.pad(x, multiple)
    assert padded.shape[2] % multiple == padded.shape[3] % multiple == 0
    assert 0 <= padded.shape[2] - height < multiple
    assert 0 <= padded.shape[3] - width < multiple
    assert torch.equal(images.crop(padded, height, width), x)
    assert torch.equal(padded[..., :height, -1], x[..., -1])
    assert torch.equal(padded[..., -1, -1], x[..., -1, -1])


def test_psnr_against_its_definition() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    assert images.psnr(black, black) == math.inf
    assert images.psnr(black, black + 255) == pytest.approx(0)
    # One grey level everywhere: 20 log10(255).
    assert images.psnr(black, black + 1) == pytest.approx(48.1308, abs=1e-4)
    with pytest.raises(ValueError, match="one shape"):
        images.psnr(black, black[:3])


def test_reading_does_not_import_torch() -> None:
    import subprocess
    import sys

    modules = "sys, sic.data.sets, sic.masks.segment, sic.masks.edges"
    code = f"import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
