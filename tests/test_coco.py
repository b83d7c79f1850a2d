import hashlib
import io
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from server import serving

from sic.data import coco
from sic.data.coco import Archive
from sic.errors import SicError


def zipped(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


PICTURES = {f"val2017/{i:012d}.jpg": bytes([i]) * 5000 for i in range(20)}
VAL = zipped(PICTURES)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """COCO with twenty small pictures."""
    val = Archive("zips/val2017.zip", hashlib.sha256(VAL).hexdigest())
    monkeypatch.setattr(coco, "ARCHIVES", {"val2017": val})


def test_published_addresses_and_checksums() -> None:
    assert coco.ADDRESS == "http://images.cocodataset.org"
    assert [a.path for a in coco.ARCHIVES.values()] == [
        "zips/train2017.zip",
        "zips/val2017.zip",
        "annotations/annotations_trainval2017.zip",
        "annotations/panoptic_annotations_trainval2017.zip",
    ]
    assert all(len(bytes.fromhex(a.sha256)) == 32 for a in coco.ARCHIVES.values())


@pytest.mark.usefixtures("small")
def test_a_mirror_that_breaks_off_gives_the_pictures(tmp_path: Path) -> None:
    with serving({"/mirror/zips/val2017.zip": VAL}) as site:
        site.break_after = 60_000
        coco.provide(["val2017"], tmp_path, url=f"{site.address}/mirror/")
        assert len(site.asked) == -(-len(VAL) // 60_000)
    for name, content in PICTURES.items():
        assert (tmp_path / name).read_bytes() == content
    coco.provide(["val2017"], tmp_path)  # there already: nobody is asked


@pytest.mark.usefixtures("small")
def test_of_several_processes_one_fetches_and_unpacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked: list[Path] = []
    unpack = coco.unpack

    def slow(file: Path, folder: Path) -> None:
        unpacked.append(folder)
        time.sleep(0.2)  # until the others stand at the same point
        unpack(file, folder)

    monkeypatch.setattr(coco, "unpack", slow)
    with serving({"/zips/val2017.zip": VAL}) as site, ThreadPoolExecutor(4) as pool:
        for task in [
            pool.submit(coco.provide, ["val2017"], tmp_path, url=site.address) for _ in range(4)
        ]:
            task.result()
        assert len(site.asked) == 1
    assert unpacked == [tmp_path / "val2017"]
    assert len(list((tmp_path / "val2017").iterdir())) == 20


@pytest.mark.usefixtures("small")
def test_an_archive_at_hand_is_not_fetched(tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.mkdir()
    (local / "val2017.zip").write_bytes(VAL)
    coco.provide(["val2017"], tmp_path / "coco", local)
    assert len(list((tmp_path / "coco" / "val2017").iterdir())) == 20
    assert {p.name for p in local.iterdir()} == {"val2017.zip"}


@pytest.mark.usefixtures("small")
def test_an_archive_with_other_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "val2017.zip").write_bytes(zipped({"val2017/1.jpg": b"?"}))
    with pytest.raises(SicError, match=r"val2017\.zip is not COCO's"):
        coco.provide(["val2017"], tmp_path / "coco", tmp_path)


@pytest.mark.usefixtures("small")
def test_archives_that_cannot_be_read_or_unpacked_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "val2017.zip").write_bytes(VAL)
    (tmp_path / "full").write_bytes(b"")  # a file where the folder should be
    with pytest.raises(SicError, match=r"cannot write .*full/val2017: .*permissions"):
        coco.provide(["val2017"], tmp_path / "full", tmp_path)

    def secret(_: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(coco, "sha256", secret)
    with pytest.raises(SicError, match=r"cannot read .*val2017\.zip: Permission denied"):
        coco.provide(["val2017"], tmp_path / "coco", tmp_path)


def test_unpacking_goes_on_where_it_was(tmp_path: Path) -> None:
    file = tmp_path / "val2017.zip"
    file.write_bytes(VAL)
    part = tmp_path / "val2017.part"
    part.mkdir()
    done, half = list(PICTURES)[:2]
    (part / Path(done).name).write_bytes(PICTURES[done])
    (part / Path(half).name).write_bytes(PICTURES[half][:100])
    untouched = (part / Path(done).name).stat().st_mtime_ns
    coco.unpack(file, tmp_path / "val2017")
    assert (tmp_path / done).stat().st_mtime_ns == untouched
    assert (tmp_path / half).read_bytes() == PICTURES[half]
    assert not part.exists()


def test_a_damaged_archive_is_named_and_leaves_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "val2017.zip"
    damaged = bytearray(VAL)
    damaged[2000] ^= 255
    for content in (bytes(damaged), VAL[:50_000], b"no archive"):
        file.write_bytes(content)
        with pytest.raises(SicError, match=r"val2017\.zip is damaged"):
            coco.unpack(file, tmp_path / "val2017")
        assert not (tmp_path / "val2017").exists()


def test_an_archive_cannot_write_outside_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "x.zip"
    file.write_bytes(zipped({"val2017/../../evil.jpg": b"x"}))
    with pytest.raises(SicError, match="outside"):
        coco.unpack(file, tmp_path / "in" / "val2017")
    assert not list(tmp_path.rglob("evil*"))


def test_archives_in_an_archive_are_unpacked_beside(tmp_path: Path) -> None:
    inner = zipped({"panoptic_val2017/1.png": b"map", "__MACOSX/x": b"", "panoptic_val2017/": b""})
    outer = zipped(
        {"annotations/panoptic_val2017.json": b"{}", "annotations/panoptic_val2017.zip": inner}
    )
    file = tmp_path / "panoptic.zip"
    file.write_bytes(outer)
    coco.unpack(file, tmp_path / "panoptic")
    found = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert found == [
        "panoptic.zip",
        "panoptic/panoptic_val2017.json",
        "panoptic/panoptic_val2017/1.png",
    ]
