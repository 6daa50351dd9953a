"""A class list applied: its classes with the codes that they have in the masks of a folder."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from unetseg.data.masks.class_list import ClassNames
from unetseg.data.masks.class_map import BLACK, Code, Coding, Colour
from unetseg.data.masks.mask_values import Folder, integers, is_negative, some
from unetseg.data.masks.stray_values import separate
from unetseg.errors import MaskError
from unetseg.text import printable

_IGNORE_WORDS = re.compile(r"\b(void|ignored?|unlabell?ed|don'?t ?care)\b")
_BACKGROUND_NAMES = frozenset({"background", "bg"})
_REST_NAMES = frozenset({"other", "others", "rest", "clutter", "nothing", "none"})


@dataclass(frozen=True)
class ListedClass:
    """A class with its code in this folder; without a name where no list gives one."""

    code: Code
    name: str = ""
    colour: Colour | None = None
    also: tuple[Code, ...] = ()


def possible_codes(ignore: Sequence[int], folder: Folder) -> tuple[Code, ...]:
    """The codes that the user ignores, but for those that none of these masks can hold."""
    limits = [np.iinfo(dtype) for dtype in {fact.dtype for fact in folder.facts}]
    possible = [code for code in ignore if any(kind.min <= code <= kind.max for kind in limits)]
    return tuple(dict.fromkeys(_adapt(code, None, folder) for code in possible))


def listed_classes(
    names: ClassNames, folder: Folder, ignored: tuple[Code, ...], numbers: int | None
) -> tuple[ListedClass, ...]:
    """`_adapted`, of a list that may count 1, 2, 3 where the folder's codes are class × 256."""
    stated = [*integers(names.codes)]
    is_in_full = bool(stated) and not any(code % 256 for code in stated)
    if numbers != 256 or is_in_full:
        return _adapted(names, folder, ignored)

    def in_full(code: Code) -> Code:
        return code if isinstance(code, tuple) else code * 256

    def counted(code: Code) -> Code:
        return code if isinstance(code, tuple) or code in ignored else code // 256

    return tuple(
        replace(item, code=in_full(item.code), also=tuple(map(in_full, item.also)))
        for item in _adapted(names, folder.recoded(counted), ignored)
    )


def _adapted(
    names: ClassNames, folder: Folder, ignored: tuple[Code, ...]
) -> tuple[ListedClass, ...]:
    """The classes of a list with the codes that they have in this folder, and printable names.

    Where 0 (of RGB: black) is none of them, and none is the background, it is the background. That
    of another program's list comes first.
    """
    _check_reach(names)
    has_colours = any(isinstance(e.code, tuple) and len({*e.code}) > 1 for e in names.entries)
    if names.guessed and folder.coding == "integer" and has_colours:  # for pictures alone
        bare = tuple(replace(entry, code=None, also=()) for entry in names.entries)
        names = replace(names, entries=bare)
    black: Code = BLACK if folder.coding == "rgb" else 0
    present = separate(folder, ignored).centres if folder.lossy else folder.found
    ground = named_background([entry.name for entry in names.entries])
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
        ListedClass(
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
    return (ListedClass(black, "unlabelled" if is_other else "background"), *classes)


def _check_reach(names: ClassNames) -> None:
    """Refuse codes that no mask can hold."""
    limits = np.iinfo(np.int32)
    wrong = [
        f"{printable(entry.name)}: {code}"
        for entry in names.entries
        for code in (entry.code, *entry.also)
        if isinstance(code, int) and not limits.min <= code <= limits.max
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
    found = [code for code in present if code not in ignored and not is_negative(code)]
    small = [code for code in found if code != 255]
    has_border = is_border(small, folder.coding)
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


def is_border(others: Sequence[Code], coding: Coding) -> bool:
    """Whether 255 beside `others` marks pixels without a truth, as in VOC, and no class."""
    if len(others) < 2 or coding == "rgb":
        return False
    return 1 in others or coding == "palette" or max(integers(others)) <= 63


def named_background(names: Sequence[str]) -> int | None:
    """Which class is the background by its name, if one is."""
    exact = (i for i, name in enumerate(names) if _BACKGROUND_NAMES.intersection(_parts(name)))
    vague = (i for i, name in enumerate(names) if is_void(name))
    return next(chain(exact, vague), None)


def stated_background(stated: str, names: Sequence[str], codes: Sequence[Code]) -> int | None:
    """Which class is the background by its name or code; None for "none".

    Raises:
        MaskError: there is no class of that name or code.
    """
    known = [*names, *map(code_text, codes)]
    if stated in known:
        return known.index(stated) % len(names)
    if stated == "none":
        return None
    told = f"there is no class {stated!r} to be the background"
    raise MaskError(told, fix=f"Name one of {some(names)}, or none.")


def background_by_name(names: Sequence[str]) -> int | None:
    """As `named_background`, or what is called "other" where no class is called background.

    >>> background_by_name(["road", "other", "tree"]), background_by_name(["sky", "road"])
    (1, None)
    """
    rest = (i for i, name in enumerate(names) if _REST_NAMES.intersection(_parts(name)))
    ground = named_background(names)
    return next(rest, None) if ground is None else ground


def code_text(code: Code) -> str:
    """A code as one writes it: 3, or 255,0,0."""
    return ",".join(map(str, code)) if isinstance(code, tuple) else str(code)


def is_void(name: str) -> bool:
    """Whether pixels of a class of this name have no truth: void, ignore, unlabelled, …."""
    return bool(_IGNORE_WORDS.search(_words(name)))


def _parts(name: str) -> list[str]:
    """The names in one such as clutter/background."""
    return [_words(part) for part in re.split(r"[/,]", name)]


def _words(name: str) -> str:
    return re.sub(r"[\s_\-]+", " ", name).replace("’", "'").strip().lower()
