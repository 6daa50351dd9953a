"""Pairs of files → (image, class indexes), decoded when asked for, or once and kept."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unetseg.data.crops.crop import LargePair, WholePair
from unetseg.data.files.image import ImageFile
from unetseg.data.files.nodata import read_matched
from unetseg.data.files.pages import MaskPath
from unetseg.data.masks.class_map import ClassMap
from unetseg.data.masks.mask_file import MaskFile, fitted, read_mask
from unetseg.data.pairs.match import Pair
from unetseg.errors import DataError
from unetseg.progress import SILENT, Progress
from unetseg.resources import usable_cores

OPEN_PAIRS = 8
"""Large pairs whose files stay open."""

DecodedPair = tuple[NDArray[Any], NDArray[np.uint8]]
"""Image H×W×C of raw pixel values, one band more where it has gaps, and class indexes H×W."""


class PairStore(Protocol):
    """What keeps decoded pairs by their index; a dict is one. Several threads may write at once."""

    def __setitem__(self, index: int, pair: DecodedPair, /) -> None:
        """Keep a pair."""

    def get(self, index: int, /) -> DecodedPair | None:
        """The pair, if it is kept."""

    def clear(self) -> None:
        """Forget all pairs."""


class PairReader:
    """Reads pairs as (image H×W×C, class indexes H×W); what is kept is not decoded again.

    An image with pixels without data has one band more, see `nodata.py`. Pairs with a large TIFF
    are never kept; `pair` gives crops of them. The arrays belong to the reader: copy before
    changing them.

    Args:
        pairs: What to read.
        class_map: What the mask values mean.
        bands: Bands that every image must have.
        max_pixels: The most pixels that are decoded at once.
        small: Indexes of pairs that are known to have no large file; the others are asked.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        class_map: ClassMap,
        bands: int,
        max_pixels: int | None = None,
        small: Iterable[int] = (),
    ) -> None:
        self.pairs = list(pairs)
        self.class_map = class_map
        self.bands = bands
        self.max_pixels = max_pixels
        self._kept: PairStore = {}
        self._are_windowed = dict.fromkeys(small, False)
        self._large: dict[int, LargePair] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> DecodedPair:
        return self._kept.get(index) or self.decode(index)

    def decode(self, index: int) -> DecodedPair:
        """Read a pair from its files, whatever is kept.

        Raises:
            DataError: they differ in size, or cannot be read.
        """
        path, mask = self.pairs[index].image, self.pairs[index].mask
        with ImageFile(path, self.max_pixels) as file:
            image = read_matched(file, self.bands)
        if mask is None:
            return image, np.full(image.shape[:2], self.class_map.background or 0, np.uint8)
        raw = read_mask(mask, self.max_pixels)
        size = image.shape[0], image.shape[1]
        indexes = fitted(self.class_map.encode(raw.pixels, mask, raw.palette), size)
        if indexes.shape != size:
            raise misfit(path, size, mask, indexes.shape)
        return image, indexes

    def is_windowed(self, index: int) -> bool:
        """Whether a file of the pair is a large TIFF, so that the pair is read by windows."""
        if index not in self._are_windowed:
            path, mask = self.pairs[index].image, self.pairs[index].mask
            with ImageFile(path, self.max_pixels) as image:
                is_windowed = image.is_windowed
            if not is_windowed and mask is not None:
                with MaskFile(mask, self.max_pixels) as masks:
                    is_windowed = masks.is_windowed
            self._are_windowed[index] = is_windowed
        return self._are_windowed[index]

    def files(self, index: int) -> tuple[ImageFile, MaskFile]:
        """The image and the mask of a pair, to be read by windows; they belong to the reader.

        Raises:
            DataError: they differ in size, or cannot be read.
        """
        large = self._open(index)
        return large.image, large.mask

    def pair(self, index: int) -> WholePair | LargePair:
        """A pair that crops can be taken from; a large one stays on disk."""
        return self._open(index) if self.is_windowed(index) else WholePair(*self[index])

    def keep(self, into: PairStore | None = None, progress: Progress = SILENT) -> None:
        """Decode all but the large pairs now, in parallel, and answer from `into` from here on.

        Args:
            into: Keeps the pairs; by default memory does.
            progress: Hears of each pair.
        """
        store: PairStore = {} if into is None else into
        wanted = [index for index in range(len(self)) if not self.is_windowed(index)]

        def keep_one(index: int) -> None:
            store[index] = self.decode(index)

        progress.start("decoding", len(wanted))
        with ThreadPoolExecutor(usable_cores()) as pool:
            for _ in pool.map(keep_one, wanted):
                progress.advance("decoding")
        progress.finish("decoding")
        self._kept = store

    def forget(self) -> None:
        """Give back what is kept, on disk too; pairs are decoded again when they are asked for."""
        self._kept.clear()
        self._kept = {}

    def close(self) -> None:
        """Close the files of large pairs; reading opens them again."""
        for large in self._large.values():
            large.close()

    def _open(self, index: int) -> LargePair:
        """A pair read by windows; one read long ago is closed, and opens again when needed."""
        if index not in self._large:
            path, mask = self.pairs[index].image, self.pairs[index].mask
            if mask is None:
                raise ValueError(f"{path} has no mask")
            files = ImageFile(path, self.max_pixels), MaskFile(mask, self.max_pixels)
            files[1].fit(files[0].size)
            large = LargePair(*files, self.class_map, self.bands)
            if files[0].size != files[1].size:
                large.close()
                raise misfit(path, files[0].size, mask, files[1].size)
        else:
            large = self._large.pop(index)
        self._large[index] = large  # the last of the dict is the one used last
        if len(self._large) > OPEN_PAIRS:
            list(self._large.values())[-OPEN_PAIRS - 1].close()
        return large


def misfit(
    image: Path, size: tuple[int, ...], mask: MaskPath, its_size: tuple[int, ...]
) -> DataError:
    """The refusal of an image and its mask, or its region, of other heights and widths."""
    sizes = [f"{width}×{height}" for height, width in (size, its_size)]
    return DataError(f"{image} is {sizes[0]}, {mask} is {sizes[1]} (width×height)")
