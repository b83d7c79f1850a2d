"""AP of masks beside that of boxes, on pictures whose answer was worked out by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as run_lengths

from sic.errors import SicError
from sic.evaluation.accuracy import Picture, Truth
from sic.evaluation.detectors import Detections

SIDE = 100
Box = tuple[int, int, int, int]  # x, y, width, height
WHOLE: Box = (10, 20, 40, 40)
PART: Box = (10, 20, 40, 30)  # three quarters of it: right at IoU 0.50, 0.55 … 0.75, 6 of 10
ELSEWHERE: Box = (60, 70, 20, 20)


def corners(box: Box) -> list[int]:
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def filled(box: Box) -> np.ndarray:
    x, y, width, height = box
    found = np.zeros((SIDE, SIDE), np.uint8, order="F")
    found[y : y + height, x : x + width] = 1
    return found


def found(*objects: tuple[Box, Box, float]) -> Detections:
    """Dogs by box, mask and score."""
    boxes = [[x, y, x + width, y + height] for (x, y, width, height), _, _ in objects]
    scores = np.array([score for *_, score in objects], np.float32)
    masks = [run_lengths.encode(filled(mask))["counts"] for _, mask, _ in objects]
    boxes_array = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(boxes_array, scores, ["dog"] * len(objects), masks)


def annotation(image: int, outline: Any, crowd: int = 0) -> dict[str, Any]:
    about = {"image_id": image, "category_id": 18, "iscrowd": crowd, "segmentation": outline}
    return {**about, "bbox": list(WHOLE), "area": 1600}


Make = Callable[..., Truth]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(*outlines: Any) -> Truth:
        """One dog in each picture, with this outline; the box is WHOLE."""
        content = {
            "images": [
                {"id": i, "file_name": f"{i}.png", "width": SIDE, "height": SIDE}
                for i, _ in enumerate(outlines)
            ],
            "categories": [{"id": 18, "name": "dog"}],
            "annotations": [annotation(i, outline) for i, outline in enumerate(outlines)],
        }
        path = tmp_path / "dogs.json"
        path.write_text(json.dumps(content))
        return Truth(path)

    return make


def ap(truth: Truth, *each: Detections) -> list[float]:
    """AP and AP50 of boxes, then of masks."""
    pictures: list[Picture] = list(truth.pictures.values())
    table = truth.accuracy(dict(zip(pictures, each, strict=True)))
    values: list[float] = table.loc[0, ["ap", "ap50", "mask_ap", "mask_ap50"]].tolist()
    return values


POLYGON = [corners(WHOLE)]
COUNTS = {"size": [SIDE, SIDE], "counts": [1020, *[40, 60] * 39, 40, 5040]}


@pytest.mark.parametrize("outline", [POLYGON, COUNTS])
def test_masks_are_right_or_wrong_by_themselves(make: Make, outline: Any) -> None:
    truth = make(outline)
    assert ap(truth, found((WHOLE, WHOLE, 0.9))) == pytest.approx([1, 1, 1, 1])
    assert ap(truth, found((WHOLE, PART, 0.9))) == pytest.approx([1, 1, 0.6, 1])
    assert ap(truth, found((PART, WHOLE, 0.9))) == pytest.approx([0.6, 1, 1, 1])
    assert ap(truth, found((WHOLE, ELSEWHERE, 0.9))) == pytest.approx([1, 1, 0, 0])
    assert ap(truth, found()) == [0, 0, 0, 0]


def test_a_false_one_above_a_hit_halves_the_precision(make: Make) -> None:
    truth = make(POLYGON)
    false, hit = (ELSEWHERE, ELSEWHERE, 0.9), (WHOLE, WHOLE, 0.5)
    assert ap(truth, found(false, hit)) == pytest.approx([0.5] * 4)
    assert ap(truth, found(hit, (*false[:2], 0.1))) == pytest.approx([1] * 4), "and below it none"
    only_the_mask = found((WHOLE, ELSEWHERE, 0.9), hit)  # the second box has nothing left to find
    assert ap(truth, only_the_mask) == pytest.approx([1, 1, 0.5, 0.5])


def test_one_of_two_objects_is_half_of_the_recalls(make: Make) -> None:
    truth = make(POLYGON, COUNTS)
    half = 51 / 101  # recalls 0, 0.01 … 0.50 of COCO's 101
    assert ap(truth, found((WHOLE, WHOLE, 0.9)), found()) == pytest.approx([half] * 4)
    above = found((ELSEWHERE, ELSEWHERE, 0.95))
    assert ap(truth, found((WHOLE, WHOLE, 0.9)), above) == pytest.approx([half / 2] * 4)


def test_masks_that_detector_or_annotations_lack_have_no_accuracy(make: Make) -> None:
    truth = make(POLYGON, [])
    both = found((WHOLE, WHOLE, 0.9))
    assert ap(truth, both, both)[:2] == pytest.approx([1, 1])
    assert np.isnan(ap(truth, both, both)[2:]).all()
    plain = Detections(both.boxes, both.scores, both.classes)
    assert np.isnan(ap(make(POLYGON), plain)[2:]).all()


def test_the_area_of_a_found_mask_is_its_own(make: Make) -> None:
    """A false box is excused where its size is another: so is a mask, by its own size."""
    truth = make(POLYGON)  # of 1600 pixels: medium
    small = found(((60, 10, 38, 38), ELSEWHERE, 0.9), (WHOLE, WHOLE, 0.5))
    table = truth.accuracy({truth.find("0.png"): small}).set_index("name")
    assert table.ap["medium"] == pytest.approx(0.5), "38² is medium, too"
    assert table.mask_ap["medium"] == pytest.approx(1), "20² is small"


@pytest.mark.parametrize(
    "outline",
    [
        "dog",
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, "5", 6]],
        [[1, 2, 3, 4, 1e8, 6]],
        [3],
        {"counts": [10000]},
        {"size": [SIDE, SIDE], "counts": [1, 2]},
        {"size": [SIDE, SIDE], "counts": [-1, 10001]},
        {"size": [50, 200], "counts": [10000]},
        {"size": [SIDE, SIDE], "counts": "ooo"},
        {"size": [SIDE, SIDE], "counts": 5},
    ],
)
def test_an_outline_that_is_none_is_one_line(make: Make, outline: Any) -> None:
    truth = make(outline)
    with pytest.raises(SicError, match=r"dogs\.json: an annotation of image 0 has an outline"):
        ap(truth, found((WHOLE, WHOLE, 0.9)))
    boxes = found((WHOLE, WHOLE, 0.9))
    plain = Detections(boxes.boxes, boxes.scores, boxes.classes)
    assert ap(truth, plain)[0] == pytest.approx(1), "who asks for boxes alone does not care"
