"""Augmentation: geometry moves image and mask together, colour moves the image only.

albumentations does the work. It wants uint8, or float32 in 0–1; so images of other types are
mapped to 0–1 by the range of each band in the window before, and back after. The range is the
window's own because 16-bit data are skewed: noise in proportion to the brightest pixel of a data
set would drown most of its images.
"""

import random
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONTEXT = 1.25
"""Side of the window that is cut for a rotated or scaled crop, relative to the crop."""


class Augmenter:
    """One profile of augmentations.

    Args:
        profile: "none", "light" (flips, right angles, brightness) or "full" (also free rotation,
            scale, elastic deformation, gamma, noise and blur).
        size: Side of the crops returned, pixels.
        upright: Up is up in the images: they are mirrored left to right and tilted a little, and
            never turned upside down.
    """

    def __init__(self, profile: str, size: int, *, upright: bool = False) -> None:
        from unetseg.data.crops.transforms import pipeline  # takes a second, which planning saves

        self.window = round(size * CONTEXT) if profile == "full" else size
        self.pipeline = pipeline(profile, size, upright)

    def __call__(
        self, image: NDArray[Any], mask: NDArray[np.uint8], seed: int
    ) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Augment a window; the result is a pure function of the arguments.

        Args:
            image: window×window×C, raw pixel values.
            mask: window×window, class indexes.
            seed: Seed of every random draw.

        Returns:
            Image and mask of size×size; the image in its own type, float32 when that is not uint8.
        """
        # One stream for all transforms: set_random_seed would give each the same numbers, so that
        # those with the smaller probabilities came only together with all the others.
        self.pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        if image.dtype == np.uint8:
            moved = self.pipeline(image=image, mask=mask)
            return moved["image"], moved["mask"]
        low, span = band_range(image)
        unit = image.astype(np.float32)
        _each_band(np.subtract, unit, low)
        _each_band(np.divide, unit, span)
        moved = self.pipeline(image=unit, mask=mask)
        back = np.ascontiguousarray(moved["image"])
        _each_band(np.multiply, back, span)
        _each_band(np.add, back, low)
        return back, moved["mask"]


def band_range(image: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The lowest value of each band of an image H×W×C, and how far the highest is above it, or 1.

    >>> band_range(np.array([[[1, 7], [3, 7]]], np.uint16))
    (array([1., 7.], dtype=float32), array([2., 1.], dtype=float32))
    """
    rows = image.reshape(len(image), -1)  # numpy is slow along an axis as short as bands
    low, high = (
        extreme(extreme(rows, 0).reshape(image.shape[1:]), 0).astype(np.float32)
        for extreme in (np.min, np.max)
    )
    span = high - low
    span[span == 0] = 1
    return low, span


def _each_band(change: np.ufunc, image: NDArray[np.float32], values: NDArray[np.float32]) -> None:
    """Change each band of a contiguous image H×W×C by its own value, in place."""
    rows = image.reshape(len(image), -1)
    change(rows, np.tile(values, image.shape[1]), out=rows)
