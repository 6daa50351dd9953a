"""Class balance: empty masks, rare classes, and classes that a split lacks."""

from collections.abc import Iterable, Iterator

import numpy as np

from unetseg.checks.finding import Finding
from unetseg.checks.tally import Masks, masks_of, percent
from unetseg.data.facts.survey import Survey
from unetseg.data.masks.mask_values import some
from unetseg.data.pairs.match import Pair

MANY_EMPTY = 0.5  # share of empty masks above which training seldom meets the foreground
MUCH_IGNORED = 0.5  # share of ignored pixels above which little is left to learn from
RARE = 0.001  # a class is rare below this share of the pixels that count …
FEW = 3  # … and in fewer masks than this, unless they are half of all
UNEVEN = 20  # the most frequent class has so many times the pixels of the rarest
_LACKS = {
    "train": "and are never learnt",
    "val": "and have no part in choosing the best weights",
    "test": "and get no score",
}


def inspect_balance(known: Survey) -> Iterator[Finding]:
    """How the classes are spread over masks and splits; no file is read."""
    if masks := masks_of(known):
        yield from _inspect_ignored(masks)
        yield from _inspect_absent(masks)
        yield from _inspect_empty(masks)
        yield from _inspect_shares(masks)
        yield from _inspect_rare(masks)
        yield from _inspect_splits(masks, known)


# Pixels that count


def _inspect_ignored(masks: Masks) -> Iterator[Finding]:
    """Masks that say nothing, and folders that say little."""
    ignored, counted = masks.pixels[:, -1], masks.pixels[:, :-1].sum(axis=1)
    mute = np.flatnonzero(counted == 0)
    everything = len(mute) == len(ignored)
    if len(mute):
        yield Finding(
            check="ignored-masks",
            severity="error" if everything else "warning",
            summary=f"{masks.part(len(mute))} {_are(len(mute))} ignored throughout "
            f"({some(masks.class_map.ignore)}): there is nothing to learn from such a pair",
            lines=masks.paths(mute),
            fix="Check which values are ignored." if everything else "Take these pairs out.",
        )
    share = float(ignored.sum() / (ignored.sum() + counted.sum()))
    if share > MUCH_IGNORED and not everything:
        shares = ignored / (ignored + counted)
        mostly = np.flatnonzero(shares > MUCH_IGNORED)
        yield Finding(
            check="ignored-pixels",
            severity="warning",
            summary=f"{percent(share)} of the pixels are ignored ({some(masks.class_map.ignore)})",
            lines=[
                (path, f": {percent(part)}")
                for path, part in zip(masks.paths(mostly), shares[mostly], strict=True)
            ],
            fix="If one of these values is a class, name it in classes.txt.",
        )


def _inspect_empty(masks: Masks) -> Iterator[Finding]:
    """Masks with nothing but background."""
    foreground = list(masks.class_map.foreground)
    if masks.class_map.background is None or len(_shown(masks)) < 2:
        return
    objects = masks.pixels[:, foreground].sum(axis=1)
    empty = np.flatnonzero((objects == 0) & (masks.pixels[:, :-1].sum(axis=1) > 0))
    share = len(empty) / len(objects)
    if len(empty):
        yield Finding(
            check="empty-masks",
            severity="warning" if share > MANY_EMPTY else "note",
            summary=f"{masks.part(len(empty))} {_are(len(empty))} background only "
            f"({percent(share)})",
            lines=masks.paths(empty),
            fix="If these images do show objects, draw them or take the pairs out; images "
            "without any teach what is no object.",
        )


# Classes


def _inspect_absent(masks: Masks) -> Iterator[Finding]:
    """Classes of the list that no mask shows."""
    shown, absent = _shown(masks), np.flatnonzero(masks.shown == 0)
    if len(shown) == 1:
        yield Finding(
            check="one-class",
            severity="error",
            summary=f"all masks show {_named(masks, shown)} and nothing else: there are no two "
            "classes to tell apart",
            fix="Check that these are the masks, and that the class list has their codes.",
        )
    if len(absent):
        yield Finding(
            check="absent-classes",
            severity="warning",
            summary=f"{_classes(len(absent), masks)} of the class list {_are(len(absent))} in no "
            f"mask: {_named(masks, absent)}",
            fix="Compare names and codes of the class list with the masks; a class without "
            "pixels is never learnt.",
        )


def _inspect_shares(masks: Masks) -> Iterator[Finding]:
    """Classes of very different size."""
    few = _in_few(masks)
    places = [p for p in _shown(masks) if p not in few and masks.share[p] >= RARE]
    rarest = min(places, key=lambda place: masks.share[place], default=0)
    largest = max(places, key=lambda place: masks.share[place], default=0)
    if places and masks.share[largest] >= UNEVEN * masks.share[rarest]:
        names = masks.class_map.names
        yield Finding(
            check="class-balance",
            severity="note",
            summary=f"the classes differ much in size: {names[largest]} has "
            f"{percent(masks.share[largest])} of the pixels, {names[rarest]} "
            f"{percent(masks.share[rarest])}",
            fix="Judge by Dice or IoU, not by the share of right pixels; training draws more "
            "crops around rare classes by itself.",
        )


def _inspect_rare(masks: Masks) -> Iterator[Finding]:
    """Classes with few pixels or in few masks."""
    few, background = _in_few(masks), masks.class_map.background
    others = [place for place in _shown(masks) if place not in {background, *few}]
    small = [place for place in others if masks.share[place] < RARE]
    if few:
        yield Finding(
            check="rare-classes",
            severity="warning",
            summary=f"{_classes(len(few), masks)} {_are(len(few))} in fewer than {FEW} masks: "
            f"{_named(masks, few)}",
            lines=masks.holders(masks.codes[place] for place in few),
            fix="Add images that show them, or unite them with another class; one or two masks "
            "cannot both teach and test a class.",
        )
    if small:
        shares = some(
            f"{masks.class_map.names[place]} ({percent(masks.share[place])})" for place in small
        )
        yield Finding(
            check="rare-classes",
            severity="note",
            summary=f"{_classes(len(small), masks)} {'has' if len(small) == 1 else 'have'} less "
            f"than {percent(RARE)} of the pixels: {shares}",
            lines=masks.holders(masks.codes[place] for place in small),
            fix="Look at their own scores; the mean over all classes hides them.",
        )


def _inspect_splits(masks: Masks, known: Survey) -> Iterator[Finding]:
    """Classes that the masks of one split lack."""
    reported = [] if known.own_splits else _in_few(masks)
    for split, lack in _LACKS.items():
        rows = _rows(known.pairs.pairs, split)
        if not rows:
            continue
        held = (masks.pixels[rows, :-1] > 0).sum(axis=0)
        lacking = [p for p in _shown(masks) if not held[p] and p not in reported]
        if lacking:
            yield Finding(
                check="split-classes",
                severity="warning",
                summary=f"{_classes(len(lacking), masks)} {_are(len(lacking))} in no mask of "
                f"{split}, {lack}: {_named(masks, lacking)}",
                lines=masks.holders(masks.codes[place] for place in lacking),
                fix=f"Move some of these pairs to {split}, or add images that show the classes.",
            )


def _rows(pairs: Iterable[Pair], split: str) -> list[int]:
    """The places of the pairs of a split."""
    return [row for row, pair in enumerate(pairs) if pair.split == split]


def _shown(masks: Masks) -> list[int]:
    """The classes that some mask shows, those left out that look like slips."""
    return [
        place
        for place, held in enumerate(masks.shown)
        if held and masks.codes[place] not in masks.slips
    ]


def _in_few(masks: Masks) -> list[int]:
    """The classes, but the background, that fewer than three masks show, and fewer than half."""
    held, background = masks.shown, masks.class_map.background
    return [
        place
        for place in _shown(masks)
        if held[place] < FEW and 2 * held[place] < len(masks.pixels) and place != background
    ]


def _classes(count: int, masks: Masks) -> str:
    return f"{count} of {len(masks.codes)} classes"


def _named(masks: Masks, places: Iterable[int]) -> str:
    return some(masks.class_map.names[place] for place in places)


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
