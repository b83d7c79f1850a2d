"""Composed entropy networks: the same numbers for less work."""

import copy

import pytest
import torch
from reference_weights import fill
from small import SIZES, astronaut

from sic.codec.composition import compose
from sic.codec.fusion import AdditionalCodec
from sic.codec.tcm import TCM


@pytest.mark.parametrize("m", [None, 1, 3], ids=str)
def test_composed_networks_compute_the_same(m):
    """Values, at the borders too, where a composed bias must not reach over the edge; the first
    slice of m = 1 has fewer channels than SWAtten and stays as it is."""
    made = TCM(**SIZES) if m is None else AdditionalCodec(m, **SIZES)
    codec = fill(made, "icm").eval().double()
    composed = copy.deepcopy(codec)
    compose(composed)
    with torch.inference_mode():
        y = codec.g_a(astronaut(128, 256))
        wanted, likelihoods = codec.code_latent(y)
        found, found_likelihoods = composed.code_latent(y)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(found_likelihoods["y"], likelihoods["y"], rtol=1e-9, atol=1e-12)


def test_composed_networks_have_less_to_do():
    codec = TCM(**SIZES)
    parts = ("cc_mean_transforms", "cc_scale_transforms", "lrp_transforms", "atten_mean")
    whole = sum(p.numel() for part in parts for p in getattr(codec, part).parameters())
    compose(codec.double())
    fewer = sum(p.numel() for part in parts for p in getattr(codec, part).parameters())
    assert fewer < 0.7 * whole
