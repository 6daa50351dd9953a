"""Numbers of objects in masks, alone or within the codes of classes."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unetseg.data.masks.class_map import MAX_CLASSES, Code
from unetseg.data.masks.mask_values import Folder, integers
from unetseg.data.masks.stray_values import SOLID

OBJECTS = 16  # without a look at pixels, numbers of objects go beyond this …
ENDS = 3  # … and end differently in so many masks
GAPLESS = 0.9  # share of the numbers up to the highest that a mask of numbered objects holds
ANEW = 0.8  # of the colours of numbered objects, so many are in one file alone
LOOSE = 1.4  # the highest number of an object is no further beyond their count
FEW = 4  # objects that a file of numbered objects shows, or more
_BLOBS = 0.8  # of the values of numbered objects are one blob
_PLACED = 0.5  # of the variance of all centres: below it, values have places


def numbers_objects(samples: Sequence[NDArray[np.int64]]) -> bool:
    """Whether nearly every value is one blob, and the values are no classes.

    Numbers begin anew in every file and leave few gaps; of colours, few are in two files. Objects
    of one number lie anywhere, while classes (nose, mouth; sky, road) have their places.
    """
    from scipy.ndimage import center_of_mass, label  # a slow import that most folders do without

    sets, whole, several = [], 0, 0
    places: dict[int, list[NDArray[np.float64]]] = defaultdict(list)
    for codes in samples:
        values, counts = np.unique(codes, return_counts=True)
        ground = 0 if 0 in values else values[counts.argmax()]
        objects = [int(v) for v, n in zip(values, counts, strict=True) if v != ground and n > 3]
        sets.append(frozenset(objects))
        for value in objects[:64]:
            blobs = label(codes == value, np.ones((3, 3)))[1]
            whole, several = whole + (blobs == 1), several + (blobs > 1)
            places[value].append(np.array(center_of_mass(codes == value)) / codes.shape)
    if not sets or max(map(len, sets)) < FEW or whole < _BLOBS * (whole + several):
        return False
    sizes = {len(values) for values in sets}
    if max(max(values, default=0) for values in sets) < 1 << 16:
        dense = all(map(_is_dense, sets))
        return dense and (len(sizes) > 1 or len(sets) == 1) and not _have_places(places)
    return _come_once(sets)


def _is_dense(numbers: Collection[int]) -> bool:
    """Whether numbers leave few gaps between 1 and the highest."""
    return max(numbers, default=0) <= LOOSE * len(numbers) + 1


def _come_once(sets: Collection[Collection[Code]]) -> bool:
    """Whether few of the colours of some files are in two of them."""
    return len({code for codes in sets for code in codes}) > ANEW * sum(map(len, sets))


def _have_places(places: Mapping[int, Sequence[NDArray[np.float64]]]) -> bool:
    """Whether each value keeps to a place: its centres spread less than those of all values do."""
    several = [np.array(centres) for centres in places.values() if len(centres) > 1]
    if not several:
        return False
    own = np.average([c.var(axis=0, ddof=1).sum() for c in several], weights=[*map(len, several)])
    return bool(own < _PLACED * np.concatenate(several).var(axis=0, ddof=1).sum())


def numbers_per_class(folder: Folder, ignored: Sequence[Code]) -> Literal[256, 1000] | None:
    """256 or 1000 where codes are class × that + the number of an object, anew in each file."""
    if folder.coding != "integer" or folder.lossy:
        return None
    bases: tuple[Literal[256, 1000], ...] = 256, 1000
    found = [code for code in integers(folder.found) if code > 0 and code not in ignored]
    for base in bases:
        plain = [code for code in found if code < base]  # of no object
        objects: dict[tuple[int, int], list[int]] = defaultdict(list)  # by file and class
        for i, fact in enumerate(folder.facts):
            for code in integers(dict(fact.counts)):
                if code >= base and code not in ignored:
                    objects[i, code // base].append(code % base)
        highest = max([number for _, number in objects] + plain[-1:] * (base == 1000), default=0)
        dense = sum(map(_is_dense, objects.values()))
        several = any(len(group) > 1 for group in objects.values())
        is_dense = several and dense >= GAPLESS * len(objects)
        if is_dense and len(plain) < base / 4 and highest < MAX_CLASSES:
            return base
    return None


def object_numbers(folder: Folder, ignored: Collection[Code] = ()) -> list[int]:
    """The highest number of each mask, where all masks number their objects 1, 2, 3, … so far.

    Empty where they do not: where numbers are missing, most cover no area, as in smoothed masks,
    or too few masks end differently. Those `ignored` are no numbers.
    """
    if folder.coding != "integer" or folder.lossy:
        return []
    blank = {255, *ignored}
    numbers = [
        {n for n in integers(dict(fact.counts)) if n > 0 and n not in blank}
        for fact in folder.facts
    ]
    numbers = [found for found in numbers if found]
    gapless = all(len(found) >= GAPLESS * max(found) for found in numbers)
    every = set[int]().union(*numbers)
    solid = sum(folder.solidity[n] >= SOLID for n in every)
    ends = [max(found) for found in numbers]
    return ends if gapless and 2 * solid > len(every) and len(set(ends)) >= ENDS else []


def begin_anew(folder: Folder) -> bool:
    """Whether all files together hold the sets of values that numbered objects would.

    Classes that are one blob each, such as those of faces, are the same in most files; colours of
    classes come again in other files.
    """
    sets = Counter(frozenset(code for code, _ in fact.counts) for fact in folder.facts)
    shown = [count for codes, count in sets.items() if len(codes) > 2]
    if folder.coding == "rgb":
        ground = {folder.counts.most_common(1)[0][0]}
        return _come_once([codes - ground for codes in sets])
    return len(folder.facts) < ENDS or max(shown, default=0) <= sum(shown) / 2
