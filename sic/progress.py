"""Progress that can be seen: a bar in a terminal or in JupyterLab, a line now and then in a log.

A notebook that runs as a stage has no screen of its own: :mod:`sic.report.notebook` lends it its
stderr, by the number of the open file in the environment.
"""

import functools
import os
import sys
from typing import Any, TextIO

from tqdm import tqdm

#: Environment variable with the number of the open file that bars are drawn on.
SCREEN = "SIC_SCREEN"
_PAUSE = 30.0  # seconds between two lines of a log


class _Log:
    """A file without a cursor: each state of a bar becomes a line of its own."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.flush = file.flush

    def write(self, text: str) -> None:
        """Write the text without the marks that move a cursor, if anything is left."""
        if line := text.replace("\x1b[A", "").strip():
            self._file.write(f"{line}\n")


def bar(iterable: Any = None, **options: Any) -> Any:
    """A progress bar with rate and time left, where it can be seen.  Without an iterable the caller
    counts with ``update``; the options (``total``, ``desc``, ``unit`` …) are those of ``tqdm``."""
    if "ipykernel.zmqshell" in sys.modules and SCREEN not in os.environ:
        from tqdm.auto import tqdm as widget

        return widget(iterable, **options)
    return tqdm(iterable, **look(), **options)


def look() -> dict[str, Any]:
    """The options of ``tqdm`` for this process: a bar in a terminal, lines in a log."""
    screen = _lent() or sys.stderr
    try:
        columns = os.get_terminal_size(screen.fileno()).columns  # none: nobody looks
    except (OSError, ValueError):
        columns = 0
    if columns:
        return {"file": screen, "dynamic_ncols": True}
    # Without columns there are the numbers of a bar and no bar.
    return {"file": _Log(screen), "ncols": 0, "mininterval": _PAUSE, "maxinterval": _PAUSE}


def say(text: str) -> None:
    """Print a line where bars are drawn, without breaking one."""
    tqdm.write(text, file=_lent() or sys.stderr)


@functools.cache
def _lent() -> TextIO | None:
    try:
        return open(int(os.environ[SCREEN]), "w", encoding="utf-8", closefd=False)
    except (KeyError, OSError):  # none was lent, or it was lent to the process before
        return None
