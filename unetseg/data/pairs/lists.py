"""Splits that text files list: `train.txt` and `val.txt`, `ImageSets/Segmentation/train.txt`.

A column of a table does too: `metadata.csv` with the columns image and split.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from unetseg.data.files.folders import without_image_suffix
from unetseg.data.pairs.naming import SPLITS, read_name, tokens
from unetseg.data.pairs.table import any_text, files_by_folder, rows_by_split, tables_below
from unetseg.storage import is_file
from unetseg.text import plural, printable

_SUFFIXES = {".txt", ".lst", ".csv", ""}
_MOST = 64 << 20  # bytes of a list
_FILLERS = {"set", "list", "split", "id", "ids", "names", "files", "images"}
_LINES = 0.5  # of a list's lines name files, or it is a list of something else
_PAIRS = 0.9  # of the pairs, where lists name so many the rest of their lines may be about others
_LEAST = 0.3  # of the pairs must be named, or nearly all would be left out
_DEEP = 6  # folders of a path that tell files of one name apart
_CUTS = 6  # counts and labels after a name


class Listed(NamedTuple):
    """What lists say.

    Attributes:
        splits: Of each pair; all None where no list is used.
        told: Which lists are used, and which are not and why; nothing where there are none.
    """

    splits: list[str | None]
    told: str = ""


class _List(NamedTuple):
    file: Path
    split: str
    lines: int
    files: int
    """Lines that name a file of the folder."""
    pairs: frozenset[int]
    """The pairs that it names."""


def listed_splits(
    root: Path,
    names: Sequence[Iterable[str]],
    others: Iterable[str] = (),
    own: Sequence[str | None] = (),
) -> Listed:
    """The split of each pair that the lists below `root` name.

    A line may be a name, with or without suffix and folders, or begin with one; or hold the paths
    of image and mask. Pairs that no list names have no split where `train` is listed, and train
    where it is not. Lists of one folder belong together; where those of several folders differ,
    those count whose folder says masks (`ImageSets/Segmentation`).

    Args:
        root: The folder.
        names: What each pair may be called: the paths of its image and mask, and its name.
        others: Paths of files that are in no pair.
        own: The splits that folders tell, if any: these count, and lists that differ are told.
    """
    splits = list(own) or [None] * len(names)
    lists = [*_lists(root)]
    lists += [
        (table, split, lines)
        for table in tables_below(root, "split")
        for split, lines in rows_by_split(table).items()
    ]
    if not lists:
        return Listed(splits)
    tails = _tails(names, others)
    read = [_read(file, split, lines, tails) for file, split, lines in lists]
    against = _against(root, splits, read) if any(splits) else ""
    if "train" in splits:
        return Listed(splits, against)
    used, unused = _used(read, len(names))
    for one in used:
        for number in one.pairs:
            splits[number] = splits[number] or one.split  # what folders tell counts
    if used and "train" not in {one.split for one in used}:
        splits = [split or "train" for split in splits]
    told = [against] if against else []
    told += [f"split by {_names(used, root)}"] if used else []
    told += [f"{_names([one], root)} is not used, because {why}" for one, why in unused]
    return Listed(splits, "; ".join(told))


def _names(lists: Iterable[_List], root: Path) -> str:
    files = dict.fromkeys(one.file.relative_to(root).as_posix() for one in lists)
    return ", ".join(map(printable, files))


def _against(root: Path, own: Sequence[str | None], lists: Iterable[_List]) -> str:
    """That the splits of folders count, where lists tell others; nothing where they agree."""
    pairs: set[int] = set()
    differ = []
    for one in lists:
        others = {n for n in one.pairs if own[n] not in {None, one.split}}
        is_both = one.file.stem.lower().endswith("trainval")
        if others and one.files >= _LINES * one.lines and not is_both:
            pairs |= others
            differ.append(one)
    if not differ:
        return ""
    count = plural(len(pairs), "pair")
    return f"split by folders, not by {_names(differ, root)}, where {count} would change sides"


def _lists(root: Path) -> Iterator[tuple[Path, str, list[str]]]:
    """Text files that are called after one split and nothing else; trainval where train is not."""
    for folder, names in files_by_folder(root):
        splits = {}
        for name in names:
            stem, suffix = os.path.splitext(name)  # noqa: PTH122 (of 100,000 names)
            if suffix.lower() not in _SUFFIXES:
                continue
            words = [token for token in tokens(stem) if token not in _FILLERS]
            word = "".join(words)
            if (len(words) == 1 and word in SPLITS) or word == "trainval":
                splits[name] = SPLITS.get(word, word)
        for name, split in splits.items():
            path = Path(folder, name)
            is_both = split == "trainval"
            if is_both and "train" in splits.values():
                continue
            if is_file(path) and path.stat().st_size < _MOST:
                with suppress(OSError):
                    lines = any_text(path.read_bytes()).splitlines()
                    yield path, "train" if is_both else split, lines


def _tails(names: Sequence[Iterable[str]], others: Iterable[str]) -> dict[str, int | None]:
    """The pair that each end of a path means, -1 for another file; None where several end so."""
    tails: dict[str, int | None] = {}
    for number, same in enumerate(names):
        for end in {end for name in same for end in _ends(_plain(name).split("/"))}:
            tails[end] = number if tails.get(end, number) == number else None
    for name in others:
        for end in _ends(_plain(name).split("/")):
            tails.setdefault(end, -1)
    return tails


def _ends(parts: Sequence[str]) -> Iterator[str]:
    for size in range(min(len(parts), _DEEP), 0, -1):
        yield "/".join(parts[-size:])


def _plain(name: str) -> str:
    """A path with slashes and without an image's suffix."""
    return without_image_suffix(name.strip().strip("\"'").replace("\\", "/"))


def _read(file: Path, split: str, lines: Sequence[str], tails: Mapping[str, int | None]) -> _List:
    """What a list names."""
    lines = [line for line in lines if line.strip()]
    found = [number for line in lines if (number := _meant(line, tails)) is not None]
    return _List(file, split, len(lines), len(found), frozenset(n for n in found if n >= 0))


def _meant(line: str, tails: Mapping[str, int | None]) -> int | None:
    """The file that a line names."""
    for text in _readings(line):
        for end in _ends(_plain(text).split("/")):
            if end in tails:
                if (number := tails[end]) is not None:
                    return number
                break
    return None


def _readings(line: str) -> Iterator[str]:
    """The whole line, its first cell, what is before its last words, and cells that are paths."""
    yield line
    first, *more = re.split(r"[,;|\t]", line)
    if more:
        yield first
    cuts = [cut.start() for cut in re.finditer(r"\s+\S", first)]
    yield from (first[:cut] for cut in cuts[: -_CUTS - 1 : -1])
    yield from (cell for cell in more if "/" in cell or "\\" in cell or "." in cell)


def _used(lists: Sequence[_List], pairs: int) -> tuple[list[_List], list[tuple[_List, str]]]:
    """The lists that together are the splits, and the others with the reason.

    A list of files without masks, and one of all pairs for training, say nothing about splits.
    """
    covers = _named(lists) >= _PAIRS * pairs
    good = [one for one in lists if one.pairs and (covers or one.files >= _LINES * one.lines)]
    foreign = [one for one in lists if one.files < _LINES * one.lines and one not in good]
    unused = [
        (one, f"of its {plural(one.lines, 'line')} {one.files} name files of this folder")
        for one in foreign
    ]
    chosen = _one_draw(good)
    if good and not chosen:
        why = "some images are in several splits"
    elif {one.split for one in chosen} == {"train"}:
        why = "" if _named(chosen) == pairs else "no list of another split is with it"
    elif "train" in {one.split for one in chosen} and _named(chosen) < _LEAST * pairs:
        why = f"the lists name {_named(chosen):,} of {plural(pairs, 'pair')}"
    else:
        return chosen, [
            *unused,
            *((one, "another folder holds lists for masks") for one in good if one not in chosen),
        ]
    return [], [*unused, *((one, why) for one in good if why)]


def _named(lists: Iterable[_List]) -> int:
    return len(frozenset().union(*(one.pairs for one in lists)))


def _one_draw(lists: Sequence[_List]) -> list[_List]:
    """The lists that contradict one another nowhere: all, or those of one folder; or none."""
    folders: dict[Path, list[_List]] = defaultdict(list)
    for one in lists:
        folders[one.file.parent].append(one)
    draws = [draw for draw in folders.values() if _agree(draw)]
    if _agree(lists):
        return list(lists)
    for_masks = [draw for draw in draws if read_name(draw[0].file.parent.name).role == "mask"]
    return for_masks[0] if len(for_masks) == 1 else []


def _agree(lists: Sequence[_List]) -> bool:
    splits: dict[str, set[int]] = defaultdict(set)
    for one in lists:
        splits[one.split] |= one.pairs
    return len(set().union(*splits.values())) == sum(map(len, splits.values()))
