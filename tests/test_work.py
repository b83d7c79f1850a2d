import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from sic.anchors.programs import CodecError
from sic.errors import SicError
from sic.work import Worker, complete, threads

WORKER = """
import os, sys, time
from pathlib import Path
from sic.work import Worker, complete
folder, pause = Path(sys.argv[1]), float(sys.argv[2])

def make(name):
    worker = os.environ["RANK"]
    log = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, f"{worker} {name}\\n".encode())
    time.sleep(pause)
    return name.encode()

results = {f"{i:02d}": folder / "results" / f"{i:02d}" for i in range(30)}
print(complete(results, make, Worker.from_environment(), "piece"))
"""


def start(folder: Path, rank: int, size: int, pause: float = 0.02) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder), str(pause)],
        env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def log(folder: Path) -> list[tuple[str, str]]:
    path = folder / "log"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(line.split()[0], line.split()[1]) for line in lines]


def wait_for(condition: object, *arguments: object, seconds: float = 10) -> None:
    for _ in range(int(50 * seconds)):
        if condition(*arguments):  # type: ignore[operator]
            return
        time.sleep(0.02)
    raise AssertionError(f"it did not happen in {seconds} seconds")


def test_workers_share_without_a_duplicate(tmp_path: Path) -> None:
    workers = [start(tmp_path, rank, 3) for rank in range(3)]
    assert [w.communicate()[0].strip() for w in workers] == ["True", "False", "False"]
    made = log(tmp_path)
    assert sorted(name for _, name in made) == [f"{i:02d}" for i in range(30)]
    assert {worker for worker, _ in made} == {"0", "1", "2"}
    left = {p.name for p in (tmp_path / "results").iterdir()}
    assert left == {f"{i:02d}" for i in range(30)}  # no claims, nothing half-written


def test_workers_that_do_not_know_of_each_other_do_not_repeat_work(tmp_path: Path) -> None:
    workers = [start(tmp_path, 0, 1) for _ in range(3)]
    assert [w.communicate()[0].strip() for w in workers] == ["True"] * 3
    assert sorted(name for _, name in log(tmp_path)) == [f"{i:02d}" for i in range(30)]


def test_a_killed_worker_is_replaced_by_the_others(tmp_path: Path) -> None:
    victim = start(tmp_path, 1, 2, pause=60)
    wait_for(log, tmp_path)
    first = start(tmp_path, 0, 2)
    wait_for(lambda: len(log(tmp_path)) == 30)  # all but the one the victim holds
    assert first.poll() is None
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert first.communicate(timeout=20)[0].strip() == "True"
    made = [name for _, name in log(tmp_path)]
    held = log(tmp_path)[0][1]
    assert sorted(made) == sorted([*[f"{i:02d}" for i in range(30)], held])


def test_a_killed_run_loses_the_piece_at_hand_only(tmp_path: Path) -> None:
    worker = start(tmp_path, 0, 1, pause=0.05)
    wait_for(lambda: len(log(tmp_path)) > 5)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    before = {p.name for p in (tmp_path / "results").glob("??")}
    assert start(tmp_path, 0, 1).communicate()[0].strip() == "True"
    made = [name for _, name in log(tmp_path)]
    assert len(made) <= 31
    assert all(made.count(name) == 1 for name in before)


def test_an_error_stops_and_what_is_done_stays(tmp_path: Path) -> None:
    results = {name: tmp_path / name for name in "abc"}
    broken = {"b"}

    def make(name: str) -> bytes:
        if name in broken:
            raise SicError("b is broken")
        return name.encode()

    with pytest.raises(SicError, match="b is broken"):
        complete(results, make, Worker(), "piece")
    assert results["a"].exists()
    assert not results["b"].exists()
    broken.clear()
    assert complete(results, make, Worker(), "piece")
    assert {p.name for p in tmp_path.iterdir()} == {"a", "b", "c"}


# ---- processes ----


def who_made_it(name: str) -> bytes:
    """The process that is asked, and how many threads it has."""
    if name == "broken":
        raise CodecError("a piece", "is broken")
    if name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    return f"{os.getpid()} {torch.get_num_threads()}".encode()


def test_processes_make_pieces_side_by_side(tmp_path: Path) -> None:
    results = {f"{i:02d}": tmp_path / f"{i:02d}" for i in range(12)}
    results["00"].write_bytes(b"there")
    assert complete(results, who_made_it, Worker(), "piece", processes=2)
    made = [path.read_bytes().split() for path in results.values()]
    assert made[0] == [b"there"]
    assert len({process for process, _ in made[1:]}) == 2
    assert {threads for _, threads in made[1:]} == {b"1"}
    assert {p.name for p in tmp_path.iterdir()} == set(results), "no claims"


@pytest.mark.parametrize(
    ("name", "line"),
    [("broken", "^a piece: is broken$"), ("killed", r"killed, or ran out of memory; run the same")],
)
def test_what_fails_in_a_process_is_one_line(name: str, line: str, tmp_path: Path) -> None:
    results = {each: tmp_path / each for each in ("a", name)}
    with pytest.raises(SicError, match=line):
        complete(results, who_made_it, Worker(), "piece", processes=2)
    assert not (tmp_path / name).exists()


PARENT = """
import sys, time
from pathlib import Path
from test_work import forever
from sic.work import Worker, complete
if __name__ == "__main__":
    results = {name: Path(sys.argv[1], name) for name in "ab"}
    complete(results, forever, Worker(), "piece", processes=2)
"""


def forever(name: str) -> bytes:
    folder = Path(sys.argv[1])
    (folder / f"{name}.pid").write_text(str(os.getpid()))
    time.sleep(1000)
    return b""


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(tmp_path / "parent.py"), str(tmp_path)]
    parent = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(list(tmp_path.glob("*.pid"))) == 2, seconds=120)
        workers = [psutil.Process(int(p.read_text())) for p in tmp_path.glob("*.pid")]
    finally:
        parent.kill()
        parent.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive


def test_a_folder_that_takes_no_claim_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "full").write_bytes(b"")  # a file where the folder should be
    results = {"a": tmp_path / "full" / "a"}
    with pytest.raises(SicError, match=r"cannot write .*full/a\.lock: .*permissions"):
        complete(results, lambda _: b"", Worker(), "piece")


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
