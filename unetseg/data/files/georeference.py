"""Where an image lies on the earth: in its own tags, in its boxes, or in files beside it.

GDAL is shown one pixel with the tags of the image, and the files beside it by names that fit; only
a JPEG 2000 is opened itself.
"""

import os
import re
import threading
import warnings
from collections.abc import Container, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import tifffile
from numpy.typing import NDArray

from unetseg.data.files.limits import explained, gdal_faults, unreadable
from unetseg.data.files.pages import file_of
from unetseg.data.files.tiffs import Tiff

# scale, tie points, transform, CRS, rational polynomials
GEOTIFF_TAGS = (33550, 33922, 34264, 34735, 34736, 34737, 50844)
NODATA_TAG = 42113
_CRS = re.compile(r"[A-Za-z_]+\s*\[|EPSG:\d+$|\+")  # WKT, a number or PROJ's own words
_QUIET = threading.RLock()  # one thread at a time changes what warnings are shown
if hasattr(os, "register_at_fork"):  # a process forked meanwhile would wait for ever
    os.register_at_fork(
        before=_QUIET.acquire, after_in_parent=_QUIET.release, after_in_child=_QUIET.release
    )
_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
LARGEST_BESIDE = 2**24
"""Bytes of a file beside an image that is read for its place."""
_ENDS = (".prj", ".aux.xml", ".tab", ".rpb", "_rpc.txt", "w", ".wld")  # of files beside images


@dataclass(frozen=True)
class Georeference:
    """Where an image lies on the earth.

    Attributes:
        crs: Coordinate reference system as WKT; "" when the file has a transform but no CRS.
        transform: a b c d e f of x = a·column + b·row + c, y = d·column + e·row + f, where columns
            and rows count from the upper left corner of the upright image.
        points: Ground control points, column row x y z each, in place of the transform.
        rpcs: Rational polynomial coefficients by the names that GDAL gives them.
        lost: What is told of the place and not kept here, in words.
    """

    crs: str = ""
    transform: tuple[float, float, float, float, float, float] = _IDENTITY
    points: tuple[tuple[float, ...], ...] = ()
    rpcs: tuple[tuple[str, str], ...] = ()
    lost: str = ""

    @property
    def is_placed(self) -> bool:
        """Whether it says anything of a place."""
        return bool(self.crs or self.points or self.rpcs) or self.transform != _IDENTITY

    @property
    def has_transform(self) -> bool:
        """Whether columns and rows make map coordinates by `transform`."""
        return not self.points and (bool(self.crs) or self.transform != _IDENTITY)

    def at(self, columns: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map coordinates N×2 of columns and rows, N each, by `transform`."""
        a, b, c, d, e, f = self.transform
        return np.stack([a * columns + b * rows + c, d * columns + e * rows + f], axis=-1)

    @property
    def pixel_area(self) -> float:
        """Of a pixel, in the square of the unit of the map coordinates."""
        a, b, _, d, e, _ = self.transform
        return abs(a * e - b * d)


_Told = tuple[Georeference, float | None, frozenset[str]]
"""A place, the no-data value, and the names of the files that were read for them."""


@contextmanager
def quiet() -> Iterator[None]:
    """Let rasterio say nothing of images that lie nowhere, in one thread at a time."""
    from rasterio.errors import NotGeoreferencedWarning

    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def georeference_of(file: Any, path: Path) -> tuple[Georeference, float | None]:
    """Where an open image file lies on the earth as it is stored, and its no-data value.

    Args:
        file: A `Tiff`, `Photo`, `Jpeg2000` or `ArrayFile`.
        path: Of the image; what lies beside it counts.

    Raises:
        ImageError: the header is damaged, or a file beside it cannot be read; that is named.
    """
    beside = companions(path)
    is_boxed = getattr(file, "may_be_placed", False)
    with explained(path):
        tags = file.raw_tags(*GEOTIFF_TAGS, NODATA_TAG) if isinstance(file, Tiff) else []
        if not (tags or beside or is_boxed):
            return Georeference(), None
        kind = getattr(file, "byteorder", None), np.dtype(getattr(file, "dtype", np.float64))
        status = {name: found.stat() for name, found in beside.items()}
        files = tuple(
            (name, found, status[name].st_mtime_ns)
            for name, found in beside.items()
            if status[name].st_size <= LARGEST_BESIDE
        )
        try:
            place, nodata, read = (
                _of_boxes(path) if is_boxed else _of_pixel(tuple(tags), *kind, files)
            )
        except gdal_faults() as error:
            if is_boxed:  # others read its pixels
                return Georeference(lost=f"GDAL cannot open it: {error}"), None
            raise unreadable(path, error) from error
    if not np.isfinite(place.transform).all():
        place, read = Georeference(lost="its transform holds no numbers"), read - {"image.tfw"}
    if not place.is_placed and not is_boxed:
        unread = [found.name for name, found in beside.items() if _is_unread(name, found, read)]
        place = replace(place, lost=f"{', '.join(unread)} cannot be read" if unread else place.lost)
    if place.is_placed and not place.crs and "image.prj" in beside:
        place = _with_crs(place, beside["image.prj"])
    return place, nodata


def companions(path: Path) -> Mapping[str, Path]:
    """The files beside an image that may say where it lies, by their names beside image.tif.

    World files (.jgw, .jpgw, .wld and their kin), .prj, .aux.xml, MapInfo's .tab, and rational
    polynomials. A folder is listed once, and again when its entries have changed.
    """
    path = file_of(path)
    folder, name, stem, end = path.parent, path.name, path.stem, path.suffix[1:]
    beside: dict[str, Path] = {}
    with suppress(OSError):  # a folder that must not be listed shows nothing
        listed = _listed(folder, folder.stat().st_mtime_ns)
        for own, known in (
            (f"{name}.aux.xml", "image.tif.aux.xml"),
            (f"{stem}.{end[:1]}{end[-1:]}w", "image.tfw"),
            (f"{stem}.{end}w", "image.tfw"),
            (f"{stem}.wld", "image.tfw"),
            (f"{stem}.tab", "image.tab"),
            (f"{stem}_rpc.txt", "image_RPC.TXT"),
            (f"{stem}.rpb", "image.RPB"),
            (f"{stem}.prj", "image.prj"),
        ):
            if found := listed.get(own.lower()):
                beside.setdefault(known, folder / found)
    return beside


@lru_cache(maxsize=256)
def _listed(folder: Path, _modified: int) -> Mapping[str, str]:
    """The names of files in a folder that may place images, by themselves in small letters."""
    with os.scandir(folder) as entries:
        return {
            entry.name.lower(): entry.name
            for entry in entries
            if entry.name.lower().endswith(_ENDS) and entry.is_file()
        }


def place_of(raster: Any) -> Georeference:
    """Where GDAL says that an open raster lies."""
    points, system = raster.gcps
    system = raster.crs or system
    crs = system.to_wkt() if system else ""
    return Georeference(
        crs,
        _IDENTITY if points else tuple(raster.transform)[:6],
        tuple((point.col, point.row, point.x, point.y, point.z or 0.0) for point in points),
        tuple(raster.rpcs.to_gdal().items()) if raster.rpcs else (),
        "" if not crs or _is_held(crs) else "a GeoTIFF does not hold its coordinate system",
    )


@lru_cache(maxsize=64)
def _is_held(crs: str) -> bool:
    """Whether a GeoTIFF can say that it has this CRS, as WKT."""
    from rasterio import Affine
    from rasterio.io import MemoryFile

    options = {"height": 1, "width": 1, "count": 1, "dtype": "uint8"}
    with MemoryFile() as file:
        file.open(driver="GTiff", crs=crs, transform=Affine.scale(2), **options).close()
        content = file.read()
    with MemoryFile(content) as alone, alone.open() as raster:  # GDAL wrote the rest beside it
        return bool(raster.crs)


def _told(raster: Any) -> _Told:
    return place_of(raster), raster.nodata, frozenset(Path(name).name for name in raster.files)


def _of_boxes(path: Path) -> _Told:
    """What GDAL, which knows boxes and what lies beside them, says of a JPEG 2000."""
    import rasterio

    env = rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="TRUE")
    with quiet(), env, rasterio.open(path.absolute(), driver="JP2OpenJPEG") as raster:
        return _told(raster)


@lru_cache(maxsize=4096)
def _of_pixel(
    tags: tuple[Any, ...],
    byteorder: Any,
    dtype: np.dtype[Any],
    beside: tuple[tuple[str, Path, int], ...],
) -> _Told:
    """What GDAL says of one pixel with the tags of an image and what lies beside it.

    It is asked once: a mask often has the tags of its image, and every epoch asks again. Of a file
    beside it the name there, the path and the time of its last change are given.
    """
    from rasterio.io import MemoryFile

    pixel = BytesIO()
    with tifffile.TiffWriter(pixel, byteorder=byteorder) as writer:
        options: dict[str, Any] = {"photometric": "minisblack", "metadata": None}
        writer.write(np.zeros((1, 1), dtype), extratags=tags, **options)
    contents = {"image.tif": pixel.getvalue()}
    for name, found, _ in beside:
        with explained(found):
            contents[name] = found.read_bytes()
    folder = uuid4().hex
    with quiet(), ExitStack() as stack:
        first, *_ = [
            stack.enter_context(MemoryFile(content, dirname=folder, filename=name))
            for name, content in contents.items()
        ]
        return _told(stack.enter_context(first.open(driver="GTiff")))


def _is_unread(name: str, found: Path, read: Container[str]) -> bool:
    """Whether a file beside an image that lies nowhere is too large, or GDAL could not read it."""
    with explained(found):
        if found.stat().st_size > LARGEST_BESIDE:
            return True
        if name.endswith(".xml"):
            return not found.read_bytes().rstrip().endswith(b"</PAMDataset>")
    return name not in read and name != "image.prj"


def _with_crs(place: Georeference, path: Path) -> Georeference:
    """A place whose CRS stands in a .prj file."""
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    with explained(path), path.open(errors="replace") as file:
        text = file.read(LARGEST_BESIDE).strip()
    try:
        if not _CRS.match(text):  # GDAL would open any other text as a file, or fetch it
            raise CRSError
        crs = CRS.from_user_input(text, morph_from_esri_dialect=True).to_wkt()
    except CRSError:
        return replace(place, lost=f"{path.name} cannot be read")
    return replace(place, crs=crs)


def upright_place(place: Georeference, shape: tuple[int, ...], orientation: int) -> Georeference:
    """The place of the upright image; `place` and `shape` (height, width, …) are as stored."""
    if orientation == 1:
        return place
    to_stored = _to_stored(shape[0], shape[1], orientation)
    transform, points = place.transform, place.points
    if points:
        stored = np.array([[*point[:2], 1] for point in points])
        corners = (np.linalg.inv(to_stored) @ stored.T)[:2].T.tolist()
        points = tuple((*at, *p[2:]) for at, p in zip(corners, points, strict=True))
    elif place.crs or transform != _IDENTITY:
        matrix = np.array([*transform, 0, 0, 1]).reshape(3, 3) @ to_stored
        a, b, c, d, e, f = matrix.ravel()[:6].tolist()
        transform = a, b, c, d, e, f
    lost = "its rational polynomials fit the image as it is stored, not upright"
    lost = lost if place.rpcs else place.lost
    return replace(place, transform=transform, points=points, rpcs=(), lost=lost)


def _to_stored(height: int, width: int, orientation: int) -> NDArray[np.float64]:
    """3×3: from corners of the upright image (column, row, 1) to those of the stored one."""
    if orientation > 4:
        height, width = width, height
    to_stored = np.eye(3)
    if orientation in {3, 4, 7, 8}:
        to_stored = np.array([[1, 0, 0], [0, -1, height], [0, 0, 1]]) @ to_stored
    if orientation in {2, 3, 6, 7}:
        to_stored = np.array([[-1, 0, width], [0, 1, 0], [0, 0, 1]]) @ to_stored
    if orientation > 4:
        to_stored = to_stored[[1, 0, 2]]
    return to_stored
