"""The look that all pages share, and names as they are spelled: light enough for every stage."""

import re
from html import escape
from pathlib import Path

from pygments.formatters import HtmlFormatter

from sic.errors import SicError

STATIC = Path(__file__).with_name("static")


def page(title: str, body: str, way_back: str = "") -> str:
    """A whole HTML page that needs no other file and no network, with its title in plain text, and
    HTML of its body and of the line above it."""
    light, dark = (
        HtmlFormatter(style=name).get_style_defs(".highlight")
        for name in ("default", "github-dark")
    )
    style = (STATIC / "page.css").read_text() + light
    style += f"@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}"
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
<script>
{(STATIC / "page.js").read_text()}
</script>
</body>
</html>
"""


#: A mark, of characters that no text has.
_MARK = re.compile("\ue000([0-9]+)\ue001")
#: Code, which keeps its dollars, or a formula between two of them or two pairs.
_FORMULA = re.compile(
    r"(?s)```.*?```|`[^`]*`|\$\$(?P<block>.+?)\$\$|(?<![\\\w$])\$(?P<inline>\S(?:[^$]*?\S)?)\$(?!\w)"
)


class Formulas:
    """The LaTeX formulas of a page, $inline$ and $$displayed$$, as MathML, which browsers draw
    without a script or a network.  Marks stand for them while Markdown becomes HTML, which would
    take their tags apart."""

    def __init__(self) -> None:
        self.drawn: list[str] = []

    def marked(self, markdown: str) -> str:
        """Markdown with marks.  Raises SicError for a formula that is none."""
        return _FORMULA.sub(self._mark, markdown)

    def put_in(self, html: str) -> str:
        """HTML with the formulas in place of their marks."""
        return _MARK.sub(lambda found: self.drawn[int(found[1])], html)

    def _mark(self, found: re.Match[str]) -> str:
        from latex2mathml.converter import convert

        display = "block" if found["block"] else "inline"
        formula = found[display]
        if not formula:  # code
            return found[0]
        try:
            drawn = convert(formula.strip(), display=display)
        except Exception:  # its errors have no common kind
            raise SicError(f"no formula in LaTeX: ${formula}$") from None
        # A long formula scrolls in a box of its own, and the page stays as wide as its window.
        self.drawn.append(f'<span class="formula">{drawn}</span>' if found["block"] else drawn)
        return f"\ue000{len(self.drawn) - 1}\ue001"


def literal(text: str) -> str:
    """The text for matplotlib, which takes what stands between two dollars for mathematics."""
    return text.replace("$", r"\$")
