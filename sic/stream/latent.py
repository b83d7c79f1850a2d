"""From the latent to symbols and back: the one numerical path that writer and reader share.

Networks compute what a symbol's distribution depends on.  If writer and reader got different
floating-point results, they would lose each other at the first symbol.  So these networks run

- in float64 on the CPU, one picture at a time, whatever device the transforms use;
- from exact values to exact values: ẑ is integers about the medians, the step is a multiple of
  1/1024, each σ/Δ is one of 64, and each ŷ_k is rounded to multiples of 1/256 before the next
  slice, or a second layer, sees it.

Machines then differ by some 10⁻¹⁴ before each rounding, and only a value that close to a border can
come out differently; the digest of all exact values tells when it does (docs/format.md, section 5).
"""

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sic.codec.composition import compose
from sic.codec.density import SCALE_BOUND
from sic.codec.tcm import TCM
from sic.errors import SicError, StreamError
from sic.images import MULTIPLE, padded
from sic.stream.entropy import (
    LIMIT,
    SymbolDecoder,
    SymbolEncoder,
    Symbols,
    gaussian_tables,
    learned_tables,
    scale_index,
)

#: ŷ is a multiple of 1/GRID.
GRID = 256

#: By how much d − 1, of a step d above 1, is smaller in the first slice and larger in the last; and
#: the σ from which on Δ is 1 whatever the step.
_GROWTH = 0.25
_SIGMA_MAX = 8.0


@dataclass(frozen=True)
class Latent:
    """What writer and reader of one layer agree on, bit for bit: z is ẑ minus the medians, (hyper,
    H/64, W/64) int32; y is round((y − μ)/Δ) for the step Δ, (M, H/16, W/16) int32; and y_hat is ŷ
    after LRP, (1, M, H/16, W/16) float64, multiples of 1/256."""

    z: Symbols
    y: Symbols
    y_hat: Tensor

    def in_range(self) -> bool:
        """Whether ŷ is finite, and small enough for float64 to hold its multiples of 1/256."""
        return bool((self.y_hat.abs() < 2**52 / GRID).all())

    def digest(self) -> bytes:
        """BLAKE2b-64 of the three, in this order, little-endian; ŷ as 64-bit integers 256·ŷ."""
        return self._digest

    @cached_property
    def _digest(self) -> bytes:
        state = hashlib.blake2b(digest_size=8)
        for part in (_integers(self.z), _integers(self.y), _multiples(self.y_hat)):
            state.update(part)
        return state.digest()


@dataclass(frozen=True)
class Bits:
    """Size of one layer's ẑ and of each slice of y by the entropy model: −log₂ of likelihoods."""

    z: float
    y: tuple[float, ...]

    @property
    def total(self) -> float:
        """The bits of the whole layer."""
        return self.z + sum(self.y)


@dataclass(frozen=True)
class CodedLatent:
    """A latent, its two coded parts, and what computes the bits that its likelihoods promise."""

    latent: Latent
    z_part: bytes
    y_part: bytes
    estimate: Callable[[], Bits]

    @cached_property
    def estimated(self) -> Bits:
        """The bits by the likelihoods, worked out when they are asked for."""
        return self.estimate()


class LatentCoder:
    """Entropy coding of a codec's latents; the codec's weights are copied, in float64."""

    def __init__(self, codec: TCM) -> None:
        self.codec = _in_float64(codec).eval().requires_grad_(False)
        compose(self.codec)
        bottleneck = self.codec.entropy_bottleneck
        self.medians = bottleneck.medians.detach().reshape(1, -1, 1, 1)
        self.z_tables = learned_tables(bottleneck)

    @torch.inference_mode()
    def encode(
        self, y: Tensor, z: Tensor, y_hat_base: Tensor | None = None, step: float = 1.0
    ) -> CodedLatent:
        """Quantise and code y (1, M, H/16, W/16) in this step and z (1, hyper, H/64, W/64) in steps
        of 1, above a base with its exact ŷ.  Raises SicError if values are not finite or beyond
        what a stream can hold."""
        z_symbols = _symbols(z.cpu().double() - self.medians, "z")
        z_encoder = SymbolEncoder()
        z_encoder.encode(z_symbols.flatten(), _channels(z_symbols.shape), self.z_tables)
        y_encoder = SymbolEncoder()
        slices = y.cpu().double().chunk(self.codec.num_slices, dim=1)
        sigma: list[Tensor] = []

        def write(k: int, mu: Tensor, scale: Tensor, delta: Tensor) -> Symbols:
            q = _symbols((slices[k] - mu) / delta, "y")
            sigma.append(scale / delta)
            y_encoder.encode(q.flatten(), scale_index(sigma[k]), gaussian_tables())
            return q

        latent = self._latent(z_symbols, y_hat_base, step, write)
        if not latent.in_range():
            raise SicError("ŷ holds values that are not finite; the weights are bad, retrain them")
        parts = z_encoder.finish(), y_encoder.finish()
        return CodedLatent(latent, *parts, partial(self._bits, latent, sigma))

    @torch.inference_mode()
    def decode(
        self,
        z_part: bytes,
        y_part: bytes,
        height: int,
        width: int,
        y_hat_base: Tensor | None = None,
        step: float = 1.0,
        watch: Callable[[str, bytes], None] | None = None,
    ) -> Latent:
        """Read back the latent of a picture of height × width pixels, before padding, above a base
        with the same ŷ and in the same step as :meth:`encode`.  ``watch`` is told each part as it
        is there, with its bytes as in :meth:`Latent.digest`: z, and q 1, ŷ 1, q 2, … of the slices.
        Raises StreamError if the parts are not what this codec writes for such a picture; a latent
        that comes back may still be wrong: compare its digest."""
        rows, cols = (side // MULTIPLE for side in padded(height, width))
        z_shape = (self.codec.widths.hyper, 2 * rows, 2 * cols)
        z_decoder, y_decoder = SymbolDecoder(z_part), SymbolDecoder(y_part)

        def read(k: int, mu: Tensor, scale: Tensor, delta: Tensor) -> Symbols:
            index = scale_index(scale / delta)
            return y_decoder.decode(index, gaussian_tables()).reshape(mu.shape[1:])

        z_symbols = z_decoder.decode(_channels(z_shape), self.z_tables).reshape(z_shape)
        z_decoder.finish()
        if watch:
            watch("z", _integers(z_symbols))
        latent = self._latent(z_symbols, y_hat_base, step, read, watch)
        y_decoder.finish()
        if not latent.in_range():
            raise StreamError("the stream decodes to values that are not finite")
        return latent

    @torch.inference_mode()
    def _bits(self, latent: Latent, sigma: Sequence[Tensor]) -> Bits:
        """The bits of a latent, of which slice k was coded with these σ/Δ."""
        z = _bits(self.codec.entropy_bottleneck(self._z_hat(latent.z)))
        q = torch.from_numpy(latent.y).double().unsqueeze(0).chunk(self.codec.num_slices, dim=1)
        likelihood = self.codec.gaussian_conditional
        pairs = zip(q, sigma, strict=True)
        return Bits(z, tuple(_bits(likelihood(q_k, s, torch.zeros_like(s))) for q_k, s in pairs))

    def _latent(
        self,
        z: Symbols,
        y_hat_base: Tensor | None,
        step: float,
        code: Callable[[int, Tensor, Tensor, Tensor], Symbols],
        watch: Callable[[str, bytes], None] | None = None,
    ) -> Latent:
        """The latent with these ẑ, whose slices ``code`` writes or reads: q of k, μ_k, σ_k, Δ_k."""
        means, scales = self.codec.hyper_parameters(self._z_hat(z), y_hat_base)
        y_hat: list[Tensor] = []
        symbols: list[Symbols] = []
        for k in range(self.codec.num_slices):
            mu, scale, support = self.codec.slice_parameters(k, means, scales, y_hat)
            # What is below the bound in training is the bound, however fine the step.
            scale = scale.clamp(min=SCALE_BOUND)
            delta = self._delta(step, k, scale)
            symbols.append(code(k, mu, scale, delta))
            y_hat_k = mu + delta * torch.from_numpy(symbols[k]).double()
            y_hat_k = y_hat_k + self.codec.latent_residual(k, support, y_hat_k)
            y_hat.append(torch.round(y_hat_k * GRID) / GRID)
            if watch:
                watch(f"q {k + 1}", _integers(symbols[k]))
                watch(f"ŷ {k + 1}", _multiples(y_hat[k]))
        return Latent(z, np.concatenate(symbols), torch.cat(y_hat, dim=1))

    def _delta(self, step: float, k: int, scale: Tensor) -> Tensor:
        """Δ of each symbol of slice k, whose σ are at least ``SCALE_BOUND``, of the shape of σ: the
        step itself up to 1; above, finer in early slices, on which others build, and where σ is
        large and little would be saved (docs/format.md, section 4)."""
        if step <= 1:
            return torch.full_like(scale, step)
        last = self.codec.num_slices - 1
        place = (2 * k - last) / max(last, 1)  # -1 of the first slice, 1 of the last
        most = (step - 1) * (1 + _GROWTH * place)
        return 1 + most * ((_SIGMA_MAX - scale) / (_SIGMA_MAX - SCALE_BOUND)).clamp(min=0)

    def _z_hat(self, z: Symbols) -> Tensor:
        return torch.from_numpy(z).double().unsqueeze(0) + self.medians


def _in_float64(codec: TCM) -> TCM:
    """A copy for the CPU, without the transforms that symbols do not depend on; its parameters
    become float64 as they are copied, without a copy in float32 between."""
    known: dict[int, nn.Module | Tensor] = {}
    for name, part in codec.named_children():
        if name in ("g_a", "g_s", "h_a"):
            known[id(part)] = nn.Identity()
            continue
        for p in part.parameters():
            known[id(p)] = nn.Parameter(p.detach().to("cpu", torch.float64, copy=True))
    return copy.deepcopy(codec, known).cpu().double()


def _integers(symbols: Symbols) -> bytes:
    return symbols.astype("<i4").tobytes()


def _multiples(y_hat: Tensor) -> bytes:
    return (y_hat * GRID).numpy().astype("<i8").tobytes()


def _symbols(values: Tensor, name: str) -> Symbols:
    """(1, C, h, w) rounded to integers (C, h, w)."""
    rounded = torch.round(values[0])
    if not rounded.isfinite().all() or rounded.abs().max() > LIMIT:
        raise SicError(
            f"the latent {name} holds values that are not finite or beyond ±{LIMIT}; the weights "
            "are bad, retrain them"
        )
    return rounded.numpy().astype(np.int32)


def _channels(shape: tuple[int, ...]) -> NDArray[np.uint16]:
    """Table of each ẑ: its channel."""
    channels, rows, cols = shape
    return np.repeat(np.arange(channels, dtype=np.uint16), rows * cols)


def _bits(likelihood: Tensor) -> float:
    return float(-torch.log2(likelihood).sum())
