"""Laws of the verdict: it is Welch's, says no more than the seeds can tell, and is legible."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from matplotlib.axes import Axes
from scipy import stats

from unetseg.skiplab.compare import CLEAN, Arm, Training, difference_interval, draw, rank
from unetseg.skiplab.corruptions import CORRUPTIONS
from unetseg.skiplab.cost import Cost

LOSSES = {"noise": 0.3, "blur": 0.1, "contrast": 0.02, "texture": 0.2}


def arm(skip: str, dice: Sequence[float], gflop: float = 10) -> Arm:
    """An arm that loses LOSSES of its Dice under corruption."""
    trainings = []
    for seed, value in enumerate(dice):
        scores = {CLEAN: value} | {name: value - LOSSES[name] for name in CORRUPTIONS}
        trainings.append(
            Training(
                skip=skip,
                seed=seed,
                steps=100,
                seconds=60,
                split="test",
                images=8,
                dice=scores,
                dice_per_image={name: value - 0.01 for name, value in scores.items()},
            )
        )
    return Arm(skip, Cost(1000, gflop), 2 * gflop, tuple(trainings))


def verdicts(arms: Sequence[Arm]) -> list[str]:
    return [verdict for _, verdict in rank(arms)]


CLEAR = [
    arm("none", [0.70, 0.71, 0.72], 8),
    arm("concat", [0.90, 0.91, 0.92]),
    arm("add", [0.80, 0.81, 0.82], 8),
]
CLOSE = [
    arm("add", [0.89, 0.91, 0.90], 9.8),
    arm("concat", [0.89, 0.88, 0.92]),
    arm("none", [0.86, 0.92, 0.88], 8),
]


# ------------------------------------------------------------------ what the seeds can tell


@pytest.mark.parametrize("sizes", [(3, 3), (2, 5), (10, 4)])
def test_the_interval_is_that_of_scipys_welch_test(sizes: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    first, second = (random.normal(0.8, 0.01 * size, size) for size in sizes)
    reference = stats.ttest_ind(first, second, equal_var=False)
    for comparisons in (1, 5):
        expected = reference.confidence_interval(1 - 0.05 / comparisons)
        found = difference_interval(first, second, comparisons)
        assert found == pytest.approx((expected.low, expected.high), rel=1e-6)


def test_one_value_tells_no_spread_and_equal_values_no_doubt() -> None:
    one, two = np.array([0.9]), np.array([0.5, 0.5])
    assert difference_interval(one, two) == (-math.inf, math.inf)
    assert difference_interval(two + 0.25, two) == (0.25, 0.25)


def test_kinds_of_one_distribution_are_seldom_told_apart() -> None:
    """At most in 5% of comparisons, however many kinds take part."""
    random = np.random.default_rng(1)
    wrong = 0
    for _ in range(300):
        draws = random.normal(0.8, 0.02, (5, 3))
        wrong += "worse" in verdicts([arm(str(k), row.tolist()) for k, row in enumerate(draws)])
    assert wrong / 300 <= 0.05


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        (CLEAR, [("concat", "best"), ("add", "worse"), ("none", "worse")]),
        (CLOSE, [("add", "best"), ("concat", "equal"), ("none", "equal")]),
        ([arm("concat", [0.9]), arm("none", [0.3])], [("concat", "best"), ("none", "equal")]),
    ],
    ids=["beyond the spread", "within it", "one seed"],
)
def test_arms_beyond_the_spread_are_worse_and_arms_within_it_equal(
    arms: list[Arm], expected: list[tuple[str, str]]
) -> None:
    for order in (arms, arms[::-1]):
        assert [(arm.skip, verdict) for arm, verdict in rank(order)] == expected


# ------------------------------------------------------------------ table and picture


def test_a_row_has_means_and_deviations_over_the_seeds() -> None:
    row = arm("concat", [0.90, 0.88, 0.92]).row()
    assert (row["dice_mean"], row["dice_sd"]) == (0.9, 0.02)
    assert (row["dice_per_image_mean"], row["noise_mean"]) == (0.89, 0.6)
    assert (row["seeds"], row["steps"], row["train_seconds"]) == (3, 100, 60)
    assert arm("concat", [0.9]).row()["dice_sd"] is None


def _limits(axes: Axes) -> list[list[float]]:
    return [sorted(axes.get_xlim()), sorted(axes.get_ylim())]


@pytest.mark.parametrize("kinds", [2, 6, 9])
def test_no_text_of_the_picture_is_cut_or_over_another(kinds: int) -> None:
    names = ["attention", "deactivated", "concat", "add", "none", "gated", "nested", "switch", "x"]
    arms = [arm(name, [0.9, 0.8]) for name in names[:kinds]]
    figure = draw(rank(arms), "80 validation images", 3)
    figure.draw_without_rendering()  # places everything
    width, height = figure.bbox.size
    boxes = []
    for axes in figure.axes:
        texts = [axes.title, axes.xaxis.label, axes.yaxis.label]
        for axis, (low, high) in zip((axes.xaxis, axes.yaxis), _limits(axes), strict=True):
            ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
            texts += [label for place, label in ticks if low <= place <= high]
        boxes += [text.get_window_extent() for text in texts if text.get_text()]
    boxes += [legend.get_window_extent() for legend in figure.legends]
    assert all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= width and b.y1 <= height for b in boxes)
    overlaps = [(i, j) for i, b in enumerate(boxes) for j in range(i) if b.overlaps(boxes[j])]
    assert not overlaps
