"""Which image each mask belongs to, where an image may have several.

A mask is of the image with the same name; or that its folder is called after; or that is alone
beside its folder; or whose name begins its own (`masks/x_mask_1.png`), or is its own in another
folder (`leftMask/x.png`). Without folders of masks, those beside an image whose names begin with
that of the image and go on with a word, are its masks: `x.png`, `x_mask.png`, `x_CRACK.png`; the
image may be called `x_rgb.png` then.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from unetseg.data.files.folders import scan
from unetseg.data.pairs.naming import read_name, says_mask
from unetseg.errors import MaskError
from unetseg.importers.annotations import Problem
from unetseg.importers.source_files import (
    Folders,
    ImageKey,
    by_key,
    folder_roles,
    photos_below,
    split_of,
    without_role,
)

_BETWEEN = r"[._\- ]"
_NO_CLASS = re.compile(
    r"\d*|masks?|labels?|segm?|segmentations?|gts?|ann\w*|class|attribute|binary", re.IGNORECASE
)
"""Parts of names that are not, or not yet, the class."""


class Mask(NamedTuple):
    """A mask file, and what its name and its folders have beside what those of its image have.

    `masks/cat/x_mask_1.png` of `images/x.png` has the suffix `mask_1` and the folder `cat`.
    """

    path: Path
    suffix: str = ""
    folder: str = ""

    @property
    def says_mask(self) -> bool:
        """Whether its name says that it is a mask."""
        return any(map(says_mask, re.split(_BETWEEN, self.suffix)))

    @property
    def takes_no_part(self) -> bool:
        """Whether its name or folder says a field of view, a second observer or the like."""
        readings = read_name(self.suffix), read_name(self.folder)
        return any(said.aside or said.second for said in readings)


@dataclass
class MaskSets:
    """The images of a folder and their masks.

    Attributes:
        photos: The image of each key.
        twins: Problems of keys that several images have.
        masks: The masks of each key; none where the folder of masks is empty.
        named_alike: Keys with a mask of just the same name.
        strays: Masks of no image.
        are_beside: Whether masks lie in the folders of their images.
    """

    photos: dict[ImageKey, Path]
    twins: dict[ImageKey, Problem]
    masks: dict[ImageKey, list[Mask]] = field(default_factory=lambda: defaultdict(list))
    named_alike: set[ImageKey] = field(default_factory=set)
    strays: list[Path] = field(default_factory=list)
    are_beside: bool = False

    @property
    def united_folders(self) -> list[list[str]]:
        """The folders whose masks some image has together."""
        several = {frozenset(one.folder for one in masks) for masks in self.masks.values()}
        return sorted(sorted(folders) for folders in several if len(folders) > 1)

    @cached_property
    def alone(self) -> dict[Folders, ImageKey]:
        """The image of each folder that has only one."""
        count = Counter(key.folders for key in self.photos)
        return {key.folders: key for key in self.photos if count[key.folders] == 1}


def find_masks(source: Path, images: Path | None = None) -> MaskSets:
    """The images in `images` or `source`, and the masks in `source`.

    Raises:
        DataError: a folder cannot be read.
    """
    photos = [*photos_below(images or source)]
    files = [*_mask_files(source, images, {path for _, path in photos})]
    empty = [*_empty_folders(source)]
    if not files and not empty and images is None:
        return _masks_beside(photos)
    sets = MaskSets(*by_key(photos))
    others = []
    for path, folders in files:
        key = ImageKey(folders, path.stem)
        if key in sets.photos:
            sets.masks[key].append(_mask(path, path.relative_to(source).parts[:-1], key))
            sets.named_alike.add(key)
        else:
            others.append((path, folders))
    by_stem: dict[str, list[ImageKey]] = defaultdict(list)
    for key in sets.photos:
        by_stem[key.stem].append(key)
    for path, folders in others:
        owner = _of_folder(folders, sets) or _of_name(path.stem, folders, by_stem)
        if owner is None:
            sets.strays.append(path)
        else:
            above = path.relative_to(source).parts[:-1]
            sets.masks[owner].append(_mask(path, above, owner))
    for owner in filter(None, (_of_folder(folders, sets) for folders in empty)):
        sets.masks[owner] += []
    return sets


def _mask(path: Path, above: Folders, owner: ImageKey) -> Mask:
    """The mask file `path` of an image, `above` being the folders above it."""
    folders = [part for part in above if part not in owner.folders]
    suffix = path.stem.removeprefix(owner.stem) if path.stem.startswith(owner.stem) else ""
    return Mask(path, suffix.strip("._- "), folders[-1] if folders else "")


def _of_folder(folders: Folders, sets: MaskSets) -> ImageKey | None:
    """The image that a folder of masks is called after, or that is alone beside it."""
    named = ImageKey(folders[:-1], folders[-1]) if folders else None
    if named in sets.photos:
        return named
    alone = sets.alone.get(folders)
    return None if alone in sets.named_alike else alone


def _of_name(
    stem: str, folders: Folders, by_stem: Mapping[str, Sequence[ImageKey]]
) -> ImageKey | None:
    """The image of the longest name with which `stem` begins; of several, that of the folders."""
    split = split_of(*folders)
    for beginning in (stem, *(beginning for beginning, _ in _beginnings(stem))):
        keys = [key for key in by_stem.get(beginning, ()) if {split, key.split} != {"train", "val"}]
        shared = {key: len({*key.folders} & {*folders}) for key in keys}
        best = [key for key in keys if shared[key] == max(shared.values())]
        if len(best) == 1:
            return best[0]
    return None


def _beginnings(stem: str) -> list[tuple[str, str]]:
    """What stands before each dot, dash, underscore or space, and after it, the longest first."""
    cuts = [cut.start() for cut in re.finditer(_BETWEEN, stem)]
    return [(stem[:cut], stem[cut + 1 :]) for cut in reversed(cuts)]


def _masks_beside(photos: Sequence[tuple[ImageKey, Path]]) -> MaskSets:
    """Images and masks of the same folders, told apart by their names."""
    paths, twins = by_key(photos)
    named = {ImageKey(key.folders, _without_image_word(key.stem)): key for key in paths}
    named |= {key: key for key in paths}  # what a name may begin with, and whose name that is
    continued = [
        (key, ImageKey(key.folders, beginning), rest)
        for key in sorted(paths, key=lambda key: len(key.stem))
        for beginning, rest in _beginnings(key.stem)
        if named.get(ImageKey(key.folders, beginning), key) != key
    ]
    count = Counter(rest for *_, rest in continued)
    masks: dict[ImageKey, list[Mask]] = defaultdict(list)
    are_masks: set[ImageKey] = set()
    for key, beginning, rest in continued:
        mask = Mask(paths[key], rest)
        is_word = count[rest] > 1 and read_name(rest).role != "image" and class_of(mask)
        if not {key, named[beginning]} & are_masks and (mask.says_mask or is_word):
            masks[beginning].append(mask)
            are_masks.add(key)
    called = {named[beginning]: beginning for beginning in masks}
    images = {called.get(key, key): path for key, path in paths.items() if key not in are_masks}
    return MaskSets(images, twins, masks, are_beside=True)


def _without_image_word(stem: str) -> str:
    """The name without a word at its end that says image: `plant1` of `plant1_rgb`."""
    beginning, rest = next(iter(_beginnings(stem)), (stem, ""))
    return beginning if len(rest) > 1 and read_name(rest).role == "image" else stem


def _mask_files(
    source: Path, images: Path | None, photos: Container[Path]
) -> Iterator[tuple[Path, Folders]]:
    """The mask files, and the folders above them but for that of all masks."""
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


def class_of(mask: Mask) -> str:
    """The class that the name of a mask says, or else its folder, or nothing.

    >>> class_of(Mask(Path("x"), "class_cat")), class_of(Mask(Path("x"), "mask", "red car"))
    ('cat', 'red car')
    >>> class_of(Mask(Path("x"), "mask_1", "masks_train"))
    ''
    """
    for text in (mask.suffix, mask.folder):
        words = [word for word in re.split(_BETWEEN, text) if not _NO_CLASS.fullmatch(word)]
        words = [word for word in words if not split_of(word)]
        if words:
            return " ".join(words)
    return ""


def tell_classes(sets: MaskSets) -> bool:
    """Whether names or folders say a class of each mask, and images have masks of several.

    Left and right are halves of one class, and observers, fields of view and the like are none.
    """
    masks = [mask for several in sets.masks.values() for mask in several]
    count = Counter(map(class_of, masks))
    are_plain = "" not in count and not any(mask.takes_no_part for mask in masks)
    if len(count) < 2 or not are_plain or min(count.values()) < 2 or _are_halves(count):
        return False
    return any(len({class_of(mask) for mask in several}) > 1 for several in sets.masks.values())


def tell_objects(sets: MaskSets) -> bool:
    """Whether images have several masks whose names differ by numbers, or by left and right."""
    masks = [mask for several in sets.masks.values() for mask in several]
    if any(mask.takes_no_part for mask in masks):
        return False
    kinds = (
        Counter((re.sub(r"[\W\d_]+", "", mask.suffix), mask.folder) for mask in several)
        for several in sets.masks.values()
    )
    is_numbered = any(max(kind.values(), default=0) > 1 for kind in kinds)
    return is_numbered or _are_halves(Counter(map(class_of, masks)))


def _are_halves(names: Collection[str]) -> bool:
    return len(names) == 2 and all(name.lower().startswith(("left", "right")) for name in names)
