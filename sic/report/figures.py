"""The paper's figures and tables, drawn from the study's own numbers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from numpy.typing import NDArray

from sic.anchors import classical
from sic.evaluation.bd import LAYERED, RESIDUAL
from sic.files import replacing
from sic.images import Pixels
from sic.params import PREFIXES
from sic.report.page import literal

#: One look per codec in every figure: colours that the colour-blind tell apart, too, most of them
#: of seaborn's palette `colorblind`, and markers.
LOOKS: dict[str, dict[str, Any]] = {
    "fusion": {"color": "#d55e00", "marker": "o"},
    "FR": {"color": "#8b0000", "marker": "p"},
    "conditional FR": {"color": "#006d6d", "marker": "X"},
    "difference": {"color": "#0173b2", "marker": "s"},
    "LIC": {"color": "#029e73", "marker": "^"},
    "SA-ICM": {"color": "#de8f05", "marker": "*"},
    "VVC+M": {"color": "#882255", "marker": "v"},
    "VVC": {"color": "black", "marker": "D"},
    "HEVC": {"color": "#7a7a00", "marker": "h"},
    "AVIF": {"color": "#56b4e9", "marker": "P"},
    "JPEG XL": {"color": "#4b2e83", "marker": "1"},
    "WebP": {"color": "#cc78bc", "marker": "+"},
    "JPEG": {"color": "#949494", "marker": "x"},
}
NAMES = {
    "fusion": "proposed (feature fusion)",
    "FR": "feature residual (FR)",
    "difference": "DC model",
    "LIC": "LIC for people",
    "SA-ICM": "SA-ICM, x̂_t",
}


_RAMPS = {"fusion": "flare_r", "FR": "rocket", "conditional FR": "crest_r"}


def by_m(slices: Iterable[Any], codec: str = "fusion") -> dict[Any, dict[str, Any]]:
    """How feature fusion, FR or conditional FR looks at each m: the largest as in every figure,
    others as outlines."""
    import seaborn as sns  # with SciPy's statistics, which takes a second

    found = sorted(set(slices))
    ramp = sns.color_palette(_RAMPS[codec], len(found))
    marked = zip(found[:-1], cycle("^sDvo"), ramp, strict=False)
    outlines = {m: {"color": c, "marker": k, "markerfacecolor": "white"} for m, k, c in marked}
    return outlines | dict.fromkeys(found[-1:], LOOKS[codec])


def plain(axes: Axes) -> None:
    """Quiet axes: a faint grid, a frame only where numbers stand."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


#: Table II of the paper: PSNR of x̂ in dB on COCO val2017, by λ and m (not every cell is given).
TABLE_II = {
    0.005: {3: 29.83, 4: 29.76, 5: 29.79},
    0.010: {1: 29.95, 2: 30.76, 3: 31.03, 4: 31.26, 5: 31.22},
    0.020: {3: 32.63, 4: 32.82, 5: 32.83},
    0.030: {3: 33.28, 4: 33.81, 5: 33.93},
}
#: SA-ICM as published, on COCO: by λ its bpp, and mAP50-95 in percent of boxes and masks that
#: detectors find in x̂_t.
SA_ICM = pd.DataFrame(
    {
        "bpp": [0.149, 0.179, 0.205, 0.227, 0.244],
        "YOLOv5m, boxes": [40.3, 41.1, 41.6, 41.9, 42.2],
        "Faster R-CNN, boxes": [33.2, 34.3, 35.0, 35.3, 35.7],
        "Mask R-CNN, boxes": [33.8, 34.7, 35.2, 35.6, 35.9],
        "Mask R-CNN, masks": [30.4, 31.2, 31.8, 32.1, 32.5],
    },
    index=[0.02, 0.03, 0.04, 0.05, 0.06],
)
#: The codecs of the paper's Fig. 6, in the order of its legend, and FR after its rival.
FIG_6 = ("fusion", *RESIDUAL, "difference", "LIC", "VVC")
#: What VTM's series is called that others measured.
PUBLISHED = "VVC (VTM, 4:4:4): published for Kodak, not rerun"


def save(figure: Figure, path: Path) -> None:
    """Write a figure as ``path.png`` and ``path.svg``, each whole or not at all."""
    for suffix, options in ((".png", {"dpi": 150}), (".svg", {"metadata": {"Date": None}})):
        # The salt makes the ids in the SVG, and so its bytes, the same in each run.
        salted = rc_context({"svg.hashsalt": "sic"})
        with salted, replacing(path.with_suffix(suffix)) as temporary:
            figure.savefig(temporary, format=suffix[1:], **options)


def mask_beside_image(
    pictures: Mapping[str, tuple[Pixels, NDArray[np.bool_]]], caption: str
) -> Figure:
    """Fig. 2: each image, (H, W, 3), above its edge mask m_x, (H, W)."""
    figure, axes = _two_rows(3.6, 5.6, len(pictures), caption)
    for column, (name, (image, mask)) in zip(axes.T, pictures.items(), strict=True):
        column[0].imshow(image)
        column[0].set_title(literal(name))
        column[1].imshow(mask, cmap="gray", interpolation="nearest")
        column[1].set_title(f"m_x, {mask.mean():.1%} of the pixels", fontsize=10)
    return figure


def pictures_side_by_side(
    pictures: Sequence[tuple[str, Pixels]], zoom: tuple[int, int, int], caption: str
) -> Figure:
    """Fig. 5: pictures of one scene with their labels, and below each the same crop enlarged, given
    by its top, left and side in pixels."""
    top, left, side = zoom
    figure, axes = _two_rows(3.4, 7, len(pictures), caption)
    for column, (label, picture) in zip(axes.T, pictures, strict=True):
        column[0].imshow(picture)
        column[0].add_patch(Rectangle((left, top), side, side, fill=False, ec="yellow", lw=1.5))
        column[0].set_title(label, fontsize=9)
        window = picture[top : top + side, left : left + side]
        column[1].imshow(window, interpolation="nearest")
        column[1].set_title(f"{side}×{side} pixels of it", fontsize=8)
    return figure


def in_a_grid(pictures: Mapping[str, Pixels], caption: str) -> Figure:
    """Pictures, uint8 (H, W, 3), with their labels, two or three in a row."""
    columns = 2 if len(pictures) in (2, 4) else 3
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(4 * columns, 3.2 * rows), layout="constrained")
    _caption(figure, caption)
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in places:
        axes.axis("off")
    for axes, (label, picture) in zip(places, pictures.items(), strict=False):
        axes.imshow(picture)
        axes.set_title(literal(label), fontsize=10)
    return figure


def _two_rows(width: float, height: float, columns: int, caption: str) -> tuple[Figure, Any]:
    """A figure of pictures, so many inches wide for each column, and its axes, (2, columns)."""
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    _caption(figure, caption)
    axes = figure.subplots(2, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    return figure, axes


def rate_distortion(
    means: pd.DataFrame, m: int, caption: str, published: Sequence[tuple[float, float]] = ()
) -> Figure:
    """Fig. 6: PSNR against bits, once counting additional bits alone, once all bits; the paper's
    four curves and those of FR where they were measured, x̂_t of each base as a star, and points
    of VTM that others published (:func:`sic.anchors.cached.published`)."""
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    means, caption = _finite(means, caption)
    shown = means[means.codec.isin(FIG_6) & (means.m.isna() | (means.m == m))]
    base = means[means.codec == "SA-ICM"].sort_values("bpp")
    for codec in filter(set(shown.codec).__contains__, FIG_6):
        rows = shown[shown.codec == codec].sort_values("bpp")
        drawn = {"label": legend(rows.iloc[0]), **LOOKS[codec]}
        layered = codec in LAYERED
        left.plot(rows.bpp_additional if layered else rows.bpp, rows.psnr, **drawn)
        right.plot(rows.bpp, rows.psnr, **drawn)
    if published:
        for axes in (left, right):
            axes.plot(*zip(*published, strict=True), ls=":", color="0.4", label=PUBLISHED)
    right.plot(base.bpp, base.psnr_machine, ms=12, label=NAMES["SA-ICM"], **LOOKS["SA-ICM"])
    widest = 1.15 * shown[shown.codec != "VVC"].bpp.max()
    seen = pd.concat([shown[shown.bpp <= widest].psnr, base.psnr_machine]).dropna()
    left.set(title="additional bits alone (of second layers)")
    right.set(title="base + additional bits")
    left.set_ylabel("PSNR of the picture for people (dB)")
    for axes in (left, right):
        axes.set(xlabel="bits per pixel")
        if len(seen) and widest > 0:
            axes.set(xlim=(0, widest), ylim=(seen.min() - 0.5, seen.max() + 0.5))
        plain(axes)
    # Below the panels: names with their set-up are long, and one list serves both.
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    _caption(figure, caption)
    return figure


def _finite(means: pd.DataFrame, caption: str) -> tuple[pd.DataFrame, str]:
    """The points that can be drawn; the caption counts those that cannot."""
    finite = ~np.isinf(means[["psnr", "psnr_machine"]].astype(float)).any(axis=1)
    if gone := int((~finite).sum()):
        caption += f"; not drawn, as a photo came back without loss: {gone} points"
    return means[finite], caption


def legend(row: "pd.Series[Any]") -> str:
    """A codec's name in figures: of a classical one with its set-up, so that it can be repeated."""
    if row.codec in NAMES or pd.isna(row.preset):
        return NAMES.get(row.codec, row.codec)
    return classical.label(row.codec, row.version, row.preset, row.chroma, row.bit_depth)


def quality_by_m(means: pd.DataFrame, caption: str) -> Figure:
    """Fig. 7: PSNR against additional bits, one curve for each m."""
    figure = Figure(figsize=(6.5, 5), layout="constrained")
    axes = figure.subplots()
    means, caption = _finite(means, caption)
    means = means[means.codec == "fusion"]
    for m, look in by_m(means.m).items():
        rows = means[means.m == m].sort_values("bpp_additional")
        axes.plot(rows.bpp_additional, rows.psnr, label=f"m = {m}", **look)
    axes.set(xlabel="additional bits per pixel", ylabel="PSNR of x̂ (dB)")
    plain(axes)
    axes.legend()
    _caption(figure, caption)
    return figure


def table_2(means: pd.DataFrame) -> pd.DataFrame:
    """Table II: PSNR of x̂ in dB by λ and m, ours beside the paper's."""
    ours = means[means.codec == "fusion"].pivot(index="lmbda", columns="m", values="psnr")
    paper = pd.DataFrame(TABLE_II).T.sort_index(axis="columns")
    both = pd.concat({"ours": ours, "paper": paper}, axis="columns")
    both.index.name = "λ"
    return both.rename(columns=lambda m: f"m = {m}", level=1)


def table_sa_icm(means: pd.DataFrame, detected: pd.DataFrame) -> pd.DataFrame:
    """SA-ICM's table by λ, ours beside the published one: bits per pixel, and mAP50-95 in percent
    of boxes and, where the detector finds them, masks.

    Ours is of the base's rows in the first table of :func:`sic.evaluation.detection.run`; where no
    detector was set that has no rows, and ours are the bpp of ``means`` alone.
    """
    found = detected[detected.codec == "SA-ICM"]
    ours = (found if len(found) else means[means.codec == "SA-ICM"]).set_index("lmbda")
    columns = {"bpp": ours.bpp}
    for column, name in (("ap", "boxes"), ("mask_ap", "masks")):
        if column in ours and ours[column].notna().any():
            columns[name] = 100 * ours[column].astype(float)
    both = {"this study": pd.DataFrame(columns), "SA-ICM as published, COCO": SA_ICM}
    return pd.concat(both, axis="columns").sort_index().rename_axis("λ")


def _caption(figure: Figure, text: str) -> None:
    """A title in as many lines as the figure's width needs: some 12 letters an inch."""
    lines = fill(text, int(12 * figure.get_figwidth()), break_on_hyphens=False)
    figure.suptitle(literal(lines), fontsize=10)


_BASE, _ADDED, _SHARED = LOOKS["SA-ICM"]["color"], LOOKS["fusion"]["color"], "0.35"


@dataclass(frozen=True)
class Structure:
    """The study's own numbers in the drawing of Fig. 3; pairs: of the base, of the additions."""

    n: int  # slices of ŷ
    m: int  # slices of ŷa, at most n
    channels: int  # of a slice
    parameters: tuple[float, float]  # millions, decoders counted in
    bpp: tuple[float, float]  # of one picture
    psnr: tuple[float, float]  # dB of x̂_t and of x̂, of that picture
    about: str  # that picture and rate point


def structure(s: Structure) -> Figure:
    """Fig. 3: a picture's way through both layers; machines take the upper branch, people both."""
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
        sent = f"ŷ{latent[1:]}: {slices} × {s.channels} channels"
        axes.text(7.05, y - 0.72, sent, ha="center", size=9)
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
    _caption(figure, f"Fig. 3: structure of the scalable codec; numbers of {s.about}")
    return figure


def _box(axes: Axes, x: float, y: float, text: str, colour: Any, width: float) -> None:
    height = 0.6 + 0.3 * text.count("\n")
    corner, style = (x - width / 2, y - height / 2), "round,pad=0,rounding_size=0.08"
    axes.add_patch(FancyBboxPatch(corner, width, height, style, fc="white", ec=colour, lw=2))
    axes.text(x, y, text, ha="center", va="center", size=9.5, linespacing=1.35)


def _slices(axes: Axes, x: float, y: float, filled: int, places: int, colour: Any) -> None:
    """The slices of a latent as bars; those that are not sent are outlines."""
    for k in range(places):
        face, left = colour if k < filled else "white", x + 1.1 * k / places
        axes.bar(left, 0.9, 0.8 / places, y - 0.45, color=face, edgecolor=colour, align="edge")


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str = ""
) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": _SHARED, "lw": 1.4})
    if text:
        x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        axes.text(x, y + 0.1, text, ha="center", size=9.5)


PANELS = {"loss": "loss L", "bpp": "rate (bits per pixel)", "psnr": "PSNR (dB)"}
STYLES = {"train": "-", "validation": "--o"}


def why(mean: pd.DataFrame, channels: pd.DataFrame) -> Figure:
    """What y in place of ŷ does to each codec's picture, and the shares of the rounding error that
    are cancelled, channel by channel; of the tables of :mod:`sic.evaluation.rounding`."""
    figure = Figure(figsize=(11, max(4, 0.4 * len(mean))), layout="constrained")
    left, right = figure.subplots(1, 2)
    for offset, (column, label) in enumerate(
        {"psnr_decoder_has_y": "decoder alone has y", "psnr_both_have_y": "both have y"}.items()
    ):
        places = np.arange(len(mean)) + 0.4 * offset
        left.barh(places, mean[column] - mean.psnr, height=0.4, label=label)
    left.set(yticks=np.arange(len(mean)) + 0.2, yticklabels=mean.index, xlabel="gain over ŷ (dB)")
    left.axvline(0, color="black", lw=0.8)
    left.invert_yaxis()
    left.legend()
    known = channels.dropna(subset=["cancels"])
    looks = {start: (LOOKS[of], cycle(("-", "--", ":", "-."))) for of, start in PREFIXES.items()}
    for name, rows in known.groupby("codec", sort=False):
        ordered = rows.sort_values("power", ascending=False)
        spent = ordered.power.cumsum() / ordered.power.sum()
        strong = spent.shift(fill_value=0) < 0.9  # of an error next to 0 a regression tells nothing
        look, dashes = looks[Path(str(name)).name.partition("m")[0]]
        right.plot(spent[strong], ordered.cancels[strong], next(dashes), ms=3, label=name, **look)
    right.set(xlabel="share of the error's power, the strongest 90 %", ylabel="cancelled")
    right.axhline(1, color="black", lw=0.8, ls=":")
    right.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def curves(history: pd.DataFrame, title: str) -> Figure:
    """Loss, rate and PSNR over the steps of a history of :func:`sic.training.loop.train`."""
    figure = Figure(figsize=(11, 3), layout="constrained")
    figure.suptitle(title)
    for axes, (column, label) in zip(figure.subplots(1, 3), PANELS.items(), strict=True):
        for split, style in STYLES.items():
            rows = history[history.split == split]
            axes.plot(rows.step, rows[column], style, label=split, markersize=3)
        axes.set(xlabel="step", ylabel=label, yscale="log" if column == "loss" else "linear")
        axes.grid(alpha=0.3)
    axes.legend()
    return figure
