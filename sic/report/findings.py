"""What the numbers say, in sentences that the report opens with; each falls as its numbers do."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sic.evaluation import bd, rate_distortion
from sic.evaluation.bd import BASE
from sic.evaluation.detection import ORIGINAL
from sic.report.figures import LOOKS
from sic.report.figures import NAMES as LABELS

#: dB at equal bits.  A difference below this is called none: three seeds of fusion, and of DC, are
#: 0.01 dB apart, and no seeds that were measured more than this (docs/training.md).
EQUAL_DB = 0.05
#: What counts as a layer for machines, our reading of the paper: the base takes under this share of
#: the LIC's bits, and the picture for machines lies at least so many dB below the LIC's.
BASE_SHARE, BASE_DB = 0.5, 3.0
#: The paper's Table II: m = 1 is the lowest, and from this m on PSNR is that of the largest m.
SETTLED_M, SETTLED_DB = 3, 0.3
NAMES = {
    "fusion": "feature fusion",
    "FR": "feature residual",
    "difference": "the DC model",
    "LIC": "the human LIC",
}
_LOSSLESS = "a photo came back without loss, so a mean PSNR is infinite"
_COUNTED = {"additional": "Counting additional bits", "all": "Counting all bits"}


def sentences(table: pd.DataFrame, compared: pd.DataFrame) -> Iterator[str]:
    """The findings, one sentence each, about whatever codecs, rate points and m there are in the
    table of :mod:`sic.evaluation.rate_distortion`; ``compared`` is :func:`bd.compare` of it."""
    means, curves = rate_distortion.means(table), bd.curves(table)
    yield _layers(means)
    yield _regime(means)
    yield _floor(means)
    fusion = proposed(means)
    if fusion in curves:
        for bits in ("additional", "all"):
            for other in ("LIC", "difference", "VVC+M"):
                if other in curves:
                    yield against(curves, compared, bd.Comparison(fusion, other, bits))
    else:
        yield "Feature fusion was trained at one rate point: there is no curve to compare."
    yield from _residuals(curves, compared)
    yield from effect_of_m(means)
    yield from _anchors(curves, compared)


def _residuals(curves: Mapping[str, pd.DataFrame], compared: pd.DataFrame) -> Iterator[str]:
    """FR, and conditional FR, beside the other second layers, by additional bits."""
    for curve in curves:
        if curve.startswith(bd.RESIDUAL):
            rivals = compared[(compared.tested == curve) & (compared.bits == "additional")].other
            for other in rivals[rivals.str.startswith(bd.LAYERED)]:
                yield against(curves, compared, bd.Comparison(curve, other, "additional"))


def proposed(means: pd.DataFrame) -> str:
    """The curve that stands for the proposed method: fusion with the m of most rate points, of
    several the largest."""
    points = means[means.codec == "fusion"].groupby("m").point.nunique().sort_index()
    return f"fusion m{points.index[points == points.max()][-1]}" if len(points) else "fusion"


def _base(means: pd.DataFrame) -> pd.Series:
    """`bpp_base` and `psnr_machine` of the base below the second layers, from a row of theirs."""
    return means[means.codec == "fusion"].iloc[0]


def _layers(means: pd.DataFrame) -> str:
    base, lic = _base(means), means[means.codec == "LIC"]
    every = means[means.codec == BASE].sort_values("lmbda")
    others = (
        f" Those trained at λ = {_list(f'{v:g}' for v in every.lmbda)} take "
        f"{_list(f'{v:.3f}' for v in every.bpp)} bpp for "
        f"{_list(f'{v:.2f}' for v in every.psnr_machine)} dB."
        if len(every) > 1
        else ""
    )
    return (
        f"The base takes {base.bpp_base:.3f} bpp; its picture for machines, x̂_t, has "
        f"{base.psnr_machine:.2f} dB.{others} The human LIC takes {_span(lic.bpp, 3)} bpp for "
        f"{_span(lic.psnr, 2)} dB."
    )


def _regime(means: pd.DataFrame) -> str:
    """Whether the base is a layer for machines, as the paper's: at each λ of the LIC."""
    base = _base(means)
    lic = means[means.codec == "LIC"].sort_values("lmbda")
    share, below = base.bpp_base / lic.bpp, lic.psnr - base.psnr_machine
    if not np.isfinite(below).all():
        return f"How far x̂_t lies below the human LIC is not told: {_LOSSLESS}."
    inside = (share < BASE_SHARE) & (below >= BASE_DB)
    if inside.all():
        verdict = "at each of them"
    elif not inside.any():
        verdict = "at NONE of them"
    else:
        verdict = f"at λ = {_list(lic.lmbda[inside])}, NOT at {_list(lic.lmbda[~inside])}"
    return (
        f"Set beside the human LIC at λ = {_list(lic.lmbda)}, the base takes "
        f"{_list(f'{s:.0%}' for s in share)} of its bits, and x̂_t lies "
        f"{_list(f'{d:.2f}' for d in below)} dB below its picture: a layer for machines "
        f"(under {BASE_SHARE:.0%} of the bits, at least {BASE_DB:.0f} dB below) {verdict}."
    )


def _floor(means: pd.DataFrame) -> str:
    people = means[means.codec.isin(["LIC", "fusion", *bd.RESIDUAL, "difference"])]
    nothing = means[means.codec == "mean colour"].iloc[0].psnr
    who = "Every" if people.psnr.min() > nothing else "NOT every"
    return (
        f"{who} trained codec beats sending nothing: the weakest picture for people has "
        f"{people.psnr.min():.2f} dB, the mean colour alone {nothing:.2f} dB (means over the "
        "photos)."
    )


def effect_of_m(means: pd.DataFrame) -> Iterator[str]:
    """What m does to PSNR, at each λ that has more than one, beside Table II."""
    fusion = means[means.codec == "fusion"].sort_values(["lmbda", "m"])
    for lmbda, rows in fusion.groupby("lmbda"):
        psnr = rows.set_index(rows.m.astype(int)).psnr
        if not np.isfinite(psnr).all():
            yield f"At λ = {lmbda} the effect of m is not told: {_LOSSLESS}."
        elif len(psnr) > 1:
            yield (
                f"At λ = {lmbda}, m = {_list(psnr.index)} give {_list(f'{p:.2f}' for p in psnr)} "
                f"dB: {_lowest(psnr)}; {_settled(psnr)}."
            )


def _lowest(psnr: pd.Series) -> str:
    """Whether the smallest m has the lowest PSNR, as in Table II."""
    gap = float(psnr.iloc[1:].min() - psnr.iloc[0])
    name = f"m = {psnr.index[0]}"
    if abs(gap) < EQUAL_DB:
        return f"{name} and the lowest of the others are equal ({gap:+.2f} dB), unlike Table II"
    if gap > 0:
        return f"{name} is the lowest, by {gap:.2f} dB, as in Table II"
    return f"{name} is NOT the lowest, by {-gap:.2f} dB, unlike Table II"


def _settled(psnr: pd.Series) -> str:
    """Whether PSNR no longer depends on m from 3 on, as in Table II."""
    last = psnr.index[-1]
    others = psnr[(psnr.index >= SETTLED_M) & (psnr.index < last)]
    if last <= SETTLED_M or others.empty:
        return f"no m between {SETTLED_M} and the largest was trained"
    farthest = float((others - psnr.iloc[-1]).abs().max())
    verdict = "as in Table II" if farthest <= SETTLED_DB else "NOT as in Table II"
    return (
        f"m ≥ {SETTLED_M} lies within {farthest:.2f} dB of m = {last}, {verdict} ({SETTLED_DB} dB)"
    )


def against(curves: Mapping[str, pd.DataFrame], compared: pd.DataFrame, pair: bd.Comparison) -> str:
    """Say which of two codecs needs fewer bits and by how much, or why no number says so."""
    tested, other = bd.pair(curves, pair)
    rate, quality = bd.between(compared, pair)
    ours, theirs = _name(pair.tested), _name(pair.other)
    head = f"{_COUNTED[pair.bits]}, {ours}"
    if rate.note:
        spans = ", ".join(
            f"{who} {_span(curve.quality.mean(0), 2)} dB for {_span(curve.rate.mean(0), 3)} bpp"
            for who, curve in ((ours, tested), (theirs, other))
        )
        gain = f"at equal rate it is {_better(quality)}"
        if quality.note:
            gain = f"no BD-PSNR either ({quality.note})"
        return f"{head} has no BD-rate against {theirs} ({rate.note}); {gain}: {spans}."
    by = f"BD-rate {rate.value:+.1f} %{_interval(rate, '%', 1)}"
    by += "" if quality.note else f", BD-PSNR {quality.value:+.2f} dB"
    if why := _equal(rate, quality):
        return f"{head} and {theirs} are equal: the difference is {by}, {why}."
    verdict = f"{_amount(rate)} bits than {theirs} at equal PSNR"
    return f"{head} needs {verdict} ({by}; {_everywhere(tested, other)})."


def _equal(rate: bd.Delta, quality: bd.Delta) -> str:
    """Why two curves are called equal; empty if they are not."""
    if not quality.note and abs(quality.value) < EQUAL_DB:
        return f"below {EQUAL_DB} dB"
    return "and its interval holds 0" if rate.low <= 0 <= rate.high else ""


def _amount(rate: bd.Delta) -> str:
    return f"{abs(rate.value):.1f} % {'fewer' if rate.value < 0 else 'more'}"


def _everywhere(tested: bd.Curve, other: bd.Curve) -> str:
    """Whether one of two curves is above the other at every quality that both have."""
    quality, percent = bd.margins(tested, other)
    words = [f"{p:+.0f} % at {q:.1f} dB" for q, p in zip(quality, percent, strict=True)]
    low, high = int(percent.argmin()), int(percent.argmax())
    if percent[low] * percent[high] > 0:
        return f"at every PSNR in common, from {words[low]} to {words[high]}"
    return f"NOT at every PSNR in common: {words[low]}, but {words[high]}"


def _better(quality: bd.Delta) -> str:
    if abs(quality.value) < EQUAL_DB:
        return f"equal ({quality.value:+.2f} dB, below {EQUAL_DB} dB)"
    word = "better" if quality.value > 0 else "worse"
    return f"{abs(quality.value):.2f} dB {word}{_interval(quality, 'dB', 2)}"


def _anchors(curves: Mapping[str, pd.DataFrame], compared: pd.DataFrame) -> Iterator[str]:
    """The human LIC beside the classical codecs: one sentence, as none is a claim of the paper."""
    rivals = [c for c in curves if not c.startswith((*bd.LAYERED, "LIC"))]
    if "LIC" not in curves or not rivals:
        return
    found = []
    for rival in rivals:
        rate, _ = bd.between(compared, bd.Comparison("LIC", rival, "all"))
        number = rate.note if rate.note else f"{rate.value:+.0f} %{_interval(rate, '%', 0)}"
        found.append(f"{rival} {number}")
    halved = [c for c in rivals if (curves[c].chroma == "4:2:0").all()]
    yield f"BD-rate of the human LIC against the classical codecs: {'; '.join(found)}." + (
        f" {_list(halved)} code 4:2:0, which costs them PSNR on RGB and flatters the LIC."
        if halved
        else ""
    )


def _name(curve: str) -> str:
    codec, _, m = curve.partition(" m")
    return NAMES.get(codec, codec) + (f" (m = {m})" if m else "")


def _span(values: pd.Series | bd.Points, digits: int) -> str:
    low, high = (f"{value:.{digits}f}" for value in (np.min(values), np.max(values)))
    return low if low == high else f"{low} to {high}"


def _list(values: Iterable[object]) -> str:
    return ", ".join(str(v) for v in values)


def _interval(delta: bd.Delta, unit: str, digits: int) -> str:
    """The bounds of the bootstrap interval; nothing where there is none."""
    if np.isnan(delta.low):
        return ""
    return f" [{bd.CONFIDENCE:.0%}: {delta.low:+.{digits}f} to {delta.high:+.{digits}f} {unit}]"


def against_rate(table: pd.DataFrame, m: int, caption: str) -> Figure:
    """Accuracy against bits by the first table of :func:`sic.evaluation.detection.run`, which must
    have rows: one curve per codec with its intervals as bars, and a line across for the originals;
    of boxes, and in a third panel of masks if there are any."""
    labels = {"ap": "mAP at IoU 0.50 to 0.95", "ap50": "mAP at IoU 0.50"}
    if table.mask_ap.notna().any():
        labels["mask_ap"] = "mAP of masks at IoU 0.50 to 0.95"
    figure = Figure(figsize=(6 * len(labels), 5), layout="constrained")
    for axes, (column, label) in zip(figure.subplots(1, len(labels)), labels.items(), strict=True):
        _draw(axes, table[table.m.isna() | (table.m == m)], column)
        rate = "bits per pixel, all layers that are read"
        axes.set(xlabel=rate, ylabel=label, xlim=(0, None), ylim=(0, None))
        axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    figure.suptitle(caption, fontsize=10)
    return figure


def _draw(axes: Axes, table: pd.DataFrame, column: str) -> None:
    for codec, rows in table.groupby("codec", sort=False):
        if codec == ORIGINAL:
            axes.axhline(rows[column].iloc[0], color="black", ls="--", label="originals")
            continue
        rows = rows.sort_values("bpp")
        name, look = _label(str(codec)), LOOKS[str(codec)]
        axes.plot(rows.bpp, rows[column], label=name, ms=11 if codec == BASE else 6, **look)
        ends = rows[f"{column}_low"], rows[f"{column}_high"]
        axes.vlines(rows.bpp, *ends, color=look["color"], alpha=0.5, lw=1)


def by_class(classes: pd.DataFrame, count: int) -> pd.DataFrame:
    """mAP by codec and rate point, with a column for each of the ``count`` commonest classes, from
    the second table of :func:`sic.evaluation.detection.run`; empty if that is."""
    if classes.empty:
        return pd.DataFrame()
    common = classes.drop_duplicates("class").nlargest(count, "objects")["class"]
    points = pd.MultiIndex.from_frame(classes[["codec", "point", "m"]])
    wide = classes.set_index(points).pivot(columns="class", values="ap")
    return wide.loc[points.drop_duplicates(), list(common)]


def detection_sentences(table: pd.DataFrame, m: int, base_point: str) -> Iterator[str]:
    """What the first table of :func:`sic.evaluation.detection.run` says, with fusion at one m and
    the base of one rate point."""
    table = table[table.m.isna() | (table.m == m)]
    original = table[table.codec == ORIGINAL].iloc[0]
    base = table[(table.codec == BASE) & (table.point == base_point)].iloc[0]
    yield (
        f"On {original.images} originals the detector has mAP {original.ap:.3f} (mAP50 "
        f"{original.ap50:.3f}); on x̂_t it has {base.ap:.3f} ({base.ap50:.3f}) for "
        f"{base.bpp:.3f} bpp, {_share(base, original)} of that."
    )
    for codec, rows in table.groupby("codec", sort=False):
        if codec in (ORIGINAL, BASE):
            continue
        name, best = _label(str(codec)), rows.sort_values("ap").iloc[-1]
        rows = rows.sort_values("bpp")
        yield (
            f"{name}: at most {best.ap:.3f}, {_share(best, original)} of the originals', for "
            f"{best.bpp:.3f} bpp; " + _at_equal_rate(base, rows)
        )


def bought(compared: pd.DataFrame) -> Iterator[str]:
    """What the table of :func:`sic.evaluation.machine.compare` says: of two codecs by their curves,
    or where these cannot be compared by the points of the first."""
    for _, rows in compared.groupby(["accuracy", "tested", "other"], sort=False):
        told = rows[(rows.bd_rate_note == "") | (rows.bd_ap_note == "")]
        curve = told[told.point == ""]
        for row in (told if curve.empty else curve).itertuples():
            yield _bought(row)
        if told.empty:
            yield _bought(next(rows.itertuples()))


def _bought(row: Any) -> str:
    """One comparison: bits at equal AP, and AP at equal bits, or why there is no number."""
    where = ("", "_low", "_high", "_overlap", "_note")
    rate, ap = (
        bd.Delta(*(getattr(row, f"{name}{end}") for end in where)) for name in ("bd_rate", "bd_ap")
    )
    head = f"{_label(row.tested)} against {_label(row.other)}, {row.accuracy}"
    head += f" at {row.bpp:.3f} bpp and AP {row.ap:.3f}" if row.point else ""
    bits = f"no number of bits ({rate.note})"
    if not rate.note:
        bits = f"{_amount(rate)} bits at equal AP{_interval(rate, '%', 1)}"
    gain = f"no AP at equal bits ({ap.note})"
    if not ap.note:
        gain = f"AP {ap.value:+.3f} at equal bits{_interval(ap, 'AP', 3)}"
    return f"{head}: {bits}; {gain}."


def _label(codec: str) -> str:
    return LABELS.get(codec, codec)


def _share(row: pd.Series, original: pd.Series) -> str:
    return f"{row.ap / original.ap:.0%}" if original.ap else "no share"


def _at_equal_rate(base: pd.Series, rows: pd.DataFrame) -> str:
    """A codec's accuracy at the rate of x̂_t, linear between its points."""
    low, high = rows.bpp.min(), rows.bpp.max()
    if not low <= base.bpp <= high:
        return f"its {low:.3f} to {high:.3f} bpp do not reach x̂_t's {base.bpp:.3f}."
    ap = float(np.interp(base.bpp, rows.bpp, rows.ap))
    return f"at x̂_t's {base.bpp:.3f} bpp {ap:.3f}, x̂_t {base.ap - ap:+.3f}."
