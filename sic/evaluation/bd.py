"""Bjøntegaard deltas: how much rate, or quality, lies between two curves on average.

BD-rate is the mean difference of log rate over the qualities that both curves cover, BD-PSNR that
of quality over the log rates that both cover; Akima interpolation through the means over the
images, by the package `bjontegaard`.  Source: Bjøntegaard, VCEG-M33 (2001); Herglotz et al., Beyond
Bjøntegaard (2022), for Akima.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Points = NDArray[np.float64]

MIN_POINTS = 3  # of a curve; two make a straight line
MIN_OVERLAP = 0.5  # share of the tested curve that the other must cover, to speak for it
CONFIDENCE = 0.95
MIN_SAMPLES = 0.9  # share of the resamplings that must have a number for an interval

RESIDUAL = ("FR", "conditional FR")  # additional codecs of y − ŷ
#: Codecs with a second layer, which is coded on that of the base.
LAYERED = ("fusion", *RESIDUAL, "difference", "VVC+M")
BASE = "SA-ICM"  # the codec of x̂_t, a picture for machines: by PSNR no rival of those for people

#: The columns of :func:`compare`: of `bd_rate` (percent) and `bd_psnr` (dB) a :class:`Delta` each.
COLUMNS = [
    *("tested", "other", "bits", "images"),
    *("bd_rate", "bd_rate_low", "bd_rate_high", "bd_rate_overlap", "bd_rate_note"),
    *("bd_psnr", "bd_psnr_low", "bd_psnr_high", "bd_psnr_overlap", "bd_psnr_note"),
]


@dataclass(frozen=True)
class Delta:
    """A mean difference between two curves, in percent of rate or in the quality's unit, with the
    bounds of its bootstrap interval, each NaN if there is none; the share of the tested curve's
    range that the other covers, 0 to 1, NaN if one of them cannot be compared with any; and a note
    why there is no number, empty if there is one."""

    value: float
    low: float
    high: float
    overlap: float
    note: str


@dataclass(frozen=True)
class Curve:
    """Points of one codec on several images: rate in bits per pixel, and quality, of which more is
    better; both (images, points)."""

    rate: Points
    quality: Points

    @classmethod
    def of(cls, rows: pd.DataFrame, rate: str, quality: str) -> "Curve":
        """Make the curve of one codec from its rows in the table of all measurements."""
        wide = [rows.pivot(index="image", columns="point", values=v) for v in (rate, quality)]
        return cls(*(table.sort_index().to_numpy(dtype=float) for table in wide))

    def mean(self, weights: NDArray[np.float64]) -> tuple[Points, Points]:
        """Rate and quality of each point in the order of the rate: means over the images by their
        weights, which sum to 1."""
        rate, quality = weights @ self.rate, weights @ self.quality
        order = np.argsort(rate)
        return rate[order], quality[order]


def delta(tested: Curve, other: Curve, of: str, resamplings: int) -> Delta:
    """The delta of `rate` (percent; negative: the tested curve needs less) or `quality` (its unit;
    positive: the tested curve is better) of two curves on the same images in the same order.  The
    interval is over resamplings of the images, with replacement, for both curves alike.  There is a
    number only where each curve has :data:`MIN_POINTS`, quality rises with the rate (for `rate`),
    and the tested curve is covered to :data:`MIN_OVERLAP`."""
    images = len(tested.rate)
    even = np.full(images, 1 / images)
    value, overlap, note = _delta(tested.mean(even), other.mean(even), of)
    low = high = np.nan
    if not note and images > 1:
        drawn = np.random.default_rng(0).multinomial(images, even, size=resamplings)
        # Few images have few different resamplings: each is computed once.
        distinct, counts = np.unique(drawn, axis=0, return_counts=True)
        means = [(tested.mean(w / images), other.mean(w / images)) for w in distinct]
        values = np.repeat([_delta(*pair, of)[0] for pair in means], counts)
        if np.isfinite(values).mean() >= MIN_SAMPLES:
            tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
            low, high = (float(v) for v in np.nanquantile(values, tails))
    return Delta(value, low, high, overlap, note)


def margins(tested: Curve, other: Curve) -> tuple[Points, Points]:
    """How much more rate the tested curve needs than the other, whose means rise as its own: 101
    qualities, evenly over those that both have, and the percent at each; negative: less."""
    import bjontegaard  # with pyplot and SciPy's interpolation, which take a second

    a, b = (curve.mean(np.full(len(curve.rate), 1 / len(curve.rate))) for curve in (tested, other))
    quality = np.linspace(max(a[1][0], b[1][0]), min(a[1][-1], b[1][-1]), 101)
    _, other_log, tested_log = bjontegaard.bd_rate(
        *b, *a, method="akima", require_matching_points=False, interpolators=True, min_overlap=0
    )
    return quality, 100 * (10 ** (tested_log(quality) - other_log(quality)) - 1)


def _delta(
    tested: tuple[Points, Points], other: tuple[Points, Points], of: str
) -> tuple[float, float, str]:
    """Value, overlap and note of two mean curves."""
    import bjontegaard

    if note := _unfit(tested, other):
        return np.nan, np.nan, note
    # What is integrated over: quality, or log rate.
    overlap = _overlap(*(c[1] if of == "rate" else np.log(c[0]) for c in (tested, other)))
    if note := _problem(tested, other, of, overlap):
        return np.nan, overlap, note
    function = bjontegaard.bd_rate if of == "rate" else bjontegaard.bd_psnr
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on the overlap, which is checked above
        value = function(*other, *tested, method="akima", require_matching_points=False)
    return float(value), overlap, ""


def _overlap(tested: Points, other: Points) -> float:
    """Share of the tested range that the other covers."""
    common = min(tested.max(), other.max()) - max(tested.min(), other.min())
    return float(max(common, 0.0) / np.ptp(tested)) if np.ptp(tested) else 0.0


def _unfit(*curves: tuple[Points, Points]) -> str:
    """Why one of the curves has values that nothing can be compared with; empty if none has."""
    if any(np.isnan(curve).any() for curve in curves):
        return "a point was not measured on every photo"
    if any(np.isposinf(quality).any() for _, quality in curves):
        return "a photo came back without loss, so a mean is infinite"
    if any(not np.isfinite(curve).all() or (curve[0] <= 0).any() for curve in curves):
        return "a rate or a quality is no number to compare"
    return ""


def _problem(
    tested: tuple[Points, Points], other: tuple[Points, Points], of: str, overlap: float
) -> str:
    if min(len(tested[0]), len(other[0])) < MIN_POINTS:
        return f"fewer than {MIN_POINTS} points"
    if any((np.diff(curve[0]) <= 0).any() for curve in (tested, other)):
        return "two points have one rate"
    if of == "rate" and any((np.diff(curve[1]) <= 0).any() for curve in (tested, other)):
        return "quality does not rise with the rate"
    name = "quality" if of == "rate" else "rate"
    if overlap == 0:
        return f"no {name} in common"
    if overlap < MIN_OVERLAP:
        return f"only {overlap:.0%} of the {name} in common"
    return ""


@dataclass(frozen=True)
class Comparison:
    """Two curves of :func:`curves` by their names, and which bits count: `all`, or `additional`,
    the second layer's alone, of those that have one."""

    tested: str
    other: str
    bits: str


def complete(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of those points that were measured on every image: only these have a mean."""
    measured = table.groupby(["codec", "m", "point"], dropna=False).bpp.transform("count")
    return table[measured == table.image.nunique()]


def curves(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows by curve: a codec for people, or fusion or FR at one m (`fusion m5`), of its complete
    points."""
    table = complete(table)
    table = table[table.codec != BASE]
    named = table.codec.where(table.m.isna(), table.codec + " m" + table.m.astype("string"))
    points = table.groupby(named, sort=False).point.nunique()
    return {str(n): rows for n, rows in table.groupby(named, sort=False) if points[n] > 1}


def comparisons(table: pd.DataFrame) -> Iterator[Comparison]:
    """Which curves are compared: all with VVC; fusion with the DC model, the LIC and VVC+M; FR with
    the DC model, the LIC and fusion at its m, conditional FR also with FR; the LIC with every
    classical codec.  The additional bits of a layered codec are set beside all bits of
    one without layers, which then sends the picture anew."""
    names = list(curves(table))
    for tested in names:
        for other in names:
            vvc = other == "VVC"
            rivals = tested.startswith("fusion") and other in ("difference", "LIC", "VVC+M")
            same_m = other.startswith(("fusion", "FR")) and _m(other) == _m(tested)
            residual = tested.startswith(RESIDUAL) and (same_m or other in ("difference", "LIC"))
            classical = tested == "LIC" and not other.startswith(LAYERED)
            if tested != other and (vvc or rivals or residual or classical):
                yield Comparison(tested, other, "all")
                if tested.startswith(LAYERED):
                    yield Comparison(tested, other, "additional")


def _m(curve: str) -> str:
    return curve.partition(" m")[2]


def pair(of: Mapping[str, pd.DataFrame], comparison: Comparison) -> tuple[Curve, Curve]:
    """Tested curve and other, of those of :func:`curves`: PSNR over the bits that count."""

    def curve(name: str) -> Curve:
        layer = comparison.bits == "additional" and name.startswith(LAYERED)
        return Curve.of(of[name], "bpp_additional" if layer else "bpp", "psnr")

    return curve(comparison.tested), curve(comparison.other)


def compare(table: pd.DataFrame, resamplings: int) -> pd.DataFrame:
    """The study's comparisons in the table of :mod:`sic.evaluation.rate_distortion`, one per row
    with :data:`COLUMNS`; so many resamplings are behind each interval."""
    of = curves(table)
    rows = []
    for comparison in comparisons(table):
        tested, other = pair(of, comparison)
        deltas = [delta(tested, other, kind, resamplings) for kind in ("rate", "quality")]
        numbers = (number for found in deltas for number in astuple(found))
        rows.append((*astuple(comparison), len(tested.rate), *numbers))
    return pd.DataFrame(rows, columns=COLUMNS)


def read(path: Path) -> pd.DataFrame:
    """The rows of :func:`compare` from their file, results/bd.csv."""
    return pd.read_csv(path).fillna({"bd_rate_note": "", "bd_psnr_note": ""})


def between(compared: pd.DataFrame, comparison: Comparison) -> tuple[Delta, Delta]:
    """The deltas of rate and of quality of one comparison, from the rows of :func:`compare`."""
    same = (compared[["tested", "other", "bits"]] == astuple(comparison)).all(axis="columns")
    row = compared[same].iloc[0]
    ends = ("", "_low", "_high", "_overlap", "_note")
    rate, quality = (
        Delta(*(row[f"{name}{end}"] for end in ends)) for name in ("bd_rate", "bd_psnr")
    )
    return rate, quality


def readable(compared: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`compare` in words: `tested`, `other`, `bits`, and `BD-rate (%)` and
    `BD-PSNR (dB)`, each with its interval, or why there is none."""
    shown = compared[["tested", "other", "bits"]].replace("difference", "DC")
    shown["BD-rate (%)"] = spelled(compared, "bd_rate", 1)
    shown["BD-PSNR (dB)"] = spelled(compared, "bd_psnr", 2)
    return shown


def spelled(compared: pd.DataFrame, name: str, digits: int) -> list[str]:
    """The deltas of this name in the rows of a comparison, each with its interval, or why there is
    none."""
    columns = (compared[f"{name}{end}"] for end in ("", "_low", "_high", "_note"))
    return [
        note or f"{value:+.{digits}f}{_interval(low, high, digits)}"
        for value, low, high, note in zip(*columns, strict=True)
    ]


def _interval(low: float, high: float, digits: int) -> str:
    return f" [{low:+.{digits}f}, {high:+.{digits}f}]" if np.isfinite(low) else ""


def metrics_json(compared: pd.DataFrame) -> dict[str, dict[str, dict[str, float | str]]]:
    """The numbers of :func:`compare` for `dvc metrics`: tested curve → other → number, or why there
    is none.  Rounded as :func:`sic.evaluation.rate_distortion.metrics_json`: 0.1 % and 0.01 dB."""
    found: dict[str, dict[str, dict[str, float | str]]] = {}
    for row in compared.to_dict("records"):
        numbers = {
            key: row[f"{key}_note"] or round(row[key], digits)
            for key, digits in (("bd_rate", 1), ("bd_psnr", 2))
        }
        found.setdefault(str(row["tested"]), {})[f"{row['other']}, {row['bits']} bits"] = numbers
    return found
