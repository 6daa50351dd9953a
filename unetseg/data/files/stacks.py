"""Which pages of a TIFF are the image that is asked for: all, or those of one page of a stack.

A stack of thousands of pages is opened thousands of times, once for each of them. Where the headers
of its pages lie is looked for once, and kept.
"""

import math
import os
import struct
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray

from unetseg.data.files.limits import explained, unreadable
from unetseg.data.files.pages import several, version_of
from unetseg.errors import ImageError

_PLAIN = frozenset({"generic", "imagej", "ome", "shaped", "uniform"})
"""Kinds of series whose headers tell all; those of some microscopes are mended by tifffile."""


class _Stack(NamedTuple):
    """What a series holds that is no single image."""

    what: str
    """In words."""
    pages: int
    """How many; 0 where they cannot be told apart."""
    each: int
    """Headers of a page: several where each of its bands has one."""


def image_series(
    file: tifffile.TiffFile, path: Path, page: int | None
) -> tuple[tifffile.TiffPageSeries, list[Path]]:
    """The one image of a file, or that of a page: axes YX, YXS, SYX, CYX, ….

    With it the other files of an OME data set, which tifffile reads too.

    Raises:
        ImageError: there are several, and no page is asked for, or it is not among them; or the
            headers lead in a circle, or to other folders; `path` is named.
    """
    if page:
        version = version_of(os.fstat(file.filehandle.fileno()))
        headers = _headers(Path(file.filehandle.path), version)
        if page <= len(headers):
            return _joined([_page_at(file, *header) for header in headers[page - 1].tolist()]), []
    _refuse_circles(file, path)
    others = _other_files(file, path)
    images = _images(file)
    if len(images) > 1 and page and page <= len(images):
        images, page = [images[page - 1]], None
    if len(images) != 1:
        raise several(path, f"{len(images)} different images", (len(images),), page)
    return _one_image(images[0], path, page), others


def _one_image(
    series: tifffile.TiffPageSeries, path: Path, page: int | None
) -> tifffile.TiffPageSeries:
    """A series, which must be one image, or a page of it.

    Raises:
        ImageError: as `image_series`.
    """
    stack = _stack(series)
    if stack is None:
        if page:
            raise several(path, "one image", (), page)
        return series
    if not stack.pages:
        raise several(path, stack.what, ())
    if page is None or page > stack.pages:
        raise several(path, stack.what, (stack.pages,), page)
    frames = [series[at] for at in range((page - 1) * stack.each, page * stack.each)]
    pages = [frame.aspage() for frame in frames if frame is not None]
    if len(pages) < len(frames):
        raise unreadable(path, f"page {page} is missing")
    return _joined(pages)


@lru_cache(maxsize=256)
def _headers(path: Path, version: tuple[int, ...]) -> NDArray[np.int64]:
    """The headers of each page of a plain stack; none of any other file, or a damaged one.

    Of pages×headers×2 numbers one is where a header begins, bytes, and one which of all it is.
    """
    none = np.empty((0, 1, 2), np.int64)
    try:
        with explained(path), path.open("rb") as opened, tifffile.TiffFile(opened) as file:
            if version_of(os.fstat(opened.fileno())) != version:  # another is there by now
                return none
            _refuse_circles(file, path)
            _other_files(file, path)
            images = _images(file)
            stack = _stack(images[0]) if len(images) == 1 else None
            if stack is None or not stack.pages or images[0].kind not in _PLAIN:
                return none
            frames = [frame for frame in images[0] if frame is not None and frame.parent is file]
            headers = [(frame.offset, frame.index) for frame in frames if not frame.is_virtual]
    except ImageError:  # the reason is told where the page is read
        return none
    if len(headers) < stack.pages * stack.each:  # some are missing, or lie in other files
        return none
    return np.array(headers, np.int64).reshape(stack.pages, stack.each, 2)


def _page_at(file: tifffile.TiffFile, offset: int, number: int) -> tifffile.TiffPage:
    file.filehandle.seek(offset)
    return tifffile.TiffPage(file, number)


def _joined(pages: list[tifffile.TiffPage]) -> tifffile.TiffPageSeries:
    """The image of one page, or of several that hold a band each."""
    first, count = pages[0], len(pages)
    if count == 1:
        return tifffile.TiffPageSeries(pages, first.shape, first.dtype, first.axes)
    return tifffile.TiffPageSeries(pages, (count, *first.shape), first.dtype, f"C{first.axes}")


def _images(file: tifffile.TiffFile) -> list[tifffile.TiffPageSeries]:
    """The images of a file; overviews (1) and masks (4) beside one do not count."""
    every = file.series
    return [s for s in every if not int(s.keyframe.subfiletype) & 5] or every[:1]


def _stack(series: tifffile.TiffPageSeries) -> _Stack | None:
    """A series that is no single image, as axes YX, YXS, SYX, CYX, … would make it."""
    long = [(a, n) for a, n in zip(series.axes, series.shape, strict=True) if a in "YX" or n > 1]
    names = "".join(axis for axis, _ in long)
    leading = names.rstrip("YXSC")  # what is left are axes of pages
    are_images = names[len(leading) :].strip("YX") in ("", "C", "S")
    if are_images and not leading:
        return None
    what = f"a stack of pages, axes {names} of {'×'.join(str(n) for _, n in long)}"
    pages = math.prod(n for _, n in long[: len(leading)])
    each = len(series) // max(pages, 1)
    is_plain = are_images and not {*leading} & {*"SC"} and each * pages == len(series)
    return _Stack(what, pages if is_plain else 0, each)


def _refuse_circles(file: tifffile.TiffFile, path: Path) -> None:
    """Refuse a file whose pages lead back to earlier ones; tifffile would follow them for ever.

    Raises:
        ImageError: so it is, or there is no page; `path` is named.
    """
    tiff, handle, seen = file.tiff, file.filehandle, set[int]()
    try:
        at = file.pages.first.offset
    except IndexError:
        raise unreadable(path, "it ends before its first image") from None
    while 0 < at < handle.size:
        if at in seen:
            raise unreadable(path, "its pages lead in a circle")
        seen.add(at)
        handle.seek(at)
        try:
            (tags,) = struct.unpack(tiff.tagnoformat, handle.read(tiff.tagnosize))
            handle.seek(tags * tiff.tagsize, os.SEEK_CUR)
            (at,) = struct.unpack(tiff.offsetformat, handle.read(tiff.offsetsize))
        except (struct.error, OSError):  # cut off: the pages end here
            return


def _other_files(file: tifffile.TiffFile, path: Path) -> list[Path]:
    """The other files of an OME data set, as the header names them.

    Raises:
        ImageError: one is named with a folder, and so may be any file of this machine.
    """
    try:
        root = ElementTree.fromstring(file.ome_metadata or "<OME/>")
    except ElementTree.ParseError:  # then tifffile knows of no data set either
        return []
    own, folder = root.get("UUID"), Path(file.filehandle.dirname)
    named = [e for e in root.iter() if e.tag.endswith("UUID") and e.text != own]
    names = dict.fromkeys(name for element in named if (name := element.get("FileName")))
    names.pop(file.filename, None)
    if foreign := [name for name in names if {*name} & {"/", "\\"}]:
        raise unreadable(path, f"its data set has a file in another folder: {foreign[0]!r}")
    return [folder / name for name in names]
