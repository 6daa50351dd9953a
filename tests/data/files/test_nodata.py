"""Pixels without data: found, and filled where they would drown others."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from numpy.typing import NDArray
from PIL import Image

from tests.builders import write_geotiff, write_raster
from unetseg.data.facts.image_values import image_facts
from unetseg.data.files import image as image_file
from unetseg.data.files.georeference import quiet
from unetseg.data.files.image import ImageFile, read_image
from unetseg.data.files.nodata import (
    filled,
    missing_pixels,
    read_matched,
    told_missing,
    with_gaps,
)
from unetseg.data.masks.mask_file import MaskFile
from unetseg.errors import ImageError


def test_only_pixels_without_data_in_all_bands_are_missing() -> None:
    image = np.zeros((2, 2, 3), np.int16) - 9999
    image[0, 0, 1] = 4
    expected = np.array([[False, True], [True, True]])
    np.testing.assert_array_equal(told_missing(image, -9999.0), expected)
    assert told_missing(image) is None
    assert told_missing(image, np.nan) is None
    floats = np.where(image < 0, np.nan, image).astype(np.float32)
    for nodata in (np.nan, None):  # NaN is no data, declared or not
        np.testing.assert_array_equal(told_missing(floats, nodata), expected)
    assert told_missing(image.astype(np.float32), float(np.finfo(np.float64).min)) is None
    ends = np.where(image < 0, np.inf, image).astype(np.float32)
    np.testing.assert_array_equal(told_missing(ends, np.inf), expected)
    valid = np.array([[True, True], [False, True]])
    np.testing.assert_array_equal(told_missing(image, None, valid), ~valid)


def test_an_image_carries_its_gaps_as_one_band_more() -> None:
    image = np.arange(1, 13, dtype=np.uint16).reshape(2, 2, 3)
    missing = np.array([[True, False], [False, False]])
    assert with_gaps(image, 3, None) is image
    assert missing_pixels(image, 3) is None
    assert missing_pixels(with_gaps(image, 3, None, always=True), 3) is None
    carried = with_gaps(image, 3, missing)
    np.testing.assert_array_equal(carried[..., :3], image)
    np.testing.assert_array_equal(missing_pixels(carried, 3), missing)
    again = with_gaps(carried, 3, missing[:, ::-1])  # beside what is missing already
    np.testing.assert_array_equal(missing_pixels(again, 3), missing | missing[:, ::-1])


@pytest.mark.parametrize(
    ("dtype", "value", "is_filled"),
    [
        (np.uint8, 0, False),
        (np.uint8, 255, False),
        (np.int16, -9999, True),
        (np.float32, np.nan, True),
        (np.float32, float(np.finfo(np.float32).min), True),
    ],
)
def test_far_values_are_filled_with_the_mean(dtype: type, value: float, is_filled: bool) -> None:
    mean, std = np.array([100.0, 120.0], np.float32), np.array([50.0, 60.0], np.float32)
    image: NDArray[Any] = np.full((3, 3, 2), 77, dtype)
    assert filled(image, mean, std) is not None
    image[1, 1] = value
    before = with_gaps(image, 2, ~(image == 77).all(-1))
    carried = before.copy()
    result = filled(carried, mean, std)
    np.testing.assert_array_equal(carried, before)  # the image itself is left alone
    image[1, 1] = mean if is_filled else value
    np.testing.assert_array_equal(result, image)


def bands_of(height: int, width: int, dtype: str, count: int) -> NDArray[Any]:
    """Noise that is nowhere 0, C×H×W."""
    return np.random.default_rng(0).integers(1, 200, (count, height, width)).astype(dtype)


HOLED = np.add.outer(np.arange(90), np.arange(70)) > 60
"""Where there are data, 90×70."""


@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("how", ["value", "nan", "internal", "tiled", "jpeg", ".msk", "alpha"])
def test_what_has_no_data_is_what_gdal_says(
    how: str, dtype: str, is_large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, and by windows; rasterio's `dataset_mask` is the oracle."""
    bands, path = bands_of(90, 70, dtype, 3), tmp_path / "a.tif"
    only = {"nan": {"float32"}, "jpeg": {"uint8"}, "alpha": {"uint8", "uint16"}}
    if dtype not in only.get(how, {dtype}):
        pytest.skip("there is no such file")
    if how == "value":
        write_raster(path, bands * HOLED.astype(dtype), nodata=0)
    elif how == "nan":
        write_raster(path, np.where(HOLED, bands, np.float32(np.nan)), nodata=np.nan)
    elif how == "alpha":
        alpha = (HOLED * np.iinfo(dtype).max).astype(dtype)
        write_raster(path, np.concatenate([bands, alpha[None]]), photometric="RGB", alpha="yes")
    else:
        layouts: dict[str, dict[str, Any]] = {
            "tiled": {"tiled": True, "blockxsize": 32, "blockysize": 16, "compress": "deflate"},
            "jpeg": {"compress": "jpeg", "photometric": "ycbcr", "tiled": True}
            | {"blockxsize": 32, "blockysize": 32},
            ".msk": {"internal": False},
        }
        write_raster(path, bands, valid=HOLED, **layouts.get(how, {}))
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 0 if is_large else 2**25)
    with rasterio.open(path) as raster:
        expected = raster.dataset_mask() == 0
    np.testing.assert_array_equal(expected, ~HOLED)
    with ImageFile(path) as file:
        assert file.has_gaps
        image = read_matched(file, 3)
        np.testing.assert_array_equal(missing_pixels(image, 3), expected)
        np.testing.assert_array_equal(image[..., :3], file.read()[..., :3])
        part = read_matched(file, 3, 20, 10, 50, 40, always=True)
        np.testing.assert_array_equal(missing_pixels(part, 3), expected[20:70, 10:50])
        assert missing_pixels(read_matched(file, 3, 70, 20, 20, 50), 3) is None
    facts = image_facts(path)
    assert facts.nodata_share == pytest.approx(expected.mean())
    assert facts.bands == 3
    kept = np.asarray(image[..., :3], float)[HOLED]
    assert facts.mean[:3] == pytest.approx(kept.mean(0))
    assert facts.std[:3] == pytest.approx(kept.std(0))


@pytest.mark.parametrize("is_large", [False, True])
def test_an_index_of_a_palette_that_stands_for_no_data_is_transparent(
    is_large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number is that of white, which is data; of a mask it is a code as others."""
    index = np.where(HOLED, bands_of(90, 70, "uint8", 1)[0], 255).astype(np.uint8)
    colours = np.arange(768).reshape(3, 256).astype(np.uint16) * 85
    colours[:, :100] = 65535
    options: dict[str, Any] = {"extratags": [(42113, "s", 0, "255", True)], "metadata": None}
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, index, photometric="palette", colormap=colours, **options)
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 0 if is_large else 2**25)
    with quiet(), rasterio.open(path) as raster:
        expected = raster.dataset_mask() == 0
    np.testing.assert_array_equal(expected, ~HOLED)
    with ImageFile(path) as file:
        assert (file.nodata, file.alpha, file.has_gaps) == (None, True, True)
        image = read_matched(file, 3)
        np.testing.assert_array_equal(image[..., :3], (colours >> 8).T[index])
        np.testing.assert_array_equal(missing_pixels(image, 3), expected)
        part = read_matched(file, 3, 20, 10, 50, 40, always=True)
        np.testing.assert_array_equal(missing_pixels(part, 3), expected[20:70, 10:50])
        np.testing.assert_array_equal(file.thumbnail(90), image[..., :3])
    facts = image_facts(path)
    assert facts.bands == 3
    assert facts.nodata_share == pytest.approx(expected.mean())
    with MaskFile(path) as mask:
        assert (mask.nodata, mask.raw.coding) == (255, "palette")
        np.testing.assert_array_equal(mask.read(0, 0, 90, 70), index)


def declare(path: Path, nodata: int) -> None:
    """Write what QGIS writes beside an image without data of its own."""
    told = f'<PAMRasterBand band="1"><NoDataValue>{nodata}</NoDataValue></PAMRasterBand>'
    Path(f"{path}.aux.xml").write_text(f"<PAMDataset>{told}</PAMDataset>")


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_so_is_one_that_a_file_beside_a_photo_declares(suffix: str, tmp_path: Path) -> None:
    """All that is left is white, as is the number of the index."""
    index = np.where(HOLED, bands_of(90, 70, "uint8", 1)[0], 255).astype(np.uint8)
    colours = np.full((256, 3), 255, np.uint8)
    colours[255] = 10, 20, 30
    image, path = Image.fromarray(index), tmp_path / f"a{suffix}"
    image.putpalette(colours.ravel().tolist())
    image.save(path)
    declare(path, 255)
    with ImageFile(path) as file:
        assert (file.nodata, file.alpha, file.has_gaps) == (None, True, True)
        np.testing.assert_array_equal(missing_pixels(read_matched(file, 3), 3), ~HOLED)
        np.testing.assert_array_equal(file.read()[..., :3], colours[index])
        np.testing.assert_array_equal(file.thumbnail(90), colours[index])
    facts = image_facts(path)
    assert facts.bands == 3
    assert facts.nodata_share == pytest.approx((~HOLED).mean())
    with MaskFile(path) as mask:
        assert (mask.nodata, mask.raw.coding) == (255, "palette")
        np.testing.assert_array_equal(mask.read(0, 0, 90, 70), index)


@pytest.mark.parametrize("nodata", [0, 2])
def test_a_grey_gif_stays_grey_whatever_is_declared_beside_it(nodata: int, tmp_path: Path) -> None:
    """A GIF has always a palette, and masks are GIFs too, as those of DRIVE."""
    image, path = Image.fromarray(np.array([[0, 1, 2, 1]], np.uint8)), tmp_path / "a.gif"
    image.putpalette([0, 0, 0, 200, 200, 200, 100, 100, 100])
    image.save(path)
    declare(path, nodata)
    with ImageFile(path) as file:
        assert (file.bands, file.alpha, file.nodata) == (1, False, nodata)
    with MaskFile(path) as mask:
        assert (mask.raw.coding, mask.raw.pixels.tolist()) == ("integer", [[0, 200, 100, 200]])


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "float32", "float64"])
def test_the_declared_value_is_gdals(dtype: str, tmp_path: Path) -> None:
    texts = ["0", "-9999", "-9999.0", " 7 ", "255", "256", "65535", "65536", "1.5", "00", "nan"]
    texts += [
        "-nan",
        "inf",
        "-3.4028234663852886e+38",
        "-3.40282346600000016e+38",
        "1e3",
        "abc",
        "",
    ]
    path = tmp_path / "a.tif"
    for text in texts:
        tag = (42113, "s", 0, text, True)
        tifffile.imwrite(path, np.zeros((4, 4), dtype), photometric="minisblack", extratags=[tag])
        with quiet(), rasterio.open(path) as raster, ImageFile(path) as file:
            assert str(file.nodata) == str(raster.nodata), text


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_is_turned_with_its_image(
    orientation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bands = bands_of(90, 70, "uint8", 3) * HOLED.astype(np.uint8)
    again = tmp_path / "b.tif"
    tifffile.imwrite(
        again,
        np.moveaxis(bands, 0, 2),
        photometric="rgb",
        tile=(32, 16),
        extratags=[(274, "H", 1, orientation, True)],
    )
    write_raster(tmp_path / "c.tif", bands, valid=HOLED, internal=False)
    shutil.move(tmp_path / "c.tif.msk", tmp_path / "b.tif.msk")
    for limit in (0, 2**25):
        monkeypatch.setattr(image_file, "WHOLE_PIXELS", limit)
        with ImageFile(again) as file:
            image = read_matched(file, 3)
            black = (file.read() == 0).all(-1)
            np.testing.assert_array_equal(missing_pixels(image, 3), black)
            part = read_matched(file, 3, 5, 6, 40, 50, always=True)
            np.testing.assert_array_equal(part[..., 3] == 0, black[5:45, 6:56])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_msk_file_beside_any_image_counts(suffix: str, tmp_path: Path) -> None:
    image = np.moveaxis(bands_of(90, 70, "uint8", 3), 0, 2)
    Image.fromarray(image).save(tmp_path / f"a{suffix}")
    write_raster(tmp_path / "b.tif", np.moveaxis(image, 2, 0), valid=HOLED, internal=False)
    shutil.move(tmp_path / "b.tif.msk", tmp_path / f"a{suffix}.msk")
    with ImageFile(tmp_path / f"a{suffix}") as file:
        np.testing.assert_array_equal(missing_pixels(read_matched(file, 3), 3), ~HOLED)


def test_bands_of_a_mosaic_may_have_no_data_values_of_their_own(tmp_path: Path) -> None:
    bands = bands_of(90, 70, "int16", 2)
    bands[0, ~HOLED], bands[1, ~HOLED], bands[1, 80:] = -1, -2, -2
    write_raster(tmp_path / "a.tif", bands)
    rows = "".join(
        f'<VRTRasterBand dataType="Int16" band="{n}"><NoDataValue>{-n}</NoDataValue><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">a.tif</SourceFilename><SourceBand>{n}</SourceBand>'
        "</SimpleSource></VRTRasterBand>"
        for n in (1, 2)
    )
    path = tmp_path / "a.vrt"
    place = "<GeoTransform>9, 1, 0, 9, 0, -1</GeoTransform>"
    path.write_text(f'<VRTDataset rasterXSize="70" rasterYSize="90">{place}{rows}</VRTDataset>')
    with rasterio.open(path) as raster, ImageFile(path) as file:
        expected = raster.dataset_mask() == 0
        np.testing.assert_array_equal(missing_pixels(read_matched(file, 2), 2), expected)
    np.testing.assert_array_equal(expected, ~HOLED)


def test_a_damaged_mask_is_a_fault_of_its_file(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", bands_of(90, 70, "uint8", 3))
    (tmp_path / "a.tif.msk").write_bytes(b"II*\0nothing")
    with ImageFile(tmp_path / "a.tif") as file, pytest.raises(ImageError) as caught:
        read_matched(file, 3)
    assert "a.tif.msk" in str(caught.value)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_end_of_float64_may_stand_for_no_data(tmp_path: Path, sign: int) -> None:
    """As in rasters of double precision from ArcGIS."""
    end = sign * float(np.finfo(np.float64).max)
    image = np.arange(12.0).reshape(3, 4, 1)
    image[0] = end
    write_geotiff(tmp_path / "a.tif", image, nodata=end)
    pixels = read_image(tmp_path / "a.tif")
    with ImageFile(tmp_path / "a.tif") as file:
        nodata = file.nodata
    assert pixels.dtype == np.float32
    assert np.isfinite(pixels).all()
    missing = told_missing(pixels, nodata)
    assert missing is not None
    np.testing.assert_array_equal(missing[:, 0], [True, False, False])
    facts = image_facts(tmp_path / "a.tif")
    assert (facts.nodata_share, facts.low, facts.high) == (1 / 3, (4.0,), (11.0,))


def test_other_values_beyond_float32_are_refused(tmp_path: Path) -> None:
    write_geotiff(tmp_path / "a.tif", np.array([[[1e300], [0]]]))
    with pytest.raises(ImageError, match="too large for float32"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("dtype", "end"), [("int32", -(2**31)), ("int32", 2**31 - 1), ("uint32", 2**32 - 1)]
)
def test_the_end_of_32_bits_may_stand_for_no_data(tmp_path: Path, dtype: str, end: int) -> None:
    """As in rasters of whole numbers from ArcGIS and QGIS."""
    image = np.arange(12).reshape(3, 4, 1).astype(dtype)
    image[0] = end
    write_geotiff(tmp_path / "a.tif", image, nodata=end)
    facts = image_facts(tmp_path / "a.tif")
    assert (facts.nodata_share, facts.low, facts.high) == (1 / 3, (4.0,), (11.0,))
    with ImageFile(tmp_path / "a.tif") as file:
        missing = missing_pixels(read_matched(file, 1), 1)
    assert missing is not None
    assert missing[:, 0].tolist() == [True, False, False]
