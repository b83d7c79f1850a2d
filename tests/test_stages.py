"""What each stage trains: where it starts, what it depends on, and what it leaves."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from small import SIZES, astronaut

from sic import params
from sic.codec import weights
from sic.codec.fusion import AdditionalCodec, DifferenceCodec
from sic.codec.tcm import TCM
from sic.errors import SicError
from sic.training import jobs
from sic.training.jobs import AnyCodec
from sic.work import checkpoint

LAMBDA = 0.0025, 0.005, 0.01, 0.02  # of q0, q1, …


def a_codec(seed: int = 0) -> TCM:
    torch.manual_seed(seed)
    return TCM(**SIZES)


def made(empty: Callable[[], AnyCodec], settings: params.Training, seed: int) -> AnyCodec:
    return jobs.initial(empty, settings, seed, "q2")[0]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TCM:
    monkeypatch.chdir(tmp_path)
    codec = a_codec(seed=5)
    weights.save(tmp_path / "start.safetensors", codec, {})
    return codec


def stage(init: str) -> params.Training:
    return params.Training(steps=1, init=init, train=True)


def test_scratch_follows_from_the_seed() -> None:
    first, again, other = (made(lambda: TCM(**SIZES), stage("scratch"), seed) for seed in (0, 0, 1))
    assert weights.fingerprint(first) == weights.fingerprint(again)
    assert weights.fingerprint(first) != weights.fingerprint(other)


def test_a_codec_starts_from_another_of_its_size(start: TCM) -> None:
    base = made(lambda: TCM(**SIZES), stage("start.safetensors"), 0)
    difference = made(lambda: DifferenceCodec(**SIZES), stage("start.safetensors"), 0)
    for codec in (base, difference):
        found = codec.state_dict()
        for key, tensor in start.state_dict().items():
            assert torch.equal(found[key], tensor), key


@pytest.mark.parametrize("m", [1, 3, 5])
def test_an_additional_codec_starts_from_the_first_m_slices(m: int, start: TCM) -> None:
    codec = made(lambda: AdditionalCodec(m, **SIZES), stage("start.safetensors"), 0).eval()
    x = astronaut(128, 128).float()
    with torch.no_grad():
        y = start.eval().g_a(x)
        # A product with fewer rows may add in another order.
        torch.testing.assert_close(codec.g_a(x), 0.5 * y[:, : 8 * m])
        assert torch.equal(codec.g_s(y), start.g_s(y))
        if m == 5:  # all slices: the same latent is coded in the same way
            latents = [c.code_latent(y)[0] for c in (codec, start)]
            assert torch.equal(*latents)


@pytest.mark.parametrize("kind", [TCM, DifferenceCodec, partial(AdditionalCodec, 2)])
def test_a_start_of_another_size_says_what_differs_and_what_to_do(
    kind: Callable[..., TCM], start: TCM
) -> None:
    with pytest.raises(SicError) as error:
        made(lambda: kind(**{**SIZES, "N": 16}), stage("start.safetensors"), 0)
    assert str(error.value) == (
        "params.yaml has codec.N: 16, but start.safetensors was trained with N 8; set "
        "`init: data/weights/scratch` there to begin with new weights, or the sizes back"
    )
    wider = replace(SIZES["widths"], head_dims=(8, 8, 8))
    with pytest.raises(SicError, match=r"has codec.M: 45, codec.head_dims: \(8, 8, 8\), but"):
        made(lambda: kind(**{**SIZES, "M": 45, "widths": wider}), stage("start.safetensors"), 0)


def test_a_base_cannot_start_from_an_additional_codec(start: TCM) -> None:
    weights.save(Path("m5.safetensors"), AdditionalCodec(5, **SIZES), {})
    with pytest.raises(SicError, match=r"m5.safetensors holds an additional codec, from which"):
        made(lambda: TCM(**SIZES), stage("m5.safetensors"), 0)


def test_a_folder_gives_each_item_its_own_start(start: TCM, tmp_path: Path) -> None:
    (tmp_path / "lic").mkdir()
    weights.save(tmp_path / "lic/q2.safetensors", start, {})
    codec, origin = jobs.initial(lambda: TCM(**SIZES), stage("lic"), 0, "q2")
    assert weights.fingerprint(codec) == weights.fingerprint(start)
    assert origin == "lic/q2.safetensors"


def test_a_folder_without_an_item_s_start_says_what_it_has(start: TCM, tmp_path: Path) -> None:
    for name in ("m5-q1", "m5-q0"):
        weights.save(tmp_path / f"fusion/{name}.safetensors", start, {})
    remedy = "; add it, or set `init` to one file, or to data/weights/scratch"
    with pytest.raises(SicError) as error:
        jobs.initial(lambda: TCM(**SIZES), stage("fusion"), 0, "m3-q2")
    assert str(error.value) == f"init: fusion has no m3-q2.safetensors, only m5-q0, m5-q1{remedy}"
    (tmp_path / "empty").mkdir()
    with pytest.raises(SicError) as error:
        jobs.initial(lambda: TCM(**SIZES), stage("empty"), 0, "base")
    assert str(error.value) == f"init: empty has no base.safetensors, nor any other{remedy}"


def test_a_trained_additional_codec_is_taken_as_it_is(start: TCM) -> None:
    given = AdditionalCodec(2, **SIZES)
    weights.save(Path("m2.safetensors"), given, {})
    taken = made(lambda: AdditionalCodec(2, **SIZES), stage("m2.safetensors"), 0)
    assert weights.fingerprint(taken) == weights.fingerprint(given)
    fewer = made(lambda: AdditionalCodec(1, **SIZES), stage("m2.safetensors"), 0)
    x, y_hat = astronaut(128, 128).float(), torch.randn(1, 40, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(fewer.g_a(x), given.g_a(x)[:, :8])
        assert torch.equal(fewer.g_s(y_hat), given.g_s(y_hat))
    with pytest.raises(SicError, match=r"m2.safetensors: m = 3 slices cannot start from m = 2"):
        made(lambda: AdditionalCodec(3, **SIZES), stage("m2.safetensors"), 0)


def test_feature_residual_starts_with_the_whole_encoder_of_a_lic(start: TCM) -> None:
    """ya = y − ŷ of the LIC's own y, which is twice what fusion starts with."""
    codec = made(
        lambda: AdditionalCodec(3, **SIZES, residual="feature"), stage("start.safetensors"), 0
    )
    x = astronaut(128, 128).float()
    with torch.no_grad():
        torch.testing.assert_close(codec.eval().g_a(x), start.eval().g_a(x)[:, :24])


def test_conditional_residual_starts_from_one_without_and_from_more_slices(start: TCM) -> None:
    plain = AdditionalCodec(2, **SIZES, residual="feature")
    given = AdditionalCodec(2, **SIZES, residual="feature", condition=True)
    torch.nn.init.ones_(given.condition_mean[2].weight)
    weights.save(Path("fr.safetensors"), plain, {})
    weights.save(Path("cfr.safetensors"), given, {})

    def conditional(init: str, m: int) -> AdditionalCodec:
        kind = {"residual": "feature", "condition": True}
        return made(lambda: AdditionalCodec(m, **SIZES, **kind), stage(init), 0)

    first = conditional("fr.safetensors", 2)
    assert not first.condition_mean[2].weight.any()
    found = first.state_dict()
    for key, tensor in plain.state_dict().items():
        assert torch.equal(found[key], tensor), key
    fewer = conditional("cfr.safetensors", 1)
    assert torch.equal(fewer.condition_mean[2].weight, given.condition_mean[2].weight[:8])
    with pytest.raises(SicError, match=r"cfr.safetensors: of two additional codecs both or none"):
        made(lambda: AdditionalCodec(1, **SIZES), stage("cfr.safetensors"), 0)


# ---- jobs ----


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> params.Params:
    """A study of the tests' tiny codec, two bases and λ of its own, in a folder with no photos and
    the base on which the second layers stand."""
    committed = params.load(Path(__file__).parents[1] / "params.yaml")
    bases = committed.sa_icm.model_copy(update={"quality": ["q1", "q3"], "base": "q3"})
    points = {f"q{k}": params.Point(lmbda=lmbda) for k, lmbda in enumerate(LAMBDA)}
    here = committed.model_copy(update={"sa_icm": bases, "quality": points})
    w = SIZES["widths"]
    sizes = {k: SIZES[k] for k in ("N", "M", "num_slices")} | vars(w)
    scratch = {"init": "data/weights/scratch"}
    also = {
        asked.name: asked
        for condition in (False, True)
        for asked in [
            params.FusionCodec(m=2, quality="q1", residual="feature", condition=condition)
        ]
    }
    here = here.model_copy(
        update={
            "fusion": here.fusion.model_copy(update={"codecs": here.fusion.codecs | also}),
        }
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs.crops, "photos", lambda *_: [])
    weights.save(checkpoint(here.base), a_codec(), {})
    return here.model_copy(
        update={
            "codec": params.Codec(**sizes),
            **{
                name: getattr(here, name).model_copy(update=scratch)
                for name in ("sa_icm", "lic", "fusion", "difference")
            },
        }
    )


@pytest.mark.parametrize(
    ("name", "kind", "about"),
    [
        ("sa_icm/q1", TCM, {"lmbda": 0.005}),
        ("sa_icm/q3", TCM, {"lmbda": 0.02}),
        ("lic/q1", TCM, {"lmbda": 0.005}),
        ("fusion/m3-q1", AdditionalCodec, {"m": 3, "lmbda": 0.005}),
        ("fusion/fr-m2-q1", AdditionalCodec, {"m": 2, "residual": "feature", "condition": False}),
        ("fusion/cfr-m2-q1", AdditionalCodec, {"m": 2, "residual": "feature", "condition": True}),
        ("difference/q2", DifferenceCodec, {"lmbda": 0.01}),
    ],
)
def test_a_name_is_a_job(
    name: str, kind: type, about: dict[str, float], study: params.Params
) -> None:
    job = jobs.job(study, name)
    assert (job.run.name, type(job.codec)) == (name, kind)
    assert about.items() <= job.run.about.items()
    assert ("condition" in about) == ("condition" in job.run.about), "fusion's runs are older"
    if name.startswith(("fusion", "difference")):
        base = weights.metadata(checkpoint(study.base))["fingerprint"]
        assert job.run.about["base"] == base, "another base is another run"


@pytest.mark.parametrize(
    "name",
    ["", "lic", "sa_icm", "sa_icm/q2", "lic/q9", "lic/q4", "fusion/m6-q1", "fusion"],
)
def test_other_names_are_refused(name: str, study: params.Params) -> None:
    with pytest.raises(
        SicError, match=f"trains no codec '{name}': there are sa_icm/q1, sa_icm/q3, lic/q"
    ):
        jobs.job(study, name)


def test_a_second_layer_stands_on_the_base_that_is_named(study: params.Params) -> None:
    with_q1 = study.sa_icm.model_copy(update={"base": "q1"})
    moved = study.model_copy(update={"sa_icm": with_q1})
    with pytest.raises(SicError, match=r"no checkpoint artifacts/sa_icm/q1/codec.safetensors"):
        jobs.job(moved, "fusion/m3-q1")
    weights.save(checkpoint("sa_icm/q1"), a_codec(seed=1), {})
    for name in ("fusion/m3-q1", "difference/q2"):
        found = [jobs.job(s, name).run.about["base"] for s in (study, moved)]
        assert found == [weights.fingerprint(a_codec(seed)) for seed in (0, 1)]


@pytest.mark.parametrize(
    ("name", "codec"),
    [("fusion/m3-q1", AdditionalCodec(3, **SIZES)), ("difference/q2", DifferenceCodec(**SIZES))],
)
def test_a_second_layer_that_is_not_trained_is_refused_on_another_base(
    name: str, codec: TCM, study: params.Params
) -> None:
    stage = name.partition("/")[0]
    as_it_is = {"init": "given.safetensors", "train": False}
    taken = study.model_copy(update={stage: getattr(study, stage).model_copy(update=as_it_is)})
    for base in (None, weights.fingerprint(a_codec())):  # a published one, or one of this base
        weights.save(Path("given.safetensors"), codec, {"base": base} if base else {})
        assert jobs.job(taken, name).run.steps == 0
    weights.save(Path("given.safetensors"), codec, {"base": weights.fingerprint(a_codec(seed=1))})
    refused = r"given.safetensors was trained on another base than artifacts/sa_icm/q3/codec.*base"
    with pytest.raises(SicError, match=refused):
        jobs.job(taken, name)
    jobs.job(study, name)  # what trains may start from anything


def test_a_finished_job_leaves_weights_with_their_origin(study: params.Params) -> None:
    job = jobs.job(study, "lic/q1")
    jobs.finish(job, pd.DataFrame({"step": [0], "loss": [1.0]}))
    folder = Path("artifacts/lic/q1")
    assert sorted(f.name for f in folder.iterdir()) == ["codec.safetensors", "history.csv"]
    origin = weights.metadata(folder / "codec.safetensors")["origin"]
    assert origin == {
        "stage": "lic",
        "lmbda": 0.005,
        "init": "scratch",
        "steps": job.run.steps,
        "seed": 0,
        "photos": len(job.run.photos),
        "train": study.train.model_dump(),
    }
