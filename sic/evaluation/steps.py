"""How far one set of weights reaches: codecs of the study at quantisation steps beside 1.

Three codecs are tried: the base that the second layers stand on; the LIC at its middle λ; and, on
that base, the fusion codec of the largest m at its middle λ.  A step for each of its layers says
what a cheaper base costs people.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sic import images
from sic.cluster import complete
from sic.errors import SicError
from sic.evaluation import bd
from sic.evaluation.bd import Curve, Points
from sic.evaluation.coders import Learned
from sic.evaluation.pieces import CACHE, point_folder
from sic.evaluation.rate_distortion import Trained, base_of, learned, trained
from sic.files import sha256
from sic.params import Params
from sic.source import fingerprint
from sic.work import processes

#: Columns of the table: bits per pixel are lengths of streams, PSNR is of the picture for people,
#: or x̂_t.  ``base_step`` is empty where there is one layer.
COLUMNS = ["image", "codec", "version", "point", "lmbda", "m", "base_step", "step"]
COLUMNS += ["bpp_base", "bpp_additional", "bpp", "psnr"]
#: Percent of bits more than a trained codec that count as close to it.
LIMIT = 5.0
#: The steps at which a base is tried below fusion: the question is what a cheaper one costs.
BASE_STEPS = 0.7, 2.0
Row = dict[str, float]


def chosen(params: Params) -> list[Trained]:
    """The codecs that are tried; of an even number of λ, the middle is the larger of two."""
    found = sorted(trained(params), key=lambda item: item.lmbda)
    full = params.fusion.largest_m
    lic = [item for item in found if item.codec == "LIC"]
    fusion = [item for item in found if item.codec == "fusion" and item.m == full]
    return [base_of(params), *(items[len(items) // 2] for items in (lic, fusion))]


@dataclass(frozen=True, eq=False)
class Sweep:
    """A photo through one codec at all steps, as a piece of work that leaves a file of rows."""

    picture: Path
    codec: Learned
    steps: tuple[float, ...]
    path: Path

    @classmethod
    def of(cls, picture: Path, codec: Learned, steps: tuple[float, ...]) -> "Sweep":
        """The work on a photo's file; ``steps`` rise, and 1 is among them."""
        mark = fingerprint([codec.recipe, steps], cls, Learned)
        folder = "-".join(("steps", *point_folder(codec.about).parts, mark))
        return cls(picture, codec, steps, CACHE / folder / f"{sha256(picture)[:16]}.json")

    def make(self) -> bytes:
        """The rows, as JSON: each step above a base in steps of 1; of fusion also, at each step of
        the base in :data:`BASE_STEPS`, those steps between which x̂ is as close to the photo as with
        1 and 1."""
        image = images.read(self.picture)
        write = self.codec.load().writer(image)
        rows: list[Row] = []

        @cache
        def psnr(step: float, base_step: float = 1.0) -> float:
            encoding, x_hat = write(step, base_step)
            above = encoding.enhancement.stream if encoding.enhancement else b""
            sizes = (len(encoding.base.stream), len(above), len(encoding.stream))
            names = ("bpp_base", "bpp_additional", "bpp")
            row = {
                name: images.bpp(size, *image.shape[:2])
                for name, size in zip(names, sizes, strict=True)
            }
            row |= {"step": step, "psnr": images.psnr(image, x_hat)}
            rows.append(row | ({"base_step": base_step} if above else {}))
            return row["psnr"]

        for step in self.steps:
            psnr(step)
        for base_step in self.steps if self.codec.base else ():
            if base_step != 1 and BASE_STEPS[0] <= base_step <= BASE_STEPS[1]:
                outwards(partial(psnr, base_step=base_step), self.steps, psnr(1.0))
        return json.dumps(rows).encode()


def outwards(measure: Callable[[float], float], steps: Sequence[float], target: float) -> None:
    """Measure PSNR at step 1, then finer or coarser of the rising ``steps``, until the target lies
    between two of them or there are no more."""
    too_coarse = measure(1.0) < target
    finer, coarser = ([s for s in steps if s < 1][::-1], [s for s in steps if s > 1])
    for step in finer if too_coarse else coarser:
        if (measure(step) < target) != too_coarse:
            return


def measure(pictures: Mapping[str, Path], params: Params, device: str) -> pd.DataFrame:
    """The table with :data:`COLUMNS`: files by the photos' names, through the chosen codecs at
    ``evaluate.steps`` and 1; no rows if none are asked for.  What was measured before is taken up.
    Raises SicError if a picture cannot be read or a checkpoint is missing."""
    steps = tuple(sorted({1.0, *map(float, params.evaluate.steps)}))
    items = chosen(params) if params.evaluate.steps else []
    base = learned(items[0], device) if items else None
    codecs = [learned(item, device, base if item.enhancement else None) for item in items]
    sweeps = [
        (name, Sweep.of(path, codec, steps)) for codec in codecs for name, path in pictures.items()
    ]
    results = {sweep: sweep.path for _, sweep in sweeps}
    at_once = processes(params.codec.N, device)
    complete(results, Sweep.make, "photo", params.machine.cluster, at_once)
    rows = [
        {"image": name, **sweep.codec.about, **row}
        for name, sweep in sweeps
        for row in json.loads(sweep.path.read_bytes())
    ]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"m": "Int64"})


@dataclass(frozen=True)
class Reach:
    """The bits per pixel between which steps of one codec, which has ``own`` in steps of 1, need at
    most :data:`LIMIT` percent more than codecs trained for the same PSNR.  ``low_open`` and
    ``high_open``: nothing was tried farther, or no trained codec is there.  Or a note why there are
    none."""

    low: float = np.nan
    own: float = np.nan
    high: float = np.nan
    low_open: bool = False
    high_open: bool = False
    note: str = ""

    def __str__(self) -> str:
        if self.note:
            return f"not compared: {self.note}"
        ends = (("down", self.low, self.low_open), ("up", self.high, self.high_open))
        words = (
            f"{way} to {rate:.3f} bpp ({rate / self.own - 1:+.0%}){' at least' * is_open}"
            for way, rate, is_open in ends
        )
        return f"within {LIMIT:g} % of the bits from {self.own:.3f} bpp {' and '.join(words)}"


def reach(stepped: Curve, others: Curve, psnr: float) -> Reach:
    """How far a curve of steps stays near that of the codecs trained for their own λ, on the same
    photos; both meet at the mean PSNR of step 1, which is given."""
    a, b = (_mean(curve) for curve in (stepped, others))
    if len(b[0]) < 2:
        return Reach(note="it was trained at one λ only")
    if any((np.diff(curve[1]) <= 0).any() or not np.isfinite(curve[1]).all() for curve in (a, b)):
        return Reach(note="PSNR does not rise with the bits")
    quality, more = bd.margins(stepped, others)
    at = int(np.abs(quality - psnr).argmin())
    near = more <= LIMIT
    near[at] = True  # where the curves meet, whatever the grid says
    first, last = at, at
    while first > 0 and near[first - 1]:
        first -= 1
    while last < len(near) - 1 and near[last + 1]:
        last += 1
    rates = np.exp(np.interp([quality[first], psnr, quality[last]], a[1], np.log(a[0])))
    low, own, high = map(float, rates)
    return Reach(low, own, high, first == 0, last == len(near) - 1)


def _mean(curve: Curve) -> tuple[Points, Points]:
    return curve.mean(np.full(len(curve.rate), 1 / len(curve.rate)))


def curves(table: pd.DataFrame, measured: pd.DataFrame) -> dict[str, tuple[Curve, Curve]]:
    """By codec, PSNR over the bits of its last layer, above a base in steps of 1: of the steps in
    the table, and of its like at every λ, from the rows of all codecs (results/rd.csv) of the same
    photos.  Raises SicError if these lack a photo."""
    found = {}
    own = table[table.base_step.isna() | (table.base_step == 1)]
    for codec, rows in own.groupby("codec", sort=False):
        rate = "bpp" if rows.m.isna().all() else "bpp_additional"
        same = measured[(measured.codec == codec) & measured.image.isin(rows.image)]
        same = same[same.m.isna() if rate == "bpp" else same.m == rows.m.iloc[0]]
        for image in set(rows.image) - set(same.image):
            what = f"{codec} and {image}"
            raise SicError(f"results/rd.csv has no row of {what}; run the evaluate stage again")
        stepped = Curve.of(rows.assign(point=rows.step), rate, "psnr")
        found[str(codec)] = stepped, Curve.of(same, rate, "psnr")
    return found


def allocation(table: pd.DataFrame) -> pd.DataFrame:
    """What each step of the base makes people pay for the x̂ that steps of 1 and 1 give, photo by
    photo: ``bpp_base``, ``bpp_additional``, with ln of the bits interpolated over PSNR between two
    measured steps, and ``bpp``, means over all photos; and in how many ``photos`` of them x̂ came as
    close to the photo with the steps that were tried.  Where one did not, there are no means of
    additional and all bits."""
    rows = table[table.base_step.notna()]
    found: list[dict[str, Any]] = []
    for (base_step, image), tried in rows.groupby(["base_step", "image"]):
        own = rows[(rows.image == image) & (rows.base_step == 1) & (rows.step == 1)].iloc[0]
        tried = tried.sort_values("psnr")
        bits = np.log(tried.bpp_additional.to_numpy(float))
        added = np.exp(np.interp(own.psnr, tried.psnr, bits, left=np.nan, right=np.nan))
        base = tried.bpp_base.iloc[0]
        found.append(
            {"base_step": base_step, "bpp_base": base, "bpp_additional": added, "bpp": base + added}
        )
    each = pd.DataFrame(found, columns=["base_step", "bpp_base", "bpp_additional", "bpp"])
    steps = each.groupby("base_step")
    means, photos = steps.mean(), steps.bpp.count()
    means.loc[photos < steps.size(), ["bpp_additional", "bpp"]] = np.nan
    return means.assign(photos=photos).reset_index()


def allocation_in_words(allocated: pd.DataFrame) -> list[str]:
    """A sentence on each step of the base but 1, from :func:`allocation`."""
    rows = allocated.set_index("base_step")
    sentences = []
    for base_step, row in rows.drop(index=1.0, errors="ignore").iterrows():
        more = row / rows.loc[1.0] - 1
        head = f"A base in steps of {base_step:g} takes {more.bpp_base:+.0%} bits for machines; "
        added, both = f"{more.bpp_additional:+.1%} additional", f"{more.bpp:+.1%} of all bits"
        cost = f"equal x̂ costs {added} and {both}"
        gone = f"no step gave back x̂ in {rows.photos[1.0] - row.photos:.0f} of the photos"
        sentences.append(f"{head}{gone if np.isnan(row.bpp) else cost}.")
    return sentences
