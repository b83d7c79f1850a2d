"""Pictures to .sic files and back: single files, and whole folders with a progress bar.  A layer
fetched later has a file of its own: `photo.enhancement.sic`, beside the base in `photo.sic`."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from sic import cluster, progress, work
from sic.errors import SicError, StreamError
from sic.files import cannot_write, files_below, sha256, write_bytes
from sic.sizes import bpp
from sic.stream.container import MAX_BYTES, info, read_layer, read_layers
from sic.stream.rate import Step

if TYPE_CHECKING:  # PyTorch takes seconds to import, and `info` does not need it
    from sic.stream.scalable import Reader, ScalableCodec

SUFFIX = ".sic"
SECOND = ".enhancement.sic"


@dataclass(frozen=True)
class Job:
    """One file to make from another."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Coded:
    """A picture that was coded or decoded: the file that was made, and what its stream takes."""

    target: Path
    bytes: int
    pixels: int


class Sources:
    """Which pictures the streams of a folder were made from: ``.sources``, kept beside them.

    A line is added for each stream, the picture's SHA-256, the steps asked for by layer if they are
    not 1, and the stream's path below the folder; the last line of a stream holds.  A stream's date
    tells nothing: a picture that takes the place of another may be older.  The folder need not be
    there yet.
    """

    #: In place of the checksum while a stream is being replaced.
    UNKNOWN = "-"

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / ".sources"
        self._notes: dict[str, str] = {}
        if self._path.is_file():
            # What is not understood belongs to no stream, which is then written again.
            for line in self._path.read_text(errors="replace").splitlines():
                note, _, name = line.partition("  ")
                self._notes[name] = note

    def of(self, target: Path) -> str | None:
        """What a stream was made from, as it was noted; None or UNKNOWN if that is not known."""
        return self._notes.get(self._name(target))

    def add(self, target: Path, note: str) -> None:
        """Note what a stream is made from; a SicError tells that the note cannot be written."""
        name = self._name(target)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(f"{note}  {name}\n")
        except OSError as error:
            raise cannot_write(self._path, error) from error
        self._notes[name] = note

    def _name(self, target: Path) -> str:
        # Escaped, as a name may hold line breaks, or bytes that are no text.
        name = target.relative_to(self._folder).as_posix()
        return name.encode("unicode_escape").decode()


def pair(source: Path, target: Path, suffixes: set[str], suffix: str) -> list[Job]:
    """What to make from what: one file from one file, or a folder from a folder, level by level.

    Of a folder, the files with ``suffixes`` at any depth are meant; the target is a file ending in
    ``suffix``, or a folder.  Raises SicError if there is nothing to do, two sources would become
    the same target, or one the second file of another.
    """
    if not source.is_dir():
        if not source.exists():
            raise SicError(f"cannot read {source}: there is no such file; check its path")
        if target.suffix.lower() != suffix:
            raise SicError(f"{target} should end in {suffix}; name the file to write so")
        return [Job(source, target)]
    if target.is_file():
        raise SicError(f"{source} is a folder and {target} a file; name a folder to write to")
    made: dict[Path, Path] = {}
    for path in listing(source, suffixes):
        if path.name.endswith(SECOND) and first_file(path).is_file():
            continue  # it is decoded with its base; without one it fails, as other files may
        goal = target / path.relative_to(source).with_suffix(suffix)
        if goal.name.endswith(SECOND):
            raise SicError(f"{path} would become {goal}, the name of a second layer; rename it")
        if goal in made:
            raise SicError(f"{made[goal]} and {path} would both become {goal}; rename one")
        made[goal] = path
    return [Job(path, goal) for goal, path in made.items()]


def listing(source: Path, suffixes: set[str]) -> list[Path]:
    """A file itself, or a folder's files with these suffixes, as :func:`sic.files.files_below`.
    Raises SicError if a folder holds none, or cannot be read."""
    if not source.is_dir():
        return [source]
    if found := files_below(source, suffixes):
        return found
    raise SicError(f"{source} holds no file ending in {', '.join(sorted(suffixes))}")


def encode(
    codec: "ScalableCodec",
    jobs: Sequence[Job],
    split: bool,
    sources: Sources | None = None,
    steps: tuple[Step, Step] = (1.0, 1.0),
) -> list[Coded]:
    """Code each picture into one file, or with ``split`` into one per layer; say what was written.
    The steps are those of the last layer and of the base below it, each chosen picture by picture.

    With the sources of the folder that is written, streams that a run before has made from the same
    pictures with the same weights and steps are left as they are.  Raises SicError if a picture
    cannot be read, its steps not be found, or a stream not written.
    """
    from sic import images

    # By layer, base first; a list, as earlier versions noted (step, base_step) whatever the layers.
    layers = [steps[0]] if codec.enhancement is None else [steps[1], steps[0]]
    asked = "" if all(step == 1 for step in layers) else f" {layers}"
    notes = {job: _digest(job.source) + asked for job in jobs} if sources else {}
    if sources:
        same = [job for job in jobs if sources.of(job.target) == notes[job]]
        jobs = [job for job in jobs if job not in same or not _written(codec, job, split)]
    pictures = [images.read(job.source) for job in jobs]
    try:
        encodings = codec.encode_batch(pictures, *steps)
    except SicError as error:
        raise SicError(f"{', '.join(str(job.source) for job in jobs)}: {error}") from error
    coded = []
    for job, picture, encoding in zip(jobs, pictures, encodings, strict=True):
        if sources:  # if the run ends here, the old note must not vouch for the new stream
            sources.add(job.target, sources.UNKNOWN)
        if split and encoding.enhancement:
            write_bytes(second_file(job.target), encoding.enhancement.stream)
            write_bytes(job.target, encoding.base.stream)
        else:
            write_bytes(job.target, encoding.stream)
        if sources:
            sources.add(job.target, notes[job])
        coded.append(Coded(job.target, len(encoding.stream), picture.shape[0] * picture.shape[1]))
    return coded


def decode(codec: "ScalableCodec", jobs: Sequence[Job], layer: "Reader") -> list[Coded]:
    """Decode files to PNGs; say what was written, with the bytes that were decoded for it.  For
    people an enhancement may lie in a second file beside its base.  Raises SicError if a file
    cannot be read, decoded (:class:`StreamError`) or written."""
    from sic import images

    try:
        streams = [_stream(job.source, layer) for job in jobs]
        pictures = codec.decode_batch(streams, layer)
    except StreamError as error:
        raise StreamError(f"{', '.join(str(job.source) for job in jobs)}: {error}") from error
    coded = []
    for job, stream, picture in zip(jobs, streams, pictures, strict=True):
        images.write_png(job.target, picture)
        size = len(stream) if layer == "human" else read_layer(stream).size
        coded.append(Coded(job.target, size, picture.shape[0] * picture.shape[1]))
    return coded


def describe(path: Path) -> str:
    """What is in a file: a table of its parts, and the platform that wrote them."""
    try:
        layers = read_layers(read(path))
    except StreamError as error:
        raise StreamError(f"{path}: {error}") from error
    size, first = sum(layer.size for layer in layers), layers[0]
    wide = max(10, *(len(layer.kind.label) for layer in layers)) + 2
    lines = [
        f"{path}: {first.width}×{first.height} pixels, RGB8, {size} bytes, "
        f"{bpp(size, first.height, first.width):.4f} bpp",
        f"  {'layer':<{wide}}{'part':<8}{'bytes':>9}{'bits':>10}{'bpp':>9}",
    ]
    lines += [
        f"  {part.layer:<{wide}}{part.part:<8}{part.bits // 8:>9}{part.bits:>10}{part.bpp:>9.4f}"
        for part in info(layers)
    ]
    lines += [
        f"  {layer.kind.label}: {layer.slices} slice{'s' * (layer.slices != 1)}, "
        f"step {layer.step:g}, weights {layer.weights.hex()}, written on {layer.platform}"
        for layer in layers
    ]
    return "\n".join(lines).encode(errors="backslashreplace").decode()  # a path may be no text


def read(path: Path) -> bytes:
    """A file's bytes; a SicError tells that it cannot be read, or is larger than any stream."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise StreamError(f"{path} has {size} bytes, more than any .sic file ({MAX_BYTES})")
        return path.read_bytes()
    except OSError as error:
        raise SicError(f"cannot read {path}: {error.strerror or error}") from None


@dataclass(frozen=True)
class Work:
    """:func:`encode` or :func:`decode`, by a codec that each process loads once: from its layers'
    files, to a device; with the folder whose sources count, if any."""

    do: Callable[..., list[Coded]]
    base: Path
    enhancement: Path | None
    device: str
    folder: Path | None = None
    begun: int = field(default_factory=time.time_ns)  # a worker may have served an earlier run

    def __call__(self, jobs: Sequence[Job]) -> list[Coded]:
        """Do the work on jobs that go together."""
        codec = _codec(self.base, self.enhancement, self.device, self.begun)
        more = {"sources": _sources(self.folder, self.begun)} if self.folder else {}
        return self.do(codec, jobs, **more)

    def processes(self) -> int | None:
        """How many processes of this machine may do it, as :func:`sic.work.processes` has it."""
        codec = _codec(self.base, self.enhancement, self.device, self.begun)
        return work.processes(codec.codecs[0].codec.N, work.device(self.device, "--device").type)


@lru_cache(maxsize=1)
def _codec(base: Path, enhancement: Path | None, device: str, _: int) -> "ScalableCodec":
    from sic.stream.scalable import ScalableCodec

    return ScalableCodec.load(base, enhancement, work.device(device, "--device"))


@lru_cache(maxsize=1)
def _sources(folder: Path, _: int) -> Sources:
    return Sources(folder)


def each(
    jobs: list[Job],
    do: Callable[[Sequence[Job]], list[Coded]],
    verb: str,
    batch: int,
    processes: int | None = 1,
) -> None:
    """Do all jobs, ``batch`` at a time, in so many processes of this machine or on the cluster that
    DASK_SCHEDULER_ADDRESS names (:mod:`sic.cluster`), and print a line for each; of several, with a
    progress bar called ``verb`` and the sum at the end, and failures do not stop the others.
    Raises SicError of the one job; or, of several, with how many failed, after a line for each."""
    begun, made, failed = time.perf_counter(), list[Coded](), 0
    batches = [tuple(jobs[first : first + batch]) for first in range(0, len(jobs), batch)]
    attempt = partial(_results, do)
    alone = ((some, partial(attempt, some)) for some in batches)
    many = cluster.each(batches, attempt, None, processes) if len(jobs) > 1 else alone
    with (
        progress.bar(total=len(jobs), desc=verb, unit="file", disable=len(jobs) == 1) as bar,
        closing(many) as outcomes,
    ):
        for together, outcome in outcomes:
            if isinstance(outcome, cluster.Lost):
                found: list[tuple[Coded, float] | SicError] = [
                    SicError(f"{job.source}: {outcome}") for job in together
                ]
            elif isinstance(outcome, SicError):
                raise outcome
            else:
                found = outcome()
            for result in found:
                if not isinstance(result, SicError):
                    made.append(result[0])
                    bar.write(_line(str(result[0].target), *result))
                elif len(jobs) == 1:
                    raise result
                else:
                    failed += 1
                    progress.say(f"sic: {result}")
            bar.update(len(together))
    if made and len(jobs) > 1:
        seconds = time.perf_counter() - begun
        everything = Coded(Path(), sum(one.bytes for one in made), sum(one.pixels for one in made))
        print(_line(f"{len(made)} file{'s' * (len(made) != 1)}", everything, seconds))
    if left := len(jobs) - len(made) - failed:
        print(f"{left} of {len(jobs)} left as they are: written before of the same pictures")
    if failed:
        raise SicError(f"{failed} of {len(jobs)} files failed; the others are done")


def _results(
    do: Callable[[Sequence[Job]], list[Coded]], jobs: Sequence[Job]
) -> list[tuple[Coded, float] | SicError]:
    """Do jobs together; if that fails, one by one, to do those that can be done.  With seconds."""
    begun = time.perf_counter()
    try:
        coded = do(jobs)
    except SicError as error:
        if len(jobs) == 1:
            return [error]
        return [result for job in jobs for result in _results(do, [job])]
    seconds = (time.perf_counter() - begun) / max(len(coded), 1)
    return [(one, seconds) for one in coded]


def _line(name: str, coded: Coded, seconds: float) -> str:
    line = f"{name}: {coded.bytes:,} bytes, {bpp(coded.bytes, coded.pixels, 1):.4f} bpp, "
    return (line + f"{seconds:.2f} s").encode(errors="backslashreplace").decode()  # as describe


def first_file(path: Path) -> Path:
    """Where the base of an enhancement lies that has a file of its own."""
    return path.with_name(path.name.removesuffix(SECOND) + SUFFIX)


def second_file(path: Path) -> Path:
    """Where the enhancement of ``path`` lies if it has a file of its own."""
    return path.with_name(path.name.removesuffix(SUFFIX) + SECOND)


def _stream(path: Path, layer: "Reader") -> bytes:
    if path.name.endswith(SECOND):
        base = first_file(path).name
        raise SicError(f"{path} is an enhancement alone; put its base, {base}, beside it")
    stream = read(path)
    second = second_file(path)
    if layer == "human" and second.exists() and len(read_layers(stream)) == 1:
        stream += read(second)
    return stream


def _digest(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise SicError(f"cannot read {path}: {error.strerror or error}") from None


def _written(codec: "ScalableCodec", job: Job, split: bool) -> bool:
    """Whether the target is whole, of these weights, and its second file, if any, belongs to it."""
    try:
        first = read(job.target)
        layers = read_layers(first + (read(second_file(job.target)) if split else b""))
    except SicError:
        return False
    wanted = [one.weights for one in codec.codecs]
    return [layer.weights for layer in layers] == wanted and (
        not split or layers[0].size == len(first)
    )
