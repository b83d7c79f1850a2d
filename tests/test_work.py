"""The processes that train together find their places, and threads their number."""

import os
import subprocess
import sys

import pytest
import torch

from sic.errors import SicError
from sic.work import Worker, threads

STEP = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}


def only(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name in [n for n in os.environ if n.startswith("SLURM_")] + ["RANK", "WORLD_SIZE"]:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("environment", "worker"),
    [
        ({}, Worker(0, 1, 0)),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Worker(5, 8, 1)),
        (
            {"SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "2"},
            Worker(3, 4, 2),
        ),
        # Hand-set variables may leave out the place on this machine.
        ({"RANK": "1", "WORLD_SIZE": "2"}, Worker(1, 2, 0)),
        # torchrun inside of a SLURM step.
        ({"RANK": "1", "WORLD_SIZE": "2", **STEP}, Worker(1, 2, 0)),
        # A step counts its own tasks, and may have fewer than the job.
        ({**STEP, "SLURM_STEP_NUM_TASKS": "1"}, Worker(0, 1, 0)),
        # An allocation without srun is one process, whatever it was given.
        ({"SLURM_NTASKS": "4"}, Worker(0, 1, 0)),
        # So is what a person types in a shell of the job: salloc's own, or `srun --pty bash`.
        ({**STEP, "SLURM_STEP_ID": "4294967290"}, Worker(0, 1, 0)),
        ({**STEP, "SLURM_PTY_PORT": "40000"}, Worker(0, 1, 0)),
        ({"SLURM_STEP_ID": "0"}, Worker(0, 1, 0)),
    ],
)
def test_workers_find_their_place(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], worker: Worker
) -> None:
    only(monkeypatch, environment)
    assert Worker.from_environment() == worker


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("-1", "2"), ("one", "2"), ("0", "0")])
def test_places_that_cannot_be(monkeypatch: pytest.MonkeyPatch, rank: str, size: str) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(SicError, match=f"RANK={rank}, WORLD_SIZE={size}"):
        Worker.from_environment()


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"WORLD_SIZE": "2"}, "no RANK, WORLD_SIZE=2"),
        ({"RANK": "0"}, "RANK=0, no WORLD_SIZE"),
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2"}, "no SLURM_PROCID, SLURM_NTASKS=2"),
    ],
)
def test_half_a_place_is_no_place(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], told: str
) -> None:
    only(monkeypatch, environment)
    with pytest.raises(SicError, match=f"the environment has {told}"):
        Worker.from_environment()


# ---- threads ----


@pytest.mark.parametrize(
    ("channels", "own", "wanted"), [(12, None, 1), (31, None, 1), (32, None, 2), (12, "2", 2)]
)
def test_a_small_codec_has_one_thread_unless_a_person_says_otherwise(
    channels: int, own: str | None, wanted: int, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if own:
        monkeypatch.setenv("OMP_NUM_THREADS", own)
    with threads(channels):
        assert torch.get_num_threads() == wanted
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("own", "policy"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_sleep_while_they_wait(own: str | None, policy: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": own} if own else {}
    program = (
        "import sys, os, sic.__main__; assert 'torch' not in sys.modules;"
        "print(os.environ['OMP_WAIT_POLICY'])"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout == f"{policy}\n"
