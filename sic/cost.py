"""What running a codec costs: time, memory, and operations, measured while it runs."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

_PERIOD = 0.005  # seconds between two looks at the memory


@dataclass
class Cost:
    """Filled in when :func:`measure` ends.

    Args:
        seconds: wall time.
        peak_bytes: the most memory held at once: on a GPU what PyTorch had allocated there, on
            the CPU what the whole process held, with libraries and weights.
    """

    seconds: float = 0.0
    peak_bytes: int = 0


@contextmanager
def measure(device: torch.device | str) -> Iterator[Cost]:
    """Time and memory of what runs inside the block.

    Args:
        device: where it runs; on a GPU the block is waited for.
    """
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
        while not done.wait(_PERIOD):
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


def kmac_per_pixel(run: Callable[[], object], pixels: int) -> float:
    """Thousands of multiply-accumulates a pixel of what ``run`` does, counted by PyTorch."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2 / 1000 / pixels
