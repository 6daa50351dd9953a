"""What the user sees: bars on a terminal, plain lines elsewhere, errors as answers."""

import codecs
import errno
import io
import json
import os
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.text import Text

from unetseg.errors import MachineError
from unetseg.text import duration, visible

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

SHOWN = 5
"""Files of a finding or an error that are listed on the terminal."""
QUIET_SECONDS = 15.0
"""Between two lines about the same task where there is no terminal."""
FORESEEN = 0.1
"""Share of a task that tells how long the rest takes: the first steps are slower."""
LONG = 60.0
"""Seconds after which any share tells it."""
PLAIN = {
    "×": "x",
    "·": "-",
    "–": "-",
    "—": "-",
    "−": "-",
    "…": "...",
    "²": "^2",
    "³": "^3",
    "→": "->",
    "←": "<-",
    "↔": "<->",
    "≤": "<=",
    "≥": ">=",
    "±": "+-",
}
"""What stands for a character that the encoding of the output lacks."""
GONE = (errno.EPIPE, errno.EIO)
"""What the system says when nobody reads any more: of a pipe, of a terminal."""

out = Console(highlight=False, soft_wrap=True, emoji=False)  # a file may be called a:cat:.png
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


class Output(io.TextIOWrapper):
    """Standard output or error that stops no work.

    Characters that its encoding lacks are replaced. Once its reader has gone or its disk is full,
    what is written is dropped: a training goes on without being watched.
    """

    is_lost = False
    """Whether something was dropped for which there was no room."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        buffered = stream.line_buffering, stream.write_through
        super().__init__(stream.buffer, stream.encoding, "plain", None, *buffered)
        self._stream = stream  # which closes its buffer when it is forgotten

    def write(self, text: str, /) -> int:
        """Write or drop `text`."""
        try:
            return super().write(text)
        except OSError as error:
            return self._drop(error)

    def flush(self) -> None:
        """Hand on what was written."""
        try:
            super().flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, why: OSError) -> int:
        """From now on write to nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        self.is_lost |= why.errno not in GONE
        if why.errno not in GONE and self is not sys.stderr:
            err.print(f"what is said here is lost from now on: {why.strerror}", markup=False)
        return 0


def patient(stream: Any) -> Any:
    """Standard output or error as an `Output`; what is no file of text stays as it is."""
    if not isinstance(stream, io.TextIOWrapper):  # None where it is closed
        return stream
    return Output(stream)


def _plain(error: UnicodeError) -> tuple[str, int]:
    r"""A character that an encoding lacks: its plain form, else as in Python: `\u5199`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    escaped = character.encode("ascii", "backslashreplace").decode()
    return PLAIN.get(character, escaped), error.start + 1


codecs.register_error("plain", _plain)


@contextmanager
def observed() -> "Iterator[Bars | Lines]":
    """Bars on a terminal, plain lines elsewhere; gone from the screen at the end."""
    progress = Bars() if out.is_terminal else Lines()
    try:
        yield progress
    finally:
        progress.stop()


def show_table(columns: Mapping[str, Sequence[str]], numbers: Collection[str] = ()) -> None:
    """Cells below their heads, those of `numbers` to the right and on one line each."""
    from rich.table import Table  # not needed to print a help page

    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for head in columns:
        number = head in numbers
        justify: Literal["left", "right"] = "right" if number else "left"
        table.add_column(Text(head), justify=justify, no_wrap=number, overflow="fold")
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*(Text(visible(cell)) for cell in cells))  # brackets in names are text
    out.print(table)


def say(message: str) -> None:
    """One line to the user; brackets in it are text."""
    out.print(visible(message), markup=False)


def say_json(value: object) -> None:
    """One JSON value for programs: without colours, also where the environment asks for these.

    Raises:
        MachineError: there is no room for all of it.
    """
    out.print(json.dumps(value, indent=2), markup=False)
    if getattr(sys.stdout, "is_lost", False):
        raise MachineError("the JSON is not whole", fix="Free space, or write it elsewhere.")


class Lines:
    """Progress as plain lines, a few a minute: for logs, pipes and containers."""

    def __init__(self) -> None:
        self._done: dict[str, int] = {}
        self._total: dict[str, int | None] = {}
        self._facts: dict[str, dict[str, object]] = {}
        self._first: dict[str, tuple[int, float]] = {}  # what was done before may come at once
        self._spoke: dict[str, float] = {}

    def start(self, task: str, total: int | None = None) -> None:
        """Begin `task`."""
        self._done[task], self._total[task], self._facts[task] = 0, total, {}
        self._first.pop(task, None)
        self._spoke[task] = time.monotonic()

    def advance(self, task: str, steps: int = 1, **facts: object) -> None:
        """Print a line when the last one about `task` is long ago."""
        self._done[task] += steps
        self._first.setdefault(task, (self._done[task], time.monotonic()))
        self._facts[task] = facts or self._facts[task]
        if time.monotonic() - self._spoke[task] >= QUIET_SECONDS:
            self._spoke[task] = time.monotonic()
            say(f"{task} {self._share(task)}{_described(self._facts[task])}")

    def finish(self, task: str) -> None:
        """Forget `task`."""
        self._spoke.pop(task, None)

    def say(self, message: str) -> None:
        """Print the message."""
        say(message)

    def stop(self) -> None:
        """Nothing is left on the screen."""

    def _share(self, task: str) -> str:
        total, done = self._total[task], self._done[task]
        if not total or not done:
            return ""
        (before, began), share = self._first[task], done / total
        gone, new = time.monotonic() - began, done - before
        if not new or (share < FORESEEN and gone < LONG):
            return f"{share:.0%}  "
        return f"{share:.0%}, {duration(gone * (total - done) / new)} left  "


class Bars:
    """Progress as bars with the time that is left."""

    def __init__(self) -> None:
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._facts: dict[str, dict[str, object]] = {}

    def start(self, task: str, total: int | None = None) -> None:
        """Show a bar."""
        if self._bars is None:
            self._bars = _bars(is_share=task == "training")
            self._bars.start()
        self._facts[task] = {}
        self._tasks[task] = self._bars.add_task(task, total=total, facts="")

    def advance(self, task: str, steps: int = 1, **facts: object) -> None:
        """Move the bar."""
        self._facts[task] = facts or self._facts[task]
        if self._bars is not None:
            described = _described(self._facts[task])
            self._bars.update(self._tasks[task], advance=steps, facts=described)

    def finish(self, task: str) -> None:
        """Take the bar away."""
        if self._bars is None or task not in self._tasks:
            return
        self._bars.remove_task(self._tasks.pop(task))
        if not self._tasks:
            self._bars.stop()
            self._bars = None

    def say(self, message: str) -> None:
        """Print the message above the bars."""
        (self._bars.console if self._bars else out).print(visible(message), markup=False)

    def stop(self) -> None:
        """Take all bars away, whatever happened."""
        for task in list(self._tasks):
            self.finish(task)


def _bars(*, is_share: bool) -> "Progress":
    """Bars that show the share done, or how many of how many."""
    from rich import progress  # not needed to print a help page
    from rich.table import Column

    rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    return progress.Progress(
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=16),
        progress.TaskProgressColumn() if is_share else progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[facts]}", markup=False, table_column=rest),
        console=out,
        expand=True,
        transient=True,
    )


def _described(facts: dict[str, Any]) -> str:
    return "  ".join(f"{name} {_short(value)}" for name, value in facts.items())


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
