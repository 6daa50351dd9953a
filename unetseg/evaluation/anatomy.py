"""Where the errors of a split are: at which outlines, in which objects, classes and images.

Everything is counted while the pairs pass, so that it adds up, whatever their number. Pixels whose
truth or prediction is ignored (255) are counted nowhere.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from unetseg.data.masks.class_map import IGNORED, ClassMap
from unetseg.evaluation.confusion import Counts
from unetseg.evaluation.outlines import TOLERANCE
from unetseg.storage import json_object

REACHES = (1, 2, 5, 10)
"""Pixels from a true outline; those that touch it are 1 away."""
AREAS = tuple(4**power for power in range(2, 9))
"""Areas that part the objects by size, pixels: 16, 64, … 65536."""
KINDS = ("boundary", "false alarm", "miss", "class swap")
"""Wrong pixels between a true and a predicted outline, within the tolerance of both; and others:
background given a class, a class taken for background, one class taken for another. So a thin line
that nothing was predicted for is a miss, though all of it is near an outline."""
MOST_PAIRS = 10
"""Pairs of classes that are named."""
WEAK, ERRORS = 0.3, 3.0
"""A property explains something from this rank correlation on, if it is so many standard errors of
no correlation, 1/√(n−1), away from 0: once in 370 by chance."""
LOOKED_AT = 1 << 18
"""About how many pixels of an image its properties are taken from."""

Index = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ImageErrors:
    """What kinds of errors an image has, and what it is like."""

    kinds: dict[str, int]
    """Wrong pixels of each kind of `KINDS`."""
    properties: dict[str, float]

    @property
    def reason(self) -> str:
        """The kind that most wrong pixels are of; "" where none is wrong."""
        kind = max(self.kinds, key=self.kinds.__getitem__)
        return kind if self.kinds[kind] else ""


@dataclass
class Anatomy:
    """The errors of the images of a split, collected in any order.

    Attributes:
        class_map: The classes; the background has no objects.
        tolerance: Pixels from a true outline within which an error is one of the boundary.
    """

    class_map: ClassMap
    tolerance: float = TOLERANCE
    images: dict[str, ImageErrors] = field(default_factory=dict)
    _near: Counts = field(default_factory=lambda: np.zeros((2, len(REACHES) + 1), np.int64))
    _objects: Counts = field(default_factory=lambda: np.zeros((3, len(AREAS) + 1), np.int64))

    def add(self, name: str, image: NDArray[Any], truth: Index, prediction: Index) -> None:
        """Look at an image H×W×C of raw values, and at its class indexes H×W."""
        counted = (truth != IGNORED) & (prediction != IGNORED)
        wrong = (truth != prediction) & counted
        distance = outline_distance(truth)
        for row, chosen in enumerate((counted, wrong)):
            which = np.searchsorted(REACHES, distance[chosen])
            self._near[row] += np.bincount(which, minlength=len(REACHES) + 1)
        for k in self.class_map.foreground:
            self._objects += missed_by_area((truth == k) & counted, wrong)
        background = self.class_map.background
        between = np.maximum(distance, outline_distance(prediction)) <= self.tolerance
        beyond = wrong & ~between
        alarm, miss = (beyond & (mask == background) for mask in (truth, prediction))
        kinds = (wrong & ~beyond, alarm, miss, beyond & ~alarm & ~miss)
        wrong_pixels = {kind: int(one.sum()) for kind, one in zip(KINDS, kinds, strict=True)}
        there = np.isin(truth, self.class_map.foreground)
        properties = image_properties(image) | {"foreground": float(there.mean())}
        self.images[name] = ImageErrors(wrong_pixels, properties)

    def to_json(self, confusions: Counts, dice: Mapping[str, float]) -> dict[str, Any]:
        """The content of anatomy.json.

        Args:
            confusions: K×K, of all images.
            dice: Mean foreground Dice of each image, 0–1; nan where it has none.
        """
        kinds = {kind: sum(one.kinds[kind] for one in self.images.values()) for kind in KINDS}
        reaches = zip([*REACHES, None], *self._near.tolist(), strict=True)
        areas = zip([*AREAS, None], *self._objects.tolist(), strict=True)
        return json_object(
            {
                "images": len(self.images),
                "tolerance": self.tolerance,
                "kinds": kinds,
                "distances": [
                    {"within": reach, "pixels": pixels, "wrong": wrong}
                    for reach, pixels, wrong in reaches
                ],
                "sizes": [
                    {"below": area, "objects": number, "pixels": pixels, "wrong": wrong}
                    for area, number, pixels, wrong in areas
                    if number
                ],
                "pairs": class_pairs(confusions, self.class_map.names),
                "properties": [
                    asdict(one)
                    for one in explaining({n: e.properties for n, e in self.images.items()}, dice)
                ],
                "classes": self.class_map.names,
                "confusion": confusions.tolist(),
            }
        )


def outline_distance(index: Index) -> NDArray[np.float32]:
    """How far every pixel is from an outline of `index` H×W; pixels that touch it are 1 away.

    An outline runs between two 4-neighbours of different classes; beside ignored pixels is none.

    >>> outline_distance(np.array([[0, 0, 0, 1, 1]], np.uint8)).tolist()
    [[3.0, 2.0, 1.0, 1.0, 2.0]]
    """
    away = np.ones(index.shape, np.uint8)
    for one, other in (np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:]):
        differ = (index[one] != index[other]) & (index[one] != IGNORED) & (index[other] != IGNORED)
        away[one][differ] = away[other][differ] = 0
    if away.all():
        return np.full(index.shape, np.inf, np.float32)
    distance = cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance + 1, np.float32)


def missed_by_area(truth: NDArray[np.bool_], wrong: NDArray[np.bool_]) -> Counts:
    """Objects of a mask H×W by their area: how many, their pixels, and how many of those are wrong.

    Returns:
        3×(AREAS + 1).
    """
    number, labels, stats, _ = cv2.connectedComponentsWithStats(truth.view(np.uint8))
    areas = stats[1:, cv2.CC_STAT_AREA]
    missed = np.bincount(labels[wrong & truth], minlength=number)[1:]
    size = np.searchsorted(AREAS, areas, side="right")
    columns = np.zeros((3, len(AREAS) + 1), np.int64)
    for row, values in enumerate((np.ones_like(areas), areas, missed)):
        np.add.at(columns[row], size, values)
    return columns


def class_pairs(confusions: Counts, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The pairs of classes that are confused most, K×K; the most pixels first.

    >>> class_pairs(np.array([[9, 1], [0, 0]]), ("road", "tree"))
    [{'truth': 'road', 'prediction': 'tree', 'pixels': 1, 'of_truth': 0.1, 'of_errors': 1.0}]
    """
    errors = confusions - np.diag(np.diagonal(confusions))
    order = np.argsort(-errors, axis=None, kind="stable")[:MOST_PAIRS]
    return [
        {
            "truth": names[true],
            "prediction": names[predicted],
            "pixels": int(errors[true, predicted]),
            "of_truth": float(errors[true, predicted] / confusions[true].sum()),
            "of_errors": float(errors[true, predicted] / errors.sum()),
        }
        for true, predicted in zip(*np.unravel_index(order, errors.shape), strict=True)
        if errors[true, predicted]
    ]


def image_properties(image: NDArray[Any]) -> dict[str, float]:
    """What may explain an error: brightness, contrast, sharpness and size of an image H×W×C.

    Brightness and contrast are mean and deviation of all values, sharpness is the deviation of the
    Laplacian as a share of the contrast, size is in pixels.
    """
    height, width = image.shape[:2]
    rows = max(1, min(height, LOOKED_AT // width))
    grey = image[(height - rows) // 2 :][:rows].astype(np.float32).mean(axis=-1)
    grey = np.nan_to_num(grey, posinf=0, neginf=0)
    contrast = float(grey.std())
    detail = float(cv2.Laplacian(grey, cv2.CV_32F).std())
    return {
        "brightness": float(grey.mean()),
        "contrast": contrast,
        "sharpness": detail / contrast if contrast else 0.0,
        "size": float(height * width),
    }


@dataclass(frozen=True, slots=True)
class Explanation:
    """A property of images that goes with their scores."""

    property: str
    correlation: float
    """Spearman's, of the property and the Dice, −1 to 1."""
    lowest: float
    """Mean Dice of the quarter of the images that has least of it."""
    highest: float
    """Of the quarter that has most."""
    images: int


def explaining(
    properties: Mapping[str, Mapping[str, float]], dice: Mapping[str, float]
) -> list[Explanation]:
    """The properties that go with the Dice of images further than chance, the strongest first.

    >>> dark = {str(i): {"brightness": float(i)} for i in range(20)}
    >>> explaining(dark, {str(i): 0.5 + i / 50 for i in range(20)})[0].correlation
    1.0
    """
    names = [name for name in properties if np.isfinite(dice.get(name, np.nan))]
    if len(names) < 2:
        return []
    scores, found = np.array([dice[name] for name in names]), []
    for what in properties[names[0]]:
        values = np.array([properties[name][what] for name in names])
        if np.ptp(values) == 0 or np.ptp(scores) == 0:
            continue
        correlation = round(float(np.corrcoef(_ranks(values), _ranks(scores))[0, 1]), 3)
        low, high = np.quantile(values, [0.25, 0.75])
        lowest, highest = (float(scores[q].mean()) for q in (values <= low, values >= high))
        is_strong = abs(correlation) >= max(WEAK, ERRORS / (len(names) - 1) ** 0.5)
        if is_strong and (highest - lowest) * correlation > 0:  # both tell the same
            found.append(Explanation(what, correlation, lowest, highest, len(names)))
    return sorted(found, key=lambda one: -abs(one.correlation))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rank of each value; equal values share the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    means: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[which]
    return means
