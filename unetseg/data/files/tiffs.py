"""TIFFs of one image: its header, its pixels whole, any window of them, and a writer.

A window decodes only the strips or tiles that it touches, with the decoders that read the whole, so
that both give the same values.
"""

import math
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any
from xml.sax.saxutils import escape

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import TiffImagePlugin

from unetseg.data.files.limits import ORIENTATION_TAG, refuse_bomb, told_orientation, unreadable
from unetseg.data.files.once import Recent
from unetseg.data.files.stacks import image_series
from unetseg.data.files.windows import Window, cut
from unetseg.storage import atomic_path, is_file

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
CACHE_BYTES = 2**26  # decoded strips and tiles that an open file keeps, bytes

GDAL_TAG = 42112
_ARE_CODES = 'name="VALUES">codes'
_LOSSY = frozenset({6, 7, 33003, 33005, 34892, 34933, 34934, 50001})  # JPEG and its kin
_JPEG = frozenset({6, 7, 34892, 33007})  # compressions whose segments need the file's tables
_PALETTE = 3
_SCALING = re.compile(r'role="(scale|offset)">\s*([-+]?\d+\.?\d*(?:[eE][-+]?\d+)?)\s*<')
_ALPHA = ((1,), (2,))  # extra samples: with colours multiplied by it, and without


class Tiff:
    """An open TIFF that holds one image; the pixels are as stored, before its orientation.

    Attributes:
        shape: Height, width and bands.
        dtype: Number type of the pixels in this machine's byte order.
        orientation: 1–8, the tag of EXIF and TIFF.
        palette: uint8 256×4, the RGBA colour of each index, or None.
        lossy: Whether the compression changes values (JPEG and its kin).
        white_is_zero: Whether viewers show 0 of a single band of uint8 or uint16 as white; the
            pixels are as stored all the same.
        byteorder: That of the file, < or >.
        kind: The name of `dtype`.
        segment: Height and width of the pieces that are decoded at once, pixels.
        alpha: Whether the last band is declared to be alpha.
        has_mask: Whether a mask of valid pixels lies beside the image, in the same file.
        scaling: What GDAL's metadata say that the values are multiplied with, see `told_scaling`.

    Raises:
        ImageError: a stack of pages, or truncated; a decompression bomb, when it is read. What
            tifffile raises on damage comes as it is.
    """

    format = "TIFF"

    def __init__(self, file: IO[bytes], path: Path, page: int | None, max_pixels: int) -> None:
        self._opened, self._path, self._max_pixels = file, path, max_pixels
        self._file = tifffile.TiffFile(file)
        series, others = image_series(self._file, path, page)
        self._series, keyframe = series, series.keyframe
        if series.dtype is None:
            raise tifffile.TiffFileError("its number type is not known")
        self.shape = _shape(series)
        if 0 in self.shape:
            raise tifffile.TiffFileError("it has no pixels")
        self.segment = (
            min(int(keyframe.rowsperstrip), int(keyframe.imagelength)),
            int(keyframe.imagewidth),
        )
        if keyframe.is_tiled:
            self.segment = int(keyframe.tilelength), int(keyframe.tilewidth)
        _refuse_cut_off(series, path, others)
        if series.dataoffset is not None:  # any part is read by itself, however long the strips are
            self.segment = 1, 1
        self.orientation = told_orientation(lambda: keyframe.tags.valueof(ORIENTATION_TAG))
        self.palette = _palette(keyframe)
        self.lossy = int(keyframe.compression) in _LOSSY
        self.byteorder: Any = self._file.byteorder
        declared = _SCALING.findall(str(keyframe.tags.valueof(GDAL_TAG, "")))
        values = [[float(v) for role, v in declared if role == r] for r in ("scale", "offset")]
        self.scaling = told_scaling(*values)
        masks = [] if page else [s.keyframe for s in self._file.series]
        masks = [mask for mask in masks if int(mask.subfiletype) & 5 == 4]
        self.has_mask = any(mask.shape[:2] == self.shape[:2] for mask in masks)
        self._is_bits = series.dtype == np.bool_ and keyframe.photometric != _PALETTE
        stored = np.uint8 if series.dtype == np.bool_ else series.dtype.newbyteorder("=")
        self.dtype: np.dtype[Any] = np.dtype(stored)
        may_be_alpha = self.shape[2] > 1 and self.dtype in (np.uint8, np.uint16)  # as in GDAL
        self.alpha = may_be_alpha and tuple(keyframe.extrasamples)[-1:] in _ALPHA
        is_plain = self.shape[2] == 1 and self.dtype in (np.uint8, np.uint16)
        self.white_is_zero = is_plain and keyframe.photometric == 0
        self.kind = str(self.dtype)
        self._has_plain_pieces = _has_plain_pieces(series, self._file, self.shape)
        self._whole: NDArray[Any] | None = None
        self._recent = Recent[NDArray[Any]](CACHE_BYTES, lambda piece: piece.nbytes)  # decoded
        self._lock = threading.RLock()

    def _refuse_bomb(self, height: int, width: int) -> None:
        """Refuse to decode so much at once that the file is far too small for."""
        unpacked = height * width * self.shape[2] * self._series.dtype.itemsize
        refuse_bomb(self._path, (height, width), unpacked, self._max_pixels)

    def raw_tags(self, *codes: int) -> list[tuple[int, int, int, bytes, bool]]:
        """Those of the tags that the image has, byte for byte, as tifffile writes them again."""
        tags = filter(None, map(self._series.keyframe.tags.get, codes))
        return [
            (tag.code, int(tag.dtype), tag.count, content, True)
            for tag in tags
            if (content := self._bytes(tag.valueoffset, tag.valuebytecount))
        ]

    def pillow_bands(self) -> int:
        """The bands that Pillow sees, which may be fewer than there are; it may raise anything."""
        with self._lock:  # this way Pillow opens large ones too
            self._opened.seek(0)
            return len(TiffImagePlugin.TiffImageFile(self._opened).getbands())

    def close(self) -> None:
        """Close the file."""
        self._recent.clear()  # which leads back to this
        self._file.close()
        self._opened.close()

    def whole(self) -> NDArray[Any]:
        """All pixels, H×W×C; 1-bit as 0 and 255."""
        self._refuse_bomb(*self.shape[:2])
        self._refuse_bomb(*self.segment)
        with self._lock:
            pixels, axes = self._series.asarray(), self._series.axes
        long = [i for i, axis in enumerate(axes) if axis in "YX" or pixels.shape[i] > 1]
        kept = "".join(axes[i] for i in long)
        pixels = pixels.reshape([pixels.shape[i] for i in long])
        bands = [at for at, axis in enumerate(kept) if axis not in "YX"]
        pixels = pixels.transpose(kept.index("Y"), kept.index("X"), *bands)
        return self._native(pixels.reshape(self.shape))

    def window(self, window: Window) -> NDArray[Any]:
        """The pixels of `window`, which lies inside: H×W×C, the same as of `whole`."""
        if not self._has_plain_pieces:  # the few files whose pieces are no plain strips or tiles
            with self._lock:
                if self._whole is None:
                    self._whole = self.whole()
            return cut(self._whole, window)
        self._refuse_bomb(*self.segment)
        read = self._rows if self._series.dataoffset is not None else self._pieces
        samples = self._samples
        out = np.empty((window.height, window.width, self.shape[2]), self._series.dtype)
        for plane in range(self.shape[2] // samples):
            read(plane, window, out[..., plane * samples : (plane + 1) * samples])
        return self._native(out)

    @property
    def _samples(self) -> int:
        """Bands that lie together in one plane of the file."""
        return int(self._series.keyframe.shaped[-1])

    def _native(self, pixels: NDArray[Any]) -> NDArray[Any]:
        pixels = pixels.astype(self.dtype, copy=False)
        return pixels * np.uint8(255) if self._is_bits else pixels

    def _rows(self, plane: int, window: Window, out: NDArray[Any]) -> None:
        """Read rows of a file that holds all pixels in order, uncompressed."""
        full_height, full_width, _ = self.shape
        dtype = np.dtype(self._file.byteorder + self._series.dtype.char)
        pixel = dtype.itemsize * self._samples  # bytes
        first = int(self._series.dataoffset or 0)
        for row in range(window.height):
            before = (plane * full_height + window.top + row) * full_width + window.left
            content = self._bytes(first + before * pixel, window.width * pixel)
            out[row] = np.frombuffer(content, dtype).reshape(window.width, -1)

    def _pieces(self, plane: int, window: Window, out: NDArray[Any]) -> None:
        """Decode the strips or tiles that the window touches."""
        separate = int(self._series.keyframe.shaped[0])
        number, plane = divmod(plane, separate)
        (height, width), (full_height, full_width, _) = self.segment, self.shape
        down, across = -(-full_height // height), -(-full_width // width)
        for row, y, in_y in _touched(window.top, window.height, height):
            for column, x, in_x in _touched(window.left, window.width, width):
                at = number, (plane * down + row) * across + column
                piece = self._recent.get(at, partial(self._decoded, *at))
                out[y, x] = piece[in_y, in_x]

    def _decoded(self, number: int, index: int) -> NDArray[Any]:
        """One strip or tile of a page, rows×columns×samples."""
        page: Any = self._series[number]
        keyframe = page.keyframe
        size = page.databytecounts[index]
        content = self._bytes(page.dataoffsets[index], size) if size else None
        tables: dict[str, Any] = {}
        if keyframe.compression in _JPEG:
            tables = {"jpegtables": page.jpegtables, "jpegheader": keyframe.jpegheader}
        decoded, _, shape = keyframe.decode(content, index, **tables)
        if decoded is None:  # never written: sparse
            decoded = np.full(shape, keyframe.nodata, self._series.dtype)
        piece: NDArray[Any] = decoded[0]
        return piece

    def _bytes(self, offset: int, size: int) -> bytes:
        with self._lock:
            self._file.filehandle.seek(offset)
            content: bytes = self._file.filehandle.read(size)
        if len(content) < size:
            raise tifffile.TiffFileError("it is truncated")
        return content


def told_scaling(scales: Iterable[float], offsets: Iterable[float]) -> str:
    """What bands are declared to be multiplied with, and what is added, in words; or nothing.

    >>> told_scaling([0.0001, 0.0001], [0, 0])
    'scale 0.0001'
    """
    declared = {"scale": {*scales} - {1}, "offset": {*offsets} - {0}}
    words = [
        f"{what} {', '.join(f'{value:g}' for value in sorted(values))}"
        for what, values in declared.items()
        if values
    ]
    return ", ".join(words)


def write_tiff(
    path: Path,
    array: NDArray[Any],
    palette: Sequence[int] | None = None,
    *,
    white_is_zero: bool = False,
    names: Sequence[str] = (),
) -> None:
    """Write H×W or H×W×C as deflated chunky TIFF; with a palette (768 numbers), uint8 indexes.

    With `white_is_zero` viewers show 0 as white; `names` are those of the bands.

    Raises:
        MachineError: the file cannot be written.
    """
    flat = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    array = np.ascontiguousarray(flat)
    options = colour_options(array.shape, array.dtype, palette)
    if array.ndim == 3:
        options["planarconfig"] = "contig"
    if white_is_zero:
        options["photometric"] = "miniswhite"
    if array.dtype.kind == "f":  # hardly smaller at the usual level 6, in half as much time again
        options["compressionargs"] = {"level": 1}
    options["extratags"] = gdal_tags(names)
    with atomic_path(path) as temporary:
        tifffile.imwrite(temporary, array, compression="zlib", metadata=None, **options)


def colour_options(
    shape: Sequence[int], dtype: np.dtype[Any], palette: Sequence[int] | None
) -> dict[str, Any]:
    """How tifffile is told what the values H×W or H×W×C show."""
    if palette is not None:
        colours = np.asarray(palette, np.uint16).reshape(256, 3).T * 257  # 3×256, 16 bit
        return {"photometric": "palette", "colormap": colours}
    is_rgb = len(shape) == 3 and shape[2] == 3 and dtype in (np.uint8, np.uint16)
    return {"photometric": "rgb" if is_rgb else "minisblack"}


def gdal_tags(names: Sequence[str], *, are_codes: bool = False) -> list[tuple[Any, ...]]:
    """The names of bands as GDAL has them, and that values are codes although they have colours."""
    items = [
        f'<Item name="DESCRIPTION" sample="{band}" role="description">{escape(name)}</Item>'
        for band, name in enumerate(names)
    ]
    items += [f"<Item {_ARE_CODES}</Item>"] if are_codes else []
    text = f"<GDALMetadata>{''.join(items)}</GDALMetadata>".encode("ascii", "xmlcharrefreplace")
    return [(GDAL_TAG, "s", 0, text, True)] if items else []


def _refuse_cut_off(series: tifffile.TiffPageSeries, path: Path, others: Iterable[Path]) -> None:
    """Refuse a file that ends before its pixels do; they would be read as zeros or not at all.

    Raises:
        ImageError: strips or tiles lie beyond the end, or pages are in none of the `others`, the
            files of its data set; `path` is named.
    """
    for page in series.pages:
        if page is None:
            missing = [one.name for one in others if not is_file(one)]
            told = f"files of its data set are missing: {', '.join(missing)}"
            raise unreadable(path, told if missing else "pages that its header names are missing")
        pieces = zip(page.dataoffsets, page.databytecounts, strict=False)
        end = max((offset + size for offset, size in pieces if size), default=0)
        is_empty = end == 0 and page.is_contiguous  # tifffile would read the header as pixels
        if is_empty or end > page.parent.filehandle.size:
            raise unreadable(path, "it is truncated")


def _touched(start: int, length: int, side: int) -> Iterator[tuple[int, slice, slice]]:
    """The pieces of `side` that start … start+length touches: number, and what both share.

    The first slice is seen from the window, the second from the piece.
    """
    for number in range(start // side, (start + length - 1) // side + 1):
        at = number * side
        first, last = max(start, at), min(start + length, at + side)
        yield number, slice(first - start, last - start), slice(first - at, last - at)


def _shape(series: tifffile.TiffPageSeries) -> tuple[int, int, int]:
    """Height, width and bands of a series with named axes (YX, YXS, SYX, CYX, …)."""
    sizes = dict(zip(series.axes, series.shape, strict=True))
    bands = math.prod(n for axis, n in sizes.items() if axis not in "YX")
    return sizes.get("Y", 1), sizes.get("X", 1), bands


def _palette(page: tifffile.TiffPage) -> NDArray[np.uint8] | None:
    """The colour map (3×2ⁿ, 16 bit or 8) of at most 256 entries as 256×4 RGBA.

    There is none where the values are said to be codes, which the colours are only shown for.
    """
    if _ARE_CODES in str(page.tags.valueof(GDAL_TAG, "")):
        return None
    colormap = page.colormap
    if page.photometric != _PALETTE or colormap is None or colormap.shape[-1] > 256:
        return None
    if page.dtype not in (np.bool_, np.uint8):
        return None
    table = np.zeros((256, 4), np.uint8)
    table[:, 3] = 255
    colours = np.asarray(colormap)
    bits = 8 if colours.max() > 255 else 0  # old writers store 8 of them, as libtiff knows
    table[: colours.shape[-1], :3] = (colours >> bits).T
    return table


def _has_plain_pieces(
    series: tifffile.TiffPageSeries, file: tifffile.TiffFile, shape: tuple[int, int, int]
) -> bool:
    """Whether all pixels lie in plain strips or tiles of this very file, bands first or last."""
    page = series.keyframe
    samples = int(page.shaped[-1])
    planes = shape[2] // samples
    is_plain = (
        (page.imagelength, page.imagewidth) == shape[:2]
        and planes * samples == shape[2]
        and 1 in (planes, samples)
        and series.axes.index("X") == series.axes.index("Y") + 1
        and getattr(series, "transform", None) is None
    )
    if not is_plain or series.dataoffset is not None:
        return is_plain
    pages = list(series.pages)
    is_plain = page.jpegheader is None and len(pages) * int(page.shaped[0]) == planes
    return is_plain and all(one is not None and one.parent is file for one in pages)
