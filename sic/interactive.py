"""Rate and distortion to touch: the numbers of each point, photo by photo, without a network.

The drawing is Bokeh's; its library lies inside of the page.
"""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from bokeh.embed import json_item
from bokeh.models import ColumnDataSource, HoverTool
from bokeh.plotting import figure
from bokeh.resources import Resources
from matplotlib.colors import to_hex

from sic.bd import LAYERED
from sic.looks import LOOKS, NAMES

_STATIC = Path(__file__).with_name("static")
#: What the choice of photos calls the means over all of them.
MEAN = "mean over the test photos"
#: Rates to choose from: columns of the curves, and the axis's label.
RATES = {
    "all": "base + additional bits per pixel",
    "additional": "additional bits per pixel (all bits for codecs of one layer)",
}
#: Matplotlib's markers: Bokeh's name, and a character that shows it in the list of curves.
_MARKERS = {
    "o": ("circle", "●"),
    "s": ("square", "■"),
    "^": ("triangle", "▲"),
    "v": ("inverted_triangle", "▼"),
    "D": ("diamond", "◆"),
    "*": ("star", "★"),
    "x": ("x", "×"),
    "+": ("cross", "+"),
    "h": ("hex", "⬢"),
    "P": ("plus", "✚"),
    "1": ("y", "Y"),
}
_DASHES = ("solid", "dashed", "dotted", "dotdash", "dashdot")
_HOVER = [
    ("codec", "@codec"),
    ("λ", "@lmbda"),
    ("m", "@m"),
    ("bpp", "@all{0.000}, of them additional @bits{0.000}"),
    ("PSNR", "@psnr{0.00} dB"),
    ("image", "@image"),
]


def rate_distortion(table: pd.DataFrame, means: pd.DataFrame, photos: Sequence[str]) -> str:
    """PSNR of the picture for people against bits, with the numbers of a point under the pointer.

    Args:
        table: as :func:`sic.evaluate.evaluate` returns it.
        means: as :func:`sic.evaluate.means` returns them.
        photos: to choose from beside the mean; one without a row in the table is left out.

    Returns:
        HTML with its script and library (1.3 MB), the same for equal numbers in a fresh process.
    """
    shown = {MEAN: means.assign(image=MEAN)}
    shown |= {photo: rows for photo in photos if len(rows := table[table.image == photo])}
    mean = _curves(shown[MEAN])
    # A curve that a photo lacks is empty: the page would go on showing that of the photo before.
    empty: dict[str, dict[str, list[Any]]] = {
        name: {key: [] for key in columns} for name, columns in mean.items()
    }
    curves = {photo: {**empty, **_curves(rows)} for photo, rows in shown.items()}
    library = "\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)
    item, content = _inside_script(json_item(_draw(mean))), _inside_script(curves)
    options = "".join(f"<option>{escape(photo)}</option>" for photo in shown)
    rates = "".join(f'<option value="{key}">{label}</option>' for key, label in RATES.items())
    return f"""<div id="plot">
<div class="choices">
<label>photo <select data-part="photo">{options}</select></label>
<label>rate <select data-part="rate">{rates}</select></label>
</div>
<div data-part="plot"></div>
<div class="choices">{"".join(map(_switch, mean.values()))}</div>
</div>
<script>
{library}
{(_STATIC / "plot.js").read_text()}
plot(document.getElementById("plot"), {item}, {content});
</script>"""


def _curves(rows: pd.DataFrame) -> dict[str, dict[str, list[Any]]]:
    """By the name of a curve its points, in the order of their rates, as columns."""
    found = {}
    for (codec, m), points in rows.groupby(["codec", "m"], sort=False, dropna=False):
        if codec not in LOOKS:  # sending nothing is no curve
            continue
        points = points.sort_values("bpp")
        name = NAMES.get(codec, codec) + (f", m = {m}" if points.m.notna().all() else "")
        additional = points.bpp_additional if codec in LAYERED else points.bpp
        found[name] = {
            "codec": [name] * len(points),
            "look": [codec] * len(points),
            "lmbda": [f"{value:g}" if pd.notna(value) else "–" for value in points.lmbda],
            "m": [f"{value}" if pd.notna(value) else "–" for value in points.m],
            "image": list(points.image),
            "all": _rounded(points.bpp),
            "additional": _rounded(additional),
            "bits": _rounded(points.bpp_additional),
            "psnr": _rounded(points.psnr),
        }
    return found


def _draw(curves: dict[str, dict[str, list[Any]]]) -> figure:
    plot = figure(
        height=520,
        sizing_mode="stretch_width",
        x_axis_label=RATES["all"],
        y_axis_label="PSNR of the picture for people (dB)",
        tools="pan,wheel_zoom,box_zoom,reset",
        active_drag="box_zoom",
        output_backend="svg",
    )
    plot.xaxis.name = "rate axis"
    drawn: dict[str, int] = {}
    for name, columns in curves.items():
        codec = columns["look"][0]
        number = drawn[codec] = drawn.get(codec, -1) + 1
        look = LOOKS[codec]
        data = ColumnDataSource({**columns, "rate": columns["all"]}, name=name)
        at: dict[str, Any] = {"x": "rate", "y": "psnr", "source": data}
        at["color"] = to_hex(look["color"])
        dash = _DASHES[number % len(_DASHES)]
        plot.line(**at, line_dash=dash, line_width=1.5, name=f"{name} line")
        marker, _ = _MARKERS[look["marker"]]
        marks = plot.scatter(**at, marker=marker, size=9, line_width=1.5, name=f"{name} marks")
        plot.add_tools(HoverTool(renderers=[marks], tooltips=_HOVER, visible=False))
    return plot


def _switch(columns: dict[str, list[Any]]) -> str:
    """A box to show or hide a curve: Bokeh's own legend neither wraps nor listens to keys."""
    name, look = columns["codec"][0], LOOKS[columns["look"][0]]
    mark = f'<span style="color: {to_hex(look["color"])}">{_MARKERS[look["marker"]][1]}</span>'
    box = f'<input type="checkbox" checked data-curve="{escape(name)}">'
    return f'<label class="switch">{box} {mark} {escape(name)}</label>'


def _rounded(values: "pd.Series[float]") -> list[float]:
    return [round(float(value), 5) for value in values]


def _inside_script(content: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(content, ensure_ascii=False).replace("</", "<\\/")
