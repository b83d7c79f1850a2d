"""Costs: time and memory of what ran, and operations that can be counted by hand."""

import time

import numpy as np
import pytest
import torch

from sic.codec import complexity


def test_time_is_that_of_the_block() -> None:
    with complexity.measure("cpu") as found:
        time.sleep(0.05)
    assert 0.05 <= found.seconds < 1


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
    kmac = complexity.measured_kmac_per_pixel(lambda: convolution(torch.zeros(1, 3, 10, 10)), 100)
    assert kmac == pytest.approx(6 * 27 * 64 / 1000 / 100)
