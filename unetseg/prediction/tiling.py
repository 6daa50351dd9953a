"""Cut an image into overlapping tiles and blend what was predicted for them.

Arrays only: nothing here knows a network. Positions are pixels from the top left corner. Near its
border a tile is predicted with less context, so there its neighbours count more: the logits are
averaged with a Gaussian window, as in nnU-Net (Isensee et al. 2021, Nature Methods 18:203). Unlike
there, the window does not fall towards the border of the image, where no context was cut off: else
an image hardly larger than its tile would take half of its border from tiles that end there.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.data.files.windows import Window

SIGMAS_PER_TILE = 8
"""The window's σ is the side of the tile divided by this (nnU-Net)."""

Tile = Window
"""A rectangle that goes through the network."""
Logits = NDArray[np.float32]
"""K×h×w."""


def tile_starts(length: int, tile: int, overlap: float) -> list[int]:
    """First pixels of the tiles along one side: evenly spread, the last one ending at `length`.

    Neighbours share at least `overlap`·`tile` pixels, to the nearest pixel. A side no longer than
    the tile is one tile.

    Args:
        length: Pixels of the side, at least 1.
        tile: Pixels of a tile, at least 1.
        overlap: Share of a tile that its neighbour covers too, 0 ≤ overlap < 1.

    Raises:
        ValueError: an argument is out of range.

    >>> tile_starts(100, 40, 0.5)
    [0, 20, 40, 60]
    >>> tile_starts(30, 40, 0.5)
    [0]
    """
    if length < 1 or tile < 1 or not 0 <= overlap < 1:
        raise ValueError(f"no tiles for length {length}, tile {tile}, overlap {overlap}")
    if length <= tile:
        return [0]
    stride = max(1, round(tile * (1 - overlap)))
    steps = math.ceil((length - tile) / stride)
    return [step * (length - tile) // steps for step in range(steps + 1)]


def cut(height: int, width: int, tile: int, overlap: float) -> list[Tile]:
    """Tiles that cover an image of `height`×`width` pixels, row by row from the top left.

    All have the same shape: min(tile, height) × min(tile, width). See `tile_starts`.

    >>> [(tile.top, tile.left) for tile in cut(4, 6, tile=4, overlap=0.5)]
    [(0, 0), (0, 2)]
    """
    shape = min(tile, height), min(tile, width)
    tops = tile_starts(height, tile, overlap)
    lefts = tile_starts(width, tile, overlap)
    return [Tile(top, left, *shape) for top in tops for left in lefts]


@dataclass(frozen=True, slots=True)
class Layout:
    """The tiles of an image that is mirrored below and to the right until it fits a grid."""

    below: int
    """Rows that are added."""
    right: int
    """Columns that are added."""
    tiles: list[Tile]
    """Row by row from the top left; they cover the larger image."""

    @property
    def height(self) -> int:
        """Pixels of the larger image."""
        return self.tiles[-1].bottom

    @property
    def width(self) -> int:
        """Pixels of the larger image."""
        return self.tiles[-1].left + self.tiles[-1].width

    @property
    def rows(self) -> list[list[Tile]]:
        """The tiles that begin at one height together."""
        return [list(row) for _, row in groupby(self.tiles, lambda tile: tile.top)]


def lay_out(height: int, width: int, tile: int, overlap: float, grid: int) -> Layout:
    """The tiles of an image: one as large as the image where that is no larger than a tile.

    Args:
        height: Pixels, at least 1.
        width: Pixels, at least 1.
        tile: Images with a longer side are cut, pixels; into squares of the largest multiple of
            `grid` in it.
        overlap: Share of a tile that its neighbour covers too.
        grid: Tiles begin at its multiples, so that they are pooled as the whole would be; pixels.

    >>> layout = lay_out(7, 24, tile=9, overlap=0.25, grid=4)
    >>> layout.below, [tile.left for tile in layout.tiles]
    (1, [0, 8, 16])
    """
    if max(height, width) <= tile:
        return Layout(0, 0, [Tile(0, 0, height, width)])
    below, right = -height % grid, -width % grid
    rows, columns = (height + below) // grid, (width + right) // grid
    return Layout(
        below,
        right,
        [
            Tile(grid * one.top, grid * one.left, grid * one.height, grid * one.width)
            for one in cut(rows, columns, max(1, tile // grid), overlap)
        ],
    )


def tile_window(tile: Tile, height: int, width: int) -> NDArray[np.float32]:
    """How much each pixel of a tile of an image height×width counts, float32 in (0, 1].

    A Gaussian with σ = side / 8 along each side, scaled to a maximum of 1: from there to e⁻¹⁶ in a
    corner. It stays 1 from the middle to a border that is the image's own.

    >>> tile_window(Tile(0, 4, 1, 3), height=1, width=9).round(3)  # inside
    array([[0.029, 1.   , 0.029]], dtype=float32)
    >>> tile_window(Tile(0, 0, 1, 3), height=1, width=9).round(3)  # at the left border
    array([[1.   , 1.   , 0.029]], dtype=float32)
    """
    rows = _bell(tile.top, tile.height, height)
    columns = _bell(tile.left, tile.width, width)
    return np.outer(rows, columns)


def _bell(start: int, side: int, whole: int) -> NDArray[np.float32]:
    """The window along one side of a tile that begins at `start` of `whole` pixels."""
    distance = np.arange(side) - (side - 1) / 2  # pixels from the middle
    bell = np.exp(-0.5 * (distance * SIGMAS_PER_TILE / side) ** 2)
    bell /= bell.max()
    if start == 0:
        bell[: side // 2] = 1
    if start + side == whole:
        bell[side // 2 :] = 1
    return bell.astype(np.float32)


class Blend:
    """The weighted mean of overlapping tiles, in float32.

    Memory is (channels + 1)·rows·width·4 bytes.

    Args:
        channels: K, the channels of the logits.
        height: Pixels of the whole.
        width: Pixels of the whole.
        rows: Rows held at a time; None holds all. See `blend_strips`.
        top: The first row held.

    >>> blend = Blend(1, 4, 6)
    >>> for tile in cut(4, 6, tile=4, overlap=0.5):
    ...     blend.add(tile, np.full((1, 4, 4), 7.0, np.float32))
    >>> bool(np.allclose(blend.result(), 7))
    True
    """

    def __init__(
        self, channels: int, height: int, width: int, rows: int | None = None, top: int = 0
    ) -> None:
        self._whole = height, width
        self._top = top
        self._totals = np.zeros((channels, rows or height, width), np.float32)
        self._weights = np.zeros((rows or height, width), np.float32)

    def add(self, tile: Tile, logits: NDArray[Any]) -> None:
        """Add the K×h×w `logits` of `tile`.

        Raises:
            ValueError: the logits have another shape than the tile.
        """
        expected = (len(self._totals), tile.height, tile.width)
        if logits.shape != expected:
            raise ValueError(f"logits of shape {logits.shape} for a tile of {expected}")
        window = tile_window(tile, *self._whole)
        weighted = np.empty_like(window)  # one channel at a time stays in the cache
        held = tile._replace(top=tile.top - self._top).slices
        for total, channel in zip(self._totals, logits, strict=True):
            total[held] += np.multiply(channel, window, out=weighted)
        self._weights[held] += window

    def result(self) -> NDArray[np.float32]:
        """The blended logits of all rows held, float32 K×rows×width.

        Raises:
            ValueError: a pixel was in no tile.
        """
        if not self._weights.all():
            raise ValueError(f"{np.count_nonzero(self._weights == 0)} pixels are in no tile")
        return self._totals / self._weights

    def take_rows(self, rows: int) -> NDArray[np.float32]:
        """Blend the first `rows` rows held, and hold as many further down instead."""
        done = self._totals[:, :rows] / self._weights[:rows]
        for sums in (self._totals, self._weights):
            sums[..., :-rows, :] = sums[..., rows:, :].copy()
            sums[..., -rows:, :] = 0
        self._top += rows
        return done


def blend_strips(
    rows: Sequence[Sequence[Tile]],
    predict: Callable[[Sequence[Tile]], Iterable[tuple[Tile, Logits]]],
    height: int,
    width: int,
) -> Iterator[tuple[int, Logits]]:
    """What `Blend` gives, in strips from top to bottom, one after each row of tiles.

    For images too large to be blended whole: only as many rows as a tile has are held. When the
    first rows of tiles are left out, the strips begin with the first row that is given, and lack
    what the tiles above would have added where they reach into it.

    Args:
        rows: The tiles of `Layout.rows`, to the last.
        predict: Gives K×h×w logits for the tiles of one row, in order.
        height: Pixels of the whole.
        width: Pixels of the whole.

    Yields:
        The first row of pixels of the strip, and its blended logits, float32 K×rows×width.

    >>> rows = lay_out(6, 4, tile=4, overlap=0.5, grid=1).rows
    >>> ones = lambda row: [(tile, np.ones((1, 4, 4), np.float32)) for tile in row]
    >>> [(top, strip.shape) for top, strip in blend_strips(rows, ones, height=6, width=4)]
    [(0, (1, 2, 4)), (2, (1, 4, 4))]
    """
    blend: Blend | None = None
    ends = [row[0].top for row in rows[1:]] + [height]
    for row, end in zip(rows, ends, strict=True):
        for tile, logits in predict(row):
            blend = blend or Blend(len(logits), height, width, rows=tile.height, top=tile.top)
            blend.add(tile, logits)
        if blend is not None:
            yield row[0].top, blend.take_rows(end - row[0].top)
