"""The paper's figures and tables, drawn from the study's own numbers."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from sic.anchors import classical
from sic.evaluation.bd import LAYERED
from sic.files import replacing
from sic.images import Pixels
from sic.report.page import literal

# ---- how each codec looks in every figure --------------------------------------------------------


#: Colour-blind safe.
PALETTE = sns.color_palette("colorblind")
#: One look per codec in every figure; where two colours are alike, the markers differ.
LOOKS: dict[str, dict[str, Any]] = {
    "fusion": {"color": PALETTE[3], "marker": "o"},
    "difference": {"color": PALETTE[0], "marker": "s"},
    "LIC": {"color": PALETTE[2], "marker": "^"},
    "SA-ICM": {"color": PALETTE[1], "marker": "*"},
    "VVC+M": {"color": "#882255", "marker": "v"},
    "VVC": {"color": "black", "marker": "D"},
    "HEVC": {"color": PALETTE[5], "marker": "h"},
    "AVIF": {"color": PALETTE[9], "marker": "P"},
    "JPEG XL": {"color": "#4b2e83", "marker": "1"},
    "WebP": {"color": PALETTE[4], "marker": "+"},
    "JPEG": {"color": PALETTE[7], "marker": "x"},
}
NAMES = {
    "fusion": "proposed (feature fusion)",
    "difference": "DC model",
    "LIC": "LIC for people",
    "SA-ICM": "SA-ICM, x̂_t",
}


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


#: The codecs of the paper's Fig. 6, in the order of its legend.
FIG_6 = ("fusion", "difference", "LIC", "VVC")
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
    """Fig. 2: each image above its edge mask m_x.

    Args:
        pictures: by name, the image (H, W, 3) uint8 and its mask (H, W) bool.
        caption: what drew the masks.
    """
    figure = Figure(figsize=(3.6 * len(pictures), 5.6), layout="constrained")
    axes = figure.subplots(2, len(pictures), squeeze=False)
    for column, (name, (image, mask)) in zip(axes.T, pictures.items(), strict=True):
        column[0].imshow(image)
        column[0].set_title(literal(name))
        column[1].imshow(mask, cmap="gray", interpolation="nearest")
        column[1].set_title(f"m_x, {mask.mean():.1%} of the pixels", fontsize=10)
    for axis in axes.flat:
        axis.axis("off")
    _caption(figure, caption)
    return figure


def pictures_side_by_side(
    pictures: Sequence[tuple[str, Pixels]], zoom: tuple[int, int, int], caption: str
) -> Figure:
    """Fig. 5: pictures of one scene, and below each the same crop enlarged.

    Args:
        pictures: label (name, bpp, PSNR) and uint8 (H, W, 3).
        zoom: top, left and side of the crop, in pixels.
        caption: what is shown.
    """
    top, left, side = zoom
    figure = Figure(figsize=(3.4 * len(pictures), 7), layout="constrained")
    axes = figure.subplots(2, len(pictures), squeeze=False)
    for column, (label, picture) in zip(axes.T, pictures, strict=True):
        column[0].imshow(picture)
        column[0].add_patch(Rectangle((left, top), side, side, fill=False, ec="yellow", lw=1.5))
        column[0].set_title(label, fontsize=9)
        window = picture[top : top + side, left : left + side]
        column[1].imshow(window, interpolation="nearest")
        column[1].set_title(f"{side}×{side} pixels of it", fontsize=8)
    for axis in axes.flat:
        axis.axis("off")
    _caption(figure, caption)
    return figure


def rate_distortion(
    means: pd.DataFrame, m: int, caption: str, published: Sequence[tuple[float, float]] = ()
) -> Figure:
    """Fig. 6: PSNR against bits, once counting additional bits alone, once all bits; the paper's
    four curves, and x̂_t as a star.

    Args:
        means: as :func:`sic.evaluation.rate_distortion.means` returns them; a codec of
            :data:`FIG_6` that is not there has no curve.
        m: slices of the fusion curve that is drawn.
        caption: images, sizes and what differs from the paper.
        published: VTM's points as others measured them (:func:`sic.anchors.cached.published`).
    """
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    means, caption = _finite(means, caption)
    shown = means[means.codec.isin(FIG_6) & ((means.codec != "fusion") | (means.m == m))]
    base = means[means.codec == "SA-ICM"]
    for codec in filter(set(shown.codec).__contains__, FIG_6):
        rows = shown[shown.codec == codec].sort_values("bpp")
        drawn = {"label": legend(rows.iloc[0]), **LOOKS[codec]}
        layered = codec in LAYERED
        left.plot(rows.bpp_additional if layered else rows.bpp, rows.psnr, **drawn)
        right.plot(rows.bpp, rows.psnr, **drawn)
    if published:
        for axes in (left, right):
            axes.plot(*zip(*published, strict=True), ls=":", color="0.4", label=PUBLISHED)
    right.plot(base.bpp, base.psnr_machine, ls="", ms=12, label=NAMES["SA-ICM"], **LOOKS["SA-ICM"])
    widest = 1.15 * shown[shown.codec != "VVC"].bpp.max()
    seen = pd.concat([shown[shown.bpp <= widest].psnr, base.psnr_machine]).dropna()
    left.set(title="additional bits alone (proposed and DC)")
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
    """A codec's name in figures: of a classical one with its set-up, so that it can be repeated.

    Args:
        row: of :func:`sic.evaluation.rate_distortion.means`.
    """
    if row.codec in NAMES or pd.isna(row.preset):
        return NAMES.get(row.codec, row.codec)
    return classical.label(row.codec, row.version, row.preset, row.chroma, row.bit_depth)


def quality_by_m(means: pd.DataFrame, caption: str) -> Figure:
    """Fig. 7: PSNR against additional bits, a curve for each m.

    Args:
        means: as :func:`sic.evaluation.rate_distortion.means` returns them.
        caption: images, sizes and what differs from the paper.
    """
    figure = Figure(figsize=(6.5, 5), layout="constrained")
    axes = figure.subplots()
    means, caption = _finite(means, caption)
    fusion = means[means.codec == "fusion"]
    looks = zip(cycle("osD^v"), cycle(PALETTE))
    for (marker, colour), (m, rows) in zip(looks, fusion.groupby("m"), strict=False):
        rows = rows.sort_values("bpp_additional")
        axes.plot(rows.bpp_additional, rows.psnr, marker=marker, color=colour, label=f"m = {m}")
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


def _caption(figure: Figure, text: str) -> None:
    """A title in as many lines as the figure's width needs: some 12 letters an inch."""
    lines = fill(text, int(12 * figure.get_figwidth()), break_on_hyphens=False)
    figure.suptitle(literal(lines), fontsize=10)


# ---- training curves -----------------------------------------------------------------------------


PANELS = {"loss": "loss L", "bpp": "rate (bits per pixel)", "psnr": "PSNR (dB)"}
STYLES = {"train": "-", "validation": "--o"}


def curves(history: pd.DataFrame, title: str) -> Figure:
    """Loss, rate and PSNR over the steps.

    Args:
        history: as :func:`sic.training.loop.train` returns it.
        title: what was trained.
    """
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
