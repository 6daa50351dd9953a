"""What an image file must be before its pixels are read; whatever a decoder says, answered."""

import errno
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tifffile
from PIL import Image, UnidentifiedImageError

from unetseg.errors import ImageError

PIXEL_LIMIT = 89_478_485  # pixels; Pillow's limit for decompression bombs
EXPANSION_LIMIT = 100  # a TIFF over the pixel limit may grow by this factor when it is unpacked
BOMB = "decompression-bomb"
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
    struct.error,
    zlib.error,
    tifffile.TiffFileError,
    Image.DecompressionBombError,  # frames of a GIF beyond its screen
    Image.DecompressionBombWarning,
)


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


def unreadable(path: Path, reason: object, code: str = "unreadable-file") -> ImageError:
    """The answer for a file that cannot be read."""
    summary = f"{path} cannot be read: {reason}"
    return ImageError(summary, fix=READ_FIX, code=code, paths=[path], came=str(reason))
