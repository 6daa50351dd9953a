"""Where an image lies on the earth: what GeoTIFF tags say."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetseg.data.files.limits import explained, start_of, unreadable
from unetseg.data.files.tiffs import TIFF_STARTS, Tiff

GEOTIFF_TAGS = (33550, 33922, 34264, 34735, 34736, 34737)  # scale, tie points, transform, CRS
_NODATA = 42113
_GDAL = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": "NO"}  # no side-car files
_QUIET = threading.Lock()  # one thread at a time changes what warnings are shown
_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Georeference:
    """Where an image lies on the earth.

    Attributes:
        crs: Coordinate reference system as WKT; "" when the file has a transform but no CRS.
        transform: a b c d e f of x = a·column + b·row + c, y = d·column + e·row + f, where columns
            and rows count from the upper left corner of the upright image.
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]


def georeference(path: Path) -> tuple[Georeference | None, float | None]:
    """Where a TIFF lies on the earth, and its no-data value, from the header alone.

    The place is None when the file has neither a CRS nor a transform. Ground control points and
    side-car files (.tfw, .aux.xml) are not read. (None, None) for other formats.

    Raises:
        ImageError: the header is damaged.
    """
    if start_of(path)[:4] not in TIFF_STARTS:
        return None, None
    with explained(path):
        with Tiff(path) as file:
            if not file.has_tag(*GEOTIFF_TAGS, _NODATA):
                return None, None
            stored, size = file.orientation, file.shape[:2]
        crs, transform, nodata = _ask_gdal(path)
    if not crs and tuple(transform.ravel()[:6]) == _IDENTITY:
        return None, nodata
    a, b, c, d, e, f = (transform @ _to_stored(stored, size)).ravel()[:6].tolist()
    return Georeference(crs, (a, b, c, d, e, f)), nodata


@contextmanager
def quiet() -> Iterator[None]:
    """Let rasterio say nothing of images that lie nowhere, in one thread at a time."""
    from rasterio.errors import NotGeoreferencedWarning

    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _ask_gdal(path: Path) -> tuple[str, NDArray[np.float64], float | None]:
    """The CRS as WKT, the transform as 3×3, and the no-data value of a GeoTIFF."""
    import rasterio  # most images are placed nowhere, and need not wait for it
    from rasterio.errors import RasterioError

    try:
        with quiet(), rasterio.Env(**_GDAL), rasterio.open(path, driver="GTiff") as raster:
            crs = raster.crs.to_wkt() if raster.crs else ""
            return crs, np.array(raster.transform).reshape(3, 3), raster.nodata
    except RasterioError as error:
        raise unreadable(path, error) from error


def _to_stored(orientation: int, size: tuple[int, int]) -> NDArray[np.float64]:
    """3×3: from corners of the upright image (column, row, 1) to those of the stored one."""
    height, width = size[::-1] if orientation in {5, 6, 7, 8} else size  # upright
    matrix = np.eye(3)
    if orientation in {3, 4, 7, 8}:
        matrix = np.array([[1, 0, 0], [0, -1, height], [0, 0, 1]]) @ matrix
    if orientation in {2, 3, 6, 7}:
        matrix = np.array([[-1, 0, width], [0, 1, 0], [0, 0, 1]]) @ matrix
    return matrix[[1, 0, 2]] if orientation in {5, 6, 7, 8} else matrix
