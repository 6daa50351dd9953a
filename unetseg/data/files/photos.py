"""The formats that Pillow knows: PNG, JPEG and the like, at the depth and speed that they have.

16-bit colour PNGs and all JPEG 2000 are decoded by imagecodecs (Pillow would drop the low byte, or
read none of many bands), sound PNGs and whole JPEGs too (Pillow takes half as long again). PGMs and
PPMs of other depths than 8 bits, which Pillow would stretch, are read here; everything else by
Pillow; HEIC with the package pillow-heif.
"""

import math
import re
import struct
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,  # noqa: F401 (Pillow knows a format once its plugin is imported)
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)
from PIL.ImageFile import ImageFile as PillowImage

from unetseg.data.files.limits import ORIENTATION_TAG, bomb, refuse_bomb, told_orientation
from unetseg.data.files.pngs import PALETTE, PNG_START
from unetseg.errors import ImageError

# Pillow may open these and no others: never TIFF, and never EPS, which runs a program.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM")
_SEEN_AS = {
    **dict.fromkeys(["CMYK", "YCbCr", "LAB", "HSV", "RGBX"], "RGB"),
    "RGBa": "RGBA",
    "PA": "RGBA",
    "La": "LA",
}  # modes that are converted
_HEIC = re.compile(rb"....ftyp(heic|heix|heim|heis|hevc|mif1|msf1)", re.DOTALL)
J2K_STARTS = (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n")
_PLACE_BOXES = (bytes.fromhex("b14bf8bd083d4b43a5ae8cd7d5a6ce03"), b"asoc")  # GeoJP2, GMLJP2
_HEADER_END = 33  # bytes: the start of a PNG, and its first chunk, which says size and kind
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # of a JPEG: not in data, and no restart


class Photo:
    """An open file of a format that Pillow knows; the pixels are as stored.

    Attributes:
        format: PNG, JPEG, GIF, BMP, WEBP, PPM or HEIF, by the content.
        lossy: Whether the compression changes values.
        shape: Height and width, and the bands that Pillow sees.
        kind: The mode that Pillow gives it.
        alpha: Whether the last band is alpha.

    Raises:
        ImageError: a decompression bomb. What Pillow raises on damage comes as it is.
    """

    def __init__(self, file: IO[bytes], start: bytes, path: Path, max_pixels: int) -> None:
        self._file, self._start, self._path = file, start, path
        self._lock = threading.Lock()
        if start[8:12] == b"WEBP":
            _refuse_large(path, webp_size(start), max_pixels)  # Pillow takes its memory at once
        self._image = image = _heic(file, path) if _HEIC.match(start) else _identified(file, start)
        _refuse_large(path, image.size, max_pixels)
        key = image.info.get("transparency")
        if image.format == "PNG" and image.mode == "L" and isinstance(key, int):
            # Of 2 and 4 bits Pillow stretches the pixels alone
            image.info["transparency"] = key * max(1, 255 // (2 ** start[24] - 1))
        self.format = "JPEG" if image.format == "MPO" else str(image.format)
        is_lossy_webp = start[12:16] in {b"VP8 ", b"VP8X"}
        self.lossy = self.format in {"JPEG", "HEIF"} or is_lossy_webp
        self.shape = image.height, image.width, len(image.getbands())
        self.kind = image.mode
        self.alpha = image.has_transparency_data

    @property
    def orientation(self) -> int:
        """1–8 in what was read so far; of a PNG it may stand behind the pixels."""
        return told_orientation(lambda: Image.Image.getexif(self._image).get(ORIENTATION_TAG))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def whole(self, blank: int | None) -> tuple[NDArray[Any], NDArray[np.uint8] | None, bool]:
        """The pixels H×W×C, the palette as 256×4 RGBA, and whether it declares transparency.

        The entry `blank` of the palette is transparent, whatever the file declares.

        Raises:
            ImageError: the file is animated.
        """
        image = self._image
        with self._lock:
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format not in {"MPO", "HEIF"}:
                raise ImageError(
                    f"{self._path} is animated: {frames} frames, expected one",
                    fix="Save the frame you need as an image of its own.",
                    code="several-pages",
                    paths=[self._path],
                )
            pixels = self._decoded()
        return coloured(image, pixels, blank)

    def _decoded(self) -> NDArray[Any]:
        """The pixels, H×W or H×W×C, by the fastest decoder that gives all of them."""
        image, start = self._image, self._start
        quick: NDArray[Any] | None = None
        if image.format == "PNG":
            quick = png_pixels(self._content())
        elif image.format == "JPEG" and image.mode in {"L", "RGB"}:
            quick = jpeg_pixels(self._content())
        elif highest := pnm_highest(image):
            quick = pnm_pixels(image, highest, self._content())
        if quick is not None:
            return quick
        image.load()
        if start[:8] == PNG_START and start[24] == 16 and start[25] in (2, 4, 6):
            return np.asarray(imagecodecs.png_decode(self._content()))  # colour or grey+alpha
        pixels = pillow_pixels(image)
        return pixels.astype(np.uint16) if image.mode == "I" else pixels  # 16 bits in all formats

    def _content(self) -> bytes:
        """All bytes; Pillow finds the file where it left it."""
        at = self._file.tell()
        self._file.seek(0)
        content = self._file.read()
        self._file.seek(at)
        return content


class Jpeg2000:
    """An open JPEG 2000 file, whatever wrote it; the pixels are as stored.

    Attributes:
        shape: Height, width and bands; a palette is not applied yet.
        kind: Size, bands and bits, as the header has them (ISO 15444-1, annex A.5.1).
        may_be_placed: Whether it has a box that may say where it lies (GeoJP2, GMLJP2).

    Raises:
        ImageError: a decompression bomb.
    """

    format, lossy, orientation, alpha, palette = "JPEG2000", True, 1, False, None

    def __init__(self, file: IO[bytes], path: Path, max_pixels: int) -> None:
        self._file, self._path = file, path
        content = file.read()
        at = content.index(J2K_STARTS[0]) + 8
        right, bottom, left, top = struct.unpack_from(">4I", content, at)
        (bands,) = struct.unpack_from(">H", content, at + 32)
        self.shape = bottom - top, right - left, bands
        self.kind = content[at : at + 34 + 3 * bands].hex()
        self.may_be_placed = any(box in content for box in _PLACE_BOXES)
        _refuse_large(path, self.shape[1::-1], max_pixels)
        refuse_bomb(path, self.shape[:2], self.shape[0] * self.shape[1] * bands, max_pixels)

    def whole(self) -> NDArray[Any]:
        """The pixels H×W×C."""
        self._file.seek(0)
        pixels = np.asarray(imagecodecs.jpeg2k_decode(self._file.read()))
        return pixels.reshape(*pixels.shape[:2], -1)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def webp_size(start: bytes) -> tuple[int, int]:
    """Width and height of a WebP by its first 30 bytes (RFC 9649, sections 2.5, 2.7 and 3.4)."""
    if start[12:16] == b"VP8X":
        width, height = (int.from_bytes(start[at : at + 3], "little") for at in (24, 27))
        return width + 1, height + 1
    if start[12:16] == b"VP8L":
        bits = int.from_bytes(start[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = (int.from_bytes(start[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    return width, height


def _refuse_large(path: Path, size: tuple[int, int], limit: int) -> None:
    width, height = size
    if width * height > limit:
        told = f"{width}×{height} = {width * height} pixels"
        raise bomb(path, width * height, told, limit)


def pillow_pixels(image: Image.Image) -> NDArray[Any]:
    """The pixels of an image in memory, H×W or H×W×C, as a file that it is saved to has them.

    Palette indexes stay, 1 bit becomes 0 and 255, the colours of print become RGB.
    """
    mode = _SEEN_AS.get(image.mode)
    pixels = np.asarray(image.convert(mode) if mode else image)
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def coloured(
    image: Image.Image, pixels: NDArray[Any], blank: int | None = None
) -> tuple[NDArray[Any], NDArray[np.uint8] | None, bool]:
    """Its pixels H×W×C, its palette as 256×4 RGBA, and whether that declares transparency.

    Where one colour or grey stands for transparency, alpha becomes the last band. The entry `blank`
    of a palette is transparent.
    """
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    if image.mode != "P":
        key = image.info.get("transparency")
        if isinstance(key, (int, tuple)) and image.getbands()[-1] != "A":
            clear = np.array(255 * bool(key) if image.mode == "1" else key)
            is_opaque = (pixels != clear).any(axis=-1, keepdims=True)
            opaque = pixels.dtype.type(np.iinfo(pixels.dtype).max)
            pixels = np.concatenate([pixels, is_opaque * opaque], axis=-1)
        return pixels, None, False
    palette, transparent = _palette(image)
    if blank is not None:
        palette[blank, 3], transparent = 0, True
    if image.format == "GIF" and not transparent:
        # GIF knows no grey, and each file may number its colours in its own way.
        used = palette[np.unique(pixels), :3]
        if bool((used == used[:, :1]).all()):
            return palette[pixels, 0], None, False
    return pixels, palette, transparent


def _heic(file: IO[bytes], path: Path) -> PillowImage:
    """The image in a HEIC file.

    Raises:
        ImageError: the package that reads it is not installed.
    """
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        summary, fix = f"{path} is a HEIC photo", "Read HEIC: pip install 'unetseg[heic]'"
        raise ImageError(summary, fix=fix, code="no-heif", paths=[path]) from error
    image: PillowImage = HeifImageFile(file)
    return image


def _identified(file: IO[bytes], start: bytes) -> PillowImage:
    """The image as Pillow knows it by its header.

    Its own limit on pixels, a global of the process, is not asked.
    """
    for name in _FORMATS:
        factory, accepts = Image.OPEN[name]
        try:
            if accepts is not None and accepts(start[:16]) is True:
                file.seek(0)
                return factory(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue
    raise UnidentifiedImageError


def _palette(image: Image.Image) -> tuple[NDArray[np.uint8], bool]:
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


def png_pixels(content: bytes) -> NDArray[Any] | None:
    """The pixels of a PNG (uint8 or uint16, H×W or H×W×C) if it is sound and plain, or None.

    Sound is a file whose chunks are all there with the right checksums. Plain is one of 8 or 16
    bits without palette and interlacing, with nothing behind the pixels, where an orientation
    could stand. libpng is given the pixels alone: other chunks change none and only make it warn.
    """
    chunks, at = [], len(PNG_START)  # kind and place of each
    while at + 12 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4])
        checksum = int.from_bytes(content[end - 4 : end])
        if end > len(content) or checksum != imagecodecs.deflate_crc32(content[at + 4 : end - 4]):
            return None
        chunks.append((content[at + 4 : at + 8], at))
        at = end
    kinds = [kind for kind, _ in chunks]
    pieces = kinds.count(b"IDAT")
    if at != len(content) or not pieces or kinds[-pieces - 1 :] != [*[b"IDAT"] * pieces, b"IEND"]:
        return None
    depth, colour_type, interlaced = content[24], content[25], content[28]
    if depth < 8 or colour_type == PALETTE or interlaced:
        return None
    start = chunks[-pieces - 1][1]
    with suppress(RuntimeError, ValueError):  # sound and yet wrong: for others to judge
        return np.asarray(imagecodecs.png_decode(content[:_HEADER_END] + content[start:]))
    return None


def pnm_highest(image: PillowImage) -> int | None:
    """The highest number that a PGM or PPM says it may hold, where Pillow would stretch it."""
    if image.format != "PPM" or image.mode not in {"L", "I", "RGB"} or not image.tile:
        return None
    tile: Any = image.tile[0]
    is_stretched = tile.codec_name.startswith("ppm") and tile.args[-1] != 255
    return int(tile.args[-1]) if is_stretched else None


def pnm_pixels(image: PillowImage, highest: int, content: bytes) -> NDArray[Any]:
    """The numbers of a PGM or PPM as stored, H×W×C: uint8, or uint16 where 256 is allowed.

    Source: the manual pages pgm(5) and ppm(5) of Netpbm.

    Raises:
        ValueError: there are too few, or one is above the highest.
    """
    shape = image.height, image.width, len(image.getbands())
    decoder, _, start, _ = image.tile[0]
    count, content = math.prod(shape), content[start:]
    if decoder == "ppm_plain":
        words = re.sub(rb"#[^\r\n]*", b"", content).split(None, count)[:count]
        numbers = np.array([int(word) for word in words])
    else:
        stored = np.dtype(">u2" if highest > 255 else "u1")
        whole = len(content) // stored.itemsize
        numbers = np.frombuffer(content, stored, min(count, whole))
    if len(numbers) < count:
        raise ValueError("it is truncated")
    low, high = int(numbers.min()), int(numbers.max())
    if low < 0 or high > highest:
        raise ValueError(f"it holds numbers from {low} to {high}, its header allows {highest}")
    return numbers.astype(np.uint16 if highest > 255 else np.uint8).reshape(shape)


def jpeg_pixels(content: bytes) -> NDArray[np.uint8] | None:
    """The pixels of a whole grey or RGB JPEG, uint8 H×W or H×W×3, or None.

    They are those that Pillow gives, which uses the same library but copies them twice. It judges
    what is not whole, since the decoder here would fill up what is missing. Whole is a chain of
    markers, most with a segment of known length behind them, that leads to the end of the file
    (ITU-T T.81, 1992, annex B).
    """
    at = 2
    while marker := _MARKER.search(content, at):
        at = marker.end()
        if marker.group() != b"\xff\xd9":
            at += int.from_bytes(content[at : at + 2])
        elif at != len(content):
            return None
        else:
            with suppress(RuntimeError, ValueError):  # whole and yet wrong: for others to judge
                return np.asarray(imagecodecs.jpeg8_decode(content))
    return None
