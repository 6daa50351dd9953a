"""Find the images of a folder and the mask of each.

Files are read as series (`series.py`), the series of images and masks are chosen by their names and
contents (`choose.py`), and paired by the strictest key that works (`keys.py`), never by the order
of files. What takes no part is told with its reason; what nobody could know is a question.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from itertools import chain
from pathlib import Path, PurePosixPath

from unetseg.config import GroupsConfig, PairsConfig, Unpaired
from unetseg.data.files.folders import below, output_names, scan
from unetseg.data.files.pages import ARRAY_SUFFIXES, MaskSet, files_of, split_page
from unetseg.data.pairs.choose import (
    NO_IMAGE,
    NO_MASK,
    OTHER_MASK,
    SEVERAL,
    Choice,
    Reading,
    arrays_asked_for,
    choose,
    choose_between,
)
from unetseg.data.pairs.foreign import import_command
from unetseg.data.pairs.keys import match
from unetseg.data.pairs.lists import listed_splits
from unetseg.data.pairs.mask_sets import find_masks, tell_classes, tell_objects, unite
from unetseg.data.pairs.naming import SPLITS, tokens
from unetseg.data.pairs.pair import Pair, PairSet, grouped, paged
from unetseg.data.pairs.questions import check_command, fits, is_pattern, no_images
from unetseg.data.pairs.series import Entry, read_entries, split_series
from unetseg.data.pairs.table import clear_tables, read_table
from unetseg.errors import ConfigError, DataError, PairingError
from unetseg.text import plural, printable

__all__ = ["NO_IMAGE", "NO_MASK", "SEVERAL", "Pair", "PairSet", "find_pairs"]
BY_HAND = "Say which is which: --images DIR --masks DIR, or --pairs FILE.csv (columns image, mask)."
_OUTSIDE = "outside of the splits"
_SPLIT_WORD = re.compile(
    rf"(?<![A-Za-z])({'|'.join(sorted(SPLITS, key=len, reverse=True))})(?![a-z])", re.IGNORECASE
)
_SPLIT_SHARE = 0.3  # of the pairs: where fewer are in folders of splits, these are the odd ones

Find = Callable[[Path, type[DataError]], list[Path]]


def find_pairs(root: Path, config: PairsConfig | None = None, *, lenient: bool = False) -> PairSet:
    """All pairs of image and mask in the folder `root` or in a CSV file, sorted by name.

    A `pairs.csv` in the folder is taken without asking, and tables of any other name where the
    folder itself tells no pairs. With `lenient`, a broken link or a pipe with the name of an image
    counts as a file.

    Raises:
        PairingError: there are none, several readings are as good, or most files do not pair;
            every offender is listed, with ready commands where a choice is to be made.
        ConfigError: the settings contradict each other, or `group` does not match every image.
    """
    config = config or PairsConfig()
    groups = config if isinstance(config, GroupsConfig) else GroupsConfig()
    group, group_column = groups.group, groups.group_column
    root, table = _locate(root, config.images, config.masks, config.pairs)
    if group_column is not None and (table is None or group is not None):
        raise ConfigError(
            "--group-column names a column of a CSV file of pairs, and excludes --group",
            fix="Give --pairs FILE.csv with that column, or --group with a regular expression.",
        )
    if table is not None:
        pairs = tuple(read_table(table, group_column, root))
        found = PairSet(root, pairs, f"{printable(table)}, {plural(len(pairs), 'pair')}")
    else:
        find = partial(scan, lenient=lenient)
        found = _search_all(root, config.images, config.masks, config.unpaired, find)
    found = paged(found)
    pairs = tuple(sorted(found.pairs, key=lambda pair: pair.name))
    return replace(found, pairs=pairs if group is None else grouped(pairs, group))


def _locate(
    root: Path, images: Path | None, masks: Path | None, table: Path | None
) -> tuple[Path, Path | None]:
    """The root folder, and the CSV file to be used, if any."""
    if (images is None) != (masks is None) or (table is not None and images is not None):
        raise ConfigError("images, masks and pairs were given in part or at once", fix=BY_HAND)
    if root.suffix.lower() == ".csv" and root.is_file() and table is None and images is None:
        return root.parent, root
    if root.is_file():
        fix = "Give the folder that holds images and masks, or a CSV of pairs."
        raise PairingError(f"{printable(root)} is a file", fix=fix)
    if not root.is_dir():
        raise PairingError(f"there is no folder {printable(root)}", fix="Check the path.")
    if table is not None and (root / table).is_file():
        table = root / table
    if table is None and images is None and (root / "pairs.csv").is_file():
        table = root / "pairs.csv"
    return root, table


def _search_all(
    root: Path, images: Path | None, masks: Path | None, unpaired: Unpaired, find: Find
) -> PairSet:
    """The pairs of a folder, where an image has one mask, or else several."""
    # Of pairs that would hold the first of several masks of most images.
    came = f"{printable(root)} holds images with several masks, which nobody could unite unasked"
    fix = "Where each of them shows one object or one class, unite them:"
    found, refusal = None, PairingError(came, fix=fix, code="several-masks")
    try:
        found = _search(root, images, masks, unpaired, find)
    except PairingError as error:
        refusal = error
        if images is None and unpaired == "auto" and (listed := _from_tables(root)):
            return listed
    if found is None or {NO_IMAGE, OTHER_MASK}.intersection(dict(found.left_out).values()):
        first, found = found, None
        with suppress(DataError):
            found = _search_sets(root, images, masks, unpaired, refusal)
        if found is None and first is not None:
            further = sum(why == NO_IMAGE for _, why in first.left_out)
            asks = refusal.commands and unpaired == "auto" and further > len(first.pairs) / 2
            found = None if asks else first
    if found is None:
        raise refusal
    return _beside_tables(found) if images is None else found


def _search(
    root: Path, images: Path | None, masks: Path | None, unpaired: Unpaired, find: Find
) -> PairSet:
    """The pairs of a folder, in no order."""
    home = root
    if images is not None and masks is not None:
        base, sides = _asked_for(root, images, masks, find)
        one = [entry.path for entry in sides[0]] == [entry.path for entry in sides[1]]
        home = _home(root, base, images, masks)
        choice = (
            choose(base, split_series(sides[0]))
            if one
            else choose_between(base, sides[0], sides[1], home)
        )
    else:
        base, choice = root, _chosen(root, find(root, PairingError))
    pairs = []
    for matching in (reading.matching for reading in choice.readings):
        for (image, mask), core in zip(matching.couples, matching.names, strict=True):
            split, region = image.split or mask.split, choice.regions.get(image.path)
            name = "/".join(filter(None, (split, *image.names, core)))
            second = choice.seconds.get(image.path)
            pairs.append(Pair(image.path, mask.path, name, split, None, region, second))
    found = PairSet(root, tuple(pairs), _sentence(choice.readings))
    return _complete(found, base, choice.left_out, unpaired, home)


def _search_sets(
    root: Path, images: Path | None, masks: Path | None, unpaired: Unpaired, error: PairingError
) -> PairSet | None:
    """The pairs of a folder whose images have several masks each; None where that is not clear.

    Where it may be so, `error`, which says why there are no pairs, is given the command.
    """
    named = [_folder(root, side) for side in (images, masks) if side]
    if any(not side.is_dir() for side in named):
        return None
    sides = [side.absolute() for side in named]
    base = Path(os.path.commonpath(sides)) if sides else root
    sets = find_masks(*reversed(sides)) if sides else find_masks(root)
    if (united := unite(sets)) is None:
        kind = "classes" if tell_classes(sets) else "instances" if tell_objects(sets) else ""
        if "" in sets.names:  # no name of a class in some
            classes = import_command("classes", root)
            error.commands = tuple(one for one in error.commands if one != classes)
        command = import_command(kind, root)
        if kind and not sides and command not in error.commands:
            error.commands = (*error.commands, command)
        return None
    pairs = [
        Pair(sets.photos[key], mask, "/".join(filter(None, (key.split, key.name))), key.split)
        for key, mask in united.masks.items()
    ]
    splits = {pair.split for pair in pairs}
    left_out = dict.fromkeys(sets.strays, NO_IMAGE)
    for key, photo in sets.photos.items():
        if key not in united.masks:
            is_bare = key.split is not None and key.split not in splits
            left_out[photo] = f"{key.split} image without masks" if is_bare else NO_MASK
    several = sum(len(files_of(mask)) > 1 for mask in united.masks.values() if mask)
    rule = f"{plural(len(pairs), 'pair')}, {several} with several masks; {united.told}"
    found = PairSet(root, tuple(pairs), rule, classes=tuple(united.classes))
    return _complete(found, base, left_out, unpaired, _home(root, base, *named))


def _complete(
    found: PairSet, base: Path, left_out: dict[Path, str], unpaired: Unpaired, home: Path
) -> PairSet:
    """The pairs with their splits, unless most files do not pair."""
    pairs, rule = list(found.pairs), found.rule
    _refuse_few(base, len(pairs), left_out, unpaired)
    if unpaired == "empty":
        bare = read_entries(base, [path for path, why in left_out.items() if why == NO_MASK])
        pairs += [
            Pair(e.path, None, "/".join(filter(None, (e.split, *e.names, e.stem))), e.split)
            for e in bare
        ]
        rule += f", and {plural(len(bare), 'image')} without mask, which show nothing" * bool(bare)
        left_out = {path: why for path, why in left_out.items() if why != NO_MASK}
    pairs, outside, told = _with_splits(home, _unique(pairs), left_out)
    left_out |= dict.fromkeys(outside, _OUTSIDE)
    rule += _told(left_out.values()) + told
    return replace(found, pairs=tuple(pairs), rule=rule, left_out=tuple(left_out.items()))


def _home(root: Path, base: Path, *sides: Path) -> Path:
    """Where lists and the like may lie: not in all that two folders far apart have above them."""
    above, folders = base.resolve(), [_folder(root, side).resolve() for side in sides]
    is_near = bool(folders) and all(above in (folder, folder.parent) for folder in folders)
    return base if is_near or above.is_relative_to(root.resolve()) else root


def _from_tables(root: Path) -> PairSet | None:
    """The pairs that tables below `root` list, whatever these are called, if there are any.

    Raises:
        PairingError: several tables contradict one another, or the only one has faulty rows.
    """
    faults: list[PairingError] = []
    tables = clear_tables(root, faults)
    if faults and not tables:
        raise faults[0]
    pairs: dict[Path, Pair] = {}
    for row in chain.from_iterable(tables.values()):
        first = pairs.get(row.image, row)
        pairs[row.image] = replace(first, split=first.split or row.split)
        if first.mask != row.mask or (row.split and pairs[row.image].split != row.split):
            names = [below(table, root).as_posix() for table in tables]
            raise PairingError(
                f"{printable(root)} holds several tables of pairs, which differ",
                [printable(name) for name in names],
                "Say which is meant:",
                code="ambiguous",
                commands=[check_command(root, "--pairs", name) for name in names],
            )
    if len({pair.split for pair in pairs.values()}) == 1:
        pairs = {image: replace(pair, split=None) for image, pair in pairs.items()}
    called = ", ".join(printable(below(table, root).as_posix()) for table in tables)
    rule = f"{called}, {plural(len(pairs), 'pair')}"
    return PairSet(root, tuple(_unique([*pairs.values()])), rule) if pairs else None


def _beside_tables(found: PairSet) -> PairSet:
    """The pairs of the folder, and which tables are not used since they list others."""
    rule, tables = found.rule, clear_tables(found.root)
    if not tables:
        return found
    couples = {
        tuple(map(os.path.abspath, (pair.image, mask)))
        for pair in found.pairs
        for mask in (pair.mask.paths if isinstance(pair.mask, MaskSet) else [pair.mask or ""])
    }
    for table, rows in tables.items():
        others = sum(_couple(row) not in couples for row in rows)
        name = printable(below(table, found.root).as_posix())
        if others:
            rule += f"; {name} lists {plural(others, 'other pair')} and is not used without --pairs"
    return replace(found, rule=rule)


def _couple(row: Pair) -> tuple[str, str]:
    """Image and mask of a row; of pages with one number, their stacks."""
    assert isinstance(row.mask, Path)  # as of every row
    (image, page), (mask, other) = split_page(row.image), split_page(row.mask)
    return (str(image), str(mask)) if page == other else (str(row.image), str(row.mask))


def _chosen(root: Path, paths: Sequence[Path]) -> Choice:
    """What pairs among pictures; arrays, whose axes only their maker knows, are to be asked for."""
    pictures = [path for path in paths if path.suffix.lower() not in ARRAY_SUFFIXES]
    try:
        if not pictures:
            raise no_images(root)
        return choose(root, split_series(read_entries(root, pictures)))
    except PairingError:
        if len(pictures) == len(paths):
            raise
    series = split_series(read_entries(root, paths))
    raise arrays_asked_for(root, choose(root, series).readings, series)


def _asked_for(root: Path, images: Path, masks: Path, find: Find) -> tuple[Path, list[list[Entry]]]:
    """The folder above all, and the images and masks that two folders or patterns name.

    Names count from these folders on.
    """
    wanted = {"images": images, "masks": masks}
    folders = {
        side: folder
        for side, given in wanted.items()
        if (folder := _folder(root, given)).is_dir() or not (is_pattern(given) or folder.is_file())
    }
    missing = [printable(folder) for folder in folders.values() if not folder.is_dir()]
    if missing:
        raise PairingError("there is no such folder", missing, "Check --images and --masks.")
    everything = find(root, PairingError) if len(folders) < 2 else []
    inner_paths = {path: below(path, root).as_posix() for path in everything}
    sides = {
        side: find(folders[side], PairingError)
        if side in folders
        else _fitting(root, given, inner_paths)
        for side, given in wanted.items()
    }
    for side, other in (("images", "masks"), ("masks", "images")):  # one may lie in the other
        inner = folders.get(other, root).resolve()
        if side in folders and folders[side].resolve() in inner.parents:
            sides[side] = [p for p in sides[side] if not p.parent.resolve().is_relative_to(inner)]
    empty = [
        f"{printable(folders.get(s, wanted[s]))} ({s})" for s, files in sides.items() if not files
    ]
    if empty:
        raise PairingError("there are no images in", empty, "Check --images and --masks.")
    bases = {side: folders.get(side, root).absolute() for side in wanted}
    above = Path(os.path.commonpath(list(bases.values())))
    files = _apart({side: [path.absolute() for path in sides[side]] for side in wanted})
    if len(folders) < 2:  # with patterns, the folders above tell places
        both = {e.path: e for e in read_entries(above, [*files["images"], *files["masks"]])}
        return above, [[both[path] for path in files[side]] for side in wanted]
    entries: list[list[Entry]] = []
    for side, base in bases.items():
        own, outer = (read_entries(root, files[side]) for root in (base, above))  # in one order
        entries.append(
            [e._replace(inner=o.inner, parent=o.parent) for e, o in zip(own, outer, strict=True)]
        )
    return above, entries


def _apart(files: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """What both sides name is of the narrower one alone: *.png fits x_mask.png too."""
    images, masks = map(set, files.values())
    shared = images & masks
    if images != masks:
        wider = max(files, key=lambda side: len(files[side]))
        files[wider] = [path for path in files[wider] if path not in shared]
    return files


def _fitting(root: Path, given: Path, inner_paths: Mapping[Path, str]) -> list[Path]:
    """The files that a pattern names: in `root`, or else from here."""
    outer = below(given.absolute(), root.absolute())
    found = (
        [path for path, inner in inner_paths.items() if fits(inner, pattern.as_posix())]
        for pattern in (given, outer)
    )
    return next(filter(None, found), [])


def _folder(root: Path, given: Path) -> Path:
    """The folder that the user names: in `root`, or else from here."""
    inner = root / given
    return given if given.is_dir() and not inner.is_dir() else inner


def _unique(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with names that occur once: where they do not, those of all outputs."""
    count = Counter(pair.name for pair in pairs)
    if all(pair.name for pair in pairs) and max(count.values(), default=0) < 2:
        return list(pairs)
    base = Path(os.path.commonpath([pair.image.parent for pair in pairs]))
    names = dict(output_names([(pair.image, base) for pair in pairs]))
    return [replace(pair, name=names[pair.image].as_posix()) for pair in pairs]


def _refuse_few(root: Path, pairs: int, left_out: dict[Path, str], unpaired: Unpaired) -> None:
    """Refuse a folder of which most images and masks do not pair.

    Raises:
        PairingError: so it is, or the user wants no orphans at all.
    """
    orphans = {path: why for path, why in left_out.items() if why in {NO_MASK, NO_IMAGE, SEVERAL}}
    count = Counter(orphans.values())
    bare, several = count[NO_MASK], count[SEVERAL]
    allowed = unpaired == "skip" or (unpaired == "empty" and bare == len(orphans))
    if not orphans or allowed or (unpaired != "error" and len(orphans) <= 2 * pairs):
        return
    raise PairingError(
        f"{printable(root)} holds {plural(pairs, 'pair')}, "
        f"{plural(bare, 'image')} without mask and "
        f"{plural(count[NO_IMAGE], 'mask')} without image"
        + (f", {plural(several, 'image')} with several masks" if several else ""),
        [f"{why}: {printable(path.relative_to(root))}" for path, why in orphans.items()],
        "Add the missing files, or say what images without mask are: left out, or without objects.",
        code="unpaired",
        paths=list(orphans),
        commands=[
            check_command(root, "--unpaired", word)
            for word in (("skip", "empty") if bare == len(orphans) else ("skip",))
        ],
    )


# Splits


def _with_splits(
    root: Path, pairs: list[Pair], others: Iterable[Path]
) -> tuple[list[Pair], list[Path], str]:
    """The pairs with the splits of folders or lists, the files outside of these, and the lists."""
    own = [pair.split for pair in pairs]
    plain: list[str | None] = own if len({*own}) > 1 else [None] * len(pairs)  # one of all is none
    names = [
        chain((below(path, root).as_posix() for path in pair.files), [pair.name])
        for pair in pairs  # worked out where there is a list
    ]
    listed = listed_splits(root, names, (below(path, root).as_posix() for path in others), plain)
    splits = listed.splits
    if not any(splits):  # such as train_1 and val_1, in all names
        begun = [SPLITS.get(next(iter(tokens(pair.image.stem)), "")) for pair in pairs]
        splits = plain if None in begun else begun
    if any(splits) and "train" not in splits:  # what is in no other is for training, as in lists
        splits = [split or "train" for split in splits]
    if splits != own:
        pairs = [replace(p, split=split) for p, split in zip(pairs, splits, strict=True)]
    named = [pair for pair in pairs if pair.split]
    rest = [pair for pair in pairs if not pair.split]
    is_odd = not named or len(named) < _SPLIT_SHARE * len(pairs)  # to be in a split
    kept, out = (rest, named) if is_odd else (named, rest)
    if len({pair.split for pair in kept}) < 2:
        kept = [replace(pair, split=None) for pair in kept]
    outside = [path for pair in out for path in pair.files]
    return kept, outside, listed.told and f"; {listed.told}"


# Words


def _sentence(readings: Iterable[Reading]) -> str:
    """How the pairs were found, such as `images/NAME.jpg ↔ masks/NAME_mask.png, 20 pairs`."""
    rules: Counter[str] = Counter()
    for reading in readings:
        cores = reading.matching.names
        images, masks = (
            _template(side, cores) for side in zip(*reading.matching.couples, strict=True)
        )
        rules[f"{images} ↔ {masks}"] += len(cores)
    return "; ".join(f"{rule}, {plural(count, 'pair')}" for rule, count in rules.items())


def _template(entries: Sequence[Entry], cores: Sequence[str]) -> str:
    folders = [*dict.fromkeys(_split_marked(e.parent) for e in entries)]
    levels = list(zip(*folders, strict=False))
    shared = next((i for i, names in enumerate(levels) if len(set(names)) > 1), len(levels))
    place = [*folders[0][:shared], *(["…"] if len(folders) > 1 else [])]
    suffixes = sorted({entry.suffix[1:] for entry in entries})
    suffix = suffixes[0] if len(suffixes) == 1 else "{" + ",".join(suffixes) + "}"
    around = {
        tuple(entry.stem.split(core, 1)) if core else (entry.stem,)
        for entry, core in zip(entries, cores, strict=True)
    }
    stem = "NAME".join(around.pop()) if len(around) == 1 else "NAME"
    return printable("/".join((*place, f"{stem}.{suffix}")))


@cache
def _split_marked(folder: PurePosixPath) -> tuple[str, ...]:
    return tuple(_SPLIT_WORD.sub("{split}", name, count=1) for name in folder.parts)


def _told(reasons: Iterable[str]) -> str:
    counts = Counter(reasons)
    told = ", ".join(f"{n} × {why}" for why, n in counts.items())
    return f" (left out: {told})" if told else ""


# Regions


def within(pairs: Sequence[Pair], masks: Path) -> tuple[Pair, ...]:
    """The pairs with the regions that `masks` shows, a file for all or a folder with one for each.

    Names pair as those of images and masks do.

    Raises:
        PairingError: it is not there, or some images have no such mask; all of them are listed.
    """
    if masks.is_file():
        return tuple(replace(pair, region=masks) for pair in pairs)
    views = read_entries(masks, scan(masks, PairingError))
    root = Path(os.path.commonpath([pair.image.parent for pair in pairs]))
    images = read_entries(root, [pair.image for pair in pairs])
    regions = {image.path: view.path for image, view in match(images, views).couples}
    if bare := [printable(pair.image) for pair in pairs if pair.image not in regions]:
        summary = f"{printable(masks)} has no mask for {len(bare)} of {plural(len(pairs), 'image')}"
        raise PairingError(summary, bare, "Name each as its image, or give one file for all.")
    return tuple(replace(pair, region=regions[pair.image]) for pair in pairs)
