"""Convolutions of the transforms, and the residual blocks and divisive normalisation of them.

The layers are those of CompressAI by which LIC-TCM was published, with its parameter names and
initial values.  They are written out here for two reasons: 3×3 convolutions run by Winograd's
algorithm where PyTorch has it, which takes a third of the time and changes results by a few times
what rounding to float32 does; and importing CompressAI costs more than everything else together.

Feature maps are (B, C, H, W).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.grad import conv2d_weight

from sic.codec.bounds import NonNegative

#: Pixels of a feature map that Winograd's algorithm works on at a time; it needs 3.6 times their
#: memory for the transformed input, and as much for the output.
WINOGRAD_PIXELS = 2**14
#: Channels and pixels from which on it pays: it begins by transforming the weights.
WINOGRAD_CHANNELS = 64
WINOGRAD_LEAST = 2**10


def winograd_applies(x: Tensor, weight: Tensor) -> bool:
    """Whether a 3×3 convolution of stride 1 of x by ``weight`` runs by Winograd's algorithm.

    NNPACK, which has it, comes with PyTorch for x86-64 and ARM, and works in float32 only.
    """
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and min(weight.shape[:2]) >= WINOGRAD_CHANNELS
        and x.shape[2] * x.shape[3] >= WINOGRAD_LEAST
        and not torch.is_autocast_enabled("cpu")
        and torch._nnpack_available()
    )


def winograd(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """3×3 convolution with zeros around x, a picture and some of its rows at a time.

    Args:
        x: (B, C, H, W) float32, on the CPU.
        weight: (K, C, 3, 3).
        bias: (K,).

    Returns:
        (B, K, H, W).
    """
    x, weight = x.contiguous(), weight.contiguous()  # NNPACK takes bare pointers
    batch, _, height, width = x.shape
    strips = -(-height * width // WINOGRAD_PIXELS)
    rows = -(-height // strips // 6) * 6  # its tiles are 6×6
    if batch == 1 and height <= rows:
        return torch._nnpack_spatial_convolution(x, weight, bias, [1, 1])
    out = x.new_empty(batch, len(weight), height, width)
    for image, target in zip(x.split(1), out.split(1), strict=True):
        for top in range(0, height, rows):
            first, last = max(top - 1, 0), min(top + rows + 1, height)
            strip = image[:, :, first:last].contiguous()
            done = torch._nnpack_spatial_convolution(strip, weight, bias, [1, 1])
            end = min(top + rows, height)
            target[:, :, top:end] = done[:, :, top - first : end - first]
    return out


class _Winograd(torch.autograd.Function):
    """:func:`winograd` with gradients: that of x is such a convolution, too."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return winograd(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        grad = grad.contiguous()
        if ctx.needs_input_grad[0]:
            grad_x = winograd(grad, weight.flip(2, 3).transpose(0, 1), None)
        if ctx.needs_input_grad[1]:
            grad_weight = conv2d_weight(x, weight.shape, grad, padding=1)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, 2, 3))
        return grad_x, grad_weight, grad_bias


class Conv3x3(nn.Conv2d):
    """3×3 convolution of stride 1 with zeros around the feature map."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, K, H, W)."""
        if winograd_applies(x, self.weight):
            out: Tensor = _Winograd.apply(x, self.weight, self.bias)
            return out
        return super().forward(x)


def conv3x3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    """3×3 convolution with zeros around the feature map."""
    if stride == 1:
        return Conv3x3(channels_in, channels_out)
    return nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=stride, padding=1)


def conv1x1(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    """1×1 convolution."""
    return nn.Conv2d(channels_in, channels_out, kernel_size=1, stride=stride)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """1×1 convolution as the matrix product that it is.

    Args:
        x: (B, C, H, W).
        weight: (K, C), or (K, C, 1, 1).
        bias: (K,).

    Returns:
        (B, K, H, W).
    """
    matrix = weight.flatten(1).expand(len(x), -1, -1)
    return torch.baddbmm(bias[:, None], matrix, x.flatten(2)).unflatten(2, x.shape[2:])


def subpel_conv3x3(channels_in: int, channels_out: int, factor: int) -> nn.Sequential:
    """3×3 convolution to ``factor``² times the channels, which become pixels."""
    wide = Conv3x3(channels_in, channels_out * factor**2)
    return nn.Sequential(wide, nn.PixelShuffle(factor))


class GDN(nn.Module):
    """Divisive normalisation x_i / √(β_i + Σ_j γ_ij x_j²), or times the root if inverse.

    Ballé et al., *Density Modeling of Images Using a Generalized Normalization Transformation*
    (ICLR 2016).
    """

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
        norm = pointwise(x**2, gamma, beta)
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
