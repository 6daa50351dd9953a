"""Images in memory: arrays, tensors, lists and Pillow images, read as the file of them would be."""

import os
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from unetseg.bundle import BundleInfo
from unetseg.data.files.arrays import MOST_COLOURS
from unetseg.data.files.image import Picture
from unetseg.data.files.limits import explained
from unetseg.data.files.nodata import told_missing
from unetseg.data.files.photos import coloured, pillow_pixels
from unetseg.errors import ConfigError, ImageError
from unetseg.prediction.stream import check_image
from unetseg.text import first_line

LEAST_SIDE = 32
"""Axes with more entries than that are sides of an image, not its bands."""
KINDS = "a path, an array, a tensor, a list of numbers or a Pillow image"


def image_in_memory(
    given: object, info: BundleInfo, name: Path, nodata: float | None = None
) -> NDArray[Any]:
    """An image in memory as `check_image` gives it.

    - The last axis holds the bands, red before green before blue; the first does where only that
      has as many as the model, or has up to four beside two longer than `LEAST_SIDE`.
    - A model of 8-bit images takes any numbers of 0–255, rounded; floats of 0–1, as torchvision and
      scikit-image have them, are multiplied by 255.
    - The masked pixels of a masked array have no data where all bands are masked.

    Args:
        given: See `KINDS`, a path excepted.
        info: What the model was trained on.
        name: What the image is called in errors.
        nodata: The value of pixels without data; NaN is one in any case.

    Raises:
        ImageError: it is no image, or none that the model can read.
    """
    valid: NDArray[np.bool_] | None = None
    has_alpha = False
    if isinstance(given, Image.Image):
        has_alpha = given.has_transparency_data
        with explained(name):
            pixels = Picture(*coloured(given, pillow_pixels(given))).values(name)
    else:
        pixels = bands_last(numbers(given, name), info.bands, name)
        if isinstance(pixels, np.ma.MaskedArray):
            valid = np.asarray(~np.ma.getmaskarray(pixels).all(axis=-1))
            pixels = pixels.data
    if info.dtype == "uint8" and pixels.dtype != np.uint8:
        missing = told_missing(pixels, nodata, valid)
        pixels, nodata = as_bytes(pixels, missing, name), None
        valid = None if missing is None else ~missing
    pixels = Picture(pixels).values(name)
    return check_image(pixels, info, name, nodata, valid=valid, has_alpha=has_alpha)


def nodata_value(given: object) -> float | None:
    """The value of pixels without data, if one is given.

    Raises:
        ConfigError: it is not one real number.
    """
    if given is None or (isinstance(given, Real) and not isinstance(given, bool)):
        return None if given is None else float(given)
    raise ConfigError(
        f"nodata is {given!r}, expected one real number",
        fix="Give the value that all bands hold where there are no data, such as nodata=0.",
    )


def refuse_one_image(given: object, bands: int) -> None:
    """Refuse one image where several are expected: its rows, or letters, would be taken for them.

    Raises:
        ImageError: it is a path, of Pillow, or an array with too few axes to hold several.
    """
    axes = getattr(given, "ndim", 4)
    if isinstance(given, (str, os.PathLike, Image.Image)) or axes < (4 if bands > 1 else 3):
        fix = "`predict` takes one image; or put it in a list: predict_many([image])."
        raise ImageError("predict_many got one image, expected several", fix=fix)


def numbers(given: object, name: Path) -> NDArray[Any]:
    """Anything that NumPy or torch can see as an array of numbers; booleans are 0 and 255.

    Raises:
        ImageError: it is none.
    """
    kind = type(given).__name__
    fix = f"Give {KINDS}."
    if isinstance(given, (bytes, bytearray, memoryview)) or hasattr(given, "read"):
        fix = (
            "Give its path, or open it first: PIL.Image.open(file), or of bytes io.BytesIO(bytes)."
        )
        raise ImageError(f"{name} is {kind}, the content of a file", fix=fix)
    try:
        if isinstance(given, torch.Tensor):
            given = given.detach().cpu()
            given = given.float() if given.dtype == torch.bfloat16 else given  # NumPy has none
            given = given.numpy()
        array = np.asanyarray(given)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged, sparse, on another device
        reason = first_line(error)
        raise ImageError(f"{name} ({kind}) is no array: {reason}", fix=fix) from error
    if array.dtype.kind not in "biuf":
        raise ImageError(f"{name} is {kind} of {array.dtype}, expected numbers", fix=fix)
    return array * np.uint8(255) if array.dtype == np.bool_ else array


def bands_last(array: NDArray[Any], bands: int, name: Path) -> NDArray[Any]:
    """H×W, H×W×C or C×H×W as H×W×C.

    Raises:
        ImageError: it is none of them, or empty.

    >>> bands_last(np.zeros((3, 40, 50)), 3, Path("x")).shape
    (40, 50, 3)
    """
    if array.ndim not in (2, 3) or not array.size:
        told = "×".join(map(str, array.shape)) or "a single number"
        fix = "`predict_many` takes several images." if array.ndim == 4 and array.size else ""
        raise ImageError(f"{name} is {told}, expected H×W, H×W×C or C×H×W", fix=fix)
    if array.ndim == 2:
        return array[:, :, None]
    first, middle, last = array.shape
    is_first = first <= MOST_COLOURS and min(middle, last) > LEAST_SIDE
    if last != bands and (first == bands or is_first):
        return array.transpose(1, 2, 0)
    return array


def as_bytes(
    pixels: NDArray[Any], missing: NDArray[np.bool_] | None, name: Path
) -> NDArray[np.uint8]:
    """Numbers of 0–255, or floats of 0–1, as uint8; 0 where they are missing.

    Raises:
        ImageError: there are others.
    """
    if missing is not None:
        pixels = np.where(missing[..., None], 0, pixels)
    low, high = pixels.min(), pixels.max()
    scale = 255 if pixels.dtype.kind == "f" and high <= 1 else 1
    if not 0 <= low <= high <= 255:
        raise ImageError(
            f"{name} holds {pixels.dtype} values from {low:g} to {high:g}, the model was trained "
            "on uint8 images",
            fix="Give the values of 8 bits, 0 to 255, or floats from 0 to 1.",
        )
    return np.asarray(np.rint(pixels * scale), np.uint8)
