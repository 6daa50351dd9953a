"""What `unetseg check` shows: findings, what the folder holds, and the plan."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from unetseg.cli.console import out, say

if TYPE_CHECKING:
    from unetseg.checks.finding import Finding
    from unetseg.config import DataConfig
    from unetseg.data.facts.survey import Survey
    from unetseg.training.plan import Plan

SHOWN = 10
"""Files of a finding that are listed on the terminal."""
COLOURS = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def show_findings(findings: Sequence["Finding"], data: Path, given: Sequence[str]) -> None:
    """Each finding with its first files and its fix, the worst first."""
    for finding in findings:
        head, *rest = finding_lines(finding, data, given, SHOWN)
        out.print(head, style=COLOURS[finding.severity], markup=False)
        for line in rest:
            say(line)
    if not findings:
        say("nothing is wrong")


def finding_lines(
    finding: "Finding", data: Path, given: Sequence[str], most: int | None = None
) -> Iterator[str]:
    """A finding as lines of text, its files relative to `data`; with `most`, only so many of them.

    `given` is what a command must be given for this folder, see `given_words`.
    """
    from unetseg.checks.finding import line_text

    yield f"{finding.severity}: {finding.summary} [{finding.check}]"
    files = [line_text(line, data) for line in finding.lines]
    yield from (f"  {file}" for file in shortened(files, most))
    if finding.fix:
        yield f"  fix: {finding.fix}"
    yield from (f"  {command}" for command in finding.commands_for(given))


def given_words(data: Path, config: "DataConfig") -> list[str]:
    """The folder and the flags about it that were given, each as a shell takes it."""
    words = [quoted(data)]
    for name, info in type(config).model_fields.items():
        value = getattr(config, name)
        if value != info.default:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            flag = f"--{name.replace('_', '-')}"
            words.append(flag if value is True else f"{flag} {quoted(text)}")
    return words


def quoted(path: Path | str) -> str:
    """A path or a word as a shell takes it."""
    from unetseg.text import printable

    return printable(shlex.quote(str(path)))


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
        table.add_row(Text(info.name), str(info.code), share)  # brackets in names are text
    out.print(table)


def show_plan(plan: "Plan") -> None:
    """What training would do, and why."""
    table = Table("plan", "", "why", box=None)
    values = plan.model_dump(mode="json") | {
        "depth": plan.network.depth,
        "width": plan.network.width,
        "normalisation": plan.normalisation.kind,
        "repeats": f"{sum(plan.repeats)} crops per epoch",
    }
    for name, reason in plan.reasons.items():
        value = values.get(name, "")
        shown = f"{value:.3g}" if isinstance(value, float) else str(value)
        table.add_row(name, Text(shown), Text(reason))
    out.print(table)
