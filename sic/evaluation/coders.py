"""The codecs that are measured, as :mod:`sic.evaluation.pieces` wants them: the study's own, the
classical ones, VVC+M, and the mean colour.  ``about`` is what the rows of each begin with."""

import json
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sic import images
from sic.anchors import cached, vvc_m
from sic.anchors.classical import Anchor
from sic.anchors.vvc_m import VvcM
from sic.codec import complexity, weights
from sic.codec.complexity import Cost
from sic.evaluation.pieces import CACHE, Coded, Result
from sic.images import Pixels
from sic.source import fingerprint
from sic.stream.container import Kind
from sic.stream.layer import EncodedLayer
from sic.stream.scalable import Below, Reader, ScalableCodec

#: The classical codecs that machines are shown: the paper's, and the one that most cameras write.
ANCHORS = ("VVC", "JPEG")
_RGB = {"chroma": "4:4:4", "bit_depth": 8, "colour": "RGB"}


@dataclass(frozen=True, eq=False)
class Learned:
    """A codec of the study: the checkpoints of its layers, the lowest first, their fingerprints,
    the device of the transforms, the codec of the layer below where there is one, and of one layer
    the quantisation step.

    Its rows have the rates of all layers, and what it takes to write and to read them; the picture
    is that for people, and x̂_t where there is one layer."""

    about: dict[str, Any]
    layers: tuple[Path, ...]
    weights: tuple[str, ...]
    device: str
    base: "Learned | None" = None
    step: float = 1.0
    shown: bool = True

    @classmethod
    def of(
        cls, point: dict[str, Any], checkpoint: Path, device: str, base: "Learned | None" = None
    ) -> "Learned":
        """A codec of one layer, or of a second on a base; the point has `codec`, `point`, `lmbda`
        and `m`.  Raises SicError if the checkpoint is missing or none of ours."""
        layers = (*(base.layers if base else ()), checkpoint)
        prints = tuple(weights.metadata(path)["fingerprint"] for path in layers)
        version = f"weights {'+'.join(each[:16] for each in prints)}"
        return cls({**point, "version": version, **_RGB}, layers, prints, device, base)

    def in_steps(self, step: float) -> "Learned":
        """The codec of one layer in another quantisation step."""
        point = {"point": f"{self.about['point']} step {step:g}"}
        return replace(self, about=self.about | point, step=step)

    @property
    def recipe(self) -> list[str]:
        """The weights, the kind of device, which rounds in its own way, and the step."""
        return [*self.weights, self.device.partition(":")[0], str(self.step)]

    def load(self) -> ScalableCodec:
        """The codec, kept until another one is asked for."""
        return _load(self.layers, self.weights, self.device)

    def code(self, image: Pixels, below: Result | None) -> Coded:
        """Write the layer, onto the file of the layer below if there is one, and read the whole
        file back.  Raises SicError if it does not decode to what its writer had."""
        codec = self.load()
        if below:
            return self._code_onto(codec, below, image)
        with complexity.measure(self.device) as writing:
            layer = codec.encode_layers(image, self.step).base
        with complexity.measure(self.device) as reading:
            x_hat = codec.decode(layer.stream)
        numbers = _numbers(layer, image, writing, reading)
        numbers |= one_layer(numbers["bpp"]) | {"psnr_machine": images.psnr(image, x_hat)}
        return Coded(numbers, x_hat, layer.stream)

    def _code_onto(self, codec: ScalableCodec, below: Result, image: Pixels) -> Coded:
        """The same of a second layer, whose base is read once for both, and for others on it."""
        base, opening = _read_base(codec, below.stream(), self.device)
        with complexity.measure(self.device) as writing:
            layer = codec.encode_onto(base, image)
        stream = below.stream() + layer.stream
        with complexity.measure(self.device) as reading:
            x_hat = codec.decode_onto(base, stream)
        numbers = _numbers(layer, image, writing, reading)
        for key in ("encode_seconds", "decode_seconds"):
            numbers[key] += opening
        return Coded(_onto(below.row(), numbers), x_hat, stream)


#: Pixels of the pictures whose bases a process keeps as they were read: of a set as small as the
#: default study's, all.
_KEPT = 2**23
_bases: dict[tuple[bytes, bool], tuple[Below, float]] = {}


def _read_base(codec: ScalableCodec, stream: bytes, device: str) -> tuple[Below, float]:
    """A base layer as a codec needs it, and the seconds that it took to read."""
    assert codec.enhancement is not None
    key = (stream, codec.enhancement.kind is Kind.DIFFERENCE)
    if key not in _bases:
        with complexity.measure(device) as reading:
            below = codec.read_base(stream)
        _bases[key] = below, reading.seconds
        while len(_bases) > 1 and sum(map(_pixels, _bases.values())) > _KEPT:
            del _bases[next(iter(_bases))]
    return _bases[key]


def _pixels(kept: tuple[Below, float]) -> int:
    return kept[0].layer.height * kept[0].layer.width


def _numbers(layer: EncodedLayer, image: Pixels, writing: Cost, reading: Cost) -> dict[str, float]:
    """What a layer and its picture cost."""
    return {
        "bpp": images.bpp(len(layer.stream), *image.shape[:2]),
        "bpp_estimated": layer.estimated.total / image[..., 0].size,
        "encode_seconds": writing.seconds,
        "decode_seconds": reading.seconds,
        "peak_megabytes": max(writing.peak_bytes, reading.peak_bytes) / 1e6,
    }


def _onto(base: dict[str, float], layer: dict[str, float]) -> dict[str, float]:
    """The numbers of both layers.  The second's file was read whole, and written onto the first."""
    sums = {key: base[key] + layer[key] for key in ("bpp", "bpp_estimated", "encode_seconds")}
    peak = max(base["peak_megabytes"], layer["peak_megabytes"])
    rates = {"bpp_base": base["bpp"], "bpp_additional": layer["bpp"]}
    machine = {"psnr_machine": base["psnr_machine"]}
    return {**layer, **sums, **rates, **machine, "peak_megabytes": peak}


def one_layer(bpp: float) -> dict[str, float]:
    """The rates of a file that has one layer."""
    return {"bpp_base": bpp, "bpp_additional": 0.0, "bpp": bpp}


@lru_cache(maxsize=1)
def _load(layers: tuple[Path, ...], _: tuple[str, ...], device: str) -> ScalableCodec:
    """The codec with these weights; the files may have had others before."""
    return ScalableCodec.load(layers[0], layers[1] if layers[1:] else None, device)


@dataclass(frozen=True, eq=False)
class Operations:
    """Parameters and multiply-accumulates of a codec, kept as one file for all codecs that have its
    form, whatever their weights."""

    codec: Learned
    path: Path

    @staticmethod
    @cache
    def of(codec: Learned) -> "Operations":
        """Those of a codec, with the place of their file."""
        forms = [weights.metadata(layer)["settings"] for layer in codec.layers]
        return Operations(codec, CACHE / f"operations-{fingerprint(forms, operations)}.json")

    def make(self) -> bytes:
        """The file's content, as JSON."""
        return json.dumps(operations(self.codec.load())).encode()

    def row(self) -> dict[str, float]:
        """What a file that is there says."""
        found: dict[str, float] = json.loads(self.path.read_bytes())
        return found


def operations(codec: ScalableCodec) -> dict[str, float]:
    """Parameters of all layers, which are frozen, and thousands of multiply-accumulates per pixel
    to write (`kmac_encode`) and to read (`kmac_decode`) a small picture."""
    for part in codec.codecs:
        # PyTorch's counter asks autograd about each parameter, and autograd is off while coding.
        part.codec.requires_grad_(False)
    dark = np.zeros((images.MULTIPLE, images.MULTIPLE, 3), np.uint8)
    encoding = codec.encode_layers(dark)
    layer: Reader = "human" if encoding.enhancement else "machine"
    steps = {
        "kmac_encode": lambda: codec.encode_layers(dark),
        "kmac_decode": lambda: codec.decode(encoding.stream, layer),
    }
    counted = {k: complexity.kmac_per_pixel(step, dark[..., 0].size) for k, step in steps.items()}
    return {"parameters": sum(complexity.parameters(p.codec) for p in codec.codecs), **counted}


@dataclass(frozen=True, eq=False)
class Classical:
    """A classical codec at a setting."""

    anchor: Anchor
    setting: float
    base: None = None

    @property
    def about(self) -> dict[str, Any]:
        """Set-up and setting."""
        return {**asdict(self.anchor.setup), "point": f"{self.anchor.knob} {self.setting}"}

    @property
    def recipe(self) -> dict[str, Any]:
        """The same: all that its bytes depend on."""
        return self.about

    @property
    def shown(self) -> bool:
        """Whether machines are shown its pictures."""
        return self.anchor.setup.codec in ANCHORS

    def code(self, image: Pixels, _: Result | None) -> Coded:
        """Code and decode; a stream that was kept is decoded only."""
        coded = cached.code(self.anchor, self.setting, image)
        times = {"encode_seconds": coded.encode_seconds, "decode_seconds": coded.decode_seconds}
        return Coded({**one_layer(coded.bpp), **times}, coded.x_hat)


@dataclass(frozen=True, eq=False)
class Inter:
    """VVC+M at a QP, on a base."""

    codec: VvcM
    qp: int
    base: Learned
    shown: bool = False

    @property
    def about(self) -> dict[str, Any]:
        """Set-up and QP."""
        return {**asdict(self.codec.setup), "point": f"QP {self.qp}"}

    @property
    def recipe(self) -> list[Any]:
        """Set-up and QP, and the base."""
        return [self.about, self.base.recipe]

    def code(self, image: Pixels, below: Result | None) -> Coded:
        """Code the picture with x̂_t as its reference."""
        assert below is not None
        coded = vvc_m.code(self.codec, self.qp, image, below.pixels())
        # No times: most of them goes into the first picture, which only stands for x̂_t.
        base = below.row()
        rates = {"bpp_base": base["bpp"], "bpp_additional": coded.bpp}
        numbers = {**rates, "bpp": sum(rates.values()), "psnr_machine": base["psnr_machine"]}
        return Coded(numbers, coded.x_hat)


@dataclass(frozen=True, eq=False)
class MeanColour:
    """Sending nothing but the picture's mean colour: what every codec must beat."""

    recipe: str = ""
    shown: bool = False
    base: None = None

    @property
    def about(self) -> dict[str, Any]:
        """Its name; it has one point, and so no name of that."""
        return {"codec": "mean colour", **_RGB, "point": ""}

    def code(self, image: Pixels, _: Result | None) -> Coded:
        """Three bytes, and one colour from them."""
        flat = np.empty_like(image)
        flat[:] = image.mean(axis=(0, 1)).round()
        return Coded(one_layer(images.bpp(3, *image.shape[:2])), flat)
