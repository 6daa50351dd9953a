"""What an image file must be before its pixels are read; whatever a decoder says, answered."""

import errno
import logging
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tokenize import TokenError
from typing import Any

import tifffile
from PIL import Image, UnidentifiedImageError

from unetseg.data.files.pages import file_of
from unetseg.errors import ImageError

PIXEL_LIMIT = 89_478_485  # pixels; Pillow's limit for decompression bombs
EXPANSION_LIMIT = 100  # a TIFF over the pixel limit may grow by this factor when it is unpacked
HOLDABLE = 2**20  # bytes of pixels that no byte of a file unpacks to
PIXEL_BYTES = 16  # of one pixel that the limit on pixels allows for, as of four bands of float32
MOST_BANDS = 512  # of an image, as of an array of OpenCV
BOMB = "decompression-bomb"
ORIENTATION_TAG = 0x0112  # of EXIF and TIFF
LFS_START = b"version https://git-lfs"  # of what Git LFS leaves where a file was not fetched
READ_FIX = "Copy the file again from its source, or take it out of the folder."

_CODES = {errno.ENOENT: "missing-file", errno.EACCES: "no-permission"}
_DAMAGE = (
    OSError,
    EOFError,
    SyntaxError,  # what Pillow calls a broken PNG
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    RuntimeError,  # the codecs of imagecodecs
    MemoryError,  # of a header that promises what no machine holds
    zipfile.BadZipFile,
    struct.error,
    zlib.error,
    tifffile.TiffFileError,
    TokenError,  # of the header of an old .npy
    Image.DecompressionBombError,  # frames of a GIF beyond its screen
    Image.DecompressionBombWarning,
)

# What these say of odd files is said here in an answer, or not at all; whoever logs still hears it.
for _library in ("tifffile", "rasterio", "PIL"):
    logging.getLogger(_library).addHandler(logging.NullHandler())


def refuse_bomb(path: Path, size: tuple[int, int], unpacked: int, limit: int) -> None:
    """Refuse to decode `unpacked` bytes at once that the file is far too small for.

    Raises:
        ImageError: so it is, and the height×width of `size` or the bytes are over the limit.
    """
    pixels, stored = max(size[0] * size[1], unpacked // PIXEL_BYTES), file_of(path).stat().st_size
    if pixels > limit and unpacked > HOLDABLE * stored:
        reason = f"its header promises {unpacked} bytes of pixels, more than {stored} bytes hold"
        raise unreadable(path, reason)
    if pixels > limit and unpacked > EXPANSION_LIMIT * stored:
        told = f"{size[1]}×{size[0]} = {size[0] * size[1]} pixels"
        told += f" of {unpacked} bytes" if size[0] * size[1] <= limit else ""
        raise bomb(path, pixels, told, limit)


def bomb(path: Path, pixels: int, size: str, limit: int) -> ImageError:
    """The refusal of an image of `pixels` pixels; `size` is how they are told."""
    summary = f"{path} is refused as a decompression bomb: {size}; the limit is {limit}"
    fix = f"If you trust the file, allow it by --max-pixels {pixels}."
    return ImageError(summary, fix=fix, code=BOMB, paths=[path], came=pixels)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn whatever a decoder says about a damaged file into an answer.

    Raises:
        ImageError: the work inside cannot read `path`.
    """
    try:
        yield
    except _DAMAGE as error:
        code, reason = "unreadable-file", str(error).split("\n")[0] or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            code, reason = "no-image", "its content is no image that is known here, whatever "
            reason += "its name says"
        elif isinstance(error, OSError) and error.strerror:
            code, reason = _CODES.get(error.errno or 0, code), error.strerror
        raise unreadable(path, reason, code) from error


def told_orientation(tell: Callable[[], Any]) -> int:
    """1–8 as EXIF or TIFF tell it; 1 where they tell something else, or are damaged."""
    with suppress(*_DAMAGE):
        told = tell()
        return int(told) if told in range(1, 9) else 1
    return 1


def gdal_faults() -> tuple[type[Exception], ...]:
    """What rasterio raises: its own errors, and GDAL's where it wraps none."""
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError

    return RasterioError, CPLE_BaseError


def unreadable(path: Path, reason: object, code: str = "unreadable-file") -> ImageError:
    """The answer for a file that cannot be read."""
    summary = f"{path} cannot be read: {reason}"
    return ImageError(summary, fix=READ_FIX, code=code, paths=[path], came=str(reason))
