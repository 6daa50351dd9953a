"""Laws of the corruptions: type, shape and range are kept, strengths are as stated, seeds count."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from unetseg.skiplab.corruptions import (
    CORRUPTIONS,
    STRONGEST,
    Corruption,
    band_limited,
    blur,
    contrast,
    noise,
    spread,
    texture,
)

TYPES = [np.uint8, np.uint16, np.int16, np.float32]
every_corruption = pytest.mark.parametrize("name", CORRUPTIONS)


def picture(dtype: Any = np.float32, bands: int = 3, side: int = 48) -> NDArray[Any]:
    """Smooth blobs over about a tenth of the type's range, at another level in each band."""
    random = np.random.default_rng(1)
    smooth = ndimage.gaussian_filter(random.normal(size=(side, side + 5, bands)), (3, 3, 0))
    unit = 0.4 + 0.02 * np.arange(bands) / bands + 0.05 * smooth / smooth.std()
    top = 1.0 if dtype == np.float32 else float(np.iinfo(dtype).max)
    return np.asarray(unit * top).astype(dtype)


def change(corruption: Corruption, image: NDArray[Any], severity: int) -> float:
    return float(np.abs(corruption(image, severity, 0).astype(np.float64) - image).mean())


# ------------------------------------------------------------------ all of them


@every_corruption
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("bands", [1, 3, 13])
def test_type_and_shape_are_kept_and_the_image_is_left_alone(
    name: str, dtype: Any, bands: int
) -> None:
    image = picture(dtype, bands)
    before = image.copy()
    image.flags.writeable = False
    spoilt = CORRUPTIONS[name](image, 3, 0)
    assert (spoilt.dtype, spoilt.shape) == (image.dtype, image.shape)
    assert not np.shares_memory(spoilt, image)
    assert not np.array_equal(spoilt, image)
    np.testing.assert_array_equal(image, before)


@every_corruption
@pytest.mark.parametrize("dtype", TYPES)
def test_every_severity_changes_more_than_the_one_before(name: str, dtype: Any) -> None:
    image = picture(dtype)
    changes = [change(CORRUPTIONS[name], image, severity) for severity in range(STRONGEST + 1)]
    assert changes[0] == 0
    assert np.all(np.diff(changes) > 0)


@every_corruption
def test_equal_seeds_give_equal_copies(name: str) -> None:
    image = picture(np.uint8)
    first, again, other = (CORRUPTIONS[name](image, 3, seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert np.array_equal(first, other) == (name in {"blur", "contrast"})


@every_corruption
def test_a_severity_means_the_same_for_8_and_16_bit_and_reflectances(name: str) -> None:
    eight = picture(np.uint8)
    low = CORRUPTIONS[name](eight, 3, 0) / 255
    high = CORRUPTIONS[name](eight.astype(np.uint16) * 257, 3, 0) / 65535
    reflectance = CORRUPTIONS[name](eight.astype(np.float32) / 255, 3, 0)
    np.testing.assert_allclose(low, high, atol=0.51 / 255)  # of rounding
    np.testing.assert_allclose(high, reflectance, atol=0.51 / 65535 + 1e-6)


@every_corruption
@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_values_stop_at_the_ends_of_the_type(name: str, dtype: Any) -> None:
    limits = np.iinfo(dtype)
    image = np.where(picture(bands=2) > 0.41, limits.max, limits.min).astype(dtype)
    spoilt = CORRUPTIONS[name](image, 5, 0).astype(np.int64)
    low, high = (image == limits.min), (image == limits.max)
    assert spoilt[low].mean() < 0.5 * (limits.min + limits.max) < spoilt[high].mean()


@every_corruption
@pytest.mark.parametrize("severity", [-1, STRONGEST + 1])
def test_other_severities_are_refused(name: str, severity: int) -> None:
    with pytest.raises(ValueError, match="is not within 0–5"):
        CORRUPTIONS[name](picture(), severity, 0)


@every_corruption
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 3), (40, 2, 1)])
def test_the_smallest_images_stay_numbers(name: str, shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(0).random(shape, np.float32)
    assert np.isfinite(CORRUPTIONS[name](image, 5, 0)).all()


# ------------------------------------------------------------------ each


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_noise_has_the_stated_deviation_in_each_band(severity: int) -> None:
    image = picture(side=200) * np.array([1, 10, 100], np.float32)
    added = noise(image, severity, 0).astype(np.float64) - image
    expected = 0.05 * severity * spread(image)
    np.testing.assert_allclose(added.std((0, 1)), expected, rtol=0.02)
    np.testing.assert_allclose(added.mean((0, 1)) / expected, 0, atol=0.02)
    assert np.abs(np.corrcoef(added.reshape(-1, 3).T) - np.eye(3)).max() < 0.02


def test_blur_keeps_a_constant_image_and_the_mean() -> None:
    constant = np.full((20, 30, 2), 12345, np.uint16)
    np.testing.assert_array_equal(blur(constant, 5), constant)
    image = picture()
    np.testing.assert_allclose(blur(image, 5).mean((0, 1)), image.mean((0, 1)), rtol=1e-4)


def test_blur_spreads_a_point_into_a_gaussian_and_no_band_into_another() -> None:
    point = np.zeros((41, 41, 2), np.float32)
    point[20, 20, 0] = 1
    spot = blur(point, 4)
    rows, columns = np.mgrid[-20:21, -20:21]
    gaussian = np.exp(-(rows**2 + columns**2) / (2 * 2.0**2)) / (2 * np.pi * 2.0**2)
    np.testing.assert_allclose(spot[..., 0], gaussian, atol=1e-4)
    assert not spot[..., 1].any()


@pytest.mark.parametrize("severity", range(STRONGEST + 1))
def test_contrast_scales_deviations_by_the_stated_factor(severity: int) -> None:
    image = picture()
    faded = contrast(image, severity)
    middle = image.mean((0, 1), np.float64)
    np.testing.assert_allclose(faded - middle, (1 - 0.15 * severity) * (image - middle), atol=1e-6)


def test_texture_moves_every_pixel_along_the_line_to_one_pattern() -> None:
    image = picture()
    moved = [texture(image, severity, 0).astype(np.float64) - image for severity in (1, 4)]
    np.testing.assert_allclose(moved[1], 4 * moved[0], atol=1e-6)
    pattern = image + moved[0] / 0.15
    np.testing.assert_allclose(pattern.mean((0, 1)), image.mean((0, 1)), atol=1e-5)
    np.testing.assert_allclose(pattern.std((0, 1)), spread(image) / 4.65, rtol=1e-4)


def test_the_spread_of_normal_pixels_is_465_deviations() -> None:
    image = np.random.default_rng(0).normal(5, 2, (300, 300, 1)).astype(np.float32)
    np.testing.assert_allclose(spread(image), 4.65 * 2, rtol=0.02)


def test_the_texture_is_band_limited() -> None:
    pattern = band_limited(256, 256, seed=3)
    assert pattern.mean() == pytest.approx(0, abs=1e-5)
    assert pattern.std() == pytest.approx(1, abs=1e-5)
    power = np.abs(np.fft.fft2(pattern)) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
    inside = (frequency > 1 / 20.5) & (frequency < 1 / 6)
    assert power[inside].sum() > 0.85 * power.sum()
