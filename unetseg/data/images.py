"""Pixels in and out: any bit depth, any band count, never rescaled.

`read_image` returns a file's own values as H×W×C. TIFFs go through tifffile (Pillow would read one
band of many without a word), 16-bit colour PNGs through imagecodecs (Pillow would drop the low
byte), everything else through Pillow. A file that cannot be read whole is an `ImageError`.
"""

import os
import stat
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from unetseg.errors import ConfigError, ImageError
from unetseg.storage import atomic_path

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)
PIXEL_LIMIT = 89_478_485  # pixels; Pillow's limit for decompression bombs
EXPANSION_LIMIT = 100  # a TIFF over the pixel limit may grow by this factor when it is unpacked

# Pillow may open these and no others: never TIFF, and never EPS, which runs a program.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_START = b"\x89PNG\r\n\x1a\n"
_ORIENTATION = 0x0112  # the tag of EXIF and TIFF
_LOSSY_TIFF = frozenset({6, 7, 33003, 33005, 34892, 34933, 34934, 50001})  # JPEG and its kin
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
_READ_MEND = "Copy the file again from its source, or take it out of the folder."
_BOMB_MEND = "If you trust the file, set UNETSEG_MAX_PIXELS to a larger number of pixels."


@dataclass(frozen=True)
class Picture:
    """Pixels as a file stores them, upright, before anything is made of them.

    Attributes:
        pixels: H×W×C of the file's own type; palette indexes when there is a palette.
        palette: uint8 256×4, the RGBA colour of each index, or None.
        transparent: Whether the palette declares transparent entries.
        lossy: Whether the compression changes values (JPEG and its kin).
        tiff: Whether the file is a TIFF, whatever its name says.
    """

    pixels: NDArray[Any]
    palette: NDArray[np.uint8] | None = None
    transparent: bool = False
    lossy: bool = False
    tiff: bool = False


def pixel_limit() -> int:
    """The most pixels an image may have: `UNETSEG_MAX_PIXELS`, or Pillow's limit.

    Raises:
        ConfigError: the variable is no positive whole number.
    """
    text = os.environ.get("UNETSEG_MAX_PIXELS", "").replace("_", "") or str(PIXEL_LIMIT)
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"UNETSEG_MAX_PIXELS is {text!r}, expected a positive number of pixels")
    return int(text)


def open_picture(path: Path) -> Picture:
    """Read `path` as it is stored, with its EXIF or TIFF orientation applied.

    Raises:
        ImageError: the file is missing, empty, truncated, damaged, too large, animated, a stack of
            pages, or no image.
    """
    start = _start_of(path)
    try:
        return _open_tiff(path) if start[:4] in _TIFF_STARTS else _open_pillow(path, start)
    except _BOMBS as error:
        raise _bomb(path, str(error)) from error
    except _DAMAGE as error:
        raise ImageError(f"{path} cannot be read: {_reason(error)}", mend=_READ_MEND) from error


def read_image(path: Path) -> NDArray[Any]:
    """Read `path` as H×W×C of uint8, uint16, int16 or float32: the file's own values.

    Palettes become RGB (RGBA where they declare transparency), 1-bit images 0 and 255, alpha stays
    a band, orientation is applied. Other integers are widened or narrowed when nothing is lost;
    float64 is rounded to float32.

    Raises:
        ImageError: the file cannot be read, or its values fit none of the four types.
    """
    picture = open_picture(path)
    if picture.palette is not None:
        colours = picture.palette[:, : 4 if picture.transparent else 3]
        return np.ascontiguousarray(colours[picture.pixels[..., 0]])
    return np.ascontiguousarray(_plain(picture.pixels, path))


def effective_bands(image: NDArray[Any]) -> int:
    """The number of bands of `image` (H×W×C) without an opaque alpha band.

    Of 2 or 4 bands of uint8 or uint16 the last is alpha when all of it is 255 or 65535.

    >>> effective_bands(np.full((2, 2, 4), 255, np.uint8))
    3
    """
    bands = int(image.shape[-1])
    if bands not in {2, 4} or image.dtype not in (np.uint8, np.uint16):
        return bands
    opaque = bool((image[..., -1] == np.iinfo(image.dtype).max).all())
    return bands - opaque


def match_bands(image: NDArray[Any], bands: int, path: Path) -> NDArray[Any]:
    """Give `image` (H×W×C, read from `path`) the number of bands asked for, losing nothing.

    An opaque alpha band is dropped, one band is repeated to three, three equal bands become one.

    Raises:
        ImageError: only a loss would do it.
    """
    if image.shape[-1] == bands:
        return image
    plain = image[..., : effective_bands(image)]
    if plain.shape[-1] == 1 and bands == 3:
        plain = np.repeat(plain, 3, axis=-1)
    elif plain.shape[-1] == 3 and bands == 1 and bool((plain == plain[..., :1]).all()):
        plain = plain[..., :1]
    if plain.shape[-1] != bands:
        mend = f"Convert the images to {bands} bands, or train on images like this one."
        raise ImageError(f"{path} has {image.shape[-1]} bands, expected {bands}", mend=mend)
    return plain


def write_png(path: Path, array: NDArray[Any], palette: Sequence[int] | None = None) -> None:
    """Write uint8 or uint16 H×W or H×W×(1–4) as PNG; with a palette (768 numbers), uint8 indexes.

    Raises:
        ImageError: a PNG cannot hold the array.
        MachineError: the file cannot be written.
    """
    array = _flat(array)
    if array.dtype not in (np.uint8, np.uint16) or array.shape[2:] not in ((), (2,), (3,), (4,)):
        raise ImageError(f"{path}: a PNG holds no {array.dtype} of shape {array.shape}")
    with atomic_path(path) as temporary:
        if palette is None:
            temporary.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(array)))
            return
        image = Image.fromarray(array.astype(np.uint8, copy=False))
        image.putpalette(bytes(palette))
        image.save(temporary, format="PNG")


def write_tiff(path: Path, array: NDArray[Any], palette: Sequence[int] | None = None) -> None:
    """Write H×W or H×W×C as deflated chunky TIFF; with a palette (768 numbers), uint8 indexes.

    Raises:
        MachineError: the file cannot be written.
    """
    array = np.ascontiguousarray(_flat(array))
    options: dict[str, Any] = {"photometric": "minisblack"}
    if palette is not None:
        colours = np.asarray(palette, np.uint16).reshape(256, 3).T * 257  # 3×256, 16 bit
        options = {"photometric": "palette", "colormap": colours}
    elif array.ndim == 3 and array.shape[-1] == 3 and array.dtype in (np.uint8, np.uint16):
        options = {"photometric": "rgb"}
    if array.ndim == 3:
        options["planarconfig"] = "contig"
    with atomic_path(path) as temporary:
        tifffile.imwrite(temporary, array, compression="zlib", metadata=None, **options)


def _start_of(path: Path) -> bytes:
    """The first bytes of a regular file: never waits on a pipe, never reads a folder."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError(f"{path} is no regular file", mend=_READ_MEND)
        with path.open("rb") as file:
            start = file.read(64)
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} cannot be read: {_reason(error)}", mend=_READ_MEND) from error
    if not start:
        raise ImageError(f"{path} is empty (0 bytes)", mend=_READ_MEND)
    return start


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "its content is no image that is known here, whatever its name says"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).split("\n")[0] or type(error).__name__


def _bomb(path: Path, size: str) -> ImageError:
    summary = f"{path} is refused as a decompression bomb: {size}; the limit is {pixel_limit()}"
    return ImageError(summary, mend=_BOMB_MEND)


def _open_pillow(path: Path, start: bytes) -> Picture:
    limit = pixel_limit()
    if limit != PIXEL_LIMIT:
        Image.MAX_IMAGE_PIXELS = limit
    Image.init()  # the formats beyond the commonest five
    with Image.open(path, formats=_FORMATS) as image:
        if image.width * image.height > limit:
            raise _bomb(path, f"{image.width}×{image.height} = {image.width * image.height} pixels")
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":
            mend = "Save the frame you need as an image of its own."
            raise ImageError(f"{path} is animated: {frames} frames, expected one", mend=mend)
        image.load()
        orientation = int(image.getexif().get(_ORIENTATION, 1))
        pixels = _pillow_pixels(image, path, start)
        palette, transparent = _pillow_palette(image) if image.mode == "P" else (None, False)
        if image.format == "GIF" and palette is not None and not transparent:
            pixels, palette = _grey_gif(pixels, palette)
        lossy = image.format in {"JPEG", "MPO", "JPEG2000"} or start[12:16] in {b"VP8 ", b"VP8X"}
    return Picture(_upright(pixels, orientation), palette, transparent, lossy)


def _pillow_pixels(image: Image.Image, path: Path, start: bytes) -> NDArray[Any]:
    """The pixels of a loaded image as H×W×C."""
    deep = start[:8] == _PNG_START and start[24] == 16 and start[25] in (2, 4, 6)
    if deep:  # 16-bit grey+alpha, RGB or RGBA
        return np.asarray(imagecodecs.png_decode(path.read_bytes()))
    if image.mode in {"CMYK", "YCbCr", "LAB", "HSV"}:
        image = image.convert("RGB")
    return _with_bands(_native(np.asarray(image)))


def _pillow_palette(image: Image.Image) -> tuple[NDArray[np.uint8], bool]:
    """The palette as 256×4 RGBA, and whether it declares transparency."""
    table = np.zeros((256, 4), np.uint8)
    table[:, 3] = 255
    colours = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    table[: len(colours), :3] = colours
    clear = image.info.get("transparency")
    if isinstance(clear, bytes):
        table[: len(clear), 3] = np.frombuffer(clear, np.uint8)
    elif isinstance(clear, int):
        table[clear, 3] = 0
    return table, clear is not None


def _grey_gif(
    pixels: NDArray[Any], palette: NDArray[np.uint8]
) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
    """Grey values instead of indexes where all colours are grey.

    GIF knows no grey, and each file may number its colours in its own way.
    """
    used = palette[np.unique(pixels), :3]
    if bool((used == used[:, :1]).all()):
        return palette[pixels, 0], None
    return pixels, palette


def _open_tiff(path: Path) -> Picture:
    with tifffile.TiffFile(path) as file:
        series = _only_series(file, path)
        page = series.keyframe
        height, width = page.imagelength, page.imagewidth
        unpacked = int(np.prod(series.shape)) * series.dtype.itemsize
        crowded = unpacked > EXPANSION_LIMIT * path.stat().st_size
        if crowded and height * width > pixel_limit():
            raise _bomb(path, f"{width}×{height} = {height * width} pixels")
        _refuse_cut_off(series, path)
        pixels = _bands_last(_native(series.asarray()), series.axes, path)
        orientation = int(page.tags.valueof(_ORIENTATION, 1))
        palette = _tiff_palette(page.colormap, pixels) if page.photometric == 3 else None
        lossy = int(page.compression) in _LOSSY_TIFF
    return Picture(_upright(pixels, orientation), palette, lossy=lossy, tiff=True)


def _only_series(file: tifffile.TiffFile, path: Path) -> tifffile.TiffPageSeries:
    """The image of a TIFF; overviews (1) and masks (4) beside it do not count."""
    images = [s for s in file.series if not int(s.keyframe.subfiletype) & 5] or file.series[:1]
    if len(images) != 1:
        raise _stack(path, f"{len(images)} different images")
    return images[0]


def _refuse_cut_off(series: tifffile.TiffPageSeries, path: Path) -> None:
    """Strips that lie beyond the end of the file would be read as zeros or not at all."""
    size = path.stat().st_size
    for page in series.pages:
        if page is None:
            continue
        ends = (o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False))
        if max(ends, default=0) > size:
            raise ImageError(f"{path} cannot be read: it is truncated", mend=_READ_MEND)


def _bands_last(pixels: NDArray[Any], axes: str, path: Path) -> NDArray[Any]:
    """Bring pixels with named axes (YX, YXS, SYX, CYX, …) to H×W×C."""
    long = [i for i, axis in enumerate(axes) if axis in "YX" or pixels.shape[i] > 1]
    kept = "".join(axes[i] for i in long)
    pixels = pixels.reshape([pixels.shape[i] for i in long])
    if sorted(kept) == ["X", "Y"]:
        return pixels.transpose(kept.index("Y"), kept.index("X"))[..., None]
    if sorted(kept) not in (["C", "X", "Y"], ["S", "X", "Y"]):
        sizes = "×".join(str(size) for size in pixels.shape)
        raise _stack(path, f"a stack of pages, axes {kept} of {sizes}")
    band = kept.index("S" if "S" in kept else "C")
    return pixels.transpose(kept.index("Y"), kept.index("X"), band)


def _stack(path: Path, what: str) -> ImageError:
    mend = "Save each page as an image of its own, or bands as samples of one page (axes YXS)."
    return ImageError(f"{path} holds {what}, expected one image", mend=mend)


def _tiff_palette(colormap: NDArray[Any] | None, pixels: NDArray[Any]) -> NDArray[np.uint8] | None:
    """The colour map (3×2ⁿ, 16 bit) of at most 256 entries as 256×4 RGBA."""
    if colormap is None or colormap.shape[-1] > 256 or pixels.dtype != np.uint8:
        return None
    table = np.zeros((256, 4), np.uint8)
    table[:, 3] = 255
    table[: colormap.shape[-1], :3] = (np.asarray(colormap) >> 8).T
    return table


def _native(pixels: NDArray[Any]) -> NDArray[Any]:
    """The same values in this machine's byte order; 1-bit as 0 and 255."""
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _with_bands(pixels: NDArray[Any]) -> NDArray[Any]:
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    return array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array


def _upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Apply the orientation (1–8) of EXIF 2.32, section 4.6.4, to H×W×C."""
    if orientation in {5, 6, 7, 8}:
        pixels = pixels.swapaxes(0, 1)
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    return pixels


def _plain(pixels: NDArray[Any], path: Path) -> NDArray[Any]:
    """Bring any number type to uint8, uint16, int16 or float32 without loss."""
    if pixels.dtype in (np.uint8, np.uint16, np.int16, np.float32):
        return pixels
    if pixels.dtype.kind == "f":
        return _as_float32(pixels, path)
    if pixels.dtype.kind not in "iu":
        raise ImageError(f"{path} holds {pixels.dtype} values, expected integers or floats")
    low, high = int(pixels.min()), int(pixels.max())
    for dtype in (np.dtype(np.uint16), np.dtype(np.int16)):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return pixels.astype(dtype)
    if max(-low, high) <= 2**24:  # every such integer is a float32
        return pixels.astype(np.float32)
    mend = "Divide the values so that they fit 16 bits, or save them as float32."
    raise ImageError(f"{path} holds integers from {low} to {high}, too large to keep", mend=mend)


def _as_float32(pixels: NDArray[Any], path: Path) -> NDArray[Any]:
    finite = pixels[np.isfinite(pixels)]
    if finite.size and float(np.abs(finite).max()) > float(np.finfo(np.float32).max):
        mend = "Divide the values so that they fit float32."
        raise ImageError(f"{path} holds {pixels.dtype} values too large for float32", mend=mend)
    return pixels.astype(np.float32)
