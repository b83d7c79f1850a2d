"""Pieces of work on Dask: what is killed, lost, full or not there costs a line and no result."""

import errno
import gc
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from sic import cluster
from sic.anchors.programs import CodecError
from sic.cluster import complete
from sic.errors import SicError
from sic.files import cannot_write, replacing

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
ENVIRONMENT.pop("DASK_SCHEDULER_ADDRESS", None)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)


def places(folder: Path, count: int) -> dict[str, Path]:
    return {f"{i:02d}": folder / f"{i:02d}" for i in range(count)}


def names(folder: Path) -> set[str]:
    """All that lies in a folder, hidden files too."""
    return {path.name for path in folder.iterdir()}


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen in {seconds} seconds"
        time.sleep(0.02)


# ---- what pieces do: by their names ----


def who_made_it(name: str) -> bytes:
    """The process that is asked, and how many threads it has."""
    if name == "broken":
        raise CodecError("a piece", "is broken")
    if name == "full":
        raise cannot_write(Path("a/b"), OSError(errno.ENOSPC, "No space left on device"))
    if name == "wrong":
        raise ZeroDivisionError("a fault of the program")
    if name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{os.getpid()} {torch.get_num_threads()}".encode()


def slowly(name: str) -> bytes:
    time.sleep(0.2)
    return (name * 10_000).encode()


def forever(folder: Path, name: str) -> bytes:
    (folder / f"{name}.pid").write_text(str(os.getpid()))
    time.sleep(1000)
    return b""


def faults(name: str) -> bytes:
    """How many pages of memory 100 tensors cost, one after the other, of 1,024 pages each."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        torch.zeros(1 << 20)
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before}".encode()


# ---- in this process ----


def test_a_few_pieces_are_made_here(tmp_path: Path) -> None:
    results = places(tmp_path, cluster.FEW - 1)
    complete(results, who_made_it, "piece")
    assert {path.read_bytes().split()[0] for path in results.values()} == {b"%d" % os.getpid()}


def test_an_error_stops_and_what_is_done_stays(tmp_path: Path) -> None:
    results = {name: tmp_path / name for name in ("a", "broken", "c")}
    with pytest.raises(SicError, match=r"^a piece: is broken$"):
        complete(results, who_made_it, "piece")
    assert names(tmp_path) == {"a"}
    complete(results, slowly, "piece")
    assert names(tmp_path) == {"a", "broken", "c"}


def test_what_a_killed_run_left_half_written_goes(tmp_path: Path) -> None:
    results = places(tmp_path, 1)
    (tmp_path / ".00.x1y2z3.part").write_bytes(b"half")
    (tmp_path / ".other.x1y2z3.part").write_bytes(b"of another run")
    complete(results, slowly, "piece")
    assert names(tmp_path) == {"00", ".other.x1y2z3.part"}


@pytest.mark.parametrize("letter", ["a", "图"])
def test_what_was_left_of_long_names_goes_and_of_no_other(letter: str, tmp_path: Path) -> None:
    long = letter * (250 // len(letter.encode()))
    for name in (f"{long}1", f"{long}2"):
        with replacing(tmp_path / name) as temporary:
            shutil.copy(temporary, tmp_path / "copy")
            left = temporary
        (tmp_path / name).unlink()
        (tmp_path / "copy").rename(left)  # as a killed worker leaves it
    assert len(names(tmp_path)) == 2
    complete({"piece": tmp_path / f"{long}1"}, slowly, "piece")
    assert names(tmp_path) == {f"{long}1", left.name}


# ---- local processes ----


def test_processes_make_pieces_side_by_side(tmp_path: Path) -> None:
    results = places(tmp_path, 40)
    results["00"].write_bytes(b"there")
    complete(results, who_made_it, "piece", processes=2)
    made = [path.read_bytes().split() for path in results.values()]
    assert made[0] == [b"there"]
    assert len({process for process, _ in made[1:]}) == 2
    assert {threads for _, threads in made[1:]} == {b"1"}
    assert names(tmp_path) == set(results)
    assert not workers()


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc's malloc")
def test_a_process_keeps_the_memory_of_its_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    results = places(tmp_path, 8)
    complete(results, faults, "piece", processes=2)
    assert all(int(path.read_bytes()) < 20_000 for path in results.values())


def workers() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.parametrize(
    ("name", "line"),
    [("broken", "^a piece: is broken$"), ("full", "^cannot write a/b: No space .* free some")],
)
def test_what_fails_in_a_process_is_one_line(name: str, line: str, tmp_path: Path) -> None:
    results = {each: tmp_path / each for each in (*"abcdefgh", name)}
    with pytest.raises(SicError, match=line):
        complete(results, who_made_it, "piece", processes=2)
    assert name not in names(tmp_path)


def test_a_piece_that_kills_its_workers_is_named_and_the_others_are_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = {each: tmp_path / each for each in ("killed", *"abcdefghijkl")}
    with pytest.raises(SicError, match=r"^1 of 13 pieces were not made, \S+/killed the first"):
        complete(results, who_made_it, "piece", processes=2)
    assert names(tmp_path) == results.keys() - {"killed"}
    assert "/killed: its worker died 4 times" in capsys.readouterr().err


def test_workers_killed_at_random_cost_no_result(tmp_path: Path) -> None:
    results, moments = places(tmp_path / "killed", 60), random.Random(7)

    def kill() -> None:
        made = tmp_path / "killed"
        for enough in (3, 20, 40):
            wait_for(lambda n=enough: made.is_dir() and len(list(made.glob("??"))) >= n)
            time.sleep(moments.random() / 4)
            moments.choice(workers()).kill()

    killer = threading.Thread(target=kill)
    killer.start()
    complete(results, slowly, "piece", processes=4)
    killer.join()
    alone = places(tmp_path / "alone", 60)
    complete(alone, slowly, "piece", processes=1)
    assert names(tmp_path / "killed") == names(tmp_path / "alone")
    assert all(results[name].read_bytes() == alone[name].read_bytes() for name in alone)


PARENT = """
import sys
from functools import partial
from pathlib import Path
from test_cluster import forever, places, slowly
from sic.cluster import complete
from sic.errors import exit_on_error
if __name__ == "__main__":
    folder, how = Path(sys.argv[1]), sys.argv[2]
    make = slowly if how == "slowly" else partial(forever, folder)
    address = sys.argv[3] if sys.argv[3:] else None
    exit_on_error(lambda: complete(places(folder, 40), make, "piece", address, 2))
"""


@contextmanager
def parent(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A run of 40 pieces in a process group of its own, with its stderr."""
    program = folder.with_suffix(".py")
    program.write_text(PARENT)
    folder.mkdir(exist_ok=True)
    started = subprocess.Popen(
        [sys.executable, str(program), str(folder), *words],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield started
    finally:
        started.kill()
        started.wait()


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_one_that_started_them(tmp_path: Path, ending: signal.Signals) -> None:
    """Ctrl-C reaches the whole group, as from a terminal."""
    with parent(tmp_path / "run", "forever") as run:
        wait_for(lambda: len(list(tmp_path.glob("run/*.pid"))) == 2)
        workers = [psutil.Process(int(p.read_text())) for p in tmp_path.glob("run/*.pid")]
        if ending == signal.SIGKILL:
            run.kill()
        else:
            os.killpg(run.pid, signal.SIGINT)
        assert run.communicate(timeout=60)[1].count("together") <= 1
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
    assert names(tmp_path / "run") == {"00.pid", "01.pid"}


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    with parent(tmp_path / "run", "slowly") as run:
        wait_for(lambda: len(list(tmp_path.glob("run/??"))) > 5)
        run.kill()
        run.wait()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("run/??")}
    assert 5 < len(before) < 40
    complete(places(tmp_path / "run", 40), slowly, "piece", processes=1)
    assert names(tmp_path / "run") == places(tmp_path, 40).keys()
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())


# ---- a cluster that runs already ----


@contextmanager
def started(*words: str, program: str = "-mdask") -> Iterator[subprocess.Popen[str]]:
    """A process of Dask, as a person starts it."""
    process = subprocess.Popen(
        [sys.executable, program, *words],
        env=ENVIRONMENT,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    about = tmp_path / "scheduler.json"
    words = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(about))
    with started("scheduler", *words) as process:
        wait_for(lambda: about.is_file() and "tcp://" in about.read_text())
        yield about.read_text().split('"address": "')[1].partition('"')[0], process


WORKER = ("--nworkers", "1", "--nthreads", "1", "--memory-limit", "0", "--no-dashboard")


def test_workers_started_by_hand_make_the_pieces(
    scheduler: tuple[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study's folder is another one than that in which the worker was started."""
    address, _ = scheduler
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)
    monkeypatch.chdir(tmp_path)
    with started("worker", address, *WORKER):
        complete(places(Path("made"), 3), who_made_it, "piece")
        made = {path.read_bytes() for path in Path("made").iterdir()}
        assert len(made) == 1
        assert made != {b"%d 1" % os.getpid()}
        with pytest.raises(ZeroDivisionError, match="a fault of the program"):
            complete({"wrong": Path("wrong")}, who_made_it, "piece")


def test_workers_that_take_no_piece_are_one_line(
    scheduler: tuple[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker pauses when 80 % of its memory are in use, here with a piece or two in hand."""
    address, _ = scheduler
    results = places(tmp_path / "made", 20)
    said: list[str] = []
    monkeypatch.setattr(cluster.progress, "say", said.append)
    run = threading.Thread(target=complete, args=(results, slowly, "piece", address), daemon=True)
    run.start()
    wait_for(lambda: said)
    with started("worker", address, *WORKER, "--no-nanny", "--memory-limit", "60MB"):
        wait_for(lambda: len(said) == 2)
        assert not all(path.exists() for path in results.values())
    with started("worker", address, *WORKER):
        run.join(timeout=120)
    assert all(path.exists() for path in results.values())
    assert said[:2] == [
        f"the cluster {address} has no worker yet; waiting for the first",
        f"the cluster {address} has no worker with memory left; start them with --memory-limit 0",
    ]


def test_a_worker_with_two_threads_is_one_line(scheduler: tuple[str, Any], tmp_path: Path) -> None:
    line = r"^the Dask worker on \S+ has 2 threads; start it with --nthreads 1$"
    with (
        started("worker", scheduler[0], *WORKER, "--nthreads", "2"),
        pytest.raises(SicError, match=line),
    ):
        complete(places(tmp_path / "made", 3), who_made_it, "piece", scheduler[0])


@pytest.mark.parametrize(
    ("python", "version", "line"),
    [
        ("3.12.1.final.0", "0.1.0", r"has Python 3\.12, and this run 3\.11; start it with this"),
        ("3.11.9.final.0", None, "has no package sic; start it with this study's"),
    ],
)
def test_a_member_of_the_cluster_with_another_python_or_without_the_package_is_one_line(
    python: str, version: str | None, line: str
) -> None:
    def about(python: str, version: str | None) -> dict[str, Any]:
        return {"host": {"python": python}, "packages": {"sic": version}}

    class Client:
        def get_versions(self, packages: list[str]) -> dict[str, Any]:
            good = about("3.11.7.final.0", "0.1.0")
            return {"client": good, "scheduler": good, "workers": {"tcp://a:1": wrong}}

    wrong = about("3.11.7.final.0", "0.1.0")
    cluster._check(Client(), "tcp://s:1")  # type: ignore[arg-type]
    wrong = about(python, version)
    with pytest.raises(SicError, match=f"^tcp://a:1 {line}"):
        cluster._check(Client(), "tcp://s:1")  # type: ignore[arg-type]


def test_a_worker_of_another_python_code_or_folder_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_threads", lambda: 1)
    here = cluster._Place.here()
    here.enter()
    with pytest.raises(SicError, match=r"has Python 3\.\d+, and this run 3\.9; start it with"):
        replace(here, python="3.9").enter()
    with pytest.raises(SicError, match=r"has other code of sic, in .*/sic; start it with"):
        replace(here, code="").enter()
    with pytest.raises(SicError, match=r"cannot enter /nowhere \(No such .*same path"):
        replace(here, folder="/nowhere").enter()


WITHOUT_SIC = """
import sys
sys.modules["sic"] = None
from dask.__main__ import main
if __name__ == "__main__":
    main()
"""


def test_a_worker_without_the_package_that_joins_later_is_one_line(
    scheduler: tuple[str, Any], tmp_path: Path
) -> None:
    program = tmp_path / "without.py"
    program.write_text(WITHOUT_SIC)
    with (
        parent(tmp_path / "run", "slowly", scheduler[0]) as run,
        started("worker", scheduler[0], *WORKER, program=str(program)),
    ):
        *_, last = run.communicate(timeout=120)[1].splitlines()
    assert last.startswith(f"sic: a worker of the Dask scheduler {scheduler[0]} cannot load the ")
    assert "(No module named 'sic.cluster'; 'sic' is not a package); start it with this" in last
    assert not names(tmp_path / "run")


def test_a_scheduler_that_goes_is_one_line_and_the_run_goes_on(
    scheduler: tuple[str, subprocess.Popen[str]], tmp_path: Path
) -> None:
    address, process = scheduler
    with (
        started("worker", address, *WORKER),
        parent(tmp_path / "run", "slowly", address) as run,
    ):
        wait_for(lambda: len(list(tmp_path.glob("run/??"))) > 5)
        process.kill()
        *_, last = run.communicate(timeout=60)[1].splitlines()
    assert last.startswith(f"sic: the Dask scheduler {address} is gone; start it again")
    assert run.returncode == 1
    complete(places(tmp_path / "run", 40), slowly, "piece", processes=1)
    assert names(tmp_path / "run") == places(tmp_path, 40).keys()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense"])
def test_a_scheduler_that_is_not_there_is_one_line_within_seconds(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_PATIENCE", 2.0)
    with pytest.raises(SicError, match=f"^cannot reach the Dask scheduler {address} ") as caught:
        complete({"a": tmp_path / "a"}, slowly, "piece", address)
    assert "\n" not in str(caught.value)
    del caught
    gc.collect()  # Dask's half-made client, which waits for itself if the next is being made


def test_the_scheduler_holds_few_pieces_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's memory does not grow with the pieces."""
    from distributed import Client, LocalCluster

    monkeypatch.setattr(cluster, "_AHEAD", 20)
    threads: Mapping[str, Any] = {"processes": False, "dashboard_address": None}
    with LocalCluster(n_workers=2, threads_per_worker=1, **threads) as local, Client(local) as one:
        held = [len(one.futures) for _ in cluster._spread(one, "here", range(400), partial(max, 2))]
    assert len(held) == 400
    assert max(held) < 200
