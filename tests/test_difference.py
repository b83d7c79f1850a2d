"""The DC model: codes x − x̂_t, and adds what it decodes to x̂_t."""

import torch
from reference_weights import fill
from small import SIZES, astronaut

from sic.codec.fusion import DifferenceCodec
from sic.codec.tcm import TCM


def test_it_codes_the_difference_and_adds_it_back() -> None:
    codec = fill(DifferenceCodec(**SIZES).eval(), "dc").double()
    plain = TCM(**SIZES).double().eval()
    plain.load_state_dict(codec.state_dict())
    x, x_hat_t = astronaut(128, 128), astronaut(128, 128, 1, 2)
    with torch.inference_mode():
        output, difference = codec(x, x_hat_t), plain(x - x_hat_t)
    torch.testing.assert_close(output["x_hat"], x_hat_t + difference["x_hat"])
    assert torch.equal(output["likelihoods"]["y"], difference["likelihoods"]["y"])
