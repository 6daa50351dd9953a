"""One thing that is wrong with a folder, with the files and the fix."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from unetseg.text import printable

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""Worst first."""


@dataclass(frozen=True)
class Finding:
    """One thing that was noticed.

    Attributes:
        check: What was looked for, such as `size-mismatch`; the same in every report.
        severity: error: training would fail or learn nonsense; warning: it would be worse than it
            could be, or its scores too good; note: good to know.
        summary: One sentence with the numbers.
        files: Every file concerned, one line each: the path, or `path: what is wrong with it`.
        fix: What to do, in one sentence.
        command: A command that does it; `DATA` stands for the folder.
    """

    check: str
    severity: Severity
    summary: str
    files: tuple[str, ...] = ()
    fix: str = ""
    command: str = ""

    def to_json(self) -> dict[str, Any]:
        """The finding as JSON can hold it."""
        return asdict(self)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first; otherwise as they came."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def listed(lines: Iterable[object]) -> tuple[str, ...]:
    """Lines about files, with line breaks and other control characters made visible."""
    return tuple(printable(str(line)) for line in lines)
