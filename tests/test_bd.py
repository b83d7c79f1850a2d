"""Bjøntegaard deltas against their definition, and against numbers that others found."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sic.anchors import cached
from sic.evaluation import bd
from sic.evaluation.bd import Curve, Points

SHARED = Path(__file__).parents[2] / "shared"
MANY = 200  # resamplings

RATE = np.array([0.1, 0.22, 0.41, 0.9])
QUALITY = np.array([28.0, 30.5, 33.1, 36.2])


LOSSLESS = "a photo came back without loss, so a mean is infinite"
NOT_EVERYWHERE = "a point was not measured on every photo"


def curve(rate: Any, quality: Any, images: int = 1) -> Curve:
    """A curve that all images share."""
    return Curve(*(np.tile(np.asarray(v, float), (images, 1)) for v in (rate, quality)))


def akima(x: Points, y: Points, at: Points) -> Points:
    """Akima (1970), by hand: cubics whose slopes weigh the neighbours' against each other."""
    d = np.diff(y) / np.diff(x)
    d = np.concatenate(
        [[3 * d[0] - 2 * d[1], 2 * d[0] - d[1]], d, [2 * d[-1] - d[-2], 3 * d[-1] - 2 * d[-2]]]
    )
    slopes = []
    for i in range(len(x)):
        left, right = abs(d[i + 3] - d[i + 2]), abs(d[i + 1] - d[i])
        even = left + right < 1e-9 * (abs(d).max() + 1e-300)
        slopes.append(
            (d[i + 1] + d[i + 2]) / 2
            if even
            else (left * d[i + 1] + right * d[i + 2]) / (left + right)
        )
    found = []
    for value in at:
        i = min(int(np.searchsorted(x, value, side="right")) - 1, len(x) - 2)
        width, t = x[i + 1] - x[i], (value - x[i]) / (x[i + 1] - x[i])
        found.append(
            (2 * t**3 - 3 * t**2 + 1) * y[i]
            + (t**3 - 2 * t**2 + t) * width * slopes[i]
            + (3 * t**2 - 2 * t**3) * y[i + 1]
            + (t**3 - t**2) * width * slopes[i + 1]
        )
    return np.array(found)


def mean_difference(a: tuple[Points, Points], b: tuple[Points, Points]) -> float:
    """Of two curves y(x), over the x that both have; Simpson's rule."""
    low, high = max(a[0][0], b[0][0]), min(a[0][-1], b[0][-1])
    x = np.linspace(low, high, 4001)
    difference = akima(*a, x) - akima(*b, x)
    weights = np.ones(4001)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    return float((weights * difference).sum() / weights.sum())


def random_curves(seed: int) -> tuple[Curve, Curve]:
    rng = np.random.default_rng(seed)

    def draw(points: int) -> Curve:
        rate = 0.05 * np.cumprod(rng.uniform(1.5, 2.5, points))
        return curve(rate, 25 + np.cumsum(rng.uniform(1.5, 3.5, points)))

    return draw(5), draw(4)


@pytest.mark.parametrize("seed", range(6))
def test_deltas_are_those_of_their_definition(seed: int) -> None:
    tested, other = random_curves(seed)
    (rate, quality), (rate_b, quality_b) = ((c.rate[0], c.quality[0]) for c in (tested, other))
    found = bd.delta(tested, other, "rate", 1)
    log = mean_difference((quality, np.log(rate)), (quality_b, np.log(rate_b)))
    assert found.note == ""
    assert found.value == pytest.approx(100 * (np.exp(log) - 1), abs=0.01)
    found = bd.delta(tested, other, "quality", 1)
    db = mean_difference((np.log(rate), quality), (np.log(rate_b), quality_b))
    assert found.value == pytest.approx(db, abs=1e-3)


def test_a_constant_share_of_the_rate_and_a_constant_gain_are_found_again() -> None:
    other = curve(RATE, QUALITY)
    assert bd.delta(curve(0.8 * RATE, QUALITY), other, "rate", 1).value == pytest.approx(-20)
    assert bd.delta(curve(RATE, QUALITY + 0.5), other, "quality", 1).value == pytest.approx(0.5)
    assert bd.delta(other, other, "rate", 1).value == pytest.approx(0)


def test_the_order_of_the_points_does_not_count() -> None:
    other, order = curve(RATE, QUALITY), [2, 0, 3, 1]
    mixed = curve(0.8 * RATE[order], QUALITY[order])
    assert bd.delta(mixed, other, "rate", 1).value == pytest.approx(-20)


@pytest.mark.parametrize(
    ("tested", "of", "overlap", "note"),
    [
        ((RATE, QUALITY + 20), "rate", 0, "no quality in common"),
        ((100 * RATE, QUALITY), "quality", 0, "no rate in common"),
        ((RATE, QUALITY + 5), "rate", 3.2 / 8.2, "only 39% of the quality in common"),
        ((RATE[:2], QUALITY[:2]), "rate", 1, "fewer than 3 points"),
        ((RATE, [28, 30, 29.9, 33]), "rate", 1, "quality does not rise with the rate"),
        (([0.1, 0.1, 0.4], [28, 30, 33]), "quality", 1, "two points have one rate"),
        ((RATE, [28, 30, 33, np.inf]), "rate", np.nan, LOSSLESS),
        ((RATE, [np.inf] * 4), "quality", np.nan, LOSSLESS),
        ((RATE, [28, np.nan, 33, 36]), "rate", np.nan, NOT_EVERYWHERE),
        (([0.1, 0.2, np.nan], QUALITY[:3]), "quality", np.nan, NOT_EVERYWHERE),
        (
            ([0, 0.2, 0.4], QUALITY[:3]),
            "rate",
            np.nan,
            "a rate or a quality is no number to compare",
        ),
    ],
)
@pytest.mark.filterwarnings("error")
def test_curves_that_cannot_be_compared_have_a_note_and_no_number(
    tested: Any, of: str, overlap: float, note: str
) -> None:
    found = bd.delta(curve(*tested), curve(RATE, QUALITY), of, MANY)
    assert found.note == note
    assert np.isnan([found.value, found.low, found.high]).all()
    assert found.overlap == pytest.approx(overlap, abs=1e-9, nan_ok=True)
    assert bd.delta(curve(RATE, QUALITY), curve(*tested), of, MANY).note, "the other way round"


def test_a_photo_without_loss_leaves_no_number_to_resample() -> None:
    quality = np.tile(QUALITY, (3, 1))
    quality[1, -1] = np.inf
    found = bd.delta(Curve(np.tile(RATE, (3, 1)), quality), curve(RATE, QUALITY, 3), "rate", MANY)
    assert (found.note, found.low, found.high) == (
        LOSSLESS,
        pytest.approx(np.nan, nan_ok=True),
        pytest.approx(np.nan, nan_ok=True),
    )


def test_the_interval_is_over_the_images() -> None:
    saved = np.array([0.7, 0.8, 0.9, 0.6, 1.0, 0.8, 0.75, 0.85])[:, None]
    tested, other = Curve(saved * RATE, np.tile(QUALITY, (8, 1))), curve(RATE, QUALITY, 8)
    found = bd.delta(tested, other, "rate", 2000)
    # Rates are averaged before they are compared, so the value is that of the mean saving.
    assert found.value == pytest.approx(100 * (saved.mean() - 1))
    half = 1.96 * 100 * saved.std() / np.sqrt(8)
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=1)
    alike = bd.delta(curve(0.8 * RATE, QUALITY, 8), other, "rate", MANY)
    assert (alike.low, alike.high) == pytest.approx((-20, -20))
    one = bd.delta(curve(0.8 * RATE, QUALITY), curve(RATE, QUALITY), "rate", MANY)
    assert np.isnan([one.low, one.high]).all(), "one image says nothing of others"


def test_margins_say_where_a_curve_is_above_the_other() -> None:
    quality, percent = bd.margins(curve(0.8 * RATE, QUALITY + 1), curve(RATE, QUALITY + 1))
    assert (quality[0], quality[-1]) == (29, 37.2)
    np.testing.assert_allclose(percent, -20)
    steep = curve(RATE**1.5 / RATE[1] ** 0.5, QUALITY)  # they meet at the second point
    _, percent = bd.margins(steep, curve(RATE, QUALITY))
    assert percent[0] < 0 < percent[-1]


# ---- the study's comparisons -----------------------------------------------------------------


@pytest.fixture
def table() -> pd.DataFrame:
    """Two images; fusion takes 0.1 bpp of base and 0.8 of the LIC's bits above it."""
    rows = []
    for image in "ab":
        for point, rate, psnr in zip("1234", RATE, QUALITY, strict=True):
            for codec, m, base, additional in [
                ("LIC", None, rate, 0),
                ("VVC", None, 0.5 * rate, 0),
                ("difference", None, 0.1, rate),
                *(("fusion", m, 0.1, 0.8 * rate) for m in (3, 5)),
            ]:
                bits = {"bpp_additional": additional, "bpp": base + additional}
                rows.append({"image": image, "codec": codec, "m": m, "point": point, **bits})
                rows[-1]["psnr"] = psnr
        rows.append({"image": image, "codec": "mean colour", "point": "", "bpp": 0.001, "psnr": 12})
    return pd.DataFrame(rows).astype({"m": "Int64"})


def test_additional_bits_are_set_beside_all_bits_of_a_codec_without_layers(
    table: pd.DataFrame,
) -> None:
    compared = bd.compare(table, 10).set_index(["tested", "other", "bits"])
    assert compared.bd_rate["fusion m5", "LIC", "additional"] == pytest.approx(-20)
    assert compared.bd_rate["fusion m5", "difference", "additional"] == pytest.approx(-20)
    assert compared.bd_rate["LIC", "VVC", "all"] == pytest.approx(100)
    all_bits = 100 * ((0.1 + 0.8 * RATE) / RATE - 1)
    assert all_bits.min() < compared.bd_rate["fusion m3", "LIC", "all"] < all_bits.max()
    assert not {"mean colour"} & set(compared.index.get_level_values("tested"))
    shown = bd.readable(compared.reset_index()).set_index(["tested", "other", "bits"])
    assert shown.loc[("fusion m5", "DC", "additional"), "BD-rate (%)"] == "-20.0 [-20.0, -20.0]"
    found = bd.metrics_json(compared.reset_index())
    assert found["fusion m5"]["LIC, additional bits"] == {
        "bd_rate": -20,
        "bd_psnr": round(compared.bd_psnr["fusion m5", "LIC", "additional"], 2),
    }


def test_feature_residual_is_compared_with_fusion_at_its_m(table: pd.DataFrame) -> None:
    fusion = table[table.codec == "fusion"]
    residual = fusion.assign(codec="FR", bpp_additional=0.5 * fusion.bpp_additional)
    conditional = residual[residual.m == 5].assign(codec="conditional FR")
    everything = pd.concat([table, residual, conditional])
    pairs = {(c.tested, c.other) for c in bd.comparisons(everything) if c.bits == "additional"}
    others = {"difference", "LIC", "VVC"}
    assert {other for one, other in pairs if one == "FR m5"} == {"fusion m5", *others}
    assert {other for one, other in pairs if one == "FR m3"} == {"fusion m3", *others}
    rivals = {"fusion m5", "FR m5", *others}
    assert {other for one, other in pairs if one == "conditional FR m5"} == rivals
    compared = bd.compare(everything, 10).set_index(["tested", "other", "bits"])
    assert compared.bd_rate["FR m3", "fusion m3", "additional"] == pytest.approx(-50)


def test_a_comparison_without_a_number_has_its_reason_everywhere(table: pd.DataFrame) -> None:
    table.loc[(table.codec == "LIC") & (table.point == "4") & (table.image == "b"), "psnr"] = np.inf
    table.loc[(table.codec == "VVC") & (table.point == "2") & (table.image == "a"), "bpp"] = np.nan
    compared = bd.compare(table, 10)
    written = json.loads(json.dumps(bd.metrics_json(compared), allow_nan=False))
    assert written["fusion m5"]["LIC, all bits"] == {"bd_rate": LOSSLESS, "bd_psnr": LOSSLESS}
    shown = bd.readable(compared).set_index(["tested", "other", "bits"])
    assert shown.loc[("fusion m5", "LIC", "all"), "BD-rate (%)"] == LOSSLESS
    assert isinstance(written["fusion m5"]["VVC, all bits"]["bd_psnr"], float), "of three points"
    assert bd.curves(table)["VVC"].point.nunique() == 3


def test_codecs_of_one_point_are_no_curve(table: pd.DataFrame) -> None:
    assert set(bd.curves(table)) == {"LIC", "VVC", "difference", "fusion m3", "fusion m5"}
    one = table[(table.codec != "fusion") | (table.m == 5) | (table.point == "1")]
    assert "fusion m3" not in bd.curves(one)


# ---- what others measured --------------------------------------------------------------------


@pytest.mark.skipif(not SHARED.is_dir(), reason="the reference points lie in ../shared")
@pytest.mark.parametrize(
    ("codec", "percent"),
    [
        ("vvenc-medium-420-10b", 11.3),
        ("vvenc-fast-420-10b", 16.8),
        ("aom-allintra-444-10b-cpu4", 22),
        ("x265-veryslow-444-10b", 27),
        ("x265-veryslow-420-10b", 36),
        ("avif-444-speed4", 41),
    ],
)
def test_bd_rates_against_published_vtm_are_those_of_another_program(
    codec: str, percent: float
) -> None:
    """The numbers stand in the study's design (section 5), computed by others from these points."""
    points = pd.read_csv(SHARED / "reference/classical_kodak.csv").query("codec == @codec")
    kodak = points[points.image.str.startswith("kodim")]
    means = kodak.groupby("qp")[["bpp", "psnr_rgb"]].mean().to_numpy().T
    published = np.array(cached.PUBLISHED_VTM_KODAK).T
    found = bd.delta(curve(*means), curve(*published), "rate", 1)
    assert found.value == pytest.approx(percent, abs=1.0)


def test_one_point_a_codec_gives_a_table_without_comparisons() -> None:
    rows = [("a", "LIC", 0.2, 27.0), ("a", "VVC", 0.1, 28.0)]
    table = pd.DataFrame(rows, columns=["image", "codec", "bpp", "psnr"])
    table = table.assign(m=pd.array([pd.NA] * 2, "Int64"), bpp_additional=0.0, point="q1")
    compared = bd.compare(table, MANY)
    assert bd.readable(compared).empty
    assert bd.metrics_json(compared) == {}
