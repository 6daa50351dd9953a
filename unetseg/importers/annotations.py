"""What every reader gives: classes, annotated images and what is wrong with them."""

import re
import unicodedata
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from unetseg.data.masks.mask_file import read_mask
from unetseg.data.pairs.naming import read_folder_name
from unetseg.errors import DataError, MaskError
from unetseg.text import printable

BACKGROUND = "background"
_BACKGROUND_NAMES = frozenset({"background", "_background_", "bg"})

Draw = Callable[[int, int], NDArray[np.uint8]]
"""Height and width of the upright image → class codes, uint8 H×W.

It may raise `MaskError`: the image is then left out, and the summary or all offenders listed.
"""
Model = TypeVar("Model", bound=BaseModel)
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Problem:
    """One thing that keeps an image, or an annotation, from being imported.

    Attributes:
        kind: What is wrong, the same words for all of a kind: `no such image`.
        where: The file or entry, and what it holds.
    """

    kind: str
    where: str

    def __str__(self) -> str:
        return printable(f"{self.kind}: {self.where}")


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and what makes its mask.

    Attributes:
        path: The image file.
        name: What the pair is to be called: relative, with "/" and without suffix. It may come
            from a foreign file as it is; the folder of pairs makes it safe and unique.
        mask: Draws the class codes when asked; or a mask file that is copied as it is.
        split: train, val or test, where the source says; else a folder in `name` may.
        size: Height and width that the source states for the upright image, if it does.
        embedded: Gives the content of the image file where it lies within `path` instead.
    """

    path: Path
    name: str
    mask: Draw | Path
    split: str | None = None
    size: tuple[int, int] | None = None
    embedded: Callable[[], bytes] | None = None


@dataclass(frozen=True)
class Annotations:
    """A data set of another program, read but not drawn yet.

    Attributes:
        classes: The name of each code from 0 on; 255 is ignored and has no name.
        images: Those that can be drawn.
        problems: What is wrong, as far as reading shows it.
        notes: What the reader left out or concluded, one sentence each.
    """

    classes: tuple[str, ...]
    images: Sequence[AnnotatedImage]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def sort_out(
    entries: Iterable[AnnotatedImage | Problem],
) -> tuple[list[AnnotatedImage], list[Problem]]:
    """The images that are annotated once, and the problems; one for each image listed twice."""
    images, problems = [], []
    for entry in entries:
        images.append(entry) if isinstance(entry, AnnotatedImage) else problems.append(entry)
    count = Counter(image.path for image in images)
    twins = {image.path: image.name for image in images if count[image.path] > 1}
    problems += [Problem("image listed several times", name) for name in twins.values()]
    return [image for image in images if count[image.path] == 1], problems


def class_codes(names: Iterable[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes with the background first, and the code of each of `names`.

    A class that is called background already is the background; equal names are one class.

    >>> class_codes(["cat", "Background", "dog"])
    (('background', 'cat', 'dog'), {'cat': 1, 'Background': 0, 'dog': 2})
    """
    classes = [BACKGROUND]
    codes: dict[str, int] = {}
    for name in names:
        if name in codes:
            continue
        is_background = name.strip().lower() in _BACKGROUND_NAMES
        codes[name] = 0 if is_background else len(classes)
        classes += [] if is_background else [name]
    return tuple(classes), codes


# Names


def split_of(*names: str) -> str | None:
    """The split that the name of a file or folder says, the first of several.

    >>> split_of("instances_train2017"), split_of("trainval"), split_of("photos", "val")
    ('train', None, 'val')
    """
    for name in names:
        split = read_folder_name(name).split
        if split and "trainval" not in re.findall("[a-z]+", name.lower()):
            return split
    return None


def same_name(name: str) -> str:
    """What file systems that ignore case or Unicode form take for the same name."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def name_in(source: Path, path: Path) -> str:
    """What errors call the file `path` of `source`, which may be an archive unpacked elsewhere."""
    return printable(path.relative_to(source) if source in path.parents else path.name)


# Reading


def visible_files(folder: Path, pattern: str) -> list[Path]:
    """The files below `folder` that match `pattern`, in order, hidden ones left out."""
    return [
        path
        for path in sorted(folder.rglob(pattern))
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    ]


def holds(path: Path, *words: bytes) -> bool:
    """Whether a file holds all of `words` anywhere: a glance at a JSON before it is parsed."""
    content = path.read_bytes()
    return all(word in content for word in words)


def read_model(path: Path, model: type[Model], name: str) -> Model:
    """Read the JSON file `path` as `model`, a pydantic model of what is needed of it.

    Args:
        path: The file.
        model: What it has to hold.
        name: What errors call it.

    Raises:
        DataError: it is no JSON, or has other contents; all faults listed.
    """
    try:
        return model.model_validate_json(path.read_bytes().removeprefix(BOM_UTF8))
    except ValidationError as error:
        faults = [
            printable(": ".join([*filter(None, [".".join(map(str, fault["loc"]))]), fault["msg"]]))
            for fault in error.errors(include_input=False)
        ]
        fix = "Check the name of the format, or export the annotations again."
        raise DataError(f"{name} is not what this format has", faults, fix) from error


# Drawing


def draw_each(
    items: Iterable[Item], draw: Callable[[Item], Result], name: Callable[[Item], str]
) -> list[Result]:
    """What `draw` makes of each item.

    Raises:
        MaskError: some cannot be drawn; all of them are listed by their names.
    """
    results = []
    faults = []
    for item in items:
        try:
            results.append(draw(item))
        except MaskError as error:
            faults += [f"{name(item)}{reason}" for reason in reasons(error)]
    if faults:
        raise MaskError("annotations cannot be drawn", faults)
    return results


def reasons(error: DataError) -> list[str]:
    """What is wrong with an image or mask; files are called by their names alone."""
    if error.offenders or not error.paths:
        return error.offenders or [error.summary]
    reason = error.came if isinstance(error.came, str) else error.code.replace("-", " ")
    return [f"{path.name} cannot be read: {reason}" for path in error.paths]


def mask_pixels(path: Path, height: int, width: int) -> NDArray[Any]:
    """The values of the mask file `path`, H×W.

    Raises:
        MaskError: the file cannot be read, has colours, or another size.
    """
    pixels = read_mask(path).pixels
    check_size(path, pixels, height, width)
    return pixels


def check_size(path: Path, pixels: NDArray[Any], height: int, width: int) -> None:
    """See that the pixels of the mask file `path` are H×W numbers.

    Raises:
        MaskError: they are not.
    """
    if pixels.shape != (height, width):
        came = "×".join(map(str, pixels.shape))
        raise MaskError(f"{path.name} is {came}, expected {height}×{width}")
