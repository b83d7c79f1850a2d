"""Names of pictures in figures, as they are spelled."""


def literal(text: str) -> str:
    """The text for matplotlib, which takes what stands between two dollars for mathematics."""
    return text.replace("$", r"\$")
