"""TIFFs larger than memory: upright windows of values as stored, in any process and thread."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

from unetseg.data.files.images import upright
from unetseg.data.files.limits import explained
from unetseg.data.files.tiffs import Tiff, Window
from unetseg.errors import ImageError

STRIP = 256
"""Rows that are read at once where the file does not suggest another number."""

T = TypeVar("T")


class Once(Generic[T]):
    """A value made at its first use in each process, once for all threads."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._made: T | None = None
        self._pid = os.getpid()

    def get(self) -> T:
        """The value, made now if need be."""
        if self._pid != os.getpid():  # a forked process: neither lock nor value is its own
            self._reset()
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def drop(self) -> T | None:
        """Forget the value and return it; the next `get` makes another."""
        made, self._made = self._made, None
        return made


class Giant:
    """The windows of a TIFF, upright, with values as stored."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = Once(lambda: Tiff(path))
        with explained(path):
            file = self._file.get()
        self.shape, self.dtype, self.segment = file.shape, file.dtype, file.segment
        self.palette, self.lossy, self.orientation = file.palette, file.lossy, file.orientation
        self._is_turned = self.orientation in {5, 6, 7, 8}

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, upright."""
        height, width = self.shape[:2]
        return (width, height) if self._is_turned else (height, width)

    @property
    def strip(self) -> int:
        """Rows that are cheap to read together."""
        rows = self.segment[self._is_turned]
        return rows if rows > STRIP else STRIP // rows * rows

    def read(self, window: Window) -> NDArray[Any]:
        """Pixels of `window` of the upright image, H×W×C."""
        with explained(self._path):
            file = self._file.get()
            if (file.shape, file.dtype) != (self.shape, self.dtype):
                fix = "Let the file be while it is read, and start again."
                raise ImageError(f"{self._path} has changed since it was opened", fix=fix)
            return upright(file.window(self._stored(window)), self.orientation)

    def _stored(self, window: Window) -> Window:
        """Where the pixels of an upright window are stored: `upright` backwards."""
        top, left, height, width = window
        full_height, full_width = self.size
        if self.orientation in {3, 4, 7, 8}:
            top = full_height - top - height
        if self.orientation in {2, 3, 6, 7}:
            left = full_width - left - width
        if self._is_turned:
            return Window(left, top, width, height)
        return Window(top, left, height, width)

    def close(self) -> None:
        """Close the file; reading opens it again."""
        file = self._file.drop()
        if file is not None:
            file.close()
