"""Detection accuracy in sentences and as a figure: what the table says, and nothing else."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from sic.evaluation import detection
from sic.report import findings

POINT = {"lmbda": None, "m": None}


def row(codec: str, point: str, bpp: float, ap: float, m: int | None = None) -> dict[str, Any]:
    about = {"codec": codec, "point": point, "lmbda": None, "m": m, "images": 154}
    return {**about, "bpp": bpp, "ap": ap, "ap50": 1.5 * ap}


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
