"""`python3 study.py verify`: whether this machine finds what was found before.

expected.yaml has the numbers of an accepted run as the report spells them, and how far each kind of
number may lie from them.  It stands beside params.yaml: what is asked for, and what came out.
"""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.comments import CommentedSeq

from sic import params, pipeline
from sic.codec import complexity
from sic.codec.tcm import Widths
from sic.errors import SicError, exit_on_error
from sic.evaluation import bd, machine, rate_distortion
from sic.evaluation.pieces import label
from sic.files import replacing, sha256
from sic.params import Params
from sic.progress import say
from sic.report import provenance
from sic.report.claims import Claim, Results, claims
from sic.work import ARTIFACTS

EXPECTED = Path("expected.yaml")
_RESULTS = Path("results")
_NUMBER = r"[+−]?\d+(?:\.\d+)?"
_READING = re.compile(
    rf"(?P<ap>AP )?(?P<value>{_NUMBER})(?: to (?P<to>{_NUMBER}))?"
    r"(?:\s?(?P<unit>%|dB|AP|bpp)(?!\w))?"
    rf"(?: \[(?P<low>{_NUMBER}), (?P<high>{_NUMBER})\])?"
)


class Found(NamedTuple):
    """What was found, in words with numbers, and the verdict on a claim; empty if there is none."""

    words: str = ""
    verdict: str = ""


#: By heading and then by what it is.
Numbers = Mapping[str, Mapping[str, Found]]


@dataclass(frozen=True)
class Reading:
    """A number in words with its unit (%, dB, AP or bpp), its interval if there is one, and the
    values of all of them."""

    text: str
    unit: str
    values: tuple[float, ...]

    def agrees(self, other: "Reading", tolerance: float) -> bool:
        """Whether no value differs by more than the tolerance, or than one in the last digit that
        is written, which any difference may turn."""
        digits = len(self.text.split()[0].partition(".")[2])
        most = max(tolerance, 10.0**-digits) + 1e-9
        pairs = zip(self.values, other.values, strict=False)
        return len(self.values) == len(other.values) and all(abs(a - b) <= most for a, b in pairs)


def readings(words: str) -> tuple[str, list[Reading]]:
    """The numbers that have a unit, and the words around them, with # in the place of each."""
    found: list[Reading] = []

    def take(match: re.Match[str]) -> str:
        unit = "AP" if match["ap"] else match["unit"]
        if unit is None:  # a setting, as in m = 5 and λ = 0.005
            return match[0]
        texts = filter(None, match.group("value", "to", "low", "high"))
        values = tuple(float(text.replace("−", "-")) for text in texts)
        found.append(Reading(match[0].removeprefix("AP "), unit, values))
        return "#"

    return _READING.sub(take, words), found


@dataclass(frozen=True)
class Line:
    """A line of the table: what it is, what was expected and how exactly, and what was found."""

    what: str
    expected: str
    tolerance: str
    found: str
    within: bool


# ---- what a run found ------------------------------------------------------------------------


def measured(study: Params) -> Numbers:
    """The numbers of the results in the study's folder: the report's claims, the trained codecs'
    bits and PSNR, what a detector found, and why."""
    table = rate_distortion.read(_RESULTS / "rd.csv")
    bought = machine.read(_RESULTS / "detection_bd.csv")
    why = pd.read_csv(_RESULTS / "why.csv", index_col="codec")
    sizes = complexity.millions(128, 320, 5, Widths())
    results = Results(table, bd.read(_RESULTS / "bd.csv"), bought, why, sizes)
    found: dict[str, dict[str, Found]] = {}
    for claim in claims(results, study.sa_icm.base, study.compare.bootstrap):
        found.setdefault(claim.heading, {})[claim.claim] = _claimed(claim)
    means = rate_distortion.means(table).dropna(subset="lmbda")
    detected = pd.read_csv(_RESULTS / "detection.csv", dtype={"m": "Int64"})
    detected = detected[detected.lmbda.notna() | (detected.codec == "original")]
    found["Means over the test photos"] = {
        f"{row['codec']} {label(row['m'], row['point'])}": Found(
            f"{row['bpp']:.3f} bpp, {row['psnr']:.2f} dB"
        )
        for row in means.to_dict("records")
    }
    found["What the detector finds"] = {
        f"{row['codec']} {label(row['m'], row['point'])}": Found(f"AP {row['ap']:.3f}")
        for row in detected.to_dict("records")
    }
    found["Bits of the base against others at equal AP"] = dict(_bought(bought))
    gain = why.psnr_decoder_has_y - why.psnr
    found["What the base's latent would gain, not rounded"] = {
        str(codec): Found(f"{value:+.2f} dB".replace("-", "−")) for codec, value in gain.items()
    }
    return {heading: rows for heading, rows in found.items() if rows}


def _claimed(claim: Claim) -> Found:
    reason = f"; {claim.here.reason}" if claim.here.reason else ""
    return Found(claim.here.words + reason, str(claim.here.verdict))


def _bought(bought: pd.DataFrame) -> Iterator[tuple[str, Found]]:
    """Of the classical codecs and the LIC, bits at equal AP, with the interval."""
    rows = bought[bought.tested == machine.BASE]
    spelled = zip(rows.to_dict("records"), bd.spelled(rows, "bd_rate", 1), strict=True)
    for row, words in spelled:
        value, _, interval = words.replace("-", "−").partition(" ")
        text = row["bd_rate_note"] or f"{value} % {interval}".rstrip()
        yield f"{row['other']}, {row['accuracy']}, {row['point'] or 'the curve'}", Found(text)


# ---- what the run was given ------------------------------------------------------------------


def given(study: Params) -> dict[str, dict[str, Any]]:
    """What the numbers depend on besides code: ``params``, all of params.yaml but ``machine``, and
    ``weights``, the SHA-256 of each file of weights that it names and the run does not make."""
    values = YAML(typ="safe", pure=True).load(params.PARAMS.read_text(encoding="utf-8"))
    asked = {key: value for key, value in values.items() if key != "machine"}
    stages = (study.sa_icm, study.lic, study.fusion, study.difference)
    named = [stage.init for stage in stages] + [study.segment.checkpoint, study.detect.weights]
    named += filter(None, [study.evaluate.lpips])
    paths = [Path(name) for name in dict.fromkeys(named) if Path(name).parts[0] != ARTIFACTS.name]
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))]
    # The histories beside shipped weights are drawn, and decide no number.
    weights = {f.as_posix(): sha256(f) for f in sorted(files) if f.is_file() and f.suffix != ".csv"}
    return {"params": _flat(asked), "weights": weights}


def _flat(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Values by their dotted keys; lists stay whole."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{path}{key}.")
        else:
            found[path + str(key)] = value
    return found


def changed(expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Line]:
    """A line on the settings and one on the weights, with what differs."""
    for what, here in found.items():
        there = expected[what]
        other = sorted(k for k in here.keys() | there.keys() if here.get(k) != there.get(k))
        told = [f"{k} {_told(here, k)}, not {_told(there, k)}" for k in other]
        if what == "weights":
            told = [f"{k} is another file" if k in here else f"{k} is not used" for k in other]
        rest = f"; and {len(told) - 5} more" if len(told) > 5 else ""
        yield Line(what, "as accepted", "", "; ".join(told[:5]) + rest or "the same", not other)


def _told(values: Mapping[str, Any], key: str) -> str:
    return str(values[key]) if key in values else "absent"


def edited() -> Line:
    """A line on what lies here otherwise than the last run left it, by DVC's word."""
    names = [
        path
        for reasons in (provenance.status() if provenance.LOCK.is_file() else {}).values()
        for reason in reasons
        if isinstance(reason, dict)
        for path, how in reason.get("changed outs", {}).items()
        if how == "modified"
    ]
    told = f"{', '.join(sorted(names))}: not what the run left; made again" if names else "the same"
    return Line("results", "as the run left them", "", told, not names)


# ---- one against the other -------------------------------------------------------------------


def lines(
    expected: Numbers, found: Numbers, tolerances: Mapping[str, float]
) -> dict[str, list[Line]]:
    """The table by headings: those of both, each number on a line of its own."""
    table: dict[str, list[Line]] = {}
    for heading in dict(expected) | dict(found):
        there, here = expected.get(heading, {}), found.get(heading, {})
        for what in dict(there) | dict(here):
            rows = _compare(what, there.get(what), here.get(what), tolerances)
            table.setdefault(heading, []).extend(rows)
    return table


def _compare(
    what: str, there: Found | None, here: Found | None, tolerances: Mapping[str, float]
) -> Iterator[Line]:
    if there is None or here is None:
        yield Line(what, there.words if there else "–", "", here.words if here else "–", False)
        return
    (around, wanted), (around_here, got) = readings(there.words), readings(here.words)
    if around != around_here or len(wanted) != len(got) or not wanted:
        yield Line(what, there.words, "", here.words, there.words == here.words)
    else:
        for one, other in zip(wanted, got, strict=True):
            most = tolerances[one.unit]
            yield Line(what, one.text, f"±{most:g} {one.unit}", other.text, one.agrees(other, most))
            what = ""
    if (there.verdict, here.verdict) != ("", ""):
        yield Line("", there.verdict, "", here.verdict, there.verdict == here.verdict)


def shown(table: Mapping[str, Sequence[Line]]) -> str:
    """The table as text."""
    head = Line("", "expected", "tolerance", "found", True)
    every = [head, *(line for of in table.values() for line in of)]
    cells = ("what", "expected", "tolerance", "found")
    width = {c: min(max(len(getattr(line, c)) for line in every), 48) for c in cells}

    def text(line: Line, verdict: str) -> str:
        row = "  ".join(getattr(line, c).ljust(width[c]) for c in cells)
        return f"  {row}  {verdict}".rstrip()

    told = [text(head, "")]
    for heading, of in table.items():
        told += ["", heading, *(text(o, "within" if o.within else "OUTSIDE") for o in of)]
    return "\n".join(told)


# ---- the command -----------------------------------------------------------------------------


def read() -> dict[str, Any]:
    """expected.yaml: `tolerances`, `accepted` (as :func:`given`) and `numbers`.  Raises SicError if
    it is not there, or is another file."""
    remedy = f"bring it back with `git checkout {EXPECTED}`"
    if not EXPECTED.is_file():
        raise SicError(f"{EXPECTED} is not there; {remedy}")
    try:
        content: dict[str, Any] = pipeline.round_trip().load(EXPECTED.read_text(encoding="utf-8"))
        units = {unit: float(value) for unit, value in content["tolerances"].items()}
        numbers = {
            heading: {what: Found(**found) for what, found in rows.items()}
            for heading, rows in content["numbers"].items()
        }
        accepted = {key: dict(content["accepted"][key]) for key in ("params", "weights")}
    except (YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError) as e:
        problem = " ".join(str(e).split())
        raise SicError(
            f"{EXPECTED} is not what `verify --accept` writes ({problem}); {remedy}"
        ) from None
    if missing := {"%", "dB", "bpp", "AP"} - units.keys():
        raise SicError(f"{EXPECTED}: tolerances lacks {', '.join(sorted(missing))}; {remedy}")
    return {"tolerances": units, "accepted": accepted, "numbers": numbers}


def accept(found: Numbers, inputs: Mapping[str, Mapping[str, Any]]) -> None:
    """Write what was found, and what it was found with, into expected.yaml; the tolerances there,
    which a person chose, stay as they are."""
    yaml = pipeline.round_trip()
    content = yaml.load(EXPECTED.read_text(encoding="utf-8"))
    content["accepted"] = {
        name: {key: _on_one_line(value) for key, value in values.items()}
        for name, values in inputs.items()
    }
    content["numbers"] = {
        heading: {what: {k: v for k, v in of._asdict().items() if v} for what, of in rows.items()}
        for heading, rows in found.items()
    }
    with replacing(EXPECTED) as temporary, temporary.open("w", encoding="utf-8") as file:
        yaml.dump(content, file)


def _on_one_line(value: Any) -> Any:
    if isinstance(value, list):
        value = CommentedSeq(value)
        value.fa.set_flow_style()
    return value


def verify(accepting: bool = False) -> bool:
    """Run what is missing and print the table; returns whether every number is within its
    tolerance.  With ``accepting`` the numbers become what is expected from now on.  Raises SicError
    as :func:`read` and :func:`sic.params.load`, and if a stage fails."""
    study, expected = params.load(), read()
    inputs = given(study)
    before = [*changed(expected["accepted"], inputs), edited()]
    for line in before:
        if not line.within:
            say(f"{line.what}: {line.found}")
    if code := pipeline.everything():
        raise SystemExit(code)
    provenance.write()
    found = measured(study)
    table = {"What the run was given": before}
    table |= lines(expected["numbers"], found, expected["tolerances"])
    print(shown(table))
    outside = sum(not line.within for of in table.values() for line in of)
    count = sum(map(len, table.values()))
    print(f"\n{outside} of {count} lines are outside" if outside else f"\nall {count} lines agree")
    if accepting:
        accept(found, inputs)
        print(f"{EXPECTED} now expects what was found: look at `git diff`, and commit it")
    return accepting or not outside


def main() -> None:
    """Verify, and end with exit code 1 if something is outside."""
    what = "Run what is missing and hold every claim and number against expected.yaml."
    parser = argparse.ArgumentParser(prog="python3 study.py verify", description=what)
    what = "take what is found now as what is expected from now on"
    parser.add_argument("--accept", action="store_true", help=what)
    if not verify(parser.parse_args().accept):
        raise SystemExit(1)


if __name__ == "__main__":
    exit_on_error(main)
