"""Profiles put numbers into params.yaml and touch nothing else in it."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from sic import pipeline
from sic.codec import weights
from sic.errors import SicError
from sic.params import load
from sic.pipeline import apply
from sic.training import jobs

ROOT = Path(__file__).parents[1]
PROFILES = ROOT / "profiles"
NAMES = sorted(path.stem for path in PROFILES.glob("*.yaml"))


def read(path: Path) -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


def keys(section: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Values by their dotted key; a list of codecs is one value."""
    found: dict[str, Any] = {}
    for key, value in section.items():
        below = value if isinstance(value, dict) and key != "codecs" else None
        found |= keys(below, f"{path}{key}.") if below else {f"{path}{key}": value}
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_bytes((ROOT / "params.yaml").read_bytes())
    apply("sample", path, PROFILES)
    return path


def test_all_profiles_have_the_same_keys() -> None:
    assert NAMES == ["gpu", "paper", "sample", "train"]
    assert len({frozenset(keys(read(PROFILES / f"{name}.yaml"))) for name in NAMES}) == 1


def test_the_study_starts_from_weights_of_its_own_size() -> None:
    sample, train = (read(PROFILES / f"{name}.yaml") for name in ("sample", "train"))
    shipped = weights.load(ROOT / "data/weights/lic/q1.safetensors")
    assert jobs.widths(load(ROOT / "params.yaml").codec)["widths"] == shipped.widths
    assert sample["fusion"]["codecs"].items() <= train["fusion"]["codecs"].items()
    assert {stage: train[stage].get("quality") for stage in ("lic", "difference")} == {
        stage: sample[stage].get("quality") for stage in ("lic", "difference")
    }


def test_every_key_differs_between_sizes() -> None:
    sizes = [keys(read(PROFILES / f"{name}.yaml")) for name in NAMES]
    alike = [key for key in sizes[0] if all(size[key] == sizes[0][key] for size in sizes)]
    assert alike == [], "keys with one value at every size belong to params.yaml alone"


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_sets_its_numbers_and_no_others(name: str, file: Path) -> None:
    before, wanted = keys(read(file)), keys(read(PROFILES / f"{name}.yaml"))
    apply(name, file, PROFILES)
    assert keys(read(file)) == before | wanted


def test_sample_brings_the_default_back_byte_for_byte(file: Path) -> None:
    default = file.read_bytes()
    for name in ("gpu", "paper", "gpu"):
        apply(name, file, PROFILES)
        assert file.read_bytes() != default
    apply("sample", file, PROFILES)
    assert file.read_bytes() == default


def test_comments_and_numbers_of_one_s_own_stay(file: Path) -> None:
    text = file.read_text(encoding="utf-8").replace("thresh: 0.9\n", "thresh: 0.910\n", 1)
    file.write_text(text + "# mine\n", encoding="utf-8")
    comments = re.findall("#.*", file.read_text(encoding="utf-8"))
    apply("paper", file, PROFILES)
    after = file.read_text(encoding="utf-8")
    assert re.findall("#.*", after) == comments
    assert "stability_score_thresh: 0.910" in after
    assert "root: null" in after


def test_the_paper_s_numbers(file: Path) -> None:
    apply("paper", file, PROFILES)
    study = load(file)
    assert (study.codec.N, study.codec.M, study.codec.num_slices) == (128, 320, 5)
    assert (study.codec.hyper, study.codec.context) == (192, (224, 128))
    assert study.codec.head_dims == (8, 16, 32)
    trained = {(m, study.quality[q].lmbda) for m, q in study.fusion.items}
    assert trained == {(m, lmbda) for m in range(1, 6) for lmbda in (0.005, 0.01, 0.02, 0.03)}
    assert (study.quality[study.sa_icm.base].lmbda, study.edges.alpha) == (0.05, 0.78)
    lambdas = [study.quality[q].lmbda for q in study.sa_icm.quality]
    assert lambdas == [0.02, 0.03, 0.04, 0.05, 0.06], "those of SA-ICM's table"
    assert (study.train.batch, study.train.crop) == (8, 256)
    assert (study.train.learning_rate, study.train.aux_learning_rate) == (1e-4, 1e-3)
    # 50 epochs of 118,287 images; drops after epochs 45 and 48
    assert study.fusion.steps == pytest.approx(50 * 118_287 / 8, rel=1e-3)
    assert study.train.milestones == [45 / 50, 48 / 50]


def test_the_gpu_study_fits_its_hour(file: Path) -> None:
    apply("gpu", file, PROFILES)
    study = load(file)
    lic, difference = len(study.lic.quality), len(study.difference.quality)
    base, fusion = len(study.sa_icm.quality), len(study.fusion.items)
    steps = (
        base * study.sa_icm.steps
        + lic * study.lic.steps
        + fusion * study.fusion.steps
        + difference * study.difference.steps
    )
    assert steps == 27_500, "the arithmetic in profiles/gpu.yaml"


@pytest.mark.parametrize("name", ["gpu", "paper"])
def test_a_large_study_says_what_it_needs_before_anybody_starts_it(
    name: str, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (file.parent / "profiles").symlink_to(PROFILES)
    monkeypatch.chdir(file.parent)
    monkeypatch.setattr("sys.argv", ["pipeline", "profile", name])
    pipeline.main()
    said = capsys.readouterr().out
    for need in ("downloads 20 GB", "data/coco", "GB of disk", "GPU", "hour"):
        assert need in said


def test_an_unknown_profile_is_one_line_with_the_known_ones(file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(SicError, match=r"^no profile huge: there are gpu, paper, sample, train$"):
        apply("huge", file, PROFILES)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("edges: {alpa: 0.5}", r"own\.yaml: params\.yaml has no key edges\.alpa$"),
        ("edges: {alpha: 2.0}", r"edges\.alpha: .*less than or equal to 1"),
        ("seed: {x: 1}", r"own\.yaml: seed in params\.yaml has no keys below it; set seed itself$"),
    ],
)
def test_a_wrong_profile_changes_nothing(
    content: str, line: str, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "own.yaml").write_text(content)
    before = file.read_bytes()
    with pytest.raises(SicError, match=line):
        apply("own", file, tmp_path)
    assert file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own.yaml", "params.yaml"]


def test_a_wrong_params_yaml_is_said_before_anything_else(file: Path) -> None:
    file.write_text("seed: one\n")
    with pytest.raises(SicError, match=rf"^{file}: "):
        apply("gpu", file, PROFILES)


def test_the_command_line_puts_a_profile_in_place(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (file.parent / "profiles").symlink_to(PROFILES)
    monkeypatch.chdir(file.parent)
    monkeypatch.setattr("sys.argv", ["pipeline", "profile", "gpu"])
    pipeline.main()
    assert load(file).codec.N == 128
    said = capsys.readouterr().out
    assert said.endswith("\n\nparams.yaml now has the numbers of profiles/gpu.yaml\n")
    assert "#" not in said
    assert "data:" not in said
    monkeypatch.setattr("sys.argv", ["pipeline", "profile"])
    with pytest.raises(SicError, match="name one profile: gpu, paper, sample"):
        pipeline.main()


# ---- -S KEY=VALUE of experiments -------------------------------------------------------------


def set_params(file: Path, monkeypatch: pytest.MonkeyPatch, pairs: Sequence[str]) -> list[str]:
    monkeypatch.chdir(file.parent)
    return pipeline.set_params(["exp", "run", *(word for pair in pairs for word in ("-S", pair))])


@pytest.mark.parametrize(
    ("pairs", "line"),
    [
        (["edges.alpha=0.5", "edges.alfa=3"], r"^-S edges\.alfa=3: .* no key edges\.alfa$"),
        (
            ["edges.alpha=0.5", "edges.thickness=4"],
            r"^-S edges\.alpha=0\.5 -S edges\.thickness=4: edges: thickness must be odd",
        ),
        (["seed=3", "edges.alpha=[1"], r"^-S edges\.alpha=\[1: the value is not YAML: .*parsing"),
        (["data.test=[2024-02-30]"], r"^-S data\.test=\[2024-02-30\]: the value is not YAML: day"),
        (["seed=3", "seed.x=1"], r"^-S seed\.x=1: seed in params\.yaml .*; set seed itself$"),
        (["segment.segmenter.graph=1"], r"^-S .*: segment\.segmenter in params\.yaml has no keys"),
        (["seed=3", "data.root"], r"^-S data\.root: write -S KEY=VALUE, as in"),
        (["fusion.codecs.m5-q1.m=3"], r": set fusion\.codecs as a whole, or edit params\.yaml$"),
    ],
)
def test_wrong_pairs_change_nothing(
    pairs: list[str], line: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()
    with pytest.raises(SicError, match=line) as caught:
        set_params(file, monkeypatch, pairs)
    assert "\n" not in str(caught.value)
    assert file.read_bytes() == before


@pytest.mark.parametrize("order", [1, -1])
def test_pairs_that_are_right_together_are_taken(
    order: int, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = ["sa_icm.base=q4", "sa_icm.quality=[q4, q5]"][::order]
    assert set_params(file, monkeypatch, pairs) == ["exp", "run"]
    assert load(file).sa_icm.base == "q4"
    assert load(file).sa_icm.quality == ["q4", "q5"]
