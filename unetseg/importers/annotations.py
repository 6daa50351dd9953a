"""What every reader gives, and what it reads with: JSON files, names, image files.

Names in foreign files are hints: they may be absolute paths of another machine, have backslashes,
or try to climb out of the folder. Only image files inside of it are ever returned.
"""

import base64
import re
import unicodedata
from codecs import BOM_UTF8
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ValidationError

from unetseg.data.files.folders import IMAGE_SUFFIXES, scan
from unetseg.data.files.limits import BOMB, PIXEL_LIMIT, explained
from unetseg.data.masks.mask_file import RawMask, read_mask
from unetseg.data.pairs.naming import read_folder_name
from unetseg.errors import DataError, ImageError, MaskError
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
    if error.code == BOMB:
        reason = f"{error.came} pixels; if you trust it, allow it by --max-pixels {error.came}"
    return [f"{path.name} cannot be read: {reason}" for path in error.paths]


def mask_of_image(path: Path, height: int, width: int) -> RawMask:
    """The mask file of an image of this size, which was allowed and allows a mask as large.

    Raises:
        MaskError: the file cannot be read or is no mask.
    """
    return read_mask(path, max(PIXEL_LIMIT, height * width))


def mask_pixels(path: Path, height: int, width: int) -> NDArray[Any]:
    """The values of the mask file `path`, H×W.

    Raises:
        MaskError: the file cannot be read, has colours, or another size.
    """
    pixels = mask_of_image(path, height, width).pixels
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


# Image files


_BESIDE = re.compile(r"annot\w*|labels?|json", re.IGNORECASE)
_SHOWN = 3  # files that the problem of a name with several lists


class ImageFiles:
    """The images that the annotations in `source` may name.

    They lie in `images` if that is given, else in `source`; in the folder of a single file, or the
    one above where that folder is called annotations, labels or the like. Links in these folders,
    which are the user's own, are followed.

    Args:
        source: The annotations: a folder or a file.
        images: The folder of the images, where it is another.
        apart: Names of folders whose files are never images, such as SegmentationClass.

    Raises:
        ImageError: `images` is no folder.
    """

    def __init__(
        self, source: Path, images: Path | None = None, apart: Collection[str] = ()
    ) -> None:
        if images is not None and not images.is_dir():
            raise ImageError(f"there is no folder {printable(images)}", fix="Check --images.")
        folder = source if source.is_dir() else source.absolute().parent
        is_beside = not source.is_dir() and _BESIDE.fullmatch(folder.name)
        self.root = images or (folder.parent if is_beside else folder)
        self._apart = frozenset(apart)
        self._by_end: dict[tuple[bool, int], dict[tuple[str, ...], list[Path]]] = {}

    @cached_property
    def paths(self) -> tuple[Path, ...]:
        """All images, in order."""
        return tuple(path for path in scan(self.root, ImageError) if not self._is_apart(path))

    def find(self, name: str, near: Path | None = None, split: str | None = None) -> Path | Problem:
        r"""The file that `name` means, or why there is none.

        A relative name is looked for in the folder `near` and in the root; then the file counts
        whose path ends like `name`, on the longest stretch.

        Args:
            name: As the foreign file has it: a relative or absolute path, with / or \, or a URL.
            near: The folder of the file that says so.
            split: train, val or test; of several files that fit, those in its folder are meant.
        """
        parts = split_path(name)
        if not parts or parts[-1] == "..":
            return Problem("no such image", name)
        for base in (near, self.root):
            path = self._inside(base, parts) if base is not None else None
            if path is not None and _is_file(path) and not self._is_apart(path):
                return path
        fitting = self._ending_in([part for part in parts if part != ".."])
        if len(fitting) > 1 and split is not None:
            folders = {path: path.relative_to(self.root).parts[:-1] for path in fitting}
            fitting = [path for path in fitting if split_of(*folders[path]) == split] or fitting
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            shown = ", ".join(str(path.relative_to(self.root)) for path in fitting[:_SHOWN])
            more = f" and {len(fitting) - _SHOWN} more" if len(fitting) > _SHOWN else ""
            return Problem("several files fit", f"{name}: {shown}{more}")
        return Problem("no such image", name)

    def name_of(self, path: Path) -> str:
        """What the pair of an image is to be called: its path below the root without suffix."""
        return path.relative_to(self.root).with_name(path.stem).as_posix()

    def _inside(self, base: Path, parts: Sequence[str]) -> Path | None:
        """`parts` from the folder `base` on, if that is an image name inside the root."""
        if not base.is_relative_to(self.root):
            return None
        steps = [*base.relative_to(self.root).parts]
        for part in parts:
            if part != "..":
                steps.append(part)
            elif steps:
                steps.pop()
            else:
                return None
        path = self.root.joinpath(*steps)
        return path if path.suffix.lower() in IMAGE_SUFFIXES else None

    def _ending_in(self, parts: Sequence[str]) -> list[Path]:
        """The files whose paths share the longest end with `parts`, the file name at least."""
        fitting = self._longest_end(parts, with_suffix=True)
        if not fitting and Path(parts[-1]).suffix.lower() not in IMAGE_SUFFIXES:
            fitting = self._longest_end(parts, with_suffix=False)
        if len(fitting) > 1:
            fitting = [path for path in fitting if not self._says_mask(path)] or fitting
        return fitting

    def _longest_end(self, parts: Sequence[str], *, with_suffix: bool) -> list[Path]:
        """By tables of all ends of each length, so that a hundred thousand are searched quickly."""
        longest: list[Path] = []
        for length in range(1, len(parts) + 1):
            if (with_suffix, length) not in self._by_end:
                table = self._by_end.setdefault((with_suffix, length), defaultdict(list))
                for path in self.paths:
                    own = (*path.parts[:-1], path.name if with_suffix else path.stem)
                    table[own[-length:]].append(path)
            fitting = self._by_end[with_suffix, length].get(tuple(parts[-length:]))
            if not fitting:
                break
            longest = fitting
        return longest

    def _is_apart(self, path: Path) -> bool:
        return not self._apart.isdisjoint(path.relative_to(self.root).parts[:-1])

    def _says_mask(self, path: Path) -> bool:
        folders = path.relative_to(self.root).parts[:-1]
        return any(read_folder_name(folder).role == "mask" for folder in folders)


@dataclass(frozen=True, order=True)
class ImageKey:
    """What image and masks share where their names alone tell that they belong together.

    Attributes:
        folders: The folders above them but for those that say "image", "mask" or the like.
        stem: The bare name.
    """

    folders: tuple[str, ...]
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
    def _above(self) -> tuple[str, ...]:
        """The folders but for one with the name of the image."""
        return self.folders[:-1] if self.folders[-1:] == (self.stem,) else self.folders


def by_key(
    photos: Iterable[tuple[ImageKey, Path]],
) -> tuple[dict[ImageKey, Path], dict[ImageKey, Problem]]:
    """The image of each key, and the keys that several images have."""
    photos = list(photos)
    count = Counter(key for key, _ in photos)
    several = sorted(key for key in count if count[key] > 1)
    return dict(photos), {key: Problem("several images of one name", key.name) for key in several}


def split_path(name: str) -> list[str]:
    r"""The parts of a path from any system, or of a URL, without root, drive, host and query.

    >>> split_path(r"C:\photos\a.jpg"), split_path("http://host/a%20b.jpg?x=1"), split_path("../a")
    (['photos', 'a.jpg'], ['a b.jpg'], ['..', 'a'])
    """
    text = name
    if re.match(r"[a-z][a-z0-9+.-]+://", text):
        text = unquote(text.partition("://")[2].partition("?")[0].partition("#")[0])
        text = text.partition("/")[2]
    text = re.sub(r"^[A-Za-z]:", "", text).replace("\\", "/").replace("\0", "")
    return [part for part in text.split("/") if part not in {"", "."}]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for any file
        return False


def decode_base64(text: str, what: str) -> bytes:
    """The bytes of `text`, which errors call `what`.

    Raises:
        MaskError: it is no base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise MaskError(f"{what} is damaged: no base64") from error


def embedded_png(text: str, size: tuple[int, int], what: str) -> Image.Image:
    """The PNG that an annotation holds in base64, which errors call `what`.

    Raises:
        MaskError: it is none, or has another size (height, width) than `size`.
    """
    content = BytesIO(decode_base64(text, what))
    try:
        with explained(Path(what)), Image.open(content, formats=("PNG",)) as image:
            if (image.height, image.width) != size:
                came = f"{image.height}×{image.width}"
                raise MaskError(f"{what} has {came} pixels, expected {size[0]}×{size[1]}")
            image.load()
            return image.copy()
    except ImageError as error:
        raise MaskError.like(error) from error
