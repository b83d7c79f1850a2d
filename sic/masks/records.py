"""Segments on disk: COCO RLE records with scores, in shards that are checked when read.

``data/segments/`` holds ``segments.json`` (what segmented, how much, each shard's checksum) and
shards, gzip of one JSON line per picture: ``{"image", "height", "width", "records"}``.
"""

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from sic.errors import SicError
from sic.files import replacing_folder, sha256, write_bytes, write_text

HEADER = "segments.json"

# {segmentation: {size: [H, W], counts: str}, area, bbox: [x, y, w, h], predicted_iou,
# stability_score}: the keys of Segment Anything's own output.
Record = dict[str, Any]


@dataclass(frozen=True)
class Segments:
    """One picture's segments."""

    image: str
    height: int
    width: int
    records: list[Record]

    def line(self) -> bytes:
        """The line of a shard that holds these segments."""
        return (json.dumps(vars(self), separators=(",", ":")) + "\n").encode()


def encode(mask: NDArray[np.bool_], predicted_iou: float, stability_score: float) -> Record:
    """A mask, bool (H, W), and its scores as a record."""
    return record(coco.encode(np.asfortranarray(mask, np.uint8)), predicted_iou, stability_score)


def record(rle: Mapping[str, Any], predicted_iou: float, stability_score: float) -> Record:
    """A mask as COCO's compressed run lengths, and its scores, as a record."""
    counts = rle["counts"]
    return {
        "segmentation": {
            "size": [int(n) for n in rle["size"]],
            "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
        },
        "area": int(coco.area(rle)),
        "bbox": [float(v) for v in coco.toBbox(rle)],
        "predicted_iou": round(float(predicted_iou), 6),
        "stability_score": round(float(stability_score), 6),
    }


def decode(record: Record) -> NDArray[np.bool_]:
    """A record's mask, bool (H, W)."""
    return coco.decode(record["segmentation"]).astype(bool)


def runs(found: Sequence[Record]) -> list[list[tuple[int, int]]]:
    """Each record's mask as runs [start, stop) of pixels, counted column by column, which is much
    faster than to decode masks that are small in a large picture."""
    lengths = run_lengths([record["segmentation"]["counts"] for record in found])
    positions = [numbers.cumsum().tolist() for numbers in lengths]
    return [list(zip(p[0::2], p[1::2], strict=False)) for p in positions]


def run_lengths(codes: Sequence[str]) -> list[NDArray[np.int64]]:
    """COCO's compressed run lengths as numbers, of background and foreground in turn: all masks of
    a picture at once, in a fifth of the time of one by one.  Raises ValueError if a code ends
    within a number, or has characters that are none of the code."""
    if not codes:
        return []
    # COCO's code: numbers of 6-bit characters, the lowest 5 bits first, the sixth says that more
    # follow and the fifth of the last one is the sign; from the third on, the difference to the
    # number two before.
    code = np.frombuffer("".join(codes).encode("ascii"), np.uint8) - 48
    sizes = [len(one) for one in codes]
    ends = np.cumsum(sizes)
    if not all(sizes) or (code[ends - 1] >= 32).any() or (code >= 64).any():
        raise ValueError("run lengths that are cut off or of other characters")
    last = np.flatnonzero(code < 32)
    first = np.zeros_like(last)
    first[1:] = last[:-1] + 1
    place = 5 * (np.arange(len(code)) - np.repeat(first, last - first + 1))
    number = np.add.reduceat((code & 31).astype(np.int64) << place, first)
    number -= np.where(code[last] & 16, np.int64(32) << place[last], 0)
    found = np.split(number, np.searchsorted(last, ends[:-1]))
    for one in found:
        one[1::2] = one[1::2].cumsum()
        one[2::2] = one[2::2].cumsum()
    return found


def assemble(
    lines: Sequence[Path], origin: Mapping[str, Any], shard_size: int, folder: Path
) -> dict[str, Any]:
    """Put files of one picture's line each into shards, in this order; write and return the header.
    The origin tells what made the segments: ``segmenter``, ``stand_in`` and the settings.  Equal
    lines give equal bytes.  The folder is replaced as a whole."""
    shards: list[dict[str, Any]] = []
    with replacing_folder(folder) as temporary:
        for start in range(0, len(lines), shard_size):
            content = [path.read_bytes() for path in lines[start : start + shard_size]]
            file = temporary / f"{start // shard_size:05d}.jsonl.gz"
            write_bytes(file, gzip.compress(b"".join(content), mtime=0))
            count = sum(len(json.loads(line)["records"]) for line in content)
            about = {"images": len(content), "records": count, "bytes": file.stat().st_size}
            shards.append({"file": file.name, **about, "sha256": sha256(file)})
        total = {key: sum(s[key] for s in shards) for key in ("images", "records", "bytes")}
        header = {**origin, **total, "shards": shards}
        write_text(temporary / HEADER, json.dumps(header, indent=1) + "\n")
    return header


def describe(folder: Path) -> dict[str, Any]:
    """The header: ``segmenter``, ``stand_in``, settings, images, records, bytes, and the shards."""
    path = folder / HEADER
    try:
        header = json.loads(path.read_text())
        if not {"segmenter", "stand_in", "images", "records", "shards"} <= header.keys():
            raise ValueError
    except OSError as error:
        reason = error.strerror
        raise SicError(f"cannot read {path}: {reason}; run the segment stage first") from None
    except (ValueError, AttributeError):
        raise SicError(f"{path} is damaged; run the segment stage again") from None
    return header


def read_shard(path: Path, checksum: str) -> Iterator[Segments]:
    """The segments of the pictures in the shard with this SHA-256, one by one.  Raises SicError if
    it is missing or damaged."""
    if not path.is_file():
        raise SicError(f"{path} is missing; run the segment stage again")
    damaged = SicError(f"{path} is damaged; run the segment stage again")
    if sha256(path) != checksum:
        raise damaged
    try:
        with gzip.open(path, "rt") as lines:
            for line in lines:
                yield _checked(json.loads(line))
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        raise damaged from None


def read(folder: Path) -> Iterator[Segments]:
    """The segments of every picture, one by one: all of COCO's would not fit in memory."""
    for shard in describe(folder)["shards"]:
        yield from read_shard(folder / shard["file"], shard["sha256"])


def load(folder: Path) -> dict[str, list[Record]]:
    """The records of every picture by its name."""
    return {segments.image: segments.records for segments in read(folder)}


def _checked(content: Mapping[str, Any]) -> Segments:
    """One line of a shard; ValueError, KeyError or TypeError if it does not hold records."""
    segments = Segments(**content)
    for one in segments.records:
        if one["segmentation"]["size"] != [segments.height, segments.width]:
            raise ValueError("a segment of another size than its image")
        if not isinstance(one["segmentation"]["counts"], str) or len(one["bbox"]) != 4:
            raise ValueError("not a COCO record")
        for key in ("area", "predicted_iou", "stability_score"):
            float(one[key])
    return segments
