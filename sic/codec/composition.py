"""Two linear maps in a row as one: the entropy networks with the same values for less work.

SWAtten ends in a 1×1 convolution from a few channels to many, which 3×3 convolutions of μ_k, σ_k
and LRP_k read at once, without anything between.  The product of both maps reads the few.
"""

from typing import cast

import torch
from torch import Tensor, nn

from sic.codec.layers import SWAtten
from sic.codec.tcm import TCM


class _AndOne(nn.Module):
    """One more channel, of ones.  By it a composed convolution knows the first map's bias, which
    the zeros around a feature map do not have."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C + 1, H, W)."""
        return torch.cat((x, torch.ones_like(x[:, :1])), dim=1)


@torch.no_grad()
def compose(codec: TCM) -> None:
    """Let the slice networks of a codec, in place, begin at what SWAtten's last map begins at.

    μ_k, σ_k and LRP_k are what they were but for rounding: do this in float64.  The codec can then
    be neither trained nor saved."""
    for k in range(codec.num_slices):
        readers = {
            codec.atten_mean[k]: (codec.cc_mean_transforms[k], codec.lrp_transforms[k]),
            codec.atten_scale[k]: (codec.cc_scale_transforms[k],),
        }
        for attention, networks in readers.items():
            swatten = cast(SWAtten, cast(nn.Sequential, attention)[0])
            last = swatten.out_conv
            if last.in_channels >= last.out_channels:
                continue  # as in the first slice of few
            for network in cast(tuple[nn.Sequential, ...], networks):
                _compose(last, cast(nn.Conv2d, network[0]))
            swatten.add_module("out_conv", _AndOne())


def _compose(first: nn.Conv2d, then: nn.Conv2d) -> None:
    """Let ``then`` read what :class:`_AndOne` makes of the input of ``first``, a 1×1 convolution,
    and the channels that stood behind its output."""
    assert first.bias is not None
    one = torch.cat((first.weight.flatten(1), first.bias[:, None]), dim=1)
    read, behind = then.weight.tensor_split([first.out_channels], dim=1)
    weight = torch.cat((torch.einsum("kchw,ci->kihw", read, one), behind), dim=1)
    then.weight, then.in_channels = nn.Parameter(weight, requires_grad=False), weight.shape[1]
