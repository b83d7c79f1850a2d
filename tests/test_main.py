"""The command line: exit codes, one line an error, nothing half-written."""

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from skimage import data
from test_bitstream import additional, base
from test_segment import written_study

from sic import images, params
from sic.__main__ import main
from sic.codec import weights
from sic.masks import edges, segment
from sic.stream.container import read_layers
from sic.stream.scalable import ScalableCodec
from sic.training import jobs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with weights and two photos."""
    monkeypatch.chdir(tmp_path)
    weights.save(tmp_path / "B", base(), {})
    weights.save(tmp_path / "E", additional(3), {})
    images.write_png(tmp_path / "photo.png", data.astronaut()[:50, :70])
    images.write_png(tmp_path / "photos/one.png", data.astronaut()[:50, :70])
    images.write_png(tmp_path / "photos/two.png", data.coffee()[:40, :30])
    return tmp_path


def run(words: str) -> int:
    """Exit code of `python -m sic WORDS`."""
    try:
        main(words.split())
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else fail_line(exit_.code)
    return 0


def fail_line(message) -> int:
    """What Python prints for ``sys.exit(message)``, and its exit code."""
    print(message, file=sys.stderr)
    return 1


def test_a_reader_that_has_enough_is_no_error(tmp_path):
    """As `python -m sic info streams | head -1`."""
    stream = sorted((Path(__file__).parent / "streams").rglob("*.sic"))[0]
    command = [sys.executable, "-m", "sic", "info", *[str(stream)] * 500]
    done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    done.stdout.close()
    assert (done.stderr.read(), done.wait()) == (b"", 128 + 13)


def test_encode_decode_and_info(folder, capsys):
    weights_ = "--base B --enhancement E --device cpu"
    assert run(f"encode photo.png -o photo.sic {weights_}") == 0
    size = (folder / "photo.sic").stat().st_size
    line = rf"{size:,} bytes, {8 * size / 3500:.4f} bpp, \d+\.\d\d s\n"
    assert re.fullmatch(f"photo.sic: {line}", capsys.readouterr().out)
    assert run(f"decode photo.sic -o human.png {weights_}") == 0
    assert re.fullmatch(f"human.png: {line}", capsys.readouterr().out)
    assert run(f"decode photo.sic -o machine.png --layer machine {weights_}") == 0
    assert run("decode photo.sic -o base.png --base B") == 0
    codec = ScalableCodec(base(), additional(3))
    stream = codec.encode(images.read("photo.png"))
    assert (folder / "photo.sic").read_bytes() == stream
    np.testing.assert_array_equal(images.read("human.png"), codec.decode(stream, "human"))
    for name in ("machine.png", "base.png"):
        np.testing.assert_array_equal(images.read(name), codec.decode(stream, "machine"))
    capsys.readouterr()
    assert run("info photo.sic") == 0
    assert f"{len(stream)} bytes" in capsys.readouterr().out


def test_steps_and_targets(folder, capsys):
    both = "--base B --enhancement E"
    assert run(f"encode photo.png -o a.sic {both} --step 1.5 --base-step 0.75") == 0
    codec = ScalableCodec(base(), additional(3))
    image = images.read("photo.png")
    assert (folder / "a.sic").read_bytes() == codec.encode(image, 1.5, 0.75)
    assert run("info a.sic") == 0
    told = capsys.readouterr().out
    assert "base: 5 slices, step 0.75, weights" in told
    assert "fusion: 3 slices, step 1.5, weights" in told
    assert run(f"decode a.sic -o a.png {both}") == 0
    np.testing.assert_array_equal(
        images.read("a.png"), codec.decode(codec.encode(image, 1.5, 0.75), "human")
    )
    assert run(f"encode photo.png -o b.sic {both} --bytes 1500 --base-bpp 1.2") == 0
    first, second = read_layers((folder / "b.sic").read_bytes())
    assert 1455 <= first.size + second.size <= 1500
    assert 1.16 <= 8 * first.size / 3500 <= 1.2
    capsys.readouterr()
    assert run("encode photo.png -o c.sic --base B --bytes 100") == 1
    said = r"sic: photo\.png: 100 bytes cannot be reached: with these weights the picture has "
    said += (
        r"\d+ bytes \(step 16\) to [\d,]+ bytes \(step 0\.0625\); ask for a value between them\n"
    )
    assert re.fullmatch(said, capsys.readouterr().err)
    assert not (folder / "c.sic").exists()


def test_targets_hold_for_each_picture_of_a_folder(folder, capsys):
    words = "encode photos -o streams --base B --bpp"
    assert run(f"{words} 1.9") == 0
    for name, pixels in (("one", 3500), ("two", 1200)):
        bpp = 8 * (folder / f"streams/{name}.sic").stat().st_size / pixels
        assert 1.84 <= bpp <= 1.9
    capsys.readouterr()
    assert run(f"{words} 1.9") == 0
    assert "2 of 2 left as they are" in capsys.readouterr().out
    assert run(f"{words} 0.1") == 1, "steps of before do not vouch for others"
    assert "2 of 2 files failed" in capsys.readouterr().err


def test_folders(folder, capsys):
    assert run("encode photos -o streams --base B --enhancement E --split") == 0
    names = sorted(p.name for p in (folder / "streams").iterdir())
    assert names == [".sources", "one.enhancement.sic", "one.sic", "two.enhancement.sic", "two.sic"]
    assert run("decode streams -o pictures --base B --enhancement E") == 0
    assert images.read("pictures/two.png").shape == (40, 30, 3)
    assert "2/2" in capsys.readouterr().err  # the progress bar
    assert run("info streams") == 0
    assert capsys.readouterr().out.count("pixels, RGB8") == 4


def test_folders_without_what_is_asked_for_are_one_line(folder, capsys):
    assert run("encode photos -o streams --base B --enhancement E --split") == 0
    (folder / "streams/one.sic").unlink()
    assert run("decode streams -o mixed --base B --enhancement E") == 1
    said = capsys.readouterr()
    assert "one.enhancement.sic is an enhancement alone; put its base, one.sic, beside" in said.err
    assert "1 of 2 files failed; the others are done" in said.err
    assert [file.name for file in (folder / "mixed").iterdir()] == ["two.png"]
    (folder / "streams/two.sic").unlink()
    (folder / "streams/two.enhancement.sic").unlink()
    assert run("decode streams -o alone --base B --layer machine") == 1
    assert capsys.readouterr().err == (
        "sic: streams/one.enhancement.sic is an enhancement alone; put its base, one.sic, "
        "beside it\n"
    )
    (folder / "empty").mkdir()
    for words in ("encode empty -o x --base B", "decode photos -o x --base B", "info photos"):
        assert run(words) == 1
        assert "holds no file ending in ." in capsys.readouterr().err
    assert not (folder / "alone").exists()
    assert not (folder / "x").exists()


def test_segment(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = written_study(tmp_path, 4)
    assert run("segment") == 0
    header = segment.describe(tmp_path / "data" / "segments")
    assert header["images"] == 4
    said = f"{header['records']} segments of 4 images in data/segments\n"
    assert capsys.readouterr().out == said
    (Path(study.data.root) / "00.png").write_bytes(b"")
    shutil.rmtree(tmp_path / "checkpoints")
    assert run("segment") == 1
    assert "00.png is not an image that can be read" in capsys.readouterr().err


def test_edges_leaves_the_masks_for_the_stage(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = written_study(tmp_path, 3)
    assert run("edges") == 1
    assert "run the segment stage first" in capsys.readouterr().err
    assert run("segment") == run("edges") == 0
    assert "`dvc repro` takes them up" in capsys.readouterr().out

    def drawn_already(*_):
        raise AssertionError

    monkeypatch.setattr(edges, "mask", drawn_already)
    assert len(edges.run(study)) == len(list(Path("data/edges").iterdir())) == 3


def test_the_docs_name_commands_that_there_are(capsys):
    root = Path(__file__).parents[1]
    named = set()
    for page in (root / "README.md", *(root / "docs").glob("*.md")):
        named |= set(re.findall(r"-m sic( [\w-]+|[.][\w.]*\w)", page.read_text()))
    assert {" encode", " segment", " edges", " train"} <= named
    for words in named:
        if words[0] == " ":
            assert run(f"{words} --help") == 0, words
        else:
            assert find_spec(f"sic{words}"), f"python -m sic{words} is no command"
    capsys.readouterr()


def test_train_leaves_a_finished_run_for_the_stage(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = Path(__file__).parents[1] / "params.yaml"
    (tmp_path / "params.yaml").write_text(study.read_text())
    trained = []
    job = SimpleNamespace(train=lambda: trained.append("q2"), run=SimpleNamespace(name="lic/q2"))
    monkeypatch.setattr(jobs, "job", lambda _, words: trained.append(words) or job)
    assert run("train lic/q2") == 0
    assert trained == ["lic/q2", "q2"]
    assert capsys.readouterr().out == "lic/q2 is trained; `dvc repro` takes it up\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("encode none.png -o a.sic --base B", "cannot read none.png"),
        ("encode photo.png -o a.sic --base none", "no checkpoint none; name a .safetensors file"),
        ("encode photo.png -o a.sic --base B --enhancement none", "no checkpoint none; name a"),
        ("encode photo.png -o a.sic --base photos", "photos is a folder; name a .safetensors"),
        ("import-weights none.pth.tar --as base", "no file none.pth.tar; give the path"),
        ("encode photo.png -o a.sic --base E", "an additional codec is no base"),
        ("encode photo.png -o a.jpg --base B", "a.jpg should end in .sic"),
        ("encode photo.png -o a.sic --base B --split", "--split needs an --enhancement"),
        ("encode photo.png -o B/a.sic --base B", "cannot write B/a.sic"),
        ("encode photo.png -o a.sic --base B --step 20", "step 20 is not from 0.0625 to 16"),
        ("encode photo.png -o a.sic --base B --step 2 --bpp 1", "--step and --bpp each choose the"),
        (
            "encode photo.png -o a.sic --base B --enhancement E --base-step 2 --base-bpp 1",
            "--base-step and --base-bpp each choose the step of the same layer; give one of them",
        ),
        ("encode photo.png -o a.sic --base B --base-bpp 1", "--base-bpp need an --enhancement"),
        ("encode photo.png -o a.sic --base B --psnr -3", "psnr should be a number above 0, not -3"),
        ("decode none.sic -o a.png --base B", "cannot read none.sic"),
        ("decode photo.png -o a.png --base B", "not a .sic stream"),
        ("decode a.sic -o a.png --base B --layer human", "--layer human needs --enhancement"),
        ("info photo.png", "photo.png: not a .sic stream"),
        ("info none.sic", "cannot read none.sic"),
        ("segment", "cannot read params.yaml: No such file or directory; run from the study"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_1(folder, capsys, words, message):
    before = sorted(folder.rglob("*"))
    assert run(words) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("sic: ")
    assert error.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("words", ["", "encode photo.png", "decode a.sic", "sing"])
def test_wrong_usage_is_exit_code_2(words, capsys):
    assert run(words) == 2
    assert "usage: sic" in capsys.readouterr().err


def test_a_missing_gpu_is_said(folder, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert run("encode photo.png -o a.sic --base B --device cuda") == 1
    assert "--device: PyTorch finds no GPU here" in capsys.readouterr().err


def test_stopping_is_exit_code_130_and_leaves_nothing(folder, capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ScalableCodec, "encode_batch", stop)
    assert run("encode photo.png -o a.sic --base B") == 130
    assert not (folder / "a.sic").exists()


def test_without_a_name_the_base_is_the_shipped_one_below_the_second_layers(folder, capsys):
    shutil.copy(Path(__file__).parents[1] / "params.yaml", folder)
    shipped = folder / f"data/weights/{params.load().base}.safetensors"
    shipped.parent.mkdir(parents=True)
    shutil.copy(folder / "B", shipped)
    assert run("encode photo.png -o short.sic --enhancement E") == 0
    assert run("encode photo.png -o long.sic --enhancement E --base B") == 0
    assert Path("short.sic").read_bytes() == Path("long.sic").read_bytes()
    assert run("decode short.sic -o human.png --enhancement E") == 0
    Path("params.yaml").unlink()
    capsys.readouterr()
    assert run("encode photo.png -o none.sic") == 1
    said = capsys.readouterr().err
    assert said == "sic: --base: name the base's weights; there is no params.yaml to name them\n"


@pytest.mark.parametrize(
    "words",
    [
        "encode photo.png -o a.sic --base none",
        "encode none.png -o a.sic --base B",
        "encode photo.png -o a.jpg --base B",
        "encode photo.png -o a.sic --base B --bytes 0",
        "decode photo.sic -o a.png --base B --layer human",
        "import-weights none.pth.tar --as base",
        "--help",
    ],
)
def test_what_is_missing_is_said_before_pytorch_is_imported(folder, words):
    (folder / "photo.sic").touch()
    program = (
        "import sys; from sic.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: assert 'torch' not in sys.modules, 'late'"
    )
    command = [sys.executable, "-c", program, *words.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "late" not in done.stderr
    assert (done.returncode, done.stderr.count("\n")) == ((0, 0) if "--help" in words else (1, 1))


def test_info_starts_without_pytorch(folder):
    run("encode photo.png -o photo.sic --base B")
    program = (
        "import sys; from sic.__main__ import main; main(['info', 'photo.sic']); "
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_a_stage_starts_without_what_takes_as_long_as_all_else():
    program = (
        "import sys; from sic.training import jobs; from sic.report import provenance, verify; "
        "slow = {'compressai', 'torch._dynamo', 'torchvision', 'lightning_fabric', 'scipy'}; "
        "print(slow & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert done.stdout.strip() == b"set()"
