"""Where work is done: the study's folders, the device, threads, and the processes that train one
codec together.  Independent pieces of work are shared out by :mod:`sic.cluster`."""

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sic import cluster
from sic.errors import SicError

if TYPE_CHECKING:
    import torch

WORK = Path("checkpoints")
ARTIFACTS = Path("artifacts")
WEIGHTS = Path("data/weights")
#: Bytes that the paper's codec takes for a picture of COCO (docs/speed.md), and some to spare.
_MEMORY = 3 << 30
SMALL = 32  # channels N; a codec with fewer gains nothing from a second thread (docs/speed.md)


@dataclass(frozen=True)
class Worker:
    """This process among those that train a codec: its number, how many there are, its number on
    this machine."""

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


def record(codec: str, folder: Path = ARTIFACTS) -> Path:
    """Where the study keeps how a codec was made (:func:`made`): apart from it and from DVC, since
    equal runs give equal codecs in other times."""
    return folder / "runs" / f"{codec}.json"


def made(codec: str, on: "torch.device", processes: int) -> dict[str, str | float]:
    """Of a codec that this process begins to train: the commit of the code, with ``+`` if the code
    was changed since, empty without git; the command; the device."""
    import torch

    changed = git("status", "--porcelain", "--", "sic", "notebooks")
    command = f"python3 study.py repro {codec.replace('/', '@')}"
    if Path(sys.argv[0]).parent.name == "sic":  # else it is a notebook's kernel
        command = " ".join(["python -m sic", *sys.argv[1:]])
    name = torch.cuda.get_device_name(on) if on.type == "cuda" else _processor()
    return {
        "commit": git("rev-parse", "--short", "HEAD") + ("+" if changed else ""),
        "command": command,
        "device": f"{processes} × {name}" if processes > 1 else name,
    }


def _processor() -> str:
    """The processor's name where Linux tells it, else its kind; with PyTorch's threads."""
    import torch

    facts = Path("/proc/cpuinfo")
    told = facts.read_text(encoding="utf-8") if facts.is_file() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", told, re.MULTILINE)
    name = found[1] if found else platform.processor() or platform.machine()
    return f"{name}, {(n := torch.get_num_threads())} thread{'s' if n > 1 else ''}"


def has_git() -> bool:
    """Whether the study's folder is a clone, and git is there to ask."""
    return shutil.which("git") is not None and Path(".git").exists()


def git(*words: str) -> str:
    """What git answers in the study's folder; empty where it has no answer."""
    if not has_git():
        return ""
    answer = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    return "" if answer.returncode else answer.stdout.rstrip()


def device(name: str, asked_by: str = "machine.device") -> "torch.device":
    """The device that a setting or an option names: `cpu`, `cuda`, or `auto`, a GPU where there is
    one.  Raises SicError if it names a GPU and there is none."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise SicError(f"{asked_by}: PyTorch finds no GPU here; set it to auto or cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda")


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
    import torch

    before = torch.get_num_threads()
    if channels < SMALL and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def processes(channels: int, device: str) -> int | None:
    """How many codecs of N channels work side by side on this machine: one on each core (None), as
    far as there is memory; a GPU has no room for many."""
    import psutil

    if not device.startswith("cpu"):
        return 1
    if channels < SMALL:
        return None
    return max(1, min(cluster.cores(), psutil.virtual_memory().available // _MEMORY))
