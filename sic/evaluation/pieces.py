"""One picture through one codec at one point: the piece of work that evaluation is made of.

    picture ── codec ── file ── codec ── decoded picture      numbers: bits, measures, seconds

What comes of a piece is one zip below ``checkpoints/coded``, named after all that it depends on:
weights or program, setting, picture, code.  A run that was stopped, or one with other settings,
makes the missing ones.  In it lie ``row.json``, the numbers; ``picture.webp`` (or ``.png``), the
decoded picture without loss, if others show it; and of the study's codecs ``stream.sic``, the file.
"""

import io
import json
import zipfile
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from PIL import Image

from sic import images
from sic.anchors.programs import CodecError
from sic.errors import SicError
from sic.evaluation.metrics import Metrics
from sic.files import sha256, write_bytes
from sic.images import Pixels
from sic.source import fingerprint
from sic.work import WORK

CACHE = WORK / "coded"
_STREAM, _ROW = "stream.sic", "row.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # of every entry, so that equal results give equal files
_WEBP_SIDE = 16383  # pixels, at most


@dataclass(frozen=True)
class Coded:
    """What a codec made of a picture: a row's numbers, the decoded picture, uint8 (H, W, 3), and
    the `.sic` file; the classical codecs keep their streams themselves."""

    numbers: dict[str, float]
    x_hat: Pixels
    stream: bytes = b""


@dataclass(frozen=True)
class Result:
    """The file that a piece left."""

    path: Path

    def row(self) -> dict[str, Any]:
        """The numbers of the piece's row, or a note in place of them."""
        found: dict[str, Any] = json.loads(self._read(_ROW))
        return found

    def stream(self) -> bytes:
        """The `.sic` file."""
        return self._read(_STREAM)

    def picture(self) -> tuple[str, bytes] | None:
        """The file of the decoded picture, with its suffix, if there is one."""
        with self._open() as file:
            names = [name for name in file.namelist() if name.startswith("picture")]
            return (Path(names[0]).suffix, file.read(names[0])) if names else None

    def pixels(self) -> Pixels:
        """The decoded picture, uint8 (H, W, 3), of a piece that has one."""
        found = self.picture()
        assert found is not None
        return np.asarray(Image.open(io.BytesIO(found[1])).convert("RGB"))

    def _read(self, name: str) -> bytes:
        with self._open() as file:
            return file.read(name)

    def _open(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile) as error:
            problem = f"cannot read {self.path} ({error})"
            raise SicError(f"{problem}; remove it and run the same command again") from None


def pack(row: Mapping[str, Any], x_hat: Pixels | None = None, stream: bytes = b"") -> bytes:
    """The content of a result's file."""
    content = io.BytesIO()
    entries = {_ROW: json.dumps(row).encode()}
    entries |= {_STREAM: stream} if stream else {}
    if x_hat is not None:
        suffix, picture = lossless(x_hat)
        entries[f"picture{suffix}"] = picture
    with zipfile.ZipFile(content, "w") as file:
        for name, part in entries.items():
            file.writestr(zipfile.ZipInfo(name, _EPOCH), part)
    return content.getvalue()


def lossless(x_hat: Pixels) -> tuple[str, bytes]:
    """A picture's file and its suffix: WebP at its quickest, which on decoded photos is an eighth
    smaller than PNG in a tenth of the time; PNG where a side is too long for WebP."""
    content = io.BytesIO()
    if max(x_hat.shape) > _WEBP_SIDE:
        Image.fromarray(x_hat).save(content, "PNG", compress_level=1)
        return ".png", content.getvalue()
    Image.fromarray(x_hat).save(content, "WebP", lossless=True, method=0, quality=20)
    return ".webp", content.getvalue()


class Coder(Hashable, Protocol):
    """A codec at a point, as pickle can hand it to another process."""

    @property
    def about(self) -> dict[str, Any]:
        """What its rows begin with."""

    @property
    def recipe(self) -> Any:
        """What its results depend on besides picture and code, as JSON holds it."""

    @property
    def shown(self) -> bool:
        """Whether others show the decoded pictures."""

    @property
    def base(self) -> "Coder | None":
        """The codec of the layer below, whose result on the same picture this one builds on."""

    def code(self, image: Pixels, below: Result | None) -> Coded:
        """Code and decode uint8 (H, W, 3) RGB.  Raises CodecError if the codec cannot code this
        picture, and SicError if it fails."""


@dataclass(frozen=True, eq=False)
class Piece:
    """A picture's file, and what codes it; ``below`` is the piece of the layer below."""

    picture: Path
    coder: Coder
    lpips: Path | None
    below: "Piece | None"
    path: Path

    @classmethod
    def of(cls, picture: Path, digest: str, coder: Coder, lpips: Path | None = None) -> "Piece":
        """The piece of a picture with this SHA-256; the measures have LPIPS if its weights are
        named."""
        below = cls.of(picture, digest, coder.base, lpips) if coder.base else None
        path = CACHE / _place(coder, lpips) / f"{digest[:16]}.zip"
        return cls(picture, coder, lpips, below, path)

    def result(self) -> Result:
        """What came of it; made here if it is missing."""
        if not self.path.exists():
            write_bytes(self.path, self.make())
        return Result(self.path)

    def make(self) -> bytes:
        """Code the picture and measure what comes back, as a result's file.  Where the codec cannot
        code this picture, the row has a note in place of numbers."""
        image = images.read(self.picture)
        below = self.below.result() if self.below else None
        try:
            coded = self.coder.code(image, below)
        except CodecError as error:
            return pack({"note": error.reason})
        row = {**coded.numbers, **_metrics(self.lpips)(image, coded.x_hat)}
        return pack(row, coded.x_hat if self.coder.shown else None, coded.stream)


@lru_cache(maxsize=1)
def _metrics(lpips: Path | None) -> Metrics:
    return Metrics(lpips)


@cache
def _place(coder: Coder, lpips: Path | None) -> str:
    """The folder of a coder's results: its point, and all that they depend on but the picture."""
    kinds = [type(coder), *([type(coder.base)] if coder.base else []), Piece]
    mark = fingerprint([coder.recipe, coder.shown, lpips and sha256(lpips)], *kinds)
    return f"{'-'.join(point_folder(coder.about).parts)}-{mark}".replace(" ", "-")


def decoded(about: Mapping[str, Any] | pd.Series, name: str, root: Path) -> Path:
    """The file of a picture, by its name, that a row's codec and point decoded, below a folder that
    has those of all.  Raises SicError if it is not there."""
    for suffix in (".webp", ".png"):
        path = root / point_folder(about) / f"{name}{suffix}"
        if path.is_file():
            return path
    raise SicError(f"no {path.with_suffix('.webp')}; run the evaluate stage again")


def point_folder(about: Mapping[str, Any] | pd.Series) -> Path:
    """The folder of the pictures of a row's codec and point: `LIC/q1`, `JPEG/quality-10`."""
    return Path(about["codec"], label(about.get("m"), about["point"]).replace(" ", "-"))


def label(m: int | None, point: str) -> str:
    """A rate point in one word, as results/metrics.json has it: `q1`, `m5-q2`, or `all`."""
    parts = (f"m{m}" if pd.notna(m) else "", point if pd.notna(point) else "")
    return "-".join(part for part in parts if part) or "all"
