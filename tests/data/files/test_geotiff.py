"""GeoTIFFs out: other programs read the same pixels, colours and place; whole or not at all."""

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from rasterio.crs import CRS

from tests.builders import noise
from unetseg.data.files import geotiff
from unetseg.data.files import image as image_file
from unetseg.data.files.georeference import Georeference, quiet
from unetseg.data.files.geotiff import RasterWriter, every_other, mean_of_four
from unetseg.data.files.image import ImageFile, read_image
from unetseg.data.masks.mask_file import read_mask
from unetseg.errors import ImageError, MachineError

Array = NDArray[Any]
PLACE = Georeference(CRS.from_epsg(32633).to_wkt(), (0.5, 0.0, 5e5, 0.0, -0.5, 4.6e6))


def write_geotiff(path: Path, array: Array, **options: Any) -> None:
    """All rows at once."""
    shape = array.shape[0], array.shape[1], (*array.shape, 1)[2]
    with RasterWriter(path, *shape, array.dtype, **options) as writer:
        writer.write(0, array)


def georeference(path: Path) -> tuple[Georeference | None, float | None]:
    with ImageFile(path) as image:
        return image.georeference, image.nodata


def by_gdal(path: Path) -> tuple[Array, dict[str, Any]]:
    with quiet(), rasterio.open(path) as file:
        return file.read().transpose(1, 2, 0), dict(file.profile)


@pytest.mark.long
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 13])
@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", "int16", "uint32", "int32", "float32", "float64"]
)
def test_tifffile_and_gdal_read_what_is_written(tmp_path: Path, dtype: str, bands: int) -> None:
    pixels = noise(530, 70, bands, dtype=dtype)
    path = tmp_path / "deep" / "a.tif"
    with RasterWriter(path, 530, 70, bands, dtype, georeference=PLACE, nodata=7) as writer:
        for top in range(0, 530, 64):
            writer.write(top, pixels[top : top + 64])
    seen, profile = by_gdal(path)
    assert seen.dtype == dtype
    assert (profile["nodata"], profile["crs"]) == (7, CRS.from_epsg(32633))
    assert tuple(profile["transform"])[:6] == PLACE.transform
    assert (profile["tiled"], profile["compress"]) == (True, "deflate")
    np.testing.assert_array_equal(seen, pixels)
    np.testing.assert_array_equal(tifffile.imread(path).reshape(pixels.shape), pixels)
    assert georeference(path) == (PLACE, 7.0)
    assert list(path.parent.iterdir()) == [path]


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_rows_may_come_in_any_counts(data: st.DataObject, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("rows") / "a.tif"
    height, width = data.draw(st.integers(1, 1200)), data.draw(st.integers(1, 40))
    bands = data.draw(st.sampled_from([1, 3]))
    pixels = noise(height, width, bands)
    top = 0
    with RasterWriter(
        path,
        height,
        width,
        bands,
        "uint8",
        overviews=data.draw(st.sampled_from([None, every_other])),
    ) as w:
        while top < height:
            rows = data.draw(st.integers(1, height - top))
            part = pixels[top : top + rows]
            w.write(top, part[..., 0] if bands == 1 else part)
            top += rows
    np.testing.assert_array_equal(read_image(path), pixels)


def test_palettes_are_written(tmp_path: Path) -> None:
    index = noise(40, 50)
    palette = noise(768).tolist()
    write_geotiff(tmp_path / "a.tif", index, palette=palette, georeference=PLACE)
    raw = read_mask(tmp_path / "a.tif")
    assert (raw.coding, raw.palette) == ("palette", tuple(palette))
    np.testing.assert_array_equal(raw.pixels, index)
    with rasterio.open(tmp_path / "a.tif") as file:
        colours = file.colormap(1)
    assert [v for n in range(256) for v in colours[n][:3]] == palette


def test_empty_tiles_are_read_by_every_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 100)
    for nodata in (None, 0.0, 9.0):
        pixels = np.full((1500, 1500), nodata or 0, np.uint8)
        pixels[600:700, 600:700] = noise(100, 100)
        write_geotiff(tmp_path / "a.tif", pixels, nodata=nodata)
        assert (tmp_path / "a.tif").stat().st_size < 18_000
        np.testing.assert_array_equal(Image.open(tmp_path / "a.tif"), pixels)
        np.testing.assert_array_equal(cv2.imread(tmp_path / "a.tif", -1), pixels)
        np.testing.assert_array_equal(by_gdal(tmp_path / "a.tif")[0][..., 0], pixels)
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 0], pixels)
        with ImageFile(tmp_path / "a.tif") as raster:
            part = raster.read(590, 500, 700, 800)[..., 0]
        np.testing.assert_array_equal(part, pixels[590:1290, 500:1300])


def test_nan_is_a_nodata_value(tmp_path: Path) -> None:
    write_geotiff(tmp_path / "a.tif", np.zeros((3, 3), np.float32), nodata=float("nan"))
    _, nodata = georeference(tmp_path / "a.tif")
    assert nodata is not None
    assert np.isnan(nodata)


def test_overviews_are_every_other_pixel_of_masks_and_means_of_pictures(tmp_path: Path) -> None:
    mask = noise(1001, 700)
    colours = noise(1001, 700, 3)
    picture = noise(1001, 700, 3, dtype="uint16")
    for name, pixels, halving in (
        ("mask.tif", mask[..., None], every_other),
        ("colours.tif", colours, every_other),
        ("picture.tif", picture, mean_of_four),
    ):
        height, width, bands = pixels.shape
        options: dict[str, Any] = {"georeference": PLACE, "overviews": halving}
        with RasterWriter(tmp_path / name, height, width, bands, pixels.dtype, **options) as writer:
            writer.write(0, pixels)
        np.testing.assert_array_equal(read_image(tmp_path / name), pixels)
        with rasterio.open(tmp_path / name) as file:
            assert file.overviews(1) == [2, 4]
    with rasterio.open(tmp_path / "mask.tif", overview_level=1) as file:
        np.testing.assert_array_equal(file.read(1), mask[::4, ::4])
    with rasterio.open(tmp_path / "colours.tif", overview_level=1) as file:
        np.testing.assert_array_equal(file.read().transpose(1, 2, 0), colours[::4, ::4])
    with rasterio.open(tmp_path / "picture.tif", overview_level=0) as file:
        even = picture[:1000].reshape(500, 2, 350, 2, 3).mean((1, 3))
        np.testing.assert_allclose(file.read().transpose(1, 2, 0)[:500], even, atol=0.5)


def test_wide_images_get_lower_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geotiff, "BUFFER", 200_000)
    pixels = noise(300, 600, 2, dtype="float32")
    write_geotiff(tmp_path / "a.tif", pixels)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.pages.first.chunks[:2] == (32, 512)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), pixels)


def test_files_beyond_four_gigabytes_are_bigtiffs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geotiff, "_CLASSIC_BYTES", 1000)
    pixels = noise(100, 100)
    write_geotiff(tmp_path / "a.tif", pixels, georeference=PLACE)
    assert (tmp_path / "a.tif").read_bytes()[:4] == b"II+\0"
    np.testing.assert_array_equal(by_gdal(tmp_path / "a.tif")[0][..., 0], pixels)


# What goes wrong


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(b"old")
    rows = np.zeros((10, 5), np.uint8)
    with contextlib.suppress(InterruptedError), RasterWriter(path, 20, 5, 1, "uint8") as writer:
        writer.write(0, rows)
        raise InterruptedError
    writer = RasterWriter(path, 20, 5, 1, "uint8").__enter__()
    writer.write(0, rows)
    with pytest.raises(ValueError, match="10 of 20 rows were written"):
        writer.__exit__(None)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


def test_rows_come_in_order_and_fit(tmp_path: Path) -> None:
    rows = np.zeros((10, 5), np.uint8)
    with RasterWriter(tmp_path / "a.tif", 20, 5, 1, "uint8") as writer:
        writer.write(0, rows)
        for top, wrong in ((0, rows), (11, rows), (10, rows[:, :4]), (10, rows.astype(np.int16))):
            with pytest.raises(ValueError, match="with 10 rows"):
                writer.write(top, wrong)
        with pytest.raises(ValueError, match="with 10 rows"):
            writer.write(10, np.zeros((11, 5), np.uint8))
        writer.write(10, rows)
    assert read_image(tmp_path / "a.tif").shape == (20, 5, 1)


@pytest.mark.parametrize(
    ("array", "options", "reason"),
    [
        (np.zeros((3, 3), np.complex64), {}, "holds no complex64"),
        (np.zeros((0, 3), np.uint8), {}, "of shape"),
        (np.zeros((3, 3), np.uint16), {"palette": [0] * 768}, "palette"),
        (np.zeros((3, 3), np.uint8), {"nodata": -9999}, "-9999 is no uint8"),
        (np.zeros((3, 3), np.uint8), {"nodata": float("nan")}, "nan is no uint8"),
        (
            np.zeros((3, 3), np.uint8),
            {"georeference": Georeference("nowhere", PLACE.transform)},
            "is no place",
        ),
    ],
)
def test_what_no_geotiff_holds_is_refused(
    tmp_path: Path, array: Array, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ImageError, match=reason):
        write_geotiff(tmp_path / "a.tif", array, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.row(37)
@pytest.mark.long
@pytest.mark.parametrize("missing", [200_000, 500, 1])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, missing: int) -> None:
    """The space ends in the spool, in the tiles of the file, and at its last byte."""
    script = """
import resource, sys
from pathlib import Path
import numpy as np
from tests.data.files.test_geotiff import write_geotiff
from unetseg.errors import MachineError

pixels = np.random.default_rng(0).integers(0, 256, (512, 512), dtype=np.uint8)
path, missing = Path(sys.argv[1]), int(sys.argv[2])
write_geotiff(path, pixels)
limit = path.stat().st_size - missing
path.write_bytes(b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    write_geotiff(path, pixels)
except MachineError as error:
    print(error)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "a.tif"), str(missing)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "cannot write" in done.stdout
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MachineError, match="cannot write"):
        write_geotiff(tmp_path / "file" / "a.tif", np.zeros((3, 3), np.uint8))
