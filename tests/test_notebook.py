"""Notebook runs: equal inputs give equal bytes, failures give one line, and any folder will do."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from sic.errors import STOPPED, SicError
from sic.report.notebook import execute, read

ROOT = Path(__file__).parents[1]


def write(path: Path, *code: str, prose: str = "# Question") -> Path:
    cells = [new_markdown_cell(prose), *(new_code_cell(c) for c in code)]
    cells[1].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), path)
    return path


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_two_equal_runs_give_equal_bytes_without_progress_bars(
    capfd: pytest.CaptureFixture[str],
) -> None:
    book = write(
        Path("book.ipynb"),
        "m = 1",
        "import sys\nprint('bar', 99 + 1, file=sys.stderr)\nprint(f'finding: {m}')",
        "object()",
    )
    for folder in ("reports/a", "reports/b"):
        execute(book, Path(folder), {"m": 5})
    first, second = (Path(f"reports/{f}/notebook.ipynb").read_bytes() for f in "ab")
    assert first == second
    assert b"finding: 5" in first
    assert b"bar 100" not in first
    assert "bar 100" in capfd.readouterr().err, "progress is shown while the notebook runs"
    page = Path("reports/a/index.html").read_text()
    assert "finding: 5" in page
    assert 'src="http' not in page, "the page needs no network"
    assert 'href="../index.html"' in page


def test_a_sic_error_becomes_its_one_line_and_leaves_no_product() -> None:
    fault = "from sic.errors import SicError\nraise SicError('params.yaml: key x is missing')"
    with pytest.raises(SicError, match=r"^params.yaml: key x is missing$"):
        execute(write(Path("book.ipynb"), "m = 1", fault), Path("reports/a"), {})
    assert not Path("reports").exists()
    assert not list(Path("build/failed").iterdir())


def test_another_failure_names_the_cell_and_keeps_the_copy_with_its_traceback() -> None:
    book = write(Path("book.ipynb"), "m = 1", "1 / 0")
    with pytest.raises(SicError, match=r"book.ipynb failed.*ZeroDivisionError") as error:
        execute(book, Path("reports/a"), {})
    assert "build/failed/reports-a.ipynb" in str(error.value)
    assert "ZeroDivisionError" in Path("build/failed/reports-a.ipynb").read_text()
    assert not Path("reports").exists()


def test_a_killed_kernel_says_how_to_go_on() -> None:
    kill = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(SicError, match=r"kernel .* died.*continues from its last checkpoint"):
        execute(write(Path("book.ipynb"), "m = 1", kill), Path("reports/a"), {})


def test_a_run_whose_parent_is_killed_ends_too() -> None:
    write(Path("book.ipynb"), "m = 1", "import time\nopen('started', 'w')\ntime.sleep(100)")
    command = [sys.executable, "-m", "sic.report.notebook", "book.ipynb", "reports/a"]
    parent = (
        "import subprocess, sys; child = subprocess.Popen(sys.argv[1:]); "
        "print(child.pid, flush=True); child.wait()"
    )
    run = subprocess.Popen([sys.executable, "-c", parent, *command], stdout=subprocess.PIPE)
    assert run.stdout
    child = int(run.stdout.readline())
    wait_until(Path("started").exists)
    run.kill()
    run.wait()
    wait_until(lambda: not is_running(child))
    assert not Path("reports").exists()


def test_a_stop_that_a_library_makes_another_error_of_is_a_stop() -> None:
    write(Path("book.ipynb"), "m = 1")
    program = """
import os, signal, sys, papermill
from sic.report import notebook

def struck(*_, **options):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        raise RuntimeError("cannot read from the kernel")

papermill.execute_notebook = struck
sys.argv = ["notebook", "book.ipynb", "reports/a"]
notebook.main()
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == STOPPED, run.stderr
    assert "was stopped; run the same command again to go on" in run.stderr
    assert "Traceback" not in run.stderr
    assert not list(Path("build/failed").iterdir())


def wait_until(condition: Callable[[], bool], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)


def is_running(pid: int) -> bool:
    if not psutil.pid_exists(pid):
        return False
    return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_missing_notebook_is_named() -> None:
    with pytest.raises(SicError, match=r"^cannot read absent.ipynb: No such file"):
        execute(Path("absent.ipynb"), Path("reports/a"), {})


@pytest.mark.parametrize("name", ["conda-env-vision-py", None])
def test_a_notebook_saved_by_another_kernel_runs_as_this_python(name: str | None) -> None:
    book = write(Path("book.ipynb"), "m = 1", "import sys\nprint(sys.executable, m)")
    saved = nbformat.read(book, as_version=4)
    del saved.metadata["kernelspec"]
    if name:
        saved.metadata["kernelspec"] = {"name": name, "display_name": name, "language": "python"}
    book.write_text("\ufeff" + nbformat.writes(saved), encoding="utf-8")  # as Windows editors do
    execute(book, Path("reports/a"), {"m": 5})
    done = nbformat.read("reports/a/notebook.ipynb", as_version=4)
    assert done.cells[-1].outputs[0].text == f"{sys.executable} 5\n"
    assert done.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("{\n<<<<<<< HEAD\n=======\n>>>>>>> b\n}", "holds both sides of a merge; choose one"),
        ("[]", "is not a notebook"),
        ("{}", "is not a notebook"),
        ('{"nbformat": 99, "cells": []}', "is not a notebook"),
        ("m = 5", "is not a notebook"),
        ("caf\xe9", "is not a notebook"),
        ("", "is not a notebook"),
    ],
)
def test_what_is_no_notebook_is_one_line(content: str, line: str) -> None:
    Path("book.ipynb").write_bytes(content.encode("latin-1"))
    with pytest.raises(SicError, match=rf"^book\.ipynb {line}"):
        read(Path("book.ipynb"))


# ---- the study's own ----


@pytest.mark.parametrize("book", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda b: b.stem)
def test_every_notebook_goes_to_the_study_s_folder_before_it_reads_anything(book: Path) -> None:
    cells = nbformat.read(book, as_version=4).cells
    first, second = [cell for cell in cells if cell.cell_type == "code"][:2]
    assert first.metadata.tags == ["parameters"]
    assert first.source.startswith('parameters = "params.yaml"')
    before = second.source.partition("files.enter_study()\n")[0]
    assert before != second.source
    assert "load" not in before
    assert "Path(" not in before


def test_a_notebook_runs_in_its_own_folder_as_jupyterlab_and_nbconvert_start_it() -> None:
    for name in ("params.yaml", "notebooks/10_data.ipynb"):
        Path(name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, name)
    Path("data").mkdir()
    Path("data/pictures").symlink_to(ROOT / "data/pictures")
    words = ["--execute", "--to=notebook", "--output=done", "notebooks/10_data.ipynb"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "nbconvert", *words], check=True, env=environment)
    assert Path("data/images.json").is_file()
    made = {path.name for path in Path("notebooks").iterdir()}
    assert made <= {"10_data.ipynb", "done.ipynb", ".ipynb_checkpoints"}


def test_formulas_are_drawn_by_the_browser_and_dollars_stay() -> None:
    text = r"""# Rate in $

The rate is $R(\hat y)$.  It costs $5 and $6; `$HOME$` is a folder.

$$L = R + \lambda \cdot 255^2 \cdot
\mathrm{mse}(x, \hat x)$$
"""
    execute(write(Path("book.ipynb"), "m = 1", prose=text), Path("reports/a"), {})
    page = Path("reports/a/index.html").read_text()
    assert page.count("<math") == 2
    assert "<mi>L</mi><mo>&#x0003D;</mo><mi>R</mi>" in page, "with what is inside"
    assert not re.search("[\ue000-\uf8ff]", page)
    assert page.count('display="block"') == 1
    assert "It costs $5 and $6; <code>$HOME$</code>" in page
    assert r"\lambda" not in page
    broken = write(Path("book.ipynb"), "m = 1", prose="$a_$")
    with pytest.raises(SicError, match=r"^no formula in LaTeX: \$a_\$$"):
        execute(broken, Path("reports/a"), {})
