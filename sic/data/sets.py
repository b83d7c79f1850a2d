"""Image sets: which pictures train, validate and test, and what each of them holds.

They come with the study and its packages (``sample``), from any ``folder``, or from COCO 2017
(``coco``).  ``data/images.json`` lists each split's pictures with size and checksum.
"""

import csv
import json
import shutil
import unicodedata
from collections.abc import Container, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sic import images, progress
from sic.data import coco
from sic.errors import SicError
from sic.files import files_below, need_shipped, replacing_folder, sha256, write_text
from sic.params import Data, Split

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


class Shipped(NamedTuple):
    """A photo that comes with the study: name, file, its page on the web, licence and SHA-256."""

    name: str
    file: str
    page: str
    licence: str
    sha256: str


Index = dict[str, list[ImageRecord]]


def existing_root(settings: Data) -> Path:
    """The folder that `data.root` names.  Raises SicError if there is none."""
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
    """Read the records of each split, in order, as :func:`prepare` wrote them."""
    try:
        content = json.loads(Path(path).read_bytes())
        return {split: [ImageRecord(**entry) for entry in content[split]] for split in SPLITS}
    except OSError as error:
        raise SicError(f"cannot read {path}: {error.strerror}; run the data stage first") from None
    except (ValueError, KeyError, TypeError):
        raise SicError(f"{path} is not a list of images; run the data stage again") from None


def check_listed(index: Index, listed: Container[str], key: str) -> None:
    """Refuse two pictures that have one name in annotations, where the last part of a path will do;
    ``listed`` are the names in the file or folder at ``key`` of params.yaml."""
    meant: dict[str, str] = {}
    for record in every_record(index):
        path = record.path
        name = path if path in listed else Path(path).name
        if name in listed and meant.setdefault(name, path) != path:
            raise SicError(f"{key}: {name} may be {meant[name]} or {path}; list each by its path")


def every_record(index: Index) -> list[ImageRecord]:
    """The pictures of all splits, in order."""
    return [record for split in SPLITS for record in index[split]]


def records_below(folder: Path) -> list[ImageRecord]:
    """Every picture in a folder, at any depth, by name.  Raises SicError if there is none, or one
    that cannot be read."""
    return list(_inspect(_listing(folder, images.SUFFIXES), folder))


# `data.annotations` that stands for COCO's own: a file, so that DVC always has one to depend on.
OWN_ANNOTATIONS = "data/annotations/coco"

# Photos of COCO val2017 that come with the study, below ``data``; PHOTOS has a :class:`Shipped` a
# line, and ANNOTATIONS COCO's entries of them.
SHIPPED = Path("pictures/coco")
PHOTOS = "photos.csv"
ANNOTATIONS = "instances.json"
_ANNOTATIONS_SHA256 = "2cf00a10c8e8a9cdccfb455453f801b0335272611fa418cdeb0e7a92dcfd3688"

# Photos in the packages themselves: nothing is fetched.  (The stereo pair is published as
# `stereo_motorcycle`; drawings such as logo and phantom are no photos.)
_BUNDLED = {
    "skimage/data": (
        *("astronaut.png", "chelsea.png", "coffee.png", "color.png", "hubble_deep_field.jpg"),
        *("ihc.png", "motorcycle_left.png", "motorcycle_right.png", "retina.jpg", "rocket.jpg"),
    ),
    "sklearn/datasets/images": ("china.jpg", "flower.jpg"),
}


def prepare(settings: Data, seed: int, root: Path = DATA) -> Index:
    """The `data` stage: choose the splits, check every picture and write ``root/images.json``.

    For ``sample`` the photos are also copied to ``root/images``; pictures of the other sources stay
    where they are and that folder is left empty.  A split is a list of names (or of numbers: COCO's
    ids), a number of pictures drawn with the seed, or `all` that the others leave.  Lists go first,
    then numbers (test, validation, train: asking for more training pictures leaves the other splits
    as they are), then `all`.  COCO's train and validation pictures come from train2017, its test
    pictures from val2017, as the published accuracies and rates do; in ``sample`` the test pictures
    are those of val2017 that come with the study, and a list may also name photos of the packages.
    Raises SicError for unknown or repeated names, too few pictures, an unreadable picture, or one
    to test that no stream can hold; ``images.json`` is left as it was.
    """
    if settings.source == "sample":
        pools = _sample_pools(settings, root)
    elif settings.source == "folder":
        pools = dict.fromkeys(SPLITS, _listing(existing_root(settings), images.SUFFIXES))
    else:
        pools = _coco_pools(settings, root)
    chosen = choose(pools, settings, seed)
    pictures = {name: path for split in SPLITS for name, path in chosen[split]}
    for name in pictures:  # surrogates stand for bytes that are not UTF-8
        if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
            raise SicError(f"{name!r} holds a line break or is not UTF-8; rename the picture")
    with replacing_folder(root / "images") as temporary:
        if settings.source == "sample":
            copies = {name: _copy(name, path, temporary, root) for name, path in pictures.items()}
            pictures = {name: root / "images" / copy for name, copy in copies.items()}
    base = images_root(settings, root)
    records = dict(zip(pictures, _inspect(pictures, base), strict=True))
    index = {split: [records[name] for name, _ in chosen[split]] for split in SPLITS}
    for record in index["test"]:
        if problem := images.size_problem(record.height, record.width):
            raise SicError(f"data.test: {base / record.path}: {problem}")
    content = {split: [asdict(record) for record in index[split]] for split in SPLITS}
    write_text(root / INDEX, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return index


def _sample_pools(settings: Data, root: Path) -> dict[str, dict[str, Path]]:
    packages = _bundled()
    named = settings.test if isinstance(settings.test, list) else None
    if named is not None and packages.keys() >= set(named):
        return dict.fromkeys(SPLITS, packages)
    test = {} if named is None else dict(packages)
    for photo in shipped(root):
        test[photo.name] = root / SHIPPED / photo.file
        need_shipped(test[photo.name], photo.sha256)
    return {"train": packages, "validation": packages, "test": test}


def shipped(root: Path = DATA) -> list[Shipped]:
    """The photos that come with the study.  Raises SicError if their list is missing or damaged."""
    path = root / SHIPPED / PHOTOS
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [Shipped(*row) for row in csv.reader(file, strict=True)][1:]
    except (OSError, UnicodeDecodeError, csv.Error, TypeError):
        remedy = f"bring it back with `git checkout {path}`"
        raise SicError(f"cannot read {path}, which comes with the study; {remedy}") from None


def own_annotations(root: Path = DATA) -> Path:
    """COCO's entries of the photos that come with the study.  Raises SicError if the file is
    missing or was changed."""
    path = root / SHIPPED / ANNOTATIONS
    need_shipped(path, _ANNOTATIONS_SHA256)
    return path


def _copy(name: str, path: Path, folder: Path, root: Path) -> str:
    """Bring a photo into ``folder`` and return its name there: the study's own as they are, with
    the name that their annotations have; those of the packages as PNG."""
    if path.parent == root / SHIPPED:
        return shutil.copyfile(path, folder / path.name).name
    images.write_png(folder / f"{name}.png", images.read(path))
    return f"{name}.png"


def _bundled() -> dict[str, Path]:
    photos: dict[str, Path] = {}
    for folder, files in _BUNDLED.items():
        package, _, inside = folder.partition("/")
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise SicError(f"the package {package} with its photos is missing; install it")
        photos |= {Path(file).stem: Path(spec.origin).parent / inside / file for file in files}
    return dict(sorted(photos.items()))


def _listing(folder: Path, suffixes: Container[str], below: str = ".") -> dict[str, Path]:
    """Pictures by name: the path in ``folder/below`` without suffix, in sorted order."""
    found: dict[str, Path] = {}
    for path in files_below(folder / below, suffixes):
        name = path.relative_to(folder / below).with_suffix("").as_posix()
        if name in found:
            raise SicError(f"{found[name]} and {path} share the name {name}; rename one")
        found[name] = path
    if not found:
        raise SicError(f"there are no images in {folder / below}")
    return found


def _coco_pools(settings: Data, root: Path) -> dict[str, dict[str, Path]]:
    folder = images_root(settings, root)
    _provide_coco(["val2017", "train2017"], settings, folder)
    train, test = (_listing(folder, {".jpg"}, f"{name}2017") for name in ("train", "val"))
    return {"train": train, "validation": train, "test": test}


def _provide_coco(parts: list[str], settings: Data, folder: Path) -> None:
    if not is_unpacked_coco(settings):
        local = existing_root(settings) if settings.root else None
        coco.provide(parts, folder, local, settings.url)


def annotation_files(settings: Data, outlines: str, root: Path = DATA) -> list[Path]:
    """The COCO-style files with people's outlines of the pictures, "instances" or "panoptic".

    ``data.annotations`` names a file, or a folder with ``*instances*.json`` or ``*panoptic*.json``
    and their maps, or COCO's own, which are fetched if they are not there.  Raises SicError if none
    are named or there, or a download failed."""
    if settings.annotations != OWN_ANNOTATIONS:
        return _named_annotations(Path(settings.annotations), outlines)
    if settings.source != "coco":
        raise SicError(f"data.annotations: name the file of outlines (source: {settings.source})")
    folder = images_root(settings, root)
    archived_panoptic = outlines == "panoptic" and not is_unpacked_coco(settings)
    part = "panoptic" if archived_panoptic else "annotations"
    _provide_coco([part], settings, folder)
    files = [folder / part / f"{outlines}_{name}2017.json" for name in ("train", "val")]
    if missing := [file for file in files if not file.is_file()]:
        raise SicError(f"there is no file of annotations {missing[0]}; see data.annotations")
    return files


def _named_annotations(path: Path, outlines: str) -> list[Path]:
    if path.is_dir():
        if files := sorted(path.glob(f"*{outlines}*.json")):
            return files
        raise SicError(f"data.annotations: there is no *{outlines}*.json in {path}")
    if not path.is_file():
        raise SicError(f"data.annotations: there is no file {path}")
    if outlines == "panoptic":  # the maps are half of it, and their changes are to be seen
        raise SicError(f"data.annotations: name the folder that holds {path.name} and its maps")
    return [path]


def choose(
    pools: Mapping[str, Mapping[str, Path]], settings: Data, seed: int
) -> dict[str, list[tuple[str, Path]]]:
    """Share the pictures that each split may take, by name, out as :func:`prepare` says.  Raises
    SicError for names that are not there or in two splits, or for too few pictures."""
    wanted: dict[str, Split] = {split: getattr(settings, split) for split in SPLITS}
    taken: dict[str, str] = {}  # name → the split that has it
    chosen: dict[str, list[str]] = {}

    def take(split: str, names: list[str]) -> None:
        if not names:
            raise SicError(f"data.{split}: no image is left for it; every split needs one")
        for name in names:
            if name in taken:
                raise SicError(f"data.{split}: {name} is in {taken[name]} already")
            taken[name] = split
        chosen[split] = names

    for split, entry in wanted.items():
        if isinstance(entry, list):
            take(split, _names(entry, pools[split], split))
    for split, entry in reversed(wanted.items()):
        if isinstance(entry, int):
            free = [name for name in pools[split] if name not in taken]
            if entry > len(free):
                raise SicError(f"data.{split}: {entry} images wanted, {len(free)} are at hand")
            order = np.random.default_rng(seed).permutation(len(free))
            take(split, sorted(free[i] for i in order[:entry]))
    for split, entry in wanted.items():
        if entry == "all":
            take(split, [name for name in pools[split] if name not in taken])
    return {split: [(name, pools[split][name]) for name in chosen[split]] for split in SPLITS}


def _names(entry: list[str | int], pool: Mapping[str, Path], split: str) -> list[str]:
    """Pictures by name, file name or number: YAML makes 7 of an unquoted 007."""
    numbered: dict[int, list[str]] = {}
    if any(isinstance(item, int) for item in entry):  # most lists have words only
        for name in filter(str.isdecimal, pool):
            numbered.setdefault(int(name), []).append(name)
    quote = "write names that look like numbers in quotes"
    names: list[str] = []
    for item in entry:
        if isinstance(item, int):
            found = numbered.get(item, [])
        else:
            without = Path(item).with_suffix("").as_posix()
            same_file = without in pool and pool[without].suffix == Path(item).suffix
            found = [item] if item in pool else [without] if same_file else []
        if len(found) > 1:
            raise SicError(f"data.{split}: {item} may be {' or '.join(found)}; {quote}")
        if not found:
            there = ", ".join(list(pool)[:20]) + (", …" if len(pool) > 20 else "")
            remedy = f"; {quote}" if isinstance(item, int) else ""
            raise SicError(f"data.{split}: there is no image {item}; there are {there}{remedy}")
        names += found
    return names


def _inspect(pictures: Mapping[str, Path], base: Path) -> Iterable[ImageRecord]:
    """Decode every picture once: a bad one shows here, not hours later."""

    def inspect(name: str, path: Path) -> ImageRecord:
        height, width = images.read(path).shape[:2]
        return ImageRecord(name, path.relative_to(base).as_posix(), width, height, sha256(path))

    with ThreadPoolExecutor() as pool:  # decoding and hashing release the interpreter's lock
        tasks = pool.map(inspect, pictures.keys(), pictures.values())
        try:
            yield from progress.bar(tasks, total=len(pictures), desc="images", unit="image")
        finally:
            pool.shutdown(cancel_futures=True)
