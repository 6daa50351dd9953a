"""The classes of a folder in the app: begun before there is a mask, appended afterwards."""

from collections.abc import Sequence

from unetseg.data.masks.class_list import NamedClass
from unetseg.data.masks.class_map import ClassInfo, ClassMap, Coding, Colour
from unetseg.data.masks.infer_classes import distinct_colours
from unetseg.data.masks.listed_classes import background_by_name, stated_background
from unetseg.errors import DataError, MaskError

IGNORE = 255
"""The code of pixels without a truth in a folder whose masks are begun here."""
COLOURS: tuple[Colour, ...] = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)),
    *((0, 114, 178), (213, 94, 0), (204, 121, 167)),
)
"""Told apart by colour-blind eyes too (Okabe and Ito 2002)."""


def begun_classes(entries: Sequence[NamedClass], stated: str | None) -> ClassMap:
    """The classes of masks that do not exist yet, with the codes of a list or 0, 1, 2 ….

    Args:
        entries: The classes.
        stated: The background, by name or code, or "none"; None: what the names say.

    Raises:
        MaskError: there is no such background, or there can be no such masks.
    """
    names = [entry.name for entry in entries]
    codes = [number if one.code is None else one.code for number, one in enumerate(entries)]
    if stated is None:
        background = background_by_name(names)
    else:
        background = stated_background(stated, names, codes)
    colours = list(dict.fromkeys([*COLOURS, *distinct_colours(len(entries))]))
    if background is not None:
        colours.insert(background, (0, 0, 0))
    infos = tuple(
        ClassInfo(name=entry.name, code=code, colour=entry.colour or colour)
        for entry, code, colour in zip(entries, codes, colours, strict=False)
    )
    coding: Coding = "rgb" if any(isinstance(code, tuple) for code in codes) else "integer"
    ignore = (IGNORE,) if coding == "integer" and IGNORE not in codes else ()
    try:
        return ClassMap(classes=infos, ignore=ignore, coding=coding, background=background)
    except ValueError as error:
        raise MaskError(f"the class list does not do for new masks: {error}") from error


def appended_classes(there: ClassMap | None, entries: Sequence[NamedClass]) -> ClassMap:
    """The classes there are, in other colours where these are free, and new ones after them.

    Raises:
        DataError: the names of those there are differ, or their codes are no plain numbers.
    """
    if there is None or there.names != tuple(e.name for e in entries[: len(there.names)]):
        fix = "Add classes after those there are; their names and order stay."
        raise DataError("masks exist with the classes there are", fix=fix, code="classes")
    further = there.objects or there.numbers or there.united or there.snap
    if there.coding != "integer" or further:
        fix = "Add the class to the class list of the folder, with a code of its own."
        raise DataError("only masks of plain class numbers get a class here", fix=fix)
    taken = {*(info.code for info in there.classes), *there.ignore}
    free = (code for code in range(1, IGNORE) if code not in taken)
    infos = [
        info.model_copy(update={"colour": entry.colour or info.colour})
        for info, entry in zip(there.classes, entries, strict=False)
    ]
    infos += [
        ClassInfo(name=entry.name, code=next(free), colour=entry.colour or (128, 128, 128))
        for entry in entries[len(infos) :]
    ]
    return there.model_copy(update={"classes": tuple(infos)})
