"""The codec is the published one, number for number (design, section 2; part 2 of the plan).

The values in reference_values.json were given by the published implementation with the weights
of reference_weights.py for the upper left 256×256 pixels of scikit-image's astronaut.
"""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from reference_weights import fill
from small import SIZES, astronaut
from torch import Tensor, nn

from sic.codec.fusion import AdditionalCodec
from sic.codec.loss import bits_per_pixel, rate_distortion
from sic.codec.tcm import TCM

REFERENCE: dict[str, Any] = json.loads(
    Path(__file__).with_name("reference_values.json").read_text()
)
PIXELS = 256 * 256

# SHA-256 over the sorted lines "key shape dtype" of the published state dicts.
BASE_KEYS = (1293, "018d4fe56d8fde673f7c24edd2129d7ea0c6b932e6f58f5680c2a8d337ec18ad")
ADDITIONAL_M4_KEYS = (1139, "642fd025f8d7b6334d1fc9e61afdcde6ea350fd1a5248146dd1da0722bc3aca8")

# Table I of the paper: parameters of the additional codec for m = 1 … 5; base as m = 5.
TABLE_I = {1: 45_918_292, 2: 51_690_900, 3: 58_723_412, 4: 67_015_828, 5: 76_568_148}


def key_list(codec: nn.Module) -> tuple[int, str]:
    rows = sorted(f"{k} {tuple(v.shape)} {v.dtype}" for k, v in codec.state_dict().items())
    return len(rows), hashlib.sha256("\n".join(rows).encode()).hexdigest()


def check(got: Tensor, expected: dict[str, Any], rel: float) -> None:
    statistics = {
        "mean": got.mean(),
        "std": got.std(correction=0),
        "abssum": got.abs().sum(),
        "min": got.min(),
        "max": got.max(),
    }
    for name, value in statistics.items():
        assert value.item() == pytest.approx(expected[name], rel=rel), name
    for place, value in expected["at"].items():
        channel, row, column = map(int, place.split(","))
        assert got[0, channel, row, column].item() == pytest.approx(value, rel=rel), place


def check_rates(output: Any, expected: dict[str, Any], rel: float) -> None:
    bpp_y, bpp_z = bits_per_pixel(output["likelihoods"], PIXELS)
    assert bpp_y.item() == pytest.approx(expected["bpp_y"], rel=rel)
    assert bpp_z.item() == pytest.approx(expected["bpp_z"], rel=rel)


@pytest.fixture(scope="module")
def base() -> TCM:
    # The published weights are float32; the reference casts those.
    return fill(TCM(N=128, M=320, num_slices=5).eval(), "icm").double()


@pytest.fixture(scope="module")
def base_output(base: TCM) -> Any:
    with torch.inference_mode():
        return base(astronaut(256, 256))


def test_base_has_the_published_keys_shapes_and_parameters(base: TCM) -> None:
    assert key_list(copy.deepcopy(base).float()) == BASE_KEYS
    assert sum(p.numel() for p in base.parameters()) == TABLE_I[5]


@pytest.mark.parametrize("m", TABLE_I)
def test_additional_codec_has_the_parameters_of_table_i(m: int) -> None:
    codec = AdditionalCodec(m=m, N=128, M=320)
    assert sum(p.numel() for p in codec.parameters()) == TABLE_I[m]


def test_additional_codec_has_the_published_keys_and_shapes() -> None:
    assert key_list(AdditionalCodec(m=4, N=128, M=320)) == ADDITIONAL_M4_KEYS


def test_base_agrees_with_the_published_one_in_float64(base_output: Any) -> None:
    expected = REFERENCE["float64"]["icm"]
    check_rates(base_output, expected, 1e-9)
    check(base_output["y_hat"], expected["y_hat"], 1e-9)
    check(base_output["x_hat"], expected["x_hat"], 1e-9)


@pytest.mark.parametrize("m", [2, 4])
def test_additional_codec_agrees_with_the_published_one_in_float64(
    m: int, base_output: Any
) -> None:
    codec = fill(AdditionalCodec(m=m, N=128, M=320).eval(), f"ica{m}").double()
    y_hat_base = base_output["y_hat"].clone()
    with torch.inference_mode():
        output = codec(astronaut(256, 256), y_hat_base)
    expected = REFERENCE["float64"][f"ica{m}"]
    check_rates(output, expected, 1e-9)
    check(output["ya_hat"], expected["ya_hat"], 1e-9)
    check(output["y_hat"], expected["y_fused"], 1e-9)
    check(output["x_hat"], expected["x_hat"], 1e-9)
    assert torch.equal(y_hat_base, base_output["y_hat"]), "the base's latent was changed"


def test_float32_is_as_close_as_the_published_one_is_to_itself(base: TCM) -> None:
    # Rounding flips single symbols, so float32 is compared by rates and statistics.
    with torch.inference_mode():
        output = copy.deepcopy(base).float()(astronaut(256, 256).float())
    check_rates(output, REFERENCE["float64"]["icm"], 1e-3)
    for name in ("y_hat", "x_hat"):
        expected = REFERENCE["float64"]["icm"][name]
        assert output[name].std(correction=0).item() == pytest.approx(expected["std"], rel=1e-3)
        assert output[name].abs().sum().item() == pytest.approx(expected["abssum"], rel=1e-3)


def test_gradients_agree_with_the_published_ones(base: TCM) -> None:
    x = astronaut(256, 256)
    loss = rate_distortion(base(x), x, lmbda=0.05).total
    base.zero_grad()
    loss.backward()
    expected = REFERENCE["float64"]["icm"]["grad"]
    parameters = dict(base.named_parameters())
    gradients = [p.grad for p in parameters.values() if p.grad is not None]
    assert len(gradients) == len(parameters), "every parameter takes part"
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-9)
    total = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients])).item()
    assert total == pytest.approx(expected["total_grad_norm"], rel=1e-6)
    for key, norm in expected["norms"].items():
        gradient = parameters[key].grad
        assert gradient is not None
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-6), key


@pytest.mark.parametrize(("height", "width"), [(128, 128), (128, 256), (384, 128)])
def test_every_multiple_of_128_is_coded(height: int, width: int) -> None:
    codec = TCM(**SIZES).double().eval()
    with torch.inference_mode():
        output = codec(astronaut(height, width))
    assert output["x_hat"].shape == (1, 3, height, width)
    assert output["y_hat"].shape == (1, 40, height // 16, width // 16)
    assert output["likelihoods"]["z"].shape == (1, 16, height // 64, width // 64)


def test_other_sizes_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match="pad the image"):
        TCM(**SIZES)(torch.rand(1, 3, 100, 128))


def test_a_batch_gives_what_its_images_give_alone() -> None:
    codec = fill(TCM(**SIZES).eval(), "icm").double()
    x = torch.cat((astronaut(128, 128), astronaut(128, 128, 200, 100)))
    with torch.inference_mode():
        together, alone = codec(x), codec(x[1:])
    torch.testing.assert_close(together["x_hat"][1:], alone["x_hat"], rtol=0, atol=1e-12)


def test_training_mode_has_noisy_rates_and_a_rounded_picture() -> None:
    codec = fill(TCM(**SIZES), "icm").double()
    x = astronaut(128, 128)
    torch.manual_seed(0)
    noisy, again = codec.train()(x), codec(x)
    assert not torch.equal(noisy["likelihoods"]["y"], again["likelihoods"]["y"])
    torch.testing.assert_close(noisy["x_hat"], codec.eval()(x)["x_hat"])


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"num_slices=3 does not divide M=320"):
        TCM(num_slices=3)
    with pytest.raises(ValueError, match=r"head dim 16 does not divide the 24"):
        TCM(N=24)


def test_recomputing_gives_the_same_gradients_and_keeps_less() -> None:
    x = astronaut(128, 128)
    results, kept = [], []
    for wanted in (False, True):
        codec = fill(TCM(**SIZES).eval(), "icm").double()
        codec.recompute(wanted)
        sizes: dict[int, int] = {}

        def note(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            total = rate_distortion(codec(x), x, lmbda=0.05).total
        kept.append(sum(sizes.values()))
        total.backward()
        results.append([p.grad for p in codec.parameters()])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-12)
    assert kept[1] < 0.6 * kept[0]
