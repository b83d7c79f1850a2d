"""What the pages of the report show: which there are, claims, figures, plots, pictures to touch."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from bokeh import plotting
from bokeh.embed import json_item
from bokeh.models import ColumnDataSource, HoverTool
from bokeh.resources import Resources
from matplotlib.colors import to_hex
from PIL import Image

from sic.errors import SicError
from sic.evaluation import rate_distortion
from sic.evaluation.bd import LAYERED, RESIDUAL
from sic.evaluation.rate_distortion import DECODED
from sic.files import replacing
from sic.images import Pixels
from sic.params import Params
from sic.report.claims import Claim, Verdict
from sic.report.figures import LOOKS, NAMES, by_m
from sic.report.page import STATIC

#: How far a small screen shrinks a figure, whose letters have 10 of 72 points an inch at 150 dpi.
READABLE = 0.55
_WEBP_SIDE = 16383  # pixels, at most


def names(study: Params) -> list[str]:
    """The pages that params.yaml asks for, as folders below the report's, in reading order; never
    what happens to lie there: pages of codecs taken out of a sweep stay behind."""
    return [
        *("data", "segment", "edges", "codec"),
        *study.codecs,
        *("why", "evaluate", "compare", "steps", "detect", "stream", "pictures"),
    ]


def figure(path: Path, alt: str, report: Path = Path("reports")) -> str:
    """A figure that :func:`sic.report.figures.save` saved at a path below ``report``, the folder of
    the page, as HTML: the picture, which opens alone when it is pressed, and links to both files.
    (Inside of the page it would be stored four times: as PNG and SVG, and in the page as HTML and
    as a notebook.)  ``alt`` is for those who do not see it.  Raises SicError if it has not been
    saved."""
    svg, png = (path.with_suffix(suffix) for suffix in (".svg", ".png"))
    if not png.is_file():
        raise SicError(f"no figure {png}; save it first (sic.report.figures.save)")
    with Image.open(png) as image:
        width, height = image.size
    svg, png = svg.relative_to(report), png.relative_to(report)
    size = f'width="{width}" height="{height}" style="--least: {READABLE * width:.0f}px"'
    return (
        f'<figure><div class="wide"><a href="{svg}"><img src="{png}" alt="{escape(alt)}" {size}>'
        f'</a></div><figcaption><a href="{svg}">{svg.name}</a> · <a href="{png}">{png.name}</a>'
        "</figcaption></figure>"
    )


#: Beside the colours, which not everybody sees and not every printer has.
_SIGNS = dict(zip(Verdict, "✓✗?–○", strict=True))


#: Spaces inside of an interval, and around the sign of an equation.
_UNBROKEN = re.compile(r"(?<=,) (?=[^\[]*\])| (?==)|(?<==) ")


def claims_table(found: Sequence[Claim]) -> str:
    """The claims as a table, which a small screen turns into one card for each."""
    heads = ("claim", "the paper", "here [95 % interval]", "photos", "verdict")
    text = "".join(f'<th scope="col">{each}</th>' for each in heads)
    text = f'<table class="claims">\n<thead><tr>{text}</tr></thead>\n'
    for heading, group in groupby(found, lambda one: one.heading):
        rows = "".join(f"<tr>{_cells(one, heads)}</tr>\n" for one in group)
        head = f'<tr><th colspan="{len(heads)}" scope="rowgroup">{escape(heading)}</th></tr>'
        text += f"<tbody>{head}\n{rows}</tbody>\n"
    return f"{text}</table>"


def _cells(one: Claim, heads: Sequence[str]) -> str:
    here, link = one.here, '<a href="why/index.html">Why</a>'
    words, paper = (
        _UNBROKEN.sub("\u00a0", escape(text)) for text in (here.words or "–", one.paper)
    )
    words += f'<span class="reason">{escape(here.reason)} {link}</span>' if here.reason else ""
    mark = f"{_SIGNS[here.verdict]} {here.verdict}"
    mark = f'<span class="verdict {here.verdict.name.lower()}">{mark}</span>'
    cells = zip(heads[1:], (paper, words, here.photos or "–", mark), strict=True)
    return f'<th scope="row">{escape(one.claim)}</th>' + "".join(
        f'<td data-head="{name}">{cell}</td>' for name, cell in cells
    )


@dataclass(frozen=True)
class Scene:
    """All pictures of one photo, the original first, each with its label (rate and quality): uint8
    (H, W, 3) of one size, and as many in every scene."""

    name: str
    pictures: Sequence[tuple[str, Pixels]]


def scene(name: str, x: Pixels, rows: Mapping[str, pd.Series], folder: Path = DECODED) -> Scene:
    """A photo and what codecs made of it, as the stage `evaluate` left it in the folder: by their
    labels rows of the table of results, whose rate and PSNR go into the labels."""
    pictures = [("original", x)]
    for label, row in rows.items():
        numbers = f"{row.bpp:.3f} bpp, {row.psnr:.2f} dB"
        pictures.append((f"{label}: {numbers}", rate_distortion.picture(row, folder)))
    return Scene(name, pictures)


def browser(scenes: Sequence[Scene], folder: Path) -> str:
    """Write the pictures of all scenes, at least one, without loss, and give the HTML that shows
    them, with its own style and script, on a page in ``folder``.  Picture j of scene i goes into
    ``folder/i-j.webp`` (or png, where a side is too long for WebP), since names of photos may hold
    what addresses may not."""
    written = [_write(scene, folder, number) for number, scene in enumerate(scenes)]
    style, body, script = (
        (STATIC / f"browser.{kind}").read_text() for kind in ("css", "html", "js")
    )
    return f"""<style>
{style}
</style>
{body}<script>
{script}
browse(document.getElementById("browser"), {_inside_script(written)});
</script>"""


def _write(scene: Scene, folder: Path, number: int) -> dict[str, object]:
    pictures = []
    for place, (label, pixels) in enumerate(scene.pictures):
        kind = "webp" if max(pixels.shape) <= _WEBP_SIDE else "png"
        file = f"{number}-{place}.{kind}"
        with replacing(folder / file) as temporary:
            Image.fromarray(pixels).save(temporary, kind, lossless=True)
        pictures.append({"label": label, "file": file})
    height, width = scene.pictures[0][1].shape[:2]
    return {"name": scene.name, "width": width, "height": height, "pictures": pictures}


_Curves = dict[str, dict[str, list[Any]]]
#: What the choice of photos calls the means over all of them.
MEAN = "mean over the test photos"
#: Rates to choose from: columns of the curves, and the axis's label.
RATES = {
    "all": "base + additional bits per pixel",
    "additional": "additional bits per pixel (all bits for codecs of one layer)",
}
#: Matplotlib's markers: Bokeh's name, and characters that show it filled and as an outline.
_MARKERS = {
    "o": ("circle", "●○"),
    "s": ("square", "■□"),
    "^": ("triangle", "▲△"),
    "v": ("inverted_triangle", "▼▽"),
    "D": ("diamond", "◆◇"),
    "*": ("star", "★"),
    "x": ("x", "×"),
    "+": ("cross", "+"),
    "h": ("hex", "⬢"),
    "P": ("plus", "✚"),
    "p": ("square_pin", "⬟"),
    "X": ("square_x", "✖"),
    "1": ("y", "Y"),
}
_HOVER = [
    ("codec", "@codec"),
    ("λ", "@lmbda"),
    ("m", "@m"),
    ("bpp", "@all{0.000}, of them additional @bits{0.000}"),
    ("PSNR", "@psnr{0.00} dB"),
    ("image", "@image"),
]


def rate_distortion_plot(table: pd.DataFrame, means: pd.DataFrame, photos: Sequence[str]) -> str:
    """PSNR of the picture for people against bits, with the numbers of a point under the pointer,
    of the mean or of a photo to choose among those with a row in the table.  The HTML holds its
    script and library (1.3 MB), and is the same for equal numbers in a fresh process."""
    shown = {MEAN: means.assign(image=MEAN)}
    shown |= {photo: rows for photo in photos if len(rows := table[table.image == photo])}
    mean = _curves(shown[MEAN])
    # A curve that a photo lacks is empty: the page would go on showing that of the photo before.
    empty: _Curves = {name: {key: [] for key in columns} for name, columns in mean.items()}
    of = {photo: _curves(rows) for photo, rows in shown.items()}
    curves = {photo: {name: of[photo].get(name, empty[name]) for name in mean} for photo in of}
    looks = {_name(codec, None): look for codec, look in LOOKS.items()}
    for codec in ("fusion", *RESIDUAL):
        slices = means[means.codec == codec].m
        looks |= {_name(codec, m): look for m, look in by_m(slices, codec).items()}
    library = "\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)
    item, content = _inside_script(json_item(_draw(mean, looks))), _inside_script(curves)
    options = "".join(f"<option>{escape(photo)}</option>" for photo in shown)
    rates = "".join(f'<option value="{key}">{label}</option>' for key, label in RATES.items())
    return f"""<div id="plot">
<div class="choices">
<label>photo <select data-part="photo">{options}</select></label>
<label>rate <select data-part="rate">{rates}</select></label>
</div>
<div data-part="plot"></div>
<div class="choices">{"".join(_switch(name, looks[name]) for name in mean)}</div>
</div>
<script>
{library}
{(STATIC / "plot.js").read_text()}
plot(document.getElementById("plot"), {item}, {content});
</script>"""


def _name(codec: str, m: Any) -> str:
    return NAMES.get(codec, codec) + (f", m = {m}" if pd.notna(m) else "")


def _curves(rows: pd.DataFrame) -> _Curves:
    """By the name of a curve its points, in the order of their rates, as columns; those without
    loss have no height, and those that were not measured no place."""
    found = {}
    rows = rows[np.isfinite(rows.bpp) & np.isfinite(rows.psnr)]
    for (codec, m), points in rows.groupby(["codec", "m"], sort=False, dropna=False):
        if codec not in LOOKS:  # sending nothing is no curve
            continue
        points, name = points.sort_values("bpp"), _name(codec, m)
        additional = points.bpp_additional if codec in LAYERED else points.bpp
        found[name] = {
            "codec": [name] * len(points),
            "lmbda": [f"{value:g}" if pd.notna(value) else "–" for value in points.lmbda],
            "m": [f"{value}" if pd.notna(value) else "–" for value in points.m],
            "image": list(points.image),
            "all": points.bpp.round(5).tolist(),
            "additional": additional.round(5).tolist(),
            "bits": points.bpp_additional.round(5).tolist(),
            "psnr": points.psnr.round(5).tolist(),
        }
    return found


def _draw(curves: _Curves, looks: Mapping[str, dict[str, Any]]) -> plotting.figure:
    plot = plotting.figure(
        height=520,
        sizing_mode="stretch_width",
        x_axis_label=RATES["all"],
        y_axis_label="PSNR of the picture for people (dB)",
        tools="pan,wheel_zoom,box_zoom,reset",
        active_drag="box_zoom",
        output_backend="svg",
    )
    plot.xaxis.name = "rate axis"
    for name, columns in curves.items():
        look, colour = looks[name], to_hex(looks[name]["color"])
        data = ColumnDataSource({**columns, "rate": columns["all"]}, name=name)
        at: dict[str, Any] = {"x": "rate", "y": "psnr", "source": data, "line_color": colour}
        plot.line(**at, line_width=1.5, name=f"{name} line")
        marks = plot.scatter(
            **at,
            fill_color=look.get("markerfacecolor", colour),
            marker=_MARKERS[look["marker"]][0],
            size=9,
            line_width=1.5,
            name=f"{name} marks",
        )
        plot.add_tools(HoverTool(renderers=[marks], tooltips=_HOVER, visible=False))
    return plot


def _switch(name: str, look: Mapping[str, Any]) -> str:
    """A box to show or hide a curve: Bokeh's own legend neither wraps nor listens to keys."""
    sign = _MARKERS[look["marker"]][1][-1 if "markerfacecolor" in look else 0]
    mark = f'<span style="color: {to_hex(look["color"])}">{sign}</span>'
    box = f'<input type="checkbox" checked data-curve="{escape(name)}">'
    return f'<label class="switch">{box} {mark} {escape(name)}</label>'


def _inside_script(content: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False).replace("</", "<\\/")
