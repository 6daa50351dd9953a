"""Cityscapes: `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` and `gtFine/…/*_gtFine_labelIds.png`.

The layout and the classes are those of cityscapesScripts (README and helpers/labels.py): of the 34
label ids, 19 are evaluated and become the classes 0–18, the train ids; the others, and what has no
id (licence plates, −1), are ignored. Other people's data with such file names are read as well.
"""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unetseg.data.files.folders import scan
from unetseg.data.masks.class_map import IGNORED
from unetseg.data.masks.mask_file import read_mask
from unetseg.data.pairs.mask_sets import ImageKey
from unetseg.data.pairs.naming import read_name, split_of
from unetseg.errors import ImageError, MaskError
from unetseg.importers.annotations import (
    AnnotatedImage,
    Classes,
    Entry,
    Note,
    Problem,
    mask_pixels,
    recode,
)
from unetseg.importers.source_files import by_key

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
_NO_ID = {-1: IGNORED, 255: IGNORED}  # 255 is what −1 is in 8 bits
BY_LABEL_ID = (
    dict.fromkeys(range(34), IGNORED)
    | {label_id: train_id for train_id, label_id in enumerate(LABEL_IDS.values())}
    | _NO_ID
)
_BY_TRAIN_ID = {train_id: train_id for train_id in range(len(LABEL_IDS))} | _NO_ID

_LABELS = re.compile(r"(.+?)_(?:(gt[A-Za-z]+)_)?label(Train)?Ids")
_IMAGE = re.compile(r"(.+)_leftImg8bit")
_OTHERS = re.compile(r".+_(?:color|instance(?:Train)?Ids|disparity|rightImg8bit)")
_MODALITY = re.compile(r"(?:leftImg8bit|gt[A-Z][a-z]+)(?:_.*)?")  # gtFine_trainvaltest


class _Labels(NamedTuple):
    """A label file: whether it is of gtCoarse, and whether it holds train ids."""

    path: Path
    is_coarse: bool
    has_train_ids: bool


def recognises(source: Path) -> bool:
    """Whether there are label files."""
    files = [] if source.is_file() else scan(source, MaskError)
    return any(_LABELS.fullmatch(path.stem) for path in files)


def read(source: Path, images: Path | None = None) -> Iterator[Entry]:
    """Read the label files below `source`, and find the image of each.

    Of several label files of an image the fine ones are taken, and label ids rather than train ids.
    A test split without published labels, and folders without label files, are left out.

    Raises:
        DataError: a folder cannot be read.
    """
    yield Classes(LABEL_IDS, coded=True)
    labels = _label_files(source)
    photos, twins = by_key(_photos(images or source))
    blank = _blank_tests(labels)
    yield Note(len(blank), "image", "of the test split left out: it has no published labels")
    labels = {key: one for key, one in labels.items() if key not in blank}
    for key, one in labels.items():
        yield Note(one.is_coarse, "mask", "of gtCoarse: large parts of them are ignored")
        if key not in photos:
            yield Problem("no such image", key.name)
        elif key not in twins:
            yield AnnotatedImage(photos[key], key.name, partial(_draw, one), key.split)
    sections = {_section(key) for key in labels}
    for key in sorted(photos.keys() - labels.keys() - blank):
        if _section(key) in sections:
            yield Problem("no label file", key.name)
        else:
            where = _section(key) or "the images"
            yield Note(1, "image", f"of {where} left out: there are no label files")
    yield from twins.values()


def _draw(labels: _Labels, height: int, width: int) -> NDArray[np.uint8]:
    codes = mask_pixels(labels.path, height, width)
    if labels.has_train_ids:
        complaint = "there are no such train ids of Cityscapes (0–18, 255)"
        return recode(codes, _BY_TRAIN_ID, complaint)
    return recode(codes, BY_LABEL_ID, "there are no such label ids of Cityscapes (0–33, 255)")


def _blank_tests(labels: Mapping[ImageKey, _Labels]) -> set[ImageKey]:
    """The test split, if it has no truth: one mask of each of its folders shows no class.

    The published test split has label files in which all is void.
    """
    tests = sorted(key for key in labels if key.split == "test")
    for _, group in groupby(tests, lambda key: key.folders):
        first = labels[next(group)]
        try:
            codes = read_mask(first.path).pixels
            if (_draw(first, *codes.shape[:2]) != IGNORED).any():
                return set()
        except MaskError:  # is told when the mask is drawn
            return set()
    return set(tests)


# Files


def _label_files(source: Path) -> dict[ImageKey, _Labels]:
    """The best label file of each key."""
    labels = []
    for path in scan(source, MaskError):
        parts = _LABELS.fullmatch(path.stem)
        if parts:
            one = _Labels(path, parts[2] == "gtCoarse", has_train_ids=parts[3] is not None)
            labels.append((_key(source, path, parts[1]), one))
    # The last one counts.
    labels.sort(key=lambda one: (one[0], not one[1].is_coarse, not one[1].has_train_ids))
    return dict(labels)


def _photos(root: Path) -> list[tuple[ImageKey, Path]]:
    """The images: those called leftImg8bit, or else all that are nothing else of Cityscapes."""
    paths = scan(root, ImageError)
    left = [(path, parts[1]) for path in paths if (parts := _IMAGE.fullmatch(path.stem))]
    others = [
        (path, path.stem)
        for path in paths
        if not _LABELS.fullmatch(path.stem) and not _OTHERS.fullmatch(path.stem)
    ]
    return [(_key(root, path, stem), path) for path, stem in left or others]


def _key(root: Path, path: Path, stem: str) -> ImageKey:
    """The folders from the split on, and the bare name."""
    folders = [
        part
        for part in path.relative_to(root).parts[:-1]
        if not _MODALITY.fullmatch(part) and read_name(part).role is None
    ]
    first = next((i for i, part in enumerate(folders) if split_of(part)), 0)
    return ImageKey(tuple(folders[first:]), stem)


def _section(key: ImageKey) -> str:
    """The first folder: train, val, test, train_extra, demoVideo."""
    return key.folders[0] if key.folders else ""
