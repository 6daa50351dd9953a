"""The few words that messages share: plurals, lists, times, first lines, paths and commands."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path


def plural(count: int, noun: str) -> str:
    """The count with its noun.

    >>> plural(1, "pair"), plural(2, "pair")
    ('1 pair', '2 pairs')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def some_of(names: Sequence[str], most: int = 3) -> str:
    """The first of several names, and how many more there are.

    >>> some_of(["a", "b"]), some_of(["a", "b", "c", "d", "e"])
    ('a, b', 'a, b, c and 2 more')
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def duration(seconds: float) -> str:
    """A time as people say it.

    >>> [duration(seconds) for seconds in (0.02, 0.9996, 2.34, 21.3, 313, 5400)]
    ['20 ms', '1 s', '2.3 s', '21 s', '5 min 13 s', '1 h 30 min']
    """
    if seconds < 0.9995:  # beyond, it rounds to 1000 ms
        return f"{1000 * seconds:.3g} ms"
    if seconds < 10:
        return f"{seconds:.2g} s"
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    parts = [(hours, "h"), (minutes, "min"), (0 if hours else left, "s")]
    return " ".join(f"{count} {unit}" for count, unit in parts if count)


def visible(text: str) -> str:
    r"""Lines with what is not printable in them made visible.

    >>> visible("a\x1b[31m\nb")
    'a\\x1b[31m\nb'
    """
    return "\n".join(map(printable, text.split("\n")))


def printable(path: Path | str) -> str:
    r"""The path with line breaks and other control characters made visible.

    >>> printable("a\nb.png")
    'a\\nb.png'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(path))


def first_line(error: BaseException) -> str:
    r"""What an error says, in one line; its kind if it says nothing, or only what was looked up.

    >>> first_line(RuntimeError("one\ntwo")), first_line(OSError()), first_line(KeyError(7))
    ('one', 'OSError', 'KeyError: 7')
    """
    said, kind = str(error).strip().split("\n", 1)[0], type(error).__name__
    if not said or " " in said or not isinstance(error, LookupError):
        return said or kind
    return f"{kind}: {said}"


def address_of(given: str | Path) -> str:
    """The address that a path is, which as a `Path` loses a slash; "" where it is a file's.

    >>> address_of(Path("s3://bucket/scans")), address_of("scans"), address_of("C:/scans")
    ('s3://bucket/scans', '', '')
    """
    match = re.fullmatch(r"([a-z][a-z0-9+]+):/+(.+)", str(given))
    return f"{match[1]}://{match[2]}".rstrip("/") if match else ""


def quoted(word: object) -> str:
    """A path or a word as a shell takes it."""
    return printable(shlex.quote(str(word)))
