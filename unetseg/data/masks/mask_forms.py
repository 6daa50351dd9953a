"""Forms in which programs write masks, brought to one: numbers, indexes of a palette, or RGB."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.data.files.bands import alpha_share, effective_bands
from unetseg.data.files.pages import MaskPath, files_of
from unetseg.data.masks.class_map import Coding
from unetseg.errors import MaskError

ALPHA = "transparent where nothing is: alpha is read as background"
BANDS = "one band for each class: read as numbers from 1"
WHITE_IS_ZERO = "stored with white as 0: read as viewers show them"
_BLACK_AND_WHITE = [(0, 0, 0), (255, 255, 255)]


def usual_form(
    pixels: NDArray[Any], path: MaskPath, *, white_is_zero: bool, has_alpha: bool
) -> tuple[NDArray[Any], str]:
    """The pixels H×W×C of a mask as those of other masks, and the form that they had, or "".

    Of a picture in one colour the alpha band is the mask; where all that is transparent has one
    colour, alpha adds nothing. Of 4 and more bands of black and white each is a class, numbered
    from 1, and so of 2 and 4 that share the pixels, where none is declared to be alpha. Black and
    white of a TIFF whose white is 0 are as viewers show them.

    Raises:
        MaskError: a pixel has several classes.
    """
    bands = pixels.shape[-1]
    if white_is_zero and bands == 1 and is_black_and_white(pixels):
        return 255 - pixels, WHITE_IS_ZERO
    if bands in (1, 3) or effective_bands(pixels) != bands:
        return pixels, ""
    marked = _marked(pixels)
    is_split = marked is not None and bool((marked.sum(axis=-1) == 1).all())
    is_split &= not has_alpha
    if bands in (2, 4) and not is_split:
        colours, alpha = pixels[..., :-1], pixels[..., -1]
        if pixels.dtype == np.uint8 and bool((colours == colours[:1, :1]).all()):
            return alpha[..., None], ALPHA
        clear = colours[alpha == 0]
        if alpha_share(pixels) == 1 and bool((clear == clear[:1]).all()):
            return colours, ALPHA
    if marked is None or (bands == 2 and not is_split):
        return pixels, ""
    several = int((marked.sum(axis=-1) > 1).sum())
    if several:
        white = pixels.max()
        raise _no_class_numbers(
            path,
            f"has {bands} bands of {white} and 0, and {several} pixels are {white} in several",
            "A pixel has one class here: save one band, in which each class has a number.",
        )
    numbers = (marked.argmax(axis=-1) + 1) * marked.any(axis=-1)
    return numbers[..., None].astype(np.uint8), BANDS


def coding_of(
    bands: int,
    dtype: np.dtype[Any],
    palette: NDArray[np.uint8] | None,
    strips: Iterable[NDArray[Any]],
    path: MaskPath,
) -> tuple[Coding, tuple[int, ...] | None]:
    """What the values of so many bands are, without alpha, and the palette as 768 numbers.

    A palette of black and white alone is grey, where no `strips` of the mask use other indexes.

    Raises:
        MaskError: the bands are no mask.
    """
    if palette is not None:
        colours = palette[:, :3]
        if bool((colours == np.arange(256)[:, None]).all()):  # index = grey value
            return "integer", None
        entries = [*map(tuple, colours.tolist())]
        is_plain = sorted(entries[:2]) == sorted({*entries}) == _BLACK_AND_WHITE
        if is_plain and all(bool((strip < 2).all()) for strip in strips):
            return "integer", None
        return "palette", tuple(colours.ravel().tolist())
    if bands == 1:
        return "integer", None
    if bands == 3 and dtype == np.uint8:
        return "rgb", None
    raise no_mask(path, bands, dtype)


def whole_numbers(pixels: NDArray[Any], path: MaskPath) -> NDArray[Any]:
    """Bring mask values to uint8, uint16, int16 or int32 without loss.

    Raises:
        MaskError: they are no integers, or too large; `path` is named.
    """
    if pixels.dtype in (np.uint8, np.uint16, np.int16, np.int32):
        return pixels
    kind = pixels.dtype.kind
    if kind not in "iuf":
        raise _no_class_numbers(path, f"holds {pixels.dtype} values, expected integers")
    if kind == "f" and not bool((np.isfinite(pixels) & (pixels == np.rint(pixels))).all()):
        fix = "Save class numbers as integers; use a number of its own where there is no truth."
        raise _no_class_numbers(path, "holds fractions or NaN, expected integers", fix)
    low, high = int(pixels.min()), int(pixels.max())
    for dtype in (np.uint8, np.int16, np.int32) if kind == "f" else (np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return pixels.astype(dtype)
    came = f"holds values from {low} to {high}, too large for class numbers"
    raise _no_class_numbers(path, came)


def no_mask(path: MaskPath, bands: int, dtype: np.dtype[Any]) -> MaskError:
    """The refusal of bands that are no mask."""
    return _no_class_numbers(
        path,
        f"has {bands} bands of {dtype}, expected one band, a palette or RGB",
        "Save the mask with one band of class numbers, or as 8-bit RGB without transparency.",
    )


def is_black_and_white(pixels: NDArray[Any]) -> bool:
    """Whether there is nothing but 0 and 255."""
    return pixels.dtype == np.uint8 and bool(((pixels == 0) | (pixels == 255)).all())


def _marked(pixels: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Where H×W×C is white, if it holds but black and white, as 0 and 1 or 0 and 255."""
    if pixels.dtype.kind not in "iuf" or not pixels.size or (white := pixels.max()) not in (1, 255):
        return None
    marked: NDArray[np.bool_] = pixels == white
    return marked if bool(((pixels == 0) | marked).all()) else None


def _no_class_numbers(path: MaskPath, came: str, fix: str = "") -> MaskError:
    return MaskError(f"{path} {came}", fix=fix, code="mask-values", paths=files_of(path))
