"""What long work tells whoever watches: facts, never text for a terminal.

Functions that take minutes accept a `Progress`; `SILENT` is the default. The command line passes
one that draws bars on a terminal and plain lines elsewhere.
"""

from typing import Protocol


class Progress(Protocol):
    """An observer of long work."""

    def start(self, task: str, total: int | None = None) -> None:
        """Begin `task`, with `total` steps when that is known."""

    def advance(self, task: str, steps: int = 1, **facts: object) -> None:
        """`steps` more of `task` are done; `facts` are its latest figures (loss, file, …)."""

    def finish(self, task: str) -> None:
        """`task` is over."""

    def say(self, message: str) -> None:
        """State one conclusion or choice in one line."""


class Silent:
    """Hears everything and says nothing."""

    def start(self, task: str, total: int | None = None) -> None:
        """Do nothing."""

    def advance(self, task: str, steps: int = 1, **facts: object) -> None:
        """Do nothing."""

    def finish(self, task: str) -> None:
        """Do nothing."""

    def say(self, message: str) -> None:
        """Do nothing."""


SILENT = Silent()
