"""The image files in folders, and the names of what is made from them."""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, takewhile
from pathlib import Path

from unetseg.data.files.rasters import is_raster
from unetseg.errors import DataError, ImageError
from unetseg.text import printable

SUFFIXES: dict[str, tuple[str, ...]] = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpx", ".jpf"),
    "HEIF": (".heic", ".heif"),
    "NPY": (".npy",),
    "NPZ": (".npz",),
}
"""The suffixes that say what a file holds, the usual one first."""
IMAGE_SUFFIXES = frozenset(chain.from_iterable(SUFFIXES.values()))
_UNREAD = frozenset(
    {".nc", ".grb", ".grib", ".grib2", ".hdf", ".h5", ".asc", ".flt", ".bil", ".bip", ".bsq"}
    | {".ecw", ".sid", ".pix", ".ntf", ".nitf", ".jxl", ".avif", ".psd", ".svs", ".ndpi", ".mrxs"}
    | {".czi", ".dng", ".cr2", ".nef", ".arw"}
)


def is_hidden(names: Iterable[str]) -> bool:
    """Whether a path below a folder, by its parts, is left out: hidden, or what macOS adds."""
    return any(name.startswith(".") or name == "__MACOSX" for name in names)


def below(path: Path, root: Path) -> Path:
    """The path relative to `root` where it lies there, else as it is."""
    return path.relative_to(root) if root in path.parents else path


def without_image_suffix(name: str) -> str:
    """A name without the suffix of an image, if it ends with one: `x.jpg___fuse` does not."""
    head, dot, suffix = name.rpartition(".")
    return head if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else name


def find_images(
    inputs: Sequence[Path | str], without: Collection[Path] = ()
) -> list[tuple[Path, Path]]:
    """All images in files, folders and glob patterns but `without`, and the name of each output.

    Rasters that GDAL reads are among them (`is_raster`). Folders are searched with their
    subfolders, without hidden entries. The second path of each couple is relative, sorted and
    unique, and has no suffix (append one; `with_suffix` would cut names with dots): the image's
    place in the given folder or below the pattern's fixed part.
    Images that would share one output get their own suffix into the name (`x_jpg`, `x_png`), and
    where that is not enough, the folders by which they differ.

    Raises:
        ImageError: an input is not there, or names no image.
    """
    found: dict[Path, tuple[Path, Path]] = {}
    empty = []
    for given in inputs:
        sources = list(_expand(Path(given)))
        empty += [] if sources else [Path(given)]
        for path, base in sources:
            if path not in without:
                found.setdefault(
                    Path(os.path.normpath(path.absolute())), (path, base)
                )  # without ".."
    listed = [printable(given) for given in empty]
    if empty and not any(given.exists() or _fixed(given) for given in empty):
        raise ImageError(f"there is no {', '.join(listed)}", fix="Check the path.")
    if empty or not found:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        fix = f"Images end in {suffixes}; VRT, ERDAS .img and ENVI files are read too."
        raise ImageError("no images found in the input", listed, fix)
    return sorted(output_names(list(found.values())), key=lambda couple: couple[1])


def scan(
    folder: Path, error: type[DataError], *, rasters: bool = False, lenient: bool = False
) -> list[Path]:
    """All image files in `folder` and below, hidden entries and link loops left out.

    With `rasters` those that GDAL reads as well, see `is_raster`; if `lenient`, the broken links,
    pipes and the like that have the name of an image are among them.
    """
    try:
        files = list(_walk(folder, rasters=rasters))
    except OSError as problem:
        raise error(f"cannot read the folder {printable(folder)}: {problem}") from problem
    broken = [path for path, is_file in files if not is_file]
    if broken and not lenient:
        raise error(
            f"{len(broken)} with the name of an image are broken links or no ordinary files",
            [printable(path) for path in broken],
            "Restore the files or remove the entries.",
        )
    return [path for path, _ in files]


def stream_images(folder: Path) -> Iterator[Path]:
    """All images in `folder` and below, as `find_images` has them, in no order and one at a time.

    Raises:
        ImageError: the folder cannot be read, or an entry is a broken link or no ordinary file.
    """
    try:
        for path, is_file in _walk(folder, rasters=True, in_order=False):
            if not is_file:
                raise ImageError(f"{printable(path)} is a broken link or no ordinary file")
            yield path
    except OSError as problem:
        raise ImageError(f"cannot read the folder {printable(folder)}: {problem}") from problem


def unread_images(inputs: Sequence[Path]) -> list[Path]:
    """The files in folders that are images by their names, of formats that are not read."""
    return sorted(
        path
        for folder in inputs
        if folder.is_dir()
        for path in folder.rglob("*")
        if path.suffix.lower() in _UNREAD
        and not is_hidden(path.relative_to(folder).parts)
        and not is_raster(path)
    )


def _walk(
    folder: Path,
    above: frozenset[tuple[int, int]] = frozenset(),
    *,
    rasters: bool,
    in_order: bool = True,
) -> Iterator[tuple[Path, bool]]:
    """Everything with the name of an image, and whether it is a file; with `rasters` these too."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    with os.scandir(folder) as listing:
        for entry in sorted(listing, key=lambda entry: entry.name) if in_order else listing:
            if is_hidden([entry.name]):
                continue
            path = folder / entry.name
            is_link = entry.is_symlink()  # path does not fail where a link leads to itself
            if path.is_dir() if is_link else entry.is_dir():
                yield from _walk(path, above | {here}, rasters=rasters, in_order=in_order)
            elif path.suffix.lower() in IMAGE_SUFFIXES:
                yield path, path.is_file() if is_link else entry.is_file()
            elif rasters and is_raster(path):
                yield path, True


def _expand(given: Path) -> Iterator[tuple[Path, Path]]:
    """The image files that an input names, each with the folder its output is relative to."""
    if given.is_file():
        yield given, given.parent
    if given.is_dir():
        yield from ((path, given) for path in scan(given, ImageError, rasters=True))
    base = _fixed(given)
    if given.exists() or base is None:
        return
    try:
        matches = sorted(base.glob("/".join(given.parts[len(base.parts) :])))
    except ValueError as error:
        raise ImageError(f"{printable(given)} is no pattern: {error}") from error
    for match in (path for path in matches if not is_hidden(path.relative_to(base).parts)):
        if match.is_dir():
            yield from ((path, base) for path in scan(match, ImageError, rasters=True))
        elif match.is_file() and (match.suffix.lower() in IMAGE_SUFFIXES or is_raster(match)):
            yield match, base


def root_of(given: Path) -> Path:
    """The folder that an input is, or is in; of a pattern the part before its first sign."""
    if given.exists():
        return given if given.is_dir() else given.parent
    return _fixed(given) or given


def _fixed(given: Path) -> Path | None:
    """The part of a glob pattern before its first sign; None for what is no pattern."""
    parts = [*takewhile(lambda part: not re.search(r"[*?\[]", part), given.parts)]
    return Path(*parts) if len(parts) < len(given.parts) else None


def output_names(
    sources: Sequence[tuple[Path, Path]], common: Path | None = None
) -> list[tuple[Path, Path]]:
    """Each path of (path, folder above it) with a unique relative name.

    Where folders must tell names apart, they are those below `common`, if not below all they share.
    """
    if not sources:
        return []
    places = [Path(os.path.normpath(path.absolute())) for path, _ in sources]  # without ".."
    common = common or Path(os.path.commonpath([place.parent for place in places]))
    options = []  # names of increasing length
    for (path, base), place in zip(sources, places, strict=True):
        inner, outer = path.relative_to(base), place.relative_to(common)
        full = f"{path.stem}_{path.suffix[1:]}"
        options.append([inner.with_name(path.stem), inner.with_name(full), outer.with_name(full)])
    level = [0] * len(sources)
    while True:
        names = [option[at] for option, at in zip(options, level, strict=True)]
        count = Counter(names)
        shared = [i for i, name in enumerate(names) if count[name] > 1]
        if not shared:
            return [(path, name) for (path, _), name in zip(sources, names, strict=True)]
        if all(level[i] == 2 for i in shared):
            offenders = [printable(sources[i][0]) for i in shared]
            raise ImageError("outputs would have the same name", offenders, "Rename one of each.")
        for i in shared:
            level[i] = min(level[i] + 1, 2)
