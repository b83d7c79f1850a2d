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


#: Code, which keeps its dollars, or a formula between two of them or two pairs.
_FORMULA = re.compile(
    r"(?s)```.*?```|`[^`]*`|\$\$(?P<block>.+?)\$\$|(?<![\\\w$])\$(?P<inline>\S(?:[^$]*?\S)?)\$(?!\w)"
)


def mathml(markdown: str) -> str:
    """Markdown with its LaTeX formulas, $inline$ and $$displayed$$, as MathML, which browsers draw
    without a script or a network.  Raises SicError for a formula that is none."""
    from latex2mathml.converter import convert

    def replaced(found: re.Match[str]) -> str:
        for display in ("block", "inline"):
            if formula := found[display]:
                try:
                    return convert(formula.strip(), display=display)
                except Exception:  # its errors have no common kind
                    raise SicError(f"no formula in LaTeX: ${formula}$") from None
        return found[0]

    return _FORMULA.sub(replaced, markdown)


def literal(text: str) -> str:
    """The text for matplotlib, which takes what stands between two dollars for mathematics."""
    return text.replace("$", r"\$")
