"""Feature residual and conditional FR, trained on real photos, through real streams."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data
from small import SIZES
from test_latent import disturbed

from sic import images
from sic.codec import weights
from sic.codec.fusion import AdditionalCodec
from sic.codec.loss import StepLoss, additional_loss, human_loss
from sic.codec.tcm import TCM
from sic.stream.container import read_layers
from sic.stream.scalable import Encoding, ScalableCodec

PHOTO = data.coffee()[100:190, 150:270]
CASES = [(m, condition) for condition in (False, True) for m in range(1, 6)]


def crops() -> torch.Tensor:
    """Two real photos, (2, 3, 128, 128) in [0, 1]."""
    pictures = np.stack([data.astronaut()[:128, 150:278], data.chelsea()[60:188, 100:228]])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().contiguous() / 255


def train(codec: TCM, loss: StepLoss, steps: int) -> list[float]:
    """The loss of every step of Adam on :func:`crops`."""
    optimiser = torch.optim.Adam(codec.parameters(), lr=1e-3)
    x, found = crops(), []
    for _ in range(steps):
        optimiser.zero_grad()
        total = loss(codec, x, torch.ones(2, 1, 128, 128)).total
        total.backward()
        optimiser.step()
        found.append(total.item())
    return found


@pytest.fixture(scope="module")
def base() -> TCM:
    torch.manual_seed(0)
    codec = TCM(**SIZES)
    train(codec, human_loss(0.01), 5)
    return codec


@pytest.fixture(scope="module")
def trained(base: TCM) -> dict[tuple[int, bool], AdditionalCodec]:
    """An additional codec of each case, some steps from the codec that the base came from."""
    found = {}
    for m, condition in CASES:
        torch.manual_seed(m)
        codec = AdditionalCodec(m, **SIZES, residual="feature", condition=condition)
        codec.start_from(base)
        losses = train(codec, additional_loss(base, 0.01), 8 if m == 5 else 2)
        if m == 5:
            assert losses[-1] < losses[0], losses
        found[m, condition] = codec
    return found


@pytest.fixture(scope="module")
def encodings(base: TCM, trained: dict[tuple[int, bool], AdditionalCodec]) -> dict:
    return {case: ScalableCodec(base, trained[case]).encode_layers(PHOTO) for case in CASES}


def digests(encoding: Encoding) -> list[str]:
    assert encoding.enhancement is not None
    return [layer.latent.digest().hex() for layer in (encoding.base, encoding.enhancement)]


def test_another_process_reads_every_m_with_and_without_condition(
    base: TCM, trained: dict, encodings: dict, tmp_path: Path
) -> None:
    """Latents bit for bit, with PyTorch's plainest vector code and two threads instead of ours."""
    weights.save(tmp_path / "base", base, {})
    for i, case in enumerate(CASES):
        weights.save(tmp_path / f"{i}", trained[case], {})
        (tmp_path / f"{i}.sic").write_bytes(encodings[case].stream)
    program = f"""if True:
        from pathlib import Path
        from sic.stream.scalable import ScalableCodec
        for i in range({len(CASES)}):
            codec = ScalableCodec.load("base", str(i))
            stream = Path(f"{{i}}.sic").read_bytes()
            print(*(one.digest().hex() for one in codec.decode_latents(stream, "human")))
    """
    other = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive", "ATEN_CPU_CAPABILITY": "default"}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=tmp_path,
        env=os.environ | other,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line.split() for line in run.stdout.splitlines()] == [
        digests(encodings[case]) for case in CASES
    ]


def test_the_residual_is_what_the_base_left(base: TCM, trained: dict, encodings: dict) -> None:
    """ŷ + ŷa is y of the additional encoder, but for one rounding, not two, and what LRP makes of
    that."""
    codec, encoding = trained[5, True], encodings[5, True]
    with torch.inference_mode():
        y = codec.g_a(images.pad(images.to_tensor(PHOTO)))
    left = y - encoding.base.latent.y_hat - encoding.enhancement.latent.y_hat
    assert left.abs().max() < 1 + 1 / 256, "half a step, LRP in (−0.5, 0.5), and the grid"


def test_noise_of_other_libraries_changes_nothing(trained: dict, encodings: dict) -> None:
    """As for other codecs (test_latent), although ŷ enters two networks more."""
    encoding = encodings[5, True]
    layer = read_layers(encoding.stream)[1]
    y_hat = encoding.base.latent.y_hat
    noisy = disturbed(trained[5, True].eval(), 1e-12)
    latent = noisy.decode(layer.z, layer.y, *PHOTO.shape[:2], y_hat)
    assert latent.digest() == layer.symbols
