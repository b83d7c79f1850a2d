"""One numerical path: the same exact values on both sides, whatever the arithmetic around."""

import numpy as np
import pytest
import torch
from reference_weights import fill
from small import SIZES, astronaut

from sic.errors import SicError, StreamError
from sic.latent import GRID, LatentCoder
from sic.tcm import TCM


@pytest.fixture(scope="module")
def codec() -> TCM:
    return fill(TCM(**SIZES), "icm").eval()


@pytest.fixture(scope="module")
def coder(codec) -> LatentCoder:
    return LatentCoder(codec)


@pytest.fixture(scope="module")
def transformed(codec):
    with torch.inference_mode():
        y = codec.g_a(astronaut(128, 256).float())
        return y, codec.h_a(y)


@pytest.fixture(scope="module")
def coded(coder, transformed):
    return coder.encode(*transformed)


def test_the_reader_reconstructs_the_writers_latent(coder, coded):
    latent = coder.decode(coded.z_part, coded.y_part, 128, 256)
    np.testing.assert_array_equal(latent.z, coded.latent.z)
    np.testing.assert_array_equal(latent.y, coded.latent.y)
    assert torch.equal(latent.y_hat, coded.latent.y_hat)
    assert latent.digest() == coded.latent.digest()
    assert np.abs(coded.latent.y).max() > 3  # the test sees symbols of many sizes


def test_it_is_the_codecs_own_latent_but_for_the_grid(codec, transformed, coded):
    """In float64, and ŷ differs by half a step of the grid in the first slice."""
    double = fill(TCM(**SIZES), "icm").eval().double()
    with torch.inference_mode():
        y_hat, likelihoods = double.code_latent(transformed[0].double())
    first = codec.slice_channels
    difference = (y_hat - coded.latent.y_hat)[:, :first].abs().max()
    assert 0 < difference <= 0.5 / GRID
    bits = -torch.log2(likelihoods["y"]).sum() - torch.log2(likelihoods["z"]).sum()
    assert coded.estimated.total == pytest.approx(bits.item(), rel=0.005)


def test_y_hat_is_on_the_grid(coded):
    steps = coded.latent.y_hat * GRID
    assert coded.latent.y_hat.dtype == torch.float64
    assert torch.equal(steps, steps.round())


def test_real_bits_are_not_above_the_estimate(coded):
    assert 8 * len(coded.z_part) <= 1.01 * coded.estimated.z + 32
    assert 8 * len(coded.y_part) <= 1.01 * sum(coded.estimated.y) + 32


def test_each_slice_adds_to_the_estimate(codec, coded):
    assert len(coded.estimated.y) == codec.num_slices
    assert min(coded.estimated.y) > 0
    assert coded.estimated.total == coded.estimated.z + sum(coded.estimated.y)


def test_noise_of_other_libraries_changes_nothing(codec, coded):
    """A thousand times what threads and libraries do to float64 (docs/format.md): every layer's
    output off by 10⁻¹² relative."""
    noisy = LatentCoder(codec)
    generator = torch.Generator().manual_seed(0)

    def disturb(module, inputs, output):
        noise = torch.randn(output.shape, generator=generator, dtype=output.dtype)
        return output * (1 + 1e-12 * noise)

    for module in noisy.codec.modules():
        if not list(module.children()):
            module.register_forward_hook(disturb)
    latent = noisy.decode(coded.z_part, coded.y_part, 128, 256)
    assert latent.digest() == coded.latent.digest()


def test_noise_of_single_precision_is_noticed(codec, coded):
    """The path in float32 would lose the stream, and the digest says so."""
    single = LatentCoder(codec)
    for name in ("h_mean_s", "h_scale_s"):
        part = getattr(single.codec, name).float()
        part.register_forward_pre_hook(lambda module, inputs: (inputs[0].float(),))
        part.register_forward_hook(lambda module, inputs, output: output.double())
    try:
        latent = single.decode(coded.z_part, coded.y_part, 128, 256)
    except StreamError:
        return
    assert latent.digest() != coded.latent.digest()


@pytest.mark.parametrize("change", ["z", "y", "y_hat"])
def test_the_digest_sees_a_change_of_one(coded, change):
    latent = coded.latent
    values = {"z": latent.z.copy(), "y": latent.y.copy(), "y_hat": latent.y_hat.clone()}
    values[change].reshape(-1)[7] += 1 / GRID if change == "y_hat" else 1
    assert type(latent)(**values).digest() != latent.digest()


def test_symbols_far_outside_the_tables_come_back(coder, transformed):
    y, z = (t.clone() for t in transformed)
    y[0, 0, 0, 0], y[0, -1, 0, 0], z[0, 0, 0, 0] = 1e5, -1e5, 1e5
    coded = coder.encode(y, z)
    assert np.abs(coded.latent.y).max() > 99_000
    latent = coder.decode(coded.z_part, coded.y_part, 128, 256)
    assert latent.digest() == coded.latent.digest()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e12])
def test_a_latent_that_is_no_number_is_refused(coder, transformed, value):
    for place in (0, 1):
        latents = [t.clone() for t in transformed]
        latents[place][0, 0, 0, 0] = value
        with pytest.raises(SicError, match="weights are bad"):
            coder.encode(*latents)


def test_weights_of_other_precision_and_the_codec_itself_are_left_alone(codec, coder):
    assert next(codec.h_mean_s.parameters()).dtype == torch.float32
    assert next(coder.codec.h_mean_s.parameters()).dtype == torch.float64
    assert list(coder.codec.g_a.parameters()) == []  # not copied
