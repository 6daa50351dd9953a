"""Pairs listed in a CSV file."""

import csv
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from unetseg.data.files.folders import output_names
from unetseg.data.pairs.naming import SPLITS
from unetseg.errors import PairingError
from unetseg.text import printable


class ListedPair(NamedTuple):
    """A row of the file, understood."""

    image: Path
    mask: Path
    name: str
    """Unique in the file, relative, without suffix."""
    split: str | None
    group: str | None


class _Row(NamedTuple):
    line: int
    cells: dict[str, str]
    surplus: str
    """What stands beyond the last column."""


def read_table(table: Path, group_column: str | None = None) -> list[ListedPair]:
    """The pairs that the CSV file `table` lists, in its order.

    Args:
        table: CSV file with the columns image, mask and optionally split and group; paths are
            absolute or relative to it.
        group_column: Column that holds the group, instead of "group".

    Raises:
        PairingError: it cannot be read, lacks columns, or has faulty rows; all of them are listed.
    """
    columns, rows = _read_rows(table)
    needed = ["image", "mask", *([group_column.lower()] if group_column else [])]
    lacking = [name for name in needed if name not in columns]
    if lacking or not rows:
        raise PairingError(
            f"{printable(table)} lacks columns"
            if lacking
            else f"{printable(table)} lists no pairs",
            lacking,
            f"Expected the columns image, mask and optionally split, group; found: "
            f"{', '.join(columns) or 'none'}.",
        )
    faults = [fault for row in rows for fault in _row_faults(table, row)]
    images = Counter(_resolve(table, row.cells["image"]) for row in rows)
    faults += [
        f"{printable(path)} is listed {n} times as image" for path, n in images.items() if n > 1
    ]
    if faults:
        raise PairingError(f"{printable(table)} has faulty rows", faults, "Correct these rows.")
    base = Path(os.path.commonpath([path.parent for path in images]))
    names = dict(output_names([(path, base) for path in images]))
    return [_listed(table, row, names, (group_column or "group").lower()) for row in rows]


def _read_rows(table: Path) -> tuple[list[str], list[_Row]]:
    """The column names in lower case, and the rows that are not empty."""
    try:
        text = table.read_bytes().decode("utf-8-sig")  # names may hold \r
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
        columns = [name.strip().lower() for name in next(reader, [])]
        return columns, [
            _row(columns, reader.line_num, cells)
            for cells in reader
            if any(cell.strip() for cell in cells)
        ]
    except OSError as error:
        reason = error.strerror or error
        fix = "Check the path."
        raise PairingError(f"cannot read {printable(table)}: {reason}", fix=fix) from error
    except (UnicodeDecodeError, csv.Error) as error:
        fix = "Save it as CSV in UTF-8."
        raise PairingError(f"cannot read {printable(table)}: {error}", fix=fix) from error


def _row(columns: Sequence[str], line: int, cells: Sequence[str]) -> _Row:
    stripped = [cell.strip() for cell in cells]
    surplus = "".join(stripped[len(columns) :])
    return _Row(line, dict(zip(columns, stripped, strict=False)), surplus)


def _row_faults(table: Path, row: _Row) -> Iterator[str]:
    for column in ("image", "mask"):
        cell = row.cells.get(column, "")
        if not cell:
            yield f"line {row.line}: no {column}"
        elif not _is_file(_resolve(table, cell)):
            yield f"line {row.line}: {column} {printable(cell)} does not exist"
    split = row.cells.get("split", "")
    if split and split.lower() not in SPLITS:
        yield f"line {row.line}: split {printable(split)} is none of train, val, test"
    if row.surplus:
        yield f"line {row.line}: more cells than columns (quote names with commas)"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False


def _listed(table: Path, row: _Row, names: dict[Path, Path], group_column: str) -> ListedPair:
    image, mask = (_resolve(table, row.cells[column]) for column in ("image", "mask"))
    split = SPLITS.get(row.cells.get("split", "").lower())
    group = row.cells.get(group_column) or None
    return ListedPair(image, mask, names[image].as_posix(), split, group)


def _resolve(table: Path, cell: str) -> Path:
    return Path(os.path.normpath(table.parent.absolute() / cell))
