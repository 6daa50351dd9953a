"""docs/reliability.md, the markers of the tests and SECURITY.md tell one story."""

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
