"""Costs: time and memory of what ran, and operations that can be counted by hand."""

import time

import numpy as np
import pandas as pd
import pytest
import torch
from small import SIZES, WIDTHS

from sic.codec import complexity
from sic.codec.tcm import TCM, Widths


def test_time_is_that_of_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((100.0, 102.5))
    monkeypatch.setattr(complexity.time, "perf_counter", lambda: next(clock))
    with complexity.measure("cpu") as found:
        pass
    assert found.seconds == 2.5


def test_peak_memory_sees_what_is_gone_at_the_end() -> None:
    with complexity.measure("cpu") as before:
        pass
    with complexity.measure("cpu") as found:
        block = np.ones(40_000_000)  # 320 MB
        time.sleep(0.05)
        del block
    assert found.peak_bytes - before.peak_bytes > 250e6


def test_a_failure_in_the_block_comes_through() -> None:
    with pytest.raises(RuntimeError, match="of the block"), complexity.measure("cpu"):
        raise RuntimeError("of the block")


def test_operations_of_a_convolution_are_those_of_its_formula() -> None:
    # Each of 8×8 outputs in 6 channels takes 3·3·3 products; 10×10 pixels came in.
    convolution = torch.nn.Conv2d(3, 6, 3)
    kmac = complexity.kmac_per_pixel(lambda: convolution(torch.zeros(1, 3, 10, 10)), 100)
    assert kmac == pytest.approx(6 * 27 * 64 / 1000 / 100)


def test_operations_of_a_codec_follow_from_its_shapes() -> None:
    narrow, wide = TCM(**SIZES), TCM(**{**SIZES, "M": 80})
    few, many = complexity.coding_kmac(narrow), complexity.coding_kmac(wide)
    assert complexity.coding_kmac(narrow, side=256) == pytest.approx(few)
    # The last convolution of g_a: 9 taps, 16 channels to 40, on 1/256 of the pixels.
    assert many["encoder"] > few["encoder"] + 9 * 16 * 40 / 256 / 1000


def test_operations_of_a_small_codec_are_the_same_on_either_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = (8, 16, 2, WIDTHS)
    computed = complexity.table_1(*sizes)
    monkeypatch.setattr(complexity, "WINOGRAD_CHANNELS", 0)
    pd.testing.assert_frame_equal(complexity.table_1(*sizes), computed)


def test_table_1_has_the_papers_numbers_at_the_papers_size() -> None:
    table = complexity.table_1(128, 320, 5, Widths())
    assert list(table.codec) == ["base"] + 5 * ["additional"]
    millions = (table.dropna().set_index("m").parameters / 1e6).round(1)
    assert millions.to_dict() == complexity.TABLE_I
    own = complexity.millions(128, 320, 5, Widths())
    assert own.to_dict() == (table.dropna().set_index("m").parameters / 1e6).to_dict()
    assert table.parameters[0] == table.parameters[5], "the additional codec of all slices"
    assert table.encoder[1:].is_monotonic_increasing
