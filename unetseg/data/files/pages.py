"""Pictures that are less than a file, or more: a page of a stack, and several masks of one image.

FILE#PAGE is one image of a TIFF or an array that holds several: `train-volume.tif#3` is a path as
any other where images are named and opened; pages count from 1. A `MaskSet` stands where a mask's
path does. Whoever looks at the files themselves asks for `file_of` or `files_of`.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

from unetseg.errors import ImageError
from unetseg.storage import content_hash

SEVERAL = "several-pages"
ARRAY_SUFFIXES = frozenset({".npy", ".npz"})
STACK_SUFFIXES = frozenset({".tif", ".tiff", *ARRAY_SUFFIXES})
_PAGE = re.compile(r"(.+\.(?:tiff?|npy|npz))#([1-9]\d*)", re.IGNORECASE)


@dataclass(frozen=True)
class MaskSet:
    """Mask files that are read as one mask: one for each object, or for each class.

    Attributes:
        paths: The files.
        codes: Of each file, the code of its pixels that are not 0, from 1 to 255.
    """

    paths: tuple[Path, ...]
    codes: tuple[int, ...]

    @property
    def parents(self) -> Sequence[Path]:
        """The folders above the first file."""
        return self.paths[0].parents

    def relative_to(self, root: Path) -> "MaskSet":
        """The set with paths below `root`."""
        return MaskSet(tuple(path.relative_to(root) for path in self.paths), self.codes)

    def __str__(self) -> str:
        more = len(self.paths) - 1
        return f"{self.paths[0]} and {more} more" if more else str(self.paths[0])


MaskPath = Path | MaskSet
"""Where a mask is."""


def split_page(path: Path) -> tuple[Path, int | None]:
    """The file that an image lies in, and its page there, if the path names one.

    >>> split_page(Path("a/cells.tif#3")), split_page(Path("a#3/cells.tif"))[1]
    ((PosixPath('a/cells.tif'), 3), None)
    """
    match = _PAGE.fullmatch(path.name)
    return (path.with_name(match[1]), int(match[2])) if match else (path, None)


def file_of(path: Path) -> Path:
    """The file that an image lies in."""
    return split_page(path)[0]


def files_of(path: MaskPath) -> tuple[Path, ...]:
    """The files that a mask, or an image, lies in."""
    return path.paths if isinstance(path, MaskSet) else (file_of(path),)


def page_paths(path: Path, pages: int) -> list[tuple[Path, str]]:
    """Each page of a stack, and the end of its name: `_01`, `_02`, …."""
    width = len(str(pages))
    return [
        (path.with_name(f"{path.name}#{page}"), f"_{page:0{width}}") for page in range(1, pages + 1)
    ]


def image_hash(*paths: MaskPath) -> str:
    """The hash of the content of images, in order; of pages with numbers, of sets with codes."""
    files = tuple(file for path in paths for file in files_of(path))
    parts = [path.codes if isinstance(path, MaskSet) else split_page(path)[1] for path in paths]
    if not any(parts):
        return content_hash(*files)
    digest = _hash_of(files, tuple(version_of(file.stat()) for file in files))
    return blake2b(f"{digest} {parts}".encode(), digest_size=16).hexdigest()


@lru_cache(maxsize=64)
def _hash_of(files: tuple[Path, ...], _versions: tuple[tuple[int, ...], ...]) -> str:
    """The hash of the content of files, which is read once for all pages of a stack."""
    return content_hash(*files)


def version_of(status: os.stat_result) -> tuple[int, ...]:
    """What the system says of a file that differs once its content does."""
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def several(path: Path, what: str, shape: Sequence[int], page: int | None = None) -> ImageError:
    """The refusal of a file that holds several images, `shape` of them, or has no such page."""
    pages = shape[0] if len(shape) == 1 else None
    missing = f", and no page {page}" if page else ""
    return ImageError(
        f"{path} holds {what}, expected one image{missing}",
        fix="Save each page as an image of its own, or bands as samples of one page (axes YXS).",
        code=SEVERAL,
        paths=[path],
        came=pages,
    )
