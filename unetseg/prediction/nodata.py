"""Pixels without data: which they are, what the network sees there, and what the mask holds.

A GeoTIFF may declare a value for pixels without data (GDAL_NODATA). A pixel that holds it in all
bands gets no class: inside the program its index is `IGNORED`, and in the mask it has its own code.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.data.masks import IGNORED, ClassMap, Code

FAR = 10
"""Deviations from the mean; a no-data value further off is a number like −9999, no brightness."""


def missing_pixels(image: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    """Where `image` (H×W×C) holds `nodata` in all bands, H×W; nowhere when that is None.

    >>> missing_pixels(np.array([[[0, 0], [0, 7]]]), nodata=0)
    array([[ True, False]])
    """
    if nodata is None:
        return np.zeros(image.shape[:2], bool)
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


def no_data_code(class_map: ClassMap) -> Code | None:
    """The code of a mask's pixels without data: of ignored pixels, or a number that is no class.

    That is the highest number of the masks' type without a meaning. Palettes and colours have no
    such code to spare: None.

    >>> from unetseg.data.masks import ClassInfo
    >>> cell = ClassInfo(name="cell", code=255, colour=(0, 0, 0))
    >>> no_data_code(ClassMap(classes=(cell,)))
    254
    """
    if class_map.ignore:
        return class_map.ignore[0]
    if class_map.coding != "integer":
        return None
    taken = {item.code for item in class_map.classes}
    highest = int(np.iinfo(class_map.dtype).max)
    return next(code for code in range(highest, highest - 256, -1) if code not in taken)


def no_data_tag(class_map: ClassMap) -> float | None:
    """What a mask of an image that may lack pixels declares as its no-data value."""
    code = no_data_code(class_map)
    return None if isinstance(code, tuple) else code


def mask_pixels(index: NDArray[np.uint8], class_map: ClassMap) -> NDArray[Any]:
    """Indexes (uint8 H×W, `IGNORED` without data) in the coding of the masks.

    Without data a pixel gets the no-data code, or where there is none, that of the background.
    """
    missing = index == IGNORED
    if not missing.any():
        return class_map.decode(index)
    pixels = class_map.decode(np.where(missing, np.uint8(class_map.background or 0), index))
    code = no_data_code(class_map)
    if code is not None:
        pixels[missing] = code
    return pixels
