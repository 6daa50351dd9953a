"""A mask file: an image file whose values are codes of classes, or a set of them read as one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.data.files.bands import effective_bands
from unetseg.data.files.image import STRIP, ImageFile, Picture
from unetseg.data.files.limits import PIXEL_LIMIT
from unetseg.data.files.nodata import holds_nodata
from unetseg.data.files.once import Once
from unetseg.data.files.pages import MaskPath, MaskSet
from unetseg.data.files.windows import cut
from unetseg.data.masks.class_map import Coding
from unetseg.data.masks.mask_forms import (
    ALPHA,
    WHITE_IS_ZERO,
    coding_of,
    is_black_and_white,
    no_mask,
    usual_form,
    whole_numbers,
)
from unetseg.errors import ImageError, MaskError

LARGEST_FACTOR = 16  # a mask with less than one pixel for 16×16 of the image is another mask
NOWHERE = -1
"""Stands for what a mask declares for pixels without data where that is no code, such as NaN."""
_HALF = 128  # from this value on, a pixel with JPEG noise is of the object


@dataclass(frozen=True)
class RawMask:
    """A mask as its file stores it.

    Attributes:
        pixels: uint8, uint16, int16 or int32 H×W; uint8 H×W×3 with the coding "rgb".
        coding: What the values are.
        palette: 768 numbers with the coding "palette"; of a file that is all transparent, which
            shows nothing, the colour that 0 stands for among colours.
        lossy: Whether the file's compression changes values (JPEG).
        alpha: Whether the file has an opaque alpha band, left out here.
        form: Another form that was brought to this one, in words: `ALPHA` and the like.
        nodata: The number other than 0 that the file declares for pixels without data, or
            `NOWHERE`.
    """

    pixels: NDArray[Any]
    coding: Coding
    palette: tuple[int, ...] | None = None
    lossy: bool = False
    alpha: bool = False
    form: str = ""
    nodata: int | None = None


class MaskFile:
    """A mask file; close it, or use it as a context manager.

    As an `ImageFile` it is opened once, knows when closed what it knew, may be shared between
    threads, taken into forked processes, and sent to others; and a window of a large TIFF is read
    by itself, any other is cut from the whole.

    Args:
        path: The file, or the set of files.
        max_pixels: The most pixels that are decoded at once, against decompression bombs.

    Attributes:
        format: PNG, JPEG, TIFF, …, by the content; none for a set.

    Raises:
        MaskError: as `ImageFile`, or a large TIFF that is no mask.
    """

    def __init__(self, path: MaskPath, max_pixels: int | None = None) -> None:
        self.path = path
        self.is_windowed: bool
        self._image: ImageFile | _UnitedFiles
        with _as_mask_error():
            if isinstance(path, MaskSet):
                self._image = _UnitedFiles(path, max_pixels)
            else:
                self._image = ImageFile(path, max_pixels)
        self.format, self.is_windowed = self._image.format, self._image.is_windowed
        self._whole = Once(self._read_whole)
        self._factor = 1.0  # what the sides of the stored mask are multiplied with
        if self.is_windowed:
            try:
                with _as_mask_error():
                    self._header = self._kind_of_windows()
            except MaskError:
                self.close()
                raise

    @property
    def raw(self) -> RawMask:
        """What the mask is; where windows are read the pixels are none, of the type of these.

        Of windows the stored type decides: int8 becomes int16, other numbers become int32, and a
        fraction or a value that is too large is an error of the window that it is in. So is an
        alpha band that is not opaque.
        """
        return self._header if self.is_windowed else self._whole.get()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the upright mask, or of the image that it fits, pixels."""
        stored = self._image.size if self.is_windowed else self.raw.pixels.shape[:2]
        return round(self._factor * stored[0]), round(self._factor * stored[1])

    @cached_property
    def nodata(self) -> int | None:
        """The number that the file declares for pixels without data; 0 is the background."""
        told, limits = self._told, np.iinfo(np.int32)
        if not told:
            return None
        return int(told) if told % 1 == 0 and limits.min <= told <= limits.max else NOWHERE

    @cached_property
    def _told(self) -> float | None:
        """The same as the file has it."""
        image = self._image
        return None if image.white_is_zero or isinstance(image, _UnitedFiles) else image.nodata_code

    def fit(self, image: tuple[int, int]) -> None:
        """Be as large as this image from now on, where that is a whole multiple or fraction.

        `size`, `read` and `strips` then give what `fitted` makes of the whole.
        """
        self._factor = 1.0
        self._factor = whole_factor(image, self.size) or 1.0

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """The values of a window that lies inside, upright, without alpha: H×W or H×W×3.

        Raises:
            MaskError: the file is damaged, has changed since it was opened, or is no mask there.
            ValueError: the window does not lie inside.
        """
        if self._factor >= 1:
            times = round(self._factor)
            rows, columns = (
                (start // times, -(-(start + length) // times))
                for start, length in ((top, height), (left, width))
            )
            part = self._stored(rows[0], columns[0], rows[1] - rows[0], columns[1] - columns[0])
            top, left = top % times, left % times
            return _resized(part, times)[top : top + height, left : left + width]
        step = round(1 / self._factor)
        part = self._stored(*(step * side for side in (top, left, height, width)))
        return _resized(part, self._factor)

    def _stored(self, *window: int) -> NDArray[Any]:
        """The values of a window of the mask as large as it is stored."""
        if not self.is_windowed:
            return cut(self._whole.get().pixels, window)
        with _as_mask_error():
            picture = self._image.stored(*window)
        values = self._values(picture, self.raw.coding, self.raw.alpha)
        values = 255 - values if self.raw.form == WHITE_IS_ZERO else values
        return values.astype(self.raw.pixels.dtype, copy=False)

    def strips(self, rows: int = STRIP) -> Iterator[tuple[int, NDArray[Any]]]:
        """(top, rows×W or rows×W×3) from top to bottom; the last may be lower."""
        height, width = self.size
        for top in range(0, height, rows):
            yield top, self.read(top, 0, min(rows, height - top), width)

    def whole(self) -> RawMask:
        """All of the mask, which is not kept.

        Raises:
            MaskError: the file cannot be read or is no mask.
        """
        return self._whole.drop() or self._read_whole()

    def close(self) -> None:
        """Let go of the file and its pixels; reading opens it again."""
        self._whole.drop()
        self._image.close()

    def __enter__(self) -> "MaskFile":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __reduce__(
        self,
    ) -> tuple[Callable[..., "MaskFile"], tuple[MaskPath, int | None], dict[str, float]]:
        """Send the path; the process at the other end opens the file itself."""
        return MaskFile, (self.path, self._image.max_pixels), {"_factor": self._factor}

    def _read_whole(self) -> RawMask:
        image = self._image
        with _as_mask_error():
            stored = image.picture()
        pixels, form = stored.pixels, ""
        if stored.palette is None:
            pixels, form = usual_form(
                pixels, self.path, white_is_zero=image.white_is_zero, has_alpha=image.alpha
            )
        alpha = effective_bands(pixels) != pixels.shape[-1]
        bands = pixels.shape[-1] - alpha
        coding, palette = coding_of(bands, pixels.dtype, stored.palette, [pixels], self.path)
        if form == ALPHA and coding == "integer" and not pixels.any():
            palette = tuple(np.resize(stored.pixels[0, 0, :-1], 768).tolist())
        values = self._values(Picture(pixels, stored.palette), coding, alpha)
        return RawMask(values, coding, palette, image.lossy, alpha, form, self.nodata)

    def _kind_of_windows(self) -> RawMask:
        """What a mask is by its header; its pixels are none, of the type that windows have."""
        if isinstance(self._image, _UnitedFiles):
            return RawMask(np.empty((0, 0), np.uint8), "integer")
        file = self._image.open_windowed()
        bands, stored = file.shape[2], file.dtype
        alpha = bands in {2, 4} and stored in (np.uint8, np.uint16)
        strips = self._strips_as_stored()
        coding, colours = coding_of(bands - alpha, stored, file.palette, strips, self.path)
        if stored.kind not in "iuf":
            raise no_mask(self.path, bands, stored)
        whole = stored in (np.uint8, np.uint16, np.int16, np.int32)
        dtype = stored if whole else np.dtype(np.int16 if stored == np.int8 else np.int32)
        none = np.empty((0, 0, 3) if coding == "rgb" else (0, 0), dtype)
        is_inverted = self._image.white_is_zero and all(map(is_black_and_white, strips))
        form = WHITE_IS_ZERO if is_inverted else ""
        return RawMask(none, coding, colours, self._image.lossy, alpha, form, self.nodata)

    def _strips_as_stored(self) -> Iterator[NDArray[Any]]:
        """The pixels of windows from top to bottom, rows×W×C."""
        height, width = self._image.size
        for top in range(0, height, STRIP):
            yield self._image.stored(top, 0, min(STRIP, height - top), width).pixels

    def _values(self, picture: Picture, coding: Coding, alpha: bool) -> NDArray[Any]:
        """The values of a mask or a part of it, from its pixels as stored, H×W×C."""
        pixels = picture.pixels[..., : picture.pixels.shape[-1] - alpha]
        if alpha and effective_bands(picture.pixels) != pixels.shape[-1]:
            raise no_mask(self.path, picture.pixels.shape[-1], pixels.dtype)
        if coding == "rgb":
            return np.ascontiguousarray(pixels)
        if coding == "integer" and picture.palette is not None:
            return np.ascontiguousarray(picture.palette[:, 0][pixels[..., 0]])
        numbers, told = np.ascontiguousarray(pixels[..., 0]), self._told
        if told is None or self.nodata in {None, told}:
            return whole_numbers(numbers, self.path)
        missing = holds_nodata(pixels, told)
        numbers = whole_numbers(np.where(missing, 0, numbers), self.path)
        if not missing.any():
            return numbers
        signed = np.promote_types(numbers.dtype, np.int8)
        return np.where(missing, NOWHERE, numbers.astype(signed))


class _UnitedFiles:
    """A set of mask files as an `ImageFile` of one band: the code of each where it shows something.

    Where files of several codes overlap, the one with the smaller area lies on top.
    """

    format, lossy, white_is_zero, alpha = "", False, False, False

    def __init__(self, masks: MaskSet, max_pixels: int | None) -> None:
        self.path = masks
        self._files: list[MaskFile] = []
        for path in masks.paths:
            self._files.append(MaskFile(path, max_pixels))
            self._files[-1].close()  # hundreds would stay open
        self.max_pixels = max_pixels
        self.is_windowed = any(file.is_windowed for file in self._files)
        self._order = Once(self._by_area)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self._files[0].size

    def picture(self) -> Picture:
        """All of the mask; its files are closed then."""
        try:
            return self.stored(0, 0, *self.size)
        finally:
            self.close()

    def stored(self, top: int, left: int, height: int, width: int) -> Picture:
        """The codes of a window, H×W×1.

        Raises:
            MaskError: a file cannot be read, or differs in size from the others.
        """
        codes, size = np.zeros((height, width), np.uint8), self.size
        for code, file in self._order.get():
            if file.size != size:
                raise MaskError(
                    f"{file.path} differs in size from another mask of the image (width×height): "
                    f"{file.size[1]}×{file.size[0]}, expected {size[1]}×{size[0]}",
                    paths=self.path.paths,
                )
            codes[object_pixels(file.read(top, left, height, width), file)] = code
            if not self.is_windowed:
                file.close()
        return Picture(codes[..., None])

    def close(self) -> None:
        """Let go of the files; reading opens them again."""
        for file in self._files:
            file.close()

    def _by_area(self) -> list[tuple[int, "MaskFile"]]:
        """Code and file from below to above."""
        files = list(zip(self.path.codes, self._files, strict=True))
        if len({*self.path.codes}) == 1:
            return files

        def area(item: tuple[int, MaskFile]) -> int:
            strips = (object_pixels(strip, item[1]) for _, strip in item[1].strips())
            return sum(int(np.count_nonzero(strip)) for strip in strips)

        return sorted(files, key=area, reverse=True)


def object_pixels(pixels: NDArray[Any], file: MaskFile) -> NDArray[np.bool_]:
    """The pixels of a mask file, or of a window of it, that show an object, H×W: all above 0.

    Nor do black entries of a palette show one, where others are not black. In JPEG, whose zeros are
    noisy, objects are from 128 on.

    Raises:
        MaskError: JPEG has blurred its numbers.
    """
    values, palette = pixels if pixels.ndim == 2 else pixels.max(axis=-1), file.raw.palette
    if palette and any(palette):
        is_black = ~np.array(palette, bool).reshape(256, 3).any(axis=-1)
        values = np.where(np.take(is_black, values), 0, values)
    if not file.raw.lossy:
        return np.asarray(values > 0)
    highest = int(values.max(initial=0))
    if 0 < highest < _HALF and pixels.shape[:2] == file.size:
        came = f"{file.path} is a JPEG with values up to {highest}"
        raise MaskError(f"{came}, expected 0 and 255", fix="Save masks as PNG.")
    return np.asarray(values >= _HALF)


def read_mask(path: MaskPath, max_pixels: int | None = None) -> RawMask:
    """Read a mask: its own values, upright, 1-bit as 0 and 255, without an opaque alpha band.

    Raises:
        MaskError: the file cannot be read or is no mask.
    """
    with MaskFile(path, max_pixels) as mask:
        return mask.whole()


def mask_of_image(path: MaskPath, height: int, width: int) -> RawMask:
    """The mask file of an image of this size, which was allowed and allows a mask as large.

    Raises:
        MaskError: the file cannot be read or is no mask.
    """
    return read_mask(path, max(PIXEL_LIMIT, height * width))


def whole_factor(image: tuple[int, int], mask: tuple[int, int]) -> float | None:
    """What the sides of a mask must be multiplied with to be those of its image.

    Only 2, 3, … 16 and the inverse of these count, the same for both sides; else it is None.

    >>> whole_factor((96, 64), (48, 32)), whole_factor((96, 64), (192, 128))
    (2.0, 0.5)
    >>> whole_factor((96, 64), (96, 32)), whole_factor((96, 64), (96, 64))
    (None, None)
    """
    for times in range(2, LARGEST_FACTOR + 1):
        if image == (times * mask[0], times * mask[1]):
            return float(times)
        if mask == (times * image[0], times * image[1]):
            return 1 / times
    return None


def fitted(index: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Class indexes at the size of their image where that is a whole multiple or fraction.

    The nearest pixel counts; indexes of another size are as they were.
    """
    return _resized(index, whole_factor(shape, (index.shape[0], index.shape[1])) or 1)


def _resized(pixels: NDArray[Any], factor: float) -> NDArray[Any]:
    """The pixels with sides that are so many times as long, a whole number or its inverse."""
    if factor == 1:
        return pixels
    if factor > 1:
        return pixels.repeat(round(factor), 0).repeat(round(factor), 1)
    step = round(1 / factor)
    return pixels[step // 2 :: step, step // 2 :: step].copy()


@contextmanager
def _as_mask_error() -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        raise MaskError.like(error) from error
