"""Shipped weights: what rounding keeps, what is refused, and that the committed set is whole."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small import SIZES

from sic import files, params, work
from sic.codec import weights
from sic.codec.fusion import AdditionalCodec
from sic.codec.tcm import TCM
from sic.errors import SicError
from sic.training import jobs

ROOT = Path(__file__).parents[1]
STUDY = params.load(ROOT / "params.yaml")
OTHER = next(f"sa_icm/{point}" for point in STUDY.quality if f"sa_icm/{point}" != STUDY.base)
TWO = STUDY.sa_icm.model_copy(update={"quality": [Path(OTHER).name, STUDY.sa_icm.base]})
TWO_BASES = STUDY.model_copy(update={"sa_icm": TWO})
LIMIT = 45e6  # bytes of the whole set: what a clone of the repository should cost


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """A base, an additional codec on its float16 form, as training leaves them, and a base of
    another rate point."""
    torch.manual_seed(0)
    base, folder = TCM(**SIZES), tmp_path / "artifacts"
    leave(folder / STUDY.base, base, {"stage": "sa_icm"})
    leave(folder / OTHER, TCM(**SIZES), {"stage": "sa_icm"})
    jobs.round_to_half(base)
    about = {"stage": "fusion", "m": 5, "base": weights.fingerprint(base)}
    leave(folder / fusion(), AdditionalCodec(5, **SIZES), about)
    return folder


def fusion() -> str:
    return next(name for name in STUDY.codecs if name.startswith("fusion/m5"))


def leave(folder: Path, codec: TCM, about: dict[str, object]) -> None:
    settings = STUDY.train.model_dump()
    origin = {"lmbda": 0.01, "steps": 3, "init": "scratch", "seed": 0, "photos": 8}
    weights.save(folder / "codec.safetensors", codec, {**origin, "train": settings, **about})
    rows = [(0, "validation", 9.0, 2.0, 20.0), (3, "validation", 1.5, 0.25, 27.125)]
    history = pd.DataFrame(rows, columns=["step", "split", "loss", "bpp", "psnr"])
    history.to_csv(folder / "history.csv", index=False)


def test_shipped_weights_are_the_nearest_that_float16_holds(
    artifacts: Path, tmp_path: Path
) -> None:
    jobs.ship([STUDY.base], STUDY, artifacts, tmp_path / "weights")
    trained = weights.load(artifacts / STUDY.base / "codec.safetensors")
    shipped = weights.load(tmp_path / f"weights/{STUDY.base}.safetensors")
    for (name, a), (_, b) in zip(
        trained.named_parameters(), shipped.named_parameters(), strict=True
    ):
        np.testing.assert_array_equal(
            a.detach().numpy().astype(np.float16), b.detach().numpy(), name
        )
    before, after = (
        path.stat().st_size
        for path in (
            artifacts / STUDY.base / "codec.safetensors",
            tmp_path / f"weights/{STUDY.base}.safetensors",
        )
    )
    assert after < 0.6 * before


def test_cards_tell_what_each_file_is(artifacts: Path, tmp_path: Path) -> None:
    cards = jobs.ship([STUDY.base, fusion()], STUDY, artifacts, tmp_path / "weights").read_text()
    rows = [line for line in cards.splitlines() if "safetensors" in line]
    assert [row.split("`")[1] for row in rows] == [
        f"{n}.safetensors" for n in (STUDY.base, fusion())
    ]
    assert all("| 0.250 | 27.12 |" in row for row in rows)
    codec = weights.load(tmp_path / f"weights/{STUDY.base}.safetensors")
    assert weights.fingerprint(codec)[:16] in rows[0]


def test_cards_tell_how_a_codec_was_made_and_nothing_of_other_weights(
    artifacts: Path, tmp_path: Path
) -> None:
    made: dict[str, object] = {"commit": "2120315+", "command": "python -m sic train sa_icm/q3"}
    made |= {"seconds": 4512.4, "device": "AMD EPYC, 1 thread", "fingerprint": "of others"}
    record, folder = work.record(STUDY.base, artifacts), tmp_path / "weights"
    files.write_text(record, json.dumps(made))
    cards = jobs.ship([STUDY.base], STUDY, artifacts, folder)
    assert cards.read_text().endswith("| not recorded |\n")
    made["fingerprint"] = weights.metadata(artifacts / STUDY.base / "codec.safetensors")[
        "fingerprint"
    ]
    record.write_text(json.dumps(made))
    jobs.ship([STUDY.base], STUDY, artifacts, folder)
    told = "`python -m sic train sa_icm/q3` (2120315+, 4,512 s, AMD EPYC, 1 thread)"
    assert cards.read_text().endswith(f"| {told} |\n")
    leave(artifacts / OTHER, TCM(**SIZES), {"stage": "sa_icm"})
    jobs.ship([OTHER], TWO_BASES, artifacts, folder)
    assert told in cards.read_text(), "a later shipment takes nothing away"


def test_every_base_is_shipped_and_second_layers_stand_on_the_named_one(
    artifacts: Path, tmp_path: Path
) -> None:
    names, folder = [fusion(), OTHER, STUDY.base], tmp_path / "weights"
    rows = jobs.ship(names, TWO_BASES, artifacts, folder).read_text().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [
        f"{name}.safetensors" for name in (OTHER, STUDY.base, fusion())
    ]
    moved = TWO.model_copy(update={"base": Path(OTHER).name})
    with pytest.raises(SicError, match=rf"was trained on another base than .*{OTHER}.safetensors"):
        jobs.ship([fusion()], STUDY.model_copy(update={"sa_icm": moved}), artifacts, folder)


def test_a_codec_on_another_base_is_refused(artifacts: Path, tmp_path: Path) -> None:
    other = TCM(**SIZES)
    weights.save(tmp_path / f"weights/{STUDY.base}.safetensors", other, {})
    with pytest.raises(SicError, match=r"was trained on another base than .*ship the base first"):
        jobs.ship([fusion()], STUDY, artifacts, tmp_path / "weights")
    assert not (tmp_path / "weights" / f"{fusion()}.safetensors").exists()


def test_cards_tell_what_imported_weights_are_from(artifacts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    origin = {"imported": "lic.pth.tar", "sha256": "0" * 64, "as": "lic"}
    weights.save(folder / "lic/q1.safetensors", TCM(**SIZES), origin)
    head, _, *rows = jobs.ship([STUDY.base], STUDY, artifacts, folder).read_text().splitlines()
    assert [row.split("`")[1] for row in rows] == [
        f"{STUDY.base}.safetensors",
        "lic/q1.safetensors",
    ]
    assert "| – | – | imported: lic.pth.tar | – | – | – | – | – | – |" in rows[1]
    assert rows[1].count("|") == head.count("|")
    assert weights.metadata(folder / "lic/q1.safetensors")["fingerprint"][:16] in rows[1]


@pytest.mark.parametrize("wrong", ["cut off", "imported", "not trained", "another base"])
def test_nothing_is_written_if_anything_is_wrong(
    wrong: str, artifacts: Path, tmp_path: Path
) -> None:
    folder, asked = tmp_path / "weights", [STUDY.base, "lic/q1"]
    if wrong == "cut off":
        asked = [STUDY.base]
        files.write_bytes(folder / "lic/q1.safetensors", b"cut off")
    elif wrong == "imported":  # has no history
        weights.save(artifacts / "lic/q1/codec.safetensors", TCM(**SIZES), {"imported": "a.pth"})
    elif wrong == "another base":
        asked = [STUDY.base, fusion()]
        leave(artifacts / STUDY.base, TCM(**SIZES), {"stage": "sa_icm"})
    before = {path for path in tmp_path.rglob("*") if "weights" in path.parts}
    with pytest.raises(SicError, match=r"lic/q1|was trained on another base"):
        jobs.ship(asked, STUDY, artifacts, folder)
    assert {path for path in tmp_path.rglob("*") if "weights" in path.parts} == before


def test_the_committed_set_is_that_of_params_yaml_and_no_other() -> None:
    folder, stages = ROOT / "data/weights", {name.split("/")[0] for name in STUDY.codecs}
    there = [path for stage in stages for path in (folder / stage).glob("*.safetensors")]
    names = {path.relative_to(folder).with_suffix("").as_posix() for path in there}
    assert names == set(STUDY.codecs), "ship what is missing, remove what is no longer asked for"
    assert sum(path.stat().st_size for path in there) < LIMIT
    cards = (folder / "cards.md").read_text()
    base = weights.metadata(folder / f"{STUDY.base}.safetensors")["fingerprint"]
    for name in STUDY.codecs:
        about = weights.metadata(folder / f"{name}.safetensors")
        settings, origin = about["settings"], about["origin"]
        sizes = {k: settings[k] for k in ("N", "M", "num_slices")} | settings["widths"]
        assert sizes == STUDY.codec.model_dump(mode="json"), name
        assert origin["lmbda"] == STUDY.quality[name[-2:]].lmbda, name
        assert origin.get("base", base) == base, name
        assert f"| `{name}.safetensors` |" in cards
        assert f"`{about['fingerprint'][:16]}`" in cards
    assert cards.count(".safetensors` |") == len(STUDY.codecs)


def test_a_name_that_is_no_codec_is_refused_with_those_there_are(artifacts: Path) -> None:
    with pytest.raises(SicError, match=r"no codec lic/q9 in params.yaml: there are sa_icm/"):
        jobs.ship(["lic/q9"], STUDY, artifacts)
