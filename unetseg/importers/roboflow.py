"""Roboflow: its export of semantic masks; its exports to COCO and YOLO are read as these.

In the folder of each split lie `x_jpg.rf.HASH.jpg`, its mask `x_jpg.rf.HASH_mask.png`, whose pixels
are numbers, and `_classes.csv`, a line `number, name` for each. The classes have the order of their
numbers. Format: https://docs.roboflow.com/datasets/exporting-data
"""

import csv
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetseg.data.files.folders import scan
from unetseg.data.pairs.naming import split_of
from unetseg.errors import DataError, ImageError
from unetseg.importers import coco, yolo
from unetseg.importers.annotations import (
    AnnotatedImage,
    Classes,
    Entry,
    Problem,
    class_codes,
    mask_pixels,
    recode,
)
from unetseg.importers.source_files import name_in, visible_files

TABLE = "_classes.csv"
_MASK = "_mask"


def recognises(source: Path) -> bool:
    """Whether there is a table of classes and a mask beside it."""
    tables = source.rglob(TABLE)
    return any(next(table.parent.glob(f"*{_MASK}.png"), None) for table in tables)


def read(source: Path, images: Path | None = None) -> Iterator[Entry]:
    """Read an export: folders of splits, or one of them.

    Raises:
        DataError: there are no masks, or a table of classes is wrong.
    """
    tables = visible_files(source, TABLE) if source.is_dir() else []
    if not tables:
        for reader in (coco, yolo):
            if reader.recognises(source):
                yield from reader.read(source, images)
                return
        fix = 'Export it as "Semantic Segmentation Masks", COCO segmentation or YOLO.'
        raise DataError(f"no masks with {TABLE} found", fix=fix)
    names = {table: _read_table(table, name_in(source, table)) for table in tables}
    union = sorted({entry for one in names.values() for entry in one.items()})
    classes, codes = class_codes(name for _, name in union)
    yield Classes(classes, coded=True)
    for table in tables:
        by_number = {number: codes[name] for number, name in names[table].items()}
        yield from _pairs_beside(table, by_number, source)


def _pairs_beside(table: Path, codes: Mapping[int, int], source: Path) -> Iterator[Entry]:
    """The images in the folder of a table, with their masks."""
    folder = table.parent
    paths = {path.stem: path for path in scan(folder, ImageError) if path.parent == folder}
    for stem, path in paths.items():
        mask = paths.get(stem + _MASK)
        if mask is not None:
            name = path.relative_to(source).with_name(stem).as_posix()
            yield AnnotatedImage(path, name, partial(_draw, mask, codes), split_of(folder.name))
        elif not stem.endswith(_MASK):
            yield Problem("no such mask", f"{name_in(source, path)}: {stem}{_MASK}.png")
        elif stem.removesuffix(_MASK) not in paths:
            yield Problem("no such image", name_in(source, path))


def _read_table(path: Path, name: str) -> dict[int, str]:
    """The name of each number."""
    try:
        rows = [*csv.reader(path.read_text(encoding="utf-8-sig").splitlines())][1:]
        return {int(row[0]): row[1].strip() for row in rows if row}
    except (ValueError, IndexError, csv.Error) as error:
        raise DataError(f"{name} has other lines than `number, name`") from error


def _draw(path: Path, codes: Mapping[int, int], height: int, width: int) -> NDArray[np.uint8]:
    pixels = mask_pixels(path, height, width)
    return recode(pixels, codes, f"{path.name} has numbers of no class")
