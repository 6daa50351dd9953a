"""Pairs → training crops: a sample is a pure function of (seed, position in the training)."""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetseg.data.crops.augment import Augmenter
from unetseg.data.crops.reader import PairReader
from unetseg.data.facts.fingerprint import pooled
from unetseg.data.facts.survey import Survey
from unetseg.data.files.nodata import filled, missing_pixels
from unetseg.data.masks.class_map import IGNORED


class Sample(NamedTuple):
    """One crop, or a batch of crops with a leading N."""

    image: Tensor
    """C×H×W, raw pixel values, uint8 or float32."""
    mask: Tensor
    """H×W uint8, class indexes; 255 is ignored."""
    statistics: Tensor
    """2×C float32: mean and deviation of the whole image the crop is from."""

    def split(self, sizes: Sequence[int]) -> "list[Sample]":
        """A batch as smaller ones of so many crops."""
        parts = (torch.split(tensor, list(sizes)) for tensor in self)
        return [Sample(*part) for part in zip(*parts, strict=True)]


@dataclass(frozen=True)
class CropRule:
    """How crops are taken from images."""

    size: int
    """Side, pixels."""
    profile: str
    """Augmentation profile."""
    oversample: float
    """Share of the crops that are centred on a pixel of a class drawn at random."""
    upright: bool = False
    """Whether up is up in the images."""


@dataclass(frozen=True)
class Gaps:
    """Keeps pixels without data from loss and network.

    Attributes:
        mean: Mean of the training pixels, per band.
        std: Deviation of the training pixels, per band.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    def hide(
        self, image: NDArray[Any], mask: NDArray[np.uint8]
    ) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """A crop of an image, filled as for prediction, and of its mask, ignored there."""
        missing = missing_pixels(image, len(self.mean))
        if missing is not None:
            mask = np.where(missing, np.uint8(IGNORED), mask)
        return filled(image, self.mean, self.std), mask


def known_gaps(known: Survey, bands: int) -> Gaps:
    """What stands for pixels without data in the images of a folder."""
    over = pooled([fact.image for fact in known.facts_of("train")], bands)
    return Gaps(over["mean"], over["std"])


Key = tuple[int, int]
"""A crop: which image, and the seed of the draw."""


class Crops:
    """Augmented crops, by their keys.

    Args:
        reader: The pairs.
        rule: How crops are taken.
        statistics: N×2×C, mean and deviation of every image, in the reader's order.
        gaps: Hides pixels without data, where images may have such.
    """

    def __init__(
        self,
        reader: PairReader,
        rule: CropRule,
        statistics: NDArray[np.float32],
        gaps: Gaps | None = None,
    ) -> None:
        self.reader = reader
        self.rule = rule
        self.statistics = statistics
        self.gaps = gaps
        self.augment = Augmenter(rule.profile, rule.size, upright=rule.upright)

    def __getitem__(self, key: Key) -> Sample:
        index, seed = key
        pair = self.reader.pair(index)
        rng = np.random.default_rng(seed)
        size, present = self.rule.size, None
        if rng.random() < self.rule.oversample:
            present = pair.present(self.reader.class_map.foreground)
        if present:
            centre = pair.pixel(present[rng.integers(len(present))], rng)
        else:
            height, width = pair.size
            centre = _random_centre(height, size, rng), _random_centre(width, size, rng)
        image, mask = pair.crop(centre, self.augment.window)
        if self.gaps is not None:
            image, mask = self.gaps.hide(image, mask)
        image, mask = self.augment(image, mask, int(rng.integers(2**31)))
        return Sample(
            torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1),  # C, H, W
            torch.from_numpy(np.ascontiguousarray(mask)),
            torch.from_numpy(self.statistics[index]),
        )


def _random_centre(length: int, size: int, rng: np.random.Generator) -> int:
    """The middle of a crop that lies wholly inside, or of the image when that is smaller."""
    if length <= size:
        return length // 2
    return int(rng.integers(size // 2, length - (size - size // 2) + 1))


class Order:
    """The batches of the whole training, without end.

    Every epoch visits image i `repeats[i]` times in an order drawn from (seed, epoch). The batch at
    step s is a pure function of (seed, s), whatever the number of workers; so a resumed training
    goes on with the very crops the interrupted one would have seen.
    """

    def __init__(self, repeats: Sequence[int], batch: int, seed: int, first_step: int = 0) -> None:
        self.images = np.repeat(np.arange(len(repeats)), repeats)
        self.batch = batch
        self.seed = seed
        self.first_step = first_step
        self.share = slice(None)

    @property
    def steps_per_epoch(self) -> int:
        """Batches until every image was seen; the last one is filled from the same epoch."""
        return -(-len(self.images) // self.batch)

    @property
    def crops(self) -> int:
        """Crops of a batch that are given."""
        return len(range(self.batch)[self.share])

    def of_rank(self, rank: int, size: int) -> "Order":
        """The same order, of which one of so many processes gets its share of every batch.

        >>> order = Order([1] * 5, batch=5, seed=0)
        >>> next(iter(order.of_rank(1, 2))) == next(iter(order))[1::2]
        True
        """
        own = copy(self)
        own.share = slice(rank, None, size)
        return own

    def after(self, steps: int) -> "Order":
        """The same order, entered so many batches later."""
        later = copy(self)
        later.first_step += steps
        return later

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, skip = divmod(self.first_step, self.steps_per_epoch)
        length = self.steps_per_epoch * self.batch
        while True:
            rng = np.random.default_rng((self.seed, epoch))
            order = np.resize(rng.permutation(self.images), length)
            keys = list(zip(order.tolist(), rng.integers(2**62, size=length).tolist(), strict=True))
            for at in range(skip * self.batch, length, self.batch):
                yield keys[at : at + self.batch][self.share]
            epoch, skip = epoch + 1, 0


def collate(samples: Sequence[Sample]) -> Sample:
    """Crops as a batch, its image channels_last: as crops are cut and as the network wants it."""
    images, masks, statistics = zip(*samples, strict=True)
    batch = torch.stack([image.permute(1, 2, 0) for image in images])  # N, H, W, C
    return Sample(batch.permute(0, 3, 1, 2), torch.stack(masks), torch.stack(statistics))
