"""Find the images of a folder and the mask of each.

A pair is found by name, never by the order of files: image and mask folders are told by the words
in their names (`images`/`masks`, `train/imgs`/`train/labels`, `JPEGImages`/`SegmentationClass`),
or, in one folder, masks by a word in the file name (`x.jpg`, `x_mask.png`). Within them the file
names must agree after one constant beginning and end is taken off each side
(`21_training.tif` ↔ `21_manual1.gif`). What does not pair is an error that lists all of it.
"""

import csv
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from unetseg.data.folders import find_images, number, output_names, show
from unetseg.data.layouts import BY_HAND, Layout, NamedFile, explicit_layout, read_layouts
from unetseg.data.naming import SPLITS, Affixes, Key, cuts_at, find_affixes, strip
from unetseg.errors import ConfigError, PairingError

__all__ = ["Pair", "PairSet", "find_images", "find_pairs"]


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


def find_pairs(
    root: Path,
    *,
    images: Path | None = None,
    masks: Path | None = None,
    table: Path | None = None,
    group: str | None = None,
    group_column: str | None = None,
) -> PairSet:
    """All pairs of image and mask in the folder `root`, sorted by name.

    Args:
        root: Folder, or a CSV file as for `table`.
        images: Folder of the images, where its name does not tell; together with `masks`.
        masks: Folder of the masks.
        table: CSV file with the columns image, mask and optionally split and group; paths are
            absolute or relative to it. A `pairs.csv` in `root` is taken without asking.
        group: Regular expression, searched in the file names of the images or, unless it is in
            all of them, in the names of the pairs. Pairs with an equal match (of its first
            parenthesis, if it has one) form a group.
        group_column: Column of the CSV that holds the group, instead of "group".

    Raises:
        PairingError: images and masks do not match up; every offender is listed.
        ConfigError: the arguments contradict each other, or `group` does not match every image.
    """
    root, table = _locate(root, images, masks, table)
    if group_column is not None and (table is None or group is not None):
        raise ConfigError(
            "--group-column names a column of a CSV file of pairs, and excludes --group",
            mend="Give --pairs FILE.csv with that column, or --group with a regular expression.",
        )
    if table is not None:
        found = _read_table(root, table, group_column)
    elif images is not None and masks is not None:
        found = _choose(root, [explicit_layout(root, images, masks)])
    else:
        found = _choose(root, read_layouts(root))
    pairs = sorted(found.pairs, key=lambda pair: pair.name)
    return replace(found, pairs=tuple(pairs if group is None else _group(pairs, group)))


def _locate(
    root: Path, images: Path | None, masks: Path | None, table: Path | None
) -> tuple[Path, Path | None]:
    """The root folder, and the CSV file to be used, if any."""
    if (images is None) != (masks is None) or (table is not None and images is not None):
        raise ConfigError("images, masks and pairs were given in part or at once", mend=BY_HAND)
    if root.suffix.lower() == ".csv" and root.is_file() and table is None and images is None:
        return root.parent, root
    if not root.is_dir():
        raise PairingError(f"there is no folder {show(root)}", mend="Check the path.")
    if table is None and images is None and (root / "pairs.csv").is_file():
        table = root / "pairs.csv"
    return root, table


# Matching


class _Match(NamedTuple):
    image: NamedFile
    mask: NamedFile
    key: Key
    affixes: Affixes


def _choose(root: Path, layouts: Sequence[Layout]) -> PairSet:
    """The pairs of the first reading that pairs everything; what is amiss if there is none."""
    matches: list[list[_Match]] = []
    complete: list[tuple[int, int]] = []
    for i, layout in enumerate(layouts):
        matches.append(_match(layout.images, layout.masks))
        if len(matches[i]) == len(layout.images) == len(layout.masks) and not layout.rivals:
            complete.append((layout.left_out + layout.bare, i))
    if complete:
        i = min(complete)[1]
        rule = _sentence(matches[i]) + _remark(layouts[i])
        return PairSet(root, tuple(_named(matches[i])), rule)
    if layouts[0].rivals:
        raise PairingError(
            f"{show(root)} has several folders of images or masks, and it is not clear which "
            "belong together",
            layouts[0].rivals,
            BY_HAND,
        )
    best = max(range(len(layouts)), key=lambda i: len(matches[i]))
    raise _mismatch(root, layouts[best], matches[best])


def _match(images: Sequence[NamedFile], masks: Sequence[NamedFile]) -> list[_Match]:
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


def _apply(images: Sequence[NamedFile], masks: Sequence[NamedFile]) -> list[_Match]:
    affixes = find_affixes([f.key for f in images], [f.key for f in masks])
    partners = {strip(mask.key, *affixes[2:]): mask for mask in masks}
    image_keys = {strip(image.key, *affixes[:2]): image for image in images}
    return [
        _Match(image, partners[key], key, affixes)
        for key, image in image_keys.items()
        if key is not None and key in partners
    ]


def _named(matches: Sequence[_Match]) -> Iterator[Pair]:
    names = ["/".join(filter(None, (*folder, core))) for _, _, (folder, core), _ in matches]
    count = Counter(names)
    for (image, mask, _, _), name in zip(matches, names, strict=True):
        unique = name if name and count[name] == 1 else "/".join((*image.folder, image.path.stem))
        yield Pair(image.path, mask.path, unique, image.split)


def _sentence(matches: Sequence[_Match]) -> str:
    """How the pairs were found, such as `images/NAME.jpg ↔ masks/NAME_mask.png, 20 pairs`."""
    groups: dict[Affixes, list[_Match]] = defaultdict(list)
    for match in matches:
        groups[match.affixes].append(match)
    return "; ".join(
        f"{_template([m.image for m in group], affixes[:2])} ↔ "
        f"{_template([m.mask for m in group], affixes[2:])}, "
        f"{number(len(group), 'pair')}"
        for affixes, group in groups.items()
    )


def _remark(layout: Layout) -> str:
    """What was left out, in brackets."""
    parts = [f"left out elsewhere: {layout.left_out}"] if layout.left_out else []
    if layout.bare:
        parts.append(f"{number(layout.bare, 'test image')} without masks left out")
    return f" ({', '.join(parts)})" if parts else ""


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
    return "/".join(filter(None, (place, f"{stem}.{suffix}")))


# What does not match


def _mismatch(root: Path, layout: Layout, matches: Sequence[_Match]) -> PairingError:
    """Everything that is wrong with the names of images and masks."""
    paired = {file.path for match in matches for file in (match.image, match.mask)}
    twins = [*_twins(layout.images), *_twins(layout.masks)]
    known = paired | {file.path for twin in twins for file in twin}
    images = [file for file in layout.images if file.path not in known]
    masks = [file for file in layout.masks if file.path not in known]
    variants = _variants(images, masks)
    known |= {path for couple in variants for path in couple}
    crowds = _crowds(layout, matches, [file for file in masks if file.path not in known])
    known |= {path for crowd in crowds for path in crowd}
    faults = {
        "with the same name": [_list(root, [f.path for f in twin]) for twin in twins],
        "different only in case or Unicode form": [_list(root, v, _unlike(*v)) for v in variants],
        "with several masks": [_list(root, crowd) for crowd in crowds],
        "images without mask": [_list(root, [f.path]) for f in images if f.path not in known],
        "masks without image": [_list(root, [f.path]) for f in masks if f.path not in known],
    }
    mends = {
        "with the same name": "Keep one of each.",
        "different only in case or Unicode form": "Rename the mask exactly like its image.",
        "with several masks": "Keep one mask of each image, or unite them in one.",
        "images without mask": "Add the masks or move these images away.",
        "masks without image": "Add the images or move these masks away.",
    }
    found = {fault: offenders for fault, offenders in faults.items() if offenders}
    return PairingError(
        f"{number(len(layout.images), 'image')} and {number(len(layout.masks), 'mask')} in "
        f"{show(root)} do not match up: "
        f"{', '.join(_counted(len(offenders), fault) for fault, offenders in found.items())}",
        [f"{fault}: {one}" for fault, offenders in found.items() for one in offenders],
        " ".join([*(mends[fault] for fault in found), "Or " + BY_HAND[0].lower() + BY_HAND[1:]]),
    )


def _counted(count: int, fault: str) -> str:
    one = re.sub("^(image|mask)s", r"\1", fault)
    return f"1 {one}" if count == 1 else f"{count} {fault}"


def _crowds(
    layout: Layout, matches: Sequence[_Match], masks: Sequence[NamedFile]
) -> list[list[Path]]:
    """Each image with the masks that are left over in its folder, or begin with its name."""
    partner = {match.image.path: match.mask.path for match in matches}
    owners = {match.key: match.image.path for match in matches}
    folders: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for image in layout.images:
        folders[image.folder].append(image.path)
    alone = {folder: paths[0] for folder, paths in folders.items() if folder and len(paths) == 1}
    crowds: dict[Path, list[Path]] = defaultdict(list)
    for mask in masks:
        folder, stem = mask.key
        ends = (end for end in range(len(stem), 0, -1) if cuts_at(stem, end))
        worded = (end for end in ends if re.search("[a-zA-Z]", stem[end:]))  # a_1 is not one of a
        owner = next(filter(None, (owners.get((folder, stem[:end])) for end in worded)), None)
        owner = owner or alone.get(folder)
        if owner is not None:
            crowds[owner].append(mask.path)
    whole = ([image, *filter(None, [partner.get(image)]), *more] for image, more in crowds.items())
    return [crowd for crowd in whole if len(crowd) > 2]


def _twins(files: Iterable[NamedFile]) -> list[list[NamedFile]]:
    """Files of one side that share a key."""
    groups: dict[Key, list[NamedFile]] = defaultdict(list)
    for file in files:
        groups[file.key].append(file)
    return [group for group in groups.values() if len(group) > 1]


def _variants(images: Sequence[NamedFile], masks: Sequence[NamedFile]) -> list[tuple[Path, Path]]:
    """Images and masks that would pair but for case or Unicode form."""
    folded = [{_folded(file): file.path for file in side} for side in (images, masks)]
    affixes = find_affixes(folded[0], folded[1])
    partners = {strip(key, *affixes[2:]): path for key, path in folded[1].items()}
    keys = {strip(key, *affixes[:2]): path for key, path in folded[0].items()}
    return [(keys[key], partners[key]) for key in keys if key is not None and key in partners]


def _folded(file: NamedFile) -> Key:
    return tuple(_fold(name) for name in file.folder), _fold(file.path.stem)


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _unlike(image: Path, mask: Path) -> str:
    stems = [unicodedata.normalize("NFC", str(path)) for path in (image, mask)]
    same_form = stems == [str(image), str(mask)]
    return " (upper and lower case)" if same_form else " (Unicode form, NFC and NFD)"


def _list(root: Path, paths: Iterable[Path], remark: str = "") -> str:
    inner = [path.relative_to(root) if root in path.parents else path for path in paths]
    return ", ".join(show(path) for path in inner) + remark


# CSV files


class _Row(NamedTuple):
    line: int
    cells: dict[str, str]
    surplus: str
    """What stands beyond the last column."""


def _read_table(root: Path, table: Path, group_column: str | None) -> PairSet:
    """The pairs that the CSV file `table` lists."""
    columns, rows = _read_rows(table)
    needed = ["image", "mask", *([group_column.lower()] if group_column else [])]
    lacking = [name for name in needed if name not in columns]
    if lacking or not rows:
        raise PairingError(
            f"{show(table)} lacks columns" if lacking else f"{show(table)} lists no pairs",
            lacking,
            f"Expected the columns image, mask and optionally split, group; found: "
            f"{', '.join(columns) or 'none'}.",
        )
    faults = [fault for row in rows for fault in _row_faults(table, row)]
    images = Counter(_resolve(table, row.cells["image"]) for row in rows)
    faults += [f"{show(path)} is listed {n} times as image" for path, n in images.items() if n > 1]
    if faults:
        raise PairingError(f"{show(table)} has faulty rows", faults, "Correct these rows.")
    base = Path(os.path.commonpath([path.parent for path in images]))
    names = dict(output_names([(path, base) for path in images]))
    pairs = [_row_pair(table, row, names, (group_column or "group").lower()) for row in rows]
    return PairSet(root, tuple(pairs), f"{show(table)}, {number(len(pairs), 'pair')}")


def _read_rows(table: Path) -> tuple[list[str], list[_Row]]:
    """The column names in lower case, and the rows that are not empty."""
    try:
        text = table.read_text(encoding="utf-8-sig")
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        reader = csv.reader(StringIO(text), delimiter=delimiter, strict=True)
        columns = [name.strip().lower() for name in next(reader, [])]
        return columns, [
            _row(columns, reader.line_num, cells)
            for cells in reader
            if any(cell.strip() for cell in cells)
        ]
    except OSError as error:
        reason = error.strerror or error
        mend = "Check the path."
        raise PairingError(f"cannot read {show(table)}: {reason}", mend=mend) from error
    except (UnicodeDecodeError, csv.Error) as error:
        mend = "Save it as CSV in UTF-8."
        raise PairingError(f"cannot read {show(table)}: {error}", mend=mend) from error


def _row(columns: Sequence[str], line: int, cells: Sequence[str]) -> _Row:
    stripped = [cell.strip() for cell in cells]
    surplus = "".join(stripped[len(columns) :])
    return _Row(line, dict(zip(columns, stripped, strict=False)), surplus)


def _row_faults(table: Path, row: _Row) -> Iterator[str]:
    for column in ("image", "mask"):
        cell = row.cells.get(column, "")
        if not cell:
            yield f"line {row.line}: no {column}"
        elif not _resolve(table, cell).is_file():
            yield f"line {row.line}: {column} {show(cell)} does not exist"
    split = row.cells.get("split", "")
    if split and split.lower() not in SPLITS:
        yield f"line {row.line}: split {show(split)} is none of train, val, test"
    if row.surplus:
        yield f"line {row.line}: more cells than columns (quote names with commas)"


def _row_pair(table: Path, row: _Row, names: dict[Path, Path], group_column: str) -> Pair:
    image, mask = (_resolve(table, row.cells[column]) for column in ("image", "mask"))
    split = SPLITS.get(row.cells.get("split", "").lower())
    return Pair(image, mask, names[image].as_posix(), split, row.cells.get(group_column) or None)


def _resolve(table: Path, cell: str) -> Path:
    return Path(os.path.normpath(table.parent.absolute() / cell))


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
        show(pair.name) for pair, found in zip(pairs, groups, strict=True) if found is None
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
