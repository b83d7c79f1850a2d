"""Fig. 3: the scalable codec as a drawing, with the study's own numbers in it."""

from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from sic.report.figures import LOOKS
from sic.report.page import literal

_BASE, _ADDED, _SHARED = LOOKS["SA-ICM"]["color"], LOOKS["fusion"]["color"], "0.35"


@dataclass(frozen=True)
class Structure:
    """What stands in the drawing.

    Args:
        n: slices of ŷ.
        m: slices of ŷa, at most n.
        channels: of a slice.
        parameters: millions, of the base and of the additional codec, decoders counted in.
        bpp: of the base and of the additional information, of one picture.
        psnr: dB of x̂_t and of x̂, of that picture.
        about: that picture and rate point.
    """

    n: int
    m: int
    channels: int
    parameters: tuple[float, float]
    bpp: tuple[float, float]
    psnr: tuple[float, float]
    about: str


def draw(structure: Structure) -> Figure:
    """The way of a picture through both layers: machines take the upper branch, people the sum."""
    s = structure
    figure = Figure(figsize=(12, 5), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 12), ylim=(0, 5))
    axes.axis("off")
    _box(axes, 0.7, 2.5, "image\nx", _SHARED, width=0.9)
    for y, name, colour, k in ((4, "base", _BASE, 0), (1, "additional", _ADDED, 1)):
        slices = s.m if k else s.n
        latent = "ya" if k else "y"
        title = f"{name} encoder\n(codec: {s.parameters[k]:.1f} M parameters)"
        _box(axes, 2.5, y, title, colour, width=2.1)
        _box(axes, 4.9, y, f"range coder\n{s.bpp[k]:.3f} bpp", colour, width=1.7)
        _slices(axes, 6.5, y, slices, s.n, colour)
        axes.text(
            7.05, y - 0.72, f"ŷ{latent[1:]}: {slices} × {s.channels} channels", ha="center", size=9
        )
        _arrow(axes, (1.2, 2.5), (1.4, y))
        _arrow(axes, (3.6, y), (4, y), latent)
        _arrow(axes, (5.8, y), (6.4, y))
    _box(axes, 8.75, 2.5, f"+\nfor k ≤ m = {s.m}", _ADDED, width=1.3)
    _arrow(axes, (7.65, 3.7), (8.4, 2.95))
    _arrow(axes, (7.65, 1.3), (8.4, 2.05))
    machine = f"g_machine → x̂_t\nfor machines\n{s.psnr[0]:.2f} dB"
    human = f"g_human → x̂\nfor people\n{s.psnr[1]:.2f} dB"
    _box(axes, 10.9, 4, machine, _BASE, width=1.9)
    _box(axes, 10.9, 2.5, human, _ADDED, width=1.9)
    _arrow(axes, (7.7, 4), (9.9, 4))
    _arrow(axes, (9.4, 2.5), (9.9, 2.5), "ŷf")
    about = f"Fig. 3: structure of the scalable codec; numbers of {s.about}"
    figure.suptitle(literal(about), fontsize=10)
    return figure


def _box(axes: Axes, x: float, y: float, text: str, colour: Any, width: float) -> None:
    lines = text.count("\n") + 1
    height = 0.3 + 0.3 * lines
    corner, style = (x - width / 2, y - height / 2), "round,pad=0,rounding_size=0.08"
    axes.add_patch(
        FancyBboxPatch(corner, width, height, style, facecolor="white", edgecolor=colour, lw=2)
    )
    axes.text(x, y, text, ha="center", va="center", size=9.5, linespacing=1.35)


def _slices(axes: Axes, x: float, y: float, filled: int, places: int, colour: Any) -> None:
    """The slices of a latent as bars; those that are not sent are outlines."""
    for k in range(places):
        face = colour if k < filled else "white"
        left = x + 1.1 * k / places
        axes.bar(left, 0.9, 0.8 / places, y - 0.45, color=face, edgecolor=colour, align="edge")


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str = ""
) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": _SHARED, "lw": 1.4})
    if text:
        x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        axes.text(x, y + 0.1, text, ha="center", size=9.5)
