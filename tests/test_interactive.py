"""The plot to touch: every codec's numbers inside of the page, and choices that swap them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromium
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from sic.evaluation.bd import LAYERED
from sic.report import pages
from sic.report.figures import LOOKS
from sic.report.page import page as whole_page

#: The last of them was not coded as JPEG.
PHOTOS = ("coffee", "</script>", "no JPEG")


def rows(photo: str, offset: float) -> Iterator[dict[str, Any]]:
    """Made up: each codec at two rates, fusion and FR with m = 3 at one."""
    for codec in (*LOOKS, "mean colour"):
        layered = codec in LAYERED
        for point, rate in enumerate((0.1, 0.3)):
            for m in (3, 5) if codec in ("fusion", "FR") else (None,):
                if m == 3 and point:
                    continue
                yield {
                    "image": photo,
                    "codec": codec,
                    "m": m,
                    "lmbda": 0.01 if codec in ("fusion", "LIC") else np.nan,
                    "bpp": rate + 0.2 * layered,
                    "bpp_additional": rate * layered,
                    "psnr": 25 + 10 * rate + offset,
                }


@pytest.fixture
def table() -> pd.DataFrame:
    photos = [row for k, photo in enumerate(PHOTOS) for row in rows(photo, k)]
    table = pd.DataFrame(photos).astype({"m": "Int64"})
    return table[(table.image != "no JPEG") | (table.codec != "JPEG")]


@pytest.fixture
def page(table: pd.DataFrame, tmp_path: Path) -> Path:
    means = table[table.image == PHOTOS[0]].drop(columns="image")
    body = pages.rate_distortion_plot(table, means, [*PHOTOS, "without any rows"])
    (tmp_path / "index.html").write_text(whole_page("Plot", f"<h1>Plot</h1>{body}"))
    return tmp_path / "index.html"


def test_points_without_loss_and_without_numbers_have_no_place(table: pd.DataFrame) -> None:
    means = table[table.image == PHOTOS[0]].drop(columns="image")
    finest = table.bpp_additional + (table.codec != "fusion") > 0.2
    lossless = table.assign(psnr=table.psnr.where(~finest | (table.codec != "LIC"), np.inf))
    lossless.loc[lossless.codec == "AVIF", ["bpp", "bpp_additional", "psnr"]] = np.nan
    pages.rate_distortion_plot(lossless, means, PHOTOS)  # JSON without NaN, or an error
    found = pages._curves(lossless[lossless.image == "coffee"])
    assert "AVIF" not in found
    assert "LIC for people" not in found
    means.loc[means.codec == "JPEG", "psnr"] = np.inf
    assert '"JPEG"' not in pages.rate_distortion_plot(table, means, PHOTOS).split("<script>")[0]


def test_every_codec_is_in_the_page_and_nothing_is_loaded(page: Path) -> None:
    text = BeautifulSoup(page.read_text(), "html.parser")
    assert len(text.select("[data-curve]")) == len(LOOKS) + 2, "fusion and FR have two"
    assert not text.select("script[src], img[src], link[href^=http]")
    assert "mean colour" not in str(text)
    options = [option.text for option in text.select("[data-part=photo] option")]
    assert options == [pages.MEAN, *PHOTOS]


def test_every_curve_has_a_sign_of_its_own_in_the_list(page: Path) -> None:
    switches = BeautifulSoup(page.read_text(), "html.parser").select(".switch")
    signs = {(switch.span["style"], switch.span.text) for switch in switches if switch.span}
    assert len(signs) == len(switches) == len(LOOKS) + 2


@pytest.fixture
def opened(page: Path, tmp_path: Path) -> Iterator[chromium.Browser]:
    with chromium.browser(tmp_path / "profile") as window:
        window.open(page)
        window.until("document.getElementById('plot').dataset.ready === 'yes'")
        yield window
        assert window.faults == []
        assert window.requests == []


def drawn(window: chromium.Browser, curve: str) -> Any:
    source = f"Bokeh.documents[0].get_model_by_name({json.dumps(curve)})"
    return window.value(f"Array.from({source}.data.rate)"), window.value(
        f"Array.from({source}.data.psnr)"
    )


def choose(window: chromium.Browser, part: str, index: int) -> None:
    choice = f"document.querySelector('[data-part={part}]')"
    window.value(f"{choice}.selectedIndex = {index}")
    window.value(f"{choice}.dispatchEvent(new Event('change'))")


def test_choices_swap_rates_and_photos(opened: chromium.Browser) -> None:
    fusion = "proposed (feature fusion), m = 5"
    assert drawn(opened, fusion) == ([0.3, 0.5], [26, 28])
    choose(opened, "rate", 1)
    assert drawn(opened, fusion) == ([0.1, 0.3], [26, 28])
    assert drawn(opened, "LIC for people") == ([0.1, 0.3], [26, 28]), "it has one layer"
    choose(opened, "photo", 2)
    assert drawn(opened, fusion) == ([0.1, 0.3], [27, 29])
    assert drawn(opened, "proposed (feature fusion), m = 3") == ([0.1], [27])


def test_a_curve_that_a_photo_lacks_is_gone_until_the_next_photo(opened: chromium.Browser) -> None:
    choose(opened, "photo", 1)
    assert drawn(opened, "JPEG") == ([0.1, 0.3], [26, 28])
    choose(opened, "photo", 3)
    assert drawn(opened, "JPEG") == ([], [])
    assert drawn(opened, "LIC for people") == ([0.1, 0.3], [28, 30])
    choose(opened, "rate", 1)
    assert drawn(opened, "JPEG") == ([], [])
    choose(opened, "photo", 0)
    assert drawn(opened, "JPEG") == ([0.1, 0.3], [26, 28])


def test_a_curve_can_be_switched_off(opened: chromium.Browser) -> None:
    marks = "Bokeh.documents[0].get_model_by_name('JPEG marks').visible"
    assert opened.value(marks)
    opened.value("document.querySelector('[data-curve=JPEG]').click()")
    assert not opened.value(marks)


def test_a_point_shows_its_numbers_under_the_pointer(opened: chromium.Browser) -> None:
    find = """(() => {
      const view = Bokeh.index.roots[0];
      const box = view.el.getBoundingClientRect();
      const { x_scale, y_scale } = view.frame;
      return [box.left + x_scale.compute(0.5), box.top + y_scale.compute(28)];
    })()"""
    x, y = opened.value(find)
    opened.move(x - 30, y - 30)
    opened.move(x, y)
    shown = """(() => {
      const deep = (node) => [node.textContent ?? "",
        ...[...node.querySelectorAll("*")].map((n) => n.shadowRoot).filter(Boolean).map(deep)
      ].join(" ");
      return deep(document);
    })()"""
    opened.until(f"{shown}.includes('of them additional 0.300')")


@pytest.mark.parametrize("width", [1366, 390])
def test_the_plot_fits_its_window(opened: chromium.Browser, page: Path, width: int) -> None:
    opened.open(page, width)
    opened.until("document.getElementById('plot').dataset.ready === 'yes'")
    assert opened.value("document.documentElement.scrollWidth") <= width
