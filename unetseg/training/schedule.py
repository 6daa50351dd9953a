"""How far a training is, and how fast it learns there."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from unetseg.text import duration, plural

FEWEST_STEPS = 5
"""Steps whose times tell the speed."""
FASTEST_VALIDATION = 1 / 30
"""Smallest part of a budget between two validations."""
FEW_STEPS = 20
"""Steps that teach a network nothing yet."""
OVER = 1.2, 5.0
"""A training is over its budget when it takes so many times that, and so many seconds more."""
MARGIN = 3.0
"""Seconds of a budget kept for the last step and for writing files."""


class Clock:
    """How much of the training is done: by steps, by a time budget, or whichever ends first.

    It goes by `now`, seconds, which is set from outside: processes that train together go by one.
    """

    def __init__(self, began: float, budget: float | None, total_steps: int | None) -> None:
        self.began = self.now = began
        self.started = began
        """When the first step began."""
        self.budget = budget
        self.total_steps = total_steps
        self.step = 0
        self.reported = 0
        self.validation_steps = 0.0
        """Estimated cost of a validation, in training steps, until one was measured."""
        self.afterwards = 0.0
        """Share of a budget that is kept for what follows the last validation."""
        self._first_step = 0
        self._validations = 0.0  # seconds in all
        self._validation_seconds: float | None = None
        self._last_validation = began
        self._recent: list[float] = []

    @property
    def elapsed(self) -> float:
        """Seconds of this training, those before a resume counted in."""
        return self.now - self.began

    @property
    def fraction(self) -> float:
        """Share of the training that is done, 0–1."""
        by_steps = self.step / self.total_steps if self.total_steps else 0.0
        by_time = self.elapsed / (self.budget - self._reserve) if self.budget else 0.0
        return min(1.0, max(by_steps, by_time))

    @property
    def over(self) -> bool:
        """Whether no further step fits."""
        return self.fraction >= 1 and self.step > 0

    @property
    def may_validate(self) -> bool:
        """Whether a validation now leaves most of a budget to training."""
        if self.budget is None:
            return True
        gap = max(self.budget * FASTEST_VALIDATION, 5 * (self._validation_seconds or 0))
        left = self.budget - self.elapsed
        return self.now - self._last_validation >= gap and left > 2 * self._reserve

    @property
    def speed(self) -> float:
        """Steps per second, lately; 0 while that is not known, as where a clock is coarse."""
        if len(self._recent) < FEWEST_STEPS or self._recent[0] == self._recent[-1]:
            return 0.0
        return (len(self._recent) - 1) / (self._recent[-1] - self._recent[0])

    @property
    def _reserve(self) -> float:
        """Seconds kept for the last validation and what follows, at most half of the budget."""
        budget = self.budget or 0
        return min(self._validation_cost() + MARGIN + self.afterwards * budget, 0.5 * budget)

    def _validation_cost(self) -> float:
        if self._validation_seconds is not None:
            return 1.2 * self._validation_seconds
        return 1.5 * self.validation_steps / self.speed if self.speed else 0.0

    def step_done(self, step: int) -> None:
        """A training step ended."""
        self.step = step
        self._recent = [*self._recent[-19:], self.now]

    def validation_done(self, seconds: float) -> None:
        """A validation, with all it writes, took `seconds`."""
        self._validation_seconds = max(seconds, self._validation_seconds or 0)
        self._validations += seconds
        self._last_validation = self.now
        self._recent = []

    def state(self) -> dict[str, float | None]:
        """What `resume` takes, beside the step."""
        return {
            "elapsed": self.elapsed,
            "validation_seconds": self._validation_seconds,
            "since_validation": self.now - self._last_validation,
        }

    def resume(self, step: int, state: Mapping[str, Any]) -> None:
        """Go on as if the training had come to `state` just now; those of before tell less."""
        self.step = self._first_step = step
        self.began = self.now - state["elapsed"]
        self._validation_seconds = state.get("validation_seconds")
        self._last_validation = self.now - state.get("since_validation", 0.0)

    def remarks(self) -> Iterator[str]:
        """What is to be said of a budget that was short for this data and machine."""
        steps = self.step - self._first_step
        if self.budget is None or not steps:
            return
        if self.elapsed > max(OVER[0] * self.budget, self.budget + OVER[1]):
            each = (self.now - self.started - self._validations) / steps
            yield (
                f"over the budget of {duration(self.budget)}: a step took {duration(each)} here, "
                f"the validations {duration(self._validations)}"
            )
        if self.step < FEW_STEPS and self.step != self.total_steps:
            yield (
                f"warning: only {plural(self.step, 'step')} fitted into the budget, too few to "
                "learn from; give more time, or a smaller --scale, --patch or --batch"
            )


def learning_rate_factor(fraction: float, schedule: str, warmup: float) -> float:
    """The learning rate after `fraction` of the training, relative to its peak, 0–1.

    >>> [round(learning_rate_factor(t, "poly", 0.1), 3) for t in (0.05, 0.1, 0.5, 1.0)]
    [0.5, 1.0, 0.589, 0.0]
    """
    if fraction < warmup:
        return max(fraction / warmup, 0.01)
    along = (fraction - warmup) / max(1 - warmup, 1e-9)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * along))
    return float((1 - along) ** 0.9)
