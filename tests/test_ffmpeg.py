"""ffmpeg as a coder of pictures: raw samples in and out, and which programs are asked."""

import stat
from pathlib import Path

import numpy as np
import pytest
from skimage import data

from sic.anchors import programs
from sic.anchors.programs import CodecError, Ffmpeg, MissingCodec
from sic.errors import SicError

PHOTO = np.ascontiguousarray(data.coffee()[100:137, 200:251])
LOSSLESS = ["-c:v", "ffv1"]


@pytest.fixture(scope="module")
def program() -> Ffmpeg:
    try:
        return programs.first(lambda program: program)
    except MissingCodec as error:
        pytest.skip(str(error))


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
    with pytest.raises(
        SicError, match=r"failed on .*-c:v no_such_coder.*: Unknown encoder"
    ) as caught:
        program.encode(PHOTO.tobytes(), "rgb24", (51, 37), ["-c:v", "no_such_coder"], "nut")
    assert "\n" not in str(caught.value)
    with pytest.raises(SicError, match="failed on"):
        program.decode(b"no stream", ["-f", "nut"], "rgb24")


def test_a_program_is_proved_not_believed(program: Ffmpeg) -> None:
    assert program.prove("rgb24", [*LOSSLESS, "-pix_fmt", "gbrp"], "nut", ["-f", "nut"])
    with pytest.raises(CodecError, match="nknown encoder"):
        program.prove("rgb24", ["-c:v", "no_such_coder"], "nut", ["-f", "nut"])
    with pytest.raises(CodecError, match="nvalid"):
        program.prove("rgb24", [*LOSSLESS, "-pix_fmt", "gbrp"], "nut", ["-f", "vvc"])


def test_the_ffmpeg_on_the_path_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, "echo 'ffmpeg version 7.0.2-static Copyright (c) 2000-2024'")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    chosen = programs.first(lambda program: program)
    assert chosen == Ffmpeg(str(tmp_path / "ffmpeg"), "7.0.2")
    _, *others = programs.ffmpegs()
    assert all("imageio_ffmpeg" in other for other in others)


#: Programs that stand on the PATH as ffmpeg and are none that runs here, and what is said of them.
BROKEN = {
    "architecture": (b"\x7fELF\x02\x01\x01" + bytes(57), "Exec format error"),
    "interpreter": (b"#!/nowhere/loader\n", "No such file or directory"),
    "text": (b"#!/bin/sh\nprintf 'ffmpeg \\351version'\n", "it does not say that it is ffmpeg"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_program_that_does_not_run_is_passed_over(
    name: str, program: Ffmpeg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, reason = BROKEN[name]
    script(tmp_path, "")
    (tmp_path / "ffmpeg").write_bytes(content)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert programs.first(lambda program: program).version == program.version
    only = [str(tmp_path / "ffmpeg")]
    monkeypatch.setattr(programs, "ffmpegs", lambda: iter(only))
    with pytest.raises(MissingCodec, match=f"{only[0]}: {reason}"):
        programs.first(lambda program: program)


def test_a_program_that_the_environment_names_in_vain_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not list(Path(programs.imageio_ffmpeg.__file__).parent.glob("binaries/ffmpeg-*")):
        pytest.skip("the wheel of imageio-ffmpeg has no program for this machine")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", lambda: "/nowhere")
    assert next(programs.ffmpegs()) == "/nowhere"
    assert "binaries" in programs.first(lambda program: program).path


def test_a_program_that_was_stopped_lacks_nothing(tmp_path: Path) -> None:
    script(tmp_path, "kill -9 $$")
    with pytest.raises(SicError, match="was stopped") as error:
        Ffmpeg(str(tmp_path / "ffmpeg"), "7").decode(b"", [], "rgb24")
    assert not isinstance(error.value, CodecError), "no picture is left out for it"


def test_without_any_ffmpeg_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_binary() -> str:
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", no_binary)
    monkeypatch.setattr("imageio_ffmpeg.__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(MissingCodec, match="neither on the PATH nor in a wheel"):
        programs.first(lambda program: program)
