"""The `detect` stage: what a detector still finds in the pictures that the codecs decode.

annotated picture ── codec ── decoded picture ── detector ── boxes ── COCOeval ── accuracy
                       └── bits
"""

import hashlib
import io
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from sic import images, progress
from sic.anchors import cached
from sic.anchors.classical import Anchor
from sic.anchors.programs import CodecError
from sic.codec import weights
from sic.data import sets, visdrone
from sic.errors import SicError
from sic.evaluation import detectors, rate_distortion
from sic.evaluation.accuracy import SIZES, Picture, Truth
from sic.evaluation.detectors import Detections
from sic.files import sha256
from sic.images import Pixels
from sic.params import Params
from sic.source import fingerprint
from sic.stream.scalable import Reader, ScalableCodec
from sic.work import WORK, Worker, complete

NONE = "none"  # the detector of a study that has no weights of one
ORIGINAL = "original"  # the codec of the pictures as they are
#: The classical codecs that machines are shown: the paper's, and the one that most cameras write.
ANCHORS = ("VVC", "JPEG")

_POINT = ["codec", "point", "lmbda", "m"]
#: The columns of results/detection.csv: one row per codec and rate point.  ``bpp`` is the mean over
#: the pictures, empty for originals; ``ap`` is mAP50-95 and ``ap50`` mAP50, of all objects and of
#: COCO's sizes; ``setup`` is the program and set-up of a classical codec.
COLUMNS = [*_POINT, "images", "bpp", "ap", "ap50"]
COLUMNS += [*(f"{kind}_{size}" for size in SIZES for kind in ("ap", "ap50")), "setup"]
#: The columns of results/detection_classes.csv: one row per codec, rate point and class.
CLASS_COLUMNS = [*_POINT, "bpp", "class", "objects", "ap", "ap50"]

#: A picture in; what a reader gets and the bits per pixel it took out.
Coder = Callable[[Pixels], tuple[Pixels, float]]


@dataclass(frozen=True)
class Source:
    """Where decoded pictures come from: a codec at a rate point, as in the table of
    :mod:`sic.evaluation.rate_distortion`; ``version`` is what they depend on besides, such as
    weights, ``open`` makes the coder ready, and ``setup`` is that of a classical codec."""

    codec: str
    point: str
    lmbda: float | None
    m: int | None
    version: str
    open: Callable[[], Coder]
    setup: str = ""


def run(
    study: Params, detector_device: torch.device, codec_device: torch.device
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Detection accuracy on the originals and on every codec's pictures: ``COLUMNS`` and
    ``CLASS_COLUMNS``, without rows where ``detect.detector`` is ``none``.

    What was found for a codec waits in ``checkpoints/detect-…/``: a stopped run goes on there, and
    after a change only the codecs that changed are looked at again.  Raises SicError if
    annotations, weights, a checkpoint or a picture are missing or wrong.
    """
    if study.detect.detector == NONE:
        return pd.DataFrame(columns=COLUMNS), pd.DataFrame(columns=CLASS_COLUMNS)
    truth, files = annotated(study)
    checkpoint = detectors.weights(study.detect, WORK / "weights")
    truth.check_classes(detectors.known_classes(study.detect, checkpoint))
    origin = study.detect.model_dump(include={"detector", "score_threshold"}) | {
        "weights": sha256(checkpoint),
        "devices": [detector_device.type, codec_device.type],
        "pictures": [(picture.file_name, sha256(path)) for picture, path in files.items()],
    }
    folder = WORK / f"detect-{fingerprint(origin, sources, _look)}"
    every = {_name(source): source for source in sources(study, codec_device)}
    load_detector = cache(lambda: detectors.load(study.detect, checkpoint, detector_device))

    def make(name: str) -> bytes:
        return _look(every[name].open(), load_detector(), files, name)

    results = {name: folder / f"{name}.npz" for name in every}
    complete(results, make, Worker(), "codec")
    points = [_accuracy(every[name], truth, results[name], list(files)) for name in every]
    overall = pd.DataFrame([point for point, _ in points], columns=COLUMNS)
    classes = pd.DataFrame([row for _, rows in points for row in rows], columns=CLASS_COLUMNS)
    return overall.astype({"m": "Int64"}), classes.astype({"m": "Int64"})


def annotated(study: Params) -> tuple[Truth, dict[Picture, Path]]:
    """The annotations, and the pictures that the settings take from them.  Raises SicError for
    missing or wrong annotations, and a picture that is not there or too large to code."""
    settings = study.detect
    truth = _truth(study)
    if settings.root is None:
        index = sets.load_index()
        sets.check_listed(index, truth.pictures, "detect.annotations")
        files = {truth.find(r.path): sets.image_path(r, study.data) for r in index["test"]}
    else:
        files = {p: Path(settings.root) / p.file_name for p in truth.pictures.values()}
    if settings.images != "all":
        if settings.images > (n := len(files)):
            raise SicError(f"detect.images: {settings.images} wanted, {n} are at hand; say all")
        order = np.random.default_rng(study.seed).permutation(n)
        pictures = list(files)
        files = {p: files[p] for p in (pictures[i] for i in sorted(order[: settings.images]))}
    for picture, path in files.items():
        if not path.is_file():
            raise SicError(f"{truth.path} lists {path}, which is not there; see detect.root")
        if problem := images.size_problem(picture.height, picture.width):
            raise SicError(f"detect.root: {path}: {problem}")
    return truth, files


def _truth(study: Params) -> Truth:
    """A COCO-style file's objects, or those of a folder of VisDrone's text files."""
    path, root = _annotation_file(study), study.detect.root
    if not path.is_dir():
        return Truth(path)
    records = sets.load_index()["test"] if root is None else sets.records_below(Path(root))
    return Truth(path, visdrone.read(path, records))


def _annotation_file(study: Params) -> Path:
    settings = study.detect
    if (path := Path(settings.annotations)) == sets.DATA / sets.SHIPPED / sets.ANNOTATIONS:
        return sets.own_annotations()
    if settings.annotations != sets.OWN_ANNOTATIONS:
        return path
    if settings.root is not None:
        raise SicError(f"detect.annotations: name the COCO-style file of boxes of {settings.root}")
    if study.data.source != "coco":
        raise SicError(
            f"detect.annotations: {sets.OWN_ANNOTATIONS} goes with data.source: coco; name a file"
            " on the test photos, or annotated pictures in detect.root and their file"
        )
    own = study.data.model_copy(update={"annotations": sets.OWN_ANNOTATIONS})
    # Of COCO's two files the last: test pictures are of val2017.
    return sets.annotation_files(own, "instances")[-1]


def sources(study: Params, device: torch.device) -> Iterator[Source]:
    """Originals, the trained codecs and two anchors, each at its rate points; of the base it is the
    picture for machines, x̂_t, of the others that for people."""
    yield Source(ORIGINAL, "", None, None, "", lambda: lambda image: (image, math.nan))
    for item in rate_distortion.trained(study):
        used = [path for path in (item.base, item.enhancement) if path]
        version = " ".join(weights.metadata(path)["fingerprint"] for path in used)
        coder = partial(_scalable, item.base, item.enhancement, device)
        yield Source(item.codec, item.point, item.lmbda, item.m, version, coder)
    for anchor, values in cached.find(study.evaluate)[0]:
        s = anchor.setup
        if s.codec in ANCHORS:
            setup = f"{s.version}, {s.preset}, {s.chroma} {s.bit_depth} bit"
            for value in values:
                coder = partial(_classical, anchor, value)
                yield Source(s.codec, f"{value:g}", None, None, cached.recipe(s), coder, setup)


def left_out(study: Params, table: pd.DataFrame) -> list[str]:
    """A sentence on each of ``ANCHORS`` that params.yaml asks for and the table does not have."""
    missing = cached.find(study.evaluate)[1]
    gone = [codec for codec in ANCHORS if codec in missing and codec not in set(table.codec)]
    return [cached.left_out(codec, missing[codec]) for codec in gone]


def _scalable(base: Path, enhancement: Path | None, device: torch.device) -> Coder:
    codec = ScalableCodec.load(base, enhancement, device)
    layer: Reader = "human" if enhancement else "machine"

    def code(image: Pixels) -> tuple[Pixels, float]:
        stream = codec.encode(image)
        return codec.decode(stream, layer), images.bpp(len(stream), *image.shape[:2])

    return code


def _classical(anchor: Anchor, value: float) -> Coder:
    def code(image: Pixels) -> tuple[Pixels, float]:
        coded = cached.code(anchor, value, image)
        return coded.x_hat, coded.bpp

    return code


def _name(source: Source) -> str:
    version = hashlib.sha256(source.version.encode()).hexdigest()[:12]
    point = rate_distortion.label(source.m, source.point)
    return f"{source.codec}-{point}-{version}".replace(" ", "_")


def _look(
    coder: Coder, detector: detectors.Detector, files: Mapping[Picture, Path], name: str
) -> bytes:
    """Code every picture and look for objects in what comes out, as one file's content."""
    bpp: list[float] = []
    found: list[Detections] = []
    for picture, path in progress.bar(files.items(), desc=name, unit="picture", leave=False):
        image = images.read(path)
        if image.shape[:2] != (picture.height, picture.width):
            height, width = image.shape[:2]
            listed = f"{picture.width}×{picture.height}"
            raise SicError(f"{path} is {width}×{height}, but {listed} in the annotations")
        try:
            decoded, rate = coder(image)
        except CodecError as error:
            problem = f"{name} cannot code {path}: {error.reason}"
            raise SicError(f"{problem}; take the picture out, or the codec") from None
        bpp.append(rate)
        found.append(detector(decoded))
    content = io.BytesIO()
    np.savez_compressed(
        content,
        bpp=np.array(bpp),
        counts=np.array([len(one.scores) for one in found]),
        boxes=np.concatenate([one.boxes for one in found]),
        scores=np.concatenate([one.scores for one in found]),
        classes=np.array([name for one in found for name in one.classes], dtype=np.str_),
    )
    return content.getvalue()


def _accuracy(
    source: Source, truth: Truth, result: Path, pictures: list[Picture]
) -> tuple[dict[str, Any], list[dict[Hashable, Any]]]:
    """A codec's row of the table, and its rows of the table of classes."""
    with np.load(result) as stored:
        ends = np.cumsum(stored["counts"])[:-1]
        parts = (np.split(stored[key], ends) for key in ("boxes", "scores", "classes"))
        found = [Detections(b, s, c.tolist()) for b, s, c in zip(*parts, strict=True)]
        bpp = float(stored["bpp"].mean())
    rows = truth.accuracy(dict(zip(pictures, found, strict=True)))
    point = {key: getattr(source, key) for key in _POINT} | {"bpp": bpp}
    whole = point | {"images": len(pictures), "setup": source.setup}
    for row in rows[rows.part != "class"].itertuples():
        suffix = "" if row.part == "all" else f"_{row.name}"
        whole |= {f"ap{suffix}": row.ap, f"ap50{suffix}": row.ap50}
    classes = rows[rows.part == "class"].rename(columns={"name": "class"})
    return whole, classes.assign(**point).to_dict("records")


def metrics_json(table: pd.DataFrame) -> dict[str, Any]:
    """The table as a nested dictionary, for `dvc metrics`: codec → point → number."""
    found: dict[str, Any] = {}
    for row in table.to_dict("records"):
        numbers = {key: round(row[key], 4) for key in ("bpp", "ap", "ap50") if pd.notna(row[key])}
        point = rate_distortion.label(row["m"], row["point"])
        found.setdefault(str(row["codec"]), {})[point] = numbers
    return found
