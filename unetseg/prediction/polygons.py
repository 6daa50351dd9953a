"""Objects → GeoJSON: the outline of each along the edges of its pixels, in map coordinates.

Coordinates are those of the image's CRS, which the file names as GeoJSON of 2008 did and as GDAL,
and so QGIS, reads it. RFC 7946 knows WGS 84 alone: a CRS without an EPSG number is turned into
that. An image without a place gives columns and rows from its upper left corner, as QuPath does.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.data.files.georeference import Georeference, quiet
from unetseg.data.masks.class_map import ClassMap
from unetseg.prediction.objects import Labels, Table
from unetseg.storage import atomic_path

Corners = NDArray[np.float64]
"""Points N×2: column and row, or x and y."""

WGS84 = 4326
LEAST_CORNERS = 4
"""Points of a ring; the last is the first again."""


def write_polygons(
    path: Path,
    labels: Labels | Path,
    table: Table,
    class_map: ClassMap,
    georeference: Georeference | None = None,
    simplify: float = 0.0,
) -> None:
    """Write the outlines of objects, a MultiPolygon each, in the order of their numbers.

    Parts of an object that share a corner alone are polygons of their own. The outlines of all
    objects are in memory at once; their pixels are not, where a file is given.

    Args:
        path: The file.
        labels: The number of the object of each pixel, 0 for none, H×W; or the file of them.
        table: What is known of the objects.
        class_map: The names of the classes.
        georeference: Where the image lies.
        simplify: How far an outline may leave the edges of its pixels, pixels.

    Raises:
        MachineError: the file cannot be written.
    """
    place, crs = frame(georeference)
    polygons = defaultdict[int, list[str]](list)
    for rings, number in _outlined(labels):
        outline, *holes = (simplified(np.array(ring), simplify) for ring in rings)
        kept = [outline, *(hole for hole in holes if len(hole) >= LEAST_CORNERS)]
        polygons[number].append(_compact([place(ring).tolist() for ring in kept]))
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(f'{{"type":"FeatureCollection",{crs}"features":[')
        for number, row in enumerate(table.rows(class_map, georeference), 1):
            shape = f'{{"type":"MultiPolygon","coordinates":[{",".join(polygons.pop(number))}]}}'
            feature = f'{{"type":"Feature","id":{number},"properties":{_compact(row)},"geometry":'
            file.write(f"{',' if number > 1 else ''}\n{feature}{shape}}}")
        file.write("\n]}\n")


def frame(georeference: Georeference | None) -> tuple[Callable[[Corners], NDArray[Any]], str]:
    """What makes coordinates of columns and rows, and the member of GeoJSON that says whose."""
    from rasterio.crs import CRS

    if georeference is None or not georeference.has_transform:
        return _whole, '"crs":null,'

    def place(corners: Corners) -> Corners:
        return georeference.at(*corners.T)

    if not georeference.crs:
        return place, '"crs":null,'
    crs = CRS.from_wkt(georeference.crs)
    if (number := crs.to_epsg()) is None:
        return lambda corners: _turned(place(corners), crs), ""
    name = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{number}"}}
    return place, f'"crs":{_compact(name)},' if number != WGS84 else ""


def simplified(ring: Corners, tolerance: float) -> Corners:
    """A ring with fewer points (Douglas and Peucker 1973), none of it further off than allowed.

    An outline that would have no area stays as it is.
    """
    from skimage.measure import approximate_polygon

    if not tolerance:
        return ring
    fewer: Corners = approximate_polygon(ring, tolerance)
    return fewer if len(fewer) >= LEAST_CORNERS else ring


def _outlined(labels: Labels | Path) -> Iterator[tuple[list[Any], int]]:
    """Outline and holes of each part of an object, and its number."""
    import rasterio
    from rasterio.features import shapes

    with quiet(), rasterio.Env():
        if not isinstance(labels, Path):
            found = shapes(labels, labels > 0)
            yield from ((shape["coordinates"], int(number)) for shape, number in found)
            return
        # GDAL reads it row by row, and as bytes for a mask; place and tolerance are for pixels.
        with rasterio.open(labels, GEOREF_SOURCES="NONE") as file:
            band = rasterio.band(file, 1)
            found = shapes(band, band._replace(dtype="uint8"))
            yield from ((shape["coordinates"], int(number)) for shape, number in found)


def _whole(corners: Corners) -> NDArray[Any]:
    is_whole = bool((corners == np.rint(corners)).all())
    return corners.astype(np.int64) if is_whole else corners


def _turned(corners: Corners, crs: Any) -> Corners:
    from rasterio.warp import transform

    return np.transpose(transform(crs, WGS84, *corners.T))


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
