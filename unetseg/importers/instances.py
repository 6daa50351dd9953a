"""One mask file for each object, or numbered objects: united to one mask for each image.

Three layouts are known: `ID/images/ID.png` with `ID/masks/*.png`, as in the 2018 Data Science Bowl
(https://www.kaggle.com/c/data-science-bowl-2018/data); `images/ID.png` with `masks/ID/*.png`; and
`images/ID.png` with `masks/ID.png`, whose pixels number the objects from 1 on. A pixel is
foreground where any of the files is not 0. Where the name of every file of an object ends in a
number and a word (`0001_car.png`), the words are the classes.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetseg.data.files.folders import scan
from unetseg.data.masks.mask_file import RawMask
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
    mask_of_image,
)
from unetseg.importers.shapes import Patch, Size, crop
from unetseg.importers.source_files import (
    Folders,
    ImageKey,
    by_key,
    folder_roles,
    photos_below,
    without_role,
)

_CLASS = re.compile(r"(?:.*[_\-.])?\d+[_\-.]([A-Za-z]+)")  # 0001_car
_HALF = 128  # from this value on, a pixel with JPEG noise is of the object


def recognises(source: Path) -> bool:
    """Whether there are images with several masks each, or with a folder of masks."""
    if source.is_file():
        return False
    photos, _ = by_key(photos_below(source))
    objects, numbered, _ = _find_objects(source, None, photos)
    return any(len(paths) > 1 for key, paths in objects.items() if key not in numbered)


def read(source: Path, images: Path | None = None) -> Iterator[Entry]:
    """Read the masks of objects below `source`, and find the image of each.

    An image whose folder of masks is empty shows no objects; one without such a folder is a
    problem, unless it is in a test split that has no masks at all.

    Raises:
        DataError: a folder cannot be read.
    """
    photos, twins = by_key(photos_below(images or source))
    objects, numbered, strays = _find_objects(source, images, photos)
    words = {_word(path) for paths in objects.values() for path in paths}
    has_words = bool(words) and "" not in words and not numbered
    yield Classes(sorted(words) if has_words else [FOREGROUND])
    yield "touching objects of one class merge: these masks tell classes, not objects"
    if has_words and len(words) > 1:
        yield "where objects overlap, the one whose file name comes last counts"
    yield Note(len(numbered), "mask", "with the name of an image: all but 0 is foreground")
    for path in strays:
        yield Problem("no such image", str(path.relative_to(source)))
    for key in sorted(objects.keys() - twins.keys()):
        shapes = [
            Shape(_word(path) if has_words else FOREGROUND, partial(_patch, path))
            for path in objects[key]
        ]
        yield AnnotatedImage(photos[key], key.name, shapes, key.split)
        yield Note(not shapes, "image", "with an empty folder of masks: all background")
    has_test = any(key.split == "test" for key in objects)
    for key in sorted(photos.keys() - objects.keys()):
        if key.split == "test" and not has_test:
            yield Note(1, "image", "of the test split left out: it has no masks")
        else:
            yield Problem("no masks", key.name)
    yield from twins.values()


def _patch(path: Path, size: Size) -> Patch:
    """The pixels of the objects in a file."""
    covered = object_pixels(mask_of_image(path, *size), path)
    check_size(path, covered, *size)
    return crop(covered)


def object_pixels(mask: RawMask, path: Path) -> NDArray[np.bool_]:
    """The pixels of a mask read from `path` that show an object, H×W: those that are not 0.

    In JPEG, whose zeros are noisy, they are those from 128 on.

    Raises:
        MaskError: JPEG has blurred its numbers.
    """
    pixels = mask.pixels if mask.pixels.ndim == 2 else mask.pixels.max(axis=-1)
    if not mask.lossy:
        return np.asarray(pixels != 0)
    if 0 < pixels.max() < _HALF:
        came = f"{path.name} is a JPEG with values up to {pixels.max()}"
        raise MaskError(f"{came}, expected 0 and 255", fix="Save masks as PNG.")
    return np.asarray(pixels >= _HALF)


def _word(path: Path) -> str:
    """The class that the name of an object's file says, or nothing.

    >>> _word(Path("0001_car.png")), _word(Path("0001.png")), _word(Path("0001_mask.png"))
    ('car', '', '')
    """
    parts = _CLASS.fullmatch(path.stem)
    return parts[1] if parts and not says_mask(parts[1]) else ""


# Files


def _find_objects(
    source: Path, images: Path | None, photos: Mapping[ImageKey, Path]
) -> tuple[dict[ImageKey, list[Path]], set[ImageKey], list[Path]]:
    """The files of objects by their images, the images with numbered ones, and files of no image.

    An image whose folder of masks is empty has no files.
    """
    objects: dict[ImageKey, list[Path]] = defaultdict(list)
    others: list[tuple[Path | None, Folders]] = []
    for path, folders in _mask_files(source, images, set(photos.values())):
        key = ImageKey(folders, path.stem)
        if key in photos:
            objects[key].append(path)
        else:
            others.append((path, folders))
    numbered = {*objects}
    others += [(None, folders) for folders in _empty_folders(source)]
    count = Counter(key.folders for key in photos)
    lone = {key.folders: key for key in photos if count[key.folders] == 1}
    for key in numbered:
        lone.pop(key.folders, None)
    strays = []
    for (
        file,
        folders,
    ) in others:  # of the image with the name of the last folder, or of the only one
        named = ImageKey(folders[:-1], folders[-1]) if folders else None
        owner = named if named in photos else lone.get(folders)
        if owner is not None:
            objects[owner] += [] if file is None else [file]
        elif file is not None:
            strays.append(file)
    return objects, numbered, strays


def _mask_files(
    source: Path, images: Path | None, photos: Container[Path]
) -> Iterator[tuple[Path, Folders]]:
    """The files of objects, and the folders above them but for that of all masks."""
    for path in scan(source, MaskError):
        folders = path.relative_to(source).parts[:-1]
        roles = folder_roles(folders)
        is_mask = "mask" in roles or (images is not None and "image" not in roles)
        if is_mask and path not in photos:
            yield path, without_role(folders, "mask")


def _empty_folders(source: Path) -> Iterator[Folders]:
    """Folders of masks that hold nothing, or nothing but hidden files."""
    for folder in sorted(source.rglob("*/")):
        folders = folder.relative_to(source).parts
        is_empty = all(path.name.startswith(".") for path in folder.iterdir())
        if is_empty and "mask" in folder_roles(folders):
            yield without_role(folders, "mask")
