"""Where an image lies on the earth: what GeoTIFF tags say."""

import threading
import warnings
from collections.abc import Iterator
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
_NODATA = 42113
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


def georeference_of(file: Tiff, path: Path) -> tuple[Georeference | None, float | None]:
    """Where an open TIFF lies on the earth, and its no-data value.

    The georeference is None when the file has neither a CRS nor a transform. Ground control points
    and side-car files (.tfw, .aux.xml) are not read. GDAL is shown one pixel with the file's tags.

    Raises:
        ImageError: the header is damaged; `path` is named.
    """
    with explained(path):
        tags = file.raw_tags(*GEOTIFF_TAGS, _NODATA)
        if not tags:
            return None, None
        pixel = BytesIO()
        with tifffile.TiffWriter(pixel, byteorder=file.byteorder) as writer:
            options: dict[str, Any] = {"photometric": "minisblack", "metadata": None}
            writer.write(np.zeros((1, 1), file.dtype), extratags=tags, **options)
        crs, transform, nodata = _ask_gdal(pixel.getvalue(), path)
    if not crs and tuple(transform.ravel()[:6]) == _IDENTITY:
        return None, nodata
    a, b, c, d, e, f = (transform @ _to_stored(file.orientation, file.shape)).ravel()[:6].tolist()
    return Georeference(crs, (a, b, c, d, e, f)), nodata


@contextmanager
def quiet() -> Iterator[None]:
    """Let rasterio say nothing of images that lie nowhere, in one thread at a time."""
    from rasterio.errors import NotGeoreferencedWarning

    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _ask_gdal(content: bytes, path: Path) -> tuple[str, NDArray[np.float64], float | None]:
    """The CRS as WKT, the transform as 3×3, and the no-data value of the bytes of a GeoTIFF."""
    from rasterio.errors import RasterioError
    from rasterio.io import MemoryFile

    try:
        with quiet(), MemoryFile(content) as memory, memory.open(driver="GTiff") as raster:
            crs = raster.crs.to_wkt() if raster.crs else ""
            return crs, np.array(raster.transform).reshape(3, 3), raster.nodata
    except RasterioError as error:
        raise unreadable(path, error) from error


def _to_stored(orientation: int, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """3×3: from corners of the upright image (column, row, 1) to those of the stored one."""
    height, width = shape[1::-1] if orientation in {5, 6, 7, 8} else shape[:2]  # upright
    matrix = np.eye(3)
    if orientation in {3, 4, 7, 8}:
        matrix = np.array([[1, 0, 0], [0, -1, height], [0, 0, 1]]) @ matrix
    if orientation in {2, 3, 6, 7}:
        matrix = np.array([[-1, 0, width], [0, 1, 0], [0, 0, 1]]) @ matrix
    return matrix[[1, 0, 2]] if orientation in {5, 6, 7, 8} else matrix
