"""Where an image lies on the earth: what GeoTIFF tags say."""

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from unetseg.data.files.limits import explained, unreadable
from unetseg.data.files.tiffs import Tiff

GEOTIFF_TAGS = (33550, 33922, 34264, 34735, 34736, 34737)  # scale, tie points, transform, CRS
NODATA_TAG = 42113
_QUIET = threading.Lock()  # one thread at a time changes what warnings are shown
_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Georeference:
    """Where an image lies on the earth.

    Attributes:
        crs: Coordinate reference system as WKT; "" when the file has a transform but no CRS.
        transform: a b c d e f of x = a·column + b·row + c, y = d·column + e·row + f, where columns
            and rows count from the upper left corner of the upright image.
        points: Ground control points, column row x y z each, in place of the transform.
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]
    points: tuple[tuple[float, ...], ...] = ()


@contextmanager
def quiet() -> Iterator[None]:
    """Let rasterio say nothing of images that lie nowhere, in one thread at a time."""
    from rasterio.errors import NotGeoreferencedWarning

    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def georeference_of(file: Tiff, path: Path) -> tuple[Georeference | None, float | None]:
    """Where an open TIFF lies on the earth, and its no-data value.

    The georeference is None when the file has neither a CRS nor a transform nor ground control
    points. Side-car files (.tfw, .aux.xml) are not read. GDAL is shown one pixel with the file's
    tags.

    Raises:
        ImageError: the header is damaged; `path` is named.
    """
    from rasterio.errors import RasterioError
    from rasterio.io import MemoryFile

    with explained(path):
        tags = file.raw_tags(*GEOTIFF_TAGS, NODATA_TAG)
        if not tags:
            return None, None
        pixel = BytesIO()
        with tifffile.TiffWriter(pixel, byteorder=file.byteorder) as writer:
            options: dict[str, Any] = {"photometric": "minisblack", "metadata": None}
            writer.write(np.zeros((1, 1), file.dtype), extratags=tags, **options)
        try:
            with quiet(), MemoryFile(pixel.getvalue()) as one, one.open(driver="GTiff") as raster:
                system = raster.crs or raster.gcps[1]
                crs, points = system.to_wkt() if system else "", raster.gcps[0]
                transform, nodata = np.array(raster.transform).reshape(3, 3), raster.nodata
        except RasterioError as error:
            raise unreadable(path, error) from error
    if not crs and not points and tuple(transform.ravel()[:6]) == _IDENTITY:
        return None, nodata
    to_stored = _to_stored(file)
    if points:
        return Georeference(crs, _IDENTITY, _upright_points(points, to_stored)), nodata
    a, b, c, d, e, f = (transform @ to_stored).ravel()[:6].tolist()
    return Georeference(crs, (a, b, c, d, e, f)), nodata


def _upright_points(
    points: Sequence[Any], to_stored: NDArray[np.float64]
) -> tuple[tuple[float, ...], ...]:
    """Ground control points as GDAL has them, on the upright image: column row x y z each."""
    stored = np.array([[point.col, point.row, 1] for point in points])
    corners = (np.linalg.inv(to_stored) @ stored.T)[:2].T.tolist()
    return tuple((*at, p.x, p.y, p.z or 0.0) for at, p in zip(corners, points, strict=True))


def _to_stored(file: Tiff) -> NDArray[np.float64]:
    """3×3: from corners of the upright image (column, row, 1) to those of the stored one."""
    height, width = file.shape[1::-1] if file.orientation in {5, 6, 7, 8} else file.shape[:2]
    to_stored = np.eye(3)
    if file.orientation in {3, 4, 7, 8}:
        to_stored = np.array([[1, 0, 0], [0, -1, height], [0, 0, 1]]) @ to_stored
    if file.orientation in {2, 3, 6, 7}:
        to_stored = np.array([[-1, 0, width], [0, 1, 0], [0, 0, 1]]) @ to_stored
    if file.orientation in {5, 6, 7, 8}:
        to_stored = to_stored[[1, 0, 2]]
    return to_stored
