"""DC: the baseline that codes the difference between the picture and the base's picture.

x ─── (−) ── d = x − x̂_t ── TCM ── d̂ ── (+) ── x̂      for people
       │                                 │
       └──────── x̂_t (base) ─────────────┘
"""

from torch import Tensor

from sic.tcm import TCM, CodecOutput


class DifferenceCodec(TCM):
    """A TCM that codes d = x − x̂_t; what it decodes is added to x̂_t."""

    def forward(self, x: Tensor, x_hat_t: Tensor) -> CodecOutput:  # type: ignore[override]
        """Code x given the base's picture.

        Args:
            x: (B, 3, H, W) in [0, 1]; H and W multiples of 128.
            x_hat_t: the base's decoded pictures as the decoder has them, (B, 3, H, W).

        Returns:
            ``x_hat`` = x̂_t + d̂ unclamped; ``y_hat`` and ``likelihoods`` are those of d.
        """
        y_hat, likelihoods = self.code_latent(self.g_a(x - x_hat_t))
        return CodecOutput(x_hat=x_hat_t + self.g_s(y_hat), y_hat=y_hat, likelihoods=likelihoods)
