"""Stages side by side: their order, what a failure or Ctrl-C leaves, and the lock of DVC."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import SimpleQueue

import pytest
from ruamel.yaml import YAML

from sic import params, pipeline
from sic.errors import STOPPED, SicError

ROOT = Path(__file__).parents[1]
Places = SimpleQueue[dict[str, str]]


class Trainer:
    """In place of DVC: notes when each stage begins and ends, and how many run side by side."""

    def __init__(self, broken: str = "") -> None:
        self.broken, self.seen, self.most, self.at_work = broken, list[str](), 0, 0
        self.lock = threading.Lock()

    def __call__(self, name: str, free: Places) -> int:
        place = free.get()
        with self.lock:
            self.seen.append(f"begin {name}")
            self.at_work += 1
            self.most = max(self.most, self.at_work)
        time.sleep(0.01)
        with self.lock:
            self.seen.append(f"end {name}")
            self.at_work -= 1
        free.put(place)
        return int(name == self.broken)


@pytest.fixture(scope="module")
def needs() -> dict[str, set[str]]:
    """As DVC has them for the study's own dvc.yaml."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return pipeline._needs(pipeline._CODECS)


def test_the_stages_of_all_codecs_and_what_they_need_are_known(needs: dict[str, set[str]]) -> None:
    study = params.load(ROOT / "params.yaml")
    codecs = {name.replace("/", "@") for name in study.codecs}
    assert set(needs) == {*codecs, "code", "data", "segment", "edges"}
    base = study.base.replace("/", "@")
    assert base in needs["fusion@m5-q1"] & needs["difference@q1"]
    assert base not in needs["lic@q1"]


def test_codecs_train_side_by_side_after_what_they_build_on(
    needs: dict[str, set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer()
    monkeypatch.setattr(pipeline, "_stage", trainer)
    assert pipeline._in_order(needs, [{}, {}]) == []
    assert trainer.most == 2
    for name, others in needs.items():
        for other in others:
            assert trainer.seen.index(f"end {other}") < trainer.seen.index(f"begin {name}")


def test_what_builds_on_a_codec_that_failed_is_left(
    needs: dict[str, set[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = params.load(ROOT / "params.yaml").base.replace("/", "@")
    trainer = Trainer(broken=base)
    monkeypatch.setattr(pipeline, "_stage", trainer)
    left = pipeline._in_order(needs, [{}, {}])
    assert set(left) == {base} | {name for name, others in needs.items() if base in others}
    assert {f"end {name}" for name in needs.keys() - set(left)} <= set(trainer.seen)
    assert f"sic: {base} failed; see checkpoints/stages/" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["0"], ["two"], ["2", "3"]])
def test_a_number_that_is_none_is_one_line(words: list[str]) -> None:
    with pytest.raises(SicError, match=r"^train-all takes one number: how many codecs train"):
        pipeline.train_all(words)


def test_each_has_a_gpu_or_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("sic.pipeline.cores", lambda: 8)
    assert pipeline._places(2) == [{"OMP_NUM_THREADS": "4"}] * 2
    assert pipeline._places() == [{"OMP_NUM_THREADS": "1"}] * 8
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in pipeline._places()] == ["0", "1"]
    assert [place["CUDA_VISIBLE_DEVICES"] for place in pipeline._places(3)] == ["0", "1", "0"]


# ---- a small pipeline, by DVC ----

#: Waits until its fellow has begun, and ends with it.
MEET = """
import sys, time
from pathlib import Path
mine, other = sys.argv[1:]
Path(f"{mine}.began").touch()
while not Path(f"{other}.began").exists():
    time.sleep(0.01)
Path(mine).write_text(mine)
"""
STAGES = {
    "code": {"cmd": "echo 1 > made", "outs": ["made"]},
    "a": {"cmd": "python meet.py a b", "deps": ["made"], "outs": ["a"]},
    "b": {"cmd": "python meet.py b a", "deps": ["made"], "outs": ["b"]},
    "both": {"cmd": "cat a b > both", "deps": ["a", "b"], "outs": ["both"]},
    "broken": {"cmd": "test -f mended && echo > c", "deps": ["made"], "outs": ["c"]},
    "after": {"cmd": "cp c after", "deps": ["c"], "outs": ["after"]},
}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "meet.py").write_text(MEET)
    subprocess.run(["dvc", "init", "-q", "--no-scm"], check=True)
    write(STAGES)
    return tmp_path


def write(stages: dict[str, dict[str, object]]) -> None:
    YAML().dump({"stages": stages}, Path("dvc.yaml"))


def begin() -> "subprocess.Popen[str]":
    """`python3 study.py` on two cores, once `.venv` is there."""
    two = "from sic import errors, pipeline; pipeline.cores = lambda: 2; "
    command = [sys.executable, "-c", two + "errors.exit_on_error(pipeline.main)"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, text=True, stderr=pipe, stdout=pipe, start_new_session=True)


def locked() -> set[str]:
    """The stages in dvc.lock, which DVC can read."""
    return set(YAML(typ="safe").load(Path("dvc.lock"))["stages"])


def test_stages_that_end_together_are_both_locked_and_a_failure_leaves_the_others(
    small: Path,
) -> None:
    stages = STAGES | {"broken": STAGES["broken"] | {"cmd": "echo 'sic: no luck' >&2; exit 1"}}
    write(stages)
    run = begin()
    told = run.communicate(timeout=300)[1]
    assert run.returncode == 1, told
    assert "sic: no luck\nsic: broken failed; see checkpoints/stages/broken.log" in told
    assert told.endswith("sic: broken, after: 2 not made; checkpoints/stages has what they said\n")
    assert "Traceback" not in told
    assert Path("both").read_text() == "ab"
    assert locked() == {"code", "a", "b", "both"}

    write(STAGES)
    Path("mended").touch()
    Path("a.began").unlink()  # nobody waits for it: what is done is not done again
    run = begin()
    told = run.communicate(timeout=300)[1]
    assert run.returncode == 0, told
    assert {line for line in told.splitlines() if "begins" in line} == {
        "broken: begins",
        "after: begins",
    }
    assert locked() == set(STAGES)
    run = begin()
    assert "Data and pipelines are up to date." in run.communicate(timeout=300)[0]


def test_ctrl_c_ends_all_stages_and_the_same_command_goes_on(small: Path) -> None:
    begun = {name: f"touch {name}.begun; sleep 300" for name in ("a", "b")}
    write(STAGES | {name: STAGES[name] | {"cmd": cmd} for name, cmd in begun.items()})
    Path("mended").touch()
    run = begin()
    end = time.monotonic() + 300
    while not all(Path(f"{name}.begun").exists() for name in begun):
        assert time.monotonic() < end
        time.sleep(0.1)
    os.killpg(run.pid, signal.SIGINT)
    told = run.communicate(timeout=300)[1]
    assert run.returncode == STOPPED, told
    assert told.endswith("sic: stopped; run the same command again to go on\n")
    assert "Traceback" not in told
    with pytest.raises(ProcessLookupError):
        os.killpg(run.pid, 0)
    assert locked() >= {"code"}

    write(STAGES)
    run = begin()
    told = run.communicate(timeout=300)[1]
    assert run.returncode == 0, told
    assert locked() == set(STAGES)
