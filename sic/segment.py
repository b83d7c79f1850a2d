"""Segments of every picture, as COCO RLE records with scores.

Segmentation is the expensive step and does not depend on the confidence threshold α: records are
kept at low thresholds, so that α and whatever follows can change without a new run.
"""

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sic import data, images
from sic.errors import SicError
from sic.files import replacing_folder, sha256, write_bytes, write_text
from sic.images import Pixels
from sic.params import GraphSegmenter, Params
from sic.work import WORK, Worker, complete

HEADER = "segments.json"
STAND_IN = "graph"  # the segmenter that is not Segment Anything nor people's outlines

# A record: {segmentation: {size: [H, W], counts: str}, area, bbox: [x, y, w, h], predicted_iou,
# stability_score}, the keys of Segment Anything's own output.
Record = dict[str, Any]
Segmenter = Callable[[data.ImageRecord, Pixels], list[Record]]


@dataclass(frozen=True)
class Segments:
    """One picture's segments."""

    image: str
    height: int
    width: int
    records: list[Record]


def run(params: Params, root: Path = data.DATA, work: Path = WORK) -> dict[str, Any] | None:
    """The `segment` stage: segment the pictures of ``root/images.json`` into ``root/segments/``.

    Results of single pictures wait in ``work/segment-…/`` until all are there; a stopped run goes
    on from them, and so does a later one with more pictures.  Several processes share the pictures
    (:mod:`sic.work`); the first puts the shards together.

    Returns:
        The header, as of :func:`describe`; None in a process that only helped.

    Raises:
        SicError: no list of images, an unreadable picture, no weights, no space.
    """
    settings = params.segment
    worker = Worker.from_environment()
    records = {r.name: r for r in data.every_record(data.load_index(root / data.INDEX))}
    segmenter, origin = _segmenter(params, root, worker)
    folder = work / f"segment-{_fingerprint(origin)}"
    # The picture's checksum in the name: a changed picture is a new piece of work.
    results = {
        name: folder / f"{name}-{record.sha256[:12]}.json" for name, record in records.items()
    }

    def make(name: str) -> bytes:
        record = records[name]
        pixels = images.read(data.image_path(record, params.data, root))
        found = segmenter(record, pixels)
        content = {"image": name, "height": record.height, "width": record.width, "records": found}
        return (json.dumps(content, separators=(",", ":")) + "\n").encode()

    if not complete(results, make, worker, "image"):
        return None
    return _assemble(list(results.values()), origin, settings.shard, root / "segments")


def describe(folder: Path) -> dict[str, Any]:
    """The header of ``data/segments/``: segmenter, stand_in, settings, counts, and the shards.

    Raises:
        SicError: no segments there, or a damaged header.
    """
    path = Path(folder) / HEADER
    try:
        header = json.loads(path.read_text())
        if not {"segmenter", "stand_in", "images", "records", "shards"} <= header.keys():
            raise ValueError
    except OSError as error:
        raise SicError(
            f"cannot read {path}: {error.strerror}; run the segment stage first"
        ) from None
    except (ValueError, AttributeError):
        raise SicError(f"{path} is damaged; run the segment stage again") from None
    return header


def read_shard(path: Path, checksum: str | None = None) -> Iterator[Segments]:
    """The segments of the pictures in one shard, one by one.

    Raises:
        SicError: if the shard is missing, damaged or not the one with this checksum.
    """
    damaged = SicError(f"{path} is damaged; run the segment stage again")
    if not Path(path).is_file():
        raise SicError(f"{path} is missing; run the segment stage again")
    if checksum is not None and sha256(path) != checksum:
        raise damaged
    try:
        with gzip.open(path, "rt") as lines:
            for line in lines:
                yield _checked(json.loads(line))
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        raise damaged from None


def read(folder: Path) -> Iterator[Segments]:
    """The segments of every picture, one by one: all of COCO's would not fit in memory.

    Raises:
        SicError: as :func:`describe` and :func:`read_shard`.
    """
    for shard in describe(folder)["shards"]:
        yield from read_shard(Path(folder) / shard["file"], shard["sha256"])


def load(folder: Path) -> dict[str, list[Record]]:
    """The records of every picture by its name, checked.  Raises as :func:`read`."""
    return {segments.image: segments.records for segments in read(folder)}


def decode(record: Record) -> NDArray[np.bool_]:
    """A record's mask, bool (H, W)."""
    from pycocotools import mask

    return mask.decode(record["segmentation"]).astype(bool)


def encode(mask: NDArray[np.bool_], predicted_iou: float, stability_score: float) -> Record:
    """A mask, bool (H, W), and its scores as a record."""
    from pycocotools import mask as coco

    run_lengths = coco.encode(np.asfortranarray(mask, np.uint8))
    return {
        "segmentation": {
            "size": [int(n) for n in mask.shape],
            "counts": run_lengths["counts"].decode("ascii"),
        },
        "area": int(coco.area(run_lengths)),
        "bbox": [float(v) for v in coco.toBbox(run_lengths)],
        "predicted_iou": round(float(predicted_iou), 6),
        "stability_score": round(float(stability_score), 6),
    }


# ---- the stand-in ----------------------------------------------------------------------------
def graph_segments(pixels: Pixels, settings: GraphSegmenter) -> list[Record]:
    """Felzenszwalb's graph-based segments: the stand-in where Segment Anything is not at hand.

    In place of ``predicted_iou``, which only Segment Anything predicts, a segment carries the
    probability that colour tells one of its pixels from one of its neighbours': with d the mean
    distance (CIELAB) between its mean colour and its neighbours' along its border and σ the
    standard deviation of its own colour, Φ(d / (√2 σ)), the area under the ROC curve of two
    Gaussians.  ``stability_score`` is the same against the neighbour it resembles most.  Both lie
    in [0.5, 1]; they order segments as a confidence does and are not comparable with Segment
    Anything's numbers.

    Args:
        pixels: uint8 (H, W, 3).
        settings: scale, sigma (pixels) and min_size (pixels) of the segmentation.
    """
    from scipy.ndimage import find_objects
    from skimage.segmentation import felzenszwalb

    labels = felzenszwalb(
        pixels, scale=settings.scale, sigma=settings.sigma, min_size=settings.min_size
    )
    mean_score, weakest_score = _contrast(labels, pixels)
    records = []
    for label, box in enumerate(find_objects(labels + 1)):
        mask = np.zeros(labels.shape, bool)
        mask[box] = labels[box] == label
        records.append(encode(mask, mean_score[label], weakest_score[label]))
    return records


def _contrast(
    labels: NDArray[np.int64], pixels: Pixels
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Φ(d / (√2 σ)) of each label against its neighbours on average, and against the closest."""
    from scipy.special import ndtr
    from skimage.color import rgb2lab

    count = int(labels.max()) + 1
    flat = labels.ravel()
    area = np.bincount(flat, minlength=count)
    lab = rgb2lab(pixels).reshape(-1, 3)
    mean = np.stack([np.bincount(flat, lab[:, c], count) for c in range(3)], 1) / area[:, None]
    variance = np.bincount(flat, np.square(lab - mean[flat]).sum(1), count) / area
    distance, pairs, closest = np.zeros(count), np.zeros(count), np.full(count, np.inf)
    for a, b in ((labels[:, 1:], labels[:, :-1]), (labels[1:], labels[:-1])):
        border = a != b
        a, b = a[border], b[border]
        d = np.linalg.norm(mean[a] - mean[b], axis=1)
        for one in (a, b):
            distance += np.bincount(one, d, count)
            pairs += np.bincount(one, minlength=count)
            np.minimum.at(closest, one, d)
    # One grey level of noise: a flat segment is not infinitely sure.  Without a border, d is 0.
    sigma = np.sqrt(variance + 1)
    closest[pairs == 0] = 0
    return (
        ndtr(distance / np.maximum(pairs, 1) / (np.sqrt(2) * sigma)),
        ndtr(closest / (np.sqrt(2) * sigma)),
    )


# ---- files -----------------------------------------------------------------------------------
def _segmenter(params: Params, root: Path, worker: Worker) -> tuple[Segmenter, dict[str, Any]]:
    """The segmenter of the settings, and what its results depend on."""
    settings = params.segment
    if settings.segmenter == STAND_IN:
        origin = {"segmenter": STAND_IN, "settings": settings.graph.model_dump()}
        return lambda _, pixels: graph_segments(pixels, settings.graph), origin
    raise SicError(f"segment.segmenter: {settings.segmenter} is not at hand")


def _fingerprint(origin: Mapping[str, Any]) -> str:
    """Of what the results depend on: the settings, and the code that makes them."""
    digest = hashlib.sha256(json.dumps(origin, sort_keys=True).encode())
    digest.update(Path(__file__).read_bytes())
    return digest.hexdigest()[:16]


def _assemble(
    results: list[Path], origin: Mapping[str, Any], shard_size: int, folder: Path
) -> dict[str, Any]:
    """Put single results into shards, in the order of the images, and write the header."""
    shards = []
    with replacing_folder(folder) as temporary:
        for start in range(0, len(results), shard_size):
            lines = [path.read_bytes() for path in results[start : start + shard_size]]
            file = temporary / f"{start // shard_size:05d}.jsonl.gz"
            write_bytes(file, gzip.compress(b"".join(lines), mtime=0))
            shards.append(
                {
                    "file": file.name,
                    "images": len(lines),
                    "records": sum(len(json.loads(line)["records"]) for line in lines),
                    "bytes": file.stat().st_size,
                    "sha256": sha256(file),
                }
            )
        header = {
            **origin,
            "stand_in": origin["segmenter"] == STAND_IN,
            "images": len(results),
            "records": sum(shard["records"] for shard in shards),
            "bytes": sum(shard["bytes"] for shard in shards),
            "shards": shards,
        }
        write_text(temporary / HEADER, json.dumps(header, indent=1) + "\n")
    return header


def _checked(content: Mapping[str, Any]) -> Segments:
    """One line of a shard; ValueError, KeyError or TypeError if it does not hold records."""
    segments = Segments(**content)
    for record in segments.records:
        if record["segmentation"]["size"] != [segments.height, segments.width]:
            raise ValueError("a segment of another size than its image")
        if not isinstance(record["segmentation"]["counts"], str) or len(record["bbox"]) != 4:
            raise ValueError("not a COCO record")
        float(record["predicted_iou"]), float(record["stability_score"]), int(record["area"])
    return segments
