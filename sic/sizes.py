"""Numbers of a picture that need no pixels, and none of the libraries that pixels need."""

#: Pictures beyond this are refused by writer and reader of streams (8K UHD, 7680×4320, fits).
MAX_PIXELS = 2**25
#: Largest side: a stream's header has 16 bits for it.
MAX_SIDE = 2**16 - 1


def bpp(size: int, height: int, width: int) -> float:
    """Bits per pixel of a file of ``size`` bytes with a picture of height × width pixels."""
    return 8 * size / (height * width)


def size_problem(height: int, width: int) -> str:
    """Why a picture of this size cannot be coded, or an empty string."""
    if height == 0 or width == 0:
        return f"a picture of {height}×{width} pixels has none"
    if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
        return (
            f"a picture of {height}×{width} pixels is beyond the limit of {MAX_PIXELS} "
            f"(and {MAX_SIDE} a side); cut or scale it"
        )
    return ""
