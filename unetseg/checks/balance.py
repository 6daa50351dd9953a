"""How the classes are spread over masks and splits: rare, empty, ignored and missing ones."""

from collections.abc import Iterator

import numpy as np

from unetseg.checks.finding import Finding, are, error, note, percent, warning
from unetseg.checks.values import FEW, Masks, masks_of
from unetseg.data.facts.survey import Survey
from unetseg.data.masks.mask_values import some

MANY = 0.5  # share of empty masks, or of ignored pixels, above which little is left to learn from
RARE = 0.001  # a class with a smaller share of the pixels that count is rare
UNEVEN = 20  # the most frequent class has so many times the pixels of the rarest
_LACKS = {
    "train": "and are never learnt",
    "val": "and have no part in choosing the best weights",
    "test": "and get no score",
}


def inspect_balance(survey: Survey) -> Iterator[Finding]:
    """How the classes are spread over masks and splits; no file is read."""
    if masks := masks_of(survey):
        yield from _inspect_ignored(masks)
        yield from _inspect_absent(masks)
        yield from _inspect_empty(masks)
        yield from _inspect_shares(masks)
        yield from _inspect_splits(masks, survey)


def _inspect_ignored(masks: Masks) -> Iterator[Finding]:
    """Masks that say nothing, and folders that say little."""
    ignored, codes = masks.pixels[:, -1], some(masks.class_map.ignore)
    mute = np.flatnonzero(masks.counted == 0)
    everything = len(mute) == len(ignored)
    if len(mute):
        yield Finding(
            check="ignored-masks",
            severity="error" if everything else "warning",
            summary=f"{masks.part(len(mute))} {are(len(mute))} ignored throughout ({codes}): "
            "there is nothing to learn from such a pair",
            lines=masks.paths(mute),
            fix="Check which values are ignored." if everything else "Take these pairs out.",
        )
    shares = ignored / (ignored + masks.counted)
    share = float(ignored.sum() / masks.pixels.sum())
    if share > MANY and not everything:
        mostly = np.flatnonzero(shares > MANY)
        yield warning(
            "ignored-pixels",
            f"{percent(share)} of the pixels are ignored ({codes})",
            lines=[
                (path, f": {percent(part)}")
                for path, part in zip(masks.paths(mostly), shares[mostly], strict=True)
            ],
            fix="If one of these values is a class, name it in classes.txt.",
        )


def _inspect_absent(masks: Masks) -> Iterator[Finding]:
    """Classes of the list that no mask shows."""
    absent = [k for k, shown in enumerate(masks.shown) if not shown]
    if len(masks.present) == 1:
        yield error(
            "one-class",
            f"all masks show {masks.names_of(masks.present)} and nothing else: there are "
            "no two classes to tell apart",
            fix="Check that these are the masks, and that the class list has their codes.",
        )
    if absent:
        yield warning(
            "absent-classes",
            f"{len(absent)} of {len(masks.codes)} classes of the class list "
            f"{are(len(absent))} in no mask: {masks.names_of(absent)}",
            fix="Compare names and codes of the class list with the masks; a class without "
            "pixels is never learnt.",
        )


def _inspect_empty(masks: Masks) -> Iterator[Finding]:
    """Masks with nothing but background."""
    empty = np.flatnonzero((masks.objects == 0) & (masks.counted > 0))
    share = len(empty) / len(masks.objects)
    if len(empty) and masks.class_map.background is not None and len(masks.present) > 1:
        yield Finding(
            check="empty-masks",
            severity="warning" if share > MANY else "note",
            summary=f"{masks.part(len(empty))} {are(len(empty))} background only "
            f"({percent(share)})",
            lines=masks.paths(empty),
            fix="If these images do show objects, draw them or take the pairs out; images "
            "without any teach what is no object.",
        )


def _inspect_shares(masks: Masks) -> Iterator[Finding]:
    """Classes of very different size, with few pixels, or in few masks."""
    share, few, names = masks.share, masks.in_few, masks.class_map.names
    several = sorted((k for k in masks.present if k not in few), key=lambda k: share[k])
    usual = [k for k in several if share[k] >= RARE]
    if usual and share[usual[-1]] >= UNEVEN * share[usual[0]]:
        yield note(
            "class-balance",
            f"the classes differ much in size: {names[usual[-1]]} has "
            f"{percent(share[usual[-1]])} of the pixels, {names[usual[0]]} "
            f"{percent(share[usual[0]])}",
            fix="Judge by Dice or IoU, not by the share of right pixels; training draws more "
            "crops around rare classes by itself.",
        )
    if few:
        yield warning(
            "rare-classes",
            f"{len(few)} of {len(masks.codes)} classes {are(len(few))} in fewer than {FEW} "
            f"masks: {masks.names_of(few)}",
            lines=masks.holders(masks.codes[k] for k in few),
            fix="Add images that show them, or unite them with another class; one or two masks "
            "cannot both teach and test a class.",
        )
    background = masks.class_map.background
    if small := sorted(k for k in several if share[k] < RARE and k != background):
        yield note(
            "rare-classes",
            f"{len(small)} of {len(masks.codes)} classes "
            f"{'has' if len(small) == 1 else 'have'} less than {percent(RARE)} of the pixels: "
            + some(f"{names[k]} ({percent(share[k])})" for k in small),
            lines=masks.holders(masks.codes[k] for k in small),
            fix="Look at their own scores; the mean over all classes hides them.",
        )


def _inspect_splits(masks: Masks, survey: Survey) -> Iterator[Finding]:
    """Classes that the masks of one split lack; splits drawn here are not blamed for rare ones."""
    asked = [k for k in masks.present if survey.own_splits or k not in masks.in_few]
    splits = np.array([pair.split for pair in survey.pairs.pairs])
    for split, consequence in _LACKS.items():
        held = masks.pixels[splits == split].any(axis=0)
        lacking = [k for k in asked if not held[k]]
        shown = masks.class_map.foreground
        if split in ("val", "test") and not any(held[k] for k in shown if k in masks.present):
            consequence = "so that there is no score" + (
                " and the last weights are kept" if split == "val" else ""
            )
        if lacking and split in splits:
            yield warning(
                "split-classes",
                f"{len(lacking)} of {len(masks.codes)} classes {are(len(lacking))} in no mask of "
                f"{split}, {consequence}: {masks.names_of(lacking)}",
                lines=masks.holders(masks.codes[k] for k in lacking),
                fix=f"Move some of these pairs to {split}, or add images that show the classes.",
            )
