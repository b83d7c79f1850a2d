"""Detection accuracy in sentences and as a figure: what the table says, and nothing else."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from sic.evaluation import detection, machine
from sic.report import findings

POINT = {"lmbda": None, "m": None}


def row(codec: str, point: str, bpp: float, ap: float, m: int | None = None) -> dict[str, Any]:
    about = {"codec": codec, "point": point, "lmbda": None, "m": m, "images": 154}
    return {
        **about,
        "bpp": bpp,
        **measured("ap", ap),
        **measured("ap50", 1.5 * ap),
        "mask_ap": None,
    }


def measured(name: str, value: float) -> dict[str, float]:
    return {name: value, f"{name}_low": value - 0.02, f"{name}_high": value + 0.01}


@pytest.fixture
def table() -> pd.DataFrame:
    rows = [
        row("original", "", np.nan, 0.28),
        row("SA-ICM", "q2", 0.07, 0.18),
        row("SA-ICM", "q3", 0.1, 0.21),
        row("LIC", "q1", 0.05, 0.10),
        row("LIC", "q2", 0.15, 0.20),
        row("fusion", "q1", 0.2, 0.22, m=5),
        row("fusion", "q2", 0.4, 0.25, m=5),
        row("fusion", "q1", 0.05, 0.27, m=1),
        row("JPEG", "10", 0.3, 0.07),
        row("JPEG", "5", 0.2, 0.02),
    ]
    return pd.DataFrame(rows).astype({"m": "Int64"})


def test_sentences_set_x_hat_t_beside_the_others_at_its_own_rate(table: pd.DataFrame) -> None:
    first, lic, fusion, jpeg = findings.detection_sentences(table, 5, "q3")
    assert "On 154 originals the detector has mAP 0.280 (mAP50 0.420)" in first
    assert "on x̂_t it has 0.210 (0.315) for 0.100 bpp, 75% of that" in first
    assert "at most 0.200, 71% of the originals', for 0.150 bpp" in lic
    assert "at x̂_t's 0.100 bpp 0.150, x̂_t +0.060" in lic
    assert "at most 0.250" in fusion, "m = 1 is another curve"
    assert "its 0.200 to 0.400 bpp do not reach x̂_t's 0.100" in fusion
    assert "its 0.200 to 0.300 bpp do not reach" in jpeg


def test_a_detector_that_finds_nothing_has_no_share(table: pd.DataFrame) -> None:
    first, *_ = findings.detection_sentences(table.assign(ap=0.0), 5, "q3")
    assert "no share of that" in first


def test_the_figure_has_a_curve_for_each_codec_and_a_line_for_originals(
    table: pd.DataFrame,
) -> None:
    left, right = findings.against_rate(table, m=5, caption="caption").axes
    for axes, factor in ((left, 1), (right, 1.5)):
        lines = {str(line.get_label()): line for line in axes.get_lines()}
        assert len(lines) == 5
        np.testing.assert_allclose(lines["originals"].get_ydata(), 0.28 * factor)
        bars = axes.collections[-1].get_segments()  # the last codec's: JPEG at 0.2 and at 0.3 bpp
        np.testing.assert_allclose(
            bars[0], [[0.2, 0.02 * factor - 0.02], [0.2, 0.02 * factor + 0.01]]
        )
        assert len(bars) == 2
        (jpeg,) = (line for label, line in lines.items() if "JPEG" in label)
        np.testing.assert_allclose(jpeg.get_xdata(), [0.2, 0.3])
        np.testing.assert_allclose(jpeg.get_ydata(), factor * np.array([0.02, 0.07]))


def test_classes_are_the_commonest_ones_in_the_order_of_the_codecs() -> None:
    counts = {"person": 90, "dog": 5, "chair": 40}
    rows = [
        {**POINT, "codec": codec, "point": point, "class": name, "objects": count, "ap": ap}
        for codec, point, ap in (("original", "", 0.3), ("JPEG", "5", 0.1), ("JPEG", "10", 0.2))
        for name, count in counts.items()
    ]
    found = findings.by_class(pd.DataFrame(rows).astype({"m": "Int64"}), 2)
    assert list(found.columns) == ["person", "chair"]
    assert found.person.tolist() == [0.3, 0.1, 0.2]


def test_without_a_detector_there_are_no_classes() -> None:
    assert findings.by_class(pd.DataFrame(columns=detection.CLASS_COLUMNS), 12).empty


def test_masks_have_a_panel_of_their_own(table: pd.DataFrame) -> None:
    masked = table.assign(mask_ap=table.ap / 2, mask_ap_low=table.ap / 4, mask_ap_high=table.ap)
    *_, last = findings.against_rate(masked, m=5, caption="caption").axes
    assert "masks" in last.get_ylabel()
    (jpeg,) = (line for line in last.get_lines() if "JPEG" in str(line.get_label()))
    np.testing.assert_allclose(jpeg.get_ydata(), [0.01, 0.035])


def points(codec: str, *values: tuple[float, float]) -> list[machine.Point]:
    return [
        machine.Point(codec, f"q{i}", 35, np.full(3, bpp), {"bbox": np.full((3, 2), ap)})
        for i, (bpp, ap) in enumerate(values)
    ]


def test_what_the_base_buys_is_told_by_curves_or_by_points() -> None:
    lic = points("LIC", (0.1, 0.1), (0.2, 0.2), (0.4, 0.3))
    jpeg = points("JPEG", (0.2, 0.1), (0.8, 0.3))
    curve = points("SA-ICM", (0.08, 0.1), (0.16, 0.2), (0.32, 0.3))
    first, second, third = findings.bought(machine.compare([*curve, *lic, *jpeg]))
    assert first == (
        "SA-ICM, x̂_t against LIC for people, boxes: 20.0 % fewer bits at equal AP [95%: -20.0 to "
        "-20.0 %]; AP +0.032 at equal bits [95%: +0.032 to +0.032 AP]."
    )
    assert "SA-ICM, x̂_t against JPEG, boxes: 60.0 % fewer bits at equal AP" in second
    assert "LIC for people against JPEG, boxes: 50.0 % fewer bits" in third
    (told,) = findings.bought(machine.compare([*points("SA-ICM", (0.15, 0.05)), *lic]))
    assert told == (
        "SA-ICM, x̂_t against LIC for people, boxes at 0.150 bpp and AP 0.050: no number of bits "
        "(the other has AP 0.100 to 0.300); AP -0.108 at equal bits [95%: -0.108 to -0.108 AP]."
    )
    (told,) = findings.bought(machine.compare([*points("SA-ICM", (0.05, 0.05)), *lic]))
    assert told.endswith("no AP at equal bits (the other has 0.100 to 0.400 bpp).")
