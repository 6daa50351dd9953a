"""What `unetseg check` shows: findings, what the folder holds, and the plan."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from unetseg.cli.console import out, say

if TYPE_CHECKING:
    from unetseg.audit.finding import Finding
    from unetseg.data.survey import Survey
    from unetseg.training.plan import Plan

SHOWN = 10
"""Files of a finding that are listed on the terminal."""
COLOURS = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def show_findings(findings: Sequence["Finding"], data: Path) -> None:
    """Each finding with its first files and its mend, the worst first."""
    for finding in findings:
        head, *rest = finding_lines(finding, data, SHOWN)
        out.print(head, style=COLOURS[finding.severity], markup=False)
        for line in rest:
            say(line)
    if not findings:
        say("nothing is wrong")


def finding_lines(finding: "Finding", data: Path, most: int | None = None) -> Iterator[str]:
    """A finding as lines of text; with `most`, only so many of its files."""
    yield f"{finding.severity}: {finding.summary} [{finding.check}]"
    inner = [file.replace(f"{data}/", "") for file in finding.files]  # within DATA
    yield from (f"  {file}" for file in shortened(inner, most))
    if finding.mend:
        yield f"  mend: {finding.mend}"
    if finding.command:
        yield f"  {finding.command.replace('DATA', str(data))}"


def shortened(lines: Sequence[str], most: int | None = SHOWN) -> list[str]:
    """The first lines, and how many there are beyond them."""
    if most is None or len(lines) <= most:
        return list(lines)
    return [*lines[:most], f"… and {len(lines) - most} more (--report FILE lists all)"]


def show_data(known: "Survey") -> None:
    """Sizes, bands and class frequencies."""
    sizes = sorted({fact.image.shape for fact in known.facts.values()})
    low, high = sizes[0], sizes[-1]
    span = f"{low[1]}×{low[0]}" + (f" to {high[1]}×{high[0]}" if high != low else "")
    say(f"images: {known.dtype}, bands: {known.bands}, sizes: {len(sizes)}, {span}")
    pixels = known.class_pixels("all")
    table = Table("class", "code", "share of pixels", box=None)
    for info, count in zip(known.class_map.classes, pixels, strict=True):
        table.add_row(info.name, str(info.code), f"{count / max(1, sum(pixels)):.2%}")
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
        table.add_row(name, str(values.get(name, "")), reason)
    out.print(table)
