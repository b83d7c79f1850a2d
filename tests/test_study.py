"""study.py: the environment is made once, the right program runs, and stopping stops."""

import ast
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
Install = Callable[..., None]


def load(folder: Path) -> ModuleType:
    """A study.py of its own, whose folder is ``folder``."""
    for name in ("study.py", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    spec = importlib.util.spec_from_file_location("study_under_test", folder / "study.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.chdir(tmp_path)  # as study.py itself does
    return load(tmp_path)


@pytest.fixture
def steps(study: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The installation's steps, recorded instead of run; `venv` leaves a Python as it would."""
    done: list[str] = []

    def install(*command: str) -> None:
        words = [word for word in command[1:] if not word.startswith("-")]
        done.append("package" if "--editable" in command else " ".join(words[: len(words) // 2]))
        done[-1] = "venv" if "venv" in words else "sync" if "sync" in words else done[-1]
        if done[-1] == "venv":
            shutil.rmtree(study.VENV, ignore_errors=True)
            study.BIN.mkdir(parents=True)
            (study.BIN / "python").touch()

    monkeypatch.setattr(study, "install", install)
    monkeypatch.setattr(study, "install_uv", lambda: "uv")
    return done


# ---- the environment -------------------------------------------------------------------------


def test_the_environment_is_made_once(study: ModuleType, steps: list[str]) -> None:
    study.refresh_environment()
    assert steps == ["venv", "sync", "package"]
    study.refresh_environment()
    assert steps == ["venv", "sync", "package"]


def test_a_changed_lock_refreshes_and_another_project_file_does_less(
    study: ModuleType, steps: list[str]
) -> None:
    study.refresh_environment()
    steps.clear()
    study.LOCK.write_text(study.LOCK.read_text() + "# newer\n")
    study.refresh_environment()
    assert steps == ["sync", "package"]
    steps.clear()
    project = study.ROOT / "pyproject.toml"
    project.write_text(project.read_text() + "# newer\n")
    study.refresh_environment()
    assert steps == ["package"]


def test_another_python_or_a_moved_folder_starts_anew(
    study: ModuleType, steps: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study.refresh_environment()
    steps.clear()
    monkeypatch.setattr(sys, "version", "3.12.99 (other)")
    study.refresh_environment()
    assert steps == ["venv", "sync", "package"]
    steps.clear()
    monkeypatch.setattr(study, "ROOT", study.ROOT.parent)
    (study.ROOT / "pyproject.toml").touch()
    study.refresh_environment()
    assert steps == ["venv", "sync", "package"]


@pytest.mark.parametrize("last", ["venv", "sync", "package"])
def test_an_interrupted_installation_starts_anew(
    last: str, study: ModuleType, steps: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = study.install

    def interrupted(*command: str) -> None:
        whole(*command)
        if steps[-1] == last:
            raise KeyboardInterrupt

    monkeypatch.setattr(study, "install", interrupted)
    with pytest.raises(KeyboardInterrupt):
        study.refresh_environment()
    monkeypatch.setattr(study, "install", whole)
    steps.clear()
    study.refresh_environment()
    assert steps == ["venv", "sync", "package"]


def test_an_environment_whose_python_is_gone_starts_anew(
    study: ModuleType, steps: list[str]
) -> None:
    study.refresh_environment()
    steps.clear()
    (study.BIN / "python").unlink()
    (study.BIN / "python").symlink_to("/no/such/python")
    study.refresh_environment()
    assert steps == ["venv", "sync", "package"]


def test_two_at_once_make_one_environment(tmp_path: Path) -> None:
    load(tmp_path)
    program = """
import pathlib, sys, time
import study
def install(*command):
    with open("steps", "a") as file:
        file.write(("venv" if "venv" in command else "other") + "\\n")
    time.sleep(0.7)
    study.BIN.mkdir(parents=True, exist_ok=True)
    (study.BIN / "python").touch()
study.install, study.install_uv = install, lambda: "uv"
study.refresh_environment()
"""
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = sorted(process.communicate(timeout=60)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert (tmp_path / "steps").read_text().split() == ["venv", "other", "other"]
    assert "waiting for another study.py" in "".join(said)


def test_uv_comes_from_the_lock_with_its_hashes(
    study: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    def pip(*command: str, extra: dict[str, str]) -> None:
        asked.append(command)
        assert extra["PIP_USER"] == "0"
        (study.TOOLS / "part" / "bin").mkdir(parents=True)
        (study.TOOLS / "part" / "bin" / "uv").touch()

    monkeypatch.setattr(study, "install", pip)
    study.TOOLS.mkdir()
    uv = Path(study.install_uv())
    assert uv.is_file()
    assert uv.is_relative_to(study.TOOLS)
    assert study.install_uv() == str(uv)
    (command,) = asked
    assert "--require-hashes" in command
    requirement = Path(command[command.index("-r") + 1]).read_text()
    version = uv.parent.parent.name
    assert requirement.startswith(f"uv=={version} \\\n")
    assert requirement.count("--hash=sha256:") > 10, "wheels for every platform"
    assert requirement.strip() in study.LOCK.read_text()


def test_a_python_without_pip_is_one_line(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\necho No module named pip >&2; exit 1\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(study.sys, "executable", str(tmp_path / "python"))
    assert study.find_pip() == [study.BASE, "-m", "pip"]
    monkeypatch.setattr(study, "BASE", str(tmp_path / "python"))
    with pytest.raises(SystemExit, match=r"^study\.py: this Python has no pip; install it"):
        study.find_pip()


def test_an_installation_that_fails_is_one_line(study: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"^study\.py: the environment could not be made"):
        study.install(sys.executable, "-c", "import sys; sys.exit(2)")


@pytest.mark.parametrize("version", [(3, 8, 18), (3, 10, 13), (3, 13, 0), (3, 14, 1)])
def test_another_python_gets_one_clear_line(
    version: tuple[int, int, int], study: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study.sys, "version_info", version)
    monkeypatch.setattr(study.sys, "argv", ["study.py", "test"])
    monkeypatch.setattr(study.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit) as caught:
        study.main()
    assert caught.value.code == (
        f"study.py: needs Python 3.11 or 3.12, and this is Python {version[0]}.{version[1]}; "
        "install one of them and run study.py with it"
    )
    assert not study.TOOLS.exists()


def test_the_right_python_is_named_if_it_runs(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, status in (("python3.11", 127), ("python3.12", 0)):  # a shim that is off, one on
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {status}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(study.sys, "version_info", (3, 13, 0))
    monkeypatch.setattr(study.sys, "argv", ["study.py", "test"])
    with pytest.raises(SystemExit, match=r"this is Python 3\.13; run: python3\.12 study\.py test$"):
        study.main()


def test_older_pythons_can_read_the_file() -> None:
    ast.parse((ROOT / "study.py").read_text(encoding="utf-8"), feature_version=(3, 8))


def test_only_the_standard_library_is_imported() -> None:
    tree = ast.parse((ROOT / "study.py").read_text(encoding="utf-8"))
    names = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


# ---- what runs -------------------------------------------------------------------------------


@pytest.fixture
def ran(study: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Programs of the environment, recorded instead of run."""
    programs: list[tuple[str, ...]] = []

    def run(*command: str) -> int:
        programs.append(command)
        return 0

    def become(*command: str) -> None:
        programs.append(command)
        raise SystemExit(0)

    monkeypatch.setattr(study, "refresh_environment", lambda: None)
    monkeypatch.setattr(study, "settle_git", lambda: None)
    monkeypatch.setattr(study, "run", run)
    monkeypatch.setattr(study, "become", become)
    return programs


@pytest.mark.parametrize(
    ("words", "program"),
    [
        ("", "python -m sic.pipeline; python -m sic.report.provenance"),
        ("status -c", "python -m sic.pipeline status -c"),
        ("repro -s edges", "python -m sic.pipeline repro -s edges"),
        ("lab --no-browser", "jupyter lab --no-browser"),
        ("profile gpu", "python -m sic.pipeline profile gpu"),
        ("verify --accept", "python -m sic.report.verify --accept"),
        ("bundle mine.zip", "python -m sic.report.provenance bundle mine.zip"),
        (
            "bench -k small",
            "pytest tests/bench.py --benchmark-group-by=group "
            "--benchmark-columns=median,min,rounds --benchmark-timer=time.process_time "
            "--benchmark-autosave -k small",
        ),
    ],
)
def test_words_choose_the_program(
    words: str,
    program: str,
    study: ModuleType,
    ran: list[tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(study.sys, "argv", ["study.py", *words.split()])
    with pytest.raises(SystemExit) as caught:
        study.main()
    assert caught.value.code == 0
    assert "; ".join(" ".join(command) for command in ran) == program


def test_the_end_says_where_the_report_is(
    study: ModuleType,
    ran: list[tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    study.REPORT.parent.mkdir()
    study.REPORT.touch()
    monkeypatch.setattr(study.sys, "argv", ["study.py"])
    with pytest.raises(SystemExit):
        study.main()
    assert capsys.readouterr().out == "study: the report is reports/index.html\n"


def test_a_failed_run_passes_its_code_on_and_points_at_no_report(
    study: ModuleType,
    ran: list[tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    study.REPORT.parent.mkdir()
    study.REPORT.touch()
    monkeypatch.setattr(study, "run", lambda *command: 255)
    monkeypatch.setattr(study.sys, "argv", ["study.py"])
    with pytest.raises(SystemExit) as caught:
        study.main()
    assert caught.value.code == 255
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("word", ["help", "-h", "--help"])
def test_help_needs_no_environment(
    word: str,
    study: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(study.sys, "argv", ["study.py", word])
    study.main()
    assert "python3 study.py test" in capsys.readouterr().out
    assert not study.VENV.exists()


def test_the_test_command_runs_every_check_and_fails_if_one_does(
    study: ModuleType,
    ran: list[tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert study.test(["-k", "tcm"]) == 0
    programs = [command[0] for command in ran]
    assert programs == ["ruff", "ruff", "mypy", "nbstripout", "pytest"]
    spread = ("-n", "2", "--dist=loadscope", "--no-loadscope-reorder")
    assert ran[-1] == ("pytest", *spread, "--durations=25", "-k", "tcm")
    monkeypatch.setattr(study, "run", lambda *command: 3 * (command[0] in ("mypy", "pytest")))
    capsys.readouterr()
    assert study.test([]) == 3
    assert capsys.readouterr().out.endswith("study: failed: types, tests\n")


def test_stopping_the_test_command_stops_all_of_it(
    study: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def run(*command: str) -> int:
        asked.append(command[0])
        return 130

    monkeypatch.setattr(study, "run", run)
    assert study.test([]) == 130
    assert asked == ["ruff"]


def test_programs_see_this_environment_and_no_other(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in (
        *("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX"),
        "PYTHONDONTWRITEBYTECODE",
    ):
        monkeypatch.setenv(key, "/elsewhere")
    for name in ("python", "dvc", "papermill", "jupyter"):
        study.BIN.mkdir(parents=True, exist_ok=True)
        (study.BIN / name).touch(mode=0o755)
    seen = study.own_environment()
    assert "/elsewhere" not in seen.values()
    assert seen["VIRTUAL_ENV"] == str(study.VENV)
    assert seen["OMP_WAIT_POLICY"] == os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
    for name in ("python", "dvc", "papermill", "jupyter"):
        assert shutil.which(name, path=seen["PATH"]) == str(study.BIN / name)


# ---- processes -------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_exit_codes_come_through(code: int, study: ModuleType) -> None:
    command = (sys.executable, "-c", f"import sys; sys.exit({code})")
    assert study.supervise(command, dict(os.environ)) == code


def test_a_child_ended_by_a_signal_has_the_shell_s_code(study: ModuleType) -> None:
    command = (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    assert study.supervise(command, dict(os.environ)) == 137


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_the_program_and_its_children_once(
    number: signal.Signals, tmp_path: Path
) -> None:
    load(tmp_path)
    # Each of the two, as DVC and the stage it runs, notes every interrupt that it gets.
    child = """
import os, pathlib, signal, subprocess, sys, time
name = sys.argv[1]
def note(*_):
    with open(name, "a") as file:
        file.write("interrupt\\n")
signal.signal(signal.SIGINT, note)
below = subprocess.Popen([sys.executable, __file__, "stage"]) if name == "dvc" else None
pathlib.Path(name).touch()
end = time.monotonic() + 30
while time.monotonic() < end and not pathlib.Path(name).read_text():
    time.sleep(0.02)
time.sleep(0.5)
if below:
    below.wait()
sys.exit(3)
"""
    (tmp_path / "child.py").write_text(child)
    program = (
        "import os, sys, study; "
        "sys.exit(study.supervise((sys.executable, 'child.py', 'dvc'), dict(os.environ)))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 30
    while time.monotonic() < end and not (
        (tmp_path / "dvc").exists() and (tmp_path / "stage").exists()
    ):
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=40)
    assert errors == ""
    assert process.returncode == 128 + number
    assert (tmp_path / "dvc").read_text() == "interrupt\n"
    assert (tmp_path / "stage").read_text() == "interrupt\n"


# ---- git and notebooks -----------------------------------------------------------------------


def dvc(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "dvc"
    return subprocess.run(
        [program, *words], cwd=folder, capture_output=True, text=True, check=False
    )


def test_a_download_without_git_works_and_says_so_once(
    study: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(
        ROOT / ".dvc",
        tmp_path / ".dvc",
        ignore=shutil.ignore_patterns("cache", "tmp", "config.local"),
    )
    study.VENV.symlink_to(Path(sys.executable).parents[1])
    assert dvc("status", folder=tmp_path).returncode != 0
    study.settle_git()
    assert capsys.readouterr().out.startswith("study: no git repository here")
    assert dvc("status", folder=tmp_path).returncode == 0
    study.settle_git()
    assert capsys.readouterr().out == ""
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    study.settle_git()
    assert "no_scm" not in dvc("config", "--list", folder=tmp_path).stdout
    assert dvc("status", folder=tmp_path).returncode == 0


def notebook(saved: bool) -> str:
    """A source notebook, and what JupyterLab saves of it after a run."""
    language = {"name": "python"}
    cell = {
        "cell_type": "code",
        "id": "10-01",
        "metadata": {"tags": ["parameters"]},
        "execution_count": None,
        "outputs": [],
        "source": ["m = 5"],
    }
    if saved:
        language |= {"version": "3.11.7", "mimetype": "text/x-python", "file_extension": ".py"}
        language |= {"pygments_lexer": "ipython3", "nbconvert_exporter": "python"}
        text = {"text/plain": ["5"]}
        output = {
            "data": text,
            "execution_count": 3,
            "metadata": {},
            "output_type": "execute_result",
        }
        cell |= {"execution_count": 3, "outputs": [output]}
        cell["metadata"] = {"tags": ["parameters"], "execution": {"iopub.status.busy": "now"}}
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": language}
    content = {"cells": [cell], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def test_notebooks_saved_by_jupyterlab_are_found_and_git_does_not_see_the_difference(
    study: ModuleType, tmp_path: Path
) -> None:
    study.VENV.symlink_to(Path(sys.executable).parents[1])
    shutil.copy(ROOT / ".gitattributes", tmp_path)
    path = tmp_path / "notebooks" / "10_data.ipynb"
    path.parent.mkdir()
    check = [study.BIN / "nbstripout", *study.STRIP[1:], "--verify", path]

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    git("init", "-q")
    study.strip_notebooks_in_git()
    path.write_text(notebook(saved=False))
    assert subprocess.run(check, check=False, capture_output=True).returncode == 0
    git("add", ".")
    git("commit", "-qm", "source")
    path.write_text(notebook(saved=True))
    assert subprocess.run(check, check=False, capture_output=True).returncode == 1
    assert git("diff", "--", "notebooks") == ""
    path.write_text(notebook(saved=True).replace("m = 5", "m = 4"))
    assert '+    "m = 4"' in git("diff", "--", "notebooks")
