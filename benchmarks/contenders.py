"""Contenders: each a process of its own that works when told, and says how long it took.

A process of its own, because the settings of one (memory allocator, threads) must not help another.
The parent writes a number of units (images, steps) on a line; the child works and answers with a
line of JSON. All contenders live at once, and only the one that was told works.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Self

MOST_UNITS = 16
"""Units of one turn at most: that many images fill the pipeline of a prediction."""

SLOW = 10.0
"""Seconds; what takes so long for a unit is warm after one."""


class ContenderError(RuntimeError):
    """A contender's process ended; what went wrong stands on standard error."""


class Contender:
    """The parent's side of a process that waits for orders.

    Args:
        name: Stands in messages.
        words: What follows `python -m`.
    """

    def __init__(self, name: str, words: Sequence[str]) -> None:
        self.name = name
        self.units = 1
        self.first = 0.0
        """Seconds of one of the first units, with all that is done once."""
        self._turn, self._most = 0.0, MOST_UNITS
        began = time.monotonic()
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", *words]
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.facts = self._answer()
        self.started = time.monotonic() - began
        """Seconds until it was ready: imports and loading."""

    def go(self) -> float:
        """Work on `units` units; seconds for one of them."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{self.units}\n")
        self._process.stdin.flush()
        seconds = float(self._answer()["seconds"])
        if self._turn:
            self.units = max(1, min(self._most, round(self._turn / seconds)))
        return seconds

    def warm_up(self, turn: float, most: int = MOST_UNITS, first: int = 1) -> Self:
        """Work until it is warm; from then on a turn takes about `turn` seconds.

        Args:
            turn: Seconds; at least one unit is worked on.
            most: Units of a turn at most.
            first: Units before anything is measured.
        """
        self._turn, self._most, self.units = turn, most, first
        self.first = self.go()
        if self.first < SLOW:
            self.go()
        return self

    def close(self) -> None:
        """Let the process end."""
        with self._process:  # closes the pipes, and waits
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise ContenderError(f"{self.name} ended with {self._process.returncode}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def contenders(commands: Mapping[str, Sequence[str]]) -> Iterator[dict[str, Contender]]:
    """Start a contender for each name, one after the other, and end them all at the end."""
    with ExitStack() as stack:
        started = {}
        for name, words in commands.items():
            started[name] = Contender(name, words)
            stack.callback(started[name].close)
        yield started


class Orders:
    """The child's side: what is to be done, and the answers.

    Standard output is kept for the answers; what libraries print there goes to standard error.

    Args:
        facts: Told to the parent at once: that this process is ready, and what it is.
    """

    def __init__(self, **facts: object) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.answer(**facts)

    def next(self) -> int | None:
        """How many units to work on now; None when there is nothing more to do."""
        line = sys.stdin.readline()
        return int(line) if line.strip() else None

    def answer(self, **facts: object) -> None:
        """Answer the last order."""
        self._answers.write(json.dumps(facts) + "\n")
        self._answers.flush()


def serve(work: Callable[[int], object], **facts: object) -> None:
    """Do `work(units)` whenever told, until the parent has no more orders."""
    orders = Orders(**facts)
    while (units := orders.next()) is not None:
        began = time.perf_counter()
        work(units)
        wait_for_device()
        orders.answer(seconds=(time.perf_counter() - began) / units)


def wait_for_device() -> None:
    """Wait until a GPU has done what it was given."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


class NoMoreOrders(Exception):  # noqa: N818 — nothing is wrong
    """The parent is done."""


class InTurns:
    """Watches a training, and lets it go on only as long as it was told to.

    It is a `unetseg.progress.Progress`, so the training is the very one of `unetseg train`.
    """

    def __init__(self) -> None:
        self._orders: Orders | None = None
        self._units = self._left = 0
        self._began = 0.0

    def start(self, task: str, total: int | None = None) -> None:
        """All is ready when the training begins."""
        if task == "training":
            self._orders = Orders()
            self._wait(self._orders)

    def advance(self, task: str, steps: int = 1, **facts: object) -> None:
        """A step is done."""
        if task != "training" or self._orders is None:
            return
        self._left -= 1
        if self._left == 0:
            wait_for_device()
            self._orders.answer(seconds=(time.perf_counter() - self._began) / self._units)
            self._wait(self._orders)

    def finish(self, task: str) -> None:
        """Nothing to do."""

    def say(self, message: str) -> None:
        """What the training concludes goes to standard error."""
        sys.stderr.write(f"{message}\n")

    def _wait(self, orders: Orders) -> None:
        """Wait for the next order.

        Raises:
            NoMoreOrders: there is none.
        """
        units = orders.next()
        if units is None:
            raise NoMoreOrders
        self._units = self._left = units
        self._began = time.perf_counter()
