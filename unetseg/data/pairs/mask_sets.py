"""Which image each mask belongs to, where an image may have several.

A mask is of the image with the same name; or that its folder is called after; or that is alone
beside its folder; or whose name begins its own (`masks/x_mask_1.png`), or is its own in another
folder (`leftMask/x.png`). Without folders of masks, those beside an image whose names begin with
that of the image and go on with a word, are its masks: `x.png`, `x_mask.png`, `x_CRACK.png`; the
image may be called `x_rgb.png` then.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unetseg.data.files.folders import is_hidden, scan
from unetseg.data.files.pages import MaskSet
from unetseg.data.masks.mask_file import read_mask
from unetseg.data.pairs.content import read_codes, size_of, spread
from unetseg.data.pairs.naming import is_output, read_name, says_mask, split_of
from unetseg.errors import ImageError, MaskError
from unetseg.text import plural

Folders = tuple[str, ...]
_BETWEEN = r"[._\- ]"
_NO_CLASS = re.compile(
    r"\d*|masks?|labels?|segm?|segmentations?|gts?|ann\w*|class|attribute|binary", re.IGNORECASE
)
"""Parts of names that are not, or not yet, the class."""
OBJECT = 255
"""The code of objects that have files of their own, as it mostly is in the files."""
_LOOKED_AT = 32  # masks of one image
_APART = 0.2  # intersection over union of two objects, at most
_SAME = 0.5  # that of two classes
_BACKGROUND_SHARE = 0.5  # of an image, from which on what all its masks show is the background
_MOST_CLASSES = 8  # that names tell; more names are those of single objects
_BACKGROUND = frozenset({"background", "bg"})  # names of what other classes leave
_ANOTHER = re.compile(
    r"(?:t|v|z|ver|version|time|day|week|visit|frame|slice|tile|patch|crop)[_\- ]?\d+"
    r"|(?:obs|observer|rater|reader|expert|annotator)[_\- ]?(?:\d+|[a-rt-z])",
    re.IGNORECASE,
)
"""Names of masks that show all of an image again, or another image: x_v2, x_t2, x_reader2."""


# Images and masks that share a name


@dataclass(frozen=True, order=True)
class ImageKey:
    """What image and masks share where their names alone tell that they belong together.

    Attributes:
        folders: The folders above them but for those that say "image", "mask" or the like.
        stem: The bare name.
    """

    folders: Folders
    stem: str

    @property
    def split(self) -> str | None:
        """train, val or test."""
        return split_of(*self._above)

    @property
    def name(self) -> str:
        """What the pair is to be called; a folder with the name of its image is not repeated."""
        return "/".join([*(part for part in self._above if not split_of(part)), self.stem])

    @property
    def _above(self) -> Folders:
        """The folders but for one with the name of the image."""
        return self.folders[:-1] if self.folders[-1:] == (self.stem,) else self.folders


def twins_of(photos: Iterable[tuple[ImageKey, Path]]) -> list[ImageKey]:
    """The keys that several images have."""
    count = Counter(key for key, _ in photos)
    return sorted(key for key in count if count[key] > 1)


def photos_below(root: Path) -> Iterator[tuple[ImageKey, Path]]:
    """The images: those in folders that say so, or else all that are in no folder of masks."""
    paths = _without_outputs(root, scan(root, ImageError))
    in_image_folders = [item for item in paths if folder_roles(item[1])[-1:] == ["image"]]
    not_in_mask_folders = [item for item in paths if "mask" not in folder_roles(item[1])]
    for path, folders in in_image_folders or not_in_mask_folders:
        yield ImageKey(without_role(folders, "image"), path.stem), path


def _without_outputs(root: Path, paths: Iterable[Path]) -> list[tuple[Path, Folders]]:
    """Files and the folders above them, but for predictions and overlays beside others."""
    inner = [(path, path.relative_to(root).parts[:-1]) for path in paths]
    plain = [(p, folders) for p, folders in inner if not any(map(is_output, folders))]
    return plain or inner


def folder_roles(folders: Iterable[str]) -> list[str]:
    """The roles that folders say, from above to below; `image_01` is the name of an image."""
    names = (re.sub(r"^\d+[.)]", "", name) for name in folders)  # 1. Original Images
    roles = (read_name(name).role for name in names if not re.search(r"\d", name))
    return [role for role in roles if role in {"image", "mask"}]


def without_role(folders: Folders, role: str) -> Folders:
    """The folders but for the last one that says `role`."""
    at = [i for i, part in enumerate(folders) if folder_roles([part]) == [role]][-1:]
    return tuple(part for i, part in enumerate(folders) if i not in at)


# Several masks of an image


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


@dataclass
class MaskSets:
    """The images of a folder and their masks.

    Attributes:
        photos: The image of each key.
        twins: Keys that several images have.
        masks: The masks of each key; none where the folder of masks is empty.
        named_alike: Keys with a mask of just the same name.
        strays: Masks of no image.
        are_beside: Whether masks lie in the folders of their images.
    """

    photos: dict[ImageKey, Path]
    twins: list[ImageKey]
    masks: dict[ImageKey, list[Mask]] = field(default_factory=lambda: defaultdict(list))
    named_alike: set[ImageKey] = field(default_factory=set)
    strays: list[Path] = field(default_factory=list)
    are_beside: bool = False

    @cached_property
    def names(self) -> Counter[str]:
        """How many masks have each name of a class, or none."""
        return Counter(class_of(mask) for masks in self.masks.values() for mask in masks)

    @property
    def have_unique_names(self) -> bool:
        """Whether nearly each mask has a name of its own with digits, such as a hash."""
        have_digits = all(not name or re.search(r"\d", name) for name in self.names)
        return have_digits and len(self.names) > self.names.total() / 2

    @property
    def say_mask(self) -> bool:
        """Whether all masks lie in folders of masks, or have names that say mask or class."""
        masks = (mask for masks in self.masks.values() for mask in masks)
        return not self.are_beside or all(
            mask.says_mask or "class" in mask.suffix.lower() for mask in masks
        )

    @property
    def holds_others(self) -> bool:
        """Whether names or folders say a field of view, another observer, time or the like."""
        masks = [mask for masks in self.masks.values() for mask in masks]
        if any(_ANOTHER.fullmatch(text) for mask in masks for text in (mask.suffix, mask.folder)):
            return True
        texts = {
            text
            for mask in masks
            for text in (mask.folder, mask.suffix if self.names[class_of(mask)] > 1 else "")
        }
        return any(said.aside or said.second for said in map(read_name, texts))

    @cached_property
    def by_folder(self) -> dict[tuple[str, str], list[ImageKey]]:
        """The images of each stem in all folders of one name; those of the stem alone have ""."""
        keys: dict[tuple[str, str], list[ImageKey]] = defaultdict(list)
        for key in self.photos:
            for name in {"", *key.folders}:
                keys[key.stem, name].append(key)
        return keys

    @cached_property
    def answers(self) -> dict[tuple[str, frozenset[str], str | None], ImageKey | None]:
        """Those of `_nearest`, so that masks alike ask once."""
        return {}

    @cached_property
    def homes(self) -> set[Folders]:
        """The folders that hold images, but for the one above all."""
        return {key.folders for key in self.photos} - {()}

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
    sets = MaskSets(dict(photos), twins_of(photos))
    others = []
    for path, folders in files:
        key = ImageKey(folders, path.stem)
        if key in sets.photos:
            sets.masks[key].append(_mask(path, source, key))
            sets.named_alike.add(key)
        else:
            others.append((path, folders))
    for path, folders in others:
        owner = _of_folder(folders, sets) or _of_name(path.stem, folders, sets)
        if owner is None:
            sets.strays.append(path)
        else:
            sets.masks[owner].append(_mask(path, source, owner))
    for owner in filter(None, (_of_folder(folders, sets) for folders in empty)):
        sets.masks[owner] += []
    return sets


def _mask(path: Path, source: Path, owner: ImageKey) -> Mask:
    """The mask file `path`, below `source`, of an image."""
    above = path.relative_to(source).parts[:-1]
    folders = [part for part in above if part not in {*owner.folders, owner.stem}]
    suffix = path.stem.removeprefix(owner.stem)
    return Mask(path, suffix.strip("._- "), folders[-1] if folders else "")


def _of_folder(folders: Folders, sets: MaskSets) -> ImageKey | None:
    """The image that a folder of masks is called after, or that is alone beside it."""
    named = ImageKey(folders[:-1], folders[-1]) if folders else None
    if named in sets.photos:
        return named
    alone = sets.alone.get(folders)
    may_miss_others = not folders or split_of(*folders) is not None
    return None if alone in sets.named_alike and may_miss_others else alone


def _of_name(stem: str, folders: Folders, sets: MaskSets) -> ImageKey | None:
    """The image of the longest name with which `stem` begins; of several, that of the folders.

    In a folder with images of its own a mask is of one of these.
    """
    beginnings = [stem, *(beginning for beginning, _ in _beginnings(stem))]
    if folders in sets.homes:
        own = (ImageKey(folders, beginning) for beginning in beginnings)
        return next((key for key in own if key in sets.photos), None)
    other = {"train": "val", "val": "train"}.get(split_of(*folders) or "")
    for beginning in beginnings:
        names = frozenset(name for name in ("", *folders) if (beginning, name) in sets.by_folder)
        asked = beginning, names, other
        if asked not in sets.answers:
            sets.answers[asked] = _nearest(sets, *asked)
        if owner := sets.answers[asked]:
            return owner
    return None


def _nearest(
    sets: MaskSets, stem: str, names: frozenset[str], other: str | None
) -> ImageKey | None:
    """The image of a stem, not of the other split, whose folders alone have most of the names.

    The rarest name comes first: images without the names so far have at most those that are left.
    """
    shared: dict[ImageKey, int] = {}
    rarest = sorted((sets.by_folder[stem, name] for name in names), key=len)
    for left, keys in zip(reversed(range(len(rarest))), rarest, strict=True):
        shared |= {
            key: len(names & {"", *key.folders})
            for key in keys
            if other is None or key.split != other
        }
        if max(shared.values(), default=0) > left:
            break
    most = max(shared.values(), default=0)
    best = [key for key, count in shared.items() if count == most]
    return best[0] if len(best) == 1 else None


def _beginnings(stem: str) -> list[tuple[str, str]]:
    """What stands before each dot, dash, underscore or space, and after it, the longest first."""
    cuts = [cut.start() for cut in re.finditer(_BETWEEN, stem)]
    return [(stem[:cut], stem[cut + 1 :]) for cut in reversed(cuts)]


def _masks_beside(photos: Sequence[tuple[ImageKey, Path]]) -> MaskSets:
    """Images and masks of the same folders, told apart by their names."""
    paths = dict(photos)
    named = {}
    for key in paths:
        stem, word = next(iter(_beginnings(key.stem)), (key.stem, ""))
        says_image = len(word) > 1 and read_name(word).role == "image"  # plant1_rgb
        named[ImageKey(key.folders, stem if says_image else key.stem)] = key
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
    return MaskSets(images, twins_of(photos), masks, are_beside=True)


def _mask_files(
    source: Path, images: Path | None, photos: Container[Path]
) -> Iterator[tuple[Path, Folders]]:
    """The mask files, and the folders above them but for that of all masks."""
    for path, folders in _without_outputs(source, scan(source, MaskError)):
        roles = folder_roles(folders)
        is_mask = "mask" in roles or (images is not None and "image" not in roles)
        if is_mask and path not in photos:
            yield path, without_role(folders, "mask")


def _empty_folders(source: Path) -> Iterator[Folders]:
    """Folders of masks that hold nothing, or nothing but hidden files."""
    for folder in sorted(source.rglob("*/")):
        folders = folder.relative_to(source).parts
        is_shown = not is_hidden(folders) and "mask" in folder_roles(folders)
        if is_shown and all(is_hidden([path.name]) for path in folder.iterdir()):
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


def tell_classes(sets: MaskSets) -> list[str]:
    """The classes, if names or folders say one of each mask, and images have masks of several.

    Left and right are halves of one class, and observers, fields of view and the like are none.
    """
    count = sets.names
    kinds = {re.sub(r"[\W\d_]+", "", name).casefold() for name in count}
    is_plain = "" not in kinds and len(kinds) == len(count) and not sets.holds_others
    if not (is_plain and 1 < len(count) <= _MOST_CLASSES and min(count.values()) > 1):
        return []
    several = any(len({*map(class_of, masks)}) > 1 for masks in sets.masks.values())
    return sorted(count) if several and not _are_halves(count) else []


def tell_objects(sets: MaskSets) -> bool:
    """Whether images have several masks whose names are numbers, or left and right.

    Names with digits of which nearly each occurs once are numbers, too.
    """
    if sets.holds_others:
        return False
    kinds = (
        Counter(
            ("" if sets.have_unique_names else re.sub(r"[\W\d_]+", "", mask.suffix), mask.folder)
            for mask in several
        )
        for several in sets.masks.values()
    )
    is_numbered = any(max(kind.values(), default=0) > 1 for kind in kinds)
    return is_numbered or _are_halves(sets.names)


def _are_halves(names: Collection[str]) -> bool:
    """Whether names differ in left and right alone."""
    sides = {re.sub("^(left|right)", "", name.lower()) for name in names}
    return len(names) == 2 and len(sides) == 1


def show_background(sets: MaskSets) -> bool:
    """Whether the masks of each image show most of it alike, as where objects are 0."""
    several = [masks for masks in sets.masks.values() if len(masks) > 1]
    shares = []
    for masks in spread(several):
        areas = []
        for mask in masks[:_LOOKED_AT]:
            with suppress(MaskError):
                areas.append(read_mask(MaskSet((mask.path,), (1,))).pixels > 0)
        if len(areas) > 1 and len({area.shape for area in areas}) == 1:
            shares.append(np.all(areas, axis=0).mean())
    return bool(shares) and bool(np.median(shares) > _BACKGROUND_SHARE)


class United(NamedTuple):
    """The masks of each image as one.

    Attributes:
        masks: The masks of each key; None where the folder of masks is empty.
        classes: The names of the codes from 1 on; none where each file shows an object.
        told: What was concluded, in one sentence.
    """

    masks: dict[ImageKey, MaskSet | None]
    classes: list[str]
    told: str


def unite(sets: MaskSets) -> United | None:
    """The masks of each image as one, where names and samples of the files leave no doubt.

    Each file must show one thing. Objects must lie apart, and be numbered anew for each image;
    classes must not show the same, as two observers do.
    """
    several = [masks for masks in sets.masks.values() if masks]
    folders = {part for key in sets.photos for part in key.folders}
    if sets.twins or not (several and sets.say_mask) or any(read_name(f).aside for f in folders):
        return None
    alike = [{mask.path.stem for mask in sets.masks[key]} for key in sets.named_alike]
    in_own_folders = len(sets.alone) == len(sets.photos) and len(alike) < len(several)
    if any(len(stems) > 1 for stems in alike) and not in_own_folders:
        return None  # x.png is complete, whatever x_1.png is; but object 7 may be in folder 7
    told_classes = tell_classes(sets)
    classes = [name for name in told_classes if name.casefold() not in _BACKGROUND]
    are_told = sets.have_unique_names or _are_halves(sets.names)
    if not classes and not (tell_objects(sets) and (are_told or len({*map(len, several)}) > 1)):
        return None  # as many for each image may be as many classes, or observers
    samples = spread([(sets.photos[key], masks) for key, masks in sets.masks.items() if masks])
    overlaps = (_overlap(photo, [mask.path for mask in masks]) for photo, masks in samples)
    shares = [share for share in overlaps if share is not None]
    if not shares or max(shares) > 1 or np.median(shares) > (_SAME if classes else _APART):
        return None
    codes = {name: code for code, name in enumerate(classes, 1)}
    shown = {
        key: [mask for mask in masks if not classes or class_of(mask) in codes]
        for key, masks in sets.masks.items()
    }
    masks = {
        key: MaskSet(
            tuple(mask.path for mask in own), tuple(codes.get(class_of(m), OBJECT) for m in own)
        )
        if own
        else None
        for key, own in shown.items()
    }
    told = "each mask shows an object; those of an image are united"
    if classes:
        told = f"each mask shows a class: {', '.join(classes)}"
        if overlapping := sum(share > 0 for share in shares):
            told += f"; they overlap in {overlapping} of {plural(len(shares), 'sample')}"
            told += ", where the smaller area lies on top"
        if rest := sorted({*told_classes} - {*classes}):
            told += f"; {rest[0]} is what is in no mask"
    return United(masks, classes, told)


def _overlap(photo: Path, paths: Sequence[Path]) -> float | None:
    """The largest intersection over union of two masks, 0–1; infinite where one shows several.

    So it is where all differ in size from the image, of which they may be tiles. None where no mask
    can be read.
    """
    masks = {path: codes for path in paths[:_LOOKED_AT] if (codes := read_codes(path)) is not None}
    for values in map(np.unique, masks.values()):
        if len(values) > 2 or (len(values) == 2 and values[0]):
            return np.inf
    if masks and (size := size_of(photo)) and size not in {*map(size_of, masks)}:
        return np.inf
    shapes = [codes.shape for codes in masks.values()]
    areas = [codes != 0 for codes in masks.values() if codes.shape == shapes[0]]
    shares = [(a & b).sum() / max((a | b).sum(), 1) for a, b in combinations(areas, 2)]
    return float(max(shares, default=0)) if masks else None
