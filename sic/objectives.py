"""What each of the four codecs of the study minimises, (1)–(3), as a function of a batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sic import images
from sic.difference import DifferenceCodec
from sic.loss import Loss, rate_distortion
from sic.scalable import AdditionalCodec
from sic.tcm import TCM

#: A codec and a batch x (B, 3, h, w), m_x (B, 1, h, w) → the loss of that batch.
StepLoss = Callable[[Any, Tensor, Tensor], Loss]


def human_loss(lmbda: float) -> StepLoss:
    """(1): TCM for people alone."""
    return lambda codec, x, m_x: rate_distortion(codec(x), x, lmbda)


def machine_loss(lmbda: float) -> StepLoss:
    """(2): SA-ICM, which sees the edges only."""
    return lambda codec, x, m_x: rate_distortion(codec(x), x, lmbda, m_x)


def additional_loss(base: TCM, lmbda: float) -> StepLoss:
    """(3): the additional codec on the latent of the frozen base."""
    base = base.eval().requires_grad_(False)

    def step_loss(codec: AdditionalCodec, x: Tensor, m_x: Tensor) -> Loss:
        with torch.inference_mode():  # only ŷ is needed: the base's decoder does not run
            y_hat_base, _ = base.to(x.device).code_latent(base.g_a(x))
        return rate_distortion(codec(x, y_hat_base), x, lmbda)

    return step_loss


def difference_loss(base: TCM, lmbda: float) -> StepLoss:
    """The DC model on the 8-bit picture of the frozen base, as its decoder has it."""
    base = base.eval().requires_grad_(False)

    def step_loss(codec: DifferenceCodec, x: Tensor, m_x: Tensor) -> Loss:
        with torch.inference_mode():
            x_hat_t = images.quantise(base.to(x.device)(x)["x_hat"])
        return rate_distortion(codec(x, x_hat_t), x, lmbda)

    return step_loss
