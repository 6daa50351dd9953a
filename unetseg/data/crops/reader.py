"""Pairs of files → (image, class indexes), decoded when asked for, or once and kept."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unetseg.data.crops.crop import GiantPair, WholePair
from unetseg.data.files.images import match_bands, read_image
from unetseg.data.masks.class_map import ClassMap
from unetseg.data.masks.mask_file import read_mask
from unetseg.data.masks.rasters import (
    MaskRaster,
    Raster,
    open_mask_raster,
    open_raster,
    reads_by_windows,
)
from unetseg.data.pairs.match import Pair
from unetseg.errors import DataError
from unetseg.progress import SILENT, Progress

OPEN_PAIRS = 8
"""Giant pairs whose files stay open."""

DecodedPair = tuple[NDArray[Any], NDArray[np.uint8]]
"""Image H×W×C of raw pixel values, and class indexes H×W."""


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

    Pairs with a giant TIFF are never kept; `pair` gives windows of them. The arrays belong to the
    reader: copy before changing them.

    Args:
        pairs: What to read.
        class_map: What the mask values mean.
        bands: Bands that every image must have.
    """

    def __init__(self, pairs: Sequence[Pair], class_map: ClassMap, bands: int) -> None:
        self.pairs = list(pairs)
        self.class_map = class_map
        self.bands = bands
        self._kept: PairStore = {}
        self._are_giants: dict[int, bool] = {}
        self._giants: dict[int, GiantPair] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> DecodedPair:
        return self._kept.get(index) or self.decode(index)

    def decode(self, index: int) -> DecodedPair:
        """Read a pair from its files, whatever is kept."""
        path, mask = self._files(index)
        image = match_bands(read_image(path), self.bands, path)
        # Without a band that was dropped: a view would keep it in memory, and slows every crop.
        image = np.ascontiguousarray(image)
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

    def keep(self, into: PairStore | None = None, progress: Progress = SILENT) -> None:
        """Decode all but the giants now, in parallel, and answer from `into` from here on.

        Args:
            into: Keeps the pairs; by default memory does.
            progress: Hears of each pair.
        """
        store: PairStore = {} if into is None else into
        wanted = [index for index in range(len(self)) if not self.is_giant(index)]

        def keep_one(index: int) -> None:
            store[index] = self.decode(index)

        progress.start("decoding", len(wanted))
        with ThreadPoolExecutor() as pool:
            for _ in pool.map(keep_one, wanted):
                progress.advance("decoding")
        progress.finish("decoding")
        self._kept = store

    def forget(self) -> None:
        """Give back what is kept, on disk too; pairs are decoded again when they are asked for."""
        self._kept.clear()
        self._kept = {}

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
