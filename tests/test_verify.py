"""`study.py verify`: what is within its tolerance and what is not; the README's numbers."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ruamel.yaml import YAML
from test_claims import WHY, bought
from test_findings import results

from sic import params, pipeline
from sic.errors import SicError
from sic.evaluation import bd
from sic.report import provenance, verify
from sic.report.verify import Found, readings

ROOT = Path(__file__).parents[1]
TOLERANCES = {"%": 0.5, "dB": 0.02, "bpp": 0.0005, "AP": 0.005}


# ---- numbers in words ------------------------------------------------------------------------


def test_numbers_with_a_unit_are_read_and_settings_stay_words() -> None:
    around, found = readings("−7.9 % [−11.7, −4.2], +0.12 dB [+0.07, +0.16] at m = 5 and λ = 0.005")
    assert around == "#, # at m = 5 and λ = 0.005"
    assert [one.values for one in found] == [(-7.9, -11.7, -4.2), (0.12, 0.07, 0.16)]
    assert [one.unit for one in found] == ["%", "dB"]
    assert readings("only 43% of the rate in common")[0] == "only # of the rate in common"
    around, found = readings("the other has AP 0.243 to 0.351, or 0.08 to 0.2 bpp")
    assert around == "the other has #, or #"
    assert [(one.unit, one.values) for one in found] == [
        ("AP", (0.243, 0.351)),
        ("bpp", (0.08, 0.2)),
    ]
    assert readings("45.9, 51.7, 58.7, 67.0, 76.6 M")[1] == [], "counted, so compared as they are"


def compared(there: Found | None, here: Found | None) -> list[verify.Line]:
    expected, found = ({"A": {"b": of}} if of else {} for of in (there, here))
    return verify.lines(expected, found, TOLERANCES)["A"]


@pytest.mark.parametrize(
    ("there", "here", "within"),
    [
        ("+1.0 %", "+1.5 %", True),
        ("+1.0 %", "+1.6 %", False),
        ("33 % [31, 36]", "34 % [31, 36]", True),  # one in the last digit
        ("33 % [31, 36]", "33 % [31, 38]", False),
        ("+0.12 dB", "+0.14 dB", True),
        ("+0.12 dB", "+0.15 dB", False),
        ("0.083 bpp", "0.084 bpp", True),
        ("0.083 bpp", "0.085 bpp", False),
        ("AP 0.243", "AP 0.248", True),
        ("AP 0.243", "AP 0.249", False),
        ("+1.0 % [+0.5, +2.0]", "+1.0 %", False),
        ("45.9, 51.7 M", "45.9, 51.7 M", True),
        ("45.9, 51.7 M", "45.9, 51.8 M", False),
        ("+1.0 %", "cannot be compared: no quality in common", False),
        ("", "", True),
    ],
)
def test_a_number_is_within_its_tolerance_or_outside(there: str, here: str, within: bool) -> None:
    (line,) = compared(Found(there), Found(here))
    assert line.within == within


def test_each_number_has_a_line_and_the_verdict_another() -> None:
    there = Found("−7.9 % [−11.7, −4.2], +0.12 dB [+0.07, +0.16]", "agrees")
    here = Found("−7.7 % [−11.7, −4.2], +0.09 dB [+0.07, +0.16]", "not decided")
    lines = compared(there, here)
    assert [line.within for line in lines] == [True, False, False]
    assert [line.what for line in lines] == ["b", "", ""]
    assert [line.tolerance for line in lines] == ["±0.5 %", "±0.02 dB", ""]
    text = verify.shown({"A": lines})
    assert re.search(r"\+0\.12 dB \[.*\] +±0\.02 dB +\+0\.09 dB \[.*\] +OUTSIDE\n", text)


def test_what_one_of_both_lacks_is_outside() -> None:
    assert not compared(Found("+1.0 %"), None)[0].within
    assert not compared(None, Found("+1.0 %"))[0].within


# ---- a study ---------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as after a run, whose numbers are made up, and what it expects."""
    monkeypatch.chdir(tmp_path)
    for name in ("params.yaml", "requirements.lock", "expected.yaml"):
        shutil.copy(ROOT / name, name)
    pipeline.put({"compare": {"bootstrap": 20}}, "test")
    weights = params.load().lic.init
    Path(weights).mkdir(parents=True)
    Path(weights, "q1.safetensors").write_bytes(b"weights")
    Path(weights, "q1.csv").write_text("step,split,loss,bpp,psnr\n")
    Path("results").mkdir()
    table = results()
    table.to_csv("results/rd.csv", index=False)
    bd.compare(table, resamplings=50).to_csv("results/bd.csv", index=False)
    bought(("VVC", "", 40.0, 10.0)).to_csv("results/detection_bd.csv", index=False)
    WHY.rename_axis("codec").to_csv("results/why.csv")
    detected = {"codec": ["original", "SA-ICM"], "point": [None, "q1"], "lmbda": [None, 0.005]}
    pd.DataFrame(detected | {"m": None, "ap": [0.35, 0.24]}).to_csv(
        "results/detection.csv", index=False
    )
    monkeypatch.setattr(pipeline, "everything", lambda: 0)
    monkeypatch.setattr(provenance, "write", lambda: None)
    assert verify.verify(accepting=True)
    return tmp_path


def outside(capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    assert not verify.verify()
    return [line for line in capsys.readouterr().out.splitlines() if line.endswith("OUTSIDE")]


def test_what_was_accepted_is_found(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accepted = verify.EXPECTED.read_bytes()
    capsys.readouterr()
    assert verify.verify()
    out = capsys.readouterr().out
    assert "OUTSIDE" not in out
    assert re.search(r"all \d\d lines agree$", out.strip())
    assert re.search(r"LIC, additional bits +−30\.0 % \[−30\.0, −30\.0\] +±0\.5 % +−30\.0 %", out)
    verify.verify(accepting=True)
    assert verify.EXPECTED.read_bytes() == accepted
    given = (ROOT / "expected.yaml").read_text().partition("accepted:")[0]
    assert verify.EXPECTED.read_text().startswith(given), "the tolerances and why they are so"


def test_another_lambda_is_named(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lmbda = params.load().quality["q2"].lmbda
    pipeline.put({"quality": {"q2": {"lmbda": 2 * lmbda}}}, "test")
    (line,) = outside(capsys)
    assert re.search(rf"params +as accepted +quality.q2.lmbda {2 * lmbda}, not {lmbda} ", line)


def test_how_the_machine_works_is_no_difference(study: Path) -> None:
    pipeline.put({"machine": {"workers": 3}}, "test")
    assert verify.verify()


def test_swapped_weights_are_named(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(params.load().lic.init, "q1.safetensors")
    file.write_bytes(b"others")
    (line,) = outside(capsys)
    assert re.search(rf"weights .*{re.escape(str(file))} is another file", line)
    file.write_bytes(b"weights")
    file.with_suffix(".csv").write_text("step\n")
    assert verify.verify(), "a history is no weights"


def test_an_edited_result_is_named_and_so_is_its_number(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path("results/bd.csv")
    table = pd.read_csv(path)
    row = (table.tested == "fusion m5") & (table.other == "LIC") & (table.bits == "additional")
    table.loc[row, "bd_rate"] = -33
    table.to_csv(path, index=False)
    Path("dvc.lock").touch()
    said = json.loads('[{"changed outs": {"results/bd.csv": "modified", "reports/a": "deleted"}}]')
    monkeypatch.setattr(provenance, "status", lambda: {"compare": said, "edges@a": ["always"]})
    edited, number = outside(capsys)
    assert re.search(r"results +.*results/bd.csv: not what the run left", edited)
    assert re.search(r"LIC, additional bits +−30.0 % .*−33.0 %", number)


def test_a_failed_run_passes_its_code_on(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "everything", lambda: 7)
    with pytest.raises(SystemExit) as caught:
        verify.verify()
    assert caught.value.code == 7


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, r"^expected.yaml is not there; bring it back with `git checkout expected.yaml`$"),
        ("tolerances: {", r"^expected.yaml is not what `verify --accept` writes .*git checkout"),
        ("numbers: 3", r"^expected.yaml is not what `verify --accept` writes .*git checkout"),
        (
            "tolerances: {'%': 1}\naccepted: {params: {}, weights: {}}\nnumbers: {}",
            r"^expected.yaml: tolerances lacks AP, bpp, dB; bring it back",
        ),
    ],
)
def test_a_wrong_file_is_one_line(study: Path, content: str | None, error: str) -> None:
    if content is None:
        verify.EXPECTED.unlink()
    else:
        verify.EXPECTED.write_text(content)
    with pytest.raises(SicError, match=error) as caught:
        verify.verify()
    assert "\n" not in str(caught.value)


# ---- README ----------------------------------------------------------------------------------

#: By the beginning of a claim in README's table, or of a sentence below it, the rows of
#: expected.yaml that its numbers come from.
CITED = {
    "By its additional bits, fusion needs fewer bits than an image": ["LIC, additional bits"],
    "By its additional bits, fusion needs fewer bits than coding": ["DC, additional bits"],
    "From m = 3 on PSNR hardly rises": ["m = 1 costs PSNR", "m ≥ 3 costs"],
    "The base is a layer for machines": ["has few bits and a poor picture"],
    "For a detector (YOLOX-nano)": [
        *("needs fewer bits than VVC at equal AP", "LIC, boxes", "JPEG, boxes", "original"),
        "SA-ICM q",
    ],
    "By its additional bits, fusion needs fewer bits than VVC": ["VVC, additional bits"],
    "Since the paper: feature residual": ["feature residual (FR)", "conditional FR"],
    "When the base's bits count as well, it needs": ["LIC, all bits"],
    "which gains": ["fusion/m5"],
}


def cells(part: str) -> tuple[str, str]:
    """The number and the verdict that README has for a claim, or the number of a sentence."""
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    after = text[text.index(part) :]
    if f"| {part}" not in text:
        return re.split(r"[.;] ", after, maxsplit=1)[0], ""
    _, _, here, verdict = after.split(" | ")[:4]
    return here, verdict


@pytest.mark.parametrize("part", CITED)
def test_readme_has_the_numbers_of_expected_yaml(part: str) -> None:
    numbers = YAML(typ="safe").load(ROOT / "expected.yaml")["numbers"]
    rows: list[Any] = [
        row
        for of in numbers.values()
        for what, row in of.items()
        if what.startswith(tuple(CITED[part]))
    ]
    known = [one for row in rows for one in readings(row.get("words", ""))[1]]
    words, verdict = cells(part)
    cited = readings(words)[1]
    assert cited, words
    for one in cited:
        digits = len(one.text.split()[0].partition(".")[2])
        values = [abs(v) for other in known if other.unit == one.unit for v in other.values]
        for value in map(abs, one.values):
            near = min(values, key=lambda v: abs(v - value))
            assert near == pytest.approx(value, abs=0.501 * 10.0**-digits), f"{words}: {one.text}"
    if verdict:
        assert re.search(r"\*\*(.*?)\*\*", verdict)[1] == rows[0]["verdict"], words
