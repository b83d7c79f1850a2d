import numpy as np
import pytest
from scipy.stats import norm
from skimage import data as photos
from skimage.color import rgb2lab

from sic.masks import records, segment
from sic.params import GraphSegmenter

SETTINGS = GraphSegmenter(scale=200, sigma=0.8, min_size=100)


def test_segments_tile_the_picture() -> None:
    pixels = photos.chelsea()
    found = segment.graph_segments(pixels, SETTINGS)
    assert len(found) > 20
    cover = sum(records.decode(one).astype(int) for one in found)
    assert (cover == 1).all()
    assert min(one["area"] for one in found) >= SETTINGS.min_size


def test_the_same_picture_gives_the_same_segments() -> None:
    pixels = photos.coffee()[:200, :200]
    assert segment.graph_segments(pixels, SETTINGS) == segment.graph_segments(
        pixels.copy(), SETTINGS
    )


def test_confidence_is_the_separation_of_colours() -> None:
    # Two flat halves: σ is the one unit of CIELAB that is always assumed, d their distance.
    pixels = np.full((64, 64, 3), 100, np.uint8)
    pixels[:, 32:] = (103, 100, 100)
    labels = np.zeros((64, 64), np.int64)
    labels[:, 32:] = 1
    lab = rgb2lab(pixels)
    d = np.linalg.norm(lab[0, 0] - lab[0, 63])
    mean, weakest = segment._confidence(labels, pixels)
    assert mean == pytest.approx([norm.cdf(d / np.sqrt(2))] * 2)
    assert weakest == pytest.approx(mean)


def test_confidence_averages_over_the_border_and_knows_the_closest() -> None:
    # A bar between a like and an unlike neighbour.
    pixels = np.zeros((30, 90, 3), np.uint8)
    pixels[:, :30], pixels[:, 30:60], pixels[:, 60:] = 100, 103, 200
    labels = np.repeat(np.arange(3), 30)[None].repeat(30, 0)
    lab = rgb2lab(pixels)[0, [0, 30, 60]]
    left, right = (np.linalg.norm(lab[1] - lab[i]) for i in (0, 2))
    mean, weakest = segment._confidence(labels, pixels)
    assert mean[1] == pytest.approx(norm.cdf((left + right) / 2 / np.sqrt(2)))
    assert weakest[1] == pytest.approx(norm.cdf(left / np.sqrt(2)))


def test_texture_makes_unsure() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 32)[None].repeat(64, 0)
    flat = np.where(labels[..., None] == 0, 90, 130).repeat(3, 2).astype(np.uint8)
    rough = np.clip(flat + rng.normal(0, 40, flat.shape), 0, 255).astype(np.uint8)
    assert (
        segment._confidence(labels, rough)[0] < segment._confidence(labels, flat)[0] - 0.1
    ).all()


def test_one_flat_segment_is_not_sure_at_all() -> None:
    found = segment.graph_segments(np.full((40, 50, 3), 77, np.uint8), SETTINGS)
    assert [one["predicted_iou"] for one in found] == [0.5]


@pytest.mark.parametrize("photo", ["astronaut", "coffee", "chelsea", "rocket"])
def test_alpha_acts(photo: str) -> None:
    """The published 0.78 keeps a good part of the segments and 0.93 clearly fewer."""
    scores = np.array(
        [one["predicted_iou"] for one in segment.graph_segments(getattr(photos, photo)(), SETTINGS)]
    )
    assert ((scores >= 0.5) & (scores <= 1)).all()
    at_78, at_93 = (scores >= 0.78).mean(), (scores >= 0.93).mean()
    assert 0.4 < at_78 < 0.9
    assert 0.05 < at_93 < at_78 / 2
