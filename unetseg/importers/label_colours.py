"""Masks painted in the colours of a labelmap.txt, and the class codes of these colours.

The file is datumaro's: a line `name:r,g,b:parts:actions` for each label, `#` before comments. Masks
are RGB, a palette of the same colours, or plain numbers, which count the lines from 0 on.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetseg.data.masks.class_map import Colour, pack, runs, unpack
from unetseg.data.masks.mask_file import read_mask
from unetseg.errors import DataError, MaskError
from unetseg.importers.annotations import class_codes
from unetseg.text import printable

BLACK: Colour = (0, 0, 0)

_LINE = re.compile(r"([^:]+(?::[^:]+)*?)\s*:\s*(\d+\s*,\s*\d+\s*,\s*\d+)?\s*((?::[^:]*)*)")
_FIX = "Write lines such as road:128,64,128::, each with a name and a colour of its own."


@dataclass(frozen=True)
class LabelColours:
    """Classes, and the code of each colour and of each line of labelmap.txt.

    Attributes:
        classes: The name of each code, the background first.
        by_colour: The code of each colour. The label that is black is the background, whatever it
            is called, unless another is called so.
        by_line: The code of each line.
    """

    classes: tuple[str, ...]
    by_colour: Mapping[Colour, int]
    by_line: Sequence[int]


def read_labelmap(path: Path) -> LabelColours:
    """Read a labelmap.txt; the classes have its order, the background comes first.

    Raises:
        DataError: it cannot be read, or lines are wrong or clash; all of them are listed.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{printable(path)} cannot be read: {error}") from error
    stated = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    labels: dict[str, Colour] = {}
    faults = []
    for line in stated:
        name, colour, fault = _read_line(line, labels)
        labels[name] = colour
        faults += [f"{line}: {fault}"] if fault else []
    if faults or not labels:
        raise DataError(f"{printable(path)} is no list of labels and colours", faults, _FIX)
    classes, codes = _classes(labels)
    by_colour = {BLACK: 0} | {colour: codes[name] for name, colour in labels.items()}
    return LabelColours(classes, by_colour, [codes[name] for name in labels])


def read_painted(path: Path, labels: LabelColours) -> NDArray[np.uint8]:
    """The class codes of a mask file, H×W.

    Raises:
        MaskError: the file cannot be read, or has colours or numbers of no label; all are named.
    """
    mask = read_mask(path)
    if mask.coding == "rgb":
        packed = pack(mask.pixels)
    elif mask.palette is not None:
        packed = pack(np.array(mask.palette, np.uint8).reshape(256, 3))[mask.pixels]
    else:
        return _by_line(mask.pixels, labels, path)
    values, inverse, lengths = runs(packed.ravel())
    colours = [colour for colour in unpack(values, "rgb") if isinstance(colour, tuple)]
    strange = [",".join(map(str, colour)) for colour in colours if colour not in labels.by_colour]
    if strange:
        raise _unknown(path, "colours", strange)
    codes = np.array([labels.by_colour[colour] for colour in colours], np.uint8)
    return np.repeat(codes[inverse], lengths).reshape(packed.shape)


def _read_line(line: str, before: Mapping[str, Colour]) -> tuple[str, Colour, str]:
    """Name and colour of one line, and what is wrong with it, if anything is."""
    found = _LINE.fullmatch(line)
    if found is None or found[2] is None:
        return line, BLACK, "expected name:r,g,b::"
    red, green, blue = (int(part) for part in found[2].split(","))
    name, colour = found[1].strip(), (red, green, blue)
    if max(colour) > 255:
        return name, colour, "expected colours from 0 to 255"
    if name in before:
        return name, colour, "the name is there twice"
    twin = next((other for other, taken in before.items() if taken == colour), None)
    return name, colour, f"{twin} has the same colour" if twin else ""


def _classes(labels: Mapping[str, Colour]) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes, and the code of each label."""
    classes, codes = class_codes(labels)
    black = [name for name, colour in labels.items() if colour == BLACK]
    if not black or 0 in codes.values():
        return classes, codes
    names = (*black, *(name for name in labels if name not in black))
    return names, {name: code for code, name in enumerate(names)}


def _by_line(pixels: NDArray[np.integer], labels: LabelColours, path: Path) -> NDArray[np.uint8]:
    """The codes of pixels that are grey colours, if all are, or else numbers of lines."""
    values, inverse, lengths = runs(pixels.ravel())
    numbers = values.tolist()
    greys = [labels.by_colour.get((number, number, number)) for number in numbers]
    codes: list[int | None] = greys
    if None in greys:
        known = dict(enumerate(labels.by_line))
        codes = [known.get(number) for number in numbers]
    strange = [str(n) for n, code in zip(numbers, codes, strict=True) if code is None]
    if strange:
        raise _unknown(path, "numbers", strange)
    return np.repeat(np.array(codes, np.uint8)[inverse], lengths).reshape(pixels.shape)


def _unknown(path: Path, what: str, strange: Sequence[str]) -> MaskError:
    return MaskError(f"{path.name} has {what} of no label: {'; '.join(strange)}")
