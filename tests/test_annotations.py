import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco
from skimage import data as photos
from test_data import coco_copy

from sic import images, params
from sic.data import sets
from sic.errors import SicError
from sic.files import sha256
from sic.masks import annotations, edges, records, segment
from sic.masks.annotations import Annotations

STUDY = params.load(Path(__file__).parents[1] / "params.yaml")
SHARED = Path(__file__).parents[2] / "shared" / "data" / "coco_val"


def instances(path: Path, *annotations: dict[str, Any], height: int = 40, width: int = 60) -> Path:
    image = {"id": 7, "file_name": "a.png", "height": height, "width": width}
    found = [{"image_id": 7, "category_id": 1, "iscrowd": 0, **a} for a in annotations]
    path.write_text(json.dumps({"images": [image], "annotations": found, "categories": []}))
    return path


def rectangle() -> np.ndarray:
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:50] = True
    return mask


def plain_run_lengths(mask: np.ndarray) -> dict[str, Any]:
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    counts = np.diff(np.concatenate([[0], changes, [flat.size]]))
    return {"size": list(mask.shape), "counts": counts.tolist()}


def test_polygons_plain_and_compressed_run_lengths_are_one_mask(tmp_path: Path) -> None:
    mask = rectangle()
    compressed = coco.encode(np.asfortranarray(mask, np.uint8))
    compressed["counts"] = compressed["counts"].decode()
    outlines = (
        [[20, 10, 50, 10, 50, 30, 20, 30]],
        [[20, 10, 35, 10, 35, 30, 20, 30], [35, 10, 50, 10, 50, 30, 35, 30]],  # in two parts
        plain_run_lengths(mask),
        compressed,
    )
    path = instances(tmp_path / "i.json", *({"segmentation": outline} for outline in outlines))
    found = Annotations([path], "instances").segments("a.png", 40, 60)
    assert len(found) == 4
    for one in found:
        assert np.array_equal(records.decode(one), mask)
        assert one["bbox"] == [20, 10, 30, 20]
        assert one["area"] == 600
        assert (one["predicted_iou"], one["stability_score"]) == (1, 1)


def test_pictures_are_found_by_path_or_name(tmp_path: Path) -> None:
    path = instances(tmp_path / "i.json", {"segmentation": [[1, 1, 9, 1, 9, 9]]})
    people = Annotations([path], "instances")
    assert people.segments("val2017/a.png", 40, 60) == people.segments("a.png", 40, 60)
    with pytest.raises(SicError, match=r"no annotations list the image b\.png .*i\.json"):
        people.segments("b.png", 40, 60)
    with pytest.raises(SicError, match=r"a\.png is 60×41, but 60×40 in"):
        people.segments("a.png", 41, 60)


def test_a_picture_listed_twice_is_refused(tmp_path: Path) -> None:
    """Which of them is meant no one can tell: pictures of two folders may share a name."""
    one, other = (instances(tmp_path / f"{name}.json") for name in "ij")
    with pytest.raises(SicError, match=r"j\.json lists the image a\.png, as .*i\.json does"):
        Annotations([one, other], "instances")


def test_a_picture_without_objects_has_no_segments(tmp_path: Path) -> None:
    assert (
        Annotations([instances(tmp_path / "i.json")], "instances").segments("a.png", 40, 60) == []
    )


def test_panoptic_maps(tmp_path: Path) -> None:
    numbers = np.full((40, 60), 5, np.int64)
    numbers[rectangle()] = 3 + 256 * 2 + 256**2 * 1
    colours = np.stack([numbers % 256, numbers // 256 % 256, numbers // 256**2], -1)
    images.write_png(tmp_path / "panoptic_val2017" / "a.png", colours.astype(np.uint8))
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 40, "width": 60}],
        "annotations": [
            {
                "image_id": 7,
                "file_name": "a.png",
                "segments_info": [{"id": 5}, {"id": 3 + 256 * 2 + 256**2}],
            }
        ],
    }
    path = tmp_path / "panoptic_val2017.json"
    path.write_text(json.dumps(content))
    ground, thing = Annotations([path], "panoptic").segments("a.jpg", 40, 60)
    assert np.array_equal(records.decode(thing), rectangle())
    assert np.array_equal(records.decode(ground), ~rectangle())
    with pytest.raises(SicError, match=r"set segment\.outlines: panoptic"):
        Annotations([path], "instances")
    (tmp_path / "panoptic_val2017" / "a.png").unlink()
    with pytest.raises(SicError, match=r"panoptic_val2017/a\.png: No such file"):
        Annotations([path], "panoptic").segments("a.jpg", 40, 60)


def test_panoptic_maps_count_in_the_checksum(tmp_path: Path) -> None:
    path = tmp_path / "panoptic_val2017.json"
    path.write_text("{}")
    seen = {annotations.checksum(path, "panoptic")}
    for name, value in (("a", 1), ("a", 2), ("b", 2)):
        (tmp_path / "panoptic_val2017").mkdir(exist_ok=True)
        (tmp_path / "panoptic_val2017" / f"{name}.png").write_bytes(bytes([value]))
        seen.add(annotations.checksum(path, "panoptic"))
    assert len(seen) == 4
    assert annotations.checksum(path, "instances") == sha256(path)


def test_annotations_are_a_file_or_a_folder_of_them(tmp_path: Path) -> None:
    def named(path: Path, outlines: str = "instances") -> list[Path]:
        content = STUDY.data.model_dump() | {"source": "folder", "annotations": str(path)}
        return sets.annotation_files(params.Data.model_validate(content), outlines, tmp_path)

    for name in (
        "instances_train.json",
        "instances_val.json",
        "panoptic_val.json",
        "captions.json",
    ):
        (tmp_path / "people" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "people" / name).write_text("{}")
    train, val, panoptic, _ = sorted(
        (tmp_path / "people").iterdir(), key=lambda p: (p.name[0] == "c", p.name)
    )
    assert named(tmp_path / "people") == [train, val]
    assert named(tmp_path / "people", "panoptic") == [panoptic]
    assert named(train) == [train]
    with pytest.raises(
        SicError, match=r"name the folder that holds panoptic_val\.json and its maps"
    ):
        named(panoptic, "panoptic")
    with pytest.raises(SicError, match=r"no \*instances\*\.json in"):
        named(tmp_path)
    with pytest.raises(SicError, match=r"data\.annotations: there is no file .*none\.json"):
        named(tmp_path / "none.json")


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "i.json"
    for bad in ("", "[]", "{}", '{"images": 3, "annotations": []}', "[" * 100_000):
        path.write_text(bad)
        with pytest.raises(SicError, match=r"i\.json is not a COCO-style file"):
            Annotations([path], "instances")
    with pytest.raises(SicError, match="cannot read"):
        Annotations([tmp_path / "none.json"], "instances")
    size = [40, 60]
    for outline in (
        [[1, 2]],
        [],
        5,
        {"counts": "x"},
        {"size": [40, 61], "counts": [2440]},
        {"size": size, "counts": [2399]},
        {"size": size, "counts": [2500, -100]},
        {"size": size, "counts": "0ZZZZ5"},
        {"size": size, "counts": ""},
        *({"size": size, "counts": counts} for counts in BAD_COUNTS),
        *([[1, 1, 9, 1, 9, number]] for number in BAD_NUMBERS),
        *([[number, 1, 9, 1, 9, 9, 1, 9]] for number in BAD_NUMBERS),
        [[1, 1, 9, 1, 9, 9], [1, 1, 9, 1, math.nan, 9]],
        [[[1, 1], [9, 1], [9, 9]]],
        [[1, 1, 9, 1, 9, 9], 5],
        [[1, 1, 9, 1, 9, 9], None],
        [{"x": 1}],
    ):
        instances(path, {"segmentation": outline})
        with pytest.raises(SicError, match=r"i\.json has a bad outline for a\.png") as error:
            Annotations([path], "instances").segments("a.png", 40, 60)
        assert "\n" not in str(error.value)


#: What would end the process, or write outside the mask, in pycocotools.
BAD_NUMBERS = [math.nan, math.inf, -math.inf, None, 1e9, -1e9, 10**400, 1e300, "far", [], {}]
BAD_COUNTS = [
    [],
    None,
    {},
    [-1, 2401],
    [2400, 2400],
    [2401],
    [0.5, 2399.5],
    [math.nan],
    [math.inf, -math.inf],
    [[1200], [1200]],
    ["many"],
    [2**63, 2**63, 2400],  # the sum of 64 bits would be right
    [2**64 + 2400],
    [10**400],
    "!!",
    "é",
    "~~~~0",
    "oooooooooooooooooooooooo0",
    "PPPPPPPPPPPPPPPPPPPPPPPP0",
]


def test_a_polygon_may_leave_the_picture_and_numbers_may_be_long(tmp_path: Path) -> None:
    """As people's outlines of hidden parts do; and what some programs write of whole numbers."""
    cut = [[20, -10, 80, -10, 80, 100, 20, 100]]
    floats = {"size": [40, 60], "counts": [800.0, 1600.0]}
    path = instances(tmp_path / "i.json", {"segmentation": cut}, {"segmentation": floats})
    right = np.zeros((40, 60), bool)
    right[:, 20:] = True
    for one in Annotations([path], "instances").segments("a.png", 40, 60):
        assert np.array_equal(records.decode(one), right)


def test_numbers_that_two_pictures_or_none_have_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "i.json"
    entry = {"id": 7, "height": 40, "width": 60}
    both = [{**entry, "file_name": name} for name in ("a.png", "b.png")]
    path.write_text(json.dumps({"images": both, "annotations": []}))
    with pytest.raises(SicError, match=r"i\.json lists two images with the id 7"):
        Annotations([path], "instances")
    outline = {"segmentation": [[1, 1, 9, 1, 9, 9]]}
    for number in ("7", 8, None):
        marks = [{**outline, "image_id": number}]
        path.write_text(json.dumps({"images": both[:1], "annotations": marks}))
        with pytest.raises(
            SicError, match=rf"i\.json outlines the image {number!r}, which it does"
        ):
            Annotations([path], "instances")
    path.write_text(json.dumps({"images": [{"id": 7, "file_name": "a.png"}], "annotations": []}))
    with pytest.raises(SicError, match=r"a\.png is 60×40, but None×None in .*i\.json"):
        Annotations([path], "instances").segments("a.png", 40, 60)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_annotations_as_windows_programs_write_them(encoding: str, tmp_path: Path) -> None:
    path = instances(tmp_path / "i.json", {"segmentation": [[1, 1, 9, 1, 9, 9]]})
    path.write_text(path.read_text(), encoding=encoding)
    assert len(Annotations([path], "instances").segments("a.png", 40, 60)) == 1


def test_one_entry_for_two_pictures_is_refused(tmp_path: Path) -> None:
    root, file = tmp_path / "mine", tmp_path / "outlines.json"
    for i, name in enumerate(("a/0001", "b/2", "c/0001")):
        images.write_png(root / f"{name}.png", photos.coffee()[i : 100 + i, :150])
    content = STUDY.model_dump()
    content["data"] |= {"source": "folder", "root": str(root), "annotations": str(file)}
    content["data"] |= {"train": ["a/0001"], "validation": ["b/2"], "test": ["c/0001"]}
    content["segment"]["segmenter"] = "annotations"
    chosen = params.Params.model_validate(content)
    sets.prepare(chosen.data, 0, tmp_path / "data")

    def segmented(*names: str) -> Any:
        size = {"height": 100, "width": 150}
        listed = [{"id": i, "file_name": name, **size} for i, name in enumerate(names)]
        file.write_text(json.dumps({"images": listed, "annotations": []}))
        return segment.run(chosen, tmp_path / "data", tmp_path / "checkpoints")

    with pytest.raises(
        SicError, match=r"0001\.png may be a/0001\.png or c/0001\.png; list each by"
    ):
        segmented("0001.png", "2.png")
    # Neither another case nor Windows' separators name a picture.
    for name in ("a/0001.PNG", "A/0001.png", r"a\0001.png"):
        with pytest.raises(SicError, match=r"no annotations list the image a/0001\.png"):
            segmented(name, "2.png", "c/0001.png")
    assert segmented("a/0001.png", "2.png", "c/0001.png")["images"] == 3
    assert segmented("a/0001.png", "2.png", "0001.png")["images"] == 3, "what is left has the name"


def test_a_folder_with_a_coco_style_file(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    listed, outlines = [], []
    for i in range(3):
        images.write_png(root / f"{i}.png", photos.coffee()[:100, :150])
        listed.append({"id": i, "file_name": f"{i}.png", "height": 100, "width": 150})
        outlines.append({"image_id": i, "segmentation": [[10, 10, 90, 10, 90, 80, 10, 80]]})
    (root / "outlines.json").write_text(json.dumps({"images": listed, "annotations": outlines}))
    content = STUDY.model_dump()
    content["data"] |= {"source": "folder", "root": str(root), "train": "all"}
    content["data"] |= {"validation": ["0"], "test": ["1"]}
    content["segment"]["segmenter"] = "annotations"
    chosen = params.Params.model_validate(content)
    sets.prepare(chosen.data, 0, tmp_path / "data")
    with pytest.raises(SicError, match=r"data\.annotations: name the file"):
        segment.run(chosen, tmp_path / "data", tmp_path / "checkpoints")
    content["data"]["annotations"] = str(root / "outlines.json")
    chosen = params.Params.model_validate(content)
    header = segment.run(chosen, tmp_path / "data", tmp_path / "checkpoints")
    assert header is not None
    assert (header["segmenter"], header["stand_in"], header["records"]) == ("annotations", False, 3)
    density = edges.run(chosen, tmp_path / "data", tmp_path / "checkpoints")
    assert density is not None
    assert all(0.02 < value < 0.1 for value in density.values())


def test_real_coco_end_to_end(tmp_path: Path) -> None:
    """A copy of COCO laid out as published: data, people's outlines, edges."""
    if not SHARED.is_dir():
        pytest.skip("the COCO pictures are not at hand")
    real = json.loads((SHARED / "instances.json").read_text())
    root = coco_copy(tmp_path / "coco", train=1, val=1)
    shutil.rmtree(root / "val2017")
    shutil.rmtree(root / "train2017")
    for split, chosen in (("train2017", real["images"][:6]), ("val2017", real["images"][6:12])):
        ids = {image["id"] for image in chosen}
        listed = {
            "images": chosen,
            "annotations": [a for a in real["annotations"] if a["image_id"] in ids],
        }
        (root / split).mkdir()
        for image in chosen:
            shutil.copy(SHARED / image["file_name"], root / split)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(listed))
    content = STUDY.model_dump()
    content["data"] |= {"source": "coco", "root": str(root), "train": 4, "validation": 2}
    content["data"]["test"] = "all"
    content["segment"]["segmenter"] = "annotations"
    chosen = params.Params.model_validate(content)
    index = sets.prepare(chosen.data, 0, tmp_path / "data")
    assert [len(index[split]) for split in sets.SPLITS] == [4, 2, 6]
    segment.run(chosen, tmp_path / "data", tmp_path / "checkpoints")
    found = segment.load(tmp_path / "data" / "segments")
    by_file = {image["file_name"]: image["id"] for image in real["images"]}
    for record in sets.every_record(index):
        theirs = [
            a for a in real["annotations"] if a["image_id"] == by_file[Path(record.path).name]
        ]
        assert len(found[record.name]) == len(theirs)
        # Areas are of polygons there and of pixels here.
        for ours, other in zip(found[record.name], theirs, strict=True):
            assert ours["area"] == pytest.approx(other["area"], rel=0.1, abs=60)
    density = edges.run(chosen, tmp_path / "data", tmp_path / "checkpoints")
    assert density is not None
    assert len(density) == 12
