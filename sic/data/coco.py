"""COCO 2017: fetching its archives, unpacking them, and where they put what."""

import re
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from sic import progress
from sic.errors import SicError
from sic.files import cannot_write, fetch, sha256

ADDRESS = "http://images.cocodataset.org"


class Archive(NamedTuple):
    """One archive: its path below the address, and its SHA-256."""

    path: str
    sha256: str


# By the folder that each unpacks to.  COCO publishes no checksums: these are the ones TensorFlow
# Datasets and several independent projects recorded of the published files (19,336,861,798,
# 815,585,330 and 252,907,541 bytes; the last is the panoptic maps).
ARCHIVES: Mapping[str, Archive] = {
    "train2017": Archive(
        "zips/train2017.zip",
        "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    ),
    "val2017": Archive(
        "zips/val2017.zip",
        "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
    ),
    "annotations": Archive(
        "annotations/annotations_trainval2017.zip",
        "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    ),
    "panoptic": Archive(
        "annotations/panoptic_annotations_trainval2017.zip",
        "c05f76d2129b6b561eb70efe16e7006df62f73fb92889132d373b9d90e31a370",
    ),
}


def provide(
    names: Iterable[str], folder: Path, local: Path | None = None, url: str | None = None
) -> None:
    """Have these parts of COCO, keys of ``ARCHIVES``, unpacked as ``folder/train2017`` and so on.

    A part that is unpacked already is left alone.  Its archive comes from the folder ``local``, or
    else from the published address or a mirror ``url`` with the same paths, and its checksum must
    be the known one.  A stopped call goes on where it was; of several processes one works and the
    others wait.  Raises SicError for other bytes than expected, a damaged archive, or for want of a
    connection or of space."""
    for name in names:
        archive, target = ARCHIVES[name], folder / name
        if target.is_dir():
            continue
        file_name = Path(archive.path).name
        if local and (local / file_name).is_file():
            file = local / file_name
            _check(file, archive.sha256)
        else:
            address = f"{(url or ADDRESS).rstrip('/')}/{archive.path}"
            file = fetch(address, folder / file_name, archive.sha256)
        try:
            with FileLock(f"{target}.lock"):
                if not target.is_dir():
                    unpack(file, target)
        except OSError as error:
            raise cannot_write(target, error) from error


def _check(file: Path, checksum: str) -> None:
    try:
        found = sha256(file)
    except OSError as error:
        raise SicError(f"cannot read {file}: {error.strerror}; see data.root") from None
    if found != checksum:
        raise SicError(f"{file} is not COCO's {file.name} (other SHA-256); replace it")


def unpack(file: Path, folder: Path) -> None:
    """Unpack an archive whose one folder is to become ``folder``, and archives within beside it.

    The files gather in ``folder`` + ``.part``, each whole; a repeated call goes on there.  Raises
    SicError for a damaged archive, a file outside the folder, or for want of space.
    """
    gathering = folder.with_name(f"{folder.name}.part")
    try:
        with zipfile.ZipFile(file) as archive:
            forks = re.compile(r"__MACOSX|(.*/)?\._[^/]*$")  # which macOS adds to archives
            members = [m for m in archive.infolist() if not (m.is_dir() or forks.match(m.filename))]
            size = sum(member.file_size for member in members) / 1e6
            progress.say(f"unpacking {file}: {len(members):,} files, {size:,.1f} MB, to {folder}")
            for member in progress.bar(members, desc=f"unpacking {file.name}", unit="file"):
                inside = Path(*Path(member.filename).parts[1:])
                if ".." in inside.parts or inside.is_absolute() or not inside.name:
                    raise SicError(f"{file} wants to write outside its folder: {member.filename}")
                target = gathering / inside
                if target.is_file() and target.stat().st_size == member.file_size:
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                half = target.with_name(f"{target.name}.half")
                with archive.open(member) as source, half.open("wb") as sink:
                    shutil.copyfileobj(source, sink)  # checks the member's CRC
                half.replace(target)
        for inner in sorted(gathering.glob("*.zip")):
            unpack(inner, inner.with_suffix(""))
            inner.unlink()
        gathering.replace(folder)
    except (zipfile.BadZipFile, EOFError, zlib.error):
        raise SicError(f"{file} is damaged; remove it and run the same command again") from None
    except OSError as error:
        raise cannot_write(folder, error) from error
