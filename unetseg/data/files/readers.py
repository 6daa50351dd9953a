"""Which reader a file is given to: its first bytes decide, whatever its name says.

TIFFs go through tifffile (Pillow would read one band of many without a word), arrays through NumPy,
other rasters through GDAL, everything else through Pillow or faster decoders that give the same.
"""

import stat
from pathlib import Path

from unetseg.data.files.arrays import NPY_START, ZIP_START, ArrayFile
from unetseg.data.files.limits import LFS_START, READ_FIX
from unetseg.data.files.pages import split_page
from unetseg.data.files.photos import J2K_STARTS, Jpeg2000, Photo
from unetseg.data.files.rasters import Raster, raster_driver
from unetseg.data.files.tiffs import TIFF_STARTS, Tiff
from unetseg.errors import ImageError

Windowed = Tiff | ArrayFile | Raster
"""An open file that gives windows of its pixels."""
WINDOWED_FORMATS = frozenset({"TIFF", "NPY", "VRT", "HFA", "ENVI"})
"""Formats whose windows are read without the rest."""
Opened = Windowed | Photo | Jpeg2000
"""An open file, whose header was read."""


def open_file(path: Path, max_pixels: int) -> Opened:
    """Open an image file, or a page of one, see `pages.py`.

    Raises:
        ImageError: it is no image file, or one that its reader refuses. What the system and the
            decoders raise comes as it is.
    """
    whole, page = split_page(path)
    if not stat.S_ISREG(whole.stat().st_mode):  # a pipe would keep us waiting
        raise _unusable(path, "is no regular file", "no-regular-file")
    file = whole.open("rb")
    try:
        start = file.read(64)
        file.seek(0)
        _refuse_start(path, start)
        if start.startswith((NPY_START, ZIP_START)):
            return ArrayFile(file, start, path, page, max_pixels)
        if start[:4] in TIFF_STARTS:
            if whole.is_symlink():  # tifffile looks for the rest of a data set beside it
                file.close()
                file = whole.resolve().open("rb")
            return Tiff(file, path, page, max_pixels)
        if driver := raster_driver(whole, start):
            file.close()
            return Raster(whole, driver, max_pixels)
        if start.startswith(J2K_STARTS):
            return Jpeg2000(file, whole, max_pixels)
        return Photo(file, start, whole, max_pixels)
    except BaseException:
        file.close()
        raise


def _refuse_start(path: Path, start: bytes) -> None:
    """Refuse what is no image file by its first bytes."""
    if not start:
        raise _unusable(path, "is empty (0 bytes)", "empty-file")
    if start.startswith(LFS_START):
        raise _unusable(path, "is a pointer of Git LFS", "lfs-pointer", "git lfs pull")


def _unusable(path: Path, what: str, code: str, fix: str = READ_FIX) -> ImageError:
    return ImageError(f"{path} {what}", fix=fix, code=code, paths=[path])
