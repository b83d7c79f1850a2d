import hashlib
import io
import json
import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from server import serving
from skimage import data as photos

from sic import images, params
from sic.data import coco, sets
from sic.errors import SicError

ROOT = Path(__file__).parents[1]
STUDY = params.load(ROOT / "params.yaml")

POOL = {f"{i:02d}": Path(f"{i:02d}.png") for i in range(50)}


PACKAGES = ["astronaut", "coffee", "flower"]  # photos of the packages


def settings(**changes: Any) -> params.Data:
    return params.Data.model_validate({**STUDY.data.model_dump(), "test": PACKAGES, **changes})


def with_pictures(root: Path) -> Path:
    """A folder of data that has a copy of what comes with the study."""
    shutil.copytree(ROOT / "data/pictures", root / "pictures")
    return root


def folder_of(path: Path, names: list[str]) -> Path:
    astronaut = photos.astronaut()
    for i, name in enumerate(names):
        images.write_png(path / f"{name}.png", astronaut[: 20 + i, :30])
    return path


def test_the_bundled_photos_are_written_and_listed(tmp_path: Path) -> None:
    index = sets.prepare(settings(), 0, tmp_path)
    assert [r.name for r in index["test"]] == ["astronaut", "coffee", "flower"]
    astronaut = index["test"][0]
    path = sets.image_path(astronaut, settings(), tmp_path)
    assert path == tmp_path / "images" / "astronaut.png"
    assert np.array_equal(images.read(path), photos.astronaut())
    assert (astronaut.width, astronaut.height) == (512, 512)
    assert astronaut.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sets.load_index(tmp_path / "images.json") == index
    coffee = index["test"][1]
    assert (coffee.width, coffee.height) == (600, 400)


def test_the_study_tests_on_coco_s_photos_that_come_with_it(tmp_path: Path) -> None:
    root = with_pictures(tmp_path)
    index = sets.prepare(STUDY.data, STUDY.seed, root)
    assert 24 <= len(index["test"]) <= 35
    assert {r.name for r in index["train"]}.isdisjoint(p.name for p in sets.shipped(root))
    every = sets.prepare(settings(test="all"), 0, root)["test"]
    assert len(every) == 35
    assert "pizza" in {record.name for record in every}
    marked = json.loads((root / "pictures/coco/instances.json").read_text())
    sizes = {image["file_name"]: (image["width"], image["height"]) for image in marked["images"]}
    assert {record.path: (record.width, record.height) for record in every} == sizes
    for record in every:
        copy = sets.image_path(record, STUDY.data, root)
        assert copy.read_bytes() == (root / "pictures/coco" / record.path).read_bytes()
        assert hashlib.sha256(copy.read_bytes()).hexdigest() == record.sha256
    assert len(list((root / "images").iterdir())) == 35 + 9


def test_a_list_names_photos_of_the_study_and_of_its_packages(tmp_path: Path) -> None:
    index = sets.prepare(settings(test=["coffee", "sundae"]), 0, with_pictures(tmp_path))
    assert [record.path for record in index["test"]] == ["coffee.png", "000000577539.jpg"]
    with pytest.raises(SicError, match=r"data\.train: there is no image sundae"):
        sets.prepare(settings(train=["sundae"]), 0, tmp_path)


@pytest.mark.parametrize("test", [24, "all", ["pizza"]])
def test_a_photo_that_came_with_the_study_and_is_changed_or_gone_is_one_line(
    test: Any, tmp_path: Path
) -> None:
    folder = with_pictures(tmp_path) / "pictures/coco"
    photo, listed = folder / "000000160012.jpg", folder / "photos.csv"
    for content, line in ((photo.read_bytes() + b"!", "was changed"), (None, "is not there")):
        photo.unlink()
        if content:
            photo.write_bytes(content)
        match = rf"000000160012\.jpg, which comes with the study, {line}.*; bring it back with `git"
        with pytest.raises(SicError, match=match):
            sets.prepare(settings(test=test), 0, tmp_path)
    for content in (listed.read_bytes()[:-80], b"\xff", b"name,file\na,b\n"):
        listed.write_bytes(content)
        with pytest.raises(
            SicError, match=r"cannot read .*photos\.csv, which comes with the study"
        ):
            sets.prepare(settings(test=test), 0, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures"]
    assert len(sets.prepare(settings(), 0, tmp_path)["test"]) == 3, "which needs none of them"


def test_every_photo_that_comes_with_the_study_is_attributed() -> None:
    photos = sets.shipped(ROOT / "data")
    folder = ROOT / "data/pictures/coco"
    assert [photo.file for photo in photos] == sorted(path.name for path in folder.glob("*.jpg"))
    assert len({photo.name for photo in photos}) == len(photos) == 35
    marked = json.loads((folder / "instances.json").read_text())
    for photo, image in zip(photos, marked["images"], strict=True):
        assert re.fullmatch(r"[a-z_]+", photo.name)
        assert photo.file == image["file_name"]
        number = re.search(r"/(\d+)_\w+\.jpg$", image["flickr_url"])
        assert number
        assert photo.page == f"https://www.flickr.com/photo.gne?id={number[1]}"
        assert (image["license"], photo.licence) == (4, "CC BY 2.0")
    (licence,) = marked["licenses"]
    assert licence["url"].endswith("/licenses/by/2.0/")
    ids = {image["id"] for image in marked["images"]}
    assert {a["image_id"] for a in marked["annotations"]} <= ids
    assert len(marked["annotations"]) == 271


def test_the_annotations_of_coco_s_photos_are_whole(tmp_path: Path) -> None:
    path = with_pictures(tmp_path) / "pictures/coco/instances.json"
    assert sets.own_annotations(tmp_path) == path
    path.write_text(path.read_text().replace("5645.9", "5645.8"))
    with pytest.raises(SicError, match=r"instances\.json, which comes with the study, was changed"):
        sets.own_annotations(tmp_path)
    path.unlink()
    with pytest.raises(SicError, match=r"instances\.json, which .*, is not there; bring it back"):
        sets.own_annotations(tmp_path)


def test_equal_settings_give_equal_bytes(tmp_path: Path) -> None:
    chosen = settings(train=6, validation=2, test=3)
    sets.prepare(chosen, 5, with_pictures(tmp_path / "a"))
    sets.prepare(chosen, 5, with_pictures(tmp_path / "b"))
    for file in [p for p in (tmp_path / "a").rglob("*") if p.is_file()]:
        other = tmp_path / "b" / file.relative_to(tmp_path / "a")
        assert file.read_bytes() == other.read_bytes()


def test_photos_no_longer_chosen_are_gone(tmp_path: Path) -> None:
    sets.prepare(settings(), 0, tmp_path)
    sets.prepare(settings(train=["china"], validation=["color"], test=["retina"]), 0, tmp_path)
    assert {p.stem for p in (tmp_path / "images").iterdir()} == {"china", "color", "retina"}


@given(st.integers(1, 30), st.integers(1, 10), st.integers(1, 10), st.integers(0, 9))
def test_drawn_splits_are_disjoint_and_of_the_size_wanted(
    train: int, validation: int, test: int, seed: int
) -> None:
    pools = dict.fromkeys(sets.SPLITS, POOL)
    chosen = sets.choose(pools, settings(train=train, validation=validation, test=test), seed)
    names = [name for split in sets.SPLITS for name, _ in chosen[split]]
    assert len(set(names)) == len(names) == train + validation + test
    assert [len(chosen[s]) for s in sets.SPLITS] == [train, validation, test]
    # More training images leave the other splits as they are.
    more = sets.choose(pools, settings(train=train + 1, validation=validation, test=test), seed)
    assert more["test"] == chosen["test"]
    assert more["validation"] == chosen["validation"]


def test_another_seed_draws_others_and_all_takes_the_rest() -> None:
    pools = dict.fromkeys(sets.SPLITS, POOL)
    wanted = settings(train="all", validation=["07"], test=9)
    one, other = (sets.choose(pools, wanted, seed) for seed in (1, 2))
    assert one["test"] != other["test"]
    assert one["validation"] == [("07", Path("07.png"))]
    assert len(one["train"]) == 40
    assert one["test"] == sorted(one["test"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": ["astronout"]}, "no image astronout; there are astronaut, chelsea"),
        ({"train": ["astronaut"]}, "data.test: astronaut is in train already"),
        ({"train": ["china", "china"]}, "data.train: china is in train already"),
        ({"train": 9}, "data.train: 9 images wanted, 8 are at hand"),
        ({"train": "all", "validation": "all"}, "data.validation: no image is left"),
    ],
)
def test_splits_that_cannot_be(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SicError, match=message):
        sets.prepare(settings(**changes), 0, tmp_path)
    assert not list(tmp_path.iterdir())


def test_any_folder_of_images(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "mine", ["b", "a", "sub/c", "d"])
    (root / "notes.txt").write_text("no image")
    chosen = settings(
        source="folder", root=str(root), train=["sub/c", "d.png"], validation=1, test="all"
    )
    index = sets.prepare(chosen, 0, tmp_path / "data")
    assert [r.path for r in index["train"]] == ["sub/c.png", "d.png"]
    assert {r.name for split in ("validation", "test") for r in index[split]} == {"a", "b"}
    assert sets.image_path(index["train"][0], chosen) == root / "sub" / "c.png"
    assert (index["train"][1].height, index["train"][1].width) == (23, 30)
    assert {p.name for p in (tmp_path / "data").iterdir()} == {"images.json", "images"}
    assert not list((tmp_path / "data" / "images").iterdir())


def test_a_list_of_numbers_names_pictures_and_a_number_draws_as_many(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "mine", ["1", "002", "000000001296", "4395", "a", "b"])
    text = (Path(__file__).parents[1] / "params.yaml").read_text()
    for key, value in {
        **{"source": "folder", "root": root, "train": "[000000001296, 4395, '1', a]"},
        **{"validation": "[2]", "test": "1"},
    }.items():
        text = re.sub(rf"(?m)^  {key}: .*$", f"  {key}: {value}", text, count=1)
    (tmp_path / "params.yaml").write_text(text)
    study = params.load(tmp_path / "params.yaml")
    index = sets.prepare(study.data, 0, tmp_path / "data")
    names = {split: [record.name for record in index[split]] for split in sets.SPLITS}
    assert names == {
        "train": ["000000001296", "4395", "1", "a"],
        "validation": ["002"],
        "test": ["b"],
    }


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ([7], "data.train: 7 may be 007 or 07; write names that look like numbers in quotes"),
        ([16], "no image 16; there are 007, 07, 0x10; write names that look like numbers in"),
        (["7"], "no image 7; there are 007, 07, 0x10$"),
    ],
)
def test_a_number_that_names_no_one_picture_is_to_be_quoted(entry: list[Any], message: str) -> None:
    pool = {name: Path(f"{name}.png") for name in ("007", "07", "0x10")}
    pools = dict.fromkeys(sets.SPLITS, pool)
    with pytest.raises(SicError, match=message):
        sets.choose(pools, settings(train=entry), 0)
    quoted = sets.choose(pools, settings(train=["007"], validation=["07"], test=["0x10"]), 0)
    assert quoted["train"] == [("007", Path("007.png"))]


def test_folders_that_do_not_serve(tmp_path: Path) -> None:
    splits = {"train": 1, "validation": 1, "test": 1}
    with pytest.raises(SicError, match=r"data\.root: name the folder"):
        sets.prepare(settings(source="folder", **splits), 0, tmp_path)
    with pytest.raises(SicError, match=r"data\.root: there is no folder"):
        sets.prepare(settings(source="folder", root=str(tmp_path / "no"), **splits), 0, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SicError, match=r"no images in .*empty"):
        sets.prepare(settings(source="folder", root=str(tmp_path / "empty"), **splits), 0, tmp_path)
    twice = folder_of(tmp_path / "twice", ["a", "b", "c"])
    (twice / "a.jpg").write_bytes(b"")
    with pytest.raises(SicError, match="share the name a"):
        sets.prepare(settings(source="folder", root=str(twice), **splits), 0, tmp_path)


def test_only_pictures_in_sight_are_listed(tmp_path: Path) -> None:
    root = folder_of(tmp_path / ".mine", ["a", "b", "sub/c", ".d", "sub/.e"])
    folder_of(root / ".ipynb_checkpoints", ["a-checkpoint"])
    (root / "._a.jpg").write_bytes(b"a fork of macOS")
    (root / "Thumbs.db").touch()
    (root / "folder.jpg" / "f").mkdir(parents=True)
    (root / "sub" / "round").symlink_to(root)
    found = sets._listing(root, images.SUFFIXES)
    assert found == {"a": root / "a.png", "b": root / "b.png", "sub/c": root / "sub" / "c.png"}


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"new\nline.png", b"\xe2\x80\xa8.png"])
def test_a_name_that_no_list_can_hold_is_refused(name: bytes, tmp_path: Path) -> None:
    root = folder_of(tmp_path / "mine", ["a", "b", "c"])
    try:
        (root / "c.png").rename(root / os.fsdecode(name))
    except OSError:
        pytest.skip("this file system has no such names")
    chosen = settings(source="folder", root=str(root), train="all", validation=1, test=1)
    with pytest.raises(SicError, match="holds a line break or is not UTF-8; rename") as error:
        sets.prepare(chosen, 0, tmp_path / "data")
    assert str(error.value).isascii()
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data" / "images.json").exists()


def test_other_names_are_kept(tmp_path: Path) -> None:
    names = ["a:b?", "con", "-o", "%s {x} $5", " é\u202f", "a.b"]
    root = folder_of(tmp_path / "mine", names)
    chosen = settings(source="folder", root=str(root), train="all", validation=1, test=1)
    sets.prepare(chosen, 0, tmp_path / "data")
    index = sets.load_index(tmp_path / "data" / "images.json")
    assert sorted(record.name for record in sets.every_record(index)) == sorted(names)
    assert all(sets.image_path(r, chosen).is_file() for r in sets.every_record(index))


def test_a_picture_to_test_must_fit_into_a_stream(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "mine", ["a", "b", "c"])
    wide, large, longest = ((1, 65536), (6000, 6000), (1, 65535))
    for size, line in ((wide, "1×65536"), (large, "6000×6000"), (longest, "")):
        Image.new("1", size[::-1]).save(root / "c.png")
        chosen = settings(
            source="folder", root=str(root), train=["a"], validation=["b"], test=["c"]
        )
        if line:
            with pytest.raises(SicError, match=rf"data\.test: .*c\.png: .*{line} .*; cut or scale"):
                sets.prepare(chosen, 0, tmp_path / "data")
            assert not (tmp_path / "data" / "images.json").exists()
        # One to train may be larger, of which parts are cut.
        swapped = settings(
            source="folder", root=str(root), train=["c"], validation=["b"], test=["a"]
        )
        sets.prepare(swapped if line else chosen, 0, tmp_path / (line or "longest"))


def test_an_unreadable_image_leaves_the_old_list(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "mine", ["a", "b", "c"])
    chosen = settings(source="folder", root=str(root), train=["a"], validation=["b"], test=["c"])
    sets.prepare(chosen, 0, tmp_path / "data")
    before = (tmp_path / "data" / "images.json").read_bytes()
    (root / "b.png").write_bytes((root / "b.png").read_bytes()[:200])
    with pytest.raises(SicError, match=r"mine/b\.png"):
        sets.prepare(chosen, 0, tmp_path / "data")
    assert (tmp_path / "data" / "images.json").read_bytes() == before


def test_a_list_that_is_missing_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(SicError, match="run the data stage first"):
        sets.load_index(tmp_path / "images.json")
    for content in ("{", "[]", '{"train": [{"name": "a"}], "validation": [], "test": []}'):
        (tmp_path / "images.json").write_text(content)
        with pytest.raises(SicError, match="run the data stage again"):
            sets.load_index(tmp_path / "images.json")


def test_a_mark_of_the_order_of_bytes_at_the_start_is_no_part_of_a_file(tmp_path: Path) -> None:
    """As Windows' editors write it."""
    root = folder_of(tmp_path / "mine", ["a", "b", "é"])
    chosen = settings(source="folder", root=str(root), train=1, validation=1, test=1)
    index = sets.prepare(chosen, 0, tmp_path)
    text = (tmp_path / "images.json").read_text(encoding="utf-8")
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "images.json").write_text(text, encoding=encoding)
        assert sets.load_index(tmp_path / "images.json") == index
    text = (Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8-sig")
    assert params.load(tmp_path / "params.yaml") == STUDY


# ---- COCO ------------------------------------------------------------------------------------
def coco_copy(root: Path, train: int = 6, val: int = 4) -> Path:
    """A small COCO of cuts of a photo."""
    astronaut = photos.astronaut()
    for split, count, first in (("train2017", train, 100), ("val2017", val, 200)):
        for i in range(count):
            image = astronaut[i * 10 : i * 10 + 64, :96]
            path = root / split / f"{first + i:012d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path, quality=95)
        listed = [{"id": first + i, "file_name": f"{first + i:012d}.jpg"} for i in range(count)]
        (root / "annotations").mkdir(exist_ok=True)
        file = root / "annotations" / f"instances_{split}.json"
        file.write_text(json.dumps({"images": listed, "annotations": [], "categories": []}))
    return root


def test_a_local_copy_of_coco(tmp_path: Path) -> None:
    root = coco_copy(tmp_path / "coco")
    chosen = settings(source="coco", root=str(root), train=[100, 101], validation=2, test="all")
    index = sets.prepare(chosen, 0, tmp_path / "data")
    assert [r.path for r in index["train"]] == [f"train2017/{i:012d}.jpg" for i in (100, 101)]
    assert all(r.path.startswith("train2017/") for r in index["validation"])
    assert [r.name for r in index["test"]] == [f"{i:012d}" for i in range(200, 204)]
    assert sets.image_path(index["test"][0], chosen).is_file()
    assert [f.name for f in sets.annotation_files(chosen, "instances")] == [
        "instances_train2017.json",
        "instances_val2017.json",
    ]
    with pytest.raises(SicError, match="panoptic_train2017"):
        sets.annotation_files(chosen, "panoptic")
    with pytest.raises(SicError, match="no image 200"):
        sets.prepare(settings(source="coco", root=str(root), train=[200]), 0, tmp_path / "data")


def zipped(root: Path, folder: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in sorted((root / folder).iterdir()):
            archive.write(path, f"{folder}/{path.name}")
    return content.getvalue()


@pytest.mark.parametrize("way", ["mirror", "archives"])
def test_coco_from_a_mirror_or_from_archives_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    copy = coco_copy(tmp_path / "copy")
    archives, files = {}, {}
    for name in ("train2017", "val2017", "annotations"):
        content = zipped(copy, name)
        path = coco.ARCHIVES[name].path
        archives[name] = coco.Archive(path, hashlib.sha256(content).hexdigest())
        files[f"/{path}"] = content
        (tmp_path / "zips").mkdir(exist_ok=True)
        (tmp_path / "zips" / Path(path).name).write_bytes(content)
    monkeypatch.setattr(coco, "ARCHIVES", archives)
    with serving(files) as site:
        site.break_after = 20_000
        given = {"url": site.address} if way == "mirror" else {"root": str(tmp_path / "zips")}
        chosen = settings(source="coco", train="all", validation=1, test=2, **given)
        index = sets.prepare(chosen, 0, tmp_path / "data")
        found = sets.annotation_files(chosen, "instances", tmp_path / "data")
        assert bool(site.asked) == (way == "mirror")
    assert [len(index[s]) for s in sets.SPLITS] == [5, 1, 2]
    path = sets.image_path(index["test"][0], chosen, tmp_path / "data")
    assert path.is_relative_to(tmp_path / "data" / "coco" / "val2017")
    assert path.read_bytes() == (copy / index["test"][0].path).read_bytes()
    assert json.loads(found[1].read_text())["images"][0]["id"] == 200
