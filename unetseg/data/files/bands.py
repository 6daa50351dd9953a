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


def without_loss(pixels: NDArray[Any], path: Path) -> NDArray[Any]:
    """Bring any number type to uint8, uint16, int16 or float32 without loss.

    Raises:
        ImageError: the values of the file `path` fit none of the four.
    """
    if pixels.dtype in (np.uint8, np.uint16, np.int16, np.float32):
        return pixels
    if pixels.dtype.kind == "f":
        return _as_float32(pixels, path)
    if pixels.dtype.kind not in "iu":
        raise not_numeric(pixels.dtype, path)
    low, high = int(pixels.min()), int(pixels.max())
    for dtype in (np.dtype(np.uint16), np.dtype(np.int16)):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return pixels.astype(dtype)
    if max(-low, high) <= 2**24:  # every such integer is a float32
        return pixels.astype(np.float32)
    fix = "Divide the values so that they fit 16 bits, or save them as float32."
    raise ImageError(f"{path} holds integers from {low} to {high}, too large to keep", fix=fix)


def not_numeric(dtype: np.dtype[Any], path: Path) -> ImageError:
    """The refusal of values that are no numbers."""
    return ImageError(f"{path} holds {dtype} values, expected integers or floats")


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
