"""Probabilities of the symbols: the learned distribution of z, and the Gaussians of y.

Ballé et al., *Variational Image Compression with a Scale Hyperprior* (ICLR 2018), with CompressAI's
parameter names, initial values and likelihoods.  :mod:`sic.stream.entropy` has the range coder.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sic.codec.convolutions import LowerBound

#: Smallest likelihood, and smallest σ.
LIKELIHOOD_BOUND = 1e-9
SCALE_BOUND = 0.11


def quantize_ste(x: Tensor) -> Tensor:
    """x rounded, with the gradient of the identity (straight-through)."""
    return (torch.round(x) - x).detach() + x


def _noisy(x: Tensor) -> Tensor:
    """x with uniform noise of one step of rounding."""
    return x + torch.empty_like(x).uniform_(-0.5, 0.5)


class _Density(nn.Module):
    """What the published state dicts hold of both kinds: a bound, and tables that we never fill."""

    def __init__(self) -> None:
        super().__init__()
        self.likelihood_lower_bound = LowerBound(LIKELIHOOD_BOUND)
        for name in ("_offset", "_quantized_cdf", "_cdf_length"):
            self.register_buffer(name, torch.empty(0, dtype=torch.int32))


class EntropyBottleneck(_Density):
    """A learned distribution for each channel of z by its cumulative function σ(f₅ ∘ … ∘ f₁), with
    monotone f_i(v) = g_i(softplus(H_i) v + b_i) and g_i(v) = v + tanh(a_i) tanh(v)."""

    target: Tensor

    #: Widths of the maps, from one value through four hidden layers to one.
    WIDTHS = (1, 3, 3, 3, 3, 1)
    INIT_SCALE = 10.0
    TAIL_MASS = 1e-9

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.matrices, self.biases, self.factors = (nn.ParameterList() for _ in range(3))
        maps = len(self.WIDTHS) - 1
        scale = self.INIT_SCALE ** (1 / maps)
        for i, (before, after) in enumerate(zip(self.WIDTHS, self.WIDTHS[1:], strict=False)):
            start = math.log(math.expm1(1 / scale / after))
            self.matrices.append(nn.Parameter(torch.full((channels, after, before), start)))
            self.biases.append(nn.Parameter(torch.empty(channels, after, 1).uniform_(-0.5, 0.5)))
            if i < maps - 1:
                self.factors.append(nn.Parameter(torch.zeros(channels, after, 1)))
        around = torch.tensor([-self.INIT_SCALE, 0, self.INIT_SCALE])
        self.quantiles = nn.Parameter(around.repeat(channels, 1, 1))
        tail = math.log(2 / self.TAIL_MASS - 1)
        self.register_buffer("target", torch.tensor([-tail, 0, tail]))

    @property
    def medians(self) -> Tensor:
        """(channels, 1, 1)."""
        return self.quantiles[:, :, 1:2]

    def logits(self, x: Tensor, frozen: bool = False) -> Tensor:
        """Logits of the cumulative function at x (channels, 1, values), of the same shape; if
        ``frozen``, no gradient reaches the distribution."""
        for i, matrix in enumerate(self.matrices):
            bias = self.biases[i]
            x = F.softplus(matrix.detach() if frozen else matrix) @ x
            x = x + (bias.detach() if frozen else bias)
            if i < len(self.factors):
                factor = self.factors[i]
                x = x + torch.tanh(factor.detach() if frozen else factor) * torch.tanh(x)
        return x

    def forward(self, z: Tensor) -> Tensor:
        """Likelihoods of z (B, channels, h, w): with noise in training, rounded otherwise."""
        batch, channels, *size = z.shape
        values = z.transpose(0, 1).reshape(channels, 1, -1)
        if self.training:
            values = _noisy(values)
        else:
            values = torch.round(values - self.medians) + self.medians
        below, above = self.logits(values - 0.5), self.logits(values + 0.5)
        likelihood = self.likelihood_lower_bound(torch.sigmoid(above) - torch.sigmoid(below))
        likelihood = likelihood.reshape(channels, batch, *size)
        return likelihood.transpose(0, 1).contiguous()

    def loss(self) -> Tensor:
        """Distance of the trained quantiles from the tails and the median."""
        return (self.logits(self.quantiles, frozen=True) - self.target).abs().sum()


class GaussianConditional(_Density):
    """A Gaussian of given μ and σ for each symbol of y, convolved with a step of rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.lower_bound_scale = LowerBound(SCALE_BOUND)
        self.register_buffer("scale_table", torch.empty(0))
        self.register_buffer("scale_bound", torch.tensor([SCALE_BOUND]))

    def forward(self, y: Tensor, scale: Tensor, mu: Tensor) -> Tensor:
        """Likelihoods of y, all four of one shape: with noise in training, rounded otherwise."""
        values = _noisy(y) if self.training else torch.round(y - mu) + mu
        scale = self.lower_bound_scale(scale)
        distance = (values - mu).abs()
        above, below = _cumulative((0.5 - distance) / scale), _cumulative((-0.5 - distance) / scale)
        return self.likelihood_lower_bound(above - below)


def _cumulative(x: Tensor) -> Tensor:
    """The cumulative distribution of the standard Gaussian; erfc keeps its digits in the tails."""
    return 0.5 * torch.erfc(-(2**-0.5) * x)
