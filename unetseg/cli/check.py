"""unetseg check."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from unetseg.cli.console import observer, out, say
from unetseg.cli.report import finding_lines, shortened, show_data, show_findings, show_plan
from unetseg.config import CheckConfig, TrainConfig
from unetseg.errors import DataError, MachineError

if TYPE_CHECKING:
    from unetseg.audit.audit import Report
    from unetseg.training.plan import Plan


def check(
    data: Path,
    /,
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    config_file: Annotated[Path | None, Parameter(name="--config")] = None,
    wanted: Annotated[CheckConfig, Parameter(name="*", group="Check")] = CheckConfig(),  # noqa: B008
    config: Annotated[TrainConfig, Parameter(name="*")] = TrainConfig(),  # noqa: B008 (frozen)
) -> None:
    """Read every image and mask; say what is wrong, how to mend it, and how training would go.

    Ends with exit code 5 when errors stand.

    Examples:
    unetseg check photos/
    unetseg check photos/ --fix mended/              a mended copy; photos/ stays as it is
    unetseg check photos/ --report findings.txt      every file of every finding
    unetseg check photos/ --describe photos/dataset.yaml
    unetseg check photos/ --json --strict            for scripts

    Parameters
    ----------
    data
        Folder with images and masks, or a CSV with the columns image and mask.
    as_json
        Print everything as one JSON object.
    config_file
        YAML file with settings.
    """
    from unetseg.audit.audit import audit
    from unetseg.data.images import write_png
    from unetseg.progress import SILENT
    from unetseg.runtime import start
    from unetseg.training.plan import make_plan
    from unetseg.training.previews import planned_sheet

    progress = observer()
    machine = start(config.runtime)
    try:
        found = audit(data, config.data, SILENT if as_json else progress)
    finally:
        progress.stop()
    plan = make_plan(found.known, config, machine) if found.known else None
    if as_json:
        out.print_json(json.dumps(_to_json(found, plan)))
    else:
        _show(found, plan)
    if wanted.report:
        _write_report(found, wanted.report)
    if wanted.preview and found.known and plan:
        write_png(wanted.preview, planned_sheet(found.known, plan))
    if wanted.describe:
        _describe(found, wanted.describe)
    if wanted.fix:
        _fix(found, config, wanted.fix)
    _answer(found, strict=wanted.strict)
    if not as_json:
        say(f"next: unetseg train {data} --budget 10m")


def _show(found: "Report", plan: "Plan | None") -> None:
    """What the folder holds, how training would go, and what is wrong, last."""
    if found.known and plan:
        show_data(found.known)
        show_plan(plan)
    show_findings(found.findings, found.root)


def _to_json(found: "Report", plan: "Plan | None") -> dict[str, object]:
    """The findings, the classes and the plan."""
    classes = found.known.class_map.model_dump(mode="json") if found.known else None
    return {
        **found.to_json(),
        "classes": classes,
        "plan": plan.model_dump(mode="json") if plan else None,
    }


def _write_report(found: "Report", path: Path) -> None:
    """Every finding with all its files."""
    from unetseg.storage import write_json, write_text

    if path.suffix == ".json":
        write_json(path, found.to_json())
        return
    lines = (line for one in found.findings for line in finding_lines(one, found.root))
    write_text(path, "\n".join(lines) + "\n")


def _describe(found: "Report", path: Path) -> None:
    """Write a dataset.yaml that says what was concluded."""
    from unetseg.data.description import write_description

    if path.exists():
        raise MachineError(f"{path} is there already", mend="Name another file, or remove it.")
    if found.known is None:
        raise DataError("the folder is not understood yet", mend="Mend the errors above first.")
    write_description(path, found.known.class_map, found.known.pairs)


def _fix(found: "Report", config: TrainConfig, target: Path) -> None:
    """Write the mended copy, and say what was done."""
    from unetseg.audit.audit import write_fixed
    from unetseg.data.folders import number

    progress = observer()
    try:
        done = write_fixed(found, config.data, target, progress)
    finally:
        progress.stop()
    for line in shortened((*done.changes, *(f"left out: {line}" for line in done.left_out))):
        say(f"  {line}")
    say(
        f"{number(done.pairs, 'pair')} in {target}, {len(done.changes)} changed, "
        f"{len(done.left_out)} left out: {target / 'mended.json'}"
    )
    say(f"next: unetseg check {target}")


def _answer(found: "Report", *, strict: bool) -> None:
    """Refuse a folder with errors, and with `strict` one with warnings."""
    from unetseg.data.folders import number

    errors, warnings = (len(found.of(severity)) for severity in ("error", "warning"))
    if errors or (strict and warnings):
        counted = [number(errors, "error"), number(warnings, "warning")]
        can_fix = any("--fix" in finding.command for finding in found.findings)
        fix = f"; `unetseg check {found.root} --fix OUT` mends what it can" if can_fix else ""
        mend = f"Mend what is listed{fix}."
        raise DataError(f"{found.root}: {' and '.join(counted)}", mend=mend)
