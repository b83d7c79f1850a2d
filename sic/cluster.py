"""Independent pieces of work side by side on Dask: on the cores of this machine, or on a cluster.

A piece leaves a result file, written whole or not at all; a later run makes those that are missing.
``DASK_SCHEDULER_ADDRESS`` or ``machine.cluster`` in params.yaml names a cluster that runs already
(docs/scale.md).  Its workers must run this code, one thread each, and see the study's folder under
the path that it has here.
"""

import hashlib
import logging
import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from tempfile import gettempdir
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

from sic import memory, progress
from sic.errors import SicError
from sic.files import short_name, write_bytes

if TYPE_CHECKING:
    from distributed import Client, Future, LocalCluster

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
Outcomes = Generator[tuple[K, SicError | Callable[[], V]], None, None]

#: Pieces from which on processes are worth their start: two of them take some 5 seconds of
#: processor time until both have PyTorch, and a small codec takes one or two for a piece.
FEW = 8
#: Pieces that the scheduler is given at a time, and has at least, while there are more: one by one
#: each would cost it 7 ms.
_AHEAD = 500
_PATIENCE = 10.0  # seconds in which a scheduler must answer
#: What a cluster has whose workers are in these states, and nothing goes on.
_IDLE = {
    frozenset[str](): "no worker yet; waiting for the first",
    frozenset({"paused"}): "no worker with memory left; start them with --memory-limit 0",
}
#: Of local workers.  A piece is handed out when a worker is free, so that a death is blamed on no
#: other piece; no worker counts as dead as it is too busy to answer; nobody reads Dask's profile.
_LOCAL = {
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.allowed-failures": 3,
    "distributed.scheduler.worker-ttl": None,
    "distributed.comm.timeouts.tcp": "3600s",
    "distributed.worker.profile.enabled": False,
}


class Lost(SicError):
    """A piece whose workers died, one after the other."""


def complete(
    results: Mapping[K, Path],
    make: Callable[[K], bytes],
    unit: str,
    cluster: str | None = None,
    processes: int | None = None,
    sizes: Mapping[K, int] | None = None,
) -> None:
    """Make every result file that is missing; ``make`` gives a piece's content.

    Work is done as by :func:`each`.  A SicError of a piece ends it all.  A piece that cost worker
    after worker its life is named in a line, the others are made, and SicError is raised at the
    end.  The progress bar counts units, of which a piece has 1, or as many as ``sizes`` says."""
    missing = [(piece, path) for piece, path in results.items() if not path.exists()]
    size = sizes or dict.fromkeys(results, 1)
    total, left = sum(size.values()), sum(size[piece] for piece, _ in missing)
    lost: list[Path] = []
    with (
        progress.bar(total=total, initial=total - left, desc=f"{unit}s", unit=unit) as bar,
        closing(each(missing, _Writer(make), cluster, processes)) as outcomes,
    ):
        for (piece, path), outcome in outcomes:
            if isinstance(outcome, Lost):
                lost.append(path)
                progress.say(f"sic: {path}: {outcome}")
            elif isinstance(outcome, SicError):
                raise outcome
            else:
                bar.update(size[piece])
    _sweep(results.values())
    if lost:
        raise SicError(
            f"{len(lost)} of {len(missing)} pieces were not made, {lost[0]} the first, as their "
            "workers died; all others are there: run the same command again to try these"
        )


def each(
    pieces: Sequence[K],
    work: Callable[[K], V],
    cluster: str | None = None,
    processes: int | None = None,
) -> Outcomes[K, V]:
    """Do the work on every piece; give each, as they end, with its SicError, or with a function
    that fetches what came of it, which may lie on a worker.

    It is done on the cluster that ``DASK_SCHEDULER_ADDRESS`` or ``cluster`` names; without one, in
    as many local processes as given (None: one a core), each on one thread, or, where there are
    fewer than :data:`FEW` pieces, in this process.  Work and pieces are what pickle can hand over.
    Any other error of a piece is raised.  Raises SicError, too, if the cluster cannot be reached or
    is lost; what was not begun then is left."""
    address = os.environ.get("DASK_SCHEDULER_ADDRESS") or cluster
    processes = processes or cores()
    if pieces and address:
        with _reached(address) as client, _watched(client, address):
            yield from _spread(client, address, pieces, work)
    elif len(pieces) < FEW or processes < 2:
        yield from ((piece, _attempt(work, piece)) for piece in pieces)
    else:
        with _started(min(processes, len(pieces))) as client:
            yield from _spread(client, "of this machine", pieces, work)


def cores() -> int:
    """The processors that this process may use."""
    from dask.system import CPU_COUNT

    return int(CPU_COUNT)


def dask_setup(_: Any) -> None:
    """Make a local worker, whose preload this module is, leave Ctrl-C to the process that started
    it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True)
class _Writer:
    """Writes a piece's result, unless it is there: a worker may die before it tells."""

    make: Callable[[Any], bytes]

    def __call__(self, task: tuple[Any, Path]) -> None:
        piece, path = task
        if not path.exists():
            write_bytes(path, self.make(piece))


@dataclass(frozen=True)
class _Place:
    """Where and with what code and Python a run works, which a worker must share."""

    folder: str
    python: str
    code: str

    @classmethod
    def here(cls) -> "_Place":
        return cls(str(Path.cwd()), "{}.{}".format(*sys.version_info), _code())

    def enter(self) -> None:
        """Work in the same folder, in a worker.  Raises SicError if it differs otherwise."""
        own, where = _Place.here(), f"the Dask worker on {socket.gethostname()}"
        if own.python != self.python:
            problem = f"has Python {own.python}, and this run {self.python}"
        elif own.code != self.code:
            problem = f"has other code of sic, in {Path(__file__).parent}"
        elif _threads() > 1:
            raise SicError(f"{where} has {_threads()} threads; start it with --nthreads 1")
        else:
            if own.folder != self.folder:
                try:
                    os.chdir(self.folder)
                except OSError as error:
                    raise SicError(
                        f"{where} cannot enter {self.folder} ({error.strerror}); workers need the "
                        "study's folder under the same path"
                    ) from None
            return
        raise SicError(f"{where} {problem}; start it with this study's .venv/bin/dask")


@cache
def _code() -> str:
    """A digest of the package, which a worker with other code does not have."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _threads() -> int:
    from distributed import get_worker

    return int(get_worker().state.nthreads)


def _attempt(work: Callable[[K], V], piece: K) -> SicError | Callable[[], V]:
    try:
        value = work(piece)
    except SicError as error:
        return error
    return lambda: value


@dataclass(frozen=True)
class _Task:
    """Work on a piece, pickled, that is done as this is unpickled, which any worker tries: one
    without this package could not read the message otherwise, and would drop out without a word."""

    place: _Place
    packed: bytes

    def __reduce__(self) -> tuple[Any, ...]:
        return _in_worker, (self.place, self.packed)


def _in_worker(place: _Place, packed: bytes) -> Any:
    try:
        place.enter()
        memory.keep()
        work, piece = pickle.loads(packed)
        return work(piece)
    except SicError as error:
        raise SicError(str(error)) from None  # errors of a kind of their own may not be pickled


def _spread(
    client: "Client", where: str, pieces: Sequence[K], work: Callable[[K], V]
) -> Outcomes[K, V]:
    """As :func:`each`, by a cluster's workers, of which there may be none yet."""
    from distributed import as_completed

    waiting, running = iter(pieces), dict[Any, tuple[Any, K]]()
    ended = as_completed(loop=client.loop)
    here = _Place.here()
    while True:
        while len(running) < _AHEAD and (chunk := list(islice(waiting, _AHEAD))):
            tasks = [pickle.dumps(_Task(here, pickle.dumps((work, piece)))) for piece in chunk]
            futures = client.map(pickle.loads, tasks, pure=False, key="piece")
            running.update((f.key, (f, p)) for f, p in zip(futures, chunk, strict=True))
            ended.update(futures)
        if not running:
            return
        future = next(ended)
        _, piece = running.pop(future.key)
        yield piece, future.result if future.status == "finished" else _failure(future, where)


def _failure(future: "Future", where: str) -> SicError:
    """Why a piece was not done; raises what ends the run: the scheduler is gone, a worker cannot
    load the work, or the program is at fault."""
    from distributed import KilledWorker

    error = future.exception() if future.status == "error" else None
    if isinstance(error, SicError):
        return error
    if isinstance(error, KilledWorker):
        return Lost(f"its worker died {error.allowed_failures + 1} times, of want of memory?")
    if error is None:
        raise SicError(
            f"the Dask scheduler {where} is gone; start it again, and run the same command to go on"
        )
    if isinstance(error, ImportError):
        raise SicError(
            f"a worker of the Dask scheduler {where} cannot load the work ({_last_line(error)}); "
            "start it with this study's .venv/bin/dask"
        )
    raise error


def _last_line(error: BaseException) -> str:
    while error.__cause__:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


@contextmanager
def _reached(address: str) -> Iterator["Client"]:
    """A client of a scheduler that runs already."""
    from distributed import Client

    _hush()
    try:
        client = Client(address, timeout=_PATIENCE, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise SicError(
            f"cannot reach the Dask scheduler {address} ({reason}); start it, or take it out of "
            "DASK_SCHEDULER_ADDRESS and machine.cluster to work on this machine"
        ) from None
    try:
        _check(client, address)
        yield client
    finally:
        with suppress(Exception):  # a scheduler that is gone cannot be left
            client.close(timeout=2)


@contextmanager
def _watched(client: "Client", address: str) -> Iterator[None]:
    """Say in a line why no worker takes a piece, which Dask waits for without a word."""
    over = Event()

    def watch() -> None:
        said = None
        while not over.is_set():
            with suppress(Exception):  # the one who waits is told of a scheduler that is gone
                workers = client.scheduler_info()["workers"].values()
                why = _IDLE.get(frozenset(about["status"] for about in workers))
                if why and why != said:
                    progress.say(f"the cluster {address} has {why}")
                said = why
            over.wait(_PATIENCE)

    Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _check(client: "Client", address: str) -> None:
    """Raise SicError, naming the one, if the scheduler or one of the workers that are there at the
    start has another Python, or not this package."""
    found: Any = client.get_versions(packages=["sic"])
    python, installed = _about(found["client"])
    for where, about in {address: found["scheduler"], **found["workers"]}.items():
        theirs, there = _about(about)
        problem = f"has Python {theirs}, and this run {python}" if theirs != python else ""
        if problem := problem or ("has no package sic" if installed and not there else ""):
            raise SicError(f"{where} {problem}; start it with this study's .venv/bin/dask")


def _about(versions: dict[str, Any]) -> tuple[str, bool]:
    """Python's version, and whether the package is installed."""
    python = ".".join(versions["host"]["python"].split(".")[:2])
    return python, versions["packages"].get("sic") is not None


@contextmanager
def _started(processes: int) -> Iterator["Client"]:
    """A client of local processes, which end with the block, or with this process."""
    from dask import config
    from distributed import Client, LocalCluster

    _hush()
    with config.set(_LOCAL):
        try:
            local = LocalCluster(
                n_workers=processes,
                threads_per_worker=1,
                memory_limit=0,
                dashboard_address=None,
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # or a second run warns
                silence_logs=logging.CRITICAL,
                preload=[__name__],
            )
        except (OSError, RuntimeError) as error:
            raise SicError(
                f"cannot start {processes} processes on this machine ({_last_line(error)}); look "
                f"for free space in {gettempdir()}, and run the same command again"
            ) from None
        client = Client(local, set_as_default=False)
        try:
            yield client
        finally:
            _end(client, local)


def _end(client: "Client", local: "LocalCluster") -> None:
    """End the local processes.  Dask waits for ever for one that is just being started anew."""
    left = [psutil.Process(nanny.pid) for nanny in local.workers.values() if nanny.pid]
    for part in (client, local):
        with suppress(Exception):
            part.close(timeout=5)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _hush() -> None:
    """Keep Dask's log to itself; what a user needs of it is said in a line."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)


def _sweep(results: Iterable[Path]) -> None:
    """Remove what killed workers left of results that are there now."""
    there = {path.with_name(short_name(path.name)) for path in results}
    for folder in {path.parent for path in there}:
        for left in folder.glob(".*.part"):
            if folder / left.name[1:].rsplit(".", 2)[0] in there:
                left.unlink(missing_ok=True)
