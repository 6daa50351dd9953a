"""One mask file for each object, or numbered objects: united to one mask for each image.

Layouts are those of `mask_sets`: `ID/images/ID.png` with `ID/masks/*.png`, as in the 2018 Data
Science Bowl (https://www.kaggle.com/c/data-science-bowl-2018/data); `images/ID.png` with
`masks/ID/*.png`; `ID.png` with `ID_mask.png` and `ID_mask_1.png`; left and right halves in two
folders; and `masks/ID.png` or `ID_label.png`, whose pixels number the objects from 1 on. A pixel is
foreground where any of the files is not 0. Where the name of every file of an object ends in a
number and a word (`0001_car.png`), the words are the classes.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from unetseg.data.files.pages import MaskSet
from unetseg.data.masks.mask_file import mask_of_image
from unetseg.data.pairs.mask_sets import find_masks, show_background, tell_classes, tell_objects
from unetseg.data.pairs.naming import says_mask
from unetseg.errors import MaskError
from unetseg.importers.annotations import (
    FOREGROUND,
    AnnotatedImage,
    Classes,
    Entry,
    Note,
    Problem,
    Shape,
    check_size,
)
from unetseg.importers.shapes import Patch, Size, crop
from unetseg.text import printable

_CLASS = re.compile(r"(?:.*[_\-.])?\d+[_\-.]([A-Za-z]+)")  # 0001_car


def recognises(source: Path) -> bool:
    """Whether there are images with several masks, whose names say no classes."""
    sets = find_masks(source) if source.is_dir() else None
    return sets is not None and tell_objects(sets) and not tell_classes(sets)


def read(source: Path, images: Path | None = None) -> Iterator[Entry]:
    """Read the masks of objects below `source`, and find the image of each.

    An image whose folder of masks is empty shows no objects; one without such a folder is a
    problem, unless it is in a test split that has no masks at all.

    Raises:
        DataError: a folder cannot be read, or the masks show the background.
    """
    sets = find_masks(source, images)
    if show_background(sets):
        came = f"the masks of an image in {printable(source)} share most of its pixels"
        raise MaskError(came, fix="Save masks in which the background is 0, and the object is not.")
    objects = {
        key: [mask.path for mask in masks if mask.says_mask or not sets.are_beside]
        for key, masks in sets.masks.items()
    }
    others = sum(map(len, sets.masks.values())) - sum(map(len, objects.values()))
    yield Note(others, "file", "left out: they lie beside images, and say no mask")
    words = {_word(path) for paths in objects.values() for path in paths}
    has_words = bool(words) and "" not in words and not sets.named_alike
    yield Classes(sorted(words) if has_words else [FOREGROUND])
    yield "touching objects of one class merge: these masks tell classes, not objects"
    if has_words and len(words) > 1:
        yield "where objects overlap, the one whose file name comes last counts"
    together = {frozenset(mask.folder for mask in masks) for masks in sets.masks.values()}
    for folders in sorted(sorted(several) for several in together if len(several) > 1):
        yield f"masks of one image in several folders are united: {', '.join(folders)}"
    alike = len(sets.named_alike)
    yield Note(alike, "mask", "with the name of an image: all but 0 is foreground")
    for path in sets.strays:
        yield Problem("no such image", str(path.relative_to(source)))
    for key in sorted(objects.keys() - set(sets.twins)):
        shapes = [
            Shape(_word(path) if has_words else FOREGROUND, partial(object_patch, path))
            for path in objects[key]
        ]
        yield AnnotatedImage(sets.photos[key], key.name, shapes, key.split)
        yield Note(not shapes, "image", "with an empty folder of masks: all background")
    has_test = any(key.split == "test" for key in objects)
    for key in sorted(sets.photos.keys() - objects.keys()):
        if key.split == "test" and not has_test:
            yield Note(1, "image", "of the test split left out: it has no masks")
        else:
            yield Problem("no masks", key.name)
    yield from (Problem("several images of one name", key.name) for key in sets.twins)


def object_patch(path: Path, size: Size) -> Patch:
    """The pixels of the objects in a file."""
    covered = mask_of_image(MaskSet((path,), (1,)), *size).pixels > 0
    check_size(path, covered, *size)
    return crop(covered)


def _word(path: Path) -> str:
    """The class that the name of an object's file says, or nothing.

    >>> _word(Path("0001_car.png")), _word(Path("0001.png")), _word(Path("0001_mask.png"))
    ('car', '', '')
    """
    parts = _CLASS.fullmatch(path.stem)
    return parts[1] if parts and not says_mask(parts[1]) else ""
