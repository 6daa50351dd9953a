"""A value made at its first use in each process, once for all of its threads."""

import os
import threading
from collections.abc import Callable
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
            if self._made is None:
                self._made = self._make()
            return self._made

    def drop(self) -> T | None:
        """Forget the value and return it; the next `get` makes another."""
        made, self._made = self._made, None
        return made
