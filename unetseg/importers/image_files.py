"""The image files that annotations name, found without leaving the folder they may lie in.

Names in foreign files are hints: they may be absolute paths of another machine, have backslashes,
or try to climb out of the folder. Only what lies inside is ever returned.
"""

import base64
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote

from PIL import Image

from unetseg.data.files.folders import IMAGE_SUFFIXES, scan
from unetseg.data.files.limits import explained
from unetseg.data.pairs.naming import read_folder_name
from unetseg.errors import ImageError, MaskError
from unetseg.importers.annotations import Problem, split_of
from unetseg.text import printable

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
