"""The bytes of a .sic file (docs/format.md): one record per layer, the base first.  Nothing here
knows a network, and reading allocates no more than the file's own size."""

import platform
import re
import struct
import sys
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from sic.errors import StreamError
from sic.sizes import bpp, size_problem

_SYSTEMS = ("other", "Linux", "Darwin", "Windows")
_MACHINES = ("other", "x86_64", "aarch64")
_CAPABILITIES = ("other", "DEFAULT", "AVX2", "AVX512", "SVE256", "VSX", "Z VECTOR")
_ALIASES = {"AMD64": "x86_64", "arm64": "aarch64"}


class Platform(NamedTuple):
    """The machine that wrote a stream: what floating-point results can depend on.

    ``bytes(platform)`` are the 8 bytes in the stream; any 8 are a platform, ``Platform(*content)``.
    ``system``, ``machine`` and ``capability`` (the vector instructions that PyTorch uses) are
    places in ``_SYSTEMS``, ``_MACHINES`` and ``_CAPABILITIES``; what is unknown here reads "other".
    ``threads`` are PyTorch's, at most 255."""

    system: int
    machine: int
    capability: int
    threads: int
    torch_major: int
    torch_minor: int
    torch_micro: int
    python_minor: int

    @classmethod
    def here(cls) -> "Platform":
        """This process."""
        import torch  # `info` reads streams without it

        def place(known: tuple[str, ...], name: str) -> int:
            return known.index(name) if name in known else 0

        release = re.match(r"(\d+)\.(\d+)\.(\d+)", torch.__version__)
        major, minor, micro = map(int, release.groups()) if release else (0, 0, 0)
        return cls(
            place(_SYSTEMS, platform.system()),
            place(_MACHINES, _ALIASES.get(platform.machine(), platform.machine())),
            place(_CAPABILITIES, torch.backends.cpu.get_cpu_capability()),
            min(torch.get_num_threads(), 255),
            major,
            minor,
            micro,
            sys.version_info.minor,
        )

    def __str__(self) -> str:
        names = " ".join(
            known[place] if place < len(known) else "other"
            for known, place in zip((_SYSTEMS, _MACHINES, _CAPABILITIES), self, strict=False)
        )
        return (
            f"{names}, {self.threads} thread{'s' * (self.threads != 1)}, "
            f"torch {self.torch_major}.{self.torch_minor}.{self.torch_micro}, "
            f"Python 3.{self.python_minor}"
        )


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

#: The one mode of a layer: what is decoded has 8 bits in each of R, G and B.
RGB8 = 0


class Kind(IntEnum):
    """What a layer is."""

    BASE = 0
    FUSION = 1
    DIFFERENCE = 2
    RESIDUAL = 3
    CONDITIONAL_RESIDUAL = 4

    @property
    def label(self) -> str:
        """The name in prose."""
        return self.name.lower().replace("_", " ")


class Part(NamedTuple):
    """A row of what :func:`info` tells: one part of one layer."""

    layer: str
    part: str
    bits: int
    bpp: float


@dataclass(frozen=True)
class Layer:
    """One layer of a stream: its coded parts z and y, and what the header says of them.

    ``slices`` is how many of y it codes (m of a fusion or residual layer); ``height`` and ``width``
    are of the picture without padding.  Each of 8 bytes, ``weights`` is the start of its weights'
    fingerprint, ``symbols`` the digest of what the decoder must reconstruct exactly, and ``below``
    that of the base layer it builds on, or zeros in a base.
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

    @property
    def size(self) -> int:
        """Bytes of the whole record, header included."""
        return HEADER_BYTES + len(self.z) + len(self.y)

    def pack(self) -> bytes:
        """The record; a ValueError tells that the picture is larger than a stream may hold."""
        if problem := size_problem(self.height, self.width):
            raise ValueError(problem)
        what = (MAGIC, VERSION, self.kind, RGB8, self.slices, 0, self.height, self.width)
        whose = (bytes(self.platform), self.weights, self.symbols, self.below)
        header = _HEADER.pack(*what, *whose, len(self.z), len(self.y))
        payload = self.z + self.y
        return header + _CHECKSUM.pack(zlib.crc32(payload, zlib.crc32(header))) + payload


def read_layer(stream: bytes, start: int = 0) -> Layer:
    """The record that begins at ``start``; what follows it is not looked at.  Raises StreamError if
    no whole, undamaged record of this version begins there."""
    if len(stream) - start < HEADER_BYTES:
        raise StreamError(
            f"not a .sic stream, or one cut off: {max(len(stream) - start, 0)} bytes where a "
            f"header of {HEADER_BYTES} should stand; fetch the file again"
        )
    fields = _HEADER.unpack_from(stream, start)
    magic, version, kind, mode, slices, reserved, height, width = fields[:8]
    platform, weights, symbols, below, z_bytes, y_bytes = fields[8:]
    if magic != MAGIC:
        raise StreamError(f"not a .sic stream: it begins with {magic!r} instead of {MAGIC!r}")
    if version != VERSION:
        raise StreamError(
            f"the stream has version {version}, this program reads version {VERSION}; update it, "
            "or fetch the file again if it is damaged"
        )
    z_start = start + HEADER_BYTES
    end = z_start + z_bytes + y_bytes
    if end > len(stream):
        raise StreamError(
            f"the stream is cut off: {len(stream) - start} of {end - start} bytes of the layer are "
            "there; fetch the rest"
        )
    header, payload = stream[start : start + _HEADER.size], stream[z_start:end]
    (checksum,) = _CHECKSUM.unpack_from(stream, start + _HEADER.size)
    if checksum != zlib.crc32(payload, zlib.crc32(header)):
        raise StreamError("the stream is damaged: its checksum is wrong; fetch the file again")
    # From here on the bytes are those some writer meant.
    if problem := size_problem(height, width):
        raise StreamError(problem)
    if kind not in list(Kind) or mode != RGB8 or reserved or slices == 0:
        raise StreamError(
            f"the stream has a layer of kind {kind}, mode {mode} with {slices} slices, which "
            f"version {VERSION} does not have; it was written by another program"
        )
    if (kind == Kind.BASE) != (below == NOTHING):
        raise StreamError("the stream's layer does not say right what it builds on")
    z, y = payload[:z_bytes], payload[z_bytes:]
    return Layer(
        Kind(kind), slices, height, width, Platform(*platform), weights, symbols, below, z, y
    )


def read_layers(stream: bytes) -> list[Layer]:
    """All layers of a file: a base, a base and its enhancement, or an enhancement alone.  Raises
    StreamError if a layer is damaged or cut off, if the layers do not belong together, or if
    something else follows them."""
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
    wanted = (enhancement.below, enhancement.height, enhancement.width)
    if wanted != (base.symbols, base.height, base.width):
        raise StreamError("the enhancement belongs to another base layer; fetch the one of this")
