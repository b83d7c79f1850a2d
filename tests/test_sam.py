import hashlib
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segment_anything
import torch
from hypothesis import given
from hypothesis import strategies as st
from segment_anything.modeling import ImageEncoderViT
from server import serving
from skimage import data as photos
from test_mobile_sam import published_name
from test_segment import pictures, study
from torchvision.ops.boxes import batched_nms

from sic import images, params
from sic.data import sets
from sic.errors import SicError
from sic.masks import edges, mobile_sam, sam, segment

STUDY = params.load(Path(__file__).parents[1] / "params.yaml")

# Few points and no thresholds: random weights are sure of nothing, and all boxes are alike.
KNOBS = STUDY.segment.sam.model_dump() | {
    "points_per_side": 2,
    "pred_iou_thresh": 0.0,
    "stability_score_thresh": 0.0,
    "box_nms_thresh": 1.0,
}


def tiny_sam() -> Any:
    """A Segment Anything model as ViT-B is built, with one of its twelve blocks."""
    model = mobile_sam.build()
    model.image_encoder = ImageEncoderViT(
        depth=1,
        embed_dim=768,
        img_size=1024,
        mlp_ratio=1,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        num_heads=12,
        patch_size=16,
        qkv_bias=True,
        use_rel_pos=True,
        window_size=14,
        out_chans=256,
    )
    return model.eval()


def settings(**changes: Any) -> params.Segment:
    return params.Segment.model_validate({**STUDY.segment.model_dump(), "sam": KNOBS, **changes})


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random weights of a small model that goes by the name of ViT-B."""
    torch.manual_seed(0)
    monkeypatch.setitem(segment_anything.sam_model_registry, "vit_b", tiny_sam)
    torch.save(tiny_sam().state_dict(), tmp_path / "tiny.pth")
    return tmp_path / "tiny.pth"


@pytest.fixture(scope="module")
def mobile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of MobileSAM under its published names."""
    torch.manual_seed(0)
    state = {}
    for key, value in mobile_sam.build().state_dict().items():
        encoder = key.startswith("image_encoder.")
        name = published_name(key.removeprefix("image_encoder."))
        state[f"image_encoder.{name}" if encoder else key] = value
    state["image_encoder.head.weight"] = torch.zeros(1000, 320)
    path = tmp_path_factory.mktemp("weights") / "mobile_sam.pt"
    torch.save(state, path)
    return path


def test_the_published_checkpoints() -> None:
    assert sam.WEIGHTS.keys() == {"sam_vit_h", "sam_vit_l", "sam_vit_b", "mobile_sam"}
    assert all(len(bytes.fromhex(w.sha256)) == 32 for w in sam.WEIGHTS.values())
    assert [Path(w.url).name for w in sam.WEIGHTS.values()] == [
        "sam_vit_h_4b8939.pth",
        "sam_vit_l_0b3195.pth",
        "sam_vit_b_01ec64.pth",
        "mobile_sam.pt",
    ]


def test_random_weights_go_through_the_whole_stage(tmp_path: Path, tiny: Path) -> None:
    pictures(tmp_path, 3)
    chosen = study(tmp_path, {"segmenter": "sam_vit_b", "checkpoint": str(tiny), "sam": KNOBS})
    sets.prepare(chosen.data, 0, tmp_path / "data")
    header = segment.run(chosen, tmp_path / "data", tmp_path / "checkpoints")
    assert header is not None
    assert (header["segmenter"], header["stand_in"]) == ("sam_vit_b", False)
    assert len(header["checkpoint"]) == 64
    found = segment.load(tmp_path / "data" / "segments")
    assert all(len(records) == 12 for records in found.values())
    for records in found.values():
        for record in records:
            mask = segment.decode(record)
            assert mask.shape == (160, 200)
            assert mask.sum() == record["area"]
    density = edges.run(chosen, tmp_path / "data", tmp_path / "checkpoints")
    assert density is not None
    assert len(density) == 3


def test_mobile_sam_goes_through_the_generator(mobile: Path) -> None:
    chosen = settings(segmenter="mobile_sam", checkpoint=str(mobile))
    generate = sam.segmenter(chosen, STUDY.machine, mobile)
    found = generate(photos.coffee())
    assert len(found) == 12
    assert all(segment.decode(record).shape == (400, 600) for record in found)


def test_segments_are_the_packages_own(tiny: Path) -> None:
    chosen = settings(segmenter="sam_vit_b", checkpoint=str(tiny))
    ours = sam.segmenter(chosen, STUDY.machine, tiny)(photos.chelsea())
    model = sam.load("sam_vit_b", tiny)
    theirs = segment_anything.SamAutomaticMaskGenerator(model, **KNOBS).generate(photos.chelsea())
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        # Ours runs without autograd, so floats may be added in another order.
        assert np.mean(segment.decode(one) != other["segmentation"]) < 1e-3
        assert one["bbox"][2] >= 1
        assert one["area"] == pytest.approx(other["area"], rel=1e-3, abs=1)
        assert one["predicted_iou"] == pytest.approx(other["predicted_iou"], abs=1e-6)
        assert one["stability_score"] == pytest.approx(other["stability_score"], abs=1e-6)


@given(st.integers(0, 10_000), st.floats(0.5, 1))
def test_alpha_later_is_the_threshold_at_once(seed: int, alpha: float) -> None:
    """Why records are kept at a low threshold: duplicates fall to what is surer only."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 30, (60, 2, 2)), axis=1).reshape(60, 4)
    boxes, scores = torch.tensor(corners), torch.tensor(rng.uniform(0.5, 1, 60))
    group = torch.zeros(60)
    low = batched_nms(boxes, scores, group, STUDY.segment.sam.box_nms_thresh)
    later = [i for i in low.tolist() if scores[i] >= alpha]
    sure = torch.nonzero(scores >= alpha).flatten()
    at_once = batched_nms(boxes[sure], scores[sure], group[sure], STUDY.segment.sam.box_nms_thresh)
    assert later == sure[at_once].tolist()


def test_weights_are_downloaded_and_checked(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(segmenter="sam_vit_b", checkpoint=sam.DOWNLOAD)
    content = tiny.read_bytes()
    with serving({"/sam/tiny.pth": content}) as site:
        site.break_after = len(content) // 2 + 1
        for checksum, good in (("0" * 64, False), (hashlib.sha256(content).hexdigest(), True)):
            weights = sam.Published(f"{site.address}/sam/tiny.pth", checksum)
            monkeypatch.setitem(sam.WEIGHTS, "sam_vit_b", weights)
            if good:
                path = sam.checkpoint(chosen, tmp_path / "weights")
                assert path.read_bytes() == content
            else:
                with pytest.raises(SicError, match="other bytes than expected"):
                    sam.checkpoint(chosen, tmp_path / "weights")


def test_sixteen_bits_change_little(tiny: Path) -> None:
    scores = []
    for precision in ("float32", "bfloat16"):
        chosen = settings(segmenter="sam_vit_b", checkpoint=str(tiny), precision=precision)
        found = sam.segmenter(chosen, STUDY.machine, tiny)(photos.chelsea())
        scores.append(sorted(record["predicted_iou"] for record in found))
    assert len(scores[0]) == len(scores[1]) == 12
    assert scores[0] != scores[1]
    assert scores[1] == pytest.approx(scores[0], abs=0.05)


@pytest.mark.parametrize(
    ("size", "threshold"),
    [((1, 1), 0.0), ((1, 1), 1.0), ((3, 5), 0.0), ((50, 60), 1.0), ((1, 3000), 0.0)],
)
def test_pictures_of_any_size_go_through_crops(
    size: tuple[int, int], threshold: float, tiny: Path
) -> None:
    knobs = {"crop_n_layers": 1, "points_per_side": 1, "pred_iou_thresh": threshold}
    chosen = settings(segmenter="sam_vit_b", checkpoint=str(tiny), sam=KNOBS | knobs)
    found = sam.segmenter(chosen, STUDY.machine, tiny)(
        np.resize(photos.chelsea()[:50, :60], (*size, 3))
    )
    assert all(segment.decode(one).shape == size for one in found)
    nothing = threshold == 1 or size == (1, 3000)  # no score is above 1; 1/3 of a row is no row
    assert bool(found) != nothing


def test_crops_without_a_point_are_one_line(tiny: Path) -> None:
    knobs = KNOBS | {"points_per_side": 2, "crop_n_points_downscale_factor": 4, "crop_n_layers": 1}
    chosen = settings(segmenter="sam_vit_b", checkpoint=str(tiny), sam=knobs)
    with pytest.raises(SicError, match=r"segment\.sam\.points_per_side: 2 leaves no point"):
        sam.segmenter(chosen, STUDY.machine, tiny)
    without = settings(
        segmenter="sam_vit_b", checkpoint=str(tiny), sam=knobs | {"crop_n_layers": 0}
    )
    sam.segmenter(without, STUDY.machine, tiny)


def test_no_segments_is_no_error(tiny: Path) -> None:
    chosen = settings(
        segmenter="sam_vit_b", checkpoint=str(tiny), sam=KNOBS | {"pred_iou_thresh": 1.0}
    )
    assert sam.segmenter(chosen, STUDY.machine, tiny)(photos.chelsea()[:50, :60]) == []


@pytest.mark.parametrize(
    ("width", "found"), [(1280, "sam_vit_h"), (1024, "sam_vit_l"), (768, "sam_vit_b")]
)
def test_a_checkpoint_of_another_size_is_refused_by_name(
    tmp_path: Path, width: int, found: str
) -> None:
    path = tmp_path / "sam.pth"
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 64, 64, width)}, path)
    for name in sam.WEIGHTS.keys() - {found}:
        with pytest.raises(SicError, match=rf"sam\.pth holds {found}, not {name}"):
            sam.load(name, path)


def test_mobile_sams_checkpoint_is_told_from_the_others(mobile: Path) -> None:
    with pytest.raises(SicError, match="holds mobile_sam, not sam_vit_b"):
        sam.load("sam_vit_b", mobile)


def test_a_wrong_shape_names_key_and_shapes(tmp_path: Path, mobile: Path) -> None:
    state = torch.load(mobile, weights_only=True)
    key = "mask_decoder.iou_token.weight"
    torch.save(state | {key: torch.zeros(2, 256)}, tmp_path / "shape.pt")
    with pytest.raises(SicError, match=rf"{key} is \(2, 256\), not \(1, 256\)"):
        sam.load("mobile_sam", tmp_path / "shape.pt")
    del state[key]
    torch.save(state, tmp_path / "missing.pt")
    with pytest.raises(SicError, match=rf"{key} is nothing, not \(1, 256\)"):
        sam.load("mobile_sam", tmp_path / "missing.pt")


def test_what_is_no_checkpoint_of_it_is_refused(tmp_path: Path, mobile: Path) -> None:
    (tmp_path / "cut.pth").write_bytes(mobile.read_bytes()[:100_000])
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    for name, line in {"cut": "is not a whole checkpoint", "other": "no Segment Anything"}.items():
        with pytest.raises(SicError, match=rf"{name}\.pth .*{line}"):
            sam.load("mobile_sam", tmp_path / f"{name}.pth")


def test_real_weights(tmp_path: Path) -> None:
    """Real weights, of any size, find the cup, the saucer and the spoon."""
    if "SAM_CHECKPOINT" not in os.environ:
        pytest.skip("SAM_CHECKPOINT does not name a file with Segment Anything's weights")
    path = Path(os.environ["SAM_CHECKPOINT"])
    name = sam._whose(torch.load(path, map_location="cpu", weights_only=True))
    assert name is not None
    knobs = STUDY.segment.sam.model_dump() | {"points_per_side": 8}
    chosen = settings(segmenter=name, checkpoint=str(path), sam=knobs, device="auto")
    found = sam.segmenter(chosen, STUDY.machine, path)(photos.coffee())
    sure = [record for record in found if record["predicted_iou"] >= 0.93]
    assert 3 <= len(sure) <= len(found)
    cup = next(r for r in found if segment.decode(r)[120, 260] and 20_000 < r["area"] < 120_000)
    assert cup["predicted_iou"] > 0.78
    m_x = edges.mask(found, 400, 600, STUDY.edges)
    images.write_png(tmp_path / "m_x.png", m_x[..., None].repeat(3, 2).astype(np.uint8) * 255)
    assert 0.005 < m_x.mean() < 0.4
