"""Masks that lie elsewhere on the earth than their image, by what the two files say."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.checks.alignment import offset
from unetseg.checks.finding import Finding, Kind, Line, by_kind
from unetseg.data.facts.survey import Survey
from unetseg.data.files.georeference import Georeference
from unetseg.data.files.image import ImageFile
from unetseg.errors import DataError

PIXEL = 1.0
"""Pixels of the image that the corners of its mask may lie beside it, as programs round them."""
_Size = tuple[int, int]  # height and width, pixels
_ELSEWHERE, _BESIDE, _UNSURE = "mask-elsewhere", "mask-beside", "mask-place-unsure"
_FIX = (
    "Pair them anew, or cut or warp these masks to their images (gdalwarp). Where the pixels do "
    "fit, the place is wrong: rio edit-info MASK --like IMAGE --crs like --transform like"
)
_KINDS = {
    _ELSEWHERE: Kind(
        "error", "mask", "lying where the image does not, by their places on the earth", _FIX
    ),
    _BESIDE: Kind("error", "mask", "lying beside the image, by their places on the earth", _FIX),
    _UNSURE: Kind(
        "warning", "mask", "lying beside the image, if their coordinates are of one system", _FIX
    ),
}


def inspect_places(survey: Survey) -> Iterator[Finding]:
    """Masks whose corners lie more than a pixel beside those of their image; headers are read.

    Where one of the two files says nothing of its place, nothing is said.
    """
    groups: dict[str, list[Line]] = defaultdict(list)
    for pair, _ in survey.items():
        if not isinstance(pair.mask, Path):
            continue
        if places := _places(pair.image, pair.mask, survey.config.max_pixels):
            check, how = _compared(*places[0], *places[1])
            groups[check].append((pair.mask, f": {how} ", pair.image))
    yield from by_kind(_KINDS, groups)


def _places(image: Path, mask: Path, max_pixels: int | None) -> list[tuple[Georeference, _Size]]:
    """The places of an image and its mask, each with its size; nothing if one has none."""
    places = []
    for path in (image, mask):
        try:
            with ImageFile(path, max_pixels) as file:
                if (place := file.georeference) is None:
                    return []
                places.append((place, file.size))  # the size of a PNG is known once it is decoded
        except DataError:  # other checks name the file
            return []
    return places


def _compared(
    place: Georeference, size: _Size, other: Georeference, mask_size: _Size
) -> tuple[str, str]:
    """What is wrong with the place of a mask, if anything, and how it lies to its image."""
    to_world, from_mask = _affine(place), _affine(other)
    if to_world is None or from_mask is None or bool(place.points) != bool(other.points):
        return "", ""
    own = _corners(size)
    world = _in_crs(_through(from_mask, _corners(mask_size)), other.crs, place.crs)
    seen = _through(~to_world, world)  # the corners of the mask in the image, pixels
    if not np.isfinite(seen).all():
        return _ELSEWHERE, "in another part of the world than"
    apart = np.abs(seen - own).max()
    if apart <= PIXEL:
        return "", ""
    right, down = np.rint((seen - own).mean(axis=0)).astype(int).tolist()
    how = offset(down, right) or f"turned, or its corners up to {apart:.0f} px beside those of"
    if (seen[0] <= PIXEL).all() and (seen[2] >= own[2] - PIXEL).all():
        column, row = np.rint(-seen[0] * mask_size[1] / np.ptp(seen[:, 0])).astype(int).tolist()
        how = f"from its column {column} and row {row} on, it shows"
    if bool(place.crs) != bool(other.crs):
        return _UNSURE, how
    is_elsewhere = (seen.min(0) >= own.max(0)).any() or (seen.max(0) <= own.min(0)).any()
    return (_ELSEWHERE if is_elsewhere else _BESIDE), how


def _corners(size: _Size) -> NDArray[np.float64]:
    """Column and row of the four corners of an image of this height and width."""
    height, width = size
    return np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)


def _affine(place: Georeference) -> Any:
    """The transform of a place, or that which comes nearest to its points; None without.

    Pixels that are counted, upward or downward, are no place.
    """
    from rasterio import Affine
    from rasterio.control import GroundControlPoint
    from rasterio.transform import from_gcps

    affine = Affine(*place.transform)
    if len(place.points) > 2:
        points = [GroundControlPoint(row, col, x, y, z) for col, row, x, y, z in place.points]
        affine = from_gcps(points)
    is_counted = tuple(np.abs(affine)[:6]) == (1, 0, 0, 0, 1, 0)
    return None if is_counted or affine.is_degenerate else affine


def _through(affine: Any, points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([affine @ (x, y) for x, y in points])


def _in_crs(points: NDArray[np.float64], given: str, wanted: str) -> NDArray[np.float64]:
    """Coordinates in another CRS; NaN where there are none, as they are where one is not known."""
    from rasterio.crs import CRS
    from rasterio.errors import RasterioError
    from rasterio.warp import transform

    if given == wanted or not (given and wanted):
        return points
    try:
        return np.array(transform(CRS.from_wkt(given), CRS.from_wkt(wanted), *points.T)).T
    except RasterioError:
        return np.full_like(points, np.nan)
