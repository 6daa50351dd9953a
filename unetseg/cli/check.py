"""unetseg check."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from unetseg.cli.console import observed, say, say_json
from unetseg.cli.findings import (
    count_findings,
    finding_lines,
    shortened,
    show_data,
    show_findings,
    show_plan,
)
from unetseg.config import CheckConfig, TrainConfig
from unetseg.errors import DataError, MachineError
from unetseg.progress import SILENT
from unetseg.storage import write_json, write_text, writing
from unetseg.text import plural, printable, quoted

if TYPE_CHECKING:
    from unetseg.checks.check import Report
    from unetseg.training.plan import Plan


def check(
    data: Path,
    /,
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    config_file: Annotated[Path | None, Parameter(name="--config")] = None,
    wanted: Annotated[CheckConfig, Parameter(name="*", group="Check")] = CheckConfig(),
    config: Annotated[TrainConfig, Parameter(name="*", show=False)] = TrainConfig(),
) -> None:
    """Read every image and mask; say what is wrong, how to fix it, and how training would go.

    Ends with exit code 5 when errors stand.
    Every setting of `unetseg train` is taken too, for the plan; its --help lists them.

    Examples:
    unetseg check photos/
    unetseg check photos/ --fix fixed/              a fixed copy; photos/ stays as it is
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
    from unetseg.checks.check import check_folder
    from unetseg.checks.finding import given_words
    from unetseg.data.files.pngs import write_png
    from unetseg.runtime import start
    from unetseg.training.plan import make_plan
    from unetseg.training.previews import planned_sheet

    _check_targets(data, wanted)
    machine = start(config.runtime)
    with observed() as progress:
        report = check_folder(data, config.data, SILENT if as_json else progress)
    given = given_words(data, config.data)
    plan = make_plan(report.trainable, config, machine) if report.trainable else None
    if as_json:
        say_json(_to_json(report, plan, given))
    else:
        _show(report, plan, given)
    if wanted.report:
        _write_report(report, wanted.report, given)
    if wanted.preview and report.trainable and plan:
        write_png(wanted.preview, planned_sheet(report.trainable, plan))
    elif wanted.preview and not as_json:
        say(f"{wanted.preview} is not written: the errors come first")
    if wanted.fix:
        _fix(report, wanted.fix, quiet=as_json)
    if wanted.describe:
        _describe(report, wanted.describe)
    _answer(report, given, strict=wanted.strict)
    if not as_json:
        say(f"next: unetseg train {' '.join(given)} --budget 10m")


def _check_targets(data: Path, wanted: CheckConfig) -> None:
    """Refuse to write over something, before anything is read."""
    from unetseg.checks.fix import check_target

    if wanted.fix:
        check_target(data, wanted.fix)
    if wanted.describe:
        with writing(wanted.describe):
            if wanted.describe.exists():
                fix = "Name another file, or remove it."
                raise MachineError(f"{printable(wanted.describe)} is there already", fix=fix)


def _show(report: "Report", plan: "Plan | None", given: Sequence[str]) -> None:
    """What the folder holds, how training would go, and what is wrong, last."""
    if report.trainable and plan:
        show_data(report.trainable)
        show_plan(plan)
    show_findings(report, given)


def _to_json(report: "Report", plan: "Plan | None", given: Sequence[str]) -> dict[str, object]:
    """The findings, the classes and the plan."""
    classes = report.trainable.class_map.model_dump(mode="json") if report.trainable else None
    return {
        **report.to_json(given),
        "classes": classes,
        "plan": plan.model_dump(mode="json") if plan else None,
    }


def _write_report(report: "Report", path: Path, given: Sequence[str]) -> None:
    """Every finding with all its files."""
    if path.suffix == ".json":
        write_json(path, report.to_json(given))
        return
    lines = (
        line for one in report.findings for line in finding_lines(one, report.survey.data, given)
    )
    write_text(path, "\n".join(lines) + "\n")


def _describe(report: "Report", path: Path) -> None:
    """Write a dataset.yaml that says what was concluded."""
    from unetseg.data.pairs.dataset_yaml import located, write_description

    known = report.trainable
    if known is None:
        raise DataError("the folder is not understood yet", fix="Fix the errors above first.")
    write_description(path, known.class_map, known.pairs, located(known.data, known.config))


def _fix(report: "Report", target: Path, *, quiet: bool) -> None:
    """Write the fixed copy and, unless `quiet`, say what was done."""
    from unetseg.checks.fix import write_fixed

    with observed() as progress:
        done = write_fixed(report.survey, target, SILENT if quiet else progress)
    if quiet:
        return
    lines = [*done.changes, *(f"left out: {line}" for line in done.left_out)]
    for line in shortened([printable(line) for line in lines], whole="fixed.json lists all"):
        say(f"  {line}")
    say(
        f"{plural(done.pairs, 'pair')} in {printable(target)}, {len(done.changes)} changed, "
        f"{len(done.left_out)} left out: {printable(target / 'fixed.json')}"
    )
    say(f"next: unetseg check {quoted(target)}")


def _answer(report: "Report", given: Sequence[str], *, strict: bool) -> None:
    """Refuse a folder with errors, and with `strict` one with warnings."""
    from unetseg.checks.finding import FIX

    severities = {"error", "warning"} if strict else {"error"}
    wrong = [finding for finding in report.findings if finding.severity in severities]
    if wrong:
        can_fix = any(FIX[0] in finding.flags for finding in report.findings)
        fix = f"`unetseg check {' '.join(given)} --fix OUT` fixes what it can." if can_fix else ""
        raise DataError(f"{printable(report.survey.data)}: {count_findings(wrong)}", fix=fix)
