"""NumPy arrays as images: .npy, read from disk as far as it is looked at, and .npz of one array.

H×W and H×W×C are read as they are, C×H×W is turned; N×H×W×C is a stack of pages, and so is N×H×W
with more pages than images have bands. Nothing is ever unpickled.
"""

import math
import os
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from unetseg.data.files.limits import refuse_bomb, unreadable
from unetseg.data.files.pages import several
from unetseg.data.files.windows import Window
from unetseg.text import plural

NPY_START, ZIP_START = b"\x93NUMPY", b"PK\3\4"
MOST_COLOURS = 4  # an axis so short, first or last, is always one of bands
_MOST_BANDS = 32  # an axis with more is none of bands
_CHUNK = 2**18  # bytes of an .npz that are unpacked and passed over at once


class ArrayFile:
    """An open file that holds one array.

    Attributes:
        format: NPY or NPZ.
        shape: Height, width and bands.
        dtype: Number type of the pixels in this machine's byte order; bool counts as uint8.
        pages: Images in the file if its first axis is one of pages, whether or not it must be.

    Raises:
        ImageError: a stack of pages, no image, a bomb, pickled, or shorter than its header says.
    """

    lossy, orientation, palette, alpha = False, 1, None, False

    def __init__(
        self, file: IO[bytes], start: bytes, path: Path, page: int | None, max_pixels: int
    ) -> None:
        self._file = file
        self._is_npy = start.startswith(NPY_START)
        self.format = "NPY" if self._is_npy else "NPZ"
        shape, fortran, dtype = self._header(path)
        self.pages = shape[0] if len(shape) > 3 or _axes(shape) in ("CYX", "NYX") else 1
        if page and (page > self.pages or self.pages == 1):
            raise several(path, plural(self.pages, "page"), shape[:1], page)
        inner = shape[1:] if page else shape
        axes, told = _axes(inner), "×".join(map(str, inner))
        if axes.startswith("N"):
            raise several(path, f"a stack of pages, an array of {told}", shape[:1])
        if not axes or 0 in inner or dtype.kind not in "biuf":
            reason = f"it holds an array of {dtype} of {told or 'no axes'}"
            raise unreadable(path, f"{reason}, expected numbers of height×width(×bands)")
        self._turned = axes == "CYX"
        self.shape = (*inner[1:], inner[0]) if self._turned else (*inner, 1)[:3]
        self.kind, self._stored = f"{dtype} {shape} {page}", dtype
        self.dtype = np.dtype(np.uint8) if dtype == np.bool_ else dtype.newbyteorder("=")
        self.segment = 1, self.shape[1]
        height, width, bands = self.shape
        held = math.prod(shape) if fortran and not self._is_npy else height * width * bands
        refuse_bomb(path, (height, width), held * dtype.itemsize, max_pixels)
        self._layout: tuple[Any, ...] = shape, "F" if fortran else "C", page

    def _header(self, path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
        """Shape, order and type of the array, whose values begin where the file stands then."""
        size = os.fstat(self._file.fileno()).st_size
        if self._is_npy:
            values: IO[bytes] = self._file
        else:
            archive = zipfile.ZipFile(self._file)
            names = archive.namelist()
            if len(names) != 1:
                raise several(path, f"{len(names)} arrays ({', '.join(names[:9])})", ())
            self._member, size = (archive, names[0]), archive.getinfo(names[0]).file_size
            values = archive.open(names[0])
        read = {1: npy.read_array_header_1_0, 2: npy.read_array_header_2_0}
        version = npy.read_magic(values)
        shape, fortran, dtype = read.get(version[0], read[2])(values)
        self._offset = values.tell()
        if dtype.hasobject:
            raise unreadable(path, "it holds Python objects, which are never unpickled")
        if self._offset + math.prod(shape) * dtype.itemsize > size:
            raise unreadable(path, f"it is truncated: its header promises {dtype} of {shape}")
        return shape, fortran, dtype

    def whole(self) -> NDArray[Any]:
        """All pixels, H×W×C; booleans as 0 and 255."""
        return self.window(Window(0, 0, *self.shape[:2]))

    def window(self, window: Window) -> NDArray[Any]:
        """The pixels of `window`, which lies inside: H×W×C, the same as of `whole`."""
        shape, order, page = self._layout
        if self._is_npy:
            array: Any = np.memmap(self._file, self._stored, "r", self._offset, shape, order)
            pixels = array[page - 1] if page else array
        else:
            pixels = self._unpacked()
        pixels = np.moveaxis(pixels, 0, -1) if self._turned else pixels
        part = pixels[window.slices].reshape(window.height, window.width, -1)
        part = np.array(part, self.dtype)
        return part * np.uint8(255) if self._stored == np.bool_ else part

    def _unpacked(self) -> NDArray[Any]:
        """The array of an .npz, or its page; of a stack no other page is held meanwhile."""
        shape, order, page = self._layout
        archive, name = self._member
        with archive.open(name) as values:
            if not page or order == "F":
                array: NDArray[Any] = npy.read_array(values, allow_pickle=False)
                return array[page - 1] if page else array
            size = math.prod(shape[1:]) * self._stored.itemsize
            before = self._offset + (page - 1) * size
            for at in range(0, before, _CHUNK):
                values.read(min(_CHUNK, before - at))
            content = values.read(size)
            while values.read(_CHUNK):  # the checksum is looked at in the end
                pass
        return np.frombuffer(content, self._stored).reshape(shape[1:])

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _axes(shape: tuple[int, ...]) -> str:
    """The axes of an array, as TIFFs name them; nothing where it can be no image.

    >>> _axes((64, 64, 3)), _axes((12, 64, 64)), _axes((64, 64, 12)), _axes((40, 64, 64))
    ('YXC', 'CYX', 'YXC', 'NYX')
    """
    if len(shape) != 3:
        return {2: "YX", 4: "N…"}.get(len(shape), "")
    first, middle, last = shape
    if last <= MOST_COLOURS or (last <= _MOST_BANDS and last < min(first, middle)):
        return "YXC"
    return "CYX" if first <= MOST_COLOURS or first <= min(_MOST_BANDS, middle, last) else "NYX"
