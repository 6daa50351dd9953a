"""Pairs → training crops: a sample is a pure function of (seed, position in the training)."""

import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from unetseg.data.augment import Augmenter
from unetseg.data.fingerprint import pooled
from unetseg.data.images import match_bands, read_image
from unetseg.data.masks import IGNORED, ClassMap, read_mask
from unetseg.data.nodata import filled, missing_pixels
from unetseg.data.pairs import Pair
from unetseg.data.rasters import (
    MaskRaster,
    Raster,
    open_mask_raster,
    open_raster,
    reads_by_windows,
)
from unetseg.data.survey import Survey
from unetseg.data.windows import GiantPair, WholePair
from unetseg.data.windows import window as window
from unetseg.errors import DataError
from unetseg.runtime import host_memory

KEPT_SHARE = 0.3
"""Share of the free memory that the decoded images of a split may take."""
OPEN_PAIRS = 8
"""Giant pairs whose files stay open."""


class Sample(NamedTuple):
    """One crop, or a batch of crops with a leading N."""

    image: Tensor
    """C×H×W, raw pixel values, uint8 or float32."""
    mask: Tensor
    """H×W uint8, class indexes; 255 is ignored."""
    statistics: Tensor
    """2×C float32: mean and deviation of the whole image the crop is from."""

    def split(self, parts: int) -> "list[Sample]":
        """A batch as `parts` smaller ones."""
        return [Sample(*part) for part in zip(*(t.chunk(parts) for t in self), strict=True)]


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


class PairReader:
    """Reads pairs as (image H×W×C, class indexes H×W), and keeps them when memory allows.

    Pairs with a giant TIFF are never kept; `pair` gives windows of them.

    Args:
        pairs: What to read.
        class_map: What the mask values mean.
        bands: Bands that every image must have.
    """

    def __init__(self, pairs: Sequence[Pair], class_map: ClassMap, bands: int) -> None:
        self.pairs = list(pairs)
        self.class_map = class_map
        self.bands = bands
        self._kept: dict[int, tuple[NDArray[Any], NDArray[np.uint8]]] = {}
        self._are_giants: dict[int, bool] = {}
        self._giants: dict[int, GiantPair] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        if index in self._kept:
            return self._kept[index]
        path, mask = self._files(index)
        image = match_bands(read_image(path), self.bands, path)
        return image, self.class_map.encode(read_mask(mask).pixels, mask)

    def is_giant(self, index: int) -> bool:
        """Whether a file of the pair is a giant TIFF, so that the pair is read by windows."""
        if index not in self._are_giants:
            self._are_giants[index] = any(reads_by_windows(path) for path in self._files(index))
        return self._are_giants[index]

    def rasters(self, index: int) -> tuple[Raster, MaskRaster]:
        """The image and the mask of a pair, to be read by windows; they belong to the reader.

        Raises:
            DataError: they differ in size, or cannot be read.
        """
        giant = self._giant(index)
        return giant.image, giant.mask

    def pair(self, index: int) -> WholePair | GiantPair:
        """A pair that windows can be cut from; a giant stays on disk."""
        return self._giant(index) if self.is_giant(index) else WholePair(*self[index])

    def keep(self) -> None:
        """Decode all but the giants now, in parallel, and answer from memory from here on."""
        wanted = [index for index in range(len(self)) if not self.is_giant(index)]
        with ThreadPoolExecutor() as pool:
            self._kept = dict(zip(wanted, pool.map(self.__getitem__, wanted), strict=True))

    def close(self) -> None:
        """Close the files of giants; reading opens them again."""
        for giant in self._giants.values():
            giant.close()

    def _giant(self, index: int) -> GiantPair:
        """A pair read by windows; those read long ago are closed, and open again when needed."""
        if index not in self._giants:
            path, mask = self._files(index)
            giant = GiantPair(open_raster(path), open_mask_raster(mask), self.class_map, self.bands)
            sizes = [f"{one.width}×{one.height}" for one in (giant.image, giant.mask)]
            if sizes[0] != sizes[1]:
                giant.close()
                raise DataError(f"{path} is {sizes[0]}, {mask} is {sizes[1]} (width×height)")
        else:
            giant = self._giants.pop(index)
        self._giants[index] = giant  # the last of the dict is the one used last
        for old in list(self._giants.values())[:-OPEN_PAIRS]:
            old.close()
        return giant

    def _files(self, index: int) -> tuple[Path, Path]:
        pair = self.pairs[index]
        if pair.mask is None:
            raise ValueError(f"{pair.image} has no mask")
        return pair.image, pair.mask


def read_split(known: Survey, split: str, bands: int) -> PairReader:
    """The reader of a split, decoded into memory when that takes a small part of what is free.

    Giants stay on disk, and do not count.
    """
    reader = PairReader(known.select(split), known.class_map, bands)
    facts = enumerate(known.facts_of(split))
    pixels = sum(fact.image.pixels for index, fact in facts if not reader.is_giant(index))
    if pixels * (bands * np.dtype(known.dtype).itemsize + 1) < KEPT_SHARE * host_memory():
        reader.keep()
    return reader


@dataclass(frozen=True)
class Gaps:
    """Pixels without data in the images of a split, kept from loss and network.

    Attributes:
        nodata: The value that each image declares for them, or None.
        mean: Mean of the training pixels, per band.
        std: Deviation of the training pixels, per band.
    """

    nodata: tuple[float | None, ...]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    def hide(
        self, index: int, image: NDArray[Any], mask: NDArray[np.uint8]
    ) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """A window of an image, filled as for prediction, and of its mask, ignored there."""
        nodata = self.nodata[index]
        if nodata is None:
            return image, mask
        hidden = np.where(missing_pixels(image, nodata), np.uint8(IGNORED), mask)
        return filled(image, nodata, self.mean, self.std), hidden


def find_gaps(known: Survey, split: str, bands: int) -> Gaps:
    """What the images of a split declare."""
    over = pooled([fact.image for fact in known.facts_of("train")], bands)
    nodata = tuple(fact.image.nodata for fact in known.facts_of(split))
    return Gaps(nodata, over["mean"], over["std"])


class Crops(Dataset[Sample]):
    """Augmented crops. The index is a pair of numbers: (which image, seed of the draw).

    Args:
        reader: The pairs.
        rule: How crops are taken.
        statistics: N×2×C, mean and deviation of every image, in the reader's order.
        gaps: Pixels without data, where there are such.
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

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        index, seed = key
        pair = self.reader.pair(index)
        rng = np.random.default_rng(seed)
        image, mask = pair.window(self._centre(pair, rng), self.augment.window)
        if self.gaps is not None:
            image, mask = self.gaps.hide(index, image, mask)
        image, mask = self.augment(image, mask, int(rng.integers(2**31)))
        return Sample(
            torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            torch.from_numpy(np.ascontiguousarray(mask)),
            torch.from_numpy(self.statistics[index]),
        )

    def _centre(self, pair: WholePair | GiantPair, rng: np.random.Generator) -> tuple[int, int]:
        if rng.random() < self.rule.oversample:
            present = pair.present(self.reader.class_map.foreground)
            if present:
                return pair.pixel(present[rng.integers(len(present))], rng)
        height, width = pair.size
        size = self.rule.size
        return _random_centre(height, size, rng), _random_centre(width, size, rng)


def _random_centre(length: int, size: int, rng: np.random.Generator) -> int:
    """The middle of a crop that lies wholly inside, or of the image when that is smaller."""
    if length <= size:
        return length // 2
    return int(rng.integers(size // 2, length - (size - size // 2) + 1))


class Order(Sampler[list[tuple[int, int]]]):
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

    @property
    def steps_per_epoch(self) -> int:
        """Batches until every image was seen; the last one is filled from the same epoch."""
        return -(-len(self.images) // self.batch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, skip = divmod(self.first_step, self.steps_per_epoch)
        while True:
            yield from self._epoch(epoch)[skip:]
            epoch, skip = epoch + 1, 0

    def _epoch(self, epoch: int) -> list[list[tuple[int, int]]]:
        rng = np.random.default_rng((self.seed, epoch))
        length = self.steps_per_epoch * self.batch
        order = np.resize(rng.permutation(self.images), length)
        keys = list(zip(order.tolist(), rng.integers(2**62, size=length).tolist(), strict=True))
        return [keys[at : at + self.batch] for at in range(0, length, self.batch)]


def crop_loader(crops: Crops, order: Order, workers: int, *, pin: bool = False) -> DataLoader[Any]:
    """The loader of the whole training: batches of `Sample`, without end."""
    return DataLoader(
        crops,
        batch_sampler=order,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_start_worker,
        timeout=600 if workers else 0,
        # Its own generator: the global one belongs to the network, and to an exact resume.
        generator=torch.Generator().manual_seed(order.seed),
        # Forked workers share the decoded images; spawned ones would each be sent a copy.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
    )


def _start_worker(_worker: int) -> None:
    """One thread for each worker; signals to stop are for the main process, which ends them."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
