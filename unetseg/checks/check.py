"""What is wrong with a folder of pairs, and the fix for each finding.

`check_folder` reads every file in full and goes on where training would stop: one look tells all.
`inspect` is the fast part, on what training knows anyway. `write_fixed` writes a fixed copy.
"""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from unetseg.checks.alignment import inspect_alignment
from unetseg.checks.balance import inspect_balance
from unetseg.checks.duplicates import inspect_duplicates
from unetseg.checks.evidence import Evidence
from unetseg.checks.files import inspect_entries, inspect_files, inspect_formats
from unetseg.checks.finding import Finding, Severity, in_order, listed
from unetseg.checks.fix import Fixed, check_target, write_fixes
from unetseg.checks.leakage import inspect_leakage
from unetseg.checks.names import inspect_names, inspect_portability
from unetseg.checks.pixels import inspect_pixels
from unetseg.checks.sizes import inspect_sizes
from unetseg.checks.values import inspect_coding
from unetseg.config import DataConfig
from unetseg.data.facts.fingerprint import PairFacts, describe_pairs
from unetseg.data.facts.survey import Survey, class_names, split_facts, split_sentence
from unetseg.data.files.limits import allow_pixels
from unetseg.data.masks.class_map import ClassMap
from unetseg.data.masks.infer_classes import ClassNames, infer_class_map
from unetseg.data.pairs.description import described, honoured, join_described, match_described
from unetseg.data.pairs.match import Pair, PairSet
from unetseg.data.pairs.mismatch import UNLIKE, Fault
from unetseg.errors import ConfigError, DataError, MaskError, PairingError
from unetseg.progress import SILENT, Progress
from unetseg.text import printable


@dataclass(frozen=True)
class Report:
    """Everything that was noticed about a folder.

    Attributes:
        root: The folder.
        findings: The worst first.
        evidence: The pairs that could be read.
        faults: Names that do not pair.
        unread: Files that cannot be read, and why.
        found: Everything that pairs by name; None where nothing could be said.
        rules: What was concluded, one sentence each.
        known: The folder as training takes it; None where it would refuse.
    """

    root: Path
    findings: tuple[Finding, ...]
    evidence: Evidence
    faults: tuple[Fault, ...] = ()
    unread: tuple[DataError, ...] = ()
    found: PairSet | None = None
    rules: tuple[str, ...] = ()
    known: Survey | None = None

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """The findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        return {
            "data": str(self.root),
            "pairs": len(self.evidence.pairs),
            "rules": list(self.rules),
            "findings": [finding.to_json() for finding in self.findings],
        }


def check_folder(
    data: Path, config: DataConfig | None = None, progress: Progress = SILENT
) -> Report:
    """Look at everything in the folder `data`, and go on past what is wrong.

    Raises:
        PairingError: there is no such folder.
        ConfigError: a setting or dataset.yaml is wrong.
    """
    config = described(data, config or DataConfig())
    allow_pixels(config.max_pixels)
    keys = honoured(data, config)
    told = [f"dataset.yaml: {', '.join(keys)}"] if keys else []
    entries = list(inspect_entries(data))
    try:
        found, faults = match_described(data, config)
    except PairingError as error:
        if not data.exists():
            raise
        findings = [*entries, _refusal("pairing", error)]
        return Report(data, tuple(in_order(findings)), Evidence(data, (), ()))
    for rule in (*told, f"pairs: {found.rule}"):
        progress.say(rule)
    facts, unread = _read(found.pairs, progress)
    understood = _understand(data, found, facts, config)
    findings = [
        *entries,
        *inspect_names(data, faults),
        *inspect_files(_without_told(unread, data, found)),
        *understood.findings,
        *inspect(understood.evidence),
        *inspect_alignment(understood.evidence, progress),
    ]
    rules = (*told, found.rule, *understood.rules)
    for rule in understood.rules:
        progress.say(rule)
    evidence, ordered = understood.evidence, tuple(in_order(findings))
    report = Report(data, ordered, evidence, faults, tuple(unread), found, rules)
    return report if report.of("error") else replace(report, known=_known(report, found))


def inspect(evidence: Evidence) -> Iterator[Finding]:
    """Every check that reads no image again."""
    yield from inspect_portability(evidence)
    yield from inspect_formats(evidence)
    yield from inspect_sizes(evidence)
    yield from inspect_pixels(evidence)
    if evidence.class_map is not None:
        yield from inspect_balance(evidence)
    yield from inspect_duplicates(evidence)
    yield from inspect_leakage(evidence)


def refuse_errors(known: Survey, progress: Progress = SILENT) -> None:
    """The fast part of the check, for a training: refuse errors, and say warnings.

    Raises:
        DataError: there are errors; all are listed.
    """
    pairs = known.pairs.pairs
    facts = tuple(known.facts[pair.name] for pair in pairs)
    root, class_map = known.pairs.root, known.class_map
    evidence = Evidence(root, pairs, facts, class_map, known.named, known.own_splits)
    findings = in_order([*inspect_coding(evidence), *inspect(evidence)])
    errors = [finding for finding in findings if finding.severity == "error"]
    tell = f"`unetseg check {shlex.quote(str(root))}` lists the files and the fixes."
    if errors:
        raise DataError(
            f"{printable(root)} cannot be trained on", [e.summary for e in errors], tell
        )
    warnings = [finding for finding in findings if finding.severity == "warning"]
    for finding in warnings:
        progress.say(f"warning: {finding.summary}")
    if warnings:
        progress.say(tell)


def write_fixed(
    report: Report, config: DataConfig, out: Path, progress: Progress = SILENT
) -> Fixed:
    """Write a fixed copy of a folder that was looked at; see `write_fixes`.

    Raises:
        MaskError: the masks' values make no sense, even when stray ones are snapped.
        MachineError: `out` holds something, lies in the folder, or cannot be written.
        DataError: no pair can be fixed.
    """
    config = described(report.root, config)
    for source in filter(None, (report.root, config.images, config.masks)):
        check_target(source, out)
    left_out = [fault.line(report.root) for fault in report.faults if fault.kind != UNLIKE]
    left_out += [error.summary for error in report.unread]
    evidence, unread = _whole(report, config)
    left_out += [error.summary for error in unread]
    if not evidence.pairs:
        raise DataError("no pair can be fixed", listed(left_out), "Fix the files by hand.")
    class_map = _sense(evidence, config)
    return write_fixes(evidence, class_map, out, config, left_out, progress)


def _whole(report: Report, config: DataConfig) -> tuple[Evidence, list[DataError]]:
    """What can be read of all pairs, also those with unlike names, with none but their own splits.

    Also what is wrong with those that cannot be read.
    """
    facts = {
        p.image: fact for p, fact in zip(report.evidence.pairs, report.evidence.facts, strict=True)
    }
    if report.found is None:
        return report.evidence, []
    joined = join_described(report.found, report.faults, report.root, config)
    unlike = {fault.paths[0] for fault in report.faults if fault.kind == UNLIKE}
    more, unread = _read([pair for pair in joined.pairs if pair.image in unlike], SILENT)
    facts |= {pair.image: fact for pair, fact in more.items()}
    pairs = tuple(pair for pair in joined.pairs if pair.image in facts)
    return Evidence(report.root, pairs, tuple(facts[pair.image] for pair in pairs)), unread


def _sense(evidence: Evidence, config: DataConfig) -> ClassMap:
    """What the mask values mean; where they make no sense, once stray ones are snapped."""
    names = class_names(evidence.root, config)
    try:
        return _conclude(evidence, names, config, snap=config.snap)[0]
    except MaskError:
        return _conclude(evidence, names, config, snap=True)[0]


def _read(
    pairs: Sequence[Pair], progress: Progress
) -> tuple[dict[Pair, PairFacts], list[DataError]]:
    """The facts of the pairs that can be read, and what is wrong with the others."""
    described_pairs = describe_pairs(pairs, progress)
    couples = zip(pairs, described_pairs, strict=True)
    facts = {pair: fact for pair, fact in couples if not isinstance(fact, list)}
    unread = [fault for fact in described_pairs if isinstance(fact, list) for fault in fact]
    return facts, unread


@dataclass
class _Understood:
    """What mask values and splits tell, as far as they make sense."""

    evidence: Evidence
    findings: list[Finding] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)


def _understand(
    data: Path, found: PairSet, facts: dict[Pair, PairFacts], config: DataConfig
) -> _Understood:
    """Conclude what the masks mean, and draw the splits, as `survey` does."""
    evidence = Evidence(data, tuple(facts), tuple(facts.values()))
    result = _Understood(evidence)
    if not facts:
        return result
    names = class_names(data, config)
    try:
        class_map, sentence = _conclude(evidence, names, config, snap=config.snap)
    except MaskError as error:
        can_snap = _can_snap(evidence, names, config)
        result.findings += inspect_coding(evidence, error, can_snap=can_snap)
        return result
    own = any(pair.split for pair in facts)
    result.evidence = replace(evidence, class_map=class_map, names=bool(names), own_splits=own)
    result.findings += inspect_coding(result.evidence)
    result.rules.append(sentence)
    try:
        pairs = split_facts(
            replace(found, pairs=tuple(facts)), list(facts.values()), class_map, config.val_fraction
        )
    except (PairingError, ConfigError) as error:
        result.findings.append(_refusal("splits", error))
        return result
    result.evidence = replace(result.evidence, pairs=pairs.pairs)
    result.rules.append(split_sentence(pairs))
    return result


def _conclude(
    evidence: Evidence, names: ClassNames | None, config: DataConfig, *, snap: bool
) -> tuple[ClassMap, str]:
    """What the mask values mean, and the sentence that says so."""
    masks = [fact.mask for fact in evidence.facts]
    return infer_class_map(masks, names=names, ignore=config.ignore, snap=snap)


def _can_snap(evidence: Evidence, names: ClassNames | None, config: DataConfig) -> bool:
    """Whether the masks make sense once stray values are snapped."""
    try:
        _conclude(evidence, names, config, snap=True)
    except MaskError:
        return False
    return True


def _known(report: Report, found: PairSet) -> Survey | None:
    """The folder as training takes it."""
    evidence = report.evidence
    if evidence.class_map is None:
        return None
    facts = {p.name: fact for p, fact in zip(evidence.pairs, evidence.facts, strict=True)}
    pairs = replace(found, pairs=evidence.pairs)
    own, named = evidence.own_splits, evidence.names
    return Survey(pairs, facts, evidence.class_map, report.rules, own, named)


def _without_told(unread: list[DataError], data: Path, found: PairSet) -> list[DataError]:
    """The errors but for those about entries that are no files, which `inspect_entries` tells."""
    paths = chain.from_iterable((pair.image, pair.mask) for pair in found.pairs)
    told = {path for path in paths if path and data in path.parents and not path.is_file()}
    return [error for error in unread if told.isdisjoint(error.paths)]


def _refusal(check: str, error: DataError | ConfigError) -> Finding:
    """An error of training as a finding."""
    return Finding(check, "error", error.summary, listed(error.offenders), error.fix)
