"""The learning rate over the steps."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sic import params
from sic.training.run import rate_factor

TRAIN = params.load(Path(__file__).parents[1] / "params.yaml").train


def of(**changes: object) -> params.Train:
    return TRAIN.model_copy(update=changes)


def test_multistep_drops_by_ten_at_the_published_shares() -> None:
    settings = of(schedule="multistep", milestones=[0.9, 0.96])
    rates = [rate_factor(step, 50, settings) for step in range(50)]
    assert rates == pytest.approx([1.0] * 45 + [0.1] * 3 + [0.01] * 2)


def test_cosine_falls_to_zero() -> None:
    settings = of(schedule="cosine")
    assert rate_factor(0, 100, settings) == 1
    assert rate_factor(50, 100, settings) == pytest.approx(0.5)
    assert rate_factor(100, 100, settings) == pytest.approx(0)


@pytest.mark.parametrize("schedule", ["multistep", "cosine"])
def test_a_warm_up_rises_evenly(schedule: str) -> None:
    settings = of(schedule=schedule, warmup=4, milestones=[0.9])
    assert [rate_factor(s, 1000, settings) for s in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rate_factor(4, 1000, settings) == 1


@given(
    schedule=st.sampled_from(["multistep", "cosine"]),
    warmup=st.integers(0, 50),
    steps=st.integers(1, 200),
)
def test_after_the_warm_up_the_rate_never_rises(schedule: str, warmup: int, steps: int) -> None:
    settings = of(schedule=schedule, warmup=warmup)
    rates = [rate_factor(step, steps, settings) for step in range(warmup, steps + 1)]
    assert all(0 <= rate <= 1 for rate in rates)
    assert rates == sorted(rates, reverse=True)
