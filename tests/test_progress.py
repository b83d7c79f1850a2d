"""Progress can be seen: lines in a log, a bar in a terminal, and both from inside of a kernel."""

import contextlib
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from sic import progress

ROOT = Path(__file__).parents[1]


def test_a_log_gets_whole_lines_with_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_PAUSE", 0.0)
    for number in progress.bar(range(3), desc="masks", unit="mask"):
        if number == 1:
            progress.say("one was damaged")
    text = capsys.readouterr().err
    assert "\r" not in text
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[0].startswith("masks:   0% 0/3 [00:00<?, ?mask/s]")
    assert lines[-1].startswith("masks: 100% 3/3 [00:00<00:00, ")
    assert "one was damaged" in lines


def test_a_log_of_a_fast_loop_is_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    list(progress.bar(range(10_000), desc="masks"))
    assert len(capsys.readouterr().err.splitlines()) == 2


def in_a_terminal(columns: int, *command: str) -> str:
    """What a program that must end well shows in a terminal of so many columns."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    screen: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    child = subprocess.Popen([sys.executable, *command], **screen)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # its end is closed
        while text := os.read(ours, 4096):
            shown += text
    os.close(ours)
    assert child.wait() == 0, shown.decode()
    return shown.decode()


def test_a_terminal_gets_a_bar_and_one_without_width_gets_lines() -> None:
    program = "from sic import progress; list(progress.bar(range(3), desc='masks'))"
    assert "\rmasks: 100%|█" in in_a_terminal(80, "-c", program)
    assert "\r\nmasks: 100% 3/3" in in_a_terminal(0, "-c", program)


def test_a_screen_that_was_lent_to_another_process_is_not_missed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    progress._lent.cache_clear()
    monkeypatch.setenv(progress.SCREEN, "987")
    progress.say("here")
    progress._lent.cache_clear()
    assert capsys.readouterr().err == "here\n"


def test_a_stage_shows_the_bars_of_its_notebook_and_no_noise_in_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = "from sic import progress\nlist(progress.bar(range(3), desc='work', unit='step'))"
    parameters = new_code_cell("n = 1", metadata={"tags": ["parameters"]})
    cells = [nbformat.v4.new_markdown_cell("# Q"), parameters, new_code_cell(work)]
    nbformat.write(new_notebook(cells=cells), tmp_path / "book.ipynb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("DVC_STAGE", "evaluate")
    text = in_a_terminal(80, "-m", "sic.report.notebook", "book.ipynb", "reports/a")
    assert "work: 100%|█" in text
    assert "evaluate: 100%|█" in text
    assert "WARNING" not in text
    assert "KeyboardInterrupt" not in text
