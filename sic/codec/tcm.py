"""TCM: the learned image codec beneath every codec of the study.

Liu et al., *Learned Image Compression with Mixed Transformer-CNN Architectures* (CVPR 2023):
transforms of convolutions and window attention, a hyperprior, and an entropy model that codes
the latent in channel slices, each conditioned on those before it.

                 ┌────── y ───── y − μ ─ round ─ + μ + LRP ── ŷ ────┐
    x ── g_a ────┤                 ▲                  ▲             ├── g_s ── x̂
                 └─ h_a ─ z ─ ẑ ─┬─ h_mean_s ─┬─ slice k: μ_k, σ_k, LRP_k
                                 └─ h_scale_s ┘     from ŷ_1 … ŷ_{k−1}
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sic.codec.convolutions import (
    ResidualBlockUpsample,
    ResidualBlockWithStride,
    conv3x3,
    subpel_conv3x3,
)
from sic.codec.density import EntropyBottleneck, GaussianConditional, quantize_ste
from sic.codec.layers import ConvTransBlock, SWAtten


class Likelihoods(TypedDict):
    """Probability the entropy model gives each symbol, of the shape of y and of z."""

    y: Tensor
    z: Tensor


class CodecOutput(TypedDict):
    """What a forward returns: x̂ (B, 3, H, W), not clamped; the ŷ (B, M, H/16, W/16) that g_s
    decodes; of an additional codec also ŷa, its part of that; and the likelihoods."""

    x_hat: Tensor
    y_hat: Tensor
    likelihoods: Likelihoods
    ya_hat: NotRequired[Tensor]


@dataclass(frozen=True)
class Widths:
    """Widths of the parts that TCM fixes and the small models shrink; defaults are published.

    They are the channels of z, the inner ones of the slice networks (``context``) and of SWAtten
    (``attention``), and those per head in g_a's three stages (g_s reverses them), h_a and SWAtten.
    """

    hyper: int = 192
    context: tuple[int, int] = (224, 128)
    attention: int = 128
    head_dims: tuple[int, int, int] = (8, 16, 32)
    hyper_head_dim: int = 32
    attention_head_dim: int = 16


def full_precision(tensor: Tensor) -> Tensor:
    """float32 where autocast made less of it: symbols and probabilities need all their digits."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


WINDOW = 8
HYPER_WINDOW = 4


class Transform(nn.Sequential):
    """g_a, g_s, h_a or h_s: blocks one after the other."""

    #: Keep only what goes into each block for the backward pass, which then computes the rest once
    #: more: a third more time for a fraction of the memory.
    recompute = False

    def forward(self, x: Tensor) -> Tensor:
        """Run x through the blocks."""
        for block in self:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x)
        return x


def conv_trans_blocks(dim: int, head_dim: int, window: int) -> list[nn.Module]:
    """The two conv-transformer blocks of a stage: windows, then shifted windows."""
    return [ConvTransBlock(dim, head_dim, window, shifted) for shifted in (False, True)]


def analysis(N: int, M: int, widths: Widths) -> Transform:
    """g_a: image (B, 3, H, W) → latent (B, M, H/16, W/16)."""
    first, second, third = widths.head_dims
    return Transform(
        ResidualBlockWithStride(3, 2 * N),
        *conv_trans_blocks(N, first, WINDOW),
        ResidualBlockWithStride(2 * N, 2 * N),
        *conv_trans_blocks(N, second, WINDOW),
        ResidualBlockWithStride(2 * N, 2 * N),
        *conv_trans_blocks(N, third, WINDOW),
        conv3x3(2 * N, M, stride=2),
    )


def synthesis(N: int, M: int, widths: Widths) -> Transform:
    """g_s: latent (B, M, H/16, W/16) → image (B, 3, H, W), unclamped."""
    first, second, third = widths.head_dims
    return Transform(
        ResidualBlockUpsample(M, 2 * N),
        *conv_trans_blocks(N, third, WINDOW),
        ResidualBlockUpsample(2 * N, 2 * N),
        *conv_trans_blocks(N, second, WINDOW),
        ResidualBlockUpsample(2 * N, 2 * N),
        *conv_trans_blocks(N, first, WINDOW),
        subpel_conv3x3(2 * N, 3, 2),
    )


def hyper_analysis(N: int, M: int, widths: Widths) -> Transform:
    """h_a: latent (B, M, H/16, W/16) → hyper-latent (B, hyper, H/64, W/64)."""
    return Transform(
        ResidualBlockWithStride(M, 2 * N),
        *conv_trans_blocks(N, widths.hyper_head_dim, HYPER_WINDOW),
        conv3x3(2 * N, widths.hyper, stride=2),
    )


def hyper_synthesis(N: int, M: int, widths: Widths) -> Transform:
    """h_mean_s and h_scale_s: hyper-latent (B, hyper, H/64, W/64) → (B, M, H/16, W/16)."""
    return Transform(
        ResidualBlockUpsample(widths.hyper, 2 * N),
        *conv_trans_blocks(N, widths.hyper_head_dim, HYPER_WINDOW),
        subpel_conv3x3(2 * N, M, 2),
    )


def slice_networks(channels_in: Sequence[int], out: int, widths: Widths) -> nn.ModuleList:
    """μ_k, σ_k or LRP_k of every slice: three 3×3 convolutions with GELU between."""
    wide, narrow = widths.context
    return nn.ModuleList(
        nn.Sequential(
            conv3x3(channels, wide),
            nn.GELU(),
            conv3x3(wide, narrow),
            nn.GELU(),
            conv3x3(narrow, out),
        )
        for channels in channels_in
    )


class TCM(nn.Module):
    """The codec: human LIC, SA-ICM base and difference codec differ only in how it is trained.

    N is the channels of each half of a conv-transformer block, M those of the latent y, which is
    coded in n = ``num_slices`` slices; g_s decodes ``image_latent`` channels, M unless it is fused.
    A ValueError tells that a size is below 1, n does not divide M, or a head dim its channels.
    """

    def __init__(
        self,
        N: int = 128,
        M: int = 320,
        num_slices: int = 5,
        widths: Widths | None = None,
        *,
        image_latent: int | None = None,
    ) -> None:
        super().__init__()
        widths = widths or Widths()
        if min(N, M, num_slices) < 1:
            raise ValueError(f"N={N}, M={M} and num_slices={num_slices} must be 1 or more")
        if M % num_slices:
            raise ValueError(f"num_slices={num_slices} does not divide M={M}")
        self.N, self.M, self.num_slices, self.widths = N, M, num_slices, widths
        self.slice_channels = M // num_slices
        self.g_a = analysis(N, M, widths)
        self.g_s = synthesis(N, image_latent or M, widths)
        self.h_a = hyper_analysis(N, M, widths)
        self.h_mean_s = hyper_synthesis(N, M, widths)
        self.h_scale_s = hyper_synthesis(N, M, widths)
        width = self.slice_channels
        support = [M + width * k for k in range(num_slices)]  # the hyper-latent and slices before
        self.atten_mean = self._attentions(support)
        self.atten_scale = self._attentions(support)
        self.cc_mean_transforms = slice_networks(support, width, widths)
        self.cc_scale_transforms = slice_networks(support, width, widths)
        self.lrp_transforms = slice_networks([s + width for s in support], width, widths)
        self.entropy_bottleneck = EntropyBottleneck(widths.hyper)
        self.gaussian_conditional = GaussianConditional()

    def _attentions(self, channels: Sequence[int]) -> nn.ModuleList:
        inner, head_dim = self.widths.attention, self.widths.attention_head_dim
        return nn.ModuleList(nn.Sequential(SWAtten(c, inner, head_dim, WINDOW)) for c in channels)

    def quantise_z(self, z: Tensor) -> Tensor:
        """ẑ: z rounded about the medians of its learned distribution, straight-through."""
        medians = self.entropy_bottleneck.medians.reshape(1, -1, 1, 1)
        return quantize_ste(z - medians) + medians

    def hyper_parameters(
        self, z_hat: Tensor, y_hat_base: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """h_mean_s(ẑ) and h_scale_s(ẑ), (B, M, H/16, W/16) each, of ẑ (B, hyper, H/64, W/64); of
        ŷ of a base only a codec above it makes use."""
        return self.h_mean_s(z_hat), self.h_scale_s(z_hat)

    def slice_parameters(
        self, k: int, latent_means: Tensor, latent_scales: Tensor, decoded: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """μ_k and σ_k (B, M/n, H/16, W/16) of slice k, counted from 0, and the features LRP_k
        starts from, given :meth:`hyper_parameters` and ŷ of the slices before, each (B, M/n, H/16,
        W/16)."""
        mean_support = self.atten_mean[k](torch.cat((latent_means, *decoded), dim=1))
        scale_support = self.atten_scale[k](torch.cat((latent_scales, *decoded), dim=1))
        mu = full_precision(self.cc_mean_transforms[k](mean_support))
        scale = full_precision(self.cc_scale_transforms[k](scale_support))
        return mu, scale, mean_support

    def latent_residual(self, k: int, mean_support: Tensor, y_hat_k: Tensor) -> Tensor:
        """LRP: what rounding took from slice k, as predicted, in (−0.5, 0.5)."""
        return 0.5 * torch.tanh(self.lrp_transforms[k](torch.cat((mean_support, y_hat_k), dim=1)))

    def code_latent(
        self, y: Tensor, y_hat_base: Tensor | None = None
    ) -> tuple[Tensor, Likelihoods]:
        """ŷ after LRP, as the decoder will see y, and the probability of every symbol, given what
        :meth:`hyper_parameters` takes.  y and ŷ are (B, M, H/16, W/16).  In training mode the
        likelihoods are of y and z with additive noise, while ŷ is rounded with straight-through
        gradients."""
        y = full_precision(y)
        z = full_precision(self.h_a(y))
        # Operations are counted on the meta device, of which autocast knows nothing.
        with torch.autocast("cpu" if z.is_meta else z.device.type, enabled=False):
            z_likelihoods = self.entropy_bottleneck(z)
        z_hat = self.quantise_z(z)
        latent_means, latent_scales = self.hyper_parameters(z_hat, y_hat_base)
        y_hat: list[Tensor] = []
        y_likelihoods: list[Tensor] = []
        for k, y_k in enumerate(y.chunk(self.num_slices, dim=1)):
            mu, scale, support = self.slice_parameters(k, latent_means, latent_scales, y_hat)
            y_likelihoods.append(self.gaussian_conditional(y_k, scale, mu))
            y_hat_k = quantize_ste(y_k - mu) + mu
            y_hat.append(y_hat_k + self.latent_residual(k, support, y_hat_k))
        likelihoods = Likelihoods(y=torch.cat(y_likelihoods, dim=1), z=z_likelihoods)
        return torch.cat(y_hat, dim=1), likelihoods

    def forward(self, x: Tensor) -> CodecOutput:
        """Code and decode images (B, 3, H, W) in [0, 1], H and W multiples of 128.  Of the base
        (4)(5): x̂_t = g_machine(conc(ŷ_1 … ŷ_n))."""
        y_hat, likelihoods = self.code_latent(self.g_a(x))
        return CodecOutput(x_hat=self.g_s(y_hat), y_hat=y_hat, likelihoods=likelihoods)

    def recompute(self, wanted: bool) -> None:
        """Whether the backward pass computes the transforms' blocks again, to save memory."""
        for part in self.children():
            if isinstance(part, Transform):
                part.recompute = wanted

    def aux_loss(self) -> Tensor:
        """Loss whose minimum puts the bottleneck's quantiles at the tails of its density."""
        return self.entropy_bottleneck.loss()
