"""Writes the last column of the table in docs/reliability.md: the tests that bear a row's marker.

    python -m docs.make_reliability

`make docs` says the same, and tests/faults/test_table.py holds the page current.
"""

import re
from collections import defaultdict
from pathlib import Path

from tests.faults.rows import LINE, NOT_HERE, PAGE

ROOT = Path(__file__).parents[1]
MARKER = re.compile(r"\bmark\.row\(([\d, ]+)\)")


def marked() -> dict[int, list[str]]:
    """The files with tests of each row, as paths below tests/."""
    found: dict[int, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        rows = {int(row) for numbers in MARKER.findall(text) for row in numbers.split(",")}
        for row in rows:
            found[row].append(path.relative_to(ROOT / "tests").as_posix())
    return found


def page() -> str:
    """The page, with the tests of each row as they are."""
    files = marked()

    def line(match: re.Match[str]) -> str:
        number, fault, outcome, tests = match.groups()
        links = ", ".join(f"[{file}](../tests/{file})" for file in files[int(number)])
        if not links and tests.startswith(NOT_HERE):
            links = tests
        return f"| {number} | {fault} | {outcome} | {links} |"

    return LINE.sub(line, PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
