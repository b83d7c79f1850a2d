"""The pipeline on COCO: a small mirror with real pictures and outlines, through to the report."""

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server import Site, serving
from test_pipeline import Study

from sic.data import coco, sets
from sic.masks import annotations, records, sam

SHARED = Path(__file__).parents[2] / "shared" / "data" / "coco_val"
SPLITS = {"train2017": 3, "val2017": 2}  # pictures


def mirrored() -> dict[str, bytes]:
    """COCO's archives, by their path below its address, of the smallest pictures at hand."""
    real = json.loads((SHARED / "instances.json").read_text())
    pictures = sorted(real["images"], key=lambda image: image["width"] * image["height"])
    people: dict[str, str] = {}
    archives = {}
    for split, count in SPLITS.items():
        chosen, pictures = pictures[:count], pictures[count:]
        ids = {image["id"] for image in chosen}
        listed = {
            "images": chosen,
            "categories": real["categories"],
            "annotations": [a for a in real["annotations"] if a["image_id"] in ids],
        }
        people[f"annotations/instances_{split}.json"] = json.dumps(listed)
        names = [image["file_name"] for image in chosen]
        archives[split] = zipped({f"{split}/{n}": (SHARED / n).read_bytes() for n in names})
    archives["annotations"] = zipped(people)
    return {f"/{coco.ARCHIVES[name].path}": content for name, content in archives.items()}


def zipped(files: dict[str, Any]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def expect(study: Study, mirror: dict[str, bytes]) -> None:
    """Write the mirror's checksums in place of COCO's own: bytes of no other are accepted."""
    module = study.folder / "sic/data/coco.py"
    source = module.read_text()
    for archive in coco.ARCHIVES.values():
        if content := mirror.get(f"/{archive.path}"):
            assert source.count(archive.sha256) == 1
            source = source.replace(archive.sha256, hashlib.sha256(content).hexdigest())
    module.write_text(source)


@pytest.fixture(scope="module")
def mirror() -> Iterator[Site]:
    """A server whose connections break off in the middle of each archive of pictures."""
    if not SHARED.is_dir():
        pytest.skip("the COCO pictures are not at hand")
    with serving(mirrored()) as site:
        site.break_after = 1 + max(map(len, site.files.values())) // 2
        yield site


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, mirror: Site) -> Study:
    study = Study(tmp_path_factory.mktemp("coco"))
    expect(study, mirror.files)

    def on_coco(content: dict[str, Any]) -> None:
        content["data"].update(source="coco", url=mirror.address, train="all", validation=1, test=1)
        content["segment"].update(segmenter="annotations")
        content["detect"].update(annotations=sets.OWN_ANNOTATIONS)
        content["lic"].update(quality=["q1"])
        content["sa_icm"].update(quality=["q1"])
        content["fusion"].update(codecs={"m2-q1": {"m": 2, "quality": "q1"}})
        content["evaluate"]["vvc"].update(preset="faster", qp=[37, 47])
        content["evaluate"]["vvc_m"].update(qp=[])
        for codec, points in (("hevc", "qp"), ("avif", "quality"), ("jpeg_xl", "distance")):
            content["evaluate"][codec].update({points: []})

    study.edit(on_coco)
    study.commit()
    study.dvc("repro")
    study.commit()
    return study


@pytest.fixture
def restored(study: Study) -> Iterator[Study]:
    yield study
    study.git("checkout", "-q", ".")


def test_the_archives_were_fetched_in_parts_and_unpacked(study: Study, mirror: Site) -> None:
    assert {path for path, _ in mirror.asked} == set(mirror.files)
    assert any(part for _, part in mirror.asked), "no broken connection was taken up again"
    for split, count in SPLITS.items():
        pictures = list((study.folder / "data/coco" / split).iterdir())
        assert len(pictures) == count
        assert all(p.read_bytes() == (SHARED / p.name).read_bytes() for p in pictures)


def test_training_takes_train2017_and_measuring_val2017(study: Study) -> None:
    index = sets.load_index(study.folder / "data/images.json")
    assert {split: len(found) for split, found in index.items()} == {
        "train": 2,
        "validation": 1,
        "test": 1,
    }
    assert all(r.path.startswith("train2017/") for r in [*index["train"], *index["validation"]])
    rates = (study.folder / "results/rd.csv").read_text()
    assert all(r.path.startswith("val2017/") and r.name in rates for r in index["test"])
    header = records.describe(study.folder / "data/segments")
    assert (header["segmenter"], header["stand_in"]) == ("annotations", False)
    masks = {path.stem for path in (study.folder / "data/edges").iterdir()}
    assert masks == {record.name for record in sets.every_record(index)}


def test_the_report_tells_whose_outlines_they_are(study: Study) -> None:
    report = (study.folder / "reports/index.html").read_text()
    assert "Findings" in report
    assert "annotations" in report
    for name in ("fig2", "fig5", "fig6", "fig7"):
        assert (study.folder / f"reports/figures/{name}.png").stat().st_size > 5000


def test_nothing_is_left_to_do(study: Study) -> None:
    assert "Running stage" not in study.dvc("repro")
    assert study.git("status", "--porcelain") == ""


def test_a_clone_with_the_cache_at_hand_needs_no_pictures(study: Study, tmp_path: Path) -> None:
    clone = object.__new__(Study)
    clone.folder = tmp_path / "clone"
    study.git("clone", "-q", str(study.folder), str(clone.folder))
    clone.dvc("cache", "dir", "--local", str(study.folder / ".dvc/cache"))
    assert "Running stage" not in clone.dvc("repro")
    assert not (clone.folder / "data/coco").exists()


def test_other_annotations_rerun_the_segments(restored: Study) -> None:
    people = restored.folder / "people"
    shutil.copytree(restored.folder / "data/coco/annotations", people)
    restored.edit(lambda content: content["data"].update(annotations="people"))
    assert "segment" in restored.changed()
    restored.dvc("commit", "--force", "data", "segment")  # as if they had run
    assert "segment" not in restored.changed()
    file = people / "instances_train2017.json"
    before = annotations.checksum(file, "instances")
    file.write_text(file.read_text().replace('"iscrowd": 0', '"iscrowd":0', 1))
    assert annotations.checksum(file, "instances") != before
    assert {"segment"} == restored.changed() - {"report"}
    shutil.rmtree(people)


def test_other_weights_rerun_the_segments(restored: Study, tmp_path: Path) -> None:
    checkpoint = tmp_path / "sam.pth"  # anywhere
    checkpoint.write_bytes(b"one")
    restored.edit(lambda content: content["segment"].update(checkpoint=str(checkpoint)))
    assert "segment" in restored.changed()
    restored.dvc("commit", "--force", "segment")
    assert "segment" not in restored.changed()
    checkpoint.write_bytes(b"two")
    assert "segment" in restored.changed()


def test_weights_that_are_missing_end_in_one_line(restored: Study) -> None:
    def real(content: dict[str, Any]) -> None:
        content["segment"].update(segmenter="sam_vit_h")

    restored.edit(real)
    url = sam.WEIGHTS["sam_vit_h"].url
    with pytest.raises(AssertionError, match=rf"sic: .*sam_vit_h needs its weights: get {url}"):
        restored.dvc("repro", "segment")
    restored.git("checkout", "-q", ".")
    assert "Running stage" not in restored.dvc("repro"), "the old segments come back"
