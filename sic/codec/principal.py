"""A start for TCM that codes at once: its own layers set to a linear code of principal components.

Each block of g_a that halves the picture takes 2×2 neighbouring positions and keeps the leading
components of what they hold; g_s goes the same way back.  The layers between pass on what they get,
and learn from there.  Nothing is added to the codec: keys, sizes and streams are TCM's.
"""

import math
import re
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sic.codec.convolutions import GDN, ResidualBlockUpsample, ResidualBlockWithStride
from sic.codec.layers import ConvTransBlock
from sic.codec.tcm import TCM

#: Side of the patches whose components are taken: what one position of y sees of the picture.
PATCH = 16
#: Standard deviation of the strongest feature between two blocks.
_STRENGTH = 0.5
#: γ of each GDN, so small that it hardly divides features of that strength.
_GAMMA = 0.01
#: Δ²·λ, Δ in 8-bit levels.  At high rate R + λ·mse is least at 18 / ln 2 = 26, as one component in
#: 256 pixels costs log₂(1/Δ) bits and Δ²/12 in 768 samples; at the few bits of small codecs 40 has
#: the lower L (docs/training.md).
_STEP = 40.0

#: The parameters of the linear code that :func:`start` sets, by their names in a TCM.
LINEAR = re.compile(r"g_a\.([036]\.conv[12]|9)\.|g_s\.([036]\.upsample|9)\.")


@torch.no_grad()
def start(codec: TCM, patches: Tensor, lmbda: float) -> None:
    """Set g_a and g_s, in place, to the principal components of patches (n, 3, 16, 16) in [0, 1],
    scaled so that rounding y costs what λ asks for.  The entropy model keeps its weights.

    The weights are float16 numbers: two processors agree on these, and so on the run's name."""
    encoders = [cast(ResidualBlockWithStride, codec.g_a[i]) for i in (0, 3, 6)]
    ups = [cast(ResidualBlockUpsample, codec.g_s[i]) for i in (6, 3, 0)]
    wide = [cast(nn.Sequential, codec.g_s[9]), *(up.upsample for up in ups)]
    decoders = [cast(nn.Conv2d, layers[0]) for layers in wide]
    last = cast(nn.Conv2d, codec.g_a[9])
    held = patches.double() - 0.5
    scale = torch.ones(3, dtype=torch.float64)  # what flows in the codec is held · scale
    for encoder, decoder in zip(encoders, decoders, strict=False):
        held, basis, deviation = _components(held, encoder.conv2.out_channels)
        before, scale = scale, _STRENGTH / (deviation * deviation[0]).sqrt()
        _pass_on(encoder, 1.1 * held.abs().amax(dim=(0, 2, 3)) * scale + 0.1)
        _set_analysis(encoder.conv1, basis, before, scale)
        _set_synthesis(decoder, basis, before, scale)
    # x − ½ goes into the first block, and ½ is added after the last.
    first = encoders[0].conv1
    _bias(first).sub_(0.5 * first.weight.sum(dim=(1, 2, 3)))
    _bias(decoders[0]).fill_(0.5)
    _, basis, _ = _components(held, codec.M)
    before, scale = scale, torch.full((codec.M,), 255 / math.sqrt(_STEP / lmbda)).double()
    _bias(last).zero_()
    _set_analysis(last, basis, before, scale)
    _set_synthesis(decoders[3], basis, before, scale)
    for module in (*codec.g_a.modules(), *codec.g_s.modules()):
        if isinstance(module, GDN):
            unit = torch.eye(len(module.gamma), device=module.gamma.device)
            module.gamma.copy_(module.gamma_reparam.inverse(_GAMMA * unit))
    for layer in (*(up.conv for up in ups), *_last_of_blocks(codec)):
        layer.weight.zero_()
        _bias(layer).zero_()
    for parameter in (*codec.g_a.parameters(), *codec.g_s.parameters()):
        parameter.copy_(parameter.half().float())


def _components(held: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """The leading principal components of 2×2 positions of (n, C, h, w): what the patches hold of
    them, (n, K, h/2, w/2), the basis (K, 4C), and each component's standard deviation about 0."""
    blocks = F.pixel_unshuffle(held, 2)
    samples = blocks.movedim(1, -1).flatten(0, -2)
    power, vectors = torch.linalg.eigh(samples.T @ samples / len(samples))
    basis = vectors.flip(1)[:, :most].T
    basis = basis * basis.sum(1, keepdim=True).sign()  # which sign a vector has is LAPACK's choice
    deviation = power.flip(0)[:most].clamp(min=1e-12).sqrt()
    return torch.einsum("kc,nchw->nkhw", basis, blocks), basis, deviation


def _pass_on(block: ResidualBlockWithStride, room: Tensor) -> None:
    """Let the block's first K channels be what its conv1 computes: a bias as large as ``room`` (K)
    keeps them on the straight side of the LeakyReLU, and conv2 takes it off again."""
    K = len(room)
    for layer in (block.conv2, block.skip):
        layer.weight[:K] = 0
        _bias(layer)[:K] = 0
    block.conv2.weight[range(K), range(K), 1, 1] = 1
    _bias(block.conv1)[:K] = room
    _bias(block.conv2)[:K] = -room


def _set_analysis(layer: nn.Conv2d, basis: Tensor, before: Tensor, after: Tensor) -> None:
    """Let a convolution of stride 2 compute components (K) of 2×2 positions of C channels that are
    scaled by ``before`` (C), scaled by ``after`` (K)."""
    K, C = len(after), len(before)
    taps = basis * after[:, None] / before.repeat_interleave(4)
    layer.weight[:K] = 0
    layer.weight[:K, :C, 1:, 1:] = taps.reshape(K, C, 2, 2).float()


def _set_synthesis(layer: nn.Conv2d, basis: Tensor, before: Tensor, after: Tensor) -> None:
    """Let the convolution before a pixel shuffle undo :func:`_set_analysis`."""
    K, C = len(after), len(before)
    taps = basis.T * before.repeat_interleave(4)[:, None] / after
    layer.weight[: 4 * C] = 0
    layer.weight[: 4 * C, :K, 1, 1] = taps.float()
    _bias(layer)[: 4 * C] = 0


def _last_of_blocks(codec: TCM) -> list[nn.Conv2d]:
    """The convolution that each conv-transformer block of g_a and g_s adds to its input."""
    blocks = (*codec.g_a, *codec.g_s)
    return [block.conv1_2 for block in blocks if isinstance(block, ConvTransBlock)]


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias
