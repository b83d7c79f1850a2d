"""A training run: all that it depends on, and all that changes while it goes on."""

import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sic import params, progress, source
from sic.codec import weights
from sic.codec.principal import LINEAR
from sic.codec.tcm import TCM
from sic.data.crops import Photo
from sic.files import write_bytes

#: What decides the weights that a run ends with.
_CODE = ("sic.training.loop.train", "sic.codec.loss", "sic.codec.fusion")


def rate_factor(step: int, steps: int, settings: params.Train) -> float:
    """What the learning rate is multiplied by at a step, from 0, of so many: in [0, 1].  It rises
    linearly over the warm-up; with `multistep` it drops by 10 after each share of the steps in
    `milestones` (TCM's recipe: 45/50 and 48/50), with `cosine` it falls to 0 over the steps after
    the warm-up."""
    warm = min((step + 1) / (settings.warmup + 1), 1.0)
    if settings.schedule == "multistep":
        passed = sum(step >= round(share * steps) for share in settings.milestones)
        return warm * 0.1**passed
    share = max(step - settings.warmup, 0) / max(steps - settings.warmup, 1)
    return warm * (1 + math.cos(math.pi * min(share, 1.0))) / 2


def write_checkpoint(folder: Path, step: int, content: dict[str, Any]) -> None:
    """Write ``STEP-SHA256.pt``, whole or not at all, and remove all but the last two; the checksum
    is for what a file system may still do.  Raises SicError if it cannot be written; those before
    it stay."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    write_bytes(folder / f"{step:09d}-{hashlib.sha256(data).hexdigest()[:16]}.pt", data)
    for old in _newest_first(folder)[2:]:
        old.unlink()


def newest_checkpoint(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The content of the newest checkpoint that is whole, or None.  A damaged one is named on
    stderr and removed, and the one before it is used."""
    for path in _newest_first(folder):
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest()[:16] == path.stem.partition("-")[2]:
            content: dict[str, Any] = torch.load(
                io.BytesIO(data), weights_only=True, map_location=device
            )
            return content
        progress.say(f"{path} is damaged (wrong checksum); taking the one before")
        path.unlink()
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.pt"), reverse=True)


@dataclass(frozen=True)
class Run:
    """All that a training run depends on besides code: equal runs give equal weights.  Its name is
    that in messages and under ``checkpoints/``; 0 steps take the codec as it is and only validate
    it; crops and noise follow from the seed; ``about`` holds what else matters (λ, m, the base's
    fingerprint, …), as JSON; no result depends on ``machine``."""

    name: str
    settings: params.Train
    steps: int
    seed: int
    photos: Sequence[Photo]
    validation: Sequence[Photo]
    about: Mapping[str, Any]
    machine: params.Machine

    def fingerprint(self, codec: TCM) -> str:
        """SHA-256 over the settings, the initial weights, the images and the training code."""
        digest = hashlib.sha256()
        for part in (
            source.reach(_CODE, leave=(*source.PLUMBING, "sic.training.run.History")),
            json.dumps(self.settings.model_dump(), sort_keys=True),
            json.dumps([self.steps, self.seed, dict(self.about)], sort_keys=True),
            weights.fingerprint(codec),
        ):
            digest.update(part.encode())
        for photo in (*self.photos, *self.validation):
            digest.update(photo.digest())
        return digest.hexdigest()


class History:
    """L, bits per pixel and PSNR over the steps, in training and on the validation images.

    ``loss`` is L, ``bpp`` is R(y) + R(z), ``psnr`` is in dB, before rounding, on the edges for (2),
    and NaN where there was no error to measure, as on photos without an edge.  Training rows are
    means over the steps since the row before.
    """

    COLUMNS = ("step", "split", "loss", "bpp", "psnr")

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.recent: list[list[float]] = []

    def add(self, values: Sequence[float]) -> None:
        """Note a training step: L, bpp, mse."""
        self.recent.append(list(values))

    def close(self, step: int, validation: Sequence[float]) -> None:
        """Write a row of the training steps since the last one, and one of the validation images:
        means of L, bpp and mse over them, empty if there are none."""
        for split, values in (("train", self.recent), ("validation", [validation])):
            if values and values[0]:
                total, bpp, mse = np.mean(values, axis=0).tolist()
                psnr = -10 * math.log10(mse) if mse else math.nan
                row = (step, split, total, bpp, psnr)
                self.rows.append(dict(zip(self.COLUMNS, row, strict=True)))
        self.recent = []

    def frame(self) -> pd.DataFrame:
        """The rows, as a table."""
        return pd.DataFrame(self.rows, columns=self.COLUMNS)


class State:
    """What changes during a run: weights and their average, optimisers, the step, the history, and
    how it was made (:func:`sic.work.made`), with the seconds that it took."""

    _PARTS = ("codec", "net", "aux", "schedule")

    def __init__(self, codec: TCM, run: Run) -> None:
        settings = run.settings
        # The bottleneck's quantiles have a loss of their own.
        named = sorted(codec.named_parameters())
        quantiles = [parameter for name, parameter in named if name.endswith(".quantiles")]
        others = [pair for pair in named if not pair[0].endswith(".quantiles")]
        linear = [parameter for name, parameter in others if LINEAR.match(name)]
        rest = [parameter for name, parameter in others if not LINEAR.match(name)]
        rate = settings.learning_rate
        groups: list[dict[str, Any]] = [{"params": rest}]
        groups += [{"params": linear, "lr": rate * settings.linear_rate}]
        self.codec = codec
        self.net: Optimizer = Adam(groups, lr=rate)
        self.aux: Optimizer = Adam(quantiles, lr=settings.aux_learning_rate)
        steps = max(run.steps, 1)
        self.schedule = LambdaLR(self.net, lambda step: rate_factor(step, steps, settings))
        self.average: AveragedModel | None = None
        if settings.ema:
            self.average = AveragedModel(codec, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))
        self.step = 0
        self.made: dict[str, str | float] = {}
        self.history = History()

    @property
    def measured(self) -> TCM:
        """The codec that is validated and kept: the average of the weights, if there is one."""
        if self.average is None:
            return self.codec
        assert isinstance(self.average.module, TCM)
        return self.average.module

    def save(self, folder: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        content = {name: getattr(self, name).state_dict() for name in self._PARTS}
        content |= {"step": self.step, "made": self.made, "history": vars(self.history)}
        if self.average is not None:
            content["average"] = self.average.state_dict()
        write_checkpoint(folder, self.step, content)

    def load(self, folder: Path) -> None:
        """Continue from the newest whole checkpoint, if there is one."""
        content = newest_checkpoint(folder, next(self.codec.parameters()).device)
        if content is None:
            return
        for name in self._PARTS:
            getattr(self, name).load_state_dict(content[name])
        if self.average is not None:
            self.average.load_state_dict(content["average"])
        self.step, self.made = content["step"], content["made"]
        vars(self.history).update(content["history"])
