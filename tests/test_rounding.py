"""Where the base's rounding error goes: shares that are known by construction, and real codecs."""

import numpy as np
import pandas as pd
import pytest
import torch
from skimage import data
from small import SIZES

from sic.codec.fusion import AdditionalCodec, DifferenceCodec
from sic.codec.tcm import TCM
from sic.evaluation import rounding


@pytest.mark.parametrize(("share", "follows"), [(1.0, 0.0), (0.0, 0.7), (0.6, -0.3)])
def test_the_share_is_that_of_the_error_and_not_of_the_picture(
    share: float, follows: float
) -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(0, 2, (3, 4000))
    e = np.round(y) - y
    ya_hat = follows * y - share * e + 0.5
    latents = [tuple(torch.from_numpy(part[None, :, :, None]) for part in (y, e, ya_hat))]
    for power, found in rounding._cancelled(latents):
        assert found == pytest.approx(share, abs=1e-9)
        assert power == pytest.approx(1 / 12, rel=0.05), "that of uniform rounding"


def test_a_channel_that_is_not_rounded_has_no_share() -> None:
    y = torch.randn(1, 2, 8, 8)
    latents = [(y, torch.zeros_like(y), y)]
    assert [np.isnan(share) for _, share in rounding._cancelled(latents)] == [True, True]
    channels = pd.DataFrame(
        {"codec": ["a"] * 3, "channel": range(3), "power": [1.0, 3.0, 0.0], "cancels": [1, 0, None]}
    )
    assert rounding.overall(channels).to_dict() == {"a": 0.25}


def test_every_layer_is_decoded_with_both_latents() -> None:
    torch.manual_seed(0)
    base = TCM(**SIZES).eval()
    second = {
        "fusion": AdditionalCodec(2, **SIZES).eval(),
        "FR": AdditionalCodec(2, **SIZES, residual="feature").eval(),
        "DC": DifferenceCodec(**SIZES).eval(),
    }
    table, channels = rounding.measure(base, second, {"coffee": data.coffee()[:100, :150]})
    assert list(table.codec) == ["fusion", "FR", "DC"]
    fusion = table.set_index("codec").loc["fusion"]
    assert fusion.psnr_decoder_has_y == fusion.psnr_both_have_y, "its stream does not depend on ŷ"
    assert np.isfinite(table[[*rounding.DECODED, "bpp"]]).all(axis=None)
    m = 2 * SIZES["M"] // SIZES["num_slices"]
    assert channels.groupby("codec").channel.count().to_dict() == {"fusion": m, "FR": m}
