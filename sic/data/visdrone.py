"""VisDrone-DET's own annotations, one text file per picture, as the COCO-style content that
pycocotools scores."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from sic.data.sets import ImageRecord
from sic.errors import SicError

#: The classes, each at its number in the files.
NAMES = (
    *("ignored regions", "pedestrian", "people", "bicycle", "car", "van", "truck", "tricycle"),
    *("awning-tricycle", "bus", "motor", "others"),
)
REGION, OTHERS = NAMES.index("ignored regions"), NAMES.index("others")
ROW = "left,top,width,height,score,category,truncation,occlusion"
# Some of its rows end with a comma.
_ROW = re.compile(r"(-?\d{1,6}),(-?\d{1,6}),(\d{1,6}),(\d{1,6}),([01]),(\d{1,2}),\d,\d,?")

Row = tuple[int, ...]


def read(folder: Path, pictures: Iterable[ImageRecord]) -> dict[str, list[dict[str, Any]]]:
    """The images, categories and annotations of these pictures from ``folder/NAME.txt``, where NAME
    is the last part of a picture's path without its suffix.  Boxes are in pixels.

    What does not count follows VisDrone's toolkit.  ``others`` are left out, and so are objects of
    which at least half lies in ignored regions.  Objects with score 0 are crowds, in which a box of
    their class is neither right nor wrong, and an ignored region is a crowd of every class that is
    marked.  (A box is excused there if the share of it that lies inside reaches the IoU asked for;
    the toolkit always asks for one half.)  Raises SicError for a missing or wrong file, and for two
    pictures that would share one.
    """
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    regions: list[tuple[int, Row]] = []
    owners: dict[Path, str] = {}
    for number, record in enumerate(pictures, start=1):
        path = folder / f"{Path(record.path).stem}.txt"
        if (owner := owners.setdefault(path, record.path)) != record.path:
            raise SicError(f"{path} may be of {owner} or of {record.path}; rename one")
        size = {"width": record.width, "height": record.height}
        images.append({"id": number, "file_name": record.path, **size})
        rows = _rows(path)
        ignored = [row for row in rows if row[5] == REGION]
        inside = np.zeros((record.height, record.width), bool)
        for left, top, width, height, *_ in ignored:
            inside[_window(left, top, width, height)] = True
        regions += [(number, row) for row in ignored]
        for *box, score, category in rows:
            left, top, width, height = box
            if category in (REGION, OTHERS) or 2 * inside[_window(*box)].sum() >= width * height:
                continue  # so also what has no area
            objects.append(_annotation(number, category, box, crowd=not score))
    marked = sorted({a["category_id"] for a in objects if not a["iscrowd"]})
    crowds = [_annotation(n, c, row[:4], crowd=True) for n, row in regions for c in marked]
    counted = range(REGION + 1, OTHERS)
    return {
        "images": images,
        "categories": [{"id": number, "name": NAMES[number]} for number in counted],
        "annotations": [a for a in objects if a["category_id"] in marked] + crowds,
    }


def _rows(path: Path) -> list[Row]:
    """Left, top, width, height, score and category of each row."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise SicError(
            f"there is no {path}; a folder in detect.annotations holds VisDrone's text files, one "
            "per picture: name a file for COCO-style boxes"
        ) from None
    except OSError as error:
        raise SicError(f"cannot read {path}: {error.strerror}; see detect.annotations") from None
    except UnicodeDecodeError:
        raise SicError(f"{path} is not text; see detect.annotations") from None
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        if not (text := re.sub(r"\s", "", line)):
            continue
        found = _ROW.fullmatch(text)
        if not found or int(found[6]) >= len(NAMES):
            raise SicError(f"{path}, line {number} is not VisDrone's {ROW}: {line.strip()[:60]!r}")
        rows.append(tuple(map(int, found.groups())))
    return rows


def _window(left: int, top: int, width: int, height: int) -> tuple[slice, slice]:
    """Rows and columns of a box, of which the picture may hold a part."""
    return slice(max(top, 0), max(top + height, 0)), slice(max(left, 0), max(left + width, 0))


def _annotation(number: int, category: int, box: Iterable[int], crowd: bool) -> dict[str, Any]:
    left, top, width, height = box
    return {
        "image_id": number,
        "category_id": category,
        "bbox": [left, top, width, height],
        "area": width * height,
        "iscrowd": int(crowd),
    }
