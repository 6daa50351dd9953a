"""Names that do not pair, and names that will make trouble on other machines."""

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path

from unetseg.checks.finding import FIX, Finding, Kind, Line, by_kind, note, refusal, warning
from unetseg.data.facts.survey import Survey
from unetseg.data.files.folders import below
from unetseg.data.files.pages import file_of, files_of
from unetseg.data.pairs.match import NO_IMAGE, NO_MASK, SEVERAL
from unetseg.data.pairs.naming import fold
from unetseg.text import plural

# Line breaks and control characters, marks without width or that turn text around, bytes that are
# no UTF-8. Joiners (\u200c, \u200d) are part of how words and emoji are written.
UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)
_EMPTY = ("--unpaired empty",)
_FORBIDDEN = re.compile(r'[<>:"|?*\\]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)", re.IGNORECASE)


def inspect_names(survey: Survey) -> Iterator[Finding]:
    """Why nothing pairs, or else what takes no part, by its reason."""
    if survey.faults.pairing:
        yield refusal("pairing", survey.faults.pairing)
    reasons: dict[str, list[Path]] = defaultdict(list)
    for path, why in survey.pairs.left_out:
        reasons[why].append(below(path, survey.data))
    no_mask = "Add the masks; where these images show no object, say so."
    no_image = "Add the images, or move these masks away."
    for why, check, fix, flags in (
        (NO_MASK, "image-without-mask", no_mask, _EMPTY),
        (NO_IMAGE, "mask-without-image", no_image, ()),
        (SEVERAL, "several-masks", "Keep the mask that is meant, or unite them.", ()),
    ):
        if paths := reasons.pop(why, None):
            summary = f"{plural(len(paths), 'file')} left out: {why}"
            yield warning(check, summary, paths, fix, flags)
    for why, paths in reasons.items():
        yield note("left-out", f"{plural(len(paths), 'file')} left out: {why}", paths)


def inspect_splits(survey: Survey) -> Iterator[Finding]:
    """Why the pairs cannot be split, or that none is left to validate on."""
    if survey.faults.splits:
        yield refusal("splits", survey.faults.splits)
    train = [pair.image for pair in survey.pairs.pairs if pair.split == "train"]
    if train and survey.select("val") == survey.select("train"):
        what = "it is the only pair" if len(train) == 1 else "all pairs are copies of one"
        yield warning(
            "no-validation",
            f"validation is on the image that trains, since {what}: its score says nothing about "
            "new images",
            [below(path, survey.data) for path in train],
            "Add pairs, or cut the image and its mask into parts: what is held out must be another "
            "part.",
        )


_NAMES = {
    "colliding-names": Kind(
        "warning",
        "name",
        "of several files, different only in case or Unicode form: Windows and macOS keep one of "
        "each",
        "Before the folder is copied, give each a name of its own, or let the command do so.",
        FIX,
    ),
    "same-stem": Kind(
        "note",
        "name",
        "of files that differ only in their suffix; what is predicted for them is called after "
        "both",
        "Give each a name of its own, unless one is a copy of the other.",
    ),
    "unseen-characters": Kind(
        "warning",
        "name",
        "with line breaks or other characters that are not seen, which break lists and scripts",
        "Rename these files, or let the command do so.",
        FIX,
    ),
    "outer-spaces": Kind(
        "note",
        "name",
        "with a space at the beginning or end, which tables and scripts cut off",
        "Rename these files.",
    ),
    "unportable-names": Kind(
        "note",
        "name",
        "that Windows refuses",
        "Rename these files if the folder is to be used there.",
    ),
}


def inspect_portability(survey: Survey) -> Iterator[Finding]:
    """Names that other file systems confuse or refuse; no file is read.

    Some become one where neither case nor Unicode form counts, or without suffix.
    """
    pairs = survey.pairs.pairs
    images = {below(file_of(pair.image), survey.data) for pair in pairs}
    masks = {below(f, survey.data) for pair in pairs if pair.mask for f in files_of(pair.mask)}
    paths = sorted(images | masks)
    groups: dict[str, list[Line]] = defaultdict(list)
    groups["colliding-names"] += _alike((tuple(map(fold, path.parts)), path) for path in paths)
    for side in (images, masks):
        groups["same-stem"] += _alike((path.with_suffix(""), path) for path in sorted(side))
    for path in paths:
        parts = [part for part in path.parts if part != path.anchor]
        if UNSEEN.search(str(path)):
            groups["unseen-characters"].append(path)
        if any(name != name.strip(" ") for name in (*parts[:-1], path.stem)):
            groups["outer-spaces"].append(('"', path, '"'))
        if any(map(_FORBIDDEN.search, parts)):
            groups["unportable-names"].append((path, ': one of < > : " | ? * \\'))
        elif any(map(_DEVICES.match, parts)):
            groups["unportable-names"].append((path, ": the name of a device"))
    yield from by_kind(_NAMES, groups)


def _alike(keyed: Iterable[tuple[Hashable, Path]]) -> list[str]:
    """A line for each group of several paths with one key."""
    groups: dict[Hashable, list[Path]] = defaultdict(list)
    for key, path in keyed:
        groups[key].append(path)
    return [", ".join(map(str, group)) for group in groups.values() if len(group) > 1]
