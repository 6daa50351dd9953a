"""The masks of a folder with their meaning, and the pixels of each class counted."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetseg.checks.finding import Line
from unetseg.data.facts.survey import Survey
from unetseg.data.masks.class_map import ClassMap, Code
from unetseg.data.masks.infer_classes import separate
from unetseg.data.masks.mask_values import Folder, gather, listed_counts
from unetseg.text import plural


@dataclass(frozen=True)
class Masks:
    """The masks of a folder that makes sense.

    Attributes:
        folder: What they hold.
        class_map: What it means.
        names: Whether the classes come from a class list.
    """

    folder: Folder
    class_map: ClassMap
    names: bool

    @cached_property
    def codes(self) -> list[Code]:
        """The codes of the classes, in order."""
        return [item.code for item in self.class_map.classes]

    @cached_property
    def pixels(self) -> NDArray[np.int64]:
        """N×(K+1): the pixels of each class in each mask; the last column counts the ignored."""
        known, dtype = list(self.folder.counts), np.uint8 if self.folder.coding == "rgb" else int
        indexes = self.class_map.encode(np.array([known], dtype))[0]
        last = len(self.class_map.classes)
        column = dict(zip(known, np.minimum(indexes, last).tolist(), strict=True))
        rows = [
            np.bincount(
                [column[code] for code, _ in fact.counts],
                [count for _, count in fact.counts],  # exact below 2⁵³
                minlength=last + 1,
            )
            for fact in self.folder.facts
        ]
        return np.array(rows, np.int64)

    @cached_property
    def slips(self) -> dict[Code, Code]:
        """Classes that no list names and that look like slips, each with the one that was meant."""
        if self.names or self.class_map.snap:
            return {}
        slips = separate(self.folder, self.class_map.ignore).slips
        return {code: meant for code, meant in slips.items() if code in self.codes}

    @cached_property
    def shown(self) -> NDArray[np.int64]:
        """K: the number of masks that show each class."""
        shown: NDArray[np.int64] = (self.pixels[:, :-1] > 0).sum(axis=0)
        return shown

    @cached_property
    def share(self) -> NDArray[np.float64]:
        """K: the share of each class in the pixels that count, 0–1."""
        counts = self.pixels[:, :-1].sum(axis=0)
        share: NDArray[np.float64] = counts / max(int(counts.sum()), 1)
        return share

    def together(self, one: Code, other: Code) -> bool:
        """Whether any mask holds both classes."""
        columns = [self.codes.index(one), self.codes.index(other)]
        return bool((self.pixels[:, columns] > 0).all(axis=1).any())

    def paths(self, rows: NDArray[np.intp]) -> list[Path]:
        """The files at these places."""
        return [Path(self.folder.facts[int(row)].path) for row in rows]

    def holders(self, codes: Iterable[Code]) -> list[Line]:
        """The files that hold one of these codes, each with those it holds and their pixels."""
        wanted = set(codes)
        return [
            (Path(fact.path), f": {listed_counts(held)}")
            for fact in self.folder.facts
            if (held := {code: pixels for code, pixels in fact.counts if code in wanted})
        ]

    def part(self, count: int) -> str:
        """So many of the masks, in words."""
        return f"{count} of {plural(len(self.folder.facts), 'mask')}"


def masks_of(known: Survey) -> Masks | None:
    """The masks of a folder; None where their values make no sense."""
    if known.classes is None or not known.facts:
        return None
    folder = gather([fact.mask for _, fact in known.items()])
    return Masks(folder, known.classes, known.names is not None)


def percent(share: float) -> str:
    """A share in percent, with a decimal or, when it is tiny, two digits.

    >>> percent(0.5), percent(0.00012)
    ('50.0%', '0.012%')
    """
    return f"{share:.1%}" if share >= 0.001 or share == 0 else f"{100 * share:.2g}%"
