"""Pascal VOC: JPEGImages, SegmentationClass and the lists in ImageSets/Segmentation.

Masks whose palette is that of the classes are copied as they are, with 255 for borders. Others,
such as the RGB masks that other programs export in this layout with a labelmap.txt, are turned into
class codes. Layout: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf

class_names.txt is labelme2voc's: the name of each code from 0 on, the first `_background_`. Without
one, masks with VOC's palette show the classes of the challenge.

labelmap.txt is datumaro's: a line `name:r,g,b:parts:actions` for each label, `#` before comments.
Masks are then RGB, a palette of the same colours, or numbers, which count the lines from 0 on.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unetseg.data.files.folders import is_hidden, scan
from unetseg.data.files.limits import explained
from unetseg.data.masks.class_map import IGNORED, Colour, pack
from unetseg.data.masks.mask_file import RawMask, mask_of_image, read_mask
from unetseg.errors import DataError, ImageError, MaskError
from unetseg.importers.annotations import (
    BACKGROUND,
    Classes,
    Entry,
    Note,
    Problem,
    class_codes,
    recode,
)
from unetseg.importers.source_files import ImageFiles, name_in, only_one
from unetseg.text import printable

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair"),
    *("cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
"""The 21 classes of the challenge, in the order of their codes."""
BORDER: Colour = (224, 224, 192)
"""The colour of code 255: edges of objects, and what was too hard to tell."""
CLASS_MASKS, OBJECT_MASKS = "SegmentationClass", "SegmentationObject"
"""Folders of masks."""
LISTS = "ImageSets/Segmentation"
"""The folder of the lists, one for each split."""
LABELMAP = "labelmap.txt"
_NAMES = "class_names.txt"
_SPLITS = {"train": "train", "val": "val", "test": "test"}
_BLACK: Colour = (0, 0, 0)
_LINE = re.compile(
    r"([^:]+(?::[^:]+)*?):(?:\s*(\d{1,9}\s*,\s*\d{1,9}\s*,\s*\d{1,9}))?\s*((?::[^:]*)*)"
)
_XML_LOOKED_AT = 20  # files

_Palette = NDArray[np.uint8] | None  # N×3 RGB


@dataclass(frozen=True)
class LabelColours:
    """Classes, and the code of each colour and of each line of labelmap.txt.

    Attributes:
        classes: The name of each code, the background first.
        by_colour: The code of each colour. The label that is black is the background, whatever it
            is called, unless another is called so.
        by_line: The code of each line.
    """

    classes: tuple[str, ...]
    by_colour: Mapping[Colour, int]
    by_line: Sequence[int]


def recognises(source: Path) -> bool:
    """Whether there is a folder SegmentationClass that CVAT has not written."""
    folders = [path for path in source.rglob(CLASS_MASKS) if path.is_dir()]
    return any(not (path.parent / LABELMAP).is_file() for path in folders)


def read(source: Path, images: Path | None = None) -> Iterator[Entry]:
    """Read a folder with SegmentationClass, or one that holds such a folder.

    Raises:
        DataError: there is no such folder, or its labelmap.txt is wrong.
    """
    root = _root(source)
    files = images_beside_masks(root, images)
    masks = masks_by_name(root)
    splits, problems = read_lists(root, _SPLITS.get)
    own = splits.keys() & masks.keys() & _augmented(root)
    splits |= {name: splits[name] or "train" for name in own}
    listed = {name: path for name, path in masks.items() if not splits or name in splits}
    if not listed:
        raise DataError(f"{CLASS_MASKS} holds none of the masks that are listed")
    palettes = _palettes(listed.values())
    labels = _labels(root, source, palettes.values())
    if labels is None:
        yield Classes(_numbered(palettes, root), coded=True)
        yield f"no {LABELMAP}: classes are called by their codes"
    else:
        yield Classes(labels.classes, coded=True)
        if labels.classes is CLASSES:
            yield f"no {LABELMAP} and no {_NAMES}: classes are called as in the challenge"
    yield from problems
    are_codes = labels is None or all(_holds_codes(one, labels) for one in palettes.values())
    for name, path in listed.items():
        mask = path if labels is None or are_codes else partial(_draw, path, labels)
        yield files.annotated(name, mask, split=splits.get(name))
    for name, split in splits.items():
        if name not in masks and split in {"train", "val"}:  # tests have no masks in public
            yield Problem("no such mask", f"{name}: listed for {split}")
    photos = files.paths if files.root != root else ()
    bare = sum(files.name_of(path) not in masks for path in photos)
    yield Note(bare, "image", "without a mask left out")
    unlisted = len(masks) - len(listed)
    yield Note(unlisted, "mask", f"left out that no file in {LISTS} lists")


def colours(count: int = 256) -> list[Colour]:
    """The first colours of VOC's palette: the bits of the code, dealt to red, green, blue in turn.

    >>> colours(4), colours()[255] == BORDER
    ([(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)], True)
    """
    table = []
    for code in range(count):
        bits = [(code >> bit & 1) << (7 - bit // 3) for bit in range(8)]
        table.append((sum(bits[0::3]), sum(bits[1::3]), sum(bits[2::3])))
    return table


# The tree, which CVAT writes too


def images_beside_masks(root: Path, images: Path | None = None) -> ImageFiles:
    """The images of a tree: never the masks, which have the same names.

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
        fix = 'Say where they are (--images DIR); from CVAT, export with "Save images".'
        raise DataError("no images found", fix=fix)
    return files


def masks_by_name(root: Path) -> dict[str, Path]:
    """The mask files by the names of their images."""
    folder = root / CLASS_MASKS
    paths = scan(folder, MaskError) if folder.is_dir() else []
    pictures = root / f"{CLASS_MASKS}PNG"  # of labelme2voc, where the other folder holds arrays
    if pictures.is_dir() and all(path.suffix == ".npy" for path in paths):
        folder, paths = pictures, scan(pictures, MaskError)
    return {path.relative_to(folder).with_name(path.stem).as_posix(): path for path in paths}


def read_lists(
    root: Path, split_named: Callable[[str], str | None]
) -> tuple[dict[str, str | None], list[Problem]]:
    """The split of each name that ImageSets/Segmentation lists; trainval counts as train.

    Args:
        root: The folder that holds ImageSets.
        split_named: The split that the name of a list means, if it means one.
    """
    splits: dict[str, str | None] = {}
    twice: dict[str, Problem] = {}
    for path in sorted((root / LISTS).glob("*.txt"), key=lambda path: (path.stem in _SPLITS, path)):
        split = split_named(path.stem)
        for name in _names_in(path):
            before = splits.setdefault(name, split)
            if split and before and before != split:
                twice[name] = Problem("in several splits", f"{name}: {before} and {split}")
            splits[name] = split or before
    if (root / LISTS / "trainval.txt").is_file():
        rest = _names_in(root / LISTS / "trainval.txt")
        splits |= {name: "train" for name in rest if splits.get(name) is None}
    return {n: split for n, split in splits.items() if n not in twice}, list(twice.values())


def _augmented(root: Path) -> set[str]:
    """The names in trainaug.txt and the like, whose masks are of SBD, and mostly elsewhere."""
    return {name for path in (root / LISTS).glob("train*aug.txt") for name in _names_in(path)}


def _root(source: Path) -> Path:
    """The folder that holds SegmentationClass."""
    if source.name == CLASS_MASKS and source.is_dir():
        return source.absolute().parent
    if (source / CLASS_MASKS).is_dir():
        return source
    folders = (path for path in source.rglob(CLASS_MASKS) if path.is_dir())
    shown = [path.parent for path in folders if not is_hidden(path.relative_to(source).parts)]
    root = only_one(sorted(shown), source)
    if root is not None:
        return root
    xml = (path for path in source.rglob("*.xml") if path.is_file())
    if any(b"<bndbox" in path.read_bytes() for path in islice(xml, _XML_LOOKED_AT)):
        fix = f"Export segmentation masks; VOC has them in {CLASS_MASKS}."
        raise DataError("there are boxes alone: boxes are no masks", fix=fix)
    raise DataError(f"there is no folder {CLASS_MASKS}", fix="Give the folder that has one.")


def _names_in(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


# Classes


def read_labelmap(path: Path) -> LabelColours:
    """Read a labelmap.txt; the classes have its order, the background comes first.

    Raises:
        DataError: it is no text, or lines are wrong or clash; all of them are listed.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} cannot be read: {error}") from error
    labels: dict[str, Colour] = {}
    faults = []
    for line in map(str.strip, lines):
        if line and not line.startswith("#"):
            name, colour, fault = _read_line(line, labels)
            labels[name] = colour
            faults += [printable(f"{line}: {fault}")] if fault else []
    if faults or not labels:
        fix = "Write lines such as road:128,64,128::, each with a name and a colour of its own."
        raise DataError(f"{path.name} is no list of labels and colours", faults, fix)
    classes, codes = class_codes(labels)
    black = [name for name, colour in labels.items() if colour == _BLACK]
    if black and 0 not in codes.values():
        classes = (*black, *(name for name in labels if name not in black))
        codes = {name: code for code, name in enumerate(classes)}
    by_colour = {_BLACK: 0} | {colour: codes[name] for name, colour in labels.items()}
    return LabelColours(classes, by_colour, [codes[name] for name in labels])


def _read_line(line: str, before: Mapping[str, Colour]) -> tuple[str, Colour, str]:
    """Name and colour of one line, and what is wrong with it, if anything is."""
    parts = _LINE.fullmatch(line)
    if parts is None or parts[2] is None:
        return line, _BLACK, "expected name:r,g,b::"
    red, green, blue = (int(part) for part in parts[2].split(","))
    name, colour = parts[1].strip(), (red, green, blue)
    if max(colour) > 255:
        return name, colour, "expected colours from 0 to 255"
    if name in before:
        return name, colour, "the name is there twice"
    twin = next((other for other, taken in before.items() if taken == colour), None)
    return name, colour, f"{twin} has the same colour" if twin else ""


def _labels(root: Path, source: Path, palettes: Iterable[_Palette]) -> LabelColours | None:
    """Those of labelmap.txt, else names of VOC's colours, where a palette has these."""
    table = root / LABELMAP
    if table.is_file():
        labels = read_labelmap(table)
        return replace(labels, by_colour={BORDER: IGNORED} | dict(labels.by_colour))
    names = _class_names(root, source) or CLASSES
    own = colours(len(names))
    if not any(p is not None and [*map(tuple, p[: len(own)].tolist())] == own for p in palettes):
        return None
    by_colour = {colour: code for code, colour in enumerate(own)} | {BORDER: IGNORED}
    return LabelColours(names, by_colour, range(len(names)))


def _class_names(*folders: Path) -> tuple[str, ...]:
    """The names in the first class_names.txt by their codes, or none; `__ignore__` has none."""
    path = next(filter(Path.is_file, (folder / _NAMES for folder in folders)), None)
    names = _names_in(path) if path else []
    if names[:1] == ["__ignore__"]:
        names = names[1:]
    if names and class_codes(names[:1])[0] == (BACKGROUND,):
        return (BACKGROUND, *names[1:])
    return ()


def _numbered(masks: Iterable[Path], root: Path) -> tuple[str, ...]:
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
            coloured.append(name_in(root, path))
    if coloured:
        fix = f"Put a {LABELMAP} with lines label:r,g,b:: beside {CLASS_MASKS}."
        raise DataError(f"masks have colours, and no {LABELMAP} says which", coloured, fix)
    return class_codes(f"class {code}" for code in range(1, highest + 1))[0]


# Masks


def _holds_codes(palette: _Palette, labels: LabelColours) -> bool:
    """Whether a palette gives each code its colour, and 255 that of borders."""
    if palette is None or len(palette) < len(labels.classes):
        return False
    table = [labels.by_colour.get((red, green, blue)) for red, green, blue in palette.tolist()]
    return table[: len(labels.classes)] == [*range(len(labels.classes))] and set(
        table[IGNORED:]
    ) <= {IGNORED}


def _draw(path: Path, labels: LabelColours, height: int, width: int) -> NDArray[np.uint8]:
    """The class codes of a mask file of any coding; its size is checked elsewhere."""
    raw = mask_of_image(path, height, width)
    if raw.coding != "integer":
        return painted_codes(raw, labels, path)
    if raw.pixels.dtype != np.uint8:
        raise MaskError(f"its mask has {raw.pixels.dtype} pixels, expected uint8")
    table = np.arange(256, dtype=np.uint8)
    table[: len(labels.by_line)] = labels.by_line
    return np.asarray(table[raw.pixels])


def painted_codes(mask: RawMask, labels: LabelColours, path: Path) -> NDArray[np.uint8]:
    """The class codes of a mask read from `path`, H×W.

    Numbers without a palette are grey colours, if all are, or else numbers of lines.

    Raises:
        MaskError: it has colours or numbers of no label; all are named.
    """

    def name(colour: int) -> str:
        return f"{colour >> 16},{colour >> 8 & 255},{colour & 255}"

    if mask.coding != "integer":
        packed = pack(np.array([*labels.by_colour], np.uint8)).tolist()
        by_colour = dict(zip(packed, labels.by_colour.values(), strict=True))
        if mask.palette is None:
            colours = pack(mask.pixels)
        else:
            colours = pack(np.array(mask.palette, np.uint8).reshape(256, 3))[mask.pixels]
        return recode(colours, by_colour, f"{path.name} has colours of no label", name)
    greys = {n: labels.by_colour[n, n, n] for n in range(256) if (n, n, n) in labels.by_colour}
    are_greys = greys.keys() >= set(np.unique(mask.pixels).tolist())
    numbers = greys if are_greys else dict(enumerate(labels.by_line))
    return recode(mask.pixels, numbers, f"{path.name} has numbers of no label")


def _palettes(masks: Iterable[Path]) -> dict[Path, _Palette]:
    """The palette of each mask, from the header of a PNG; None where there is none.

    Masks that cannot be read are left out here, and told when they are drawn.
    """
    palettes: dict[Path, _Palette] = {}
    for path in masks:
        if path.suffix.lower() != ".png":
            palettes[path] = None
            continue
        with suppress(ImageError), explained(path), Image.open(path, formats=("PNG",)) as image:
            values = image.getpalette("RGB") if image.mode == "P" else None
            table = None if values is None else np.array(values, np.uint8).reshape(-1, 3)
            palettes[path] = table
    return palettes
