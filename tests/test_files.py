"""Files are written whole or not at all, whatever goes wrong."""

import errno
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sic.errors import SicError
from sic.files import (
    files_below,
    read_tensors,
    replacing,
    replacing_folder,
    sha256,
    short_name,
    write_bytes,
    write_text,
)

# A program that writes 4 MB in each of the ways in which the study writes checkpoints.
WRITERS = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save
from sic.errors import SicError
from sic.files import write_bytes

path, weights = Path(sys.argv[1]), {"weight": torch.zeros(1_000_000)}

for write in (
    lambda: write_bytes(path, bytes(4_000_000)),
    lambda: write_bytes(path, save(weights)),
):
    try:
        write()
        print("written")
    except SicError as error:
        print(error)
print(sorted(found.name for found in path.parent.iterdir()))
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def interrupted_after(path: Path) -> None:
    path.write_text("half")
    raise KeyboardInterrupt


def no_large_files() -> None:
    """The kernel refuses files above 1 MB, as it does on a disk without room."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))


def test_a_refused_write_is_one_line_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    path.write_bytes(b"the last good one")
    answer = subprocess.run(
        [sys.executable, "-c", WRITERS, path],
        preexec_fn=no_large_files,
        capture_output=True,
        text=True,
        check=False,
    )
    *lines, left = answer.stdout.splitlines()
    reason = "File too large; check the folder and its permissions"
    assert lines == [f"cannot write {path}: {reason}"] * 2
    assert left == "['checkpoint']"
    assert path.read_bytes() == b"the last good one"


def test_a_full_disk_is_one_line_that_asks_for_space(tmp_path: Path) -> None:
    # A small file system that only this command sees.
    unshare = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=1m tmpfs '{tmp_path}'"
    if shutil.which("unshare") is None or subprocess.run([*unshare, mount], check=False).returncode:
        pytest.skip("this system does not let a test mount a small file system")
    path = tmp_path / "checkpoint"
    answer = subprocess.run(
        [*unshare, f"{mount} && exec '{sys.executable}' - '{path}'"],
        input=WRITERS,
        capture_output=True,
        text=True,
        check=False,
    )
    *lines, left = answer.stdout.splitlines()
    reason = "No space left on device; free some space and run the same command again"
    assert lines == [f"cannot write {path}: {reason}"] * 2
    assert left == "[]", "something half-written is left"


def test_a_failed_block_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        interrupted_after(temporary)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["table.csv"]


def test_an_error_of_the_program_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), replacing(tmp_path / "a"):
        raise RuntimeError("shapes differ")
    assert names(tmp_path) == []


def test_a_file_appears_with_its_last_byte_only(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    with replacing(path) as temporary:
        temporary.write_bytes(b"half")
        assert not path.exists()
        assert temporary.parent == path.parent, "a rename is atomic within one file system only"
    assert path.read_bytes() == b"half"


#: Names that are as long as file systems allow, 255 bytes, or that a temporary name once was not.
LONG = ["a" * 240 + ".png", "a" * 255, "图" * 80 + ".png", "图" * 85, "😀" * 63 + "abc"]


@pytest.mark.parametrize("name", LONG)
def test_a_name_may_be_as_long_as_the_file_system_allows(name: str, tmp_path: Path) -> None:
    write_text(tmp_path / name, "first")
    write_text(tmp_path / name, "second")
    assert (tmp_path / name).read_text() == "second"
    with replacing_folder(tmp_path / f"folder/{name}") as temporary:
        (temporary / "inside").touch()
    assert names(tmp_path / f"folder/{name}") == ["inside"]
    assert names(tmp_path) == sorted([name, "folder"])


def test_a_name_that_is_too_long_is_one_line_that_asks_for_a_shorter(tmp_path: Path) -> None:
    with pytest.raises(SicError, match=r"File name too long; choose a shorter name$"):
        write_text(tmp_path / ("a" * 256), "")
    assert names(tmp_path) == []


@given(st.text(st.characters(exclude_characters="/\0"), min_size=1), st.integers(1, 99))
def test_short_names_leave_room_and_stand_for_one_name_each(start: str, times: int) -> None:
    name = os.fsdecode((start * times).encode("utf-8", "surrogatepass"))
    short = short_name(name)
    assert len(os.fsencode(short)) <= 240
    assert short_name(short) == short
    assert (short == name) == (len(os.fsencode(name)) <= 240)
    assert short_name(name + "1") != short_name(name + "2")


def test_files_have_the_permissions_of_any_other_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_bytes(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


@given(content=st.text())
def test_text_is_utf_8_and_lines_end_as_given(
    content: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("text") / "file"
    write_text(path, content)
    assert path.read_bytes() == content.encode()


def test_a_folder_in_the_way_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "results"
    (path / "inside").mkdir(parents=True)
    with pytest.raises(SicError, match=r"cannot write .*results: "):
        write_text(path, "")
    assert names(tmp_path) == ["results"]


def test_a_parent_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SicError, match=r"cannot write .*file/table\.csv: "):
        write_text(tmp_path / "file" / "table.csv", "")


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "masks"
    for name in ("first", "second"):
        with replacing_folder(path) as temporary:
            (temporary / name).write_text(name)
        assert names(path) == [name]
    with pytest.raises(KeyboardInterrupt), replacing_folder(path) as temporary:
        interrupted_after(temporary / "third")
    assert names(path) == ["second"]
    assert names(tmp_path) == ["masks"]


def test_checksums_are_those_of_sha256(tmp_path: Path) -> None:
    write_bytes(tmp_path / "abc", b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


# ---- checkpoints -----------------------------------------------------------------------------


class Code:
    """A pickle that would run code when loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("under", ["state_dict", None])
def test_the_tensors_of_a_checkpoint_come_back(under: str | None, tmp_path: Path) -> None:
    state = {"weight": torch.arange(5.0)}
    with replacing(tmp_path / "state") as temporary:
        torch.save({under: state, "epoch": 3} if under else state, temporary)
    found = read_tensors(tmp_path / "state")
    assert list(found) == ["weight"]
    assert torch.equal(found["weight"], state["weight"])


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "cannot read x.pth: No such file or directory; give the path of a checkpoint"),
        (b"no checkpoint", r"x.pth is refused: it is not a plain file of weights"),
        (b"", r"x.pth is not a whole checkpoint of tensors (EOFError); download it again"),
        (pickle.dumps(Code()), "x.pth is refused: it is not a plain file of weights"),
        ({"state_dict": {}, "hook": Code()}, "x.pth is refused: it is not a plain file of weights"),
        ({"score": np.float64(1)}, "x.pth holds NumPy values, not tensors alone; load it where"),
        ([1, 2], "x.pth holds no state dict: it must give tensors by name"),
        ({1: torch.zeros(2)}, "x.pth holds no state dict: it must give tensors by name"),
        ({"epoch": 3}, "x.pth holds no state dict: it must give tensors by name"),
    ],
)
def test_what_is_no_checkpoint_is_one_line(
    content: Any, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("x.pth")
    if content is not None:
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(SicError) as error:
        read_tensors(path)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)
    assert not Path("ran").exists()


def test_a_checkpoint_that_is_cut_off_is_one_line(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1000)}, tmp_path / "x.pth")
    whole = (tmp_path / "x.pth").read_bytes()
    (tmp_path / "x.pth").write_bytes(whole[:-500])
    with pytest.raises(SicError, match=r"x\.pth is not a whole checkpoint.*; download it again$"):
        read_tensors(tmp_path / "x.pth")


def test_a_folder_that_cannot_be_looked_into_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in" / "closed").mkdir(parents=True)
    (tmp_path / "in" / "a.png").touch()
    scandir = os.scandir

    def refuse(path: str) -> object:  # whoever runs the tests may be allowed to look everywhere
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(
        SicError, match=r"cannot read .*in/closed: Permission denied; check its per"
    ):
        files_below(tmp_path, {".png"})


def test_a_link_that_leads_nowhere_is_listed_for_its_reader_to_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "absent.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "b.png")
    assert [path.name for path in files_below(tmp_path, {".png"})] == ["a.png", "b.png"]
