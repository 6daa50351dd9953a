"""Whether up is up: do the classes lie at heights of their own, image after image?

In street scenes the sky is above and the road below; under a microscope no direction is special.
Where up is up, turning images upside down teaches the network what it will never see.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

LARGE_ENOUGH = 0.01
"""Share of an image that a class must cover to count there."""
FEWEST_IMAGES = 5
"""Images in which a class must count to tell anything."""
OFF_CENTRE = 0.08
"""Distance of a class's mean height from the middle, in image heights, that tells."""
DISTINCT = 1.5
"""That distance in standard deviations between images that tells."""


def is_upright(masks: Iterable[NDArray[np.uint8]], classes: Sequence[int]) -> bool:
    """Whether some class lies above or below the middle in nearly every image.

    Args:
        masks: H×W class indexes.
        classes: Indexes of the classes to look at.

    >>> above = np.repeat(np.array([[1], [0]], np.uint8), 4, 0).repeat(4, 1)
    >>> is_upright([above] * 8, [1]), is_upright([above, above[::-1]] * 4, [1])
    (True, False)
    """
    heights = np.array([_heights(mask, classes) for mask in masks]).reshape(-1, len(classes))
    return any(_tells(column[~np.isnan(column)]) for column in heights.T)


def _heights(mask: NDArray[np.uint8], classes: Sequence[int]) -> list[float]:
    """Mean row of each class, 0 at the top to 1 at the bottom; nan where it is too small."""
    rows = (np.arange(len(mask)) + 0.5) / len(mask)
    found = []
    for index in classes:
        pixels = (mask == index).sum(1)  # H
        covered = pixels.sum() >= LARGE_ENOUGH * mask.size
        found.append(float(rows @ pixels / pixels.sum()) if covered else np.nan)
    return found


def _tells(heights: NDArray[np.float64]) -> bool:
    if len(heights) < FEWEST_IMAGES:
        return False
    distance = abs(heights.mean() - 0.5)
    return bool(distance > OFF_CENTRE and distance > DISTINCT * heights.std())
