"""One pair, and the pairs of a folder: page by page, in groups, with the codes of a model."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from unetseg.data.files.arrays import MOST_COLOURS
from unetseg.data.files.image import count_pages
from unetseg.data.files.pages import (
    STACK_SUFFIXES,
    MaskPath,
    MaskSet,
    files_of,
    page_paths,
    split_page,
)
from unetseg.data.masks.class_map import ClassMap
from unetseg.data.pairs.content import SAMPLES, look_at
from unetseg.data.pairs.mask_sets import OBJECT
from unetseg.errors import ConfigError, MaskError
from unetseg.text import plural, printable


@dataclass(frozen=True)
class Pair:
    """An image and its mask."""

    image: Path
    mask: MaskPath | None
    name: str
    """Unique in its set, relative, without suffix: `train/0016E5`."""
    split: str | None = None
    """train, val or test; None while neither folder nor CSV nor `assign_splits` says."""
    group: str | None = None
    """Pairs of one group stay in one split, and count as one in intervals."""
    region: Path | None = None
    """The image's field of view: where the file is not 0, scores count."""
    second: Path | None = None
    """The mask of a second observer."""

    @property
    def files(self) -> list[Path]:
        """The image, and the files of the mask."""
        return [self.image, *(files_of(self.mask) if self.mask else ())]


@dataclass(frozen=True)
class PairSet:
    """The pairs of a folder, sorted by name, and in one sentence how they were found.

    Attributes:
        root: The folder.
        pairs: An image and its mask each.
        rule: How they were found.
        left_out: Files that take no part, and why.
        classes: The names of the codes from 1 on, where each class has mask files of its own.
    """

    root: Path
    pairs: tuple[Pair, ...]
    rule: str
    left_out: tuple[tuple[Path, str], ...] = ()
    classes: tuple[str, ...] = ()

    @cached_property
    def numbered(self) -> bool:
        """Whether samples of the masks number objects instead of classes."""
        return look_at([pair.mask for pair in self.pairs if isinstance(pair.mask, Path)]).numbered

    def select(self, split: str) -> tuple[Pair, ...]:
        """The pairs of train, val, test or all; for val, where there is none, those that train."""
        if split == "all":
            return self.pairs
        chosen = tuple(pair for pair in self.pairs if pair.split == split)
        return self.select("train") if split == "val" and not chosen else chosen


def coded_as(found: PairSet, class_map: ClassMap) -> PairSet:
    """The pairs, with the codes that `class_map` has for masks in files of their own.

    Raises:
        MaskError: it lacks one of their classes.
    """
    if not any(isinstance(pair.mask, MaskSet) for pair in found.pairs):
        return found
    codes = {info.name: info.code for info in class_map.classes}
    shown = [class_map.names[index] for index in class_map.foreground]
    names = dict(enumerate(found.classes, 1)) or {OBJECT: shown[0] if len(shown) == 1 else "object"}
    new = {code: wanted for code, n in names.items() if isinstance(wanted := codes.get(n), int)}
    if lacking := [name for code, name in names.items() if code not in new]:
        came = f"the masks show {', '.join(lacking)}; the classes are {', '.join(class_map.names)}"
        raise MaskError(came, fix="Name folders and files as those that trained.")
    pairs = [
        replace(p, mask=replace(p.mask, codes=tuple(new[code] for code in p.mask.codes)))
        if isinstance(p.mask, MaskSet)
        else p
        for p in found.pairs
    ]
    return replace(found, pairs=tuple(pairs))


def paged(found: PairSet) -> PairSet:
    """The pairs, with each page of two stacks of as many pages as a pair of its own.

    A few samples tell whether there are stacks at all.
    """
    may_be = [pair for pair in found.pairs if pair.image.suffix.lower() in STACK_SUFFIXES]
    if not any(_pages_of(pair) for pair in may_be[:: max(1, len(may_be) // SAMPLES)]):
        return found
    pairs: list[Pair] = []
    taken = {pair.name for pair in found.pairs}
    for pair in found.pairs:
        pages = _pages_of(pair)
        sides = [page_paths(path, pages) for path in pair.files] if pages else []
        clashes = bool(sides) and not taken.isdisjoint(pair.name + end for _, end in sides[0])
        name = f"{pair.name}_page" if clashes else pair.name  # beside a_1.tif
        singles = [
            replace(pair, image=image, mask=mask, name=name + end)
            for (image, end), (mask, _) in zip(*sides, strict=True)
        ]
        pairs += singles or [pair]
    rule = f"{found.rule}; each page of a stack is a pair, {plural(len(pairs), 'pair')} in all"
    return replace(found, pairs=tuple(pairs), rule=rule)


def _pages_of(pair: Pair) -> int:
    """The pages of two stacks of as many; 0 where image and mask are one picture each."""
    if not isinstance(pair.mask, Path):
        return 0
    if any(split_page(path)[1] for path in (pair.image, pair.mask)):
        return 0
    (pages, must), (others, also) = (count_pages(path) for path in (pair.image, pair.mask))
    is_stack = must or also or pages > MOST_COLOURS  # of arrays, a short axis is one of bands
    return pages if pages == others > 1 and is_stack else 0


def grouped(pairs: Sequence[Pair], expression: str) -> tuple[Pair, ...]:
    """The pairs with the group that the regular expression finds in their names.

    Raises:
        ConfigError: it is none, or does not match every pair; all these are listed.
    """
    try:
        expected = re.compile(expression)
    except re.error as error:
        raise ConfigError(f"--group {expression!r} is no regular expression: {error}") from error
    groups = [_matched(expected, pair.image.name) for pair in pairs]
    if None in groups:
        groups = [_matched(expected, pair.name) for pair in pairs]
    strangers = [
        printable(pair.name) for pair, group in zip(pairs, groups, strict=True) if group is None
    ]
    if strangers:
        raise ConfigError(
            f"--group {expression!r} does not match {len(strangers)} of {len(pairs)} images",
            strangers,
            "Choose a regular expression that matches every image name.",
        )
    return tuple(replace(pair, group=group) for pair, group in zip(pairs, groups, strict=True))


def _matched(expected: re.Pattern[str], name: str) -> str | None:
    match = expected.search(name)
    return match and match[1 if expected.groups else 0]
