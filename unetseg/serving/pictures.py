"""Images and masks for the eye, at every scale: tiles and thumbnails of rasters of any size.

Tiles are cut from windows of the file. From a level on that is small enough to be held, they come
from an overview, made in one pass over the file. What was shown last is kept, up to a bound.
"""

from collections.abc import Callable, Hashable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from unetseg.data.files.image import STRIP, ImageFile
from unetseg.data.files.once import Once, Recent
from unetseg.data.files.pages import MaskPath, files_of
from unetseg.data.masks.class_map import ClassMap
from unetseg.data.masks.mask_file import MaskFile
from unetseg.data.masks.overlay import Picture, levels_of, overlay, picture

TILE = 256
"""Pixels, side of a tile."""
HELD = 2**22
"""Pixels of an overview at most."""
THUMBNAIL = 256
"""Pixels, longer side."""
BRIGHTNESS = 1024
"""Longer side of the picture that the brightness of an image is taken from, pixels."""
QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 88]
DECODED, ENCODED = 2**29, 2**26
"""Bytes of images and of tiles that are kept."""
Shrink = Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]
"""Makes H×W… smaller by a factor that both sides are multiples of."""


class Pyramid:
    """Something H×W… at the scales 1, ½, ¼ …: each pixel stands for a square of the level below.

    Args:
        size: Height and width, pixels.
        read: The pixels of a window: top, left, height, width.
        shrink: `mean_of` or `one_of`.
        held: Bytes that `read` holds.
        close: Lets go of the file.
    """

    def __init__(
        self,
        size: tuple[int, int],
        read: Callable[..., NDArray[np.uint8]],
        shrink: Shrink,
        held: int = 0,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.size, self._read, self._shrink, self.close = size, read, shrink, close
        self.levels = 1
        while max(size) > TILE << (self.levels - 1):
            self.levels += 1
        self._first = 0  # level of the overview
        while (size[0] >> self._first) * (size[1] >> self._first) > HELD:
            self._first += 1
        self._overview = Once(self._look_through)
        self.cost = held + 3 * (size[0] >> self._first) * (size[1] >> self._first)

    def level_size(self, level: int) -> tuple[int, int]:
        """Height and width at a level, pixels."""
        return -(-self.size[0] >> level), -(-self.size[1] >> level)

    def tile(self, level: int, column: int, row: int) -> NDArray[np.uint8] | None:
        """The pixels of a tile, smaller at the right and lower edge; None beside the image."""
        if not 0 <= level < self.levels or min(column, row) < 0:
            return None
        height, width = self.level_size(level)
        top, left = row * TILE, column * TILE
        if top >= height or left >= width:
            return None
        return self.window(level, top, left, min(TILE, height - top), min(TILE, width - left))

    def window(self, level: int, *window: int) -> NDArray[np.uint8]:
        """The pixels of a window at a level."""
        is_direct = level < self._first or not self._first
        source = None if is_direct else self._overview.get()
        times = 1 << (level if source is None else level - self._first)
        rows, columns = self.size if source is None else source.shape[:2]
        top, left, height, width = (side * times for side in window)
        height, width = min(height, rows - top), min(width, columns - left)
        if source is None:
            return self._shrunk(self._read(top, left, height, width), times)
        return self._shrunk(source[top : top + height, left : left + width], times)

    def whole(self, side: int) -> NDArray[np.uint8]:
        """All of it at the smallest level that is no smaller than `side`."""
        level = 0
        while level < self.levels - 1 and max(self.level_size(level + 1)) >= side:
            level += 1
        return self.window(level, 0, 0, *self.level_size(level))

    def _shrunk(self, pixels: NDArray[np.uint8], times: int) -> NDArray[np.uint8]:
        if times == 1:
            return pixels
        lacking = [(0, -side % times) for side in pixels.shape[:2]]
        padded = np.pad(pixels, [*lacking, (0, 0)][: pixels.ndim], mode="edge")
        return self._shrink(padded, times)

    def _look_through(self) -> NDArray[np.uint8]:
        """The overview, from one pass over the file."""
        (height, width), times = self.size, 1 << self._first
        rows = max(2 * STRIP, times)
        strips = (
            self._read(top, 0, min(rows, height - top), width) for top in range(0, height, rows)
        )
        return np.concatenate([self._shrunk(strip, times) for strip in strips])


def mean_of(pixels: NDArray[np.uint8], times: int) -> NDArray[np.uint8]:
    """H×W×3 with the mean of each square of `times` pixels."""
    size = pixels.shape[1] // times, pixels.shape[0] // times
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def one_of(pixels: NDArray[np.uint8], times: int) -> NDArray[np.uint8]:
    """H×W with one pixel of each square: classes have no mean."""
    return np.ascontiguousarray(pixels[::times, ::times])


_images: Recent[Pyramid] = Recent(DECODED, lambda one: one.cost, lambda one: one.close())
_encoded: Recent[bytes] = Recent(ENCODED, len)


def image_pyramid(path: Path) -> Pyramid:
    """An image as unetseg shows it, RGB; see `picture`.

    Raises:
        ImageError: it cannot be read.
    """

    def opened() -> Pyramid:
        file = ImageFile(path)
        if not file.is_windowed:
            with file:
                return _held(picture(file.read()), mean_of)
        levels = None if file.dtype == np.uint8 else levels_of(file.thumbnail(BRIGHTNESS))
        return Pyramid(
            file.size, lambda *window: picture(file.read(*window), levels), mean_of, 0, file.close
        )

    return _images.get((path, state_of(path)), opened)


def mask_pyramid(
    path: MaskPath, classes: ClassMap, size: tuple[int, int], meant: bytes = b""
) -> Pyramid:
    """A mask as class indexes, as large as its image; index i becomes `meant[i]`.

    Raises:
        MaskError: it cannot be read, or holds values that are no class.
    """

    def opened() -> Pyramid:
        file = MaskFile(path)
        file.fit(size)
        mapped = classes.ignoring(file.nodata)

        def read(*window: int) -> NDArray[np.uint8]:
            index = mapped.encode(file.read(*window), path, file.raw.palette)
            return np.frombuffer(meant, np.uint8)[index] if meant else index

        if not file.is_windowed:
            with file:
                return _held(read(0, 0, *file.size), one_of)
        return Pyramid(file.size, read, one_of, 0, file.close)

    return _images.get((path, state_of(path), classes, size, meant), opened)


def _held(pixels: NDArray[np.uint8], shrink: Shrink) -> Pyramid:
    """The scales of what is in memory."""

    def read(top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        return pixels[top : top + height, left : left + width]

    return Pyramid(pixels.shape[:2], read, shrink, pixels.nbytes)


def forget() -> None:
    """Close all files, and free what is kept."""
    _images.clear()
    _encoded.clear()


def state_of(path: MaskPath) -> tuple[tuple[int, int], ...]:
    """What changes whenever a file does, or is not there any more."""
    states = [file.stat() for file in files_of(path) if file.is_file()]
    return tuple((status.st_mtime_ns, status.st_size) for status in states)


def kept(key: Hashable, make: Callable[[], bytes]) -> bytes:
    """A file for the browser, made once while it is kept."""
    return _encoded.get(key, make)


def jpeg_bytes(rgb: Picture) -> bytes:
    """The JPEG of uint8 H×W×3."""
    _, data = cv2.imencode(".jpg", rgb[..., ::-1], QUALITY)
    return data.tobytes()


def thumbnail(image: Pyramid, mask: Pyramid | None, classes: ClassMap | None) -> Picture:
    """A small picture of an image, with the mask drawn over it."""
    small = image.whole(THUMBNAIL)
    scale = min(1.0, THUMBNAIL / max(small.shape[:2]))
    size = [max(1, round(side * scale)) for side in small.shape[1::-1]]
    small = np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_AREA), np.uint8)
    if mask is None or classes is None:
        return small
    index = cv2.resize(mask.whole(THUMBNAIL), size, interpolation=cv2.INTER_NEAREST)
    return overlay(
        small, np.asarray(index, np.uint8), classes.colours, background=classes.background
    )
