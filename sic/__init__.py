"""sic: scalable image coding for humans and machines, the paper's system and its study.

The names a user needs are loaded when they are first used: `TCM`, `AdditionalCodec` and `load` of
their weights, `ScalableCodec` of both layers, and `read` and `psnr` of pictures.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sic.codec.fusion import AdditionalCodec
    from sic.codec.tcm import TCM
    from sic.codec.weights import load
    from sic.images import psnr, read
    from sic.stream.scalable import ScalableCodec

# Threads of PyTorch that wait sleep, as spinning takes the processor from whoever has work.  Read
# once, when PyTorch is imported; a person's own value holds.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__all__ = ["TCM", "AdditionalCodec", "ScalableCodec", "load", "psnr", "read"]

_HOMES = {
    "TCM": "sic.codec.tcm",
    "AdditionalCodec": "sic.codec.fusion",
    "ScalableCodec": "sic.stream.scalable",
    "load": "sic.codec.weights",
    "psnr": "sic.images",
    "read": "sic.images",
}


def __getattr__(name: str) -> Any:
    """A public name from the module that it lives in; importing PyTorch waits until then."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sic' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
