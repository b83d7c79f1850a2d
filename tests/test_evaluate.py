"""The table of rates and distortions: every number against its definition."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from reference_weights import fill
from skimage import data
from small import SIZES

from sic import evaluate, images, params, weights
from sic.bitstream import ScalableCodec
from sic.errors import SicError
from sic.scalable import AdditionalCodec
from sic.tcm import TCM

STUDY = params.load(Path(__file__).parents[1] / "params.yaml")


@pytest.fixture(scope="module")
def picture() -> images.Pixels:
    return np.ascontiguousarray(data.coffee()[100:190, 200:330])


def test_every_codec_that_params_asks_for_is_looked_for_and_no_other() -> None:
    study = STUDY.model_copy(
        update={
            "lic": STUDY.lic.model_copy(update={"quality": ["q1"]}),
            "fusion": STUDY.fusion.model_copy(update={"quality": ["q1", "q3"], "m": [2, 4]}),
            "difference": STUDY.difference.model_copy(update={"quality": ["q2"]}),
        }
    )
    found = [(t.codec, t.point, t.m, t.lmbda) for t in evaluate.trained(study)]
    lmbda = {name: point.lmbda for name, point in study.quality.items()}
    assert found == [
        ("SA-ICM", "base", None, study.sa_icm.lmbda),
        ("LIC", "q1", None, lmbda["q1"]),
        ("fusion", "q1", 2, lmbda["q1"]),
        ("fusion", "q3", 2, lmbda["q3"]),
        ("fusion", "q1", 4, lmbda["q1"]),
        ("fusion", "q3", 4, lmbda["q3"]),
        ("difference", "q2", None, lmbda["q2"]),
    ]
    for item in evaluate.trained(study):
        assert (item.enhancement is None) == (item.codec in ("SA-ICM", "LIC"))


def test_rates_are_lengths_of_streams_and_quality_is_that_of_decoded_pictures(
    picture: images.Pixels,
) -> None:
    codec = ScalableCodec(fill(TCM(**SIZES), "icm"), fill(AdditionalCodec(2, **SIZES), "ica2"))
    row = evaluate.code(codec, picture)
    encoding = codec.encode_layers(picture)
    assert encoding.enhancement is not None
    pixels = 90 * 130
    assert row["bpp_base"] == 8 * len(encoding.base.stream) / pixels
    assert row["bpp_additional"] == 8 * len(encoding.enhancement.stream) / pixels
    assert row["bpp"] == pytest.approx(8 * len(encoding.stream) / pixels)
    assert row["bpp_estimated"] == pytest.approx(row["bpp"], rel=0.1)
    human = codec.decode(encoding.stream, "human")
    machine = codec.decode(encoding.stream, "machine")
    assert human.shape == picture.shape
    assert row["psnr"] == images.psnr(picture, human)
    assert row["psnr_machine"] == images.psnr(picture, machine)


@pytest.mark.parametrize("name", ["JPEG", "WebP"])
def test_an_anchor_is_the_file_that_pillow_writes(name: str, picture: images.Pixels) -> None:
    row = evaluate.classical(picture, name, 40)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, name, quality=40, optimize=True, method=6)
    assert row["bpp"] == 8 * len(file.getvalue()) / (90 * 130)
    decoded = np.asarray(Image.open(file).convert("RGB"))
    assert row["psnr"] == images.psnr(picture, decoded)
    better = evaluate.classical(picture, name, 80)
    assert better["bpp"] > row["bpp"]
    assert better["psnr"] > row["psnr"]


def test_the_mean_colour_is_the_variance_of_the_picture(picture: images.Pixels) -> None:
    mean = picture.reshape(-1, 3).mean(axis=0)
    mse = np.mean((picture - mean) ** 2)
    assert evaluate.mean_colour(picture)["psnr"] == pytest.approx(
        10 * np.log10(255**2 / mse), abs=0.01
    )


@pytest.fixture(scope="module")
def table(picture: images.Pixels, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("run")
    only = {"quality": ["q1"]}
    study = STUDY.model_copy(
        update={
            "lic": STUDY.lic.model_copy(update=only),
            "fusion": STUDY.fusion.model_copy(update={**only, "m": [2]}),
            "difference": STUDY.difference.model_copy(update={"quality": []}),
        }
    )
    base, additional = fill(TCM(**SIZES), "icm"), fill(AdditionalCodec(2, **SIZES), "ica2")
    weights.save(folder / "artifacts/sa_icm/codec.safetensors", base, {})
    weights.save(folder / "artifacts/lic/q1/codec.safetensors", base, {})
    weights.save(folder / "artifacts/fusion/m2-q1/codec.safetensors", additional, {})
    weights.save(folder / "artifacts/fusion/m9-q1/codec.safetensors", additional, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return evaluate.evaluate({"a": picture, "b": picture[:64, :64]}, study)


def test_the_table_is_tidy(table: pd.DataFrame) -> None:
    assert list(table.columns) == evaluate.COLUMNS
    anchors = len(STUDY.evaluate.jpeg) + len(STUDY.evaluate.webp)
    assert len(table) == 2 * (3 + 1 + anchors)
    assert not table.duplicated(["image", "codec", "point", "m"]).any()
    np.testing.assert_allclose(table.bpp, table.bpp_base + table.bpp_additional)
    assert set(table[table.codec == "fusion"].m) == {2}, "what lies in the folder does not count"


def test_means_and_metrics_are_means_over_the_images(table: pd.DataFrame) -> None:
    means = evaluate.means(table)
    rows = table[table.codec == "fusion"]
    mean = means[means.codec == "fusion"].iloc[0]
    assert mean.psnr == pytest.approx(rows.psnr.mean())
    assert mean.bpp_additional == pytest.approx(rows.bpp_additional.mean())
    metrics: dict[str, Any] = evaluate.metrics(table)
    assert metrics["fusion"]["m2-q1"]["psnr"] == round(rows.psnr.mean(), 4)
    assert set(metrics["JPEG"]) == {str(q) for q in STUDY.evaluate.jpeg}
    assert "psnr_machine" not in metrics["JPEG"]["10"]


def test_no_pictures_and_a_missing_checkpoint_are_one_line(
    picture: images.Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SicError, match=r"no test images; set data.test"):
        evaluate.evaluate({}, STUDY)
    with pytest.raises(SicError, match=r"no checkpoint artifacts/sa_icm/codec.safetensors"):
        evaluate.evaluate({"a": picture}, STUDY)
