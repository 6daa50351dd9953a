"""The image files that annotations name, found without leaving the folder they may lie in.

Names in foreign files are hints: they may be absolute paths of another machine, have backslashes,
or try to climb out of the folder. Only what lies inside is ever returned.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from unetseg.data.folders import scan, show
from unetseg.data.images import IMAGE_SUFFIXES
from unetseg.data.naming import read_folder_name
from unetseg.errors import ImageError
from unetseg.importers.annotations import Problem

_BESIDE = re.compile(r"annot\w*|labels?|json", re.IGNORECASE)
_SHOWN = 3  # files that the problem of a name with several lists


class ImageFiles:
    """The images that the annotations in `source` may name.

    They lie in `images` if that is given, else in `source`; in the folder of a single file, or the
    one above where that folder is called annotations, labels or the like. Links in these folders,
    which are the user's own, are followed.

    Raises:
        ImageError: `images` is no folder.
    """

    def __init__(self, source: Path, images: Path | None = None) -> None:
        if images is not None and not images.is_dir():
            raise ImageError(f"there is no folder {show(images)}", mend="Check --images.")
        self.root = images or _root_of(source)

    def find(self, name: str, near: Path | None = None) -> Path | Problem:
        r"""The file that `name` means, or why there is none.

        A relative name is looked for in the folder `near` and in the root; then the file counts
        whose path ends like `name`, on the longest stretch.

        Args:
            name: As the foreign file has it: a relative or absolute path, with / or \, or a URL.
            near: The folder of the file that says so.
        """
        parts = split_path(name)
        if not parts or parts[-1] == "..":
            return Problem("no such image", name)
        for base in (near, self.root):
            path = self._inside(base, parts) if base is not None else None
            if path is not None and _is_file(path):
                return path
        found = self._ending_in([part for part in parts if part != ".."])
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
        last = parts[-1]
        found = self._by_name.get(last, [])
        if not found and Path(last).suffix.lower() not in IMAGE_SUFFIXES:
            found = self._by_stem.get(last, [])
        lengths = [_shared_end(path.parent.parts, parts[:-1]) for path in found]
        best = [p for p, n in zip(found, lengths, strict=True) if n == max(lengths)]
        if len(best) > 1:
            best = [path for path in best if not self._says_mask(path)] or best
        return best

    def _says_mask(self, path: Path) -> bool:
        folders = self.relative(path).parts[:-1]
        return any(read_folder_name(folder).role == "mask" for folder in folders)

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        return _grouped((path.name, path) for path in scan(self.root, ImageError))

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        paths = (path for group in self._by_name.values() for path in group)
        return _grouped((path.stem, path) for path in paths)


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


def _shared_end(one: Sequence[str], other: Sequence[str]) -> int:
    """How many parts two paths have in common at their ends."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _grouped(items: Iterable[tuple[str, Path]]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = defaultdict(list)
    for key, path in items:
        groups[key].append(path)
    return groups
