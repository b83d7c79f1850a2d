"""MobileSAM's encoder against the embedding that the published implementation gives.

The reference was made with every entry of the published state dict filled from
g = standard normal of default_rng(crc32(its name)): running_mean 0.1 g, running_var 1 + 0.1|g|,
bias 0.05 g, weight 1 + 0.1 g where 1-D, else g / √fan_in; attention_biases 0.5 g.

The order of operations counts.  The published encoder gathers its attention biases when it is put
into eval mode, and keeps them; its builder calls eval() before it loads a state dict, and so does
the reference: it ran with the biases it was made with, zero.  (Its users are told to call eval()
once more, which gathers the loaded ones.)  timm's gathers them at the first forward in eval mode.
So ours gives the reference when it is put into eval mode, run once, filled and run again.
"""

import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data as photos

from sic.masks import mobile_sam, sam

SHARED = Path(__file__).parents[2] / "shared" / "reference"
SHAPE = (1, 256, 64, 64)
MEAN, STD, ABSSUM = -0.007066343699475439, 0.989231220573578, 814454.5867329942
AT = {
    (0, 0, 0): 1.8706828355789185,
    (17, 5, 40): -2.2108418941497803,
    (100, 32, 32): 1.4283604621887207,
    (255, 63, 63): 0.4422752857208252,
    (128, 10, 60): 0.19383098185062408,
}


def published_name(key: str) -> str:
    """MobileSAM's name of an entry, told from ours by the table in its description."""
    key = key.removeprefix("trunk.")
    key = re.sub(r"stages\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", key)
    key = re.sub(r"stages\.(\d)\.blocks", r"layers.\1.blocks", key)
    key = key.replace("patch_embed.conv1", "patch_embed.seq.0")
    key = key.replace("patch_embed.conv2", "patch_embed.seq.2")
    return key.replace(".conv.weight", ".c.weight")


def filled(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    g = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if key.endswith("running_mean"):
        g = 0.1 * g
    elif key.endswith("running_var"):
        g = 1 + 0.1 * np.abs(g)
    elif key.endswith("attention_biases"):
        g = 0.5 * g
    elif key.endswith("bias"):
        g = 0.05 * g
    elif g.ndim == 1:
        g = 1 + 0.1 * g
    else:
        g = g / np.sqrt(np.prod(shape[1:]))
    return torch.tensor(g, dtype=torch.float32)


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    """A state dict with the published names, filled by the rule."""
    own = mobile_sam.TinyVitEncoder().state_dict()
    names = {published_name(key): tuple(value.shape) for key, value in own.items()}
    names |= {"norm_head.weight": (320,), "norm_head.bias": (320,)}
    names |= {"head.weight": (1000, 320), "head.bias": (1000,)}
    return {key: filled(key, shape) for key, shape in names.items()}


def embedding(encoder: torch.nn.Module) -> torch.Tensor:
    pixels = photos.astronaut().repeat(2, 0).repeat(2, 1)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1)
        for v in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    )
    with torch.inference_mode():
        return encoder((x - mean) / std)


def test_the_published_names_and_shapes(published: dict[str, torch.Tensor]) -> None:
    path = SHARED / "mobile_sam_encoder_keys.txt"
    if not path.exists():
        pytest.skip("the list of the published names is not at hand")
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    assert {key: shape for key, shape, _ in lines} == {
        key: str(tuple(value.shape)) for key, value in published.items()
    }


def test_the_reference_is_the_one_at_hand() -> None:
    path = SHARED / "mobile_sam_encoder.json"
    if not path.exists():
        pytest.skip("the reference embedding is not at hand")
    at = {",".join(map(str, place)): value for place, value in AT.items()}
    reference = {"shape": list(SHAPE), "mean": MEAN, "std": STD, "abssum": ABSSUM, "at": at}
    assert json.loads(path.read_text()) == reference


def worst(y: torch.Tensor) -> float:
    """The largest distance of an embedding from the reference's single values."""
    return max(abs(y[0, c, i, j].item() - value) for (c, i, j), value in AT.items())


def test_the_reference_embedding(published: dict[str, torch.Tensor]) -> None:
    """eval, gather the biases, then fill: the reference's order, and nothing but the rule."""
    encoder = mobile_sam.TinyVitEncoder().eval()
    with torch.inference_mode():
        encoder(torch.zeros(1, 3, 64, 64))  # gathers the biases, whatever the picture's size
    whole = mobile_sam.state({f"image_encoder.{key}": value for key, value in published.items()})
    encoder.load_state_dict({k.removeprefix("image_encoder."): v for k, v in whole.items()})
    y = embedding(encoder)
    assert y.shape == SHAPE
    assert y.mean().item() == pytest.approx(MEAN, abs=1e-6)
    assert y.std(unbiased=False).item() == pytest.approx(STD, abs=1e-5)
    assert y.abs().double().sum().item() == pytest.approx(ABSSUM, rel=1e-6)
    assert worst(y) < 1e-3


def test_a_published_checkpoint_runs_with_its_attention_biases(
    published: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """The product loads before the first forward: what the reference leaves out counts here."""
    rest = mobile_sam.build().state_dict()
    rest = {key: value for key, value in rest.items() if not key.startswith("image_encoder.")}
    whole = rest | {f"image_encoder.{key}": value for key, value in published.items()}
    torch.save(whole, tmp_path / "mobile_sam.pt")
    model = sam.load("mobile_sam", tmp_path / "mobile_sam.pt")
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(9.8e6, rel=0.05)
    assert 0.01 < worst(embedding(model.image_encoder)) < 0.2
