"""Feature fusion: base + additional information = scalable codec, (4)–(8).

        x ──┬── base TCM ─────────── ŷ ──┬── g_machine ── x̂_t    for recognition models
            │                            │
            └── additional TCM ── ŷa ─── + ── g_human ─── x̂      for people

The additional codec has m ≤ n slices of the base's width; its ŷa is added to the first m slices
of the base's ŷ.
"""

import torch
from torch import Tensor

from sic.codec.tcm import TCM, CodecOutput, Widths


def fuse(y_hat: Tensor, ya_hat: Tensor) -> Tensor:
    """(6)(7): ŷf_k = ŷ_k + ŷa_k for k ≤ m, and ŷ_k for m < k ≤ n, of ŷ (B, M, h, w) and ŷa
    (B, m·M/n, h, w), as a new tensor."""
    added = ya_hat.shape[1]
    return torch.cat((y_hat[:, :added] + ya_hat, y_hat[:, added:]), dim=1)


class AdditionalCodec(TCM):
    """The TCM that codes m slices of additional information, 1 ≤ m ≤ n; its g_s is g_human, and N,
    M, n and widths are those of the base.  A ValueError tells that they or m do not fit."""

    def __init__(
        self, m: int, N: int = 128, M: int = 320, num_slices: int = 5, widths: Widths | None = None
    ) -> None:
        if not 1 <= m <= num_slices:
            raise ValueError(f"m={m} must lie between 1 and num_slices={num_slices}")
        if M % num_slices:
            raise ValueError(f"num_slices={num_slices} does not divide M={M}")
        super().__init__(N, m * M // num_slices, m, widths, image_latent=M)
        self.m, self.base_M, self.base_slices = m, M, num_slices

    def forward(self, x: Tensor, y_hat_base: Tensor) -> CodecOutput:  # type: ignore[override]
        """(6)–(8): code x (B, 3, H, W) given the base's ŷ (B, M, H/16, W/16).  ``y_hat`` is the
        fused latent ŷf, ``ya_hat`` this codec's part, ``likelihoods`` are those of ya and za."""
        ya_hat, likelihoods = self.code_latent(self.g_a(x))
        y_hat = fuse(y_hat_base, ya_hat)
        return CodecOutput(
            x_hat=self.g_s(y_hat), y_hat=y_hat, likelihoods=likelihoods, ya_hat=ya_hat
        )

    @torch.no_grad()
    def start_from(self, codec: TCM) -> None:
        """Take the first m slices, and g_s, of another codec on the same base's size.

        An additional codec's come as they are.  From a base or a human LIC the encoder starts at
        half the strength: a base and an additional codec that start alike send much the same
        latent; added up, that is twice what g_s knows.  A ValueError tells that the codec is of
        another size, or has fewer slices.
        """
        given = codec.state_dict()
        if isinstance(codec, AdditionalCodec):
            latent, slices, strength = codec.base_M, codec.base_slices, 1.0
        else:
            latent, slices, strength = codec.M, codec.num_slices, 0.5
        size = (self.N, self.base_M, self.base_slices, self.widths)
        if size != (codec.N, latent, slices, codec.widths):
            raise ValueError("an additional codec can start only from a codec of its base's size")
        if codec.num_slices < self.m:
            raise ValueError(f"m = {self.m} slices cannot start from m = {codec.num_slices}")
        for key, own in self.state_dict().items():
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
