"""What a layer for machines buys: resampling against COCOeval itself, deltas worked out by hand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sic.evaluation import machine
from sic.evaluation.accuracy import Picture, Truth
from sic.evaluation.detectors import Detections
from sic.evaluation.machine import Front, Point

Marks = dict[str, Any]


def a_set(seed: int) -> tuple[Marks, list[Detections]]:
    """Five pictures with a few objects of three classes and a crowd, and a poor detector's boxes,
    whose scores come again in other pictures."""
    rng = np.random.default_rng(seed)
    names = ["cat", "dog", "zebra"]
    marks, found = [], []
    for image in range(5):
        boxes, classes = [], []
        for _ in range(rng.integers(1, 7)):
            box = [*rng.integers(0, 60, 2).tolist(), *rng.integers(10, 40, 2).tolist()]
            category, crowd = int(rng.integers(3)), int(rng.random() < 0.15)
            marks.append(
                {"image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd}
                | {"area": box[2] * box[3]}
            )
            for _ in range(rng.integers(0, 4)):
                x, y, width, height = np.array(box) + rng.integers(-4, 5, 4)
                boxes.append([x, y, x + width, y + height])
                classes.append(names[category if rng.random() < 0.8 else rng.integers(3)])
        array = np.array(boxes, np.float32).reshape(-1, 4)
        scores = 1 - rng.permutation(20)[: len(boxes)] / 20
        found.append(Detections(array, scores.astype(np.float32), classes))
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    return {"annotations": marks, "categories": categories}, found


def truth(path: Path, content: Marks, images: list[int]) -> Truth:
    about = {"width": 100, "height": 100}
    entries = [{"id": i, "file_name": f"{i}.png", **about} for i in images]
    path.write_text(json.dumps(content | {"images": entries}))
    return Truth(path)


@pytest.mark.parametrize("seed", range(8))
def test_resampling_is_cocoeval_on_a_set_with_copies(seed: int, tmp_path: Path) -> None:
    content, found = a_set(seed)
    one = truth(tmp_path / "one.json", content, list(range(5)))
    # Looked at in another order than that of their numbers, as a folder's may be.
    order = np.random.default_rng(seed).permutation(5)
    pictures: list[Picture] = [one.find(f"{i}.png") for i in order]
    evaluation = one.evaluate({p: found[p.id] for p in pictures})
    drawn = machine.draw(5, 6, seed)
    resampled = machine.resample(evaluation.matches["bbox"], drawn)
    np.testing.assert_allclose(resampled[0], evaluation.table.loc[0, ["ap", "ap50"]].tolist())
    for times, expected in zip(drawn[:, np.argsort(order)], resampled, strict=True):
        copies = {10 * i + k: i for i in range(5) for k in range(times[i])}
        marks = [
            {**mark, "image_id": copy}
            for copy, i in copies.items()
            for mark in content["annotations"]
            if mark["image_id"] == i
        ]
        many = truth(tmp_path / "many.json", content | {"annotations": marks}, list(copies))
        table = many.accuracy({many.find(f"{copy}.png"): found[i] for copy, i in copies.items()})
        np.testing.assert_allclose(expected, table.loc[0, ["ap", "ap50"]].tolist(), atol=1e-12)


def test_large_sets_are_resampled_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, found = a_set(0)
    one = truth(tmp_path / "one.json", content, list(range(5)))
    matches = one.evaluate({one.find(f"{i}.png"): found[i] for i in range(5)}).matches["bbox"]
    drawn = machine.draw(5, 50, 0)
    whole = machine.resample(matches, drawn)
    monkeypatch.setattr(machine, "_BLOCK", 10)
    np.testing.assert_array_equal(machine.resample(matches, drawn), whole)


def test_draws_start_with_the_pictures_as_they_are() -> None:
    drawn = machine.draw(4, 100, 3)
    np.testing.assert_array_equal(drawn[0], 1)
    np.testing.assert_array_equal(drawn.sum(axis=1), 4)
    np.testing.assert_array_equal(drawn, machine.draw(4, 100, 3))
    assert (drawn != machine.draw(4, 100, 4)).any()
    assert len(machine.draw(1, 100, 3)) == 1, "one picture says nothing of others"
    assert np.isnan(machine.interval(np.zeros(0))).all()


def test_an_interval_holds_95_percent_of_the_values_and_needs_90() -> None:
    values = np.arange(1001) / 1000
    assert machine.interval(values) == pytest.approx((0.025, 0.975))
    values[:101] = np.nan
    assert np.isnan(machine.interval(values)).all()


# ---- one codec against another ----


def point(codec: str, name: str, bpp: float, ap: float) -> Point:
    """Two resamplings, in which all codecs have 1.1 of the bits and 0.01 more or less AP."""
    rates = bpp * np.array([1, 1.1, 1.1])
    accuracy = ap + np.array([0, 0.01, -0.01])
    return Point(codec, name, 7, rates, {"bbox": np.stack([accuracy, accuracy], axis=1)})


def codec(name: str, *values: tuple[float, float]) -> list[Point]:
    return [point(name, f"q{i}", *value) for i, value in enumerate(values)]


LIC = codec("LIC", (0.1, 0.1), (0.2, 0.2), (0.4, 0.3))


def compared(*points: Point) -> pd.DataFrame:
    return machine.compare(points).set_index(["tested", "other", "point"])


def test_a_share_of_the_bits_is_found_again_with_its_interval() -> None:
    base = codec("SA-ICM", (0.08, 0.1), (0.16, 0.2), (0.32, 0.3))
    row = compared(*base, *LIC).loc["SA-ICM", "LIC", ""]
    assert (row.accuracy, row.images, row.bd_rate_note, row.bd_ap_note) == ("boxes", 7, "", "")
    rate = row[["bd_rate", "bd_rate_low", "bd_rate_high", "bd_rate_overlap"]].tolist()
    assert rate == pytest.approx([-20, -20, -20, 1])
    # AP rises by 0.1 where the bits double.
    gain = 0.1 * np.log2(1 / 0.8)
    found = row[["bd_ap", "bd_ap_low", "bd_ap_high"]].tolist()
    assert found == pytest.approx([gain] * 3)
    assert row.bd_ap_overlap == pytest.approx(np.log2(3.2) / 2)


def test_points_that_a_cheaper_one_equals_are_not_on_the_curve() -> None:
    bpp, ap = np.array([0.4, 0.1, 0.2, 0.8, 0.2]), np.array([0.4, 0.2, 0.1, 0.4, 0.15])
    front = Front.of(bpp, ap)
    np.testing.assert_allclose(np.exp(front.log_rate), [0.1, 0.4])
    np.testing.assert_allclose(front.ap, [0.2, 0.4])
    assert np.exp(front.last) == pytest.approx(0.8)
    assert front.ap_at(np.log(0.2)) == pytest.approx(0.3)
    assert front.ap_at(np.log(0.6)) == pytest.approx(0.4), "more bits, and no better"
    assert np.isnan([front.ap_at(np.log(0.09)), front.ap_at(np.log(0.81))]).all()
    assert np.isnan([front.rate_at(0.19), front.rate_at(0.41)]).all()
    dented = codec("SA-ICM", (0.1, 0.1), (0.2, 0.05), (0.4, 0.3))
    row = compared(*dented, *LIC).loc["SA-ICM", "LIC", ""]
    assert (row.bd_rate, row.bd_ap) == pytest.approx((0, 0), abs=1e-12)


def test_curves_with_corners_at_other_places_are_integrated_exactly() -> None:
    """The base's AP is 0.1 up to 0.2 bpp and then rises to the LIC's; by log₂ of the bits, the
    LIC's is a line: between them lies a triangle."""
    base = codec("SA-ICM", (0.1, 0.1), (0.2, 0.1), (0.4, 0.3))
    bent = codec("SA-ICM", (0.1, 0.1), (0.2, 0.1001), (0.4, 0.3))
    # Without its second point, which is no better, the base is the LIC's line.
    row = compared(*base, *LIC).loc["SA-ICM", "LIC", ""]
    assert (row.bd_rate, row.bd_ap) == pytest.approx((0, 0), abs=1e-12)
    row = compared(*bent, *LIC).loc["SA-ICM", "LIC", ""]
    assert row.bd_ap == pytest.approx(-0.1 / 2, abs=1e-4)
    assert row.bd_rate == pytest.approx(100 * (2**0.5 - 1), abs=0.1)


def test_a_single_point_is_set_beside_the_other_s_curve() -> None:
    row = compared(point("SA-ICM", "base", 0.15, 0.15), *LIC)
    assert list(row.index) == [("SA-ICM", "LIC", "base")], "no curve, and the LIC has no other"
    (row,) = row.itertuples()
    assert (row.bpp, row.ap) == (0.15, 0.15)
    assert row.other_bpp == pytest.approx(0.1 * 2**0.5)
    assert row.bd_rate == pytest.approx(100 * (1.5 / 2**0.5 - 1))
    assert (row.bd_rate_low, row.bd_rate_high) == pytest.approx((row.bd_rate, row.bd_rate))
    assert row.other_ap == pytest.approx(0.1 + 0.1 * np.log2(1.5))
    assert row.bd_ap == pytest.approx(0.05 - 0.1 * np.log2(1.5))


@pytest.mark.parametrize(
    ("base", "rate", "quality"),
    [
        ([(0.1, 0.31), (0.2, 0.4)], "no AP in common", ""),
        ([(0.5, 0.1), (0.6, 0.2)], "", "no rate in common"),
        ([(0.1, 0.25), (0.2, 0.45)], "only 25% of the AP in common", ""),
        ([(0.3, 0.1), (1.2, 0.2)], "", "only 21% of the rate in common"),
        ([(0.1, 0.2), (0.2, 0.1)], "fewer than two points, or no more AP for more bits", ""),
        ([(0.1, 0.0), (0.2, 0.0)], "fewer than two points, or no more AP for more bits", ""),
    ],
)
def test_curves_that_do_not_meet_have_a_note_and_no_number(
    base: list[tuple[float, float]], rate: str, quality: str
) -> None:
    row = compared(*codec("SA-ICM", *base), *LIC).loc["SA-ICM", "LIC", ""]
    assert (row.bd_rate_note, row.bd_ap_note) == (rate, quality)
    assert np.isnan(row.bd_rate) == bool(rate)
    assert np.isnan(row.bd_ap) == bool(quality)


def test_a_point_beyond_the_other_s_has_a_note_and_no_number() -> None:
    row = compared(point("SA-ICM", "base", 0.05, 0.35), *LIC).loc["SA-ICM", "LIC", "base"]
    assert row.bd_rate_note == "the other has AP 0.100 to 0.300"
    assert row.bd_ap_note == "the other has 0.100 to 0.400 bpp"
    assert row[["bd_rate", "bd_ap", "other_bpp", "other_ap"]].isna().all()


def test_base_and_lic_are_compared_with_all_codecs_without_layers(tmp_path: Path) -> None:
    others = [p for name in ("VVC", "JPEG") for p in codec(name, (0.1, 0.15), (0.4, 0.3))]
    layered = [point("fusion", "q1", 0.3, 0.3), point("difference", "q1", 0.3, 0.3)]
    original = point("original", "", np.nan, 0.4)
    table = machine.compare([original, point("SA-ICM", "base", 0.2, 0.2), *LIC, *layered, *others])
    pairs = table[["tested", "point", "other"]].to_numpy().tolist()
    base = [["SA-ICM", "base", other] for other in ("LIC", "VVC", "JPEG")]
    assert pairs == [*base, ["LIC", "", "VVC"], ["LIC", "", "JPEG"]]
    assert list(table.columns) == machine.COLUMNS
    table.to_csv(tmp_path / "bd.csv", index=False)
    read = machine.read(tmp_path / "bd.csv")
    pd.testing.assert_frame_equal(read, table, check_dtype=False)
    empty = machine.compare([])
    empty.to_csv(tmp_path / "bd.csv", index=False)
    assert machine.read(tmp_path / "bd.csv").empty


def test_other_steps_extend_what_is_compared_with_and_are_not_tested() -> None:
    """A codec in coarser steps is no better than one that was trained for these bits: it may stand
    for one as an opponent, and would be put at a disadvantage as the one that is tested."""
    vvc = codec("VVC", (0.05, 0.1), (0.1, 0.2), (0.2, 0.3))
    coarser = replace(point("LIC", "q0 step 2", 0.06, 0.02), in_steps=True)
    base = point("SA-ICM", "base", 0.07, 0.05)
    without, found = compared(base, *LIC, *vvc), compared(base, *LIC, coarser, *vvc)
    pd.testing.assert_series_equal(found.loc["LIC", "VVC", ""], without.loc["LIC", "VVC", ""])
    assert without.loc["SA-ICM", "LIC", "base"].bd_rate_note
    assert not found.loc["SA-ICM", "LIC", "base"].bd_rate_note


def test_a_resampling_without_an_object_has_no_say() -> None:
    def drawn(one: Point, *, empty: bool) -> Point:
        """Its own values in 20 resamplings; in the last one no object was drawn."""
        bpp, accuracy = np.full(21, one.bpp[0]), np.full((21, 2), one.accuracy["bbox"][0])
        accuracy[-1] = np.nan if empty else accuracy[-1]
        return replace(one, bpp=bpp, accuracy={"bbox": accuracy})

    points = [*codec("SA-ICM", (0.08, 0.1), (0.16, 0.2)), *LIC]
    table = compared(*(drawn(one, empty=True) for one in points))
    pd.testing.assert_frame_equal(table, compared(*(drawn(one, empty=False) for one in points)))


def test_pictures_without_an_object_are_not_compared() -> None:
    nothing = [replace(p, accuracy={"bbox": np.full((3, 2), np.nan)}) for p in LIC]
    assert machine.compare([*codec("SA-ICM", (0.1, 0.1), (0.2, 0.2)), *nothing]).empty


def test_masks_have_rows_of_their_own() -> None:
    base, *lic = [point("SA-ICM", "base", 0.2, 0.2), *LIC]
    masked = [
        Point(p.codec, p.point, p.images, p.bpp, {**p.accuracy, "segm": p.accuracy["bbox"] / 2})
        for p in (base, *lic)
    ]
    table = compared(*masked)
    assert table.accuracy.tolist() == ["boxes", "masks"]
    assert table.ap.tolist() == pytest.approx([0.2, 0.1])
    np.testing.assert_allclose(table.bd_rate, 0, atol=1e-9)
