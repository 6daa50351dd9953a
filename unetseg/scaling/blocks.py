"""Images shared among processes that know nothing of each other: a stable split, in blocks.

Whose turn an image is follows from its name alone, never from the order of a listing or from other
names: the shard from one half of a hash of the name that its mask will have, and the block within
the shard from the other half. Names that could clash (x.png, x.jpg, x_png.tif, x_overlay.png) share
a hash, so that each block sees all there is to refuse. A block is planned, predicted and noted in
a file of its own, `predictions/BLOCK-of-BLOCKS.SHARD-of-SHARDS.jsonl`: no two shards write to one
file, and none holds more than a block in memory.
"""

import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Self

from unetseg.data.files.folders import IMAGE_SUFFIXES
from unetseg.data.pairs.naming import fold
from unetseg.prediction.manifest import BLOCKS, NAME, Journal

PER_BLOCK = 256
"""Images of a block, about."""
_SUFFIXES = "|".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
_ENDS = re.compile(rf"(_({_SUFFIXES}|overlay|probabilities|objects|labels|polygons))+$")
_FILE = re.compile(r"(\d+)-of-(\d+)\.(\d+)-of-(\d+)\.jsonl")

Named = tuple[Path, Path]
"""An image, and its name below the output folder, without suffix."""


def split_hash(name: Path) -> tuple[int, int]:
    """Two numbers of 63 bits for the name of a mask, without suffix: for shard and block.

    >>> split_hash(Path("a/x")) == split_hash(Path("A/x_png")) != split_hash(Path("a/y"))
    True
    """
    key = os.fsencode(_ENDS.sub("", fold(name.as_posix())))
    digest = blake2b(key, digest_size=16).digest()
    return int.from_bytes(digest[:8]) >> 1, int.from_bytes(digest[8:]) >> 1


@dataclass(frozen=True)
class Shard:
    """Share number `number`, from 0, of `count` shares of a set of images."""

    number: int = 0
    count: int = 1

    @classmethod
    def of(cls, text: str | None) -> Self:
        """The shard that `--shard` names."""
        return cls(*map(int, text.split("/"))) if text else cls()

    def __str__(self) -> str:
        return f"{self.number}-of-{self.count}"


@dataclass(frozen=True)
class Block:
    """Images that are planned and predicted together."""

    images: Sequence[Named]
    journal: Journal


class Blocks:
    """The images of a shard in blocks, on disk: their number takes no memory.

    Args:
        images: Of all shards; nothing of the others is kept.
        shard: Whose are wanted.
        names: Gives the images of a block their final names; all that clash are in one block.
    """

    def __init__(
        self,
        images: Iterable[Named],
        shard: Shard,
        names: Callable[[list[Named]], list[Named]] = list,
    ) -> None:
        self.shard, self.listed, self._final = shard, 0, names
        self._names = sqlite3.connect("")  # a file without a name, which ends with the process
        self._names.execute("CREATE TABLE names (block INTEGER, path BLOB, name BLOB)")
        self._names.executemany("INSERT INTO names VALUES (?, ?, ?)", self._rows(images))
        (self.total,) = self._names.execute("SELECT COUNT(*) FROM names").fetchone()

    def _rows(self, images: Iterable[Named]) -> Iterator[tuple[int, bytes, bytes]]:
        for path, name in images:
            self.listed += 1
            shard, block = split_hash(name)
            if shard % self.shard.count == self.shard.number:
                yield block, os.fsencode(path), os.fsencode(name)

    def read(self, earlier: Iterable[str] = (), at_least: int = 1) -> Iterator[Block]:
        """Each block, those without images left out.

        Args:
            earlier: Names of the files of earlier blocks.
            at_least: Blocks that are wanted, so that several workers are kept busy.
        """
        count = 1 << max(0, max(at_least, -(-self.total // PER_BLOCK)) - 1).bit_length()
        earlier = list(earlier)
        rows = self._names.execute(
            "SELECT block % ? AS number, path, name FROM names ORDER BY number, name", [count]
        )
        for number, group in groupby(rows, itemgetter(0)):
            images = [(Path(os.fsdecode(p)), Path(os.fsdecode(n))) for _, p, n in group]
            images = self._final(images)
            names = frozenset(name.as_posix() for _, name in images)
            yield Block(images, replace(self._journal(number, count, earlier), names=names))

    def _journal(self, number: int, count: int, earlier: Sequence[str]) -> Journal:
        """The file of a block, and those of other splits that may tell of its images."""

        def tells(name: str) -> bool:
            match = _FILE.fullmatch(name)
            if not match:
                return False
            there, of, shard, shards = map(int, match.groups())
            is_other = shards == self.shard.count and shard != self.shard.number
            return not is_other and (there - number) % min(count, of) == 0

        others = [f"{BLOCKS}/{name}" for name in earlier if tells(name)]
        return Journal(f"{BLOCKS}/{number}-of-{count}.{self.shard}.jsonl", (*others, NAME))
