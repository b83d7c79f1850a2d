"""People's outlines as segments: COCO's polygons and run lengths, and its panoptic maps."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pycocotools import mask as coco

from sic import images
from sic.errors import SicError
from sic.files import sha256
from sic.masks.records import Record, encode, record, run_lengths

Outlines = Literal["instances", "panoptic"]
Unlisted = Literal["error", "empty"]


class Annotations:
    """The outlines in COCO-style files, by picture; both scores are 1, for people give none.

    ``instances``: objects as polygons or run lengths, crowds included.  ``panoptic``: every object
    and every stretch of background, from PNG maps in the folder beside the file that has its name
    (``panoptic_val2017.json`` and ``panoptic_val2017/``).
    """

    def __init__(
        self, paths: Sequence[Path], outlines: Outlines, unlisted: Unlisted = "error"
    ) -> None:
        """Read the files.  Raises SicError if one is missing, damaged or of the other kind."""
        self.outlines = outlines
        self.unlisted = unlisted
        self.images: dict[str, tuple[Path, Mapping[str, Any]]] = {}
        self.of_image: dict[tuple[Path, int], list[Any]] = {}
        for path in paths:
            self._read(Path(path))

    def _read(self, path: Path) -> None:
        try:
            content = json.loads(path.read_bytes())
            numbers: set[Any] = set()
            for image in content["images"]:
                name, number = image["file_name"], image["id"]
                if number in numbers:
                    raise SicError(f"{path} lists two images with the id {number}")
                numbers.add(number)
                if name in self.images:
                    raise SicError(
                        f"{path} lists the image {name}, as {self.images[name][0]} does; "
                        "name each by its path below data.root"
                    )
                self.images[name] = (path, image)
            for annotation in content["annotations"]:
                if ("segments_info" in annotation) != (self.outlines == "panoptic"):
                    kind = "panoptic" if self.outlines == "instances" else "instances"
                    raise SicError(f"{path} holds {kind}; set segment.outlines: {kind}")
                number = annotation["image_id"]
                if number not in numbers:
                    raise SicError(f"{path} outlines the image {number!r}, which it does not list")
                self.of_image.setdefault((path, number), []).append(annotation)
        except OSError as error:
            raise SicError(f"cannot read {path}: {error.strerror}; see data.annotations") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise SicError(f"{path} is not a COCO-style file of annotations") from None

    def segments(self, path: str, height: int, width: int) -> list[Record]:
        """The outlines of one picture as records.  The files may name it by its path below the
        images' root, or by the last part.  Raises SicError if no file lists it, unless that is to
        mean that it has none, or with another size, or for a bad outline."""
        found = self.images.get(path) or self.images.get(Path(path).name)
        if found is None and self.unlisted == "empty":
            return []
        if found is None:
            files = ", ".join(sorted({str(file) for file, _ in self.images.values()})) or "nothing"
            raise SicError(f"no annotations list the image {path} (read: {files})")
        file, image = found
        listed = image.get("height"), image.get("width")
        if listed != (height, width):
            raise SicError(f"{path} is {width}×{height}, but {listed[1]}×{listed[0]} in {file}")
        annotations = self.of_image.get((file, image["id"]), [])
        try:
            if self.outlines == "panoptic":
                return [r for a in annotations for r in _panoptic(a, file, height, width)]
            return [record(_run_lengths(a, height, width), 1.0, 1.0) for a in annotations]
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise SicError(f"{file} has a bad outline for {path}: {error}") from None


def checksum(path: Path, outlines: Outlines) -> str:
    """Hexadecimal SHA-256 of a file of outlines; of panoptic ones, over the maps beside it too."""
    if outlines == "instances":
        return sha256(path)
    maps = sorted(path.with_suffix("").glob("*.png"))
    sums = "".join(f"{file.name} {sha256(file)}" for file in maps)
    return hashlib.sha256(f"{sha256(path)}{sums}".encode()).hexdigest()


def _run_lengths(annotation: Mapping[str, Any], height: int, width: int) -> Any:
    """Polygons, or plain or compressed run lengths, as compressed run lengths."""
    # pycocotools trusts its input: wrong numbers would end the process, or write outside the mask.
    outline = annotation["segmentation"]
    if isinstance(outline, list):
        for part in outline:
            points = np.asarray(part, np.float64)
            if points.ndim != 1 or points.size < 6 or points.size % 2:
                raise ValueError("a polygon needs three points")
            if not (np.abs(points.reshape(-1, 2)) <= (10 * width, 10 * height)).all():
                raise ValueError("a polygon goes far outside the picture, or is not of numbers")
        if not outline:
            raise ValueError("no polygon")
        return coco.merge(coco.frPyObjects(outline, height, width))
    counts = outline["counts"]
    lengths = run_lengths([counts])[0] if isinstance(counts, str) else np.asarray(counts)
    lengths = lengths.astype(np.float64)  # in which a sum cannot wrap around
    whole = lengths.ndim == 1 and (lengths >= 0).all() and (lengths == np.floor(lengths)).all()
    if not whole or lengths.sum() != height * width or outline["size"] != [height, width]:
        raise ValueError("run lengths that do not fill the image")
    return coco.frPyObjects(outline | {"counts": lengths.astype(int).tolist()}, height, width)


def _panoptic(annotation: Mapping[str, Any], file: Path, height: int, width: int) -> list[Record]:
    """The segments of a panoptic map, whose colours are their numbers: R + 256 G + 256² B."""
    path = file.with_suffix("") / annotation["file_name"]
    colours = images.read(path).astype(np.int32)
    if colours.shape[:2] != (height, width):
        raise SicError(f"{path} has another size than its image ({width}×{height})")
    numbers = colours @ np.array([1, 256, 256**2], np.int32)
    return [encode(numbers == s["id"], 1.0, 1.0) for s in annotation["segments_info"]]
