"""VTM's programs are called as its manual and CompressAI's recipe say: seen by a pair that checks.

VTM itself comes in no package, so a small script stands for each program; it refuses what the
real one would not understand, and "codes" by writing the planes down.
"""

import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from skimage import data

from sic import images, params
from sic.anchors import cached, classical, planes
from sic.anchors.programs import Vtm
from sic.errors import SicError

PHOTO: images.Pixels = np.ascontiguousarray(data.coffee()[100:137, 200:251])

ENCODER = """
import sys
from pathlib import Path

words = sys.argv[1:]
if words == ["--help"]:
    print("VVCSoftware: VTM Encoder Version 23.13 [Linux][GCC 12.2.0][64 bit]")
    sys.exit(1)
flags = [w for w in words if w.startswith("--")]
rest = [w for w in words if not w.startswith("--")]
given = dict(zip(rest[::2], rest[1::2], strict=True))
if set(flags) != {"--InputChromaFormat=444", "--InputBitDepth=10", "--ConformanceWindowMode=1"}:
    sys.exit(f"Error: flags {flags}")
if set(given) != {"-c", "-i", "-b", "-o", "-wdt", "-hgt", "-fr", "-f", "-q"}:
    sys.exit(f"Error: options {given}")
if Path(given["-c"]).name != "encoder_intra_vtm.cfg" or (given["-fr"], given["-f"]) != ("1", "1"):
    sys.exit("Error: not one intra picture")
planes = Path(given["-i"]).read_bytes()
if len(planes) != 3 * 2 * int(given["-wdt"]) * int(given["-hgt"]):
    sys.exit("Error: the file is not one picture 4:4:4 in 16 bits")
if max(planes[1::2]) > 3:
    sys.exit("Error: samples above 10 bits")
if int(given["-q"]) == 63:
    sys.exit("Error: a picture that cannot be coded")
Path(given["-b"]).write_bytes(b"QP" + given["-q"].encode() + b" " + planes)
"""

DECODER = """
import sys
from pathlib import Path

given = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
if set(given) != {"-b", "-o", "-d"} or given["-d"] != "10":
    sys.exit(f"Error: options {given}")
Path(given["-o"]).write_bytes(Path(given["-b"]).read_bytes().partition(b" ")[2])
"""


def program(path: Path, source: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{source}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    program(tmp_path / "bin/EncoderAppStatic", ENCODER)
    program(tmp_path / "bin/DecoderAppStatic", DECODER)
    (tmp_path / "cfg").mkdir()
    (tmp_path / "cfg/encoder_intra_vtm.cfg").write_text("# settings\n")
    return tmp_path


def test_a_picture_goes_through_in_444_of_10_bits(folder: Path) -> None:
    anchor = classical.vtm_intra(folder)
    stream = anchor.encode(PHOTO, 37)
    assert stream.startswith(b"QP37 ")
    np.testing.assert_array_equal(anchor.decode(stream, *PHOTO.shape[:2]), PHOTO)


def test_the_row_names_vtm_and_its_version(folder: Path) -> None:
    setup = classical.vtm_intra(folder).setup
    assert (setup.codec, setup.version, setup.preset) == (
        "VVC",
        "VTM 23.13",
        "encoder_intra_vtm.cfg",
    )
    assert (setup.chroma, setup.bit_depth, setup.colour) == ("4:4:4", 10, planes.COLOUR)


def test_vtm_goes_before_libvvenc_where_it_is_asked_for(folder: Path) -> None:
    settings = params.load(Path(__file__).parents[1] / "params.yaml").evaluate
    vvc = settings.vvc.model_copy(update={"vtm": str(folder), "qp": [37]})
    found, _ = cached.find(settings.model_copy(update={"vvc": vvc}))
    versions = [a.setup.version for a, _ in found if a.setup.codec == "VVC"]
    assert versions == ["VTM 23.13"], "one program a curve"


@pytest.mark.parametrize(
    "missing", ["bin/EncoderAppStatic", "bin/DecoderAppStatic", "cfg/encoder_intra_vtm.cfg"]
)
def test_an_incomplete_folder_is_one_line(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(SicError, match=rf"^evaluate\.vvc\.vtm: there is no {missing}.* or null$"):
        Vtm.find(folder)


def test_another_program_is_not_taken_for_vtm(folder: Path) -> None:
    program(folder / "bin/EncoderAppStatic", "print('HM software: Encoder Version [16.20]')")
    with pytest.raises(SicError, match="does not say that it is VTM's encoder"):
        Vtm.find(folder)
    (folder / "bin/EncoderAppStatic").chmod(0o600)
    with pytest.raises(SicError, match=r"cannot run .*EncoderAppStatic: Permission denied"):
        Vtm.find(folder)


def test_a_failure_is_one_line_with_vtms_own_words(folder: Path) -> None:
    with pytest.raises(SicError, match=r"EncoderAppStatic .* failed: Error: a picture that cannot"):
        classical.vtm_intra(folder).encode(PHOTO, 63)
