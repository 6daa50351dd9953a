"""Pictures for looking at: masks drawn over images, errors marked, many on one sheet.

Every picture is uint8 H×W×3, RGB. Pictures are for eyes only: nothing here feeds a network or a
score.
"""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from unetseg.data.masks.class_map import IGNORED

Picture = NDArray[np.uint8]
Levels = NDArray[np.float64]
"""The values drawn black and white, C×2."""

STRETCH = (1.0, 99.0)
"""Percentiles of the pixel values that are drawn black and white."""
STRETCH_PIXELS = 1 << 18
"""About how many pixels the percentiles are taken of."""
OUTLINE_STEP = 600
"""Outlines grow by a pixel for each so many pixels of the picture's shorter side."""
GAP = 4
"""Pixels between the cells of a contact sheet."""
PAPER = 246
"""Grey of the contact sheet around and between pictures."""
IGNORED_COLOUR = (128, 128, 128)
ERROR_COLOURS = {
    "hit": (0, 170, 130),
    "miss": (200, 60, 0),
    "false alarm": (30, 80, 220),
    "class swap": (250, 225, 60),
}
"""What `error_overlay` draws: truth found, truth taken for background, background taken for a
class, one class given another; told apart by colour-blind eyes too."""

HIT_OPACITY = 0.3
ERROR_OPACITY = 0.65


def picture(image: NDArray[Any], levels: Levels | None = None) -> Picture:
    """An image of any bands and numbers as RGB.

    Bands: one or two (grey with alpha) are drawn grey, of three or more the first three. 8-bit
    values are drawn as they are. Others are stretched so that their 1st percentile is black and
    their 99th white: all bands alike for up to four (colours stay), each band by itself for
    spectral images. A constant image is black, and so are nan and infinity.

    Args:
        image: H×W×C or H×W, any integer, float or bool type.
        levels: What is drawn black and white, where `image` is a part of a larger one; see
            `levels_of`.

    Returns:
        uint8 H×W×3.

    >>> picture(np.array([[[0.0], [5.0], [10.0]]]))[0, :, 0].tolist()
    [0, 127, 255]
    """
    bands = _drawn_bands(image)
    if bands.dtype != np.uint8:
        bands = _stretched(bands, levels_of(image) if levels is None else levels)
    rgb = np.broadcast_to(bands, (*bands.shape[:2], 3))
    return np.ascontiguousarray(rgb, np.uint8)


def levels_of(image: NDArray[Any]) -> Levels:
    """The values of `image` (H×W×C or H×W) that `picture` draws black and white.

    The levels of a thumbnail serve for every part of a large image. Not used for 8-bit images.

    Returns:
        float64 C×2 of the one or three bands that are drawn.

    >>> levels_of(np.array([[0.0, 50.0, 100.0]])).tolist()
    [[1.0, 99.0]]
    """
    bands = _drawn_bands(image)
    step = max(1, int((bands.shape[0] * bands.shape[1] / STRETCH_PIXELS) ** 0.5))
    with np.errstate(over="ignore"):  # beyond float32: infinity
        values = bands[::step, ::step].astype(np.float32)
    is_spectral = image.ndim == 3 and image.shape[2] > 4
    groups = np.moveaxis(values, 2, 0) if is_spectral else [values] * values.shape[2]
    return np.array([_range(group) for group in groups], np.float64)


def _drawn_bands(image: NDArray[Any]) -> NDArray[Any]:
    """The one or three bands that a picture shows, H×W×C."""
    image = image if image.ndim == 3 else image[..., np.newaxis]
    return image[..., :3] if image.shape[2] >= 3 else image[..., :1]


@np.errstate(over="ignore", invalid="ignore")  # beyond float32: drawn black, as infinity is
def _stretched(bands: NDArray[Any], levels: Levels) -> Picture:
    """H×W×C numbers as uint8 between the levels of each band."""
    values = bands.astype(np.float32)
    for band, (black, white) in enumerate(levels):
        values[..., band] -= np.float32(black)
        values[..., band] *= np.float32(255 / ((white - black) or 1))
    return np.nan_to_num(values, nan=0, posinf=0, neginf=0).clip(0, 255).astype(np.uint8)


def _range(values: NDArray[np.float32]) -> tuple[float, float]:
    """The values to be drawn black and white; equal for constant images."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    black, white = (float(value) for value in np.percentile(finite, STRETCH))
    if black == white:  # nearly all pixels are equal: show the others
        black, white = float(finite.min()), float(finite.max())
    return black, white


def overlay(
    image: NDArray[Any],
    index: NDArray[np.uint8],
    colours: NDArray[Any],
    opacity: float = 0.45,
    background: int | None = None,
    outline: NDArray[np.bool_] | None = None,
) -> Picture:
    """An image with its classes in colour over it, outlines in full colour, ignored pixels grey.

    Args:
        image: H×W×C, anything that `picture` takes.
        index: uint8 H×W class indexes, 255 ignored.
        colours: K×3, RGB 0–255 of each class.
        opacity: 0 shows only the image and the outlines, 1 only the classes.
        background: Index of the class that is not drawn; None draws all.
        outline: Where outlines are, H×W, when `index` is a part of a larger mask; see `outlines`.

    Returns:
        uint8 H×W×3.

    Raises:
        ValueError: the mask has another size than the image.

    >>> image, mask = np.zeros((1, 5, 3), np.uint8), np.array([[0, 1, 1, 1, 1]], np.uint8)
    >>> red = np.array([[0, 0, 0], [200, 0, 0]])
    >>> overlay(image, mask, red, opacity=0.5, background=0)[0, :, 0].tolist()
    [0, 200, 100, 100, 100]
    """
    paint = np.zeros((256, 3), np.uint8)
    paint[: len(colours)] = colours
    opacities = np.zeros(256, np.float32)
    opacities[: len(colours)] = opacity
    if background is not None:
        opacities[background] = 0
    drawn = opacities.copy()
    drawn[: len(colours)] = np.arange(len(colours)) != background
    paint[IGNORED], opacities[IGNORED], drawn[IGNORED] = IGNORED_COLOUR, opacity, 0
    return _paint(image, index, paint, np.stack([opacities, drawn]), outline)


def _paint(
    image: NDArray[Any],
    index: NDArray[np.uint8],
    paint: Picture,
    opacities: NDArray[np.float32],
    outline: NDArray[np.bool_] | None = None,
) -> Picture:
    """Blend 256 colours over a picture; `opacities` is 2×256, for insides and for outlines."""
    if image.shape[:2] != index.shape:
        raise ValueError(f"image of {image.shape[:2]} pixels with a mask of {index.shape}")
    below = picture(image).astype(np.float32)
    if outline is None:
        outline = outlines(index, outline_reach(*index.shape))
    opacity = opacities[outline.astype(np.intp), index][..., np.newaxis]  # H, W, 1
    below += opacity * (paint[index] - below)
    return (below + 0.5).astype(np.uint8)


def outline_reach(height: int, width: int) -> int:
    """Pixels that outlines reach into a class, for a picture of this size."""
    return 1 + min(height, width) // OUTLINE_STEP


def outlines(index: NDArray[np.uint8], reach: int) -> NDArray[np.bool_]:
    """Pixels within `reach` of another class, bool H×W; not those at the border of the image.

    Rows of a large mask come out as they would in the whole where `reach` rows more are given on
    either side.
    """
    square = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    return np.asarray(cv2.morphologyEx(index, cv2.MORPH_GRADIENT, square) > 0)


def error_overlay(
    image: NDArray[Any],
    truth: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    background: int | None,
) -> Picture:
    """A grey image with hits green, misses red, false alarms blue and confused classes yellow.

    Args:
        image: H×W×C, anything that `picture` takes.
        truth: uint8 H×W class indexes, 255 ignored (drawn grey).
        prediction: uint8 H×W class indexes.
        background: Index of the class that is not foreground; None where there is none, and then
            hits, nearly the whole image, stay grey and every error is a confusion.

    Returns:
        uint8 H×W×3, in the colours of `ERROR_COLOURS`.

    Raises:
        ValueError: the masks have another size than the image.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"truth has shape {truth.shape}, prediction {prediction.shape}")
    kinds = _error_kinds(truth, prediction, background)
    paint = np.zeros((256, 3), np.uint8)
    paint[1:5] = list(ERROR_COLOURS.values())
    paint[IGNORED] = IGNORED_COLOUR
    opacities = np.zeros((2, 256), np.float32)
    opacities[:, 1] = 0 if background is None else HIT_OPACITY
    opacities[0, 2:5], opacities[1, 2:5] = ERROR_OPACITY, 1
    opacities[:, IGNORED] = ERROR_OPACITY
    grey = cv2.cvtColor(picture(image), cv2.COLOR_RGB2GRAY)
    return _paint(np.asarray(grey), kinds, paint, opacities)


def _error_kinds(
    truth: NDArray[np.uint8], prediction: NDArray[np.uint8], background: int | None
) -> NDArray[np.uint8]:
    """0 background, 1 hit, 2 miss, 3 false alarm, 4 confused, 255 ignored; H×W."""
    kinds = np.where(truth == prediction, 1, 4).astype(np.uint8)
    if background is not None:
        kinds[prediction == background] = 2
        kinds[truth == background] = 3
        kinds[(truth == background) & (prediction == background)] = 0
    kinds[truth == IGNORED] = IGNORED
    return kinds


def contact_sheet(rows: Sequence[Sequence[NDArray[Any]]], cell: int = 256) -> Picture:
    """Rows of pictures on one sheet, each fitted whole into its cell, thin gaps between.

    A row is as high, and a column as wide, as its largest fitted picture; smaller ones are centred.

    Args:
        rows: Pictures, H×W×3 uint8 of any sizes (or anything that `picture` takes); rows may
            differ in length.
        cell: Longer side of every fitted picture, pixels.

    Returns:
        uint8 H×W×3.

    Raises:
        ValueError: there is no picture.

    >>> contact_sheet([[np.zeros((300, 600, 3), np.uint8)] * 3], cell=64).shape
    (40, 208, 3)
    """
    cells = [[scaled(picture(image), cell) for image in row] for row in rows]
    if not any(cells):
        raise ValueError("a contact sheet needs a picture")
    columns = zip_longest(*cells)  # shorter rows end in None
    heights = [max((image.shape[0] for image in row), default=0) for row in cells]
    widths = [max(image.shape[1] for image in column if image is not None) for column in columns]
    shape = GAP + sum(heights) + GAP * len(heights), GAP + sum(widths) + GAP * len(widths), 3
    sheet = np.full(shape, PAPER, np.uint8)
    for y, row in enumerate(cells):
        for x, image in enumerate(row):
            height, width = image.shape[:2]
            top = GAP + sum(heights[:y]) + GAP * y + (heights[y] - height) // 2
            left = GAP + sum(widths[:x]) + GAP * x + (widths[x] - width) // 2
            sheet[top : top + height, left : left + width] = image
    return sheet


def scaled(image: Picture, cell: int) -> Picture:
    """A picture scaled until its longer side is `cell` pixels."""
    scale = cell / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)
