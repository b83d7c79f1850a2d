"""Weights for others to start from: the study's trained codecs, rounded to float16, with cards.

Rounding halves the files and changes pictures less than training noise does.  The base is shipped
first and taken up as it is (``train: false``), so that what builds on it was trained on just the
weights that stand beside it.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import torch

from sic import params, weights
from sic.errors import SicError
from sic.files import write_text
from sic.stages import ARTIFACTS
from sic.tcm import TCM

WEIGHTS = Path("data/weights")
CARDS = "cards.md"
BASE = "sa_icm"


def ship(
    names: list[str], study: params.Params, artifacts: Path = ARTIFACTS, folder: Path = WEIGHTS
) -> Path:
    """Round trained codecs to float16 and write ``folder/<name>.safetensors`` and the cards.

    Args:
        names: some of ``study.codecs``; those shipped before keep their files.
        study: of which the codecs are.
        artifacts: where training left them.
        folder: where weights go.

    Returns:
        The file of the cards, which describes every codec that is there.

    Raises:
        SicError: for a name that is no codec, a codec that has not been trained, or one that was
            trained on another base than the one that is shipped.
    """
    known = study.codecs
    for name in names:
        if name not in known:
            raise SicError(f"no codec {name} in params.yaml: there are {', '.join(known)}")
    for name in sorted(names, key=known.index):
        source = artifacts / name / "codec.safetensors"
        origin: dict[str, Any] = weights.metadata(source)["origin"]
        _check_base(source, origin, folder)
        codec = weights.load(source)
        round_to_half(codec)
        origin["validation"] = _last_validation(artifacts / name / "history.csv")
        weights.save(folder / f"{name}.safetensors", codec, origin)
    cards = folder / CARDS
    write_text(cards, _cards({n: p for n in known if (p := folder / f"{n}.safetensors").is_file()}))
    return cards


@torch.no_grad()
def round_to_half(codec: TCM) -> None:
    """Round every parameter to the nearest value that float16 holds, in place."""
    for parameter in codec.parameters():
        parameter.copy_(parameter.half().float())


def _check_base(source: Path, origin: dict[str, Any], folder: Path) -> None:
    if "base" not in origin:
        return
    shipped = weights.metadata(folder / f"{BASE}.safetensors")["fingerprint"]
    if origin["base"] != shipped:
        raise SicError(
            f"{source} was trained on another base than {folder}/{BASE}.safetensors; ship the base "
            "first, take it up with `sa_icm: {init: …, train: false}`, and train again"
        )


def _last_validation(history: Path) -> dict[str, float]:
    """Loss, bpp and PSNR of the last validation, as training measured them."""
    rows = pd.read_csv(history)
    row = rows[rows.split == "validation"].iloc[-1]
    return {name: float(row[name]) for name in ("loss", "bpp", "psnr")}


def _cards(files: dict[str, Path]) -> str:
    """One row a codec, from the metadata of its file."""
    names = (
        *("file", "λ", "steps", "from", "photos", "batch × crop", "learning rate", "seed"),
        *("validation bpp", "PSNR (dB)", "parameters", "bytes", "fingerprint"),
    )
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for name, path in files.items():
        about = weights.metadata(path)
        origin, settings = about["origin"], about["origin"]["train"]
        cells = (
            f"`{name}.safetensors`",
            origin["lmbda"],
            origin["steps"],
            origin["init"],
            origin["photos"],
            f"{settings['batch']} × {settings['crop']}²",
            f"{settings['learning_rate']:g} {settings['schedule']}",
            origin["seed"],
            f"{origin['validation']['bpp']:.3f}",
            f"{origin['validation']['psnr']:.2f}",
            f"{sum(p.numel() for p in weights.build(about['settings']).parameters()):,}",
            f"{path.stat().st_size:,}",
            f"`{about['fingerprint'][:16]}`",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"
