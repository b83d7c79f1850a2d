"""Rate and distortion of every codec on the test images: one row per image, codec and setting.

Rates are lengths of real streams; the entropy model's estimate stands beside them as a check.
Distortion is measured on 8-bit pixels, padding cropped away.  A picture that comes back without
loss has infinite PSNR and MS-SSIM, and so have means with it.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sic import images, progress
from sic.anchors import cached, vvc_m
from sic.anchors.classical import Anchor
from sic.anchors.programs import CodecError, MissingCodec
from sic.codec import complexity
from sic.errors import SicError
from sic.evaluation import bd
from sic.evaluation.metrics import MEASURES, Metrics
from sic.images import Pixels
from sic.params import Params
from sic.stream.scalable import Reader, ScalableCodec
from sic.work import checkpoint

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
_RGB = {"chroma": "4:4:4", "bit_depth": 8, "colour": "RGB"}
#: What a row begins with, and what measures the rest of it.
Job = tuple[dict[str, Any], Callable[[], dict[str, float]]]


@dataclass(frozen=True)
class Trained:
    """A codec of the study (SA-ICM, LIC, fusion or difference) at a rate point of params.yaml: its
    λ, the checkpoints of the layer that decodes alone and of the second one, and the slices m of
    the additional codec."""

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
    for m, point in params.fusion.items:
        weights = checkpoint(f"fusion/m{m}-{point}")
        yield Trained("fusion", point, params.quality[point].lmbda, base, weights, m)
    for point in params.difference.quality:
        weights = checkpoint(f"difference/{point}")
        yield Trained("difference", point, params.quality[point].lmbda, base, weights)


def evaluate(pictures: Mapping[str, Pixels], params: Params, device: str = "cpu") -> pd.DataFrame:
    """Every codec on every picture, uint8 (H, W, 3) by name: :data:`COLUMNS` and :data:`COSTS`.

    The transforms run on the device.  Where this machine lacks a classical codec, or one cannot
    code a picture, the row has a note in place of numbers (:func:`left_out`).  Raises SicError if
    there are no pictures, a checkpoint is missing, or a codec of the study fails.
    """
    if not pictures:
        raise SicError("there are no test images; set data.test in params.yaml")
    metrics = Metrics(Path(params.evaluate.lpips) if params.evaluate.lpips else None)
    rows = list(_of_the_study(pictures, params, metrics, device))
    rows += [_mean_colour(name, image, metrics) for name, image in pictures.items()]
    rows += _of_anchors(pictures, params, metrics)
    rows += _of_vvc_m(pictures, params, metrics, device)
    kinds = {"m": "Int64", "bit_depth": "Int64", "note": "object"}
    return pd.DataFrame(rows, columns=[*COLUMNS, *COSTS]).astype(kinds)


def _of_the_study(
    pictures: Mapping[str, Pixels], params: Params, metrics: Metrics, device: str
) -> Iterator[dict[str, Any]]:
    codecs = list(trained(params))
    total = len(codecs) * len(pictures)
    with progress.bar(total=total, desc="our codecs", unit="stream") as bar:
        for item in codecs:
            codec = ScalableCodec.load(item.base, item.enhancement, device)
            version = f"weights {'+'.join(part.weights.hex() for part in codec.codecs)}"
            about = {"codec": item.codec, "version": version, **_RGB, **operations(codec)}
            about |= {"point": item.point, "lmbda": item.lmbda, "m": item.m}
            for name, image in pictures.items():
                yield {"image": name, **about, **code(codec, image, metrics, device)}
                bar.update()


def code(
    codec: ScalableCodec, image: Pixels, metrics: Metrics, device: str = "cpu"
) -> dict[str, float]:
    """Write the stream of one picture, uint8 (H, W, 3) RGB, and read it to the picture for people:
    rates, measures, times, and memory of ``device``.  Raises SicError if the stream does not decode
    to what its writer had."""
    with complexity.measure(device) as writing:
        encoding = codec.encode_layers(image)
    layers = [encoding.base, *([encoding.enhancement] if encoding.enhancement else [])]
    with complexity.measure(device) as reading:
        x_hat = codec.decode(encoding.stream, "human" if encoding.enhancement else "machine")
    x_hat_t = codec.decode(encoding.base.stream, "machine") if encoding.enhancement else x_hat
    bpp = [images.bpp(len(layer.stream), *image.shape[:2]) for layer in layers]
    return {
        "bpp_base": bpp[0],
        "bpp_additional": sum(bpp[1:]),
        "bpp": sum(bpp),
        "bpp_estimated": sum(layer.estimated.total for layer in layers) / image[..., 0].size,
        "psnr_machine": images.psnr(image, x_hat_t),
        **metrics(image, x_hat),
        "encode_seconds": writing.seconds,
        "decode_seconds": reading.seconds,
        "peak_megabytes": max(writing.peak_bytes, reading.peak_bytes) / 1e6,
    }


def operations(codec: ScalableCodec) -> dict[str, float]:
    """Parameters of all layers, which are frozen, and thousands of multiply-accumulates per pixel
    to write (`kmac_encode`) and to read (`kmac_decode`) a small picture."""
    for part in codec.codecs:
        # PyTorch's counter asks autograd about each parameter, and autograd is off while coding.
        part.codec.requires_grad_(False)
    dark = np.zeros((images.MULTIPLE, images.MULTIPLE, 3), np.uint8)
    encoding = codec.encode_layers(dark)
    layer: Reader = "human" if encoding.enhancement else "machine"
    steps = {
        "kmac_encode": lambda: codec.encode_layers(dark),
        "kmac_decode": lambda: codec.decode(encoding.stream, layer),
    }
    counted = {k: complexity.kmac_per_pixel(step, dark[..., 0].size) for k, step in steps.items()}
    return {"parameters": sum(complexity.parameters(p.codec) for p in codec.codecs), **counted}


def _mean_colour(name: str, image: Pixels, metrics: Metrics) -> dict[str, Any]:
    """Sending nothing but the picture's mean colour: what every codec must beat."""
    flat = np.empty_like(image)
    flat[:] = image.mean(axis=(0, 1)).round()
    about = {"image": name, "codec": "mean colour", **_RGB, "point": ""}
    return {**about, **_one_layer(images.bpp(3, *image.shape[:2])), **metrics(image, flat)}


def _of_anchors(
    pictures: Mapping[str, Pixels], params: Params, metrics: Metrics
) -> list[dict[str, Any]]:
    def measure(anchor: Anchor, setting: float, image: Pixels) -> dict[str, float]:
        coded = cached.code(anchor, setting, image)
        times = {"encode_seconds": coded.encode_seconds, "decode_seconds": coded.decode_seconds}
        return {**_one_layer(coded.bpp), **metrics(image, coded.x_hat), **times}

    found, missing = cached.find(params.evaluate)
    jobs: list[Job] = [
        (
            {"image": name, **asdict(anchor.setup), "point": f"{anchor.knob} {setting}"},
            partial(measure, anchor, setting, image),
        )
        for anchor, settings in found
        for name, image in pictures.items()
        for setting in settings
    ]
    return [*_at_once(jobs, "classical codecs"), *_missing(missing, pictures)]


def _missing(reasons: Mapping[str, str], pictures: Iterable[str]) -> list[dict[str, Any]]:
    """The rows of codecs that this machine lacks."""
    return [
        {"image": name, "codec": codec, "point": "", "note": reason}
        for codec, reason in reasons.items()
        for name in pictures
    ]


def _of_vvc_m(
    pictures: Mapping[str, Pixels], params: Params, metrics: Metrics, device: str
) -> list[dict[str, Any]]:
    if not params.evaluate.vvc_m.qp:
        return []
    try:
        codec = vvc_m.find(params.evaluate.vvc_m.preset)
    except MissingCodec as error:
        return _missing({"VVC+M": str(error)}, pictures)
    base = ScalableCodec.load(checkpoint(params.base), device=device)

    def measure(qp: int, image: Pixels, x_hat_t: Pixels, bpp: float) -> dict[str, float]:
        coded = vvc_m.code(codec, qp, image, x_hat_t)
        # No times: most of them goes into the first picture, which only stands for x̂_t.
        rates = {"bpp_base": bpp, "bpp_additional": coded.bpp, "bpp": bpp + coded.bpp}
        machine = images.psnr(image, x_hat_t)
        return {**rates, "psnr_machine": machine, **metrics(image, coded.x_hat)}

    jobs: list[Job] = []
    for name, image in pictures.items():
        stream = base.encode(image)
        x_hat_t = base.decode(stream, "machine")
        bpp = images.bpp(len(stream), *image.shape[:2])
        for qp in params.evaluate.vvc_m.qp:
            about = {"image": name, **asdict(codec.setup), "point": f"QP {qp}"}
            jobs.append((about, partial(measure, qp, image, x_hat_t, bpp)))
    return _at_once(jobs, "VVC+M")


def _one_layer(bpp: float) -> dict[str, float]:
    return {"bpp_base": bpp, "bpp_additional": 0.0, "bpp": bpp}


def _at_once(jobs: list[Job], what: str) -> list[dict[str, Any]]:
    """Rows of jobs that other programs do, one on each core; in the order of the jobs."""

    def row(job: Job) -> dict[str, Any]:
        about, measure = job
        try:
            return {**about, **measure()}
        except CodecError as error:
            return {**about, "note": error.reason}

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = pool.map(row, jobs)
        return list(progress.bar(rows, total=len(jobs), desc=what, unit="stream"))


def read(path: Path) -> pd.DataFrame:
    """The table from its file, results/rd.csv: :data:`COLUMNS`, and all names as they were."""
    kinds: dict[str, Any] = dict.fromkeys(("image", *POINT, "note"), str)
    kinds |= {"lmbda": float, "m": "Int64", "bit_depth": "Int64"}
    # A photo may be called 000000001296, or NA: no number, and not missing.
    return pd.read_csv(path, dtype=kinds, keep_default_na=False, na_values=[""])


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


def label(m: int | None, point: str) -> str:
    """A rate point in one word, as results/metrics.json has it: `q1`, `m5-q2`, or `all`."""
    parts = (f"m{m}" if pd.notna(m) else "", point if pd.notna(point) else "")
    return "-".join(part for part in parts if part) or "all"
