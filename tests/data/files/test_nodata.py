"""Pixels without data: found, and filled where they would drown others."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.builders import write_geotiff
from unetseg.data.facts.image_values import image_facts
from unetseg.data.files.image import ImageFile, read_image
from unetseg.data.files.nodata import filled, missing_pixels
from unetseg.errors import ImageError


def test_only_pixels_without_data_in_all_bands_are_missing() -> None:
    image = np.zeros((2, 2, 3), np.int16) - 9999
    image[0, 0, 1] = 4
    expected = np.array([[False, True], [True, True]])
    np.testing.assert_array_equal(missing_pixels(image, -9999.0), expected)
    assert not missing_pixels(image, None).any()
    assert not missing_pixels(image, np.nan).any()
    floats = np.where(image < 0, np.nan, image).astype(np.float32)
    np.testing.assert_array_equal(missing_pixels(floats, np.nan), expected)
    assert not missing_pixels(floats, float(np.finfo(np.float64).min)).any()  # beyond float32


@pytest.mark.parametrize(
    ("dtype", "nodata", "is_filled"),
    [
        (np.uint8, 0, False),
        (np.uint8, 255, False),
        (np.int16, -9999, True),
        (np.float32, np.nan, True),
        (np.float32, float(np.finfo(np.float32).min), True),
        (np.float32, None, False),
    ],
)
def test_far_values_are_filled_with_the_mean(
    dtype: type, nodata: float | None, is_filled: bool
) -> None:
    mean, std = np.array([100.0, 120.0], np.float32), np.array([50.0, 60.0], np.float32)
    image: NDArray[Any] = np.full((3, 3, 2), 77, dtype)
    image[1, 1] = 0 if nodata is None else nodata
    before = image.copy()
    result = filled(image, nodata, mean, std)
    np.testing.assert_array_equal(image, before)  # the image itself is left alone
    if is_filled:
        np.testing.assert_array_equal(result[1, 1], mean)
        before[1, 1] = mean
    np.testing.assert_array_equal(result, before)


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
    np.testing.assert_array_equal(missing_pixels(pixels, nodata)[:, 0], [True, False, False])
    facts = image_facts(tmp_path / "a.tif")
    assert (facts.nodata_share, facts.low, facts.high) == (1 / 3, (4.0,), (11.0,))


def test_other_values_beyond_float32_are_refused(tmp_path: Path) -> None:
    write_geotiff(tmp_path / "a.tif", np.array([[[1e300], [0]]]))
    with pytest.raises(ImageError, match="too large for float32"):
        read_image(tmp_path / "a.tif")
