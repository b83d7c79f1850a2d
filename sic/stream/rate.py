"""The step of a layer that meets a target: a size or a PSNR of one picture, found by search.

Both fall as the step grows, ln of the size and dB nearly along straight lines over the step's
logarithm, so that false position needs few trials.  A trial is all of an encoding but the
transforms.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from sic.errors import SicError
from sic.stream.container import MAX_STEP, MIN_STEP, nearest_step

Unit = Literal["bytes", "bpp", "psnr"]
T = TypeVar("T")

#: Most trials of a search.
TRIALS = 12
#: What is close enough: 2 % below a size, or 0.02 dB above a PSNR.
_SLACK = {"bytes": 0.02, "bpp": 0.02, "psnr": 0.02}
_FORMAT = {"bytes": "{:,.0f} bytes", "bpp": "{:.4f} bpp", "psnr": "{:.2f} dB"}


@dataclass(frozen=True)
class Target:
    """What a step is chosen for: at most so many ``bytes`` or ``bpp`` (bits per pixel) of the layer
    and the one below it together, or at least so many dB of ``psnr``.  Raises SicError if the value
    is no number above zero."""

    unit: Unit
    value: float

    def __post_init__(self) -> None:
        if not 0 < self.value < math.inf:
            raise SicError(f"{self.unit} should be a number above 0, not {self.value:g}")

    def text(self, value: float) -> str:
        """A value with the target's unit."""
        return _FORMAT[self.unit].format(value)

    def excess(self, value: float) -> float:
        """How far a value lies above the target: ln of the sizes' ratio, or dB."""
        if self.unit == "psnr":
            return min(value, 99.0) - self.value  # of equal pictures it is infinite
        return math.log(value / self.value)


#: How a step is chosen: the step itself, or what it shall reach.
Step = float | Target


@dataclass(frozen=True)
class _Trial(Generic[T]):
    """An encoding, what it reached, and how far that is above the target."""

    step: float
    encoding: T
    value: float
    excess: float


def search(write: Callable[[float], T], reached: Callable[[T], float], target: Target) -> T:
    """The encoding whose step meets a target: ``write`` encodes with a step, and ``reached``
    measures an encoding in the target's unit.

    It is the first trial within 2 % below a size or 0.02 dB above a PSNR, or else the closest on
    that side of the target after :data:`TRIALS`.  Raises SicError, which names the range that can
    be reached, if the target lies outside of it.
    """
    floor = target.unit == "psnr"
    low, high = (0.0, _SLACK["psnr"]) if floor else (-_SLACK[target.unit], 0.0)
    trials = 0

    def trial(step: float) -> _Trial[T]:
        nonlocal trials
        trials += 1
        encoding = write(step)
        value = reached(encoding)
        return _Trial(step, encoding, value, target.excess(value))

    fine, coarse, new = _bracket(trial, low, high)
    if fine.excess < low or coarse.excess > high:
        ends = (coarse, MAX_STEP), (fine, MIN_STEP)
        raise _out_of_reach(target, *(one if one.step == end else trial(end) for one, end in ends))
    # How far the two are above and below the aim, as false position sees it.
    aim = (low + high) / 2
    above, below = fine.excess - aim, aim - coarse.excess
    while not low <= new.excess <= high and trials < TRIALS:
        ratio = coarse.step / fine.step
        steps = [nearest_step(fine.step * ratio**share) for share in (above / (above + below), 0.5)]
        between = [step for step in steps if fine.step < step < coarse.step]
        if not between:
            break  # the two are neighbours
        new, before = trial(between[0]), new
        # An end that stays twice counts half (the Illinois rule), or it would stay for long.
        if new.excess > aim:
            below /= 2 if before is fine else 1
            fine, above = new, new.excess - aim
        else:
            above /= 2 if before is coarse else 1
            coarse, below = new, aim - new.excess
    if low <= new.excess <= high:
        return new.encoding
    return (fine if floor else coarse).encoding


def _bracket(
    trial: Callable[[float], _Trial[T]], low: float, high: float
) -> tuple[_Trial[T], _Trial[T], _Trial[T]]:
    """A fine and a coarse trial with the target between them, from step 1 outwards by factors of 4
    as far as there are steps; and the last one tried."""
    fine = coarse = trial(1.0)
    if fine.excess < low:
        while fine.excess < low and fine.step > MIN_STEP:
            fine, coarse = trial(fine.step / 4), fine
        return fine, coarse, fine
    while coarse.excess > high and coarse.step < MAX_STEP:
        fine, coarse = coarse, trial(4 * coarse.step)
    return fine, coarse, coarse


def _out_of_reach(target: Target, least: _Trial[T], most: _Trial[T]) -> SicError:
    return SicError(
        f"{target.text(target.value)} cannot be reached: with these weights the picture has "
        f"{target.text(least.value)} (step {MAX_STEP:g}) to {target.text(most.value)} "
        f"(step {MIN_STEP:g}); ask for a value between them"
    )
