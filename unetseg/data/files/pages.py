"""Pages of a stack: FILE#PAGE is one image of a TIFF or an array that holds several.

`train-volume.tif#3` is a path as any other where images are named and opened; pages count from 1.
Whoever looks at the file itself asks for `file_of`.
"""

import re
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from unetseg.errors import ImageError
from unetseg.storage import content_hash

SEVERAL = "several-pages"
ARRAY_SUFFIXES = frozenset({".npy", ".npz"})
STACK_SUFFIXES = frozenset({".tif", ".tiff", *ARRAY_SUFFIXES})
_PAGE = re.compile(r"(.+\.(?:tiff?|npy|npz))#([1-9]\d*)", re.IGNORECASE)


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


def page_paths(path: Path, pages: int) -> list[tuple[Path, str]]:
    """Each page of a stack, and the end of its name: `_01`, `_02`, …."""
    width = len(str(pages))
    return [
        (path.with_name(f"{path.name}#{page}"), f"_{page:0{width}}") for page in range(1, pages + 1)
    ]


def image_hash(*paths: Path) -> str:
    """The hash of the content of image files, in order; of a page, with its number."""
    digest = content_hash(*map(file_of, paths))
    pages = [split_page(path)[1] for path in paths]
    return (
        blake2b(f"{digest} {pages}".encode(), digest_size=16).hexdigest() if any(pages) else digest
    )


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
