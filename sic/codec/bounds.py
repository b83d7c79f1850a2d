"""Parameters and values that training keeps above a bound, as CompressAI does."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable


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
        out: Tensor = _Bounded.apply(x, self.bound)
        return out


class NonNegative(nn.Module):
    """A parameter that stays at ``minimum`` or above: the square of what is trained, less 2⁻³⁶.

    The reparametrisation of Ballé et al. (ICLR 2016) for β and γ.
    """

    pedestal: Tensor

    def __init__(self, minimum: float = 0.0) -> None:
        super().__init__()
        pedestal = 2.0**-36
        self.register_buffer("pedestal", torch.tensor([pedestal]))
        self.lower_bound = LowerBound((minimum + pedestal) ** 0.5)

    def inverse(self, value: Tensor) -> Tensor:
        """What to train, to begin at ``value``."""
        return torch.sqrt(torch.max(value + self.pedestal, self.pedestal))

    def forward(self, trained: Tensor) -> Tensor:
        """The parameter's value."""
        return self.lower_bound(trained) ** 2 - self.pedestal
