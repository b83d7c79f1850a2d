"""ffmpeg as a coder of pictures: raw samples in and out, and which programs are asked."""

import stat
from pathlib import Path

import numpy as np
import pytest
from skimage import data

from sic.anchors import programs
from sic.anchors.programs import Ffmpeg
from sic.errors import SicError

PHOTO = np.ascontiguousarray(data.coffee()[100:137, 200:251])
LOSSLESS = ["-c:v", "ffv1"]


@pytest.fixture(scope="module")
def program() -> Ffmpeg:
    found = next(programs.ffmpegs(), None)
    if found is None:
        pytest.skip("no ffmpeg for this machine, neither on the PATH nor in a wheel")
    return found


def script(folder: Path, source: str) -> None:
    path = folder / "ffmpeg"
    path.write_text(f"#!/bin/sh\n{source}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_samples_come_back_as_they_went(program: Ffmpeg) -> None:
    raw = PHOTO.tobytes()
    stream, said = program.encode(raw, "rgb24", (51, 37), [*LOSSLESS, "-pix_fmt", "gbrp"], "nut")
    assert "ffv1" in said
    assert len(stream) < 2 * len(raw)
    assert program.decode(stream, ["-f", "nut"], "rgb24") == raw


def test_several_pictures_lie_one_after_the_other(program: Ffmpeg) -> None:
    raw = PHOTO.tobytes() + PHOTO[::-1].tobytes()
    stream, _ = program.encode(raw, "rgb24", (51, 37), [*LOSSLESS, "-pix_fmt", "gbrp"], "nut")
    assert program.decode(stream, ["-f", "nut"], "rgb24") == raw


def test_a_failure_is_one_line_that_says_what_ffmpeg_said(program: Ffmpeg) -> None:
    with pytest.raises(SicError, match=r"failed on .*-c:v no_such_coder.*: .*rror") as caught:
        program.encode(PHOTO.tobytes(), "rgb24", (51, 37), ["-c:v", "no_such_coder"], "nut")
    assert "\n" not in str(caught.value)
    with pytest.raises(SicError, match="failed on"):
        program.decode(b"no stream", ["-f", "nut"], "rgb24")


def test_a_program_is_proved_not_believed(program: Ffmpeg) -> None:
    assert program.prove("rgb24", [*LOSSLESS, "-pix_fmt", "gbrp"], "nut", ["-f", "nut"])
    assert program.prove("rgb24", ["-c:v", "no_such_coder"], "nut", ["-f", "nut"]) is None
    assert program.prove("rgb24", [*LOSSLESS, "-pix_fmt", "gbrp"], "nut", ["-f", "vvc"]) is None


def test_the_ffmpeg_on_the_path_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, "echo 'ffmpeg version 7.0.2-static Copyright (c) 2000-2024'")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    first, *others = programs.ffmpegs()
    assert first == Ffmpeg(str(tmp_path / "ffmpeg"), "7.0.2")
    assert all("imageio_ffmpeg" in other.path for other in others)


def test_without_any_ffmpeg_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_binary() -> str:
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", no_binary)
    assert list(programs.ffmpegs()) == []
