"""Truth and prediction of one class → objects found, missed and made up.

An object is a connected component, neighbours at corners included. Two of truth and prediction are
the same when their IoU is above ½: then no object has two partners (Kirillov 2019, 1801.00868).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAME = 0.5
"""IoU above which two objects are the same."""
QUARTERS = 4

Mask = NDArray[np.bool_]
Labels = NDArray[np.signedinteger[Any]]


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects of one class in one image."""

    areas: NDArray[np.int64]
    """Pixels of each true object."""
    ious: NDArray[np.float64]
    """IoU of each true object with the predicted one that is the same; 0: missed."""
    made_up: NDArray[np.int64]
    """Pixels of each predicted object that is none of the true ones."""


@dataclass(frozen=True, slots=True)
class ObjectScores:
    """The objects of one class in all images; nan where there is none, true or predicted."""

    objects: int
    """In the truth."""
    found: int
    made_up: int
    """Predicted objects that are none of the true ones."""
    f1: float
    """2 · found / (true + predicted)."""
    panoptic_quality: float
    """`f1` times the mean IoU of what was found."""
    found_by_size: tuple[float, ...]
    """Share found of the smallest quarter of the true objects, of the next, … of the largest."""
    made_up_by_size: tuple[int, ...]
    """How many of those made up are as large as the objects of each quarter."""
    size_limits: tuple[float, ...]
    """Areas that part the quarters, pixels."""


def match_objects(truth: Mask, prediction: Mask) -> Objects:
    """Pair the objects of two masks H×W.

    >>> truth, prediction = np.zeros((2, 8, 8), bool)
    >>> truth[:3, :3] = truth[5:, 5:] = prediction[:3, :2] = prediction[0, 7] = True
    >>> found = match_objects(truth, prediction)
    >>> found.ious.round(2).tolist(), found.made_up.tolist()
    ([0.67, 0.0], [1])
    """
    from scipy.ndimage import label

    return match_labels(*(label(mask, np.ones((3, 3)))[0] for mask in (truth, prediction)))


def match_labels(true: Labels, predicted: Labels) -> Objects:
    """Pair the objects of two images of their numbers H×W, from 1 without a gap; 0 is none."""
    areas, predicted_areas = np.bincount(true.ravel()), np.bincount(predicted.ravel())
    many, others = len(areas) - 1, len(predicted_areas) - 1
    both = (true > 0) & (predicted > 0)
    codes, overlaps = np.unique(
        true[both].astype(np.int64) * (others + 1) + predicted[both], return_counts=True
    )
    one, other = np.divmod(codes, others + 1)
    overlaps = overlaps / (areas[one] + predicted_areas[other] - overlaps)
    same = overlaps > SAME
    ious = np.zeros(many + 1)
    ious[one[same]] = overlaps[same]
    return Objects(areas[1:], ious[1:], np.delete(predicted_areas, [0, *other[same]]))


def object_scores(images: Sequence[Objects]) -> ObjectScores:
    """The scores of a class from the objects of its images.

    >>> truth = np.eye(5, dtype=bool)  # one object: corners touch
    >>> object_scores([match_objects(truth, truth)]).panoptic_quality
    1.0
    """
    areas, ious, made_up = (
        np.concatenate([getattr(one, name) for one in images] or [np.zeros(0)])
        for name in ("areas", "ious", "made_up")
    )
    found = int((ious > 0).sum())
    both = len(areas) + found + len(made_up)
    f1 = 2 * found / both if both else math.nan
    limits = np.quantile(areas, [0.25, 0.5, 0.75]) if len(areas) else np.zeros(0)
    quarter, size = np.searchsorted(limits, areas), np.searchsorted(limits, made_up)
    shares = [ious[quarter == q] > 0 for q in range(QUARTERS)]
    return ObjectScores(
        objects=len(areas),
        found=found,
        made_up=len(made_up),
        f1=f1,
        panoptic_quality=f1 * float(ious[ious > 0].mean()) if found else f1,
        found_by_size=tuple(float(s.mean()) if len(s) else math.nan for s in shares),
        made_up_by_size=tuple(np.bincount(size, minlength=QUARTERS).tolist()),
        size_limits=tuple(limits.tolist()),
    )
