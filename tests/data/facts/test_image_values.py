"""A large image has the facts of the whole, and pixels without data count in none of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from tests.builders import write_geotiff
from unetseg.data.facts.image_values import ImageFacts, image_facts
from unetseg.data.facts.similarity import SURE, distance, perceptual_hash
from unetseg.data.files import image as image_file
from unetseg.data.files.image import ImageFile, read_image
from unetseg.data.files.pngs import write_png
from unetseg.data.files.tiffs import write_tiff
from unetseg.data.pairs.match import find_pairs
from unetseg.data.sample import draw_cells

Array = NDArray[Any]


def noise(dtype: type, shape: tuple[int, ...] = (600, 70, 3), seed: int = 0) -> Array:
    drawn = np.random.default_rng(seed).normal(120, 30, shape)
    return ndimage.gaussian_filter(drawn, 2, axes=(0, 1)).clip(0, 250).astype(dtype)


def assert_equal_facts(one: ImageFacts, other: ImageFacts) -> None:
    """Equal, but for the last digits of means and deviations."""
    close = {"mean", "std"}
    for name in close:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-12)
    for name in set(ImageFacts.model_fields) - close:
        np.testing.assert_equal(getattr(one, name), getattr(other, name), err_msg=name)


# ------------------------------------------------------------------ large images


@pytest.mark.parametrize(
    "image",
    [
        noise(np.uint8),
        noise(np.uint8, (600, 70, 1)),
        noise(np.uint16, (513, 33, 2)),
        noise(np.int16, (257, 40, 13)),
        noise(np.float32, (512, 50, 4)),
        np.dstack([noise(np.uint8), np.full((600, 70), 255, np.uint8)]),
        np.dstack([noise(np.uint8), noise(np.uint8)[..., :1]]),
    ],
    ids=["rgb", "grey", "two bands", "13 bands", "float", "opaque alpha", "four bands"],
)
@pytest.mark.parametrize("tiled", [False, True])
def test_a_large_image_has_the_facts_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: Array, tiled: bool
) -> None:
    tiles = {"tiled": True, "blockxsize": 32, "blockysize": 64} if tiled else {}
    path = write_geotiff(tmp_path / "a.tif", image, compress="deflate", **tiles)
    whole = image_facts(path)
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 1000)
    with ImageFile(path) as file:
        assert file.is_windowed
    assert_equal_facts(image_facts(path), whole)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_turned_image_has_the_facts_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orientation: int
) -> None:
    path = tmp_path / "a.tif"
    tag = (274, 3, 1, orientation, True)
    tifffile.imwrite(path, noise(np.uint8, (300, 400, 3)), photometric="rgb", extratags=[tag])
    whole = image_facts(path)
    assert (whole.orientation, whole.shape) == (orientation, read_image(path).shape[:2])
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 1000)
    assert_equal_facts(image_facts(path), whole)


@pytest.mark.parametrize("nodata", [-9999.0, float("nan")])
def test_a_large_image_without_some_data_has_the_facts_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodata: float
) -> None:
    image = noise(np.float32)
    image[:300] = nodata  # the first strip has no data at all
    image[400:420, 3:8, 1] = np.nan
    image[500, 9] = np.inf
    image[550:, :, 0] = np.finfo(np.float32).min
    path = write_geotiff(tmp_path / "a.tif", image, nodata=nodata)
    whole = image_facts(path)
    assert (whole.nodata_share, whole.bad) == (0.5, 101)
    assert (whole.fill, whole.fill_share) == (float(np.finfo(np.float32).min), 50 / 600)
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 1000)
    assert_equal_facts(image_facts(path), whole)


# ------------------------------------------------------------------ what is counted


@settings(max_examples=20)
@given(seed=st.integers(0, 99), dtype=st.sampled_from([np.uint8, np.uint16, np.int16, np.float32]))
def test_shares_at_the_highest_value_are_those_of_numpy(
    tmp_path_factory: pytest.TempPathFactory, seed: int, dtype: type
) -> None:
    image: Array = np.random.default_rng(seed).integers(0, 5, (20, 21, 3)).astype(dtype)
    path = tmp_path_factory.mktemp("ends") / "a.tif"
    write_tiff(path, image)
    facts = image_facts(path)
    np.testing.assert_allclose(facts.at_high, (image == image.max((0, 1))).mean((0, 1)))
    assert (facts.with_data, facts.bad) == (420, 0)


def test_declared_no_data_is_left_out(tmp_path: Path) -> None:
    image = noise(np.int16)
    image[:150] = -9999
    image[200, :, 0] = -9999  # in one band it is a value like any other
    facts = image_facts(write_geotiff(tmp_path / "a.tif", image, nodata=-9999))
    counted = image[150:].reshape(-1, 3).astype(np.float64)
    assert (facts.nodata, facts.nodata_share, facts.with_data) == (-9999, 0.25, 450 * 70)
    np.testing.assert_allclose(facts.mean, counted.mean(0))
    np.testing.assert_allclose(facts.std, counted.std(0))
    assert (facts.low, facts.high) == (tuple(counted.min(0)), tuple(counted.max(0)))
    assert facts.fill is None


def test_an_image_without_any_data_is_all_zeros(tmp_path: Path) -> None:
    image = np.full((9, 8, 2), -9999, np.float32)
    facts = image_facts(write_geotiff(tmp_path / "a.tif", image, nodata=-9999))
    assert (facts.nodata_share, facts.with_data, facts.perceptual_hash) == (1, 0, "")
    for name in ("mean", "std", "low", "high", "at_high"):
        assert getattr(facts, name) == (0, 0)


def test_statistics_are_over_the_finite_pixels(tmp_path: Path) -> None:
    image = noise(np.float32)
    image[3, 4, 0], image[5, 6, 1], image[7, 8] = np.nan, -np.inf, np.inf
    write_tiff(tmp_path / "a.tif", image)
    facts = image_facts(tmp_path / "a.tif")
    finite = image[np.isfinite(image).all(-1)].astype(np.float64)
    assert (facts.bad, len(finite)) == (3, 600 * 70 - 3)
    np.testing.assert_allclose(facts.mean, finite.mean(0))
    assert facts.high == tuple(finite.max(0))


def test_nan_comes_back_from_json(tmp_path: Path) -> None:
    image = noise(np.float32)
    image[:60] = np.nan
    facts = image_facts(write_geotiff(tmp_path / "a.tif", image, nodata=float("nan")))
    assert (facts.bad, facts.nodata_share) == (0, 0.1)
    assert_equal_facts(ImageFacts.model_validate_json(facts.model_dump_json()), facts)


# ------------------------------------------------------------------ hashes


def test_the_pixel_hash_is_that_of_the_pixels_whatever_the_file(tmp_path: Path) -> None:
    image = noise(np.uint8)
    opaque = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
    write_png(tmp_path / "a.png", image)
    write_png(tmp_path / "b.png", opaque)
    write_tiff(tmp_path / "c.tif", image)
    Image.fromarray(image).save(tmp_path / "d.bmp")
    same = {image_facts(path).pixel_hash for path in tmp_path.iterdir()}
    assert len(same) == 1
    assert all(len(text) == 32 for text in same)
    changed = image.copy()
    changed[5, 5, 0] ^= 1
    others = [changed, image.astype(np.uint16), image.reshape(300, 140, 3), image[..., :1]]
    for at, other in enumerate(others):
        write_tiff(tmp_path / f"{at}.tif", other)
    assert len({image_facts(tmp_path / f"{at}.tif").pixel_hash for at in range(4)} | same) == 5


@pytest.mark.parametrize("side", [31, 64, 100, 1500])
def test_the_perceptual_hash_is_nearly_that_of_the_image(tmp_path: Path, side: int) -> None:
    image = draw_cells(128, seed=1, index=0)[0]
    image = ndimage.zoom(image, (side / 128, (side - 7) / 128, 1), order=1)
    write_png(tmp_path / "a.png", image)
    hashed = image_facts(tmp_path / "a.png").perceptual_hash
    assert distance(hashed, perceptual_hash(image.mean(axis=-1))) < 6


def test_pixels_without_data_show_nothing(tmp_path: Path) -> None:
    drawn = draw_cells(256, seed=1, index=0)[0].astype(np.float32)
    write_tiff(tmp_path / "a.tif", drawn)
    plain = image_facts(tmp_path / "a.tif").perceptual_hash
    for value in (-9999.0, np.nan, float(np.finfo(np.float32).min)):
        spoilt = drawn.copy()
        spoilt[:30, :20] = value
        write_tiff(tmp_path / "b.tif", spoilt)
        assert distance(image_facts(tmp_path / "b.tif").perceptual_hash, plain) < SURE


# ------------------------------------------------------------------ fill values


def reflectances(dtype: type) -> Array:
    """A scene with values from 200 to 15,000, as of Sentinel-2."""
    drawn = np.random.default_rng(3).lognormal(7, 0.6, (100, 100, 4))
    scene: Array = drawn.clip(200, 15000).astype(dtype)
    return scene


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (np.int16, -9999),
        (np.int16, -32768),
        (np.uint16, 65535),
        (np.float32, -9999),
        (np.float32, -32768),
        (np.float32, 65535),
        (np.float32, np.finfo(np.float32).min),
    ],
)
@pytest.mark.parametrize("bands", [slice(None), slice(2, 3)])
def test_a_fill_value_is_found_unless_it_is_declared(
    tmp_path: Path, dtype: type, value: float, bands: slice
) -> None:
    image = reflectances(dtype)
    image[:10, :50, bands] = value
    facts = image_facts(write_geotiff(tmp_path / "a.tif", image))
    assert (facts.fill, facts.fill_share) == (value, 0.05)
    assert image_facts(write_geotiff(tmp_path / "b.tif", image, nodata=value)).fill is None


def spots(peak: float) -> Array:
    """Blurred points of light on a dim, noisy ground, cut off at the top of 16 bits."""
    rng = np.random.default_rng(5)
    light = np.zeros((200, 200))
    light[tuple(rng.integers(0, 200, (2, 60)))] = peak
    light = ndimage.gaussian_filter(light, 2.5) + rng.normal(500, 60, light.shape)
    pixels: Array = light.clip(0, 65535).astype(np.uint16)[..., None]
    return pixels


def white_ground() -> Array:
    """Dark things on an overexposed ground, with soft edges."""
    mask = ndimage.gaussian_filter((np.indices((200, 200)).sum(0) // 40 % 2) * 1.0, 1)
    shade = np.random.default_rng(6).normal(6000, 900, mask.shape)
    pixels: Array = (shade * mask + 90000 * (1 - mask)).clip(0, 65535).astype(np.uint16)
    return pixels[..., None]


@pytest.mark.parametrize(
    "image",
    [
        spots(5e6),
        spots(2e7),
        white_ground(),
        np.where(np.indices((50, 50, 1))[0] < 20, 65535, 0).astype(np.uint16),
        np.full((50, 50, 1), 65535, np.uint16),
        np.random.default_rng(0).integers(-12000, -9000, (99, 99, 1)).astype(np.int16),
        np.random.default_rng(0).integers(-9999, -9900, (99, 99, 1)).astype(np.int16),
        np.random.default_rng(0).integers(0, 255, (99, 99, 3), np.uint8),
    ],
    ids=["spots", "bright spots", "white", "binary", "constant", "depths", "bottom", "photo"],
)
def test_saturated_and_deep_pixels_are_no_fill(tmp_path: Path, image: Array) -> None:
    write_tiff(tmp_path / "a.tif", image)
    facts = image_facts(tmp_path / "a.tif")
    assert (facts.fill, facts.fill_share) == (None, 0)
    assert "uint16" not in facts.dtype or facts.at_high[0] > 0.01  # there is something to mistake


def test_a_few_pixels_are_no_fill(tmp_path: Path) -> None:
    image = reflectances(np.float32)
    image[0, :49] = -9999
    write_tiff(tmp_path / "a.tif", image)
    assert image_facts(tmp_path / "a.tif").fill is None
    image[0, :50] = -9999
    write_tiff(tmp_path / "a.tif", image)
    assert image_facts(tmp_path / "a.tif").fill == -9999


# ------------------------------------------------------------------ what the header says


def test_the_bands_that_pillow_overlooks_are_told(real_data: Path) -> None:
    (pair,) = find_pairs(real_data / "sen1floods11_sample").pairs
    facts = image_facts(pair.image)
    assert (facts.bands, facts.pillow_bands, facts.nodata) == (13, 1, 0)


def test_no_real_image_has_a_fill_value(real_data: Path) -> None:
    for name in ("nucseg_16bit", "sen1floods11_tiles13band", "sen1floods11_sample"):
        facts = [image_facts(pair.image) for pair in find_pairs(real_data / name).pairs]
        assert {(fact.fill, fact.bad) for fact in facts} == {(None, 0)}
