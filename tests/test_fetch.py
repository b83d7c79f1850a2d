import hashlib
import socket
import ssl
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server import serving

from sic import files as module
from sic.errors import SicError
from sic.files import fetch

CONTENT = np.random.default_rng(0).bytes(300_000)
CHECKSUM = hashlib.sha256(CONTENT).hexdigest()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"f.zip.lock"}


def test_a_file_is_fetched_once(tmp_path: Path) -> None:
    with serving({"/f.zip": CONTENT}) as site:
        for _ in range(2):
            assert fetch(f"{site.address}/f.zip", tmp_path / "f.zip", CHECKSUM).exists()
        assert len(site.asked) == 1
    assert (tmp_path / "f.zip").read_bytes() == CONTENT
    assert names(tmp_path) == {"f.zip"}


def test_size_and_place_are_said_before_the_first_byte(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving({"/f.zip": CONTENT}) as site:
        (tmp_path / "f.zip.part").write_bytes(CONTENT[:100_000])
        fetch(f"{site.address}/f.zip", tmp_path / "f.zip", CHECKSUM)
        said = capsys.readouterr().err.splitlines()[0]
        wanted = f"downloading {site.address}/f.zip: 0.3 MB, 0.1 MB of them there, to {tmp_path} ("
    assert said.startswith(wanted)
    assert said.endswith(" MB free)")


def test_a_disk_without_room_is_told_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 200_000})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    with (
        serving({"/f.zip": CONTENT}) as site,
        pytest.raises(SicError, match=r"f\.zip: 0\.3 MB, and .* has 0 MB free; free some space$"),
    ):
        fetch(f"{site.address}/f.zip", tmp_path / "f.zip", CHECKSUM)
    assert names(tmp_path) <= {"f.zip.part"}


def test_a_connection_that_breaks_is_taken_up_where_it_broke(tmp_path: Path) -> None:
    with serving({"/f.zip": CONTENT}) as site:
        site.break_after = 100_000
        fetch(f"{site.address}/f.zip", tmp_path / "f.zip", CHECKSUM, pause=0)
        assert [r for _, r in site.asked] == [None, "bytes=100000-", "bytes=200000-"]
    assert (tmp_path / "f.zip").read_bytes() == CONTENT


def test_a_server_without_ranges_is_asked_anew(tmp_path: Path) -> None:
    with serving({"/f.zip": CONTENT}) as site:
        site.ranges = False
        (tmp_path / "f.zip.part").write_bytes(b"old" * 1000)
        fetch(f"{site.address}/f.zip", tmp_path / "f.zip", CHECKSUM)
    assert (tmp_path / "f.zip").read_bytes() == CONTENT


def test_a_stopped_run_leaves_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: float) -> None:
        raise KeyboardInterrupt

    with serving({"/f.zip": CONTENT}) as site:
        site.break_after = 100_000
        with monkeypatch.context() as patch:
            patch.setattr(module.time, "sleep", stop)
            with pytest.raises(KeyboardInterrupt):
                fetch(f"{site.address}/f.zip", tmp_path / "f.zip", CHECKSUM)
        assert (tmp_path / "f.zip.part").read_bytes() == CONTENT[:100_000]
        assert not (tmp_path / "f.zip").exists()
        site.break_after = None
        fetch(f"{site.address}/f.zip", tmp_path / "f.zip", CHECKSUM)
        assert site.asked[-1][1] == "bytes=100000-"
    assert (tmp_path / "f.zip").read_bytes() == CONTENT


def test_wrong_bytes_are_removed(tmp_path: Path) -> None:
    with serving({"/f.zip": CONTENT[:-1] + b"?"}) as site:
        with pytest.raises(SicError, match="other bytes than expected"):
            fetch(f"{site.address}/f.zip", tmp_path / "f.zip", CHECKSUM)
        assert names(tmp_path) == set()
        site.files["/f.zip"] = CONTENT
        fetch(f"{site.address}/f.zip", tmp_path / "f.zip", CHECKSUM)
    assert names(tmp_path) == {"f.zip"}


def test_more_bytes_left_than_the_file_has_are_removed(tmp_path: Path) -> None:
    with serving({"/f.zip": CONTENT}) as site:
        (tmp_path / "f.zip.part").write_bytes(CONTENT + b"more")
        with pytest.raises(SicError, match="other bytes"):
            fetch(f"{site.address}/f.zip", tmp_path / "f.zip", CHECKSUM)
    assert names(tmp_path) == set()


def test_a_whole_part_is_recognised(tmp_path: Path) -> None:
    with serving({"/f.zip": CONTENT}) as site:
        (tmp_path / "f.zip.part").write_bytes(CONTENT)
        fetch(f"{site.address}/f.zip", tmp_path / "f.zip", CHECKSUM)
    assert (tmp_path / "f.zip").read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(tmp_path: Path) -> None:
    with serving({"/f.zip": CONTENT}) as site:
        site.refusals = [503, 429, 500]
        fetch(f"{site.address}/f.zip", tmp_path / "f.zip", CHECKSUM, pause=0)
        assert len(site.asked) == 4


@pytest.mark.parametrize(
    "reason",
    [
        socket.gaierror(-3, "Temporary failure in name resolution"),
        ConnectionRefusedError(111, "Connection refused"),
        OSError(101, "Network is unreachable"),
        OSError(113, "No route to host"),
    ],
    ids=lambda reason: reason.strerror,
)
def test_without_a_network_the_one_line_comes_at_once(
    reason: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_: object, **__: object) -> None:
        tried.append(1)
        raise reason

    tried: list[int] = []
    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(module.time, "sleep", lambda _: pytest.fail("waits for a network"))
    with pytest.raises(SicError, match=f"cannot reach http://x.y/f.zip: .*{reason.strerror}; "):
        fetch("http://x.y/f.zip", tmp_path / "f.zip", CHECKSUM)
    assert len(tried) == 1


def test_a_server_that_has_answered_or_is_slow_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = socket.create_connection

    def failing(*args: Any, **more: Any) -> socket.socket:
        if failures:
            raise failures.pop(0)
        return connect(*args, **more)

    monkeypatch.setattr(socket, "create_connection", failing)
    refused = ConnectionRefusedError(111, "Connection refused")
    failures: list[OSError] = [TimeoutError("timed out"), refused]
    with serving({"/f.zip": CONTENT}) as site:
        fetch(f"{site.address}/f.zip", tmp_path / "f.zip", CHECKSUM, pause=0)
        site.break_after = 200_000
        monkeypatch.setattr(module.time, "sleep", lambda _: failures.append(refused))
        with pytest.raises(SicError, match=r"refused; 200,000 bytes are there, run the same"):
            fetch(f"{site.address}/f.zip", tmp_path / "g.zip", CHECKSUM)


def test_a_broken_secure_connection_is_taken_up_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, broken = module._append, [1, 1]

    def breaking(url: str, part: Path) -> None:
        if broken:
            broken.pop()
            raise ssl.SSLEOFError(8, "EOF occurred in violation of protocol")
        append(url, part)

    monkeypatch.setattr(module, "_append", breaking)
    with serving({"/f.zip": CONTENT}) as site:
        fetch(f"{site.address}/f.zip", tmp_path / "f.zip", CHECKSUM, pause=0)
    assert (tmp_path / "f.zip").read_bytes() == CONTENT


def test_errors_are_one_line_with_the_address(tmp_path: Path) -> None:
    with serving({}) as site:
        with pytest.raises(SicError, match=r"f\.zip: 404 .*check the address"):
            fetch(f"{site.address}/f.zip", tmp_path / "f.zip", CHECKSUM)
        gone = site.address
    with pytest.raises(SicError, match=r"cannot reach .*run the same command again") as error:
        fetch(f"{gone}/f.zip", tmp_path / "f.zip", CHECKSUM)
    assert "\n" not in str(error.value)
    with pytest.raises(SicError, match="http"):
        fetch("ftp://x/f.zip", tmp_path / "f.zip", CHECKSUM)


def test_a_full_disk_is_one_line_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with serving({"/f.zip": CONTENT}) as site:
        (tmp_path / "f.zip.part").write_bytes(CONTENT[:1000])
        with monkeypatch.context() as patch:
            patch.setattr(module, "_append", full)
            with pytest.raises(SicError, match="No space left on device; free some space"):
                fetch(f"{site.address}/f.zip", tmp_path / "f.zip", CHECKSUM)
        fetch(f"{site.address}/f.zip", tmp_path / "f.zip", CHECKSUM)
        assert site.asked[-1][1] == "bytes=1000-"
