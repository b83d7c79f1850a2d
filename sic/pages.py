"""The pages of the report: which there are, and the one look they share."""

from html import escape
from pathlib import Path

from sic.errors import SicError
from sic.params import Params

STATIC = Path(__file__).with_name("static")


def names(study: Params) -> list[str]:
    """The pages that params.yaml asks for, as folders below the report's, in reading order.

    Never what happens to lie there: pages of codecs taken out of a sweep stay behind.
    """
    return [
        *("data", "segment", "edges", "codec"),
        *study.codecs,
        *("evaluate", "detect", "stream", "pictures"),
    ]


def page(title: str, body: str, way_back: str = "") -> str:
    """A whole HTML page, which needs no other file and no network.

    Args:
        title: plain text, for the window.
        body: HTML of the page.
        way_back: HTML of the line above it, if any.
    """
    from pygments.formatters import HtmlFormatter  # only what makes pages needs it

    style = (STATIC / "page.css").read_text() + HtmlFormatter().get_style_defs(".highlight")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>
{style}
</style>
</head>
<body>
{f"<nav>{way_back}</nav>" if way_back else ""}
<main>
{body}
</main>
</body>
</html>
"""


def figure(path: Path, alt: str, report: Path = Path("reports")) -> str:
    """A saved figure as HTML: the picture, from its file in the report's folder, and links to both
    files.  (Inside of the page it would be stored four times: as PNG and SVG, and in the page as
    HTML and as a notebook.)

    Args:
        path: as given to :func:`sic.figures.save`, below ``report``.
        alt: what it shows, for those who do not see it.
        report: the folder of the page that shows it.

    Raises:
        SicError: if the figure has not been saved.
    """
    if not path.with_suffix(".png").is_file():
        raise SicError(f"no figure {path.with_suffix('.png')}; save it first (sic.figures.save)")
    svg, png = (path.with_suffix(suffix).relative_to(report) for suffix in (".svg", ".png"))
    return (
        f'<figure><img src="{png}" alt="{escape(alt)}">'
        f'<figcaption><a href="{svg}">{svg.name}</a> · <a href="{png}">{png.name}</a></figcaption>'
        "</figure>"
    )
