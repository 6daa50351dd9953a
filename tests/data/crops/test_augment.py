"""Laws of augmentation: image and mask move together, every type and band count survives."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from unetseg.data.crops.augment import Augmenter

PROFILES = ("none", "light", "full")


def blob(side: int) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:side, :side]
    radius = np.hypot(rows - 0.4 * side, columns - 0.6 * side)
    return np.where(radius < side / 5, 1, 0).astype(np.uint8)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    ("dtype", "bands"), [("uint8", 1), ("uint8", 3), ("uint16", 1), ("int16", 13), ("float32", 4)]
)
def test_every_type_and_band_count(profile: str, dtype: str, bands: int) -> None:
    augment = Augmenter(profile, 48)
    rng = np.random.default_rng(0)
    image: NDArray[Any] = rng.integers(0, 200, (augment.window, augment.window, bands)).astype(
        dtype
    )
    if dtype == "int16":
        image -= 100
    before = image.copy()
    moved, mask = augment(image, blob(augment.window), seed=3)
    assert moved.shape == (48, 48, bands)
    assert mask.shape == (48, 48)
    assert moved.dtype == (np.uint8 if dtype == "uint8" else np.float32)
    assert np.isfinite(moved).all()
    assert set(np.unique(mask)) <= {0, 1}
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_values_survive_their_way_through_0_to_1(dtype: str) -> None:
    """Bands of very different range, one of them constant, come back in their own."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, [9, 30_000, 300, 1], (32, 32, 4)) - (dtype != "uint16") * 100
    image = image.astype(dtype)
    back, _ = Augmenter("none", 32)(image, blob(32), seed=0)
    np.testing.assert_allclose(back, image.astype(np.float32), rtol=0, atol=30_000 * 2**-23)
    for band in (0, 2):
        np.testing.assert_allclose(back[..., band], image[..., band], rtol=0, atol=1e-4)
    turned, _ = Augmenter("light", 32)(image, blob(32), seed=1)
    assert turned.shape == image.shape


@pytest.mark.parametrize("profile", PROFILES)
def test_equal_seeds_equal_crops(profile: str) -> None:
    augment = Augmenter(profile, 32)
    image = np.random.default_rng(0).integers(0, 256, (augment.window, augment.window, 3), np.uint8)
    mask = blob(augment.window)
    for seed in range(10):
        first, again = augment(image, mask, seed), Augmenter(profile, 32)(image, mask, seed)
        np.testing.assert_array_equal(first[0], again[0])
        np.testing.assert_array_equal(first[1], again[1])


@pytest.mark.parametrize("profile", PROFILES)
def test_the_mask_follows_the_image(profile: str) -> None:
    """An image that is its own mask still is, up to interpolation, after every draw."""
    augment = Augmenter(profile, 96)
    mask = blob(augment.window)
    image = np.repeat(mask[:, :, None] * 200, 3, 2)
    for seed in range(30):
        moved, truth = augment(image, mask, seed)
        bright = moved.mean(2)
        middle = (float(bright.max()) + float(bright.min())) / 2
        if truth.any() and not truth.all():
            agreement = ((bright > middle) == truth).mean()
            assert agreement > 0.97, seed


def test_colour_never_touches_the_mask() -> None:
    """The light profile only turns and mirrors: the mask keeps its pixels, rearranged."""
    augment = Augmenter("light", 32)
    mask = blob(32)
    image = np.zeros((32, 32, 1), np.uint8)
    for seed in range(10):
        assert augment(image, mask, seed)[1].sum() == mask.sum()


def test_a_constant_image_stays_finite() -> None:
    for dtype in ("uint8", "uint16", "float32"):
        augment = Augmenter("full", 32)
        image: NDArray[Any] = np.full((augment.window, augment.window, 2), 7, dtype)
        assert np.isfinite(augment(image, blob(augment.window), 0)[0]).all()


@pytest.mark.parametrize("profile", ["light", "full"])
def test_upright_images_stay_upright(profile: str) -> None:
    """The sky stays above the ground, whatever is drawn."""
    augment = Augmenter(profile, 64, upright=True)
    ground = np.zeros((augment.window, augment.window), np.uint8)
    ground[augment.window // 2 :] = 1
    image = np.zeros((augment.window, augment.window, 3), np.uint8)
    for seed in range(30):
        _, mask = augment(image, ground, seed)
        assert mask[-1].mean() > mask[0].mean(), seed


def test_transforms_are_drawn_one_by_one() -> None:
    """Mirrored images are brightened no more often than others: all four cases are common."""
    augment = Augmenter("light", 16, upright=True)
    ramp = np.tile(np.arange(100, 116, dtype=np.uint8), (16, 1))
    image = np.stack([ramp] * 3, axis=2)
    cases = [0, 0, 0, 0]
    for seed in range(100):
        moved, mask = augment(image, ramp, seed)
        mirrored = bool(mask[0, 0] > mask[0, -1])
        expected = image[:, ::-1] if mirrored else image
        cases[2 * mirrored + bool((moved != expected).any())] += 1
    assert min(cases) > 10, cases
