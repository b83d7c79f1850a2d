"""Training: the crops, the losses of the four codecs, exact continuation, and what can go wrong."""

import math
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from PIL import Image
from skimage import data as photos_of_skimage
from small import SIZES

from sic import params
from sic.codec import loss as losses
from sic.codec import weights
from sic.codec.loss import Loss
from sic.codec.tcm import TCM
from sic.data.crops import Crops, Photo, tensors
from sic.errors import SicError
from sic.training import jobs, loop
from sic.training.run import newest_checkpoint
from sic.work import Worker

STUDY = params.load(Path(__file__).parents[1] / "params.yaml")
# The rate is one for new weights, not for shipped ones.
SETTINGS = STUDY.train.model_copy(update={"batch": 2, "learning_rate": 1e-4})
MACHINE = STUDY.machine.model_copy(
    update={"validate_every": 2, "checkpoint_every": 1e-9, "device": "cpu"}
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Photo]:
    """Two crops of a real photo with masks of their left halves."""
    folder = tmp_path_factory.mktemp("photos")
    found = []
    for number, window in enumerate((np.s_[:160, :200], np.s_[100:228, 200:300])):
        picture = photos_of_skimage.chelsea()[window]
        mask = np.zeros(picture.shape[:2], dtype=bool)
        mask[:, : mask.shape[1] // 2] = True
        image_file, mask_file = folder / f"{number}.png", folder / f"{number}-mask.png"
        Image.fromarray(picture).save(image_file)
        Image.fromarray(mask).save(mask_file)
        found.append(Photo(image_file, f"sha-{number}", mask_file))
    return found


def a_run(photos: list[Photo], **changes: Any) -> loop.Run:
    about: dict[str, Any] = {
        "name": "lic/q1",
        "settings": SETTINGS,
        "steps": 4,
        "seed": 0,
        "photos": photos,
        "validation": photos[:1],
        "about": {"lmbda": 0.01},
        "machine": MACHINE,
    }
    return loop.Run(**{**about, **changes})


def a_codec(seed: int = 0) -> TCM:
    torch.manual_seed(seed)
    return TCM(**SIZES)


# ---- crops ----


def test_a_crop_follows_from_its_number_and_the_seed(photos: list[Photo]) -> None:
    crops = Crops(photos, 128, 100, seed=3)
    again = Crops(photos, 128, 100, seed=3)
    for index in (17, 3, 99):
        assert all(map(torch.equal, crops[index], again[index]))
    other = Crops(photos, 128, 100, seed=4)
    assert any(not torch.equal(crops[i][0], other[i][0]) for i in range(10))


def test_a_worker_that_is_not_forked_gets_the_same_crops(photos: list[Photo]) -> None:
    """Where processes are spawned (macOS, and Linux from Python 3.14 on) they travel by pickle."""
    crops = Crops(photos, 128, 100, seed=3)
    before = crops[17]  # and the photo stays decoded, here
    sent = pickle.loads(pickle.dumps(crops))
    assert len(sent) == 100
    assert all(map(torch.equal, sent[17], before))
    assert len(pickle.dumps(crops)) < 10_000, "paths are sent, and no pixels"


def test_an_epoch_shows_every_photo_once(photos: list[Photo]) -> None:
    crops = Crops(photos, 128, 100, seed=0)
    for epoch in range(10):
        narrow = [has_repeated_border(crops[2 * epoch + place][0]) for place in (0, 1)]
        assert sorted(narrow) == [False, True]


def test_a_seed_gives_the_crops_that_it_always_gave(photos: list[Photo]) -> None:
    """What weights were trained on must not change: the formula, written out."""
    crops = Crops(photos, 128, 100, seed=3)
    for index in (0, 1, 2, 17, 3, 99, 98):
        epoch, place = divmod(index, len(photos))
        order = np.random.default_rng((3, epoch)).permutation(len(photos))
        image, _ = photos[order[place]].load()
        rng = np.random.default_rng((3, epoch, place))
        top, left = (int(rng.integers(max(side - 128, 0) + 1)) for side in image.shape[:2])
        x, _ = tensors(image[top : top + 128, left : left + 128], np.ones((128, 128)), 128)
        assert torch.equal(crops[index][0], x.flip(-1) if rng.random() < 0.5 else x)


def test_an_epoch_is_put_in_order_once(
    photos: list[Photo], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 118,287 images an order takes a millisecond or two, and each crop asks for one."""
    drawn: list[int] = []

    class Counting(np.random.Generator):
        def permutation(self, *arguments: Any, **options: Any) -> Any:
            drawn.append(arguments[0])
            return super().permutation(*arguments, **options)

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Counting(np.random.PCG64(seed)))
    crops = Crops(photos * 50, 128, 300, seed=3)
    for index in range(0, 300, 3):  # as one of three processes, or workers
        crops[index]
    assert drawn == [100] * 3


def has_repeated_border(x: torch.Tensor) -> bool:
    """As the crops of the second photo have: it is 100 pixels wide and padded (maybe flipped)."""
    return torch.equal(x[..., 0], x[..., 1]) or torch.equal(x[..., -1], x[..., -2])


def test_a_crop_is_a_piece_of_the_photo_with_its_mask(photos: list[Photo]) -> None:
    image, mask = photos[0].load()
    pieces = np.lib.stride_tricks.sliding_window_view(image, (128, 128, 3)).reshape(-1, 128, 128, 3)
    marks = np.lib.stride_tricks.sliding_window_view(mask, (128, 128)).reshape(-1, 128, 128)
    x, m_x = Crops(photos[:1], 128, 10, seed=1)[0]
    for image_piece, mask_piece in ((x, m_x), (x.flip(-1), m_x.flip(-1))):
        wanted = (image_piece * 255).round().byte().permute(1, 2, 0).numpy()
        places = [i for i, piece in enumerate(pieces) if np.array_equal(piece, wanted)]
        if places:
            assert np.array_equal(marks[places[0]], mask_piece[0].numpy() > 0)
            return
    pytest.fail("the crop is nowhere in the photo")


def test_without_a_mask_every_pixel_counts(photos: list[Photo]) -> None:
    _, m_x = Photo(photos[0].image, "").load()
    assert m_x.all()


def test_no_photos_and_a_mask_of_another_size_are_refused(photos: list[Photo]) -> None:
    with pytest.raises(SicError, match=r"no training images; set data.train"):
        Crops([], 128, 1, seed=0)
    with pytest.raises(SicError, match=r"1-mask.png does not have the size of .*0.png"):
        Photo(photos[0].image, "", photos[1].mask).load()


# ---- the loop ----


def test_training_lowers_the_loss(photos: list[Photo], tmp_path: Path) -> None:
    run = a_run(photos, steps=12)
    shown: list[int] = []
    history = loop.train(
        a_codec(), losses.human_loss(0.01), run, tmp_path, lambda rows: shown.append(len(rows))
    )
    validation = history[history.split == "validation"]
    assert list(validation.step) == [0, 2, 4, 6, 8, 10, 12]
    assert validation.loss.iloc[-1] < 0.7 * validation.loss.iloc[0]
    assert list(history.columns) == ["step", "split", "loss", "bpp", "psnr"]
    assert shown == [3, 5, 7, 9, 11, 13], "the curves are drawn after every validation"


def test_where_no_photo_has_an_edge_there_is_no_psnr(photos: list[Photo], tmp_path: Path) -> None:
    Image.fromarray(np.zeros((160, 200), dtype=bool)).save(tmp_path / "empty.png")
    blank = replace(photos[0], mask=tmp_path / "empty.png")
    run = a_run([blank], steps=1, validation=[blank])
    history = loop.train(a_codec(), losses.machine_loss(0.01), run, tmp_path)
    assert history.psnr.isna().all(), "and not an infinite one"
    assert history[["loss", "bpp"]].notna().all(axis=None)
    both = a_run(photos, validation=[blank, photos[1]])
    job = jobs.Job(a_codec(), losses.machine_loss(0.01), both, "SA-ICM", "scratch")
    assert job.without_edges() == ["0.png"]


def test_a_stopped_run_continues_to_the_same_weights(photos: list[Photo], tmp_path: Path) -> None:
    run, loss = a_run(photos, steps=5), losses.human_loss(0.01)
    whole = a_codec()
    history = loop.train(whole, loss, run, tmp_path / "whole")

    calls = 0

    def stopped(codec: Any, x: torch.Tensor, m_x: torch.Tensor) -> Loss:
        nonlocal calls
        calls += codec.training
        if calls == 4:
            raise KeyboardInterrupt
        return loss(codec, x, m_x)

    with pytest.raises(KeyboardInterrupt):
        loop.train(a_codec(), stopped, run, tmp_path / "parts")
    left = newest_checkpoint(tmp_path / "parts/lic/q1" / run.fingerprint(a_codec()), CPU)
    assert left
    continued = a_codec()
    steps: list[bool] = []

    def counted(codec: Any, x: torch.Tensor, m_x: torch.Tensor) -> Loss:
        steps.append(codec.training)
        return loss(codec, x, m_x)

    again = loop.train(continued, counted, run, tmp_path / "parts")
    assert sum(steps) == 2, "steps 1 to 3 were not repeated"
    assert weights.fingerprint(continued) == weights.fingerprint(whole)
    pd.testing.assert_frame_equal(again, history)
    assert again.attrs["seconds"] > left["made"]["seconds"] > 0, "of both parts"
    assert again.attrs["device"].endswith(" thread")


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"steps": 6},
        {"about": {"lmbda": 0.02}},
        {"settings": SETTINGS.model_copy(update={"learning_rate": 2e-3})},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_run_never_takes_up_an_old_checkpoint(
    change: dict[str, Any], photos: list[Photo]
) -> None:
    codec = a_codec()
    assert a_run(photos, **change).fingerprint(codec) != a_run(photos).fingerprint(codec)


def test_other_photos_masks_or_initial_weights_are_another_run(photos: list[Photo]) -> None:
    here = a_run(photos).fingerprint(a_codec())
    assert a_run(photos).fingerprint(a_codec()) == here
    assert a_run(photos).fingerprint(a_codec(seed=1)) != here
    assert a_run(photos[:1]).fingerprint(a_codec()) != here
    other_mask = [Photo(p.image, p.sha256) for p in photos]
    assert a_run(other_mask).fingerprint(a_codec()) != here


def test_no_steps_take_the_codec_as_it_is(photos: list[Photo], tmp_path: Path) -> None:
    codec = a_codec()
    before = weights.fingerprint(codec)
    history = loop.train(codec, losses.human_loss(0.01), a_run(photos, steps=0), tmp_path)
    assert weights.fingerprint(codec) == before
    assert list(history.step) == [0]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    photos: list[Photo], tmp_path: Path
) -> None:
    loss = losses.human_loss(0.01)
    calls = 0

    def broken(codec: Any, x: torch.Tensor, m_x: torch.Tensor) -> Loss:
        nonlocal calls
        calls += codec.training
        good = loss(codec, x, m_x)
        return Loss(good.total * math.nan, *[good.mse] * 3) if calls == 3 else good

    with pytest.raises(SicError, match=r"lic/q1: the loss is nan at step 2; lower"):
        loop.train(a_codec(), broken, a_run(photos), tmp_path)
    kept = sorted(f.name[:9] for f in tmp_path.glob("lic/q1/*/*.pt"))
    assert kept == ["000000001", "000000002"]
    loop.forget("lic/q1", tmp_path)
    assert not (tmp_path / "lic/q1").exists()


def test_a_run_is_trained_by_one_process_at_a_time(photos: list[Photo], tmp_path: Path) -> None:
    run = a_run(photos)
    lock = tmp_path / "lic/q1" / f"{run.fingerprint(a_codec())}.lock"
    lock.parent.mkdir(parents=True)
    with (
        FileLock(lock),
        pytest.raises(SicError, match=r"lic/q1 is being trained by another process.*wait for it"),
    ):
        loop.train(a_codec(), losses.human_loss(0.01), run, tmp_path)


def test_a_full_disk_ends_in_one_line_and_leaves_the_last_checkpoint(
    photos: list[Photo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(photos, steps=3)
    written = Path.write_bytes
    writes = 0

    def disk_full(path: Path, data: bytes) -> int:
        nonlocal writes
        writes += 1
        if writes == 2:
            written(path, data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        return written(path, data)

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    with pytest.raises(SicError, match=r"cannot write .*\.pt: No space left on device; free"):
        loop.train(a_codec(), losses.human_loss(0.01), run, tmp_path)
    files = [f for f in tmp_path.glob("lic/q1/*/*") if f.is_file()]
    assert [f.suffix for f in files] == [".pt"], "nothing half-written stays"
    found = newest_checkpoint(files[0].parent, torch.device("cpu"))
    assert found
    assert found["step"] == 1


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    photos: list[Photo], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, loss = a_run(photos, steps=4), losses.human_loss(0.01)
    whole = a_codec()
    loop.train(whole, loss, run, tmp_path)
    files = sorted(tmp_path.glob("lic/q1/*/*.pt"))
    assert [f.name.partition("-")[0] for f in files] == ["000000003", "000000004"]
    files[1].write_bytes(files[1].read_bytes()[:-100])
    again = a_codec()
    loop.train(again, loss, run, tmp_path)
    assert "000000004" in capsys.readouterr().err
    assert weights.fingerprint(again) == weights.fingerprint(whole)


def test_parts_of_a_batch_add_up_to_the_batch(photos: list[Photo], tmp_path: Path) -> None:
    """Without noise (as the decoder sees it) the parts' gradients are those of the whole batch."""

    def quiet(codec: Any, x: torch.Tensor, m_x: torch.Tensor) -> Loss:
        return losses.human_loss(0.01)(codec.eval(), x, m_x)

    histories = []
    for accumulate in (1, 2):
        settings = SETTINGS.model_copy(update={"accumulate": accumulate})
        codec = a_codec()
        run = a_run(photos, steps=3, settings=settings)
        histories.append(loop.train(codec, quiet, run, tmp_path).drop(columns="psnr"))
    pd.testing.assert_frame_equal(*histories, rtol=1e-4)


def test_the_average_of_the_weights_is_what_is_kept(photos: list[Photo], tmp_path: Path) -> None:
    loss = losses.human_loss(0.01)
    start, plain, averaged = a_codec(), a_codec(), a_codec()
    loop.train(plain, loss, a_run(photos, steps=2), tmp_path)
    ema = SETTINGS.model_copy(update={"ema": 0.75})
    loop.train(averaged, loss, a_run(photos, steps=1, settings=ema), tmp_path)
    # torch's average begins with the weights after the first step.
    one = a_codec()
    loop.train(one, loss, a_run(photos, steps=1), tmp_path)
    assert weights.fingerprint(averaged) == weights.fingerprint(one)
    two = a_codec()
    loop.train(two, loss, a_run(photos, steps=2, settings=ema), tmp_path)
    key = "g_a.9.weight"
    w0, w1, w2, got = (c.state_dict()[key] for c in (start, one, plain, two))
    assert not torch.equal(w0, w1)
    torch.testing.assert_close(got, 0.75 * w1 + 0.25 * w2)


def test_mixed_precision_keeps_symbols_and_probabilities_in_float32(photos: list[Photo]) -> None:
    codec = a_codec()
    x = torch.stack([Crops(photos, 128, 2, 0)[i][0] for i in range(2)])
    with torch.autocast("cpu", torch.bfloat16):
        assert codec.g_a(x).dtype == torch.bfloat16
        output = codec(x)
        half = losses.human_loss(0.01)(codec, x, torch.ones_like(x[:, :1]))
    assert {t.dtype for t in output["likelihoods"].values()} == {torch.float32}
    assert output["y_hat"].dtype == torch.float32
    exact = losses.human_loss(0.01)(codec, x, torch.ones_like(x[:, :1]))
    torch.testing.assert_close(half.total, exact.total, rtol=0.02, atol=0)


# ---- several processes ----


def test_more_processors_change_no_weight(
    photos: list[Photo], tmp_path: Path, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small codec has one thread, unless a person asks for two: then it is equal to rounding."""
    loss, histories, found = losses.human_loss(0.01), [], []
    for name, count, own in (("one", 1, None), ("two", 2, None), ("asked", 2, "2")):
        if own:
            monkeypatch.setenv("OMP_NUM_THREADS", own)
        torch.set_num_threads(count)
        codec = a_codec()
        histories.append(loop.train(codec, loss, a_run(photos, steps=3), tmp_path / name))
        found.append(weights.fingerprint(codec))
    assert found[0] == found[1]
    pd.testing.assert_frame_equal(histories[0], histories[1], check_exact=True)
    pd.testing.assert_frame_equal(histories[0], histories[2], rtol=1e-3)  # a symbol may round over


SRUN = {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_NNODES": "1", "SLURM_JOB_ID": "421"}


def start_together(by: str, script: list[str], environment: dict[str, str]) -> None:
    """Two processes, started by torchrun or as srun does, in a batch job with a name."""
    if by == "torchrun":
        how = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
        commands = [([sys.executable, *how, *script], environment)]
    else:
        slurm = environment | SRUN | {"SLURM_JOB_NAME": "train", "SLURM_NODELIST": "localhost"}
        places = [{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(2)]
        commands = [([sys.executable, *script], slurm | place) for place in places]
    processes = [
        subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True)
        for words, env in commands
    ]
    for process in processes:
        error = process.communicate(timeout=300)[1]
        assert process.returncode == 0, error[-2000:]


TOGETHER = Path(__file__).with_name("together.py")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process leaves, of a program that several can run."""
    folder = tmp_path_factory.mktemp("alone")
    one = [sys.executable, str(TOGETHER), str(folder)]
    subprocess.run(one, env=os.environ | ONE_THREAD, check=True, timeout=300)
    return folder


@pytest.mark.parametrize("by", ["torchrun", "srun"])
def test_two_processes_compute_what_one_does(alone: Path, tmp_path: Path, by: str) -> None:
    """The same global batch, so the same losses and weights, to rounding."""
    start_together(by, [str(TOGETHER), str(tmp_path)], os.environ | ONE_THREAD)
    one, two = (pd.read_csv(folder / "history.csv") for folder in (alone, tmp_path))
    pd.testing.assert_frame_equal(one, two, rtol=1e-6)
    first, second = (
        weights.load(folder / "codec.safetensors").state_dict() for folder in (alone, tmp_path)
    )
    for key, tensor in first.items():
        torch.testing.assert_close(second[key], tensor, rtol=1e-4, atol=1e-5)


def test_a_batch_that_the_processes_cannot_share_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(SicError, match=r"train.accumulate is 1, which 2 processes cannot share"):
        loop.fabric(SETTINGS, CPU)


@pytest.mark.parametrize(
    "more",
    [
        {"NTASKS": "1"},
        {"NTASKS": "8"},  # a batch script, or a shell of `salloc`, without srun before the command
        {"NTASKS": "8", "STEP_ID": "4294967290", "JOB_NAME": "interactive"},  # salloc's own step
        {"NTASKS": "8", "STEP_ID": "0", "PTY_PORT": "40000"},  # srun --pty bash
        {"NTASKS": "8", "STEP_ID": "0", "STEP_NUM_TASKS": "1"},  # srun --ntasks=1 in a larger job
    ],
)
def test_a_process_alone_in_a_slurm_job_is_alone(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, str]
) -> None:
    slurm = {"JOB_ID": "3", "JOB_NAME": "study", "NNODES": "2", "PROCID": "0", "LOCALID": "0"}
    for name, value in (slurm | more).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    joined = loop.fabric(SETTINGS, CPU)
    assert (joined.world_size, joined.global_rank) == (1, 0)


def test_one_of_several_in_slurm_is_told_both_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (SRUN | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SicError, match=r"alone, start it with `srun --ntasks=1`.*multiple of 2"):
        loop.fabric(SETTINGS, CPU)


def test_the_processes_of_a_slurm_step_meet_on_its_own_machines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slurm = {"STEP_ID": "1", "NTASKS": "8", "PROCID": "5", "LOCALID": "1", "JOB_ID": "1234567"}
    slurm |= {"NNODES": "4", "NODELIST": "a[1-4]"}  # a job of four machines, a step on two
    step = {"STEP_NUM_NODES": "2", "STEP_NODELIST": "a[3-4]"}
    for name, value in (slurm | step).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    places = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    places |= {"MASTER_ADDR": "a3", "MASTER_PORT": "14568"}
    assert loop._places(Worker.from_environment()) == places
    for name in step:
        monkeypatch.delenv(f"SLURM_{name}")
    places |= {"LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a1"}
    assert loop._places(Worker.from_environment()) == places
    monkeypatch.setenv("SLURM_NNODES", "3")
    with pytest.raises(SicError, match=r"cannot train together with 2\.66667 on each"):
        loop._places(Worker.from_environment())


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({}, None),
        ({"MASTER_ADDR": None}, "the environment has no MASTER_ADDR; start them with torchrun"),
        ({"LOCAL_RANK": None, "MASTER_PORT": None}, "no LOCAL_RANK, MASTER_PORT"),
        ({"LOCAL_WORLD_SIZE": None}, "no LOCAL_WORLD_SIZE"),
        ({"LOCAL_WORLD_SIZE": "3"}, "8 processes cannot train together with 3 on each machine"),
        ({"LOCAL_WORLD_SIZE": "0"}, "with 0 on each"),
        ({"LOCAL_WORLD_SIZE": "two"}, "with two on each"),
    ],
)
def test_half_of_torchrun_s_variables_are_refused(
    change: dict[str, str | None], line: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchrun = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    torchrun |= {"MASTER_ADDR": "here", "MASTER_PORT": "1"}
    for name, value in (torchrun | change).items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_NNODES", "1")
    if line is None:
        assert loop._places(Worker.from_environment()) == torchrun
    else:
        with pytest.raises(SicError, match=line):
            loop._places(Worker.from_environment())
