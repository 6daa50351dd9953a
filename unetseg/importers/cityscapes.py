"""Cityscapes: `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` and `gtFine/…/*_gtFine_labelIds.png`.

The layout and the classes are those of cityscapesScripts (README and helpers/labels.py): of the 34
label ids, 19 are evaluated and become the classes 0–18, the train ids; the others, and what has no
id (licence plates, −1), are ignored. Other people's data with such file names are read as well.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetseg.data.files.folders import scan
from unetseg.data.masks.class_map import IGNORED, runs
from unetseg.data.masks.mask_file import read_mask
from unetseg.data.pairs.naming import read_folder_name
from unetseg.errors import ImageError, MaskError
from unetseg.importers.annotations import (
    AnnotatedImage,
    Annotations,
    ImageKey,
    Problem,
    by_key,
    mask_pixels,
    split_of,
)
from unetseg.text import plural

LABEL_IDS = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
"""The label id of each evaluated class, in the order of the train ids."""
_ALL_LABEL_IDS = range(34)
_NO_ID = frozenset({-1, 255})  # what −1 is in 8 bits

_LABELS = re.compile(r"(.+?)_(?:(gt[A-Za-z]+)_)?label(Train)?Ids")
_IMAGE = re.compile(r"(.+)_leftImg8bit")
_OTHERS = re.compile(r".+_(?:color|instance(?:Train)?Ids|disparity|rightImg8bit)")
_MODALITY = re.compile(r"(?:leftImg8bit|gt[A-Z][a-z]+)(?:_.*)?")  # gtFine_trainvaltest


@dataclass(frozen=True)
class _Labels:
    """A label file: whether it is of gtCoarse, and whether it holds train ids."""

    path: Path
    is_coarse: bool
    has_train_ids: bool


def read(source: Path, images: Path | None = None) -> Annotations:
    """Read the label files below `source`, and find the image of each.

    Of several label files of an image the fine ones are taken, and label ids rather than train ids.
    A test split without published labels, and folders without label files, are left out.

    Args:
        source: The folder that holds leftImg8bit and gtFine or gtCoarse, or one above.
        images: The folder of the images, where it is another.

    Raises:
        DataError: a folder cannot be read.
    """
    labels = dict(_label_files(source))
    photos, twins = by_key(_photos(images or source))
    blank = _blank_tests(labels)
    wanted = {key: best for key, best in labels.items() if key not in blank}
    bare = sorted(key for key in photos if key not in labels)
    unlabelled = {_section(key) for key in bare} - {_section(key) for key in wanted}
    problems = [Problem("no such image", key.name) for key in wanted if key not in photos]
    problems += [
        Problem("no label file", key.name) for key in bare if _section(key) not in unlabelled
    ]
    annotated = [
        AnnotatedImage(photos[key], key.name, partial(_draw, best), key.split)
        for key, best in wanted.items()
        if key in photos and key not in twins
    ]
    without = [key for key in bare if _section(key) in unlabelled]
    notes = tuple(_notes(wanted.values(), blank, without))
    return Annotations(tuple(LABEL_IDS), annotated, (*problems, *twins.values()), notes)


def to_train_ids(label_ids: NDArray[np.integer]) -> NDArray[np.uint8]:
    """The classes 0–18 of label ids (integers of any shape), and 255 for what is not evaluated.

    >>> to_train_ids(np.array([7, 26, 0, -1, 33])).tolist()
    [0, 13, 255, 255, 18]

    Raises:
        MaskError: there are numbers that are no label ids.
    """
    table = dict.fromkeys(_ALL_LABEL_IDS, IGNORED)
    table |= {label_id: train_id for train_id, label_id in enumerate(LABEL_IDS.values())}
    return _translated(label_ids, table, "label ids")


def _draw(labels: _Labels, height: int, width: int) -> NDArray[np.uint8]:
    """The classes of a label file."""
    codes = mask_pixels(labels.path, height, width)
    if not labels.has_train_ids:
        return to_train_ids(codes)
    return _translated(codes, {code: code for code in range(len(LABEL_IDS))}, "train ids")


def _translated(
    codes: NDArray[np.integer], table: Mapping[int, int], what: str
) -> NDArray[np.uint8]:
    """The `table`'s value of each code; 255 for what has no id.

    Raises:
        MaskError: the table does not hold a code.
    """
    values, inverse, lengths = runs(codes.ravel())
    strange = [code for code in values.tolist() if code not in table and code not in _NO_ID]
    if strange:
        shown = ", ".join(map(str, strange))
        raise MaskError(f"{shown} are no {what} of Cityscapes ({min(table)}–{max(table)}, 255)")
    translated = np.array([table.get(code, IGNORED) for code in values.tolist()], np.uint8)
    return np.repeat(translated[inverse], lengths).reshape(codes.shape)


# Files


def _label_files(source: Path) -> list[tuple[ImageKey, _Labels]]:
    """The label files of each key, the best one last."""
    labels = []
    for path in scan(source, MaskError):
        parts = _LABELS.fullmatch(path.stem)
        if parts:
            one = _Labels(path, parts[2] == "gtCoarse", has_train_ids=parts[3] is not None)
            labels.append((_key(source, path, parts[1]), one))
    return sorted(labels, key=lambda one: (one[0], not one[1].is_coarse, not one[1].has_train_ids))


def _photos(root: Path) -> Iterator[tuple[ImageKey, Path]]:
    """The images: those called leftImg8bit, or else all that are nothing else of Cityscapes."""
    paths = scan(root, ImageError)
    left = [(path, parts[1]) for path in paths if (parts := _IMAGE.fullmatch(path.stem))]
    others = [
        (path, path.stem)
        for path in paths
        if not _LABELS.fullmatch(path.stem) and not _OTHERS.fullmatch(path.stem)
    ]
    yield from ((_key(root, path, stem), path) for path, stem in left or others)


def _key(root: Path, path: Path, stem: str) -> ImageKey:
    """The folders from the split on, and the bare name."""
    folders = [
        part
        for part in path.relative_to(root).parts[:-1]
        if not _MODALITY.fullmatch(part) and read_folder_name(part).role is None
    ]
    first = next((i for i, part in enumerate(folders) if split_of(part)), 0)
    return ImageKey(tuple(folders[first:]), stem)


def _section(key: ImageKey) -> str:
    """The first folder: train, val, test, train_extra, demoVideo."""
    return key.folders[0] if key.folders else ""


# What is left out


def _blank_tests(labels: Mapping[ImageKey, _Labels]) -> frozenset[ImageKey]:
    """The test split, if it has no truth: one mask of each of its folders shows no class.

    The published test split has label files in which all is void.
    """
    keys = sorted(key for key in labels if key.split == "test")
    firsts = [next(group) for _, group in groupby(keys, lambda key: key.folders)]
    is_blank = firsts and all(_is_blank(labels[key]) for key in firsts)
    return frozenset(keys if is_blank else ())


def _is_blank(labels: _Labels) -> bool:
    try:
        codes = read_mask(labels.path).pixels
        return bool((_draw(labels, *codes.shape[:2]) == IGNORED).all())
    except MaskError:  # is told when the mask is drawn
        return False


def _notes(
    used: Iterable[_Labels], blank: frozenset[ImageKey], bare: Sequence[ImageKey]
) -> Iterator[str]:
    """What the user should know."""
    coarse = sum(labels.is_coarse for labels in used)
    if coarse:
        yield f"{plural(coarse, 'mask')} of gtCoarse: large parts of them are ignored"
    if blank:
        yield f"the test split has no published labels: {plural(len(blank), 'image')} left out"
    for section, count in Counter(_section(key) or "the images" for key in bare).items():
        yield f"there are no label files for {section}: {plural(count, 'image')} left out"
