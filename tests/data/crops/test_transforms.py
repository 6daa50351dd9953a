"""The faster transforms against those of albumentations: the same draws, the same pixels."""

from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from unetseg.data.crops.transforms import Elastic, Symmetry

REFLECT = cv2.BORDER_REFLECT_101


def pair(side: int, dtype: str, bands: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    rng = np.random.default_rng(side)
    image = rng.integers(0, 256, (side, side, bands), np.uint8)
    mask = rng.integers(0, 3, (side, side), np.uint8)
    return (image if dtype == "uint8" else (image / np.float32(255))), mask


def compare(
    fast: A.BasicTransform, reference: A.BasicTransform, side: int, dtype: str, bands: int
) -> None:
    image, mask = pair(side, dtype, bands)
    for seed in range(16):
        results = []
        for transform in (fast, reference):
            transform.set_random_seed(seed)
            results.append(transform(image=image, mask=mask))
        first, second = results
        for key in ("image", "mask"):
            assert first[key].dtype == second[key].dtype
            np.testing.assert_array_equal(first[key], second[key], err_msg=f"seed {seed}")


@pytest.mark.parametrize(
    ("dtype", "bands"), [("uint8", 1), ("uint8", 3), ("float32", 4), ("float32", 13)]
)
@pytest.mark.parametrize("size", [16, 61, 128])
def test_elastic_is_the_middle_of_albumentations(size: int, dtype: str, bands: int) -> None:
    """Small sizes too, where the smoothed displacements of x and y touch."""
    whole = A.ElasticTransform(alpha=60, sigma=8, approximate=True, border_mode=REFLECT, p=1)
    middle = A.Compose([whole, A.CenterCrop(size, size)])
    compare(Elastic(size, 60, 8, REFLECT, p=1), middle, round(1.25 * size), dtype, bands)


@pytest.mark.parametrize(
    ("dtype", "bands"), [("uint8", 1), ("uint8", 3), ("float32", 4), ("float32", 13)]
)
def test_symmetry_is_that_of_albumentations(dtype: str, bands: int) -> None:
    compare(Symmetry(p=1), A.SquareSymmetry(p=1), 21, dtype, bands)
