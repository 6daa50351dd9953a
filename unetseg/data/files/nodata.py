"""Pixels without data: which they are, and what the network sees there.

A GeoTIFF may declare a value for pixels without data (GDAL_NODATA). A pixel that holds it in all
bands gets no class, counts in no loss and in no score.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

FAR = 10
"""Deviations from the mean; a no-data value further off is a number like −9999, no brightness."""

_FLOAT32 = np.finfo(np.float32)


def missing_pixels(image: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    """Where `image` (H×W×C) holds `nodata` in all bands, H×W; nowhere when that is None.

    >>> missing_pixels(np.array([[[0, 0], [0, 7]]]), nodata=0)
    array([[ True, False]])
    """
    if nodata is None:
        return np.zeros(image.shape[:2], bool)
    if image.dtype == np.float32:  # of a file that was float64, perhaps; see `read_image`
        nodata = float(np.clip(nodata, _FLOAT32.min, _FLOAT32.max))
    missing = np.ones(image.shape[:2], bool)
    for band in np.moveaxis(image, -1, 0):
        missing &= np.isnan(band) if np.isnan(nodata) else band == nodata
    return missing


def filled(
    image: NDArray[Any], nodata: float | None, mean: NDArray[Any], std: NDArray[Any]
) -> NDArray[Any]:
    """`image` (H×W×C) with the mean of each band where it has no data, if the value lies far off.

    A black margin is a brightness that the network may have been trained with, and stays. But NaN
    or −9999 would drown what lies beside it.

    Args:
        image: Raw pixel values.
        nodata: The value that is declared for pixels without data.
        mean: Mean of the training pixels, per band.
        std: Deviation of the training pixels, per band.
    """
    if nodata is None or bool((np.abs(nodata - mean) <= FAR * std).all()):
        return image
    missing = missing_pixels(image, nodata)
    if not missing.any():
        return image
    image = image.copy()
    image[missing] = mean.astype(image.dtype)
    return image
