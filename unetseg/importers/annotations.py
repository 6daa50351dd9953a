"""What every reader gives: classes, annotated images and what is wrong with them."""

import re
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from unetseg.data.pairs.naming import read_folder_name
from unetseg.errors import DataError
from unetseg.text import printable

BACKGROUND = "background"
_BACKGROUND_NAMES = frozenset({"background", "_background_", "bg"})

Draw = Callable[[int, int], NDArray[np.uint8]]
"""Height and width of the upright image → class codes, uint8 H×W.

It may raise `MaskError`: the image is then left out, and the summary or all offenders listed.
"""
Model = TypeVar("Model", bound=BaseModel)


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
        problems: What was found wrong while reading.
        notes: What the reader left out or concluded, one sentence each.
    """

    classes: tuple[str, ...]
    images: Sequence[AnnotatedImage]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def without_twins(
    images: Sequence[AnnotatedImage],
) -> tuple[list[AnnotatedImage], list[Problem]]:
    """The images that are annotated once, and a problem for each that is listed several times."""
    count = Counter(image.path for image in images)
    names = {image.path: image.name for image in images if count[image.path] > 1}
    problems = [Problem("image listed several times", name) for name in names.values()]
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


def split_of(name: str) -> str | None:
    """The split that the name of a file or folder says.

    >>> split_of("instances_train2017"), split_of("trainval"), split_of("photos")
    ('train', None, None)
    """
    words = re.findall("[a-z]+", name.lower())
    return None if "trainval" in words else read_folder_name(name).split


def visible_files(folder: Path, pattern: str) -> list[Path]:
    """The files below `folder` that match `pattern`, in order, hidden ones left out."""
    return [
        path
        for path in sorted(folder.rglob(pattern))
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    ]


def mentions(path: Path, words: Sequence[bytes]) -> bool:
    """Whether a file holds all of `words` anywhere: a glance at a JSON before it is parsed.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{printable(path)} cannot be read: {error.strerror}") from error
    return all(word in content for word in words)


def read_model(path: Path, model: type[Model]) -> Model:
    """Read the JSON file `path` as `model`, a pydantic model of what is needed of it.

    Raises:
        DataError: the file cannot be read, is no JSON, or has other contents; all faults listed.
    """
    try:
        return model.model_validate_json(path.read_bytes().removeprefix(BOM_UTF8))
    except OSError as error:
        raise DataError(f"{printable(path)} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        lines = [_fault(fault["loc"], fault["msg"]) for fault in error.errors(include_input=False)]
        raise DataError(
            f"{printable(path)} is not what this format has",
            lines,
            "Check the name of the format, or export the annotations again.",
        ) from error


def _fault(place: Sequence[int | str], message: str) -> str:
    """One fault of a JSON file: `annotations.3.image_id: Field required`."""
    where = ".".join(str(part) for part in place)
    return printable(f"{where}: {message}" if where else message)
