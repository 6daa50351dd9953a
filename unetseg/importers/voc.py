"""Pascal VOC: JPEGImages, SegmentationClass and the lists in ImageSets/Segmentation.

Masks whose palette is that of the classes are copied as they are, with 255 for borders. Others,
such as the RGB masks that other programs export in this layout with a labelmap.txt, are turned into
class codes. Layout: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unetseg.data.files.folders import scan
from unetseg.data.files.limits import explained
from unetseg.data.masks.class_map import IGNORED, Colour
from unetseg.data.masks.mask_file import read_mask
from unetseg.errors import DataError, ImageError, MaskError
from unetseg.importers.annotations import AnnotatedImage, Annotations, Draw, Problem, class_codes
from unetseg.importers.image_files import CLASS_MASKS, ImageFiles, images_beside_masks
from unetseg.importers.label_colours import LabelColours, read_labelmap, read_painted
from unetseg.text import plural, printable

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair"),
    *("cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
"""The 21 classes of the challenge, in the order of their codes."""
BORDER: Colour = (224, 224, 192)
"""The colour of code 255: edges of objects, and what was too hard to tell."""

_MASKS, _LISTS = CLASS_MASKS, "ImageSets/Segmentation"
LABELMAP = "labelmap.txt"
_SPLITS = {"train": "train", "val": "val", "test": "test"}
_XML_LOOKED_AT = 20  # files

_Palette = NDArray[np.uint8] | None  # N×3 RGB


def read(source: Path, images: Path | None = None) -> Annotations:
    """Read a folder with SegmentationClass, or one that holds such a folder.

    Raises:
        DataError: there is no such folder, or its labelmap.txt is wrong.
    """
    root = _root(source)
    files = images_beside_masks(root, images)
    masks = {_name(path, root / _MASKS): path for path in scan(root / _MASKS, MaskError)}
    splits, problems = _read_lists(root)
    wanted = {name: path for name, path in masks.items() if not splits or name in splits}
    if not wanted:
        raise DataError(f"{printable(root / _MASKS)} holds none of the masks that are listed")
    paths = list(wanted.values())
    palettes = _palettes(paths)
    labels = _labels(root, palettes.values())
    classes = labels.classes if labels else _numbered(palettes)
    found = []
    for name, mask in zip(wanted, _drawn(paths, palettes, labels), strict=True):
        path = files.find(name)
        if isinstance(path, Problem):
            problems.append(path)
        else:
            found.append(AnnotatedImage(path, name, mask, splits.get(name)))
    problems += _lacking(splits, masks)
    notes = [*_notes(files, root, masks, len(masks) - len(wanted))]
    notes += [] if labels else [f"no {LABELMAP}: classes are called by their codes"]
    return Annotations(classes, found, tuple(problems), tuple(notes))


def colours(count: int = 256) -> list[Colour]:
    """The first colours of VOC's palette: the bits of the code, dealt to red, green, blue in turn.

    >>> colours(4), colours()[255] == BORDER
    ([(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)], True)
    """
    found = []
    for code in range(count):
        bits = [(code >> bit & 1) << (7 - bit // 3) for bit in range(8)]
        found.append((sum(bits[0::3]), sum(bits[1::3]), sum(bits[2::3])))
    return found


# Folders and lists


def _root(source: Path) -> Path:
    """The folder that holds SegmentationClass."""
    if source.name == _MASKS and source.is_dir():
        return source.absolute().parent
    if (source / _MASKS).is_dir():
        return source
    folders = (path for path in source.rglob(_MASKS) if path.is_dir())
    found = sorted(path.parent for path in folders if _is_shown(path.relative_to(source)))
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{printable(source)} holds several data sets", found, "Give one of them.")
    if any(b"<bndbox" in path.read_bytes() for path in islice(_xml(source), _XML_LOOKED_AT)):
        raise DataError(
            f"{printable(source)} holds boxes alone: boxes are no masks",
            fix=f"Export segmentation masks; VOC has them in {_MASKS}.",
        )
    raise DataError(
        f"{printable(source)} has no folder {_MASKS}", fix="Give the folder that has one."
    )


def _is_shown(path: Path) -> bool:
    """Whether a path leads through nothing hidden, nor through the shadows of macOS."""
    return not any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _xml(source: Path) -> Iterator[Path]:
    return (path for path in source.rglob("*.xml") if path.is_file())


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_name(path.stem).as_posix()


def _read_lists(root: Path) -> tuple[dict[str, str | None], list[Problem]]:
    """The split of each name that ImageSets/Segmentation lists; trainval counts as train."""
    splits: dict[str, str | None] = {}
    twice: dict[str, Problem] = {}
    for path in sorted((root / _LISTS).glob("*.txt"), key=lambda path: path.stem in _SPLITS):
        split = _SPLITS.get(path.stem)
        for name in _lines(path):
            before = splits.setdefault(name, split)
            if split and before and before != split:
                twice[name] = Problem("in several splits", f"{name}: {before} and {split}")
            splits[name] = split or before
    if (root / _LISTS / "trainval.txt").is_file():
        rest = set(_lines(root / _LISTS / "trainval.txt"))
        splits |= {name: "train" for name in rest if splits.get(name) is None}
    return {n: split for n, split in splits.items() if n not in twice}, list(twice.values())


def _lines(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _lacking(splits: Mapping[str, str | None], masks: Mapping[str, Path]) -> Iterator[Problem]:
    """Names listed for training or validation that have no mask; tests have none in public."""
    for name, split in splits.items():
        if name not in masks and split in {"train", "val"}:
            yield Problem("no such mask", f"{name}: listed for {split}")


def _notes(
    files: ImageFiles, root: Path, masks: Mapping[str, Path], unlisted: int
) -> Iterator[str]:
    """What was left out on purpose."""
    photos = files.paths if files.root != root else ()
    bare = sum(files.name_of(path) not in masks for path in photos)
    if bare:
        yield f"{plural(bare, 'image')} without a mask left out"
    if unlisted:
        yield f"{plural(unlisted, 'mask')} left out that no file in {_LISTS} lists"


# Classes


def _labels(root: Path, palettes: Iterable[_Palette]) -> LabelColours | None:
    """Those of labelmap.txt, or of the challenge where a palette is its own."""
    table = root / LABELMAP
    if table.is_file():
        labels = read_labelmap(table)
        return replace(labels, by_colour={BORDER: IGNORED} | dict(labels.by_colour))
    own = [list(colour) for colour in colours(len(CLASSES))]
    if not any(p is not None and p[: len(CLASSES)].tolist() == own for p in palettes):
        return None
    by_colour = dict(zip(colours(), range(len(CLASSES)), strict=False)) | {BORDER: IGNORED}
    return LabelColours(CLASSES, by_colour, range(len(CLASSES)))


def _numbered(masks: Iterable[Path]) -> tuple[str, ...]:
    """Names for all codes up to the highest but 255."""
    highest = 1
    coloured = []
    for path in masks:
        try:
            pixels = read_mask(path).pixels
        except MaskError:  # is told when the mask is drawn
            continue
        if pixels.ndim == 2:
            highest = max(highest, int(np.max(pixels, initial=0, where=pixels != IGNORED)))
        else:
            coloured.append(path)
    if coloured:
        fix = f"Put a {LABELMAP} with lines label:r,g,b:: beside {_MASKS}."
        raise DataError(f"masks have colours, and no {LABELMAP} says which", coloured, fix)
    return class_codes(f"class {code}" for code in range(1, highest + 1))[0]


# Masks


def _drawn(
    masks: Sequence[Path], palettes: Mapping[Path, _Palette], labels: LabelColours | None
) -> list[Path | Draw]:
    """Every mask as a file to copy, if all hold codes in one palette; else drawn as codes."""
    if labels is None or all(_holds_codes(palette, labels) for palette in palettes.values()):
        return list(masks)
    return [partial(_draw, path, labels) for path in masks]


def _holds_codes(palette: _Palette, labels: LabelColours) -> bool:
    """Whether a palette gives each code its colour, and 255 that of borders."""
    if palette is None or len(palette) < len(labels.classes):
        return False
    table = [labels.by_colour.get((red, green, blue)) for red, green, blue in palette.tolist()]
    return table[: len(labels.classes)] == [*range(len(labels.classes))] and set(
        table[IGNORED:]
    ) <= {IGNORED}


def _draw(path: Path, labels: LabelColours, height: int, width: int) -> NDArray[np.uint8]:
    """The class codes of a mask file of any coding; `height` and `width` are checked elsewhere."""
    raw = read_mask(path)
    if raw.coding != "integer":
        return read_painted(path, labels)
    if raw.pixels.dtype != np.uint8:
        raise MaskError(f"its mask has {raw.pixels.dtype} pixels, expected uint8")
    table = np.arange(256, dtype=np.uint8)
    table[: len(labels.by_line)] = labels.by_line
    return np.asarray(table[raw.pixels])


def _palettes(masks: Iterable[Path]) -> dict[Path, _Palette]:
    """The palette of each mask; those that cannot be read are told when they are drawn."""
    found = {}
    for path in masks:
        with suppress(ImageError):
            found[path] = _palette(path)
    return found


def _palette(path: Path) -> _Palette:
    """The palette of a PNG, from its header; None where there is none."""
    if path.suffix.lower() != ".png":
        return None
    with explained(path), Image.open(path, formats=("PNG",)) as image:
        values = image.getpalette("RGB") if image.mode == "P" else None
    return None if values is None else np.array(values, np.uint8).reshape(-1, 3)
