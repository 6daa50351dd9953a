"""Values made at their first use in each process, once for all of its threads; the last of many."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Once(Generic[T]):
    """Such a value.

    Args:
        make: Makes it.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._made: T | None = None
        self._pid = os.getpid()

    def get(self) -> T:
        """The value, made now if need be, and kept."""
        if self._pid != os.getpid():  # a forked process: neither lock nor value is its own
            self._reset()
        with self._lock:
            made = self._made
            if made is None:
                made = self._made = self._make()
            return made

    def drop(self) -> T | None:
        """Forget the value and return it; the next `get` makes another."""
        made, self._made = self._made, None
        return made


class Recent(Generic[T]):
    """What was made last, by key, each once for all threads, up to `limit` bytes in all."""

    def __init__(
        self, limit: int, cost: Callable[[T], int], drop: Callable[[T], None] = lambda _: None
    ) -> None:
        self.limit, self._cost, self._drop = limit, cost, drop
        self._made: OrderedDict[Hashable, Once[T]] = OrderedDict()
        self._costs: dict[Hashable, int] = {}
        self._held = 0  # their sum
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of `key`, made if it is not there."""
        with self._lock:
            once = self._made.setdefault(key, Once(make))
            self._made.move_to_end(key)
        try:
            value = once.get()
        except BaseException:
            with self._lock:
                if self._made.get(key) is once:
                    self._forget(key)
            raise
        with self._lock:
            if self._made.get(key) is once and key not in self._costs:  # not yet forgotten
                self._costs[key] = self._cost(value)
                self._held += self._costs[key]
            while self._held > self.limit and len(self._made) > 1:
                self._forget(next(iter(self._made)))
        return value

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            for key in list(self._made):
                self._forget(key)

    def _forget(self, key: Hashable) -> None:
        once = self._made.pop(key)
        self._held -= self._costs.pop(key, 0)
        if (value := once.drop()) is not None:
            self._drop(value)
