"""The format's test vectors: every kind and version is there, all decode, and of what is not as it
must be the first stage is named."""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from write_vectors import STREAMS, write

from sic import images
from sic.__main__ import main
from sic.errors import SicError
from sic.stream import vectors
from sic.stream.container import Kind, read_layers
from sic.stream.scalable import ScalableCodec

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / vectors.VECTORS


def changed(tmp_path: Path, change: Callable[[Path], None]) -> Path:
    """The vectors after a change of their unpacked files."""
    with zipfile.ZipFile(SHIPPED) as archive:
        archive.extractall(tmp_path / "in")
    change(tmp_path / "in")
    return Path(shutil.make_archive(str(tmp_path / "changed"), "zip", tmp_path / "in"))


def test_every_kind_and_version_is_there_in_less_than_300_kb() -> None:
    assert SHIPPED.stat().st_size < 300_000
    with zipfile.ZipFile(SHIPPED) as archive:
        streams = [archive.read(name) for name in archive.namelist() if name.endswith(".sic")]
    layers = [layer for stream in streams for layer in read_layers(stream)]
    assert {layer.kind for layer in layers} == set(Kind)
    assert {stream[3] for stream in streams} == {1, 2}
    steps = {layer.step for layer in layers}
    assert min(steps) < 1 < max(steps)


def test_all_decode_here(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    main(["verify-streams"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(STREAMS)
    assert all(" stages are as they must be" in line for line in lines)
    assert any("fusion.sic (base in steps of 1, fusion in steps of 1): all 14" in o for o in lines)


def test_two_threads_and_plain_vector_code_give_the_same() -> None:
    other = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive", "ATEN_CPU_CAPABILITY": "default"}
    command = [sys.executable, "-m", "sic", "verify-streams", str(SHIPPED)]
    done = subprocess.run(
        command, cwd=ROOT, env=other | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("networks", "k", "first"),
    [
        ("cc_scale_transforms", 1, "base q 2"),
        ("cc_mean_transforms", 2, "base ŷ 3"),
        ("lrp_transforms", 0, "base ŷ 1"),
    ],
)
def test_the_first_stage_that_differs_is_named(
    networks: str, k: int, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = ScalableCodec.load

    def odd(*paths: Path) -> ScalableCodec:
        codec = load(*paths)
        with torch.no_grad():
            getattr(codec.base.latent_coder.codec, networks)[k][4].bias += 0.01
        return codec

    monkeypatch.setattr(ScalableCodec, "load", odd)
    for right, line in vectors.check(SHIPPED):
        assert not right
        assert f": {first} is the first of " in line, line


def test_a_picture_may_be_off_by_one_level_and_no_more(tmp_path: Path) -> None:
    def paint(folder: Path, levels: int) -> None:
        wanted = json.loads((folder / vectors.LIST).read_text())
        wanted["fusion.sic"]["stages"]["x̂"] = "0" * 16
        (folder / vectors.LIST).write_text(json.dumps(wanted))
        picture = images.read(folder / "fusion.human.png").copy()
        picture[0, 0, 0] += levels if picture[0, 0, 0] < 128 else -levels
        images.write_png(folder / "fusion.human.png", picture)

    path = changed(tmp_path, lambda folder: paint(folder, 1))
    found = dict(reversed(pair) for pair in vectors.check(path))
    (line,) = [line for line in found if line.startswith("fusion.sic")]
    assert line.endswith("as they must be, 1 samples of x̂ differ by one level")
    assert all(found.values())
    path = changed(tmp_path, lambda folder: paint(folder, 2))
    assert [right for right, _ in vectors.check(path)].count(False) == 1


def test_a_wrong_stream_ends_with_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def cut(folder: Path) -> None:
        wanted = json.loads((folder / vectors.LIST).read_text())
        wanted["residual.sic"]["stages"]["base z"] = "0" * 16
        (folder / vectors.LIST).write_text(json.dumps(wanted))

    with pytest.raises(SystemExit) as caught:
        main(["verify-streams", str(changed(tmp_path, cut))])
    assert str(caught.value.code).startswith(f"sic: 1 of {len(STREAMS)} streams do not decode")
    assert "residual.sic" in capsys.readouterr().out


def test_what_holds_no_vectors_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SicError, match=r"no test vectors .*none.zip; run from the study's folder"):
        list(vectors.check(tmp_path / "none.zip"))
    (tmp_path / "a.zip").write_bytes(b"no zip")
    with pytest.raises(SicError, match=r"a.zip holds no test vectors \(File is not a zip file\)"):
        list(vectors.check(tmp_path / "a.zip"))


def test_the_script_that_made_them_still_makes_streams_that_decode(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    write(tmp_path / "vectors.zip", tmp_path / "files")
    assert all(right for right, _ in vectors.check(tmp_path / "vectors.zip"))
