"""The arms of a comparison: which is best, what the seeds can tell apart, and a picture of both.

Whether one kind of skip is better than another is told by how far the seeds alone move the scores:
by Welch's interval (1947) of the difference of two means. Which kind is best is seen in the same
scores, and might have been any; so the level is 95% for all pairs of kinds together (Bonferroni).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict
from scipy.special import stdtrit

from unetseg.evaluation.confusion import Floats
from unetseg.skiplab.corruptions import CORRUPTIONS, STRONGEST
from unetseg.skiplab.cost import Cost
from unetseg.skiplab.result import COLOURS, new_figure

CONFIDENCE = 0.95
"""Of all statements together that a kind scores less than the best, whichever that is."""
CLEAN = "clean"
"""The condition of images that are as they were."""


class Training(BaseModel):
    """One training, and its scores on the images held out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    skip: str
    seed: int
    steps: int
    seconds: float
    """Of the whole training, validation included."""
    split: str
    images: int
    """Images that it was scored on."""
    dice: dict[str, float]
    """Foreground Dice over all pixels of the split, 0–1, by condition: clean or a corruption."""
    dice_per_image: dict[str, float]
    """Mean of the foreground Dice of every image that has one, likewise."""

    def row(self) -> dict[str, object]:
        """The training as a row of a table."""
        scores = {name: round(self.dice[name], 4) for name in CORRUPTIONS}
        per_image = round(self.dice_per_image[CLEAN], 4)
        first = {"skip": self.skip, "seed": self.seed, "dice": round(self.dice[CLEAN], 4)}
        last = {"train_seconds": round(self.seconds, 1), "steps": self.steps}
        return {**first, "dice_per_image": per_image, **scores, **last}


@dataclass(frozen=True)
class Arm:
    """One kind of skip: what it costs, and its trainings, one per seed."""

    skip: str
    parameters: int
    gflop: float
    """Of one image of the size of a training crop; a multiplication and an addition are two."""
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
        row |= {"parameters": self.parameters, "gflop": round(self.gflop, 4)}
        for name, values in scores.items():
            row[f"{name}_mean"] = round(float(values.mean()), 4)
            row[f"{name}_sd"] = None if len(values) < 2 else round(deviation(values), 4)
        seconds = np.mean([training.seconds for training in self.trainings])
        steps = np.mean([training.steps for training in self.trainings])
        row |= {"train_seconds": round(float(seconds), 1), "steps": round(float(steps))}
        return row | {"predict_ms": round(self.predict_ms, 2)}


def form_arms(
    trainings: Sequence[Training], costs: Mapping[str, Cost], times: Mapping[str, float]
) -> list[Arm]:
    """One arm for each kind that has a training.

    Args:
        trainings: Of all kinds.
        costs: What the network of each kind costs.
        times: Milliseconds that each kind takes for one image.
    """
    arms = []
    for skip in dict.fromkeys(training.skip for training in trainings):
        own = tuple(training for training in trainings if training.skip == skip)
        arms.append(Arm(skip, costs[skip].parameters, costs[skip].gflop, times[skip], own))
    return arms


# ------------------------------------------------------------------ what the seeds can tell


def deviation(values: Floats) -> float:
    """Standard deviation of a sample (n − 1); nan of fewer than two values."""
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def difference_interval(first: Floats, second: Floats, comparisons: int = 1) -> tuple[float, float]:
    """Welch's interval of mean(first) − mean(second), of samples with variances of their own.

    Args:
        first: Values of one sample.
        second: Values of the other.
        comparisons: Number of intervals that hold together at a level of 95% (Bonferroni).

    Returns:
        Lower and upper end; infinite where a sample has fewer than two values.

    Source: Welch 1947, Biometrika 34:28.

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


@dataclass(frozen=True)
class Standing:
    """How the arms stand on clean images, each group from the best downwards."""

    best: Arm
    """The one of the highest mean Dice."""
    equals: tuple[Arm, ...]
    """Those that the seeds cannot tell from it."""
    worse: tuple[Arm, ...]
    """Those that score less by more than the seeds explain."""

    @property
    def arms(self) -> tuple[Arm, ...]:
        """All of them."""
        return (self.best, *self.equals, *self.worse)

    def verdict(self, arm: Arm) -> str:
        """Whether an arm is the best, equal to it as far as the seeds tell, or worse."""
        return "best" if arm is self.best else "worse" if arm in self.worse else "equal"


def rank(arms: Sequence[Arm]) -> Standing:
    """Find the best arm, and tell the others from it where the seeds allow.

    Any of k arms may turn out the best, so an interval is one of k(k − 1)/2 that hold together.
    """
    best, *others = sorted(arms, key=lambda arm: -arm.mean)
    pairs = math.comb(len(arms), 2)
    equals: list[Arm] = []
    worse: list[Arm] = []
    for arm in others:
        low, _ = difference_interval(best.dice(), arm.dice(), pairs)
        (worse if low > 0 else equals).append(arm)
    return Standing(best, tuple(equals), tuple(worse))


# ------------------------------------------------------------------ picture


def draw(standing: Standing, where: str, severity: int) -> Figure:
    """Left: the Dice of every kind and seed. Right: the same under each corruption.

    Args:
        standing: How the arms stand.
        where: On what they were scored: "80 test images".
        severity: Of the corruptions.
    """
    figure, axes = new_figure(13, 5, columns=2)
    colours = [COLOURS[place % len(COLOURS)] for place in range(len(standing.arms))]
    _draw_scores(axes[0, 0], standing, colours)
    axes[0, 0].set_title(f"On {where}")
    _draw_conditions(axes[0, 1], standing, colours)
    axes[0, 1].set_title(f"The same images spoilt, severity {severity} of {STRONGEST}")
    handles, labels = axes[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", title="--skip")
    return figure


def _draw_scores(axes: Any, standing: Standing, colours: Sequence[str]) -> None:
    for place, (arm, colour) in enumerate(zip(standing.arms, colours, strict=True)):
        values = arm.dice()
        axes.plot(values, np.full(len(values), place + 0.18), ".", color=colour, alpha=0.6)
        spread = [deviation(values)] if len(values) > 1 else None
        axes.errorbar(arm.mean, place, xerr=spread, fmt="o", color=colour, capsize=4)
    names = [
        f"{arm.skip} ({standing.verdict(arm)})\n{arm.gflop:.3g} GFLOP" for arm in standing.arms
    ]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("foreground Dice (mean ± deviation; dots: one training each)")


def _draw_conditions(axes: Any, standing: Standing, colours: Sequence[str]) -> None:
    conditions = (CLEAN, *CORRUPTIONS)
    shifts = np.linspace(-0.3, 0.3, len(standing.arms))
    for arm, colour, shift in zip(standing.arms, colours, shifts, strict=True):
        values = [arm.dice(condition) for condition in conditions]
        means = [float(value.mean()) for value in values]
        spread = [deviation(value) for value in values] if len(arm.trainings) > 1 else None
        places = np.arange(len(conditions)) + shift
        axes.errorbar(places, means, spread, fmt="o", color=colour, capsize=3, label=arm.skip)
    for border in range(len(conditions) - 1):
        axes.axvline(border + 0.5, color="0.8", linewidth=0.8)
    axes.grid(visible=False, axis="x")
    axes.set_xticks(range(len(conditions)), conditions)
    axes.set_xlim(-0.5, len(conditions) - 0.5)
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("foreground Dice (mean ± deviation)")
