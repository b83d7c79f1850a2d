"""Felzenszwalb's graph-based segmentation: the stand-in where Segment Anything is not at hand."""

import numpy as np
from numpy.typing import NDArray

from sic.images import Pixels
from sic.masks.records import Record, encode
from sic.params import GraphSegmenter


def segments(pixels: Pixels, settings: GraphSegmenter) -> list[Record]:
    """Segment a picture; every pixel belongs to one segment.

    In place of ``predicted_iou``, which only Segment Anything predicts, a segment carries the
    probability that colour tells one of its pixels from one of its neighbours': with d the mean
    distance (CIELAB) between its mean colour and its neighbours' along its border and σ the
    standard deviation of its own colour, Φ(d / (√2 σ)), the area under the ROC curve of two
    Gaussians.  ``stability_score`` is the same against the neighbour it resembles most.  Both lie
    in [0.5, 1]; they order segments as a confidence does and are not comparable with Segment
    Anything's numbers.
    """
    from scipy.ndimage import find_objects
    from skimage.segmentation import felzenszwalb

    labels = felzenszwalb(pixels, **settings.model_dump())
    mean_score, weakest_score = _confidence(labels, pixels)
    records = []
    for label, box in enumerate(find_objects(labels + 1)):
        mask = np.zeros(labels.shape, bool)
        mask[box] = labels[box] == label
        records.append(encode(mask, mean_score[label], weakest_score[label]))
    return records


def _confidence(
    labels: NDArray[np.int64], pixels: Pixels
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Φ(d / (√2 σ)) of each label against its neighbours on average, and against the closest."""
    from scipy.special import ndtr
    from skimage.color import rgb2lab

    count = int(labels.max()) + 1
    flat = labels.ravel()
    area = np.bincount(flat, minlength=count)
    lab = rgb2lab(pixels).reshape(-1, 3)
    mean = np.stack([np.bincount(flat, lab[:, c], count) for c in range(3)], 1) / area[:, None]
    variance = np.bincount(flat, np.square(lab - mean[flat]).sum(1), count) / area
    distance, pairs, closest = np.zeros(count), np.zeros(count), np.full(count, np.inf)
    for a, b in ((labels[:, 1:], labels[:, :-1]), (labels[1:], labels[:-1])):
        border = a != b
        a, b = a[border], b[border]
        d = np.linalg.norm(mean[a] - mean[b], axis=1)
        for one in (a, b):
            distance += np.bincount(one, d, count)
            pairs += np.bincount(one, minlength=count)
            np.minimum.at(closest, one, d)
    # One unit of CIELAB, what an eye just sees, so that a flat segment is not infinitely sure.
    spread = np.sqrt(2) * np.sqrt(variance + 1)
    closest[pairs == 0] = 0  # a segment that fills the picture has no border
    return ndtr(distance / np.maximum(pairs, 1) / spread), ndtr(closest / spread)
