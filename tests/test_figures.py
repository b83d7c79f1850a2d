"""The figures say what the table says; complexity is computed, not written."""

import re
from collections.abc import Iterable
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import seaborn as sns
import skimage
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from skimage import data

from sic.report import figures
from sic.report.figures import curves

ROOT = Path(__file__).parents[1]


def row(codec: str, bpp: tuple[float, float], psnr: float, **more: Any) -> dict[str, Any]:
    base, additional = bpp
    return {
        "codec": codec,
        "point": "q1",
        "bpp_base": base,
        "bpp_additional": additional,
        "bpp": base + additional,
        "psnr": psnr,
        "psnr_machine": np.nan,
        "preset": np.nan,
        **more,
    }


@pytest.fixture
def means() -> pd.DataFrame:
    """Made up: fusion is 1 dB above DC and 0.5 dB below LIC where additional bits count."""
    rows = [row("SA-ICM", (0.1, 0), 20, psnr_machine=20)]
    for rate, lmbda in ((0.1, 0.005), (0.2, 0.01), (0.4, 0.02)):
        quality = 30 + 3 * np.log2(rate / 0.1)
        rows += [
            row("LIC", (rate, 0), quality + 0.5, lmbda=lmbda),
            row("difference", (0.1, rate), quality - 1, lmbda=lmbda),
            *(row("fusion", (0.1, rate), quality - (5 - m) / 10, lmbda=lmbda, m=m) for m in (3, 5)),
            row("VVC", (rate, 0), quality + 1),
            row("JPEG", (rate, 0), quality - 2),
            row("WebP", (rate, 0), quality + 0.52),
        ]
    rows.append(row("mean colour", (0, 0), 12))
    return pd.DataFrame(rows).astype({"m": "Int64"})


def line(axes: Any, label: str) -> np.ndarray:
    (found,) = [drawn for drawn in axes.get_lines() if drawn.get_label() == label]
    return np.column_stack(found.get_data())


def test_fig_6_counts_additional_bits_on_the_left_and_all_bits_on_the_right(
    means: pd.DataFrame,
) -> None:
    left, right = figures.rate_distortion(means, m=5, caption="").axes
    np.testing.assert_allclose(line(left, "proposed (feature fusion)")[:, 0], [0.1, 0.2, 0.4])
    np.testing.assert_allclose(line(right, "proposed (feature fusion)")[:, 0], [0.2, 0.3, 0.5])
    np.testing.assert_allclose(line(left, "proposed (feature fusion)")[:, 1], [30, 33, 36])
    np.testing.assert_allclose(line(left, "LIC for people"), line(right, "LIC for people"))
    np.testing.assert_allclose(line(right, "SA-ICM, x̂_t"), [[0.1, 20]])
    drawn = ["proposed (feature fusion)", "DC model", "LIC for people", "VVC", "SA-ICM, x̂_t"]
    assert [curve.get_label() for curve in left.get_lines()] == drawn[:4], "the paper's curves"
    assert [curve.get_label() for curve in right.get_lines()] == drawn
    assert "bits per pixel" in right.get_xlabel()
    assert "dB" in left.get_ylabel()


def test_fig_6_has_feature_residual_of_the_same_m_where_it_was_measured(
    means: pd.DataFrame,
) -> None:
    fusion = means[means.codec == "fusion"]
    others = [
        fusion.assign(codec=codec, psnr=fusion.psnr + gain)
        for codec, gain in (("FR", 1), ("conditional FR", 2))
    ]
    left, right = figures.rate_distortion(pd.concat([means, *others]), m=5, caption="").axes
    for axes in (left, right):
        ours = line(axes, "proposed (feature fusion)")
        for label, gain in (("feature residual (FR)", 1), ("conditional FR", 2)):
            np.testing.assert_allclose(line(axes, label) - ours, [[0, gain]] * 3)
    drawn = figures.quality_by_m(pd.concat([means, *others]), "").axes[0].get_lines()
    assert len(drawn) == 2, "Fig. 7 is of the paper's method"


def test_points_without_loss_are_not_drawn_and_counted(means: pd.DataFrame, tmp_path: Path) -> None:
    best = means.lmbda == 0.02
    means.loc[best & means.codec.isin(["LIC", "fusion"]) | (means.codec == "JPEG"), "psnr"] = np.inf
    fig_6 = figures.rate_distortion(means, 5, "Fig. 6: two photos")
    fig_7 = figures.quality_by_m(means, "Fig. 7")
    for figure, gone in ((fig_6, 6), (fig_7, 6)):
        figures.save(figure, tmp_path / "figure")
        assert figure._suptitle
        assert f"without loss: {gone} points" in figure._suptitle.get_text().replace("\n", " ")
    assert len(line(fig_6.axes[0], "LIC for people")) == 2
    assert len(line(fig_7.axes[0], "m = 5")) == 2
    assert np.isinf(figures.table_2(means).loc[0.02, ("ours", "m = 5")])
    means["psnr"] = np.inf
    figures.save(figures.rate_distortion(means, 5, ""), tmp_path / "nothing but the base")


def test_a_long_caption_stays_inside_of_its_figure(means: pd.DataFrame) -> None:
    figure = figures.quality_by_m(means, "Fig. 7: mean over many photos, stand-in masks " * 5)
    FigureCanvasAgg(figure).draw()
    assert figure._suptitle
    box = figure._suptitle.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert "-\n" not in figure._suptitle.get_text(), "a word is torn at its hyphen"


def test_a_name_with_dollars_is_no_mathematics() -> None:
    name = "price_$5_or_$6"
    image = np.zeros((8, 8, 3), np.uint8)
    fig_2 = figures.mask_beside_image({name: (image, image[..., 0] > 0)}, f"Fig. 2: {name}")
    fig_5 = figures.pictures_side_by_side([("original", image)], (0, 0, 4), f"Fig. 5: {name}")
    drawn = figures.Structure(5, 5, 32, (1.0, 1.0), (0.1, 0.1), (20.0, 30.0), name)
    for figure in (fig_2, fig_5, figures.structure(drawn)):
        FigureCanvasAgg(figure).draw()
        title = figure._suptitle
        assert title
        text, is_math = title._preprocess_math(title.get_text())
        assert text.endswith(name)
        assert not is_math
    assert fig_2.axes[0].title._preprocess_math(fig_2.axes[0].get_title()) == (name, False)


@pytest.mark.parametrize("book", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda b: b.stem)
def test_no_notebook_draws_a_name_as_mathematics(book: Path) -> None:
    for line in book.read_text(encoding="utf-8").splitlines():
        assert not re.search(r"set_title\(.*\{(name\b|record\.name|row\['name'\])", line)
        assert "bar(density.index," not in line


def test_fig_7_has_a_curve_for_each_m(means: pd.DataFrame) -> None:
    (axes,) = figures.quality_by_m(means, "").axes
    np.testing.assert_allclose(line(axes, "m = 3")[:, 1], [29.8, 32.8, 35.8])
    np.testing.assert_allclose(line(axes, "m = 5")[:, 1], [30, 33, 36])


def without(means: pd.DataFrame, m: int, *lmbdas: float) -> pd.DataFrame:
    """The means where an m was trained at some λ only."""
    return means[~((means.m == m) & means.lmbda.isin(lmbdas)).fillna(False)]


def test_an_m_that_was_trained_at_one_rate_point_is_one_point(means: pd.DataFrame) -> None:
    few = without(means, 3, 0.005, 0.02)
    (axes,) = figures.quality_by_m(few, "").axes
    np.testing.assert_allclose(line(axes, "m = 3"), [[0.2, 32.8]])
    assert len(line(axes, "m = 5")) == 3
    table = figures.table_2(few)
    assert table.loc[0.01, ("ours", "m = 3")] == pytest.approx(32.8)
    assert np.isnan(table.loc[0.02, ("ours", "m = 3")])
    assert table.loc[0.02, ("ours", "m = 5")] == 36


def test_vvc_is_named_with_its_set_up(means: pd.DataFrame) -> None:
    setup = {"version": "libvvenc 1.15 (gcc)", "preset": "fast", "chroma": "4:2:0", "bit_depth": 10}
    vvc = pd.DataFrame([row("VVC", (rate, 0), 30, **setup) for rate in (0.1, 0.3)])
    both = pd.concat([means[means.codec != "VVC"], vvc]).astype({"bit_depth": "Int64"})
    left, _ = figures.rate_distortion(both, 5, "").axes
    assert len(line(left, "VVC (libvvenc 1.15, fast, 4:2:0 10 bit)")) == 2


def test_a_codec_that_was_not_measured_has_no_curve(means: pd.DataFrame) -> None:
    left, _ = figures.rate_distortion(means[means.codec != "VVC"], 5, "").axes
    assert "VVC" not in [curve.get_label() for curve in left.get_lines()]


def test_the_published_series_is_drawn_as_such_and_only_when_given(means: pd.DataFrame) -> None:
    drawn = figures.rate_distortion(means, 5, "", [(0.1, 28.0), (0.3, 31.0)])
    for axes in drawn.axes:
        np.testing.assert_allclose(line(axes, figures.PUBLISHED), [[0.1, 28], [0.3, 31]])
    (legend,) = drawn.legends
    assert figures.PUBLISHED in [text.get_text() for text in legend.get_texts()]
    plain = figures.rate_distortion(means, 5, "").axes[0]
    assert figures.PUBLISHED not in [curve.get_label() for curve in plain.get_lines()]


def test_fig_3_fills_the_slices_that_are_sent() -> None:
    structure = figures.Structure(5, 2, 64, (76.6, 51.7), (0.2, 0.3), (25.0, 31.0), "coffee")
    (axes,) = figures.structure(structure).axes
    texts = [text.get_text() for text in axes.texts]
    assert "ŷ: 5 × 64 channels" in texts
    assert "ŷa: 2 × 64 channels" in texts
    assert "g_human → x̂\nfor people\n31.00 dB" in texts
    bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert len(bars) == 10
    white = [bar for bar in bars if bar.get_facecolor()[:3] == (1, 1, 1)]
    assert len(white) == 3, "the additional codec leaves three slices out"


def test_the_base_is_a_curve_in_the_order_of_its_rates(means: pd.DataFrame) -> None:
    more = [row("SA-ICM", (0.15, 0), 21, psnr_machine=21), row("SA-ICM", (0.05, 0), 19)]
    more[1]["psnr_machine"] = 19
    several = pd.concat([means, pd.DataFrame(more)]).astype({"m": "Int64"})
    _, right = figures.rate_distortion(several, m=5, caption="").axes
    np.testing.assert_allclose(line(right, "SA-ICM, x̂_t"), [[0.05, 19], [0.1, 20], [0.15, 21]])


def test_sa_icm_s_table_shows_ours_beside_the_published_one(means: pd.DataFrame) -> None:
    bases = [row("SA-ICM", (bpp, 0), 20, lmbda=lm) for bpp, lm in ((0.14, 0.05), (0.1, 0.02))]
    means = pd.concat([means[means.codec != "SA-ICM"], pd.DataFrame(bases)])
    detected = means[means.codec == "SA-ICM"].assign(bpp=[0.15, 0.11], ap=[0.284, 0.176])
    published = ("SA-ICM as published, COCO", "Mask R-CNN, masks")
    for found, names in (
        (figures.table_sa_icm(means, detected.iloc[:0]), ["bpp"]),
        (figures.table_sa_icm(means, detected), ["bpp", "boxes"]),
        (figures.table_sa_icm(means, detected.assign(mask_ap=np.nan)), ["bpp", "boxes"]),
        (figures.table_sa_icm(means, detected.assign(mask_ap=0.2)), ["bpp", "boxes", "masks"]),
    ):
        assert list(found["this study"]) == names
        assert list(found.index) == [0.02, 0.03, 0.04, 0.05, 0.06]
        assert found[published].tolist() == [30.4, 31.2, 31.8, 32.1, 32.5]
        ours = found["this study"].loc[[0.02, 0.05]]
        if "boxes" in names:
            np.testing.assert_allclose(ours.bpp, [0.11, 0.15])
            np.testing.assert_allclose(ours.boxes, [17.6, 28.4])
        else:
            np.testing.assert_allclose(ours.bpp, [0.1, 0.14])


def test_table_2_shows_ours_beside_the_papers(means: pd.DataFrame) -> None:
    table = figures.table_2(means)
    assert table.loc[0.01, ("ours", "m = 5")] == 33
    assert table.loc[0.01, ("paper", "m = 5")] == 31.22
    assert np.isnan(table.loc[0.005, ("paper", "m = 1")])


def test_codecs_keep_apart_by_colour_and_by_marker() -> None:
    values = [look["marker"] for look in figures.LOOKS.values()]
    assert len(set(values)) == len(values)
    assert_colours_differ(figures.LOOKS.values(), least=10)


def assert_colours_differ(looks: Iterable[dict[str, Any]], least: float) -> None:
    """Each colour from each other, by so many units of CIEDE2000: 1 can just be seen."""
    colours = [skimage.color.rgb2lab(to_rgb(look["color"])) for look in looks]
    for one, other in combinations(colours, 2):
        assert skimage.color.deltaE_ciede2000(one, other) > least


def test_each_m_keeps_apart_and_the_largest_looks_as_in_every_figure(means: pd.DataFrame) -> None:
    looks = figures.by_m([3, 1, 2, 5, 4, 5])
    assert list(looks) == [1, 2, 3, 4, 5]
    assert looks[5] == figures.LOOKS["fusion"]
    assert len({look["marker"] for look in looks.values()}) == 5
    assert_colours_differ(looks.values(), least=7)
    assert len({str(look) for look in figures.by_m(range(1, 11)).values()}) == 10
    drawn = {str(each.get_label()): each for each in figures.quality_by_m(means, "").axes[0].lines}
    assert drawn["m = 5"].get_marker() == figures.LOOKS["fusion"]["marker"]
    assert drawn["m = 3"].get_marker() != drawn["m = 5"].get_marker()


def test_figures_are_saved_as_png_and_svg_and_are_the_same_again(tmp_path: Path) -> None:
    image = data.astronaut()[:64, :96]
    mask = image[..., 0] > 128
    for name in "ab":
        figure = figures.mask_beside_image({"astronaut": (image, mask)}, "caption")
        figures.save(figure, tmp_path / name)
    assert matplotlib.image.imread(tmp_path / "a.png").shape[0] > 500
    for suffix in ("png", "svg"):
        a, b = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in "ab")
        assert a == b


def test_fig_5_enlarges_the_framed_crop() -> None:
    pictures = [("original", data.astronaut()), ("x̂", data.astronaut() // 2)]
    figure = figures.pictures_side_by_side(pictures, (10, 20, 64), "caption")
    whole, other, crop, _ = figure.axes
    (frame,) = whole.patches
    assert (frame.get_x(), frame.get_y(), frame.get_width()) == (20, 10, 64)
    np.testing.assert_array_equal(crop.get_images()[0].get_array(), data.astronaut()[10:74, 20:84])
    assert other.get_title() == "x̂"


def test_why_keeps_every_additional_codec_apart_by_colour_or_dashes() -> None:
    kinds = ("m5", "fr-m5", "cfr-m5")
    names = [f"fusion/{kind}-q{point}" for kind in kinds for point in range(3)]
    columns = ["psnr", "psnr_decoder_has_y", "psnr_both_have_y"]
    mean = pd.DataFrame(1.0, index=[*names, "difference/q0"], columns=columns)
    weak = pd.DataFrame({"codec": names, "power": 0.01, "cancels": -9.0})
    strong = pd.DataFrame({"codec": names, "power": 1.0, "cancels": 0.5})
    channels = pd.concat([weak, strong])
    figure = figures.why(mean, channels)
    FigureCanvasAgg(figure).draw()
    left, right = figure.axes
    drawn = {line.get_label(): line for line in right.get_lines() if line.get_label() in names}
    assert list(drawn) == names
    assert len({(line.get_color(), line.get_linestyle()) for line in drawn.values()}) == len(names)
    assert all(list(line.get_ydata()) == [0.5] for line in drawn.values()), "not what is next to 0"
    assert drawn["fusion/cfr-m5-q1"].get_color() == figures.LOOKS["conditional FR"]["color"]
    assert right.get_legend().get_window_extent().x0 >= right.get_window_extent().x1
    labels = [tick.get_window_extent() for tick in left.get_yticklabels()]
    assert all(above.y0 > below.y1 for above, below in pairwise(labels))


def test_training_curves_show_both_splits() -> None:
    history = pd.DataFrame(
        {
            "step": [2, 2, 4, 4],
            "split": ["train", "validation"] * 2,
            "loss": [9.0, 8, 7, 6],
            "bpp": [0.4, 0.3, 0.2, 0.1],
            "psnr": [20.0, 21, 22, 23],
        }
    )
    figure = curves(history, "LIC")
    np.testing.assert_allclose(line(figure.axes[0], "train"), [[2, 9], [4, 7]])
    np.testing.assert_allclose(line(figure.axes[2], "validation"), [[2, 21], [4, 23]])


def test_colours_are_those_of_the_palette_for_the_colour_blind() -> None:
    palette = sns.color_palette("colorblind").as_hex()
    names = {"difference": 0, "SA-ICM": 1, "LIC": 2, "fusion": 3, "WebP": 4, "JPEG": 7, "AVIF": 9}
    assert {name: figures.LOOKS[name]["color"] for name in names} == {
        name: palette[number] for name, number in names.items()
    }
