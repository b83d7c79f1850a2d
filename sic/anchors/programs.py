"""ffmpeg as coder of single pictures: raw samples in, a bare stream out, and back.

One thread a picture, so that times mean the same everywhere and streams never depend on the
machine's cores.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg

from sic.errors import SicError

_SIDE = 128  # of the picture to try, in pixels


@dataclass(frozen=True)
class Ffmpeg:
    """One ffmpeg program.

    Args:
        path: of the program.
        version: as it calls itself.
    """

    path: str
    version: str

    def encode(
        self, raw: bytes, samples: str, size: tuple[int, int], options: Sequence[str], stream: str
    ) -> tuple[bytes, str]:
        """Code raw samples.

        Args:
            raw: one picture or several, one after the other.
            samples: ffmpeg's name of their format (`yuv444p10le`).
            size: width and height in pixels.
            options: the encoder and its settings.
            stream: ffmpeg's name of the output's format (`vvc`).

        Returns:
            The stream, and what the encoder said.

        Raises:
            SicError: if ffmpeg fails.
        """
        # 60 pictures a second: a second picture falls into the first one's group, in VVC+M.
        source = ["-f", "rawvideo", "-pix_fmt", samples, "-s", "{}x{}".format(*size), "-r", "60"]
        return self._run([*source, "-i", "-", *options, "-threads", "1", "-f", stream, "-"], raw)

    def decode(self, stream: bytes, options: Sequence[str], samples: str) -> bytes:
        """The raw samples of all pictures in a stream.

        Args:
            stream: as :meth:`encode` returns it.
            options: its format, or its decoder.
            samples: ffmpeg's name of the format that is wanted, which must be the stream's own.

        Raises:
            SicError: if ffmpeg fails.
        """
        sink = ["-f", "rawvideo", "-pix_fmt", samples, "-"]
        return self._run(["-threads", "1", *options, "-i", "-", *sink], stream)[0]

    def prove(
        self, samples: str, options: Sequence[str], stream: str, reader: Sequence[str]
    ) -> str | None:
        """Code and decode a dark picture, to see whether this ffmpeg can.

        Args:
            samples, options, stream: as in :meth:`encode`.
            reader: as ``options`` in :meth:`decode`.

        Returns:
            What the encoder said; None if it cannot, or the samples come back as others.
        """
        bytes_a_pixel = {"rgb24": 3, "yuv420p10le": 3, "yuv444p10le": 6}[samples]
        raw = bytes(bytes_a_pixel * _SIDE**2)
        try:
            coded, said = self.encode(raw, samples, (_SIDE, _SIDE), options, stream)
            decoded = self.decode(coded, reader, samples)
        except SicError:
            return None
        return said if len(decoded) == len(raw) else None

    def _run(self, arguments: list[str], payload: bytes) -> tuple[bytes, str]:
        command = [self.path, "-hide_banner", "-nostats", *arguments]
        done = subprocess.run(command, input=payload, capture_output=True)
        log = done.stderr.decode(errors="replace")
        if done.returncode or not done.stdout:
            reason = next((li for li in log.splitlines() if "rror" in li), log[-200:]).strip()
            raise SicError(f"{self.path} failed on {' '.join(arguments)}: {reason}")
        return done.stdout, log


def ffmpegs() -> Iterator[Ffmpeg]:
    """The ffmpegs of this machine: that on the PATH, then that of the imageio-ffmpeg wheel."""
    for path in (shutil.which("ffmpeg"), _of_the_wheel()):
        if path:
            said = subprocess.run([path, "-version"], capture_output=True, text=True).stdout
            words = said.split()[2:3] or ["of unknown version"]
            yield Ffmpeg(path, words[0].partition("-")[0])


def _of_the_wheel() -> str | None:
    try:
        path: str = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:  # no binary for this machine
        return None
    return path


# ---- VTM, the reference software of VVC: 4:4:4 as in the literature ------------------------------

# No package brings it.  After building https://vcgit.hhi.fraunhofer.de/jvet/VVCSoftware_VTM its
# folder has ``bin`` with the programs and ``cfg`` with the settings; the recipe is that of
# CompressAI's ``bench vtm``, with rounded colour conversion and 10 bits in.


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
