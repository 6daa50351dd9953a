"""What `unetseg check` shows: findings, what the folder holds, and the plan."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from unetseg.cli.console import SHOWN, out, say
from unetseg.text import plural, printable

if TYPE_CHECKING:
    from unetseg.checks.check import Report
    from unetseg.checks.finding import Finding
    from unetseg.data.facts.survey import Survey
    from unetseg.training.plan import Plan

REFUSAL = 12
"""Lines on the terminal, at most, where training would refuse."""
_CONCLUDED = 3  # of these lines: pairs, masks, splits
_LAST = 3  # of these lines: what else there is, and the end
_LEAST = 3  # of the lines of an error: what, fix, command
COLOURS = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def show_findings(report: "Report", given: Sequence[str]) -> None:
    """Each finding with its first files and its fix, the worst first.

    Where there are errors, they are shown alone, with what was concluded in no more than `REFUSAL`
    lines, and one says what else there is. Files that take no part are one line in all.
    """
    data, errors = report.survey.data, report.of("error")
    most = REFUSAL - _LAST - (_CONCLUDED if report.survey.pairs.pairs else 0)
    room = max(_LEAST, most // max(1, len(errors)))
    aside = [finding for finding in report.findings if finding.check == "left-out"]
    shown = errors[: most // room] or [f for f in report.findings if f not in aside]
    for finding in shown:
        show_finding(finding, _lines_within(room if errors else None, finding, data, given))
    if errors and len(shown) < len(report.findings):
        other = count_findings([f for f in report.findings if f not in shown])
        say(f"… and {other} (--report FILE lists all)")
    elif aside and not errors:
        out.print(_left_out(report.survey), style=COLOURS["note"], markup=False)
    if not report.findings:
        say("nothing is wrong")


def show_finding(finding: "Finding", lines: Sequence[str] = ()) -> None:
    """All of a finding, or some lines of it."""
    head, *others = lines or finding_lines(finding, Path(), [])
    out.print(head, style=COLOURS[finding.severity], markup=False)
    for line in others:
        say(line)


def count_findings(findings: Sequence["Finding"]) -> str:
    """How many there are of each severity, the worst first."""
    counts = Counter[str](finding.severity for finding in findings)
    return ", ".join(plural(counts[severity], severity) for severity in COLOURS if counts[severity])


def _lines_within(
    room: int | None, finding: "Finding", data: Path, given: Sequence[str]
) -> list[str]:
    """The lines of a finding, with as few of its files as make no more than `room` lines."""
    for most in range(SHOWN, -1, -1):
        lines = list(finding_lines(finding, data, given, most))
        if room is None or len(lines) <= room:
            break
    return lines[:room]


def _left_out(survey: "Survey") -> str:
    """One line for all the files that take no part, with an example for each reason."""
    from unetseg.checks.finding import line_text
    from unetseg.data.pairs.match import NO_IMAGE, NO_MASK, SEVERAL

    reasons: dict[str, list[Path]] = defaultdict(list)
    for path, why in survey.pairs.left_out:
        if why not in {NO_IMAGE, NO_MASK, SEVERAL}:  # warnings of their own
            reasons[why].append(path)
    parts = [
        line_text(paths[0], survey.data)
        + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
        + f" ({why})"
        for why, paths in reasons.items()
    ]
    return f"note: left out: {', '.join(parts)} [left-out]"


def finding_lines(
    finding: "Finding", data: Path, given: Sequence[str], most: int | None = None
) -> Iterator[str]:
    """A finding as lines of text, its files relative to `data`; with `most`, only so many of them.

    `given` is what a command must be given for this folder, see `checks.finding.given_words`.
    """
    from unetseg.checks.finding import line_text

    yield f"{finding.severity}: {finding.summary} [{finding.check}]"
    files = [line_text(line, data) for line in finding.lines]
    if most != 0:
        yield from (f"  {file}" for file in shortened(files, most))
    if finding.fix:
        yield f"  fix: {finding.fix}"
    yield from (f"  {command}" for command in finding.commands_for(given))


def shortened(
    lines: Sequence[str], most: int | None = SHOWN, whole: str = "--report FILE lists all"
) -> list[str]:
    """The first lines, how many there are beyond them, and where these are."""
    if most is None or len(lines) <= most:
        return list(lines)
    return [*lines[:most], f"… and {len(lines) - most} more ({whole})"]


def show_data(survey: "Survey") -> None:
    """Sizes, bands and class frequencies."""
    sizes = sorted({fact.image.shape for fact in survey.facts.values()})
    low, high = sizes[0], sizes[-1]
    span = f"{low[1]}×{low[0]}" + (f" to {high[1]}×{high[0]}" if high != low else "")
    say(f"images: {survey.dtype}, bands: {survey.bands}, sizes: {len(sizes)}, {span}")
    pixels = survey.class_pixels("all")
    table = Table("class", "code", "share of pixels", box=None)
    for info, count in zip(survey.class_map.classes, pixels, strict=True):
        share = f"{count / max(1, sum(pixels)):.2%}"
        code = info.code if isinstance(info.code, tuple) else (info.code,)
        table.add_row(Text(printable(info.name)), ",".join(map(str, code)), share)
    out.print(table)


def show_plan(plan: "Plan") -> None:
    """What training would do, and why."""
    table = Table("plan", "", "why", box=None)
    values = plan.model_dump(mode="json") | {
        "encoder": plan.network.encoder or "our own",
        "depth": plan.network.depth,
        "width": plan.network.width,
        "normalisation": plan.normalisation.kind,
        "repeats": f"{sum(plan.repeats)} crops per epoch",
    }
    for name, reason in plan.reasons.items():
        value = values.get(name, "")
        if value in (None, False, 0):
            continue  # plan.json says why not
        shown = f"{value:.3g}" if isinstance(value, float) else str(value)
        table.add_row(name, Text(shown), Text(reason))
    out.print(table)
