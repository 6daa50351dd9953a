"""Square crops of a pair around any centre, of arrays in memory or of files too large for it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unetseg.data.files.image import ImageFile
from unetseg.data.files.nodata import read_matched
from unetseg.data.masks.class_map import ClassMap
from unetseg.data.masks.mask_file import MaskFile

SPOTS = 4096
"""Pixels of each class that are remembered of a large mask."""
SCAN_ROWS = 512
"""Rows of a large mask that are searched at once."""


@dataclass(frozen=True)
class WholePair:
    """A pair in memory: image H×W×C, class indexes uint8 H×W."""

    image: NDArray[Any]
    mask: NDArray[np.uint8]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.mask.shape[0], self.mask.shape[1]

    def present(self, classes: Sequence[int]) -> list[int]:
        """Those of `classes` that the mask shows."""
        return [c for c in classes if (self.mask == c).any()]

    def pixel(self, wanted: int, rng: np.random.Generator) -> tuple[int, int]:
        """Row and column of a pixel of a class that is present, drawn at random."""
        pixels = np.flatnonzero(self.mask == wanted)
        row, column = divmod(int(pixels[rng.integers(len(pixels))]), self.mask.shape[1])
        return row, column

    def crop(self, centre: tuple[int, int], size: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Image size×size×C and mask size×size around `centre`, mirrored outside."""
        return crop(self.image, centre, size), crop(self.mask, centre, size)


@dataclass
class LargePair:
    """A pair on disk, of which only windows are read.

    Attributes:
        image: The image.
        mask: Its mask, of the same size.
        class_map: What the mask values mean.
        bands: Bands that windows of the image shall have, see `read_matched`.
    """

    image: ImageFile
    mask: MaskFile
    class_map: ClassMap
    bands: int
    _spots: dict[int, NDArray[np.int64]] | None = field(default=None, repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.mask.size

    def present(self, classes: Sequence[int]) -> list[int]:
        """Those of `classes` that the mask shows."""
        return [c for c in classes if c in self.spots]

    def pixel(self, wanted: int, rng: np.random.Generator) -> tuple[int, int]:
        """Row and column of one of the `spots` of a class that is present, drawn at random."""
        pixels = self.spots[wanted]
        row, column = pixels[rng.integers(len(pixels))].tolist()
        return row, column

    def crop(self, centre: tuple[int, int], size: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Image size×size×C and mask size×size around `centre`, mirrored outside."""
        where = (self.size, centre, size)
        image = _read_crop(partial(read_matched, self.image, self.bands), *where)
        return image, _read_crop(lambda *box: self._encoded(self.mask.read(*box)), *where)

    def close(self) -> None:
        """Close both files; reading opens them again."""
        self.image.close()
        self.mask.close()

    def _encoded(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        """The class indexes H×W of a part of the mask."""
        return self.class_map.encode(pixels, self.mask.path, self.mask.raw.palette)

    @property
    def spots(self) -> dict[int, NDArray[np.int64]]:
        """Pixels of each foreground class that is there, as of `find_spots`; the first call scans.

        Raises:
            MaskError: the mask cannot be read, or a value is no class.
        """
        if self._spots is None:
            strips = self.mask.strips(SCAN_ROWS)
            encoded = ((top, self._encoded(rows)) for top, rows in strips)
            self._spots = find_spots(encoded, self.class_map.foreground)
        return self._spots


def crop(array: NDArray[Any], centre: tuple[int, int], size: int) -> NDArray[Any]:
    """A copy of the size×size crop of `array` around `centre`; outside, the array is mirrored."""
    spans = [_span(*along, size) for along in zip(array.shape[:2], centre, strict=True)]
    rows, columns = (slice(span.start, span.stop) for span in spans)
    margins = [(span.before, span.after) for span in spans]
    inside = array[rows, columns]
    if not any(map(any, margins)):
        return inside.copy()
    mirrored = np.pad(inside, margins + [(0, 0)] * (array.ndim - 2), "reflect")
    top, left = (span.skipped for span in spans)
    return np.ascontiguousarray(mirrored[top : top + size, left : left + size])


class _Span(NamedTuple):
    """A crop along one axis: what is read of the array, and how that is continued."""

    start: int
    stop: int
    before: int
    """Pixels mirrored at the start."""
    after: int
    """Pixels mirrored at the end."""
    skipped: int
    """Pixels of the result before the crop."""


def _span(length: int, middle: int, size: int) -> _Span:
    """The span of a crop; it is read a little wider where that is needed to mirror it."""
    first = middle - size // 2
    before, after = max(0, -first), max(0, first + size - length)
    start = max(0, min(first, length - 1 - after))
    stop = min(length, max(first + size, 1 + before))
    return _Span(start, stop, before, after, first - (start - before))


def _read_crop(
    read: Callable[[int, int, int, int], NDArray[Any]],
    shape: Sequence[int],
    centre: tuple[int, int],
    size: int,
) -> NDArray[Any]:
    """The same of what `read` (top, left, height, width) gives: the part inside is read once."""
    rows, columns = (_span(*along, size) for along in zip(shape[:2], centre, strict=True))
    top, left = rows.start, columns.start
    inside = read(top, left, rows.stop - top, columns.stop - left)
    return crop(inside, (centre[0] - top, centre[1] - left), size)


def find_spots(
    strips: Iterable[tuple[int, NDArray[np.uint8]]], classes: Sequence[int], most: int = SPOTS
) -> dict[int, NDArray[np.int64]]:
    """A few pixels of each class, drawn evenly from all it has, the same in every run.

    Args:
        strips: (first row, class indexes rows×W) from top to bottom.
        classes: The classes wanted; those that are not there are left out.
        most: Pixels of a class.

    Returns:
        Class → N×2, row and column of at most `most` pixels.
    """
    rng = np.random.default_rng(0)
    tickets: dict[int, NDArray[np.float64]] = {}  # the lowest of all strips win
    spots: dict[int, NDArray[np.int64]] = {}
    for top, strip in strips:
        for wanted in np.intersect1d(np.flatnonzero(np.bincount(strip.ravel())), classes).tolist():
            pixels = np.flatnonzero(strip == wanted)
            drawn = rng.random(len(pixels))
            lowest = _lowest(drawn, most)
            rows, columns = np.divmod(pixels[lowest], strip.shape[1])
            found = np.stack([rows + top, columns], axis=1)
            if wanted in spots:
                drawn = np.concatenate([tickets[wanted], drawn[lowest]])
                found = np.concatenate([spots[wanted], found])
                lowest = _lowest(drawn, most)
                found = found[lowest]
            tickets[wanted], spots[wanted] = drawn[lowest], found
    return spots


def _lowest(values: NDArray[np.float64], most: int) -> NDArray[np.intp]:
    """Where the `most` lowest values are, in no order."""
    return np.argpartition(values, most)[:most] if len(values) > most else np.arange(len(values))
