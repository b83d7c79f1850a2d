"""Test vectors of the format: streams of every kind and version, the weights that read them, and
what each stage of decoding must give (docs/format.md, section 9)."""

import hashlib
import json
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from sic import images
from sic.errors import SicError, StreamError
from sic.images import Pixels
from sic.stream.container import Layer, Platform, read_layers
from sic.stream.latent import Latent
from sic.stream.scalable import Reader, ScalableCodec

VECTORS = Path("data/streams/vectors.zip")
LIST = "vectors.json"  # inside
_PICTURES: dict[Reader, str] = {"machine": "x̂_t", "human": "x̂"}  # the stage of each


def digest(content: bytes) -> str:
    """BLAKE2b-64, hexadecimal."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


@dataclass(frozen=True)
class Trace:
    """What decoding a stream gave: the digest of each stage, in order, its pictures by reader, and
    the error that ended it, if one did."""

    stages: dict[str, str]
    pictures: dict[Reader, Pixels]
    error: str = ""


def trace(codec: ScalableCodec, stream: bytes) -> Trace:
    """Decode a stream of both layers and keep what each stage gives: `base z`, `base q 1`, `base ŷ
    1`, …, then those of the second layer under its kind, then `x̂_t` and `x̂`."""
    stages: dict[str, str] = {}
    pictures: dict[Reader, Pixels] = {}
    try:
        below: list[Latent] = []
        for one, layer in zip(codec.codecs, read_layers(stream), strict=True):
            one.check(layer)

            def watch(part: str, content: bytes, layer: Layer = layer) -> None:
                stages[f"{layer.kind.label} {part}"] = digest(content)

            y_hat = below[0].y_hat if below else None
            record = (layer.z, layer.y, layer.height, layer.width)
            below.append(one.latent_coder.decode(*record, y_hat, layer.step, watch))
        for reader, stage in _PICTURES.items():
            pictures[reader] = codec.decode(stream, reader)
            stages[stage] = digest(pictures[reader].tobytes())
    except StreamError as error:
        return Trace(stages, pictures, str(error))
    return Trace(stages, pictures)


def check(path: Path = VECTORS) -> Iterator[tuple[bool, str]]:
    """Decode each stream of the vectors here: whether all is right, and a line that says so or
    names the first stage that is not.  Raises SicError if the file is missing or damaged."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder)
            wanted = json.loads((folder / LIST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            remedy = "run from the study's folder, or name the file"
            raise SicError(f"no test vectors {path}; {remedy}") from None
        except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
            remedy = f"bring it back with `git checkout {VECTORS}`"
            raise SicError(f"{path} holds no test vectors ({error}); {remedy}") from None
        load = cache(ScalableCodec.load)  # what takes the time here
        for name, about in wanted.items():
            codec = load(folder / about["base"], folder / about["enhancement"])
            stream = (folder / name).read_bytes()
            found = trace(codec, stream)
            yield _judged(name, stream, about["stages"], found, folder)


def _judged(
    name: str, stream: bytes, wanted: dict[str, str], found: Trace, folder: Path
) -> tuple[bool, str]:
    layers = read_layers(stream)
    kinds = ", ".join(f"{a.kind.label} in steps of {a.step:g}" for a in layers)
    other = [stage for stage, value in wanted.items() if found.stages.get(stage) != value]
    off: list[str] = []
    for reader, picture in found.pictures.items():
        reference = images.read(folder / f"{Path(name).stem}.{reader}.png")
        stage = _PICTURES[reader]
        apart = np.abs(picture.astype(int) - reference)
        if stage in other and apart.max() <= 1:  # what section 5 allows of pictures, not of symbols
            other.remove(stage)
            off.append(f"{np.count_nonzero(apart)} samples of {stage} differ by one level")
    if not other:
        rounded = f", {'; '.join(off)}" if off else ""
        return True, f"{name} ({kinds}): all {len(wanted)} stages are as they must be{rounded}"
    first = f"{other[0]} is the first of {len(wanted)} stages that comes out differently"
    return False, f"{name} ({kinds}): {first} on {Platform.here()}; {found.error}".rstrip("; ")
