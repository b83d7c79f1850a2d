"""A scalable stream of a picture: a base layer for machines, then an enhancement for people.

    picture ── encode ──┬── base layer ──────────── decode(layer="machine") ── x̂_t
                        └── enhancement layer ─ + ─ decode(layer="human") ──── x̂

Rates in the study are the lengths of these bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from sic import images
from sic.codec import weights
from sic.codec.fusion import AdditionalCodec, DifferenceCodec, fuse
from sic.codec.tcm import TCM
from sic.errors import SicError, StreamError
from sic.images import Pixels
from sic.sizes import bpp
from sic.stream import rate
from sic.stream.container import (
    Kind,
    Layer,
    read_layer,
    read_layers,
)
from sic.stream.latent import Latent
from sic.stream.layer import EncodedLayer, LayerCodec, kind_of
from sic.stream.rate import Step, Target
from sic.work import threads

Reader = Literal["machine", "human"]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Encoding:
    """A picture's layers; the enhancement is None where the codec has none."""

    base: EncodedLayer
    enhancement: EncodedLayer | None

    @property
    def stream(self) -> bytes:
        """The whole file."""
        return self.base.stream + (self.enhancement.stream if self.enhancement else b"")


@dataclass(frozen=True)
class Below:
    """A base layer that was read, for all that is written and read on it: its record, its latent,
    and for the difference codec x̂_t, padded, (1, 3, H, W), as 8 bits have it."""

    layer: Layer
    latent: Latent
    x_hat_t: Tensor | None


class ScalableCodec:
    """Writes and reads streams with the weights of a base (SA-ICM, or a human LIC that stands
    alone) and, for people, of the additional or the difference codec trained on it.  Raises
    SicError if the enhancement does not fit the base."""

    def __init__(
        self, base: TCM, enhancement: AdditionalCodec | DifferenceCodec | None = None
    ) -> None:
        if type(base) is not TCM:
            raise SicError(f"{weights.label(base)} is no base; give the weights of SA-ICM or a LIC")
        kind = Kind.DIFFERENCE
        if isinstance(enhancement, AdditionalCodec):
            kind = kind_of(enhancement)
            needs, has = (enhancement.base_M, enhancement.base_slices), (base.M, base.num_slices)
            if needs != has:
                raise SicError(
                    "the additional codec is for a base with M={}, num_slices={}; ".format(*needs)
                    + "this base has M={}, num_slices={}".format(*has)
                )
        self.base = LayerCodec(base, Kind.BASE)
        self.enhancement: LayerCodec | None = None
        if enhancement is not None:
            self.enhancement = LayerCodec(enhancement, kind)
        self.codecs = [codec for codec in (self.base, self.enhancement) if codec]

    @classmethod
    def load(
        cls,
        base_path: Path | str,
        enhancement_path: Path | str | None = None,
        device: str | torch.device = "cpu",
    ) -> "ScalableCodec":
        """The codec of these checkpoints, as :mod:`sic.codec.weights` writes them.

        g_a, h_a and g_s run on ``device``; what symbols depend on always runs on the CPU
        (:mod:`sic.stream.latent`).  Raises SicError if a checkpoint cannot be loaded, the two do
        not fit each other, or the enhancement was trained on another base.
        """
        base = weights.load(Path(base_path), device)
        if enhancement_path is None:
            return cls(base)
        # Published checkpoints do not say what they were trained on.
        trained_on = weights.metadata(Path(enhancement_path))["origin"].get("base")
        given = weights.metadata(Path(base_path))["fingerprint"]
        if trained_on not in (None, given):
            raise SicError(
                f"{enhancement_path} was trained on another base ({trained_on[:16]}) than "
                f"{base_path} ({given[:16]}); give the base it was trained on"
            )
        enhancement = weights.load(Path(enhancement_path), device)
        if not isinstance(enhancement, AdditionalCodec | DifferenceCodec):
            raise SicError(
                f"{enhancement_path} holds {weights.label(enhancement)}, no enhancement; give "
                "the checkpoint of an additional or a difference codec"
            )
        return cls(base, enhancement)

    def encode(self, image: Pixels, step: Step = 1.0, base_step: Step = 1.0) -> bytes:
        """Code a picture, uint8 (H, W, 3) RGB of at most ``sic.sizes.MAX_PIXELS`` pixels: the base
        layer, then the enhancement if the codec has one.

        ``step`` is the quantisation step of y in the last layer, 1 as in training: a larger one
        takes fewer bits (:func:`sic.stream.container.nearest_step` says which there are).  A
        :class:`~sic.stream.rate.Target` in its place is a size or PSNR of the whole stream, for
        which the step is searched.  ``base_step`` is the same for the base below an enhancement.
        Raises SicError if the picture is not of that form, no step reaches a target, or the weights
        give no finite numbers."""
        return self.encode_layers(image, step, base_step).stream

    def encode_layers(self, image: Pixels, step: Step = 1.0, base_step: Step = 1.0) -> Encoding:
        """Encode a picture, and keep the layers apart with all that their writer knows of them;
        each ``stream`` may lie in a file of its own, and joined they are the whole."""
        return self.encode_batch([image], step, base_step)[0]

    @torch.inference_mode()
    def encode_batch(
        self, pictures: Sequence[Pixels], step: Step = 1.0, base_step: Step = 1.0
    ) -> list[Encoding]:
        """Encode several pictures; each comes out as from :meth:`encode_layers`, for what symbols
        depend on is computed picture by picture (:mod:`sic.stream.latent`).  Pictures of one padded
        size go through g_a and h_a as one batch, which is quicker on a GPU."""
        if self.enhancement is None:
            if base_step != 1:
                raise SicError(
                    "base_step is of a base below an enhancement; for one layer give step"
                )
            base_step = step
        for image in pictures:
            _check(image)
        sizes = [images.padded(*image.shape[:2]) for image in pictures]
        with threads(self.base.codec.N):
            return _by_size(sizes, pictures, lambda same: self._encode(same, step, base_step))

    @torch.inference_mode()
    def writer(self, image: Pixels) -> Callable[[float, float], tuple[Encoding, Pixels]]:
        """What encodes a picture, uint8 (H, W, 3) RGB, as often as it is asked, with a step and a
        ``base_step`` (of one layer: 1), and gives the picture that the whole stream decodes to as
        well.  Each comes out as from :meth:`encode_layers`, but g_a and h_a of a layer run once for
        all of its steps."""
        _check(image)
        size, x = (image.shape[0], image.shape[1]), images.pad(images.to_tensor(image))
        with threads(self.base.codec.N):
            write_base = self.base.writers(x, [size], [None])[0]

        @cache
        def base(step: float) -> tuple[EncodedLayer, Callable[[float], EncodedLayer] | None]:
            layer = write_base(step)
            if self.enhancement is None:
                return layer, None
            return layer, self._above(self.enhancement, x, [size], [layer.latent])[0]

        @torch.inference_mode()
        def write(step: float, base_step: float = 1.0) -> tuple[Encoding, Pixels]:
            with threads(self.base.codec.N):
                layer, write_above = base(base_step if self.enhancement else step)
                above = write_above(step) if write_above else None
                y_hat = [each.latent.y_hat for each in (layer, above) if each]
                return Encoding(layer, above), self._pictures(y_hat, [size])[0]

        return write

    def _encode(self, pictures: list[Pixels], step: Step, base_step: Step) -> list[Encoding]:
        """Encode pictures that have one size when padded."""
        sizes = [(image.shape[0], image.shape[1]) for image in pictures]
        x = torch.cat([images.pad(images.to_tensor(image)) for image in pictures])
        writers = self.base.writers(x, sizes, [None] * len(sizes))
        bases = [
            self._chosen(base_step, write, image)
            for write, image in zip(writers, pictures, strict=True)
        ]
        if self.enhancement is None:
            return [Encoding(base, None) for base in bases]
        writers = self._above(self.enhancement, x, sizes, [base.latent for base in bases])
        return [
            Encoding(base, self._chosen(step, write, image, base))
            for base, write, image in zip(bases, writers, pictures, strict=True)
        ]

    def _chosen(
        self,
        step: Step,
        write: Callable[[float], EncodedLayer],
        image: Pixels,
        *below: EncodedLayer,
    ) -> EncodedLayer:
        """A picture's layer with the step that is asked for, or that reaches its target."""
        if not isinstance(step, Target):
            return write(step)

        def reached(layer: EncodedLayer) -> float:
            layers = (*below, layer)
            if step.unit == "psnr":
                decoded = self._pictures([one.latent.y_hat for one in layers], [image.shape[:2]])
                return images.psnr(image, decoded[0])
            size = sum(len(one.stream) for one in layers)
            return size if step.unit == "bytes" else bpp(size, *image.shape[:2])

        return rate.search(write, reached, step)

    @torch.inference_mode()
    def read_base(self, stream: bytes) -> Below:
        """The base layer in a stream, read for :meth:`encode_onto` and :meth:`decode_onto` of this
        codec, or of another one on this base whose second layer is of the same kind.  Raises
        StreamError as :meth:`decode`."""
        layers = self._layers(stream, "machine")
        with threads(self.base.codec.N):
            (latent,) = self._read(layers)
            shown = self.enhancement is not None and self.enhancement.kind is Kind.DIFFERENCE
            return Below(layers[0], latent, self._x_hat_t(latent.y_hat) if shown else None)

    @torch.inference_mode()
    def encode_onto(self, below: Below, image: Pixels) -> EncodedLayer:
        """The enhancement of a picture, uint8 (H, W, 3) RGB, whose base layer was written before
        and read: the bytes that :meth:`encode` would put behind it.

        Raises SicError if the base is of another size, the codec has no enhancement, or as
        :meth:`encode`.
        """
        _check(image)
        if self.enhancement is None:
            raise SicError("there are no weights of an enhancement codec to encode with")
        size, wanted = image.shape[:2], (below.layer.height, below.layer.width)
        if size != wanted:
            sizes = "{1}×{0}, not of {3}×{2}".format(*wanted, *size)
            raise SicError(f"the base layer is of a picture of {sizes}")
        x = images.pad(images.to_tensor(image))
        with threads(self.base.codec.N):
            return self._above(self.enhancement, x, [wanted], [below.latent], below.x_hat_t)[0](1.0)

    @torch.inference_mode()
    def decode_onto(self, below: Below, stream: bytes) -> Pixels:
        """As :meth:`decode` for "human", of a whole stream whose base layer was read before.
        Raises StreamError, too, if it has another base layer."""
        base, layer = self._layers(stream, "human")
        if base != below.layer:
            raise StreamError("the stream has another base layer than the one that was read")
        assert self.enhancement is not None
        with threads(self.base.codec.N):
            latent = self.enhancement.decode(layer, below.latent)
            x_hat = self._x_hat(below.latent.y_hat, latent.y_hat, below.x_hat_t)
            return images.to_uint8(images.crop(x_hat, base.height, base.width))

    def _above(
        self,
        enhancement: LayerCodec,
        x: Tensor,
        sizes: Sequence[tuple[int, int]],
        below: Sequence[Latent],
        x_hat_t: Tensor | None = None,
    ) -> list[Callable[[float], EncodedLayer]]:
        """What writes, with a step, the second layers of pictures of one padded size, on the
        latents of their bases, and on x̂_t if it is known."""
        if enhancement.kind is Kind.DIFFERENCE:
            if x_hat_t is None:
                x_hat_t = self._x_hat_t(torch.cat([latent.y_hat for latent in below]))
            x = x - x_hat_t
        return enhancement.writers(x, sizes, below)

    def decode(self, stream: bytes, layer: Reader = "machine") -> Pixels:
        """The picture in a stream, uint8 (H, W, 3) RGB: x̂_t (or a LIC's x̂), or for "human" x̂.

        The stream is a file, or for "machine" any beginning of it that holds the base layer; an
        enhancement kept apart is joined to its base: ``base + enhancement``.  Raises StreamError
        if it is damaged, incomplete, of other weights, or does not reconstruct exactly on this
        machine, and SicError if "human" is asked for and the codec has no enhancement.
        """
        return self.decode_batch([stream], layer)[0]

    @torch.inference_mode()
    def decode_batch(self, streams: Sequence[bytes], layer: Reader = "machine") -> list[Pixels]:
        """Decode several streams; g_s takes those of one padded size as one batch."""
        records = [self._layers(stream, layer) for stream in streams]
        sizes = [images.padded(layers[0].height, layers[0].width) for layers in records]
        with threads(self.base.codec.N):
            return _by_size(sizes, records, self._decode)

    def _decode(self, records: list[list[Layer]]) -> list[Pixels]:
        """Decode streams whose pictures have one size when padded."""
        latents = zip(*(self._read(layers) for layers in records), strict=True)
        y_hat = [torch.cat([latent.y_hat for latent in of_layer]) for of_layer in latents]
        return self._pictures(y_hat, [(layers[0].height, layers[0].width) for layers in records])

    def _pictures(self, y_hat: Sequence[Tensor], sizes: Sequence[tuple[int, ...]]) -> list[Pixels]:
        """The pictures of these sizes from ŷ of the base, or of both layers, as batches."""
        x_hat = self._x_hat_t(*y_hat) if len(y_hat) == 1 else self._x_hat(*y_hat)
        pairs = zip(x_hat.split(1), sizes, strict=True)
        return [images.to_uint8(images.crop(one, *size)) for one, size in pairs]

    @torch.inference_mode()
    def decode_latents(self, stream: bytes, layer: Reader = "machine") -> list[Latent]:
        """What :meth:`decode` reconstructs before synthesis: the base's latent, then for "human"
        the enhancement's.  They equal the writer's, bit for bit."""
        layers = self._layers(stream, layer)
        with threads(self.base.codec.N):
            return self._read(layers)

    def _layers(self, stream: bytes, layer: Reader) -> list[Layer]:
        """The records that are needed, checked for what they are before anything is decoded."""
        if layer == "machine":
            layers = [read_layer(stream)]
        elif layer != "human":
            raise SicError(f"no layer {layer!r}; ask for machine or human")
        elif self.enhancement is None:
            raise SicError("the picture for people needs the weights of an enhancement codec")
        else:
            layers = read_layers(stream)
        if layers[0].kind is not Kind.BASE:
            raise StreamError(
                "this is an enhancement layer alone; join the file of its base layer before it"
            )
        if layer == "human" and len(layers) == 1:
            raise StreamError(
                "the stream has no enhancement layer; fetch it, or decode the layer for machines"
            )
        for codec, record in zip(self.codecs, layers, strict=False):
            codec.check(record)
        return layers

    def _read(self, layers: list[Layer]) -> list[Latent]:
        """The latent of each layer, those below it known."""
        latents: list[Latent] = []
        for codec, layer in zip(self.codecs, layers, strict=False):
            latents.append(codec.decode(layer, *latents))
        return latents

    def _x_hat_t(self, y_hat: Tensor) -> Tensor:
        """(5): the padded pictures for machines, as 8 bits have them, on the CPU."""
        return images.quantise(self.base.synthesise(y_hat))

    def _x_hat(self, y_hat: Tensor, enhancement: Tensor, x_hat_t: Tensor | None = None) -> Tensor:
        """(8), or of the difference codec x̂_t + d̂: the padded pictures for people, on the CPU."""
        assert self.enhancement is not None
        if self.enhancement.kind is Kind.DIFFERENCE:
            x_hat_t = self._x_hat_t(y_hat) if x_hat_t is None else x_hat_t
            return x_hat_t + self.enhancement.synthesise(enhancement)
        return self.enhancement.synthesise(fuse(y_hat, enhancement))


def _check(image: Pixels) -> None:
    """Refuse what is no picture, or too large a one."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise SicError(
            f"a picture to encode is uint8 (H, W, 3), not {image.dtype} {image.shape}; "
            "read it with sic.images.read"
        )
    if problem := images.size_problem(image.shape[0], image.shape[1]):
        raise SicError(problem)


def _by_size(
    sizes: Sequence[tuple[int, int]], items: Sequence[T], work: Callable[[list[T]], list[R]]
) -> list[R]:
    """``work`` on the items of each size together, its results in the items' order."""
    results: dict[int, R] = {}
    for size in dict.fromkeys(sizes):
        same = [i for i, other in enumerate(sizes) if other == size]
        results |= zip(same, work([items[i] for i in same]), strict=True)
    return [results[i] for i in range(len(items))]
