"""Truth and prediction of one class → how well their outlines and centre lines agree.

Overlap says little where objects are large (every outline within them scores alike) or thin (one
pixel aside is a miss). The conventions, on which published tools differ (Podobnik 2024,
2410.02630):

- The edge of a mask is its pixels with a 4-neighbour outside; outside the image is outside.
- Distances run between the centres of edge pixels, in pixels.
- Absent from both: no score (nan), left out of means. In only one: the worst, 0; a Hausdorff
  distance is then the diagonal of the image (Maier-Hein 2024, Metrics Reloaded).
- Pixels whose truth is ignored are of no class, in truth and prediction.
"""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 2.0
"""Pixels that an outline may be aside and still be right."""
BOUNDARY_SHARE = 0.02
"""Width of the band of `boundary_iou`, as a share of the image's diagonal (Cheng 2021)."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class OutlineScores:
    """How well outlines agree, 0–1 but for the distance; nan where the class is absent."""

    boundary_iou: float
    """IoU of the bands inside the outlines, 2% of the diagonal wide (Cheng 2021, 2103.16562)."""
    boundary_f1: float
    """Harmonic mean of the shares of both edges that have the other within the tolerance."""
    surface_dice: float
    """The share of all pixels of both edges that have: NSD (Nikolov 2018, 1809.04430)."""
    hausdorff_95: float
    """95% of an edge's pixels have the other as near as this, pixels; the worse of both edges."""
    cl_dice: float
    """Dice of the centre lines: shares of each inside the other mask (Shit 2021, 2003.07311)."""


def outline_scores(truth: Mask, prediction: Mask, tolerance: float = TOLERANCE) -> OutlineScores:
    """The scores of one class in one image.

    Args:
        truth: H×W.
        prediction: H×W.
        tolerance: Pixels, 0 or more.

    >>> square = np.zeros((64, 64), bool)
    >>> square[10:30, 10:30] = True
    >>> aside = np.roll(square, 3, axis=1)
    >>> scores = outline_scores(square, aside)
    >>> scores.hausdorff_95, round(scores.surface_dice, 3)
    (3.0, 0.553)
    """
    from scipy.ndimage import binary_erosion
    from scipy.spatial import KDTree

    diagonal = math.hypot(*truth.shape)
    if not truth.any() or not prediction.any():
        worst = (0.0, 0.0, 0.0, diagonal, 0.0)
        absent = not truth.any() and not prediction.any()
        return OutlineScores(*([math.nan] * 5 if absent else worst))
    window = _bounding_box(truth | prediction)
    truth, prediction = truth[window], prediction[window]
    width = max(1, round(BOUNDARY_SHARE * diagonal))
    bands = [mask & ~_eroded(mask, width) for mask in (truth, prediction)]
    edges = [np.argwhere(mask & ~binary_erosion(mask)) for mask in (truth, prediction)]
    there, back = (KDTree(edges[1 - i]).query(edges[i])[0] for i in (0, 1))
    near = [float(np.mean(way <= tolerance)) for way in (there, back)]
    return OutlineScores(
        boundary_iou=float((bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum()),
        boundary_f1=_harmonic_mean(*near),
        surface_dice=float(np.mean(np.concatenate([there, back]) <= tolerance)),
        hausdorff_95=float(max(np.percentile(way, 95) for way in (there, back))),
        cl_dice=_cl_dice(truth, prediction),
    )


def mean_scores(scores: Sequence[OutlineScores]) -> OutlineScores:
    """The means over images, those left out where the class is absent.

    >>> mean_scores([OutlineScores(*[math.nan] * 5), OutlineScores(*[1.0] * 5)]).cl_dice
    1.0
    """
    rows = np.array([astuple(one) for one in scores if not math.isnan(one.boundary_iou)])
    return OutlineScores(*(rows.mean(axis=0).tolist() if len(rows) else [math.nan] * 5))


def _bounding_box(mask: Mask) -> tuple[slice, slice]:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return np.s_[rows[0] : rows[-1] + 1], np.s_[columns[0] : columns[-1] + 1]


def _eroded(mask: Mask, width: int) -> Mask:
    """What is more than `width` pixels inside, along rows, columns and diagonals."""
    from scipy.ndimage import minimum_filter

    square = minimum_filter(mask.view(np.uint8), size=2 * width + 1, mode="constant")
    return square.astype(bool)


def _cl_dice(truth: Mask, prediction: Mask) -> float:
    from skimage.morphology import skeletonize

    lines = skeletonize(truth), skeletonize(prediction)
    return _harmonic_mean(float(prediction[lines[0]].mean()), float(truth[lines[1]].mean()))


def _harmonic_mean(one: float, other: float) -> float:
    return 2 * one * other / (one + other) if one + other else 0.0
