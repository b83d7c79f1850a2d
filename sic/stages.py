"""The codecs that the study trains: what each starts from, minimises, and leaves.

A notebook of the pipeline trains one of them in one process.  Several GPUs or machines do the same
beforehand, and the stage takes up what they end with::

    torchrun --nproc-per-node 8 -m sic train fusion m=5 quality=q2
    dvc repro fusion@5-q2
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch

from sic import crops, objectives, params, tcm, train, weights
from sic.difference import DifferenceCodec
from sic.errors import SicError
from sic.files import write_text
from sic.objectives import StepLoss
from sic.run import Run
from sic.scalable import AdditionalCodec
from sic.tcm import TCM

AnyCodec = TypeVar("AnyCodec", bound=TCM)

#: `init` that stands for new weights; a marker file, so that DVC has one path to depend on.
SCRATCH = "scratch"
MASKS = Path("data/edges")
ARTIFACTS = Path("artifacts")
BASE = ARTIFACTS / "sa_icm/codec.safetensors"


@dataclass(frozen=True)
class Job:
    """One codec to train.

    Args:
        codec: with its initial weights; :func:`sic.train.train` changes it in place.
        loss: what it minimises.
        run: on what, how long, and all else that the result depends on.
        title: codec and point, for figures.
        start: file of the initial weights, or `scratch`.
    """

    codec: TCM
    loss: StepLoss
    run: Run
    title: str
    start: str

    def train(self, show: Callable[[pd.DataFrame], None] | None = None) -> pd.DataFrame:
        """The history of :func:`sic.train.train`, from the beginning or where it was stopped."""
        return train.train(self.codec, self.loss, self.run, show=show)


def sa_icm(study: params.Params) -> Job:
    """The base, with (2) on the edges of ``data/edges``."""
    stage = study.sa_icm
    codec, start = initial(lambda: TCM(**widths(study.codec)), stage, study.seed, "base")
    about = {"stage": "sa_icm", "lmbda": stage.lmbda}
    run = _run("sa_icm", study, stage, about, MASKS)
    loss = objectives.machine_loss(stage.lmbda)
    return Job(codec, loss, run, f"SA-ICM, λ = {stage.lmbda}", start)


def lic(study: params.Params, quality: str) -> Job:
    """The human LIC at a rate point, with (1)."""
    stage, lmbda = study.lic, _lmbda(study, quality)
    codec, start = initial(lambda: TCM(**widths(study.codec)), stage, study.seed, quality)
    run = _run(f"lic/{quality}", study, stage, {"stage": "lic", "lmbda": lmbda})
    return Job(codec, objectives.human_loss(lmbda), run, f"LIC, λ = {lmbda}", start)


def fusion(study: params.Params, m: int, quality: str) -> Job:
    """The additional codec with m slices at a rate point, with (3), on the frozen base."""
    stage, lmbda = study.fusion, _lmbda(study, quality)
    codec, start = initial(
        lambda: AdditionalCodec(m, **widths(study.codec)), stage, study.seed, f"m{m}-{quality}"
    )
    about = {"stage": "fusion", "m": m, "lmbda": lmbda, "base": _base_fingerprint()}
    run = _run(f"fusion/m{m}-{quality}", study, stage, about)
    loss = objectives.additional_loss(weights.load(BASE), lmbda)
    return Job(codec, loss, run, f"Feature fusion, m = {m}, λ = {lmbda}", start)


def difference(study: params.Params, quality: str) -> Job:
    """The DC model at a rate point, with (3), on the frozen base's picture."""
    stage, lmbda = study.difference, _lmbda(study, quality)
    codec, start = initial(
        lambda: DifferenceCodec(**widths(study.codec)), stage, study.seed, quality
    )
    about = {"stage": "difference", "lmbda": lmbda, "base": _base_fingerprint()}
    run = _run(f"difference/{quality}", study, stage, about)
    loss = objectives.difference_loss(weights.load(BASE), lmbda)
    return Job(codec, loss, run, f"Difference codec, λ = {lmbda}", start)


def finish(job: Job, history: pd.DataFrame) -> None:
    """Leave ``codec.safetensors`` and ``history.csv`` in ``artifacts/<run.name>``; the checkpoints
    of the run are not needed any more and go."""
    run, folder = job.run, ARTIFACTS / job.run.name
    origin = dict(run.about) | {"init": job.start, "steps": run.steps, "seed": run.seed}
    origin |= {"photos": len(run.photos), "train": run.settings.model_dump()}
    weights.save(folder / "codec.safetensors", job.codec, origin)
    write_text(folder / "history.csv", history.to_csv(index=False, float_format="%.6g"))
    train.forget(run.name)


def initial(
    empty: Callable[[], AnyCodec], settings: params.Training, seed: int, item: str
) -> tuple[AnyCodec, str]:
    """The codec a stage starts from: new weights from the seed, or those of a checkpoint.

    A codec may start from any other of its size; an additional one, from the first m slices of
    a base, a LIC, or an additional codec that has as many.

    Args:
        empty: makes the codec.
        settings: of the stage; `init` is a checkpoint, a folder that has one for each item
            (``<item>.safetensors``), or ends in `scratch`.
        seed: of new weights.
        item: the stage's item: `q2`, `m5-q2`, ….

    Returns:
        The codec, and the file it started from, or `scratch`.

    Raises:
        SicError: if the checkpoint is not there, or not of a size that fits.
    """
    torch.manual_seed(seed)
    codec = empty()
    path = Path(settings.init)
    if path.name == SCRATCH:
        return codec, SCRATCH
    if path.is_dir():
        path = _of_item(path, item)
    _take(codec, weights.load(path), path)
    return codec, str(path)


def _of_item(folder: Path, item: str) -> Path:
    """The checkpoint of an item in a folder that has one for each."""
    path = folder / f"{item}.safetensors"
    if not path.is_file():
        others = ", ".join(sorted(file.stem for file in folder.glob("*.safetensors")))
        there = f"only {others}" if others else "nor any other"
        raise SicError(
            f"init: {folder} has no {path.name}, {there}; add it, or set `init` to one file, or to "
            f"data/weights/{SCRATCH}"
        )
    return path


def _take(codec: TCM, start: TCM, path: Path) -> None:
    if isinstance(codec, AdditionalCodec):
        try:
            codec.start_from(start)
        except ValueError as error:
            raise SicError(f"{path}: {error}; change `codec` in params.yaml or `init`") from None
        return
    about, wanted = ({**weights.settings(c), "kind": ""} for c in (start, codec))
    if about != wanted:
        raise SicError(
            f"{path} has the sizes {about}, but the stage needs {wanted}; change `codec` in "
            "params.yaml or `init`"
        )
    codec.load_state_dict(start.state_dict())


def widths(settings: params.Codec) -> dict[str, Any]:
    """Arguments of TCM, DifferenceCodec and (with m) AdditionalCodec from params.yaml."""
    sizes = settings.model_dump()
    main = {key: sizes.pop(key) for key in ("N", "M", "num_slices")}
    return {**main, "widths": tcm.Widths(**sizes)}


def _lmbda(study: params.Params, quality: str) -> float:
    if quality not in study.quality:
        known = ", ".join(study.quality)
        raise SicError(f"params.yaml has no rate point {quality}: there are {known}")
    return study.quality[quality].lmbda


def _base_fingerprint() -> str:
    found: str = weights.metadata(BASE)["fingerprint"]
    return found


def _run(
    name: str,
    study: params.Params,
    stage: params.Training,
    about: Mapping[str, Any],
    masks: Path | None = None,
) -> Run:
    return Run(
        name=name,
        settings=study.train,
        steps=stage.budget,
        seed=study.seed,
        photos=crops.photos("train", study.data, masks),
        validation=crops.photos("validation", study.data, masks),
        about=about,
    )


def job(study: params.Params, words: Sequence[str]) -> Job:
    """The job that words name: ``fusion m=5 quality=q2``, ``sa_icm``, ….

    Raises:
        SicError: for words that name none.
    """
    makers: dict[str, Callable[..., Job]] = {
        "sa_icm": sa_icm,
        "lic": lic,
        "fusion": fusion,
        "difference": difference,
    }
    items = {"sa_icm": set(), "fusion": {"m", "quality"}}
    name, *rest = words or [""]
    given = dict(word.partition("=")[::2] for word in rest)
    if name not in makers or set(given) != items.get(name, {"quality"}):
        raise SicError(
            f"no codec {' '.join(words)!r}; name one of: sa_icm | lic quality=q2 | "
            "fusion m=3 quality=q2 | difference quality=q2"
        )
    values: dict[str, Any] = dict(given)
    if "m" in values:
        if values["m"] not in map(str, range(1, study.codec.num_slices + 1)):
            raise SicError(f"m={values['m']} must lie between 1 and {study.codec.num_slices}")
        values["m"] = int(values["m"])
    return makers[name](study, **values)
