"""Convolutions of the transforms, and their residual blocks and divisive normalisation.

These are CompressAI's layers, with the published parameter names and initial values, written out
because importing CompressAI is slow and 3×3 convolutions have a fast path (:mod:`sic.codec.fast`).
Feature maps are (B, C, H, W).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from sic.codec import fast


class _Bounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, bound: Tensor) -> Tensor:
        ctx.save_for_backward(x, bound)
        return torch.max(x, bound)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, bound = ctx.saved_tensors
        return ((x >= bound) | (grad < 0)) * grad, None


class LowerBound(nn.Module):
    """max(x, bound), whose gradient is kept where it moves x towards the bound from below."""

    bound: Tensor

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.register_buffer("bound", torch.tensor([float(bound)]))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return _Bounded.apply(x, self.bound)


class NonNegative(nn.Module):
    """A parameter kept at ``minimum`` or above by the reparametrisation of Ballé et al. (ICLR 2016)
    for β and γ: it is the square of what is trained, less 2⁻³⁶."""

    pedestal: Tensor

    def __init__(self, minimum: float = 0.0) -> None:
        super().__init__()
        pedestal = 2.0**-36
        self.register_buffer("pedestal", torch.tensor([pedestal]))
        self.lower_bound = LowerBound((minimum + pedestal) ** 0.5)

    def inverse(self, value: Tensor) -> Tensor:
        """The trained parameter that stands for ``value``."""
        return torch.sqrt(torch.max(value + self.pedestal, self.pedestal))

    def forward(self, trained: Tensor) -> Tensor:
        """The parameter's value."""
        return self.lower_bound(trained) ** 2 - self.pedestal


class Conv3x3(nn.Conv2d):
    """3×3 convolution of stride 1 with zeros around the feature map."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, K, H, W)."""
        if fast.winograd_applies(x, self.weight):
            return fast.winograd(x, self.weight, self.bias)
        return super().forward(x)


def conv3x3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    """3×3 convolution with zeros around the feature map."""
    if stride == 1:
        return Conv3x3(channels_in, channels_out)
    return nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=stride, padding=1)


def conv1x1(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    """1×1 convolution."""
    return nn.Conv2d(channels_in, channels_out, kernel_size=1, stride=stride)


class PixelShuffle(nn.PixelShuffle):
    """The same in a quarter of the time: PyTorch's kernel for CPUs goes value by value."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C·f², H, W) → (B, C, H·f, W·f)."""
        f = self.upscale_factor
        parts = x.unflatten(1, (-1, f, f)).permute(0, 1, 4, 2, 5, 3)
        return parts.flatten(4, 5).flatten(2, 3)


def subpel_conv3x3(channels_in: int, channels_out: int, factor: int) -> nn.Sequential:
    """3×3 convolution to ``factor``² times the channels, which become pixels."""
    wide = Conv3x3(channels_in, channels_out * factor**2)
    return nn.Sequential(wide, PixelShuffle(factor))


class GDN(nn.Module):
    """x_i / √(β_i + Σ_j γ_ij x_j²), or times the root if inverse: divisive normalisation, Ballé et
    al., *Density Modeling of Images Using a Generalized Normalization Transformation* (ICLR
    2016)."""

    def __init__(self, channels: int, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta_reparam = NonNegative(minimum=1e-6)
        self.beta = nn.Parameter(self.beta_reparam.inverse(torch.ones(channels)))
        self.gamma_reparam = NonNegative()
        self.gamma = nn.Parameter(self.gamma_reparam.inverse(0.1 * torch.eye(channels)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        beta, gamma = self.beta_reparam(self.beta), self.gamma_reparam(self.gamma)
        norm = fast.pointwise(x**2, gamma, beta)
        if fast.in_inference(x):
            return (norm.sqrt_() if self.inverse else norm.rsqrt_()).mul_(x)
        return x * (torch.sqrt(norm) if self.inverse else torch.rsqrt(norm))


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with LeakyReLU, and a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, channels)
        self.leaky_relu = nn.LeakyReLU(inplace=True)
        self.conv2 = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        out = self.leaky_relu(self.conv1(x))
        return self.leaky_relu(self.conv2(out)) + x


class ResidualBlockWithStride(nn.Module):
    """Residual block that halves height and width."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels_in, channels_out, stride=2)
        self.leaky_relu = nn.LeakyReLU(inplace=True)
        self.conv2 = conv3x3(channels_out, channels_out)
        self.gdn = GDN(channels_out)
        self.skip = conv1x1(channels_in, channels_out, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, K, H/2, W/2)."""
        if torch.is_grad_enabled():
            # The gradient of a 1×1 convolution of stride 2 writes past its memory on a picture in
            # channels-last (github.com/uxlfoundation/oneDNN/issues/6035).
            x = x.contiguous()
        out = self.gdn(self.conv2(self.leaky_relu(self.conv1(x))))
        out += self.skip(x)
        return out


class ResidualBlockUpsample(nn.Module):
    """Residual block that doubles height and width."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.subpel_conv = subpel_conv3x3(channels_in, channels_out, 2)
        self.leaky_relu = nn.LeakyReLU(inplace=True)
        self.conv = conv3x3(channels_out, channels_out)
        self.igdn = GDN(channels_out, inverse=True)
        self.upsample = subpel_conv3x3(channels_in, channels_out, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, K, 2H, 2W)."""
        out = self.igdn(self.conv(self.leaky_relu(self.subpel_conv(x))))
        out += self.upsample(x)
        return out


class ResidualUnit(nn.Module):
    """Residual bottleneck of half the channels, of :class:`sic.codec.layers.SWAtten`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv = nn.Sequential(
            conv1x1(channels, half),
            nn.ReLU(inplace=True),
            conv3x3(half, half),
            nn.ReLU(inplace=True),
            conv1x1(half, channels),
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        return self.relu(self.conv(x) + x)
