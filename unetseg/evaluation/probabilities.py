"""Probabilities of a whole set, counted in histograms: ROC-AUC, average precision, calibration.

A pixel is counted, for each class, in the bin of its logit log(p / (1 − p)): there are as many bins
where a network is sure as where it is not. Counts are int64 and add up, so that no score depends on
how images were batched or cut; within a bin probabilities are taken for equal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.data.masks.class_map import IGNORED
from unetseg.prediction.engine import Engine
from unetseg.storage import json_object

PER_UNIT = 100
"""Bins for each unit of the logit."""
REACH = 16
"""Logits beyond that, p below 1e-7 or as near to 1, share a bin."""
EDGES = np.arange(-REACH * PER_UNIT, REACH * PER_UNIT + 1) / PER_UNIT
"""Lower ends of all bins but the first, as logits."""
CONFIDENCES = 15
"""Bins of the expected calibration error (Guo 2017)."""
SWEEP = np.linspace(0.05, 0.95, 19)
"""Thresholds that are listed, about."""

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


class Probabilities:
    """The probabilities of the pixels of a set, collected in any order.

    Args:
        classes: K.
        temperature: The one they were made with; 1: none.
    """

    def __init__(self, classes: int, temperature: float = 1.0) -> None:
        self.temperature = temperature
        self.histograms: Counts = np.zeros((classes, 2, len(EDGES) + 1), np.int64)
        """Pixels of other classes and of the class, K×2×bins."""
        self.before, self.after = np.zeros((2, 3, CONFIDENCES))
        """Pixels, right ones, and sums of confidence of each bin, without the temperature and with
        it; exact below 2⁵³ pixels."""

    @classmethod
    def of(cls, engine: Engine) -> "Probabilities":
        """Those that an engine makes."""
        return cls(engine.segmenter.classes, engine.temperature)

    def add(self, truth: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> None:
        """Count the pixels that have a truth (not 255) and probabilities (not NaN).

        Args:
            truth: uint8 class indexes of any shape.
            probabilities: The same shape ×K, 0–1.
        """
        counted = (truth != IGNORED) & ~np.isnan(probabilities[..., 0])
        true, likely = truth[counted], probabilities[counted].T  # n; K, n
        if not true.size:
            return
        with np.errstate(divide="ignore"):
            logs = np.log(likely)
            for k, p in enumerate(likely):
                rest = logs[1 - k] if len(logs) == 2 else np.log1p(-p)  # log(1 − p)
                bins = logit_bins(logs[k] - rest) + (true == k) * (len(EDGES) + 1)
                counts = np.bincount(bins, minlength=self.histograms[k].size)
                self.histograms[k] += counts.reshape(2, -1)
        right = likely.argmax(0) == true
        self.after += confidence_counts(likely.max(0), right)
        if self.temperature != 1:
            self.before += confidence_counts(confidence(logs, self.temperature), right)

    @property
    def errors(self) -> tuple[float, float]:
        """The expected calibration error without the temperature, and with it."""
        before = self.before if self.temperature != 1 else self.after
        return expected_error(before), expected_error(self.after)

    def to_json(self, names: Sequence[str], foreground: Sequence[int]) -> dict[str, Any]:
        """`auc`, `average_precision`, `calibration` and, of two classes, `threshold_sweep`.

        null for nan; empty where nothing was counted.
        """
        if not self.histograms.any():
            return {}
        before, after = self.errors
        found: dict[str, Any] = {
            "auc": dict(zip(names, map(roc_auc, self.histograms), strict=True)),
            "average_precision": dict(
                zip(names, map(average_precision, self.histograms), strict=True)
            ),
            "calibration": {
                "temperature": self.temperature,
                "ece_before": before,
                "ece": after,
                "bins": reliability(self.after),
            },
        }
        if len(names) == 2:
            found["threshold_sweep"] = sweep(self.histograms[foreground[-1]])
        return json_object(found)


def logit_bins(logits: NDArray[Any]) -> NDArray[np.intp]:
    """The bin of each logit, 0 … `len(EDGES)`.

    >>> logit_bins(np.array([-np.inf, 0, np.inf])).tolist() == [0, 1601, 3201]
    True
    """
    places = np.floor(np.clip(logits, -REACH - 1, REACH) * PER_UNIT)
    places = np.maximum(places, -REACH * PER_UNIT - 1) + REACH * PER_UNIT + 1
    return np.asarray(places, np.intp)


def roc_auc(histogram: Counts) -> float:
    """Area under the ROC curve of a class, 2×bins; nan where pixels of it or of others lack.

    It is how often a pixel of the class is likelier of it than another, equals counting half
    (Fawcett 2006, Pattern Recognition Letters 27:861).

    >>> roc_auc(np.array([[3, 1, 0], [0, 1, 3]]))
    0.96875
    """
    others, own = histogram
    below = np.cumsum(others) - others / 2  # equals count half
    pairs = float(others.sum()) * float(own.sum())
    return float(own @ below) / pairs if pairs else float("nan")


def average_precision(histogram: Counts) -> float:
    """Σ (recall step) · precision over all thresholds, of a class, 2×bins; nan where it is absent.

    >>> average_precision(np.array([[3, 1, 0], [0, 1, 3]]))
    0.95
    """
    others, own = (np.cumsum(row[::-1]) for row in histogram)
    steps = np.diff(own, prepend=0)
    if not own[-1]:
        return float("nan")
    return float(steps @ (own / np.maximum(own + others, 1)) / own[-1])


@dataclass(frozen=True)
class Sweep:
    """What masks of the foreground score at thresholds of its probability; arrays of one length."""

    thresholds: Floats
    dice: Floats
    precision: Floats
    recall: Floats

    @classmethod
    def of(cls, histogram: Counts) -> "Sweep":
        """Those at the edges of the bins, 2×bins; 0 where nothing is found, nan without truth."""
        others, own = (np.cumsum(row[:0:-1])[::-1] for row in histogram)  # at or above each edge
        truth = histogram[1].sum()
        gone = np.nan if not truth else 0.0
        return cls(
            1 / (1 + np.exp(-EDGES)),
            np.asarray(2 * own / np.maximum(own + others + truth, 1)) + gone,
            np.asarray(own / np.maximum(own + others, 1)) + gone,
            np.asarray(own / np.maximum(truth, 1)) + gone,
        )


def sweep(histogram: Counts) -> list[dict[str, float]]:
    """The rows at some of the thresholds, 0.05 … 0.95."""
    found = Sweep.of(histogram)
    return [
        {"threshold": round(float(found.thresholds[near]), 2)}
        | {name: float(getattr(found, name)[near]) for name in ("dice", "precision", "recall")}
        for near in np.searchsorted(found.thresholds, SWEEP)
    ]


def confidence(logs: NDArray[Any], power: float) -> NDArray[Any]:
    """The largest of the probabilities pᵢ ∝ exp(power · logsᵢ), logs K×n → n."""
    return np.asarray(1 / np.exp(power * (logs - logs.max(0))).sum(0))


def confidence_counts(confidences: NDArray[Any], right: NDArray[np.bool_]) -> Floats:
    """Pixels, right ones, and sums of confidence in equal bins of the confidence, 3×bins."""
    bins = np.clip(np.ceil(confidences * CONFIDENCES).astype(np.intp) - 1, 0, CONFIDENCES - 1)
    columns = (None, right, confidences)
    return np.stack([np.bincount(bins, weights, CONFIDENCES) for weights in columns])


def expected_error(counts: Floats) -> float:
    """Expected calibration error: Σ share of bin · |accuracy − confidence|; nan without pixels.

    Source: Guo 2017, "On calibration of modern neural networks", 1706.04599.
    """
    pixels, right, confidences = counts
    total = pixels.sum()
    return float(np.abs(right - confidences).sum() / total) if total else float("nan")


def reliability(counts: Floats) -> list[dict[str, float]]:
    """Pixels, mean confidence and accuracy of every bin of the confidence that is not empty."""
    rows = []
    for at, (pixels, right, confidences) in enumerate(counts.T):
        if pixels:
            row = {"from": at / CONFIDENCES, "to": (at + 1) / CONFIDENCES, "pixels": int(pixels)}
            rows.append(row | {"confidence": confidences / pixels, "accuracy": right / pixels})
    return rows
