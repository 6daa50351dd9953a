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
from unetseg.importers.annotations import AnnotatedImage, Annotations, Problem, split_of
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


@dataclass(frozen=True, order=True)
class _Key:
    """What image and label file share: the folders from the split on, and the bare name."""

    folders: tuple[str, ...]
    stem: str

    @property
    def section(self) -> str:
        """The first folder: train, val, test, train_extra, demoVideo."""
        return self.folders[0] if self.folders else ""

    @property
    def split(self) -> str | None:
        """train, val or test."""
        return next(filter(None, map(split_of, self.folders)), None)

    @property
    def name(self) -> str:
        """What the pair is to be called: `aachen/aachen_000000_000019`."""
        return "/".join([*(part for part in self.folders if not split_of(part)), self.stem])


@dataclass(frozen=True)
class _Labels:
    """A label file, its kind such as gtFine, and whether it holds train ids."""

    path: Path
    kind: str | None
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
    named = list(_photos(images or source))
    photos = dict(named)
    twins = {key for key, count in Counter(key for key, _ in named).items() if count > 1}
    blank = _blank_tests(labels)
    wanted = {key: found for key, found in labels.items() if key not in blank}
    bare = sorted(key for key in photos if key not in labels)
    unlabelled = {key.section for key in bare} - {key.section for key in wanted}
    problems = [Problem("no such image", key.name) for key in wanted if key not in photos]
    problems += [
        Problem("no label file", key.name) for key in bare if key.section not in unlabelled
    ]
    problems += [Problem("several images of one name", key.name) for key in sorted(twins)]
    return Annotations(
        tuple(LABEL_IDS),
        [
            AnnotatedImage(photos[key], key.name, partial(_draw, found), key.split)
            for key, found in wanted.items()
            if key in photos and key not in twins
        ],
        tuple(problems),
        tuple(_notes(wanted.values(), blank, [key for key in bare if key.section in unlabelled])),
    )


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
    codes = read_mask(labels.path).pixels
    if codes.shape != (height, width):
        came = "×".join(map(str, codes.shape))
        raise MaskError(f"{labels.path.name} is {came}, expected {height}×{width} numbers")
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
    found = np.array([table.get(code, IGNORED) for code in values.tolist()], np.uint8)
    return np.repeat(found[inverse], lengths).reshape(codes.shape)


# Files


def _label_files(source: Path) -> Iterator[tuple[_Key, _Labels]]:
    """The best label file of each key; it comes last."""
    found = []
    for path in scan(source, MaskError):
        parts = _LABELS.fullmatch(path.stem)
        if parts:
            labels = _Labels(path, parts[2], has_train_ids=parts[3] is not None)
            found.append((_key(source, path, parts[1]), labels))
    yield from sorted(
        found, key=lambda one: (one[0], not _is_coarse(one[1]), not one[1].has_train_ids)
    )


def _photos(root: Path) -> Iterator[tuple[_Key, Path]]:
    """The images: those called leftImg8bit, or else all that are nothing else of Cityscapes."""
    paths = scan(root, ImageError)
    left = [(path, found[1]) for path in paths if (found := _IMAGE.fullmatch(path.stem))]
    others = (
        (path, path.stem)
        for path in paths
        if not _LABELS.fullmatch(path.stem) and not _OTHERS.fullmatch(path.stem)
    )
    yield from ((_key(root, path, stem), path) for path, stem in left or others)


def _key(root: Path, path: Path, stem: str) -> _Key:
    folders = [
        part
        for part in path.relative_to(root).parts[:-1]
        if not _MODALITY.fullmatch(part) and read_folder_name(part).role is None
    ]
    first = next((i for i, part in enumerate(folders) if split_of(part)), 0)
    return _Key(tuple(folders[first:]), stem)


def _is_coarse(labels: _Labels) -> bool:
    return labels.kind == "gtCoarse"


# What is left out


def _blank_tests(labels: Mapping[_Key, _Labels]) -> frozenset[_Key]:
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


def _notes(used: Iterable[_Labels], blank: frozenset[_Key], bare: Sequence[_Key]) -> Iterator[str]:
    """What the user should know."""
    coarse = sum(map(_is_coarse, used))
    if coarse:
        yield f"{plural(coarse, 'mask')} of gtCoarse: large parts of them are ignored"
    if blank:
        yield f"the test split has no published labels: {plural(len(blank), 'image')} left out"
    for section, count in Counter(key.section or "the images" for key in bare).items():
        yield f"there are no label files for {section}: {plural(count, 'image')} left out"
