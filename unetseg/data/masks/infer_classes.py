"""From the values of a folder of masks to its `ClassMap`, with the conclusion in one sentence.

Values that cover area are classes, the rest is stray: soft edges, slips of the brush, noise.
Whether strays are classes all the same or go to the nearest one is for classes.txt or `--snap`.
"""

import colorsys
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import ValidationError

from unetseg.data.masks.class_list import (
    ClassNames,
    find_class_file,
    guess_class_names,
    read_class_names,
)
from unetseg.data.masks.class_map import (
    IGNORED,
    MAX_CLASSES,
    ClassInfo,
    ClassMap,
    Code,
    Coding,
    Colour,
    class_code,
)
from unetseg.data.masks.mask_values import (
    COUNTED,
    Folder,
    MaskFacts,
    as_point,
    coding_name,
    distance,
    gather,
    in_order,
    integers,
    mask_facts,
    some,
)
from unetseg.errors import MaskError
from unetseg.text import printable

__all__ = [
    "ClassNames",
    "MaskFacts",
    "distinct_colours",
    "find_class_file",
    "guess_class_names",
    "infer_class_map",
    "mask_facts",
    "read_class_names",
]

_IGNORE_WORDS = re.compile(r"\b(void|ignored?|unlabell?ed|don'?t ?care)\b")
_BACKGROUND_NAMES = frozenset({"background", "bg"})
SOLID = 0.15  # of the pixels of a value with area this share begins a 2×2 square of nothing else
LINES = 2  # so few values without area may draw lines; more of them are soft edges
LINE_SHARE = 0.001  # a line holds this share of the pixels of a mask
NUMBERS = 64  # values below this are class numbers: none is near to another
NEAR = 24  # grey values (of colours, in each band) between a value and its slips
OFTEN = 20  # times the pixels that a value has more than a slip of it
CLEAN = 0.9  # of the pixels of JPEG masks this share is within half of NEAR of a class
EXACT = 0.5  # of the pixels of masks that are snapped this share is exactly a class
OBJECTS = 16  # numbers of objects go beyond this …
ENDS = 3  # … and end differently in so many masks
GAPLESS = 0.9  # share of the numbers up to the highest that a mask of numbered objects holds
ANEW = 0.8  # of the colours of numbered objects, so many are in one file alone
LOOSE = 1.4  # the highest number of an object of a class is no further beyond their count
_SHOWN = 6  # classes that the sentence lists
_BLACK: Colour = (0, 0, 0)
# Sasha Trubetskoy, "20 simple, distinct colors", without black and white
_COLOURS: tuple[Colour, ...] = (
    *((230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48)),
    *((145, 30, 180), (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212)),
    *((0, 128, 128), (220, 190, 255), (170, 110, 40), (255, 250, 200), (128, 0, 0)),
    *((170, 255, 195), (128, 128, 0), (255, 215, 180), (0, 0, 128), (128, 128, 128)),
)


@dataclass(frozen=True)
class _Class:
    """A class with its code in this folder; without a name until `_build` gives one."""

    code: Code
    name: str = ""
    colour: Colour | None = None
    also: tuple[Code, ...] = ()


class Separation(NamedTuple):
    """The values of a folder, told apart.

    Attributes:
        classes: Those that cover area, that draw lines, or that the user ignores.
        strays: All others.
        slips: Those of `classes` that are close to a far more frequent one, with that one.
    """

    classes: tuple[Code, ...]
    strays: tuple[Code, ...]
    slips: dict[Code, Code]

    @property
    def centres(self) -> tuple[Code, ...]:
        """The classes without the slips: what others are snapped to."""
        return tuple(code for code in self.classes if code not in self.slips)


class _Reading(NamedTuple):
    """The codes that stand for something; whether others are snapped to them; why, in words."""

    codes: tuple[Code, ...]
    snap: bool = False
    noise: str = ""


@dataclass(frozen=True)
class _Meaning:
    """What the codes are: classes in order, ignored ones with their names, the background."""

    classes: tuple[_Class, ...]
    ignore: dict[Code, str]
    background: int | None


def infer_class_map(
    facts: Sequence[MaskFacts],
    *,
    names: ClassNames | None = None,
    ignore: Sequence[int] = (),
    snap: bool = False,
    objects: bool = False,
) -> tuple[ClassMap, str]:
    """Conclude from all masks what their values mean, and say it in one line.

    Classes are those of `names`, else every code there is. Ignored are the codes in `ignore`,
    negative codes, 255 beside small class numbers, and classes called void, ignore, unlabelled or
    don't care. JPEG noise is snapped to the classes by itself, other stray values with `snap`.
    Masks that number objects, as `objects` or the numbers themselves say, show a single class.

    Raises:
        MaskError: the masks contradict each other or `names`, or they hold noise, fewer than two
            classes or more than 254.
    """
    folder = gather(facts)
    ignored = _possible(ignore, folder)
    objects = objects and _differ(folder)
    if not names and (objects or max(object_numbers(folder), default=0) > OBJECTS):
        return _one_class_of_objects(folder, ignored)
    stated = {code for e in names.entries for code in (e.code, *e.also)} if names else set()
    numbers = None if stated.issuperset(folder.found) else _numbers_per_class(folder)
    if numbers:
        folder = folder.recoded(lambda code: _class_code(code, numbers))
    named = _named_classes(names, folder, ignored, numbers) if names else ()
    united = {code: item.code for item in named for code in item.also}
    united = united if named or ignored else _exclusive_twins(folder)
    if united:
        folder = folder.recoded(lambda code: united.get(code, code))
    values = separate(folder, ignored)
    if named:
        reading = _read_listed(folder, tuple(item.code for item in named), ignored, snap=snap)
    else:
        reading = _read(folder, values, snap=snap)
    meaning = _interpret(folder, reading, named, ignored)
    if names:
        _check_strangers(folder, values, reading, meaning, names)
    _check_scale(folder, meaning, ignored)
    _check_number(folder, meaning)
    class_map = _build(folder, reading, meaning)
    told = [f"{_text(code)} counts as {_text(meant)}" for code, meant in united.items()][:_SHOWN]
    forms = Counter(fact.form for fact in folder.facts if fact.form)
    told += [f"{count} of {len(facts)} {form}" for form, count in forms.items()]
    if names and len(named) > len(names.entries):
        told.append(f"{names.source} does not name {_text(named[0].code)}")
    if numbers:
        told.append(f"the codes are class × {numbers} + number of the object, which does not count")
    class_map = _with_further_codes(class_map, united, numbers)
    return class_map, ", ".join([_sentence(reading, meaning, class_map, names), *told])


def _with_further_codes(
    class_map: ClassMap, united: dict[Code, Code], numbers: int | None
) -> ClassMap:
    """The classes with the codes that count as others, and with what the codes hold beside."""
    also = [(code, class_map.index_of(meant)) for code, meant in united.items()]
    blank = tuple(code for code, index in also if index == IGNORED)
    changes: dict[str, Any] = {
        "united": tuple((code, index) for code, index in also if index != IGNORED),
        "ignore": (*class_map.ignore, *blank),
        "numbers": numbers,
    }
    if numbers == 256:
        changes["classes"] = tuple(
            item.model_copy(update={"name": f"class {item.code // 256}"})
            if item.name == f"class {item.code}" and isinstance(item.code, int)
            else item
            for item in class_map.classes
        )
    return class_map.model_copy(update=changes)


def distinct_colours(count: int) -> list[Colour]:
    """`count` (at most 254) distinct colours, none of them black: a fixed list, then hues."""
    colours = list(_COLOURS)
    for turn in range(count):
        hue, tone, light = 0.381966 * turn % 1, 0.5 + 0.15 * (turn % 4), 0.95 - 0.1 * (turn % 5)
        red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, tone, light))
        colours.append((red, green, blue))
    return list(dict.fromkeys(colours))[:count]


# Classes and stray values


def separate(folder: Folder, ignored: Sequence[Code] = ()) -> Separation:
    """Tell the values that are classes from stray ones.

    A value is a class where it covers area: where 15% of its pixels begin a 2×2 square of nothing
    else. One or two without area are classes too if they draw lines, 0.1% of the pixels of a mask;
    more of them are soft edges, and stray. Class numbers, all of them below 64 but for 255, and
    palette indexes are never stray, unless what remains without them is just 0 and 255. Values that
    the user ignores, and negative ones, have a meaning however rare they are.
    """
    fixed = {code for code in folder.found if code in ignored or _is_negative(code)}
    thin = [c for c in folder.found if folder.solidity[c] < SOLID and c not in fixed]
    strays = {c for c in thin if len(thin) > LINES or folder.largest[c] < LINE_SHARE}
    solid = set(folder.found) - strays - fixed
    if _are_indexes(folder) and solid != {0, 255}:
        return Separation(folder.found, (), {})
    if len(solid) < 2:  # lines, all of them soft: the most frequent value is the line's
        far = [c for c in strays if all(distance(c, other) >= 2 * NEAR for other in solid)]
        strays -= {*sorted(far, key=lambda c: (-folder.counts[c], as_point(c)))[:1]}
    classes = in_order(set(folder.found) - strays)
    return Separation(classes, in_order(strays), _slips(folder, classes, fixed))


def _are_indexes(folder: Folder) -> bool:
    """Whether the values are palette indexes or class numbers, of which none is near to another."""
    highest = max((code for code in integers(folder.found) if code != 255), default=0)
    return not folder.lossy and (
        folder.coding == "palette" or (folder.coding == "integer" and highest < NUMBERS)
    )


def _slips(folder: Folder, classes: Sequence[Code], fixed: set[Code]) -> dict[Code, Code]:
    """The classes within 24 of one with more than 20 times their pixels, each with that one.

    There are none where the others are as near to each other: such numbers count. In lossy masks
    noise itself covers area: there it is all within 48 of any that is more frequent.
    """
    ranked = sorted(classes, key=lambda c: (c not in fixed, -folder.counts[c], as_point(c)))
    ranked = ranked[:COUNTED]
    points = np.array([as_point(code) for code in ranked], np.int64)
    pixels = np.array([folder.counts[code] for code in ranked], np.int64)
    is_main = np.ones(len(ranked), bool)
    slips = {}
    for i, code in enumerate(ranked):
        gaps = np.where(is_main[:i], np.abs(points[:i] - points[i]).max(axis=1), 2**32)
        near = gaps < 2 * NEAR if folder.lossy else gaps <= NEAR
        rarer = near & (folder.lossy | (OFTEN * pixels[i] < pixels[:i]))
        if rarer.any() and code not in fixed:
            is_main[i] = False
            slips[code] = ranked[int(np.where(rarer, gaps, 2**32).argmin())]
        elif near.any() and folder.coding == "integer" and not folder.lossy:
            return {}
    return slips


def _read(folder: Folder, values: Separation, *, snap: bool) -> _Reading:
    """What stands for something in masks without a class list."""
    centres = values.centres
    noise = f"stray values are snapped to the nearest of {some(centres)}"
    if folder.lossy:
        if len(centres) < 2 <= len(folder.counts) or folder.share(centres, NEAR // 2) < CLEAN:
            raise _spoilt(folder, centres, NEAR // 2)
        noise = f"JPEG noise is snapped to the nearest of {some(centres)}"
    elif values.strays and (folder.share(centres) < EXACT or not snap):
        raise _too_many(folder, values)
    if not (folder.lossy or snap):
        return _Reading(folder.found)
    return _Reading(centres, snap=True, noise=noise if len(centres) < len(folder.counts) else "")


def _read_listed(
    folder: Folder, named: tuple[Code, ...], ignored: tuple[Code, ...], *, snap: bool
) -> _Reading:
    """What stands for something in masks with a class list: its codes, and the ignored ones."""
    codes = tuple(dict.fromkeys([*named, *ignored]))
    if folder.lossy:
        is_noisy = not set(folder.counts) <= set(codes)
        gap = min((distance(a, b) for i, a in enumerate(codes) for b in codes[:i]), default=255)
        if is_noisy and (gap <= NEAR or folder.share(codes, NEAR) < CLEAN):
            raise _spoilt(folder, codes, NEAR)
        noise = f"JPEG noise is snapped to the nearest of {some(codes)}"
        return _Reading(codes, snap=True, noise=noise if is_noisy else "")
    if snap:
        return _Reading(codes, snap=True, noise="stray values are snapped to the nearest class")
    return _Reading(folder.found)


def _too_many(folder: Folder, values: Separation) -> MaskError:
    nearest = some(values.centres)
    fix = f"Give --snap to take the nearest of {nearest}, or name the classes in classes.txt."
    if folder.share(values.centres) < EXACT:
        fix = "Check that these are the masks, and save them without smoothing."
    return MaskError(
        f"more classes than sense: the masks hold {len(folder.counts)} distinct values; "
        f"{_percent(folder.share(values.centres))} of the pixels are exactly {nearest}, and "
        f"{some(values.strays)} cover no area",
        folder.holders(values.strays),
        fix,
    )


def _spoilt(folder: Folder, codes: tuple[Code, ...], reach: int) -> MaskError:
    return MaskError(
        f"lossy compression (JPEG) has spoilt the masks: of {len(folder.counts)} distinct values "
        f"{_percent(folder.share(codes, reach))} of the pixels lie within {reach} of {some(codes)}",
        folder.fullest(),
        "Export the masks again, as PNG.",
    )


def _percent(share: float) -> str:
    """A share rounded down, so that only all is 100%."""
    return f"{math.floor(1000 * share) / 10:.1f}%"


# Class lists in the folder's coding


def _possible(ignore: Sequence[int], folder: Folder) -> tuple[Code, ...]:
    """The codes that the user ignores, but for those that these masks cannot hold."""
    limits = np.iinfo(folder.facts[0].dtype)
    possible = [code for code in ignore if limits.min <= code <= limits.max]
    return tuple(dict.fromkeys(_adapt(code, None, folder) for code in possible))


def _named_classes(
    names: ClassNames, folder: Folder, ignored: tuple[Code, ...], numbers: int | None
) -> tuple[_Class, ...]:
    """`_adapted`, of a list that counts 1, 2, 3 where the folder's codes are class × 256."""
    times = 256 if numbers == 256 else 1
    classes = folder.recoded(lambda code: code if isinstance(code, tuple) else code // times)

    def coded(code: Code) -> Code:
        return code if isinstance(code, tuple) else code * times

    return tuple(
        replace(item, code=coded(item.code), also=tuple(map(coded, item.also)))
        for item in _adapted(names, classes, ignored)
    )


def _adapted(names: ClassNames, folder: Folder, ignored: tuple[Code, ...]) -> tuple[_Class, ...]:
    """The classes of a list with the codes that they have in this folder, and printable names.

    Where 0 (of RGB: black) is none of them, and none is the background, it is the background. That
    of another program's list comes first.
    """
    _check_reach(names)
    in_colours = [isinstance(e.code, tuple) and len({*e.code}) > 1 for e in names.entries]
    if (
        names.guessed and folder.coding == "integer" and any(in_colours)
    ):  # colours for pictures alone
        bare = tuple(replace(entry, code=None, also=()) for entry in names.entries)
        names = replace(names, entries=bare)
    black: Code = _BLACK if folder.coding == "rgb" else 0
    present = separate(folder, ignored).centres if folder.lossy else folder.found
    ground = _named_background(tuple(_Class(0, entry.name) for entry in names.entries))
    lacks_ground = ground is None and black in present and black not in ignored
    if names.bare:
        count = len(names.entries)
        codes = _codes_in_order(names, folder, present, ignored, lacks_ground)
        lacks_ground = len(codes) > count
        codes = codes[lacks_ground:]
        if ground and codes[0] == black and codes != tuple(range(count)):
            codes = (*codes[1 : ground + 1], black, *codes[ground + 1 :])
    else:
        codes = tuple(
            _adapt(entry.code, entry.colour, folder)
            for entry in names.entries
            if entry.code is not None
        )
    classes = tuple(
        _Class(
            code,
            printable(entry.name),
            entry.colour,
            tuple(_adapt(other, None, folder) for other in entry.also),
        )
        for code, entry in zip(codes, names.entries, strict=True)
    )
    known = {code for item in classes for code in (item.code, *item.also)}
    if names.guessed and ground:
        classes = (classes[ground], *classes[:ground], *classes[ground + 1 :])
    if not lacks_ground or black in known:
        return classes
    is_other = "objectinfo" in names.source.lower()  # ADE20K: 0 is what no class describes
    return (_Class(black, "unlabelled" if is_other else "background"), *classes)


def _check_reach(names: ClassNames) -> None:
    """Refuse codes that no mask can hold."""
    limits = np.iinfo(np.int32)
    wrong = [
        f"{printable(entry.name)}: {entry.code}"
        for entry in names.entries
        if isinstance(entry.code, int) and not limits.min <= entry.code <= limits.max
    ]
    if wrong:
        summary = f"{names.source} has codes that no mask holds"
        raise MaskError(summary, wrong, f"Codes reach from {limits.min} to {limits.max}.")


def _codes_in_order(
    names: ClassNames,
    folder: Folder,
    present: tuple[Code, ...],
    ignored: tuple[Code, ...],
    lacks_ground: bool,
) -> tuple[Code, ...]:
    """Codes for bare names: 0, 1, … when that covers the masks, else the masks' own in order.

    With one code more, the first is the background that the names lack.
    """
    count = len(names.entries)
    found = [code for code in present if code not in ignored and not _is_negative(code)]
    small = [code for code in found if code != 255]
    has_border = _is_border(small, folder.coding)
    if folder.coding != "rgb" and set(small if has_border else found) <= set(range(count)):
        return tuple(range(count))
    is_ordered = all(len(set(code)) == 1 for code in found if isinstance(code, tuple))
    if is_ordered and len(found) in {count, count + lacks_ground}:
        return tuple(found)
    if lacks_ground and folder.coding != "rgb" and set(small) == set(range(count + 1)):
        return tuple(range(count + 1))  # beside 255
    fix = "Write `index name` lines, or `name r g b` lines for RGB masks."
    summary = f"{names.source} gives {count} names without codes; the masks hold {some(found)}"
    strangers = set(found) - set(range(count)) if folder.coding != "rgb" else ()
    raise MaskError(summary, folder.holders(strangers), fix)


def _adapt(code: Code, colour: Colour | None, folder: Folder) -> Code:
    """A code in the folder's coding: grey numbers as triples, colours as palette indexes."""
    if folder.coding == "rgb" and not isinstance(code, tuple):
        return colour or (code, code, code)
    if folder.coding == "rgb" or not isinstance(code, tuple):
        return code
    if folder.coding == "palette":
        matches = [index for index in range(256) if folder.colour(index) == code]
        matches.sort(key=lambda index: index not in folder.counts)
        if matches:
            return matches[0]
    elif len(set(code)) == 1:
        return code[0]
    fix = "Write `index name` lines."
    raise MaskError(f"the class list has the colour {code}, which the masks have not", fix=fix)


# What the codes are


def _interpret(
    folder: Folder, reading: _Reading, named: tuple[_Class, ...], ignored: tuple[Code, ...]
) -> _Meaning:
    """Tell classes from ignored codes, and find the background."""
    found = folder.found if named and not folder.lossy else reading.codes
    stated = tuple(item.code for item in named)
    ignore: dict[Code, str] = dict.fromkeys(ignored, "")
    ignore |= dict.fromkeys((code for code in found if _is_negative(code)), "")
    others = [code for code in stated or found if code not in ignore and code != 255]
    merged = folder.lossy or (reading.noise and not named)
    if 255 in found and not merged and _is_border(others, folder.coding):
        ignore[255] = ""
    ignore = {code: name for code, name in ignore.items() if code in ignored or code not in stated}
    void = {item.code: item.name for item in named if _IGNORE_WORDS.search(_words(item.name))}
    if sum(item.code not in {*void, *ignore} for item in named) > 1:
        ignore |= void  # else such a class is the background of a single other
    entries = named or tuple(_Class(code) for code in reading.codes)
    classes = tuple(item for item in entries if item.code not in ignore)
    background = _named_background(classes) if named else _plain_background(classes)
    return _Meaning(classes, ignore, background)


def _is_border(others: Sequence[Code], coding: Coding) -> bool:
    """Whether 255 beside `others` marks pixels without a truth, as in VOC, and no class."""
    if len(others) < 2 or coding == "rgb":
        return False
    return 1 in others or coding == "palette" or max(integers(others)) <= 63


def _named_background(classes: tuple[_Class, ...]) -> int | None:
    names = [_words(item.name) for item in classes]
    exact = [i for i, name in enumerate(names) if name in _BACKGROUND_NAMES]
    vague = [i for i, name in enumerate(names) if _IGNORE_WORDS.search(name)]
    return next(iter([*exact, *vague]), None)


def _plain_background(classes: tuple[_Class, ...]) -> int | None:
    dark = [i for i, item in enumerate(classes) if item.code in (0, _BLACK)]
    smallest_of_two = [0] if len(classes) == 2 else []
    return next(iter([*dark, *smallest_of_two]), None)


def _check_strangers(
    folder: Folder, values: Separation, reading: _Reading, meaning: _Meaning, names: ClassNames
) -> None:
    """Refuse values of the masks that the class list does not know, unless they are noise."""
    known = {*(item.code for item in meaning.classes), *meaning.ignore}
    strangers = [code for code in folder.found if code not in known]
    solid = [c for c in strangers if folder.solidity[c] >= SOLID and c not in values.slips]
    if strangers and not (reading.snap and (folder.lossy or not solid)):
        raise MaskError(
            f"{len(strangers)} values of the masks are not in {names.source}: {some(strangers)}",
            folder.holders(strangers),
            f"Add them to {names.source}, give --ignore for them, or fix the masks.",
        )


def _check_scale(folder: Folder, meaning: _Meaning, ignored: tuple[Code, ...]) -> None:
    """Refuse a mixture of 0/1 and 0/255 masks, whose 255 would be taken for "no truth"."""
    if folder.coding != "integer" or 255 in ignored or 255 not in meaning.ignore:
        return
    if {item.code for item in meaning.classes} != {0, 1}:
        return
    held = [(fact.path, dict(fact.counts).keys()) for fact in folder.facts]
    small = [path for path, codes in held if 1 in codes]
    large = [path for path, codes in held if 255 in codes]
    if small and set(small).isdisjoint(large):
        rare, scale = min((large, "0/255"), (small, "0/1"), key=lambda side: len(side[0]))
        raise MaskError(
            f"{len(small)} of the masks hold 0/1 and {len(large)} 0/255, never 1 and 255 together",
            [f"{path}: {scale}" for path in rare],
            "Save them alike, or give --ignore 255 if those pixels have no truth.",
        )


def _exclusive_twins(folder: Folder) -> dict[Code, Code]:
    """1 for 0 and 254 for 255 in black-and-white masks of which none holds both.

    Some programs write black as 1: it is black where both stand beside the same white.
    """
    grey = {code: as_point(code)[0] for code in folder.found if len({*_parts(code)}) == 1}
    is_plain = len(grey) == len(folder.found) and set(grey.values()) <= {0, 1, 254, 255}
    if not is_plain or folder.lossy or folder.coding == "palette":
        return {}
    held = [{grey[code] for code, _ in fact.counts} for fact in folder.facts]
    twins = {}
    for twin, meant, others in ((1, 0, {254, 255}), (254, 255, {0, 1})):
        beside = [{twin, meant} & levels for levels in held if levels & others]
        if {twin} in beside and {meant} in beside and not any({twin, meant} <= h for h in held):
            twins[twin] = meant
    code_of = {level: code for code, level in grey.items()}
    return {code_of[twin]: code_of[meant] for twin, meant in twins.items()}


def _numbers_per_class(folder: Folder) -> Literal[256, 1000] | None:
    """256 or 1000 where codes are class × that + the number of an object, anew in each file."""
    if folder.coding != "integer" or folder.lossy:
        return None
    bases: tuple[Literal[256, 1000], ...] = 256, 1000
    for base in bases:
        plain = [code for code in integers(folder.found) if 0 < code < base]  # of no object
        objects: dict[tuple[int, int], list[int]] = defaultdict(list)  # by file and class
        for i, fact in enumerate(folder.facts):
            for code in integers(dict(fact.counts)):
                if code >= base:
                    objects[i, code // base].append(code % base)
        highest = max([number for _, number in objects] + plain[-1:] * (base == 1000), default=0)
        dense = sum(max(group) <= LOOSE * len(group) + 1 for group in objects.values())
        several = any(len(group) > 1 for group in objects.values())
        is_dense = several and dense >= GAPLESS * len(objects)
        if is_dense and len(plain) < base / 4 and highest < MAX_CLASSES:
            return base
    return None


def _class_code(code: Code, numbers: int | None) -> Code:
    return code if isinstance(code, tuple) else int(class_code(np.array(code), numbers))


def object_numbers(folder: Folder) -> list[int]:
    """The highest number of each mask, where all masks number their objects 1, 2, 3, … so far.

    Empty where they do not: where numbers are missing, or too few masks end differently.
    """
    if folder.coding != "integer":
        return []
    numbers = [{n for n in integers(dict(fact.counts)) if 0 < n != 255} for fact in folder.facts]
    numbers = [found for found in numbers if found]
    gapless = all(len(found) >= GAPLESS * max(found) for found in numbers)
    ends = [max(found) for found in numbers]
    return ends if gapless and len(set(ends)) >= ENDS else []


def _differ(folder: Folder) -> bool:
    """Whether the files hold the sets of values that numbered objects would.

    Classes that are one blob each, such as those of faces, are the same in most files; colours of
    classes come again in other files.
    """
    sets = Counter(frozenset(code for code, _ in fact.counts) for fact in folder.facts)
    shown = [count for codes, count in sets.items() if len(codes) > 2]
    if folder.coding == "rgb":
        return len(folder.found) > ANEW * sum(len(codes) - 1 for codes in sets)
    return len(folder.facts) < ENDS or max(shown, default=0) <= sum(shown) / 2


def _one_class_of_objects(folder: Folder, ignored: tuple[Code, ...]) -> tuple[ClassMap, str]:
    """The class map of masks that number objects: 0 is the background, all else is an object."""
    is_rgb = folder.coding == "rgb"
    black: Code = _BLACK if is_rgb else 0
    ground = black if black in folder.found else folder.counts.most_common(1)[0][0]
    white: Code = (255, 255, 255) if is_rgb else 1
    code = white if white != ground else black
    classes = (_Class(ground, "background"), _Class(code, "object"))
    if 255 not in ignored and max({*integers(folder.found)} - {255}, default=255) < NUMBERS:
        ignored = (*ignored, 255) if 255 in folder.found else ignored
    meaning = _Meaning(classes, dict.fromkeys(ignored, ""), 0)
    numbers = sorted(set(folder.found) - {ground, *ignored}, key=as_point)
    class_map = _build(folder, _Reading(folder.found), meaning).model_copy(update={"objects": True})
    values = f"{_span(tuple(numbers))} {coding_name(folder.coding)}"
    return class_map, (
        f"masks: {values} number objects, not classes: one class of all, object {_text(code)}, "
        f"and background {_text(ground)}{', 255 is ignored' if 255 in meaning.ignore else ''}; "
        "name the values in classes.txt if they are classes"
    )


def _check_number(folder: Folder, meaning: _Meaning) -> None:
    """Refuse fewer than two classes, and more than an index can hold."""
    count = len(meaning.classes)
    if count > MAX_CLASSES:
        fix = "If they number objects, save class numbers instead; if they are noise, give --snap."
        summary = f"the masks hold {count} distinct values; at most {MAX_CLASSES} can be classes"
        raise MaskError(summary, folder.fullest(), fix)
    if count < 2:
        verb = "is" if len(meaning.ignore) == 1 else "are"
        blank = f", of which {some(meaning.ignore)} {verb} ignored" if meaning.ignore else ""
        fix = "Check that these are the masks; name a class that is absent here in classes.txt."
        summary = f"there are no two classes: all masks hold {some(folder.found)}{blank}"
        raise MaskError(summary, [fact.path for fact in folder.facts], fix)


# The class map and its sentence


def _build(folder: Folder, reading: _Reading, meaning: _Meaning) -> ClassMap:
    colours = _class_colours(folder, meaning)
    classes = [
        ClassInfo(name=_name(meaning, i), code=item.code, colour=colours[i])
        for i, item in enumerate(meaning.classes)
    ]
    dtype = _dtype([*(item.code for item in classes), *meaning.ignore])
    is_tiff = all(fact.suffix in {".tif", ".tiff"} for fact in folder.facts)
    parts: dict[str, Any] = {
        "classes": classes,
        "ignore": tuple(meaning.ignore),
        "coding": folder.coding,
        "dtype": dtype,
        "palette": folder.palette,
        "background": meaning.background,
        "snap": reading.snap,
        "suffix": ".tif" if is_tiff or dtype in {"int16", "int32"} else ".png",
    }
    try:
        return ClassMap.model_validate(parts)
    except ValidationError as error:
        faults = [fault["msg"] for fault in error.errors()]
        fix = "Fix the class list."
        raise MaskError("the class list does not fit these masks", faults, fix) from error


def _name(meaning: _Meaning, index: int) -> str:
    item = meaning.classes[index]
    if item.name:
        return item.name
    if index == meaning.background:
        return "background"
    return "foreground" if len(meaning.classes) == 2 else f"class {_text(item.code)}"


def _dtype(codes: Iterable[Code]) -> str:
    """The smallest of uint8, uint16, int16 and int32 that holds all codes."""
    numbers = [part for code in codes for part in _parts(code)]
    for dtype in ("uint8", "uint16", "int16", "int32"):
        if np.iinfo(dtype).min <= min(numbers) and max(numbers) <= np.iinfo(dtype).max:
            return dtype
    raise MaskError(f"the codes from {min(numbers)} to {max(numbers)} do not fit 32 bits")


def _class_colours(folder: Folder, meaning: _Meaning) -> list[Colour]:
    """Colours for pictures: those of the files where all differ, else a fixed list."""
    own = [_own_colour(item, folder) for item in meaning.classes]
    known = [colour for colour in own if colour is not None]
    if len(set(known)) == len(own):
        return known
    colours = distinct_colours(len(own))
    if meaning.background is not None:
        colours.insert(meaning.background, _BLACK)
    return colours


def _own_colour(item: _Class, folder: Folder) -> Colour | None:
    if isinstance(item.code, tuple):
        return item.code
    if folder.palette and 0 <= item.code < 256:
        return folder.colour(item.code)
    return item.colour


def _sentence(
    reading: _Reading, meaning: _Meaning, class_map: ClassMap, names: ClassNames | None
) -> str:
    """The conclusion and its evidence, in one line."""
    count = len(class_map.classes)
    shown = ", ".join(_label(item) for item in class_map.classes[:_SHOWN])
    values = f"{_span(reading.codes)} {coding_name(class_map.coding)}"
    source = f" by {names.source}" if names else ""
    classes = f"{count} classes{source} ({shown}{', …' if count > _SHOWN else ''})"
    ignored = [
        f"{_text(code)}{' = ' if name else ''}{name} is ignored"
        for code, name in meaning.ignore.items()
    ]
    return ", ".join([f"masks: {values}", classes, *ignored, *filter(None, [reading.noise])])


def _label(item: ClassInfo) -> str:
    """A class and its code, unless the name is made of the code."""
    code = _text(item.code)
    return item.name if item.name == f"class {code}" else f"{item.name} {code}"


def _span(codes: tuple[Code, ...]) -> str:
    if len(codes) <= 3:
        return "/".join(_text(code) for code in codes)
    return f"{_text(codes[0])}–{_text(codes[-1])}"


def _parts(code: Code) -> tuple[int, ...]:
    return code if isinstance(code, tuple) else (code,)


def _text(code: Code) -> str:
    return ",".join(map(str, code)) if isinstance(code, tuple) else str(code)


def _words(name: str) -> str:
    return re.sub(r"[\s_\-]+", " ", name).replace("’", "'").strip().lower()


def _is_negative(code: Code) -> bool:
    return not isinstance(code, tuple) and code < 0
