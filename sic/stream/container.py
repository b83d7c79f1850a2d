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

from sic.errors import SicError, StreamError
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

#: Steps of y are multiples of 1/STEP_GRID, which float64 holds exactly, between these two.
STEP_GRID = 1024
MIN_STEP, MAX_STEP = 1 / 16, 16.0

#: Files beyond this are refused unread.
MAX_BYTES = 2**30

#: The header of each version, before its checksum: magic, version, kind, then (1) mode, slices, a
#: reserved byte or (2) slices, STEP_GRID times the step; height, width, platform, weights, symbols,
#: below, lengths of z and y.  A layer of step 1 has version 1, any other version 2.
_HEADERS = {1: struct.Struct("<3s5B2H8s8s8s8s2I"), 2: struct.Struct("<3s3B3H8s8s8s8s2I")}
_CHECKSUM = struct.Struct("<I")
_CHECKED = _HEADERS[1].size
HEADER_BYTES = _CHECKED + _CHECKSUM.size

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
    that of the base layer it builds on, or zeros in a base.  ``step`` is the quantisation step of
    y, a multiple of 1/``STEP_GRID``.
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
    step: float = 1.0

    @property
    def size(self) -> int:
        """Bytes of the whole record, header included."""
        return HEADER_BYTES + len(self.z) + len(self.y)

    def pack(self) -> bytes:
        """The record; a ValueError tells that the picture is larger than a stream may hold, or the
        step none that a stream has."""
        if problem := size_problem(self.height, self.width) or step_problem(self.step):
            raise ValueError(problem)
        version, how = 1, [RGB8, self.slices, 0]
        if self.step != 1:
            version, how = 2, [self.slices, int(self.step * STEP_GRID)]
        what = (MAGIC, version, self.kind, *how, self.height, self.width)
        whose = (bytes(self.platform), self.weights, self.symbols, self.below)
        header = _HEADERS[version].pack(*what, *whose, len(self.z), len(self.y))
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
    magic, version = stream[start : start + len(MAGIC)], stream[start + len(MAGIC)]
    if magic != MAGIC:
        raise StreamError(f"not a .sic stream: it begins with {magic!r} instead of {MAGIC!r}")
    if version not in _HEADERS:
        raise StreamError(
            f"the stream has version {version}, this program reads versions 1 and 2; update it, "
            "or fetch the file again if it is damaged"
        )
    fields = _HEADERS[version].unpack_from(stream, start)
    _, _, kind, *how, height, width, platform, weights, symbols, below, z_bytes, y_bytes = fields
    z_start = start + HEADER_BYTES
    end = z_start + z_bytes + y_bytes
    if end > len(stream):
        raise StreamError(
            f"the stream is cut off: {len(stream) - start} of {end - start} bytes of the layer are "
            "there; fetch the rest"
        )
    header, payload = stream[start : start + _CHECKED], stream[z_start:end]
    (checksum,) = _CHECKSUM.unpack_from(stream, start + _CHECKED)
    if checksum != zlib.crc32(payload, zlib.crc32(header)):
        raise StreamError("the stream is damaged: its checksum is wrong; fetch the file again")
    # From here on the bytes are those some writer meant.
    if problem := size_problem(height, width):
        raise StreamError(problem)
    mode, slices, reserved = how if version == 1 else (RGB8, how[0], 0)
    step = how[1] / STEP_GRID if version == 2 else 1.0
    if kind not in list(Kind) or mode != RGB8 or reserved or slices == 0:
        raise StreamError(
            f"the stream has a layer of kind {kind}, mode {mode} with {slices} slices, which "
            f"version {version} does not have; it was written by another program"
        )
    if step_problem(step) or (version == 2 and step == 1):
        raise StreamError(
            f"the stream has a layer of step {step:g}, which version {version} does not have; it "
            "was written by another program"
        )
    if (kind == Kind.BASE) != (below == NOTHING):
        raise StreamError("the stream's layer does not say right what it builds on")
    who = Platform(*platform)
    z, y = payload[:z_bytes], payload[z_bytes:]
    return Layer(Kind(kind), slices, height, width, who, weights, symbols, below, z, y, step)


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


def nearest_step(step: float) -> float:
    """The step that a stream has for this one: the nearest multiple of 1/``STEP_GRID``.  Raises
    SicError if it is none from ``MIN_STEP`` to ``MAX_STEP``."""
    if not MIN_STEP <= step <= MAX_STEP:  # NaN neither
        raise SicError(f"step {step:g} is not from {MIN_STEP:g} to {MAX_STEP:g}; choose another")
    return round(step * STEP_GRID) / STEP_GRID


def step_problem(step: float) -> str:
    """Why no stream has this step, or an empty string."""
    if MIN_STEP <= step <= MAX_STEP and (step * STEP_GRID).is_integer():
        return ""
    return f"step {step:g} is no multiple of 1/{STEP_GRID} from {MIN_STEP:g} to {MAX_STEP:g}"


def _check_pair(base: Layer, enhancement: Layer) -> None:
    if base.kind != Kind.BASE or enhancement.kind == Kind.BASE:
        raise StreamError(
            f"a {base.kind.label} layer stands before a {enhancement.kind.label} layer; a file is "
            "one base layer, then at most one enhancement of it"
        )
    wanted = (enhancement.below, enhancement.height, enhancement.width)
    if wanted != (base.symbols, base.height, base.width):
        raise StreamError("the enhancement belongs to another base layer; fetch the one of this")
