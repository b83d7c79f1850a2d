"""ffmpeg as coder of single pictures: raw samples in, a bare stream out, and back.  One thread per
picture: times mean the same everywhere, and streams never depend on the machine's cores."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess, run
from typing import TypeVar

import imageio_ffmpeg

from sic.errors import SicError

T = TypeVar("T")

_REASON = re.compile("rror|nknown|nvalid|too small|too large|out of range")
_STOPPED = (-2, -9, -15)  # exit codes of a program that a person or the system ended


class CodecError(SicError):
    """A program that could not do what it was asked; ``reason`` is its own words, in one line."""

    def __init__(self, asked: str, reason: str) -> None:
        super().__init__(f"{asked}: {reason}")
        self.reason = reason


class MissingCodec(SicError):
    """A codec that no program of this machine has: one line that says why of each."""


@dataclass(frozen=True)
class Ffmpeg:
    """One ffmpeg program, with the version that it calls itself."""

    path: str
    version: str

    def encode(
        self, raw: bytes, samples: str, size: tuple[int, int], options: Sequence[str], stream: str
    ) -> tuple[bytes, str]:
        """The stream of one picture or several, and what the encoder said; CodecError if it fails.

        ``raw`` has the pictures' samples one after the other, in the format that ffmpeg calls
        ``samples`` (`yuv444p10le`); ``size`` is width and height in pixels; the options name the
        encoder and its settings; ``stream`` is ffmpeg's name of the output's format (`vvc`).
        """
        # 60 pictures a second: a second picture falls into the first one's group, in VVC+M.
        source = ["-f", "rawvideo", "-pix_fmt", samples, "-s", "{}x{}".format(*size), "-r", "60"]
        return self._run([*source, "-i", "-", *options, "-threads", "1", "-f", stream, "-"], raw)

    def decode(self, stream: bytes, options: Sequence[str], samples: str) -> bytes:
        """The raw samples of all pictures in a stream, whose format or decoder the options name;
        ``samples`` must be the stream's own format.  Raises CodecError if ffmpeg fails."""
        sink = ["-f", "rawvideo", "-pix_fmt", samples, "-"]
        return self._run(["-threads", "1", *options, "-i", "-", *sink], stream)[0]

    def prove(
        self, samples: str, options: Sequence[str], stream: str, reader: Sequence[str]
    ) -> str:
        """Code and decode a dark picture, and give what the encoder said; the reader is what
        :meth:`decode` calls options.  Raises CodecError if this ffmpeg cannot, or gives another
        number of samples back."""
        bytes_a_pixel = {"rgb24": 3, "yuv420p10le": 3, "yuv444p10le": 6}[samples]
        raw = bytes(bytes_a_pixel * 128**2)
        coded, said = self.encode(raw, samples, (128, 128), options, stream)
        if len(self.decode(coded, reader, samples)) != len(raw):
            raise CodecError(self.path, "what it decodes has another size than what it coded")
        return said

    def _run(self, arguments: list[str], payload: bytes) -> tuple[bytes, str]:
        asked = f"{self.path} failed on {' '.join(arguments)}"
        done = _start(asked, [self.path, "-hide_banner", "-nostats", *arguments], payload)
        log = re.sub(r"\[[^]]* @ 0x[0-9a-f]+\] ", "", done.stderr.decode(errors="replace"))
        if done.returncode in _STOPPED or (done.returncode and "received signal" in log):
            raise SicError(f"{asked}: it was stopped; run the same command again")
        if done.returncode or not done.stdout:
            reason = next((li for li in log.splitlines() if _REASON.search(li)), log[-200:]).strip()
            raise CodecError(asked, reason or f"exit code {done.returncode}")
        return done.stdout, log


def _start(asked: str, command: list[str], payload: bytes = b"") -> CompletedProcess[bytes]:
    try:
        return run(command, input=payload, capture_output=True)
    except OSError as error:  # not there, of another architecture, not allowed, …
        raise CodecError(asked, error.strerror or str(error)) from None


def first(use: Callable[[Ffmpeg], T]) -> T:
    """What ``use`` makes of the first ffmpeg of this machine with which it raises no CodecError.
    If there is none, MissingCodec names each, and why it was passed over."""
    passed = []
    for path in dict.fromkeys(ffmpegs()):
        try:
            said = _start(path, [path, "-version"]).stdout.decode(errors="replace")
            found = re.match(r"ffmpeg version (\S+)", said)
            if found is None:
                raise CodecError(path, "it does not say that it is ffmpeg")
            return use(Ffmpeg(path, found[1].partition("-")[0]))
        except CodecError as error:
            passed.append(f"{path}: {error.reason}")
    raise MissingCodec("; ".join(passed) or "neither on the PATH nor in a wheel is there an ffmpeg")


def ffmpegs() -> Iterator[str]:
    """The programs to try: on the PATH, as imageio-ffmpeg finds one, and in its wheel."""
    if on_path := shutil.which("ffmpeg"):
        yield on_path
    with contextlib.suppress(RuntimeError):  # no binary for this machine
        yield imageio_ffmpeg.get_ffmpeg_exe()  # IMAGEIO_FFMPEG_EXE, where that is set
    yield from map(str, Path(imageio_ffmpeg.__file__).parent.glob("binaries/ffmpeg-*"))


CONFIGURATION = "encoder_intra_vtm.cfg"


@dataclass(frozen=True)
class Vtm:
    """VTM, the reference software of VVC, for intra coding at 4:4:4 as in the literature.

    No package brings it.  After building https://vcgit.hhi.fraunhofer.de/jvet/VVCSoftware_VTM its
    folder has ``bin`` with the programs and ``cfg`` with the settings; the recipe is that of
    CompressAI's ``bench vtm``, with rounded colour conversion and 10 bits in.
    """

    encoder: Path
    decoder: Path
    configuration: Path
    version: str

    @classmethod
    def find(cls, folder: Path) -> "Vtm":
        """VTM in its own folder, after a build.  Raises SicError if a program or the configuration
        is missing, or the encoder does not run."""
        encoder = _first(folder, ["bin/EncoderAppStatic", "bin/EncoderApp"])
        decoder = _first(folder, ["bin/DecoderAppStatic", "bin/DecoderApp"])
        configuration = _first(folder, [f"cfg/{CONFIGURATION}"])
        found = re.search(r"VTM Encoder Version (\S+)", _run([str(encoder), "--help"], check=False))
        if found is None:
            raise SicError(f"evaluate.vvc.vtm: {encoder} does not say that it is VTM's encoder")
        return cls(encoder, decoder, configuration, found[1])

    def encode(self, raw: bytes, size: tuple[int, int], depth: int, qp: int) -> bytes:
        """One picture's stream at a QP of 0 to 63, from its planes, 4:4:4 in 16-bit little-endian
        samples that use ``depth`` bits, and its width and height in pixels.  Raises CodecError if
        the encoder fails."""
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
        """The planes in a stream, as :meth:`encode` takes them.  Raises CodecError as there."""
        with tempfile.TemporaryDirectory() as name:
            source, planes = Path(name, "in.bin"), Path(name, "out.yuv")
            source.write_bytes(stream)
            _run([str(self.decoder), "-b", str(source), "-o", str(planes), "-d", str(depth)])
            return planes.read_bytes()


def _first(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    missing = f"there is no {' or '.join(names)} in {folder}"
    raise SicError(f"evaluate.vvc.vtm: {missing}; name VTM's folder after a build, or null")


def _run(command: list[str], check: bool = True) -> str:
    done = _start(f"evaluate.vvc.vtm: cannot run {command[0]}", command)
    said = (done.stdout + done.stderr).decode(errors="replace")
    if done.returncode in _STOPPED:
        raise SicError(f"{command[0]} was stopped; run the same command again")
    if check and done.returncode:
        raise CodecError(f"{' '.join(command)} failed", " ".join(said.split())[-200:])
    return said
