"""The small codecs that the tests use, and photos to put through them."""

import torch
from skimage import data
from torch import Tensor

from sic.codec.tcm import Widths

WIDTHS = Widths(
    hyper=16,
    context=(16, 12),
    attention=16,
    head_dims=(4, 8, 8),
    hyper_head_dim=8,
    attention_head_dim=8,
)
SIZES = {"N": 8, "M": 40, "num_slices": 5, "widths": WIDTHS}


def astronaut(height: int, width: int, top: int = 0, left: int = 0) -> Tensor:
    """A crop of a real photo, (1, 3, height, width) in [0, 1], float64."""
    crop = data.astronaut()[top : top + height, left : left + width]
    return torch.from_numpy(crop).permute(2, 0, 1).unsqueeze(0).double() / 255
