"""Mean and deviation of an image that comes in parts."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Moments:
    """Mean and deviation of every band of an image, in float64, part by part.

    The parts' sums of squares are taken around their own means and merged, so that nothing is lost
    where the mean is large (Chan, Golub and LeVeque 1983, The American Statistician 37:242).

    Args:
        bands: C.

    >>> moments = Moments(1)
    >>> for part in ([[[1.0]], [[2.0]]], [[[6.0]]]):
    ...     moments.add(np.array(part))
    >>> moments.mean.tolist(), (moments.std**2).round(6).tolist()
    ([3.0], [4.666667])
    """

    def __init__(self, bands: int) -> None:
        self.pixels = 0
        self.mean = np.zeros(bands)
        self._squares = np.zeros(bands)  # sums of (value − mean)²

    def add(self, image: NDArray[Any], missing: NDArray[np.bool_] | None = None) -> None:
        """Take in the pixels of `image` (H×W×C), those that are `missing` (H×W) left out."""
        kept = None if missing is None or not missing.any() else ~missing
        pixels = image[..., 0].size if kept is None else int(kept.sum())
        if not pixels:
            return
        together = self.pixels + pixels
        for band in range(image.shape[-1]):
            # Band by band: numpy reduces contiguous pixels many times faster than interleaved ones.
            values = image[..., band].ravel() if kept is None else image[..., band][kept]
            mean = values.mean(dtype=np.float64)
            shift = mean - self.mean[band]
            self._squares[band] += values.var(dtype=np.float64) * pixels
            self._squares[band] += shift**2 * self.pixels * pixels / together
            self.mean[band] += shift * pixels / together
        self.pixels = together

    @property
    def std(self) -> NDArray[np.float64]:
        """Deviation of each band; 0 without pixels."""
        return np.sqrt(self._squares / max(1, self.pixels))
