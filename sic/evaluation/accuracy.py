"""Detection accuracy as COCO defines it: mean average precision by pycocotools' COCOeval, of boxes
and, where detector and annotations have them, of masks."""

import contextlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from sic.errors import SicError
from sic.evaluation.detectors import Detections

#: COCO's sizes by the area of the object's outline: below 32², to 96², above, in pixels.
SIZES = ("small", "medium", "large")
AREAS = Params("bbox").areaRng  # of all, then of these

#: What is held against what people marked, boxes or masks, and the prefix of its columns.
Kind = Literal["bbox", "segm"]
PREFIX: Mapping[Kind, str] = {"bbox": "", "segm": "mask_"}

#: The columns of :meth:`Truth.accuracy`: ``part`` is "all", "size" or "class"; ``ap`` is the mean
#: over IoU 0.50, 0.55 … 0.95, ``ap50`` that at IoU 0.50; both in [0, 1], NaN without masks.
COLUMNS = ["part", "name", "objects", "ap", "ap50", "mask_ap", "mask_ap50"]

Content = dict[str, list[dict[str, Any]]]

_NEEDED: Mapping[str, Mapping[str, type | UnionType]] = {
    "images": {"id": int, "file_name": str, "width": int, "height": int},
    "categories": {"id": int, "name": str},
    "annotations": dict.fromkeys(("image_id", "category_id", "iscrowd"), int)
    | {"bbox": list, "area": int | float},
}
_UNIQUE = (("images", "id"), ("images", "file_name"), ("categories", "id"), ("categories", "name"))


@dataclass(frozen=True)
class Picture:
    """A picture that the annotations list: its number, its file's name and its size in pixels."""

    id: int
    file_name: str
    width: int
    height: int


@dataclass(frozen=True)
class Matches:
    """What was found of one class, best first, and whether it is right.

    ``picture`` (D,) is the place of the picture among those looked at, ``hit`` and ``counted``
    (10 IoU, D) say what is an object and what counts at all, as nothing does that lies on a crowd;
    ``objects`` (pictures,) is the number of objects that can be found in each.
    """

    picture: NDArray[np.int64]
    hit: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    objects: NDArray[np.int64]


@dataclass(frozen=True)
class Evaluation:
    """How right a detector is: the table of :meth:`Truth.accuracy`, and the matches behind its
    first row, by class, of boxes and, if there are masks, of masks."""

    table: pd.DataFrame
    matches: Mapping[Kind, list[Matches]]


class Truth:
    """The objects that people marked, from a COCO-style file of boxes: JSON with ``images``,
    ``categories`` and ``annotations``, as ``instances_val2017.json``; ``content`` is what it holds
    where it is written in another form.  Raises SicError if the file is missing or is not such a
    file."""

    def __init__(self, path: Path, content: Content | None = None) -> None:
        self.path = path
        content = _read(path) if content is None else content
        self.pictures = {
            i["file_name"]: Picture(i["id"], i["file_name"], i["width"], i["height"])
            for i in content["images"]
        }
        self.categories = {c["name"]: c["id"] for c in content["categories"]}
        self._annotations = content["annotations"]
        self._check()

    def _check(self) -> None:
        pictures = {picture.id for picture in self.pictures.values()}
        categories = set(self.categories.values())
        for a in self._annotations:
            if a["image_id"] not in pictures or a["category_id"] not in categories:
                raise SicError(
                    f"{self.path}: an annotation is of image {a['image_id']} and category"
                    f" {a['category_id']}, of which the file does not list both"
                )
            if len(a["bbox"]) != 4 or not all(map(_is_sound, [*a["bbox"], a["area"]])):
                raise SicError(
                    f"{self.path}: an annotation of image {a['image_id']} has the box {a['bbox']}"
                    f" and the area {a['area']}; [x, y, width, height] and a number are needed"
                )

    def find(self, path: str) -> Picture:
        """The entry of a picture, which the file may name by its whole path or its last part.
        Raises SicError if there is none."""
        found = self.pictures.get(path) or self.pictures.get(Path(path).name)
        if found is None:
            remedy = "name other detect.annotations, or set detect.detector: none"
            raise SicError(f"{self.path} does not list the picture {path}; {remedy}")
        return found

    def check_classes(self, known: Sequence[str]) -> None:
        """Raise SicError, with their names, if classes are marked that a detector does not know."""
        marked = {a["category_id"] for a in self._annotations}
        names = {name for name, number in self.categories.items() if number in marked}
        if unknown := sorted(names - set(known)):
            listed = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
            raise SicError(
                f"{self.path} marks {', '.join(unknown)}, which the detector was not trained for;"
                f" rename or leave out what is not of its {len(known)} classes: {listed}"
            )

    def accuracy(self, found: Mapping[Picture, Detections]) -> pd.DataFrame:
        """Average precision over pictures with what the detector found in each.

        The table has :data:`COLUMNS`, and a row for all objects, one for each of :data:`SIZES`
        (empty where there is no such object) and one for each marked class, by its number.
        ``objects`` counts those that can be found, which crowds are not; of each class the 100 best
        per picture count.  Masks are scored if the detector gives them and everything marked in the
        pictures has an outline.  Raises SicError if nothing is marked there, or an outline is none.
        """
        return self.evaluate(found).table

    def evaluate(self, found: Mapping[Picture, Detections]) -> Evaluation:
        """Match what the detector found with what is marked; as :meth:`accuracy`."""
        pictures = {picture.id: picture for picture in found}
        marked = [a for a in self._annotations if a["image_id"] in pictures]
        alone = [a for a in marked if not a["iscrowd"]]
        if not alone:
            raise SicError(f"{self.path} marks no object in the pictures; see detect.annotations")
        objects = pd.DataFrame(alone, columns=["category_id", "area"])
        classes = {
            name: number  # by number, the order that COCOeval gives them
            for name, number in sorted(self.categories.items(), key=lambda item: item[1])
            if number in objects.category_id.array
        }
        drawn = all(a.get("segmentation") for a in marked)
        masks = drawn and all(one.masks is not None for one in found.values())
        truth = self._dataset(
            {key: a[key] for key in _NEEDED["annotations"]}
            | {"iscrowd": int(a["iscrowd"])}
            | ({"segmentation": self._outline(a, pictures[a["image_id"]])} if masks else {})
            for a in marked
        )
        numbers: tuple[list[int], list[int]] = (list(pictures), list(classes.values()))
        evaluations = {
            kind: _evaluate(truth, self._dataset(_guesses(found, classes, kind)), kind, *numbers)
            for kind in PREFIX
            if masks or kind == "bbox"
        }
        precision = {kind: one.eval["precision"][..., -1] for kind, one in evaluations.items()}
        matches = {kind: _matches(one, *numbers) for kind, one in evaluations.items()}
        return Evaluation(_table(objects, classes, precision), matches)

    def _outline(self, annotation: Mapping[str, Any], picture: Picture) -> dict[str, Any]:
        try:
            return _run_lengths(annotation["segmentation"], [picture.height, picture.width])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise SicError(
                f"{self.path}: an annotation of image {picture.id} has an outline that is neither"
                f" polygons nor run lengths of {picture.width}×{picture.height} pixels"
            ) from None

    def _dataset(self, annotations: Iterable[dict[str, Any]]) -> COCO:
        coco = COCO()
        coco.dataset = {
            "images": [
                {"id": picture.id, "height": picture.height, "width": picture.width}
                for picture in self.pictures.values()
            ],
            "categories": [{"id": number} for number in self.categories.values()],
            # Numbered anew from 1: COCOeval takes an object with the number 0 for none.
            "annotations": [a | {"id": i} for i, a in enumerate(annotations, start=1)],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        return coco


def _read(path: Path) -> Content:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise SicError(f"cannot read {path}: {error.strerror}; see detect.annotations") from None
    except (ValueError, RecursionError):
        raise SicError(f"{path} is not JSON; see detect.annotations") from None
    for section, keys in _NEEDED.items():
        entries = content.get(section) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise SicError(f"{path} is not a COCO-style file: it has no list of {section}")
        for key, kind in keys.items():
            if not all(isinstance(entry.get(key), kind) for entry in entries):
                raise SicError(f"{path} is not a COCO-style file of boxes: {section} without {key}")
    for section, key in _UNIQUE:
        values = [entry[key] for entry in content[section]]
        if len(set(values)) < len(values):
            raise SicError(f"{path} lists two {section} with one {key}")
    return content


def _is_sound(number: Any) -> bool:
    return isinstance(number, int | float) and abs(number) < 1e9  # which NaN is not


def _run_lengths(outline: Any, size: list[int]) -> dict[str, Any]:
    """An outline, a list of polygons or run lengths of a picture of this height and width, as
    COCO's compressed run lengths.  Raises one of several errors if it is neither."""
    if isinstance(outline, list):
        corners = [number for polygon in outline for number in polygon]
        # pycocotools walks along every edge, and takes less than a triangle for a box or a crash.
        if min(map(len, outline)) < 6 or not all(map(_is_sound, corners)):
            raise ValueError
        if max(map(abs, corners)) > 1e5:
            raise ValueError
        return dict(run_lengths.merge(run_lengths.frPyObjects(outline, *size)))
    counts = outline["counts"]
    if outline["size"] != size:
        raise ValueError
    if isinstance(counts, list):
        if min(counts) < 0 or sum(counts) != size[0] * size[1]:
            raise ValueError
        return dict(run_lengths.frPyObjects(outline, *size))
    run_lengths.decode(outline)
    return dict(outline)


def _guesses(
    found: Mapping[Picture, Detections], classes: Mapping[str, int], kind: Kind
) -> Iterator[dict[str, Any]]:
    """What was found, as COCO-style annotations; of masks the area is theirs, as in COCO's."""
    for picture, one in found.items():
        for i, ((x0, y0, x1, y1), score, name) in enumerate(
            zip(one.boxes.tolist(), one.scores, one.classes, strict=True)
        ):
            if name not in classes:
                continue
            guess: dict[str, Any] = {"image_id": picture.id, "category_id": classes[name]}
            guess |= {"score": float(score), "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0}
            guess["area"] = (x1 - x0) * (y1 - y0)
            if kind == "segm" and one.masks is not None:
                outline = {"size": [picture.height, picture.width], "counts": one.masks[i]}
                guess |= {"segmentation": outline, "area": float(run_lengths.area(outline))}
            yield guess


def _evaluate(
    truth: COCO, guess: COCO, kind: Kind, pictures: list[int], classes: list[int]
) -> COCOeval:
    evaluation = COCOeval(truth, guess, kind)
    evaluation.params.imgIds = pictures
    evaluation.params.catIds = classes
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _matches(evaluation: COCOeval, pictures: list[int], classes: list[int]) -> list[Matches]:
    """COCOeval's matches of each class; it has them by class, size (the first is all) and picture,
    in the order of the pictures' numbers."""
    order = np.argsort(pictures)
    by_picture = np.array(evaluation.evalImgs, object)
    found = []
    for entries in by_picture.reshape(len(classes), len(AREAS), len(pictures))[:, 0]:
        there = [(place, e) for place, e in zip(order, entries, strict=True) if e]
        scores = np.concatenate([e["dtScores"] for _, e in there])
        best = np.argsort(-scores, kind="stable")
        hit, ignored = (
            np.concatenate([e[key] for _, e in there], axis=1)[:, best].astype(bool)
            for key in ("dtMatches", "dtIgnore")
        )
        objects = np.zeros(len(pictures), np.int64)
        objects[[place for place, _ in there]] = [(e["gtIgnore"] == 0).sum() for _, e in there]
        places = np.repeat([place for place, _ in there], [len(e["dtScores"]) for _, e in there])
        found.append(Matches(places[best], hit & ~ignored, ~ignored, objects))
    return found


def _table(
    objects: pd.DataFrame, classes: Mapping[str, int], precision: Mapping[Kind, NDArray[np.float64]]
) -> pd.DataFrame:
    """The table with :data:`COLUMNS`, from COCOeval's precisions, (10 IoU, 101 recalls, classes,
    1 + sizes), −1 where nothing is marked."""

    def means(*where: Any) -> tuple[float, ...]:
        known = [precision[kind][where] if kind in precision else None for kind in PREFIX]
        return sum((_means(p) if p is not None else (math.nan, math.nan) for p in known), ())

    rows = [("all", "all", len(objects), *means(..., 0))]  # as COLUMNS has them
    for i, name in enumerate(SIZES, start=1):
        inside = objects.area.between(*AREAS[i])  # both ends count, as in COCOeval
        rows.append(("size", name, int(inside.sum()), *means(..., i)))
    for i, (name, number) in enumerate(classes.items()):
        count = int((objects.category_id == number).sum())
        rows.append(("class", name, count, *means(..., i, 0)))
    return pd.DataFrame(rows, columns=COLUMNS)


def _means(precision: NDArray[np.float64]) -> tuple[float, float]:
    """AP over all IoU, and at IoU 0.50; NaN where nothing is marked."""
    known = (values[values > -1] for values in (precision, precision[0]))
    ap, ap50 = (float(values.mean()) if values.size else math.nan for values in known)
    return ap, ap50
