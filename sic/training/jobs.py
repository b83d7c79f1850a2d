"""The codecs that the study trains: what each starts from, minimises, and leaves.

A notebook of the pipeline trains one of them in one process.  Several GPUs or machines do the same
beforehand, and the stage takes up what they end with::

    torchrun --nproc-per-node 8 -m sic train fusion/m5-q2
    dvc repro fusion@m5-q2
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch

from sic import params, work
from sic.codec import loss as losses
from sic.codec import principal, tcm, weights
from sic.codec.fusion import AdditionalCodec, DifferenceCodec
from sic.codec.loss import StepLoss
from sic.codec.tcm import TCM
from sic.data import crops
from sic.data.crops import Crops
from sic.errors import SicError
from sic.files import write_text
from sic.training import loop
from sic.training.run import Run
from sic.work import ARTIFACTS, WEIGHTS, checkpoint

AnyCodec = TypeVar("AnyCodec", bound=TCM)
#: `init` that stands for new weights: at random, or with transforms of principal components.  They
#: are marker files, so that DVC has one path to depend on.
SCRATCH, PRINCIPAL = "scratch", "principal"
#: Patches of the training photos whose principal components are taken.
_PATCHES = 4096
_METHODS = {
    "fusion": "Feature fusion",
    "FR": "Feature residual",
    "conditional FR": "Conditional FR",
}


@dataclass(frozen=True)
class Job:
    """One codec to train: with its initial weights, which training changes in place, the loss that
    it minimises, the run with all else that the result depends on, a title for figures, and the
    file that it starts from, or `scratch` or `principal`."""

    codec: TCM
    loss: StepLoss
    run: Run
    title: str
    start: str

    def train(self, show: Callable[[pd.DataFrame], None] | None = None) -> pd.DataFrame:
        """The history of :func:`sic.training.loop.train`, begun or taken up where it stopped."""
        return loop.train(self.codec, self.loss, self.run, show=show)

    def past(self) -> pd.DataFrame | None:
        """The history of the run that made the file it starts from; None if that did not come
        along."""
        path = Path(self.start).with_name("history.csv")
        path = path if path.is_file() else Path(self.start).with_suffix(".csv")
        return pd.read_csv(path) if path.is_file() else None

    def without_edges(self) -> list[str]:
        """The validation photos whose edge mask is empty: on these no error is seen."""
        return [p.image.name for p in self.run.validation if not p.has_edges()]


def job(study: params.Params, name: str) -> Job:
    """The job of a codec by its name: ``sa_icm/q3``, ``lic/q2``, ``fusion/m5-q2``, ….  Raises
    SicError for a name that params.yaml does not ask for."""
    if name not in study.codecs:
        raise SicError(f"params.yaml trains no codec {name!r}: there are {', '.join(study.codecs)}")
    stage, _, item = name.partition("/")
    sizes = widths(study.codec)
    if stage == "sa_icm":  # the base, with (2) on the edges
        lmbda = study.quality[item].lmbda
        codec, start = initial(lambda: TCM(**sizes), study.sa_icm, study.seed, item)
        run = _run(name, study, study.sa_icm, {"lmbda": lmbda}, Path("data/edges"))
        return Job(codec, losses.machine_loss(lmbda), _on_edges(run), f"SA-ICM, λ = {lmbda}", start)
    if stage == "lic":  # the human LIC, with (1)
        lmbda = study.quality[item].lmbda
        codec, start = initial(lambda: TCM(**sizes), study.lic, study.seed, item)
        run = _run(name, study, study.lic, {"lmbda": lmbda})
        if start == PRINCIPAL:
            patches = Crops(run.photos, principal.PATCH, _PATCHES, study.seed)
            x = torch.stack([patches[number][0] for number in range(_PATCHES)])
            principal.start(codec, x, lmbda)
        return Job(codec, losses.human_loss(lmbda), run, f"LIC, λ = {lmbda}", start)
    base = weights.load(checkpoint(study.base))
    on = {"base": weights.fingerprint(base)}
    if stage == "fusion":  # the additional codec with m slices, with (3), on the frozen base
        asked = study.fusion.codecs[item]
        m, lmbda = asked.m, study.quality[asked.quality].lmbda
        kind = asked.model_dump(include={"residual", "condition"})
        codec, start = initial(
            lambda: AdditionalCodec(m, **sizes, **kind), study.fusion, study.seed, item
        )
        _check_taken(start, study.fusion, on["base"], study.base)
        about = {"m": m, "lmbda": lmbda} | (kind if asked.residual != "none" else {}) | on
        run = _run(name, study, study.fusion, about)
        title = f"{_METHODS[asked.method]}, m = {m}, λ = {lmbda}"
        return Job(codec, losses.additional_loss(base, lmbda), run, title, start)
    # The DC model, with (3), on the frozen base's picture.
    lmbda = study.quality[item].lmbda
    codec, start = initial(lambda: DifferenceCodec(**sizes), study.difference, study.seed, item)
    _check_taken(start, study.difference, on["base"], study.base)
    run = _run(name, study, study.difference, {"lmbda": lmbda} | on)
    title = f"Difference codec, λ = {lmbda}"
    return Job(codec, losses.difference_loss(base, lmbda), run, title, start)


def _check_taken(start: str, settings: params.Training, base: str, name: str) -> None:
    """A second layer that is taken as it is must have been trained on the base of that fingerprint;
    what published checkpoints were trained on is not known."""
    if settings.train:
        return
    if weights.metadata(Path(start))["origin"].get("base") not in (None, base):
        raise SicError(
            f"{start} was trained on another base than {checkpoint(name)}, which `sa_icm.base` "
            "names; name its own base there, take that as it is, too (`sa_icm.train: false`), or "
            "train the second layer (`train: true`)"
        )


def _run(
    name: str,
    study: params.Params,
    stage: params.Training,
    about: dict[str, Any],
    masks: Path | None = None,
) -> Run:
    settings = study.train
    if masks:  # a base must leave the linear code, which sends the whole picture
        settings = settings.model_copy(update={"linear_rate": 1.0})
    return Run(
        name=name,
        settings=settings,
        steps=stage.budget,
        seed=study.seed,
        photos=crops.photos("train", study.data, masks),
        validation=crops.photos("validation", study.data, masks),
        about={"stage": name.partition("/")[0]} | about,
        machine=study.machine,
    )


def _on_edges(run: Run) -> Run:
    """The run without the photos whose mask is empty: they teach (2) to send nothing.  Raises
    SicError if no training photo is left."""
    photos = [photo for photo in run.photos if photo.has_edges()]
    validation = [photo for photo in run.validation if photo.has_edges()]
    if run.photos and not photos:
        raise SicError("no training photo has an edge; lower edges.alpha in params.yaml")
    return replace(run, photos=photos, validation=validation or run.validation)


def finish(job: Job, history: pd.DataFrame) -> None:
    """Leave ``codec.safetensors`` and ``history.csv`` in ``artifacts/<run.name>``, and beside them,
    in :func:`sic.work.record`, how they were made; the checkpoints of the run are not needed any
    more and go.  With ``train.half`` the codec is rounded first, in place."""
    run, path = job.run, checkpoint(job.run.name)
    if run.settings.half:
        round_to_half(job.codec)
    origin = dict(run.about) | {"init": job.start, "steps": run.steps, "seed": run.seed}
    origin |= {"photos": len(run.photos), "train": run.settings.model_dump()}
    weights.save(path, job.codec, origin)
    write_text(path.with_name("history.csv"), history.to_csv(index=False, float_format="%.6g"))
    if history.attrs:
        _keep(work.record(run.name), history.attrs, path)
    loop.forget(run.name)


def _keep(file: Path, made: Mapping[Any, Any], codec: Path) -> None:
    """Write how a codec was made, with the fingerprint of the weights that this is true of."""
    about = {**made, "fingerprint": weights.metadata(codec)["fingerprint"]}
    write_text(file, json.dumps(about, indent=2, ensure_ascii=False) + "\n")


def _made(file: Path, codec: Path) -> dict[str, Any]:
    """What :func:`_keep` wrote of just these weights; empty if it did not."""
    found: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    return found if found.get("fingerprint") == weights.metadata(codec)["fingerprint"] else {}


def initial(
    empty: Callable[[], AnyCodec], settings: params.Training, seed: int, item: str
) -> tuple[AnyCodec, str]:
    """The codec a stage starts from, and the file it started from, or `scratch` or `principal`: new
    weights from the seed, or those of a checkpoint.

    A codec may start from any other of its size; an additional one, from the first m slices of a
    base, a LIC, or an additional codec that has as many.  `init` of the settings is a checkpoint, a
    folder that has one for each item (`q2.safetensors`, `m5-q2.safetensors`, …), or ends in
    `scratch` or `principal`.  Raises SicError if the checkpoint is not there, or not of a size that
    fits.
    """
    torch.manual_seed(seed)
    codec = empty()
    path = Path(settings.init)
    if path.name in (SCRATCH, PRINCIPAL):
        return codec, path.name
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
        remedy = f"add it, or set `init` to one file, or to data/weights/{SCRATCH}"
        raise SicError(f"init: {folder} has no {path.name}, {there}; {remedy}")
    return path


def _take(codec: TCM, start: TCM, path: Path) -> None:
    wanted, found = _sizes(codec), _sizes(start)
    if differing := [key for key in wanted if wanted[key] != found[key]]:
        here = ", ".join(f"codec.{key}: {wanted[key]}" for key in differing)
        there = ", ".join(f"{key} {found[key]}" for key in differing)
        raise SicError(
            f"params.yaml has {here}, but {path} was trained with {there}; set "
            f"`init: data/weights/{SCRATCH}` there to begin with new weights, or the sizes back"
        )
    if isinstance(codec, AdditionalCodec):
        try:
            codec.start_from(start)
        except ValueError as error:
            raise SicError(f"{path}: {error}; name another file in `init`") from None
    elif isinstance(start, AdditionalCodec):
        raise SicError(f"{path} holds {weights.label(start)}, from which only its like can start")
    else:
        codec.load_state_dict(start.state_dict())


def _sizes(codec: TCM) -> dict[str, Any]:
    """A codec's sizes, of an additional one its base's, under their names in params.yaml."""
    found = weights.settings(codec)
    return {key: found[key] for key in ("N", "M", "num_slices")} | found["widths"]


def widths(settings: params.Codec) -> dict[str, Any]:
    """Arguments of TCM, DifferenceCodec and (with m) AdditionalCodec from params.yaml."""
    sizes = settings.model_dump()
    main = {key: sizes.pop(key) for key in ("N", "M", "num_slices")}
    return {**main, "widths": tcm.Widths(**sizes)}


def ship(
    names: list[str], study: params.Params, artifacts: Path = ARTIFACTS, folder: Path = WEIGHTS
) -> Path:
    """Round trained codecs to float16 and write ``folder/<name>.safetensors`` and the file of the
    cards, which describes every codec that is there and is returned.

    Rounding halves the files and changes pictures less than training noise does.  Bases are
    shipped first; ``train.half`` lets what builds on one train on just the weights that stand
    beside it.  Codecs that were shipped before keep their files.  Raises SicError for a name that
    is no codec, and for a codec that has not been trained, or on another base than the one that is
    shipped; nothing is written then.
    """
    known = study.codecs
    if unknown := [name for name in names if name not in known]:
        raise SicError(f"no codec {unknown[0]} in params.yaml: there are {', '.join(known)}")
    names = sorted(names, key=known.index)
    files = {name: folder / f"{name}.safetensors" for name in known}
    for name in known:  # the cards will describe them
        if name not in names and files[name].is_file():
            weights.metadata(files[name])
    ready, rounded = dict[str, tuple[dict[str, Any], pd.DataFrame]](), dict[str, str]()
    for name in names:
        source = checkpoint(name, artifacts)
        origin: dict[str, Any] = weights.metadata(source)["origin"]
        rounded[name] = weights.fingerprint(round_to_half(weights.load(source)))
        _check_base(source, origin, files[study.base], rounded.get(study.base))
        if not (path := source.with_name("history.csv")).is_file():
            raise SicError(f"no {path}: {source} was not trained here; copy it to {files[name]}")
        history = pd.read_csv(path)
        last = history[history.split == "validation"].iloc[-1]
        measured = last[["loss", "bpp", "psnr"]].dropna()  # no PSNR where there was no edge
        origin["validation"] = {str(key): float(value) for key, value in measured.items()}
        ready[name] = origin, history
    for name, (origin, history) in ready.items():
        source = checkpoint(name, artifacts)
        write_text(folder / f"{name}.csv", history.to_csv(index=False))
        weights.save(files[name], round_to_half(weights.load(source)), origin)
        if made := _made(work.record(name, artifacts), source):
            _keep(work.record(name, folder), made, files[name])
    cards = folder / "cards.md"
    write_text(cards, _cards([name for name in known if files[name].is_file()], folder))
    return cards


@torch.no_grad()
def round_to_half(codec: AnyCodec) -> AnyCodec:
    """Round every parameter to the nearest value that float16 holds, in place; give the codec."""
    for parameter in codec.parameters():
        parameter.copy_(parameter.half().float())
    return codec


def _check_base(source: Path, origin: dict[str, Any], shipped: Path, now: str | None) -> None:
    # The base that stands there, or that will: `now` is its fingerprint if it is shipped as well.
    if "base" in origin and origin["base"] != (now or weights.metadata(shipped)["fingerprint"]):
        raise SicError(
            f"{source} was trained on another base than {shipped}; train both with `train.half: "
            "true`, and ship the base first"
        )


def _cards(names: list[str], folder: Path) -> str:
    """One row per codec, from the metadata of its file and the record of how it was made.  Weights
    that were imported, or not shipped from here, have dashes for what is not known of them."""
    head = (
        *("file", "λ", "steps", "from", "photos", "batch × crop", "learning rate", "seed"),
        *("validation bpp", "PSNR (dB)", "parameters", "bytes", "fingerprint", "made by"),
    )
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name in names:
        path = folder / f"{name}.safetensors"
        about = weights.metadata(path)
        origin, tested = about["origin"], about["origin"].get("validation")
        source = f"imported: {origin['imported']}" if "imported" in origin else "–"
        training = "{batch} × {crop}²", "{learning_rate:g} {schedule}"
        cells = (
            f"`{name}.safetensors`",
            origin.get("lmbda", "–"),
            origin.get("steps", "–"),
            origin.get("init", source),
            origin.get("photos", "–"),
            *(cell.format(**origin["train"]) if "train" in origin else "–" for cell in training),
            origin.get("seed", "–"),
            f"{tested['bpp']:.3f}" if tested else "–",
            f"{tested.get('psnr', math.nan):.2f}" if tested else "–",
            f"{sum(p.numel() for p in weights.build(about['settings']).parameters()):,}",
            f"{path.stat().st_size:,}",
            f"`{about['fingerprint'][:16]}`",
            _by(_made(work.record(name, folder), path)),
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def _by(made: Mapping[str, Any]) -> str:
    """The cell of a card on command, commit, time and device."""
    if not made:
        return "not recorded"
    where = f"{made['commit'] or 'no git'}, {made['seconds']:,.0f} s, {made['device']}"
    return f"`{made['command']}` ({where})"
