"""Laws of the verdict: it is Welch's, says no more than the seeds can tell, and is legible."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from matplotlib.axes import Axes
from scipy import stats

from unetseg.skiplab.arms import (
    CLEAN,
    Arm,
    Training,
    advise,
    describe,
    difference_interval,
    draw,
    hardest_corruption,
    mean_and_deviation,
    rank,
)
from unetseg.skiplab.corruptions import CORRUPTIONS

LOSSES = {"noise": 0.3, "blur": 0.1, "contrast": 0.02, "texture": 0.2}


def arm(
    skip: str, dice: Sequence[float], gflop: float = 10, *, extra: float = 0, steps: int = 100
) -> Arm:
    """An arm that loses LOSSES + `extra` of its Dice under corruption."""
    trainings = []
    for seed, value in enumerate(dice):
        scores = {CLEAN: value} | {name: value - LOSSES[name] - extra for name in CORRUPTIONS}
        trainings.append(
            Training(
                skip=skip,
                seed=seed,
                steps=steps * (seed + 1) if steps != 100 else steps,
                seconds=60,
                split="test",
                images=8,
                dice=scores,
                dice_per_image={name: value - 0.01 for name, value in scores.items()},
            )
        )
    return Arm(skip, 1000, gflop, 2 * gflop, tuple(trainings))


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
MIXED = [*CLOSE[:2], CLEAR[0]]


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
    assert mean_and_deviation(one) == "0.900"


def test_kinds_of_one_distribution_are_seldom_told_apart() -> None:
    """At most in 5% of comparisons, however many kinds take part."""
    random = np.random.default_rng(1)
    wrong = 0
    for _ in range(300):
        draws = random.normal(0.8, 0.02, (5, 3))
        wrong += bool(rank([arm(str(kind), row.tolist()) for kind, row in enumerate(draws)]).worse)
    assert wrong / 300 <= 0.05


def test_arms_beyond_the_spread_are_worse_and_arms_within_it_equal() -> None:
    clear, close = rank(CLEAR), rank(CLOSE)
    assert clear.best.skip == "concat"
    assert [a.skip for a in clear.worse] == ["add", "none"]
    assert not clear.equals
    assert [a.skip for a in (close.best, *close.equals)] == ["add", "concat", "none"]
    assert not close.worse
    assert clear.has_spread


def test_the_order_of_the_arms_is_nothing() -> None:
    for arms in (CLEAR, CLOSE):
        assert rank(arms) == rank(arms[::-1])


# ------------------------------------------------------------------ words


def test_a_clear_winner_is_recommended_and_skips_are_said_to_help() -> None:
    seen = describe(rank(CLEAR), "80 test images")
    assert seen == (
        "With 3 seeds each, concat scored highest on 80 test images, Dice 0.910 ± 0.010; it is "
        "above add (0.810 ± 0.010) and none (0.710 ± 0.010) by more than the spread of the seeds; "
        "of the spoilt copies noise moved Dice most (-0.300 on average), and over all of them "
        "concat scored highest (0.755)."
    )
    assert advise(rank(CLEAR)) == (
        "Use --skip concat (10 GFLOP, 20 ms per image); without skips Dice is 0.200 lower."
    )


def test_within_the_spread_the_cheaper_is_named_and_skips_are_not_said_to_help() -> None:
    seen = describe(rank(CLOSE), "8 images")
    assert "the spread of the seeds does not tell it from concat (0.897 ± 0.021) and none" in seen
    assert "by more than" not in seen
    assert advise(rank(CLOSE)) == (
        "Use --skip add (9.8 GFLOP, 19.6 ms per image), or the cheaper none (8 GFLOP, 16 ms; "
        "0.013 Dice less on average, which 3 seeds cannot tell from chance); that skips help on "
        "these images is not shown, and they do not always."
    )


def test_a_saving_of_a_few_percent_is_no_cheaper_kind() -> None:
    assert "cheaper" not in advise(rank([CLOSE[1], arm("add", [0.89, 0.88, 0.90], 9.8)]))


def test_skips_that_harm_are_said_to() -> None:
    arms = [arm("none", [0.90, 0.91, 0.92]), arm("concat", [0.70, 0.71, 0.72])]
    assert advise(rank(arms)).endswith("; every kind of skip does harm on these images.")
    arms = [arm("none", [0.90, 0.91, 0.92]), arm("concat", [0.89, 0.90, 0.92])]
    assert "Use --skip none" in advise(rank(arms))
    assert "is not shown" in advise(rank(arms))


def test_without_the_control_nothing_is_said_of_skips_as_such() -> None:
    arms = [a for a in CLEAR if a.skip != "none"]
    assert advise(rank(arms)) == "Use --skip concat (10 GFLOP, 20 ms per image)."


def test_one_seed_is_a_hint_and_no_more() -> None:
    standing = rank([arm("concat", [0.9]), arm("none", [0.3])])
    assert not standing.has_spread
    seen = describe(standing, "1 validation image")
    assert "With 1 seed each, concat scored highest on 1 validation image, Dice 0.900;" in seen
    assert "then none (0.300), and one seed does not tell" in seen
    assert "±" not in seen
    assert "nan" not in seen
    assert advise(standing) == (
        "A hint towards --skip concat and no more: repeat this with --seeds 3 or more."
    )


def test_seeds_that_got_more_steps_than_others_are_told() -> None:
    even, uneven = arm("concat", [0.9, 0.8]), arm("add", [0.9, 0.8], steps=50)
    assert "steps" not in describe(rank([even, arm("none", [0.9, 0.8])]), "8 images")
    assert "one seed got 2.0 times another's steps" in describe(rank([even, uneven]), "8 images")


def test_trainings_that_are_left_out_are_named_and_not_counted() -> None:
    arms = [arm("concat", [0.9, 0.91, 0.92]), arm("none", [0.7, 0.71])]
    seen = describe(rank(arms), "8 images", ["none (seed 1)", "add (seed 0)"])
    assert seen.startswith("With 2 to 3 seeds each, concat scored highest")
    assert "left out, for their training diverged, are none (seed 1), add (seed 0);" in seen
    assert "left out" not in describe(rank(arms), "8 images")


def test_the_hardest_corruption_is_that_of_the_greatest_mean_loss() -> None:
    hardest, loss = hardest_corruption(CLEAR)
    assert hardest == "noise"
    assert loss == pytest.approx(0.3)
    sturdy, frail = arm("add", [0.8, 0.8]), arm("concat", [0.9, 0.9], extra=0.2)
    assert "over all of them add scored highest (0.645)" in describe(rank([sturdy, frail]), "x")


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


def test_the_title_claims_no_more_than_the_sentences() -> None:
    titles = [draw(rank(arms), "x", 3).axes[0].get_title() for arms in (CLEAR, CLOSE, MIXED)]
    assert titles[0].startswith("concat scored highest, beyond the spread of the seeds")
    assert titles[1].startswith("add scored highest; no other kind can be told from it")
    assert titles[2].startswith("add scored highest; 1 of 2 others cannot be told from it")
