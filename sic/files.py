"""Writing files so that a stopped or failed run leaves nothing half-written."""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sic.errors import SicError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; rename it to ``path`` if the block succeeds.

    The temporary file is synced to disk before the rename, so that after a crash ``path`` is
    either the old file or the whole new one.

    Raises:
        SicError: if the file cannot be written (disk full, no permission), naming ``path``.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise cannot_write(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    except RuntimeError as error:
        # So torch reports a full disk, without the reason: ask the disk itself.
        if (reason := _no_room(temporary)) is None:
            raise
        raise cannot_write(path, reason) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder beside ``path``; put it in place of ``path`` if the block succeeds.

    Raises:
        SicError: if the folder cannot be written, naming ``path``.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")
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


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _no_room(file: Path) -> OSError | None:
    """Why a file that is being written takes no more bytes; None if it does."""
    try:
        with file.open("ab") as end:
            end.write(bytes(1 << 20))
            end.flush()
            os.fsync(end.fileno())
    except OSError as error:
        return error
    return None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def cannot_write(path: Path, error: OSError) -> SicError:
    """The one line for a file that cannot be written: full disk, no permission, …."""
    remedy = (
        "free some space and run the same command again"
        if error.errno in (errno.ENOSPC, errno.EDQUOT)
        else "check the folder and its permissions"
    )
    return SicError(f"cannot write {path}: {error.strerror or error}; {remedy}")
