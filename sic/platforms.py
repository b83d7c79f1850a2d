"""The machine that wrote a stream, in 8 bytes, so that a reader can name it beside his own."""

import platform
import re
import struct
import sys
from dataclasses import astuple, dataclass
from typing import Self

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
        """From the 8 bytes; any bytes are a platform."""
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
