"""The `detect` stage: what a detector still finds in the pictures that the codecs decode.

annotated picture ── codec ── decoded picture ── detector ── boxes ── COCOeval ── accuracy
                       └── bits

Of the test photos the stage `evaluate` has left the decoded pictures; those of a folder of its own
go through the same pieces of work (:mod:`sic.evaluation.pieces`).
"""

import hashlib
import io
import math
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from sic import images
from sic.cluster import complete
from sic.data import sets, visdrone
from sic.errors import SicError
from sic.evaluation import detectors, machine, pieces, rate_distortion
from sic.evaluation.accuracy import PREFIX, SIZES, Picture, Truth
from sic.evaluation.coders import ANCHORS
from sic.evaluation.detectors import Detections
from sic.files import sha256
from sic.measuring import Detect
from sic.params import Params
from sic.source import fingerprint
from sic.work import WORK

NONE = "none"  # the detector of a study that has no weights of one
ORIGINAL = "original"  # the codec of the pictures as they are
_POINT = ["codec", "point", "lmbda", "m"]
#: The columns of results/detection.csv: one row per codec and rate point.  ``bpp`` is the mean over
#: the pictures, empty for originals; ``ap`` is mAP50-95 and ``ap50`` mAP50, of boxes, with the ends
#: of their intervals, then of COCO's sizes; ``mask_ap`` … are those of masks, empty without;
#: ``setup`` is the program and set-up of a classical codec.
_MEASURES = [f"{prefix}{ap}" for prefix in PREFIX.values() for ap in ("ap", "ap50")]
COLUMNS = [*_POINT, "images", "bpp"]
COLUMNS += [f"{measure}{end}" for measure in _MEASURES for end in ("", "_low", "_high")]
COLUMNS += [*(f"{measure}_{size}" for size in SIZES for measure in _MEASURES), "setup"]
#: The columns of results/detection_classes.csv: one row per codec, rate point and class.
CLASS_COLUMNS = [*_POINT, "bpp", "class", "objects", *_MEASURES]

#: Pictures of a codec that a detector looks at in one piece of work.
TOGETHER = 100
#: A picture of the annotations; its name in the table of results.
Names = Mapping[Picture, str]


@dataclass(frozen=True)
class Source:
    """A codec at a rate point, as in the table of :mod:`sic.evaluation.rate_distortion`, and the
    files of what it decoded; ``bpp`` are the bits per pixel of each, ``setup`` is that of a
    classical codec, and ``in_steps`` as in :class:`sic.evaluation.machine.Point`."""

    codec: str
    point: str
    lmbda: float | None
    m: int | None
    bpp: NDArray[np.float64]
    files: Mapping[Picture, Path]
    setup: str = ""
    in_steps: bool = False


def run(
    study: Params, detector_device: torch.device, codec_device: torch.device
) -> tuple[pd.DataFrame, pd.DataFrame, list[machine.Point]]:
    """Detection accuracy on the originals and on every codec's pictures: ``COLUMNS`` and
    ``CLASS_COLUMNS``, and the points of the curves for :func:`sic.evaluation.machine.compare`;
    without rows and points where ``detect.detector`` is ``none``.

    What was found for a codec waits in ``checkpoints/detect-…/``: a stopped run goes on there, and
    after a change only the codecs that changed are looked at again.  Raises SicError if
    annotations, weights, a checkpoint or a picture are missing or wrong.
    """
    if study.detect.detector == NONE:
        return pd.DataFrame(columns=COLUMNS), pd.DataFrame(columns=CLASS_COLUMNS), []
    truth, files = annotated(study)
    checkpoint = detectors.weights(study.detect, WORK / "weights")
    truth.check_classes(detectors.known_classes(study.detect, checkpoint))
    for picture, path in files.items():
        _check_size(picture, path)
    every = {_name(source): source for source in _decoded(study, files, codec_device)}
    origin = study.detect.model_dump(include={"detector", "score_threshold"}) | {
        "weights": sha256(checkpoint),
        "device": detector_device.type,
        "together": TOGETHER,
    }
    folder = WORK / f"detect-{fingerprint(origin, look, 'sic.evaluation.detectors.load')}"
    asked = study.detect, checkpoint, origin["weights"], str(detector_device)
    looks = {
        name: [
            Look(*asked, tuple(source.files.values())[n : n + TOGETHER], folder / f"{name}-{n}.npz")
            for n in range(0, len(files), TOGETHER)
        ]
        for name, source in every.items()
    }
    results = {each: each.path for parts in looks.values() for each in parts}
    at_once = None if detector_device.type == "cpu" else 1
    complete(results, Look.make, "part", study.machine.cluster, at_once)
    drawn = machine.draw(len(files), study.compare.bootstrap, study.seed)
    found = [
        _accuracy(source, truth, [each.path for each in looks[name]], drawn)
        for name, source in every.items()
    ]
    overall = pd.DataFrame([row for row, _, _ in found], columns=COLUMNS)
    classes = pd.DataFrame([row for _, rows, _ in found for row in rows], columns=CLASS_COLUMNS)
    points = [point for _, _, point in found]
    return overall.astype({"m": "Int64"}), classes.astype({"m": "Int64"}), points


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
        for name in (p.file_name for p in files):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise SicError(
                    f"{truth.path} lists {name}; name pictures by paths below detect.root"
                )
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


def _decoded(
    study: Params, files: Mapping[Picture, Path], device: torch.device
) -> Iterator[Source]:
    """The originals, what `evaluate` left of the test photos, and the LIC in larger steps, which is
    coded here, as are pictures in a folder of their own."""
    yield Source(ORIGINAL, "", None, None, np.full(len(files), math.nan), files)
    names = _names(study, files)
    photos = {names[picture]: path for picture, path in files.items()}
    if study.detect.root is None:
        table, folder = rate_distortion.read(Path("results/rd.csv")), rate_distortion.DECODED
    else:
        folder = WORK / "detect-decoded"
        table = rate_distortion.evaluate(photos, study, device, folder, only_shown=True)
    yield from sources(table, folder, names)
    if study.detect.lic_steps:
        folder = WORK / "detect-steps"
        table = rate_distortion.coarser(photos, study, device, folder)
        yield from (replace(source, in_steps=True) for source in sources(table, folder, names))


def sources(table: pd.DataFrame, folder: Path, names: Names) -> Iterator[Source]:
    """The trained codecs and two anchors, each at its rate points, from the table of results and
    the decoded pictures in a folder; of the base it is the picture for machines, x̂_t, of the others
    that for people.  Raises SicError if a codec could not code a picture, or has not coded it."""
    seen = table[table.lmbda.notna() | (table.codec.isin(ANCHORS) & table.version.notna())]
    points = rate_distortion.POINT
    for _, rows in seen.groupby(points, sort=False, dropna=False):
        point, by_name = rows.iloc[0], rows.set_index("image")
        if gone := [name for name in names.values() if name not in by_name.index]:
            raise SicError(f"{point.codec} has no row of {gone[0]}; run the evaluate stage again")
        rows = by_name.loc[list(names.values())]
        for image, note in rows.note.dropna().items():
            problem = f"{point.codec} at {point.point} cannot code {image}: {note}"
            raise SicError(f"{problem}; take the picture out, or the codec")
        about: dict[str, Any] = {
            key: point[key] if pd.notna(point[key]) else None for key in points
        }
        decoded = {picture: pieces.decoded(about, name, folder) for picture, name in names.items()}
        setup = "{version}, {preset}, {chroma} {bit_depth} bit".format(**about)
        classical = about["lmbda"] is None
        yield Source(
            codec=about["codec"],
            # Of a classical codec the setting alone: "quality 5" is 5.
            point=about["point"].rpartition(" ")[2] if classical else about["point"],
            lmbda=about["lmbda"],
            m=about["m"],
            bpp=rows.bpp.to_numpy(np.float64),
            files=decoded,
            setup=setup if classical else "",
        )


def _names(study: Params, files: Mapping[Picture, Path]) -> Names:
    """The pictures' names in the table of results: of the test photos those of the data stage."""
    if study.detect.root is not None:
        return {picture: picture.file_name for picture in files}
    photos = sets.load_index()["test"]
    names = {sets.image_path(record, study.data): record.name for record in photos}
    return {picture: names[path] for picture, path in files.items()}


def _check_size(picture: Picture, path: Path) -> None:
    height, width = images.read(path).shape[:2]
    if (height, width) != (picture.height, picture.width):
        listed = f"{picture.width}×{picture.height}"
        raise SicError(f"{path} is {width}×{height}, but {listed} in the annotations")


def _name(source: Source) -> str:
    """A name for what is found in a codec's pictures, with a checksum of them."""
    checksums = "".join(sha256(path) for path in source.files.values())
    digest = hashlib.sha256(checksums.encode()).hexdigest()[:12]
    point = rate_distortion.label(source.m, source.point)
    return f"{source.codec}-{point}-{digest}".replace(" ", "_")


@dataclass(frozen=True, eq=False)
class Look:
    """A detector's look at some of a codec's pictures, as a piece of work."""

    settings: Detect
    weights: Path
    sha256: str  # of the weights
    device: str
    files: tuple[Path, ...]
    path: Path

    def make(self) -> bytes:
        """What it finds, as a file's content."""
        return look(_load(self.settings, self.weights, self.sha256, self.device), self.files)


@lru_cache(maxsize=1)
def _load(settings: Detect, weights: Path, _: str, device: str) -> detectors.Detector:
    """The detector with these weights; the file may have had others before."""
    return detectors.load(settings, weights, torch.device(device))


def look(detector: detectors.Detector, files: Iterable[Path]) -> bytes:
    """Look for objects in every picture, as one file's content."""
    found: list[Detections] = [detector(images.read(path)) for path in files]
    masks = [counts for one in found for counts in one.masks or ()]
    content = io.BytesIO()
    np.savez_compressed(
        content,
        counts=np.array([len(one.scores) for one in found]),
        boxes=np.concatenate([one.boxes for one in found]),
        scores=np.concatenate([one.scores for one in found]),
        classes=np.array([name for one in found for name in one.classes], dtype=np.str_),
        masked=all(one.masks is not None for one in found),
        masks=np.frombuffer(b"".join(masks), np.uint8),
        mask_lengths=np.array([len(counts) for counts in masks], np.int64),
    )
    return content.getvalue()


def _read(result: Path) -> list[Detections]:
    """What :func:`look` found in each picture."""
    with np.load(result) as stored:
        ends = np.cumsum(stored["counts"])
        parts = (np.split(stored[key], ends[:-1]) for key in ("boxes", "scores", "classes"))
        found = [Detections(b, s, c.tolist()) for b, s, c in zip(*parts, strict=True)]
        if stored["masked"]:
            each = np.split(stored["masks"], np.cumsum(stored["mask_lengths"])[:-1])
            masks = [counts.tobytes() for counts in each[: ends[-1]]]
            starts = ends - stored["counts"]
            found = [
                replace(one, masks=masks[start:end])
                for one, start, end in zip(found, starts, ends, strict=True)
            ]
        return found


def _accuracy(
    source: Source,
    truth: Truth,
    results: Iterable[Path],
    drawn: NDArray[np.int64],
) -> tuple[dict[str, Any], list[dict[Hashable, Any]], machine.Point]:
    """A codec's row of the table, its rows of the table of classes, and its point of a curve."""
    found = [one for result in results for one in _read(result)]
    evaluation = truth.evaluate(dict(zip(source.files, found, strict=True)))
    rows = evaluation.table
    point = {key: getattr(source, key) for key in _POINT} | {"bpp": float(source.bpp.mean())}
    whole = point | {"images": len(source.files), "setup": source.setup}
    for _, row in rows[rows.part != "class"].iterrows():
        suffix = "" if row.part == "all" else f"_{row['name']}"
        whole |= {f"{measure}{suffix}": row[measure] for measure in _MEASURES}
    resampled = {kind: machine.resample(one, drawn) for kind, one in evaluation.matches.items()}
    for kind, values in resampled.items():
        for ap, column in zip(("ap", "ap50"), values.T, strict=True):
            low, high = machine.interval(column[1:])
            whole |= {f"{PREFIX[kind]}{ap}_low": low, f"{PREFIX[kind]}{ap}_high": high}
    classes = rows[rows.part == "class"].rename(columns={"name": "class"})
    count = len(source.files)
    measured = machine.Point(
        source.codec, source.point, count, drawn @ source.bpp / count, resampled, source.in_steps
    )
    return whole, classes.assign(**point).to_dict("records"), measured


def metrics_json(table: pd.DataFrame) -> dict[str, Any]:
    """The table as a nested dictionary, for `dvc metrics`: codec → point → number."""
    found: dict[str, Any] = {}
    for row in table.to_dict("records"):
        digits = {"bpp": 4} | dict.fromkeys(_MEASURES, 3)
        numbers = {k: round(row[k], n) for k, n in digits.items() if pd.notna(row[k])}
        point = rate_distortion.label(row["m"], row["point"])
        found.setdefault(str(row["codec"]), {})[point] = numbers
    return found
