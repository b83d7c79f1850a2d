"""How each codec looks in every figure, and what it is called there."""

from typing import Any

import seaborn as sns
from matplotlib.axes import Axes

#: Colour-blind safe.
PALETTE = sns.color_palette("colorblind")
#: One look a codec in every figure; where colours do not tell two apart, markers do.
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
