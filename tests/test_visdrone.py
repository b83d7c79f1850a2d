"""VisDrone's text annotations, with boxes whose accuracy is known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sic.data import visdrone
from sic.data.sets import ImageRecord
from sic.errors import SicError
from sic.evaluation.accuracy import Truth
from sic.evaluation.detectors import Detections

#: A region, a car in it, a car of which a quarter is in it, a car that does not count, a bus, a
#: pedestrian of no width, something of the class "others".
ROWS = """\
0,0,100,100,0,0,0,0,
20,20,40,30,1,4,0,0
90,10,40,40,1,4,1,2
200,200,50,40,0,4,0,0

300,20,80,60,1,9,0,1
300,120,0,60,1,1,0,1
300,220,60,60,1,11,0,0
"""


def record(path: str) -> ImageRecord:
    return ImageRecord(Path(path).stem, path, 640, 480, "")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text(ROWS)
    (tmp_path / "b.txt").write_text("\ufeff10,10,50,50,1,4,0,0\r\n", encoding="utf-8")
    (tmp_path / "c.txt").write_text("")
    return tmp_path


def truth(folder: Path, names: str = "abc") -> Truth:
    return Truth(folder, visdrone.read(folder, [record(f"x/{name}.jpg") for name in names]))


def found(*boxes: tuple[str, float, list[int]]) -> Detections:
    corners = [[x, y, x + w, y + h] for _, _, (x, y, w, h) in boxes]
    return Detections(
        np.array(corners, np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in boxes], np.float32),
        [name for name, _, _ in boxes],
    )


RIGHT = [("car", 0.9, [90, 10, 40, 40]), ("bus", 0.9, [300, 20, 80, 60])]


def accuracy(folder: Path, *more: tuple[str, float, list[int]]) -> pd.DataFrame:
    marked = truth(folder)
    a, b, c = marked.pictures.values()
    car = found(("car", 0.5, [10, 10, 50, 50]))
    return marked.accuracy({a: found(*RIGHT, *more), b: car, c: found()}).set_index("name")


def test_what_counts_is_what_has_a_score_and_lies_outside_of_ignored_regions(folder: Path) -> None:
    table = accuracy(folder)
    assert table.objects.to_dict() == {
        **{"all": 3, "small": 0, "medium": 3, "large": 0},
        **{"car": 2, "bus": 1},
    }
    assert table.ap["all"] == 1


def test_boxes_in_ignored_regions_and_on_what_does_not_count_cost_nothing(folder: Path) -> None:
    table = accuracy(
        folder,
        ("car", 0.99, [20, 20, 40, 30]),
        ("bus", 0.99, [0, 0, 30, 30]),
        ("car", 0.99, [200, 200, 50, 40]),
        ("pedestrian", 0.99, [400, 400, 10, 30]),  # a class that nobody marked
    )
    assert table.ap["all"] == 1
    # The ignored car excuses no bus, and the ignored region nothing outside of it.
    assert accuracy(folder, ("bus", 0.99, [200, 200, 50, 40])).ap["bus"] == pytest.approx(0.5)
    assert accuracy(folder, ("car", 0.99, [120, 200, 50, 40])).ap["car"] < 0.8


def test_a_detector_is_asked_for_the_marked_classes_alone(folder: Path) -> None:
    truth(folder).check_classes(["bus", "car"])
    with pytest.raises(SicError, match=r"marks bus, which the detector was not trained for"):
        truth(folder).check_classes(["car"])


def test_numbers_and_names_of_the_classes() -> None:
    assert len(visdrone.NAMES) == 12
    assert (visdrone.NAMES[1], visdrone.NAMES[10]) == ("pedestrian", "motor")
    assert (visdrone.REGION, visdrone.OTHERS) == (0, 11)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"1,2,3,4,1,4,0", r"a\.txt, line 1 is not VisDrone's left,top,.*: '1,2,3,4,1,4,0'$"),
        (b"1,2,3,4,1,4,0,0\n1,2,3,4,1,12,0,0\n", r"a\.txt, line 2 is not VisDrone's"),
        (b"1,2,-3,4,1,4,0,0", r"line 1 is not"),
        (b"1,2,3,4,0.5,4,0,0", r"line 1 is not"),
        (b"0 0.5 0.5 0.1 0.1", r"line 1 is not"),  # YOLO's own form
        (b"1,2,3,99999999999,1,4,0,0", r"line 1 is not"),
        (b'{"images": []}', r"line 1 is not"),
        (b"\xff\xfe\x00", r"a\.txt is not text; see detect\.annotations"),
    ],
)
def test_a_wrong_file_is_one_line(content: bytes, line: str, folder: Path) -> None:
    (folder / "a.txt").write_bytes(content)
    with pytest.raises(SicError, match=line) as caught:
        truth(folder)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_one_for_two_pictures_are_one_line(folder: Path) -> None:
    with pytest.raises(SicError, match=r"there is no .*d\.txt; .* name a file for COCO-style"):
        truth(folder, "ad")
    with pytest.raises(SicError, match=r"a\.txt may be of x/a\.jpg or of y/a\.jpg; rename one"):
        visdrone.read(folder, [record("x/a.jpg"), record("y/a.jpg")])
