"""One training loop for every codec of the study.

What differs between SA-ICM, the human LIC, the additional and the difference codec is the loss;
crops, optimisers, validation and checkpoints are the same.  Every random number follows from the
seed and the number of the step, so that a run that was stopped continues as if it never had been.
"""

import hashlib
import inspect
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from compressai.optimizers import net_aux_optimizer
from filelock import FileLock, Timeout
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import MultiStepLR
from torch.utils.data import DataLoader
from tqdm import tqdm

from sic import crops, difference, images, layers, loss, params, scalable, tcm, weights
from sic.crops import Crop, Crops, Photo
from sic.difference import DifferenceCodec
from sic.errors import SicError
from sic.files import replacing, write_text
from sic.loss import Loss, rate_distortion
from sic.scalable import AdditionalCodec
from sic.tcm import TCM

AnyCodec = TypeVar("AnyCodec", bound=TCM)
#: A codec and a batch x (B, 3, h, w), m_x (B, 1, h, w) → the loss of that batch.
StepLoss = Callable[[Any, Tensor, Tensor], Loss]


def device(name: params.Device) -> torch.device:
    """The device that a `device` setting asks for.

    Raises:
        SicError: if it asks for a GPU that is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise SicError("params.yaml asks for device cuda, but no GPU is to be had; set it to auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


# ---- the losses of the four codecs ----------------------------------------------------------


def human_loss(lmbda: float) -> StepLoss:
    """(1): TCM for people alone."""
    return lambda codec, x, m_x: rate_distortion(codec(x), x, lmbda)


def machine_loss(lmbda: float) -> StepLoss:
    """(2): SA-ICM, which sees the edges only."""
    return lambda codec, x, m_x: rate_distortion(codec(x), x, lmbda, m_x)


def additional_loss(base: TCM, lmbda: float) -> StepLoss:
    """(3): the additional codec on the latent of the frozen base."""
    base = base.eval().requires_grad_(False)

    def step_loss(codec: AdditionalCodec, x: Tensor, m_x: Tensor) -> Loss:
        with torch.inference_mode():  # only ŷ is needed: the base's decoder does not run
            y_hat_base, _ = base.code_latent(base.g_a(x))
        return rate_distortion(codec(x, y_hat_base), x, lmbda)

    return step_loss


def difference_loss(base: TCM, lmbda: float) -> StepLoss:
    """The DC model on the 8-bit picture of the frozen base, as its decoder has it."""
    base = base.eval().requires_grad_(False)

    def step_loss(codec: DifferenceCodec, x: Tensor, m_x: Tensor) -> Loss:
        with torch.inference_mode():
            x_hat_t = images.quantise(base(x)["x_hat"])
        return rate_distortion(codec(x, x_hat_t), x, lmbda)

    return step_loss


# ---- a run and its state --------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """All that a training run depends on besides code: equal runs give equal weights.

    Args:
        name: what the run is called in messages and under ``checkpoints/``.
        settings: `train` of params.yaml.
        steps: optimiser steps; 0 takes the codec as it is and only validates it.
        seed: crops and noise follow from it.
        photos, validation: images to train on and to measure on.
        about: anything else that matters (λ, m, the base's fingerprint, …), as JSON.
    """

    name: str
    settings: params.Train
    steps: int
    seed: int
    photos: Sequence[Photo]
    validation: Sequence[Photo]
    about: Mapping[str, Any]

    def fingerprint(self, codec: TCM) -> str:
        """SHA-256 over the settings, the initial weights, the images and the training code."""
        sources = (crops, difference, images, layers, loss, scalable, tcm, inspect.getmodule(Run))
        digest = hashlib.sha256()
        for part in (
            *(inspect.getsource(module) for module in sources if module),
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

    ``loss`` is L, ``bpp`` is R(y) + R(z), ``psnr`` is in dB, before rounding, on the edges for (2).
    Training rows are means over the steps since the row before.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.recent: list[list[float]] = []

    def add(self, losses: Loss) -> None:
        """Note a training step."""
        self.recent.append(_values(losses))

    def close(self, step: int, validation: Sequence[Loss]) -> None:
        """Write a row of the training steps since the last one, and one of the validation set."""
        for split, values in (
            ("train", self.recent),
            ("validation", [_values(losses) for losses in validation]),
        ):
            if values:
                total, bpp, mse = np.mean(values, axis=0).tolist()
                psnr = -10 * math.log10(mse) if mse else math.inf  # no edge in sight
                self.rows.append(
                    {"step": step, "split": split, "loss": total, "bpp": bpp, "psnr": psnr}
                )
        self.recent = []

    def frame(self) -> pd.DataFrame:
        """The rows, as a table."""
        return pd.DataFrame(self.rows, columns=["step", "split", "loss", "bpp", "psnr"])


def _values(losses: Loss) -> list[float]:
    return [losses.total.item(), (losses.bpp_y + losses.bpp_z).item(), losses.mse.item()]


class State:
    """What changes during a run: weights, optimisers, the step, the history."""

    def __init__(self, codec: TCM, run: Run) -> None:
        rates = run.settings.learning_rate, run.settings.aux_learning_rate
        optimisers = net_aux_optimizer(
            codec,
            {"net": {"type": "Adam", "lr": rates[0]}, "aux": {"type": "Adam", "lr": rates[1]}},
        )
        self.codec = codec
        self.net: Optimizer = optimisers["net"]
        self.aux: Optimizer = optimisers["aux"]
        milestones = [round(share * run.steps) for share in run.settings.milestones]
        self.schedule = MultiStepLR(self.net, milestones, gamma=0.1)
        self.step = 0
        self.history = History()

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        content = {name: getattr(self, name).state_dict() for name in self._PARTS}
        content |= {"step": self.step, "history": vars(self.history)}
        with replacing(path) as temporary:
            torch.save(content, temporary)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint."""
        content = torch.load(
            path, weights_only=True, map_location=next(self.codec.parameters()).device
        )
        for name in self._PARTS:
            getattr(self, name).load_state_dict(content[name])
        self.step = content["step"]
        vars(self.history).update(content["history"])

    _PARTS = ("codec", "net", "aux", "schedule")


# ---- the loop -------------------------------------------------------------------------------


def train(
    codec: TCM,
    step_loss: StepLoss,
    run: Run,
    folder: Path = Path("checkpoints"),
    show: Callable[[pd.DataFrame], None] | None = None,
) -> pd.DataFrame:
    """Train a codec in place, or continue a run that was stopped.

    The state of an unfinished run lies in ``folder/<run.name>/<fingerprint>.pt``; :func:`forget`
    removes it when its results are safe.

    Args:
        codec: the codec, with its initial weights; in eval mode on the CPU afterwards.
        step_loss: one of the losses above.
        run: what to train on, and how long.
        folder: where unfinished runs are kept.
        show: called with the history so far after every validation.

    Returns:
        The history: step, split (train or validation), loss, bpp, psnr.

    Raises:
        SicError: if the loss is not finite, a checkpoint cannot be written, or another process
            trains this run.
    """
    state_file = folder / run.name / f"{run.fingerprint(codec)}.pt"
    state_file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(state_file.with_suffix(".lock"), timeout=0):
            return _train(codec, step_loss, run, state_file, show)
    except Timeout:
        raise SicError(
            f"{run.name} is being trained by another process, perhaps left over from a killed run; "
            "wait for it, or end it and run the same command again"
        ) from None


def _train(
    codec: TCM,
    step_loss: StepLoss,
    run: Run,
    state_file: Path,
    show: Callable[[pd.DataFrame], None] | None,
) -> pd.DataFrame:
    """:func:`train`, with the run's lock in hand."""
    on = device(run.settings.device)
    state = State(codec.to(on), run)
    if state_file.exists():
        state.load(state_file)
    saved = time.monotonic()
    if not state.history.rows:
        state.history.close(0, list(_validate(codec, step_loss, run, on)))
    with tqdm(total=run.steps, initial=state.step, desc=run.name, unit="step") as bar:
        for x, m_x in _batches(run, state.step):
            losses = _step(state, step_loss, x.to(on), m_x.to(on), run)
            bar.update()
            bar.set_postfix(loss=f"{losses.total.item():.3f}", refresh=False)
            if state.step % run.settings.validate_every == 0 or state.step == run.steps:
                state.history.close(state.step, list(_validate(codec, step_loss, run, on)))
                if show:
                    show(state.history.frame())
            if time.monotonic() - saved > run.settings.checkpoint_every or state.step == run.steps:
                state.save(state_file)
                saved = time.monotonic()
    codec.eval().cpu()
    return state.history.frame()


def forget(name: str, folder: Path = Path("checkpoints")) -> None:
    """Remove the state of a run whose results are safe."""
    shutil.rmtree(folder / name, ignore_errors=True)


def _batches(run: Run, first_step: int) -> DataLoader[Crop]:
    """The batches of the steps from ``first_step`` on."""
    batch = run.settings.batch
    numbered = Crops(run.photos, run.settings.crop, run.steps * batch, run.seed)
    return DataLoader(numbered, batch, sampler=range(first_step * batch, run.steps * batch))


def _step(state: State, step_loss: StepLoss, x: Tensor, m_x: Tensor, run: Run) -> Loss:
    """One step of both optimisers."""
    # The noise of a step follows from its number: nothing to store for continuing exactly.
    noise_seed = np.random.SeedSequence((run.seed, state.step)).generate_state(1, np.uint64)
    torch.manual_seed(int(noise_seed[0] >> np.uint64(1)))
    state.codec.train()
    losses = step_loss(state.codec, x, m_x)
    if not torch.isfinite(losses.total):
        raise SicError(
            f"{run.name}: the loss is {losses.total.item()} at step {state.step}; lower "
            "train.learning_rate or train.clip in params.yaml"
        )
    state.net.zero_grad()
    state.aux.zero_grad()
    losses.total.backward()
    clip_grad_norm_(state.codec.parameters(), run.settings.clip)
    state.net.step()
    state.codec.aux_loss().backward()
    state.aux.step()
    state.schedule.step()
    state.step += 1
    state.history.add(losses)
    return losses


@torch.no_grad()
def _validate(codec: TCM, step_loss: StepLoss, run: Run, on: torch.device) -> Iterator[Loss]:
    """The loss of each validation image, whole, as the decoder sees it."""
    codec.eval()
    for photo in run.validation:
        x, m_x = crops.tensors(*photo.load(), multiple=images.MULTIPLE)
        yield step_loss(codec, x[None].to(on), m_x[None].to(on))


# ---- what a stage starts from and leaves ----------------------------------------------------

#: Where `init` of params.yaml is looked for; it holds a marker `scratch`, so that DVC can name
#: one file to depend on in either case.
WEIGHTS = Path("data/weights")


def initial(empty: Callable[[], AnyCodec], settings: params.Training, seed: int) -> AnyCodec:
    """The codec a stage starts from: new weights from the seed, or those of a checkpoint.

    A codec may start from any other of its size; an additional one, from the first m slices of
    a base or a LIC.

    Raises:
        SicError: if the checkpoint is not of a size that fits.
    """
    torch.manual_seed(seed)
    codec = empty()
    if settings.init == "scratch":
        return codec
    path = WEIGHTS / settings.init
    start = weights.load(path)
    if isinstance(codec, AdditionalCodec) and not isinstance(start, AdditionalCodec):
        try:
            codec.start_from(start)
        except ValueError as error:
            raise SicError(f"{path}: {error}; change `codec` in params.yaml or `init`") from None
        return codec
    about, wanted = ({**weights.settings(c), "kind": ""} for c in (start, codec))
    if about != wanted:
        raise SicError(
            f"{path} has the sizes {about}, but the stage needs {wanted}; change `codec` in "
            "params.yaml or `init`"
        )
    codec.load_state_dict(start.state_dict())
    return codec


def widths(settings: params.Codec) -> dict[str, Any]:
    """Arguments of TCM, DifferenceCodec and (with m) AdditionalCodec from params.yaml."""
    sizes = settings.model_dump()
    main = {key: sizes.pop(key) for key in ("N", "M", "num_slices")}
    return {**main, "widths": tcm.Widths(**sizes)}


def save(folder: Path, codec: TCM, history: pd.DataFrame, about: Mapping[str, Any]) -> None:
    """Leave a stage's products: ``codec.safetensors`` and ``history.csv``."""
    weights.save(folder / "codec.safetensors", codec, about)
    write_text(folder / "history.csv", history.to_csv(index=False, float_format="%.6g"))
