"""The bytes of a .sic file: one record a layer, the base first.  Specified in docs/format.md.

Nothing here knows a network; reading allocates no more than the file's own size.
"""

import platform
import re
import struct
import sys
import zlib
from dataclasses import astuple, dataclass
from enum import IntEnum
from typing import NamedTuple, Self

from sic.errors import StreamError
from sic.sizes import bpp, size_problem

# ---- the machine that wrote a stream -------------------------------------------------------------

# In 8 bytes, so that a reader can name it beside their own.


_BYTES = struct.Struct("<8B")
_SYSTEMS = ("other", "Linux", "Darwin", "Windows")
_MACHINES = ("other", "x86_64", "aarch64")
_CAPABILITIES = ("other", "DEFAULT", "AVX2", "AVX512", "SVE256", "VSX", "Z VECTOR")
_ALIASES = {"AMD64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True)
class Platform:
    """What floating-point results can depend on; a value unknown here reads "other".

    Args:
        system, machine, capability: places in ``_SYSTEMS``, ``_MACHINES``, ``_CAPABILITIES``
            (capability: the vector instructions PyTorch uses).
        threads: of PyTorch, at most 255.
        torch_major, torch_minor, torch_micro: PyTorch's version.
        python_minor: of Python 3.
    """

    system: int
    machine: int
    capability: int
    threads: int
    torch_major: int
    torch_minor: int
    torch_micro: int
    python_minor: int

    @classmethod
    def here(cls) -> Self:
        """This process."""
        import torch  # `info` reads streams without it

        machine = platform.machine()
        release = re.match(r"(\d+)\.(\d+)\.(\d+)", torch.__version__)
        major, minor, micro = map(int, release.groups()) if release else (0, 0, 0)
        return cls(
            _place(_SYSTEMS, platform.system()),
            _place(_MACHINES, _ALIASES.get(machine, machine)),
            _place(_CAPABILITIES, torch.backends.cpu.get_cpu_capability()),
            min(torch.get_num_threads(), 255),
            major,
            minor,
            micro,
            sys.version_info.minor,
        )

    def pack(self) -> bytes:
        """The 8 bytes."""
        return _BYTES.pack(*astuple(self))

    @classmethod
    def unpack(cls, content: bytes) -> Self:
        """Read the 8 bytes; any bytes are a platform."""
        return cls(*_BYTES.unpack(content))

    def __str__(self) -> str:
        names = [
            known[place] if place < len(known) else known[0]
            for known, place in (
                (_SYSTEMS, self.system),
                (_MACHINES, self.machine),
                (_CAPABILITIES, self.capability),
            )
        ]
        return (
            f"{' '.join(names)}, {self.threads} thread{'s' * (self.threads != 1)}, "
            f"torch {self.torch_major}.{self.torch_minor}.{self.torch_micro}, "
            f"Python 3.{self.python_minor}"
        )


def _place(known: tuple[str, ...], name: str) -> int:
    return known.index(name) if name in known else 0


MAGIC = b"SIC"
VERSION = 1

#: Files beyond this are refused unread.
MAX_BYTES = 2**30

#: Magic, version, kind, mode, slices, reserved, height, width, platform, weights, symbols, below,
#: lengths of z and y; the checksum follows.
_HEADER = struct.Struct("<3s5B2H8s8s8s8s2I")
_CHECKSUM = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CHECKSUM.size

#: ``below`` of a base layer, which builds on nothing.
NOTHING = bytes(8)


class Kind(IntEnum):
    """What a layer is."""

    BASE = 0
    FUSION = 1
    DIFFERENCE = 2

    @property
    def label(self) -> str:
        """The name in prose."""
        return self.name.lower()


class Mode(IntEnum):
    """What the decoded picture is."""

    RGB8 = 0


class Part(NamedTuple):
    """A row of what :func:`info` tells: one part of one layer."""

    layer: str
    part: str
    bits: int
    bpp: float


@dataclass(frozen=True)
class Layer:
    """One layer of a stream.

    Args:
        kind: base, or one of the two enhancements.
        slices: slices of y that it codes (m of a fusion layer).
        height, width: of the picture, in pixels, without padding.
        platform: the machine that wrote it.
        weights: first 8 bytes of the fingerprint of its weights.
        symbols: digest of what the decoder must reconstruct exactly (8 bytes).
        below: ``symbols`` of the base layer it builds on; zeros in a base.
        z, y: the coded parts.
    """

    kind: Kind
    slices: int
    height: int
    width: int
    platform: Platform
    weights: bytes
    symbols: bytes
    below: bytes
    z: bytes
    y: bytes
    mode: Mode = Mode.RGB8

    @property
    def size(self) -> int:
        """Bytes of the whole record, header included."""
        return HEADER_BYTES + len(self.z) + len(self.y)

    def pack(self) -> bytes:
        """The record.

        Raises:
            ValueError: if the picture is larger than a stream may hold.
        """
        problem = size_problem(self.height, self.width)
        if problem:
            raise ValueError(problem)
        header = _HEADER.pack(
            MAGIC,
            VERSION,
            self.kind,
            self.mode,
            self.slices,
            0,
            self.height,
            self.width,
            self.platform.pack(),
            self.weights,
            self.symbols,
            self.below,
            len(self.z),
            len(self.y),
        )
        payload = self.z + self.y
        return header + _CHECKSUM.pack(_checksum(header, payload)) + payload


def read_layer(stream: bytes, start: int = 0) -> Layer:
    """The record that begins at ``start``; what follows it is not looked at.

    Raises:
        StreamError: if no whole, undamaged record of this version begins there.
    """
    if len(stream) - start < HEADER_BYTES:
        raise StreamError(
            f"not a .sic stream, or one cut off: {max(len(stream) - start, 0)} bytes where a "
            f"header of {HEADER_BYTES} should stand; fetch the file again"
        )
    (
        magic,
        version,
        kind,
        mode,
        slices,
        reserved,
        height,
        width,
        platform,
        weights,
        symbols,
        below,
        z_bytes,
        y_bytes,
    ) = _HEADER.unpack_from(stream, start)
    if magic != MAGIC:
        raise StreamError(f"not a .sic stream: it begins with {magic!r} instead of {MAGIC!r}")
    if version != VERSION:
        raise StreamError(
            f"the stream has version {version}, this program reads version {VERSION}; update it, "
            "or fetch the file again if it is damaged"
        )
    z_start = start + HEADER_BYTES
    y_start, end = z_start + z_bytes, z_start + z_bytes + y_bytes
    if end > len(stream):
        raise StreamError(
            f"the stream is cut off: {len(stream) - start} of {end - start} bytes of the layer are "
            "there; fetch the rest"
        )
    header, payload = stream[start : start + _HEADER.size], stream[z_start:end]
    (checksum,) = _CHECKSUM.unpack_from(stream, start + _HEADER.size)
    if checksum != _checksum(header, payload):
        raise StreamError("the stream is damaged: its checksum is wrong; fetch the file again")
    # From here on the bytes are those some writer meant.
    problem = size_problem(height, width)
    if problem:
        raise StreamError(problem)
    if kind not in list(Kind) or mode not in list(Mode) or reserved or slices == 0:
        raise StreamError(
            f"the stream has a layer of kind {kind}, mode {mode} with {slices} slices, which "
            f"version {VERSION} does not have; it was written by another program"
        )
    if (kind == Kind.BASE) != (below == NOTHING):
        raise StreamError("the stream's layer does not say right what it builds on")
    return Layer(
        kind=Kind(kind),
        slices=slices,
        height=height,
        width=width,
        platform=Platform.unpack(platform),
        weights=weights,
        symbols=symbols,
        below=below,
        z=stream[z_start:y_start],
        y=stream[y_start:end],
        mode=Mode(mode),
    )


def read_layers(stream: bytes) -> list[Layer]:
    """All layers of a file: a base, a base and its enhancement, or an enhancement alone.

    Raises:
        StreamError: if a layer is damaged or cut off, if the layers do not belong together, or if
            something else follows them.
    """
    layers: list[Layer] = []
    start = 0
    while start < len(stream) or not layers:
        layers.append(read_layer(stream, start))
        start += layers[-1].size
        if len(layers) == 2:
            _check_pair(*layers)
        elif len(layers) > 2:
            raise StreamError("the stream has more than a base and an enhancement layer")
    return layers


def info(layers: list[Layer]) -> list[Part]:
    """Bits, and bits per pixel of the unpadded picture, of every part of every layer."""
    return [
        Part(layer.kind.label, name, 8 * size, bpp(size, layer.height, layer.width))
        for layer in layers
        for name, size in (("header", HEADER_BYTES), ("z", len(layer.z)), ("y", len(layer.y)))
    ]


def _check_pair(base: Layer, enhancement: Layer) -> None:
    if base.kind != Kind.BASE or enhancement.kind == Kind.BASE:
        raise StreamError(
            f"a {base.kind.label} layer stands before a {enhancement.kind.label} layer; a file is "
            "one base layer, then at most one enhancement of it"
        )
    if enhancement.below != base.symbols or (enhancement.height, enhancement.width) != (
        base.height,
        base.width,
    ):
        raise StreamError("the enhancement belongs to another base layer; fetch the one of this")


def _checksum(header: bytes, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(header))
