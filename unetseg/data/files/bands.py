"""What becomes of the bands and number types of images, and which band is alpha.

The last of 2 or 4 bands of 8 or 16 bits is alpha where all of it is opaque, and says nothing then.
So is a band that holds but 0 and opaque, or that the file declares: it tells which pixels have
data, if any is 0.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.errors import ImageError

_WHOLE = 2**24
"""Up to here every integer is a float32."""


def effective_bands(image: NDArray[Any]) -> int:
    """The number of bands of `image` (H×W×C) without an opaque alpha band.

    Of 2 or 4 bands of uint8 or uint16 the last is alpha when all of it is 255 or 65535.

    >>> effective_bands(np.full((2, 2, 4), 255, np.uint8))
    3
    """
    bands = int(image.shape[-1])
    if bands not in {2, 4} or image.dtype not in (np.uint8, np.uint16):
        return bands
    opaque = bool((image[..., -1] == np.iinfo(image.dtype).max).all())
    return bands - opaque


def alpha_share(image: NDArray[Any]) -> float:
    """The share of the pixels of `image` (H×W×C) whose last band is at an end, as alpha is, 0–1.

    Of 8 and 16 bits these are 0 and 255 or 65535; other types, and one band, have no alpha.
    """
    if image.shape[-1] == 1 or image.dtype not in (np.uint8, np.uint16):
        return 0
    alpha = image[..., -1]
    return float(((alpha == 0) | (alpha == np.iinfo(image.dtype).max)).mean())


def match_bands(
    image: NDArray[Any], bands: int, path: Path, *, has_alpha: bool = False
) -> NDArray[Any]:
    """Give `image` (H×W×C, read from `path`) the number of bands asked for, losing nothing.

    One band is repeated to three, three equal bands become one. An alpha band is dropped if it is
    nowhere 0; else it stays behind the bands asked for: there are no data where it is 0. A band is
    alpha if the file declares it, as `has_alpha` says, or if, of 2 or 4, it holds but 0 and 255.

    Raises:
        ImageError: only a loss would do it.
    """
    stored = image.shape[-1]
    if stored == bands:
        return image
    is_alpha = has_alpha or (stored in {2, 4} and alpha_share(image) == 1)
    plain = image[..., : stored - is_alpha]
    if plain.shape[-1] == 1 and bands == 3:
        plain = np.repeat(plain, 3, axis=-1)
    elif plain.shape[-1] == 3 and bands == 1 and bool((plain == plain[..., :1]).all()):
        plain = plain[..., :1]
    if plain.shape[-1] != bands:
        fix = f"Convert the images to {bands} bands, or train on images like this one."
        raise ImageError(f"{path} has {image.shape[-1]} bands, expected {bands}", fix=fix)
    if not is_alpha or bool((image[..., -1] != 0).all()):  # soft edges are data
        return plain
    return np.concatenate([plain, image[..., -1:]], axis=-1)


def pixel_type(stored: np.dtype[Any], path: Path) -> np.dtype[Any]:
    """Which of uint8, uint16, int16 and float32 holds the numbers of a stored type.

    Their values do not count: images of one stored type stay of one type, whole and by windows.

    Raises:
        ImageError: the file `path` holds no numbers.
    """
    own = stored.newbyteorder("=")
    if own.kind not in "iuf":
        raise ImageError(f"{path} holds {stored} values, expected integers or floats")
    if own in (np.uint8, np.uint16, np.int16, np.float32):
        return own
    return np.dtype(np.int16 if own == np.int8 else np.float32)


def without_loss(pixels: NDArray[Any], path: Path, nodata: float | None = None) -> NDArray[Any]:
    """Bring any number type to that of `pixel_type` without loss; wide floats are rounded.

    So are integers that are `nodata`: they are no measurement.

    Raises:
        ImageError: float32 does not hold the values of the file `path`.
    """
    dtype = pixel_type(pixels.dtype, path)
    if pixels.dtype == dtype:
        return pixels
    if pixels.dtype.kind == "f":
        return _as_float32(pixels, path)
    held = pixels if nodata is None else pixels[pixels != nodata]
    low, high = (int(held.min()), int(held.max())) if held.size else (0, 0)
    if max(-low, high) > _WHOLE:
        fix = "Divide the values so that they fit 16 bits, or save them as float32."
        raise ImageError(f"{path} holds integers from {low} to {high}, too large to keep", fix=fix)
    return pixels.astype(dtype)


def _as_float32(pixels: NDArray[Any], path: Path) -> NDArray[Any]:
    """Round to float32; the end of the own range, which stands for "no data", becomes the new one.

    Raises:
        ImageError: other values are too large.
    """
    new, own = (float(np.finfo(dtype).max) for dtype in (np.float32, pixels.dtype))
    if own <= new:
        return pixels.astype(np.float32)
    size = np.abs(pixels)
    if bool(((size > new) & (size < own)).any()):
        fix = "Divide the values so that they fit float32."
        raise ImageError(f"{path} holds {pixels.dtype} values too large for float32", fix=fix)
    ends = size == own
    rounded = np.where(ends, np.copysign(new, pixels), pixels) if ends.any() else pixels
    return rounded.astype(np.float32)
