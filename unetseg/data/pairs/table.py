"""Tables in CSV files: pairs, by the usual names of columns, and the splits of files."""

import csv
import os
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from unetseg.data.files.folders import IMAGE_SUFFIXES, is_hidden, output_names
from unetseg.data.files.pages import file_of, split_page
from unetseg.data.pairs.naming import SPLITS, read_name
from unetseg.data.pairs.pair import Pair
from unetseg.errors import PairingError
from unetseg.storage import is_file
from unetseg.text import printable

_COLUMNS = {
    "image": (
        *("image", "imagepath", "imagefile", "imagename", "imagefilename"),
        *("img", "imgpath", "imgfile", "imgname", "filename", "file", "filepath", "path"),
    ),
    "mask": (
        *("mask", "maskpath", "maskfile", "maskname", "maskfilename", "gt", "gtpath"),
        *("groundtruth", "seg", "segpath", "segmentation", "segmentationpath"),
        *("annotation", "annotationpath", "labelpath", "labelfile", "label"),
    ),
    "split": ("split", "set", "subset"),
    "group": ("group", "fold"),
}
"""Usual names of each column without case, spaces and underscores, the plainest first."""
_HEAD = 1 << 16  # bytes of a header
_MOST = 64 << 20  # bytes of a table that nobody named


class _Row(NamedTuple):
    """What a row of the file holds; files that are not there are None."""

    line: int
    cells: dict[str, str]
    image: Path | None
    mask: Path | None
    surplus: str
    """What stands beyond the last column."""


def read_table(
    table: Path, group_column: str | None = None, root: Path | None = None
) -> list[Pair]:
    """The pairs that the CSV file `table` lists, in its order.

    Columns are known by their usual names, such as image_path and label. A column fold groups; a
    column set or subset tells the splits where all that it holds are such words.

    Args:
        table: CSV file with the columns image, mask and optionally split and group; paths are
            absolute or relative to it, else to `root`, with slashes or backslashes.
        group_column: Column that holds the group, instead of "group".
        root: The folder of the pairs.

    Raises:
        PairingError: it cannot be read, lacks columns, or has faulty rows; all of them are listed,
            and `came` is the number of rows whose files are there.
    """
    header, cells = _read_cells(table)
    columns = _columns(header, [row for _, row in cells], group_column)
    needed = ["image", "mask", *(["group"] if group_column else [])]
    lacking = [group_column if n == "group" else n for n in needed if n not in columns]
    if lacking or not cells:
        raise PairingError(
            f"{printable(table)} lacks columns"
            if lacking
            else f"{printable(table)} lists no pairs",
            [str(name) for name in lacking],
            f"Expected the columns image, mask and optionally split, group; found: "
            f"{', '.join(map(printable, header)) or 'none'}.",
        )
    bases = list(dict.fromkeys(str(base.absolute()) for base in (table.parent, root) if base))
    rows = [_row(line, row, columns, len(header), bases) for line, row in cells]
    faults = [fault for row in rows for fault in _row_faults(row)]
    images = Counter(row.image for row in rows if row.image)
    faults += [
        f"{printable(path)} is listed {n} times as image" for path, n in images.items() if n > 1
    ]
    if faults:
        pairs = sum(row.image is not None and row.mask is not None for row in rows)
        came = f"{printable(table)} has faulty rows"
        raise PairingError(came, faults, "Correct these rows.", code="faulty-rows", came=pairs)
    base = Path(os.path.commonpath([path.parent for path in images]))
    called = {path: _named(path) for path in images}
    names = dict(output_names([(path, base) for path in called.values()]))
    return [
        Pair(
            row.image,
            row.mask,
            names[called[row.image]].as_posix(),
            SPLITS.get(row.cells.get("split", "").lower()),
            row.cells.get("group") or None,
        )
        for row in rows
        if row.image and row.mask
    ]


def files_by_folder(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder from `root` on and the names of its files, in order, without hidden entries."""
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):  # as images are found
        status = Path(folder).stat()
        if (place := (status.st_dev, status.st_ino)) in seen:  # links may lead in circles
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not is_hidden([name]))
        yield folder, sorted(name for name in names if not is_hidden([name]))


def as_text(content: bytes, errors: str = "strict") -> str:
    """The text in a file of UTF-8, or of UTF-16 where its first bytes say so."""
    is_utf16 = content.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
    return content.decode("utf-16" if is_utf16 else "utf-8-sig", errors)


def any_text(content: bytes) -> str:
    """The text of a file, also in the encoding of old Windows; nothing of what is no text."""
    try:
        return as_text(content)
    except UnicodeDecodeError:
        return "" if b"\0" in content else content.decode("cp1252", "replace")


def tables_below(root: Path, *columns: str) -> Iterator[Path]:
    """The CSV files below `root` whose first line has usual names of these columns."""
    for folder, names in files_by_folder(root):
        for path in (Path(folder, name) for name in names if name.lower().endswith(".csv")):
            if not is_file(path):
                continue
            line = ""
            with suppress(OSError), path.open("rb") as file:
                line = as_text(file.readline(_HEAD), "ignore")
            header = {_plain(cell.strip('"\r\n')) for cell in re.split("[,;\t]", line)}
            is_meant = all(header.intersection(_COLUMNS[column]) for column in columns)
            if is_meant and path.stat().st_size < _MOST:
                yield path


def clear_tables(root: Path, faults: list[PairingError] | None = None) -> dict[Path, list[Pair]]:
    """The pairs of each CSV file below `root` whose rows all name images that are there.

    Where no column tells the split, the file's name does: `train.csv`, `val.csv`. What is wrong
    with tables that list some pairs is added to `faults`.
    """
    tables = {}
    for table in tables_below(root, "image", "mask"):
        said = read_name(table.stem)
        try:
            rows = [] if said.aside else read_table(table, root=root)
        except PairingError as error:
            if faults is not None and isinstance(error.came, int) and error.came:
                faults.append(error)
            continue
        files = {file_of(path) for row in rows for path in row.files}
        if rows and {path.suffix.lower() for path in files} <= IMAGE_SUFFIXES:
            tables[table] = [replace(row, split=row.split or said.split) for row in rows]
    return tables


def rows_by_split(table: Path) -> dict[str, list[str]]:
    """The other cells of the rows of each split, as lines; none where a row has no split."""
    try:
        header, rows = _read_cells(table, any_text)
    except PairingError:
        return {}
    lines: dict[str, list[str]] = defaultdict(list)
    at = _columns(header, [row for _, row in rows], None).get("split", len(header))
    for _, row in rows:
        split = SPLITS.get(row[at].lower()) if at < len(row) else None
        if split is None:
            return {}
        lines[split].append(",".join((*row[:at], *row[at + 1 :])))
    return lines


def _named(path: Path) -> Path:
    """The path, or that of a page as if it were a file: `cells_3.tif`."""
    file, page = split_page(path)
    return file.with_name(f"{file.stem}_{page}{file.suffix}") if page else path


def _read_cells(
    table: Path, text_of: Callable[[bytes], str] = as_text
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The column names, and line and cells of the rows that are not empty."""
    try:
        text = text_of(table.read_bytes())  # names may hold \r
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header = [name.strip() for name in next(reader, [])]
        rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
        return header, [(line, cells) for line, cells in rows if any(cells)]
    except OSError as error:
        reason = error.strerror or error
        fix = "Check the path."
        raise PairingError(f"cannot read {printable(table)}: {reason}", fix=fix) from error
    except (UnicodeDecodeError, csv.Error) as error:
        fix = "Save it as CSV in UTF-8."
        raise PairingError(f"cannot read {printable(table)}: {error}", fix=fix) from error


def _columns(
    header: Sequence[str], rows: Sequence[Sequence[str]], group_column: str | None
) -> dict[str, int]:
    """The place of each column, as far as it is there."""
    places = {_plain(name): place for place, name in reversed(list(enumerate(header)))}
    columns = {
        column: places[name]
        for column, names in _COLUMNS.items()
        for name in reversed(names)
        if name in places
    }
    if group_column is not None:
        columns.pop("group", None)
        if _plain(group_column) in places:
            columns["group"] = places[_plain(group_column)]
    values = {
        column: {row[place].lower() for row in rows if place < len(row)} - {""}
        for column, place in columns.items()
    }
    if "split" not in places and not values.get("split", set()) <= SPLITS.keys():
        del columns["split"]  # names of data sets
    if group_column is None and "group" not in places and len(values.get("group", ())) < 2:
        columns.pop("group", None)
    return columns


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def _row(
    line: int, cells: Sequence[str], columns: dict[str, int], width: int, bases: Sequence[str]
) -> _Row:
    named = {column: cells[place] for column, place in columns.items() if place < len(cells)}
    image, mask = (_resolve(named.get(column, ""), bases) for column in ("image", "mask"))
    return _Row(line, named, image, mask, "".join(cells[width:]))


def _row_faults(row: _Row) -> Iterator[str]:
    for column, path in (("image", row.image), ("mask", row.mask)):
        cell = row.cells.get(column, "")
        if not cell:
            yield f"line {row.line}: no {column}"
        elif path is None:
            yield f"line {row.line}: {column} {printable(cell)} does not exist"
    split = row.cells.get("split", "")
    if split and split.lower() not in SPLITS:
        yield f"line {row.line}: split {printable(split)} is none of train, val, test"
    if row.surplus:
        yield f"line {row.line}: more cells than columns (quote names with commas)"


def _resolve(cell: str, bases: Sequence[str]) -> Path | None:
    """The file that a cell names; None where there is none."""
    for name in dict.fromkeys((cell, cell.replace("\\", "/"))):
        for base in bases:
            path = os.path.normpath(os.path.join(base, name))  # noqa: PTH118 (10 times as fast)
            file = os.fspath(file_of(Path(path))) if "#" in cell else path
            if cell and is_file(file):
                return Path(path)
    return None
