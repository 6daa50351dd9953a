"""Files that cannot be read, entries of a folder that are no files, and contents to know about."""

import errno
import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unetseg.checks.evidence import Evidence
from unetseg.checks.finding import Finding, Severity, listed
from unetseg.data.facts.fingerprint import NO_NUMBERS, ImageFacts
from unetseg.data.files.images import IMAGE_SUFFIXES
from unetseg.data.files.limits import BOMB
from unetseg.errors import DataError
from unetseg.text import plural

SUFFIXES: dict[str, tuple[str, ...]] = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2",),
}
"""The suffixes that say what a file holds, the usual one first."""

_TURNED = frozenset({5, 6, 7, 8})  # orientations that swap the sides


# Files that cannot be read


_FAILURES = {  # code of the error: what is at fault, and what is wrong with it
    BOMB: ("image", "over the limit for decompression bombs"),
    "several-pages": ("file", "with several images"),
    "empty-file": ("empty file", ""),
    "no-image": ("file", "whose content is no image"),
    "no-regular-file": ("path", "to no regular file"),
    "missing-file": ("missing file", ""),
    "no-permission": ("file", "without permission to read"),
    "nan-pixels": ("image", f"with {NO_NUMBERS}"),
    "unreadable-file": ("truncated or damaged file", ""),
    "mask-values": ("mask", "whose values are no class numbers"),
    "unusable-file": ("file", "that training has no use for"),
}


def inspect_files(failures: Sequence[DataError]) -> Iterator[Finding]:
    """The files that cannot be read, one finding for each way in which they fail."""
    groups: dict[str, list[DataError]] = defaultdict(list)
    for error in failures:
        groups[error.code if error.code in _FAILURES else "unusable-file"].append(error)
    for check in filter(groups.__contains__, _FAILURES):
        errors, (noun, remark) = groups[check], _FAILURES[check]
        fix = " ".join(dict.fromkeys(error.fix for error in errors if error.fix))
        if check == BOMB:  # one limit that lets all pass
            limit = max(error.came for error in errors if isinstance(error.came, int))
            fix = f"If you trust the files, allow them by --max-pixels {limit}."
        yield Finding(
            check=check,
            severity="error",
            summary=f"{plural(len(errors), noun)} {remark}".rstrip(),
            files=listed(dict.fromkeys(error.summary for error in errors)),
            fix=fix,
        )


# Entries of a folder


@dataclass(frozen=True)
class _Entry:
    """One way in which an entry of a folder is no file or folder to be read."""

    check: str
    severity: Severity
    noun: str
    remark: str
    fix: str


_NO_FILE = _Entry(
    "no-regular-file",
    "error",
    "image",
    "behind broken links, pipes or the like",
    "Restore the files or remove the entries.",
)
_LEADS_NOWHERE = _Entry(
    "broken-link",
    "warning",
    "link",
    "leading nowhere, perhaps once to a folder of images",
    "Restore what they lead to, or remove them.",
)
_FORBIDDEN = _Entry(
    "no-permission",
    "error",
    "file or folder",
    "without permission to read",
    "Give yourself the permission (chmod -R u+rX FOLDER), or take them out.",
)
_LOOP = _Entry("link-loop", "note", "link", "to a folder above, left out", "")


def inspect_entries(root: Path) -> Iterator[Finding]:
    """Links that lead nowhere or in a circle, pipes, and what may not be read, in `root` and below.

    No file is opened, so that nothing is waited for; hidden entries are left out.
    """
    groups: dict[_Entry, list[str]] = defaultdict(list)
    if root.is_dir():
        for kind, line in _walk(root, frozenset(map(_identity, root.resolve().parents)), set()):
            groups[kind].append(line)
    for kind in filter(groups.__contains__, (_NO_FILE, _LEADS_NOWHERE, _FORBIDDEN, _LOOP)):
        yield Finding(
            check=kind.check,
            severity=kind.severity,
            summary=f"{plural(len(groups[kind]), kind.noun)} {kind.remark}",
            files=listed(groups[kind]),
            fix=kind.fix,
        )


_Place = tuple[int, int]  # device and number on it, which tell a folder whatever its name


def _identity(folder: Path) -> _Place:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _walk(
    folder: Path, above: frozenset[_Place], seen: set[_Place]
) -> Iterator[tuple[_Entry, str]]:
    """What is odd in a folder; each is entered once, and none that lies above."""
    try:
        here, entries = _identity(folder), sorted(folder.iterdir())
    except OSError as error:
        yield _FORBIDDEN, f"{folder}: {error.strerror}"
        return
    if here in above:
        yield _LOOP, f"{folder}: a link to {folder.resolve()}"
    if here in above or here in seen:
        return
    seen.add(here)
    for entry in entries:
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            continue
        if entry.is_dir():
            yield from _walk(entry, above | {here}, seen)
        else:
            yield from _inspect_entry(entry)


def _inspect_entry(entry: Path) -> Iterator[tuple[_Entry, str]]:
    is_image = entry.suffix.lower() in IMAGE_SUFFIXES
    try:
        mode = entry.stat().st_mode
    except OSError as error:
        yield _NO_FILE if is_image else _LEADS_NOWHERE, f"{entry}: {_reason(entry, error)}"
        return
    if is_image and not stat.S_ISREG(mode):
        yield _NO_FILE, f"{entry}: {_species(mode)}"
    elif is_image and not os.access(entry, os.R_OK):
        yield _FORBIDDEN, f"{entry}: {os.strerror(errno.EACCES)}"


def _reason(entry: Path, error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "a link that leads to itself"
    if error.errno == errno.ENOENT and entry.is_symlink():
        return f"a link to {entry.readlink()}, which is not there"
    return str(error.strerror)


def _species(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


# Contents to know about


def inspect_formats(evidence: Evidence) -> Iterator[Finding]:
    """Suffixes that lie, images that are stored turned, and bands that other programs overlook."""
    yield from _inspect_suffixes(evidence)
    yield from _inspect_orientations(evidence)
    yield from _inspect_bands(evidence)


def _inspect_suffixes(evidence: Evidence) -> Iterator[Finding]:
    contents: dict[Path, str] = {}
    for pair, fact in zip(evidence.pairs, evidence.facts, strict=True):
        contents[pair.image] = fact.image.format
        if pair.mask is not None:
            contents[pair.mask] = fact.mask.format
    lines = [
        f"{path}: the content is {kind}, so {SUFFIXES[kind][0]}"
        for path, kind in contents.items()
        if kind in SUFFIXES and path.suffix.lower() not in SUFFIXES[kind]
    ]
    if lines:
        yield Finding(
            check="wrong-suffix",
            severity="warning",
            summary=f"{plural(len(lines), 'file')} with the suffix of another content, which other "
            "programs may refuse",
            files=listed(lines),
            fix="Rename them, or let the command do so.",
            command="unetseg check DATA --fix OUT",
        )


def _inspect_orientations(evidence: Evidence) -> Iterator[Finding]:
    """Where only the upright image fits its mask all is well; where both do, nobody knows."""
    sure: list[str] = []
    unsure: list[str] = []
    for pair, fact in zip(evidence.pairs, evidence.facts, strict=True):
        if fact.image.orientation > 1 and fact.image.shape == fact.mask.shape:
            line = f"{pair.image}: orientation {fact.image.orientation}"
            (sure if _is_told_by_size(fact.image) else unsure).append(line)
    if sure:
        yield Finding(
            check="stored-turned",
            severity="note",
            summary=f"{plural(len(sure), 'image')} stored on the side (EXIF), with masks that fit "
            "the upright picture: they are turned upright",
            files=listed(sure),
        )
    if unsure:
        yield Finding(
            check="perhaps-turned",
            severity="warning",
            summary=f"{plural(len(unsure), 'image')} stored turned or mirrored (EXIF), with masks "
            "of a size that fits both ways: they are turned upright, the masks are not",
            files=listed(unsure),
            fix="Look whether masks and pictures lie on each other; if not, turn the masks.",
            command="unetseg check DATA --preview sheet.png",
        )


def _is_told_by_size(image: ImageFacts) -> bool:
    """Whether the picture has another size when it is not turned upright."""
    return image.orientation in _TURNED and image.shape[0] != image.shape[1]


def _inspect_bands(evidence: Evidence) -> Iterator[Finding]:
    lines = [
        f"{pair.image}: {fact.image.pillow_bands} of {fact.image.bands}"
        for pair, fact in zip(evidence.pairs, evidence.facts, strict=True)
        if fact.image.pillow_bands is not None and fact.image.pillow_bands < fact.image.bands
    ]
    if lines:
        yield Finding(
            check="unseen-bands",
            severity="note",
            summary=f"{plural(len(lines), 'image')} of which Pillow, and programs built on it, "
            "read fewer bands than there are; all of them are used here",
            files=listed(lines),
        )
