"""VRT mosaics name their sources: only image files of this machine, never what GDAL would fetch."""

import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

from unetseg.data.files.limits import unreadable
from unetseg.data.files.pngs import PNG_START
from unetseg.data.files.tiffs import TIFF_STARTS

VRT_START = b"<VRTDataset"
LARGEST_VRT = 2**26
"""Bytes; a mosaic beyond that is refused unread."""
_IMAGES = (*TIFF_STARTS, PNG_START, b"\xff\xd8\xff", b"EHFA_HEADER_TAG", b"GIF8", b"BM")
_JPEG_2000 = (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n")
_NAMES = frozenset({"sourcefilename", "sourcedataset", "dempath"})
_ADDRESS = re.compile(r"\s*\w\w+:")  # http:, WCS: and the like, whatever folders are called
_DEEPEST = 8  # mosaics of mosaics


def refuse_foreign_sources(path: Path, depth: int = 0) -> None:
    """Refuse a mosaic of anything but images and other mosaics that lie on this machine.

    GDAL itself would follow addresses of the network, and read any file as pixels.

    Raises:
        ImageError: a source is no image file, bands are raw bytes, or `path` is no plain XML.
    """
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
    for name in _sources(root, path):
        source = path.parent / name
        start = _start(source, name)
        if start.startswith(VRT_START):
            refuse_foreign_sources(source, depth + 1)
        elif not start.startswith((*_IMAGES, *_JPEG_2000)) and not _is_envi(source):
            raise unreadable(path, f"its source {name!r} is no image file here")


def _sources(root: ElementTree.Element, path: Path) -> Iterator[str]:
    """The sources that are named; GDAL takes attributes for elements and any case of letters."""
    for element in root.iter():
        named = {element.tag: "".join(element.itertext()), **element.attrib}
        for key, value in named.items():
            if key.lower() in _NAMES:
                yield value
            if key.lower() == "subclass" and value.lower() == "vrtrawrasterband":
                raise unreadable(path, "its bands are raw bytes of another file")


def _start(source: Path, name: str) -> bytes:
    """The first bytes of a source; none where it is no file."""
    if _ADDRESS.match(name):
        return b""
    try:
        with source.open("rb") if source.is_file() else BytesIO() as file:
            return file.read(64)
    except (OSError, ValueError):  # a name with a zero in it
        return b""


def _is_envi(source: Path) -> bool:
    headers = (source.with_suffix(".hdr"), source.with_name(f"{source.name}.hdr"))
    return any(h.is_file() and h.read_bytes()[:4] == b"ENVI" for h in headers)
