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


def tag(number: int, *values: int, size: str = "H") -> tuple[int, bytes]:
    """A tag of a TIFF in little-endian order, of at most four bytes."""
    content = struct.pack(f"<{len(values)}{size}", *values)
    kind = {"H": 3, "I": 4}[size]
    return number, struct.pack("<HHI4s", number, kind, len(values), content)


def gray_tiff(path: Path, bits: int, white_is_0: bool, samples: list[int], *more: Any) -> Path:
    """A TIFF of one row in any depth, its samples packed, which no library here writes."""
    packed = "".join(f"{sample:0{bits}b}" for sample in samples)
    content = int(packed.ljust(-len(packed) // 8 * -8, "0"), 2).to_bytes(-(-len(packed) // 8))
    if bits == 16:
        content = struct.pack(f"<{len(samples)}H", *samples)
    content = zlib.compress(content)
    tags = [tag(256, len(samples)), tag(257, 1), tag(258, bits), tag(259, 8)]
    tags += [tag(262, int(not white_is_0)), tag(273, 8, size="I"), tag(277, 1), tag(278, 1)]
    tags += [tag(279, len(content), size="I"), *more]
    content += bytes(len(content) % 2)
    directory = struct.pack("<H", len(tags)) + b"".join(t for _, t in sorted(tags)) + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(content)) + content + directory)
    return path


@pytest.mark.parametrize(
    ("bits", "white_is_0", "samples", "expected"),
    [
        (12, False, [0, 1024, 2048, 4095, 2047], [0, 64, 128, 255, 127]),
        (16, True, [0, 16384, 32768, 65535], [255, 191, 127, 0]),
        (16, False, [0, 16384, 32768, 65535], [0, 64, 128, 255]),
        (8, True, [0, 64, 128, 255], [255, 191, 127, 0]),
        (4, True, [0, 5, 10, 15], [255, 170, 85, 0]),
        (2, True, [0, 1, 2, 3], [255, 170, 85, 0]),
        (1, True, [0, 1], [255, 0]),
        (1, False, [0, 1], [0, 255]),
    ],
)
def test_gray_tiffs_of_all_depths_are_as_bright_as_they_are(
    bits: int, white_is_0: bool, samples: list[int], expected: list[int], tmp_path: Path
) -> None:
    pixels = images.read(gray_tiff(tmp_path / "x.tif", bits, white_is_0, samples))
    assert pixels[0].tolist() == [[value] * 3 for value in expected]


def test_big_endian_tiffs_are_right_or_refused(tmp_path: Path) -> None:
    stored = np.array([[0, 16384, 32768, 65535]], np.uint16)
    path = tiff(tmp_path / "black.tif", stored, photometric="minisblack", byteorder=">")
    assert images.read(path)[0, :, 0].tolist() == [0, 64, 128, 255]
    path = tiff(tmp_path / "8.tif", (stored >> 8).astype("u1"), photometric="miniswhite")
    assert images.read(path)[0, :, 0].tolist() == [255, 191, 127, 0]
    path = tiff(tmp_path / "white.tif", stored, photometric="miniswhite", byteorder=">")
    with pytest.raises(SicError, match=r"white\.tif .*; convert or remove it"):  # by Pillow
        images.read(path)


@pytest.mark.parametrize("bits", [6, 10, 14])
@pytest.mark.parametrize("white_is_0", [False, True])
def test_depths_that_cannot_be_read_are_refused(
    bits: int, white_is_0: bool, tmp_path: Path
) -> None:
    with pytest.raises(SicError, match=r"x\.tif is not an image that can be read; convert"):
        images.read(gray_tiff(tmp_path / "x.tif", bits, white_is_0, [0, 1]))


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32])
def test_signed_numbers_are_refused(kind: Any, tmp_path: Path) -> None:
    stored = np.array([[-100, 0, 100]], kind)
    with pytest.raises(SicError, match=r"s\.tif has signed numbers"):
        images.read(tiff(tmp_path / "s.tif", stored, photometric="minisblack"))


@pytest.mark.parametrize("white", [255, 256, 4095, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_gray_pnm_is_scaled_from_its_white(white: int, plain: bool, tmp_path: Path) -> None:
    """Of more than 8 bits Pillow makes 32."""
    samples = [0, white // 4 + 1, white]
    kind = "u1" if white < 256 else ">u2"
    content = " ".join(map(str, samples)).encode() if plain else np.array(samples, kind).tobytes()
    (tmp_path / "x.pgm").write_bytes(f"P{2 if plain else 5} 3 1 {white}\n".encode() + content)
    expected = np.round(np.array(samples) / white * 255)
    assert np.array_equal(images.read(tmp_path / "x.pgm")[0, :, 2], expected)


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


EXIF = b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"  # Orientation 6


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize(
    ("exif", "upright"),
    [
        (b"junk", False),
        (EXIF[:7], False),  # cut off in its header
        (EXIF[:9], False),  # and after it
        (EXIF[:20], False),  # and within the tag
        (EXIF[:4] + b"\xff" * 4, False),  # tags beyond its end
        (EXIF.replace(b"\0\6", b"\0\x09"), False),  # an orientation that is none
        (EXIF, True),
    ],
)
def test_damaged_exif_is_none(
    exif: bytes, upright: bool, suffix: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    options = {"exif": b"Exif\0\0" + exif}
    path = saved(tmp_path / f"x.{suffix}", Image.fromarray(ASTRONAUT[:60, :100]), **options)
    assert images.read(path).shape == ((100, 60, 3) if upright else (60, 100, 3))
    assert not recwarn.list


def test_an_avif_with_damaged_exif_is_named(tmp_path: Path) -> None:
    """Which libavif itself refuses."""
    exif = Image.Exif()
    exif[0x010E] = "a description"
    path = saved(tmp_path / "x.avif", Image.fromarray(ASTRONAUT[:60, :100]), exif=exif.tobytes())
    content = path.read_bytes()
    assert content.count(b"Exif\0\0MM\0*") == 1
    path.write_bytes(content.replace(b"Exif\0\0MM\0*", b"Exif\0\0junk"))
    with pytest.raises(SicError, match=r"cannot read .*x\.avif: .*Exif"):
        images.read(path)


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


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("place", [0, 1])
def test_a_transparent_gray_of_any_depth_shows_white(
    depth: int, place: int, tmp_path: Path
) -> None:
    top = 2**depth - 1
    samples = [0, 1, top] if depth == 1 else [0, top // 3, top // 3 + 1, top]
    packed = "".join(f"{sample:0{depth}b}" for sample in samples)
    row = int(packed.ljust(-len(packed) // 8 * -8, "0"), 2).to_bytes(-(-len(packed) // 8))
    path = png(tmp_path / "x.png", depth, 0, len(samples), row, tRNS=[samples[place]])
    expected = [255 if s == samples[place] else round(s / top * 255) for s in samples]
    assert images.read(path)[0].tolist() == [[value] * 3 for value in expected]


@pytest.mark.parametrize(("depth", "kind"), [(8, "u1"), (16, ">u2")])
def test_a_transparent_colour_is_that_colour_only(depth: int, kind: str, tmp_path: Path) -> None:
    samples = np.array([[1, 2, 3], [1, 2, 4], [2, 2, 3]]) * (1 if depth == 8 else 300)
    samples[1] -= 0 if depth == 8 else [0, 0, 299]  # the same when rounded to 8 bits
    row = samples.astype(kind).tobytes()
    pixels = images.read(png(tmp_path / "x.png", depth, 2, 3, row, tRNS=[*samples[0]]))
    expected = np.round(samples / (1 if depth == 8 else 257))
    assert pixels[0, 0].tolist() == [255] * 3
    assert np.array_equal(pixels[0, 1:], expected[1:])


@pytest.mark.parametrize("depth", [2, 4, 8])
def test_a_palette_with_transparency_of_its_own(depth: int, tmp_path: Path) -> None:
    row = {8: b"\0\1\2\3", 4: b"\x01\x23", 2: b"\x1b"}[depth]
    colours = bytes(range(10, 130, 10))
    for alpha, expected in (([255, 0], [10, 255, 70, 100]), ([255, 128, 0], [10, 147, 255, 100])):
        path = png(tmp_path / "x.png", depth, 3, 4, row, PLTE=colours, tRNS=bytes(alpha))
        assert images.read(path)[0, :, 0].tolist() == expected


@pytest.mark.parametrize("depth", [8, 16])
def test_gray_with_alpha(depth: int, tmp_path: Path) -> None:
    scale = 1 if depth == 8 else 257
    samples = np.array([10, 255, 20, 0, 30, 128, 255, 255]) * scale
    row = samples.astype("u1" if depth == 8 else ">u2").tobytes()
    pixels = images.read(png(tmp_path / "x.png", depth, 4, 4, row))
    assert pixels[0].tolist() == [[value] * 3 for value in (10, 255, 142, 255)]


def png(path: Path, depth: int, colour: int, width: int, row: bytes, **chunks: Any) -> Path:
    """A PNG of one row, with chunks as bytes or as numbers of 16 bits."""
    header = struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)
    contents = [("IHDR", header), *chunks.items(), ("IDAT", zlib.compress(b"\0" + row))]
    whole = b"\x89PNG\r\n\x1a\n"
    for name, content in (*contents, ("IEND", b"")):
        if isinstance(content, list):
            content = struct.pack(f">{len(content)}H", *content)
        check = struct.pack(">I", zlib.crc32(name.encode() + content))
        whole += struct.pack(">I", len(content)) + name.encode() + content + check
    path.write_bytes(whole)
    return path


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


@pytest.mark.parametrize("content", [b"P5 0 1 255\n", b"P5 1 0 255\n", b"P6 0 0 255\n"])
def test_a_picture_without_pixels_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.ppm").write_bytes(content)
    with pytest.raises(SicError, match=r"x\.ppm is not an image"):
        images.read(tmp_path / "x.ppm")


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
