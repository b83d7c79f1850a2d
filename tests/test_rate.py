"""Steps and what they are searched for: real sizes and PSNR of real photos."""

import math
from pathlib import Path

import fuzz_streams
import pytest
from skimage import data
from test_bitstream import (
    PHOTO,
    RESIDUALS,
    STREAMS,
    additional,
    assert_same,
    base,
    both,
    enhancement,
)

from sic import images
from sic.errors import SicError
from sic.stream import rate
from sic.stream.container import MAX_STEP, MIN_STEP, read_layers
from sic.stream.rate import TRIALS, Target
from sic.stream.scalable import ScalableCodec

WEIGHTS = Path(__file__).parents[1] / "data" / "weights"


@pytest.fixture(scope="module", params=["alone", "fusion", "difference", *RESIDUALS])
def codec(request) -> ScalableCodec:
    return ScalableCodec(base(), None if request.param == "alone" else enhancement(request.param))


@pytest.fixture(scope="module")
def lic() -> ScalableCodec:
    """A trained codec: its sizes and PSNR fall with the step as real ones do."""
    return ScalableCodec.load(WEIGHTS / "lic" / "q1.safetensors")


# ---- steps ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "base_step"), [(1.5, 1.0), (0.5, 3.0), (1.0, 16.0), (8.0, 0.25)])
def test_each_layer_has_its_step(codec, step, base_step):
    if codec.enhancement is None:
        base_step = 1.0
    encoding = codec.encode_layers(PHOTO, step, base_step)
    layers = read_layers(encoding.stream)
    wanted = [base_step, step][-len(layers) :]  # of one layer it is the step
    assert [layer.step for layer in layers] == wanted
    assert [encoding.stream[3], layers[-1].pack()[3]] == [1 + (s != 1) for s in (wanted[0], step)]
    if len(layers) == 2:
        assert_same(codec.decode_latents(encoding.stream, "human"), both(encoding))
        assert codec.decode(encoding.stream, "human").shape == PHOTO.shape
    else:
        assert_same(codec.decode_latents(encoding.stream), [encoding.base])


def test_steps_of_1_write_what_was_written_before(codec):
    assert codec.encode(PHOTO, 1.0, 1.0) == codec.encode(PHOTO)
    assert codec.encode(PHOTO)[3] == 1


def test_the_base_does_not_depend_on_the_step_above_it(codec):
    if codec.enhancement is not None:
        plain, coarse = codec.encode_layers(PHOTO), codec.encode_layers(PHOTO, 4)
        assert coarse.base.stream == plain.base.stream
        assert len(coarse.enhancement.stream) < len(plain.enhancement.stream)


def test_version_2_is_read_as_when_it_was_made():
    """Steps 0.75 and 2.5; should this fail, the version must change."""
    stream = (STREAMS / "steps.sic").read_bytes()
    codec = ScalableCodec(base(), enhancement("fusion"))
    assert [layer.step for layer in read_layers(stream)] == [0.75, 2.5]
    for layer in ("machine", "human"):
        assert codec.decode(stream, layer).shape == (60, 90, 3)


def test_a_step_out_of_range_is_refused(codec):
    with pytest.raises(SicError, match=r"step 17 is not from 0\.0625 to 16"):
        codec.encode(PHOTO, 17)


def test_one_layer_has_no_step_below_it(lic):
    with pytest.raises(SicError, match="base_step is of a base below an enhancement"):
        lic.encode(PHOTO, base_step=2.0)


# ---- targets --------------------------------------------------------------------------------


@pytest.mark.parametrize("photo", ["astronaut", "coffee", "chelsea", "rocket"])
@pytest.mark.parametrize("target", [Target("bpp", 0.15), Target("bpp", 0.4), Target("bytes", 1500)])
def test_a_size_is_met_from_below_in_few_trials(lic, monkeypatch, photo, target):
    image = getattr(data, photo)()[:200, :240]
    trials = counted(lic, monkeypatch)
    size = len(lic.encode(image, target))
    most = target.value if target.unit == "bytes" else target.value * 200 * 240 / 8
    assert 0.97 * most <= size <= most
    assert len(trials) <= 8


@pytest.mark.parametrize("psnr", [22, 25])
def test_a_psnr_is_met_from_above(lic, monkeypatch, psnr):
    image = data.coffee()[:200, :240]
    trials = counted(lic, monkeypatch)
    stream = lic.encode(image, Target("psnr", psnr))
    assert psnr <= images.psnr(image, lic.decode(stream)) <= psnr + 0.02
    assert len(trials) <= 8


def counted(codec, monkeypatch):
    trials = []
    encode = codec.base.latent_coder.encode
    monkeypatch.setattr(
        codec.base.latent_coder, "encode", lambda *words: trials.append(words) or encode(*words)
    )
    return trials


def test_the_target_of_an_enhancement_counts_both_layers():
    codec = ScalableCodec(base(), additional(5))
    both_layers = codec.encode_layers(PHOTO)
    most = len(both_layers.stream) * 8 / PHOTO[..., 0].size
    encoding = codec.encode_layers(PHOTO, Target("bpp", 0.8 * most), 2.0)
    assert 0.77 * most <= len(encoding.stream) * 8 / PHOTO[..., 0].size <= 0.8 * most
    below = codec.encode_layers(PHOTO, 1.0, Target("bytes", 0.8 * len(both_layers.base.stream)))
    share = len(below.base.stream) / len(both_layers.base.stream)
    assert 0.77 <= share <= 0.8
    assert codec.decode(encoding.stream, "human").shape == PHOTO.shape


def test_each_picture_of_a_batch_has_its_own_step(lic):
    photos = [data.coffee()[:100, :120], data.rocket()[:100, :120]]
    encodings = lic.encode_batch(photos, Target("bytes", 700))
    steps = {read_layers(encoding.stream)[0].step for encoding in encodings}
    assert len(steps) == 2
    assert all(679 <= len(encoding.stream) <= 700 for encoding in encodings)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target("bytes", 60), r"60 bytes cannot be reached: .* has \d+ bytes \(step 16\) to "),
        (Target("bpp", 20), r"20.0000 bpp cannot be reached: .* bpp \(step 0.0625\); ask for"),
        (Target("psnr", 60), r"60.00 dB cannot be reached: .* has \d+\.\d\d dB \(step 16\) to "),
    ],
)
def test_what_no_step_reaches_is_said_with_the_range(lic, target, message):
    with pytest.raises(SicError, match=message):
        lic.encode(data.coffee()[:100, :120], target)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_a_target_is_above_zero(value):
    with pytest.raises(SicError, match="bpp should be a number above 0"):
        Target("bpp", value)


# ---- damage ---------------------------------------------------------------------------------


def test_damaged_files_in_any_step_are_an_error_or_the_right_picture(capsys):
    fuzz_streams.decode_all(files=100, seed=1)
    assert "100 files" in capsys.readouterr().out


# ---- the search itself ----------------------------------------------------------------------


@pytest.mark.parametrize("slope", [0.3, 1, 3])
@pytest.mark.parametrize("aim", [0.02, 0.5, 0.99])
def test_the_search_ends_on_the_right_side_of_any_curve(slope, aim):
    """Also where sizes come in jumps: then it is the largest below, and the best above."""

    def size(step):
        return round(40 * step**-slope) + 5

    least, most = size(MAX_STEP), size(MIN_STEP)
    value = least + aim * (most - least)
    steps = []
    found = rate.search(lambda s: steps.append(s) or s, size, Target("bytes", value))
    assert size(found) <= value < size(found / 1.02) + 1
    assert len(steps) <= TRIALS
    found = rate.search(
        lambda s: s, lambda s: 10 * size(s) / most, Target("psnr", 10 * value / most)
    )
    assert size(found) >= value


def test_equal_pictures_have_no_finite_psnr():
    found = rate.search(
        lambda s: s, lambda s: math.inf if s <= 1 else 40 - s, Target("psnr", 38.005)
    )
    assert 38.005 <= 40 - found <= 38.025
