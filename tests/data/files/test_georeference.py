"""Places: where GDAL says that an image lies, turned with the image, and no warnings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS

from unetseg.data.files.georeference import Georeference, quiet
from unetseg.data.files.geotiff import RasterWriter
from unetseg.data.files.image import ImageFile, read_image
from unetseg.data.files.tiffs import write_tiff
from unetseg.errors import ImageError

UTM = CRS.from_epsg(32633)
TRANSFORM = rasterio.Affine(0.5, 0.0, 500_000.0, 0.0, -0.5, 4_649_776.0)
TURNED = rasterio.Affine(0.4, 0.3, 500_000.0, 0.3, -0.4, 4_649_776.0)


def georeference(path: Path) -> tuple[Georeference | None, float | None]:
    with ImageFile(path) as image:
        return image.georeference, image.nodata


def write(path: Path, **options: Any) -> None:
    size = {"height": 4, "width": 6, "count": 1, "dtype": "int16"}
    with quiet(), rasterio.open(path, "w", driver="GTiff", **size, **options) as file:
        file.write(np.arange(24, dtype=np.int16).reshape(4, 6), 1)


@pytest.mark.parametrize("transform", [TRANSFORM, TURNED])
@pytest.mark.parametrize("nodata", [None, -9999.0, 0.0])
def test_crs_transform_and_nodata_are_gdals(
    tmp_path: Path, transform: rasterio.Affine, nodata: float | None
) -> None:
    write(tmp_path / "a.tif", crs=UTM, transform=transform, nodata=nodata)
    place, value = georeference(tmp_path / "a.tif")
    assert place is not None
    assert CRS.from_wkt(place.crs) == UTM
    assert place.transform == pytest.approx(tuple(transform)[:6], abs=1e-9)
    assert value == nodata


def test_what_is_missing_is_none(tmp_path: Path) -> None:
    write_tiff(tmp_path / "plain.tif", np.zeros((3, 3), np.uint8))
    Image.new("L", (3, 3)).save(tmp_path / "a.png")
    write(tmp_path / "value.tif", nodata=7)
    write(tmp_path / "nan.tif", transform=TRANSFORM)
    write(tmp_path / "crs.tif", crs=UTM)
    assert georeference(tmp_path / "plain.tif") == (None, None)
    assert georeference(tmp_path / "a.png") == (None, None)
    assert georeference(tmp_path / "value.tif") == (None, 7.0)
    place, _ = georeference(tmp_path / "nan.tif")
    assert place == Georeference("", tuple(TRANSFORM)[:6])
    place, _ = georeference(tmp_path / "crs.tif")
    assert place is not None
    assert place.transform == (1, 0, 0, 0, 1, 0)


@pytest.mark.parametrize("orientation", [1, 2, 6, 7])
def test_ground_control_points_go_with_the_image(tmp_path: Path, orientation: int) -> None:
    corners = [(0, 0), (0, 6), (4, 0), (4, 6), (1, 2)]
    points = [GroundControlPoint(r, c, 10 + c + r / 8, 50 - r, 3) for r, c in corners]
    write(tmp_path / "points.tif", gcps=points, crs=UTM)
    with tifffile.TiffFile(tmp_path / "points.tif") as file:
        tags = [(t.code, t.dtype, t.count, t.value, True) for t in file.pages.first.tags]
    tags = [tag for tag in tags if tag[0] in {33922, 34735, 34736, 34737}]
    tags.append((0x0112, 3, 1, orientation, True))
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 6), np.uint8), extratags=tags, metadata=None)
    place, _ = georeference(tmp_path / "a.tif")
    assert place is not None
    assert CRS.from_wkt(place.crs) == UTM
    height, width = (6, 4) if orientation > 4 else (4, 6)
    with RasterWriter(tmp_path / "b.tif", height, width, 1, "uint8", georeference=place) as writer:
        writer.write(0, np.zeros((height, width), np.uint8))
    with rasterio.open(tmp_path / "b.tif") as raster:
        written, crs = raster.gcps
    assert crs == UTM
    turn: dict[int, Callable[[int, int], tuple[int, int]]] = {
        1: lambda r, c: (r, c),
        2: lambda r, c: (r, 6 - c),
        6: lambda r, c: (c, 4 - r),
        7: lambda r, c: (6 - c, 4 - r),
    }
    for old, new in zip(points, written, strict=True):
        assert (new.row, new.col) == turn[orientation](old.row, old.col)
        assert (new.x, new.y, new.z) == (old.x, old.y, old.z)


def test_side_cars_are_no_place(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", np.zeros((3, 3), np.uint8))
    (tmp_path / "a.tfw").write_text("1\n0\n0\n-1\n5\n6\n")
    assert georeference(tmp_path / "a.tif") == (None, None)
    write(tmp_path / "b.tif", nodata=1)
    (tmp_path / "b.tfw").write_text("1\n0\n0\n-1\n5\n6\n")
    assert georeference(tmp_path / "b.tif") == (None, 1.0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_place_turns_with_the_image(tmp_path: Path, orientation: int) -> None:
    """The corner of the world at the stored first pixel stays with that pixel."""
    write(tmp_path / "a.tif", crs=UTM, transform=TURNED)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        tags = [(t.code, t.dtype, t.count, t.value, True) for t in file.pages.first.tags]
    tags = [tag for tag in tags if tag[0] in {33550, 33922, 34264, 34735, 34736, 34737}]
    stored = np.arange(24, dtype=np.int16).reshape(4, 6)
    tags.append((0x0112, 3, 1, orientation, True))
    tifffile.imwrite(tmp_path / "b.tif", stored, extratags=tags, metadata=None)
    place, _ = georeference(tmp_path / "b.tif")
    assert place is not None
    upright = read_image(tmp_path / "b.tif")[..., 0]
    seen = rasterio.Affine(*place.transform)
    for value in (0, 5, 18, 23, 9):
        (row,), (column,) = np.nonzero(upright == value)
        (stored_row,), (stored_column,) = np.nonzero(stored == value)
        middle = np.array([column + 0.5, row + 0.5, 1])
        there = np.array([stored_column + 0.5, stored_row + 0.5, 1])
        np.testing.assert_allclose(
            np.array(seen).reshape(3, 3) @ middle, np.array(TURNED).reshape(3, 3) @ there
        )


@pytest.mark.parametrize("name", ["a#b?.tif", "zip:a!b.tif", "größe 1.tif", "a,b&c=%20.tif"])
def test_names_are_only_names(tmp_path: Path, name: str) -> None:
    place = Georeference(UTM.to_wkt(), tuple(TRANSFORM)[:6])
    with RasterWriter(tmp_path / name, 3, 4, 1, "uint8", georeference=place) as writer:
        writer.write(0, np.zeros((3, 4), np.uint8))
    found, _ = georeference(tmp_path / name)
    assert found is not None
    assert found.transform == place.transform


def test_damaged_headers_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", crs=UTM, transform=TRANSFORM)
    content = (tmp_path / "a.tif").read_bytes()
    for length in (4, 9, 60, 150):
        (tmp_path / "a.tif").write_bytes(content[:length])
        with pytest.raises(ImageError, match=r"a\.tif"):
            georeference(tmp_path / "a.tif")


def test_real_geotiffs(real_data: Path) -> None:
    (file,) = (real_data / "sen1floods11_sample" / "images").rglob("*.tif")
    place, nodata = georeference(file)
    assert place is not None
    assert CRS.from_wkt(place.crs).to_epsg() == 4326
    assert nodata == 0
    for file in sorted((real_data / "hot_buildings_geotiff" / "masks").rglob("*.tif"))[:5]:
        place, _ = georeference(file)
        assert place is not None
        assert place.crs
