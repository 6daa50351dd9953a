"""Whether an image holds values like those trained on: not reflectance in place of counts.

A network answers whatever it is given. Far from the values that it knows the answer is nonsense,
although nothing fails. A few thousand pixels of an image tell. Images of 8 bit are never judged.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.bundle import BundleInfo
from unetseg.data.files.nodata import FAR, missing_pixels
from unetseg.errors import ImageError
from unetseg.progress import Progress
from unetseg.text import plural, printable, some_of

SAMPLED = 2**12
"""Pixels of an image, or of a strip of it, that are looked at."""
REACH = 3
"""Times the range of the training; a value further outside it is far off, no cloud and no lamp."""
FAR_SHARE = 0.005
"""Of the pixels; where fewer lie far outside, chance may have put them there."""
SMALLER = 50
"""Times; an image whose largest value is so much smaller than that of any trained on is scaled."""
BELOW_ZERO = 0.1
"""Of the largest value trained on; a haze that was taken away leaves smaller negative values."""
FILLS = (-9999.0, -32768.0, float(np.finfo(np.float32).min))
"""Values that stand for no data where nobody says so."""


class SeenValues:
    """The values of an image, part by part, beside those trained on.

    Args:
        info: What the model was trained on.
        image: All of the image, as of `add`, where it is no stream.
    """

    def __init__(self, info: BundleInfo, image: NDArray[Any] | None = None) -> None:
        self._info, self._pixels = info, 0
        if info.dtype == "uint8":  # the type is the scale: a dark photo is a dark photo
            return
        mean, std = np.array(info.normalisation.mean), np.array(info.normalisation.std)
        if info.values is None:  # a bundle of before
            self._low, self._high, reach = mean, mean, FAR * std
        else:
            self._low, self._high = np.array(info.values.low), np.array(info.values.high)
            reach = REACH * (self._high - self._low)
        self._ends = self._low - reach, self._high + reach
        self._far = np.zeros(info.bands)  # pixels
        self._seen_low = np.full(info.bands, np.inf)
        self._seen_high = np.full(info.bands, -np.inf)
        if image is not None:
            self.add(image)

    def add(self, image: NDArray[Any]) -> None:
        """Take in a part of the image, H×W×C, or one band more where it has gaps."""
        if self._info.dtype == "uint8":
            return
        step = max(1, int((image.shape[0] * image.shape[1] / SAMPLED) ** 0.5))
        some = image[::step, ::step]
        missing, values = missing_pixels(some, self._info.bands), some[..., : self._info.bands]
        pixels = values.reshape(-1, self._info.bands) if missing is None else values[~missing]
        if not len(pixels):
            return
        low, high = pixels.min(0), pixels.max(0)
        self._pixels += len(pixels)
        self._seen_low = np.minimum(self._seen_low, low)
        self._seen_high = np.maximum(self._seen_high, high)
        if (low < self._low).any() or (high > self._high).any():
            self._far += self._count(pixels)

    def _count(self, pixels: NDArray[Any]) -> NDArray[np.int64]:
        """How many of the pixels N×C lie far outside, in each band."""
        is_fill = np.isin(pixels, np.array(FILLS, np.float32)) & (pixels < self._low)
        if self._info.normalisation.kind == "image":  # what an image is multiplied with cancels
            return np.asarray(is_fill.sum(0))
        is_far = is_fill | (pixels < self._ends[0]) | (pixels > self._ends[1])
        return np.asarray(is_far.sum(0))

    def judged(self, path: Path, *, strict: bool = False) -> str:
        """What is seen beside what was trained on, where these are far apart; else "".

        Raises:
            ImageError: they are, and `strict` refuses such an image; `path` is named.
        """
        if not self._pixels or not (self._is_far or self._is_small or self._is_negative):
            return ""
        strange = f"{self._seen_low.min():.4g} to {self._seen_high.max():.4g} (trained on "
        if self._info.values is None:
            mean = " ".join(f"{value:.4g}" for value in self._info.normalisation.mean)
            strange += f"a mean of {mean})"
        else:
            strange += f"{self._low.min():.4g} to {self._high.max():.4g})"
        if strict:
            fix = "Give the values as in training, or leave out --strict."
            raise ImageError(f"{path} holds {strange}", fix=fix, paths=[path])
        return strange

    @property
    def _is_far(self) -> bool:
        return bool((self._far >= FAR_SHARE * self._pixels).any())

    @property
    def _is_small(self) -> bool:
        """Whether all bands are smaller by far than in any image trained on; a blank one may be."""
        known = self._info.values
        if known is None or bool((self._seen_low == self._seen_high).all()):
            return False
        largest = np.maximum(np.abs(self._seen_low), np.abs(self._seen_high))
        return bool((SMALLER * largest < np.array(known.smallest)).all())

    @property
    def _is_negative(self) -> bool:
        """Whether all bands lie below zero, and far, where no value trained on did."""
        if self._info.values is None or bool((self._low < 0).any()):
            return False
        is_below = (self._seen_high <= 0) & (-self._seen_low > BELOW_ZERO * self._high)
        return bool(is_below.all())


def told_strange(strange: Mapping[Path, str]) -> str:
    """One line about the images whose values are far from those trained on."""
    shown = [f"{printable(path.name)} {seen}" for path, seen in strange.items()]
    return (
        f"warning: {plural(len(strange), 'image')} with values far from those trained on, where "
        f"masks are seldom right: {some_of(shown)}"
    )


def tell_strange(strange: Mapping[Path, str], progress: Progress) -> None:
    """Warn once of all such images; those without a word are like those trained on."""
    if found := {path: seen for path, seen in strange.items() if seen}:
        progress.say(f"{told_strange(found)}; --strict refuses them")
