"""What a codec costs: parameters (Table I) and multiply-accumulates per pixel."""

import copy
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pandas as pd
import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from sic.codec.fast import WINOGRAD_CHANNELS
from sic.codec.fusion import AdditionalCodec
from sic.codec.tcm import TCM, Widths

#: Table I of the paper: millions of parameters of the additional codec by m; N = 128, M = 320.
TABLE_I = {1: 45.9, 2: 51.7, 3: 58.7, 4: 67.0, 5: 76.6}


def parameters(codec: TCM) -> int:
    """Number of trained values."""
    return sum(p.numel() for p in codec.parameters())


def millions(N: int, M: int, num_slices: int, widths: Widths) -> pd.Series:
    """Table I's own column at any size: millions of parameters of the additional codec, by m.  To
    count the operations as well, as :func:`table_1`, takes ten times as long."""
    with torch.device("meta"):
        codecs = {m: AdditionalCodec(m, N, M, num_slices, widths) for m in range(1, num_slices + 1)}
    return pd.Series(codecs, name="parameters").map(parameters).rename_axis("m") / 1e6


def kmac_per_pixel(run: Callable[[], object], pixels: int) -> float:
    """Thousands of multiply-accumulates per pixel of what ``run`` does, counted by PyTorch."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2 / 1000 / pixels  # a multiply-accumulate is two operations


@torch.no_grad()
def coding_kmac(codec: TCM, side: int = 128) -> dict[str, float]:
    """Thousands of multiply-accumulates per pixel: `encoder` is g_a, h_a and the entropy model,
    `decoder` the entropy model and g_s.  ``side``, of a square image, is a multiple of 128."""
    codec = copy.deepcopy(codec).to(_device(codec.N)).eval()
    x = next(codec.parameters()).new_zeros(1, 3, side, side)
    y = codec.g_a(x)
    latent_channels = codec.base_M if isinstance(codec, AdditionalCodec) else codec.M
    y_hat = x.new_zeros(1, latent_channels, side // 16, side // 16)
    analysis, hyper_analysis, latent, synthesis = (
        kmac_per_pixel(run, side * side)
        for run in (
            lambda: codec.g_a(x),
            lambda: codec.h_a(y),
            lambda: codec.code_latent(y, y_hat),  # h_a, h_s and the slice networks
            lambda: codec.g_s(y_hat),
        )
    )
    return {"encoder": analysis + latent, "decoder": latent - hyper_analysis + synthesis}


def _device(N: int) -> str:
    """Where operations are counted: on the meta device, where no fast algorithm has fewer of them
    and nothing takes memory.  Small codecs have no fast one, and PyTorch computes them in a sixth
    of the time that it needs for their shapes alone."""
    return "meta" if 2 * N >= WINOGRAD_CHANNELS else "cpu"


def table_1(N: int, M: int, num_slices: int, widths: Widths) -> pd.DataFrame:
    """Table I at any size: one row per codec, the base and then the additional codec of each m,
    with its `parameters` and the kMAC per pixel of `encoder` and `decoder`."""
    sizes, rows = (N, M, num_slices, widths), []
    for m in (None, *range(1, num_slices + 1)):
        with torch.device(_device(N)):
            codec = AdditionalCodec(m, *sizes) if m else TCM(*sizes)
        about = {"codec": "additional" if m else "base", "m": m}
        rows.append({**about, "parameters": parameters(codec), **coding_kmac(codec)})
    return pd.DataFrame(rows).astype({"m": "Int64"})


@dataclass
class Cost:
    """Wall time and peak memory, filled in when :func:`measure` ends: on a GPU what PyTorch had
    allocated there, on the CPU what the whole process held, with libraries and weights."""

    seconds: float = 0.0
    peak_bytes: int = 0


@contextmanager
def measure(device: torch.device | str) -> Iterator[Cost]:
    """Time and memory of what runs inside the block, which is waited for on a GPU."""
    cost, gpu = Cost(), torch.device(device).type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
    with _watched_memory() as memory:
        start = time.perf_counter()
        yield cost
        if gpu:
            torch.cuda.synchronize(device)
        cost.seconds = time.perf_counter() - start
    cost.peak_bytes = torch.cuda.max_memory_allocated(device) if gpu else max(memory)


@contextmanager
def _watched_memory() -> Iterator[list[int]]:
    """The process's resident bytes, seen again and again; whole when the block has ended."""
    process, seen, done = psutil.Process(), [], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):  # seconds between two looks
            seen.append(process.memory_info().rss)

    seen.append(process.memory_info().rss)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()
        seen.append(process.memory_info().rss)
