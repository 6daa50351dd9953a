"""Laws of the outlook: planted trainings are judged as they were planted."""

import numpy as np
import pytest
from numpy.typing import NDArray

from unetseg.report.curves import Outlook, Verdict
from unetseg.report.curves import outlook as judged

Curve = NDArray[np.float64]
T: Curve = np.arange(1, 41, dtype=np.float64) * 15
LOSS = 1 / T


def outlook(seconds: Curve, dice: Curve, loss: Curve = LOSS) -> Outlook:
    return judged(seconds.tolist(), dice.tolist(), loss[: len(dice)].tolist())


def noisy(curve: Curve, seed: int, noise: float = 0.003) -> Curve:
    return np.asarray(curve + np.random.default_rng(seed).normal(0, noise, len(curve)))


@pytest.mark.parametrize(
    ("verdict", "dice"),
    [
        ("finished", np.full(40, 0.9)),
        ("finished", 0.9 - 0.5 * np.exp(-T / 30)),
        ("not finished", 0.9 - 3 / T**0.5),
        ("not finished", 0.2 + 0.001 * T),
        ("overfitted", 0.9 - 2 / T - np.maximum(0, T - 200) * 2e-4),
    ],
)
def test_planted_verdicts(verdict: Verdict, dice: Curve) -> None:
    found = [outlook(T, noisy(dice, seed)).verdict for seed in range(20)]
    assert found.count(verdict) >= 18


def test_the_interval_holds_what_a_longer_training_brought() -> None:
    """Of curves that follow the law, 95% do what was told."""
    held = 0
    for seed in range(60):
        told = outlook(T, noisy(0.9 - 3 / T**0.5, seed))
        held += told.low <= 3 / 600**0.5 - 3 / 1200**0.5 <= told.high
    assert held >= 51


@pytest.mark.parametrize("points", [0, 1, 5])
def test_few_validations_tell_nothing(points: int) -> None:
    assert outlook(T[:points], T[:points] / 1000).verdict == "too short to tell"


def test_what_is_no_number_is_left_out() -> None:
    dice = 0.9 - 3 / T
    dice[3] = np.nan
    assert outlook(T, dice).gain == pytest.approx(3 / 600 - 3 / 1200, abs=1e-4)
