"""Writes the table of layouts in docs/data.md from that of the tests, tests/data/pairs/layouts.txt.

    python -m docs.make_layouts

`make docs` says the same, and tests/test_docs.py holds the page current.
"""

import re
from pathlib import Path

from tests.data.pairs.layouts import TABLE, Layout, read_table

PAGE = Path(__file__).with_name("data.md")
BEGIN, END = "<!-- layouts: written by `make docs` -->", "<!-- end of layouts -->"


def page() -> str:
    """The page, with the table as it is among the tests."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def table() -> str:
    """A row for each layout that loads with no flag: what it is, an image, its mask, the splits."""
    layouts = read_table(TABLE.read_text(encoding="utf-8"))
    loading = [one for one in layouts if one.outcomes in {("pairs",), ("numbered",)}]
    return "\n".join(
        ["| seen as | images | masks | splits |", "|---|---|---|---|", *map(row, loading)]
    )


def row(layout: Layout) -> str:
    """The first kind of pair of a layout, with * for what the files differ in."""
    line = next(line for line in layout.lines if re.search(r"  = ", line))
    image, mask = (
        re.split(r" {2,}", re.sub(r"\{[^{}]*\}", "*", side))[0] for side in line.split("  = ")
    )
    splits = ", ".join(layout.splits or ())
    return f"| {layout.what.replace('|', '/')} | `{image}` | `{mask}` | {splits} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
