"""Int64 counts → IoU, Dice, precision, recall and specificity.

A confusion is an int64 K×K array: row = true class T, column = predicted class P, entry = pixels.
Counts of images add up; ratios are taken once, of the sums, so that no score depends on how images
were batched, chunked or tiled. Scores are 0–1; what leads K×K, images or bootstrap samples, leads
the scores too.

Conventions, for every score of a class:

- Absent: a class in neither truth nor prediction has no score (nan) and is left out of means. So
  an image with an empty mask and an empty prediction counts neither as 1 nor as 0.
- Missed or made up: a class in only one of the two scores 0, precision and recall included.
- Alone: where every counted pixel is of a class in truth, it has no specificity (nan).
- Pixels whose truth is ignored (255) are counted nowhere.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unetseg.data.masks.class_map import IGNORED
from unetseg.storage import json_object
from unetseg.text import plural

CHUNK = 1 << 16
"""Pixels counted at a time: few enough to stay in the processor's cache."""
RESAMPLES_AT_ONCE = 64
"""Bootstrap samples held in memory together."""
FEW = 50
"""Images, or groups of them, below which an interval is wide, and itself uncertain."""

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def confusion(truth: NDArray[np.uint8], prediction: NDArray[np.uint8], classes: int) -> Counts:
    """Pixels of each true class (row) that were given each class (column).

    Args:
        truth: uint8 class indexes of any shape, 255 ignored.
        prediction: uint8 class indexes of the same shape.
        classes: K, 1–255.

    Returns:
        int64 K×K.

    Raises:
        ValueError: other dtypes, different shapes, or an index that is no class.

    >>> truth = np.array([[0, 1], [1, 255]], np.uint8)
    >>> confusion(truth, np.array([[0, 0], [1, 1]], np.uint8), classes=2).tolist()
    [[1, 0], [1, 1]]
    """
    if truth.dtype != np.uint8 or prediction.dtype != np.uint8:
        raise ValueError(f"truth is {truth.dtype} and prediction {prediction.dtype}, not uint8")
    if truth.shape != prediction.shape:
        raise ValueError(f"truth has shape {truth.shape}, prediction {prediction.shape}")
    if prediction.size and prediction.max() >= classes:
        raise ValueError(f"prediction has class {prediction.max()} of {classes} classes")
    flat, answers = truth.ravel(), prediction.ravel()
    counts = np.zeros((256, classes), np.int64)  # every value that truth may have is a row
    for start in range(0, flat.size, CHUNK):
        code = flat[start : start + CHUNK].astype(np.intp) * classes
        code += answers[start : start + CHUNK]
        counts += np.bincount(code, minlength=counts.size).reshape(counts.shape)
    unknown = np.flatnonzero(counts[classes:IGNORED].any(axis=1)) + classes
    if unknown.size:
        raise ValueError(f"truth has classes {unknown.tolist()} of {classes} classes")
    return counts[:classes]


def _score(gained: Counts, possible: Counts, confusions: Counts) -> Floats:
    """Divide gained by possible; 0 where nothing was possible, nan where a class is absent."""
    ratio = gained / np.maximum(possible, 1)
    return np.where(_truth(confusions) + _predicted(confusions) > 0, ratio, np.nan)


def _hits(confusions: Counts) -> Counts:
    return np.diagonal(confusions, axis1=-2, axis2=-1)


def _truth(confusions: Counts) -> Counts:
    return np.asarray(confusions.sum(axis=-1))


def _predicted(confusions: Counts) -> Counts:
    return np.asarray(confusions.sum(axis=-2))


def iou(confusions: Counts) -> Floats:
    """Intersection over union (Jaccard index) of each class, …×K: |T ∩ P| / |T ∪ P|.

    >>> iou(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])).round(3).tolist()
    [0.75, 0.667, nan]
    """
    hits = _hits(confusions)
    return _score(hits, _truth(confusions) + _predicted(confusions) - hits, confusions)


def dice(confusions: Counts) -> Floats:
    """Dice coefficient (F1 score) of each class, …×K: 2 |T ∩ P| / (|T| + |P|).

    >>> dice(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])).round(3).tolist()
    [0.857, 0.8, nan]
    """
    possible = _truth(confusions) + _predicted(confusions)
    return _score(2 * _hits(confusions), possible, confusions)


def precision(confusions: Counts) -> Floats:
    """Share of the pixels predicted as a class that are of it, …×K: |T ∩ P| / |P|.

    >>> precision(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])).round(3).tolist()
    [1.0, 0.667, nan]
    """
    return _score(_hits(confusions), _predicted(confusions), confusions)


def recall(confusions: Counts) -> Floats:
    """Share of the pixels of a class that were predicted as it, …×K: |T ∩ P| / |T|.

    >>> recall(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])).round(3).tolist()
    [0.75, 1.0, nan]
    """
    return _score(_hits(confusions), _truth(confusions), confusions)


def specificity(confusions: Counts) -> Floats:
    """Share of the pixels of other classes that were not predicted as a class, …×K.

    It is nan where there are no such pixels.

    >>> specificity(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])).round(3).tolist()
    [1.0, 0.75, nan]
    """
    others = confusions.sum(axis=(-2, -1))[..., None] - _truth(confusions)
    spared = others - (_predicted(confusions) - _hits(confusions))
    return np.where(others > 0, _score(spared, others, confusions), np.nan)


def frequency_weighted_iou(confusions: Counts) -> Floats:
    """Mean IoU over all classes, each as important as its share of the true pixels (Long 2015).

    >>> float(frequency_weighted_iou(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])).round(3))
    0.722
    """
    truth, total = _truth(confusions), confusions.sum(axis=(-2, -1))
    weighted = (truth * np.nan_to_num(iou(confusions))).sum(axis=-1) / np.maximum(total, 1)
    return np.where(total > 0, weighted, np.nan)


def pixel_accuracy(confusions: Counts) -> Floats:
    """Share of the counted pixels whose class is right; nan where no pixel was counted.

    >>> float(pixel_accuracy(np.array([[3, 1], [0, 4]])))
    0.875
    """
    total = confusions.sum(axis=(-2, -1))
    ratio = _hits(confusions).sum(axis=-1) / np.maximum(total, 1)
    return np.where(total > 0, ratio, np.nan)


def mean_over(scores: Floats, classes: Sequence[int]) -> Floats:
    """Mean over some classes of scores …×K, the absent ones (nan) left out; nan where all are.

    >>> float(mean_over(np.array([0.9, 0.5, np.nan]), classes=[1, 2]))
    0.5
    """
    chosen = scores[..., list(classes)]
    there = ~np.isnan(chosen)
    number = there.sum(axis=-1)
    mean = np.where(there, chosen, 0).sum(axis=-1) / np.maximum(number, 1)
    return np.where(number > 0, mean, np.nan)


def bootstrap_intervals(
    rows: NDArray[Any],
    statistics: Callable[[NDArray[Any]], Floats],
    *,
    samples: int = 1000,
    seed: int = 0,
) -> list[tuple[float, float]]:
    """Percentile bootstrap intervals of scores, 95%, over images; of the same samples.

    Images, not pixels, are drawn with replacement: the pixels of an image are no independent
    evidence. Images of one patient or place are none either; merge them first (`merged`).

    Args:
        rows: N×…, one per image; what adds up, such as confusions int64 N×K×K.
        statistics: S×… sums of S samples → S×M scores; samples that score nan are left out.
        samples: Number of samples drawn.
        seed: Seed of the draw; equal seeds give equal intervals.

    Returns:
        Lower and upper end for each of the M; (nan, nan) for fewer than two images, which say
        nothing of the spread.

    Source: Efron 1979, Annals of Statistics 7:1.

    >>> images = np.array([[[9, 1], [0, 5]], [[8, 0], [4, 1]], [[7, 1], [1, 7]]])
    >>> ((low, high),) = bootstrap_intervals(images, lambda sums: pixel_accuracy(sums)[:, None])
    >>> bool(low < pixel_accuracy(images.sum(axis=0)) < high)
    True
    """
    if len(rows) < 2:
        return [(math.nan, math.nan)] * statistics(rows.sum(0)[None]).shape[-1]
    random = np.random.default_rng(seed)
    flat = rows.reshape(len(rows), -1).astype(np.float64)  # exact below 2⁵³ pixels
    scores = []
    for start in range(0, samples, RESAMPLES_AT_ONCE):
        number = min(RESAMPLES_AT_ONCE, samples - start)
        times_drawn = random.multinomial(len(flat), [1 / len(flat)] * len(flat), size=number)
        sums = (times_drawn @ flat).astype(rows.dtype)
        scores.append(statistics(sums.reshape(number, *rows.shape[1:])))
    return [_interval(column) for column in np.concatenate(scores).T]


def _interval(values: Floats) -> tuple[float, float]:
    values = values[~np.isnan(values)]
    if not values.size:
        return math.nan, math.nan
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def merged(rows: NDArray[Any], groups: Sequence[str | None]) -> NDArray[Any]:
    """The sums N'×… of the rows N×… of each group; a row without a group (None) stays alone.

    >>> merged(np.array([1, 2, 3, 4]), ["a", None, "a", None]).tolist()
    [4, 2, 4]
    """
    keys = [(group, -1) if group is not None else ("", n) for n, group in enumerate(groups)]
    places = {key: n for n, key in enumerate(dict.fromkeys(keys))}
    sums = np.zeros((len(places), *rows.shape[1:]), rows.dtype)
    np.add.at(sums, [places[key] for key in keys], rows)
    return sums


@dataclass(frozen=True, slots=True)
class ClassScores:
    """The scores of one class over a data set, 0–1; nan where the class is absent."""

    name: str
    iou: float
    dice: float
    precision: float
    recall: float
    specificity: float
    pixels: int
    """Pixels of the class in the truth."""


@dataclass(frozen=True, slots=True)
class Intervals:
    """95% bootstrap intervals of a data set, and what they are over."""

    over: Literal["images", "groups"]
    n: int
    """How many of these there are."""
    wide: bool
    """Whether they are fewer than 50, so that the intervals are wide and uncertain."""
    mean_iou: tuple[float, float]
    """Over all classes, background too."""
    classes: dict[str, dict[str, tuple[float, float]]]
    """The IoU and the Dice of each class."""

    def __str__(self) -> str:
        """What they are over, to stand behind the word interval."""
        return f"over {plural(self.n, self.over[:-1])}{', wide: fewer than 50' * self.wide}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The scores of a data set, 0–1; nan where nothing could be scored.

    Intervals are 95% bootstrap intervals over images, or groups of them. Means leave absent classes
    out.
    """

    images: int
    classes: tuple[ClassScores, ...]
    foreground_iou: float
    foreground_iou_interval: tuple[float, float]
    foreground_dice: float
    foreground_dice_interval: tuple[float, float]
    mean_iou: float
    """Over all classes, background too."""
    mean_dice: float
    """Over all classes, background too."""
    frequency_weighted_iou: float
    pixel_accuracy: float
    """The micro average of precision, recall and Dice: of all pixels as one class."""
    intervals: Intervals

    def to_json(self) -> dict[str, Any]:
        """The scores as JSON holds them: classes by name, intervals as lists, null for nan."""
        raw = asdict(self)
        raw["classes"] = {row.pop("name"): row for row in raw["classes"]}
        return json_object(raw)


def score(
    confusions: Counts,
    names: Sequence[str],
    foreground: Sequence[int],
    groups: Sequence[str | None] = (),
) -> Scores:
    """The scores of a data set from the confusions of its images.

    Args:
        confusions: int64 N×K×K, one per image; N may be 0.
        names: Names of the K classes, all different.
        foreground: Indexes of the classes that the foreground means run over.
        groups: What each image is of (a patient, a place), where that is known.

    Raises:
        ValueError: the confusions are not N×K×K for these K names.

    >>> scores = score(np.array([[[6, 1], [1, 2]]]), ["ground", "crack"], foreground=[1])
    >>> scores.foreground_iou, scores.classes[1].pixels
    (0.5, 3)
    """
    if confusions.shape[1:] != (len(names), len(names)):
        raise ValueError(f"confusions of shape {confusions.shape} for {len(names)} classes")
    every = range(len(names))

    def with_interval(sums: Counts) -> Floats:  # …×(3 + 2K)
        ious, dices = iou(sums), dice(sums)
        means = [mean_over(ious, foreground), mean_over(dices, foreground), mean_over(ious, every)]
        return np.concatenate([np.stack(means, axis=-1), ious, dices], axis=-1)

    has_groups = any(group is not None for group in groups)
    units = merged(confusions, groups) if has_groups else confusions
    of_iou, of_dice, of_mean, *rest = bootstrap_intervals(units, with_interval)
    by_class = zip(rest[: len(names)], rest[len(names) :], strict=True)
    total = confusions.sum(axis=0)
    values = with_interval(total)
    of_class = (iou, dice, precision, recall, specificity, _truth)
    columns = [column(total).tolist() for column in of_class]
    return Scores(
        images=len(confusions),
        classes=tuple(ClassScores(*row) for row in zip(names, *columns, strict=True)),
        foreground_iou=float(values[0]),
        foreground_iou_interval=of_iou,
        foreground_dice=float(values[1]),
        foreground_dice_interval=of_dice,
        mean_iou=float(values[2]),
        mean_dice=float(mean_over(dice(total), every)),
        frequency_weighted_iou=float(frequency_weighted_iou(total)),
        pixel_accuracy=float(pixel_accuracy(total)),
        intervals=Intervals(
            over="groups" if has_groups else "images",
            n=len(units),
            wide=len(units) < FEW,
            mean_iou=of_mean,
            classes={n: {"iou": i, "dice": d} for n, (i, d) in zip(names, by_class, strict=True)},
        ),
    )
