"""The validation curve of a training → finished or not, overfitted or not, what more time gives.

The Dice over the seconds t is taken for a − b·t⁻ᶜ (Hestness 2017, 1712.00409). What such a curve
would gain is drawn again from its residuals, so that it comes with an interval. It is a guess: the
learning rate of a longer training falls later.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FEWEST = 6
"""Validations without which nothing is told."""
SKIPPED = 0.1
"""Share of the training at whose end the fit begins: the first steps follow no law."""
POWERS = np.array([0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0])
DRAWS = 300
WORTH = 0.005
"""Dice for which training on is advised."""
NOISES = 3.0
"""Deviations of the curve that it must have fallen by to be called overfitted."""

Floats = NDArray[np.float64]
Verdict = Literal["finished", "not finished", "overfitted", "too short to tell"]


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the validation curve of a training tells."""

    verdict: Verdict
    seconds: float = 0.0
    """As long again as the training took."""
    gain: float = 0.0
    """Dice that this would bring, if the curve went on as it did."""
    low: float = 0.0
    high: float = 0.0
    """The 95% interval of that."""
    fitted: tuple[tuple[float, float], ...] = ()
    """Seconds and Dice of the fitted curve, which runs on into that time."""


def outlook(
    seconds: Sequence[float], dice: Sequence[float], train_loss: Sequence[float]
) -> Outlook:
    """Judge a training by its validations.

    Args:
        seconds: When each was, from the beginning of the training.
        dice: Its Dice, 0–1.
        train_loss: The mean loss since the one before.

    >>> t = np.arange(1, 31) * 10.0
    >>> rising = outlook(t, 0.9 - 2 / t, 1 / t)
    >>> rising.verdict, round(rising.gain, 4)  # 2/300 − 2/600
    ('finished', 0.0033)
    >>> outlook(t, 0.9 - 20 / t, 1 / t).verdict
    'not finished'
    """
    known = [row for row in zip(seconds, dice, train_loss, strict=True) if np.isfinite(row).all()]
    end = known[-1][0] if known else 0.0
    late = [(second / end, *others) for second, *others in known if second >= SKIPPED * end > 0]
    if len(late) < FEWEST:
        return Outlook("too short to tell")
    t, y, loss = np.array(late, np.float64).T
    ahead = np.linspace(t[0], 2.0, 60)
    (gain, low, high), curve = extrapolated(t, y, ahead)
    verdict: Verdict = "not finished" if gain >= WORTH and low > 0 else "finished"
    verdict = "overfitted" if _has_fallen(y, loss) else verdict
    fitted = tuple(zip((ahead * end).tolist(), curve, strict=True))
    return Outlook(verdict, end, gain, low, high, fitted)


def extrapolated(
    t: Floats, y: Floats, ahead: Floats, deviations: Floats | None = None
) -> tuple[list[float], list[float]]:
    """What the way from 1 to 2 would bring, with its interval; and the curve at places `ahead`.

    The interval is by how the points scatter around the curve, or by their own deviations.
    """
    values, power = _fit(t, y[None])
    curve = _at(t, values, power)[0]
    random = np.random.default_rng(0)
    if deviations is None:
        drawn = curve + random.choice(y - curve, (DRAWS, len(t)))
    else:
        drawn = curve + random.normal(0, deviations, (DRAWS, len(t)))
    gains = [_gain(values, power), np.quantile(_gain(*_fit(t, drawn)), [0.025, 0.975])]
    return np.concatenate(gains).tolist(), _at(ahead, values, power)[0].tolist()


def _fit(t: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The a and b of a − b·t⁻ᶜ for each row of `y` S×N, with b ≥ 0, S×2; and its c, S."""
    errors, solutions = [], []
    for power in POWERS:
        x = t**-power
        spread = x - x.mean()
        slope = np.minimum(0, (y * spread).sum(axis=1) / (spread**2).sum())  # −b
        start = y.mean(axis=1) - slope * x.mean()
        solutions.append(np.stack([start, -slope], axis=1))
        errors.append(((y - start[:, None] - slope[:, None] * x) ** 2).sum(axis=1))
    best = np.argmin(errors, axis=0)
    return np.stack(solutions)[best, np.arange(len(y))], POWERS[best]


def _at(t: Floats, values: Floats, power: Floats) -> Floats:
    """The curves at some times, S×N."""
    curves: Floats = values[:, :1] - values[:, 1:] * t[None] ** -power[:, None]
    return curves


def _gain(values: Floats, power: Floats) -> Floats:
    """What each curve gains from 1 to 2."""
    gains: Floats = values[:, 1] * (1 - 2.0**-power)
    return gains


def _has_fallen(y: Floats, loss: Floats) -> bool:
    """Whether the Dice went down since its best, beyond its noise, while the loss went on down."""
    noise = float(np.median(np.abs(np.diff(y)))) / 0.954  # the deviation that such steps have
    width = max(1, len(y) // 8)
    smooth = np.convolve(y, np.full(width, 1 / width), "valid")
    best = int(np.argmax(smooth))
    lasts = len(smooth) - 1 - best >= len(y) // 5
    falls = smooth[best] - smooth[-1] > max(WORTH, NOISES * noise)
    return bool(lasts and falls and loss[-width:].mean() < loss[best : best + width].mean())
