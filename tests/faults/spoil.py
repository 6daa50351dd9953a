"""Ways to spoil the content of a file: bits, cuts, splices, numbers, words, values of JSON."""

import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

from unetseg.data.files.pngs import PNG_START

NUMBERS = [0, 1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31]
NUMBERS += [2**32 - 1, 2**63 - 1, 2**64 - 1]
WORDS = [
    *(b"", b"\0", b"\n", b"\xff", b"\xef\xbb\xbf", b",", b";", b'"', b"'", b"{", b"[", b"]" * 99),
    *(b"-1", b"1e999", b"nan", b"9" * 400, b"0x10", b"null", b"true", b"../", b"/", b"\\", b"<"),
    *(b"[" * 5000, b"{a: " * 3000, b"!!python/object/apply:os.system [true]", b"&a [*a, *a]", b"%"),
    *("é".encode(), "\u202e".encode(), b"\x1b[31m", b"<!DOCTYPE a>", b"&lt;", b"\r", b"\t", b"  "),
]
JUNK: list[Any] = [
    *(None, True, -1, 0, 7, 0.5, 1e308, -1e308, float("nan"), float("inf"), 2**31, 2**63, 10**400),
    *("", "x", "\ud800", "\0", "../a.png", "/etc/passwd", "os.system", "a" * 5000, "\x1b[31m"),
    *([], [[]], [[[1]]], [1, 2], [[None, 1]] * 3, [1] * 5000, {}, {"a": 1}, {"a": {"a": [{}]}}),
]


def spoilt(content: bytes, others: Sequence[bytes], chance: Random) -> bytes:
    """The content with one to eight changes; checksums of PNG are often made right again."""
    for _ in range(chance.choice([1, 1, 1, 2, 3, 8])):
        change = chance.choice(CHANGES)
        content = change(content, others, chance)
    if content.startswith(PNG_START) and chance.random() < 0.7:
        content = with_right_checksums(content)
    return content


def flip(content: bytes, _: Sequence[bytes], chance: Random) -> bytes:
    """Flip a bit, seldom in all the rest."""
    at, length = _part(content, chance, chance.choice([1, 1, 1, 40]))
    bit = 1 << chance.randrange(8)
    return content[:at] + bytes(b ^ bit for b in content[at : at + length]) + content[at + length :]


def cut(content: bytes, _: Sequence[bytes], chance: Random) -> bytes:
    """Lose the end, or a piece."""
    at, length = _part(content, chance, 200)
    return content[:at] + (content[at + length :] if chance.random() < 0.6 else b"")


def repeat(content: bytes, _: Sequence[bytes], chance: Random) -> bytes:
    """Write a piece again, often many times."""
    at, length = _part(content, chance, 200)
    return content[: at + length] + content[at : at + length] * chance.choice([1, 1, 50])


def splice(content: bytes, others: Sequence[bytes], chance: Random) -> bytes:
    """Put a piece of another file over a piece."""
    at, length = _part(content, chance, 400)
    other = chance.choice(others)
    start, size = _part(other, chance, 400)
    return content[:at] + other[start : start + size] + content[at + length :]


def number(content: bytes, _: Sequence[bytes], chance: Random) -> bytes:
    """Write another number: over digits, or over one to eight bytes."""
    new = chance.choice(NUMBERS)
    digits = [*re.finditer(rb"-?\d+", content[:20_000])]
    if digits and chance.random() < 0.5:
        match = chance.choice(digits)
        sign = chance.choice([b"", b"", b"-"])
        return content[: match.start()] + sign + b"%d" % new + content[match.end() :]
    size = chance.choice([1, 2, 4, 8])
    at, _length = _part(content[:2000] if chance.random() < 0.7 else content, chance, 1)
    written = new.to_bytes(8)[-size:][:: chance.choice([1, -1])]
    return content[:at] + written + content[at + size :]


def word(content: bytes, _: Sequence[bytes], chance: Random) -> bytes:
    """Put in what means something somewhere."""
    at, length = _part(content, chance, 8)
    return content[:at] + chance.choice(WORDS) + content[at + chance.choice([0, length]) :]


def value(content: bytes, others: Sequence[bytes], chance: Random) -> bytes:
    """Put junk in the place of any value of a JSON text; of other content, a number or a word."""
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        return chance.choice([number, word])(content, others, chance)
    places = [place for place in _places(tree) if place]
    if not places:
        return content
    *above, last = chance.choice(places)
    inner = tree
    for key in above:
        inner = inner[key]
    inner[last] = chance.choice(JUNK)
    return json.dumps(tree).encode()


CHANGES: list[Callable[[bytes, Sequence[bytes], Random], bytes]]
CHANGES = [flip, flip, cut, repeat, splice, number, number, number, word, value, value]


def with_right_checksums(content: bytes) -> bytes:
    """A PNG whose chunks have the right checksums, as far as there are chunks."""
    parts, at = [PNG_START], len(PNG_START)
    while at + 12 <= len(content):
        end = at + 8 + int.from_bytes(content[at : at + 4])
        if end + 4 > len(content):
            break
        parts += [content[at:end], zlib.crc32(content[at + 4 : end]).to_bytes(4)]
        at = end + 4
    return b"".join([*parts, content[at:]])


def _part(content: bytes, chance: Random, longest: int) -> tuple[int, int]:
    """Where a piece begins, and its length."""
    return chance.randrange(len(content) + 1), 1 + int(longest * chance.random() ** 3)


def _places(tree: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where anything stands in a value of JSON."""
    yield place
    inner = enumerate(tree) if isinstance(tree, list) else ()
    for key, part in tree.items() if isinstance(tree, dict) else inner:
        yield from _places(part, (*place, key))
