"""Checkpoints of an unfinished run: the last two, each with its checksum in its name.

A file is written under a temporary name and renamed, so a killed process leaves no half of one.
The checksum is for what a file system may still do to it: a damaged checkpoint is passed over, and
the one before it is used.
"""

import hashlib
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from sic.files import write_bytes

KEPT = 2


def write(folder: Path, step: int, content: Mapping[str, Any]) -> None:
    """Write ``STEP-SHA256.pt``, whole or not at all, and remove all but the last two.

    Args:
        folder: of this run's checkpoints.
        step: optimiser steps done.
        content: what ``torch.load(weights_only=True)`` reads again.

    Raises:
        SicError: if it cannot be written; the checkpoints before it stay.
    """
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    data = buffer.getvalue()
    write_bytes(folder / f"{step:09d}-{hashlib.sha256(data).hexdigest()[:16]}.pt", data)
    for old in _newest_first(folder)[KEPT:]:
        old.unlink()


def newest(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The content of the newest checkpoint that is whole; None if there is none.

    A damaged one is named on stderr and removed.
    """
    for path in _newest_first(folder):
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest()[:16] == path.stem.partition("-")[2]:
            content: dict[str, Any] = torch.load(
                io.BytesIO(data), weights_only=True, map_location=device
            )
            return content
        tqdm.write(f"{path} is damaged (wrong checksum); taking the one before", file=sys.stderr)
        path.unlink()
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.pt"), reverse=True)
