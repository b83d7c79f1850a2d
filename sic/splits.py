"""The study's list of pictures, ``data/images.json``: which of them train, validate and test.

The `data` stage writes it (:mod:`sic.data`); every later stage reads it here.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from sic.errors import SicError
from sic.params import Data

SPLITS = ("train", "validation", "test")
DATA = Path("data")
INDEX = "images.json"


@dataclass(frozen=True)
class ImageRecord:
    """One picture: its unique name, path below the images' root, size in pixels and SHA-256."""

    name: str
    path: str
    width: int
    height: int
    sha256: str


Index = dict[str, list[ImageRecord]]


def existing_root(settings: Data) -> Path:
    """The folder that `data.root` names.

    Raises:
        SicError: if it names none, or one that is not there.
    """
    if settings.root is None:
        raise SicError(f"data.root: name the folder of images (data.source: {settings.source})")
    root = Path(settings.root)
    if not root.is_dir():
        raise SicError(f"data.root: there is no folder {root}")
    return root


def is_unpacked_coco(settings: Data) -> bool:
    """Whether data.root is a copy of COCO's folders (and not of its archives, or nothing)."""
    return settings.root is not None and (existing_root(settings) / "val2017").is_dir()


def images_root(settings: Data, root: Path = DATA) -> Path:
    """The folder that the records' paths are relative to."""
    if settings.source == "sample":
        return root / "images"
    if settings.source == "coco" and not is_unpacked_coco(settings):
        return root / "coco"
    return existing_root(settings)


def image_path(record: ImageRecord, settings: Data, root: Path = DATA) -> Path:
    """Where a record's picture lies."""
    return images_root(settings, root) / record.path


def load_index(path: Path = DATA / INDEX) -> Index:
    """Read what :func:`prepare` wrote: the records of each split, in order.

    Raises:
        SicError: no such file, or not such a file.
    """
    try:
        content = json.loads(Path(path).read_text())
        return {split: [ImageRecord(**entry) for entry in content[split]] for split in SPLITS}
    except OSError as error:
        raise SicError(f"cannot read {path}: {error.strerror}; run the data stage first") from None
    except (ValueError, KeyError, TypeError):
        raise SicError(f"{path} is not a list of images; run the data stage again") from None


def every_record(index: Index) -> list[ImageRecord]:
    """The pictures of all splits, in order."""
    return [record for split in SPLITS for record in index[split]]
