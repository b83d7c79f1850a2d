"""One codec as writer and reader of one layer: transforms, symbols, and the record around them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sic import memory
from sic.codec import fast, weights
from sic.codec.fusion import AdditionalCodec
from sic.codec.tcm import TCM
from sic.errors import StreamError
from sic.stream.container import NOTHING, Kind, Layer, Platform, nearest_step
from sic.stream.latent import Bits, CodedLatent, Latent, LatentCoder


@dataclass(frozen=True)
class EncodedLayer:
    """One layer's bytes, and the latent that they hold."""

    stream: bytes
    coded: CodedLatent

    @property
    def latent(self) -> Latent:
        """What a reader must reconstruct, bit for bit."""
        return self.coded.latent

    @property
    def estimated(self) -> Bits:
        """The bits that the likelihoods promise, worked out when they are first asked for."""
        return self.coded.estimated


class LayerCodec:
    """A codec and the kind of layer that it writes and reads."""

    def __init__(self, codec: TCM, kind: Kind) -> None:
        memory.keep()
        self.codec = codec.eval()
        self.kind = kind
        self.weights = bytes.fromhex(weights.fingerprint(codec))[:8]
        self.latent_coder = LatentCoder(codec)
        like = next(codec.parameters())
        self.device, self.dtype = like.device, like.dtype

    def writers(
        self, x: Tensor, sizes: Sequence[tuple[int, int]], below: Sequence[Latent | None]
    ) -> list[Callable[[float], EncodedLayer]]:
        """For each picture in a batch, with its size before padding and the latent of the base
        below it (None for a base), what writes its layer with a step; the transforms have run."""
        y = fast.analyse(self.codec.g_a, x.to(self.device, self.dtype))
        if isinstance(self.codec, AdditionalCodec):
            y = self.codec.take_away(y, torch.cat([base.y_hat for base in below if base]))
        pairs = zip(y.split(1), self.codec.h_a(y).split(1), strict=True)
        return [
            partial(self._write, *pair, *size, base)
            for pair, size, base in zip(pairs, sizes, below, strict=True)
        ]

    def _write(
        self, y: Tensor, z: Tensor, height: int, width: int, below: Latent | None, step: float
    ) -> EncodedLayer:
        step = nearest_step(step)
        coded = self.latent_coder.encode(y, z, below.y_hat if below else None, step)
        layer = Layer(
            kind=self.kind,
            slices=self.codec.num_slices,
            height=height,
            width=width,
            platform=Platform.here(),
            weights=self.weights,
            symbols=coded.latent.digest(),
            below=below.digest() if below else NOTHING,
            z=coded.z_part,
            y=coded.y_part,
            step=step,
        )
        return EncodedLayer(layer.pack(), coded)

    def check(self, layer: Layer) -> None:
        """Refuse a layer of another kind or of other weights."""
        if layer.kind is not self.kind:
            raise StreamError(
                f"the stream's layer is of kind {layer.kind.label}, these weights are of kind "
                f"{self.kind.label}; give the weights it was written with"
            )
        if layer.weights != self.weights:
            raise StreamError(
                f"the {layer.kind.label} layer was written with the weights {layer.weights.hex()}, "
                f"not these ({self.weights.hex()}); give the weights it was written with"
            )

    def decode(self, layer: Layer, below: Latent | None = None) -> Latent:
        """The latent in a record, above that of the base; a StreamError tells that it is not what
        the writer had."""
        record = (layer.z, layer.y, layer.height, layer.width)
        cause = None
        try:
            latent = self.latent_coder.decode(*record, below.y_hat if below else None, layer.step)
            if latent.digest() == layer.symbols:
                return latent
        except StreamError as error:
            cause = error
        raise StreamError(
            f"the numbers of the {layer.kind.label} layer come out differently here "
            f"({Platform.here()}) than where it was written ({layer.platform}), although file and "
            "weights are right; decode it on such a machine, or write it again"
        ) from cause

    def synthesise(self, y_hat: Tensor) -> Tensor:
        """g_s, back on the CPU."""
        return fast.synthesise(self.codec.g_s, y_hat.to(self.device, self.dtype)).cpu()


def kind_of(codec: AdditionalCodec) -> Kind:
    """What a layer of an additional codec is."""
    if codec.residual == "none":
        return Kind.FUSION
    return Kind.CONDITIONAL_RESIDUAL if codec.condition else Kind.RESIDUAL
