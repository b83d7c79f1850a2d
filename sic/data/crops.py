"""Training images: random crops of photos and their edge masks, each following from its number."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sic import images, params
from sic.data import sets
from sic.errors import SicError

#: The image and its edge mask: x (3, h, w) in [0, 1] and m_x (1, h, w) of 0 and 1, float32.
Crop = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Photo:
    """A training image: its file and checksum, and its edge mask where the loss needs one."""

    image: Path
    sha256: str
    mask: Path | None = None

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """The image (H, W, 3) uint8 and m_x (H, W) bool; all True without a mask: (1) is (2)."""
        image = images.read(self.image)
        if self.mask is None:
            return image, np.ones(image.shape[:2], dtype=bool)
        mask = images.read(self.mask)[..., 0] > 0
        if mask.shape != image.shape[:2]:
            raise SicError(f"{self.mask} does not have the size of {self.image}; remake the edges")
        return image, mask

    def has_edges(self) -> bool:
        """Whether the loss sees a pixel of it."""
        return self.mask is None or bool(images.read(self.mask).any())

    def digest(self) -> bytes:
        """What a training run depends on."""
        return self.sha256.encode() + (self.mask.read_bytes() if self.mask else b"")


def photos(split: str, settings: params.Data, masks: Path | None = None) -> list[Photo]:
    """The images of a split of data/images.json, with their masks from the folder ``masks``."""
    return [
        Photo(
            sets.image_path(record, settings), record.sha256, masks and masks / f"{record.name}.png"
        )
        for record in sets.load_index()[split]
    ]


class Crops(Dataset[Crop]):
    """Random crops of ``size`` × ``size`` pixels, flipped at random; crop i is the same whenever it
    is asked for.  Each epoch visits the images in a new random order; smaller ones are padded.
    There are ``count`` crops, steps times batch."""

    #: Photos kept decoded; those of a larger set are read again when their turn comes.
    CACHE = 64

    def __init__(self, photos: Sequence[Photo], size: int, count: int, seed: int) -> None:
        if not photos:
            raise SicError("there are no training images; set data.train in params.yaml")
        self.photos, self.size, self.count, self.seed = photos, size, count, seed
        self._load = lru_cache(maxsize=self.CACHE)(Photo.load)
        self._order = lru_cache(maxsize=2)(  # in which an epoch visits its images
            lambda epoch: np.random.default_rng((seed, epoch)).permutation(len(photos))
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Workers that are not forked get it by pickle, which cannot hold caches: theirs are new.
        return type(self), (self.photos, self.size, self.count, self.seed)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Crop:
        epoch, place = divmod(index, len(self.photos))
        image, mask = self._load(self.photos[self._order(epoch)[place]])
        rng = np.random.default_rng((self.seed, epoch, place))
        top, left = (int(rng.integers(max(side - self.size, 0) + 1)) for side in mask.shape)
        window = np.s_[top : top + self.size, left : left + self.size]
        x, m_x = tensors(image[window], mask[window], self.size)
        return (x.flip(-1), m_x.flip(-1)) if rng.random() < 0.5 else (x, m_x)


def tensors(image: np.ndarray, mask: np.ndarray, multiple: int) -> Crop:
    """An image and its mask as tensors, padded to a multiple of ``multiple`` pixels."""
    x = images.pad(images.to_tensor(image), multiple)
    m_x = images.pad(torch.from_numpy(mask)[None, None].float(), multiple)
    return x[0], m_x[0]
