"""`pytest --rows`: the table of faults in docs/reliability.md, each row with what its tests say.

A test belongs to a row by the marker `row`, wherever it stands: `@pytest.mark.row(9)`.
"""

import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs/reliability.md"
LINE = re.compile(r"^\| (\d+) \| (.+) \| (.+) \| (.*) \|$", re.M)
NOT_HERE = "not here: "  # in the last column: why a row has no test


def read_rows() -> dict[int, tuple[str, str, str]]:
    """Fault, outcome and tests of each row of the page, by number."""
    found = LINE.findall(PAGE.read_text(encoding="utf-8"))
    return {int(number): (fault, outcome, tests) for number, fault, outcome, tests in found}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rows", action="store_true", help="print the table of faults, row by row")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:  # a report, which may come from another process, has no markers
        rows = [number for mark in item.iter_markers("row") for number in mark.args]
        item.user_properties.extend(("row", number) for number in rows)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if not config.getoption("--rows"):
        return
    reports: dict[int, dict[str, list[pytest.TestReport]]] = defaultdict(lambda: defaultdict(list))
    for kind in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.getreports(kind):
            for name, number in getattr(report, "user_properties", ()):
                if name == "row":
                    reports[number][kind].append(report)
    terminalreporter.section("faults")
    totals = Counter[str]()
    for number, (fault, _, tests) in read_rows().items():
        verdict, told = _outcome(reports[number], tests)
        totals[verdict] += 1
        terminalreporter.write_line(f"{number:3} {verdict:8} {fault}: {told}")
    told = ", ".join(f"{count} {verdict}" for verdict, count in totals.items())
    terminalreporter.write_line(f"{totals.total()} rows: {told}")


def _outcome(reports: dict[str, list[pytest.TestReport]], tests: str) -> tuple[str, str]:
    """A word for a row, and what there is to say about it."""
    bad = reports["failed"] + reports["error"]
    if bad:
        return "FAILED", ", ".join(report.nodeid for report in bad)
    skipped = {str(report.longrepr[2]) for report in reports["skipped"] if report.longrepr}  # type: ignore[index]
    reasons = "; ".join(sorted(skipped))
    if reports["passed"]:
        count = len(reports["passed"])
        return "passed", f"{count} test{'s' * (count > 1)}" + (reasons and f"; {reasons}")
    if skipped:
        return "skipped", reasons
    return ("not here", tests.removeprefix(NOT_HERE)) if NOT_HERE in tests else ("NO TEST", "none")
