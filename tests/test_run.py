"""The pipeline as its users run it: a fault is told at once, and stopping takes nothing away."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from sic import pipeline
from sic.errors import STOPPED, SicError

ROOT = Path(__file__).parents[1]
PIPELINE = """
stages:
  measure:
    cmd: python -m sic.report.notebook notebooks/a.ipynb reports/a
    deps: [notebooks/a.ipynb]
    params: [seed]
    outs: [reports/a, results/rd.csv]
    metrics: [results/m.json: {cache: false}]
"""
# The first run ends at once; one with another seed waits to be stopped.
CELL = """
import time
from pathlib import Path
from sic import files, params, progress
seed = params.load().seed
for _ in progress.bar(range(100), desc="coding", unit="picture"):
    if seed:
        Path("started").touch()
        time.sleep(1)
files.write_text(Path("results/rd.csv"), f"{seed}")
files.write_text(Path("results/m.json"), f'{{"psnr": {seed}}}')
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny study in a git repository, DVC and all."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for key in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(key, os.devnull)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    (tmp_path / "notebooks").mkdir()
    parameters = new_code_cell("m = 1", metadata={"tags": ["parameters"]})
    book = new_notebook(cells=[new_markdown_cell("# Q"), parameters, new_code_cell(CELL)])
    nbformat.write(book, tmp_path / "notebooks" / "a.ipynb")
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["dvc", "init", "-q"], check=True)
    return tmp_path


def dvc(*words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "sic.pipeline", *words]
    together: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, text=True, start_new_session=True, **together)


def seed(value: str) -> None:
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(re.sub("(?m)^seed: .*", f"seed: {value}", text))


def test_a_stopped_run_says_one_line_and_its_results_reappear(study: Path) -> None:
    first = dvc("repro")
    log = first.communicate(timeout=300)[0]
    assert first.returncode == 0, log
    assert "coding: 100% 100/100" in log
    results = ("results/rd.csv", "results/m.json", "reports/a/index.html")
    before = {name: Path(name).read_bytes() for name in results}

    seed("1")
    second = dvc("repro")
    end = time.monotonic() + 300
    while not Path("started").exists():
        assert time.monotonic() < end
        time.sleep(0.1)
    assert not Path("results/rd.csv").exists(), "DVC removes what a stage is to make anew"
    os.killpg(second.pid, signal.SIGINT)
    log = second.communicate(timeout=60)[0]
    assert second.returncode == STOPPED, log
    assert log.count("sic: measure was stopped; run the same command again to go on") == 1
    for noise in ("Traceback", "ERROR", "WARNING", "KeyboardInterrupt"):
        assert noise not in log
    assert {name: Path(name).read_bytes() for name in results} == before
    assert not list(Path("build/failed").iterdir())


@pytest.mark.parametrize("end", ["exit 130", "kill -INT $$", "kill -TERM $$"])
def test_whatever_way_a_stopped_stage_ends_it_is_no_failure(study: Path, end: str) -> None:
    (study / "dvc.yaml").write_text(f"stages: {{measure: {{cmd: '{end}'}}}}")
    run = dvc("repro")
    log = run.communicate(timeout=300)[0]
    assert run.returncode == STOPPED, log
    assert "ERROR" not in log


def test_a_fault_in_params_yaml_is_told_before_dvc_is_even_loaded(study: Path) -> None:
    seed("one")
    program = (
        "import sys; sys.argv = ['pipeline', 'status']; from sic import pipeline\n"
        "try: pipeline.main()\n"
        "except Exception as error: print(error)\n"
        "print(sorted({'dvc', 'torch', 'pandas', 'numpy'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert said.stdout.startswith("params.yaml: seed: ")
    assert said.stdout.endswith("\n[]\n")


def test_an_experiment_without_a_name_is_one_line(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["pipeline", "exp", "run"])
    for key in ("name", "email"):
        with pytest.raises(SicError, match=rf'^an experiment .* git config user\.{key} "\.\.\."$'):
            pipeline.main()
        subprocess.run(["git", "config", f"user.{key}", "a@b"], check=True)
    pipeline._check_git()
    shutil.rmtree(".git")
    with pytest.raises(SicError, match=r"^experiments need git: clone the study"):
        pipeline._check_git()


def test_set_param_changes_the_number_and_nothing_else(study: Path) -> None:
    before = Path("params.yaml").read_text(encoding="utf-8").splitlines()
    words = ["exp", "run", "-S", "edges.alpha=0.93", "--set-param=lic.quality=[q1]", "-n", "mine"]
    assert pipeline.set_params(words) == ["exp", "run", "-n", "mine"]
    after = Path("params.yaml").read_text(encoding="utf-8").splitlines()
    changed = [line.split("#")[0].strip() for line in after if line not in before]
    assert changed == ["alpha: 0.93", "quality: [q1]"]
    assert len(after) == len(before)


@pytest.mark.parametrize(
    ("pair", "line"),
    [
        ("edges.alpa=0.9", r"^-S edges\.alpa=0\.9: params\.yaml has no key edges\.alpa$"),
        ("edges.alpha=3", r"^-S edges\.alpha=3: edges\.alpha: .*less than or equal to 1, not 3$"),
    ],
)
def test_a_wrong_set_param_changes_nothing(pair: str, line: str, study: Path) -> None:
    before = Path("params.yaml").read_bytes()
    with pytest.raises(SicError, match=line):
        pipeline.set_params(["exp", "run", "-S", pair])
    assert Path("params.yaml").read_bytes() == before


@pytest.mark.parametrize(
    "words",
    ["-S seed=1 --queue", "-S seed=1 --temp", "-S +quality.q9.lmbda=1", "-S seed=range(1,3)", "-f"],
)
def test_what_only_dvc_can_do_is_left_to_it(words: str, study: Path) -> None:
    before = Path("params.yaml").read_bytes()
    given = ["exp", "run", *words.split()]
    assert pipeline.set_params(given) == given
    assert Path("params.yaml").read_bytes() == before
