"""Which pairs train, which validate, which test: by content, never by order or path."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unetseg.data.pairs.naming import SPLIT_NAMES
from unetseg.data.pairs.pair import Pair, PairSet
from unetseg.errors import BundleError, ConfigError, PairingError
from unetseg.storage import parse_json, write_json
from unetseg.text import plural

STRATIFIED = 500
"""Data sets with fewer pairs are split so that every class is on both sides."""


@dataclass(frozen=True)
class _Unit:
    """Pairs that stay together: `members` are places in the list, `rank` orders by content."""

    rank: str
    members: tuple[int, ...]
    presence: tuple[frozenset[int], ...]


def assign_splits(
    pairs: PairSet,
    hashes: Sequence[str],
    presence: Sequence[frozenset[int]],
    val_fraction: float,
    fold: str | None = None,
) -> PairSet:
    """Give every pair its split: "train", "val" or "test".

    Splits that the folder has itself are kept. Where validation is missing, it is carved from
    train (from everything when there is no test either): round(n · val_fraction) pairs, at least
    one and never all. Pairs of one group, or with one content hash, stay together, so the count
    is exact without groups; with them it is what whole groups allow without exceeding it, or the
    smallest group when none is small enough.

    The pairs are taken in the order of their hashes, so that neither file order nor paths matter,
    and an added pair moves at most one other (more when groups have to fit). Below 500 pairs the
    order gives way to the classes: step by step that group is taken which, first, leaves the
    fewest classes (of those in two or more groups) missing on either side, and second, brings the
    number of validation pairs that show each class nearest to the fraction's share; the hash
    decides between equals. Where a class is still missing, groups of one size change sides as long
    as that helps. There an added pair can move more.

    With a `fold` everything but test is cut into N parts of about one size, in which the classes
    are spread; part I validates and the others train.

    A single pair, or copies of a single one, all stay in train; `PairSet.select("val")` then
    returns them too.

    Args:
        pairs: The pairs, with the splits of their folder or CSV, if any.
        hashes: Content hash of each pair, in the order of `pairs.pairs`.
        presence: Class indexes that occur in each mask, in the same order.
        val_fraction: Share of the pairs held out, 0–1.
        fold: "I/N"; which of N parts is held out instead.

    Raises:
        PairingError: some pairs have a split and some have none, or none is for training.
        ConfigError: all pairs are in one group, or there are more parts than groups.
    """
    _check_own_splits(pairs)
    own = [pair.split for pair in pairs.pairs]
    if not own:
        return pairs
    splits = dict(enumerate(own))
    if fold is not None or "val" not in own:
        pool = [place for place, split in splits.items() if split != "test"]
        units = _units(pairs.pairs, hashes, presence, pool)
        _check_groups(units, [pairs.pairs[place] for place in pool])
        held_out = _part(units, fold) if fold else _carve(units, len(pool), val_fraction)
        splits |= {place: "val" if place in held_out else "train" for place in pool}
    found = tuple(replace(pairs.pairs[place], split=split) for place, split in splits.items())
    return replace(pairs, pairs=found)


def keep_share(
    pairs: PairSet, hashes: Sequence[str], presence: Sequence[frozenset[int]], share: float
) -> PairSet:
    """Leave training pairs out until a `share` of them is left, carved as `assign_splits` does."""
    pool = [place for place, pair in enumerate(pairs.pairs) if pair.split == "train"]
    if share == 1 or not pool:
        return pairs
    units = _units(pairs.pairs, hashes, presence, pool)
    left_out = set(pool) - (_carve(units, len(pool), share) or set(pool))
    found = (pair for place, pair in enumerate(pairs.pairs) if place not in left_out)
    return replace(pairs, pairs=tuple(found))


def write_splits(path: Path, pairs: PairSet, hashes: Sequence[str]) -> None:
    """Write name, content hash, split and group of every pair to the JSON file `path`."""
    rows = [
        {"name": pair.name, "hash": digest, "split": pair.split}
        | ({"group": pair.group} if pair.group is not None else {})
        for pair, digest in zip(pairs.pairs, hashes, strict=True)
    ]
    write_json(path, {"pairs": rows})


def read_groups(path: Path) -> dict[str, str]:
    """Group of every content hash that has one, in a file of `write_splits` that was read."""
    rows = parse_json(path.read_text(encoding="utf-8"))["pairs"]
    return {str(row["hash"]): str(row["group"]) for row in rows if "group" in row}


def read_splits(path: Path, key: Literal["hash", "name"] = "hash") -> dict[str, str]:
    """Split of every content hash in a file of `write_splits`, for folders that have moved.

    With `key` "name", the split of every pair by its name instead.

    A content that stands in several splits counts for the one nearest to training: what was
    trained on is never held out.

    Raises:
        BundleError: the file is missing or damaged.
    """
    try:
        rows = parse_json(path.read_text(encoding="utf-8"))["pairs"]
        found = [(str(row[key]), str(row["split"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path} is no list of splits", [error], "Train again.") from error
    strangers = sorted({split for _, split in found} - {*SPLIT_NAMES})
    if strangers:
        raise BundleError(f"{path} names unknown splits", strangers, "Train again.")
    order = ["test", "val", "train"]
    return dict(sorted(found, key=lambda row: order.index(row[1])))


def _check_own_splits(pairs: PairSet) -> None:
    own = {pair.split for pair in pairs.pairs if pair.split is not None}
    stray = [pair.name for pair in pairs.pairs if pair.split is None]
    if stray and own:
        raise PairingError(
            f"some pairs in {pairs.root} have a split (train, val, test) and some have none",
            stray,
            "Move these into the folders of a split, or give every row of the CSV one; "
            "train: ['*'] under splits in dataset.yaml takes all the others.",
        )
    if own and "train" not in own:
        raise PairingError(
            f"no pair in {pairs.root} is for training: all are for {' and '.join(sorted(own))}",
            [pair.name for pair in pairs.pairs],
            "Move the training pairs into a folder train, or take the split folders away.",
        )


def _units(
    pairs: Sequence[Pair],
    hashes: Sequence[str],
    presence: Sequence[frozenset[int]],
    pool: Sequence[int],
) -> list[_Unit]:
    """The pairs of `pool` in groups that stay together, in the order of their hashes."""
    if not len(pairs) == len(hashes) == len(presence):
        raise ValueError("pairs, hashes and presence must have one length")
    leader = {place: place for place in pool}

    def find(place: int) -> int:
        while leader[place] != place:
            leader[place] = leader[leader[place]]
            place = leader[place]
        return place

    first: dict[tuple[str, str], int] = {}
    for place in pool:
        group = pairs[place].group
        ties = [("hash", hashes[place]), *([("group", group)] if group is not None else [])]
        for tie in ties:
            leader[find(place)] = find(first.setdefault(tie, place))
    members: dict[int, list[int]] = defaultdict(list)
    for place in pool:
        members[find(place)].append(place)
    units = [
        _Unit(min(hashes[p] for p in unit), tuple(unit), tuple(presence[p] for p in unit))
        for unit in members.values()
    ]
    return sorted(units, key=lambda unit: unit.rank)


def _check_groups(units: Sequence[_Unit], pairs: Sequence[Pair]) -> None:
    groups = sorted({pair.group for pair in pairs if pair.group is not None})
    if len(units) == 1 and len(pairs) > 1 and groups:
        raise ConfigError(
            f"all {len(pairs)} pairs are in one group, so none can be held out",
            groups,
            "Choose a --group or --group-column that tells them apart, or bring a val folder.",
        )


def _part(units: Sequence[_Unit], fold: str) -> set[int]:
    """Places of the pairs of one of N parts of `units`, "I/N".

    Unit by unit, the largest and those with the rarest classes first, goes to the part that is the
    smallest, and of these to the one that shows its classes least.
    """
    number, count = map(int, fold.split("/"))
    if len(units) < count:
        raise ConfigError(
            f"there are no {count} parts to hold out: the pairs make "
            f"{plural(len(units), 'group')}: copies, and those that --group ties, stay together",
            fix="Choose fewer folds.",
        )
    members = [len(unit.members) for unit in units]
    shown = _class_counts(units)  # units × classes
    total = np.maximum(shown.sum(0), 1)
    rarest = np.where(shown > 0, total, np.inf).min(1, initial=np.inf)
    sizes, held = np.zeros(count, int), np.zeros((count, shown.shape[1]))
    parts: list[set[int]] = [set() for _ in range(count)]
    for u in sorted(range(len(units)), key=lambda u: (-members[u], rarest[u])):
        alike = held @ ((shown[u] > 0) / total)
        part = np.lexsort((alike, sizes))[0]
        parts[part] |= set(units[u].members)
        sizes[part] += members[u]
        held[part] += shown[u]
    return parts[number]


def _carve(units: Sequence[_Unit], count: int, fraction: float) -> set[int]:
    """Places of the pairs that are held out."""
    if len(units) < 2:
        return set()
    target = min(max(round(count * fraction), 1), count - 1)
    chosen = _stratify(units, target, fraction) if count < STRATIFIED else _fill(units, target)
    if not chosen:
        chosen = [min(range(len(units)), key=lambda u: (len(units[u].members), units[u].rank))]
    return {place for u in chosen for place in units[u].members}


def _fill(units: Sequence[_Unit], target: int) -> list[int]:
    """Indexes of the units in the order of their hashes, as long as they fit in `target`."""
    chosen: list[int] = []
    for u, unit in enumerate(units):
        if len(unit.members) <= target:
            chosen.append(u)
            target -= len(unit.members)
    return chosen


def _stratify(units: Sequence[_Unit], target: int, fraction: float) -> list[int]:
    """Indexes of units whose classes resemble those of all units; see `assign_splits`."""
    sizes = np.array([len(unit.members) for unit in units])
    counts = _class_counts(units)  # units × classes, pairs that show the class
    shown = counts > 0
    chosen: list[int] = []
    while True:
        free = sizes <= target - sizes[chosen].sum()
        free[chosen] = False
        if not free.any():
            return _exchange(chosen, sizes, shown)
        missing = _missing(shown[chosen].sum(0) + shown, shown)
        distance = (counts[chosen].sum(0) + counts - fraction * counts.sum(0)) ** 2
        order = np.lexsort((np.round(distance.sum(1), 6), missing, ~free))
        chosen.append(int(order[0]))


def _exchange(chosen: list[int], sizes: NDArray[Any], shown: NDArray[Any]) -> list[int]:
    """`chosen`, with single units exchanged for others of their size while fewer classes miss."""
    while True:
        held = shown[chosen].sum(0)
        least, better = int(_missing(held, shown)), chosen
        for place, unit in enumerate(chosen if least else ()):
            missing = _missing(held - shown[unit] + shown, shown)
            missing[(sizes != sizes[unit]) | np.isin(np.arange(len(sizes)), chosen)] = least
            if missing.min() < least:
                least, best = int(missing.min()), int(missing.argmin())
                better = [*chosen[:place], best, *chosen[place + 1 :]]
        if better is chosen:
            return chosen
        chosen = better


def _missing(held: NDArray[Any], shown: NDArray[Any]) -> NDArray[Any]:
    """How many classes of two units or more are on one side only, if `held` units show them."""
    spread = shown.sum(0)
    return np.asarray(((spread >= 2) & ((held == 0) | (held == spread))).sum(-1))


def _class_counts(units: Sequence[_Unit]) -> NDArray[Any]:
    classes = sorted(frozenset().union(*(p for unit in units for p in unit.presence)))
    rows = [[sum(c in p for p in unit.presence) for c in classes] for unit in units]
    return np.array(rows, dtype=np.int64).reshape(len(units), len(classes))
