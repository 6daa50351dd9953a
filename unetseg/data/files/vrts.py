"""VRT mosaics name their sources: only image files of this machine, never what GDAL would fetch."""

import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

from unetseg.data.files.limits import unreadable
from unetseg.data.files.photos import J2K_STARTS
from unetseg.data.files.pngs import PNG_START
from unetseg.data.files.tiffs import TIFF_STARTS

VRT_START, HFA_START = b"<VRTDataset", b"EHFA_HEADER_TAG"
LARGEST_VRT = 2**26
"""Bytes; a mosaic beyond that is refused unread."""
_IMAGES = (*TIFF_STARTS, *J2K_STARTS, PNG_START, HFA_START, b"\xff\xd8\xff", b"GIF8", b"BM")
_NAMES = frozenset({"sourcefilename", "sourcedataset", "dempath"})
_ADDRESS = re.compile(r"\s*\w\w+:")  # http:, WCS: and the like, whatever folders are called
_DEEPEST = 8  # mosaics of mosaics


def refuse_foreign_sources(path: Path) -> None:
    """Refuse a mosaic of anything but images and other mosaics that lie on this machine.

    GDAL itself would follow addresses of the network, and read any file as pixels.

    Raises:
        ImageError: a source is no image file, bands are raw bytes, or `path` is no plain XML.
    """
    _refuse(path, 0, set())


def _refuse(path: Path, depth: int, images: set[Path]) -> None:
    """The same of a mosaic that is so deep in others; `images` are known to be that, and grow."""
    if depth > _DEEPEST:
        raise unreadable(path, "it is a mosaic of mosaics without end")
    if path.stat().st_size > LARGEST_VRT:
        raise unreadable(path, f"it is a mosaic of more than {LARGEST_VRT} bytes")
    content = path.read_bytes()
    if b"<!DOCTYPE" in content:
        raise unreadable(path, "it declares a document type")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise unreadable(path, error) from error
    for name in dict.fromkeys(_sources(root, path)):
        # GDAL takes names from where a link to the mosaic leads, or from the working folder.
        places = {path.resolve().parent / name, Path(name).absolute()}
        found = [] if _ADDRESS.match(name) else [place for place in places if first_bytes(place)]
        if not found or not all(_is_image(place, depth, images) for place in found):
            raise unreadable(path, f"its source {name!r} is no image file here")


def _is_image(source: Path, depth: int, images: set[Path]) -> bool:
    if source in images:
        return True
    start = first_bytes(source)
    if start.startswith(VRT_START):
        _refuse(source, depth + 1, images)
    if start.startswith((VRT_START, *_IMAGES)) or has_envi_header(source):
        images.add(source)
    return source in images


def _sources(root: ElementTree.Element, path: Path) -> Iterator[str]:
    """The sources that are named; GDAL takes attributes for elements and any case of letters."""
    for element in root.iter():
        named = {element.tag: "".join(element.itertext()), **element.attrib}
        for key, value in named.items():
            if key.lower() in _NAMES:
                yield value
            if key.lower() == "subclass" and value.lower() == "vrtrawrasterband":
                raise unreadable(path, "its bands are raw bytes of another file")


def first_bytes(path: Path) -> bytes:
    """Those that tell what a file is; none where it is no file, or cannot be read."""
    try:
        with path.open("rb") if path.is_file() else BytesIO() as file:
            return file.read(64)
    except (OSError, ValueError):  # a name with a zero in it
        return b""


def has_envi_header(path: Path) -> bool:
    """Whether the header of an ENVI file lies beside it."""
    headers = (path.with_suffix(".hdr"), path.with_name(f"{path.name}.hdr"))
    return any(first_bytes(header).startswith(b"ENVI") for header in headers)
