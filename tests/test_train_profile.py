"""Profile `train` at a hundredth of its steps: from nothing to the files that are shipped."""

import json
import shutil
from math import ceil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from skimage import data

from sic import images, params, pipeline, work
from sic.codec import weights
from sic.data import sets
from sic.masks import edges, segment
from sic.training import jobs

ROOT = Path(__file__).parents[1]
#: One codec of each kind; the others differ in m or λ.
CODECS = ("m5-q1", "m1-q1", "fr-m5-q1", "cfr-m5-q1")
OUTLINED = 5


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> params.Params:
    """A folder of photos, people's outlines of some of them, and the profile with few steps."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    content: dict[str, list[object]] = {"images": [], "annotations": []}
    for number, name in enumerate(("astronaut", "coffee", "chelsea", "rocket") * 2):
        top = 128 * (number // 4)
        images.write_png(Path(f"photos/{number}.png"), getattr(data, name)()[top : top + 160, :200])
        if number < OUTLINED:
            outline(number, content)
    Path("contours/panoptic.json").write_text(json.dumps(content))
    pipeline.apply("train")
    train = params.load()
    tenth = {"data": {"validation": 2, "test": 1}, "train": {"batch": 2, "warmup": 2}}
    for section in ("sa_icm", "lic", "fusion", "difference"):
        tenth[section] = {"steps": ceil(getattr(train, section).steps / 100)}
    tenth["sa_icm"]["quality"] = [train.sa_icm.base]
    tenth["lic"]["quality"] = tenth["difference"]["quality"] = ["q1"]
    tenth["fusion"]["codecs"] = {n: train.fusion.codecs[n].model_dump() for n in CODECS}
    pipeline.put(tenth, "test")
    return params.load()


def outline(number: int, content: dict[str, list[object]]) -> None:
    """Two people's regions: left and right of a line."""
    colours = np.zeros((160, 200, 3), np.uint8)
    colours[..., 0] = np.where(np.arange(200) < 90 + number, 1, 2)
    images.write_png(Path(f"contours/panoptic/{number}.png"), colours)
    content["images"].append(
        {"id": number, "file_name": f"{number}.png", "height": 160, "width": 200}
    )
    content["annotations"].append(
        {
            "image_id": number,
            "file_name": f"{number}.png",
            "segments_info": [{"id": 1}, {"id": 2}],
        }
    )


def test_from_nothing_to_the_shipped_files(study: params.Params) -> None:
    index = sets.prepare(study.data, study.seed)
    segment.run(study)
    edges.run(study)
    starts = {}
    for name in sorted(study.codecs, key=lambda name: not name.startswith("lic")):
        job = jobs.job(study, name)
        starts[name] = job.start
        linear = 1.0 if name == study.base else study.train.linear_rate
        assert job.run.settings.linear_rate == linear, "only a base leaves the code"
        jobs.finish(job, job.train())
        if name == study.base:
            outlined = [r for r in index["train"] if int(r.name) < OUTLINED]
            assert len(job.run.photos) == len(outlined) < len(index["train"])
    assert starts.pop("lic/q1") == "principal"
    assert set(starts.values()) == {"artifacts/lic/q1/codec.safetensors"}

    cards = jobs.ship(study.codecs, study).read_text()
    base = weights.metadata(Path(f"data/weights/{study.base}.safetensors"))["fingerprint"]
    for name in study.codecs:
        path = Path(f"data/weights/{name}.safetensors")
        about = weights.metadata(path)
        trained = weights.metadata(Path(f"artifacts/{name}/codec.safetensors"))
        assert about["fingerprint"] == trained["fingerprint"], "float16 holds what was trained"
        assert about["origin"].get("base", base) == base
        assert f"`{name}.safetensors`" in cards
        made = json.loads(work.record(name, work.WEIGHTS).read_text())
        assert made["fingerprint"] == about["fingerprint"]
        assert made["seconds"] > 0
        assert f"`python3 study.py repro {name.replace('/', '@')}` (no git, " in cards
        history = pd.read_csv(path.with_suffix(".csv"))
        assert list(history.split.unique()) == ["validation", "train"]
        assert history.step.max() == jobs.job(study, name).run.steps
    lic = pd.read_csv("data/weights/lic/q1.csv")
    loss = lic[lic.split == "validation"].loss
    assert loss.iloc[-1] < 0.9 * loss.iloc[0]
