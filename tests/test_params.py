"""params.yaml: what is wrong in it is said in one line, and nothing wrong gets through."""

import copy
import io
import math
import re
import string
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from ruamel.yaml import YAML

from sic import params
from sic.codec.tcm import TCM
from sic.errors import SicError
from sic.params import Params, load
from sic.pipeline import apply
from sic.training import jobs

ROOT = Path(__file__).parents[1]
BASE = load(ROOT / "params.yaml").sa_icm.base
PROFILES = sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The default study's params.yaml, for a test to spoil."""
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    apply("sample", path, ROOT / "profiles")
    return path


def spoilt(file: Path, key: str, value: Any) -> str:
    """The line that answers ``key: value``, without the file's name."""
    edit(file, key, value)
    with pytest.raises(SicError) as caught:
        load(file)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{file}: ")
    return line.removeprefix(f"{file}: ")


def edit(file: Path, key: str, value: Any) -> None:
    yaml = YAML(typ="safe", pure=True)
    content = yaml.load(file.read_text(encoding="utf-8"))
    section = content
    *sections, last = key.split(".")
    for part in sections:
        section = section[part]
    section[last] = value
    text = io.StringIO()
    yaml.dump(content, text)
    file.write_text(text.getvalue(), encoding="utf-8")


def leaves(model: type[BaseModel] = Params, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every key of params.yaml that holds a value of its own."""
    found: list[tuple[str, ...]] = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += leaves(field.annotation, (*path, name))
        else:
            found.append((*path, name))
    return found


@pytest.mark.parametrize("profile", PROFILES)
def test_each_profile_loads(profile: str, file: Path) -> None:
    apply(profile, file, ROOT / "profiles")
    load(file)


def test_numbers_arrive_as_they_stand_there(file: Path) -> None:
    edit(file, "train.learning_rate", 0.000125)
    edit(file, "quality.q1.lmbda", 0.007)
    edit(file, "edges.long_side", None)
    read = load(file)
    assert read.train.learning_rate == 0.000125
    assert read.quality["q1"].lmbda == 0.007
    assert read.edges.long_side is None


@pytest.mark.parametrize("text", ["3e-4", "3.0e-4", "3E-4", "0.0003"])
def test_every_spelling_of_a_small_number_is_a_number(text: str, file: Path) -> None:
    # YAML 1.1 takes 3e-4 for a word.
    content, places = re.subn(
        r"(?m)^  learning_rate: \S+", f"  learning_rate: {text}", file.read_text(encoding="utf-8")
    )
    assert places == 1
    file.write_text(content, encoding="utf-8")
    assert load(file).train.learning_rate == 3e-4


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("edges.alpa", 0.7, "unknown key edges.alpa; did you mean alpha?"),
        ("quality.q1.lambda", 0.1, "unknown key quality.q1.lambda; did you mean lmbda?"),
        ("segment.sam.points", 1, "unknown key segment.sam.points; remove it"),
        ("segment.sam.box_nms_tresh", 1, "unknown key segment.sam.box_nms_tresh; did you mean"),
        ("trian", {}, "unknown key trian; did you mean train?"),
        ("edges.alpha", 1.2, "edges.alpha: input should be less than or equal to 1, not 1.2"),
        ("edges.alpha", "0.7", "edges.alpha: input should be a valid number, not '0.7'"),
        ("edges.alpha", True, "edges.alpha: input should be a valid number, not True"),
        ("edges.canny_low", 300, "edges: canny_low must not be above canny_high"),
        ("edges.thickness", 2, "edges: thickness must be odd"),
        ("edges.long_side", 0, "edges.long_side: input should be greater than 0, not 0"),
        ("codec.M", 201, "codec: num_slices=5 must divide M=201"),
        ("codec.head_dims", [8, 8], "codec.head_dims: too few entries"),
        ("codec.head_dims", [8, 8, 16, 16], "codec.head_dims: too many entries"),
        ("codec.head_dims", [12, 12, 7], "codec: head_dims: 7 must divide 12"),
        ("codec.head_dims", 8, "codec.head_dims: input should be a list, not 8"),
        ("codec.attention", 1, "codec.attention: input should be greater than or equal to 2, not"),
        ("codec", None, "codec: input should be keys of its own"),
        ("train.crop", 64, "train.crop: input should be a multiple of 128, not 64"),
        ("train.crop", 0, "train.crop: input should be greater than or equal to 128, not 0"),
        ("train.learning_rate", 0, "train.learning_rate: input should be greater than 0, not 0"),
        ("train.learning_rate", math.inf, "train.learning_rate: input should be a finite number"),
        ("train.clip", math.nan, "train.clip: input should be a finite number, not nan"),
        ("train.milestones", [1.5], "train.milestones.0: input should be less than 1, not 1.5"),
        (
            "machine.device",
            "gpu",
            "machine.device: input should be 'auto', 'cpu' or 'cuda', not 'gpu'",
        ),
        ("quality.1st", {"lmbda": 1.0}, "quality.1st: string should match pattern"),
        ("quality.q1", 0.1, "quality.q1: input should be keys of its own"),
        ("quality.q1", {}, "key quality.q1.lmbda is missing"),
        ("lic.quality", ["q9"], "lic.quality names q9, which `quality` does not have"),
        ("lic.quality", ["q1", "q1"], "lic.quality: q1 stands there more than once"),
        ("lic.train", "no", "lic.train: input should be a valid boolean, not 'no'"),
        ("fusion.m", [6], "unknown key fusion.m; remove it"),
        ("fusion.codecs", {}, "fusion.codecs: too few entries, not {}"),
        ("fusion.codecs.m6-q1", {"m": 6, "quality": "q1"}, "fusion.codecs.m6-q1: 6 is above codec"),
        (
            "fusion.codecs.m0-q1",
            {"m": 0, "quality": "q1"},
            "fusion.codecs.m0-q1.m: input should",
        ),
        ("fusion.codecs.m2-q9", {"m": 2, "quality": "q9"}, "fusion.codecs.m2-q9 names q9, which"),
        (
            "fusion.codecs.m2-q2",
            {"m": 3, "quality": "q2"},
            "fusion: codecs.m2-q2 is fusion with m 3 and q2: name it m3-q2",
        ),
        (
            "fusion.codecs.m2-q2",
            {"m": 2, "quality": "q2", "residual": "feature"},
            "fusion: codecs.m2-q2 is FR with m 2 and q2: name it fr-m2-q2",
        ),
        (
            "fusion.codecs.fr-m2-q2",
            {"m": 2, "quality": "q2", "residual": "feature", "condition": True},
            "fusion: codecs.fr-m2-q2 is conditional FR with m 2 and q2: name it cfr-m2-q2",
        ),
        (
            "fusion.codecs.m2-q2",
            {"m": 2, "quality": "q2", "condition": True},
            "fusion.codecs.m2-q2: condition: true needs residual: feature",
        ),
        (
            "fusion.codecs",
            {"fr-m2-q2": {"m": 2, "quality": "q2", "residual": "feature"}},
            "fusion: codecs needs one without residual: feature, the paper's",
        ),
        ("sa_icm.base", "q9", "sa_icm: base names q9, which is not trained: quality"),
        ("sa_icm.quality", [], "sa_icm.quality: too few entries"),
        ("sa_icm.quality", [BASE, "q9"], "sa_icm.quality names q9, which `quality` does not have"),
        ("lic.quality", ["q1", "q9"], "lic.quality names q9, which `quality` does not have"),
        ("sa_icm.lmbda", 0.02, "unknown key sa_icm.lmbda; remove it"),
        ("sa_icm.steps", 1.5, "sa_icm.steps: input should be a valid integer, not 1.5"),
        ("sa_icm.steps", "120", "sa_icm.steps: input should be a valid integer, not '120'"),
        ("evaluate.jpeg", [101], "evaluate.jpeg.0: input should be less than or equal to 100"),
        ("evaluate.steps", [0.05], "evaluate.steps.0: input should be greater than or equ"),
        ("evaluate.steps", [17], "evaluate.steps.0: input should be less than or equal to 16"),
        ("evaluate.steps", [2, 2.001], "evaluate.steps: 2.0 stands there more than once, or anot"),
        ("detect.lic_steps", [2, 2.001], "detect.lic_steps: 2.0 stands there more than once, or"),
        (
            "detect.lic_steps",
            [1],
            "detect.lic_steps.0: input should be greater than or equal to 1.01",
        ),
        ("evaluate.webp", [30, 30], "evaluate.webp: 30 stands there more than once"),
        ("evaluate.hevc.qp", [52], "evaluate.hevc.qp.0: input should be less than or equal to 51"),
        ("evaluate.vvc.qp", [37.5], "evaluate.vvc.qp.0: input should be a valid integer, not 37.5"),
        ("evaluate.vvc.preset", "best", "evaluate.vvc.preset: input should be 'faster', 'fast'"),
        ("evaluate.vvc.vmt", None, "unknown key evaluate.vvc.vmt; did you mean vtm?"),
        ("evaluate.jpeg_xl.distance", [0.0], "evaluate.jpeg_xl.distance.0: input should be gre"),
        ("compare.bootstrap", 0, "compare.bootstrap: input should be greater than 0, not 0"),
        ("segment.segmenter", "sam", "segment.segmenter: input should be 'graph', 'sam_vit_h'"),
        ("seed", -1, "seed: input should be greater than or equal to 0, not -1"),
        ("seed", 2**64, f"seed: input should be less than {2**64}, not {2**64}"),
    ],
)
def test_a_wrong_value_is_one_line(key: str, value: Any, line: str, file: Path) -> None:
    assert spoilt(file, key, value).startswith(line)


def test_the_largest_seed_and_the_smallest_codec_are_taken(file: Path) -> None:
    edit(file, "seed", 2**64 - 1)
    ones = ("N", "M", "num_slices", "hyper", "hyper_head_dim", "attention_head_dim")
    sizes = dict.fromkeys(ones, 1) | {"context": [1, 1], "head_dims": [1, 1, 1], "attention": 2}
    edit(file, "codec", sizes)
    edit(file, "fusion.codecs", {"m1-q1": {"m": 1, "quality": "q1"}})
    study = load(file)
    torch.manual_seed(study.seed)
    codec = TCM(**jobs.widths(study.codec))
    assert codec(torch.rand(1, 3, 128, 128))["x_hat"].shape == (1, 3, 128, 128)


def test_a_codec_that_does_not_train_needs_a_checkpoint(file: Path) -> None:
    edit(file, "lic.train", False)
    assert load(file).lic.budget == 0
    line = spoilt(file, "lic.init", "scratch")
    assert line.startswith("lic: train: false takes the codec from `init`, which must name a file")


@pytest.mark.parametrize("value", [0, -3, 2.5, "some", [], [1.5], None, True, [True]])
def test_a_split_is_names_a_number_or_all(value: Any, file: Path) -> None:
    line = spoilt(file, "data.train", value)
    assert line.startswith("data.train: give a list of names, a number of images above 0, or all")
    in_a_list = isinstance(value, list) and value != []
    assert line.endswith("; write names that are no words in quotes") == in_a_list


@pytest.mark.parametrize("value", [["astronaut"], [1, 397133], 3000, "all"])
def test_every_kind_of_split_is_taken(value: Any, file: Path) -> None:
    edit(file, "data.test", value)
    assert load(file).data.test == value


@pytest.mark.parametrize("path", leaves(), ids=".".join)
def test_no_key_may_be_missing(path: tuple[str, ...], file: Path) -> None:
    yaml = YAML(typ="safe", pure=True)
    content = yaml.load(file.read_text(encoding="utf-8"))
    section = content
    for part in path[:-1]:
        section = section[part]
    del section[path[-1]]
    with file.open("w", encoding="utf-8") as text:
        yaml.dump(content, text)
    with pytest.raises(SicError, match=rf"key {'.'.join(path)} is missing$"):
        load(file)


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_misspelt_key_is_named(data: st.DataObject, file: Path) -> None:
    path = data.draw(st.sampled_from(leaves()))
    letter = data.draw(st.sampled_from(string.ascii_lowercase))
    place = data.draw(st.integers(0, len(path[-1])))
    wrong = path[-1][:place] + letter + path[-1][place:]
    content = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    section = content = copy.deepcopy(content)
    for part in path[:-1]:
        section = section[part]
    if wrong in section:
        return
    section[wrong] = section.pop(path[-1])
    spoilt_file = file.with_name("spoilt.yaml")
    with spoilt_file.open("w", encoding="utf-8") as text:
        YAML(typ="safe", pure=True).dump(content, text)
    with pytest.raises(SicError, match=rf"unknown key {'.'.join((*path[:-1], wrong))}; "):
        load(spoilt_file)


@given(text=st.text(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_params_or_one_line(text: str, file: Path) -> None:
    anything = file.with_name("anything.yaml")
    anything.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    with pytest.raises(SicError) as caught:
        load(anything)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"train: [", "is not YAML"),
        (b"seed: 1\nseed: 2\n", "is not YAML"),
        (b"data: {test: [2024-02-30]}", "is not YAML: day is out of range"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"", "must be a mapping of sections"),
        (b"- 1\n", "must be a mapping of sections"),
    ],
)
def test_what_is_not_params_yaml_is_one_line(content: bytes, line: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(SicError, match=line) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_where_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SicError, match=r"cannot read params\.yaml: .*run from the study's folder"):
        load()


def test_settings_are_read_only() -> None:
    read = load(ROOT / params.PARAMS)
    with pytest.raises(ValueError, match="frozen"):
        read.seed = 1  # type: ignore[misc]
