"""The scalable stream: both layers come back exactly, and nothing wrong becomes a picture."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_weights import fill
from skimage import data
from small import SIZES, WIDTHS

from sic import images
from sic.codec import weights
from sic.codec.fusion import AdditionalCodec, DifferenceCodec, fuse
from sic.codec.tcm import TCM
from sic.errors import SicError, StreamError
from sic.stream.container import Kind, read_layer, read_layers
from sic.stream.scalable import ScalableCodec

PHOTO = data.astronaut()[:100, :150]
STREAMS = Path(__file__).parent / "streams"


@cache
def base() -> TCM:
    return fill(TCM(**SIZES), "icm")


@cache
def additional(m: int) -> AdditionalCodec:
    return fill(AdditionalCodec(m, **SIZES), f"ica{m}")


@cache
def residual(condition: bool) -> AdditionalCodec:
    codec = AdditionalCodec(3, **SIZES, residual="feature", condition=condition)
    return fill(codec, f"fr{condition}")


@cache
def difference() -> DifferenceCodec:
    return fill(DifferenceCodec(**SIZES), "dc")


def enhancement(name: str) -> AdditionalCodec | DifferenceCodec:
    """By the name of its stream in ``streams``, or ``m`` and its slices."""
    if name == "difference":
        return difference()
    if "residual" in name:
        return residual(condition=name.startswith("conditional"))
    return additional(3 if name == "fusion" else int(name[1]))


RESIDUALS = ["residual", "conditional_residual"]


@pytest.fixture(scope="module", params=["m1", "m2", "m3", "m4", "m5", "difference", *RESIDUALS])
def codec(request) -> ScalableCodec:
    return ScalableCodec(base(), enhancement(request.param))


@pytest.fixture(scope="module")
def fusion() -> ScalableCodec:
    return ScalableCodec(base(), additional(3))


@pytest.fixture(scope="module")
def encoding(fusion):
    return fusion.encode_layers(PHOTO)


def assert_same(latents, layers) -> None:
    for latent, layer in zip(latents, layers, strict=True):
        np.testing.assert_array_equal(latent.z, layer.latent.z)
        np.testing.assert_array_equal(latent.y, layer.latent.y)
        assert torch.equal(latent.y_hat, layer.latent.y_hat)


def alike(picture, wanted) -> bool:
    """Whether two paths through floats gave one picture.  Processors add in different orders, so a
    sample that lies on a half may be rounded to either side of it."""
    off = np.abs(picture.astype(int) - wanted)
    return off.max() <= 1 and np.count_nonzero(off) < 1e-3 * off.size


# ---- round trips ----------------------------------------------------------------------------


def test_both_layers_of_every_kind_come_back_bit_for_bit(codec):
    encoding = codec.encode_layers(PHOTO)
    latents = codec.decode_latents(encoding.stream, "human")
    assert_same(latents, [encoding.base, encoding.enhancement])
    assert codec.decode(encoding.stream, "machine").shape == PHOTO.shape
    assert codec.decode(encoding.stream, "human").shape == PHOTO.shape


def test_each_picture_of_a_batch_comes_back_bit_for_bit(codec):
    cat = data.chelsea()
    pictures = [PHOTO, cat[:300, :150], cat[:100, 50:201], PHOTO[::-1]]  # three have one size
    encodings = codec.encode_batch(pictures)
    for encoding, alone in zip(encodings, map(codec.encode, pictures), strict=True):
        latents = codec.decode_latents(encoding.stream, "human")
        assert_same(latents, [encoding.base, encoding.enhancement])
        assert len(encoding.stream) == pytest.approx(len(alone), rel=1e-3)
    for layer in ("machine", "human"):
        together = codec.decode_batch([encoding.stream for encoding in encodings], layer)
        for picture, encoding in zip(together, encodings, strict=True):
            assert alike(picture, codec.decode(encoding.stream, layer))


def test_an_empty_batch_is_no_pictures(fusion):
    assert fusion.encode_batch([]) == fusion.decode_batch([]) == []


@settings(max_examples=8)
@given(st.integers(1, 300), st.integers(1, 300))
def test_any_size_comes_back(fusion, height, width):
    picture = data.coffee()[50 : 50 + height, 100 : 100 + width]
    encoding = fusion.encode_layers(picture)
    latents = fusion.decode_latents(encoding.stream, "human")
    assert_same(latents, [encoding.base, encoding.enhancement])
    assert fusion.decode(encoding.stream, "human").shape == picture.shape


def test_the_picture_is_that_of_the_codecs_own_synthesis(fusion, encoding):
    """(5) and (8), on the latents that were reconstructed; another synthesis is told apart."""
    y_hat, enhancement = encoding.base.latent.y_hat, encoding.enhancement.latent.y_hat
    transforms = {"machine": fusion.base.codec.g_s, "human": fusion.enhancement.codec.g_s}
    latents = {"machine": y_hat.float(), "human": fuse(y_hat, enhancement).float()}
    for layer in latents:
        picture = fusion.decode(encoding.stream, layer)
        for reader, y in latents.items():
            for writer, g_s in transforms.items():
                with torch.inference_mode():
                    x_hat = images.to_uint8(images.crop(g_s(y), *PHOTO.shape[:2]))
                assert alike(picture, x_hat) == (reader == writer == layer)


def test_the_difference_codec_adds_to_the_8_bit_picture_for_machines():
    codec = ScalableCodec(base(), difference())
    encoding = codec.encode_layers(PHOTO)
    x_hat_t = codec.decode(encoding.stream, "machine")
    with torch.inference_mode():
        d_hat = codec.enhancement.codec.g_s(encoding.enhancement.latent.y_hat.float())
    x_hat = images.to_uint8(images.to_tensor(x_hat_t) + images.crop(d_hat, *PHOTO.shape[:2]))
    assert alike(codec.decode(encoding.stream, "human"), x_hat)
    assert not alike(x_hat_t, x_hat)


def test_a_lic_alone_has_one_layer():
    codec = ScalableCodec(base())
    encoding = codec.encode_layers(PHOTO)
    assert encoding.enhancement is None
    assert encoding.stream == encoding.base.stream == codec.encode(PHOTO)
    assert_same(codec.decode_latents(encoding.stream), [encoding.base])
    with pytest.raises(SicError, match="needs the weights of an enhancement"):
        codec.decode(encoding.stream, "human")


def test_another_process_with_other_threads_and_instructions_reads_it(tmp_path, fusion, encoding):
    """Latents bit for bit, with PyTorch's plainest vector code and two threads instead of ours."""
    weights.save(tmp_path / "base", fusion.base.codec, {})
    weights.save(tmp_path / "m3", fusion.enhancement.codec, {})
    (tmp_path / "photo.sic").write_bytes(encoding.stream)
    program = """if True:
        import sys; from pathlib import Path
        from sic.stream.scalable import ScalableCodec
        codec = ScalableCodec.load("base", "m3")
        stream = Path("photo.sic").read_bytes()
        for latent in codec.decode_latents(stream, "human"):
            print(latent.digest().hex())
    """
    other = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive", "ATEN_CPU_CAPABILITY": "default"}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=tmp_path,
        env=os.environ | other,
        capture_output=True,
        text=True,
        check=True,
    )
    layers = (encoding.base, encoding.enhancement)
    assert run.stdout.split() == [layer.latent.digest().hex() for layer in layers]


def test_more_processors_change_no_byte(fusion, encoding, two_threads):
    """A small codec has one thread wherever it runs (sic.work.threads)."""
    again = fusion.encode_layers(PHOTO)
    assert again.stream == encoding.stream
    pictures = [fusion.decode(again.stream, layer) for layer in ("machine", "human")]
    torch.set_num_threads(1)
    for picture, layer in zip(pictures, ("machine", "human"), strict=True):
        np.testing.assert_array_equal(picture, fusion.decode(encoding.stream, layer))


def test_two_threads_read_what_one_wrote_and_the_reverse(
    fusion, encoding, two_threads, monkeypatch
):
    """Where a person asks for two, or the codec is large: other roundings, the same latents."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert_same(fusion.decode_latents(encoding.stream, "human"), both(encoding))
    other, picture = fusion.encode_layers(PHOTO), fusion.decode(encoding.stream, "human")
    assert "2 threads" in str(read_layers(other.stream)[0].platform)
    torch.set_num_threads(1)
    assert_same(fusion.decode_latents(other.stream, "human"), both(other))
    difference = picture.astype(int) - fusion.decode(encoding.stream, "human")
    assert np.abs(difference).max() <= 1, "a value beside the half of a level"


def both(encoding):
    return [encoding.base, encoding.enhancement]


@pytest.mark.parametrize("name", ["fusion", "difference", *RESIDUALS])
def test_streams_of_earlier_days_are_read(name):
    """Files written when version 1 was made, and the residual kinds; should this fail, the version
    must change."""
    codec = ScalableCodec(base(), enhancement(name))
    stream = (STREAMS / f"{name}.sic").read_bytes()
    assert codec.decode(stream, "machine").shape == (60, 90, 3)
    assert codec.decode(stream, "human").shape == (60, 90, 3)


# ---- scalability ----------------------------------------------------------------------------


def test_the_base_decodes_from_any_beginning_that_holds_it(fusion, encoding):
    wanted = fusion.decode(encoding.base.stream, "machine")
    for more in (0, 1, 60, len(encoding.enhancement.stream)):
        beginning = encoding.stream[: len(encoding.base.stream) + more]
        np.testing.assert_array_equal(fusion.decode(beginning, "machine"), wanted)


def test_the_base_is_the_same_with_every_enhancement(codec, encoding):
    assert codec.encode_layers(PHOTO).base.stream == encoding.base.stream


def test_the_enhancement_may_be_fetched_later(fusion, encoding):
    first, second = encoding.base.stream, encoding.enhancement.stream
    np.testing.assert_array_equal(
        fusion.decode(first + second, "human"), fusion.decode(fusion.encode(PHOTO), "human")
    )
    with pytest.raises(StreamError, match="no enhancement layer; fetch"):
        fusion.decode(first, "human")
    with pytest.raises(StreamError, match="enhancement layer alone"):
        fusion.decode(second, "machine")
    with pytest.raises(StreamError, match="enhancement layer alone"):
        fusion.decode(second, "human")


def test_an_enhancement_is_written_onto_a_base_at_hand_with_the_same_bytes(codec):
    encoding = codec.encode_layers(PHOTO)
    below = codec.read_base(encoding.base.stream)
    onto = codec.encode_onto(below, PHOTO)
    assert onto.stream == encoding.enhancement.stream
    assert onto.estimated == encoding.enhancement.estimated
    np.testing.assert_array_equal(onto.latent.y_hat, encoding.enhancement.latent.y_hat)
    x_hat = codec.decode_onto(below, encoding.stream)
    np.testing.assert_array_equal(x_hat, codec.decode(encoding.stream, "human"))


def test_an_enhancement_is_not_written_onto_what_is_not_its_base(fusion, encoding):
    stream = encoding.base.stream
    below = fusion.read_base(stream)
    with pytest.raises(SicError, match="base layer is of a picture of 150×100, not of 150×99"):
        fusion.encode_onto(below, PHOTO[:99])
    with pytest.raises(StreamError, match="was written with the weights"):
        ScalableCodec(fill(TCM(**SIZES), "other"), additional(3)).read_base(stream)
    with pytest.raises(StreamError):
        fusion.read_base(stream[:-1])
    with pytest.raises(SicError, match="no weights of an enhancement"):
        ScalableCodec(base()).encode_onto(below, PHOTO)
    with pytest.raises(StreamError, match="another base layer than the one that was read"):
        fusion.decode_onto(below, fusion.encode(PHOTO[:99]))


def test_records_say_what_they_are(fusion, encoding):
    first, second = read_layers(encoding.stream)
    assert (first.kind, first.slices, first.height, first.width) == (Kind.BASE, 5, 100, 150)
    assert (second.kind, second.slices) == (Kind.FUSION, 3)
    assert first.weights.hex() == weights.fingerprint(fusion.base.codec)[:16]
    assert second.below == first.symbols == encoding.base.latent.digest()


# ---- sizes ----------------------------------------------------------------------------------


def test_no_layer_is_longer_than_its_estimate_by_more_than_one_percent_and_64_bytes(codec):
    encoding = codec.encode_layers(data.coffee()[:200, :300])
    for layer in (encoding.base, encoding.enhancement):
        assert len(layer.stream) <= 1.01 * layer.estimated.total / 8 + 64


# ---- what must not become a picture ---------------------------------------------------------


def test_other_weights_are_refused_before_anything_is_decoded(encoding, monkeypatch):
    other = ScalableCodec(fill(TCM(**SIZES), "other"), additional(3))
    monkeypatch.setattr(other.base.latent_coder, "decode", None)  # would fail if it were called
    for layer in ("machine", "human"):
        with pytest.raises(StreamError, match="was written with the weights"):
            other.decode(encoding.stream, layer)


def test_other_weights_of_the_enhancement_are_refused(encoding):
    other = ScalableCodec(base(), fill(AdditionalCodec(3, **SIZES), "other"))
    with pytest.raises(StreamError, match="fusion layer was written with the weights"):
        other.decode(encoding.stream, "human")
    other.decode(encoding.stream, "machine")  # the base is right


def test_an_enhancement_of_another_kind_is_refused(encoding):
    with pytest.raises(StreamError, match="kind fusion, these weights are of kind difference"):
        ScalableCodec(base(), difference()).decode(encoding.stream, "human")


@pytest.mark.parametrize("name", RESIDUALS)
def test_a_residual_layer_says_what_it_is(name, encoding):
    codec = ScalableCodec(base(), enhancement(name))
    layer = read_layers(codec.encode(PHOTO))[1]
    assert (layer.kind, layer.slices) == (Kind[name.upper()], 3)
    label = name.replace("_", " ")
    with pytest.raises(StreamError, match=f"kind fusion, these weights are of kind {label}"):
        codec.decode(encoding.stream, "human")


def test_an_enhancement_of_another_picture_is_refused(fusion, encoding):
    other = fusion.encode_layers(np.flip(PHOTO, 1).copy())
    with pytest.raises(StreamError, match="belongs to another base"):
        fusion.decode(encoding.base.stream + other.enhancement.stream, "human")


@pytest.mark.parametrize(
    ("networks", "k"),
    [
        ("cc_scale_transforms", 2),  # the range decoder is lost from the third slice on
        ("lrp_transforms", 4),  # every symbol is right, and only the digest tells
    ],
)
def test_differing_numbers_are_named_with_both_platforms(encoding, networks, k):
    """A machine whose networks compute something else: no picture, and the two are named."""
    odd = ScalableCodec(base(), additional(3))
    with torch.no_grad():
        getattr(odd.base.latent_coder.codec, networks)[k][4].bias += 0.01
    with pytest.raises(StreamError, match="come out differently") as error:
        odd.decode(encoding.stream, "machine")
    here = str(read_layer(encoding.stream).platform)
    assert str(error.value).count(here) == 2


def test_a_header_that_lies_about_the_size_gives_no_picture(fusion, encoding):
    from test_container import sealed

    record = bytearray(encoding.base.stream)
    record[8:12] = (50).to_bytes(2, "little") + (290).to_bytes(2, "little")
    with pytest.raises(StreamError, match="come out differently"):
        fusion.decode(sealed(bytes(record)), "machine")


@pytest.mark.parametrize(
    "picture",
    [PHOTO[..., 0], PHOTO.astype(np.float32), PHOTO[..., :2], np.zeros((0, 5, 3), np.uint8)],
)
def test_what_is_no_picture_is_not_encoded(fusion, picture):
    with pytest.raises(SicError, match="a picture"):
        fusion.encode(picture)


def test_a_picture_beyond_the_limit_is_refused_at_once(fusion):
    huge = np.broadcast_to(np.uint8(0), (8192, 8192, 3))  # takes no memory
    with pytest.raises(SicError, match="beyond the limit"):
        fusion.encode(huge)


def test_an_unknown_layer_is_refused(fusion, encoding):
    with pytest.raises(SicError, match="ask for machine or human"):
        fusion.decode(encoding.stream, "both")


# ---- codecs that do not fit -----------------------------------------------------------------


def test_an_enhancement_for_another_base_is_refused():
    larger = AdditionalCodec(1, N=8, M=80, num_slices=5, widths=WIDTHS)
    with pytest.raises(SicError, match="for a base with M=80"):
        ScalableCodec(base(), larger)


def test_an_enhancement_trained_on_another_base_is_refused(tmp_path):
    weights.save(tmp_path / "base", base(), {})
    weights.save(tmp_path / "own", additional(2), {"base": weights.fingerprint(base())})
    weights.save(tmp_path / "foreign", additional(2), {"base": "0" * 64})
    ScalableCodec.load(tmp_path / "base", tmp_path / "own")
    with pytest.raises(
        SicError, match=r"foreign was trained on another base \(0{16}\) than .*base"
    ):
        ScalableCodec.load(tmp_path / "base", tmp_path / "foreign")


def test_an_enhancement_is_no_base(tmp_path):
    with pytest.raises(SicError, match="an additional codec is no base"):
        ScalableCodec(additional(2))
    weights.save(tmp_path / "base", base(), {})
    with pytest.raises(SicError, match="holds a TCM, no enhancement"):
        ScalableCodec.load(tmp_path / "base", tmp_path / "base")
