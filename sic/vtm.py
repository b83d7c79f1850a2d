"""VTM, the reference software of VVC, where the user has it: 4:4:4 as in the literature.

No package brings it.  After building https://vcgit.hhi.fraunhofer.de/jvet/VVCSoftware_VTM its
folder has ``bin`` with the programs and ``cfg`` with the settings; the recipe is that of
CompressAI's ``bench vtm``, with rounded colour conversion and 10 bits in.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sic.errors import SicError

CONFIGURATION = "encoder_intra_vtm.cfg"


@dataclass(frozen=True)
class Vtm:
    """VTM's programs and its settings for intra coding.

    Args:
        encoder, decoder: the programs.
        configuration: ``encoder_intra_vtm.cfg``.
        version: as the encoder calls itself.
    """

    encoder: Path
    decoder: Path
    configuration: Path
    version: str

    @classmethod
    def find(cls, folder: Path) -> "Vtm":
        """VTM in its own folder, after a build.

        Raises:
            SicError: if a program or the configuration is missing, or the encoder does not run.
        """
        encoder = _first(folder, ["bin/EncoderAppStatic", "bin/EncoderApp"])
        decoder = _first(folder, ["bin/DecoderAppStatic", "bin/DecoderApp"])
        configuration = _first(folder, [f"cfg/{CONFIGURATION}"])
        found = re.search(r"VTM Encoder Version (\S+)", _run([str(encoder), "--help"], check=False))
        if found is None:
            raise SicError(f"evaluate.vvc.vtm: {encoder} does not say that it is VTM's encoder")
        return cls(encoder, decoder, configuration, found[1])

    def encode(self, raw: bytes, size: tuple[int, int], depth: int, qp: int) -> bytes:
        """One picture's stream.

        Args:
            raw: planes 4:4:4 in 16-bit little-endian samples.
            size: width and height in pixels.
            depth: bits of a sample.
            qp: quantisation parameter, 0 to 63.

        Raises:
            SicError: if the encoder fails.
        """
        with tempfile.TemporaryDirectory() as name:
            source, stream = Path(name, "in.yuv"), Path(name, "out.bin")
            source.write_bytes(raw)
            files = ["-i", str(source), "-b", str(stream), "-o", os.devnull]
            shape = ["-wdt", str(size[0]), "-hgt", str(size[1]), "-fr", "1", "-f", "1"]
            shape += ["--InputChromaFormat=444", f"--InputBitDepth={depth}"]
            how = ["-c", str(self.configuration), "-q", str(qp), "--ConformanceWindowMode=1"]
            _run([str(self.encoder), *how, *files, *shape])
            return stream.read_bytes()

    def decode(self, stream: bytes, depth: int) -> bytes:
        """The planes in a stream, as :meth:`encode` takes them.

        Raises:
            SicError: if the decoder fails.
        """
        with tempfile.TemporaryDirectory() as name:
            source, planes = Path(name, "in.bin"), Path(name, "out.yuv")
            source.write_bytes(stream)
            _run([str(self.decoder), "-b", str(source), "-o", str(planes), "-d", str(depth)])
            return planes.read_bytes()


def _first(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise SicError(
        f"evaluate.vvc.vtm: there is no {' or '.join(names)} in {folder}; name VTM's folder after "
        "a build, or null"
    )


def _run(command: list[str], check: bool = True) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise SicError(f"evaluate.vvc.vtm: cannot run {command[0]}: {error.strerror}") from None
    said = done.stdout + done.stderr
    if check and done.returncode:
        raise SicError(f"{' '.join(command)} failed: {' '.join(said.split())[-200:]}")
    return said
