"""Two predictions of the same images, compared image by image: networks, or a network and a human.

What both find hard in an image falls out of the difference, so that far fewer images tell two
networks apart than their own intervals would.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unetseg.data.masks.class_map import IGNORED, ClassMap
from unetseg.data.masks.mask_file import mask_of_image
from unetseg.data.pairs.match import Pair
from unetseg.errors import DataError
from unetseg.evaluation.confusion import (
    Counts,
    Floats,
    bootstrap_intervals,
    dice,
    mean_over,
    merged,
    score,
)
from unetseg.evaluation.counting import count_classes
from unetseg.evaluation.truth import matched_truth
from unetseg.progress import Progress
from unetseg.storage import json_object
from unetseg.text import plural

Verdict = Literal["better", "none", "worse"]


@dataclass(frozen=True, slots=True)
class Difference:
    """How much higher the foreground Dice of an image is, in the mean, with its 95% interval."""

    mean: float
    interval: tuple[float, float]
    images: int
    """Those that show anything of the foreground, in truth or in either prediction."""
    verdict: Verdict
    """none: the interval holds 0."""


def image_scores(first: Counts, other: Counts, foreground: Sequence[int]) -> Floats:
    """Foreground Dice 2×N of two predictions of N images, over the same classes for both.

    A class that one prediction makes up, and the other rightly leaves out, scores 0 and 1; a class
    that truth and both lack does not count.

    Args:
        first: int64 N×K×K.
        other: The same of the other prediction.
        foreground: Indexes of the classes.

    >>> empty, false_alarm = np.array([[9, 0], [0, 0]]), np.array([[8, 1], [0, 0]])
    >>> image_scores(np.array([empty]), np.array([false_alarm]), foreground=[1]).tolist()
    [[1.0], [0.0]]
    """
    both = np.stack([dice(first), dice(other)])  # 2, N, K
    absent = np.isnan(both).all(axis=0)
    return mean_over(np.where(absent, np.nan, np.nan_to_num(both, nan=1.0)), foreground)


def difference(scores: Floats, groups: Sequence[str | None] = ()) -> Difference:
    """The paired difference of scores 2×N, second less first, over images or their `groups`."""
    counts = ~np.isnan(scores).any(axis=0)
    gained = np.where(counts, scores[1] - scores[0], 0)
    rows = np.stack([gained, counts], axis=1).astype(np.float64)
    units = merged(rows, groups or [None] * len(rows)) if len(rows) else rows
    units = units[units[:, 1] > 0]
    if not len(units):
        return Difference(float("nan"), (float("nan"),) * 2, 0, "none")

    def mean(sums: Floats) -> Floats:  # S×2 → S×1
        return np.asarray(sums[..., :1] / sums[..., 1:])

    ((low, high),) = bootstrap_intervals(units, mean)
    verdict: Verdict = "better" if low > 0 else "worse" if high < 0 else "none"
    return Difference(float(mean(units.sum(0))[0]), (low, high), int(counts.sum()), verdict)


@dataclass
class Observers:
    """A second observer and the model against the first observer, whose masks are the truth.

    Attributes:
        class_map: What the masks mean.
        refused: Why masks of the second observer do not count.
    """

    class_map: ClassMap
    refused: list[str] = field(default_factory=list)
    _counts: dict[str, Counts] = field(default_factory=dict)  # 2, K, K: the observer's, the model's
    _groups: dict[str, str | None] = field(default_factory=dict)

    def add(self, pair: Pair, truth: NDArray[np.uint8], model: NDArray[np.uint8]) -> None:
        """Count what the second observer drew and what the model predicted, in the same pixels.

        Args:
            pair: Nothing is counted where it has no second mask.
            truth: Class indexes H×W, 255 where nothing counts.
            model: The prediction H×W, 255 where there are no data.
        """
        if pair.second is None:
            return
        try:
            names = pair.image, pair.second
            second = mask_of_image(pair.second, *truth.shape)
            index = matched_truth(second, self.class_map, truth.shape, names)
        except DataError as error:
            self.refused.append(error.summary)
            return
        shared = np.where((index == IGNORED) | (model == IGNORED), IGNORED, truth)
        classes = len(self.class_map.classes)
        sides = [count_classes(shared, drawn, classes) for drawn in (index, model)]
        self._counts[pair.name] = np.stack(sides)
        self._groups[pair.name] = pair.group

    def tell_refused(self, progress: Progress) -> None:
        """Say how many masks of the second observer do not count, and why the first does not."""
        for why in self.refused[:1]:
            progress.say(f"no human level of {plural(len(self.refused), 'image')}: {why}")

    def to_json(self) -> dict[str, Any]:
        """`human`: scores of both in the same images, and the paired difference; or nothing."""
        if not self._counts:
            return {}
        names = sorted(self._counts)
        both = np.stack([self._counts[name] for name in names], axis=1)  # 2, N, K, K
        groups, classes = [self._groups[name] for name in names], self.class_map
        found = []
        for counts in both:
            scores = score(counts, classes.names, classes.foreground, groups).to_json()
            found.append({key: value for key, value in scores.items() if "foreground" in key})
        human, model = found
        gap = difference(image_scores(both[0], both[1], classes.foreground), groups)
        content = {"images": len(names), **human, "model": model, "difference": asdict(gap)}
        return json_object({"human": content})
