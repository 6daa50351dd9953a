"""An image file, opened once: header, place on the earth, pixels whole and by windows.

Pixels are a file's own values, any bit depth and any band count, never rescaled. A file that cannot
be read whole is an `ImageError`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from unetseg.data.files.arrays import ArrayFile
from unetseg.data.files.bands import pixel_type, without_loss
from unetseg.data.files.georeference import (
    NODATA_TAG,
    Georeference,
    companions,
    georeference_of,
    upright_place,
)
from unetseg.data.files.limits import MOST_BANDS, PIXEL_LIMIT, explained, unreadable
from unetseg.data.files.once import Once
from unetseg.data.files.pages import SEVERAL
from unetseg.data.files.photos import Jpeg2000, Photo
from unetseg.data.files.rasters import Raster, ValidityMask
from unetseg.data.files.readers import WINDOWED_FORMATS, Opened, Windowed, open_file
from unetseg.data.files.tiffs import Tiff
from unetseg.data.files.windows import cut, stored_window, upright
from unetseg.errors import ImageError
from unetseg.storage import is_file

WHOLE_PIXELS = 2**25
"""Pixels; TIFFs and .npy with more are read by windows, any image with more by bands."""
STRIP = 256
"""Rows that are read at once where the file does not suggest another number."""
_PLAIN_NUMBER = re.compile(rb" *-?\d{1,15}(\.\d{1,15})? *\0*")


@dataclass(frozen=True)
class Picture:
    """Pixels as a file stores them, upright, before anything is made of them.

    Attributes:
        pixels: H×W×C of the file's own type; palette indexes when there is a palette.
        palette: uint8 256×4, the RGBA colour of each index, or None.
        transparent: Whether the palette declares transparent entries.
        white_is_zero: Whether viewers show 0 as white.
    """

    pixels: NDArray[Any]
    palette: NDArray[np.uint8] | None = None
    transparent: bool = False
    white_is_zero: bool = False

    def values(self, path: Path, nodata: float | None = None) -> NDArray[Any]:
        """The pixels as `ImageFile.read` gives them; wide integers that are `nodata` are rounded.

        Raises:
            ImageError: the values fit none of the four types; `path` is named.
        """
        if self.palette is not None:
            colours = self.palette[:, : 4 if self.transparent else 3]
            return np.ascontiguousarray(colours[self.pixels[..., 0]])
        if self.white_is_zero:
            return np.ascontiguousarray(np.iinfo(self.pixels.dtype).max - self.pixels)
        return np.ascontiguousarray(without_loss(self.pixels, path, nodata))


class ImageFile:
    """An image file; close it, or use it as a context manager.

    What its header says is known once it is open, and stays known when it is closed; pixels are
    decoded when they are read, from the same opening. Reading a closed file opens it again. It may
    be shared between threads, taken into forked processes, and sent to others.

    A TIFF or .npy of more than `WHOLE_PIXELS` is read window by window, so that it may be larger
    than memory; of any other file a window is cut from the whole, decoded once. Both give one
    result.

    Args:
        path: The file, or a page of one, see `pages.py`.
        max_pixels: The most pixels that are decoded at once, against decompression bombs.

    Attributes:
        format: PNG, JPEG, TIFF, GIF, BMP, WEBP, PPM, HEIF, JPEG2000, NPY, NPZ, VRT, HFA or ENVI, by
            the content.
        lossy: Whether the compression changes values (JPEG and its kin).
        white_is_zero: Whether a TIFF stores white as 0; `read` gives it as viewers show it.
        scaling: What the file declares that its values, which are read as stored, are multiplied
            with; or nothing.
        alpha: Whether the last band of what `read` returns is declared to be alpha.
        pixels: Height times width.
        pages: Images in an array whose first axis may be one of pages; else 1.
        is_windowed: Whether windows are read one by one.

    Raises:
        ImageError: the file is missing, no regular file, empty, no image, a bomb, or a damaged
            TIFF or a stack of pages.
    """

    def __init__(self, path: Path, max_pixels: int | None = None) -> None:
        self.path = path
        self.max_pixels = PIXEL_LIMIT if max_pixels is None else max_pixels
        self._file = Once(partial(open_file, path, self.max_pixels))
        self._values = Once(lambda: self._read(self.picture()))
        with explained(path):
            file = self._file.get()
            if file.shape[2] > MOST_BANDS:
                file.close()
                raise unreadable(
                    path, f"it has {file.shape[2]} bands, at most {MOST_BANDS} are read"
                )
        self.format, self.lossy = file.format, file.lossy
        self.white_is_zero = isinstance(file, Tiff) and file.white_is_zero
        self.scaling = str(getattr(file, "scaling", ""))
        self._has_mask = bool(getattr(file, "has_mask", False))
        self._mask = Once(lambda: ValidityMask(path))
        self._shape, self._kind = file.shape, file.kind  # as stored
        self.pixels = file.shape[0] * file.shape[1]
        self.pages = file.pages if isinstance(file, ArrayFile) else 1
        self.is_windowed = self.format in WINDOWED_FORMATS and self.is_large
        # Of a PNG it may stand behind the pixels: that is known when they are read.
        self._orientation = None if self.format == "PNG" else file.orientation
        self._blank = self._blank_entry(file)
        self.alpha = file.alpha or self._blank is not None
        try:
            self._windowed = self._windows_of(self.open_windowed()) if self.is_windowed else None
        except ImageError:
            self.close()
            raise

    @property
    def is_large(self) -> bool:
        """Whether the image has more than `WHOLE_PIXELS`."""
        return self.pixels > WHOLE_PIXELS

    @property
    def orientation(self) -> int:
        """1–8 as EXIF or TIFF store it; the pixels that are read are upright already."""
        if self._orientation is None:
            self._values.get()
        return self._orientation or 1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the upright image, pixels."""
        height, width = self._shape[:2]
        return (width, height) if self.orientation > 4 else (height, width)

    @property
    def height(self) -> int:
        """Rows, pixels."""
        return self.size[0]

    @property
    def width(self) -> int:
        """Columns, pixels."""
        return self.size[1]

    @property
    def bands(self) -> int:
        """Bands of what `read` returns, an opaque alpha counted.

        `match_bands` of a window does what it does with the whole, or raises: what it drops or
        repeats depends on the band counts alone.
        """
        return self._windowed[0] if self._windowed else int(self._values.get().shape[2])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and bands of what `read` returns."""
        return (*self.size, self.bands)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Number type of what `read` returns: uint8, uint16, int16 or float32.

        The stored type decides: int8 becomes int16, wider integers and other floats become float32.
        """
        return self._windowed[1] if self._windowed else self._values.get().dtype

    @property
    def georeference(self) -> Georeference | None:
        """Where the image lies on the earth, if its file or one beside it says so.

        Raises:
            ImageError: its geographic tags are damaged.
        """
        return self._place if self._place.is_placed else None

    @property
    def lost_place(self) -> str:
        """What is told of the place and cannot be kept, in words.

        Raises:
            ImageError: its geographic tags are damaged.
        """
        return self._place.lost

    @property
    def nodata(self) -> float | None:
        """The value that the file declares for pixels without data, as `read` gives it.

        None too where its geographic tags are damaged; its pixels may be read anyway. Of a palette,
        where an index is declared, that entry is transparent; but each GIF has one, grey ones too,
        and there the value is a grey.
        """
        return None if self._blank is not None else self.nodata_code

    @property
    def nodata_code(self) -> float | None:
        """The same as it stands in `picture`, where an index of a palette is a value as others."""
        declared = self._declared
        if declared is None or not self.white_is_zero:
            return declared
        return np.iinfo(self._kind).max - declared

    @cached_property
    def _declared(self) -> float | None:
        """The no-data value as stored; plain ones are read without GDAL, in less time."""
        file = self._opened()
        try:
            if isinstance(file, Tiff) and not companions(self.path):
                with explained(self.path):
                    tags = file.raw_tags(NODATA_TAG)
                if not tags:
                    return None
                if _PLAIN_NUMBER.fullmatch(text := tags[0][3]):
                    value = float(text.strip(b" \0"))
                    limits = np.iinfo(file.dtype) if file.dtype.kind in "iu" else None
                    return value if limits is None or limits.min <= value <= limits.max else None
            return self._geography[1]
        except ImageError:
            return None

    def _blank_entry(self, file: Opened) -> int | None:
        """The entry of a palette, other than that of a GIF, that is declared to be no data."""
        if isinstance(file, Photo):
            is_paletted = file.kind == "P" and file.format != "GIF"
        else:
            is_paletted = file.palette is not None
        told = self._declared if is_paletted else None
        return int(told) if told is not None and told % 1 == 0 and 0 <= told < 256 else None

    def _colours(self, file: Windowed | Jpeg2000) -> tuple[NDArray[np.uint8] | None, bool]:
        """The palette of a file, and whether it has a transparent entry."""
        palette = file.palette
        if palette is None or self._blank is None:
            return palette, False
        palette = palette.copy()
        palette[self._blank, 3] = 0
        return palette, True

    @cached_property
    def has_mask(self) -> bool:
        """Whether a mask in the file, or a .msk file beside it, tells which pixels are valid."""
        return self._has_mask or is_file(f"{self.path}.msk")

    @property
    def has_gaps(self) -> bool:
        """Whether there may be pixels without data, by all that the header tells."""
        is_float = self._kind == "F" or self._kind.startswith("float")  # may be NaN
        return self.nodata is not None or self.has_mask or self.alpha or is_float

    @cached_property
    def _place(self) -> Georeference:
        """Where the upright image lies."""
        place, _ = self._geography
        return upright_place(place, self._shape, self.orientation) if place.is_placed else place

    @cached_property
    def _geography(self) -> tuple[Georeference, float | None]:
        """Where the image lies as it is stored, and its no-data value."""
        may_say = self.format in {"TIFF", "JPEG2000", "VRT", "HFA", "ENVI"}
        if not may_say and not companions(self.path):
            return Georeference(), None
        file = self._opened()
        if isinstance(file, Raster):
            return file.georeference, file.nodata
        return georeference_of(file, self.path)

    @property
    def pillow_bands(self) -> int | None:
        """The bands that Pillow sees, which may be fewer than there are; None if it cannot."""
        if self.format != "TIFF":
            return self._shape[2]
        tiff = self._opened()
        assert isinstance(tiff, Tiff)
        try:
            with explained(self.path):
                return tiff.pillow_bands()
        except ImageError:
            return None

    def read(self, *window: int) -> NDArray[Any]:
        """The file's own values as H×W×C of uint8, uint16, int16 or float32.

        Palettes become RGB (RGBA where they declare transparency), 1-bit images 0 and 255, alpha
        stays a band, orientation is applied, and so is white as 0. Of other integers int8 becomes
        int16, all else float32, which must hold them; float64 is rounded to float32.

        Args:
            *window: Top, left, height and width of a window that lies inside; none for the whole,
                which is not kept.

        Raises:
            ImageError: the file is truncated, damaged, animated, a bomb, or has changed since it
                was opened; or its values fit none of the four types.
            ValueError: the window does not lie inside.
        """
        if not window:
            kept = self._values.drop()
            return self._read(self.picture()) if kept is None else kept
        if not self._windowed:
            return cut(self._values.get(), window)
        return self._read(self.stored(*window))

    def _read(self, picture: Picture) -> NDArray[Any]:
        """What `read` makes of pixels; of wide integers, those without data may be rounded."""
        stored = picture.pixels.dtype
        is_wide = picture.palette is None and stored.kind in "iu" and stored.itemsize > 2
        return picture.values(self.path, self.nodata if is_wide else None)

    def picture(self) -> Picture:
        """The whole, upright, as the file stores it.

        Raises:
            ImageError: as `read`.
        """
        file = self._opened()
        with explained(self.path):
            if isinstance(file, Photo):
                pixels, palette, transparent = file.whole(self._blank)
            else:
                pixels, (palette, transparent) = file.whole(), self._colours(file)
            self._orientation = file.orientation
            pixels = upright(pixels, file.orientation)
            return Picture(pixels, palette, transparent, self.white_is_zero)

    def stored(self, *window: int) -> Picture:
        """A window of a large TIFF, upright, as the file stores it.

        Raises:
            ImageError: as `read`.
            ValueError: the window does not lie inside.
        """
        file, where = self.open_windowed(), stored_window(window, self.size, self.orientation)
        with explained(self.path):
            pixels = upright(file.window(where), self.orientation)
        return Picture(pixels, *self._colours(file), self.white_is_zero)

    def valid(self, *window: int) -> NDArray[np.bool_] | None:
        """Where the mask of the file says that there are data, H×W; None where it has no mask.

        Args:
            *window: As of `read`.

        Raises:
            ImageError: the mask cannot be read.
        """
        if not self.has_mask:
            return None
        where = stored_window(window or (0, 0, *self.size), self.size, self.orientation)
        return np.ascontiguousarray(upright(self._mask.get().window(where), self.orientation))

    def strips(self, rows: int = STRIP) -> Iterator[tuple[int, NDArray[Any]]]:
        """(top, rows×W×C) from top to bottom; the last may be lower."""
        for top in range(0, self.height, rows):
            yield top, self.read(top, 0, min(rows, self.height - top), self.width)

    def thumbnail(self, side: int) -> NDArray[Any]:
        """Every n-th pixel of every n-th row, H×W×C, the longer side at most `side` pixels.

        Where an entry of a palette stands for no data it has the colours alone: if it is a mask,
        these tell its codes.
        """
        step = -(-max(self.size) // side)
        together = self._windowed[2] if self._windowed else 1  # rows that are decoded
        strips = self.strips(max(together, STRIP // together * together))
        # No view of a strip is kept: it would keep the strip.
        picks = (strip[-top % step :: step, ::step].copy() for top, strip in strips)
        pixels = np.concatenate(list(picks))
        return pixels if self._blank is None else pixels[..., :3]

    def close(self) -> None:
        """Let go of the file and its pixels; what the header said stays known."""
        self._values.drop()
        for file in (self._file.drop(), self._mask.drop()):
            if file is not None:
                file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[Self], tuple[Path, int]]:
        """Send the path; the process at the other end opens the file itself."""
        return type(self), (self.path, self.max_pixels)

    def open_windowed(self) -> Windowed:
        """The open file, as stored; only of one whose windows can be read.

        Raises:
            ImageError: it is damaged, or has changed since it was opened.
        """
        file = self._opened()
        assert isinstance(file, Windowed), f"{self.path} is {self.format}"
        return file

    def _opened(self) -> Opened:
        """The open file, which must be the one whose header was read."""
        with explained(self.path):
            file = self._file.get()
        if (file.shape, file.kind) != (self._shape, self._kind):
            fix = "Let the file be while it is read, and start again."
            raise ImageError(f"{self.path} has changed since it was opened", fix=fix)
        return file

    def _windows_of(self, file: Windowed) -> tuple[int, np.dtype[Any], int]:
        """Bands and number type of windows, and the rows that are decoded together."""
        rows = file.segment[self.orientation > 4]
        if file.palette is not None:
            return 3 + (self._blank is not None), np.dtype(np.uint8), rows
        return file.shape[2], pixel_type(file.dtype, self.path), rows


def read_image(path: Path, max_pixels: int | None = None) -> NDArray[Any]:
    """The whole of an image file, H×W×C; see `ImageFile.read`.

    Raises:
        ImageError: the file cannot be read, or its values fit none of the four types.
    """
    with ImageFile(path, max_pixels) as image:
        return image.read()


def count_pages(path: Path) -> tuple[int, bool]:
    """The images that a file holds, as far as its header says, and whether they must be such.

    Of an array the first axis may be one of bands as well. A file that cannot be read counts as 1.
    """
    try:
        with ImageFile(path) as image:
            return image.pages, False
    except ImageError as error:
        pages = error.came if error.code == SEVERAL else None
        return (pages, True) if isinstance(pages, int) else (1, False)
