"""Pixels in and out: any bit depth, any band count, never rescaled.

`read_image` returns a file's own values as H×W×C. TIFFs go through tifffile (Pillow would read one
band of many without a word), 16-bit colour PNGs through imagecodecs (Pillow would drop the low
byte), sound PNGs and whole JPEGs too (Pillow takes half as long again), everything else through
Pillow. A file that cannot be read whole is an `ImageError`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import (
    Image,
    Jpeg2KImagePlugin,  # noqa: F401 (Pillow knows the format once this is imported)
    TiffImagePlugin,
    WebPImagePlugin,  # noqa: F401 (the same)
)

from unetseg.data.files.jpegs import jpeg_pixels
from unetseg.data.files.limits import PIXEL_LIMIT as PIXEL_LIMIT
from unetseg.data.files.limits import allow_pixels as allow_pixels
from unetseg.data.files.limits import bomb, explained, start_of
from unetseg.data.files.limits import pixel_limit as pixel_limit
from unetseg.data.files.pngs import PNG_START, png_pixels
from unetseg.data.files.pngs import write_png as write_png
from unetseg.data.files.tiffs import TIFF_STARTS, Tiff
from unetseg.data.files.tiffs import write_tiff as write_tiff
from unetseg.errors import ImageError

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)
# Pillow may open these and no others: never TIFF, and never EPS, which runs a program.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")
_ORIENTATION = 0x0112  # the tag of EXIF and TIFF


@dataclass(frozen=True)
class Picture:
    """Pixels as a file stores them, upright, before anything is made of them.

    Attributes:
        pixels: H×W×C of the file's own type; palette indexes when there is a palette.
        palette: uint8 256×4, the RGBA colour of each index, or None.
        transparent: Whether the palette declares transparent entries.
        lossy: Whether the compression changes values (JPEG and its kin).
        format: What the content is: PNG, JPEG, TIFF, GIF, BMP, WEBP, PPM or JPEG2000.
        orientation: 1–8 as EXIF or TIFF store it; the pixels are upright already.
    """

    pixels: NDArray[Any]
    palette: NDArray[np.uint8] | None = None
    transparent: bool = False
    lossy: bool = False
    format: str = ""
    orientation: int = 1

    @property
    def tiff(self) -> bool:
        """Whether the file is a TIFF, whatever its name says."""
        return self.format == "TIFF"


def open_picture(path: Path) -> Picture:
    """Read `path` as it is stored, with its EXIF or TIFF orientation applied.

    Raises:
        ImageError: the file is missing, empty, truncated, damaged, too large, animated, a stack of
            pages, or no image.
    """
    start = start_of(path)
    with explained(path):
        return _open_tiff(path) if start[:4] in TIFF_STARTS else _open_pillow(path, start)


def read_image(path: Path) -> NDArray[Any]:
    """Read `path` as H×W×C of uint8, uint16, int16 or float32: the file's own values.

    Palettes become RGB (RGBA where they declare transparency), 1-bit images 0 and 255, alpha stays
    a band, orientation is applied. Other integers are widened or narrowed when nothing is lost;
    float64 is rounded to float32.

    Raises:
        ImageError: the file cannot be read, or its values fit none of the four types.
    """
    return image_of(open_picture(path), path)


def image_of(picture: Picture, path: Path) -> NDArray[Any]:
    """Make of a picture what `read_image` gives for its file.

    Raises:
        ImageError: the values fit none of the four types; `path` is named.
    """
    if picture.palette is not None:
        colours = picture.palette[:, : 4 if picture.transparent else 3]
        return np.ascontiguousarray(colours[picture.pixels[..., 0]])
    return np.ascontiguousarray(plain(picture.pixels, path))


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an upright image, pixels.

    Of most files from the header alone; the orientation of a PNG may stand behind its pixels.

    Raises:
        ImageError: the file is no image, or larger than the limit.
    """
    start = start_of(path)
    with explained(path):
        if start[:4] in TIFF_STARTS:
            with Tiff(path) as file:
                (height, width, _), orientation = file.shape, file.orientation
        else:
            with _opened(path) as image:
                (width, height), orientation = image.size, _exif_orientation(image)
    return (width, height) if orientation in {5, 6, 7, 8} else (height, width)


def pixel_count(path: Path) -> int:
    """Height times width, from the header alone; of a PNG `image_size` may have to read it all.

    Raises:
        ImageError: the file is no image, or larger than the limit.
    """
    start = start_of(path)
    with explained(path):
        if start[:4] in TIFF_STARTS:
            with Tiff(path) as file:
                return file.shape[0] * file.shape[1]
        with _opened(path) as image:
            return image.width * image.height


def content_format(path: Path) -> str:
    """PNG, JPEG, TIFF, GIF, BMP, WEBP, PPM or JPEG2000, by the content and not by the name.

    Raises:
        ImageError: the file is none of these.
    """
    start = start_of(path)
    if start[:4] in TIFF_STARTS:
        return "TIFF"
    with explained(path), _opened(path) as image:
        return _format(image)


def stored_orientation(path: Path) -> int:
    """The orientation, 1–8, that the EXIF or TIFF tag of a file asks for.

    Raises:
        ImageError: the file is no image.
    """
    start = start_of(path)
    with explained(path):
        if start[:4] in TIFF_STARTS:
            with Tiff(path) as file:
                return file.orientation
        with _opened(path) as image:
            return _exif_orientation(image)


def pillow_bands(path: Path) -> int | None:
    """The bands that Pillow sees in a file, which may be fewer than there are; None if it cannot.

    Raises:
        ImageError: the file is missing, no regular file, or empty.
    """
    start = start_of(path)
    try:
        with explained(path), _header(path, start) as image:
            return len(image.getbands())
    except ImageError:
        return None


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
        fix = f"Convert the images to {bands} bands, or train on images like this one."
        raise ImageError(f"{path} has {image.shape[-1]} bands, expected {bands}", fix=fix)
    return plain


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Apply the orientation (1–8) of EXIF 2.32, section 4.6.4, to H×W×C."""
    if orientation in {5, 6, 7, 8}:
        pixels = pixels.swapaxes(0, 1)
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    return pixels


def _header(path: Path, start: bytes) -> Image.Image:
    """A file opened by Pillow, TIFFs too."""
    if start[:4] in TIFF_STARTS:  # this way Pillow opens large ones too
        return TiffImagePlugin.TiffImageFile(path)
    return _opened(path)


def _opened(path: Path) -> Image.Image:
    """A file opened by Pillow; its pixels wait."""
    limit = Image.MAX_IMAGE_PIXELS = pixel_limit()
    image = Image.open(path, formats=_FORMATS)
    pixels = image.width * image.height
    if pixels > limit:
        image.close()
        raise bomb(path, pixels, f"{image.width}×{image.height} = {pixels} pixels")
    return image


def _format(image: Image.Image) -> str:
    return "JPEG" if image.format == "MPO" else str(image.format)


def _exif_orientation(image: Image.Image) -> int:
    """The orientation, which of a PNG may stand behind the pixels: they are read."""
    return int(image.getexif().get(_ORIENTATION, 1))


def _known_orientation(image: Image.Image) -> int:
    """The orientation in what was read of a file so far."""
    return int(Image.Image.getexif(image).get(_ORIENTATION, 1))


def _open_pillow(path: Path, start: bytes) -> Picture:
    with _opened(path) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":
            fix = "Save the frame you need as an image of its own."
            raise ImageError(
                f"{path} is animated: {frames} frames, expected one",
                fix=fix,
                code="several-pages",
                paths=[path],
            )
        pixels = _quick_pixels(image, path)
        if pixels is None:
            image.load()
            pixels = _pillow_pixels(image, path, start)
        orientation = _known_orientation(image)
        palette, transparent = _pillow_palette(image) if image.mode == "P" else (None, False)
        if image.format == "GIF" and palette is not None and not transparent:
            pixels, palette = _grey_gif(pixels, palette)
        kind = _format(image)
        lossy = kind in {"JPEG", "JPEG2000"} or start[12:16] in {b"VP8 ", b"VP8X"}
    return Picture(upright(pixels, orientation), palette, transparent, lossy, kind, orientation)


def _quick_pixels(image: Image.Image, path: Path) -> NDArray[Any] | None:
    """The pixels of an image that is not loaded, H×W×C, where a faster decoder gives the same."""
    pixels: NDArray[Any] | None = None
    if image.format == "PNG":
        pixels = png_pixels(path.read_bytes())
    elif image.format == "JPEG" and image.mode in {"L", "RGB"}:
        pixels = jpeg_pixels(path.read_bytes())
    return None if pixels is None else _with_bands(pixels)


def _pillow_pixels(image: Image.Image, path: Path, start: bytes) -> NDArray[Any]:
    """The pixels of a loaded image as H×W×C."""
    deep = start[:8] == PNG_START and start[24] == 16 and start[25] in (2, 4, 6)
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
    with Tiff(path) as file:
        pixels = upright(file.whole(), file.orientation)
        return Picture(
            pixels,
            palette=file.palette,
            lossy=file.lossy,
            format="TIFF",
            orientation=file.orientation,
        )


def _native(pixels: NDArray[Any]) -> NDArray[Any]:
    """The same values in this machine's byte order; 1-bit as 0 and 255."""
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _with_bands(pixels: NDArray[Any]) -> NDArray[Any]:
    return pixels if pixels.ndim == 3 else pixels[..., None]


def plain(pixels: NDArray[Any], path: Path) -> NDArray[Any]:
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
    fix = "Divide the values so that they fit 16 bits, or save them as float32."
    raise ImageError(f"{path} holds integers from {low} to {high}, too large to keep", fix=fix)


def _as_float32(pixels: NDArray[Any], path: Path) -> NDArray[Any]:
    """Round to float32; the end of the own range, which stands for "no data", becomes the new one.

    Raises:
        ImageError: other values are too large.
    """
    new, own = (float(np.finfo(dtype).max) for dtype in (np.float32, pixels.dtype))
    if own <= new:
        return pixels.astype(np.float32)
    size = np.abs(pixels)
    if bool(((size > new) & (size < own)).any()):
        fix = "Divide the values so that they fit float32."
        raise ImageError(f"{path} holds {pixels.dtype} values too large for float32", fix=fix)
    ends = size == own
    rounded = np.where(ends, np.copysign(new, pixels), pixels) if ends.any() else pixels
    return rounded.astype(np.float32)
