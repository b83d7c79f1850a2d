"""One numerical path: the same exact values on both sides, whatever the arithmetic around."""

import numpy as np
import pytest
import torch
from reference_weights import fill
from small import SIZES, astronaut

from sic.codec.tcm import TCM
from sic.errors import StreamError
from sic.stream.latent import GRID, LatentCoder


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


def test_a_step_of_1_is_what_training_had(coder, transformed, coded):
    again = coder.encode(*transformed, step=1.0)
    assert (again.z_part, again.y_part) == (coded.z_part, coded.y_part)


@pytest.mark.parametrize("step", [1 / 16, 0.5, 1.5, 4, 16])
def test_any_step_comes_back(coder, transformed, coded, step):
    """With y off by at most half a step and what LRP adds, in fewer bits the larger it is."""
    stepped = coder.encode(*transformed, step=step)
    latent = coder.decode(stepped.z_part, stepped.y_part, 128, 256, step=step)
    assert latent.digest() == stepped.latent.digest()
    np.testing.assert_array_equal(latent.z, coded.latent.z)
    off = (latent.y_hat - transformed[0]).abs().max()
    largest = step if step < 1 else 1 + 1.25 * (step - 1)
    assert off <= largest / 2 + 0.5 + 1 / GRID
    assert 8 * len(stepped.y_part) <= 1.01 * sum(stepped.estimated.y) + 32
    assert (len(stepped.y_part) < len(coded.y_part)) == (step > 1)


def test_steps_are_finer_in_early_slices_and_where_sigma_is_large(coder):
    """Δ as docs/format.md, section 4, has it, worked out by hand for d = 3."""
    sigma = torch.tensor([0.11, 4.055, 8, 100], dtype=torch.float64)
    for k, wanted in ((0, [2.5, 1.75, 1, 1]), (2, [3, 2, 1, 1]), (4, [3.5, 2.25, 1, 1])):
        assert coder._delta(3.0, k, sigma).tolist() == pytest.approx(wanted, abs=1e-14)
    for step in (0.25, 1.0):
        assert coder._delta(step, 0, sigma).tolist() == 4 * [step]


def test_another_step_is_noticed(coder, transformed):
    coded = coder.encode(*transformed, step=2.0)
    try:
        latent = coder.decode(coded.z_part, coded.y_part, 128, 256, step=2.0 + 1 / 1024)
    except StreamError:
        return
    assert latent.digest() != coded.latent.digest()


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


@pytest.mark.parametrize("step", [1 / 16, 0.75, 1, 1.5, 16])
def test_noise_of_other_libraries_changes_nothing(codec, coder, transformed, step):
    """A thousand times what threads and libraries do to float64 (docs/format.md): every layer's
    output off by 10⁻¹² relative."""
    coded = coder.encode(*transformed, step=step)
    noisy = disturbed(codec, 1e-12)
    latent = noisy.decode(coded.z_part, coded.y_part, 128, 256, step=step)
    assert latent.digest() == coded.latent.digest()


def test_noise_of_single_precision_is_noticed(codec, coded):
    """The path in float32 would lose the stream, and the digest says so."""
    noisy = disturbed(codec, 1e-6)
    try:
        latent = noisy.decode(coded.z_part, coded.y_part, 128, 256)
    except StreamError:
        return
    assert latent.digest() != coded.latent.digest()


def disturbed(codec, size):
    """A coder in which the output of every layer is off by about ``size`` of its value."""
    noisy = LatentCoder(codec)
    generator = torch.Generator().manual_seed(0)

    def disturb(module, inputs, output):
        noise = torch.randn(output.shape, generator=generator, dtype=output.dtype)
        return output * (1 + size * noise)

    for module in noisy.codec.modules():
        if not list(module.children()):
            module.register_forward_hook(disturb)
    return noisy


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_coders_networks_are_a_copy_in_float64(dtype):
    codec = fill(TCM(**SIZES), "icm").to(dtype)
    theirs = {p.untyped_storage().data_ptr() for p in codec.parameters()}
    ours = list(LatentCoder(codec).codec.parameters())
    assert {p.dtype for p in ours} == {torch.float64}
    assert not any(p.requires_grad for p in ours)
    assert theirs.isdisjoint(p.untyped_storage().data_ptr() for p in ours)
    assert {p.dtype for p in codec.parameters()} == {dtype}
