"""The table of rates and distortions: every number against its definition."""

import tracemalloc
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
from sic.evaluation import coders, pieces, rate_distortion
from sic.evaluation.pieces import Coded, Result
from sic.files import sha256
from sic.params import FusionCodec
from sic.stream.scalable import ScalableCodec

ROOT = Path(__file__).parents[1]
STUDY = params.load(ROOT / "params.yaml")


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


def residual(m: int, quality: str, condition: bool) -> dict[str, FusionCodec]:
    """One more of them, with feature residual."""
    codec = FusionCodec(m=m, quality=quality, residual="feature", condition=condition)
    return {codec.name: codec}


def test_every_codec_that_params_asks_for_is_looked_for_and_no_other() -> None:
    study = STUDY.model_copy(
        update={
            "sa_icm": STUDY.sa_icm.model_copy(update={"quality": ["q1", "q3"], "base": "q3"}),
            "lic": STUDY.lic.model_copy(update={"quality": ["q1"]}),
            "fusion": STUDY.fusion.model_copy(
                update={
                    "codecs": some((2, "q1"), (2, "q3"), (4, "q1"), (4, "q3"), (1, "q3"))
                    | residual(2, "q3", condition=False)
                    | residual(4, "q1", condition=True)
                }
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
        ("FR", "q3", 2, lmbda["q3"]),
        ("conditional FR", "q1", 4, lmbda["q1"]),
        ("difference", "q2", None, lmbda["q2"]),
    ]
    files = {t.codec: t.enhancement for t in rate_distortion.trained(study)}
    assert files["FR"] == Path("artifacts/fusion/fr-m2-q3/codec.safetensors")
    assert files["conditional FR"] == Path("artifacts/fusion/cfr-m4-q1/codec.safetensors")
    for item in rate_distortion.trained(study):
        assert (item.enhancement is None) == (item.codec in ("SA-ICM", "LIC"))
        if item.enhancement:
            assert item.base == Path("artifacts/sa_icm/q3/codec.safetensors")


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


class Study:
    """A study of small codecs and two small pictures, in a folder of its own."""

    def __init__(self, folder: Path, picture: images.Pixels) -> None:
        self.folder = folder
        only = {"quality": ["q1"]}
        self.params = STUDY.model_copy(
            update={
                "sa_icm": STUDY.sa_icm.model_copy(update={**only, "base": "q1"}),
                "lic": STUDY.lic.model_copy(update=only),
                "fusion": STUDY.fusion.model_copy(update={"codecs": some((2, "q1"))}),
                "difference": STUDY.difference.model_copy(update={"quality": []}),
                "evaluate": STUDY.evaluate.model_copy(update=FEW_POINTS),
            }
        )
        for name, codec in CODECS.items():
            weights.save(folder / f"artifacts/{name}/codec.safetensors", codec, {})
        self.pictures = {"a": picture, "b/2": picture[:64, :64]}
        for name, pixels in self.pictures.items():
            images.write_png(self.path(name), pixels)

    def path(self, name: str) -> Path:
        return self.folder / f"photos/{name}.png"

    def run(self, **evaluate: Any) -> pd.DataFrame:
        settings = self.params.evaluate.model_copy(update=evaluate)
        study = self.params.model_copy(update={"evaluate": settings})
        return rate_distortion.evaluate({name: self.path(name) for name in self.pictures}, study)


BASE = faint_base()
CODECS = {
    "sa_icm/q1": BASE,
    "lic/q1": BASE,
    "fusion/m2-q1": fill(AdditionalCodec(2, **SIZES), "ica2"),
    "fusion/m9-q1": fill(AdditionalCodec(2, **SIZES), "ica2"),
}
LAYERS = (BASE, CODECS["fusion/m2-q1"])


@pytest.fixture(scope="module")
def small(picture: images.Pixels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield Study(folder, picture)


@pytest.fixture(scope="module")
def table(small: Study) -> pd.DataFrame:
    return small.run()


class Counted:
    """How often each kind of codec was asked to code."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.coded: dict[str, int] = {}
        for kind in (coders.Learned, coders.Classical, coders.Inter, coders.MeanColour):
            patch.setattr(kind, "code", self._counting(kind.__name__, kind.code))

    def _counting(self, kind: str, code: Callable[..., Coded]) -> Callable[..., Coded]:
        def counting(*arguments: Any) -> Coded:
            self.coded[kind] = self.coded.get(kind, 0) + 1
            return code(*arguments)

        return counting


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    # The fingerprint of the code is that of the files, which a test leaves alone.
    return Counted(monkeypatch)


def test_the_table_is_tidy(table: pd.DataFrame) -> None:
    assert list(table.columns) == [*rate_distortion.COLUMNS, *rate_distortion.COSTS]
    points = table[table.image == "a"].groupby("codec", sort=False).size().to_dict()
    ours = {"SA-ICM": 1, "LIC": 1, "fusion": 1, "mean colour": 1}
    stills = {"AVIF": 1, "WebP": 1, "JPEG": 2}
    videos = {"VVC": 1, "HEVC": 1, "JPEG XL": 1, "VVC+M": 1}
    assert points.items() >= {**ours, **stills}.items()
    assert points.items() <= {**ours, **stills, **videos}.items(), "some machines lack a codec"
    assert list(table[table.image == "b/2"].codec) == list(table[table.image == "a"].codec)
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


# ---- pieces ----------------------------------------------------------------------------------


def test_a_row_is_that_of_a_file_that_encode_would_write(small: Study, table: pd.DataFrame) -> None:
    """Both layers, although the second was written onto the first: bits, pictures and PSNR."""
    paths = [f"artifacts/{name}/codec.safetensors" for name in ("sa_icm/q1", "fusion/m2-q1")]
    codec = ScalableCodec.load(*paths)
    for name, picture in small.pictures.items():
        encoding = codec.encode_layers(picture)
        assert encoding.enhancement is not None
        layers = (encoding.base, encoding.enhancement)
        pictures = [codec.decode(encoding.stream, layer) for layer in ("machine", "human")]
        rows = table[table.image == name].set_index("codec")
        row, pixels = rows.loc["fusion"], picture[..., 0].size
        assert row.bpp_base == 8 * len(encoding.base.stream) / pixels
        assert row.bpp_additional == 8 * len(encoding.enhancement.stream) / pixels
        estimated = sum(layer.estimated.total for layer in layers) / pixels
        assert row.bpp_estimated == pytest.approx(estimated)
        assert row.psnr == images.psnr(picture, pictures[1])
        assert row.psnr_machine == rows.loc["SA-ICM"].psnr == images.psnr(picture, pictures[0])
        for of, wanted in zip(("SA-ICM", "fusion"), pictures, strict=True):
            of_codec = table[(table.image == name) & (table.codec == of)].iloc[0]
            np.testing.assert_array_equal(rate_distortion.picture(of_codec), wanted)
        files = [p for p in Path("checkpoints/coded").glob("fusion-m2-q1-*/*.zip")]
        assert encoding.stream in [Result(path).stream() for path in files]


def test_the_decoded_pictures_of_those_codecs_are_left_that_others_show(
    small: Study, table: pd.DataFrame
) -> None:
    found = {p.relative_to("artifacts/decoded") for p in Path("artifacts/decoded").rglob("*.webp")}
    points = ["SA-ICM/q1", "LIC/q1", "fusion/m2-q1", "JPEG/quality-10", "JPEG/quality-40"]
    points += ["VVC/QP-42"] if table[table.codec == "VVC"].bpp.notna().any() else []
    assert found == {Path(point, f"{name}.webp") for point in points for name in small.pictures}
    for row in table[table.codec.isin(["LIC", "JPEG"])].itertuples():
        about = {"codec": row.codec, "point": row.point}
        path = pieces.decoded(about, row.image, rate_distortion.DECODED)
        assert images.psnr(small.pictures[row.image], images.read(path)) == row.psnr


def test_nothing_is_coded_twice(small: Study, table: pd.DataFrame, counted: Counted) -> None:
    again = small.run()
    assert counted.coded == {}
    pd.testing.assert_frame_equal(again, table)


def test_a_new_setting_codes_its_own_pieces(
    small: Study, table: pd.DataFrame, counted: Counted
) -> None:
    more = small.run(jpeg=[10, 25, 40])
    assert counted.coded == {"Classical": 2}
    assert Path("artifacts/decoded/JPEG/quality-25/b/2.webp").is_file()
    old = more[more.point != "quality 25"].reset_index(drop=True)
    pd.testing.assert_frame_equal(old, table)
    small.run()
    assert counted.coded == {"Classical": 2}
    assert not Path("artifacts/decoded/JPEG/quality-25").exists(), "the pictures are replaced"


def test_other_weights_and_other_pictures_are_coded_again(
    small: Study, table: pd.DataFrame, counted: Counted
) -> None:
    path = small.folder / "artifacts/fusion/m2-q1/codec.safetensors"
    weights.save(path, fill(AdditionalCodec(2, **SIZES), "ica4"), {})
    other = small.run()
    weights.save(path, CODECS["fusion/m2-q1"], {})
    assert counted.coded == {"Learned": 2}, "the base's layer is taken up"
    assert set(other.version[other.codec == "fusion"]) != set(
        table.version[table.codec == "fusion"]
    )
    images.write_png(small.path("b/2"), small.pictures["a"][10:74, :64])
    small.run()
    images.write_png(small.path("b/2"), small.pictures["b/2"])
    points = {"Learned": 3, "MeanColour": 1, "Classical": 7}
    points |= {"Inter": 1} if "VVC+M" in set(table.codec) else {}
    coded = {kind: counted.coded[kind] - 2 * (kind == "Learned") for kind in points}
    missing = table[table.note.notna()].codec.nunique()
    assert coded["Learned"] == 3
    assert coded["Classical"] == points["Classical"] - missing


def test_a_base_is_read_once_for_all_that_stands_on_it(
    small: Study, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, asked = ScalableCodec.read_base, list[bytes]()
    monkeypatch.setattr(ScalableCodec, "read_base", lambda s, b: asked.append(b) or read(s, b))
    monkeypatch.setattr(coders, "_bases", {})
    about = {"point": "q1", "lmbda": 0.005}

    def make(m: int, base: coders.Learned) -> None:
        path = Path(f"artifacts/fusion/m{m}-q1/codec.safetensors")
        codec = coders.Learned.of(about | {"codec": "fusion", "m": m}, path, "cpu", base)
        for photo in map(small.path, small.pictures):
            pieces.Piece.of(photo, sha256(photo), codec).make()

    path = Path("artifacts/sa_icm/q1/codec.safetensors")
    base = coders.Learned.of(about | {"codec": "SA-ICM", "m": None}, path, "cpu")
    make(2, base)
    make(9, base)
    assert len(asked) == len(set(asked)) == 2
    monkeypatch.setattr(coders, "_KEPT", 0)
    monkeypatch.setattr(coders, "_bases", {})
    make(2, base)
    make(9, base)
    assert len(asked) == 6, "the first photo's goes when the second's is there"


def test_a_stopped_run_goes_on_where_it_was(
    small: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = Study(tmp_path, small.pictures["a"])
    nothing = {"qp": []}
    few: dict[str, Any] = {key: _set(key, **nothing) for key in ("vvc", "vvc_m", "hevc")}
    few |= {"avif": _set("avif", quality=[]), "jpeg_xl": _set("jpeg_xl", distance=[]), "webp": []}

    def stop(*_: Any) -> Coded:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(coders.Classical, "code", stop)
        with pytest.raises(KeyboardInterrupt):
            study.run(**few)
    assert not Path("artifacts/decoded").exists()
    counted = Counted(monkeypatch)
    study.run(**few)
    assert counted.coded == {"Classical": 4}


def test_a_damaged_result_is_one_line(small: Study, table: pd.DataFrame) -> None:
    name = f"{sha256(small.path('a'))[:16]}.zip"
    (path,) = Path("checkpoints/coded").glob(f"JPEG-quality-10-*/{name}")
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(SicError, match=rf"cannot read {path} .*; remove it and run the same"):
        small.run()
    path.write_bytes(content)


@pytest.mark.parametrize(("shape", "suffix"), [((60, 90, 3), ".webp"), ((2, 16384, 3), ".png")])
def test_pictures_are_kept_without_loss(
    shape: tuple[int, int, int], suffix: str, tmp_path: Path
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    (tmp_path / "a").write_bytes(pieces.pack({"psnr": np.inf, "lpips": np.nan}, picture))
    result = Result(tmp_path / "a")
    assert (result.picture() or ("", b""))[0] == suffix
    np.testing.assert_array_equal(result.pixels(), picture)
    assert result.row()["psnr"] == np.inf
    assert np.isnan(result.row()["lpips"])


# ---- tables ----------------------------------------------------------------------------------


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


def test_what_git_keeps_is_what_another_processor_gives_again() -> None:
    here = pd.DataFrame({"version": ["weights 12ab", "Pillow 12"], "lmbda": [0.0025, None]})
    here = here.assign(bpp=0.1001231, psnr=28.0111, ms_ssim=9.994, ap=0.2431, lpips=0.1)
    there = here.assign(version=["weights 34cd", "Pillow 12"], bpp=0.1001249, psnr=28.0112)
    kept = rate_distortion.reproducible(here)
    pd.testing.assert_frame_equal(kept, rate_distortion.reproducible(there))
    assert kept.iloc[0].tolist() == ["weights", 0.0025, 0.1001, 28.01, 9.99, 0.243, 0.1]
    assert here.psnr[0] == 28.0111


def test_a_photo_that_a_codec_cannot_code_leaves_its_points_out_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whatever codec: one photo of an odd size does not stop the others."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sic.anchors.programs.ffmpegs", lambda: iter(["/nowhere"]))
    monkeypatch.setattr(rate_distortion, "trained", lambda _: iter([]))
    points = {**FEW_POINTS, "webp": [40, 80], "vvc_m": _set("vvc_m", qp=[])}
    settings = STUDY.model_copy(update={"evaluate": STUDY.evaluate.model_copy(update=points)})
    tall = np.zeros((16384, 1, 3), np.uint8)
    photos = {"small": tmp_path / "small.png", "tall": tmp_path / "tall.png"}
    images.write_png(photos["small"], tall[:30])
    images.write_png(photos["tall"], tall)
    table = rate_distortion.evaluate(photos, settings)[rate_distortion.COLUMNS]
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
    assert set(rate_distortion.means(table).codec) == {"mean colour", "AVIF", "JPEG"}
    assert set(rate_distortion.metrics_json(table)) == {"mean colour", "AVIF", "JPEG"}
    table.to_csv(tmp_path / "rd.csv", index=False)
    assert rate_distortion.left_out(rate_distortion.read(tmp_path / "rd.csv")) == found


def test_the_file_of_the_table_is_read_as_it_was_written(
    table: pd.DataFrame, tmp_path: Path
) -> None:
    """Photos may have the names of COCO's, which look like numbers, or those of nothing."""
    names = {"a": "000000001296", "b/2": "NA"}
    written = table[rate_distortion.COLUMNS].assign(image=table.image.map(names))
    written.to_csv(tmp_path / "rd.csv", index=False)
    read = rate_distortion.read(tmp_path / "rd.csv")
    assert list(read.image) == list(written.image)
    pd.testing.assert_frame_equal(read, written.replace({"point": {"": np.nan}}))


def test_a_table_put_together_in_parts_is_the_same(
    small: Study, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_distortion, "_TOGETHER", 3)
    pd.testing.assert_frame_equal(small.run(), table)


def test_many_rows_take_little_memory(small: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 340,000 in the paper's study; all have the numbers of one result here."""
    monkeypatch.setattr(rate_distortion, "_codecs", lambda *_: iter([[coders.MeanColour()]]))
    monkeypatch.setattr(rate_distortion, "_TOGETHER", 100)
    names = [f"{i:012d}" for i in range(3000)]
    tracemalloc.start()
    try:
        rate_distortion.evaluate(dict.fromkeys(names, small.path("a")), small.params)
        assert tracemalloc.get_traced_memory()[1] / len(names) < 2500  # bytes a row
    finally:
        tracemalloc.stop()


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
    """But for the maps that coding composes (sic/codec/composition.py): these are fewer."""
    base = fill(TCM(**SIZES), "icm")
    expected = complexity.coding_kmac(base)
    counted = coders.operations(ScalableCodec(base))
    for step, stage in (("kmac_encode", "encoder"), ("kmac_decode", "decoder")):
        assert 0.9 * expected[stage] < counted[step] < expected[stage]


def test_missing_weights_of_lpips_are_one_line_with_a_remedy(small: Study) -> None:
    line = r"^evaluate\.lpips: there is no file no/alexnet\.pth; name torchvision's .* or null$"
    with pytest.raises(SicError, match=line):
        small.run(lpips="no/alexnet.pth")


def test_no_pictures_and_a_missing_checkpoint_are_one_line(
    picture: images.Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SicError, match=r"no test images; set data.test"):
        rate_distortion.evaluate({}, STUDY)
    images.write_png(tmp_path / "a.png", picture)
    with pytest.raises(SicError, match=r"no checkpoint artifacts/sa_icm/q\d/codec.safetensors"):
        rate_distortion.evaluate({"a": tmp_path / "a.png"}, STUDY)
