"""One photo worked out by hand: the file by the command line, its bits and PSNR by their formulas,
its accuracy by pycocotools, with the weights that come with the study; the tables say the same."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sic import params
from sic.__main__ import main
from sic.evaluation import detection, detectors, rate_distortion

ROOT = Path(__file__).parents[1]
MARKED = ROOT / "data" / "pictures" / "coco" / "instances.json"
STUDY = params.load(ROOT / "params.yaml")
BASE, ENHANCEMENT = STUDY.sa_icm.base, "m5-q1"
CPU = torch.device("cpu")


def study() -> params.Params:
    """The committed study with one codec in each layer and no other."""
    content = STUDY.model_dump(mode="json")
    content["fusion"]["codecs"] = {ENHANCEMENT: content["fusion"]["codecs"][ENHANCEMENT]}
    content["sa_icm"] |= {"quality": [BASE]}
    content["evaluate"] |= {"jpeg": [], "webp": []}
    for codec, key in (("vvc", "qp"), ("vvc_m", "qp"), ("hevc", "qp"), ("avif", "quality")):
        content["evaluate"][codec][key] = []
    content["evaluate"]["jpeg_xl"]["distance"] = []
    content["detect"] |= {"root": "photos", "annotations": "photo.json", "lic_steps": []}
    content["detect"]["weights"] = str(ROOT / content["detect"]["weights"])
    found = params.Params.model_validate(content)
    others = {key: getattr(found, key) for key in ("lic", "difference")}
    none = {key: stage.model_copy(update={"quality": []}) for key, stage in others.items()}
    return found.model_copy(update=none)


def annotate(source: Path, path: Path) -> Path:
    """Write the entries of the photo in which most is marked; returns its file."""
    content = json.loads(source.read_text())
    ids = [a["image_id"] for a in content["annotations"] if not a["iscrowd"]]
    most = max(sorted(set(ids)), key=ids.count)
    content["images"] = [i for i in content["images"] if i["id"] == most]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == most]
    path.write_text(json.dumps(content))
    return source.with_name(content["images"][0]["file_name"])


def average_precision(
    annotations: Path, x_hat: np.ndarray, detector: detectors.Detector
) -> tuple[float, float]:
    """AP and AP50 of what a detector finds in a picture, as pycocotools prints them."""
    truth = COCO(str(annotations))
    (image,) = truth.getImgIds()
    numbers = {category["name"]: category["id"] for category in truth.loadCats(truth.getCatIds())}
    found = detector(x_hat)
    boxes = found.boxes.astype(float)
    guesses = [
        {
            "image_id": image,
            "category_id": numbers[name],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "score": float(score),
        }
        for (x0, y0, x1, y1), score, name in zip(
            boxes.tolist(), found.scores, found.classes, strict=True
        )
    ]
    evaluation = COCOeval(truth, truth.loadRes(guesses), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0], evaluation.stats[1]


def test_bits_psnr_and_ap_by_hand_are_those_of_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photo = annotate(MARKED, tmp_path / "photo.json")
    Path("photos").mkdir()
    shutil.copy(photo, "photos")
    chosen = study()
    layers = {"sa_icm": BASE, "fusion": ENHANCEMENT}
    for stage, item in layers.items():
        Path(f"artifacts/{stage}/{item}").mkdir(parents=True)
        shipped = ROOT / f"data/weights/{stage}/{item}.safetensors"
        shutil.copy(shipped, f"artifacts/{stage}/{item}/codec.safetensors")
    rates = rate_distortion.evaluate({photo.name: photo}, chosen).set_index("codec")
    accuracy = detection.run(chosen, CPU, CPU)[0].set_index("codec")

    base, second = (f"artifacts/{s}/{i}/codec.safetensors" for s, i in layers.items())
    main(["encode", str(photo), "-o", "machine.sic", "--base", base])
    both = ["--base", base, "--enhancement", second]
    main(["encode", str(photo), "-o", "human.sic", *both])
    main(["decode", "machine.sic", "-o", "machine.png", "--base", base])
    main(["decode", "human.sic", "-o", "human.png", *both])

    x = np.array(Image.open(photo).convert("RGB"))
    checkpoint = Path(chosen.detect.weights)
    detector = detectors.load(chosen.detect, checkpoint, CPU)
    for layer, codec in (("machine", "SA-ICM"), ("human", "fusion")):
        bpp = 8 * Path(f"{layer}.sic").stat().st_size / (x.shape[0] * x.shape[1])
        x_hat = np.array(Image.open(f"{layer}.png"))
        mse = np.mean((x.astype(float) - x_hat) ** 2)
        assert rates.bpp[codec] == pytest.approx(bpp, rel=1e-12)
        assert rates.psnr[codec] == pytest.approx(10 * math.log10(255**2 / mse), abs=1e-9)
        found = average_precision(Path("photo.json"), x_hat, detector)
        assert found[0] > 0
        assert accuracy.bpp[codec] == pytest.approx(bpp, rel=1e-12)
        assert (accuracy.ap[codec], accuracy.ap50[codec]) == pytest.approx(found, abs=1e-12)
    original = average_precision(Path("photo.json"), x, detector)
    assert accuracy.ap["original"] == pytest.approx(original[0], abs=1e-12)
    assert pd.isna(accuracy.bpp["original"])
