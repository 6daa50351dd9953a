"""Which kind of skip is best, as far as the seeds tell: the scores of all, ranked and drawn.

Whether one kind of skip is better than another is told by how far the seeds alone move the scores:
by Welch's interval (1947) of the difference of two means. Which kind is best is seen in the same
scores, and might have been any; so the level is 95% for all pairs of kinds together (Bonferroni).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.special import stdtrit

from unetseg.evaluation.confusion import Floats
from unetseg.skiplab.corruptions import CORRUPTIONS, STRONGEST
from unetseg.skiplab.cost import Cost
from unetseg.skiplab.look import COLOURS, new_figure
from unetseg.skiplab.skip_trainings import CLEAN, SEVERITY, Training

CONFIDENCE = 0.95
"""Of all statements together that a kind scores less than the best, whichever that is."""


@dataclass(frozen=True)
class Arm:
    """One kind of skip: what it costs, and its trainings, one per seed."""

    skip: str
    cost: Cost
    """For one image of the size of a training crop."""
    predict_ms: float
    """Median time for one image, milliseconds."""
    trainings: tuple[Training, ...]

    def dice(self, condition: str = CLEAN) -> Floats:
        """The Dice of each seed under a condition."""
        return np.array([training.dice[condition] for training in self.trainings])

    @property
    def mean(self) -> float:
        """Mean Dice of the seeds on clean images."""
        return float(self.dice().mean())

    def row(self) -> dict[str, object]:
        """The arm as a row of a table: means and deviations over the seeds."""
        per_image = np.array([training.dice_per_image[CLEAN] for training in self.trainings])
        scores = {"dice": self.dice(), "dice_per_image": per_image}
        scores |= {name: self.dice(name) for name in CORRUPTIONS}
        row: dict[str, object] = {"skip": self.skip, "seeds": len(self.trainings)}
        row |= {"parameters": self.cost.parameters, "gflop": round(self.cost.gflop, 4)}
        for name, values in scores.items():
            row[f"{name}_mean"] = round(float(values.mean()), 4)
            row[f"{name}_sd"] = None if len(values) < 2 else round(deviation(values), 4)
        seconds = np.mean([training.seconds for training in self.trainings])
        steps = np.mean([training.steps for training in self.trainings])
        row |= {"train_seconds": round(float(seconds), 1), "steps": round(float(steps))}
        return row | {"predict_ms": round(self.predict_ms, 2)}


def deviation(values: Floats) -> float:
    """Standard deviation of a sample (n − 1); nan of fewer than two values."""
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def difference_interval(first: Floats, second: Floats, comparisons: int = 1) -> tuple[float, float]:
    """Welch's interval of mean(first) − mean(second), of samples with variances of their own.

    So many `comparisons` hold together at a level of 95% (Bonferroni). The ends are infinite where
    a sample has fewer than two values. Source: Welch 1947, Biometrika 34:28.

    >>> low, high = difference_interval(np.array([0.90, 0.91, 0.92]), np.array([0.80, 0.82, 0.84]))
    >>> bool(0 < low < 0.09 < high)
    True
    """
    if min(len(first), len(second)) < 2:
        return -math.inf, math.inf
    middle = float(first.mean() - second.mean())
    parts = [deviation(sample) ** 2 / len(sample) for sample in (first, second)]
    if not sum(parts):
        return middle, middle
    degrees = [len(sample) - 1 for sample in (first, second)]
    freedom = sum(parts) ** 2 / sum(p**2 / d for p, d in zip(parts, degrees, strict=True))
    quantile = stdtrit(freedom, 1 - (1 - CONFIDENCE) / (2 * comparisons))
    half = float(quantile) * math.sqrt(sum(parts))
    return middle - half, middle + half


def rank(arms: Sequence[Arm]) -> list[tuple[Arm, str]]:
    """The arms with their verdicts on clean images: best, then equal, then worse.

    Best is the highest mean, equal what the seeds cannot tell from it, worse what they can. Any of
    k arms may turn out the best, so an interval is one of k(k − 1)/2 that hold together.
    """
    best, *others = sorted(arms, key=lambda arm: -arm.mean)
    pairs = math.comb(len(arms), 2)
    ranked = [(best, "best")]
    for arm in others:
        low, _ = difference_interval(best.dice(), arm.dice(), pairs)
        ranked.append((arm, "worse" if low > 0 else "equal"))
    return sorted(ranked, key=lambda entry: entry[1] == "worse")  # each group by its means


def draw(standing: Sequence[tuple[Arm, str]], where: str) -> Figure:
    """Left: the Dice of every kind and seed on `where` ("80 test images"), the best kind first.

    Right: the same under each corruption.
    """
    figure, (across,) = new_figure(13, 5, columns=2)
    left, right = across
    conditions = (CLEAN, *CORRUPTIONS)
    shifts = np.linspace(-0.3, 0.3, len(standing))
    for number, (arm, _) in enumerate(standing):
        style: dict[str, Any] = {"fmt": "o", "color": COLOURS[number % len(COLOURS)]}
        of = [arm.dice(condition) for condition in conditions]
        means = [float(values.mean()) for values in of]
        spread = [deviation(values) for values in of] if len(of[0]) > 1 else None
        left.plot(of[0], [number + 0.18] * len(of[0]), ".", color=style["color"], alpha=0.6)
        left.errorbar(arm.mean, number, xerr=spread and spread[:1], capsize=4, **style)
        places = np.arange(len(conditions)) + shifts[number]
        right.errorbar(places, means, spread, capsize=3, label=arm.skip, **style)
    names = [f"{arm.skip} ({verdict})\n{arm.cost.gflop:.3g} GFLOP" for arm, verdict in standing]
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.5, -0.5)
    left.set_xlabel("foreground Dice (mean ± deviation; dots: one training each)")
    left.set_title(f"On {where}")
    for border in range(len(conditions) - 1):
        right.axvline(border + 0.5, color="0.8", linewidth=0.8)
    right.grid(visible=False, axis="x")
    right.set_xticks(range(len(conditions)), conditions)
    right.set(xlim=(-0.5, len(conditions) - 0.5), ylim=(-0.02, 1.02))
    right.set_ylabel("foreground Dice (mean ± deviation)")
    right.set_title(f"The same images spoilt, severity {SEVERITY} of {STRONGEST}")
    figure.legend(loc="outside right upper", title="--skip")
    return figure
