"""The paper's claims, each beside what was measured here, with a verdict that falls as the numbers.

A claim is decided where the 95 % interval over the test photos lies on one side of what it says,
and the difference is one that another seed of the training would not make.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sic.codec import complexity
from sic.evaluation import bd, machine, rate_distortion
from sic.evaluation.bd import BASE, Delta
from sic.evaluation.detection import NONE
from sic.params import Params
from sic.report.figures import TABLE_II
from sic.report.findings import BASE_DB, BASE_SHARE, EQUAL_DB, SETTLED_DB, SETTLED_M, proposed

Numbers = NDArray[np.float64]


class Verdict(StrEnum):
    """What the numbers say of a claim; NO_CLAIM where no words at hand claim anything."""

    AGREES = "agrees"
    DISAGREES = "disagrees"
    OPEN = "not decided"
    ABSENT = "not measured"
    NO_CLAIM = "no claim"


#: What is read below the table.
NOTE = (
    "Percent: of bits at equal PSNR or AP; dB and AP: at equal bits; in brackets the 95 % interval "
    "over draws of the photos, which says nothing of other training runs. Not decided: the "
    f"interval holds both answers, or two codecs are less than {EQUAL_DB} dB apart, as two seeds "
    "may be. Additional bits: of the second layer alone, against all bits of codecs of one layer. "
    "Of SA-ICM (arXiv 2403.04173) the abstract and a table were at hand, of FR and PR (arXiv "
    "2506.19297) only the abstract."
)


@dataclass(frozen=True)
class Measured:
    """What was found, in words and with its intervals; what it says of the claim; on how many
    photos, None where there are none; and why it is so, empty if that was not measured."""

    words: str
    verdict: Verdict
    photos: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Claim:
    """A claim under the heading that begins it, the paper's number or words for it, and what was
    found here."""

    heading: str
    claim: str
    paper: str
    here: Measured


@dataclass(frozen=True)
class Results:
    """The tables of the study: ``table`` of :mod:`sic.evaluation.rate_distortion`, ``compared`` of
    :func:`sic.evaluation.bd.compare`, ``bought`` of :func:`sic.evaluation.machine.compare`, ``why``
    of results/why.csv with the codecs as its index, and ``parameters``, millions of our additional
    codec by m at the paper's size."""

    table: pd.DataFrame
    compared: pd.DataFrame
    bought: pd.DataFrame
    why: pd.DataFrame
    parameters: "pd.Series[float]"


def claims(results: Results, base_point: str, resamplings: int) -> list[Claim]:
    """All claims, in the order of the report, with the base of one rate point below the second
    layers, and so many resamplings of the photos behind each interval that is computed here."""
    fusion = proposed(rate_distortion.means(results.table))
    return [
        *_fusion(fusion, results.compared),
        *_slices(results.table, resamplings),
        _table_1(results.parameters),
        *_machines(results.bought, base_point),
        _regime(results.table, base_point, resamplings),
        *_residuals(fusion, results.compared, results.why),
    ]


# ---- one codec against another ---------------------------------------------------------------

#: What two codecs differ by: in bits (percent), in quality at equal bits, on how many photos.
Difference = tuple[Delta, Delta, int]


def _fusion(fusion: str, compared: pd.DataFrame) -> Iterator[Claim]:
    """Fusion against what the paper compares it with."""
    low, none = "yes, at low rates (Fig. 6)", "in Fig. 6; no words at hand"
    than = "Fusion needs fewer bits than an image codec for people (LIC), DC, and VVC"
    for other, name, bits, paper in (
        ("LIC", "LIC", "additional", low),
        ("LIC", "LIC", "all", none),
        ("difference", "DC", "additional", "yes (Fig. 6)"),
        ("difference", "DC", "all", "yes (Fig. 6: on one base)"),
        ("VVC", "VVC", "additional", low),
    ):
        here = _fewer_bits(_between(compared, fusion, other, bits))
        here = _unclaimed(here) if paper == none else here
        yield Claim(than, f"{name}, {bits} bits", paper, here)


def _residuals(fusion: str, compared: pd.DataFrame, why: pd.DataFrame) -> Iterator[Claim]:
    """What came after the paper, against fusion, by additional bits."""
    later = "FR and PR, abstract"
    pixels = _fewer_bits(_reversed(_between(compared, fusion, "difference", "additional")))
    features, conditional = (
        _fewer_bits(_between(compared, fusion.replace("fusion", method), fusion, "additional"))
        for method in bd.RESIDUAL
    )
    than = "Since the paper: fewer additional bits than fusion has"
    yield Claim(
        than,
        "DC, which is pixel residual (PR)",
        f"up to −29.57 % against “the previous work” ({later})",
        _explained(pixels, why, "difference/", "DC"),
    )
    yield Claim(
        than,
        "feature residual (FR)",
        f"yes, without a number of FR ({later})",
        _explained(features, why, "fusion/fr-", "FR"),
    )
    yield Claim(than, "conditional FR", "published nowhere", _unclaimed(conditional))


def _between(compared: pd.DataFrame, tested: str, other: str, bits: str) -> Difference | None:
    """Two curves by their names; None if they were not compared."""
    same = (compared[["tested", "other", "bits"]] == [tested, other, bits]).all(axis="columns")
    return _difference(compared[same], "bd_psnr")


def _difference(rows: pd.DataFrame, quality: str) -> Difference | None:
    """That of the first row of a table of comparisons; None if there is none."""
    if rows.empty:
        return None
    row, ends = rows.iloc[0], ("", "_low", "_high", "_overlap", "_note")
    rate, gain = (Delta(*(row[f"{n}{end}"] for end in ends)) for n in ("bd_rate", quality))
    return rate, gain, int(row.images)


def _reversed(found: Difference | None) -> Difference | None:
    """The other codec against the first: over their common range the logarithms change sign."""
    if found is None:
        return None
    rate, gain, photos = found
    value, low, high = (100 * (1 / (1 + v / 100) - 1) for v in (rate.value, rate.high, rate.low))
    return (
        Delta(value, low, high, rate.overlap, rate.note),
        Delta(-gain.value, -gain.high, -gain.low, gain.overlap, gain.note),
        photos,
    )


def _fewer_bits(found: Difference | None, unit: str = "dB", least: float = EQUAL_DB) -> Measured:
    """Whether a codec needs fewer bits, or where no number says so, is better at equal bits, of
    which less than ``least`` is no difference."""
    if found is None:
        return Measured("", Verdict.ABSENT)
    rate, gain, photos = found
    if rate.note and gain.note:
        return Measured(f"cannot be compared: {rate.note}", Verdict.OPEN, photos)
    better = "" if gain.note else _spelled(gain, 2 if unit == "dB" else 3, f" {unit}")
    verdict, doubt = _sign(gain) if rate.note else _sign(rate, less=True)
    if not gain.note and abs(gain.value) < least:
        verdict, doubt = Verdict.OPEN, _AS_SEEDS
    bits = f"no percentage ({rate.note})" if rate.note else _spelled(rate, 1, " %")
    return Measured(", ".join(filter(None, (bits, better))) + doubt, verdict, photos)


_AS_SEEDS = f"; under {EQUAL_DB} dB, as between seeds"


def _sign(delta: Delta, less: bool = False) -> tuple[Verdict, str]:
    """Whether a difference is above 0, or below; and what is in doubt."""
    if np.isnan(delta.low):
        return Verdict.OPEN, "; no interval"
    if delta.low <= 0 <= delta.high:
        return Verdict.OPEN, "; the interval holds 0"
    return (Verdict.AGREES if (delta.value < 0) == less else Verdict.DISAGREES), ""


def _unclaimed(found: Measured) -> Measured:
    """A measurement beside which nobody's words stand."""
    return found if found.verdict == Verdict.ABSENT else replace(found, verdict=Verdict.NO_CLAIM)


def _explained(found: Measured, why: pd.DataFrame, codecs: str, name: str) -> Measured:
    """With the reason that results/why.csv gives, where there is something to explain."""
    gain, of = why.psnr_decoder_has_y - why.psnr, why.index.astype(str)
    fusion, other = gain[of.str.match(r"fusion/m\d")].mean(), gain[of.str.startswith(codecs)].mean()
    if found.verdict != Verdict.AGREES or np.isnan(fusion) or np.isnan(other):
        return found
    numbers = f"if the decoder had y for ŷ, fusion would have {_number(fusion, 2)} dB"
    numbers += f", {name} {_number(other, 2)} dB."
    reason = f"The base’s rounding error is not the reason: {numbers}"
    if fusion >= EQUAL_DB and other <= fusion - EQUAL_DB:
        reason = (
            f"A reason: the base’s rounding error, which {name} sees and fusion does not; {numbers}"
        )
    return replace(found, reason=reason)


# ---- the role of m ---------------------------------------------------------------------------


_FEWER = "When only m of the slices are sent"


def _slices(table: pd.DataFrame, resamplings: int) -> Iterator[Claim]:
    """Table II, at the λ with most m."""
    paper = TABLE_II[0.01]
    lowest, settled = _role_of_m(table, resamplings)
    yield Claim(
        _FEWER,
        "m = 1 costs PSNR",
        f"{_number(paper[1] - paper[5], 2)} dB against m = 5 at λ = 0.01 (Table II)",
        lowest,
    )
    yield Claim(
        _FEWER,
        f"m ≥ {SETTLED_M} costs next to nothing, {SETTLED_DB} dB at most",
        f"{_number(paper[3] - paper[5], 2)} dB for m = 3 at λ = 0.01 (Table II)",
        settled,
    )


def _role_of_m(table: pd.DataFrame, resamplings: int) -> tuple[Measured, Measured]:
    """Whether m = 1 is lower than the largest m, and whether those from 3 on are equal to it."""
    fusion = bd.complete(table[table.codec == "fusion"])
    count = fusion.groupby("lmbda").m.nunique()
    if count.empty or count.max() < 2:
        return (Measured("one m alone was trained", Verdict.ABSENT),) * 2
    rows = fusion[fusion.lmbda == count.idxmax()]
    psnr = rows.pivot(index="image", columns="m", values="psnr").astype(float)
    if not np.isfinite(psnr).all(axis=None):
        return (Measured("a photo came back without loss", Verdict.OPEN, len(psnr)),) * 2
    *slices, last = (int(m) for m in psnr.columns)
    gain = {m: _estimate(psnr[m] - psnr[last], resamplings) for m in slices}
    where = f"against m = {last} at λ = {count.idxmax():g}"
    lowest = settled = Measured("no such m was trained", Verdict.ABSENT)
    if 1 in gain:
        verdict, doubt = _sign(gain[1], less=True)
        if abs(gain[1].value) < EQUAL_DB:
            verdict, doubt = Verdict.OPEN, _AS_SEEDS
        lowest = Measured(f"{_spelled(gain[1], 2, ' dB')} {where}{doubt}", verdict, len(psnr))
    if near := [m for m in gain if m >= SETTLED_M]:
        m = max(near, key=lambda m: abs(gain[m].value))
        verdict, doubt = _within(gain[m], SETTLED_DB)
        words = f"{_spelled(gain[m], 2, ' dB')} for m = {m} {where}{doubt}"
        settled = Measured(words, verdict, len(psnr))
    return lowest, settled


def _within(delta: Delta, bound: float) -> tuple[Verdict, str]:
    """Whether a difference lies between − and + of a bound; and what is in doubt."""
    if np.isnan(delta.low):
        return Verdict.OPEN, "; no interval"
    if -bound <= delta.low and delta.high <= bound:
        return Verdict.AGREES, ""
    if delta.low > bound or delta.high < -bound:
        return Verdict.DISAGREES, ""
    return Verdict.OPEN, f"; the interval holds {bound:g} dB"


# ---- the layer for machines ------------------------------------------------------------------


_BASE = "The base, a layer for machines"


def _machines(bought: pd.DataFrame, base_point: str) -> Iterator[Claim]:
    """The base against the LIC and VVC at equal accuracy: its curve, or else its one point."""
    for other in ("LIC", "VVC"):
        rows = bought[(bought.tested == BASE) & (bought.other == other)]
        rows = rows[(rows.accuracy == "boxes") & rows.point.isin(["", base_point])]
        rows = rows.sort_values("point")  # the curve first
        told = rows[(rows.bd_rate_note == "") | (rows.bd_ap_note == "")]
        name = "the LIC" if other == "LIC" else other
        yield Claim(
            _BASE,
            f"needs fewer bits than {name} at equal AP",
            "“the best performance” (SA-ICM, abstract)",
            _fewer_bits(_difference(rows if told.empty else told, "bd_ap"), "AP", least=0),
        )


def _regime(table: pd.DataFrame, base_point: str, resamplings: int) -> Claim:
    """Few bits and a poor picture, beside the LIC at each of its λ."""
    table = bd.complete(table)
    base = table[(table.codec == BASE) & (table.point == base_point)].set_index("image")
    told, inside = [], []
    for lmbda, rows in table[table.codec == "LIC"].groupby("lmbda"):
        lic = rows.set_index("image")
        if not np.isfinite(lic.psnr - base.psnr).all():
            told.append(f"a photo came back without loss at λ = {lmbda:g}")
            continue
        share = _estimate(100 * base.bpp, resamplings, of=lic.bpp)
        below = _estimate(lic.psnr - base.psnr, resamplings)
        bits, quality = _spelled(share, 0, " %", sign=""), _spelled(below, 1, " dB", sign="")
        told.append(f"{bits} and {quality} at λ = {lmbda:g}")
        if share.high < 100 * BASE_SHARE and below.low >= BASE_DB:
            inside.append(True)
        elif share.low >= 100 * BASE_SHARE or below.high < BASE_DB:
            inside.append(False)
    return Claim(
        _BASE,
        "has few bits and a poor picture for people",
        "no words at hand; this study’s bounds: under "
        f"{BASE_SHARE:.0%} of the LIC’s bits, at least {BASE_DB:.0f} dB below its picture",
        Measured("; ".join(told), _at_each(inside, len(told)), len(base)),
    )


def _at_each(inside: Sequence[bool], count: int) -> Verdict:
    """Of what holds, or does not, at so many λ, of which those in doubt are left out."""
    if not count:
        return Verdict.ABSENT
    if len(inside) < count or len(set(inside)) > 1:
        return Verdict.OPEN
    return Verdict.AGREES if inside[0] else Verdict.DISAGREES


def _table_1(parameters: "pd.Series[float]") -> Claim:
    """Parameters at the paper's size, which are counted, not estimated."""
    ours, paper = parameters.round(1).to_dict(), complexity.TABLE_I
    words, printed = (", ".join(f"{v:.1f}" for v in of.values()) for of in (ours, paper))
    return Claim(
        _FEWER,
        "the additional codec has fewer parameters",
        f"{printed} M for m = 1 to 5 (Table I)",
        Measured(f"{words} M", Verdict.AGREES if ours == paper else Verdict.DISAGREES),
    )


# ---- numbers and words -----------------------------------------------------------------------


def _estimate(values: "pd.Series[float]", resamplings: int, of: pd.Series | None = None) -> Delta:
    """The mean over the photos, or the ratio of two means, with its bootstrap interval."""
    columns = [values, pd.Series(1.0, values.index) if of is None else of]
    drawn = machine.draw(len(values), resamplings, seed=0)
    above, below = np.stack([c.reindex(values.index).to_numpy(float) for c in columns]) @ drawn.T
    means: Numbers = above / below
    return Delta(float(means[0]), *machine.interval(means[1:]), np.nan, "")


def _number(value: float, digits: int, sign: str = "+") -> str:
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}".replace("-", "−")  # no −0.00


def _spelled(delta: Delta, digits: int, unit: str, sign: str = "+") -> str:
    """A number with its unit and its interval."""
    value, low, high = (_number(v, digits, sign) for v in (delta.value, delta.low, delta.high))
    return f"{value}{unit}" if np.isnan(delta.low) else f"{value}{unit} [{low}, {high}]"


def setting(study: Params, photos: str, masks: str, millions: float) -> str:
    """What kind of study the verdicts come from: its photos and its masks in words, the parameters
    of its largest codec in millions, and the LIC's larger steps, if a detector saw any."""
    codecs = (study.sa_icm, study.lic, study.fusion, study.difference)
    fewest, most = min(c.budget for c in codecs), max(c.budget for c in codecs)
    steps = f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"
    new = [c.init.endswith(("/scratch", "/principal")) for c in codecs]
    start = "nothing" if all(new) else "trained weights" + " or from nothing" * any(new)
    coarser = ""
    if study.detect.lic_steps and study.detect.detector != NONE:
        larger = ", ".join(f"{step:g}" for step in study.detect.lic_steps)
        coarser = (
            f" The base is set beside a LIC that is also coded in steps of {larger} at its lowest "
            "λ; one trained for so few bits would hardly need more."
        )
    return (
        f"What kind of study this is: {photos}, codecs of {millions:.1f} M parameters (the paper: "
        f"{complexity.TABLE_I[5]} M), trained here for {steps} steps from {start} (the paper: "
        f"about 740,000 steps), edge masks by {masks}.{coarser}"
    )
