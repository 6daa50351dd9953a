"""The files of an export: found by the names that stand in it, and read.

Names in foreign files are hints: they may be absolute paths of another machine, have backslashes,
or try to climb out of the folder. Only image files inside of it are ever returned.
"""

import base64
import os
import re
from codecs import BOM_UTF8
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import TypeVar
from unicodedata import normalize
from urllib.parse import unquote

from PIL import Image
from pydantic import TypeAdapter, ValidationError

from unetseg.data.files.folders import IMAGE_SUFFIXES, is_hidden, scan
from unetseg.data.files.limits import explained
from unetseg.data.pairs.mask_sets import ImageKey, twins_of
from unetseg.data.pairs.naming import read_name, split_of
from unetseg.errors import DataError, ImageError, MaskError
from unetseg.importers.annotations import AnnotatedImage, Draw, Problem, Shape
from unetseg.importers.shapes import Size
from unetseg.text import printable, some_of

Content = TypeVar("Content")
_LOOKED_AT = 20  # files that tell a format


# Names


def name_in(source: Path, path: Path) -> str:
    """What errors call the file `path` of `source`, which may be an archive unpacked elsewhere."""
    return printable(path.relative_to(source) if source in path.parents else path.name)


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


# Annotation files


def visible_files(folder: Path, pattern: str) -> list[Path]:
    """The files below `folder` that match `pattern`, in order, hidden ones left out."""
    return [
        path
        for path in sorted(folder.rglob(pattern))
        if path.is_file() and not is_hidden(path.relative_to(folder).parts)
    ]


def only_one(paths: Sequence[Path], source: Path) -> Path | None:
    """The one of `paths` that there is, or None.

    Raises:
        DataError: there are several; all listed.
    """
    if len(paths) > 1:
        names = [name_in(source, path) for path in paths]
        raise DataError("there are several exports", names, "Give one of them.")
    return next(iter(paths), None)


def holding(
    source: Path, pattern: str, *words: bytes, first: int | None = _LOOKED_AT
) -> list[Path]:
    """Of the first files that match, in the folder `source` or itself, those that hold `words`."""
    paths = [source] if source.is_file() else visible_files(source, pattern)
    return [path for path in paths[:first] if path.match(pattern) and holds(path, *words)]


def holds(path: Path, *words: bytes) -> bool:
    """Whether a file holds all of `words` anywhere: a glance at a JSON before it is parsed."""
    content = path.read_bytes()
    return all(word in content for word in words)


def read_json(path: Path, kind: type[Content], source: Path) -> Content:
    """Read the JSON file `path` of `source` as what is needed of it.

    Raises:
        DataError: it is no JSON, or has other contents; all faults listed.
    """
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes().removeprefix(BOM_UTF8))
    except ValidationError as error:
        faults = [
            printable(": ".join([*filter(None, [".".join(map(str, fault["loc"]))]), fault["msg"]]))
            for fault in error.errors(include_input=False)
        ]
        fix = "Check the name of the format, or export the annotations again."
        summary = f"{name_in(source, path)} is not what this format has"
        raise DataError(summary, faults, fix) from error


def decode_base64(text: str, what: str) -> bytes:
    """The bytes of `text`, which errors call `what`.

    Raises:
        MaskError: it is no base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise MaskError(f"{what} is damaged: no base64") from error


def embedded_png(content: str | bytes, size: Size | None, what: str) -> Image.Image:
    """The PNG that an annotation holds, as it is or in base64, which errors call `what`.

    Raises:
        MaskError: it is none, or has another size (height, width) than `size`, if that is stated.
    """
    raw = content if isinstance(content, bytes) else decode_base64(content, what)
    try:
        with explained(Path(what)), Image.open(BytesIO(raw), formats=("PNG",)) as image:
            if size is not None and (image.height, image.width) != size:
                came = f"{image.height}×{image.width}"
                raise MaskError(f"{what} has {came} pixels, expected {size[0]}×{size[1]}")
            image.load()
            return image.copy()
    except ImageError as error:
        raise MaskError.like(error) from error


# Images that annotations name

_BESIDE = re.compile(r"annot\w*|labels?|json", re.IGNORECASE)


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
        self._lock = Lock()

    @cached_property
    def paths(self) -> tuple[Path, ...]:
        """All images, in order."""
        paths = scan(self.root, ImageError)
        return tuple(path for path in paths if self._apart.isdisjoint(self._folders(path)))

    def find(self, name: str, near: Path | None = None, split: str | None = None) -> Path | Problem:
        r"""The file that `name` means, or why there is none.

        A relative name is looked for in the folder `near` and in the root; then the file counts
        whose path ends like `name`, on the longest stretch; of several, the one in `near`.

        Args:
            name: As the foreign file has it: a relative or absolute path, with / or \, or a URL.
            near: The folder of the file that says so.
            split: train, val or test; of several files that fit, those in its folder are meant.
        """
        parts = split_path(name)
        if not parts or parts[-1] == "..":
            return Problem("no such image", name)
        for base in (near, self.root):
            path = self._image_at(base, parts)
            if path is not None:
                return path
        fitting = self._ending_in([part for part in parts if part != ".."])
        fitting = [path for path in fitting if path.parent == near] or fitting
        if split is not None:
            own = [path for path in fitting if split_of(*self._folders(path)) == split]
            fitting = own or fitting
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            shown = some_of([str(path.relative_to(self.root)) for path in fitting])
            return Problem("several files fit", f"{name}: {shown}")
        return Problem("no such image", name)

    def annotated(
        self,
        name: str,
        mask: Sequence[Shape] | Draw | Path,
        *,
        near: Path | None = None,
        split: str | None = None,
        size: Size | None = None,
        smallest_on_top: bool = False,
    ) -> AnnotatedImage | Problem:
        """The image that `name` means (see `find`) with its mask, or why there is none.

        The pair is called `name` where that is a plain relative path, else as the file.
        """
        path = self.find(name, near, split)
        if isinstance(path, Problem):
            return path
        parts = split_path(name)
        is_plain = parts == name.split("/") and ".." not in parts
        pair = "/".join([*parts[:-1], path.stem]) if is_plain else self.name_of(path)
        return AnnotatedImage(path, pair, mask, split, size, smallest_on_top=smallest_on_top)

    def name_of(self, path: Path) -> str:
        """What the pair of an image is to be called: its path below the root without suffix."""
        return path.relative_to(self.root).with_name(path.stem).as_posix()

    def _folders(self, path: Path) -> tuple[str, ...]:
        return path.relative_to(self.root).parts[:-1]

    def _image_at(self, base: Path | None, parts: Sequence[str]) -> Path | None:
        """The image file `parts` from the folder `base` on, if there is one inside the root."""
        root = self.root.absolute()
        if base is None or not base.absolute().is_relative_to(root):
            return None
        inside = Path(os.path.normpath(base.absolute().relative_to(root).joinpath(*parts)))
        path = self.root / inside
        if ".." in inside.parts or path.suffix.lower() not in IMAGE_SUFFIXES:
            return None
        try:
            is_there = path.is_file() and self._apart.isdisjoint(self._folders(path))
        except OSError:  # a name too long for any file
            return None
        return path if is_there else None

    def _ending_in(self, parts: Sequence[str]) -> list[Path]:
        """The files whose paths share the longest end with `parts`, the file name at least."""
        fitting = self._longest_end(parts, with_suffix=True)
        if not fitting and Path(parts[-1]).suffix.lower() not in IMAGE_SUFFIXES:
            fitting = self._longest_end(parts, with_suffix=False)
        if len(fitting) < 2:
            return fitting

        def is_mask(path: Path) -> bool:
            return "mask" in {read_name(folder).role for folder in self._folders(path)}

        return [path for path in fitting if not is_mask(path)] or fitting

    def _longest_end(self, parts: Sequence[str], *, with_suffix: bool) -> list[Path]:
        """By tables of all ends of each length, so that a hundred thousand are searched quickly."""
        longest: list[Path] = []
        for length in range(1, len(parts) + 1):
            fitting = self._ends(length, with_suffix=with_suffix).get(_composed(parts[-length:]))
            if not fitting:
                break
            longest = fitting
        return longest

    def _ends(self, length: int, *, with_suffix: bool) -> dict[tuple[str, ...], list[Path]]:
        """The files by the last `length` parts of their paths; threads wait until all are in."""
        with self._lock:
            if (with_suffix, length) not in self._by_end:
                table: dict[tuple[str, ...], list[Path]] = defaultdict(list)
                for path in self.paths:
                    own = (*path.parts[:-1], path.name if with_suffix else path.stem)
                    table[_composed(own[-length:])].append(path)
                self._by_end[with_suffix, length] = table
            return self._by_end[with_suffix, length]


def _composed(parts: Sequence[str]) -> tuple[str, ...]:
    """The parts of a path in composed Unicode form: macOS decomposes names."""
    return tuple(normalize("NFC", part) for part in parts)


def by_key(
    photos: Iterable[tuple[ImageKey, Path]],
) -> tuple[dict[ImageKey, Path], dict[ImageKey, Problem]]:
    """The image of each key, and the keys that several images have."""
    photos = list(photos)
    twins = twins_of(photos)
    return dict(photos), {key: Problem("several images of one name", key.name) for key in twins}
