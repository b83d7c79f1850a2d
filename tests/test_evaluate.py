"""The table of rates and distortions: every number against its definition."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from reference_weights import fill
from skimage import data
from small import SIZES

from sic import images, params
from sic.codec import complexity, weights
from sic.codec.fusion import AdditionalCodec
from sic.codec.tcm import TCM
from sic.errors import SicError
from sic.evaluation import rate_distortion
from sic.evaluation.metrics import Metrics
from sic.params import FusionCodec
from sic.stream.scalable import ScalableCodec

ROOT = Path(__file__).parents[1]
STUDY = params.load(ROOT / "params.yaml")
Run = Callable[[], pd.DataFrame]


def _set(section: str, **values: Any) -> Any:
    return getattr(STUDY.evaluate, section).model_copy(update=values)


FEW_POINTS = {
    "vvc": _set("vvc", preset="faster", qp=[42]),
    "vvc_m": _set("vvc_m", preset="faster", qp=[32]),
    "hevc": _set("hevc", preset="ultrafast", qp=[37]),
    "avif": _set("avif", speed=10, quality=[30]),
    "jpeg_xl": _set("jpeg_xl", effort=1, distance=[4.0]),
    "webp": [40],
    "jpeg": [10, 40],
}


@pytest.fixture(scope="module")
def picture() -> images.Pixels:
    return np.ascontiguousarray(data.coffee()[100:190, 200:330])


def some(*items: tuple[int, str]) -> dict[str, FusionCodec]:
    """The codecs of `fusion` in params.yaml."""
    return {f"m{m}-{quality}": FusionCodec(m=m, quality=quality) for m, quality in items}


def test_every_codec_that_params_asks_for_is_looked_for_and_no_other() -> None:
    study = STUDY.model_copy(
        update={
            "sa_icm": STUDY.sa_icm.model_copy(update={"quality": ["q1", "q3"], "base": "q3"}),
            "lic": STUDY.lic.model_copy(update={"quality": ["q1"]}),
            "fusion": STUDY.fusion.model_copy(
                update={"codecs": some((2, "q1"), (2, "q3"), (4, "q1"), (4, "q3"), (1, "q3"))}
            ),
            "difference": STUDY.difference.model_copy(update={"quality": ["q2"]}),
        }
    )
    found = [(t.codec, t.point, t.m, t.lmbda) for t in rate_distortion.trained(study)]
    lmbda = {name: point.lmbda for name, point in study.quality.items()}
    assert found == [
        ("SA-ICM", "q1", None, lmbda["q1"]),
        ("SA-ICM", "q3", None, lmbda["q3"]),
        ("LIC", "q1", None, lmbda["q1"]),
        ("fusion", "q1", 2, lmbda["q1"]),
        ("fusion", "q3", 2, lmbda["q3"]),
        ("fusion", "q1", 4, lmbda["q1"]),
        ("fusion", "q3", 4, lmbda["q3"]),
        ("fusion", "q3", 1, lmbda["q3"]),
        ("difference", "q2", None, lmbda["q2"]),
    ]
    for item in rate_distortion.trained(study):
        assert (item.enhancement is None) == (item.codec in ("SA-ICM", "LIC"))
        if item.enhancement:
            assert item.base == Path("artifacts/sa_icm/q3/codec.safetensors")


def test_rates_are_lengths_of_streams_and_quality_is_that_of_decoded_pictures(
    picture: images.Pixels,
) -> None:
    codec = ScalableCodec(fill(TCM(**SIZES), "icm"), fill(AdditionalCodec(2, **SIZES), "ica2"))
    row = rate_distortion.code(codec, picture, Metrics())
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


def test_the_mean_colour_is_the_variance_of_the_picture(
    table: pd.DataFrame, picture: images.Pixels
) -> None:
    mse = np.mean((picture - picture.reshape(-1, 3).mean(axis=0)) ** 2)
    row = table[(table.codec == "mean colour") & (table.image == "a")].iloc[0]
    assert row.psnr == pytest.approx(10 * np.log10(255**2 / mse), abs=0.01)
    assert row.bpp == 24 / (90 * 130)


def faint_base() -> TCM:
    """A base whose x̂_t is faint on grey: libvvenc refuses the noise of untrained weights."""
    base = fill(TCM(**SIZES), "icm")
    with torch.no_grad():
        base.g_s[-1][0].weight.mul_(0.02)
    return base


LAYERS = (faint_base(), fill(AdditionalCodec(2, **SIZES), "ica2"))


@pytest.fixture(scope="module")
def run(picture: images.Pixels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A study of small codecs, run on two small pictures."""
    folder = tmp_path_factory.mktemp("run")
    only = {"quality": ["q1"]}
    study = STUDY.model_copy(
        update={
            "sa_icm": STUDY.sa_icm.model_copy(update={**only, "base": "q1"}),
            "lic": STUDY.lic.model_copy(update=only),
            "fusion": STUDY.fusion.model_copy(update={"codecs": some((2, "q1"))}),
            "difference": STUDY.difference.model_copy(update={"quality": []}),
            "evaluate": STUDY.evaluate.model_copy(update=FEW_POINTS),
        }
    )
    base, additional = LAYERS
    weights.save(folder / "artifacts/sa_icm/q1/codec.safetensors", base, {})
    weights.save(folder / "artifacts/lic/q1/codec.safetensors", base, {})
    weights.save(folder / "artifacts/fusion/m2-q1/codec.safetensors", additional, {})
    weights.save(folder / "artifacts/fusion/m9-q1/codec.safetensors", additional, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield lambda: rate_distortion.evaluate({"a": picture, "b": picture[:64, :64]}, study)


@pytest.fixture(scope="module")
def table(run: Run) -> pd.DataFrame:
    return run()


def test_the_table_is_tidy(table: pd.DataFrame) -> None:
    assert list(table.columns) == [*rate_distortion.COLUMNS, *rate_distortion.COSTS]
    points = table[table.image == "a"].groupby("codec", sort=False).size().to_dict()
    ours = {"SA-ICM": 1, "LIC": 1, "fusion": 1, "mean colour": 1}
    stills = {"AVIF": 1, "WebP": 1, "JPEG": 2}
    videos = {"VVC": 1, "HEVC": 1, "JPEG XL": 1, "VVC+M": 1}
    assert points.items() >= {**ours, **stills}.items()
    assert points.items() <= {**ours, **stills, **videos}.items(), "some machines lack a codec"
    assert list(table[table.image == "b"].codec) == list(table[table.image == "a"].codec)
    assert not table.duplicated(["image", "codec", "point", "m"]).any()
    np.testing.assert_allclose(table.bpp, table.bpp_base + table.bpp_additional)
    assert set(table[table.codec == "fusion"].m) == {2}, "what lies in the folder does not count"


def test_every_row_says_how_it_was_coded(table: pd.DataFrame) -> None:
    coded = table[table.codec != "mean colour"]
    assert coded[["version", "chroma", "bit_depth", "colour", "point"]].notna().all(axis=None)
    classical = coded[coded.lmbda.isna()]
    assert classical.preset.notna().all()
    jpeg = classical[classical.codec == "JPEG"].iloc[0]
    assert (jpeg.chroma, jpeg.bit_depth, jpeg.point) == ("4:2:0", 8, "quality 10")
    assert "Pillow" in jpeg.version


def test_a_second_layer_is_counted_apart(table: pd.DataFrame) -> None:
    base = table[table.codec == "SA-ICM"].set_index("image")
    for codec in {"fusion", "VVC+M"} & set(table.codec):
        rows = table[table.codec == codec].set_index("image")
        pd.testing.assert_series_equal(rows.bpp_base, base.bpp, check_names=False)
        pd.testing.assert_series_equal(rows.psnr_machine, base.psnr_machine)
        assert (rows.bpp_additional > 0).all()
    assert (table[table.codec == "JPEG"].bpp_additional == 0).all()


def test_a_second_run_differs_in_times_and_memory_only(table: pd.DataFrame, run: Run) -> None:
    again = run()
    pd.testing.assert_frame_equal(again[rate_distortion.COLUMNS], table[rate_distortion.COLUMNS])
    fixed = ["parameters", "kmac_encode", "kmac_decode"]
    pd.testing.assert_frame_equal(again[fixed], table[fixed])


def test_means_and_metrics_are_means_over_the_images(table: pd.DataFrame) -> None:
    means = rate_distortion.means(table)
    assert list(means.columns) == rate_distortion.COLUMNS[1:-1]
    rows = table[table.codec == "fusion"]
    mean = means[means.codec == "fusion"].iloc[0]
    assert mean.psnr == pytest.approx(rows.psnr.mean())
    assert mean.bpp_additional == pytest.approx(rows.bpp_additional.mean())
    metrics: dict[str, Any] = rate_distortion.metrics_json(table)
    assert metrics["fusion"]["m2-q1"]["psnr"] == round(rows.psnr.mean(), 2)
    assert set(metrics["JPEG"]) == {"quality 10", "quality 40"}
    assert "psnr_machine" not in metrics["JPEG"]["quality 10"]
    assert "lpips" not in metrics["JPEG"]["quality 10"], "no weights, no number"


def test_a_photo_that_a_codec_cannot_code_leaves_its_points_out_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whatever codec: one photo of an odd size does not stop the others."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sic.anchors.programs.ffmpegs", lambda: iter(["/nowhere"]))
    settings = STUDY.model_copy(
        update={"evaluate": STUDY.evaluate.model_copy(update={**FEW_POINTS, "webp": [40, 80]})}
    )
    tall = np.zeros((16384, 1, 3), np.uint8)
    photos = {"small": tall[:30], "tall": tall}
    rows = rate_distortion._of_anchors(photos, settings, Metrics())
    table = pd.DataFrame(rows, columns=rate_distortion.COLUMNS).astype({"note": "object"})
    webp = table[(table.codec == "WebP") & (table.image == "tall")]
    assert list(webp.note) == 2 * [
        "encoding error 5: Image size exceeds WebP limit of 16383 pixels"
    ]
    assert webp[rate_distortion.NUMBERS].isna().all(axis=None)
    found = rate_distortion.left_out(table)
    assert (
        "WebP has no mean and no curve at quality 40, quality 80: it cannot code tall (encoding "
        "error 5: Image size exceeds WebP limit of 16383 pixels); take that out of the test photos "
        "to have them."
    ) in found
    (hevc,) = (sentence for sentence in found if sentence.startswith("HEVC"))
    assert "/nowhere: No such file or directory" in hevc
    assert set(rate_distortion.means(table).codec) == {"AVIF", "JPEG"}
    assert set(rate_distortion.metrics_json(table)) == {"AVIF", "JPEG"}
    table.to_csv(tmp_path / "rd.csv", index=False)
    assert rate_distortion.left_out(rate_distortion.read(tmp_path / "rd.csv")) == found


def test_the_file_of_the_table_is_read_as_it_was_written(
    table: pd.DataFrame, tmp_path: Path
) -> None:
    """Photos may have the names of COCO's, which look like numbers, or those of nothing."""
    names = {"a": "000000001296", "b": "NA"}
    written = table[rate_distortion.COLUMNS].assign(image=table.image.map(names))
    written.to_csv(tmp_path / "rd.csv", index=False)
    read = rate_distortion.read(tmp_path / "rd.csv")
    assert list(read.image) == list(written.image)
    pd.testing.assert_frame_equal(read, written.replace({"point": {"": np.nan}}))


def test_costs_are_those_of_each_point(table: pd.DataFrame) -> None:
    costs = rate_distortion.costs(table).set_index("codec")
    sizes = [sum(p.numel() for p in codec.parameters()) for codec in LAYERS]
    assert costs.parameters["SA-ICM"] == sizes[0]
    assert costs.parameters["fusion"] == sum(sizes)
    ours = costs.loc[["SA-ICM", "fusion"]]
    assert (ours[["encode_seconds", "decode_seconds", "peak_megabytes"]] > 0).all(axis=None)
    assert costs.kmac_encode["fusion"] > costs.kmac_encode["SA-ICM"]
    assert costs.loc["JPEG", "encode_seconds"].gt(0).all()
    assert costs.loc["JPEG", "kmac_encode"].isna().all()


def test_operations_are_those_that_the_codec_stage_counts() -> None:
    base = fill(TCM(**SIZES), "icm")
    counted = rate_distortion.operations(ScalableCodec(base))
    expected = complexity.coding_kmac(base)
    assert counted["kmac_encode"] == pytest.approx(expected["encoder"], rel=0.02)
    assert counted["kmac_decode"] == pytest.approx(expected["decoder"], rel=0.02)


def test_no_pictures_and_a_missing_checkpoint_are_one_line(
    picture: images.Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SicError, match=r"no test images; set data.test"):
        rate_distortion.evaluate({}, STUDY)
    with pytest.raises(SicError, match=r"no checkpoint artifacts/sa_icm/q\d/codec.safetensors"):
        rate_distortion.evaluate({"a": picture}, STUDY)
