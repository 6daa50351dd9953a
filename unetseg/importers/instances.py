"""One mask file for each object, or numbered objects: united to one mask for each image.

Three layouts are known: `ID/images/ID.png` with `ID/masks/*.png`, as in the 2018 Data Science Bowl
(https://www.kaggle.com/c/data-science-bowl-2018/data); `images/ID.png` with `masks/ID/*.png`; and
`images/ID.png` with `masks/ID.png`, whose pixels number the objects from 1 on. A pixel is
foreground where any of the files is not 0. Where the name of every file of an object ends in a
number and a word (`0001_car.png`), the words are the classes.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetseg.data.files.folders import scan
from unetseg.data.masks.mask_file import RawMask
from unetseg.data.pairs.naming import read_folder_name, says_mask
from unetseg.errors import ImageError, MaskError
from unetseg.importers.annotations import (
    AnnotatedImage,
    Annotations,
    ImageKey,
    Problem,
    by_key,
    check_size,
    class_codes,
    draw_each,
    mask_of_image,
)
from unetseg.text import plural

FOREGROUND = "foreground"

_CLASS = re.compile(r"(?:.*[_\-.])?\d+[_\-.]([A-Za-z]+)")  # 0001_car
_HALF = 128  # from this value on, a pixel with JPEG noise is of the object

_Folders = tuple[str, ...]
_Layer = tuple[Path, int]  # the file of an object, and its class code


@dataclass
class _Objects:
    """The files of objects, by their images.

    Attributes:
        own: Files that show one object each; an image without objects has none.
        numbered: Files that number the objects of an image.
        strays: Files of no image.
    """

    own: dict[ImageKey, list[Path]] = field(default_factory=lambda: defaultdict(list))
    numbered: dict[ImageKey, list[Path]] = field(default_factory=lambda: defaultdict(list))
    strays: list[Path] = field(default_factory=list)

    @property
    def keys(self) -> set[ImageKey]:
        """The images that have masks."""
        return self.own.keys() | self.numbered.keys()


def read(source: Path, images: Path | None = None) -> Annotations:
    """Read the masks of objects below `source`, and find the image of each.

    An image whose folder of masks is empty shows no objects; one without such a folder is a
    problem, unless it is in a test split that has no masks at all.

    Args:
        source: The folder that holds images and masks; with `images`, it may hold masks alone.
        images: The folder of the images, where it is another.

    Raises:
        DataError: a folder cannot be read.
    """
    photos, twins = by_key(_photos(images or source))
    objects = _find_objects(source, images, photos)
    bare = sorted(photos.keys() - objects.keys)
    has_test = any(key.split == "test" for key in objects.keys)
    blank = [key for key in bare if key.split == "test" and not has_test]
    classes, codes = class_codes(_words(objects) or [FOREGROUND])
    annotated = []
    for key in sorted(objects.keys - twins.keys()):
        draw = partial(_draw, _layers(key, objects, codes))
        annotated.append(AnnotatedImage(photos[key], key.name, draw, key.split))
    problems = [Problem("no such image", str(path.relative_to(source))) for path in objects.strays]
    problems += [Problem("no masks", key.name) for key in bare if key not in blank]
    notes = tuple(_notes(objects, blank, classes))
    return Annotations(classes, annotated, (*problems, *twins.values()), notes)


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


def _draw(layers: Sequence[_Layer], height: int, width: int) -> NDArray[np.uint8]:
    """The union of objects; where they overlap, the last one counts.

    Raises:
        MaskError: files that cannot be read or have another size, all of them.
    """
    mask = np.zeros((height, width), np.uint8)

    def paint(layer: _Layer) -> None:
        path, code = layer
        covered = object_pixels(mask_of_image(path, height, width), path)
        check_size(path, covered, height, width)
        mask[covered] = code

    draw_each(layers, paint, lambda _: "")
    return mask


# Files


def _photos(root: Path) -> Iterator[tuple[ImageKey, Path]]:
    """The images: those in folders that say so, or else all that are in no folder of masks."""
    paths = [(path, path.relative_to(root).parts[:-1]) for path in scan(root, ImageError)]
    said = [(path, folders) for path, folders in paths if _roles(folders)[-1:] == ["image"]]
    for path, folders in said or [one for one in paths if "mask" not in _roles(one[1])]:
        yield ImageKey(_without(folders, "image"), path.stem), path


def _find_objects(source: Path, images: Path | None, photos: Mapping[ImageKey, Path]) -> _Objects:
    """The image of each mask file, and of each empty folder of masks."""
    objects = _Objects()
    left = []
    for path, folders in _mask_files(source, images, set(photos.values())):
        exact = ImageKey(folders, path.stem)
        if exact in photos:
            objects.numbered[exact].append(path)
        else:
            left.append((path, folders))
    lone = _lone(photos, {key.folders for key in objects.numbered})
    for path, folders in left:
        owner = _owner(folders, photos, lone)
        if owner is None:
            objects.strays.append(path)
        else:
            objects.own[owner].append(path)
    for folders in _empty_folders(source):
        owner = _owner(folders, photos, lone)
        if owner is not None:
            objects.own[owner] += []
    return objects


def _mask_files(
    source: Path, images: Path | None, photos: Container[Path]
) -> Iterator[tuple[Path, _Folders]]:
    """The files of objects, and the folders above them but for that of all masks."""
    for path in scan(source, MaskError):
        folders = path.relative_to(source).parts[:-1]
        roles = _roles(folders)
        is_mask = "mask" in roles or (images is not None and "image" not in roles)
        if is_mask and path not in photos:
            yield path, _without(folders, "mask")


def _empty_folders(source: Path) -> Iterator[_Folders]:
    """Folders of masks that hold nothing, or nothing but hidden files."""
    for folder in sorted(source.rglob("*/")):
        folders = folder.relative_to(source).parts
        is_empty = all(path.name.startswith(".") for path in folder.iterdir())
        if is_empty and "mask" in _roles(folders):
            yield _without(folders, "mask")


def _owner(
    folders: _Folders, photos: Container[ImageKey], lone: Mapping[_Folders, ImageKey]
) -> ImageKey | None:
    """The image with the name of the last folder, or the only image in these folders."""
    named = ImageKey(folders[:-1], folders[-1]) if folders else None
    return named if named in photos else lone.get(folders)


def _lone(photos: Iterable[ImageKey], but: Container[_Folders]) -> dict[_Folders, ImageKey]:
    """The image of each folder that holds one alone; where masks have its name, it is none."""
    count = Counter(key.folders for key in photos)
    return {
        key.folders: key for key in photos if count[key.folders] == 1 and key.folders not in but
    }


def _roles(folders: Iterable[str]) -> list[str]:
    """The roles that folders say, from above to below; `image_01` is the name of an image."""
    names = map(read_folder_name, folders)
    said = ((name.role, name.tag) for name in names if name.role in {"image", "mask"})
    return [role for role, tag in said if role and not re.search(r"\d", tag)]


def _without(folders: _Folders, role: str) -> _Folders:
    """The folders but for the last one that says `role`."""
    at = [i for i, part in enumerate(folders) if _roles([part]) == [role]][-1:]
    return tuple(part for i, part in enumerate(folders) if i not in at)


# Classes and notes


def _words(objects: _Objects) -> list[str]:
    """The class names that the files of objects carry, sorted; none if any file has none."""
    words = {_word(path) for paths in objects.own.values() for path in paths}
    return [] if "" in words or objects.numbered else sorted(words)


def _word(path: Path) -> str:
    """The class that the name of an object's file says, or nothing.

    >>> _word(Path("0001_car.png")), _word(Path("0001.png")), _word(Path("0001_mask.png"))
    ('car', '', '')
    """
    parts = _CLASS.fullmatch(path.stem)
    return parts[1] if parts and not says_mask(parts[1]) else ""


def _layers(key: ImageKey, objects: _Objects, codes: Mapping[str, int]) -> list[_Layer]:
    """The files that make the mask of an image, in the order in which they are drawn."""
    numbered = [(path, codes[FOREGROUND]) for path in objects.numbered.get(key, ())]
    return numbered + [
        (path, codes[FOREGROUND if FOREGROUND in codes else _word(path)])
        for path in objects.own.get(key, ())
    ]


def _notes(objects: _Objects, blank: Sequence[ImageKey], classes: Sequence[str]) -> Iterator[str]:
    """What the user should know."""
    yield "touching objects of one class merge: these masks tell classes, not objects"
    if len(classes) > 2:
        yield "where objects overlap, the one whose file name comes last counts"
    if objects.numbered:
        count = plural(len(objects.numbered), "mask")
        yield f"{count} with the name of an image: all but 0 is foreground"
    empty = sum(not paths for key, paths in objects.own.items() if key not in objects.numbered)
    if empty:
        yield f"{plural(empty, 'image')} with an empty folder of masks: all background"
    if blank:
        yield f"the test split has no masks: {plural(len(blank), 'image')} left out"
