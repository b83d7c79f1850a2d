"""The detect stage: which pictures, which codecs, and what of them is kept."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pycocotools import mask as run_lengths
from reference_weights import fill
from skimage import data as photos
from small import SIZES

from sic import images, params
from sic.anchors import cached
from sic.anchors.programs import CodecError
from sic.codec import weights
from sic.codec.fusion import AdditionalCodec
from sic.codec.tcm import TCM
from sic.data import sets
from sic.errors import SicError
from sic.evaluation import detection, detectors, machine, rate_distortion
from sic.evaluation.detectors import Detections
from sic.files import write_text
from sic.params import Params
from sic.stream.scalable import ScalableCodec

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
BOXES = {"one.png": [30, 20, 40, 50], "two.png": [64, 8, 60, 48]}  # x, y, width, height


def picture(box: list[int]) -> images.Pixels:
    """A photo with a red rectangle in it, which is the object that is marked."""
    x, y, width, height = box
    found = np.ascontiguousarray(photos.coffee()[100:190, 200:330])
    found[y : y + height, x : x + width] = (255, 0, 0)
    return found


def red(image: images.Pixels) -> Detections:
    """A detector of red rectangles, and as good a judge of decoded pictures as any."""
    r, g, b = image.astype(int).transpose(2, 0, 1)
    rows, columns = np.nonzero((r > 200) & (g < 60) & (b < 60))
    if not rows.size:
        return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), [])
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    return Detections(np.array([box], np.float32), np.ones(1, np.float32), ["stop sign"])


class Looks:
    """The red detector, which counts what it saw."""

    def __init__(self) -> None:
        self.seen: list[images.Pixels] = []

    def __call__(self, image: images.Pixels) -> Detections:
        self.seen.append(image)
        return red(image)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    looks = Looks()
    detection._load.cache_clear()
    monkeypatch.setattr(detectors, "load", lambda *_: looks)
    monkeypatch.setattr(detectors, "known_classes", lambda *_: detectors.class_names())
    return looks


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a LIC and an additional codec."""
    folder = tmp_path_factory.mktemp("run") / "artifacts"
    base, additional = fill(TCM(**SIZES), "icm"), fill(AdditionalCodec(2, **SIZES), "ica2")
    weights.save(folder / "sa_icm/q3/codec.safetensors", base, {})
    weights.save(folder / "lic/q1/codec.safetensors", base, {})
    weights.save(folder / "fusion/m2-q1/codec.safetensors", additional, {})
    return folder


@pytest.fixture
def folder(artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The codecs, and two annotated pictures."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(artifacts, tmp_path / "artifacts")
    for name, box in BOXES.items():
        images.write_png(tmp_path / "photos" / name, picture(box))
    annotate(tmp_path)
    (tmp_path / "detector.onnx").write_bytes(b"weights")
    return tmp_path


def annotate(folder: Path, **changes: Any) -> None:
    entries = [
        {"id": i, "file_name": name, "width": 130, "height": 90} | changes
        for i, name in enumerate(BOXES, start=1)
    ]
    marks = [
        {"image_id": i, "category_id": 13, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for i, box in enumerate(BOXES.values(), start=1)
    ]
    classes = [{"id": 13, "name": "stop sign"}]
    content = {"images": entries, "categories": classes, "annotations": marks}
    (folder / "boxes.json").write_text(json.dumps(content))


def study(detect_values: dict[str, Any] | None = None, **sections: dict[str, Any]) -> Params:
    """The committed study at one rate point, looking at the two pictures."""
    content = params.load(ROOT / "params.yaml").model_dump()
    content["lic"]["quality"] = ["q1"]
    content["sa_icm"] |= {"quality": ["q3"], "base": "q3"}
    content["difference"]["quality"] = ["q1"]
    content["fusion"]["codecs"] = {"m2-q1": {"m": 2, "quality": "q1"}}
    content["detect"] |= {"detector": "yolox", "weights": "detector.onnx", "root": "photos"}
    content["detect"] |= {"annotations": "boxes.json", "lic_steps": [2]} | (detect_values or {})
    content["evaluate"] |= {"jpeg": [5, 90], "webp": [], "jpeg_xl": {"effort": 7, "distance": []}}
    for codec, key in (("vvc", "qp"), ("vvc_m", "qp"), ("hevc", "qp"), ("avif", "quality")):
        content["evaluate"][codec][key] = []
    for section, values in sections.items():
        content[section] |= values
    content["codec"] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in content["codec"].items()
    }
    chosen = Params.model_validate(content)
    # No difference codec: the others say all that there is to say of this stage.
    difference = chosen.difference.model_copy(update={"quality": []})
    return chosen.model_copy(update={"difference": difference})


def run(chosen: Params) -> tuple[pd.DataFrame, pd.DataFrame]:
    table, classes, _ = detection.run(chosen, CPU, CPU)
    return table, classes


def test_without_a_detector_the_tables_have_columns_and_no_rows() -> None:
    table, classes, points = detection.run(study({"detector": "none"}), CPU, CPU)
    assert list(table.columns) == detection.COLUMNS
    assert list(classes.columns) == detection.CLASS_COLUMNS
    assert len(table) == len(classes) == len(points) == len(machine.compare(points)) == 0
    assert detection.metrics_json(table) == {}


def test_there_is_a_row_for_originals_each_trained_codec_and_each_setting(
    folder: Path, looks: Looks
) -> None:
    table, classes, points = detection.run(study(), CPU, CPU)
    compared = machine.compare(points)
    assert set(compared.images) == {2}
    assert compared[["tested", "point", "other"]].to_numpy().tolist() == [
        ["SA-ICM", "q3", "LIC"],
        ["SA-ICM", "q3", "JPEG"],
    ]
    assert list(table.columns) == detection.COLUMNS
    assert list(classes.columns) == detection.CLASS_COLUMNS
    assert list(zip(table.codec, table.point, strict=True)) == [
        ("original", ""),
        ("SA-ICM", "q3"),
        ("LIC", "q1"),
        ("fusion", "q1"),
        ("JPEG", "5"),
        ("JPEG", "90"),
        ("LIC", "q1 step 2"),
    ]
    assert set(table.images) == {2}
    rows = table.set_index(["codec", "point"])
    assert rows.loc["original", "ap"].item() == pytest.approx(1)
    assert np.isnan(rows.loc["original", "bpp"].item()), "what a file of an original has is chance"
    assert rows.loc[("JPEG", "90"), "ap50"] == pytest.approx(1)
    assert rows.loc[("LIC", "q1"), "ap"] == 0, "random weights show nothing"
    assert rows.loc["fusion", "m"].item() == 2
    assert "Pillow" in rows.loc[("JPEG", "5"), "setup"]
    assert rows.loc["original", "ap_medium"].item() == pytest.approx(1)
    assert np.isnan(rows.loc["original", "ap_large"].item())
    assert rows.loc["original", ["ap_low", "ap_high"]].to_numpy().ravel().tolist() == [1, 1]
    assert rows.filter(like="mask").isna().all(axis=None), "the annotations are boxes"
    assert set(classes["class"]) == {"stop sign"}
    assert set(classes.objects) == {2}
    assert classes.ap.tolist() == table.ap.tolist(), "of one class the mean is that class"
    assert detection.metrics_json(table)["fusion"] == {
        "m2-q1": {"bpp": round(rows.loc["fusion", "bpp"].item(), 4), "ap": 0.0, "ap50": 0.0}
    }


def test_the_detector_sees_what_readers_get_and_rates_are_what_they_read(
    folder: Path, looks: Looks
) -> None:
    table, _ = run(study())
    files = [picture(box) for box in BOXES.values()]
    base = "artifacts/sa_icm/q3/codec.safetensors"
    codec = ScalableCodec.load(base, "artifacts/fusion/m2-q1/codec.safetensors")
    streams = [codec.encode(image) for image in files]
    coarser = [ScalableCodec.load(base).encode(image, step=2) for image in files]
    jpeg = next(a for a, _ in cached.find(study().evaluate)[0] if a.setup.codec == "JPEG")
    expected = [
        *files,
        *(codec.decode(s, "machine") for s in streams),
        *(ScalableCodec.load(base).decode(s, "machine") for s in streams),  # the LIC is the base
        *(codec.decode(s, "human") for s in streams),
        *(cached.code(jpeg, q, image).x_hat for q in (5, 90) for image in files),
        *(ScalableCodec.load(base).decode(s, "machine") for s in coarser),
    ]
    assert len(looks.seen) == len(expected)
    for seen, wanted in zip(looks.seen, expected, strict=True):
        np.testing.assert_array_equal(seen, wanted)
    bpp = table.set_index(["codec", "point"]).bpp
    assert bpp["fusion", "q1"] == pytest.approx(np.mean([8 * len(s) / (90 * 130) for s in streams]))
    assert bpp["SA-ICM", "q3"] < bpp["fusion", "q1"]
    assert bpp["SA-ICM", "q3"] == bpp["LIC", "q1"]
    assert bpp["LIC", "q1 step 2"] == pytest.approx(
        np.mean([8 * len(s) / (90 * 130) for s in coarser])
    )
    assert bpp["LIC", "q1 step 2"] < bpp["LIC", "q1"]


def few(detect_values: dict[str, Any] | None = None, **sections: dict[str, Any]) -> Params:
    """Originals, the base and a JPEG."""
    chosen = study({"lic_steps": []} | (detect_values or {}), evaluate={"jpeg": [90]}, **sections)
    lic = chosen.lic.model_copy(update={"quality": []})
    fusion = chosen.fusion.model_copy(update={"codecs": {}})
    return chosen.model_copy(update={"lic": lic, "fusion": fusion})


def test_larger_steps_are_of_the_lic_at_the_lowest_lambda(folder: Path) -> None:
    """Its curve is to come down to the bases' accuracy, and no other point of it is as low."""
    shutil.copytree("artifacts/lic/q1", "artifacts/lic/q0")
    chosen = study({"lic_steps": [4, 2]}, lic={"quality": ["q1", "q0"]})
    pictures = {name: Path("photos") / name for name in BOXES}
    table = rate_distortion.coarser(pictures, chosen, CPU, folder / "decoded")
    assert set(zip(table.codec, table.point, table.lmbda, strict=True)) == {
        ("LIC", "q0 step 4", chosen.quality["q0"].lmbda),
        ("LIC", "q0 step 2", chosen.quality["q0"].lmbda),
    }
    bpp = table.groupby("point").bpp.mean()
    assert bpp["q0 step 4"] < bpp["q0 step 2"]


def test_only_what_changed_is_looked_at_again(folder: Path, looks: Looks) -> None:
    first, _ = run(few())
    assert len(looks.seen) == 6
    again, _ = run(few())
    pd.testing.assert_frame_equal(first, again)
    assert len(looks.seen) == 6
    other = fill(TCM(**SIZES), "ica4")
    weights.save(folder / "artifacts/sa_icm/q3/codec.safetensors", other, {})
    run(few())
    assert len(looks.seen) == 8, "two pictures of the changed codec"
    images.write_png(folder / "photos/one.png", picture([30, 20, 40, 40]))
    run(few())
    assert len(looks.seen) == 14, "another picture, for all codecs"
    run(few({"score_threshold": 0.5}))
    assert len(looks.seen) == 20


def test_other_resamplings_look_at_nothing_again(folder: Path, looks: Looks) -> None:
    first, _ = run(few(compare={"bootstrap": 20}))
    found = {path: path.read_bytes() for path in Path("checkpoints").rglob("*.npz")}
    again, _ = run(few(compare={"bootstrap": 30}))
    assert len(looks.seen) == 6
    assert {path: path.read_bytes() for path in Path("checkpoints").rglob("*.npz")} == found
    pd.testing.assert_series_equal(first.ap, again.ap)


def test_masks_are_kept_and_scored_with_the_boxes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mask R-CNN of random weights, all the way: run, store, read, score."""
    build = detectors.build

    def small(name: str, score_threshold: float) -> Any:
        """That looks at pictures of 96 pixels instead of 800, and finds 10 objects at 30 places
        instead of 100 at 1,000."""
        model = build(name, score_threshold)
        model.transform.min_size = (96,)
        model.rpn._post_nms_top_n["testing"] = 30
        model.roi_heads.detections_per_img = 10
        return model

    monkeypatch.setattr(detectors, "build", small)
    torch.manual_seed(0)
    model = small("maskrcnn_resnet50_fpn", 0.0)
    torch.save(model.state_dict(), folder / "mask.pth")
    values = {"detector": "maskrcnn_resnet50_fpn", "weights": "mask.pth", "images": 1}
    chosen = few({**values, "score_threshold": 0.0})
    content = json.loads((folder / "boxes.json").read_text())
    for mark in content["annotations"]:
        x, y, w, h = mark["bbox"]
        mark["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    (folder / "boxes.json").write_text(json.dumps(content))
    table, classes = run(chosen)
    assert table.codec.tolist() == ["original", "SA-ICM", "JPEG"]
    assert table[["ap", "mask_ap", "mask_ap50"]].notna().all(axis=None)
    assert table[["ap_low", "mask_ap_high"]].isna().all(axis=None), "from one picture"
    assert classes.mask_ap.tolist() == table.mask_ap.tolist()

    ((picture, path),) = detection.annotated(chosen)[1].items()
    found = detectors.load(chosen.detect, folder / "mask.pth", CPU)(images.read(path))
    (kept,) = Path("checkpoints").glob("detect-*/original-*.npz")
    (read,) = detection._read(kept)
    np.testing.assert_array_equal(read.boxes, found.boxes)
    assert found.masks
    assert (read.masks, read.classes) == (found.masks, found.classes)
    with torch.inference_mode():
        (theirs,) = model.eval()([images.to_tensor(images.read(path))[0]])
    size = [picture.height, picture.width]
    shown = [run_lengths.decode({"size": size, "counts": counts}) for counts in read.masks]
    np.testing.assert_array_equal(np.stack(shown), theirs["masks"][:, 0] >= 0.5)
    assert 0 < np.mean(shown) < 1


def test_masks_stay_with_their_pictures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One picture without an object, one with two, one with one."""
    names = [[], ["dog", "cat"], ["cow"]]
    masks = [[], [b"\x00a", b"bcd"], [b"e"]]
    found = iter(
        Detections(np.full((len(n), 4), len(n), np.float32), np.ones(len(n), np.float32), n, m)
        for n, m in zip(names, masks, strict=True)
    )
    content = detection.look(lambda _: next(found), [Path("photos/one.png")] * 3)
    (folder / "found.npz").write_bytes(content)
    read = detection._read(folder / "found.npz")
    assert [one.classes for one in read] == names
    assert [one.masks for one in read] == masks


def test_a_stopped_run_goes_on_where_it_was(
    folder: Path, looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tired(image: images.Pixels) -> Detections:
        if len(looks.seen) == 5:
            raise KeyboardInterrupt
        return looks(image)

    with monkeypatch.context() as patch:
        detection._load.cache_clear()
        patch.setattr(detectors, "load", lambda *_: tired)
        with pytest.raises(KeyboardInterrupt):
            run(few())
    detection._load.cache_clear()
    run(few())
    assert len(looks.seen) == 5 + 2, "two codecs of three were done"


@pytest.fixture
def own(folder: Path) -> Params:
    """A study whose only test photo is the second picture, and that has been evaluated."""
    record = sets.ImageRecord("two", "two.png", 130, 90, "")
    index = {"train": [], "validation": [], "test": [record.__dict__]}
    (folder / "data").mkdir()
    (folder / "data/images.json").write_text(json.dumps(index))
    chosen = few({"root": None}, data={"source": "folder", "root": "photos"})
    table = rate_distortion.evaluate({"two": folder / "photos/two.png"}, chosen)
    (folder / "results").mkdir()
    table[rate_distortion.COLUMNS].to_csv("results/rd.csv", index=False, float_format="%.6g")
    return chosen


def test_of_the_study_s_own_test_photos_nothing_is_coded_again(
    folder: Path, own: Params, looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Boxes are found in the very pictures whose PSNR stands in the table, at its rates."""
    monkeypatch.setattr(rate_distortion, "evaluate", None)  # would fail if it were called
    shutil.rmtree(folder / "checkpoints")
    shutil.rmtree(folder / "artifacts/sa_icm")
    table, _ = run(own)
    measured = rate_distortion.read(Path("results/rd.csv"))
    assert set(table.images) == {1}
    original = picture(BOXES["two.png"])
    np.testing.assert_array_equal(looks.seen[0], original)
    for codec, seen in zip(("SA-ICM", "JPEG"), looks.seen[1:], strict=True):
        row = measured[measured.codec == codec].iloc[0]
        assert images.psnr(original, seen) == pytest.approx(row.psnr, abs=1e-4)
        assert table.set_index("codec").bpp[codec] == row.bpp
    assert table.set_index("codec").point["JPEG"] == "90"


def test_the_lic_in_larger_steps_is_coded_for_the_study_s_own_photos_too(
    folder: Path, own: Params, looks: Looks
) -> None:
    """`evaluate` has left none of these pictures, and its folder of pictures stays as it is."""
    left = sorted(Path("artifacts/decoded").rglob("*"))
    stepped = own.detect.model_copy(update={"lic_steps": (2.0,)})
    lic = own.lic.model_copy(update={"quality": ["q1"]})
    table, _ = run(own.model_copy(update={"detect": stepped, "lic": lic}))
    assert table.codec.tolist() == ["original", "SA-ICM", "JPEG", "LIC"]
    assert table.point.tolist()[-1] == "q1 step 2"
    assert sorted(Path("artifacts/decoded").rglob("*")) == left


def test_what_evaluate_has_not_left_is_one_line(folder: Path, own: Params, looks: Looks) -> None:
    path = Path("artifacts/decoded/JPEG/quality-90/two.webp")
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(SicError, match=rf"^no {path}; run the evaluate stage again$"):
        run(own)
    path.write_bytes(content)
    table = rate_distortion.read(Path("results/rd.csv"))
    table.assign(image="one").to_csv("results/rd.csv", index=False)
    with pytest.raises(SicError, match=r"^SA-ICM has no row of two; run the evaluate stage again$"):
        run(own)


def test_one_entry_for_two_pictures_is_refused(folder: Path) -> None:
    entries = [sets.ImageRecord(p, p, 130, 90, "").__dict__ for p in ("a/two.png", "c/two.png")]
    (folder / "data").mkdir()
    chosen = few({"root": None}, data={"source": "folder", "root": "photos"})
    for train, test in (([], entries), (entries[:1], entries[1:])):
        index = {"train": train, "validation": [], "test": test}
        (folder / "data/images.json").write_text(json.dumps(index))
        with pytest.raises(
            SicError, match=r"detect\.annotations: two\.png may be a/two\.png or c/"
        ):
            detection.annotated(chosen)


@pytest.mark.parametrize("name", ["/tmp/one.png", "../photos/one.png"])
def test_a_name_that_leaves_the_folder_is_refused(folder: Path, name: str) -> None:
    """Decoded pictures are named after it: those of all codecs would be one file, in the user's own
    folder."""
    content = (folder / "boxes.json").read_text()
    (folder / "boxes.json").write_text(content.replace("one.png", name))
    wanted = rf"^boxes\.json lists {name}; name pictures by paths below detect\.root$"
    with pytest.raises(SicError, match=wanted):
        detection.annotated(study())


def test_a_picture_that_no_stream_can_hold_is_named_at_once(folder: Path) -> None:
    annotate(folder, width=6000, height=6000)
    with pytest.raises(SicError, match=r"detect\.root: photos/one\.png: .* 6000×6000 .*; cut or"):
        detection.annotated(study())


def test_a_number_of_pictures_is_drawn_with_the_seed(folder: Path) -> None:
    drawn = {
        seed: [
            p.file_name
            for p in detection.annotated(study({"images": 1}).model_copy(update={"seed": seed}))[1]
        ]
        for seed in range(8)
    }
    assert {len(names) for names in drawn.values()} == {1}
    assert {name for names in drawn.values() for name in names} == set(BOXES)
    with pytest.raises(SicError, match=r"detect\.images: 3 wanted, 2 are at hand; say all"):
        detection.annotated(study({"images": 3}))


@pytest.mark.parametrize("root", ["photos", None])
def test_a_folder_of_visdrone_s_text_files(root: str | None, folder: Path) -> None:
    for name, box in BOXES.items():
        row = ",".join(map(str, box))
        (folder / "marks").mkdir(exist_ok=True)
        (folder / "marks" / name).with_suffix(".txt").write_text(f"{row},1,4,0,0\n")
    chosen = study(
        {"annotations": "marks", "root": root},
        data={"source": "folder", "root": "photos", "test": "all"},
    )
    records = sets.records_below(folder / "photos")
    index = {"train": [], "validation": [], "test": [asdict(record) for record in records]}
    write_text(folder / "data/images.json", json.dumps(index))
    truth, files = detection.annotated(chosen)
    assert {p.file_name: (p.width, p.height) for p in files} == dict.fromkeys(BOXES, (130, 90))
    assert [path.name for path in files.values()] == list(BOXES)
    truth.check_classes(["car"])
    found = {picture: red(images.read(path)) for picture, path in files.items()}
    cars = {p: Detections(f.boxes, f.scores, ["car"] * len(f.scores)) for p, f in found.items()}
    assert truth.accuracy(cars).ap.iloc[0] == 1
    (folder / "marks/two.txt").unlink()
    with pytest.raises(SicError, match=r"no marks/two\.txt; a folder in detect\.annotations holds"):
        detection.annotated(chosen)


def missing_picture(folder: Path) -> None:
    (folder / "photos/two.png").unlink()


def other_size(folder: Path) -> None:
    images.write_png(folder / "photos/two.png", photos.coffee()[:50, :60])


def unknown_class(folder: Path) -> None:
    path = folder / "boxes.json"
    path.write_text(path.read_text().replace("stop sign", "edelweiss"))


def no_checkpoint(folder: Path) -> None:
    (folder / "artifacts/lic/q1/codec.safetensors").unlink()


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (missing_picture, r"boxes\.json lists photos/two\.png, which is not there"),
        (other_size, r"photos/two\.png is 60×50, but 130×90 in the annotations"),
        (unknown_class, r"boxes\.json marks edelweiss, which the detector was not trained for"),
        (no_checkpoint, r"no checkpoint artifacts/lic/q1/codec\.safetensors"),
    ],
)
def test_wrong_surroundings_are_one_line(
    spoil: Callable[[Path], None], line: str, folder: Path, looks: Looks
) -> None:
    spoil(folder)
    with pytest.raises(SicError, match=line) as caught:
        run(study())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"annotations": "absent.json"}, r"cannot read absent\.json"),
        ({"annotations": "data/annotations/coco"}, r"detect\.annotations: name the COCO-style"),
        (
            {"annotations": "data/annotations/coco", "root": None},
            r"data/annotations/coco goes with data\.source: coco; name a file",
        ),
        ({"weights": "data/weights/none"}, r"detect\.weights: yolox needs its weights"),
    ],
)
def test_wrong_settings_are_one_line(values: dict[str, Any], line: str, folder: Path) -> None:
    with pytest.raises(SicError, match=line):
        run(study(values))


def test_a_picture_that_a_codec_cannot_code_is_named_with_the_codec(
    folder: Path, looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> cached.Coded:
        raise CodecError("JPEG", "too large")

    monkeypatch.setattr(cached, "code", refuse)
    with pytest.raises(
        SicError, match=r"^JPEG at quality 90 cannot code one\.png: too large; take the picture out"
    ):
        run(few())
