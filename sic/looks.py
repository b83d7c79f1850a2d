"""How each codec looks in every figure, and what it is called there."""

from typing import Any

import seaborn as sns

#: Colour-blind safe.
PALETTE = sns.color_palette("colorblind")
#: One look a codec in every figure; where colours do not tell two apart, markers do.
LOOKS: dict[str, dict[str, Any]] = {
    "fusion": {"color": PALETTE[3], "marker": "o"},
    "difference": {"color": PALETTE[0], "marker": "s"},
    "LIC": {"color": PALETTE[2], "marker": "^"},
    "JPEG": {"color": PALETTE[7], "marker": "x"},
    "WebP": {"color": PALETTE[4], "marker": "+"},
    "VVC": {"color": PALETTE[5], "marker": "D"},
    "SA-ICM": {"color": PALETTE[1], "marker": "*"},
}
NAMES = {
    "fusion": "proposed (feature fusion)",
    "difference": "DC model",
    "LIC": "LIC for people",
    "SA-ICM": "SA-ICM, x̂_t",
}
