"""Training: the crops, the losses of the four codecs, exact continuation, and what can go wrong."""

import math
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

from sic import params, train, weights
from sic.crops import Crops, Photo
from sic.difference import DifferenceCodec
from sic.errors import SicError
from sic.loss import Loss
from sic.scalable import AdditionalCodec
from sic.tcm import TCM

SETTINGS = params.load(Path(__file__).parents[1] / "params.yaml").train.model_copy(
    update={"batch": 2, "validate_every": 2, "checkpoint_every": 1e-9, "device": "cpu"}
)


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


def a_run(photos: list[Photo], **changes: Any) -> train.Run:
    about: dict[str, Any] = {
        "name": "lic/q1",
        "settings": SETTINGS,
        "steps": 4,
        "seed": 0,
        "photos": photos,
        "validation": photos[:1],
        "about": {"lmbda": 0.01},
    }
    return train.Run(**{**about, **changes})


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


def test_an_epoch_shows_every_photo_once(photos: list[Photo]) -> None:
    crops = Crops(photos, 128, 100, seed=0)
    for epoch in range(10):
        narrow = [has_repeated_border(crops[2 * epoch + place][0]) for place in (0, 1)]
        assert sorted(narrow) == [False, True]


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


# ---- the losses ----


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.from_numpy(photos_of_skimage.astronaut()[:128, :128]).permute(2, 0, 1)[None] / 255
    m_x = torch.zeros(1, 1, 128, 128)
    m_x[..., :8] = 1
    return x, m_x


def test_only_the_machines_loss_looks_at_the_mask(batch: tuple[torch.Tensor, ...]) -> None:
    codec = a_codec().eval()
    human, machine = train.human_loss(0.01), train.machine_loss(0.01)
    x, m_x = batch
    whole = torch.ones_like(m_x)
    with torch.no_grad():
        assert torch.equal(human(codec, x, m_x).total, human(codec, x, whole).total)
        assert torch.equal(machine(codec, x, whole).total, human(codec, x, whole).total)
        assert machine(codec, x, m_x).mse < machine(codec, x, whole).mse


@pytest.mark.parametrize(
    ("make", "loss"),
    [
        (lambda: AdditionalCodec(2, **SIZES), train.additional_loss),
        (lambda: DifferenceCodec(**SIZES), train.difference_loss),
    ],
    ids=["fusion", "difference"],
)
def test_the_base_stays_frozen(make: Any, loss: Any, batch: tuple[torch.Tensor, ...]) -> None:
    base, codec = a_codec(), make()
    before = weights.fingerprint(base)
    x, m_x = batch
    loss(base, 0.01)(codec, x, m_x).total.backward()
    assert all(p.grad is None and not p.requires_grad for p in base.parameters())
    assert all(p.grad is not None for p in codec.g_a.parameters())
    assert weights.fingerprint(base) == before


def test_the_base_sees_no_autograd_and_does_not_decode_for_fusion(
    batch: tuple[torch.Tensor, ...],
) -> None:
    base, codec = a_codec(), AdditionalCodec(1, **SIZES)
    modes = []
    base.g_a.register_forward_hook(lambda *_: modes.append(torch.is_inference_mode_enabled()))
    base.g_s.register_forward_hook(lambda *_: pytest.fail("the base's decoder ran"))
    train.additional_loss(base, 0.01)(codec, *batch)
    assert modes == [True]


# ---- the loop ----


def test_training_lowers_the_loss(photos: list[Photo], tmp_path: Path) -> None:
    run = a_run(photos, steps=12)
    shown: list[int] = []
    history = train.train(
        a_codec(), train.human_loss(0.01), run, tmp_path, lambda rows: shown.append(len(rows))
    )
    validation = history[history.split == "validation"]
    assert list(validation.step) == [0, 2, 4, 6, 8, 10, 12]
    assert validation.loss.iloc[-1] < 0.7 * validation.loss.iloc[0]
    assert list(history.columns) == ["step", "split", "loss", "bpp", "psnr"]
    assert shown == [3, 5, 7, 9, 11, 13], "the curves are drawn after every validation"


def test_a_stopped_run_continues_to_the_same_weights(photos: list[Photo], tmp_path: Path) -> None:
    run, loss = a_run(photos, steps=5), train.human_loss(0.01)
    whole = a_codec()
    history = train.train(whole, loss, run, tmp_path / "whole")

    calls = 0

    def stopped(codec: Any, x: torch.Tensor, m_x: torch.Tensor) -> Loss:
        nonlocal calls
        calls += codec.training
        if calls == 4:
            raise KeyboardInterrupt
        return loss(codec, x, m_x)

    with pytest.raises(KeyboardInterrupt):
        train.train(a_codec(), stopped, run, tmp_path / "parts")
    continued = a_codec()
    steps: list[bool] = []

    def counted(codec: Any, x: torch.Tensor, m_x: torch.Tensor) -> Loss:
        steps.append(codec.training)
        return loss(codec, x, m_x)

    again = train.train(continued, counted, run, tmp_path / "parts")
    assert sum(steps) == 2, "steps 1 to 3 were not repeated"
    assert weights.fingerprint(continued) == weights.fingerprint(whole)
    pd.testing.assert_frame_equal(again, history)


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
    history = train.train(codec, train.human_loss(0.01), a_run(photos, steps=0), tmp_path)
    assert weights.fingerprint(codec) == before
    assert list(history.step) == [0]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    photos: list[Photo], tmp_path: Path
) -> None:
    loss = train.human_loss(0.01)
    calls = 0

    def broken(codec: Any, x: torch.Tensor, m_x: torch.Tensor) -> Loss:
        nonlocal calls
        calls += codec.training
        good = loss(codec, x, m_x)
        return Loss(good.total * math.nan, *[good.mse] * 3) if calls == 3 else good

    with pytest.raises(SicError, match=r"lic/q1: the loss is nan at step 2; lower"):
        train.train(a_codec(), broken, a_run(photos), tmp_path)
    assert len(list(tmp_path.glob("lic/q1/*.pt"))) == 1
    train.forget("lic/q1", tmp_path)
    assert not (tmp_path / "lic/q1").exists()


def test_a_run_is_trained_by_one_process_at_a_time(photos: list[Photo], tmp_path: Path) -> None:
    run = a_run(photos)
    lock = tmp_path / "lic/q1" / f"{run.fingerprint(a_codec())}.lock"
    lock.parent.mkdir(parents=True)
    with (
        FileLock(lock),
        pytest.raises(SicError, match=r"lic/q1 is being trained by another process.*wait for it"),
    ):
        train.train(a_codec(), train.human_loss(0.01), run, tmp_path)


def test_a_full_disk_ends_in_one_line_and_leaves_the_last_checkpoint(
    photos: list[Photo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(photos, steps=3)
    saved = torch.save
    writes = 0

    def disk_full(content: Any, path: Path) -> None:
        nonlocal writes
        writes += 1
        if writes == 2:
            path.write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        saved(content, path)

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(SicError, match=r"cannot write .*\.pt: No space left on device; free"):
        train.train(a_codec(), train.human_loss(0.01), run, tmp_path)
    files = [f for f in tmp_path.glob("lic/q1/*") if f.suffix != ".lock"]
    assert [f.suffix for f in files] == [".pt"], "nothing half-written stays"
    assert torch.load(files[0], weights_only=True)["step"] == 1


# ---- what a stage starts from ----


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TCM:
    monkeypatch.setattr(train, "WEIGHTS", tmp_path)
    codec = a_codec(seed=5)
    weights.save(tmp_path / "start.safetensors", codec, {})
    return codec


def stage(init: str) -> params.Training:
    return params.Training(steps=1, init=init, train=True)


def test_scratch_follows_from_the_seed() -> None:
    first, again, other = (
        train.initial(lambda: TCM(**SIZES), stage("scratch"), seed) for seed in (0, 0, 1)
    )
    assert weights.fingerprint(first) == weights.fingerprint(again)
    assert weights.fingerprint(first) != weights.fingerprint(other)


def test_a_codec_starts_from_another_of_its_size(start: TCM) -> None:
    base = train.initial(lambda: TCM(**SIZES), stage("start.safetensors"), 0)
    difference = train.initial(lambda: DifferenceCodec(**SIZES), stage("start.safetensors"), 0)
    for codec in (base, difference):
        for key, tensor in start.state_dict().items():
            assert torch.equal(codec.state_dict()[key], tensor), key


@pytest.mark.parametrize("m", [1, 3, 5])
def test_an_additional_codec_starts_from_the_first_m_slices(
    m: int, start: TCM, batch: tuple[torch.Tensor, ...]
) -> None:
    codec = train.initial(lambda: AdditionalCodec(m, **SIZES), stage("start.safetensors"), 0).eval()
    x, _ = batch
    with torch.no_grad():
        y = start.eval().g_a(x)
        assert torch.equal(codec.g_a(x), 0.5 * y[:, : 8 * m])
        assert torch.equal(codec.g_s(y), start.g_s(y))
        if m == 5:  # all slices: the same latent is coded in the same way
            latents = [c.code_latent(y)[0] for c in (codec, start)]
            assert torch.equal(*latents)


def test_a_start_of_another_size_is_refused(start: TCM) -> None:
    wide = {**SIZES, "N": 16}
    with pytest.raises(SicError, match=r"start.safetensors has the sizes .*'N': 8.*'N': 16"):
        train.initial(lambda: TCM(**wide), stage("start.safetensors"), 0)
    with pytest.raises(SicError, match=r"start.safetensors: an additional codec can start only"):
        train.initial(lambda: AdditionalCodec(2, **wide), stage("start.safetensors"), 0)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert train.device("auto") == torch.device("cpu")
    with pytest.raises(SicError, match=r"device cuda, but no GPU is to be had; set it to auto"):
        train.device("cuda")
