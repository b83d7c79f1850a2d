import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sic.errors import SicError
from sic.masks import records
from sic.masks.records import Segments


@given(arrays.arrays(bool, st.tuples(st.integers(1, 20), st.integers(1, 20))))
def test_a_mask_survives_with_its_area_and_box(mask: np.ndarray) -> None:
    one = records.encode(mask, 0.9, 0.8)
    assert np.array_equal(records.decode(one), mask)
    assert one["area"] == mask.sum()
    assert (one["predicted_iou"], one["stability_score"]) == (0.9, 0.8)
    by_runs = np.zeros(mask.size, bool)
    for start, stop in records.runs([one])[0]:
        by_runs[start:stop] = True
    assert np.array_equal(by_runs.reshape(mask.shape[::-1]).T, mask)
    if mask.any():
        x, y, w, h = (int(v) for v in one["bbox"])
        rows, columns = np.nonzero(mask)
        assert (x, y) == (columns.min(), rows.min())
        assert (x + w - 1, y + h - 1) == (columns.max(), rows.max())
    json.dumps(one)


@given(st.lists(arrays.arrays(bool, (9, 14)), max_size=6))
def test_masks_decoded_at_once_are_those_decoded_one_by_one(masks: list[np.ndarray]) -> None:
    found = [records.encode(mask, 1, 1) for mask in masks]
    assert records.runs(found) == [records.runs([one])[0] for one in found]
    for bad in ("", "P"):  # nothing, and a number that goes on
        with pytest.raises(ValueError, match="cut off"):
            records.run_lengths([*(one["segmentation"]["counts"] for one in found), bad, "0"])


def written(folder: Path, shard: int = 2) -> Path:
    lines = []
    for i in range(5):
        mask = np.zeros((10, 20), bool)
        mask[: i + 1] = True
        lines.append(folder / f"{i}.json")
        found = [records.encode(mask, 0.5, 0.5)] * i
        lines[-1].write_bytes(Segments(f"image{i}", 10, 20, found).line())
    origin = {"segmenter": "graph", "stand_in": True}
    records.assemble(lines, origin, shard, folder / "segments")
    return folder / "segments"


def test_shards_hold_everything_in_order(tmp_path: Path) -> None:
    folder = written(tmp_path)
    header = records.describe(folder)
    assert [s["images"] for s in header["shards"]] == [2, 2, 1]
    assert (header["images"], header["records"]) == (5, 10)
    assert header["bytes"] == sum(p.stat().st_size for p in folder.glob("*.gz"))
    assert [(s.image, len(s.records)) for s in records.read(folder)] == [
        (f"image{i}", i) for i in range(5)
    ]
    assert list(records.load(folder)) == [f"image{i}" for i in range(5)]


def test_equal_segments_give_equal_bytes(tmp_path: Path) -> None:
    one, other = ({p.name: p.read_bytes() for p in written(tmp_path).iterdir()} for _ in "ab")
    assert one == other
    assert all(one[f"{i:05d}.jsonl.gz"][4:8] == bytes(4) for i in range(3))  # no time of writing


def test_damage_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path)
    shard = folder / "00001.jsonl.gz"
    whole = shard.read_bytes()
    for bad in (whole[:-20], whole[:40] + b"?" + whole[41:], b"", gzip.compress(b"{}\n")):
        shard.write_bytes(bad)
        with pytest.raises(SicError, match=r"00001\.jsonl\.gz is damaged"):
            records.load(folder)
    shard.unlink()
    with pytest.raises(SicError, match=r"00001\.jsonl\.gz is missing"):
        records.load(folder)
    for bad in (b"", b"[]", b'{"segmenter": "graph"}'):
        (folder / records.HEADER).write_bytes(bad)
        with pytest.raises(SicError, match=r"segments\.json is damaged"):
            records.describe(folder)
    with pytest.raises(SicError, match="run the segment stage first"):
        records.describe(tmp_path / "nothing")


@pytest.mark.parametrize(
    "change",
    [
        {"segmentation": {"size": [10, 21], "counts": "0"}},
        {"segmentation": {"size": [10, 20], "counts": 5}},
        {"bbox": [1, 2, 3]},
        {"predicted_iou": None},
    ],
)
def test_records_of_another_form_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    good = records.encode(np.ones((10, 20), bool), 0.5, 0.5)
    (tmp_path / "1.json").write_bytes(Segments("a", 10, 20, [good | change]).line())
    origin = {"segmenter": "graph", "stand_in": True}
    records.assemble([tmp_path / "1.json"], origin, 1, tmp_path / "segments")
    with pytest.raises(SicError, match="damaged"):
        records.load(tmp_path / "segments")
