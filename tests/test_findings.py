"""The findings fall as the numbers do: each sentence in both directions, on made-up results."""

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sic.evaluation import bd, rate_distortion
from sic.report import findings

LAMBDAS = (0.005, 0.01, 0.02)
BASE, MACHINE = 0.05, 24.0  # bpp of the base, dB of x̂_t
RATES = np.array([0.15, 0.3, 0.6])  # bpp of the LIC
QUALITY = np.array([28.0, 30.5, 33.0])  # dB of the LIC
#: PSNR of x̂ above that of m = 5, as in Table II: m = 1 is low, and from 3 on little changes.
BY_M = {1: -1.2, 2: -0.5, 3: -0.2, 4: 0.05, 5: 0.0}

Numbers = Any  # of one codec, by λ


def rows(codec: str, rate: Numbers, psnr: Numbers, **more: Any) -> list[dict[str, Any]]:
    """A codec on two photos, of which the second takes twice the bits of the first."""
    layered = codec in bd.LAYERED
    about = {"codec": codec, "psnr_machine": MACHINE, "chroma": "4:4:4", **more}
    return [
        {
            **about,
            **{"image": image, "point": f"q{i}", "lmbda": lmbda, "psnr": p},
            "bpp_base": share * (BASE if layered else r),
            "bpp_additional": share * r if layered else 0.0,
            "bpp": share * (r + BASE if layered else r),
        }
        for i, (lmbda, r, p) in enumerate(zip(LAMBDAS, rate, psnr, strict=False), start=1)
        for image, share in (("a", 2 / 3), ("b", 4 / 3))
    ]


def results(ours: float = 0.7, dc: float = 0.9, **curves: Any) -> pd.DataFrame:
    """A study of three rate points.

    Args:
        ours, dc: what fusion and the DC model take of the LIC's bits, at its qualities.
        curves: rows that take the place of a codec's, or that come to them.
    """
    of: dict[str, Any] = {
        "base": rows("SA-ICM", [BASE], [MACHINE]),
        "lic": rows("LIC", RATES, QUALITY),
        "fusion": rows("fusion", ours * RATES, QUALITY, m=5),
        "difference": rows("difference", dc * RATES, QUALITY),
        "nothing": rows("mean colour", [0.001], [12.0]),
        **curves,
    }
    table = pd.DataFrame([row for found in of.values() for row in found])
    return table.reindex(columns=[*rate_distortion.COLUMNS]).astype({"m": "Int64"})


def text(table: pd.DataFrame) -> str:
    return "\n".join(findings.sentences(table, bd.compare(table, resamplings=20)))


def sentence(table: pd.DataFrame, beginning: str, also: str = "") -> str:
    lines = text(table).splitlines()
    (found,) = [line for line in lines if line.startswith(beginning) and also in line]
    return found


# ---- one curve against another ---------------------------------------------------------------

ADDITIONAL = "Counting additional bits, feature fusion (m = 5)"
ALL = "Counting all bits, feature fusion (m = 5)"


def test_fewer_bits_at_every_psnr() -> None:
    found = sentence(results(), f"{ADDITIONAL} needs 30.0 % fewer bits than the human LIC")
    assert "BD-rate -30.0 % [95%: -30.0 to -30.0 %], BD-PSNR +1.29 dB" in found
    assert "at every PSNR in common, from -30 % at " in found


def test_more_bits_are_called_more() -> None:
    table = results(ours=1.2)
    assert f"{ADDITIONAL} needs 20.0 % more bits than the human LIC" in text(table)
    assert f"{ADDITIONAL} needs 33.3 % more bits than the DC model" in text(table)
    assert f"{ALL} needs " in text(table)


def test_where_all_bits_count_the_base_does_too() -> None:
    found = sentence(results(), f"{ALL} needs", "fewer bits than the DC model")
    percent = 100 * ((0.7 * RATES + BASE) / (0.9 * RATES + BASE) - 1)
    assert percent.min() < -float(found.split("needs ")[1].split(" %")[0]) < percent.max()


def test_less_than_the_spread_of_seeds_is_no_difference() -> None:
    table = results(dc=0.705)
    found = sentence(table, f"{ADDITIONAL} and the DC model are equal")
    assert f"below {findings.EQUAL_DB} dB" in found


def test_a_difference_that_the_photos_do_not_agree_on_is_none() -> None:
    table = results()
    ours = table.codec == "fusion"
    more = table.bpp_additional.where(~ours | (table.image == "a"), 1.8 * table.bpp_additional)
    found = sentence(table.assign(bpp_additional=more), f"{ADDITIONAL} and the human LIC are equal")
    assert "its interval holds 0" in found


def test_curves_that_cross_are_not_better_everywhere() -> None:
    crossing = rows("fusion", RATES * [0.5, 0.7, 1.1], QUALITY, m=5)
    found = sentence(results(fusion=crossing), f"{ADDITIONAL} needs", "the human LIC")
    assert "NOT at every PSNR in common: -50 % at 28.0 dB, but +10 % at 33.0 dB" in found


@pytest.mark.filterwarnings("error")
def test_what_a_photo_without_loss_makes_infinite_is_said_in_words() -> None:
    table = results(nothing=rows("mean colour", [0.001], [np.inf]))
    white = (table.image == "a") & (table.point == "q3")
    table.loc[white & table.codec.isin(["LIC", "fusion"]), ["psnr", "psnr_y"]] = np.inf
    words = text(table)
    reason = "a photo came back without loss, so a mean is infinite"
    assert f"{ADDITIONAL} has no BD-rate against the human LIC ({reason}); no BD-PSNR" in words
    assert "How far x̂_t lies below the human LIC is not told" in words
    assert "At λ = 0.02 the effect of m is not told" in words
    assert "nan" not in words


def test_without_a_quality_in_common_the_ranges_are_given_and_no_number() -> None:
    low = rows("fusion", 0.7 * RATES, QUALITY - 8, m=5)
    found = sentence(results(fusion=low), f"{ADDITIONAL} has no BD-rate against the human LIC")
    assert "no quality in common" in found
    assert re.search(r"at equal rate it is 6\.\d\d dB worse", found)
    assert "feature fusion (m = 5) 20.00 to 25.00 dB for 0.105 to 0.420 bpp" in found
    assert "the human LIC 28.00 to 33.00 dB for 0.150 to 0.600 bpp" in found
    far = rows("fusion", 0.01 * RATES, QUALITY - 8, m=5)
    found = sentence(results(fusion=far), f"{ADDITIONAL} has no BD-rate against the human LIC")
    assert "no BD-PSNR either (no rate in common): feature fusion" in found


def test_vvc_m_is_compared_where_it_was_coded() -> None:
    assert "VVC+M" not in text(results())
    table = results(more=rows("VVC+M", 1.4 * RATES, QUALITY))
    assert f"{ADDITIONAL} needs 50.0 % fewer bits than VVC+M" in text(table)


def test_feature_residual_is_set_beside_the_other_second_layers() -> None:
    assert "residual" not in text(results())
    residual = rows("FR", 0.56 * RATES, QUALITY, m=5)
    conditional = rows("conditional FR", 0.42 * RATES, QUALITY, m=5)
    table = results(fr=residual, cfr=conditional, m4=rows("fusion", RATES, QUALITY, m=4))
    told = text(table)
    head = "Counting additional bits, "
    ours = f"{head}feature residual (m = 5) needs"
    assert f"{ours} 20.0 % fewer bits than feature fusion (m = 5" in told
    assert f"{ours} 37.8 % fewer bits than the DC model" in told
    assert f"{head}conditional FR (m = 5) needs 25.0 % fewer bits than feature residual (m" in told
    assert "than feature fusion (m = 4" not in told, "another m is another question"


def test_the_lic_stands_beside_each_classical_codec() -> None:
    vvc = rows("VVC", 0.5 * RATES, QUALITY, chroma="4:2:0")
    found = sentence(
        results(vvc=vvc, jpeg=rows("JPEG", RATES, QUALITY + 20)), "BD-rate of the human LIC"
    )
    assert "VVC +100 %" in found
    assert "JPEG no quality in common" in found
    assert found.endswith("VVC code 4:2:0, which costs them PSNR on RGB and flatters the LIC.")


# ---- the layers ------------------------------------------------------------------------------


def test_the_base_is_a_layer_for_machines_where_the_lic_takes_twice_its_bits() -> None:
    head = "Set beside the human LIC at λ = 0.005, 0.01, 0.02"
    found = sentence(results(), head)
    assert "takes 33%, 17%, 8% of its bits" in found
    assert "lies 4.00, 6.50, 9.00 dB below" in found
    assert found.endswith("at each of them.")
    some = results(lic=rows("LIC", [0.08, 0.3, 0.6], QUALITY))
    assert sentence(some, head).endswith("at λ = 0.01, 0.02, NOT at 0.005.")
    none = results(lic=rows("LIC", RATES, [25, 26, 26.9]))
    assert sentence(none, head).endswith("at NONE of them.")


def test_of_several_bases_the_one_below_the_second_layers_is_judged() -> None:
    three = results(base=rows("SA-ICM", [0.03, BASE, 0.14], 3 * [MACHINE]))
    found = sentence(three, "The base takes 0.050 bpp")
    assert "Those trained at λ = 0.005, 0.01, 0.02 take 0.030, 0.050, 0.140 bpp for 24.00" in found
    assert "takes 33%, 17%, 8% of its bits" in sentence(three, "Set beside the human LIC")
    assert not set(bd.compare(three, 20)[["tested", "other"]].stack()) & {bd.BASE}
    assert bd.BASE not in text(three), "x̂_t is no rival of pictures for people"


def test_a_codec_below_the_mean_colour_is_named() -> None:
    assert "Every trained codec beats sending nothing: the weakest" in text(results())
    worse = results(difference=rows("difference", RATES, [11.0, 30, 33]))
    assert (
        "NOT every trained codec beats sending nothing: the weakest picture for people has 11.00"
        in text(worse)
    )


# ---- m ---------------------------------------------------------------------------------------


def by_m(**quality: float) -> pd.DataFrame:
    """Fusion at m = 5 for three λ, and at m = 1 … 4 for the second only."""
    found = rows("fusion", 0.7 * RATES, QUALITY, m=5)
    for m, gain in {**BY_M, **{int(k[1:]): v for k, v in quality.items()}}.items():
        if m < 5:
            one = rows("fusion", 0.7 * RATES, QUALITY + gain, m=m)
            found += [row for row in one if row["lmbda"] == LAMBDAS[1]]
    return results(fusion=found)


def test_m_is_told_at_each_lambda_that_has_more_than_one() -> None:
    found = sentence(by_m(), "At λ =")
    assert found.startswith("At λ = 0.01, m = 1, 2, 3, 4, 5 give 29.30, 30.00, 30.30, 30.55, 30.50")
    assert "m = 1 is the lowest, by 0.70 dB, as in Table II" in found
    assert "m ≥ 3 lies within 0.20 dB of m = 5, as in Table II (0.3 dB)" in found
    assert ADDITIONAL in text(by_m()), "m = 5 has the curve"
    assert "At λ =" not in text(results())


def test_m_that_does_not_behave_as_in_table_2_is_told_so() -> None:
    assert "m = 1 is NOT the lowest, by 0.70 dB, unlike Table II" in text(by_m(m1=0.2))
    assert "m = 1 and the lowest of the others are equal (-0.03 dB)" in text(by_m(m1=-0.47))
    assert "m ≥ 3 lies within 0.90 dB of m = 5, NOT as in Table II" in text(by_m(m4=-0.9))
    few = by_m()
    few = few[few.m.isna() | few.m.isin([1, 5])]
    assert "no m between 3 and the largest was trained" in text(few)


def test_the_curve_with_most_rate_points_stands_for_the_method() -> None:
    table = results(
        fusion=rows("fusion", RATES, QUALITY, m=3) + rows("fusion", RATES, QUALITY, m=4)
    )
    assert findings.proposed(rate_distortion.means(table)) == "fusion m4"
    assert findings.proposed(rate_distortion.means(by_m())) == "fusion m5"


@pytest.mark.parametrize("points", [1, 2])
def test_too_few_rate_points_make_no_curve(points: int) -> None:
    found = text(results(fusion=rows("fusion", RATES[:points], QUALITY, m=5)))
    if points == 1:
        assert "Feature fusion was trained at one rate point: there is no curve" in found
    else:
        assert f"{ADDITIONAL} has no BD-rate against the human LIC (fewer than 3 points)" in found
