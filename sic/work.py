"""Sharing work among threads and processes: each piece done once, none lost when a process dies.

A process claims a piece of work by an operating-system lock, which vanishes with the process, makes
its result file and renames it into place.  A later start, with any number of processes, goes on.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import FileLock, Timeout

from sic import progress
from sic.errors import SicError
from sic.files import cannot_write, write_bytes

if TYPE_CHECKING:
    import torch

K = TypeVar("K", bound=Hashable)

WORK = Path("checkpoints")
ARTIFACTS = Path("artifacts")
WEIGHTS = Path("data/weights")
SMALL = 32  # channels N; a codec with fewer gains nothing from a second thread (docs/speed.md)


@dataclass(frozen=True)
class Worker:
    """This process among its like: its number, how many there are, its number on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> "Worker":
        """This process as torchrun or srun started it; alone otherwise, or in a shell of SLURM.
        Raises SicError if the environment's numbers are not whole, or do not fit each other."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        if not {"RANK", "WORLD_SIZE"} & os.environ.keys():
            # SLURM_NTASKS may be what the whole job was granted.
            sizes = [n for n in ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") if n in os.environ]
            if not sizes or not _in_slurm_step():
                return cls()
            names = ("SLURM_PROCID", sizes[0], "SLURM_LOCALID")
        values = [os.environ.get(name, "") for name in names]
        try:
            # Whoever sets the variables by hand may leave out the place on this machine.
            rank, size, local_rank = int(values[0]), int(values[1]), int(values[2] or 0)
        except ValueError:
            rank, size, local_rank = -1, 0, 0
        if not 0 <= rank < size or local_rank < 0:
            pairs = zip(names, values, strict=True)
            told = ", ".join(f"{name}={value}" if value else f"no {name}" for name, value in pairs)
            raise SicError(
                f"the environment has {told}, which do not fit; unset them or use torchrun"
            )
        return cls(rank, size, local_rank)


def checkpoint(codec: str, artifacts: Path = ARTIFACTS) -> Path:
    """Where the study leaves a trained codec: `sa_icm/q3`, `lic/q1`, `fusion/m5-q2`, …."""
    return artifacts / codec / "codec.safetensors"


def device(
    name: str, asked_by: str = "machine.device", worker: Worker | None = None
) -> "torch.device":
    """The device that a setting or an option names: `cpu`, `cuda`, or `auto`, a GPU where there is
    one.  Where a worker is given, each process of a machine takes a GPU of its own.  Raises
    SicError if it names a GPU and there is none."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise SicError(f"{asked_by}: PyTorch finds no GPU here; set it to auto or cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if worker is None:
        return torch.device("cuda")
    return torch.device("cuda", worker.local_rank % torch.cuda.device_count())


def _in_slurm_step() -> bool:
    """Whether srun started this process as one of several; a shell that it opened is alone."""
    step = os.environ.get("SLURM_STEP_ID", "")
    # The numbers above are those of a job's own script and of its interactive shell.
    return step.isdecimal() and int(step) < 0xFFFFFFF0 and "SLURM_PTY_PORT" not in os.environ


@contextmanager
def threads(channels: int) -> Iterator[None]:
    """Let a codec of N channels have as many threads of PyTorch as it gains from:
    one if N < SMALL, for its operations are too short to be shared out, and on a busy machine each
    waits for the slower thread.  A person's own OMP_NUM_THREADS holds."""
    import torch  # whoever only shares work among processes does without

    before = torch.get_num_threads()
    if channels < SMALL and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def complete(
    results: Mapping[K, Path],
    make: Callable[[K], bytes],
    worker: Worker,
    unit: str,
    sizes: Mapping[K, int] | None = None,
    processes: int = 1,
) -> bool:
    """Make every missing result, a file for each piece of work, sharing with the other workers.

    Each worker starts with its own share, every ``size``-th piece, and then takes what others have
    not begun.  Rank 0 comes back when everything is there, even if other workers died, and gets
    True: it is to put the results together.  The others get False when nothing is left to begin.
    A worker with more than one process has pieces made side by side, each on one thread of PyTorch;
    ``make`` and the pieces must then be what pickle can hand over.  The progress bar counts units,
    of which a piece has 1, or as many as ``sizes`` says."""
    pieces = list(results)
    order = pieces[worker.rank :: worker.size]
    order += [piece for i, piece in enumerate(pieces) if i % worker.size != worker.rank]
    size = sizes or dict.fromkeys(pieces, 1)
    missing = [piece for piece in order if not results[piece].exists()]
    total = sum(size.values())
    done = total - sum(size[piece] for piece in missing)
    with (
        progress.bar(total=total, initial=done, desc=f"{unit}s", unit=unit) as bar,
        _side_by_side(min(processes, len(missing))) as attempt_all,
    ):
        while missing:
            left = []
            for piece, there in attempt_all(missing, results, make):
                if there:
                    bar.update(size[piece])
                else:
                    left.append(piece)
            missing = left
            if worker.rank:
                return False
            if missing:
                time.sleep(0.5)  # others are at work on these; their locks end with them
    return worker.rank == 0


def ensure(path: Path, make: Callable[[], bytes]) -> None:
    """Make one result if it is missing; if another process is making it, wait for that."""
    while not _claim_and_make(path, None, lambda _: make()):
        time.sleep(0.1)


@contextmanager
def _side_by_side(processes: int) -> Iterator[Callable[..., Iterator[tuple[Any, bool]]]]:
    """What tries to make pieces, given with their results and what makes one; it gives each piece,
    and whether its result is there, as they end."""
    if processes < 2:
        yield lambda pieces, results, make: (
            (piece, _claim_and_make(results[piece], piece, make)) for piece in pieces
        )
        return
    # A fork would take over the locks of PyTorch's threads, which the child does not have.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, spawn, _begin)

    def attempt_all(
        pieces: list[K], results: Mapping[K, Path], make: Callable[[K], bytes]
    ) -> Iterator[tuple[K, bool]]:
        tasks = {pool.submit(_attempt, results[piece], piece, make): piece for piece in pieces}
        for task in as_completed(tasks):
            yield tasks[task], task.result()

    try:
        yield attempt_all
        pool.shutdown()
    except BrokenProcessPool:
        raise SicError(
            "a process at work was killed, or ran out of memory; run the same command again to "
            "go on"
        ) from None
    finally:
        # After an error nobody waits for the pieces that are being made.
        pool.shutdown(wait=False, cancel_futures=True)


def _begin() -> None:
    """Make a process ready that makes pieces: one thread, and no life of its own."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the process that started it
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _attempt(path: Path, piece: K, make: Callable[[K], bytes]) -> bool:
    try:
        return _claim_and_make(path, piece, make)
    except SicError as error:
        raise SicError(str(error)) from None  # errors of a kind of their own may not be pickled


def _claim_and_make(path: Path, piece: K, make: Callable[[K], bytes]) -> bool:
    """Whether the result is there now; false if another process is making it."""
    if path.exists():
        return True
    claim = path.with_name(f"{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(claim, timeout=0).acquire()
    except Timeout:
        return path.exists()
    except OSError as error:
        raise cannot_write(claim, error) from error
    with held:
        if not path.exists():
            write_bytes(path, make(piece))
        # Safe: whoever still opens this claim finds the result when it gets the lock.
        claim.unlink(missing_ok=True)
    return True
