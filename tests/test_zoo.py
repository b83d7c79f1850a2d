"""CompressAI's own tools evaluate a checkpoint of ours, and find what ours find."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from reference_weights import fill
from skimage import data
from small import SIZES

from sic import images
from sic.codec.fusion import AdditionalCodec
from sic.codec.tcm import TCM
from sic.errors import SicError
from sic.stream import zoo
from sic.stream.scalable import ScalableCodec

pytest.importorskip("compressai")


@pytest.fixture(scope="module")
def codec() -> TCM:
    return fill(TCM(**SIZES), "icm").eval()


def test_a_state_dict_tells_the_sizes(codec: TCM) -> None:
    ours = zoo.CompressTCM.from_state_dict(
        {f"module.{k}": v for k, v in codec.state_dict().items()}
    )
    assert (ours.N, ours.M, ours.num_slices, ours.widths) == tuple(SIZES.values())
    given = codec.state_dict()
    assert all(torch.equal(v, given[k]) for k, v in ours.state_dict().items())


def test_a_state_dict_of_another_kind_is_one_line() -> None:
    with pytest.raises(SicError, match=r"of no TCM: it lacks 'g_a.0.conv1.weight'"):
        zoo.CompressTCM.from_state_dict({"weight": torch.zeros(3)})
    with pytest.raises(SicError, match="an additional codec with m=2"):
        zoo.CompressTCM.from_state_dict(AdditionalCodec(2, **SIZES).state_dict())


def test_update_makes_the_writer_of_the_weights_that_are_there(codec: TCM) -> None:
    model = zoo.CompressTCM.from_state_dict(codec.state_dict())
    assert model.update()
    assert not model.update()
    x = torch.rand(2, 3, 64, 128)
    before = model.compress(x)
    with torch.no_grad():
        model.h_a[-1].bias += 3
    assert model.update(force=True)
    assert model.compress(x)["strings"] != before["strings"]


def test_eval_model_gives_our_numbers(
    codec: TCM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from compressai.utils.eval_model.__main__ import main

    pictures = [data.astronaut()[:192, :256], data.coffee()[:256, :192]]
    for i, picture in enumerate(pictures):
        images.write_png(tmp_path / f"{i}.png", picture)
    torch.save(codec.state_dict(), tmp_path / "codec.pth.tar")
    zoo.register()
    words = ["checkpoint", str(tmp_path), "-a", zoo.NAME, "-p", str(tmp_path / "codec.pth.tar")]
    main(words)
    theirs = json.loads(capsys.readouterr().out)["results"]
    main([*words, "--no-update"])
    assert json.loads(capsys.readouterr().out)["results"]["bpp"] == theirs["bpp"]

    stream = ScalableCodec(codec)
    coded = [stream.encode(picture) for picture in pictures]
    sizes = [picture.shape[:2] for picture in pictures]
    rates = [images.bpp(len(s), *size) for s, size in zip(coded, sizes, strict=True)]
    quality = [
        images.psnr(picture, stream.decode(s)) for picture, s in zip(pictures, coded, strict=True)
    ]
    assert theirs["bpp"] == pytest.approx([np.mean(rates)], rel=1e-12)
    assert theirs["psnr-rgb"] == pytest.approx([np.mean(quality)], abs=1e-4)


def test_the_registry_knows_our_codecs() -> None:
    from compressai import registry
    from compressai import zoo as theirs

    zoo.register()
    assert registry.MODELS[zoo.NAME] is zoo.CompressTCM
    assert registry.MODELS["sic-additional"] is AdditionalCodec
    assert theirs.image_models[zoo.NAME] is zoo.shipped


def test_compressai_is_not_imported_before_it_is_asked_for() -> None:
    program = "import sys, sic.stream.zoo; sys.exit('compressai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
