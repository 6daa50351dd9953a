"""Masks as class indexes, read by windows and written in the folder's own coding.

A pixel whose class stays keeps its value in the file: what a class map unites, such as numbers of
objects, is lost only where somebody draws. Large masks go strip by strip.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.data.files.georeference import Georeference
from unetseg.data.files.geotiff import RasterWriter
from unetseg.data.files.image import STRIP, ImageFile
from unetseg.data.files.pages import ARRAY_SUFFIXES, split_page
from unetseg.data.files.pngs import write_png
from unetseg.data.files.windows import Window
from unetseg.data.masks.class_map import IGNORED, ClassMap
from unetseg.data.masks.mask_file import MaskFile
from unetseg.errors import MaskError
from unetseg.serving.folder import WRITTEN, Entry, Folder


def read_index(content: bytes, classes: ClassMap, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The class indexes of this height and width, row by row and deflated; 255 ignored.

    Raises:
        MaskError: they are not so many, or of no such class.
    """
    height, width = size
    try:
        pixels = zlib.decompressobj().decompress(content, height * width + 1)
    except zlib.error as error:
        raise MaskError(f"the class indexes cannot be unpacked: {error}") from error
    if len(pixels) != height * width:
        raise MaskError(f"expected the class indexes of {width}×{height} pixels")
    index = np.frombuffer(pixels, np.uint8).reshape(size)
    strange = sorted({*np.unique(index).tolist()} - {*range(len(classes.classes)), IGNORED})
    if strange:
        raise MaskError(f"the indexes {strange} are none of the {len(classes.classes)} classes")
    return index


def written_to(mask: Path) -> Path:
    """The file for what is drawn of a mask that is there.

    Raises:
        MaskError: it is a page of a stack, or an array; or another file has the name.
    """
    if split_page(mask)[1] is not None or mask.suffix.lower() in ARRAY_SUFFIXES:
        told = f"{mask.name} is read, but pages and arrays are not written"
        raise MaskError(told, fix="Save the masks as PNG or TIFF, one file each.")
    if mask.suffix.lower() in WRITTEN:
        return mask
    path = mask.with_suffix(".png")
    if path.exists():
        told = f"{mask.name} would become {path.name}, which is there already"
        raise MaskError(told, fix="unetseg check FOLDER --fix OUT writes a copy with PNG masks.")
    return path


def save_mask(folder: Folder, entry: Entry, index: NDArray[np.uint8], window: Window) -> Entry:
    """Write class indexes into a window of an image's mask, whole or not at all.

    Around the window the mask stays; where there was none, nothing else has a truth yet, or is
    background.

    Raises:
        MaskError: the mask is of a form that is not written.
        MachineError: the folder cannot be written.
    """
    assert folder.classes is not None
    if entry.mask is not None and not isinstance(entry.mask, Path):
        raise MaskError(f"the mask of {entry.name} lies in several files", fix="Unite them first.")
    path = written_to(entry.mask) if entry.mask else folder.new_mask(entry)
    folder.begin_mask()
    with folder.keeping_given(entry):
        write_rows(path, entry, folder.classes, _patched(entry, folder.classes, index, window))
    if entry.mask and entry.mask != path:
        entry.mask.unlink()  # a copy of it is kept
    return folder.saved(entry, path)


def _patched(
    entry: Entry, classes: ClassMap, index: NDArray[np.uint8], window: Window
) -> Iterator[NDArray[Any]]:
    """The values of the new mask, strip by strip from the top."""
    rows, columns = entry.size
    if entry.mask is None:
        ignores = classes.ignore and index.shape != entry.size
        blank = IGNORED if ignores or classes.background is None else classes.background
        for top in range(0, rows, STRIP):
            strip = np.full((min(STRIP, rows - top), columns), blank, np.uint8)
            yield classes.decode(_with(strip, top, index, window))
        return
    with MaskFile(entry.mask) as file:
        file.fit(entry.size)
        if file.size != entry.size:
            raise MaskError(f"the mask of {entry.name} has another size than the image")
        raw, mapped = file.raw, classes.ignoring(file.nodata)
        keeps = raw.coding == classes.coding and raw.pixels.dtype == classes.dtype
        keeps &= not raw.lossy and not classes.snap  # else noise would look like classes
        for top, values in file.strips():
            old = mapped.encode(values, entry.mask, raw.palette)
            new = _with(old.copy(), top, index, window)
            drawn = classes.decode(new)
            changed = (old != new)[..., None] if drawn.ndim == 3 else old != new
            yield np.where(changed, drawn, values) if keeps else drawn


def _with(
    strip: NDArray[np.uint8], top: int, index: NDArray[np.uint8], window: Window
) -> NDArray[np.uint8]:
    """The rows from `top` on, with what of the window lies in them."""
    first, left, height, width = window
    begin, end = max(top, first), min(top + len(strip), first + height)
    if begin < end:
        strip[begin - top : end - top, left : left + width] = index[begin - first : end - first]
    return strip


def write_rows(path: Path, entry: Entry, classes: ClassMap, strips: Iterator[NDArray[Any]]) -> None:
    """Write a mask from its rows: a PNG, or a GeoTIFF at the place of the image."""
    if path.suffix.lower() == ".png":
        write_png(path, np.concatenate(list(strips)), classes.palette)
        return
    place, nodata = _geography(entry)
    bands, top = 3 if classes.coding == "rgb" else 1, 0
    with RasterWriter(
        path,
        *entry.size,
        bands,
        classes.dtype,
        palette=classes.palette,
        georeference=place,
        nodata=nodata,
    ) as writer:
        for strip in strips:
            writer.write(top, strip)
            top += len(strip)


def _geography(entry: Entry) -> tuple[Georeference | None, float | None]:
    """Where a mask lies on the earth, as it says itself or else its image; its no-data value."""
    with ImageFile(entry.image) as image:
        place = image.georeference
    if not isinstance(entry.mask, Path):
        return place, None
    with ImageFile(entry.mask) as mask:
        nodata = mask.nodata_code
        is_number = nodata is not None and np.isfinite(nodata) and nodata % 1 == 0
        return mask.georeference or place, nodata if is_number else None
