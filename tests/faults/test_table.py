"""docs/reliability.md, the markers of the tests and SECURITY.md tell one story."""

import re
from pathlib import Path

from docs.make_reliability import marked, page
from tests.faults.rows import NOT_HERE, PAGE, read_rows


def test_the_table_names_the_tests_of_each_row() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs`"


def test_every_row_is_tested_or_says_why_not() -> None:
    rows = read_rows()
    assert list(rows) == list(range(1, len(rows) + 1))
    assert set(marked()) <= set(rows)
    silent = [number for number, (_, _, tests) in rows.items() if not tests]
    assert not silent, f"rows of docs/reliability.md without a test: {silent}"
    assert all(tests.startswith(("[", NOT_HERE)) for _, _, tests in rows.values())


def test_every_promise_of_security_names_tests_that_exist() -> None:
    root = Path(__file__).parents[2]
    promises = re.findall(r"^- .*(?:\n  .*)*", (root / "SECURITY.md").read_text("utf-8"), re.M)
    assert len(promises) > 5
    sources = "".join(path.read_text("utf-8") for path in (root / "tests").rglob("test_*.py"))
    for promise in promises:
        named = re.findall(r"`(test_\w+)`", promise)
        assert named, promise
        assert all(f"def {name}(" in sources for name in named), promise
