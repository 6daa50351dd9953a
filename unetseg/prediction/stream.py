"""Images bigger than memory, predicted band by band from top to bottom.

A band is what one row of tiles completes. Memory is that of a band, never of the image: the rows of
the file pass through a window as high as a tile, each read once, and so do the blended logits.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise, starmap
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetseg.bundle import BundleInfo
from unetseg.data.files.bands import match_bands
from unetseg.data.files.image import ImageFile
from unetseg.data.files.nodata import missing_pixels, told_missing, with_gaps
from unetseg.errors import ImageError
from unetseg.prediction.engine import Engine, Moments, TileNetwork
from unetseg.prediction.tiling import Logits, Tile, blend_strips
from unetseg.prediction.values import SeenValues
from unetseg.progress import SILENT, Progress
from unetseg.runtime import explained_memory
from unetseg.text import plural

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
LARGEST = 1e30
"""Beyond it are no brightnesses, and what a network multiplies and adds is infinite."""
PIECE_PIXELS = 2**21
"""Pixels of a band that are worked on at once, where that needs wide numbers."""


@dataclass(frozen=True)
class Band:
    """Some rows of an image, predicted."""

    number: int
    top: int
    """The first row, pixels."""
    index: NDArray[np.uint8]
    """Class indexes, rows×W; 255 without data."""
    probabilities: Iterable[NDArray[np.float32]] = ()
    """Of the classes, in pieces of rows×W×K from top to bottom; NaN without data."""


class Stream:
    """An image on its way through a network, band by band.

    The result is that of `Engine.logits` with the same tiles, to the rounding of float32.

    Args:
        engine: The network.
        info: What it was trained on.
        file: The image; its rows are checked when they are read.
        progress: Hears of the look through the whole image, where one is needed first.
    """

    def __init__(
        self, engine: Engine, info: BundleInfo, file: ImageFile, progress: Progress = SILENT
    ) -> None:
        self.engine, self.info, self.file = engine, info, file
        self._progress = progress
        self._has_gaps = file.has_gaps or file.bands == info.bands + 1
        self.tile = band_tile(
            engine, file.width, (info.bands + self._has_gaps) * file.dtype.itemsize
        )
        self.seen = SeenValues(info)
        self.layout = engine.lay_out(file.height, file.width, self.tile)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and bands of the file."""
        return self.file.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Number type of the pixels."""
        return self.file.dtype

    def rows(self, top: int, bottom: int) -> NDArray[Any]:
        """The pixels of some rows, checked: H×W×C, one band more where the file has gaps."""
        window = (top, 0, bottom - top, self.file.width)
        rows = read_checked(self.file, self.info, *window, always=self._has_gaps)
        self.seen.add(rows)
        return rows

    def thumbnail(self, side: int) -> NDArray[Any]:
        """Every n-th pixel of every n-th row, as `rows`, the longer side at most `side`."""
        step = -(-max(self.file.size) // side)
        picks = (strip[-top % step :: step, ::step].copy() for top, strip in self._strips())
        return np.concatenate(list(picks))

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First row of each band, and the first below it."""
        tops = [row[0].top for row in self.layout.rows]
        return list(pairwise([*tops, self.file.height]))

    @cached_property
    def statistics(self) -> Tensor | None:
        """1×2×C mean and deviation of the whole image, if the network wants to know them.

        Raises:
            ImageError: some part of the image is not what the model was trained on.
        """
        per_image = self.engine.segmenter.per_image
        is_plain = self.file.bands == self.info.bands and self.file.dtype.kind != "f"
        if is_plain and not per_image:
            return None  # nothing that a later strip could be refused for
        moments = Moments(self.info.bands)
        task = f"looking through {self.file.path.name}"
        self._progress.start(task, self.file.height)
        for _, strip in self._strips():
            if per_image:
                moments.add(strip[..., : self.info.bands], self.engine.missing(strip))
            self._progress.advance(task, len(strip))
        self._progress.finish(task)
        return moments.tensor() if per_image else None

    def predict(self, first: int = 0) -> Generator[Band, None, None]:
        """The bands from number `first` on; a band that is kept takes memory beside the next.

        Of the rows of tiles above it, only those that reach into it go through the network.

        Raises:
            ImageError: the image cannot be read, or is not what the model was trained on.
            OutOfMemoryError: a band does not fit in memory.
        """
        with closing(self.logits(first)) as bands:
            number = first  # `enumerate` would hold a band while the next is made
            for top, logits, missing in bands:
                parts = [  # whole, its wide numbers would take as much memory as the logits
                    (torch.from_numpy(logits[:, upper:lower]), missing[upper:lower])
                    for upper, lower in pieces(*missing.shape)
                ]
                index = np.concatenate([self.engine.index(*part) for part in parts])
                yield Band(number, top, index, starmap(self.engine.probabilities, parts))
                del logits, missing, parts
                number += 1

    def logits(
        self, first: int = 0
    ) -> Generator[tuple[int, Logits, NDArray[np.bool_]], None, None]:
        """First row, logits K×rows×W and missing pixels rows×W of the bands from `first` on.

        Raises:
            ImageError: the image cannot be read, or is not what the model was trained on.
            OutOfMemoryError: a band does not fit in memory.
        """
        layout = self.layout
        top_of_first = layout.rows[first][0].top
        wanted = [row for row in layout.rows if row[0].bottom > top_of_first]
        network = TileNetwork(self.engine, self.statistics)
        strips = (strip for _, strip in self._strips())
        window = RowWindow(_mirrored(strips, layout.below, layout.right))

        def predict_row(row: Sequence[Tile]) -> Iterator[tuple[Tile, Logits]]:
            window.move(row[0].top, row[0].bottom)
            return network.predict(row, window.crop)

        height, width = self.file.size
        with explained_memory("Choose a smaller --tile."):
            for top, logits in blend_strips(wanted, predict_row, layout.height, layout.width):
                if top < top_of_first:
                    continue
                rows = min(logits.shape[1], height - top)
                missing = np.zeros((rows, width), bool)
                if self._has_gaps:
                    missing = window.crop(Tile(top, 0, rows, width))[..., -1] == 0
                yield top, logits[:, :rows, :width], missing
                del logits, missing  # not to be held while the next band is made

    def _strips(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """(top, rows) from top to bottom, as `rows`; a few are read ahead."""
        height = self.file.height
        tops = range(0, height, STRIP_ROWS)
        return read_on((top, self.rows(top, min(top + STRIP_ROWS, height))) for top in tops)


def band_tile(engine: Engine, width: int, pixel_bytes: int) -> int:
    """Side of the tiles for an image that is predicted in bands, pixels.

    A band holds K+1 float32 sums and the image itself, and a tile holds `FEATURE_MAPS` layers of c
    channels as the last layer has them, in float32:

        (4·(K + 1) + pixel_bytes)·tile·width ≤ BAND_BYTES
        4·FEATURE_MAPS·c·tile² ≤ TILE_BYTES

    but not less than `SMALLEST_TILE`, nor more than `LARGEST_TILE` or the engine's own tile. The
    bytes of a pixel are those of all bands together.
    """
    head = engine.segmenter.network.head
    of_band = BAND_BYTES // ((4 * (head.out_channels + 1) + pixel_bytes) * width)
    of_tile = int((TILE_BYTES / (4 * FEATURE_MAPS * head.in_channels)) ** 0.5)
    return min(engine.tile, LARGEST_TILE, max(SMALLEST_TILE, min(of_band, of_tile)))


def pieces(height: int, width: int) -> list[tuple[int, int]]:
    """First row, and first row below, of the parts of an image that are worked on at once."""
    rows = max(1, PIECE_PIXELS // width)
    return [(top, min(top + rows, height)) for top in range(0, height, rows)]


def read_checked(
    file: ImageFile,
    info: BundleInfo,
    *window: int,
    always: bool = False,
    nodata: float | None = None,
) -> NDArray[Any]:
    """An image file, or a window of it, as `check_image` gives it; `nodata` is used if not None.

    Raises:
        ImageError: it cannot be read, or is not what the model was trained on.
    """
    image, valid = file.read(*window), file.valid(*window)
    nodata = file.nodata if nodata is None else nodata
    checked = check_image(image, info, file.path, nodata, valid=valid, has_alpha=file.alpha)
    return with_gaps(checked, info.bands, None, always=always)


def check_image(
    image: NDArray[Any],
    info: BundleInfo,
    path: Path,
    nodata: float | None = None,
    *,
    valid: NDArray[np.bool_] | None = None,
    has_alpha: bool = False,
) -> NDArray[Any]:
    """`image`, H×W×C or some rows of it, with the bands of the model; `path` is named in errors.

    Where it has no data, it has one band more, see `nodata.py`; the others may hold anything there.

    Args:
        image: Raw pixel values.
        info: What the model was trained on.
        path: What the image is called.
        nodata: The value of pixels without data; NaN is one in any case.
        valid: Where a mask says that there are data, H×W.
        has_alpha: Whether the last band is known to be alpha.

    Raises:
        ImageError: other bands than the model was trained on, 8 bit against more, or infinity, NaN
            in some bands or a value beyond ±`LARGEST`.
    """
    try:
        image = match_bands(image, info.bands, path, has_alpha=has_alpha)
    except ImageError as error:
        summary = f"{path} has {image.shape[-1]} bands, expected {plural(info.bands, 'band')}"
        raise ImageError(f"{summary} of {info.dtype}", fix=error.fix) from error
    if (image.dtype == np.uint8) != (info.dtype == "uint8"):
        raise ImageError(
            f"{path} is {image.dtype}, the model was trained on {info.dtype} images",
            fix=f"Give the images as {info.dtype}, with the values they had in training.",
        )
    missing = told_missing(image[..., : info.bands], nodata, valid)
    image = with_gaps(image, info.bands, missing)
    if image.dtype.kind == "f":
        refuse_no_numbers(image, info.bands, path)
    return image


def refuse_no_numbers(image: NDArray[Any], bands: int, path: Path) -> None:
    """Refuse floats H×W×C, or one band more for gaps, with data that no network computes with.

    One such pixel makes no numbers of all that the network sees beside it.

    Raises:
        ImageError: there are NaN, infinity or values beyond ±`LARGEST`.
    """
    with np.errstate(invalid="ignore"):
        low, high = float(image.min(initial=0)), float(image.max(initial=0))
    if -LARGEST <= low <= high <= LARGEST:  # false for NaN
        return
    is_strange, missing = ~(np.abs(image[..., :bands]) <= LARGEST), missing_pixels(image, bands)
    if missing is not None:
        is_strange &= ~missing[..., None]
    values = image[..., :bands][is_strange]
    if not np.isfinite(values).all():
        raise ImageError(f"{path} has NaN or infinite pixels", fix="Replace them by a number.")
    if values.size:
        value = f"{values[0]:.9g}"  # digits that tell a float32 from all others
        told = f"{path} has {plural(values.size, 'value')} beyond ±{LARGEST:g}, such as {value}"
        fix = f"Declare what stands for no data (gdal_edit.py -a_nodata {value} FILE, in Python "
        raise ImageError(told, fix=f"{fix}nodata={value}), or replace it by a number.")


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


def _mirrored(strips: Iterable[NDArray[Any]], below: int, right: int) -> Iterator[NDArray[Any]]:
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
