"""Work measured in turns, so that whatever else the machine does slows all of it alike."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median

from unetseg.progress import SILENT, Progress


def seconds_of(work: Callable[[], object]) -> float:
    """What one call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_turns(
    contenders: Mapping[str, Callable[[], float]],
    rounds: int,
    seconds: float | None = None,
    progress: Progress = SILENT,
    task: str = "measuring",
) -> dict[str, list[float]]:
    """Measure every contender once in each round; every other round goes backwards.

    Args:
        contenders: Name → a function that works once and returns seconds per unit of work, for
            example `partial(seconds_of, work)`. The first time is often slower: the caller has had
            each of them work before.
        rounds: At most so many; at least one is done.
        seconds: No round begins that would end after these, if it lasts as long as the longest so
            far; None: all rounds are done.
        progress: Hears of each round.
        task: What progress calls it.

    Returns:
        Name → one number per round.
    """
    measured: dict[str, list[float]] = {name: [] for name in contenders}
    names, longest, began = list(contenders), 0.0, time.perf_counter()
    progress.start(task, rounds)
    for number in range(rounds):
        start = time.perf_counter()
        if number and seconds is not None and start - began + longest > seconds:
            break
        for name in names:
            measured[name].append(contenders[name]())
        names.reverse()
        longest = max(longest, time.perf_counter() - start)
        progress.advance(task)
    progress.finish(task)
    return measured


def median_seconds(
    work: Mapping[str, Callable[[], object]],
    rounds: int,
    seconds: float,
    progress: Progress = SILENT,
    task: str = "measuring",
) -> dict[str, float]:
    """The median of what a call of each takes, measured in turns."""
    timed = {name: partial(seconds_of, call) for name, call in work.items()}
    measured = in_turns(timed, rounds, seconds, progress, task)
    return {name: median(taken) for name, taken in measured.items()}
