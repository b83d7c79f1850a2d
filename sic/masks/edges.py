"""The edge mask m_x: contours of the segments that are sure enough (threshold α).

The papers say "Canny edges of the Segment Anything segmentation" and give α.  How the segmentation
is drawn, Canny's thresholds, the thickness and the resolution are assumptions: segments are painted
from the largest to the smallest, each in a colour that differs from those of all it touches by the
range of a channel, or half of it, so that no contour depends on chance; then cv2.Canny runs on the
painted map, and its lines are thickened.
"""

import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from sic.cluster import complete
from sic.data import sets
from sic.errors import SicError
from sic.files import replacing, replacing_folder
from sic.masks import records
from sic.masks.records import Record
from sic.params import Edges, Params
from sic.source import fingerprint
from sic.work import WORK

Mask = NDArray[np.bool_]


def run(params: Params, root: Path = sets.DATA, work: Path = WORK) -> dict[str, float]:
    """The `edges` stage: draw m_x of every picture in ``root/segments`` as ``root/edges/NAME.png``.
    Returns the edge density (share of pixels in m_x) by name.  Raises SicError where segments are
    missing or damaged, or there is no space."""
    folder = draw(params, root, work)
    density: dict[str, float] = {}
    for shard in records.describe(root / "segments")["shards"]:
        density |= json.loads((folder / f"{shard['file']}.json").read_text())
    with replacing_folder(root / "edges") as temporary:
        for name in density:
            target = temporary / f"{name}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / f"{name}.png", target)
    shutil.rmtree(folder, ignore_errors=True)
    return density


def draw(params: Params, root: Path = sets.DATA, work: Path = WORK) -> Path:
    """Draw the masks into ``work/edges-…/``: NAME.png of every picture, and each shard's densities.
    A stopped run goes on where it was."""
    source = root / "segments"
    shards = records.describe(source)["shards"]
    drawn_from = [params.edges.model_dump(), [shard["sha256"] for shard in shards]]
    folder = work / f"edges-{fingerprint(drawn_from, __name__)}"
    pieces = {(shard["file"], shard["sha256"]): shard for shard in shards}
    results = {piece: folder / f"{piece[0]}.json" for piece in pieces}
    sizes = {piece: shard["images"] for piece, shard in pieces.items()}
    make = partial(_draw_shard, source, folder, params.edges)
    complete(results, make, "image", params.machine.cluster, sizes=sizes)
    return folder


def _draw_shard(source: Path, folder: Path, settings: Edges, shard: tuple[str, str]) -> bytes:
    """Draw the masks of a shard, by its name and SHA-256; their densities by name, as JSON."""
    name, checksum = shard
    density = {}
    for segments in records.read_shard(source / name, checksum):
        path = folder / f"{segments.image}.png"
        if path.exists():
            m_x = load(path)
        else:
            m_x = mask(segments.records, segments.height, segments.width, settings)
            save(path, m_x)
        density[segments.image] = float(m_x.mean())
    return json.dumps(density).encode()


def mask(found: Sequence[Record], height: int, width: int, settings: Edges) -> Mask:
    """m_x of one picture, bool (height, width): true on the contours of those segments whose
    ``predicted_iou`` is at least α."""
    import cv2

    labels = label_map([r for r in found if r["predicted_iou"] >= settings.alpha], height, width)
    if settings.long_side is not None:
        scale = settings.long_side / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        labels = np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST), np.int32)
    edges = cv2.Canny(paint(labels), settings.canny_low, settings.canny_high)
    if settings.thickness > 1:
        edges = cv2.dilate(edges, np.ones((settings.thickness, settings.thickness), np.uint8))
    if settings.long_side is not None:
        edges = cv2.resize(edges, (width, height), interpolation=cv2.INTER_NEAREST)
    return edges > 0


def label_map(found: Sequence[Record], height: int, width: int) -> NDArray[np.int32]:
    """Segments painted on each other, the largest first: int32 (H, W), 0 where there is none."""
    labels = np.zeros(width * height, np.int32)  # column by column, as the records' runs are
    largest_first = sorted(found, key=lambda record: -record["area"])
    for label, runs in enumerate(records.runs(largest_first), start=1):
        for start, stop in runs:
            labels[start:stop] = label
    return np.ascontiguousarray(labels.reshape(width, height).T)


def paint(labels: NDArray[np.int32]) -> NDArray[np.uint8]:
    """A colour for each label, uint8 (H, W, 3), so that labels that touch differ strongly: shared
    out greedily, to the label with most neighbours first, from a grid of as few levels per channel
    as are enough (2 levels, 8 colours, for most maps)."""
    count = int(labels.max()) + 1
    neighbours: list[set[int]] = [set() for _ in range(count)]
    pairs = []
    for a, b in ((labels[:, 1:], labels[:, :-1]), (labels[1:], labels[:-1])):
        border = a != b
        pairs.append(a[border].astype(np.int64) * count + b[border])
    for pair in np.unique(np.concatenate(pairs)).tolist():
        a, b = divmod(pair, count)
        neighbours[a].add(b)
        neighbours[b].add(a)
    colour = [-1] * count
    for label in sorted(range(count), key=lambda i: (-len(neighbours[i]), i)):
        taken = {colour[other] for other in neighbours[label]}
        colour[label] = next(c for c in range(count + 1) if c not in taken)
    levels = 2
    while levels**3 <= max(colour):
        levels += 1
    palette = np.stack(np.unravel_index(colour, (levels,) * 3), 1) * 255 // (levels - 1)
    return np.take(palette.astype(np.uint8), labels, axis=0)


def save(path: Path, m_x: Mask) -> None:
    """Write m_x, bool (H, W), as a 1-bit PNG: white contours on black."""
    with replacing(path) as temporary:
        Image.fromarray(m_x).save(temporary, format="PNG")


def load(path: Path) -> Mask:
    """Read m_x, bool (H, W).  Raises SicError if there is no such file, or no 1-bit PNG."""
    try:
        with Image.open(path) as image:
            if image.mode == "1":
                return np.array(image)
        problem = f"{path} is not an edge mask (1 bit per pixel)"
    except UnidentifiedImageError:
        problem = f"{path} is not an edge mask"
    except OSError as error:
        problem = f"cannot read {path}: {error.strerror or 'damaged'}"
    raise SicError(f"{problem}; run the edges stage again")
