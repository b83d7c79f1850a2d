"""The picture browser: lossless files beside the page, and a slider that hands and keys move."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import chromium
import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage import data

from sic import images
from sic.errors import SicError
from sic.report import pages
from sic.report.notebook import html
from sic.report.page import page as whole_page
from sic.report.pages import Scene

ROOT = Path(__file__).parents[1]
ASTRONAUT = data.astronaut()[:200, :300]
COFFEE = data.coffee()[:160, :120]


def scenes() -> list[Scene]:
    return [
        Scene(name, [(label, image // k) for k, label in enumerate(("x", "x̂_t", "x̂"), 1)])
        for name, image in (("astronaut", ASTRONAUT), ("a/#1 </script>", COFFEE))
    ]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    body = "<h1>Pictures</h1>" + pages.browser(scenes(), tmp_path)
    (tmp_path / "index.html").write_text(whole_page("Pictures", body))
    return tmp_path / "index.html"


def test_pictures_lie_beside_the_page_without_loss(page: Path) -> None:
    for name, image in (("0-0", ASTRONAUT), ("0-1", ASTRONAUT // 2), ("1-2", COFFEE // 3)):
        with Image.open(page.parent / f"{name}.webp") as file:
            np.testing.assert_array_equal(np.asarray(file), image)


def test_equal_pictures_give_equal_bytes(tmp_path: Path) -> None:
    assert pages.browser(scenes(), tmp_path / "a") == pages.browser(scenes(), tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_a_scene_shows_what_was_decoded_with_its_rate(tmp_path: Path) -> None:
    x_hat = ASTRONAUT // 2
    images.write_png(tmp_path / "fusion/m5-q1/astronaut.png", x_hat)
    about = {"image": "astronaut", "codec": "fusion", "point": "q1", "m": 5}
    row = pd.Series({**about, "bpp": 0.25, "psnr": 27.5})
    original, coded = pages.scene("astronaut", ASTRONAUT, {"x̂": row}, tmp_path).pictures
    np.testing.assert_array_equal(original[1], ASTRONAUT)
    np.testing.assert_array_equal(coded[1], x_hat)
    assert coded[0] == "x̂: 0.250 bpp, 27.50 dB"
    with pytest.raises(SicError, match=r"no .*fusion/m5-q1/coffee\.webp; run the evaluate stage"):
        pages.scene("coffee", COFFEE, {"x̂": row.replace("astronaut", "coffee")}, tmp_path)


# ---- in a browser ----


@pytest.fixture
def opened(page: Path, tmp_path: Path) -> Iterator[chromium.Browser]:
    with chromium.browser(tmp_path / "profile") as window:
        window.open(page)
        yield window
        assert window.faults == []
        assert [address for address in window.requests if not address.startswith("file:")] == []


def place(name: str) -> str:
    return f"document.querySelector('[data-part={name}]')"


def edge(window: chromium.Browser) -> float:
    """Where the edge stands, in parts of the picture's width, as it is drawn."""
    clip = window.value(f"getComputedStyle({place('over')}).clipPath")
    drawn = window.value(f"{place('edge')}.offsetLeft / {place('stage')}.clientWidth")
    found = re.fullmatch(r"inset\(0(?:px)? ([\d.]+)% 0(?:px)? 0(?:px)?\)|inset\(0(?:px)?\)", clip)
    assert found, clip
    left = 1 - float(found[1] or 0) / 100
    assert drawn == pytest.approx(left, abs=0.02), "the line stands where the pictures meet"
    return left


def test_it_opens_with_the_original_on_the_left_and_the_last_picture_on_the_right(
    opened: chromium.Browser,
) -> None:
    for part, file in (("over", "0-0.webp"), ("under", "0-2.webp")):
        opened.until(f"{place(part)}.complete")
        assert opened.value(f"{place(part)}.src").endswith(file)
        assert opened.value(f"[{place(part)}.naturalWidth, {place(part)}.naturalHeight]") == [
            *ASTRONAUT.shape[1::-1]
        ]
    assert opened.value(f"{place('over')}.alt") == "astronaut, x"
    assert edge(opened) == pytest.approx(0.5)


def test_keys_move_the_edge(opened: chromium.Browser) -> None:
    opened.value(f"{place('slider')}.focus()")
    for _ in range(3):
        opened.press("ArrowRight", 39)
    assert edge(opened) == pytest.approx(0.53)
    opened.press("Home", 36)
    assert edge(opened) == 0
    opened.press("End", 35)
    assert edge(opened) == 1


def test_a_drag_on_the_picture_moves_the_edge(opened: chromium.Browser) -> None:
    box = json.loads(opened.value(f"JSON.stringify({place('stage')}.getBoundingClientRect())"))
    x, y = box["left"] + box["width"] / 2, box["top"] + box["height"] / 2
    opened.drag(x, y, box["left"] + box["width"] / 4, y)
    assert edge(opened) == pytest.approx(0.25, abs=0.02)


def choose(window: chromium.Browser, part: str, index: int) -> None:
    window.value(f"{place(part)}.selectedIndex = {index}")
    window.value(f"{place(part)}.dispatchEvent(new Event('change'))")


def test_choices_change_the_pictures_and_stay_in_the_next_scene(opened: chromium.Browser) -> None:
    choose(opened, "right", 1)
    choose(opened, "scene", 1)
    assert opened.value(f"{place('over')}.src").endswith("1-0.webp")
    assert opened.value(f"{place('under')}.src").endswith("1-1.webp")
    assert opened.value(f"{place('under')}.alt") == "a/#1 </script>, x̂_t"
    opened.until(f"{place('under')}.complete")
    assert opened.value(f"{place('under')}.naturalWidth") == 120


@pytest.mark.parametrize("width", [1366, 390])
def test_the_page_fits_its_window_at_every_size_of_the_pictures(
    opened: chromium.Browser, page: Path, width: int
) -> None:
    opened.open(page, width)
    for index in range(4):
        choose(opened, "zoom", index)
        assert opened.value("document.documentElement.scrollWidth") <= width
    assert opened.value(f"{place('stage')}.clientWidth") == 4 * 300, "four pixels for one"


# ---- any page ----


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_what_is_wide_scrolls_in_a_box_that_says_so_and_never_the_page(
    tmp_path: Path, width: int, colours: str
) -> None:
    Image.new("RGB", (1800, 750)).save(tmp_path / "fig.png")
    table = pd.DataFrame([range(40)]).add_prefix("a column ").to_html()
    words = '<div class="wide" id="words">Few words.</div>'
    body = f'{words}<div class="output_html" id="table">{table}</div>'
    body += pages.figure(tmp_path / "fig", "A figure", report=tmp_path)
    (tmp_path / "index.html").write_text(whole_page("Wide", body))
    with chromium.browser(tmp_path / "profile") as window:
        window.prefer(colours)
        window.open(tmp_path / "index.html", width)
        window.until("!!document.querySelector('#table.scrolls.more')")
        assert window.value("document.documentElement.scrollWidth") <= width
        assert window.value("document.querySelector('#table').tabIndex") == 0
        assert not window.value("document.querySelector('#words').classList.contains('scrolls')")
        shown = window.value("document.querySelector('figure img').clientWidth")
        if width == 390:
            assert shown == round(pages.READABLE * 1800), "letters stay readable"
            window.until("!!document.querySelector('figure .wide.scrolls.more')")
            window.value("document.querySelector('figure .wide').scrollTo(9999, 0)")
            window.until("!!document.querySelector('figure .wide.scrolls:not(.more)')")
        else:
            assert shown <= width
        paper = window.value("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (colours == "light")
        assert window.faults == []


@pytest.mark.parametrize("stage", ["65_pictures", "70_report"])
def test_pages_to_look_at_show_no_code(stage: str) -> None:
    notebook = nbformat.read(ROOT / f"notebooks/{stage}.ipynb", as_version=4)
    page = html(notebook, Path("reports/pictures"))
    assert not re.search(r"\bimport\b", page)
    assert "input_area" not in page.split("</style>")[-1]
