"""What this process does with memory that tensors leave."""

import ctypes
import platform
from functools import cache

#: Names of two settings in glibc's malloc.h, and the largest value that it takes for the second.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 32 << 20


@cache
def keep() -> None:
    """Let this process keep the memory of freed maps of up to 32 MiB for the next ones.  By itself
    glibc hands it back each time, and zeroed pages that it asks for anew take a tenth of the time
    of a small codec; with the setting that Dask gives to its workers, half.  Other C libraries are
    left as they are."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 30)
