"""Each verdict on made-up results whose answer is known, and how the table of claims reads."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from ruamel.yaml import YAML
from test_findings import QUALITY, RATES, by_m, results, rows

from sic import params
from sic.codec import complexity
from sic.evaluation import bd, machine
from sic.report import claims, pages
from sic.report.claims import Claim, Verdict

ROOT = Path(__file__).parents[1]
NOT_LOOKED = pd.DataFrame(columns=machine.COLUMNS)
WHY = pd.DataFrame(
    {"psnr": [27.0, 27.4, 27.2, 27.2], "psnr_decoder_has_y": [27.3, 27.8, 27.1, 26.9]},
    index=["fusion/m5-q0", "fusion/m5-q1", "fusion/fr-m5-q1", "difference/q1"],
)


def told(table: pd.DataFrame, **more: Any) -> list[Claim]:
    known = {
        "compared": bd.compare(table, resamplings=50),
        "bought": NOT_LOOKED,
        "why": WHY,
        "parameters": pd.Series(complexity.TABLE_I),
    }
    return claims.claims(claims.Results(table, **known | more), "q1", resamplings=50)


def one(found: list[Claim], part: str) -> Claim:
    (claim,) = [claim for claim in found if part in f"{claim.heading} {claim.claim}"]
    return claim


def here(table: pd.DataFrame, part: str, **more: Any) -> claims.Measured:
    return one(told(table, **more), part).here


# ---- one codec against another ---------------------------------------------------------------

LIC, DC, VVC = (f"{name}, additional bits" for name in ("LIC", "DC", "VVC"))


def test_fewer_bits_agree_and_more_disagree() -> None:
    found = here(results(), LIC)
    assert found.verdict == Verdict.AGREES
    assert found.words == "−30.0 % [−30.0, −30.0], +1.29 dB [+1.29, +1.29]"
    assert found.photos == 2
    assert here(results(ours=1.2), LIC).verdict == Verdict.DISAGREES
    assert here(results(ours=1.2), DC).words.startswith("+33.3 % [+33.3, +33.3], −")
    assert here(results(ours=1.2), "DC, all").verdict == Verdict.DISAGREES


def test_an_interval_that_holds_0_decides_nothing() -> None:
    table = results()
    ours = (table.codec == "fusion") & (table.image == "b")
    table["bpp_additional"] = table.bpp_additional.where(~ours, 1.8 * table.bpp_additional)
    found = here(table, LIC)
    assert found.verdict == Verdict.OPEN
    assert found.words.endswith("; the interval holds 0")


def test_what_another_seed_may_change_decides_nothing() -> None:
    found = here(results(dc=0.705), DC)
    assert found.verdict == Verdict.OPEN
    assert found.words.endswith("; under 0.05 dB, as between seeds")


def test_one_photo_decides_nothing() -> None:
    table = results()
    found = here(table[table.image == "a"], LIC)
    assert (found.verdict, found.photos) == (Verdict.OPEN, 1)
    assert found.words == "−30.0 %, +1.29 dB; no interval"


def test_without_a_psnr_in_common_equal_bits_decide() -> None:
    low = results(fusion=rows("fusion", 0.7 * RATES, QUALITY - 8, m=5))
    found = here(low, LIC)
    assert found.verdict == Verdict.DISAGREES
    assert found.words.startswith("no percentage (no quality in common), −6.")
    far = results(fusion=rows("fusion", 0.01 * RATES, QUALITY - 8, m=5))
    found = here(far, LIC)
    assert found.verdict == Verdict.OPEN
    assert found.words == "cannot be compared: no quality in common"


def test_what_was_not_coded_or_trained_is_not_measured() -> None:
    assert here(results(), VVC).verdict == Verdict.ABSENT
    vvc = results(vvc=rows("VVC", 0.5 * RATES, QUALITY))
    assert here(vvc, VVC).verdict == Verdict.DISAGREES
    single = results(fusion=rows("fusion", [0.2], [30], m=5))
    assert here(single, LIC).verdict == Verdict.ABSENT
    for part in ("feature residual", "conditional FR", "LIC at equal AP", "VVC at equal AP"):
        assert here(results(), part) == claims.Measured("", Verdict.ABSENT)


def test_a_curve_that_no_words_speak_of_has_a_number_and_no_verdict() -> None:
    found = one(told(results()), "LIC, all bits")
    assert found.here.verdict == Verdict.NO_CLAIM
    assert found.here.words.startswith("−1")
    assert "no words" in found.paper


# ---- what came after -------------------------------------------------------------------------


def test_the_difference_codec_against_fusion_is_the_comparison_turned_round() -> None:
    table = results(dc=0.5)
    turned = here(table, "pixel residual")
    assert turned.verdict == Verdict.AGREES
    assert turned.words.startswith("−28.6 % [−28.6, −28.6], +"), "0.5 of 0.7"
    assert here(table, DC).verdict == Verdict.DISAGREES
    assert here(results(), "pixel residual").verdict == Verdict.DISAGREES


def with_residual(share: float) -> pd.DataFrame:
    return results(
        fr=rows("FR", share * RATES, QUALITY, m=5),
        cfr=rows("conditional FR", 0.8 * share * RATES, QUALITY, m=5),
    )


def test_feature_residual_is_judged_and_conditional_fr_has_nobodys_words() -> None:
    found = told(with_residual(0.56))
    assert one(found, "feature residual").here.verdict == Verdict.AGREES
    assert one(found, "feature residual").here.words.startswith("−20.0 % [")
    assert one(found, "conditional FR").here.verdict == Verdict.NO_CLAIM
    assert one(found, "conditional FR").here.words.startswith("−36.0 % [")
    worse = here(with_residual(0.9), "feature residual")
    assert (worse.verdict, worse.reason) == (Verdict.DISAGREES, "")


def test_the_reason_falls_as_the_errors_do() -> None:
    reason = here(with_residual(0.56), "feature residual").reason
    assert reason.startswith("A reason: the base’s rounding error, which FR sees and fusion does")
    assert reason.endswith("if the decoder had y for ŷ, fusion would have +0.35 dB, FR −0.10 dB.")
    assert "DC −0.30 dB" in here(results(dc=0.5), "pixel residual").reason
    alike = WHY.assign(psnr_decoder_has_y=WHY.psnr + 0.3)
    reason = here(with_residual(0.56), "feature residual", why=alike).reason
    assert reason.startswith("The base’s rounding error is not the reason: if the decoder had y")
    without = WHY.drop("fusion/fr-m5-q1")
    assert here(with_residual(0.56), "feature residual", why=without).reason == ""


# ---- the role of m ---------------------------------------------------------------------------


def test_m_behaves_as_in_table_2() -> None:
    found = told(by_m())
    lowest, settled = one(found, "m = 1 costs").here, one(found, "m ≥ 3 costs").here
    assert lowest.verdict == settled.verdict == Verdict.AGREES
    assert lowest.words == "−1.20 dB [−1.20, −1.20] against m = 5 at λ = 0.01"
    assert settled.words == "−0.20 dB [−0.20, −0.20] for m = 3 against m = 5 at λ = 0.01"
    assert one(found, "m = 1 costs").paper == "−1.27 dB against m = 5 at λ = 0.01 (Table II)"
    assert one(found, "m ≥ 3 costs").paper == "−0.19 dB for m = 3 at λ = 0.01 (Table II)"


def test_a_rounded_0_has_no_minus() -> None:
    found = here(by_m(m3=-0.001, m4=0.0), "m ≥ 3 costs")
    assert found.words.startswith("+0.00 dB [+0.00, +0.00] for m = 3")


def test_m_does_not_behave_as_in_table_2() -> None:
    assert here(by_m(m1=0.5), "m = 1 costs").verdict == Verdict.DISAGREES
    assert here(by_m(m1=-0.03), "m = 1 costs").verdict == Verdict.OPEN
    found = here(by_m(m4=-0.9), "m ≥ 3 costs")
    assert found.verdict == Verdict.DISAGREES
    assert found.words.startswith("−0.90 dB [−0.90, −0.90] for m = 4")


def test_an_interval_across_the_bound_leaves_m_open() -> None:
    table = by_m()
    varied = (table.m == 3) & (table.image == "a")
    table["psnr"] = table.psnr.where(~varied, table.psnr - 0.5)
    found = here(table, "m ≥ 3 costs")
    assert found.verdict == Verdict.OPEN
    assert found.words.endswith("; the interval holds 0.3 dB")


def test_m_that_was_not_trained_is_not_measured() -> None:
    for part in ("m = 1 costs", "m ≥ 3 costs"):
        assert here(results(), part).verdict == Verdict.ABSENT
    table = by_m()
    few = table[table.m.isna() | table.m.isin([2, 5])]
    assert here(few, "m = 1 costs").verdict == Verdict.ABSENT
    assert here(few, "m ≥ 3 costs").verdict == Verdict.ABSENT


@pytest.mark.filterwarnings("error")
def test_a_photo_without_loss_leaves_its_claims_open() -> None:
    table = by_m()
    table.loc[(table.image == "a") & (table.point == "q2"), "psnr"] = np.inf
    for part in ("m = 1 costs", "m ≥ 3 costs", LIC, "has few bits and a poor"):
        found = here(table, part)
        assert found.verdict == Verdict.OPEN, part
        assert "a photo came back without loss" in found.words
        assert "nan" not in found.words


# ---- the layer for machines ------------------------------------------------------------------


def bought(*found: tuple[str, str, float, float]) -> pd.DataFrame:
    """Comparisons of the base: the other codec, the base's point (empty: its curve), its bits at
    equal AP in percent (NaN: no number), and half the width of the interval."""
    made = []
    for other, point, percent, half in found:
        row = dict.fromkeys(machine.COLUMNS, np.nan)
        row |= {"tested": "SA-ICM", "other": other, "point": point, "accuracy": "boxes"}
        row |= {"images": 24, "bd_rate_note": "" if np.isfinite(percent) else "none in common"}
        row |= {"bd_rate": percent, "bd_rate_low": percent - half, "bd_rate_high": percent + half}
        row |= {"bd_ap": 0.01, "bd_ap_low": 0.005, "bd_ap_high": 0.02, "bd_ap_note": ""}
        made.append(row)
    return pd.DataFrame(made, columns=machine.COLUMNS)


def at_equal_ap(*found: tuple[str, str, float, float], note: str = "") -> claims.Measured:
    table = bought(*found).assign(bd_ap_note=note)
    return here(results(), "the LIC at equal AP", bought=table)


def test_the_base_is_judged_at_equal_accuracy() -> None:
    found = at_equal_ap(("LIC", "", -20, 5))
    assert (found.verdict, found.photos) == (Verdict.AGREES, 24)
    assert found.words.startswith("−20.0 % [−25.0, −15.0], +0.010 AP [+0.005, +0.020]")
    assert at_equal_ap(("LIC", "", 20, 5)).verdict == Verdict.DISAGREES
    assert at_equal_ap(("LIC", "", 4, 5)).verdict == Verdict.OPEN
    assert at_equal_ap(("VVC", "", -20, 5)).verdict == Verdict.ABSENT


def test_a_base_without_a_curve_is_judged_at_its_point() -> None:
    points = ("LIC", "q0", 50.0, 5.0), ("LIC", "q1", -20.0, 5.0)
    assert at_equal_ap(*points).words.startswith("−20.0")
    curve = "LIC", "", np.nan, 0.0
    assert at_equal_ap(*points, curve).words.startswith("no percentage (none in common), +0.010 AP")
    table = bought(*points, curve)
    table.loc[table.point == "", "bd_ap_note"] = "no rate in common"
    found = here(results(), "the LIC at equal AP", bought=table)
    assert found.words.startswith("−20.0"), "a curve without any number"
    found = at_equal_ap(curve, note="no rate in common")
    assert found.words == "cannot be compared: none in common"


def test_a_layer_for_machines_has_few_bits_and_a_poor_picture() -> None:
    part = "has few bits and a poor"
    found = here(results(), part)
    assert found.verdict == Verdict.AGREES
    assert found.words.startswith("33 % [33, 33] and 4.0 dB [4.0, 4.0] at λ = 0.005; 17 % ")
    some = results(lic=rows("LIC", [0.08, 0.3, 0.6], QUALITY))
    assert here(some, part).verdict == Verdict.OPEN
    none = results(lic=rows("LIC", RATES, [25, 26, 26.9]))
    assert here(none, part).verdict == Verdict.DISAGREES


def test_table_1_agrees_to_its_last_digit() -> None:
    part = "fewer parameters"
    assert here(results(), part).verdict == Verdict.AGREES
    assert here(results(), part).photos is None
    wrong = pd.Series(complexity.TABLE_I) + 0.1
    assert here(results(), part, parameters=wrong).verdict == Verdict.DISAGREES


# ---- the page --------------------------------------------------------------------------------


def test_a_verdict_is_told_by_word_and_sign_and_not_by_colour_alone() -> None:
    table = with_residual(0.56)
    page = BeautifulSoup(pages.claims_table(told(table)), "html.parser")
    marks = page.select("tbody tr .verdict")
    assert len(marks) == len(told(table)) == len(page.select("tbody th[scope=row]"))
    for mark, claim in zip(marks, told(table), strict=True):
        sign, word = mark.text.split(" ", 1)
        assert (word, len(sign)) == (claim.here.verdict, 1)
        assert mark["class"] == ["verdict", claim.here.verdict.name.lower()]
    of = {mark.text for mark in marks}
    assert len({mark[0] for mark in of}) == len(of) == 4, "this study decides every claim it has"
    (reason,) = page.select(".reason")
    assert reason.a["href"] == "why/index.html"
    style = (ROOT / "sic/report/static/page.css").read_text()
    for verdict in Verdict:
        assert f".verdict.{verdict.name.lower()}" in style


def test_names_of_photos_and_reasons_stay_text() -> None:
    measured = claims.Measured("<b> & 1", Verdict.OPEN, 3, "<i>")
    page = pages.claims_table([Claim("<h>", "<u>", "<s>", measured)])
    assert not [tag for tag in ("<h>", "<b>", "<i>", "<u>", "<s>") if tag in page]


def test_one_sentence_says_what_kind_of_study_it_is() -> None:
    study = params.load(ROOT / "params.yaml")
    told = claims.setting(study, "24 test photos (sample)", "graph (a stand-in)", 1.5567)
    assert told.startswith(
        "What kind of study this is: 24 test photos (sample), codecs of 1.6 M par"
    )
    assert "edge masks by graph (a stand-in). The base is set beside a LIC that is" in told
    assert "in steps of 1.41, 2, 2.83 at its lowest λ; " in told
    for key, value in {"lic_steps": (), "detector": "none"}.items():
        detect = study.detect.model_copy(update={key: value})
        plain = claims.setting(study.model_copy(update={"detect": detect}), "8", "graph", 1)
        assert plain.endswith("edge masks by graph."), "no picture in larger steps was looked at"
    assert f"{study.fusion.budget} steps from trained weights (the paper: about 740,000" in told


def test_every_page_of_a_stage_is_reachable_from_the_report() -> None:
    study = params.load(ROOT / "params.yaml")
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    outs = [out for stage in stages.values() for out in stage.get("do", stage).get("outs", [])]
    made = {out.split("/")[1] for out in outs if isinstance(out, str) and out.startswith("reports")}
    reached = {name.split("/")[0] for name in pages.names(study)}
    assert made - {"index.html", "notebook.ipynb", "figures"} == reached
