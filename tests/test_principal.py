"""A TCM that starts as principal components codes real pictures before any training."""

import pytest
import torch

from sic import images
from sic.codec import principal, weights
from sic.codec.tcm import TCM, Widths
from sic.data.crops import Crops, Photo

WIDTHS = Widths(
    hyper=8,
    context=(8, 8),
    attention=8,
    head_dims=(4, 4, 4),
    hyper_head_dim=4,
    attention_head_dim=8,
)
LMBDA = 0.01


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    from skimage import data

    folder = tmp_path_factory.mktemp("photos")
    photos = []
    for name in ("astronaut", "coffee", "chelsea"):
        images.write_png(folder / f"{name}.png", getattr(data, name)())
        photos.append(Photo(folder / f"{name}.png", ""))
    crops = Crops(photos, principal.PATCH, 300, seed=0)
    return torch.stack([crops[number][0] for number in range(300)])


@pytest.fixture(scope="module")
def started(patches: torch.Tensor) -> TCM:
    torch.manual_seed(0)
    codec = TCM(12, 80, 5, WIDTHS).eval()
    principal.start(codec, patches, LMBDA)
    return codec


def psnr(x: torch.Tensor, x_hat: torch.Tensor) -> float:
    return float(-10 * torch.log10((x - x_hat).square().mean()))


@torch.no_grad()
def test_the_transforms_are_those_of_the_best_linear_code(started, patches) -> None:
    y = started.g_a(patches.repeat(1, 1, 8, 8)[:8])[..., 2:-2, 2:-2]
    x = patches.repeat(1, 1, 8, 8)[:8, :, 32:-32, 32:-32]

    x_hat = started.g_s(started.g_a(patches.repeat(1, 1, 8, 8)[:8]))[..., 32:-32, 32:-32]
    assert psnr(x, x_hat) > 30
    flat = patches.flatten(1).double() - 0.5
    power = torch.linalg.eigvalsh(flat.T @ flat / len(flat)).flip(0)
    # What 96 numbers a patch and 80 of them keep is close to what the best 80 of 768 keep.
    assert float(power[80:].sum()) / 768 < float((x - x_hat).square().mean()) * 2
    assert y.abs().max() > 1, "in steps that rounding does not wipe out"


@torch.no_grad()
def test_rounding_costs_what_lambda_asks_for(started, patches) -> None:
    from skimage import data

    x = images.to_tensor(data.coffee()[:256, :256])
    y = started.g_a(x)
    lost = (started.g_s(y.round()) - started.g_s(y)).square().mean()
    step = principal._STEP / LMBDA / 255**2  # Δ²
    # Components below Δ/2 are lost with less than the uniform error Δ²/12.
    assert 0.1 * step / 12 * 80 / 768 < float(lost) < step / 12 * 80 / 768 * 1.5


def test_the_start_is_the_same_again_and_adds_no_key(started, patches) -> None:
    torch.manual_seed(0)
    again = TCM(12, 80, 5, WIDTHS).eval()
    keys = list(again.state_dict())
    principal.start(again, patches + 1e-12 * torch.randn_like(patches.double()), LMBDA)
    assert list(again.state_dict()) == keys
    assert weights.fingerprint(again) == weights.fingerprint(started)


def test_the_layers_named_linear_are_those_that_are_set(started) -> None:
    torch.manual_seed(0)
    plain = TCM(12, 80, 5, WIDTHS).state_dict()
    named = [key for key in plain if principal.LINEAR.match(key)]
    assert len(named) == 3 * 4 + 2 + 3 * 2 + 2
    for key in named:
        assert not torch.equal(started.state_dict()[key], plain[key]), key
