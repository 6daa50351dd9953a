"""The prediction loop: read ahead → group neighbours of one shape → network → hand on.

Validation, `eval`, `predict`, the check of arithmetics and the lab all predict through it. What is
handed on of an image are finished bands from top to bottom. A small image, which goes through the
network together with its neighbours, is one band; a large one, which is never whole in memory, is
many, made when they are asked for.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from unetseg.data.files.nodata import missing_pixels
from unetseg.errors import OutOfMemoryError, UnetsegError
from unetseg.prediction.engine import Engine
from unetseg.prediction.stream import Band, Stream
from unetseg.prediction.values import SeenValues

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 2
"""Images at least that are read before, and written behind, those in the network."""
MOST_AHEAD = 64
"""Images at most that are, where they are small."""
PIXELS_AHEAD = 2**22
"""Pixels beyond which no more than `AHEAD` images are."""


@dataclass(frozen=True)
class Opened(Generic[T]):
    """An image that is ready for the network, or has gone through it.

    Attributes:
        name: What the caller knows it by.
        image: All its pixels, checked, H×W×C, or one band more, which is 0 where there are no
            data; of a large image the stream of its rows.
        model_bands: C; unless it is told, all bands.
        seen: Its values beside those trained on; of a large image when its bands were made.
        band: What the network says of a small image; of a large one `bands` makes it.
    """

    name: T
    image: NDArray[Any] | Stream
    model_bands: int | None = None
    seen: SeenValues | None = None
    band: Band | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.image.shape[0], self.image.shape[1]

    def judged(self, path: Path, *, strict: bool = False) -> str:
        """What it holds and what was trained on, where these are far apart; else "".

        Raises:
            ImageError: they are, and `strict` refuses such an image; `path` is named.
        """
        return self.seen.judged(path, strict=strict) if self.seen else ""

    def without_pixels(self) -> "Opened[T]":
        """The same, for whoever does not look at the pixels of a small image: they take memory."""
        return replace(self, image=np.empty((*self.size, 0), np.uint8))

    def bands(self, first: int = 0) -> Generator[Band, None, None]:
        """The bands from number `first` on; let go of each before the next is made.

        Whoever may stop early closes the generator, so that nothing reads on.

        Raises:
            DataError: a large image cannot be read, or is not what the model was trained on.
            OutOfMemoryError: a band does not fit in memory.
        """
        if isinstance(self.image, Stream):
            yield from self.image.predict(first)
        elif self.band is not None:
            yield self.band

    def rows(self, top: int, bottom: int) -> NDArray[Any]:
        """The pixels of some rows, H×W×C."""
        image = self.image
        rows = image.rows(top, bottom) if isinstance(image, Stream) else image[top:bottom]
        return rows[..., : self.model_bands]

    def thumbnail(self, side: int) -> NDArray[Any]:
        """A small image itself, H×W×C; of a large one every n-th pixel, at most `side` along it.

        Beyond 8 bit, pixels without data are NaN.
        """
        small = self.image.thumbnail(side) if isinstance(self.image, Stream) else self.image
        missing = missing_pixels(small, self.model_bands or small.shape[-1])
        small = small[..., : self.model_bands]
        if missing is None or small.dtype == np.uint8:
            return small
        return np.where(missing[..., None], np.float32(np.nan), small.astype(np.float32))


def predict_each(
    engine: Engine,
    opened: Iterable[Opened[T]],
    *,
    probabilities: bool = False,
    refuse: Callable[[T, UnetsegError], None] | None = None,
) -> Iterator[Opened[T]]:
    """Every image with its bands, in order; neighbours of one shape go through the network as one.

    A GPU works at one group while the next is awaited and the one before is made use of.

    Args:
        engine: The network.
        opened: The images, best of all from `read_ahead`.
        probabilities: Whether bands shall have them; then images go through the network one by one.
        refuse: Hears of images that do not fit in memory; without it their errors are raised.
    """
    begun: deque[Callable[[], list[Opened[T]]]] = deque()
    for group in alike(opened, engine.images_at_once if not probabilities else lambda *_: 1):
        try:
            begun.append(_begin(engine, group, probabilities=probabilities))
        except OutOfMemoryError as error:
            if refuse is None:
                raise
            for one in group:
                refuse(one.name, error)
        if len(begun) > engine.ahead:
            yield from _handed_on(begun.popleft()())
    for finish in begun:
        yield from _handed_on(finish())


def _begin(
    engine: Engine, group: list[Opened[T]], *, probabilities: bool
) -> Callable[[], list[Opened[T]]]:
    """Set the network to work; what is returned waits for it."""
    if isinstance(group[0].image, Stream):
        return lambda: group
    if probabilities:
        logits, missing = engine.logits(group[0].image), engine.missing(group[0].image)
        likely = engine.probabilities(logits, missing)
        band = Band(0, 0, engine.index(logits, missing), [likely])
        return lambda: [replace(group[0], band=band)]
    wait = engine.begin([np.asarray(one.image) for one in group])
    return lambda: [
        replace(one, band=Band(0, 0, index)) for one, index in zip(group, wait(), strict=True)
    ]


def _handed_on(images: list[Opened[T]]) -> Iterator[Opened[T]]:
    """Each image; the file of a large one is closed when the next is wanted."""
    for image in images:
        try:
            yield image
        finally:
            if isinstance(image.image, Stream):
                image.image.file.close()


def alike(
    opened: Iterable[Opened[T]], at_once: Callable[[int, int], int]
) -> Iterator[list[Opened[T]]]:
    """Neighbours of one shape and type together, at most `at_once` of their height and width.

    >>> wide, high = np.zeros((1, 2, 3)), np.zeros((2, 1, 3))
    >>> images = [Opened("a", wide), Opened("b", wide), Opened("c", wide), Opened("d", high)]
    >>> [[each.name for each in group] for group in alike(images, lambda height, width: 2)]
    [['a', 'b'], ['c'], ['d']]
    """
    group: list[Opened[T]] = []
    for each in opened:
        image = each.image
        if group and (image.shape, image.dtype) != (group[0].image.shape, group[0].image.dtype):
            yield group
            group = []
        group.append(each)
        if isinstance(image, Stream) or len(group) >= at_once(*image.shape[:2]):
            yield group
            group = []
    if group:
        yield group


def read_ahead(
    items: Iterable[T],
    read: Callable[[T], R],
    pixels: Callable[[T], int] = lambda _: PIXELS_AHEAD // 4,
    refuse: Callable[[T, UnetsegError], None] | None = None,
) -> Iterator[R]:
    """What `read` gives for each item, in order; some are read ahead.

    Args:
        items: What to read.
        read: Reads one.
        pixels: The size of each, so that many small ones are read ahead, and few large ones.
        refuse: Hears of those that cannot be read; without it their errors are raised.
    """

    def answers(reads: Iterable[tuple[T, Future[R]]]) -> Iterator[R]:
        for item, future in reads:
            error = future.exception()
            if refuse is not None and isinstance(error, UnetsegError):
                refuse(item, error)
            else:
                yield future.result()

    with ThreadPoolExecutor(2) as readers:
        waiting = Waiting[tuple[T, Future[R]]]()
        for item in items:
            waiting.put((item, readers.submit(read, item)), pixels(item))
            yield from answers(waiting.overdue())
        yield from answers(waiting.rest())


class Waiting(Generic[T]):
    """What is under way beside the network: many small images, or few large ones."""

    def __init__(self) -> None:
        self._items: deque[tuple[T, int]] = deque()
        self._pixels = 0

    def put(self, item: T, pixels: int) -> None:
        """Let one more wait, of an image of so many pixels."""
        self._items.append((item, pixels))
        self._pixels += pixels

    def overdue(self) -> Iterator[T]:
        """Those that have waited longest, while too many wait."""
        while len(self._items) > MOST_AHEAD or (
            len(self._items) > AHEAD and self._pixels > PIXELS_AHEAD
        ):
            item, pixels = self._items.popleft()
            self._pixels -= pixels
            yield item

    def rest(self) -> Iterator[T]:
        """All that still wait."""
        self._pixels = 0
        while self._items:
            yield self._items.popleft()[0]
