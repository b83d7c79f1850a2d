"""The `segment` stage: segments of every picture by the segmenter of the settings.

``python -m sic segment`` runs it without its notebook.  Segmentation is the expensive step and does
not depend on the confidence threshold α: records are kept at low thresholds, so that α can change
without a new run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sic import images
from sic.cluster import complete
from sic.data import sets
from sic.errors import SicError
from sic.files import sha256
from sic.images import Pixels
from sic.masks import annotations, records, sam
from sic.masks.annotations import Annotations
from sic.masks.records import Record, Segments, decode, describe, encode, load, read
from sic.params import Data, GraphSegmenter, Machine, Params, Segment
from sic.source import Root, fingerprint
from sic.work import WORK, device

__all__ = ["STAND_IN", "Record", "Segments", "decode", "describe", "load", "read", "run"]

STAND_IN = "graph"  # the segmenter that is neither Segment Anything nor people's outlines
PEOPLE = "annotations"

Segmenter = Callable[[sets.ImageRecord, Pixels], list[Record]]


def run(study: Params, root: Path = sets.DATA, work: Path = WORK) -> dict[str, Any]:
    """Segment the pictures of ``root/images.json`` into ``root/segments/``, as ``records`` has
    them, and return their header.

    Results of single pictures wait in ``work/segment-…/`` until all are there; a stopped run goes
    on from them, and so does a later one with more pictures.  Raises SicError for want of the list
    of images, weights or space, or for an unreadable picture.
    """
    pictures = sets.every_record(sets.load_index(root / sets.INDEX))
    origin, code, source = _source(study, root, work)
    folder = work / f"segment-{fingerprint(origin, Segments, code)}"
    # The picture's checksum in the name: a changed picture is a new piece of work.
    results = {r: folder / f"{r.name}-{r.sha256[:12]}.json" for r in pictures}
    make = partial(_segment, study.data, root, source)
    complete(results, make, "image", study.machine.cluster, _processes(study))
    origin["stand_in"] = origin["segmenter"] == STAND_IN
    lines = list(results.values())
    return records.assemble(lines, origin, study.segment.shard, root / "segments")


def _processes(study: Params) -> int | None:
    """One where a network has a GPU of this machine to itself."""
    network = study.segment.segmenter not in (STAND_IN, PEOPLE)
    return 1 if network and device(study.machine.device).type == "cuda" else None


def _segment(data: Data, root: Path, source: "_Source", picture: sets.ImageRecord) -> bytes:
    """The line of a shard that has a picture's segments."""
    path = sets.image_path(picture, data, root)
    pixels = images.read(path)
    if sha256(path) != picture.sha256:
        raise SicError(f"{path} has changed since the data stage; run the data stage again")
    found = _load(source)(picture, pixels)
    return Segments(picture.name, picture.height, picture.width, found).line()


@dataclass(frozen=True)
class _Source:
    """What :func:`_load` makes a segmenter from; the files are annotations, or weights.  A worker
    outlives a run, and files may have other contents in the next: their SHA-256 tell."""

    settings: Segment
    machine: Machine
    root: Path
    files: tuple[Path, ...]
    contents: tuple[str, ...]


def _source(study: Params, root: Path, work: Path) -> tuple[dict[str, Any], Root, _Source]:
    """What the segments depend on, settings and code, and what gets the segmenter."""
    settings = study.segment
    origin: dict[str, Any] = {"segmenter": settings.segmenter}
    code: Root
    if settings.segmenter == STAND_IN:
        origin["settings"] = settings.graph.model_dump()
        files, code, contents = [], graph_segments, list[str]()
    elif settings.segmenter == PEOPLE:
        files, code = sets.annotation_files(study.data, settings.outlines, root), Annotations
        contents = [annotations.checksum(file, settings.outlines) for file in files]
        origin |= {"outlines": settings.outlines, "files": contents}
        if settings.unlisted != "error":
            origin["unlisted"] = settings.unlisted
    else:
        files, code = [sam.checkpoint(settings, work / "weights")], sam.segmenter
        origin["settings"] = settings.sam.model_dump()
        contents = [sha256(files[0])]
        origin |= {"precision": settings.precision, "checkpoint": contents[0]}
    contents = [*contents, sha256(root / sets.INDEX)]
    return origin, code, _Source(settings, study.machine, root, tuple(files), tuple(contents))


@lru_cache(maxsize=1)
def _load(source: _Source) -> Segmenter:
    """The segmenter, weights and all, when the first picture needs it."""
    settings = source.settings
    if settings.segmenter == STAND_IN:
        return lambda _, pixels: graph_segments(pixels, settings.graph)
    if settings.segmenter == PEOPLE:
        people = Annotations(source.files, settings.outlines, settings.unlisted)
        index = sets.load_index(source.root / sets.INDEX)
        sets.check_listed(index, people.images, "data.annotations")
        return lambda picture, _: people.segments(picture.path, picture.height, picture.width)
    generate = sam.segmenter(settings, source.machine, source.files[0])
    return lambda _, pixels: generate(pixels)


def graph_segments(pixels: Pixels, settings: GraphSegmenter) -> list[Record]:
    """Felzenszwalb's graph-based segmentation, the stand-in; every pixel belongs to one segment.

    In place of ``predicted_iou``, which only Segment Anything predicts, a segment carries the
    probability that colour tells one of its pixels from one of its neighbours': with d the mean
    distance (CIELAB) between its mean colour and its neighbours' along its border and σ the
    standard deviation of its own colour, Φ(d / (√2 σ)), the area under the ROC curve of two
    Gaussians.  ``stability_score`` is the same against the neighbour it resembles most.  Both lie
    in [0.5, 1] and order segments, but are not comparable with Segment Anything's numbers."""
    from scipy.ndimage import find_objects
    from skimage.segmentation import felzenszwalb

    labels = felzenszwalb(pixels, **settings.model_dump())
    mean_score, weakest_score = _confidence(labels, pixels)
    records = []
    for label, box in enumerate(find_objects(labels + 1)):
        mask = np.zeros(labels.shape, bool)
        mask[box] = labels[box] == label
        records.append(encode(mask, mean_score[label], weakest_score[label]))
    return records


def _confidence(
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
    # One unit of CIELAB, what an eye just sees, so that a flat segment is not infinitely sure.
    spread = np.sqrt(2) * np.sqrt(variance + 1)
    closest[pairs == 0] = 0  # a segment that fills the picture has no border
    return ndtr(distance / np.maximum(pairs, 1) / spread), ndtr(closest / spread)
