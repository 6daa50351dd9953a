"""Masks and pictures that lie beside the images they belong to, where only images are wanted."""

import re
from collections.abc import Sequence
from pathlib import Path

from unetseg.data.pairs.choose import choose
from unetseg.data.pairs.content import look_at
from unetseg.data.pairs.keys import LOOSE, match
from unetseg.data.pairs.mask_sets import find_masks
from unetseg.data.pairs.series import Entry, Series, read_entries, split_series
from unetseg.errors import PairingError

MASK = "a mask"
_MOST = 0.5  # of a series: so many of its files go with images, and so many samples are masks


def files_beside(root: Path, paths: Sequence[Path]) -> dict[Path, str]:
    """The files among `paths` that are masks of others, or made from them, and what each is.

    Where names differ in their numbers alone, or all are of one series, no file is opened. What is
    left out must go with images; files of which nobody could know are images.

    Args:
        root: The folder.
        paths: All image files below it.
    """
    kinds = {(re.sub(r"\d+", "0", path.stem), path.suffix) for path in paths}
    if len(kinds) == 1 and len({path.stem for path in paths}) == len(paths):
        return {}
    series = split_series(read_entries(root, paths))
    if len(series) < 2:
        return {}
    try:
        readings = choose(root, series).readings
    except PairingError:  # no masks, or several that compete
        readings = []
    sure = [r for r in readings if r.masks.said.role == "mask" or not _shows_masks(r.images)]
    masks = {e.path for r in sure if _shows_masks(r.masks) for e in r.masks.entries}
    if not masks:  # of images that have several each
        sets = find_masks(root)
        paths = [mask.path for of_image in sets.masks.values() for mask in of_image]
        masks = {*paths} if sets.say_mask and look_at(paths).masks > _MOST else set()
    images = {entry.path: entry for r in sure for entry in r.images.entries}
    rest = [one for one in series if not {e.path for e in one.entries} & {*masks, *images}]
    said = [one for one in rest if one.said.role == "image" and not one.kind]
    plain = [one for one in rest if not one.aside and (one in said or not _shows_masks(one))]
    shown = [*images.values(), *(entry for one in plain for entry in one.entries)]
    beside = dict.fromkeys(sorted(masks), MASK)
    for one in rest:
        if one not in plain and _goes_with(shown, one):
            beside |= {entry.path: one.aside or MASK for entry in one.entries}
    return beside


def _shows_masks(one: Series) -> bool:
    if not one.look.readable:
        return one.said.role == "mask"
    return one.look.masks > _MOST


def _goes_with(images: Sequence[Entry], one: Series) -> bool:
    if not images:
        return False
    matching = match(images, one.entries)
    theirs = {entry.path for _, entry in matching.couples}
    theirs |= {entry.path for _, crowd in matching.crowds for entry in crowd}
    return (matching.rule < LOOSE or one.said.role == "mask") and len(theirs) >= _MOST * len(one)
