"""From the values of a folder of masks to its `ClassMap`, with the conclusion in one sentence.

Which values are classes and which stray, `stray_values` says; what a class list makes of them,
`listed_classes`; and where they number objects, `numbered_objects`.
"""

import colorsys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import ValidationError

from unetseg.data.masks.class_list import ClassNames
from unetseg.data.masks.class_map import (
    BLACK,
    MAX_CLASSES,
    ClassInfo,
    ClassMap,
    Code,
    Colour,
    class_code,
    coding_name,
)
from unetseg.data.masks.listed_classes import (
    ListedClass,
    background_by_name,
    code_text,
    is_border,
    is_void,
    listed_classes,
    possible_codes,
    stated_background,
)
from unetseg.data.masks.mask_values import (
    Folder,
    MaskFacts,
    as_point,
    gather,
    integers,
    is_negative,
    some,
)
from unetseg.data.masks.numbered_objects import (
    OBJECTS,
    begin_anew,
    numbers_per_class,
    object_numbers,
)
from unetseg.data.masks.stray_values import (
    NUMBERS,
    SOLID,
    Reading,
    Separation,
    read_listed,
    read_values,
    separate,
)
from unetseg.errors import MaskError

_SHOWN = 6  # classes that the sentence lists
_EVERYWHERE = 0.9  # share of the masks that hold a background; a tile may lie within an object
# Sasha Trubetskoy, "20 simple, distinct colors", without black and white
_COLOURS: tuple[Colour, ...] = (
    *((230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48)),
    *((145, 30, 180), (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212)),
    *((0, 128, 128), (220, 190, 255), (170, 110, 40), (255, 250, 200), (128, 0, 0)),
    *((170, 255, 195), (128, 128, 0), (255, 215, 180), (0, 0, 128), (128, 128, 128)),
)


@dataclass(frozen=True)
class _Meaning:
    """What the codes are: classes in order, ignored ones with their names, the background."""

    classes: tuple[ListedClass, ...]
    ignore: dict[Code, str]
    background: int | None = None


def infer_class_map(
    facts: Sequence[MaskFacts],
    *,
    names: ClassNames | None = None,
    ignore: Sequence[int] = (),
    snap: bool = False,
    objects: bool = False,
    background: str | None = None,
) -> tuple[ClassMap, str]:
    """Conclude from all masks what their values mean, and say it in one line.

    Classes are those of `names`, else every code there is. Ignored are the codes in `ignore`, the
    no-data values that files declare, negative codes, 255 beside small class numbers, and classes
    called void, ignore, unlabelled or don't care. JPEG noise is snapped to the classes by itself,
    other stray values with `snap`. Masks that number objects, as `objects` or the numbers
    themselves say, show a single class.

    Raises:
        MaskError: the masks contradict each other or `names`, or they hold noise, fewer than two
            classes or more than 254, or no class is the stated `background`.
    """
    folder = gather(facts)
    ignored = possible_codes(ignore, folder)
    objects = objects and begin_anew(folder)
    ignored = (*ignored, *_declared(folder, names, ignored))
    if not names and (objects or max(object_numbers(folder, ignored), default=0) > OBJECTS):
        return _one_class_of_objects(folder, ignored)
    stated = {*names.codes} if names else set()
    numbers = None if stated.issuperset(folder.found) else numbers_per_class(folder, ignored)
    if numbers:
        folder = folder.recoded(
            lambda code: code if code in ignored else int(class_code(np.array(code), numbers))
        )
    named = listed_classes(names, folder, ignored, numbers) if names else ()
    united = _further_codes(folder, named, ignored)
    if united:
        folder = folder.recoded(lambda code: united.get(code, code))
    values = separate(folder, ignored)
    if named:
        reading = read_listed(folder, tuple(item.code for item in named), ignored, snap=snap)
    else:
        reading = read_values(folder, values, snap=snap)
    meaning = _interpret(folder, reading, named, ignored)
    if names:
        _check_strangers(folder, values, reading, meaning, names)
    _check_scale(folder, meaning, ignored)
    _check_number(folder, meaning)
    ground = _background(folder, meaning, background, named=bool(named))
    meaning = replace(meaning, background=ground)
    class_map = _build(folder, reading, meaning, united, numbers)
    told = [f"{code_text(code)} counts as {code_text(meant)}" for code, meant in united.items()]
    told = told[:_SHOWN]
    forms = Counter(fact.form for fact in folder.facts if fact.form)
    told += [f"{count} of {len(facts)} {form}" for form, count in forms.items()]
    if names and len(named) > len(names.entries):
        told.append(f"{names.source} does not name {code_text(named[0].code)}")
    if numbers:
        told.append(f"the codes are class × {numbers} + number of the object, which does not count")
    return class_map, ", ".join([_sentence(reading, meaning, class_map, names), *told])


def _declared(
    folder: Folder, names: ClassNames | None, ignored: tuple[Code, ...]
) -> tuple[Code, ...]:
    """The no-data values of the files that no class list names, where two other codes are left."""
    if folder.coding == "rgb":
        return ()
    named = {*names.codes} if names else ()
    values = dict.fromkeys(fact.nodata for fact in folder.facts if fact.nodata is not None)
    blank = [v for v in values if v in folder.found and v not in named and v not in ignored]
    return tuple(blank) if len({*folder.found} - {*blank, *ignored}) > 1 else ()


def distinct_colours(count: int, background: int | None = None) -> list[Colour]:
    """`count` (at most 254) distinct colours, black the `background` alone: a list, then hues."""
    colours = list(_COLOURS)
    for turn in range(count):
        hue, tone, light = 0.381966 * turn % 1, 0.5 + 0.15 * (turn % 4), 0.95 - 0.1 * (turn % 5)
        red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, tone, light))
        colours.append((red, green, blue))
    colours = list(dict.fromkeys(colours))
    if background is not None:
        colours.insert(background, BLACK)
    return colours[:count]


# What the codes are


def _interpret(
    folder: Folder, reading: Reading, named: tuple[ListedClass, ...], ignored: tuple[Code, ...]
) -> _Meaning:
    """Tell classes from ignored codes."""
    found = folder.found if named and not folder.lossy else reading.codes
    stated = tuple(item.code for item in named)
    ignore: dict[Code, str] = dict.fromkeys(ignored, "")
    ignore |= dict.fromkeys((code for code in found if is_negative(code)), "")
    others = [code for code in stated or found if code not in ignore and code != 255]
    merged = folder.lossy or (reading.noise and not named)
    if 255 in found and not merged and is_border(others, folder.coding):
        ignore[255] = ""
    ignore = {code: name for code, name in ignore.items() if code in ignored or code not in stated}
    void = {item.code: item.name for item in named if is_void(item.name)}
    if sum(item.code not in {*void, *ignore} for item in named) > 1:
        ignore |= void  # else such a class is the background of a single other
    entries = named or tuple(ListedClass(code) for code in reading.codes)
    classes = tuple(item for item in entries if item.code not in ignore)
    return _Meaning(classes, ignore)


def _background(
    folder: Folder, meaning: _Meaning, stated: str | None, *, named: bool
) -> int | None:
    """Which class is the background, which alone is left out of means over the foreground.

    It is the class of the `stated` name or code, or none where that is "none". Else names tell it
    (background, void, other). Without names it is 0 or black if there are two classes, or if it has
    most of the pixels and nearly every mask holds it; of two classes without a 0 it is the first.

    Raises:
        MaskError: there is no class of the stated name or code.
    """
    names = [item.name or f"class {code_text(item.code)}" for item in meaning.classes]
    if stated is not None:
        return stated_background(stated, names, [item.code for item in meaning.classes])
    if named:
        return background_by_name(names)
    dark = next((i for i, item in enumerate(meaning.classes) if item.code in (0, BLACK)), None)
    if len(names) == 2:
        return dark or 0
    return dark if dark is not None and _lies_around(folder, meaning, dark) else None


def _lies_around(folder: Folder, meaning: _Meaning, index: int) -> bool:
    """Whether a class has most of the pixels of all classes, and nearly every mask holds it."""
    code = meaning.classes[index].code
    pixels = sum(folder.counts[item.code] for item in meaning.classes)
    is_everywhere = folder.files[code] >= _EVERYWHERE * len(folder.facts)
    return is_everywhere and folder.counts[code] > pixels / 2


def _check_strangers(
    folder: Folder, values: Separation, reading: Reading, meaning: _Meaning, names: ClassNames
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


def _further_codes(
    folder: Folder, named: tuple[ListedClass, ...], ignored: tuple[Code, ...]
) -> dict[Code, Code]:
    """Codes that count as others: those of a listed class beyond its first, or twins."""
    if not named and not ignored:
        return _exclusive_twins(folder)
    return {
        code: item.code for item in named for code in item.also if code not in (item.code, *ignored)
    }


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


def _one_class_of_objects(folder: Folder, ignored: tuple[Code, ...]) -> tuple[ClassMap, str]:
    """The class map of masks that number objects: 0 is the background, all else is an object."""
    is_rgb = folder.coding == "rgb"
    black: Code = BLACK if is_rgb else 0
    negative = (code for code in folder.found if is_negative(code))
    ignored = tuple(dict.fromkeys((*ignored, *negative)))
    shown = [code for code, _ in folder.counts.most_common() if code not in ignored]
    ground = black if black in shown or not shown else shown[0]
    white: Code = (255, 255, 255) if is_rgb else 1
    code = white if white != ground else black
    classes = (ListedClass(ground, "background"), ListedClass(code, "object"))
    if 255 not in ignored and max({*integers(folder.found)} - {255}, default=255) < NUMBERS:
        ignored = (*ignored, 255) if 255 in folder.found else ignored
    meaning = _Meaning(classes, dict.fromkeys(ignored, ""), 0)
    numbers = sorted(set(folder.found) - {ground, *ignored}, key=as_point)
    class_map = _build(folder, Reading(folder.found), meaning, {}, None)
    values = f"{_span(tuple(numbers))} {coding_name(folder.coding)}"
    blank = "".join(f", {code_text(code)} is ignored" for code in meaning.ignore)
    return class_map.model_copy(update={"objects": True}), (
        f"masks: {values} number objects, not classes: one class of all, object {code_text(code)}, "
        f"and background {code_text(ground)}{blank}; "
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


def _build(
    folder: Folder,
    reading: Reading,
    meaning: _Meaning,
    united: dict[Code, Code],
    numbers: int | None,
) -> ClassMap:
    """The class map; `united` are codes that count as others, `numbers` as of `ClassMap`."""
    colours = _class_colours(folder, meaning)
    classes = [
        ClassInfo(name=_name(meaning, i, numbers), code=item.code, colour=colours[i])
        for i, item in enumerate(meaning.classes)
    ]
    place = {item.code: i for i, item in enumerate(classes)}
    ignore = [*meaning.ignore, *(code for code, meant in united.items() if meant not in place)]
    dtype = _dtype([*place, *ignore, *united])
    is_tiff = all(fact.suffix in {".tif", ".tiff"} for fact in folder.facts)
    parts: dict[str, Any] = {
        "classes": classes,
        "ignore": ignore,
        "coding": folder.coding,
        "dtype": dtype,
        "palette": folder.palette,
        "background": meaning.background,
        "snap": reading.snap,
        "united": [(code, place[meant]) for code, meant in united.items() if meant in place],
        "numbers": numbers,
        "suffix": ".tif" if is_tiff or dtype in {"int16", "int32"} else ".png",
    }
    try:
        return ClassMap.model_validate(parts)
    except ValidationError as error:
        faults = [fault["msg"] for fault in error.errors()]
        fix = "Fix the class list."
        raise MaskError("the class list does not fit these masks", faults, fix) from error


def _name(meaning: _Meaning, index: int, numbers: int | None) -> str:
    item = meaning.classes[index]
    if item.name:
        return item.name
    if index == meaning.background:
        return "background"
    if len(meaning.classes) == 2 and meaning.background is not None:
        return "foreground"
    if numbers == 256 and isinstance(item.code, int):
        return f"class {item.code // 256}"
    return f"class {code_text(item.code)}"


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
    return distinct_colours(len(own), meaning.background)


def _own_colour(item: ListedClass, folder: Folder) -> Colour | None:
    if isinstance(item.code, tuple):
        return item.code
    if folder.palette and 0 <= item.code < 256:
        return folder.colour(item.code)
    return item.colour


def _sentence(
    reading: Reading, meaning: _Meaning, class_map: ClassMap, names: ClassNames | None
) -> str:
    """The conclusion and its evidence, in one line."""
    count = len(class_map.classes)
    shown = ", ".join(_label(item) for item in class_map.classes[:_SHOWN])
    values = f"{_span(reading.codes)} {coding_name(class_map.coding)}"
    source = f" by {names.source}" if names else ""
    classes = f"{count} classes{source} ({shown}{', …' if count > _SHOWN else ''})"
    ignored = [
        f"{code_text(code)}{' = ' if name else ''}{name} is ignored"
        for code, name in meaning.ignore.items()
    ]
    return ", ".join([f"masks: {values}", classes, *ignored, *filter(None, [reading.noise])])


def _label(item: ClassInfo) -> str:
    """A class and its code, unless the name is made of the code."""
    code = code_text(item.code)
    return item.name if item.name == f"class {code}" else f"{item.name} {code}"


def _span(codes: tuple[Code, ...]) -> str:
    if len(codes) <= 3:
        return "/".join(code_text(code) for code in codes)
    return f"{code_text(codes[0])}–{code_text(codes[-1])}"


def _parts(code: Code) -> tuple[int, ...]:
    return code if isinstance(code, tuple) else (code,)
