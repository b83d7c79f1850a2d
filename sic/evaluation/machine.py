"""What a layer for machines buys: accuracy against bits with intervals, bits at equal accuracy.

matches of each codec's pictures ── pictures drawn with replacement ── AP ┐
bits of each picture ─────────────────────── the same ones ───────── bits ┴ curves ── deltas

A codec's curve goes through the points that no cheaper one equals, since accuracy does not always
rise with the bits; between them AP is linear in log rate.  BD-rate is the mean difference of log
rate over the AP that both curves have, the AP difference that of AP over the log rates that both
were coded at; where a curve's last points are no better, they have the AP of the best before them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sic.evaluation import bd
from sic.evaluation.accuracy import PREFIX, Kind, Matches
from sic.evaluation.bd import CONFIDENCE, LAYERED, Delta

Numbers = NDArray[np.float64]

BASE, HUMAN = "SA-ICM", "LIC"  # the codecs that are held against the others
RECALLS = np.linspace(0, 1, 101)  # at which COCO reads the precision
_BLOCK = 4_000_000  # numbers in memory at a time, of each of a few arrays

#: The columns of :func:`compare`.  ``point`` is empty where curves are compared, else the point of
#: ``tested``, whose ``bpp`` and ``ap`` follow; ``other_bpp`` are the other's bits at that AP, and
#: ``other_ap`` is its AP at those bits.  Of ``bd_rate`` (percent) and ``bd_ap`` a :class:`Delta`
#: each: of a point, the difference there in place of the mean.
COLUMNS = ["tested", "point", "other", "accuracy", "images", "bpp", "ap", "other_bpp", "other_ap"]
COLUMNS += [
    f"{of}{end}"
    for of in ("bd_rate", "bd_ap")
    for end in ("", "_low", "_high", "_overlap", "_note")
]
NAMES: Mapping[Kind, str] = {"bbox": "boxes", "segm": "masks"}


@dataclass(frozen=True)
class Point:
    """A codec at a rate point on so many images: bits per pixel, and by kind AP and AP50, (1 +
    resamplings, 2), of the pictures as they are and then of each resampling.  A codec ``in_steps``
    is one in other quantisation steps than it was trained in."""

    codec: str
    point: str
    images: int
    bpp: Numbers
    accuracy: Mapping[Kind, Numbers]
    in_steps: bool = False


def draw(pictures: int, resamplings: int, seed: int) -> NDArray[np.int64]:
    """How often each picture counts, (1 + resamplings, pictures): once, then as drawn with
    replacement; never resampled if it is alone, since one picture says nothing of others."""
    resamplings = resamplings if pictures > 1 else 0
    even = np.full(pictures, 1 / pictures)
    drawn = np.random.default_rng(seed).multinomial(pictures, even, size=resamplings)
    return np.concatenate([np.ones((1, pictures), np.int64), drawn])


def resample(matches: Sequence[Matches], drawn: NDArray[np.int64]) -> Numbers:
    """AP and AP50, (draws, 2), as COCOeval gives them for a set with so many copies of each picture
    (:func:`draw`), but for the order of equal scores inside a picture.  Nothing is matched again:
    copies of a picture have the same matches, and lie side by side in the order of the scores.  NaN
    where no object was drawn."""
    each = np.stack([_of_class(one, drawn) for one in matches])
    known = ~np.isnan(each)
    with np.errstate(invalid="ignore"):
        by_overlap = np.where(known, each, 0).sum(axis=0) / known.sum(axis=0)
    return np.stack([by_overlap.mean(axis=1), by_overlap[:, 0]], axis=1)


def _of_class(found: Matches, drawn: NDArray[np.int64]) -> Numbers:
    """AP of one class at each IoU, (draws, 10); NaN where none of its objects was drawn."""
    parts = np.array_split(drawn, 1 + len(drawn) * len(found.picture) // _BLOCK)
    return np.concatenate([_of_part(found, part) for part in parts])


def _of_part(found: Matches, drawn: NDArray[np.int64]) -> Numbers:
    objects = (drawn @ found.objects)[:, None]
    often = drawn[:, found.picture]
    ap = np.empty((len(drawn), len(found.hit)))
    for i, (hit, counted) in enumerate(zip(found.hit, found.counted, strict=True)):
        # Precision rises at hits alone, so that its highest values further on stand there.
        hits = np.flatnonzero(hit)
        right = np.cumsum(often[:, hits], axis=1)
        all_so_far = np.cumsum(often * counted, axis=1)[:, hits]
        precision = right / np.maximum(all_so_far, 1)
        highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        reached = np.searchsorted(RECALLS, right / np.maximum(objects, 1), side="right")
        steps = np.diff(reached, axis=1, prepend=0)
        ap[:, i] = (highest * steps).sum(axis=1) / len(RECALLS)
    return np.where(objects > 0, ap, np.nan)


def interval(values: Numbers) -> tuple[float, float]:
    """The bounds of the values of resamplings; NaN where too few of them have one."""
    known = values[np.isfinite(values)]
    if not len(values) or len(known) < bd.MIN_SAMPLES * len(values):
        return np.nan, np.nan
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


# ---- one codec against another ---------------------------------------------------------------


class Front(NamedTuple):
    """The points of a codec that no cheaper one equals: log rates and AP, both rising; and the
    logarithm of the highest rate that it was coded at."""

    log_rate: Numbers
    ap: Numbers
    last: float

    @classmethod
    def of(cls, bpp: Numbers, ap: Numbers) -> "Front":
        """Of points in any order; one of NaN if no object was drawn, so that nothing has an AP."""
        if np.isnan(ap).all():
            return cls(np.full(1, np.nan), np.full(1, np.nan), np.nan)
        order = np.lexsort((-ap, bpp))
        bpp, ap = np.log(bpp[order]), ap[order]
        best_before = np.maximum.accumulate(np.concatenate([[-np.inf], ap[:-1]]))
        return cls(bpp[ap > best_before], ap[ap > best_before], float(bpp[-1]))

    def rate_at(self, ap: Numbers) -> Numbers:
        """Log rate at which it has this AP; NaN beyond its own."""
        return np.interp(ap, self.ap, self.log_rate, left=np.nan, right=np.nan)

    def ap_at(self, log_rate: Numbers) -> Numbers:
        """AP that it has for these bits; NaN beyond those that it was coded at."""
        ap = np.interp(log_rate, self.log_rate, self.ap, left=np.nan)
        return np.where(log_rate > self.last, np.nan, ap)


def _mean_difference(
    tested: Callable[[Numbers], Numbers], other: Callable[[Numbers], Numbers], corners: Numbers
) -> float:
    """Mean of the difference of two functions that are linear between these corners."""
    from scipy.integrate import trapezoid  # takes as long as all else here

    at = np.unique(corners)
    difference = tested(at) - other(at)
    return float(trapezoid(difference, at) / np.ptp(at))


def _within(low: float, high: float, *corners: Numbers) -> Numbers:
    return np.concatenate([[low, high], *(c[(c > low) & (c < high)] for c in corners)])


def _rate(tested: Front, other: Front) -> tuple[float, float]:
    """BD-rate in percent, and the share of the tested curve's AP that the other covers."""
    low, high = max(tested.ap[0], other.ap[0]), min(tested.ap[-1], other.ap[-1])
    if not low < high:  # nor where there is no AP
        return np.nan, 0.0
    corners = _within(low, high, tested.ap, other.ap)
    mean = _mean_difference(tested.rate_at, other.rate_at, corners)
    return 100 * float(np.expm1(mean)), float((high - low) / np.ptp(tested.ap))


def _ap(tested: Front, other: Front) -> tuple[float, float]:
    """AP difference at equal bits, and the share of the tested curve's log rates."""
    low = max(tested.log_rate[0], other.log_rate[0])
    high = min(tested.last, other.last)
    if not low < high:
        return np.nan, 0.0
    corners = _within(low, high, tested.log_rate, other.log_rate)
    share = (high - low) / (tested.last - tested.log_rate[0])
    return _mean_difference(tested.ap_at, other.ap_at, corners), float(share)


def _delta(tested: list[Front], other: list[Front], of: str) -> Delta:
    """The delta of two curves, by their fronts as measured and in each resampling."""
    measure, name = (_rate, "AP") if of == "rate" else (_ap, "rate")
    ends = [front.ap if of == "rate" else np.unique([*front.log_rate, front.last])
            for front in (tested[0], other[0])]  # fmt: skip
    if min(map(len, ends)) < 2:
        return Delta(
            np.nan, np.nan, np.nan, np.nan, "fewer than two points, or no more AP for more bits"
        )
    value, overlap = measure(tested[0], other[0])
    if overlap < bd.MIN_OVERLAP:
        share = f"only {overlap:.0%} of the {name}" if overlap else f"no {name}"
        return Delta(np.nan, np.nan, np.nan, overlap, f"{share} in common")
    pairs = zip(tested[1:], other[1:], strict=True)
    values = [measure(*pair)[0] for pair in pairs]
    return Delta(value, *interval(np.array(values)), overlap, "")


def _at_point(values: Numbers, measured: str) -> Delta:
    """The difference at one point of the tested codec, as measured and in each resampling; where
    the other was measured is a note if the point lies outside."""
    if np.isnan(values[0]):
        return Delta(np.nan, np.nan, np.nan, np.nan, f"the other has {measured}")
    return Delta(float(values[0]), *interval(values[1:]), np.nan, "")


def compare(points: Sequence[Point]) -> pd.DataFrame:
    """The base and the LIC against every codec without layers, and the base at each of its points,
    with :data:`COLUMNS`; all points share their pictures and resamplings.  Codecs in other steps
    than they were trained in are none that is tested: they only extend what it is held against."""
    rows = [
        row
        for kind in PREFIX
        for row in _rows([point for point in points if kind in point.accuracy], kind)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _rows(points: Sequence[Point], kind: Kind) -> Iterator[dict[str, Any]]:
    of: dict[str, list[Point]] = {}
    for point in points:
        known = np.isfinite(point.bpp).all() and np.isfinite(point.accuracy[kind][0, 0])
        if known and not point.codec.startswith(LAYERED):
            of.setdefault(point.codec, []).append(point)
    fronts = {codec: _fronts(found, kind) for codec, found in of.items()}
    for tested in (codec for codec in (BASE, HUMAN) if codec in of):
        own = [point for point in of[tested] if not point.in_steps]
        curve = _fronts(own, kind) if len(own) > 1 else []
        for other in (codec for codec in of if codec not in (tested, BASE)):
            about: dict[str, Any] = {"tested": tested, "other": other, "accuracy": NAMES[kind]}
            about["images"] = of[tested][0].images
            if curve:
                deltas = [_delta(curve, fronts[other], what) for what in ("rate", "quality")]
                yield about | {"point": ""} | _columns(*deltas)
            for point in own if tested == BASE else ():
                yield about | _at(point, kind, fronts[other])


def _fronts(points: Sequence[Point], kind: Kind) -> list[Front]:
    bpp = np.stack([point.bpp for point in points], axis=1)
    ap = np.stack([point.accuracy[kind][:, 0] for point in points], axis=1)
    return [Front.of(*one) for one in zip(bpp, ap, strict=True)]


def _at(point: Point, kind: Kind, other: list[Front]) -> dict[str, Any]:
    ap = point.accuracy[kind][:, 0]
    pairs = [(a, np.log(bpp), front) for a, bpp, front in zip(ap, point.bpp, other, strict=True)]
    log_rate = np.array([front.rate_at(a) for a, _, front in pairs])
    other_ap = np.array([front.ap_at(bits) for _, bits, front in pairs])
    low, high = np.exp([other[0].log_rate[0], other[0].last])
    percent = 100 * np.expm1(np.log(point.bpp) - log_rate)
    rate = _at_point(percent, f"AP {other[0].ap[0]:.3f} to {other[0].ap[-1]:.3f}")
    quality = _at_point(ap - other_ap, f"{low:.3f} to {high:.3f} bpp")
    here = {"bpp": point.bpp[0], "ap": ap[0]}
    there = {"other_bpp": np.exp(log_rate[0]), "other_ap": other_ap[0]}
    return {"point": point.point, **here, **there, **_columns(rate, quality)}


def _columns(rate: Delta, quality: Delta) -> dict[str, Any]:
    return dict(zip(COLUMNS[-10:], (*astuple(rate), *astuple(quality)), strict=True))


def readable(compared: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`compare` in words: bits at equal AP and AP at equal bits, each with its
    interval, or why there is none."""
    names = {"point": "at", "other_bpp": "other's bpp there", "other_ap": "other's AP there"}
    shown = compared[COLUMNS[:9]].drop(columns="images").rename(columns={"ap": "AP", **names})
    shown["at"] = shown["at"].where(shown["at"] != "", "the curve")
    shown["bits at equal AP (%)"] = bd.spelled(compared, "bd_rate", 1)
    shown["AP at equal bits"] = bd.spelled(compared, "bd_ap", 3)
    return shown


def read(path: Path) -> pd.DataFrame:
    """The rows of :func:`compare` from their file, results/detection_bd.csv."""
    table = pd.read_csv(path, dtype={"point": "string"})
    return table.fillna({"point": "", "bd_rate_note": "", "bd_ap_note": ""})
