"""Measures of pictures against their definitions, and against other people's code."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_msssim import ms_ssim
from skimage import data
from skimage import metrics as reference
from torchvision.models import alexnet

from sic import images
from sic.anchors import planes
from sic.errors import SicError
from sic.evaluation import metrics

PHOTO: images.Pixels = np.ascontiguousarray(data.astronaut()[40:220, 60:260])


def blurred(steps: int) -> images.Pixels:
    picture = PHOTO.astype(float)
    for _ in range(steps):
        picture = (picture + np.roll(picture, 1, 0) + np.roll(picture, 1, 1)) / 3
    return picture.round().astype(np.uint8)


def test_psnr_is_that_of_scikit_image_on_rgb_and_on_luma() -> None:
    found = metrics.Metrics()(PHOTO, blurred(2))
    psnr = reference.peak_signal_noise_ratio
    assert found["psnr"] == pytest.approx(psnr(PHOTO, blurred(2), data_range=255))
    luma = planes.luma(PHOTO), planes.luma(blurred(2))
    assert found["psnr_y"] == pytest.approx(psnr(*luma, data_range=255))
    assert set(found) == set(metrics.MEASURES)
    assert math.isnan(found["lpips"]), "no weights, no number"


def ms_ssim_by_definition(a: images.Pixels, b: images.Pixels) -> float:
    """Wang, Simoncelli and Bovik (2003) in plain numpy, the mean over the channels."""
    taps = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()

    def smooth(x: np.ndarray) -> np.ndarray:
        rows = np.apply_along_axis(np.convolve, 0, x, taps, "valid")
        return np.apply_along_axis(np.convolve, 1, rows, taps, "valid")

    def halve(x: np.ndarray) -> np.ndarray:
        x = np.pad(x, [(side % 2, 0) for side in x.shape])  # as pytorch-msssim pads
        return x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2).mean(axis=(1, 3))

    values = []
    for x, y in zip(np.moveaxis(a / 255, 2, 0), np.moveaxis(b / 255, 2, 0), strict=True):
        value = 1.0
        for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
            mu_x, mu_y = smooth(x), smooth(y)
            var_x, var_y = smooth(x * x) - mu_x**2, smooth(y * y) - mu_y**2
            contrast = (2 * (smooth(x * y) - mu_x * mu_y) + 0.03**2) / (var_x + var_y + 0.03**2)
            light = (2 * mu_x * mu_y + 0.01**2) / (mu_x**2 + mu_y**2 + 0.01**2)
            value *= (contrast * light if scale == 4 else contrast).mean() ** weight
            x, y = halve(x), halve(y)
        values.append(value)
    return float(np.mean(values))


def test_ms_ssim_is_that_of_its_definition_in_decibels() -> None:
    even = PHOTO[:176, :192]
    value = ms_ssim_by_definition(even, blurred(2)[:176, :192])
    found = metrics.ms_ssim_db(even, blurred(2)[:176, :192])
    assert found == pytest.approx(-10 * math.log10(1 - value), abs=0.01)


@pytest.mark.parametrize("steps", [1, 4, 40])
@pytest.mark.parametrize("top", [0, 1])
def test_ms_ssim_is_that_of_pytorch_msssim(steps: int, top: int) -> None:
    pair = PHOTO[top:], blurred(steps)[top:]
    planes = (torch.from_numpy(p / 255).permute(2, 0, 1)[None] for p in pair)
    value = float(ms_ssim(*planes, data_range=1.0))  # float64, as the planes are
    assert metrics.ms_ssim_db(*pair) == pytest.approx(-10 * math.log10(1 - value), abs=1e-6)


def test_a_negative_has_nothing_of_its_original() -> None:
    assert metrics.ms_ssim_db(PHOTO, 255 - PHOTO) == pytest.approx(0, abs=1e-6)


def test_more_blur_is_worse_by_every_measure() -> None:
    little, much = (metrics.Metrics()(PHOTO, blurred(steps)) for steps in (1, 4))
    for measure in ("psnr", "psnr_y", "ms_ssim"):
        assert little[measure] > much[measure] + 1


def test_equal_pictures_have_no_distance() -> None:
    found = metrics.Metrics()(PHOTO, PHOTO.copy())
    assert found["psnr"] == found["psnr_y"] == found["ms_ssim"] == math.inf


def changed(picture: images.Pixels, by: int) -> images.Pixels:
    """The picture with another value in one sample."""
    other = picture.copy()
    other[50, 60, 1] += by
    return other


@pytest.mark.parametrize(
    ("picture", "by"),
    [
        (PHOTO, 1),
        (np.full((192, 192, 3), 255, np.uint8), -1),
        (np.zeros((161, 161, 3), np.uint8), 1),
    ],
    ids=["photo", "white", "black"],
)
def test_nearly_equal_pictures_have_a_finite_distance(picture: images.Pixels, by: int) -> None:
    nearly = changed(picture, by)
    found = metrics.Metrics()(picture, nearly)
    assert found["psnr"] == pytest.approx(10 * math.log10(255**2 * picture.size))
    assert found["ms_ssim"] == pytest.approx(
        -10 * math.log10(1 - ms_ssim_by_definition(picture, nearly)), abs=0.01
    )


def test_a_white_page_with_one_pixel_of_254_has_70_85_db() -> None:
    page = np.full((192, 192, 3), 255, np.uint8)
    other = page.copy()
    other[96, 96] = 254
    assert metrics.ms_ssim_db(page, other) == pytest.approx(70.85, abs=0.01)


def test_ms_ssim_of_a_small_picture_is_not_defined() -> None:
    small, degraded = PHOTO[:160, :200], blurred(1)[:160, :200]
    assert math.isnan(metrics.ms_ssim_db(small, degraded))
    assert metrics.ms_ssim_db(PHOTO[:161, :161], blurred(1)[:161, :161]) > 0


# ---- LPIPS -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alexnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AlexNet as torchvision writes it, with weights of no meaning."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    features = alexnet(weights=None).state_dict()
    torch.save({key: t for key, t in features.items() if key.startswith("features")}, path)
    return path


def lpips_by_definition(weights: Path, a: images.Pixels, b: images.Pixels) -> float:
    """Zhang et al. (2018) with torchvision's AlexNet and the package's calibration."""
    import lpips

    net = alexnet(weights=None)
    net.load_state_dict(torch.load(weights, weights_only=True), strict=False)
    calibration = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).lins
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    x, y = ((torch.from_numpy(p / 255).permute(2, 0, 1).float() - mean) / std for p in (a, b))
    total, taken = 0.0, 0
    with torch.inference_mode():
        for number, layer in enumerate(net.features):
            x, y = layer(x), layer(y)
            if number in (1, 4, 7, 9, 11):  # after each ReLU
                unit = [f / f.norm(dim=0, keepdim=True) for f in (x, y)]
                w = calibration[taken].model[-1].weight[0]
                total += float((w * (unit[0] - unit[1]) ** 2).sum(dim=0).mean())
                taken += 1
    return total


def test_lpips_is_that_of_its_definition(alexnet_file: Path) -> None:
    measure = metrics.Metrics(alexnet_file)
    found = measure(PHOTO, blurred(2))["lpips"]
    assert found > 0
    assert found == pytest.approx(lpips_by_definition(alexnet_file, PHOTO, blurred(2)), rel=2e-2)
    assert measure(PHOTO, blurred(4))["lpips"] > found
    assert measure(PHOTO, PHOTO)["lpips"] == 0
    assert math.isnan(measure(PHOTO[:30, :40], blurred(2)[:30, :40])["lpips"])
    assert measure(PHOTO[:31, :31], blurred(2)[:31, :31])["lpips"] > 0


def test_wrong_weights_are_one_line(tmp_path: Path) -> None:
    missing, text, other = (tmp_path / name for name in ("a.pth", "b.pth", "c.pth"))
    text.write_text("no weights")
    torch.save({"features.0.weight": torch.zeros(3)}, other)
    for path, line in [
        (missing, r"^evaluate.lpips: cannot read .*a.pth: No such file"),
        (text, r"^evaluate.lpips: .*b.pth is refused"),
        (other, r"^evaluate.lpips: .*c.pth does not hold torchvision's AlexNet \(features.0"),
    ]:
        with pytest.raises(SicError, match=line):
            metrics.Metrics(path)


def test_pictures_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        metrics.Metrics()(PHOTO, PHOTO[:-1])
