"""Rasters of GIS programs that are no TIFF: the pixels, windows and place that GDAL gives."""

from pathlib import Path

import numpy as np
import pytest
import rasterio

from unetseg.data.files import image as image_file
from unetseg.data.files.geotiff import RasterWriter
from unetseg.data.files.image import ImageFile
from unetseg.errors import ImageError

TRANSFORM = rasterio.Affine(2.0, 0.0, 500_000.0, 0.0, -2.0, 5_200_000.0)
PIXELS = np.random.default_rng(0).integers(0, 30000, (40, 60, 3)).astype(np.int16)
SOURCE = "<SimpleSource><SourceFilename relativeToVRT='1'>a.tif</SourceFilename></SimpleSource>"


def written(folder: Path, kind: str) -> Path:
    if kind != "VRT":
        path = folder / {"HFA": "a.img", "ENVI": "a.dat"}[kind]
        options = {"height": 40, "width": 60, "count": 3, "dtype": "int16", "nodata": 7}
        with rasterio.open(
            path, "w", driver=kind, crs="EPSG:32633", transform=TRANSFORM, **options
        ) as raster:
            raster.write(np.moveaxis(PIXELS, -1, 0))
        return path
    with RasterWriter(folder / "a.tif", 40, 60, 3, "int16") as writer:
        writer.write(0, PIXELS)
    bands = (
        f"<VRTRasterBand dataType='Int16' band='{band}'><NoDataValue>7</NoDataValue>"
        f"{SOURCE.replace('</SimpleSource>', f'<SourceBand>{band}</SourceBand></SimpleSource>')}"
        "</VRTRasterBand>"
        for band in (1, 2, 3)
    )
    place = "<SRS>EPSG:32633</SRS><GeoTransform>500000, 2, 0, 5200000, 0, -2</GeoTransform>"
    head = "<VRTDataset rasterXSize='60' rasterYSize='40'>"
    (folder / "a.vrt").write_text(f"{head}{place}{''.join(bands)}</VRTDataset>")
    return folder / "a.vrt"


@pytest.mark.parametrize("kind", ["VRT", "HFA", "ENVI"])
def test_rasters_are_read_whole_by_windows_and_with_their_place(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, kind)
    with ImageFile(path) as image:
        assert (image.format, image.is_windowed, image.nodata) == (kind, False, 7)
        assert image.georeference is not None
        assert image.georeference.transform == tuple(TRANSFORM)[:6]
        np.testing.assert_array_equal(image.read(), PIXELS)
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 1000)
    with ImageFile(path) as image:
        assert image.is_windowed
        np.testing.assert_array_equal(image.read(3, 5, 20, 30), PIXELS[3:23, 5:35])


def test_damaged_and_hostile_rasters_are_named(tmp_path: Path) -> None:
    path = written(tmp_path, "VRT")
    text = path.read_text()
    (tmp_path / "a.tif").unlink()
    with pytest.raises(ImageError, match=r"a\.vrt cannot be read"), ImageFile(path) as image:
        image.read()
    path.write_text(text[:90])
    with pytest.raises(ImageError, match=r"a\.vrt cannot be read"):
        ImageFile(path)
    bands = "<VRTRasterBand dataType='Float64'/>" * 500
    path.write_text(f"<VRTDataset rasterXSize='5000' rasterYSize='5000'>{bands}</VRTDataset>")
    with pytest.raises(ImageError, match="decompression bomb"), ImageFile(path) as image:
        image.read()
