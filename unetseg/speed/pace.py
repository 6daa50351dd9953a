"""How fast work goes: measured in turns within a time, and told per second."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

from unetseg.progress import SILENT, Progress

MOST_ROUNDS = 50
"""Rounds after which nothing more is learned."""


@dataclass(frozen=True)
class Pace:
    """How fast images of one size go.

    >>> pace = Pace(seconds=0.5, pixels=2e6, gflop=100)
    >>> pace.images_per_second, pace.megapixels_per_second, pace.gflops
    (2.0, 4.0, 200.0)
    """

    seconds: float
    """For one image."""
    pixels: float
    """Of one image, height × width."""
    gflop: float
    """Convolutions and matrix products of one image; multiplication and addition count as two."""

    @property
    def images_per_second(self) -> float:
        """Images per second."""
        return 1 / self.seconds

    @property
    def megapixels_per_second(self) -> float:
        """10⁶ pixels per second, the bands not counted."""
        return self.pixels / self.seconds / 1e6

    @property
    def gflops(self) -> float:
        """10⁹ floating-point operations per second."""
        return self.gflop / self.seconds

    def to_json(self) -> dict[str, float]:
        """All figures, milliseconds for one image first."""
        return {
            "milliseconds": 1000 * self.seconds,
            "images_per_second": self.images_per_second,
            "megapixels_per_second": self.megapixels_per_second,
            "gflops": self.gflops,
        }


def seconds_of(work: Callable[[], object]) -> float:
    """What one call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_turns(
    contenders: Mapping[str, Callable[[], object]],
    seconds: float,
    progress: Progress = SILENT,
    task: str = "measuring",
) -> dict[str, float]:
    """Median seconds of a call of each contender.

    The contenders take turns, and every other round goes backwards, so that whatever else the
    machine does slows all of them alike. The caller has called each of them once before.

    Args:
        contenders: Name → work that ends when its result is there.
        seconds: Time after which no further round begins; one round is always done.
        progress: Hears of each round.
        task: What progress calls it.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    names, began = list(contenders), time.perf_counter()
    progress.start(task)
    for number in range(1, MOST_ROUNDS + 1):
        for name in names:
            times[name].append(seconds_of(contenders[name]))
        names.reverse()
        progress.advance(task, round=number)
        if time.perf_counter() - began > seconds:
            break
    progress.finish(task)
    return {name: median(taken) for name, taken in times.items()}
