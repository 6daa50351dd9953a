"""What a look into the lab gives: a table, a picture and a caption that says how to read them."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from unetseg.storage import atomic_path, write_json, write_text

Row = Mapping[str, Any]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
"""Colours of lines and bars, told apart by colour-blind eyes too (Okabe & Ito 2008)."""
MOST_ROWS = 2000
"""Rows of a table up to which the JSON repeats it."""
STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 120,
    "font.size": 10,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Result:
    """The result of one `unetseg lab` command."""

    folder: Path
    """Where its files are: NAME.csv, NAME.json and pictures."""
    rows: Sequence[Row]
    """The table, one mapping of column to value per row."""
    summary: Sequence[Row]
    """The few rows that a terminal shows, each with its verdict."""
    caption: str
    """How table and picture are read: the same whatever they show."""


def publish(result: Result, name: str, figures: Mapping[str, Figure], **facts: object) -> Result:
    """Write NAME.csv (the rows), NAME.json (caption, facts and rows) and each figure as PNG.

    Numbers that are not finite are null in the JSON; very long tables are in the CSV only.

    Args:
        result: Rows, caption, and the folder to write to.
        name: Stem of the files of the table.
        figures: Figure of each picture by the stem of its file.
        **facts: What else belongs to the JSON: settings, seeds, versions.
    """
    text = io.StringIO()
    columns = list(dict.fromkeys(column for row in result.rows for column in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(result.rows)
    write_text(result.folder / f"{name}.csv", text.getvalue())
    content: dict[str, object] = {"caption": result.caption} | facts
    if len(result.rows) <= MOST_ROWS:
        content["rows"] = list(result.rows)
    write_json(result.folder / f"{name}.json", content)
    for stem, figure in figures.items():
        with atomic_path(result.folder / f"{stem}.png") as temporary:
            figure.savefig(temporary, format="png", facecolor="white")
    return result


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, Any]:
    """A figure of `width`×`height` inches and its rows×columns axes; needs no screen.

    The axes come as an array of rows×columns, also where there is one only.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False)
