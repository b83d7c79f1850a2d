"""Downloads that survive a broken connection and are what they claim to be."""

import http.client
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm.auto import tqdm

from sic.errors import SicError
from sic.files import cannot_write, sha256

_TIMEOUT = 30  # seconds without a byte
_TRIES = 5  # in a row without a new byte
_CHUNK = 1 << 20  # bytes


def fetch(url: str, path: Path, checksum: str, pause: float = 1.0) -> Path:
    """Download a file, going on with what an earlier try left, and check it.

    The bytes gather in ``path`` + ``.part``; a connection that breaks is taken up again where it
    broke.  Only a file with the right checksum gets the name ``path``; wrong bytes are removed.
    Several processes may ask for the same file: one downloads, the others wait.

    Args:
        url: http or https address.
        path: where the file goes; if it is there it is taken as it is.
        checksum: hexadecimal SHA-256.
        pause: seconds before the first repetition; doubled for each further one.

    Raises:
        SicError: the server does not answer or has no such file, other bytes than announced by
            the checksum, no space.
    """
    path = Path(path)
    if not url.startswith(("http://", "https://")):
        raise SicError(f"{url} is not an http or https address")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                part = path.with_name(f"{path.name}.part")
                _gather(url, part, pause)
                _check(part, checksum, url)
                part.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    return path


def _gather(url: str, part: Path, pause: float) -> None:
    """Append to ``part`` until the server has no more."""
    tries = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _append(url, part)
            return
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise SicError(f"{url}: {error.code} {error.reason}; check the address") from None
            problem: Any = f"{error.code} {error.reason}"
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            ConnectionError,
            TimeoutError,
            ssl.SSLError,
        ) as e:
            problem = getattr(e, "reason", e)
        there = part.stat().st_size if part.exists() else 0
        tries = 0 if there > before else tries + 1
        if tries == _TRIES:
            raise SicError(
                f"{url}: {problem}; {there:,} bytes are there, run the same command again to go on"
            )
        time.sleep(pause * 2**tries)


def _append(url: str, part: Path) -> None:
    """One connection: ask for the bytes after those in ``part`` and append what comes."""
    there = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={there}-"} if there else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and there:  # nothing after the bytes that are there: all of it, or not
            return
        raise
    with response:
        if response.status != 206:  # the server begins anew
            there = 0
        length = response.headers.get("Content-Length")
        total = there + int(length) if length else None
        with (
            part.open("r+b" if there else "wb") as file,
            tqdm(total=total, initial=there, unit="B", unit_scale=True, desc=part.stem) as bar,
        ):
            file.seek(there)
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
            there = file.tell()
    if total is not None and there < total:
        raise ConnectionError(f"the connection broke after {there:,} of {total:,} bytes")


def _check(part: Path, checksum: str, url: str) -> None:
    found = sha256(part)
    if found != checksum:
        part.unlink()
        raise SicError(
            f"{url} gave other bytes than expected (sha256 {found}, not {checksum}); they were"
            " removed: try again, or another mirror"
        )
