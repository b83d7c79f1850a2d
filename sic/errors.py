"""The one error that users see: a line that names the file, key or value and the remedy."""

import sys
from collections.abc import Callable
from typing import NoReturn

#: The exit code of what somebody stopped, as shells have it for Ctrl-C.
STOPPED = 130


class SicError(Exception):
    """Wrong input or surroundings: one line, what is wrong, where, and what to do."""


class StreamError(SicError):
    """A .sic stream that cannot be read: damaged, not of these weights, or of other numbers."""


def exit_on_error(main: Callable[[], None]) -> None:
    """Run a command line's ``main``; a SicError becomes one line on stderr and exit code 1."""
    try:
        main()
    except SicError as error:
        fail(error)


def fail(error: SicError) -> NoReturn:
    """Print the one line and end the process with exit code 1."""
    sys.exit(f"sic: {error}")
