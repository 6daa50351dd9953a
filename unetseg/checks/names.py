"""Names that do not pair, and names that will make trouble on other machines."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from unetseg.checks.evidence import Evidence
from unetseg.checks.finding import Finding, listed
from unetseg.data.pairs.mismatch import (
    FIXES,
    NO_IMAGE,
    NO_MASK,
    SAME_NAME,
    SEVERAL_MASKS,
    UNLIKE,
    Fault,
    counted,
    fold,
    group_faults,
)
from unetseg.text import plural

_CHECKS = {
    SAME_NAME: "same-name",
    UNLIKE: "unlike-names",
    SEVERAL_MASKS: "several-masks",
    NO_MASK: "image-without-mask",
    NO_IMAGE: "mask-without-image",
}
_WHO = {  # one, several
    SAME_NAME: ("group of files", "groups of files"),
    UNLIKE: ("couple of image and mask", "couples of image and mask"),
    SEVERAL_MASKS: ("image", "images"),
}
# Line breaks and control characters, marks that turn text around, bytes that are no UTF-8.
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_FIX = "unetseg check DATA --fix OUT"
_FORBIDDEN = re.compile(r'[<>:"|?*\\]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)", re.IGNORECASE)


def inspect_names(root: Path, faults: Sequence[Fault]) -> Iterator[Finding]:
    """One finding for each kind of fault in the pairing of `root`; training refuses them all."""
    for kind, found in group_faults(faults).items():
        yield Finding(
            check=_CHECKS[kind],
            severity="error",
            summary=_counted(len(found), kind),
            files=listed(fault.line(root) for fault in found),
            fix=FIXES[kind],
            command=_FIX if kind == UNLIKE else "",
        )


def _counted(count: int, kind: str) -> str:
    if kind not in _WHO:
        return counted(count, kind)
    return f"{count} {_WHO[kind][count > 1]} {kind}"


def inspect_portability(evidence: Evidence) -> Iterator[Finding]:
    """Names that other file systems confuse or refuse; no file is read."""
    sides = [
        [_inner(pair.image, evidence.root) for pair in evidence.pairs],
        [_inner(pair.mask, evidence.root) for pair in evidence.pairs if pair.mask is not None],
    ]
    paths = sorted({path for side in sides for path in side})
    yield from _inspect_collisions(paths)
    yield from _inspect_stems(sides)
    yield from _inspect_unseen(paths)
    yield from _inspect_spaces(paths)
    yield from _inspect_windows(paths)


def _inner(path: Path, root: Path) -> Path:
    return path.relative_to(root) if root in path.parents else path


def _inspect_collisions(paths: Iterable[Path]) -> Iterator[Finding]:
    crowds = _alike(paths, lambda path: tuple(fold(part) for part in path.parts))
    if crowds:
        yield Finding(
            check="colliding-names",
            severity="warning",
            summary=f"{plural(len(crowds), 'name')} of several files, different only in case or "
            "Unicode form: Windows and macOS keep one of each",
            files=listed(", ".join(map(str, crowd)) for crowd in crowds),
            fix="Before the folder is copied, give each a name of its own, or let the command do "
            "so.",
            command=_FIX,
        )


def _inspect_stems(sides: Iterable[Iterable[Path]]) -> Iterator[Finding]:
    crowds = [crowd for side in sides for crowd in _alike(set(side), lambda p: p.with_suffix(""))]
    if crowds:
        yield Finding(
            check="same-stem",
            severity="note",
            summary=f"{plural(len(crowds), 'name')} of files that differ only in their suffix; "
            "what is predicted for them is called after both",
            files=listed(", ".join(map(str, crowd)) for crowd in crowds),
            fix="Give each a name of its own, unless one is a copy of the other.",
        )


def _inspect_unseen(paths: Iterable[Path]) -> Iterator[Finding]:
    found = [path for path in paths if UNSEEN.search(str(path))]
    if found:
        yield Finding(
            check="unseen-characters",
            severity="warning",
            summary=f"{plural(len(found), 'name')} with line breaks or other characters that are "
            "not seen, which break lists and scripts",
            files=listed(found),
            fix="Rename these files, or let the command do so.",
            command=_FIX,
        )


def _inspect_spaces(paths: Iterable[Path]) -> Iterator[Finding]:
    found = [path for path in paths if any(name != name.strip(" ") for name in _names(path))]
    if found:
        yield Finding(
            check="outer-spaces",
            severity="note",
            summary=f"{plural(len(found), 'name')} with a space at the beginning or end, which "
            "tables and scripts cut off",
            files=listed(f'"{path}"' for path in found),
            fix="Rename these files.",
        )


def _inspect_windows(paths: Iterable[Path]) -> Iterator[Finding]:
    reasons = {path: _refused(path) for path in paths}
    found = [f"{path}: {reason}" for path, reason in reasons.items() if reason]
    if found:
        yield Finding(
            check="unportable-names",
            severity="note",
            summary=f"{plural(len(found), 'name')} that Windows refuses",
            files=listed(found),
            fix="Rename these files if the folder is to be used there.",
        )


def _refused(path: Path) -> str:
    """Why Windows cannot have a file of this name, or nothing."""
    if any(map(_FORBIDDEN.search, _parts(path))):
        return 'one of < > : " | ? * \\'
    return "the name of a device" if any(map(_DEVICES.match, _parts(path))) else ""


def _names(path: Path) -> list[str]:
    """The names of the folders, and that of the file without its suffix."""
    return [*_parts(path)[:-1], path.stem]


def _parts(path: Path) -> list[str]:
    return [part for part in path.parts if part != path.anchor]


def _alike(paths: Iterable[Path], key: Callable[[Path], object]) -> list[list[Path]]:
    """Groups of several paths with one key."""
    groups: dict[object, list[Path]] = defaultdict(list)
    for path in sorted(paths):
        groups[key(path)].append(path)
    return [group for group in groups.values() if len(group) > 1]
