"""`python -m sic import-weights`: from a published file to a codec that gives its numbers."""

from pathlib import Path

import pytest
import torch
from reference_weights import fill
from small import astronaut

from sic.__main__ import main
from sic.codec import weights
from sic.codec.fusion import AdditionalCodec
from sic.codec.tcm import TCM
from sic.files import sha256

# Published widths at the smallest N and M that they allow.
SIZES = {"N": 32, "M": 80, "num_slices": 5}
WORDS = ["--N", "32", "--M", "80"]


def published(codec: TCM, path: Path) -> None:
    state = {f"module.{key}": tensor for key, tensor in codec.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 49}, path)


def test_a_published_base_gives_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    codec = fill(TCM(**SIZES).eval(), "icm")
    published(codec, Path("icm.pth.tar"))
    main(["import-weights", "icm.pth.tar", "--as", "base", *WORDS])
    assert "data/weights/icm.safetensors: a TCM" in capsys.readouterr().out
    imported = weights.load(Path("data/weights/icm.safetensors"))
    x = astronaut(128, 128).float()
    with torch.inference_mode():
        assert torch.equal(imported(x)["x_hat"], codec(x)["x_hat"])
    origin = weights.metadata(Path("data/weights/icm.safetensors"))["origin"]
    assert origin == {
        "imported": "icm.pth.tar",
        "sha256": sha256(Path("icm.pth.tar")),
        "as": "base",
    }


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("0.0025checkpoint_best.pth.tar", "0.0025checkpoint_best"),
        ("0.05checkpoint_best.pth.tar", "0.05checkpoint_best"),
        ("icm.v2.pth", "icm.v2"),
        ("icm.pt", "icm"),
        ("icm.TAR", "icm"),
        ("icm.tar.pth", "icm"),
        ("icm", "icm"),
        ("icm.2024-05", "icm.2024-05"),
    ],
)
def test_a_name_loses_what_tells_the_format_and_no_more(
    source: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "import_published", lambda *_: None)
    Path(source).touch()
    main(["import-weights", source, "--as", "base", *WORDS])
    assert [file.name for file in Path("data/weights").iterdir()] == [f"{name}.safetensors"]


def test_other_weights_of_the_same_name_are_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, seed in (("one", "icm"), ("two", "ica2")):
        Path(folder).mkdir()
        published(fill(TCM(**SIZES), seed), Path(folder, "icm.pth.tar"))
    main(["import-weights", "one/icm.pth.tar", "--as", "base", *WORDS])
    out = Path("data/weights/icm.safetensors")
    written = out.read_bytes()
    for words in (["two/icm.pth.tar", "--as", "base"], ["one/icm.pth.tar", "--as", "lic"]):
        for more in ([], ["-o", str(out)]):
            with pytest.raises(SystemExit, match=r"icm.safetensors is there already.*name another"):
                main(["import-weights", *words, *WORDS, *more])
    main(["import-weights", "one/icm.pth.tar", "--as", "base", *WORDS])
    assert out.read_bytes() == written, "the same import again is no harm"
    main(["import-weights", "two/icm.pth.tar", "--as", "base", *WORDS, "-o", "data/b.safetensors"])
    assert Path("data/b.safetensors").is_file()


def test_a_published_additional_codec_is_imported_with_its_m(tmp_path: Path) -> None:
    codec = fill(AdditionalCodec(2, **SIZES), "ica2")
    published(codec, tmp_path / "ica.pth.tar")
    out = tmp_path / "ica.safetensors"
    words = ["import-weights", str(tmp_path / "ica.pth.tar"), "--as", "additional", *WORDS]
    main([*words, "--m", "2", "-o", str(out)])
    assert weights.fingerprint(weights.load(out)) == weights.fingerprint(codec)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--as", "additional"], "--m goes with --as additional"),
        (["--as", "base", "--m", "2"], "--m goes with --as additional"),
        (["--as", "additional", "--m", "6"], "m=6 must lie between 1 and num_slices=5"),
        (["--as", "additional", "--m", "0"], "m=0 must lie between 1 and num_slices=5"),
        (["--as", "additional", "--m", "-1"], "m=-1 must lie between 1 and num_slices=5"),
        (["--as", "base", "--num-slices", "0"], "num_slices=0 must be 1 or more"),
        (["--as", "lic", "--num-slices", "-5"], "num_slices=-5 must be 1 or more"),
        (["--as", "additional", "--m", "1", "--num-slices", "0"], "between 1 and num_slices=0"),
        (["--as", "base", "--num-slices", "3"], "num_slices=3 does not divide M=80"),
        (["--as", "additional", "--m", "3"], "seems to be of an additional codec with m=2"),
        (["--as", "base"], "seems to be of an additional codec with m=2"),
        (["--as", "base", "--N", "0"], "no codec has these sizes: N=0, M=80 and num_slices=5 must"),
        (["--as", "difference", "--M", "-80"], "M=-80 and num_slices=5 must be 1 or more"),
        (["--as", "additional", "--m", "2", "--M", "0"], "M=0 and num_slices=2 must be 1 or more"),
    ],
)
def test_what_does_not_fit_is_one_line_and_writes_nothing(
    words: list[str], line: str, tmp_path: Path
) -> None:
    published(AdditionalCodec(2, **SIZES), tmp_path / "ica.pth.tar")
    out = tmp_path / "ica.safetensors"
    command = ["import-weights", str(tmp_path / "ica.pth.tar"), *WORDS, *words, "-o", str(out)]
    with pytest.raises(SystemExit) as end:
        main(command)
    assert line in str(end.value)
    assert "\n" not in str(end.value)
    assert not out.exists()
