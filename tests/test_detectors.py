"""The two kinds of detectors, against their published definitions."""

import hashlib
import pickle
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from server import serving
from skimage import data as photos
from torchvision.models import detection as torchvision_detection
from torchvision.models import get_model, list_models
from torchvision.models._api import WeightsEnum

from sic import images, params
from sic.errors import SicError
from sic.evaluation import detectors
from sic.files import write_bytes

ROOT = Path(__file__).parents[1]
STUDY = params.load(ROOT / "params.yaml")
CPU = torch.device("cpu")
TORCHVISION = sorted(set(detectors.CHECKSUMS) - {detectors.YOLOX})


def chosen(detector: str, weights: Path | str, **changes: Any) -> params.Detect:
    values = {**STUDY.detect.model_dump(), "detector": detector, "weights": str(weights)}
    return params.Detect.model_validate(values | changes)


# ---- YOLOX ----


@given(height=st.integers(1, 900), width=st.integers(1, 900), seed=st.integers(0, 9))
@settings(max_examples=40)
def test_a_letterboxed_picture_is_scaled_into_the_upper_left_corner_of_grey(
    height: int, width: int, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    x, scale = detectors.letterbox(image, 416, 416)
    assert (x.shape, x.dtype) == ((1, 3, 416, 416), np.float32)
    assert scale == pytest.approx(416 / max(height, width))
    rows, columns = max(1, int(height * scale)), max(1, int(width * scale))
    assert 415 <= max(rows, columns) <= 416, "as large as fits"
    assert np.all(x[..., rows:, :] == 114)
    assert np.all(x[..., columns:] == 114)
    bgr = x[0, :, :rows, :columns].transpose(1, 2, 0)
    assert np.array_equal(bgr, cv2.resize(image, (columns, rows))[..., ::-1])


def test_a_picture_of_the_network_s_size_stays_as_it_is_but_for_the_order_of_colours() -> None:
    image = np.full((32, 64, 3), (10, 20, 30), np.uint8)
    x, scale = detectors.letterbox(image, 32, 64)
    assert scale == 1
    assert [set(channel.ravel()) for channel in x[0]] == [{30}, {20}, {10}]


@given(seed=st.integers(0, 1000), height=st.sampled_from([32, 64]), width=st.sampled_from([32, 96]))
@settings(max_examples=10)
def test_decoding_is_that_of_the_paper_cell_by_cell(seed: int, height: int, width: int) -> None:
    count = sum((height // s) * (width // s) for s in (8, 16, 32))
    output = np.random.default_rng(seed).standard_normal((count, 5 + 3)).astype(np.float32)
    boxes, probabilities = detectors.decode(output, height, width)
    row = 0
    for stride in (8, 16, 32):
        for y in range(height // stride):
            for x in range(width // stride):
                dx, dy, log_w, log_h, objectness, *classes = output[row].tolist()
                centre_x, centre_y = (x + dx) * stride, (y + dy) * stride
                w, h = np.exp(log_w) * stride, np.exp(log_h) * stride
                corners = [centre_x - w / 2, centre_y - h / 2, centre_x + w / 2, centre_y + h / 2]
                np.testing.assert_allclose(boxes[row], corners, rtol=1e-4, atol=1e-3)
                expected = [objectness * c for c in classes]
                np.testing.assert_allclose(probabilities[row], expected, rtol=1e-5)
                row += 1
    assert row == count


class FixedSession:
    """A network of 64 × 64 pixels that gives one output, whatever it sees."""

    def __init__(self, output: np.ndarray, side: int = 64, **card: str) -> None:
        self.output, self.side, self.card = output, side, card

    def __call__(self, *_: Any, **__: Any) -> "FixedSession":
        return self

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="images", shape=[1, 3, self.side, self.side])]

    def get_modelmeta(self) -> Any:
        return SimpleNamespace(custom_metadata_map=self.card)

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="output", shape=list(self.output.shape))]

    def run(self, _: Any, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert feed["images"].shape == (1, 3, self.side, self.side)
        return [self.output]


def network(monkeypatch: pytest.MonkeyPatch, output: np.ndarray, **card: str) -> None:
    monkeypatch.setattr(onnxruntime, "InferenceSession", FixedSession(output, **card))


def raw(*cells: tuple[int, float, int, float]) -> np.ndarray:
    """An output of 64 × 64 pixels: (row, objectness, class, class's probability) of cells."""
    output = np.zeros((1, 64 + 16 + 4, 85), np.float32)
    for row, objectness, label, probability in cells:
        output[0, row, 4], output[0, row, 5 + label] = objectness, probability
    return output


def test_boxes_come_back_in_the_picture_s_own_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    # Cell 9 of the first grid, 8 pixels wide: its corner is (8, 8), the box one stride wide.
    network(monkeypatch, raw((9, 0.9, 16, 0.5), (70, 0.001, 0, 0.9)))
    found = detectors.Yolox(Path("any.onnx"), 0.01)(np.zeros((128, 256, 3), np.uint8))
    np.testing.assert_allclose(found.boxes, [[16, 16, 48, 48]])  # the picture is 4 times as wide
    np.testing.assert_allclose(found.scores, [0.45])
    assert found.classes == ["dog"]


def test_of_boxes_that_overlap_the_best_of_each_class_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = raw((9, 0.9, 0, 0.9), (10, 0.9, 0, 0.8), (17, 0.9, 2, 0.7))
    output[0, 10, 0] = -0.9  # nearly over cell 9
    output[0, 17, 1] = -1.0  # exactly over cell 9, of another class
    network(monkeypatch, output)
    found = detectors.Yolox(Path("any.onnx"), 0.01)(np.zeros((64, 64, 3), np.uint8))
    assert found.classes == ["person", "car"]
    np.testing.assert_allclose(found.scores, [0.81, 0.63], rtol=1e-5)


def test_nothing_found_is_no_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    network(monkeypatch, raw())
    found = detectors.Yolox(Path("any.onnx"), 0.01)(np.zeros((64, 64, 3), np.uint8))
    assert (found.boxes.shape, found.scores.shape, found.classes) == ((0, 4), (0,), [])


def test_a_file_of_a_newer_onnx_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "new.onnx"
    # A model of IR version 99 with an empty graph and operators of version 13, in protobuf.
    path.write_bytes(bytes([0x08, 99, 0x3A, 0, 0x42, 2, 0x10, 13]))
    with pytest.raises(SicError) as error:
        detectors.Yolox(path, 0.01)
    reason = r"Unsupported model IR version: 99, max supported IR version: \d+"
    line = rf"{path} is not an ONNX model that can be read \({reason}\); see detect\.weights"
    assert re.fullmatch(line, str(error.value))


def test_a_file_that_is_not_yolox_s_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    for content in (b"", b"no network", pickle.dumps({})):
        path.write_bytes(content)
        with pytest.raises(SicError, match=r"model\.onnx is not an ONNX model that can be read"):
            detectors.Yolox(path, 0.01)
    network(monkeypatch, np.zeros((1, 1000, 85)))
    with pytest.raises(SicError, match=r"not YOLOX for COCO's 80 classes: .*\(1, 1000, 85\)"):
        detectors.Yolox(path, 0.01)
    network(monkeypatch, np.zeros((1, 84, 25)))
    with pytest.raises(SicError, match="not YOLOX for COCO's 80 classes"):
        detectors.Yolox(path, 0.01)


def test_a_file_that_decodes_by_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    output = raw((9, 0.9, 16, 0.5))
    output[..., 2:4] = 32.0  # pixels
    network(monkeypatch, output)
    with pytest.raises(SicError, match="export it without --decode_in_inference"):
        detectors.Yolox(Path("any.onnx"), 0.01)(np.zeros((64, 64, 3), np.uint8))


@pytest.mark.parametrize(
    "names",
    [
        "{0: 'pedestrian', 1: 'motor', 2: \"pedlar's cart\"}",  # as Ultralytics writes it
        "['pedestrian', 'motor', \"pedlar's cart\"]",
        '{"0": "pedestrian", "2": "pedlar\'s cart", "1": "motor"}',  # as JSON has it
    ],
)
def test_classes_are_those_that_the_file_s_metadata_names(
    names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network(monkeypatch, raw((9, 0.9, 1, 0.5))[..., : 5 + 3], names=names)
    detector = detectors.Yolox(Path("any.onnx"), 0.01)
    assert detector.names == ("pedestrian", "motor", "pedlar's cart")
    assert detector(np.zeros((64, 64, 3), np.uint8)).classes == ["motor"]
    assert detectors.known_classes(chosen("yolox", "any.onnx"), Path("any.onnx")) == detector.names


@pytest.mark.parametrize(
    "names",
    ["", "{}", "3", "person", "'person'", "[1]", "['a', 'a']", "{1: 'a'}", "{0: 'a'", "{'b': 'a'}"],
)
def test_a_card_without_class_names_is_one_line(
    names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network(monkeypatch, raw(), names=names)
    with pytest.raises(SicError, match=r"any\.onnx: `names` in its metadata is no list of class"):
        detectors.Yolox(Path("any.onnx"), 0.01)


def test_a_card_that_does_not_fit_the_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    network(monkeypatch, raw(), names="['car']")
    with pytest.raises(SicError, match=r"is not YOLOX for its card's 1 classes: .*\(1, 84, 85\)"):
        detectors.Yolox(Path("any.onnx"), 0.01)


def test_a_detector_of_torchvision_knows_coco_s_classes(tmp_path: Path) -> None:
    settings = chosen("fasterrcnn_resnet50_fpn", tmp_path / "any.pth")
    assert detectors.known_classes(settings, tmp_path / "any.pth") == detectors.class_names()


# ---- torchvision's ----


@pytest.fixture(scope="module")
def ssdlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of torchvision's smallest detector, with random weights."""
    torch.manual_seed(0)
    model = detectors.build("ssdlite320_mobilenet_v3_large", 0.0)
    for name, parameter in model.named_parameters():
        if "classification_head" in name and parameter.shape[0] % 91 == 0:
            torch.nn.init.normal_(parameter)  # else every class is as likely as any other
    path = tmp_path_factory.mktemp("weights") / "ssdlite.pth"
    torch.save(model.state_dict(), path)
    return path


def test_boxes_and_classes_are_torchvision_s(ssdlite: Path) -> None:
    settings = chosen("ssdlite320_mobilenet_v3_large", ssdlite, score_threshold=0.1)
    picture = photos.astronaut()[:200, :300]
    found = detectors.load(settings, ssdlite, CPU)(picture)
    model = get_model(
        "ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None, score_thresh=0.1
    ).eval()
    model.load_state_dict(torch.load(ssdlite))
    with torch.inference_mode():
        theirs = model([images.to_tensor(picture)[0]])[0]
    assert len(found.scores) > 0
    np.testing.assert_array_equal(found.boxes, theirs["boxes"])
    np.testing.assert_array_equal(found.scores, theirs["scores"])
    names = torchvision_detection.SSDLite320_MobileNet_V3_Large_Weights.COCO_V1.meta["categories"]
    assert found.classes == [names[label] for label in theirs["labels"].tolist()]
    assert found.scores.min() >= 0.1


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_model_is_what_torchvision_builds_around_its_published_weights(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = detectors.build(name, 0.05)
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: ours.state_dict())
    theirs = get_model(name, weights="COCO_V1")
    # With the norms' kind and eps, in which models with and without published weights differ.
    assert str(ours) == str(theirs)


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_download_is_checked_with_the_digits_that_its_name_announces(name: str) -> None:
    stem = detectors.address(name).rpartition("-")[2].removesuffix(".pth")
    assert detectors.CHECKSUMS[name].startswith(stem)
    assert len(stem) == 8
    assert len(detectors.CHECKSUMS[name]) == 64


def test_every_detector_of_the_settings_is_there() -> None:
    named = set(get_args(params.Detect.model_fields["detector"].annotation)) - {"none"}
    assert named == set(detectors.CHECKSUMS)
    assert set(TORCHVISION) <= set(list_models(torchvision_detection))


def test_yolox_s_classes_are_coco_s_80_in_order() -> None:
    names = detectors.class_names()
    assert (len(names), len(set(names))) == (80, 80)
    assert (names[0], names[11], names[79]) == ("person", "stop sign", "toothbrush")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"no checkpoint", r"weights\.pth is refused"),
        ([1, 2], r"weights\.pth holds no state dict"),
        ({"a": torch.zeros(2)}, r"ssdlite320_mobilenet_v3_large: a is \(2,\), not nothing"),
    ],
)
def test_a_wrong_checkpoint_is_one_line(content: Any, line: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(SicError, match=line):
        detectors.load(chosen("ssdlite320_mobilenet_v3_large", path), path, CPU)


#: What torchvision once called parts of its models, as files published then still do.
OLD_NAMES = (
    (r"(fpn\.(?:inner|layer)_blocks\.\d)\.0\.", r"\1."),
    (r"(rpn\.head\.conv)\.0\.0\.", r"\1."),
    (r"(mask_head\.)(\d)\.0\.", lambda found: f"{found[1]}mask_fcn{int(found[2]) + 1}."),
)


def old_name(key: str) -> str:
    for today, old in OLD_NAMES:
        key = re.sub(today, old, key)
    return key


def of_one_value_each(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A state whose k-th tensor is k everywhere: a file of it is small, as no value is repeated."""
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
    return {key: torch.tensor(float(k)).expand(s) for k, (key, s) in enumerate(shapes.items())}


@pytest.mark.parametrize(
    ("name", "renamed"), [("fasterrcnn_resnet50_fpn", 18), ("maskrcnn_resnet50_fpn", 26)]
)
def test_a_published_file_with_torchvision_s_old_names_is_read(
    name: str, renamed: int, tmp_path: Path
) -> None:
    state = of_one_value_each(detectors.build(name, 0.05))
    assert sum(old_name(key) != key for key in state) == renamed
    path = tmp_path / "old.pth"
    torch.save({old_name(key): tensor for key, tensor in state.items()}, path)
    detector = detectors.load(chosen(name, path), path, CPU)
    assert isinstance(detector, detectors.Torchvision)
    loaded = detector.model.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


@pytest.mark.parametrize(
    ("key", "changed", "line"),
    [
        (
            r"backbone.fpn.inner_blocks.0.weight",
            None,
            r"inner_blocks\.0\.0\.weight is nothing, not",
        ),
        (
            r"rpn.head.conv.bias",
            torch.zeros(3),
            r"rpn\.head\.conv\.0\.0\.bias: .*\[3\].*\[256\]\)$",
        ),
        (r"rpn.head.conv.gain", torch.zeros(3), r"rpn\.head\.conv\.gain is \(3,\), not nothing$"),
    ],
)
def test_a_fault_among_old_names_is_one_line(
    key: str, changed: torch.Tensor | None, line: str, tmp_path: Path
) -> None:
    name = "fasterrcnn_resnet50_fpn"
    state = {old_name(k): t for k, t in of_one_value_each(detectors.build(name, 0.05)).items()}
    if changed is None:
        del state[key]
    else:
        state[key] = changed
    path = tmp_path / "wrong.pth"
    torch.save(state, path)
    with pytest.raises(SicError, match=rf"wrong\.pth is not torchvision's {name}: .*{line}"):
        detectors.load(chosen(name, path), path, CPU)


# ---- where the weights come from ----


def test_weights_are_named_downloaded_or_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine.onnx"
    mine.write_bytes(b"weights")
    assert detectors.weights(chosen("yolox", mine), tmp_path) == mine
    with pytest.raises(SicError, match=r"there is no file .*absent.onnx; get http"):
        detectors.weights(chosen("yolox", tmp_path / "absent.onnx"), tmp_path)
    with pytest.raises(SicError, match=r"detect\.weights: yolox needs its weights: get http"):
        detectors.weights(chosen("yolox", detectors.NONE), tmp_path)
    with serving({"/yolox_nano.onnx": b"weights"}) as server:
        monkeypatch.setattr(detectors, "_YOLOX_NANO", f"{server.address}/yolox_nano.onnx")
        with pytest.raises(SicError, match="gave other bytes than expected"):
            detectors.weights(chosen("yolox", detectors.DOWNLOAD), tmp_path / "cache")
        checksum = hashlib.sha256(b"weights").hexdigest()
        monkeypatch.setattr(detectors, "CHECKSUMS", {"yolox": checksum})
        path = detectors.weights(chosen("yolox", detectors.DOWNLOAD), tmp_path / "cache")
    assert path.read_bytes() == b"weights"


def test_weights_that_come_with_the_study_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert detectors.weights(STUDY.detect, tmp_path) == Path(detectors.SHIPPED)
    assert "Apache License" in Path(detectors.SHIPPED).with_name("LICENSE").read_text()[:100]
    content = Path(detectors.SHIPPED).read_bytes()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SicError, match=r"yolox_nano\.onnx, which comes .* is not there; bring it"):
        detectors.weights(STUDY.detect, tmp_path)
    write_bytes(tmp_path / detectors.SHIPPED, content[:-1])
    with pytest.raises(
        SicError, match=r"yolox_nano\.onnx, which comes .* was changed .*`git check"
    ):
        detectors.weights(STUDY.detect, tmp_path)
