"""Images bigger than memory, predicted band by band from top to bottom.

A band is what one row of tiles completes. Memory is that of a band, never of the image: the rows of
the file pass through a window as high as a tile, each read once, and so do the blended logits.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetseg.data.files.nodata import missing_pixels
from unetseg.data.masks.rasters import Raster
from unetseg.prediction.engine import (
    Engine,
    TileNetwork,
    classes_with_data,
    moments_tensor,
    softmax,
)
from unetseg.prediction.moments import Moments
from unetseg.prediction.tiling import Layout, Logits, Tile, blend_strips
from unetseg.progress import SILENT, Progress
from unetseg.runtime import explained_memory

T = TypeVar("T")

LARGEST_TILE = 1024
"""Pixels; tiles of a band are no larger, for larger ones gain nothing."""
SMALLEST_TILE = 256
"""Pixels; smaller tiles would see too little around them."""
BAND_BYTES = 2**28
"""Memory for the sums and the image rows of a band."""
TILE_BYTES = 2**29
"""Memory for the features of a tile, see `band_tile`."""
FEATURE_MAPS = 8
"""Full-resolution layers in float32 that a U-Net takes the memory of at its peak, as measured."""
STRIP_ROWS = 256
"""Rows of the file that are read at once."""
AHEAD = 2
"""Strips that are read before the network wants them."""
PIECE_PIXELS = 2**21
"""Pixels of a band that are worked on at once, where that needs wide numbers."""


@dataclass(frozen=True)
class Band:
    """Some rows of an image, predicted."""

    number: int
    top: int
    """The first row, pixels."""
    logits: Logits
    """K×rows×W."""
    missing: NDArray[np.bool_]
    """Rows×W, where there is no data."""

    def classes(self) -> NDArray[np.uint8]:
        """Class indexes, rows×W; 255 without data."""
        return np.concatenate([classes_with_data(*piece) for piece in self._pieces()])

    def probabilities(self) -> Iterator[NDArray[np.float32]]:
        """Probabilities of the classes from top to bottom in pieces of rows×W×K; NaN without data.

        In pieces, because whole they would take as much memory as the logits.
        """
        for piece in self._pieces():
            yield np.ascontiguousarray(softmax(*piece).transpose(1, 2, 0))

    def _pieces(self) -> Iterator[tuple[Tensor, NDArray[np.bool_]]]:
        rows = rows_at_once(self.missing.shape[1])
        logits = torch.from_numpy(self.logits)
        for top in range(0, len(self.missing), rows):
            yield logits[:, top : top + rows], self.missing[top : top + rows]


class Stream:
    """An image on its way through a network, band by band.

    The result is that of `Engine.logits` with the same tiles, to the rounding of float32.

    Args:
        engine: The network.
        raster: The image.
        check: Gives some rows of the image (H×W×C) the bands of the model, or refuses them.
        progress: Hears of the look through the whole image, where one is needed first.
    """

    def __init__(
        self,
        engine: Engine,
        raster: Raster,
        check: Callable[[NDArray[Any]], NDArray[Any]],
        progress: Progress = SILENT,
    ) -> None:
        self.engine = engine
        self.raster = raster
        self.check = check
        self._progress = progress
        self.bands = engine.segmenter.mean.numel()
        self.tile = band_tile(engine, raster.width, self.bands * raster.dtype.itemsize)
        self.layout: Layout = engine.lay_out(raster.height, raster.width, self.tile)
        self._rows = self.layout.rows

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First row of each band, and the first below it."""
        tops = [row[0].top for row in self._rows]
        return list(pairwise([*tops, self.raster.height]))

    @cached_property
    def statistics(self) -> Tensor | None:
        """1×2×C mean and deviation of the whole image, if the network wants to know them.

        Raises:
            ImageError: some part of the image is not what the model was trained on.
        """
        per_image = self.engine.segmenter.per_image
        is_plain = self.raster.bands == self.bands and self.raster.dtype.kind != "f"
        if is_plain and not per_image:
            return None  # nothing that a later strip could be refused for
        moments = Moments(self.bands)
        task = f"looking through {self.raster.path.name}"
        self._progress.start(task, self.raster.height)
        for strip in self._strips():
            if per_image:
                moments.add(strip, missing_pixels(strip, self.raster.nodata))
            self._progress.advance(task, len(strip))
        self._progress.finish(task)
        return moments_tensor(moments) if per_image else None

    def predict(self, first: int = 0) -> Generator[Band, None, None]:
        """The bands from number `first` on; a band that is kept takes memory beside the next.

        Of the rows of tiles above it, only those that reach into it go through the network.

        Raises:
            ImageError: the image cannot be read, or is not what the model was trained on.
            OutOfMemoryError: a band does not fit in memory.
        """
        start = self._first_row(first)
        nodata = self.raster.nodata
        network = TileNetwork(self.engine, self.statistics, nodata)
        window = RowWindow(_continued(self._strips(), self.layout.below, self.layout.right))

        def predict_row(row: Sequence[Tile]) -> Iterator[tuple[Tile, Logits]]:
            window.move(row[0].top, row[0].bottom)
            return network.predict(row, window.crop)

        height, width = self.raster.height, self.raster.width
        strips = blend_strips(
            self._rows[start:], predict_row, self.layout.height, self.layout.width
        )
        numbers = iter(range(start, len(self._rows)))
        with explained_memory("Choose a smaller --tile."):
            for top, logits in strips:
                number = next(numbers)
                if number < first:
                    continue
                rows = min(logits.shape[1], height - top)
                missing = np.zeros((rows, width), bool)
                if nodata is not None:
                    missing = missing_pixels(window.crop(Tile(top, 0, rows, width)), nodata)
                yield Band(number, top, logits[:, :rows, :width], missing)
                del logits, missing  # not to be held while the next band is made

    def _first_row(self, band: int) -> int:
        """The first row of tiles that reaches into a band."""
        top = self._rows[band][0].top
        return next(at for at, row in enumerate(self._rows) if row[0].bottom > top)

    def _strips(self) -> Iterator[NDArray[Any]]:
        """The rows of the image from top to bottom, checked; a few are read ahead."""
        strips = self.raster.strips(STRIP_ROWS)
        return read_on(self.check(strip) for _, strip in strips)


def band_tile(engine: Engine, width: int, pixel_bytes: int) -> int:
    """Side of the tiles for an image that is predicted in bands, pixels.

    A band holds K+1 float32 sums and the image itself, and a tile holds `FEATURE_MAPS` layers of c
    channels as the last layer has them, in float32:

        (4·(K + 1) + pixel_bytes)·tile·width ≤ BAND_BYTES
        4·FEATURE_MAPS·c·tile² ≤ TILE_BYTES

    but not less than `SMALLEST_TILE`, nor more than `LARGEST_TILE` or the engine's own tile.

    Args:
        engine: The network.
        width: Pixels of the image.
        pixel_bytes: Bytes of a pixel of the image, all bands together.
    """
    head = engine.segmenter.network.head
    of_band = BAND_BYTES // ((4 * (head.out_channels + 1) + pixel_bytes) * width)
    of_tile = int((TILE_BYTES / (4 * FEATURE_MAPS * head.in_channels)) ** 0.5)
    return min(engine.tile, LARGEST_TILE, max(SMALLEST_TILE, min(of_band, of_tile)))


def rows_at_once(width: int) -> int:
    """Rows of `width` pixels that are worked on at once."""
    return max(1, PIECE_PIXELS // width)


class RowWindow:
    """The rows of an image that are held while they pass from top to bottom.

    Args:
        strips: Rows×W×C, one below the other.
    """

    def __init__(self, strips: Iterator[NDArray[Any]]) -> None:
        self._strips = strips
        self._held: deque[tuple[int, NDArray[Any]]] = deque()  # first row, rows
        self._end = 0

    def move(self, top: int, bottom: int) -> None:
        """Read on until row `bottom`, and forget the rows above `top`."""
        while self._end < bottom:
            strip = next(self._strips)
            if self._end + len(strip) > top:
                self._held.append((self._end, strip))
            self._end += len(strip)
        while self._held and self._held[0][0] + len(self._held[0][1]) <= top:
            self._held.popleft()

    def crop(self, tile: Tile) -> NDArray[Any]:
        """The pixels of a tile that lies within the rows held."""
        columns = slice(tile.left, tile.left + tile.width)
        parts = [
            strip[max(0, tile.top - top) : max(0, tile.bottom - top), columns]
            for top, strip in self._held
        ]
        return np.concatenate(parts)


def read_on(items: Iterable[T]) -> Iterator[T]:
    """The items, a few made ahead in a thread of their own."""
    source = iter(items)
    with ThreadPoolExecutor(1) as pool:  # one: a generator takes no more, and order is kept

        def one_more() -> Future[list[T]]:
            return pool.submit(lambda: list(islice(source, 1)))

        waiting = deque(one_more() for _ in range(AHEAD))
        try:
            while item := waiting.popleft().result():
                waiting.append(one_more())
                yield item[0]
        finally:
            pool.shutdown(cancel_futures=True)


def _continued(strips: Iterable[NDArray[Any]], below: int, right: int) -> Iterator[NDArray[Any]]:
    """Strips of an image that is mirrored below and to the right, as `np.pad` would the whole."""
    tail: NDArray[Any] | None = None  # the last rows, from which those below are mirrored
    for strip in strips:
        if right:
            strip = np.pad(strip, ((0, 0), (0, right), (0, 0)), "reflect")
        yield strip
        rows = strip[-below - 1 :]
        tail = rows if tail is None else np.concatenate([tail, rows])[-below - 1 :]
    if below and tail is not None:
        yield np.pad(tail, ((0, below), (0, 0), (0, 0)), "reflect")[-below:]
