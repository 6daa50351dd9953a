"""Images and masks by windows, so that a file may be larger than memory.

A TIFF of more than `WHOLE_PIXELS` is read window by window; any other file is decoded whole, once,
at the first read. Both ways give the same values.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.data.files.giants import STRIP, Giant, Once
from unetseg.data.files.images import effective_bands, pixel_count, plain, read_image
from unetseg.data.files.limits import start_of
from unetseg.data.files.places import Georeference as Georeference
from unetseg.data.files.places import georeference as georeference
from unetseg.data.files.tiffs import TIFF_STARTS, Window
from unetseg.data.masks.class_map import Coding, RawMask, read_mask, whole_numbers
from unetseg.errors import DataError, ImageError, MaskError

WHOLE_PIXELS = 2**25
"""Pixels; images with more are read by windows."""


class Raster:
    """An image file read by windows; close it, or use it as a context manager.

    It may be shared between threads and taken into forked processes.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._whole = Once(lambda: read_image(path))
        self._giant = Giant(path) if reads_by_windows(path) else None
        if self._giant is not None:
            with _closed_on_error(self._giant):
                self._kind = _image_kind(self._giant, path)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and bands of the file, alpha counted."""
        if self._giant is None:
            height, width, bands = self._whole.get().shape
            return height, width, bands
        return (*self._giant.size, self._kind[0])

    @property
    def height(self) -> int:
        """Rows, pixels."""
        return self.shape[0]

    @property
    def width(self) -> int:
        """Columns, pixels."""
        return self.shape[1]

    @property
    def bands(self) -> int:
        """Bands of the file, an opaque alpha counted.

        `match_bands` of a window does what it does with the whole, or raises: what it drops or
        repeats depends on the band counts alone.
        """
        return self.shape[2]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Number type of what `read` returns: uint8, uint16, int16 or float32.

        Of a giant the stored type decides, since nobody has seen all values: int8 becomes int16;
        wider integers and other floats become float32, and a value that float32 does not hold is
        an error of the window that it is in. `read_image` may find a narrower type.
        """
        return self._whole.get().dtype if self._giant is None else self._kind[1]

    @property
    def place(self) -> Georeference | None:
        """Where the image lies on the earth, if its file says so."""
        return self._georeference[0]

    @property
    def nodata(self) -> float | None:
        """The value that the file declares for pixels without data."""
        return self._georeference[1]

    @cached_property
    def _georeference(self) -> tuple[Georeference | None, float | None]:
        return georeference(self.path)

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """The pixels of a window that lies inside: H×W×C, the values of `read_image`.

        Raises:
            ImageError: the file is damaged, or has changed since it was opened.
            ValueError: the window does not lie inside.
        """
        window = _inside(Window(top, left, height, width), self.shape)
        if self._giant is None:
            return _cut(self._whole.get(), window)
        pixels = self._giant.read(window)
        if self._giant.palette is not None:
            return np.asarray(self._giant.palette[:, :3][pixels[..., 0]])
        return np.ascontiguousarray(plain(pixels, self.path), self.dtype)

    def strips(self, rows: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """(top, rows×W×C) from top to bottom; the last may be lower."""
        for top in range(0, self.height, rows):
            yield top, self.read(top, 0, min(rows, self.height - top), self.width)

    def thumbnail(self, side: int) -> NDArray[Any]:
        """Every n-th pixel of every n-th row, H×W×C, the longer side at most `side` pixels."""
        step = -(-max(self.height, self.width) // side)
        rows = STRIP if self._giant is None else self._giant.strip
        picks = (strip[-top % step :: step, ::step] for top, strip in self.strips(rows))
        return np.concatenate(list(picks))

    def close(self) -> None:
        """Let go of the file and its pixels; reading opens it again."""
        self._whole.drop()
        if self._giant is not None:
            self._giant.close()

    def __enter__(self) -> "Raster":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[[Path], "Raster"], tuple[Path]]:
        """Send the path; the process at the other end opens the file itself."""
        return open_raster, (self.path,)


class MaskRaster:
    """A mask file read by windows; close it, or use it as a context manager.

    It may be shared between threads and taken into forked processes.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._whole = Once(lambda: read_mask(path))
        with _as_mask_error():
            self._giant = Giant(path) if reads_by_windows(path) else None
        if self._giant is not None:
            with _closed_on_error(self._giant):
                self._kind = _mask_kind(self._giant, path)

    @property
    def height(self) -> int:
        """Rows, pixels."""
        return self._size[0]

    @property
    def width(self) -> int:
        """Columns, pixels."""
        return self._size[1]

    @property
    def _size(self) -> tuple[int, ...]:
        return self._whole.get().pixels.shape[:2] if self._giant is None else self._giant.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """Number type of what `read` returns: uint8, uint16, int16 or int32.

        Of a giant the stored type decides: int8 becomes int16, other numbers become int32, and a
        fraction or a value that is too large is an error of the window that it is in.
        """
        return self._whole.get().pixels.dtype if self._giant is None else self._kind.pixels.dtype

    @property
    def coding(self) -> Coding:
        """What the values are."""
        return self._raw.coding

    @property
    def palette(self) -> tuple[int, ...] | None:
        """768 numbers with the coding "palette"."""
        return self._raw.palette

    @property
    def alpha(self) -> bool:
        """Whether an alpha band is dropped; where it is not opaque, reading is a `MaskError`."""
        return self._raw.alpha

    @property
    def lossy(self) -> bool:
        """Whether the file's compression changes values (JPEG)."""
        return self._raw.lossy

    @property
    def tiff(self) -> bool:
        """Whether the file is a TIFF."""
        return self._raw.tiff

    @property
    def _raw(self) -> RawMask:
        return self._whole.get() if self._giant is None else self._kind

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """The pixels of a window that lies inside, as `read_mask` gives them: H×W or H×W×3.

        Raises:
            MaskError: the file is damaged, has changed since it was opened, or is no mask there.
            ValueError: the window does not lie inside.
        """
        window = _inside(Window(top, left, height, width), self._size)
        if self._giant is None:
            return _cut(self._whole.get().pixels, window)
        with _as_mask_error():
            pixels = self._giant.read(window)
        return _mask_pixels(pixels, self._kind, self.path)

    def strips(self, rows: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """(top, rows×W or rows×W×3) from top to bottom; the last may be lower."""
        for top in range(0, self.height, rows):
            yield top, self.read(top, 0, min(rows, self.height - top), self.width)

    def close(self) -> None:
        """Let go of the file and its pixels; reading opens it again."""
        self._whole.drop()
        if self._giant is not None:
            self._giant.close()

    def __enter__(self) -> "MaskRaster":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[[Path], "MaskRaster"], tuple[Path]]:
        """Send the path; the process at the other end opens the file itself."""
        return open_mask_raster, (self.path,)


def open_raster(path: Path) -> Raster:
    """Open an image for reading by windows.

    Raises:
        ImageError: a giant TIFF that is damaged, a bomb or a stack of pages. Of other files this
            comes with the first read.
    """
    return Raster(path)


def open_mask_raster(path: Path) -> MaskRaster:
    """Open a mask for reading by windows.

    Raises:
        MaskError: a giant TIFF that is damaged or no mask. Of other files this comes with the first
            read.
    """
    return MaskRaster(path)


def is_giant(path: Path) -> bool:
    """Whether an image has more than `WHOLE_PIXELS`, by its header alone.

    Raises:
        ImageError: the file is no image.
    """
    return pixel_count(path) > WHOLE_PIXELS


def reads_by_windows(path: Path) -> bool:
    """Whether `Raster` and `MaskRaster` read a file by windows: whether it is a giant TIFF.

    Raises:
        ImageError: the file is missing, empty, or a damaged TIFF.
    """
    return start_of(path)[:4] in TIFF_STARTS and is_giant(path)


def _inside(window: Window, shape: Sequence[int]) -> Window:
    top, left, height, width = window
    inside = 0 <= top <= top + height <= shape[0] and 0 <= left <= left + width <= shape[1]
    if not inside or not height or not width:
        raise ValueError(f"{window} does not lie in an image of {shape[0]}×{shape[1]}")
    return window


def _cut(pixels: NDArray[Any], window: Window) -> NDArray[Any]:
    top, left, height, width = window
    return pixels[top : top + height, left : left + width].copy()


def _image_kind(giant: Giant, path: Path) -> tuple[int, np.dtype[Any]]:
    """Bands and number type of the windows of an image."""
    if giant.palette is not None:
        return 3, np.dtype(np.uint8)
    bands, stored = giant.shape[2], giant.dtype
    if stored in (np.uint8, np.uint16, np.int16, np.float32):
        return bands, stored
    if stored.kind not in "iuf":
        raise ImageError(f"{path} holds {stored} values, expected integers or floats")
    return bands, np.dtype(np.int16 if stored == np.int8 else np.float32)


def _mask_kind(giant: Giant, path: Path) -> RawMask:
    """What a mask is; its pixels are none, of the type that windows have."""
    if giant.palette is not None:
        colours = giant.palette[:, :3]
        grey = bool((colours == np.arange(256)[:, None]).all())  # index = grey value
        palette = None if grey else tuple(colours.ravel().tolist())
        coding: Coding = "integer" if grey else "palette"
        return RawMask(np.empty((0, 0), np.uint8), coding, palette, giant.lossy, True)
    bands, stored = giant.shape[2], giant.dtype
    alpha = bands in {2, 4} and stored in (np.uint8, np.uint16)
    if bands - alpha == 3 and stored == np.uint8:
        return RawMask(np.empty((0, 0, 3), np.uint8), "rgb", None, giant.lossy, True, alpha)
    if bands - alpha != 1 or stored.kind not in "iuf":
        raise _no_mask(giant.shape, stored, path)
    dtype = stored if stored in (np.uint8, np.uint16, np.int16, np.int32) else np.dtype(np.int32)
    dtype = np.dtype(np.int16) if stored == np.int8 else dtype
    return RawMask(np.empty((0, 0), dtype), "integer", None, giant.lossy, True, alpha)


def _mask_pixels(pixels: NDArray[Any], kind: RawMask, path: Path) -> NDArray[Any]:
    """The values of a window of a mask, from its pixels as stored, H×W×C."""
    flat = pixels[..., : pixels.shape[-1] - kind.alpha]
    if effective_bands(pixels) != flat.shape[-1]:
        raise _no_mask(pixels.shape, pixels.dtype, path)
    if kind.coding != "integer" or kind.pixels.dtype == pixels.dtype:
        return np.ascontiguousarray(flat if kind.coding == "rgb" else flat[..., 0])
    return whole_numbers(flat[..., 0], path).astype(kind.pixels.dtype)


def _no_mask(shape: Sequence[int], dtype: np.dtype[Any], path: Path) -> MaskError:
    fix = "Save the mask with one band of class numbers, or as 8-bit RGB without transparency."
    came = f"{shape[-1]} bands of {dtype}"
    return MaskError(
        f"{path} has {came}, expected one band, a palette or RGB",
        fix=fix,
        code="mask-values",
        paths=[path],
    )


@contextmanager
def _as_mask_error() -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        raise MaskError.like(error) from error


@contextmanager
def _closed_on_error(giant: Giant) -> Iterator[None]:
    try:
        yield
    except DataError:
        giant.close()
        raise
