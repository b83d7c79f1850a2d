"""Detection accuracy as a figure and in sentences."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sic.detect import ORIGINAL
from sic.looks import LOOKS, NAMES

BASE = "SA-ICM"


def against_rate(table: pd.DataFrame, m: int, caption: str) -> Figure:
    """Accuracy against bits: a curve a codec, originals as a line across.

    Args:
        table: as :func:`sic.detect.run` returns it, with rows.
        m: slices of the fusion curve that is drawn.
        caption: detector and pictures.
    """
    figure = Figure(figsize=(12, 5), layout="constrained")
    labels = {"ap": "mAP at IoU 0.50 to 0.95", "ap50": "mAP at IoU 0.50"}
    for axes, (column, label) in zip(figure.subplots(1, 2), labels.items(), strict=True):
        _draw(axes, table[(table.codec != "fusion") | (table.m == m)], column)
        axes.set(xlabel="bits per pixel, all layers that are read", ylabel=label)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    figure.suptitle(caption, fontsize=10)
    return figure


def _draw(axes: Axes, table: pd.DataFrame, column: str) -> None:
    for codec, rows in table.groupby("codec", sort=False):
        if codec == ORIGINAL:
            axes.axhline(rows[column].iloc[0], color="black", ls="--", label="originals")
            continue
        rows = rows.sort_values("bpp")
        name, look = NAMES.get(str(codec), str(codec)), LOOKS[str(codec)]
        axes.plot(rows.bpp, rows[column], label=name, ms=11 if codec == BASE else 6, **look)


def by_class(classes: pd.DataFrame, count: int) -> pd.DataFrame:
    """mAP by codec and rate point, a column for each of the ``count`` commonest classes.

    Args:
        classes: the second table of :func:`sic.detect.run`, without rows if nothing was detected.
        count: how many classes.
    """
    if classes.empty:
        return pd.DataFrame()
    common = classes.drop_duplicates("class").nlargest(count, "objects")["class"]
    points = pd.MultiIndex.from_frame(classes[["codec", "point", "m"]])
    wide = classes.set_index(points).pivot(columns="class", values="ap")
    return wide.loc[points.drop_duplicates(), list(common)]


def sentences(table: pd.DataFrame, m: int) -> Iterator[str]:
    """What the numbers say, one sentence each.

    Args:
        table: as :func:`sic.detect.run` returns it, with rows.
        m: slices of the fusion curve that is spoken of.
    """
    table = table[(table.codec != "fusion") | (table.m == m)]
    original = table[table.codec == ORIGINAL].iloc[0]
    base = table[table.codec == BASE].iloc[0]
    yield (
        f"On {original.images} originals the detector has mAP {original.ap:.3f} (mAP50 "
        f"{original.ap50:.3f}); on x̂_t it has {base.ap:.3f} ({base.ap50:.3f}) for "
        f"{base.bpp:.3f} bpp, {_share(base, original)} of that."
    )
    for codec, rows in table.groupby("codec", sort=False):
        if codec in (ORIGINAL, BASE):
            continue
        name, best = NAMES.get(str(codec), str(codec)), rows.sort_values("ap").iloc[-1]
        rows = rows.sort_values("bpp")
        yield (
            f"{name}: at most {best.ap:.3f}, {_share(best, original)} of the originals', for "
            f"{best.bpp:.3f} bpp; " + _at_equal_rate(base, rows)
        )


def _share(row: pd.Series, original: pd.Series) -> str:
    return f"{row.ap / original.ap:.0%}" if original.ap else "no share"


def _at_equal_rate(base: pd.Series, rows: pd.DataFrame) -> str:
    """A codec's accuracy at the rate of x̂_t, linear between its points."""
    low, high = rows.bpp.min(), rows.bpp.max()
    if not low <= base.bpp <= high:
        return f"its {low:.3f} to {high:.3f} bpp do not reach x̂_t's {base.bpp:.3f}."
    ap = float(np.interp(base.bpp, rows.bpp, rows.ap))
    return f"at x̂_t's {base.bpp:.3f} bpp {ap:.3f}, x̂_t {base.ap - ap:+.3f}."
