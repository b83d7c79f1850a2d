"""Files that are whole or not there: written under a temporary name, or fetched and checked."""

import errno
import hashlib
import http.client
import os
import pickle
import shutil
import ssl
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from sic import progress
from sic.errors import SicError

if TYPE_CHECKING:  # torch takes seconds to import, and other files do not need it
    from torch import Tensor

# What a connection that breaks, or was never there, raises.
_BROKEN = (
    *(urllib.error.URLError, http.client.HTTPException),
    *(ConnectionError, TimeoutError, ssl.SSLError),
)
#: Bytes of a name, of the 255 that file systems allow, beside the 15 that `replacing` adds.
_ROOM = 240


def short_name(name: str) -> str:
    """A file's name as it stands in that of a temporary one: the name itself, or, if it leaves no
    room for what is added, its beginning and a digest."""
    if len(raw := os.fsencode(name)) <= _ROOM:
        return name
    return f"{name[:40]}~{hashlib.sha256(raw).hexdigest()[:16]}"  # a character has up to 4 bytes


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``, synced to disk and renamed to ``path`` if the block
    succeeds: after a crash ``path`` is either the old file or the whole new one.  Raises SicError,
    naming ``path``, if the file cannot be written (disk full, no permission)."""
    path = Path(path)
    prefix = f".{short_name(path.name)}."
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=".part", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise cannot_write(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.umask(mask := os.umask(0))  # the only way to read it
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder beside ``path``; put it in place of ``path`` if the block succeeds.
    Raises SicError, naming ``path``, if it cannot be written."""
    path = Path(path)
    temporary = path.with_name(f".{short_name(path.name)}.part")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file or nothing.  Raises SicError as :func:`replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write a whole UTF-8 text file or nothing.  Raises SicError as :func:`replacing`."""
    write_bytes(path, content.encode())


def enter_study() -> None:
    """Make the study's folder the current one: the nearest above with a params.yaml, if any.
    JupyterLab, VS Code and nbconvert start a notebook in its own folder."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").is_file():
            os.chdir(folder)
            return


def read_tensors(path: Path) -> dict[str, "Tensor"]:
    """The state dict in a checkpoint that others published, on the CPU; one that lies under
    ``state_dict``, as training loops leave it, is taken out.  Only tensors are read: raises
    SicError if the file is missing, cut off, or holds anything else, such as a pickle with code in
    it."""
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise SicError(
            f"cannot read {path}: {error.strerror}; give the path of a checkpoint"
        ) from None
    except pickle.UnpicklingError as error:
        problem = (
            "holds NumPy values, not tensors alone; load it where you trust it and save its state "
            "dict: torch.save(checkpoint['state_dict'], …)"
            if "GLOBAL numpy" in str(error)
            else "is refused: it is not a plain file of weights, loading it could run code; ask "
            "its authors for a state dict"
        )
        raise SicError(f"{path} {problem}") from None
    except Exception as error:  # on bytes that are no checkpoint torch.load raises anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        problem = f"is not a whole checkpoint of tensors ({reason})"
        raise SicError(f"{path} {problem}; download it again") from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in content.items()
    ):
        raise SicError(f"{path} holds no state dict: it must give tensors by name")
    return content


def files_below(folder: Path, suffixes: Container[str]) -> list[Path]:
    """A folder's files with these suffixes, in lower case, at any depth, sorted.  Hidden files and
    folders (``.ipynb_checkpoints``, macOS's ``._photo.jpg``) are passed over; links to folders are
    not followed, so that none can lead round in a circle.  Raises SicError if a folder cannot be
    looked into, whose files would be missed."""

    def refuse(error: OSError) -> None:
        raise SicError(f"cannot read {error.filename}: {error.strerror}; check its permissions")

    found: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files = (Path(place, name) for name in names if not name.startswith("."))
        found += [path for path in files if path.suffix.lower() in suffixes]
    return sorted(found)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def need_weights(path: Path) -> None:
    """Raise SicError, before the seconds that PyTorch takes to be imported, if a codec's file is
    not there, saying where such files come from."""
    if not path.is_file():
        what = f"{path} is a folder" if path.is_dir() else f"no checkpoint {path}"
        raise SicError(
            f"{what}; name a .safetensors file: data/weights has those that come with the study, "
            "artifacts those that `python3 study.py` trains, and `python -m sic import-weights` "
            "makes them of published weights"
        )


def need_shipped(path: Path, checksum: str) -> None:
    """Raise SicError unless a file that comes with the study is there with its SHA-256."""
    if not path.is_file():
        problem = "is not there"
    elif sha256(path) != checksum:
        problem = "was changed (other SHA-256)"
    else:
        return
    remedy = f"bring it back with `git checkout {path}`, or name a file of your own"
    raise SicError(f"{path}, which comes with the study, {problem}; {remedy}")


def cannot_write(path: Path, error: OSError) -> SicError:
    """The one line for a file that cannot be written: full disk, no permission, …."""
    remedy = "check the folder and its permissions"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "free some space and run the same command again"
    elif error.errno == errno.ENAMETOOLONG:
        remedy = "choose a shorter name"
    return SicError(f"cannot write {path}: {error.strerror or error}; {remedy}")


def fetch(url: str, path: Path, checksum: str, pause: float = 1.0) -> Path:
    """Download a file, going on with what an earlier try left, and check it.

    The bytes gather in ``path`` + ``.part``; a connection that breaks is taken up again where it
    broke, after a pause in seconds that doubles.  Only a file with the right checksum (hexadecimal
    SHA-256) gets the name ``path``; wrong bytes are removed, and a file that is there is taken as
    it is.  Several processes may ask for the same file: one downloads, the others wait.  Raises
    SicError if the server does not answer or lacks the file, for other bytes, and without space.
    """
    path = Path(path)
    if not url.startswith(("http://", "https://")):
        raise SicError(f"{url} is not an http or https address")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{short_name(path.name)}.lock")):
            if not path.exists():
                part = path.with_name(f"{short_name(path.name)}.part")
                _gather(url, part, pause)
                if (found := sha256(part)) != checksum:
                    part.unlink()
                    raise SicError(
                        f"{url} gave other bytes than expected (sha256 {found}, not {checksum}); "
                        "they were removed: try again, or another mirror"
                    )
                part.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    return path


def _gather(url: str, part: Path, pause: float) -> None:
    """Append to ``part`` until the server has no more, or five tries in a row bring no byte."""
    tries, first = 0, True
    while True:
        before = _size(part)
        try:
            _append(url, part)
            return
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise SicError(f"{url}: {error.code} {error.reason}; check the address") from None
            problem: Any = f"{error.code} {error.reason}"
        except _BROKEN as e:
            problem = getattr(e, "reason", e)
            # No network, no such name, refused: what has not worked once does not come by waiting.
            unreachable = isinstance(e, urllib.error.URLError)
            if first and unreachable and not isinstance(problem, TimeoutError):
                remedy = "check the network and the address, then run the same command again"
                raise SicError(f"cannot reach {url}: {problem}; {remedy}") from None
        first = False
        there = _size(part)
        tries = 0 if there > before else tries + 1
        if tries == 5:
            remedy = "run the same command again to go on"
            raise SicError(f"{url}: {problem}; {there:,} bytes are there, {remedy}")
        time.sleep(pause * 2**tries)


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _append(url: str, part: Path) -> None:
    """One connection: ask for the bytes after those in ``part`` and append what comes."""
    there = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={there}-"} if there else {})
    try:
        response = urllib.request.urlopen(request, timeout=30)  # seconds without a byte
    except urllib.error.HTTPError as error:
        if error.code == 416 and there:  # nothing after the bytes that are there: all of it, or not
            return
        raise
    with response:
        if response.status != 206:  # the server begins anew
            there = 0
        length = response.headers.get("Content-Length")
        total = there + int(length) if length else None
        _announce(url, part, total, there)
        count = {"total": total, "initial": there, "unit": "B", "unit_scale": True}
        with (
            part.open("r+b" if there else "wb") as file,
            progress.bar(**count, desc=part.stem) as bar,
        ):
            file.seek(there)
            while chunk := response.read(1 << 20):
                file.write(chunk)
                bar.update(len(chunk))
            there = file.tell()
    if total is not None and there < total:
        raise ConnectionError(f"the connection broke after {there:,} of {total:,} bytes")


def _announce(url: str, part: Path, total: int | None, there: int) -> None:
    """Say before the first byte how much comes and where it goes; stop if it has no room there."""
    free = shutil.disk_usage(part.parent).free
    size = "of unknown size" if total is None else f"{total / 1e6:,.1f} MB"
    known = f", {there / 1e6:,.1f} MB of them there" if there else ""
    room = f"{free / 1e6:,.0f} MB free"
    if total and total - there > free:
        raise SicError(f"{url}: {size}{known}, and {part.parent} has {room}; free some space")
    progress.say(f"downloading {url}: {size}{known}, to {part.parent} ({room})")
