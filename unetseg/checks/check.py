"""What is wrong with a folder of pairs, and the fix for each finding: the survey, and every check.

`check_folder` reads every file in full and goes on where training would stop: one look tells all.
`refuse_errors` is the fast part, on what training knows anyway.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unetseg.checks.alignment import inspect_alignment
from unetseg.checks.balance import inspect_balance
from unetseg.checks.files import (
    PIXEL_CHECKS,
    inspect_entries,
    inspect_formats,
    inspect_sizes,
    inspect_unreadable,
)
from unetseg.checks.finding import FIX, Check, Finding, Severity, in_order
from unetseg.checks.leakage import inspect_duplicates, inspect_leakage
from unetseg.checks.names import inspect_names, inspect_portability, inspect_splits
from unetseg.checks.places import inspect_places
from unetseg.checks.values import inspect_values
from unetseg.config import DataConfig
from unetseg.data.facts.survey import Survey, survey
from unetseg.data.files.folders import below
from unetseg.data.files.pages import file_of, files_of, split_page
from unetseg.errors import DataError
from unetseg.progress import SILENT, Progress
from unetseg.text import printable

FACT_CHECKS: tuple[Check, ...] = (
    inspect_splits,
    inspect_values,
    inspect_portability,
    inspect_formats,
    inspect_sizes,
    inspect_places,
    *PIXEL_CHECKS,
    inspect_balance,
    inspect_duplicates,
    inspect_leakage,
)
"""Those that look at nothing but what training knows, and at places."""
CHECKS: tuple[Check, ...] = (
    inspect_entries,
    inspect_names,
    inspect_unreadable,
    *FACT_CHECKS,
)
"""All but `inspect_alignment`, which reads images again."""


@dataclass(frozen=True)
class Report:
    """A folder, and everything that was noticed about it.

    Attributes:
        survey: The folder, as far as it could be understood.
        findings: The worst first.
    """

    survey: Survey
    findings: tuple[Finding, ...]

    @property
    def trainable(self) -> Survey | None:
        """The folder as training takes it; None where it would refuse."""
        return None if self.of("error") or self.survey.classes is None else self.survey

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """The findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    def to_json(self, given: Sequence[str] = ()) -> dict[str, Any]:
        """The report as JSON can hold it, with paths relative to the folder: as its findings."""
        root = self.survey.pairs.root

        def inner(path: Path) -> str:
            return below(path, root).as_posix()

        return {
            "data": str(self.survey.data),
            "pairs": [
                {
                    "image": inner(file_of(pair.image)),
                    "mask": pair.mask and _listed([*map(inner, files_of(pair.mask))]),
                    "split": pair.split,
                    **({"page": page} if (page := split_page(pair.image)[1]) else {}),
                }
                for pair in self.survey.pairs.pairs
            ],
            "left_out": [
                {"path": inner(path), "why": why} for path, why in self.survey.pairs.left_out
            ],
            "rules": list(self.survey.rules),
            "findings": [one.to_json(self.survey.data, given) for one in self.findings],
        }


def _listed(files: list[str]) -> str | list[str]:
    """The file of a mask, or a list where there are several."""
    return files if len(files) > 1 else files[0]


def check_folder(
    data: Path, config: DataConfig | None = None, progress: Progress = SILENT
) -> Report:
    """Look at everything in the folder `data`, and go on past what is wrong.

    Where no pair can be fixed, no fixed copy is offered.

    Raises:
        PairingError: there is no such folder.
        ConfigError: a setting or dataset.yaml is wrong.
    """
    folder = survey(data, config, progress, strict=False)
    findings = [finding for inspect in CHECKS for finding in inspect(folder)]
    findings += inspect_alignment(folder, progress)
    if not any(fact.fits and not fact.image.bad for fact in folder.facts.values()):
        findings = [replace(f, flags=()) if FIX[0] in f.flags else f for f in findings]
    return Report(folder, tuple(in_order(findings)))


def refuse_errors(
    folder: Survey, progress: Progress = SILENT, given: Sequence[str] = ()
) -> list[Finding]:
    """The fast part of the check, for a training: refuse errors, say warnings, return them all.

    `given` is what the command that is told is given: the folder, if not flags beside it.

    Raises:
        DataError: there are errors; all are listed.
    """
    findings = in_order(finding for inspect in FACT_CHECKS for finding in inspect(folder))
    errors = [finding.summary for finding in findings if finding.severity == "error"]
    words = " ".join(given) or shlex.quote(str(folder.data))
    tell = f"`unetseg check {words}` lists the files and the fixes."
    if errors:
        raise DataError(f"{printable(folder.data)} cannot be trained on", errors, tell)
    warnings = [finding.summary for finding in findings if finding.severity == "warning"]
    for warning in warnings:
        progress.say(f"warning: {warning}")
    if warnings:
        progress.say(tell)
    return findings
