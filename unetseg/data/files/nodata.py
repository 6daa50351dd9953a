"""Pixels without data: which they are, how they are carried along, what the network sees there.

A file tells them by a value that all bands hold (GDAL_NODATA), by NaN in all bands, by a mask band
or a .msk file, or by alpha. In memory an image of C bands then has one more, its last: 0 where it
has no data. So any part of it knows its gaps. They get no class, count in no loss and no score.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.data.files.bands import match_bands
from unetseg.data.files.image import ImageFile

FAR = 10
"""Deviations from the mean; a value further off is a number like −9999, no brightness."""

_FLOAT32 = np.finfo(np.float32)


def holds_nodata(image: NDArray[Any], nodata: float) -> NDArray[np.bool_]:
    """Where `image` (H×W×C) holds `nodata` in all bands, H×W.

    >>> holds_nodata(np.array([[[0, 0], [0, 7]]]), nodata=0)
    array([[ True, False]])
    """
    # The file may have been float64; see `read_image`.
    if image.dtype == np.float32 and np.isfinite(nodata):
        nodata = float(np.clip(nodata, _FLOAT32.min, _FLOAT32.max))
    missing = np.ones(image.shape[:2], bool)
    for band in np.moveaxis(image, -1, 0):
        missing &= np.isnan(band) if np.isnan(nodata) else band == nodata
    return missing


def told_missing(
    image: NDArray[Any], nodata: float | None = None, valid: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_] | None:
    """Where `image` (H×W×C, without alpha) has no data, H×W; None where it has data everywhere.

    Args:
        image: Raw pixel values.
        nodata: The value that is declared for pixels without data.
        valid: Where a mask says that there are data, H×W.
    """
    told = [] if valid is None else [~valid]
    if nodata is not None:
        told.append(holds_nodata(image, nodata))
    if image.dtype.kind == "f" and np.isnan(image).any():
        told.append(holds_nodata(image, np.nan))
    missing = np.logical_or.reduce(told) if told else None
    return missing if missing is not None and missing.any() else None


def with_gaps(
    image: NDArray[Any], bands: int, missing: NDArray[np.bool_] | None, *, always: bool = False
) -> NDArray[Any]:
    """`image` with one band more than `bands`, if it misses data or `always` says so.

    Args:
        image: H×W×C, or H×W×C+1 where it has alpha.
        bands: C.
        missing: Where it has no data, H×W, beside what alpha says.
        always: Add the band even where no pixel is without data.
    """
    if missing is None and (not always or image.shape[-1] > bands):
        return image
    last = image[..., bands] != 0 if image.shape[-1] > bands else np.ones(image.shape[:2], bool)
    if missing is not None:
        last &= ~missing
    return np.concatenate([image[..., :bands], last[..., None].astype(image.dtype)], axis=-1)


def read_matched(file: ImageFile, bands: int, *window: int, always: bool = False) -> NDArray[Any]:
    """The pixels of a file, or of a window of it, with so many bands, and one more for gaps.

    Raises:
        ImageError: they cannot be read, or have other bands.
    """
    image = match_bands(file.read(*window), bands, file.path, has_alpha=file.alpha)
    missing = told_missing(image[..., :bands], file.nodata, file.valid(*window))
    # Without a band that was dropped: a view would keep it in memory, and slows every crop.
    return np.ascontiguousarray(with_gaps(image, bands, missing, always=always))


def missing_pixels(image: NDArray[Any], bands: int) -> NDArray[np.bool_] | None:
    """Where an image of `bands` bands, and perhaps one more, has no data, H×W; None: nowhere.

    >>> missing_pixels(np.array([[[5, 0], [0, 1]]]), bands=1)
    array([[ True, False]])
    """
    missing = image[..., bands] == 0 if image.shape[-1] > bands else None
    return missing if missing is not None and missing.any() else None


def filled(image: NDArray[Any], mean: NDArray[Any], std: NDArray[Any]) -> NDArray[Any]:
    """The C bands of `image`, H×W×C or one more, as the network sees them.

    Where there are no data, the mean of each band stands for a value that lies far off. A black
    margin is a brightness that the network may have been trained with, and stays. But NaN or −9999
    would drown what lies beside it.

    Args:
        image: Raw pixel values.
        mean: Mean of the training pixels, per band.
        std: Deviation of the training pixels, per band.
    """
    bands = len(mean)
    missing = missing_pixels(image, bands)
    image = image[..., :bands]
    if missing is None:
        return image
    values = image[missing]  # N, C
    far = ~(np.abs(values - mean) <= FAR * std).all(axis=-1)
    if far.any():
        values[far] = mean.astype(image.dtype)
        image = image.copy()
        image[missing] = values
    return image
