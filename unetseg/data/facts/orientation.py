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
    heights: dict[int, list[float]] = {index: [] for index in classes}  # 0 top, 1 bottom
    for mask in masks:
        rows = (np.arange(len(mask)) + 0.5) / len(mask)
        for index in classes:
            pixels = (mask == index).sum(1)  # H
            if pixels.sum() >= LARGE_ENOUGH * mask.size:
                heights[index].append(float(rows @ pixels / pixels.sum()))
    for several in heights.values():
        off_centre = abs(np.mean(several) - 0.5) if len(several) >= FEWEST_IMAGES else 0
        if off_centre > OFF_CENTRE and off_centre > DISTINCT * np.std(several):
            return True
    return False
