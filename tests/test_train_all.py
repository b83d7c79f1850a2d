"""`study.py train-all`: the order in which codecs train side by side, and what a failure leaves."""

import threading
import time
from pathlib import Path
from queue import SimpleQueue

import pytest

from sic import params, pipeline
from sic.errors import SicError

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
        return pipeline._needs()


def test_the_stages_of_all_codecs_are_known(needs: dict[str, set[str]]) -> None:
    study = params.load(ROOT / "params.yaml")
    assert set(needs) == {name.replace("/", "@") for name in study.codecs}
    base = study.base.replace("/", "@")
    assert base in needs["fusion@m5-q1"] & needs["difference@q1"]
    assert base not in needs["lic@q1"]
    assert pipeline._needed_first(needs) == ["code", "data", "edges", "segment"]


def test_codecs_train_side_by_side_after_what_they_build_on(
    needs: dict[str, set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer()
    monkeypatch.setattr(pipeline, "_train", trainer)
    assert pipeline._train_in_order(needs, [{}, {}]) == []
    assert trainer.most == 2
    for name, others in needs.items():
        for other in others & needs.keys():
            assert trainer.seen.index(f"end {other}") < trainer.seen.index(f"begin {name}")


def test_what_builds_on_a_codec_that_failed_is_left(
    needs: dict[str, set[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = params.load(ROOT / "params.yaml").base.replace("/", "@")
    trainer = Trainer(broken=base)
    monkeypatch.setattr(pipeline, "_train", trainer)
    left = pipeline._train_in_order(needs, [{}, {}])
    assert set(left) == {base} | {name for name, others in needs.items() if base in others}
    assert {f"end {name}" for name in needs.keys() - set(left)} <= set(trainer.seen)
    assert f"sic: {base} failed; see checkpoints/train-all/" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["0"], ["two"], ["2", "3"]])
def test_a_number_that_is_none_is_one_line(words: list[str]) -> None:
    with pytest.raises(SicError, match=r"^train-all takes one number: how many codecs train"):
        pipeline.train_all(words)


def test_each_has_a_gpu_or_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("sic.cluster.cores", lambda: 8)
    assert pipeline._places(2) == [{"OMP_NUM_THREADS": "4"}] * 2
    assert pipeline._places() == [{"OMP_NUM_THREADS": "1"}] * 8
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in pipeline._places()] == ["0", "1"]
    assert [place["CUDA_VISIBLE_DEVICES"] for place in pipeline._places(3)] == ["0", "1", "0"]
