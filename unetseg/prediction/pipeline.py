"""THE loop: read ahead → group neighbours of one shape → network → hand on.

Validation, `eval`, `predict`, the check of arithmetics and the lab all predict through it. What is
handed on of an image are finished bands from top to bottom. A small image, which goes through the
network together with its neighbours, is one band; a large one, which is never whole in memory, is
many, made when they are asked for.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from unetseg.bundle import BundleInfo
from unetseg.data.files.image import ImageFile, match_bands
from unetseg.data.files.nodata import missing_pixels
from unetseg.errors import ImageError, UnetsegError
from unetseg.prediction.engine import Engine, classes_with_data, softmax
from unetseg.prediction.stream import Band, Stream
from unetseg.progress import SILENT, Progress

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
    """An image that is ready for the network.

    Attributes:
        name: What the caller knows it by.
        image: All its pixels, H×W×C, checked; of a large image the stream of its rows.
        nodata: Value of pixels without data.
    """

    name: T
    image: NDArray[Any] | Stream
    nodata: float | None = None


@dataclass(frozen=True)
class Predicted(Opened[T]):
    """An image, and what the network says of it.

    Attributes:
        band: All of a small image; of a large one `bands` makes them.
    """

    band: Band | None = field(default=None, kw_only=True)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.image.shape[0], self.image.shape[1]

    def without_pixels(self) -> "Predicted[T]":
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
        if isinstance(self.image, Stream):
            return self.image.rows(top, bottom)
        return self.image[top:bottom]

    def thumbnail(self, side: int) -> NDArray[Any]:
        """A small image itself; of a large one every n-th pixel, at most `side` along it."""
        return self.image.thumbnail(side) if isinstance(self.image, Stream) else self.image


def check_image(
    image: NDArray[Any], info: BundleInfo, path: Path, nodata: float | None = None
) -> NDArray[Any]:
    """`image` with the bands of the model.

    Args:
        image: H×W×C, or some rows of it.
        info: What the model was trained on.
        path: Named where the image does not fit.
        nodata: Pixels that hold this value in all bands may hold anything, even NaN.

    Raises:
        ImageError: other bands than the model was trained on, 8 bit against more, or NaN.
    """
    try:
        image = match_bands(image, info.bands, path)
    except ImageError as error:
        bands = f"{info.bands} band{'s' if info.bands > 1 else ''} of {info.dtype}"
        summary = f"{path} has {image.shape[-1]} bands, expected {bands}"
        raise ImageError(summary, fix=error.fix) from error
    if (image.dtype == np.uint8) != (info.dtype == "uint8"):
        raise ImageError(
            f"{path} is {image.dtype}, the model was trained on {info.dtype} images",
            fix=f"Give the images as {info.dtype}, with the values they had in training.",
        )
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        strange = ~np.isfinite(image).all(-1)
        if (strange & ~missing_pixels(image, nodata)).any():
            raise ImageError(f"{path} has NaN or infinite pixels", fix="Replace them by a number.")
    return image


def open_stream(
    engine: Engine, info: BundleInfo, file: ImageFile, progress: Progress = SILENT
) -> Stream:
    """The rows of a large image, checked when they are read."""
    return Stream(
        engine,
        file,
        lambda rows: check_image(rows, info, file.path, file.nodata),
        progress,
    )


def predict_each(
    engine: Engine,
    opened: Iterable[Opened[T]],
    *,
    probabilities: bool = False,
) -> Iterator[Predicted[T]]:
    """Every image with its bands, in order; neighbours of one shape go through the network as one.

    A GPU works at one group while the next is awaited and the one before is made use of.

    Args:
        engine: The network.
        opened: The images, best of all from `read_ahead`.
        probabilities: Whether bands shall have them; then images go through the network one by one.
    """

    def begin(group: list[Opened[T]]) -> Callable[[], list[Predicted[T]]]:
        """Set the network to work; what is returned waits for it."""
        first = group[0].image
        if isinstance(first, Stream):
            return lambda: [Predicted(group[0].name, first, first.nodata)]
        if probabilities:
            band = _likely(engine, first, group[0].nodata)
            return lambda: [Predicted(group[0].name, first, group[0].nodata, band=band)]
        images = [np.asarray(each.image) for each in group]
        wait = engine.begin(images, [each.nodata for each in group])
        return lambda: [
            Predicted(each.name, each.image, each.nodata, band=Band(0, 0, index))
            for each, index in zip(group, wait(), strict=True)
        ]

    begun: deque[Callable[[], list[Predicted[T]]]] = deque()
    for group in alike(opened, engine.images_at_once if not probabilities else lambda *_: 1):
        begun.append(begin(group))
        if len(begun) > engine.ahead:
            yield from _handed_on(begun.popleft()())
    for finish in begun:
        yield from _handed_on(finish())


def _handed_on(images: list[Predicted[T]]) -> Iterator[Predicted[T]]:
    """Each image; the file of a large one is closed when the next is wanted."""
    for image in images:
        try:
            yield image
        finally:
            if isinstance(image.image, Stream):
                image.image.file.close()


def _likely(engine: Engine, image: NDArray[Any], nodata: float | None) -> Band:
    """A small image with its probabilities."""
    logits, missing = engine.logits(image, nodata), missing_pixels(image, nodata)
    probabilities = softmax(logits, missing).transpose(1, 2, 0)  # H, W, K
    return Band(0, 0, classes_with_data(logits, missing), [probabilities])


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


def open_ahead(
    items: Iterable[T],
    open_one: Callable[[T], Opened[R]],
    refuse: Callable[[T, UnetsegError], None],
    pixels: Callable[[T], int] = lambda _: PIXELS_AHEAD // 4,
) -> Iterator[Opened[R]]:
    """Images for `predict_each`; `refuse` hears of those that cannot be read. See `read_ahead`."""
    for item, opened in read_ahead(items, open_one, pixels):
        if isinstance(opened, UnetsegError):
            refuse(item, opened)
        else:
            yield opened


def read_ahead(
    items: Iterable[T],
    read: Callable[[T], R],
    pixels: Callable[[T], int] = lambda _: PIXELS_AHEAD // 4,
) -> Iterator[tuple[T, R | UnetsegError]]:
    """Each item with what `read` gives for it, or the error it raised; some are read ahead.

    Args:
        items: What to read.
        read: Reads one.
        pixels: The size of each, so that many small ones are read ahead, and few large ones.
    """

    def attempt(item: T) -> R | UnetsegError:
        try:
            return read(item)
        except UnetsegError as error:
            return error

    with ThreadPoolExecutor(2) as readers:
        waiting = Waiting[tuple[T, Future[R | UnetsegError]]]()
        for item in items:
            waiting.put((item, readers.submit(attempt, item)), pixels(item))
            for done, future in waiting.overdue():
                yield done, future.result()
        for done, future in waiting.rest():
            yield done, future.result()


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
            yield self._take()

    def rest(self) -> Iterator[T]:
        """All that still wait."""
        while self._items:
            yield self._take()

    def _take(self) -> T:
        item, pixels = self._items.popleft()
        self._pixels -= pixels
        return item
