"""The readings of a folder: which files are images and which are masks."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unetseg.data.files.folders import IMAGE_SUFFIXES, scan
from unetseg.data.pairs.naming import (
    SPLIT_WORD,
    SPLITS,
    Key,
    name_parts,
    read_folder_name,
    says_mask,
)
from unetseg.errors import DataError, PairingError
from unetseg.text import plural, printable

Find = Callable[[Path, type[DataError]], list[Path]]
"""`scan`, or `scan_names`, of which the latter lets broken links and pipes pass."""
BY_HAND = "Say which is which: --images DIR --masks DIR, or --pairs FILE.csv (columns image, mask)."


@dataclass(frozen=True)
class NamedFile:
    """An image or mask, and the key that must agree with its counterpart."""

    path: Path
    folder: tuple[str, ...]
    split: str | None
    place: str
    """Its folder relative to the root, with {split} for the split; for people."""
    source: str = ""
    """Name of the folder that tells its role, without the split."""
    tag: str = ""
    """What that name says beside role and split."""

    @property
    def key(self) -> Key:
        """What image and mask must share."""
        return self.folder, self.path.stem


@dataclass(frozen=True)
class Layout:
    """One reading of a folder: which files are images and which are masks."""

    images: tuple[NamedFile, ...]
    masks: tuple[NamedFile, ...]
    left_out: int = 0
    bare: int = 0
    """Images of a test split without any mask, which are not among `images`."""
    rivals: tuple[str, ...] = ()
    """Folders that compete for one role."""


def read_layouts(root: Path, find: Find = scan) -> list[Layout]:
    """The readings of `root` that have both images and masks, the most usual first."""
    paths = find(root, PairingError)
    if not paths:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise PairingError(f"{printable(root)} holds no images", fix=f"Images end in {suffixes}.")
    layouts = [
        _by_folder(root, paths, {"image"}, -1),
        _by_folder(root, paths, {"image"}, 0),
        _by_folder(root, paths, {"image", "data"}, -1),
        _by_folder(root, paths, {"image", "data", None}, -1),
        _by_name(root, paths, -1),
        _by_name(root, paths, 0),
    ]
    layouts.append(_one_in_the_other(layouts[0]))
    usable = [
        _without_bare_test(layout)
        for layout in dict.fromkeys(layouts)
        if layout.images and layout.masks
    ]
    if not usable:
        raise _one_sided(root, paths, only_masks=bool(layouts[0].masks))
    return usable


def _one_sided(root: Path, paths: Sequence[Path], *, only_masks: bool) -> PairingError:
    there, lacking = ("mask", "image") if only_masks else ("image", "mask")
    count = Counter(path.parent for path in paths)
    return PairingError(
        f"{printable(root)} holds {plural(len(paths), there)} but no {lacking}s: no folder or file "
        f"name says {lacking}",
        [
            f"{printable(folder)}: {plural(files, 'file')}"
            for folder, files in sorted(count.items())
        ],
        f"Give the folder that holds both. {BY_HAND}",
    )


def _by_folder(
    root: Path, paths: Sequence[Path], image_roles: Collection[str | None], pick: int
) -> Layout:
    """Read the roles from folder names: of several in a path, the first (0) or the last (-1)."""
    images: list[NamedFile] = []
    masks: list[NamedFile] = []
    for path in paths:
        roles = [read_folder_name(name).role for name in path.relative_to(root).parts[:-1]]
        telling = [i for i, role in enumerate(roles) if role and role in {"mask", *image_roles}]
        at = telling[pick] if telling else None
        if at is not None and roles[at] == "mask":
            masks.append(_read_path(root, path, at))
        elif at is not None or None in image_roles:
            images.append(_read_path(root, path, at))
    return _settle(images, masks, len(paths) - len(images) - len(masks))


def _by_name(root: Path, paths: Sequence[Path], pick: int) -> Layout:
    """Read the roles from file names: from their first (0) or last (-1) word."""
    images: list[NamedFile] = []
    masks: list[NamedFile] = []
    for path in paths:
        side = masks if says_mask(name_parts(path.stem)[pick]) else images
        side.append(_read_path(root, path))
    return Layout(tuple(images), tuple(masks))


def explicit_layout(root: Path, images: Path, masks: Path, find: Find = scan) -> Layout:
    """The files of two folders, which may lie one in the other, or in `root`, or be the same.

    Raises:
        PairingError: a folder is not there or holds no images.
    """
    folders = [folder if folder.is_dir() else root / folder for folder in (images, masks)]
    missing = [printable(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise PairingError("there is no such folder", missing, "Check --images and --masks.")
    (images, image_paths), (masks, mask_paths) = (
        (folder, find(folder, PairingError)) for folder in folders
    )
    if images.samefile(masks):
        layouts = [_by_name(images, image_paths, pick) for pick in (-1, 0)]
        return max(layouts, key=lambda layout: bool(layout.images and layout.masks))
    image_files = [_read_path(images, p) for p in _outside(image_paths, images, masks)]
    mask_files = [_read_path(masks, p) for p in _outside(mask_paths, masks, images)]
    sides = {"images": (images, image_files), "masks": (masks, mask_files)}
    empty = [
        f"{printable(folder)} ({side})" for side, (folder, files) in sides.items() if not files
    ]
    if empty:
        raise PairingError("there are no images in", empty, "Check --images and --masks.")
    return Layout(_below(images, image_files), _below(masks, mask_files))


def _outside(paths: Sequence[Path], folder: Path, other: Path) -> list[Path]:
    """The `paths` of `folder` that are not in `other`, should `other` lie in `folder`."""
    folder, other = folder.resolve(), other.resolve()
    if folder not in other.parents:
        return list(paths)
    return [path for path in paths if other not in path.parent.resolve().joinpath("x").parents]


def _below(folder: Path, files: Iterable[NamedFile]) -> tuple[NamedFile, ...]:
    return tuple(replace(f, place="/".join(filter(None, (folder.name, f.place)))) for f in files)


def _read_path(root: Path, path: Path, at: int | None = None) -> NamedFile:
    """Read the folders above `path`; the one at index `at` tells its role."""
    names = path.relative_to(root).parts[:-1]
    splits = [SPLITS.get(name.lower()) for name in names]
    folder: list[str | None] = [split or name for split, name in zip(splits, names, strict=True)]
    place = [
        name if split is None else "{split}" for split, name in zip(splits, names, strict=True)
    ]
    source = tag = ""
    if at is not None:
        _, splits[at], source, tag = read_folder_name(names[at])
        folder[at] = splits[at]
        place[at] = SPLIT_WORD.sub("{split}", names[at], 1) if splits[at] else names[at]
    split = next(filter(None, splits), None)
    return NamedFile(path, tuple(filter(None, folder)), split, "/".join(place), source, tag)


def _settle(images: Sequence[NamedFile], masks: Sequence[NamedFile], left_out: int) -> Layout:
    """Let tags be part of the key where there are several; name the folders that compete."""
    rivals = [*_rivals(images), *_rivals(masks)]
    tags = [{file.tag for file in side} for side in (images, masks)]
    if len(tags[0]) > 1 and tags[0] == tags[1]:
        images, masks = (
            [replace(f, folder=(*f.folder, f.tag)) for f in s] for s in (images, masks)
        )
    elif max(map(len, tags)) > 1 and min(map(len, tags)):
        rivals = [*_places(images), *_places(masks)]
    return Layout(tuple(images), tuple(masks), left_out, rivals=tuple(rivals))


def _one_in_the_other(layout: Layout) -> Layout:
    """The reading with masks in a folder among the images: images/a.png, images/masks/a.png."""
    images, masks = (
        tuple(
            replace(f, folder=tuple(name for name in f.folder if not _tells_role(name)))
            for f in side
        )
        for side in (layout.images, layout.masks)
    )
    return replace(layout, images=images, masks=masks)


def _tells_role(name: str) -> bool:
    return read_folder_name(name).role in {"image", "mask"}


def _without_bare_test(layout: Layout) -> Layout:
    """Leave out the images of a test split that has no masks, where others have splits."""
    splits = {mask.split for mask in layout.masks}
    kept = tuple(image for image in layout.images if image.split != "test")
    if "test" in splits or splits == {None} or not kept:
        return layout
    return replace(layout, images=kept, bare=len(layout.images) - len(kept))


def _rivals(files: Sequence[NamedFile]) -> list[str]:
    """Folders of different names that hold the same role for the same place."""
    holders: dict[tuple[tuple[str, ...], str], set[str]] = defaultdict(set)
    for file in files:
        holders[file.folder, file.tag].add(file.source)
    return _places(f for f in files if len(holders[f.folder, f.tag]) > 1)


def _places(files: Iterable[NamedFile]) -> list[str]:
    return sorted({file.place for file in files})
