"""Find the images of a folder and the mask of each.

A pair is found by name, never by the order of files: image and mask folders are told by the words
in their names (`images`/`masks`, `train/imgs`/`train/labels`, `JPEGImages`/`SegmentationClass`),
or, in one folder, masks by a word in the file name (`x.jpg`, `x_mask.png`). Within them the file
names must agree after one constant beginning and end is taken off each side
(`21_training.tif` ↔ `21_manual1.gif`). What does not pair is an error that lists all of it.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import TypedDict, Unpack

from unetseg.data.files.folders import scan, scan_names
from unetseg.data.pairs.layouts import (
    BY_HAND,
    Find,
    Layout,
    NamedFile,
    explicit_layout,
    read_layouts,
)
from unetseg.data.pairs.mismatch import UNLIKE, Fault, Match, find_faults, mismatch_error
from unetseg.data.pairs.naming import Affixes, find_affixes, strip
from unetseg.data.pairs.table import read_table
from unetseg.errors import ConfigError, PairingError
from unetseg.text import plural, printable


@dataclass(frozen=True)
class Pair:
    """An image and its mask."""

    image: Path
    mask: Path | None
    name: str
    """Unique in its set, relative, without suffix: `train/0016E5`."""
    split: str | None = None
    """train, val or test; None while neither folder nor CSV nor `assign_splits` says."""
    group: str | None = None
    """Pairs of one group stay in one split."""


@dataclass(frozen=True)
class PairSet:
    """The pairs of a folder, sorted by name, and in one sentence how they were found."""

    root: Path
    pairs: tuple[Pair, ...]
    rule: str

    def select(self, split: str) -> tuple[Pair, ...]:
        """The pairs of train, val, test or all; for val, where there is none, those that train."""
        if split == "all":
            return self.pairs
        chosen = tuple(pair for pair in self.pairs if pair.split == split)
        return self.select("train") if split == "val" and not chosen else chosen


class Where(TypedDict, total=False):
    """Where the pairs of a folder are, and how they are grouped, as far as the user says it.

    Attributes:
        images: Folder of the images, where its name does not tell; together with `masks`.
        masks: Folder of the masks.
        table: CSV file with the columns image, mask and optionally split and group; paths are
            absolute or relative to it. A `pairs.csv` in the folder is taken without asking.
        group: Regular expression, searched in the file names of the images or, unless it is in
            all of them, in the names of the pairs. Pairs with an equal match (of its first
            parenthesis, if it has one) form a group.
        group_column: Column of the CSV that holds the group, instead of "group".
    """

    images: Path | None
    masks: Path | None
    table: Path | None
    group: str | None
    group_column: str | None


def find_pairs(root: Path, **where: Unpack[Where]) -> PairSet:
    """All pairs of image and mask in the folder `root` or in a CSV file, sorted by name.

    Raises:
        PairingError: images and masks do not match up; every offender is listed.
        ConfigError: the arguments contradict each other, or `group` does not match every image.
    """
    pairs, layout, faults = _search(root, where, scan)
    if faults and layout is not None:
        raise mismatch_error(root, layout, faults)
    return _finished(pairs, where.get("group"))


def match_pairs(root: Path, **where: Unpack[Where]) -> tuple[PairSet, tuple[Fault, ...]]:
    """The pairs that do match, and what does not, where `find_pairs` would refuse the folder.

    No file is both in a pair and in a fault, and in neither are only files whose counterpart shares
    its name with another. A broken link or a pipe with the name of an image counts as a file.

    Raises:
        PairingError: nothing can be said: there is no folder, no image or no mask, folders compete
            for one role, or the CSV file is faulty.
        ConfigError: the arguments contradict each other, or `group` does not match every image.
    """
    pairs, _, faults = _search(root, where, scan_names)
    return _finished(pairs, where.get("group")), faults


def with_variants(found: PairSet, faults: Iterable[Fault], group: str | None = None) -> PairSet:
    """The pairs, and those of the faults whose names differ only in case or Unicode form."""
    more = tuple(
        Pair(fault.paths[0], fault.paths[1], fault.name, fault.split)
        for fault in faults
        if fault.kind == UNLIKE
    )
    return _finished(replace(found, pairs=(*found.pairs, *more)), group) if more else found


def _search(
    root: Path, where: Where, find: Find
) -> tuple[PairSet, Layout | None, tuple[Fault, ...]]:
    """The pairs, not in order nor grouped by expression yet, their layout, and what is left."""
    images, masks = where.get("images"), where.get("masks")
    group_column = where.get("group_column")
    root, table = _locate(root, images, masks, where.get("table"))
    if group_column is not None and (table is None or where.get("group") is not None):
        raise ConfigError(
            "--group-column names a column of a CSV file of pairs, and excludes --group",
            fix="Give --pairs FILE.csv with that column, or --group with a regular expression.",
        )
    if table is not None:
        pairs = tuple(Pair(*row) for row in read_table(table, group_column))
        return PairSet(root, pairs, f"{printable(table)}, {plural(len(pairs), 'pair')}"), None, ()
    if images is not None and masks is not None:
        return _choose(root, [explicit_layout(root, images, masks, find)])
    return _choose(root, read_layouts(root, find))


def _finished(found: PairSet, group: str | None) -> PairSet:
    """The pairs sorted by name, with the group that the regular expression gives."""
    pairs = sorted(found.pairs, key=lambda pair: pair.name)
    return replace(found, pairs=tuple(pairs if group is None else _group(pairs, group)))


def _locate(
    root: Path, images: Path | None, masks: Path | None, table: Path | None
) -> tuple[Path, Path | None]:
    """The root folder, and the CSV file to be used, if any."""
    if (images is None) != (masks is None) or (table is not None and images is not None):
        raise ConfigError("images, masks and pairs were given in part or at once", fix=BY_HAND)
    if root.suffix.lower() == ".csv" and root.is_file() and table is None and images is None:
        return root.parent, root
    if not root.is_dir():
        raise PairingError(f"there is no folder {printable(root)}", fix="Check the path.")
    if table is None and images is None and (root / "pairs.csv").is_file():
        table = root / "pairs.csv"
    return root, table


# Matching


def _choose(root: Path, layouts: Sequence[Layout]) -> tuple[PairSet, Layout, tuple[Fault, ...]]:
    """The pairs of the first reading that pairs everything, else of that which pairs the most."""
    matches = [_match(layout.images, layout.masks) for layout in layouts]
    complete = [
        (layout.left_out + layout.bare, i)
        for i, layout in enumerate(layouts)
        if len(matches[i]) == len(layout.images) == len(layout.masks) and not layout.rivals
    ]
    if complete:
        _, i = min(complete)
        return _pair_set(root, layouts[i], matches[i]), layouts[i], ()
    i = max(range(len(layouts)), key=lambda i: len(matches[i]))
    faults = find_faults(layouts[i], matches[i])
    rivals = layouts[0].rivals or (() if faults else layouts[i].rivals)
    if rivals:
        raise PairingError(
            f"{printable(root)} has several folders of images or masks, and it is not clear which "
            "belong together",
            rivals,
            BY_HAND,
        )
    doubtful = {path for fault in faults for path in fault.paths}
    sure = [m for m in matches[i] if doubtful.isdisjoint((m.image.path, m.mask.path))]
    return _pair_set(root, layouts[i], sure), layouts[i], faults


def _pair_set(root: Path, layout: Layout, matches: Sequence[Match]) -> PairSet:
    """The pairs with unique names, and the sentence that says how they were found."""
    names = ["/".join(filter(None, (*folder, core))) for _, _, (folder, core), _ in matches]
    count = Counter(names)
    pairs = []
    for (image, mask, _, _), name in zip(matches, names, strict=True):
        unique = name if name and count[name] == 1 else "/".join((*image.folder, image.path.stem))
        pairs.append(Pair(image.path, mask.path, unique, image.split))
    remarks = [f"left out elsewhere: {layout.left_out}"] if layout.left_out else []
    if layout.bare:
        remarks.append(f"{plural(layout.bare, 'test image')} without masks left out")
    told = f" ({', '.join(remarks)})" if remarks else ""
    return PairSet(root, tuple(pairs), (_sentence(matches) or "no pairs") + told)


def _match(images: Sequence[NamedFile], masks: Sequence[NamedFile]) -> list[Match]:
    """Pair by one rule for all or, where that leaves some, by one for each folder."""
    whole = _apply(images, masks)
    if len(whole) == len(images) == len(masks):
        return whole
    folders: dict[tuple[str, ...], tuple[list[NamedFile], list[NamedFile]]] = defaultdict(
        lambda: ([], [])
    )
    for side, files in enumerate((images, masks)):
        for file in files:
            folders[file.folder][side].append(file)
    parts = [match for sides in folders.values() for match in _apply(*sides)]
    return max(whole, parts, key=len)


def _apply(images: Sequence[NamedFile], masks: Sequence[NamedFile]) -> list[Match]:
    affixes = find_affixes([f.key for f in images], [f.key for f in masks])
    partners = {strip(mask.key, *affixes[2:]): mask for mask in masks}
    image_keys = {strip(image.key, *affixes[:2]): image for image in images}
    return [
        Match(image, partners[key], key, affixes)
        for key, image in image_keys.items()
        if key is not None and key in partners
    ]


def _sentence(matches: Sequence[Match]) -> str:
    """How the pairs were found, such as `images/NAME.jpg ↔ masks/NAME_mask.png, 20 pairs`."""
    groups: dict[Affixes, list[Match]] = defaultdict(list)
    for match in matches:
        groups[match.affixes].append(match)
    return "; ".join(
        f"{_template([m.image for m in group], affixes[:2])} ↔ "
        f"{_template([m.mask for m in group], affixes[2:])}, "
        f"{plural(len(group), 'pair')}"
        for affixes, group in groups.items()
    )


def _template(files: Sequence[NamedFile], affixes: tuple[str, ...]) -> str:
    places = sorted({file.place for file in files})
    place = places[0]
    if len(places) > 1:
        levels = zip(*(place.split("/") for place in places), strict=False)
        shared = takewhile(lambda names: len(set(names)) == 1, levels)
        place = "/".join([*(names[0] for names in shared), "…"])
    suffixes = sorted({file.path.suffix[1:] for file in files})
    suffix = suffixes[0] if len(suffixes) == 1 else "{" + ",".join(suffixes) + "}"
    prefix, end = affixes
    stems = {file.path.stem for file in files}
    stem = prefix if stems == {prefix} else f"{prefix}NAME{end}"
    return printable("/".join(filter(None, (place, f"{stem}.{suffix}"))))


# Groups


def _group(pairs: Sequence[Pair], expression: str) -> list[Pair]:
    """The pairs with the group that the regular expression finds in their names."""
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise ConfigError(f"--group {expression!r} is no regular expression: {error}") from error
    groups = [_matched(pattern, pair.image.name) for pair in pairs]
    if None in groups:
        groups = [_matched(pattern, pair.name) for pair in pairs]
    strangers = [
        printable(pair.name) for pair, found in zip(pairs, groups, strict=True) if found is None
    ]
    if strangers:
        raise ConfigError(
            f"--group {expression!r} does not match {len(strangers)} of {len(pairs)} images",
            strangers,
            "Choose a regular expression that matches every image name.",
        )
    return [replace(pair, group=found) for pair, found in zip(pairs, groups, strict=True)]


def _matched(pattern: re.Pattern[str], name: str) -> str | None:
    found = pattern.search(name)
    return found and found[1 if pattern.groups else 0]
