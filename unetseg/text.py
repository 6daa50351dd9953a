"""The few words that messages share: plurals and printable paths."""

from pathlib import Path


def plural(count: int, noun: str) -> str:
    """The count with its noun.

    >>> plural(1, "pair"), plural(2, "pair")
    ('1 pair', '2 pairs')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def printable(path: Path | str) -> str:
    r"""The path with line breaks and other control characters made visible.

    >>> printable("a\nb.png")
    'a\\nb.png'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(path))
