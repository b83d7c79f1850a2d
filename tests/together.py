"""A short training of a tiny codec, run by test_train.py in one process and in two."""

import sys
from pathlib import Path

import torch
from PIL import Image
from skimage import data
from small import SIZES

from sic import params
from sic.codec import loss, weights
from sic.codec.tcm import TCM
from sic.data.crops import Photo
from sic.training import loop


def main(folder: Path) -> None:
    """Train for three steps; the first process writes ``codec.safetensors`` and ``history.csv``."""
    folder.mkdir(exist_ok=True)
    study = params.load(Path(__file__).parents[1] / "params.yaml")
    settings = study.train.model_copy(update={"batch": 4, "accumulate": 2})
    machine = study.machine.model_copy(update={"validate_every": 1, "device": "cpu"})
    joined = loop.fabric(settings, torch.device("cpu"))
    picture = folder / "photo.png"
    if joined.is_global_zero:
        Image.fromarray(data.chelsea()[:160, :200]).save(picture)
    joined.barrier()
    torch.manual_seed(0)
    codec = TCM(**SIZES)
    photos = [Photo(picture, "chelsea")]
    run = loop.Run("lic/q1", settings, 3, 0, photos, photos * 2, {}, machine)
    history = loop.train(codec, loss.human_loss(0.01), run, folder / "checkpoints")
    if joined.is_global_zero:
        weights.save(folder / "codec.safetensors", codec, {})
        history.to_csv(folder / "history.csv")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
