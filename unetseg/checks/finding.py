"""One thing that is wrong with a folder, with the files and the fix."""

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from unetseg.config import PairsConfig
from unetseg.data.facts.survey import Survey
from unetseg.data.files.pages import MaskPath
from unetseg.errors import UnetsegError
from unetseg.text import plural, printable, quoted

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""Worst first."""
Line = MaskPath | str | tuple[MaskPath | str, ...]
"""One line about files: paths, and what is said about them between and after."""
Flags = tuple[str, ...]
FIX = ("--fix OUT",)
SNAP = ("--snap", "--fix OUT")


@dataclass(frozen=True)
class Finding:
    """One thing that was noticed.

    Attributes:
        check: What was looked for, such as `size-mismatch`; the same in every report.
        severity: error: training would fail or learn nonsense; warning: it would be worse than it
            could be, or its scores too good; note: good to know.
        summary: One sentence with the numbers.
        lines: Every file concerned: its path, or the path and what is wrong with it.
        fix: What to do, in one sentence.
        flags: Those of a command that does it.
        verb: That command.
        choices: Whole commands, one for each answer that would do.
    """

    check: str
    severity: Severity
    summary: str
    lines: Sequence[Line] = ()
    fix: str = ""
    flags: Flags = ()
    verb: Literal["check", "train"] = "check"
    choices: Sequence[str] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """The lines as text, with line breaks and other control characters made visible."""
        return tuple(line_text(line) for line in self.lines)

    @property
    def command(self) -> str:
        """A command that does what is to be done, or nothing; `DATA` stands for the folder."""
        return self.command_for(["DATA"])

    def command_for(self, given: Sequence[str]) -> str:
        """The command for a folder, `given` with its flags as a shell takes them, or nothing.

        Flags of its own stand in place of those that were given.
        """
        names = {flag.split()[0] for flag in self.flags}
        kept = [word for word in given if word.split()[0] not in names]
        return " ".join(["unetseg", self.verb, *kept, *self.flags]) if self.flags else ""

    def commands_for(self, given: Sequence[str]) -> list[str]:
        """All commands for a folder, see `command_for`."""
        return [*filter(None, [self.command_for(given)]), *self.choices]

    def to_json(self, data: Path, given: Sequence[str] = ()) -> dict[str, Any]:
        """The finding as JSON can hold it, with paths relative to the folder `data`.

        `given` is what its commands are given: the folder, if not flags beside it.
        """
        names = ("check", "severity", "summary", "fix", "command")
        files = [line_text(line, data) for line in self.lines]
        commands = self.commands_for(given or [shlex.quote(str(data))])
        return {n: getattr(self, n) for n in names} | {"files": files, "commands": commands}


Check = Callable[[Survey], Iterator[Finding]]
"""It measures, compares with a threshold, and tells."""


def error(
    check: str, summary: str, lines: Sequence[Line] = (), fix: str = "", flags: Flags = ()
) -> Finding:
    """Training would fail, or learn nonsense."""
    return Finding(check, "error", summary, lines, fix, flags)


def refusal(check: str, fault: UnetsegError) -> Finding:
    """What training says when it refuses."""
    parts = fault.summary, fault.offenders, fault.fix
    return Finding(check, "error", *parts, choices=fault.commands)


def warning(
    check: str, summary: str, lines: Sequence[Line] = (), fix: str = "", flags: Flags = ()
) -> Finding:
    """Training would be worse than it could be, or its scores too good."""
    return Finding(check, "warning", summary, lines, fix, flags)


def note(check: str, summary: str, lines: Sequence[Line] = (), fix: str = "") -> Finding:
    """Good to know."""
    return Finding(check, "note", summary, lines, fix)


def line_text(line: Line, root: Path | None = None) -> str:
    """A line as text, with the paths that lie in `root` relative to it."""
    text = ""
    for part in line if isinstance(line, tuple) else (line,):
        if root is not None and isinstance(part, MaskPath) and root in part.parents:
            part = part.relative_to(root)
        text += str(part)
    return printable(text)


def joined(parts: Iterable[Line], sign: str) -> Line:
    """Lines as one, with a sign between them."""
    line: list[MaskPath | str] = []
    for part in parts:
        line.extend([sign] if line else [])
        line.extend(part if isinstance(part, tuple) else (part,))
    return tuple(line)


def error_line(error_text: str, paths: Iterable[Path]) -> Line:
    """What an error says, with the path that it begins with, of those it is about, apart."""
    begins = next((path for path in paths if error_text.startswith(str(path))), None)
    return error_text if begins is None else (begins, error_text.removeprefix(str(begins)))


def error_lines(error: UnetsegError) -> list[Line]:
    """The offenders of an error, with the path of each apart where the error has as many paths."""
    if len(error.paths) != len(error.offenders):
        return list(error.offenders)
    couples = zip(error.offenders, error.paths, strict=True)
    return [error_line(offender, [path]) for offender, path in couples]


def given_words(data: Path, config: PairsConfig) -> list[str]:
    """The folder and the flags about it that were given, each as a shell takes it."""
    words = [quoted(data)]
    for name, info in type(config).model_fields.items():
        value = getattr(config, name)
        if value != info.default:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            flag = f"--{name.replace('_', '-')}"
            words.append(flag if value is True else f"{flag} {quoted(text)}")
    return words


class Kind(NamedTuple):
    """What is said of files with one fault, after their number."""

    severity: Severity
    noun: str
    remark: str
    fix: str = ""
    flags: Flags = ()


def by_kind(kinds: Mapping[str, Kind], groups: Mapping[str, Sequence[Line]]) -> Iterator[Finding]:
    """A finding for each kind that has files, in the order of the kinds."""
    for check, (severity, noun, remark, fix, flags) in kinds.items():
        if lines := groups.get(check):
            summary = f"{plural(len(lines), noun)} {remark}"
            yield Finding(check, severity, summary, lines, fix, flags)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first; otherwise as they came."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def are(count: int) -> str:
    """The verb of so many."""
    return "is" if count == 1 else "are"


def percent(share: float) -> str:
    """A share in percent, with a decimal or, when it is tiny, two digits.

    >>> percent(0.5), percent(0.00012)
    ('50.0%', '0.012%')
    """
    return f"{share:.1%}" if share >= 0.001 or share == 0 else f"{100 * share:.2g}%"
