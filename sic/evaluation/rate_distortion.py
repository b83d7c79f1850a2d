"""Rate and distortion of every codec on the test images: one row per image, codec and setting.

Rates are lengths of real streams; the entropy model's estimate stands beside them as a check.
Distortion is measured on 8-bit pixels, padding cropped away.  A picture that comes back without
loss has infinite PSNR and MS-SSIM, and so have means with it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from sic import images
from sic.anchors import cached, vvc_m
from sic.anchors.programs import MissingCodec
from sic.cluster import complete
from sic.errors import SicError
from sic.evaluation import bd
from sic.evaluation.coders import ANCHORS, Classical, Inter, Learned, MeanColour, Operations
from sic.evaluation.metrics import MEASURES
from sic.evaluation.pieces import Coder, Piece, Result, decoded, label, point_folder
from sic.files import replacing_folder, sha256
from sic.images import Pixels
from sic.params import Params
from sic.work import ARTIFACTS, checkpoint, processes

#: What identifies a point.  ``version`` … ``colour`` are as in
#: :class:`sic.anchors.classical.Setup`; the version of a codec of the study is the fingerprint of
#: its weights.  ``lmbda`` and ``m`` are empty where there is none.
POINT = ["codec", "version", "preset", "chroma", "bit_depth", "colour", "point", "lmbda", "m"]
#: Bits per pixel: ``bpp`` = ``bpp_base`` + ``bpp_additional``; ``bpp_estimated`` from likelihoods.
RATES = ["bpp_base", "bpp_additional", "bpp", "bpp_estimated"]
#: The columns of the table.  :data:`sic.evaluation.metrics.MEASURES` are of the picture for people,
#: ``psnr_machine`` is of x̂_t.  A row without numbers has a ``note`` that says why.
NUMBERS = [*RATES, "psnr_machine", *MEASURES]
COLUMNS = ["image", *POINT, *NUMBERS, "note"]
#: Further columns, which differ between two runs: see :func:`costs`.
COSTS = ["parameters", "kmac_encode", "kmac_decode"]
COSTS += ["encode_seconds", "decode_seconds", "peak_megabytes"]
_TOGETHER = 5000  # rows that are put into the table at a time
#: Where the decoded pictures are left that others show, a folder for each codec and point.
DECODED = ARTIFACTS / "decoded"


@dataclass(frozen=True)
class Trained:
    """A codec of the study (SA-ICM, LIC, fusion, FR, conditional FR or difference) at a rate point
    of params.yaml: its λ, the checkpoints of the layer that decodes alone and of the second one,
    and the slices m of the additional codec."""

    codec: str
    point: str
    lmbda: float
    base: Path
    enhancement: Path | None = None
    m: int | None = None


def trained(params: Params) -> Iterator[Trained]:
    """The codecs that params.yaml asks for, never what happens to lie in ``artifacts``."""
    for codec, stage, points in (
        ("SA-ICM", "sa_icm", params.sa_icm.quality),
        ("LIC", "lic", params.lic.quality),
    ):
        for point in points:
            lmbda = params.quality[point].lmbda
            yield Trained(codec, point, lmbda, checkpoint(f"{stage}/{point}"))
    base = checkpoint(params.base)
    for name, asked in params.fusion.codecs.items():
        weights, lmbda = checkpoint(f"fusion/{name}"), params.quality[asked.quality].lmbda
        yield Trained(asked.method, asked.quality, lmbda, base, weights, asked.m)
    for point in params.difference.quality:
        weights = checkpoint(f"difference/{point}")
        yield Trained("difference", point, params.quality[point].lmbda, base, weights)


def base_of(params: Params) -> Trained:
    """The base that the second layers stand on."""
    path = checkpoint(params.base)
    return next(item for item in trained(params) if item.base == path and not item.enhancement)


def evaluate(
    pictures: Mapping[str, Path],
    params: Params,
    device: str | torch.device = "cpu",
    folder: Path = DECODED,
    only_shown: bool = False,
) -> pd.DataFrame:
    """Every codec on every picture, a file by name: :data:`COLUMNS` and :data:`COSTS`.

    The transforms run on the device.  What was coded before with equal weights, settings and code
    is taken up (:mod:`sic.evaluation.pieces`).  The decoded pictures that others show are left in
    ``folder``, in place of those that were there; ``only_shown`` leaves out the codecs of which
    none are.  Where this machine lacks a classical codec, or one cannot code a picture, the row has
    a note in place of numbers (:func:`left_out`).  Raises SicError if there are no pictures, one
    cannot be read, a checkpoint is missing, or a codec of the study fails.
    """
    if not pictures:
        raise SicError("there are no test images; set data.test in params.yaml")
    groups = [
        [each for each in group if not only_shown or each.shown]
        for group in _codecs(params, str(device))
    ]
    return _table(pictures, groups, params, str(device), folder)


def _part(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Rows of the table: as dictionaries, all 340,000 of the paper would take a gigabyte."""
    kinds: dict[str, Any] = dict.fromkeys(COLUMNS, object)
    kinds |= dict.fromkeys(["lmbda", *NUMBERS, *COSTS], float)
    kinds |= dict.fromkeys(["m", "bit_depth"], "Int64")
    return pd.DataFrame(rows, columns=[*COLUMNS, *COSTS]).astype(kinds)


@dataclass(frozen=True)
class Missing:
    """A classical codec that this machine lacks, and why."""

    codec: str
    reason: str

    @property
    def shown(self) -> bool:
        """Whether machines would be shown its pictures."""
        return self.codec in ANCHORS


def _codecs(params: Params, device: str) -> Iterator[list[Coder | Missing]]:
    """All codecs in the order of their rows; those of a group take turns on each picture."""
    alone: dict[Path, Learned] = {}
    for item in trained(params):
        if item.enhancement:
            yield [learned(item, device, alone[item.base])]
        else:
            alone[item.base] = learned(item, device)
            yield [alone[item.base]]
    yield [MeanColour()]
    found, missing = cached.find(params.evaluate)
    for anchor, settings in found:
        yield [Classical(anchor, setting) for setting in settings]
    for name, reason in missing.items():
        yield [Missing(name, reason)]
    if qps := params.evaluate.vvc_m.qp:
        try:
            codec = vvc_m.find(params.evaluate.vvc_m.preset)
        except MissingCodec as error:
            yield [Missing("VVC+M", str(error))]
        else:
            yield [Inter(codec, qp, alone[base_of(params).base]) for qp in qps]


def coarser(
    pictures: Mapping[str, Path], params: Params, device: str | torch.device, folder: Path
) -> pd.DataFrame:
    """As :func:`evaluate`, of the LIC of the lowest λ alone, in the steps ``detect.lic_steps``."""
    lowest = min((t for t in trained(params) if t.codec == "LIC"), key=lambda item: item.lmbda)
    steps = [learned(lowest, str(device)).in_steps(step) for step in params.detect.lic_steps]
    return _table(pictures, [steps], params, str(device), folder)


def _table(
    pictures: Mapping[str, Path],
    groups: Sequence[Sequence[Coder | Missing]],
    params: Params,
    device: str,
    folder: Path,
) -> pd.DataFrame:
    """The rows of :func:`evaluate`, of these codecs; those of a group take turns on a picture."""
    lpips = Path(params.evaluate.lpips) if params.evaluate.lpips else None
    if lpips and not lpips.is_file():
        remedy = "name torchvision's AlexNet weights (alexnet-owt-*.pth), or null"
        raise SicError(f"evaluate.lpips: there is no file {lpips}; {remedy}")
    digests = {name: sha256(path) for name, path in pictures.items()}
    pieces: list[tuple[str, Piece | Missing]] = [
        (name, each if isinstance(each, Missing) else Piece.of(path, digests[name], each, lpips))
        for group in groups
        for name, path in pictures.items()
        for each in group
    ]
    _make([piece for _, piece in pieces if isinstance(piece, Piece)], params, device)
    with replacing_folder(folder) as partial:
        rows = (_row(name, piece, partial) for name, piece in pieces)
        parts = [_part(some) for some in iter(lambda: [*islice(rows, _TOGETHER)], [])]
    return pd.concat(parts, ignore_index=True)


def learned(item: Trained, device: str, base: Learned | None = None) -> Learned:
    """What codes with a codec of the study, on that of the layer below if it is a second one.
    Raises SicError if the checkpoint is missing or none of ours."""
    point = {key: getattr(item, key) for key in ("codec", "point", "lmbda", "m")}
    return Learned.of(point, item.enhancement or item.base, device, base)


def _make(pieces: Sequence[Piece], params: Params, device: str) -> None:
    """Make the results that are missing: those that others build on first."""
    ours: dict[Path, Piece | Operations] = {}
    for piece in sorted(pieces, key=lambda piece: piece.below is not None):
        if isinstance(piece.coder, Learned):
            operations = Operations.of(piece.coder)
            ours |= {operations.path: operations, piece.path: piece}
    others: dict[Path, Piece | Operations] = {p.path: p for p in pieces if p.path not in ours}
    at_once = processes(params.codec.N, device)
    groups = [(ours, 1), (others, None)] if at_once == 1 else [(ours | others, at_once)]
    for jobs, many in groups:
        results = {job: path for path, job in jobs.items()}
        complete(results, _content, "stream", params.machine.cluster, many)


def _content(job: Piece | Operations) -> bytes:
    return job.make()


def _row(name: str, piece: Piece | Missing, folder: Path) -> dict[str, Any]:
    """A row of the table, from its piece's result; the decoded picture goes into the folder."""
    if isinstance(piece, Missing):
        return {"image": name, "codec": piece.codec, "point": "", "note": piece.reason}
    result, coder = Result(piece.path), piece.coder
    if picture := result.picture():
        suffix, content = picture
        path = folder / point_folder(coder.about) / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    counted = Operations.of(coder).row() if isinstance(coder, Learned) else {}
    return {"image": name, **coder.about, **counted, **result.row()}


def read(path: Path) -> pd.DataFrame:
    """The table from its file, results/rd.csv: :data:`COLUMNS`, and all names as they were."""
    kinds: dict[str, Any] = dict.fromkeys(("image", *POINT, "note"), str)
    kinds |= {"lmbda": float, "m": "Int64", "bit_depth": "Int64"}
    # A photo may be called 000000001296, or NA: no number, and not missing.
    return pd.read_csv(path, dtype=kinds, keep_default_na=False, na_values=[""])


def row(table: pd.DataFrame, codec: Trained, image: str) -> pd.Series:
    """The row of a codec of the study and a picture.  Raises SicError if there is none."""
    found = table[(table.image == image) & (table.codec == codec.codec)]
    of_m = found.m.isna() if codec.m is None else found.m == codec.m
    found = found[(found.point == codec.point) & of_m]
    if found.empty:
        what = f"{codec.codec} at {label(codec.m, codec.point)} and {image}"
        raise SicError(f"results/rd.csv has no row of {what}; run the evaluate stage again")
    return found.iloc[0]


def picture(row: pd.Series, folder: Path = DECODED) -> Pixels:
    """The decoded picture of a row, uint8 (H, W, 3), of the codecs that others show.  Raises
    SicError if it is not there."""
    return images.read(decoded(row, row.image, folder))


def means(table: pd.DataFrame) -> pd.DataFrame:
    """Means over the images of each codec's points, in the order of the table.  A point that a
    codec has not on every image has no mean: it would be one over other images."""
    points = bd.complete(table).groupby(POINT, sort=False, dropna=False)
    return points[NUMBERS].mean().reset_index()


def left_out(table: pd.DataFrame) -> list[str]:
    """A sentence on each codec, or photo of a codec, that has a note in place of numbers."""
    found = []
    for (codec, note), rows in table[table.note.notna()].groupby(["codec", "note"], sort=False):
        if rows.version.isna().all():
            found.append(cached.left_out(str(codec), str(note)))
        else:
            photos, points = (", ".join(rows[key].unique()) for key in ("image", "point"))
            found.append(
                f"{codec} has no mean and no curve at {points}: it cannot code {photos} ({note}); "
                "take that out of the test photos to have them."
            )
    return found


def costs(table: pd.DataFrame) -> pd.DataFrame:
    """What each `codec`, `point` and `m` costs: :data:`COSTS`, means over the images, empty where
    not measured.  These are parameters of all layers; thousands of multiply-accumulates per pixel
    and seconds per picture, writing and reading (classical codecs on one thread); the most
    megabytes held at once."""
    points = table.groupby(["codec", "point", "m"], sort=False, dropna=False)
    return points[COSTS].mean().reset_index()


def reproducible(table: pd.DataFrame) -> pd.DataFrame:
    """A table of means or accuracies as git keeps it: rounded to what another processor gives again
    but for a last digit here and there (bpp to 1e-4, dB to 1e-2, AP and LPIPS to 1e-3), and without
    the fingerprint of trained weights, in which any other last bit of a weight shows."""
    begins = {"bpp": 4, "psnr": 2, "ms_ssim": 2, "ap": 3, "mask_ap": 3, "lpips": 3}
    digits = {c: n for c in map(str, table) for name, n in begins.items() if c.startswith(name)}
    rounded = table.round(digits)
    if "version" in rounded:
        rounded["version"] = rounded.version.str.replace(r"^weights .*", "weights", regex=True)
    return rounded


def metrics_json(table: pd.DataFrame) -> dict[str, Any]:
    """The means as a nested dictionary, for `dvc metrics`: codec → point → number.

    Rounded to what another run gives again: bpp to 1e-4, measures to 1e-2; results/rd.csv has more
    digits.  Two machines, or two numbers of threads, round a sample of x̂_t in 10⁵ to another side,
    which moves our own measures by 1e-5, but VVC+M, which codes what is left, by 1e-4 to 1e-2.  An
    infinite mean, which JSON has no number for, is left out.
    """
    found: dict[str, Any] = {}
    digits = {"bpp_base": 4, "bpp_additional": 4, "bpp": 4, "psnr_machine": 2}
    digits |= {measure: 2 if unit else 3 for measure, unit in MEASURES.items()}
    for row in means(table).to_dict("records"):
        numbers = {k: round(row[k], places) for k, places in digits.items() if np.isfinite(row[k])}
        found.setdefault(str(row["codec"]), {})[label(row["m"], row["point"])] = numbers
    return found
