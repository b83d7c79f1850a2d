import functools
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data as photos

from sic import images, params
from sic.data import sets
from sic.errors import SicError
from sic.masks import records, sam, segment

STUDY = params.load(Path(__file__).parents[1] / "params.yaml")


def study(folder: Path, segment: dict[str, Any] | None = None) -> params.Params:
    """The study on the pictures of a folder."""
    content = STUDY.model_dump()
    content["data"] |= {"source": "folder", "root": str(folder / "mine")}
    content["data"] |= {"train": "all", "validation": ["00"], "test": ["01"]}
    content["segment"] |= {"shard": 3} | (segment or {})
    return params.Params.model_validate(content)


def pictures(folder: Path, count: int = 8) -> params.Params:
    """Cuts of real photos, listed by the data stage."""
    for i in range(count):
        photo = (photos.astronaut, photos.coffee)[i % 2]()
        images.write_png(folder / "mine" / f"{i:02d}.png", photo[i * 20 :, i * 20 :][:160, :200])
    chosen = study(folder)
    sets.prepare(chosen.data, 0, folder / "data")
    return chosen


def run(chosen: params.Params, folder: Path) -> dict[str, Any]:
    return segment.run(chosen, folder / "data", folder / "checkpoints")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (folder / "data" / "segments").iterdir()}


def test_every_picture_is_segmented(tmp_path: Path) -> None:
    chosen = pictures(tmp_path)
    header = run(chosen, tmp_path)
    assert header == segment.describe(tmp_path / "data" / "segments")
    assert (header["segmenter"], header["stand_in"], header["images"]) == ("graph", True, 8)
    assert [s["images"] for s in header["shards"]] == [3, 3, 2]
    found = segment.load(tmp_path / "data" / "segments")
    index = sets.load_index(tmp_path / "data" / "images.json")
    assert list(found) == [r.name for r in sets.every_record(index)]
    pixels = images.read(tmp_path / "mine" / "03.png")
    assert found["03"] == segment.graph_segments(pixels, chosen.segment.graph)


def test_a_repeated_run_makes_equal_bytes_and_no_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = pictures(tmp_path)
    run(chosen, tmp_path)
    first = contents(tmp_path)
    made: list[int] = []

    @functools.wraps(segment.graph_segments)  # results are kept by the code's name, too
    def counted(*_: object) -> list[records.Record]:
        made.append(1)
        return []

    monkeypatch.setattr(segment, "graph_segments", counted)
    run(chosen, tmp_path)
    assert contents(tmp_path) == first
    assert not made


def test_a_changed_picture_and_changed_settings_are_segmented_anew(tmp_path: Path) -> None:
    chosen = pictures(tmp_path)
    run(chosen, tmp_path)
    before = segment.load(tmp_path / "data" / "segments")
    images.write_png(tmp_path / "mine" / "04.png", photos.chelsea()[:160, :200])
    sets.prepare(chosen.data, 0, tmp_path / "data")
    run(chosen, tmp_path)
    after = segment.load(tmp_path / "data" / "segments")
    assert {name for name in before if before[name] != after[name]} == {"04"}
    coarse = study(tmp_path, {"graph": {"scale": 2000.0, "sigma": 0.8, "min_size": 400}})
    assert run(coarse, tmp_path)["records"] < sum(len(found) for found in after.values())


def test_a_picture_changed_behind_the_list_is_named(tmp_path: Path) -> None:
    chosen = pictures(tmp_path)
    images.write_png(tmp_path / "mine" / "05.png", photos.chelsea()[:160, :200])  # of equal size
    with pytest.raises(SicError, match=r"mine/05\.png has changed since the data stage"):
        run(chosen, tmp_path)


def test_a_corrupt_jpeg_in_the_middle_leaves_a_resumable_state(tmp_path: Path) -> None:
    pictures(tmp_path)
    (tmp_path / "mine" / "05.png").unlink()
    path = tmp_path / "mine" / "05.jpg"
    Image.fromarray(photos.coffee()[:160, :200]).save(path, quality=95)
    whole = path.read_bytes()
    chosen = study(tmp_path)
    sets.prepare(chosen.data, 0, tmp_path / "data")
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SicError, match=r"cannot read .*05\.jpg: .*replace or remove it"):
        run(chosen, tmp_path)
    done = {p: p.stat().st_mtime_ns for p in (tmp_path / "checkpoints").rglob("*.json")}
    assert len(done) >= 3
    assert not (tmp_path / "data" / "segments").exists()
    path.write_bytes(whole)
    assert run(chosen, tmp_path)["images"] == 8
    assert all(p.stat().st_mtime_ns == when for p, when in done.items())


def test_a_full_disk_is_one_line_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = pictures(tmp_path)
    real, written = Path.write_bytes, []

    def limited(self: Path, content: bytes) -> int:
        if len(written) == 4:
            raise OSError(28, "No space left on device")
        written.append(self)
        return real(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", limited)
        with pytest.raises(SicError, match="No space left on device; free some space"):
            run(chosen, tmp_path)
    assert not [p for p in tmp_path.rglob("*.part")]
    assert len(list((tmp_path / "checkpoints").rglob("*.json"))) == 4
    assert run(chosen, tmp_path)["images"] == 8


def started(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "sic", "segment"], cwd=folder, stderr=subprocess.DEVNULL
    )


def written_study(folder: Path, count: int) -> params.Params:
    from ruamel.yaml import YAML

    chosen = pictures(folder, count)
    content = chosen.model_dump(mode="json")
    with (folder / "params.yaml").open("w") as file:
        YAML(typ="safe").dump(content, file)
    return chosen


def test_processes_make_what_one_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = pictures(tmp_path, 12)
    run(chosen, tmp_path)
    alone = contents(tmp_path)
    monkeypatch.setattr("sic.cluster.cores", lambda: 2)
    segment.run(chosen, tmp_path / "data", tmp_path / "together")
    assert contents(tmp_path) == alone


def test_killed_at_any_moment_it_goes_on(tmp_path: Path) -> None:
    chosen = written_study(tmp_path, 12)
    for enough in (1, 4, 7):
        process = started(tmp_path)
        while len(list((tmp_path / "checkpoints").rglob("*.json"))) < enough:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "data" / "segments").exists()
    done = {p: p.stat().st_mtime_ns for p in (tmp_path / "checkpoints").rglob("*.json")}
    run(chosen, tmp_path)
    assert all(p.stat().st_mtime_ns == when for p, when in done.items())
    finished = contents(tmp_path)
    segment.run(chosen, tmp_path / "data", tmp_path / "alone")
    assert contents(tmp_path) == finished


@pytest.mark.parametrize("name", ["sam_vit_h", "sam_vit_l", "sam_vit_b", "mobile_sam"])
def test_weights_that_are_missing_are_no_reason_for_the_stand_in(tmp_path: Path, name: str) -> None:
    pictures(tmp_path)
    for checkpoint in (sam.NONE, "nowhere.pth"):
        chosen = study(tmp_path, {"segmenter": name, "checkpoint": checkpoint})
        with pytest.raises(SicError, match=r"segment\.checkpoint.*https://.*SHA-256 \w{64}"):
            run(chosen, tmp_path)
    assert not (tmp_path / "data" / "segments").exists()


def test_segments_can_be_drawn_from_what_is_stored(tmp_path: Path) -> None:
    run(pictures(tmp_path), tmp_path)
    for found in segment.read(tmp_path / "data" / "segments"):
        cover = sum(records.decode(one).astype(int) for one in found.records)
        assert np.array_equal(cover, np.ones((found.height, found.width)))
