"""Object detectors that stand for the machine: a picture in; boxes with class and score out, and
the masks of Mask R-CNN.  They were trained by others on original pictures, most on COCO's; none is
fine-tuned here."""

import ast
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as onnx
from pycocotools import mask as run_lengths
from torch import nn

from sic import images
from sic.errors import SicError
from sic.files import fetch, need_shipped, read_tensors
from sic.images import Pixels
from sic.measuring import Detect

# `detect.weights` that stands for no file of the user's: markers, so that DVC, which reruns the
# stage when the file changes, always has one to depend on.
NONE = "data/weights/none"
DOWNLOAD = "data/weights/download"

#: YOLOX-nano as it comes with the study, and its SHA-256.
SHIPPED = "data/weights/detector/yolox_nano.onnx"
_SHIPPED_SHA256 = "e8af074932d4ed7e232278e3055cefcdea3edf178874a3694ae292649fb464dd"

YOLOX = "yolox"
CARD = "names"  # the entry of an ONNX file's metadata that names its classes

#: SHA-256 of the published weights.  torchvision's file names hold the first eight digits; the
#: publishers give no more, and the whole ones are those that several projects recorded.
CHECKSUMS: Mapping[str, str] = {
    YOLOX: "c789161ed43c8269fcd4e67c67eeeb4e80c622da2eb296a20bc6007bd18a0b7d",
    "fasterrcnn_resnet50_fpn": "258fb6c638b15964ddcdd1ae0748c5eef1be9e732750120cc857feed3faac384",
    "fasterrcnn_resnet50_fpn_v2": (
        "dd69338a24b8d7381807e247652bdc356325bcbaf1cd3e092e00e0a1a58706bf"
    ),
    "maskrcnn_resnet50_fpn": "bf2d0c1efbc936eeee2bc95a48e80ebc86b891f61b0106485937fc29f9315fc0",
    "retinanet_resnet50_fpn_v2": "5905b1c544219215e544dbe319720397bc4e68de61a733a59350d7976645b769",
    "ssdlite320_mobilenet_v3_large": (
        "a79551df90c79834bcd3bb3845ef9d966b5449a3a9b2833ae8404778ca5d65d2"
    ),
}
#: YOLOX-nano, the smallest of its kind: 0.9 M parameters, for CPUs.
_YOLOX_NANO = (
    "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0/yolox_nano.onnx"
)

STRIDES = (8, 16, 32)  # of YOLOX's three grids, in pixels of its input
GREY = 114  # what YOLOX pads with
#: What onnxruntime says before it says why: a code, the path, its own source and signature.
_NOT_THE_REASON = re.compile(
    r"^.*? failed:|^\[ONNXRuntimeError\] : \d+ : \w+ : |/\S+:\d+ .*?\) (?=\w)", re.DOTALL
)
_UNREADABLE = (
    *(onnx.Fail, onnx.InvalidGraph, onnx.InvalidProtobuf),
    *(onnx.InvalidArgument, onnx.NotImplemented, onnx.NoSuchFile),
)
_NMS_IOU = 0.65  # with which YOLOX's accuracies are published
_MAX_LOG = 10.0  # of a raw width or height in strides; decoded ones are pixels, and larger


@dataclass(frozen=True)
class Detections:
    """What a detector found in one picture: boxes, float32 (K, 4), as x0, y0, x1, y1 in pixels of
    the picture; scores, float32 (K,) in [0, 1]; K names of classes; of a detector with masks K of
    these, of the picture's size, as the counts of COCO's compressed run lengths."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: list[str]
    masks: list[bytes] | None = None


#: A picture in, uint8 (H, W, 3) RGB; what the detector finds in it out.
Detector = Callable[[Pixels], Detections]


def load(settings: Detect, path: Path, device: torch.device) -> Detector:
    """The detector of the settings, any but ``none``, with the weights that :func:`weights` found;
    YOLOX runs on the CPU, torchvision's on the device.  Raises SicError if the file does not hold
    this detector's weights."""
    if settings.detector == YOLOX:
        return Yolox(path, settings.score_threshold)
    return Torchvision(settings.detector, path, settings.score_threshold, device)


def weights(settings: Detect, folder: Path) -> Path:
    """The file with the detector's weights, which are downloaded to ``folder`` if so set.  Raises
    SicError if none are given or there, saying where to get them, and if a download fails."""
    url, checksum = address(settings.detector), CHECKSUMS[settings.detector]
    source = f"get {url} (SHA-256 {checksum}) and name the file there"
    if settings.weights == NONE:
        raise SicError(
            f"detect.weights: {settings.detector} needs its weights: {source}, or write {DOWNLOAD}"
        )
    if settings.weights == DOWNLOAD:
        return fetch(url, folder / url.rpartition("/")[2], checksum)
    path = Path(settings.weights)
    if path == Path(SHIPPED):
        need_shipped(path, _SHIPPED_SHA256)
    if not path.is_file():
        raise SicError(f"detect.weights: there is no file {path}; {source}")
    return path


def address(detector: str) -> str:
    """Where a detector's weights are published."""
    return _YOLOX_NANO if detector == YOLOX else str(_published(detector).url)


def known_classes(settings: Detect, path: Path) -> tuple[str, ...]:
    """The classes of the detector of the settings, any but ``none``, with these weights.  Raises
    SicError for a file that is not YOLOX's."""
    return Yolox(path, 0.0).names if settings.detector == YOLOX else class_names()


@cache
def class_names() -> tuple[str, ...]:
    """COCO's 80 classes in the order of their category numbers, as YOLOX counts them."""
    numbered = _published("fasterrcnn_resnet50_fpn").meta["categories"]
    return tuple(name for name in numbered if name not in ("__background__", "N/A"))


def _published(detector: str) -> Any:
    from torchvision.models import get_model_weights  # with PyTorch's compiler: three seconds

    return get_model_weights(detector)["COCO_V1"]


class Yolox:
    """YOLOX of any size from an ONNX file, on the CPU; raises SicError if it is no such model.

    The file is as YOLOX's own exporter writes it: input (1, 3, H, W), BGR from 0 to 255, padded
    with 114 on the right and below; output (1, A, 5 + classes), one row per cell of the three
    grids: the box's centre and the logarithms of its size in strides, objectness, class
    probabilities.  The classes are those that the file's metadata name (:func:`_card`), or COCO's.
    Source: Ge et al., YOLOX (arXiv 2107.08430); overlaps are suppressed as in its evaluation.
    """

    def __init__(self, path: Path, score_threshold: float) -> None:
        self.path, self.score_threshold = path, score_threshold
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # problems come as exceptions; not on stderr as well
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", 0))  # 0: all cores
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except _UNREADABLE as error:
            reason = " ".join(_NOT_THE_REASON.sub("", str(error)).split())
            problem = f"{path} is not an ONNX model that can be read ({reason})"
            raise SicError(f"{problem}; see detect.weights") from None
        card = self.session.get_modelmeta().custom_metadata_map.get(CARD)
        self.names = class_names() if card is None else _card(card, path)
        self.height, self.width = self._input_size()

    def _input_size(self) -> tuple[int, int]:
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        shapes = [tuple(entry.shape) for entry in (*inputs, *outputs)]
        match shapes:
            case [(1, 3, int(height), int(width)), (1, int(rows), int(columns))]:
                if (rows, columns) == (len(grid(height, width)[0]), 5 + len(self.names)):
                    return height, width
        shown = ", ".join(map(str, shapes))
        own = "COCO's" if self.names == class_names() else "its card's"
        problem = f"{self.path} is not YOLOX for {own} {len(self.names)} classes"
        raise SicError(f"{problem}: its inputs and outputs are {shown}")

    def __call__(self, image: Pixels) -> Detections:
        """Boxes with their likeliest class, best first.  Raises SicError if they come decoded."""
        from torchvision.ops import batched_nms

        x, scale = letterbox(image, self.height, self.width)
        (output,) = self.session.run(None, {self.session.get_inputs()[0].name: x})
        if output[..., 2:4].max() > _MAX_LOG:
            remedy = "export it without --decode_in_inference"
            raise SicError(f"{self.path} gives decoded boxes; {remedy}")
        boxes, probabilities = decode(output[0], self.height, self.width)
        labels = probabilities.argmax(axis=1)
        scores = probabilities[np.arange(len(labels)), labels]
        likely = np.flatnonzero(scores >= self.score_threshold)
        boxes, scores, labels = boxes[likely] / scale, scores[likely], labels[likely]
        kept = batched_nms(*map(torch.from_numpy, (boxes, scores, labels)), _NMS_IOU).numpy()
        return Detections(boxes[kept], scores[kept], [self.names[i] for i in labels[kept]])


def _card(text: str, path: Path) -> tuple[str, ...]:
    """Class names from the entry ``names`` of an ONNX file's metadata: a list, or a dictionary by
    class number, in Python's or JSON's notation, as Ultralytics and others write it.  Raises
    SicError for anything else."""
    try:
        found = ast.literal_eval(text)
        if isinstance(found, dict):
            numbered = {int(number): name for number, name in found.items()}
            found = [numbered[i] for i in range(len(found))]
        names = tuple(found) if isinstance(found, list | tuple) else ()
        if names and len(set(names)) == len(names) and all(isinstance(n, str) for n in names):
            return names
    except (ValueError, TypeError, KeyError, SyntaxError, MemoryError, RecursionError):
        pass
    shown = " ".join(text[:60].split())
    raise SicError(f"{path}: `{CARD}` in its metadata is no list of class names, but {shown}")


def letterbox(image: Pixels, height: int, width: int) -> tuple[NDArray[np.float32], float]:
    """A picture, uint8 (H, W, 3) RGB, as YOLOX wants it: as large as fits, in the upper left
    corner, grey elsewhere, float32 (1, 3, height, width), BGR in [0, 255]; and the scale s, by
    which a point (x, y) of the picture is at (s · x, s · y)."""
    scale = min(height / image.shape[0], width / image.shape[1])
    rows, columns = (max(1, int(side * scale)) for side in image.shape[:2])
    canvas = np.full((height, width, 3), GREY, np.uint8)
    canvas[:rows, :columns] = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(canvas[..., ::-1].transpose(2, 0, 1)[None], np.float32), scale


def grid(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """YOLOX's cells for an input of this size, grid by grid and row by row: column and row of each,
    float32 (A, 2), and its stride, float32 (A, 1)."""
    cells, strides = [], []
    for stride in STRIDES:
        rows, columns = np.mgrid[: height // stride, : width // stride]
        cells.append(np.stack([columns.ravel(), rows.ravel()], axis=1))
        strides.append(np.full((rows.size, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)


def decode(
    output: NDArray[np.float32], height: int, width: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """YOLOX's output for an input of this size as boxes (A, 4), x0, y0, x1, y1 in pixels of the
    input, and the probability of each class (A, classes), objectness times class.  The output is
    (A, 5 + classes): x, y, log w, log h in strides, x and y from the cell's corner; objectness;
    class probabilities."""
    cells, strides = grid(height, width)
    centre = (output[:, :2] + cells) * strides
    half = np.exp(output[:, 2:4]) * strides / 2
    return np.concatenate([centre - half, centre + half], axis=1), output[:, 4:5] * output[:, 5:]


class Torchvision:
    """One of torchvision's detectors, with its own resizing and suppression of overlaps.  Raises
    SicError if the file does not hold this model's weights."""

    def __init__(self, name: str, path: Path, score_threshold: float, device: torch.device) -> None:
        self.names = _published(name).meta["categories"]
        self.device = device
        model = build(name, score_threshold)
        _fill(model, name, read_tensors(path), path)
        self.model = model.to(device).eval()

    @torch.inference_mode()
    def __call__(self, image: Pixels) -> Detections:
        """The model's boxes, best first, and the masks of a model that gives them: where it is at
        least as sure of the object as not."""
        found = self.model([images.to_tensor(image)[0].to(self.device)])[0]
        boxes, scores, labels = (found[key].cpu().numpy() for key in ("boxes", "scores", "labels"))
        masks = None
        if "masks" in found:  # (K, 1, H, W) in [0, 1]
            inside = [np.asfortranarray(one.cpu().numpy()) for one in found["masks"][:, 0] >= 0.5]
            masks = [run_lengths.encode(one)["counts"] for one in inside]
        return Detections(boxes, scores, [self.names[label] for label in labels], masks)


def build(name: str, score_threshold: float) -> nn.Module:
    """A model of torchvision, with random weights, of the form that the published weights need."""
    from torchvision.models import detection, get_model
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops import FrozenBatchNorm2d

    whole: dict[str, Callable[..., nn.Module]] = {
        "fasterrcnn_resnet50_fpn": detection.FasterRCNN,
        "maskrcnn_resnet50_fpn": detection.MaskRCNN,
    }
    if name in whole:
        # Trained with frozen statistics and eps = 0, which torchvision's builders give to nobody
        # but those who let them download the weights.
        norm = partial(FrozenBatchNorm2d, eps=0.0)
        backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=norm)
        classes = len(_published(name).meta["categories"])
        return whole[name](backbone, classes, box_score_thresh=score_threshold)
    threshold = {"box_score_thresh" if "rcnn" in name else "score_thresh": score_threshold}
    model: nn.Module = get_model(name, weights=None, weights_backbone=None, **threshold)
    return model


def _fill(model: nn.Module, name: str, state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Copy every tensor; torchvision's modules rename those that older files call otherwise."""
    try:
        missing, unknown = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # shapes: a heading, then a line for each
        fault = str(error).splitlines()[1].strip("\t .")
        raise SicError(f"{path} is not torchvision's {name}: {fault}") from None
    own = model.state_dict()
    for key in sorted((*missing, *unknown)):
        ours, theirs = (tuple(s[key].shape) if key in s else "nothing" for s in (own, state))
        raise SicError(f"{path} is not torchvision's {name}: {key} is {theirs}, not {ours}")
