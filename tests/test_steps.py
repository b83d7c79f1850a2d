"""Steps of trained codecs: rows worked out by hand from streams, and rules on made-up curves."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from reference_weights import fill
from skimage import data
from small import SIZES

from sic import images, params
from sic.codec import weights
from sic.codec.fusion import AdditionalCodec
from sic.codec.tcm import TCM
from sic.errors import SicError
from sic.evaluation import rate_distortion, steps
from sic.evaluation.bd import Curve
from sic.params import FusionCodec, Params
from sic.stream.scalable import ScalableCodec

STUDY = params.load(Path(__file__).parents[1] / "params.yaml")
BASE = fill(TCM(**SIZES), "icm")
CODECS = {
    STUDY.base: BASE,
    "lic/q1": fill(TCM(**SIZES), "lic"),
    "fusion/m2-q1": fill(AdditionalCodec(2, **SIZES), "ica2"),
}
PHOTO = np.ascontiguousarray(data.coffee()[100:170, 200:300])


def study(**evaluate: Any) -> Params:
    """The default study with small codecs, one of each kind."""
    codecs = {"m2-q1": FusionCodec(m=2, quality="q1")}
    return STUDY.model_copy(
        update={
            "lic": STUDY.lic.model_copy(update={"quality": ["q1"]}),
            "fusion": STUDY.fusion.model_copy(update={"codecs": codecs}),
            "difference": STUDY.difference.model_copy(update={"quality": []}),
            "evaluate": STUDY.evaluate.model_copy(update=evaluate),
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A study's folder with the small codecs and a photo."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, codec in CODECS.items():
            weights.save(folder / f"artifacts/{name}/codec.safetensors", codec, {})
        images.write_png(folder / "a.png", PHOTO)
        yield folder


@pytest.fixture(scope="module")
def table(folder: Path) -> pd.DataFrame:
    return steps.measure({"a": folder / "a.png"}, study(steps=[0.5, 2, 4]), "cpu")


def test_the_codecs_are_the_middle_ones_on_the_base_that_is_named() -> None:
    chosen = [(t.codec, t.point, t.m) for t in steps.chosen(STUDY)]
    assert chosen == [("SA-ICM", STUDY.sa_icm.base, None), ("LIC", "q1", None), ("fusion", "q1", 5)]


def test_every_step_has_a_row(table: pd.DataFrame) -> None:
    assert list(table.columns) == steps.COLUMNS
    for codec in ("SA-ICM", "LIC"):
        rows = table[table.codec == codec]
        assert list(rows.step) == [0.5, 1, 2, 4]
        assert rows.base_step.isna().all()
        assert (rows.bpp_additional == 0).all()
    fusion = table[table.codec == "fusion"]
    assert list(fusion[fusion.base_step == 1].step) == [0.5, 1, 2, 4]
    assert set(fusion.base_step) == {1, 2}, "0.5 and 4 are not of the map"
    assert (fusion.m == 2).all()
    assert not table.duplicated(["image", "codec", "base_step", "step"]).any()


def test_a_row_is_that_of_the_stream_with_these_steps(table: pd.DataFrame, folder: Path) -> None:
    paths = [folder / f"artifacts/{name}/codec.safetensors" for name in CODECS]
    both = ScalableCodec.load(paths[0], paths[2])
    for row in table[table.codec == "fusion"].itertuples():
        stream = both.encode(PHOTO, row.step, row.base_step)
        base = both.encode_layers(PHOTO, row.step, row.base_step).base.stream
        assert row.bpp == 8 * len(stream) / 7000
        assert row.bpp_base == 8 * len(base) / 7000
        assert row.bpp_base + row.bpp_additional == pytest.approx(row.bpp)
        assert row.psnr == images.psnr(PHOTO, both.decode(stream, "human"))
    for codec, path in (("SA-ICM", paths[0]), ("LIC", paths[1])):
        alone = ScalableCodec.load(path)
        for row in table[table.codec == codec].itertuples():
            stream = alone.encode(PHOTO, row.step)
            assert row.bpp == row.bpp_base == 8 * len(stream) / 7000
            assert row.psnr == images.psnr(PHOTO, alone.decode(stream))


def test_what_was_measured_is_taken_up_and_no_steps_are_no_rows(
    table: pd.DataFrame, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = {"a": folder / "a.png"}
    monkeypatch.setattr(ScalableCodec, "load", None)  # would fail if a codec were asked for
    again = steps.measure(pictures, study(steps=[4, 2, 0.5, 1]), "cpu")
    pd.testing.assert_frame_equal(again, table)
    nothing = steps.measure(pictures, study(steps=[]), "cpu")
    assert list(nothing.columns) == steps.COLUMNS
    assert len(nothing) == len(allocated := steps.allocation(nothing)) == 0
    assert steps.allocation_in_words(allocated) == []
    assert steps.curves(nothing, nothing) == {}


def test_the_file_of_the_table_is_read_back_as_results(table: pd.DataFrame, tmp_path: Path) -> None:
    table.to_csv(tmp_path / "steps.csv", index=False)
    read = rate_distortion.read(tmp_path / "steps.csv")
    assert read.m.dtype == table.m.dtype
    assert list(read.step) == list(table.step)


# ---- within 5 % of the bits ------------------------------------------------------------------


def curve(bits: list[float], psnr: list[float]) -> Curve:
    """Two photos of which the second takes twice the bits of the first, at equal PSNR."""
    rate = np.array(bits)
    return Curve(np.stack([rate * 2 / 3, rate * 4 / 3]), np.stack([np.array(psnr)] * 2))


#: 3 dB for twice the bits, as made-up codecs trained for 24, 27 and 30 dB have it.
TRAINED = curve([0.1, 0.2, 0.4], [24, 27, 30])


def test_the_reach_is_where_steps_take_five_percent_more() -> None:
    away = np.array([-2, -1, 0, 1, 2])  # dB from 27; 5 % more bits one away, 21.6 % two away
    bits = 0.2 * 2 ** (away / 3) * 1.05 ** (away**2)
    found = steps.reach(curve(list(bits), list(27.0 + away)), TRAINED, 27)
    assert found.own == pytest.approx(0.2)
    # One dB on either side, or one before that of the 101 qualities over 4 dB.
    assert found.low == pytest.approx(0.2 * 2 ** (-1 / 3) * 1.05, rel=0.01)
    assert found.high == pytest.approx(0.2 * 2 ** (1 / 3) * 1.05, rel=0.015)
    assert not found.low_open
    assert not found.high_open
    assert str(found) == (
        "within 5 % of the bits from 0.200 bpp down to 0.167 bpp (-17%) and up to 0.265 bpp (+32%)"
    )


def test_a_reach_without_an_end_says_so() -> None:
    away = np.array([-4, -2, 0, 2, 4])  # trained codecs end 3 dB away
    bits = 0.2 * 2 ** (away / 3) * np.where(away < 0, 1.2 ** (-away / 2), 1.01 ** (away / 2))
    found = steps.reach(curve(list(bits), list(27.0 + away)), TRAINED, 27)
    assert found.high_open
    assert str(found).endswith(" at least")
    assert found.high == pytest.approx(0.4 * 1.01**1.5, rel=0.01)
    assert not found.low_open
    assert 0.1 < found.low < 0.2


@pytest.mark.parametrize(
    ("stepped", "others", "note"),
    [
        (TRAINED, curve([0.2], [27]), "it was trained at one λ only"),
        (TRAINED, curve([0.1, 0.2, 0.4], [24, 27, 26]), "PSNR does not rise with the bits"),
        (curve([0.1, 0.2, 0.4], [28, 27, 30]), TRAINED, "PSNR does not rise with the bits"),
    ],
)
def test_curves_that_cannot_be_compared_have_a_note(
    stepped: Curve, others: Curve, note: str
) -> None:
    found = steps.reach(stepped, others, 27)
    assert str(found) == f"not compared: {note}"


def test_a_curve_of_steps_stands_beside_those_trained_for_the_same_photos(
    table: pd.DataFrame,
) -> None:
    table = table[table.codec == "fusion"]
    rows = [("a", "q1", 2), ("a", "q2", 2), ("a", "q1", 1), ("b", "q1", 2)]
    measured = pd.DataFrame(rows, columns=["image", "point", "m"]).assign(codec="fusion")
    measured = measured.assign(bpp_additional=[0.1, 0.2, 9, 9], bpp=9.0, psnr=[20.0, 21, 9, 9])
    stepped, others = steps.curves(table, measured)["fusion"]
    fusion = table[(table.codec == "fusion") & (table.base_step == 1)].sort_values("step")
    np.testing.assert_array_equal(stepped.rate[0], fusion.bpp_additional)
    np.testing.assert_array_equal(others.rate, [[0.1, 0.2]])
    np.testing.assert_array_equal(others.quality, [[20, 21]])
    with pytest.raises(SicError, match=r"^results/rd.csv has no row of fusion and a; run the eval"):
        steps.curves(table, measured[measured.image == "b"])


# ---- what a cheaper base costs people --------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "tried"),
    [(30.5, [1, 2]), (31.0, [1, 2]), (33, [1, 0.5, 0.25]), (26, [1, 2, 4]), (24.4, [1, 2, 4])],
)
def test_steps_are_tried_outwards_until_the_target_lies_between_two(
    target: float, tried: list[float]
) -> None:
    psnr = {0.25: 33.5, 0.5: 32.5, 1.0: 31.0, 2.0: 28.0, 4.0: 24.5}
    asked: list[float] = []

    def measure(step: float) -> float:
        asked.append(step)
        return psnr[step]

    steps.outwards(measure, sorted(psnr), target)
    assert asked == tried


def test_bits_at_equal_quality_are_interpolated_photo_by_photo() -> None:
    columns = ["image", "base_step", "step", "bpp_base", "bpp_additional", "psnr"]
    rows = [
        ("a", 1.0, 1.0, 0.10, 0.20, 30.0),
        ("a", 1.0, 0.5, 0.10, 0.40, 33.0),
        ("a", 2.0, 1.0, 0.05, 0.20, 29.0),
        ("a", 2.0, 0.5, 0.05, 0.80, 31.0),  # 30 dB lies midway: the geometric mean, 0.4
        ("b", 1.0, 1.0, 0.30, 0.50, 32.0),
        ("b", 2.0, 1.0, 0.15, 0.50, 31.0),
        ("b", 2.0, 0.5, 0.15, 0.60, 32.0),
        ("a", np.nan, 1.0, 0.10, 0.0, 20.0),  # one layer: not of the map
    ]
    allocated = steps.allocation(pd.DataFrame(rows, columns=columns))
    assert steps.allocation_in_words(allocated) == [
        "A base in steps of 2 takes -50% bits for machines; equal x̂ costs +42.9% additional and "
        "+9.1% of all bits."
    ]
    found = allocated.set_index("base_step")
    assert found.loc[1.0, ["bpp_base", "bpp_additional", "bpp"]].tolist() == [
        pytest.approx(0.2),
        pytest.approx(0.35),
        pytest.approx(0.55),
    ]
    assert found.bpp_base[2.0] == pytest.approx(0.1)
    assert found.bpp_additional[2.0] == pytest.approx(0.5)
    assert found.bpp[2.0] == pytest.approx(0.6)
    assert found.photos.tolist() == [2, 2]
    short = pd.DataFrame(rows[:-2], columns=columns)
    allocated = steps.allocation(short)
    (sentence,) = steps.allocation_in_words(allocated)
    assert sentence.endswith("no step gave back x̂ in 1 of the photos.")
    found = allocated.set_index("base_step")
    assert found.photos[2.0] == 1
    assert found.loc[2.0, ["bpp_additional", "bpp"]].isna().all(), "b reaches 31 dB at most"
    assert found.bpp_base[2.0] == pytest.approx(0.1)
