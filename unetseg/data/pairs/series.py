"""Files by series: those of one folder name and one kind of file name, which share a role.

Decisions are made for series, never for single files. The folders above a file are read from the
top: a split (`train`), a role (`masks`, `gts_for_participants`), or neither, which is a place that
image and mask share (`aachen`, `patient 3`). Within a folder series are told apart where stems
occur twice: by a part of the name that recurs and makes twins (`x`, `x_mask`; `x_rgb`, `x_dem`), or
by the suffix (`x.jpg`, `x.png`).
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Container, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, combinations
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from unetseg.data.files.folders import without_image_suffix
from unetseg.data.pairs.content import Look, look_at
from unetseg.data.pairs.naming import (
    FIELD_OF_VIEW,
    PART,
    SECOND_OBSERVER,
    Said,
    read_name,
    says_side,
    tokens,
)

_NAMES = 8  # of folders that compete, at most; more are places
_OBSERVERS = frozenset({"observer", "rater", "reader", "expert", "annotator", "grader"})
_LETTER = re.compile(r"[^\W\d_]")
_GLUED_SPLITS = (
    re.compile(r"(?P<split>train|test|valid|val)(?P<rest>[a-z]+)", re.IGNORECASE),
    re.compile(r"(?P<rest>.*[-_ ])(?P<split>tr|te|va)", re.IGNORECASE),
)
_SHORT = {"tr": "train", "te": "test", "va": "val"}
_COUNT = re.compile(r"(?<!\d)[_\- .]*\d+(?!\d|st|nd|rd|th)")  # of _mask_1, not of _1stHO
_CUT = re.compile(  # where a word or a number begins or ends
    r"(?<=[^\W_])(?=[\W_])|(?<=[a-z\d])(?=[A-Z])|(?<=\d)(?=[a-z])|(?<=[\W_])(?=[^\W_])"
)


class Entry(NamedTuple):
    """A file, and what the folders above it say.

    Attributes:
        path: The file.
        inner: Its path below the root, with slashes.
        parent: The folder of that path.
        split: train, val or test.
        place: Folders that image and mask share, and numbers in the names of the others.
        folder: What names the series: the words of the folders with a role.
        names: The folders that are neither a split nor a role, as they are called.
        stem: The name without suffix.
        suffix: The suffix.
    """

    path: Path
    inner: str
    parent: PurePosixPath
    split: str | None
    place: tuple[str, ...]
    folder: tuple[str, ...]
    names: tuple[str, ...]
    stem: str
    suffix: str


@dataclass(frozen=True)
class Series:
    """Files of one role.

    Attributes:
        entries: The files.
        kind: What tells them from the other files of their folders: part of a name, or a suffix.
        said: What the name says: of the kind where it says a role, else of the deepest folder.
    """

    entries: tuple[Entry, ...]
    kind: str
    said: Said

    @cached_property
    def look(self) -> Look:
        """What samples show."""
        return look_at([entry.path for entry in self.entries])

    @property
    def aside(self) -> str:
        """Why it takes no part, or nothing."""
        return self.said.aside

    def __len__(self) -> int:
        return len(self.entries)


def read_entries(root: Path, paths: Iterable[Path]) -> list[Entry]:
    """What the folders between `root` and each path say."""
    files = [(path, *os.path.split(path)) for path in paths]
    nearest = {
        parent: PurePosixPath(Path(parent).relative_to(root).as_posix())
        for parent in dict.fromkeys(parent for _, parent, _ in files)
    }
    every = (f for folder in nearest.values() for f in (folder, *folder.parents) if f.name)
    folders = [*dict.fromkeys(every)]
    spelt = _spelt(folders)
    alike = _Alike(
        spelt,
        len(Path(os.path.commonpath([*nearest.values()])).parts) if files else 0,
        _numbered_siblings(folders),
        *_both_sides(folders),
        _above_splits(folders, spelt),
    )
    said = {parent: _read_folders(folder, alike) for parent, folder in nearest.items()}
    entries = []
    for path, parent, name in files:
        folder = nearest[parent]
        inner = f"{folder}/{name}" if folder.name else name
        stem, suffix = os.path.splitext(name)  # noqa: PTH122 (of 100,000 names)
        entries.append(Entry(path, inner, folder, *said[parent], stem, suffix))
    return entries


class _Alike(NamedTuple):
    """Names that mean less than they say, since others are like them.

    Attributes:
        spelt: Names that mean something else beside their siblings, see `_spelt`.
        shared: The folders above all files, which tell none from another.
        numbered: Words of folders that stand beside others of the same words and another number.
        places: Folders of one name below images and below masks.
        tags: Words beside the role that folders of images and of masks have alike.
        above: Folders that hold those of several splits, and whether they stand beside another
            split; what these say of a split counts last, what the others say does not.
    """

    spelt: dict[str, str]
    shared: int
    numbered: frozenset[tuple[str, ...]]
    places: frozenset[str]
    tags: frozenset[tuple[str, ...]]
    above: dict[PurePosixPath, bool]


def _numbered_siblings(folders: Iterable[PurePosixPath]) -> frozenset[tuple[str, ...]]:
    names: dict[tuple[PurePosixPath, tuple[str, ...]], set[str]] = defaultdict(set)
    for folder in folders:
        names[folder.parent, _words(folder.name)].add(folder.name)
    return frozenset(words for (_, words), same in names.items() if len(same) > 1)


def _spelt(folders: Iterable[PurePosixPath]) -> dict[str, str]:
    """Names of folders that stand beside others, as they are to be read.

    `traincrop` beside `valcrop` are splits; so are `DUTS-TR` and `DUTS-TE`. A word of all that
    have a role says nothing where they differ without it: `gt_images` and `gt_masks`, `plots` and
    `plots_masks`.
    """
    siblings: dict[PurePosixPath, list[str]] = defaultdict(list)
    for folder in folders:
        siblings[folder.parent].append(folder.name)
    spelt: dict[str, str] = {}
    for names in siblings.values():
        plain = [name for name in names if not read_name(name).split]
        for glued in _GLUED_SPLITS:
            found = {name: m for name in plain if (m := glued.fullmatch(name))}
            often = Counter(m["rest"] for m in found.values())
            spelt |= {
                name: f"{_SHORT.get(m['split'].lower(), m['split'])}_{m['rest']}"
                for name, m in found.items()
                if often[m["rest"]] > 1
            }
        spelt |= _without_common(names)
    return spelt


def _without_common(names: Sequence[str]) -> dict[str, str]:
    """The names without the words that all of them have that tell something, if they differ so."""
    telling = [name for name in names if read_name(name).tells]
    common = set[str].intersection(*({*tokens(name)} for name in telling)) if telling else set()
    common = {word for word in common if read_name(word).tells}
    rest = {n: "_".join(t for t in tokens(n) if t not in common) or "images" for n in telling}
    roles = {read_name(name).role for name in rest.values()}
    return rest if common and len(telling) > 1 and roles >= {"image", "mask"} else {}


def _both_sides(
    folders: Iterable[PurePosixPath],
) -> tuple[frozenset[str], frozenset[tuple[str, ...]]]:
    sides: dict[str, set[str]] = defaultdict(set)
    tags: dict[str, set[tuple[str, ...]]] = {"image": set(), "mask": set()}
    children: dict[PurePosixPath, set[str | None]] = defaultdict(set)
    for folder in folders:
        children[folder.parent].add(read_name(folder.name).role)
    for folder in folders:
        said = read_name(folder.name)
        if said.role in tags:
            tags[said.role].add(said.rest)
        above = _role(folder.parent.parts[::-1]) or ""
        if not (above and children[folder.parent] >= {"image", "mask"}):
            sides[folder.name].add(above)
    places = frozenset(name for name, roles in sides.items() if len(roles) > 1 and "mask" in roles)
    places |= {  # center_1/images and center_1/masks
        folder.name
        for folder, roles in children.items()
        if roles >= {"image", "mask"} and _is_place(read_name(folder.name))
    }
    alike = tags["image"] == tags["mask"] and len(tags["image"]) > 1
    return places, frozenset(tags["image"]) if alike else frozenset()


def _is_place(said: Said) -> bool:
    """Whether a folder of images and masks is a place: `center_1`, `human`, `second_batch`."""
    is_observer = not _OBSERVERS.isdisjoint(said.rest)
    is_second = "human" in said.rest or (said.second == SECOND_OBSERVER and not is_observer)
    return said.aside in {PART, FIELD_OF_VIEW} or (is_second and not said.says_side)


def _above_splits(
    folders: Iterable[PurePosixPath], spelt: Mapping[str, str]
) -> dict[PurePosixPath, bool]:
    """Folders above those of several splits and no others: `my_test/{train,val}`."""
    below: dict[PurePosixPath, set[str | None]] = defaultdict(set)
    for folder in folders:
        said = read_name(spelt.get(folder.name, folder.name))
        if said.split or said.tells:
            below[folder.parent].add(said.split)
    parted = {folder for folder, splits in below.items() if len(splits - {None}) > 1}
    above = [folder for folder in parted if None not in below[folder]]
    return {one: one.parent in parted for folder in above for one in (folder, *folder.parents)}


def _words(name: str) -> tuple[str, ...]:
    return tuple(token for token in tokens(name) if not token.isdigit())


def _read_folders(
    folder: PurePosixPath, alike: _Alike
) -> tuple[str | None, tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Split, place, name of the series and names of an `Entry` in a folder."""
    split: str | None = None
    outer: str | None = None
    place: list[str] = []
    series: list[str] = []
    names: list[str] = []
    above: tuple[str, ...] = ()
    for level, name in enumerate(folder.parts):
        spelt = alike.spelt.get(name, name)
        said = read_name(spelt)
        here = PurePosixPath(*folder.parts[: level + 1])
        if here in alike.above:
            outer = outer or (said.split if alike.above[here] else None)
        else:
            split = split or said.split
        own = tuple(token for token in said.rest if token not in above)
        numbers = tuple(number for number in said.numbers if number not in above)
        above = (*above, *tokens(spelt))
        is_side = said.tells and name not in alike.places
        is_split = said.split and not (own or numbers)
        if not is_side and not is_split:
            names.append(name)
        if level < alike.shared or (is_split and not is_side):
            continue
        if is_side:
            tag = own if said.rest in alike.tags else ()
            series.append(" ".join(said.words if tag else (*said.words, *own)))
            place += (*tag, *numbers)
        elif numbers and _words(name) in alike.numbered and name not in alike.places:
            series.append(" ".join(own))
            place += numbers
        else:
            place.append(name)
    return split or outer, tuple(place), tuple(series), tuple(names)


def split_series(entries: Sequence[Entry]) -> list[Series]:
    """The entries by folder name, by what makes twins in a folder, and by places that compete."""
    kinds = _kinds(entries)
    groups: dict[tuple[tuple[str, ...], str], list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[entry.folder, kinds.get(entry.inner, "")].append(entry)
    shared = _shared_places(groups)
    return [
        Series(tuple(part), kind, _said(part, kind))
        for (_, kind), members in groups.items()
        for part in _by_place(members, shared)
    ]


def _said(entries: Sequence[Entry], kind: str) -> Said:
    """What the kind of the names says or, where it says no role, the folders, the deepest first.

    Where neither does, the words that all names share do.
    """
    name = without_image_suffix(kind)
    words = [name] if any(len(word) > 1 for word in _words(name)) else []  # x and y are letters
    readings = [read_name(name) for name in (*words, *reversed(entries[0].folder))]
    first = next((said for said in readings if said.tells), None)
    if first is None:
        common = shared_tokens(entries)
        in_order = (word for word in tokens(entries[0].stem) if word in common and len(word) > 1)
        said = read_name(" ".join(in_order))
        return said if said.role == "mask" or said.aside else read_name("")
    for above in readings:  # outputs/mask is an output, instances/masks numbers objects
        if above.role not in {"image", "mask"}:
            aside, second = first.aside or above.aside, first.second or above.second
            first = first._replace(aside=aside, second=second)
    return first


def shared_tokens(entries: Sequence[Entry]) -> set[str]:
    """The words and numbers that the names of all entries hold."""
    return set(tokens(entries[0].stem)).intersection(*(tokens(e.stem) for e in entries))


def by_words(series: Series) -> list[Series]:
    """The parts of a series by the words that make twins, such as `um_road_0` and `um_lane_0`."""
    words = dict(_swapped(series.entries, any_word=True))
    often = Counter(word for several in words.values() for word in several)
    parts: dict[str, list[Entry]] = defaultdict(list)
    for entry in series.entries:
        parts[max(words.get(entry.inner, [""]), key=often.__getitem__)].append(entry)
    if not 1 < len(parts) <= _NAMES:
        return [series]
    return [replace(series, entries=tuple(part), kind=word) for word, part in parts.items()]


def by_ends(series: Series, stems: Container[str]) -> list[Series]:
    """The parts of a series by what follows another file's stem: `_reader1` and `_reader2`.

    The series itself where files of one end are far more than those of another.
    """
    parts: dict[str, list[Entry]] = defaultdict(list)
    for entry in series.entries:
        cuts = (end.start() for end in _CUT.finditer(entry.stem))
        end = max((c for c in cuts if entry.stem[:c].rstrip("_-. ") in stems), default=None)
        parts["" if end is None else entry.stem[end:]].append(entry)
    sizes = [len(part) for part in parts.values()]
    if not 1 < len(parts) <= _NAMES or "" in parts or 2 * min(sizes) < max(sizes):
        return [series]
    return [replace(series, entries=tuple(part), kind=end) for end, part in parts.items()]


# Twins


def _kinds(entries: Sequence[Entry]) -> dict[str, str]:
    """What tells each file from its twins in the same folder: part of its name, or its suffix."""
    folders: dict[PurePosixPath, list[Entry]] = defaultdict(list)
    for entry in entries:
        folders[entry.parent].append(entry)
    added = {inner: part for members in folders.values() for inner, part in _added(members)}
    swapped = {inner: words for members in folders.values() for inner, words in _swapped(members)}
    often = Counter(added.values()), Counter(word for words in swapped.values() for word in words)
    kinds: dict[str, str] = {}
    for members in folders.values():
        asks = not _role(members[0].folder) or _are_sides(members)
        said = _said_masks(members) if asks else set()
        for entry in members:
            part = added.get(entry.inner, "")
            if part and (often[0][part] > 1 or read_name(part).tells):
                kinds[entry.inner] = part
            elif entry.inner in swapped:
                kinds[entry.inner] = max(swapped[entry.inner], key=often[1].__getitem__)
            elif entry.inner in said:
                kinds[entry.inner] = "mask"
    things = {kind for kind in kinds.values() if not read_name(kind).tells}
    if len(things) > _NAMES:  # names of what is seen, not kinds of files
        kinds = {inner: kind for inner, kind in kinds.items() if kind not in things}
    _add_suffixes(folders.values(), kinds)
    return kinds


def _are_sides(members: Sequence[Entry]) -> bool:
    """Whether names say a side and nothing else: `img_1/image.png` and `img_1/mask.png`."""
    return all(all(map(says_side, tokens(entry.stem))) for entry in members)


def _said_masks(members: Sequence[Entry]) -> set[str]:
    """The files of a folder whose names say mask, if some do not."""
    said = {entry.inner for entry in members if read_name(entry.stem).role == "mask"}
    return said if len(said) < len(members) else set()


def _added(members: Sequence[Entry]) -> Iterator[tuple[str, str]]:
    """Files whose name is that of another file of the folder and a part, and that part.

    The part is at the end, or else at the beginning.
    """
    stems = {without_image_suffix(entry.stem) for entry in members}  # x.jpg___fuse.png is of x.jpg
    shortest = min(map(len, stems))
    for entry in members:
        stem = entry.stem
        if len(stem) <= shortest:
            continue
        cuts = [end.start() for end in _CUT.finditer(stem)]
        begins = ((c, without_image_suffix(stem[:c].rstrip("_-. "))) for c in reversed(cuts))
        ends = (stem[c:] for c, begin in begins if begin in stems)
        starts = (stem[:c] for c in cuts if stem[c:].lstrip("_-. ") in stems)
        part = next((part for part in chain(ends, starts) if _LETTER.search(part)), None)
        if part is not None:
            yield entry.inner, _COUNT.sub("#", part)


def _swapped(
    members: Sequence[Entry], *, any_word: bool = False
) -> Iterator[tuple[str, list[str]]]:
    """Files, and the words in whose place another file of the folder has another word.

    Unless `any_word` will do, one of them must say a role.
    """
    holes: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    every = {token for entry in members for token in tokens(entry.stem) if not token.isdigit()}
    if not (any_word or any(map(says_side, every))):
        return
    for entry in members:
        parts = tokens(entry.stem)
        for at, token in enumerate(parts):
            if len(parts) > 1 and not token.isdigit() and (at < 2 or at > len(parts) - 3):
                holes[(*parts[:at], "*", *parts[at + 1 :])][token] = entry.inner
    words: dict[str, list[str]] = defaultdict(list)
    for twins in holes.values():
        if len(twins) > 1 and (any_word or any(says_side(word) for word in twins)):
            for word, inner in twins.items():
                words[inner].append(word)
    yield from words.items()


def _role(folder: Sequence[str]) -> str | None:
    """The role that the deepest folder with one says."""
    roles = (read_name(name).role for name in reversed(folder))
    return next((role for role in roles if role in {"image", "mask"}), None)


def _add_suffixes(folders: Iterable[Sequence[Entry]], kinds: dict[str, str]) -> None:
    """The suffix, where files of one kind differ in nothing else."""
    for members in folders:
        if len({entry.suffix for entry in members}) == 1:
            continue
        stems: dict[tuple[str, str], set[str]] = defaultdict(set)
        for entry in members:
            stems[entry.stem, kinds.get(entry.inner, "")].add(entry.suffix.lower())
        couples = Counter(frozenset(s) for s in stems.values() if len(s) > 1)
        several = {
            suffix
            for couple, n in couples.items()
            if n > 1 or n * 2 >= len(stems)
            for suffix in couple
        }
        for entry in members:
            if entry.suffix.lower() in several:
                kinds[entry.inner] = kinds.get(entry.inner, "") + entry.suffix.lower()


# Places


def _shared_places(groups: dict[tuple[tuple[str, ...], str], list[Entry]]) -> set[str]:
    """The places that occur on several sides: these are where a pair lies."""
    sides: dict[Hashable, set[str]] = defaultdict(set)
    for (folder, kind), members in groups.items():
        role = read_name(kind).role or _role(folder)
        side: Hashable = role if role in {"image", "mask"} else (folder, kind)
        sides[side] |= {name for entry in members for name in entry.place}
    shared = set()
    for one, other in combinations(sides.values(), 2):
        both = one & other
        numbers = [{name for name in names if name.isdigit()} for names in (one, other, both)]
        few = 2 * len(numbers[2]) <= max(map(len, numbers[:2]))
        shared |= both - numbers[2] if few else both  # few: 2 of s2_images and semantic_2class
    return shared


def _by_place(members: list[Entry], shared: set[str]) -> list[list[Entry]]:
    """The members apart where places of their own hold the same names, else without these."""
    places = {entry.place for entry in members}
    own = {place: tuple(name for name in place if name not in shared) for place in places}
    if not any(own.values()):
        return [members]
    rest = {place: tuple(name for name in place if name in shared) for place in places}
    parts: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
    for entry in members:
        parts[own[entry.place]].append(entry)
    keys = Counter(
        key
        for part in parts.values()
        for key in {
            (rest[e.place], e.split, s) for e, s in zip(part, _own_stems(part), strict=True)
        }
    )
    compete = max(keys.values()) > 1
    if compete and len(parts) > _NAMES:
        return [members]
    if any(rest.values()):  # whether one without a shared name lies apart, the other side shows
        rest = {place: part or place for place, part in rest.items()}
    groups = [*parts.values()] if compete else [members]
    return [[entry._replace(place=rest[entry.place]) for entry in group] for group in groups]


def _own_stems(entries: Sequence[Entry]) -> Iterator[tuple[str, ...]]:
    """The stems without the words that all of them share: `red_patch_1` among red ones."""
    common = shared_tokens(entries) if len(entries) > 1 else set()
    shared = {word for word in common if not word.isdigit()}
    return (tuple(t for t in tokens(entry.stem) if t not in shared) for entry in entries)
