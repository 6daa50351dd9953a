"""Masks that lie beside their images: shifted, mirrored or turned.

Where a mask fits, its outline runs along edges of the image, and the edges run in the direction of
the outline. How well they agree is measured with the mask moved by up to 16 pixels each way. In a
folder where the agreement has one clear peak away from 0, the masks are shifted.

The agreement is Σ e(p)·cos²φ over the pixels p of the outline, with e the strength of the image's
edges as a multiple of that around them, and φ the angle between the normals of edge and outline. As
cos²φ is a product of two tensors (J. Bigün and G. H. Granlund, Optimal Orientation Detection of
Linear Symmetry, ICCV 1987), all moves together are three correlations.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from unetseg.checks.finding import Finding, warning
from unetseg.data.facts.similarity import TURNS
from unetseg.data.facts.survey import Survey
from unetseg.data.files.bands import effective_bands
from unetseg.data.files.image import ImageFile
from unetseg.data.files.windows import upright
from unetseg.data.masks.class_map import IGNORED
from unetseg.data.masks.mask_file import MaskFile
from unetseg.data.pairs.match import Pair
from unetseg.errors import DataError
from unetseg.progress import SILENT, Progress
from unetseg.resources import usable_cores
from unetseg.text import plural

Array = NDArray[np.float32]
Index = NDArray[np.uint8]

REACH = 16  # pixels that masks are moved, each way
FILES = 60  # pairs that are looked at, at most
TASK = "comparing edges"

_SIDE = 1024  # pixels; of larger images the middle is looked at
_BANDS = 4  # of an image with more, so many are looked at
_AROUND = 8  # pixels, sigma: edges are compared with those around them
_OUTLINE = 30  # pixels of outline that a mask needs to be judged

# When masks count as shifted. Of 200 random samples of 3, 5, 10 and 20 pairs from each of 13 data
# sets none did; of samples of five pairs with their masks moved by (4, −8) pixels, 94 of 100 did.
_FEWEST = 3  # pairs
_LEAST = 3  # pixels; smaller offsets are the habits of annotators
_CLEAR = 6.0  # deviations of the peak above the agreement elsewhere
_SHARE = 0.7  # of the files agree more with the peak than with 0
_RATIO = 1.5  # the peak is so many times as high as the agreement at 0
_OPPOSITE = 0.3  # and that at the opposite offset at most this share of it: there, the outline is
# only too wide or too narrow

# When a single mask does, among masks that fit.
_LEAST_ALONE = 4  # pixels
_CLEAR_ALONE = 9.0
_RATIO_ALONE = 2.0

_TURNED = 24  # pairs that are looked at in each of the other orientations


@dataclass(frozen=True)
class Agreement:
    """How well edges and outlines agree, for every offset of the masks from their images.

    Attributes:
        values: 33×33; row 16 + d, column 16 + r is the agreement when the masks lie d pixels below
            and r pixels right of the edges.
    """

    values: Array

    @cached_property
    def peak(self) -> tuple[int, int]:
        """The offset of the best agreement: pixels down, pixels right."""
        row, column = np.unravel_index(int(self.values.argmax()), self.values.shape)
        return int(row) - REACH, int(column) - REACH

    @property
    def distance(self) -> int:
        """The larger of the two numbers of the peak, pixels."""
        return max(abs(self.peak[0]), abs(self.peak[1]))

    @cached_property
    def clarity(self) -> float:
        """The height of the peak in robust deviations of the values more than 5 pixels away."""
        down, right = np.mgrid[-REACH : REACH + 1, -REACH : REACH + 1]
        away = np.maximum(abs(down - self.peak[0]), abs(right - self.peak[1])) > 5
        others = self.values[away]
        spread = 1.4826 * np.median(np.abs(others - np.median(others)))
        return float((self.values.max() - np.median(others)) / max(spread, 1e-9))

    def near(self, down: int, right: int) -> float:
        """The best agreement within a pixel of an offset."""
        row, column = max(down + REACH - 1, 0), max(right + REACH - 1, 0)
        return float(self.values[row : down + REACH + 2, column : right + REACH + 2].max())

    def is_shifted(self, least: int, clear: float, ratio: float) -> bool:
        """Whether the peak is so far from 0, so clear, and so much higher than at 0."""
        if not least <= self.distance < REACH or self.clarity < clear:
            return False
        usual = float(np.median(self.values))
        height = float(self.values.max()) - usual
        down, right = self.peak
        narrow = self.near(-down, -right) - usual <= _OPPOSITE * height
        return narrow and height >= ratio * (self.near(0, 0) - usual)


def inspect_alignment(survey: Survey, progress: Progress = SILENT) -> Iterator[Finding]:
    """Masks that are shifted, mirrored or turned against their images; reads up to 60 pairs."""
    if survey.classes is None:
        return
    shown = [
        pair
        for pair, fact in survey.items()
        if fact.image.shape == fact.mask.shape and len(fact.mask.counts) > 1
    ]
    count = min(FILES, len(shown))
    evenly = [shown[i * len(shown) // count] for i in range(count)]
    seen = _compare(survey, evenly, progress)
    if len(seen) < _FEWEST:
        return
    whole = Agreement(np.mean([one.values for _, one in seen], axis=0))
    moved = [pair for pair, one in seen if one.near(*whole.peak) > one.near(0, 0)]
    if whole.is_shifted(_LEAST, _CLEAR, _RATIO) and len(moved) >= _SHARE * len(seen):
        yield warning(
            "shifted-masks",
            f"the masks lie about {offset(*whole.peak)} the edges of the images, in "
            f"{len(moved)} of the {plural(len(seen), 'pair')} that were compared",
            [pair.mask for pair in moved if pair.mask],
            "Look at some masks over their images, and export the masks again or move them back.",
        )
    elif whole.clarity >= _CLEAR and whole.distance < _LEAST:
        yield from _some_shifted(seen)
    else:
        yield from _all_turned(survey, [pair for pair, _ in seen], progress)


def agreement(image: NDArray[Any], index: Index) -> Agreement | None:
    """Compare an image, H×W×C, with class indexes, H×W; None where the mask shows no outline."""
    outline, weight = _outline(index)
    inner = np.s_[REACH:-REACH, REACH:-REACH]  # what stays inside wherever the mask is moved
    total = float(weight[inner].sum())
    if total < _OUTLINE:
        return None
    framed = [np.zeros_like(part) for part in outline]
    for part, line in zip(framed, outline, strict=True):
        part[inner] = line[inner]
    xx, yy, xy = (_correlate(edge, line) for edge, line in zip(_edges(image), framed, strict=True))
    return Agreement((xx + yy + 2 * xy) / total)


def _correlate(edge: Array, line: Array) -> Array:
    """33×33: at row 16 + d, column 16 + r the sum of edge(p)·line(p + (d, r)) over the pixels."""
    from scipy.fft import irfft2, next_fast_len, rfft2  # training does without

    shape = [next_fast_len(length, real=True) for length in edge.shape]
    product = rfft2(edge, shape).conj() * rfft2(line, shape)
    values = np.roll(irfft2(product, shape), (REACH, REACH), (0, 1))
    return np.asarray(values[: 2 * REACH + 1, : 2 * REACH + 1], np.float32)


def _edges(image: NDArray[Any]) -> tuple[Array, Array, Array]:
    """e·nx², e·ny², e·nx·ny, with n the normal of the edge and e its strength among others."""
    bands = effective_bands(image)
    picked = image[..., : bands : -(-bands // _BANDS)]
    tensor = _tensor([_normalised(layer) for layer in np.moveaxis(picked, -1, 0)])
    strength = np.sqrt(tensor[0] + tensor[1]) + np.float32(1e-12)
    around = cv2.GaussianBlur(strength, (0, 0), _AROUND) + 0.02 * strength.mean() + 1e-9
    xx, yy, xy = (part / (strength * around) for part in tensor)
    return xx, yy, xy


def _normalised(band: NDArray[Any]) -> Array:
    """A band, H×W, with mean 0 and deviation 1; 0 where it holds no number."""
    finite = np.isfinite(band)
    values = np.where(finite, band, band[finite].mean(dtype=np.float64) if finite.any() else 0)
    deviation = max(float(values.std(dtype=np.float64)), 1e-6)
    return np.asarray((values - values.mean(dtype=np.float64)) / deviation, np.float32)


def _outline(index: Index) -> tuple[tuple[Array, Array, Array], Array]:
    """w·nx², w·ny², w·nx·ny of the outlines between classes, and w; none beside ignored pixels.

    Two classes differ in at least one bit of their numbers, so that a layer for each bit shows all.
    """
    valid = index != IGNORED
    bits = range(int(index[valid].max(initial=0)).bit_length())
    layers = [(((index >> bit) & 1) * valid).astype(np.float32) for bit in bits]
    if not layers:
        nothing = np.zeros(index.shape, np.float32)
        return (nothing, nothing, nothing), nothing
    apart = cv2.erode(valid.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(np.float32)
    tensor = _tensor(layers)
    weight = np.sqrt(tensor[0] + tensor[1])
    xx, yy, xy = (part / (weight + np.float32(1e-12)) * apart for part in tensor)
    return (xx, yy, xy), weight * apart


def _tensor(layers: Sequence[Array]) -> tuple[Array, Array, Array]:
    """gx², gy² and gx·gy of the gradients of all layers, H×W each, summed."""
    xx, yy, xy = (np.zeros(layers[0].shape, np.float32) for _ in range(3))
    for layer in layers:
        smooth = cv2.GaussianBlur(layer, (0, 0), 1)
        x = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)
        y = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8)
        xx, yy, xy = xx + x * x, yy + y * y, xy + x * y
    return xx, yy, xy


def _compare(
    survey: Survey, pairs: Sequence[Pair], progress: Progress, orientation: int = 1
) -> list[tuple[Pair, Agreement]]:
    """The agreement of every pair that can be judged, with the mask turned, see `upright`."""

    def look(pair: Pair) -> Agreement | None:
        assert pair.mask is not None  # a survey holds whole pairs
        limit = survey.config.max_pixels
        try:
            with ImageFile(pair.image, limit) as photo, MaskFile(pair.mask, limit) as mask:
                height, width = min(photo.height, _SIDE), min(photo.width, _SIDE)
                middle = (photo.height - height) // 2, (photo.width - width) // 2, height, width
                image = photo.read(*middle)
                pixels, palette = mask.read(*middle), mask.raw.palette
                index = survey.class_map.encode(pixels, pair.mask, palette)
        except DataError:
            return None  # other checks name the file
        index = np.ascontiguousarray(upright(index, orientation))
        return agreement(image, index) if index.shape == image.shape[:2] else None

    seen = []
    progress.start(TASK, len(pairs))
    with ThreadPoolExecutor(usable_cores()) as pool:
        for pair, one in zip(pairs, pool.map(look, pairs), strict=True):
            seen += [(pair, one)] if one is not None else []
            progress.advance(TASK, file=pair.name)
    progress.finish(TASK)
    return seen


def _some_shifted(seen: Sequence[tuple[Pair, Agreement]]) -> Iterator[Finding]:
    """Masks that lie beside their images while the others fit."""
    stray = [
        (pair, one)
        for pair, one in seen
        if one.is_shifted(_LEAST_ALONE, _CLEAR_ALONE, _RATIO_ALONE)
    ]
    if stray:
        yield warning(
            "shifted-mask",
            f"{plural(len(stray), 'mask')} of the {len(seen)} that were compared "
            f"{'lies' if len(stray) == 1 else 'lie'} beside the edges of the image, while the "
            "others fit",
            [(p.mask, f": about {offset(*one.peak)} the edges") for p, one in stray if p.mask],
            "Look at these masks over their images, and draw or export them again.",
        )


def _all_turned(survey: Survey, pairs: Sequence[Pair], progress: Progress) -> Iterator[Finding]:
    """Masks that fit their images only when they are mirrored or turned."""
    pairs = pairs[:: len(pairs) // _TURNED + 1]
    for turn in TURNS:
        seen = _compare(survey, pairs, progress, turn.orientation)
        if len(seen) < max(_FEWEST, _SHARE * len(pairs)):
            continue
        whole = Agreement(np.mean([one.values for _, one in seen], axis=0))
        if whole.distance < _LEAST and whole.clarity >= _CLEAR:
            yield warning(
                "turned-masks",
                f"the masks fit the edges of the images when they are {turn.words}, and not as "
                f"they are: {plural(len(seen), 'pair')} were compared",
                [pair.mask for pair, _ in seen if pair.mask],
                "Look at some masks over their images, and export the masks again.",
            )
            return


def offset(down: int, right: int) -> str:
    """How something lies to another thing, in pixels.

    >>> offset(4, 8), offset(-5, 0)
    ('8 px right of and 4 px below', '5 px above')
    """
    across = f"{abs(right)} px {'right' if right > 0 else 'left'} of" if right else ""
    along = f"{abs(down)} px {'below' if down > 0 else 'above'}" if down else ""
    return " and ".join(filter(None, (across, along)))
