"""Run lengths in a CSV, as in Kaggle's competitions: a row for each object, or for each class.

A row names an image, mostly a class (`ClassId`, or within the name: `0011165.jpg_Fish`), and holds
couples of numbers, the first pixel of a run and its length. Pixels count from 1 on, down column
after column; where runs of the data set follow one another by the width of the image instead of its
height, they are taken to go along row after row. An empty cell, or -1, says that there is no
object. Small objects lie over large ones.
Format: https://www.kaggle.com/c/airbus-ship-detection/overview/evaluation
"""

import csv
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unetseg.data.files.image import ImageFile
from unetseg.errors import DataError, ImageError, MaskError
from unetseg.importers.annotations import FOREGROUND, Classes, Entry, Note, Problem, Shape
from unetseg.importers.shapes import Patch, Size, runs_to_patch
from unetseg.importers.source_files import ImageFiles, name_in, visible_files

_RUNS = ("encodedpixels", "rlemask", "rle", "segmentation", "annotation", "mask")
_IMAGES = ("imageid", "imageidclassid", "imagelabel", "image", "imgid", "id", "filename", "img")
_CLASSES = ("classid", "class", "classname", "label", "category", "categoryid")
_NAMED = re.compile(r"(.+\.(?:jpe?g|png|tiff?|bmp))_(.+)|(.+)_([^_]+)", re.IGNORECASE)
_LONGEST = 2**30  # characters of a cell
_SAMPLE = 200  # rows of which the order of their pixels is told


class _Columns(NamedTuple):
    """The places of the columns of a table; with `is_both`, that of the image tells the class."""

    delimiter: str
    image: int
    label: int | None
    runs: int
    is_both: bool


class _Row(NamedTuple):
    image: str
    label: str
    runs: str


def recognises(source: Path) -> bool:
    """Whether there is a CSV with a column of run lengths."""
    return bool(_tables(source))


def read(source: Path, images: Path | None = None) -> Iterator[Entry]:
    """Read the CSVs with run lengths in a folder and below, or one of them.

    Raises:
        DataError: there are none, or one cannot be read.
    """
    found = _tables(source)
    if not found:
        fix = "Give the CSV with the columns ImageId and EncodedPixels, and --images DIR."
        raise DataError("no CSV of run lengths found", fix=fix)
    truths = {path: c for path, c in found.items() if "submission" not in path.stem.lower()}
    tables = truths or found
    yield Note(len(found) - len(tables), "table", "left out: submissions are no truth")
    files = ImageFiles(source, images)
    by_image: dict[str, list[_Row]] = defaultdict(list)
    for table, columns in tables.items():
        for row in _rows(table, columns, name_in(source, table)):
            by_image[row.image].append(row)
    paths = {name: files.find(name) for name in by_image}
    by_rows = _go_by_rows(by_image, {n: p for n, p in paths.items() if isinstance(p, Path)})
    if by_rows:
        yield "runs follow one another by the width of the images: they go along the rows"
    labels = {row.label for rows in by_image.values() for row in rows} - {""}
    yield Classes(sorted(labels, key=lambda label: label.zfill(9) if label.isdigit() else label))
    used = set()
    for name, rows in by_image.items():
        shapes = [
            Shape(row.label, partial(_patch, row.runs, by_rows), f"row {i} ({row.label})")
            for i, row in enumerate(rows, 1)
            if row.runs
        ]
        entry = files.annotated(name, shapes, smallest_on_top=True)
        yield entry
        used |= set() if isinstance(entry, Problem) else {entry.path}
        yield Note(not shapes, "image", "without runs: all background")
    bare = sum(path not in used for path in files.paths)
    yield Note(bare, "image", "left out that no row names")


# The table


def _tables(source: Path) -> dict[Path, _Columns]:
    """The CSVs that have a column of run lengths, with their columns."""
    paths = [source] if source.is_file() else visible_files(source, "*.csv")
    tables = {path: _columns(path) for path in paths if path.suffix.lower() == ".csv"}
    return {path: columns for path, columns in tables.items() if columns}


def _columns(path: Path) -> _Columns | None:
    """Where the first line tells images and runs, or nothing."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        line = file.readline(_LONGEST)
    delimiter = max(",;\t", key=line.count)
    heads = line.lower().split(delimiter)
    names = [re.sub(r"[\W_]", "", head) for head in heads]

    def place(words: Sequence[str]) -> int | None:
        return next((names.index(word) for word in words if word in names), None)

    image, label, runs = place(_IMAGES), place(_CLASSES), place(_RUNS)
    if image is None or runs is None:
        return None
    is_both = label is None and bool(re.search("class|label", heads[image]))
    return _Columns(delimiter, image, label, runs, is_both)


def _rows(path: Path, columns: _Columns, name: str) -> Iterator[_Row]:
    delimiter, image, label, runs, is_both = columns
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    limit = csv.field_size_limit(_LONGEST)
    try:
        reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter)
        cells = [row for row in reader if any(cell.strip() for cell in row)][1:]
    except csv.Error as error:
        raise DataError(f"{name} cannot be read: {error}", fix="Save it as CSV.") from error
    finally:
        csv.field_size_limit(limit)
    for row in cells:
        row += [""] * (max(image, runs, label or 0) + 1 - len(row))
        coded = row[runs].strip()
        file, word = row[image].strip(), row[label].strip() if label is not None else FOREGROUND
        if is_both and (parts := _NAMED.fullmatch(file)):
            file, word = [part for part in parts.groups() if part is not None]
        coded = "" if coded in {"-1", "nan"} else coded
        yield _Row(file, word or (FOREGROUND if coded else ""), coded)


# Runs


def _numbers(runs: str) -> NDArray[np.int64]:
    """The starts, from 0 on, and lengths of runs: N×2.

    Raises:
        MaskError: they are no couples of whole numbers from 1 on, or overlap.
    """
    words = runs.replace(",", " ").split()
    if len(words) % 2 or not all(re.fullmatch(r"\d{1,15}", word) for word in words):
        raise MaskError("its runs are no couples of whole numbers")
    couples = np.array(words, np.int64).reshape(-1, 2)
    couples = couples[np.argsort(couples[:, 0])]
    if len(couples) and couples[0, 0] < 1:
        raise MaskError("its runs begin at pixel 0, expected 1 for the first")
    couples[:, 0] -= 1
    if (couples[1:, 0] < couples[:-1].sum(axis=1)).any():
        raise MaskError("its runs overlap")
    return couples


def _patch(runs: str, by_rows: bool, size: Size) -> Patch:
    height, width = size
    couples = _numbers(runs)
    ends = couples.sum(axis=1)
    if len(ends) and ends[-1] > height * width:
        raise MaskError(f"its runs end at pixel {ends[-1]}, the image has {height * width}")
    edges = np.r_[0, np.c_[couples[:, 0], ends].ravel(), height * width]
    patch = runs_to_patch(np.diff(edges), size[::-1] if by_rows else size)
    return Patch(patch.left, patch.top, patch.covered.T) if by_rows else patch


def _go_by_rows(rows: Mapping[str, Sequence[_Row]], paths: Mapping[str, Path]) -> bool:
    """Whether most runs are followed by one a row, not a column, further on."""
    votes = [0, 0]
    for name, path in [*paths.items()][:_SAMPLE]:
        try:
            with ImageFile(path) as image:
                sides = image.size
            coded = [_numbers(row.runs) for row in rows[name]]
        except (ImageError, MaskError):  # is told when it is drawn
            continue
        steps = np.concatenate([np.diff(couples[:, 0]) for couples in coded])
        for i, side in enumerate(sides if sides[0] != sides[1] else ()):
            votes[i] += int((np.abs(steps - side) <= side // 10).sum())
    return votes[1] > 2 * votes[0]
