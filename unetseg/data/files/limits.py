"""What an image file must be before its pixels are read: a regular file, and no bomb."""

import os
import re
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tifffile
from PIL import Image, UnidentifiedImageError

from unetseg.errors import ConfigError, ImageError

PIXEL_LIMIT = 89_478_485  # pixels; Pillow's limit for decompression bombs
EXPANSION_LIMIT = 100  # a TIFF over the pixel limit may grow by this factor when it is unpacked
READ_FIX = "Copy the file again from its source, or take it out of the folder."

_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
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
)


def pixel_limit() -> int:
    """The most pixels an image may have: `UNETSEG_MAX_PIXELS`, or Pillow's limit.

    Raises:
        ConfigError: the variable is no positive whole number.
    """
    text = os.environ.get("UNETSEG_MAX_PIXELS", "").replace("_", "") or str(PIXEL_LIMIT)
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"UNETSEG_MAX_PIXELS is {text!r}, expected a positive number of pixels")
    return int(text)


def allow_pixels(limit: int | None) -> None:
    """Let images have up to `limit` pixels, in this process and in those it starts from now on.

    None changes nothing.

    Raises:
        ConfigError: `limit` is not positive.
    """
    if limit is None:
        return
    if limit < 1:
        raise ConfigError(f"--max-pixels is {limit}, expected a positive number of pixels")
    os.environ["UNETSEG_MAX_PIXELS"] = str(limit)


def bomb(path: Path, pixels: int, size: str) -> ImageError:
    """The refusal of an image of `pixels` pixels; `size` is how they are told."""
    summary = f"{path} is refused as a decompression bomb: {size}; the limit is {pixel_limit()}"
    return ImageError(summary, fix=f"If you trust the file, allow it by --max-pixels {pixels}.")


def start_of(path: Path) -> bytes:
    """The first bytes of a regular file: never waits on a pipe, never reads a folder.

    Raises:
        ImageError: the file is missing, no regular file, or empty.
    """
    with explained(path):
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError(f"{path} is no regular file", fix=READ_FIX)
        with path.open("rb") as file:
            start = file.read(64)
    if not start:
        raise ImageError(f"{path} is empty (0 bytes)", fix=READ_FIX)
    return start


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn whatever a decoder says about a damaged file into an answer.

    Raises:
        ImageError: the work inside cannot read `path`.
    """
    try:
        yield
    except _BOMBS as error:
        pixels = re.search(r"\d+", str(error))
        raise bomb(path, int(pixels.group()) if pixels else 0, str(error)) from error
    except _DAMAGE as error:
        raise ImageError(f"{path} cannot be read: {_reason(error)}", fix=READ_FIX) from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "its content is no image that is known here, whatever its name says"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).split("\n")[0] or type(error).__name__
