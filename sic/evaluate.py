"""Rate and distortion of every codec on the test images: one tidy table, a row an image and codec.

Rates are lengths of real streams; the entropy model's estimate stands beside them as a check.
Distortion is PSNR on 8-bit RGB, padding cropped away.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from sic import images
from sic.bitstream import ScalableCodec
from sic.errors import SicError
from sic.images import Pixels
from sic.params import Params

#: The columns of the table.  ``bpp`` = ``bpp_base`` + ``bpp_additional``; ``psnr`` is of the
#: picture for people, ``psnr_machine`` of x̂_t; ``lmbda``, ``m``, ``psnr_machine`` and
#: ``bpp_estimated`` are empty where a codec has none.
COLUMNS = [
    "image",
    "codec",
    "point",
    "lmbda",
    "m",
    "bpp_base",
    "bpp_additional",
    "bpp",
    "bpp_estimated",
    "psnr_machine",
    "psnr",
]


@dataclass(frozen=True)
class Trained:
    """A trained codec of the study: where its weights lie and which point it is.

    Args:
        codec: SA-ICM, LIC, fusion or difference.
        point: rate point of params.yaml, `base` for SA-ICM.
        lmbda: λ it was trained with.
        base: checkpoint of the layer that decodes alone.
        enhancement: checkpoint of the second layer, if any.
        m: slices of the additional codec.
    """

    codec: str
    point: str
    lmbda: float
    base: Path
    enhancement: Path | None = None
    m: int | None = None


def trained(params: Params, artifacts: Path = Path("artifacts")) -> Iterator[Trained]:
    """The codecs that params.yaml asks for, never what happens to lie in the folder."""
    base = artifacts / "sa_icm/codec.safetensors"
    yield Trained("SA-ICM", "base", params.sa_icm.lmbda, base)
    for point in params.lic.quality:
        lmbda = params.quality[point].lmbda
        yield Trained("LIC", point, lmbda, artifacts / f"lic/{point}/codec.safetensors")
    for m in params.fusion.m:
        for point in params.fusion.quality:
            weights = artifacts / f"fusion/m{m}-{point}/codec.safetensors"
            yield Trained("fusion", point, params.quality[point].lmbda, base, weights, m)
    for point in params.difference.quality:
        weights = artifacts / f"difference/{point}/codec.safetensors"
        yield Trained("difference", point, params.quality[point].lmbda, base, weights)


def code(codec: ScalableCodec, image: Pixels) -> dict[str, float]:
    """Write and read one picture's stream.

    Returns:
        The numeric columns of the table.

    Raises:
        SicError: if the stream does not decode to what its writer had.
    """
    encoding = codec.encode_layers(image)
    layers = [encoding.base, *([encoding.enhancement] if encoding.enhancement else [])]
    pixels = image.shape[0] * image.shape[1]
    bpp = [8 * len(layer.stream) / pixels for layer in layers]
    x_hat_t = codec.decode(encoding.base.stream, "machine")
    x_hat = codec.decode(encoding.stream, "human") if encoding.enhancement else x_hat_t
    return {
        "bpp_base": bpp[0],
        "bpp_additional": sum(bpp[1:]),
        "bpp": sum(bpp),
        "bpp_estimated": sum(layer.estimated.total for layer in layers) / pixels,
        "psnr_machine": images.psnr(image, x_hat_t),
        "psnr": images.psnr(image, x_hat),
    }


def classical(image: Pixels, codec: str, quality: int) -> dict[str, float]:
    """JPEG or WebP at one of Pillow's qualities; the rate is the length of the file.

    JPEG is 4:2:0 with optimised tables, WebP is lossy at method 6 (also 4:2:0).
    """
    file = io.BytesIO()
    # Each of the two formats ignores the other's option.
    Image.fromarray(image).save(file, codec, quality=quality, optimize=True, method=6)
    bpp = 8 * file.tell() / (image.shape[0] * image.shape[1])
    decoded = np.asarray(Image.open(file).convert("RGB"))
    return {
        "bpp_base": bpp,
        "bpp_additional": 0.0,
        "bpp": bpp,
        "psnr": images.psnr(image, decoded),
    }


def mean_colour(image: Pixels) -> dict[str, float]:
    """Sending nothing but the picture's mean colour: what every codec must beat."""
    flat = np.broadcast_to(image.mean(axis=(0, 1)).round().astype(np.uint8), image.shape)
    bpp = 24 / (image.shape[0] * image.shape[1])
    return {
        "bpp_base": bpp,
        "bpp_additional": 0.0,
        "bpp": bpp,
        "psnr": images.psnr(image, flat),
    }


def evaluate(pictures: dict[str, Pixels], params: Params, device: str = "cpu") -> pd.DataFrame:
    """Every codec on every picture.

    Args:
        pictures: uint8 (H, W, 3) by name.
        params: which codecs there are, and the anchors' settings.
        device: where the transforms run.

    Raises:
        SicError: if there are no pictures, or a checkpoint is missing.
    """
    if not pictures:
        raise SicError("there are no test images; set data.test in params.yaml")
    rows: list[dict[str, Any]] = []
    codecs = list(trained(params))
    with tqdm(total=len(codecs) * len(pictures), desc="evaluate", unit="stream") as bar:
        for item in codecs:
            codec = ScalableCodec.load(item.base, item.enhancement, device)
            about = {"codec": item.codec, "point": item.point, "lmbda": item.lmbda, "m": item.m}
            for name, image in pictures.items():
                rows.append({"image": name, **about, **code(codec, image)})
                bar.update()
    for name, image in pictures.items():
        rows.append({"image": name, "codec": "mean colour", "point": "", **mean_colour(image)})
        for codec_name, settings in (
            ("JPEG", params.evaluate.jpeg),
            ("WebP", params.evaluate.webp),
        ):
            rows += [
                {"image": name, "codec": codec_name, "point": str(q)}
                | classical(image, codec_name, q)
                for q in settings
            ]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"m": "Int64"})


def means(table: pd.DataFrame) -> pd.DataFrame:
    """Means over the images of each codec's points, in the order of the table."""
    keys = ["codec", "point", "lmbda", "m"]
    numbers = [c for c in COLUMNS if c not in ("image", *keys)]
    return table.groupby(keys, sort=False, dropna=False)[numbers].mean().reset_index()


def metrics(table: pd.DataFrame) -> dict[str, Any]:
    """The means as a nested dictionary, for `dvc metrics`: codec → point → number."""
    found: dict[str, Any] = {}
    for row in means(table).to_dict("records"):
        point = "-".join(
            str(part)
            for part in (f"m{row['m']}" if pd.notna(row["m"]) else "", row["point"])
            if part
        )
        numbers = {
            key: round(row[key], 4)
            for key in ("bpp_base", "bpp_additional", "bpp", "psnr_machine", "psnr")
            if pd.notna(row[key])
        }
        found.setdefault(str(row["codec"]), {})[point or "all"] = numbers
    return found
