"""What a look into the lab found: a table, a picture and two sentences in plain words."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from unetseg.storage import atomic_path, write_json, write_text

Row = Mapping[str, Any]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
"""Colours of lines and bars, told apart by colour-blind eyes too (Okabe & Ito 2008)."""
MOST_ROWS = 2000
"""Rows of a table up to which the JSON repeats it."""
STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 120,
    "font.size": 10,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Finding:
    """The result of one `unetseg lab` command."""

    folder: Path
    """Where its files are: NAME.csv, NAME.json and pictures."""
    rows: Sequence[Row]
    """The table, one mapping of column to value per row."""
    seen: str
    """One sentence: what was seen."""
    meaning: str
    """One sentence: what that means for this user."""


def publish(
    folder: Path, name: str, finding: Finding, figures: Mapping[str, Figure], **facts: object
) -> Finding:
    """Write NAME.csv (the rows), NAME.json (sentences, facts and rows) and each figure as PNG.

    Numbers that are not finite are null in the JSON; very long tables are in the CSV only.

    Args:
        folder: Where to write.
        name: Stem of the files of the table.
        finding: Rows and sentences.
        figures: Figure of each picture by the stem of its file.
        **facts: What else belongs to the JSON: settings, seeds, versions.
    """
    write_text(folder / f"{name}.csv", _csv(finding.rows))
    content: dict[str, object] = {"seen": finding.seen, "meaning": finding.meaning} | facts
    if len(finding.rows) <= MOST_ROWS:
        content["rows"] = list(finding.rows)
    write_json(folder / f"{name}.json", content)
    for stem, figure in figures.items():
        save_figure(folder / f"{stem}.png", figure)
    return finding


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, Any]:
    """A figure of `width`×`height` inches and its rows×columns axes; needs no screen.

    The axes come as an array of rows×columns, also where there is one only.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False)


def save_figure(path: Path, figure: Figure) -> None:
    """Write `figure` as PNG, whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", facecolor="white")


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    columns = list(dict.fromkeys(column for row in rows for column in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
