"""Feature fusion: base + additional information = scalable codec, (4)–(8).

        x ──┬── base TCM ─────────── ŷ ──┬── g_machine ── x̂_t    for recognition models
            │                            │
            └── additional TCM ── ŷa ─── + ── g_human ─── x̂      for people

The additional codec has m ≤ n slices of the base's width; its ŷa is added to the first m slices
of the base's ŷ.  Feature residual (FR), which the same laboratory published later (Tatsumi et al.,
arXiv 2506.19297), takes what the base has sent away before coding: ya_k = y_k − ŷ_k.  In
conditional FR, which is this study's own, the entropy model sees ŷ as well.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from sic.codec.convolutions import conv1x1, conv3x3
from sic.codec.tcm import TCM, CodecOutput, Widths, full_precision

#: What an additional codec takes away from y = g_a(x) before coding: nothing, or the base's ŷ.
Residual = Literal["none", "feature"]


def fuse(y_hat: Tensor, ya_hat: Tensor) -> Tensor:
    """(6)(7): ŷf_k = ŷ_k + ŷa_k for k ≤ m, and ŷ_k for m < k ≤ n, of ŷ (B, M, h, w) and ŷa
    (B, m·M/n, h, w), as a new tensor."""
    added = ya_hat.shape[1]
    return torch.cat((y_hat[:, :added] + ya_hat, y_hat[:, added:]), dim=1)


def condition_network(N: int, M: int, channels: int) -> nn.Sequential:
    """What the base's ŷ (B, M, h, w) says about the additional latent: (B, channels, h, w), which
    is 0 everywhere before training."""
    last = conv1x1(4 * N, channels)
    for values in last.parameters():
        nn.init.zeros_(values)
    return nn.Sequential(conv3x3(M, 4 * N), nn.GELU(), last)


class AdditionalCodec(TCM):
    """The TCM that codes m slices of additional information, 1 ≤ m ≤ n; its g_s is g_human, and N,
    M, n and widths are those of the base.

    ``residual`` "feature" makes it feature residual (FR), and ``condition`` conditional FR.  A
    ValueError tells that a size or m does not fit, or that there is a condition without FR.
    """

    def __init__(
        self,
        m: int,
        N: int = 128,
        M: int = 320,
        num_slices: int = 5,
        widths: Widths | None = None,
        *,
        residual: Residual = "none",
        condition: bool = False,
    ) -> None:
        if not 1 <= m <= num_slices:
            raise ValueError(f"m={m} must lie between 1 and num_slices={num_slices}")
        if M % num_slices:
            raise ValueError(f"num_slices={num_slices} does not divide M={M}")
        if condition and residual == "none":
            raise ValueError("condition: true needs residual: feature")
        super().__init__(N, m * M // num_slices, m, widths, image_latent=M)
        self.m, self.base_M, self.base_slices = m, M, num_slices
        self.residual, self.condition = residual, condition
        if condition:
            self.condition_mean = condition_network(N, M, self.M)
            self.condition_scale = condition_network(N, M, self.M)

    def take_away(self, y: Tensor, y_hat_base: Tensor) -> Tensor:
        """ya_k, which is coded, for k ≤ m: y_k − ŷ_k with FR, else y_k.  y = g_a(x) and ya are
        (B, m·M/n, h, w), the base's ŷ (B, M, h, w)."""
        if self.residual == "none":
            return y
        y = full_precision(y)
        return y - y_hat_base[:, : self.M].to(y)

    def hyper_parameters(
        self, z_hat: Tensor, y_hat_base: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """h_mean_s(ẑ) and h_scale_s(ẑ), to which conditional FR adds what it makes of the base's ŷ;
        all others do not need it."""
        means, scales = super().hyper_parameters(z_hat)
        if not self.condition:
            return means, scales
        return means + self.condition_mean(y_hat_base), scales + self.condition_scale(y_hat_base)

    def forward(self, x: Tensor, y_hat_base: Tensor) -> CodecOutput:  # type: ignore[override]
        """(6)–(8): code x (B, 3, H, W) given the base's ŷ (B, M, H/16, W/16).  ``y_hat`` is the
        fused latent ŷf, ``ya_hat`` this codec's part, ``likelihoods`` are those of ya and za."""
        ya = self.take_away(self.g_a(x), y_hat_base)
        ya_hat, likelihoods = self.code_latent(ya, y_hat_base)
        y_hat = fuse(y_hat_base, ya_hat)
        return CodecOutput(
            x_hat=self.g_s(y_hat), y_hat=y_hat, likelihoods=likelihoods, ya_hat=ya_hat
        )

    @torch.no_grad()
    def start_from(self, codec: TCM) -> None:
        """Take the first m slices, and g_s, of another codec on the same base's size.

        An additional codec's come as they are, and so do those of a base or a human LIC with FR,
        which codes what the base leaves of such a y.  Without FR the encoder starts at half their
        strength: a base and an additional codec that start alike send much the same latent; added
        up, that is twice what g_s knows.  A condition starts as it was made if the other codec has
        none.  A ValueError tells that the codec is of another size, has fewer slices, or that only
        one of two additional codecs has FR.
        """
        given, strength = codec.state_dict(), 1.0
        if isinstance(codec, AdditionalCodec):
            latent, slices = codec.base_M, codec.base_slices
            if codec.residual != self.residual:
                raise ValueError("of two additional codecs both or none must have residual feature")
        else:
            latent, slices = codec.M, codec.num_slices
            strength = 0.5 if self.residual == "none" else 1.0
        size = (self.N, self.base_M, self.base_slices, self.widths)
        if size != (codec.N, latent, slices, codec.widths):
            raise ValueError("an additional codec can start only from a codec of its base's size")
        if codec.num_slices < self.m:
            raise ValueError(f"m = {self.m} slices cannot start from m = {codec.num_slices}")
        for key, own in self.state_dict().items():
            if key.startswith("condition_") and key not in given:
                continue
            theirs = given[key]
            for dim, channels in enumerate(own.shape):
                if theirs.shape[dim] != channels:
                    kept = self._kept_channels(key, channels, codec.M)
                    theirs = theirs.index_select(dim, kept)
            own.copy_(theirs)
        for values in self.g_a[-1].parameters():
            values.mul_(strength)

    def _kept_channels(self, key: str, size: int, given_M: int) -> Tensor:
        """Which channels of another codec's tensor, of latent M, belong to the first m slices."""
        if key.startswith(("atten_", "cc_", "lrp_")):
            # Slice networks see the hyper-latents' channels, then the slices before.
            return torch.cat((torch.arange(self.M), torch.arange(size - self.M) + given_M))
        return torch.arange(size)


class DifferenceCodec(TCM):
    """The DC model: a TCM that codes d = x − x̂_t; what it decodes is added to x̂_t."""

    def forward(self, x: Tensor, x_hat_t: Tensor) -> CodecOutput:  # type: ignore[override]
        """Code x given x̂_t as the decoder has it, (B, 3, H, W) both: ``x_hat`` = x̂_t + d̂, not
        clamped; ``y_hat`` and ``likelihoods`` are those of d."""
        y_hat, likelihoods = self.code_latent(self.g_a(x - x_hat_t))
        return CodecOutput(x_hat=x_hat_t + self.g_s(y_hat), y_hat=y_hat, likelihoods=likelihoods)
