"""One training loop for every codec of the study; only the loss differs between them.

Every random number follows from the seed, the number of the step and the part of the batch, so that
a run that was stopped continues as if it never had been, and several processes compute what one
would.  Started by torchrun or SLURM, they share the parts of each batch (data parallel, through
Lightning Fabric).
"""

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader

from sic import images, params, progress, work
from sic.codec.loss import Loss, StepLoss
from sic.codec.tcm import TCM
from sic.data import crops
from sic.data.crops import Crop, Crops
from sic.errors import SicError
from sic.training.run import Run, State
from sic.work import Worker, threads

if TYPE_CHECKING:  # importing it takes as long as PyTorch and all else together
    from lightning_fabric import Fabric


def fabric(settings: params.Train, on: torch.device) -> "Fabric":
    """This process among those that train one codec together on such a device; alone unless
    torchrun or SLURM started several.  Raises SicError if the batch cannot be shared evenly, the
    device is not there, or the environment does not say where the other processes are."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment

    worker = Worker.from_environment()
    if settings.accumulate % (n := worker.size):
        alone = "if this process is alone, start it with `srun --ntasks=1` or without srun; else "
        raise SicError(
            f"train.accumulate is {settings.accumulate}, which {n} processes cannot share evenly; "
            f"{'' if 'RANK' in os.environ else alone}set it to a multiple of {n} in params.yaml "
            "(the codec does not depend on how many processes compute it)"
        )
    mixed = settings.precision == "bf16-mixed"
    if mixed and on.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise SicError("this GPU has no bfloat16; set train.precision to float32 in params.yaml")
    local = 1
    if worker.size > 1:
        os.environ.update(_places(worker))
        local = int(os.environ["LOCAL_WORLD_SIZE"])
    joined = Fabric(
        accelerator=on.type,
        devices=local,
        num_nodes=worker.size // local,
        strategy="ddp" if worker.size > 1 else "auto",
        precision="bf16-mixed" if mixed else "32-true",
        # Fabric's own guess goes by the job's name, and takes a process on its own inside of a
        # SLURM job for one of the job's tasks.
        plugins=TorchElasticEnvironment() if worker.size > 1 else LightningEnvironment(),
    )
    joined.launch()
    return joined


def _places(worker: Worker) -> dict[str, str]:
    """The variables by which processes find each other, as torchrun sets them; srun's processes
    meet on the step's first machine, at a port of the step's number."""
    here = dict(os.environ)
    if "RANK" not in here:
        from lightning_fabric.plugins.environments import SLURMEnvironment

        # A step of a SLURM job may have fewer machines than the job.
        nodes = here.get("SLURM_STEP_NUM_NODES", here.get("SLURM_NNODES", "1"))
        machines = here.get("SLURM_STEP_NODELIST", here.get("SLURM_NODELIST", "127.0.0.1"))
        port = int(here.get("SLURM_JOB_ID", 0)) + int(here["SLURM_STEP_ID"])
        here.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(machines))
        here.setdefault("MASTER_PORT", str(10000 + port % 10000))
        here |= {"RANK": f"{worker.rank}", "WORLD_SIZE": f"{worker.size}"}
        here |= {"LOCAL_RANK": f"{worker.local_rank}"}
        here |= {"LOCAL_WORLD_SIZE": f"{worker.size / int(nodes):g}"}
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if missing := [name for name in names if name not in here]:
        raise SicError(
            f"{worker.size} processes are to train together, and the environment has no "
            f"{', '.join(missing)}; start them with torchrun"
        )
    local = here["LOCAL_WORLD_SIZE"]
    if not local.isdecimal() or int(local) < 1 or worker.size % int(local):
        raise SicError(
            f"{worker.size} processes cannot train together with {local} on each machine; start "
            "as many on every machine"
        )
    return {name: here[name] for name in names}


def train(
    codec: TCM,
    step_loss: StepLoss,
    run: Run,
    folder: Path = Path("checkpoints"),
    show: Callable[[pd.DataFrame], None] | None = None,
) -> pd.DataFrame:
    """Train a codec in place, or continue a run that was stopped; returns the history: step, split
    (train or validation), loss, bpp, psnr; its ``attrs`` say how (:func:`sic.work.made`) and in how
    many ``seconds`` the codec was trained, and are empty if it was not.

    The codec comes with its initial weights, and is in eval mode on the CPU afterwards.  The state
    of an unfinished run lies in ``folder/<run.name>/<fingerprint>/``; :func:`forget` removes it
    when its results are safe.  ``show`` is called with the history so far after every validation.
    Raises SicError if the loss is not finite, a checkpoint cannot be written, or another process
    trains this run.
    """
    joined = fabric(run.settings, work.device(run.machine.device))
    here = folder / run.name / run.fingerprint(codec)
    here.mkdir(parents=True, exist_ok=True)
    # One process holds the run for all that train it together.
    alone = FileLock(here.with_suffix(".lock"), timeout=0) if joined.is_global_zero else None
    try:
        with alone or nullcontext(), threads(codec.N):
            return _train(codec, step_loss, run, here, show, joined)
    except Timeout:
        raise SicError(
            f"{run.name} is being trained by another process, perhaps left over from a killed run; "
            "wait for it, or end it and run the same command again"
        ) from None


def _train(
    codec: TCM,
    step_loss: StepLoss,
    run: Run,
    folder: Path,
    show: Callable[[pd.DataFrame], None] | None,
    joined: "Fabric",
) -> pd.DataFrame:
    """:func:`train`, with the run's lock in hand."""
    state = State(codec.to(joined.device), run)
    state.load(folder)
    codec.recompute(run.machine.recompute)
    made = work.made(run.name, joined.device, joined.world_size)
    saved = time.monotonic()
    began = saved - float(state.made.get("seconds", 0))
    if not state.history.rows:
        state.history.close(0, _validate(state, step_loss, run, joined))
    parts = iter(_parts(run, state.step, joined))
    first = joined.is_global_zero
    with progress.bar(
        total=run.steps, initial=state.step, desc=run.name, unit="step", disable=not first
    ) as bar:
        while state.step < run.steps:
            total = _step(state, step_loss, parts, run, joined)
            bar.update()
            bar.set_postfix(loss=f"{total:.3f}", refresh=False)
            last = state.step == run.steps
            if state.step % run.machine.validate_every == 0 or last:
                state.history.close(state.step, _validate(state, step_loss, run, joined))
                if show:
                    show(state.history.frame())
            due = last or time.monotonic() - saved > run.machine.checkpoint_every
            if first and due:
                state.made = made | {"seconds": round(time.monotonic() - began, 1)}
                state.save(folder)
                saved = time.monotonic()
    joined.barrier()
    codec.load_state_dict(state.measured.state_dict())
    codec.recompute(False)
    codec.eval().cpu()
    history = state.history.frame()
    history.attrs.update(state.made)
    return history


def forget(name: str, folder: Path = Path("checkpoints")) -> None:
    """Remove the state of a run whose results are safe."""
    shutil.rmtree(folder / name, ignore_errors=True)


def _parts(run: Run, first_step: int, joined: "Fabric") -> DataLoader[Crop]:
    """The parts of the batches that this process computes, from ``first_step`` on, to be read once;
    part p of step s has the crops s·batch + p·size … + size − 1, whoever computes it."""
    settings = run.settings
    size = settings.batch // settings.accumulate
    firsts = (
        step * settings.batch + part * size
        for step in range(first_step, run.steps)
        for part in range(joined.global_rank, settings.accumulate, joined.world_size)
    )
    return DataLoader(
        Crops(run.photos, settings.crop, run.steps * settings.batch, run.seed),
        batch_sampler=(list(range(first, first + size)) for first in firsts),
        num_workers=run.machine.workers,
        pin_memory=joined.device.type == "cuda",
    )


def _step(
    state: State, step_loss: StepLoss, parts: Iterator[Crop], run: Run, joined: "Fabric"
) -> float:
    """One step of both optimisers; returns L.  Gradients are averaged in one all-reduce rather than
    by DDP's hooks: those cannot tell the gradients of L from those of the bottleneck's auxiliary
    loss."""
    settings = run.settings
    state.codec.train()
    state.net.zero_grad()
    state.aux.zero_grad()
    values = torch.zeros(3, dtype=torch.float64, device=joined.device)
    for part in range(joined.global_rank, settings.accumulate, joined.world_size):
        _seed(run.seed, state.step, part)
        x, m_x = (tensor.to(joined.device, non_blocking=True) for tensor in next(parts))
        with joined.autocast():
            losses = step_loss(state.codec, x, m_x)
        (losses.total / settings.accumulate).backward()
        values += _values(losses) / settings.accumulate
    _add_up_gradients(state.codec, joined)
    total, bpp, mse = _sum(values, joined).tolist()
    if not math.isfinite(total):
        raise SicError(
            f"{run.name}: the loss is {total} at step {state.step}; lower "
            "train.learning_rate or train.clip in params.yaml"
        )
    clip_grad_norm_(state.codec.parameters(), settings.clip)
    state.net.step()
    state.codec.aux_loss().backward()
    state.aux.step()
    state.schedule.step()
    state.step += 1
    if state.average is not None:
        state.average.update_parameters(state.codec)
    state.history.add((total, bpp, mse))
    return total


def _seed(seed: int, step: int, part: int) -> None:
    """The noise of a part of a step follows from its numbers: nothing to store for continuing."""
    drawn = np.random.SeedSequence((seed, step, part)).generate_state(1, np.uint64)
    torch.manual_seed(int(drawn[0] >> np.uint64(1)))


def _add_up_gradients(codec: TCM, joined: "Fabric") -> None:
    """Sum gradients over the processes, in place."""
    if joined.world_size > 1:
        grads = [p.grad for p in codec.parameters() if p.grad is not None]
        flat = _sum(torch.cat([grad.flatten() for grad in grads]), joined)
        for grad, summed in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            grad.copy_(summed.view_as(grad))


def _sum(tensor: Tensor, joined: "Fabric") -> Tensor:
    return cast(Tensor, joined.all_reduce(tensor, reduce_op="sum"))


def _values(losses: Loss) -> Tensor:
    """L, bpp, mse."""
    parts = (losses.total, losses.bpp_y + losses.bpp_z, losses.mse)
    return torch.stack([part.detach().double() for part in parts])


@torch.no_grad()
def _validate(state: State, step_loss: StepLoss, run: Run, joined: "Fabric") -> list[float]:
    """Means of L, bpp and mse over the validation images, whole, as the decoder sees them."""
    if not run.validation:
        return []
    codec = state.measured.eval()
    values = torch.zeros(3, dtype=torch.float64, device=joined.device)
    for photo in run.validation[joined.global_rank :: joined.world_size]:
        x, m_x = crops.tensors(*photo.load(), multiple=images.MULTIPLE)
        x, m_x = x[None].to(joined.device), m_x[None].to(joined.device)
        values += _values(step_loss(codec, x, m_x))
    means: list[float] = (_sum(values, joined) / len(run.validation)).tolist()
    return means
