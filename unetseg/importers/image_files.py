"""The image files that annotations name, found without leaving the folder they may lie in.

Names in foreign files are hints: they may be absolute paths of another machine, have backslashes,
or try to climb out of the folder. Only what lies inside is ever returned.
"""

import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from unetseg.data.files.folders import scan
from unetseg.data.files.images import IMAGE_SUFFIXES
from unetseg.data.pairs.naming import read_folder_name
from unetseg.errors import DataError, ImageError
from unetseg.importers.annotations import Problem, split_of
from unetseg.text import printable

CLASS_MASKS, OBJECT_MASKS = "SegmentationClass", "SegmentationObject"
"""Folders of masks in the tree of Pascal VOC."""

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
        self.root = images or _root_of(source)
        self._apart = frozenset(apart)

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
        found = self._ending_in([part for part in parts if part != ".."])
        if len(found) > 1 and split is not None:
            found = [path for path in found if self._split_of(path) == split] or found
        if len(found) == 1:
            return found[0]
        if found:
            shown = ", ".join(str(self.relative(path)) for path in found[:_SHOWN])
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            return Problem("several files fit", f"{name}: {shown}{more}")
        return Problem("no such image", name)

    def relative(self, path: Path) -> Path:
        """`path` relative to the root, for names of pairs."""
        return path.relative_to(self.root)

    def name_of(self, path: Path) -> str:
        """What the pair of an image is to be called: its place below the root without suffix."""
        return self.relative(path).with_name(path.stem).as_posix()

    def _inside(self, base: Path, parts: Sequence[str]) -> Path | None:
        """`parts` from the folder `base` on, if that is an image name inside the root."""
        steps = list(_steps(base, self.root))
        if base != self.root and self.root not in base.parents:
            return None
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
        best = self._by_name.matching(parts)
        if not best and Path(parts[-1]).suffix.lower() not in IMAGE_SUFFIXES:
            best = self._by_stem.matching(parts)
        if len(best) > 1:
            best = [path for path in best if not self._says_mask(path)] or best
        return best

    def _is_apart(self, path: Path) -> bool:
        return not self._apart.isdisjoint(self.relative(path).parts[:-1])

    def _split_of(self, path: Path) -> str | None:
        return next(filter(None, map(split_of, self.relative(path).parts[:-1])), None)

    def _says_mask(self, path: Path) -> bool:
        folders = self.relative(path).parts[:-1]
        return any(read_folder_name(folder).role == "mask" for folder in folders)

    @cached_property
    def _by_name(self) -> "_Ends":
        return _Ends((path.parts, path) for path in self.paths)

    @cached_property
    def _by_stem(self) -> "_Ends":
        return _Ends(((*path.parts[:-1], path.stem), path) for path in self.paths)


def _key(file: tuple[tuple[str, ...], Path]) -> tuple[str, ...]:
    return file[0]


class _Ends:
    """Files by the ends of their paths; sorted, so that a hundred thousand are searched quickly.

    Args:
        files: The parts by which each file is known, and the file.
    """

    def __init__(self, files: Iterable[tuple[Sequence[str], Path]]) -> None:
        self._files = sorted((tuple(reversed(parts)), path) for parts, path in files)

    def matching(self, parts: Sequence[str]) -> list[Path]:
        """The files that share the longest end with `parts`, the last one at least, in order."""
        wanted = tuple(reversed(parts))
        at = bisect_left(self._files, wanted, key=_key)
        longest = max(
            (_shared(wanted, key) for key, _ in self._files[max(at - 1, 0) : at + 1]), default=0
        )
        return sorted(self._beginning_with(wanted[:longest])) if longest else []

    def _beginning_with(self, wanted: tuple[str, ...]) -> Iterator[Path]:
        at = bisect_left(self._files, wanted, key=_key)
        while at < len(self._files) and self._files[at][0][: len(wanted)] == wanted:
            yield self._files[at][1]
            at += 1


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


def _root_of(source: Path) -> Path:
    """The folder below which the images of `source` may lie."""
    if source.is_dir():
        return source
    folder = source.absolute().parent
    return folder.parent if _BESIDE.fullmatch(folder.name) else folder


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for any file
        return False


def _steps(base: Path, root: Path) -> tuple[str, ...]:
    return base.relative_to(root).parts if base == root or root in base.parents else ()


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    """How many parts two paths have in common at their beginnings."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def images_beside_masks(root: Path, images: Path | None = None) -> ImageFiles:
    """The images of a tree like that of Pascal VOC: never the masks, which have the same names.

    Args:
        root: The folder that holds SegmentationClass, and mostly JPEGImages or images.
        images: The folder of the images, where it is another.

    Raises:
        DataError: there are no images.
    """
    usual = (root / name for name in ("JPEGImages", "images"))
    folder = images or next((path for path in usual if path.is_dir()), None)
    files = ImageFiles(root, folder, apart=(CLASS_MASKS, OBJECT_MASKS))
    if not files.paths:
        raise DataError(
            f"{printable(files.root)} holds no images",
            fix='Say where they are (--images DIR); from CVAT, export with "Save images".',
        )
    return files
